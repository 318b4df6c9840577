"""Acknowledgements: how far a log is billed and proven to be one history, and what was signed for it.

Invariant: each acknowledgement that is handed out is kept first; the newest of a size is in force.
"""

from licenses.ack import Ack
from licenses.authority.arrivals import per_meter
from licenses.authority.audit_trail import AuditTrail
from licenses.authority.database import Transaction
from licenses.authority.stretches import billed_stretches, charged, missing_before, note_at, signed_for
from licenses.strict_json import instant_text


class Acknowledgements:
    """Knows what can be acknowledged, and keeps what was.

    Args:
        trail: What acknowledgements are written to.
    """

    def __init__(self, trail: AuditTrail) -> None:
        self._trail = trail

    def ackable(self, tx: Transaction, origin: str) -> tuple[int, str] | None:
        """The largest size up to which every entry is billed and proven to continue the one before, and its note."""
        found = at = signed_for(tx, origin)
        for row in tx.query(
            """SELECT s.since, s.size, s.linked
                 OR EXISTS(SELECT 1 FROM verified v WHERE v.origin = s.origin AND v.since = s.since)
                 OR EXISTS(SELECT 1 FROM link l WHERE l.origin = s.origin AND l.size = s.since) AS linked,
                 EXISTS(SELECT 1 FROM checkpoint c WHERE c.origin = s.origin AND c.size = s.size) AS noted
               FROM span s WHERE s.origin = ? AND s.size > ? ORDER BY s.since""",
            [origin, at],
        ):
            if row["since"] > at or not row["linked"]:
                break
            at = row["size"]
            found = at if row["noted"] else found
        note = note_at(tx, origin, found)
        return None if note is None else (found, note)

    def is_ackable(self, tx: Transaction, origin: str, size: int) -> bool:
        """Whether all of [0, size) is billed, without a hole, and there is a checkpoint of it."""
        found = self.ackable(tx, origin)
        if found is None or size > found[0] or note_at(tx, origin, size) is None:
            return False
        return any(span.size == size for span in billed_stretches(tx, origin, size - 1, size))

    def newest(self, tx: Transaction, origin: str, size: int) -> bytes | None:
        """The newest acknowledgement at a size."""
        row = tx.one("SELECT blob FROM ack WHERE origin = ? AND size = ? ORDER BY seq DESC LIMIT 1", [origin, size])
        return None if row is None else bytes(row["blob"])

    def keep(self, tx: Transaction, ack: Ack, blob: bytes) -> None:
        """Remember an acknowledgement that is about to be handed out."""
        tx.execute(
            "INSERT INTO ack(origin, size, at, blob) VALUES (?, ?, ?, ?)",
            [ack.origin, ack.size, instant_text(ack.acknowledged_at), blob],
        )
        facts = {"size": ack.size, "root": ack.root.hex(), "totals": dict(ack.totals), "license": bool(ack.license)}
        self._trail.record(tx, "ack.give", ack.origin, facts)

    def totals(self, tx: Transaction, origin: str, size: int) -> dict[str, int]:
        """Units per meter over the entries [0, size), as far as they are known."""
        return per_meter(charged(tx, origin, 0, size))

    def note(self, tx: Transaction, origin: str, size: int) -> str | None:
        """The device's checkpoint at a size; None if it never came."""
        return note_at(tx, origin, size)

    def missing(self, tx: Transaction, origin: str, size: int) -> list[tuple[int, int]]:
        """The stretches of [0, size) that never arrived, and that no acknowledgement covers either."""
        return missing_before(tx, origin, size)
