from collections.abc import Sequence

import pytest
from PIL import Image

from ocr_core.documents import PageImage
from ocr_core.engine import FoundLine, FoundOrientation, FoundWord, Picture
from ocr_core.errors import EngineTimeoutError
from ocr_core.page_text import PageText
from ocr_core.pages.page_reader import PageReader
from tests.fakes.engines import FakeEngine, HungEngine, a_line
from tests.pages import LINES, PrintedPage, printed_page, turned

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
    return PageReader(engine, shrinks=False).read(image, ("eng",))


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


# ---- languages and scripts ------------------------------------------------------------------------------------------

GERMAN = "Jede Seite wird nur einmal gezahlt und der Weg uber die Brucke ist schmal"
RUSSIAN = "Каждая страница считается только один раз и погода сегодня прекрасная"
INSTALLED = ("deu", "eng", "fra", "rus")


class ByModel(FakeEngine):
    """Reads what the model it is asked for would read."""

    def __init__(self, texts: dict[tuple[str, ...], Sequence[FoundLine]], **fields: object) -> None:
        super().__init__(installed=INSTALLED, **fields)  # type: ignore[arg-type]
        self._texts = texts

    def read(self, picture: Picture, languages: tuple[str, ...], *, timeout_seconds: float) -> tuple[FoundLine, ...]:
        super().read(picture, languages, timeout_seconds=timeout_seconds)
        return tuple(self._texts[languages])


def detect(engine: FakeEngine, page: PrintedPage, **fields: object) -> PageText:
    reader = PageReader(engine, shrinks=False)
    return reader.read(an_image(page.image), ("eng",), choices=INSTALLED, **fields)  # type: ignore[arg-type]


def test_a_page_in_another_language_is_read_again_with_its_model() -> None:
    german = a_line(GERMAN.replace("gezahlt", "gezählt"), confidence=0.95)
    engine = ByModel({("eng",): (a_line(GERMAN, confidence=0.9),), ("deu",): (german,)})
    found = detect(engine, printed_page())
    assert engine.languages_asked == [("eng",), ("deu",)]
    assert found.language == "de"
    assert "gezählt" in found.lines[0].text
    assert found.lines[0].language is None


def test_the_first_reading_stays_when_the_second_is_worse_or_late() -> None:
    first = (a_line(GERMAN, confidence=0.9),)
    worse = ByModel({("eng",): first, ("deu",): (a_line(GERMAN, confidence=0.6),)})
    assert detect(worse, printed_page()).lines[0].confidence == 0.9

    def answer(_: Picture, number: int) -> Sequence[FoundLine]:
        if number:
            raise EngineTimeoutError("too slow")
        return first

    late = detect(FakeEngine(answer), printed_page())
    assert (late.language, late.lines[0].confidence) == ("de", 0.9)


def test_a_page_that_took_half_its_time_is_not_read_again() -> None:
    seconds = iter([0.0, 0.0, 31.0, 31.0, 31.0])
    engine = ByModel({("eng",): (a_line(GERMAN, confidence=0.9),)})
    reader = PageReader(engine, shrinks=False, monotonic=lambda: next(seconds))
    found = reader.read(an_image(printed_page().image), ("eng",), choices=INSTALLED, timeout_seconds=60)
    assert (engine.languages_asked, found.language) == ([("eng",)], "de")


def test_a_forced_language_is_told_back_and_nothing_else_is_tried() -> None:
    engine = ByModel({("eng",): (a_line(GERMAN),)})
    assert detect(engine, printed_page(), language="en").language == "en"
    assert engine.languages_asked == [("eng",)]


def test_without_a_choice_the_language_is_told_and_the_reading_stays() -> None:
    engine = FakeEngine(lambda *_: (a_line(GERMAN),))
    assert read(engine, printed_page()).language == "de"
    assert len(engine.pictures) == 1


