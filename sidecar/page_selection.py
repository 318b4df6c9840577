"""Which pages of a document a client means: the `pages` expression (contract E.1.1).

Invariant: pure; an expression is refused before a document is looked at where no document could satisfy it.
"""

from __future__ import annotations

import re

from sidecar.errors import DocumentRefusedError

PAGES_ADVICE = "use page numbers and ranges such as 1,3-5,8-"
"""What to use for `pages`, for people."""
_PAGES_ITEM = re.compile(r"0*(\d{1,9})|0*(\d{1,9})-(?:0*(\d{1,9}))?|-0*(\d{1,9})", re.ASCII)


def require_pages_expression(expression: str) -> None:
    """Refuse a `pages` expression that no document could satisfy (contract E.1.1).

    Raises:
        DocumentRefusedError: With reason `InvalidPageRange`.
    """
    _page_ranges(expression)


def select_pages(expression: str, total: int) -> tuple[int, ...]:
    """The pages that an expression means in a document of `total` pages, ascending, each once.

    Raises:
        DocumentRefusedError: With reason `InvalidPageRange` when it reaches beyond the document.
    """
    ranges = _page_ranges(expression)
    if not ranges:
        return tuple(range(1, total + 1))
    chosen: set[int] = set()
    for low, end in ranges:
        high = total if end is None else end
        if low > total or high > total:
            raise DocumentRefusedError(
                "InvalidPageRange", f"The Pages parameter exceeds the number of pages ({total}) in the document."
            )
        chosen.update(range(low, high + 1))
    return tuple(sorted(chosen))


def _page_ranges(expression: str) -> list[tuple[int, int | None]]:
    """First and last page of each item, None for the document's last; leading zeros say nothing (contract E.1.1)."""
    ranges: list[tuple[int, int | None]] = []
    for item in expression.split(",") if expression else ():
        match = _PAGES_ITEM.fullmatch(item.strip())
        single, first, last, until = match.groups() if match else (None, None, None, None)
        low = int(single or first or 1)
        high = int(text) if (text := single or last or until) else None
        if match is None or low < 1 or (high is not None and high < low):
            raise DocumentRefusedError("InvalidPageRange", f"The pages parameter is invalid: {PAGES_ADVICE}.")
        ranges.append((low, high))
    return ranges
