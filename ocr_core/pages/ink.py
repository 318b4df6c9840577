"""Words, put where their ink is: as wide as the type, apart where there is white between them.

An LSTM says which letters there are better than where they end: now and then a box cuts off the last letter of a word,
starts inside the one before, is as tall as the row, or holds two words whose space was not seen. The white between
words is there to see, so the words of a line are parted at its gaps, and each is then as tall as its own ink.

A word of type is a little wider than its ink: a letter has white on both sides, a single stroke more of it, and a mark
such as a dash hangs above the line it belongs to. Boxes have that white too, as those do that a drawing library tells.

Invariants:

* Boxes move by little: an edge that would have to move by more than about a letter stays where it was.
* A line is looked at along its own direction, whichever that is, and so are its boxes.
* Letters are neither added nor taken away: at most "aman" becomes "a man", and a bar before "saw" a capital I.
* What cannot be made out (no contrast, characters set without gaps) stays as the engine gave it.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from PIL import Image

from ocr_core.engine import FoundLine, FoundWord
from ocr_core.pages import geometry
from ocr_core.pages.cells import cells
from ocr_core.pages.geometry import Affine, Box, Corners
from ocr_core.pages.line_strip import LineStrip, Span

# In heights of a capital, unless told otherwise.
_GAP = 0.12
_MOVES_WITHIN = 1.5
_FAR = 0.25  # what a gap loses for each height that it is away from where the engine sees the words end
_WIDEST_COUNTED = 0.8
_BEARING, _BEARING_OF_STROKE, _STROKE = 0.09, 0.125, 0.3
_SMALL_LETTERS = 0.73
_LEAST_HEIGHT = 3  # pixels
_TALLER = 1.5

_FEWEST_SPACES = 2
_AS_WIDE_AS_SPACES = 0.66
_WIDER_THAN_IN_WORDS = 1.6
_SURE = 0.3

_BAR, _BAR_ON_LINE = "|", "I"
_OFF_LINE = 0.12

_TALL = re.compile(r"[A-Z0-9bdfhklt]|[^\W\d_a-z]")
_HANGS = re.compile(r"[^A-IK-PR-Za-fhik-or-ux-z.:'\"*+=-]")
_SHORT_FIRST = re.compile(r"[aAI][^\W\d_]{2}")  # a word of one letter that the next one was joined to
_SHORT_LAST = re.compile(r"[^\W\d_]*[a-z][aI]\Z")

_Gaps = tuple[Span | None, ...]


@dataclass(frozen=True, slots=True)
class FittedWord:
    """A word and where it is.

    Attributes:
        word: As the engine read it, or a part of it up to a space that the engine did not see.
        corners: In pixels of the raster, clockwise from the text's own top left.
    """

    word: FoundWord
    corners: Corners


def fitted(gray: Image.Image, line: FoundLine, degrees: float) -> tuple[FittedWord, ...]:
    """The words of a line, fitted, in reading order.

    Args:
        gray: The raster that was read, mode "L".
        line: A line found in it.
        degrees: Direction of the line in the raster, clockwise.
    """
    boxes = geometry.levelled_boxes((word.box for word in line.words), degrees)
    upright = Affine.turning(-degrees, of=(0, 0), onto=(0, 0))
    x1, y1, x2, y2 = line.baseline
    base = (upright((x1, y1))[1] + upright((x2, y2))[1]) / 2
    height = _capital_height(line.words, boxes, base)
    strip = LineStrip.of(gray, boxes, degrees, base=base, height=height) if height >= _LEAST_HEIGHT else None
    if strip is None:
        return _placed(line.words, boxes, degrees)
    if any(word.glued for word in line.words):
        return _placed(line.words, _in_cells(strip, line.words, boxes) or boxes, degrees)
    parts = _widened(_Fitting(strip).parts(line.words, boxes), strip.height)
    parts.sort(key=lambda part: part.number)  # stable: the parts of one word stay from left to right
    return _placed([part.word for part in parts], [part.box for part in parts], degrees)


def _placed(words: Sequence[FoundWord], boxes: Sequence[Box], degrees: float) -> tuple[FittedWord, ...]:
    """Words and their boxes in the upright frame, turned back to where they are in the raster."""
    return tuple(map(FittedWord, words, geometry.turned_boxes(boxes, degrees)))


def _in_cells(strip: LineStrip, words: Sequence[FoundWord], boxes: Sequence[Box]) -> list[Box] | None:
    """Ideographs in their cells, as wide as half of the white around them; None where no grid fits."""
    first = strip.outer(min(box[0] for box in boxes) - strip.left, -1)
    last = strip.outer(max(box[2] for box in boxes) - strip.left, 1)
    span = strip.inked(first, last)
    found = None if span is None else cells(strip, words, span)
    if found is None:
        return None
    placed = []
    for (left, right), box in zip(found, boxes, strict=True):
        top, bottom = box[1] - strip.top, box[3] - strip.top
        start, end = strip.inked(left, right) or (left, right)
        first_row, last_row = strip.rows((start, end), top, bottom, hangs=True) or (top, bottom)
        across = (left + start) / 2 + strip.left, (right + end) / 2 + strip.left
        placed.append((across[0], first_row + strip.top, across[1], last_row + strip.top))
    return placed


def _capital_height(words: Sequence[FoundWord], boxes: Sequence[Box], base: float) -> float:
    """How tall the line's capitals are, in pixels, told from its taller words."""
    heights = [(base - top, word.text) for (_, top, _, _), word in zip(boxes, words, strict=True)]
    usual = median(height for height, _ in heights)
    tall = [height for height, text in heights if _TALL.search(text) and height <= _TALLER * usual]
    return median(tall) if tall else usual / _SMALL_LETTERS


