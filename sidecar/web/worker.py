"""Gunicorn's worker, answering what is no proper HTTP request in JSON as everything else is answered (contract E.9).

Invariant: a client that says nothing, or half of what it asks, holds a connection but no thread: the worker's own loop
takes headers in. One that stops in the middle of a body, or does not read its answer, holds a thread for so long and no
longer. Headers and bodies have a deadline, which the loop keeps, however a client spreads its bytes. Nothing that a
client sent, nor its address, is repeated or logged. The master imports this, so it imports nothing that serves.
"""

from __future__ import annotations

import contextlib
import json
import logging
import selectors
import socket
import struct
import threading
import time
from functools import partial
from http import HTTPStatus
from typing import Any, cast

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
_HEAD_SECONDS = 20.0
_HEAD_BYTES = 64 * 1024
_HEAD_PIECE = 16 * 1024
_DEAF_SECONDS = 10  # of one send; one that got rid of a part is followed by another, so about three times that in all
_UNREAD_SECONDS = 5.0
_LINGER_SECONDS = 2.0
_PIECE = 64 * 1024
_log = structlog.get_logger("Tollgate.Web")


class Connection(TConn):  # type: ignore[misc]
    """One client.

    Attributes:
        head: What came of the next request, while no thread has it.
        deadline: On the monotonic clock, when to stop reading from it; None when nobody reads.
        was_late: Whether the deadline passed.
    """

    def __init__(self, *facts: Any) -> None:
        super().__init__(*facts)
        self.head = bytearray()
        self.data_ready = True
        self._searched = 0
        self.deadline: float | None = None
        self.was_late = False

    def init(self) -> None:
        """In the thread: give the parser what came. Who makes it ask for more headers than these is cut off."""
        super().init()
        self.parser.unreader.unread(bytes(self.head))
        head, self.head, self._searched = self.head, bytearray(), 0
        self.sock.setblocking(False)
        has_line = head.find(b"\r\n", 2, self.cfg.limit_request_line + 4) >= 0  # else the parser says so
        if has_line and b"\r\n\r\n" not in head:
            raise LimitRequestHeaders("they have no end")

    def take_back(self) -> None:
        """Before a request: what came of it along with the one that was answered."""
        self.sock.setblocking(False)
        if self.parser is not None:
            self.head += self.parser.unreader.take_buffered()

    def has_head(self) -> bool:
        """Whether a thread can go on without waiting: the headers are there, or are too many."""
        end = self.head.find(b"\r\n\r\n", max(0, self._searched - 3))
        self._searched = len(self.head)
        return end >= 0 or len(self.head) > _HEAD_BYTES

    def cut_off(self) -> None:
        """Read nothing more from it: whoever waits for its bytes gets their end. An answer can still be sent."""
        self.deadline, self.was_late = None, True
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RD)


class _Served(threading.local):
    """What this thread serves just now; nothing outside of the worker's threads."""

    connection: Connection | None = None


_served = _Served()


def read_until(deadline: float | None) -> None:
    """Have what is read of this thread's request arrive by then.

    Args:
        deadline: On the monotonic clock; None when nothing more is read.
    """
    if _served.connection is not None:
        _served.connection.deadline = deadline


def was_cut_off() -> bool:
    """Whether the deadline of this thread's request passed while it was read."""
    return _served.connection is not None and _served.connection.was_late


class ApiWorker(ThreadWorker):  # type: ignore[misc]
    """The threaded worker, with bounds for slow clients, and with JSON for what reaches no route."""

    def __init__(self, *facts: Any, **more: Any) -> None:
        super().__init__(*facts, **more)
        self._served: set[Connection] = set()
        self._coming: dict[Connection, float] = {}  # as `_leaving`: whose headers have begun
        self._leaving: dict[Connection, float] = {}  # until when, on the monotonic clock; the oldest first
        self._lock = threading.Lock()

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
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _DEAF_SECONDS, 0))
        connection = Connection(self.cfg, client, address, listener.getsockname())
        connection.set_timeout()
        self.pending_conns.append(connection)
        self.poller.register(client, selectors.EVENT_READ, partial(self.on_pending_socket_readable, connection))

    def handle(self, conn: Connection) -> object:
        """Serve one request, in a thread."""
        with self._lock:
            self._served.add(conn)
        _served.connection = conn
        try:
            return cast("object", super().handle(conn))
        finally:
            _served.connection = conn.deadline = None
            with self._lock:
                self._served.discard(conn)

    def handle_request(self, req: Any, conn: Connection) -> object:
        """Answer a request, whose headers are read."""
        conn.sock.setblocking(True)
        return cast("object", super().handle_request(req, conn))

    def enqueue_req(self, conn: Connection) -> None:
        """Hand a connection that says something to a thread, once all headers of its request are there."""
        conn.take_back()
        if conn.has_head():
            super().enqueue_req(conn)
            return
        try:
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_head_readable, conn))
        except (OSError, ValueError):  # it has gone
            self.nr_conns -= 1
            conn.close()
            return
        self._coming[conn] = time.monotonic() + _HEAD_SECONDS
        self._on_head_readable(conn, conn.sock)

    def _on_head_readable(self, conn: Connection, client: socket.socket) -> None:
        try:
            piece = client.recv(_HEAD_PIECE)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self._drop(conn, self._coming)
            return
        conn.head += piece
        if conn.has_head():
            del self._coming[conn]
            self.poller.unregister(client)
            super().enqueue_req(conn)

    def finish_request(self, conn: Connection, fs: Any) -> None:
        """After a thread has served a request: wait for the next, or see the client off."""
        if fs.cancelled() or fs.exception() is not None or fs.result():
            super().finish_request(conn, fs)
        else:
            self._see_off(conn)

    def _see_off(self, conn: Connection) -> None:
        """Take in for a while what the client still sends after its last answer, which a reset would take from it.

        Gunicorn's own waits in the loop, and with it everybody else.
        """
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            conn.sock.setblocking(False)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_leaving_readable, conn))
        except (OSError, ValueError):  # it has gone
            self.nr_conns -= 1
            conn.close()
        else:
            self._leaving[conn] = time.monotonic() + _LINGER_SECONDS

    def _on_leaving_readable(self, conn: Connection, client: socket.socket) -> None:
        try:
            piece = client.recv(_PIECE)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self._drop(conn, self._leaving)

    def _drop(self, conn: Connection, among: dict[Connection, float]) -> None:
        del among[conn]
        with contextlib.suppress(OSError, KeyError, ValueError):
            self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def _keepalive_after(self, conn: Connection, keepalive: bool) -> bool:
        """Whether another request may follow; what is left of this one's body is read first, in bounded time."""
        conn.deadline = time.monotonic() + _UNREAD_SECONDS  # gunicorn's own bound is for each byte
        return bool(super()._keepalive_after(conn, keepalive)) and not conn.was_late

    def murder_pending(self) -> None:
        """On each turn of the loop, every second at least: end what waits, or is read, for too long."""
        super().murder_pending()
        now = time.monotonic()
        for among in (self._coming, self._leaving):
            for one in [one for one, until in among.items() if until < now]:
                self._drop(one, among)
        with self._lock:
            late = [one for one in self._served if one.deadline is not None and one.deadline < now]
        for one in late:
            one.cut_off()

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
    """Whether a line of Gunicorn's log is about anything else than a client that stopped sending, or reading."""
    return not (record.exc_info and isinstance(record.exc_info[1], BlockingIOError | TimeoutError))


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
