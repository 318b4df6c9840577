"""Which ways a page may lie, and how it is turned so that its text stands up and runs level.

Invariants:

* A turn is told clockwise, as the text lies; a raster is turned back by as much.
* Quarter turns cost no sharpness; a slope is levelled only where lines of text show plainly that there is one.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from ocr_core.engine import FoundLine, FoundOrientation
from ocr_core.pages import geometry
from ocr_core.pages.skew import Skew

STRAIGHTENED_FROM_DEGREES = 1.0
ORIENTATION_HINT = 3.0
"""From here on the engine's guess of which end is up is worth following."""

_LINES_CONTRAST = 3.0
_STEEP_DEGREES = 10.0
_LINES_GAIN = 1.5
_ACROSS_PLAINLY = 1.5
_ORIENTATION_SURE = 10.0
_QUARTERS_BACK = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}


def level_degrees(slope: Skew) -> float:
    """What to turn a page back by so that its lines run level: 0 where no slope is plain."""
    is_plain = (
        abs(slope.degrees) >= STRAIGHTENED_FROM_DEGREES
        and slope.contrast >= _LINES_CONTRAST
        and slope.gain >= _LINES_GAIN
    )
    return slope.degrees if is_plain else 0.0


def quarters_worth_trying(level: Skew, upright: Skew, guess: FoundOrientation | None) -> list[int]:
    """Quarter turns other than none, the likeliest first.

    The ink profile tells along which axis the lines run; the engine's guess tells which end is up.

    Args:
        level: Slope of the page as it came.
        upright: Slope of the page turned back by a quarter.
        guess: The engine's.
    """
    if upright.contrast > _ACROSS_PLAINLY * level.contrast:
        candidates = [1, 3]
    elif level.contrast > _ACROSS_PLAINLY * upright.contrast:
        candidates = [2]
    else:
        candidates = [2, 1, 3]
    if guess is not None and guess.confidence >= _ORIENTATION_SURE:
        candidates = [guess.quarter_turns] if guess.quarter_turns else []
    elif guess is not None and guess.confidence >= ORIENTATION_HINT:
        candidates.sort(key=lambda quarters: quarters != guess.quarter_turns)
    return candidates


def turned_back(gray: Image.Image, quarters: int, degrees: float = 0.0) -> Image.Image:
    """Undo a clockwise turn; corners that come into view get the paper's colour."""
    if quarters:
        gray = gray.transpose(_QUARTERS_BACK[quarters])
    if degrees:
        gray = gray.rotate(degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=paper(gray))
    return gray


def line_stood_up(line: FoundLine, quarters: int, size: tuple[int, int]) -> FoundLine:
    """A line in the frame of the raster turned back by 90 or 270 degrees.

    Args:
        line: As it was found.
        quarters: 1 or 3, how far the text is turned clockwise.
        size: Of the raster that it was found in.
    """
    width, height = size

    def point(x: float, y: float) -> tuple[float, float]:
        return (y, width - x) if quarters == 1 else (height - y, x)

    def box(left: int, top: int, right: int, bottom: int) -> tuple[int, int, int, int]:
        if quarters == 1:
            return top, width - right, bottom, width - left
        return height - bottom, left, height - top, right

    x1, y1, x2, y2 = line.baseline
    return replace(
        line,
        words=tuple(replace(word, box=box(*word.box)) for word in line.words),
        baseline=(*point(x1, y1), *point(x2, y2)),
    )


def common_slope(lines: Sequence[FoundLine]) -> float:
    """Direction of the text in the raster: the median of the lines', long ones counting more."""
    slopes = [(geometry.direction(line.baseline), length(line)) for line in lines if length(line) > 0]
    return geometry.weighted_median(slopes) if slopes else 0.0


def is_steep(lines: Sequence[FoundLine]) -> bool:
    """Whether the text in the raster runs neither level nor upright, by more than an engine reads well."""
    slope = common_slope(lines)
    return abs(slope - 90 * round(slope / 90)) > _STEEP_DEGREES


def length(line: FoundLine) -> float:
    """How long its baseline is, in pixels."""
    x1, y1, x2, y2 = line.baseline
    return math.hypot(x2 - x1, y2 - y1)


def paper(gray: Image.Image) -> int:
    """The median pixel."""
    histogram, passed = gray.histogram(), 0
    for value, count in enumerate(histogram):
        passed += count
        if 2 * passed >= gray.width * gray.height:
            return value
    return 255
