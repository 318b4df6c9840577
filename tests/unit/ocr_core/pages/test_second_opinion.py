from collections.abc import Sequence
from dataclasses import replace

import pytest
from PIL import Image

from ocr_core.documents import PageImage
from ocr_core.engine import FoundLine, FoundOrientation, FoundWord, Picture
from ocr_core.errors import EngineTimeoutError, FailedToProcessError
from ocr_core.page_text import PageText
from ocr_core.pages import second_opinion
from ocr_core.pages.page_reader import PageReader
from ocr_core.pages.second_opinion import believed, merged
from tests import hard_pages
from tests.fakes.engines import FakeEngine, HungEngine, a_line
from tests.pages import LINES, empty_page, printed_page

PAGE = printed_page(LINES * 3).image
GOOD = a_line("nothing else to be read here")
BAD = a_line("n0th1ng e1se t0 bo roed", confidence=0.4)
ANSWER = a_line("nothing else to be read", confidence=0.98)
POOR = a_line("n0th1ng e1se t0 bo roed", confidence=0.7)


def an_image(image: Image.Image = PAGE) -> PageImage:
    return PageImage(image=image, page=1, width=image.width, height=image.height, unit="pixel", dpi=150)


def read(
    first: Sequence[FoundLine] | FakeEngine,
    second: FakeEngine,
    *,
    image: Image.Image = PAGE,
    models: tuple[str, ...] = ("eng",),
    even_for_print: bool = False,
    **fields: object,
) -> PageText:
    engine = first if isinstance(first, FakeEngine) else FakeEngine(lambda *_: first)
    reader = PageReader(engine, second=second, even_for_print=even_for_print)
    return reader.read(an_image(image), models, **fields)  # type: ignore[arg-type]


def texts(page: PageText) -> list[str]:
    return [line.text for line in page.lines]


def answering(*lines: FoundLine) -> FakeEngine:
    return FakeEngine(lambda *_: lines)


# ---- when it is asked -----------------------------------------------------------------------------------------------


def test_a_page_that_reads_well_is_not_shown_to_the_second_engine() -> None:
    second = answering(ANSWER)
    assert texts(read([GOOD] * 5, second, image=empty_page().image)) == ["nothing else to be read here"] * 5
    assert second.pictures == []


def test_one_smudged_line_does_not_call_it() -> None:
    second = answering(ANSWER)
    good = (a_line("nothing else to be read here", top=100 * n) for n in range(6))
    read([*good, BAD], second, image=empty_page().image)
    assert second.pictures == []


def many_good_lines() -> list[FoundLine]:
    return [a_line("nothing else to be read here", top=100 + 40 * n) for n in range(30)]


def test_a_paragraph_that_reads_badly_calls_it_however_much_reads_well() -> None:
    second = answering()
    note = [a_line("n0th1ng e1se t0 bo", top=1400 + 40 * n, confidence=0.7) for n in range(3)]
    read([*many_good_lines(), *note], second, image=empty_page().image)
    assert len(second.pictures) == 1


def test_bad_lines_that_are_no_neighbours_do_not_call_it() -> None:
    second = answering()
    lines = many_good_lines()
    for number in (3, 9, 20):
        lines[number] = a_line("n0th1ng e1se t0 bo", top=100 + 40 * number, confidence=0.7)
    read(lines, second, image=empty_page().image)
    assert second.pictures == []


def mixed_line(sure: int, unsure: int, *, doubt: float, top: int) -> FoundLine:
    """A line of words of five letters, some of which the engine doubts."""
    line = a_line(" ".join(["total"] * (sure + unsure)), top=top)
    doubted = (replace(word, text="tota1", confidence=doubt) for word in line.words[sure:])
    return replace(line, words=(*line.words[:sure], *doubted))


def worn(number: int, *, of: float = 0.85) -> list[FoundLine]:
    """Lines that read neither well nor badly."""
    return [a_line("nothing else to be read", top=100 + 40 * n, confidence=of) for n in range(number)]


def test_print_that_reads_badly_is_shown_to_it_only_where_that_is_wished_for() -> None:
    receipt = worn(10) + [mixed_line(1, 2, doubt=0.6, top=600 + 40 * n) for n in range(20)]
    never, second = answering(), answering()
    read(receipt, never, image=empty_page().image)
    assert never.pictures == []
    read(receipt, second, image=empty_page().image, even_for_print=True)
    assert len(second.pictures) == 1


