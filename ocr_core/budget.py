"""What one document may use of the process that decodes it, in the kernel's hands.

Invariant: limits are only ever moved below what the process was given.
"""

import ctypes
import os
import resource
import signal
from dataclasses import dataclass

_DESCRIPTORS = "/proc/self/fd"
_PR_SET_NAME = 15
_libc = ctypes.CDLL(None)  # found now: a confined process can load nothing any more
_FIRST_BEYOND_STANDARD = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one document may use.

    Attributes:
        cpu_seconds: Of work; that the machine is busy does not count against a document.
        wall_seconds: Of waiting.
        is_last: Whether a document that exceeds it is damaged; otherwise it may be given more another time.
    """

    cpu_seconds: float
    wall_seconds: float
    is_last: bool = True


def limit_data(limit_bytes: int) -> None:
    """Refuse this process more data than that, so that a bomb ends here."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(
        resource.RLIMIT_DATA, (limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard), hard)
    )


def arm(budget: Budget) -> None:
    """Let the kernel kill this process when the budget is used up: SIGPROF for work, SIGALRM for waiting.

    Timers and not a limit of the process's CPU time, because a process under a filter of system calls may not move its
    limits any more.
    """
    signal.setitimer(signal.ITIMER_PROF, budget.cpu_seconds)
    signal.setitimer(signal.ITIMER_REAL, budget.wall_seconds)


def disarm() -> None:
    """Take the budget back."""
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)


def without_core_file() -> None:
    """Leave no image of this process behind when it crashes: there is a document in it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def be_known_as(name: str) -> None:
    """Give this process a name of at most 15 letters, as `ps` and `/proc/<pid>/comm` tell it."""
    _libc.prctl(_PR_SET_NAME, name.encode("ascii"), 0, 0, 0)


def fall_silent() -> None:
    """Send what is written to standard output and error nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def close_all_but(kept: int) -> None:
    """Close every descriptor but the standard ones and one more."""
    for name in os.listdir(_DESCRIPTORS):
        descriptor = int(name)
        if descriptor >= _FIRST_BEYOND_STANDARD and descriptor != kept:
            try:
                os.close(descriptor)
            except OSError:
                continue  # the one that the listing itself used
