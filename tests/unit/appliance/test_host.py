"""What a machine lacks is told with its cause and a next step."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from appliance.host import Check, look_at
from appliance.places import Places, mark_of
from appliance.release import Manifest
from appliance.settings import accept_terms, is_accepted, read_settings
from tests.fakes.releases import MANIFEST
from tests.fakes.systems import FakeSystem


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A machine that fits."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("flags\t\t: fpu avx avx2 bmi\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16000000 kB\n")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (tmp_path / "etc/group").write_text("root:x:0:\n")
    return Places(tmp_path)


def looked_at(places: Places, manifest: Manifest = MANIFEST, system: FakeSystem | None = None) -> dict[str, Check]:
    return {check.name: check for check in look_at(places, system or FakeSystem(places), manifest)}


def with_settings(places: Places, text: str) -> None:
    places.configuration.mkdir(exist_ok=True)
    places.settings.write_text(text)


def test_a_machine_that_fits(places: Places) -> None:
    with_settings(places, "Sidecar:Listen = 127.0.0.1:0\n")
    checks = looked_at(places)
    assert {name for name, check in checks.items() if check.result != "ok"} == {"licence terms", "licence"}
    assert all(check.next_step for check in checks.values() if check.result != "ok")


def test_a_connected_machine_lacks_no_licence_file(places: Places) -> None:
    with_settings(places, "Sidecar:Mode = connected\n")
    assert looked_at(places)["licence"].result == "ok"


def test_each_line_tells_cause_and_step() -> None:
    lines = list(Check("port", "fail", "it is taken", "Free it.").lines())
    assert lines == ["fail  port          it is taken", "                    → Free it."]


@pytest.mark.parametrize(
    ("change", "name", "cause"),
    [
        ({"machine": "riscv64"}, "processor", "the bundle is for riscv64"),
        ({"glibc": (9, 9)}, "C library", "glibc 9.9 or newer is needed"),
        ({"python": (3, 99)}, "Python", "the wheels are made for 3.99"),
        ({"installed_bytes": 2**60}, "programs", "are wanted"),
    ],
)
def test_what_the_bundle_needs(places: Places, change: dict[str, object], name: str, cause: str) -> None:
    check = looked_at(places, replace(MANIFEST, **change))[name]  # type: ignore[arg-type]
    assert (check.result, cause in check.cause, bool(check.next_step)) == ("fail", True, True)


def test_a_release_that_is_made_already_wants_no_room(places: Places) -> None:
    large = replace(MANIFEST, installed_bytes=2**60)
    release = places.programs / large.release_id
    release.mkdir(parents=True)
    assert looked_at(places, large)["programs"].result == "fail"
    mark_of(release).touch()
    assert looked_at(places, large)["programs"].result == "ok"


def test_what_an_interrupted_run_left_counts_as_room(places: Places) -> None:
    for folder in (places.staging / "wheelhouse", places.programs / "1.0.0-0123abcd" / "lib"):
        folder.mkdir(parents=True)
        (folder / "half").write_bytes(bytes(4 * 1024**2))
    (places.staging / "again").hardlink_to(places.staging / "wheelhouse" / "half")
    (places.staging / "dangling").symlink_to("nothing")
    free = 10 * 1024**2
    for wanted, result in ((free, "ok"), (free + 7 * 1024**2, "ok"), (free + 9 * 1024**2, "fail")):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("appliance.host.shutil.disk_usage", lambda _: SimpleNamespace(free=free))
            assert looked_at(places, replace(MANIFEST, installed_bytes=wanted))["programs"].result == result


def test_no_avx2(places: Places) -> None:
    (places.root / "proc/cpuinfo").write_text("flags : avx\n")
    assert looked_at(places)["processor"].result == "fail"


def test_no_systemd_or_an_old_one(places: Places) -> None:
    system = FakeSystem(places)
    for version in (None, 249):
        system.manager_version = lambda version=version: version  # type: ignore[method-assign, misc]
        assert looked_at(places, system=system)["systemd"].result == "fail"


def test_the_port_is_taken(places: Places) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with_settings(places, f"[Sidecar]\nListen = 127.0.0.1:{other.getsockname()[1]}\n")
        assert looked_at(places)["port"].result == "fail"


@pytest.mark.parametrize("row", ["nonroot:x:1000:1000::/:/bin/sh", "somebody:x:65532:65532::/:/bin/sh"])
def test_the_services_user_is_somebody_else(places: Places, row: str) -> None:
    (places.root / "etc/passwd").write_text(f"{row}\n")
    assert looked_at(places)["users"].result == "fail"


@pytest.mark.parametrize("row", ["nonroot:x:1000:", "somebody:x:65532:"])
def test_the_services_group_is_somebody_elses(places: Places, row: str) -> None:
    (places.root / "etc/group").write_text(f"{row}\n")
    check = looked_at(places)["users"]
    assert check.result == "fail"
    assert "groupmod" in check.next_step


def test_who_else_is_in_the_services_group_is_told(places: Places) -> None:
    users = ["nonroot:x:65532:65532::/:/bin/false", "eve:x:1001:65532::/:/bin/sh", "bob:x:1002:1002::/:/bin/sh"]
    (places.root / "etc/passwd").write_text("\n".join(users) + "\n")
    (places.root / "etc/group").write_text("nonroot:x:65532:nonroot,bob\nstaff:x:50:alice\n")
    check = looked_at(places)["users"]
    assert (check.result, check.cause) == ("warn", "bob, eve can read what is the service's, by the group nonroot")
    assert check.next_step.endswith("gpasswd --delete bob nonroot; usermod --gid GROUP eve")


def test_users_that_cannot_be_read_are_a_warning(places: Places) -> None:
    (places.root / "etc/group").unlink()
    assert looked_at(places)["users"].result == "warn"


def test_a_folder_of_another_owner_is_told_with_the_command(places: Places) -> None:
    places.state.mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(places.state, 1234, 1234)
    check = looked_at(places)["state"]
    assert check.result == "fail"
    assert check.next_step == f"chown -R 65532:65532 {places.state}"


def test_units_of_the_administrators_are_told(places: Places) -> None:
    folder = places.root / "etc/systemd/system"
    (folder / "ocr-core.service.d").mkdir(parents=True)
    assert "units" not in looked_at(places)
    (folder / "ocr-core.service").touch()
    assert looked_at(places)["units"].next_step.endswith("systemctl revert ocr-core.service")


def test_little_memory_warns(places: Places) -> None:
    (places.root / "proc/meminfo").write_text("MemTotal: 1000000 kB\n")
    assert looked_at(places)["memory"].result == "warn"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("# terms\n#Eula = accept\nA = b\n", "# terms\nEula = accept\nA = b\n"),
        ("eula=decline\n", "Eula = accept\n"),
        ("A = b\n", "Eula = accept\nA = b\n"),
    ],
)
def test_accepting_changes_one_line(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "sidecar.conf"
    path.write_text(before)
    path.chmod(0o640)
    assert not is_accepted(path)
    accept_terms(path)
    assert path.read_text() == after
    assert is_accepted(path)
    assert path.stat().st_mode & 0o777 == 0o640


def test_settings_are_read_in_every_spelling(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.conf"
    path.write_text('[DEFAULT]\nEula = "accept"\n[Mounts]\nOutput = /data\n[Sidecar]\nListen = [::]:80\n')
    assert read_settings(path) == {"eula": "accept", "mounts:output": "/data", "sidecar:listen": "[::]:80"}
    assert read_settings(tmp_path / "nothing") == {}
