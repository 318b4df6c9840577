"""From boxes in a raster, as it was read, to polygons on the page, as it is shown.

Invariants:

* Pure arithmetic; x grows to the right, y grows downwards, so a positive angle is clockwise.
* A polygon's corners run clockwise from the text's own top-left.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ocr_core.page_text import Number, Polygon, Unit

Point = tuple[float, float]
Box = tuple[float, float, float, float]
Corners = tuple[Point, Point, Point, Point]

_INCH_DECIMALS = 4


@dataclass(frozen=True, slots=True)
class Affine:
    """x' = a·x + b·y + c, y' = d·x + e·y + f."""

    a: float
    b: float
    c: float
    d: float
    e: float
    f: float

    def __call__(self, point: Point) -> Point:
        """Map one point."""
        x, y = point
        return self.a * x + self.b * y + self.c, self.d * x + self.e * y + self.f

    def after(self, first: "Affine") -> "Affine":
        """The map that does `first`, then this one."""
        return Affine(
            self.a * first.a + self.b * first.d,
            self.a * first.b + self.b * first.e,
            self.a * first.c + self.b * first.f + self.c,
            self.d * first.a + self.e * first.d,
            self.d * first.b + self.e * first.e,
            self.d * first.c + self.e * first.f + self.f,
        )

    @classmethod
    def scaling(cls, across: float, down: float) -> "Affine":
        """Stretch."""
        return cls(across, 0.0, 0.0, 0.0, down, 0.0)

    @classmethod
    def turning(cls, degrees: float, *, of: tuple[float, float], onto: tuple[float, float]) -> "Affine":
        """Turn clockwise, taking the centre of a picture of one size to the centre of a picture of another."""
        cosine, sine = _cosine_and_sine(degrees)
        (x, y), (u, v) = (of[0] / 2, of[1] / 2), (onto[0] / 2, onto[1] / 2)
        return cls(cosine, -sine, u - cosine * x + sine * y, sine, cosine, v - sine * x - cosine * y)


def _cosine_and_sine(degrees: float) -> tuple[float, float]:
    """Exact for quarter turns."""
    if degrees % 90 == 0:
        return ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[round(degrees / 90) % 4]
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def direction(baseline: tuple[float, float, float, float]) -> float:
    """Degrees clockwise of a baseline given in reading direction; 0 for a point."""
    x1, y1, x2, y2 = baseline
    return math.degrees(math.atan2(y2 - y1, x2 - x1))


def normalised(degrees: float) -> float:
    """The same angle in [-180, 180)."""
    return (degrees + 180) % 360 - 180


def bounds(points: Iterable[Point]) -> Box:
    """The upright rectangle around some points, at least one: left, top, right, bottom."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def turned_box(box: Box, degrees: float) -> Corners:
    """The rectangle along a direction whose upright bounding box is known.

    A rectangle w x h turned by t has a bounding box of W = w·cos t + h·sin t by H = w·sin t + h·cos t; solved for w and
    h this gives the rectangle back. Ink does not reach the corners of its rectangle, so the answer is kept from
    shrinking below a quarter of the box.

    Args:
        box: left, top, right, bottom.
        degrees: Direction of the text, clockwise.
    """
    left, top, right, bottom = box
    quarters = round(degrees / 90)
    rest = degrees - 90 * quarters
    wide, high = right - left, bottom - top
    if quarters % 2:
        wide, high = high, wide
    cosine, sine = math.cos(math.radians(rest)), abs(math.sin(math.radians(rest)))
    spread = cosine * cosine - sine * sine
    width, height = wide, high
    if spread > 0.4:
        width = min(wide / cosine, max(wide / 4, (wide * cosine - high * sine) / spread))
        height = min(high / cosine, max(high / 4, (high * cosine - wide * sine) / spread))
    turn = Affine.turning(degrees, of=(width, height), onto=(left + right, top + bottom))
    return turn((0, 0)), turn((width, 0)), turn((width, height)), turn((0, height))


def around(polygons: Iterable[Corners], degrees: float) -> Corners:
    """The smallest rectangle along a direction around some polygons; at least one polygon is needed."""
    upright = Affine.turning(-degrees, of=(0, 0), onto=(0, 0))
    left, top, right, bottom = bounds(upright(point) for corners in polygons for point in corners)
    back = Affine.turning(degrees, of=(0, 0), onto=(0, 0))
    return back((left, top)), back((right, top)), back((right, bottom)), back((left, bottom))


def polygon(corners: Corners, *, width: Number, height: Number, unit: Unit) -> Polygon:
    """Corners on the page as they go over the wire: inside the page, whole pixels or inches of four decimals."""
    flat: list[Number] = []
    for x, y in corners:
        flat += [_rounded(min(max(x, 0), width), unit), _rounded(min(max(y, 0), height), unit)]
    x1, y1, x2, y2, x3, y3, x4, y4 = flat
    return x1, y1, x2, y2, x3, y3, x4, y4


def _rounded(value: float, unit: Unit) -> Number:
    return round(value) if unit == "pixel" else round(value, _INCH_DECIMALS)


def weighted_median(values: Sequence[tuple[float, float]]) -> float:
    """The value at half of the weight.

    Args:
        values: Pairs of value and weight, at least one.
    """
    ordered = sorted(values)
    half = sum(weight for _, weight in ordered) / 2
    passed = 0.0
    for value, weight in ordered:
        passed += weight
        if passed >= half:
            return value
    return ordered[-1][0]
