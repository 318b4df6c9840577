"""Read in the words of each version (contract E.1-E.4): tables for a page that is known, properties for any page."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocr_core.page_text import Line, PageText, Style, Word
from sidecar.results import Operation
from sidecar.web import read_v2, read_v3
from sidecar.web.errors import DOCUMENTED, OBSERVED, FlatError, Refusal
from sidecar.web.read_v3_wire import wire_angle, wire_instant
from sidecar.web.wording import Wording
from tests.unit.sidecar.web.operations import GATE, operation, page_texts

V3 = {version.path: version for version in read_v3.VERSIONS}
WORDINGS: dict[str, tuple[Wording, type]] = {
    **{path: (version.wording, version.shape.operation) for path, version in V3.items()},
    "v2 read": (read_v2.READ, read_v2.BatchReadResult),
    "v2 text": (read_v2.TEXT, read_v2.TextOperationResult),
    "v2 direct": (read_v2.DIRECT, read_v2.RecognizedDirect),
}
NINETEEN_CODES = {
    "InvalidImageFormat", "UnsupportedMediaType", "InvalidImageUrl", "NotSupportedFeature", "NotSupportedImage",
    "Timeout", "InternalServerError", "InvalidImageSize", "BadArgument", "DetectFaceError",
    "NotSupportedLanguage", "InvalidThumbnailSize", "InvalidDetails", "InvalidModel", "CancelledRequest",
    "NotSupportedVisualFeature", "FailedToProcess", "Unspecified", "StorageException",
}  # fmt: skip
SEVENTEEN_CODES = (
    "InvalidImageFormat", "UnsupportedMediaType", "InvalidImageUrl", "InternalServerError", "InvalidImageSize",
    "BadArgument", "NotSupportedLanguage", "FailedToProcess", "Unspecified", "StorageException",
    "InvalidPageRange", "FailedToDownloadImage", "InvalidImage", "UnsupportedImageFormat",
    "InvalidImageDimension", "InvalidReadingOrder", "InvalidRequest",
)  # fmt: skip


def wire(name: str, one: Operation) -> dict[str, Any]:
    """An operation as a client of the version gets it; what is sent must be what the version's model says."""
    wording, model = WORDINGS[name]
    body = b"".join(wording.pieces(one))
    msgspec.json.decode(body, type=model)
    return dict(json.loads(body))


def pages_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return list(answer["analyzeResult"]["readResults"])


# ---- a page that is known -------------------------------------------------------------------------------------------

WORDS = [
    {"boundingBox": [25, 32, 110, 31, 110, 58, 25, 58], "text": "Gate", "confidence": 0.991},
    {"boundingBox": [121, 31, 187, 31, 187, 58, 121, 58], "text": "7", "confidence": 0.6},
]
EXIT = [{"boundingBox": [24, 131, 188, 130, 188, 158, 24, 159], "text": "выход", "confidence": 0.8}]


def line(box: list[int], text: str, words: list[Any], **more: Any) -> dict[str, Any]:
    return {**more.pop("before", {}), "boundingBox": box, "text": text, **more, "words": words}


BOXES = ([24, 31, 188, 30, 188, 58, 24, 59], [24, 131, 188, 130, 188, 158, 24, 159])
STYLE = {"style": {"name": "other", "confidence": 0.912}}
RUSSIAN = {"before": {"language": "ru"}}


def test_v3_2_in_full() -> None:
    assert wire("v3.2", operation("succeeded", GATE)) == {
        "status": "succeeded",
        "createdDateTime": "2031-03-05T08:15:30.1234567+00:00",
        "lastUpdatedDateTime": "2031-03-05T08:15:31.0000001+00:00",
        "analyzeResult": {
            "version": "3.2.0",
            "modelVersion": "2022-04-30",
            "readResults": [
                {
                    "page": 2,
                    "language": "en",
                    "angle": -1.3,
                    "width": 640,
                    "height": 480,
                    "unit": "pixel",
                    "lines": [
                        line(BOXES[0], "Gate 7", WORDS, appearance=STYLE),
                        line(BOXES[1], "выход", EXIT, **RUSSIAN),  # no appearance: it is not in Latin script
                    ],
                }
            ],
        },
    }


