"""Hostile documents at the HTTP API: a code or a result, never a failure, and nothing counted in vain."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests import pages
from tests.e2e.site import Site
from tests.fakes import hostile

NAMES = (
    "png claims 65000 x 65000",
    "png, fewer rows than it says",
    "jpeg, sampling factors of 0",
    "bmp, rows that are not there",
    "tiff, a page that is followed by itself",
    "tiff, strips without number",
    "pdf of one page 10000 times",
    "pdf, pages that hold themselves",
    "text",
)
TRIES = 6


@pytest.mark.parametrize("path", ["/vision/v3.2/read/analyze", "/vision/v3.2/read/syncAnalyze", "/vision/v3.2/ocr"])
def test_nothing_is_counted_that_was_refused_and_nothing_fails(service: Site, path: str) -> None:
    good = pages.as_png(pages.printed_page(pages.LINES[:2], size=(900, 300)))
    blobs = [sample.make() for sample in hostile.made() if sample.name in NAMES]
    assert len(blobs) == len(NAMES)
    blobs += [sample.make() for sample in hostile.quick(12)] + [good]
    before = counted(service)
    with ThreadPoolExecutor(2) as callers:
        read = sum(callers.map(lambda blob: pages_read(service, path, blob), blobs))
    assert read >= 1
    assert counted(service) == before + read
    assert service.sync(good).status_code == 200


def test_a_document_that_never_ends_is_refused_at_once_and_not_tried_again(service: Site) -> None:
    (endless,) = (sample for sample in hostile.made() if sample.name == "pdf, a form that draws itself")
    before = counted(service)
    answer = sent(service, "/vision/v3.2/read/syncAnalyze", endless.make())
    assert answer.status_code == 400, answer.text
    assert "InvalidImage" in answer.text
    assert counted(service) == before


def counted(service: Site) -> int:
    """What all meters count, once nothing is being read."""
    service.settled_pages()
    return sum(meter["quantity"] for meter in service.get("/records/usage-logs/").json()["meters"])


def sent(service: Site, path: str, blob: bytes) -> requests.Response:
    """The answer to a document; sent again, as clients do, while the machine is too busy for a verdict on it."""
    headers = {"Content-Type": "application/octet-stream"}
    for _ in range(TRIES):
        answer = requests.post(service.url + path, data=blob, headers=headers, timeout=120)
        if "Retry-After" not in answer.headers:
            break
        time.sleep(int(answer.headers["Retry-After"]))
    return answer


def pages_read(service: Site, path: str, blob: bytes) -> int:
    """How many pages of a document were read, which is what may be counted."""
    answer = sent(service, path, blob)
    assert answer.status_code < 500, (answer.status_code, answer.text)
    if answer.status_code == 202:
        result = service.result(answer.headers["Operation-Location"])
        return len(result["analyzeResult"]["readResults"]) if result["status"] == "succeeded" else 0
    if answer.status_code != 200:
        assert answer.json()
        return 0
    return len(answer.json().get("analyzeResult", {}).get("readResults", ["one"]))
