"""What a process does first after it was forked from a larger one: a name of its own, silence, nothing open of others.

Invariant: nothing here can be taken back, and nothing here needs a library to be loaded.
"""

import contextlib
import ctypes
import os
import resource
from collections.abc import Iterable

_DESCRIPTORS = "/proc/self/fd"
_MOST_DESCRIPTORS = 4096
_STANDARD = frozenset({0, 1, 2})
_PR_SET_NAME = 15
_libc = ctypes.CDLL(None)  # found now: a confined process can load nothing any more


def be_known_as(name: str) -> None:
    """Give this process a name of at most 15 letters, as `ps` and `/proc/<pid>/comm` tell it."""
    _libc.prctl(_PR_SET_NAME, name.encode("ascii"), 0, 0, 0)


def fall_silent() -> None:
    """Send what is written to standard output and error nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def leave_no_core_file() -> None:
    """Leave no image of this process behind when it crashes: there is a document in it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def close_all_but(kept: Iterable[int]) -> None:
    """Close every descriptor but the standard ones and some more."""
    kept = _STANDARD.union(kept)
    try:
        descriptors = [int(name) for name in os.listdir(_DESCRIPTORS)]
    except OSError:  # a host without /proc
        descriptors = list(range(_MOST_DESCRIPTORS))
    for descriptor in descriptors:
        if descriptor not in kept:
            with contextlib.suppress(OSError):  # the listing itself had one open
                os.close(descriptor)
