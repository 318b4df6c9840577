import io
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pytest
from PIL import Image, ImageChops, ImageDraw, ImageStat

from ocr_core import documents
from ocr_core.documents import DocumentFormat, PageImage, gray, memory
from ocr_core.documents.decoder_errors import decoding
from ocr_core.errors import (
    CoreError,
    FailedToProcessError,
    InvalidImageDimensionError,
    InvalidImageError,
    InvalidPageRangeError,
    UnsupportedImageFormatError,
)
from tests import pages

PAGE = pages.printed_page()
BAD_FILES = pages.bad_files()
CAP = 3_000_000


@contextmanager
def opened(blob: bytes) -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile() as file:
        file.write(blob)
        file.flush()
        yield file


def inspected(blob: bytes) -> documents.Inspection:
    with opened(blob) as file:
        return documents.inspect(file)


def loaded(blob: bytes, page: int = 1, max_pixels: int = CAP) -> PageImage:
    with opened(blob) as file:
        return documents.load_page(file, page, max_pixels=max_pixels)


def mean(image: Image.Image, box: tuple[int, int, int, int]) -> float:
    return image.crop(box).resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))  # type: ignore[return-value]


# ---- what is read


@pytest.mark.parametrize(
    ("blob", "kind", "count"),
    [
        (pages.as_png(PAGE), "png", 1),
        (pages.as_jpeg(PAGE), "jpeg", 1),
        (pages.as_jpeg(PAGE) + b"trailing garbage", "jpeg", 1),
        (pages.as_png(PAGE) + b"trailing garbage", "png", 1),
        (pages.as_bmp(PAGE), "bmp", 1),
        (pages.as_tiff([PAGE] * 3), "tiff", 3),
        (pages.as_tiff([PAGE] * 2, "raw"), "tiff", 2),
        (pages.as_tiff([PAGE], "jpeg"), "tiff", 1),
        (pages.as_pdf([PAGE] * 2), "pdf", 2),
        (pages.digital_pdf([pages.LINES] * 4), "pdf", 4),
        (b"\n" * 300 + pages.digital_pdf([pages.LINES]), "pdf", 1),
        (pages.digital_pdf([pages.LINES], password=""), "pdf", 1),
    ],
)
def test_what_a_document_is(blob: bytes, kind: str, count: int) -> None:
    assert inspected(blob) == documents.Inspection(format=DocumentFormat(kind), pages=count)
    assert loaded(blob, count).image.mode == "L"


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_with_its_code(name: str) -> None:
    blob, code = BAD_FILES[name]
    with pytest.raises(CoreError) as refusal:
        inspected(blob)
    assert refusal.value.code == code


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_that_was_never_inspected_is_read_or_refused_with_its_code(name: str) -> None:
    blob, code = BAD_FILES[name]
    found = code
    try:
        loaded(blob)
    except CoreError as refusal:
        found = refusal.code
    assert found == code


def test_a_declared_bomb_costs_nothing() -> None:
    started = time.process_time()
    with pytest.raises(CoreError):
        inspected(pages.declared_png(100_000, 100_000))
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    "head",
    [
        b"\0\0\2\0\1\0",
        b"\0\0\0\x18ftypheic",
        b"\0\0\0\x0cjP  \r\n",
        b"8BPS\0\1",
        b"P5 10 10",
        b'<?xml version="1.0"?><svg>',
    ],
)
def test_other_pictures_are_named_as_such(head: bytes) -> None:
    with pytest.raises(UnsupportedImageFormatError):
        documents.sniff(head + bytes(64))


