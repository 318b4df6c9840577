"""Calls to the kernel that Python's library has no name for.

Invariant: a refusal is an OSError with the kernel's number; nothing here returns a code to be forgotten.
"""

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def system_call(number: int, *arguments: int) -> int:
    """Call the kernel by number.

    Args:
        number: As x86_64 counts them, or of the generic table above 423.
        arguments: Numbers and addresses.

    Raises:
        OSError: The kernel refused.
    """
    result = int(_libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(argument) for argument in arguments)))
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def process_control(option: int, value: int = 0) -> int:
    """Set or ask one attribute of this process (`prctl`).

    Raises:
        OSError: The kernel refused.
    """
    result = int(_libc.prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0))))
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
