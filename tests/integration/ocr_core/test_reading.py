"""What the core reads, through its socket: pages with a known truth."""

import json
import statistics

import pytest
from PIL import Image

from ocr_core.page_text import PageText
from tests import pages
from tests.integration.ocr_core.running_core import RunningCore

PAGE = pages.printed_page()
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How the pixels of an upright page are stored, by EXIF orientation."""


def read(core: RunningCore, blob: bytes, page: int = 1, **fields: object) -> PageText:
    name = core.put_document(blob)
    status, told = core.inspect(name)
    assert status == 200, told
    status, told = core.page(name, page, **fields)
    assert status == 200, told
    return PageText.from_bytes(json.dumps(told).encode())


def text_of(page: PageText) -> str:
    return "\n".join(line.text for line in page.lines)


@pytest.mark.parametrize(
    ("blob", "page"),
    [
        (pages.as_png(PAGE), 1),
        (pages.as_jpeg(PAGE), 1),
        (pages.as_bmp(PAGE), 1),
        (pages.as_tiff([pages.empty_page(), PAGE, pages.empty_page()]), 2),
        (pages.as_pdf([pages.empty_page(), PAGE]), 2),
        (pages.digital_pdf([pages.LINES[:2], pages.LINES]), 2),
        (pages.digital_pdf([pages.LINES], rotate=90), 1),
        (pages.as_png(pages.printed_page(size=(2480, 3508), dpi=300, points=8)), 1),
    ],
    ids=["png", "jpeg", "bmp", "tiff page 2", "scanned pdf page 2", "digital pdf page 2", "pdf on its side", "8 point"],
)
def test_a_printed_page_reads_with_less_than_2_percent_errors(core: RunningCore, blob: bytes, page: int) -> None:
    found = read(core, blob, page)
    assert found.page == page
    assert pages.character_error_rate(PAGE.text, text_of(found)) < 0.02


@pytest.mark.parametrize("dpi", [None, 70, 72, 96, 150, 300])
@pytest.mark.parametrize(("pixels", "rows"), [(24, 2), (24, 6), (40, 2)])
def test_letters_keep_their_stems_whatever_the_file_says_of_its_resolution(
    core: RunningCore, pixels: int, rows: int, dpi: int | None
) -> None:
    lines = [f"Left column line number {number}" for number in range(1, rows + 1)]
    size = (20 * pixels, 200 + 2 * rows * pixels)
    page = pages.printed_page(lines, size=size, dpi=72, points=pixels, font_name="DejaVuSans.ttf")
    found = read(core, pages.encoded(page.image, "PNG", **({} if dpi is None else {"dpi": (dpi, dpi)})))
    assert text_of(found) == page.text


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_reads_as_a_viewer_shows_it_mirrored_ones_too(core: RunningCore, orientation: int) -> None:
    page = pages.printed_page(pages.LINES[:3], size=(1240, 360))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = page.image.transpose(STORED[orientation]) if orientation in STORED else page.image
    found = read(core, pages.encoded(stored, "JPEG", quality=90, exif=exif, dpi=(page.dpi, page.dpi)))
    assert (found.width, found.height, found.orientation) == (1240, 360, 0)
    assert pages.character_error_rate(page.text, text_of(found)) < 0.01


@pytest.mark.parametrize("degrees", [0, 0.5, 3, -7, 12, 90, 180, 270, 87, 93, 177])
def test_words_are_where_they_are_however_the_page_lies(core: RunningCore, degrees: float) -> None:
    page = pages.turned(PAGE, degrees)
    found = read(core, pages.as_png(page))
    assert pages.character_error_rate(page.text, text_of(found)) < 0.02
    assert abs((found.angle - degrees + 180) % 360 - 180) < 0.2
    assert found.orientation == round(degrees / 90) % 4
    words = [word for line in found.lines for word in line.words]
    overlaps = [
        max((pages.overlap(word.polygon, truth.polygon) for word in words if word.text == truth.text), default=0.0)
        for truth in page.words
    ]
    assert statistics.mean(overlaps) > 0.85
    assert sum(overlap >= 0.7 for overlap in overlaps) / len(overlaps) > 0.96


def test_lines_hold_their_words_and_lie_on_the_page(core: RunningCore) -> None:
    found = read(core, pages.as_png(pages.turned(PAGE, 3)))
    assert (found.width, found.height) == pages.turned(PAGE, 3).image.size
    assert len(found.lines) == len(pages.LINES)
    for line in found.lines:
        assert line.text == " ".join(word.text for word in line.words)
        assert 0 <= line.confidence <= 1
        for word in line.words:
            assert all(isinstance(value, int) for value in word.polygon)
            assert pages.overlap(word.polygon, line.polygon) > 0
            assert all(0 <= x <= found.width for x in word.polygon[::2])
            assert all(0 <= y <= found.height for y in word.polygon[1::2])


def test_an_empty_page_has_no_lines(core: RunningCore) -> None:
    found = read(core, pages.as_png(pages.empty_page()))
    assert (found.lines, found.angle) == ((), 0.0)


def test_a_pdf_is_told_in_inches(core: RunningCore) -> None:
    found = read(core, pages.digital_pdf([pages.LINES]))
    assert (found.width, found.height, found.unit) == (8.5, 11.0, "inch")
    left, top = found.lines[0].polygon[:2]
    assert left == pytest.approx(1.0, abs=0.03)
    assert top == pytest.approx((792 - 700 - 12) / 72, abs=0.1)


def test_natural_order_goes_down_a_column_and_basic_across(core: RunningCore) -> None:
    left = [line[:34].strip() for line in pages.LINES]
    right = [line[:34].strip() for line in reversed(pages.LINES)]
    page = pages.two_columns(left, right)
    natural = read(core, pages.as_png(page), reading_order="natural")
    assert pages.character_error_rate(page.text, text_of(natural)) < 0.02
    basic = read(core, pages.as_png(page), reading_order="basic")
    across = "\n".join(line for pair in zip(left, right, strict=True) for line in pair)
    assert pages.character_error_rate(across, text_of(basic)) < 0.02


def test_a_forced_language_is_told_back(core: RunningCore) -> None:
    found = read(core, pages.as_png(PAGE), language="en")
    assert found.language == "en"
    assert pages.character_error_rate(PAGE.text, text_of(found)) < 0.02


def test_the_same_page_reads_the_same_whatever_was_read_before(core: RunningCore) -> None:
    blob = pages.as_png(PAGE)
    first = read(core, blob)
    read(core, pages.as_png(pages.turned(PAGE, 180)))
    assert all(read(core, blob) == first for _ in range(4))
