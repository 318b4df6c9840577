"""Read 3.x: its versions and their routes (contract E.1-E.3).

Invariant: what the versions differ in is said once, in `VERSIONS`; the routes are the same for all. An operation is
told in the words of the version that is asked for it, whichever version took the document in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from types import MappingProxyType

from flask import Blueprint, Response, request

from sidecar.core_client import DocumentRules
from sidecar.page_selection import PAGES_ADVICE, require_pages_expression
from sidecar.reading import READ_RULES, ReadParameters
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
    model_version_asked,
)
from sidecar.web.errors import DOCUMENTED, OBSERVED, Dialect, flat_body
from sidecar.web.read_v3_wire import (
    SHAPE_3_0,
    SHAPE_3_0_PREVIEW,
    SHAPE_3_2,
    SHAPE_3_2_PREVIEW,
    FailedSync,
    Shape,
    render,
    render_page,
)
from sidecar.web.rendered import rendered, worded
from sidecar.web.responses import json_response
from sidecar.web.wording import Wording

LANGUAGE = Parameter(
    name="language",
    meaning="BCP-47 code; leave out to detect.",
    pattern=r"^[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8}){0,4}$",
    refusal="NotSupportedLanguage",
    advice="use a language code such as en",
)
SEVEN_LANGUAGES = Parameter(
    name="language",
    meaning="BCP-47 code.",
    choices=("en", "es", "fr", "de", "it", "nl", "pt"),
    default="en",
    any_case=True,
    refusal="NotSupportedLanguage",
)
TWO_LANGUAGES = replace(SEVEN_LANGUAGES, choices=("en", "es"))
PAGES = Parameter(
    name="pages",
    meaning="Pages of a PDF or TIFF document, such as 1,3-5,8-.",
    pattern=r"^(0*[1-9]\d{0,8}(-(0*[1-9]\d{0,8})?)?|-0*[1-9]\d{0,8})$",
    many=True,
    refusal="InvalidPageRange",
    advice=PAGES_ADVICE,
)
READING_ORDER = Parameter(
    name="readingOrder",
    meaning="Order of the lines; natural knows columns.",
    choices=("basic", "natural"),
    default="basic",
    refusal="InvalidReadingOrder",
)
MODEL_VERSION_ASKED = model_version_asked("2022-04-30")

MAX_SHEET_INCHES = 17.0
"""Longest side of a PDF's page before 3.2 (contract E.1.5)."""
EARLIER_RULES = replace(READ_RULES, max_sheet_inches=MAX_SHEET_INCHES)

