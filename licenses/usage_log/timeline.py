"""Windows and boots over time: what is covered, when the meter did not run, and what no window covers.

Invariants:

* Windows follow each other without a gap, each begins at the moment at which the one before closed; and none is open
  for longer than the meter may leave it, counted on the boot clock from its beginning or from the last start in it.
* A host that was restarted has a start to tell of it.
* The time before a start is told, whether the stop was in good order or not; such time is no gap, nothing ran in it.
"""

from collections import deque
from collections.abc import Mapping

from licenses.strict_json import JsonValue
from licenses.usage_log.entry import integer_of
from licenses.usage_log.files import Moment
from licenses.usage_log.proof import Find
from licenses.usage_log.report import MAX_LISTED, CoveredTime, Severity, Start, moment_text

MAX_WINDOW_MS = (10 * 15 + 1) * 60 * 1000
RECOVERY = "recovery"
SHUTDOWN = "shutdown"


class Timeline:
    """Follows windows and boots, in the order of the entries.

    Args:
        find: Called with what is found.

    Attributes:
        windows: How many windows closed.
        covered: The time that windows cover without a gap, piece by piece; the newest that are listed.
        starts: The meter's starts, those after the longest stops if there are too many to list.
        starts_in_all: All of them.
        stopped_ms: For how long it did not run before them, in all.
    """

    def __init__(self, find: Find) -> None:
        self._find = find
        self._closed: Moment | None = None
        self._reason = ""
        self._alive_ms: int | None = None
        self._boots: list[Mapping[str, JsonValue]] = []
        self.windows = 0
        self.covered: deque[CoveredTime] = deque(maxlen=MAX_LISTED)
        self.starts: list[Start] = []
        self.starts_in_all = 0
        self.stopped_ms = 0

    def begin_file(self) -> None:
        """What follows is the next window."""
        self._boots.clear()

    def start(self, boot: Mapping[str, JsonValue], before_ms: int | None) -> None:
        """The meter started.

        Args:
            boot: Its `boot` entry.
            before_ms: The effective time of the entry before; None when there is none.
        """
        self._boots.append(boot)
        at_ms = integer_of(boot, "effective_ms")
        since_ms = self._alive_ms if self._reason == RECOVERY and self._alive_ms is not None else before_ms
        start = Start(
            seq=integer_of(boot, "seq"),
            at_ms=at_ms,
            since_ms=None if since_ms is None else min(since_ms, at_ms),
            in_good_order=since_ms is None or self._reason == SHUTDOWN,
        )
        self.starts_in_all += 1
        self.stopped_ms += start.stopped_ms
        self.starts.append(start)
        if len(self.starts) > MAX_LISTED:
            self.starts.remove(min(self.starts, key=lambda one: one.stopped_ms))
        self._reason = ""

    def window(self, opened: Moment, closed: Moment, reason: str, *, before_ms: int | None, where: str) -> None:
        """A window closed.

        Args:
            opened: Its beginning.
            closed: Its end.
            reason: Why it closed.
            before_ms: The effective time of the entry before the one that closes it.
            where: The file, for people.
        """
        if self._closed is not None and opened != self._closed:
            message = (
                f"No window covers {moment_text(self._closed.effective_ms)} to {moment_text(opened.effective_ms)}."
            )
            self._find(Severity.GAP, "window_gap", where, message)
        self._require_short(opened, closed, reason, where)
        self.windows += 1
        before = self.covered[-1] if self.covered else None
        if before is not None and opened == self._closed:
            self.covered[-1] = CoveredTime(before.from_ms, closed.effective_ms, before.windows + 1)
        else:
            self.covered.append(CoveredTime(opened.effective_ms, closed.effective_ms, 1))
        self._closed, self._reason, self._alive_ms = closed, reason, before_ms

    def _require_short(self, opened: Moment, closed: Moment, reason: str, where: str) -> None:
        if reason == RECOVERY:
            return
        began_ms, began_in = opened.boottime_ms, opened.boot_id
        if self._boots:
            last = self._boots[-1]
            began_ms, began_in = integer_of(last, "boottime_ms"), str(last.get("boot_id", closed.boot_id))
        if began_in != closed.boot_id:
            message = f"The host was restarted before {moment_text(closed.effective_ms)}, and no start tells of it."
            self._find(Severity.GAP, "start_untold", where, message)
            return
        # Within one boot the boot clock tells the length, whatever was set meanwhile.
        length = closed.boottime_ms - began_ms
        if length > MAX_WINDOW_MS:
            since = "since the start in it" if self._boots else "though nothing was restarted"
            message = f"The window was open for {length // 60_000} minutes {since}."
            self._find(Severity.GAP, "long_window", where, message)
