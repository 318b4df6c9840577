import pytest

from ocr_core.languages import SCRIPTS
from ocr_core.second_engine.readable_scripts import READABLE_MODELS, READABLE_SCRIPTS, are_readable


@pytest.mark.parametrize(
    "models",
    [
        ("eng",), ("deu", "fra"), ("script/Latin",), ("chi_sim",), ("chi_tra_vert",), ("jpn", "eng"), ("srp_latn",),
        ("ita_old",), ("anything-else",), READABLE_MODELS, (),
    ],
)  # fmt: skip
def test_latin_chinese_and_japanese_are_readable(models: tuple[str, ...]) -> None:
    assert are_readable(models)


@pytest.mark.parametrize(
    "models",
    [
        ("rus",), ("srp",), ("ell",), ("kor",), ("kor_vert",), ("ara",), ("heb",), ("hin",), ("tha",), ("kat_old",),
        ("vie",), ("script/Vietnamese",), ("script/Fraktur",), ("script/Cyrillic",), ("eng", "rus"),
    ],
)  # fmt: skip
def test_other_scripts_are_not_and_one_of_several_suffices(models: tuple[str, ...]) -> None:
    assert not are_readable(models)


def test_every_script_that_the_orientation_model_names_is_decided() -> None:
    for script, models in SCRIPTS.items():
        expected = script in READABLE_SCRIPTS
        told = {are_readable((model,)) for model in models}
        assert told == {expected}, script
