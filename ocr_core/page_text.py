"""What was read on one page, in one neutral geometry that every API version renders from.

Invariants:

* Coordinates are in the page's unit, in the frame of the source page as a viewer shows it (EXIF orientation and a
  PDF page's own rotation applied), origin in the top-left corner.
* A polygon has four corners, clockwise, starting at the corner that is top-left *in the reading direction of the
  text*; it follows the text's slope and never leaves the page.
* Pixels are integers, inches are rounded to four decimals.
* The module needs msgspec and nothing else: the other end of the socket imports it alone.
"""

from typing import Literal

import msgspec

Number = int | float
Polygon = tuple[Number, Number, Number, Number, Number, Number, Number, Number]
Unit = Literal["pixel", "inch"]
StyleName = Literal["handwriting", "other"]

MAX_WIRE_BYTES = 64 * 1024 * 1024
"""An upper bound for one page on the wire; a page of 10 000 words takes about 1.5 MB."""


class PageTextError(ValueError):
    """The bytes are not a PageText: malformed JSON, a missing member, a number out of range."""


class Style(msgspec.Struct, frozen=True, kw_only=True):
    """How a line was put on the page.

    Attributes:
        name: "handwriting" or "other" (printed, typed).
        confidence: How sure the engine is of the name, 0..1.
    """

    name: StyleName
    confidence: float


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """One word.

    Attributes:
        text: The word, without white space.
        polygon: Four corners as x1, y1, …, x4, y4.
        confidence: 0..1.
    """

    text: str
    polygon: Polygon
    confidence: float


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of text.

    Attributes:
        text: The words as a reader would write them: single spaces between, none in scripts that use none.
        polygon: Four corners around all words of the line.
        words: At least one, in reading order.
        confidence: Mean of the words' confidence, weighted by their length, 0..1.
        language: BCP-47 code, only where the engine knows it.
        style: None where the engine has no opinion.
        block: Lines of one block of text (paragraph, column, cell) have the same number.
    """

    text: str
    polygon: Polygon
    words: tuple[Word, ...]
    confidence: float
    language: str | None = None
    style: Style | None = None
    block: int = 0


class PageText(msgspec.Struct, frozen=True, kw_only=True):
    """The text of one page.

    Attributes:
        page: Number in the source document, counted from 1.
        width: Width of the page as a viewer shows it, in `unit`.
        height: Height of the page as a viewer shows it, in `unit`.
        unit: "pixel" for images, "inch" for PDF.
        angle: Direction of the text, degrees clockwise in [-180, 180); positive when text runs downhill to the right.
        orientation: `angle` in whole quarter turns clockwise, 0..3.
        language: BCP-47 code of the page, only where it is known.
        lines: In the reading order that was asked for; empty when there is no text.
    """

    page: int
    width: Number
    height: Number
    unit: Unit
    angle: float
    orientation: int
    lines: tuple[Line, ...] = ()
    language: str | None = None

    def to_wire(self) -> bytes:
        """The page as JSON."""
        return _ENCODER.encode(self)

    @classmethod
    def from_bytes(cls, blob: bytes) -> "PageText":
        """Read what `to_wire` wrote.

        Raises:
            PageTextError: The bytes are not such a page; nothing else is raised.
        """
        if len(blob) > MAX_WIRE_BYTES:
            raise PageTextError(f"{len(blob)} bytes, limit {MAX_WIRE_BYTES}")
        try:
            return _DECODER.decode(blob)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise PageTextError(f"not a page of text: {exc}") from exc


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(PageText)
