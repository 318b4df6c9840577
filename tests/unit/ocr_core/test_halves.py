import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from PIL import Image, ImageDraw, ImageFont

from ocr_core.engine import FoundLine, Picture
from ocr_core.errors import EngineTimeoutError
from ocr_core.halves import Cut, HalvesEngine, find_cut, halves
from tests import pages
from tests.fakes.engines import FakeEngine, HungEngine, a_line

SHORT = [" ".join(line.split()[:5]) for line in pages.LINES]


@contextmanager
def free_core() -> Iterator[bool]:
    yield True


@contextmanager
def no_core() -> Iterator[bool]:
    yield False


def a_page(lines: Sequence[str] = pages.LINES * 4, **options: object) -> Image.Image:
    return pages.printed_page(lines, **options).image  # type: ignore[arg-type]


def a_picture(image: Image.Image, dpi: int | None = 150) -> Picture:
    return Picture(pixels=image.tobytes(), width=image.width, height=image.height, dpi=dpi)


def crosses_ink(image: Image.Image, cut: Cut) -> bool:
    """Whether the line that a page is cut along meets anything darker than half gray."""
    return any(
        image.getpixel((x, round(cut.left + (cut.right - cut.left) * x / image.width))) < 128  # type: ignore[operator]
        for x in range(image.width)
    )


# ---- where to cut


@pytest.mark.parametrize("degrees", [0, 0.2, -0.4, 0.7, -0.9])
def test_print_is_cut_through_paper_near_its_middle(degrees: float) -> None:
    image = pages.turned(pages.printed_page(pages.LINES * 4), degrees).image
    cut = find_cut(image)
    assert cut is not None
    assert not crosses_ink(image, cut)
    assert cut.paper > 250
    ink = image.point(lambda shade: 255 if shade < 128 else 0)
    above = ink.crop((0, 0, image.width, (cut.left + cut.right) // 2)).histogram()[255]
    assert 0.3 < above / ink.histogram()[255] < 0.7


def test_rows_that_touch_when_level_are_parted_along_their_slope() -> None:
    # Rows as wide as the sheet: a slope of 0.8 degrees leaves no level row blank.
    page = pages.printed_page([line + " " + line for line in pages.LINES] * 4, size=(2100, 2600), dpi=300, points=7)
    image = pages.turned(page, 0.8).image
    cut = find_cut(image)
    assert cut is not None
    assert cut.right > cut.left
    assert not crosses_ink(image, cut)


def test_a_large_heading_counts_as_one_line() -> None:
    image = a_page(pages.LINES * 3, size=(1240, 2000))
    tall = Image.new("L", (1240, 2600), 255)
    ImageDraw.Draw(tall).text((90, 80), "GRAND\nSALE", font=ImageFont.load_default(size=230), fill=0)
    tall.paste(image.crop((0, 140, 1240, 2000)), (0, 640))
    cut = find_cut(tall)
    assert cut is not None
    assert 1000 < cut.left < 1500  # the middle of the small print, wherever the middle of the ink is


def two_columns() -> Image.Image:
    return pages.two_columns(SHORT * 2, SHORT * 2).image


def columns_of_unlike_length() -> Image.Image:
    return pages.two_columns(SHORT * 2, SHORT[:4]).image


def a_table() -> Image.Image:
    image = Image.new("L", (1240, 1754), 255)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=23)
    for row in range(30):
        for column in range(4):
            pen.text((100 + 280 * column, 120 + 50 * row), f"Item {row} {column}", font=font, fill=0)
    return image


def no_blank_row() -> Image.Image:
    """Two columns whose rows stand between each other's."""
    image = Image.new("L", (1240, 1754), 255)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=24)
    for row in range(50):
        pen.text((80 if row % 2 else 640, 120 + 15 * row), "Jugs of liquid, please, gypsy", font=font, fill=0)
    return image


def white_on_black() -> Image.Image:
    return a_page().point(lambda shade: 255 - shade)


