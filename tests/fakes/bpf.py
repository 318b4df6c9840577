"""The kernel's filter machine, as far as programs for system calls use it."""

import struct
from collections.abc import Sequence

X86_64 = 0xC000003E


def run(program: bytes, number: int, arguments: Sequence[int] = (), *, arch: int = X86_64) -> int:
    """The action that a program decides on for one system call."""
    given = [value & 0xFFFFFFFFFFFFFFFF for value in (*arguments, *[0] * 6)][:6]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch, 0, *given)
    instructions = list(struct.iter_unpack("<HBBI", program))
    accumulator = at = 0
    while True:
        code, if_true, if_false, constant = instructions[at]
        at += 1
        if code == 0x20:
            assert constant % 4 == 0
            (accumulator,) = struct.unpack_from("<I", data, constant)
        elif code == 0x54:
            accumulator &= constant
        elif code == 0x15:
            at += if_true if accumulator == constant else if_false
        elif code == 0x35:
            at += if_true if accumulator >= constant else if_false
        elif code == 0x06:
            return int(constant)
        else:
            raise AssertionError(f"no such instruction: {code:#x}")
