"""What the benchmarks reckon with."""

import pytest

from benchmarks.figures import Spread, quantile, replaced_between, table


@pytest.mark.parametrize(
    ("values", "part", "found"),
    [
        ([3.0], 0.5, 3.0),
        ([4.0, 1.0, 3.0, 2.0], 0.5, 2.0),
        ([4.0, 1.0, 3.0, 2.0], 0.95, 4.0),
        ([float(number) for number in range(1, 101)], 0.95, 95.0),
        ([1.0, 2.0], 0.0, 1.0),
        ([1.0, 2.0], 1.0, 2.0),
    ],
)
def test_quantile_is_a_value_that_was_seen(values: list[float], part: float, found: float) -> None:
    assert quantile(values, part) == found


def test_a_spread_is_the_median_and_the_range() -> None:
    assert Spread.of([2.0, 0.5, 1.0]) == Spread(middle=1.0, low=0.5, high=2.0)


def test_a_spread_is_told_with_its_range_where_it_has_one() -> None:
    assert Spread.of([1.0, 1.25, 1.5]).told(2) == "1.25 [1.00..1.50]"
    assert Spread.of([1.001, 1.002]).told(2) == "1.00"


def test_a_table_is_markdown_in_columns() -> None:
    assert table(("", "pages/s"), [("one", "2.50"), ("a|b", "10.00")]).splitlines() == [
        "|      | pages/s |",
        "| ---- | ------: |",
        "| one  |    2.50 |",
        "| a\\|b |   10.00 |",
    ]


def test_only_the_marked_place_of_a_document_is_replaced() -> None:
    document = "Before\n<!-- figures -->\nold\n<!-- end of figures -->\nAfter\n"
    assert replaced_between(document, "figures", "new\n\n") == document.replace("old", "new")
    with pytest.raises(ValueError, match="no place"):
        replaced_between("Before\n<!-- figures -->\nold\n", "figures", "new")
