"""Pages of a PDF, drawn by pdfium; the only file that imports it."""

import contextlib
import ctypes
import math
import re
from collections.abc import Iterator
from typing import BinaryIO

import pypdfium2
import pypdfium2.raw as pdfium

from ocr_core.documents.files import mapped, size_of
from ocr_core.documents.page_image import PageImage, plausible_dpi
from ocr_core.documents.rules import POINTS_PER_INCH, READABLE, USUAL_MAX_SIDE, Rules, require_page
from ocr_core.errors import InvalidImageError

PDF_DPI = 200
"""Whatever the resolution of a scan inside. Scans of 150 and 300 dots per inch, type of 6 to 11 points: drawn at 300
they read as well as at 200, in up to 1.8 times the time; at 150 the smallest reads worse (error rate .009, not .004).
"""

_PLAUSIBLE_USER_UNITS = (0.01, 75_000.0)  # the upper one is the most that PDF 1.7 knows (Annex C)
_SMALLEST_POINTS = 0.01
_MOST_COPIED_BYTES = 256 * 1024**2
"""Half a second: each page is copied with all that it shares with others. Beyond, units count as points."""

# The first one that is made maps the code behind all; a process that was confined can map no code any more.
_FIRST_CALLBACK = ctypes.CFUNCTYPE(None)(lambda: None)


class _Buffer(ctypes.Structure):
    """CPython's `Py_buffer`."""

    _fields_ = (("address", ctypes.c_void_p), ("owner", ctypes.py_object), ("rest", ctypes.c_void_p * 9))


@contextlib.contextmanager
def _mapped_address(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Where the file is in memory, read-only, and its length: whoever decodes may open no file by a name."""
    with mapped(file) as data:
        view = _Buffer()
        ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(data), ctypes.byref(view), 0)
        try:
            yield view.address, len(data)
        finally:
            ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))


@contextlib.contextmanager
def _open_pdf(file: BinaryIO, rules: Rules) -> Iterator[pypdfium2.PdfDocument]:
    """Open through the descriptor, so that what is read is what was opened."""
    with _mapped_address(file) as (address, length):
        handle = pdfium.FPDF_LoadMemDocument64(address, length, None)
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
        except pypdfium2.PdfiumError as exc:
            raise InvalidImageError("The PDF is damaged.") from exc
        finally:
            pdf.close()


def inspect_pdf(file: BinaryIO, rules: Rules) -> int:
    """Check the structure, and the sheets' sizes where the caller limits them.

    Args:
        file: A real file.
        rules: What the caller takes.

    Returns:
        How many pages it has.

    Raises:
        CoreError: One of the document codes.
    """
    with _open_pdf(file, rules) as pdf:
        pdf.get_page_size(0)  # the first page is there; what it draws is not looked at yet
        if rules.max_sheet_inches is not None:
            is_scaled = _may_be_scaled(file) and size_of(file) * len(pdf) <= _MOST_COPIED_BYTES
            for number in range(len(pdf)):
                width, height = pdf.get_page_size(number)
                unit = _user_unit(pdf, number) if is_scaled else 1.0
                rules.require_sheet(number + 1, (width * unit, height * unit))
        return len(pdf)


def _may_be_scaled(file: BinaryIO) -> bool:
    """Whether a page may have units of its own: the key is there to see, or may be inside a stream of objects."""
    with mapped(file) as data:
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


def load_pdf_page(file: BinaryIO, page: int, max_pixels: int) -> PageImage:
    """Draw one page.

    Args:
        file: A real file.
        page: Counted from 1.
        max_pixels: The cap.

    Raises:
        CoreError: One of the document codes.
    """
    with _open_pdf(file, READABLE) as pdf:
        require_page(page, len(pdf))
        unit = _user_unit(pdf, page - 1) if _may_be_scaled(file) else 1.0
        sheet = pdf[page - 1]
        try:
            width, height = sheet.get_size()
            if not (math.isfinite(width) and math.isfinite(height) and min(width, height) * unit > _SMALLEST_POINTS):
                raise InvalidImageError("The PDF is damaged: a page has no size.")
            scale = min(
                PDF_DPI / POINTS_PER_INCH * max(1.0, unit),
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
        width=round(width * unit / POINTS_PER_INCH, 4),
        height=round(height * unit / POINTS_PER_INCH, 4),
        unit="inch",
        dpi=plausible_dpi(round(scale * POINTS_PER_INCH / unit)),
    )
