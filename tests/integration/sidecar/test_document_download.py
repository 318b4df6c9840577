"""Documents by URL against real servers, honest and not, and names that lead where they should not."""

from __future__ import annotations

import gzip
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sidecar.addresses import Address, DocumentSources
from sidecar.document_download import DocumentDownload
from sidecar.errors import DocumentRefusedError

LIMIT = 100_000
Answer = Callable[[socket.socket], None]


class RawServer:
    """Answers each connection as the test says, byte by byte."""

    def __init__(self, answer: Answer, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self._answer = answer
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.closing = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(client,), daemon=True).start()

    def _one(self, client: socket.socket) -> None:
        try:
            client.settimeout(10)
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
            request = b""
            while b"\r\n\r\n" not in request:
                request += client.recv(4096)
            self.requests.append(request)
            self._answer(client)
        except OSError:
            pass
        finally:
            client.close()

    def close(self) -> None:
        self.closing.set()
        self._listener.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., RawServer]]:
    made: list[RawServer] = []

    def make(answer: Answer | bytes, context: ssl.SSLContext | None = None) -> RawServer:
        server = RawServer((lambda client: client.sendall(answer)) if isinstance(answer, bytes) else answer, context)
        made.append(server)
        return server

    yield make
    for server in made:
        server.close()


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


