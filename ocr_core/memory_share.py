"""What decoders may grow by: a little each, much only who holds one of the few places for that.

Several documents that swell at once must not take the sum of what each of them may. So a decoder that needs more than
its share takes a place first, and one that was caught growing takes a place or ends.

Invariants:

* However the holder of a place ends, the kernel frees it: a place is a byte of a file in memory, locked by the process.
* Only growth counts: what a decoder inherited from its worker is shared with it.
* What is seen to grow counts for the document that grew: no document ends between the look and what follows from it.
"""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator

from ocr_core.errors import MachineBusyError, SlowDocumentError
from ocr_core.limits import OwnMemory

SHARE_BYTES = 56 * 2**20
"""What a decoder may grow by without a place: what a gray page of 50 megapixels takes, or A4 at 300 DPI
with colours and alpha."""

LARGE_BYTES = 760 * 2**20
"""What it may grow by with a place; with the shares of four others less than 1 GiB. Only a picture whose header says
that it takes more may have more."""

_PAGES_FOR_A_PLACE = 4
_STACK_BYTES = 256 * 1024
_PAUSE_SECONDS = 0.02
_GLANCE_SECONDS = 0.005  # in which a process that does nothing else fills some 20 MiB


def most_at_once(pages: int) -> int:
    """How many documents that take much are decoded at once, beside so many pages that are read."""
    return max(1, pages // _PAGES_FOR_A_PLACE)


class Places:
    """The places for decoders that grow; made before the forks.

    Args:
        count: How many there are.
    """

    def __init__(self, count: int = 1) -> None:
        self._count = count
        self._file = os.memfd_create("places", os.MFD_CLOEXEC)

    def fileno(self) -> int:
        """The descriptor that a forked process keeps."""
        return self._file

    def take(self, seconds: float = 0.0) -> bool:
        """Take a place for this process, unless it has one; false when there is none for so many seconds."""
        until = time.monotonic() + seconds
        while True:
            for place in range(self._count):
                with contextlib.suppress(BlockingIOError, PermissionError):
                    fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
                    return True
            if time.monotonic() >= until:
                return False
            time.sleep(_PAUSE_SECONDS)

    def leave(self) -> None:
        """Give the place back, if this process has one."""
        fcntl.lockf(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


class MemoryShare:
    """What this process may grow by while it decodes one document after another.

    Args:
        places: Where to go for more.
        memory: The process's own.
        give_up: Ends the process at once; called in another thread when it grew and there was no place, or when it
            grew beyond what a place allows, which it is told.
    """

    def __init__(self, places: Places, memory: OwnMemory, give_up: Callable[[bool], object]) -> None:
        self._places = places
        self._memory = memory
        self._give_up = give_up
        self._idle_bytes = memory.private_bytes()
        self._has_place = False
        self._largest_bytes = LARGE_BYTES
        self._awaited = threading.Event()
        self._changed = threading.Lock()

    @contextlib.contextmanager
    def document(self, *, wait_seconds: float | None) -> Iterator[None]:
        """One document is decoded.

        Args:
            wait_seconds: How long to wait for a place, which is then taken in any case; None takes one only when it
                is needed, and waits for none.

        Raises:
            MachineBusyError: No place came free.
        """
        self._has_place = wait_seconds is not None and self._places.take(wait_seconds)
        if wait_seconds is not None and not self._has_place:
            raise MachineBusyError("Other large documents are being decoded; this one has to wait.")
        self._largest_bytes = LARGE_BYTES
        self._awaited.set()
        try:
            yield
        finally:
            with self._changed:
                self._awaited.clear()
                if self._has_place:
                    self._places.leave()
                self._has_place = False

    def need(self, bytes_needed: int) -> None:
        """Make sure of a place before something is decoded that takes so much.

        Raises:
            SlowDocumentError: There is none; somebody patient is to ask again.
        """
        with self._changed:
            if bytes_needed > SHARE_BYTES and not self._is_allowed_more():
                raise SlowDocumentError("The document takes much memory to decode.")
        self._largest_bytes = max(self._largest_bytes, bytes_needed + SHARE_BYTES)

    def watch(self) -> None:
        """Watch the growth from now on, in a thread."""
        threading.stack_size(_STACK_BYTES)
        threading.Thread(target=self._watch, name="memory-share", daemon=True).start()

    def _watch(self) -> None:
        while self._awaited.wait():
            with self._changed:
                if self._awaited.is_set():  # else the document has ended meanwhile
                    self._look()
            time.sleep(_GLANCE_SECONDS)

    def _look(self) -> None:
        grown = self._memory.private_bytes() - self._idle_bytes
        if grown <= SHARE_BYTES:
            return
        try:
            is_allowed = self._is_allowed_more()
        except OSError:  # the kernel has no lock to give; nobody would watch any more
            is_allowed = False
        if not is_allowed:
            self._give_up(False)
        elif grown > self._largest_bytes:
            self._give_up(True)

    def _is_allowed_more(self) -> bool:
        """Take a place, unless there is one already; only for who holds `_changed`."""
        self._has_place = self._has_place or self._places.take()
        return self._has_place
