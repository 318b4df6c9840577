"""Pictures that Pillow decodes: opened by their header, judged, then made gray, the right way up.

Invariants:

* Sides, and the memory that decoding takes, are judged before a pixel is decoded.
* The format that was sniffed is the only one that is tried.
"""

import mmap
from collections.abc import Callable
from typing import BinaryIO

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    IcoImagePlugin,
    Image,
    ImageChops,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from ocr_core.documents.decoder_errors import DECODER_ERRORS
from ocr_core.documents.gray import as_gray
from ocr_core.documents.icons import largest_icon
from ocr_core.documents.memory import EXIF_ORIENTATION, WEBP_PIXEL_BYTES, decoded_bytes, require_bytes, require_memory
from ocr_core.documents.page_image import PLAUSIBLE_DPI, PageImage, plausible_dpi, target_size
from ocr_core.documents.png import require_all_rows, walk_png, without_ballast
from ocr_core.documents.rules import MAX_SIDE, READABLE, DocumentFormat, Rules, require_page
from ocr_core.documents.structure import gif_size, require_bmp_pixels, walk_jpeg, webp_size
from ocr_core.documents.tiff import starting_with, tiff_directories

_DECODED_AT_INSPECTION_PIXELS = 1_000_000

Image.MAX_IMAGE_PIXELS = MAX_SIDE * MAX_SIDE

_PLUGINS = {
    DocumentFormat.JPEG: JpegImagePlugin.JpegImageFile.format,
    DocumentFormat.PNG: PngImagePlugin.PngImageFile.format,
    DocumentFormat.BMP: BmpImagePlugin.BmpImageFile.format,
    DocumentFormat.TIFF: TiffImagePlugin.TiffImageFile.format,
    DocumentFormat.GIF: GifImagePlugin.GifImageFile.format,
    DocumentFormat.WEBP: WebPImagePlugin.WebPImageFile.format,
    DocumentFormat.ICO: IcoImagePlugin.IcoImageFile.format,
}


def inspect_picture(file: BinaryIO, data: mmap.mmap, kind: DocumentFormat, rules: Rules) -> int:
    """Check a picture's structure; a small one is decoded.

    Args:
        file: A real file.
        data: Its bytes.
        kind: Its format: neither TIFF nor PDF.
        rules: What the caller takes.

    Returns:
        How many pages it has: 1.

    Raises:
        CoreError: One of the document codes.
    """
    with _open_image(file, data, kind, rules) as image:
        if _is_small(image):
            image.load()
            _require_all_rows(image, data, kind)
    return 1


def inspect_tiff(file: BinaryIO, data: mmap.mmap, rules: Rules) -> int:
    """Check a TIFF's structure; small pages are decoded, up to a bound.

    Args:
        file: A real file.
        data: Its bytes.
        rules: What the caller takes.

    Returns:
        How many pages it has.

    Raises:
        CoreError: One of the document codes.
    """
    directories = tiff_directories(data, rules)
    with _open_image(file, data, DocumentFormat.TIFF, rules) as image:
        budget = _DECODED_AT_INSPECTION_PIXELS
        for number, directory in enumerate(directories):
            budget -= directory.width * directory.height
            if budget < 0:
                break
            image.seek(number)
            image.load()
    return len(directories)


def load_picture(
    file: BinaryIO,
    data: mmap.mmap,
    kind: DocumentFormat,
    page: int,
    *,
    max_pixels: int,
    need: Callable[[int], object],
) -> PageImage:
    """Decode a picture, or one page of a TIFF.

    Args:
        file: A real file.
        data: Its bytes.
        kind: Its format: not PDF.
        page: Counted from 1.
        max_pixels: The cap.
        need: Told how many bytes it will take, before it is decoded.

    Raises:
        CoreError: One of the document codes.
    """
    if kind is DocumentFormat.TIFF:
        file = starting_with(file, data, page)
    else:
        require_page(page, 1)
    with _open_image(file, data, kind, READABLE) as image:
        need(decoded_bytes(image))
        _require_all_rows(image, data, kind)
        return _page_image(image, page, max_pixels)


