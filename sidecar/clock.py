"""Time: one reading of the host's clocks, and the effective time that a rolled-back clock cannot lower.

Invariant: effective time never runs backwards, whatever the wall clock does; a jump forward is not believed
(quarantined) until NTP, a signed anchor or an operator vouches for it. This is the only module that reads a clock.
Source of the rules: the decisions on the clock, section 4 of the licensing design; ADR 9 for the jump over a reboot.
"""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

FORWARD_TOLERANCE_NS = 600 * 1_000_000_000
POWERED_OFF_TOLERANCE_NS = 14 * 86_400 * 1_000_000_000
_STATUS_UNSYNCHRONISED = 0x40
_TIMEX_STATUS_OFFSET = 40
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One look at the host's clocks.

    Attributes:
        wall_ns: Wall clock, nanoseconds since the Unix epoch; may step either way.
        boottime_ns: CLOCK_BOOTTIME, nanoseconds since boot, suspend included; never steps.
        boot_id: The kernel's id of this boot.
    """

    wall_ns: int
    boottime_ns: int
    boot_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HighWater:
    """The highest effective time committed to, and where it stood on the boot clock.

    Attributes:
        effective_ns: Nanoseconds since the Unix epoch.
        boottime_ns: CLOCK_BOOTTIME when it was committed.
        boot_id: The boot in which it was committed.
    """

    effective_ns: int
    boottime_ns: int
    boot_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveTime:
    """What time it is, as far as the licence and the ledger are concerned.

    Attributes:
        ns: Nanoseconds since the Unix epoch.
        quarantined: The wall clock is ahead of what this boot's own clock allows, and is not believed.
        reading: The look at the clocks this was computed from.
    """

    ns: int
    quarantined: bool
    reading: Reading

    @property
    def at(self) -> datetime:
        """The same instant as an aware UTC datetime."""
        return instant(self.ns)


class Clock(Protocol):
    """Where readings come from."""

    def read(self) -> Reading:
        """Look at all clocks once."""
        ...

    def is_synchronised(self) -> bool:
        """Whether the kernel says that the wall clock is disciplined by a time service."""
        ...


class SystemClock:
    """The host's clocks."""

    def __init__(self, boot_id_path: Path = Path("/proc/sys/kernel/random/boot_id")) -> None:
        self._boot_id = boot_id_path.read_text(encoding="ascii").strip()

    def read(self) -> Reading:
        """Look at wall clock and boot clock."""
        return Reading(
            wall_ns=time.time_ns(),
            boottime_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            boot_id=self._boot_id,
        )

    def is_synchronised(self) -> bool:
        """Whether the kernel says that the wall clock is disciplined by a time service (adjtimex(2), read only)."""
        timex = ctypes.create_string_buffer(256)  # all zero: modes = 0 asks and sets nothing
        if ctypes.CDLL(None, use_errno=True).adjtimex(timex) < 0:
            return False
        status = int.from_bytes(timex.raw[_TIMEX_STATUS_OFFSET : _TIMEX_STATUS_OFFSET + 4], "little")
        return not status & _STATUS_UNSYNCHRONISED


def effective_time(reading: Reading, high_water: HighWater | None) -> EffectiveTime:
    """Compute effective time from a reading and the persisted high water.

    The boot clock tells how much time has passed since the high water, exactly within its boot, and at least (the time
    since this boot began) in a later one. The wall clock may fall behind that: it is ignored. It may run ahead by ten
    minutes within a boot, and by fourteen days over a reboot, for a host may have been switched off; beyond that it is
    quarantined and time goes on from the lower estimate.
    """
    if high_water is None:
        return EffectiveTime(ns=reading.wall_ns, quarantined=False, reading=reading)
    if reading.boot_id == high_water.boot_id:
        floor = high_water.effective_ns + max(0, reading.boottime_ns - high_water.boottime_ns)
        tolerance = FORWARD_TOLERANCE_NS
    else:
        floor = high_water.effective_ns + reading.boottime_ns
        tolerance = POWERED_OFF_TOLERANCE_NS
    if reading.wall_ns > floor + tolerance:
        return EffectiveTime(ns=floor, quarantined=True, reading=reading)
    return EffectiveTime(ns=max(reading.wall_ns, floor), quarantined=False, reading=reading)


def instant(ns: int) -> datetime:
    """Nanoseconds since the epoch as an aware UTC datetime (microsecond precision, rounded down)."""
    return _EPOCH + timedelta(microseconds=ns // 1000)


def month_of(ns: int) -> str:
    """The UTC month of an instant, as `YYYY-MM`."""
    return instant(ns).strftime("%Y-%m")
