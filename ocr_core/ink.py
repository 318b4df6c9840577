"""Word boxes, put where the ink is, and as wide as the type.

An LSTM says which letters there are better than where they end: now and then a box cuts off the last letter of a word,
starts inside the one before, or is as tall as the row. The white between words is there to see, so the words of a line
are parted at its gaps, and each is then as tall as its own ink.

A word of type is a little wider than its ink: a letter has white on both sides, and a mark such as a dash hangs above
the line it belongs to. Boxes have that white too, as those do that a typesetter or a drawing library would tell.

Invariants:

* Boxes move by little: an edge that would have to move by more than about a letter stays where it was.
* The line is looked at along its own direction, whichever that is, and so are its boxes.
* What cannot be made out (no contrast, characters set without gaps) leaves the boxes as the engine gave them.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from statistics import median
from typing import cast

from PIL import Image

from ocr_core import geometry
from ocr_core.engine import FoundLine
from ocr_core.geometry import Affine, Box, Corners

# In heights of a capital, unless told otherwise.
_ABOVE, _BELOW = 1.7, 0.75
_BESIDE = 1.2
_GAP = 0.12
_MOVES_WITHIN = 1.5
_FAR = 0.25  # what a gap loses for each height that it is away from where the engine sees the words end
_WIDEST_COUNTED = 0.8
_OUTER_REACH, _OUTER_GAP = 0.8, 0.25
_BEARING = 0.09
_MARK_ABOVE = 0.35
_THINNEST = 0.05
_SMALL_LETTERS = 0.73  # height of a small letter

_LEAST_CONTRAST = 40
_INK_SHARE = 0.58  # between ink and paper
_RULE = 0.93
_TALLER = 1.5
_LEAST_HEIGHT = 3
_BLANKS = re.compile(rb"\0+")
_RUNS = re.compile(rb"\x01+")
_TALL = re.compile(r"[A-Z0-9bdfhklt]|[^\W\d_a-z]")


def fitted(gray: Image.Image, line: FoundLine, degrees: float) -> tuple[Corners, ...]:
    """The rectangles of a line's words, fitted, in the order of the words.

    Args:
        gray: The raster that was read, mode "L".
        line: A line found in it.
        degrees: Direction of the line in the raster, clockwise.
    """
    corners = tuple(geometry.turned_box(word.box, degrees) for word in line.words)
    if any(word.glued for word in line.words):
        return corners
    upright = Affine.turning(-degrees, of=(0, 0), onto=(0, 0))
    boxes = [geometry.bounds(map(upright, four)) for four in corners]
    x1, y1, x2, y2 = line.baseline
    base = (upright((x1, y1))[1] + upright((x2, y2))[1]) / 2
    height = _capital_height(line, boxes, base)
    strip = _Strip.of(gray, boxes, degrees, base=base, height=height) if height >= _LEAST_HEIGHT else None
    if strip is None:
        return corners
    order = sorted(range(len(boxes)), key=lambda number: boxes[number][0] + boxes[number][2])
    found = strip.fitted([boxes[number] for number in order], [line.words[number].text for number in order])
    back = Affine.turning(degrees, of=(0, 0), onto=(0, 0))
    placed = dict(zip(order, found, strict=True))
    return tuple(_turned(placed[number], back) for number in range(len(boxes)))


def _turned(box: Box, back: Affine) -> Corners:
    left, top, right, bottom = box
    return back((left, top)), back((right, top)), back((right, bottom)), back((left, bottom))


def _capital_height(line: FoundLine, boxes: Sequence[Box], base: float) -> float:
    """How tall the line's capitals are, in pixels, told from its taller words."""
    heights = [(base - top, word.text) for (_, top, _, _), word in zip(boxes, line.words, strict=True)]
    usual = median(height for height, _ in heights)
    tall = [height for height, text in heights if _TALL.search(text) and height <= _TALLER * usual]
    if tall:
        return median(tall)
    return usual / _SMALL_LETTERS


