"""The verifier as one file: built twice the same, and with `cryptography` alone it answers as the installed command."""

import importlib.util
import json
import subprocess
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.fakes.bundles import a_bundle
from tests.fakes.licences import a_vendor
from tests.fakes.records import FakeMeter

PROJECT = Path(__file__).parents[2]
INSTALLED = Path(sysconfig.get_path("scripts")) / "usage-verify"
VENDOR = a_vendor()


def _build(target: Path) -> Path:
    subprocess.run([PROJECT / "scripts" / "build-verifier", target], check=True, capture_output=True, cwd=PROJECT)
    return target


def _bare_python(folder: Path, *packages: str) -> Path:
    """A Python that sees the standard library and these packages."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    site = next(folder.glob("lib/python3*/site-packages"))
    for name in packages:
        found = importlib.util.find_spec(name)
        place = Path(found.origin)
        place = place.parent if found.submodule_search_locations else place
        (site / place.name).symlink_to(place)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def verifier(tmp_path_factory):
    return _build(tmp_path_factory.mktemp("dist") / "usage-verify.pyz")


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    return _bare_python(tmp_path_factory.mktemp("bare"), "cryptography", "_cffi_backend")


@pytest.fixture
def meter(tmp_path):
    meter = FakeMeter(tmp_path / "output")
    for uses in (3, 4, 5):
        meter.window(uses=uses)
    meter.save_device_key(tmp_path / "device.pub")
    (tmp_path / "root.json").write_bytes(VENDOR.trust_root_blob)
    return meter


def _answers(python: Path, verifier: Path, source: Path, tmp_path: Path, *options: str) -> subprocess.CompletedProcess:
    """The answer of the one file, after it was compared with that of the installed command."""
    arguments = [str(source), "--trust", str(tmp_path / "root.json"), "--device-key", str(tmp_path / "device.pub")]
    one, other = (
        subprocess.run([*tool, *arguments, *options], capture_output=True, text=True, cwd=tmp_path, check=False)
        for tool in ([str(python), "-I", str(verifier)], [str(INSTALLED)])
    )
    assert (one.returncode, one.stdout, one.stderr) == (other.returncode, other.stdout, other.stderr)
    return one


def test_same_sources_give_the_same_bytes(verifier, tmp_path):
    assert _build(tmp_path / "again.pyz").read_bytes() == verifier.read_bytes()


def test_bare_python_has_nothing_but_cryptography(python):
    names = "click", "msgspec", "flask", "licenses", "sidecar", "cryptography"
    code = f"import importlib.util as u; print(*(n for n in {names!r} if u.find_spec(n)))"
    found = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert found.stdout.split() == ["cryptography"]


def test_one_file_holds_what_the_command_can_reach_and_no_more(verifier):
    with zipfile.ZipFile(verifier) as archive:
        names = archive.namelist()
    assert {"__main__.py", "licenses/usage_log/audit.py", "licenses/ml_dsa.py"} <= set(names)
    assert not [
        name
        for name in names
        if any(word in name for word in ("issue", "cli", "authority")) or not name.startswith(("licenses/", "__main"))
    ]


def test_good_records(python, verifier, meter, tmp_path):
    assert _answers(python, verifier, meter.folder, tmp_path, "--strict").returncode == 0
    report = json.loads(_answers(python, verifier, meter.folder, tmp_path, "--json").stdout)
    assert report["verdict"] == "good"


def test_tampered_records(python, verifier, meter, tmp_path):
    meter.files[1].unlink()
    assert _answers(python, verifier, meter.folder, tmp_path, "--json").returncode == 1


def test_bundle_acknowledgement_licence_and_every_form(python, verifier, meter, tmp_path):
    ack = meter.ack(VENDOR, meter.checkpoint(11))
    (tmp_path / "ack").write_bytes(ack.seal(VENDOR.keys.ack_key))
    (tmp_path / "license.dat").write_bytes(VENDOR.seal())
    bundle = a_bundle(meter, tmp_path, since=6)
    given = ["--ack", str(tmp_path / "ack"), "--license", str(tmp_path / "license.dat"), "--strict"]
    assert _answers(python, verifier, bundle, tmp_path, *given).returncode == 0
    assert "month,2027-01," in _answers(python, verifier, bundle, tmp_path, *given, "--csv", "-").stdout
    done = subprocess.run(
        [python, "-I", verifier, bundle, "--trust", tmp_path / "root.json", "--html", "-"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("<!DOCTYPE html>")


def test_help_and_wrong_use(python, verifier, tmp_path):
    for options, code in ((["--help"], 0), (["--version"], 0), (["--no-such"], 64)):
        one, other = (
            subprocess.run([*tool, *options], capture_output=True, text=True, check=False, env={"COLUMNS": "100"})
            for tool in ([python, "-I", verifier], [INSTALLED])
        )
        assert (one.returncode, one.stdout, one.stderr) == (code, other.stdout, other.stderr)


def test_without_cryptography_it_says_what_is_missing(verifier, tmp_path):
    done = subprocess.run(
        [_bare_python(tmp_path / "bare"), "-I", verifier], capture_output=True, text=True, check=False
    )
    assert done.returncode == 70
    assert "'cryptography'" in done.stderr
    assert "Next step:" in done.stderr
