"""Read 3.x: routes, wire models and rendering (contract E.1-E.3).

Invariant: what is rendered comes from the neutral `PageText` alone, and the models here are also what the OpenAPI
document is generated from, so that the two cannot drift apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Literal

import msgspec
from flask import Blueprint, Response, request

from ocr_core.page_text import Line, PageText, Word
from sidecar.errors import DocumentRefusedError
from sidecar.reading import ReadParameters, require_pages_expression
from sidecar.results import Operation
from sidecar.web import intake
from sidecar.web.rendered import rendered
from sidecar.web.responses import json_response

MODEL_VERSION = "2022-04-30"
MODEL_VERSION_PATTERN = r"^(latest|\d{4}-\d{2}-\d{2})(-preview)?$"
_MODEL_VERSION = re.compile(r"(latest|\d{4}-\d{2}-\d{2})(-preview)?", re.ASCII)
_LANGUAGE = re.compile(r"[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8}){0,4}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadVersion:
    """One version of Read 3.

    Attributes:
        path: Its name in the path, as `v3.2`.
        version: What `analyzeResult.version` says.
    """

    path: str
    version: str

    @property
    def prefix(self) -> str:
        """Where its routes are."""
        return f"/vision/{self.path}/read"


V3_2 = ReadVersion(path="v3.2", version="3.2.0")
VERSIONS = (V3_2,)


class Style(msgspec.Struct, frozen=True):
    """How a line was put on the page."""

    name: Literal["handwriting", "other"]
    confidence: float


class Appearance(msgspec.Struct, frozen=True):
    """Appearance of a line."""

    style: Style


class WireWord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One word: eight numbers clockwise from the text's own top left, its text, confidence 0..1."""

    bounding_box: list[float | int]
    text: str
    confidence: float


class WireLine(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One line of words."""

    language: str | None = None
    bounding_box: list[float | int]
    text: str
    appearance: Appearance | None = None
    words: list[WireWord]


class ReadResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One page; `angle` in degrees, clockwise positive, in [-180, 180)."""

    page: int
    language: str | None = None
    angle: float
    width: float | int
    height: float | int
    unit: Literal["pixel", "inch"]
    lines: list[WireLine]


class ReadError(msgspec.Struct, frozen=True):
    """What stopped a failed operation."""

    code: str
    message: str


class AnalyzeResult(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """All pages that were asked for, by ascending page number of the source document."""

    version: str
    model_version: str
    read_results: list[ReadResult]
    errors: list[ReadError] | None = None


class ReadOperationResult(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """An operation; `analyzeResult` is there once it has ended."""

    status: Literal["notStarted", "running", "failed", "succeeded"]
    created_date_time: str
    last_updated_date_time: str
    analyze_result: AnalyzeResult | None = None


def render(operation: Operation, version: ReadVersion = V3_2) -> ReadOperationResult:
    """An operation in the words of a version."""
    result = None
    if operation.status == "succeeded":
        result = AnalyzeResult(version.version, MODEL_VERSION, [render_page(page) for page in operation.pages])
    elif operation.status == "failed":
        errors = [ReadError(code, message) for code, message in operation.errors]
        result = AnalyzeResult(version.version, MODEL_VERSION, [], errors)
    return ReadOperationResult(
        operation.status, wire_instant(operation.created_ns), wire_instant(operation.updated_ns), result
    )


def render_page(page: PageText) -> ReadResult:
    """One page in the words of Read 3.2."""
    return ReadResult(
        page=page.page,
        angle=round(page.angle, 4),
        width=page.width,
        height=page.height,
        unit=page.unit,
        lines=[_render_line(line, page.language) for line in page.lines],
        language=page.language,
    )


def _render_line(line: Line, page_language: str | None) -> WireLine:
    style = line.style
    return WireLine(
        bounding_box=list(line.polygon),
        text=line.text,
        words=[_render_word(word) for word in line.words],
        language=line.language if line.language != page_language else None,
        appearance=None if style is None else Appearance(Style(style.name, round(style.confidence, 3))),
    )


def _render_word(word: Word) -> WireWord:
    return WireWord(bounding_box=list(word.polygon), text=word.text, confidence=round(word.confidence, 3))


def wire_instant(ns: int) -> str:
    """An instant as the original container prints it: seven fractional digits and `+00:00`."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 100:07d}+00:00"


def blueprint(version: ReadVersion) -> Blueprint:
    """The routes of one version."""
    bp = Blueprint("read_" + version.path.replace(".", "_"), __name__, url_prefix=version.prefix)

    @bp.post("/analyze")
    def analyze() -> Response:
        """Take a document in; the result is fetched from `Operation-Location`."""
        return intake.accepted(f"{version.prefix}/analyzeResults/{intake.submit(_parameters)}")

    @bp.post("/syncAnalyze")
    def sync_analyze() -> Response:
        """Take a document in and answer with its result."""
        operation = intake.read_now(_parameters)
        if operation.status != "succeeded":
            return json_response({"status": "Failed"}, HTTPStatus.INTERNAL_SERVER_ERROR)
        return json_response(render(operation, version))

    @bp.get("/analyzeResults/<operation_id>")
    @bp.get("/operations/<operation_id>")
    def analyze_results(operation_id: str) -> Response:
        """How an operation stands, and its result once there is one; answers in every state of the service."""
        return rendered(operation_id, bp.name, lambda operation: render(operation, version))

    return bp


def _parameters() -> ReadParameters:
    """The query parameters of contract E.1.1."""
    order = request.args.get("readingOrder", "basic") or "basic"
    if order not in {"basic", "natural"}:
        raise DocumentRefusedError(
            "InvalidReadingOrder", "The readingOrder parameter is invalid: use 'basic' or 'natural'."
        )
    if not _MODEL_VERSION.fullmatch(request.args.get("model-version", "latest") or "latest"):
        raise DocumentRefusedError(
            "BadArgument", "The model-version parameter is invalid: use 'latest' or a date such as 2022-04-30."
        )
    language = request.args.get("language") or None
    if language is not None and not _LANGUAGE.fullmatch(language):
        raise DocumentRefusedError("NotSupportedLanguage", "The language parameter is no language code.")
    pages = request.args.get("pages", "")
    require_pages_expression(pages)
    return ReadParameters(pages=pages, language=language, reading_order=order)
