"""Changes to a document, some blind, some that know what the format holds together with a checksum or a count."""

import random
import re
import struct
import zlib
from collections.abc import Callable

_EDGES = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
_WORDS = (
    b"-1", b"0", b"1", b"2147483647", b"-2147483648", b"1e38", b"0.00001", b"99999999999999999999", b"null", b"[]",
    b"<<>>", b"3 0 R", b"4 0 R", b"5 0 R", b"/FlateDecode", b"/LZWDecode", b"/DCTDecode", b"/JPXDecode",
    b"/JBIG2Decode",
    b"/CCITTFaxDecode", b"/RunLengthDecode", b"/Pattern", b"/Form", b"q ", b"Q ", b" Do ", b" sh ", b" cm ", b" gs ",
)  # fmt: skip
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
_NAME = re.compile(rb"/[A-Za-z]+")
_PNG = b"\x89PNG\r\n\x1a\n"
_LARGEST = 2**20


def mutated(blob: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """A document a few changes away."""
    found = bytearray(blob)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        if not found:
            break
        chance.choice(_CHANGES)(found, others, chance)
    return mended(bytes(found[:_LARGEST]))


def mended(blob: bytes) -> bytes:
    """The same with the right checksums, without which nothing behind them is reached (PNG)."""
    if not blob.startswith(_PNG):
        return blob
    out, at = bytearray(blob), 8
    while at + 12 <= len(out):
        (length,) = struct.unpack_from(">I", out, at)
        end = at + 12 + length
        if end > len(out):
            break
        struct.pack_into(">I", out, end - 4, zlib.crc32(out[at + 4 : end - 4]))
        at = end
    return bytes(out)


_Change = Callable[[bytearray, list[bytes], random.Random], None]


def _bit(found: bytearray, _: list[bytes], chance: random.Random) -> None:
    found[_place(found, chance)] ^= 1 << chance.randrange(8)


def _byte(found: bytearray, _: list[bytes], chance: random.Random) -> None:
    found[_place(found, chance)] = chance.randrange(256)


def _number(found: bytearray, _: list[bytes], chance: random.Random) -> None:
    code = chance.choice("BHIQ")
    size = struct.calcsize(code)
    if len(found) > size:
        at = min(_place(found, chance), len(found) - size)
        struct.pack_into(chance.choice("<>") + code, found, at, chance.choice(_EDGES) & (256**size - 1))


def _cut(found: bytearray, _: list[bytes], chance: random.Random) -> None:
    at = _place(found, chance)
    del found[at : at + chance.choice((1, 2, 4, 12, 100, 1000))]


def _tail(found: bytearray, _: list[bytes], chance: random.Random) -> None:
    del found[chance.randrange(len(found)) :]


def _twice(found: bytearray, _: list[bytes], chance: random.Random) -> None:
    at, length = _place(found, chance), chance.choice((1, 4, 12, 100, 1000))
    found[at:at] = found[at : at + length] * chance.choice((1, 2, 50))


def _splice(found: bytearray, others: list[bytes], chance: random.Random) -> None:
    other = chance.choice(others)
    if other:
        start = chance.randrange(len(other))
        at = _place(found, chance)
        part = other[start : start + chance.choice((4, 16, 200, 3000))]
        found[at : at + chance.choice((0, len(part)))] = part


def _word(found: bytearray, _: list[bytes], chance: random.Random) -> None:
    """A number or a name of a PDF becomes another."""
    pattern = chance.choice((_NUMBER, _NAME))
    places = [match.span() for match in pattern.finditer(found[:20_000])]
    if places:
        start, end = chance.choice(places)
        found[start:end] = chance.choice(_WORDS)


_CHANGES: tuple[_Change, ...] = (_bit, _byte, _number, _number, _number, _cut, _tail, _twice, _splice, _word, _word)


def _place(found: bytearray, chance: random.Random) -> int:
    """Anywhere, but as often near the beginning or the end, where formats keep their tables."""
    if not found:
        return 0
    near = min(len(found), 600)
    return chance.choice(
        (chance.randrange(len(found)), chance.randrange(near), len(found) - 1 - chance.randrange(near))
    )
