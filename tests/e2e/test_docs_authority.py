"""docs/authority.md: every command runs and prints what it says, and nothing that can be said is left out."""

import re
from pathlib import Path

from licenses.authority.cli import authority
from licenses.errors import AuthorityError, ClerkAccessError, LicensesError
from tests.docs import PROJECT, run_document

DOCUMENT = PROJECT / "docs" / "authority.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")

SETTINGS = {"TOLLGATE_AUTHORITY_DATABASE": "authority.db", "TOLLGATE_AUTHORITY_KEYS": "vendor"}
"""What the document exports in its first block."""

APPLIANCE = {
    "Eula": "accept",
    "Mounts__License": "license",
    "Mounts__Output": "output",
    "Mounts__Shared": "share",
    "Sidecar__StateDirectory": "state",
    "Sidecar__TrustRoot": "vendor/trust-root.json",
    "Sidecar__HostId": "ward-7",
}
"""What an appliance has in /etc/tollgate/sidecar.conf."""


def family(error: type[LicensesError]) -> list[type[LicensesError]]:
    return [error, *(deeper for child in error.__subclasses__() for deeper in family(child))]


def test_commands_of_the_document_run(tmp_path: Path) -> None:
    for name, value in SETTINGS.items():
        assert f"export {name}={value}" in TEXT
    assert run_document(DOCUMENT, tmp_path, environment={**SETTINGS, **APPLIANCE}) >= 30


def test_every_command_is_told() -> None:
    for name in authority.commands:
        assert re.search(rf"\blicenses authority {name}\b", TEXT), name


def test_every_refusal_is_told_with_its_word() -> None:
    for error in family(AuthorityError):
        assert re.search(rf"^\| `{error.code}` \| `{error.word}` \|", TEXT, re.MULTILINE), error.code
    assert f"| `{ClerkAccessError.code}` |" in TEXT
