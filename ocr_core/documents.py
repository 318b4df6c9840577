"""Bytes that a stranger sent → gray page images; the only place where documents are decoded.

Invariants:

* What a file is, is decided by its first bytes, never by its name or by what the sender says.
* Sides are judged from the header before a pixel is decoded, so a declared bomb costs nothing; so is the memory that
  decoding takes, where the sides alone do not bound it.
* Of a picture in several sizes or frames only one is looked at: the first frame, the largest icon.
* Only the page that is asked for is decoded, and it leaves here as 8-bit gray, the right way up (EXIF), on white
  where it was transparent, with no more pixels than the cap.
* Whatever a decoder raises on hostile bytes becomes InvalidImageError, in one place (`_decoding`).
"""

import contextlib
import ctypes
import io
import math
import mmap
import os
import re
import struct
import warnings
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO

import pypdfium2
import pypdfium2.raw as pdfium
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    IcoImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from ocr_core.errors import (
    FailedToProcessError,
    InvalidImageDimensionError,
    InvalidImageError,
    InvalidImageSizeError,
    InvalidPageRangeError,
    UnsupportedImageFormatError,
)
from ocr_core.page_text import Number, Unit

MIN_SIDE = 50
MAX_SIDE = 15_999
USUAL_MAX_SIDE = 10_000
MAX_PAGES = 2000
PDF_DPI = 200
PLAUSIBLE_DPI = range(70, 1201)

MAX_DECODED_BYTES = 1500 * 2**20
"""What decoding one picture may take; fits the usual address space of a worker (`Core:WorkerMemoryMegabytes`)."""

_DECODED_AT_INSPECTION_PIXELS = 1_000_000
_BAND_PIXELS = 4_000_000
_MAX_CHUNKS = 200_000
_MAX_TIFF_ENTRIES = 4096
_MAX_TIFF_TAG_BYTES = 128 * 1024 * 1024
_POINTS_PER_INCH = 72
_PLAUSIBLE_USER_UNITS = (0.01, 75_000.0)  # the upper one is the most that PDF 1.7 knows (Annex C)
_MOST_COPIED_BYTES = 8 * 1024**3
_PDF_HEADER_WITHIN = 1024

Image.MAX_IMAGE_PIXELS = MAX_SIDE * MAX_SIDE


class DocumentFormat(StrEnum):
    """What is read; an MPO is a JPEG with more behind it, and is read as one."""

    JPEG = "jpeg"
    PNG = "png"
    BMP = "bmp"
    TIFF = "tiff"
    PDF = "pdf"
    GIF = "gif"
    WEBP = "webp"
    ICO = "ico"


USUAL_FORMATS = (
    DocumentFormat.JPEG,
    DocumentFormat.PNG,
    DocumentFormat.BMP,
    DocumentFormat.TIFF,
    DocumentFormat.PDF,
)
"""What a caller takes who does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a caller takes, inside what is read at all.

    Attributes:
        formats: Formats.
        min_side: Shortest side of a picture, pixels.
        max_side: Longest side of a picture, pixels.
        max_pages: Most pages of a document.
        max_sheet_inches: Longest side of a PDF's page, inches; None for any.
    """

    formats: Collection[str] = USUAL_FORMATS
    min_side: int = MIN_SIDE
    max_side: int = USUAL_MAX_SIDE
    max_pages: int = MAX_PAGES
    max_sheet_inches: float | None = None

    def sides(self) -> str:
        """How large a picture must be, for people."""
        low, high = self.min_side, self.max_side
        return f"The image must be from {low} x {low} to {high} x {high} pixels."

    def advice(self) -> str:
        """What to send, for people."""
        *others, last = [one.upper() for one in DocumentFormat if one in self.formats] or ["nothing"]
        return f"Send {', '.join(others)} or {last}." if others else f"Send {last}."

    def require_sides(self, size: tuple[int, int]) -> None:
        """Refuse a picture that is too small or too large.

        Raises:
            InvalidImageDimensionError: It is.
        """
        if not all(self.min_side <= side <= self.max_side for side in size):
            raise InvalidImageDimensionError(f"{self.sides()} This one is {size[0]} x {size[1]}.")

    def require_sheet(self, page: int, size: tuple[float, float]) -> None:
        """Refuse a page of a PDF that is too large.

        Args:
            page: Counted from 1.
            size: Points.

        Raises:
            InvalidImageDimensionError: It is.
        """
        limit = self.max_sheet_inches
        # A point more or less is a matter of rounding in whatever wrote the file.
        if limit is not None and not max(size) <= limit * _POINTS_PER_INCH + 1:
            raise InvalidImageDimensionError(
                f"The pages of a PDF may be up to {limit:g} x {limit:g} inches. Page {page} is larger."
            )

    def require_page_count(self, pages: int) -> None:
        """Refuse a document of too many pages, or none.

        Raises:
            InvalidPageRangeError: Too many.
            InvalidImageError: None.
        """
        if pages > self.max_pages:
            raise InvalidPageRangeError(f"The document has more than {self.max_pages} pages.")
        if pages < 1:
            raise InvalidImageError("The document has no pages.")


