"""The log: every level that contract A.3 names can be set, and says what it should."""

from __future__ import annotations

import pytest
import structlog

from sidecar.log_levels import LogLevels
from sidecar.logs import configure_logs

SAID = {
    "Trace": ["debug", "info", "warning", "error", "critical"],
    "Debug": ["debug", "info", "warning", "error", "critical"],
    "Information": ["info", "warning", "error", "critical"],
    "Warning": ["warning", "error", "critical"],
    "Error": ["error", "critical"],
    "Critical": ["critical"],
    "None": [],
}


@pytest.mark.parametrize("level", SAID)
def test_level_says_what_is_as_grave(level: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(LogLevels(rules=(("", "", level),)), process="meter")
    log = structlog.get_logger("Tollgate.Test")
    for method in SAID["Trace"]:
        getattr(log, method)(f"this is {method}")
    told = capsys.readouterr().err
    assert [method for method in SAID["Trace"] if f"this is {method}" in told] == SAID[level]
