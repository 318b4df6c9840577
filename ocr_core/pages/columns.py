"""Lines in reading order, from where they stand alone: for an engine that knows no columns.

Prose fills its column: where a blank gutter parts lines that fill what is on their side of it, one side is read before
the other. A form or a receipt has a gutter too, but short entries beside it; it is read row by row.

Invariant: pure; lines are about level.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median

from ocr_core.engine import FoundLine

Box = tuple[int, int, int, int]

_FEWEST_ROWS = 4
_GUTTER_HEIGHTS = 0.8
_FILLED = 0.6
_SAME_ROW = 0.5


def box_of(line: FoundLine) -> Box:
    """The upright box around a line's words."""
    lefts, tops, rights, bottoms = zip(*(word.box for word in line.words), strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def in_columns(lines: Iterable[FoundLine]) -> tuple[FoundLine, ...]:
    """Lines column by column, each from top to bottom; each column is a block."""
    blocks = _parted([(box_of(line), line) for line in lines])
    return tuple(
        replace(line, block=number)
        for number, block in enumerate(blocks)
        for line in in_rows(line for _, line in block)
    )


def in_rows(lines: Iterable[FoundLine]) -> list[FoundLine]:
    """Lines row by row, each row from left to right."""
    rows: list[list[tuple[Box, FoundLine]]] = []
    for box, line in sorted(((box_of(line), line) for line in lines), key=lambda one: one[0][1] + one[0][3]):
        if rows and _stand_level(rows[-1][-1][0], box):
            rows[-1].append((box, line))
        else:
            rows.append([(box, line)])
    return [line for row in rows for _, line in sorted(row, key=lambda one: one[0][0])]


_Placed = Sequence[tuple[Box, FoundLine]]


def _parted(lines: _Placed) -> list[_Placed]:
    """Blocks in reading order: what is above columns, the columns, what is below them."""
    if len(lines) < 2 * _FEWEST_ROWS:
        return [lines] if lines else []
    for above, beside, below in _bands(lines):
        gutter = _gutter(beside)
        if gutter is not None:
            left = [one for one in beside if one[0][2] <= gutter]
            right = [one for one in beside if one[0][0] >= gutter]
            return [*_parted(above), *_parted(left), *_parted(right), *_parted(below)]
    return [lines]


def _bands(lines: _Placed) -> Iterable[tuple[_Placed, _Placed, _Placed]]:
    """The lines whole, then without those that reach across the middle of the text, above and below the others."""
    yield [], lines, []
    left, right = min(box[0] for box, _ in lines), max(box[2] for box, _ in lines)
    middle = (left + right) / 2
    across = sorted(box[1] for box, _ in lines if box[0] < middle < box[2])
    edges = [float("-inf"), *across, float("inf")]
    bands = sorted(
        ((sum(low < box[1] < high for box, _ in lines), low, high) for low, high in pairwise(edges)),
        reverse=True,
    )
    _, low, high = bands[0]
    yield (
        [one for one in lines if one[0][1] <= low],
        [one for one in lines if low < one[0][1] < high],
        [one for one in lines if one[0][1] >= high],
    )


def _gutter(lines: _Placed) -> float | None:
    """The middle of the widest blank column with prose on both sides; None where there is none."""
    if len(lines) < 2 * _FEWEST_ROWS:
        return None
    height = median(box[3] - box[1] for box, _ in lines)
    best: tuple[float, float] | None = None
    reached = float("-inf")
    for box, _ in sorted(lines, key=lambda one: one[0][0]):
        width = box[0] - reached
        if reached > float("-inf") and width >= _GUTTER_HEIGHTS * height and (best is None or width > best[0]):
            place = (box[0] + reached) / 2
            if _is_prose([b for b, _ in lines if b[2] <= place]) and _is_prose([b for b, _ in lines if b[0] >= place]):
                best = (width, place)
        reached = max(reached, box[2])
    return best[1] if best is not None else None


def _is_prose(boxes: Sequence[Box]) -> bool:
    """Whether lines fill the column that they stand in."""
    if len(boxes) < _FEWEST_ROWS:
        return False
    width = max(box[2] for box in boxes) - min(box[0] for box in boxes)
    return median(box[2] - box[0] for box in boxes) >= _FILLED * width


def _stand_level(one: Box, other: Box) -> bool:
    common = min(one[3], other[3]) - max(one[1], other[1])
    return common > _SAME_ROW * min(one[3] - one[1], other[3] - other[1])
