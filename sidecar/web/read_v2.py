"""Read and Recognize Text of versions 2.0 and 2.1: models, rendering and routes (contract E.4).

Invariant: what is rendered comes from the neutral `PageText` alone, and the models here are also what the OpenAPI
documents are generated from. An operation is told in the words of the route that is asked for it, whichever version
took the document in.
"""

from __future__ import annotations

from http import HTTPStatus
from types import MappingProxyType
from typing import Literal

import msgspec
from flask import Blueprint, Response, current_app

from ocr_core.page_text import Line, PageText, Word
from sidecar.core_client import DocumentRules
from sidecar.reading import READ_RULES, ReadParameters
from sidecar.results import Operation
from sidecar.web import intake
from sidecar.web.described import (
    ACCEPTED,
    DOCUMENT_ERRORS,
    OPERATION_ERRORS,
    OPERATION_ID,
    Answer,
    ApiDocument,
    Described,
    Parameter,
    described,
)
from sidecar.web.errors import Dialect, flat_body
from sidecar.web.read_v3 import EARLIER_CODES, MAX_SHEET_INCHES, waited_for
from sidecar.web.read_v3_wire import FailedSync
from sidecar.web.rendered import rendered
from sidecar.web.services import services
from sidecar.web.wording import Wording

VERSIONS = ("v2.0", "v2.1")
DIALECT = Dialect(body=flat_body, codes=EARLIER_CODES)
RULES = DocumentRules(
    formats=READ_RULES.formats, max_bytes=20 * 2**20, max_side=4199, max_pages=200, max_sheet_inches=MAX_SHEET_INCHES
)
"""Up to 20 MB, 200 pages, and below 4200 pixels: a picture of exactly 4200 was seen refused."""
LOW_CONFIDENCE = 0.7
"""Below it a word's confidence is told as `Low`; our choice, the original's is not known."""
MODE = Parameter(name="mode", meaning="Printed or Handwritten; has no effect, as in the original container.")

Status = Literal["NotStarted", "Running", "Failed", "Succeeded"]
_STATUS: MappingProxyType[str, Status] = MappingProxyType(
    {"notStarted": "NotStarted", "running": "Running", "failed": "Failed", "succeeded": "Succeeded"}
)


# ---- wire models ----------------------------------------------------------------------------------------------------


