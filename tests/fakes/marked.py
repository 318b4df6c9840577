"""Pictures that carry a number, and an engine that reads it: quick, and it tells which document a result is of.

A picture is a board of 8 x 8 blocks, black or white: 32 bits of number, 8 of page, 8 of flags, 16 of checksum.
"""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from ocr_core.engine import FoundLine, FoundOrientation, Picture
from ocr_core.errors import FailedToProcessError
from tests.fakes.engines import a_line
from tests.pages import encoded

_SIDE = 8
_BLOCK = 16
_UNREADABLE = 1
_SLOW = 2


def board(number: int, page: int, *, unreadable: bool = False, slow: bool = False) -> Image.Image:
    """The picture of one page.

    Args:
        number: Of the document, below 2**32.
        page: Counted from 1.
        unreadable: The engine fails on it.
        slow: The engine takes its time.
    """
    payload = number.to_bytes(4, "big") + bytes([page, unreadable * _UNREADABLE + slow * _SLOW])
    bits = int.from_bytes(payload + _checksum(payload), "big")
    small = Image.new("L", (_SIDE, _SIDE))
    small.putdata([0 if bits >> (63 - at) & 1 else 255 for at in range(64)])
    return small.resize((_SIDE * _BLOCK, _SIDE * _BLOCK), Image.Resampling.NEAREST)


def document(kind: str, boards: Sequence[Image.Image]) -> bytes:
    """A PNG, TIFF or PDF of one or more boards."""
    first, *others = boards
    if kind == "PNG":
        return encoded(first, "PNG")
    if kind == "TIFF":
        return encoded(first, "TIFF", save_all=True, append_images=others)
    return encoded(first, "PDF", save_all=True, append_images=others, resolution=72)


def text_of_board(number: int, page: int) -> str:
    """What `MarkedEngine` reads from a board."""
    return f"document {number} page {page}"


@dataclass
class MarkedEngine:
    """Reads boards and nothing else.

    Attributes:
        seconds: Longest time for a page; the time is drawn at random.
        slow_seconds: The same for a slow page.
    """

    seconds: float = 0.01
    slow_seconds: float = 0.3
    name: str = "marked"
    version: str = "1"

    def languages(self) -> tuple[str, ...]:
        return ("eng",)

    def preload(self, languages: tuple[str, ...]) -> None:
        """There is no model."""

    def read(self, picture: Picture, languages: tuple[str, ...], *, timeout_seconds: float) -> tuple[FoundLine, ...]:
        payload = _payload(picture)
        number, page, flags = int.from_bytes(payload[:4], "big"), payload[4], payload[5]
        time.sleep(random.random() * (self.slow_seconds if flags & _SLOW else self.seconds))
        if flags & _UNREADABLE:
            raise FailedToProcessError("This page cannot be read.")
        return (a_line(text_of_board(number, page), left=8, top=8, word_width=10, height=10),)

    def orientation(self, picture: Picture) -> FoundOrientation | None:
        return None


def _payload(picture: Picture) -> bytes:
    """The six bytes that a board carries.

    Raises:
        FailedToProcessError: It is none, or damaged.
    """
    bits = 0
    for at in range(64):
        y = (2 * (at // _SIDE) + 1) * picture.height // (2 * _SIDE)
        x = (2 * (at % _SIDE) + 1) * picture.width // (2 * _SIDE)
        bits = bits << 1 | (picture.pixels[y * picture.width + x] < 128)
    raw = bits.to_bytes(8, "big")
    if raw[6:] != _checksum(raw[:6]):
        raise FailedToProcessError("This is no board.")
    return raw[:6]


def _checksum(payload: bytes) -> bytes:
    return (zlib.crc32(payload) & 0xFFFF).to_bytes(2, "big")
