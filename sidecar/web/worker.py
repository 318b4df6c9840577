"""Gunicorn's worker, answering what is no proper HTTP request in JSON as everything else is answered (contract E.9).

Invariant: nothing that a client sent, nor its address, is repeated or logged; the master imports this, so it imports
nothing that serves.
"""

from __future__ import annotations

import json
import socket
from http import HTTPStatus
from typing import Any

import structlog
from gunicorn import util
from gunicorn.http.errors import (
    ExpectationFailed,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.workers.gthread import ThreadWorker

_STATUSES: tuple[tuple[type[Exception], HTTPStatus], ...] = (
    (LimitRequestLine, HTTPStatus.REQUEST_URI_TOO_LONG),
    (LimitRequestHeaders, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
    (ExpectationFailed, HTTPStatus.EXPECTATION_FAILED),
    (UnsupportedTransferCoding, HTTPStatus.NOT_IMPLEMENTED),
    (InvalidResponseHeader, HTTPStatus.INTERNAL_SERVER_ERROR),
    (InvalidResponseHeaderName, HTTPStatus.INTERNAL_SERVER_ERROR),
    (ParseException, HTTPStatus.BAD_REQUEST),
)
_MESSAGES = {
    HTTPStatus.REQUEST_URI_TOO_LONG: "The request line is too long.",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "The request's headers are too large.",
    HTTPStatus.EXPECTATION_FAILED: "The Expect header is not understood.",
    HTTPStatus.NOT_IMPLEMENTED: "The Transfer-Encoding is not supported.",
    HTTPStatus.BAD_REQUEST: "The request is not well-formed HTTP.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "The request could not be processed.",
}
_log = structlog.get_logger("Tollgate.Web")


class ApiWorker(ThreadWorker):  # type: ignore[misc]
    """The threaded worker, with JSON for what reaches no route."""

    def handle_error(self, _request: Any, client: socket.socket, _address: Any, exc: Exception) -> None:
        """Answer a request that failed outside of the application, then let the connection be closed."""
        status = next((status for kind, status in _STATUSES if isinstance(exc, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
        if status is HTTPStatus.INTERNAL_SERVER_ERROR:
            _log.error("request failed unexpectedly", error=type(exc).__name__)
        try:
            util.write_nonblock(client, refusal(status))
        except Exception as failure:  # noqa: BLE001 - the client may be gone; the worker must not be
            _log.debug("no answer could be sent", error=type(failure).__name__)


def refusal(status: HTTPStatus) -> bytes:
    """A whole answer that refuses a request of which nothing is known."""
    code = "InternalServerError" if status is HTTPStatus.INTERNAL_SERVER_ERROR else "InvalidRequest"
    body = json.dumps({"error": {"code": code, "message": _MESSAGES[status]}}).encode("ascii")
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
        f"Content-Type: application/json; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
        "X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n\r\n"
    )
    return head.encode("ascii") + body
