"""What one document may use of the process that decodes it, in the kernel's hands.

Invariant: limits are only ever moved below what the process was given.
"""

import os
import resource
from dataclasses import dataclass
from pathlib import Path

_STATM = Path("/proc/self/statm")
_DESCRIPTORS = "/proc/self/fd"
_PAGE_BYTES = resource.getpagesize()
_FIRST_BEYOND_STANDARD = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one document may use.

    Attributes:
        cpu_seconds: Of work; that the machine is busy does not count against a document.
        wall_seconds: Of waiting.
    """

    cpu_seconds: int
    wall_seconds: float


def resident_bytes() -> int:
    """What this process has in memory now."""
    return _statm(1)


def data_bytes() -> int:
    """What this process has set aside for data of its own; files that are mapped do not count."""
    return _statm(5)


def limit_data(limit_bytes: int) -> None:
    """Refuse this process more data than that, so that a bomb ends here."""
    _lower(resource.RLIMIT_DATA, limit_bytes)


def limit_cpu(limit_seconds: int) -> None:
    """Let the kernel kill this process (SIGXCPU) once it has used so much time since its start."""
    _lower(resource.RLIMIT_CPU, limit_seconds)


def without_core_file() -> None:
    """Leave no image of this process behind when it crashes: there is a document in it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def close_all_but(kept: int) -> None:
    """Close every descriptor but the standard ones and one more."""
    for name in os.listdir(_DESCRIPTORS):
        descriptor = int(name)
        if descriptor >= _FIRST_BEYOND_STANDARD and descriptor != kept:
            try:
                os.close(descriptor)
            except OSError:
                continue  # the one that the listing itself used


def _statm(field: int) -> int:
    return int(_STATM.read_text(encoding="ascii").split()[field]) * _PAGE_BYTES


def _lower(kind: int, limit: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
