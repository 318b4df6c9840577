"""The `pages` expression (contract E.1.1)."""

import pytest

from sidecar.errors import DocumentRefusedError
from sidecar.page_selection import select_pages


@pytest.mark.parametrize(
    ("expression", "total", "pages"),
    [
        ("", 3, (1, 2, 3)),
        ("2", 3, (2,)),
        ("2,4-5", 6, (2, 4, 5)),
        ("4-", 6, (4, 5, 6)),
        ("-2", 6, (1, 2)),
        ("3,1,1-2", 3, (1, 2, 3)),
        (" 1 , 3 ", 3, (1, 3)),
        ("6-6", 6, (6,)),
        ("01", 3, (1,)),
        ("002-0003", 3, (2, 3)),
        ("-02,06-", 6, (1, 2, 6)),
        ("0" * 5000 + "1", 3, (1,)),
    ],
)
def test_select_pages(expression: str, total: int, pages: tuple[int, ...]) -> None:
    assert select_pages(expression, total) == pages


@pytest.mark.parametrize(
    "expression",
    [
        "9-3",
        "0",
        "00",
        "-0",
        "0-",
        "00-1",
        "a",
        "1-2-3",
        "1,,2",
        ",",
        "-",
        "1;2",
        "7",
        "7-",
        "1-7",
        "-7",
        "٣",
        "1" * 30,
        "1.0",
    ],
)
def test_bad_expressions(expression: str) -> None:
    with pytest.raises(DocumentRefusedError) as caught:
        select_pages(expression, 6)
    assert caught.value.reason == "InvalidPageRange"
