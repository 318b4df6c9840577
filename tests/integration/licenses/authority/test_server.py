"""The server's hold on its clients, on real sockets: bounds in bytes and time, lies about lengths, signals."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from licenses.authority.web.server import take_address
from licenses.errors import UnknownStateError
from tests.e2e.site import wait_until
from tests.fakes.authority_process import MAX_BYTES

HEAD_SECONDS = 1.0
BODY_SECONDS = 2.0
PATH = "/tollgate/v1/bundles"
HEADERS = {"Ocp-Apim-Subscription-Key": "good", "Content-Type": "application/gzip"}


@dataclass
class Server:
    process: subprocess.Popen[str]
    port: int
    folder: Path
    certificate: Path | None = None

    @classmethod
    def start(
        cls,
        folder: Path,
        *,
        head_seconds: float = HEAD_SECONDS,
        body_seconds: float = BODY_SECONDS,
        connections: int = 1000,
        certificate: Path | None = None,
    ) -> Server:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.authority_process", "127.0.0.1:0", str(folder / "uploads"),
             str(head_seconds), str(body_seconds), str(connections),
             *([] if certificate is None else [certificate, certificate.with_suffix(".key")])],
            stdout=subprocess.PIPE, stderr=(folder / "log").open("w"), text=True,
        )  # fmt: skip
        assert process.stdout is not None
        greeting = process.stdout.readline()
        assert "://127.0.0.1:" in greeting, (folder / "log").read_text()
        return cls(process, int(greeting.rpartition(":")[2]), folder, certificate)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def post(self, body: Any, *, chunked: bool = False, path: str = PATH, **headers: str) -> tuple[int, dict[str, Any]]:
        connection: http.client.HTTPConnection
        if self.certificate is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        else:
            context = ssl.create_default_context(cafile=self.certificate)
            connection = http.client.HTTPSConnection("localhost", self.port, timeout=20, context=context)
        try:
            connection.request("POST", path, body, {**HEADERS, **headers}, encode_chunked=chunked)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def ask(self) -> tuple[int, str]:
        """Call as an appliance does."""
        body = b'{"containerType": "computervisionread"}'
        status, told = self.post(body, path="/tollgate/v1/license", **{"Content-Type": "application/json"})
        return status, told["message"]

    def raw(self, *parts: bytes, pause: float = 0.0) -> bytes:
        """What is answered to these bytes until the connection ends; a pause after each part."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as one:
            for part in parts:
                try:
                    one.sendall(part)
                except OSError:
                    break
                if pause:
                    time.sleep(pause)
            return _all_of(one)


def _answer_of(one: socket.socket) -> bytes:
    """An answer whose body is a JSON object, on a connection that is kept."""
    found = b""
    while not found.endswith(b"}"):
        piece = one.recv(65536)
        assert piece, found
        found += piece
    return found


def _all_of(one: socket.socket) -> bytes:
    found = b""
    while True:
        try:
            piece = one.recv(65536)
        except ConnectionResetError:
            return found
        if not piece:
            return found
        found += piece


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    one = Server.start(tmp_path_factory.mktemp("authority"))
    yield one
    one.process.send_signal(signal.SIGTERM)
    assert one.process.wait(20) == 0


def head(*lines: str, path: str = PATH, kind: str = HEADERS["Content-Type"]) -> bytes:
    named = [f"{name}: {value}" for name, value in {**HEADERS, "Content-Type": kind}.items()]
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *named, *lines, "", ""]).encode()


# ---- bytes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
def test_a_bundle_is_a_file_of_its_own_while_it_is_looked_at_and_gone_afterwards(server: Server, chunked: bool) -> None:
    body = (b"x" * 1000 for _ in range(500)) if chunked else b"x" * 500_000
    status, told = server.post(body, chunked=chunked, **({"Transfer-Encoding": "chunked"} if chunked else {}))
    assert (status, told["status"]) == (409, "Mismatch")
    assert told["message"] == "bundle.tar.gz has 500000 bytes, mode 700"
    assert list((server.folder / "uploads").iterdir()) == []


