"""docs/connected.md: its commands run, its drop-in opens the meter and nothing else, its tables leave nothing out."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from sidecar.settings import is_setting, load_settings
from sidecar.states import WORDS
from tests.docs import PROJECT, run_document
from tests.e2e.site import free_port
from tests.pages import as_png, printed_page

DOCUMENT = PROJECT / "docs" / "connected.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
UNITS = PROJECT / "systemd"


def test_commands_of_the_document_run(tmp_path: Path) -> None:
    (tmp_path / "page.png").write_bytes(as_png(printed_page(size=(600, 200))))
    environment = {
        "TOLLGATE_AUTHORITY_DATABASE": "authority.db",
        "TOLLGATE_AUTHORITY_KEYS": "vendor",
        "PORT": str(free_port()),
        "AUTHORITY_PORT": str(free_port()),
    }
    try:
        assert run_document(DOCUMENT, tmp_path, environment=environment) >= 15
    finally:
        for file in tmp_path.glob("*.pid"):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(file.read_text()), signal.SIGTERM)


def test_every_word_is_told() -> None:
    for word in WORDS:
        assert f"| `{word}` |" in TEXT, word


def test_every_setting_that_is_named_exists() -> None:
    named = set(re.findall(r"`((?:Sidecar|Mounts|Metering):\w+)", TEXT))
    assert named
    assert all(is_setting(name) for name in named), named


def test_the_files_for_systemd_choose_connected_mode_and_give_the_key_to_the_meter_alone(tmp_path: Path) -> None:
    settings, drop_in = re.findall(r"```ini\n(.*?)```", TEXT, re.DOTALL)
    file = tmp_path / "sidecar.conf"
    file.write_text((UNITS / "sidecar.conf").read_text() + settings)
    loaded = load_settings([], {}, file)
    assert (loaded.is_connected, loaded.api_key) == (True, "")
    assert loaded.license_folder == Path("/var/lib/sidecar/licenses")
    assert "ApiKey" not in settings
    assert load_settings([], {"ApiKey": "abc"}, file).api_key == "abc"
    assert "EnvironmentFile=" in drop_in


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_the_drop_in_is_one_that_systemd_takes_and_keeps_all_other_addresses_shut(tmp_path: Path) -> None:
    drop_in = re.findall(r"```ini\n(.*?)```", TEXT, re.DOTALL)[1]
    for unit in UNITS.iterdir():
        shutil.copy(unit, tmp_path)
    folder = tmp_path / "ocr-sidecar-meter.service.d"
    folder.mkdir()
    (folder / "connected.conf").write_text(drop_in)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", "ocr-sidecar-meter.service"],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {line.split()[1].rstrip("="): line.split()[0] for line in done.stdout.splitlines() if "=" in line}
    assert rows["PrivateNetwork"] == "✗"
    assert rows["NoNewPrivileges"] == "✓"
    found = re.search(r"exposure level for .*: ([0-9.]+)", done.stdout)
    assert found is not None
    assert float(found[1]) <= 2.5, done.stdout


def test_the_shipped_units_stay_closed() -> None:
    for unit in UNITS.glob("*.service"):
        text = unit.read_text()
        assert "\nPrivateNetwork=yes\n" in text, unit.name
        assert "\nIPAddressDeny=any\n" in text, unit.name
        assert "AF_INET" not in re.sub(r"^#.*$", "", text, flags=re.MULTILINE), unit.name
