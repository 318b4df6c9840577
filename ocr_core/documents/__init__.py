"""Bytes that a stranger sent → gray page images; the only place where documents are decoded.

Invariants:

* What a file is, is decided by its first bytes, never by its name or by what the sender says.
* Sides are judged from the header before a pixel is decoded, so a declared bomb costs nothing; so is the memory that
  decoding takes, where the sides alone do not bound it.
* Of a picture in several sizes or frames only one is looked at: the first frame, the largest icon.
* Only the page that is asked for is decoded, and it leaves here as 8-bit gray, the right way up (EXIF), on white
  where it was transparent, with no more pixels than the cap.
* Whatever a decoder raises on hostile bytes becomes InvalidImageError, in one place (`decoding`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from ocr_core.documents.decoder_errors import decoding
from ocr_core.documents.files import mapped, size_of
from ocr_core.documents.page_image import PageImage
from ocr_core.documents.pdf import inspect_pdf, load_pdf_page
from ocr_core.documents.pictures import inspect_picture, inspect_tiff, load_picture
from ocr_core.documents.rules import (
    MAX_PAGES,
    MAX_SIDE,
    MIN_SIDE,
    READABLE,
    USUAL,
    USUAL_FORMATS,
    USUAL_MAX_SIDE,
    DocumentFormat,
    Rules,
)
from ocr_core.documents.sniffing import PDF_HEADER_WITHIN, sniff, taken

__all__ = [
    "MAX_PAGES",
    "MAX_SIDE",
    "MIN_SIDE",
    "READABLE",
    "USUAL",
    "USUAL_FORMATS",
    "USUAL_MAX_SIDE",
    "DocumentFormat",
    "Inspection",
    "PageImage",
    "Rules",
    "inspect",
    "load_page",
    "sniff",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a document is.

    Attributes:
        format: Its format.
        pages: How many pages it has, at least 1.
    """

    format: DocumentFormat
    pages: int


def inspect(file: BinaryIO, rules: Rules = USUAL) -> Inspection:
    """Check a whole document's structure, cheaply: no large picture is decoded.

    Args:
        file: A real file, opened for reading.
        rules: What the caller takes.

    Raises:
        CoreError: One of the document codes.
    """
    size_of(file)
    with decoding(rules), mapped(file) as data:
        kind = taken(data[:PDF_HEADER_WITHIN], rules)
        if kind is DocumentFormat.PDF:
            pages = inspect_pdf(file, rules)
        elif kind is DocumentFormat.TIFF:
            pages = inspect_tiff(file, data, rules)
        else:
            pages = inspect_picture(file, data, kind, rules)
    return Inspection(format=kind, pages=pages)


def load_page(
    file: BinaryIO, page: int, *, max_pixels: int, need: Callable[[int], object] = lambda _bytes: None
) -> PageImage:
    """Decode one page.

    Args:
        file: A real file, opened for reading.
        page: Counted from 1.
        max_pixels: The cap; a larger picture is shrunk by averaging areas.
        need: Told how many bytes decoding a picture will take, before it is decoded; may refuse. What a page of a PDF
            takes is not known before.

    Raises:
        CoreError: One of the document codes.
    """
    size_of(file)
    with decoding(), mapped(file) as data:
        kind = sniff(data[:PDF_HEADER_WITHIN])
        if kind is DocumentFormat.PDF:
            return load_pdf_page(file, page, max_pixels)
        return load_picture(file, data, kind, page, max_pixels=max_pixels, need=need)
