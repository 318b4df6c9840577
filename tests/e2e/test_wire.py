"""What goes over the wire besides documents and results: odd requests, proxies, other origins, documents by URL."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

import pytest
import requests
from selenium.webdriver.common.by import By

from tests.e2e.browser import Browser
from tests.e2e.site import Site, text_of, wait_until
from tests.fakes.web_server import served
from tests.pages import LINES, as_pdf, as_png, printed_page

ANALYZE = "/vision/v3.2/read/analyze"
SMALL = as_png(printed_page(LINES[:2], size=(900, 300)))
DENSE = printed_page(LINES * 3, size=(1654, 2339), dpi=200, points=9)
APP = {"Origin": "https://app.example"}


def talk(site: Site, *parts: bytes, seconds: float = 10) -> tuple[int, dict[str, str], bytes]:
    """One request, byte by byte as it is given, and the answer to it."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=seconds) as client:
        for part in parts:
            client.sendall(part)
        answer = http.client.HTTPResponse(client)
        answer.begin()
        return answer.status, dict(answer.getheaders()), answer.read()


def head(*lines: str) -> bytes:
    return "\r\n".join([f"POST {ANALYZE} HTTP/1.1", "Host: ocr.example:5000", *lines, "", ""]).encode("latin-1")


# ---- odd requests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET /status HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /status HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET /status HTTP/9.9\r\nHost: x\r\n\r\n", 400),
        (b"GET /status HTTP/1.1\r\nHost: x\r\nBad Name: y\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: nothing\r\n\r\n", 501),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: wonders\r\n\r\n", 417),
    ],
)
def test_what_is_no_http_is_answered_in_json(service: Site, request_head: bytes, status: int) -> None:
    found, headers, body = talk(service, request_head)
    assert found == status
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert json.loads(body)["error"]["code"] == "InvalidRequest"


def test_a_client_that_waits_to_be_told_to_go_on(service: Site) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.sendall(head("Content-Type: image/png", f"Content-Length: {len(SMALL)}", "Expect: 100-continue"))
        assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        client.sendall(SMALL)
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert answer.status == 202


def test_what_follows_a_document_is_not_taken_for_it(service: Site) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.sendall(head("Content-Type: image/png", f"Content-Length: {len(SMALL)}") + SMALL + b"rubbish\r\n\r\n")
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 202 ")
    assert b"HTTP/1.1 400 " in answer


