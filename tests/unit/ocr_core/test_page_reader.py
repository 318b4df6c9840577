from collections.abc import Sequence

import pytest
from PIL import Image

from ocr_core.documents import PageImage
from ocr_core.engine import FoundLine, FoundOrientation, FoundWord, Picture
from ocr_core.errors import EngineTimeoutError
from ocr_core.page_reader import PageReader
from ocr_core.page_text import PageText
from tests.fakes.engines import FakeEngine, HungEngine, a_line
from tests.pages import PrintedPage, printed_page, turned

LEVEL = (a_line("one two three"),)
NONSENSE = (a_line("i1| ;~", confidence=0.2),)


def an_image(image: Image.Image, *, width: float | None = None, height: float | None = None) -> PageImage:
    return PageImage(
        image=image,
        page=1,
        width=width or image.width,
        height=height or image.height,
        unit="inch" if width else "pixel",
        dpi=150,
    )


def read(engine: FakeEngine, page: PrintedPage | PageImage) -> PageText:
    image = page if isinstance(page, PageImage) else an_image(page.image)
    return PageReader(engine).read(image, ("eng",))


def test_a_page_that_reads_well_is_read_once() -> None:
    engine = FakeEngine()
    found = read(engine, printed_page())
    assert len(engine.pictures) == 1
    assert (engine.pictures[0].width, engine.pictures[0].height) == (1240, 1754)
    assert found.lines[0].text == "one two three"
    assert found.lines[0].words[1].polygon == (200, 100, 280, 100, 280, 120, 200, 120)
    assert found.lines[0].polygon == (100, 100, 380, 100, 380, 120, 100, 120)
    assert (found.angle, found.orientation) == (0.0, 0)


def test_a_sloping_page_is_straightened_first_and_told_as_it_lies() -> None:
    engine = FakeEngine(lambda *_: (a_line("one two three", left=600, top=800),))
    page = turned(printed_page(), 7)
    found = read(engine, page)
    assert engine.pictures[0].width > page.image.width
    assert found.angle == pytest.approx(7, abs=0.1)
    x1, y1, x2, y2, *_ = found.lines[0].polygon
    assert y2 > y1
    assert x2 > x1


@pytest.mark.parametrize(("degrees", "orientation"), [(90, 1), (180, 2), (270, 3)])
def test_a_page_that_reads_badly_is_turned_until_it_reads_well(degrees: int, orientation: int) -> None:
    page = turned(printed_page(), degrees)
    upright = printed_page().image.tobytes()

    def answer(picture: Picture, _: int) -> Sequence[FoundLine]:
        return LEVEL if picture.pixels == upright else NONSENSE

    found = read(FakeEngine(answer), page)
    assert found.orientation == orientation
    assert found.lines[0].text == "one two three"
    truth = {90: (1754 - 100, 100), 180: (1240 - 100, 1754 - 100), 270: (100, 1240 - 100)}[degrees]
    assert found.lines[0].polygon[:2] == truth


def test_a_sure_guess_saves_the_tries() -> None:
    sideways, upright = turned(printed_page(), 90), printed_page().image.tobytes()

    def answer(picture: Picture, _: int) -> Sequence[FoundLine]:
        return LEVEL if picture.pixels == upright else NONSENSE

    engine = FakeEngine(answer, guess=FoundOrientation(quarter_turns=1, confidence=20))
    assert read(engine, sideways).orientation == 1
    assert len(engine.pictures) == 2
    sure = FakeEngine(lambda *_: NONSENSE, guess=FoundOrientation(quarter_turns=0, confidence=20))
    read(sure, sideways)
    assert len(sure.pictures) == 1


def test_a_page_that_reads_badly_every_way_is_told_as_it_was_read_best() -> None:
    found = read(FakeEngine(lambda *_: NONSENSE), printed_page())
    assert found.orientation == 0
    assert found.lines[0].words[0].confidence == 0.2


def test_an_empty_page_has_no_lines_and_no_angle() -> None:
    found = read(FakeEngine(lambda *_: ()), an_image(Image.new("L", (800, 600), 255)))
    assert (found.lines, found.angle, found.orientation) == ((), 0.0, 0)


def test_text_that_the_engine_finds_on_its_side_is_told_on_its_side() -> None:
    words = tuple(
        FoundWord(text=text, box=(100, y, 120, y + 80), confidence=0.9)
        for text, y in zip("abc", (100, 200, 300), strict=True)
    )
    line = FoundLine(words=words, baseline=(100, 100, 100, 380), block=0)
    found = read(FakeEngine(lambda *_: (line,)), an_image(Image.new("L", (500, 500), 255)))
    assert (found.angle, found.orientation) == (90.0, 1)
    assert found.lines[0].words[0].polygon == (120, 100, 120, 180, 100, 180, 100, 100)


def test_inches_come_from_the_page_and_not_from_the_raster() -> None:
    found = read(FakeEngine(), an_image(Image.new("L", (850, 1100), 255), width=8.5, height=11.0))
    assert found.unit == "inch"
    assert found.lines[0].polygon == (1.0, 1.0, 3.8, 1.0, 3.8, 1.2, 1.0, 1.2)


def test_characters_that_are_words_are_joined_without_spaces() -> None:
    words = tuple(
        FoundWord(text=text, box=(100 + 20 * n, 100, 120 + 20 * n, 120), confidence=0.9, glued=n == 1)
        for n, text in enumerate(("漢", "字", "abc"))
    )
    line = FoundLine(words=words, baseline=(100, 120, 160, 120), block=0)
    assert read(FakeEngine(lambda *_: (line,)), an_image(Image.new("L", (500, 500), 255))).lines[0].text == "漢字 abc"


def test_a_line_is_as_sure_as_its_letters() -> None:
    words = (
        FoundWord(text="a", box=(0, 0, 10, 10), confidence=0.0),
        FoundWord(text="bcd", box=(20, 0, 50, 10), confidence=1.0),
        FoundWord(text="efgh", box=(60, 0, 90, 10), confidence=1.0),
    )
    line = FoundLine(words=words, baseline=(0, 10, 90, 10), block=0)
    assert read(FakeEngine(lambda *_: (line,)), an_image(Image.new("L", (100, 100), 255))).lines[0].confidence == 0.875


def test_a_page_out_of_time_is_a_timeout() -> None:
    with pytest.raises(EngineTimeoutError):
        read(HungEngine(), printed_page())


def test_a_second_try_out_of_time_leaves_the_first() -> None:
    def answer(_: Picture, number: int) -> Sequence[FoundLine]:
        if number:
            raise EngineTimeoutError("too slow")
        return NONSENSE

    assert read(FakeEngine(answer), printed_page()).lines[0].text == "i1| ;~"
