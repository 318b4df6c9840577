"""The pictures inside an ICO; the largest is the one that is read."""

import io
import mmap
import struct

from ocr_core.documents.png import walk_png
from ocr_core.documents.rules import DocumentFormat
from ocr_core.documents.sniffing import PNG_MAGIC
from ocr_core.errors import InvalidImageError

_MAX_ICONS = 256
_MAX_ICON_BITMAP_SIDE = 1024
_ICON_ENTRY = struct.Struct("<BBBBHHII")
_BITMAP_HEADER = struct.Struct("<IiiHH")


def largest_icon(data: mmap.mmap) -> tuple[DocumentFormat, io.BytesIO]:
    """The icon with the most pixels, alone: a PNG, or an ICO that holds nothing else."""
    (count,) = struct.unpack_from("<H", data, 4)
    if count > _MAX_ICONS:
        raise InvalidImageError(f"The ICO has more than {_MAX_ICONS} pictures.")
    icons = [_ICON_ENTRY.unpack_from(data, 6 + _ICON_ENTRY.size * number) for number in range(count)]
    if any(offset + length > len(data) for *_, length, offset in icons):
        raise InvalidImageError("The ICO is cut off.")
    sized = [(_icon_size(data, offset), length, offset) for *_, length, offset in icons]
    (width, height, bits), length, offset = max(sized, key=lambda one: (one[0][0] * one[0][1], one[0][2]))
    picture = data[offset : offset + length]
    if picture.startswith(PNG_MAGIC):
        walk_png(picture)
        return DocumentFormat.PNG, io.BytesIO(picture)
    if not (0 < width <= _MAX_ICON_BITMAP_SIDE and 0 < height <= _MAX_ICON_BITMAP_SIDE):
        raise InvalidImageError("The ICO is damaged: a bitmap in it has no icon's size.")
    entry = _ICON_ENTRY.pack(width % 256, height % 256, 0, 0, 1, bits, length, 6 + _ICON_ENTRY.size)
    return DocumentFormat.ICO, io.BytesIO(struct.pack("<HHH", 0, 1, 1) + entry + picture)


def _icon_size(data: mmap.mmap, offset: int) -> tuple[int, int, int]:
    """Width, height and bits of a pixel; a bitmap in an icon tells twice its height, for picture and mask."""
    if data[offset : offset + len(PNG_MAGIC)] == PNG_MAGIC:
        width, height, depth = struct.unpack_from(">IIB", data, offset + 16)
        return width, height, depth
    _, width, height, _, bits = _BITMAP_HEADER.unpack_from(data, offset)
    return width, height // 2, bits
