"""Errors on the wire: the family mapped to status and code in one place, then said in the dialect of the version.

Invariant: nothing but JSON (or, for unrouted paths and wrong methods, nothing at all) leaves a route as an error; no
traceback does. (What is no HTTP at all reaches no route; the server answers that itself.)
`Retry-After` goes with 503 alone, in whole seconds, because clients retry whatever carries it (contract E.9).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from operator import attrgetter
from typing import get_type_hints

import msgspec
import structlog
from flask import Flask, Response, current_app, render_template, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from sidecar.admission import NotServingError
from sidecar.errors import (
    AckRefusedError,
    BillingError,
    ClockRefusedError,
    CoreBusyError,
    CoreDownError,
    CoreRefusedError,
    CoreTimeoutError,
    CoreUnavailableError,
    DeployError,
    DocumentRefusedError,
    LedgerConflictError,
    LedgerForkError,
    LedgerUnavailableError,
    LicenseDownloadError,
    MeterAlreadyRunningError,
    NothingToExportError,
    OperationNotFoundError,
    OutputUnwritableError,
    QueueFullError,
    RecognitionError,
    SettingsError,
    SidecarError,
    SlowDocumentError,
    SpoolUnavailableError,
)
from sidecar.gate import State
from sidecar.states import STATES
from sidecar.web.origin import root
from sidecar.web.responses import empty_response, json_response

NOT_FOUND_TEXT = (
    "Operation ID is invalid, expired or the results matching this operationId have been deleted."  # contract E.1.2
)
_RETRY_SECONDS = 5
_API = ("/vision/", "/computervision/")
_DIALECTS = "sidecar.dialects"
_log = structlog.get_logger("Tollgate.Web")


class ErrorDetail(msgspec.Struct, frozen=True):
    """Code and message of an error (contract E.1.4)."""

    code: str
    message: str


class ErrorBody(msgspec.Struct, frozen=True):
    """The wrapped form, which the original service was seen to answer."""

    error: ErrorDetail


class FlatError(msgspec.Struct, frozen=True, rename="camel"):
    """The flat form, which the original service documents."""

    code: str
    message: str
    request_id: str


class InnerError(msgspec.Struct, frozen=True):
    """What exactly is wrong."""

    code: str
    message: str


class OuterError(msgspec.Struct, frozen=True, omit_defaults=True):
    """What kind of thing is wrong, and what exactly."""

    code: str
    message: str
    innererror: InnerError | None = None


class NestedError(msgspec.Struct, frozen=True):
    """The form of `/ocr` 3.2 and of Image Analysis: a general code outside, the particular one inside."""

    error: OuterError


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What is to be said, in no version's words.

    Attributes:
        status: HTTP status.
        code: Code of contract E.1.4 or C.3.
        message: For people.
    """

    status: HTTPStatus
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one API version says an error.

    Attributes:
        body: The model of the body.
        codes: What the version calls a code; those not named keep their name.
        code_header: Header that repeats a code; empty for none.
        header_code: The code that it repeats.
    """

    body: Callable[[Refusal], msgspec.Struct]
    codes: Mapping[str, str] = field(default_factory=dict)
    code_header: str = ""
    header_code: Callable[[Refusal], str] = attrgetter("code")


def wrapped_body(refusal: Refusal) -> ErrorBody:
    """`{"error": {"code", "message"}}`."""
    return ErrorBody(ErrorDetail(refusal.code, refusal.message))


def flat_body(refusal: Refusal) -> FlatError:
    """`{"code", "message", "requestId"}`."""
    return FlatError(refusal.code, refusal.message, str(uuid.uuid4()))


def outer_code(refusal: Refusal) -> str:
    """The general code that holds a particular one (contract E.5, E.6); one that is general already is its own."""
    if refusal.status in {HTTPStatus.FORBIDDEN, HTTPStatus.SERVICE_UNAVAILABLE}:
        return refusal.code
    return "InternalServerError" if refusal.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "InvalidRequest"


def nested_body(refusal: Refusal) -> NestedError:
    """`{"error": {"code", "message", "innererror": {"code", "message"}}}`."""
    outer = outer_code(refusal)
    inner = None if outer == refusal.code else InnerError(refusal.code, refusal.message)
    return NestedError(OuterError(outer, refusal.message, inner))


OBSERVED = Dialect(body=wrapped_body)
"""What Read 3.2 was seen to answer, and everything that belongs to no version."""

DOCUMENTED = Dialect(body=flat_body)
"""What Read 3.2 documents, chosen by `ErrorCompat=documented`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WireError:
    """What one error becomes.

    Attributes:
        status: HTTP status.
        code: Code of contract E.1.4 or C.3.
        message: For people; None takes the error's own text.
        retry: Whether coming back later may help.
    """

    status: HTTPStatus
    code: str
    message: str | None = None
    retry: bool = False


