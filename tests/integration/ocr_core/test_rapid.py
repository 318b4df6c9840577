"""The second engine in this process: what it makes of pictures, and what it leaves alone."""

import importlib.util
import logging
import os
import random
import socket
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

from ocr_core.engine import FoundLine, Picture
from ocr_core.errors import EngineTimeoutError, FailedToProcessError
from ocr_core.second_engine.readable_scripts import READABLE_SCRIPTS

if importlib.util.find_spec("rapidocr") is None:
    pytest.skip("the extra 'handwriting' is not installed", allow_module_level=True)

from ocr_core.second_engine import rapid

_INSTALLED = Path(rapid.rapidocr.__file__).parent


def _tree() -> dict[str, float]:
    return {str(path): path.stat().st_mtime for path in _INSTALLED.rglob("*") if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def engine() -> Iterator[rapid.RapidEngine]:
    """The engine, loaded while no socket can be made, so that it cannot download anything."""
    before = _tree()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _no_network)
        patch.setattr(socket, "getaddrinfo", _no_network)
        patch.setattr(socket, "create_connection", _no_network)
        engine = rapid.RapidEngine()
        engine.preload()
    assert _tree() == before, "nothing is written beside the models"
    yield engine
    assert _tree() == before


def _no_network(*_: object, **__: object) -> None:
    raise AssertionError("the second engine reached for the network")


def drawn(text: str, *, size: int = 40, margin: int = 30, angle: float = 0.0, paper: int = 255) -> Image.Image:
    font = ImageFont.load_default(size)
    lines = text.split("\n")
    width = max(round(font.getlength(line)) for line in lines) + 2 * margin
    image = Image.new("L", (width, round(1.6 * size) * len(lines) + 2 * margin), paper)
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((margin, margin + number * round(1.6 * size)), line, fill=0, font=font)
    return image.rotate(angle, expand=True, fillcolor=paper, resample=Image.Resampling.BICUBIC) if angle else image


def shown(image: Image.Image) -> Picture:
    return Picture(pixels=image.tobytes(), width=image.width, height=image.height, dpi=None)


def read(engine: rapid.RapidEngine, image: Image.Image, seconds: float = 60) -> tuple[FoundLine, ...]:
    return engine.read(shown(image), (), timeout_seconds=seconds)


def text_of(lines: tuple[FoundLine, ...]) -> str:
    return "\n".join(" ".join(word.text for word in line.words) for line in lines)


def test_words_are_read_and_are_where_they_were_drawn(engine: rapid.RapidEngine) -> None:
    lines = read(engine, drawn("Pay the harbour master\nfor Gate 7 by Friday"))
    assert text_of(lines) == "Pay the harbour master\nfor Gate 7 by Friday"
    font = ImageFont.load_default(40)
    for line, text in zip(lines, ("Pay the harbour master", "for Gate 7 by Friday"), strict=True):
        at = 30.0
        for word, told in zip(line.words, text.split(), strict=True):
            width = font.getlength(told)
            left, top, right, bottom = word.box
            overlap = min(right, at + width) - max(left, at)
            assert overlap >= 0.7 * (max(right, at + width) - min(left, at)), (told, word.box, at, width)
            assert bottom - top < 80
            at += width + font.getlength(" ")
        assert all(0.5 <= word.confidence <= 1.0 for word in line.words)
        x1, y1, x2, y2 = line.baseline
        assert x2 > x1
        assert abs(y2 - y1) < 6
        assert line.block == 0


@pytest.mark.parametrize("angle", [12.0, -20.0])
def test_the_baseline_follows_the_slope(engine: rapid.RapidEngine, angle: float) -> None:
    (line,) = read(engine, drawn("turned a little to one side", angle=angle))
    x1, y1, x2, y2 = line.baseline
    assert (y1 - y2) / (x2 - x1) == pytest.approx(angle * 3.14159 / 180, abs=0.06)
    assert text_of((line,)) == "turned a little to one side"


def test_a_line_from_top_to_bottom_runs_downwards(engine: rapid.RapidEngine) -> None:
    (line,) = read(engine, drawn("laid on its right side").transpose(Image.Transpose.ROTATE_270))
    x1, y1, x2, y2 = line.baseline
    assert y2 - y1 > 10 * abs(x2 - x1)
    assert text_of((line,)) == "laid on its right side"
    tops = [word.box[1] for word in line.words]
    assert tops == sorted(tops)


def test_a_line_from_bottom_to_top_runs_upwards(engine: rapid.RapidEngine) -> None:
    (line,) = read(engine, drawn("laid on its left side").transpose(Image.Transpose.ROTATE_90))
    x1, y1, x2, y2 = line.baseline
    assert y1 - y2 > 10 * abs(x2 - x1)
    assert text_of((line,)) == "laid on its left side"
    bottoms = [word.box[3] for word in line.words]
    assert bottoms == sorted(bottoms, reverse=True)


def test_a_single_narrow_letter_is_read_as_it_stands(engine: rapid.RapidEngine) -> None:
    image = Image.new("L", (500, 300), 255)
    pen = ImageDraw.Draw(image)
    pen.text((30, 30), "Gate", fill=0, font=ImageFont.load_default(40))
    pen.text((300, 200), "7", fill=0, font=ImageFont.load_default(40))
    assert text_of(read(engine, image)) == "Gate\n7"


