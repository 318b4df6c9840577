"""The ledger: every page once, in SQLite, durable before anybody sees a result.

Invariant: this package alone touches the ledger's database (and `sqlite_utils`). Entries are appended, never changed
or removed; their sequence numbers have no holes.
"""

from sidecar.ledger.ledger import (
    Ledger,
    LedgerSnapshot,
    PendingRecord,
    UseEvent,
    prepare,
)

__all__ = ["Ledger", "LedgerSnapshot", "PendingRecord", "UseEvent", "prepare"]
