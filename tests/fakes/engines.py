"""Engines that read nothing, for tests of everything around them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ocr_core.engine import FoundLine, FoundOrientation, FoundWord, Picture
from ocr_core.errors import EngineTimeoutError

Reading = Sequence[FoundLine]


def a_line(
    text: str = "Gate 7",
    *,
    left: int = 100,
    top: int = 100,
    confidence: float = 0.95,
    block: int = 0,
    word_width: int = 80,
    height: int = 20,
) -> FoundLine:
    """A level line whose words stand side by side, 20 pixels apart."""
    words = []
    for number, word in enumerate(text.split()):
        x = left + number * (word_width + 20)
        words.append(FoundWord(text=word, box=(x, top, x + word_width, top + height), confidence=confidence))
    right = words[-1].box[2]
    return FoundLine(words=tuple(words), baseline=(left, top + height, right, top + height), block=block)


@dataclass
class FakeEngine:
    """Answers what it was told, and remembers what it was asked.

    Attributes:
        answer: The lines for a picture, given the picture and how many were read before.
        guess: What it says of a picture's orientation.
        installed: Its models.
    """

    answer: Callable[[Picture, int], Reading] = lambda picture, number: (a_line("one two three"),)
    guess: FoundOrientation | None = None
    installed: tuple[str, ...] = ("deu", "eng")
    pictures: list[Picture] = field(default_factory=list)
    languages_asked: list[tuple[str, ...]] = field(default_factory=list)

    name: str = "fake"
    version: str = "1"

    def languages(self) -> tuple[str, ...]:
        return self.installed

    def preload(self, languages: tuple[str, ...]) -> None:
        self.languages_asked.append(languages)

    def read(self, picture: Picture, languages: tuple[str, ...], *, timeout_seconds: float) -> tuple[FoundLine, ...]:
        self.pictures.append(picture)
        self.languages_asked.append(languages)
        return tuple(self.answer(picture, len(self.pictures) - 1))

    def orientation(self, picture: Picture) -> FoundOrientation | None:
        return self.guess


@dataclass
class HungEngine(FakeEngine):
    """Never finishes in time."""

    def read(self, picture: Picture, languages: tuple[str, ...], *, timeout_seconds: float) -> tuple[FoundLine, ...]:
        raise EngineTimeoutError("too slow")


@dataclass
class BrokenEngine(FakeEngine):
    """Fails in a way that no port promises."""

    def read(self, picture: Picture, languages: tuple[str, ...], *, timeout_seconds: float) -> tuple[FoundLine, ...]:
        raise ZeroDivisionError("a bug, with the words of the page in it")
