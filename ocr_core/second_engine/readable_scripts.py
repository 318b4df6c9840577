"""Which writing the second engine's recogniser knows, told without loading it.

A test compares this with the recogniser's own list of characters. It has the Latin letters of Europe and Africa, both
kinds of Chinese characters and the Japanese syllables. It lacks Cyrillic, Greek with accents, Korean, Arabic, Hebrew,
the scripts of India, and the letters that only Vietnamese has: what it makes of those is confident nonsense.

Invariant: a model that is not known here counts as Latin, as most languages' models are.
"""

from collections.abc import Collection

from ocr_core.languages import SCRIPTS

READABLE_SCRIPTS = frozenset({"Latin", "Han", "Japanese"})
"""As the orientation model names them."""

READABLE_MODELS = ("script/HanS", "script/HanT", "script/Japanese", "script/Latin")
"""What the engine says when it is asked for its models."""

_VARIANTS = ("_vert", "_old")  # set from top to bottom, or an older spelling; the script is the same
_OTHER_LATIN = frozenset({"vie", "script/Vietnamese", "script/Fraktur", "frk", "dan_frak", "deu_frak", "slk_frak"})
_READABLE = frozenset(model for script in READABLE_SCRIPTS for model in SCRIPTS.get(script, ()))
_UNREADABLE = _OTHER_LATIN | {model for models in SCRIPTS.values() for model in models} - _READABLE


def are_readable(models: Collection[str]) -> bool:
    """Whether text that these Tesseract models read is in writing that the second engine knows."""
    return not any(_stem(model) in _UNREADABLE for model in models)


def _stem(model: str) -> str:
    for suffix in _VARIANTS:
        model = model.removesuffix(suffix)
    return model