def test_another_script_is_read_with_the_model_that_the_orientation_model_hints_at() -> None:
    guess = FoundOrientation(quarter_turns=0, confidence=20, script="Cyrillic")
    engine = ByModel({("eng",): NONSENSE, ("rus",): (a_line(RUSSIAN),)}, guess=guess)
    found = detect(engine, printed_page())
    assert engine.languages_asked == [("eng",), ("rus",)]
    assert (found.language, found.orientation) == ("ru", 0)


def test_another_script_on_its_side_is_stood_up_at_once() -> None:
    guess = FoundOrientation(quarter_turns=1, confidence=20, script="Cyrillic")
    engine = ByModel({("eng",): NONSENSE, ("rus",): (a_line(RUSSIAN),)}, guess=guess)
    found = detect(engine, turned(printed_page(), 90))
    assert len(engine.pictures) == 2
    assert (found.language, found.orientation) == ("ru", 1)


def test_a_few_lines_that_the_orientation_model_cannot_place_are_tried_with_each_script() -> None:
    engine = ByModel({("eng",): NONSENSE, ("rus",): (a_line(RUSSIAN),)})
    assert detect(engine, printed_page()).language == "ru"


def test_lines_of_another_script_among_lines_that_read_well() -> None:
    english = a_line("the meter counts every page that was read and nothing else at all", top=100)
    guess = FoundOrientation(quarter_turns=0, confidence=20, script="Cyrillic")
    engine = ByModel(
        {
            ("eng",): (english, a_line("Kaxkgan ctpahuua", top=200, confidence=0.3)),
            ("eng", "rus"): (english, a_line(RUSSIAN, top=200)),
        },
        guess=guess,
    )
    found = detect(engine, printed_page())
    assert engine.languages_asked == [("eng",), ("eng", "rus")]
    assert {found.language, *(line.language for line in found.lines)} >= {"ru"}


ENGLISH = "the meter counts every page that was read and nothing else at all"
CYRILLIC = FoundOrientation(quarter_turns=0, confidence=20, script="Cyrillic")


@pytest.mark.parametrize("sureness", [0.2, 0.7])
def test_one_line_of_another_script_among_many(sureness: float) -> None:
    english = [a_line(ENGLISH, top=100 * number) for number in range(1, 9)]
    doubted = a_line("Kaxkgan ctpahuua cuutaetca cuetuukom", top=900, confidence=sureness)
    engine = ByModel(
        {("eng",): (*english, doubted), ("eng", "rus"): (*english, a_line(RUSSIAN, top=900))}, guess=CYRILLIC
    )
    found = detect(engine, printed_page())
    assert engine.languages_asked == [("eng",), ("eng", "rus")]
    assert found.lines[-1].language == "ru"


@pytest.mark.parametrize(
    "guess",
    [
        None,
        FoundOrientation(quarter_turns=0, confidence=2, script="Cyrillic"),
        FoundOrientation(quarter_turns=0, confidence=20, script="Latin"),
    ],
)
def test_a_smudged_line_does_not_cost_an_english_page_a_second_reading(guess: FoundOrientation | None) -> None:
    english = [a_line(ENGLISH, top=100 * number) for number in range(1, 9)]
    engine = ByModel(
        {("eng",): (*english, a_line("tbe rneter c0unts evcry pagc", top=900, confidence=0.5))}, guess=guess
    )
    assert detect(engine, printed_page()).language == "en"
    assert engine.languages_asked == [("eng",)]


def test_an_english_line_on_a_page_of_another_script_is_not_lost() -> None:
    """Reading the page with the other model alone makes letters of that script out of it."""
    russian = [a_line(RUSSIAN, top=100 * number) for number in range(1, 5)]
    as_english = [a_line("Kaxkgan ctpahuua cuutaetca", top=100 * number, confidence=0.3) for number in range(1, 5)]
    english = a_line(ENGLISH, top=900)
    engine = ByModel(
        {
            ("eng",): (*as_english, english),
            ("rus",): (*russian, a_line("тне метег соунтс евегу раде", top=900, confidence=0.4)),
            ("rus", "eng"): (*russian, english),
        },
        guess=CYRILLIC,
    )
    found = detect(engine, printed_page())
    assert engine.languages_asked == [("eng",), ("rus",), ("rus", "eng")]
    assert (found.language, found.lines[-1].text, found.lines[-1].language) == ("ru", ENGLISH, "en")


