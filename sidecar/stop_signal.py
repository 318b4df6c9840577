"""Waiting for SIGTERM or SIGINT without a lock.

Invariant: the signal handler takes no lock. (`threading.Event.set` does; called from a handler while the same thread
is inside `Event.wait`, it waits for itself for ever.)
"""

from __future__ import annotations

import os
import select
import signal
from types import FrameType


class StopSignal:
    """Becomes true at the first SIGTERM or SIGINT and stays so. Made in the main thread."""

    def __init__(self) -> None:
        self._readable, self._writable = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._received)

    def wait(self, seconds: float) -> bool:
        """Wait for the signal, at most so long; whether it has come."""
        readable, _, _ = select.select([self._readable], [], [], seconds)
        return bool(readable)

    def _received(self, _number: int, _frame: FrameType | None) -> None:
        try:
            os.write(self._writable, b"\0")
        except BlockingIOError:
            pass  # many signals have come; one is enough
