"""A ledger of the first schema becomes one of today's: every line, leaf, sum and key is what it was."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import uuid
from pathlib import Path

import pytest
from sqlite_utils.db import Database

from licenses.model import READ_PAGES_METER
from licenses.usage_log.entry import encode_entry, leaf_hash
from licenses.usage_log.merkle import root_of
from sidecar.ledger import Ledger, UseEvent, check_ledger, prepare
from sidecar.ledger.migrations import LEDGER_MIGRATIONS
from tests.fakes.clock import FakeClock

CLOSED = {"wall_ms": 1, "effective_ms": 1, "boottime_ms": 1, "boot_id": "b"}


@pytest.fixture
def old(tmp_path: Path) -> tuple[Path, list[bytes], list[str]]:
    """A ledger as the first release wrote it: two windows, the first one sealed, and an open one."""
    path, lines, operations = tmp_path / "ledger.db", [], []
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    LEDGER_MIGRATIONS.apply(Database(connection, execute_plugins=False), stop_before="m003_compact_uses")

    def add(kind: str, **members: object) -> None:
        times = {"wall_ms": 1_800_000_000_000 + len(lines), "effective_ms": 1_800_000_000_000, "boottime_ms": 5}
        line = encode_entry({"seq": len(lines), "kind": kind, **times, **members})
        connection.execute("INSERT INTO entry VALUES (?, ?, ?, ?)", [len(lines), kind, line, leaf_hash(line)])
        lines.append(line)

    def use(version: str) -> None:
        operation = str(uuid.uuid4())
        operations.append(operation)
        digest = hashlib.sha256(f"{operation}\n1\n{READ_PAGES_METER}\n1".encode()).digest()
        connection.execute("INSERT INTO idem VALUES ('c0ffee', ?, ?, ?)", [f"{operation}/1", digest, len(lines)])
        add(
            "use",
            apiType="computervision",
            containerId="c0ffee",
            containerType="ComputerVision.ComputerVisionRead",
            containerVersion=version,
            id=operation,
            page=1,
            meter={"name": READ_PAGES_METER, "quantity": 1},
            requestTime=(1_800_000_000_000 + len(lines)) // 1000,
        )

    def window(sealed: bool) -> None:
        first = connection.execute("SELECT coalesce(max(size), 0) FROM seal").fetchone()[0]
        add("window", opened=CLOSED, closed=CLOSED, reason="interval", first_seq=first, meters=[])
        root = root_of(map(leaf_hash, lines)) if sealed else None
        facts = json.dumps({"opened": CLOSED, "closed": CLOSED, "origin": "v/d", "reason": "interval"})
        connection.execute(
            "INSERT INTO seal VALUES (?, ?, ?, ?, ?, ?, NULL, NULL)",
            [
                len(lines),
                first,
                facts,
                json.dumps({READ_PAGES_METER: len(operations)}),
                root,
                "note" if sealed else None,
            ],
        )

    add("boot", boot_id="b")
    for _ in range(50):
        use("0.0.9")
    window(True)
    for _ in range(30):
        use("0.1.0 100%d")
    window(False)
    use("0.1.0")
    connection.execute("INSERT INTO total VALUES (?, '2027-01', ?)", [READ_PAGES_METER, len(operations)])
    connection.execute("INSERT INTO idem VALUES ('clock-reset', 'token', x'00', 3)")
    connection.close()
    return path, lines, operations


def test_every_line_and_key_survives(old: tuple[Path, list[bytes], list[str]]) -> None:
    path, lines, operations = old
    prepare(path)
    ledger = Ledger(path, clock=FakeClock(), instance="c0ffee", version="0.2.0")
    try:
        assert list(ledger.lines(0, len(lines))) == lines
        assert list(ledger.leaves(0, len(lines))) == [leaf_hash(line) for line in lines]
        assert ledger.frontier_at(52).root() == root_of(map(leaf_hash, lines[:52]))
        assert ledger.snapshot(READ_PAGES_METER).size == len(lines)
        for operation in operations:
            assert (
                ledger.record_use([UseEvent(operation_id=operation, page=1, meter=READ_PAGES_METER, license_id="L")])
                == 0
            )
        rows = ledger._reader.execute("SELECT seq, kind, body, leaf FROM entry ORDER BY seq").fetchall()
        assert [(seq, body) for seq, _, body, _ in rows] == list(enumerate(lines))
        assert ledger._reader.execute("SELECT source, event_id FROM idem").fetchall() == [("clock-reset", "token")]
        assert ledger._reader.execute("SELECT count(*) FROM use_entry").fetchone()[0] == len(operations)
    finally:
        ledger.close()
    assert [finding for finding in check_ledger(path).findings if finding.code != "frontier"] == []