@pytest.mark.parametrize(
    ("path", "version", "analysis_keys", "lines"),
    [
        (
            "v3.2-preview.2",
            "3.2.0",
            ["version", "readResults"],
            [line(BOXES[0], "Gate 7", WORDS, appearance=STYLE), line(BOXES[1], "выход", EXIT, **RUSSIAN)],
        ),
        (
            "v3.2-preview.1",
            "3.2.0",
            ["version", "readResults"],
            [line(BOXES[0], "Gate 7", WORDS, appearance=STYLE), line(BOXES[1], "выход", EXIT, **RUSSIAN)],
        ),
        (
            "v3.1",
            "3.1.0",
            ["version", "readResults"],
            [line(BOXES[0], "Gate 7", WORDS), line(BOXES[1], "выход", EXIT, **RUSSIAN)],
        ),
        (
            "v3.1-preview.2",
            "3.1.0",
            ["version", "readResults"],
            [line(BOXES[0], "Gate 7", WORDS), line(BOXES[1], "выход", EXIT, **RUSSIAN)],
        ),
        (
            "v3.0",
            "3.0.0",
            ["version", "readResults"],
            [line(BOXES[0], "Gate 7", WORDS), line(BOXES[1], "выход", EXIT, **RUSSIAN)],
        ),
        (
            "v3.0-preview",
            "3.0.0",
            ["version", "readResults"],
            [line(BOXES[0], "Gate 7", WORDS, before={"language": "en"}), line(BOXES[1], "выход", EXIT, **RUSSIAN)],
        ),
    ],
)
def test_earlier_v3(path: str, version: str, analysis_keys: list[str], lines: list[Any]) -> None:
    answer = wire(path, operation("succeeded", GATE))
    assert list(answer) == ["status", "createdDateTime", "lastUpdatedDateTime", "analyzeResult"]
    assert list(answer["analyzeResult"]) == analysis_keys
    assert answer["analyzeResult"]["version"] == version
    (page,) = pages_of(answer)
    assert list(page) == ["page", "language", "angle", "width", "height", "unit", "lines"]
    assert page["lines"] == lines
    assert [list(got) for got in page["lines"]] == [list(wanted) for wanted in lines]


@pytest.mark.parametrize("path", list(V3))
def test_dates(path: str) -> None:
    answer = wire(path, operation("running"))
    fine = ["2031-03-05T08:15:30.1234567+00:00", "2031-03-05T08:15:31.0000001+00:00"]
    whole = ["2031-03-05T08:15:30Z", "2031-03-05T08:15:31Z"]
    wanted = whole if path == "v3.0-preview" else fine
    assert [answer["createdDateTime"], answer["lastUpdatedDateTime"]] == wanted


def test_v2_read_in_full() -> None:
    assert wire("v2 read", operation("succeeded", GATE)) == {
        "status": "Succeeded",
        "recognitionResults": [
            {
                "page": 2,
                "clockwiseOrientation": 358.7,
                "width": 640,
                "height": 480,
                "unit": "pixel",
                "lines": V2_LINES,
            }
        ],
    }


V2_LINES = [
    {
        "boundingBox": [24, 31, 188, 30, 188, 58, 24, 59],
        "text": "Gate 7",
        "words": [
            {"boundingBox": [25, 32, 110, 31, 110, 58, 25, 58], "text": "Gate"},
            {"boundingBox": [121, 31, 187, 31, 187, 58, 121, 58], "text": "7", "confidence": "Low"},
        ],
    },
    {
        "boundingBox": [24, 131, 188, 130, 188, 158, 24, 159],
        "text": "выход",
        "words": [{"boundingBox": [24, 131, 188, 130, 188, 158, 24, 159], "text": "выход"}],
    },
]


def test_v2_text_puts_the_lines_of_all_pages_in_one_list() -> None:
    done = operation("succeeded", GATE, GATE)
    assert wire("v2 text", done) == {"status": "Succeeded", "recognitionResult": {"lines": V2_LINES * 2}}
    assert wire("v2 direct", done) == {"status": "Succeeded", "lines": V2_LINES * 2}


# ---- statuses and failures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["notStarted", "running"])
@pytest.mark.parametrize("path", list(V3))
def test_unfinished_v3_has_exactly_three_keys(path: str, status: str) -> None:
    answer = wire(path, operation(status))
    assert list(answer) == ["status", "createdDateTime", "lastUpdatedDateTime"]
    assert answer["status"] == status


@pytest.mark.parametrize(
    ("status", "said"), [("notStarted", "NotStarted"), ("running", "Running"), ("failed", "Failed")]
)
@pytest.mark.parametrize("name", ["v2 read", "v2 text"])
def test_unsuccessful_v2_has_the_status_alone(name: str, status: str, said: str) -> None:
    errors = (("InvalidImage", "damaged"),) if status == "failed" else ()
    assert wire(name, operation(status, errors=errors)) == {"status": said}


