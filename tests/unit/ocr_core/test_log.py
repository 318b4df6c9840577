"""The core's log: its form for people and for the journal."""

import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gunicorn.config import Config

from ocr_core import log


@pytest.fixture(autouse=True)
def the_log_as_it_was() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("ocr_core")
    before = root.handlers[:], root.level, own.level
    yield
    root.handlers[:], root.level, own.level = before


def written(
    patch: pytest.MonkeyPatch, stream: str, *, level: int = logging.INFO, error: Exception | None = None
) -> list[str]:
    screen = io.StringIO()
    patch.setattr(sys, "stderr", screen)
    log.configure(level, stream)
    told = logging.getLogger("ocr_core")
    told.debug("a detail")
    told.info("a fact")
    told.warning("worker %d was lost", 7)
    if error is not None:
        told.error("a fault", exc_info=error)
    logging.getLogger("PIL").debug("what stands in a document")
    return screen.getvalue().splitlines()


def own_stream() -> str:
    facts = os.fstat(2)
    return f"{facts.st_dev}:{facts.st_ino}"


def test_a_person_sees_time_and_level(monkeypatch: pytest.MonkeyPatch) -> None:
    fact, lost = written(monkeypatch, "")
    assert fact.endswith(" INFO ocr_core: a fact")
    assert lost.endswith(" WARNING ocr_core: worker 7 was lost")


def test_the_journal_gets_the_priority_of_each_line(monkeypatch: pytest.MonkeyPatch) -> None:
    fact, lost, fault, *more = written(monkeypatch, own_stream(), error=ValueError("why\nand how"))
    assert [fact, lost, fault] == ["<6>ocr_core: a fact", "<4>ocr_core: worker 7 was lost", "<3>ocr_core: a fault"]
    assert more[-2:] == ["<3>ValueError: why", "<3>and how"]


def test_a_stream_that_was_sent_elsewhere_is_for_people(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        facts = os.fstat(file.fileno())
        assert log.is_read_by_journal(f"{facts.st_dev}:{facts.st_ino}", file.fileno())
        assert not log.is_read_by_journal(own_stream(), file.fileno())
    assert "<" not in written(monkeypatch, "1:2")[0]


def test_details_are_told_of_us_and_never_of_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = written(monkeypatch, "", level=logging.DEBUG)
    assert [line.rpartition(": ")[2] for line in lines] == ["a detail", "a fact", "worker 7 was lost"]


def test_what_the_server_tells_goes_the_same_way_once(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    log.configure(logging.INFO, own_stream())
    settings = Config()
    settings.set("errorlog", None)
    log.ServerLogger(settings).error("Worker (pid:%s) was sent %s!", 7, "SIGKILL")
    assert screen.getvalue() == "<3>gunicorn.error: Worker (pid:7) was sent SIGKILL!\n"
