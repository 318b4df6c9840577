"""Whose page is read next: start-time fair queueing, in two lanes.

The pages of an operation follow one another in virtual time, so a single picture does not wait behind the pages of a
book, and the book still gets on. Operations whose sender waits on the connection have a lane of their own, and where
both lanes have pages they take turns: a heap of documents that were left here to be read holds up nobody who waits.

Invariant: pure and bounded by what is put in; what is first in a lane is taken at the latest at the second turn.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
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


class FairQueue(Generic[T]):
    """Items of operations in fair order. Not for several threads at once."""

    def __init__(self) -> None:
        self._waited_for: _Lane[T] = _Lane()
        self._left: _Lane[T] = _Lane()
        self._turn_of_left = False

    def __len__(self) -> int:
        return len(self._waited_for) + len(self._left)

    def add(self, items: Iterable[T], *, waited_for: bool) -> None:
        """Put the items of one operation in.

        Args:
            items: In the order in which they are to be taken.
            waited_for: Whether somebody waits for them on the connection.
        """
        (self._waited_for if waited_for else self._left).add(items)

    def take(self) -> T | None:
        """The next item in fair order; None when there is none."""
        if not len(self):
            return None
        is_left = bool(self._left) and (self._turn_of_left or not self._waited_for)
        self._turn_of_left = not is_left
        return (self._left if is_left else self._waited_for).take()
