"""PDF pages that are one picture, packed as scanners and their programs pack it: JPEG 2000, JBIG2, fax and the rest.

Each codec is given the same picture. JBIG2 has no writer among the libraries: its file is put together here, around
rows that libtiff's fax encoder packed (ITU-T T.88: a page and one generic region, coded as MMR).
"""

import io
import struct
import zlib
from collections.abc import Callable

from PIL import Image, ImageOps, TiffImagePlugin

from tests import pages

Codec = Callable[[Image.Image], tuple[bytes, bytes]]
"""Packs a picture: its entries in the dictionary of a PDF, and its data."""

POINTS_PER_INCH = 72
_STRIP_OFFSETS, _STRIP_LENGTHS, _ROWS_PER_STRIP = 273, 279, 278
_MMR = 1
_PAGE, _REGION, _END_OF_PAGE, _END_OF_STRIPE = 48, 38, 49, 50


def gray_jpx(image: Image.Image) -> tuple[bytes, bytes]:
    """JPEG 2000 in its box format, without loss."""
    return b"/Filter /JPXDecode", pages.encoded(image.convert("L"), "JPEG2000")


def colour_jpx(image: Image.Image) -> tuple[bytes, bytes]:
    """JPEG 2000 in colours, with loss, in several tiles and resolutions."""
    data = pages.encoded(
        image.convert("RGB"),
        "JPEG2000",
        irreversible=True,
        quality_layers=[20],
        tile_size=(256, 256),
        num_resolutions=4,
    )
    return b"/Filter /JPXDecode", data


def bare_jpx(image: Image.Image) -> tuple[bytes, bytes]:
    """A JPEG 2000 codestream without boxes."""
    return b"/Filter /JPXDecode", pages.encoded(image.convert("L"), "JPEG2000", no_jp2=True)


def jbig2(image: Image.Image) -> tuple[bytes, bytes]:
    """JBIG2: one region for the whole page."""
    return _ONE_BIT + b" /Filter /JBIG2Decode", jbig2_page(image.size, jbig2_region(image.size, fax_rows(image)))


def jbig2_in_bands(image: Image.Image) -> tuple[bytes, bytes]:
    """JBIG2: a region for each half of a page whose height is not told at its beginning, as from a feeder."""
    width, height = image.size
    middle = height // 2
    regions = b"".join(
        jbig2_region((width, bottom - top), fax_rows(image.crop((0, top, width, bottom))), top=top, number=number)
        + _segment(number + 1, _END_OF_STRIPE, struct.pack(">I", bottom - 1))
        for number, top, bottom in ((1, 0, middle), (3, middle, height))
    )
    striped = jbig2_page((width, 0xFFFFFFFF), regions, rows_at_a_time=height)
    return _ONE_BIT + b" /Filter /JBIG2Decode", striped


def fax(image: Image.Image) -> tuple[bytes, bytes]:
    """CCITT group 4."""
    params = b"<< /K -1 /Columns %d /Rows %d >>" % image.size
    return _ONE_BIT + b" /Filter /CCITTFaxDecode /DecodeParms " + params, fax_rows(image)


def jpeg(image: Image.Image) -> tuple[bytes, bytes]:
    """A gray JPEG."""
    return _GRAY + b" /Filter /DCTDecode", pages.encoded(image.convert("L"), "JPEG", quality=85)


def deflated(image: Image.Image) -> tuple[bytes, bytes]:
    """Gray pixels, packed without loss."""
    return _GRAY + b" /Filter /FlateDecode", zlib.compress(image.convert("L").tobytes())


CODECS: tuple[Codec, ...] = (
    gray_jpx, colour_jpx, bare_jpx, jbig2, jbig2_in_bands, fax, jpeg, deflated,
)  # fmt: skip

_GRAY = b"/ColorSpace /DeviceGray /BitsPerComponent 8"
_ONE_BIT = b"/ColorSpace /DeviceGray /BitsPerComponent 1"


def scan(image: Image.Image, codec: Codec = deflated, *, dpi: float = 200) -> bytes:
    """A PDF of one page that is filled by a picture.

    Args:
        image: The picture.
        codec: Packs it.
        dpi: The picture's resolution, which says how large the page is.
    """
    entries, data = codec(image)
    return filled(image.size, entries, data, dpi=dpi)


def filled(size: tuple[int, int], entries: bytes, data: bytes, *, dpi: float = 200) -> bytes:
    """The same, around a picture that is packed already.

    Args:
        size: What the dictionary says of its width and height, pixels.
        entries: What else it says.
        data: The picture.
        dpi: The resolution.
    """
    width, height = (side * POINTS_PER_INCH / dpi for side in size)
    content = b"q %.4f 0 0 %.4f 0 0 cm /I Do Q" % (width, height)
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        3: b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %.4f %.4f] /Contents 4 0 R "
        b"/Resources << /XObject << /I 5 0 R >> >> >>" % (width, height),
        4: b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
        5: b"<< /Type /XObject /Subtype /Image /Width %d /Height %d %s /Length %d >>\nstream\n%s\nendstream"
        % (*size, entries, len(data), data),
    }
    return pages.assembled(objects)


# ---- JBIG2


def jbig2_page(size: tuple[int, int], segments: bytes, *, rows_at_a_time: int = 0) -> bytes:
    """A page of JBIG2 as it is embedded in a PDF: without a file's header and end.

    Args:
        size: Width and height, pixels; a height of 2**32 - 1 is one that is not known yet.
        segments: What is on it.
        rows_at_a_time: Most rows of a stripe, where the page comes in stripes; 0 where it does not.
    """
    striping = 0x8000 | rows_at_a_time if rows_at_a_time else 0
    told = struct.pack(">IIIIBH", *size, 0, 0, 0, striping)
    return _segment(0, _PAGE, told) + segments + _segment(9999, _END_OF_PAGE, b"")


def jbig2_region(size: tuple[int, int], rows: bytes, *, top: int = 0, number: int = 1) -> bytes:
    """A generic region, coded as MMR.

    Args:
        size: What it says of its width and height, pixels.
        rows: The pixels, as `fax_rows` packs them.
        top: Where on the page.
        number: Of the segment.
    """
    return _segment(number, _REGION, struct.pack(">IIIIBB", *size, 0, top, 0, _MMR) + rows)


def _segment(number: int, kind: int, data: bytes) -> bytes:
    return struct.pack(">IBBBI", number, kind, 0, 1, len(data)) + data


def fax_rows(image: Image.Image) -> bytes:
    """Rows of black and white in CCITT group 4; what is black is 1."""
    file = io.BytesIO()
    inverted = ImageOps.invert(image.convert("L")).convert("1", dither=Image.Dither.NONE)
    told = TiffImagePlugin.ImageFileDirectory_v2()
    told[_ROWS_PER_STRIP] = image.height
    inverted.save(file, "TIFF", compression="group4", tiffinfo=told)
    file.seek(0)
    with Image.open(file) as written:
        assert isinstance(written, TiffImagePlugin.TiffImageFile)
        (start,), (length,) = written.tag_v2[_STRIP_OFFSETS], written.tag_v2[_STRIP_LENGTHS]
    return file.getvalue()[start : start + length]
