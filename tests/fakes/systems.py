"""A machine whose commands are pretended: units, users and environments; and one that is killed at any step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from appliance.errors import StepError
from appliance.places import Places, version_of
from appliance.system import System


class Killed(BaseException):
    """The process is gone: no handler of the code under test may see this as an error of its own."""


class FakeSystem(System):
    """Pretends to run units of the release that `current` leads to.

    Attributes:
        running: The name of the release that runs; None when none does.
        enabled: Units that are started with the machine.
        broken: Versions that never come up.
        unlicensed: Whether what runs answers, and is not ready.
        kill_at: The number of the step before which the process dies; 0 for never.
        steps: How many there were.
        loaded: Units that the service manager has read.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self.running: str | None = None
        self.enabled: set[str] = set()
        self.broken: set[str] = set()
        self.unlicensed = False
        self.stops = 0
        self.kill_at = 0
        self.steps = 0
        self.loaded: set[str] = set()

    def step(self, *_: object) -> None:
        self.steps += 1
        if self.steps == self.kill_at:
            raise Killed

    def run(self, *words: str | Path, seconds: float = 900) -> str:
        raise AssertionError(f"not to be run in a test: {words}")

    def manager_version(self) -> int | None:
        return 252

    def is_active(self, unit: str) -> bool:
        return self.running is not None

    def has_failed(self, unit: str) -> bool:
        return self.running is not None and version_of(Path(self.running)) in self.broken

    def last_words(self, units: Sequence[str]) -> str:
        return "it said why\n"

    def reload(self) -> None:
        self.step()
        units = self._places.units
        self.loaded = {path.name for path in units.iterdir()} if units.is_dir() else set()

    def enable(self, units: Sequence[str]) -> None:
        self.step()
        self.enabled |= set(units)

    def disable(self, units: Sequence[str]) -> None:
        self.step()
        self.enabled -= set(units)

    def start(self, unit: str, units: Sequence[str]) -> None:
        self.step()
        self.running = self._places.current.readlink().name
        self.step()

    def stop(self, units: Sequence[str]) -> None:
        self.step()
        self.running = None
        self.stops += 1
        self.step()

    def make_users(self, file: Path) -> None:
        self.step()

    def make_folders(self, file: Path) -> None:
        self.step()
        for folder in (self._places.licenses, self._places.state, self._places.output, self._places.spool):
            folder.mkdir(parents=True, exist_ok=True)
        self.step()

    def make_environment(self, release: Path, wheelhouse: Path, locks: Sequence[Path]) -> None:
        assert list(wheelhouse.iterdir())
        assert all(lock.is_file() for lock in locks)
        (release / "bin").mkdir(parents=True)
        self.step()
        (release / "bin/sidecar").write_text(version_of(release))
        self.step()

    def flush(self) -> None:
        self.step()

    def version_of_product(self, release: Path) -> str:
        return (release / "bin/sidecar").read_text()

    def is_ready(self, release: Path) -> bool:
        return not self.unlicensed and self.running == release.name and version_of(release) not in self.broken

    def status(self, release: Path) -> str | None:
        if self.running != release.name or version_of(release) in self.broken:
            return None
        return "UNLICENSED: no licence fits\n" if self.unlicensed else "ACTIVE: Active\n"

    def verify_license(self, release: Path, file: Path, trust_root: Path) -> None:
        if file.read_bytes() != b"a good licence":
            raise StepError("'licenses verify' ended with 65")

    def may_follow(self, release: Path, old: Path, new: Path) -> bool:
        return new.read_bytes().startswith(old.read_bytes())
