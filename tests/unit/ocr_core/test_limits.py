import ctypes
import os
import signal
import time
from pathlib import Path

import pytest

from ocr_core import limits
from tests.forked import in_child


@pytest.mark.parametrize(
    ("files", "cgroup", "most"),
    [
        ({"a/b/cpu.max": "150000 100000"}, "0::/a/b", 2),
        ({"a/cpu.max": "100000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b", 1),
        ({"a/cpu.max": "20000 100000"}, "0::/a", 1),
        ({"cpu/x/cpu.cfs_quota_us": "100000", "cpu/x/cpu.cfs_period_us": "100000"}, "3:cpu,cpuacct:/x", 1),
        ({"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, "3:cpu:/x", 1000),
        ({"a/cpu.max": "nonsense"}, "0::/a", 1000),
        ({}, "", 1000),
    ],
)
def test_a_quota_cuts_the_cpus(tmp_path: Path, files: dict[str, str], cgroup: str, most: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    own = tmp_path / "own"
    own.write_text(cgroup + "\n")
    found = limits.usable_cpus(cgroup_root=tmp_path, proc_cgroup=own)
    assert found == min(len(os.sched_getaffinity(0)), most)


def test_affinity_cuts_the_cpus() -> None:
    def work() -> int:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        return limits.usable_cpus()

    assert in_child(work) == 1


def test_a_deadline_kills_even_a_busy_process() -> None:
    def work() -> int:
        limits.arm_deadline(0.2)
        while True:
            pass

    assert in_child(work) == -signal.SIGALRM


def test_a_deadline_taken_back_does_not_kill() -> None:
    def work() -> int:
        limits.arm_deadline(0.1)
        limits.disarm_deadline()
        time.sleep(0.3)
        return 0

    assert in_child(work) == 0


def test_memory_beyond_the_limit_is_an_error_not_a_kill() -> None:
    def work() -> int:
        limits.limit_memory(1024**3)
        try:
            bytearray(2 * 1024**3)
        except MemoryError:
            return 0
        return 1

    assert in_child(work) == 0


def test_a_process_whose_parent_is_gone_already_dies_at_once() -> None:
    def work() -> int:
        limits.die_with_parent(signal.SIGKILL, parent_pid=2**22 + 1)
        return 0

    assert in_child(work) == -signal.SIGKILL


def test_a_process_whose_parent_lives_lives() -> None:
    parent = os.getpid()

    def work() -> int:
        limits.die_with_parent(signal.SIGKILL, parent_pid=parent)
        return 0

    assert in_child(work) == 0


@pytest.mark.parametrize(
    ("files", "own", "megabytes"),
    [
        ({}, "0::/", 8000),
        ({"a/memory.max": "2097152000", "a/b/memory.max": "max"}, "0::/a/b", 2000),
        ({"memory/a/memory.limit_in_bytes": "1048576000"}, "3:memory:/a", 1000),
        ({"memory/a/memory.limit_in_bytes": "9223372036854771712"}, "3:memory:/a", 8000),
        ({"a/memory.max": "nonsense"}, "0::/a", 8000),
    ],
)
def test_memory_is_the_machines_cut_by_the_cgroup(
    tmp_path: Path, files: dict[str, str], own: str, megabytes: int
) -> None:
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(text + "\n")
    (tmp_path / "own").write_text(own + "\n")
    (tmp_path / "meminfo").write_text("MemTotal:        8192000 kB\nMemFree: 1 kB\n")
    found = limits.usable_memory_bytes(
        cgroup_root=tmp_path / "cgroup", proc_cgroup=tmp_path / "own", meminfo=tmp_path / "meminfo"
    )
    assert found == megabytes * 2**20


def test_memory_that_nothing_tells_of_is_not_known(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert limits.usable_memory_bytes(cgroup_root=nowhere, proc_cgroup=nowhere, meminfo=nowhere) is None


@pytest.mark.parametrize(
    ("cpus", "megabytes", "has_second_engine", "workers"),
    [
        (8, None, True, 8),
        (8, 16384, True, 8),
        (8, 4096, True, 8),
        (8, 2048, True, 1),
        (8, 2048, False, 5),
        (4, 256, True, 1),
        (1, 65536, True, 1),
    ],
)
def test_memory_that_is_short_makes_fewer_workers(
    cpus: int, megabytes: int | None, has_second_engine: bool, workers: int
) -> None:
    memory_bytes = None if megabytes is None else megabytes * 2**20
    assert limits.affordable_workers(cpus, memory_bytes, has_second_engine=has_second_engine) == workers


MIB = 2**20
PIECE = 100_000  # small enough for the allocator to keep it when it is freed


def hold(pieces: int) -> list[int]:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    found = [libc.malloc(PIECE) for _ in range(pieces)]
    for address in found:
        ctypes.memset(address, 1, PIECE)
    return found


def let_go(pieces: list[int]) -> None:
    libc = ctypes.CDLL(None)
    for address in pieces:
        libc.free(ctypes.c_void_p(address))


@pytest.mark.parametrize(("room", "above", "is_kept"), [(20, 112, False), (112, 20, False), (112, 112, True)])
def test_what_was_freed_is_given_back_before_a_process_is_thought_too_large(
    room: int, above: int, is_kept: bool
) -> None:
    """Below either bound the memory stays for the next page; above the lower one it goes back first."""

    def work() -> int:
        memory = limits.OwnMemory()
        memory.trim()
        before = memory.private_bytes()
        pieces = hold(600)
        let_go(pieces[:-1])  # the last one is in the way of giving back the others
        if memory.private_bytes() < before + 40 * MIB:
            return 1
        if not memory.is_within(before + room * MIB, trimmed_above=before + above * MIB):
            return 2
        return 0 if (memory.private_bytes() > before + 40 * MIB) == is_kept else 3

    assert in_child(work) == 0


def test_a_process_that_can_give_nothing_back_is_too_large() -> None:
    def work() -> int:
        memory = limits.OwnMemory()
        memory.trim()
        before = memory.private_bytes()
        hold(600)
        return int(memory.is_within(before + 20 * MIB, trimmed_above=before + 20 * MIB))

    assert in_child(work) == 0
