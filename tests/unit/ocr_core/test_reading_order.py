import random

import pytest

from ocr_core.page_text import Line, Polygon, Word
from ocr_core.reading_order import ordered


def a_line(text: str, left: float, top: float, *, width: float = 300, height: float = 20) -> Line:
    polygon: Polygon = (left, top, left + width, top, left + width, top + height, left, top + height)
    return Line(text=text, polygon=polygon, words=(Word(text=text, polygon=polygon, confidence=1),), confidence=1)


COLUMNS = (a_line("a1", 0, 0), a_line("a2", 0, 30), a_line("b1", 400, 4), a_line("b2", 400, 34))


def texts(lines: tuple[Line, ...]) -> list[str]:
    return [line.text for line in lines]


def test_natural_goes_down_one_column_before_the_next() -> None:
    assert texts(ordered(COLUMNS, "natural", angle=0)) == ["a1", "a2", "b1", "b2"]


def test_basic_goes_from_top_to_bottom_and_left_to_right() -> None:
    assert texts(ordered(COLUMNS, "basic", angle=0)) == ["a1", "b1", "a2", "b2"]


def test_basic_does_not_depend_on_the_engines_order() -> None:
    shuffled = list(COLUMNS)
    random.Random(7).shuffle(shuffled)
    assert texts(ordered(tuple(shuffled), "basic", angle=0)) == ["a1", "b1", "a2", "b2"]


def test_columns_of_which_each_is_lower_than_the_last_stay_in_order() -> None:
    tops = [(number, 24 * number) for number in range(8)]
    lines = tuple(
        a_line(f"{column} {number}", 400 * place + 15 * (number in (1, 5)), top + 8 * place, height=18)
        for place, column in enumerate("abc")
        for number, top in tops
    )
    told = texts(ordered(lines, "basic", angle=0))
    for column in "abc":
        assert [text for text in told if text[0] == column] == [f"{column} {number}" for number, _ in tops]


@pytest.mark.parametrize("columns", [2, 3, 4, 5])
@pytest.mark.parametrize("angle", [0, 90])
def test_a_column_keeps_its_order_however_the_columns_stand(columns: int, angle: int) -> None:
    chance = random.Random(columns)
    for _ in range(100):
        offsets = [chance.uniform(0, 24) for _ in range(columns)]
        lines = [
            a_line(
                f"{place} {number}",
                400 * place + chance.choice((0, 15)),
                24 * number + offset + chance.uniform(-2, 2),
                width=chance.uniform(100, 330),
                height=chance.uniform(16, 20),
            )
            for place, offset in enumerate(offsets)
            for number in range(12)
        ]
        chance.shuffle(lines)
        if angle:
            lines = [on_its_side(line) for line in lines]
        told = texts(ordered(tuple(lines), "basic", angle=angle))
        for place in range(columns):
            numbers = [int(text.split()[1]) for text in told if text.startswith(f"{place} ")]
            assert numbers == sorted(numbers), (offsets, told)


def on_its_side(line: Line) -> Line:
    xs, ys = line.polygon[::2], line.polygon[1::2]
    flat = [value for x, y in zip(xs, ys, strict=True) for value in (1000 - y, x)]
    polygon: Polygon = (flat[0], flat[1], flat[2], flat[3], flat[4], flat[5], flat[6], flat[7])
    return Line(text=line.text, polygon=polygon, words=line.words, confidence=1)


def test_a_page_on_its_side_is_told_as_if_it_stood() -> None:
    lines = tuple(on_its_side(line) for line in COLUMNS)
    assert texts(ordered(lines, "basic", angle=90)) == ["a1", "b1", "a2", "b2"]


def test_a_tall_heading_beside_small_lines_does_not_swallow_them() -> None:
    lines = (a_line("small 1", 400, 0), a_line("BIG", 0, 0, height=60), a_line("small 2", 400, 40))
    assert texts(ordered(lines, "basic", angle=0))[0] == "small 1"


def test_basic_goes_from_right_to_left_where_the_script_does() -> None:
    hebrew = (a_line("ימין", 400, 0), a_line("שמאל 2 ok", 0, 3), a_line("למטה", 400, 40))
    assert texts(ordered(hebrew, "basic", angle=0)) == ["ימין", "שמאל 2 ok", "למטה"]
    arabic = (a_line("يسار", 0, 0), a_line("يمين", 400, 3))
    assert texts(ordered(arabic, "basic", angle=0)) == ["يمين", "يسار"]
    a_name_among_english = (a_line("left side", 0, 0), a_line("שם", 400, 3))
    assert texts(ordered(a_name_among_english, "basic", angle=0)) == ["left side", "שם"]


def test_no_lines_are_no_lines() -> None:
    assert ordered((), "basic", angle=0) == ()
