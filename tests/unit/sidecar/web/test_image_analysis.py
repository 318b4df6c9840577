"""Image Analysis 4.0: what may be asked, what is told, and how it refuses (contract E.6)."""

from __future__ import annotations

from http import HTTPStatus

import msgspec
import pytest
from flask import Flask

from ocr_core.page_text import Line, PageText, Word
from sidecar.errors import DocumentRefusedError
from sidecar.reading import ReadParameters
from sidecar.web import image_analysis, ocr
from sidecar.web.errors import Refusal, nested_body

WORDS = (
    Word(text="Gate", polygon=(25, 32, 110, 31, 110, 58, 25, 58), confidence=0.99123),
    Word(text="7", polygon=(121, 31, 187, 31, 187, 58, 121, 58), confidence=0.964),
)
LINE = Line(text="Gate 7", polygon=(24, 31, 188, 30, 188, 58, 24, 59), words=WORDS, confidence=0.98)


def a_page(*lines: Line) -> PageText:
    return PageText(page=1, width=640, height=480, unit="pixel", angle=0.0, orientation=0, lines=lines)


def points(*flat: int) -> list[dict[str, int]]:
    return [{"x": x, "y": y} for x, y in zip(flat[::2], flat[1::2], strict=True)]


def test_a_page_is_told_as_the_contract_tells_it() -> None:
    told = msgspec.to_builtins(image_analysis.render(a_page(LINE)))
    assert told == {
        "modelVersion": "2023-10-01",
        "metadata": {"width": 640, "height": 480},
        "readResult": {
            "blocks": [
                {
                    "lines": [
                        {
                            "text": "Gate 7",
                            "boundingPolygon": points(24, 31, 188, 30, 188, 58, 24, 59),
                            "words": [
                                {
                                    "text": "Gate",
                                    "boundingPolygon": points(25, 32, 110, 31, 110, 58, 25, 58),
                                    "confidence": 0.991,
                                },
                                {
                                    "text": "7",
                                    "boundingPolygon": points(121, 31, 187, 31, 187, 58, 121, 58),
                                    "confidence": 0.964,
                                },
                            ],
                        }
                    ]
                }
            ]
        },
    }
    assert list(told) == ["modelVersion", "metadata", "readResult"]


def test_text_of_several_blocks_is_told_in_one() -> None:
    lines = [msgspec.structs.replace(LINE, block=number) for number in range(3)]
    (block,) = image_analysis.render(a_page(*lines)).read_result.blocks
    assert len(block.lines) == 3


def test_without_text_there_is_no_block() -> None:
    assert msgspec.to_builtins(image_analysis.render(a_page()))["readResult"] == {"blocks": []}


def asked(query: str) -> ReadParameters:
    with Flask("test").test_request_context(f"/analyze?{query}", method="POST", data=b"x"):
        return image_analysis._parameters()


@pytest.mark.parametrize(
    "query",
    [
        "api-version=2023-10-01&features=read",
        "api-version=2024-02-01&features=Read",
        "features=READ,read&api-version=2023-10-01",
        "api-version=2023-10-01&features=read&language=en&gender-neutral-caption=True&model-version=latest",
        "api-version=2023-10-01&features=read&language=pt-BR",
        "api-version=2023-10-01&features=read&language=JA",
        "api-version=2023-10-01&features=read&smartcrops-aspect-ratios=0.75,1,1.0,1.33,1.8",
        "api-version=2023-10-01&features=read&model-version=2023-10-01-preview",
        "api-version=2023-10-01&features=read&model-name=",
        "API-VERSION=2023-10-01&Features=read",
        "api-version=2023-10-01&Api-Version=2023-10-01&features=read&FEATURES=Read",
        "api-version=2023-10-01&features=read&smartcrops-aspect-ratios=1&SmartCrops-Aspect-Ratios=1.5",
    ],
)
def test_what_is_asked_is_understood(query: str) -> None:
    parameters = asked(query)
    assert parameters.language is None
    assert parameters.pages == "1"
    assert parameters.reading_order == "basic"
    assert parameters.rules == image_analysis.RULES


