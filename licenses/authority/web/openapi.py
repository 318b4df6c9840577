"""The OpenAPI document of the API, made from the routes as they describe themselves and from the wire models.

Invariant: nothing is written down here a second time, and nothing refers to another host.
"""

import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import msgspec
from flask import Flask

from licenses import __version__
from licenses.authority.web.described import Answer, Described, Parameter, description_of
from licenses.authority.web.wire import ErrorBody

KEY_HEADER = "Ocp-Apim-Subscription-Key"

_PLACE = re.compile(r"<(?:[^:<>]+:)?(\w+)>")
_SECURITY = "apiKey"
_RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds after which to send the same again.",
        "schema": {"type": "integer", "minimum": 1},
    }
}
_MEANINGS = {
    HTTPStatus.BAD_REQUEST: "`Unknown`: the request is malformed or incomplete.",
    HTTPStatus.UNAUTHORIZED: "`Invalid`: there is no such key, or no more.",
    HTTPStatus.PAYMENT_REQUIRED: "`OutOfQuota`: the commitment is used up, and there is no overage.",
    HTTPStatus.FORBIDDEN: "`ContainerUseUnauthorized`: the subscription is not approved.",
    HTTPStatus.NOT_FOUND: "`Unknown`: there is none.",
    HTTPStatus.REQUEST_TIMEOUT: "`Unknown`: the body came too slowly.",
    HTTPStatus.CONFLICT: "`Mismatch`: it does not fit the key, the device, or what was sent before; of a fork, with "
    "the proof.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "`Unknown`: the body is too large.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "`Unknown`: a Content-Type that is not taken here.",
    HTTPStatus.TOO_MANY_REQUESTS: "`BillingEndpointBusy`: this subscription calls too often.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "`Unknown`: the request could not be processed.",
    HTTPStatus.SERVICE_UNAVAILABLE: "`BillingEndpointBusy`, or `Unknown`: nothing was kept; send the same again.",
}


def build_document(app: Flask) -> dict[str, Any]:
    """The document of an application."""
    found = sorted(_operations(app), key=lambda one: one[0])
    models: set[type[msgspec.Struct]] = {ErrorBody}
    for _, _, said in found:
        models.add(said.answer.model)
        models |= {said.takes} if said.takes is not None else set()
    ordered = sorted(models, key=lambda model: model.__name__)
    schemas, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, Any] = {}
    for path, method, said in found:
        paths.setdefault(path, {})[method] = _operation(said, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tollgate authority",
            "version": __version__,
            "description": "The vendor's service: licences out, usage in, acknowledgements out. See docs/protocol.md.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {_SECURITY: {"type": "apiKey", "in": "header", "name": KEY_HEADER}},
        },
    }


def _operations(app: Flask) -> Iterator[tuple[str, str, Described]]:
    """Path, method and description of every route that describes itself."""
    for rule in app.url_map.iter_rules():
        said = description_of(app.view_functions[rule.endpoint])
        if said is not None:
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                yield _PLACE.sub(r"{\1}", rule.rule), method.lower(), said


def _operation(said: Described, schema_of: dict[type[msgspec.Struct], dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {"summary": said.summary, "operationId": said.operation_id}
    out["security"] = [{_SECURITY: []}] if said.needs_key else []
    if said.path:
        out["parameters"] = [_parameter(one) for one in said.path]
    if said.takes is not None:
        out["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema_of[said.takes]}}}
    elif said.takes_files:
        binary = {"schema": {"type": "string", "format": "binary"}}
        out["requestBody"] = {"required": True, "content": dict.fromkeys(said.takes_files, binary)}
    out["responses"] = {"200": _response(said.answer, schema_of)}
    for status in sorted(said.errors):
        refusal: dict[str, Any] = {
            "description": _MEANINGS[status],
            "content": {"application/json": {"schema": schema_of[ErrorBody]}},
        }
        if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
            refusal["headers"] = _RETRY_AFTER
        out["responses"][str(int(status))] = refusal
    return out


def _response(answer: Answer, schema_of: dict[type[msgspec.Struct], dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {
        "description": answer.meaning,
        "content": {"application/json": {"schema": schema_of[answer.model]}},
    }
    if answer.headers:
        out["headers"] = {
            name: {"description": meaning, "schema": {"type": "string"}} for name, meaning in answer.headers.items()
        }
    return out


def _parameter(one: Parameter) -> dict[str, Any]:
    return {
        "name": one.name,
        "in": "path",
        "required": True,
        "description": one.meaning,
        "schema": {"type": "string", "pattern": one.pattern},
        "example": one.example,
    }
