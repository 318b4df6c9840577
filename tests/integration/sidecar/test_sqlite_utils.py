"""Anyone may look into the ledger with `sqlite-utils` while the service runs: it reads, and no writer is disturbed."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from licenses.model import READ_PAGES_METER
from sidecar.ledger import Ledger, UseEvent, prepare
from tests.fakes.clock import FakeClock

COMMAND = str(Path(sys.executable).parent / "sqlite-utils")
CONTEXT = {
    "origin": "vendor.example/0123456789abcdef",
    "product_version": "0.1.0",
    "license_id": "L",
    "license_sequence": 1,
    "evaluation": True,
}


class Writer(threading.Thread):
    """Commits pages one after another, as the service does, and takes the time of each commit."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(daemon=True)
        self._ledger = ledger
        self._ended = threading.Event()
        self.pages = 0
        self.slowest_seconds = 0.0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while not self._ended.is_set():
                started = time.monotonic()
                self._ledger.record_use([a_page()])
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - started)
                self.pages += 1
        except Exception as exc:  # noqa: BLE001  told by `end`
            self.error = exc

    def end(self) -> None:
        self._ended.set()
        self.join(30)
        assert self.error is None


def a_page() -> UseEvent:
    return UseEvent(operation_id=str(uuid.uuid4()), page=1, meter=READ_PAGES_METER, license_id="L")


def sqlite_utils(*words: str | Path) -> str:
    done = subprocess.run([COMMAND, *map(str, words)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state" / "ledger.db"
    prepare(path)
    return path


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    ledger = Ledger(path, clock=FakeClock(), instance="c0ffee123456", version="0.1.0")
    ledger.append("boot", {"boot_id": "b"})
    ledger.record_use([a_page() for _ in range(5)])
    ledger.close_window("interval", CONTEXT)
    yield ledger
    ledger.close()


@pytest.fixture
def writer(ledger: Ledger) -> Iterator[Writer]:
    writer = Writer(ledger)
    writer.start()
    yield writer
    writer.end()


def test_tables_views_and_rows_while_pages_are_written(path: Path, ledger: Ledger, writer: Writer) -> None:
    before = writer.pages
    for _ in range(3):
        counts = {table["table"]: table["count"] for table in json.loads(sqlite_utils("tables", path, "--counts"))}
        assert counts["use_entry"] >= 5
        assert counts["seal"] == 1
        (view,) = json.loads(sqlite_utils("views", path, "--counts"))
        assert view["view"] == "entry"
        assert view["count"] >= counts["use_entry"] + counts["line_entry"]
        first, second = json.loads(sqlite_utils("rows", path, "entry", "-o", "seq", "--limit", "2"))
        assert (first["seq"], first["kind"], second["kind"]) == (0, "boot", "use")
    writer.end()
    assert writer.pages > before
    assert ledger.totals() == [(READ_PAGES_METER, 5 + writer.pages)]
    assert writer.slowest_seconds < 5


def test_query_shows_the_exact_lines_that_are_hashed_and_exported(path: Path, ledger: Ledger, writer: Writer) -> None:
    query = "SELECT CAST(body AS TEXT) FROM entry WHERE seq < 7 ORDER BY seq"
    lines = sqlite_utils("query", path, query, "--raw-lines").encode().splitlines()
    assert lines == list(ledger.lines(0, 7))
    leaves = json.loads(sqlite_utils("query", path, "SELECT hex(leaf) AS leaf FROM entry WHERE seq < 7 ORDER BY seq"))
    assert [row["leaf"].lower() for row in leaves] == [hashlib.sha256(b"\0" + line).hexdigest() for line in lines]
    sums = "SELECT sum(body ->> '$.meter.quantity') FROM entry WHERE kind = 'use' AND seq < 7"
    assert sqlite_utils("query", path, sums, "--raw").strip() == "5"


def test_totals_and_seals_are_plain_tables(path: Path, writer: Writer) -> None:
    writer.end()
    (total,) = json.loads(sqlite_utils("rows", path, "total"))
    assert (total["meter"], total["month"], total["qty"]) == (READ_PAGES_METER, "2027-01", 5 + writer.pages)
    (seal,) = json.loads(sqlite_utils("rows", path, "seal", "-c", "size", "-c", "first_seq", "-c", "file"))
    assert seal == {"size": 7, "first_seq": 0, "file": None}


def test_open_for_reading_only_cannot_write_and_sees_what_is_new(path: Path, writer: Writer) -> None:
    """As Datasette opens a database that others write to."""
    reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    counted = "SELECT count(*) FROM entry WHERE kind = 'use'"
    before = reader.execute(counted).fetchone()[0]
    deadline = time.monotonic() + 20
    while reader.execute(counted).fetchone()[0] <= before:
        assert time.monotonic() < deadline
    for statement in ("DELETE FROM use_entry", "UPDATE total SET qty = 0", "DROP VIEW entry"):
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute(statement)
    reader.close()


def test_one_who_reads_for_long_stops_nobody(path: Path, ledger: Ledger, writer: Writer) -> None:
    """A page that stays open in a browser: it keeps its view, the service goes on, and the log shrinks afterwards."""
    reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    reader.execute("BEGIN")
    counted = "SELECT count(*) FROM use_entry"
    before = reader.execute(counted).fetchone()[0]
    reached = writer.pages + 300
    deadline = time.monotonic() + 60
    while writer.pages < reached:
        assert time.monotonic() < deadline
        assert writer.error is None
        time.sleep(0.01)
    assert reader.execute(counted).fetchone()[0] == before
    reader.execute("COMMIT")
    assert reader.execute(counted).fetchone()[0] >= before + 300
    reader.close()
    writer.end()
    assert ledger.totals() == [(READ_PAGES_METER, 5 + writer.pages)]
    assert writer.slowest_seconds < 5
