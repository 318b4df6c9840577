"""The site's settings, as far as an installation has to know or change them.

Invariant: a line that a person wrote is never lost; the one line that may be changed is the acceptance of the terms.
"""

from __future__ import annotations

import configparser
import os
import re
import stat
from pathlib import Path

_EULA = re.compile(r"^#?[ \t]*eula[ \t]*=.*$", re.IGNORECASE | re.MULTILINE)
_SECTION = re.compile(r"^\s*\[", re.MULTILINE)
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
    changed, count = _EULA.subn("Eula = accept", text, count=1)
    if not count:
        changed = f"Eula = accept\n{text}"
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
