"""A line of text cut out of a raster, levelled, in black and white: where there is ink, and where there are gaps.

Invariants:

* A strip shows the line as if it stood level, whichever direction it has in the raster.
* A ruling line that crosses the whole strip from top to bottom is no ink.
* Pure: pixels in, numbers out; there is no strip where there is no contrast.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import cast

from PIL import Image

from ocr_core.pages.geometry import Affine, Box

Span = tuple[int, int]

# In heights of a capital.
_ABOVE, _BELOW = 1.7, 0.75
_BESIDE = 1.2
_THINNEST = 0.05
_OUTER_REACH, _OUTER_GAP = 0.8, 0.25
_BODY_ABOVE = 0.9
_ACCENT, _DESCENDER = 0.12, 0.4
_DOT = 0.35
_ROOM = 0.2

_LEAST_CONTRAST = 40
_INK_SHARE = 0.58  # between ink and paper
_RULE = 0.93
_RUNS = re.compile(rb"\x01+")


@dataclass(frozen=True, slots=True)
class LineStrip:
    """A line in black and white, levelled: 255 is ink.

    Attributes:
        pixels: The line, and something of what is around it.
        left: Where it begins in the upright frame, that is, in the raster turned back around its origin.
        top: Likewise.
        base: Row of the line's baseline in it.
        height: Height of a capital, pixels.
        columns: For each column 1 where there is ink between the top of the capitals and the baseline, else 0.
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
    ) -> "LineStrip | None":
        """The strip around some boxes.

        Args:
            gray: The raster, mode "L".
            boxes: In the upright frame, at least one.
            degrees: Direction of the line in the raster, clockwise.
            base: Where the baseline is in the upright frame.
            height: Height of a capital, pixels.

        Returns:
            None where the raster is flat, or where the line is beyond its edges.
        """
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
        # One side after the other: over an area as large as a headline's, the library divides too coarsely.
        mean = strip.reduce((strip.width, 1)).reduce((1, strip.height)).tobytes()[0]
        black = strip.point(_black_and_white(low, high, dark_on_light=2 * mean > low + high))
        band = black.crop((0, max(0, row - math.ceil(height)), black.width, min(black.height, row + 1)))
        columns = _profile(band, (1, band.height), least=max(0.9, _THINNEST * height))
        rules = _profile(black, (1, black.height), least=_RULE * black.height)
        return cls(black, left, top, row, height, _without(columns, rules) if b"\1" in rules else columns)

    def gaps(self, start: int, end: int, *, least: float) -> list[Span]:
        """The columns without ink between two columns, where they are at least so wide."""
        blanks = _blanks(max(1, math.ceil(least)))
        return [found.span() for found in blanks.finditer(self.columns, max(0, start), max(0, end))]

    def pieces(self, start: int, end: int) -> int:
        """How many pieces of ink there are side by side."""
        return sum(1 for _ in _RUNS.finditer(self.columns, max(0, start), max(0, end)))

    def inked(self, start: float, end: float) -> Span | None:
        """A span without the blank columns at its ends; None where it is all blank."""
        first, last = max(0, round(start)), min(len(self.columns), round(end))
        part = self.columns[first:last]
        if b"\1" not in part:
            return None
        return first + part.index(1), first + part.rindex(1) + 1

    def outer(self, edge: float, step: int) -> float:
        """An end of the line, moved outwards where it cuts off letters.

        Args:
            edge: The column where the line was thought to end.
            step: -1 for its left end, 1 for its right.
        """
        here = min(len(self.columns) - 1, max(0, math.floor(edge) if step > 0 else math.ceil(edge) - 1))
        reach = math.ceil(_OUTER_REACH * self.height)
        beyond = self.columns[here : here + reach + 1] if step > 0 else self.columns[max(0, here - reach) : here + 1]
        if step < 0:
            beyond = beyond[::-1]
        blank = re.search(rb"\0{%d}" % max(2, round(_OUTER_GAP * self.height)), beyond)
        if blank is None or not blank.start():
            return edge
        return here + step * blank.start() + (step < 0)

    def rows(self, span: tuple[float, float], top: float, bottom: float, *, hangs: bool) -> Span | None:
        """From which row to which the ink of a word goes.

        Args:
            span: The columns of the word.
            top: Where the engine saw it begin.
            bottom: Where the engine saw it end.
            hangs: Whether the word has letters that go below the line; else what is down there is an underline.

        Returns:
            None where it cannot be told.
        """
        left, right = round(span[0]), round(span[1])
        if right <= left:
            return None
        low, high = round(self.base - (1 + _ROOM) * self.height), round(self.base + (_DESCENDER + _ROOM) * self.height)
        ink = self.pixels.crop((left, low, right, high)).getbbox() if low > 0 and high < self.pixels.height else None
        if ink is not None and ink[1] and ink[3] < high - low and (hangs or low + ink[3] <= self.base + 1):
            return low + ink[1], low + ink[3]
        part = self.pixels.crop((left, 0, right, self.pixels.height))
        runs = [found.span() for found in _RUNS.finditer(_profile(part, (part.width, 1), least=0.9))]
        capitals = self.base - self.height
        own = [run for run in runs if run[0] <= self.base and run[1] > self.base - _BODY_ABOVE * self.height]
        if not own:
            return None
        first, last = own[0][0], own[-1][1]
        # Ink of the rows above and below that touches this word's is cut off where the engine saw the word end.
        if first < capitals - _ACCENT * self.height:
            first = max(first, math.floor(min(top, capitals)) - 1)
        if last > self.base + _DESCENDER * self.height:
            last = min(last, max(math.ceil(self.base + _DESCENDER * self.height), round(bottom)))
        reach = _DOT * self.height
        dots = [run for run in runs if run[0] > 0 and run[1] <= first <= run[1] + reach]
        if dots and dots[-1][0] >= min(top, capitals) - reach:
            first = dots[-1][0]
        return first, last


def _profile(part: Image.Image, across: tuple[int, int], *, least: float) -> bytes:
    """For each block of so many columns and rows 1 where at least so many of its pixels are ink, else 0."""
    return part.reduce(across).tobytes().translate(_from(min(255, math.ceil(255 * least / (across[0] * across[1])))))


def _without(columns: bytes, rules: bytes) -> bytes:
    """The columns that are no part of a ruling line."""
    return bytes(ink & ~rule & 1 for ink, rule in zip(columns, rules, strict=True))


@cache
def _blanks(least: int) -> re.Pattern[bytes]:
    return re.compile(rb"\0{%d,}" % least)


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
