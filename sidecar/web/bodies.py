"""Request bodies: the document as a stream of chunks, whichever way a client sends it (contract E.0, E.1.4).

Invariant: a document is never held in memory as a whole, and what is refused is still read to its end (within
bounds), so that clients that send before they listen get the answer instead of a reset connection.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import IO, Any, Protocol

from flask import Request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from sidecar.errors import DocumentRefusedError
from sidecar.web import worker
from sidecar.web.errors import UnsupportedMediaTypeError

_CHUNK_BYTES = 64 * 1024
_MAX_JSON_BYTES = 64 * 1024
_DRAIN_SECONDS = 20.0
_SILENCE_SECONDS = 20.0
_UPLOAD_SECONDS = 300.0
_served = threading.local()
_AROUND_FILE_BYTES = 256 * 1024
_RAW_TYPES = {"", "application/octet-stream", "application/pdf"}
_JSON_TYPES = {"application/json", "text/json"}
_TYPES_OF_FORMATS = {
    "bmp": "image/bmp",
    "gif": "image/gif",
    "ico": "image/x-icon",
    "jpeg": "image/jpeg",
    "mpo": "image/jpeg",
    "pdf": "application/pdf",
    "png": "image/png",
    "tiff": "image/tiff",
    "webp": "image/webp",
}


class Fetch(Protocol):
    """Gets the document at a URL; see `DocumentDownload.fetch`."""

    def __call__(self, text: str, *, max_bytes: int) -> Iterator[bytes]:
        """The document, piece by piece."""


def raw_types(formats: Iterable[str]) -> list[str]:
    """The Content-Types that clients give to the bytes of a document of these formats."""
    return ["application/octet-stream", *dict.fromkeys(_TYPES_OF_FORMATS[one] for one in formats)]


def document_chunks(request: Request, *, formats: Iterable[str], max_bytes: int, fetch: Fetch) -> Iterator[bytes]:
    """The document in a request's body, or at the URL that the body names.

    Args:
        request: The request.
        formats: What the route reads; a refusal advises nothing else. What the bytes are is the core's to say.
        max_bytes: Largest document.
        fetch: Gets a document by its URL.

    Raises:
        DocumentRefusedError: There is none, it is too large, or it cannot be fetched. The pieces raise it as well.
        UnsupportedMediaTypeError: The body is of a kind that holds no document.
    """
    _bound_silence(request)
    encoding = request.headers.get("Content-Encoding", "")
    if encoding.strip().lower() not in {"", "identity"}:
        raise UnsupportedMediaTypeError("A Content-Encoding is not supported; send the document as it is.")
    kind = request.mimetype
    if kind in _JSON_TYPES or kind.endswith("+json"):
        return fetch(_named_url(request), max_bytes=max_bytes)
    if kind == "multipart/form-data":
        return _first_file(request, max_bytes)
    if kind in _RAW_TYPES or kind.startswith("image/"):
        return _chunks(request, max_bytes=max_bytes)
    raise UnsupportedMediaTypeError(
        f"The Content-Type '{kind[:80]}' is not supported; send the document as {', '.join(raw_types(formats))} or "
        "multipart/form-data, or its 'url' as application/json."
    )


def drain(request: Request, *, max_bytes: int) -> None:
    """Read what is left of a body that nobody wants, up to `max_bytes` and for a limited time; then turn a deaf ear."""
    _bound_silence(request)
    until = time.monotonic() + _DRAIN_SECONDS
    worker.read_until(until)
    left = max_bytes
    body = request.environ["wsgi.input"]  # not Werkzeug's, which raises as soon as its own limit is passed
    with contextlib.suppress(Exception):
        while left > 0 and time.monotonic() < until and not worker.was_cut_off():
            chunk = body.read(min(_CHUNK_BYTES, left))
            if not chunk and not worker.was_cut_off():
                worker.read_until(None)
                return
            left -= len(chunk)
    worker.read_until(None)
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


def _chunks(request: Request, *, max_bytes: int) -> Iterator[bytes]:
    """The body piece by piece; one that is too large, ends early, or trickles for ever, is refused."""
    length = request.content_length  # None when it is chunked
    if length is not None and length > max_bytes:
        raise _too_large(max_bytes)
    return _pieces(request.stream, length, max_bytes)


def _pieces(stream: IO[bytes], length: int | None, max_bytes: int) -> Iterator[bytes]:
    until = time.monotonic() + _UPLOAD_SECONDS
    worker.read_until(until)  # a read returns only once a whole chunk has come
    received = 0
    while True:
        try:
            chunk = stream.read(_CHUNK_BYTES)
        except (OSError, ClientDisconnected, ParseException) as exc:
            raise _incomplete() from exc
        received += len(chunk)
        if not chunk:
            break
        if received > max_bytes:
            raise _too_large(max_bytes)
        yield chunk
        if time.monotonic() > until:
            raise _too_slow()
    worker.read_until(None)
    if worker.was_cut_off() or (length is not None and received != length):
        raise _incomplete()


def _first_file(request: Request, max_bytes: int) -> Iterator[bytes]:
    """The first file of a multipart body, as it comes; what lies around it is small, and passed over."""
    boundary = request.mimetype_params.get("boundary", "").encode("utf-8", "replace")
    if not boundary:
        raise DocumentRefusedError("BadArgument", "The multipart body has no boundary.")
    return _file_of(_chunks(request, max_bytes=max_bytes + _AROUND_FILE_BYTES), boundary)


def _file_of(chunks: Iterator[bytes], boundary: bytes) -> Iterator[bytes]:
    decoder = MultipartDecoder(boundary, max_form_memory_size=_AROUND_FILE_BYTES)
    inside = False
    try:
        for chunk in itertools.chain(chunks, [None]):
            decoder.receive_data(chunk)
            while not isinstance(event := decoder.next_event(), NeedData | Epilogue):
                if isinstance(event, File | Field):
                    inside = isinstance(event, File)
                elif inside and isinstance(event, Data):
                    yield event.data
                    if not event.more_data:
                        deque(chunks, maxlen=0)  # the rest is read, so that the connection can go on
                        return
            if isinstance(event, Epilogue):
                break
    except RequestEntityTooLarge as exc:
        raise DocumentRefusedError("BadArgument", "The multipart body has a part that is too large.") from exc
    except ValueError as exc:
        raise DocumentRefusedError("BadArgument", "The multipart body is malformed or incomplete.") from exc
    raise DocumentRefusedError("BadArgument", "The multipart body has no file part.")


def _named_url(request: Request) -> str:
    """The URL in a JSON body; its key may be in any letter case, as ASP.NET takes it, but there may be only one."""
    try:
        parsed = json.loads(b"".join(_chunks(request, max_bytes=_MAX_JSON_BYTES)))
        named = [value for key, value in parsed.items() if key.lower() == "url"] if isinstance(parsed, dict) else []
        url = named[0] if len(named) == 1 else None
    except (ValueError, RecursionError):
        url = None
    except DocumentRefusedError as exc:
        if exc.reason != "InvalidImageSize":
            raise
        url = None
    if not isinstance(url, str) or not url:
        raise DocumentRefusedError("BadArgument", "The JSON body is malformed or does not hold one 'url'.")
    return url


def _too_large(max_bytes: int) -> DocumentRefusedError:
    return DocumentRefusedError(
        "InvalidImageSize", f"Input image is too large: at most {max_bytes} bytes are accepted."
    )


def _too_slow() -> DocumentRefusedError:
    return DocumentRefusedError("BadArgument", "The request body took too long to arrive.")


def _incomplete() -> DocumentRefusedError:
    if worker.was_cut_off():
        return _too_slow()
    return DocumentRefusedError("BadArgument", "The request body ended before it was complete.")


def _bound_silence(request: Request) -> None:
    """A client that stops sending in the middle holds a thread for so long and no longer."""
    connection = request.environ.get("gunicorn.socket")
    if connection is not None:
        connection.settimeout(_SILENCE_SECONDS)