@pytest.mark.parametrize(
    ("rest", "doubted", "is_print"),
    [
        (worn(10), (2, 1, 0.3), True),  # faint: one word of three is wrong
        (worn(10), (1, 2, 0.49), False),  # a form: what was written into it is wrong
        (worn(10), (1, 2, 0.51), True),
        (worn(10, of=0.92), (1, 2, 0.6), True),
        (worn(10, of=0.94), (1, 2, 0.6), False),  # a neat note: what is printed beside it has no faults
        (worn(2), (1, 2, 0.6), False),  # too little to say, and read again in no time
        (worn(10, of=0.6), (0, 3, 0.6), False),  # reads so badly that it may be anything
        (worn(10, of=0.75), (0, 3, 0.7), False),  # a letter: no line of it reads well
    ],
)
def test_print_is_told_by_its_faults(rest: list[FoundLine], doubted: tuple[int, int, float], *, is_print: bool) -> None:
    second = answering()
    sure, unsure, doubt = doubted
    page = rest + [mixed_line(sure, unsure, doubt=doubt, top=600 + 40 * n) for n in range(max(2, 2 * len(rest)))]
    read(page, second, image=empty_page().image)
    assert (len(second.pictures) == 0) is is_print


def test_what_reads_badly_in_ideographs_is_shown_to_it() -> None:
    """A page of them holds more text in fewer characters, and the second engine knows them best."""
    page = worn(10) + [mixed_line(1, 2, doubt=0.6, top=600 + 40 * n) for n in range(20)]
    second = answering()
    read(page, second, image=empty_page().image, models=("chi_sim",))
    assert len(second.pictures) == 1


@pytest.mark.parametrize(("ink", "calls"), [(30, 0), (330, 1)])
def test_two_bad_lines_call_it_where_they_are_a_good_part_of_what_is_to_be_seen(ink: int, calls: int) -> None:
    second = answering()
    image = empty_page().image
    for line in many_good_lines():
        box = line.words[0].box
        image.paste(0, (box[0], box[1], line.words[-1].box[2], box[3]))
    for top in range(1400, 1400 + ink, 20):
        image.paste(0, (100, top, 1000, top + 8))
    note = [a_line("n0th1ng e1se t0", top=1400 + 40 * n, confidence=0.7) for n in range(2)]
    read([*many_good_lines(), *note], second, image=image)
    assert len(second.pictures) == calls


def test_a_page_that_reads_badly_is_shown_to_it_once_and_told_as_it_reads_it() -> None:
    second = answering(ANSWER)
    assert texts(read([BAD], second)) == ["nothing else to be read"]
    assert len(second.pictures) == 1


def test_a_blank_page_is_not_shown_to_it() -> None:
    second = answering(ANSWER)
    assert texts(read([], second, image=empty_page().image)) == []
    assert second.pictures == []


def test_a_blank_page_is_not_turned_either() -> None:
    engine = FakeEngine(lambda *_: ())
    PageReader(engine).read(an_image(empty_page().image), ("eng",))
    assert len(engine.pictures) == 1


def test_a_photo_is_shown_to_it_though_the_first_engine_finds_nothing() -> None:
    photo = hard_pages.photo_without_text().image
    assert texts(read([], answering(ANSWER), image=photo)) == ["nothing else to be read"]


def test_one_word_that_is_all_there_is_is_enough() -> None:
    image = Image.new("L", (400, 200), 255)
    image.paste(0, (105, 102, 175, 118))
    engine, second = FakeEngine(lambda *_: [a_line("word")]), answering(ANSWER)
    assert texts(read(engine, second, image=image)) == ["word"]
    assert (len(engine.pictures), second.pictures) == (1, [])


@pytest.mark.parametrize("models", [("rus",), ("ara",), ("eng", "rus")])
def test_writing_that_it_does_not_know_is_not_shown_to_it(models: tuple[str, ...]) -> None:
    second = answering(ANSWER)
    assert texts(read([BAD], second, models=models)) == ["n0th1ng e1se t0 bo roed"]
    assert second.pictures == []


def test_a_script_without_a_model_is_not_read_as_latin_letters() -> None:
    guess = FoundOrientation(quarter_turns=0, confidence=12, script="Korean")
    second = answering(ANSWER)
    read(FakeEngine(lambda *_: [BAD], guess=guess), second)
    assert second.pictures == []


# ---- what it is shown -----------------------------------------------------------------------------------------------


