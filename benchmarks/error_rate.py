"""Character error rate of long texts: the figure of `tests.pages.character_error_rate`, as fast as a corpus needs it.

Normalised first: NFC, curly quotes and dashes plain, hyphens at line ends joined, white space collapsed.
"""

from __future__ import annotations

import re
import unicodedata

_PLAIN = str.maketrans(
    dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033", '"')
    | dict.fromkeys("\u2018\u2019\u201a\u201b\u2032", "'")
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-")
)
_HYPHEN_AT_LINE_END = re.compile(r"(?<=\w)-[ \t]*\n\s*(?=\w)")


def normalised(text: str, *, fold_case: bool = False) -> str:
    """A text as it is compared."""
    text = _HYPHEN_AT_LINE_END.sub("", unicodedata.normalize("NFC", text).translate(_PLAIN))
    return " ".join((text.casefold() if fold_case else text).split())


def error_rate(truth: str, text: str, *, fold_case: bool = False, is_partial: bool = False) -> float:
    """Edits for each character of the truth, at most 1; of an empty truth 1 for any text.

    Args:
        truth: What is on the page.
        text: What was read.
        fold_case: Compare without regard to case.
        is_partial: The truth holds the legible text alone: what was read before and after it is not counted.
    """
    truth, text = normalised(truth, fold_case=fold_case), normalised(text, fold_case=fold_case)
    if not truth:
        return float(bool(text))
    return min(1.0, _edits(truth, text, is_free_around=is_partial) / len(truth))


def _edits(pattern: str, text: str, *, is_free_around: bool) -> int:
    """Levenshtein's distance with a column of the table in one integer (Myers 1999, Hyyrö 2003)."""
    places: dict[str, int] = {}
    for number, character in enumerate(pattern):
        places[character] = places.get(character, 0) | 1 << number
    full, last = (1 << len(pattern)) - 1, 1 << len(pattern) - 1
    up, down, distance = full, 0, len(pattern)
    least = distance
    for character in text:
        match = places.get(character, 0)
        zero = (((match & up) + up) ^ up) | match | down
        rising, falling = down | ~(zero | up) & full, up & zero
        distance += bool(rising & last) - bool(falling & last)
        rising, falling = rising << 1 | (not is_free_around), falling << 1
        up, down = (falling | ~(zero | rising)) & full, rising & zero & full
        least = min(least, distance)
    return least if is_free_around else distance
