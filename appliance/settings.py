"""The site's settings, as far as an installation has to know or change them.

Invariant: a line that a person wrote is never lost; the one line that may be changed is the acceptance of the terms. A
file with sections is given a header of its own for it.
"""

from __future__ import annotations

import configparser
import os
import re
import stat
from pathlib import Path

_EULA = re.compile(r"^(?P<comment>#?)[ \t]*eula[ \t]*=.*$", re.IGNORECASE | re.MULTILINE)
_SECTION = re.compile(r"^\s*\[", re.MULTILINE)
_HEADER = re.compile(r"^[ \t]*\[(?P<name>.*)\]", re.MULTILINE)
_SETTING = re.compile(r"^[ \t]*[^\s#;\[]", re.MULTILINE)
_NO_SECTION = "DEFAULT"
"""The section of settings that bear their whole names."""
_WORDS = re.compile(r":|__")


def read_settings(path: Path) -> dict[str, str]:
    """The settings of a file, under names in lower case with `:`; nothing where it cannot be read."""
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), strict=False)
    try:
        text = path.read_text("utf-8-sig")
        parser.read_string(text if _SECTION.search(text) else f"[DEFAULT]\n{text}")
    except (OSError, UnicodeError, configparser.Error):
        return {}
    found = {_WORDS.sub(":", key).lower(): value.strip("\"'") for key, value in parser.defaults().items()}
    for section in parser.sections():
        found |= {
            _WORDS.sub(":", f"{section}:{key}").lower(): value.strip("\"'")
            for key, value in parser.items(section)
            if key not in parser.defaults()
        }
    return found


def is_accepted(path: Path) -> bool:
    """Whether the file accepts the licence terms."""
    return read_settings(path).get("eula", "").lower() == "accept"


def accept_terms(path: Path) -> None:
    """Have the file accept the licence terms; owner and permissions stay, and so does what is no UTF-8."""
    text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    changed = _accepting(text)
    facts = path.stat()
    half = path.with_name(f".{path.name}.incoming")
    half.unlink(missing_ok=True)
    # Passwords may be in it: at no time may more people read it than before.
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(changed.encode("utf-8", "surrogateescape"))
        stream.flush()
        os.fchown(stream.fileno(), facts.st_uid, facts.st_gid)
        os.fchmod(stream.fileno(), stat.S_IMODE(facts.st_mode))
        os.fsync(stream.fileno())
    half.replace(path)


def _accepting(text: str) -> str:
    """The text of a settings file with the terms accepted, where the service looks for that."""
    headers = list(_HEADER.finditer(text))

    def is_whole_name(line: re.Match[str]) -> bool:
        names = [header["name"] for header in headers if header.start() < line.start()]
        return not names or names[-1] == _NO_SECTION

    lines = [line for line in _EULA.finditer(text) if is_whole_name(line)]
    in_force = [line for line in lines if not line["comment"]]
    if lines:
        line = in_force[-1] if in_force else lines[0]  # of two, the last one counts
        text = f"{text[: line.start()]}Eula = accept{text[line.end() :]}"
    else:
        text = f"Eula = accept\n{text}"
    first = _HEADER.search(text)
    if first is not None and _SETTING.search(text, 0, first.start()):  # none may stand before the first header
        text = f"[{_NO_SECTION}]\n{text}"
    return text
