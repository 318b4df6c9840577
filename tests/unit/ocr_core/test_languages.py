import re

import pytest

from ocr_core.errors import NotSupportedLanguageError
from ocr_core.languages import (
    MODELS,
    NAMES,
    SCRIPTS,
    debian_package,
    described,
    known_models,
    model_of_script,
    model_recognised,
    models_for,
    models_of_scripts,
    requested,
    supported,
)

FIRST_LIST = """af ast bi br ca ceb ch co crh cs csb da de en es et eu fi fil fj fr fur fy ga gd gil gl gv hni hsb ht hu
ia id it iu ja jv kaa kac kea kha kl ko ku kw lb ms mww nap nl no oc pl pt quc rm sco sl sq sv sw tet tr tt uz vo wae
yua za zh-Hans zh-Hant zu"""
SECOND_LIST = """anp ar awa az bfy be be-cyrl be-latn bho brx bs bra bg bns bua rab hne hr prs dhi doi myv fo gag gon kl
kvr hlb bgc haw hi hoc is smn Jns xnr krc kaa-cyrl kk-cyrl kk-latn klr kfq kpy kos kum ku-arab ku-latn kru ky lkt la lt
dsb smj bfz mt kmj mi mr mn cnr-cyrl cnr-latn ne niu nog sme os ps fa pa ksh ro ru sck sm sa sat sr sr-latn xsr srx sms
sk so sma tg thf to tk tyv ur ug uz-arab uz-cyrl cy"""


LEGACY_LIST = """zh-Hans zh-Hant cs da nl en fi fr de el hu it ja ko nb pl pt ru es sv tr ar ro sr-Cyrl sr-Latn sk"""
HANDWRITTEN = "en zh-Hans fr de it ja ko pt es"
CODES = sorted({*FIRST_LIST.split(), *SECOND_LIST.split(), *LEGACY_LIST.split(), *HANDWRITTEN.split()})


def test_every_code_of_the_contract_is_known_and_no_other() -> None:
    assert {code.casefold() for code in MODELS} == {code.casefold() for code in CODES}
    assert set(NAMES) == set(MODELS)


@pytest.mark.parametrize("code", CODES)
def test_a_code_is_read_with_its_first_installed_model_in_any_letter_case(code: str) -> None:
    models = MODELS[str(requested(code))]
    for spelled in (code, code.upper(), code.lower()):
        assert requested(spelled) in MODELS
        for number, model in enumerate(models):
            assert models_for(spelled, {*models[number:], "equ"}) == (model,)


@pytest.mark.parametrize("code", CODES)
def test_a_code_without_a_model_is_refused_with_what_to_install(code: str) -> None:
    needed = MODELS[str(requested(code))][0]
    with pytest.raises(NotSupportedLanguageError) as refusal:
        models_for(code, {"equ"})
    for told in (needed, debian_package(needed), f"{needed.removeprefix('script/')}.traineddata", "restart the core"):
        assert told in str(refusal.value)


@pytest.mark.parametrize("code", [None, "unk", "UNK"])
def test_no_language_and_the_unknown_one_are_detected(code: str | None) -> None:
    assert requested(code) is None


def test_debian_packages_are_named_as_debian_names_them() -> None:
    assert debian_package("deu") == "tesseract-ocr-deu"
    assert debian_package("chi_sim") == "tesseract-ocr-chi-sim"
    assert debian_package("script/HanS") == "tesseract-ocr-script-hans"
    for models in (*MODELS.values(), *SCRIPTS.values()):
        assert all(re.fullmatch(r"tesseract-ocr-[a-z-]+", debian_package(model)) for model in models)


def test_every_language_is_described_with_what_serves_it() -> None:
    told = {language.code: language for language in described({"deu", "eng"})}
    assert set(told) == set(MODELS)
    assert (told["de"].name, told["de"].served_by) == ("German", "deu")
    assert (told["zu"].served_by, told["ru"].served_by) == ("eng", None)
    assert (told["ru"].own_model, told["ru"].debian_package) == ("rus", "tesseract-ocr-rus")


def test_a_script_is_read_with_what_is_installed() -> None:
    assert model_of_script("Cyrillic", {"eng", "ukr", "script/Cyrillic"}) == "ukr"
    assert model_of_script("Latin", {"eng", "script/Latin"}) is None
    assert list(models_of_scripts({"eng", "jpn", "rus"})) == ["jpn", "rus"]


def test_languages_beyond_the_contract_are_recognised_but_not_asked_for() -> None:
    assert model_recognised("uk", {"ukr"}) == "ukr"
    with pytest.raises(NotSupportedLanguageError, match="is not known"):
        models_for("uk", {"ukr"})


def test_the_own_model_comes_first() -> None:
    assert models_for("de", {"deu", "script/Latin", "eng"}) == ("deu",)
    assert models_for("zh-hans", {"chi_sim"}) == ("chi_sim",)


def test_a_model_that_reads_the_same_alphabet_will_do() -> None:
    assert models_for("cs", {"script/Latin"}) == ("script/Latin",)
    assert models_for("sw", {"eng"}) == ("eng",)


@pytest.mark.parametrize("code", ["xx", "", "english", "de;drop", "é" * 1000])
def test_an_unknown_code_is_refused_with_where_the_codes_are_listed(code: str) -> None:
    with pytest.raises(NotSupportedLanguageError, match=r"is not known.*sidecar languages") as refusal:
        models_for(code, {"eng"})
    assert len(str(refusal.value)) < 600


def test_polish_is_not_read_with_an_english_model() -> None:
    assert "pl" not in supported({"eng"})
    assert {"en", "sw", "zu"} <= set(supported({"eng"}))


def test_models_are_taken_once_each_and_only_if_installed() -> None:
    assert known_models(("eng", "deu", "eng"), {"eng", "deu"}) == ("eng", "deu")
    with pytest.raises(NotSupportedLanguageError, match="'osd'"):
        known_models(("../../osd"[-3:],), {"eng"})
