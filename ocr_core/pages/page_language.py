"""The languages of a page from the lines read on it, and the models that these languages ask for.

Invariants:

* Only words that the engine believes in are asked; letters that it guessed would name some language at random.
* A page has a language when most of its text is in it. A line has one of its own only where it plainly differs.
* Pure: what identifies a text is handed in.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from ocr_core.engine import FoundLine
from ocr_core.languages import is_own_model_in, model_recognised
from ocr_core.pages.language_detection import Identified, identify, letters_in

MAX_MODELS = 2

_BELIEVED = 0.6
_ONE_LANGUAGE = 0.8
_MOST = 0.5
_MOST_OF_KNOWN = 0.6
_ENOUGH_KNOWN = 0.3
_LONG_LINE_LETTERS = 45
_WORTH_A_MODEL = 0.05

Identify = Callable[[str], Identified | None]


@dataclass(frozen=True, slots=True)
class Told:
    """The languages of a page.

    Attributes:
        page: BCP-47 code of most of its text; None where that cannot be told.
        lines: For each line its code where it differs from the page's, else None.
        shares: Share of the page's letters by code, for the lines whose language is known.
    """

    page: str | None
    lines: tuple[str | None, ...]
    shares: dict[str, float]


def tell(lines: Sequence[FoundLine], installed: Collection[str], identify: Identify = identify) -> Told:
    """Name the languages of the lines of a page.

    Args:
        lines: In the engine's reading order.
        installed: The models that there are: one short line alone is believed to be in one of their languages only.
        identify: Names the language of a text, or None.
    """
    texts = [_believed(line) for line in lines]
    letters = [letters_in(text) for text in texts]
    guesses = [guess.code if guess is not None else None for guess in map(identify, texts)]
    guesses = [
        guess if _is_plain(number, guesses, letters) or is_own_model_in(guess, installed) else None
        for number, guess in enumerate(guesses)
    ]
    tally = _tally(guesses, letters)
    whole = identify("\n".join(texts))
    if whole is not None and whole.share >= _ONE_LANGUAGE and tally[whole.code] >= _MOST * tally.total():
        page: str | None = whole.code
        guesses = [
            guess if guess == page or _is_plain(number, guesses, letters) else page
            for number, guess in enumerate(guesses)
        ]
        tally = _tally(guesses, letters)
    else:
        known = tally.total() if tally.total() >= _ENOUGH_KNOWN * sum(letters) else 0
        page = next((code for code, size in tally.most_common(1) if size >= _MOST_OF_KNOWN * known > 0), None)
    total = sum(letters) or 1
    return Told(
        page=page,
        lines=tuple(guess if guess != page else None for guess in guesses),
        shares={code: size / total for code, size in tally.most_common()},
    )


def _tally(guesses: Sequence[str | None], letters: Sequence[int]) -> Counter[str]:
    """Letters by language, for the lines whose language is known."""
    tally: Counter[str] = Counter()
    for guess, size in zip(guesses, letters, strict=True):
        if guess is not None:
            tally[guess] += size
    return tally


def models_asked_for(
    told: Told, used: Sequence[str], installed: Collection[str], *, also: str | None = None
) -> tuple[str, ...]:
    """The models to read a page with whose languages are known, those with most text first.

    Args:
        told: The languages.
        used: The models that it was read with.
        installed: The models that may be used.
        also: A model that lines which could not be read ask for.

    Returns:
        At most `MAX_MODELS`; empty when the models used read these languages already.
    """
    models = {
        model: None
        for code, share in told.shares.items()
        if share >= _WORTH_A_MODEL and (model := model_recognised(code, installed)) is not None
    }
    if also is not None:
        wanted = (*tuple(model for model in models if model != also)[: MAX_MODELS - 1], also)
    else:
        wanted = tuple(models)[:MAX_MODELS]
    return () if set(wanted) <= set(used) else wanted


def _believed(line: FoundLine) -> str:
    return "".join(
        ("" if word.glued else " ") + word.text for word in line.words if word.confidence >= _BELIEVED
    ).strip()


def _is_plain(number: int, guesses: Sequence[str | None], letters: Sequence[int]) -> bool:
    """Whether a line is plainly in its language, whatever the rest of the page is in: long, or beside its like."""
    guess = guesses[number]
    beside = {*guesses[max(0, number - 1) : number], *guesses[number + 1 : number + 2]}
    return guess is not None and (letters[number] >= _LONG_LINE_LETTERS or guess in beside)
