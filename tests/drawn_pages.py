"""Pages drawn word by word, with where each word is: as the drawing library tells its box, and where its ink is.

page = drawn("DejaVuSans.ttf", points=11, dpi=200)
turned(page, -7).words[0].polygon        the box that ImageDraw.textbbox tells, turned with the page
turned(page, -7).words[0].ink            the box around the ink alone
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from tests import pages
from tests.pages import Polygon

_MARGIN = 0.4
_LEADING = 1.45
_INK_BELOW = 160

PROSE = (
    "The licence lets this machine read pages without a network.",
    "I saw a man, a dog and 7 cats near Gate 7 in 1999.",
    "Invoices 1042, 1043 and 1057 were paid on 3 March 2027.",
    "sun moon rose ace cause venom seven runners soon noon",
    "quay pygmy jog apply happy gypsy joy puppy",
    "HELLO WORLD FINAL NOTICE AMOUNT DUE TOTAL",
    "Price: $12.50 (net), 19% VAT; total $14.88!",
    'Mr. O\'Neil said: "Yes, we can, if you pay." Then he left.',
)
SPARSE = (("Name:", 0.1, 0.1), ("John Smith", 0.35, 0.1), ("Date:", 0.1, 0.3), ("12/05/2024", 0.35, 0.3),
          ("Total", 0.1, 0.55), ("42.00", 0.7, 0.55), ("Yes", 0.4, 0.8), ("No", 0.6, 0.8))  # fmt: skip


@dataclass(frozen=True)
class DrawnWord:
    text: str
    polygon: Polygon
    ink: Polygon


@dataclass(frozen=True)
class DrawnPage:
    image: Image.Image
    words: tuple[DrawnWord, ...]
    dpi: int


def the_font(name: str | None, pixels: float) -> ImageFont.FreeTypeFont:
    """A font; None is the one that comes with Pillow."""
    if name is not None:
        return ImageFont.truetype(name, pixels)
    font = ImageFont.load_default(size=pixels)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def drawn(
    font_name: str | None,
    *,
    points: float,
    dpi: int,
    lines: Sequence[str] = PROSE,
    heading: str = "",
    inches: tuple[float, float] = (5.8, 4.1),
) -> DrawnPage:
    """Lines below each other, wrapped at the right margin, below a heading in larger type."""
    image = Image.new("L", (round(inches[0] * dpi), round(inches[1] * dpi)), 255)
    words: list[DrawnWord] = []
    left, top, right = _MARGIN * dpi, _MARGIN * dpi, image.width - _MARGIN * dpi
    for text, factor in [(heading, 2.2), *((line, 1.0) for line in lines)]:
        font = the_font(font_name, points * factor * dpi / 72)
        x = left
        for word in text.split():
            if x > left and x + font.getlength(word) > right:
                x, top = left, top + font.size * _LEADING
            if top + font.size * _LEADING > image.height - _MARGIN * dpi:
                return DrawnPage(image, tuple(words), dpi)
            words.append(_draw(image, x, top, word, font))
            x += font.getlength(word + " ")
        top += font.size * _LEADING if text else 0
    return DrawnPage(image, tuple(words), dpi)


def scattered(font_name: str | None, *, points: float, dpi: int) -> DrawnPage:
    """A form with few entries."""
    image = Image.new("L", (round(5.8 * dpi), round(4.1 * dpi)), 255)
    font = the_font(font_name, points * dpi / 72)
    words = []
    for text, across, down in SPARSE:
        x = across * image.width
        for word in text.split():
            words.append(_draw(image, x, down * image.height, word, font))
            x += font.getlength(word + " ")
    return DrawnPage(image, tuple(words), dpi)


def _draw(image: Image.Image, x: float, y: float, text: str, font: ImageFont.FreeTypeFont) -> DrawnWord:
    pen = ImageDraw.Draw(image)
    pen.text((x, y), text, font=font, fill=0)
    left, top, right, bottom = pen.textbbox((x, y), text, font=font)
    window = (math.floor(left) - 2, math.floor(top) - 2, math.ceil(right) + 2, math.ceil(bottom) + 2)
    found = image.crop(window).point([255 * (value < _INK_BELOW) for value in range(256)]).getbbox()
    assert found is not None
    ink = tuple(float(value + window[number % 2]) for number, value in enumerate(found))
    return DrawnWord(text, _corners(left, top, right, bottom), _corners(*ink))


def _corners(left: float, top: float, right: float, bottom: float) -> Polygon:
    return (left, top, right, top, right, bottom, left, bottom)


def turned(page: DrawnPage, degrees: float) -> DrawnPage:
    """The page turned clockwise on a larger sheet, truth and all."""
    truth = tuple(pages.TruthWord(word.text, polygon) for word in page.words for polygon in (word.polygon, word.ink))
    found = pages.turned(pages.PrintedPage(image=page.image, words=truth, text="", dpi=page.dpi), degrees)
    boxes, inks = found.words[::2], found.words[1::2]
    words = tuple(DrawnWord(box.text, box.polygon, ink.polygon) for box, ink in zip(boxes, inks, strict=True))
    return DrawnPage(found.image, words, page.dpi)
