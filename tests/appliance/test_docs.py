"""docs/appliance.md: every command, in order, on booted machines; the stick goes between them and the vendor."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from sidecar.settings import is_setting
from tests.appliance.conftest import Vendor
from tests.appliance.engine import Engine
from tests.appliance.machine import a_machine
from tests.appliance.releases import Releases
from tests.docs import PROJECT, run_document

DOCUMENT = PROJECT / "docs" / "appliance.md"


def test_commands_of_the_document_run(
    bare: Engine, bundle: Path, vendor: Vendor, picture: Path, tmp_path: Path
) -> None:
    stick, safe, work = (tmp_path / name for name in ("stick", "safe", "work"))
    for folder in (stick, safe, work):
        folder.mkdir()
    shutil.copy(bundle, stick)
    shutil.move(Releases(bundle, work).make("2.0.0"), tmp_path)
    shutil.copy(picture, tmp_path / "page.png")
    (tmp_path / "vendor").symlink_to(vendor.trust_root.parent)
    with a_machine(bare, stick, safe) as box, a_machine(bare, stick, safe) as new:

        def client(command: str) -> subprocess.CompletedProcess[str]:
            there = command.replace("http://box:5000", box.url)
            return subprocess.run(
                ["bash", "-c", f"exec 2>&1\n{there}"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=False
            )

        elsewhere = {"box": box.shell, "new": new.shell, "client": client}
        assert run_document(DOCUMENT, tmp_path, elsewhere=elsewhere) >= 40


def test_everything_named_is_there() -> None:
    text = DOCUMENT.read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert (PROJECT / "docs" / target).exists(), target
    for setting in re.findall(r"\b((?:Core|Sidecar|Mounts|Metering):\w+)", text):
        assert is_setting(setting), setting
    for unit in re.findall(r"\b(ocr-[a-z-]+\.(?:service|socket|target|path))\b", text):
        assert (PROJECT / "systemd" / unit).exists(), unit