USUAL = Rules()
"""What a caller takes who does not say."""

READABLE = Rules(formats=tuple(DocumentFormat), max_side=MAX_SIDE)
"""The widest rules: what is read at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a document is.

    Attributes:
        format: Its format.
        pages: How many pages it has, at least 1.
    """

    format: DocumentFormat
    pages: int


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


def sniff(head: bytes, rules: Rules = READABLE) -> DocumentFormat:
    """Tell the format by the first bytes.

    Args:
        head: The first 1024 bytes or more.
        rules: What the caller takes; nothing else is advised.

    Raises:
        UnsupportedImageFormatError: A picture of a kind that is not read.
        InvalidImageError: Not a picture.
    """
    for pattern, found in _MAGIC:
        if pattern.match(head):
            return found
    if b"%PDF-" in head[:_PDF_HEADER_WITHIN]:
        return DocumentFormat.PDF
    for pattern, name in _OTHER_PICTURES:
        if pattern.match(head):
            raise UnsupportedImageFormatError(f"{name} is not read. {rules.advice()}")
    raise InvalidImageError(f"The bytes are not an image. {rules.advice()}")


def inspect(file: BinaryIO, rules: Rules = USUAL) -> Inspection:
    """Check a whole document's structure, cheaply: no large picture is decoded.

    Args:
        file: A real file, opened for reading.
        rules: What the caller takes.

    Raises:
        CoreError: One of the document codes.
    """
    size = _size(file)
    with _decoding(rules), _mapped(file) as data:
        kind = _taken(data, rules)
        if kind is DocumentFormat.PDF:
            pages = _inspect_pdf(file, rules)
        elif kind is DocumentFormat.TIFF:
            pages = _inspect_tiff(file, data, rules)
        else:
            with _open_image(file, kind, rules) as image:
                if kind is DocumentFormat.PNG:
                    _walk_png(data)
                elif kind is DocumentFormat.JPEG:
                    _walk_jpeg(data)
                elif kind is DocumentFormat.BMP:
                    _require_bmp_pixels(image, size)
                if image.width * image.height <= _DECODED_AT_INSPECTION_PIXELS:
                    image.load()
            pages = 1
    return Inspection(format=kind, pages=pages)


def load_page(file: BinaryIO, page: int, *, max_pixels: int) -> PageImage:
    """Decode one page.

    Args:
        file: A real file, opened for reading.
        page: Counted from 1.
        max_pixels: The cap; a larger picture is shrunk by averaging areas.

    Raises:
        CoreError: One of the document codes.
    """
    _size(file)
    with _decoding():
        with _mapped(file) as data:
            kind = sniff(data[:_PDF_HEADER_WITHIN])
            if kind is DocumentFormat.TIFF:
                directories = _tiff_directories(data, READABLE)
                _require_page(page, len(directories))
            elif kind is not DocumentFormat.PDF:
                _require_page(page, 1)
        if kind is DocumentFormat.PDF:
            return _load_pdf_page(file, page, max_pixels)
        with _open_image(file, kind, READABLE) as image:
            if kind is DocumentFormat.TIFF:
                image.seek(page - 1)
                READABLE.require_sides(image.size)
                _require_memory(image)
            return _page_image(image, page, max_pixels)


