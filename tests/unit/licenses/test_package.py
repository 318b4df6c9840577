"""What the package promises as a whole: a leaf, installable alone by an auditor, with one error family."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import licenses
from licenses.errors import KeyFileError, LicensesError, remedy

PROJECT = Path(__file__).parents[3]


def _family(error: type[LicensesError]) -> list[type[LicensesError]]:
    return [error, *(deeper for child in error.__subclasses__() for deeper in _family(child))]


def _loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    return set(done.stdout.split())


def test_version_is_that_of_the_project():
    assert licenses.__version__ == tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]


@pytest.mark.parametrize(
    "module", ["licenses.usage_log.verify", "licenses.verify", "licenses.folder", "licenses.lease"]
)
def test_library_needs_the_standard_library_and_cryptography_alone(module):
    foreign = _loaded_by(module) - _loaded_by("sys") - set(sys.stdlib_module_names)
    assert foreign <= {"licenses", "cryptography", "_cffi_backend", "_openssl"}, foreign


def test_vendor_side_is_not_loaded_by_what_appliances_import():
    code = (
        "import sys, licenses.folder, licenses.lease, licenses.usage_log.files; print('licenses.issue' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert done.stdout.strip() == "False"


def test_every_error_has_a_code_and_a_next_step_of_its_own():
    codes = [error.code for error in _family(LicensesError)]
    assert len(set(codes)) == len(codes)
    assert all(error.usual_step.endswith(".") for error in _family(LicensesError))


def test_error_tells_cause_and_next_step():
    error = LicensesError("the cause", next_step="Do this.")
    assert (str(error), error.next_step) == ("the cause", "Do this.")
    assert LicensesError("the cause").next_step == LicensesError.usual_step


@pytest.mark.parametrize(
    ("exc", "words"),
    [
        (PermissionError(13, "no"), "sudo chown 65532:65532 '/a b' && sudo chmod u+rx '/a b'"),
        (FileNotFoundError(2, "no"), "can be reached by user id 65532"),
        (FileExistsError(17, "no"), "move /a b aside"),
        (IsADirectoryError(21, "no"), "Check the path"),
        (OSError(28, "No space left on device"), "df '/a b'"),
    ],
)
def test_remedy_names_the_command_to_run(exc, words):
    assert words in remedy(exc, Path("/a b"), mode="u+rx", uid=65532)


def test_access_error_names_path_user_and_what_failed():
    exc = PermissionError(13, "Permission denied")
    error = KeyFileError.from_os_error(exc, Path("/k"), doing="read the key", mode="0400", uid=7)
    assert str(error) == "cannot read the key: /k: Permission denied"
    assert (error.path, error.uid) == (Path("/k"), 7)
    assert "sudo chown 7:7 /k" in error.next_step


@pytest.mark.parametrize(
    "module", ["licenses", "licenses.cli", "licenses.usage_log.command", "licenses.verify", "licenses.folder"]
)
def test_neither_the_web_nor_a_database_is_loaded_but_by_the_vendors_service(module):
    assert not _loaded_by(module) & {"flask", "werkzeug", "sqlite_utils", "sqlite3", "gunicorn"}


def test_of_the_vendors_commands_the_service_alone_loads_the_web():
    loaded = _loaded_by("licenses.authority.cli")
    assert "sqlite_utils" in loaded
    assert not loaded & {"flask", "werkzeug", "gunicorn", "argon2", "jinja2", "numpy", "pandas"}
