"""docs/containers.md: every command, in order; podman stands for Docker, which is not here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from appliance.bundle import IMAGE as BUNDLED_IMAGE
from tests.appliance.conftest import Vendor
from tests.appliance.engine import IMAGE, Engine
from tests.docs import PROJECT, run_document
from tests.e2e.site import free_port

DOCUMENT = PROJECT / "docs" / "containers.md"
PUBLISHED = "localhost/tollgate:latest"


def stand_in_for_docker(engine: Engine, folder: Path) -> Path:
    """A command `docker` of which `docker compose` is podman-compose."""
    podman = folder / "engine"
    podman.write_text(f'#!/bin/sh\nexec {" ".join(engine.words())} "$@"\n')
    tool = Path(sys.executable).with_name("podman-compose")
    docker = folder / "docker"
    docker.write_text(
        f'#!/bin/sh\n[ "$1" != compose ] || {{ shift; exec {tool} --podman-path {podman} "$@"; }}\nexec {podman} "$@"\n'
    )
    for command in (podman, docker):
        command.chmod(0o755)
    return docker


def test_commands_of_the_document_run(engine: Engine, vendor: Vendor, picture: Path, tmp_path: Path) -> None:
    commands, box = tmp_path / "commands", tmp_path / "box"
    for folder in (commands, box):
        folder.mkdir()
    stand_in_for_docker(engine, commands)
    vendor.issue(box / "license.dat")
    shutil.copy(picture, box / "page.png")
    shutil.copytree(PROJECT / "containers", box / "containers")
    engine("tag", IMAGE, PUBLISHED)
    port = str(free_port())
    environ = {
        **engine.environ,
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "TOLLGATE_LISTEN": f"127.0.0.1:{port}",
    }

    def run(command: str) -> subprocess.CompletedProcess[str]:
        there = command.replace("127.0.0.1:5000", f"127.0.0.1:{port}")
        return subprocess.run(
            ["bash", "-c", f"exec 2>&1\n{there}"], cwd=box, env=environ, stdout=subprocess.PIPE, text=True, check=False,
            timeout=180,
        )  # fmt: skip

    try:
        assert run_document(DOCUMENT, tmp_path, elsewhere={"box": run}) >= 15
    finally:
        run("docker compose --file containers/compose.yaml down --volumes")
        run("docker rm --force --volumes tollgate; docker volume rm tollgate-state")


def test_everything_named_is_there() -> None:
    text = DOCUMENT.read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert (PROJECT / "docs" / target).exists(), target
    for path in re.findall(r"`((?:containers|tests)/[a-z_./-]+)`", text):
        assert (PROJECT / path).exists(), path
    assert f"gunzip --stdout {BUNDLED_IMAGE} | docker load" in text
