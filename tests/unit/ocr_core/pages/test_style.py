from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as some

from ocr_core.pages import style

SURE = some.floats(0, 1)
STEPS = [number / 20 for number in range(21)]


def test_print_that_reads_well_is_surely_not_handwriting() -> None:
    told = style.style(style.handwriting(0.95, None, first_page=0.95))
    assert told.name == "other"
    assert told.confidence > 0.99


def test_a_line_that_reads_badly_on_a_printed_page_is_still_print() -> None:
    assert style.style(style.handwriting(0.5, None, first_page=0.94)).name == "other"
    assert style.style(style.handwriting(0.6, 0.97, first_page=0.78, second_page=0.985)).name == "other"


def test_a_letter_that_neither_engine_reads_well_is_handwriting() -> None:
    for told in (
        style.style(style.handwriting(0.3, None, first_page=0.35)),
        style.style(style.handwriting(0.3, 0.85, first_page=0.35, second_page=0.85)),
        style.style(style.handwriting(None, 0.85, first_page=0.35, second_page=0.85)),
    ):
        assert told.name == "handwriting"
        assert told.confidence > 0.8


def test_a_word_written_into_a_printed_form_is_handwriting_its_label_is_not() -> None:
    assert style.style(style.handwriting(0.4, 0.93, first_page=0.77, second_page=0.98)).name == "handwriting"
    assert style.style(style.handwriting(0.96, 0.999, first_page=0.77, second_page=0.98)).name == "other"


def test_the_surer_the_engines_the_less_likely_is_handwriting() -> None:
    for low, high in pairwise(STEPS):
        for other in STEPS:
            assert style.handwriting(high, other, first_page=0.8, second_page=other) <= style.handwriting(
                low, other, first_page=0.8, second_page=other
            )
            assert style.handwriting(other, high, first_page=0.8, second_page=0.9) <= style.handwriting(
                other, low, first_page=0.8, second_page=0.9
            )
            assert style.handwriting(other, None, first_page=high) <= style.handwriting(other, None, first_page=low)


@given(some.none() | SURE, some.none() | SURE, SURE, some.none() | SURE)
def test_a_style_is_never_less_sure_than_a_half(
    first: float | None, second: float | None, first_page: float, second_page: float | None
) -> None:
    chance = style.handwriting(first, second, first_page=first_page, second_page=second_page)
    assert 0 <= chance <= 1
    assert 0.5 <= style.style(chance).confidence <= 1
