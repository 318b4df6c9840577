from collections.abc import Sequence

import pytest
from PIL import Image, ImageDraw

from ocr_core.engine import FoundLine, FoundWord
from ocr_core.pages import geometry, ink

Box = tuple[int, int, int, int]
TRUTH: tuple[Box, ...] = ((100, 100, 180, 130), (200, 100, 300, 130), (320, 100, 340, 130), (360, 100, 460, 130))
WHITE = 0.09 * 30
"""What a word of type has on either side of its ink, for capitals of 30 pixels."""


def raster(boxes: Sequence[Box] = TRUTH, *, paper: int = 255, print_: int = 0) -> Image.Image:
    """Words as upright strokes, 4 pixels thin and 6 apart."""
    image = Image.new("L", (560, 240), paper)
    pen = ImageDraw.Draw(image)
    for left, top, right, bottom in boxes:
        for x in (*range(left, right - 4, 10), right - 4):
            pen.rectangle((x, top, x + 3, bottom - 1), fill=print_)
    return image


def a_line(
    boxes: Sequence[Box], *, baseline: tuple[float, float, float, float] = (100, 130, 460, 130), text: str = "Word"
) -> FoundLine:
    words = tuple(FoundWord(text=text, box=box, confidence=0.9) for box in boxes)
    return FoundLine(words=words, baseline=baseline, block=0)


def fitted(image: Image.Image, line: FoundLine) -> list[tuple[float, ...]]:
    """What was found for a level line: left, top, right, bottom of each word."""
    return [geometry.bounds(one.corners) for one in ink.fitted(image, line, 0)]


def widened(boxes: Sequence[Box] = TRUTH) -> list[object]:
    return [pytest.approx((left - WHITE, top, right + WHITE, bottom), abs=0.01) for left, top, right, bottom in boxes]


def test_boxes_are_as_wide_as_the_type_and_as_tall_as_the_ink() -> None:
    assert fitted(raster(), a_line(TRUTH)) == widened()


@pytest.mark.parametrize(("paper", "print_"), [(255, 0), (200, 90), (0, 255), (30, 220)])
def test_a_boundary_inside_a_word_moves_to_the_gap(paper: int, print_: int) -> None:
    wrong = ((100, 100, 165, 130), (170, 100, 300, 130), (330, 100, 340, 130), (360, 100, 460, 130))
    assert fitted(raster(paper=paper, print_=print_), a_line(wrong)) == widened()


def test_boundaries_are_moved_together_so_that_no_gap_parts_two_pairs() -> None:
    wrong = ((100, 100, 190, 130), (190, 100, 310, 130), (310, 100, 352, 130), (352, 100, 460, 130))
    assert fitted(raster(), a_line(wrong)) == widened()


def test_thin_strokes_are_ink_so_that_the_foot_of_a_letter_is_no_gap() -> None:
    image = raster(TRUTH[:1])
    pen = ImageDraw.Draw(image)
    pen.rectangle((196, 100, 199, 129), fill=0)
    pen.rectangle((196, 127, 222, 129), fill=0)  # an L with its foot, before a D
    pen.rectangle((225, 100, 228, 129), fill=0)
    truth = (TRUTH[0], (196, 100, 229, 130))
    assert fitted(image, a_line(truth)) == widened(truth)


def test_the_ends_of_a_line_take_in_letters_that_were_cut_off() -> None:
    wrong = ((108, 100, 180, 130), *TRUTH[1:3], (360, 100, 448, 130))
    assert fitted(raster(), a_line(wrong)) == widened()


def test_a_box_as_tall_as_the_row_is_trimmed() -> None:
    wrong = (TRUTH[0], (200, 90, 300, 142), *TRUTH[2:])
    assert fitted(raster(), a_line(wrong)) == widened()


def test_letters_of_the_next_row_are_not_taken_in() -> None:
    image = raster((*TRUTH, (200, 146, 300, 176)))
    wrong = (TRUTH[0], (200, 100, 300, 150), *TRUTH[2:])
    assert fitted(image, a_line(wrong)) == widened()


