"""What a process of the core may use, and when it must die.

Invariants:

* A page that outlives its deadline ends with the process that reads it: the kernel's timer kills, so neither native
  code nor a held interpreter lock can stop it.
* No worker outlives its master.
"""

import ctypes
import math
import os
import resource
import select
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

_libc = ctypes.CDLL(None)  # now: a process that was confined loads no library
_PR_SET_PDEATHSIG = 1
_PAGE_BYTES = resource.getpagesize()
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_PROC_CGROUP = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")

WORKER_BYTES = 300 * 2**20
"""What a worker with its decoder may take while it reads a large page."""
SECOND_ENGINE_BYTES = 1200 * 2**20
"""What the second engine may take while it works."""
BESIDE_BYTES = 300 * 2**20
"""What lives beside them within the same limit: the core's master, and web and meter where one container holds all."""


def usable_cpus(*, cgroup_root: Path = _CGROUP_ROOT, proc_cgroup: Path = _PROC_CGROUP) -> int:
    """How many CPUs this process may keep busy: its affinity, cut by the cgroup's quota; at least 1."""
    cpus = len(os.sched_getaffinity(0))
    quotas = [quota for quota in _quotas(cgroup_root, proc_cgroup) if quota > 0]
    return max(1, min([cpus, *(math.ceil(quota) for quota in quotas)]))


def _quotas(root: Path, proc_cgroup: Path) -> Iterator[float]:
    """CPU quotas of the process's cgroups and their parents, in CPUs."""
    for line in _text(proc_cgroup).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, own = rest.partition(":")
        if controllers == "":
            for folder in _upwards(root, own):
                quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
                if quota.isdigit() and period.isdigit() and int(period):
                    yield int(quota) / int(period)
        elif "cpu" in controllers.split(","):
            for mount in ("cpu", "cpu,cpuacct"):
                for folder in _upwards(root / mount, own):
                    quota = _text(folder / "cpu.cfs_quota_us").strip()
                    period = _text(folder / "cpu.cfs_period_us").strip()
                    if quota.isdigit() and period.isdigit() and int(period):
                        yield int(quota) / int(period)


def usable_memory_bytes(
    *, cgroup_root: Path = _CGROUP_ROOT, proc_cgroup: Path = _PROC_CGROUP, meminfo: Path = _MEMINFO
) -> int | None:
    """How much memory this process and those beside it may use: the machine's, cut by the cgroup's limit.

    Returns:
        None where neither is told.
    """
    total = next((line.split()[1] for line in _text(meminfo).splitlines() if line.startswith("MemTotal:")), "")
    known = [int(total) * 1024] if total.isdigit() else []
    for line in _text(proc_cgroup).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, own = rest.partition(":")
        root, name = cgroup_root, "memory.max"
        if "memory" in controllers.split(","):
            root, name = cgroup_root / "memory", "memory.limit_in_bytes"
        elif controllers:
            continue
        limits = (_text(folder / name).strip() for folder in _upwards(root, own))
        known += [int(limit) for limit in limits if limit.isdigit()]
    return min(known, default=None)


def affordable_workers(cpus: int, memory_bytes: int | None, *, has_second_engine: bool) -> int:
    """How many pages may be read at once: as many as there are CPUs, as long as the memory does for large pages.

    Args:
        cpus: The CPUs that may be kept busy.
        memory_bytes: The memory that may be used; None where that is not known.
        has_second_engine: Whether room is kept for the second engine.

    Returns:
        At least 1, however little memory there is.
    """
    if memory_bytes is None:
        return cpus
    room = memory_bytes - BESIDE_BYTES - (SECOND_ENGINE_BYTES if has_second_engine else 0)
    return max(1, min(cpus, room // WORKER_BYTES))


def _upwards(root: Path, own: str) -> Iterator[Path]:
    folder = root / own.strip("/")
    while True:
        yield folder
        if folder == root or root not in folder.parents:
            return
        folder = folder.parent


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def limit_memory(limit_bytes: int) -> None:
    """Cap the address space, so that a bomb is a MemoryError here and not an out-of-memory kill elsewhere."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit_bytes = min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, hard))


def die_with_parent(number: signal.Signals, *, parent_pid: int) -> None:
    """Ask the kernel to send `number` here when the parent is gone; at once if it is gone already.

    Args:
        number: The signal.
        parent_pid: Who the parent was when this process was started.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), number)


def arm_deadline(seconds: float) -> None:
    """Let the kernel kill this process (SIGALRM) unless `disarm_deadline` comes first."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def disarm_deadline() -> None:
    """Take the deadline back."""
    signal.setitimer(signal.ITIMER_REAL, 0)


class OwnMemory:
    """The memory of the process that makes this; to be made before the process is confined."""

    def __init__(self) -> None:
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

    def private_bytes(self) -> int:
        """What no file backs; what is shared with sibling processes since the fork counts in."""
        return self._field(1) - self._field(2)

    def resident_bytes(self) -> int:
        """What is in memory now."""
        return self._field(1)

    def data_bytes(self) -> int:
        """What is set aside for data of its own; files that are mapped do not count."""
        return self._field(5)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._statm)

    def _field(self, number: int) -> int:
        return int(os.pread(self._statm, 256, 0).split()[number]) * _PAGE_BYTES

    def trim(self) -> None:
        """Give back to the kernel what was freed; the allocator keeps it otherwise. Two milliseconds after a page."""
        _libc.malloc_trim(0)

    def is_within(self, most: int, *, trimmed_above: int) -> bool:
        """Whether the process holds no more than it may, once it has given back what it can.

        Args:
            most: What it may hold, bytes.
            trimmed_above: What it may keep for the next page, bytes: to give back costs time, and to fetch it again.
        """
        if self.private_bytes() > min(trimmed_above, most):
            self.trim()
        return self.private_bytes() <= most


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal and stands still."""
    return _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()[:1] == ["T"]


def has_hung_up(connection: socket.socket) -> bool:
    """Whether nobody is at the other end any more."""
    poll = select.poll()
    poll.register(connection, 0)  # hang-ups are always told
    return any(event & select.POLLHUP for _, event in poll.poll(0))
