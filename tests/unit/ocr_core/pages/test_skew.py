import pytest
from PIL import Image

from ocr_core.pages import skew
from tests.pages import printed_page, turned


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
