"""The resolution that the engine is told, where a picture tells none or one that cannot be.

Tesseract takes a dark stroke of more than a quarter of an inch for a ruling line and removes it. Without a resolution
it assumes 70 dots per inch, and letters of 24 pixels lose their stems: "Left column" becomes "Lef co umn". With one
that is too high small letters are lost. So what it is told is held against the height of the text.

Invariants:

* A resolution that makes the text no larger than a heading stays what the file says.
* Where no rows of text are to be seen, nothing is guessed.
* Pure; a few milliseconds, and nothing at all for a picture of `PLENTY` or more.
"""

import re
from statistics import median

from PIL import Image

PLENTY = 150
"""From here on the text would have to be far larger than any that is read often."""

_ASSUMED = range(70, 301)
_USUAL_POINTS = 12
_LARGEST_POINTS = 20
_POINTS_PER_INCH = 72
_STRIPS = 8
_RUN_OF_EM = 0.62  # the middle of what fonts show: from the top of most letters, or of tall ones, to the line
_INK = 12
_LEAST_RUN, _MOST_RUN = 5, 200
_FEWEST_RUNS = 4
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
        strip = pixels[start : start + length]
        paper = sorted(strip)[length * 9 // 10]
        inked = strip.translate(bytes(value < paper - _INK for value in range(256)))
        runs = (found.end() - found.start() for found in _RUNS.finditer(inked))
        heights += [run for run in runs if _LEAST_RUN <= run <= _MOST_RUN]
    return median(heights) / _RUN_OF_EM if len(heights) >= _FEWEST_RUNS else None
