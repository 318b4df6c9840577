"""BCP-47 codes of the wire contract → Tesseract models, and what is missing where there is none.

Invariants:

* Every code that some API version lists is here; a code is served when one of its models is installed.
* The first installed model wins. The first named is the language's own; those after it read the same alphabet
  (a script model, or a neighbour whose letters cover it), never one that would lose letters.
* Codes compare without regard to case, as BCP-47 says, and are told back as the contract spells them.
* What may be asked for is the contract's; what may be recognised unasked is whatever is installed.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ocr_core.errors import NotSupportedLanguageError

UNKNOWN = "unk"
"""What a client names to have the language detected, as if it had named none."""

FIRST_MODEL = "eng"

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

# Only `/ocr` lists these.
_LEGACY_LIST = {"el": "ell script/Greek", "nb": "nor dan script/Latin", "sr-Cyrl": "srp script/Cyrillic"}

_UNASKED = {
    "am": "amh script/Ethiopic", "as": "asm script/Bengali", "bn": "ben script/Bengali", "bo": "bod script/Tibetan",
    "chr": "chr script/Cherokee", "dv": "div script/Thaana", "dz": "dzo bod script/Tibetan",
    "eo": "epo script/Latin", "gu": "guj script/Gujarati", "he": "heb script/Hebrew", "hy": "hye script/Armenian",
    "ka": "kat script/Georgian", "km": "khm script/Khmer", "kn": "kan script/Kannada", "lo": "lao script/Lao",
    "lv": "lav script/Latin", "mk": "mkd script/Cyrillic", "ml": "mal script/Malayalam", "my": "mya script/Myanmar",
    "nn": "nor script/Latin", "or": "ori script/Oriya", "sd": "snd script/Arabic", "si": "sin script/Sinhala",
    "su": "sun eng", "syr": "syr script/Syriac", "ta": "tam script/Tamil", "te": "tel script/Telugu",
    "th": "tha script/Thai", "ti": "tir script/Ethiopic", "uk": "ukr script/Cyrillic",
    "vi": "vie script/Vietnamese script/Latin", "yi": "yid script/Hebrew", "yo": "yor script/Latin",
}  # fmt: skip

# First those that the orientation model does not know from a line or two.
_SCRIPTS = {
    "Han": "chi_sim chi_tra script/HanS script/HanT jpn script/Japanese",
    "Japanese": "jpn script/Japanese chi_sim chi_tra", "Hangul": "kor script/Hangul", "Korean": "kor script/Hangul",
    "Arabic": "ara fas urd pus uig snd script/Arabic", "Devanagari": "hin mar nep san script/Devanagari",
    "Hebrew": "heb yid script/Hebrew", "Thai": "tha script/Thai",
    "Cyrillic": "rus ukr bul srp script/Cyrillic bel mkd kaz kir mon tgk tat uzb_cyrl aze_cyrl",
    "Greek": "ell script/Greek grc", "Armenian": "hye script/Armenian", "Bengali": "ben asm script/Bengali",
    "Canadian_Aboriginal": "iku script/Canadian_Aboriginal", "Cherokee": "chr script/Cherokee",
    "Ethiopic": "amh tir script/Ethiopic", "Fraktur": "script/Fraktur frk", "Georgian": "kat script/Georgian",
    "Gujarati": "guj script/Gujarati", "Gurmukhi": "pan script/Gurmukhi", "Kannada": "kan script/Kannada",
    "Khmer": "khm script/Khmer", "Lao": "lao script/Lao", "Malayalam": "mal script/Malayalam",
    "Myanmar": "mya script/Myanmar", "Oriya": "ori script/Oriya", "Sinhala": "sin script/Sinhala",
    "Syriac": "syr script/Syriac", "Tamil": "tam script/Tamil", "Telugu": "tel script/Telugu",
    "Thaana": "div script/Thaana", "Tibetan": "bod dzo script/Tibetan",
}  # fmt: skip

_NAMES = """
af Afrikaans, anp Angika, ar Arabic, ast Asturian, awa Awadhi, az Azerbaijani, be Belarusian, be-cyrl Belarusian
(Cyrillic), be-latn Belarusian (Latin), bfy Bagheli, bfz Mahasu Pahari, bg Bulgarian, bgc Haryanvi, bho Bhojpuri,
bi Bislama, bns Bundeli, br Breton, bra Braj, brx Bodo, bs Bosnian, bua Buryat, ca Catalan, ceb Cebuano, ch Chamorro,
cnr-cyrl Montenegrin (Cyrillic), cnr-latn Montenegrin (Latin), co Corsican, crh Crimean Tatar, cs Czech, csb Kashubian,
cy Welsh, da Danish, de German, dhi Dhimal, doi Dogri, dsb Lower Sorbian, el Greek, en English, es Spanish,
et Estonian, eu Basque, fa Persian, fi Finnish, fil Filipino, fj Fijian, fo Faroese, fr French, fur Friulian,
fy Western Frisian, ga Irish, gag Gagauz, gd Scottish Gaelic, gil Gilbertese, gl Galician, gon Gondi, gv Manx,
haw Hawaiian, hi Hindi, hlb Halbi, hne Chhattisgarhi, hni Hani, hoc Ho, hr Croatian, hsb Upper Sorbian, ht Haitian
Creole, hu Hungarian, ia Interlingua, id Indonesian, is Icelandic, it Italian, iu Inuktitut, ja Japanese,
Jns Jaunsari, jv Javanese, kaa Karakalpak (Latin), kaa-cyrl Karakalpak (Cyrillic), kac Kachin, kea Kabuverdianu,
kfq Korku, kha Khasi, kk-cyrl Kazakh (Cyrillic), kk-latn Kazakh (Latin), kl Greenlandic, klr Khaling, kmj Malto,
ko Korean, kos Kosraean, kpy Koryak, krc Karachay-Balkar, kru Kurukh, ksh Ripuarian, ku Kurdish, ku-arab Kurdish
(Arabic), ku-latn Kurdish (Latin), kum Kumyk, kvr Gurung, kw Cornish, ky Kyrgyz, la Latin, lb Luxembourgish,
lkt Lakota, lt Lithuanian, mi Maori, mn Mongolian, mr Marathi, ms Malay, mt Maltese, mww Hmong Daw, myv Erzya,
nap Neapolitan, nb Norwegian Bokmål, ne Nepali, niu Niuean, nl Dutch, no Norwegian, nog Nogai, oc Occitan, os Ossetian,
pa Punjabi, pl Polish, prs Dari, ps Pashto, pt Portuguese, quc K'iche', rab Chamling, rm Romansh, ro Romanian,
ru Russian, sa Sanskrit, sat Santali, sck Sadri, sco Scots, sk Slovak, sl Slovenian, sm Samoan, sma Southern Sami,
sme Northern Sami, smj Lule Sami, smn Inari Sami, sms Skolt Sami, so Somali, sq Albanian, sr Serbian, sr-Cyrl Serbian
(Cyrillic), sr-latn Serbian (Latin), srx Sirmauri, sv Swedish, sw Swahili, tet Tetum, tg Tajik, thf Thangmi,
tk Turkmen, to Tongan, tr Turkish, tt Tatar (Latin), tyv Tuvan, ug Uyghur, ur Urdu, uz Uzbek, uz-arab Uzbek (Arabic),
uz-cyrl Uzbek (Cyrillic), vo Volapük, wae Walser, xnr Kangri, xsr Sherpa, yua Yucatec Maya, za Zhuang,
zh-Hans Chinese (simplified), zh-Hant Chinese (traditional), zu Zulu
"""

_DEBIAN_SCRIPTS = {
    "Arabic": "arab", "Armenian": "armn", "Bengali": "beng", "Canadian_Aboriginal": "cans", "Cherokee": "cher",
    "Cyrillic": "cyrl", "Devanagari": "deva", "Ethiopic": "ethi", "Fraktur": "frak", "Georgian": "geor",
    "Greek": "grek", "Gujarati": "gujr", "Gurmukhi": "guru", "HanS": "hans", "HanT": "hant", "Hangul": "hang",
    "Hebrew": "hebr", "Japanese": "jpan", "Kannada": "knda", "Khmer": "khmr", "Lao": "laoo", "Latin": "latn",
    "Malayalam": "mlym", "Myanmar": "mymr", "Oriya": "orya", "Sinhala": "sinh", "Syriac": "syrc", "Tamil": "taml",
    "Telugu": "telu", "Thaana": "thaa", "Thai": "thai", "Tibetan": "tibt", "Vietnamese": "viet",
}  # fmt: skip


def _table(text: Mapping[str, str]) -> Mapping[str, tuple[str, ...]]:
    return MappingProxyType({key: tuple(models.split()) for key, models in text.items()})


MODELS = _table(_PRINTED_FIRST_LIST | _PRINTED_SECOND_LIST | _LEGACY_LIST)
"""Models that read a language that may be asked for, by its code, the best first."""

SCRIPTS = _table(_SCRIPTS)
"""Models that read a script other than the Latin, by the name that the orientation model gives it, the best first."""

NAMES: Mapping[str, str] = MappingProxyType(
    dict(entry.split(maxsplit=1) for entry in " ".join(_NAMES.split()).split(", "))
)
"""English name of every language that may be asked for, by its code."""

_RECOGNISED = {**MODELS, **_table(_UNASKED)}
_LATIN_MODELS = frozenset(model for models in MODELS.values() if _LATIN in models for model in models)
_CANONICAL = {code.casefold(): code for code in MODELS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """One language that may be asked for, and how it stands on this machine.

    Attributes:
        code: BCP-47, as the contract spells it.
        name: In English.
        served_by: The installed model that reads it; None when there is none.
        own_model: The model made for it, or the script model where it has none of its own.
        debian_package: What installs `own_model` on Debian.
    """

    code: str
    name: str
    served_by: str | None
    own_model: str
    debian_package: str


def described(installed: Collection[str]) -> tuple[Language, ...]:
    """Every language that may be asked for, by name."""
    return tuple(
        Language(
            code=code,
            name=NAMES[code],
            served_by=next((model for model in models if model in installed), None),
            own_model=models[0],
            debian_package=debian_package(models[0]),
        )
        for code, models in sorted(MODELS.items(), key=lambda one: (NAMES[one[0]], one[0]))
    )


def debian_package(model: str) -> str:
    """The Debian package that brings a model."""
    script = model.removeprefix("script/")
    if script != model:
        return f"tesseract-ocr-script-{_DEBIAN_SCRIPTS[script]}"
    return f"tesseract-ocr-{model.replace('_', '-')}"


def supported(installed: Collection[str]) -> tuple[str, ...]:
    """Codes that can be served with the installed models, sorted."""
    return tuple(sorted(code for code, models in MODELS.items() if any(model in installed for model in models)))


def requested(code: str | None) -> str | None:
    """A code as the contract spells it; None when the language is to be detected.

    Raises:
        NotSupportedLanguageError: The code is unknown.
    """
    if code is None or code.casefold() == UNKNOWN:
        return None
    canonical = _CANONICAL.get(code.casefold())
    if canonical is None:
        raise NotSupportedLanguageError(
            f"The language {code[:_SHOWN]!r} is not known. 'sidecar languages' and the page /languages list the codes."
        )
    return canonical


def models_for(code: str, installed: Collection[str]) -> tuple[str, ...]:
    """The models to read a language with.

    Args:
        code: BCP-47.
        installed: Installed Tesseract models.

    Raises:
        NotSupportedLanguageError: The code is unknown, or no model for it is installed.
    """
    canonical = requested(code)
    if canonical is None:
        raise NotSupportedLanguageError(f"{UNKNOWN!r} names no language.")
    for model in MODELS[canonical]:
        if model in installed:
            return (model,)
    needed = MODELS[canonical][0]
    raise NotSupportedLanguageError(
        f"The language {canonical} ({NAMES[canonical]}) needs the Tesseract model {needed}, which is not installed. "
        f"Install the Debian package {debian_package(needed)}, or copy {needed.removeprefix('script/')}.traineddata "
        "into the folder that Core:Tessdata names, and restart the core."
    )


def model_recognised(code: str, installed: Collection[str]) -> str | None:
    """The installed model that reads a language which was found in a text; None when there is none."""
    return next((model for model in _RECOGNISED.get(code, ()) if model in installed), None)


def is_own_model_in(code: str | None, installed: Collection[str]) -> bool:
    """Whether the model made for a language is installed."""
    return code is not None and _RECOGNISED.get(code, ("",))[0] in installed


def model_of_script(script: str, installed: Collection[str]) -> str | None:
    """The installed model that reads a script first; None when there is none, and for the Latin script.

    Args:
        script: As the orientation model names it.
        installed: Installed Tesseract models.
    """
    return next((model for model in SCRIPTS.get(script, ()) if model in installed), None)


def are_latin(models: Collection[str]) -> bool:
    """Whether models are all for languages in Latin letters."""
    return _LATIN_MODELS.issuperset(models)


def models_of_scripts(installed: Collection[str]) -> Iterator[str]:
    """For each script other than the Latin that an installed model reads, the first such model, each once."""
    found = (model_of_script(script, installed) for script in SCRIPTS)
    yield from dict.fromkeys(model for model in found if model is not None)


def first_model(installed: Collection[str]) -> str:
    """The model that a page of unknown language is read with first: English, or whatever there is.

    Raises:
        NotSupportedLanguageError: There is none at all.
    """
    if not installed:
        raise NotSupportedLanguageError("No Tesseract model is installed.")
    return FIRST_MODEL if FIRST_MODEL in installed else min(installed)


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
