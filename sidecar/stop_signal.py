"""Waiting for SIGTERM or SIGINT without a lock.

Invariant: the signal handler takes no lock. (`threading.Event.set` does; called from a handler while the same thread
is inside `Event.wait`, it waits for itself for ever.)
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from types import FrameType


class StopSignal:
    """Becomes true at the first SIGTERM or SIGINT and stays so. Made in the main thread."""

    def __init__(self) -> None:
        self._readable, self._writable = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._readable, select.POLLIN)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._received)

    def wait(self, seconds: float) -> bool:
        """Wait for the signal, at most so long; whether it has come."""
        return bool(self._poll.poll(seconds * 1000))

    def _received(self, _number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):  # many signals have come; one is enough
            os.write(self._writable, b"\0")
