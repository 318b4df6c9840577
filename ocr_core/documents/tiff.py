"""The chain of directories of a TIFF, walked without decoding a pixel.

Invariants:

* No loop, sides in bounds, every strip or tile inside the file, and no more of them than a page needs.
* Tags and blocks are bounded in number and length, so that the decoder, which reads them in Python, has little to do.
* Loading a page looks at its own directory; of those before it, only at where the next one is.
"""

import io
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ocr_core.documents.rules import MAX_PAGES, READABLE, Rules, require_page
from ocr_core.errors import InvalidImageError

_MAX_ENTRIES = 4096
_MAX_ENTRIES_OF_ALL = 400_000
_MAX_TAG_BYTES = 128 * 1024 * 1024
_MAX_BLOCKS = 65_536
"""Strips or tiles of a page: as many as the longest side has rows, in four planes."""

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_WIDTH, _HEIGHT, _SAMPLES, _ROWS_PER_STRIP, _PLANES, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 277, 278, 284, 322, 323
_STRIPS, _TILES = (273, 279), (324, 325)
_WANTED = {_WIDTH, _HEIGHT, _SAMPLES, _ROWS_PER_STRIP, _PLANES, _TILE_WIDTH, _TILE_HEIGHT, *_STRIPS, *_TILES}
_APART = 2  # planes of their own


@dataclass(frozen=True, slots=True)
class TiffDirectory:
    """One page, as its directory describes it.

    Attributes:
        width: Pixels.
        height: Pixels.
    """

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class _Form:
    """How numbers are written: classic or big, least or most significant byte first."""

    count: struct.Struct
    entry: struct.Struct
    offset: struct.Struct
    first_at: int
    order: str

    @classmethod
    def of(cls, data: mmap.mmap) -> "_Form":
        order = "<" if data[:2] == b"II" else ">"
        if struct.unpack_from(order + "H", data, 2)[0] == 43:
            if struct.unpack_from(order + "HH", data, 4) != (8, 0):
                raise InvalidImageError("The TIFF is damaged: its offsets have no known length.")
            return cls(struct.Struct(order + "Q"), struct.Struct(order + "HHQ"), struct.Struct(order + "Q"), 8, order)
        return cls(struct.Struct(order + "H"), struct.Struct(order + "HHI"), struct.Struct(order + "I"), 4, order)


def tiff_directories(data: mmap.mmap, rules: Rules) -> list[TiffDirectory]:
    """Every page, checked.

    Raises:
        CoreError: One of the document codes.
    """
    form, found, spent = _Form.of(data), list[TiffDirectory](), _Spent()
    for offset in _offsets(data, form):
        rules.require_page_count(len(found) + 1)
        found.append(_directory(data, form, offset, rules, spent))
    rules.require_page_count(len(found))
    return found


def starting_with(file: BinaryIO, data: mmap.mmap, page: int) -> BinaryIO:
    """The file as if one of its pages were the first, that page checked; decoders then need not walk there.

    Args:
        file: A real file.
        data: Its bytes.
        page: Counted from 1.

    Raises:
        CoreError: One of the document codes.
    """
    form, number = _Form.of(data), 0
    for number, offset in enumerate(_offsets(data, form), start=1):
        if number == page:
            _directory(data, form, offset, READABLE, _Spent())
            return _StartingElsewhere(file, data[: form.first_at] + form.offset.pack(offset))
    require_page(page, number)
    raise InvalidImageError("The TIFF is damaged.")


class _StartingElsewhere(io.RawIOBase, BinaryIO):
    """A file with other first bytes."""

    def __init__(self, file: BinaryIO, head: bytes) -> None:
        self._file, self._head = file, head

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        view = memoryview(buffer).cast("B")
        at = self._file.tell()
        found = self._file.read(len(view))
        view[: len(found)] = found
        if at < len(self._head):
            other = self._head[at : at + len(found)]
            view[: len(other)] = other
        return len(found)


