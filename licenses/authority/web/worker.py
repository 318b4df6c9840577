"""Gunicorn's worker for a service that anyone on the network may call.

Invariants:

* A thread waits for no stranger. The worker's own loop takes in TLS handshakes, headers and small bodies, and hands a
  connection to a thread when a whole request is there. What a thread itself reads from the network is larger: a bundle,
  of a sender that is known, and no more of them than there are places for.
* Each connection has a deadline, which the loop keeps, however a client spreads its bytes. Where there are too many, or
  too much of them is held, the one that has waited longest without a whole request gives way; so whoever sends his
  request at once is answered, however many others do not.
* What a client still sends after it was answered is taken in for a while and thrown away, by the loop: so the answer
  reaches clients that send before they listen, and nobody else waits for them.
* What is no HTTP is answered in JSON like everything else. Nothing that a client sent is repeated or logged.

The master imports this, so it imports nothing that serves.
"""

import contextlib
import errno
import json
import logging
import os
import re
import selectors
import socket
import ssl
import struct
import threading
import time
from functools import partial
from http import HTTPStatus
from typing import Any, cast

import structlog
from gunicorn import sock as gunicorn_sock
from gunicorn import util
from gunicorn.glogging import Logger
from gunicorn.http import get_parser
from gunicorn.http.errors import (
    ExpectationFailed,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.workers.gthread import TConn, ThreadWorker

HEAD_SECONDS = 20.0
"""Longest time from the first byte of a request to the end of its headers; a TLS handshake is part of it."""
BODY_SECONDS = 20.0
"""Longest time from there to the end of a small body."""
SMALL_BYTES = 192 * 1024
"""Bodies up to this size are taken in before a thread looks at them; only bundles may be so large, and a piece more."""
SPARE = 24
"""How many connections before gunicorn's own limit, at which it accepts no more, the oldest begin to give way."""

_DEAF_SECONDS = 20
_SEND_BUFFER = 256 * 1024
_HEAD_BYTES = 64 * 1024
_HELD_BYTES = 64 * 1024**2
_SWEEP_SECONDS = 0.2
_LINGER_SECONDS = 2.0
_PIECE = 64 * 1024
_STATUSES: tuple[tuple[type[Exception], HTTPStatus], ...] = (
    (LimitRequestLine, HTTPStatus.REQUEST_URI_TOO_LONG),
    (LimitRequestHeaders, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
    (ExpectationFailed, HTTPStatus.EXPECTATION_FAILED),
    (UnsupportedTransferCoding, HTTPStatus.NOT_IMPLEMENTED),
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
# Only so much of HTTP as tells how long to wait; what is right and wrong is the parser's to say.
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,4000})[ \t]*\r\n", re.IGNORECASE)
_IN_CHUNKS = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_EXPECTS = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*\r\n", re.IGNORECASE)
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]+)[ \t]*(?:;.*)?", re.DOTALL)
_LONGEST_LINE = 8192
_LONGEST_TRAILER = 1024 * 1024
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_log = structlog.get_logger("Tollgate.Authority")


class _Served(threading.local):
    """What this thread serves just now; nothing outside of the worker's threads."""

    connection: "Connection | None" = None
    message: Any = None


_served = _Served()


class Incoming:
    """The bytes of a request as they come, and whether they are all there."""

    def __init__(self) -> None:
        self.blob = bytearray()
        self.head_end: int | None = None
        self.expects = False
        self._length: int | None = 0
        self._searched = 0
        self._chunk = 0
        self._trailer = 0
        self._in_chunks = 0

    def is_whole(self) -> bool:
        """Whether a thread can go on without waiting: all is there, or what follows is large, or is no request."""
        if self.head_end is None:
            end = self.blob.find(b"\r\n\r\n", max(0, self._searched - 3))
            self._searched = len(self.blob)
            if end < 0:
                return len(self.blob) > _HEAD_BYTES
            self._read_head(end + 4)
        body = len(self.blob) - cast("int", self.head_end)
        if self._length is not None:
            return body >= self._length or self._length > SMALL_BYTES
        return self._has_all_chunks()

    def _read_head(self, end: int) -> None:
        head = bytes(self.blob[:end])
        self.head_end = self._chunk = end
        self.expects = _EXPECTS.search(head) is not None
        if _IN_CHUNKS.search(head):
            self._length = None
        elif found := _LENGTH.search(head):
            self._length = int(found[1])

    def _has_all_chunks(self) -> bool:
        while (line := self.blob.find(b"\r\n", self._chunk, self._chunk + _LONGEST_LINE)) >= 0:
            found = _CHUNK_SIZE.fullmatch(self.blob[self._chunk : line])
            if found is None:
                return True
            size, start = int(found[1], 16), line + 2
            if size == 0:
                searched, self._trailer = max(line, self._trailer - 3), len(self.blob)
                return self.blob.find(b"\r\n\r\n", searched) >= 0 or len(self.blob) - line > _LONGEST_TRAILER
            if self._in_chunks + min(size, len(self.blob) - start) > SMALL_BYTES:
                return True
            if len(self.blob) < start + size + 2:
                return False
            self._in_chunks += size
            self._chunk = start + size + 2
        return len(self.blob) - self._chunk >= _LONGEST_LINE


