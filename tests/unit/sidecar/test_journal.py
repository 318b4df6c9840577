"""Events in the journal's own protocol."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from sidecar import logs
from sidecar.journal import Journal, datagram, field_name, is_standard_error
from sidecar.log_levels import LogLevels


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(str(tmp_path / "journal"))
        one.settimeout(5)
        yield one


def read_fields(message: bytes) -> dict[str, str]:
    """Read a datagram as the journal does (systemd, JOURNAL_NATIVE_PROTOCOL)."""
    found = {}
    while message:
        line, _, rest = message.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + size], rest[8 + size + 1 :]
        found[name.decode("ascii")] = value.decode()
        message = rest
    return found


@pytest.mark.parametrize("value", ["", "plain", "a=b", "two\nlines", "forged\nPRIORITY=0\n", "ü" * 5000])
def test_a_value_comes_back_as_it_was(value: str) -> None:
    assert read_fields(datagram([("MESSAGE", value), ("PRIORITY", "6")])) == {"MESSAGE": value, "PRIORITY": "6"}


@pytest.mark.parametrize(
    ("name", "field"),
    [("next_step", "TOLLGATE_NEXT_STEP"), ("license id", "TOLLGATE_LICENSE_ID"), ("x" * 100, "TOLLGATE_" + "X" * 55)],
)
def test_facts_have_fields_of_our_own(name: str, field: str) -> None:
    assert field_name(name) == field


def test_a_journal_that_is_not_there_takes_nothing(tmp_path: Path) -> None:
    assert not Journal(tmp_path / "none").send([("MESSAGE", "x")])


def test_an_event_is_told_with_its_facts(ear: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "Journal", lambda: Journal(tmp_path / "journal"))
    facts = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{facts.st_dev}:{facts.st_ino}")
    try:
        logs.configure_logs(LogLevels(), process="meter")
        structlog.get_logger("Tollgate.Meter").warning("job failed", cause="no\nspace", tries=3)
        told = read_fields(ear.recv(65536))
    finally:
        monkeypatch.undo()
        logs.configure_logs(LogLevels(), process="sidecar")
    assert told == {
        "MESSAGE": 'job failed cause="no\\nspace" tries=3',
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "sidecar-meter",
        "TOLLGATE_CATEGORY": "Tollgate.Meter",
        "TOLLGATE_CAUSE": "no\nspace",
        "TOLLGATE_TRIES": "3",
    }


def test_an_inherited_variable_is_not_believed(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        facts = os.fstat(stream.fileno())
        assert is_standard_error(f"{facts.st_dev}:{facts.st_ino}", stream.fileno())
        assert not is_standard_error(f"{facts.st_dev}:{facts.st_ino + 1}", stream.fileno())
    assert not is_standard_error("", 2)
