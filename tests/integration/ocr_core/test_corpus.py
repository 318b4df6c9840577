"""Real pages and hostile files from beside the project, where they are."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import pages
from tests.integration.ocr_core.running_core import RunningCore

SHARED = Path(__file__).parents[4] / "shared"
CORPUS = SHARED / "corpus"
HOSTILE = SHARED / "hostile"
ANSWER_SECONDS = 10
WIDEST = {"formats": ["jpeg", "png", "bmp", "tiff", "pdf", "gif", "webp", "ico"], "max_side": 15_999}
CODES = {"InvalidImage", "UnsupportedImageFormat", "InvalidImageDimension", "InvalidImageSize", "InvalidPageRange"}

PRINTED = {
    "test-phototest.tif": 0.005,
    "fondue-en-prin-05dracula.pdf_page_52.png": 0.01,
    "fondue-en-prin-Turn_Screw.pdf_page_86.png": 0.01,
    "old-books-data-e021.tif": 0.01,
    "cognitive-serv-MultiLingual.png": 0.06,
    "test-phototest-rotated-180.png": 0.005,
    "test-phototest-rotated-R.png": 0.005,
    "test-phototestrot.tif": 0.005,
    "tesseract-scewed-phototest.png": 0.01,
    "docling-ocr_test_rotated_90.pdf": 0.01,
    "amazon-textrac-Amazon-Textract-Pdf.pdf": 0.02,
}


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus is not here")
@pytest.mark.parametrize("name", PRINTED)
def test_a_real_page_reads_as_well_as_it_did(core: RunningCore, name: str) -> None:
    document = core.put_document((CORPUS / name).read_bytes())
    truth = (CORPUS / f"{name}.gt.txt").read_text(encoding="utf-8")
    status, told = core.inspect(document)
    assert status == 200
    lines = []
    for page in range(1, int(str(told["pages"])) + 1):
        status, read = core.page(document, page, reading_order="natural")
        assert status == 200
        lines += [line["text"] for line in read["lines"]]  # type: ignore[attr-defined]
    assert pages.character_error_rate(truth, "\n".join(lines)) < PRINTED[name]


def hostile_files() -> Iterator[tuple[str, str]]:
    if HOSTILE.is_dir():
        for entry in json.loads((HOSTILE / "manifest.json").read_text()):
            yield entry["file"], entry["expected"]


@pytest.mark.skipif(not HOSTILE.is_dir(), reason="the hostile files are not here")
@pytest.mark.parametrize(("name", "expected"), list(hostile_files()))
def test_a_hostile_file_is_answered_in_time_with_its_code(core: RunningCore, name: str, expected: str) -> None:
    workers = {worker.pid for worker in core.workers()}
    document = core.put_document((HOSTILE / name).read_bytes())
    answers = []
    for ask in (lambda: core.inspect(document), lambda: core.page(document), lambda: core.inspect(document, **WIDEST)):
        started = time.monotonic()
        answers.append(ask())
        assert time.monotonic() - started < ANSWER_SECONDS
    for status, told in answers:
        if status != 200:
            assert status == 400, told
            assert told["error"]["code"] in CODES  # type: ignore[index]
    statuses = [status for status, _ in answers]
    if expected == "reject":
        assert statuses[0] == 400
    elif expected == "decodable":
        assert statuses == [200, 200, 200]
    assert {worker.pid for worker in core.workers()} == workers
