"""How much memory the service takes, for `HealthCheck:MemoryUpperboundInMB`.

Invariant: what several processes share is counted once (the kernel's proportional set size), so that the figure is
what would be free if the service were gone. Where the kernel does not tell that, resident size stands in for it, which
is more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sidecar.settings import LAUNCHER_VARIABLE

_PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def service_bytes() -> int:
    """Memory of the launcher and all below it; of web alone where each process has a unit or container of its own."""
    children: dict[int, list[int]] = {}
    parents: dict[int, int] = {}
    for pid, parent in _processes():
        children.setdefault(parent, []).append(pid)
        parents[pid] = parent
    family = [_top(parents)]
    for pid in family:  # grows while it is walked
        family += children.get(pid, [])
    return sum(map(_bytes_of, family))


def _processes() -> Iterator[tuple[int, int]]:
    """Process ids and their parents'."""
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            with suppress(OSError, ValueError, IndexError):  # it is gone already
                # The command's name is in parentheses, and may hold any character.
                yield int(folder.name), int((folder / "stat").read_text().rpartition(")")[2].split()[1])


def _top(parents: dict[int, int]) -> int:
    """The launcher, if it is above us; else web's own master."""
    named = os.environ.get(LAUNCHER_VARIABLE, "")
    pid = os.getpid()
    while pid in parents:
        if str(pid) == named:
            return pid
        pid = parents[pid]
    return os.getppid()


def _bytes_of(pid: int) -> int:
    with suppress(OSError, ValueError, IndexError):
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    with suppress(OSError, ValueError, IndexError):
        return int((_PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE_BYTES
    return 0
