"""The resolution that the engine is told, where a picture tells none or one that cannot be; and how much is enough.

Tesseract takes a dark stroke of more than a quarter of an inch for a ruling line and removes it. Without a resolution
it assumes 70 dots per inch, and letters of 24 pixels lose their stems: "Left column" becomes "Lef co umn". With one
that is too high small letters are lost. So what it is told is held against the height of the text.

Invariants:

* A resolution that makes the text no larger than a heading stays what the file says.
* Where no rows of text are to be seen, nothing is guessed.
* What is enough is judged by the smallest letters, so that a footnote does not suffer for the text above it. Specks
  look like the smallest letters of all: a page that is not clean stays as it is.
* Pure; a few milliseconds. Nothing is guessed of a picture of `PLENTY` or more, nothing taken from one of `ENOUGH`.
"""

import re
from statistics import median

from PIL import Image

PLENTY = 150
"""From here on the text would have to be far larger than any that is read often."""

ENOUGH = 1_500_000
"""Pixels: a smaller page is read fast as it is."""

_ASSUMED = range(70, 301)
_USUAL_POINTS = 12
_LARGEST_POINTS = 20
_POINTS_PER_INCH = 72
_STRIPS = 8
_RUN_OF_EM = 0.62  # the middle of what fonts show: from the top of most letters, or of tall ones, to the line
_INK = 12
_LEAST_RUN, _MOST_RUN = 5, 200
_FEWEST_RUNS = 4
_SMALL_STRIPS = 24
_SMALL_STRIP = 64  # pixels wide: a word or less, so that a slope does not make rows look taller
_FEWEST_SMALL_RUNS = 96
_LOW_LETTER = 11  # pixels that a low letter, such as x, is left with: 20 for the type
_WORTH_IT = 0.9  # of either side: else it costs as much as it saves
_RUNS = re.compile(rb"\x01+")


def suited(gray: Image.Image, dpi: int | None) -> int | None:
    """The resolution to tell the engine.

    Args:
        gray: The picture, mode "L".
        dpi: What its file says, None if nothing.
    """
    if dpi is not None and dpi >= PLENTY:
        return dpi
    height = text_height(gray)
    if height is None or (dpi is not None and _POINTS_PER_INCH * height / dpi <= _LARGEST_POINTS):
        return dpi
    usual = round(_POINTS_PER_INCH * height / _USUAL_POINTS)
    return max(_ASSUMED.start, min(_ASSUMED.stop - 1, usual))


def enough(gray: Image.Image) -> float:
    """How far a page can be shrunk, both sides alike, before its smallest letters read worse: 0..1, 1 for not at all.

    It holds for letters; signs of many strokes need more (measured: `docs/adr/0025`).

    Args:
        gray: Mode "L".
    """
    pixels = gray.width * gray.height
    low = _low_letter(gray) if pixels > ENOUGH else None
    if low is None:
        return 1.0
    shrink = max(_LOW_LETTER / low, (ENOUGH / pixels) ** 0.5)
    return shrink if shrink <= _WORTH_IT else 1.0


def _low_letter(gray: Image.Image) -> int | None:
    """How tall the lowest letters are that there are many of, pixels; None where there is little print."""
    step = gray.width / _SMALL_STRIPS
    runs: list[int] = []
    for number in range(_SMALL_STRIPS):
        left = int((number + 0.5) * step)
        strip = gray.crop((left, 0, min(left + _SMALL_STRIP, gray.width), gray.height))
        runs += _inked_runs(strip.resize((1, gray.height), Image.Resampling.BOX).tobytes())
    return sorted(runs)[len(runs) // 10] if len(runs) >= _FEWEST_SMALL_RUNS else None


def text_height(gray: Image.Image) -> float | None:
    """The size of the type that most rows are set in, in pixels; None where there are no level rows to speak of.

    Args:
        gray: Mode "L".
    """
    strips = gray.resize((min(_STRIPS, gray.width), gray.height), Image.Resampling.BOX).transpose(
        Image.Transpose.TRANSPOSE
    )
    pixels, length = strips.tobytes(), strips.width
    heights = []
    for start in range(0, len(pixels), length):
        heights += _inked_runs(pixels[start : start + length])
    return median(heights) / _RUN_OF_EM if len(heights) >= _FEWEST_RUNS else None


def _inked_runs(strip: bytes) -> list[int]:
    """How tall the rows of text are that a strip runs down through, pixels."""
    paper = sorted(strip)[len(strip) * 9 // 10]
    inked = strip.translate(bytes(value < paper - _INK for value in range(256)))
    runs = (found.end() - found.start() for found in _RUNS.finditer(inked))
    return [run for run in runs if _LEAST_RUN <= run <= _MOST_RUN]