class RecognizedWord(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One word: eight numbers clockwise from the text's own top left; `confidence` is there when it is low."""

    bounding_box: list[float | int]
    text: str
    confidence: Literal["High", "Low"] | None = None


class RecognizedLine(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One line of words."""

    bounding_box: list[float | int]
    text: str
    words: list[RecognizedWord]


class RecognizedPage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One page; `clockwiseOrientation` in degrees, in [0, 360)."""

    page: int
    clockwise_orientation: float
    width: float | int
    height: float | int
    unit: Literal["pixel", "inch"]
    lines: list[RecognizedLine]


class BatchReadResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A read operation; `recognitionResults` is there once it has succeeded, a page of the source document each."""

    status: Status
    recognition_results: list[RecognizedPage] | None = None


class RecognizedLines(msgspec.Struct, frozen=True, kw_only=True):
    """The lines of a picture; of all pages, one after the other, where the document has several."""

    lines: list[RecognizedLine]


class TextOperationResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A text operation; `recognitionResult` is there once it has succeeded."""

    status: Status
    recognition_result: RecognizedLines | None = None


class RecognizedDirect(msgspec.Struct, frozen=True, kw_only=True):
    """A text operation that its sender waited for: the lines at the top."""

    status: Status
    lines: list[RecognizedLine]


# ---- rendering ------------------------------------------------------------------------------------------------------


def _read(operation: Operation, pages: list[RecognizedPage]) -> BatchReadResult:
    return BatchReadResult(
        status=_STATUS[operation.status], recognition_results=pages if operation.status == "succeeded" else None
    )


def _text(operation: Operation, lines: list[RecognizedLine]) -> TextOperationResult:
    return TextOperationResult(
        status=_STATUS[operation.status],
        recognition_result=RecognizedLines(lines=lines) if operation.status == "succeeded" else None,
    )


def _direct(operation: Operation, lines: list[RecognizedLine]) -> RecognizedDirect:
    return RecognizedDirect(status=_STATUS[operation.status], lines=lines)


def _render_lines(page: PageText) -> list[RecognizedLine]:
    return [_render_line(line) for line in page.lines]


def _render_page(page: PageText) -> RecognizedPage:
    return RecognizedPage(
        page=page.page,
        clockwise_orientation=round(page.angle % 360, 4) % 360,  # rounding may arrive at 360 again
        width=page.width,
        height=page.height,
        unit=page.unit,
        lines=_render_lines(page),
    )


def _render_line(line: Line) -> RecognizedLine:
    return RecognizedLine(
        bounding_box=list(line.polygon), text=line.text, words=[_render_word(word) for word in line.words]
    )


def _render_word(word: Word) -> RecognizedWord:
    return RecognizedWord(
        bounding_box=list(word.polygon), text=word.text, confidence="Low" if word.confidence < LOW_CONFIDENCE else None
    )


READ = Wording(around=_read, of_page=lambda page: [_render_page(page)])
"""An operation as `read/operations` tells it."""
TEXT = Wording(around=_text, of_page=_render_lines)
"""An operation as `textOperations` tells it."""
DIRECT = Wording(around=_direct, of_page=_render_lines)
"""An operation as `recognizeTextDirect` tells it."""


# ---- routes ---------------------------------------------------------------------------------------------------------


def blueprint(version: str) -> Blueprint:
    """The routes of one version.

    Args:
        version: Its name in the path, as `v2.0`.
    """
    prefix = f"/vision/{version}"
    bp = Blueprint("read_" + version.replace(".", "_"), __name__, url_prefix=prefix)
    document = ApiDocument(name=f"vision-{version}-read", title=f"Read {version.removeprefix('v')}")

    def submitting(summary: str, name: str, *query: Parameter) -> Described:
        return Described(
            document=document,
            summary=summary,
            operation_id=name,
            query=query,
            takes=RULES,
            answers={HTTPStatus.ACCEPTED: ACCEPTED},
            errors=DOCUMENT_ERRORS,
        )

    def waiting(summary: str, name: str, model: type, *query: Parameter) -> Described:
        return Described(
            document=document,
            summary=summary,
            operation_id=name,
            query=query,
            takes=RULES,
            answers={
                HTTPStatus.OK: Answer(meaning="The result.", model=model),
                HTTPStatus.INTERNAL_SERVER_ERROR: Answer(meaning="It could not be read.", model=FailedSync),
            },
            errors=DOCUMENT_ERRORS,
        )

    def polling(summary: str, name: str, model: type) -> Described:
        return Described(
            document=document,
            summary=summary,
            operation_id=name,
            path=(OPERATION_ID,),
            answers={HTTPStatus.OK: Answer(meaning="How the operation stands.", model=model)},
            errors=OPERATION_ERRORS,
        )

    @bp.post("/read/core/asyncBatchAnalyze")
    @described(submitting("Start reading a document", "batchReadFile"))
    def batch_read_file() -> Response:
        """Take a document in; the result is fetched from `Operation-Location`."""
        return intake.accepted(f"{prefix}/read/operations/{intake.submit(_parameters)}")

    @bp.get("/read/operations/<operation_id>")
    @described(polling("Fetch the result of a read", "getReadOperationResult", BatchReadResult))
    def read_operation(operation_id: str) -> Response:
        """How an operation stands, page by page; answers in every state of the service."""
        return rendered(operation_id, f"{bp.name}.read", READ)

    @bp.post("/read/core/Analyze")
    @described(waiting("Read a document and wait for the result", "readAnalyze", BatchReadResult))
    def read_analyze() -> Response:
        """Take a document in and answer with its pages."""
        return waited_for(_parameters, READ)

    @bp.post("/recognizeText")
    @described(submitting("Start recognising the text of a picture", "recognizeText", MODE))
    def recognize_text() -> Response:
        """Take a document in; the result is fetched from `Operation-Location`."""
        return intake.accepted(f"{prefix}/textOperations/{intake.submit(_parameters)}")

    @bp.get("/textOperations/<operation_id>")
    @described(polling("Fetch the text of a picture", "getTextOperationResult", TextOperationResult))
    def text_operation(operation_id: str) -> Response:
        """How an operation stands, its lines in one list; answers in every state of the service."""
        return rendered(operation_id, f"{bp.name}.text", TEXT)

    @bp.post("/recognizeTextDirect")
    @described(
        waiting("Recognise the text of a picture and wait for it", "recognizeTextDirect", RecognizedDirect, MODE)
    )
    def recognize_text_direct() -> Response:
        """Take a document in and answer with its lines."""
        return waited_for(_parameters, DIRECT)

    return bp


def _parameters() -> ReadParameters:
    """Nothing can be asked of these versions: `mode` was ignored by the original container."""
    return ReadParameters(rules=RULES, result_seconds=services(current_app).settings.result_seconds_v2)
