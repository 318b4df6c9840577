"""Installing, upgrading, going back, removing; and all of it killed at every step and run again."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle import Bundle, open_bundle
from appliance.errors import (
    AlreadyRunningError,
    DowngradeError,
    LicenseFileError,
    NotReadyError,
    RolledBackError,
    StepError,
)
from appliance.installer import Installer, Wishes
from appliance.places import GID, Places, is_complete
from tests.fakes.releases import FILES, KEY, MANIFEST, OTHER_KEY, lay_out, public, signed
from tests.fakes.systems import FakeSystem, Killed

STARTED = Wishes(accept_terms=True, wait_seconds=0)


class Box:
    """A machine in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.places = Places(folder / "root")
        self.system = FakeSystem(self.places)
        self.said: list[str] = []
        self.license = folder / "stick" / "license.dat"
        self.license.parent.mkdir(parents=True)
        self.license.write_bytes(b"a good licence")

    def bundle(self, version: str, changes: Mapping[str, bytes | None] = {}, key: object = KEY) -> Bundle:
        root = self._folder / f"bundle-{version}-{len(list(self._folder.iterdir()))}"
        files = {path: content for path, content in {**FILES, **changes}.items() if content is not None}
        lay_out(root, files)
        signed(root, replace(MANIFEST, version=version), key)  # type: ignore[arg-type]
        return open_bundle(root, None)

    def say(self, line: str) -> None:
        self.system.step()
        self.said.append(line)

    def install(self, bundle: Bundle, wishes: Wishes = STARTED) -> None:
        Installer(self.places, self.system, self.say).install(bundle, wishes)

    def served(self) -> None:
        """As after a first installation of 1.2.3, with pages counted."""
        self.install(self.bundle("1.2.3"), replace(STARTED, license_file=self.license))
        (self.places.state / "ledger.db").write_text("12 pages")

    def files(self) -> dict[str, bytes]:
        """Everything that lies there, but for what passes with the boot; links as the place that they lead to."""
        root = self.places.root
        return {
            str(path.relative_to(root)): (
                os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
            ).replace(bytes(root), b"")
            for path in sorted(root.rglob("*"))
            if (path.is_symlink() or path.is_file()) and path != self.places.lock
        }


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_without_terms_and_licence_it_is_installed_and_the_next_steps_are_told(box: Box) -> None:
    box.install(box.bundle("1.2.3"), Wishes())
    assert box.system.running is None
    assert box.system.enabled == {"ocr-sidecar.target"}
    steps = [line for line in box.said if line.startswith("  ")]
    assert steps == [
        f"  1. read the licence terms and write 'Eula = accept' into {box.places.settings}",
        f"  2. copy the licence file that the vendor issued to {box.places.licenses}",
        "  3. systemctl start ocr-sidecar.target",
    ]
    assert "#Eula = accept" in box.places.settings.read_text()


def test_with_both_it_serves(box: Box) -> None:
    box.served()
    assert box.system.running == box.bundle("1.2.3").manifest.release_id
    assert (box.places.licenses / "license.dat").read_bytes() == b"a good licence"
    assert (box.places.licenses / "license.dat").stat().st_mode & 0o777 == 0o640
    assert "\nEula = accept\n" in box.places.settings.read_text()
    assert "ACTIVE: Active" in box.said[-1]
    assert (box.places.commands / "sidecar").readlink() == box.places.current / "bin/sidecar"
    assert box.places.release_key.read_bytes() == public(KEY).to_pem()
    assert not box.places.journal.exists()
    assert not box.places.staging.exists()


def test_the_same_again_stops_nothing_and_changes_nothing(box: Box) -> None:
    box.served()
    before = box.files()
    box.install(box.bundle("1.2.3"))
    assert box.files() == before
    assert box.system.stops == 0


def test_a_licence_that_is_refused_changes_nothing_that_is_in_force(box: Box) -> None:
    bad = box.license.with_name("bad.dat")
    bad.write_bytes(b"a bad one")
    for file in (bad, bad.with_name("nothing.dat")):
        with pytest.raises(LicenseFileError):
            box.install(box.bundle("1.2.3"), replace(STARTED, license_file=file))
    assert not box.places.current.exists()
    box.served()
    with pytest.raises(LicenseFileError):
        box.install(box.bundle("1.3.0"), replace(STARTED, license_file=bad))
    assert box.places.installed() is not None
    assert box.system.running is not None
    assert box.system.stops == 0


