"""Which language a text is in: CLD2 through pycld2, and the only file that imports it.

Invariants:

* It says nothing rather than guess: too few letters, or an answer that CLD2 itself does not rely on, is None.
* The tables are part of the library; nothing is loaded from disk or fetched, and a page costs well under a millisecond.
* The text is neither kept nor logged.
"""

import re
import unicodedata
from dataclasses import dataclass

import pycld2

_LETTERS_NEEDED = 12
_DENSE_LETTERS_NEEDED = 4
_SHARE_NEEDED = 50
_MAX_CHARACTERS = 200_000  # what does not fit in here does not change the answer

# Scripts in which few characters say much.
_DENSE = re.compile(r"[\u0370-\u03ff\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]")
_CYRILLIC = re.compile(r"[\u0400-\u04ff]")
_ARABIC = re.compile(r"[\u0600-\u06ff]")

# CLD2's names where they are not the contract's; None: not a language that anybody reads pages in.
_RENAMED: dict[str, str | None] = {
    "bh": "bho", "hmn": "mww", "iw": "he", "jw": "jv", "tl": "fil", "zh": "zh-Hans",
    "tlh": None, "un": None, "xx": None, "zzp": None,
}  # fmt: skip
_BY_SCRIPT = {
    "kk": ("kk-cyrl", "kk-latn", None),
    "ku": (None, "ku-latn", "ku-arab"),
    "sr": ("sr", "sr-latn", None),
    "uz": ("uz-cyrl", "uz", "uz-arab"),
}


@dataclass(frozen=True, slots=True)
class Identified:
    """A language that a text is in.

    Attributes:
        code: BCP-47, as the contract spells it.
        share: Of the text, 0..1.
    """

    code: str
    share: float


def letters_in(text: str) -> int:
    """How many letters a text has; marks, digits and punctuation tell no language."""
    return sum(character.isalpha() for character in text)


def identify(text: str) -> Identified | None:
    """The language that most of a text is in; None when that cannot be told with confidence."""
    text = text[:_MAX_CHARACTERS].replace("\n", " ")
    if not text.isprintable():
        text = "".join(map(_plain, text))
    needed = _DENSE_LETTERS_NEEDED if _DENSE.search(text) else _LETTERS_NEEDED
    if letters_in(text) < needed:
        return None
    try:
        reliable, _, found = pycld2.detect(text, isPlainText=True)
    except pycld2.error:
        return None
    _, name, percent, _ = found[0]
    code = _code(name, text)
    if not reliable or percent < _SHARE_NEEDED or code is None:
        return None
    return Identified(code, percent / 100)


def _plain(character: str) -> str:
    """The character, or a space for what CLD2 takes for broken UTF-8: controls, surrogates, the unassigned."""
    return " " if unicodedata.category(character)[0] == "C" else character


def _code(name: str, text: str) -> str | None:
    name = name.partition("-")[0] if name.startswith("xx") else name
    if name in _BY_SCRIPT:
        cyrillic, latin, arabic = _BY_SCRIPT[name]
        return cyrillic if _CYRILLIC.search(text) else arabic if _ARABIC.search(text) else latin
    return _RENAMED.get(name, name)
