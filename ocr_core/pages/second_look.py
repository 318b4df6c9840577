"""A page shown to the second engine: which part of it, which way up, and what is made of the answer.

Invariants:

* What the first engine is sure of, on a page that reads well as a whole or is full of text, is painted over: the
  second engine's time goes to the rest.
* A second engine that fails, or is not done in time, leaves the first reading.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from PIL import Image

from ocr_core.engine import FoundLine
from ocr_core.errors import FailedToProcessError
from ocr_core.pages.columns import box_of
from ocr_core.pages.reading import STRONG_CONFIDENCE, Reading, characters, sureness
from ocr_core.pages.second_opinion import SURE_LINE, believed, is_believable, merged
from ocr_core.pages.showing import Showing
from ocr_core.pages.turning import paper

_SURE_OF_TURN_CHARACTERS = 12
_SMALL_SIDE = 400
_LONG_PAGE = 500
"""Characters, a third of a page of typescript: half a second for the second engine."""
_MARGIN = 40


def with_second_opinion(reading: Reading, showing: Showing) -> Reading:
    """A page as both engines read it.

    Args:
        reading: The best of the first engine.
        showing: The page before the second engine.
    """
    try:
        return _in_part(reading, showing) if reading.is_strong or _is_long(reading) else _whole(reading, showing)
    except FailedToProcessError:
        return reading


def _is_long(reading: Reading) -> bool:
    """Whether there is so much text that lies as it should that the second engine would take long for all of it."""
    return not reading.is_weak and sum(map(characters, reading.lines)) >= _LONG_PAGE


def _in_part(reading: Reading, showing: Showing) -> Reading:
    """A page that reads well but for a part of it, or on which what reads well would take long to be read again."""
    sure = [line for line in reading.lines if sureness(line) >= SURE_LINE]
    lines = _lines(showing, _painted_over(reading.raster, sure), reading.models)
    lines = believed(lines, beside_text=True)
    return replace(reading, lines=merged(reading.lines, lines, is_laid_out=reading.is_strong))


def _whole(reading: Reading, showing: Showing) -> Reading:
    """A page that reads badly: either way up, until the second engine is sure of what it reads."""
    quarters = _likeliest_way_up(reading)
    best = _look(reading, showing, quarters)
    is_small = min(best.raster.size) < _SMALL_SIDE
    if not is_believable(best.lines) and (best.lines or is_small):
        with suppress(FailedToProcessError):
            other = _look(reading, showing, (quarters + 2) % 4)
            best = other if other.evidence > best.evidence else best
    lines = believed(best.lines, beside_text=any(_is_sure(line) for line in reading.lines))
    if best.turned == reading.turned:
        return replace(reading, lines=merged(reading.lines, lines, is_laid_out=False))
    if best.evidence <= reading.evidence:
        return reading
    return replace(best, lines=merged((), lines, is_laid_out=False))


def _look(reading: Reading, showing: Showing, quarters: int) -> Reading:
    """What the second engine reads with the page turned back by quarters; lines on their side are read standing."""
    is_as_read = quarters == round(reading.turned / 90) % 4
    turned = reading if is_as_read else showing.turned(quarters, reading.models)
    found = replace(turned, lines=_lines(showing, turned.raster, reading.models))
    stood_up = showing.stood_up_as_found(found)
    if stood_up is found:
        return found
    standing = showing.turned(round(stood_up.turned / 90) % 4, reading.models)
    with suppress(FailedToProcessError):
        standing = replace(standing, lines=_lines(showing, standing.raster, reading.models))
    return standing if standing.evidence > stood_up.evidence else stood_up


def _likeliest_way_up(reading: Reading) -> int:
    """Quarter turns: as the page came, unless the first engine is sure of some words another way up."""
    sure = sum(len(word.text) for line in reading.lines for word in line.words if word.confidence >= STRONG_CONFIDENCE)
    return round(reading.turned / 90) % 4 if sure >= _SURE_OF_TURN_CHARACTERS else 0


def _is_sure(line: FoundLine) -> bool:
    return sureness(line) >= STRONG_CONFIDENCE and characters(line) > 2


def _lines(showing: Showing, raster: Image.Image, models: tuple[str, ...]) -> tuple[FoundLine, ...]:
    """What the second engine finds; a small picture gets a margin, for its text may run to the edges."""
    if min(raster.size) >= _SMALL_SIDE:
        return showing.lines(raster, models)
    wider = Image.new("L", (raster.width + 2 * _MARGIN, raster.height + 2 * _MARGIN), paper(raster))
    wider.paste(raster, (_MARGIN, _MARGIN))
    return tuple(_without_margin(line, raster.size) for line in showing.lines(wider, models))


def _without_margin(line: FoundLine, size: tuple[int, int]) -> FoundLine:
    width, height = size

    def moved(left: int, top: int, right: int, bottom: int) -> tuple[int, int, int, int]:
        left, top = min(max(left - _MARGIN, 0), width - 1), min(max(top - _MARGIN, 0), height - 1)
        return left, top, min(max(right - _MARGIN, left + 1), width), min(max(bottom - _MARGIN, top + 1), height)

    x1, y1, x2, y2 = line.baseline
    return replace(
        line,
        words=tuple(replace(word, box=moved(*word.box)) for word in line.words),
        baseline=(x1 - _MARGIN, y1 - _MARGIN, x2 - _MARGIN, y2 - _MARGIN),
    )


def _painted_over(gray: Image.Image, lines: Sequence[FoundLine]) -> Image.Image:
    """The raster without some lines."""
    gray = gray.copy()
    for line in lines:
        box = box_of(line)
        gray.paste(paper(gray.crop(box)), box)
    return gray