def test_of_a_form_it_is_shown_what_the_first_engine_is_not_sure_of() -> None:
    sure = [a_line("Name and address of the applicant", top=150 + 60 * n, word_width=100) for n in range(3)]
    unsure = a_line("Jahn Smifh of Sprimgfleld and sons", top=500, confidence=0.5, word_width=100)
    second = answering(a_line("John Smith of Springfield and sons", top=500, word_width=100))
    image = empty_page().image
    image.paste(0, (80, 140, 1000, 160))
    image.paste(0, (900, 1200, 1000, 1300))
    assert texts(read([*sure, unsure], second, image=image)) == [
        *["Name and address of the applicant"] * 3,
        "John Smith of Springfield and sons",
    ]
    shown = Image.frombytes("L", image.size, second.pictures[0].pixels)
    assert shown.crop((100, 150, 700, 170)).getcolors() != image.crop((100, 150, 700, 170)).getcolors()
    assert len(shown.crop((100, 150, 700, 170)).getcolors()) == 1
    assert shown.crop((0, 400, *image.size)).tobytes() == image.crop((0, 400, *image.size)).tobytes()


@pytest.mark.parametrize(("rows", "is_painted_over"), [(4, False), (16, True)])
def test_only_a_page_full_of_text_that_reads_badly_is_painted_over_where_it_reads_well(
    rows: int, is_painted_over: bool
) -> None:
    image = empty_page().image
    lines = []
    for row in range(rows):
        top = 100 + 60 * row
        for left in range(100, 800, 20):
            image.paste(0, (left, top, left + 5, top + 20))
        sureness = (0.95, 0.6)[row % 2]
        lines.append(a_line("The meter counts each page exactly once", top=top, confidence=sureness, word_width=100))
    second = answering(a_line("The meter counts each page exactly once", top=160, word_width=100))
    read(lines, second, image=image)
    shown = Image.frombytes("L", image.size, second.pictures[0].pixels)
    inked = [any(value < 128 for value in shown.crop((100, y, 700, y + 20)).tobytes()) for y in (105, 165)]
    assert inked == [not is_painted_over, True]
    assert len(second.pictures) == 1


def test_a_small_picture_gets_a_margin_and_boxes_lose_it() -> None:
    image = hard_pages.photo_without_text(size=(500, 120)).image
    second = answering(a_line("London", left=45, top=50, word_width=400, height=80))
    page = read([], second, image=image)
    assert (second.pictures[0].width, second.pictures[0].height) == (580, 200)
    assert page.lines[0].words[0].polygon[:2] == pytest.approx((5, 10), abs=6)


# ---- which way up ---------------------------------------------------------------------------------------------------


def test_it_is_shown_the_page_upside_down_when_it_is_not_sure_of_it() -> None:
    upright = PAGE.tobytes()

    def answer(picture: Picture, _: int) -> Sequence[FoundLine]:
        return (ANSWER,) if picture.pixels == upright else (POOR,)

    page = read([BAD], FakeEngine(answer), image=PAGE.transpose(Image.Transpose.ROTATE_180))
    assert (texts(page), page.orientation) == (["nothing else to be read"], 2)


def test_lines_that_it_finds_on_their_side_are_told_on_their_side() -> None:
    words = tuple(
        FoundWord(text=text, box=(x, 100, x + 30, 700), confidence=0.95)
        for x, text in ((400, "second"), (500, "first"))
    )
    lines = tuple(
        FoundLine(words=(word,), baseline=(word.box[0], 100, word.box[0], 700), block=0) for word in reversed(words)
    )
    second = FakeEngine(lambda _, number: () if number else lines)
    page = read([BAD], second, image=empty_page().image)
    assert (texts(page), page.orientation) == (["first", "second"], 1)
    assert page.lines[0].words[0].polygon == (530, 100, 530, 700, 500, 700, 500, 100)
    assert (second.pictures[1].width, second.pictures[1].height) == (1754, 1240)


# ---- what is believed -----------------------------------------------------------------------------------------------


def test_letters_that_it_sees_in_a_texture_are_not_told() -> None:
    photo = hard_pages.photo_without_text().image
    for doubtful in (a_line("l", confidence=0.9), a_line("aNc vf", confidence=0.6)):
        assert texts(read([], answering(doubtful), image=photo)) == []


def test_single_letters_alone_are_no_text() -> None:
    letters = [
        a_line(letter, left=97 * n, top=180 * n % 700) for n, letter in enumerate(("M", "N", "V", "冬", "E", "0"))
    ]
    assert believed(letters, beside_text=False) == ()
    assert believed([*letters, a_line("EXIT")], beside_text=False) == (*letters[:3], *letters[4:], a_line("EXIT"))


def test_ideographs_are_told_where_they_are_the_text() -> None:
    sign = [a_line("出口"), a_line("北", top=200)]
    two = [a_line("出 口")]
    assert believed(two, beside_text=False) == tuple(two)
    assert believed(sign, beside_text=False) == tuple(sign)


