"""Whether a line was printed or written by hand, told from how sure the engines are of it.

Both engines learned print best. Print that reads badly reads badly to one of them here and there; handwriting leaves
both of them less sure, all over the page. Each of these facts adds to the log-odds of handwriting, by tables that were
made from lines of known pages (letters, forms, books, typescripts, receipts, signs).

Invariants:

* Pure. The surer an engine is of a line or of a page, the less likely is handwriting.
* The confidence that is told is the chance that the name is right: never below a half.
"""

import math
from itertools import pairwise

from ocr_core.page_text import Style

_CONFIDENCE_DECIMALS = 3

_Table = tuple[tuple[float, float], ...]

_PRIOR = -1.0
_FIRST: _Table = ((0.2, 2.2), (0.5, 1.2), (0.7, 0.0), (0.8, -1.0), (0.9, -3.0), (0.96, -5.0))
_FIRST_PAGE: _Table = ((0.3, 2.0), (0.5, 1.5), (0.65, 0.0), (0.8, -1.5), (0.9, -3.0))
_SECOND: _Table = ((0.9, 2.0), (0.95, 1.0), (0.97, 0.5), (0.98, -0.5), (0.99, -2.0), (0.998, -4.0))
_SECOND_PAGE: _Table = ((0.85, 3.0), (0.95, 2.0), (0.97, 0.7), (0.98, -0.8), (0.99, -2.5))


def handwriting(
    first: float | None, second: float | None, *, first_page: float, second_page: float | None = None
) -> float:
    """The chance that a line was written by hand, 0..1.

    Args:
        first: How sure the first engine is of it; None where it found nothing there.
        second: How sure the second is; None where it was not asked, or found nothing.
        first_page: How sure the first engine is of the page as a whole.
        second_page: How sure the second is of what it found; None where it was not asked.
    """
    odds = _PRIOR
    if first is not None:
        odds += _at(_FIRST, first)
    if second is not None:
        odds += _at(_SECOND, second)
    odds += _at(_FIRST_PAGE, first_page) if second_page is None else _at(_SECOND_PAGE, second_page)
    return 1 / (1 + math.exp(-odds))


def style(chance: float) -> Style:
    """What is told of a line.

    Args:
        chance: That it was written by hand.
    """
    if chance > 0.5:
        return Style(name="handwriting", confidence=round(chance, _CONFIDENCE_DECIMALS))
    return Style(name="other", confidence=round(1 - chance, _CONFIDENCE_DECIMALS))


def _at(table: _Table, sureness: float) -> float:
    """The value at a place between the table's rows; beyond its ends, the end's."""
    if sureness <= table[0][0]:
        return table[0][1]
    for (low, low_value), (high, high_value) in pairwise(table):
        if sureness <= high:
            return low_value + (high_value - low_value) * (sureness - low) / (high - low)
    return table[-1][1]
