"""Reports behind a hole: billed when they come, and of the log's history only once the hole is filled.

Invariants:

* What continues the log from its first entry on is its history. Nothing that waits behind a hole can keep it out.
* What waited and is of another history is taken back by rows that say the opposite, and is a finding.
"""

from datetime import datetime

from licenses.authority.arrivals import Source
from licenses.authority.audit_trail import AuditTrail
from licenses.authority.claims import settle_claims
from licenses.authority.database import Transaction
from licenses.authority.findings import Findings
from licenses.authority.forks import keep_fork, known_roots, proof_of_fork
from licenses.authority.stretches import (
    ENDLESS,
    Unsettled,
    billed_stretches,
    note_at,
    settle,
    signed_for,
    uncovered,
    unsettled_stretches,
)
from licenses.strict_json import instant_text
from licenses.usage_log.report import Severity


class Holes:
    """Settles what waits behind holes.

    Args:
        trail: What is taken back is written to it.
    """

    def __init__(self, trail: AuditTrail) -> None:
        self._trail = trail

    def is_settled(self, tx: Transaction, origin: str, at: int) -> bool:
        """Whether what begins there continues the known history from its first entry on."""
        if at == 0:
            return True
        if tx.one("SELECT 1 FROM known_root WHERE origin = ? AND size = ?", [origin, at]) is None:
            return False
        base = signed_for(tx, origin)
        return at <= base or not uncovered(billed_stretches(tx, origin, base, at), base, at)

    def join(self, tx: Transaction, source: Source, end: int, at: datetime, found: Findings) -> None:
        """Settle what waited behind a hole that ended there: it continues the history, or is taken back."""
        waiting = {one.since: one for one in unsettled_stretches(tx, source.origin, end, ENDLESS)}
        if not waiting:
            return
        behind = {one.since: one.size for one in billed_stretches(tx, source.origin, end, ENDLESS)}
        while end in behind or end in waiting:
            if end in behind:
                end = behind[end]
                continue
            one = waiting.pop(end)
            known = known_roots(tx, source.origin, [one.since, one.size])
            if known.get(one.since) != one.since_root or known.get(one.size, one.root) != one.root:
                note, proof = note_at(tx, source.origin, end), None
                if note is not None:
                    proof = proof_of_fork(note, one.note, source.key, root=one.since_root, steps=one.steps)
                self.take_back(tx, source, one, at, found, proof=proof)
                return
            settle(tx, source.origin, one, at)
            end = one.size

    def take_back(
        self, tx: Transaction, source: Source, one: Unsettled, at: datetime, found: Findings, *, proof: bytes | None
    ) -> None:
        """Bill no longer what was told behind a hole, by rows that say the opposite: the history is another one."""
        tx.execute("INSERT INTO settlement(arrival, good, at) VALUES (?, 0, ?)", [one.arrival, instant_text(at)])
        tx.execute(
            """INSERT INTO amount(subscription_id, origin, size, meter, month, billed_month, quantity, kind, at)
               SELECT subscription_id, origin, size, meter, month, billed_month, -sum(quantity), 'correction', ?
               FROM amount WHERE origin = ? AND size = ? AND kind <> 'ack'
               GROUP BY subscription_id, origin, size, meter, month, billed_month HAVING sum(quantity) <> 0""",
            [instant_text(at), source.origin, one.size],
        )
        settle_claims(tx, source, one.since, one.size, at)
        if proof is not None:
            keep_fork(tx, self._trail, source.origin, size=one.size, end=one.size, root=one.root, proof=proof, at=at)
        found.keep(
            Severity.TAMPERED,
            "superseded",
            where=f"[{one.since}, {one.size})",
            message="A report told of these entries before those that precede them had come. What came since, and "
            "continues the log from its first entry on, is another history: what was billed for it is taken back.",
        )
        self._trail.record(tx, "usage.take_back", source.origin, {"since": one.since, "size": one.size})
