"""The meter's health as a container's engine asks for it: from outside, with no word to the meter."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.bootstrap import LOCK_NAME, MeterLock, WebPresence, await_web, meter_problem
from sidecar.errors import LedgerUnavailableError
from sidecar.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_directory=tmp_path)


@pytest.fixture
def lock(settings: Settings) -> Iterator[MeterLock]:
    one = MeterLock(settings)
    yield one
    one.release()


def test_a_meter_that_goes_on_is_well(settings: Settings, lock: MeterLock) -> None:
    lock.at_work()
    assert meter_problem(settings) == ""


def test_a_meter_that_stands_still_is_not(settings: Settings, lock: MeterLock) -> None:
    lock.at_work()
    os.utime(settings.state_directory / LOCK_NAME, (0, 0))
    assert "has not gone on" in meter_problem(settings)
    lock.at_work()
    assert meter_problem(settings) == ""


def test_a_meter_that_never_ran_or_has_ended_is_not_running(settings: Settings) -> None:
    assert "not running" in meter_problem(settings)
    MeterLock(settings).release()
    assert meter_problem(settings) == "the meter is not running"


def test_the_last_window_waits_for_web_and_not_for_ever(settings: Settings) -> None:
    assert await_web(settings, 0)
    web = WebPresence(settings)
    assert not await_web(settings, 0.1)
    web.end()
    assert await_web(settings, 0)


def test_a_state_directory_that_is_read_only_is_not_answered_with_a_chown(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("sidecar.bootstrap.make_folders", read_only)
    with pytest.raises(LedgerUnavailableError, match="Read-only file system") as refused:
        MeterLock(settings)
    assert "chown" not in refused.value.next_step
    assert "mount the disk there" in refused.value.next_step
