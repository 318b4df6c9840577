"""Every usual way to write the same picture: the gray pixels are right, whatever the bits, the planes and the packing.

The picture is wider than high: black in the top left corner, middle gray in the top right one, else white.
"""

import io
import struct
import tempfile
import zlib
from collections.abc import Callable

import pytest
from PIL import Image, ImageDraw, features

from ocr_core import documents
from ocr_core.documents import PageImage
from ocr_core.errors import InvalidImageError
from tests import pages
from tests.fakes import pdf_pictures
from tests.fakes.tiff_files import LONG, RATIONAL, SHORT, picture, tiff

WIDTH, HEIGHT = 96, 64


def the_picture(gray: int = 128) -> Image.Image:
    image = Image.new("L", (WIDTH, HEIGHT), 255)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, 31, 15), fill=0)
    pen.rectangle((64, 0, 95, 15), fill=gray)
    return image


GRAY = the_picture()
BLACK_AND_WHITE = the_picture(255).convert("1")
COLOUR = GRAY.convert("RGB")


def loaded(blob: bytes, page: int = 1) -> PageImage:
    with tempfile.TemporaryFile() as file:
        file.write(blob)
        file.flush()
        assert documents.inspect(file).pages >= page
        return documents.load_page(file, page, max_pixels=3_000_000)


def corners(found: PageImage) -> tuple[int, int, int]:
    """Mean gray of the two corners above, and of the paper below."""
    width, height = found.image.size

    def mean(left: float, top: float, right: float, bottom: float) -> int:
        box = (round(left * width), round(top * height), round(right * width), round(bottom * height))
        value = found.image.crop(box).resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        assert isinstance(value, int)
        return value

    return mean(0.05, 0.05, 0.28, 0.2), mean(0.72, 0.05, 0.95, 0.2), mean(0.1, 0.5, 0.9, 0.95)