@pytest.mark.parametrize(
    ("blob", "formats", "message"),
    [
        (pages.as_png(PAGE), ["pdf", "tiff"], "PNG is not read here. Send TIFF or PDF."),
        (pages.as_png(PAGE), ["pdf"], "PNG is not read here. Send PDF."),
        (b"8BPS" + bytes(64), ["gif", "bmp", "jpeg"], "PSD is not read. Send JPEG, BMP or GIF."),
        (b"junk" * 99, ["jpeg", "gif"], "The bytes are not an image. Send JPEG or GIF."),
        (pages.declared_png(60_000, 60_000), ["png"], "The image must be from 50 x 50 to 10000 x 10000 pixels."),
        (pages.declared_png(15_000, 99), ["png"], "The image must be from 50 x 50 to 10000 x 10000 pixels."),
    ],
)
def test_a_refusal_names_what_the_caller_takes(blob: bytes, formats: list[str], message: str) -> None:
    with opened(blob) as file, pytest.raises(CoreError) as refusal:
        documents.inspect(file, documents.Rules(formats=formats))
    assert str(refusal.value).startswith(message)


def test_a_disk_that_fails_is_not_a_bad_image() -> None:
    with pytest.raises(FailedToProcessError), decoding():
        raise OSError(5, "Input/output error")


def test_every_other_surprise_of_a_decoder_is_a_bad_image() -> None:
    for surprise in (
        MemoryError(),
        struct.error("x"),
        RecursionError(),
        Image.DecompressionBombError("x"),
        KeyError(1),
    ):
        with pytest.raises(CoreError) as refusal, decoding():
            raise surprise
        assert refusal.value.status == 400


# ---- pages


@pytest.mark.parametrize(
    ("blob", "page"),
    [
        (pages.as_png(PAGE), 2),
        (pages.as_tiff([PAGE] * 2), 3),
        (pages.digital_pdf([pages.LINES]), 2),
        (pages.as_png(PAGE), 0),
    ],
)
def test_a_page_that_is_not_there_is_refused(blob: bytes, page: int) -> None:
    with pytest.raises(InvalidPageRangeError):
        loaded(blob, page)


def test_the_page_that_is_asked_for_is_the_one_that_is_decoded() -> None:
    sheets = [pages.empty_page((400, 300 + 100 * number)) for number in range(3)]
    for blob in (pages.as_tiff(sheets), pages.as_pdf(sheets)):
        ratios = [loaded(blob, number).height / loaded(blob, number).width for number in (1, 2, 3)]
        assert ratios == pytest.approx([0.75, 1.0, 1.25], abs=0.01)


def test_more_than_2000_pages_are_refused() -> None:
    small = Image.new("1", (50, 50), 1)
    buffer = io.BytesIO()
    small.save(buffer, "TIFF", save_all=True, append_images=[small] * 2000)
    with pytest.raises(InvalidPageRangeError, match="2000"):
        inspected(buffer.getvalue())


def test_directories_that_form_a_loop_are_refused() -> None:
    blob = bytearray(pages.as_tiff([PAGE], "raw"))
    (first,) = struct.unpack_from("<I", blob, 4)
    (entries,) = struct.unpack_from("<H", blob, first)
    struct.pack_into("<I", blob, first + 2 + 12 * entries, first)
    with pytest.raises(CoreError, match="loop"):
        inspected(bytes(blob))


# ---- pixels


def test_a_picture_larger_than_the_cap_is_shrunk_and_keeps_its_size_in_words() -> None:
    page = pages.printed_page(size=(2480, 3508), dpi=300)
    for blob in (pages.as_png(page), pages.as_jpeg(page)):
        found = loaded(blob)
        assert found.image.width * found.image.height <= CAP
        assert (found.width, found.height, found.unit) == (2480, 3508, "pixel")
        assert found.dpi == round(300 * found.image.width / 2480)


def test_a_resolution_that_cannot_be_is_not_told() -> None:
    assert loaded(pages.encoded(PAGE.image, "PNG", dpi=(1, 1))).dpi is None
    assert loaded(pages.encoded(PAGE.image, "PNG")).dpi is None


