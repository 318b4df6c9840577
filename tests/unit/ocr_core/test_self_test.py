from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ocr_core import self_test
from ocr_core.check import Check, rows
from ocr_core.confinement import Confinement, Role
from ocr_core.cpu import Cpu
from ocr_core.engine import FoundLine, Picture
from ocr_core.errors import FailedToProcessError
from ocr_core.self_test import LEFT, LINES, RIGHT, SelfTest
from ocr_core.settings import Settings
from tests.fakes.engines import FakeEngine, HungEngine, a_line

WORKS = Cpu(True, "AVX2 works")
COMPLETE = Confinement(role=Role.READER, lowered=("limits", "files"))
SHUT = Confinement(role=Role.READER, lowered=("limits",), refused=("files: not permitted",))
ROOM = 64 * 2**30


class PrinterEngine(FakeEngine):
    """Reads what the self-test draws, in the order that it draws it."""

    def __init__(self, *pages: Sequence[str]) -> None:
        super().__init__(answer=self._next)
        self._pages = list(pages or (LINES, LINES, (*LEFT, *RIGHT)))

    def _next(self, picture: Picture, number: int) -> list[FoundLine]:
        lying = picture.height > picture.width  # such a page is read once more, standing
        page = self._pages[0] if lying else self._pages.pop(0)
        return [self._line(text, at, lying=lying) for at, text in enumerate(page)]

    def _line(self, text: str, number: int, *, lying: bool) -> FoundLine:
        line = a_line(text, top=100 + 60 * number)
        if not lying:
            return line

        def point(x: float, y: float) -> tuple[float, float]:
            return 1169 - y, x

        words = []
        for word in line.words:
            left, top, right, bottom = word.box
            words.append(replace(word, box=(1169 - bottom, left, 1169 - top, right)))
        x1, y1, x2, y2 = line.baseline
        return replace(line, words=tuple(words), baseline=(*point(x1, y1), *point(x2, y2)))


def found_with(
    tmp_path: Path,
    *,
    engine: FakeEngine | None = None,
    cpu: Cpu = WORKS,
    confined: Callable[[], Confinement | None] = lambda: COMPLETE,
    memory_bytes: int | None = ROOM,
    osd: bool = True,
    **settings: object,
) -> SelfTest:
    if osd:
        (tmp_path / "osd.traineddata").touch()
    told = replace(Settings(tessdata=tmp_path, second_engine="off"), **settings)  # type: ignore[arg-type]
    return self_test.run(told, engine=engine or PrinterEngine(), cpu=cpu, confined=confined, memory_bytes=memory_bytes)


def the(found: SelfTest, name: str, result: str) -> Check:
    (check,) = (one for one in found.checks if one.name == name and one.result == result)
    if result == "fail":
        assert check.next_step
    return check


def test_everything_well(tmp_path: Path) -> None:
    found = found_with(tmp_path)
    assert {check.result for check in found.checks} == {"ok"}, found.checks
    assert [check.name for check in found.checks] == [
        "processor", "confinement", "engine", "models", "page", "lying page", "two columns", "second engine", "workers",
    ]  # fmt: skip
    assert found.passed
    assert found.problem == ""
    assert found.facts["models"] == ["deu", "eng"]


def test_without_avx2_nothing_else_is_tried(tmp_path: Path) -> None:
    def never() -> Confinement:
        raise AssertionError("tried")

    found = found_with(tmp_path, cpu=Cpu(False, "AVX2 is needed; no flag"), confined=never)
    assert [check.name for check in found.checks] == ["processor"]
    assert "no flag" in the(found, "processor", "fail").cause
    assert found.problem == "AVX2 is needed; no flag"


def test_what_cannot_be_confined_is_told(tmp_path: Path) -> None:
    found = found_with(tmp_path, confined=lambda: SHUT)
    assert "files: not permitted" in the(found, "confinement", "warn").cause
    assert found.passed
    assert "off" in the(found_with(tmp_path, confined=lambda: None), "confinement", "warn").cause