@dataclass(frozen=True, slots=True)
class _Part:
    """A word or a part of one.

    Attributes:
        number: Of the word in its line.
        word: The part itself.
        box: Around its ink, in the upright frame.
    """

    number: int
    word: FoundWord
    box: Box


class _Fitting:
    """The words of one line and the strip that shows them."""

    def __init__(self, strip: LineStrip) -> None:
        self._strip = strip
        self._height = strip.height

    def parts(self, words: Sequence[FoundWord], boxes: Sequence[Box]) -> list[_Part]:
        """The words from left to right, each where its ink is."""
        strip = self._strip
        order = sorted(range(len(boxes)), key=lambda number: boxes[number][0] + boxes[number][2])
        engines = [(boxes[number][0] - strip.left, boxes[number][2] - strip.left) for number in order]
        gaps = self._gaps(engines)
        spans = self._spans(engines, gaps)
        apart = self._missed_spaces([words[number] for number in order], spans, gaps)
        found = []
        for number, span, at in zip(order, spans, apart, strict=True):
            top, bottom = boxes[number][1] - strip.top, boxes[number][3] - strip.top
            for word, (left, right) in _cut(words[number], span, at):
                first, last = strip.rows((left, right), top, bottom, hangs=_HANGS.search(word.text) is not None) or (
                    top,
                    bottom,
                )
                if not any(map(str.isalnum, word.text)):
                    last = max(last, strip.base)
                box = left + strip.left, first + strip.top, right + strip.left, last + strip.top
                found.append(_Part(number, word, box))
        return [
            replace(part, word=replace(part.word, text=_BAR_ON_LINE)) if self._is_capital(part, after) else part
            for part, after in zip(found, [*found[1:], None], strict=True)
        ]

    def _is_capital(self, part: _Part, after: _Part | None) -> bool:
        """Whether a bar is a capital I: it stands on the line as capitals do, and a word follows in small letters."""
        _, top, right, bottom = part.box
        base = self._strip.base + self._strip.top
        return (
            part.word.text == _BAR
            and after is not None
            and after.word.text[0].islower()
            and after.box[0] - right < self._height
            and abs(bottom - base) < _OFF_LINE * self._height
            and abs(base - self._height - top) < 2 * _OFF_LINE * self._height
        )

    def _spans(self, engines: Sequence[tuple[float, float]], gaps: _Gaps) -> list[tuple[float, float]]:
        """From where to where each word goes, given the gap after each but the last."""
        spans = []
        for number, (left, right) in enumerate(engines):
            is_first, is_last = number == 0, number == len(engines) - 1
            before, after = None if is_first else gaps[number - 1], None if is_last else gaps[number]
            start = before[1] if before else self._strip.outer(left, -1) if is_first else left
            end = after[0] if after else self._strip.outer(right, 1) if is_last else right
            spans.append(self._strip.inked(start, end) or (left, right))
        return spans

    def _gaps(self, engines: Sequence[tuple[float, float]]) -> _Gaps:
        """The gap after each word but the last; None where there is none to be seen.

        The sum of what the gaps are worth is made as large as it can be: the wider and the nearer, the better.
        """
        blanks = self._strip.gaps(0, len(self._strip.columns), least=max(2, _GAP * self._height))
        ends = [end for _, end in blanks]
        best: list[tuple[float, int, _Gaps]] = [(0.0, -1, ())]  # the worthiest first
        for (left, right), (next_left, next_right) in pairwise(engines):
            low, high = sorted((right, next_left))
            further = [(worth, last, (*chosen, None)) for worth, last, chosen in best]
            reach = _MOVES_WITHIN * self._height
            for start, end in blanks[bisect_right(ends, low - reach) :]:
                if end >= next_right or start > high + reach:
                    break
                if start <= left:
                    continue
                away = max(0.0, low - end, start - high)
                worth = min((end - start) / self._height, _WIDEST_COUNTED) - _FAR * away / self._height
                before = next((way for way in best if way[1] < start), None)
                if worth > 0 and before is not None:
                    further.append((before[0] + worth, end, (*before[2], (start, end))))
            best = _worth_keeping(further)
        return best[0][2]

    def _missed_spaces(
        self, words: Sequence[FoundWord], spans: Sequence[tuple[float, float]], gaps: _Gaps
    ) -> list[tuple[int, Span] | None]:
        """For each word the space that was not seen in it: before which letter, and which columns."""
        usual = [end - start for start, end in filter(None, gaps) if end - start < 2 * self._height]
        nothing: list[tuple[int, Span] | None] = [None] * len(words)
        if len(usual) < _FEWEST_SPACES or not any(map(_may_be_two, words)):
            return nothing
        space = _AS_WIDE_AS_SPACES * median(usual)
        inner = [self._strip.gaps(round(left), round(right), least=1) for left, right in spans]
        widths = (end - start for within in inner for start, end in within if end - start < space)
        least = max(space, _WIDER_THAN_IN_WORDS * max(widths, default=0))
        return [
            self._missed_space(word, span, [gap for gap in within if gap[1] - gap[0] >= least])
            for word, span, within in zip(words, spans, inner, strict=True)
        ]

    def _missed_space(
        self, word: FoundWord, span: tuple[float, float], wide: Sequence[Span]
    ) -> tuple[int, Span] | None:
        """The space that sets a letter at one end of a word apart; one that may stand alone."""
        if len(wide) != 1 or not _may_be_two(word):
            return None
        before, after = self._strip.pieces(round(span[0]), wide[0][0]), self._strip.pieces(wide[0][1], round(span[1]))
        if before == 1 and _SHORT_FIRST.match(word.text):
            return 1, wide[0]
        if after == 1 and _SHORT_LAST.match(word.text):
            return len(word.text) - 1, wide[0]
        return None


