"""Unmodified releases of the official client, from the first that took an address of one's own to the current one.

Each runs in a process of its own, all at the same time; `make dev` has put them where they are (contract E.8, E.10).
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.site import Site
from tests.pages import LINES, as_png, character_error_rate, printed_page

PAGE = printed_page(LINES[:4], size=(1240, 420))
CLIENTS = Path(sys.prefix) / "clients"
CURRENT = "0.9.1"
SPEAKS = {
    "0.3.0": "2.0",
    "0.4.0": "2.0",
    "0.5.0": "2.1",
    "0.6.0": "3.0",
    "0.7.0": "3.1",
    "0.8.0": "3.2",
    CURRENT: "3.2",
}
GONE = "Operation ID is invalid, expired or the results matching this operationId have been deleted."


@pytest.fixture(scope="module")
def told(service: Site, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each release got, by release."""
    picture = tmp_path_factory.mktemp("clients") / "page.png"
    picture.write_bytes(as_png(PAGE))
    running = {}
    for release in SPEAKS:
        environment = dict(os.environ)
        if release != CURRENT:
            assert (CLIENTS / release).is_dir(), "run 'make dev' to install the earlier clients"
            environment["PYTHONPATH"] = str(CLIENTS / release)
        running[release] = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("official_client.py")), service.url, str(picture)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    answers = {}
    for release, process in running.items():
        out, err = process.communicate(timeout=240)
        answers[release] = json.loads(out) if process.returncode == 0 else {"failed": err}
    return answers


@pytest.mark.parametrize("release", list(SPEAKS))
def test_reads_from_a_stream(told: dict[str, dict[str, Any]], release: str) -> None:
    got = told[release]
    assert "failed" not in got, got["failed"]
    assert character_error_rate(PAGE.text, got["read"]) < 0.02
    assert got["status"].lower() == "succeeded"
    assert got["size"] == [1, *PAGE.image.size, "pixel"]
    if SPEAKS[release].startswith("2"):
        assert 0 <= got["turn"] < 360
        assert got["confidence"] in {None, "High", "Low"}
    else:
        assert -1 < got["turn"] < 1
        assert 0 <= got["confidence"] <= 1
        assert got["version"] == SPEAKS[release] + ".0"
        assert (got["model_version"] is not None) == (SPEAKS[release] == "3.2")


@pytest.mark.parametrize("release", list(SPEAKS))
def test_recognizes_printed_text(told: dict[str, dict[str, Any]], release: str) -> None:
    assert character_error_rate(PAGE.text, told[release]["printed"]) < 0.02


@pytest.mark.parametrize("release", [release for release, speaks in SPEAKS.items() if speaks.startswith("2")])
def test_recognizes_text(told: dict[str, dict[str, Any]], release: str) -> None:
    assert character_error_rate(PAGE.text, told[release]["text"]) < 0.02


@pytest.mark.parametrize("release", list(SPEAKS))
def test_says_why_an_operation_is_not_found(told: dict[str, dict[str, Any]], release: str) -> None:
    """A flat body gives the client its message; of the wrapped one of 3.2 it makes a general remark (contract E.8)."""
    said = told[release]["refusal"]
    assert ("Operation returned an invalid status code" if SPEAKS[release] == "3.2" else GONE) in said