def test_no_model(tmp_path: Path) -> None:
    found = found_with(tmp_path, engine=FakeEngine(installed=()))
    assert "tesseract-ocr-eng" in the(found, "models", "fail").next_step
    assert "page" not in {check.name for check in found.checks}


def test_a_model_that_is_asked_for_and_missing(tmp_path: Path) -> None:
    check = the(found_with(tmp_path, languages=("jpn",)), "models", "fail")
    assert "jpn" in check.cause
    assert "Core:Languages" in check.next_step


def test_no_model_of_orientation(tmp_path: Path) -> None:
    assert "osd" in the(found_with(tmp_path, osd=False), "models", "warn").cause


def test_a_page_that_is_read_wrongly(tmp_path: Path) -> None:
    found = found_with(tmp_path, engine=PrinterEngine(("Every page is counted twice.",), LINES, (*LEFT, *RIGHT)))
    assert "Every page" in the(found, "page", "fail").cause
    assert not found.passed


def test_columns_that_are_read_across(tmp_path: Path) -> None:
    across = [f"{left} {right}" for left, right in zip(LEFT, RIGHT, strict=True)]
    the(found_with(tmp_path, engine=PrinterEngine(LINES, LINES, across)), "two columns", "fail")


def test_an_engine_that_hangs(tmp_path: Path) -> None:
    assert "too slow" in the(found_with(tmp_path, engine=HungEngine()), "page", "fail").cause


def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    class Broken(FakeEngine):
        def preload(self, languages: tuple[str, ...]) -> None:
            raise FailedToProcessError(f"The model {languages[0]} could not be loaded.")

    assert "eng" in the(found_with(tmp_path, engine=Broken()), "page", "fail").cause


def test_an_english_page_says_little_where_no_english_is_read(tmp_path: Path) -> None:
    found = found_with(tmp_path, engine=FakeEngine(installed=("rus",)))
    assert "rus" in the(found, "page", "warn").cause
    assert found.passed


def test_a_second_engine_that_is_required_and_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ocr_core.second_engine._PACKAGES", ("no_such_package",))
    assert "Core:SecondEngine" in the(found_with(tmp_path, second_engine="required"), "second engine", "fail").next_step
    assert "not installed" in the(found_with(tmp_path, second_engine="auto"), "second engine", "ok").cause


@pytest.mark.parametrize(("megabytes", "result"), [(600, "ok"), (500, "warn")])
def test_memory_that_large_pages_may_not_find(tmp_path: Path, megabytes: int, result: str) -> None:
    the(found_with(tmp_path, workers=2, memory_bytes=megabytes * 2**20), "workers", result)


def test_memory_that_is_not_known(tmp_path: Path) -> None:
    the(found_with(tmp_path, memory_bytes=None), "workers", "ok")


# ---- as a person sees it --------------------------------------------------------------------------------------------

CHECKS = (
    Check(name="page", result="ok", cause="read without a mistake"),
    Check(name="models", result="fail", cause="none " * 30, next_step="install " * 15),
)


def test_a_file_gets_one_line_for_each_cause_and_each_step() -> None:
    lines = list(rows(CHECKS, for_terminal=False))
    assert len(lines) == 3
    assert lines[0] == "  ok  page           read without a mistake"
    assert lines[2].startswith(" " * 21 + "→ install")
    assert "\33" not in "".join(lines)


def test_a_terminal_gets_lines_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = list(rows(CHECKS, for_terminal=True))
    assert len(lines) > 3
    assert max(len(line.replace("\33[31m", "").replace("\33[32m", "").replace("\33[0m", "")) for line in lines) <= 80
    assert all(line.startswith(("\33[32m  ok\33[0m", "\33[31mfail\33[0m", " " * 21)) for line in lines)
