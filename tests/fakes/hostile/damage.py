"""Good documents of every format, cut off, with bits turned over, and with other numbers in their headers."""

import random
import struct
from collections.abc import Iterator
from functools import cache, partial

from PIL import Image

from tests import pages
from tests.fakes.hostile.sample import Sample

_KILOBYTE = 1024
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


@cache
def good() -> dict[str, bytes]:
    """One document of each kind."""
    page = pages.printed_page(pages.LINES[:4], size=(900, 500))
    colour = Image.merge("RGB", (page.image, Image.linear_gradient("L").resize(page.image.size), page.image))
    return {
        "png": pages.as_png(page),
        "png of a palette": pages.encoded(colour.quantize(64), "PNG"),
        "jpeg": pages.as_jpeg(page),
        "progressive jpeg": pages.encoded(colour, "JPEG", progressive=True),
        "cmyk jpeg": pages.encoded(colour.convert("CMYK"), "JPEG"),
        "bmp": pages.as_bmp(page),
        "tiff lzw": pages.as_tiff([page] * 2),
        "tiff g4": pages.encoded(page.image.convert("1"), "TIFF", compression="group4"),
        "tiff deflate": pages.encoded(colour, "TIFF", compression="tiff_adobe_deflate"),
        "tiff jpeg": pages.encoded(colour, "TIFF", compression="jpeg"),
        "tiff raw": pages.encoded(colour.resize((200, 100)), "TIFF"),
        "scanned pdf": pages.as_pdf([page] * 2),
        "digital pdf": pages.digital_pdf([pages.LINES] * 3),
        "encrypted pdf": pages.digital_pdf([pages.LINES], password=""),
        "gif": pages.as_gif([page]),
        "webp": pages.as_webp(page),
        "lossy webp": pages.as_webp(page, lossless=False),
        "ico": pages.as_ico([page.image]),
        "mpo": pages.as_mpo([page, page]),
    }


def truncated() -> Iterator[Sample]:
    """Every kilobyte; the first bytes of each closer."""
    for kind, blob in good().items():
        ends = {1, 2, 4, 8, 16, 33, 64, 100, 150, 300, 600, *range(_KILOBYTE, len(blob), _KILOBYTE), len(blob) - 1}
        for end in sorted(end for end in ends if end < len(blob)):
            yield Sample(name=f"{kind} cut off at {end}", make=partial(_cut, kind, end))


def flipped(rounds: int = 40) -> Iterator[Sample]:
    """A few bits turned over, anywhere or among the first bytes."""
    for kind in good():
        for number in range(rounds):
            yield Sample(name=f"{kind} with bits turned over, {number}", make=partial(_flip, kind, number))


def lying(rounds: int = 40) -> Iterator[Sample]:
    """A number in the header replaced by another that is an edge of something."""
    for kind in good():
        for number in range(rounds):
            yield Sample(name=f"{kind} with a lie, {number}", make=partial(_lie, kind, number))


def _cut(kind: str, end: int) -> bytes:
    return good()[kind][:end]


def _flip(kind: str, number: int) -> bytes:
    chance = random.Random(f"{kind} {number}")
    blob = bytearray(good()[kind])
    within = len(blob) if number % 2 else min(len(blob), 400)
    for _ in range(chance.choice((1, 2, 8, 40))):
        blob[chance.randrange(within)] ^= 1 << chance.randrange(8)
    return bytes(blob)


def _lie(kind: str, number: int) -> bytes:
    chance = random.Random(f"{kind} lies {number}")
    blob = bytearray(good()[kind])
    value, code = chance.choice(_NUMBERS), chance.choice("BHIQ")
    size = struct.calcsize(code)
    near_end = number % 3 == 2  # where PDF and TIFF keep their tables
    at = len(blob) - size - chance.randrange(400) if near_end else chance.randrange(min(600, len(blob) - size))
    struct.pack_into(chance.choice("<>") + code, blob, at, value & (256**size - 1))
    return bytes(blob)
