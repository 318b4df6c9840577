"""Where a container keeps its state that was given no volume for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from sidecar.bootstrap import MeterLock
from sidecar.settings import Settings
from sidecar.state_place import choose_state, place_of_state


@dataclass
class Host:
    """Folders of a container, and the kernel's list of what is mounted."""

    folder: Path

    def __post_init__(self) -> None:
        self.mounts = self.folder / "mountinfo"
        for name in ("output", "run"):
            (self.folder / name).mkdir()
        self.settings = Settings(
            state_on_output=True,
            state_directory=self.folder / "var" / "state",
            output_directory=self.folder / "output",
            core_socket=self.folder / "run" / "core.sock",
        )
        self.kept = self.folder / "output" / "state"
        self.mount(output="ext4")

    def mount(self, **kinds: str) -> None:
        lines = ["20 1 0:31 / / rw,relatime - overlay overlay rw,lowerdir=/a - b"]
        for number, (name, kind) in enumerate(kinds.items()):
            point = str(self.folder / name.replace("_", "/")).replace(" ", "\\040")
            lines.append(f"{30 + number} 20 8:1 /x {point} rw,noatime shared:1 - {kind} /dev/sda1 rw")
        self.mounts.write_text("\n".join(lines) + "\n")

    def chosen(self) -> tuple[Path, bool, str]:
        place = choose_state(self.settings, mounts=self.mounts)
        assert place_of_state(self.settings, mounts=self.mounts) == place.directory
        return place.directory, place.outlives, place.reason


@pytest.fixture
def host(tmp_path: Path) -> Host:
    folder = tmp_path / "a container"  # which the kernel's list has with an escape
    folder.mkdir()
    return Host(folder)


def test_without_a_volume_it_lies_on_the_output_mount_and_is_for_the_service_alone(host: Host) -> None:
    assert host.chosen() == (host.kept, True, f"no volume is mounted at {host.settings.state_directory}")
    assert host.kept.stat().st_mode & 0o777 == 0o700


def test_a_volume_is_used(host: Host) -> None:
    for mounted in ("var_state", "var"):
        host.mount(output="ext4", **{mounted: "ext4"})
        assert host.chosen() == (host.settings.state_directory, True, "")
    assert not host.kept.exists()


def test_a_ledger_that_is_there_is_continued(host: Host) -> None:
    host.settings.state_directory.mkdir(parents=True)
    (host.settings.state_directory / "ledger.db").touch()
    assert host.chosen() == (host.settings.state_directory, True, "")


def test_nothing_is_chosen_where_it_was_not_asked_for(host: Host) -> None:
    assert choose_state(Settings(output_directory=host.folder / "output"), mounts=host.mounts).reason == ""


def test_without_any_mount_it_ends_with_the_container(host: Host) -> None:
    host.mount()
    directory, outlives, reason = host.chosen()
    assert (directory, outlives) == (host.settings.state_directory, False)
    assert "nothing is mounted at" in reason


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "virtiofs", "9p"])
def test_no_ledger_lies_on_a_network_file_system(host: Host, kind: str) -> None:
    host.mount(output=kind)
    directory, outlives, reason = host.chosen()
    assert (directory, outlives) == (host.settings.state_directory, False)
    assert kind in reason
    assert not host.kept.exists()


def test_two_containers_with_one_output_mount_do_not_share_a_state(host: Host) -> None:
    host.kept.mkdir(mode=0o700)
    lock = MeterLock(Settings(state_directory=host.kept))
    try:
        directory, outlives, reason = host.chosen()
    finally:
        lock.release()
    assert (directory, outlives) == (host.settings.state_directory, False)
    assert "another meter works on" in reason


def test_where_it_cannot_be_made_it_is_told(host: Host) -> None:
    host.kept.write_text("in the way")
    directory, outlives, reason = host.chosen()
    assert (directory, outlives) == (host.settings.state_directory, False)
    assert str(host.kept) in reason


def test_the_mount_that_hides_another_counts(host: Host) -> None:
    host.mounts.write_text(
        host.mounts.read_text() + host.mounts.read_text().splitlines()[-1].replace("ext4", "nfs4") + "\n"
    )
    assert "nfs4" in host.chosen()[2]
