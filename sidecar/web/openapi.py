"""The OpenAPI document and its page, both from local files.

Invariant: schemas are generated from the very models that the routes encode. Nothing here refers to another host.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from flask import Blueprint, Response, redirect, send_from_directory
from swagger_ui_bundle import swagger_ui_path
from werkzeug.wrappers import Response as BaseResponse

from sidecar import __version__
from sidecar.web import read_v3
from sidecar.web.errors import ErrorBody
from sidecar.web.responses import empty_response, json_response
from sidecar.web.service_pages import Ready, Status, UsageLogs

DOCUMENT_NAME = "vision-v3.2-read"
bp = Blueprint("openapi", __name__, url_prefix="/swagger")

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Tollgate API</title>
<link rel="stylesheet" href="assets/swagger-ui.css"><link rel="icon" href="../static/icon.svg">
</head><body><div id="swagger-ui"></div>
<script src="assets/swagger-ui-bundle.js"></script><script src="../static/swagger.js"></script></body></html>
"""


@bp.get("", strict_slashes=False)
def root() -> BaseResponse:
    """To the page; relative, so that it works behind any proxy."""
    return redirect("/swagger/index.html")


@bp.get("/")
@bp.get("/index.html")
def page() -> Response:
    """The page with 'Try it out'."""
    return Response(_PAGE, content_type="text/html; charset=utf-8")


@bp.get("/assets/<path:name>")
def asset(name: str) -> Response:
    """Script and style of the page, from the installed package."""
    return send_from_directory(str(swagger_ui_path), name)


@bp.get("/<name>/swagger.json")
def document(name: str) -> Response:
    """The OpenAPI document."""
    if name not in {DOCUMENT_NAME, "v1"}:
        return empty_response(HTTPStatus.NOT_FOUND)
    return json_response(build_document())


def build_document() -> dict[str, Any]:
    """OpenAPI 3.0 for Read 3.2 and the service's own routes."""
    models = [read_v3.ReadOperationResult, ErrorBody, Ready, Status, UsageLogs]
    schemas, components = msgspec.json.schema_components(models, ref_template="#/components/schemas/{name}")
    result, error, ready, status, usage = schemas
    read = read_v3.V3_2.prefix
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "Tollgate Read API",
            "version": __version__,
            "description": "On-prem OCR in the words of the Read 3.2 API. Nothing here leaves this machine.",
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": "Read 3.2"}, {"name": "Service"}],
        "paths": {
            f"{read}/analyze": {
                "post": _operation(
                    "Read 3.2",
                    "Start reading a document",
                    "readAnalyze",
                    {
                        "202": {
                            "description": "Accepted; fetch the result from Operation-Location.",
                            "headers": {"Operation-Location": {"schema": {"type": "string", "format": "uri"}}},
                        },
                        **_errors(error, 400, 403, 415, 500, 503),
                    },
                    parameters=_read_parameters(),
                    body=True,
                )
            },
            f"{read}/syncAnalyze": {
                "post": _operation(
                    "Read 3.2",
                    "Read a document and wait for the result",
                    "readSyncAnalyze",
                    {"200": _answer("The result.", result), **_errors(error, 400, 403, 415, 500, 503)},
                    parameters=_read_parameters(),
                    body=True,
                )
            },
            **{
                f"{read}/{word}/{{operationId}}": {
                    "get": _operation(
                        "Read 3.2",
                        "Fetch a result",
                        name,
                        {"200": _answer("How the operation stands.", result), **_errors(error, 404)},
                        parameters=[
                            {
                                "name": "operationId",
                                "in": "path",
                                "required": True,
                                "schema": {"type": "string", "format": "uuid"},
                            }
                        ],
                    )
                }
                for word, name in (("analyzeResults", "getReadResult"), ("operations", "getReadOperation"))
            },
            "/ready": {
                "get": _operation(
                    "Service",
                    "Whether a query would be served",
                    "ready",
                    {"200": _answer("It would.", ready), "503": _answer("It would not, and why.", ready)},
                )
            },
            "/status": {
                "get": _operation("Service", "State and reason", "status", {"200": _answer("The state.", status)})
            },
            "/records/usage-logs/": {
                "get": _operation("Service", "Totals of all usage", "usageLogs", {"200": _answer("The totals.", usage)})
            },
            "/records/usage-logs/{month}/{year}": {
                "get": _operation(
                    "Service",
                    "Totals of one month",
                    "usageLogsOfMonth",
                    {"200": _answer("The totals.", usage), **_errors(error, 400)},
                    parameters=[
                        {
                            "name": "month",
                            "in": "path",
                            "required": True,
                            "schema": {"type": "string", "example": "03"},
                        },
                        {
                            "name": "year",
                            "in": "path",
                            "required": True,
                            "schema": {"type": "string", "example": "2031"},
                        },
                    ],
                )
            },
        },
        "components": {"schemas": _plain(components)},
    }


def _operation(
    tag: str,
    summary: str,
    name: str,
    responses: dict[str, Any],
    *,
    parameters: list[dict[str, Any]] | None = None,
    body: bool = False,
) -> dict[str, Any]:
    operation: dict[str, Any] = {"tags": [tag], "summary": summary, "operationId": name}
    if parameters:
        operation["parameters"] = parameters
    if body:
        binary = {"schema": {"type": "string", "format": "binary"}}
        operation["requestBody"] = {
            "required": True,
            "description": "A JPEG, PNG, BMP, TIFF or PDF document.",
            "content": dict.fromkeys(
                ("application/octet-stream", "application/pdf", "image/jpeg", "image/png", "image/tiff"), binary
            ),
        }
    return {**operation, "responses": responses}


def _read_parameters() -> list[dict[str, Any]]:
    def query(name: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
        return {"name": name, "in": "query", "required": False, "schema": schema, "description": text}

    return [
        query("language", {"type": "string"}, "BCP-47 code; leave out to detect."),
        query("pages", {"type": "string"}, "Pages of a PDF or TIFF, such as 1,3-5,8-."),
        query("readingOrder", {"type": "string", "enum": ["basic", "natural"], "default": "basic"}, "Order of lines."),
        query(
            "model-version",
            {"type": "string", "pattern": read_v3.MODEL_VERSION_PATTERN, "default": "latest"},
            "Accepted for compatibility.",
        ),
    ]


def _answer(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _errors(schema: dict[str, Any], *statuses: int) -> dict[str, Any]:
    words = {
        400: "The document or a parameter is at fault.",
        403: "Not licensed, or cut off.",
        404: "No such operation.",
        415: "The Content-Type holds no document.",
        500: "The document could not be processed.",
        503: "Not ready; come back later.",
    }
    return {str(status): _answer(words[status], schema) for status in statuses}


def _plain(schema: Any) -> Any:
    """JSON Schema 2020-12 as OpenAPI 3.0 spells it: `nullable` in place of a null alternative."""
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
    return out
