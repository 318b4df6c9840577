"""Documents with a known truth, made here, so that no test needs a picture from elsewhere.

page = printed_page()
page.text                                   what is printed on it
page.words[0].polygon                       where: four corners, clockwise from the text's own top-left
as_png(page), as_jpeg(page), as_tiff([page, page]), as_pdf([page]), digital_pdf([LINES])
turned(page, 3.0)                           the same page, turned clockwise, truth and all
character_error_rate(page.text, read)       what a test asserts on
"""

import hashlib
import io
import math
import random
import struct
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw, ImageFont

Polygon = tuple[float, ...]

LINES = (
    "The licence lets this machine read pages without a network.",
    "Every page is counted once, and once only, by the meter.",
    "The quick brown fox jumps over the lazy dog near Gate 7.",
    "An auditor can prove the count with the files in this folder.",
    "Nothing that was acknowledged to a client is ever uncounted.",
    "When the plug is pulled, the ledger knows what was promised.",
    "Pack my box with five dozen jugs of liquid, please, by Monday.",
    "A clock that is set back by a year gains nobody a single page.",
    "Invoices 1042, 1043 and 1057 were paid on 3 March 2027.",
    "The window closes every ten to fifteen minutes, used or not.",
)
"""Plain English, ASCII only, so that every character is in the embedded font."""


@dataclass(frozen=True)
class TruthWord:
    text: str
    polygon: Polygon


@dataclass(frozen=True)
class PrintedPage:
    image: Image.Image
    words: tuple[TruthWord, ...]
    text: str
    dpi: int


# ---- pages ----------------------------------------------------------------------------------------------------------


def printed_page(
    lines: Sequence[str] = LINES,
    *,
    size: tuple[int, int] = (1240, 1754),
    dpi: int = 150,
    points: float = 11,
    font_name: str | None = None,
) -> PrintedPage:
    """Black print on white; an A4 sheet at 150 DPI unless told otherwise; with `font_name`, an installed font."""
    image = Image.new("L", size, 255)
    pen = ImageDraw.Draw(image)
    pixels = points * dpi / 72
    font = ImageFont.load_default(size=pixels) if font_name is None else ImageFont.truetype(font_name, pixels)
    left, top, pitch = 0.8 * dpi, dpi, points * dpi / 72 * 1.6
    words = []
    for number, line in enumerate(lines):
        x, y = left, top + number * pitch
        for text in line.split():
            pen.text((x, y), text, font=font, fill=0)
            words.append(TruthWord(text, _corners(pen.textbbox((x, y), text, font=font))))
            x += font.getlength(text + " ")
    return PrintedPage(image=image, words=tuple(words), text="\n".join(lines), dpi=dpi)


def two_columns(left: Sequence[str], right: Sequence[str]) -> PrintedPage:
    """Two columns side by side; the truth goes down the left one first."""
    image = Image.new("L", (1654, 1170), 255)
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=30)
    for x, lines in ((100, left), (900, right)):
        for number, line in enumerate(lines):
            pen.text((x, 120 + 48 * number), line, font=font, fill=0)
    return PrintedPage(image=image, words=(), text="\n".join((*left, *right)), dpi=200)


def empty_page(size: tuple[int, int] = (1240, 1754)) -> PrintedPage:
    return PrintedPage(image=Image.new("L", size, 255), words=(), text="", dpi=150)


