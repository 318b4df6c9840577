"""A document as a file of the operating system."""

import contextlib
import mmap
import os
from collections.abc import Iterator
from typing import BinaryIO

from ocr_core.errors import InvalidImageSizeError


def size_of(file: BinaryIO) -> int:
    """The file's length in bytes, more than 0.

    Raises:
        InvalidImageSizeError: It is empty.
    """
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise InvalidImageSizeError("The document is empty.")
    return size


@contextlib.contextmanager
def mapped(file: BinaryIO) -> Iterator[mmap.mmap]:
    """The file's bytes, read where they lie."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data
