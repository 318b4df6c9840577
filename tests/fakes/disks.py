"""A disk of its own for a folder: a file system in memory, which can be as small as a test needs it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def mounted(path: Path, *options: str) -> Iterator[None]:
    """A file system in memory, mounted there; skips where nothing can be mounted.

    Args:
        path: An empty folder.
        options: Of tmpfs, such as `size=16m`.
    """
    words = ["mount", "-t", "tmpfs", *(["-o", ",".join(options)] if options else []), "tmpfs", str(path)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a file system needs root")
    if (done := subprocess.run(words, capture_output=True, text=True, check=False)).returncode != 0:
        pytest.skip(f"cannot mount a file system: {done.stderr}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=False)


def fill(disk: Path, *, leave_bytes: int = 0) -> Path:
    """Write until nothing more fits, then give a little back; the file that takes the room."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as out:
        with suppress(OSError):
            while True:
                out.write(bytes(4096))
        os.ftruncate(out.fileno(), max(0, out.tell() - leave_bytes))
    return filler
