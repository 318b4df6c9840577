"""`sidecar ledger status|check` as an administrator meets them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.cli import main
from tests.integration.sidecar.test_metering import Site


def run(site: Site, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = 0
    try:
        main(["ledger", *words, f"Sidecar:StateDirectory={site.settings.state_directory}"])
    except SystemExit as ended:
        code = int(ended.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The command sets its own, as a process of its own may."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    one = Site(tmp_path)
    one.use(5)
    one.meter.cycle()
    one.use(2)
    return one


def test_status(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    code, out, _ = run(site, capsys, "status")
    assert code == 0
    for words in ("entries         10, sealed 8, acknowledged 0", "total           7", "none is running", "there"):
        assert words in out
    code, out, _ = run(site, capsys, "status", "--json")
    facts = json.loads(out)
    assert (facts["entries"], facts["sealed"], facts["pendingFiles"], facts["failedCycles"]) == (10, 8, 0, 0)
    assert facts["reserve"] is True
    assert facts["damage"] is False


def test_check_of_a_sound_ledger(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    code, out, _ = run(site, capsys, "check")
    assert code == 0
    assert "SOUND  10 entries in 1 sealed windows" in out
    assert "every seal signed by this device" in out


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("UPDATE use_entry SET quantity = 2 WHERE seq = 3", "leaf"),
        ("UPDATE use_entry SET leaf = zeroblob(32) WHERE seq = 3", "leaf"),
        ("UPDATE total SET qty = qty - 1", "totals"),
        ("UPDATE seal SET root = zeroblob(32)", "root"),
        ("UPDATE seal SET note = replace(note, '8', '9')", "checkpoint"),
        ("DELETE FROM use_entry WHERE seq = 4", "missing"),
        ("UPDATE frontier SET hash = zeroblob(32)", "frontier"),
        ("UPDATE seal SET frontier = zeroblob(length(frontier))", "frontier"),
    ],
)
def test_check_names_what_is_wrong(site: Site, statement: str, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    site.ledger._writer.execute(statement)
    capsys.readouterr()
    ended, out, _ = run(site, capsys, "check", "--json")
    assert ended == 1
    assert code in {finding["code"] for finding in json.loads(out)["findings"]}


def test_no_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["ledger", "status", f"Sidecar:StateDirectory={tmp_path}"])
    assert ended.value.code == 69
    assert "there is no ledger" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
