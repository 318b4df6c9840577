from collections.abc import Sequence

import pytest
from PIL import Image, ImageDraw

from ocr_core import ink
from ocr_core.engine import FoundLine, FoundWord

Box = tuple[int, int, int, int]
TRUTH: tuple[Box, ...] = ((100, 100, 180, 130), (200, 100, 300, 130), (320, 100, 340, 130), (360, 100, 460, 130))


def raster(boxes: Sequence[Box] = TRUTH, *, paper: int = 255, print_: int = 0) -> Image.Image:
    """Words as upright strokes, 4 pixels thin and 6 apart."""
    image = Image.new("L", (560, 240), paper)
    pen = ImageDraw.Draw(image)
    for left, top, right, bottom in boxes:
        for x in (*range(left, right - 4, 10), right - 4):
            pen.rectangle((x, top, x + 3, bottom - 1), fill=print_)
    return image


def a_line(boxes: Sequence[Box], *, baseline: tuple[float, float, float, float] = (100, 130, 460, 130)) -> FoundLine:
    words = tuple(FoundWord(text="word", box=box, confidence=0.9) for box in boxes)
    return FoundLine(words=words, baseline=baseline, block=0)


def test_boxes_on_the_ink_stay() -> None:
    assert ink.fitted(raster(), a_line(TRUTH)) == TRUTH


@pytest.mark.parametrize(("paper", "print_"), [(255, 0), (200, 90), (0, 255), (30, 220)])
def test_a_boundary_inside_a_word_moves_to_the_gap(paper: int, print_: int) -> None:
    wrong = ((100, 100, 165, 130), (170, 100, 300, 130), (330, 100, 340, 130), (360, 100, 460, 130))
    assert ink.fitted(raster(paper=paper, print_=print_), a_line(wrong)) == TRUTH


def test_a_box_as_tall_as_the_row_is_trimmed() -> None:
    wrong = (TRUTH[0], (200, 90, 300, 142), *TRUTH[2:])
    assert ink.fitted(raster(), a_line(wrong)) == TRUTH


def test_a_sloping_line_is_fitted_along_its_slope() -> None:
    def lowered(box: Box) -> Box:
        return box[0], box[1] + box[0] // 20, box[2], box[3] + box[0] // 20

    truth = tuple(lowered(box) for box in TRUTH)
    wrong = ((truth[0][0], truth[0][1], 166, truth[0][3]), *truth[1:])
    found = ink.fitted(raster(truth), a_line(wrong, baseline=(100, 135, 460, 153)))
    assert found[0][2] == pytest.approx(180, abs=1)


def test_an_edge_that_would_have_to_move_far_stays() -> None:
    wide = ((100, 100, 180, 130), (300, 100, 460, 130))
    wrong = ((100, 100, 240, 130), (300, 100, 460, 130))
    assert ink.fitted(raster(wide), a_line(wrong)) == wrong


@pytest.mark.parametrize(
    "line",
    [
        a_line(TRUTH, baseline=(100, 100, 100, 460)),  # on its side
        a_line(((-20, -10, 40, 20), (540, 230, 700, 300))),  # beyond the edge
        a_line(((0, 0, 1, 1),)),
    ],
)
def test_what_cannot_be_fitted_stays(line: FoundLine) -> None:
    assert ink.fitted(Image.new("L", (560, 240), 255), line) == tuple(word.box for word in line.words)
