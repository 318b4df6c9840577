"""How a process is forked from a larger one, and what it does first: a name of its own, silence, nothing left open.

Invariants:

* What the parent has forgotten is never collected in the child.
* Nothing here can be taken back, and nothing here needs a library to be loaded.
"""

import ctypes
import fcntl
import gc
import os
import resource
from collections.abc import Iterable

_DESCRIPTORS = "/proc/self/fd"
_MOST_DESCRIPTORS = 4096
_STANDARD = frozenset({0, 1, 2})
_PR_SET_NAME = 15
_libc = ctypes.CDLL(None)  # found now: a confined process can load nothing any more


def fork() -> int:
    """`os.fork`, with everything that is there left alone by the child's collector for ever, and so shared for longer.

    The end of an object that owns threads waits for them, as an engine's session does. They do not come along: a child
    that happened to collect such a thing of its parent's would stand still for good.

    Returns:
        The child's process id; 0 in the child.

    Raises:
        OSError: The operating system permits no other process.
    """
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        pid = os.fork()
        if not pid:
            gc.freeze()
        return pid
    finally:
        if was_collecting:
            gc.enable()


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


def disconnect_all_but(kept: Iterable[int]) -> None:
    """Let every descriptor but the standard ones and some more lead nowhere.

    Their numbers stay taken: what the parent had open lives on here as objects that know a number; one that is written
    to or collected would otherwise write into, or close, what this process has opened since.

    Args:
        kept: The descriptors that this process needs.
    """
    kept = _STANDARD.union(kept)
    try:
        descriptors = [int(name) for name in os.listdir(_DESCRIPTORS)]
    except OSError:  # a host without /proc
        descriptors = list(range(_MOST_DESCRIPTORS))
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in descriptors:
        if descriptor not in kept and descriptor != nowhere and _is_open(descriptor):
            os.dup2(nowhere, descriptor, inheritable=False)
    os.close(nowhere)


def _is_open(descriptor: int) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_GETFD)
    except OSError:  # the one of the listing itself among them
        return False
    return True
