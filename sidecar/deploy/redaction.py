"""What of a service may leave its site in a support bundle: nothing that is secret.

Invariants:

* A setting is shown when it is known here and not secret; any other is hidden, whatever its name suggests.
* Every text that goes into a bundle passes `Redactor.clean`, also where no secret should be.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, quote_plus, unquote

from sidecar.settings import canonical_name, is_setting, named_fields

HIDDEN = "(hidden)"
_LEAST_SECRET = 4
"""A shorter value is hidden where it stands, but not looked for elsewhere: it would be found in every other word."""
_CREDENTIALS = re.compile(r"(?<=://)[^\s/@\"']+(?=@)")
_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL)


def shown_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """A service's settings for a reader outside: name and value, or that it is hidden."""
    return {
        name.replace("__", ":"): _CREDENTIALS.sub(HIDDEN, value) if _is_shown(name) else HIDDEN
        for name, value in sorted(environment.items())
    }


def secret_values(environment: Mapping[str, str]) -> list[str]:
    """The values that nobody outside is to see, wherever they turn up."""
    return [value for name, value in environment.items() if value and not _is_shown(name)]


def _is_shown(name: str) -> bool:
    canonical = canonical_name(name)
    if canonical.startswith("logging:"):
        return is_setting(name)
    return canonical in {canonical_name(one.metadata["name"]) for one in named_fields() if not one.metadata["secret"]}


@dataclass(frozen=True, slots=True)
class Redactor:
    """Takes secrets out of text.

    Attributes:
        secrets: Values to take out, in every form that they are likely to be written in.
    """

    secrets: tuple[str, ...]

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Redactor:
        """For a service with this environment."""
        return cls(tuple(_forms(secret_values(environment))))

    def clean(self, text: str) -> str:
        """The text without secrets, private keys, and credentials in addresses."""
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        return _CREDENTIALS.sub(HIDDEN, _PEM.sub(HIDDEN, text))

    def clean_members(self, value: Any) -> Any:
        """The same for every string of a JSON value, names of members included."""
        if isinstance(value, str):
            return self.clean(value)
        if isinstance(value, Mapping):
            return {self.clean(str(name)): self.clean_members(one) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.clean_members(one) for one in value]
        return value


def _forms(values: Iterable[str]) -> list[str]:
    """Each value, and the parts of `USER:PASSWORD`, as texts are likely to write them; the longest first."""
    found: set[str] = set()
    for value in values:
        inside = re.search(r"://([^/@]+)@", value)
        found |= _spellings(value)
        for pair in {value, *((inside[1], unquote(inside[1])) if inside else ())}:
            user, colon, password = pair.partition(":")
            if colon and not password.startswith("//"):
                found |= _spellings(user) | _spellings(password)
                found.add(base64.b64encode(pair.encode()).decode("ascii"))  # as a header of HTTP carries it
    return sorted((one for one in found if len(one) >= _LEAST_SECRET), key=lambda one: (-len(one), one))


def _spellings(value: str) -> set[str]:
    """A text as it is, in an address, and in JSON."""
    return {
        value,
        quote(value, safe=""),
        quote_plus(value),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
    }