def test_an_upgrade_keeps_what_is_the_sites_and_takes_the_place_of_the_rest(box: Box) -> None:
    box.served()
    box.places.settings.write_text("Eula = accept\nCore:Workers = 3\n")
    changes = {"systemd/ocr-sidecar-web.service": None, "systemd/ocr-sidecar-more.path": b"[Install]\n"}
    new = box.bundle("1.3.0", {**changes, "tessdata/eng.traineddata": b"new"})
    box.install(new)
    assert box.system.running == new.manifest.release_id
    assert [path.name for path in box.places.releases()] == [new.manifest.release_id]
    assert box.places.settings.read_text() == "Eula = accept\nCore:Workers = 3\n"
    assert (box.places.state / "ledger.db").read_text() == "12 pages"
    assert sorted(path.name for path in box.places.units.iterdir()) == ["ocr-sidecar-more.path", "ocr-sidecar.target"]
    assert (box.places.tessdata / "eng.traineddata").read_bytes() == b"new"


def test_what_does_not_come_up_is_rolled_back(box: Box) -> None:
    box.served()
    before = box.files()
    box.system.broken = {"1.3.0"}
    changes = {"systemd/ocr-sidecar-web.service": b"[Service]\nnew\n", "systemd/ocr-sidecar-more.path": b"[Install]\n"}
    with pytest.raises(RolledBackError, match=r"1\.3\.0 did not come up, so 1\.2\.3 serves again"):
        box.install(box.bundle("1.3.0", {**changes, "tessdata/eng.traineddata": b"new"}))
    assert "it said why" in "\n".join(box.said)
    assert box.files() == before
    assert box.system.running == box.bundle("1.2.3").manifest.release_id
    assert box.system.enabled == {"ocr-sidecar.target"}


def test_a_disk_that_fails_in_the_switch_is_a_reason_to_go_back(box: Box) -> None:
    box.served()
    before = box.files()
    fine = box.system.make_folders

    def full_once(file: Path) -> None:
        box.system.make_folders = fine  # type: ignore[method-assign]
        raise OSError(errno.ENOSPC, "No space left on device")

    box.system.make_folders = full_once  # type: ignore[method-assign]
    with pytest.raises(RolledBackError):
        box.install(box.bundle("1.3.0"))
    assert any("No space left" in line for line in box.said)
    assert box.files() == before
    assert box.system.running == box.bundle("1.2.3").manifest.release_id


def test_the_way_back_brings_back_no_older_ledger(box: Box) -> None:
    box.served()
    box.system.broken = {"1.3.0"}
    ledger = box.places.state / "ledger.db"
    box.system.has_failed = lambda unit: ledger.write_text("13 pages") > 0  # type: ignore[method-assign]
    with pytest.raises(RolledBackError):
        box.install(box.bundle("1.3.0"))
    assert ledger.read_text() == "13 pages"


def test_a_service_that_was_not_ready_before_need_not_be_after(box: Box) -> None:
    box.served()
    box.system.unlicensed = True
    new = box.bundle("1.3.0")
    box.install(new)
    assert box.system.running == new.manifest.release_id
    assert box.said[-1].startswith("UNLICENSED")


def test_a_service_that_ran_runs_again_wherever_terms_and_licence_come_from(box: Box) -> None:
    box.served()
    box.places.settings.write_text("# Eula and Mounts:License stand in a drop-in of the units.\n")
    (box.places.licenses / "license.dat").unlink()
    new = box.bundle("1.3.0")
    box.install(new, Wishes(wait_seconds=0))
    assert box.system.running == new.manifest.release_id
    box.install(box.bundle("1.4.0"), Wishes(wait_seconds=0, start=False))
    assert box.system.running is None


def test_a_connected_service_needs_no_licence_file(box: Box) -> None:
    box.places.configuration.mkdir(parents=True)
    box.places.settings.write_text("Eula = accept\nSidecar:Mode = Connected\n")
    bundle = box.bundle("1.2.3")
    box.install(bundle, replace(STARTED, start=False))
    assert [line for line in box.said if line.startswith("  ")] == ["  1. systemctl start ocr-sidecar.target"]
    box.install(bundle)
    assert box.system.running == bundle.manifest.release_id


