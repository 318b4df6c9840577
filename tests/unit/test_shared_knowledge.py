"""What two rooms say each in its own words, because one may not import the other, and must say alike."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

import appliance.errors
import appliance.installer
import appliance.places
import ocr_core.__main__ as core_command
import sidecar.cli
import sidecar.cli_usage
from ocr_core import app as core_app
from ocr_core.decoder_process import PATIENT_LOAD
from ocr_core.server import CoreServer
from ocr_core.settings import Settings as CoreSettings
from sidecar import core_client
from sidecar.bootstrap import build_core_client
from sidecar.deploy import decisions, plan, words
from sidecar.gate import State
from sidecar.settings import Settings

PROJECT = Path(__file__).resolve().parents[2]


def test_states_that_others_name_are_states() -> None:
    named = words._PASSING | words._OF_THE_LICENSE | set(appliance.installer._DECIDED)
    assert named <= {str(state) for state in State}


def test_no_state_passes_by_waiting_for_one_and_not_for_the_other() -> None:
    assert not words._PASSING & set(appliance.installer._DECIDED)
    assert not words._PASSING & words._OF_THE_LICENSE


def test_an_exit_code_means_the_same_in_every_command() -> None:
    modules: tuple[ModuleType, ...] = (appliance.errors, core_command, sidecar.cli, sidecar.cli_usage, plan)
    codes: dict[str, set[int]] = defaultdict(set)
    for module in modules:
        for name, code in vars(module).items():
            if name.startswith("EXIT_"):
                codes[name].add(code)
    assert len(codes) > 5
    assert {name: found for name, found in codes.items() if len(found) > 1} == {}


def test_the_services_user_is_the_same_everywhere() -> None:
    assert f"{appliance.places.UID}:{appliance.places.UID}" == plan.USER
    assert re.findall(r"u nonroot (\S+)", text("systemd/sysusers.conf")) == [plan.USER]
    assert f"USER {plan.USER}" in text("containers/Containerfile")


def test_checks_that_deploying_goes_by_are_checks_of_diagnose() -> None:
    said = {
        node.value
        for path in [*(PROJECT / "sidecar" / "diagnose").glob("*.py"), PROJECT / "ocr_core" / "self_test.py"]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    gone_by = {*decisions._HEALS, *decisions._FOLDERS, decisions.WRONG_OWNER, "processor"}
    assert gone_by <= said, gone_by - said


@pytest.mark.parametrize("page_timeout_seconds", [1, 20, 38, 60, 3600])
def test_the_core_is_waited_for_until_it_has_said_that_it_is_too_busy(page_timeout_seconds: int) -> None:
    waits = build_core_client(Settings(page_timeout_seconds=page_timeout_seconds))._page_seconds
    least_for_reading = 1.0  # also where all the time of the page went into decoding it
    assert waits > PATIENT_LOAD.longest_seconds + least_for_reading
    assert waits > core_app.DECODING_SECONDS
    assert waits > page_timeout_seconds
    assert the_masters_patience(page_timeout_seconds) > waits
    assert core_client._INSPECT_SECONDS > core_app.INSPECTION_SECONDS


def the_masters_patience(page_timeout_seconds: int) -> float:
    """How long gunicorn bears a worker that says nothing, as one does that is at a page."""
    nothing = cast("Any", None)
    server = CoreServer(
        CoreSettings(page_timeout_seconds=page_timeout_seconds), nothing, nothing, decoder=nothing, gatekeeper=nothing
    )
    return float(server.cfg.timeout)


def text(path: str) -> str:
    return (PROJECT / path).read_text()