def test_its_doubtful_lines_are_told_beside_sure_ones() -> None:
    sure, doubtful = a_line("a sure line"), a_line("half", top=200, confidence=0.7)
    assert believed([sure, doubtful], beside_text=False) == (sure, doubtful)
    assert believed([a_line("abc"), doubtful, doubtful], beside_text=False) == (a_line("abc"),)


def test_where_it_finds_nothing_junk_goes_and_text_stays() -> None:
    good, junk = a_line("a good line of text", confidence=0.75), a_line("~;|", top=200, confidence=0.3)
    assert [line.words for line in merged([good, junk], [], is_laid_out=False)] == [good.words]


@pytest.mark.parametrize("failure", [EngineTimeoutError("too slow"), FailedToProcessError("it died")])
def test_a_second_engine_that_fails_leaves_the_first_reading(failure: FailedToProcessError) -> None:
    def answer(picture: Picture, _: int) -> Sequence[FoundLine]:
        raise failure

    assert texts(read([BAD], FakeEngine(answer))) == ["n0th1ng e1se t0 bo roed"]
    assert texts(read([BAD], HungEngine())) == ["n0th1ng e1se t0 bo roed"]


def test_it_is_not_asked_when_the_time_is_over() -> None:
    now = iter([0.0, 0.0, 1.0, *[100.0] * 50])
    second = answering(ANSWER)
    reader = PageReader(FakeEngine(lambda *_: [BAD]), second=second, monotonic=lambda: next(now))
    assert texts(reader.read(an_image(), ("eng",), timeout_seconds=50)) == ["n0th1ng e1se t0 bo roed"]
    assert second.pictures == []


# ---- both together --------------------------------------------------------------------------------------------------


def test_of_two_readings_of_a_line_the_likelier_one_stays() -> None:
    sure, unsure = a_line("the first is sure", confidence=0.96), a_line("tho secomd iz", top=200, confidence=0.55)
    others = a_line("the first 1s sure", confidence=0.93), a_line("the second is", top=202, confidence=0.99)
    found = merged([sure, unsure], others, is_laid_out=False)
    assert [line.words[-1].text for line in found] == ["sure", "is"]
    assert found[0].words == sure.words
    assert found[1].words == others[1].words


def test_a_line_that_is_in_pieces_for_the_other_is_told_once() -> None:
    whole = a_line("Name John Smith", confidence=0.6)
    pieces = a_line("Name", confidence=0.99), a_line("John Smith", left=200, confidence=0.97)
    assert [line.words for line in merged([whole], pieces, is_laid_out=False)] == [piece.words for piece in pieces]


def test_lines_that_only_the_second_sees_go_to_the_nearest_block() -> None:
    left = [a_line("left", left=100, top=100 * n, block=0, confidence=0.95) for n in (1, 2, 4)]
    right = [a_line("right", left=700, top=100 * n, block=1, confidence=0.95) for n in (1, 2, 3)]
    missing = a_line("missing", left=110, top=300)
    found = merged([*left, *right], [missing], is_laid_out=True)
    assert [line.words[0].text for line in found] == ["left", "left", "missing", "left", *["right"] * 3]
    assert found[2].block == 0


def test_style_follows_from_what_both_say() -> None:
    printed = [a_line("Name and address", top=100 * n) for n in (1, 3, 5)]
    written = [a_line("Jahn Smifh", top=100 * n, confidence=0.4) for n in (2, 4, 6)]
    second = [
        *(a_line("Name and address", top=100 * n, confidence=0.999) for n in (1, 3, 5)),
        *(a_line("John Smith", top=100 * n, confidence=0.9) for n in (2, 4, 6)),
    ]
    found = read([*printed, *written], answering(*second)).lines
    assert [line.style.name for line in found if line.style] == ["other", "handwriting"] * 3


def test_where_lines_lie_is_looked_up_once_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    first = [a_line("n0th1ng", confidence=0.7, top=40 * number) for number in range(30)]
    second = [a_line("nothing", confidence=0.98, top=40 * number) for number in range(40)]
    looked_up: list[FoundLine] = []
    real = second_opinion.box_of

    def counted(line: FoundLine) -> tuple[int, int, int, int]:
        looked_up.append(line)
        return real(line)

    monkeypatch.setattr(second_opinion, "box_of", counted)
    lines = merged(first, second, is_laid_out=True)
    assert [line.words[0].text for line in lines] == ["nothing"] * 40
    assert len(looked_up) <= 5 * (len(first) + len(second))
