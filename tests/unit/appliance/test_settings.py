"""The site's settings, read as the service reads them, and changed in one line alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.settings import accept_terms, is_accepted, read_settings
from sidecar.settings import load_settings

TEMPLATE = Path(__file__).resolve().parents[3] / "systemd" / "sidecar.conf"


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    return tmp_path / "sidecar.conf"


@pytest.mark.parametrize(
    "text",
    [
        TEMPLATE.read_text() + "Eula = accept\n",
        "EULA=accept\nMounts__Output = /mnt/a b\nsidecar:listen=127.0.0.1:81\n",
        "[DEFAULT]\nEula = accept\n[Mounts]\nOutput = /mnt/a b\n[Sidecar]\nListen = 127.0.0.1:81\n",
        "\ufeffEula = 'accept'\nMounts:Output = \"/mnt/a b\"\n",
    ],
    ids=["the template", "plain", "sections", "quoted"],
)
def test_both_rooms_read_a_file_alike(conf: Path, text: str) -> None:
    conf.write_text(text, "utf-8")
    ours, theirs = read_settings(conf), load_settings((), environ={"SIDECAR_CONFIG": str(conf)})
    assert is_accepted(conf)
    assert theirs.eula.lower() == "accept"
    assert Path(ours["mounts:output"]) == theirs.output_directory
    assert ours.get("sidecar:listen", theirs.listen) == theirs.listen


@pytest.mark.parametrize(
    "blob", [b"# Terms.\n#Eula = accept\nA = 1\n", b"A = 1\r\n", b"# f\xfcr uns\nEula = no\n", b""]
)
def test_terms_are_accepted_in_one_line(conf: Path, blob: bytes) -> None:
    conf.write_bytes(blob)
    conf.chmod(0o640)
    accept_terms(conf)
    lines = conf.read_bytes().splitlines()
    assert lines.count(b"Eula = accept") == 1
    assert {line for line in blob.splitlines() if b"Eula" not in line} <= set(lines)
    assert conf.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in conf.parent.iterdir()] == [conf.name]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[Core]\nWorkers = 3\n", "[DEFAULT]\nEula = accept\n[Core]\nWorkers = 3\n"),
        ("# Ours.\n#Eula = x\n\n[Core]\nWorkers = 3\n", "[DEFAULT]\n# Ours.\nEula = accept\n\n[Core]\nWorkers = 3\n"),
        ("[Core]\n#Eula = accept\nWorkers = 3\n", "[DEFAULT]\nEula = accept\n[Core]\n#Eula = accept\nWorkers = 3\n"),
        ("[Core]\nWorkers = 3\nEula = no\n", "[DEFAULT]\nEula = accept\n[Core]\nWorkers = 3\nEula = no\n"),
        ("[DEFAULT]\nCore:Workers = 3\n", "[DEFAULT]\nEula = accept\n[DEFAULT]\nCore:Workers = 3\n"),
        ("[DEFAULT]\neula = no\n[Core]\nWorkers = 3\n", "[DEFAULT]\nEula = accept\n[Core]\nWorkers = 3\n"),
        ("[Core]\nWorkers = 3\n[DEFAULT]\n;\n#Eula = accept\n", "[Core]\nWorkers = 3\n[DEFAULT]\n;\nEula = accept\n"),
        ("Eula = no\n[Core]\nWorkers = 3\n", "[DEFAULT]\nEula = accept\n[Core]\nWorkers = 3\n"),
        ("#Eula = accept\nCore:Workers = 3\nEula = no\n", "#Eula = accept\nCore:Workers = 3\nEula = accept\n"),
        ("Core:Workers = 3\nEula = no\n#Eula = accept\n", "Core:Workers = 3\nEula = accept\n#Eula = accept\n"),
    ],
)
def test_terms_are_accepted_where_the_service_reads_them_in_a_file_of_any_form(
    conf: Path, before: str, after: str
) -> None:
    conf.write_text(before)
    assert not is_accepted(conf)
    accept_terms(conf)
    assert conf.read_text() == after
    theirs = load_settings((), environ={"SIDECAR_CONFIG": str(conf)})
    assert is_accepted(conf)
    assert (theirs.eula, theirs.core_workers) == ("accept", 3)


def test_a_link_that_lies_in_the_way_is_not_followed(conf: Path, tmp_path: Path) -> None:
    conf.write_text("A = 1\n")
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    conf.with_name(".sidecar.conf.incoming").symlink_to(victim)
    accept_terms(conf)
    assert victim.read_text() == "untouched"
    assert not conf.is_symlink()