@pytest.mark.parametrize(
    "image",
    [
        Image.new("L", (800, 600), 255), Image.new("L", (800, 600), 0), Image.new("L", (1, 1), 255),
        Image.new("L", (1, 5000), 128), Image.new("L", (5000, 1), 0), Image.new("L", (15, 15), 9),
        Image.new("L", (65_535, 12), 255), Image.new("L", (40, 40), 255),
    ],
    ids=lambda image: f"{image.width}x{image.height}",
)  # fmt: skip
def test_a_picture_without_text_is_empty(engine: rapid.RapidEngine, image: Image.Image) -> None:
    assert read(engine, image) == ()


def test_noise_is_bounded_and_boxes_stay_within_the_picture(engine: rapid.RapidEngine) -> None:
    image = Image.frombytes("L", (1200, 400), random.Random(7).randbytes(1200 * 400))
    for picture in (image, drawn("|" * 150, size=12)):
        for line in read(engine, picture):
            for word in line.words:
                left, top, right, bottom = word.box
                assert 0 <= left < right <= picture.width
                assert 0 <= top < bottom <= picture.height


def test_a_word_that_was_cut_out_closely_is_read_and_a_shade_is_not(engine: rapid.RapidEngine) -> None:
    word = drawn("Lantern", size=64, paper=200)
    assert text_of(read(engine, word.crop(word.point(lambda value: 255 * (value < 128)).getbbox()))) == "Lantern"
    assert read(engine, Image.linear_gradient("L").resize((120, 50))) == ()


def test_a_large_picture_is_read_at_its_own_scale(engine: rapid.RapidEngine) -> None:
    small = drawn("seen from afar", size=48)
    large = small.resize((small.width * 8, small.height * 8))
    assert large.width * large.height > 3_000_000
    (line,) = read(engine, large)
    assert text_of((line,)) == "seen from afar"
    assert line.words[-1].box[2] > 0.8 * large.width


def test_a_long_receipt_is_not_shrunk_until_it_cannot_be_read(engine: rapid.RapidEngine) -> None:
    items = [f"{number} apples at {number * 3} pence" for number in range(1, 46)]
    found = text_of(read(engine, drawn("\n".join(items), size=26))).split("\n")
    assert len(set(items) & set(found)) >= 0.9 * len(items)


def test_time_that_is_over_is_told(engine: rapid.RapidEngine) -> None:
    with pytest.raises(EngineTimeoutError):
        read(engine, drawn("no time for this"), seconds=0.0)


def test_a_wall_of_letters_is_refused_before_it_is_read(engine: rapid.RapidEngine) -> None:
    wall = drawn("\n".join(["the quick brown fox jumps " * 12] * 60), size=14)
    with pytest.raises(FailedToProcessError, match="more text"):
        read(engine, wall)


def test_too_few_pixels_are_refused(engine: rapid.RapidEngine) -> None:
    with pytest.raises(FailedToProcessError):
        engine.read(Picture(pixels=b"x", width=2, height=2, dpi=None), (), timeout_seconds=5)


def test_what_the_libraries_raise_is_not_let_out(engine: rapid.RapidEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise rapid.cv2.error("internal")

    monkeypatch.setattr(rapid, "_found", broken)
    with pytest.raises(FailedToProcessError) as failure:
        read(engine, drawn("anything"))
    assert "internal" not in str(failure.value)


def test_models_that_are_gone_are_told_and_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", _no_network)
    monkeypatch.setattr(rapid, "RECOGNISER", tmp_path / "none.onnx")
    with pytest.raises(FailedToProcessError):
        rapid.RapidEngine().preload()
    assert os.listdir(tmp_path) == []


def test_nothing_is_printed_or_logged(
    engine: rapid.RapidEngine, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        read(engine, drawn("quiet please"))
        read(engine, Image.new("L", (300, 200), 255))
        rapid.RapidEngine().preload()
    assert capfd.readouterr() == ("", "")
    assert not [one for one in caplog.records if "rapid" in one.name.casefold()]


def test_it_says_what_it_is(engine: rapid.RapidEngine) -> None:
    assert engine.name == "rapidocr"
    assert engine.version.startswith("3.")
    assert engine.orientation(shown(drawn("x"))) is None
    assert "script/Latin" in engine.languages()


ALPHABETS = {
    "Latin": "ÀÂÄÅÆÇÉÈÊËÍÎÏÑÓÔÖØŒÚÛÜÝßàâäåæçéèêëíîïñóôöøœúûüýÿąćęłńśźżčďěňřšťůžăâîșțőűğışđāēģīķļņūėįųħġċż",
    "Han": "的一是不了人我在有他这中大来上国學書圖國語說電",
    "Japanese": "あいうえおかがきぎくんアイウエオカガキギクン日本語",
    "Cyrillic": "абвгдежзийклмнопрстуфхцчшщъыьэюя", "Greek": "άέήίόύώς", "Hangul": "가나다라마바사",
    "Arabic": "ابتثجحخدذ", "Hebrew": "אבגדהוזח", "Devanagari": "अआइईउऊ", "Thai": "กขคงจฉ",
    "Vietnamese": "ạảấầẩẫậắằẳẵặ",
}  # fmt: skip


def test_the_scripts_that_it_is_said_to_read_are_those_whose_letters_it_knows(engine: rapid.RapidEngine) -> None:
    known = engine.characters()
    for alphabet, letters in ALPHABETS.items():
        share = sum(unicodedata.normalize("NFC", letter) in known for letter in letters) / len(letters)
        assert share == 1.0 if alphabet in READABLE_SCRIPTS else share < 0.2, alphabet