@pytest.mark.parametrize("kind", ["image/png", "application/json", "multipart/form-data; boundary=x"])
def test_packed_bodies_are_refused_by_name(service: Site, kind: str) -> None:
    answer = requests.post(
        service.url + ANALYZE, data=b"\x1f\x8b", headers={"Content-Type": kind, "Content-Encoding": "gzip"}, timeout=10
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "UnsupportedMediaType")
    assert "Content-Encoding" in answer.json()["error"]["message"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_form_is_read_by_its_first_file(service: Site, chunked: bool) -> None:
    form = requests.Request(
        "POST",
        service.url + "/vision/v3.2/read/syncAnalyze",
        data={"before": "x"},
        files=[("first", ("ä.png", SMALL, "image/png")), ("second", ("b.png", b"nonsense", "image/png"))],
    ).prepare()
    assert isinstance(form.body, bytes)
    whole, half = form.body, len(form.body) // 2
    body: Any = iter([whole[:half], whole[half:]]) if chunked else whole
    answer = requests.post(
        service.url + "/vision/v3.2/read/syncAnalyze",
        data=body,
        headers={"Content-Type": form.headers["Content-Type"]},
        timeout=60,
    )
    assert answer.status_code == 200
    assert LINES[0].split()[0] in text_of(answer.json())


def test_head_says_what_get_would_say(service: Site) -> None:
    location = service.submit(SMALL)
    service.result(location)
    for url in (location, service.url + "/ContainerLiveness", service.url + "/nothing", service.url + ANALYZE):
        get, told = requests.get(url, timeout=10), requests.head(url, timeout=10)
        assert (told.status_code, told.content) == (get.status_code, b"")
        assert told.headers["Content-Length"] == get.headers["Content-Length"] == str(len(get.content))
        assert told.headers.get("Content-Type") == get.headers.get("Content-Type")


@pytest.mark.parametrize("end", ["", "/", "?"])
def test_paths_in_any_case_and_with_spare_slashes(service: Site, end: str) -> None:
    location = service.submit(SMALL)
    for path in (
        "/VISION/v3.2/Read/AnalyzeResults/",
        "//vision/v3.2/read/analyzeresults/",
        "/vision//v3.2/read/operations/",
    ):
        status, _, body = talk(
            service, f"GET {path}{location[-36:]}{end} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        )
        assert status == 200
        assert json.loads(body)["status"] in {"notStarted", "running", "succeeded"}


def test_an_empty_404_has_no_type(service: Site) -> None:
    for method in (b"GET", b"POST", b"OPTIONS", b"DELETE", b"HEAD"):
        status, headers, body = talk(service, method + b" /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (status, body, headers["Content-Length"]) == (404, b"", "0")
        assert "Content-Type" not in headers


# ---- proxies, other origins, documents by URL, several web processes ------------------------------------------------


class Files(BaseHTTPRequestHandler):
    """Serves pictures, and what is none."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", "/scans/a.png")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path.startswith("/scans/endless"):
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(bytes(1 << 20))
        else:
            body = SMALL if self.path.startswith("/scans/a.png") else b"no picture"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def files() -> Iterator[str]:
    Files.asked = []
    with served(Files) as port:
        yield f"localhost:{port}"


@pytest.fixture(scope="module")
def open_site(files: str) -> Iterator[Site]:
    site = Site(
        "Sidecar:WebWorkers=2",
        "Sidecar:MaxQueuedOperations=4",
        "Sidecar:MaxDocumentBytes=5000000",
        "Sidecar:CorsAllowedOrigins=https://app.example",
        "Sidecar:TrustForwardedHeaders=127.0.0.0/8",
        f"Sidecar:AllowedImageSources=http://{files}/scans http://{files}/moved 127.0.0.0/8 ::1 http://private.invalid",
        "ReadEngineConfig:ResultExpirationPeriod=0",
        "StorageTimeToLiveInMinutes=60",
    )
    try:
        yield site.start()
    finally:
        site.remove()


def by_url(site: Site, url: object, path: str = "/vision/v3.2/read/syncAnalyze") -> requests.Response:
    return requests.post(site.url + path, json={"url": url}, timeout=60)


def test_a_document_by_url(open_site: Site, files: str) -> None:
    answer = by_url(open_site, f"http://{files}/scans/a.png?secret-signature")
    assert answer.status_code == 200, answer.text
    assert LINES[0].split()[0] in text_of(answer.json())
    assert Files.asked[-1] == "/scans/a.png?secret-signature"
    location = by_url(open_site, f"http://{files}/scans/a.png", ANALYZE).headers["Operation-Location"]
    assert open_site.result(location)["status"] == "succeeded"
    assert "Documents are fetched from the network." in open_site.log_text()
    assert "secret-signature" not in open_site.log_text()


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://{files}/other/a.png", "FailedToDownloadImage"),
        ("http://{files}/scans/../other/a.png", "FailedToDownloadImage"),
        ("http://user:pass@{files}/scans/a.png", "FailedToDownloadImage"),
        ("https://{files}/scans/a.png", "FailedToDownloadImage"),
        ("http://127.0.0.1:{port}/scans/a.png", "FailedToDownloadImage"),
        ("http://2130706433:{port}/scans/a.png", "FailedToDownloadImage"),
        ("http://0177.0.0.1:{port}/scans/a.png", "FailedToDownloadImage"),
        ("http://[::1]:{port}/scans/a.png", "FailedToDownloadImage"),
        ("http://169.254.169.254/latest/meta-data", "FailedToDownloadImage"),
        ("http://{files}/moved", "FailedToDownloadImage"),
        ("http://private.invalid/a.png", "FailedToDownloadImage"),
        ("http://{files}/scans/endless", "InvalidImageSize"),
        ("http://{files}/scans/none", "InvalidImage"),
        ("file:///etc/passwd", "InvalidImageUrl"),
        ("/scans/a.png", "InvalidImageUrl"),
    ],
)
def test_urls_that_bring_no_document(open_site: Site, files: str, url: str, code: str) -> None:
    before = open_site.pages()
    answer = by_url(open_site, url.format(files=files, port=files.rpartition(":")[2]))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert open_site.pages() == before
    assert not {"/other/a.png", "/latest/meta-data"} & set(Files.asked)


def test_operation_location_behind_a_proxy(open_site: Site) -> None:
    forwarded = {
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "vision.example",
        "X-Forwarded-Port": "8443",
        "X-Forwarded-Prefix": "/ocr",
    }
    answer = requests.post(
        open_site.url + ANALYZE, data=SMALL, headers={"Content-Type": "image/png", **forwarded}, timeout=30
    )
    assert re.fullmatch(
        r"https://vision\.example:8443/ocr/vision/v3\.2/read/analyzeResults/[0-9a-f-]{36}",
        answer.headers["Operation-Location"],
    )


class Prefixing(BaseHTTPRequestHandler):
    """A reverse proxy with the service below `/ocr/`, as an operator would set one up."""

    protocol_version = "HTTP/1.1"
    upstream = ""
    tells = False
    strays: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        if not self.path.startswith("/ocr/"):
            self.strays.append(self.path)
            self.send_error(404)
            return
        passed = {name: value for name, value in self.headers.items() if not name.startswith("X-Forwarded-")}
        if self.tells:
            told = {"Proto": "http", "Host": self.headers["Host"], "Prefix": "/ocr"}
            passed |= {f"X-Forwarded-{name}": value for name, value in told.items()}
        answer = requests.request(
            self.command,
            self.upstream + self.path.removeprefix("/ocr"),
            headers={**passed, "Accept-Encoding": "identity"},
            data=self.rfile.read(int(self.headers.get("Content-Length", 0))),
            allow_redirects=False,
            timeout=30,
        )
        self.send_response(answer.status_code)
        for name in ("Content-Type", "Content-Security-Policy", "Location", "Operation-Location"):
            if name in answer.headers:
                self.send_header(name, answer.headers[name])
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def below_a_prefix(site: Site, *, tells: bool) -> Iterator[str]:
    handler = type("Proxy", (Prefixing,), {"upstream": site.url, "tells": tells, "strays": []})
    with served(handler) as port:
        yield f"http://127.0.0.1:{port}/ocr"
        assert handler.strays == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("tells", [True, False])
def test_pages_below_a_prefix(open_site: Site, browser: Browser, tells: bool) -> None:
    with below_a_prefix(open_site, tells=tells) as url:
        browser.open(f"{url}/")
        styled = "return getComputedStyle(document.querySelector('main')).display"
        assert browser.driver.execute_script(styled) == "grid"
        assert (f"{url}/vision/v3.2/read/syncAnalyze" in browser.find("pre").text) is tells
        for link, then in (("Languages", "/languages"), ("Home", "/"), ("API", "/swagger/index.html")):
            browser.driver.find_element(By.LINK_TEXT, link).click()
            browser.wait(lambda at=then: browser.driver.current_url == url + at, f"{link} does not lead to {then}")
            assert browser.find("header img").get_property("naturalWidth")
        assert browser.find(".opblock")
        browser.open(f"{url}/swagger")
        browser.click("body > header a")
        browser.wait(lambda: browser.driver.current_url == f"{url}/", "the API page does not lead home")
        assert browser.complaints() == []


def test_try_it_out_below_a_prefix(open_site: Site, browser: Browser) -> None:
    with below_a_prefix(open_site, tells=True) as url:
        browser.open(f"{url}/swagger/?urls.primaryName=The%20service%20itself")
        browser.click("[id$='-ready'] .opblock-summary-control")
        browser.click("[id$='-ready'] .try-out__btn")
        browser.click("[id$='-ready'] .execute")
        assert f"{url}/ready" in browser.find("[id$='-ready'] .request-url").text
        answer = browser.find("[id$='-ready'] .live-responses-table .response")
        assert answer.text.startswith("200")
        assert browser.complaints() == []


def test_a_browser_page_of_another_origin(open_site: Site) -> None:
    preflight = requests.options(
        open_site.url + ANALYZE,
        headers={
            **APP,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type,ocp-apim-subscription-key",
        },
        timeout=10,
    )
    assert preflight.status_code == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://app.example"
    answer = requests.post(
        open_site.url + ANALYZE, data=SMALL, headers={**APP, "Content-Type": "image/png"}, timeout=30
    )
    assert answer.status_code == 202
    assert "Operation-Location" in answer.headers["Access-Control-Expose-Headers"]
    for path in (answer.headers["Operation-Location"].removeprefix(open_site.url), "/nothing", ANALYZE):
        assert requests.get(open_site.url + path, headers=APP, timeout=10).headers["Access-Control-Allow-Origin"]


def test_a_v2_result_is_gone_after_it_was_fetched_once(open_site: Site) -> None:
    answer = requests.post(
        open_site.url + "/vision/v2.0/read/core/asyncBatchAnalyze",
        data=SMALL,
        headers={"Content-Type": "application/octet-stream"},
        timeout=30,
    )
    location = answer.headers["Operation-Location"]
    for _ in range(3):
        requests.head(location, timeout=10)  # brings nothing, so it takes nothing
    assert poll_v2(location)["recognitionResults"]
    wait_until(lambda: requests.get(location, timeout=10).status_code == 404, 10, "still there")
    other = open_site.submit(SMALL)
    open_site.result(other)
    assert requests.get(other, timeout=10).status_code == 200


def poll_v2(location: str) -> dict[str, Any]:
    last: dict[str, Any] = {}

    def ended() -> bool:
        answer = requests.get(location, timeout=10)
        assert answer.status_code == 200
        last.update(answer.json())
        return last["status"] in {"Succeeded", "Failed"}

    wait_until(ended, 30, "not over")
    return last


def test_the_queue_is_bounded_over_all_processes_and_finishes_after_a_restart(open_site: Site) -> None:
    book = as_pdf([DENSE] * 2)
    wait_until(lambda: "tollgate_operations_unfinished 0.0" in open_site.get("/metrics").text, 60, "still reading")
    locations: list[str] = []
    refused: requests.Response | None = None
    for _ in range(12):  # each on a connection of its own, so that both processes get some
        answer = open_site.post(book, kind="application/pdf")
        if answer.status_code != 202:
            refused = answer
            break
        locations.append(answer.headers["Operation-Location"])
    assert refused is not None
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "ServiceUnavailable"), refused.text
    assert refused.headers["Retry-After"].isdigit()
    assert 1 <= len(locations) < 12  # fewer than four where the core is too busy to look at one more
    assert open_site.stop() == 0
    left = list((open_site.folder / "share" / "unfinished").glob("*-*"))
    assert left
    open_site.start()
    for location in locations:
        assert open_site.result(location, 120)["status"] == "succeeded"
    assert open_site.post(SMALL).status_code == 202
