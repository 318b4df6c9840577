"""PNG: its chunks walked without decoding a pixel, handed to the decoder without those that no page needs.

Invariants:

* A walk takes a bounded number of steps, whatever the file says.
* Nothing but pixels is ever decompressed, and of those no more than the sides allow.
"""

import bisect
import io
import mmap
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from ocr_core.errors import InvalidImageError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_SIGNATURE_BYTES = 8
_DEPTH_AT = 16  # behind a chunk's length and kind, width and height
_MAX_CHUNKS = 65_536
_MAX_OTHER_CHUNKS = 1000
_MAX_TEXT_BYTES = 65_536
_PIECE_BYTES = 256 * 1024
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of each pass of an interlaced picture: first column and row, steps across and down (PNG specification, 8.2)."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk.

    Attributes:
        kind: Its four letters.
        start: Where its length stands.
        end: Behind its checksum.
    """

    kind: bytes
    start: int
    end: int


def walk_png(data: mmap.mmap | bytes) -> list[Chunk]:
    """Every chunk whole, its checksum right, picture data among them, IEND at the end (what follows is ignored).

    Raises:
        InvalidImageError: It is not so, or there are more chunks than a picture has.
    """
    position, pixels, others, found = _SIGNATURE_BYTES, False, 0, list[Chunk]()
    with memoryview(data) as view:
        for _ in range(_MAX_CHUNKS):
            length, kind = struct.unpack_from(">I4s", view, position)
            end = position + 12 + length
            if end > len(view):
                break
            if zlib.crc32(view[position + 4 : end - 4]) != struct.unpack_from(">I", view, end - 4)[0]:
                raise InvalidImageError("The PNG is damaged: the checksum of a chunk is wrong.")
            pixels = pixels or kind == b"IDAT"
            others += kind != b"IDAT"
            if others > _MAX_OTHER_CHUNKS:
                raise InvalidImageError("The PNG is damaged: it is cut into far too many pieces.")
            found.append(Chunk(kind, position, end))
            if kind == b"IEND":
                if not pixels:
                    break
                return found
            position = end
        else:
            raise InvalidImageError("The PNG is damaged: it is cut into far too many pieces.")
    raise InvalidImageError("The PNG is cut off.")


def without_ballast(file: BinaryIO, data: mmap.mmap, chunks: Sequence[Chunk]) -> BinaryIO:
    """The file as if it had no colour profile and no text that is packed or long: a decoder would unpack them.

    Args:
        file: A real file.
        data: Its bytes.
        chunks: What `walk_png` found in it.
    """
    kept = [chunk for chunk in chunks if not _is_ballast(data, chunk)]
    if len(kept) == len(chunks):
        return file
    return io.BufferedReader(_Spliced(data, [(0, _SIGNATURE_BYTES), *((one.start, one.end) for one in kept)]))


def _is_ballast(data: mmap.mmap, chunk: Chunk) -> bool:
    if chunk.kind not in (b"tEXt", b"iTXt"):  # in the rest, how the picture is to be turned may be told
        return chunk.kind in (b"iCCP", b"zTXt")
    if chunk.end - chunk.start > _MAX_TEXT_BYTES:
        return True
    keyword_end = data.find(b"\0", chunk.start + 8, chunk.end - 4)
    return chunk.kind == b"iTXt" and data[keyword_end + 1] != 0


class _Spliced(io.RawIOBase):
    """Some ranges of bytes, read as one file."""

    def __init__(self, data: mmap.mmap, ranges: Iterable[tuple[int, int]]) -> None:
        super().__init__()
        self._data = data
        self._ranges: list[tuple[int, int, int]] = []
        self._length = 0
        for start, end in ranges:
            if self._ranges and self._ranges[-1][2] == start:
                at, first, _ = self._ranges.pop()
                self._ranges.append((at, first, end))
            else:
                self._ranges.append((self._length, start, end))
            self._length += end - start
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position}.get(whence, self._length))
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer).cast("B")
        place = bisect.bisect_right(self._ranges, self._position, key=lambda one: one[0]) - 1
        at, start, end = self._ranges[place]
        begin = start + self._position - at
        count = max(0, min(len(view), end - begin))
        view[:count] = self._data[begin : begin + count]
        self._position += count
        return count


def require_all_rows(data: mmap.mmap, chunks: Sequence[Chunk], size: tuple[int, int]) -> None:
    """The pixels unpack to as many bytes as the header says; a decoder leaves rows black without a word.

    What is broken otherwise is left for the decoder to find.

    Args:
        data: The file's bytes.
        chunks: What `walk_png` found in it.
        size: Width and height, judged; no more is unpacked than these need.

    Raises:
        InvalidImageError: There are fewer.
    """
    headers = [chunk for chunk in chunks if chunk.kind == b"IHDR"]
    if len(headers) != 1:
        return
    bits, colour, _, _, interlaced = struct.unpack_from(">BBBBB", data, headers[0].start + _DEPTH_AT)
    missing = _unpacked_bytes(size, bits * _CHANNELS.get(colour, 0), is_interlaced=bool(interlaced))
    stream = zlib.decompressobj()
    for chunk in chunks:
        if chunk.kind != b"IDAT":
            continue
        for start in range(chunk.start + 8, chunk.end - 4, _PIECE_BYTES):
            packed = data[start : min(start + _PIECE_BYTES, chunk.end - 4)]
            while packed and missing > 0 and not stream.eof:
                try:
                    missing -= len(stream.decompress(packed, _PIECE_BYTES))
                except zlib.error:
                    return
                packed = stream.unconsumed_tail
            if missing <= 0:
                return
    if missing > 0:
        raise InvalidImageError("The PNG is cut off.")


def _unpacked_bytes(size: tuple[int, int], pixel_bits: int, *, is_interlaced: bool) -> int:
    """What the rows of all passes come to, each with a byte that names its filter."""
    (width, height), total = size, 0
    for left, top, across, down in _ADAM7 if is_interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * pixel_bits + 7) // 8)
    return total