GOOD = "api-version=2023-10-01&features=read"


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", "BadArgument"),
        ("features=read", "BadArgument"),
        ("api-version=2019-01-01&features=read", "BadArgument"),
        ("api-version=2023-10-01", "BadArgument"),
        ("api-version=2023-10-01&features=", "BadArgument"),
        ("api-version=2023-10-01&model-name=mine", "BadArgument"),
        *(
            (f"api-version=2023-10-01&features={name}", "NotSupportedVisualFeature")
            for name in ("tags", "caption", "denseCaptions", "objects", "smartCrops", "people", "nonsense")
        ),
        ("api-version=2023-10-01&features=read,caption", "NotSupportedVisualFeature"),
        (f"{GOOD}&language=e", "NotSupportedLanguage"),
        (f"{GOOD}&language=xx", "NotSupportedLanguage"),
        (f"{GOOD}&language=english", "NotSupportedLanguage"),
        (f"{GOOD}&gender-neutral-caption=perhaps", "BadArgument"),
        (f"{GOOD}&smartcrops-aspect-ratios=0.7", "BadArgument"),
        (f"{GOOD}&smartcrops-aspect-ratios=1.81", "BadArgument"),
        (f"{GOOD}&smartcrops-aspect-ratios=1,wide", "BadArgument"),
        (f"{GOOD}&model-version=yesterday", "BadArgument"),
        (f"{GOOD}&api-version=2024-02-01", "BadArgument"),
        (f"{GOOD}&features=caption", "NotSupportedVisualFeature"),
        (f"{GOOD}&FEATURES=caption", "NotSupportedVisualFeature"),
        (f"{GOOD}&Model-Name=mine", "BadArgument"),
        (f"{GOOD}&language=en&Language=de", "NotSupportedLanguage"),
    ],
)
def test_what_cannot_be_asked_is_refused(query: str, reason: str) -> None:
    with pytest.raises(DocumentRefusedError) as refusal:
        asked(query)
    assert refusal.value.reason == reason


def test_whoever_asks_for_captions_is_told_that_there_is_only_text() -> None:
    with pytest.raises(DocumentRefusedError, match="reads text only"):
        asked("api-version=2023-10-01&features=caption")


def test_an_empty_body_is_told_by_its_length() -> None:
    with (
        Flask("test").test_request_context(
            f"/analyze?{GOOD}", method="POST", environ_overrides={"CONTENT_LENGTH": "0"}
        ),
        pytest.raises(DocumentRefusedError, match="20971520") as refusal,
    ):
        image_analysis._parameters()
    assert refusal.value.reason == "InvalidImageSize"


@pytest.mark.parametrize(
    ("status", "code", "outer"),
    [
        (400, "InvalidImageFormat", "InvalidRequest"),
        (415, "UnsupportedMediaType", "InvalidRequest"),
        (500, "FailedToProcess", "InternalServerError"),
        (500, "StorageException", "InternalServerError"),
    ],
)
def test_a_particular_code_stands_inside_a_general_one(status: int, code: str, outer: str) -> None:
    told = msgspec.to_builtins(nested_body(Refusal(status=HTTPStatus(status), code=code, message="Why.")))
    inner = {"code": code, "message": "Why."}
    assert told == {"error": {"code": outer, "message": "Why.", "innererror": inner}}


@pytest.mark.parametrize(
    ("status", "code"), [(403, "NoCredit"), (503, "ServiceUnavailable"), (500, "InternalServerError")]
)
def test_a_general_code_stands_alone(status: int, code: str) -> None:
    told = msgspec.to_builtins(nested_body(Refusal(status=HTTPStatus(status), code=code, message="Why.")))
    assert told == {"error": {"code": code, "message": "Why."}}


@pytest.mark.parametrize(
    ("reason", "in_ocr", "in_analysis"),
    [
        ("FailedToDownloadImage", "InvalidImageUrl", "InvalidImageUrl"),
        ("InvalidImageUrl", "InvalidImageUrl", "InvalidImageUrl"),
        ("InvalidImage", "InvalidImageFormat", "InvalidImageFormat"),
        ("UnsupportedImageFormat", "NotSupportedImage", "InvalidImageFormat"),
        ("InvalidImageDimension", "InvalidImageSize", "InvalidImageSize"),
        ("InvalidImageSize", "InvalidImageSize", "InvalidImageSize"),
        ("NotSupportedLanguage", "NotSupportedLanguage", "NotSupportedLanguage"),
        ("BadArgument", "BadArgument", "BadArgument"),
        ("FailedToProcess", "FailedToProcess", "FailedToProcess"),
    ],
)
def test_codes_are_renamed_as_each_version_names_them(reason: str, in_ocr: str, in_analysis: str) -> None:
    for version in ocr.VERSIONS:
        assert version.dialect.codes.get(reason, reason) == in_ocr
    assert image_analysis.DIALECT.codes.get(reason, reason) == in_analysis
