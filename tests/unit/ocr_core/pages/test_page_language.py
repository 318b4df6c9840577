from ocr_core.engine import FoundLine, FoundWord
from ocr_core.pages.language_detection import Identified
from ocr_core.pages.page_language import Told, models_asked_for, tell
from tests.fakes.engines import a_line

INSTALLED = ("deu", "eng", "fra", "rus")
LONG = "abcdefghij " * 5


def a_text(language: str, words: str = "abcdefgh abcdefgh abcdefgh") -> FoundLine:
    """A line whose first word is its language."""
    return a_line(f"{language} {words}")


def by_first_word(text: str) -> Identified | None:
    """What most lines say that they are."""
    said = [line.split()[0] for line in text.splitlines() if line.split()]
    most = max(set(said), key=said.count, default="none")
    return None if most == "none" else Identified(most, said.count(most) / len(said))


def told(*lines: FoundLine) -> Told:
    return tell(lines, INSTALLED, by_first_word)


def test_a_page_of_one_language() -> None:
    found = told(*[a_text("de")] * 5)
    assert (found.page, found.lines) == ("de", (None,) * 5)
    assert found.shares == {"de": 1.0}


def test_a_page_that_says_nothing_has_no_language() -> None:
    assert told() == Told(None, (), {})
    assert told(a_text("none"), a_text("none")).page is None


def test_a_line_alone_in_a_language_that_nobody_installed_is_not_believed() -> None:
    found = told(*[a_text("de")] * 9, a_text("xh"), *[a_text("de")] * 9)
    assert set(found.lines) == {None}
    found = told(a_text("de"), a_text("xh"), a_text("fr"), a_text("none"))
    assert "xh" not in found.shares


def test_a_short_line_alone_does_not_leave_its_page() -> None:
    found = told(*[a_text("de")] * 9, a_text("fr"), *[a_text("de")] * 9)
    assert set(found.lines) == {None}


def test_a_long_line_and_lines_side_by_side_have_a_language_of_their_own() -> None:
    found = told(*[a_text("de")] * 12, a_text("fr"), a_text("fr"), a_text("ru", LONG))
    assert found.page == "de"
    assert found.lines[-4:] == (None, "fr", "fr", "ru")


def test_a_page_half_in_each_of_two_languages_has_none_and_its_lines_have_theirs() -> None:
    found = told(*[a_text("de")] * 4, *[a_text("fr")] * 4)
    assert found.page is None
    assert found.lines == ("de",) * 4 + ("fr",) * 4


def test_words_that_the_engine_guessed_are_not_asked() -> None:
    words = (
        FoundWord(text="de", box=(0, 0, 10, 10), confidence=0.9),
        FoundWord(text="guess", box=(20, 0, 30, 10), confidence=0.3),
    )
    asked: list[str] = []
    tell((FoundLine(words=words, baseline=(0, 10, 30, 10), block=0),), INSTALLED, asked.append)
    assert set(asked) == {"de"}


def test_models_are_asked_for_when_they_are_installed_and_new() -> None:
    german = Told("de", (), {"de": 1.0})
    assert models_asked_for(german, ("eng",), INSTALLED) == ("deu",)
    assert models_asked_for(german, ("deu",), INSTALLED) == ()
    assert models_asked_for(german, ("eng",), ("eng",)) == ()
    assert models_asked_for(Told("en", (), {"en": 1.0}), ("eng",), INSTALLED) == ()
    assert models_asked_for(Told("sw", (), {"sw": 1.0}), ("eng",), INSTALLED) == ()


def test_several_languages_ask_for_two_models() -> None:
    shares = {"ru": 0.4, "de": 0.3, "fr": 0.2, "en": 0.1}
    assert models_asked_for(Told(None, (), shares), ("eng",), INSTALLED) == ("rus", "deu")
    assert models_asked_for(Told("de", (), {"de": 0.97, "fr": 0.03}), ("deu",), INSTALLED) == ()


def test_lines_that_could_not_be_read_ask_for_a_model_as_well() -> None:
    english = Told("en", (), {"en": 1.0})
    assert models_asked_for(english, ("eng",), INSTALLED, also="rus") == ("eng", "rus")
