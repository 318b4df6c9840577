"""What a decoder may grow by: what was seen of one document is never held against another."""

import errno
import os
import threading
import time
from collections.abc import Callable

from ocr_core.limits import OwnMemory
from ocr_core.memory_share import SHARE_BYTES, MemoryShare, Places
from tests.forked import in_child

PAUSE_SECONDS = 0.2


class ScriptedMemory(OwnMemory):
    """A process that takes what a test says.

    Args:
        when_looked_at: Called in the thread that watches, after it has seen how much is taken.
    """

    def __init__(self, when_looked_at: Callable[[], None] = lambda: None) -> None:
        self.taken_bytes = 0
        self._when_looked_at = when_looked_at

    def private_bytes(self) -> int:
        taken = self.taken_bytes
        if threading.current_thread() is not threading.main_thread():
            self._when_looked_at()
        return taken


class NoPlaces(Places):
    """Others have them all."""

    def take(self, seconds: float = 0.0) -> bool:
        return False


class NoLocks(Places):
    """The kernel has no memory for another lock."""

    def take(self, seconds: float = 0.0) -> bool:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


class LateEvent(threading.Event):
    """Tells the thread that watches what it was, a moment later."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked = threading.Event()

    def is_set(self) -> bool:
        was = super().is_set()
        if was and threading.current_thread() is not threading.main_thread():
            self.is_asked.set()
            time.sleep(PAUSE_SECONDS)
        return was


def is_free(places: Places) -> bool:
    """Whether another process finds a place."""
    return in_child(lambda: int(places.take())) == 1


def test_a_watcher_that_looks_as_a_document_ends_keeps_no_place() -> None:
    memory, places, awaited = ScriptedMemory(), Places(), LateEvent()
    given_up: list[bool] = []
    share = MemoryShare(places, memory, given_up.append)
    share._awaited = awaited
    share.watch()
    with share.document(wait_seconds=None):
        memory.taken_bytes = SHARE_BYTES + 1
        assert awaited.is_asked.wait(5)
    memory.taken_bytes = 0
    time.sleep(2 * PAUSE_SECONDS)
    assert is_free(places)
    assert given_up == []


def test_a_document_pays_for_none_that_came_before_it() -> None:
    looked = threading.Event()

    def dawdle() -> None:
        if memory.taken_bytes:
            looked.set()
            time.sleep(PAUSE_SECONDS)

    memory, given_up_at, document = ScriptedMemory(dawdle), [], 1
    share = MemoryShare(NoPlaces(), memory, lambda _: given_up_at.append(document))
    share.watch()
    with share.document(wait_seconds=None):
        memory.taken_bytes = SHARE_BYTES + 1
        assert looked.wait(5)
        memory.taken_bytes = 0
    document = 2
    with share.document(wait_seconds=None):
        time.sleep(2 * PAUSE_SECONDS)
    assert 2 not in given_up_at


def test_who_watches_gives_up_where_no_place_can_be_asked_for() -> None:
    memory, has_given_up = ScriptedMemory(), threading.Event()
    share = MemoryShare(NoLocks(), memory, lambda is_too_large: None if is_too_large else has_given_up.set())
    share.watch()
    with share.document(wait_seconds=None):
        memory.taken_bytes = SHARE_BYTES + 1
        assert has_given_up.wait(5)
