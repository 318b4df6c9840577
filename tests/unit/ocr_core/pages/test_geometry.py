import math

import pytest

from ocr_core.pages import geometry
from ocr_core.pages.geometry import Affine
from tests.pages import overlap
from tests.turned_boxes import turned_box


def flat(corners: geometry.Corners) -> tuple[float, ...]:
    return tuple(value for point in corners for value in point)


def bounding_box(polygon: tuple[float, ...]) -> tuple[float, float, float, float]:
    return min(polygon[::2]), min(polygon[1::2]), max(polygon[::2]), max(polygon[1::2])


@pytest.mark.parametrize("degrees", [0, 1, 3, -7, 15, 30, 90, 93, 180, -90, -87, 173])
def test_a_turned_rectangle_is_found_back_from_its_bounding_box(degrees: float) -> None:
    turn = Affine.turning(degrees, of=(200, 40), onto=(1000, 1000))
    truth = flat((turn((0, 0)), turn((200, 0)), turn((200, 40)), turn((0, 40))))
    found = flat(turned_box(bounding_box(truth), degrees))
    assert overlap(truth, found) > 0.99
    assert math.dist(truth[:2], found[:2]) < 1  # the first corner is the text's own top-left


def test_a_box_is_never_shrunk_to_nothing() -> None:
    box = turned_box((0, 0, 300, 20), 20)
    assert math.dist(box[0], box[3]) >= 4.9


@pytest.mark.parametrize("degrees", [0, 10, 90, 180, 270, -33])
def test_turning_there_and_back_is_nothing(degrees: float) -> None:
    there = Affine.turning(degrees, of=(640, 480), onto=(900, 900))
    back = Affine.turning(-degrees, of=(900, 900), onto=(640, 480))
    assert back.after(there)((12, 34)) == pytest.approx((12, 34))


def test_a_quarter_turn_clockwise_takes_the_top_left_to_the_top_right() -> None:
    turn = Affine.turning(90, of=(640, 480), onto=(480, 640))
    assert turn((0, 0)) == (480, 0)
    assert turn((640, 0)) == (480, 640)
    assert turn.corners(((0, 0), (640, 0), (640, 480), (0, 480))) == ((480, 0), (480, 640), (0, 640), (0, 0))


def test_a_line_running_downhill_has_a_positive_direction() -> None:
    assert geometry.direction((0, 0, 100, 10)) > 0
    assert geometry.direction((5, 0, 5, 10)) == 90
    assert geometry.direction((10, 0, 0, 0)) == 180
    assert geometry.direction((1, 1, 1, 1)) == 0


@pytest.mark.parametrize(("given", "same"), [(180, -180), (-180, -180), (270, -90), (540, -180), (359.5, -0.5)])
def test_angles_are_told_from_minus_180_to_below_180(given: float, same: float) -> None:
    assert geometry.normalised(given) == same


def test_around_holds_every_word_along_the_direction() -> None:
    words = [turned_box(box, 0) for box in ((10, 10, 50, 30), (60, 12, 90, 28))]
    assert flat(geometry.around(words, 0)) == pytest.approx((10, 10, 90, 10, 90, 30, 10, 30))


def test_polygons_stay_on_the_page() -> None:
    corners = ((-3.0, -1.0), (700.2, 2.4), (700.0, 50.6), (5.5, 481.0))
    assert geometry.polygon(corners, width=640, height=480, unit="pixel") == (0, 0, 640, 2, 640, 51, 6, 480)


def test_pixels_are_whole_and_inches_have_four_decimals() -> None:
    corners = ((0.123456, 1.0), (2.0, 1.0), (2.0, 3.0), (0.0, 3.0))
    assert all(type(value) is int for value in geometry.polygon(corners, width=9, height=9, unit="pixel"))
    assert geometry.polygon(corners, width=8.5, height=11, unit="inch")[0] == 0.1235


def test_the_median_counts_long_lines_more() -> None:
    assert geometry.weighted_median([(10.0, 1.0), (0.5, 100.0), (-20.0, 1.0)]) == 0.5
