"""Refusals on the wire: the family of errors mapped to status words and HTTP statuses, in one place.

Invariants:

* Every refusal is JSON with a status word, a code that never changes, a cause and a next step; no traceback leaves.
* `Retry-After` goes with 429 and 503 alone, in whole seconds, because clients repeat whatever carries it.
* What failed on this side (a key file, the disk) is told in the log, not to whoever asked: it names our paths.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast

import structlog
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from licenses.authority.web.answers import json_response
from licenses.authority.web.wire import ErrorBody, Word
from licenses.errors import (
    AuthorityError,
    BadSignatureError,
    ExchangeError,
    FileAccessError,
    ForkError,
    FormatError,
    IssueError,
    LicensesError,
    RecordError,
    UntrustedKeyError,
)

STATUSES: Mapping[str, HTTPStatus] = {
    "Invalid": HTTPStatus.UNAUTHORIZED,
    "OutOfQuota": HTTPStatus.PAYMENT_REQUIRED,
    "ContainerUseUnauthorized": HTTPStatus.FORBIDDEN,
    "Mismatch": HTTPStatus.CONFLICT,
    "BillingEndpointBusy": HTTPStatus.SERVICE_UNAVAILABLE,
    "Unknown": HTTPStatus.SERVICE_UNAVAILABLE,
}
"""HTTP status of each status word that an error has."""

_UNKNOWN_SECONDS = 60
_BUSY_SECONDS = 5
PROTOCOL = "Send what docs/protocol.md describes; /tollgate/v1/openapi.json says the same for programs."
"""The next step for who sends requests, where none fits better."""
_LATER = "Try again later; if it stays so, tell the vendor the time: the service's log says what is wrong."
_FOREIGN = {
    HTTPStatus.NOT_FOUND: ("not_found", "There is nothing at this address."),
    HTTPStatus.METHOD_NOT_ALLOWED: ("method_not_allowed", "This address does not take this method."),
}
_PATH = re.compile(r" (?:/[^\s,:;]+)+")
_log = structlog.get_logger("Tollgate.Authority")


@dataclass(frozen=True, slots=True, kw_only=True)
class WireError:
    """What an error becomes.

    Attributes:
        word: The status word.
        status: The HTTP status.
        is_ours: Whether this side is at fault, so that the cause is told to the log alone.
    """

    word: Word
    status: HTTPStatus
    is_ours: bool = False


_OURS = WireError(word="Unknown", status=HTTPStatus.SERVICE_UNAVAILABLE, is_ours=True)
_DOES_NOT_FIT = WireError(word="Mismatch", status=HTTPStatus.CONFLICT)
WIRE_ERRORS: Mapping[type[LicensesError], WireError] = {
    FormatError: WireError(word="Unknown", status=HTTPStatus.BAD_REQUEST),
    RecordError: _DOES_NOT_FIT,
    ExchangeError: _DOES_NOT_FIT,
    ForkError: _DOES_NOT_FIT,
    BadSignatureError: _DOES_NOT_FIT,
    UntrustedKeyError: _DOES_NOT_FIT,
    IssueError: _OURS,
    FileAccessError: _OURS,
    LicensesError: _OURS,
}
"""What the errors that have no status word of their own become; the nearest of an error's kinds counts."""


class RequestRefusedError(Exception):
    """A request that is refused for how it was sent, before anything of it is judged.

    Attributes:
        status: HTTP status.
        code: Name of the refusal; wire format.
        next_step: What a person can do.
        word: Status word; nothing is known of the key, so mostly `Unknown`.
        retry_after: Whole seconds after which to try again; None where that changes nothing.
    """

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        cause: str,
        *,
        next_step: str = PROTOCOL,
        word: Word = "Unknown",
        retry_after: int | None = None,
    ) -> None:
        super().__init__(cause)
        self.status = status
        self.code = code
        self.next_step = next_step
        self.word = word
        self.retry_after = retry_after


def wire_error(exc: LicensesError) -> WireError:
    """Status word and HTTP status of an error."""
    if isinstance(exc, AuthorityError):
        return WireError(word=cast(Word, exc.word), status=STATUSES[exc.word])
    return next(WIRE_ERRORS[kind] for kind in type(exc).__mro__ if kind in WIRE_ERRORS)


def register(app: Flask) -> None:
    """Answer every error of an application in this form."""

    def ours(exc: LicensesError) -> Response:
        wire = wire_error(exc)
        retry_after = exc.retry_after if isinstance(exc, AuthorityError) else None
        if wire.status is HTTPStatus.SERVICE_UNAVAILABLE and retry_after is None:
            retry_after = _UNKNOWN_SECONDS if wire.word == "Unknown" else _BUSY_SECONDS
        message, step = str(exc), exc.next_step
        if isinstance(exc, FormatError) and step == FormatError.usual_step:
            step = PROTOCOL  # the usual one is for who has a file
        if wire.status is HTTPStatus.SERVICE_UNAVAILABLE:
            _log.error("the service cannot answer", route=route(), code=exc.code, error=message, next_step=step)
            message, step = _PATH.sub("", message), _LATER
        if wire.is_ours:
            message = "The service cannot use one of its own files."
        body = ErrorBody(wire.word, exc.code, message, step)
        if isinstance(exc, ForkError) and exc.proof is not None:
            body = ErrorBody(wire.word, exc.code, message, step, exc.proof.decode("utf-8"), exc.name)
        return _answer(wire.status, body, retry_after)

    def refused(exc: RequestRefusedError) -> Response:
        return _answer(exc.status, ErrorBody(exc.word, exc.code, str(exc), exc.next_step), exc.retry_after)

    def foreign(exc: HTTPException) -> Response:
        if exc.response is not None:
            return Response(status=exc.response.status_code, headers=exc.response.headers)  # a redirect
        status = HTTPStatus(exc.code or HTTPStatus.INTERNAL_SERVER_ERROR)
        code, message = _FOREIGN.get(status, ("request_malformed", f"The request is refused: {status.phrase}."))
        answer = _answer(status, ErrorBody("Unknown", code, message, PROTOCOL))
        if isinstance(exc, MethodNotAllowed):
            answer.headers["Allow"] = ", ".join(sorted(exc.valid_methods or ()))
        return answer

    def unexpected(exc: Exception) -> Response:
        _log.error("request failed unexpectedly", route=route(), error=repr(exc), exc_info=exc)
        body = ErrorBody("Unknown", "internal", "The request could not be processed.", _LATER)
        return _answer(HTTPStatus.INTERNAL_SERVER_ERROR, body)

    app.register_error_handler(LicensesError, ours)
    app.register_error_handler(RequestRefusedError, refused)
    app.register_error_handler(HTTPException, foreign)
    app.register_error_handler(Exception, unexpected)


def route() -> str:
    """The route's pattern; never the path itself, which a client may have put anything into."""
    return request.url_rule.rule if request.url_rule else "(none)"


def _answer(status: HTTPStatus, body: ErrorBody, retry_after: int | None = None) -> Response:
    g.refusal = body
    answer = json_response(body, status)
    if status is HTTPStatus.UNAUTHORIZED:
        answer.headers["WWW-Authenticate"] = "ApiKey"
    if retry_after is not None:
        answer.headers["Retry-After"] = str(max(1, retry_after))
    return answer
