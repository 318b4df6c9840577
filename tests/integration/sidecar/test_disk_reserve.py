"""A full disk: the reserve is given up for the refusal and its cause, not for a use; it is back before work is."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from licenses.model import READ_PAGES_METER
from licenses.usage_log.entry import parse_entry
from sidecar.errors import LedgerUnavailableError
from sidecar.ledger import Ledger, UseEvent, prepare
from sidecar.ledger.reserve import RESERVE_BYTES, DiskReserve
from tests.fakes.clock import FakeClock
from tests.fakes.disks import fill, mounted


def use() -> UseEvent:
    return UseEvent(operation_id=str(uuid.uuid4()), page=1, meter=READ_PAGES_METER, license_id="L")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "size=16m"):
        yield disk


def test_full_disk(small_disk: Path) -> None:
    prepare(small_disk / "ledger.db")
    ledger = Ledger(small_disk / "ledger.db", clock=FakeClock(), instance="c0ffee", version="0.1.0")
    try:
        assert ledger.record_use([use()]) == 1
        filler = fill(small_disk)
        counted, lost = 1, use()
        while not ledger.problem:
            lost = use()
            with suppress(LedgerUnavailableError):
                counted += ledger.record_use([lost])
        assert "disk is full" in ledger.problem or "full" in ledger.problem
        reserve = DiskReserve(small_disk)
        assert reserve.is_spent
        # What must be written down finds room; a use does not, though it would.
        assert ledger.cycle_failed("disk full", {"code": "ledger_unavailable"}) == 1
        seq = ledger.append("fault", {"code": "ledger_unavailable"})
        with pytest.raises(LedgerUnavailableError, match="disk is full") as refused:
            ledger.record_use([lost])
        assert str(small_disk) in refused.value.next_step
        assert not ledger.restore_reserve()
        filler.unlink()
        assert ledger.restore_reserve()
        assert ledger.problem == ""
        assert ledger.record_use([lost]) == 1
        assert ledger.totals() == [(READ_PAGES_METER, counted + 1)]
        assert reserve._path.stat().st_blocks * 512 >= RESERVE_BYTES
        entries = [parse_entry(line) for line in ledger.lines(0, ledger.snapshot(READ_PAGES_METER).size)]
        assert [entry["seq"] for entry in entries] == list(range(len(entries)))
        assert entries[seq]["kind"] == "fault"
    finally:
        ledger.close()


def test_reserve_is_whole_or_absent(tmp_path: Path) -> None:
    reserve = DiskReserve(tmp_path, 8192)
    assert reserve.is_spent
    assert reserve.restore()
    assert not reserve.is_spent
    assert reserve.restore()
    assert reserve.spend()
    assert reserve.is_spent
    assert not reserve.spend()
    (tmp_path / "ledger.reserve").write_bytes(b"torn")
    assert reserve.is_spent
    assert reserve.restore()
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.reserve"]
