"""A sink that never keeps anybody waiting: a bounded queue, and one thread that delivers what is in it.

Invariant: `offer` neither waits nor raises, whatever the disk or the network does. Events wait while delivery fails and
are dropped when too many do; the log tells of that once, and of how many there were when delivery goes on.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Protocol

import structlog

from sidecar.logs import LogEvent

MAX_EVENTS = 2000
_BATCH = 100
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0
_TOLD_AGAIN_AFTER_SECONDS = 600.0
_log = structlog.get_logger("Tollgate.Logs")


class Delivery(Protocol):
    """How events get to where they go; used by one thread only."""

    def deliver(self, events: deque[LogEvent]) -> bool:
        """Deliver from the left, and take away what was delivered.

        Returns:
            False when it is too early for that, which is no failure.

        Raises:
            OSError: It cannot be done now; what is left will be offered again.
        """
        ...

    def idle(self) -> None:
        """Nothing was delivered for a while.

        Raises:
            OSError: The other side cannot be reached.
        """
        ...

    def close(self) -> None:
        """Let go of files and connections; must not raise."""
        ...


class QueuedSink:
    """Takes events from any thread and delivers them in one of its own.

    Make it in the process that uses it, after the fork.

    Args:
        name: Its name among the settings: `Disk` or `Fluentd`.
        what: What it is, for messages.
        delivery: How events get there.
        idle_seconds: After how long without an event `delivery.idle` is called; None for never.
        max_events: How many events may wait.
    """

    def __init__(
        self,
        name: str,
        what: str,
        delivery: Delivery,
        *,
        idle_seconds: float | None = None,
        max_events: int = MAX_EVENTS,
    ) -> None:
        self.name = name
        self._what = what
        self._delivery = delivery
        self._idle_seconds = idle_seconds
        self._max_events = max_events
        self._waiting: deque[LogEvent] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._dropped = 0
        self._failing = False
        self._told_at: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"log-{name.lower()}", daemon=True)

    def start(self) -> None:
        """Start delivering."""
        self._thread.start()

    def offer(self, event: LogEvent) -> None:
        """Take an event, or drop it when too many wait."""
        with self._changed:
            if self._closing:
                return
            full = len(self._waiting) >= self._max_events
            if full:
                self._dropped += 1
            else:
                self._waiting.append(event)
                self._changed.notify()
        if full:
            self._tell("it does not keep up", "")

    def finish(self) -> None:
        """Take nothing more, and deliver what is left with one try."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def join(self, seconds: float) -> bool:
        """Wait for the end of `finish`, so long at most; whether it was reached."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    # ---- in the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pending: deque[LogEvent] = deque()
        pause = _FIRST_PAUSE_SECONDS
        while True:
            if not pending:
                pending = self._take()
            if not pending and self._closing:
                break
            if self._tries(pending):
                pause = _FIRST_PAUSE_SECONDS
                continue
            if self._closing:
                break
            with self._changed:
                self._changed.wait_for(lambda: self._closing, pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS) if self._failing else pause
        self._delivery.close()

    def _take(self) -> deque[LogEvent]:
        """The next events; none when it was quiet for long, or at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing, self._idle_seconds)
            return deque(self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH)))

    def _tries(self, pending: deque[LogEvent]) -> bool:
        """One try; whether nothing of it is left."""
        try:
            if pending:
                if not self._delivery.deliver(pending):
                    return False
            else:
                self._delivery.idle()
        except Exception as exc:  # noqa: BLE001 - whatever goes wrong with a log must not end the log
            self._failing = True
            self._tell(str(exc) if isinstance(exc, OSError) else repr(exc), type(exc).__name__)
            return False
        if self._failing or self._dropped:
            self._failing = False
            self._recovered()
        return True

    def _tell(self, cause: str, kind: str) -> None:
        """Say once that something is wrong."""
        with self._changed:
            now = time.monotonic()
            if self._told_at is not None and now - self._told_at < _TOLD_AGAIN_AFTER_SECONDS:
                return
            self._told_at = now
        _log.warning(
            f"the log cannot be written to {self._what}; lines wait, and are dropped when too many do",
            cause=cause,
            **({"error": kind} if kind else {}),
        )

    def _recovered(self) -> None:
        with self._changed:
            dropped, self._dropped = self._dropped, 0
        if dropped:
            _log.warning(f"the log is written to {self._what} again", dropped_lines=dropped)
