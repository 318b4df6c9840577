"""The arithmetic of places, for any numbers; and what every page of text keeps, whatever an engine found."""

import math
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from ocr_core.documents import PageImage
from ocr_core.engine import FoundLine, FoundWord, Picture
from ocr_core.page_text import PageText
from ocr_core.pages import geometry
from ocr_core.pages.geometry import Affine, Box, Corners
from ocr_core.pages.page_reader import PageReader
from tests.fakes.engines import FakeEngine
from tests.pages import overlap
from tests.turned_boxes import turned_box

ANGLES = st.floats(-180, 180)
SLIGHT = st.floats(-12, 12)
SIDES = st.floats(5, 5000)
PLACES = st.floats(-5000, 5000)
POINTS = st.tuples(PLACES, PLACES)
BOXES = st.tuples(PLACES, PLACES, SIDES, SIDES).map(lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3]))


def area(corners: Corners) -> float:
    """Positive when the corners run clockwise, y downwards."""
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairwise((*corners, corners[0]))) / 2


def near(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return math.dist(one, other) < 1e-6 * (1 + math.hypot(*one) + math.hypot(*other))


@given(ANGLES, st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), POINTS)
def test_turning_there_and_back_is_nothing(
    degrees: float, of: tuple[float, float], onto: tuple[float, float], point: tuple[float, float]
) -> None:
    there = Affine.turning(degrees, of=of, onto=onto)
    back = Affine.turning(-degrees, of=onto, onto=of)
    assert near(back(there(point)), point)
    assert near(back.after(there)(point), point)


@given(ANGLES, SIDES, SIDES, POINTS, POINTS)
def test_turning_keeps_distances_and_scaling_stretches_them(
    degrees: float, across: float, down: float, one: tuple[float, float], other: tuple[float, float]
) -> None:
    turn = Affine.turning(degrees, of=(across, down), onto=(down, across))
    assert math.isclose(math.dist(turn(one), turn(other)), math.dist(one, other), rel_tol=1e-6, abs_tol=1e-6)
    stretch = Affine.scaling(2, 3)
    assert stretch(one) == (2 * one[0], 3 * one[1])


@given(BOXES, st.integers(-4, 4), SLIGHT)
def test_a_turned_box_keeps_its_middle_and_runs_clockwise(box: Box, quarters: int, slight: float) -> None:
    found = turned_box(box, 90 * quarters + slight)
    left, top, right, bottom = box
    middle = (sum(x for x, _ in found) / 4, sum(y for _, y in found) / 4)
    assert near(middle, ((left + right) / 2, (top + bottom) / 2))
    assert area(found) > 0
    assert math.isclose(
        geometry.direction((*found[0], *found[1])) % 360, (90 * quarters + slight) % 360, abs_tol=1e-3
    ) or (
        math.isclose(abs(geometry.direction((*found[0], *found[1])) - (90 * quarters + slight)) % 360, 0, abs_tol=1e-3)
    )


@given(st.floats(20, 900), st.floats(8, 80), st.integers(-2, 2), st.floats(-10, 10))
def test_a_rectangle_is_found_back_from_its_bounding_box(
    width: float, height: float, quarters: int, slight: float
) -> None:
    degrees = 90 * quarters + slight
    height = max(height, width / 10)  # a box keeps a quarter of its bounds: ink does not reach its corners
    turn = Affine.turning(degrees, of=(width, height), onto=(4000, 4000))
    truth = (turn((0, 0)), turn((width, 0)), turn((width, height)), turn((0, height)))
    found = turned_box(geometry.bounds(truth), degrees)
    flat = [tuple(value for point in corners for value in point) for corners in (truth, found)]
    assert overlap(flat[0], flat[1]) > 0.9