def sized(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return answer(body, f"Content-Length: {len(body)}", *headers, status=status)


def named(*addresses: str) -> Callable[[str, int], list[Address]]:
    """A name service that gives this answer to everything, and remembers that it was asked."""

    def resolve(host: str, _port: int) -> list[Address]:
        resolve.asked.append(host)  # type: ignore[attr-defined]
        return [ip_address(one) for one in addresses]

    resolve.asked = []  # type: ignore[attr-defined]
    return resolve


def fetch(url: str, listed: str = "", *, seconds: float = 10, resolve: object = None) -> bytes:
    place = url.partition("/x")[0]
    download = DocumentDownload(
        DocumentSources.from_text(listed or place),
        seconds=seconds,
        resolve=resolve,  # type: ignore[arg-type]
    )
    return b"".join(download.fetch(url, max_bytes=LIMIT))


def refused(reason: str, url: str, listed: str = "", **options: object) -> None:
    with pytest.raises(DocumentRefusedError) as caught:
        fetch(url, listed, **options)  # type: ignore[arg-type]
    assert caught.value.reason == reason


def test_a_document_is_fetched(serve: Callable[..., RawServer]) -> None:
    server = serve(sized(b"document"))
    assert fetch(f"http://127.0.0.1:{server.port}/x%20y/%C3%A4.png?sig=a%2Fb&c#part") == b"document"
    (request,) = server.requests
    assert request.startswith(b"GET /x%20y/%C3%A4.png?sig=a%2Fb&c HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{server.port}\r\n".encode() in request
    assert b"Accept-Encoding: identity\r\n" in request
    assert b"authorization" not in request.lower()
    assert b"cookie" not in request.lower()


@pytest.mark.parametrize(
    "body",
    [
        answer(b"5\r\nhello\r\n3;ext=1\r\n wo\r\n3\r\nrld\r\n0\r\nTrailer: x\r\n\r\n", "Transfer-Encoding: chunked"),
        answer(b"hello world"),
        sized(b"hello world", "Content-Encoding: Identity"),
        b"HTTP/1.0 200\r\n\r\nhello world",
        b"HTTP/1.1 100 Continue\r\n\r\n" + sized(b"hello world"),
        sized(b"hello world") + b"and what nobody asked for",
    ],
)
def test_ways_to_send_a_document(serve: Callable[..., RawServer], body: bytes) -> None:
    assert fetch(f"http://127.0.0.1:{serve(body).port}/x") == b"hello world"


@pytest.mark.parametrize(
    "body",
    [
        sized(b"", "Location: http://127.0.0.1:1/", status="302 Found"),
        sized(b"", "Location: /x2", status="301 Moved Permanently"),
        sized(b"", "Location: https://127.0.0.1/", status="307 Temporary Redirect"),
        sized(b"", status="304 Not Modified"),
        sized(b"no", status="404 Not Found"),
        sized(b"part", status="206 Partial Content"),
        sized(b"no", status="500 Oops"),
        sized(gzip.compress(bytes(10_000_000)), "Content-Encoding: gzip"),
        sized(b"x", "Content-Encoding: br"),
        answer(b"short", "Content-Length: 50"),
        answer(b"5\r\nhel", "Transfer-Encoding: chunked"),
        answer(b"zz\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
        answer(b"5\r\nhello\r\n", "Transfer-Encoding: chunked"),
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000 + b"\r\n\r\n",
    ],
)
def test_answers_that_bring_no_document(serve: Callable[..., RawServer], body: bytes) -> None:
    server = serve(body)
    refused("FailedToDownloadImage", f"http://127.0.0.1:{server.port}/x")
    assert len(server.requests) == 1


def test_redirects_are_not_followed_even_to_listed_places(serve: Callable[..., RawServer]) -> None:
    target = serve(sized(b"secret"))
    first = serve(sized(b"", f"Location: http://127.0.0.1:{target.port}/", status="302 Found"))
    listed = f"http://127.0.0.1:{first.port} http://127.0.0.1:{target.port}"
    refused("FailedToDownloadImage", f"http://127.0.0.1:{first.port}/x", listed)
    assert target.requests == []


def test_a_large_document_is_refused_before_and_while_it_comes(serve: Callable[..., RawServer]) -> None:
    announced = serve(answer(b"x", f"Content-Length: {LIMIT + 1}"))
    refused("InvalidImageSize", f"http://127.0.0.1:{announced.port}/x")

    sent = 0

    def endless(client: socket.socket) -> None:
        nonlocal sent
        client.sendall(answer(b""))
        while not server.closing.is_set():
            sent += client.send(bytes(10_000))

    server = serve(endless)
    refused("InvalidImageSize", f"http://127.0.0.1:{server.port}/x")
    assert fetch(f"http://127.0.0.1:{serve(sized(bytes(LIMIT))).port}/x") == bytes(LIMIT)
    assert sent < 100 * LIMIT


def test_an_empty_document_is_refused(serve: Callable[..., RawServer]) -> None:
    refused("InvalidImageSize", f"http://127.0.0.1:{serve(sized(b'')).port}/x")


@pytest.mark.parametrize("where", ["before", "status", "headers", "body", "chunks"])
def test_slow_servers_are_cut_off(serve: Callable[..., RawServer], where: str) -> None:
    """A byte now and then keeps every time-out of the socket from firing; the whole is bounded all the same."""

    def slow(client: socket.socket) -> None:
        begins = {
            "before": b"",
            "status": b"HTTP/1.1 2",
            "headers": b"HTTP/1.1 200 OK\r\nA: ",
            "body": answer(b"", "Content-Length: 1000"),
            "chunks": answer(b"", "Transfer-Encoding: chunked"),
        }
        client.sendall(begins[where])
        while where != "before" and not server.closing.wait(0.02):
            client.sendall(b"1\r\nx\r\n" if where == "chunks" else b"1")
        server.closing.wait(10)

    server = serve(slow)
    started = time.monotonic()
    refused("FailedToDownloadImage", f"http://127.0.0.1:{server.port}/x", seconds=0.4)
    assert time.monotonic() - started < 8


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "::ffff:169.254.169.254", "10.0.0.1", "100.64.0.1",
     "0.0.0.0", "224.0.0.1", "fe80::1", "fd00::1", "64:ff9b::7f00:1"],
)  # fmt: skip
def test_a_listed_name_may_not_lead_inside(serve: Callable[..., RawServer], address: str) -> None:
    server = serve(sized(b"secret"))
    refused(
        "FailedToDownloadImage",
        f"http://files.example:{server.port}/x",
        "http://files.example:" + str(server.port) + " 192.168.0.0/16",
        resolve=named(address),
    )
    assert server.requests == []


def test_a_listed_range_may_be_led_to(serve: Callable[..., RawServer]) -> None:
    server = serve(sized(b"document"))
    listed = f"http://files.example:{server.port} 127.0.0.0/8"
    # The mapped form is the same address; what is not listed is passed over.
    for found in (["127.0.0.1"], ["::ffff:127.0.0.1"], ["10.0.0.1", "127.0.0.1"]):
        assert fetch(f"http://files.example:{server.port}/x", listed, resolve=named(*found)) == b"document"
    assert f"Host: files.example:{server.port}\r\n".encode() in server.requests[0]


def test_a_name_is_asked_for_once_and_that_answer_connected_to(serve: Callable[..., RawServer]) -> None:
    """A name whose answer changes between the look and the connection gains nothing."""
    server = serve(sized(b"secret"))
    answers = iter([["127.0.0.2"], ["127.0.0.1"]])
    asked: list[str] = []

    def rebinding(host: str, _port: int) -> list[Address]:
        asked.append(host)
        return [IPv4Address(one) for one in next(answers)]

    listed = f"http://files.example:{server.port} 127.0.0.2/32"
    refused("FailedToDownloadImage", f"http://files.example:{server.port}/x", listed, resolve=rebinding)
    assert asked == ["files.example"]
    assert server.requests == []


def test_what_is_not_listed_is_not_even_resolved() -> None:
    resolve = named("8.8.8.8")
    for url in ("http://other.example/x", "https://files.example/x", "http://u:p@files.example/x", "http://127.1/x"):
        refused("FailedToDownloadImage", url, "http://files.example", resolve=resolve)
    refused("InvalidImageUrl", "ftp://files.example/x", "http://files.example", resolve=resolve)
    with pytest.raises(DocumentRefusedError, match="send the document itself"):
        DocumentDownload(DocumentSources(), resolve=resolve).fetch("http://files.example/x", max_bytes=1)
    assert resolve.asked == []  # type: ignore[attr-defined]


def test_a_real_name_that_leads_to_this_host(serve: Callable[..., RawServer]) -> None:
    server = serve(sized(b"document"))
    url = f"http://localhost:{server.port}/x"
    refused("FailedToDownloadImage", url)
    assert server.requests == []
    assert fetch(url, f"http://localhost:{server.port} 127.0.0.0/8 ::1") == b"document"


def test_a_name_service_that_does_not_answer_is_not_waited_for() -> None:
    over = threading.Event()

    def stuck(_host: str, _port: int) -> list[Address]:
        over.wait(20)
        return []

    started = time.monotonic()
    refused("FailedToDownloadImage", "http://files.example/x", seconds=0.3, resolve=stuck)
    assert time.monotonic() - started < 8
    over.set()

    def unknown(_host: str, _port: int) -> list[Address]:
        raise socket.gaierror(-2, "Name or service not known")

    refused("FailedToDownloadImage", "http://files.example/x", resolve=unknown)
    refused("FailedToDownloadImage", "http://files.example/x", resolve=named())


def test_proxies_of_the_environment_are_not_used(
    serve: Callable[..., RawServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, server = serve(sized(b"from the proxy")), serve(sized(b"document"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    assert fetch(f"http://127.0.0.1:{server.port}/x") == b"document"
    assert proxy.requests == []


def test_nothing_listens_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    refused("FailedToDownloadImage", f"http://127.0.0.1:{port}/x")


# ---- https ----------------------------------------------------------------------------------------------------------


def a_certificate(folder: Path, name: str) -> ssl.SSLContext:
    """A self-signed certificate for a name, written to `folder/NAME.pem`, and a server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, folder / f"{name}.key")
    return context


def test_https_is_verified_by_name(
    serve: Callable[..., RawServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = a_certificate(tmp_path, "files.example")
    named_in_hello: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: named_in_hello.append(name)
    server = serve(sized(b"document"), context)
    url = f"https://files.example:{server.port}/x"
    listed = f"https://files.example:{server.port} https://other.example:{server.port} 127.0.0.0/8"
    here = named("127.0.0.1")
    refused("FailedToDownloadImage", url, listed, resolve=here)  # nobody vouches for it
    monkeypatch.setitem(os.environ, "SSL_CERT_FILE", str(tmp_path / "files.example.pem"))
    assert fetch(url, listed, resolve=here) == b"document"
    assert named_in_hello[-1] == "files.example"
    refused("FailedToDownloadImage", url.replace("files", "other"), listed, resolve=here)
    assert len(server.requests) == 1


def test_https_that_stops_talking_is_cut_off(serve: Callable[..., RawServer]) -> None:
    server = serve(lambda _client: server.closing.wait(10) and None)
    started = time.monotonic()
    silent = socket.create_server(("127.0.0.1", 0))
    url = f"https://127.0.0.1:{silent.getsockname()[1]}/x"
    refused("FailedToDownloadImage", url, seconds=0.3)
    assert time.monotonic() - started < 8
    silent.close()


def test_https_cut_short_is_no_document(
    serve: Callable[..., RawServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a length the end of the connection tells, and over TLS an end that was not said is a cut."""
    context = a_certificate(tmp_path, "files.example")
    monkeypatch.setitem(os.environ, "SSL_CERT_FILE", str(tmp_path / "files.example.pem"))

    def cut(client: socket.socket) -> None:
        client.sendall(answer(b"half a document"))
        socket.socket.shutdown(client, socket.SHUT_RDWR)

    server = serve(cut, context)
    refused(
        "FailedToDownloadImage",
        f"https://files.example:{server.port}/x",
        f"https://files.example:{server.port} 127.0.0.0/8",
        resolve=named("127.0.0.1"),
    )
