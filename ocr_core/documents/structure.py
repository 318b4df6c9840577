"""The structure of JPEG, BMP, GIF and WebP files, walked without decoding a pixel.

Invariant: a walk takes a bounded number of steps, whatever the file says.
"""

import mmap
import re
import struct

from PIL import Image

from ocr_core.errors import InvalidImageError

_MAX_BLOCKS = 65_536
_MAX_SEGMENTS = 5000
_MAX_STRAY_BYTES = 4096
_MAX_SCANS = 1000
_MAX_SCANNED_PIXELS = 4_000_000_000
_TOO_MANY_PIECES = "The {} is damaged: it is cut into far too many pieces."


_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_STANDALONE = frozenset({0x01, 0xD8})
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})


def walk_jpeg(data: mmap.mmap) -> None:
    """Segments up to the end-of-image marker (what follows is ignored).

    Raises:
        InvalidImageError: There is no such marker, or there is more of anything than a picture has.
    """
    position, pixels, scans = 2, 0, 0
    for _ in range(_MAX_SEGMENTS):
        found = _JPEG_MARKER.search(data, position)
        if found is None:
            raise InvalidImageError("The JPEG is cut off.")
        marker = data[found.end() - 1]
        if not scans and found.start() - position > _MAX_STRAY_BYTES:
            raise InvalidImageError("The JPEG is damaged: there is something between its parts.")
        position = found.end()
        if marker == _END_OF_IMAGE:
            return
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, position + 3)
            pixels = max(pixels, width * height)
        scans += marker == _START_OF_SCAN
        if scans > _MAX_SCANS or scans * pixels > _MAX_SCANNED_PIXELS:
            raise InvalidImageError(_TOO_MANY_PIECES.format("JPEG"))
        if marker not in _STANDALONE:
            position += max(2, struct.unpack_from(">H", data, position)[0])
    raise InvalidImageError(_TOO_MANY_PIECES.format("JPEG"))


def require_bmp_pixels(image: Image.Image, size: int) -> None:
    """The rows must be there; run-length coded ones must start inside the file, and be no longer than pixels alone.

    Raises:
        InvalidImageError: It is not so.
    """
    for codec, _, offset, args in getattr(image, "tile", ()):
        needed = args[1] * image.height if codec == "raw" else 1
        if offset + needed > size:
            raise InvalidImageError("The BMP is cut off.")
        if codec != "raw" and size - offset > 2 * (image.width + 2) * (image.height + 2):
            raise InvalidImageError("The BMP is damaged: its runs are longer than its pixels.")


def gif_size(data: mmap.mmap) -> tuple[int, int]:
    """Width and height that the first frame needs, once all of its blocks are known to be there.

    What comes after the first frame is not looked at.
    """
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + _gif_table_bytes(flags)
    left = _MAX_BLOCKS
    while left > 0:
        left -= 1
        introducer = data[position]
        if introducer == _GIF_PICTURE:
            x, y, across, down, flags = struct.unpack_from("<HHHHB", data, position + 1)
            _past_gif_blocks(data, position + 11 + _gif_table_bytes(flags), left)
            return max(width, x + across), max(height, y + down)
        if introducer == _GIF_EXTENSION:
            position, left = _past_gif_blocks(data, position + 2, left)
        elif introducer == _GIF_END:
            break
        else:
            position += 1
    raise InvalidImageError("The GIF is damaged: it has no picture.")


_GIF_EXTENSION, _GIF_PICTURE, _GIF_END = 0x21, 0x2C, 0x3B


def _gif_table_bytes(flags: int) -> int:
    """Length of the table of colours that some flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _past_gif_blocks(data: mmap.mmap, position: int, left: int) -> tuple[int, int]:
    """Where a chain of blocks ends, and how many more blocks will be looked at."""
    while left > 0:
        left -= 1
        length = data[position]
        position += 1 + length
        if not length:
            return position, left
    raise InvalidImageError("The GIF is damaged: it is cut into far too many blocks.")


def webp_size(data: mmap.mmap) -> tuple[int, int]:
    """Width and height of the canvas, once the file is known to be as long as it says."""
    if struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
        raise InvalidImageError("The WebP is cut off.")
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if chunk == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    raise InvalidImageError("The WebP is damaged.")
