"""Which language a page is in, and that it is read with the model for it: real models, real pages, a real core."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocr_core.engine import Picture
from ocr_core.page_text import PageText
from ocr_core.tesseract import DEFAULT_TESSDATA, TesserocrEngine
from tests import pages
from tests.integration.ocr_core.running_core import RunningCore, running_core

FONT = "DejaVuSerif.ttf"
GERMAN = (
    "Jede Seite wird nur ein einziges Mal vom Zähler gezählt.",
    "Gestern war das Wetter schön, deshalb gingen wir zum Fluss.",
    "Sie fragte, ob die Brücke am Montagmorgen geöffnet sein würde.",
    "Über die Straße führt ein schmaler Weg zu den größeren Häusern.",
)
RUSSIAN = (
    "Каждая страница считается счётчиком только один раз.",
    "Вчера была хорошая погода, поэтому мы пошли к реке.",
    "Она спросила, будет ли мост открыт в понедельник утром.",
    "Дети играли в саду, пока не стало совсем темно.",
)
ENGLISH = pages.LINES[:4]
SIZE = (1240, 600)


def printed(*lines: str) -> pages.PrintedPage:
    return pages.printed_page(lines, size=SIZE, font_name=FONT)


def read(core: RunningCore, page: pages.PrintedPage, **fields: object) -> PageText:
    status, told = core.page(core.put_document(pages.as_png(page)), 1, **fields)
    assert status == 200, told
    return PageText.from_bytes(json.dumps(told).encode())


def errors(page: pages.PrintedPage, found: PageText) -> float:
    return pages.character_error_rate(page.text, "\n".join(line.text for line in found.lines))


@pytest.mark.parametrize(("lines", "language"), [(ENGLISH, "en"), (GERMAN, "de"), (RUSSIAN, "ru")])
def test_a_page_is_read_in_its_language_without_being_told(
    core: RunningCore, lines: tuple[str, ...], language: str
) -> None:
    page = printed(*lines)
    found = read(core, page)
    assert found.language == language
    assert {line.language for line in found.lines} == {None}
    assert errors(page, found) < 0.01


def test_another_alphabet_lying_on_its_side(core: RunningCore) -> None:
    page = pages.turned(printed(*RUSSIAN), 90)
    found = read(core, page)
    assert (found.language, found.orientation) == ("ru", 1)
    assert errors(page, found) < 0.01


@pytest.mark.parametrize("second", [GERMAN, RUSSIAN], ids=["one alphabet", "two alphabets"])
def test_lines_tell_their_language_where_the_page_has_two(core: RunningCore, second: tuple[str, ...]) -> None:
    page = printed(*ENGLISH, *second)
    found = read(core, page)
    other = "de" if second is GERMAN else "ru"
    languages = [line.language or found.language for line in found.lines]
    assert languages[:4] == ["en"] * 4
    assert languages[4:].count(other) >= 3
    assert errors(page, found) < 0.01


@pytest.mark.parametrize("order", ["ERE", "REE", "RRRE", "RERERE", "EEEEEEER"])
@pytest.mark.parametrize("font", [FONT, "LiberationSerif-Regular.ttf"])
def test_lines_of_two_alphabets_in_any_order(core: RunningCore, order: str, font: str) -> None:
    texts = {"E": iter(pages.LINES), "R": iter(RUSSIAN)}
    page = pages.printed_page([next(texts[letter]) for letter in order], size=SIZE, font_name=font)
    found = read(core, page)
    languages = [line.language or found.language for line in found.lines]
    assert languages == [{"E": "en", "R": "ru"}[letter] for letter in order]
    assert errors(page, found) < 0.01


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_short_line_of_another_alphabet(core: RunningCore, place: int) -> None:
    lines = ["The meeting is at nine", "The room is number seven"]
    lines.insert(place, "Договор был подписан")
    page = printed(*lines)
    assert errors(page, read(core, page)) < 0.02


def test_a_page_with_too_little_text_has_no_language(core: RunningCore) -> None:
    assert read(core, printed("Gate 7")).language is None


@pytest.mark.parametrize("code", ["de", "DE"])
def test_a_forced_language_is_the_language(core: RunningCore, code: str) -> None:
    page = printed(*GERMAN)
    found = read(core, page, language=code)
    assert found.language == "de"
    assert errors(page, found) < 0.01


def test_a_language_without_its_model_is_refused_at_once_with_what_to_install(core: RunningCore) -> None:
    document = core.put_document(pages.as_png(printed("Gate 7")))
    status, told = core.inspect(document, language="kpy")
    assert status == 400
    assert told["error"]["code"] == "NotSupportedLanguage"  # type: ignore[index]
    assert "tesseract-ocr-script-cyrl" in told["error"]["message"]  # type: ignore[index]


@pytest.fixture(scope="module")
def english_core() -> Iterator[RunningCore]:
    with running_core(words=("Core:Languages=eng", "Core:SecondEngine=off")) as running:
        yield running


def test_core_languages_bounds_what_pages_are_read_with(english_core: RunningCore) -> None:
    page = printed(*GERMAN)
    found = read(english_core, page)
    assert found.language == "de"
    assert errors(page, found) > 0.01


# ---- the engine -----------------------------------------------------------------------------------------------------


def test_models_of_scripts_are_found_where_debian_and_where_upstream_puts_them(tmp_path: Path) -> None:
    (tmp_path / "script").mkdir()
    for name in ("eng", "osd", "Cyrillic", "script/Latin"):
        (tmp_path / f"{name}.traineddata").touch()
    assert TesserocrEngine(tmp_path).languages() == ("eng", "script/Cyrillic", "script/Latin")


@pytest.mark.parametrize("place", ["Cyrillic", "script/Cyrillic"])
def test_a_model_of_a_script_is_loaded_from_either_place(tmp_path: Path, place: str) -> None:
    (tmp_path / "script").mkdir()
    shutil.copy(DEFAULT_TESSDATA / "rus.traineddata", tmp_path / f"{place}.traineddata")
    engine = TesserocrEngine(tmp_path)
    assert engine.read(a_picture(printed(*RUSSIAN)), ("script/Cyrillic",), timeout_seconds=60)


def test_sets_of_models_stay_bounded_and_what_was_preloaded_stays() -> None:
    engine = TesserocrEngine(cached_sets=3, cached_models=4)
    engine.preload(("eng",))
    picture = a_picture(printed("Gate 7"))
    for models in (("deu",), ("rus",), ("eng", "deu"), ("eng", "deu", "rus"), ("deu",)):
        engine.read(picture, models, timeout_seconds=60)
        assert ("eng",) in engine._apis
        assert models in engine._apis
        assert len(engine._apis) <= 3
        assert sum(map(len, engine._apis)) <= 4


def a_picture(page: pages.PrintedPage) -> Picture:
    return Picture(pixels=page.image.tobytes(), width=page.image.width, height=page.image.height, dpi=page.dpi)
