"""Word boxes, put where the ink is.

An LSTM says which letters there are better than where they end: now and then a box cuts off the last letter of a word,
starts inside the one before, or is as tall as the row. The white between two words is there to see, so the boundary
goes to the middle of the search and then to the widest gap in it.

Invariants:

* Boxes move by little: an edge that would have to move by more than about a letter stays where it was.
* Only lines that are about level are fitted; whoever straightens a page has levelled them.
"""

import math
import re
from collections.abc import Sequence
from functools import cache
from statistics import median
from typing import cast

from PIL import Image

from ocr_core.engine import FoundLine

Box = tuple[int, int, int, int]

_LEVEL_WITHIN = 0.15
_MOVES_WITHIN_HEIGHTS = 1.5
_GAP_HEIGHTS = 0.12
_TALL = 1.15
_NEVER_BELOW = 0.3
_LEAST_CONTRAST = 40
_BLANKS = re.compile(rb"\0+")


def fitted(gray: Image.Image, line: FoundLine) -> tuple[Box, ...]:
    """The boxes of a line's words, fitted.

    Args:
        gray: The raster that was read, mode "L".
        line: A line found in it.
    """
    boxes = tuple(word.box for word in line.words)
    x1, y1, x2, y2 = line.baseline
    if x2 <= x1 or abs(y2 - y1) > _LEVEL_WITHIN * (x2 - x1) or any(word.glued for word in line.words):
        return boxes
    ink = _Ink.of(gray, boxes, slope=(y2 - y1) / (x2 - x1))
    return boxes if ink is None else ink.fitted(boxes)


class _Ink:
    """The strip of a line in black and white, levelled by shearing it upright: 255 is ink.

    Args:
        strip: The pixels.
        left: Where the strip begins in the raster.
        top: Likewise, at its left edge.
        slope: How much further down the line is for each pixel to the right.
    """

    def __init__(self, strip: Image.Image, left: int, top: int, slope: float) -> None:
        self._strip = strip
        self._left = left
        self._top = top
        self._slope = slope

    @classmethod
    def of(cls, gray: Image.Image, boxes: Sequence[Box], *, slope: float) -> "_Ink | None":
        """The strip around some boxes; None where it is flat."""
        left, right = max(0, min(box[0] for box in boxes)), min(gray.width, max(box[2] for box in boxes))
        drops = [round(slope * ((box[0] + box[2]) / 2 - left)) for box in boxes]
        top = max(0, min(box[1] - drop for box, drop in zip(boxes, drops, strict=True)))
        bottom = min(gray.height, max(box[3] - drop for box, drop in zip(boxes, drops, strict=True)))
        if right <= left or bottom <= top:
            return None
        size = (right - left, bottom - top)
        if abs(slope) * size[0] < 1:
            strip = gray.crop((left, top, right, bottom))
        else:
            strip = gray.transform(size, Image.Transform.AFFINE, (1, 0, left, slope, 1, top), fillcolor=255)
        low, high = cast("tuple[int, int]", strip.getextrema())
        if high - low < _LEAST_CONTRAST:
            return None
        middle = (low + high) // 2
        mean = strip.resize((1, 1), Image.Resampling.BOX).tobytes()[0]
        return cls(strip.point(_black_and_white(middle, dark_on_light=mean > middle)), left, top, slope)

    def fitted(self, boxes: Sequence[Box]) -> tuple[Box, ...]:
        """Neighbours parted where the white is, and tall boxes trimmed."""
        level = [self._levelled(box) for box in boxes]
        height = median(bottom - top for _, top, _, bottom in level)
        profile = self._columns(
            round(median(top for _, top, _, _ in level)), round(median(bottom for _, _, _, bottom in level))
        )
        for number in range(len(level) - 1):
            level[number], level[number + 1] = _parted(level[number], level[number + 1], profile, height)
        return tuple(
            self._back(self._trimmed(box) if box[3] - box[1] > _TALL * height else box, like=old)
            for box, old in zip(level, boxes, strict=True)
        )

    def _drop(self, box: Box) -> int:
        return round(self._slope * ((box[0] + box[2]) / 2 - self._left))

    def _levelled(self, box: Box) -> Box:
        """A box of the raster in the strip."""
        down = self._top + self._drop(box)
        return box[0] - self._left, box[1] - down, box[2] - self._left, box[3] - down

    def _back(self, box: Box, *, like: Box) -> Box:
        """A box of the strip in the raster, lowered as the one that it came from."""
        down = self._top + self._drop(like)
        return box[0] + self._left, box[1] + down, box[2] + self._left, box[3] + down

    def _columns(self, top: int, bottom: int) -> bytes:
        """For each column, whether there is ink between two rows."""
        band = self._strip.crop((0, max(0, top), self._strip.width, max(1, bottom)))
        return _profile(band, (band.width, 1))

    def _trimmed(self, box: Box) -> Box:
        """The box without the blank rows at its top and bottom."""
        left, top, right, _ = box
        part = self._strip.crop(box)
        if not (part.width and part.height):
            return box
        profile = _profile(part, (1, part.height))
        inked = profile.strip(b"\0")
        if len(inked) < _NEVER_BELOW * len(profile):
            return box
        above = len(profile) - len(profile.lstrip(b"\0"))
        return left, top + above, right, top + above + len(inked)


def _parted(first: Box, second: Box, profile: bytes, height: float) -> tuple[Box, Box]:
    """Two neighbours with the widest gap between their middles as what parts them."""
    low, high = max(0, (first[0] + first[2]) // 2), max(0, (second[0] + second[2]) // 2)
    gaps = (found.span() for found in _BLANKS.finditer(profile, low, high))
    start, end = max(gaps, key=lambda gap: gap[1] - gap[0], default=(0, 0))
    most = _MOVES_WITHIN_HEIGHTS * height
    if end - start < max(2, _GAP_HEIGHTS * height) or abs(start - first[2]) > most or abs(end - second[0]) > most:
        return first, second
    return (first[0], first[1], start, first[3]), (end, second[1], second[2], second[3])


def _profile(part: Image.Image, size: tuple[int, int]) -> bytes:
    """Ink along one side; what is thinner than a pixel and a half is no ink."""
    least = 1.5 * 255 / max(1, part.width * part.height // (size[0] * size[1]))
    return part.resize(size, Image.Resampling.BOX).tobytes().translate(_from(min(255, math.ceil(least))))


@cache
def _from(least: int) -> bytes:
    return bytes(value >= least for value in range(256))


@cache
def _black_and_white(middle: int, *, dark_on_light: bool) -> list[int]:
    return [255 if (value <= middle) == dark_on_light else 0 for value in range(256)]
