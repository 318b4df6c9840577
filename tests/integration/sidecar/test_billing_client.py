"""Calls to the billing endpoint: bounded whatever the other side does, over TLS that is believed for a reason."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sidecar.billing_client import MAX_ANSWER_BYTES, BillingClient
from sidecar.errors import BillingError
from sidecar.settings import Proxy
from tests.e2e.site import wait_until
from tests.fakes.billing import FakeBilling

KEY = "0123456789abcdef0123456789abcdef"
REPORT = "5b1e5f0e-2c77-4c0e-8f7d-6a3f0f7f9b10"
TAKEN = b'{"status":"Valid","id":"' + REPORT.encode() + b'","billed":[],"repeated":true,"size":3}'


@pytest.fixture
def server() -> Iterator[FakeBilling]:
    one = FakeBilling()
    yield one
    one.close()


def refused(act: Callable[[], object]) -> BillingError:
    with pytest.raises(BillingError) as caught:
        act()
    assert KEY not in str(caught.value) + caught.value.next_step
    assert caught.value.next_step
    return caught.value


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (400, "Unknown"),
        (401, "Invalid"),
        (402, "OutOfQuota"),
        (403, "ContainerUseUnauthorized"),
        (404, "Unknown"),
        (407, "Unknown"),
        (409, "Mismatch"),
        (429, "BillingEndpointBusy"),
        (503, "BillingEndpointBusy"),
        (500, "Unknown"),
        (301, "Unknown"),
        (308, "Unknown"),
        (799, "Unknown"),
    ],
)
def test_each_status_has_its_word(server: FakeBilling, status: int, word: str) -> None:
    server.answer = (status, b"", {"Location": f"{server.url}/elsewhere"})
    problem = refused(lambda: BillingClient(server.url, KEY).send_usage(b"{}", REPORT))
    assert (problem.status, problem.http_status) == (word, status)
    assert len(server.requests) == 1


def test_the_endpoints_own_word_counts_if_it_is_one(server: FakeBilling) -> None:
    client = BillingClient(server.url, KEY)
    server.answer = (409, b'{"status":"OutOfQuota","message":"all is used"}', {})
    problem = refused(lambda: client.send_usage(b"{}", REPORT))
    assert problem.status == "OutOfQuota"
    assert "all is used" in str(problem)
    for word in ("Valid", "<b>", "METERING_CUTOFF"):
        server.answer = (409, f'{{"status":"{word}","message":"told"}}'.encode(), {})
        assert refused(lambda: client.send_usage(b"{}", REPORT)).status == "Mismatch"


# ---- what an administrator is told ----------------------------------------------------------------------------------


def test_the_endpoints_own_next_step_goes_before_ours(server: FakeBilling) -> None:
    told = {
        "status": "Mismatch",
        "code": "authority_mismatch",
        "message": "of another customer",
        "nextStep": "Ask Anna.",
    }
    server.answer = (409, json.dumps(told).encode(), {})
    problem = refused(lambda: BillingClient(server.url, KEY).send_usage(b"{}", REPORT))
    assert (problem.next_step, problem.refusal) == ("Ask Anna", "authority_mismatch")
    assert "of another customer" in str(problem)


@pytest.mark.parametrize("told", ["", "a\nb", "\x1b[31mred", 7, None, ["x"], "x" * 100_000])
def test_a_next_step_that_is_none_is_replaced_or_cut(server: FakeBilling, told: object) -> None:
    body = {"status": "Invalid", "code": told, "message": told, "nextStep": told}
    server.answer = (401, json.dumps(body).encode(), {})
    problem = refused(lambda: BillingClient(server.url, KEY).send_usage(b"{}", REPORT))
    assert problem.status == "Invalid"
    assert (problem.next_step + str(problem) + problem.refusal).isprintable()
    assert len(problem.next_step) <= 500
    assert "ApiKey" in problem.next_step or problem.next_step == "x" * 500


def test_the_proof_of_a_fork_comes_along(server: FakeBilling) -> None:
    told = {"status": "Mismatch", "code": "ledger_fork", "message": "two", "nextStep": "Call.", "proof": "{}\n"}
    server.answer = (409, json.dumps(told).encode(), {})
    problem = refused(lambda: BillingClient(server.url, KEY).send_usage(b"{}", REPORT))
    assert (problem.refusal, problem.proof) == ("ledger_fork", b"{}\n")
    server.answer = (409, b'{"status":"Mismatch","proof":["x"]}', {})
    assert refused(lambda: BillingClient(server.url, KEY).send_usage(b"{}", REPORT)).proof is None


@pytest.mark.parametrize(
    ("status", "step"),
    [
        (302, "Billing"),
        (400, "vendor"),
        (401, "ApiKey"),
        (402, "commitment"),
        (403, "approve"),
        (404, "path in Billing"),
        (405, "path in Billing"),
        (409, "sidecar usage export"),
        (429, "by itself"),
        (500, "by itself"),
        (502, "by itself"),
        (503, "by itself"),
        (504, "by itself"),
    ],
)
def test_a_refusal_without_a_word_of_its_own_has_a_next_step_that_fits(
    server: FakeBilling, status: int, step: str
) -> None:
    server.answer = (status, b"<html>no</html>", {"Content-Type": "text/html"})
    problem = refused(lambda: BillingClient(server.url, KEY).send_usage(b"{}", REPORT))
    assert step in problem.next_step
    assert f"HTTP {status}" in str(problem)


def test_a_redirect_is_told_with_where_to_and_not_followed(server: FakeBilling) -> None:
    server.answer = (308, b"", {"Location": "https://user:secret@portal.example/login?x=1"})
    problem = refused(lambda: BillingClient(server.url, KEY).send_usage(b"{}", REPORT))
    assert "https://portal.example" in str(problem)
    assert "secret" not in str(problem)
    assert len(server.requests) == 1


def test_a_name_that_does_not_exist() -> None:
    problem = refused(lambda: BillingClient("http://nowhere.invalid", KEY).send_usage(b"{}", REPORT))
    assert problem.status == "CouldNotConnect"
    assert "name server" in problem.next_step


def test_a_port_that_nobody_has() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    problem = refused(lambda: BillingClient(f"http://127.0.0.1:{port}", KEY).send_usage(b"{}", REPORT))
    assert "port" in problem.next_step


def test_no_answer_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        problem = refused(lambda: BillingClient(url, KEY, seconds=0.3).send_usage(b"{}", REPORT))
    assert "firewall" in problem.next_step


def test_https_where_only_http_is_spoken(server: FakeBilling) -> None:
    url = server.url.replace("http:", "https:")
    problem = refused(lambda: BillingClient(url, KEY).send_usage(b"{}", REPORT))
    assert problem.status == "CouldNotConnect"
    assert "https" in problem.next_step


def test_something_else_listens() -> None:
    with a_server(b"220 mail.example ESMTP\r\n") as url:
        problem = refused(lambda: BillingClient(url, KEY).send_usage(b"{}", REPORT))
    assert problem.status == "CouldNotConnect"
    assert "port" in problem.next_step


@pytest.mark.parametrize("status", [407, 403, 502])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses_is_named_as_such(server: FakeBilling, status: int, scheme: str) -> None:
    with a_server(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status) as url:
        proxy = Proxy(host="127.0.0.1", port=int(url.rpartition(":")[2]), credentials="user:secret")
        problem = refused(lambda: BillingClient(f"{scheme}://billing.example", KEY, proxy).send_usage(b"{}", REPORT))
    assert "secret" not in str(problem) + problem.next_step
    if status == 407:
        assert (problem.status, "HTTP_PROXY_CREDS" in problem.next_step) == ("CouldNotConnect", True)
    elif scheme == "https":
        assert (problem.status, "HTTP_PROXY" in problem.next_step) == ("CouldNotConnect", True)
    assert f"through the proxy 127.0.0.1:{proxy.port}" in str(problem)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 401 No\r\nContent-Length: 2147483648\r\n\r\n"]
)
def test_an_answer_of_two_gigabytes_costs_little(answer: bytes) -> None:
    with a_server(answer, then=bytes(65536), times=2**31 // 65536) as url:
        client = BillingClient(url, KEY)
        before, began = memory(), time.monotonic()
        problem = refused(lambda: client.send_usage(b"{}", REPORT))
        client.close()
    assert problem.status in {"Unknown", "Invalid"}
    assert time.monotonic() - began < 10
    assert memory() - before < 32 * 2**20


@pytest.mark.parametrize("piece", [b"HTTP/1.1 100 Continue\r\n\r\n", b"X-A: b\r\n"])
def test_headers_that_never_end(piece: bytes) -> None:
    with a_server(b"HTTP/1.1 100 Continue\r\n\r\n", then=piece, times=10**9) as url:
        began = time.monotonic()
        problem = refused(lambda: BillingClient(url, KEY, seconds=1).send_usage(b"{}", REPORT))
        assert problem.status == "CouldNotConnect"
        assert time.monotonic() - began < 8
        wait_until(lambda: not callers(), 10, "the call goes on")


def test_a_handshake_that_comes_a_byte_at_a_time_is_cut() -> None:
    hello = b"\x16\x03\x03\x40\x00"
    with a_server(hello, then=b"\x02", times=10**6, pause=0.05, listens=False) as url:
        client = BillingClient(url.replace("http:", "https:"), KEY, seconds=0.5)
        problem = refused(lambda: client.send_usage(b"{}", REPORT))
        assert problem.status == "CouldNotConnect"
        wait_until(lambda: not callers(), 10, "the handshake goes on")


def callers() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "billing"]


def memory() -> int:
    return psutil.Process().memory_info().rss


@contextlib.contextmanager
def a_server(
    first: bytes, *, then: bytes = b"", times: int = 0, pause: float = 0.0, listens: bool = True
) -> Iterator[str]:
    """One that says these bytes to whoever connects, then others again and again; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        if listens:
                            connection.recv(65536)
                        connection.sendall(first)
                        for _ in range(times):
                            connection.sendall(then)
                            time.sleep(pause)

        threading.Thread(target=speak, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        ("90", 90),
        ("0", 0),
        ("99999999999999", 86400),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("Wed, 21 Oct 2026 07:29:30 GMT", 90),
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0),
    ],
)
def test_retry_after_in_both_its_forms(server: FakeBilling, retry_after: str, seconds: int | None) -> None:
    server.answer = (503, b"", {"Retry-After": retry_after, "Date": "Wed, 21 Oct 2026 07:28:00 GMT"})
    server.sends_date = False
    assert refused(lambda: BillingClient(server.url, KEY).send_usage(b"{}", REPORT)).retry_after == seconds


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"null",
        b"[]",
        b'"Valid"',
        b"{}",
        b'{"status":"Valid"}',
        b'{"status":"Invalid","id":"%b"}' % REPORT.encode(),
        b'{"status":"Valid","id":"00000000-0000-4000-8000-000000000000"}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_only_the_word_for_this_report_counts_as_delivered(server: FakeBilling, answer: bytes) -> None:
    server.answer = (200, answer, {})
    problem = refused(lambda: BillingClient(server.url, KEY).send_usage(b"{}", REPORT))
    assert problem.status == "Unknown"


