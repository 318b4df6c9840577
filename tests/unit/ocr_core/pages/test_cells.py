import pytest
from PIL import Image, ImageDraw

from ocr_core.engine import FoundLine, FoundWord
from ocr_core.pages import geometry, ink

CELL = 40
LEFT, TOP = 60, 50


def a_row(text: str) -> tuple[Image.Image, list[tuple[int, int]]]:
    """Squares for ideographs, half as wide for digits; a character in two parts is no two characters. And their ink."""
    image = Image.new("L", (900, 150), 255)
    pen = ImageDraw.Draw(image)
    left, inks = LEFT, []
    for one in text:
        width = CELL // 2 if one.isascii() else CELL
        pen.rectangle((left + 3, TOP, left + width - 4, TOP + 33), fill=0)
        if one == "川":
            pen.rectangle((left + 14, TOP, left + 24, TOP + 33), fill=255)
        inks.append((left + 3, left + width - 3))
        left += width
    return image, inks


def a_line(texts: tuple[str, ...], *, drift: int) -> FoundLine:
    """Boxes that an engine gives, each further off than the one before."""
    words, left = [], LEFT
    for number, text in enumerate(texts):
        width = CELL * len(text) // (2 if text.isascii() else 1)
        box = (left + 3 - drift * number, TOP, left + width - 3 - drift * number, TOP + 34)
        words.append(FoundWord(text=text, box=box, confidence=0.9, glued=number > 0))
        left += width
    return FoundLine(words=tuple(words), baseline=(LEFT, TOP + 34, left, TOP + 34), block=0)


@pytest.mark.parametrize("drift", [0, 5])
@pytest.mark.parametrize(
    "texts", [("日", "本", "語", "文", "章"), ("川", "口", "川", "川", "国"), ("第", "12", "章", "終")]
)
def test_each_ideograph_gets_its_own_cell(texts: tuple[str, ...], drift: int) -> None:
    image, inks = a_row("".join(texts))
    found = ink.fitted(image, a_line(texts, drift=drift), 0)
    start = 0
    for word, text in zip(found, texts, strict=True):
        wanted = inks[start][0], inks[start + len(text) - 1][1]
        start += len(text)
        left, top, right, bottom = geometry.bounds(word.corners)
        assert (left, right) == pytest.approx(wanted, abs=6)
        assert (top, bottom) == (TOP, TOP + 34)


def test_ink_that_fits_no_grid_stays_where_the_engine_saw_it() -> None:
    image = Image.new("L", (900, 150), 255)
    ImageDraw.Draw(image).rectangle((LEFT, TOP, LEFT + 5 * CELL, TOP + 33), fill=0)  # no white at all
    line = a_line(("日", "本", "語", "文", "章"), drift=0)
    found = ink.fitted(image, line, 0)
    assert [geometry.bounds(word.corners) for word in found] == [tuple(map(float, word.box)) for word in line.words]
