"""What the second engine's keeper is at, for all processes of the core to see: a page of shared memory.

Invariant: for people only. The keeper writes and never reads it; nothing is decided by it, so a worker that scribbled
on it would deceive nobody but `/health`.
"""

import mmap
import struct
from dataclasses import dataclass
from enum import IntEnum

_COUNTS = struct.Struct("<8Q")


class State(IntEnum):
    """What the keeper is at."""

    STARTING = 0
    UNLOADED = 1
    LOADING = 2
    IDLE = 3
    READING = 4
    PAUSED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What has happened since the core started; counts go on when the keeper is replaced.

    Attributes:
        state: What it is at.
        waiting: Requests that wait.
        pictures: Read, or found unreadable.
        loads: How often the engine was loaded.
        killed: How often its process was killed because it took too long.
        died: How often its process ended by itself.
        busy: Requests refused because there was no time for them.
        refused: Malformed requests.
    """

    state: State
    waiting: int
    pictures: int
    loads: int
    killed: int
    died: int
    busy: int
    refused: int


class StateBoard:
    """The page; made before the forks."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    def tell(self, state: State, *, waiting: int) -> None:
        """Tell what the keeper is at."""
        self._page[:16] = struct.pack("<2Q", state, waiting)

    def count(
        self, *, pictures: int = 0, loads: int = 0, killed: int = 0, died: int = 0, busy: int = 0, refused: int = 0
    ) -> None:
        """Add to the counts."""
        state, waiting, *counts = _COUNTS.unpack_from(self._page)
        more = (pictures, loads, killed, died, busy, refused)
        _COUNTS.pack_into(self._page, 0, state, waiting, *(a + b for a, b in zip(counts, more, strict=True)))

    def facts(self) -> Facts:
        """What it tells now."""
        state, waiting, pictures, loads, killed, died, busy, refused = _COUNTS.unpack_from(self._page)
        return Facts(
            state=State(state) if state in set(State) else State.STARTING,
            waiting=waiting, pictures=pictures, loads=loads, killed=killed, died=died, busy=busy, refused=refused,
        )  # fmt: skip
