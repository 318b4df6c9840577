"""What contradicts: an arrival against what is known of its log, and the proof of it where there is one.

Invariant: nothing here bills or settles. A refusal is returned, and raised after the commit, so that its finding stays.
"""

import json
from datetime import datetime

from licenses.authority.arrivals import Evidence, Source
from licenses.authority.audit_trail import AuditTrail
from licenses.authority.database import Transaction
from licenses.authority.findings import Findings
from licenses.authority.forks import keep_fork, known_roots, proof_of_fork
from licenses.authority.stretches import (
    Unsettled,
    note_at,
)
from licenses.errors import ConflictError, ForkError
from licenses.usage_log.report import Severity
from licenses.usage_report import UsageReport


class Contradictions:
    """Compares what arrives with what is known.

    Args:
        trail: What forks are written to.
    """

    def __init__(self, trail: AuditTrail) -> None:
        self._trail = trail

    def fork_in_report(self, tx: Transaction, source: Source, report: UsageReport, at: datetime) -> ForkError | None:
        """The fork that a report shows against what is settled; None if it fits."""
        origin, note = source.origin, report.checkpoint
        known = known_roots(tx, origin, [report.size])
        if known.get(report.size, report.root) != report.root:
            proof = self._proof_at(tx, source, report.size, note)
            return keep_fork(
                tx, self._trail, origin, size=report.size, end=report.size, root=report.root, proof=proof, at=at
            )
        if report.since_root is None:
            return None
        known = known_roots(tx, origin, [report.since])
        if known.get(report.since, report.since_root) == report.since_root:
            return None
        theirs, proof = note_at(tx, origin, report.since), None
        if theirs is not None:
            proof = proof_of_fork(theirs, note, source.key, root=report.since_root, steps=report.proof)
        return keep_fork(
            tx, self._trail, origin, size=report.since, end=report.size, root=report.since_root, proof=proof, at=at
        )

    def fork_in_bundle(self, tx: Transaction, source: Source, evidence: Evidence, at: datetime) -> ForkError | None:
        """The fork that a bundle shows against what is settled; None if it fits."""
        span, origin, ours = evidence.span, source.origin, evidence.roots
        known = known_roots(tx, origin, ours)
        wrong = sorted(size for size, root in known.items() if ours[size] != root)
        if not wrong:
            return None
        proof: bytes | None = None
        # From the first wrong size on, every root differs; the first of them that the device signed makes the proof.
        signed = next(((size, note) for size in wrong if (note := note_at(tx, origin, size))), None)
        if signed is not None and signed[0] < span.size:
            root, steps = evidence.consistency(signed[0])
            proof = proof_of_fork(signed[1], evidence.note, source.key, root=root, steps=steps)
        elif span.size in wrong:
            proof = self._proof_at(tx, source, span.size, evidence.note)
        first = wrong[0] if signed is None else signed[0]
        return keep_fork(tx, self._trail, origin, size=first, end=span.size, root=ours[first], proof=proof, at=at)

    def fork_of(self, tx: Transaction, source: Source, one: Unsettled, report: UsageReport, at: datetime) -> ForkError:
        """Two reports behind a hole that contradict each other: the first stays until the hole is filled."""
        size, root = (one.since, report.root) if report.size == one.since else (report.size, report.root)
        if report.since_root is not None and report.since in {one.since, one.size}:
            size, root = report.since, report.since_root
        proof = one.proof_against(report, source.key)
        return keep_fork(tx, self._trail, source.origin, size=size, end=report.size, root=root, proof=proof, at=at)

    def conflict(
        self,
        tx: Transaction,
        source: Source,
        code: str,
        digest: bytes,
        cause: str,
        *,
        at: datetime,
        severity: Severity = Severity.TAMPERED,
        next_step: str | None = None,
    ) -> ConflictError:
        """Keep the finding, and make the refusal, of what cannot be judged or says other than before."""
        message = f"{cause[0].upper()}{cause[1:]}. Nothing of it was billed."
        Findings(tx, source.origin, at).keep(severity, code, where=digest.hex()[:16], message=message)
        return ConflictError(cause, next_step=next_step)

    def _proof_at(self, tx: Transaction, source: Source, size: int, note: str) -> bytes | None:
        """The proof that a checkpoint contradicts what is known at its size; None if nothing signed is known."""
        theirs = note_at(tx, source.origin, size)
        if theirs is not None:
            return proof_of_fork(theirs, note, source.key)
        row = tx.one(
            """SELECT l.proof, r.root, c.note FROM link l
               JOIN known_root r ON r.origin = l.origin AND r.size = l.size
               JOIN checkpoint c ON c.origin = l.origin AND c.size = l.later
               WHERE l.origin = ? AND l.size = ?""",
            [source.origin, size],
        )
        if row is None:
            return None
        steps = [bytes.fromhex(one) for one in json.loads(row["proof"])]
        return proof_of_fork(note, row["note"], source.key, root=row["root"], steps=steps)


def proof_with(source: Source, one: Unsettled, evidence: Evidence) -> bytes | None:
    """The proof that a bundle and a report behind a hole are of two histories; None if they make none."""
    if one.size > evidence.span.size:
        return None
    if one.size == evidence.span.size:
        return proof_of_fork(one.note, evidence.note, source.key)
    root, steps = evidence.consistency(one.size)
    return proof_of_fork(one.note, evidence.note, source.key, root=root, steps=steps)
