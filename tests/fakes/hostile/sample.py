"""One hostile document, and what may become of it."""

from collections.abc import Callable
from dataclasses import dataclass

READ = "read"
REFUSALS = frozenset(
    {
        "InvalidImage",
        "InvalidImageDimension",
        "InvalidImageSize",
        "InvalidPageRange",
        "UnsupportedImageFormat",
    }
)
ANY = REFUSALS | {READ}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One document.

    Attributes:
        name: Family and case.
        make: Builds its bytes.
        ends: What may become of it: codes of refusals, or "read".
    """

    name: str
    make: Callable[[], bytes]
    ends: frozenset[str] = ANY


def refused(*codes: str) -> frozenset[str]:
    """One of these refusals; without any, one of all."""
    return frozenset(codes) or REFUSALS
