"""What the engine found in one raster, as a value, and what that says of how well the page was read.

Invariant: pure; a line or a page is as sure as its letters, so that a long word counts for more than a short one.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image

from ocr_core.engine import FoundLine
from ocr_core.pages import light
from ocr_core.pages.columns import box_of
from ocr_core.pages.geometry import Affine

WEAK_CONFIDENCE = 0.65
STRONG_CONFIDENCE = 0.80
FEW_WORDS = 3
LONG_LINE = 20
"""Characters from which on a line says something of its own."""

_LITTLE_LEFT = 0.2
_DOUBTED_LINE = 0.5
_FAR_WORSE = 0.2


@dataclass(frozen=True, slots=True)
class Reading:
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
        """How many."""
        return sum(len(line.words) for line in self.lines)

    @property
    def confidence(self) -> float:
        """How sure the engine is of the letters, 0..1."""
        return mean((sureness(line), characters(line)) for line in self.lines)

    @property
    def is_strong(self) -> bool:
        """Whether nothing else needs to be tried."""
        return self.confidence >= STRONG_CONFIDENCE and self._is_enough

    @property
    def is_weak(self) -> bool:
        """Whether the page may well lie otherwise, or be in another script."""
        return self.confidence < WEAK_CONFIDENCE or not self._is_enough

    @property
    def _is_enough(self) -> bool:
        """Whether a page has some words; few are enough where there is little else to be seen."""
        if self.words >= FEW_WORDS or not self.lines:
            return self.words >= FEW_WORDS
        left = light.structure(self.raster, outside=map(box_of, self.lines))
        return left <= _LITTLE_LEFT * light.structure(self.raster)

    @property
    def doubted(self) -> tuple[FoundLine, ...]:
        """Lines that read far worse than the best third of the page."""
        surenesses = sorted(map(sureness, self.lines), reverse=True)
        least = max(_DOUBTED_LINE, surenesses[len(surenesses) // 3] - _FAR_WORSE) if surenesses else 0.0
        return tuple(line for line in self.lines if sureness(line) < least)

    @property
    def evidence(self) -> float:
        """How much text there is that the engine believes in."""
        return sum(len(word.text) * max(0.0, word.confidence - 0.5) for line in self.lines for word in line.words)


def sureness(line: FoundLine) -> float:
    """How sure the engine is of the letters of a line, 0..1."""
    return mean((word.confidence, len(word.text)) for word in line.words)


def characters(line: FoundLine) -> int:
    """How many, without spaces."""
    return sum(len(word.text) for word in line.words)


def has_sure_words(line: FoundLine) -> bool:
    """Whether half of a line is in words that read well: a smudge, no other script."""
    sure = sum(len(word.text) for word in line.words if word.confidence >= STRONG_CONFIDENCE)
    return 2 * sure >= characters(line)


def mean(weighted: Iterable[tuple[float, float]]) -> float:
    """Mean of pairs of value and weight; 0 of nothing."""
    total = weights = 0.0
    for value, weight in weighted:
        total += value * weight
        weights += weight
    return total / weights if weights else 0.0
