"""What is found at an arrival, and kept for a person to judge.

Invariant: a finding is kept in the arrival's transaction, once however often the same arrives, and is in its answer.
"""

from datetime import datetime, timedelta

from licenses.authority.arrivals import Source, Sums, month_of
from licenses.authority.database import Transaction
from licenses.authority.forks import content_digest
from licenses.strict_json import instant_text
from licenses.usage_log.report import Finding, Severity

CLOCK_TOLERANCE = timedelta(hours=1)
"""How far a device's time may lie ahead of the vendor's without a finding."""


class Findings:
    """What is found at one arrival: kept, each once, and at hand for the answer.

    Args:
        tx: The arrival's transaction.
        origin: Whose log; of a container without one, the subscription.
        at: The vendor's time.
    """

    def __init__(self, tx: Transaction, origin: str, at: datetime) -> None:
        self._tx, self._origin, self._at = tx, origin, at
        self._found: list[Finding] = []

    @property
    def found(self) -> tuple[Finding, ...]:
        """What was found, in that order."""
        return tuple(self._found)

    def keep(self, severity: Severity, code: str, *, where: str, message: str, once: bool = False) -> None:
        """Keep a finding; the same again is not kept twice, and with `once` none of this code at this place."""
        digest = content_digest(self._origin, code, where, "" if once else message)
        self._tx.execute(
            """INSERT OR IGNORE INTO finding(origin, at, severity, code, place, message, digest)
               VALUES (?, ?, ?, ?, ?, ?, ?)""",
            [self._origin, instant_text(self._at), severity.value, code, where, message, digest],
        )
        self._found.append(Finding(severity, code, where, message))


def judge_clock(found: Findings, source: Source, sums: Sums, closed_at: datetime, at: datetime) -> None:
    """A device whose time is ahead of the vendor's, or that tells of a time before it was one."""
    ahead = max([closed_at.strftime("%Y-%m"), *(month for _, month in sums)])
    if closed_at > at + CLOCK_TOLERANCE or ahead > month_of(at):
        message = (
            f"On {at:%Y-%m-%d} the device's time was {instant_text(closed_at)}; use that it tells of later months "
            f"than {month_of(at)} is billed in that one."
        )
        found.keep(
            Severity.GAP,
            "clock_ahead",
            where=f"{at:%Y-%m-%d}",
            message=message,
            once=True,
        )
    first = month_of(source.subscription.created_at)
    early = sorted({month for _, month in sums if month < first})
    if early:
        message = (
            f"On {at:%Y-%m-%d} the device told of use in {', '.join(early[:6])}, before the subscription began; it "
            f"is billed in {first}."
        )
        found.keep(
            Severity.GAP,
            "clock_behind",
            where=f"{at:%Y-%m-%d}",
            message=message,
            once=True,
        )
