"""What the workers of one core know of each other: a slot for each in memory that all of them inherit over the fork.

Invariants:

* Workers and master alone have them: neither who decodes for a worker nor who keeps the second engine can write there.
* A worker writes its own slot alone; the master gives slots out before the fork and clears them after a death. Nobody
  waits for anybody, and a value that is a moment old costs speed, never a result.
* What a worker was at when it died is noted by the master, so that a page which outlived its time is not tried again
  and one that has killed twice is not tried a third time, whoever asks.
* Every stretch of work has its deadline in the slot and in the kernel's timer of the worker.
"""

import ctypes
import mmap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from uuid import UUID

_REMEMBERED_DEATHS = 256
_JUST_NOW_SECONDS = 0.1
_MOST_DEATHS = 2


class Task(IntEnum):
    """What a worker is at."""

    NOTHING = 0
    OTHER = 1
    INSPECTION = 2
    SLOW_DECODING = 3
    DECODING = 4
    READING = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """What is remembered of a piece of work that a worker died at.

    Attributes:
        task: What the last one that died was at.
        times: How many died.
        overdue: Whether the last one had outlived its deadline.
    """

    task: Task
    times: int
    overdue: bool

    @property
    def is_final(self) -> bool:
        """Whether trying again would only kill again."""
        return self.overdue or self.times >= _MOST_DEATHS


class _Slot(ctypes.Structure):
    _fields_ = (
        ("taken", ctypes.c_uint8),
        ("task", ctypes.c_uint8),
        ("threads", ctypes.c_uint8),
        ("crowd", ctypes.c_uint8),
        ("page", ctypes.c_uint32),
        ("document", ctypes.c_uint8 * 16),
        ("deadline", ctypes.c_double),
        ("ended_at", ctypes.c_double),
    )


class _Grave(ctypes.Structure):
    _fields_ = (
        ("document", ctypes.c_uint8 * 16),
        ("page", ctypes.c_uint32),
        ("times", ctypes.c_uint16),
        ("task", ctypes.c_uint8),
        ("overdue", ctypes.c_uint8),
    )


