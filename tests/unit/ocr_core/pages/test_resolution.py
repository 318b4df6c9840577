import pytest
from PIL import Image, ImageChops, ImageFilter

from ocr_core.pages import resolution
from tests import pages


def a_text(pixels: float, lines: int = 6) -> Image.Image:
    """Rows of text of a size in pixels."""
    size = int(36 * pixels), int(200 + 1.6 * lines * pixels)
    return pages.printed_page(pages.LINES[:lines], size=size, dpi=72, points=pixels).image


@pytest.mark.parametrize("lines", [1, 2, 10])
@pytest.mark.parametrize("pixels", [12, 16, 24, 32, 40, 48])
def test_the_size_of_the_type_is_seen(pixels: float, lines: int) -> None:
    height = resolution.text_height(a_text(pixels, lines))
    assert height is not None
    assert 0.6 <= height / pixels <= 1.6


@pytest.mark.parametrize(("pixels", "least", "most"), [(12, 70, 115), (24, 86, 230), (40, 144, 300)])
def test_where_the_file_says_nothing_the_text_is_taken_for_text_of_a_usual_size(
    pixels: float, least: int, most: int
) -> None:
    found = resolution.suited(a_text(pixels), None)
    assert found is not None
    assert least <= found <= most


@pytest.mark.parametrize(("pixels", "dpi"), [(12, 72), (18, 72), (24, 96), (24, 144), (48, 150), (12, 300), (90, 300)])
def test_a_resolution_that_fits_the_text_stays(pixels: float, dpi: int) -> None:
    assert resolution.suited(a_text(pixels), dpi) == dpi


@pytest.mark.parametrize(("pixels", "dpi"), [(40, 72), (48, 96), (60, 120)])
def test_a_resolution_that_makes_all_text_huge_is_not_believed(pixels: float, dpi: int) -> None:
    found = resolution.suited(a_text(pixels), dpi)
    assert found is not None
    assert found >= 1.5 * dpi


@pytest.mark.parametrize("size", [(50, 50), (1, 1), (3, 2000), (2000, 3), (1240, 1754)])
@pytest.mark.parametrize("dpi", [None, 72])
def test_a_picture_without_rows_keeps_what_its_file_says(size: tuple[int, int], dpi: int | None) -> None:
    assert resolution.suited(Image.new("L", size, 255), dpi) == dpi
    assert resolution.suited(Image.new("L", size, 0), dpi) == dpi


def a_sheet(points: float, *, also: float | None = None) -> Image.Image:
    """A sheet of 3 megapixels, 176 DPI, full of text of a size; its lower half in another one."""
    size = (1456, 2060)
    sheet = pages.printed_page(pages.LINES * 4, size=size, dpi=176, points=points).image
    if also is not None:
        below = pages.printed_page(pages.LINES * 4, size=size, dpi=176, points=also).image
        sheet.paste(below.crop((0, 0, 1456, 1030)), (0, 1030))
    return sheet


@pytest.mark.parametrize(("points", "least", "most"), [(16, 0.7, 0.72), (14, 0.7, 0.72), (12, 0.7, 0.8)])
def test_large_print_needs_fewer_pixels(points: float, least: float, most: float) -> None:
    assert least <= resolution.enough(a_sheet(points)) <= most


@pytest.mark.parametrize("points", [5, 6, 7, 8, 9])
def test_small_print_needs_all_pixels(points: float) -> None:
    assert resolution.enough(a_sheet(points)) == 1


@pytest.mark.parametrize("small", [6, 7, 8])
def test_the_smallest_print_decides(small: float) -> None:
    assert resolution.enough(a_sheet(14, also=small)) == 1


@pytest.mark.parametrize("degrees", [-2, -1, 1, 2])
def test_a_slope_does_not_make_small_print_look_larger(degrees: float) -> None:
    assert resolution.enough(a_sheet(8).rotate(degrees, fillcolor=255)) == 1


def test_a_page_that_is_not_clean_keeps_its_pixels() -> None:
    sheet = a_sheet(14)
    specks = (
        Image.effect_noise(sheet.size, 90).point(lambda value: 0 if value < 8 else 255).filter(ImageFilter.MinFilter(5))
    )
    assert resolution.enough(ImageChops.darker(sheet, specks)) == 1


@pytest.mark.parametrize("size", [(1, 1), (1_600_000, 1), (1, 1_600_000), (1240, 1754), (2000, 2000)])
@pytest.mark.parametrize("shade", [0, 255])
def test_a_page_without_print_keeps_its_pixels(size: tuple[int, int], shade: int) -> None:
    assert resolution.enough(Image.new("L", size, shade)) == 1
