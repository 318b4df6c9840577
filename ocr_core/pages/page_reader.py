"""One page image → PageText: shrink to what is enough, straighten, read, read again as far as it needs to be, place.

Read again means, in this order: as if it had been lit evenly, another way up, with other models, by a second engine.

Invariants:

* A page that reads well, in a language of the models that it was read with, is read once; what it pays for the others
  is a look at its light, its ink profile and its words.
* Only a page in Latin letters that reads well everywhere was read smaller than it came.
* Of two readings the one with more text that the engine believes in stays; a second that fails leaves the first.
* A page that has cost much is not tried another way, so that what is no text at all ends in seconds.
* The engines are behind a port; this module knows none by name.
"""

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import islice

from ocr_core.documents import PageImage
from ocr_core.engine import OcrEngine
from ocr_core.errors import EngineTimeoutError
from ocr_core.languages import SCRIPTS, are_latin, model_of_script, models_of_scripts
from ocr_core.page_text import PageText
from ocr_core.pages import light, page_language, resolution
from ocr_core.pages.other_models import model_beside, script_beside
from ocr_core.pages.placing import page_text
from ocr_core.pages.reading import FEW_WORDS, WEAK_CONFIDENCE, Reading, characters
from ocr_core.pages.second_look import with_second_opinion
from ocr_core.pages.second_opinion import SURE_LINE, has_doubts, is_wanted
from ocr_core.pages.showing import Showing
from ocr_core.pages.turning import ORIENTATION_HINT, is_steep, quarters_worth_trying
from ocr_core.reading_order import ReadingOrder
from ocr_core.second_engine.readable_scripts import READABLE_SCRIPTS, are_readable

_FEW_CHARACTERS = 200
_MOST_SCRIPTS = 4
_NO_WORSE = 0.97
_BLANK = 0.0002
_PICTURE = 0.02
_CREDIBLE = 0.5


class PageReader:
    """Reads pages with an engine.

    Args:
        engine: The engine.
        second: A heavier engine for handwriting and photos; None where there is none.
        even_for_print: Whether `second` reads print that reads badly, too: better, and several times as long.
        shrinks: Whether a page may be read with fewer pixels than it came with, where its print is large enough.
        monotonic: Seconds from a clock that never steps.
        processor: Seconds of processor time that this process has used.
    """

    def __init__(
        self,
        engine: OcrEngine,
        *,
        second: OcrEngine | None = None,
        even_for_print: bool = False,
        shrinks: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
        processor: Callable[[], float] = time.process_time,
    ) -> None:
        self._engine = engine
        self._second = second
        self._even_for_print = even_for_print
        self._shrinks = shrinks
        self._monotonic = monotonic
        self._processor = processor

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
        until = self._monotonic() + timeout_seconds
        image = replace(image, dpi=resolution.suited(image.image, image.dpi))
        showing = Showing(image, self._engine, until=until, monotonic=self._monotonic, processor=self._processor)
        showing, first = _first_reading(showing, models, shrinks=self._shrinks)
        if language is not None:
            reading = self._asked_twice(_best_reading(showing, first, ()), showing, models)
            return page_text(image, reading, order, language=language, of_lines=(None,) * len(reading.lines))
        reading = _best_reading(showing, first, choices)
        reading = self._in_its_languages(reading, showing, choices, timeout_seconds)
        reading = self._asked_twice(reading, showing, models)
        told = page_language.tell(reading.lines, choices or models)
        return page_text(image, reading, order, language=told.page, of_lines=told.lines)

    def _in_its_languages(
        self, reading: Reading, showing: Showing, choices: Collection[str], timeout_seconds: float
    ) -> Reading:
        """The page read with the models of its languages, where that reads better."""
        told = page_language.tell(reading.lines, choices or reading.models)
        beside = reading.beside or script_beside(reading, choices, showing.orientation_of)
        wanted = page_language.models_asked_for(told, reading.models, choices, also=beside)
        if not wanted or showing.is_costly or showing.remaining_seconds < timeout_seconds / 2:
            return reading
        other = showing.read_again(reading, wanted)
        return other if other.evidence > _NO_WORSE * reading.evidence else reading

    def _asked_twice(self, reading: Reading, showing: Showing, asked: tuple[str, ...]) -> Reading:
        """The page as the second engine reads it too, where there is one and the page asks for it.

        Models that were `asked` for tell what the page is in; others tell it only where they read it.
        """
        if self._second is None or not is_wanted(reading, even_for_print=self._even_for_print):
            return reading
        if not are_readable(asked) or (reading.confidence >= _CREDIBLE and not are_readable(reading.models)):
            return reading
        if not reading.lines and light.structure(showing.image.image) < _PICTURE:
            return reading
        guess = showing.orientation() if reading.is_weak else None
        if guess is not None and guess.confidence >= ORIENTATION_HINT and guess.script not in READABLE_SCRIPTS:
            return reading
        return with_second_opinion(reading, showing.before(self._second))


