"""Taking a document in, the same way for every API version.

Invariant: the gate is asked first, then the parameters are read, then the body. Whatever refuses a request, its body is
still read to its end (within bounds), and callers who send documents never take the last threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus

from flask import Response, current_app, request

from sidecar.errors import DocumentRefusedError, QueueFullError
from sidecar.reading import ReadParameters
from sidecar.results import Operation
from sidecar.web.bodies import document_chunks, drain, stop_listening
from sidecar.web.origin import origin
from sidecar.web.responses import empty_response
from sidecar.web.services import Services, services

_AT_FAULT_ITSELF = frozenset(
    {"InvalidImage", "InvalidImageDimension", "InvalidImageSize", "InvalidPageRange", "UnsupportedImageFormat"}
)
"""Codes of an operation that failed because of its document: nothing that the service could have done better."""


def submit(parameters: Callable[[], ReadParameters]) -> str:
    """Take the request's document in and queue it.

    Args:
        parameters: Reads what is asked from the request; called once the gate has opened.

    Returns:
        The operation's id, a lower-case GUID.

    Raises:
        SidecarError: Whatever refuses it; see `Reader.submit`.
    """
    one = services(current_app)
    with _drained(one):
        standing = one.admission.require()
        asked = parameters()
        return one.reader.submit(_document(one, asked), asked, standing)


def read_now(parameters: Callable[[], ReadParameters]) -> Operation:
    """Take the request's document in and wait until it is read.

    Args:
        parameters: As in `submit`.

    Raises:
        SidecarError: Whatever refuses it, if only once a page is decoded; see `Reader.read_now`.
    """
    one = services(current_app)
    with _drained(one):
        standing = one.admission.require()
        asked = parameters()
        operation = one.reader.read_now(_document(one, asked), asked, standing)
    if operation.status == "failed":
        for code, message in operation.errors:
            if code in _AT_FAULT_ITSELF:
                raise DocumentRefusedError(code, message)
    return operation


def find(operation_id: str) -> Operation:
    """An operation; answers in every state of the service.

    Raises:
        OperationNotFoundError: Unknown, expired or deleted.
    """
    return services(current_app).reader.find(operation_id)


def accepted(path: str) -> Response:
    """202 without a body; the result is fetched from `path`, which ends in the operation's id and nothing else."""
    return empty_response(HTTPStatus.ACCEPTED, Operation_Location=origin() + path)


def _document(one: Services, asked: ReadParameters) -> Iterator[bytes]:
    max_bytes = min(one.settings.max_document_bytes, asked.rules.max_bytes)
    return document_chunks(request, formats=asked.rules.formats, max_bytes=max_bytes, fetch=one.downloads.fetch)


@contextmanager
def _drained(one: Services) -> Iterator[None]:
    """Bound the callers; whatever refuses one of them inside, the body is still read to its end."""
    if not one.callers.acquire(blocking=False):
        stop_listening(request)
        raise QueueFullError("too many callers send documents at once", next_step="try again in a moment")
    try:
        yield
    except Exception:
        drain(request, max_bytes=2 * one.settings.max_document_bytes)
        raise
    finally:
        one.callers.release()
