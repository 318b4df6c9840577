"""A ledger that is damaged, lost or restored from an older copy: nothing sealed is lost, and the log never forks."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import threading
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from licenses.model import READ_PAGES_METER, LedgerAnchor
from licenses.usage_log.entry import encode_entry, leaf_hash, parse_entry
from licenses.usage_log.report import Verdict
from licenses.usage_log.verify import verify_records
from sidecar.admission import Admission
from sidecar.bootstrap import build_core_client, ledger_path
from sidecar.errors import LedgerConflictError, LedgerUnavailableError
from sidecar.exchange import export_usage
from sidecar.gate import State
from sidecar.ledger import KEPT_NAME, Ledger, UseEvent, check_ledger, damage_path, prepare, salvage
from sidecar.ledger.check import start_problem
from sidecar.ledger.repair import Repair, repair
from sidecar.meter_status import MeterStatus
from tests.fakes.clock import FakeClock
from tests.fakes.licences import a_license
from tests.integration.sidecar.test_metering import Site, anchored


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Two sealed windows with 5 and 7 pages, and 4 pages in the open one."""
    one = Site(tmp_path)
    one.use(5)
    one.clock.pass_seconds(700)
    one.meter.cycle()
    one.use(7)
    one.clock.pass_seconds(700)
    one.meter.cycle()
    one.use(4)
    yield one
    one.ledger.close()


def stop(site: Site) -> None:
    """As after kill -9, but with all pages of the write-ahead log in the database, so that a test can damage them."""
    site.ledger._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    site.ledger.close()


def quarantines(site: Site) -> list[dict[str, object]]:
    size = site.ledger.snapshot(READ_PAGES_METER).size
    base = site.ledger._base(site.ledger._reader)
    found = map(parse_entry, site.ledger.lines(base, size))
    return [dict(entry) for entry in found if entry["kind"] in ("quarantine", "gap")]


def a_web(site: Site) -> Admission:
    """The gate of a web process that starts now."""
    return Admission(
        settings=site.settings,
        clock=site.clock,
        ledger=site.ledger,
        licenses=site.licenses,
        core=build_core_client(site.settings),
    )


def require_whole(site: Site, pages: int) -> None:
    """The log is proven by the pinned key, and ledger and records agree to the page."""
    site.clock.pass_seconds(700)
    assert site.meter.cycle().failed_cycles == 0
    report = verify_records(
        site.settings.output_directory, site.vendor.trust_root, device_keys=[site.device.verifying_key]
    )
    assert report.verdict is Verdict.GOOD, [finding.message for finding in report.instances[0].findings]
    assert report.instances[0].meters == {READ_PAGES_METER: pages}
    assert site.ledger.totals() == [(READ_PAGES_METER, pages)]
    assert check_ledger(ledger_path(site.settings), origin_key=site.device.verifying_key).findings == ()


def test_every_page_of_the_database_may_be_damaged(site: Site) -> None:
    """Zeroes or noise in any one page: at most what lay there alone and was not sealed yet is gone, never unnoticed."""
    stop(site)
    state, output, path = site.settings.state_directory, site.settings.output_directory, ledger_path(site.settings)
    pristine = {folder: folder.with_name(f"{folder.name}.pristine") for folder in (state, output)}
    for folder, copy in pristine.items():
        shutil.copytree(folder, copy)
    noise = random.Random(4)
    pages, healed = path.stat().st_size // 4096, 0
    for page in range(pages):
        for damage in (bytes(4096), noise.randbytes(4096)):
            for folder, copy in pristine.items():
                shutil.rmtree(folder)
                shutil.copytree(copy, folder)
            with path.open("r+b") as database:
                database.seek(page * 4096)
                if database.read(4096) == damage:
                    continue
                database.seek(page * 4096)
                database.write(damage)
            site.start()
            counted = dict(site.ledger.totals())[READ_PAGES_METER]
            assert counted in (12, 16)
            if counted == 12:
                assert quarantines(site)
            healed += bool(quarantines(site))
            require_whole(site, counted)
            site.ledger.close()
    assert healed > pages // 2
    site.start()


