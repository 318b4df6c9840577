"""The two kinds of answer that routes give: JSON of a typed model, and nothing at all."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from flask import Response

JSON = "application/json; charset=utf-8"


def json_response(body: Any, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """A model, or plain data, as JSON."""
    return Response(msgspec.json.encode(body), status=int(status), content_type=JSON)


def empty_response(status: HTTPStatus, **headers: str) -> Response:
    """A body of no bytes, and so of no type; underscores in header names stand for dashes."""
    response = Response(status=int(status))
    del response.headers["Content-Type"]
    for name, value in headers.items():
        response.headers[name.replace("_", "-")] = value
    return response
