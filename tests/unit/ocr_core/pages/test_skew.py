from typing import Any

import pytest
from PIL import Image

from ocr_core.pages import skew
from ocr_core.pages.turning import STRAIGHTENED_FROM_DEGREES
from tests.pages import empty_page, printed_page, turned


@pytest.mark.parametrize("degrees", [0, 0.3, 0.5, 1, 3, -7, 12, -14])
def test_the_slope_of_a_printed_page_is_found(degrees: float) -> None:
    found = skew.estimate(turned(printed_page(), degrees).image)
    assert found.degrees == pytest.approx(degrees, abs=0.15)
    assert found.contrast > 5


def test_a_page_on_its_side_shows_its_lines_only_across() -> None:
    image = turned(printed_page(), 90).image
    across = skew.estimate(image.transpose(Image.Transpose.ROTATE_90))
    assert across.contrast > 2 * skew.estimate(image).contrast


@pytest.mark.parametrize(
    "image", [Image.new("L", (800, 600), 255), Image.new("L", (1, 1), 0), Image.new("L", (50, 9000), 7)]
)
def test_a_page_without_lines_is_level(image: Image.Image) -> None:
    assert skew.estimate(image).degrees == 0


@pytest.mark.parametrize("degrees", [0, 12, 17, 20, -25, 30, -30, 35, -40, 44])
def test_the_slope_of_steep_lines_is_found(degrees: float) -> None:
    assert skew.estimate_steep(turned(printed_page(), degrees).image).degrees == pytest.approx(degrees, abs=0.3)


RECEIPT = {"size": (460, 1000), "points": 20}
"""A few large words on a narrow page: its lines are told from others less plainly than those of a full one."""


@pytest.mark.parametrize("kind", [{}, RECEIPT])
@pytest.mark.parametrize("degrees", [0, 0.3, -0.4])
def test_a_page_that_is_plainly_level_need_not_be_measured(degrees: float, kind: dict[str, Any]) -> None:
    page = turned(printed_page(**kind), degrees).image
    quick, measured = skew.estimate(page, exact=False), skew.estimate(page)
    assert quick == skew.Skew(degrees=0.0, contrast=measured.contrast, gain=1.0)
    assert abs(measured.degrees) < STRAIGHTENED_FROM_DEGREES


@pytest.mark.parametrize("kind", [{}, RECEIPT])
@pytest.mark.parametrize("degrees", [-7, -1.5, 1, 3, 5, 7.5, 10.5, 12])
def test_a_slope_is_measured_in_any_case(degrees: float, kind: dict[str, Any]) -> None:
    page = turned(printed_page(**kind), degrees).image
    assert skew.estimate(page, exact=False) == skew.estimate(page)


def test_a_blank_page_has_no_slope_either_way() -> None:
    blank = empty_page().image
    assert skew.estimate(blank, exact=False) == skew.Skew(degrees=0.0, contrast=0.0, gain=1.0) == skew.estimate(blank)
