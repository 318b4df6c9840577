"""Reports: what a device tells of one window is billed on its word, what a container without a ledger tells by its id.

Invariant: a report bills the whole of its window or nothing; what cannot be judged is refused and kept as a finding.
"""

from collections.abc import Sequence
from datetime import datetime

from licenses.authority.accounts import Subscription
from licenses.authority.arrivals import Billed, Source, Sums, month_of, per_meter, units_text
from licenses.authority.audit_trail import AuditTrail
from licenses.authority.claims import settle_claims
from licenses.authority.contradictions import Contradictions
from licenses.authority.database import Transaction
from licenses.authority.findings import Findings, judge_clock
from licenses.authority.forks import content_digest
from licenses.authority.holes import Holes
from licenses.authority.stretches import (
    Stretch,
    billed_stretches,
    charge,
    charged,
    claimed_stretches,
    cover,
    keep_arrival,
    keep_link,
    keep_waiting,
    know,
    uncovered,
    unsettled_stretches,
)
from licenses.errors import ConflictError, LicensesError
from licenses.strict_json import instant_text
from licenses.usage_log.report import Severity
from licenses.usage_report import UsageReport, UsageRequest


class Reports:
    """Bills reports.

    Args:
        trail: What forks and what is taken back are written to.
    """

    def __init__(self, trail: AuditTrail) -> None:
        self._contradictions = Contradictions(trail)
        self._holes = Holes(trail)

    def bill_report(
        self, tx: Transaction, source: Source, report: UsageReport, *, at: datetime
    ) -> Billed | LicensesError:
        """Bill what a verified report tells, as far as it is new.

        Returns:
            What was billed; or, to be raised after the commit, the `ForkError` or `ConflictError` that refuses it.

        Raises:
            AuthorityError: The database refused it.
        """
        sums = {(meter, month): n for meter, months in report.totals.items() for month, n in months.items()}
        told = [[meter, month, quantity] for (meter, month), quantity in sorted(sums.items())]
        digest = content_digest(report.id, report.origin, report.since, report.size, report.root.hex(), told)
        same = tx.one(
            """SELECT a.digest, s.good FROM report r JOIN arrival a ON a.id = r.arrival
               LEFT JOIN settlement s ON s.arrival = a.id WHERE r.id = ?""",
            [report.id],
        )
        unproved = tx.one("SELECT 1 FROM plain_report WHERE id = ?", [report.id])
        if unproved is not None or (same is not None and same["digest"] != digest):
            return self._contradictions.conflict(
                tx, source, "report_id", digest, f"the report {report.id} came before with other content", at=at
            )
        fork = self._contradictions.fork_in_report(tx, source, report, at)
        if fork is not None:
            return fork
        if same is not None and same["good"] == 0:
            cause = f"the report {report.id} is of another history than what came since, and was taken back"
            return self._contradictions.conflict(tx, source, "superseded", digest, cause, at=at)
        found = Findings(tx, source.origin, at)
        waiting = unsettled_stretches(tx, source.origin, report.since - 1, report.size + 1)
        settles = self._holes.is_settled(tx, source.origin, report.since)
        if same is not None:
            if not any(one.size == report.size for one in waiting):
                keep_link(tx, report)
            return Billed(billed={}, corrected={}, repeated=True)
        rivals = [one for one in waiting if one.contradicts(report)]
        if rivals and not settles:
            return self._contradictions.fork_of(tx, source, rivals[0], report, at)
        inside = [one for one in waiting if one.since < report.size and one.size > report.since]
        spans = billed_stretches(tx, source.origin, report.since, report.size)
        if not settles:
            spans = sorted([*spans, *(Stretch(one.since, one.size, "report") for one in inside)])
        free = uncovered(spans, report.since, report.size)
        refused = self._unjudged(tx, source, report, free, sums=sums, digest=digest, at=at)
        if refused is not None:
            return refused
        if settles and free:
            # What continues the log from its first entry on is its history, and what waits behind a hole gives way.
            for one in sorted({*rivals, *inside}):
                self._holes.take_back(tx, source, one, at, found, proof=one.proof_against(report, source.key))
        arrival = keep_arrival(
            tx,
            source,
            "report",
            since=report.since,
            size=report.size,
            root=report.root,
            closed_at=report.closed_at,
            digest=digest,
            at=at,
        )
        tx.execute("INSERT INTO report(id, arrival) VALUES (?, ?)", [report.id, arrival])
        tx.execute_many(
            "INSERT INTO told(arrival, meter, month, quantity) VALUES (?, ?, ?, ?)",
            [(arrival, meter, month, quantity) for (meter, month), quantity in sums.items()],
        )
        holds = settles or not (free or inside)
        if holds:
            know(tx, source.origin, [(report.size, report.root)], {report.size: report.checkpoint})
            keep_link(tx, report)
        judge_clock(found, source, sums, report.closed_at, at)
        if free:
            self._doubt_enrolment(tx, source, report, found)
            if holds:
                linked = report.since == 0
                cover(tx, source.origin, report.since, report.size, "report", arrival=arrival, linked=linked)
            else:
                keep_waiting(tx, report, arrival)
            charge(tx, source, report.size, sums, kind="report", at=at)
            if holds:
                self._holes.join(tx, source, report.size, at, found)
            settle_claims(tx, source, report.since, report.size, at)
            return Billed(billed=per_meter(sums), corrected={}, repeated=False, findings=found.found)
        self._compare_late(tx, source, report, spans=spans, sums=sums, found=found)
        return Billed(billed={}, corrected={}, repeated=True)

    def bill_plain(
        self, tx: Transaction, subscription: Subscription, request: UsageRequest, *, at: datetime
    ) -> Billed | LicensesError:
        """Bill what a container without a ledger tells: once by its id, in the month in which it arrives.

        Returns:
            What was billed; or, to be raised after the commit, the `ConflictError` that refuses it.

        Raises:
            AuthorityError: The database refused it.
        """
        same = tx.one("SELECT * FROM plain_report WHERE id = ?", [request.id])
        if same is None:
            same = tx.one("SELECT id FROM report WHERE id = ?", [request.id])
        else:
            told = (same["subscription_id"], same["container_id"], same["meter"], same["quantity"])
            if told == (subscription.id, request.container_id, request.meter, request.quantity):
                return Billed(billed={}, corrected={}, repeated=True)
        if same is not None:
            cause = f"the report {request.id} came before with other content"
            Findings(tx, subscription.id, at).keep(
                Severity.TAMPERED,
                "report_id",
                where=request.id,
                message=f"{cause[0].upper()}{cause[1:]}; now it is of {request.container_id} and tells "
                f"{request.quantity:,} {request.meter}. Nothing of it was billed.",
                once=True,
            )
            return ConflictError(cause)
        tx.execute(
            """INSERT INTO plain_report(id, subscription_id, at, container_id, meter, quantity)
               VALUES (?, ?, ?, ?, ?, ?)""",
            [request.id, subscription.id, instant_text(at), request.container_id, request.meter, request.quantity],
        )
        if not request.quantity:
            return Billed(billed={}, corrected={}, repeated=False)
        month = month_of(at)
        tx.execute(
            """INSERT INTO amount(subscription_id, meter, month, billed_month, quantity, kind, at)
               VALUES (?, ?, ?, ?, ?, 'plain', ?)""",
            [subscription.id, request.meter, month, month, request.quantity, instant_text(at)],
        )
        return Billed(billed={request.meter: request.quantity}, corrected={}, repeated=False)

    def _unjudged(
        self,
        tx: Transaction,
        source: Source,
        report: UsageReport,
        free: Sequence[tuple[int, int]],
        *,
        sums: Sums,
        digest: bytes,
        at: datetime,
    ) -> ConflictError | None:
        """The refusal of a report of which nobody can say whether its entries are those that are billed."""
        words = f"the report {report.id} tells {units_text(sums)} of the entries [{report.since}, {report.size})"
        if not free:
            # The root at its end settles which history it is of. Without it the entries may be those of a machine that
            # was made from the same image and cuts its windows elsewhere: taken for a repetition, they would be lost.
            if tx.one(
                """SELECT 1 FROM known_root WHERE origin = :o AND size = :size
                   UNION SELECT 1 FROM unsettled_now WHERE origin = :o AND size = :size""",
                {"o": source.origin, "size": report.size},
            ):
                return None
            cause = (
                f"{words}, which are billed already, but nothing is known to end at {report.size}: windows of one log"
            )
            return self._contradictions.conflict(
                tx, source, "overlap", digest, f"{cause} are cut in one way only", at=at
            )
        bounds = [
            end
            for one in claimed_stretches(tx, source.origin, report.since, report.size)
            for end in (one.since, one.size)
        ]
        if any(report.since < end < report.size for end in bounds):
            cause = f"{words}, but an acknowledgement covers a part of them: windows are acknowledged whole"
            return self._contradictions.conflict(tx, source, "overlap", digest, cause, at=at)
        if free != [(report.since, report.size)]:
            cause = f"{words}, of which only [{free[0][0]}, {free[0][1]}) are new: windows of one log do not overlap so"
            return self._contradictions.conflict(tx, source, "overlap", digest, cause, at=at)
        if report.since and report.since_root is None:
            cause = f"{words}, and does not prove that they continue the {report.since} before"
            step = "Send a bundle of these entries ('sidecar usage export'); then the report counts as known."
            return self._contradictions.conflict(
                tx, source, "unproven", digest, cause, at=at, severity=Severity.GAP, next_step=step
            )
        return None

    def _doubt_enrolment(self, tx: Transaction, source: Source, report: UsageReport, found: Findings) -> None:
        """An enrolment's checkpoint within a window: windows do not end there, so it may be of another history."""
        row = tx.one(
            "SELECT max(size) AS size FROM device_anchor WHERE origin = ? AND size > ? AND size < ?",
            [source.origin, report.since, report.size],
        )
        if row is not None and row["size"] is not None:
            found.keep(
                Severity.GAP,
                "enrolment_differs",
                where=f"[{report.since}, {report.size})",
                message=f"The report {report.id} tells of a window in which no other ends, but an enrolment showed a "
                f"checkpoint at {row['size']}: it may be of another machine with the same key. A bundle tells.",
            )

    def _compare_late(
        self,
        tx: Transaction,
        source: Source,
        report: UsageReport,
        *,
        spans: Sequence[Stretch],
        sums: Sums,
        found: Findings,
    ) -> None:
        """A report of what is billed already: it should tell what was billed."""
        if spans[0].since != report.since or spans[-1].size != report.size:
            return
        billed = charged(tx, source.origin, report.since, report.size, but="ack")
        if billed != dict(sums):
            found.keep(
                Severity.GAP,
                "report_differs",
                where=f"[{report.since}, {report.size})",
                message=f"The report {report.id} tells {units_text(sums)}; billed before, and kept, is "
                f"{units_text(billed)}.",
            )
