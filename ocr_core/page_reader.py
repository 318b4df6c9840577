"""One page image → PageText: straighten, read, turn it or change the models and read again if it needs to be, map back.

Invariants:

* A page that reads well, in a language of the models that it was read with, is read once; what it pays for the others
  is one look at its ink profile and one at its words.
* Of two readings the one with more text that the engine believes in stays; a second that fails leaves the first.
* Every coordinate goes back through the inverse of what was done to the raster, so a polygon lies on the page as a
  viewer shows it.
* The engine is behind a port; this module knows none by name.
"""

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from PIL import Image

from ocr_core import geometry, ink, page_language, resolution, skew
from ocr_core.documents import PageImage
from ocr_core.engine import FoundLine, OcrEngine, Picture
from ocr_core.errors import EngineTimeoutError
from ocr_core.geometry import Affine, Corners
from ocr_core.languages import SCRIPTS, model_of_script, models_of_scripts
from ocr_core.page_text import Line, PageText, Polygon, Style, Word
from ocr_core.reading_order import ReadingOrder, ordered

WEAK_CONFIDENCE = 0.65
STRONG_CONFIDENCE = 0.80
FEW_WORDS = 3

_STRAIGHTENED_FROM_DEGREES = 1.0
_LINES_CONTRAST = 3.0
_LINES_GAIN = 1.5
_ACROSS_PLAINLY = 1.5
_ORIENTATION_HINT = 3.0
_ORIENTATION_SURE = 10.0
_FEW_CHARACTERS = 200
_MOST_SCRIPTS = 4
_NO_WORSE = 0.97
_DOUBTED_LINE = 0.5
_DOUBTED_SHARE = 0.2
_FAR_WORSE = 0.2
_LONG_LINE = 20
_ENOUGH_LETTERS = 75
_MOST_TIMES = 5
_SHORT_LINE_HEIGHTS = 5
_CONFIDENCE_DECIMALS = 3
_ANGLE_DECIMALS = 4


