"""The fuzzer finds what is planted for it."""

import os
import signal
from typing import BinaryIO

import pytest

from ocr_core import documents
from ocr_core.budget import Budget
from tests import pages
from tests.fuzzing.fuzzer import Fuzzer

SEED = pages.as_png(pages.printed_page(pages.LINES[:1], size=(300, 100)))


@pytest.mark.parametrize(
    ("planted", "told"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "decoder failed"),
        (lambda: 1 / 0, "ZeroDivisionError"),
    ],
    ids=["crash", "surprise"],
)
def test_a_planted_fault_is_found_and_made_smaller(planted: object, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(file: BinaryIO, rules: documents.Rules) -> documents.Inspection:
        file.seek(0)
        if b"IHDR" not in file.read():
            planted()  # type: ignore[operator]
        return documents.Inspection(format=documents.DocumentFormat.PNG, pages=1)

    monkeypatch.setattr(documents, "inspect", faulty)
    report = Fuzzer({"png": SEED}, seed=1).run(30, until_finds=1)
    ((end, blob),) = report.finds.items()
    assert told in end
    assert b"IHDR" not in blob
    assert len(blob) < len(SEED) / 2


def test_what_the_budget_ends_is_told_and_is_no_find(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(*_: object) -> documents.Inspection:
        while True:
            pass

    monkeypatch.setattr(documents, "inspect", endless)
    report = Fuzzer({"png": SEED}, seed=1, look=Budget(cpu_seconds=0.1, wall_seconds=5)).run(0.5)
    assert set(report.ends) <= {"ended", "busy"}
    assert not report.finds
