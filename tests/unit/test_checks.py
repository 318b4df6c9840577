"""The core's self-test and `sidecar diagnose` show their checks alike, though neither may import the other."""

import re

import pytest

from ocr_core.check import Check, rows
from sidecar.diagnose import check as sidecar

CHECKS = [
    Check(name="engine", result="ok", cause="tesseract 5.5.4"),
    Check(name="clock", result="warn", cause="it is not kept by a time service " * 4, next_step="start one, or go on"),
    Check(
        name="models",
        result="fail",
        cause="there is no model for eng",
        next_step="run 'apt-get install tesseract-ocr-eng tesseract-ocr-osd', or name the folder in Core:Tessdata "
        "where the host has them, then run 'ocr-core --self-test' again",
    ),
]


@pytest.mark.parametrize("columns", [60, 80, 100, 132])
@pytest.mark.parametrize("for_terminal", [True, False])
def test_both_show_the_same(monkeypatch: pytest.MonkeyPatch, columns: int, for_terminal: bool) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    theirs = [
        sidecar.Check(name=one.name, result=one.result, cause=one.cause, next_step=one.next_step) for one in CHECKS
    ]
    shown = [re.sub("\33\\[\\d*m", "", row) for row in rows(CHECKS, for_terminal=for_terminal)]
    assert shown == [re.sub("\33\\[\\d*m", "", row) for row in sidecar.rows(theirs, for_terminal=for_terminal)]
    assert not any(row.rstrip().endswith("-") for row in shown), "a command is broken at a hyphen"
