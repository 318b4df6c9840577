"""The log for Fluentd: `Fluentd:*`. The only file that imports the fluent-logger library.

Invariant: nothing here is imported, and no socket is made, unless `Fluentd:Host` is set. All of it runs in the thread
of a `QueuedSink`, so that a Fluentd which is slow, dead or unreachable keeps nobody waiting. Delivery is best effort:
the Forward protocol is used without acknowledgements, so an event may be lost or come twice when a connection breaks.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fluent.sender import EventTime, FluentSender

from sidecar.clock import SystemClock
from sidecar.logs import LogEvent

TAG = "tollgate"
_SECONDS = 5.0


class FluentdDelivery:
    """Sends events over one connection, which is made again when it breaks.

    Args:
        host: The server's name or address.
        port: Its port.
        process: This process's name; events are tagged `tollgate.<process>`.
        buffer_bytes: Size of the socket's send buffer.
        tls_seconds: How long TLS may take to stand; None for a connection without TLS.
        ca_file: Certificates to verify the server's by; None for the system's.
    """

    def __init__(
        self,
        host: str,
        port: int,
        process: str,
        *,
        buffer_bytes: int,
        tls_seconds: float | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self._process = process
        self._clock = SystemClock()
        self._sender = _Sender(host, port, buffer_bytes=buffer_bytes, tls_seconds=tls_seconds, ca_file=ca_file)

    def deliver(self, events: deque[LogEvent]) -> bool:
        """Send all of them.

        Raises:
            OSError: The server cannot be reached, refuses TLS, or hangs up.
        """
        self._sender.send((self._process, event.wall_ns, event.to_wire()) for event in events)
        events.clear()
        return True

    def idle(self) -> None:
        """Send a heartbeat: an event of its own tag, `tollgate.<process>.heartbeat`.

        Raises:
            OSError: The server cannot be reached.
        """
        record = {"message": "heartbeat", "process": self._process, "pid": os.getpid()}
        self._sender.send([(f"{self._process}.heartbeat", self._clock.read().wall_ns, record)])

    def close(self) -> None:
        """Hang up."""
        self._sender.close()


class _Sender(FluentSender):  # type: ignore[misc]
    """The library's sender, with TLS, a send buffer and IPv6; what waits is kept by the queue and not here."""

    def __init__(
        self, host: str, port: int, *, buffer_bytes: int, tls_seconds: float | None, ca_file: Path | None
    ) -> None:
        self.socket: socket.socket | None = None
        super().__init__(TAG, host=host, port=port, timeout=_SECONDS, nanosecond_precision=True)
        self._buffer_bytes = buffer_bytes
        self._tls_seconds = tls_seconds
        self._ca_file = ca_file

    def send(self, events: Iterable[tuple[str, int, dict[str, Any]]]) -> None:
        """Send events, each `(label, wall clock in nanoseconds, record)`, in the library's own form, now or not at all.

        Raises:
            OSError: They cannot be sent.
        """
        packets = [self._make_packet(label, EventTime.from_unix_nano(at), record) for label, at, record in events]
        try:
            self._send_data(b"".join(packets))
        except OSError:
            self._close()
            raise

    def _reconnect(self) -> None:
        if self.socket is not None:
            return
        connection = socket.create_connection((self.host, self.port), timeout=self.timeout)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._buffer_bytes)
            if self._tls_seconds is not None:
                connection.settimeout(self._tls_seconds)
                context = ssl.create_default_context(cafile=self._ca_file)
                connection = context.wrap_socket(connection, server_hostname=self.host)
                connection.settimeout(self.timeout)
        except BaseException:
            connection.close()
            raise
        self.socket = connection

    def _check_recv_side(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):  # nothing has come: what a plain socket tells by EWOULDBLOCK
            super()._check_recv_side()