def packed(image: Image.Image, bits: int) -> bytes:
    """Gray rows of so many bits a pixel, the first pixel in the highest ones."""
    out = bytearray()
    for y in range(image.height):
        row, filled = 0, 0
        for x in range(image.width):
            row = row << bits | image.getpixel((x, y)) >> (8 - bits)  # type: ignore[operator]
            filled += bits
        out += (row << (-filled % 8)).to_bytes((filled + 7) // 8, "big")
    return bytes(out)


def bands(image: Image.Image, rows: int) -> list[bytes]:
    return [
        image.crop((0, top, image.width, min(image.height, top + rows))).tobytes()
        for top in range(0, image.height, rows)
    ]


def tiles(image: Image.Image, size: int) -> list[bytes]:
    return [
        image.crop((left, top, left + size, top + size)).tobytes()
        for top in range(0, image.height, size)
        for left in range(0, image.width, size)
    ]


def deep(code: str, scale: float) -> bytes:
    return struct.pack(f"<{WIDTH * HEIGHT}{code}", *[type_of(code)(value * scale) for value in GRAY.tobytes()])


def type_of(code: str) -> Callable[[float], float]:
    return float if code in "fd" else int  # type: ignore[return-value]


CMYK = Image.merge("CMYK", [Image.new("L", GRAY.size, 0)] * 3 + [GRAY.point(lambda value: 255 - value)])
RAW = GRAY.tobytes()

TIFFS: dict[str, tuple[Callable[[], bytes], int]] = {
    "gray": (lambda: tiff([picture(WIDTH, HEIGHT, [RAW])]), 128),
    "big endian": (lambda: tiff([picture(WIDTH, HEIGHT, [RAW])], order=">"), 128),
    "BigTIFF": (lambda: tiff([picture(WIDTH, HEIGHT, [RAW])], big=True), 128),
    "strips": (lambda: tiff([picture(WIDTH, HEIGHT, bands(GRAY, 10), rows=10)]), 128),
    "tiles": (lambda: tiff([picture(WIDTH, HEIGHT, tiles(GRAY, 16), tile=(16, 16))]), 128),
    "tiles that overhang": (lambda: tiff([picture(WIDTH, HEIGHT, tiles(GRAY, 80), tile=(80, 80))]), 128),
    "deflated tiles": (
        lambda: tiff(
            [picture(WIDTH, HEIGHT, [zlib.compress(one) for one in tiles(GRAY, 32)], tile=(32, 32), compression=8)]
        ),
        128,
    ),
    "white is zero": (
        lambda: tiff([picture(WIDTH, HEIGHT, [bytes(255 - value for value in RAW)], photometric=0)]),
        128,
    ),
    "2 bits": (lambda: tiff([picture(WIDTH, HEIGHT, [packed(GRAY, 2)], bits=(2,))]), 170),
    "4 bits": (lambda: tiff([picture(WIDTH, HEIGHT, [packed(GRAY, 4)], bits=(4,))]), 136),
    "1 bit": (lambda: tiff([picture(WIDTH, HEIGHT, [BLACK_AND_WHITE.tobytes()], bits=(1,))]), 255),
    "1 bit, white is zero": (
        lambda: tiff(
            [
                picture(
                    WIDTH, HEIGHT, [bytes(255 - value for value in BLACK_AND_WHITE.tobytes())], bits=(1,), photometric=0
                )
            ]
        ),
        255,
    ),
    "1 bit, lowest first": (
        lambda: tiff(
            [picture(WIDTH, HEIGHT, [reversed_bits(BLACK_AND_WHITE.tobytes())], bits=(1,), more={266: (SHORT, 2)})]
        ),
        255,
    ),
    "16 bits": (lambda: tiff([picture(WIDTH, HEIGHT, [deep("H", 257)], bits=(16,))]), 128),
    "16 bits, white is zero": (
        lambda: tiff(
            [
                picture(
                    WIDTH,
                    HEIGHT,
                    [struct.pack(f"<{len(RAW)}H", *[65_535 - 257 * value for value in RAW])],
                    bits=(16,),
                    photometric=0,
                )
            ]
        ),
        128,
    ),
    "32 bits": (lambda: tiff([picture(WIDTH, HEIGHT, [deep("I", 256 * 256 * 64)], bits=(32,))]), 128),
    "real numbers": (
        lambda: tiff([picture(WIDTH, HEIGHT, [deep("f", 1 / 255)], bits=(32,), more={339: (SHORT, 3)})]),
        128,
    ),
    "colour": (lambda: tiff([picture(WIDTH, HEIGHT, [COLOUR.tobytes()], bits=(8, 8, 8), photometric=2)]), 128),
    "colour in planes": (
        lambda: tiff([picture(WIDTH, HEIGHT, [RAW] * 3, bits=(8, 8, 8), photometric=2, more={284: (SHORT, 2)})]),
        128,
    ),
    "deflated colour in planes": (
        lambda: tiff(
            [
                picture(
                    WIDTH,
                    HEIGHT,
                    [zlib.compress(RAW)] * 3,
                    bits=(8, 8, 8),
                    photometric=2,
                    compression=8,
                    more={284: (SHORT, 2)},
                )
            ]
        ),
        128,
    ),
    "16-bit colour": (
        lambda: tiff(
            [
                picture(
                    WIDTH,
                    HEIGHT,
                    [struct.pack(f"<{3 * len(RAW)}H", *[257 * value for value in COLOUR.tobytes()])],
                    bits=(16, 16, 16),
                    photometric=2,
                )
            ]
        ),
        128,
    ),
    "palette": (
        lambda: tiff(
            [
                picture(
                    WIDTH, HEIGHT, [RAW], photometric=3, more={320: (SHORT, [257 * value for value in range(256)] * 3)}
                )
            ]
        ),
        128,
    ),
    "4-bit palette": (
        lambda: tiff(
            [
                picture(
                    WIDTH,
                    HEIGHT,
                    [packed(GRAY, 4)],
                    bits=(4,),
                    photometric=3,
                    more={320: (SHORT, [4369 * value for value in range(16)] * 3)},
                )
            ]
        ),
        136,
    ),
    "gray with alpha": (
        lambda: tiff([picture(WIDTH, HEIGHT, [GRAY.convert("LA").tobytes()], bits=(8, 8), more={338: (SHORT, 2)})]),
        128,
    ),
    "colour with alpha": (
        lambda: tiff(
            [
                picture(
                    WIDTH,
                    HEIGHT,
                    [COLOUR.convert("RGBA").tobytes()],
                    bits=(8, 8, 8, 8),
                    photometric=2,
                    more={338: (SHORT, 2)},
                )
            ]
        ),
        128,
    ),
    "CMYK": (lambda: tiff([picture(WIDTH, HEIGHT, [CMYK.tobytes()], bits=(8, 8, 8, 8), photometric=5)]), 128),
    "CMYK in planes": (
        lambda: tiff(
            [
                picture(
                    WIDTH,
                    HEIGHT,
                    [one.tobytes() for one in CMYK.split()],
                    bits=(8, 8, 8, 8),
                    photometric=5,
                    more={284: (SHORT, 2)},
                )
            ]
        ),
        128,
    ),
    "YCbCr": (
        lambda: tiff(
            [
                picture(
                    WIDTH,
                    HEIGHT,
                    [COLOUR.convert("YCbCr").tobytes()],
                    bits=(8, 8, 8),
                    photometric=6,
                    more={530: (SHORT, [1, 1])},
                )
            ]
        ),
        128,
    ),
    "Lab": (
        lambda: tiff(
            [picture(WIDTH, HEIGHT, [b"".join(bytes([value, 0, 0]) for value in RAW)], bits=(8, 8, 8), photometric=8)]
        ),
        128,
    ),
}
SAVED = ("tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "lzma", "zstd", "jpeg")
FAXES = ("group3", "group4", "tiff_ccitt")


def reversed_bits(data: bytes) -> bytes:
    return bytes(int(f"{value:08b}"[::-1], 2) for value in data)


@pytest.mark.parametrize("name", TIFFS)
def test_a_tiff_of_any_kind_becomes_the_same_gray(name: str) -> None:
    make, gray = TIFFS[name]
    black, middle, paper = corners(loaded(make()))
    assert black < 16
    assert middle == pytest.approx(gray, abs=12)
    assert paper > 245


@pytest.mark.parametrize("compression", SAVED)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_tiff_of_any_compression_becomes_the_same_gray(compression: str, mode: str) -> None:
    blob = pages.encoded(GRAY.convert(mode), "TIFF", compression=compression)
    black, middle, paper = corners(loaded(blob))
    assert black < 16
    assert middle == pytest.approx(128, abs=12)
    assert paper > 245


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_a_tiff_of_differences_becomes_the_same_gray(compression: str) -> None:
    buffer = io.BytesIO()
    COLOUR.save(buffer, "TIFF", compression=compression, tiffinfo={317: 2})
    assert corners(loaded(buffer.getvalue()))[1] == pytest.approx(128, abs=12)


@pytest.mark.parametrize("compression", FAXES)
def test_a_fax_in_a_tiff_is_black_on_white(compression: str) -> None:
    assert corners(loaded(pages.encoded(BLACK_AND_WHITE, "TIFF", compression=compression))) == (0, 255, 255)


def test_a_big_tiff_of_the_other_byte_order_is_refused_not_misread() -> None:
    with pytest.raises(InvalidImageError):
        loaded(tiff([picture(WIDTH, HEIGHT, [RAW])], big=True, order=">"))


def test_a_resolution_in_centimetres_is_told_in_inches() -> None:
    blob = tiff(
        [picture(WIDTH, HEIGHT, [RAW], more={282: (RATIONAL, (118, 1)), 283: (RATIONAL, (118, 1)), 296: (SHORT, 3)})]
    )
    assert loaded(blob).dpi == 300


def test_pages_of_a_tiff_may_be_of_different_kinds() -> None:
    blob = tiff([TIFFS_PAGE["gray"], TIFFS_PAGE["fax"], TIFFS_PAGE["deflated"]])
    assert [corners(loaded(blob, page))[1] for page in (1, 2, 3)] == [128, 255, 128]


TIFFS_PAGE = {
    "gray": picture(WIDTH, HEIGHT, [RAW]),
    "fax": picture(WIDTH, HEIGHT, [BLACK_AND_WHITE.tobytes()], bits=(1,)),
    "deflated": picture(WIDTH, HEIGHT, [zlib.compress(RAW)], compression=8, more={317: (SHORT, 1), 254: (LONG, 2)}),
}


# ---- PNG


def png(data: bytes, depth: int, colour: int, *, more: bytes = b"") -> bytes:
    """A PNG of any depth; rows without a filter."""
    stride = len(data) // HEIGHT
    rows = b"".join(b"\0" + data[at : at + stride] for at in range(0, len(data), stride))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + pages.png_chunk(b"IHDR", header)
        + more
        + pages.png_chunk(b"IDAT", zlib.compress(rows))
        + pages.png_chunk(b"IEND", b"")
    )


PNGS: dict[str, tuple[Callable[[], bytes], int]] = {
    "1 bit": (lambda: png(packed(GRAY, 1), 1, 0), 255),
    "2 bits": (lambda: png(packed(GRAY, 2), 2, 0), 170),
    "4 bits": (lambda: png(packed(GRAY, 4), 4, 0), 136),
    "8 bits": (lambda: png(RAW, 8, 0), 128),
    "16 bits": (lambda: png(b"".join(bytes([value, value]) for value in RAW), 16, 0), 128),
    "colour": (lambda: png(COLOUR.tobytes(), 8, 2), 128),
    "16-bit colour": (lambda: png(b"".join(bytes([value, value]) for value in COLOUR.tobytes()), 16, 2), 128),
    "gray with alpha": (lambda: png(GRAY.convert("LA").tobytes(), 8, 4), 128),
    "16-bit gray with alpha": (lambda: png(b"".join(bytes([value, value, 255, 255]) for value in RAW), 16, 4), 128),
    "colour with alpha": (lambda: png(COLOUR.convert("RGBA").tobytes(), 8, 6), 128),
    "palette of 1 bit": (lambda: png(packed(GRAY, 1), 1, 3, more=pages.png_chunk(b"PLTE", b"\0\0\0\xff\xff\xff")), 255),
    "palette of 8 bits": (
        lambda: png(RAW, 8, 3, more=pages.png_chunk(b"PLTE", bytes(v for n in range(256) for v in (n, n, n)))),
        128,
    ),
    "palette, its first entry transparent": (
        lambda: png(
            packed(the_picture().point(lambda v: 255 if v == 255 else 0), 1),
            1,
            3,
            more=pages.png_chunk(b"PLTE", b"\0\0\0\0\0\0") + pages.png_chunk(b"tRNS", b"\xff\0"),
        ),
        0,
    ),
    "one gray is transparent": (lambda: png(RAW, 8, 0, more=pages.png_chunk(b"tRNS", b"\0\x80")), 255),
}


@pytest.mark.parametrize("name", PNGS)
def test_a_png_of_any_kind_becomes_the_same_gray(name: str) -> None:
    make, gray = PNGS[name]
    black, middle, paper = corners(loaded(make()))
    assert black < 16
    assert middle == pytest.approx(gray, abs=12)
    assert paper > 245


def test_an_interlaced_png_becomes_the_same_gray() -> None:
    assert corners(loaded(adam7())) == (0, 128, 255)


def adam7() -> bytes:
    """The picture in seven passes (PNG, section 8.2)."""
    rows = b""
    for x0, y0, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        for y in range(y0, HEIGHT, dy):
            rows += b"\0" + bytes(RAW[y * WIDTH + x] for x in range(x0, WIDTH, dx))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        pages.png_chunk(kind, data)
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


# ---- JPEG


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 2}, {"optimize": True}, {"quality": 40}]
)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_of_any_kind_becomes_the_same_gray(mode: str, options: dict[str, object]) -> None:
    image = CMYK if mode == "CMYK" else GRAY.convert(mode)
    black, middle, paper = corners(loaded(pages.encoded(image, "JPEG", **options)))
    assert black < 16
    assert middle == pytest.approx(128, abs=12)
    assert paper > 245


