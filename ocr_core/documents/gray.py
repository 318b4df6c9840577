"""Pixels of any kind → 8-bit gray, on white; on black what would be lost on white."""

import math
from collections.abc import Sequence

from PIL import Image

from ocr_core.errors import InvalidImageError

_BAND_PIXELS = 1_000_000
_SAMPLE_SIDE = 1024
_OPAQUE = 128
_LIGHT = 192
_DARK_SHARE = 0.01  # of what is to be seen: less is no text
_WHITE, _BLACK = 255, 0


def as_gray(image: Image.Image, target: tuple[int, int]) -> Image.Image:
    """8-bit gray, on white, in another size by averaging areas.

    Where all that is to be seen of a picture is as light as white itself, as letters meant for a dark page are, it is
    laid on black. Made band by band, so that a large picture is held once: an area that is averaged never looks beyond
    its band.

    Args:
        image: Of any kind.
        target: Width and height wanted, pixels.

    Raises:
        InvalidImageError: Its pixels are not numbers.
    """
    if image.mode == "L" and "transparency" not in image.info:
        return image.copy() if image.size == target else image.resize(target, Image.Resampling.BOX)
    width, height = image.size
    across, down = target
    scale = height / down
    rows = max(1, int(_BAND_PIXELS / width / scale))
    bands = [(top, min(down, top + rows)) for top in range(0, down, rows)]
    sources = [(0, int(top * scale), width, min(height, math.ceil(bottom * scale))) for top, bottom in bands]
    depth = _depth(image, sources) if image.mode.startswith("I") or image.mode == "F" else None
    paper = _paper(image) if depth is None and _has_alpha(image) else _WHITE
    gray = Image.new("L", target)
    for (top, bottom), source in zip(bands, sources, strict=True):
        piece = image.crop(source)
        piece = _gray_band(piece, paper) if depth is None else _scaled(piece, depth)
        if image.size != target:
            above = source[1]
            box = (0.0, top * scale - above, float(width), min(bottom * scale - above, float(piece.height)))
            piece = piece.resize((across, bottom - top), Image.Resampling.BOX, box=box)
        gray.paste(piece, (0, top))
    return gray


def _has_alpha(image: Image.Image) -> bool:
    return "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")


def _with_alpha(image: Image.Image) -> Image.Image:
    mode = "LA" if image.mode in ("L", "LA", "La") else "RGBA"
    return image if image.mode == mode else image.convert(mode)


def _paper(image: Image.Image) -> int:
    """What to lay a picture on that is transparent in places; looked at in samples."""
    size = min(image.width, _SAMPLE_SIDE), min(image.height, _SAMPLE_SIDE)
    sample = _with_alpha(image.resize(size, Image.Resampling.NEAREST))
    seen = sample.getchannel("A").point([255 * (value >= _OPAQUE) for value in range(256)])
    shades = sample.convert("L").histogram(seen)
    is_light = sum(shades[:_LIGHT]) <= _DARK_SHARE * sum(shades)
    return _BLACK if is_light and 0 < sum(shades) < size[0] * size[1] else _WHITE


def _gray_band(image: Image.Image, paper: int) -> Image.Image:
    if _has_alpha(image):
        return _flattened(_with_alpha(image), paper)
    if image.mode in ("CMYK", "HSV"):
        return image.convert("RGB").convert("L")
    if image.mode in ("LAB", "YCbCr"):
        return image.getchannel(0)
    return image.convert("L")


def _flattened(image: Image.Image, paper: int) -> Image.Image:
    alpha = image.getchannel("A")
    gray = image.convert("L")
    if alpha.getextrema() == (255, 255):
        return gray
    return Image.composite(gray, Image.new("L", gray.size, paper), alpha)


def _depth(image: Image.Image, bands: Sequence[tuple[int, int, int, int]]) -> tuple[float, float]:
    """Factor and offset that bring deep pixels to 0..255: by the number of bits that are used; real ones by range."""
    extremes = [extreme for band in bands for extreme in _deep(image.crop(band)).getextrema()]
    low, high = min(extremes), max(extremes)
    if not (isinstance(low, int | float) and isinstance(high, int | float) and math.isfinite(high - low)):
        raise InvalidImageError("The image is damaged: its pixels are not numbers.")
    if image.mode == "F":
        return (255 / (high - low), -low * 255 / (high - low)) if high > low else (0.0, 255.0)
    return 255 / (2 ** max(8, int(high).bit_length()) - 1), 0.0


def _deep(image: Image.Image) -> Image.Image:
    return image if image.mode in ("I", "F") else image.convert("I")


def _scaled(image: Image.Image, depth: tuple[float, float]) -> Image.Image:
    factor, offset = depth
    return _deep(image).point(lambda value: value * factor + offset).convert("L")
