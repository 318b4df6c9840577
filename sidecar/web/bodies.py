"""Request bodies: the document as a stream of chunks, whichever way a client sends it (contract E.0, E.1.4).

Invariant: a document is never held in memory as a whole, and what is refused is still read to its end (within
bounds), so that clients that send before they listen get the answer instead of a reset connection.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import IO, Any
from urllib.parse import urlsplit

from flask import Request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected

from sidecar.errors import DocumentRefusedError
from sidecar.web.errors import UnsupportedMediaTypeError

_CHUNK_BYTES = 64 * 1024
_MAX_JSON_BYTES = 64 * 1024
_DRAIN_SECONDS = 20.0
_SILENCE_SECONDS = 20.0
_UPLOAD_SECONDS = 300.0
_served = threading.local()
_RAW_TYPES = {"", "application/octet-stream", "application/pdf"}


def document_chunks(request: Request, *, max_bytes: int) -> Iterator[bytes]:
    """The document in a request's body.

    Args:
        request: The request.
        max_bytes: Largest document.

    Raises:
        DocumentRefusedError: There is none, or it is only named by a URL.
        UnsupportedMediaTypeError: The body is of a kind that holds no document.
    """
    _bound_silence(request)
    kind = request.mimetype
    if kind == "application/json":
        _refuse_url(request.stream.read(_MAX_JSON_BYTES + 1))
    if kind == "multipart/form-data":
        request.max_content_length = max_bytes + _MAX_JSON_BYTES
        first = next(iter(request.files.values()), None)
        if first is None:
            raise DocumentRefusedError("BadArgument", "The multipart body has no file part.")
        return _chunks(first.stream)
    if kind in _RAW_TYPES or kind.startswith("image/"):
        if request.content_length is not None and request.content_length > max_bytes:
            raise DocumentRefusedError(
                "InvalidImageSize", f"Input image is too large: at most {max_bytes} bytes are accepted."
            )
        return _chunks(request.stream, request.content_length)
    raise UnsupportedMediaTypeError(
        f"The Content-Type '{kind[:80]}' is not supported; send application/octet-stream, image/* or application/pdf."
    )


def drain(request: Request, *, max_bytes: int) -> None:
    """Read what is left of a body that nobody wants, up to `max_bytes` and for a limited time; then turn a deaf ear."""
    _bound_silence(request)
    until = time.monotonic() + _DRAIN_SECONDS
    left = max_bytes
    body = request.environ["wsgi.input"]  # not Werkzeug's, which raises as soon as its own limit is passed
    with contextlib.suppress(Exception):
        while left > 0 and time.monotonic() < until:
            chunk = body.read(min(_CHUNK_BYTES, left))
            if not chunk:
                return
            left -= len(chunk)
    stop_listening(request)


def stop_listening(request: Request) -> None:
    """Answer, then close the connection: what is left of this body must never be taken for the next request."""
    message = getattr(_served, "message", None)
    if message is not None:
        message.force_close()
    connection = request.environ.get("gunicorn.socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RD)  # else the close would wait for a client that is slow on purpose


def note_message(_worker: object, message: Any) -> None:
    """Gunicorn's `pre_request`: the message that this thread is about to serve."""
    _served.message = message


def _chunks(stream: IO[bytes], length: int | None = None) -> Iterator[bytes]:
    """The body piece by piece; one that ends early, or trickles for ever, is refused.

    Args:
        stream: Where it comes from.
        length: Its declared length; None when it is chunked.
    """
    until = time.monotonic() + _UPLOAD_SECONDS
    received = 0
    while True:
        try:
            chunk = stream.read(_CHUNK_BYTES)
        except (OSError, ClientDisconnected, ParseException) as exc:
            raise DocumentRefusedError("BadArgument", "The request body ended before it was complete.") from exc
        received += len(chunk)
        if not chunk:
            break
        yield chunk
        if time.monotonic() > until:
            raise DocumentRefusedError("BadArgument", "The request body took too long to arrive.")
    if length is not None and received != length:
        raise DocumentRefusedError("BadArgument", "The request body ended before it was complete.")


def _bound_silence(request: Request) -> None:
    """A client that stops sending in the middle holds a thread for so long and no longer."""
    connection = request.environ.get("gunicorn.socket")
    if connection is not None:
        connection.settimeout(_SILENCE_SECONDS)


def _refuse_url(body: bytes) -> None:
    """Tell apart what may be wrong with a JSON body; even a good one cannot be followed without a network."""
    try:
        parsed = json.loads(body) if len(body) <= _MAX_JSON_BYTES else None
        url = parsed["url"] if isinstance(parsed, dict) else None
    except (ValueError, KeyError, RecursionError):
        url = None
    if not isinstance(url, str) or not url:
        raise DocumentRefusedError("BadArgument", "The JSON body is malformed or has no 'url'.")
    try:
        parts = urlsplit(url)
        absolute = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        absolute = False
    if not absolute:
        raise DocumentRefusedError("InvalidImageUrl", "The image URL is not an absolute http or https address.")
    raise DocumentRefusedError(
        "FailedToDownloadImage",
        "This service does not fetch documents from the network; send the document itself in the request body.",
    )
