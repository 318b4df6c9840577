from ocr_core.engine import FoundLine
from ocr_core.pages.columns import in_columns, in_rows
from tests.fakes.engines import a_line


def texts(lines: object) -> list[str]:
    return ["".join(word.text for word in line.words) for line in lines]  # type: ignore[attr-defined]


def at(text: str, left: int, top: int, width: int) -> FoundLine:
    return a_line(text, left=left, top=top, word_width=width)


def test_rows_are_read_from_left_to_right() -> None:
    lines = [at("b", 500, 104, 80), at("c", 100, 160, 80), at("a", 100, 100, 80)]
    assert texts(in_rows(lines)) == ["a", "b", "c"]


def test_prose_in_two_columns_is_read_one_after_the_other() -> None:
    left = [at(f"l{n}", 100, 100 + 40 * n, 380) for n in range(5)]
    right = [at(f"r{n}", 520, 100 + 40 * n, 390) for n in range(5)]
    found = in_columns([line for pair in zip(left, right, strict=True) for line in pair])
    assert texts(found) == [*(f"l{n}" for n in range(5)), *(f"r{n}" for n in range(5))]
    assert len({line.block for line in found}) == 2


def test_a_heading_across_columns_comes_first_and_a_foot_last() -> None:
    left = [at(f"l{n}", 100, 200 + 40 * n, 380) for n in range(5)]
    right = [at(f"r{n}", 520, 200 + 40 * n, 390) for n in range(5)]
    found = in_columns([at("foot", 100, 600, 810), *left, *right, at("head", 100, 100, 810)])
    assert texts(found) == ["head", *(f"l{n}" for n in range(5)), *(f"r{n}" for n in range(5)), "foot"]


def test_a_form_is_read_row_by_row() -> None:
    labels = [at(f"l{n}", 100, 100 + 40 * n, 40 + 60 * (n % 3)) for n in range(6)]
    entries = [at(f"r{n}", 600, 100 + 40 * n, 300 if n == 0 else 60) for n in range(6)]
    found = in_columns([*labels, *entries])
    assert texts(found) == [text for n in range(6) for text in (f"l{n}", f"r{n}")]


def test_nothing_and_little() -> None:
    assert in_columns([]) == ()
    assert texts(in_columns([at("a", 0, 0, 10)])) == ["a"]