def test_oblong_pixels_are_made_square() -> None:
    fax = pages.encoded(PAGE.image.resize((1240, 877)).convert("1"), "TIFF", compression="group4", dpi=(150, 75))
    found = loaded(fax)
    assert (found.width, found.height) == (1240, 877)
    assert found.image.size == (1240, 1754)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_oblong_pixels_are_made_square_however_the_sheet_lay(orientation: int) -> None:
    across, down = 204, 98
    stored = Image.new("1", (1728, 1100), 1)
    ImageDraw.Draw(stored).rectangle((400, 300, 399 + 2 * across, 299 + 2 * down), fill=0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    fax = pages.encoded(stored, "TIFF", compression="group4", exif=exif, dpi=(across, down))
    left, top, right, bottom = loaded(fax).image.point([255] * 128 + [0] * 128).getbbox() or (0, 0, 0, 0)
    assert right - left == pytest.approx(bottom - top, rel=0.02)


def a_bmp_with_transparency(image: Image.Image, alpha: int) -> bytes:
    """Four bytes a pixel, of which a header of version 4 says that one is for transparency."""
    opaque = image.convert("RGB").convert("RGBA")
    opaque.putalpha(alpha)
    pixels = opaque.transpose(Image.Transpose.FLIP_TOP_BOTTOM).tobytes("raw", "BGRA")
    size = 14 + 108
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, *image.size, 1, 32, 3, len(pixels), 3780, 3780, 0, 0) + masks
    return struct.pack("<2sIHHI", b"BM", size + len(pixels), 0, 0, size) + header.ljust(108, b"\0") + pixels


@pytest.mark.parametrize("alpha", [0, 255])
def test_a_bmp_whose_writer_left_transparency_at_zero_is_no_empty_page(alpha: int) -> None:
    found = loaded(a_bmp_with_transparency(a_marked_square(), alpha))
    assert mean(found.image, (4, 4, 36, 16)) < 10
    assert mean(found.image, (84, 64, 116, 76)) > 245


def test_a_bmp_that_is_transparent_in_places_is_laid_on_paper() -> None:
    image = a_marked_square("RGB")
    blob = bytearray(a_bmp_with_transparency(image, 0))
    for row in range(image.height - 20, image.height):  # stored from the bottom up: the mark alone is opaque
        for column in range(40):
            blob[122 + 4 * (row * image.width + column) + 3] = 255
    found = loaded(bytes(blob))
    assert mean(found.image, (4, 4, 36, 16)) < 10
    assert mean(found.image, (84, 64, 116, 76)) > 245


def a_marked_square(mode: str = "L") -> Image.Image:
    """White, with a black mark in the top-left corner; wider than high."""
    image = Image.new("L", (120, 80), 255)
    ImageDraw.Draw(image).rectangle((0, 0, 39, 19), fill=0)
    return image.convert(mode)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG"])
