import errno
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocr_core.confinement import system_calls
from ocr_core.confinement.seccomp import ALLOW, KILL, Condition, Policy, Rule, assemble, refuse
from tests.fakes.bpf import run

PID = 4321
READING = assemble(system_calls.for_reading(PID))
KEEPING = assemble(system_calls.for_keeping_processes())

READ, WRITE, OPEN, MMAP, MPROTECT, IOCTL, SOCKET, CONNECT, BIND = 0, 1, 2, 9, 10, 16, 41, 42, 49
SOCKETPAIR, SETSOCKOPT, CLONE, FORK, EXECVE, KILL_CALL, RENAME, UNLINK = 53, 54, 56, 57, 59, 62, 82, 87
PTRACE, SETUID, PRCTL, MOUNT, TKILL, TGKILL, OPENAT, UNSHARE = 101, 105, 157, 165, 200, 234, 257, 272
UTIMENSAT, PRLIMIT64, SECCOMP, MEMFD_CREATE, BPF, IO_URING_SETUP, CLONE3 = 280, 302, 317, 319, 321, 425, 435
LANDLOCK, PKEY_MPROTECT, OPENAT2 = 444, 329, 437

THREAD = 0x3D0F00  # as glibc makes one
CHILD = 0x01200011  # as fork does


@pytest.mark.parametrize(
    ("number", "arguments", "action"),
    [
        (READ, (), ALLOW),
        (WRITE, (2,), ALLOW),
        (OPENAT, (0, 0, os.O_RDONLY | os.O_CLOEXEC), ALLOW),
        (OPENAT, (0, 0, os.O_PATH), ALLOW),
        (OPENAT, (0, 0, os.O_RDONLY | os.O_DIRECTORY), ALLOW),
        (OPENAT, (0, 0, os.O_WRONLY), refuse(errno.EROFS)),
        (OPENAT, (0, 0, os.O_RDWR), refuse(errno.EROFS)),
        (OPENAT, (0, 0, os.O_RDONLY | os.O_CREAT), refuse(errno.EROFS)),
        (OPENAT, (0, 0, os.O_RDONLY | os.O_TRUNC), refuse(errno.EROFS)),
        (OPENAT, (0, 0, os.O_TMPFILE | os.O_RDWR), refuse(errno.EROFS)),
        (OPEN, (0, os.O_RDONLY), ALLOW),
        (OPEN, (0, os.O_WRONLY), refuse(errno.EROFS)),
        (OPENAT2, (), refuse(errno.EPERM)),
        (RENAME, (), refuse(errno.EPERM)),
        (UNLINK, (), refuse(errno.EPERM)),
        (UTIMENSAT, (5, 0), ALLOW),
        (UTIMENSAT, (5, 1 << 40), refuse(errno.EPERM)),
        (MMAP, (0, 4096, 3), ALLOW),
        (MMAP, (0, 4096, 5), refuse(errno.EPERM)),
        (MPROTECT, (0, 4096, 7), refuse(errno.EPERM)),
        (PKEY_MPROTECT, (0, 4096, 1), refuse(errno.EPERM)),
        (MEMFD_CREATE, (), ALLOW),
        (IOCTL, (1, 0x5401), ALLOW),
        (IOCTL, (1, 0x5412), refuse(errno.ENOTTY)),  # TIOCSTI, typing into the terminal
        (SOCKET, (1, 1), refuse(errno.EACCES)),
        (SOCKET, (2, 1), refuse(errno.EACCES)),
        (SOCKETPAIR, (1, 5 | 0o2000000), ALLOW),
        (SOCKETPAIR, (1, 1), ALLOW),
        (SOCKETPAIR, (1, 2), refuse(errno.EACCES)),
        (SOCKETPAIR, (2, 1), refuse(errno.EACCES)),
        (CONNECT, (), refuse(errno.EPERM)),
        (BIND, (), refuse(errno.EPERM)),
        (SETSOCKOPT, (3, 1), ALLOW),
        (SETSOCKOPT, (3, 0), refuse(errno.EPERM)),
        (CLONE, (THREAD,), ALLOW),
        (CLONE, (CHILD,), refuse(errno.EPERM)),
        (CLONE, (THREAD | 0x10000000,), refuse(errno.EPERM)),
        (CLONE3, (), refuse(errno.ENOSYS)),
        (FORK, (), refuse(errno.EPERM)),
        (KILL_CALL, (PID, 6), ALLOW),
        (KILL_CALL, (PID + 1, 9), refuse(errno.EPERM)),
        (KILL_CALL, (-1, 9), refuse(errno.EPERM)),
        (TGKILL, (PID, PID, 6), ALLOW),
        (TGKILL, (1, 1, 6), refuse(errno.EPERM)),
        (TKILL, (PID,), refuse(errno.EPERM)),
        (PRCTL, (15,), ALLOW),
        (PRCTL, (4, 1), refuse(errno.EPERM)),
        (PRLIMIT64, (0, 7), ALLOW),
        (PRLIMIT64, (1, 7), refuse(errno.EPERM)),
        (SECCOMP, (), refuse(errno.EPERM)),
        (LANDLOCK, (), refuse(errno.EPERM)),
        *((number, (), KILL) for number in (EXECVE, PTRACE, SETUID, MOUNT, UNSHARE, BPF, IO_URING_SETUP)),
        (system_calls.NEWEST, (), refuse(errno.EPERM)),
        (system_calls.NEWEST + 1, (), refuse(errno.ENOSYS)),
        (0x40000000 | READ, (), KILL),  # x32
        (-1, (), KILL),
    ],
)
def test_who_reads_documents_may(number: int, arguments: tuple[int, ...], action: int) -> None:
    assert run(READING, number, arguments) == action


