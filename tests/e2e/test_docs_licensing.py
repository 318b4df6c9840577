"""docs/licensing.md: every command runs and prints what it says, and nothing that can be said is left out."""

import re
from pathlib import Path

import pytest

from licenses.cli import cli
from licenses.errors import LicensesError
from licenses.verify import Standing
from tests.docs import PROJECT, prints, run_document, steps

DOCUMENT = PROJECT / "docs" / "licensing.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")


SETTINGS = {
    "Eula": "accept",
    "Mounts__License": "license",
    "Mounts__Output": "output",
    "Mounts__Shared": "share",
    "Sidecar__StateDirectory": "state",
    "Sidecar__TrustRoot": "vendor/trust-root.json",
    "Sidecar__HostId": "ward-7",
}
"""What an appliance has in /etc/tollgate/sidecar.conf."""


def test_commands_of_the_document_run(tmp_path: Path) -> None:
    assert run_document(DOCUMENT, tmp_path, environment=SETTINGS) >= 20


def test_every_command_standing_and_error_is_told() -> None:
    for name in set(cli.commands) - {"factors"}:
        assert re.search(rf"\blicenses {name}\b", TEXT), name
    for standing in Standing:
        assert f"| `{standing.value}` |" in TEXT
    elsewhere = ("authority_", "clerk_")  # docs/authority.md tells of them
    for code in {error.code for error in _family(LicensesError) if not error.code.startswith(elsewhere)}:
        assert f"`{code}`" in TEXT


def _family(error: type[LicensesError]) -> list[type[LicensesError]]:
    return [error, *(deeper for child in error.__subclasses__() for deeper in _family(child))]


def test_steps_are_taken_apart() -> None:
    text = "x\n```console\n$ one \\\n  two\nout\n\n$ three\nbox# five\n# six\n```\n```sh\nfour\n```\n"
    first, second, third = steps(text)
    assert (first.line, first.command, first.expected) == (3, "one \\\n  two", ("out",))
    assert (second.line, second.command, second.expected, second.place) == (7, "three", (), "")
    assert (third.command, third.expected, third.place) == ("five", ("# six",), "box")


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        (["a"], "a\n", True),
        (["a"], "b\n", False),
        (["a"], "a\nb\n", False),
        (["a", "…"], "a\nb\nc\n", True),
        (["a", "…"], "a\n", True),
        (["…", "c"], "a\nb\nc\n", True),
        (["…", "c"], "a\nb\n", False),
        (["a … c"], "a b c\n", True),
        (["a … c"], "a b\nc\n", False),
        (["a.c"], "abc\n", False),
    ],
)
def test_output_is_compared_with_wildcards(expected: list[str], printed: str, same: bool) -> None:
    assert prints(expected, printed) is same
