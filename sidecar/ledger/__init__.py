"""The ledger: every page once, in SQLite, durable before anybody sees a result.

Invariant: this package alone touches the ledger's database (and `sqlite_utils`). Entries are appended, never changed
or removed; their sequence numbers have no holes.
"""

from sidecar.ledger.check import LedgerFinding, LedgerReport, check_ledger, is_small, look_over
from sidecar.ledger.database import damage_path, note_damage, recount_path
from sidecar.ledger.kept import KEPT_NAME, KeptSeal
from sidecar.ledger.ledger import Ledger, prepare
from sidecar.ledger.queries import LedgerReader
from sidecar.ledger.repair import Repair
from sidecar.ledger.start import Started, start_ledger
from sidecar.ledger.use_form import API_TYPE, CONTAINER_TYPE
from sidecar.ledger.values import Acked, Delivered, LedgerSnapshot, PendingRecord, SealedWindow, UseEvent

__all__ = [
    "API_TYPE",
    "CONTAINER_TYPE",
    "KEPT_NAME",
    "Acked",
    "Delivered",
    "KeptSeal",
    "Ledger",
    "LedgerFinding",
    "LedgerReader",
    "LedgerReport",
    "LedgerSnapshot",
    "PendingRecord",
    "Repair",
    "SealedWindow",
    "Started",
    "UseEvent",
    "check_ledger",
    "damage_path",
    "is_small",
    "look_over",
    "note_damage",
    "prepare",
    "recount_path",
    "start_ledger",
]