def test_garbage_for_a_ledger_is_moved_aside_and_rebuilt_from_the_records(site: Site) -> None:
    stop(site)
    garbage = os.urandom(50_000)
    ledger_path(site.settings).write_bytes(garbage)
    site.start()
    (entry,) = quarantines(site)
    aside = site.settings.state_directory / str(entry["aside"])
    assert (aside / "ledger.db").read_bytes() == garbage
    closed = [
        aside,
        aside.parent,
        *site.settings.state_directory.glob("ledger.db*"),
        site.settings.state_directory / KEPT_NAME,
    ]
    assert [one.name for one in closed if one.stat().st_mode & 0o077 and one.suffix != ".lock"] == []
    require_whole(site, 12)


@pytest.mark.parametrize("what", ["deleted", "empty"])
def test_lost_ledger_is_rebuilt_from_the_records(site: Site, what: str) -> None:
    stop(site)
    for path in site.settings.state_directory.glob("ledger.db*"):
        path.unlink()
    if what == "empty":
        ledger_path(site.settings).touch()
    site.start()
    (entry,) = quarantines(site)
    assert "older copy" in str(entry["cause"])
    require_whole(site, 12)


def test_older_copy_takes_back_what_its_records_know(site: Site, tmp_path: Path) -> None:
    """A restored state directory: the newer windows come back from the output mount, and its own new pages stay."""
    stop(site)
    shutil.copytree(site.settings.state_directory, tmp_path / "copy")
    site.start()
    site.use(9)
    site.clock.pass_seconds(700)
    site.meter.cycle()
    stop(site)
    shutil.rmtree(site.settings.state_directory)
    (tmp_path / "copy").rename(site.settings.state_directory)
    site.start()
    (entry,) = quarantines(site)
    assert "older copy" in str(entry["cause"])
    require_whole(site, 25)


def test_damage_behind_the_last_seal_costs_no_number_twice(site: Site) -> None:
    """A use behind a hole is entered again, under a new number."""
    site.use(3)
    seq = site.ledger.snapshot(READ_PAGES_METER).size - 4
    site.ledger._writer.execute("DELETE FROM use_entry WHERE seq = ?", [seq])
    stop(site)
    site.start()
    (entry,) = quarantines(site)
    assert entry["entered_again"] == 3
    assert "missing" in str(entry["cause"])
    require_whole(site, 18)


def test_ledger_and_records_lost_the_log_goes_on_from_the_kept_seal(site: Site) -> None:
    note = site.ledger.sealed_windows()[-1].note
    stop(site)
    shutil.rmtree(site.output.folder)
    for path in site.settings.state_directory.glob("ledger.db*"):
        path.unlink()
    site.start()
    assert [entry["kind"] for entry in quarantines(site)] == ["quarantine", "gap"]
    assert site.ledger.totals() == [(READ_PAGES_METER, 12)]
    site.use(2)
    site.clock.pass_seconds(700)
    assert site.meter.cycle().failed_cycles == 0
    assert site.ledger.totals() == [(READ_PAGES_METER, 14)]
    report = verify_records(
        site.settings.output_directory,
        site.vendor.trust_root,
        device_keys=[site.device.verifying_key],
        previous=note,
    )
    assert report.verdict is Verdict.GAPS, [finding.message for finding in report.instances[0].findings]


def test_licence_that_continues_lost_entries_suspends_until_the_vendor_vouches_for_them(site: Site) -> None:
    """Meter and web start and tell why; a later acknowledgement, or a licence that continues it, ends it."""
    first, _ = site.ledger.sealed_windows()
    origin = str(first.window["origin"])
    anchored(site, ledger_anchor=LedgerAnchor(origin=origin, size=first.size, root=first.root))
    lose_everything_but_the_kept_seal(site, records=False)
    site.start()
    base = site.ledger.base()
    assert base > first.size
    assert not site.licenses.lease_path.exists()
    assert site.meter._verdict().state is State.SUSPENDED
    assert f"first {first.size} entries" in site.meter._verdict().reason
    web = a_web(site)
    assert web.standing.verdict.state is State.SUSPENDED
    site.clock.pass_seconds(700)
    assert site.meter.cycle().failed_cycles == 0
    assert site.meter._verdict().state is State.SUSPENDED

    size, root = site.ledger.last_seal() or (0, b"")
    site.ledger.note_ack(size, "", {"size": size, "root": root.hex()}, root=root)
    assert site.meter._verdict().state is State.ACTIVE
    assert web.refresh().verdict.state is not State.SUSPENDED


