import base64
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from licenses.device_key import DeviceKey
from licenses.host import HostFactors
from licenses.lease import seal_lease
from licenses.model import License
from ocr_core.cpu import Cpu
from ocr_core.errors import CoreError, CpuUnsupportedError, LeaseRefusedError, LicenseRefusedError
from ocr_core.wall import Wall
from tests.fakes.licences import NOW, FakeVendor, a_lease, a_license, a_vendor

LEASE = a_lease()
GOOD_CPU = Cpu(True, "AVX2 works")


@dataclass
class FakeClock:
    boottime: int = LEASE.from_boottime_ms + 5000
    wall: datetime = NOW
    boot: str = LEASE.boot_id

    def now(self) -> datetime:
        return self.wall

    def boottime_ms(self) -> int:
        return self.boottime

    def boot_id(self) -> str:
        return self.boot


class House:
    """A licence folder, a state directory and a wall in front of them."""

    def __init__(self, folder: Path, *, lic: License | None = None, cpu: Cpu = GOOD_CPU) -> None:
        self.folder = folder
        self.vendor: FakeVendor = a_vendor()
        _, self.license_file = self.vendor.install(folder, lic)
        self.device = DeviceKey.load_or_create(folder / "state") if self._state().is_dir() else None
        self.clock = FakeClock()
        self.wall = Wall(
            cpu=cpu,
            license_directory=folder / "license",
            trust_root=folder / "trust-root.json",
            state_directory=folder / "state",
            host=HostFactors(),
            clock=self.clock,
        )

    def _state(self) -> Path:
        state = self.folder / "state"
        state.mkdir(exist_ok=True)
        return state

    def header(self, key: DeviceKey | None = None, **changes: object) -> str:
        device = key or self.device
        assert device is not None
        return base64.b64encode(seal_lease(a_lease(**changes), device.signing_key)).decode("ascii")

    def pass_half_a_second(self) -> None:
        self.clock.boottime += 501


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def refusal(house: House, header: str | None) -> CoreError:
    with pytest.raises(CoreError) as caught:
        house.wall.admit(header)
    return caught.value


def test_a_good_licence_and_a_good_lease_pass(house: House) -> None:
    house.wall.admit(house.header())


def test_the_cpu_is_refused_before_the_licence(tmp_path: Path) -> None:
    house = House(tmp_path, cpu=Cpu(False, "AVX2 is needed"))
    house.license_file.unlink()
    assert type(refusal(house, None)) is CpuUnsupportedError


def test_the_licence_is_refused_before_the_lease(house: House) -> None:
    house.license_file.unlink()
    assert type(refusal(house, None)) is LicenseRefusedError
    assert type(refusal(house, house.header())) is LicenseRefusedError


@pytest.mark.parametrize("header", [None, "", "!!!", "e30=", "A" * 100_000, base64.b64encode(b"{" * 3000).decode()])
def test_without_a_lease_nothing_passes(house: House, header: str | None) -> None:
    assert type(refusal(house, header)) is LeaseRefusedError


@pytest.mark.parametrize(
    "changes",
    [
        {"until_boottime_ms": LEASE.from_boottime_ms + 4999},
        {"from_boottime_ms": LEASE.from_boottime_ms + 6000},
        {"boot_id": "another-boot"},
        {"license_id": "another-licence"},
        {"license_sequence": 2},
    ],
)
def test_a_lease_that_is_over_or_for_something_else_does_not_pass(house: House, changes: dict[str, object]) -> None:
    assert type(refusal(house, house.header(**changes))) is LeaseRefusedError


