"""Read 3.2: routes, wire models and rendering (contract E.1).

Invariant: what is rendered comes from the neutral `PageText` alone, and the models here are also what the OpenAPI
document is generated from, so that the two cannot drift apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Literal

import msgspec
from flask import Blueprint, Response, current_app, request

from ocr_core.page_text import Line, PageText, Word
from sidecar.admission import Standing
from sidecar.errors import DocumentRefusedError, QueueFullError
from sidecar.reading import ReadParameters, require_pages_expression
from sidecar.results import Operation
from sidecar.web.bodies import document_chunks, drain, stop_listening
from sidecar.web.responses import empty_response, json_response
from sidecar.web.services import Services, services

VERSION = "3.2.0"
MODEL_VERSION = "2022-04-30"
PREFIX = "/vision/v3.2/read"
MODEL_VERSION_PATTERN = r"^(latest|\d{4}-\d{2}-\d{2})(-preview)?$"
_MODEL_VERSION = re.compile(r"(latest|\d{4}-\d{2}-\d{2})(-preview)?", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?", re.ASCII)
_LANGUAGE = re.compile(r"[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8}){0,4}", re.ASCII)

bp = Blueprint("read_v3_2", __name__, url_prefix=PREFIX)


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


def render(operation: Operation) -> ReadOperationResult:
    """An operation in the words of Read 3.2."""
    result = None
    if operation.status == "succeeded":
        result = AnalyzeResult(VERSION, MODEL_VERSION, [render_page(page) for page in operation.pages])
    elif operation.status == "failed":
        errors = [ReadError(code, message) for code, message in operation.errors]
        result = AnalyzeResult(VERSION, MODEL_VERSION, [], errors)
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


@bp.post("/analyze")
def analyze() -> Response:
    """Take a document in; the result is fetched from `Operation-Location`."""
    one = services(current_app)
    with _drained(one):
        standing, parameters, chunks = _admit(one)
        operation_id = one.reader.submit(chunks, parameters, standing)
    location = f"{request.scheme}://{_host()}{PREFIX}/analyzeResults/{operation_id}"
    return empty_response(HTTPStatus.ACCEPTED, Operation_Location=location)


@bp.post("/syncAnalyze")
def sync_analyze() -> Response:
    """Take a document in and answer with its result."""
    one = services(current_app)
    with _drained(one):
        standing, parameters, chunks = _admit(one)
        operation = one.reader.read_now(chunks, parameters, standing)
    if operation.status != "succeeded":
        return json_response({"status": "Failed"}, HTTPStatus.INTERNAL_SERVER_ERROR)
    return json_response(render(operation))


@bp.get("/analyzeResults/<operation_id>")
@bp.get("/operations/<operation_id>")
def analyze_results(operation_id: str) -> Response:
    """How an operation stands, and its result once there is one; answers in every state of the service."""
    operation = services(current_app).reader.find(operation_id)
    return json_response(render(operation))


def _admit(one: Services) -> tuple[Standing, ReadParameters, Iterator[bytes]]:
    """Gate first, then parameters, then the body."""
    standing = one.admission.require()
    parameters = _parameters()
    return standing, parameters, document_chunks(request, max_bytes=one.settings.max_document_bytes)


@contextmanager
def _drained(one: Services) -> Iterator[None]:
    """Bound the callers; whatever refuses one of them inside, the body is still read to its end."""
    if not one.callers.acquire(blocking=False):
        stop_listening(request)
        raise QueueFullError("too many callers send documents at once", next_step="try again in a moment")
    try:
        yield
    except Exception:
        drain(request, max_bytes=2 * one.settings.max_document_bytes)
        raise
    finally:
        one.callers.release()


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


def _host() -> str:
    """Host and port as the client named them; nothing but what a host may be made of is repeated to it."""
    named = request.headers.get("Host", "")
    return named if _HOST.fullmatch(named) else services(current_app).settings.listen
