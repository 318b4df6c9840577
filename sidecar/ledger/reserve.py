"""The disk reserve: room that is given up when the disk is full, so that the refusal can still be written down.

Invariant: while the reserve is spent no new use is taken in; it is taken back before work is.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

RESERVE_BYTES = 4 * 1024 * 1024
RESERVE_NAME = "ledger.reserve"


class DiskReserve:
    """A preallocated file beside the ledger. All processes see the same one.

    Args:
        folder: The state directory.
        size: Bytes kept back.
    """

    def __init__(self, folder: Path, size: int = RESERVE_BYTES) -> None:
        self._path = folder / RESERVE_NAME
        self._size = size

    @property
    def is_spent(self) -> bool:
        """Whether the room was given up and not taken back yet."""
        try:
            return self._path.stat().st_size < self._size
        except OSError:
            return True

    def spend(self) -> bool:
        """Give the room up; false when there was none to give."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True

    def restore(self) -> bool:
        """Take the room back if the disk has as much again to spare; whether it is there now."""
        if not self.is_spent:
            return True
        # Each process and thread its own: a half-made reserve never counts as one.
        making = self._path.with_name(f".{RESERVE_NAME}.{os.getpid()}-{threading.get_ident()}")
        try:
            room = os.statvfs(self._path.parent)
            if room.f_bavail * room.f_frsize < 2 * self._size:
                return False
            descriptor = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
            try:
                os.posix_fallocate(descriptor, 0, self._size)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            making.replace(self._path)
        except OSError:
            return False
        finally:
            with contextlib.suppress(OSError):
                making.unlink(missing_ok=True)
        return True