def test_a_dot_above_the_letter_belongs_to_it() -> None:
    image = raster(((100, 108, 180, 130), *TRUTH[1:]))
    ImageDraw.Draw(image).rectangle((140, 101, 144, 104), fill=0)
    cut = ((100, 108, 180, 130), *TRUTH[1:])
    assert fitted(image, a_line(cut))[0] == pytest.approx((100 - WHITE, 101, 180 + WHITE, 130), abs=0.01)


def test_a_rule_beside_a_line_is_no_part_of_it() -> None:
    image = raster()
    ImageDraw.Draw(image).rectangle((465, 0, 467, 239), fill=0)
    assert fitted(image, a_line(TRUTH)) == widened()


def test_a_mark_alone_reaches_down_to_the_line() -> None:
    image = raster()
    pen = ImageDraw.Draw(image)
    pen.rectangle((320, 100, 340, 130), fill=255)
    pen.rectangle((320, 114, 339, 117), fill=0)
    words = [FoundWord(text="Word", box=box, confidence=0.9) for box in TRUTH]
    words[2] = FoundWord(text="-", box=(320, 114, 340, 118), confidence=0.9)
    line = FoundLine(words=tuple(words), baseline=(100, 130, 460, 130), block=0)
    assert fitted(image, line)[2] == pytest.approx((320 - WHITE, 114, 340 + WHITE, 130), abs=0.01)


def test_neighbours_share_the_white_between_them() -> None:
    close = ((100, 100, 180, 130), (184, 100, 300, 130))
    image = Image.new("L", (560, 240), 255)
    for left, top, right, bottom in close:
        ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), fill=0)
    found = fitted(image, a_line(close))
    assert found[0][2] == found[1][0] == 182


@pytest.mark.parametrize("degrees", [0.6, 3, -8, 90, 93, 180, 270])
def test_a_line_is_fitted_along_its_direction(degrees: float) -> None:
    level = raster()
    turned = level.rotate(-degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=255)
    turn = geometry.Affine.turning(degrees, of=level.size, onto=turned.size)

    def box_of(box: Box) -> Box:
        left, top, right, bottom = box
        found = geometry.bounds(map(turn, ((left, top), (right, top), (right, bottom), (left, bottom))))
        return round(found[0]), round(found[1]), round(found[2]), round(found[3])

    wrong = ((100, 100, 165, 130), (170, 100, 300, 130), *TRUTH[2:])
    line = a_line([box_of(box) for box in wrong], baseline=(*turn((100, 130)), *turn((460, 130))))
    for fitted_word, box in zip(ink.fitted(turned, line, degrees), TRUTH, strict=True):
        left, top, right, bottom = box[0] - WHITE, box[1], box[2] + WHITE, box[3]
        wanted = [turn((left, top)), turn((right, top)), turn((right, bottom)), turn((left, bottom))]
        for found, corner in zip(fitted_word.corners, wanted, strict=True):
            assert found == pytest.approx(corner, abs=1.7)


def test_an_edge_that_would_have_to_move_far_stays() -> None:
    wide = ((100, 100, 180, 130), (300, 100, 460, 130))
    wrong = ((100, 100, 180, 130), (240, 100, 460, 130))
    assert fitted(raster(wide), a_line(wrong))[1][0] == pytest.approx(300 - WHITE)  # trimmed to the ink
    image = Image.new("L", (560, 240), 255)
    ImageDraw.Draw(image).rectangle((100, 100, 459, 129), fill=0)  # no gap to be seen
    found = fitted(image, a_line(((100, 100, 240, 130), (250, 100, 460, 130))))
    assert found == [
        pytest.approx((100 - WHITE, 100, 240 + WHITE, 130)),
        pytest.approx((250 - WHITE, 100, 460 + WHITE, 130)),
    ]


@pytest.mark.parametrize(
    "line",
    [
        a_line(((-20, -10, 40, 20), (540, 230, 700, 300))),  # beyond the edge
        a_line(((0, 0, 1, 1),)),
        a_line(TRUTH, baseline=(100, 900, 460, 900)),
        a_line(TRUTH, baseline=(100, 3, 460, 3)),
    ],
)
def test_what_cannot_be_fitted_stays(line: FoundLine) -> None:
    boxes = [word.box for word in line.words]
    assert fitted(Image.new("L", (560, 240), 255), line) == [tuple(map(float, box)) for box in boxes]


