"""The meter's numbers: durable commits, a large window's seal, verification, and a ledger of millions of entries.

Each figure stands beside a baseline measured in the same minute: bare SQLite, bare SHA-256, an empty ledger.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from licenses.device_key import DeviceKey
from licenses.keys import public_pem
from licenses.model import READ_PAGES_METER
from licenses.usage_log.entry import leaf_hash
from sidecar.bootstrap import build_meter, ledger_path, migrate
from sidecar.clock import SystemClock, month_of
from sidecar.ledger import Ledger, UseEvent
from sidecar.ledger.use_form import UseForm, use_line
from sidecar.settings import Settings
from tests.fakes.licences import a_license, a_vendor

ENTRIES = int(os.environ.get("BENCH_ENTRIES", "2000000"))
VERIFIED = int(os.environ.get("BENCH_VERIFIED", "1000000"))
WINDOW = 100_000
CALLERS = 16
COMMITS = 1000


def main() -> None:
    """Print every figure with its goal."""
    commits()
    seal()
    verification()
    long_ledger()


def commits() -> None:
    """Sixteen callers, one page each at a time, each waiting for the disk."""
    with a_site() as (settings, _):
        ledger = open_ledger(settings)
        bare = _bare_commits(settings.state_directory / "bare.db")
        rates, latencies = [], []
        for _ in range(3):
            taken: list[float] = []
            threads = [threading.Thread(target=_record, args=(ledger, COMMITS, taken)) for _ in range(CALLERS)]
            started = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            rates.append(CALLERS * COMMITS / (time.perf_counter() - started))
            latencies += taken
        latencies.sort()
        p99 = latencies[len(latencies) * 99 // 100] * 1000
        ledger._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = ledger_path(settings).stat().st_size / ledger.snapshot(READ_PAGES_METER).size
        ledger.close()
    rate = statistics.median(rates)
    print(f"durable commits, {CALLERS} callers  {rate:7.0f}/s, p99 {p99:.1f} ms   (goal: 2000/s, p99 10 ms)")
    print(f"  bare SQLite, one caller    {bare:7.0f}/s, ratio {rate / bare:.1f}")
    print(f"ledger per page              {size:7.0f} B   (goal: 250 B at most)")


def seal() -> None:
    """A window of 100 000 entries closed and sealed by another process, while callers go on recording."""
    with a_site() as (settings, _):
        meter = build_meter(settings)
        meter.open()
        fill(settings, WINDOW)
        ledger = open_ledger(settings)
        stop = threading.Event()
        taken: list[float] = []
        threads = [threading.Thread(target=_record_until, args=(ledger, stop, taken)) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        context = multiprocessing.get_context("spawn")
        answers: Any = context.Queue()
        process = context.Process(target=_seal_elsewhere, args=(settings, answers))
        process.start()
        sealed, written, baseline = answers.get(timeout=120)
        process.join()
        stop.set()
        for thread in threads:
            thread.join()
        ledger.close()
    stall = max(taken) * 1000
    print(
        f"window of {WINDOW:,} sealed    {sealed:7.2f} s, longest wait of a request {stall:.0f} ms   (goal: 1 s, 50 ms)"
    )
    print(f"  written and synced too     {written:7.2f} s; SHA-256 of the same lines alone {baseline:.2f} s")


def verification() -> None:
    """The auditor's command on a million entries in files of a hundred thousand."""
    with a_site() as (settings, root_path):
        meter = build_meter(settings)
        meter.open()
        for _ in range(max(1, VERIFIED // WINDOW)):
            fill(settings, WINDOW)
            assert meter.cycle().failed_cycles == 0
        key = settings.state_directory / "pinned.pub"
        key.write_bytes(public_pem(DeviceKey.load_or_create(settings.state_directory).verifying_key.public))
        baseline = 0.0
        for path in settings.output_directory.rglob("*.jsonl"):
            lines = path.read_bytes().split(b"\n")
            started = time.perf_counter()
            for line in lines:
                hashlib.sha256(b"\x00" + line).digest()
            baseline += time.perf_counter() - started
        started = time.perf_counter()
        process = subprocess.Popen(
            [
                Path(sys.executable).parent / "usage-verify",
                settings.output_directory,
                "--trust-root",
                root_path,
                "--device-key",
                key,
            ],
            stdout=subprocess.DEVNULL,
        )
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, _peak_mib(process.pid))  # not rusage, which counts what this process was at the fork
            time.sleep(0.02)
        seconds = time.perf_counter() - started
        assert process.returncode == 0
    print(f"{VERIFIED:,} entries verified  {seconds:7.1f} s, peak {peak:.0f} MiB   (goal: 15 s, 200 MiB)")
    print(f"  SHA-256 of the same lines  {baseline:7.1f} s, ratio {seconds / baseline:.1f}")


def long_ledger() -> None:
    """Start and totals must not notice how long the log is."""
    with a_site() as (settings, _):
        meter = build_meter(settings)
        meter.open()
        empty = _start_seconds(settings)
        started = time.perf_counter()
        while (size := _size(settings)) < ENTRIES:
            fill(settings, min(WINDOW, ENTRIES - size))
            meter.cycle()
        filled = time.perf_counter() - started
        seconds = _start_seconds(settings)
        ledger = open_ledger(settings)
        taken = []
        for _ in range(200):
            began = time.perf_counter()
            ledger.totals()
            ledger.totals("2027-01")
            taken.append((time.perf_counter() - began) * 1000)
        ledger.close()
        taken.sort()
        path = ledger_path(settings)
        size_gib = path.stat().st_size / 2**30
    print(f"start with {ENTRIES:,} entries {seconds:6.2f} s   (goal: 2 s); with an empty ledger {empty:.2f} s")
    print(f"all totals and a month's     {taken[100]:7.2f} ms, p99 {taken[198]:.2f} ms   (goal: 5 ms)")
    print(f"  ledger of {size_gib:.2f} GiB, made and sealed in {filled:.0f} s")


# ---- parts -----------------------------------------------------------------------------------------------------------


@contextmanager
def a_site() -> Iterator[tuple[Settings, Path]]:
    """Folders, a vendor and a licence that is valid today; removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-") as holder:
        folder = Path(holder)
        now = SystemClock().read().wall_ns // 1_000_000_000
        vendor = a_vendor(evaluation=True)
        lic = a_license(evaluation=True)
        shift = timedelta(days=180)
        today = datetime.fromtimestamp(now, UTC)
        lic = replace(
            lic,
            issued_at=today - shift,
            not_before=today - shift,
            expires_at=today + shift,
            termination_at=today + shift,
        )
        root_path, license_path = vendor.install(folder, lic)
        (folder / "output").mkdir()
        settings = Settings(
            license_directory=license_path.parent,
            output_directory=folder / "output",
            state_directory=folder / "state",
            trust_root=root_path,
        )
        migrate(settings)
        yield settings, root_path
        shutil.rmtree(folder / "state", ignore_errors=True)


def open_ledger(settings: Settings) -> Ledger:
    """The ledger as the web opens it."""
    instance = DeviceKey.load_or_create(settings.state_directory).instance_id
    return Ledger(ledger_path(settings), clock=SystemClock(), instance=instance, version="0.1.0")


def fill(settings: Settings, count: int) -> None:
    """Append uses straight into the tables: what a year of callers would leave, without waiting a year."""
    ledger = open_ledger(settings)
    now = ledger.now()
    text = UseForm(container_id=ledger._instance, container_version="0.1.0", meter=READ_PAGES_METER).text
    times = {
        "wall_ms": now.reading.wall_ns // 1_000_000,
        "effective_ms": now.ns // 1_000_000,
        "boottime_ms": now.reading.boottime_ns // 1_000_000,
    }

    def rows(start: int, form: int) -> Iterator[tuple[object, ...]]:
        for seq in range(start, start + count):
            operation = uuid.UUID(int=seq + 1)  # in order: quick to build; a page costs the same bytes
            line = use_line(text, seq=seq, operation=operation, page=1, quantity=1, **times)
            yield seq, form, operation.bytes, 1, 1, *times.values(), leaf_hash(line)

    with ledger._write_lock, ledger._transaction():
        start = ledger._next_seq()
        fresh: dict[str, int] = {}
        form = ledger._form_id(text, fresh)
        ledger._writer.conn.executemany("INSERT INTO use_entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows(start, form))
        ledger._add_up({(READ_PAGES_METER, a_license().license_id): count}, month_of(now.ns))
    ledger.close()


def _record(ledger: Ledger, count: int, taken: list[float]) -> None:
    mine = []
    for _ in range(count):
        event = UseEvent(operation_id=str(uuid.uuid4()), page=1, meter=READ_PAGES_METER, license_id="L")
        started = time.perf_counter()
        ledger.record_use([event])
        mine.append(time.perf_counter() - started)
    taken += mine


def _record_until(ledger: Ledger, stop: threading.Event, taken: list[float]) -> None:
    while not stop.wait(random.uniform(0, 0.004)):
        _record(ledger, 1, taken)


def _bare_commits(path: Path) -> float:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE one(id INTEGER PRIMARY KEY, body BLOB)")
    started = time.perf_counter()
    for _ in range(2000):
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO one(body) VALUES (?)", [bytes(120)])
        db.execute("COMMIT")
    rate = 2000 / (time.perf_counter() - started)
    db.close()
    return rate


def _seal_elsewhere(settings: Settings, answers: Any) -> None:
    """In the meter's process: close and seal, then write; and the bare hashing of the same lines."""
    meter = build_meter(settings)
    started = time.perf_counter()
    meter._ledger.close_window("interval", meter._context())
    (record,) = meter._ledger.pending_records()
    meter._ledger.seal_window(record, lambda size, root: meter._sign(str(record.window["origin"]), size, root))
    sealed = time.perf_counter() - started
    meter._deliver()
    written = time.perf_counter() - started
    lines = list(meter._ledger.lines(record.first_seq, record.size))
    started = time.perf_counter()
    for line in lines:
        leaf_hash(line)
    answers.put((sealed, written, time.perf_counter() - started))


def _start_seconds(settings: Settings) -> float:
    """From nothing to a meter that has minted its lease, less the interpreter and its imports."""
    code = (
        "import sys, time, pickle; from sidecar.bootstrap import build_meter; "
        "settings = pickle.loads(sys.stdin.buffer.read()); started = time.perf_counter(); "
        "build_meter(settings).open(); print('SECONDS', time.perf_counter() - started)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(settings), capture_output=True, check=True)
    return float(done.stdout.decode().rpartition("SECONDS")[2])


def _peak_mib(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


def _size(settings: Settings) -> int:
    ledger = open_ledger(settings)
    size = ledger.snapshot(READ_PAGES_METER).size
    ledger.close()
    return size


if __name__ == "__main__":
    main()
