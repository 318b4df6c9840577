"""In which order lines are told.

* natural: the engine's own order, which goes down one column before it starts the next.
* basic: from top to bottom, and where lines stand side by side, whatever column they are in, from left to right; from
  right to left where most letters of the page are of a script that is written so.

Invariant: pure; "top" is where the text's own top is, so a page that lies on its side is told as if it stood.
"""

import math
import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from ocr_core.page_text import Line

ReadingOrder = Literal["basic", "natural"]


_RIGHT_TO_LEFT = re.compile(r"[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]")
_LETTER = re.compile(r"[^\W\d_]")
_BESIDE = 0.5  # the most that two lines of a row share of the shorter one's width


def reads_right_to_left(texts: Iterable[str]) -> bool:
    """Whether most letters are Arabic, Hebrew or of their kin."""
    text = "".join(texts)
    return 2 * len(_RIGHT_TO_LEFT.findall(text)) > len(_LETTER.findall(text))


def ordered(lines: tuple[Line, ...], order: ReadingOrder, *, angle: float) -> tuple[Line, ...]:
    """Lines in the order that was asked for.

    Args:
        lines: In the engine's order.
        order: "basic" or "natural".
        angle: Direction of the text on the page, degrees clockwise.
    """
    return lines if order == "natural" else _from_top_to_bottom(lines, angle)


def _from_top_to_bottom(lines: tuple[Line, ...], angle: float) -> tuple[Line, ...]:
    """Rows of lines that stand beside each other, their middles level, each row in the direction of the script.

    Columns of which each is a little lower than the last are level from line to line all down the page: a line that
    stands below one of a row begins the next.
    """
    placed = sorted((_extent(line, angle, number) for number, line in enumerate(lines)), key=lambda one: one.middle)
    rows: list[list[_Extent]] = []
    for one in placed:
        if rows and any(map(one.is_level_with, rows[-1])) and all(map(one.is_beside, rows[-1])):
            rows[-1].append(one)
        else:
            rows.append([one])
    backwards = reads_right_to_left(line.text for line in lines)
    return tuple(lines[one.number] for row in rows for one in sorted(row, reverse=backwards))


class _Extent(NamedTuple):
    """Where a line is in the frame of the text."""

    left: float
    middle: float
    right: float
    height: float
    number: int

    def is_level_with(self, other: "_Extent") -> bool:
        return abs(self.middle - other.middle) < min(self.height, other.height) / 2

    def is_beside(self, other: "_Extent") -> bool:
        shared = min(self.right, other.right) - max(self.left, other.left)
        return shared <= _BESIDE * min(self.right - self.left, other.right - other.left)


def _extent(line: Line, angle: float, number: int) -> _Extent:
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x1, y1, x2, y2, x3, y3, x4, y4 = line.polygon
    corners = ((x1, y1), (x2, y2), (x3, y3), (x4, y4))
    across = [cosine * x + sine * y for x, y in corners]
    down = [cosine * y - sine * x for x, y in corners]
    middle, height = (min(down) + max(down)) / 2, max(down) - min(down)
    return _Extent(min(across), middle, max(across), height, number)
