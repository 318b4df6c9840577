"""The folder where the sidecar puts documents for the core: `<shared>/operations/<guid>/document`.

Invariant: a document is named by its GUID alone, opened without following a link, and never written to.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from ocr_core.errors import DocumentNotFoundError, FailedToProcessError


def open_document(shared_directory: Path, document: str) -> BinaryIO:
    """Open a document for reading.

    Args:
        shared_directory: The folder.
        document: A GUID.

    Raises:
        DocumentNotFoundError: It is not there, or not a regular file.
        FailedToProcessError: The operating system refuses it.
    """
    path = shared_directory / "operations" / document.lower() / "document"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            raise DocumentNotFoundError(f"There is no document {document}.") from exc
        raise FailedToProcessError(
            f"The document cannot be opened: {exc.strerror}; user id {os.getuid()} must be able to read {path.parent}."
        ) from exc
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DocumentNotFoundError(f"There is no document {document}.")
    return os.fdopen(descriptor, "rb")