@pytest.mark.parametrize("size", [MAX_BYTES + 1, 40_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_bundle_that_is_too_large_is_refused_by_name_to_clients_that_send_first(
    server: Server, chunked: bool, size: int
) -> None:
    pieces = (b"x" * min(65536, size - start) for start in range(0, size, 65536))
    body = pieces if chunked else b"x" * size
    status, told = server.post(body, chunked=chunked, **({"Transfer-Encoding": "chunked"} if chunked else {}))
    assert (status, told["code"]) == (413, "request_too_large")
    assert str(MAX_BYTES) in told["message"]
    assert list((server.folder / "uploads").iterdir()) == []


def test_what_is_told_to_be_too_large_is_refused_before_any_of_it_comes(server: Server) -> None:
    began = time.monotonic()
    answer = server.raw(head(f"Content-Length: {2 * 1024**3}"), pause=0.2)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"Connection: close" in answer
    assert time.monotonic() - began < 40


def test_a_length_that_promises_more_than_comes_is_no_body(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as one:
        one.sendall(head("Content-Length: 100") + b"x" * 50)
        one.shutdown(socket.SHUT_WR)
        answer = _all_of(one)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b'"code":"request_incomplete"' in answer


def test_a_length_that_promises_less_than_comes_leaves_a_rest_that_is_no_request(server: Server) -> None:
    answer = server.raw(head("Content-Length: 10") + b"x" * 50 + b"\r\n\r\n")
    first, _, rest = answer.partition(b"HTTP/1.1 400")
    assert b"has 10 bytes" in first
    assert b"request_malformed" in rest


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 10", "Transfer-Encoding: chunked"),
        ("Content-Length: 10", "Content-Length: 11"),
        ("Content-Length: -1",),
        ("Content-Length: 1e3",),
        ("Transfer-Encoding: gzip, identity",),
    ],
)
def test_lengths_that_contradict_each_other_are_no_http(server: Server, lines: tuple[str, ...]) -> None:
    answer = server.raw(head(*lines) + b"5\r\nhello\r\n0\r\n\r\n")
    assert answer.split(b" ", 2)[1] in {b"400", b"501"}
    assert b'"status": "Unknown"' in answer
    assert answer.count(b"Content-Length: ") == 1


def test_chunks_that_are_none_are_an_incomplete_body(server: Server) -> None:
    answer = server.raw(head("Transfer-Encoding: chunked") + b"zz\r\nhello\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"request_incomplete" in answer


def test_who_has_no_key_is_refused_before_his_body_is_read(server: Server) -> None:
    status, told = server.post(b"x" * 900_000, **{"Ocp-Apim-Subscription-Key": "bad"})
    assert (status, told["status"]) == (401, "Invalid")


@pytest.mark.parametrize(
    ("kind", "encoding"),
    [("text/plain", ""), ("multipart/form-data; boundary=x", ""), ("application/gzip", "gzip"), ("", "")],
)
def test_other_kinds_of_body_are_refused(server: Server, kind: str, encoding: str) -> None:
    status, told = server.post(b"hello", **{"Content-Type": kind, "Content-Encoding": encoding})
    assert (status, told["code"]) == (415, "request_type")


@pytest.mark.parametrize("name", ["../../etc/passwd", "%2e%2e%2fx", "/etc/passwd", "x\\..\\y"])
def test_no_name_that_a_client_gives_becomes_a_path(server: Server, name: str) -> None:
    status, told = server.post(
        b"x" * 10, **{"Content-Disposition": f'attachment; filename="{name}"', "Slug": name, "X-File-Name": name}
    )
    assert status == 409
    assert told["message"].startswith("bundle.tar.gz has 10 bytes")
    status, _ = server.post(b"x", path=f"{PATH}/{name.replace(chr(92), '/')}")
    assert status == 404


# ---- time -----------------------------------------------------------------------------------------------------------


def test_a_request_that_trickles_is_cut_off_however_it_is_spread(server: Server) -> None:
    began = time.monotonic()
    answer = server.raw(*(b"%c" % byte for byte in b"GET /tollgate/v1/health HTTP/1.1\r\n"), pause=0.15)
    assert answer == b""
    assert time.monotonic() - began < 15


def test_a_body_that_trickles_is_cut_off_and_told_so(server: Server) -> None:
    began = time.monotonic()
    answer = server.raw(head("Content-Length: 100"), *[b"x"] * 20, pause=0.2)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code":"request_too_slow"' in answer
    assert time.monotonic() - began < 15
    assert list((server.folder / "uploads").iterdir()) == []


def call(*lines: str) -> bytes:
    return head(*lines, path="/tollgate/v1/license", kind="application/json")


SLOW = {
    "silent": (b"", b""),
    "heads": (b"POST / HTTP/1.1\r\nX: ", b"x"),
    "long heads": (b"POST / HTTP/1.1\r\n" + b"X: x\r\n" * 12_000, b"X"),
    "bodies": (call("Content-Length: 1000") + b"{", b" "),
    "numbers with zeros before them": (call(f"Content-Length: {'0' * 40}1000") + b"{", b" "),
    "chunks": (call("Transfer-Encoding: chunked") + b"ff\r\n{", b" "),
    "chunks of one byte": (call("Transfer-Encoding: chunked"), b"1\r\n \r\n"),
    "sizes of chunks": (call("Transfer-Encoding: chunked"), b"0"),
    "extensions of chunks": (call("Transfer-Encoding: chunked") + b"1;", b"x"),
    "trailers": (call("Transfer-Encoding: chunked") + b"0\r\nX: ", b"x"),
    "who waits to be told": (call("Content-Length: 1000", "Expect: 100-continue"), b" "),
    "no key": (b"POST /tollgate/v1/usage HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{", b" "),
    "no key, large": (b"POST /tollgate/v1/usage HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n{", b" "),
    "nobody listens": (b"GET /tollgate/v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n", b""),
    "a request and a piece": (b"GET /tollgate/v1/health HTTP/1.1\r\nHost: x\r\n\r\nGET /", b"x"),
}


@contextlib.contextmanager
def crowd(port: int, first: bytes, then: bytes, count: int = 64) -> Iterator[None]:
    """So many clients that say the first at once, and the other again and again; who is cut off comes again."""
    over = threading.Event()

    def come() -> socket.socket:
        one = socket.create_connection(("127.0.0.1", port), timeout=5)
        one.sendall(first)
        return one

    def trickle(others: list[socket.socket]) -> None:
        while not over.wait(0.1):
            for place, one in enumerate(others):
                try:
                    one.setblocking(False)
                    one.sendall(then)
                    if then and not one.recv(65536):
                        raise ConnectionResetError
                except BlockingIOError:
                    continue
                except OSError:
                    one.close()
                    with contextlib.suppress(OSError):
                        others[place] = come()

    others = [come() for _ in range(count)]
    crowd = threading.Thread(target=trickle, args=(others,))
    crowd.start()
    try:
        yield
    finally:
        over.set()
        crowd.join()
        for one in others:
            one.close()


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that waits as long as the real one does."""
    one = Server.start(tmp_path_factory.mktemp("patient"), head_seconds=20, body_seconds=20)
    yield one
    one.process.send_signal(signal.SIGTERM)
    assert one.process.wait(20) == 0


@pytest.mark.parametrize("kind", SLOW)
def test_slow_and_silent_clients_keep_nobody_waiting(patient: Server, kind: str) -> None:
    with crowd(patient.port, *SLOW[kind]):
        for _ in range(3):
            began = time.monotonic()
            assert patient.ask() == (409, "there is none")
            assert time.monotonic() - began < 5
            time.sleep(0.3)


def test_slow_clients_that_speak_tls_keep_nobody_waiting(tmp_path: Path) -> None:
    certificate = tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
         certificate.with_suffix(".key"), "-out", certificate, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    server = Server.start(tmp_path, head_seconds=20, body_seconds=20, certificate=certificate)
    try:
        for hello in (b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"):
            with crowd(server.port, hello, b""):
                began = time.monotonic()
                assert server.ask() == (409, "there is none")
                assert server.post(b"x" * 500_000)[0] == 409
                assert server.post(b"x" * 40_000_000)[0] == 413
                assert time.monotonic() - began < 10
        context = ssl.create_default_context(cafile=certificate)
        plain = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        with context.wrap_socket(plain, server_hostname="localhost") as one:
            ask = b"GET /tollgate/v1/health HTTP/1.1\r\nHost: x\r\n"
            one.sendall((ask + b"\r\n") * 3 + ask + b"Connection: close\r\n\r\n")
            assert _all_of(one).count(b"HTTP/1.1 200 OK") == 4
    finally:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0


def test_more_clients_than_there_are_places_give_way_to_who_sends_a_request(tmp_path: Path) -> None:
    server = Server.start(tmp_path, head_seconds=20, connections=50)
    others = []
    try:
        for number in range(200):
            one = socket.create_connection(("127.0.0.1", server.port), timeout=20)
            one.sendall(b"GET /" if number % 2 else b"")
            others.append(one)
            if number % 20 == 0:
                assert server.post(b"hello")[0] == 409
        assert server.post(b"hello")[0] == 409
        assert others[0].recv(1) == b""  # the oldest gave way
        others[-1].setblocking(False)
        with pytest.raises(BlockingIOError):
            others[-1].recv(1)
    finally:
        for one in others:
            one.close()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0


def test_small_bodies_in_every_form_are_taken_in(server: Server) -> None:
    chunked = head("Transfer-Encoding: chunked")
    for sent in (
        head("Content-Length: 0005") + b"hello",
        chunked + b'2\r\nhe\r\n3;x="y"\r\nllo\r\n0\r\n\r\n',
        chunked + b"0002\r\nhe\r\n03\r\nllo\r\n000\r\nX-Y: z\r\n\r\n",
    ):
        for pieces in ([sent], [sent[place : place + 1] for place in range(len(sent))]):
            with socket.create_connection(("127.0.0.1", server.port), timeout=20) as one:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for piece in pieces:
                    one.sendall(piece)
                assert b"has 5 bytes" in _answer_of(one)


@pytest.mark.parametrize("size", [5, 300_000])
def test_who_waits_to_be_told_is_told_once(server: Server, size: int) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as one:
        one.sendall(head(f"Content-Length: {size}", "Expect: 100-continue"))
        assert one.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        one.sendall(b"x" * size)
        answer = _answer_of(one)
        assert answer.startswith(b"HTTP/1.1 409")
        assert f"has {size} bytes".encode() in answer


def test_who_does_not_hang_up_keeps_nobody_waiting(server: Server) -> None:
    others = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(8)]
    try:
        for one in others:
            one.sendall(b"GET /tollgate/v1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert one.recv(100).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", server.port)) as another:
            another.sendall(b"GET /tollgate/v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert another.recv(100).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - began < 4  # two seconds for each of them would be sixteen
    finally:
        for one in others:
            one.close()


def test_more_uploads_than_there_are_places_are_told_when_to_come_back(server: Server) -> None:
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
    try:
        for one in slow:
            one.sendall(head("Content-Length: 900000") + b"x")
        wait_until(lambda: len(list(server.folder.glob("uploads/*"))) == 2, 20, "no uploads under way")
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request("POST", PATH, b"hello", HEADERS)
        answer = connection.getresponse()
        told = json.loads(answer.read())
        assert (answer.status, told["status"]) == (503, "BillingEndpointBusy")
        assert answer.headers["Retry-After"] == "30"
        connection.request("GET", "/tollgate/v1/health")
        assert connection.getresponse().status == 200
    finally:
        for one in slow:
            one.close()


def test_a_client_that_hangs_up_in_the_middle_leaves_nothing(server: Server) -> None:
    def under_way() -> list[Path]:
        return list((server.folder / "uploads").iterdir())

    wait_until(lambda: server.post(b"hello")[0] == 409, 20, "places are still taken")
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port)) as one:
            one.sendall(head("Content-Length: 900000") + b"x" * 300_000)
            wait_until(under_way, 20, "no upload has begun")
        wait_until(lambda: not under_way(), 20, "uploads are left")
    wait_until(lambda: server.post(b"hello")[0] == 409, 20, "places are left taken")


# ---- what is no HTTP ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"BLUB\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 10000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 10000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n", b"400"),
    ],
)
def test_what_is_no_http_is_refused_in_json_and_repeated_nowhere(server: Server, sent: bytes, status: bytes) -> None:
    answer = server.raw(sent)
    assert answer.split(b" ", 2)[1] == status
    told = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert told["status"] == "Unknown"
    assert told["nextStep"]
    assert "xxxx" not in answer.decode() + server.log


def test_the_log_is_json_and_holds_neither_keys_nor_paths_nor_addresses(server: Server) -> None:
    server.post(b"hello", **{"Ocp-Apim-Subscription-Key": "sesame-open"})
    server.post(b"hello", path="/tollgate/v1/secret-path?key=sesame")
    lines = [json.loads(line) for line in server.log.splitlines()]
    assert any(line["event"] == "request" and line["status"] == 401 and line["word"] == "Invalid" for line in lines)
    assert any(line["route"] == "(none)" for line in lines)
    assert not any(word in server.log for word in ("sesame", "secret-path", "127.0.0.1", "Traceback"))


# ---- life -----------------------------------------------------------------------------------------------------------


def test_sigterm_lets_what_is_being_answered_be_answered(tmp_path: Path) -> None:
    server = Server.start(tmp_path)
    answers: list[tuple[int, dict[str, Any]]] = []
    caller = threading.Thread(target=lambda: answers.append(server.post(b"wait for me")))
    caller.start()
    wait_until(lambda: list((tmp_path / "uploads").glob("upload-*/bundle.tar.gz")), 20, "no upload")
    time.sleep(0.3)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0
    caller.join(10)
    assert [status for status, _ in answers] == [409]
    assert server.process.stdout is not None
    assert server.process.stdout.read() == "closed\n"
    assert list((tmp_path / "uploads").iterdir()) == []


def test_a_thread_that_computes_gives_way_soon(server: Server) -> None:
    """Python's own turn of 5 ms, some twenty times a report, let reports wait for a second; see decision 31."""
    assert server.post(b"turn")[1]["message"] == "a turn takes 100 us"


def test_ctrl_c_ends_it_too(tmp_path: Path) -> None:
    server = Server.start(tmp_path)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(20) == 0


def test_a_worker_that_is_killed_is_started_again(tmp_path: Path) -> None:
    server = Server.start(tmp_path)
    try:
        (worker,) = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        os.kill(int(worker), signal.SIGKILL)
        wait_until(lambda: "started again" in server.log, 20, "no other worker")
        assert server.post(b"hello")[0] == 409
    finally:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0


# ---- the address ----------------------------------------------------------------------------------------------------


def test_a_taken_port_is_told_at_once_and_by_name() -> None:
    with take_address("127.0.0.1:0") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UnknownStateError, match=rf"cannot listen on 127\.0\.0\.1:{port}: Address already in use"
        ) as told:
            take_address(f"127.0.0.1:{port}")
    assert f"sport = :{port}" in told.value.next_step
    assert "--listen" in told.value.next_step


@pytest.mark.parametrize(
    ("text", "cause", "step"),
    [
        ("8400", "no address", "HOST:PORT"),
        ("127.0.0.1:70000", "no address", "HOST:PORT"),
        ("http://x:80", "no address", "HOST:PORT"),
        ("::1:8400", "no address", "[::]:8400"),
        ("192.0.2.1:8400", "Cannot assign", "ip address"),
        ("nowhere.invalid:8400", "cannot listen", "--listen"),
    ],
)
def test_an_address_that_cannot_be_listened_on(text: str, cause: str, step: str) -> None:
    with pytest.raises(UnknownStateError, match=cause) as told:
        take_address(text)
    assert step in told.value.next_step


def test_addresses_of_ip_version_6() -> None:
    with take_address("[::1]:0") as one:
        assert one.family == socket.AF_INET6
    with take_address("[::]:0") as both:
        socket.create_connection(("127.0.0.1", both.getsockname()[1]), timeout=5).close()
