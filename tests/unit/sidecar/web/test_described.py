"""Parameters as clients write them: names in any case, and values that are given more than once."""

from __future__ import annotations

import pytest
from flask import Flask
from werkzeug.datastructures import MultiDict
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from sidecar.errors import DocumentRefusedError
from sidecar.web import ocr, read_v3
from sidecar.web.described import Parameter

ONE = Parameter(name="readingOrder", meaning="", choices=("basic", "natural"), default="basic", refusal="InvalidOrder")
MANY = Parameter(name="pages", meaning="", pattern=r"^\d+$", many=True, refusal="InvalidPageRange")
REQUIRED = Parameter(name="api-version", meaning="", choices=("1", "2"), required=True)


def args(query: str) -> MultiDict[str, str]:
    return Request(EnvironBuilder(query_string=query).get_environ()).args


@pytest.mark.parametrize(
    ("parameter", "query", "value"),
    [
        (ONE, "", "basic"),
        (ONE, "readingOrder=", "basic"),
        (ONE, "readingOrder=natural", "natural"),
        (ONE, "READINGORDER=natural", "natural"),
        (ONE, "readingorder=natural&ReadingOrder=natural", "natural"),
        (ONE, "readingOrder=&ReadingOrder=natural", "natural"),
        (ONE, "reading=natural&Orders=natural&readingOrde=natural&readingOrders=natural", "basic"),
        (REQUIRED, "API-VERSION=2", "2"),
        (MANY, "Pages=2", "2"),
        (MANY, "pages=1&pages=3", "1,3"),
        (MANY, "pages=1,2&language=en&PAGES=4&pages=3", "1,2,4,3"),
        (MANY, "pages=1&pages=1", "1,1"),
        (MANY, "pages=&pages=3&Pages=", "3"),
        (MANY, "pages=&pages=", ""),
    ],
)
def test_names_in_any_case_and_values_given_twice(parameter: Parameter, query: str, value: str) -> None:
    assert sorted(parameter.read(args(query)).split(",")) == sorted(value.split(","))
    assert parameter.is_given(args(query)) is (value not in {"", parameter.default})


@pytest.mark.parametrize(
    ("parameter", "query", "reason", "text"),
    [
        (ONE, "readingOrder=basic&readingOrder=natural", "InvalidOrder", "readingOrder parameter is given more"),
        (ONE, "readingOrder=natural&READINGORDER=basic", "InvalidOrder", "readingOrder parameter is given more"),
        (ONE, "readingOrder=x&readingOrder=x", "InvalidOrder", "The readingOrder parameter is invalid"),
        (REQUIRED, "api-version=1&Api-Version=2", "BadArgument", "The api-version parameter is given more than once"),
        (REQUIRED, "Api-Version=", "BadArgument", "The api-version parameter is missing"),
        (MANY, "pages=1&Pages=x", "InvalidPageRange", "The pages parameter is invalid"),
        (MANY, "pages=1,,2", "InvalidPageRange", "The pages parameter is invalid"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(parameter: Parameter, query: str, reason: str, text: str) -> None:
    with pytest.raises(DocumentRefusedError, match=text) as refusal:
        parameter.read(args(query))
    assert refusal.value.reason == reason


@pytest.mark.parametrize("version", read_v3.VERSIONS, ids=lambda version: version.path)
def test_every_version_of_read(version: read_v3.ReadVersion) -> None:
    knows = {parameter.name for parameter in version.query}
    with Flask("test").test_request_context("/?LANGUAGE=es&Pages=2&pages=04-&READINGorder=natural"):
        asked = read_v3.read_parameters(version)
    assert asked.language == "es"
    assert asked.pages == ("2,04-" if "pages" in knows else "")
    assert asked.reading_order == ("natural" if "readingOrder" in knows else "basic")
    with (
        Flask("test").test_request_context("/?language=es&Language=en"),
        pytest.raises(DocumentRefusedError, match="more than once") as refusal,
    ):
        read_v3.read_parameters(version)
    assert refusal.value.reason == "NotSupportedLanguage"


@pytest.mark.parametrize(
    "query", ["pages=0", "pages=00", "pages=2-1", "pages=0-3", "pages=-00", "pages=x", "pages=1&pages=3-2"]
)
def test_pages_are_refused_in_one_text(query: str) -> None:
    with Flask("test").test_request_context(f"/?{query}"), pytest.raises(DocumentRefusedError) as refusal:
        read_v3.read_parameters(read_v3.V3_2)
    assert refusal.value.reason == "InvalidPageRange"
    assert str(refusal.value) == "The pages parameter is invalid: use page numbers and ranges such as 1,3-5,8-."


def test_ocr() -> None:
    version = ocr.VERSIONS[0]
    with Flask("test").test_request_context("/?Language=de&DETECTORIENTATION=false"):
        assert ocr._parameters(version).language == "de"
    with (
        Flask("test").test_request_context("/?detectOrientation=true&detectorientation=false"),
        pytest.raises(DocumentRefusedError, match="The detectOrientation parameter is given more than once") as refusal,
    ):
        ocr._parameters(version)
    assert refusal.value.reason == "BadArgument"
