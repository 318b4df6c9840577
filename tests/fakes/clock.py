"""A clock that stands still until a test moves it."""

from __future__ import annotations

from datetime import datetime

from sidecar.clock import Reading
from tests.fakes.licences import NOW

NS = 1_000_000_000
BOOT = "2f0d6c9a-91f5-4b43-8d8d-1c5f7a6f0e11"
OTHER_BOOT = "7b8c3d1e-5a0f-4f7e-8a58-0c6f2f6f5d22"


class FakeClock:
    """Wall clock and boot clock, each moved by hand."""

    def __init__(self, at: datetime = NOW, boottime_seconds: float = 1000.0, boot_id: str = BOOT) -> None:
        self.wall_ns = int(at.timestamp()) * NS
        self.boottime_ns = int(boottime_seconds * NS)
        self.boot_id = boot_id
        self.synchronised = False

    def read(self) -> Reading:
        return Reading(wall_ns=self.wall_ns, boottime_ns=self.boottime_ns, boot_id=self.boot_id)

    def is_synchronised(self) -> bool:
        return self.synchronised

    def pass_seconds(self, seconds: float) -> None:
        """Real time goes by: both clocks move."""
        self.wall_ns += int(seconds * NS)
        self.boottime_ns += int(seconds * NS)

    def step_wall(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self.wall_ns += int(seconds * NS)

    def reboot(self, off_seconds: float = 60.0) -> None:
        """The host restarts."""
        self.wall_ns += int(off_seconds * NS)
        self.boottime_ns = 5 * NS
        self.boot_id = OTHER_BOOT if self.boot_id == BOOT else BOOT