# ---- BMP


def bmp(
    bits: int, rows: bytes, *, top_down: bool = False, compression: int = 0, masks: bytes = b"", palette: bytes = b""
) -> bytes:
    """A BMP with the header of 40 bytes."""
    height = -HEIGHT if top_down else HEIGHT
    colours = len(palette) // 4
    info = struct.pack("<IiiHHIIiiII", 40, WIDTH, height, 1, bits, compression, len(rows), 2835, 2835, colours, 0)
    start = 14 + len(info) + len(masks) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + info + masks + palette + rows


def grays(count: int) -> bytes:
    return b"".join(bytes([255 * n // (count - 1)] * 3 + [0]) for n in range(count))


def flipped(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)


def runs(image: Image.Image) -> bytes:
    """RLE8: each row in runs of one value, from below."""
    out = bytearray()
    for y in range(image.height - 1, -1, -1):
        row = image.crop((0, y, image.width, y + 1)).tobytes()
        at = 0
        while at < len(row):
            length = 1
            while at + length < len(row) and row[at + length] == row[at] and length < 255:
                length += 1
            out += bytes([length, row[at]])
            at += length
        out += b"\0\0"
    return bytes(out) + b"\0\1"


def os2(rows: bytes) -> bytes:
    """The header of OS/2: 12 bytes, and colours of three."""
    palette = b"".join(bytes([n] * 3) for n in range(256))
    start = 26 + len(palette)
    return (
        b"BM"
        + struct.pack("<IHHI", start + len(rows), 0, 0, start)
        + struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 8)
        + palette
        + rows
    )


FROM_BELOW = flipped(GRAY).tobytes()
BMPS: dict[str, tuple[Callable[[], bytes], int]] = {
    "1 bit": (lambda: bmp(1, packed(flipped(GRAY), 1), palette=grays(2)), 255),
    "4 bits": (lambda: bmp(4, packed(flipped(GRAY), 4), palette=grays(16)), 136),
    "8 bits": (lambda: bmp(8, FROM_BELOW, palette=grays(256)), 128),
    "8 bits, top down": (lambda: bmp(8, RAW, top_down=True, palette=grays(256)), 128),
    "8 bits in runs": (lambda: bmp(8, runs(GRAY), compression=1, palette=grays(256)), 128),
    "16 bits": (
        lambda: bmp(16, b"".join(struct.pack("<H", (v >> 3) << 10 | (v >> 3) << 5 | v >> 3) for v in FROM_BELOW)),
        132,
    ),
    "16 bits, 5-6-5": (
        lambda: bmp(
            16,
            b"".join(struct.pack("<H", (v >> 3) << 11 | (v >> 2) << 5 | v >> 3) for v in FROM_BELOW),
            compression=3,
            masks=struct.pack("<III", 0xF800, 0x07E0, 0x001F),
        ),
        132,
    ),
    "24 bits": (lambda: bmp(24, flipped(COLOUR).tobytes()), 128),
    "32 bits": (lambda: bmp(32, b"".join(bytes([v, v, v, 0]) for v in FROM_BELOW)), 128),
    "OS/2": (lambda: os2(FROM_BELOW), 128),
}


@pytest.mark.parametrize("name", BMPS)
def test_a_bmp_of_any_kind_becomes_the_same_gray(name: str) -> None:
    make, gray = BMPS[name]
    black, middle, paper = corners(loaded(make()))
    assert black < 16
    assert middle == pytest.approx(gray, abs=12)
    assert paper > 245


# ---- pictures in a PDF


@pytest.mark.parametrize("codec", pdf_pictures.CODECS, ids=lambda codec: codec.__name__)
def test_a_picture_in_a_pdf_is_drawn_however_it_is_packed(codec: pdf_pictures.Codec) -> None:
    has_grays = codec not in (pdf_pictures.jbig2, pdf_pictures.jbig2_in_bands, pdf_pictures.fax)
    black, middle, paper = corners(loaded(pdf_pictures.scan(GRAY if has_grays else BLACK_AND_WHITE, codec)))
    assert black < 16
    assert middle == pytest.approx(128 if has_grays else 255, abs=12)
    assert paper > 245


def test_what_the_tests_need_is_built_in() -> None:
    assert features.check("jpg_2000")
    assert features.check("libtiff")
