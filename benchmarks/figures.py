"""The arithmetic and the tables of the benchmarks; pure.

Invariant: two contenders are compared by ratios of the same round, never by figures of different minutes, because the
machine may be noisy; a ratio is told as the median of the rounds, with the lowest and the highest beside it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


def quantile(values: Sequence[float], part: float) -> float:
    """The smallest value that so much of all values does not exceed.

    Args:
        values: At least one, in any order.
        part: 0..1.
    """
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-len(ordered) * part // 1) - 1))]


@dataclass(frozen=True, slots=True)
class Spread:
    """What several rounds say of one thing.

    Attributes:
        middle: The median.
        low: The least.
        high: The greatest.
    """

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def told(self, digits: int) -> str:
        """As in a table: the median, and the range where there is one."""
        middle = f"{self.middle:.{digits}f}"
        low, high = f"{self.low:.{digits}f}", f"{self.high:.{digits}f}"
        return middle if low == high else f"{middle} [{low}..{high}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns stand below each other in a terminal, too; the first column to the left.

    Args:
        head: The columns' names.
        rows: As many cells each as there are columns.
    """
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    ruler = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(row: Sequence[str]) -> str:
        first, *others = zip(row, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"

    return "\n".join(map(line, [cells[0], ruler, *cells[1:]]))


def replaced_between(text: str, mark: str, content: str) -> str:
    """A document with new content between `<!-- MARK -->` and `<!-- end of MARK -->`.

    Raises:
        ValueError: The document has no such place.
    """
    start, end = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->"
    before, found, rest = text.partition(start)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"there is no place between {start.strip()} and {end}")
    return f"{before}{start}{content.rstrip()}\n{end}{after}"
