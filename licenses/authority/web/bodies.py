"""Request bodies, bounded in bytes and in time: small ones in memory, bundles on disk.

Invariants:

* A body is looked at only after its sender is known, and a large one is not read before. Its
  Content-Length is believed only to refuse it: what is counted is what arrives, and a body that ends early is no body.
* Nothing that a client names becomes part of a path. A bundle lies in a folder of its own, for this service alone, and
  is gone when the request is over, however it ended.
* A bundle never takes the last of the disk: that belongs to the database.
"""

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import msgspec
from flask import Request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected

from licenses import durable
from licenses.authority.database import RESERVE_BYTES
from licenses.authority.web import worker
from licenses.authority.web.errors import PROTOCOL, RequestRefusedError
from licenses.authority.web.services import Uploads
from licenses.errors import FormatError, UnknownStateError
from licenses.strict_json import parse_object

MAX_BODY_BYTES = 128 * 1024
"""Largest JSON body."""
UPLOAD_PREFIX = "upload-"
"""What the folders begin with that hold what is being looked at."""
BUNDLE_TYPES = ("application/gzip", "application/x-gzip", "application/octet-stream")

_JSON_TYPES = ("application/json", "text/json")
_PIECE = 64 * 1024
_UPLOAD_SECONDS = 30.0
_SLOWEST_BYTES_PER_SECOND = 64 * 1024
_LINGER_SECONDS = 30.0
_BUNDLE_NAME = "bundle.tar.gz"
_READ = "authority.body_read"

_Model = TypeVar("_Model", bound=msgspec.Struct)


def read_model(blob: bytes, model: type[_Model]) -> _Model:
    """A JSON body as its model.

    Raises:
        FormatError: It is no JSON object with exactly one reading.
        RequestRefusedError: It is not what the model describes.
    """
    if not blob.strip():
        raise FormatError("the request's body is empty", next_step=PROTOCOL)
    try:
        members = parse_object(blob, what="it", max_bytes=MAX_BODY_BYTES, whole_floats=True).rest()
    except FormatError as exc:
        raise FormatError(f"the request's body cannot be read: {exc}", next_step=PROTOCOL) from exc
    try:
        return msgspec.convert(members, model)
    except msgspec.ValidationError as exc:
        cause = f"The body is not as described: {exc}."
        raise RequestRefusedError(HTTPStatus.BAD_REQUEST, "request_malformed", cause) from exc


def read_json(request: Request) -> bytes:
    """A small JSON body, whole.

    Raises:
        RequestRefusedError: It is too large, too slow, of another kind, or not all of it came.
    """
    _require_type(request, _JSON_TYPES, "send JSON as application/json")
    with in_time():
        return b"".join(pieces(request, MAX_BODY_BYTES))


