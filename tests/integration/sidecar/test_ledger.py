"""The ledger on a real file: once, durable, without holes."""

import contextlib
import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlite_utils import Database

from licenses.model import READ_PAGES_METER
from licenses.usage_log.entry import leaf_hash, parse_entry
from licenses.usage_log.merkle import root_of
from sidecar.errors import LedgerConflictError, LedgerUnavailableError
from sidecar.ledger import Ledger, UseEvent, prepare
from sidecar.ledger.database import hold
from tests.fakes.clock import FakeClock

CONTEXT = {"origin": "vendor.example/0123456789abcdef", "license_id": "L", "license_sequence": 1, "evaluation": True}


def use(operation: str | None = None, page: int = 1, quantity: int = 1) -> UseEvent:
    return UseEvent(
        operation_id=operation or str(uuid.uuid4()),
        page=page,
        meter=READ_PAGES_METER,
        license_id="L",
        quantity=quantity,
    )


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state" / "ledger.db"
    prepare(path)
    return path


@pytest.fixture
def ledger(path: Path, clock: FakeClock) -> Iterator[Ledger]:
    ledger = Ledger(path, clock=clock, instance="c0ffee123456", version="0.1.0")
    yield ledger
    ledger.close()


def lines(ledger: Ledger) -> list[bytes]:
    return list(ledger.lines(0, ledger.snapshot(READ_PAGES_METER).size))


def test_a_page_becomes_one_entry_with_the_names_of_the_contract(ledger: Ledger, clock: FakeClock) -> None:
    event = use()
    assert ledger.record_use([event]) == 1
    (line,) = lines(ledger)
    assert parse_entry(line) == {
        "apiType": "computervision",
        "boottime_ms": clock.boottime_ns // 1_000_000,
        "containerId": "c0ffee123456",
        "containerType": "ComputerVision.ComputerVisionRead",
        "containerVersion": "0.1.0",
        "effective_ms": clock.wall_ns // 1_000_000,
        "id": event.operation_id,
        "kind": "use",
        "meter": {"name": READ_PAGES_METER, "quantity": 1},
        "page": 1,
        "requestTime": clock.wall_ns // 1_000_000_000,
        "seq": 0,
        "wall_ms": clock.wall_ns // 1_000_000,
    }


def test_same_event_twice_counts_once(ledger: Ledger) -> None:
    event = use()
    assert [ledger.record_use([event]), ledger.record_use([event])] == [1, 0]
    assert ledger.totals() == [(READ_PAGES_METER, 1)]
    assert ledger.snapshot(READ_PAGES_METER).license_pages == {"L": 1}


def test_same_event_after_restart_counts_once(path: Path, clock: FakeClock) -> None:
    event = use()
    for counted in (1, 0):
        ledger = Ledger(path, clock=clock, instance="c0ffee123456", version="0.1.0")
        assert ledger.record_use([event]) == counted
        ledger.close()


def test_same_event_with_other_content_is_refused_and_records_nothing(ledger: Ledger) -> None:
    event = use()
    ledger.record_use([event])
    with pytest.raises(LedgerConflictError):
        ledger.record_use([use(), use(event.operation_id, quantity=2)])
    assert ledger.totals() == [(READ_PAGES_METER, 1)]


def test_a_conflict_does_not_disturb_who_waits_beside_it(ledger: Ledger) -> None:
    event = use()
    ledger.record_use([event])
    outcomes: list[object] = []

    def record(events: list[UseEvent]) -> None:
        try:
            outcomes.append(ledger.record_use(events))
        except LedgerConflictError as exc:
            outcomes.append(type(exc))

    threads = [threading.Thread(target=record, args=([use()],)) for _ in range(10)]
    threads.append(threading.Thread(target=record, args=([use(event.operation_id, quantity=2)],)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, outcomes)) == sorted(["1"] * 10 + [str(LedgerConflictError)])
    assert ledger.totals() == [(READ_PAGES_METER, 11)]


def test_many_threads_leave_no_hole_and_lose_nothing(ledger: Ledger) -> None:
    operations = [str(uuid.uuid4()) for _ in range(16)]

    def record(operation: str) -> None:
        for page in range(1, 26):
            ledger.record_use([use(operation, page)])
            ledger.record_use([use(operation, page)])

    threads = [threading.Thread(target=record, args=(operation,)) for operation in operations]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = [parse_entry(line) for line in lines(ledger)]
    assert [entry["seq"] for entry in entries] == list(range(400))
    assert len({(entry["id"], entry["page"]) for entry in entries}) == 400
    assert ledger.totals() == [(READ_PAGES_METER, 400)]