# ---- letters --------------------------------------------------------------------------------------------------------


def letters(*words: int, pitch: int = 20, start: int = 60) -> tuple[Image.Image, list[Box]]:
    """Words of so many letters each, 14 pixels wide and 6 apart, with 16 between words; and their boxes."""
    image = Image.new("L", (900, 120), 255)
    pen = ImageDraw.Draw(image)
    left, boxes = start, []
    for count in words:
        for number in range(count):
            pen.rectangle((left + pitch * number, 40, left + pitch * number + 13, 69), fill=0)
        boxes.append((left, 40, left + pitch * (count - 1) + 14, 70))
        left += pitch * (count - 1) + 14 + 16
    return image, boxes


def read_as(texts: Sequence[str], boxes: Sequence[Box]) -> FoundLine:
    words = tuple(FoundWord(text=text, box=box, confidence=0.9) for text, box in zip(texts, boxes, strict=True))
    return FoundLine(words=words, baseline=(0, 70, 900, 70), block=0)


def joined(first: Box, second: Box) -> Box:
    return first[0], first[1], second[2], second[3]


def test_a_space_that_the_engine_did_not_see_parts_the_words() -> None:
    image, boxes = letters(3, 1, 4, 5, 3)
    line = read_as(("saw", "aman,", "there", "too"), (boxes[0], joined(boxes[1], boxes[2]), boxes[3], boxes[4]))
    found = ink.fitted(image, line, 0)
    assert [one.word.text for one in found] == ["saw", "a", "man,", "there", "too"]
    for one, (left, _, right, _) in zip(found, boxes, strict=True):
        span = geometry.bounds(one.corners)
        assert (span[0], span[2]) == pytest.approx((left, right), abs=4)


@pytest.mark.parametrize(
    ("texts", "counts"),
    [
        (("saw", "12345", "there", "too"), (1, 4)),  # digits are told in groups
        (("saw", "abcde", "there", "too"), (2, 3)),
        (("saw", "abcde", "there", "too"), (4, 1)),  # no word is an e
        (("saw", "שלוםא", "there", "too"), (1, 4)),
        (("saw", "(aman", "there", "too"), (1, 4)),
    ],
)
def test_a_gap_that_may_be_no_space_parts_nothing(texts: tuple[str, ...], counts: tuple[int, int]) -> None:
    image, boxes = letters(3, *counts, 5, 3)
    line = read_as(texts, (boxes[0], joined(boxes[1], boxes[2]), boxes[3], boxes[4]))
    assert [one.word.text for one in ink.fitted(image, line, 0)] == list(texts)


def test_a_short_word_at_the_end_is_parted_too() -> None:
    image, boxes = letters(3, 2, 1, 5, 3)
    line = read_as(("saw", "ina", "there", "too"), (boxes[0], joined(boxes[1], boxes[2]), boxes[3], boxes[4]))
    assert [one.word.text for one in ink.fitted(image, line, 0)] == ["saw", "in", "a", "there", "too"]


def test_letters_set_wide_are_no_words() -> None:
    image, boxes = letters(3, 5, 3, 4, pitch=29)
    texts = ("aid", "aside", "aim", "area")
    assert [one.word.text for one in ink.fitted(image, read_as(texts, boxes), 0)] == list(texts)


@pytest.mark.parametrize(
    ("bottom", "after", "text"), [(70, "saw", "I"), (78, "saw", "|"), (70, "Saw", "|")], ids=["I", "below", "a cell"]
)
def test_a_bar_that_stands_on_the_line_is_a_capital(bottom: int, after: str, text: str) -> None:
    image, boxes = letters(3, 4, 2)
    pen = ImageDraw.Draw(image)
    pen.rectangle((40, 40, 43, bottom - 1), fill=0)
    line = read_as(("|", after, "them", "go"), ((40, 40, 44, bottom), *boxes))
    found = ink.fitted(image, line, 0)[0]
    assert found.word.text == text
    white = 0.125 * 30  # a single stroke has more white on its sides
    assert geometry.bounds(found.corners) == pytest.approx((40 - white, 40, 44 + white, bottom), abs=0.01)
