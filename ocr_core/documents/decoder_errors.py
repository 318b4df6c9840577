"""What decoders raise on damaged or hostile bytes, turned into refusals in one place.

Invariant: whatever a decoder raises leaves as one of the document codes; a failing disk stays a failure.
"""

import contextlib
import struct
import warnings
import zlib
from collections.abc import Iterator

from PIL import Image

from ocr_core.documents.rules import READABLE, Rules
from ocr_core.errors import FailedToProcessError, InvalidImageDimensionError, InvalidImageError

DECODER_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, NotImplementedError, RecursionError,
    RuntimeError, SyntaxError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip


@contextlib.contextmanager
def decoding(rules: Rules = READABLE) -> Iterator[None]:
    """Turn what decoders raise on damaged or hostile bytes into refusals; a failing disk stays a failure."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise InvalidImageDimensionError(f"{rules.sides()} This one is larger.") from exc
    except MemoryError as exc:
        raise InvalidImageError("The image needs more memory than one page may take.") from exc
    except OSError as exc:
        if exc.errno is not None:
            raise FailedToProcessError(f"The document could not be read: {exc.strerror}.") from exc
        raise InvalidImageError("The image is damaged or cut off.") from exc
    except DECODER_ERRORS as exc:
        raise InvalidImageError("The image is damaged.") from exc