@pytest.mark.parametrize(
    ("number", "arguments", "action"),
    [
        (CLONE, (CHILD,), ALLOW),
        (EXECVE, (), ALLOW),
        (OPENAT, (0, 0, os.O_RDWR), ALLOW),
        (KILL_CALL, (1, 9), ALLOW),
        (SECCOMP, (), ALLOW),
        (LANDLOCK, (), ALLOW),
        (SOCKET, (1, 2), ALLOW),
        (SOCKET, (2, 1), refuse(errno.EACCES)),
        (SOCKET, (16, 3), refuse(errno.EACCES)),
        (PTRACE, (), KILL),
        (IO_URING_SETUP, (), KILL),
        (5000, (), ALLOW),
    ],
)
def test_who_keeps_processes_may(number: int, arguments: tuple[int, ...], action: int) -> None:
    assert run(KEEPING, number, arguments) == action


@pytest.mark.parametrize("program", [READING, KEEPING])
def test_another_convention_of_calling_kills(program: bytes) -> None:
    for arch in (0x40000003, 0xC00000B7, 0):
        assert run(program, READ, arch=arch) == KILL


@pytest.mark.parametrize("program", [READING, KEEPING])
def test_the_kernel_takes_the_programs(program: bytes) -> None:
    instructions = list(struct.iter_unpack("<HBBI", program))
    assert len(instructions) <= 4096
    assert instructions[-1][0] == 0x06
    for at, (code, if_true, if_false, _) in enumerate(instructions):
        assert at + 1 + max(if_true, if_false) < len(instructions) or code == 0x06


words = st.integers(0, 2**64 - 1)
conditions = st.builds(
    Condition,
    st.integers(0, 5),
    st.lists(st.integers(0, 7), min_size=1, max_size=3).map(tuple),
    st.sampled_from([0xFFFFFFFF, 3, 6]),
    st.booleans(),
)
rules = st.builds(
    Rule,
    st.sampled_from([ALLOW, refuse(7)]),
    st.lists(st.lists(conditions, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple),
    st.sampled_from([KILL, refuse(9)]),
)
policies = st.builds(
    lambda rules, default: Policy(rules=rules, default=default, newest=20),
    st.dictionaries(st.integers(0, 20), rules, max_size=6),
    st.sampled_from([ALLOW, KILL, refuse(1)]),
)


def judged(policy: Policy, number: int, arguments: list[int]) -> int:
    if number > policy.newest:
        return ALLOW if policy.default == ALLOW else refuse(errno.ENOSYS)
    rule = policy.rules.get(number)
    if rule is None:
        return policy.default

    def holds(condition: Condition) -> bool:
        value = arguments[condition.argument]
        half = value >> 32 if condition.upper else value & 0xFFFFFFFF
        return half & condition.mask in condition.values

    is_so = not rule.cases or any(all(map(holds, case)) for case in rule.cases)
    return rule.action if is_so else rule.otherwise


@given(policies, st.integers(0, 22), st.lists(st.integers(0, 7) | words, min_size=6, max_size=6))
def test_a_program_decides_as_its_policy_says(policy: Policy, number: int, arguments: list[int]) -> None:
    assert run(assemble(policy), number, arguments) == judged(policy, number, arguments)
