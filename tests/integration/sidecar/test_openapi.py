"""The OpenAPI documents against the application: every route in its document, every document's routes routed."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, cast

import pytest
import schemathesis
from flask import Flask

from sidecar.bootstrap import Services
from sidecar.settings import Settings
from sidecar.web.app import create_app
from sidecar.web.described import descriptions_of
from sidecar.web.openapi import FIRST_DOCUMENT, OTHER_NAMES, build_documents

FOR_BROWSERS = {
    "/",
    "/favicon.ico",
    "/languages",
    "/static/{filename}",
    "/swagger",
    "/swagger/",
    "/swagger/index.html",
    "/swagger/assets/{name}",
    "/swagger/{name}/swagger.json",
}
"""Pages, their parts, and the documents themselves."""


def an_app(**settings: Any) -> Flask:
    return create_app(cast("Services", SimpleNamespace(settings=Settings(**settings))))


APP = an_app()
DOCUMENTS = build_documents(APP)


def path_of(rule: str) -> str:
    """A rule in OpenAPI's spelling."""

    def place(found: re.Match[str]) -> str:
        head, *rest = found[1].split("_")
        return "{" + head + "".join(part.title() for part in rest) + "}"

    return re.sub(r"<(?:\w+:)?(\w+)>", place, rule)


def routed() -> set[tuple[str, str]]:
    """Method and path of every route that is no page."""
    return {
        (method, path_of(rule.rule).rstrip("/") or "/")
        for rule in APP.url_map.iter_rules()
        if path_of(rule.rule) not in FOR_BROWSERS
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


def documented() -> list[tuple[str, str, str]]:
    """Document, method and path of every operation."""
    return [
        (name, method.upper(), path.rstrip("/"))
        for name, document in DOCUMENTS.items()
        for path, operations in document["paths"].items()
        for method in operations
    ]


def version_of(path: str) -> str:
    """Which document a route belongs to, by its path alone."""
    found = re.match(r"/vision/(?P<version>[^/]+)/(?P<kind>ocr)?", path)
    if found:
        return f"vision-{found['version']}-{found['kind'] or 'read'}"
    return "imageanalysis" if path.startswith("/computervision/") else "service"


def test_every_route_is_documented_and_nothing_else_is() -> None:
    assert {(method, path) for _, method, path in documented()} == routed()


def test_every_route_is_in_the_one_document_of_its_version() -> None:
    for name, _, path in documented():
        assert re.sub(r"^imageanalysis-.*", "imageanalysis", name) == version_of(path)
    assert len(set(documented())) == len(documented())
    api_versions = [name for name in DOCUMENTS if name.startswith("imageanalysis-")]
    assert api_versions == ["imageanalysis-2024-02-01", "imageanalysis-2023-10-01"]


def test_pages_say_nothing_of_themselves_and_are_no_api() -> None:
    for rule in APP.url_map.iter_rules():
        assert bool(descriptions_of(APP.view_functions[rule.endpoint])) is (path_of(rule.rule) not in FOR_BROWSERS)


def test_names_follow_one_pattern() -> None:
    assert next(iter(DOCUMENTS)) == FIRST_DOCUMENT
    for name in DOCUMENTS:
        assert re.fullmatch(r"vision-v[\d.]+(-preview(\.\d)?)?-(read|ocr)|imageanalysis-[\d-]{10}|service", name)
    assert set(OTHER_NAMES.values()) <= set(DOCUMENTS)
    titles = [document["info"]["title"] for document in DOCUMENTS.values()]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_is_whole(name: str) -> None:
    document = DOCUMENTS[name]
    text = str(document)
    assert set(re.findall(r"#/components/schemas/(\w+)", text)) == set(document["components"]["schemas"])
    ids = [one["operationId"] for path in document["paths"].values() for one in path.values()]
    assert len(set(ids)) == len(ids)
    for path, operations in document["paths"].items():
        for one in operations.values():
            places = [each["name"] for each in one.get("parameters", []) if each["in"] == "path"]
            assert places == re.findall(r"{(\w+)}", path)
    schemathesis.openapi.from_dict(document).validate()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_names_nothing_that_its_readers_do_not_have(name: str) -> None:
    assert not re.findall(r"[^.']*(?:[Cc]ontract|ADR|issue \d|\b[A-H]\.\d)[^.']*", str(DOCUMENTS[name]))


def test_whoever_may_be_told_to_come_back_is_told_when() -> None:
    for name, document in DOCUMENTS.items():
        for operations in document["paths"].values():
            for one in operations.values():
                headers = one["responses"].get("503", {}).get("headers", {})
                assert ("Retry-After" in headers) is ("503" in one["responses"] and name != "service")


def test_error_bodies_are_what_the_dialect_of_the_version_says() -> None:
    def error_of(app: Flask, name: str) -> str:
        operations = next(iter(build_documents(app)[name]["paths"].values()))
        schema = operations["post"]["responses"]["400"]["content"]["application/json"]["schema"]
        return str(schema["$ref"]).rpartition("/")[2]

    assert error_of(APP, "vision-v3.2-read") == "ErrorBody"
    assert error_of(an_app(error_compat="documented"), "vision-v3.2-read") == "FlatError"
    assert error_of(APP, "vision-v3.1-read") == "FlatError"
    assert error_of(APP, "vision-v3.2-ocr") == "NestedError"