def test_a_first_installation_that_is_not_ready_stays_and_is_told(box: Box) -> None:
    box.system.unlicensed = True
    with pytest.raises(NotReadyError, match="UNLICENSED"):
        box.served()
    assert box.places.installed() is not None
    assert box.places.release_key.exists()
    assert not box.places.journal.exists()


def test_the_way_back_leads_to_what_served_though_an_earlier_run_was_cut_off_in_its_wait(box: Box) -> None:
    def cut_off(version: str) -> Bundle:
        bundle, ready = box.bundle(version), box.system.is_ready

        def interrupted(release: Path) -> bool:
            if box.system.running == release.name == bundle.manifest.release_id:
                box.system.is_ready = ready  # type: ignore[method-assign]
                raise KeyboardInterrupt
            return ready(release)

        box.system.is_ready = interrupted  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            box.install(bundle, replace(STARTED, license_file=box.license))
        assert box.system.running == bundle.manifest.release_id
        assert box.places.journal.exists()
        return bundle

    box.system.broken = {"2.0.0", "4.0.0"}
    first = cut_off("1.2.3")  # nothing was there before it
    with pytest.raises(RolledBackError, match=r"1\.2\.3 serves again"):
        box.install(box.bundle("2.0.0"))
    assert box.system.running == first.manifest.release_id
    third = cut_off("3.0.0")  # 1.2.3 was there before it
    with pytest.raises(RolledBackError, match=r"3\.0\.0 serves again"):
        box.install(box.bundle("4.0.0"))
    assert box.system.running == third.manifest.release_id
    assert not box.places.journal.exists()


def test_a_first_installation_that_was_cut_off_is_what_the_next_release_goes_back_to(box: Box) -> None:
    first = box.bundle("1.2.3")

    def refused(*_words: object) -> None:
        raise StepError("'systemctl start' ended with 1")

    box.system.start = refused  # type: ignore[method-assign]
    with pytest.raises(StepError):
        box.install(first, replace(STARTED, license_file=box.license))
    assert box.places.installed() is not None
    del box.system.start  # type: ignore[method-assign]
    box.system.broken = {"2.0.0"}
    with pytest.raises(RolledBackError, match=r"1\.2\.3 is in force again, stopped as it was"):
        box.install(box.bundle("2.0.0"))
    assert box.places.installed() == box.places.programs / first.manifest.release_id


def test_an_older_version_needs_to_be_asked_for(box: Box) -> None:
    box.served()
    with pytest.raises(DowngradeError, match=r"1\.2\.3 is installed, and the bundle is 1\.2\.2"):
        box.install(box.bundle("1.2.2"))
    box.install(box.bundle("1.2.2"), replace(STARTED, allow_downgrade=True))
    assert box.system.running is not None
    assert box.system.running.startswith("1.2.2-")


def test_no_start_is_wanted(box: Box) -> None:
    box.install(box.bundle("1.2.3"), replace(STARTED, license_file=box.license, start=False))
    assert box.system.running is None
    assert [line for line in box.said if line.startswith("  ")] == ["  1. systemctl start ocr-sidecar.target"]


def test_models_of_packages_and_people_are_kept(box: Box) -> None:
    box.places.tessdata.mkdir(parents=True)
    (box.places.tessdata / "eng.traineddata").write_bytes(b"a person's")
    (box.places.tessdata / "deu.traineddata").write_bytes(b"a package's")
    lists = box.places.root / "var/lib/dpkg/info"
    lists.mkdir(parents=True)
    (lists / "tesseract-ocr-deu.list").write_text("/.\n/usr/share/tesseract-ocr/5/tessdata/deu.traineddata\n")
    box.install(box.bundle("1.2.3", {"tessdata/deu.traineddata": b"a package's", "tessdata/fra.traineddata": b"ours"}))
    assert (box.places.tessdata / "eng.traineddata").read_bytes() == b"a person's"
    assert any("is kept" in line for line in box.said)
    Installer(box.places, box.system, box.say).uninstall()
    assert sorted(path.name for path in box.places.tessdata.iterdir()) == ["deu.traineddata", "eng.traineddata"]


def test_the_trust_root_is_replaced_by_its_successor_alone(box: Box) -> None:
    box.served()
    box.install(box.bundle("1.3.0", {"trust-root.json": b"another vendor's"}))
    assert box.places.trust_root.read_bytes() == b"{}"
    box.install(box.bundle("1.4.0", {"trust-root.json": b"{} and its successor"}))
    assert box.places.trust_root.read_bytes() == b"{} and its successor"