def test_web_starts_on_a_ledger_that_cannot_be_held_against_its_licence(site: Site) -> None:
    """It is there to tell what is wrong."""
    origin = str(site.ledger.sealed_windows()[0].window["origin"])
    anchored(site, ledger_anchor=LedgerAnchor(origin=origin, size=3, root=site.ledger.root_at(3)))
    site.ledger._writer.execute("DELETE FROM use_entry WHERE seq = 2")
    web = a_web(site)
    assert web.standing.verdict.state is State.LEDGER_UNAVAILABLE
    assert "entry 2 is missing" in web.standing.verdict.reason


@pytest.mark.parametrize("wrong", ["root", "origin"])
def test_licence_that_continues_another_ledger_suspends_after_a_loss_too(site: Site, wrong: str) -> None:
    lose_everything_but_the_kept_seal(site, records=False)
    site.start()
    size, root = site.ledger.last_seal() or (0, b"")
    kept = site.ledger.kept_seal()
    assert kept is not None
    origin = str(kept.window["origin"])
    anchored(site, ledger_anchor=LedgerAnchor(origin=origin, size=size, root=root))
    assert site.meter._verdict().state is State.ACTIVE
    other = {
        "root": LedgerAnchor(origin=origin, size=size, root=bytes(32)),
        "origin": LedgerAnchor(origin="vendor.example/0000000000000000", size=2, root=root),
    }[wrong]
    site.license_file.write_bytes(site.vendor.seal(a_license(sequence=3, ledger_anchor=other)))
    site.meter.watch_license()
    told = {"root": "it forked", "origin": "the ledger of vendor.example/0000000000000000"}[wrong]
    assert told in site.meter._verdict().reason


def test_sealed_entries_that_are_nowhere_stop_the_start_and_nothing_is_moved(site: Site) -> None:
    stop(site)
    path = ledger_path(site.settings)
    (site.settings.state_directory / KEPT_NAME).unlink()
    site.files()[1].path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM use_entry WHERE seq = (SELECT first_seq + 1 FROM seal ORDER BY size DESC LIMIT 1)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(LedgerUnavailableError, match="neither in the ledger nor in the record files") as failure:
        site.start()
    assert "put the missing record files back" in failure.value.next_step
    assert path.read_bytes() == before


def test_nothing_is_mended_under_the_feet_of_another_process(site: Site) -> None:
    site.ledger._writer.execute("UPDATE frontier SET hash = zeroblob(32) WHERE level = 0")
    held = site.ledger
    with pytest.raises(LedgerUnavailableError, match="another process"):
        site.start()
    held.close()
    site.start()
    require_whole(site, 16)


def test_damage_met_at_work_is_noted_for_the_next_start(site: Site) -> None:
    stop(site)
    site.start()
    site.ledger._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path = ledger_path(site.settings)
    with path.open("r+b") as database:
        database.write(os.urandom(path.stat().st_size))
    site.ledger._reader.execute("PRAGMA cache_size=0")
    with pytest.raises(LedgerUnavailableError, match=r"malformed|not a database") as failure:
        list(site.ledger.lines(0, 10))
    assert "restart" in failure.value.next_step
    assert damage_path(path).exists()
    assert site.meter.ledger_is_damaged
    site.ledger.close()
    site.start()
    assert not damage_path(path).exists()
    counted = dict(site.ledger.totals())[READ_PAGES_METER]
    assert counted in (12, 16)  # with luck the write-ahead log still had the open window
    require_whole(site, counted)