def test_a_lease_of_another_device_does_not_pass(house: House, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = DeviceKey.load_or_create(tmp_path / "other")
    assert type(refusal(house, house.header(other))) is LeaseRefusedError


def test_a_lease_that_passed_does_not_pass_when_it_is_over(house: House) -> None:
    header = house.header()
    house.wall.admit(header)
    house.clock.boottime = LEASE.until_boottime_ms
    assert type(refusal(house, header)) is LeaseRefusedError


def test_a_lease_cannot_be_replayed_by_setting_the_wall_clock_back(house: House) -> None:
    """It is over by the boot clock, or of another boot; what the wall clock says lends it nothing."""
    header = house.header()
    house.wall.admit(header)
    house.clock.boottime = LEASE.until_boottime_ms + 1000
    for days in (-365, -1, 0, 1, 730):  # without a lease that holds, the wall clock only says which refusal it is
        house.clock.wall = NOW + timedelta(days=days)
        wanted = LeaseRefusedError if abs(days) < 2 else LicenseRefusedError
        assert type(refusal(house, header)) is wanted
    house.clock.wall = NOW
    house.clock.boottime, house.clock.boot = LEASE.from_boottime_ms + 5000, "another-boot"
    assert type(refusal(house, header)) is LeaseRefusedError


def test_a_licence_taken_away_is_missed_after_a_second_and_found_again(house: House) -> None:
    header = house.header()
    house.wall.admit(header)
    blob = house.license_file.read_bytes()
    house.license_file.unlink()
    for _ in range(2):
        house.pass_half_a_second()
        house.wall.admit(header)  # it may be that the file is being exchanged
    house.pass_half_a_second()
    assert type(refusal(house, header)) is LicenseRefusedError
    house.license_file.write_bytes(blob)
    house.pass_half_a_second()
    house.wall.admit(header)


def test_a_licence_of_another_vendor_is_refused(house: House) -> None:
    house.license_file.write_bytes(a_vendor().seal())
    assert type(refusal(house, house.header())) is LicenseRefusedError


def test_a_missing_trust_root_is_a_refusal_that_names_it(house: House, tmp_path: Path) -> None:
    (tmp_path / "trust-root.json").unlink()
    assert "trust root" in str(refusal(house, house.header()))


def test_dates_are_judged_at_the_effective_time_and_not_at_the_wall_clock(house: House) -> None:
    house.clock.wall = datetime(1999, 1, 1, tzinfo=UTC)
    house.wall.admit(house.header())
    late = int((a_license().termination_at + timedelta(days=1)).timestamp() * 1000)
    assert type(refusal(house, house.header(effective_ms=late))) is LicenseRefusedError


def test_grace_passes(tmp_path: Path) -> None:
    lic = replace(a_license(), expires_at=NOW - timedelta(days=1), termination_at=NOW + timedelta(days=1))
    house = House(tmp_path, lic=lic)
    house.wall.admit(house.header())
    assert house.wall.license_standing().standing == "grace"


def test_a_licence_bound_to_another_host_is_refused(tmp_path: Path) -> None:
    bindings = HostFactors(machine_id="another").bind(threshold=1)
    house = House(tmp_path, lic=replace(a_license(), bindings=bindings))
    assert "bound to a host" in str(refusal(house, house.header()))


def test_a_device_that_was_made_anew_is_noticed(house: House, tmp_path: Path) -> None:
    house.wall.admit(house.header())
    for file in (tmp_path / "state").iterdir():
        file.unlink()
    house.pass_half_a_second()
    assert type(refusal(house, house.header())) is LeaseRefusedError
    house.device = DeviceKey.load_or_create(tmp_path / "state")
    house.pass_half_a_second()
    house.wall.admit(house.header())


def test_health_tells_the_standing_without_a_lease(house: House) -> None:
    standing = house.wall.license_standing()
    assert (standing.standing, standing.license_id) == ("valid", a_license().license_id)
    house.license_file.unlink()
    for _ in range(3):
        house.wall.license_standing()
        house.pass_half_a_second()
    standing = house.wall.license_standing()
    assert (standing.standing, standing.license_id) == ("none", None)
    assert "no licence file" in standing.reason


def test_a_look_at_health_does_not_lend_its_clock_to_a_page(house: House) -> None:
    house.clock.wall = datetime(1999, 1, 1, tzinfo=UTC)
    assert house.wall.license_standing().standing == "not_yet_valid"
    house.wall.admit(house.header())
