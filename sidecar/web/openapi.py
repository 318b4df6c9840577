"""The OpenAPI documents and their page, all from local files.

Invariant: a document holds what the application routes, as the routes describe themselves, with schemas generated from
the very models that the routes encode; nothing is written down here a second time. Nothing here refers to another host.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec
from flask import Blueprint, Flask, Response, current_app, redirect, render_template, send_from_directory
from swagger_ui_bundle import swagger_ui_path
from werkzeug.wrappers import Response as BaseResponse

from sidecar import __version__
from sidecar.core_client import DocumentRules
from sidecar.web.bodies import raw_types
from sidecar.web.described import Answer, ApiDocument, Described, Parameter, descriptions_of
from sidecar.web.errors import error_model
from sidecar.web.origin import prefix, root
from sidecar.web.responses import empty_response, json_response

FIRST_DOCUMENT = "vision-v3.2-read"
OTHER_NAMES = {"v1": FIRST_DOCUMENT, "vision-v2.0-preview-read": "vision-v2.0-read"}
"""Names that older images served a document under."""

bp = Blueprint("openapi", __name__, url_prefix="/swagger")

_EXTENSION = "sidecar.openapi"
_PLACE = re.compile(r"<(?:[^:<>]+:)?(\w+)>")
_SOURCE = re.compile(r" \(contract [^)]*\)")
_ADDRESS = r"^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/.*)?$"
_SILENT_METHODS = {"HEAD", "OPTIONS"}
_RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds after which to try again; absent where that cannot help.",
        "schema": {"type": "integer", "minimum": 1},
    }
}
_ERROR_MEANINGS = {
    400: "The document or a parameter is at fault.",
    403: "Not licensed, or cut off.",
    404: "No such operation.",
    415: "The Content-Type holds no document.",
    500: "The document could not be processed.",
    503: "Not ready; come back later.",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """A route as one document tells it.

    Attributes:
        path: As OpenAPI writes it.
        method: In lower case.
        description: What the route says of itself.
        error: The model of its errors.
    """

    path: str
    method: str
    description: Described
    error: type


@bp.get("", strict_slashes=False)
def to_page() -> BaseResponse:
    """To the page; relative, so that it works behind any proxy."""
    return redirect(f"{root()}swagger/index.html")


@bp.get("/")
@bp.get("/index.html")
def page() -> Response:
    """The page with 'Try it out', one choice for each document."""
    choices = [
        {"url": f"{name}/swagger.json", "name": document["info"]["title"]} for name, document in _documents().items()
    ]
    text = render_template("swagger.html", documents=choices)
    return Response(text, content_type="text/html; charset=utf-8")


@bp.get("/assets/<path:name>")
def asset(name: str) -> Response:
    """Scripts and style of the page, from the installed package."""
    return send_from_directory(str(swagger_ui_path), name)


@bp.get("/<name>/swagger.json")
def document(name: str) -> Response:
    """One OpenAPI document."""
    found = _documents().get(OTHER_NAMES.get(name, name))
    if found is None:
        return empty_response(HTTPStatus.NOT_FOUND)
    return json_response({**found, "servers": [{"url": prefix() or "/"}]})


def build_documents(app: Flask) -> dict[str, dict[str, Any]]:
    """All documents of an application, by name, the one of Read 3.2 first."""
    found: dict[ApiDocument, list[Operation]] = {}
    for one in operations(app):
        found.setdefault(one.description.document, []).append(one)
    first_of_all = sorted(found, key=lambda document: document.name != FIRST_DOCUMENT)
    return {document.name: _document(document, found[document]) for document in first_of_all}


def operations(app: Flask) -> Iterator[Operation]:
    """Every operation of every document; a route that answers with and without a slash at its end is one."""
    seen = set()
    for rule in app.url_map.iter_rules():
        path = _PLACE.sub(lambda found: "{" + _camel(found[1]) + "}", rule.rule)
        blueprint = rule.endpoint.rpartition(".")[0]
        for description in descriptions_of(app.view_functions[rule.endpoint]):
            for method in sorted((rule.methods or set()) - _SILENT_METHODS):
                key = (description.document, path.rstrip("/") or "/", method)
                if key not in seen:
                    seen.add(key)
                    yield Operation(path, method.lower(), description, error_model(app, blueprint))


def _documents() -> Mapping[str, dict[str, Any]]:
    """The documents of this application, built when they are first asked for."""
    kept: dict[str, dict[str, Any]] | None = current_app.extensions.get(_EXTENSION)
    if kept is None:
        kept = current_app.extensions[_EXTENSION] = build_documents(current_app)
    return kept


def _document(document: ApiDocument, members: list[Operation]) -> dict[str, Any]:
    models = {answer.model for one in members for answer in one.description.answers.values() if answer.model}
    models |= {one.error for one in members if one.description.errors}
    ordered = sorted(models, key=lambda model: (model.__name__, model.__module__))
    schemas, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, Any] = {}
    names: set[str] = set()
    for one in members:
        name = one.description.operation_id
        if name in names:  # another address of the same
            name += "At" + _camel(one.path.split("{")[0].rstrip("/").rpartition("/")[2], first=True)
        names.add(name)
        paths.setdefault(one.path, {})[one.method] = _operation(one, name, schema_of)
    return {
        "openapi": "3.0.3",
        "info": {
            "title": document.title,
            "version": __version__,
            "description": "On-prem OCR by Tollgate. Nothing that is sent here leaves this machine.",
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": document.title}],
        "paths": paths,
        "components": {"schemas": _plain(components)},
    }


def _operation(one: Operation, name: str, schema_of: Mapping[type, dict[str, Any]]) -> dict[str, Any]:
    said = one.description
    out: dict[str, Any] = {"tags": [said.document.title], "summary": said.summary, "operationId": name}
    parameters = [_parameter(parameter, "path") for parameter in said.path]
    parameters += [_parameter(parameter, "query") for parameter in said.query]
    if parameters:
        out["parameters"] = parameters
    if said.takes is not None:
        out["requestBody"] = _body(said.takes)
    responses: dict[str, Any] = {}
    for status in sorted({*map(int, said.answers), *said.errors}):
        answer = said.answers.get(HTTPStatus(status))
        bodies = [schema_of[one.error]] if status in said.errors else []
        if answer is not None and answer.model is not None:
            bodies.insert(0, schema_of[answer.model])
        responses[str(status)] = _response(status, answer, bodies)
        if status == HTTPStatus.SERVICE_UNAVAILABLE and status in said.errors:
            responses[str(status)]["headers"] = _RETRY_AFTER
    return {**out, "responses": responses}


def _response(status: int, answer: Answer | None, bodies: list[dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {"description": answer.meaning if answer is not None else _ERROR_MEANINGS[status]}
    if answer is not None and answer.headers:
        out["headers"] = {
            name: {"description": meaning, "schema": {"type": "string"}} for name, meaning in answer.headers.items()
        }
    if bodies:
        out["content"] = {"application/json": {"schema": bodies[0] if len(bodies) == 1 else {"anyOf": bodies}}}
    elif answer is not None and answer.media:
        out["content"] = {answer.media: {"schema": {"type": "string"}}}
    return out


def _parameter(parameter: Parameter, place: str) -> dict[str, Any]:
    out: dict[str, Any] = {
        "name": parameter.name,
        "in": place,
        "required": parameter.required,
        "description": parameter.meaning,
        "schema": parameter.schema(),
    }
    if place == "query" and not parameter.required:
        out["allowEmptyValue"] = True  # as clients that fill in a form send it
    if parameter.many:
        out |= {"style": "form", "explode": False}
    return out


def _body(rules: DocumentRules) -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    formats = ", ".join(one.upper() for one in rules.formats)
    pages = f" At most {rules.max_pages} pages." if {"pdf", "tiff"} & set(rules.formats) else ""
    if rules.max_sheet_inches is not None:
        pages += f" A PDF's pages up to {rules.max_sheet_inches:g} inches on each side."
    return {
        "required": True,
        "description": f"A document: {formats}. At most {rules.max_bytes:,} bytes, or what the setting "
        f"Sidecar:MaxDocumentBytes says if that is less; pictures of {rules.min_side} to {rules.max_side} pixels on "
        f"each side.{pages} An address is followed only where the site's settings allow it.",
        "content": {
            **dict.fromkeys(raw_types(rules.formats), binary),
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"url": {"type": "string", "format": "uri", "pattern": _ADDRESS}},
                    "required": ["url"],
                }
            },
        },
    }


def _camel(name: str, *, first: bool = False) -> str:
    head, *rest = name.split("_")
    return (head[:1].upper() + head[1:] if first else head) + "".join(part.title() for part in rest)


def _plain(schema: Any) -> Any:
    """JSON Schema 2020-12 as OpenAPI 3.0 spells it: `nullable` for a null alternative, no empty `required`."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: _plain(value) for key, value in schema.items()}
    kinds = out.get("type")
    if isinstance(kinds, list):
        rest = [kind for kind in kinds if kind != "null"]
        out["type"] = "number" if set(rest) == {"integer", "number"} else rest[0]
        if len(rest) < len(kinds):
            out["nullable"] = True
    choices = out.get("anyOf")
    if isinstance(choices, list) and {"type": "null"} in choices:
        rest_of = [choice for choice in choices if choice != {"type": "null"}]
        del out["anyOf"]
        out |= {"allOf": rest_of, "nullable": True} if len(rest_of) == 1 else {"anyOf": rest_of, "nullable": True}
    if out.get("default", ...) is None:
        del out["default"]
    if out.get("required") == []:
        del out["required"]
    if isinstance(out.get("description"), str):
        out["description"] = _SOURCE.sub("", out["description"])
    return out
