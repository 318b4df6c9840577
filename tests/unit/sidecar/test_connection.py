"""The report of a window: what it proves, and what becomes of it where nothing can be proven."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from licenses.device_key import device_id_of
from licenses.keys import SigningKey
from licenses.model import READ_PAGES_METER
from licenses.usage_log.merkle import Frontier, verify_consistency
from licenses.usage_log.note import sign_checkpoint
from licenses.usage_report import open_report, seal_report
from sidecar.connection import report_of
from sidecar.ledger import SealedWindow

DEVICE = SigningKey.generate("device")
ORIGIN = f"vendor.example/{device_id_of(DEVICE.verifying.raw)}"
TOTALS = {READ_PAGES_METER: {"2027-01": 3}}


def _hashes(number: int, seed: str) -> list[bytes]:
    return [hashlib.sha256(f"{seed} {one}".encode()).digest() for one in range(number)]


class _Log:
    """A log of any length, of which only the frontier and the newest window's leaves are held."""

    def __init__(self, first_seq: int, entries: int) -> None:
        before = Frontier(first_seq, _hashes(first_seq.bit_count(), "subtree"))
        self.first_seq, self.before_root, self.new = first_seq, before.root(), _hashes(entries, "leaf")
        end = Frontier(*before.to_tuple())
        end.extend(self.new)
        self.window = SealedWindow(
            first_seq=first_seq,
            size=end.size,
            window={"origin": ORIGIN, "closed": {"effective_ms": 1_800_000_000_000}},
            root=end.root(),
            note=sign_checkpoint(ORIGIN, end.size, end.root(), DEVICE),
            frontier_before=before.hashes,
            file="",
            file_sha256=None,
        )

    def leaves(self, first_seq: int, next_seq: int) -> Iterator[bytes]:
        assert (first_seq, next_seq) == (self.first_seq, self.window.size)
        yield from self.new


@given(first_seq=st.integers(1, 2**52), entries=st.integers(1, 300))
@example(first_seq=2**52 - 3, entries=300)
@example(first_seq=1, entries=1)
def test_a_report_proves_what_it_continues_and_stays_small_however_long_the_log_is(
    first_seq: int, entries: int
) -> None:
    log = _Log(first_seq, entries)
    blob = seal_report(report_of(log.window, TOTALS, log.leaves), DEVICE)
    assert len(blob) < 8 * 1024
    report = open_report(blob, DEVICE.verifying)
    assert report.since_root == log.before_root
    verify_consistency(
        old_size=first_seq,
        old_root=log.before_root,
        new_size=log.window.size,
        new_root=log.window.root,
        proof=report.proof,
    )


def test_the_first_window_continues_nothing() -> None:
    log = _Log(0, 5)
    report = report_of(log.window, TOTALS, log.leaves)
    assert (report.since_root, report.proof) == (None, ())


def test_the_same_window_gives_the_same_bytes() -> None:
    log = _Log(70, 5)
    assert report_of(log.window, TOTALS, log.leaves) == report_of(log.window, TOTALS, log.leaves)


@pytest.mark.parametrize("damage", ["no frontier", "short frontier", "other frontier", "other leaves", "no leaves"])
def test_what_cannot_be_proven_is_told_all_the_same(damage: str) -> None:
    """The vendor refuses it until a bundle has come, and both sides see that; what is held back nobody would see."""
    log = _Log(77, 9)
    good = report_of(log.window, TOTALS, log.leaves)
    lot = random.Random(8)
    if damage == "no frontier":
        log.window = replace(log.window, frontier_before=())
    elif damage == "short frontier":
        log.window = replace(log.window, frontier_before=log.window.frontier_before[1:])
    elif damage == "other frontier":
        log.window = replace(log.window, frontier_before=(lot.randbytes(32), *_Log(77, 9).window.frontier_before[1:]))
    elif damage == "other leaves":
        log.new[3] = lot.randbytes(32)
    else:
        log.new = []
    report = report_of(log.window, TOTALS, log.leaves)
    assert report == replace(good, since_root=None, proof=())
    assert open_report(seal_report(report, DEVICE), DEVICE.verifying) == report