def turned(page: PrintedPage, degrees: float) -> PrintedPage:
    """The page turned clockwise on a larger white sheet."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    if degrees % 90 == 0:
        quarters = round(degrees / 90) % 4
        image = page.image.copy() if not quarters else page.image.transpose(_CLOCKWISE[quarters])
    else:
        image = page.image.rotate(-degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=255)
    (cx, cy), (ux, uy) = ((side / 2 for side in picture.size) for picture in (page.image, image))

    def moved(polygon: Polygon) -> Polygon:
        return tuple(
            value
            for x, y in zip(polygon[::2], polygon[1::2], strict=True)
            for value in (
                ux + cosine * (x - cx) - sine * (y - cy),
                uy + sine * (x - cx) + cosine * (y - cy),
            )
        )

    words = tuple(replace(word, polygon=moved(word.polygon)) for word in page.words)
    return replace(page, image=image, words=words)


_CLOCKWISE = {1: Image.Transpose.ROTATE_270, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_90}


def _corners(box: tuple[float, float, float, float]) -> Polygon:
    left, top, right, bottom = box
    return (left, top, right, top, right, bottom, left, bottom)


# ---- files ----------------------------------------------------------------------------------------------------------


def as_png(page: PrintedPage) -> bytes:
    return encoded(page.image, "PNG", dpi=(page.dpi, page.dpi))


def as_jpeg(page: PrintedPage) -> bytes:
    return encoded(page.image.convert("RGB"), "JPEG", quality=90, dpi=(page.dpi, page.dpi))


def as_bmp(page: PrintedPage) -> bytes:
    return encoded(page.image, "BMP", dpi=(page.dpi, page.dpi))


def as_tiff(pages: Sequence[PrintedPage], compression: str = "tiff_lzw") -> bytes:
    # Copies, because what a picture was saved as before would be asked of this encoder too.
    first, *others = (page.image.copy() for page in pages)
    dpi = (pages[0].dpi, pages[0].dpi)
    return encoded(first, "TIFF", save_all=True, append_images=others, compression=compression, dpi=dpi)


def as_pdf(pages: Sequence[PrintedPage]) -> bytes:
    """A scanned PDF: one picture on each page."""
    first, *others = (page.image for page in pages)
    return encoded(first, "PDF", save_all=True, append_images=others, resolution=pages[0].dpi)


def as_gif(pages: Sequence[PrintedPage]) -> bytes:
    """One frame after the other."""
    first, *others = (page.image for page in pages)
    return encoded(first, "GIF", save_all=True, append_images=others, duration=100)


def as_webp(page: PrintedPage, *, lossless: bool = True) -> bytes:
    return encoded(page.image.convert("RGB"), "WEBP", lossless=lossless, method=0)


def as_mpo(pages: Sequence[PrintedPage]) -> bytes:
    """Several JPEGs in one file, as cameras with two lenses make them."""
    first, *others = (page.image.convert("RGB") for page in pages)
    return encoded(first, "MPO", save_all=True, append_images=others, quality=90)


def as_ico(pictures: Sequence[Image.Image | bytes]) -> bytes:
    """Pictures as PNG files, or as they come; none needs to have an icon's size."""
    blobs = [one if isinstance(one, bytes) else encoded(one, "PNG") for one in pictures]
    offset, directory = 6 + 16 * len(blobs), b""
    for blob in blobs:
        directory += struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(blob), offset)
        offset += len(blob)
    return struct.pack("<HHH", 0, 1, len(blobs)) + directory + b"".join(blobs)


def icon_bitmap(image: Image.Image) -> bytes:
    """A picture as icons held them before they held PNG: a bitmap of 24 bits, then the mask."""
    body = encoded(image.convert("RGB"), "DIB")
    mask = bytes((image.width + 31) // 32 * 4 * image.height)
    return body[:8] + struct.pack("<i", 2 * image.height) + body[12:] + mask


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def digital_pdf(pages: Sequence[Sequence[str]], *, password: str | None = None, rotate: int = 0) -> bytes:
    """A PDF whose text is drawn in Helvetica at 12 points on US letter, optionally encrypted (RC4, 40 bit)."""
    encryption = _Encryption(password) if password is not None else None
    objects: dict[int, bytes] = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    }
    kids = []
    for number, lines in enumerate(pages):
        page, content = 4 + 2 * number, 5 + 2 * number
        kids.append(f"{page} 0 R")
        drawn = "".join(f"({line}) Tj T* " for line in lines)
        stream = f"BT /F1 12 Tf 16 TL 72 700 Td {drawn}ET".encode("ascii")
        if encryption is not None:
            stream = encryption.encrypted(stream, content)
        objects[page] = (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Rotate {rotate} "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {content} 0 R >>"
        ).encode("ascii")
        objects[content] = b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream)
    objects[2] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>".encode("ascii")
    trailer = b""
    if encryption is not None:
        number = max(objects) + 1
        objects[number] = encryption.dictionary
        trailer = b" /Encrypt %d 0 R /ID [<%s> <%s>]" % (number, _ID.hex().encode(), _ID.hex().encode())
    return assembled(objects, trailer)


