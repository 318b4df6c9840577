"""The OpenAPI document against the application: every route of the API in it, and nothing else."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, cast

import schemathesis

from licenses.authority.web import api
from licenses.authority.web.app import create_app
from licenses.authority.web.openapi import KEY_HEADER, build_document

APP = create_app(cast("Any", SimpleNamespace(clerk=None)))
DOCUMENT = build_document(APP)
ITSELF = f"{api.PREFIX}/openapi.json"


def path_of(rule: str) -> str:
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)


def test_every_route_of_the_api_is_described_and_nothing_else_is() -> None:
    routed = {
        (path_of(rule.rule), method.lower())
        for rule in APP.url_map.iter_rules()
        if rule.rule.startswith(api.PREFIX) and rule.rule != ITSELF
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert routed == {(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert len(routed) == 5


def test_document_is_whole_and_valid() -> None:
    text = str(DOCUMENT)
    assert set(re.findall(r"#/components/schemas/(\w+)", text)) == set(DOCUMENT["components"]["schemas"])
    assert "contract" not in text
    schemathesis.openapi.from_dict(DOCUMENT).validate()


def test_only_the_health_needs_no_key() -> None:
    for path, methods in DOCUMENT["paths"].items():
        for one in methods.values():
            assert bool(one["security"]) is (path != f"{api.PREFIX}/health")
            assert ("401" in one["responses"]) is bool(one["security"])
    (scheme,) = DOCUMENT["components"]["securitySchemes"].values()
    assert scheme["name"] == KEY_HEADER


def test_whoever_may_be_told_to_come_back_is_told_when() -> None:
    for methods in DOCUMENT["paths"].values():
        for one in methods.values():
            for status, answer in one["responses"].items():
                assert ("Retry-After" in answer.get("headers", {})) is (status in {"429", "503"})


def test_it_is_served_as_it_is() -> None:
    assert APP.test_client().get(ITSELF).get_json() == DOCUMENT