def test_scribbles_on_a_form_do_not_bring_letters_of_another_script() -> None:
    guess = FoundOrientation(quarter_turns=0, confidence=0.02, script="Cyrillic")
    engine = ByModel(
        {("eng",): (a_line(ENGLISH), a_line("aa Ene new Tesch ny mav", top=200, confidence=0.3))}, guess=guess
    )
    assert detect(engine, printed_page()).language == "en"
    assert engine.languages_asked == [("eng",)]


def test_a_page_that_has_cost_much_is_not_tried_another_way() -> None:
    engine = FakeEngine(lambda *_: NONSENSE)
    spent = iter(range(0, 100, 10))
    page = an_image(printed_page().image)
    PageReader(engine, shrinks=False, processor=lambda: float(next(spent))).read(page, ("eng",))
    assert len(engine.pictures) == 1
    tireless = FakeEngine(lambda *_: NONSENSE)
    PageReader(tireless, shrinks=False, processor=lambda: 0.0).read(page, ("eng",))
    assert len(tireless.pictures) > 1


def large_print(*, size: float = 14) -> PageImage:
    sheet = printed_page(LINES * 4, size=(1456, 2060), dpi=176, points=size)
    return an_image(sheet.image)


def test_large_print_is_read_smaller_and_told_in_its_own_place() -> None:
    page = large_print()
    engine = FakeEngine(lambda *_: (a_line("one two three"),))
    found = PageReader(engine).read(page, ("eng",))
    (picture,) = engine.pictures
    shrunk = picture.width / page.image.width
    assert 0.7 <= shrunk < 0.8
    assert picture.dpi == round(150 * shrunk)
    assert found.lines[0].words[0].polygon[0] == pytest.approx(100 / shrunk, abs=4)  # fitted to the ink


@pytest.mark.parametrize(
    ("page", "models", "confidence", "read"),
    [
        (large_print(size=7), ("eng",), 0.95, [1.0]),
        (large_print(), ("jpn",), 0.95, [1.0]),
        (large_print(), ("rus",), 0.95, [1.0]),
        (large_print(), ("deu", "eng"), 0.95, [0.7]),
        (large_print(), ("eng",), 0.75, [0.7, 1.0]),
    ],
    ids=["small print", "signs of many strokes", "another alphabet", "Latin letters", "what reads badly"],
)
def test_what_needs_its_pixels_gets_them(
    page: PageImage, models: tuple[str, ...], confidence: float, read: list[float]
) -> None:
    engine = FakeEngine(lambda *_: (a_line("one two three", confidence=confidence),))
    PageReader(engine).read(page, models, language="xx")
    assert [round(picture.width / page.image.width, 1) for picture in engine.pictures[: len(read)]] == read


def test_another_alphabet_on_a_page_of_large_print_is_read_with_all_pixels() -> None:
    english = [a_line(ENGLISH, top=100 * number) for number in range(1, 9)]
    doubted = a_line("Kaxkgan ctpahuua cuutaetca cuetuukom", top=900, confidence=0.5)
    engine = ByModel(
        {("eng",): (*english, doubted), ("eng", "rus"): (*english, a_line(RUSSIAN, top=900))}, guess=CYRILLIC
    )
    page = large_print()
    found = PageReader(engine).read(page, ("eng",), choices=INSTALLED)
    assert engine.languages_asked == [("eng",), ("eng", "rus")]
    first, second = engine.pictures
    assert first.width < second.width == page.image.width
    assert found.lines[-1].language == "ru"


def test_a_page_that_must_be_straightened_keeps_its_pixels() -> None:
    page = turned(printed_page(LINES * 4, size=(1456, 2060), dpi=176, points=14), 4)
    engine = FakeEngine(lambda *_: (a_line("one two three", left=600, top=800),))
    PageReader(engine).read(an_image(page.image), ("eng",))
    assert engine.pictures[0].width > page.image.width