def pdf_with_shared_picture(*, count: int, picture_bytes: int) -> bytes:
    """A PDF whose pages inherit one large picture, and of which any may have units of its own."""
    pages_at = range(4, 4 + count)
    kids = " ".join(f"{number} 0 R" for number in pages_at)
    picture = random.Random(picture_bytes).randbytes(picture_bytes)
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /UserUnit 1 >>"
    return assembled(
        {
            1: b"<< /Type /Catalog /Pages 2 0 R >>",
            2: f"<< /Type /Pages /Kids [{kids}] /Count {count} /Resources << /XObject << /I 3 0 R >> >> >>".encode(),
            3: b"<< /Type /XObject /Subtype /Image /Width %d /Height 1 /ColorSpace /DeviceGray /BitsPerComponent 8 "
            b"/Length %d >>\nstream\n%s\nendstream" % (picture_bytes, picture_bytes, picture),
            **dict.fromkeys(pages_at, page),
        }
    )


def assembled(objects: dict[int, bytes], trailer: bytes = b"") -> bytes:
    """A PDF: the objects, of which the first is the catalogue, a table and a trailer."""
    out = bytearray(b"%PDF-1.4\n")
    offsets = {}
    for number in sorted(objects):
        offsets[number] = len(out)
        out += b"%d 0 obj\n%s\nendobj\n" % (number, objects[number])
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    for number in sorted(objects):
        out += b"%010d 00000 n \n" % offsets[number]
    out += b"trailer\n<< /Size %d /Root 1 0 R%s >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, trailer, start)
    return bytes(out)


_ID = hashlib.md5(b"an id").digest()
_PADDING = bytes.fromhex("28bf4e5e4e758a4164004e56fffa01082e2e00b6d0683e802f0ca9fe6453697a")


class _Encryption:
    """The standard security handler, revision 2, as the PDF reference 1.4 describes it in section 3.5."""

    def __init__(self, password: str, permissions: int = -4) -> None:
        padded = (password.encode("latin-1") + _PADDING)[:32]
        owner = _rc4(hashlib.md5(padded).digest()[:5], padded)
        material = padded + owner + struct.pack("<i", permissions) + _ID
        self._key = hashlib.md5(material).digest()[:5]
        user = _rc4(self._key, _PADDING)
        self.dictionary = b"<< /Filter /Standard /V 1 /R 2 /Length 40 /P %d /O <%s> /U <%s> >>" % (
            permissions,
            owner.hex().encode(),
            user.hex().encode(),
        )

    def encrypted(self, stream: bytes, number: int) -> bytes:
        key = hashlib.md5(self._key + struct.pack("<I", number)[:3] + b"\0\0").digest()[:10]
        return _rc4(key, stream)


def _rc4(key: bytes, data: bytes) -> bytes:
    state, j = list(range(256)), 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out, i, j = bytearray(), 0, 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)


# ---- bad files ------------------------------------------------------------------------------------------------------


