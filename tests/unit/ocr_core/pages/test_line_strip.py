import pytest
from PIL import Image, ImageDraw

from ocr_core.pages.line_strip import LineStrip


@pytest.mark.parametrize(
    ("capital", "type_", "paper"), [(30, 0, 255), (200, 210, 255), (400, 120, 200), (400, 255, 30)]
)
def test_columns_tell_where_bars_stand_however_large_and_pale_they_are(capital: int, type_: int, paper: int) -> None:
    width, base = 2480, 3 * capital
    page = Image.new("L", (width, 4 * capital), paper)
    draw, bars = ImageDraw.Draw(page), range(100, width - capital // 2, capital)
    for left in bars:
        draw.rectangle((left, base - capital, left + capital // 2 - 1, base - 1), fill=type_)
    strip = LineStrip.of(page, [(100, base - capital, bars[-1] + capital // 2, base)], 0, base=base, height=capital)
    assert strip is not None
    inked = {column + strip.left for column, ink in enumerate(strip.columns) if ink}
    assert inked == {column for left in bars for column in range(left, left + capital // 2)}
