"""Paths as the original service matches them: in any letter case, with or without a slash at the end.

Invariant: a path is put into the spelling of the route that it means, before it is routed, and never redirected,
because clients do not follow a redirect of a POST. What a client put into a variable part stays as it was sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from flask import Flask

AS_SENT = "sidecar.path_as_sent"
"""Where in the WSGI environment the path is as the client sent it."""

_VARIABLE = re.compile(r"<(?:(?P<converter>\w+)(?:\([^)]*\))?:)?\w+>")


@dataclass(slots=True)
class _Node:
    """What may follow after some segments of a path.

    Attributes:
        fixed: By the segment in lower case: its spelling, and what follows.
        variable: What follows after a segment that may be anything; None when there is none such.
        ends: A route ends here.
        takes_rest: A route takes all that follows, as it is.
    """

    fixed: dict[str, tuple[str, _Node]] = field(default_factory=dict)
    variable: _Node | None = None
    ends: bool = False
    takes_rest: bool = False


class Spelling:
    """Puts paths into the spelling of the routes.

    Args:
        rules: The routes' patterns, as Werkzeug writes them.
    """

    def __init__(self, rules: Iterable[str]) -> None:
        self._root = _Node()
        for rule in rules:
            self._add(rule.split("/")[1:])

    def _add(self, segments: list[str]) -> None:
        node = self._root
        for segment in segments:
            match = _VARIABLE.fullmatch(segment)
            if match and match["converter"] == "path":
                node.takes_rest = True
                return
            if match:
                node.variable = node.variable or _Node()
                node = node.variable
            else:
                node = node.fixed.setdefault(segment.lower(), (segment, _Node()))[1]
        node.ends = True

    def of(self, path: str) -> str:
        """The path in the spelling of the route that it means; as it is where it means none."""
        *before, last = path.split("/")[1:] or [""]
        segments = [*filter(None, before), last]  # `http://host/` and `/vision/…` put together have two slashes
        found = self._spelt(segments)
        if found is None and not last:
            found = self._spelt(segments[:-1])
        if found is None and last and (with_slash := self._spelt([*segments, ""])):
            found = with_slash[:-1]
        return path if found is None else "/" + "/".join(found)

    def _spelt(self, segments: list[str]) -> list[str] | None:
        node, spelt = self._root, []
        for at, segment in enumerate(segments):
            following = node.fixed.get(segment.lower())
            if following is not None:
                spelt.append(following[0])
                node = following[1]
            elif node.variable is not None and segment:
                spelt.append(segment)
                node = node.variable
            elif node.takes_rest:
                return spelt + segments[at:]
            else:
                return None
        return spelt if node.ends else None


def register(app: Flask) -> None:
    """Match the application's routes so; call it when all of them are there."""
    spelling = Spelling(rule.rule for rule in app.url_map.iter_rules())
    routed = app.wsgi_app

    def respelt(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ[AS_SENT] = environ.get("PATH_INFO", "")
        environ["PATH_INFO"] = spelling.of(environ[AS_SENT])
        return routed(environ, start_response)

    app.wsgi_app = respelt  # type: ignore[method-assign]
