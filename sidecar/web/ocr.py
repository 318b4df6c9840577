"""The older `/ocr` of versions 2.0 to 3.2: parameters, errors and rendering (contract E.5).

Invariants:

* Boxes are upright in the frame of the picture turned about its centre by `textAngle` and by nothing else: quarter
  turns are told by `orientation` alone, and the turned picture keeps the size of the one that was sent.
* Words come in the order in which Read tells them with `readingOrder=basic`; regions and lines only bracket them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import groupby
from typing import Literal

import msgspec
from flask import Blueprint, Response, request

from ocr_core.page_text import Line, PageText, Polygon
from sidecar.core_client import DocumentRules
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
from sidecar.web.errors import Dialect, flat_body, nested_body, outer_code
from sidecar.web.pictures import picture_text
from sidecar.web.responses import json_response

MODEL_VERSION = "2021-04-01"
AUTO_DETECT = "unk"

RULES = DocumentRules(formats=("jpeg", "png", "gif", "bmp"), max_bytes=4 * 2**20 - 1, max_side=4200)
"""JPEG, PNG, GIF and BMP of less than 4 MB, from 50 x 50 to 4200 x 4200 pixels."""

LANGUAGES = (
    "zh-Hans", "zh-Hant", "cs", "da", "nl", "en", "fi", "fr", "de", "el", "hu", "it", "ja", "ko", "nb", "pl", "pt",
    "ru", "es", "sv", "tr", "ar", "ro", "sr-Cyrl", "sr-Latn", "sk",
)  # fmt: skip
LANGUAGE = Parameter(
    name="language",
    meaning="Language of the text; unk detects it.",
    choices=(AUTO_DETECT, *LANGUAGES),
    default=AUTO_DETECT,
    any_case=True,
    refusal="NotSupportedLanguage",
    advice="use one of the codes that this version lists, or unk to detect the language",
)
DETECT_ORIENTATION = Parameter(
    name="detectOrientation",
    meaning="Whether to tell which way up the text stands.",
    choices=("true", "false"),
    default="true",
    any_case=True,
)
MODEL_VERSION_ASKED = model_version_asked(MODEL_VERSION)

_CODES = {
    "FailedToDownloadImage": "InvalidImageUrl",
    "InvalidImage": "InvalidImageFormat",
    "UnsupportedImageFormat": "NotSupportedImage",
    "InvalidImageDimension": "InvalidImageSize",
    "InvalidPageRange": "BadArgument",
    "InvalidRequest": "BadArgument",
}
_FLAT = Dialect(body=flat_body, codes=_CODES)
_NESTED = Dialect(body=nested_body, codes=_CODES, header_code=outer_code)

Orientation = Literal["Up", "Right", "Down", "Left", "NotDetected"]
_ORIENTATIONS: tuple[Orientation, ...] = ("Up", "Right", "Down", "Left")
_FOUND_CODES = {"no": "nb", "sr": "sr-Cyrl", "zh": "zh-Hans"}
_ANGLE_DECIMALS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class OcrVersion:
    """One version of `/ocr`.

    Attributes:
        path: Its name in the path, as `v3.2`.
        tells_model: Whether it has `model-version` and `modelVersion`.
        dialect: How it says errors.
    """

    path: str
    tells_model: bool = False
    dialect: Dialect = _FLAT


VERSIONS = (
    OcrVersion(path="v3.2", tells_model=True, dialect=_NESTED),
    *(OcrVersion(path=path) for path in ("v3.1", "v3.0", "v2.1", "v2.0")),
)


class OcrWord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One word; `boundingBox` is "left,top,width,height"."""

    bounding_box: str
    text: str


