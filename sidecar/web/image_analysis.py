"""Image Analysis 4.0, the part that reads text: parameters, errors and rendering (contract E.6).

Invariant: this service reads text and does nothing else to a picture; whatever else is asked of it is refused by name,
never left out of an answer in silence.
"""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus

import msgspec
from flask import Blueprint, Response, request

from ocr_core.page_text import Line, PageText, Polygon, Word
from sidecar.core_client import DocumentRules
from sidecar.errors import DocumentRefusedError
from sidecar.reading import ReadParameters
from sidecar.web.described import (
    DOCUMENT_ERRORS,
    Answer,
    ApiDocument,
    Described,
    Parameter,
    described,
    model_version_asked,
)
from sidecar.web.errors import Dialect, nested_body, outer_code
from sidecar.web.pictures import picture_text
from sidecar.web.responses import json_response

MODEL_VERSION = "2023-10-01"
API_VERSIONS = ("2023-10-01", "2024-02-01")

RULES = DocumentRules(
    formats=("jpeg", "png", "gif", "bmp", "webp", "ico", "tiff"), max_bytes=20_971_520, min_side=51, max_side=15_999
)
"""JPEG (MPO is one), PNG, GIF, BMP, WEBP, ICO and TIFF up to 20 MiB, over 50 x 50 and under 16000 x 16000 pixels."""

API_VERSION = Parameter(
    name="api-version",
    meaning="Version of this API.",
    choices=tuple(version + suffix for version in API_VERSIONS for suffix in ("", "-preview")),
    required=True,
    advice="use " + " or ".join(API_VERSIONS),
)
FEATURES = Parameter(
    name="features",
    meaning="What to look for; this service reads text and looks for nothing else.",
    choices=("read",),
    required=True,
    many=True,
    any_case=True,
    refusal="NotSupportedVisualFeature",
    advice="this service reads text only, so use 'read'",
)
LANGUAGE = Parameter(
    name="language",
    meaning="Language of captions and tags; the text is read whatever it is.",
    pattern=(
        r"^(ar|az|bg|bs|ca|cs|cy|da|de|el|en|es|et|eu|fi|fr|ga|gl|he|hi|hr|hu|id|it|ja|kk|ko|lt|lv|mk|ms|nb|nl|pl|prs"
        r"|pt|ro|ru|sk|sl|sr|sv|th|tr|uk|vi|zh)(-[A-Za-z0-9]{2,8}){0,2}$"
    ),
    default="en",
    any_case=True,
    refusal="NotSupportedLanguage",
    advice="use a language code such as en",
)
GENDER_NEUTRAL_CAPTION = Parameter(
    name="gender-neutral-caption",
    meaning="For captions; accepted for compatibility.",
    choices=("true", "false"),
    default="false",
    any_case=True,
)
SMARTCROPS_ASPECT_RATIOS = Parameter(
    name="smartcrops-aspect-ratios",
    meaning="For smart crops; accepted for compatibility.",
    pattern=r"^(0\.(7[5-9]|[89])\d*|1(\.([0-7]\d*|80*))?)$",
    many=True,
    advice="use numbers from 0.75 to 1.8, separated by commas",
)
MODEL_NAME = Parameter(name="model-name", meaning="Custom model; there is none, so whoever names one is refused.")
MODEL_VERSION_ASKED = model_version_asked(MODEL_VERSION)

DIALECT = Dialect(
    body=nested_body,
    codes={
        "FailedToDownloadImage": "InvalidImageUrl",
        "InvalidImage": "InvalidImageFormat",
        "UnsupportedImageFormat": "InvalidImageFormat",
        "InvalidImageDimension": "InvalidImageSize",
        "InvalidPageRange": "BadArgument",
    },
    code_header="x-ms-error-code",
    header_code=outer_code,
)

bp = Blueprint("image_analysis", __name__, url_prefix="/computervision")


class ImagePoint(msgspec.Struct, frozen=True):
    """A point in the picture, pixels."""

    x: int
    y: int