def test_the_camera_may_have_been_held_any_way(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = a_marked_square()
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    found = loaded(pages.encoded(stored, kind, exif=exif))
    assert (found.width, found.height) == (120, 80)
    assert found.image.size == (120, 80)
    assert mean(found.image, (4, 4, 36, 16)) < 40
    assert mean(found.image, (84, 64, 116, 76)) > 215


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F", "YCbCr", "LAB"])
def test_every_kind_of_pixel_becomes_gray(mode: str) -> None:
    image = a_marked_square()
    if mode in ("I;16", "I"):
        deep = image.convert("I").point(lambda value: value * 257 + 0)
        image = deep.convert("I;16") if mode == "I;16" else deep
    elif mode == "LAB":
        image = Image.merge("LAB", (image, Image.new("L", image.size, 128), Image.new("L", image.size, 128)))
    else:
        image = image.convert(mode)
    found = loaded(pages.encoded(image, "PNG" if mode in ("P", "RGBA", "LA") else "TIFF"))
    assert mean(found.image, (4, 4, 36, 16)) < 10
    assert mean(found.image, (84, 64, 116, 76)) > 245


def test_twelve_bits_in_sixteen_are_not_taken_for_black() -> None:
    image = a_marked_square().convert("I").point(lambda value: value * 16 + 0).convert("I;16")
    assert mean(loaded(pages.encoded(image, "TIFF")).image, (84, 64, 116, 76)) > 230


def test_what_is_transparent_is_white_paper() -> None:
    image = Image.new("RGBA", (120, 80), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((0, 0, 39, 19), fill=(0, 0, 0, 255))
    for blob in (pages.encoded(image, "PNG"), pages.encoded(image.quantize(16), "PNG")):
        found = loaded(blob)
        assert mean(found.image, (84, 64, 116, 76)) > 245
        assert mean(found.image, (4, 4, 36, 16)) < 10


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_white_letters_on_nothing_stand_on_black(mode: str) -> None:
    page = pages.printed_page(pages.LINES, size=(900, 600)).image
    image = Image.new("RGBA", page.size, (255, 255, 255, 255))
    image.putalpha(page.point(lambda value: 255 - value))
    found = loaded(pages.encoded(image.quantize(8) if mode == "P" else image.convert(mode), "PNG"))
    changed = ImageChops.difference(ImageChops.invert(found.image), page).histogram()
    assert not sum(changed[100 if mode == "P" else 2 :])


@pytest.mark.parametrize(
    ("seen", "alpha", "expected"),
    [
        pytest.param((250, 250, 250), 0, 255, id="nothing is to be seen"),
        pytest.param((250, 250, 250), 255, 250, id="nothing is transparent"),
        pytest.param((250, 250, 250), 100, 255, id="all is all but transparent"),
    ],
)
def test_a_light_picture_is_white_paper(seen: tuple[int, int, int], alpha: int, expected: int) -> None:
    found = loaded(pages.encoded(Image.new("RGBA", (120, 80), (*seen, alpha)), "PNG"))
    assert mean(found.image, (0, 0, 120, 80)) == pytest.approx(expected, abs=3)


def test_a_sheet_with_dark_letters_is_on_white_though_its_margin_is_transparent() -> None:
    page = pages.printed_page(pages.LINES, size=(900, 600)).image
    image = Image.new("RGBA", (1100, 800), (255, 255, 255, 0))
    image.paste(page.convert("RGBA"), (100, 100))
    assert mean(loaded(pages.encoded(image, "PNG")).image, (0, 0, 90, 90)) == 255


# ---- kinds of picture that only some callers take

PICTURES = documents.Rules(formats=["jpeg", "gif", "webp", "ico"], max_side=documents.MAX_SIDE)
SMALL = pages.printed_page(pages.LINES[:2], size=(900, 260))
OTHER = pages.empty_page((300, 200))


def inspected_widely(blob: bytes) -> documents.Inspection:
    with opened(blob) as file:
        return documents.inspect(file, PICTURES)


def refused_widely(blob: bytes) -> str:
    with pytest.raises(CoreError) as refusal:
        inspected_widely(blob)
    return refusal.value.code


@pytest.mark.parametrize(
    ("blob", "kind"),
    [
        (pages.as_gif([SMALL]), "gif"),
        (pages.as_gif([SMALL, OTHER]), "gif"),
        (pages.as_gif([SMALL]) + b"trailing garbage", "gif"),
        (pages.as_webp(SMALL), "webp"),
        (pages.as_webp(SMALL, lossless=False), "webp"),
        (
            pages.encoded(SMALL.image.convert("RGB"), "WEBP", save_all=True, append_images=[SMALL.image.rotate(180)]),
            "webp",
        ),
        (pages.as_ico([SMALL.image]), "ico"),
        (pages.as_ico([OTHER.image, SMALL.image, OTHER.image]), "ico"),
        (pages.as_ico([pages.icon_bitmap(OTHER.image), SMALL.image]), "ico"),
        (pages.as_ico([pages.icon_bitmap(SMALL.image), OTHER.image]), "ico"),
        (pages.as_mpo([SMALL, OTHER]), "jpeg"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_picture_is_read_of_a_file_that_may_hold_several(blob: bytes, kind: str) -> None:
    assert inspected_widely(blob) == documents.Inspection(format=DocumentFormat(kind), pages=1)
    found = loaded(blob)
    assert (found.width, found.height, found.image.mode) == (*SMALL.image.size, "L")
    difference = ImageChops.difference(found.image, SMALL.image)
    assert ImageStat.Stat(difference).mean[0] < 3


@pytest.mark.parametrize("blob", [pages.as_gif([SMALL]), pages.as_webp(SMALL), pages.as_ico([SMALL.image])])
def test_who_does_not_ask_for_other_pictures_does_not_get_them(blob: bytes) -> None:
    with pytest.raises(UnsupportedImageFormatError):
        inspected(blob)


def test_a_jpeg_with_more_behind_it_is_a_jpeg_to_everyone() -> None:
    assert inspected(pages.as_mpo([SMALL, OTHER])).format is DocumentFormat.JPEG


# ---- what a PNG carries beside its pixels, and pixels that it lacks --------------------------------------------------

BALLAST = zlib.compress(bytes(3_000_000))


def with_chunk(blob: bytes, kind: bytes, content: bytes, *, behind_pixels: bool = False) -> bytes:
    """A PNG with one more chunk, behind its header or before its end."""
    at = len(blob) - 12 if behind_pixels else 33
    return blob[:at] + pages.png_chunk(kind, content) + blob[at:]


@pytest.mark.parametrize("behind_pixels", [False, True])
@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"iCCP", b"profile\0\0" + BALLAST),
        (b"iCCP", b"profile\0\0 this was never packed"),
        (b"zTXt", b"Comment\0\0" + BALLAST),
        (b"iTXt", b"Comment\0\1\0en\0\0" + BALLAST),
        (b"iTXt", b"Comment\0\0\0en\0\0" + b"x" * 3_000_000),
        (b"tEXt", b"Comment\0" + b"x" * 3_000_000),
        (b"tEXt", b""),
        (b"iTXt", b"no end of the keyword"),
    ],
    ids=["profile", "profile-broken", "packed", "packed-i", "long-i", "long", "empty", "endless"],
)
def test_text_and_profiles_of_a_png_do_not_matter(kind: bytes, content: bytes, behind_pixels: bool) -> None:
    plain = pages.as_png(SMALL)
    blob = with_chunk(plain, kind, content, behind_pixels=behind_pixels)
    assert inspected(blob).pages == 1
    assert ImageChops.difference(loaded(blob).image, loaded(plain).image).getbbox() is None


def test_a_hundred_texts_that_unpack_to_much_cost_nothing() -> None:
    blob = pages.as_png(SMALL)
    for _ in range(100):
        blob = with_chunk(blob, b"zTXt", b"Comment\0\0" + BALLAST[:1000])
    assert inspected(blob).pages == 1


def test_resolution_and_turn_of_a_png_with_a_profile_are_kept() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = pages.encoded(SMALL.image, "PNG", dpi=(200, 200), exif=exif)
    page, expected = loaded(with_chunk(plain, b"iCCP", b"profile\0\0" + BALLAST)), loaded(plain)
    assert (page.dpi, page.width, page.height) == (expected.dpi, expected.width, expected.height)
    assert (page.dpi, page.width) == (200, SMALL.image.height)


def png_of(size: tuple[int, int], bits: int, colour: int, rows: bytes, *, interlaced: bool = False) -> bytes:
    header = struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, interlaced)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(pages.png_chunk(kind, content) for kind, content in chunks)


@pytest.mark.parametrize(
    ("size", "bits", "colour", "interlaced", "length"),
    [
        ((61, 53), 8, 0, False, 53 * 62),
        ((61, 53), 1, 0, False, 53 * 9),
        ((61, 53), 16, 0, False, 53 * 123),
        ((61, 53), 8, 2, False, 53 * 184),
        ((61, 53), 16, 6, False, 53 * 489),
        ((64, 64), 8, 0, True, 8 * 9 + 8 * 9 + 8 * 17 + 16 * 17 + 16 * 33 + 32 * 33 + 32 * 65),
        ((1500, 1400), 16, 0, False, 1400 * 3001),
    ],
)
def test_a_png_that_lacks_a_byte_of_its_pixels_is_cut_off(
    size: tuple[int, int], bits: int, colour: int, interlaced: bool, length: int
) -> None:
    whole = png_of(size, bits, colour, bytes(length), interlaced=interlaced)
    assert (loaded(whole).width, loaded(whole).height) == size
    for lack in (1, length * 7 // 8):
        short = png_of(size, bits, colour, bytes(length - lack), interlaced=interlaced)
        with pytest.raises(InvalidImageError, match="cut off"):
            loaded(short)


def test_white_rows_that_end_before_the_last_are_a_png_cut_off() -> None:
    row = b"\0" + b"\xff" * 60
    assert loaded(png_of((60, 60), 8, 0, row * 60)).image.getextrema() == (255, 255)
    for rows in (row * 59, row * 59 + row[:-1], row * 7):
        with pytest.raises(InvalidImageError, match="cut off"):
            inspected(png_of((60, 60), 8, 0, rows))


def test_more_pixels_than_a_png_needs_are_not_unpacked() -> None:
    blob = png_of((60, 60), 8, 0, bytes(60 * 61 + 100_000_000))
    assert loaded(blob).width == 60


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize(
    "blob",
    [
        pages.as_gif([SMALL]),
        pages.as_webp(SMALL),
        pages.as_webp(SMALL, lossless=False),
        pages.as_ico([SMALL.image]),
        pages.as_ico([pages.icon_bitmap(SMALL.image)]),
    ],
    ids=["gif", "webp-lossless", "webp", "ico", "ico-bitmap"],
)
def test_a_picture_that_is_cut_off_is_refused(blob: bytes, part: float) -> None:
    assert refused_widely(blob[: int(len(blob) * part)]) == "InvalidImage"


@pytest.mark.parametrize(
    ("blob", "code"),
    [
        (pages.as_gif([pages.empty_page((49, 60))]), "InvalidImageDimension"),
        (pages.as_ico([Image.new("L", (48, 48))]), "InvalidImageDimension"),
        (pages.as_webp(pages.empty_page((40, 60))), "InvalidImageDimension"),
        (b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0) + b";", "InvalidImage"),
        (
            b"GIF89a" + struct.pack("<HHBBB", 100, 100, 0, 0, 0) + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
            + b"\x08\x01\x00\x00;",
            "InvalidImageDimension",
        ),
        (b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff" * 6, "InvalidImageDimension"),
        (b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\x7f\x3e\0" * 2, "InvalidImageDimension"),
        (b"RIFF\x16\0\0\0WEBPwhat\x0a\0\0\0" + bytes(10), "InvalidImage"),
        (pages.as_ico([pages.declared_png(60_000, 60_000)]), "InvalidImageDimension"),
        (pages.as_ico([struct.pack("<IiiHH", 40, 9000, 18000, 1, 8) + bytes(2000)]), "InvalidImage"),
        (pages.as_ico([struct.pack("<IiiHH", 40, 200, -400, 1, 8) + bytes(2000)]), "InvalidImage"),
        (b"\0\0\1\0\xff\0" + bytes(100), "InvalidImage"),
    ],
)  # fmt: skip
def test_a_picture_whose_header_is_at_fault_costs_nothing(blob: bytes, code: str) -> None:
    started = time.process_time()
    assert refused_widely(blob) == code
    with pytest.raises(CoreError), opened(blob) as file:
        documents.load_page(file, 1, max_pixels=CAP)
    assert time.process_time() - started < 1


def test_thousands_of_frames_cost_nothing() -> None:
    first = pages.as_gif([SMALL])
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    blob = first[:-1] + frame * 400_000 + b";"
    started = time.process_time()
    assert inspected_widely(blob).pages == 1
    assert loaded(blob).width == SMALL.image.width
    assert time.process_time() - started < 2


def test_a_gif_of_ever_more_tiny_blocks_is_given_up() -> None:
    blob = b"GIF89a" + struct.pack("<HHBBB", 100, 100, 0, 0, 0) + b"!\xfe" + b"\x01a" * 3_000_000 + b"\0;"
    started = time.process_time()
    assert refused_widely(blob) == "InvalidImage"
    assert time.process_time() - started < 2


def test_a_progressive_jpeg_that_would_not_fit_into_memory_is_refused_as_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = Image.new("RGB", (2000, 1000), "white")
    plain, progressive = (pages.encoded(image, "JPEG", subsampling=0, progressive=flag) for flag in (False, True))
    monkeypatch.setattr(memory, "MAX_DECODED_BYTES", 6 * 2000 * 1000)
    assert inspected(plain).pages == 1
    with pytest.raises(InvalidImageDimensionError, match="2000 x 1000"):
        inspected(progressive)


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"exif": True}])
def test_a_page_that_would_not_fit_into_memory_is_refused_as_too_large(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, object]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    options = options | ({"exif": exif} if "exif" in options else {})
    image = Image.new("RGB", (2000, 1000), "white")
    blob = pages.encoded(image, "TIFF", save_all=True, append_images=[image], **options)
    monkeypatch.setattr(memory, "MAX_DECODED_BYTES", 4 * 2000 * 1000 + 1000)
    if options:
        with pytest.raises(InvalidImageDimensionError, match="memory"):
            loaded(blob, 1)
    else:
        assert loaded(blob, 2).image.size == (2000, 1000)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "I;16", "F"])
