"""What those who read take next: in fair order, what takes long in half of the hands at most, some of it later.

Invariants:

* What takes long is at work in half of the hands at most, and in one at least; however much of it waits, the other
  half is free for the rest.
* Nobody is waited for at the end: who takes hears at once that it is over.
"""

from __future__ import annotations

import contextlib
import heapq
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from sidecar.fair_queue import FairQueue, Lane

T = TypeVar("T")


def most_slow(hands: int) -> int:
    """In how many of so many hands something may be that takes long."""
    return max(1, hands // 2)


class WorkQueue(Generic[T]):
    """A `FairQueue` for several threads.

    Args:
        monotonic: Seconds from a clock that never steps.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._queue: FairQueue[T] = FairQueue()
        self._later: list[tuple[float, int, Lane, T]] = []
        self._order = 0
        self._hands = 0
        self._slow_now = 0
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether nothing is taken any more."""
        return self._is_over

    def join(self) -> None:
        """Have one hand more."""
        with self._changed:
            self._hands += 1

    def add(self, items: Iterable[T], lane: Lane) -> None:
        """Put items of one operation in, in their order."""
        with self._changed:
            self._queue.add(items, lane)
            self._changed.notify_all()

    def add_later(self, item: T, lane: Lane, seconds: float) -> None:
        """Put one in after a while; no hand waits for it."""
        with self._changed:
            self._order += 1
            heapq.heappush(self._later, (self._monotonic() + seconds, self._order, lane, item))
            self._changed.notify_all()

    @contextlib.contextmanager
    def next(self) -> Iterator[tuple[Lane, T] | None]:
        """Wait for the next item, and for as long as the context lasts have it at work; None when it is over."""
        following = self._taken()
        try:
            yield following
        finally:
            if following is not None and following[0] is Lane.SLOW:
                with self._changed:
                    self._slow_now -= 1
                    self._changed.notify_all()

    def stop(self) -> None:
        """Give nothing out any more."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _taken(self) -> tuple[Lane, T] | None:
        with self._changed:
            while not self._is_over:
                now = self._monotonic()
                while self._later and self._later[0][0] <= now:
                    _, _, lane, item = heapq.heappop(self._later)
                    self._queue.add([item], lane)
                following = self._queue.take(slow=self._slow_now < most_slow(self._hands))
                if following is not None:
                    self._slow_now += following[0] is Lane.SLOW
                    return following
                self._changed.wait(max(0.0, self._later[0][0] - now) if self._later else None)
        return None