def declared_png(width: int, height: int) -> bytes:
    """A PNG whose header declares a size that its few bytes of pixels do not fill."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(kind, data)
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    )


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bad_files() -> dict[str, tuple[bytes, str]]:
    """Name → bytes and the code that they are refused with."""
    page = printed_page()
    small = printed_page(LINES[:1], size=(900, 300))
    return {
        "empty": (b"", "InvalidImageSize"),
        "text as png": (b"This is not an image.\n" * 100, "InvalidImage"),
        "gif": (encoded(page.image, "GIF"), "UnsupportedImageFormat"),
        "webp": (encoded(page.image, "WEBP", lossless=True), "UnsupportedImageFormat"),
        "truncated png": (as_png(page)[:-2000], "InvalidImage"),
        "png without end": (as_png(page)[:-12], "InvalidImage"),
        "png with a wrong checksum": (_flipped(as_png(page), -300), "InvalidImage"),
        "truncated jpeg": (as_jpeg(page)[:-2000], "InvalidImage"),
        "truncated small jpeg": (as_jpeg(small)[: len(as_jpeg(small)) // 2], "InvalidImage"),
        "truncated bmp": (as_bmp(page)[:-2000], "InvalidImage"),
        "truncated tiff": (as_tiff([page], "raw")[:-2000], "InvalidImage"),
        "truncated pdf": (digital_pdf([LINES])[:60], "InvalidImage"),
        "encrypted pdf": (digital_pdf([LINES], password="secret"), "InvalidImage"),
        "49 x 49": (encoded(Image.new("L", (49, 49), 255), "PNG"), "InvalidImageDimension"),
        "10001 px": (encoded(Image.new("L", (10001, 60), 255), "PNG"), "InvalidImageDimension"),
        "bomb": (declared_png(100_000, 100_000), "InvalidImageDimension"),
    }


def _flipped(blob: bytes, at: int) -> bytes:
    changed = bytearray(blob)
    changed[at] ^= 0xFF
    return bytes(changed)


# ---- judging --------------------------------------------------------------------------------------------------------

_PLAIN = {0x201C: '"', 0x201D: '"', 0x2018: "'", 0x2019: "'", 0x2013: "-", 0x2014: "-"}  # curly quotes, dashes


def normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).translate(_PLAIN).split())


def character_error_rate(truth: str, text: str) -> float:
    """Edits for each character of the truth, white space collapsed, quotes and dashes plain."""
    truth, text = normalised(truth), normalised(text)
    previous = list(range(len(text) + 1))
    for number, wanted in enumerate(truth, start=1):
        current = [number]
        for index, found in enumerate(text):
            current.append(min(previous[index] + (wanted != found), previous[index + 1] + 1, current[index] + 1))
        previous = current
    return previous[-1] / max(1, len(truth))


def overlap(first: Polygon, second: Polygon) -> float:
    """Intersection over union of two convex polygons given clockwise (y downwards)."""
    common = _area(_clipped(_points(first), _points(second)))
    union = _area(_points(first)) + _area(_points(second)) - common
    return common / union if union else 0.0


_Points = list[tuple[float, float]]


def _points(polygon: Polygon) -> _Points:
    return list(zip(polygon[::2], polygon[1::2], strict=True))


def _area(points: _Points) -> float:
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1], strict=True))) / 2


def _clipped(points: _Points, window: _Points) -> _Points:
    """Sutherland-Hodgman."""
    for (x1, y1), (x2, y2) in zip(window, window[1:] + window[:1], strict=True):

        def side(point: tuple[float, float], x1: float = x1, y1: float = y1, x2: float = x2, y2: float = y2) -> float:
            return (x2 - x1) * (point[1] - y1) - (y2 - y1) * (point[0] - x1)

        kept: _Points = []
        for start, end in zip(points[-1:] + points[:-1], points, strict=True):
            before, after = side(start), side(end)
            if (before < 0) != (after < 0):
                share = before / (before - after)
                kept.append((start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])))
            if after >= 0:
                kept.append(end)
        points = kept
        if not points:
            return []
    return points