@dataclass(frozen=True, slots=True)
class _Reading:
    """What the engine found in one raster, and how that raster lies on the page.

    Attributes:
        lines: In pixels of the raster.
        back: From pixels of the raster to units of the page.
        turned: How many degrees the raster was turned back, that is, how far the text was turned clockwise.
        raster: What the engine was shown.
        models: What it was read with.
        beside: A model that read lines well which these models cannot read.
    """

    lines: tuple[FoundLine, ...]
    raster: Image.Image
    back: Affine
    turned: float
    models: tuple[str, ...]
    beside: str | None = None

    @property
    def words(self) -> int:
        return sum(len(line.words) for line in self.lines)

    @property
    def confidence(self) -> float:
        return _mean((_sureness(line), _characters(line)) for line in self.lines)

    @property
    def is_strong(self) -> bool:
        return self.words >= FEW_WORDS and self.confidence >= STRONG_CONFIDENCE

    @property
    def is_weak(self) -> bool:
        return self.words < FEW_WORDS or self.confidence < WEAK_CONFIDENCE

    @property
    def doubted(self) -> tuple[FoundLine, ...]:
        """Lines that read far worse than the best third of the page."""
        surenesses = sorted(map(_sureness, self.lines), reverse=True)
        least = max(_DOUBTED_LINE, surenesses[len(surenesses) // 3] - _FAR_WORSE) if surenesses else 0.0
        return tuple(line for line in self.lines if _sureness(line) < least)

    @property
    def evidence(self) -> float:
        """How much text there is that the engine believes in."""
        return sum(len(word.text) * max(0.0, word.confidence - 0.5) for line in self.lines for word in line.words)


class PageReader:
    """Reads pages with an engine.

    Args:
        engine: The engine.
        monotonic: Seconds from a clock that never steps.
    """

    def __init__(self, engine: OcrEngine, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._monotonic = monotonic

    def read(
        self,
        image: PageImage,
        models: tuple[str, ...],
        *,
        order: ReadingOrder = "basic",
        language: str | None = None,
        choices: Collection[str] = (),
        timeout_seconds: float = 60,
    ) -> PageText:
        """Read one page.

        Args:
            image: The page, decoded.
            models: Models to read with.
            order: Order of the lines.
            language: BCP-47 code that the caller forced; told back as the page's language.
            choices: Installed models that the page may be read with as well, if its script or its language asks for
                them and no language is forced; empty leaves it at `models`.
            timeout_seconds: When to give up.

        Raises:
            EngineTimeoutError: The time was not enough.
            FailedToProcessError: The engine failed.
        """
        started = self._monotonic()
        until = started + timeout_seconds
        image = replace(image, dpi=resolution.suited(image.image, image.dpi))
        reading = self._best_reading(image, models, choices if language is None else (), until)
        if language is not None:
            return _page_text(image, reading, order, language, (None,) * len(reading.lines))
        told = page_language.tell(reading.lines, choices or models)
        wanted = page_language.models_asked_for(
            told, reading.models, choices, also=reading.beside or self._script_beside(reading, choices)
        )
        if wanted and until - self._monotonic() > self._monotonic() - started:
            other = self._read_again(image, reading, wanted, until)
            if other.evidence > _NO_WORSE * reading.evidence:
                reading, told = other, page_language.tell(other.lines, choices)
        return _page_text(image, reading, order, told.page, told.lines)

    def _best_reading(
        self, image: PageImage, models: tuple[str, ...], choices: Collection[str], until: float
    ) -> _Reading:
        level = skew.estimate(image.image)
        best = self._reading(image, 0, level, models, until)
        if not best.is_weak:
            return self._stood_up(best, image, until)
        tried = {(0, models)}
        for quarters, slope, other_models in self._other_ways(image, level, best, choices):
            way = quarters, other_models or best.models
            if way in tried or (other_models and not best.is_weak):
                continue
            tried.add(way)
            try:
                other = self._reading(image, quarters, slope, way[1], until)
            except EngineTimeoutError:
                break
            if other.evidence > best.evidence:
                best = replace(other, beside=_model_beside(other, best))
            if best.is_strong:
                break
        return best

    def _script_beside(self, reading: _Reading, choices: Collection[str]) -> str | None:
        """The model of the script of those lines of a page that read badly while others read well."""
        if not any(models_of_scripts(choices)):
            return None
        doubted = reading.doubted
        is_much = sum(map(_characters, doubted)) > _DOUBTED_SHARE * sum(map(_characters, reading.lines))
        if not is_much:
            doubted = tuple(line for line in doubted if _characters(line) >= _LONG_LINE and not _has_sure_words(line))
        if not doubted:
            return None
        # The orientation model says nothing of fewer than 50 letters.
        letters = max(1, sum(map(_characters, doubted)))
        times = min(_MOST_TIMES, math.ceil(_ENOUGH_LETTERS / letters)) if is_much else 1
        guess = self._engine.orientation(_picture(_cut_out(reading.raster, doubted * times), None))
        if guess is None or guess.confidence < _ORIENTATION_HINT:
            return None
        return model_of_script(guess.script, choices)

    def _read_again(self, image: PageImage, reading: _Reading, models: tuple[str, ...], until: float) -> _Reading:
        """The same raster read with other models; the reading itself when that fails for want of time."""
        remaining = until - self._monotonic()
        try:
            lines = self._engine.read(_picture(reading.raster, image.dpi), models, timeout_seconds=remaining)
        except EngineTimeoutError:
            return reading
        again = replace(reading, lines=lines, models=models)
        return again if reading.turned else self._stood_up(again, image, until)

    def _stood_up(self, reading: _Reading, image: PageImage, until: float) -> _Reading:
        """The reading of text that the engine found lying on its side, as if it had been shown standing.

        Where it slopes as well it is read once more, level: that is how the engine reads best.
        """
        direction = _common_slope(reading.lines)
        quarters = round(direction / 90) % 4
        if quarters not in (1, 3) or reading.turned:
            return reading
        if abs(direction - 90 * round(direction / 90)) >= _STRAIGHTENED_FROM_DEGREES:
            slope = skew.estimate(image.image.transpose(_QUARTERS_BACK[quarters]))
            try:
                level = self._reading(image, quarters, slope, reading.models, until)
            except EngineTimeoutError:
                return reading
            return level if level.evidence >= reading.evidence else reading
        lines = tuple(_line_stood_up(line, quarters, reading.raster.size) for line in reading.lines)
        raster = _turned_back(reading.raster, quarters, 0)
        return self._shown(image, raster, 90.0 * quarters, lines, reading.models)

    def _other_ways(
        self, image: PageImage, level: skew.Skew, first: _Reading, choices: Collection[str]
    ) -> Iterator[tuple[int, skew.Skew, tuple[str, ...]]]:
        """Quarter turns and models worth trying, the likeliest first; no models: those of the best reading so far.

        The ink profile tells along which axis the lines run; the engine's guess tells which end is up, and the script.
        """
        guess = self._engine.orientation(_picture(image.image, image.dpi))
        upright = skew.estimate(image.image.transpose(Image.Transpose.ROTATE_90))
        slopes = {0: level, 1: upright, 2: level, 3: upright}
        is_doubted = first.confidence < WEAK_CONFIDENCE
        model = model_of_script(guess.script, choices) if guess is not None and is_doubted else None
        if guess is not None and model is not None and model not in first.models:
            quarters = guess.quarter_turns if guess.confidence >= _ORIENTATION_HINT else 0
            yield quarters, slopes[quarters], (model,)
        if upright.contrast > _ACROSS_PLAINLY * level.contrast:
            candidates = [1, 3]
        elif level.contrast > _ACROSS_PLAINLY * upright.contrast:
            candidates = [2]
        else:
            candidates = [2, 1, 3]
        if guess is not None and guess.confidence >= _ORIENTATION_SURE:
            candidates = [guess.quarter_turns] if guess.quarter_turns else []
        elif guess is not None and guess.confidence >= _ORIENTATION_HINT:
            candidates.sort(key=lambda quarters: quarters != guess.quarter_turns)
        for quarters in candidates:
            yield quarters, slopes[quarters], ()
        is_unsure = guess is None or (guess.script in SCRIPTS and guess.confidence < _ORIENTATION_HINT)
        if is_doubted and is_unsure and sum(map(_characters, first.lines)) < _FEW_CHARACTERS:
            for other in islice(models_of_scripts(choices), _MOST_SCRIPTS):
                yield 0, level, (other,)

    def _reading(
        self, image: PageImage, quarters: int, slope: skew.Skew, models: tuple[str, ...], until: float
    ) -> _Reading:
        degrees = slope.degrees if _is_plain(slope) else 0.0
        raster = _turned_back(image.image, quarters, degrees)
        remaining = until - self._monotonic()
        if remaining <= 0:
            raise EngineTimeoutError("The page was not read in time.")
        lines = self._engine.read(_picture(raster, image.dpi), models, timeout_seconds=remaining)
        return self._shown(image, raster, 90.0 * quarters + degrees, lines, models)

    @staticmethod
    def _shown(
        image: PageImage, raster: Image.Image, turned: float, lines: tuple[FoundLine, ...], models: tuple[str, ...]
    ) -> _Reading:
        back = Affine.scaling(image.width / image.image.width, image.height / image.image.height).after(
            Affine.turning(turned, of=raster.size, onto=image.image.size)
        )
        return _Reading(lines=lines, raster=raster, back=back, turned=turned, models=models)


def _model_beside(reading: _Reading, before: _Reading) -> str | None:
    """The model of the reading before, where it read a line well on a page that others read better as a whole."""
    is_mixed = (
        set(before.models).isdisjoint(reading.models)
        and any(_characters(line) >= _LONG_LINE and _sureness(line) >= STRONG_CONFIDENCE for line in before.lines)
        and any(_characters(line) >= _LONG_LINE for line in reading.doubted)
    )
    return before.models[0] if is_mixed else None


def _cut_out(gray: Image.Image, lines: Iterable[FoundLine]) -> Image.Image:
    """Some lines of a page, one below the other."""
    strips = []
    for line in lines:
        lefts, tops, rights, bottoms = zip(*(word.box for word in line.words), strict=True)
        strips.append(gray.crop((min(lefts), min(tops), max(rights), max(bottoms))))
    margin = max(strip.height for strip in strips)
    size = max(strip.width for strip in strips) + 2 * margin, sum(strip.height + margin for strip in strips) + margin
    cut = Image.new("L", size, _paper(gray))
    top = margin
    for strip in strips:
        cut.paste(strip, (margin, top))
        top += strip.height + margin
    return cut


def _is_plain(slope: skew.Skew) -> bool:
    return (
        abs(slope.degrees) >= _STRAIGHTENED_FROM_DEGREES
        and slope.contrast >= _LINES_CONTRAST
        and slope.gain >= _LINES_GAIN
    )


_QUARTERS_BACK = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}


def _turned_back(gray: Image.Image, quarters: int, degrees: float) -> Image.Image:
    """Undo a clockwise turn; corners that come into view get the paper's colour."""
    if quarters:
        gray = gray.transpose(_QUARTERS_BACK[quarters])
    if degrees:
        gray = gray.rotate(degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=_paper(gray))
    return gray


def _line_stood_up(line: FoundLine, quarters: int, size: tuple[int, int]) -> FoundLine:
    """A line in the frame of the raster turned back by 90 or 270 degrees."""
    width, height = size

    def point(x: float, y: float) -> tuple[float, float]:
        return (y, width - x) if quarters == 1 else (height - y, x)

    def box(left: int, top: int, right: int, bottom: int) -> tuple[int, int, int, int]:
        if quarters == 1:
            return top, width - right, bottom, width - left
        return height - bottom, left, height - top, right

    x1, y1, x2, y2 = line.baseline
    return replace(
        line,
        words=tuple(replace(word, box=box(*word.box)) for word in line.words),
        baseline=(*point(x1, y1), *point(x2, y2)),
    )


def _paper(gray: Image.Image) -> int:
    """The median pixel."""
    histogram, passed = gray.histogram(), 0
    for value, count in enumerate(histogram):
        passed += count
        if 2 * passed >= gray.width * gray.height:
            return value
    return 255


def _picture(gray: Image.Image, dpi: int | None) -> Picture:
    return Picture(pixels=gray.tobytes(), width=gray.width, height=gray.height, dpi=dpi)


# ---- from the raster to the page ------------------------------------------------------------------------------------


def _page_text(
    image: PageImage, reading: _Reading, order: ReadingOrder, language: str | None, of_lines: tuple[str | None, ...]
) -> PageText:
    slope = _common_slope(reading.lines)
    angle = geometry.normalised(reading.turned + slope)
    lines = tuple(
        _line(line, image, reading, slope, of_line) for line, of_line in zip(reading.lines, of_lines, strict=True)
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


def _rounded_angle(angle: float) -> float:
    rounded = round(angle, _ANGLE_DECIMALS)
    return rounded - 360 if rounded >= 180 else rounded + 0.0  # no minus zero


def _common_slope(lines: tuple[FoundLine, ...]) -> float:
    """Direction of the text in the raster: the median of the lines', long ones counting more."""
    slopes = [(geometry.direction(line.baseline), _length(line)) for line in lines if _length(line) > 0]
    return geometry.weighted_median(slopes) if slopes else 0.0


def _length(line: FoundLine) -> float:
    x1, y1, x2, y2 = line.baseline
    return math.hypot(x2 - x1, y2 - y1)


def _line(line: FoundLine, image: PageImage, reading: _Reading, common_slope: float, language: str | None) -> Line:
    heights = sorted(min(box[2] - box[0], box[3] - box[1]) for box in (word.box for word in line.words))
    is_short = _length(line) < _SHORT_LINE_HEIGHTS * heights[len(heights) // 2]
    slope = common_slope if is_short else geometry.direction(line.baseline)
    boxes = [geometry.turned_box(box, slope) for box in ink.fitted(reading.raster, line)]

    def on_page(corners: Corners) -> Corners:
        first, second, third, fourth = (reading.back(corner) for corner in corners)
        return first, second, third, fourth

    def polygon(corners: Corners) -> Polygon:
        return geometry.polygon(on_page(corners), width=image.width, height=image.height, unit=image.unit)

    words = tuple(
        Word(text=word.text, polygon=polygon(box), confidence=round(word.confidence, _CONFIDENCE_DECIMALS))
        for word, box in zip(line.words, boxes, strict=True)
    )
    text = "".join(("" if word.glued or not number else " ") + word.text for number, word in enumerate(line.words))
    confidence = round(_sureness(line), _CONFIDENCE_DECIMALS)
    return Line(
        text=text,
        polygon=polygon(geometry.around(boxes, slope)),
        words=words,
        confidence=confidence,
        language=language,
        style=Style(name="other", confidence=max(0.5, confidence)),
        block=line.block,
    )


def _sureness(line: FoundLine) -> float:
    return _mean((word.confidence, len(word.text)) for word in line.words)


def _characters(line: FoundLine) -> int:
    return sum(len(word.text) for word in line.words)


def _has_sure_words(line: FoundLine) -> bool:
    """Whether half of a line is in words that read well: a smudge, no other script."""
    sure = sum(len(word.text) for word in line.words if word.confidence >= STRONG_CONFIDENCE)
    return 2 * sure >= _characters(line)


def _mean(weighted: Iterable[tuple[float, float]]) -> float:
    total = weights = 0.0
    for value, weight in weighted:
        total += value * weight
        weights += weight
    return total / weights if weights else 0.0
