"""The format of a document, by its first bytes and nothing else."""

import re

from ocr_core.documents.rules import READABLE, DocumentFormat, Rules
from ocr_core.errors import InvalidImageError, UnsupportedImageFormatError

PDF_HEADER_WITHIN = 1024
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_MAGIC = (
    (re.compile(rb"\xff\xd8\xff"), DocumentFormat.JPEG),
    (re.compile(PNG_MAGIC), DocumentFormat.PNG),
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
    if b"%PDF-" in head[:PDF_HEADER_WITHIN]:
        return DocumentFormat.PDF
    for pattern, name in _OTHER_PICTURES:
        if pattern.match(head):
            raise UnsupportedImageFormatError(f"{name} is not read. {rules.advice()}")
    raise InvalidImageError(f"The bytes are not an image. {rules.advice()}")


def taken(head: bytes, rules: Rules) -> DocumentFormat:
    """Tell the format, and refuse what the caller does not take.

    Raises:
        UnsupportedImageFormatError: A picture of a kind that is not read here.
        InvalidImageError: Not a picture.
    """
    kind = sniff(head, rules)
    if kind not in rules.formats:
        raise UnsupportedImageFormatError(f"{kind.upper()} is not read here. {rules.advice()}")
    return kind
