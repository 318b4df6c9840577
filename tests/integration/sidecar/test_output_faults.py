"""The output mount as an operator can break it: missing, of another owner, full, read-only, exchanged, slow, deleted.

Each is a failed cycle that says which path, which uid and which command; what was counted waits in the ledger. After
the repair one cycle delivers everything, files that vanished are written again with the same bytes, and the auditor is
content.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from ocr_core.forked_process import fork
from sidecar.ledger import Ledger
from tests.fakes import meter_life
from tests.fakes.clock import NS, FakeClock
from tests.fakes.disks import fill, mounted
from tests.fakes.io_faults import HAS_COMPILER, Disk, Played, Stage, Tell, build
from tests.fakes.licences import FakeVendor, a_vendor
from tests.fakes.meter_life import Appliance

FULL = os.environ.get("FAULTS") == "full"
NONROOT = 65532
IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="mounting and changing owners needs root")


class Site(Appliance):
    """An appliance that remembers what it told, and is asked for less."""

    def __init__(self, folder: Path, vendor: FakeVendor | None, tell: Tell | None = None, **settings: Any) -> None:
        if vendor is not None:
            meter_life.lay_out(folder, vendor)
        self.told: list[tuple[Any, ...]] = []
        super().__init__(folder, tell or (lambda *what: self.told.append(what)), FakeClock())
        self.settings = replace(self.settings, **settings)

    @property
    def output(self) -> Path:
        return self.settings.output_directory

    @property
    def ledger(self) -> Ledger:
        assert self.web is not None
        return self.web

    def fails(self) -> str:
        """A cycle that must fail; its cause and next step, as pages and logs show them."""
        assert self.meter is not None
        self.pass_seconds(meter_life.WINDOW_SECONDS)
        outcome = self.meter.cycle()
        assert outcome.failed_cycles > 0, "the cycle did not fail"
        return outcome.failure

    def delivers(self) -> None:
        """One cycle, after which everything is in order."""
        before = len(self.told)
        assert self.cycle(), self.told[before:]
        wrong: list[str] = []
        meter_life.expect_sound(lambda what, *rest: wrong.append(rest[0]) if what == "wrong" else None, self)
        assert wrong == []

    def bytes_of_records(self) -> dict[str, bytes]:
        """Record files and checkpoints by size, by their paths below the output folder."""
        found = [*self.output.rglob("*.jsonl"), *self.output.glob("*/*/checkpoints/*")]
        return {str(path.relative_to(self.output)): path.read_bytes() for path in found}

    @property
    def instance_folder(self) -> Path:
        (found,) = self.output.glob("computervisionread/*")
        return found


@pytest.fixture
def site(tmp_path: Path, vendor: FakeVendor) -> Iterator[Site]:
    site = Site(tmp_path, vendor)
    yield site
    site.drop()


def remount(path: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", path], check=True)


# ---- not there ------------------------------------------------------------------------------------------------------


def test_missing(site: Site) -> None:
    site.start()
    site.use(3)
    site.output.rmdir() if not any(site.output.iterdir()) else shutil.rmtree(site.output)
    failure = site.fails()
    for part in (str(site.output), "ENOENT", "Mounts:Output", f"{os.geteuid()}:{os.getegid()}"):
        assert part in failure
    site.use(2)
    site.fails()
    site.output.mkdir()
    site.delivers()


def test_missing_at_the_start(site: Site) -> None:
    site.output.rmdir()
    assert site.start(), "no mount is no reason not to start: somebody must see why queries are refused"
    site.use(3)
    site.fails()
    site.output.mkdir()
    site.delivers()


@pytest.mark.parametrize("squatter", ["output", "computervisionread", "usage", "checkpoints", ".incoming"])
def test_something_else_has_taken_the_name(site: Site, squatter: str) -> None:
    site.start()
    site.use(1)
    site.cycle()
    place = {
        "output": site.output,
        "computervisionread": site.output / "computervisionread",
        "usage": site.instance_folder / "usage",
        "checkpoints": site.instance_folder / "checkpoints",
        ".incoming": next(site.output.rglob("*.jsonl")).parent / ".incoming",
    }[squatter]
    aside = site.folder / "aside"
    if squatter == ".incoming":
        (place / "folder").mkdir(parents=True)
    else:
        place.rename(aside)
        place.write_text("not a folder")
    site.use(2)
    assert str(place) in site.fails()
    if squatter == ".incoming":
        shutil.rmtree(place)
    else:
        place.unlink()
        aside.rename(place)
    site.delivers()


# ---- of another owner -----------------------------------------------------------------------------------------------


class Operator:
    """Somebody with the rights that the service does not have, in a process of their own."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair()
        if fork() == 0:
            self._ours.close()
            while command := theirs.recv(4096):
                done = subprocess.run(command.decode(), shell=True, check=False)
                theirs.send(bytes([done.returncode]))
            os._exit(0)
        theirs.close()

    def run(self, command: str) -> None:
        self._ours.send(command.encode())
        assert self._ours.recv(1) == b"\0", command


