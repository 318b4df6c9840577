"""The chain of directories of a TIFF, walked without decoding a pixel.

Invariant: no loop, sides in bounds, every strip or tile inside the file, tags of a bounded length.
"""

import mmap
import struct
from dataclasses import dataclass

from ocr_core.documents.rules import Rules
from ocr_core.errors import InvalidImageError

_MAX_TIFF_ENTRIES = 4096
_MAX_TIFF_TAG_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class TiffDirectory:
    """One page, as its directory describes it.

    Attributes:
        width: Pixels.
        height: Pixels.
    """

    width: int
    height: int


_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TIFF_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_WIDTH, _HEIGHT = 256, 257
_EXTENTS = ((273, 279), (324, 325))


def tiff_directories(data: mmap.mmap, rules: Rules) -> list[TiffDirectory]:
    """Walk the chain of directories: no loop, sides in bounds, every strip or tile inside the file."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    offset_format, first_at = (order + "Q", 8) if big else (order + "I", 4)
    (offset,) = struct.unpack_from(offset_format, data, first_at)
    seen: set[int] = set()
    found: list[TiffDirectory] = []
    tag_bytes = 0
    while offset:
        if offset in seen:
            raise InvalidImageError("The TIFF is damaged: its directories form a loop.")
        seen.add(offset)
        rules.require_page_count(len(seen))
        tags, tag_bytes, offset = _tiff_directory(data, offset, order=order, big=big, tag_bytes=tag_bytes)
        width, height = (next(iter(tags.get(tag, ())), 0) for tag in (_WIDTH, _HEIGHT))
        rules.require_sides((width, height))
        for starts, counts in _EXTENTS:
            for start, count in zip(tags.get(starts, ()), tags.get(counts, ()), strict=False):
                if start + count > len(data):
                    raise InvalidImageError("The TIFF is cut off.")
        found.append(TiffDirectory(width, height))
    rules.require_page_count(len(found))
    return found


def _tiff_directory(
    data: mmap.mmap, offset: int, *, order: str, big: bool, tag_bytes: int
) -> tuple[dict[int, tuple[int, ...]], int, int]:
    """The integer tags that matter, the bytes that all tags take so far, and the next directory's offset."""
    count_format, entry_format, inline, next_format = (
        (order + "Q", order + "HHQ", 8, order + "Q") if big else (order + "H", order + "HHI", 4, order + "I")
    )
    (entries,) = struct.unpack_from(count_format, data, offset)
    if not 0 < entries <= _MAX_TIFF_ENTRIES:
        raise InvalidImageError("The TIFF is damaged: a directory is empty or far too long.")
    offset += struct.calcsize(count_format)
    tags: dict[int, tuple[int, ...]] = {}
    for _ in range(entries):
        tag, kind, count = struct.unpack_from(entry_format, data, offset)
        value_at = offset + struct.calcsize(entry_format)
        length = _TIFF_SIZES.get(kind, 0) * count
        offset = value_at + inline
        if length > inline:
            (value_at,) = struct.unpack_from(order + ("Q" if big else "I"), data, value_at)
            tag_bytes += min(length, len(data))
            if tag_bytes > _MAX_TIFF_TAG_BYTES:
                raise InvalidImageError("The TIFF is damaged: its tags are far too long.")
        wanted = tag in (_WIDTH, _HEIGHT) or any(tag in pair for pair in _EXTENTS)
        if wanted and kind in _TIFF_INTEGERS and count:
            if value_at + length > len(data):
                raise InvalidImageError("The TIFF is cut off.")
            tags[tag] = struct.unpack_from(f"{order}{count}{_TIFF_INTEGERS[kind]}", data, value_at)
    return tags, tag_bytes, struct.unpack_from(next_format, data, offset)[0]