WIRE_ERRORS: dict[type[SidecarError], WireError] = {
    OperationNotFoundError: WireError(status=HTTPStatus.NOT_FOUND, code="BadArgument", message=NOT_FOUND_TEXT),
    DocumentRefusedError: WireError(status=HTTPStatus.BAD_REQUEST, code="InvalidRequest"),
    NotServingError: WireError(status=HTTPStatus.FORBIDDEN, code="NoCredit"),
    CoreRefusedError: WireError(status=HTTPStatus.FORBIDDEN, code="NoCredit"),
    QueueFullError: WireError(
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        code="ServiceUnavailable",
        message="Too many operations are waiting; try again later.",
        retry=True,
    ),
    CoreDownError: WireError(status=HTTPStatus.SERVICE_UNAVAILABLE, code="ServiceUnavailable", retry=True),
    CoreBusyError: WireError(
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        code="ServiceUnavailable",
        message="The machine is too busy to read the document now; try again later.",
        retry=True,
    ),
    CoreTimeoutError: WireError(
        status=HTTPStatus.INTERNAL_SERVER_ERROR,
        code="FailedToProcess",
        message="The document took too long to process.",
    ),
    SlowDocumentError: WireError(
        status=HTTPStatus.INTERNAL_SERVER_ERROR,
        code="FailedToProcess",
        message="The document took too long to process.",
    ),
    CoreUnavailableError: WireError(
        status=HTTPStatus.INTERNAL_SERVER_ERROR, code="FailedToProcess", message="The document could not be processed."
    ),
    RecognitionError: WireError(
        status=HTTPStatus.INTERNAL_SERVER_ERROR, code="FailedToProcess", message="The document could not be processed."
    ),
    SpoolUnavailableError: WireError(
        status=HTTPStatus.INTERNAL_SERVER_ERROR, code="StorageException", message="The result store cannot be used."
    ),
    LedgerUnavailableError: WireError(
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        code="ServiceUnavailable",
        message="Usage cannot be recorded, so nothing is served.",
        retry=True,
    ),
    LedgerConflictError: WireError(status=HTTPStatus.INTERNAL_SERVER_ERROR, code="InternalServerError"),
    # These belong to start-up, meter and commands; no route raises them, and if one did it would be our fault.
    OutputUnwritableError: WireError(status=HTTPStatus.INTERNAL_SERVER_ERROR, code="InternalServerError"),
    BillingError: WireError(status=HTTPStatus.INTERNAL_SERVER_ERROR, code="InternalServerError"),
    LicenseDownloadError: WireError(status=HTTPStatus.INTERNAL_SERVER_ERROR, code="InternalServerError"),
    DeployError: WireError(status=HTTPStatus.INTERNAL_SERVER_ERROR, code="InternalServerError"),
    ClockRefusedError: WireError(status=HTTPStatus.INTERNAL_SERVER_ERROR, code="InternalServerError"),
    NothingToExportError: WireError(status=HTTPStatus.INTERNAL_SERVER_ERROR, code="InternalServerError"),
    AckRefusedError: WireError(status=HTTPStatus.INTERNAL_SERVER_ERROR, code="InternalServerError"),
    LedgerForkError: WireError(status=HTTPStatus.INTERNAL_SERVER_ERROR, code="InternalServerError"),
    MeterAlreadyRunningError: WireError(status=HTTPStatus.INTERNAL_SERVER_ERROR, code="InternalServerError"),
    SettingsError: WireError(status=HTTPStatus.INTERNAL_SERVER_ERROR, code="InternalServerError"),
}


class UnsupportedMediaTypeError(SidecarError):
    """The request's Content-Type is none that the route takes."""

    code = "unsupported_media_type"


WIRE_ERRORS[UnsupportedMediaTypeError] = WireError(
    status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE, code="UnsupportedMediaType"
)


