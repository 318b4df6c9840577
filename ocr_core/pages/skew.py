"""How much the lines of text on a page slope, from ink profiles alone.

Rows of text make a profile with sharp edges when the page is summed along the direction of its lines, and a blurred
one along any other. The page is cut into narrow upright strips, each strip is averaged to one column, and for each
candidate slope the columns are shifted against each other and summed: a few milliseconds for a page, whatever its size.

Invariant: pure; a page without lines of text gets 0.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image, ImageChops, ImageStat

MAX_DEGREES = 15
_COARSE_ROWS = 400
_FINE_ROWS = 1000
_COARSE_STRIPS = 32
_FINE_STRIPS = 64
_SAMPLE = (-12.0, -9.0, -6.0, -4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0, 6.0, 9.0, 12.0)
_PLAINLY_LEVEL = 5.5  # times the typical: level letters and receipts have 6, print 8 and more
_STEEP = (-40.0, -20.0, 20.0, 40.0)


@dataclass(frozen=True, slots=True)
class Skew:
    """An estimate.

    Attributes:
        degrees: Slope of the lines, clockwise: positive when they run downhill to the right.
        contrast: How much sharper the profile is along this slope than along a typical one; below about 3 there are
            no lines to speak of.
        gain: How much sharper it is than along the level.
    """

    degrees: float
    contrast: float
    gain: float


def estimate(gray: Image.Image, *, exact: bool = True) -> Skew:
    """Estimate the slope of the lines within ±15 degrees.

    Args:
        gray: Mode "L".
        exact: Whether it has to be told to a fraction of a degree; else a page that is plainly level is told as 0, in
            half the time.
    """
    small = gray.reduce((max(1, gray.width // (4 * _FINE_STRIPS)), max(1, gray.height // _FINE_ROWS)))
    coarse = _Strips(small, size=gray.size, rows=_COARSE_ROWS, strips=_COARSE_STRIPS)
    scores = {degrees: coarse.sharpness(degrees) for degrees in _SAMPLE}
    around = _sharpest(scores)
    if around != 0 or scores[0] < _PLAINLY_LEVEL * _typical(scores):
        halves = {half / 2 for half in range(-2 * MAX_DEGREES, 2 * MAX_DEGREES + 1)}
        scores |= {degrees: coarse.sharpness(degrees) for degrees in halves - scores.keys()}
        around = _sharpest(scores)
    elif not exact:
        return Skew(degrees=0.0, contrast=_over(scores[0], _typical(scores), 0.0), gain=1.0)
    fine = _Strips(small, size=gray.size, rows=_FINE_ROWS, strips=_FINE_STRIPS)
    near = {degrees: fine.sharpness(degrees) for degrees in (around + step / 5 for step in range(-3, 4))}
    best = _sharpest(near)
    before, after = (near.get(best + step) or fine.sharpness(best + step) for step in (-0.2, 0.2))
    typical = _typical(scores)
    return Skew(
        degrees=best + 0.2 * _vertex(before, near[best], after) if typical > 0 else 0.0,
        contrast=_over(scores[around], typical, 0.0),
        gain=_over(near[best], fine.sharpness(0), 1.0),
    )


def estimate_steep(gray: Image.Image) -> Skew:
    """Estimate the slope of the lines within ±50 degrees.

    Strips are too wide for lines as steep as that, so a small copy is turned first, and what is found so is compared by
    how sharp the rows are when it is turned all the way: about ten times the work.

    Args:
        gray: Mode "L".
    """
    small = gray.reduce(max(1, max(gray.size) // _FINE_ROWS))
    flat = estimate(gray)
    flat_rows = _rows_sharpness(small, flat.degrees)
    best, best_rows = flat, flat_rows
    for degrees in _STEEP:
        found = estimate(_turned(small, degrees))
        rows = _rows_sharpness(small, degrees + found.degrees)
        if rows > best_rows:
            best_rows = rows
            gain = rows / flat_rows if flat_rows > 0 else 1.0
            best = Skew(degrees=degrees + found.degrees, contrast=found.contrast, gain=gain)
    return best


def _rows_sharpness(gray: Image.Image, degrees: float) -> float:
    """Sum of squared steps from row to row of the page turned back."""
    turned = ImageChops.invert(_turned(gray, degrees)).convert("F")
    rows = turned.resize((1, turned.height), Image.Resampling.BOX)
    ink = [turned.width * float(rows.getpixel((0, row))) for row in range(turned.height)]  # type: ignore[arg-type]
    return sum((one - other) ** 2 for one, other in pairwise(ink))


def _turned(gray: Image.Image, degrees: float) -> Image.Image:
    paper = int(ImageStat.Stat(gray).median[0])
    return gray.rotate(degrees, Image.Resampling.BILINEAR, expand=True, fillcolor=paper)


def _sharpest(scores: dict[float, float]) -> float:
    return max(scores, key=lambda degrees: (scores[degrees], -abs(degrees)))


def _typical(scores: dict[float, float]) -> float:
    return sorted(scores.values())[len(scores) // 2]


def _over(one: float, other: float, otherwise: float) -> float:
    return one / other if other > 0 else otherwise


def _vertex(before: float, at: float, after: float) -> float:
    """Where a parabola through three neighbours has its top, in steps from the middle one."""
    curvature = before - 2 * at + after
    return max(-0.5, min(0.5, (before - after) / (2 * curvature))) if curvature < 0 else 0.0


class _Strips:
    """A page as a few columns of mean ink."""

    def __init__(self, gray: Image.Image, *, size: tuple[int, int], rows: int, strips: int) -> None:
        width, height = size
        rows = max(2, min(rows, gray.height))
        self._columns = ImageChops.invert(gray.resize((strips, rows), Image.Resampling.BOX))
        self._pitch = width / strips * rows / height

    def sharpness(self, degrees: float) -> float:
        """Sum of squared steps in the profile along a slope."""
        strips, rows = self._columns.size
        shift = math.tan(math.radians(degrees)) * self._pitch
        sheared = self._columns.transform(
            (strips, rows),
            Image.Transform.AFFINE,
            (1, 0, 0, shift, 1, -shift * strips / 2),
            Image.Resampling.BILINEAR,
        )
        profile = sheared.resize((1, rows), Image.Resampling.BOX)
        steps = ImageChops.difference(profile.crop((0, 0, 1, rows - 1)), profile.crop((0, 1, 1, rows)))
        return float(ImageStat.Stat(steps).sum2[0])
