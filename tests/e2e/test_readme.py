"""The README's own commands: `make run`, then the two ways to send a page."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from tests.e2e.site import free_port, wait_until
from tests.pages import as_png, character_error_rate, printed_page

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text()
PAGE = printed_page()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def as_written(pattern: str, run_dir: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that the README shows, on another folder than `.run`."""
    found = re.search(pattern, README)
    assert found
    words = found[1].replace(".run/", f"{run_dir}/").replace(".venv/bin/", f"{Path(sys.executable).parent}/")
    return subprocess.run(["bash", "-c", words], cwd=PROJECT, capture_output=True, text=True, check=False)


def test_readme_fits_one_screen() -> None:
    assert len(README.splitlines()) <= 70


def test_links_and_pictures_are_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (PROJECT / target).exists(), target


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_two_commands_and_the_first_request(tmp_path: Path) -> None:
    assert blocks("sh")[0].startswith("make run ")
    port = free_port()
    log = (tmp_path / "log").open("wb")
    run = subprocess.Popen(
        ["make", "run", f"PORT={port}", f"RUN_DIR={tmp_path / 'run'}"],
        cwd=PROJECT,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        ready = f"http://127.0.0.1:{port}/ready"

        def serving() -> bool:
            try:
                return requests.get(ready, timeout=2).status_code == 200
            except requests.RequestException:
                return False

        wait_until(serving, 120, (tmp_path / "log").read_text(errors="replace"))
        (tmp_path / "page.png").write_bytes(as_png(PAGE))

        curl = blocks("sh")[1].replace("127.0.0.1:5000", f"127.0.0.1:{port}")
        answered = subprocess.run(["bash", "-c", curl], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert '"status":"succeeded"' in answered.stdout

        program = blocks("python")[0].replace("127.0.0.1:5000", f"127.0.0.1:{port}")
        read = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
        )
        assert character_error_rate(PAGE.text, read.stdout) < 0.02

        diagnosed = as_written(r"`(\.venv/bin/sidecar diagnose [^`]*)`", tmp_path / "run")
        assert diagnosed.returncode == 0, diagnosed.stdout
        assert "is in use by this service, which is ACTIVE" in diagnosed.stdout

        os.killpg(run.pid, signal.SIGINT)
        assert run.wait(15) is not None
        verified = as_written(r"`(\.venv/bin/usage-verify [^`]*)`", tmp_path / "run")
        assert verified.returncode == 0, verified.stdout
        assert "GOOD" in verified.stdout
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
        log.close()


def test_missing_system_package_without_root_is_one_message_that_names_it() -> None:
    """As nobody, with language data that is not there: no attempt to install, one message, exit code 69."""
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    if drop and shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed, and we are root")
    script = (PROJECT / "scripts" / "system-packages").read_text()
    done = subprocess.run(
        [*drop, "bash", "-s", "run"],
        input=script,
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "TESSDATA_PREFIX": "/nowhere", "PYTHON": "/bin/true"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 69
    assert "tesseract-ocr-eng tesseract-ocr-osd" in done.stderr
    assert "Next step: run 'sudo apt-get install" in done.stderr
    assert done.stdout == ""


def test_appliance_tests_without_root_say_what_they_need() -> None:
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    if drop and shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed, and we are root")
    script = (PROJECT / "scripts" / "system-packages").read_text()
    done = subprocess.run(
        [*drop, "bash", "-s", "appliance"],
        input=script, cwd="/", env={"PATH": "/nowhere:/usr/bin:/bin"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 69
    assert "that takes root" in done.stderr
    assert "Next step: run 'sudo make test-appliance'" in done.stderr