def test_a_report_that_was_taken(server: FakeBilling) -> None:
    server.answer = (200, TAKEN, {})
    assert BillingClient(f"{server.url}/vision/", KEY).send_usage(b'{"a":1}', REPORT).repeated
    ((path, headers, body),) = server.requests
    assert (path, body) == ("/vision/tollgate/v1/usage", {"a": 1})
    assert headers["Ocp-Apim-Subscription-Key"] == KEY


def test_an_answer_at_the_limit_and_above_it(server: FakeBilling) -> None:
    client = BillingClient(server.url, KEY)
    server.answer = (200, bytes(MAX_ANSWER_BYTES), {})
    assert len(client.fetch_license("x", None)) == MAX_ANSWER_BYTES
    server.answer = (200, bytes(MAX_ANSWER_BYTES + 1), {})
    assert "more than" in str(refused(lambda: client.fetch_license("x", None)))
    server.answer = (200, b"small", {})
    assert client.fetch_license("x", None) == b"small"


def test_a_name_that_the_resolver_does_not_come_back_with(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(*_: Any, **__: Any) -> list[Any]:
        released.wait(20)
        raise socket.gaierror("late")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    began = time.monotonic()
    problem = refused(lambda: BillingClient("http://billing.example", KEY, seconds=0.3).send_usage(b"{}", REPORT))
    released.set()
    assert time.monotonic() - began < 5
    assert (problem.status, "no answer within 0.3 s" in str(problem)) == ("CouldNotConnect", True)


def test_a_call_that_is_stopped_ends_at_once_and_no_other_begins() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts, and says nothing
        client = BillingClient(f"http://127.0.0.1:{listener.getsockname()[1]}", KEY, seconds=30)
        threading.Timer(0.3, client.stop).start()
        began = time.monotonic()
        refused(lambda: client.send_usage(b"{}", REPORT))
        refused(lambda: client.send_usage(b"{}", REPORT))
        assert time.monotonic() - began < 5


def test_an_endpoint_that_nobody_listens_at() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    problem = refused(lambda: BillingClient(f"http://user:secret@127.0.0.1:{port}/x?y", KEY).send_usage(b"{}", REPORT))
    assert problem.status == "CouldNotConnect"
    assert f"http://127.0.0.1:{port} cannot be reached" in str(problem)
    assert "secret" not in str(problem)


# ---- TLS -------------------------------------------------------------------------------------------------------------


class Authority:
    """A certificate authority, and a server's certificate by it."""

    def __init__(self, folder: Path) -> None:
        self.file, self.server = folder / "ca.pem", folder / "server.pem"
        key, at = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])
        built = (
            x509.CertificateBuilder()
            .issuer_name(name)
            .not_valid_before(at - timedelta(hours=1))
            .not_valid_after(at + timedelta(hours=1))
        )
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        root = (
            built.subject_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        own = ec.generate_private_key(ec.SECP256R1())
        leaf = (
            built.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "billing")]))
            .public_key(own.public_key())
            .serial_number(2)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        self.file.write_bytes(root.public_bytes(pem))
        private = own.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self.server.write_bytes(leaf.public_bytes(pem) + private)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def secure(server: FakeBilling, authority: Authority) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.server)
    server.secure(context)
    server.answer = (200, TAKEN, {})
    return server.url.replace("http:", "https:")