def test_one_runs_at_a_time(box: Box) -> None:
    first = Installer(box.places, box.system, lambda line: attempt())

    def attempt() -> None:
        with pytest.raises(AlreadyRunningError):
            box.install(box.bundle("1.3.0"))

    first.install(box.bundle("1.2.3"), Wishes())


def test_uninstall_keeps_and_names_what_is_the_sites(box: Box) -> None:
    box.served()
    Installer(box.places, box.system, box.say).uninstall()
    assert box.system.running is None
    assert box.system.enabled == set()
    assert set(box.files()) == {
        "etc/tollgate/license/license.dat",
        "etc/tollgate/release-key.pem",
        "etc/tollgate/sidecar.conf",
        "etc/tollgate/trust-root.json",
        "var/lib/sidecar/ledger.db",
    }
    told = "\n".join(box.said)
    assert f"{box.places.state} " in told
    assert f"rm -r {box.places.state} {box.places.output} {box.places.spool} {box.places.configuration}" in told
    Installer(box.places, box.system, box.say).uninstall()  # twice is harmless
    box.install(box.bundle("1.2.3"))
    assert box.system.running is not None
    assert (box.places.state / "ledger.db").read_text() == "12 pages"


def test_uninstall_leaves_what_the_site_keeps_below_the_programs(box: Box) -> None:
    box.served()
    records = box.places.programs / "output"
    records.mkdir()
    (records / "usage.jsonl").write_text("12 pages")
    box.places.settings.write_text("Eula = accept\nMounts:Output = /opt/tollgate/output\n")
    Installer(box.places, box.system, box.say).uninstall()
    assert [path.name for path in box.places.programs.iterdir()] == ["output"]
    assert (records / "usage.jsonl").read_text() == "12 pages"
    told = "\n".join(box.said)
    assert f"{records} " in told
    assert str(records) not in next(line for line in box.said if line.startswith("  rm -r"))


@pytest.mark.parametrize("at", ["make_users", "make_folders", "reload"])
def test_a_full_disk_in_the_middle_brings_the_old_one_back(box: Box, at: str) -> None:
    box.served()
    before, usual, once = box.files(), getattr(box.system, at), [True]

    def full(*words: object) -> None:
        if once:
            once.clear()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/etc")
        usual(*words)

    setattr(box.system, at, full)
    with pytest.raises(RolledBackError, match=r"1\.2\.3 serves again"):
        box.install(box.bundle("1.3.0", {"tessdata/eng.traineddata": b"new"}))
    assert box.files() == before
    assert box.system.running == box.bundle("1.2.3").manifest.release_id
    assert any("No space left" in line for line in box.said)


def test_half_a_release_that_found_no_room_is_taken_away(box: Box) -> None:
    box.served()
    before = box.files()

    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/opt")

    box.system.flush = full  # type: ignore[method-assign]
    with pytest.raises(OSError, match="No space left"):
        box.install(box.bundle("1.3.0"))
    assert box.files() == before
    assert box.system.stops == 0


def test_half_a_release_of_another_version_makes_room_before_a_new_one_is_made(box: Box) -> None:
    box.served()
    half = box.places.programs / "1.3.0-0123abcd"
    (half / "lib").mkdir(parents=True)
    usual = box.system.make_environment

    def looked(release: Path, wheelhouse: Path, locks: Sequence[Path]) -> None:
        assert not half.exists()
        usual(release, wheelhouse, locks)

    box.system.make_environment = looked  # type: ignore[method-assign]
    box.install(box.bundle("1.4.0"))


def test_a_licence_takes_no_other_ones_place(box: Box) -> None:
    box.served()
    there = box.places.licenses / "license.dat"
    there.write_bytes(b"one that is in force until the new one begins")
    for _ in range(2):
        box.install(box.bundle("1.2.3"), replace(STARTED, license_file=box.license))
    assert there.read_bytes() == b"one that is in force until the new one begins"
    (new,) = [path for path in box.places.licenses.iterdir() if path != there]
    assert new.name.startswith("license-")
    assert new.suffix == ".dat"
    assert new.read_bytes() == b"a good licence"


