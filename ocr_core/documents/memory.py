"""What decoding a picture takes of memory, told from its header.

Invariant: a picture that passes here fits into a worker once it is decoded.
"""

from PIL import Image, JpegImagePlugin, TiffImagePlugin

from ocr_core.errors import InvalidImageDimensionError

MAX_DECODED_BYTES = 980 * 2**20
"""What decoding one picture may take; a little less than the decoder's process may (`decoder_process.MEMORY_BYTES`)."""

EXIF_ORIENTATION = 0x0112
WEBP_PIXEL_BYTES = 16  # two canvases of the decoder, the bytes it hands over, the picture made of them
_PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
_PIXEL_BYTES_OF_OTHERS = 4
_ROWS_PER_STRIP = 278


def require_bytes(size: tuple[int, int], needed: int) -> None:
    """Refuse a picture that needs more than `MAX_DECODED_BYTES`.

    Args:
        size: Width and height of the picture, pixels.
        needed: Bytes.

    Raises:
        InvalidImageDimensionError: It needs more.
    """
    if needed > MAX_DECODED_BYTES:
        raise InvalidImageDimensionError(
            f"The image is {size[0]} x {size[1]} pixels; decoding so many of its kind takes more memory than one "
            "page may take. Send it smaller, or as a JPEG that is not progressive."
        )


def require_memory(image: Image.Image) -> None:
    """Refuse what would not fit into memory once decoded (see `MAX_DECODED_BYTES`).

    Raises:
        InvalidImageDimensionError: It would not.
    """
    require_bytes(image.size, decoded_bytes(image))


def decoded_bytes(image: Image.Image) -> int:
    """What decoding a picture takes at its most, told from its header."""
    width, height = image.size
    pixels = width * height
    each = _PIXEL_BYTES.get(image.mode, _PIXEL_BYTES_OF_OTHERS)
    needed = pixels * each
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        if image.mode != "CMYK":
            needed = pixels  # decoded as gray
        if image.info.get("progressive"):
            needed += _coefficient_bytes(image, pixels)
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        if any(codec == "libtiff" for codec, *_ in image.tile):
            rows = min(height, int(image.tag_v2.get(_ROWS_PER_STRIP, height)))
            needed += width * rows * each
        if image.tag_v2.get(EXIF_ORIENTATION, 1) != 1:
            needed += pixels * each
    return needed


def _coefficient_bytes(image: JpegImagePlugin.JpegImageFile, pixels: int) -> int:
    """What a decoder keeps of a progressive JPEG: two bytes for each sample, until its last scan has come."""
    layers = [(across, down) for _, across, down, _ in image.layer]
    most = max(across for across, _ in layers) * max(down for _, down in layers)
    return sum(2 * pixels * across * down // most for across, down in layers)