EARLIER_CODES: Mapping[str, str] = MappingProxyType(
    {
        "InvalidImage": "InvalidImageFormat",
        "UnsupportedImageFormat": "InvalidImageFormat",
        "InvalidImageDimension": "InvalidImageSize",
        "FailedToDownloadImage": "InvalidImageUrl",
        "InvalidPageRange": "BadArgument",
        "InvalidReadingOrder": "BadArgument",
        "InvalidRequest": "BadArgument",
    }
)
"""What the 19 codes of the versions before 3.2 call what 3.2 has a finer word for (contract E.2)."""
PREVIEW_CODES: Mapping[str, str] = MappingProxyType(
    {code: earlier for code, earlier in EARLIER_CODES.items() if code != "InvalidPageRange"}
)
"""The same for the previews that know `pages` (contract E.3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadVersion:
    """One version of Read 3.

    Attributes:
        path: Its name in the path, as `v3.2`.
        version: What `analyzeResult.version` says.
        shape: What its answers look like.
        query: The parameters that it knows; any other is ignored.
        codes: What it calls an error; those not named keep their name.
        rules: What it takes.
    """

    path: str
    version: str
    shape: Shape
    query: tuple[Parameter, ...]
    codes: Mapping[str, str]
    rules: DocumentRules = READ_RULES

    @property
    def prefix(self) -> str:
        """Where its routes are."""
        return f"/vision/{self.path}/read"

    @property
    def wording(self) -> Wording:
        """How it words an operation."""
        return Wording(
            around=partial(render, shape=self.shape, version=self.version, codes=self.codes),
            of_page=lambda page: [render_page(page, self.shape)],
        )

    def dialect(self, *, observed: bool) -> Dialect:
        """How it says an error.

        Args:
            observed: `ErrorCompat=observed`; only of 3.2 was anything but the documented form seen.
        """
        if self is V3_2:
            return OBSERVED if observed else DOCUMENTED
        return Dialect(body=flat_body, codes=self.codes)


V3_2 = ReadVersion(
    path="v3.2",
    version="3.2.0",
    shape=SHAPE_3_2,
    query=(LANGUAGE, PAGES, READING_ORDER, MODEL_VERSION_ASKED),
    codes=MappingProxyType({}),
)
VERSIONS = (
    V3_2,
    ReadVersion(
        path="v3.2-preview.2",
        version="3.2.0",
        shape=SHAPE_3_2_PREVIEW,
        query=(LANGUAGE, PAGES, READING_ORDER),
        codes=PREVIEW_CODES,
    ),
    ReadVersion(
        path="v3.2-preview.1",
        version="3.2.0",
        shape=SHAPE_3_2_PREVIEW,
        query=(LANGUAGE, PAGES),
        codes=PREVIEW_CODES,
    ),
    ReadVersion(
        path="v3.1",
        version="3.1.0",
        shape=SHAPE_3_0,
        query=(SEVEN_LANGUAGES,),
        codes=EARLIER_CODES,
        rules=EARLIER_RULES,
    ),
    ReadVersion(
        path="v3.1-preview.2",
        version="3.1.0",
        shape=SHAPE_3_0,
        query=(SEVEN_LANGUAGES, PAGES),
        codes=PREVIEW_CODES,
        rules=EARLIER_RULES,
    ),
    ReadVersion(
        path="v3.0",
        version="3.0.0",
        shape=SHAPE_3_0,
        query=(SEVEN_LANGUAGES,),
        codes=EARLIER_CODES,
        rules=EARLIER_RULES,
    ),
    ReadVersion(
        path="v3.0-preview",
        version="3.0.0",
        shape=SHAPE_3_0_PREVIEW,
        query=(TWO_LANGUAGES,),
        codes=EARLIER_CODES,
        rules=EARLIER_RULES,
    ),
)


def blueprint(version: ReadVersion) -> Blueprint:
    """The routes of one version."""
    bp = Blueprint("read_" + version.path.replace(".", "_"), __name__, url_prefix=version.prefix)
    document = ApiDocument(name=f"vision-{version.path}-read", title=f"Read {version.path.removeprefix('v')}")
    model, wording = version.shape.operation, version.wording

    def parameters() -> ReadParameters:
        return read_parameters(version)

    @bp.post("/analyze")
    @described(
        Described(
            document=document,
            summary="Start reading a document",
            operation_id="readAnalyze",
            query=version.query,
            takes=version.rules,
            answers={HTTPStatus.ACCEPTED: ACCEPTED},
            errors=DOCUMENT_ERRORS,
        )
    )
    def analyze() -> Response:
        """Take a document in; the result is fetched from `Operation-Location`."""
        return intake.accepted(f"{version.prefix}/analyzeResults/{intake.submit(parameters)}")

    @bp.post("/syncAnalyze")
    @described(
        Described(
            document=document,
            summary="Read a document and wait for the result",
            operation_id="readSyncAnalyze",
            query=version.query,
            takes=version.rules,
            answers={
                HTTPStatus.OK: Answer(meaning="The result.", model=model),
                HTTPStatus.INTERNAL_SERVER_ERROR: Answer(meaning="It could not be read.", model=FailedSync),
            },
            errors=DOCUMENT_ERRORS,
        )
    )
    def sync_analyze() -> Response:
        """Take a document in and answer with its result."""
        return waited_for(parameters, wording)

    @bp.get("/operations/<operation_id>")
    @bp.get("/analyzeResults/<operation_id>")
    @described(
        Described(
            document=document,
            summary="Fetch a result",
            operation_id="getReadResult",
            path=(OPERATION_ID,),
            answers={HTTPStatus.OK: Answer(meaning="How the operation stands.", model=model)},
            errors=OPERATION_ERRORS,
        )
    )
    def analyze_results(operation_id: str) -> Response:
        """How an operation stands, and its result once there is one; answers in every state of the service."""
        return rendered(operation_id, bp.name, wording)

    return bp


def waited_for(parameters: Callable[[], ReadParameters], wording: Wording) -> Response:
    """The answer to a document whose sender waits; a failure to read it is a 500 that says no more (contract E.1.3).

    Args:
        parameters: As in `intake.submit`.
        wording: How the version words an operation that succeeded.
    """
    operation = intake.read_now(parameters)
    if operation.status != "succeeded":
        return json_response(FailedSync(), HTTPStatus.INTERNAL_SERVER_ERROR)
    return worded(operation, wording)


def read_parameters(version: ReadVersion) -> ReadParameters:
    """What the request's query asks, as far as the version knows it.

    Raises:
        DocumentRefusedError: A parameter that it knows is none of what it may be.
    """
    asked = {parameter.name: parameter.read(request.args) for parameter in version.query}
    pages = asked.get("pages", "")
    require_pages_expression(pages)
    return ReadParameters(
        pages=pages,
        language=asked.get("language") or None,
        reading_order=asked.get("readingOrder", "basic"),
        rules=version.rules,
    )
