"""The units for systemd: exposure, correctness, and that they agree with each other and with the settings file.

What needs `systemd-analyze` is skipped where there is none; it asks for no running systemd.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sidecar.settings import is_setting, load_settings, read_file

FOLDER = Path(__file__).resolve().parents[2] / "systemd"
UNITS = sorted(path.name for path in FOLDER.iterdir() if path.suffix in {".service", ".socket", ".target", ".path"})
SERVICES = [name for name in UNITS if name.endswith(".service")]
KEPT = ["ocr-core.service", "ocr-sidecar-web.service", "ocr-sidecar-meter.service"]
MOST_EXPOSED = {
    "ocr-core.service": 5,
    "ocr-sidecar-web.service": 5,
    "ocr-sidecar-meter.service": 12,
    "ocr-sidecar-migrate.service": 5,
    "ocr-sidecar-mend.service": 12,
}
"""In tenths of the points that `systemd-analyze security` gives."""

with_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")


def analyze(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze on units of this folder before those of the host."""
    return subprocess.run(
        ["systemd-analyze", *words],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:", "SYSTEMD_COLORS": "0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def lines_of(name: str, key: str) -> list[str]:
    """All values that a unit gives to a key, in order."""
    return re.findall(rf"^{re.escape(key)}=(.*)$", (FOLDER / name).read_text(), re.MULTILINE)


def test_no_service_is_left_out() -> None:
    assert sorted(MOST_EXPOSED) == SERVICES


@with_systemd
@pytest.mark.parametrize("name", MOST_EXPOSED)
def test_the_exposure_is_low(name: str) -> None:
    done = analyze(FOLDER, "security", "--offline=true", f"--threshold={MOST_EXPOSED[name]}", name)
    print(done.stdout.splitlines()[-1])  # noqa: T201 - the figure is wanted in the log
    assert done.returncode == 0, done.stdout + done.stderr


@with_systemd
def test_units_are_what_systemd_expects(tmp_path: Path) -> None:
    for name in UNITS:
        text = (FOLDER / name).read_text().replace("/opt/tollgate/current/bin/sidecar", "/bin/true")
        (tmp_path / name).write_text(text)
    done = analyze(tmp_path, "verify", "--man=no", *UNITS)
    told = [line for line in done.stderr.splitlines() if any(name in line for name in UNITS)]
    assert (done.returncode, told) == (0, []), done.stderr


@pytest.mark.parametrize("name", KEPT)
def test_a_process_is_kept_and_watched(name: str) -> None:
    assert lines_of(name, "Type") == ["notify"]
    assert lines_of(name, "NotifyAccess") == ["main"]
    assert lines_of(name, "Restart") == ["always"]
    assert lines_of(name, "WatchdogSec")
    assert lines_of(name, "StartLimitBurst")
    assert lines_of(name, "CPUWeight")


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_can_use_up_the_machine(name: str) -> None:
    assert lines_of(name, "MemoryMax")
    assert lines_of(name, "TasksMax")
    if name == "ocr-core.service":  # it may have every CPU that nobody else wants
        others = [name for name in KEPT if name != "ocr-core.service"]
        assert int(lines_of(name, "CPUWeight")[0]) < min(int(lines_of(other, "CPUWeight")[0]) for other in others)
    elif name != "ocr-sidecar-mend.service":
        assert lines_of(name, "CPUQuota")


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_has_a_network(name: str) -> None:
    assert lines_of(name, "PrivateNetwork") == ["yes"]
    assert lines_of(name, "RestrictAddressFamilies") == ["AF_UNIX"]
    assert lines_of(name, "IPAddressDeny") == ["any"]


@pytest.mark.parametrize("name", SERVICES)
def test_calls_that_are_needed_are_not_taken_back(name: str) -> None:
    """Each line of a filter changes what the lines before it left: what stands before a group is lost with it."""
    lines = lines_of(name, "SystemCallFilter")
    assert lines[:2] == [lines[0], "~@privileged @resources"]
    assert {"ocr-core.service": ["setpriority"], "ocr-sidecar-meter.service": ["adjtimex"]}.get(name, []) == lines[2:]


def test_the_core_can_alter_nothing_of_the_meters() -> None:
    assert lines_of("ocr-core.service", "User") == ["ocr-core"]
    assert "ReadWritePaths" not in (FOLDER / "ocr-core.service").read_text()
    assert "device.key" in lines_of("ocr-core.service", "InaccessiblePaths")[0]
    assert "device.key" in lines_of("ocr-sidecar-web.service", "InaccessiblePaths")[0]


def test_the_settings_file_agrees_with_the_units() -> None:
    settings = load_settings((), {}, FOLDER / "sidecar.conf")
    assert lines_of("ocr-sidecar-web.socket", "ListenStream") == [settings.listen]
    assert lines_of("ocr-core.socket", "ListenStream") == [str(settings.core_socket)]
    assert settings.state_directory == Path("/var/lib") / lines_of("ocr-sidecar-meter.service", "StateDirectory")[0]
    writable = lines_of("ocr-sidecar-meter.service", "ReadWritePaths")[0].split()
    assert writable == [str(settings.output_directory), str(settings.shared_directory)]
    made = {line.split()[1] for line in (FOLDER / "tmpfiles.conf").read_text().splitlines() if line[:1] == "d"}
    assert made >= {
        str(settings.license_directory),
        str(settings.output_directory),
        str(settings.shared_directory),
        str(settings.state_directory),
        str(settings.core_socket.parent),
    }


def test_every_line_of_the_settings_file_would_be_taken(tmp_path: Path) -> None:
    text = (FOLDER / "sidecar.conf").read_text()
    whole = tmp_path / "sidecar.conf"
    whole.write_text(re.sub(r"^#(\w[\w:]* = )", r"\1", text, flags=re.MULTILINE))
    named = read_file(whole)
    assert len(named) > len(read_file(FOLDER / "sidecar.conf")) + 10
    assert [name for name in named if not is_setting(name)] == []
    assert load_settings((), {}, whole).eula == "accept"