def test_a_certificate_by_the_given_authority_is_believed(secure: str, authority: Authority) -> None:
    client = BillingClient(secure, KEY, ca_file=authority.file)
    assert client.send_usage(b"{}", REPORT).repeated
    assert client.send_usage(b"{}", REPORT).repeated


def test_a_certificate_by_nobody_known_is_not_and_the_key_stays_here(secure: str, server: FakeBilling) -> None:
    problem = refused(lambda: BillingClient(secure, KEY).send_usage(b"{}", REPORT))
    assert problem.status == "CouldNotConnect"
    assert "certificate" in str(problem).lower()
    assert "Sidecar:BillingCaFile" in problem.next_step
    assert server.requests == []


def test_the_certificate_must_be_of_the_name_that_was_called(secure: str, authority: Authority) -> None:
    client = BillingClient(secure.replace("127.0.0.1", "localhost"), KEY, ca_file=authority.file)
    assert "certificate" in str(refused(lambda: client.send_usage(b"{}", REPORT))).lower()


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_file_of_certificates_that_is_none_is_told_and_taken_up_when_it_is_mended(
    secure: str, authority: Authority, content: bytes | None
) -> None:
    good = authority.file.read_bytes()
    authority.file.unlink()
    if content is not None:
        authority.file.write_bytes(content)
    client = BillingClient(secure, KEY, ca_file=authority.file)
    problem = refused(lambda: client.send_usage(b"{}", REPORT))
    assert f"Sidecar:BillingCaFile {authority.file}" in str(problem)
    authority.file.write_bytes(good)
    assert client.send_usage(b"{}", REPORT).repeated
