"""Which other models a page asks for: by the script of lines that read badly, by a model that read one line well.

Invariant: a page whose lines all read about equally well asks for nothing, and costs one look at its words.
"""

import math
from collections.abc import Callable, Collection, Iterable

from PIL import Image

from ocr_core.engine import FoundLine, FoundOrientation
from ocr_core.languages import model_of_script, models_of_scripts
from ocr_core.pages.reading import LONG_LINE, STRONG_CONFIDENCE, Reading, characters, has_sure_words, sureness
from ocr_core.pages.turning import ORIENTATION_HINT, paper

_DOUBTED_SHARE = 0.2
_ENOUGH_LETTERS = 75
_MOST_TIMES = 5


def model_beside(reading: Reading, before: Reading) -> str | None:
    """The model of the reading before, where it read a line well on a page that others read better as a whole."""
    is_mixed = (
        set(before.models).isdisjoint(reading.models)
        and any(characters(line) >= LONG_LINE and sureness(line) >= STRONG_CONFIDENCE for line in before.lines)
        and any(characters(line) >= LONG_LINE for line in reading.doubted)
    )
    return before.models[0] if is_mixed else None


def script_beside(
    reading: Reading, choices: Collection[str], orientation: Callable[[Image.Image], FoundOrientation | None]
) -> str | None:
    """The model of the script of those lines of a page that read badly while others read well.

    Args:
        reading: The page.
        choices: Models that it may be read with.
        orientation: The engine's guess of a picture's orientation and script.
    """
    if not any(models_of_scripts(choices)):
        return None
    doubted = reading.doubted
    is_much = sum(map(characters, doubted)) > _DOUBTED_SHARE * sum(map(characters, reading.lines))
    if not is_much:
        doubted = tuple(line for line in doubted if characters(line) >= LONG_LINE and not has_sure_words(line))
    if not doubted:
        return None
    # The orientation model says nothing of fewer than 50 letters.
    letters = max(1, sum(map(characters, doubted)))
    times = min(_MOST_TIMES, math.ceil(_ENOUGH_LETTERS / letters)) if is_much else 1
    guess = orientation(_cut_out(reading.raster, doubted * times))
    if guess is None or guess.confidence < ORIENTATION_HINT:
        return None
    return model_of_script(guess.script, choices)


def _cut_out(gray: Image.Image, lines: Iterable[FoundLine]) -> Image.Image:
    """Some lines of a page, one below the other."""
    strips = []
    for line in lines:
        lefts, tops, rights, bottoms = zip(*(word.box for word in line.words), strict=True)
        strips.append(gray.crop((min(lefts), min(tops), max(rights), max(bottoms))))
    margin = max(strip.height for strip in strips)
    size = max(strip.width for strip in strips) + 2 * margin, sum(strip.height + margin for strip in strips) + margin
    cut = Image.new("L", size, paper(gray))
    top = margin
    for strip in strips:
        cut.paste(strip, (margin, top))
        top += strip.height + margin
    return cut