class Connection(TConn):  # type: ignore[misc]
    """One client.

    Attributes:
        incoming: What came of the next request, while no thread has it.
        deadline: On the monotonic clock, when to stop waiting for it; None when nobody waits.
        was_late: Whether the deadline passed.
        linger_seconds: How long to take in what it still sends after the last answer.
        is_leaving: Whether it had its last answer.
        has_begun: Whether anything came of the next request.
        was_told_to_go_on: Whether it asked to be told before it sends the body, and was.
    """

    sock: Any
    parser: Any

    def __init__(self, *facts: Any) -> None:
        super().__init__(*facts)
        self.incoming = Incoming()
        self.deadline: float | None = None
        self.was_late = False
        self.linger_seconds = _LINGER_SECONDS
        self.is_leaving = self.has_begun = self.was_told_to_go_on = False
        self.data_ready = True
        self._is_shaken = not self.cfg.is_ssl

    def init(self) -> None:
        """In the thread: give the parser what came. Who makes it ask for more headers than these is cut off."""
        self.initialized = True
        if self.parser is None:
            self.parser = get_parser(self.cfg, self.sock, self.client)
        self.parser.unreader.unread(bytes(self.incoming.blob))
        self.incoming = Incoming()
        self.sock.setblocking(False)

    def wrap(self, context: ssl.SSLContext) -> None:
        """Begin to speak TLS."""
        self.sock = context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)

    def receive(self) -> int:
        """Take in what is there, without waiting.

        Returns:
            How many bytes came; 0 at the end of what it sends.

        Raises:
            OSError: Nothing is there, or nothing will be.
        """
        if not (self._is_shaken or self.is_leaving):  # one that is seen off has no TLS any more
            self.sock.do_handshake()
            self._is_shaken = True
        piece = self.sock.recv(_PIECE)
        if not self.is_leaving:
            self.incoming.blob += piece
        return len(piece)

    def go_on(self) -> None:
        """Have a small body sent, where the client waits to be told."""
        if self.incoming.expects and not self.was_told_to_go_on:
            self.was_told_to_go_on = True
            with contextlib.suppress(OSError):
                self.sock.send(_CONTINUE)

    def take_back(self) -> None:
        """After an answer: what came of the next request along with the one that was answered."""
        self.incoming.blob += self.parser.unreader.take_buffered()
        self.has_begun = self.was_told_to_go_on = False
        if isinstance(self.sock, ssl.SSLSocket) and (ready := self.sock.pending()):
            self.incoming.blob += self.sock.recv(ready)  # no selector tells of it

    def cut_off(self) -> None:
        """Read nothing more from it: whoever waits for its bytes gets their end. An answer can still be sent."""
        self.deadline, self.was_late = None, True
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_RD)  # past TLS, which would forget its keys

    def close(self, graceful: bool = False) -> None:  # noqa: ARG002 - the loop gives the grace
        """Close it at once."""
        util.close(self.sock)


def begun(_worker: object, message: Any) -> None:
    """Gunicorn's `pre_request`: a request's headers are read, and this thread is about to serve it."""
    _served.message = message
    if _served.connection is not None:
        _served.connection.sock.setblocking(True)
        if _served.connection.was_told_to_go_on:
            message._expected_100_continue = False  # noqa: SLF001 - else gunicorn tells it again
        _served.connection.deadline = None
        _served.connection.linger_seconds = _LINGER_SECONDS


