"""`sidecar deploy` at the command line: what it prints, its exit codes, what it says without the SDK."""

from __future__ import annotations

import builtins
import importlib.util
import json
from pathlib import Path
from typing import Any

import click
import pytest

from sidecar import cli, cli_deploy
from sidecar.cli_deploy import Terminal, _instant
from tests.fakes.container_engine import NEW, OLD, FakeEngine

FIRST = ("--image", OLD.reference, "--license", "/srv/license", "--output", "/srv/output", "eula=accept")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    one = FakeEngine()
    one.address = "unix:///run/podman/podman.sock"  # type: ignore[attr-defined]
    monkeypatch.setattr("sidecar.deploy.engine.DockerEngine", lambda _address: one)
    monkeypatch.setattr("sidecar.deploy.service.time.sleep", lambda _: None)
    return one


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["deploy", *words])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_up_and_status_tell_people(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "up", *FIRST)
    assert code == 0
    assert out.splitlines() == [
        "'tollgate' was started: ACTIVE",
        "  url        http://127.0.0.1:5000",
        "  image      localhost/tollgate:1 (1.0.0)",
        "  limits     8 GiB memory, 4 processors",
        "  licences   /srv/license",
        "  records    /srv/output",
        "  spool      volume tollgate-share",
        "  state      volume tollgate-state",
        "  reason     because active",
    ]
    assert "is as asked for, nothing was changed" in run(capsys, "up", *FIRST)[1]
    assert run(capsys, "status")[1].startswith("'tollgate' is running: ACTIVE\n")


def test_facts_are_json_and_nothing_else(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    engine.states[OLD.id] = "UNLICENSED"
    code, out, _ = run(capsys, "up", "--json", *FIRST)
    facts = json.loads(out)
    assert (code, facts["state"], facts["serves"], facts["changed"]) == (78, "UNLICENSED", False, True)
    code, out, _ = run(capsys, "status", "--json")
    assert (code, json.loads(out)["changed"]) == (78, False)


def test_a_service_that_stands_is_no_success(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "up", *FIRST)
    engine.stop("tollgate", 1)
    code, out, _ = run(capsys, "status")
    assert code == 69
    assert "'sidecar deploy up' starts it again" in out


def test_down_tells_what_is_kept_and_what_is_open(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "up", *FIRST)
    engine.entries = 1009
    cli.cli.main(["deploy", "down"], standalone_mode=False)
    out = capsys.readouterr().out
    assert "1,009 entries; 1,002 in a window that is still open" in out
    assert "  kept       state    volume tollgate-state" in out
    assert run(capsys, "down")[0] == 69


def test_a_refusal_is_told_with_a_next_step(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "up", *FIRST[:-1])
    assert (code, out) == (64, "")
    assert "EULA" in err
    assert "Next step: add eula=accept" in err
    assert run(capsys, "up", "--image", "x", "--bundle", "/", "eula=accept")[0] == 64


def test_upgrade_says_what_changes(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "up", *FIRST)
    code, out, err = run(capsys, "upgrade", "--image", NEW.reference, "Core:Workers=2")
    assert code == 0
    assert "To change: image localhost/tollgate:1 → localhost/tollgate:2; settings Core:Workers." in err
    assert "was upgraded: ACTIVE" in out


def test_the_support_bundle_is_written_once(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run(capsys, "up", *FIRST, "apikey=very-secret")
    out = tmp_path / "support.tar.gz"
    cli.cli.main(["deploy", "support-bundle", "--out", str(out)], standalone_mode=False)
    assert f"Written to {out}" in capsys.readouterr().out
    assert out.stat().st_mode & 0o777 == 0o600
    code, _, err = run(capsys, "support-bundle", "--out", str(out))
    assert code == 77
    assert "never overwritten" in err


def test_without_the_sdk_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "docker" else found(name))
    code, _, err = run(capsys, "status")
    assert code == 69
    assert "pip install" in err


def test_help_needs_no_sdk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = builtins.__import__

    def without(name: str, *others: Any, **more: Any) -> Any:
        assert not name.startswith(("docker", "sidecar.deploy")), name
        return real(name, *others, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    cli.cli.main(["deploy", "up", "--help"], standalone_mode=False, prog_name="sidecar")
    assert "--bundle" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("90s", 999_910),
        ("2h", 992_800),
        ("1d", 913_600),
        ("99999999d", 1),
        ("1970-01-10T00:00:00Z", 777_600),
        ("1970-01-10", 777_600),
        ("1970-01-10T01:00:00+01:00", 777_600),
    ],
)
def test_since(text: str, instant: float) -> None:
    assert _instant(text, 1_000_000) == instant


@pytest.mark.parametrize("text", ["", "yesterday", "5", "5w", "-1h"])
def test_since_that_is_no_time(text: str) -> None:
    with pytest.raises(click.UsageError, match="wants"):
        _instant(text, 1_000_000)


def test_a_file_gets_a_line_for_each_thing_that_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    console = Terminal()
    for left in (9, 8, 7):
        console.wait(f"waiting, {left} s at most: starting")
    console.wait("waiting, 6 s at most: no lease yet")
    console.end()
    assert capsys.readouterr().err == "waiting, 9 s at most: starting …\nwaiting, 6 s at most: no lease yet …\n"


def test_a_terminal_shows_a_long_sentence_whole_and_takes_all_of_it_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli_deploy.sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    console = Terminal()
    sentence = (
        "waiting until 'tollgate' is ready, 118 s at most: Not licensed: " + "no licence file fits this host " * 4
    )
    console.wait(sentence)
    shown = capsys.readouterr().err.replace("\33[J", "").strip("\r")
    assert " ".join(shown.split("\n")) == sentence.strip()
    assert all(len(line) < 80 for line in shown.split("\n"))
    above = shown.count("\n")
    assert above == 2
    console.wait("making the container")
    assert capsys.readouterr().err == "\r" + above * "\33[A" + "\33[J" + "making the container"
    console.tell("It was made.")
    assert capsys.readouterr().err == "\r\33[JIt was made.\n"


def test_nobody_at_a_terminal_agrees_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_deploy.click, "confirm", lambda *_args, **_more: pytest.fail("asked"))
    assert not Terminal().agrees("now?")