def _open_image(file: BinaryIO, data: mmap.mmap, kind: DocumentFormat, rules: Rules) -> Image.Image:
    """Read the header, and judge the structure and the sides before anything else."""
    source, opened = file, kind
    if kind is DocumentFormat.PNG:
        source = without_ballast(file, data, walk_png(data))
    elif kind is DocumentFormat.JPEG:
        walk_jpeg(data)
    elif kind is DocumentFormat.ICO:  # its decoder, and those of GIF and WebP, decode while they are being opened
        opened, source = largest_icon(data)
    elif kind is DocumentFormat.GIF:
        rules.require_sides(gif_size(data))
    elif kind is DocumentFormat.WEBP:
        size = webp_size(data)
        rules.require_sides(size)
        require_bytes(size, size[0] * size[1] * WEBP_PIXEL_BYTES)
    data.madvise(mmap.MADV_DONTNEED)  # what was walked through need not stay in memory
    source.seek(0)
    image = Image.open(source, formats=[_PLUGINS[opened] or ""])
    if kind is DocumentFormat.BMP:
        require_bmp_pixels(image, len(data))
    rules.require_sides(image.size)
    require_memory(image)
    return image


def _require_all_rows(image: Image.Image, data: mmap.mmap, kind: DocumentFormat) -> None:
    """A PNG whose pixels end early has rows that its decoder left at zero; looked into where the last row is."""
    if kind is DocumentFormat.PNG:
        image.load()
        last = image.crop((0, image.height - 1, image.width, image.height))
        # Of an interlaced picture, the last row need not be the last that is filled.
        if image.info.get("interlace") or not last.tobytes().strip(b"\0"):
            require_all_rows(data, walk_png(data), image.size)


def _is_small(image: Image.Image) -> bool:
    return image.width * image.height <= _DECODED_AT_INSPECTION_PIXELS


def _page_image(image: Image.Image, page: int, max_pixels: int) -> PageImage:
    width, height = image.size
    across, down = _resolution(image)
    target = target_size((width, height), (across, down), max_pixels)
    turned = _exif_transposition(image)
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        image.draft("L", (max(1, target[0]), max(1, target[1])))
    if _is_transparent_by_mistake(image):
        image.putalpha(255)
    gray = as_gray(image, target)
    if _is_deep_negative(image):
        gray = ImageChops.invert(gray)
    dpi = round(across * gray.width / width) if across is not None else None
    if turned is not None:
        gray = gray.transpose(turned)
        if turned in _SIDEWAYS:
            width, height = height, width
    return PageImage(image=gray, page=page, width=width, height=height, unit="pixel", dpi=plausible_dpi(dpi))


def _resolution(image: Image.Image) -> tuple[float | None, float | None]:
    """Dots per inch across and down, where the file says so and both are plausible."""
    try:
        across, down = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None, None
    if not all(PLAUSIBLE_DPI.start <= value < PLAUSIBLE_DPI.stop for value in (across, down)):
        return None, None
    # The decoder turns a TIFF as it asks to be, and tells what it says of the rows as they are stored.
    stored = image.tag_v2.get(EXIF_ORIENTATION, 1) if isinstance(image, TiffImagePlugin.TiffImageFile) else 1
    return (down, across) if _TRANSPOSITIONS.get(stored) in _SIDEWAYS else (across, down)


def _is_transparent_by_mistake(image: Image.Image) -> bool:
    """Whether a BMP has room for transparency that its writer never filled: viewers show it as if it had none."""
    return (
        isinstance(image, BmpImagePlugin.BmpImageFile)
        and image.mode == "RGBA"
        and image.getchannel("A").getextrema()[1] == 0
    )


def _is_deep_negative(image: Image.Image) -> bool:
    """Whether white is zero in a way that the decoder leaves to us: it turns over 8 bits and fewer itself."""
    return (
        isinstance(image, TiffImagePlugin.TiffImageFile)
        and image.mode.startswith("I")
        and image.tag_v2.get(_PHOTOMETRIC) == 0
    )


_PHOTOMETRIC = 262
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
        return _TRANSPOSITIONS.get(image.getexif().get(EXIF_ORIENTATION, 1))
    except (OSError, *DECODER_ERRORS):
        return None  # a broken tag does not break the picture
