"""What was looked at, how it stands, and what a person can do about it.

Invariant: a check that is not `ok` tells a cause and the next step.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import click

Result = Literal["ok", "warn", "fail"]

_NAME_WIDTH = 15
_INDENT = 4 + 2 + _NAME_WIDTH
_LEAST_WIDTH = 60
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check's outcome.

    Attributes:
        name: What was looked at.
        result: `ok`, `warn` (it works, with something amiss, or could not be looked at) or `fail`.
        cause: What was found.
        next_step: What to do; empty when nothing is to be done.
        code: Stable word where a program may mend it, such as `wrong_owner`; else empty.
    """

    name: str
    result: Result
    cause: str
    next_step: str = ""
    code: str = ""


def ok(name: str, cause: str) -> Check:
    """Nothing is to be done."""
    return Check(name=name, result="ok", cause=cause)


def warn(name: str, cause: str, next_step: str) -> Check:
    """It works, with something amiss."""
    return Check(name=name, result="warn", cause=cause, next_step=next_step)


def fail(name: str, cause: str, next_step: str, *, code: str = "") -> Check:
    """It does not work."""
    return Check(name=name, result="fail", cause=cause, next_step=next_step, code=code)


def rows(checks: Iterable[Check], *, for_terminal: bool) -> Iterator[str]:
    """The checks as lines of text; coloured, which `click.echo` takes away where nobody sees it.

    Args:
        checks: The checks.
        for_terminal: Whether to wrap at the terminal's width; in a file each cause and each step is one line.
    """
    width = max(_LEAST_WIDTH, shutil.get_terminal_size().columns) if for_terminal else 2**20
    for check in checks:
        result = click.style(check.result.rjust(4), fg=_COLOURS[check.result])
        first, *others = _wrapped(check.cause, width - _INDENT) or [""]
        yield f"{result}  {check.name:<{_NAME_WIDTH}}{first}"
        yield from (f"{'':{_INDENT}}{line}" for line in others)
        steps = _wrapped(check.next_step, width - _INDENT - 2)
        yield from (f"{'':{_INDENT}}{'  ' if number else '→ '}{line}" for number, line in enumerate(steps))


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
