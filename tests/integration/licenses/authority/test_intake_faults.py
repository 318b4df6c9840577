"""An intake that is killed, or whose disk is full or broken, at any single call: nothing, or all of it, and once.

Each run is a process of its own; `make test-faults` takes every call, other runs every third or fifth. After a kill the
books are opened as after a start; the same arrival again ends as if nothing had happened.
"""

import errno
import os
import shutil
from pathlib import Path

import pytest

from licenses.authority import intake
from licenses.errors import LicensesError
from licenses.model import READ_PAGES_METER
from tests.fakes import disks, intake_life
from tests.fakes.io_faults import HAS_COMPILER, LASTING, Fault, Stage, build, calls_in, quick_folder
from tests.fakes.vendor_books import VendorBooks

METER = READ_PAGES_METER
PAGES = {"bundle": 9, "report": 3}
FULL = os.environ.get("FAULTS") == "full"


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """An interpreter with the shim."""
    if not HAS_COMPILER:
        pytest.skip("needs a C compiler")
    with Stage(build(tmp_path_factory.mktemp("shim")), (intake_life.__name__,)) as opened:
        yield opened


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """Books in which nothing was taken in yet, and what is about to arrive."""
    folder = tmp_path_factory.mktemp("origin")
    books = VendorBooks(folder)
    site = books.site()
    for uses in (3, 2, 4):
        site.meter.window(uses=uses)
    (folder / "arrivals").mkdir()
    shutil.copy(site.bundle(), folder / "arrivals" / "bundle.tar.gz")
    (folder / "arrivals" / "report.json").write_bytes(site.body(site.report(0)))
    books.database.close()
    return folder


def _copy(origin: Path, into: Path) -> Path:
    for name in ("books", "keys"):
        shutil.copytree(origin / name, into / name)
    return into


def _arrival(origin: Path, road: str) -> Path:
    return origin / "arrivals" / ("bundle.tar.gz" if road == "bundle" else "report.json")


def _calls(stage: Stage, origin: Path, road: str) -> int:
    with quick_folder() as place:
        folder = _copy(origin, place)
        log = folder / "calls"
        played = stage.play(
            intake_life.take_in, folder=folder, arrival=_arrival(origin, road), fault=None, kill=True, log=log
        )
        assert played.last("done") is False
        return len(calls_in(log))


def _require_whole_or_nothing(folder: Path, origin: Path, road: str, *, promised: bool) -> None:
    """As after a start: all of the arrival is there or nothing, all of it if so promised, and again it is once."""
    books = VendorBooks.reopened(folder)
    kept = dict(books.rows())
    assert books.billed() in ((PAGES[road],) if promised else (0, PAGES[road]))
    assert bool(books.billed()) == bool(kept["arrival"]) == bool(kept["span"]) == bool(kept["checkpoint"])
    assert bool(kept["ack"]) == (road == "bundle" and bool(books.billed()))
    assert bool(books.licensing.licenses()) == bool(kept["ack"])
    books.trail.verify()
    arrival = _arrival(origin, road)
    if road == "bundle":
        done = intake_life.take(books, arrival)
        assert done.ack.totals == {METER: PAGES[road]}
        assert done.ack.license is not None
    else:
        intake_life.take(books, arrival)
    assert books.billed() == PAGES[road]
    assert len(books.licensing.licenses()) == (1 if road == "bundle" else 0)
    books.trail.verify()
    if road == "bundle":  # it swept what the other one had left
        assert [path.name for path in (folder / "books").iterdir() if path.name.startswith("intake-")] == []
    books.database.close()


@pytest.mark.parametrize("road", PAGES)
def test_killed_at_any_call(stage, origin, road):
    calls = _calls(stage, origin, road)
    assert calls > 10
    outcomes = set()
    for nth in range(1, calls + 1, 1 if FULL else 3):
        # From the n-th call on nothing reaches the disk, then SIGKILL: what a kill at that call leaves behind.
        fault = Fault(nth=nth, error=errno.EIO, lasting=LASTING[errno.EROFS], whole=True)
        with quick_folder() as place:
            folder = _copy(origin, place)
            played = stage.play(
                intake_life.take_in, folder=folder, arrival=_arrival(origin, road), fault=fault, kill=True
            )
            assert played.died == "signal SIGKILL", (nth, played.told)
            assert not played.all("unnamed"), (nth, played.told)
            promised = played.last("done") is not None
            outcomes.add(promised)
            _require_whole_or_nothing(folder, origin, road, promised=promised)
    assert False in outcomes


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
@pytest.mark.parametrize("road", PAGES)
def test_disk_fails_at_any_call(stage, origin, road, error):
    calls = _calls(stage, origin, road)
    for nth in range(1, calls + 1, 1 if FULL else 5):
        fault = Fault(nth=nth, error=error, lasting=LASTING[errno.ENOSPC])
        with quick_folder() as place:
            folder = _copy(origin, place)
            played = stage.play(
                intake_life.take_in, folder=folder, arrival=_arrival(origin, road), fault=fault, kill=False
            )
            assert not played.died, (nth, played.told)
            assert played.all("done") or played.all("refused"), (nth, played.told)
            assert all(step for _, _, step in played.all("refused")), (nth, played.told)
            assert played.last("again") is not None, (nth, played.told)
            _require_whole_or_nothing(folder, origin, road, promised=True)


def test_full_disk_is_told_and_nothing_is_lost(tmp_path, origin, monkeypatch):
    monkeypatch.setattr(intake, "RESERVE_BYTES", 1024**2)  # of a small disk
    disk = tmp_path / "disk"
    disk.mkdir()
    with disks.mounted(disk, "size=8m"):
        folder = _copy(origin, disk)
        books = VendorBooks.reopened(folder)
        filler = disks.fill(disk)
        words = []
        for road in ("bundle", "report"):
            arrival = _arrival(origin, road)
            with pytest.raises(LicensesError) as caught:
                intake_life.take(books, arrival)
            words.append((type(caught.value).__name__, caught.value.next_step))
            assert books.billed() == 0
        assert {name for name, _ in words} == {"UnknownStateError"}
        assert all("ree some space" in step for _, step in words)
        filler.unlink()
        assert books.intake.take_bundle(None, _arrival(origin, "bundle")).billed == {METER: 9}
        books.database.close()
