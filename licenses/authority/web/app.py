"""The application: which routes there are, what every answer carries, and what the log says of it."""

import time

import structlog
from flask import Flask, Response, g, request
from werkzeug.routing import BaseConverter

from licenses.authority.web import api, bodies, clerk, errors, worker
from licenses.authority.web.services import EXTENSION, Services

_QUIET = {f"{api.PREFIX}/health", f"{api.PREFIX}/openapi.json"}
_log = structlog.get_logger("Tollgate.Authority")


class Number(BaseConverter):
    """A whole number in a path, `<number:size>`, that the database can hold; others are no page."""

    regex = "[0-9]{1,16}"

    def to_python(self, value: str) -> int:
        """The number."""
        return int(value)


def create_app(services: Services) -> Flask:
    """Build the application around services already built; opens nothing, starts nothing."""
    app = Flask("licenses.authority.web")
    app.extensions[EXTENSION] = services
    app.url_map.merge_slashes = False
    app.url_map.converters["number"] = Number
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.register_blueprint(api.bp)
    clerk.register_clerk(app, services)
    errors.register(app)
    app.before_request(_begin)
    app.after_request(_finish)
    return app


def _begin() -> None:
    g.began = time.monotonic()


def _finish(response: Response) -> Response:
    if bodies.is_unread(request):
        worker.close_after_answer()
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Cache-Control", "no-store")
    _tell(response)
    return response


def _tell(response: Response) -> None:
    """One line for each request: who, what, how it ended; no key, no address, nothing of the body."""
    route = errors.route()
    if route in _QUIET and response.status_code < 400:
        return
    refusal = g.get("refusal")
    _log.info(
        "request",
        method=request.method if request.url_rule else "",
        route=route,
        status=response.status_code,
        **({"word": refusal.status, "code": refusal.code} if refusal is not None else {}),
        **({"subscription": g.subscription} if "subscription" in g else {}),
        **g.get("facts", {}),
        milliseconds=round((time.monotonic() - g.get("began", time.monotonic())) * 1000, 1),
    )
