"""BCP-47 codes of the Read contract → Tesseract models.

Invariants:

* Every code of the contract's two lists is here; a code is served when one of its models is installed.
* The first installed model wins. The first named is the language's own; those after it read the same alphabet
  (a script model, or a neighbour whose letters cover it), never one that would lose letters.
* Codes compare without regard to case, as BCP-47 says.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType

from ocr_core.errors import NotSupportedLanguageError

_SHOWN = 40

_DEVANAGARI = "script/Devanagari hin"
_CYRILLIC = "script/Cyrillic"
_LATIN = "script/Latin"
_PLAIN_LATIN = "eng script/Latin"  # the 26 letters suffice

_PRINTED_FIRST_LIST = {
    "af": "afr script/Latin nld", "ast": "spa script/Latin", "bi": _PLAIN_LATIN, "br": "bre script/Latin fra",
    "ca": "cat script/Latin", "ceb": "ceb eng", "ch": _LATIN, "co": "cos ita", "crh": "script/Latin tur",
    "cs": "ces script/Latin", "csb": _LATIN, "da": "dan script/Latin", "de": "deu script/Latin",
    "en": "eng script/Latin", "es": "spa script/Latin", "et": "est script/Latin", "eu": "eus spa",
    "fi": "fin script/Latin swe", "fil": "fil eng", "fj": _PLAIN_LATIN, "fr": "fra script/Latin",
    "fur": "script/Latin ita", "fy": "fry script/Latin nld", "ga": "gle script/Latin", "gd": "gla script/Latin",
    "gil": _PLAIN_LATIN, "gl": "glg spa", "gv": "script/Latin eng", "hni": _PLAIN_LATIN, "hsb": _LATIN,
    "ht": "hat fra", "hu": "hun script/Latin", "ia": _PLAIN_LATIN, "id": "ind eng", "it": "ita script/Latin",
    "iu": "iku script/Canadian_Aboriginal", "ja": "jpn script/Japanese", "jv": "jav eng", "kaa": _LATIN,
    "kac": _PLAIN_LATIN, "kea": "script/Latin por", "kha": "script/Latin eng", "kl": "script/Latin dan eng",
    "ko": "kor script/Hangul", "ku": "kmr script/Latin", "kw": _PLAIN_LATIN, "lb": "ltz deu", "ms": "msa eng",
    "mww": _PLAIN_LATIN, "nap": "ita script/Latin", "nl": "nld script/Latin", "no": "nor dan script/Latin",
    "oc": "oci fra", "pl": "pol script/Latin", "pt": "por script/Latin", "quc": "script/Latin spa",
    "rm": "script/Latin ita", "sco": _PLAIN_LATIN, "sl": "slv script/Latin", "sq": "sqi script/Latin",
    "sv": "swe script/Latin", "sw": "swa eng", "tet": "script/Latin por", "tr": "tur script/Latin", "tt": _LATIN,
    "uz": "uzb script/Latin", "vo": "script/Latin deu", "wae": "deu script/Latin", "yua": "spa script/Latin",
    "za": _PLAIN_LATIN, "zh-Hans": "chi_sim script/HanS", "zh-Hant": "chi_tra script/HanT", "zu": _PLAIN_LATIN,
}  # fmt: skip

_PRINTED_SECOND_LIST = {
    "anp": _DEVANAGARI, "ar": "ara script/Arabic", "awa": _DEVANAGARI, "az": "aze script/Latin", "bfy": _DEVANAGARI,
    "be": "bel script/Cyrillic", "be-cyrl": "bel script/Cyrillic", "be-latn": _LATIN, "bho": _DEVANAGARI,
    "brx": _DEVANAGARI, "bs": "bos hrv script/Latin", "bra": _DEVANAGARI, "bg": "bul script/Cyrillic",
    "bns": _DEVANAGARI, "bua": "script/Cyrillic mon", "rab": _DEVANAGARI, "hne": _DEVANAGARI,
    "hr": "hrv script/Latin", "prs": "fas script/Arabic", "dhi": _DEVANAGARI, "doi": _DEVANAGARI,
    "myv": "script/Cyrillic rus", "fo": "fao script/Latin", "gag": "script/Latin tur", "gon": _DEVANAGARI,
    "kvr": _DEVANAGARI, "hlb": _DEVANAGARI, "bgc": _DEVANAGARI, "haw": _LATIN, "hi": "hin script/Devanagari",
    "hoc": _DEVANAGARI, "is": "isl script/Latin", "smn": _LATIN, "Jns": _DEVANAGARI, "xnr": _DEVANAGARI,
    "krc": "script/Cyrillic rus", "kaa-cyrl": _CYRILLIC, "kk-cyrl": "kaz script/Cyrillic", "kk-latn": _LATIN,
    "klr": _DEVANAGARI, "kfq": _DEVANAGARI, "kpy": _CYRILLIC, "kos": "script/Latin eng",
    "kum": "script/Cyrillic rus", "ku-arab": "script/Arabic", "ku-latn": "kmr script/Latin", "kru": _DEVANAGARI,
    "ky": "kir script/Cyrillic", "lkt": _LATIN, "la": "lat script/Latin", "lt": "lit script/Latin", "dsb": _LATIN,
    "smj": _LATIN, "bfz": _DEVANAGARI, "mt": "mlt script/Latin", "kmj": _DEVANAGARI, "mi": "mri script/Latin",
    "mr": "mar script/Devanagari", "mn": "mon script/Cyrillic", "cnr-cyrl": "srp script/Cyrillic",
    "cnr-latn": "srp_latn hrv script/Latin", "ne": "nep script/Devanagari", "niu": _LATIN,
    "nog": "script/Cyrillic rus", "sme": _LATIN, "os": _CYRILLIC, "ps": "pus script/Arabic",
    "fa": "fas script/Arabic", "pa": "pan script/Gurmukhi", "ksh": "script/Latin deu", "ro": "ron script/Latin",
    "ru": "rus script/Cyrillic", "sck": _DEVANAGARI, "sm": _LATIN, "sa": "san script/Devanagari",
    "sat": _DEVANAGARI, "sr": "srp script/Cyrillic", "sr-latn": "srp_latn hrv script/Latin", "xsr": _DEVANAGARI,
    "srx": _DEVANAGARI, "sms": _LATIN, "sk": "slk script/Latin", "so": _PLAIN_LATIN, "sma": _LATIN,
    "tg": "tgk script/Cyrillic", "thf": _DEVANAGARI, "to": "ton script/Latin", "tk": _LATIN, "tyv": _CYRILLIC,
    "ur": "urd script/Arabic", "ug": "uig script/Arabic", "uz-arab": "script/Arabic",
    "uz-cyrl": "uzb_cyrl script/Cyrillic", "cy": "cym script/Latin",
}  # fmt: skip

MODELS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {code: tuple(models.split()) for code, models in (_PRINTED_FIRST_LIST | _PRINTED_SECOND_LIST).items()}
)
"""Models that read a language, by its code, the best first."""

_CANONICAL = {code.casefold(): code for code in MODELS}


def supported(installed: Collection[str]) -> tuple[str, ...]:
    """Codes that can be served with the installed models, sorted."""
    return tuple(sorted(code for code, models in MODELS.items() if any(model in installed for model in models)))


def models_for(code: str, installed: Collection[str]) -> tuple[str, ...]:
    """The models to read a language with.

    Args:
        code: BCP-47.
        installed: Installed Tesseract models.

    Raises:
        NotSupportedLanguageError: The code is unknown, or no model for it is installed.
    """
    canonical = _CANONICAL.get(code.casefold())
    if canonical is None:
        known = ", ".join(supported(installed))
        raise NotSupportedLanguageError(f"The language {code[:_SHOWN]!r} is not known. Supported here: {known}.")
    for model in MODELS[canonical]:
        if model in installed:
            return (model,)
    needed = MODELS[canonical][0]
    raise NotSupportedLanguageError(
        f"The language {canonical} needs the Tesseract model {needed}, which is not installed. "
        f"Installed are: {', '.join(sorted(installed))}."
    )


def known_models(models: Collection[str], installed: Collection[str]) -> tuple[str, ...]:
    """The given models, each checked to be installed.

    Raises:
        NotSupportedLanguageError: One is not installed.
    """
    for model in models:
        if model not in installed:
            raise NotSupportedLanguageError(
                f"The model {model[:_SHOWN]!r} is not installed. Installed are: {', '.join(sorted(installed))}."
            )
    return tuple(dict.fromkeys(models))
