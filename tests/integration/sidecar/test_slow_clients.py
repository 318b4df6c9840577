"""Clients that are slow, silent or deaf on purpose, against the sidecar's worker in a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

THREADS = 4
BOUNDS = ("bodies._UPLOAD_SECONDS=1", "bodies._DRAIN_SECONDS=1", "worker._DEAF_SECONDS=1")


@dataclass
class Server:
    port: int
    log: Path

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def ask(self, method: str = "GET", path: str = "/status", body: bytes | None = None) -> tuple[int, str, float]:
        """Status, text and seconds of a request as others send it."""
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Content-Type": "image/png"} if body else {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), time.monotonic() - began


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("worker") / "log"
    command = [sys.executable, "-m", "tests.fakes.web_worker_process", str(THREADS), *BOUNDS]
    with log.open("w") as file, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True) as process:
        assert process.stdout is not None
        greeting = process.stdout.readline()
        assert greeting, log.read_text()
        yield Server(int(greeting), log)
        process.terminate()
        assert process.wait(10) == 0
    assert log.read_text() == ""


@contextlib.contextmanager
def crowd(server: Server, first: bytes, then: bytes = b"") -> Iterator[list[socket.socket]]:
    """As many clients as there are threads, that say the first at once and the other again and again."""
    over = threading.Event()
    with contextlib.ExitStack() as stack:
        ones = [stack.enter_context(server.connect()) for _ in range(THREADS)]
        for one in ones:
            one.sendall(first)

        def trickle() -> None:
            while not over.wait(0.1):
                for one in ones:
                    with contextlib.suppress(OSError):
                        one.send(then)

        sender = threading.Thread(target=trickle)
        sender.start()
        try:
            time.sleep(0.3)
            yield ones
        finally:
            over.set()
            sender.join()


def answer_on(one: socket.socket) -> tuple[int, bytes]:
    with http.client.HTTPResponse(one) as answer:
        answer.begin()
        return answer.status, answer.read()


def post(*lines: str, path: str = "/document") -> bytes:
    return "\r\n".join((f"POST {path} HTTP/1.1", "Host: x", "Content-Type: image/png", *lines, "", "")).encode()


TRICKLES: dict[str, Callable[[str], tuple[bytes, bytes]]] = {
    "one length": lambda path: (post("Content-Length: 60000", path=path), b"x"),
    "chunks of one byte": lambda path: (post("Transfer-Encoding: chunked", path=path), b"1\r\nx\r\n"),
}


@pytest.mark.parametrize("kind", TRICKLES)
@pytest.mark.parametrize(("path", "said"), [("/document", b"took too long"), ("/refused", b"Nobody wants it")])
def test_a_body_that_trickles_ends_in_time_and_is_answered(server: Server, kind: str, path: str, said: bytes) -> None:
    with crowd(server, *TRICKLES[kind](path)) as ones:
        status, text, seconds = server.ask()
        assert (status, text) == (200, "ok")
        assert seconds < 6
        for one in ones:
            with http.client.HTTPResponse(one) as answer:
                answer.begin()
                assert (answer.status, answer.getheader("Connection")) == (400, "close")
                assert said in answer.read()


def test_bodies_that_come_at_once_are_taken_one_after_the_other(server: Server) -> None:
    with server.connect() as one:
        for _ in range(3):
            one.sendall(post("Content-Length: 90000") + b"x" * 90_000)
            assert answer_on(one) == (200, b"90000")
            time.sleep(1.2)  # the time of the body before is over


def test_a_refused_upload_gets_its_answer(server: Server) -> None:
    assert server.ask("POST", body=b"x" * 1_500_000)[0] == 400


def test_who_does_not_read_a_large_answer_loses_it(server: Server) -> None:
    with crowd(server, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n") as ones:
        status, text, seconds = server.ask()
        assert (status, text) == (200, "ok")
        assert seconds < 6
        with http.client.HTTPResponse(ones[0]) as answer:
            answer.begin()
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                answer.read()


def test_a_large_answer_reaches_a_client_that_reads_slowly(server: Server) -> None:
    with server.connect() as one:
        one.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        with http.client.HTTPResponse(one) as answer:
            answer.begin()
            received = 0
            while piece := answer.read(8 * 1024**2):
                received += len(piece)
                time.sleep(0.1)
            assert received == 2000 * 65536


LAST_REQUESTS = {
    "no HTTP": b"NONSENSE\r\n\r\n",
    "the last one": b"GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "an old version": b"GET /status HTTP/1.0\r\n\r\n",
}


@pytest.mark.parametrize("kind", LAST_REQUESTS)
def test_who_does_not_hang_up_keeps_nobody_waiting(server: Server, kind: str) -> None:
    with crowd(server, LAST_REQUESTS[kind]) as ones:
        status, text, seconds = server.ask()
        assert (status, text) == (200, "ok")
        assert seconds < 1
        began = time.monotonic()
        for one in ones:
            while one.recv(65536):
                pass
        assert time.monotonic() - began < 4


def test_a_client_that_sends_before_it_listens_reads_its_refusal(server: Server) -> None:
    with server.connect() as one:
        one.sendall(b"NONSENSE\r\n\r\n")
        for _ in range(10):
            one.sendall(b"x" * 10_000)
            time.sleep(0.05)
        assert answer_on(one)[0] == 400


def test_a_client_that_never_hangs_up_is_cut_off(server: Server) -> None:
    def go_on_for(seconds: float) -> None:
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            one.sendall(b"x")
            time.sleep(0.1)

    with server.connect() as one:
        one.sendall(b"NONSENSE\r\n\r\n")
        go_on_for(1)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            go_on_for(9)