def _may_be_two(word: FoundWord) -> bool:
    is_short = _SHORT_FIRST.match(word.text) or _SHORT_LAST.match(word.text)
    return is_short is not None and word.confidence >= _SURE


def _cut(
    word: FoundWord, span: tuple[float, float], at: tuple[int, Span] | None
) -> Iterator[tuple[FoundWord, tuple[float, float]]]:
    if at is None:
        yield word, span
    else:
        letter, (start, end) = at
        yield replace(word, text=word.text[:letter]), (span[0], start)
        yield replace(word, text=word.text[letter:]), (end, span[1])


def _worth_keeping(ways: Sequence[tuple[float, int, _Gaps]]) -> list[tuple[float, int, _Gaps]]:
    """Of the ways to part the words so far those that no other beats, both in worth and in room left."""
    kept: list[tuple[float, int, _Gaps]] = []
    for way in sorted(ways, key=lambda one: (-one[0], one[1])):
        if not kept or way[1] < kept[-1][1]:
            kept.append(way)
    return kept


def _widened(parts: Sequence[_Part], height: float) -> list[_Part]:
    """With the white that type has on both sides, but no more than half of what there is between neighbours."""
    wider = []
    befores = [-math.inf, *(part.box[2] for part in parts)]
    afters = [*(part.box[0] for part in parts[1:]), math.inf]
    for part, before, after in zip(parts, befores, afters, strict=False):
        left, top, right, bottom = part.box
        is_stroke = right - left < _STROKE * height and (part.word.text.isalnum() or part.word.text == _BAR)
        white = (_BEARING_OF_STROKE if is_stroke else _BEARING) * height
        on_left, on_right = (max(0.0, min(white, room / 2)) for room in (left - before, after - right))
        wider.append(replace(part, box=(left - on_left, top, right + on_right, bottom)))
    return wider
