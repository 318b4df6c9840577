"""What is read, and what of it a caller takes.

Invariant: limits on sides and pages are stated here alone.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from ocr_core.errors import InvalidImageDimensionError, InvalidImageError, InvalidPageRangeError

MIN_SIDE = 50
MAX_SIDE = 15_999
USUAL_MAX_SIDE = 10_000
MAX_PAGES = 2000
POINTS_PER_INCH = 72


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
        if limit is not None and not max(size) <= limit * POINTS_PER_INCH + 1:
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


def require_page(page: int, pages: int) -> None:
    """Refuse a page, counted from 1, that the document does not have.

    Raises:
        InvalidPageRangeError: It has not.
    """
    if not 1 <= page <= pages:
        raise InvalidPageRangeError(f"The document has {pages} pages; there is no page {page}.")
