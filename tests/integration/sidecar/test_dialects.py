"""Every error in the words of every API version, through the application's own routes (contract E.1.4, E.2, E.9)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from flask import Flask
from structlog.testing import capture_logs

from sidecar.admission import NotServingError
from sidecar.bootstrap import Services
from sidecar.errors import DocumentRefusedError, OperationNotFoundError, QueueFullError, SidecarError
from sidecar.gate import State, Verdict
from sidecar.settings import Settings
from sidecar.web.app import create_app
from sidecar.web.errors import NOT_FOUND_TEXT, WIRE_ERRORS

OBSERVED = ["/vision/v3.2/read/analyzeResults"]
FLAT = [
    *(f"/vision/v3.{version}/read/operations" for version in ("2-preview.2", "2-preview.1", "1", "1-preview.2")),
    "/vision/v3.0/read/analyzeResults",
    "/vision/v3.0-preview/read/analyzeResults",
    *(f"/vision/v2.{minor}/{name}" for minor in (0, 1) for name in ("read/operations", "textOperations")),
]
EVERY_ERROR = [
    *(
        kind("stated by the test")
        for kind in WIRE_ERRORS
        if kind not in {DocumentRefusedError, NotServingError} and kind.__init__ is SidecarError.__init__
    ),
    DocumentRefusedError("InvalidImage", "stated by the test"),
    *(NotServingError(Verdict(state=state, reason="stated by the test", serves=False)) for state in State),
]


class FailingReader:
    """Answers every question with the error that the test put in."""

    def __init__(self) -> None:
        self.error: Exception = QueueFullError("")

    def find(self, operation_id: str) -> Any:
        raise self.error


def an_app(reader: FailingReader, **settings: Any) -> Flask:
    return create_app(cast("Services", SimpleNamespace(settings=Settings(**settings), reader=reader)))


READER = FailingReader()
OBSERVED_APP = an_app(READER)
DOCUMENTED_APP = an_app(READER, error_compat="documented")


def answer(app: Flask, path: str, error: Exception) -> Any:
    READER.error = error
    return app.test_client().get(f"{path}/0b5a9f3c-6c7f-4d8e-9a1b-2c3d4e5f6071")


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: type(error).__name__)
def test_every_error_has_the_form_of_the_version(error: Exception) -> None:
    for app in (OBSERVED_APP, DOCUMENTED_APP):
        for path in OBSERVED + FLAT:
            got = answer(app, path, error)
            assert got.content_type == "application/json; charset=utf-8"
            if path in OBSERVED and app is OBSERVED_APP:
                assert list(got.json) == ["error"]
                assert list(got.json["error"]) == ["code", "message"]
            else:
                assert list(got.json) == ["code", "message", "requestId"]


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: type(error).__name__)
def test_only_what_heals_carries_retry_after_and_in_whole_seconds(error: Exception) -> None:
    for path in OBSERVED + FLAT:
        got = answer(OBSERVED_APP, path, error)
        if "Retry-After" in got.headers:
            assert got.status_code == 503
            assert got.headers["Retry-After"].isdecimal()


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: type(error).__name__)
def test_what_heals_by_itself_is_a_warning_in_the_log_and_no_error(error: Exception) -> None:
    with capture_logs() as lines:
        status = answer(OBSERVED_APP, OBSERVED[0], error).status_code
    wanted = "debug" if status < 500 else "warning" if status == 503 else "error"
    assert [(line["event"], line["status"], line["log_level"]) for line in lines] == [
        ("request refused", status, wanted)
    ]


def test_codes_are_those_of_the_version() -> None:
    damaged = DocumentRefusedError("InvalidImage", "damaged")
    assert answer(OBSERVED_APP, OBSERVED[0], damaged).json["error"]["code"] == "InvalidImage"
    assert answer(DOCUMENTED_APP, OBSERVED[0], damaged).json["code"] == "InvalidImage"
    for path in FLAT:
        assert answer(OBSERVED_APP, path, damaged).json["code"] == "InvalidImageFormat"


def test_an_error_of_ours_says_nothing_of_itself() -> None:
    for path in (OBSERVED[0], FLAT[0]):
        got = answer(OBSERVED_APP, path, ZeroDivisionError("a secret"))
        assert got.status_code == 500
        assert b"secret" not in got.data
        assert b"InternalServerError" in got.data


def test_the_text_of_an_unknown_operation_is_the_same_everywhere() -> None:
    for path in OBSERVED + FLAT:
        got = answer(OBSERVED_APP, path, OperationNotFoundError("no operation"))
        assert got.status_code == 404
        assert NOT_FOUND_TEXT.encode() in got.data
