from collections.abc import Sequence

import pytest

from ocr_core.engine import FoundLine, FoundWord
from ocr_core.pages import gutters

WORD = 60
SPACE = 8
HEIGHT = 20


def words(text: str, left: int, top: int) -> tuple[FoundWord, ...]:
    return tuple(
        FoundWord(
            text=word,
            box=(left + number * (WORD + SPACE), top, left + number * (WORD + SPACE) + WORD, top + HEIGHT),
            confidence=0.9,
        )
        for number, word in enumerate(text.split())
    )


def a_line(*parts: tuple[str, int], top: int, block: int = 0) -> FoundLine:
    """A line of parts, each with its left edge."""
    found = tuple(word for text, left in parts for word in words(text, left, top))
    return FoundLine(words=found, baseline=(found[0].box[0], top + HEIGHT, found[-1].box[2], top + HEIGHT), block=block)


def texts(lines: Sequence[FoundLine]) -> list[str]:
    return [" ".join(word.text for word in piece.line.words) for piece in gutters.parted(lines)]


LEFT = [f"left prose goes here {number}" for number in range(6)]
RIGHT = [f"right prose goes on {number}" for number in range(6)]


def test_lines_across_a_gutter_are_cut_and_read_column_by_column() -> None:
    lines = [
        a_line((left, 0), (right, 420), top=30 * number)
        for number, (left, right) in enumerate(zip(LEFT, RIGHT, strict=True))
    ]
    assert texts(lines) == [*LEFT, *RIGHT]
    assert [piece.number for piece in gutters.parted(lines)] == [*range(6), *range(6)]
    assert {piece.line.block for piece in gutters.parted(lines)} == {0, 1}


def test_one_line_across_is_enough() -> None:
    lines = [a_line((text, 0), top=30 * number) for number, text in enumerate(LEFT[:5])]
    lines += [a_line((LEFT[5], 0), (RIGHT[5], 420), top=150)]
    lines += [a_line((text, 420), top=30 * number) for number, text in enumerate(RIGHT[:5])]
    assert texts(lines) == [*LEFT, *RIGHT]


def test_the_engines_layout_stays_where_no_line_is_across() -> None:
    lines = [a_line((text, 420), top=30 * number) for number, text in enumerate(RIGHT)]
    lines += [a_line((text, 0), top=30 * number) for number, text in enumerate(LEFT)]
    assert [piece.line for piece in gutters.parted(lines)] == lines  # right first, as the engine told it


def test_a_heading_across_columns_is_no_line_across_a_gutter() -> None:
    heading = a_line(("a heading that goes over both of the columns", 0), top=0)
    lines = [
        a_line((left, 0), (right, 420), top=60 + 30 * number)
        for number, (left, right) in enumerate(zip(LEFT, RIGHT, strict=True))
    ]
    assert texts([heading, *lines]) == ["a heading that goes over both of the columns", *LEFT, *RIGHT]


def test_forms_receipts_and_tables_stay_rows() -> None:
    form = [a_line((f"Name{n}:", 0), (f"Smith{n}", 420), top=30 * n) for n in range(8)]
    receipt = [a_line((f"one good thing {n}", 0), (f"{n}.50", 600), top=30 * n) for n in range(8)]
    table = [a_line(*((f"cell{n}{column}", 300 * column) for column in range(4)), top=30 * n) for n in range(8)]
    for lines in (form, receipt, table):
        assert [piece.line for piece in gutters.parted(lines)] == lines


def test_a_line_that_is_cut_keeps_its_baseline() -> None:
    lines = [
        FoundLine(
            words=(*words(left, 0, 30 * n), *words(right, 420, 30 * n)),
            baseline=(0, 30 * n + 10, 800, 30 * n + 20),
            block=0,
        )
        for n, (left, right) in enumerate(zip(LEFT, RIGHT, strict=True))
    ]
    baselines = [piece.line.baseline for piece in gutters.parted(lines)]
    assert baselines[0] == pytest.approx((0, 10, 332, 10 + 332 / 80))
    assert baselines[-1][0] == 420


def test_scripts_that_run_from_right_to_left_are_left_alone() -> None:
    rows = ["שלום לכם כאן עכשיו", "אחת שתיים שלוש ארבע"] * 4
    lines = [a_line((row, 420), (row, 0), top=30 * number) for number, row in enumerate(rows)]
    assert [piece.line for piece in gutters.parted(lines)] == lines


def test_text_on_its_side_is_left_alone() -> None:
    lying = FoundLine(words=words("text on its side", 0, 0), baseline=(10, 0, 10, 400), block=0)
    lines = [lying, a_line(("a b", 0), ("c d", 900), top=0)]
    assert [piece.line for piece in gutters.parted(lines)] == lines
    assert gutters.parted([]) == ()