def test_torn_newest_record_file_is_moved_aside_and_written_again(site: Site) -> None:
    newest = site.files()[-1].path
    whole = newest.read_bytes()
    newest.chmod(0o640)
    newest.write_bytes(whole[: len(whole) // 2])
    site.crash()
    (entry,) = quarantines(site)
    assert entry["what"] == "record_file"
    assert (site.output.folder / str(entry["aside"])).read_bytes() == whole[: len(whole) // 2]
    assert newest.read_bytes() == whole
    require_whole(site, 16)


def test_records_of_another_history_of_this_device_are_never_moved(site: Site, tmp_path: Path) -> None:
    """A clone: the output holds windows that this device sealed otherwise. Nothing is touched, the cause is told."""
    stop(site)
    shutil.copytree(site.settings.state_directory, tmp_path / "copy")
    site.start()
    elsewhere = site.settings.output_directory.with_name("elsewhere")
    site.clock.pass_seconds(700)
    site.meter.cycle()
    site.ledger.close()
    site.settings.output_directory.rename(elsewhere)
    site.settings.output_directory.mkdir()
    shutil.rmtree(site.settings.state_directory)
    (tmp_path / "copy").rename(site.settings.state_directory)
    site.start()
    site.clock.pass_seconds(900)
    site.meter.cycle()
    site.ledger.close()
    shutil.rmtree(site.settings.output_directory)
    elsewhere.rename(site.settings.output_directory)
    theirs = {path: path.read_bytes() for path in site.settings.output_directory.rglob("*") if path.is_file()}
    site.start()
    site.clock.pass_seconds(700)
    outcome = site.meter.cycle()
    assert outcome.failed_cycles == 1
    assert "older copy" in outcome.failure
    site.meter.watch_output()
    assert "older copy" in MeterStatus.read(site.settings.state_directory).output_problem
    assert {path: path.read_bytes() for path in theirs} == theirs


def test_acknowledgements_survive_the_loss_of_their_table(site: Site) -> None:
    """The log itself tells what was acknowledged, so that no older acknowledgement is believed after a repair."""
    size, root = site.ledger.last_seal() or (0, b"")
    assert site.ledger.note_ack(size, "note", {"size": size, "root": root.hex()}, root=root)
    assert not site.ledger.note_ack(size, "note", {"size": size, "root": root.hex()}, root=root)
    site.clock.pass_seconds(700)
    site.meter.cycle()
    stop(site)
    for path in site.settings.state_directory.glob("ledger.db*"):
        path.unlink()
    site.start()
    acked = site.ledger.acked()
    assert acked is not None
    assert (acked.size, acked.root) == (size, root)
    require_whole(site, 16)


def test_a_window_is_sealed_though_it_cannot_be_written(site: Site) -> None:
    """An export carries what the mount does not take."""
    site.settings.output_directory.rename(site.settings.output_directory.with_name("elsewhere"))
    site.clock.pass_seconds(700)
    assert site.meter.cycle().failed_cycles == 1
    snapshot = site.ledger.snapshot(READ_PAGES_METER)
    assert snapshot.pending_files == 1
    assert snapshot.sealed_size == snapshot.size - 1  # all but the fault entry


def lose_everything_but_the_kept_seal(site: Site, *, records: bool) -> None:
    stop(site)
    if not records:
        site.output.folder.rename(site.settings.output_directory.with_name("elsewhere"))
    for path in site.settings.state_directory.glob("ledger.db*"):
        path.unlink()


def test_goes_on_from_the_kept_seal_though_older_records_are_there(site: Site) -> None:
    """One window was sealed and not written; then the ledger was lost. Restart after restart must work."""
    site.settings.output_directory.rename(site.settings.output_directory.with_name("elsewhere"))
    site.clock.pass_seconds(700)
    assert site.meter.cycle().failed_cycles == 1
    site.settings.output_directory.with_name("elsewhere").rename(site.settings.output_directory)
    lose_everything_but_the_kept_seal(site, records=True)
    for pages in (18, 20, 22):
        site.start()
        site.use(2)
        site.clock.pass_seconds(700)
        assert site.meter.cycle().failed_cycles == 0
        assert site.ledger.totals() == [(READ_PAGES_METER, pages)]
        site.ledger.close()
    site.start()


def test_export_after_a_loss_begins_where_the_ledger_begins(site: Site, tmp_path: Path) -> None:
    lose_everything_but_the_kept_seal(site, records=False)
    site.start()
    site.use(1)
    site.clock.pass_seconds(700)
    site.meter.cycle()
    for since in (None, 0):
        done = export_usage(
            site.ledger, site.device, tmp_path / "stick", state_directory=site.settings.state_directory, since=since
        )
        assert done.span.since == site.ledger.base() > 0


# ---- large ledgers ---------------------------------------------------------------------------------------------------


def a_ledger_of(folder: Path, pages: int) -> Path:
    """A ledger with documents of five pages each, nothing of it sealed."""
    path = folder / "ledger.db"
    folder.mkdir()
    prepare(path)
    ledger = Ledger(path, clock=FakeClock(), instance="0123456789ab", version="1")
    for start in range(0, pages, 2000):
        events = [
            UseEvent(operation_id=operation, page=page, meter=READ_PAGES_METER, license_id="x")
            for operation in (str(uuid.uuid4()) for _ in range(start, min(start + 2000, pages), 5))
            for page in range(1, 6)
        ]
        ledger.record_use(events)
    ledger.close()
    return path


def repaired(path: Path) -> Repair:
    return repair(path, salvage.gather_evidence(path.parent, path.parent / "none", None), "a test")


def test_memory_of_a_rebuild_does_not_grow_with_the_pages(tmp_path: Path) -> None:
    """A ledger of ten million pages is rebuilt within the gigabyte that its unit has."""
    peaks = []
    for pages in (6000, 12000):
        path = a_ledger_of(tmp_path / str(pages), pages)
        tracemalloc.start()
        try:
            assert repaired(path).entries == pages
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] - peaks[0] < 6000 * 20


@pytest.mark.parametrize("with_hole", [False, True])
def test_page_that_is_there_twice_is_rebuilt_as_a_line_and_never_entered_again(tmp_path: Path, with_hole: bool) -> None:
    """As an older version could leave it: the log keeps both, the table of pages has room for one."""
    path = a_ledger_of(tmp_path / "state", 10)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        (body,) = db.execute("SELECT body FROM entry WHERE seq = 0").fetchone()
        seq = 11 if with_hole else 10
        line = encode_entry({**parse_entry(body), "seq": seq})
        db.execute("INSERT INTO line_entry VALUES (?, 'use', ?, ?)", [seq, line, leaf_hash(line)])
    done = repaired(path)
    assert (done.entries, done.entered_again) == (10 if with_hole else 11, 0)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM use_entry").fetchone() == (10,)
        assert db.execute("SELECT body FROM line_entry WHERE kind = 'use'").fetchall() == (
            [] if with_hole else [(line,)]
        )
        assert db.execute("SELECT sum(qty) FROM total").fetchone() == (done.entries,)


# ---- an output mount that does not answer ----------------------------------------------------------------------------


@pytest.fixture
def silent(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """A call after which nothing reads the newest checkpoint on the output mount, until the test ends."""
    answers, read = threading.Event(), salvage._read_note

    def wait(path: Path) -> str:
        answers.wait(30)
        return read(path)

    def fall_silent() -> None:
        site.settings = replace(site.settings, output_timeout_seconds=1)
        monkeypatch.setattr(salvage, "_read_note", wait)

    yield fall_silent
    answers.set()


def test_start_does_not_wait_for_a_mount_that_does_not_answer(site: Site, silent: Callable[[], None]) -> None:
    stop(site)
    silent()
    begun = time.monotonic()
    site.start()
    assert time.monotonic() - begun < 10
    assert quarantines(site) == []


@pytest.mark.parametrize("loss", ["damaged", "lost", "lost with the kept seal"])
def test_what_is_to_be_mended_waits_for_a_mount_that_does_not_answer(
    site: Site, silent: Callable[[], None], monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    """The records on it may have what is missing: nothing is rebuilt, and no history begun, without a look at them."""
    path = ledger_path(site.settings)
    if loss == "damaged":
        site.ledger._writer.execute("DELETE FROM use_entry WHERE seq = 2")
        site.ledger._writer.execute("UPDATE frontier SET hash = zeroblob(32) WHERE level = 0")
        stop(site)
    else:
        lose_everything_but_the_kept_seal(site, records=True)
    if loss == "lost with the kept seal":
        (site.settings.state_directory / KEPT_NAME).unlink()
    silent()
    for _ in range(2):
        with pytest.raises(LedgerUnavailableError, match="does not answer") as failure:
            site.start()
        assert "findmnt" in failure.value.next_step
    assert not (path.parent / "aside").exists()
    monkeypatch.undo()
    site.start()
    assert [entry["kind"] for entry in quarantines(site)] == ["quarantine"], "with the records nothing is lost"
    assert site.ledger.totals()[0][1] >= 12


@pytest.mark.parametrize("what", ["fifo", "folder"])
def test_what_is_no_file_in_place_of_a_checkpoint_is_none(site: Site, what: str) -> None:
    stop(site)
    place = site.output.folder / "checkpoint"
    place.unlink()
    os.mkfifo(place) if what == "fifo" else place.mkdir()
    evidence = salvage.gather_evidence(site.settings.state_directory, site.output.folder, None, limit_seconds=5)
    assert (evidence.checkpoints, evidence.is_silent) == ({}, False)


def test_kept_seal_that_this_device_did_not_sign_so_is_none(site: Site) -> None:
    stop(site)
    path = site.settings.state_directory / KEPT_NAME
    kept = json.loads(path.read_bytes())
    size = kept["size"]
    kept["size"] = size * 4  # as many bits, so the frontier still is one
    path.write_text(json.dumps(kept))
    site.start()
    assert quarantines(site) == []
    require_whole(site, 16)


def test_kept_seal_has_the_sums_of_its_moment(site: Site) -> None:
    """Pages counted between a window's end and its seal belong to the next window."""
    site.ledger.close_window("interval", site.meter._context())
    site.use(3)
    (pending,) = site.ledger.pending_records()
    site.ledger.seal_window(pending, lambda size, root: site.meter._sign(str(pending.window["origin"]), size, root))
    kept = site.ledger.kept_seal()
    assert kept is not None
    assert kept.size == pending.size
    assert [sum(months.values()) for months in kept.totals.values()] == [16]
    assert sum(quantity for meters in kept.license_totals.values() for quantity in meters.values()) == 16


def test_clock_reset_token_stays_used(site: Site) -> None:
    token = "0d7e1b0c-3f0e-4a33-9d8b-6c8f6f2f1a11"
    site.ledger.adopt_time(site.clock.wall_ns + 10**9, {"action": "reset", "token_id": token}, token_id=token)
    site.clock.pass_seconds(700)
    site.meter.cycle()
    lose_everything_but_the_kept_seal(site, records=True)
    site.start()
    with pytest.raises(LedgerConflictError, match="used before"):
        site.ledger.adopt_time(site.clock.wall_ns + 10**12, {"action": "reset", "token_id": token}, token_id=token)


def test_ledger_removed_at_work_takes_nothing_more(site: Site) -> None:
    for path in site.settings.state_directory.glob("ledger.db*"):
        path.unlink()
    with pytest.raises(LedgerUnavailableError, match="removed or replaced"):
        site.use(1)
    assert "removed" in site.ledger.problem
    assert damage_path(ledger_path(site.settings)).exists()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE sqlite_master SET sql = replace(sql, 'u.operation', 'u.oparation') WHERE name = 'entry'",
        "DROP VIEW entry",
        "DROP TABLE use_entry",
        "DROP TABLE hwm",
        "ALTER TABLE seal RENAME COLUMN frontier TO front",
        "DROP TABLE _sqlite_migrations",
    ],
)
def test_schema_that_is_not_ours_is_damage(site: Site, statement: str) -> None:
    stop(site)
    db = sqlite3.connect(ledger_path(site.settings), isolation_level=None)
    db.execute("PRAGMA writable_schema=ON")
    db.execute(statement)
    db.close()
    site.start()
    assert quarantines(site)
    require_whole(site, dict(site.ledger.totals())[READ_PAGES_METER])
    assert dict(site.ledger.totals())[READ_PAGES_METER] in (12, 16)


def test_a_start_beside_a_working_meter_never_cries_wolf(site: Site) -> None:
    """Seals come and go while another process looks: what it sees is one state."""
    stopping = threading.Event()
    problems: list[str] = []

    def look() -> None:
        while not stopping.is_set():
            problems.append(start_problem(ledger_path(site.settings)))

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(150):
        site.use(1)
        site.ledger.close_window("interval", site.meter._context())
        site.meter._seal_pending()
    stopping.set()
    thread.join()
    assert len(problems) > 20
    assert set(problems) == {""}


def test_pipe_in_place_of_a_checkpoint_keeps_nobody_waiting(site: Site) -> None:
    checkpoint = site.output.folder / "checkpoint"
    checkpoint.unlink()
    os.mkfifo(checkpoint)
    site.clock.pass_seconds(700)
    started = time.monotonic()
    assert site.meter.cycle().failed_cycles == 0
    assert time.monotonic() - started < 10
    assert checkpoint.is_file()
