"""Pages of other origins as callers (contract H28): off, unless `Sidecar:CorsAllowedOrigins` names them.

Invariant: what a browser may let another origin's page do is the same for answers, errors, preflights and unrouted
paths; the service's own pages, its records among them, are shared with nobody.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from http import HTTPStatus

from flask import Flask, Response, request
from werkzeug.exceptions import MethodNotAllowed

from sidecar.web.responses import empty_response

_EXPOSED = "Operation-Location, x-ms-error-code, Retry-After"
_HEADERS = re.compile(r"content-type|ocp-apim-subscription-key|x-ms-[a-z0-9-]{1,60}|x-bingapis-sdk-client", re.ASCII)
_MAX_AGE_SECONDS = 600


def register(app: Flask, origins: Collection[str], *, not_shared: Collection[str] = ()) -> None:
    """Let pages of other origins call this application.

    Args:
        app: The application.
        origins: `*`, or `scheme://host[:port]` of each; none adds no header to anything.
        not_shared: Names of blueprints whose answers are not for other origins.
    """
    if not origins:
        return

    def preflight() -> Response | None:
        wanted = request.headers.get("Access-Control-Request-Method", "")
        failure = request.routing_exception
        if request.method != "OPTIONS" or not wanted or not isinstance(failure, MethodNotAllowed):
            return None
        if _blueprint(app) in not_shared:
            return None
        response = empty_response(HTTPStatus.NO_CONTENT)
        if wanted in (failure.valid_methods or ()):
            response.headers["Access-Control-Allow-Methods"] = ", ".join(sorted(failure.valid_methods or ()))
            asked = request.headers.get("Access-Control-Request-Headers", "").lower()
            allowed = [name for name in map(str.strip, asked.split(",")) if _HEADERS.fullmatch(name)]
            if allowed:
                response.headers["Access-Control-Allow-Headers"] = ", ".join(allowed)
            response.headers["Access-Control-Max-Age"] = str(_MAX_AGE_SECONDS)
        response.vary.add("Access-Control-Request-Headers")
        return response

    def allow(response: Response) -> Response:
        if _blueprint(app) in not_shared:
            return response
        if "*" in origins:
            response.headers["Access-Control-Allow-Origin"] = "*"
        else:
            response.vary.add("Origin")
            named = request.headers.get("Origin", "")
            if named.lower() not in origins:
                return response
            response.headers["Access-Control-Allow-Origin"] = named
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED
        return response

    app.before_request(preflight)
    app.after_request(allow)


def _blueprint(app: Flask) -> str | None:
    """The blueprint that the request's path belongs to, also where it has no such method."""
    failure = request.routing_exception
    adapter = app.create_url_adapter(request)
    if adapter is None or not isinstance(failure, MethodNotAllowed) or not failure.valid_methods:
        return request.blueprint
    endpoint, _ = adapter.match(method=next(iter(failure.valid_methods)))
    return str(endpoint).rpartition(".")[0]
