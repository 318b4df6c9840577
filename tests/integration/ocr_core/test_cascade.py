"""What the cascade makes of pages that are hard to read, in process, with the engines that are there."""

import importlib.util
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

from ocr_core.documents import PageImage
from ocr_core.engine import OcrEngine
from ocr_core.page_text import PageText
from ocr_core.pages.page_reader import PageReader
from ocr_core.tesseract import TesserocrEngine
from tests import hard_pages, pages
from tests.fakes.engines import FakeEngine
from tests.pages import PrintedPage

HAS_SECOND = importlib.util.find_spec("rapidocr") is not None
PAGE = pages.printed_page(pages.LINES[:6], size=(1240, 500))
NOTE = Path(__file__).parents[4] / "shared" / "corpus" / "cognitive-serv-handwritten_text.jpg"
HALF = [line[:34].strip() for line in pages.LINES]
COLUMNS = pages.two_columns(HALF, HALF[::-1])
FIRST = TesserocrEngine()


def second_engine() -> OcrEngine:
    from ocr_core.second_engine.rapid import RapidEngine

    return RapidEngine()


@pytest.fixture(scope="module")
def second() -> OcrEngine:
    return second_engine()


def read(page: PrintedPage, second: OcrEngine | None = None) -> PageText:
    image = PageImage(
        image=page.image, page=1, width=page.image.width, height=page.image.height, unit="pixel", dpi=page.dpi
    )
    return PageReader(FIRST, second=second).read(image, ("eng",), order="natural")


def errors(page: PrintedPage, found: PageText) -> float:
    return pages.character_error_rate(page.text, "\n".join(line.text for line in found.lines))


@pytest.mark.parametrize(
    "page",
    [
        hard_pages.shadowed(COLUMNS),
        hard_pages.unevenly_lit(PAGE),
        hard_pages.shadowed(PAGE),
        hard_pages.photographed(PAGE),
        hard_pages.low_contrast(PAGE),
        hard_pages.inverted(PAGE),
        hard_pages.blurred(PAGE),
        hard_pages.noisy(PAGE),
    ],
    ids=["two columns in shadow", "uneven light", "shadow", "photographed", "gray", "inverted", "blurred", "grainy"],
)
def test_a_printed_page_reads_well_however_it_was_taken_and_calls_no_second_engine(page: PrintedPage) -> None:
    never = FakeEngine()
    found = read(page, never)
    assert errors(page, found) < 0.02
    assert never.pictures == []
    assert all(line.style is not None and line.style.name == "other" for line in found.lines)
    assert sum(line.style.confidence > 0.95 for line in found.lines if line.style) > 0.8 * len(found.lines)


@pytest.mark.parametrize(
    "page",
    [
        pages.empty_page((900, 700)),
        hard_pages.photo_without_text(1, (900, 700)),
        hard_pages.photo_without_text(2, (300, 200)),
        hard_pages.texture_without_text(size=(300, 200)),
        hard_pages.noise_without_text((300, 200)),
    ],
    ids=["blank", "photo", "small photo", "bricks", "noise"],
)
def test_a_page_without_text_stays_empty(page: PrintedPage) -> None:
    assert read(page).lines == ()


@pytest.mark.skipif(not HAS_SECOND, reason="the optional extra is not installed")
def test_a_photo_without_text_stays_empty_with_a_second_engine_too(second: OcrEngine) -> None:
    assert read(hard_pages.photo_without_text(3, (900, 700)), second).lines == ()


@pytest.mark.skipif(not HAS_SECOND, reason="the optional extra is not installed")
@pytest.mark.parametrize("degrees", [0, 90, 180])
def test_a_sign_in_a_photo_is_read_any_way_up(second: OcrEngine, degrees: float) -> None:
    page = pages.turned(hard_pages.sign_in_a_photo(), degrees)
    found = read(page, second)
    assert errors(page, found) < 0.3  # the edge of the sign may be taken for a mark
    assert found.orientation == degrees / 90


def test_a_picture_of_a_few_pixels_is_read_as_empty() -> None:
    assert read(PrintedPage(image=Image.new("L", (50, 50), 128), words=(), text="", dpi=72)).lines == ()


@pytest.mark.skipif(not HAS_SECOND or not NOTE.exists(), reason="the optional extra or the corpus is not there")
def test_a_note_below_good_print_is_read_again(second: OcrEngine) -> None:
    print_ = pages.printed_page(pages.LINES[:4], size=(1240, 300)).image
    note = Image.open(NOTE).convert("L")
    sheet = Image.new("L", (1240, 300 + note.height), 255)
    sheet.paste(print_)
    sheet.paste(note, (0, 300))
    found = read(PrintedPage(image=sheet, words=(), text="", dpi=150), second)
    assert [line.text for line in found.lines][4:] == ["You must be the change", "you want to see in the world!"]


@pytest.mark.parametrize("degrees", [-30, 40])
def test_a_page_that_lies_very_much_askew_is_read_as_it_lies(degrees: float) -> None:
    page = pages.turned(PAGE, degrees)
    found = read(page)
    assert errors(page, found) < 0.02
    assert found.angle == pytest.approx(degrees, abs=0.3)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize(("word", "points", "size"), [("STOP", 90, (400, 200)), ("Exit", 24, (100, 60))])
def test_a_single_word_is_read_any_way_up(word: str, points: int, size: tuple[int, int], degrees: float) -> None:
    image = Image.new("L", size, 255)
    middle = size[0] / 2, size[1] / 2
    ImageDraw.Draw(image).text(middle, word, font=ImageFont.load_default(size=points), fill=0, anchor="mm")
    page = pages.turned(PrintedPage(image=image, words=(), text=word, dpi=72), degrees)
    assert [line.text for line in read(page).lines] == [word]