class OcrLine(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One line of words."""

    bounding_box: str
    words: list[OcrWord]


class OcrRegion(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Lines that stand together."""

    bounding_box: str
    lines: list[OcrLine]


class OcrResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What was read; `textAngle` in radians, clockwise, is what makes the text level or upright."""

    language: str
    text_angle: float
    orientation: Orientation
    regions: list[OcrRegion]
    model_version: str | None = None


# ---- the frame of the boxes -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Box:
    """An upright box; pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def __str__(self) -> str:
        """As the wire has it; rounding edges rather than sizes keeps boxes inside those that held them."""
        left, top, right, bottom = map(round, (self.left, self.top, self.right, self.bottom))
        return f"{left},{top},{right - left},{bottom - top}"

    @classmethod
    def around(cls, boxes: Iterable[Box]) -> Box:
        """The smallest box around some; at least one is needed."""
        some = tuple(boxes)
        return cls(
            min(box.left for box in some),
            min(box.top for box in some),
            max(box.right for box in some),
            max(box.bottom for box in some),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A picture turned about its centre.

    Attributes:
        width: Of the picture, before as after.
        height: Likewise.
        turn: Radians, clockwise.
    """

    width: float
    height: float
    turn: float

    def box(self, polygon: Polygon) -> Box:
        """The upright box around a polygon that is told in the frame of the picture as it was sent."""
        cosine, sine = math.cos(self.turn), math.sin(self.turn)
        x0, y0 = self.width / 2, self.height / 2
        xs, ys = [], []
        for x, y in zip(polygon[::2], polygon[1::2], strict=True):
            xs.append(x0 + cosine * (x - x0) - sine * (y - y0))
            ys.append(y0 + sine * (x - x0) + cosine * (y - y0))
        return Box(min(xs), min(ys), max(xs), max(ys))


def text_angle(angle: float) -> float:
    """Radians that a picture has to be turned clockwise for its text to run along the nearest axis; at most pi/4.

    Args:
        angle: Direction of the text, degrees clockwise.
    """
    turn = round(-math.radians(angle - 90 * round(angle / 90)), _ANGLE_DECIMALS)
    return max(-math.pi / 4, min(math.pi / 4, turn)) + 0.0  # no minus zero


def orientation(angle: float) -> Orientation:
    """The side that the top of the text faces once the picture is turned by `text_angle`."""
    return _ORIENTATIONS[round(angle / 90) % 4]


def regions(lines: Sequence[Line]) -> list[tuple[Line, ...]]:
    """Neighbours in reading order that the engine found in one block.

    A block that another one interrupts, as columns told row by row do, makes several: the order of the words comes
    first.
    """
    return [tuple(some) for _, some in groupby(lines, key=lambda line: line.block)]


# ---- rendering ------------------------------------------------------------------------------------------------------


def render(page: PageText, version: OcrVersion, *, asked: str = AUTO_DETECT, detect: bool = True) -> OcrResult:
    """A page in the words of `/ocr`.

    Args:
        page: What was read.
        version: In whose words.
        asked: The language that was asked for, as `LANGUAGE` spells it.
        detect: Whether the orientation was asked for.
    """
    model_version = MODEL_VERSION if version.tells_model else None
    if not page.lines:
        return OcrResult(
            language=asked, text_angle=0.0, orientation="NotDetected", regions=[], model_version=model_version
        )
    turn = text_angle(page.angle)
    frame = Frame(width=page.width, height=page.height, turn=turn)
    return OcrResult(
        language=_language(page) if asked == AUTO_DETECT else asked,
        text_angle=turn,
        orientation=orientation(page.angle) if detect else "NotDetected",
        regions=[_region(lines, frame) for lines in regions(page.lines)],
        model_version=model_version,
    )


def _language(page: PageText) -> str:
    """What was found, as this API spells it where it has a code for it; `unk` where nothing was."""
    found = page.language or AUTO_DETECT
    found = _FOUND_CODES.get(found.lower(), found)
    return next((known for known in LANGUAGE.choices if known.lower() == found.lower()), found)


def _region(lines: Sequence[Line], frame: Frame) -> OcrRegion:
    boxes = [[frame.box(word.polygon) for word in line.words] for line in lines]
    return OcrRegion(
        bounding_box=str(Box.around(box for some in boxes for box in some)),
        lines=[_line(line, some) for line, some in zip(lines, boxes, strict=True)],
    )


def _line(line: Line, boxes: Sequence[Box]) -> OcrLine:
    words = [OcrWord(bounding_box=str(box), text=word.text) for word, box in zip(line.words, boxes, strict=True)]
    return OcrLine(bounding_box=str(Box.around(boxes)), words=words)


# ---- routes ---------------------------------------------------------------------------------------------------------


def blueprint(version: OcrVersion) -> Blueprint:
    """The route of one version."""
    bp = Blueprint("ocr_" + version.path.replace(".", "_"), __name__, url_prefix=f"/vision/{version.path}")
    number = version.path.removeprefix("v")
    query = (LANGUAGE, DETECT_ORIENTATION, *((MODEL_VERSION_ASKED,) if version.tells_model else ()))

    @bp.post("/ocr")
    @described(
        Described(
            document=ApiDocument(name=f"vision-{version.path}-ocr", title=f"OCR {number}"),
            summary="Read printed text in a picture",
            operation_id="recognizePrintedText",
            query=query,
            takes=RULES,
            answers={HTTPStatus.OK: Answer(meaning="The text: regions, lines and words.", model=OcrResult)},
            errors=DOCUMENT_ERRORS,
        )
    )
    def recognize_printed_text() -> Response:
        """Read a picture and answer with its text."""
        page = picture_text(lambda: _parameters(version))
        asked = LANGUAGE.read(request.args)
        detect = DETECT_ORIENTATION.read(request.args) == "true"
        return json_response(render(page, version, asked=asked, detect=detect))

    return bp


def _parameters(version: OcrVersion) -> ReadParameters:
    """The query parameters of contract E.5."""
    asked = LANGUAGE.read(request.args)
    DETECT_ORIENTATION.read(request.args)
    if version.tells_model:
        MODEL_VERSION_ASKED.read(request.args)
    return ReadParameters(language=None if asked == AUTO_DETECT else asked, rules=RULES)
