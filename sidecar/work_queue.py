"""What those who read take next: in fair order, what takes long beside the rest and never in place of it, some later.

Invariants:

* What does not take long finds a place as soon as fewer of its kind are at work than pages are read at once, whatever
  else waits or is at work.
* What takes long has a quarter as many places, and one at least.
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


def most_slow(pages: int) -> int:
    """How many may be at work that take long, beside so many pages; the core has as many processes more."""
    return max(1, pages // 4)


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
        self._pages = 0
        self._at_work = {True: 0, False: 0}  # slow ones, others
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether nothing is taken any more."""
        return self._is_over

    def widen(self, pages: int) -> None:
        """Have so many pages at work at once, unless it was more before."""
        with self._changed:
            self._pages = max(self._pages, pages)
            self._changed.notify_all()

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
            if following is not None:
                with self._changed:
                    self._at_work[following[0] is Lane.SLOW] -= 1
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
                following = self._queue.take(
                    quick=self._at_work[False] < self._pages, slow=self._at_work[True] < most_slow(self._pages)
                )
                if following is not None:
                    self._at_work[following[0] is Lane.SLOW] += 1
                    return following
                self._changed.wait(max(0.0, self._later[0][0] - now) if self._later else None)
        return None