def as_nonroot(tell: Tell, folder: Path, how: str) -> None:
    """The service as the image runs it, on an output folder that is not its own."""
    operator = Operator()
    os.setgroups([])
    os.setresgid(NONROOT, NONROOT, NONROOT)
    os.setresuid(NONROOT, NONROOT, NONROOT)
    one = Site(folder, None, tell)
    tell("started", one.start())
    one.use(3)
    if how == "later":
        tell("delivered first", one.cycle())
        operator.run(f"chown -R 0:0 {one.output}")
        one.use(2)
    failure = one.fails()
    tell("failure", failure)
    tell("promised after", one.ledger.record_use(meter_life.events([(one.operation(), 1)])))
    command = re.search(r"'(chown [^']*)'", failure)
    if command is not None:
        operator.run(command[1])
        tell("delivers", one.cycle())
        meter_life.expect_sound(tell, one)
        modes = {oct(path.stat().st_mode & 0o777) for path in one.output.rglob("*.jsonl")}
        owners = {path.stat().st_uid for path in one.output.rglob("*")}
        tell("files", modes, owners)


def rehearse() -> None:
    """All of it once with all rights."""
    with TemporaryDirectory() as name:
        one = Site(Path(name) / "site", a_vendor())
        one.start()
        one.use(1)
        one.cycle()
        shutil.rmtree(one.output)
        one.fails()
        one.output.mkdir()
        one.delivers()
        one.drop()


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that others may enter; pytest's own are closed to them."""
    with TemporaryDirectory(prefix="site-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@needs_root
@pytest.mark.parametrize("how", ["root's", "nobody may write", "later"])
def test_wrong_owner_as_nonroot(public_folder: Path, vendor: FakeVendor, how: str) -> None:
    """As in the image: uid 65532. The message names the command, and the command is the repair."""
    folder = public_folder / "site"
    meter_life.lay_out(folder, vendor)
    (folder / "state").mkdir()
    os.chown(folder / "state", NONROOT, NONROOT)
    if how == "nobody may write":
        (folder / "output").chmod(0o555)
    if how == "later":
        os.chown(folder / "output", NONROOT, NONROOT)
    with Stage(None, rehearsal=rehearse) as stage:
        played = stage.play(as_nonroot, folder=folder, how=how)
    told = {name: rest for name, *rest in played.told}
    assert not played.died, "\n".join(map(str, played.told))
    (failure,) = told["failure"]
    for part in (f"chown -R {NONROOT}:{NONROOT} {folder / 'output'}", "EACCES", str(folder / "output")):
        assert part in failure
    assert told["promised after"] == [1], "nine more cycles are served"
    assert told["delivers"] == [True]
    assert not played.all("wrong")
    assert told["files"] == [{"0o440"}, {NONROOT}]


# ---- full, read-only ------------------------------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("leave_bytes", [0, 4096, 40_000, 90_000])
def test_full(site: Site, leave_bytes: int) -> None:
    """Full before the first byte, and full in the middle of a file."""
    with mounted(site.output, "size=2m"):
        site.start()
        site.use(10)
        site.cycle()
        filler = fill(site.output, leave_bytes=leave_bytes)
        site.use(500)
        for _ in range(3):
            failure = site.fails()
            for part in (str(site.output), "ENOSPC", "free space", "nothing has to be deleted"):
                assert part in failure
        site.use(1)
        filler.unlink()
        site.delivers()
        site.drop()


@needs_root
def test_no_names_left(site: Site) -> None:
    """Room for bytes, but none for another file."""
    with mounted(site.output, "size=2m,nr_inodes=40"):
        site.start()
        site.use(1)
        site.cycle()
        fillers = []
        try:
            for number in range(100):
                fillers.append(site.output / f"filler-{number}")
                fillers[-1].touch()
        except OSError:
            fillers.pop()
        site.use(2)
        assert "ENOSPC" in site.fails()
        for filler in fillers:
            filler.unlink()
        site.delivers()
        site.drop()


@needs_root
def test_read_only(site: Site) -> None:
    with mounted(site.output):
        site.start()
        site.use(2)
        site.cycle()
        remount(site.output, "ro")
        site.use(3)
        failure = site.fails()
        for part in (str(site.output), "EROFS", f"mount {site.output} read-write"):
            assert part in failure
        remount(site.output, "rw")
        site.delivers()
        site.drop()


# ---- exchanged ------------------------------------------------------------------------------------------------------


@needs_root
def test_another_empty_disk_in_its_place(site: Site) -> None:
    with mounted(site.output):
        site.start()
        for _ in range(3):
            site.use(2)
            site.cycle()
        before = site.bytes_of_records()
        with mounted(site.output):
            assert not any(site.output.iterdir())
            site.use(1)
            site.delivers()
            site.use(1)
            site.delivers()
            elsewhere = site.bytes_of_records()
            assert before.items() <= elsewhere.items(), "what was on the first disk is written again, byte for byte"
        assert site.bytes_of_records() == before, "the first disk is back"
        site.use(1)
        site.delivers()
        assert elsewhere.items() <= site.bytes_of_records().items()
        site.drop()


@needs_root
def test_unmounted_the_folder_below_is_used_and_nothing_is_lost(site: Site) -> None:
    """Whoever unmounts leaves an empty folder; records go there, and to the disk again when it is back."""
    with mounted(site.output):
        site.start()
        site.use(2)
        site.cycle()
        before = site.bytes_of_records()
    site.use(1)
    site.delivers()
    assert before.items() <= site.bytes_of_records().items()


# ---- deleted --------------------------------------------------------------------------------------------------------


def _delete_file(site: Site) -> None:
    sorted(site.output.rglob("*.jsonl"))[0].unlink()


def _delete_newest(site: Site) -> None:
    max(site.output.rglob("*.jsonl"), key=lambda path: int(path.name.split("-")[0])).unlink()


def _delete_month(site: Site) -> None:
    shutil.rmtree(sorted(site.output.rglob("*.jsonl"))[0].parent)


def _delete_instance(site: Site) -> None:
    shutil.rmtree(site.instance_folder)


def _delete_everything(site: Site) -> None:
    for path in site.output.iterdir():
        shutil.rmtree(path)


def _delete_checkpoint(site: Site) -> None:
    (site.instance_folder / "checkpoint").unlink()


def _delete_checkpoints(site: Site) -> None:
    shutil.rmtree(site.instance_folder / "checkpoints")


def _delete_records(site: Site) -> None:
    shutil.rmtree(site.instance_folder / "usage")


DELETIONS = [
    _delete_file,
    _delete_newest,
    _delete_month,
    _delete_records,
    _delete_instance,
    _delete_everything,
    _delete_checkpoint,
    _delete_checkpoints,
]


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize("delete", DELETIONS, ids=lambda delete: delete.__name__.removeprefix("_delete_"))
def test_deleted_underneath(site: Site, delete: Callable[[Site], None], restart: bool) -> None:
    site.clock.wall_ns = int(datetime(2027, 1, 31, 20, tzinfo=UTC).timestamp()) * NS
    site.start()
    for _ in range(4):  # the last of January, and the first of February: two folders of months
        site.use(2)
        site.cycle()
        site.pass_seconds(2 * 3600)
    before = site.bytes_of_records()
    delete(site)
    if restart:
        site.drop()
        site.start()
    site.use(3)
    assert site.cycle()
    assert before.items() <= site.bytes_of_records().items(), "written again, byte for byte"
    site.delivers()


# ---- slow -----------------------------------------------------------------------------------------------------------


def behind_a_slow_disk(tell: Tell, folder: Path, seconds: float, limit_seconds: int) -> None:
    """A mount whose syncs block; meanwhile a client goes on."""
    disk = Disk(folder)
    one = Site(folder, None, tell, output_timeout_seconds=limit_seconds)
    tell("started", one.start())
    one.use(2)
    tell("first", one.cycle())
    disk.slow_syncs(one.output, seconds)
    one.use(3)
    begun = time.monotonic()
    tell("failure", one.fails(), time.monotonic() - begun)
    slowest = 0.0
    for _ in range(20):
        began = time.monotonic()
        one.use(1)
        slowest = max(slowest, time.monotonic() - began)
    tell("slowest use", slowest)
    begun = time.monotonic()
    tell("again", one.fails(), time.monotonic() - begun)
    disk.lift()
    time.sleep(seconds)
    tell("delivers", one.cycle())
    meter_life.expect_sound(tell, one)


def closing_behind_a_slow_disk(tell: Tell, folder: Path, seconds: float, limit_seconds: int) -> None:
    """A shutdown while the mount blocks; the next start delivers."""
    disk = Disk(folder)
    one = Site(folder, None, tell, output_timeout_seconds=limit_seconds)
    one.start()
    one.use(2)
    disk.slow_syncs(one.output, seconds)
    begun = time.monotonic()
    assert one.meter is not None
    outcome = one.meter.close()
    tell("closed", outcome.failed_cycles, time.monotonic() - begun)
    one.drop()
    disk.lift()
    one.start()
    tell("delivers", one.cycle())
    meter_life.expect_sound(tell, one)


def played_slowly(
    tmp_path: Path, vendor: FakeVendor, scene: Callable[..., None], seconds: float, limit_seconds: int
) -> Played:
    meter_life.lay_out(tmp_path / "site", vendor)
    with Stage(build(tmp_path), (scene.__module__,)) as stage:
        played = stage.play(scene, folder=tmp_path / "site", seconds=seconds, limit_seconds=limit_seconds)
    assert not played.died, played.told
    assert not played.all("unnamed")
    assert not played.all("wrong")
    return played


@pytest.mark.skipif(not HAS_COMPILER, reason="no C compiler (make test installs one)")
def test_slow(tmp_path: Path, vendor: FakeVendor) -> None:
    """A sync that blocks for 30 seconds: in the short form 3, with a limit of one second."""
    seconds, limit = (30.0, 20) if FULL else (3.0, 1)
    played = played_slowly(tmp_path, vendor, behind_a_slow_disk, seconds, limit)
    failure, took = played.all("failure")[0]
    assert str(tmp_path / "site" / "output") in failure
    assert "does not answer" in failure
    assert limit <= took < seconds, "the cycle gave up in time"
    again, took = played.all("again")[0]
    assert "does not answer" in again
    assert took < seconds
    assert played.last("slowest use") < seconds / 2, "clients do not wait for the output mount"
    assert played.last("delivers") is True


@pytest.mark.skipif(not HAS_COMPILER, reason="no C compiler (make test installs one)")
def test_shutdown_behind_a_slow_disk(tmp_path: Path, vendor: FakeVendor) -> None:
    played = played_slowly(tmp_path, vendor, closing_behind_a_slow_disk, 3.0, 1)
    failed, took = played.all("closed")[0]
    assert failed == -1, "no cycle was due, so none is counted"
    assert took < 3.0
    assert played.last("delivers") is True
