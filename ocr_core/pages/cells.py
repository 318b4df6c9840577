"""Ideographs, put where they stand: each in its cell of an even grid.

An LSTM tells the order of ideographs and hardly where one ends and the next begins. Type that is set in squares has
them at even distances, and white between most of them, so the grid is laid where its lines fall on white.

Invariant: pure; a line whose ink fits no grid is None.
"""

import unicodedata
from collections.abc import Sequence
from itertools import accumulate, pairwise, product

from ocr_core.engine import FoundWord
from ocr_core.pages.line_strip import LineStrip, Span

_PITCHES = tuple(0.92 + 0.02 * step for step in range(14))  # of the ink's width for each cell
_STARTS = tuple(0.06 * step for step in range(6))  # white before the first ideograph, in cells
_SPACES = (0.0, 0.25, 0.5)
_WIDEST_COUNTED = 0.4
_SNAPPED_WITHIN = 0.2
_LEAST_WHITE = 0.5
"""Share of the grid's lines that must fall on white."""

Cell = tuple[float, float]


def cells(strip: LineStrip, words: Sequence[FoundWord], span: Span) -> list[Cell] | None:
    """From which column to which each word's cell goes.

    Args:
        strip: The line.
        words: From left to right; those that are glued follow without a space.
        span: The columns of the line's ink.
    """
    whites = _whites(strip, span[1] + strip.height)
    best: tuple[float, float, list[float]] | None = None
    for space in _SPACES if not all(word.glued for word in words[1:]) else (0.0,):
        edges = _edges(words, space)
        usual = (span[1] - span[0]) / edges[-1][1]
        for factor, start in product(_PITCHES, _STARTS):
            pitch = factor * usual
            first = span[0] - start * pitch
            if first + pitch * edges[-1][1] < span[1] - 0.1 * pitch:
                continue
            lines = [first + pitch * (end + begin) / 2 for (_, end), (begin, _) in pairwise(edges)]
            worth = sum(min(_at(whites, line), _WIDEST_COUNTED * pitch) for line in lines) / pitch
            worth -= 0.1 * abs(factor - 1.0)
            if best is None or worth > best[0]:
                best = worth, pitch, [first, *lines, first + pitch * edges[-1][1]]
    if best is None:
        return None
    _, pitch, lines = best
    inner = lines[1:-1]
    if sum(_at(whites, line) > 0 for line in inner) < _LEAST_WHITE * len(inner):
        return None
    snapped = [lines[0], *(_snapped(strip, line, _SNAPPED_WITHIN * pitch) for line in inner), lines[-1]]
    return list(pairwise(snapped))


def _edges(words: Sequence[FoundWord], space: float) -> list[tuple[float, float]]:
    """Where each word begins and ends, in cells, a space before those that are not glued."""
    widths = [sum(1.0 if unicodedata.east_asian_width(one) in "WF" else 0.5 for one in word.text) for word in words]
    gaps = [0.0, *(0.0 if word.glued else space for word in words[1:])]
    ends = list(accumulate(width + gap for width, gap in zip(widths, gaps, strict=True)))
    return [(end - width, end) for end, width in zip(ends, widths, strict=True)]


def _whites(strip: LineStrip, end: float) -> list[int]:
    """For each column how wide the white is that it is in."""
    widths = [0] * len(strip.columns)
    for left, right in strip.gaps(0, min(len(widths), round(end)), least=1):
        widths[left:right] = [right - left] * (right - left)
    return widths


def _at(whites: Sequence[int], line: float) -> int:
    column = round(line)
    return whites[column] if 0 <= column < len(whites) else 0


def _snapped(strip: LineStrip, line: float, within: float) -> float:
    """The middle of the white nearest to a line of the grid."""
    middles = (
        (left + right) / 2 for left, right in strip.gaps(round(line - within), round(line + within) + 1, least=1)
    )
    return min(middles, key=lambda middle: abs(middle - line), default=line)