@pytest.mark.parametrize(
    ("path", "code"), [(path, "InvalidImage" if path == "v3.2" else "InvalidImageFormat") for path in V3]
)
def test_failed_v3_says_what_stopped_it_with_a_code_of_its_own(path: str, code: str) -> None:
    answer = wire(path, operation("failed", errors=(("InvalidImage", "damaged"),)))
    assert answer["status"] == "failed"
    assert answer["analyzeResult"]["readResults"] == []
    assert answer["analyzeResult"]["errors"] == [{"code": code, "message": "damaged"}]


# ---- languages and appearance ---------------------------------------------------------------------------------------


def a_line(text: str, language: str | None = None) -> Line:
    words = tuple(Word(text=word, polygon=(0, 0, 1, 0, 1, 1, 0, 1), confidence=1) for word in text.split())
    return Line(
        text=text,
        polygon=(0, 0, 1, 0, 1, 1, 0, 1),
        words=words,
        confidence=1,
        language=language,
        style=Style(name="other", confidence=0.5),
    )


def page_of(*lines: Line, language: str | None = None) -> PageText:
    return PageText(page=1, width=9, height=9, unit="pixel", angle=0.0, orientation=0, lines=lines, language=language)


@pytest.mark.parametrize("path", [path for path in V3 if path != "v3.0-preview"])
@pytest.mark.parametrize(
    ("page", "of_line", "said"),
    [("en", "en", None), ("en", "de", "de"), ("en", None, None), (None, "de", "de"), (None, None, None)],
)
def test_a_line_tells_its_language_where_it_differs(
    path: str, page: str | None, of_line: str | None, said: str | None
) -> None:
    (shown,) = pages_of(wire(path, operation("succeeded", page_of(a_line("x", of_line), language=page))))
    assert shown.get("language") == page
    assert ("language" in shown) == (page is not None)
    assert shown["lines"][0].get("language") == said


@pytest.mark.parametrize(
    ("page", "of_line", "said"),
    [("en", "en", ("en", "en")), ("en", "es", ("en", "es")), ("en", None, ("en", "en")), (None, None, ("und", "und"))],
)
def test_v3_0_preview_always_tells_the_language(page: str | None, of_line: str | None, said: tuple[str, str]) -> None:
    done = operation("succeeded", page_of(a_line("x", of_line), language=page))
    (shown,) = pages_of(wire("v3.0-preview", done))
    assert (shown["language"], shown["lines"][0]["language"]) == said


@pytest.mark.parametrize(
    ("text", "latin"),
    [
        ("Gate 7", True),
        ("1042", True),
        ("Ærøskøbing ﬁn", True),
        ("Zürich ẞ ǆ", True),
        ("выход", False),
        ("出口 A", False),
        ("出口 Gate", True),
        ("مخرج", False),
        ("출구", False),
        ("έξοδος", False),
    ],
)
def test_appearance_is_told_of_latin_script_alone(text: str, latin: bool) -> None:
    done = operation("succeeded", page_of(a_line(text)))
    for path in ("v3.2", "v3.2-preview.1", "v3.2-preview.2"):
        assert ("appearance" in pages_of(wire(path, done))[0]["lines"][0]) == latin
    for path in ("v3.1", "v3.1-preview.2", "v3.0", "v3.0-preview"):
        assert "appearance" not in pages_of(wire(path, done))[0]["lines"][0]


def test_a_line_without_an_opinion_has_no_appearance() -> None:
    plain = msgspec.structs.replace(a_line("Gate"), style=None)
    (page,) = pages_of(wire("v3.2", operation("succeeded", page_of(plain))))
    assert "appearance" not in page["lines"][0]


# ---- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("angle", "v3", "v2"),
    [
        (0.0, "0.0", "0.0"),
        (-0.00001, "0.0", "0.0"),
        (-0.0, "0.0", "0.0"),
        (1.23456, "1.2346", "1.2346"),
        (-1.3, "-1.3", "358.7"),
        (-180.0, "-180.0", "180.0"),
        (179.99999, "-180.0", "180.0"),
        (-90.0, "-90.0", "270.0"),
    ],
)
def test_angles(angle: float, v3: str, v2: str) -> None:
    turned = operation("succeeded", msgspec.structs.replace(GATE, angle=angle))
    assert str(pages_of(wire("v3.2", turned))[0]["angle"]) == v3
    assert str(wire("v2 read", turned)["recognitionResults"][0]["clockwiseOrientation"]) == v2
    assert str(wire_angle(angle)) == v3


