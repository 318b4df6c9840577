"""Read 3.x on the wire: the models of its answers, and how pages are put into them (contract E.1-E.3).

Invariant: what is rendered comes from the neutral `PageText` alone, and the models are also what the OpenAPI documents
are generated from, so that the two cannot drift apart. Where versions differ in shape each has a model of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from ocr_core.page_text import Line, PageText, Word
from sidecar.results import Operation

MODEL_VERSION = "2022-04-30"
UNDETERMINED = "und"
"""BCP-47 for a language that nobody knows, where a version must name one."""

_LETTER = re.compile(r"[^\W\d_]")
_LATIN = re.compile(
    "[A-Za-z\u00aa\u00ba\u00c0-\u024f\u1e00-\u1eff\u2c60-\u2c7f\ua722-\ua7ff\ufb00-\ufb06\uff21-\uff3a\uff41-\uff5a]"
)


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


class _AnyLine(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    language: str | None = None
    bounding_box: list[float | int]
    text: str


class WireLine(_AnyLine, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One line of words; `language` where it differs from the page's, `appearance` for Latin script."""

    appearance: Appearance | None = None
    words: list[WireWord]


class PlainLine(_AnyLine, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One line of words; `language` where it differs from the page's."""

    words: list[WireWord]


class NamedLine(_AnyLine, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One line of words, always with its language."""

    language: str
    words: list[WireWord]


class _AnyPage(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    page: int
    language: str | None = None
    angle: float
    width: float | int
    height: float | int
    unit: Literal["pixel", "inch"]


class ReadResult(_AnyPage, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One page; `angle` in degrees, clockwise positive, in [-180, 180)."""

    lines: list[WireLine]


class PlainReadResult(_AnyPage, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One page; `angle` in degrees, clockwise positive, in [-180, 180)."""

    lines: list[PlainLine]


class NamedReadResult(_AnyPage, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One page, always with its language; `angle` in degrees, clockwise positive, in [-180, 180)."""

    language: str
    lines: list[NamedLine]


class ReadError(msgspec.Struct, frozen=True):
    """What stopped a failed operation."""

    code: str
    message: str


class AnalyzeResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """All pages that were asked for, by ascending page number of the source document."""

    version: str
    model_version: str
    read_results: list[ReadResult]
    errors: list[ReadError] | None = None


class PreviewAnalyzeResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """All pages that were asked for, by ascending page number of the source document."""

    version: str
    read_results: list[ReadResult]
    errors: list[ReadError] | None = None


class PlainAnalyzeResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """All pages, by ascending page number of the source document."""

    version: str
    read_results: list[PlainReadResult]
    errors: list[ReadError] | None = None


class NamedAnalyzeResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """All pages, by ascending page number of the source document."""

    version: str
    read_results: list[NamedReadResult]
    errors: list[ReadError] | None = None


class _AnyOperation(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    status: Literal["notStarted", "running", "failed", "succeeded"]
    created_date_time: str
    last_updated_date_time: str


class ReadOperationResult(_AnyOperation, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An operation; `analyzeResult` is there once it has ended."""

    analyze_result: AnalyzeResult | None = None


class PreviewReadOperationResult(_AnyOperation, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An operation; `analyzeResult` is there once it has ended."""

    analyze_result: PreviewAnalyzeResult | None = None


class PlainReadOperationResult(_AnyOperation, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An operation; `analyzeResult` is there once it has ended."""

    analyze_result: PlainAnalyzeResult | None = None


class NamedReadOperationResult(_AnyOperation, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An operation; `analyzeResult` is there once it has ended."""

    analyze_result: NamedAnalyzeResult | None = None


ReadOperation = ReadOperationResult | PreviewReadOperationResult | PlainReadOperationResult | NamedReadOperationResult
"""An operation in the words of one version or another."""


class FailedSync(msgspec.Struct, frozen=True):
    """All that is said of a document that could not be read while its sender waited (contract E.1.3)."""

    status: Literal["Failed"] = "Failed"


# ---- rendering ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the answers of one or more versions look like.

    Attributes:
        operation: Model of an operation.
        analysis: Model of `analyzeResult`.
        page: Model of a page.
        line: Model of a line.
        says_model: Whether `modelVersion` is told.
        says_appearance: Whether the appearance of a line is told.
        names_language: Whether every page and every line tells its language, whatever it is.
        whole_seconds: Whether instants are printed as `2031-03-05T08:15:30Z`.
    """

    operation: type[Any]
    analysis: type[Any]
    page: type[Any]
    line: type[Any]
    says_model: bool = False
    says_appearance: bool = False
    names_language: bool = False
    whole_seconds: bool = False


SHAPE_3_2 = Shape(
    operation=ReadOperationResult,
    analysis=AnalyzeResult,
    page=ReadResult,
    line=WireLine,
    says_model=True,
    says_appearance=True,
)
SHAPE_3_2_PREVIEW = Shape(
    operation=PreviewReadOperationResult,
    analysis=PreviewAnalyzeResult,
    page=ReadResult,
    line=WireLine,
    says_appearance=True,
)
SHAPE_3_0 = Shape(operation=PlainReadOperationResult, analysis=PlainAnalyzeResult, page=PlainReadResult, line=PlainLine)
SHAPE_3_0_PREVIEW = Shape(
    operation=NamedReadOperationResult,
    analysis=NamedAnalyzeResult,
    page=NamedReadResult,
    line=NamedLine,
    names_language=True,
    whole_seconds=True,
)


def render(
    operation: Operation, pages: list[Any], shape: Shape, *, version: str, codes: Mapping[str, str]
) -> ReadOperation:
    """An operation in the words of a version.

    Args:
        operation: The operation.
        pages: Its pages in these words, from `render_page`.
        shape: What the version's answers look like.
        version: What `analyzeResult.version` says.
        codes: What the version calls an error; those not named keep their name.
    """
    instant = _whole_seconds if shape.whole_seconds else wire_instant
    said: dict[str, Any] = {}
    if operation.status in {"succeeded", "failed"}:
        analysed: dict[str, Any] = {"version": version}
        if shape.says_model:
            analysed["model_version"] = MODEL_VERSION
        if operation.errors:
            analysed["errors"] = [ReadError(codes.get(code, code), message) for code, message in operation.errors]
        said["analyze_result"] = shape.analysis(read_results=pages, **analysed)
    rendered: ReadOperation = shape.operation(
        status=operation.status,
        created_date_time=instant(operation.created_ns),
        last_updated_date_time=instant(operation.updated_ns),
        **said,
    )
    return rendered


def render_page(page: PageText, shape: Shape) -> Any:
    """A page in the words of a version.

    Args:
        page: The page.
        shape: What the version's answers look like.
    """
    return shape.page(
        page=page.page,
        language=page.language or UNDETERMINED if shape.names_language else page.language,
        angle=wire_angle(page.angle),
        width=page.width,
        height=page.height,
        unit=page.unit,
        lines=[_render_line(line, page.language, shape) for line in page.lines],
    )


def _render_line(line: Line, page_language: str | None, shape: Shape) -> Any:
    said: dict[str, Any] = {}
    if shape.names_language:
        said["language"] = line.language or page_language or UNDETERMINED
    elif line.language != page_language:
        said["language"] = line.language
    style = line.style
    if shape.says_appearance and style is not None and _is_latin(line.text):
        said["appearance"] = Appearance(Style(style.name, round(style.confidence, 3)))
    return shape.line(
        bounding_box=list(line.polygon), text=line.text, words=[_render_word(word) for word in line.words], **said
    )


def _render_word(word: Word) -> WireWord:
    return WireWord(bounding_box=list(word.polygon), text=word.text, confidence=round(word.confidence, 3))


def wire_angle(degrees: float) -> float:
    """Four decimals, in [-180, 180) also after rounding, and never minus zero."""
    rounded = round(degrees, 4) + 0.0
    return rounded - 360.0 if rounded >= 180.0 else rounded


def wire_instant(ns: int) -> str:
    """An instant as the original container prints it: seven fractional digits and `+00:00`."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 100:07d}+00:00"


def _whole_seconds(ns: int) -> str:
    return f"{datetime.fromtimestamp(ns // 1_000_000_000, UTC):%Y-%m-%dT%H:%M:%S}Z"


def _is_latin(text: str) -> bool:
    """Whether a line is in Latin script: the only one whose appearance is told (contract E.1.2)."""
    letters = _LETTER.findall(text)
    return 2 * sum(1 for letter in letters if _LATIN.match(letter)) >= len(letters)
