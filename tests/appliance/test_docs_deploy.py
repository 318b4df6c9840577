"""docs/deploy.md: every command, in order, against a real engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.appliance.conftest import Vendor
from tests.appliance.engine import IMAGE, Engine
from tests.appliance.image_bundle import an_image_bundle
from tests.appliance.test_deploy import an_engine_service, long_form
from tests.docs import PROJECT, run_document
from tests.e2e.site import BINARIES, free_port
from tests.fakes.releases import KEY

DOCUMENT = PROJECT / "docs" / "deploy.md"
PUBLISHED = "localhost/tollgate:latest"


@long_form
def test_commands_of_the_document_run(engine: Engine, vendor: Vendor, picture: Path, tmp_path: Path) -> None:
    box = tmp_path / "box"
    box.mkdir()
    vendor.issue(box / "license.dat")
    shutil.copy(picture, box / "page.png")
    engine("tag", IMAGE, PUBLISHED)
    an_image_bundle(engine, PUBLISHED, KEY, box / "tollgate.tar")
    port = str(free_port())
    with an_engine_service(engine) as address:
        path = f"{BINARIES}{os.pathsep}{os.environ['PATH']}"
        environ = {**os.environ, "PATH": path, "DOCKER_HOST": address, "LC_ALL": "C.UTF-8"}

        def run(command: str) -> subprocess.CompletedProcess[str]:
            there = command.replace("127.0.0.1:5000", f"127.0.0.1:{port}")
            done = subprocess.run(
                ["bash", "-c", f"exec 2>&1\n{there}"], cwd=box, env=environ, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, text=True, check=False, timeout=400,
            )  # fmt: skip
            done.stdout = done.stdout.replace(f"127.0.0.1:{port}", "127.0.0.1:5000")
            return done

        try:
            assert run_document(DOCUMENT, tmp_path, elsewhere={"box": run}) >= 12
        finally:
            for name in ("tollgate", "tollgate-next", "tollgate-previous", "tollgate-check"):
                engine("rm", "--force", "--time", "5", "--volumes", name, check=False)
            engine("volume", "rm", "--force", "tollgate-state", "tollgate-share", check=False)


def test_everything_named_is_there() -> None:
    text = DOCUMENT.read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert (PROJECT / "docs" / target).exists(), target
    for path in re.findall(r"`((?:containers|tests)/[a-z_./-]+)`", text):
        assert (PROJECT / path).exists(), path