@pytest.mark.parametrize("there", [True, False])
def test_a_licence_in_a_folder_of_the_sites_own_can_be_read_by_the_service(
    box: Box, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    given: dict[Path, int] = {}
    monkeypatch.setattr(os, "chown", lambda path, _user, group, **_: given.update({Path(path): group}))
    box.served()
    assert given == {box.places.licenses / "license.dat": box.places.licenses.stat().st_gid}
    given.clear()
    own = box.places.root / "srv/lic"
    if there:
        own.mkdir(parents=True)
    box.places.settings.write_text("Eula = accept\nMounts:License = /srv/lic\n")
    box.install(box.bundle("1.3.0"), replace(STARTED, license_file=box.license))
    assert given == {own / "license.dat": GID}


def test_nothing_is_written_through_a_link(box: Box, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    box.places.licenses.mkdir(parents=True)
    (box.places.licenses / ".license.dat.incoming").symlink_to(victim)
    box.served()
    assert victim.read_text() == "untouched"


def test_another_release_key_takes_over_once_its_release_is_up(box: Box) -> None:
    box.served()
    box.system.broken = {"1.3.0"}
    with pytest.raises(RolledBackError):
        box.install(box.bundle("1.3.0", key=OTHER_KEY))
    assert box.places.release_key.read_bytes() == public(KEY).to_pem()
    box.install(box.bundle("1.4.0", key=OTHER_KEY))
    assert box.places.release_key.read_bytes() == public(OTHER_KEY).to_pem()


def steps_of(box: Box, bundle: Bundle) -> int:
    box.system.steps = 0
    box.install(bundle)
    return box.system.steps


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder whose files need no disk: what follows writes many of them, each synced."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        yield Path(folder)


@pytest.mark.parametrize("upgrade", [False, True])
def test_killed_at_any_step_and_run_again_it_ends_well(memory: Path, upgrade: bool) -> None:
    def prepared(name: str) -> Box:
        box = Box(memory / name)
        if upgrade:
            box.served()
        else:
            box.places.licenses.mkdir(parents=True)
            (box.places.licenses / "license.dat").write_bytes(b"a good licence")
        return box

    whole = prepared("whole")
    steps = steps_of(whole, whole.bundle("1.3.0"))
    assert steps > 10
    for step in range(1, steps + 1):
        box = prepared(str(step))
        bundle = box.bundle("1.3.0")
        box.system.steps, box.system.kill_at = 0, step
        with pytest.raises(Killed):
            box.install(bundle)
        current = box.places.installed()
        assert current is None or is_complete(current), "half a release is in force"
        assert not upgrade or current is not None
        box.system.kill_at = 0
        box.install(bundle)
        assert box.system.running == bundle.manifest.release_id
        assert box.files() == whole.files()


def test_an_uninstall_that_is_killed_at_any_step_and_run_again_ends_well(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepping: list[Box] = []

    def counted(real: Callable[..., None], *args: Any, **more: Any) -> None:
        for box in stepping:
            box.system.step()
        real(*args, **more)

    for name in ("unlink", "rmdir"):
        monkeypatch.setattr(os, name, partial(counted, getattr(os, name)))

    def uninstalled(box: Box) -> None:
        stepping.append(box)
        try:
            Installer(box.places, box.system, box.say).uninstall()
        finally:
            stepping.clear()

    def served(name: str) -> Box:
        box = Box(memory / name)
        box.served()
        box.system.steps = 0
        return box

    whole = served("whole")
    assert whole.system.loaded
    uninstalled(whole)
    assert whole.system.steps > 30
    for step in range(1, whole.system.steps + 1):
        box = served(str(step))
        box.system.kill_at = step
        with pytest.raises(Killed):
            uninstalled(box)
        assert (box.places.state / "ledger.db").read_text() == "12 pages"
        box.system.kill_at = 0
        uninstalled(box)
        assert (box.system.running, box.system.enabled, box.system.loaded) == (None, set(), set())
        assert box.files() == whole.files()
        assert not box.places.programs.exists()


def test_killed_on_the_way_back_and_run_again_the_old_one_serves(memory: Path) -> None:
    for step in range(1, 200):
        box = Box(memory / str(step))
        box.served()
        old = box.system.running
        bundle = box.bundle("1.3.0")
        box.system.broken = {"1.3.0"}
        box.system.steps, box.system.kill_at = 0, step
        try:
            box.install(bundle)
        except RolledBackError:
            assert step > 20
            return
        except Killed:
            pass
        box.system.kill_at = 0
        with pytest.raises(RolledBackError):
            box.install(bundle)
        assert box.system.running == old
    raise AssertionError("it never ended")
