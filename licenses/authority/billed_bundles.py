"""Bundles: entries that were seen are billed as far as they are new, and bear out what reports told of the others.

Invariant: the entries win. Where they say other than a report, a row with the difference follows, and a finding.
"""

import json
from collections import Counter
from datetime import datetime

from licenses.authority.arrivals import Billed, Evidence, Source, per_meter, units_text
from licenses.authority.audit_trail import AuditTrail
from licenses.authority.claims import carry, settle_claims
from licenses.authority.contradictions import Contradictions, proof_with
from licenses.authority.database import Transaction
from licenses.authority.findings import Findings, judge_clock
from licenses.authority.forks import keep_fork
from licenses.authority.holes import Holes
from licenses.authority.stretches import (
    Stretch,
    Stretches,
    billed_stretches,
    charge,
    charged,
    cover,
    keep_arrival,
    keep_verified,
    know,
    settle,
    stretch_at,
    unsettled_stretches,
    verified_stretches,
)
from licenses.errors import ForkError
from licenses.usage_log.bundle import Span
from licenses.usage_log.report import Severity


class Bundles:
    """Bills bundles.

    Args:
        trail: What bundles, corrections and forks are written to.
    """

    def __init__(self, trail: AuditTrail) -> None:
        self._trail = trail
        self._contradictions = Contradictions(trail)
        self._holes = Holes(trail)

    def bill_bundle(self, tx: Transaction, source: Source, evidence: Evidence, *, at: datetime) -> Billed | ForkError:
        """Bill the entries of a verified bundle, as far as they are new, and let them bear out what reports told.

        Args:
            tx: The transaction in which `version` is still what it was when the evidence's cells were cut.
            source: Whose log.
            evidence: What the bundle holds.
            at: The vendor's time.

        Returns:
            What was billed; or, to be raised after the commit, the `ForkError` that refuses it.

        Raises:
            AuthorityError: The database refused it.
            RecordError: The acknowledgement in the bundle is of another log.
        """
        span, origin = evidence.span, source.origin
        if tx.one("SELECT 1 FROM arrival WHERE digest = ?", [evidence.digest]) is not None:
            return Billed(billed={}, corrected={}, repeated=True)
        fork = self._contradictions.fork_in_bundle(tx, source, evidence, at)
        if fork is not None:
            return fork
        settles = evidence.carried is not None or self._holes.is_settled(tx, origin, span.since)
        ours = evidence.roots
        waiting = unsettled_stretches(tx, origin, span.since, span.size)
        rivals = [one for one in waiting if not one.agrees(ours)]
        if rivals and not settles:
            one = rivals[0]
            size = one.size if ours.get(one.size, one.root) != one.root else one.since
            proof = proof_with(source, one, evidence)
            return keep_fork(tx, self._trail, origin, size=size, end=span.size, root=ours[size], proof=proof, at=at)
        arrival = keep_arrival(
            tx,
            source,
            "bundle",
            since=span.since,
            size=span.size,
            root=span.root,
            closed_at=span.until,
            digest=evidence.digest,
            at=at,
        )
        found = Findings(tx, origin, at)
        carry(tx, source, evidence, arrival=arrival, at=at, found=found)
        for one in waiting:
            if one in rivals:
                self._holes.take_back(tx, source, one, at, found, proof=proof_with(source, one, evidence))
            else:
                settle(tx, origin, one, at)
        cut = self._cut_short(stretch_at(tx, origin, span.size - 1), span, found)
        fresh, told, new = self._bill_cells(tx, source, evidence, cut, arrival=arrival, at=at)
        know(
            tx,
            origin,
            [(size, root) for size, root in ours.items() if size <= cut],
            {size: note for size, note in evidence.notes.items() if size <= cut},
        )
        corrected: Counter[str] = Counter()
        for stretch in told:
            corrected.update(self._bear_out(tx, source, stretch, at, found))
        if settles and cut == span.size:
            self._holes.join(tx, source, span.size, at, found)
        settle_claims(tx, source, span.since, span.size, at)
        judge_clock(found, source, fresh, span.until, at)
        against = found.found
        for finding in evidence.findings:
            found.keep(finding.severity, finding.code, where=finding.where, message=finding.message)
        done = Billed(
            billed=per_meter(fresh),
            corrected={meter: quantity for meter, quantity in corrected.items() if quantity},
            repeated=new == 0 and cut == span.size and not corrected,
            findings=against,
            unbelieved=None if cut == span.size else (max(span.since, cut), span.size),
        )
        # Reports come every ten minutes from each device: their own rows are append-only, and no lines of the trail.
        facts = {"since": span.since, "size": span.size, "root": span.root.hex(), "bundle": evidence.digest.hex()}
        self._trail.record(
            tx, "usage.take", origin, {**facts, "billed": dict(done.billed), "corrected": dict(done.corrected)}
        )
        return done

    def _bill_cells(
        self, tx: Transaction, source: Source, evidence: Evidence, cut: int, *, arrival: int, at: datetime
    ) -> tuple[Counter[tuple[str, str]], list[Stretch], int]:
        """Bill what no stretch covers. What was billed, the reported stretches that were seen, and the new cells."""
        span, origin = evidence.span, source.origin
        known = Stretches(billed_stretches(tx, origin, span.since, span.size))
        seen = Stretches(verified_stretches(tx, origin, span.since, span.size))
        fresh: Counter[tuple[str, str]] = Counter()
        told: dict[int, Stretch] = {}
        new = 0
        for cell in evidence.cells:
            covering = known.at(cell.since)
            if covering is None:
                cover(tx, origin, cell.since, cell.size, "bundle", arrival=arrival, linked=True)
                charge(tx, source, cell.size, cell.sums, kind="bundle", at=at)
                fresh.update(cell.sums)
                new += 1
            elif covering.source == "report" and cell.size <= cut:
                told[covering.since] = covering
                if seen.at(cell.since) is None:
                    keep_verified(tx, origin, cell, arrival)
        return fresh, list(told.values()), new

    def _cut_short(self, last: Stretch | None, span: Span, found: Findings) -> int:
        """Up to which size a bundle is tied to what is known: to its end, unless that lies inside of a known stretch.

        There nothing tells its history from another that begins alike: the roots at the ends of stretches do. So what
        it has of that stretch is not believed, and not lost either: that is a finding.
        """
        if last is None or last.size == span.size:
            return span.size
        found.keep(
            Severity.TAMPERED if last.source == "bundle" else Severity.GAP,
            "overlap",
            where=f"[{max(span.since, last.since)}, {span.size})",
            message=f"A bundle ends at {span.size}, inside of the stretch [{last.since}, {last.size}) that is billed; "
            f"whether its entries are the same can be told only from one that reaches to {last.size}.",
        )
        return last.since

    def _bear_out(
        self, tx: Transaction, source: Source, span: Stretch, at: datetime, found: Findings
    ) -> dict[str, int]:
        """Compare what was told of a stretch with its entries, once all of them were seen."""
        inside = [
            one
            for one in verified_stretches(tx, source.origin, span.since, span.size)
            if span.since <= one.since and one.size <= span.size
        ]
        if sum(one.size - one.since for one in inside) != span.size - span.since:
            return {}
        sums: Counter[tuple[str, str]] = Counter()
        for one in inside:
            sums.update({(meter, month): quantity for meter, month, quantity in json.loads(one.source)})
        billed = charged(tx, source.origin, span.since, span.size, but="ack")
        difference = {key: sums[key] - billed.get(key, 0) for key in sorted({*sums, *billed})}
        difference = {key: quantity for key, quantity in difference.items() if quantity}
        if not difference:
            return {}
        charge(tx, source, span.size, difference, kind="correction", at=at)
        found.keep(
            Severity.TAMPERED,
            "report_wrong",
            where=f"[{span.since}, {span.size})",
            message=f"The device reported {units_text(billed)}; its entries sum up to {units_text(sums)}, which is "
            "billed.",
        )
        self._trail.record(
            tx,
            "usage.correct",
            source.origin,
            {"since": span.since, "size": span.size, "difference": [[*key, n] for key, n in difference.items()]},
        )
        return per_meter(difference)

    def known_before(self, tx: Transaction, source: Source, span: Span) -> Billed:
        """What became of a bundle that was taken in before; what was not believed of it then may still not be."""
        last = stretch_at(tx, source.origin, span.size - 1)
        known = tx.one("SELECT 1 FROM known_root WHERE origin = ? AND size = ?", [source.origin, span.size])
        if known is not None or last is None or last.size == span.size:
            return Billed(billed={}, corrected={}, repeated=True)
        cut = max(span.since, last.since)
        return Billed(billed={}, corrected={}, repeated=False, unbelieved=(cut, span.size))