def one_half_in_the_dark() -> Image.Image:
    image = a_page()
    image.paste(image.crop((0, 880, 1240, 1754)).point(lambda shade: shade * 4 // 10), (0, 880))
    return image


def noise() -> Image.Image:
    return Image.frombytes("L", (900, 1200), random.Random(1).randbytes(900 * 1200))


def a_hand() -> Image.Image:
    """Rows of unlike height, as nobody prints them."""
    image = Image.new("L", (1240, 1754), 255)
    pen, top = ImageDraw.Draw(image), 100
    for row in range(16):
        size = (24, 70, 36, 90)[row % 4]
        pen.text((100, top), "my dear Anne, the pain is gone", font=ImageFont.load_default(size=size), fill=0)
        top += size + 20
    return image


@pytest.mark.parametrize(
    "draw",
    [
        two_columns,
        columns_of_unlike_length,
        a_table,
        no_blank_row,
        white_on_black,
        one_half_in_the_dark,
        noise,
        a_hand,
    ],
)
def test_what_would_read_differently_is_left_whole(draw: object) -> None:
    assert find_cut(draw()) is None  # type: ignore[operator]


@pytest.mark.parametrize(
    "image",
    [
        Image.new("L", (1240, 1754), 255),
        Image.new("L", (1240, 1754), 0),
        Image.new("L", (1, 1), 9),
        Image.new("L", (60, 9000), 255),
        a_page(pages.LINES[:3]),
    ],
    ids=["white", "black", "dot", "strip", "three lines"],
)
def test_too_little_text_is_left_whole(image: Image.Image) -> None:
    assert find_cut(image) is None


def test_a_frame_around_the_page_does_not_matter() -> None:
    image = a_page()
    ImageDraw.Draw(image).rectangle((60, 60, 1180, 1700), outline=0, width=3)
    cut = find_cut(image)
    assert cut is not None
    assert not crosses_ink(image.crop((70, 0, 1170, 1754)), cut)


def test_specks_between_the_rows_do_not_matter() -> None:
    image = a_page()
    dirt = random.Random(3)
    for _ in range(300):
        image.putpixel((dirt.randrange(1240), dirt.randrange(1754)), 0)
    assert find_cut(image) is not None


# ---- the halves


def test_every_pixel_of_ink_is_in_one_half() -> None:
    image = pages.turned(pages.printed_page(pages.LINES * 4), 0.8).image
    cut = find_cut(image)
    assert cut is not None
    upper, lower, top = halves(a_picture(image), cut)
    again = Image.new("L", image.size, 255)
    for half, down in ((upper, 0), (lower, top)):
        part = Image.frombytes("L", (half.width, half.height), half.pixels)
        box = (0, down, half.width, down + half.height)
        darker = Image.composite(part, again.crop(box), part.point(lambda shade: 255 if shade < 250 else 0))
        again.paste(darker, box)
    difference = [abs(a - b) for a, b in zip(again.tobytes(), image.tobytes(), strict=True)]
    assert max(difference) <= 8


def read_with(
    first: FakeEngine, second: FakeEngine, image: Image.Image, *, is_free: bool = True, dpi: int | None = 150
) -> tuple[FoundLine, ...]:
    engine = HalvesEngine(first, second, free_core if is_free else no_core)
    return engine.read(a_picture(image, dpi), ("eng",), timeout_seconds=9)


def test_lines_of_the_lower_half_come_after_those_of_the_upper_in_the_frame_of_the_whole() -> None:
    image = a_page()
    cut = find_cut(image)
    assert cut is not None
    first = FakeEngine(answer=lambda *_: (a_line("one", top=50), a_line("two", top=90, block=1)))
    second = FakeEngine(answer=lambda *_: (a_line("three", top=50), a_line("four", top=90, block=1)))
    lines = read_with(first, second, image)
    assert [line.words[0].text for line in lines] == ["one", "two", "three", "four"]
    assert [line.block for line in lines] == [0, 1, 2, 3]
    *_, top = halves(a_picture(image), cut)
    assert lines[2].words[0].box == (100, 50 + top, 180, 70 + top)
    assert lines[2].baseline == (100, 70 + top, 180, 70 + top)


def test_the_halves_are_read_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=5)

    def meet(*_: object) -> tuple[FoundLine, ...]:
        both.wait()
        return (a_line(),)

    assert len(read_with(FakeEngine(answer=meet), FakeEngine(answer=meet), a_page())) == 2


@pytest.mark.parametrize(("is_free", "dpi"), [(False, 150), (True, None)])
def test_without_a_free_core_or_a_resolution_the_page_is_read_whole(is_free: bool, dpi: int | None) -> None:
    first, second = FakeEngine(), FakeEngine()
    read_with(first, second, a_page(), is_free=is_free, dpi=dpi)
    assert [picture.height for picture in first.pictures] == [1754]
    assert second.pictures == []


def test_a_half_that_fails_fails_the_page_after_both_have_ended() -> None:
    for first, second in ((HungEngine(), FakeEngine()), (FakeEngine(), HungEngine())):
        with pytest.raises(EngineTimeoutError):
            read_with(first, second, a_page())
