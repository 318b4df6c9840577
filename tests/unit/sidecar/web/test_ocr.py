"""`/ocr`: the frame of its boxes, its regions, its words for things (contract E.5)."""

from __future__ import annotations

import math

import msgspec
import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from ocr_core.page_text import Line, PageText, Polygon, Word
from sidecar.errors import DocumentRefusedError
from sidecar.reading import ReadParameters
from sidecar.web import ocr
from sidecar.web.ocr import VERSIONS, Box, Frame

NEWEST, *_, OLDEST = VERSIONS
ANGLES = st.floats(-180, 179.9999)


def turned(polygon: Polygon, degrees: float, width: float, height: float) -> Polygon:
    """Clockwise about the middle of the picture."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    out: list[float] = []
    for x, y in zip(polygon[::2], polygon[1::2], strict=True):
        dx, dy = x - width / 2, y - height / 2
        out += [width / 2 + cosine * dx - sine * dy, height / 2 + sine * dx + cosine * dy]
    return tuple(out)  # type: ignore[return-value]


def corners(left: float, top: float, right: float, bottom: float) -> Polygon:
    return (left, top, right, top, right, bottom, left, bottom)


def a_word(text: str, polygon: Polygon) -> Word:
    return Word(text=text, polygon=polygon, confidence=0.9)


def a_line(*words: Word, block: int = 0) -> Line:
    polygon = words[0].polygon[:2] + words[-1].polygon[2:6] + words[0].polygon[6:]
    text = " ".join(word.text for word in words)
    return Line(text=text, polygon=polygon, words=words, confidence=0.9, block=block)


def a_page(*lines: Line, angle: float = 0.0, language: str | None = None) -> PageText:
    return PageText(
        page=1, width=640, height=480, unit="pixel", angle=angle, orientation=round(angle / 90) % 4, lines=lines,
        language=language,
    )  # fmt: skip


GATE = a_line(a_word("Gate", corners(25, 32, 110, 58)), a_word("7", corners(121, 32, 187, 58)))


def numbers(box: str) -> tuple[int, ...]:
    return tuple(int(part) for part in box.split(","))


# ---- the frame


@given(angle=ANGLES)
def test_the_picture_is_never_turned_by_more_than_an_eighth(angle: float) -> None:
    assert abs(ocr.text_angle(angle)) <= math.pi / 4


@given(angle=ANGLES)
def test_turned_by_text_angle_the_text_runs_along_an_axis_and_faces_the_side_that_is_told(angle: float) -> None:
    left = (angle + math.degrees(ocr.text_angle(angle))) % 360
    quarters = {"Up": 0, "Right": 90, "Down": 180, "Left": 270}[ocr.orientation(angle)]
    assert min(abs(left - quarters), 360 - abs(left - quarters)) < 0.01


@pytest.mark.parametrize(
    ("angle", "turn", "side"),
    [
        (0.0, 0.0, "Up"),
        (3.0, -0.0524, "Up"),
        (-7.0, 0.1222, "Up"),
        (90.0, 0.0, "Right"),
        (93.0, -0.0524, "Right"),
        (-180.0, 0.0, "Down"),
        (177.0, 0.0524, "Down"),
        (-90.0, 0.0, "Left"),
        (-97.0, 0.1222, "Left"),
        (44.9, -0.7837, "Up"),
        (45.1, 0.7837, "Right"),
    ],
)
def test_text_that_runs_downhill_has_a_negative_text_angle(angle: float, turn: float, side: str) -> None:
    assert ocr.text_angle(angle) == turn
    assert str(ocr.text_angle(angle)) != "-0.0"
    assert ocr.orientation(angle) == side


@given(
    angle=ANGLES,
    left=st.integers(200, 300),
    top=st.integers(200, 240),
    width=st.integers(5, 120),
    height=st.integers(5, 60),
)
def test_a_word_on_a_turned_page_gets_its_own_box_back(
    angle: float, left: int, top: int, width: int, height: int
) -> None:
    upright = corners(left, top, left + width, top + height)
    frame = Frame(width=640, height=480, turn=ocr.text_angle(angle))
    found = frame.box(turned(upright, angle, 640, 480))
    quarters = round(angle / 90)
    wanted = turned(upright, 90 * quarters, 640, 480)
    xs, ys = wanted[::2], wanted[1::2]
    for got, want in zip(
        (found.left, found.top, found.right, found.bottom), (min(xs), min(ys), max(xs), max(ys)), strict=True
    ):
        assert got == pytest.approx(want, abs=0.05)  # four decimals of a radian over a few hundred pixels


@given(
    outer=st.tuples(*[st.floats(0, 500)] * 4),
    inner=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_a_box_told_in_whole_pixels_stays_inside_the_one_that_holds_it(
    outer: tuple[float, float, float, float], inner: tuple[float, float, float, float]
) -> None:
    (x1, x2), (y1, y2) = sorted((outer[0], outer[2])), sorted((outer[1], outer[3]))
    (u1, u2), (v1, v2) = sorted((inner[0], inner[2])), sorted((inner[1], inner[3]))
    held = Box(x1 + u1 * (x2 - x1), y1 + v1 * (y2 - y1), x1 + u2 * (x2 - x1), y1 + v2 * (y2 - y1))
    union = Box.around([Box(x1, y1, x2, y2), held])
    (left, top, width, height), (a, b, c, d) = numbers(str(union)), numbers(str(held))
    assert left <= a
    assert top <= b
    assert a + c <= left + width
    assert b + d <= top + height


# ---- what is told


def test_a_page_is_told_as_the_contract_tells_it() -> None:
    told = msgspec.to_builtins(ocr.render(a_page(GATE, language="en"), NEWEST))
    words = [{"boundingBox": "25,32,85,26", "text": "Gate"}, {"boundingBox": "121,32,66,26", "text": "7"}]
    assert told == {
        "language": "en",
        "textAngle": 0.0,
        "orientation": "Up",
        "regions": [{"boundingBox": "25,32,162,26", "lines": [{"boundingBox": "25,32,162,26", "words": words}]}],
        "modelVersion": "2021-04-01",
    }
    assert list(told) == ["language", "textAngle", "orientation", "regions", "modelVersion"]


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_older_versions_tell_no_model(version: ocr.OcrVersion) -> None:
    assert "modelVersion" not in msgspec.to_builtins(ocr.render(a_page(GATE), version))


@pytest.mark.parametrize("asked", ["unk", "en", "zh-Hans"])
def test_without_text_the_language_is_the_one_that_was_asked_for(asked: str) -> None:
    told = msgspec.to_builtins(ocr.render(a_page(angle=12.0, language="de"), OLDEST, asked=asked))
    assert told == {"language": asked, "textAngle": 0.0, "orientation": "NotDetected", "regions": []}


def test_the_angle_is_told_even_when_the_orientation_is_not_asked_for() -> None:
    told = ocr.render(a_page(GATE, angle=93.0), OLDEST, detect=False)
    assert (told.orientation, told.text_angle) == ("NotDetected", -0.0524)
    assert told.regions


@pytest.mark.parametrize(
    ("asked", "found", "told"),
    [
        ("unk", "fr", "fr"),
        ("unk", None, "unk"),
        ("unk", "no", "nb"),
        ("unk", "zh-hans", "zh-Hans"),
        ("unk", "sr-latn", "sr-Latn"),
        ("unk", "cy", "cy"),
        ("de", "fr", "de"),
        ("de", None, "de"),
    ],
)
def test_the_language_is_the_one_asked_for_or_the_one_found(asked: str, found: str | None, told: str) -> None:
    assert ocr.render(a_page(GATE, language=found), OLDEST, asked=asked).language == told


def test_neighbours_in_one_block_are_a_region_and_words_keep_their_order() -> None:
    places = [("A", 0), ("B", 0), ("C", 1), ("D", 1), ("E", 0), ("F", 2)]
    lines = [
        a_line(a_word(text, corners(10 * n, 20 * n, 10 * n + 8, 20 * n + 15)), block=block)
        for n, (text, block) in enumerate(places)
    ]
    told = ocr.render(a_page(*lines), OLDEST)
    assert [[word.text for line in region.lines for word in line.words] for region in told.regions] == [
        ["A", "B"],
        ["C", "D"],
        ["E"],
        ["F"],
    ]
    assert told.regions[0].bounding_box == "0,0,18,35"


# ---- what is asked


def asked(query: str, version: ocr.OcrVersion = NEWEST) -> ReadParameters:
    with Flask("test").test_request_context(f"/ocr?{query}"):
        return ocr._parameters(version)


@pytest.mark.parametrize(
    ("query", "language"),
    [
        ("", None),
        ("language=", None),
        ("language=unk&detectOrientation=true&model-version=latest", None),
        ("language=UNK&detectOrientation=False", None),
        ("language=EN", "en"),
        ("language=sr-cyrl", "sr-Cyrl"),
        ("language=ZH-hant", "zh-Hant"),
        ("overload=stream", None),
    ],
)
def test_what_is_asked_is_understood(query: str, language: str | None) -> None:
    assert asked(query).language == language
    assert asked(query).rules.formats == ("jpeg", "png", "gif", "bmp")


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("language=af", "NotSupportedLanguage"),
        ("language=xx", "NotSupportedLanguage"),
        ("language=%00", "NotSupportedLanguage"),
        ("detectOrientation=perhaps", "BadArgument"),
        ("detectOrientation=1", "BadArgument"),
        ("model-version=yesterday", "BadArgument"),
        ("model-version=latest%0a", "BadArgument"),
    ],
)
def test_what_cannot_be_asked_is_refused(query: str, reason: str) -> None:
    with pytest.raises(DocumentRefusedError) as refusal:
        asked(query)
    assert refusal.value.reason == reason


def test_a_model_is_asked_for_in_the_newest_version_alone() -> None:
    assert asked("model-version=yesterday", OLDEST).language is None


def test_every_language_of_the_contract_and_no_other() -> None:
    assert len(set(ocr.LANGUAGES)) == 26
    assert all(asked(f"language={code}").language == code for code in ocr.LANGUAGES)