@dataclass(frozen=True, slots=True)
class _Strip:
    """A line in black and white, levelled: 255 is ink.

    Attributes:
        pixels: The line, and something of what is around it.
        left: Where it begins in the upright frame.
        top: Likewise.
        base: Row of the line's baseline in it.
        height: Height of a capital.
        columns: For each column whether there is ink in it, from the top of the capitals to the baseline.
    """

    pixels: Image.Image
    left: int
    top: int
    base: int
    height: float
    columns: bytes

    @classmethod
    def of(
        cls, gray: Image.Image, boxes: Sequence[Box], degrees: float, *, base: float, height: float
    ) -> "_Strip|None":
        """The strip around some boxes of the upright frame; None where it is flat."""
        left = math.floor(min(box[0] for box in boxes) - _BESIDE * height)
        right = math.ceil(max(box[2] for box in boxes) + _BESIDE * height)
        top, bottom = math.floor(base - _ABOVE * height), math.ceil(base + _BELOW * height)
        if abs(math.radians(degrees)) * (right - left) < 1:
            left, right = max(0, left), min(gray.width, right)
            top, bottom = max(0, top), min(gray.height, bottom)
            if right <= left or bottom <= top:
                return None
            strip = gray.crop((left, top, right, bottom))
        else:
            turn = Affine.turning(degrees, of=(0, 0), onto=(0, 0))
            x, y = turn((left, top))
            matrix = (turn.a, turn.b, x, turn.d, turn.e, y)
            strip = gray.transform((right - left, bottom - top), Image.Transform.AFFINE, matrix, fillcolor=255)
        low, high = cast("tuple[int, int]", strip.getextrema())
        row = round(base) - top
        if high - low < _LEAST_CONTRAST or not 0 < row <= strip.height:
            return None
        mean = strip.resize((1, 1), Image.Resampling.BOX).tobytes()[0]
        black = strip.point(_black_and_white(low, high, dark_on_light=2 * mean > low + high))
        band = black.crop((0, max(0, row - math.ceil(height)), black.width, min(black.height, row + 1)))
        columns = _profile(band, (band.width, 1), least=max(0.9, _THINNEST * height))
        rules = _profile(black, (black.width, 1), least=_RULE * black.height)
        return cls(black, left, top, row, height, _without(columns, rules) if b"\1" in rules else columns)

    def fitted(self, boxes: Sequence[Box], texts: Sequence[str]) -> list[Box]:
        """Boxes of the upright frame, from left to right, where their ink is."""
        spans = self._spans([(left - self.left, right - self.left) for left, _, right, _ in boxes])
        found = []
        for (left, right), box, text in zip(spans, boxes, texts, strict=True):
            rows = self._rows(left, right, box[1] - self.top, box[3] - self.top)
            top, bottom = rows or (box[1] - self.top, box[3] - self.top)
            if not any(map(str.isalnum, text)):
                bottom = max(bottom, self.base)
            found.append((left, top, right, bottom))
        return [
            (left + self.left, top + self.top, right + self.left, bottom + self.top)
            for left, top, right, bottom in self._widened(found)
        ]

    # ---- across

    def _spans(self, engines: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        """From where to where each word goes."""
        gaps = self._gaps(engines)
        spans = []
        for number, (left, right) in enumerate(engines):
            before, after = gaps[number], gaps[number + 1]
            start = self._outer(left, -1) if before is None else before[1]
            end = self._outer(right, 1) if after is None else after[0]
            if number and before is None:
                start = left
            if number < len(engines) - 1 and after is None:
                end = right
            spans.append(self._inked(start, end) or (left, right))
        return spans

    def _gaps(self, engines: Sequence[tuple[float, float]]) -> list[tuple[int, int] | None]:
        """The gap before each word and after the last; None where there is none to be seen, and at both ends.

        The sum of what the gaps are worth is made as large as it can be: the wider and the nearer, the better.
        """
        blanks = [found.span() for found in _BLANKS.finditer(self.columns)]
        blanks = [gap for gap in blanks if gap[1] - gap[0] >= max(2, _GAP * self.height)]
        best: list[tuple[float, int, tuple[tuple[int, int] | None, ...]]] = [(0.0, -1, ())]
        for (left, right), (next_left, next_right) in pairwise(engines):
            low, high = sorted((right, next_left))
            extended = [(worth, last, (*chosen, None)) for worth, last, chosen in best]
            for start, end in blanks:
                away = max(0.0, low - end, start - high)
                if away > _MOVES_WITHIN * self.height or end <= left or start >= next_right:
                    continue
                worth = min((end - start) / self.height, _WIDEST_COUNTED) - _FAR * away / self.height
                before = [one for one in best if one[1] < start]
                if worth > 0 and before:
                    so_far = max(before, key=lambda one: one[0])
                    extended.append((so_far[0] + worth, end, (*so_far[2], (start, end))))
            best = _worth_keeping(extended)
        return [None, *max(best, key=lambda one: one[0])[2], None]

    def _outer(self, edge: float, step: int) -> float:
        """An end of the line, moved outwards where it cuts off letters."""
        here = min(len(self.columns) - 1, max(0, math.floor(edge) if step > 0 else math.ceil(edge) - 1))
        reach = math.ceil(_OUTER_REACH * self.height)
        beyond = self.columns[here : here + reach + 1] if step > 0 else self.columns[max(0, here - reach) : here + 1]
        if step < 0:
            beyond = beyond[::-1]
        blank = re.search(rb"\0{%d}" % max(2, round(_OUTER_GAP * self.height)), beyond)
        if blank is None or not blank.start():
            return edge
        return here + step * blank.start() + (step < 0)

    def _inked(self, start: float, end: float) -> tuple[int, int] | None:
        """A span without the blank columns at its ends."""
        first, last = max(0, round(start)), min(len(self.columns), round(end))
        part = self.columns[first:last]
        if b"\1" not in part:
            return None
        return first + part.index(1), first + part.rindex(1) + 1

    # ---- down

    def _rows(self, left: float, right: float, top: float, bottom: float) -> tuple[int, int] | None:
        """From which row to which a word goes; None where it cannot be told."""
        part = self.pixels.crop((round(left), 0, round(right), self.pixels.height))
        if not part.width:
            return None
        profile = _profile(part, (1, part.height), least=0.9)
        runs = [found.span() for found in _RUNS.finditer(profile)]
        body = self.base - self.height, self.base + 1
        own = [run for run in runs if run[0] < body[1] and run[1] > body[0] + 0.1 * self.height]
        if not own:
            return None
        first, last = own[0][0], own[-1][1]
        # Ink of the rows above and below that touches this word's is cut off where the engine saw the word end.
        first = max(first, min(round(top), round(body[0])) - 1) if first < body[0] - 0.12 * self.height else first
        if last > self.base + 0.45 * self.height:
            last = min(last, max(self.base + math.ceil(0.4 * self.height), min(round(bottom), last)))
        dots = [run for run in runs if run[1] <= first and run[0] > 0 and first - run[1] <= _MARK_ABOVE * self.height]
        if dots and dots[-1][0] >= min(round(top), body[0]) - _MARK_ABOVE * self.height:
            first = dots[-1][0]
        return first, last

    def _widened(self, boxes: Sequence[Box]) -> list[Box]:
        """Boxes with the white that a letter has on both sides, but no more than half of what there is."""
        lefts = [-math.inf, *(box[2] for box in boxes)]
        rights = [*(box[0] for box in boxes[1:]), math.inf]
        white = _BEARING * self.height
        return [
            (
                left - max(0.0, min(white, (left - before) / 2)),
                top,
                right + max(0.0, min(white, (after - right) / 2)),
                bottom,
            )
            for (left, top, right, bottom), before, after in zip(boxes, lefts, rights, strict=False)
        ]


_Chosen = tuple[float, int, tuple[tuple[int, int] | None, ...]]


def _worth_keeping(ways: Sequence[_Chosen]) -> list[_Chosen]:
    """Of the ways to part the words so far those that no other beats, both in worth and in room left."""
    kept: list[_Chosen] = []
    for way in sorted(ways, key=lambda one: (-one[0], one[1])):
        if all(way[1] < other[1] for other in kept):
            kept.append(way)
    return kept


def _profile(part: Image.Image, size: tuple[int, int], *, least: float) -> bytes:
    """Along one side, 1 where at least so many pixels across are ink, else 0."""
    across = part.width * part.height // (size[0] * size[1])
    return part.resize(size, Image.Resampling.BOX).tobytes().translate(_from(min(255, math.ceil(255 * least / across))))


def _without(columns: bytes, rules: bytes) -> bytes:
    """The columns that are no part of a ruling line."""
    return bytes(ink & ~rule & 1 for ink, rule in zip(columns, rules, strict=True))


@cache
def _from(least: int) -> bytes:
    return bytes(value >= least for value in range(256))


@cache
def _black_and_white(low: int, high: int, *, dark_on_light: bool) -> list[int]:
    if dark_on_light:
        middle = low + _INK_SHARE * (high - low)
        return [255 if value <= middle else 0 for value in range(256)]
    middle = high - _INK_SHARE * (high - low)
    return [255 if value >= middle else 0 for value in range(256)]
