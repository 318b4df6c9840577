"""One decoded page, and the size at which it is worked on."""

import math
from dataclasses import dataclass

from PIL import Image

from ocr_core.page_text import Number, Unit

PLAUSIBLE_DPI = range(70, 1201)
MAX_PIXELS = 3_000_000
"""The cap unless another is asked for: A4 at 176 DPI, on which type of 5 points is read as well as on any larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageImage:
    """One page, decoded.

    Attributes:
        image: Mode "L"; may have fewer pixels than the page.
        page: Its number in the document, counted from 1.
        width: Width of the page as a viewer shows it, in `unit`.
        height: Height, likewise.
        unit: "pixel" or "inch".
        dpi: Resolution of `image` where it is known and plausible.
    """

    image: Image.Image
    page: int
    width: Number
    height: Number
    unit: Unit
    dpi: int | None


def target_size(size: tuple[int, int], dpi: tuple[float | None, float | None], max_pixels: int) -> tuple[int, int]:
    """The size to work at: square pixels (a fax has oblong ones), and no more of them than the cap."""
    width, height = size
    across, down = dpi
    if across and down and not 0.9 < across / down < 1.1 and 0.25 < across / down < 4:
        if across > down:
            height = round(height * across / down)
        else:
            width = round(width * down / across)
    shrink = math.sqrt(max_pixels / (width * height))
    if shrink < 1:
        width, height = math.floor(width * shrink), math.floor(height * shrink)
    return max(1, width), max(1, height)


def plausible_dpi(dpi: int | None) -> int | None:
    """The resolution, unless no scanner or camera would have it."""
    return dpi if dpi is not None and dpi in PLAUSIBLE_DPI else None
