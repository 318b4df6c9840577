"""Gunicorn's worker, answering what is no proper HTTP request in JSON as everything else is answered (contract E.9).

Invariant: a client that says nothing holds a connection but no thread, and one that stops in the middle of a request
holds a thread for so long and no longer. Nothing that a client sent, nor its address, is repeated or logged. The master
imports this, so it imports nothing that serves.
"""

from __future__ import annotations

import json
import logging
import selectors
import socket
import struct
from functools import partial
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
from gunicorn.workers.gthread import TConn, ThreadWorker

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
_SILENCE_SECONDS = 10
_log = structlog.get_logger("Tollgate.Web")


class ApiWorker(ThreadWorker):  # type: ignore[misc]
    """The threaded worker, with bounds for silent clients, and with JSON for what reaches no route."""

    def init_process(self) -> None:
        """Serve until the worker is stopped."""
        self.log.error_log.addFilter(_is_no_silence)
        super().init_process()

    def accept(self, listener: Any) -> None:
        """Take a connection in. It waits among the others until it says something; Gunicorn's own waits in a thread."""
        try:
            client, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        self.nr_conns += 1
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _SILENCE_SECONDS, 0))
        connection = TConn(self.cfg, client, address, listener.getsockname())
        connection.set_timeout()
        self.pending_conns.append(connection)
        self.poller.register(client, selectors.EVENT_READ, partial(self.on_pending_socket_readable, connection))

    def handle_error(self, _request: Any, client: socket.socket, _address: Any, exc: Exception) -> None:
        """Answer a request that failed outside of the application, then let the connection be closed."""
        status = next((status for kind, status in _STATUSES if isinstance(exc, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
        if status is HTTPStatus.INTERNAL_SERVER_ERROR:
            _log.error("request failed unexpectedly", error=type(exc).__name__)
        try:
            util.write_nonblock(client, refusal(status))
        except Exception as failure:  # noqa: BLE001 - the client may be gone; the worker must not be
            _log.debug("no answer could be sent", error=type(failure).__name__)


def _is_no_silence(record: logging.LogRecord) -> bool:
    """Whether a line of Gunicorn's log is about anything else than a client that stopped in the middle of a request."""
    return not (record.exc_info and isinstance(record.exc_info[1], BlockingIOError))


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
