"""The worker's hold on clients that say nothing, or half of it, on real sockets."""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config

from sidecar.web import worker as worker_module
from sidecar.web.worker import ApiWorker


class IdleWorker(ApiWorker):
    """A worker without a loop and without threads: what it would hand to a thread, it remembers."""

    def __init__(self) -> None:
        self.cfg = Config()
        self.poller = selectors.DefaultSelector()
        self.pending_conns: deque[Any] = deque()
        self.nr_conns = 0
        self._served = set()
        self._coming = {}
        self._leaving = {}
        self._lock = threading.Lock()
        self.handed_out: list[Any] = []
        self.tpool = SimpleNamespace(submit=self._submit)

    def _submit(self, _handle: object, conn: Any) -> Future[object]:
        self.handed_out.append(conn)
        return Future()

    def look(self) -> None:
        self.wait_for_and_dispatch_events(timeout=5)


@pytest.fixture
def worker() -> Iterator[IdleWorker]:
    one = IdleWorker()
    yield one
    one.poller.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one


def test_a_silent_connection_holds_no_thread(worker: IdleWorker, listener: socket.socket) -> None:
    with socket.create_connection(listener.getsockname()) as client:
        worker.accept(listener)
        assert worker.handed_out == []
        assert (worker.nr_conns, len(worker.pending_conns)) == (1, 1)
        client.sendall(b"GET / HTTP/1.1\r\n")
        worker.look()
        assert (worker.handed_out, len(worker.pending_conns)) == ([], 0)
        client.sendall(b"\r\n")
        worker.look()
        assert len(worker.handed_out) == 1


def test_half_a_request_is_waited_for_so_long_and_no_longer(
    worker: IdleWorker, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_HEAD_SECONDS", 0.2)
    with socket.create_connection(listener.getsockname(), timeout=5) as client:
        worker.accept(listener)
        client.sendall(b"GET /status")
        worker.look()
        worker.murder_pending()
        assert worker.nr_conns == 1
        time.sleep(0.3)
        worker.murder_pending()
        assert (worker.nr_conns, worker.handed_out) == (0, [])
        assert client.recv(1) == b""


def test_a_listener_with_nobody_waiting_is_no_error(worker: IdleWorker, listener: socket.socket) -> None:
    listener.setblocking(False)
    worker.accept(listener)
    assert worker.nr_conns == 0


def test_a_client_that_stops_half_way_is_nothing_to_log(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("tests.worker")
    log.addFilter(worker_module._is_no_silence)
    for fault in (BlockingIOError(11, "again"), TimeoutError("timed out"), OSError(5, "broken")):
        log.error("Socket error processing request.", exc_info=fault)
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [fault]