class Slots:
    """The slots of one core.

    Args:
        workers: Most workers at a time.
        cores: Cores that may be kept busy with pages.
        monotonic: Seconds from a clock that never steps and is the same in all processes.
        arm: Has the kernel end this process after so many seconds.
        disarm: Takes that back.
    """

    def __init__(
        self,
        workers: int,
        *,
        cores: int,
        monotonic: Callable[[], float] = time.monotonic,
        arm: Callable[[float], None] = lambda _seconds: None,
        disarm: Callable[[], None] = lambda: None,
    ) -> None:
        self._cores = cores
        self._monotonic = monotonic
        self._arm = arm
        self._disarm = disarm
        slots, graves = ctypes.sizeof(_Slot) * workers, ctypes.sizeof(_Grave) * _REMEMBERED_DEATHS
        self._memory = mmap.mmap(-1, slots + graves)
        self._slots = (_Slot * workers).from_buffer(self._memory)
        self._graves = (_Grave * _REMEMBERED_DEATHS).from_buffer(self._memory, slots)
        self._next_grave = 0
        self._mine = self._slots[0]

    # ---- forks

    def leave_out(self) -> None:
        """Do not hand the slots down to processes that are forked from now on: they are none of theirs."""
        self._memory.madvise(mmap.MADV_DONTFORK)

    def hand_down(self) -> None:
        """Hand them down again, to the worker that is forked next."""
        self._memory.madvise(mmap.MADV_DOFORK)

    # ---- the master -------------------------------------------------------------------------------------------------

    def give(self) -> int:
        """A free slot for a worker that is about to be forked; while there is none, the last is shared."""
        number = next((n for n, slot in enumerate(self._slots) if not slot.taken), len(self._slots) - 1)
        ctypes.memset(ctypes.byref(self._slots[number]), 0, ctypes.sizeof(_Slot))
        self._slots[number].taken = 1
        return number

    def take_back(self, number: int) -> Death | None:
        """Clear the slot of a worker that is gone; what it died at, if it died at work."""
        slot = self._slots[number]
        task = Task(slot.task)
        death = None
        if task > Task.OTHER:
            overdue = self._monotonic() >= slot.deadline
            grave = self._grave(bytes(slot.document), slot.page)
            if grave is None:
                grave = self._graves[self._next_grave]
                self._next_grave = (self._next_grave + 1) % _REMEMBERED_DEATHS
                ctypes.memset(ctypes.byref(grave), 0, ctypes.sizeof(_Grave))
                grave.document[:], grave.page = slot.document[:], slot.page
            grave.task, grave.overdue, grave.times = task, overdue, min(grave.times + 1, 0xFFFF)
            death = Death(task=task, times=grave.times, overdue=overdue)
        ctypes.memset(ctypes.byref(slot), 0, ctypes.sizeof(_Slot))
        return death

    def overdue_by(self, number: int) -> float:
        """For how many seconds a worker has outlived its deadline; negative while it has not, or has none."""
        deadline = self._slots[number].deadline
        return self._monotonic() - deadline if deadline else -1.0

    # ---- the worker -------------------------------------------------------------------------------------------------

    def sit_down(self, number: int) -> None:
        """This process is the worker of a slot from now on."""
        self._mine = self._slots[number]

    @contextmanager
    def request(self, seconds: float) -> Iterator[None]:
        """A request is served, for so many seconds at most."""
        self._begin(Task.OTHER, seconds)
        try:
            yield
        finally:
            self._mine.deadline = 0.0
            self._mine.task = Task.NOTHING
            self._disarm()

    @contextmanager
    def working_on(self, document: str, page: int, task: Task, seconds: float) -> Iterator[None]:
        """A document is worked on, for so many seconds at most; `then` tells what follows at the same page.

        Args:
            document: GUID.
            page: Counted from 1; 0 for none.
            task: What is done first.
            seconds: How long it may take.
        """
        mine = self._mine
        mine.document[:], mine.page = UUID(document).bytes, page
        self._begin(task, seconds)
        mine.threads, mine.crowd = 1, self._pages_at_work()
        try:
            yield
        finally:
            mine.crowd = max(mine.crowd, self._pages_at_work())
            mine.ended_at = self._monotonic() if mine.task >= Task.DECODING else 0.0
            mine.threads = 0
            self._begin(Task.OTHER, 0.0)

    def then(self, task: Task, seconds: float) -> None:
        """The next task at the same page, and how long it may take."""
        self._begin(task, seconds)

    def death_at(self, document: str, page: int) -> Death | None:
        """What is remembered of workers that died at a page; None where none did."""
        grave = self._grave(UUID(document).bytes, page)
        if grave is None:
            return None
        return Death(task=Task(grave.task), times=grave.times, overdue=bool(grave.overdue))

    @contextmanager
    def free_core(self) -> Iterator[bool]:
        """A second core for the time of the context, where one has nothing to do and nothing is about to come."""
        if not self._is_core_free():
            yield False
            return
        mine = self._mine
        mine.threads = 2
        try:
            yield True
        finally:
            mine.threads = 1

    def _is_core_free(self) -> bool:
        busy = sum(slot.threads for slot in self._slots if slot.task >= Task.DECODING)
        since = self._monotonic() - _JUST_NOW_SECONDS
        # Where pages have just been read side by side, the next is on its way.
        crowds = (slot.crowd for slot in self._slots if slot.task < Task.DECODING and slot.ended_at > since)
        return busy < self._cores and max(crowds, default=0) < self._cores

    def _pages_at_work(self) -> int:
        return sum(slot.task >= Task.DECODING for slot in self._slots)

    def _begin(self, task: Task, seconds: float) -> None:
        if seconds > 0:
            self._mine.deadline = self._monotonic() + seconds
            self._arm(seconds)
        self._mine.task = task

    def _grave(self, document: bytes, page: int) -> _Grave | None:
        return next(
            (one for one in self._graves if one.times and one.page == page and bytes(one.document) == document), None
        )
