"""The clerk's pages: what there is, what needs a person, and the round trip of a bundle, in a browser without scripts.

Invariants:

* A page shows what the rooms below tell, and a form calls one of their use cases in the clerk's name; nothing is
  decided here, and nothing is kept here.
* Everything that came from outside (a customer's name, a finding's text) reaches a page as text, which the template
  escapes.
* A refusal is a page with the cause and the next step. What is wrong on this side is told to the clerk, who is the
  vendor's own, and to the log; to somebody who is not logged in it is told to the log alone.
"""

from http import HTTPStatus

import structlog
from flask import Blueprint, Flask, Response, current_app, g, request, url_for
from jinja2 import StrictUndefined
from werkzeug.exceptions import HTTPException, NotFound

from licenses.authority.attention import attention
from licenses.authority.reconcile import SILENT_AFTER
from licenses.authority.web import clerk_accounts, clerk_devices, clerk_usage
from licenses.authority.web.clerk_desk import desk
from licenses.authority.web.clerk_page import page, visitor
from licenses.authority.web.clerk_text import FILTERS
from licenses.authority.web.errors import RequestRefusedError, wire_error
from licenses.authority.web.login import EXTENSION, Door, is_closed, register_door
from licenses.authority.web.services import Services, services
from licenses.authority.web.wire import ErrorBody
from licenses.errors import (
    AccountError,
    AuthorityError,
    ClerkAccessError,
    ForkError,
    IssueError,
    LicensesError,
    TooManyTriesError,
)

PREFIX = "/clerk"
ATTENTION_SHOWN = 8

_TITLES = {
    HTTPStatus.BAD_REQUEST: "That cannot be read",
    HTTPStatus.FORBIDDEN: "Not allowed",
    HTTPStatus.NOT_FOUND: "There is no such page",
    HTTPStatus.METHOD_NOT_ALLOWED: "There is no such page",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "That is too large",
    HTTPStatus.TOO_MANY_REQUESTS: "Too many tries",
    HTTPStatus.SERVICE_UNAVAILABLE: "Not now",
    HTTPStatus.INTERNAL_SERVER_ERROR: "Something is wrong here",
}
_log = structlog.get_logger("Tollgate.Authority")


def register_clerk(app: Flask, behind: Services) -> None:
    """Put the clerk's pages into an application; without an office there are none.

    Args:
        app: The application, which carries the services already.
        behind: The same services.
    """
    office = behind.clerk
    if office is None:
        return
    app.extensions[EXTENSION] = Door(behind.database, office.clock, office.access)
    app.jinja_env.filters.update(FILTERS)
    app.jinja_env.undefined = StrictUndefined
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    bp = Blueprint(
        "clerk",
        __name__,
        url_prefix=PREFIX,
        template_folder="templates",
        static_folder="static",
        static_url_path="/static",
    )
    register_door(bp)
    bp.get("/", endpoint="overview")(overview)
    clerk_accounts.add_to(bp)
    clerk_devices.add_to(bp)
    clerk_usage.add_to(bp)
    bp.route("/<path:_rest>", methods=["GET", "POST"], endpoint="nowhere")(_nowhere)
    bp.register_error_handler(LicensesError, _refused)
    bp.register_error_handler(RequestRefusedError, _unusable)
    bp.register_error_handler(HTTPException, _foreign)
    bp.register_error_handler(Exception, _unexpected)
    app.register_blueprint(bp)
    app.add_url_rule(PREFIX, endpoint="clerk_door", view_func=_to_overview)
    app.add_url_rule("/", endpoint="front_door", view_func=_from_the_root)


def overview() -> Response:
    """What needs a person today, and the way to everything else."""
    one = desk()
    now = one.now()
    licenses = [each for each in one.licensing.newest_licenses() if each.expires_at - now <= clerk_devices.SOON]
    devices = one.licensing.devices.all()
    silent = sorted(
        (each for each in devices if now - (each.last_report_at or each.enrolled_at) > SILENT_AFTER),
        key=lambda each: each.last_report_at or each.enrolled_at,
    )
    return page(
        "overview.html",
        here="overview",
        customers=len(one.accounts.customers()),
        devices=len(devices),
        ending=licenses,
        silent=silent,
        shown=ATTENTION_SHOWN,
        owners=one.owners(),
        lines=one.trail.lines(limit=ATTENTION_SHOWN),
        max_bytes=clerk_usage.largest_bundle(),
        matters=attention(services(current_app).database, at=now),
    )


def _to_overview() -> Response:
    return Response(status=HTTPStatus.PERMANENT_REDIRECT, headers={"Location": f"{PREFIX}/"})


def _from_the_root() -> Response:
    """A person is led to the clerk's pages; for a program there is nothing at the root."""
    if "text/html" not in request.accept_mimetypes.values():
        raise NotFound
    return Response(status=HTTPStatus.SEE_OTHER, headers={"Location": f"{PREFIX}/", "Vary": "Accept"})


def _nowhere(_rest: str) -> Response:
    raise NotFound


# ---- refusals -------------------------------------------------------------------------------------------------------


def _refused(exc: LicensesError) -> Response:
    known = visitor().name is not None
    match exc:
        case TooManyTriesError():
            status, ours = HTTPStatus.TOO_MANY_REQUESTS, False
        case ClerkAccessError():
            status, ours = HTTPStatus.FORBIDDEN, False
        case AccountError() | IssueError():
            status, ours = HTTPStatus.CONFLICT, False
        case _:
            wire = wire_error(exc)
            status, ours = wire.status, wire.is_ours or wire.status is HTTPStatus.SERVICE_UNAVAILABLE
    if ours:
        _log.error("the clerk's page cannot answer", code=exc.code, error=str(exc), next_step=exc.next_step)
    cause, step = str(exc), exc.next_step
    if ours and not known:
        cause, step = "the service cannot use one of its own files", "Look into the service's log: it names the file."
    g.refusal = ErrorBody("Unknown", exc.code, "", "")
    answer = _refusal(status, cause, step, proof=exc.name if isinstance(exc, ForkError) else "")
    if isinstance(exc, AuthorityError) and exc.retry_after is not None:
        answer.headers["Retry-After"] = str(max(1, exc.retry_after))
    return answer


def _unusable(exc: RequestRefusedError) -> Response:
    g.refusal = ErrorBody("Unknown", exc.code, "", "")
    return _refusal(exc.status, str(exc), exc.next_step)


def _foreign(exc: HTTPException) -> Response:
    status = HTTPStatus(exc.code or HTTPStatus.INTERNAL_SERVER_ERROR)
    return _refusal(status, "the address or the form is not one of this service", "Begin at the overview.")


def _unexpected(exc: Exception) -> Response:
    _log.error("the clerk's page failed unexpectedly", route=str(request.url_rule), error=repr(exc), exc_info=exc)
    return _refusal(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "the page could not be made",
        "Try again; if it stays so, look into the service's log.",
    )


def _refusal(status: HTTPStatus, cause: str, next_step: str, *, proof: str = "") -> Response:
    return page(
        "refused.html",
        here="",
        status=status,
        title="That log has two histories" if proof else _TITLES.get(status, "That was refused"),
        code=int(status),
        cause=cause,
        next_step=next_step,
        has_proof=bool(proof),
        closed=is_closed(),
        back=_back(),
    )


def _back() -> str:
    """The page that the form was on, as far as the browser tells it and it is one of ours."""
    referrer = (request.referrer or "").removeprefix(request.host_url.rstrip("/"))
    return referrer if referrer.startswith(f"{PREFIX}/") else url_for("clerk.overview")
