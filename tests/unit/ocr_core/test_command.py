import json
from pathlib import Path

import pytest

from ocr_core.__main__ import EXIT_CONFIG, EXIT_CPU, EXIT_USAGE, main


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    for name in ("Sidecar:CoreSocket", "Core:Workers", "Core:MaxMegapixels", "Mounts:Shared", "--self-test"):
        assert name in told


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ocr-core ")


@pytest.mark.parametrize(
    ("words", "code"),
    [(["--what"], EXIT_USAGE), (["word"], EXIT_USAGE), (["Core:Workers=none"], EXIT_CONFIG)],
)
def test_what_cannot_be_used_is_told_and_told_apart(
    words: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == code
    assert capsys.readouterr().err


def test_without_models_it_says_what_to_install(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"Core:Tessdata={tmp_path}", f"Sidecar:CoreSocket={tmp_path}/s"]) == EXIT_CONFIG
    assert "tesseract-ocr-eng" in capsys.readouterr().err


def test_the_self_test_reads_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--self-test", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["passed"]
    assert told["cpu"] == "AVX2 works"
    assert "eng" in told["models"]
    assert told["page_seconds"] > 0


def test_the_self_test_names_a_missing_avx2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cpuinfo").write_text("flags : fpu sse\n")
    assert main(["--self-test", f"Core:CpuInfo={tmp_path / 'cpuinfo'}"]) == EXIT_CPU
    assert "AVX2" in capsys.readouterr().out
