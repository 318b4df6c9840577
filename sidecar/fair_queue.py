"""Whose page is read next: start-time fair queueing, in three lanes.

The pages of an operation follow one another in virtual time, so a single picture does not wait behind the pages of a
book, and the book still gets on. Operations whose sender waits on the connection have a lane of their own, and where
both lanes have pages they take turns: a heap of documents that were left here to be read holds up nobody who waits.
Pages that take long to decode are slow: they have the third lane, and who takes says whether a slow one may be taken
now, so that however many there are, they do not keep everybody busy.

Invariant: pure and bounded by what is put in; what is first in a lane is taken at the latest at the third turn at which
it may be.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from enum import IntEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class _Lane(Generic[T]):
    """Start-time fair queueing."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, T]] = []
        self._virtual = 0
        self._order = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, items: Iterable[T]) -> None:
        for virtual, item in enumerate(items, self._virtual + 1):
            self._order += 1
            heapq.heappush(self._heap, (virtual, self._order, item))

    def take(self) -> T:
        virtual, _, item = heapq.heappop(self._heap)
        self._virtual = max(self._virtual, virtual)
        return item


class Lane(IntEnum):
    """Where an item waits."""

    WAITED_FOR = 0
    LEFT = 1
    SLOW = 2


class FairQueue(Generic[T]):
    """Items of operations in fair order. Not for several threads at once."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, _Lane[T]] = {lane: _Lane() for lane in Lane}
        self._last = Lane.SLOW

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def waiting(self, lane: Lane) -> int:
        """How many wait in a lane."""
        return len(self._lanes[lane])

    def add(self, items: Iterable[T], lane: Lane) -> None:
        """Put items of one operation in.

        Args:
            items: In the order in which they are to be taken.
            lane: Whether somebody waits for them on the connection; or that they are slow.
        """
        self._lanes[lane].add(items)

    def take(self, *, quick: bool = True, slow: bool = True) -> tuple[Lane, T] | None:
        """The next item in fair order, and where it waited; None when there is none.

        Args:
            quick: Whether it may be one that is not slow.
            slow: Whether it may be a slow one.
        """
        for step in range(1, len(Lane) + 1):
            lane = Lane((self._last + step) % len(Lane))
            if self._lanes[lane] and (slow if lane is Lane.SLOW else quick):
                self._last = lane
                return lane, self._lanes[lane].take()
        return None
