"""System calls that the kernel still takes from a process (seccomp): rules, assembled into the kernel's filter.

Invariants:

* A rule speaks of numbers and of values in registers; what a pointer points to is never judged, for it can change.
* Calls by another convention than x86_64's own (32-bit, x32) kill the process: their numbers mean something else.
* The program depends on the rules alone; the same rules give the same bytes.
"""

import ctypes
import errno
import platform
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from ocr_core.confinement.kernel import system_call

ALLOW = 0x7FFF0000
KILL = 0x80000000
"""Ends the process with SIGSYS."""

_SECCOMP, _SET_MODE_FILTER, _GET_ACTION_AVAILABLE = 317, 1, 2
# All threads at once; and no loss of speed on kernels before 5.16, which would slow down every branch of the engine.
_FLAGS = 1 << 0 | 1 << 2
_ARCH_X86_64 = 0xC000003E
_X32 = 0x40000000

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_IF_EQUAL, _IF_AT_LEAST = 0x15, 0x35
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, constant."""


def refuse(number: int) -> int:
    """The action that lets a call fail with an error number."""
    return 0x00050000 | number


@dataclass(frozen=True, slots=True)
class Condition:
    """What one argument of a call must be.

    Attributes:
        argument: Counted from 0.
        values: One of these, after the mask.
        mask: Which of the lower 32 bits count.
        upper: Look at the upper 32 bits instead.
    """

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    upper: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of one call.

    Attributes:
        action: What is done where all conditions of one of the cases hold.
        cases: None for always.
        otherwise: What is done where no case fits.
    """

    action: int = ALLOW
    cases: tuple[tuple[Condition, ...], ...] = ()
    otherwise: int = refuse(errno.EPERM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What becomes of every call.

    Attributes:
        rules: By number.
        default: For calls without a rule.
        newest: Above this number no call was known when the rules were written: those fail as on an older kernel.
    """

    rules: Mapping[int, Rule]
    default: int
    newest: int = 2**30 - 1


def assemble(policy: Policy) -> bytes:
    """The policy as a program for the kernel, 8 bytes an instruction."""
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_IF_EQUAL, 1, 0, _ARCH_X86_64),
        (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_IF_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, KILL),
        (_IF_AT_LEAST, 0, 1, policy.newest + 1),
        (_RETURN, 0, 0, policy.default if policy.default == ALLOW else refuse(errno.ENOSYS)),
    ]
    for number, rule in sorted(policy.rules.items()):
        block = _assembled(rule)
        program += [(_IF_EQUAL, 0, len(block), number), *block]
    program.append((_RETURN, 0, 0, policy.default))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def _assembled(rule: Rule) -> list[Instruction]:
    if not rule.cases:
        return [(_RETURN, 0, 0, rule.action)]
    block: list[Instruction] = []
    for case in rule.cases:
        block += _assembled_case(case, rule.action)
    return [*block, (_RETURN, 0, 0, rule.otherwise)]


def _assembled_case(case: tuple[Condition, ...], action: int) -> list[Instruction]:
    """Ends in the action, or runs on behind itself where a condition does not hold."""
    block: list[Instruction] = [(_RETURN, 0, 0, action)]
    for condition in reversed(case):
        test: list[Instruction] = [(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * condition.argument + 4 * condition.upper)]
        if condition.mask != 0xFFFFFFFF:
            test.append((_AND, 0, 0, condition.mask))
        last = len(condition.values) - 1
        for index, value in enumerate(condition.values):
            otherwise = 0 if index < last else len(block)
            test.append((_IF_EQUAL, last - index, otherwise, value))
        block = test + block
    return block


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def is_available() -> bool:
    """Whether this kernel takes such filters, and this machine's numbers are those of the rules."""
    wanted = ctypes.c_uint32(KILL)
    try:
        system_call(_SECCOMP, _GET_ACTION_AVAILABLE, 0, ctypes.addressof(wanted))
    except OSError:
        return False
    return platform.machine() == "x86_64"


def install(policy: Policy) -> None:
    """Submit all threads of this process, and all that they start, to the policy; needs `no_new_privs`.

    Raises:
        OSError: The kernel refused, or the machine is of another kind; then nothing is restricted.
    """
    if platform.machine() != "x86_64":
        raise OSError(errno.EOPNOTSUPP, f"the filter is for x86_64, this is {platform.machine()}")
    program = assemble(policy)
    buffer = ctypes.create_string_buffer(program, len(program))
    told = _Program(len(program) // 8, ctypes.addressof(buffer))
    blocking_thread = system_call(_SECCOMP, _SET_MODE_FILTER, _FLAGS, ctypes.addressof(told))
    if blocking_thread:
        raise OSError(errno.EBUSY, "another thread has a filter of its own")
