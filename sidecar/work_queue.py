"""What those who read take next: in fair order, what takes long beside the rest and never in place of it, some later.

Invariants:

* What does not take long finds a place as soon as fewer of its kind are at work than pages are read at once, whatever
  else waits or is at work.
* What is known to take long has a quarter as many places, and one at least, and one more is beside the pages. What has
  been at work for a while moves to such a place where one is free, and makes its own free.
* Nobody is waited for at the end: who takes hears at once that it is over.
"""

from __future__ import annotations

import contextlib
import heapq
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from sidecar.fair_queue import FairQueue, Lane

T = TypeVar("T")
LONG_SECONDS = 1.5
"""What has been at work for so long takes long: more than a full page of print. Much less, and all full pages of a busy
service would be read twice as many at once as there are processors, which costs a fifth of their number."""


@dataclass(slots=True, eq=False)
class _Work:
    """One item at work.

    Attributes:
        since: When it was taken.
        was_slow: Whether it was known that it takes long.
        is_beside: Whether it takes none of the places of pages.
    """

    since: float
    was_slow: bool
    is_beside: bool


def most_slow(pages: int) -> int:
    """How many may be at work that are known to take long."""
    return max(1, pages // 4)


def most_beside(pages: int) -> int:
    """How many may be at work beside so many pages, because they take long; the core has as many processes more."""
    return most_slow(pages) + 1


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
        self._at_work: set[_Work] = set()
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
        following, work = self._taken()
        try:
            yield following
        finally:
            with self._changed:
                self._at_work.discard(work)
                self._changed.notify_all()

    def stop(self) -> None:
        """Give nothing out any more."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _taken(self) -> tuple[tuple[Lane, T] | None, _Work]:
        with self._changed:
            while not self._is_over:
                now = self._monotonic()
                while self._later and self._later[0][0] <= now:
                    _, _, lane, item = heapq.heappop(self._later)
                    self._queue.add([item], lane)
                pages, beside, slow = self._free_places(now)
                following = self._queue.take(quick=pages > 0, slow=beside > 0 and slow > 0)
                if following is not None:
                    is_slow = following[0] is Lane.SLOW
                    work = _Work(now, was_slow=is_slow, is_beside=is_slow)
                    self._at_work.add(work)
                    return following, work
                moments = [self._later[0][0]] if self._later else []
                if len(self._queue) and beside > 0:  # a place comes free when a page has been at work for long
                    moments += [work.since + LONG_SECONDS for work in self._at_work if not work.is_beside]
                self._changed.wait(max(0.0, min(moments) - now) if moments else None)
        return None, _Work(0.0, was_slow=False, is_beside=False)

    def _free_places(self, now: float) -> tuple[int, int, int]:
        """How many more pages may be at work, how many more beside them, and how many more known to take long."""
        beside = most_beside(self._pages) - sum(work.is_beside for work in self._at_work)
        for work in sorted(self._at_work, key=lambda work: work.since):
            if beside > 0 and not work.is_beside and now - work.since >= LONG_SECONDS:
                work.is_beside = True
                beside -= 1
        pages = self._pages - sum(not work.is_beside for work in self._at_work)
        return pages, beside, most_slow(self._pages) - sum(work.was_slow for work in self._at_work)
