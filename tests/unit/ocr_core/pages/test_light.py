import pytest
from PIL import Image, ImageChops, ImageStat

from ocr_core.pages import light
from tests import hard_pages, pages

PAGE = pages.printed_page(pages.LINES * 2)


@pytest.mark.parametrize("spoilt", [hard_pages.unevenly_lit, hard_pages.shadowed])
def test_text_in_a_shadow_is_noticed(spoilt: object) -> None:
    assert light.is_uneven(spoilt(PAGE).image)  # type: ignore[operator]


@pytest.mark.parametrize(
    "page",
    [
        PAGE,
        pages.turned(PAGE, 90),
        pages.turned(PAGE, 7),
        hard_pages.low_contrast(PAGE),
        hard_pages.inverted(PAGE),
        hard_pages.blurred(PAGE),
        hard_pages.noisy(PAGE),
        pages.empty_page(),
    ],
    ids=["flat", "on its side", "askew", "gray on gray", "inverted", "out of focus", "grainy", "blank"],
)
def test_a_page_that_is_lit_evenly_is_not(page: pages.PrintedPage) -> None:
    assert not light.is_uneven(page.image)


def test_a_dark_plate_without_text_is_no_shadow() -> None:
    image = PAGE.image.copy()
    image.paste(0, (100, 1200, 1100, 1700))
    assert not light.is_uneven(image)


def test_evening_the_light_gives_the_flat_page_back() -> None:
    even = light.evened(hard_pages.shadowed(PAGE).image)
    assert even.size == PAGE.image.size
    assert ImageStat.Stat(ImageChops.difference(even, PAGE.image)).mean[0] < 8
    assert not light.is_uneven(even)


def test_structure_is_what_is_not_paper() -> None:
    assert light.structure(pages.empty_page().image) == 0
    whole = light.structure(PAGE.image)
    assert 0.05 < whole < 0.5
    boxes = [(int(w.polygon[0]), int(w.polygon[1]), int(w.polygon[4]), int(w.polygon[5])) for w in PAGE.words]
    assert light.structure(PAGE.image, outside=boxes) < 0.05 * whole


def test_a_picture_of_a_pixel_has_neither() -> None:
    dot = Image.new("L", (1, 1), 0)
    assert (light.structure(dot), light.is_uneven(dot), light.evened(dot).size) == (0, False, (1, 1))