@contextlib.contextmanager
def stored_bundle(request: Request, uploads: Uploads) -> Iterator[Path]:
    """A bundle as a file, for as long as it is needed.

    Raises:
        RequestRefusedError: It is too large, too slow, of another kind, or not all of it came.
        UnknownStateError: It cannot be kept: the disk is full.
    """
    _require_type(request, BUNDLE_TYPES, "send the bundle as it is, as application/gzip")
    try:
        durable.make_folders(uploads.folder, mode=0o700)
        folder = Path(tempfile.mkdtemp(prefix=UPLOAD_PREFIX, dir=uploads.folder))
    except OSError as exc:
        raise cannot_keep(exc) from exc
    try:
        path, coming = folder / _BUNDLE_NAME, request.content_length or 0
        store(pieces(request, uploads.max_bytes), path, coming=coming, max_bytes=uploads.max_bytes)
        yield path
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear_leftovers(folder: Path) -> None:
    """At the start: remove bundles that were being looked at when the service was killed; they will come again."""
    for left in folder.glob(f"{UPLOAD_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)


def is_unread(request: Request) -> bool:
    """Whether there is a body that was not read to its end, so that what follows on the connection is no request."""
    if request.environ.get(_READ):
        return False
    return bool(request.content_length) or "HTTP_TRANSFER_ENCODING" in request.environ


def pieces(request: Request, max_bytes: int) -> Iterator[bytes]:
    """The body piece by piece, in the order in which it comes.

    Raises:
        RequestRefusedError: It is larger than so many bytes, or not all of it came.
    """
    length, received = request.content_length, 0
    if length is not None and length > max_bytes:
        raise _too_large(max_bytes)
    if length is None and "HTTP_TRANSFER_ENCODING" not in request.environ:
        return
    while True:
        try:
            piece = request.stream.read(_PIECE)
        except (OSError, ClientDisconnected, ParseException) as exc:
            raise _incomplete() from exc
        received += len(piece)
        if received > max_bytes:
            raise _too_large(max_bytes)
        if not piece:
            break
        yield piece
    if worker.was_cut_off() or (length is not None and received != length):
        raise _incomplete()
    request.environ[_READ] = True


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """What is read of the body within arrives in the time that a small one has, or not at all."""
    worker.read_until(time.monotonic() + worker.BODY_SECONDS)
    try:
        yield
    finally:
        worker.read_until(None)


def store(parts: Iterator[bytes], path: Path, *, coming: int, max_bytes: int) -> None:
    """Write what comes in pieces to a new file, in the time that its size allows.

    Args:
        parts: The pieces, which are read from the client as they are asked for.
        path: The file.
        coming: How many bytes the client says that it sends; 0 when it does not say.
        max_bytes: Most bytes.

    Raises:
        RequestRefusedError: There are more.
        UnknownStateError: They cannot be kept: the disk is full.
    """
    began, received = time.monotonic(), 0
    worker.read_until(began + _UPLOAD_SECONDS)
    try:
        _require_room(path.parent, min(coming, max_bytes))
        with path.open("xb") as file:
            for part in parts:
                before, received = received, received + len(part)
                if received > max_bytes:
                    raise _too_large(max_bytes)
                if before // RESERVE_BYTES != received // RESERVE_BYTES:
                    _require_room(path.parent, 0)
                file.write(part)
                allowed = began + _UPLOAD_SECONDS + received / _SLOWEST_BYTES_PER_SECOND
                worker.read_until(min(allowed, time.monotonic() + _UPLOAD_SECONDS))
    except OSError as exc:
        raise cannot_keep(exc) from exc
    finally:
        worker.read_until(None)


def cannot_keep(exc: OSError) -> UnknownStateError:
    """What the operating system refused, as what the client is told."""
    worker.close_after_answer(_LINGER_SECONDS)
    return UnknownStateError(
        f"what was sent cannot be kept here: {exc.strerror or exc}",
        next_step="Send the same again later; nothing of it was kept.",
        retry_after=60,
    )


def _require_room(folder: Path, coming: int) -> None:
    if shutil.disk_usage(folder).free < coming + RESERVE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _require_type(request: Request, known: tuple[str, ...], advice: str) -> None:
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if request.mimetype not in known or encoding not in {"", "identity"}:
        raise RequestRefusedError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "request_type",
            "The Content-Type, or a Content-Encoding, is not one that is taken here.",
            next_step=f"Do {advice}, without a Content-Encoding.",
        )


def _too_large(max_bytes: int) -> RequestRefusedError:
    worker.close_after_answer(_LINGER_SECONDS)
    return RequestRefusedError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "request_too_large",
        f"The body is larger than {max_bytes} bytes.",
        next_step="For a bundle: hand it over as a file, or ask the vendor to raise the service's --max-bundle.",
    )


def _incomplete() -> RequestRefusedError:
    worker.close_after_answer()
    if worker.was_cut_off():
        return RequestRefusedError(
            HTTPStatus.REQUEST_TIMEOUT,
            "request_too_slow",
            "The body did not arrive in the time that it has.",
            next_step="Send it again over a faster line; a bundle may take any time at 64 KiB a second or more.",
        )
    return RequestRefusedError(
        HTTPStatus.BAD_REQUEST, "request_incomplete", "The body ended before it was complete.", next_step="Send again."
    )
