"""What was looked at, how it stands, and what a person can do about it.

Invariant: a check that is not `ok` tells a cause; one that fails tells the next step too.
"""

import shutil
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Result = Literal["ok", "warn", "fail"]

_NAME_WIDTH = 15
_INDENT = 4 + 2 + _NAME_WIDTH
_LEAST_WIDTH = 60
_COLOURS = {"ok": "\33[32m", "warn": "\33[33m", "fail": "\33[31m"}
_PLAIN = "\33[0m"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check's outcome.

    Attributes:
        name: What was looked at.
        result: `ok`, `warn` (it works, with something amiss) or `fail`.
        cause: What was found.
        next_step: What to do; empty when nothing is to be done.
    """

    name: str
    result: Result
    cause: str
    next_step: str = ""


def rows(checks: Iterable[Check], *, for_terminal: bool) -> Iterator[str]:
    """The checks as lines of text.

    Args:
        checks: The checks.
        for_terminal: Whether to wrap at the terminal's width and to colour the results.
    """
    width = max(_LEAST_WIDTH, shutil.get_terminal_size().columns) if for_terminal else 2**20
    for check in checks:
        result = check.result.rjust(4)
        if for_terminal:
            result = f"{_COLOURS[check.result]}{result}{_PLAIN}"
        first, *others = _wrapped(check.cause, width - _INDENT) or [""]
        yield f"{result}  {check.name:<{_NAME_WIDTH}}{first}"
        yield from (f"{'':{_INDENT}}{line}" for line in others)
        steps = _wrapped(check.next_step, width - _INDENT - 2)
        yield from (f"{'':{_INDENT}}{'  ' if number else '→ '}{line}" for number, line in enumerate(steps))


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)  # commands have hyphens