@given(st.lists(BOXES, min_size=1, max_size=8), ANGLES)
def test_around_holds_all_and_lies_along_the_direction(boxes: list[Box], degrees: float) -> None:
    polygons = [turned_box(box, degrees) for box in boxes]
    upright = Affine.turning(-degrees, of=(0, 0), onto=(0, 0))
    left, top, right, bottom = geometry.bounds(map(upright, geometry.around(polygons, degrees)))
    slack = 1e-3
    for polygon in polygons:
        for x, y in map(upright, polygon):
            assert left - slack <= x <= right + slack
            assert top - slack <= y <= bottom + slack
    assert area(geometry.around(polygons, degrees)) >= max(map(area, polygons)) - 1


@given(st.floats(-1e6, 1e6))
def test_an_angle_is_told_once(degrees: float) -> None:
    found = geometry.normalised(degrees)
    assert -180 <= found < 180
    assert math.isclose(math.cos(math.radians(found)), math.cos(math.radians(degrees)), abs_tol=1e-6)


# ---- whatever an engine finds ---------------------------------------------------------------------------------------

WIDTH, HEIGHT = 300, 200
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=1, max_size=6)


@st.composite
def found_words(draw: st.DrawFn) -> FoundWord:
    left, top = draw(st.integers(-20, WIDTH)), draw(st.integers(-20, HEIGHT))
    box = (left, top, left + draw(st.integers(0, 120)), top + draw(st.integers(0, 60)))
    return FoundWord(
        text=draw(TEXTS), box=box, confidence=draw(st.floats(0, 1)), glued=draw(st.sampled_from((False, False, True)))
    )


@st.composite
def found_lines(draw: st.DrawFn) -> FoundLine:
    numbers = st.floats(-20, WIDTH + 20)
    baseline = (draw(numbers), draw(numbers), draw(numbers), draw(numbers))
    words = draw(st.lists(found_words(), min_size=1, max_size=5))
    return FoundLine(words=tuple(words), baseline=baseline, block=draw(st.integers(0, 3)))


def paper() -> Image.Image:
    image = Image.new("L", (WIDTH, HEIGHT), 255)
    pen = ImageDraw.Draw(image)
    for top in range(20, 180, 30):
        for left in range(10, 280, 35):
            pen.rectangle((left, top, left + 25, top + 15), fill=0)
    return image


PAPER = paper()


@settings(max_examples=30, deadline=None)
@given(st.lists(found_lines(), max_size=5), st.booleans(), st.sampled_from(("basic", "natural")))
def test_a_page_of_text_keeps_its_promises(lines: Sequence[FoundLine], is_sheet: bool, order: str) -> None:
    def answer(_picture: Picture, _number: int) -> Sequence[FoundLine]:
        return lines

    width, height = (3.0, 2.0) if is_sheet else (WIDTH * 2, HEIGHT * 2)
    unit = "inch" if is_sheet else "pixel"
    image = PageImage(image=PAPER, page=7, width=width, height=height, unit=unit, dpi=100)  # type: ignore[arg-type]
    page = PageReader(FakeEngine(answer)).read(image, ("eng",), order=order)  # type: ignore[arg-type]
    assert (page.page, page.width, page.height, page.unit) == (7, width, height, unit)
    assert -180 <= page.angle < 180
    assert page.orientation == round(page.angle / 90) % 4
    # Letters are neither lost nor made; a bar may become a capital.
    letters = sorted("".join(word.text for line in lines for word in line.words).replace("|", "I"))
    assert sorted("".join(line.text for line in page.lines).replace(" ", "").replace("|", "I")) == letters
    for line in page.lines:
        assert line.words
        assert line.text.replace(" ", "") == "".join(word.text for word in line.words)
        assert 0 <= line.confidence <= 1
        assert line.style is None or 0 <= line.style.confidence <= 1
        for polygon in (line.polygon, *(word.polygon for word in line.words)):
            assert all(map(math.isfinite, polygon))
            assert all(0 <= x <= width for x in polygon[::2])
            assert all(0 <= y <= height for y in polygon[1::2])
            assert is_sheet or all(type(value) is int for value in polygon)
        for word in line.words:
            assert word.text
            assert not any(map(str.isspace, word.text))
            assert 0 <= word.confidence <= 1
    assert PageText.from_bytes(page.to_wire()) == page