def test_instants_keep_seven_digits() -> None:
    assert wire_instant(0) == "1970-01-01T00:00:00.0000000+00:00"
    assert wire_instant(1_930_464_930_000_000_099) == "2031-03-05T08:15:30.0000000+00:00"


# ---- any page -------------------------------------------------------------------------------------------------------


def pieces(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of an answer that has a box."""
    if isinstance(value, dict):
        if "boundingBox" in value:
            yield value
        for one in value.values():
            yield from pieces(one)
    elif isinstance(value, list):
        for one in value:
            yield from pieces(one)


@settings(deadline=None, max_examples=60)
@given(st.lists(page_texts(), max_size=2))
def test_any_page_has_a_valid_shape_in_every_version(pages: list[PageText]) -> None:
    done = operation("succeeded", *pages)
    wanted = [[word.text for word in one.words] for page in pages for one in page.lines]
    for name in WORDINGS:
        answer = wire(name, done)
        for piece in pieces(answer):
            assert len(piece["boundingBox"]) == 8
            assert all(number >= 0 for number in piece["boundingBox"])
            confidence = piece.get("confidence", 0)
            assert confidence in {"High", "Low"} or 0 <= confidence <= 1
        told = answer.get("analyzeResult", {}).get("readResults", answer.get("recognitionResults", []))
        for page, shown in zip(pages, told, strict=False):
            assert shown["page"] == page.page
            assert -180 <= shown.get("angle", 0) < 180
            assert 0 <= shown.get("clockwiseOrientation", 0) < 360
        lines = [piece for piece in pieces(answer) if "words" in piece]
        assert [[word["text"] for word in one["words"]] for one in lines] == wanted


def at_once(wording: Wording, one: Operation) -> bytes:
    """The version's model of a whole operation, encoded as one."""
    return msgspec.json.encode(wording.around(one, [told for page in one.pages for told in wording.of_page(page)]))


@settings(deadline=None, max_examples=60)
@given(st.lists(page_texts(), max_size=4), st.text(max_size=8))
def test_an_answer_in_pieces_is_the_same_as_all_at_once(pages: list[PageText], message: str) -> None:
    stands = [operation("running"), operation("failed", errors=(("InvalidImage", message),))]
    for one in (operation("succeeded", *pages), *stands):
        for name, (wording, _) in WORDINGS.items():
            assert b"".join(wording.pieces(one)) == at_once(wording, one), name


def test_a_page_is_rendered_when_its_piece_is_asked_for() -> None:
    taken = []

    def pages() -> Iterator[PageText]:
        for number in range(1, 4):
            taken.append(number)
            yield msgspec.structs.replace(GATE, page=number)

    pieces = V3["v3.2"].wording.pieces(replace(operation("succeeded"), pages=pages()))
    assert [list(taken) for _ in pieces] == [[], [1], [1, 2], [1, 2, 3], [1, 2, 3]]


# ---- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", SEVENTEEN_CODES)
def test_versions_before_3_2_say_errors_with_codes_that_they_have(code: str) -> None:
    plain = {path: V3[path].dialect(observed=True) for path in ("v3.1", "v3.0", "v3.0-preview")}
    for dialect in (*plain.values(), read_v2.DIALECT):
        assert dialect.codes.get(code, code) in NINETEEN_CODES
    for path in ("v3.2-preview.1", "v3.2-preview.2", "v3.1-preview.2"):
        dialect = V3[path].dialect(observed=True)
        assert dialect.codes.get(code, code) in NINETEEN_CODES | {"InvalidPageRange"}
    assert (dialect.codes.get(code, code) == "InvalidPageRange") == (code == "InvalidPageRange")
    assert code == V3["v3.2"].codes.get(code, code)


def test_only_3_2_has_a_choice_of_form() -> None:
    assert V3["v3.2"].dialect(observed=True) is OBSERVED
    assert V3["v3.2"].dialect(observed=False) is DOCUMENTED
    for path in V3.keys() - {"v3.2"}:
        for observed in (True, False):
            body = V3[path].dialect(observed=observed).body(Refusal(status=400, code="BadArgument", message="no"))
            assert isinstance(body, FlatError)


def test_every_flat_error_has_a_request_id_of_its_own() -> None:
    refusal = Refusal(status=404, code="BadArgument", message="gone")
    ids = {json.loads(msgspec.json.encode(read_v2.DIALECT.body(refusal)))["requestId"] for _ in range(3)}
    assert len(ids) == 3
    assert all(re.fullmatch(r"[0-9a-f-]{36}", one) for one in ids)
