"""When a page is shown to the second engine, and what is made of two readings of the same page.

Invariants:

* Pure. A page that reads well everywhere asks for no second opinion, nor does one in writing that the other engine
  does not know, nor, unless it is wished for, print that reads badly: the other engine reads it better, but takes
  several times as long.
* Of two readings of the same place the one stays that is expected to have more letters right; what the first engine is
  sure of stays as it is.
* What only one engine sees is told only if that engine is sure of it: textures look like letters now and then.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, pairwise

from ocr_core.engine import FoundLine
from ocr_core.languages import are_latin
from ocr_core.pages import light, style
from ocr_core.pages.columns import Box, box_of, in_columns, in_rows
from ocr_core.pages.ideographs import ONE_CHARACTER_WORD
from ocr_core.pages.reading import (
    LONG_LINE,
    STRONG_CONFIDENCE,
    WEAK_CONFIDENCE,
    Reading,
    characters,
    mean,
    sureness,
)

SURE_LINE = 0.9
"""From here on a line of the first engine is not worth a second look."""

_FAULTY_CHARACTERS = 200
"""A page with less is read again in a tenth of a second or two, and says too little of what it is."""

_LIKELY_WRONG = 0.5
_WRONG_SHARE = 0.35  # poor print .14 to .34, handwriting beside print .35 to .98
_FAULTLESS = 0.93  # the better lines of poor print .83 to .92, those beside handwriting .90 to .96
_DOUBTED_SHARE = 0.25
_PARAGRAPH_LINES = 3
_LEAST_BELIEVED = 0.5
_SURE_SECOND = 0.77  # between the surest nonsense, read upside down, and the least sure text
_FEWEST_LETTERS = 2
_PREFERENCE = 1.02
_SAME_ROW = 0.5
_SAME_PLACE = 0.3

_Scale = tuple[tuple[float, float], ...]
_Place = tuple[list[FoundLine], list[tuple[FoundLine, Box]]]
"""Lines of the first engine, and those of the second with their boxes."""

# Share of letters that were right, by what the engine said of them, on lines of every kind of page.
_RIGHT_BY_FIRST: _Scale = ((0.0, 0.2), (0.4, 0.45), (0.6, 0.75), (0.8, 0.9), (0.9, 0.985), (0.95, 0.996), (1.0, 1.0))
_RIGHT_BY_SECOND: _Scale = ((0.0, 0.2), (0.5, 0.45), (0.8, 0.77), (0.9, 0.9), (0.95, 0.94), (0.98, 0.995), (1.0, 0.998))


def is_wanted(reading: Reading, *, even_for_print: bool = False) -> bool:
    """Whether a second engine is to read a page.

    Args:
        reading: The best of the first.
        even_for_print: Whether time is given to print, too: receipts and typescripts that read badly.
    """
    return has_doubts(reading) and (even_for_print or not is_faulty_print(reading))


def has_doubts(reading: Reading) -> bool:
    """Whether a page reads badly, or a part of it does."""
    return not reading.is_strong or _is_doubted_in_part(reading) or _has_doubted_region(reading)


def is_faulty_print(reading: Reading) -> bool:
    """Whether what reads badly on a page is print all the same: faint, small or worn; in Latin letters alone.

    Such print has faults all over the page. In its worst lines some letters are doubtful and most words are not; in a
    line of handwriting, or of letters in a photo, the words are wrong, and what is printed beside it has no faults.
    """
    rest = [line for line in reading.lines if not _is_doubted(line)]
    if reading.is_weak or not rest or not are_latin(reading.models) or _letters(reading.lines) < _FAULTY_CHARACTERS:
        return False
    doubted = [line for line in reading.lines if _is_doubted(line)]
    wrong = sum(len(word.text) for line in doubted for word in line.words if word.confidence < _LIKELY_WRONG)
    return wrong < _WRONG_SHARE * _letters(doubted) and _confidence(rest) < _FAULTLESS


def _is_doubted_in_part(reading: Reading) -> bool:
    """Whether a good part of a page that reads well does not: what is written by hand into a form, say."""
    return _letters([line for line in reading.lines if _is_doubted(line)]) > _DOUBTED_SHARE * _letters(reading.lines)


def _has_doubted_region(reading: Reading) -> bool:
    """Whether there is a place that reads badly, however much reads well elsewhere: a note under a printed page, say.

    A paragraph that reads badly is enough; of fewer lines much of what is to be seen must be in them or in none. What
    is in no line does not call by itself: grain and the ground of a photo are in none.
    """
    runs = [list(run) for is_doubted, run in groupby(reading.lines, key=_is_doubted) if is_doubted]
    longest = max(runs, key=_letters, default=[])
    if len(longest) >= _PARAGRAPH_LINES and _letters(longest) >= 2 * LONG_LINE:
        return True
    is_some = len(longest) >= _PARAGRAPH_LINES - 1 and _letters(longest) >= LONG_LINE
    return is_some and _unread(reading, [line for line in reading.lines if not _is_doubted(line)]) > _DOUBTED_SHARE


def _is_doubted(line: FoundLine) -> bool:
    return sureness(line) < STRONG_CONFIDENCE


def _letters(lines: Sequence[FoundLine]) -> int:
    return sum(map(characters, lines))


def _unread(reading: Reading, lines: Sequence[FoundLine]) -> float:
    """Share of what is to be seen on a page that is in none of some lines, 0..1."""
    seen = light.structure(reading.raster)
    return light.structure(reading.raster, outside=map(box_of, lines)) / seen if seen else 0.0


def is_believable(lines: Sequence[FoundLine]) -> bool:
    """Whether what the second engine found is text that it is sure of."""
    return _confidence(lines) >= _SURE_SECOND and sum(map(characters, lines)) > 0


def believed(lines: Sequence[FoundLine], *, beside_text: bool) -> tuple[FoundLine, ...]:
    """The lines of the second engine without what may be a texture.

    Args:
        lines: What it found.
        beside_text: Whether the first engine found text on the page that it is sure of.
    """
    lines = [line for line in lines if not _is_one_ideograph(line)] if _are_few_ideographs(lines) else lines
    sure = [line for line in lines if sureness(line) >= _SURE_SECOND]
    if not beside_text and not any(map(_is_word, sure)):
        return ()
    if 2 * sum(map(characters, sure)) >= sum(map(characters, lines)):
        return tuple(lines)
    return tuple(sure)


def _is_word(line: FoundLine) -> bool:
    """Whether there is more in a line than single letters; circles and twigs look like those."""
    longest = max((sum(map(str.isalnum, word.text)) for word in line.words), default=0)
    ideographs = sum(ONE_CHARACTER_WORD.fullmatch(word.text) is not None for word in line.words)
    return max(longest, ideographs) >= _FEWEST_LETTERS


def _is_one_ideograph(line: FoundLine) -> bool:
    return len(line.words) == 1 and ONE_CHARACTER_WORD.fullmatch(line.words[0].text) is not None


def _are_few_ideographs(lines: Sequence[FoundLine]) -> bool:
    """Whether most of what was found is in other writing, so that a lone ideograph is likelier a tangle of strokes."""
    texts = "".join(word.text for line in lines for word in line.words)
    return 2 * len(ONE_CHARACTER_WORD.findall(texts)) < len(texts)


def merged(first: Sequence[FoundLine], second: Sequence[FoundLine], *, is_laid_out: bool) -> tuple[FoundLine, ...]:
    """One reading out of two of the same raster, in reading order.

    Args:
        first: Lines of the first engine, in its order.
        second: Lines of the second, in any order.
        is_laid_out: Whether the first engine's order and blocks are to be trusted.
    """
    kept: list[FoundLine] = []
    told = _Told(first, second)
    for mine, others in _places([line for line in first if sureness(line) >= _LEAST_BELIEVED], second):
        if not others:
            kept += [line for line in mine if sureness(line) >= WEAK_CONFIDENCE]
        elif not mine or _expected(others, _RIGHT_BY_SECOND) > _PREFERENCE * _expected(mine, _RIGHT_BY_FIRST):
            kept += others
        else:
            kept += mine
    laid_out = _laid_out(kept, first) if is_laid_out else in_columns(kept)
    return tuple(replace(line, handwriting=told.handwriting(line)) for line in laid_out)


class _Told:
    """What both engines say of a page, and of each place on it."""

    def __init__(self, first: Sequence[FoundLine], second: Sequence[FoundLine]) -> None:
        self._first, self._second = _with_boxes(first), _with_boxes(second)
        self._first_page = _confidence(first)
        self._second_page = _confidence(second) if second else None

    def handwriting(self, line: FoundLine) -> float:
        """The chance that a line was written by hand."""
        box = box_of(line)
        return style.handwriting(
            _sureness_at(box, self._first),
            _sureness_at(box, self._second),
            first_page=self._first_page,
            second_page=self._second_page,
        )


def _with_boxes(lines: Sequence[FoundLine]) -> list[tuple[FoundLine, Box]]:
    return [(line, box_of(line)) for line in lines]


def _sureness_at(box: Box, lines: Sequence[tuple[FoundLine, Box]]) -> float | None:
    there = [line for line, other in lines if _meet(box, other)]
    return _confidence(there) if there else None


def _confidence(lines: Sequence[FoundLine]) -> float:
    return mean((sureness(line), characters(line)) for line in lines)


def _expected(lines: Sequence[FoundLine], scale: _Scale) -> float:
    """How many letters more are expected to be right than wrong."""
    return sum(len(word.text) * (2 * _at(scale, word.confidence) - 1) for line in lines for word in line.words)


def _at(scale: _Scale, confidence: float) -> float:
    for (low, low_value), (high, high_value) in pairwise(scale):
        if confidence <= high:
            return low_value + (high_value - low_value) * (confidence - low) / (high - low)
    return scale[-1][1]


def _places(
    first: Sequence[FoundLine], second: Sequence[FoundLine]
) -> Iterator[tuple[list[FoundLine], list[FoundLine]]]:
    """Lines of both engines that lie in the same place, together."""
    places: list[_Place] = [([], [one]) for one in _with_boxes(second)]
    for line, box in _with_boxes(first):
        met: list[_Place] = []
        apart: list[_Place] = []
        for place in places:
            (met if any(_meet(box, other) for _, other in place[1]) else apart).append(place)
        mine = [line, *(one for lines, _ in met for one in lines)]
        others = [one for _, there in met for one in there]
        places = [*apart, (mine, others)]
    for mine, others in places:
        yield mine, [line for line, _ in others]


def _meet(one: Box, other: Box) -> bool:
    """Whether two lines lie in the same row, over a good part of the shorter one."""
    down = min(one[3], other[3]) - max(one[1], other[1])
    across = min(one[2], other[2]) - max(one[0], other[0])
    return down > _SAME_ROW * min(one[3] - one[1], other[3] - other[1]) and across > _SAME_PLACE * min(
        one[2] - one[0], other[2] - other[0]
    )


def _laid_out(lines: Sequence[FoundLine], first: Sequence[FoundLine]) -> tuple[FoundLine, ...]:
    """Lines in the first engine's blocks, those of the second in the nearest one."""
    places = [(line.block, box_of(line)) for line in first]
    if not places:
        return in_columns(lines)
    mine = set(map(id, first))
    blocks: dict[int, list[FoundLine]] = {}
    for line in lines:
        block = line.block
        if id(line) not in mine:
            box = box_of(line)
            block = min(places, key=lambda place: _distance(place[1], box))[0]
        blocks.setdefault(block, []).append(replace(line, block=block))
    return tuple(line for block in sorted(blocks) for line in in_rows(blocks[block]))


def _distance(one: Box, other: Box) -> float:
    across = max(0, one[0] - other[2], other[0] - one[2])
    down = max(0, one[1] - other[3], other[1] - one[3])
    return float(across**2 + down**2)