def _first_reading(showing: Showing, models: tuple[str, ...], *, shrinks: bool) -> tuple[Showing, Reading]:
    """The page read as it came, or smaller where its letters are larger than they need to be and all read well."""
    smaller = showing.smaller() if shrinks and are_latin(models) else None
    if smaller is not None:
        reading = smaller.read(0, models)
        if not has_doubts(reading):
            return smaller, reading
    return showing, showing.read(0, models)


def _best_reading(showing: Showing, first: Reading, choices: Collection[str]) -> Reading:
    best, models = first, first.models
    if light.is_uneven(showing.image.image):
        showing, best = _better_lit(showing, best)
    is_blank = not best.lines and light.structure(showing.image.image) < _BLANK
    if (best.is_weak or is_steep(best.lines)) and not is_blank and showing.look_for_steep_lines():
        best = _levelled(showing, best)
    if not best.is_weak:
        return _surer_way_up(showing, showing.stood_up(best))
    if is_blank:
        return best
    tried = {(0, models)}
    for quarters, other_models in _other_ways(showing, best, choices):
        if showing.is_costly:
            break
        way = quarters, other_models or best.models
        if way in tried or (other_models and not best.is_weak):
            continue
        tried.add(way)
        try:
            other = showing.read(quarters, way[1])
        except EngineTimeoutError:
            break
        if other.evidence > best.evidence:
            best = replace(other, beside=model_beside(other, best))
        if best.is_strong:
            break
    return best


def _better_lit(showing: Showing, reading: Reading) -> tuple[Showing, Reading]:
    """The page as it came or as if it had been lit evenly, whichever reads better."""
    evened = showing.evened()
    try:
        other = evened.read(0, reading.models)
    except EngineTimeoutError:
        return showing, reading
    return (evened, other) if other.evidence > reading.evidence else (showing, reading)


def _surer_way_up(showing: Showing, reading: Reading) -> Reading:
    """A word or two that the engine is not quite sure of, or the same upside down, whichever reads better.

    So little says nothing of which end is up, and upside down it is often a word of other letters.
    """
    if reading.words >= FEW_WORDS or reading.confidence >= SURE_LINE:
        return reading
    try:
        other = showing.read((round(reading.turned / 90) + 2) % 4, reading.models)
    except EngineTimeoutError:
        return reading
    return other if other.evidence > reading.evidence else reading


def _levelled(showing: Showing, reading: Reading) -> Reading:
    """The page as it came or with its steep lines turned level, whichever reads better."""
    try:
        other = showing.read(0, reading.models)
    except EngineTimeoutError:
        return reading
    return other if other.evidence > reading.evidence else reading


def _other_ways(showing: Showing, first: Reading, choices: Collection[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Quarter turns and models worth trying, the likeliest first; no models: those of the best reading so far."""
    guess = showing.orientation()
    is_doubted = first.confidence < WEAK_CONFIDENCE
    is_sure = guess is not None and guess.confidence >= ORIENTATION_HINT
    model = model_of_script(guess.script, choices) if guess is not None and is_doubted else None
    if guess is not None and is_sure and model is not None:
        yield guess.quarter_turns, (model,)
    for quarters in quarters_worth_trying(showing.slope(0), showing.slope(1), guess):
        yield quarters, ()
    if model is not None and not is_sure:
        yield 0, (model,)
    is_unsure = guess is None or (guess.script in SCRIPTS and not is_sure)
    if is_doubted and is_unsure and sum(map(characters, first.lines)) < _FEW_CHARACTERS:
        for other in islice(models_of_scripts(choices), _MOST_SCRIPTS):
            yield 0, (other,)
