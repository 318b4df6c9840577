"""What every route has in common: its address as clients name it, methods, spellings of paths, other origins."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flask.testing import FlaskClient
from gunicorn.http import errors as parse_errors
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import Headers

from sidecar.admission import NotServingError
from sidecar.errors import OperationNotFoundError
from sidecar.gate import State, Verdict
from sidecar.results import Operation
from sidecar.settings import load_settings
from sidecar.web.app import create_app
from sidecar.web.origin import origin_of
from sidecar.web.paths import Spelling
from sidecar.web.worker import ApiWorker

ANALYZE = "/vision/v3.2/read/analyze"
RESULT = "/vision/v3.2/read/analyzeResults/11111111-2222-4333-8444-555555555555"


class Refusing:
    """A gate that is shut, and a reader that holds nothing: enough to see how answers are dressed."""

    standing = None

    def require(self) -> None:
        raise NotServingError(Verdict(state=State.TERMINATED, reason="ended", serves=False))

    def find(self, _operation_id: str) -> None:
        raise OperationNotFoundError("none")


def client_of(*words: str) -> FlaskClient:
    one = SimpleNamespace(
        settings=load_settings(words, {}),
        admission=Refusing(),
        reader=Refusing(),
        callers=threading.BoundedSemaphore(4),
    )
    return create_app(cast("Any", one)).test_client()


# ---- the address of the service -------------------------------------------------------------------------------------


def origin(*, scheme: str = "http", forwarded: bool = True, **headers: str) -> str:
    told = Headers([(name.replace("_", "-"), value) for name, value in headers.items()])
    return origin_of(told, scheme=scheme, unnamed="0.0.0.0:5000", forwarded=forwarded)


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("ocr.example:5000", "http://ocr.example:5000"),
        ("ocr.example", "http://ocr.example"),
        ("ocr.example:80", "http://ocr.example:80"),
        ("vision.example:5000", "http://vision.example:5000"),  # the original loses port and path here
        ("my-vision:5001", "http://my-vision:5001"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("[fd00::1]", "http://[fd00::1]"),
        ("10.0.0.1:5000", "http://10.0.0.1:5000"),
        ("under_score:5000", "http://under_score:5000"),
        ("", "http://0.0.0.0:5000"),
        ("a b", "http://0.0.0.0:5000"),
        ('x"><script>', "http://0.0.0.0:5000"),
        ("x/y", "http://0.0.0.0:5000"),
        ("user@x", "http://0.0.0.0:5000"),
        ("x:99999", "http://0.0.0.0:5000"),
        ("x:y", "http://0.0.0.0:5000"),
        ("[::1", "http://0.0.0.0:5000"),
        ("[:::::]", "http://0.0.0.0:5000"),
        ("a,b", "http://0.0.0.0:5000"),
        ("x" * 300, "http://0.0.0.0:5000"),
        ("\u0661", "http://0.0.0.0:5000"),
    ],
)
def test_host_as_the_client_named_it(host: str, named: str) -> None:
    assert origin(Host=host, forwarded=False) == named


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"X_Forwarded_Proto": "https"}, "https://in:5000"),
        ({"X_Forwarded_Proto": "HTTPS", "X_Forwarded_Host": "ocr.example"}, "https://ocr.example"),
        ({"X_Forwarded_Proto": "https", "X_Forwarded_Host": "ocr.example:8443"}, "https://ocr.example:8443"),
        ({"X_Forwarded_Proto": "https", "X_Forwarded_Port": "443"}, "https://in"),
        ({"X_Forwarded_Proto": "https", "X_Forwarded_Port": "8443"}, "https://in:8443"),
        ({"X_Forwarded_Host": "ocr.example:8443", "X_Forwarded_Port": "443"}, "http://ocr.example:8443"),
        ({"X_Forwarded_Host": "[fd00::1]", "X_Forwarded_Port": "8080"}, "http://[fd00::1]:8080"),
        ({"X_Forwarded_Proto": "http, https", "X_Forwarded_Host": "evil.example, ocr.example"}, "https://ocr.example"),
        ({"X_Forwarded_Prefix": "/ocr/"}, "http://in:5000/ocr"),
        ({"X_Forwarded_Prefix": "/a/b-c_d.e~f"}, "http://in:5000/a/b-c_d.e~f"),
        ({"X_Forwarded_Proto": "javascript"}, "http://in:5000"),
        ({"X_Forwarded_Host": "evil/path"}, "http://in:5000"),
        ({"X_Forwarded_Host": ""}, "http://in:5000"),
        ({"X_Forwarded_Port": "0"}, "http://in:5000"),
        ({"X_Forwarded_Port": "99999"}, "http://in:5000"),
        ({"X_Forwarded_Port": "x"}, "http://in:5000"),
        ({"X_Forwarded_Prefix": "//evil.example"}, "http://in:5000"),
        ({"X_Forwarded_Prefix": "ocr"}, "http://in:5000"),
        ({"X_Forwarded_Prefix": "/"}, "http://in:5000"),
        ({"X_Forwarded_Prefix": "/a/../b"}, "http://in:5000"),
        ({"X_Forwarded_Prefix": "/a?b"}, "http://in:5000"),
        ({"X_Forwarded_Prefix": "/a b"}, "http://in:5000"),
    ],
)
def test_what_a_proxy_says_counts_only_when_trusted(headers: dict[str, str], named: str) -> None:
    assert origin(Host="in:5000", **headers) == named
    assert origin(Host="in:5000", forwarded=False, **headers) == "http://in:5000"


@given(st.text(alphabet=st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=60))
def test_no_header_puts_more_than_an_address_into_an_answer(text: str) -> None:
    named = origin(
        Host=text, X_Forwarded_Host=text, X_Forwarded_Proto=text, X_Forwarded_Port=text, X_Forwarded_Prefix=text
    )
    assert not set(named) & set(" \t\"'<>@\\?#,;\r\n")
    assert named.startswith(("http://", "https://"))


# ---- methods and paths ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "PROPFIND"])
@pytest.mark.parametrize("path", ["/nothing", "/vision/v3.2/read", "/vision/v9.9/read/analyze", "/vision//"])
def test_unrouted_paths_have_an_empty_404(method: str, path: str) -> None:
    answer = client_of().open(path, method=method)
    assert (answer.status_code, answer.data) == (404, b"")
    assert answer.headers["Content-Length"] == "0"
    assert "Content-Type" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", ANALYZE, "POST"),
        ("HEAD", ANALYZE, "POST"),
        ("OPTIONS", ANALYZE, "POST"),
        ("DELETE", ANALYZE, "POST"),
        ("POST", RESULT, "GET, HEAD"),
        ("OPTIONS", RESULT, "GET, HEAD"),
        ("BREW", RESULT, "GET, HEAD"),
        ("POST", "/status", "GET, HEAD"),
    ],
)
def test_other_methods_have_an_empty_405(method: str, path: str, allowed: str) -> None:
    answer = client_of().open(path, method=method)
    assert (answer.status_code, answer.data, answer.headers["Allow"]) == (405, b"", allowed)
    assert "Content-Type" not in answer.headers


@pytest.mark.parametrize(
    "path",
    ["/Vision/V3.2/READ/analyzeresults/", "/vision/v3.2/read/ANALYZERESULTS/", "/vision//v3.2//read/operations/"],
)
@pytest.mark.parametrize("end", ["", "/"])
def test_fixed_parts_of_a_path_have_any_case(path: str, end: str) -> None:
    answer = client_of().get(path + "11111111-2222-4333-8444-555555555555" + end)
    assert answer.status_code == 404
    assert answer.json is not None
    assert answer.json["error"]["code"] == "BadArgument"  # the route's own words, not the empty answer


SPELLING = Spelling(
    ["/", "/a/B/<one>", "/a/B/<one>/c", "/a/<string(length=2):two>/D", "/e/", "/static/<path:name>", "/x:Y"]
)


@pytest.mark.parametrize(
    ("path", "means"),
    [
        ("/", "/"),
        ("", "/"),
        ("//", "/"),
        ("/A/b/Xy", "/a/B/Xy"),
        ("/A/b/Xy/", "/a/B/Xy"),
        ("//A//b/Xy/C", "/a/B/Xy/c"),
        ("/A/b//", "/A/b//"),
        ("/a/zz/d", "/a/zz/D"),
        ("/E", "/e"),
        ("/E/", "/e/"),
        ("/STATIC/Some/File.JS", "/static/Some/File.JS"),
        ("/X:y", "/x:Y"),
        ("/unknown/Path/", "/unknown/Path/"),
        ("/a/b/../b/x", "/a/b/../b/x"),
    ],
)
def test_spelling(path: str, means: str) -> None:
    assert SPELLING.of(path) == means


@given(st.text(max_size=40))
def test_any_path_has_some_spelling(path: str) -> None:
    once = SPELLING.of("/" + path)
    assert SPELLING.of(once) == once


# ---- the API page behind a proxy -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "trusted", "leads_to"),
    [
        ("", "true", "./swagger/index.html"),
        ("/ocr/", "true", "/ocr/swagger/index.html"),
        ("/ocr", "false", "./swagger/index.html"),
        ("//evil.example", "true", "./swagger/index.html"),
    ],
)
def test_the_way_to_the_api_page(prefix: str, trusted: str, leads_to: str) -> None:
    client = client_of(f"Sidecar:TrustForwardedHeaders={trusted}")
    answer = client.get("/swagger", headers={"X-Forwarded-Prefix": prefix})
    assert (answer.status_code, answer.headers["Location"]) == (302, leads_to)


@pytest.mark.parametrize(("trusted", "server"), [("true", "/ocr"), ("false", "/")])
def test_openapi_names_the_path_in_front(trusted: str, server: str) -> None:
    client = client_of(f"Sidecar:TrustForwardedHeaders={trusted}")
    told = [
        client.get("/swagger/vision-v3.2-read/swagger.json", headers=headers).json
        for headers in ({"X-Forwarded-Prefix": "/ocr"}, {})
    ]
    assert [document and document["servers"] for document in told] == [[{"url": server}], [{"url": "/"}]]


# ---- pages of other origins -----------------------------------------------------------------------------------------


def cors_headers(headers: Headers) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.startswith("Access-Control-")}


def test_without_the_setting_there_are_no_cors_headers() -> None:
    client = client_of()
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    for path in (ANALYZE, RESULT, "/status", "/nothing"):
        answer = client.options(path, headers=asked)
        assert answer.status_code in {404, 405}
        assert cors_headers(answer.headers) == {}
        assert "Vary" not in answer.headers


@pytest.mark.parametrize(
    ("listed", "allowed"), [("*", "*"), ("https://b.example https://app.example", "https://app.example")]
)
def test_preflight(listed: str, allowed: str) -> None:
    answer = client_of(f"Sidecar:CorsAllowedOrigins={listed}").options(
        ANALYZE,
        headers={
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type, Ocp-Apim-Subscription-Key,x-ms-client-request-id,x-evil",
        },
    )
    assert (answer.status_code, answer.data) == (204, b"")
    told = cors_headers(answer.headers)
    assert told["Access-Control-Allow-Origin"] == allowed
    assert told["Access-Control-Allow-Methods"] == "POST"
    assert told["Access-Control-Allow-Headers"] == "content-type, ocp-apim-subscription-key, x-ms-client-request-id"
    assert "Access-Control-Allow-Credentials" not in told
    assert ("Origin" in answer.headers["Vary"]) is (listed != "*")


def test_answers_and_errors_are_shared_with_listed_origins_alone() -> None:
    client = client_of("Sidecar:CorsAllowedOrigins=https://app.example")
    for path, status in ((RESULT, 404), ("/nothing", 404), (ANALYZE, 405)):
        answer = client.get(path, headers={"Origin": "https://app.example"})
        assert answer.status_code == status
        assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
        exposed = answer.headers["Access-Control-Expose-Headers"]
        assert {"Operation-Location", "x-ms-error-code", "Retry-After"} == set(exposed.split(", "))
        for other in ({"Origin": "https://evil.example"}, {"Origin": "http://app.example"}, {"Origin": "null"}, {}):
            answer = client.get(path, headers=other)
            assert cors_headers(answer.headers) == {}
            assert answer.headers["Vary"] == "Origin"
    refused = client.post(ANALYZE, data=b"x", headers={"Origin": "https://app.example", "Content-Type": "image/png"})
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (403, "https://app.example")


def test_the_services_own_pages_are_not_shared() -> None:
    answer = client_of("Sidecar:CorsAllowedOrigins=*").get("/favicon.ico", headers={"Origin": "https://app.example"})
    assert cors_headers(answer.headers) == {}


@pytest.mark.parametrize("path", ["/status", "/ready", "/languages", "/metrics", "/records/usage-logs/", "/"])
def test_a_preflight_of_the_services_own_pages_is_refused_as_without_cors(path: str) -> None:
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
    answer = client_of("Sidecar:CorsAllowedOrigins=*").options(path, headers=asked)
    assert (answer.status_code, answer.data) == (405, b"")
    assert cors_headers(answer.headers) == {}
    assert cors_headers(client_of("Sidecar:CorsAllowedOrigins=*").post(path, headers=asked).headers) == {}


def test_options_without_a_preflight_is_a_method_like_another() -> None:
    answer = client_of("Sidecar:CorsAllowedOrigins=*").options(ANALYZE)
    assert (answer.status_code, answer.data) == (405, b"")


# ---- what is no HTTP ------------------------------------------------------------------------------------------------


class Deaf:
    """A socket that keeps what is sent."""

    def __init__(self) -> None:
        self.sent = b""

    def setblocking(self, _flag: bool) -> None:
        """As a socket's."""

    def gettimeout(self) -> float:
        return 0.0

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def send(self, data: bytes) -> int:
        self.sent += data
        return len(data)


