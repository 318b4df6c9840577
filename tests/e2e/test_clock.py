"""A real service whose wall clock is stepped under it: windows close on time, time never runs back, nothing bricks.

A small preloaded library moves the wall clock of the whole process tree and leaves all other clocks alone, as somebody
with `date` would.
"""

from __future__ import annotations

import itertools
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.site import Site, command, wait_until
from tests.pages import as_png, printed_page

SOURCE = Path(__file__).parents[1] / "fakes" / "wall_clock.c"
PAGE = as_png(printed_page(size=(600, 200)))
DAY = 86400

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (make test installs one)")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clock") / "wall_clock.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", out, SOURCE, "-ldl"], check=True)
    return out


class ClockSite(Site):
    """A site whose wall clock a test sets."""

    def __init__(self, library: Path) -> None:
        super().__init__("Metering:MinIntervalSeconds=1", "Metering:MaxIntervalSeconds=1")
        self._offset = self.folder / "offset"
        self._offset.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK_FILE": str(self._offset)}

    def set_clock(self, offset_seconds: int) -> None:
        with self._offset.open("r+b") as out:
            out.write(struct.pack("<q", offset_seconds))

    def windows(self) -> int:
        return sum(line["kind"] == "window" for line in self.record_lines())

    def wait_windows(self, more: int, seconds: float) -> None:
        wanted = self.windows() + more
        wait_until(lambda: self.windows() >= wanted, seconds, f"windows stopped closing\n{self.log_text()[-3000:]}")

    def verified(self) -> str:
        done = command(
            "usage-verify",
            self.folder / "output",
            "--trust-root",
            self.trust_root,
            "--device-key",
            self.folder / "state" / "device.pub",
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture
def site(library: Path) -> Iterator[ClockSite]:
    site = ClockSite(library)
    try:
        yield site
    finally:
        site.remove()


def effective_times(site: Site) -> list[int]:
    return [line["effective_ms"] for line in site.record_lines()]


def test_clock_set_back(site: ClockSite) -> None:
    site.start()
    site.wait_windows(1, 10)
    for days in (-1, -3650):
        site.set_clock(days * DAY)
        site.wait_windows(3, 12)
        assert site.sync(PAGE).status_code == 200
        assert site.status()["license"]["daysLeft"] in {89, 90}, "no day of the licence is won"
    site.stop()
    times = effective_times(site)
    assert times == sorted(times)
    assert times[-1] - times[0] < 240_000
    site.verified()


def test_wrong_year_bricks_nothing_and_is_noted(site: ClockSite) -> None:
    site.start()
    site.wait_windows(1, 10)
    site.set_clock(365 * DAY)
    wait_until(lambda: site.status()["clockQuarantined"], 5, "the jump was not noticed")
    site.wait_windows(3, 12)
    assert site.sync(PAGE).status_code == 200, "the licence ends in 90 days; a typo does not end it"
    site.set_clock(0)
    wait_until(lambda: not site.status()["clockQuarantined"], 5, "the corrected clock is not believed")
    site.wait_windows(2, 10)
    site.stop()
    kinds = [line["kind"] for line in site.record_lines()]
    assert kinds.count("quarantine") == 2
    assert kinds.count("clock") >= 1
    times = effective_times(site)
    assert times == sorted(times)
    assert times[-1] - times[0] < 120_000
    site.verified()


def test_wrong_year_while_stopped(site: ClockSite) -> None:
    """Set wrong between two starts of the same boot: the boot clock knows better."""
    site.start()
    site.sync(PAGE)
    site.stop()
    site.set_clock(400 * DAY)
    site.start()
    assert site.status()["clockQuarantined"]
    assert site.sync(PAGE).status_code == 200
    site.stop()
    site.set_clock(-400 * DAY)
    site.start()
    assert site.sync(PAGE).status_code == 200
    site.stop()
    times = effective_times(site)
    assert times == sorted(times)
    site.verified()


def test_clock_stepped_every_second_keeps_the_windows(site: ClockSite) -> None:
    site.start()
    until = time.monotonic() + 8
    steps = itertools.cycle([3600, -3600, 10, -10, DAY, -30 * DAY, 0, 5, 100000])
    before = site.windows()
    while time.monotonic() < until:
        site.set_clock(next(steps))
        time.sleep(0.7)
    site.set_clock(0)
    assert site.windows() - before >= 3
    assert site.sync(PAGE).status_code == 200
    site.stop()
    times = effective_times(site)
    assert times == sorted(times)
    site.verified()
