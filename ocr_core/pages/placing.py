"""From what was found in a raster to the text of a page, where it lies on that page.

Invariant: every coordinate goes back through the inverse of what was done to the raster, so a polygon lies on the
page as a viewer shows it.
"""

from collections.abc import Sequence

from ocr_core.documents import PageImage
from ocr_core.engine import FoundLine
from ocr_core.page_text import Line, PageText, Polygon, Word
from ocr_core.pages import geometry, gutters, ink, skew, style
from ocr_core.pages.geometry import Corners
from ocr_core.pages.reading import Reading, sureness
from ocr_core.pages.turning import common_slope, length
from ocr_core.reading_order import ReadingOrder, ordered

_SHORT_LINE_HEIGHTS = 5
_UNSURE_DEGREES = 4
_SLOPED_GAIN = 1.05
_CONFIDENCE_DECIMALS = 3
_ANGLE_DECIMALS = 4


def page_text(
    image: PageImage,
    reading: Reading,
    order: ReadingOrder,
    *,
    language: str | None,
    of_lines: Sequence[str | None],
) -> PageText:
    """The text of a page.

    Args:
        image: The page.
        reading: What was found on it.
        order: Order of the lines.
        language: Of the page.
        of_lines: Of each line that is in another one.
    """
    slope = _slope(reading)
    angle = geometry.normalised(reading.turned + slope)
    sure = reading.confidence
    lines = tuple(
        _line(
            piece.line,
            image,
            reading,
            page_slope=slope,
            language=of_lines[piece.number],
            chance=_handwriting(piece.line, sure),
        )
        for piece in gutters.parted(reading.lines)
    )
    return PageText(
        page=image.page,
        width=image.width,
        height=image.height,
        unit=image.unit,
        angle=_rounded_angle(angle),
        orientation=round(angle / 90) % 4,
        language=language,
        lines=ordered(lines, order, angle=angle),
    )


def _slope(reading: Reading) -> float:
    """The direction of the text in the raster; ideographs stand on no line, so their rows are asked instead."""
    on_lines = tuple(line for line in reading.lines if not _is_of_ideographs(line))
    slope = common_slope(on_lines or reading.lines)
    quarter = 90.0 * round(slope / 90)
    if on_lines or abs(slope - quarter) > _UNSURE_DEGREES:
        return slope
    rows = skew.estimate(reading.raster) if quarter == 0 else None
    return rows.degrees if rows is not None and rows.gain >= _SLOPED_GAIN else quarter


def _is_of_ideographs(line: FoundLine) -> bool:
    return any(word.glued for word in line.words)


def _rounded_angle(angle: float) -> float:
    rounded = round(angle, _ANGLE_DECIMALS)
    return rounded - 360 if rounded >= 180 else rounded + 0.0  # no minus zero


def _handwriting(line: FoundLine, page: float) -> float:
    """The chance that a line was written by hand, on a page that is read with so much confidence."""
    if line.handwriting is not None:
        return line.handwriting
    return style.handwriting(sureness(line), None, first_page=page)


def _line(
    line: FoundLine, image: PageImage, reading: Reading, *, page_slope: float, language: str | None, chance: float
) -> Line:
    heights = sorted(min(box[2] - box[0], box[3] - box[1]) for box in (word.box for word in line.words))
    is_short = length(line) < _SHORT_LINE_HEIGHTS * heights[len(heights) // 2]
    slope = page_slope if is_short or _is_of_ideographs(line) else geometry.direction(line.baseline)
    fitted = ink.fitted(reading.raster, line, slope)

    def polygon(corners: Corners) -> Polygon:
        return geometry.polygon(reading.back.corners(corners), width=image.width, height=image.height, unit=image.unit)

    words = tuple(
        Word(
            text=one.word.text,
            polygon=polygon(one.corners),
            confidence=round(one.word.confidence, _CONFIDENCE_DECIMALS),
        )
        for one in fitted
    )
    text = "".join(("" if one.word.glued or not number else " ") + one.word.text for number, one in enumerate(fitted))
    confidence = round(sureness(line), _CONFIDENCE_DECIMALS)
    return Line(
        text=text,
        polygon=polygon(geometry.around((one.corners for one in fitted), slope)),
        words=words,
        confidence=confidence,
        language=language,
        style=style.style(chance),
        block=line.block,
    )
