"""The image, run by the lines that its documentation shows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.appliance.conftest import Mounts
from tests.appliance.engine import IMAGE, USER, Container, Engine, Terminal
from tests.e2e.site import free_port, wait_until

STARTED = "Application started."
HEALTH = "/opt/tollgate/current/bin/sidecar"


@pytest.fixture
def port() -> int:
    return free_port()


def volumes(mounts: Mounts) -> list[str]:
    return ["-v", f"{mounts.license}:/license", "-v", f"{mounts.output}:/output"]


def read_by_the_official_client(port: int, picture: Path) -> dict[str, object]:
    script = Path(__file__).resolve().parents[1] / "e2e" / "official_client.py"
    done = subprocess.run(
        [sys.executable, script, f"http://127.0.0.1:{port}", picture],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


def test_the_documented_line(engine: Engine, mounts: Mounts, picture: Path, port: int) -> None:
    mounts.give_to_service()
    terminal = Terminal(
        engine.words(
            "run", "--rm", "-it", "-p", f"127.0.0.1:{port}:5000", "--memory", "16g", "--cpus", "2", *volumes(mounts),
            IMAGE, "eula=accept", "Mounts:License=/license", "Mounts:Output=/output",
        ),
        engine.environ,
    )  # fmt: skip
    terminal.wait_for(STARTED, 60)
    assert read_by_the_official_client(port, picture)["status"] == "succeeded"
    assert terminal.press_ctrl_c(10) == 0
    (record,) = mounts.records()
    assert (record.stat().st_uid, record.stat().st_gid) == (USER, USER)
    assert '"kind":"use"' in record.read_text()
    assert "window closed at shutdown" in terminal.seen()


@pytest.fixture
def hardened(engine: Engine, mounts: Mounts, port: int) -> Iterator[Container]:
    """All that an orchestrator may take away is taken away; settings by the environment."""
    mounts.give_to_service()
    with engine.container(
        "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--cpus=1", "--memory=4g",
        "-p", f"127.0.0.1:{port}:5000", *volumes(mounts), "--env", "EULA=accept", "--env", "Mounts__License=/license",
        "--env", "Mounts:Output=/output", IMAGE,
    ) as container:  # fmt: skip
        wait_until(lambda: container.exits(HEALTH, "health") == 0, 60, container.log())
        yield container


def test_nothing_but_the_mounts_is_needed(hardened: Container, picture: Path, port: int) -> None:
    assert read_by_the_official_client(port, picture)["status"] == "succeeded"
    assert "1 pages at once" in hardened.log()  # by the quota of CPUs
    assert hardened.run("id", "-u").strip() == str(USER)


def test_a_wrong_owner_is_told_with_the_command_that_mends_it(engine: Engine, mounts: Mounts, port: int) -> None:
    for folder in (mounts.license, mounts.license / "license.dat"):
        folder.chmod(0o755)
    with engine.container(
        "-p", f"127.0.0.1:{port}:5000", *volumes(mounts), IMAGE, "eula=accept",
    ) as container:  # fmt: skip
        wait_until(lambda: STARTED in container.log(), 60, container.log())
        assert f"chown -R {USER}:{USER} /output" in container.log()
        assert requests.get(f"http://127.0.0.1:{port}/status", timeout=10).json()["state"] == "OUTPUT_UNWRITABLE"
        mounts.give_to_service()
        state = lambda: requests.get(f"http://127.0.0.1:{port}/status", timeout=10).json()["state"]  # noqa: E731
        wait_until(lambda: state() == "ACTIVE", 30, "the mended folder is not taken up")


def test_what_the_image_says_of_itself(engine: Engine) -> None:
    (facts,) = json.loads(engine("image", "inspect", IMAGE).stdout)
    config = facts["Config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == [HEALTH]
    assert facts["Healthcheck"]["Test"] == ["CMD", HEALTH, "health"]
    assert {name.rpartition(".")[2] for name in config["Labels"]} >= {"title", "version", "revision", "licenses"}
    print(f"{IMAGE}: {facts['Size'] / 1e6:.0f} MB")  # noqa: T201
    bom = json.loads(
        engine(
            "run", "--rm", "--network=none", "--entrypoint", "cat", IMAGE, "/usr/share/tollgate/sbom.cdx.json"
        ).stdout
    )
    assert bom["bomFormat"] == "CycloneDX"
    assert {"pkg:pypi/tesserocr", "pkg:deb/debian/libc6"} <= {
        part["purl"].partition("@")[0] for part in bom["components"] if "purl" in part
    }
