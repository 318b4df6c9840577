"""What is made of the machine's commands, with the commands answered here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.errors import StepError
from appliance.system import System

UNIT = "ocr-core.service"


class Answered(System):
    """A machine that stops a unit at the second try, or never."""

    def __init__(self, tries_wanted: int, restarts: int = 0) -> None:
        self.tries = 0
        self._wanted = tries_wanted
        self._restarts = restarts

    def run(self, *words: str | Path, seconds: float = 900) -> str:
        if words[:2] == ("systemctl", "stop"):
            self.tries += 1
            if self.tries < self._wanted:
                raise StepError("Job for ocr-core.service canceled.")
        if "--property=ActiveState" in words:
            return "active\n" if self.tries < self._wanted else "inactive\n"
        return f"{self._restarts}\n"


def test_a_stop_that_is_cancelled_is_asked_for_again() -> None:
    system = Answered(2)
    system.stop([UNIT])
    assert system.tries == 2


def test_what_cannot_be_stopped_is_named() -> None:
    with pytest.raises(StepError, match=r"ocr-core\.service cannot be stopped"):
        Answered(100).stop([UNIT])


@pytest.mark.parametrize(("restarts", "failed"), [(0, False), (3, False), (20, True)])
def test_what_ends_again_and_again_has_failed(restarts: int, failed: bool) -> None:
    assert Answered(1, restarts).has_failed(UNIT) is failed


def test_pip_obeys_no_configuration_of_the_machine() -> None:
    assert System().run("printenv", "PIP_CONFIG_FILE") == f"{os.devnull}\n"


def test_a_command_that_fails_is_named_with_its_last_words() -> None:
    with pytest.raises(StepError, match=r"'sh -c echo why >&2; exit 3' ended with 3:\nwhy"):
        System().run("sh", "-c", "echo why >&2; exit 3")
    with pytest.raises(StepError, match="could not be run"):
        System().run("/nothing/there")
    assert System().succeeds("true")
    assert not System().succeeds("false")
