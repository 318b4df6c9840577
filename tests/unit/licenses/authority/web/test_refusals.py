"""Errors on the wire: each kind has its status word, its HTTP status, and says nothing of this side's files."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from flask import Flask
from werkzeug.test import TestResponse

from licenses import errors as family
from licenses.authority.web import errors
from licenses.authority.web.wire import ErrorBody, Word
from licenses.errors import (
    AuthorityError,
    BadSignatureError,
    BusyError,
    ClerkAccessError,
    ConflictError,
    ExchangeError,
    FileAccessError,
    FolderError,
    ForkError,
    FormatError,
    InvalidKeyError,
    IssueError,
    KeyFileError,
    LicensesError,
    MismatchError,
    OutOfQuotaError,
    RecordError,
    RevokedKeyError,
    SuccessionError,
    UnauthorizedUseError,
    UnknownStateError,
    UnsupportedKeyError,
    UntrustedKeyError,
)

EXPECTED: dict[type[LicensesError], tuple[str, int]] = {
    InvalidKeyError: ("Invalid", 401),
    OutOfQuotaError: ("OutOfQuota", 402),
    UnauthorizedUseError: ("ContainerUseUnauthorized", 403),
    MismatchError: ("Mismatch", 409),
    ConflictError: ("Mismatch", 409),
    BusyError: ("BillingEndpointBusy", 503),
    UnknownStateError: ("Unknown", 503),
    FormatError: ("Unknown", 400),
    RecordError: ("Mismatch", 409),
    ExchangeError: ("Mismatch", 409),
    ForkError: ("Mismatch", 409),
    BadSignatureError: ("Mismatch", 409),
    UntrustedKeyError: ("Mismatch", 409),
    RevokedKeyError: ("Mismatch", 409),
    IssueError: ("Unknown", 503),
    KeyFileError: ("Unknown", 503),
    FolderError: ("Unknown", 503),
    FileAccessError: ("Unknown", 503),
    UnsupportedKeyError: ("Unknown", 503),
    SuccessionError: ("Unknown", 503),
    ClerkAccessError: ("Unknown", 503),  # of the clerk's pages, which say it in their own words
    LicensesError: ("Unknown", 503),
}


def raised(exc: Exception) -> TestResponse:
    """What a route that raises it answers."""
    app = Flask("test")
    errors.register(app)

    @app.get("/it")
    def it() -> str:
        raise exc

    return app.test_client().get("/it")


def an_error(kind: type[LicensesError], cause: str = "because of Tuesday") -> LicensesError:
    if issubclass(kind, FileAccessError):
        return kind(cause, path=Path("/var/lib/authority/ack.key"), next_step="chmod it")
    return kind(cause)


@pytest.mark.parametrize("kind", EXPECTED)
def test_each_kind_has_its_word_and_status(kind: type[LicensesError]) -> None:
    answer = raised(an_error(kind))
    told = msgspec.json.decode(answer.data, type=ErrorBody)
    assert (told.status, answer.status_code) == EXPECTED[kind]
    assert told.code == kind.code
    assert told.message
    assert told.next_step
    assert answer.mimetype == "application/json"


def family_of(kind: type[LicensesError]) -> set[type[LicensesError]]:
    found = {kind}
    for child in kind.__subclasses__():
        found |= family_of(child)
    return found


def test_no_kind_is_forgotten() -> None:
    for kind in family_of(LicensesError):
        if kind.__module__ == family.__name__:
            wire = errors.wire_error(an_error(kind))
            assert wire.word in get_args(Word)
            assert issubclass(kind, AuthorityError) or kind in EXPECTED, kind


@pytest.mark.parametrize("kind", EXPECTED)
def test_who_may_come_back_is_told_when_and_nobody_else(kind: type[LicensesError]) -> None:
    retry_after = raised(an_error(kind)).headers.get("Retry-After")
    if EXPECTED[kind][1] == HTTPStatus.SERVICE_UNAVAILABLE:
        assert retry_after is not None
        assert int(retry_after) >= 1
    else:
        assert retry_after is None


@pytest.mark.parametrize(("told", "shown"), [(7, "7"), (0, "1"), (None, "5")])
def test_the_time_to_wait_is_that_of_the_error(told: int | None, shown: str) -> None:
    assert raised(BusyError("busy", retry_after=told)).headers["Retry-After"] == shown


@pytest.mark.parametrize(
    "exc",
    [
        UnknownStateError(
            "the disk of the database /var/lib/authority/a.db is full", next_step="Free /var/lib/authority"
        ),
        BusyError("the database /var/lib/authority/a.db is busy"),
        an_error(KeyFileError, "cannot read /var/lib/authority/ack.key: Permission denied"),
        ValueError("/var/lib/authority"),
    ],
)
def test_no_path_of_this_side_is_told(exc: Exception) -> None:
    answer = raised(exc)
    assert answer.status_code >= 500
    assert "/var/lib" not in answer.text
    assert "Traceback" not in answer.text


def test_what_is_left_of_a_cause_still_says_what_it_is() -> None:
    cause = "the disk of the database /var/lib/authority/a.db is full"
    assert raised(UnknownStateError(cause)).get_json()["message"] == "the disk of the database is full"


def test_a_fork_comes_with_the_text_of_its_proof() -> None:
    proof = b'{"first":"x","schema":1}\n'
    told = raised(ForkError("forked", proof=proof, name="fork-x-1-2.json")).get_json()
    assert (told["proof"], told["proofName"]) == (proof.decode(), "fork-x-1-2.json")
    without = raised(ForkError("forked")).get_json()
    assert "proof" not in without


@pytest.mark.parametrize(
    ("path", "method", "status", "code"),
    [("/other", "GET", 404, "not_found"), ("/it", "DELETE", 405, "method_not_allowed")],
)
def test_what_is_no_route(path: str, method: str, status: int, code: str) -> None:
    app = Flask("test")
    errors.register(app)
    app.add_url_rule("/it", view_func=lambda: "", methods=["GET"])
    answer: Any = app.test_client().open(path, method=method)
    assert (answer.status_code, answer.get_json()["code"]) == (status, code)
    assert ("Allow" in answer.headers) is (status == HTTPStatus.METHOD_NOT_ALLOWED)