@dataclass(slots=True)
class _Spent:
    """What the directories took so far."""

    tag_bytes: int = 0
    entries: int = 0


def _offsets(data: mmap.mmap, form: _Form) -> Iterator[int]:
    """Where each directory lies."""
    (offset,) = form.offset.unpack_from(data, form.first_at)
    seen: set[int] = set()
    while offset:
        if offset in seen:
            raise InvalidImageError("The TIFF is damaged: its directories form a loop.")
        if len(seen) > MAX_PAGES:
            READABLE.require_page_count(len(seen))
        seen.add(offset)
        yield offset
        (entries,) = form.count.unpack_from(data, offset)
        size = form.entry.size + form.offset.size
        (offset,) = form.offset.unpack_from(data, offset + form.count.size + size * min(entries, _MAX_ENTRIES + 1))


def _directory(data: mmap.mmap, form: _Form, offset: int, rules: Rules, spent: _Spent) -> TiffDirectory:
    """Check one directory."""
    tags = _tags(data, form, offset, spent)
    width, height = _first(tags, _WIDTH), _first(tags, _HEIGHT)
    rules.require_sides((width, height))
    planes = min(4, _first(tags, _SAMPLES, 1)) if _first(tags, _PLANES) == _APART else 1
    if _TILE_WIDTH in tags or _TILE_HEIGHT in tags:
        across, down = _first(tags, _TILE_WIDTH), _first(tags, _TILE_HEIGHT)
        if not (0 < across <= 2**16 and 0 < down <= 2**16):
            raise InvalidImageError("The TIFF is damaged: its tiles have no size.")
        blocks = -(-width // across) * -(-height // down) * planes
    else:
        blocks = -(-height // max(1, _first(tags, _ROWS_PER_STRIP, height))) * planes
    if blocks > _MAX_BLOCKS:
        raise InvalidImageError("The TIFF is damaged: a page is cut into far too many pieces.")
    for starts, counts in (_STRIPS, _TILES):
        if max(len(tags.get(starts, ())), len(tags.get(counts, ()))) > 2 * blocks + 2:
            raise InvalidImageError("The TIFF is damaged: a page has more pieces than it is cut into.")
        for start, count in zip(tags.get(starts, ()), tags.get(counts, ()), strict=False):
            if start + count > len(data):
                raise InvalidImageError("The TIFF is cut off.")
    return TiffDirectory(width, height)


def _tags(data: mmap.mmap, form: _Form, offset: int, spent: _Spent) -> dict[int, tuple[int, ...]]:
    """The integer tags that matter."""
    (entries,) = form.count.unpack_from(data, offset)
    spent.entries += entries
    if not 0 < entries <= _MAX_ENTRIES or spent.entries > _MAX_ENTRIES_OF_ALL:
        raise InvalidImageError("The TIFF is damaged: a directory is empty or far too long.")
    offset += form.count.size
    tags: dict[int, tuple[int, ...]] = {}
    for _ in range(entries):
        tag, kind, count = form.entry.unpack_from(data, offset)
        value_at = offset + form.entry.size
        length = _SIZES.get(kind, 0) * count
        offset = value_at + form.offset.size
        if length > form.offset.size:
            (value_at,) = form.offset.unpack_from(data, value_at)
            spent.tag_bytes += min(length, len(data))
            if spent.tag_bytes > _MAX_TAG_BYTES:
                raise InvalidImageError("The TIFF is damaged: its tags are far too long.")
        if tag in _WANTED and kind in _INTEGERS and count:
            if value_at + length > len(data):
                raise InvalidImageError("The TIFF is cut off.")
            if count > 3 * _MAX_BLOCKS:
                raise InvalidImageError("The TIFF is damaged: a page is cut into far too many pieces.")
            tags[tag] = struct.unpack_from(f"{form.order}{count}{_INTEGERS[kind]}", data, value_at)
    return tags


def _first(tags: dict[int, tuple[int, ...]], tag: int, otherwise: int = 0) -> int:
    return next(iter(tags.get(tag, ())), otherwise)
