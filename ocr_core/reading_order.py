"""In which order lines are told.

* natural: the engine's own order, which goes down one column before it starts the next.
* basic: from top to bottom, and where lines stand side by side, whatever column they are in, from left to right; from
  right to left where most letters of the page are of a script that is written so.

Invariant: pure; "top" is where the text's own top is, so a page that lies on its side is told as if it stood.
"""

import math
import re
from collections.abc import Iterable
from typing import Literal

from ocr_core.page_text import Line

ReadingOrder = Literal["basic", "natural"]


_RIGHT_TO_LEFT = re.compile(r"[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]")
_LETTER = re.compile(r"[^\W\d_]")


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
    """Rows of lines whose middles stand level, each row in the direction of the script."""
    placed = sorted(((*_extent(line, angle), number) for number, line in enumerate(lines)), key=lambda item: item[1])
    rows: list[list[tuple[float, float, float, int]]] = []
    for item in placed:
        _, middle, height, _ = item
        if rows and any(abs(middle - other) < min(height, tall) / 2 for _, other, tall, _ in rows[-1]):
            rows[-1].append(item)
        else:
            rows.append([item])
    backwards = reads_right_to_left(line.text for line in lines)
    return tuple(lines[number] for row in rows for _, _, _, number in sorted(row, reverse=backwards))


def _extent(line: Line, angle: float) -> tuple[float, float, float]:
    """Left edge, middle and height in the frame of the text."""
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x1, y1, x2, y2, x3, y3, x4, y4 = line.polygon
    corners = ((x1, y1), (x2, y2), (x3, y3), (x4, y4))
    across = [cosine * x + sine * y for x, y in corners]
    down = [cosine * y - sine * x for x, y in corners]
    return min(across), (min(down) + max(down)) / 2, max(down) - min(down)