_PROCESS = """
import sys, uuid
from pathlib import Path
from licenses.model import READ_PAGES_METER
from sidecar.clock import SystemClock
from sidecar.ledger import Ledger, UseEvent
ledger = Ledger(Path(sys.argv[1]), clock=SystemClock(), instance="c0ffee123456", version="0.1.0")
for page in range(1, 101):
    for operation in (sys.argv[2], "00000000-0000-4000-8000-000000000000"):
        ledger.record_use([UseEvent(operation_id=operation, page=page, meter=READ_PAGES_METER, license_id="L")])
"""


def test_many_processes_on_one_ledger(path: Path, ledger: Ledger) -> None:
    """Four processes: 100 pages of their own each, and 100 pages that all of them report."""
    processes = [
        subprocess.Popen([sys.executable, "-c", _PROCESS, str(path), str(uuid.uuid4())], stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for process in processes:
        assert process.wait(60) == 0, process.stderr and process.stderr.read().decode()
        assert process.stderr is not None
        process.stderr.close()
    assert ledger.totals() == [(READ_PAGES_METER, 500)]
    assert [parse_entry(line)["seq"] for line in lines(ledger)] == list(range(500))


def test_killed_writer_loses_no_acknowledged_page(path: Path, ledger: Ledger) -> None:
    """Kill -9 in the middle: every page that the writer printed is there, none twice."""
    code = (
        _PROCESS.replace("range(1, 101)", "range(1, 100001)").replace(
            '    for operation in (sys.argv[2], "00000000-0000-4000-8000-000000000000"):\n',
            "    for operation in (sys.argv[2],):\n",
        )
        + "        print(page, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path), str(uuid.uuid4())], stdout=subprocess.PIPE)
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(40)]
    process.kill()
    acknowledged += [int(line) for line in process.stdout if line.endswith(b"\n")]
    process.wait()
    process.stdout.close()
    pages = [parse_entry(line)["page"] for line in lines(ledger)]
    assert pages[: len(acknowledged)] == acknowledged
    assert len(pages) - len(acknowledged) in {0, 1}
    assert ledger.totals() == [(READ_PAGES_METER, len(pages))]


def test_a_failed_commit_leaves_nothing(ledger: Ledger, path: Path) -> None:
    """The database is made unwritable under the writer: the caller learns it, and nothing is half there."""
    ledger.record_use([use()])
    ledger._writer.execute("PRAGMA query_only=ON")
    with pytest.raises(LedgerUnavailableError) as caught:
        ledger.record_use([use()])
    assert caught.value.next_step
    ledger._writer.execute("PRAGMA query_only=OFF")
    assert ledger.record_use([use()]) == 1
    assert ledger.totals() == [(READ_PAGES_METER, 2)]
    assert len(lines(ledger)) == 2


def test_not_migrated_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    with pytest.raises(LedgerUnavailableError, match="not been brought up to date") as caught:
        Ledger(tmp_path / "new.db", clock=clock, instance="x", version="1")
    assert "sidecar migrate" in caught.value.next_step


def wide(folder: Path) -> list[str]:
    """What of the ledger others than its owner may open."""
    return [one.name for one in folder.glob("ledger.db*") if one.suffix != ".lock" and one.stat().st_mode & 0o077]


def test_the_ledger_is_its_owners_alone_from_the_first_moment(tmp_path: Path, clock: FakeClock) -> None:
    """The core is in the service's group, and what its unit hides has no name yet at the first start."""
    path = tmp_path / "ledger.db"
    before = os.umask(0o027)
    try:
        prepare(path)
        ledger = Ledger(path, clock=clock, instance="c0ffee123456", version="1")
    finally:
        os.umask(before)
    ledger.record_use([use()])
    assert {"ledger.db", "ledger.db-wal", "ledger.db-shm"} <= {one.name for one in tmp_path.iterdir()}
    assert wide(tmp_path) == []
    ledger.close()


def test_a_ledger_of_an_earlier_release_is_closed_to_others(path: Path, ledger: Ledger) -> None:
    ledger.record_use([use()])
    aside = path.parent / "aside"
    aside.mkdir(mode=0o750)
    for one in path.parent.glob("ledger.db*"):
        one.chmod(0o640)
    prepare(path)
    assert wide(path.parent) == []
    assert stat.S_IMODE(aside.stat().st_mode) == 0o700
    assert ledger.record_use([use()]) == 1  # who has it open goes on


def test_ledger_that_could_not_be_opened_is_not_held(tmp_path: Path, clock: FakeClock) -> None:
    """Or the next start in the same process would take it for another process that has it open, and mend nothing."""
    damaged = tmp_path / "ledger.db"
    prepare(damaged)
    blob = bytearray(damaged.read_bytes())
    blob[40:4096] = bytes(4056)
    damaged.write_bytes(blob)
    with pytest.raises(LedgerUnavailableError):
        Ledger(damaged, clock=clock, instance="x", version="1")
    alone = hold(damaged, alone=True)
    assert alone is not None
    os.close(alone)


def test_prepare_twice_is_harmless(path: Path) -> None:
    prepare(path)
    assert not sqlite3.connect(path).execute("SELECT count(*) FROM entry").fetchone()[0]


def test_opens_with_sqlite_utils_while_in_use(path: Path, ledger: Ledger) -> None:
    ledger.record_use([use(), use()])
    reading = Database(path)
    assert reading["entry"].count == 2
    reading.close()


def test_windows_partition_the_log_and_seals_are_merkle_roots(ledger: Ledger, clock: FakeClock) -> None:
    ledger.append("boot", {"boot_id": clock.boot_id})
    ledger.record_use([use(), use()])
    assert ledger.has_open_window()
    first = ledger.close_window("interval", CONTEXT)
    assert not ledger.has_open_window()
    clock.pass_seconds(700)
    second = ledger.close_window("interval", CONTEXT)
    assert (first, second) == (4, 5)

    signed: list[tuple[int, bytes]] = []

    def sign(size: int, root: bytes) -> str:
        signed.append((size, root))
        return f"note {size}"

    for record in ledger.pending_records():
        ledger.seal_window(record, sign)
    leaves = [leaf_hash(line) for line in lines(ledger)]
    assert signed == [(4, root_of(leaves[:4])), (5, root_of(leaves))]
    assert ledger.last_seal() == signed[-1]
    assert ledger.frontier_root() == signed[-1][1]

    window = json.loads(lines(ledger)[3])
    assert window["meters"] == [{"name": READ_PAGES_METER, "quantity": 2}]
    assert window["first_seq"] == 0
    empty = json.loads(lines(ledger)[4])
    assert empty["meters"] == []
    assert empty["opened"] == window["closed"]
    assert [record.size for record in ledger.pending_records()] == [4, 5]


def test_failed_cycles_are_counted_through_restarts(path: Path, clock: FakeClock) -> None:
    for expected in (1, 2, 3):
        ledger = Ledger(path, clock=clock, instance="x", version="1")
        assert ledger.cycle_failed("disk full", {"code": "output_unwritable"}) == expected
        ledger.close()
    ledger = Ledger(path, clock=clock, instance="x", version="1")
    assert ledger.snapshot(READ_PAGES_METER).failed_cycles == 3
    assert ledger.snapshot(READ_PAGES_METER).failure == "disk full"
    ledger.cycle_succeeded()
    assert ledger.snapshot(READ_PAGES_METER).failed_cycles == 0
    ledger.close()


def test_totals_by_effective_month(ledger: Ledger, clock: FakeClock) -> None:
    ledger.record_use([use()])
    clock.pass_seconds(31 * 86400)
    ledger.record_use([use(), use()])
    assert ledger.totals("2027-01") == [(READ_PAGES_METER, 1)]
    assert ledger.totals("2027-02") == [(READ_PAGES_METER, 2)]
    assert ledger.totals("2027-03") == []
    assert ledger.months(READ_PAGES_METER) == [("2027-01", 1), ("2027-02", 2)]


def test_time_in_entries_never_runs_backwards(ledger: Ledger, clock: FakeClock) -> None:
    for step in (0, -86400 * 400, 300, -5000, 86400 * 4000):
        clock.step_wall(step)
        clock.pass_seconds(1)
        ledger.record_use([use()])
    effective = [int(str(parse_entry(line)["effective_ms"])) for line in lines(ledger)]
    assert effective == sorted(effective)
    assert effective[-1] - effective[0] < 700_000


def test_full_disk_is_told_until_a_write_succeeds(path: Path, clock: FakeClock) -> None:
    """SQLite's own page limit stands for the full disk: same error, same place."""
    ledger = Ledger(path, clock=clock, instance="c0ffee123456", version="0.1.0")
    pages = ledger._writer.execute("PRAGMA page_count").fetchone()[0]
    ledger._writer.execute(f"PRAGMA max_page_count={pages}")
    counted = 0
    with contextlib.suppress(LedgerUnavailableError):
        for _ in range(1000):
            counted += ledger.record_use([use()])
    assert counted < 1000
    assert "full" in ledger.problem
    ledger._writer.execute("PRAGMA max_page_count=1000000")
    assert ledger.record_use([use()]) == 1
    assert ledger.problem == ""
    assert ledger.totals() == [(READ_PAGES_METER, counted + 1)]
    ledger.close()
