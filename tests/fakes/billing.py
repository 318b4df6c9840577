"""A billing endpoint on a real socket: answers as a test tells it, well or badly, and keeps what it was asked.

`FakeBilling` gives one answer to everything. `FakeEndpoint` is a whole vendor in memory: it introduces devices, issues
licences, verifies reports, counts each entry of a log once, acknowledges; and may be down, slow or rude meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from licenses import envelope as dsse
from licenses import issue
from licenses.ack import acknowledge
from licenses.device_key import device_id_of
from licenses.enrolment import open_enrolment
from licenses.keys import VerifyingKey
from licenses.model import License, LicenseId
from licenses.strict_json import canonical
from licenses.usage_report import UsageReport, UsageRequest, open_report
from tests.fakes.licences import FakeVendor, a_license, a_vendor

Answer = tuple[int, bytes, dict[str, str]]


class FakeBilling:
    """One endpoint.

    Attributes:
        answer: Status, body and headers of each answer.
        requests: Path, headers and body of each call.
        sends_date: Whether answers tell the present time.
        url: Its address.
    """

    def __init__(self, port: int = 0) -> None:
        self.answer: Answer = (200, b"", {})
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.sends_date = True
        self._port = port
        self._server: Any = None
        self.listen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def listen(self) -> None:
        """Be there (again), at the same port."""
        if self._server is not None:
            return
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            timeout = 30

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                outer.requests.append((self.path, dict(self.headers), json.loads(body) if body else None))
                outer.reply(self, body)

            do_GET = do_POST  # noqa: N815 - the name that the base class looks for

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        class Server(ThreadingHTTPServer):
            allow_reuse_address = True
            daemon_threads = True

            def __init__(self, *arguments: Any) -> None:
                self.connections: set[socket.socket] = set()
                super().__init__(*arguments)

            def process_request(self, request: Any, client_address: Any) -> None:
                self.connections.add(request)
                super().process_request(request, client_address)

            def handle_error(self, request: Any, client_address: Any) -> None:
                if not isinstance(sys.exception(), OSError):  # whoever hung up is the test's own doing
                    super().handle_error(request, client_address)

        self._server = Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def secure(self, context: ssl.SSLContext) -> None:
        """Speak TLS from now on."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def leave(self) -> None:
        """Be gone, as a process that was killed: nobody listens, and open connections are cut."""
        if self._server is None:
            return
        self._server.shutdown()
        self._server.server_close()
        for one in self._server.connections:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._server = None

    def close(self) -> None:
        self.leave()

    def reply(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        """Answer one request."""
        send(handler, self.answer, date=self.sends_date)


class Manner(StrEnum):
    """How an endpoint behaves."""

    WELL = "well"
    DROPS_ANSWER = "takes the report and hangs up"
    DRIPS = "answers a byte at a time"
    SILENT = "never answers"
    NO_JSON = "answers with a page"
    OTHER_JSON = "answers with other JSON"
    OTHER_ID = "answers for another report"
    HUGE = "answers without end"
    REDIRECTS = "sends elsewhere"
    NO_HTTP = "speaks something else"
    CUT_SHORT = "ends before its own length"


class FakeEndpoint(FakeBilling):
    """A vendor in memory behind the endpoint.

    Attributes:
        key: The API key that counts.
        vendor: Its keys.
        terms: Makes the licence of a device, from its public key.
        manner: How it behaves.
        refusal: Status, word and headers with which it refuses everything; None when it does not.
        reports: What it has taken, by origin and first entry.
        seconds: How long an answer takes.
        acknowledges: Whether it gives acknowledgements.
    """

    def __init__(
        self,
        *,
        vendor: FakeVendor | None = None,
        terms: Callable[[bytes], License] | None = None,
        key: str = "0123456789abcdef0123456789abcdef",
        port: int = 0,
    ) -> None:
        self.key = key
        self.vendor = vendor or a_vendor()
        self.terms = terms or (lambda public: a_license(device_pubkey=public))
        self.manner = Manner.WELL
        self.refusal: tuple[int, str, dict[str, str]] | None = None
        self.refusal_members: dict[str, object] = {}
        self.reports: dict[tuple[str, int], UsageReport] = {}
        self.repeated = 0
        self.seconds = 0.0
        self.acknowledges = True
        self.on_usage: Callable[[], None] = lambda: None
        self._devices: dict[str, VerifyingKey] = {}
        self._lock = threading.Lock()
        super().__init__(port)

    # ---- what it knows ----------------------------------------------------------------------------------------------

    def pages(self, meter: str) -> int:
        """Units that it has counted."""
        return sum(report.quantity(meter) for report in self.reports.values())

    def gaps(self) -> list[tuple[str, int]]:
        """First entries that no report before leads up to."""
        ends = {(report.origin, report.size) for report in self.reports.values()}
        return [start for start in sorted(self.reports) if start[1] and start not in ends]

    def asked(self, path: str) -> int:
        """How many requests there were for a path."""
        return sum(path in request[0] for request in self.requests)

    # ---- what it does -----------------------------------------------------------------------------------------------

    def reply(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        time.sleep(self.seconds)
        answer = self._answer(handler, body)
        match self.manner:
            case Manner.WELL:
                send(handler, answer)
            case Manner.DROPS_ANSWER:
                handler.close_connection = True
            case Manner.SILENT:
                handler.connection.settimeout(20)
                with contextlib.suppress(OSError):
                    handler.connection.recv(1)
                handler.close_connection = True
            case Manner.DRIPS:
                with contextlib.suppress(OSError):
                    for one in b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b" " * 100_000:
                        handler.connection.sendall(bytes([one]))
                        time.sleep(0.05)
                handler.close_connection = True
            case Manner.NO_JSON:
                send(handler, (200, b"<html>Sign in to the network</html>", {"Content-Type": "text/html"}))
            case Manner.OTHER_JSON:
                send(handler, (200, b'["Valid"]', {}))
            case Manner.OTHER_ID:
                send(handler, (200, b'{"status":"Valid","id":"5b1e5f0e-2c77-4c0e-8f7d-6a3f0f7f9b10","billed":[]}', {}))
            case Manner.HUGE:
                with contextlib.suppress(OSError):
                    handler.connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                    for _ in range(1000):
                        handler.connection.sendall(bytes(65536))
                handler.close_connection = True
            case Manner.REDIRECTS:
                send(handler, (307, b"", {"Location": f"{self.url}/elsewhere"}))
            case Manner.NO_HTTP:
                with contextlib.suppress(OSError):
                    handler.connection.sendall(b"220 mail.example ESMTP\r\n")
                handler.close_connection = True
            case Manner.CUT_SHORT:
                with contextlib.suppress(OSError):
                    handler.connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"status":"Valid"')
                handler.close_connection = True

    def _answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> Answer:
        if self.refusal is not None:
            status, word, headers = self.refusal
            members = {"status": word, "message": "told by a test", **self.refusal_members}
            return status, json.dumps(members).encode(), headers
        if handler.headers.get("Ocp-Apim-Subscription-Key") != self.key:
            return refused(401, "Invalid")
        if self.manner in {Manner.NO_JSON, Manner.OTHER_JSON, Manner.OTHER_ID, Manner.HUGE, Manner.REDIRECTS}:
            return refused(500, "Unknown")  # it is somebody else's answer, and nothing is taken
        with self._lock:
            if handler.path.endswith("/license"):
                return self._license(json.loads(body))
            if handler.path.endswith("/usage"):
                return self._usage(body)
            if "/acknowledgements/" in handler.path:
                return self._acknowledgement(handler.path.split("/")[-2])
        return refused(404, "Unknown")

    def _license(self, asked: dict[str, Any]) -> Answer:
        public = bytes.fromhex(asked["devicePublicKey"])
        if asked.get("enrolment") is not None:
            enrolled = open_enrolment(canonical(asked["enrolment"]))
            assert enrolled.device_public == public
            self._devices[device_id_of(public)] = enrolled.device_key
        return 200, self.vendor.seal(self.terms(public)), {}

    def _usage(self, body: bytes) -> Answer:
        self.on_usage()
        request = UsageRequest.from_body(body)
        assert request.report is not None
        device = self._devices.get(json.loads(_payload(request.report))["origin"].rpartition("/")[2])
        if device is None:
            return refused(409, "Mismatch")
        report = open_report(request.report, device)
        request.require_same(report)
        place = (report.origin, report.since)
        before = self.reports.get(place)
        if before is not None and before != report:
            return refused(409, "Mismatch")
        self.reports[place] = report
        self.repeated += before is not None
        told = {"status": "Valid", "id": report.id, "billed": [], "repeated": before is not None, "size": report.size}
        return 200, json.dumps(told).encode(), {}

    def _acknowledgement(self, device_id: str) -> Answer:
        told = sorted(
            (one for one in self.reports.values() if one.origin.endswith(f"/{device_id}")), key=lambda one: one.since
        )
        newest: UsageReport | None = None
        totals: Counter[str] = Counter()
        for report in told:
            ends_at = (newest.size, newest.root) if newest is not None else (0, None)
            if (report.since, report.since_root) != ends_at:
                break  # as the vendor: what is not proven to continue the log is billed and not acknowledged
            newest = report
            totals.update({meter: report.quantity(meter) for meter in report.totals})
        if newest is None or not self.acknowledges:
            return refused(409, "Mismatch", code="exchange_refused")
        key = self.vendor.keys.ack_key
        ack = acknowledge(
            newest.checkpoint,
            device=self._devices[device_id],
            key=key,
            trust_root=self.vendor.trust_root,
            at=newest.closed_at,
            totals=dict(totals),
        )
        return 200, ack.seal(key), {}


def a_present_vendor() -> FakeVendor:
    """A vendor for evaluations whose keys are good today."""
    at = datetime.now(UTC) - timedelta(days=1)
    return FakeVendor(issue.generate_vendor(domain="vendor.example", evaluation=True, at=at))


def a_present_license(public: bytes, **changes: object) -> License:
    """An evaluation licence of today, bound to a device."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    terms: dict[str, Any] = {
        "license_id": LicenseId(f"connected-{public.hex()[:12]}"),
        "issued_at": today - timedelta(days=1),
        "not_before": today - timedelta(days=1),
        "expires_at": today + timedelta(days=90),
        "termination_at": today + timedelta(days=100),
        "device_pubkey": public,
        "evaluation": True,
    }
    return a_license(**(terms | changes))


def send(handler: BaseHTTPRequestHandler, answer: Answer, *, date: bool = True) -> None:
    """Send an answer; its headers may hold a date of their own."""
    status, content, headers = answer
    with contextlib.suppress(OSError):
        if date:
            handler.send_response(status)
        else:
            handler.send_response_only(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)


def refused(status: int, word: str, **more: str) -> Answer:
    return status, json.dumps({"status": word, "message": "told by a test", **more}).encode(), {}


def _payload(envelope: bytes) -> bytes:
    return dsse.unverified_payload(envelope, dsse.USAGE_REPORT_TYPE).payload
