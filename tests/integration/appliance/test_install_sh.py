"""install.sh itself, as far as it changes nothing: what it says, what it ends with, and what it refuses to run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fakes.releases import FILES, KEY, OTHER_KEY, lay_out, public, signed

PROJECT = Path(__file__).resolve().parents[3]
TOOLS = ("sh", "dirname", "readlink", "grep", "sha256sum")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A small bundle with the real installer in it."""
    root = tmp_path / "tollgate-1.2.3"
    files = {
        **FILES,
        "install.sh": (PROJECT / "scripts" / "install.sh").read_bytes(),
        **{f"installer/appliance/{path.name}": path.read_bytes() for path in (PROJECT / "appliance").glob("*.py")},
    }
    del files["checksums.txt"]
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {path}\n" for path, content in sorted(files.items()))
    lay_out(root, {**files, "checksums.txt": sums.encode()})
    signed(root)
    return root


def run(bundle: Path, *words: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [bundle / "install.sh", *words], capture_output=True, text=True, check=False, env={**os.environ, **environ}
    )


def test_help_and_version(bundle: Path) -> None:
    told = run(bundle, "--help")
    assert told.returncode == 0
    for word in ("--check", "--uninstall", "--bundle", "--release-key", "--licence", "--accept-eula", "Exit codes"):
        assert word in told.stdout
    assert run(bundle, "--version").stdout == "install.sh 1.2.3\n"


@pytest.mark.parametrize(
    "words",
    [["--frobnicate"], ["--check", "--uninstall"], ["more"], ["--wait", "long"], ["--wait", "nan"], ["--wait", "inf"]],
)
def test_wrong_usage(bundle: Path, words: list[str]) -> None:
    told = run(bundle, *words)
    assert told.returncode == 64
    assert "Next step: " in told.stderr
    assert words[0] != "--wait" or f"argument --wait: '{words[1]}': wants seconds" in told.stderr


def test_check_judges_the_bundle_and_leaves_no_trace(bundle: Path) -> None:
    before = sorted(bundle.rglob("*"))
    told = run(bundle, "--check", "--json")
    checks = {check["name"]: check for check in json.loads(told.stdout)}
    assert checks["bundle"]["result"] == "ok"
    assert public(KEY).fingerprint in checks["release key"]["cause"]
    assert told.returncode == (69 if any(check["result"] == "fail" for check in checks.values()) else 0)
    assert sorted(bundle.rglob("*")) == before
    assert run(bundle, "--check").stdout.splitlines()[-1].startswith("Nothing was changed")


def test_a_key_that_is_named_is_the_only_one_believed(bundle: Path, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(public(KEY).to_pem())
    for named in (key, public(KEY).fingerprint):
        told = json.loads(run(bundle, "--check", "--json", "--release-key", named).stdout)
        assert [check["result"] for check in told[:2]] == ["ok", "ok"]
    told_off = run(bundle, "--check", "--release-key", public(OTHER_KEY).fingerprint)
    assert told_off.returncode == 65
    assert "fail  bundle        release_untrusted_key: " in told_off.stdout


@pytest.mark.parametrize("path", ["install.sh", "installer/appliance/command.py", "checksums.txt", "docs/appliance.md"])
def test_damage_is_named_also_in_what_judges(bundle: Path, path: str) -> None:
    with (bundle / path).open("ab") as stream:
        stream.write(b"\n")
    told = run(bundle, "--check")
    assert told.returncode == 65
    assert "bundle_changed: " in told.stdout + told.stderr


def folder_of_tools(folder: Path, python: str | None) -> str:
    """A PATH with what install.sh needs, and this in place of python3."""
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool) or tool)
    if python is not None:
        (folder / "python3").write_text(python)
        (folder / "python3").chmod(0o755)
    return str(folder)


def test_without_python_it_says_so(bundle: Path, tmp_path: Path) -> None:
    told = run(bundle, "--check", PATH=folder_of_tools(tmp_path / "tools", None))
    assert (told.returncode, told.stdout) == (69, "")
    assert "install.sh: python_missing: " in told.stderr
    assert "Next step: install the package python3" in told.stderr


def test_an_old_python_is_named(bundle: Path, tmp_path: Path) -> None:
    old = '#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 && exit 0\nexit 1\n'
    told = run(bundle, "--check", PATH=folder_of_tools(tmp_path / "tools", old))
    assert told.returncode == 69
    assert "install.sh: python_too_old: " in told.stderr
    assert "Python 3.9.2" in told.stderr
