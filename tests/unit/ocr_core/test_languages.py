import pytest

from ocr_core.errors import NotSupportedLanguageError
from ocr_core.languages import MODELS, known_models, models_for, supported

FIRST_LIST = """af ast bi br ca ceb ch co crh cs csb da de en es et eu fi fil fj fr fur fy ga gd gil gl gv hni hsb ht hu
ia id it iu ja jv kaa kac kea kha kl ko ku kw lb ms mww nap nl no oc pl pt quc rm sco sl sq sv sw tet tr tt uz vo wae
yua za zh-Hans zh-Hant zu"""
SECOND_LIST = """anp ar awa az bfy be be-cyrl be-latn bho brx bs bra bg bns bua rab hne hr prs dhi doi myv fo gag gon kl
kvr hlb bgc haw hi hoc is smn Jns xnr krc kaa-cyrl kk-cyrl kk-latn klr kfq kpy kos kum ku-arab ku-latn kru ky lkt la lt
dsb smj bfz mt kmj mi mr mn cnr-cyrl cnr-latn ne niu nog sme os ps fa pa ksh ro ru sck sm sa sat sr sr-latn xsr srx sms
sk so sma tg thf to tk tyv ur ug uz-arab uz-cyrl cy"""


def test_every_code_of_the_contract_is_known() -> None:
    assert set(MODELS) == set(FIRST_LIST.split()) | set(SECOND_LIST.split())


def test_the_own_model_comes_first() -> None:
    assert models_for("de", {"deu", "script/Latin", "eng"}) == ("deu",)
    assert models_for("zh-hans", {"chi_sim"}) == ("chi_sim",)


def test_a_model_that_reads_the_same_alphabet_will_do() -> None:
    assert models_for("cs", {"script/Latin"}) == ("script/Latin",)
    assert models_for("sw", {"eng"}) == ("eng",)


@pytest.mark.parametrize("code", ["xx", "", "english", "de;drop", "é" * 1000])
def test_an_unknown_code_is_refused_with_what_is_known(code: str) -> None:
    with pytest.raises(NotSupportedLanguageError, match=r"Supported here: .*en") as refusal:
        models_for(code, {"eng"})
    assert len(str(refusal.value)) < 600


def test_a_code_without_its_model_is_refused_with_what_is_installed() -> None:
    with pytest.raises(NotSupportedLanguageError, match=r"needs the Tesseract model rus.*Installed are: deu, eng"):
        models_for("ru", {"eng", "deu"})


def test_polish_is_not_read_with_an_english_model() -> None:
    assert "pl" not in supported({"eng"})
    assert {"en", "sw", "zu"} <= set(supported({"eng"}))


def test_models_are_taken_once_each_and_only_if_installed() -> None:
    assert known_models(("eng", "deu", "eng"), {"eng", "deu"}) == ("eng", "deu")
    with pytest.raises(NotSupportedLanguageError, match="'osd'"):
        known_models(("../../osd"[-3:],), {"eng"})
