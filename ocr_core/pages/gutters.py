"""Lines that the engine drew across a gutter between two columns, cut there; everything else as it was.

The engine finds columns on its own, but where a column has few lines, or another size of type beside it, it now and
then reads a row of one and a row of the other as one line. The white between them is far wider than a space, and prose
stands on both sides of it, line below line.

Invariants:

* Where no line reaches across a gutter, nothing is changed: the engine's layout is better than ours.
* Forms, tables and receipts have wide white too, with few words beside it; they stay rows.
* Pure; lines are about level and read from left to right.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from ocr_core.engine import FoundLine, FoundWord
from ocr_core.pages.columns import in_columns
from ocr_core.reading_order import reads_right_to_left

_WIDE_HEIGHTS = 1.3
_WORDS_OF_PROSE = 3.0
_LEVEL_WITHIN = 0.05


@dataclass(frozen=True, slots=True)
class Piece:
    """A line, or what of it stands on one side of a gutter.

    Attributes:
        line: The piece.
        number: Of the line that it comes from.
    """

    line: FoundLine
    number: int


def parted(lines: Sequence[FoundLine]) -> tuple[Piece, ...]:
    """Lines in reading order, those across a gutter cut.

    Args:
        lines: In the engine's reading order.
    """
    as_given = tuple(Piece(line, number) for number, line in enumerate(lines))
    if not all(map(_is_level, lines)) or reads_right_to_left(word.text for line in lines for word in line.words):
        return as_given
    cut = [Piece(part, number) for number, line in enumerate(lines) for part in _parts(line)]
    if len(cut) == len(lines):
        return as_given
    from_line = {piece.line.words[0]: piece.number for piece in cut}
    laid_out = [Piece(line, from_line[line.words[0]]) for line in in_columns(piece.line for piece in cut)]
    blocks = defaultdict(set)
    for piece in laid_out:
        blocks[piece.number].add(piece.line.block)
    across = {block for of_line in blocks.values() if len(of_line) > 1 for block in of_line}
    if not across or any(not _is_prose(piece.line for piece in laid_out if piece.line.block == one) for one in across):
        return as_given
    return tuple(_joined(laid_out))


def _is_level(line: FoundLine) -> bool:
    x1, y1, x2, y2 = line.baseline
    return x2 >= x1 and abs(y2 - y1) <= _LEVEL_WITHIN * max(1.0, x2 - x1)


def _parts(line: FoundLine) -> Iterator[FoundLine]:
    """What stands between wide white."""
    height = median(word.box[3] - word.box[1] for word in line.words)
    begin = 0
    for number, (word, after) in enumerate(pairwise(line.words), start=1):
        if after.box[0] - word.box[2] >= _WIDE_HEIGHTS * height:
            yield _part(line, line.words[begin:number])
            begin = number
    yield _part(line, line.words[begin:])


def _part(line: FoundLine, words: tuple[FoundWord, ...]) -> FoundLine:
    if words == line.words:
        return line
    x1, y1, x2, y2 = line.baseline
    slope = (y2 - y1) / (x2 - x1) if x2 > x1 else 0.0
    left, right = min(word.box[0] for word in words), max(word.box[2] for word in words)
    return replace(line, words=words, baseline=(left, y1 + slope * (left - x1), right, y1 + slope * (right - x1)))


def _is_prose(lines: Iterable[FoundLine]) -> bool:
    counts = [len(line.words) for line in lines]
    return sum(counts) >= _WORDS_OF_PROSE * len(counts)


def _joined(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Pieces of one line that came to stand in one block are one line again."""
    pending: Piece | None = None
    for piece in pieces:
        if pending is None:
            pending = piece
        elif (piece.number, piece.line.block) == (pending.number, pending.line.block):
            words = (*pending.line.words, *piece.line.words)
            baseline = (*pending.line.baseline[:2], *piece.line.baseline[2:])
            pending = replace(pending, line=replace(pending.line, words=words, baseline=baseline))
        else:
            yield pending
            pending = piece
    if pending is not None:
        yield pending