def test_a_picture_is_the_same_in_bands_as_in_one(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mode == "I;16":
        image = Image.linear_gradient("L").convert("I").point(lambda value: value * 16 + 0).convert("I;16")
    else:
        image = Image.linear_gradient("L").convert(mode)
    blob = pages.encoded(image, "TIFF" if mode in ("F", "I;16") else "PNG")
    whole = loaded(blob).image
    monkeypatch.setattr(gray, "_BAND_PIXELS", 1000)
    assert ImageChops.difference(loaded(blob).image, whole).getbbox() is None


# ---- PDF


def test_a_pdf_page_is_told_in_inches_and_drawn_at_a_resolution_that_reads_well() -> None:
    found = loaded(pages.digital_pdf([pages.LINES]))
    assert (found.width, found.height, found.unit) == (8.5, 11.0, "inch")
    assert found.dpi is not None
    assert 150 <= found.dpi <= 200
    assert found.image.width * found.image.height <= CAP * 1.01


@pytest.mark.parametrize(
    ("limit", "box", "fits"),
    [
        (17.0, b"[0 0 1224 99]", True),
        (17.0, b"[0 0 1230 99]", False),
        (17.0, b"[0 0 99 1230]", False),
        (None, b"[0 0 1230 99]", True),
    ],
)
def test_a_pdf_page_may_be_too_large_for_a_caller(limit: float | None, box: bytes, fits: bool) -> None:
    blob = pages.digital_pdf([pages.LINES] * 2)
    at = blob.rindex(b"[0 0 612 792]")  # the second page's
    with opened(blob[:at] + box + blob[at + len(box) :]) as file:
        if fits:
            assert documents.inspect(file, documents.Rules(max_sheet_inches=limit)).pages == 2
        else:
            with pytest.raises(InvalidImageDimensionError, match="Page 2 is larger"):
                documents.inspect(file, documents.Rules(max_sheet_inches=limit))


def test_a_pdf_page_is_shown_as_its_own_rotation_says() -> None:
    found = loaded(pages.digital_pdf([pages.LINES], rotate=90))
    assert (found.width, found.height) == (11.0, 8.5)


def test_a_pdf_page_of_any_size_costs_no_more_than_the_cap() -> None:
    huge = pages.digital_pdf([pages.LINES]).replace(b"[0 0 612 792]", b"[0 0 1e6 9e5]")
    found = loaded(huge)
    assert found.image.width * found.image.height <= CAP * 1.01


def stream_of(entries: bytes, content: bytes) -> bytes:
    return b"<< %s /Length %d >>\nstream\n%s\nendstream" % (entries, len(content), content)


def scaled_pdf(unit: bytes, *, packed: bool = False) -> bytes:
    """US letter whose units are larger than a point; packed: the page hides in a stream of objects."""
    blob = pages.digital_pdf([pages.LINES])
    if not packed:
        return blob.replace(b"/Rotate 0", b"/UserUnit " + unit)
    contents = blob[blob.index(b"5 0 obj") : blob.index(b"xref\n")]
    inside = (
        (1, b"<< /Type /Catalog /Pages 2 0 R >>"),
        (2, b"<< /Type /Pages /Kids [4 0 R] /Count 1 >>"),
        (3, b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"),
        (4, b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /UserUnit %s /Contents 5 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % unit),
    )  # fmt: skip
    index, objects = b"", b""
    for number, body in inside:
        index += b"%d %d " % (number, len(objects))
        objects += body + b" "
    out = b"%PDF-1.6\n"
    places = [(0, 0, 0), *((2, 6, at) for at in range(4)), (1, len(out), 0)]
    out += contents
    places.append((1, len(out), 0))
    packed_as = b"/Type /ObjStm /N 4 /First %d /Filter /FlateDecode" % len(index)
    out += b"6 0 obj\n" + stream_of(packed_as, zlib.compress(index + objects)) + b"\nendobj\n"
    start = len(out)
    places.append((1, start, 0))
    table = b"".join(struct.pack(">BIB", *place) for place in places)
    out += b"7 0 obj\n" + stream_of(b"/Type /XRef /Size 8 /Root 1 0 R /W [1 4 1]", table) + b"\nendobj\n"
    return out + b"startxref\n%d\n%%%%EOF\n" % start


@pytest.mark.parametrize("packed", [False, True])
def test_the_units_of_a_pdf_page_may_be_larger_than_points(packed: bool) -> None:
    found = loaded(scaled_pdf(b"2", packed=packed))
    assert (found.width, found.height) == (17.0, 22.0)
    assert found.image.width * found.image.height <= CAP * 1.01
    assert found.dpi == pytest.approx(found.image.width / 17, abs=1)


@pytest.mark.parametrize(
    ("unit", "width"),
    [
        (b"1.5", 12.75),
        (b"75000", 637_500.0),
        (b"0.5", 4.25),
        (b"1e9", 8.5),
        (b"1000000000", 8.5),
        (b"75001", 8.5),
        (b"0", 8.5),
        (b"0.001", 8.5),
        (b"-2", 8.5),
        (b"/Two", 8.5),
        (b"(2)", 8.5),
        (b"null", 8.5),
    ],
)
def test_units_out_of_bounds_are_points(unit: bytes, width: float) -> None:
    found = loaded(scaled_pdf(unit))
    assert found.width == width
    assert 1_000_000 <= found.image.width * found.image.height <= CAP * 1.01


def test_another_mention_of_units_does_not_count() -> None:
    blob = pages.digital_pdf([pages.LINES]).replace(
        b"/Rotate 0", b"/PieceInfo << /X << /UserUnit 3 /Y (/UserUnit 4) /Z <AB> >> >>"
    )
    assert loaded(blob).width == 8.5


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("unit", "fits"), [(b"1.5", True), (b"1.6", False)])
def test_the_largest_sheet_is_judged_by_its_true_size(unit: bytes, fits: bool, packed: bool) -> None:
    with opened(scaled_pdf(unit, packed=packed)) as file:
        if fits:
            assert documents.inspect(file, documents.Rules(max_sheet_inches=17.0)).pages == 1
        else:
            with pytest.raises(InvalidImageDimensionError, match="Page 1 is larger"):
                documents.inspect(file, documents.Rules(max_sheet_inches=17.0))


def test_a_pdf_is_read_through_its_descriptor_even_when_its_name_is_gone(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "document")
    with open(path, "wb") as file:
        file.write(pages.digital_pdf([pages.LINES]))
    with open(path, "rb") as file:
        os.unlink(path)
        assert documents.inspect(file).pages == 1
