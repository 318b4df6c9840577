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
BOUNDS = ("bodies._UPLOAD_SECONDS=1", "bodies._DRAIN_SECONDS=1", "worker._DEAF_SECONDS=1", "worker._HEAD_SECONDS=8")


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


def is_whole(one: socket.socket) -> bool:
    with http.client.HTTPResponse(one) as answer:
        answer.begin()
        try:
            answer.read()
        except (http.client.IncompleteRead, ConnectionError):
            return False
    return True


def test_who_does_not_read_a_large_answer_loses_it(server: Server) -> None:
    with crowd(server, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n") as ones:
        status, text, seconds = server.ask()
        assert (status, text) == (200, "ok")
        assert seconds < 6
        assert not all(map(is_whole, ones))


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
        assert seconds < 3
        began = time.monotonic()
        for one in ones:
            while one.recv(65536):
                pass
        assert time.monotonic() - began < 8


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


HEADS = {
    "half of the first line": (b"GET /sta", b""),
    "a header that trickles": (b"GET /status HTTP/1.1\r\nHost: x\r\nX: ", b"x"),
    "headers that trickle": (b"GET /status HTTP/1.1\r\n" + b"X: x\r\n" * 50, b"X"),
    "after another request": (b"GET /status HTTP/1.1\r\nHost: x\r\n\r\nGET /", b"x"),
}


@pytest.mark.parametrize("kind", HEADS)
def test_headers_that_trickle_hold_no_thread(server: Server, kind: str) -> None:
    with crowd(server, *HEADS[kind]):
        status, text, seconds = server.ask()
        assert (status, text) == (200, "ok")
        assert seconds < 2


def test_headers_that_never_end_are_cut_off(server: Server) -> None:
    with crowd(server, *HEADS["a header that trickles"]) as ones:
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            assert ones[0].recv(1) == b""
        assert 5 < time.monotonic() - began < 15


@pytest.mark.parametrize("bytes_at_once", [1, 7, 10_000])
def test_requests_that_follow_each_other_are_answered_in_their_order(server: Server, bytes_at_once: int) -> None:
    requests = b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n" + post("Content-Length: 9") + b"x" * 9
    requests += post("Transfer-Encoding: chunked") + b"3\r\nxxx\r\n0\r\n\r\n" + post("Content-Length: 5") + b"x" * 5
    with server.connect() as one:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(requests), bytes_at_once):
            one.sendall(requests[start : start + bytes_at_once])
        said = b""
        while said.count(b"\r\n\r\n") < 4 or not said.endswith(b"5"):
            piece = one.recv(65536)
            assert piece
            said += piece
    bodies = [part.partition(b"\r\n\r\n")[2] for part in said.split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == [b"ok", b"9", b"3", b"5"]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"a" * 90_000, 414),
        (b"GET /status HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 90_000, 431),
        (b"GET /status HTTP/1.1\r\n" + b"X: x\r\n" * 20_000, 431),
        (b"NONSENSE\r\n" + b"X: x\r\n" * 20_000, 431),
    ],
)
def test_headers_without_an_end_are_refused(server: Server, head: bytes, status: int) -> None:
    with server.connect() as one:
        one.sendall(head)
        assert answer_on(one)[0] == status


def test_who_waits_to_be_told_to_go_on_is(server: Server) -> None:
    with server.connect() as one:
        for _ in range(2):
            one.sendall(post("Content-Length: 3", "Expect: 100-continue"))
            assert one.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
            one.sendall(b"xxx")
            assert answer_on(one) == (200, b"3")


def test_a_client_that_ends_its_sending_is_answered(server: Server) -> None:
    with server.connect() as one:
        one.sendall(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        one.shutdown(socket.SHUT_WR)
        said = b""
        while piece := one.recv(65536):
            said += piece
        assert said.count(b"HTTP/1.1 200 OK") == 2
