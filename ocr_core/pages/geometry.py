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

    def corners(self, corners: Corners) -> Corners:
        """Map four points."""
        a, b, c, d, e, f = self.a, self.b, self.c, self.d, self.e, self.f
        (x1, y1), (x2, y2), (x3, y3), (x4, y4) = corners
        return (
            (a * x1 + b * y1 + c, d * x1 + e * y1 + f),
            (a * x2 + b * y2 + c, d * x2 + e * y2 + f),
            (a * x3 + b * y3 + c, d * x3 + e * y3 + f),
            (a * x4 + b * y4 + c, d * x4 + e * y4 + f),
        )

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


def levelled_boxes(boxes: Iterable[Box], degrees: float) -> list[Box]:
    """Rectangles along a direction, turned back around 0, 0, from their upright bounding boxes.

    A rectangle w x h turned by t has a bounding box of W = w·cos t + h·sin t by H = w·sin t + h·cos t; solved for w and
    h this gives the rectangle back. Ink does not reach the corners of its rectangle, so the answer is kept from
    shrinking below a quarter of the box.

    Args:
        boxes: left, top, right, bottom.
        degrees: Direction of the text, clockwise.
    """
    quarters = round(degrees / 90)
    rest = math.radians(degrees - 90 * quarters)
    cosine, sine = math.cos(rest), abs(math.sin(rest))
    upright = Affine.turning(-degrees, of=(0, 0), onto=(0, 0))
    spread = cosine * cosine - sine * sine
    found = []
    for left, top, right, bottom in boxes:
        wide, high = (bottom - top, right - left) if quarters % 2 else (right - left, bottom - top)
        width, height = wide, high
        if spread > 0.4:
            width = min(wide / cosine, max(wide / 4, (wide * cosine - high * sine) / spread))
            height = min(high / cosine, max(high / 4, (high * cosine - wide * sine) / spread))
        x, y = upright(((left + right) / 2, (top + bottom) / 2))
        found.append((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    return found


def turned_boxes(boxes: Iterable[Box], degrees: float) -> list[Corners]:
    """Boxes turned around 0, 0.

    Args:
        boxes: left, top, right, bottom.
        degrees: Clockwise.
    """
    turn = Affine.turning(degrees, of=(0, 0), onto=(0, 0)).corners
    return [turn(((left, top), (right, top), (right, bottom), (left, bottom))) for left, top, right, bottom in boxes]


def around(polygons: Iterable[Corners], degrees: float) -> Corners:
    """The smallest rectangle along a direction around some polygons; at least one polygon is needed."""
    upright = Affine.turning(-degrees, of=(0, 0), onto=(0, 0)).corners
    (turned,) = turned_boxes([bounds([point for corners in polygons for point in upright(corners)])], degrees)
    return turned


def polygon(corners: Corners, *, width: Number, height: Number, unit: Unit) -> Polygon:
    """Corners on the page as they go over the wire: inside the page, whole pixels or inches of four decimals."""
    digits = None if unit == "pixel" else _INCH_DECIMALS
    (x1, y1), (x2, y2), (x3, y3), (x4, y4) = corners
    return (
        round(min(max(x1, 0), width), digits),
        round(min(max(y1, 0), height), digits),
        round(min(max(x2, 0), width), digits),
        round(min(max(y2, 0), height), digits),
        round(min(max(x3, 0), width), digits),
        round(min(max(y3, 0), height), digits),
        round(min(max(x4, 0), width), digits),
        round(min(max(y4, 0), height), digits),
    )


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