@pytest.mark.parametrize(
    ("exc", "status"),
    [
        (parse_errors.InvalidRequestLine("secret"), 400),
        (parse_errors.InvalidHeader("secret"), 400),
        (parse_errors.LimitRequestLine(9999, 4094), 414),
        (parse_errors.LimitRequestHeaders("secret"), 431),
        (parse_errors.UnsupportedTransferCoding("secret"), 501),
        (parse_errors.ExpectationFailed("secret"), 417),
        (parse_errors.InvalidResponseHeader("secret"), 500),
        (ValueError("secret"), 500),
    ],
)
def test_what_gunicorn_refuses_is_json(exc: Exception, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    client = Deaf()
    worker = ApiWorker.__new__(ApiWorker)
    worker.handle_error(None, cast("Any", client), ("192.0.2.7", 1), exc)
    head, _, body = client.sent.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"application/json; charset=utf-8" in head
    assert body.startswith(b'{"error": {"code": "')
    told = capsys.readouterr()
    assert b"secret" not in client.sent
    assert "secret" not in told.out + told.err
    assert "192.0.2.7" not in told.out + told.err


# ---- results that may be fetched once -------------------------------------------------------------------------------


def test_what_may_be_fetched_once_is_forgotten_after_a_get_alone() -> None:
    operation_id = "11111111-2222-4333-8444-555555555555"
    forgotten: list[str] = []
    operation = Operation(operation_id=operation_id, status="failed", created_ns=0, updated_ns=0, fetched_once=True)
    reader = SimpleNamespace(find=lambda _id: operation, forget=forgotten.append)
    one = SimpleNamespace(settings=load_settings([], {}), admission=Refusing(), reader=reader)
    client = create_app(cast("Any", one)).test_client()
    head = client.head(RESULT)
    assert (head.status_code, forgotten) == (200, [])
    unread = client.get(RESULT, buffered=False)
    unread.close()  # the client had hung up
    assert forgotten == []
    get = client.get(RESULT)
    assert get.json is not None
    assert (get.json["status"], get.headers["Content-Length"]) == ("failed", str(len(get.data)))
    assert head.headers["Content-Length"] == get.headers["Content-Length"]
    assert forgotten == [operation_id]
