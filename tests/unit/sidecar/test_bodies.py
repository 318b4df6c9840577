"""Request bodies: a document in each of the ways that clients send it (contract E.0, E.1.4)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Request
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder

from sidecar.errors import DocumentRefusedError
from sidecar.web.bodies import document_chunks
from sidecar.web.errors import UnsupportedMediaTypeError

LIMIT = 300_000
B = b"--frontier"


def a_request(
    body: bytes, kind: str | None = None, *, chunked: bool = False, length: int | None = None, **headers: str
) -> Request:
    environ = EnvironBuilder(method="POST", headers={k.replace("_", "-"): v for k, v in headers.items()}).get_environ()
    environ["wsgi.input"] = io.BytesIO(body)
    environ["wsgi.input_terminated"] = True
    if kind is not None:
        environ["CONTENT_TYPE"] = kind
    if not chunked:
        environ["CONTENT_LENGTH"] = str(len(body) if length is None else length)
    return Request(environ)


def fetch(text: str, *, max_bytes: int) -> Iterator[bytes]:
    yield f"{text} {max_bytes}".encode()


def document(*args: Any, limit: int = LIMIT, **named: Any) -> bytes:
    return b"".join(document_chunks(a_request(*args, **named), formats=("png", "pdf"), max_bytes=limit, fetch=fetch))


def reason(*args: Any, **named: Any) -> str:
    with pytest.raises(DocumentRefusedError) as caught:
        document(*args, **named)
    return caught.value.reason


def multipart(*parts: bytes, end: bytes = b"\r\n" + B + b"--\r\n") -> bytes:
    return b"\r\n".join(B + b"\r\n" + part for part in parts) + end


FILE = b'Content-Disposition: form-data; name="f"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
FIELD = b'Content-Disposition: form-data; name="g"\r\n\r\nvalue'
FORM = "multipart/form-data; boundary=frontier"


@pytest.mark.parametrize(
    "kind",
    [
        None,
        "",
        "application/octet-stream",
        "Application/Octet-Stream; charset=utf-8",
        "image/png",
        "IMAGE/PNG;q=1",
        "image/x-anything",
        "application/pdf",
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_raw_bytes(kind: str | None, chunked: bool) -> None:
    assert document(b"\x89PNG" * 50_000, kind, chunked=chunked) == b"\x89PNG" * 50_000


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/mixed", "application/xml"]
)
def test_kinds_that_hold_no_document(kind: str) -> None:
    with pytest.raises(UnsupportedMediaTypeError):
        document(b"x", kind)


@pytest.mark.parametrize(
    ("formats", "kinds"),
    [(("jpeg", "gif"), "image/jpeg, image/gif"), (("png", "pdf"), "image/png, application/pdf")],
)
def test_a_kind_that_holds_no_document_is_answered_with_those_that_do(formats: tuple[str, ...], kinds: str) -> None:
    with pytest.raises(UnsupportedMediaTypeError) as refusal:
        document_chunks(a_request(b"x", "text/plain"), formats=formats, max_bytes=LIMIT, fetch=fetch)
    assert str(refusal.value) == (
        "The Content-Type 'text/plain' is not supported; send the document as application/octet-stream, "
        f"{kinds} or multipart/form-data, or its 'url' as application/json."
    )


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip", "x"])
@pytest.mark.parametrize("kind", ["image/png", "application/json", FORM])
def test_encoded_bodies_are_refused(encoding: str, kind: str) -> None:
    with pytest.raises(UnsupportedMediaTypeError, match="Content-Encoding"):
        document(b"x", kind, Content_Encoding=encoding)


def test_the_identity_encoding_is_none() -> None:
    assert document(b"x", "image/png", Content_Encoding=" Identity ") == b"x"


def test_sizes() -> None:
    for chunked in (False, True):
        assert document(bytes(LIMIT), "image/png", chunked=chunked) == bytes(LIMIT)
        assert reason(bytes(LIMIT + 1), "image/png", chunked=chunked) == "InvalidImageSize"
        assert document(multipart(FILE + bytes(LIMIT)), FORM, chunked=chunked) == bytes(LIMIT)
    assert reason(multipart(FILE + bytes(LIMIT + 300_000)), FORM, chunked=True) == "InvalidImageSize"
    assert reason(b"short", "image/png", length=50) == "BadArgument"
    assert reason(multipart(FILE + b"x"), FORM, length=5000) == "BadArgument"


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=utf-8", "text/json", "application/problem+json"]
)
def test_a_url_is_handed_on_as_it_came(kind: str) -> None:
    assert document(b'{"url":"http://x.example/a b"}', kind) == f"http://x.example/a b {LIMIT}".encode()
    assert document('{"url":"http://x.example/ä"}'.encode("utf-16"), kind, chunked=True).startswith(
        b"http://x.example/"
    )


@pytest.mark.parametrize("body", ['{"URL":"http://x/"}', '{"n":1,"Url":"http://x/"}', '\ufeff{"uRL":"http://x/"}'])
def test_the_key_of_a_url_is_taken_in_any_case(body: str) -> None:
    assert document(body.encode(), "application/json") == f"http://x/ {LIMIT}".encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'"http://x.example/"',
        b"{",
        b'{"url":',
        b'{"url":null}',
        b'{"url":7}',
        b'{"url":""}',
        b'{"url":["http://x.example/"]}',
        b'{"url":"http://x.example/","Url":"http://y.example/"}',
        b"{'url':'http://x.example/'}",
        b'{"url":"http://x.example/"} trailing',
        b"[" * 50_000,
        b"\xff\xfe\xfa",
        b"\x89PNG\r\n",
        b'{"url":"' + b"a" * 70_000 + b'"}',
    ],
)
def test_json_that_names_no_url(body: bytes) -> None:
    assert reason(body, "application/json") == "BadArgument"


@pytest.mark.parametrize(
    "body",
    [
        multipart(FILE + b"document"),
        multipart(FIELD, FILE + b"document", FIELD, FILE + b"another"),
        b"preamble\r\n" + multipart(FILE + b"document") + b"epilogue",
        multipart(FILE + b"document", end=b"\r\n" + B + b"--"),
        multipart(FILE.replace(b'filename="a.png"', b'filename=""') + b"document"),
        multipart(FILE.replace(b'filename="a.png"', b"filename*=UTF-8''%C3%A4.png") + b"document"),
        multipart(FILE + b"document", FILE),
        multipart(FILE + b"document", end=b"\r\n" + B + b"--\r\n" + bytes(200_000)),
    ],
)
@pytest.mark.parametrize("kind", [FORM, 'Multipart/Form-Data; charset=utf-8; boundary="frontier"'])
def test_the_first_file_of_a_form(body: bytes, kind: str) -> None:
    assert document(body, kind) == b"document"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        multipart(FIELD),
        B + b"--\r\n",
        b"no parts at all",
        multipart(FILE + b"document", end=b""),
        multipart(FILE + b"document", end=b"\r\n" + B[:5]),
        multipart(b"X: y\r\n\r\ndocument"),
        multipart(b"X" * 290_000),
        B + b"\r\n" + FILE[:20],
        multipart(b"\xff\xfe: \xff\r\n\r\ndocument"),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_forms_without_a_whole_file(body: bytes, chunked: bool) -> None:
    assert reason(body, FORM, chunked=chunked) == "BadArgument"


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=ä"]
)
def test_forms_without_a_boundary(kind: str) -> None:
    assert reason(multipart(FILE + b"document"), kind) == "BadArgument"


@settings(max_examples=150, deadline=None)
@given(
    content=st.binary(max_size=400), glue=st.sampled_from([b"\r\n", b"\n", b"\r", b"--frontie", b"\r\n--fronti", b""])
)
def test_any_content_comes_out_as_it_went_in(content: bytes, glue: bytes) -> None:
    content = glue.join([content, content, b""])
    if B in content:
        return
    assert document(multipart(FIELD, FILE + content), FORM, chunked=True) == content


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([B, b"\r\n", b"--", FILE, FIELD, b"x", b"\n", b"\0"]), max_size=12))
def test_no_form_breaks_more_than_itself(pieces: list[bytes]) -> None:
    try:
        document(b"".join(pieces), FORM)
    except DocumentRefusedError as exc:
        assert exc.reason == "BadArgument"  # noqa: PT017 - it may also succeed


def test_the_file_is_handed_on_while_it_comes() -> None:
    """Never the whole of it in memory."""
    chunks = document_chunks(
        a_request(multipart(FILE + bytes(LIMIT)), FORM), formats=("png",), max_bytes=LIMIT, fetch=fetch
    )
    assert max(map(len, chunks)) <= 128 * 1024
