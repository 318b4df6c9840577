"""One command at a time: who is refused learns who is at work, and whoever dies gives way."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from sidecar.deploy.images import Source
from sidecar.deploy.plan import Asked
from sidecar.deploy.service import Deployment
from sidecar.deploy.turn import Holder, holder, turn
from sidecar.errors import DeployError
from tests.fakes.container_engine import HOST, OLD, FakeConsole, FakeEngine

NAME = "tollgate"
HOLDS = """
import sys
from sidecar.deploy.turn import turn
with turn(sys.argv[1], sys.argv[2]):
    print("it is mine", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def host() -> str:
    return f"host-{uuid.uuid4().hex}"


@contextmanager
def another_command(host: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has the turn until it is ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, host, NAME, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "it is mine\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_who_is_refused_is_told_the_process_that_is_at_work_and_its_user(host: str) -> None:
    user = pwd.getpwuid(os.getuid()).pw_name
    with another_command(host, "deploy", "upgrade", "apikey=secret") as process:
        with pytest.raises(DeployError) as told, turn(host, NAME):
            pytest.fail("two had the turn")
        assert str(told.value) == f"'sidecar deploy upgrade' (process {process.pid} of {user}) is at work on '{NAME}'"
        assert (told.value.reason, told.value.exit_code) == ("at_work", 73)
        assert "wait" in told.value.next_step
        assert holder(host, NAME) == Holder(process.pid, os.getuid())


def test_a_command_that_is_killed_gives_its_turn_back(host: str) -> None:
    with another_command(host) as process:
        process.kill()
        process.wait()
        assert holder(host, NAME) is None
        with turn(host, NAME):
            assert holder(host, NAME) == Holder(os.getpid(), os.getuid())
    assert holder(host, NAME) is None


def test_a_turn_is_of_one_service_on_one_host(host: str) -> None:
    with turn(host, NAME), turn(host, "other"), turn(f"{host}-2", NAME):
        pass


def test_any_number_of_impatient_people_are_told(host: str) -> None:
    with turn(host, NAME):
        assert {holder(host, NAME) for _ in range(500)} == {Holder(os.getpid(), os.getuid())}


def test_a_holder_that_is_not_told_is_another_command() -> None:
    assert str(Holder(0, -1)) == "another 'sidecar deploy'"
    nobody = Holder(2**22 + 1, 2**31 - 7)  # beyond the largest process id, and a user without a name
    assert str(nobody) == f"another 'sidecar deploy' (process {nobody.pid} of user {nobody.uid})"


@pytest.mark.parametrize("verb", ["up", "upgrade", "down", "inside"])
def test_a_service_that_another_command_is_at_work_on_is_left_alone(verb: str) -> None:
    engine = FakeEngine()
    one = Deployment(engine, NAME, FakeConsole())
    asked = Asked(license="/srv/license", output="/srv/output", words=("eula=accept",))
    one.up(asked, Source(reference=OLD.reference), wait_seconds=20, is_agreed=True)
    engine.stop(NAME, 1)
    engine.create(f"{NAME}-next", engine.containers["id-1"].body)
    before, tasks = engine.changes, len(engine.tasks)
    acts: dict[str, Callable[[], object]] = {
        "up": lambda: one.up(asked, Source(reference=OLD.reference), wait_seconds=20, is_agreed=True),
        "upgrade": lambda: one.upgrade(Asked(cpus=1), Source(), wait_seconds=20, is_agreed=True),
        "down": one.down,
        "inside": lambda: one.inside(["sidecar", "diagnose"], 10),
    }
    with another_command(HOST.host, "deploy", "upgrade"):
        with pytest.raises(DeployError, match=r"'sidecar deploy upgrade' .* is at work on 'tollgate'"):
            acts[verb]()
        assert not one.status().is_cut_off  # it is at work
    assert (engine.changes, len(engine.tasks)) == (before, tasks)
    assert one.status().is_cut_off
    acts[verb]()


def test_a_turn_ends_with_its_command_however_that_ends() -> None:
    engine = FakeEngine(images=[])
    for _ in range(2):
        with pytest.raises(DeployError, match="has no image"):
            Deployment(engine, NAME, FakeConsole()).up(
                Asked(license="/srv/license", output="/srv/output", words=("eula=accept",)),
                Source(reference=OLD.reference),
                wait_seconds=20,
                is_agreed=True,
            )
        assert holder(HOST.host, NAME) is None
