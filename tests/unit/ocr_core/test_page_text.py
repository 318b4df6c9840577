import subprocess
import sys

import pytest

from ocr_core.page_text import Line, PageText, PageTextError, Style, Word

WORD = Word(text="Gate", polygon=(25, 32, 110, 31, 110, 58, 25, 58), confidence=0.991)
PAGE = PageText(
    page=3,
    width=640,
    height=480,
    unit="pixel",
    angle=-0.4123,
    orientation=0,
    lines=(
        Line(
            text="Gate",
            polygon=WORD.polygon,
            words=(WORD,),
            confidence=0.991,
            style=Style(name="other", confidence=0.9),
        ),
    ),
)


def test_a_page_comes_back_from_the_wire_as_it_went() -> None:
    assert PageText.from_bytes(PAGE.to_wire()) == PAGE


def test_pixels_stay_integers_and_inches_stay_decimals() -> None:
    assert b'"width":640,' in PAGE.to_wire()
    assert isinstance(PageText.from_bytes(PAGE.to_wire()).lines[0].words[0].polygon[0], int)
    inches = PageText(page=1, width=8.5, height=11.0, unit="inch", angle=0.0, orientation=0)
    assert PageText.from_bytes(inches.to_wire()).width == 8.5


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        PAGE.to_wire()[:-1],
        PAGE.to_wire().replace(b'"pixel"', b'"mile"'),
        PAGE.to_wire().replace(b"[25,32,110,31,110,58,25,58]", b"[25,32,110]"),
        PAGE.to_wire().replace(b'"page":3', b'"page":"3"'),
    ],
)
def test_anything_else_is_one_error(blob: bytes) -> None:
    with pytest.raises(PageTextError):
        PageText.from_bytes(blob)


def test_the_module_needs_nothing_but_msgspec() -> None:
    script = (
        "import sys, ocr_core.page_text\n"
        "print([name for name in ('PIL', 'pypdfium2', 'tesserocr', 'gunicorn', 'licenses') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"