# ---- one place for what decoders raise ------------------------------------------------------------------------------


_DECODER_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, NotImplementedError, RecursionError,
    RuntimeError, SyntaxError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip


@contextlib.contextmanager
def _decoding(rules: Rules = READABLE) -> Iterator[None]:
    """Turn what decoders raise on damaged or hostile bytes into refusals; a failing disk stays a failure."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise InvalidImageDimensionError(f"{rules.sides()} This one is larger.") from exc
    except pypdfium2.PdfiumError as exc:
        raise InvalidImageError("The PDF is damaged.") from exc
    except MemoryError as exc:
        raise InvalidImageError("The image needs more memory than one page may take.") from exc
    except OSError as exc:
        if exc.errno is not None:
            raise FailedToProcessError(f"The document could not be read: {exc.strerror}.") from exc
        raise InvalidImageError("The image is damaged or cut off.") from exc
    except _DECODER_ERRORS as exc:
        raise InvalidImageError("The image is damaged.") from exc


# ---- formats --------------------------------------------------------------------------------------------------------


_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_MAGIC = (
    (re.compile(rb"\xff\xd8\xff"), DocumentFormat.JPEG),
    (re.compile(_PNG_MAGIC), DocumentFormat.PNG),
    (re.compile(rb"BM"), DocumentFormat.BMP),
    (re.compile(rb"II[\x2a\x2b]\x00|MM\x00[\x2a\x2b]"), DocumentFormat.TIFF),
    (re.compile(rb"GIF8[79]a"), DocumentFormat.GIF),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), DocumentFormat.WEBP),
    (re.compile(rb"\x00\x00\x01\x00[\x01-\xff]\x00"), DocumentFormat.ICO),
)

_OTHER_PICTURES = (
    (re.compile(rb"\x00\x00\x02\x00[\x01-\xff]\x00"), "CUR"),
    (re.compile(rb"....ftyp(?:hei|hev|mif1|msf1|avi)", re.DOTALL), "HEIF"),
    (re.compile(rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"), "JPEG 2000"),
    (re.compile(rb"\xff\x0a|\x00\x00\x00\x0cJXL "), "JPEG XL"),
    (re.compile(rb"\x97JB2\r\n"), "JBIG2"),
    (re.compile(rb"8BPS"), "PSD"),
    (re.compile(rb"P[1-7]\s"), "Netpbm"),
    (re.compile(rb"AT&TFORM"), "DjVu"),
    (
        re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:\?xml|!--|!DOCTYPE svg|svg).{0,600}?<?svg", re.DOTALL | re.IGNORECASE),
        "SVG",
    ),
)

_PLUGINS = {
    DocumentFormat.JPEG: JpegImagePlugin.JpegImageFile.format,
    DocumentFormat.PNG: PngImagePlugin.PngImageFile.format,
    DocumentFormat.BMP: BmpImagePlugin.BmpImageFile.format,
    DocumentFormat.TIFF: TiffImagePlugin.TiffImageFile.format,
    DocumentFormat.GIF: GifImagePlugin.GifImageFile.format,
    DocumentFormat.WEBP: WebPImagePlugin.WebPImageFile.format,
    DocumentFormat.ICO: IcoImagePlugin.IcoImageFile.format,
}


def _taken(data: mmap.mmap, rules: Rules) -> DocumentFormat:
    kind = sniff(data[:_PDF_HEADER_WITHIN], rules)
    if kind not in rules.formats:
        raise UnsupportedImageFormatError(f"{kind.upper()} is not read here. {rules.advice()}")
    return kind


def _size(file: BinaryIO) -> int:
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise InvalidImageSizeError("The document is empty.")
    return size


@contextlib.contextmanager
def _mapped(file: BinaryIO) -> Iterator[mmap.mmap]:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


def _open_image(file: BinaryIO, kind: DocumentFormat, rules: Rules) -> Image.Image:
    """Read the header, and judge the sides before anything else."""
    source = file
    if kind in _SIZED_HERE:
        with _mapped(file) as data:
            if kind is DocumentFormat.ICO:
                kind, source = _largest_icon(data)
            else:
                size = _gif_size(data) if kind is DocumentFormat.GIF else _webp_size(data)
                rules.require_sides(size)
                if kind is DocumentFormat.WEBP:
                    _require_bytes(size, size[0] * size[1] * _WEBP_PIXEL_BYTES)
    source.seek(0)
    image = Image.open(source, formats=[_PLUGINS[kind] or ""])
    rules.require_sides(image.size)
    _require_memory(image)
    return image


_SIZED_HERE = frozenset({DocumentFormat.GIF, DocumentFormat.WEBP, DocumentFormat.ICO})
"""Formats whose decoder sets memory aside, or decodes, while it is being opened: we look at their headers first."""

_WEBP_PIXEL_BYTES = 17  # two canvases of the decoder, the bytes it hands over, the picture made of them, gray
_PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
_PIXEL_BYTES_OF_OTHERS = 4
_EXIF_ORIENTATION = 0x0112
_ROWS_PER_STRIP = 278


def _require_memory(image: Image.Image) -> None:
    """Refuse what would not fit into memory once decoded (see `MAX_DECODED_BYTES`).

    Raises:
        InvalidImageDimensionError: It would not.
    """
    width, height = image.size
    pixels = width * height
    each = _PIXEL_BYTES.get(image.mode, _PIXEL_BYTES_OF_OTHERS)
    needed = pixels * (each + 1)
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        if image.mode != "CMYK":
            needed = 2 * pixels  # decoded as gray
        if image.info.get("progressive"):
            needed += _coefficient_bytes(image, pixels)
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        if any(codec == "libtiff" for codec, *_ in image.tile):
            rows = min(height, int(image.tag_v2.get(_ROWS_PER_STRIP, height)))
            needed += width * rows * each
        if image.tag_v2.get(_EXIF_ORIENTATION, 1) != 1:
            needed += pixels * each
    _require_bytes((width, height), needed)


def _require_bytes(size: tuple[int, int], needed: int) -> None:
    if needed > MAX_DECODED_BYTES:
        raise InvalidImageDimensionError(
            f"The image is {size[0]} x {size[1]} pixels; decoding so many of its kind takes more memory than one "
            "page may take. Send it smaller, or as a JPEG that is not progressive."
        )


def _coefficient_bytes(image: JpegImagePlugin.JpegImageFile, pixels: int) -> int:
    """What a decoder keeps of a progressive JPEG: two bytes for each sample, until its last scan has come."""
    layers = [(across, down) for _, across, down, _ in image.layer]
    most = max(across for across, _ in layers) * max(down for _, down in layers)
    return sum(2 * pixels * across * down // most for across, down in layers)


def _require_page(page: int, pages: int) -> None:
    if not 1 <= page <= pages:
        raise InvalidPageRangeError(f"The document has {pages} pages; there is no page {page}.")


# ---- structure ------------------------------------------------------------------------------------------------------


def _walk_png(data: mmap.mmap | bytes) -> None:
    """Every chunk whole, its checksum right, picture data among them, IEND at the end (what follows is ignored)."""
    position, pixels = 8, False
    with memoryview(data) as view:
        for _ in range(_MAX_CHUNKS):
            length, kind = struct.unpack_from(">I4s", view, position)
            end = position + 12 + length
            if end > len(view):
                break
            if zlib.crc32(view[position + 4 : end - 4]) != struct.unpack_from(">I", view, end - 4)[0]:
                raise InvalidImageError("The PNG is damaged: the checksum of a chunk is wrong.")
            pixels = pixels or kind == b"IDAT"
            if kind == b"IEND":
                if not pixels:
                    break
                return
            position = end
    raise InvalidImageError("The PNG is cut off.")


_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_STANDALONE = frozenset({0x01, 0xD8})


def _walk_jpeg(data: mmap.mmap) -> None:
    """Segments up to the end-of-image marker (what follows is ignored)."""
    position = 2
    for _ in range(_MAX_CHUNKS):
        found = _JPEG_MARKER.search(data, position)
        if found is None:
            break
        marker = data[found.end() - 1]
        position = found.end()
        if marker == _END_OF_IMAGE:
            return
        if marker not in _STANDALONE:
            position += max(2, struct.unpack_from(">H", data, position)[0])
    raise InvalidImageError("The JPEG is cut off.")


def _require_bmp_pixels(image: Image.Image, size: int) -> None:
    """The rows must be there; run-length coded ones are only known to start inside the file."""
    for codec, _, offset, args in getattr(image, "tile", ()):
        needed = args[1] * image.height if codec == "raw" else 1
        if offset + needed > size:
            raise InvalidImageError("The BMP is cut off.")


def _gif_size(data: mmap.mmap) -> tuple[int, int]:
    """Width and height that the first frame needs, once all of its blocks are known to be there.

    What comes after the first frame is not looked at.
    """
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + _gif_table_bytes(flags)
    left = _MAX_CHUNKS
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


def _webp_size(data: mmap.mmap) -> tuple[int, int]:
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


_MAX_ICONS = 256
_MAX_ICON_BITMAP_SIDE = 1024
_ICON_ENTRY = struct.Struct("<BBBBHHII")
_BITMAP_HEADER = struct.Struct("<IiiHH")


def _largest_icon(data: mmap.mmap) -> tuple[DocumentFormat, io.BytesIO]:
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
    if picture.startswith(_PNG_MAGIC):
        _walk_png(picture)
        return DocumentFormat.PNG, io.BytesIO(picture)
    if not (0 < width <= _MAX_ICON_BITMAP_SIDE and 0 < height <= _MAX_ICON_BITMAP_SIDE):
        raise InvalidImageError("The ICO is damaged: a bitmap in it has no icon's size.")
    entry = _ICON_ENTRY.pack(width % 256, height % 256, 0, 0, 1, bits, length, 6 + _ICON_ENTRY.size)
    return DocumentFormat.ICO, io.BytesIO(struct.pack("<HHH", 0, 1, 1) + entry + picture)


def _icon_size(data: mmap.mmap, offset: int) -> tuple[int, int, int]:
    """Width, height and bits of a pixel; a bitmap in an icon tells twice its height, for picture and mask."""
    if data[offset : offset + len(_PNG_MAGIC)] == _PNG_MAGIC:
        width, height, depth = struct.unpack_from(">IIB", data, offset + 16)
        return width, height, depth
    _, width, height, _, bits = _BITMAP_HEADER.unpack_from(data, offset)
    return width, height // 2, bits


@dataclass(frozen=True, slots=True)
class _TiffDirectory:
    width: int
    height: int


_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TIFF_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_WIDTH, _HEIGHT = 256, 257
_EXTENTS = ((273, 279), (324, 325))


def _inspect_tiff(file: BinaryIO, data: mmap.mmap, rules: Rules) -> int:
    directories = _tiff_directories(data, rules)
    with _open_image(file, DocumentFormat.TIFF, rules) as image:
        budget = _DECODED_AT_INSPECTION_PIXELS
        for number, directory in enumerate(directories):
            budget -= directory.width * directory.height
            if budget < 0:
                break
            image.seek(number)
            image.load()
    return len(directories)


def _tiff_directories(data: mmap.mmap, rules: Rules) -> list[_TiffDirectory]:
    """Walk the chain of directories: no loop, sides in bounds, every strip or tile inside the file."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    offset_format, first_at = (order + "Q", 8) if big else (order + "I", 4)
    (offset,) = struct.unpack_from(offset_format, data, first_at)
    seen: set[int] = set()
    found: list[_TiffDirectory] = []
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
        found.append(_TiffDirectory(width, height))
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