def wire_error(exc: SidecarError) -> WireError:
    """What an error becomes on the wire; the details of a refusal come from the error itself."""
    known = WIRE_ERRORS[type(exc)]
    if isinstance(exc, DocumentRefusedError):
        return WireError(status=known.status, code=exc.reason, message=str(exc))
    if isinstance(exc, NotServingError):
        info = STATES[exc.verdict.state]
        if info.http_status == HTTPStatus.SERVICE_UNAVAILABLE:
            return WireError(
                status=HTTPStatus.SERVICE_UNAVAILABLE,
                code="ServiceUnavailable",
                message=str(exc),
                retry=exc.verdict.state is not State.HOST_UNSUPPORTED,
            )
    if isinstance(exc, CoreRefusedError) and exc.reason == "CpuUnsupported":
        return WireError(status=HTTPStatus.SERVICE_UNAVAILABLE, code="ServiceUnavailable", message=str(exc))
    return known


def register(app: Flask, dialects: Mapping[str, Dialect]) -> None:
    """Answer every error in the dialect of the version that was asked.

    Args:
        app: The application.
        dialects: By the name of the blueprint that serves the version; what has none speaks `OBSERVED`.
    """
    app.extensions[_DIALECTS] = dialects

    def ours(exc: SidecarError) -> Response:
        wire = wire_error(exc)
        message = wire.message if wire.message is not None else str(exc)
        log = _log.error if wire.status >= HTTPStatus.INTERNAL_SERVER_ERROR else _log.debug
        if wire.status == HTTPStatus.SERVICE_UNAVAILABLE:
            log = _log.warning  # it heals by itself or is told elsewhere; a full queue refuses by the thousand
        # A refusal of the request may quote it; what a client sent never reaches a log.
        quotes = isinstance(exc, DocumentRefusedError | UnsupportedMediaTypeError)
        cause = {} if quotes else {"cause": str(exc)}
        log("request refused", route=_route(), status=int(wire.status), code=wire.code, **cause)
        return error_response(wire.status, wire.code, message, retry=wire.retry)

    def foreign(exc: HTTPException) -> Response:
        if isinstance(exc, MethodNotAllowed):
            return empty_response(HTTPStatus.METHOD_NOT_ALLOWED, Allow=", ".join(sorted(exc.valid_methods or ())))
        if exc.code == HTTPStatus.NOT_FOUND:
            return lost_page() if _is_of_a_person() else empty_response(HTTPStatus.NOT_FOUND)
        if exc.code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return error_response(HTTPStatus.BAD_REQUEST, "InvalidImageSize", "Input image is too large.")
        status = HTTPStatus(exc.code or 500)
        return error_response(status, "BadArgument", exc.description or status.phrase)

    def unexpected(exc: Exception) -> Response:
        _log.error("request failed unexpectedly", route=_route(), error=repr(exc), exc_info=exc)
        return error_response(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            "InternalServerError",
            "The request could not be processed.",
        )

    app.register_error_handler(SidecarError, ours)
    app.register_error_handler(HTTPException, foreign)
    app.register_error_handler(Exception, unexpected)


def error_model(app: Flask, blueprint: str) -> type[msgspec.Struct]:
    """The model of the errors of a blueprint's routes: what its dialect's `body` says that it returns."""
    dialect: Dialect = app.extensions[_DIALECTS].get(blueprint, OBSERVED)
    model: type[msgspec.Struct] = get_type_hints(dialect.body)["return"]
    return model


def error_response(status: HTTPStatus, code: str, message: str, *, retry: bool = False) -> Response:
    """One error body with its headers, in the dialect of the version that was asked."""
    dialect: Dialect = current_app.extensions[_DIALECTS].get(request.blueprint, OBSERVED)
    code = dialect.codes.get(code, code)
    refusal = Refusal(status=status, code=code, message=message)
    response = json_response(dialect.body(refusal), status)
    if dialect.code_header:
        response.headers[dialect.code_header] = dialect.header_code(refusal)
    if retry:
        response.headers["Retry-After"] = str(_RETRY_SECONDS)
    return response


def lost_page() -> Response:
    """Where a page may be that is not here; it does not repeat what was asked for."""
    page = render_template("lost.html", root=root())
    return Response(page, HTTPStatus.NOT_FOUND, {"Vary": "Accept"}, content_type="text/html; charset=utf-8")


def _is_of_a_person() -> bool:
    """Whether a browser asks for a page, and not a client for an answer of the API, which has no body (contract D)."""
    pages = request.method in {"GET", "HEAD"} and "text/html" in request.accept_mimetypes.values()
    return pages and not request.path.lower().startswith(_API)


def _route() -> str:
    """The route's pattern; never the path itself, which a client may have put anything into."""
    return request.url_rule.rule if request.url_rule else "(none)"
