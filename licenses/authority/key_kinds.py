"""Whether the vendor's keys were for evaluation, and when: what a closed statement says of it stays so.

Invariant: a row is written only when the kind changes, and never with a time before that of the row before it. So what
is told of a moment is not changed by what comes later.
"""

from datetime import datetime

from licenses.authority.database import Database, Transaction
from licenses.authority.vendor_keys import VendorKeys
from licenses.strict_json import instant_text


def note_key_kind(tx: Transaction, keys: VendorKeys, at: datetime) -> None:
    """Remember what kind of keys the books are kept with.

    Args:
        tx: The change that the keys are used for.
        keys: The vendor's.
        at: UTC instant of the change.

    Raises:
        AuthorityError: The database refused it.
    """
    newest = tx.one("SELECT at, evaluation FROM key_kind ORDER BY seq DESC LIMIT 1")
    if newest is None or bool(newest["evaluation"]) != keys.evaluation:
        told_at = instant_text(at) if newest is None else max(instant_text(at), newest["at"])
        tx.execute("INSERT INTO key_kind(at, evaluation) VALUES (?, ?)", [told_at, int(keys.evaluation)])


def evaluation_at(database: Database, at: datetime) -> bool:
    """Whether the keys were for evaluation at a UTC instant; no, where nobody knows.

    Raises:
        AuthorityError: The database refused it.
    """
    row = database.one("SELECT evaluation FROM key_kind WHERE at <= ? ORDER BY seq DESC LIMIT 1", [instant_text(at)])
    return row is not None and bool(row["evaluation"])
