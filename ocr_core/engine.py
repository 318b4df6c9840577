"""The port: what the core asks of a recognition engine, in the engine's own frame.

Invariants:

* An engine sees 8-bit gray pixels and nothing else: no file, no path, no encoded image.
* What it answers is in pixels of the picture it was given; turning that into the page's frame is not its task.
* An engine raises FailedToProcessError or its child EngineTimeoutError, and nothing else.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Gray pixels to read.

    Attributes:
        pixels: One byte for each pixel, row by row, 0 is black.
        width: Pixels in a row.
        height: Rows.
        dpi: Resolution where it is known and plausible.
    """

    pixels: bytes
    width: int
    height: int
    dpi: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundWord:
    """A word and the upright box around its ink.

    Attributes:
        text: Without white space, never empty.
        box: left, top, right, bottom in pixels; right and bottom are exclusive.
        confidence: 0..1.
        glued: True when no space separates it from the word before (a character of a script without spaces).
    """

    text: str
    box: tuple[int, int, int, int]
    confidence: float
    glued: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundLine:
    """A line of words.

    Attributes:
        words: At least one, in reading order.
        baseline: x1, y1, x2, y2 in reading direction, so that it tells the direction of the text.
        block: Number of the block of text (column, cell) that the line belongs to, in the engine's reading order.
        handwriting: The chance that it was written by hand, 0..1; None where nobody told. No engine tells it.
    """

    words: tuple[FoundWord, ...]
    baseline: tuple[float, float, float, float]
    block: int
    handwriting: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundOrientation:
    """Which way up a picture is and which script it is in, guessed without reading it.

    Attributes:
        quarter_turns: How far the text is turned clockwise, 0..3.
        confidence: From 0 upwards; 15 is reasonably sure.
        script: Such as Latin, Cyrillic, Han; empty where there is no guess.
    """

    quarter_turns: int
    confidence: float
    script: str = ""


class OcrEngine(Protocol):
    """A recognition engine."""

    @property
    def name(self) -> str:
        """What it calls itself."""

    @property
    def version(self) -> str:
        """Its version."""

    def languages(self) -> tuple[str, ...]:
        """Installed models, sorted; a model of a whole script begins with `script/`."""

    def preload(self, languages: tuple[str, ...]) -> None:
        """Load what `read` needs for these languages, so that the first page does not pay for it, and keep it."""

    def read(self, picture: Picture, languages: tuple[str, ...], *, timeout_seconds: float) -> tuple[FoundLine, ...]:
        """Read one picture.

        Args:
            picture: The pixels.
            languages: Installed models, the most likely first.
            timeout_seconds: When to give up.

        Raises:
            EngineTimeoutError: The time was not enough.
            FailedToProcessError: Anything else went wrong.
        """

    def orientation(self, picture: Picture) -> FoundOrientation | None:
        """Guess which way up the picture is; None when there is too little text to tell, or no model for it."""
