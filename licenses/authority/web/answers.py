"""The two kinds of answer that routes give: JSON of a model, and a file."""

from http import HTTPStatus

import msgspec
from flask import Response

JSON = "application/json"


def json_response(body: msgspec.Struct, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """A model as JSON."""
    return Response(msgspec.json.encode(body), status=int(status), content_type=JSON)


def file_response(blob: bytes, name: str) -> Response:
    """A signed file, which is JSON too, under the name to keep it by.

    Args:
        blob: The file's bytes, which reach the client as they are.
        name: Its name; of letters, digits, dots and dashes alone.
    """
    return Response(blob, content_type=JSON, headers={"Content-Disposition": f'attachment; filename="{name}"'})
