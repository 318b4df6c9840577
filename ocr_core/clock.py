"""The core's only look at a clock.

Invariant: nothing else in the package reads a wall clock; whoever needs a time is handed one of these.
"""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """What the core needs to know of time."""

    def now(self) -> datetime:
        """The wall clock, aware UTC. It may step."""

    def boottime_ms(self) -> int:
        """Milliseconds since boot, sleep included. It never steps."""

    def boot_id(self) -> str:
        """The kernel's id of this boot."""


class SystemClock:
    """The clocks of this machine."""

    def now(self) -> datetime:
        """See `Clock.now`."""
        return datetime.now(UTC)

    def boottime_ms(self) -> int:
        """See `Clock.boottime_ms`."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

    def boot_id(self) -> str:
        """See `Clock.boot_id`; empty where the kernel does not tell."""
        try:
            return _BOOT_ID.read_text(encoding="ascii").strip()
        except OSError:
            return ""
