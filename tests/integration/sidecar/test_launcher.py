"""How the launcher ends its processes: in order, in time, and none of them stays."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from sidecar import launcher
from sidecar.launcher import Launcher
from sidecar.settings import Settings

# Tells when it is asked to end, takes its time, and tells that it has ended; without a time it never ends by itself.
CHILD = """
import signal, sys, time
name, seconds, told = sys.argv[1:]
def say(what):
    with open(told, "a") as stream:
        print(name, what, file=stream, flush=True)
def asked(*_):
    say("asked")
    if seconds:
        time.sleep(float(seconds))
        say("ended")
        sys.exit(0)
signal.signal(signal.SIGTERM, asked)
say("started")
while True:
    time.sleep(60)
"""


class Service:
    """The launcher with processes that do as a test wants."""

    def __init__(self, folder: Path, seconds: Mapping[str, str]) -> None:
        self._told = folder / "told"
        self._told.touch()
        self.launcher = Launcher(Settings(), {})
        for child in self.launcher._children:
            child.command = [sys.executable, "-c", CHILD, child.name, seconds[child.name], str(self._told)]
            self.launcher._start(child)
        until = time.monotonic() + 20
        while len(self.said()) < len(seconds):
            assert time.monotonic() < until, self.said()
            time.sleep(0.01)

    def said(self) -> list[str]:
        return self._told.read_text().splitlines()

    def codes(self) -> dict[str, int | None]:
        return {child.name: child.process.poll() for child in self.launcher._children if child.process is not None}


def test_web_ends_first_and_the_core_while_the_meter_closes_the_window(tmp_path: Path) -> None:
    service = Service(tmp_path, {"core": "0", "meter": "0.5", "web": "0.2"})
    service.launcher._drain()
    said = service.said()[3:]
    assert said[:2] == ["web asked", "web ended"]
    assert set(said[2:4]) == {"meter asked", "core asked"} or said[2:4] == ["core asked", "core ended"]
    assert said[-1] == "meter ended"
    assert service.codes() == {"core": 0, "meter": 0, "web": 0}


def test_what_does_not_end_is_killed_within_what_docker_stop_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = launcher._STOP_SECONDS
    assert limits["web"] + max(limits["meter"], limits["core"]) <= 8.5
    monkeypatch.setattr(launcher, "_STOP_SECONDS", {name: seconds / 2.5 for name, seconds in limits.items()})
    service = Service(tmp_path, dict.fromkeys(limits, ""))
    began = time.monotonic()
    service.launcher._drain()
    took = time.monotonic() - began
    assert 8.5 / 2.5 <= took < 10 / 2.5
    assert service.codes() == dict.fromkeys(limits, -9)
    service.launcher._drain()  # of processes that are gone already