# ---- pictures -------------------------------------------------------------------------------------------------------


def _page_image(image: Image.Image, page: int, max_pixels: int) -> PageImage:
    width, height = image.size
    across, down = _resolution(image)
    target = _target_size((width, height), (across, down), max_pixels)
    turned = _exif_transposition(image)
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        image.draft("L", (max(1, target[0]), max(1, target[1])))
    gray = _shrunk(_gray(image), target)
    dpi = round(across * gray.width / width) if across is not None else None
    if turned is not None:
        gray = gray.transpose(turned)
        if turned in _SIDEWAYS:
            width, height = height, width
    return PageImage(image=gray, page=page, width=width, height=height, unit="pixel", dpi=_plausible(dpi))


def _target_size(size: tuple[int, int], dpi: tuple[float | None, float | None], max_pixels: int) -> tuple[int, int]:
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


def _shrunk(gray: Image.Image, target: tuple[int, int]) -> Image.Image:
    if gray.size == target:
        return gray
    return gray.resize(target, Image.Resampling.BOX)


def _plausible(dpi: int | None) -> int | None:
    return dpi if dpi is not None and dpi in PLAUSIBLE_DPI else None


def _resolution(image: Image.Image) -> tuple[float | None, float | None]:
    """Dots per inch across and down, where the file says so and both are plausible."""
    try:
        across, down = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None, None
    if all(PLAUSIBLE_DPI.start <= value < PLAUSIBLE_DPI.stop for value in (across, down)):
        return across, down
    return None, None


