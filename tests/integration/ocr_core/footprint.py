"""What a family of processes takes of memory and of the processors, those that come and go included."""

import contextlib
import os
import threading
from pathlib import Path
from types import TracebackType

_GLANCE_SECONDS = 0.02


class Footprint:
    """Watches a process and all below it while the block runs.

    Attributes:
        grown_bytes: How much more the family held at its peak than at the beginning, pages that are shared counted
            with each.
        cpu_seconds: The processors' time that the family used.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._look)
        self.grown_bytes = 0
        self.cpu_seconds = 0.0

    def __enter__(self) -> "Footprint":
        self._idle = {pid: _resident(pid, "VmRSS") for pid in _family(self._pid)}
        for pid in self._idle:
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
        self._began = sum(map(_cpu_seconds, self._idle))
        self._watch.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._done.set()
        self._watch.join()
        self._take()
        self.cpu_seconds = sum(map(_cpu_seconds, _family(self._pid))) - self._began

    def _look(self) -> None:
        while not self._done.wait(_GLANCE_SECONDS):
            self._take()

    def _take(self) -> None:
        # A process that came later was forked from one that was there: what it shares is not its own.
        shared = max(self._idle.values(), default=0)
        now = {pid: _resident(pid, "VmHWM") for pid in _family(self._pid)}
        grown = sum(max(0, peak - self._idle.get(pid, shared)) for pid, peak in now.items())
        self.grown_bytes = max(self.grown_bytes, grown)


def proportional_bytes(pid: int) -> int:
    """What a family of processes holds now; of a page that several share each is counted its part."""
    found = 0
    for one in _family(pid):
        with contextlib.suppress(OSError, StopIteration):
            told = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            found += int(next(line for line in told if line.startswith("Pss:")).split()[1]) * 1024
    return found


def _family(pid: int) -> list[int]:
    found, queue = [pid], [pid]
    while queue:
        one = queue.pop()
        with contextlib.suppress(OSError):
            below = [int(child) for child in Path(f"/proc/{one}/task/{one}/children").read_text().split()]
            found += below
            queue += below
    return found


def _resident(pid: int, field: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return 0


def _cpu_seconds(pid: int) -> float:
    """Of the process, and of those below it that have ended."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0