def read_until(deadline: float | None) -> None:
    """Have the rest of this thread's request arrive by then.

    Args:
        deadline: On the monotonic clock; None when nothing more is read.
    """
    if _served.connection is not None:
        _served.connection.deadline = deadline


def was_cut_off() -> bool:
    """Whether the deadline of this thread's request passed while it was read."""
    return _served.connection is not None and _served.connection.was_late


def close_after_answer(linger_seconds: float | None = None) -> None:
    """Let this connection end with the answer: what follows on it is no request.

    Args:
        linger_seconds: How long the client may go on sending before it has to listen; None for the usual time.
    """
    if _served.message is not None:
        _served.message.force_close()
    if _served.connection is not None and linger_seconds is not None:
        _served.connection.linger_seconds = linger_seconds


class AuthorityWorker(ThreadWorker):  # type: ignore[misc]
    """The threaded worker, whose loop takes requests in. All but `handle` and `handle_error` runs in the loop."""

    def __init__(self, *facts: Any, **more: Any) -> None:
        super().__init__(*facts, **more)
        self._waiting: dict[Connection, None] = {}  # the oldest first
        self._held = 0
        self._swept = 0.0
        self._tls: tuple[object, ssl.SSLContext] | None = None
        self._reading: set[Connection] = set()
        self._lock = threading.Lock()

    def accept(self, listener: Any) -> None:
        """Take a connection in; it waits among the others until a whole request of it is there."""
        try:
            client, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as exc:
            if exc.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._make_room()
            return
        if self.nr_conns >= self.worker_connections - SPARE:
            self._make_room()
        self.nr_conns += 1
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _DEAF_SECONDS, 0))
        # What may be asked for without a key fits in, so that no thread waits for those who do not listen.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self._wait_for(Connection(self.cfg, client, address, listener.getsockname()), self.cfg.keepalive)

    def handle(self, conn: Connection) -> object:
        """Serve one request, in a thread."""
        with self._lock:
            self._reading.add(conn)
        _served.connection = conn
        try:
            return cast("object", super().handle(conn))
        finally:
            _served.connection = _served.message = None
            with self._lock:
                self._reading.discard(conn)
                if not conn.was_late:
                    conn.deadline = None

    def finish_request(self, conn: Connection, fs: Any) -> None:
        """After a thread has served a request: wait for the next, or see the client off."""
        if not fs.cancelled() and fs.exception() is None and fs.result() is True:
            conn.take_back()
            self._wait_for(conn, self.cfg.keepalive)
            self._held += len(conn.incoming.blob)
            if conn.incoming.blob:
                self._begin(conn)
                self._look_at(conn)
            return
        self._see_off(conn)

    def _see_off(self, conn: Connection) -> None:
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except (OSError, ValueError):
            conn.linger_seconds = 0
        conn.is_leaving = True
        self._wait_for(conn, 0 if conn.was_late else conn.linger_seconds)
        if conn.was_late or not conn.linger_seconds:
            self._drop(conn)

    def murder_keepalived(self, force: bool = False) -> None:
        """End all that wait, if so forced; `murder_pending` ends those that waited for too long."""
        while force and self._waiting:
            self._drop(next(iter(self._waiting)))

    def murder_pending(self) -> None:
        """On each turn of the loop, every second at least: end what waits, or is read, for too long."""
        now = time.monotonic()
        if now - self._swept < _SWEEP_SECONDS:
            return
        self._swept = now
        for one in [one for one in self._waiting if one.deadline is not None and one.deadline < now]:
            if one.incoming.head_end is None or one.is_leaving:
                self._drop(one)
            else:
                one.cut_off()  # a thread tells it so
                self._hand_over(one)
        with self._lock:
            late = [one for one in self._reading if one.deadline is not None and one.deadline < now]
        for one in late:
            one.cut_off()

    def _cap_keepalive(self, deadline: float) -> None:
        for one in self._waiting:
            one.deadline = min(one.deadline or deadline, deadline)

    def _wait_for(self, conn: Connection, seconds: float) -> None:
        with contextlib.suppress(OSError, ValueError):  # it may be closed
            conn.sock.setblocking(False)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_readable, conn))
        conn.deadline = time.monotonic() + seconds
        self._waiting[conn] = None

    def _on_readable(self, conn: Connection, _socket: object) -> None:
        if conn not in self._waiting:
            return  # it gave way to another in this turn of the loop
        if not (conn.has_begun or conn.is_leaving):
            self._begin(conn)
        try:
            if self.cfg.is_ssl and not isinstance(conn.sock, ssl.SSLSocket):
                self.poller.unregister(conn.sock)
                conn.wrap(self._context())
                self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_readable, conn))
            count = conn.receive()
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except ssl.SSLError:  # it speaks something else; a reset would hide the alert that it was sent
            self._forget(conn)
            conn.incoming = Incoming()
            self._see_off(conn)
            return
        except (OSError, ValueError):
            self._drop(conn)
            return
        if conn.is_leaving:
            if not count:
                self._drop(conn)
            return
        self._held += count
        if count:
            self._look_at(conn)
        elif conn.incoming.head_end is None:
            self._drop(conn)
        else:
            self._hand_over(conn)  # a thread tells it that this was no body

    def _begin(self, conn: Connection) -> None:
        conn.has_begun, conn.deadline = True, time.monotonic() + HEAD_SECONDS

    def _look_at(self, conn: Connection) -> None:
        had_head = conn.incoming.head_end is not None
        if conn.incoming.is_whole():
            self._hand_over(conn)
        elif conn.incoming.head_end is not None and not had_head:
            conn.deadline = time.monotonic() + BODY_SECONDS
            conn.go_on()
        while self._held > _HELD_BYTES and self._waiting:
            self._make_room()

    def _hand_over(self, conn: Connection) -> None:
        self._forget(conn)
        conn.deadline = None
        self.enqueue_req(conn)

    def _drop(self, conn: Connection) -> None:
        self._forget(conn)
        self.nr_conns -= 1
        conn.close()

    def _forget(self, conn: Connection) -> None:
        del self._waiting[conn]
        self._held -= len(conn.incoming.blob)
        with contextlib.suppress(OSError, KeyError, ValueError):
            self.poller.unregister(conn.sock)

    def _make_room(self) -> None:
        oldest = next(iter(self._waiting), None)
        if oldest is not None:
            self._drop(oldest)

    def _context(self) -> ssl.SSLContext:
        """For TLS, made anew when the certificate's files are others."""
        files = [os.stat(path) for path in (self.cfg.certfile, self.cfg.keyfile)]
        known = [(one.st_ino, one.st_mtime_ns, one.st_size) for one in files]
        if self._tls is None or self._tls[0] != known:
            self._tls = (known, gunicorn_sock.ssl_context(self.cfg))
        return self._tls[1]

    def handle_error(self, _request: Any, client: socket.socket, _address: Any, exc: Exception) -> None:
        """Answer a request that failed outside of the application, then let the connection be closed."""
        status = next((status for kind, status in _STATUSES if isinstance(exc, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
        if isinstance(exc, OSError):
            return  # the client has gone, or speaks another protocol
        if status is HTTPStatus.INTERNAL_SERVER_ERROR:
            _log.error("request failed unexpectedly", error=type(exc).__name__)
        try:
            util.write_nonblock(client, refusal(status))
        except Exception as failure:  # noqa: BLE001 - the client may be gone; the worker must not be
            _log.debug("no answer could be sent", error=type(failure).__name__)


def refusal(status: HTTPStatus) -> bytes:
    """A whole answer that refuses a request of which nothing is known."""
    step = "Send what docs/protocol.md describes, with a client that speaks HTTP/1.1."
    code = "internal" if status is HTTPStatus.INTERNAL_SERVER_ERROR else "request_malformed"
    body = json.dumps({"status": "Unknown", "code": code, "message": _MESSAGES[status], "nextStep": step})
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n\r\n"
    )
    return (head + body).encode("ascii")


class ServerLog(Logger):  # type: ignore[misc]
    """What gunicorn itself has to say, as lines of our log."""

    def setup(self, cfg: Any) -> None:
        """Send its errors to the log."""
        super().setup(cfg)
        self.error_log.handlers = [_Forward()]


class _Forward(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        fault = record.exc_info[1] if record.exc_info else None
        if isinstance(fault, OSError):
            return  # a client that stopped in the middle of a request, or left
        said = record.getMessage().strip()
        _log.error(said.splitlines()[0] if said else "gunicorn", error=None if fault is None else type(fault).__name__)