_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset(_TRANSPOSITIONS[value] for value in (5, 6, 7, 8))


def _exif_transposition(image: Image.Image) -> Image.Transpose | None:
    """How to turn the pixels upright; None too where the decoder does it itself (TIFF)."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    try:
        return _TRANSPOSITIONS.get(image.getexif().get(_EXIF_ORIENTATION, 1))
    except (OSError, *_DECODER_ERRORS):
        return None  # a broken tag does not break the picture


def _gray(image: Image.Image) -> Image.Image:
    """8-bit gray, on white; made band by band, so that a large picture is not held in a third form."""
    if image.mode == "L" and "transparency" not in image.info:
        return image.copy()
    rows = max(1, _BAND_PIXELS // image.width)
    bands = [(0, top, image.width, min(image.height, top + rows)) for top in range(0, image.height, rows)]
    depth = _depth(image, bands) if image.mode.startswith("I") or image.mode == "F" else None
    gray = Image.new("L", image.size)
    for band in bands:
        piece = image.crop(band)
        gray.paste(_gray_band(piece) if depth is None else _scaled(piece, depth), band)
    return gray


def _gray_band(image: Image.Image) -> Image.Image:
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        with_alpha = "LA" if image.mode in ("L", "LA", "La") else "RGBA"
        return _flattened(image if image.mode == with_alpha else image.convert(with_alpha))
    if image.mode in ("CMYK", "HSV"):
        return image.convert("RGB").convert("L")
    if image.mode in ("LAB", "YCbCr"):
        return image.getchannel(0)
    return image.convert("L")


def _flattened(image: Image.Image) -> Image.Image:
    alpha = image.getchannel("A")
    gray = image.convert("L")
    if alpha.getextrema() == (255, 255):
        return gray
    return Image.composite(gray, Image.new("L", gray.size, 255), alpha)


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


# ---- PDF ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _open_pdf(file: BinaryIO, rules: Rules) -> Iterator[pypdfium2.PdfDocument]:
    """Open through the descriptor, so that what is read is what was opened."""
    handle = pdfium.FPDF_LoadDocument(f"/proc/self/fd/{file.fileno()}".encode("ascii") + b"\0", None)
    if not handle:
        if pdfium.FPDF_GetLastError() == pdfium.FPDF_ERR_PASSWORD:
            raise InvalidImageError("The PDF is protected by a password. Send it without.")
        raise InvalidImageError("The PDF is damaged.")
    pdf = pypdfium2.PdfDocument(handle)
    try:
        with contextlib.suppress(pypdfium2.PdfiumError):
            pdf.init_forms()  # what was typed into a form is drawn, where the form is sound
        rules.require_page_count(len(pdf))
        yield pdf
    finally:
        pdf.close()


def _inspect_pdf(file: BinaryIO, rules: Rules) -> int:
    with _open_pdf(file, rules) as pdf:
        pdf[0].close()
        if rules.max_sheet_inches is not None:
            is_scaled = _may_be_scaled(file) and _size(file) * len(pdf) <= _MOST_COPIED_BYTES
            for number in range(len(pdf)):
                width, height = pdf.get_page_size(number)
                unit = _user_unit(pdf, number) if is_scaled else 1.0
                rules.require_sheet(number + 1, (width * unit, height * unit))
        return len(pdf)


def _may_be_scaled(file: BinaryIO) -> bool:
    """Whether a page may have units of its own: the key is there to see, or may be inside a stream of objects."""
    with _mapped(file) as data:
        return data.find(b"/UserUnit") >= 0 or data.find(b"/ObjStm") >= 0


_USER_UNIT = re.compile(rb"/UserUnit\s*(\+?[0-9]+(?:\.[0-9]*)?|\+?\.[0-9]+)(?=[/\s>])(?!\s+[0-9]+\s+R)")
_NESTED = re.compile(rb"\((?:[^()\\]|\\.)*\)|<[0-9A-Fa-f\s]*>|(?<=.)<<[^<>]*>>", re.DOTALL)
_PAGE_OBJECT = re.compile(rb"[0-9]\s+obj\s*(<<(?:(?!endobj).)*/Type\s*/Page\b(?!s).*?)endobj", re.DOTALL)
_MAX_PAGE_OBJECT_BYTES = 1024 * 1024


def _user_unit(pdf: pypdfium2.PdfDocument, number: int) -> float:
    """How many points a page's unit is (`/UserUnit`); 1 where the page does not say or what it says cannot be.

    The library neither heeds that entry nor tells it. A copy of the page, written out, does: plain, whatever the
    original's compression and encryption.
    """
    written = bytearray()

    def write(_: object, block: int, length: int) -> int:
        written.extend(ctypes.string_at(block, length))
        is_whole = b"endobj" in written[-length - 6 :] and _PAGE_OBJECT.search(written) is not None
        return not is_whole and len(written) < _MAX_PAGE_OBJECT_BYTES

    sink = pdfium.FPDF_FILEWRITE(version=1)
    sink.WriteBlock = type(sink.WriteBlock)(write)
    copy = pypdfium2.PdfDocument.new()
    try:
        with contextlib.suppress(pypdfium2.PdfiumError):
            copy.import_pages(pdf, [number])
            pdfium.FPDF_SaveAsCopy(copy, sink, pdfium.FPDF_NO_INCREMENTAL)
    finally:
        copy.close()
    page = _PAGE_OBJECT.search(written)
    entries = page.group(1) if page is not None else b""
    nested = 1
    while nested:
        entries, nested = _NESTED.subn(b"", entries)
    found = _USER_UNIT.search(entries)
    unit = float(found.group(1)) if found is not None else 1.0
    low, high = _PLAUSIBLE_USER_UNITS
    return unit if low <= unit <= high else 1.0


def _load_pdf_page(file: BinaryIO, page: int, max_pixels: int) -> PageImage:
    with _open_pdf(file, READABLE) as pdf:
        _require_page(page, len(pdf))
        unit = _user_unit(pdf, page - 1) if _may_be_scaled(file) else 1.0
        sheet = pdf[page - 1]
        try:
            width, height = sheet.get_size()
            if not (math.isfinite(width) and math.isfinite(height) and min(width, height) > 0):
                raise InvalidImageError("The PDF is damaged: a page has no size.")
            scale = min(
                PDF_DPI / _POINTS_PER_INCH * max(1.0, unit),
                math.sqrt(max_pixels / (width * height)),
                USUAL_MAX_SIDE / max(width, height),
            )
            bitmap = sheet.render(scale=scale, grayscale=True, fill_color=(255, 255, 255, 255))
            image = bitmap.to_pil().convert("L").copy()
            bitmap.close()
        finally:
            sheet.close()
    return PageImage(
        image=image,
        page=page,
        width=round(width * unit / _POINTS_PER_INCH, 4),
        height=round(height * unit / _POINTS_PER_INCH, 4),
        unit="inch",
        dpi=_plausible(round(scale * _POINTS_PER_INCH / unit)),
    )
