"""Pages and operations for rendering tests: one page that is known, and any page at all."""

from typing import Any

from hypothesis import strategies as st

from ocr_core.page_text import Line, PageText, Polygon, Style, Word
from sidecar.results import Operation

CREATED_NS = 1_930_464_930_123_456_789
UPDATED_NS = 1_930_464_931_000_000_100
OPERATION_ID = "0b5a9f3c-6c7f-4d8e-9a1b-2c3d4e5f6071"

GATE = PageText(
    page=2,
    width=640,
    height=480,
    unit="pixel",
    angle=-1.3,
    orientation=0,
    language="en",
    lines=(
        Line(
            text="Gate 7",
            polygon=(24, 31, 188, 30, 188, 58, 24, 59),
            words=(
                Word(text="Gate", polygon=(25, 32, 110, 31, 110, 58, 25, 58), confidence=0.99123),
                Word(text="7", polygon=(121, 31, 187, 31, 187, 58, 121, 58), confidence=0.6),
            ),
            confidence=0.9,
            language="en",
            style=Style(name="other", confidence=0.9123),
        ),
        Line(
            text="выход",
            polygon=(24, 131, 188, 130, 188, 158, 24, 159),
            words=(Word(text="выход", polygon=(24, 131, 188, 130, 188, 158, 24, 159), confidence=0.8),),
            confidence=0.8,
            language="ru",
            style=Style(name="other", confidence=0.8),
        ),
    ),
)


def operation(status: Any = "succeeded", *pages: PageText, errors: tuple[tuple[str, str], ...] = ()) -> Operation:
    return Operation(
        operation_id=OPERATION_ID,
        status=status,
        created_ns=CREATED_NS,
        updated_ns=UPDATED_NS,
        pages=pages,
        errors=errors,
    )


# ---- any page -------------------------------------------------------------------------------------------------------


@st.composite
def page_texts(draw: st.DrawFn) -> PageText:
    """Any page that keeps the invariants of `PageText`."""
    unit = draw(st.sampled_from(["pixel", "inch"]))
    number = st.integers(0, 10_000) if unit == "pixel" else st.floats(0, 100).map(lambda inches: round(inches, 4))
    polygons = st.tuples(*[number] * 8)
    confidences = st.floats(0, 1)
    languages = st.sampled_from([None, "en", "de", "zh-Hans"])

    def word(text: str) -> Word:
        polygon: Polygon = draw(polygons)
        return Word(text=text, polygon=polygon, confidence=draw(confidences))

    def line(texts: list[str]) -> Line:
        polygon: Polygon = draw(polygons)
        return Line(
            text=" ".join(texts),
            polygon=polygon,
            words=tuple(word(text) for text in texts),
            confidence=draw(confidences),
            language=draw(languages),
            style=draw(
                st.none() | st.builds(Style, name=st.sampled_from(["handwriting", "other"]), confidence=confidences)
            ),
        )

    texts = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=8)
    lines = draw(st.lists(st.lists(texts, min_size=1, max_size=3), max_size=3))
    angle = draw(st.floats(-180, 180, exclude_max=True))
    return PageText(
        page=draw(st.integers(1, 2000)),
        width=draw(number),
        height=draw(number),
        unit=unit,
        angle=angle,
        orientation=draw(st.integers(0, 3)),
        language=draw(languages),
        lines=tuple(line(one) for one in lines),
    )
