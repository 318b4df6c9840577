"""The ledger: every page once, in SQLite, durable before anybody sees a result.

Invariant: this package alone touches the ledger's database (and `sqlite_utils`). Entries are appended, never changed
or removed; their sequence numbers have no holes.
"""

from sidecar.ledger.ledger import Ledger, prepare
from sidecar.ledger.queries import LedgerReader
from sidecar.ledger.use_form import API_TYPE, CONTAINER_TYPE
from sidecar.ledger.values import Acked, LedgerSnapshot, PendingRecord, SealedWindow, UseEvent

__all__ = [
    "API_TYPE",
    "CONTAINER_TYPE",
    "Acked",
    "Ledger",
    "LedgerReader",
    "LedgerSnapshot",
    "PendingRecord",
    "SealedWindow",
    "UseEvent",
    "prepare",
]
