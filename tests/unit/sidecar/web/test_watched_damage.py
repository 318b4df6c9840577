"""Web alone in its container: damage in the ledger ends it, so that its next start can mend what nobody has open."""

from __future__ import annotations

from pathlib import Path

import pytest
from gunicorn.errors import HaltServer

from sidecar.bootstrap import ledger_path
from sidecar.ledger import damage_path
from sidecar.settings import LAUNCHER_VARIABLE, Settings
from sidecar.web import watched
from sidecar.web.server import WebServer, _damage_to_end_for
from sidecar.web.watched import EXIT_DAMAGED, WatchedArbiter, WorkerReports


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (LAUNCHER_VARIABLE, "NOTIFY_SOCKET"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("manager", [LAUNCHER_VARIABLE, "NOTIFY_SOCKET"])
def test_who_has_a_manager_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: None, manager: str
) -> None:
    settings = Settings(state_directory=tmp_path)
    assert _damage_to_end_for(settings) == damage_path(ledger_path(settings))
    monkeypatch.setenv(manager, "1")
    assert _damage_to_end_for(settings) is None


def test_damage_that_stays_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: None) -> None:
    settings = Settings(state_directory=tmp_path)
    now = [0.0]
    monkeypatch.setattr(watched.time, "monotonic", lambda: now[0])
    arbiter = WatchedArbiter(WebServer(settings), WorkerReports(), settings.damage_mark)
    arbiter.murder_workers()
    settings.damage_mark.touch()
    arbiter.murder_workers()
    settings.damage_mark.unlink()  # somebody mended it
    now[0] = 10
    arbiter.murder_workers()
    settings.damage_mark.touch()
    arbiter.murder_workers()
    now[0] = 14
    with pytest.raises(HaltServer) as ended:
        arbiter.murder_workers()
    assert ended.value.exit_status == EXIT_DAMAGED