class DetectedTextWord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One word: four corners clockwise from the text's own top left, confidence 0..1."""

    text: str
    bounding_polygon: list[ImagePoint]
    confidence: float


class DetectedTextLine(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One line of words."""

    text: str
    bounding_polygon: list[ImagePoint]
    words: list[DetectedTextWord]


class DetectedTextBlock(msgspec.Struct, frozen=True):
    """Lines that stand together; there is one block for all."""

    lines: list[DetectedTextLine]


class ReadTextResult(msgspec.Struct, frozen=True):
    """The text; no block where there is none."""

    blocks: list[DetectedTextBlock]


class ImageMetadata(msgspec.Struct, frozen=True):
    """Size of the picture as a viewer shows it, pixels."""

    width: int
    height: int


class ImageAnalysisResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What was found in a picture."""

    model_version: str
    metadata: ImageMetadata
    read_result: ReadTextResult


def render(page: PageText) -> ImageAnalysisResult:
    """A page in the words of Image Analysis 4.0."""
    lines = [_line(line) for line in page.lines]
    return ImageAnalysisResult(
        model_version=MODEL_VERSION,
        metadata=ImageMetadata(round(page.width), round(page.height)),
        read_result=ReadTextResult([DetectedTextBlock(lines)] if lines else []),
    )


def _line(line: Line) -> DetectedTextLine:
    return DetectedTextLine(
        text=line.text, bounding_polygon=_points(line.polygon), words=[_word(word) for word in line.words]
    )


def _word(word: Word) -> DetectedTextWord:
    return DetectedTextWord(
        text=word.text, bounding_polygon=_points(word.polygon), confidence=round(word.confidence, 3)
    )


def _points(polygon: Polygon) -> list[ImagePoint]:
    return [ImagePoint(round(x), round(y)) for x, y in zip(polygon[::2], polygon[1::2], strict=True)]


def _described_in(version: str) -> Described:
    """The route as the document of one `api-version` tells it."""
    choices = tuple(choice for choice in API_VERSION.choices if choice.startswith(version))
    return Described(
        document=ApiDocument(name=f"imageanalysis-{version}", title=f"Image Analysis 4.0 ({version})"),
        summary="Read text in a picture",
        operation_id="analyzeImage",
        query=(
            replace(API_VERSION, choices=choices),
            FEATURES,
            LANGUAGE,
            GENDER_NEUTRAL_CAPTION,
            SMARTCROPS_ASPECT_RATIOS,
            MODEL_VERSION_ASKED,
        ),
        takes=RULES,
        answers={HTTPStatus.OK: Answer(meaning="The text, in one block.", model=ImageAnalysisResult)},
        errors=DOCUMENT_ERRORS,
    )


@bp.post("/imageanalysis:analyze")
@described(*map(_described_in, reversed(API_VERSIONS)))
def analyze() -> Response:
    """Read a picture and answer with its text."""
    return json_response(render(picture_text(_parameters)))


def _parameters() -> ReadParameters:
    """The query parameters of contract E.6, and what can be told of the body before it is read."""
    API_VERSION.read(request.args)
    if MODEL_NAME.is_given(request.args):
        raise DocumentRefusedError("BadArgument", "Custom models are not served here; leave out model-name.")
    if not FEATURES.is_given(request.args):
        raise DocumentRefusedError("BadArgument", "Either features or model-name must be specified; use features=read.")
    for parameter in (FEATURES, LANGUAGE, GENDER_NEUTRAL_CAPTION, SMARTCROPS_ASPECT_RATIOS, MODEL_VERSION_ASKED):
        parameter.read(request.args)
    if request.content_length == 0:
        raise DocumentRefusedError(
            "InvalidImageSize", f"The image size can't be zero or exceed {RULES.max_bytes} bytes."
        )
    return ReadParameters(pages="1", rules=RULES)  # of a TIFF of several pictures, the first
