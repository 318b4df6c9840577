"""What is billed: every entry of a log once, by whatever road and however often it arrives.

Invariants:

* Of one log, the stretches that are billed (`span`) never overlap: the rules here see to it, and a trigger of the
  database refuses what they would miss. What is covered already is billed nothing.
* Nothing is corrected by a change. Entries bear out what a report only told: where the two differ, a row with the
  difference follows, and a finding; the entries win.
* One log has one root at each size. Whatever arrives is compared with every root that is known of it, before a number
  of it is believed: a second root is a fork, kept with its proof where there is one, and nothing of it is billed.
* What came behind a hole is billed, but gives way to what continues the log from its first entry on (`holes`).
* All of it happens in the caller's transaction: it is there as a whole, or not at all. What is refused leaves its
  finding there, so a refusal is returned, and raised only after the commit.

Billed is the month that the device's effective time tells, but never one after the month of the arrival, nor one before
the subscription began: a clock that is wrong moves use into a month that is billed, and is a finding.
"""

from datetime import datetime, timedelta

from licenses.authority.accounts import Subscription
from licenses.authority.acknowledgements import Acknowledgements
from licenses.authority.audit_trail import AuditTrail
from licenses.authority.billed_bundles import Bundles
from licenses.authority.billed_reports import Reports
from licenses.authority.database import Database, Transaction, kept_instant
from licenses.strict_json import instant_text

CLOCK_STEP = timedelta(days=1)
"""So far the vendor's own clock may be set back before what was written by it counts as written by a wrong one."""


class Accounting:
    """The books of what is used.

    Attributes:
        reports: Bills what devices tell.
        bundles: Bills what they prove.
        acknowledgements: What can be signed for, and what was.

    Args:
        database: Where they are kept.
        trail: What bundles, corrections and forks are written to, in the name of who brought them.
    """

    def __init__(self, database: Database, trail: AuditTrail) -> None:
        self._database = database
        self.reports = Reports(trail)
        self.bundles = Bundles(trail)
        self.acknowledgements = Acknowledgements(trail)

    def version(self, origin: str) -> int:
        """Grows with every arrival of a log; what was read of it holds as long as this stays."""
        row = self._database.one("SELECT max(id) AS id FROM arrival WHERE origin = ?", [origin])
        return 0 if row is None or row["id"] is None else int(row["id"])

    def cuts(self, origin: str, since: int, size: int) -> set[int]:
        """The sizes within [since, size] at which something is known of a log, or something that is billed ends."""
        rows = self._database.query(
            """SELECT size AS at FROM known_root WHERE origin = :o AND size BETWEEN :since AND :size
               UNION SELECT since FROM span WHERE origin = :o AND since BETWEEN :since AND :size
               UNION SELECT size FROM span WHERE origin = :o AND since < :size
               UNION SELECT since FROM verified WHERE origin = :o AND since BETWEEN :since AND :size
               UNION SELECT size FROM verified WHERE origin = :o AND since < :size
               UNION SELECT since FROM unsettled_now WHERE origin = :o AND since BETWEEN :since AND :size
               UNION SELECT size FROM unsettled_now WHERE origin = :o AND size BETWEEN :since AND :size
               UNION SELECT since FROM claim WHERE origin = :o AND since BETWEEN :since AND :size
               UNION SELECT size FROM claim WHERE origin = :o AND since < :size
               UNION SELECT size FROM device_anchor WHERE origin = :o""",
            {"o": origin, "since": since, "size": size},
        )
        return {at for row in rows if since <= (at := int(row["at"])) <= size}

    def knows(self, origin: str, size: int) -> bool:
        """Whether it is known which root a log has at a size."""
        return self._database.one("SELECT 1 FROM known_root WHERE origin = ? AND size = ?", [origin, size]) is not None

    def is_known(self, digest: bytes) -> bool:
        """Whether a bundle with that digest was taken in before."""
        return self._database.one("SELECT 1 FROM arrival WHERE digest = ?", [digest]) is not None

    def arrives_at(self, tx: Transaction, subscription: Subscription, clock: datetime) -> datetime:
        """The time of an arrival of a subscription: what the clock says, but never before what is written already.

        A statement that closed stays as it is although the clock is set back. By more than `CLOCK_STEP` the clock is
        believed: else all use would be billed in a future that it once showed by mistake.
        """
        row = tx.one(
            "SELECT max(at) AS at FROM amount WHERE subscription_id = ? AND at <= ?",
            [subscription.id, instant_text(clock + CLOCK_STEP)],
        )
        if row is None or row["at"] is None:
            return clock
        return max(clock, kept_instant(row["at"]))
