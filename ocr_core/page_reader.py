"""One page image → PageText: straighten, read, turn it or change the models and read again if it needs to be, place.

Invariants:

* A page that reads well, in a language of the models that it was read with, is read once; what it pays for the others
  is one look at its ink profile and one at its words.
* Of two readings the one with more text that the engine believes in stays; a second that fails leaves the first.
* The engine is behind a port; this module knows none by name.
"""

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import islice

from ocr_core import page_language, resolution, skew
from ocr_core.documents import PageImage
from ocr_core.engine import OcrEngine
from ocr_core.errors import EngineTimeoutError
from ocr_core.languages import SCRIPTS, model_of_script, models_of_scripts
from ocr_core.other_models import model_beside, script_beside
from ocr_core.page_text import PageText
from ocr_core.placing import page_text
from ocr_core.reading import WEAK_CONFIDENCE, Reading, characters
from ocr_core.reading_order import ReadingOrder
from ocr_core.showing import Showing
from ocr_core.turning import ORIENTATION_HINT, quarters_worth_trying, turned_back

_FEW_CHARACTERS = 200
_MOST_SCRIPTS = 4
_NO_WORSE = 0.97


class PageReader:
    """Reads pages with an engine.

    Args:
        engine: The engine.
        second: A heavier engine for what the first reads badly; None where there is none.
        monotonic: Seconds from a clock that never steps.
    """

    def __init__(
        self,
        engine: OcrEngine,
        *,
        second: OcrEngine | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._second = second
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
        image = replace(image, dpi=resolution.suited(image.image, image.dpi))
        showing = Showing(image, self._engine, until=started + timeout_seconds, monotonic=self._monotonic)
        reading = _best_reading(showing, models, choices if language is None else ())
        if language is not None:
            return page_text(image, reading, order, language=language, of_lines=(None,) * len(reading.lines))
        told = page_language.tell(reading.lines, choices or models)
        beside = reading.beside or script_beside(reading, choices, showing.orientation)
        wanted = page_language.models_asked_for(told, reading.models, choices, also=beside)
        if wanted and showing.remaining_seconds > self._monotonic() - started:
            other = showing.read_again(reading, wanted)
            if other.evidence > _NO_WORSE * reading.evidence:
                reading, told = other, page_language.tell(other.lines, choices)
        return page_text(image, reading, order, language=told.page, of_lines=told.lines)


def _best_reading(showing: Showing, models: tuple[str, ...], choices: Collection[str]) -> Reading:
    level = skew.estimate(showing.image.image)
    best = showing.read(0, level, models)
    if not best.is_weak:
        return showing.stood_up(best)
    tried = {(0, models)}
    for quarters, slope, other_models in _other_ways(showing, level, best, choices):
        way = quarters, other_models or best.models
        if way in tried or (other_models and not best.is_weak):
            continue
        tried.add(way)
        try:
            other = showing.read(quarters, slope, way[1])
        except EngineTimeoutError:
            break
        if other.evidence > best.evidence:
            best = replace(other, beside=model_beside(other, best))
        if best.is_strong:
            break
    return best


def _other_ways(
    showing: Showing, level: skew.Skew, first: Reading, choices: Collection[str]
) -> Iterator[tuple[int, skew.Skew, tuple[str, ...]]]:
    """Quarter turns and models worth trying, the likeliest first; no models: those of the best reading so far."""
    guess = showing.orientation()
    upright = skew.estimate(turned_back(showing.image.image, 1))
    slopes = {0: level, 1: upright, 2: level, 3: upright}
    is_doubted = first.confidence < WEAK_CONFIDENCE
    model = model_of_script(guess.script, choices) if guess is not None and is_doubted else None
    if guess is not None and model is not None and model not in first.models:
        quarters = guess.quarter_turns if guess.confidence >= ORIENTATION_HINT else 0
        yield quarters, slopes[quarters], (model,)
    for quarters in quarters_worth_trying(level, upright, guess):
        yield quarters, slopes[quarters], ()
    is_unsure = guess is None or (guess.script in SCRIPTS and guess.confidence < ORIENTATION_HINT)
    if is_doubted and is_unsure and sum(map(characters, first.lines)) < _FEW_CHARACTERS:
        for other in islice(models_of_scripts(choices), _MOST_SCRIPTS):
            yield 0, level, (other,)
