"""A picture beside a book of many pages, through the whole service.

`FAIRNESS=full` takes a book of 2,000 pages, two web processes, and prints the times.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator

import pytest

from tests import pages
from tests.e2e.site import Site, a_site, text_of, wait_until

FULL = os.environ.get("FAIRNESS") == "full"
BOOK_PAGES = 2000 if FULL else 60
PICTURES = 20 if FULL else 3
WEB_PROCESSES = 2 if FULL else 1
WORKERS = 2
LINE = pages.LINES[1]


@pytest.fixture
def site() -> Iterator[Site]:
    with a_site(f"Core:Workers={WORKERS}", f"Sidecar:WebWorkers={WEB_PROCESSES}") as site:
        yield site


def pages_read(site: Site, location: str) -> int:
    operation = location.rstrip("/").rpartition("/")[2]
    return len(list((site.folder / "share").glob(f"operations/{operation}/pages/*.json")))


def test_a_picture_beside_a_book_waits_for_the_pages_in_progress_alone(site: Site) -> None:
    picture = pages.as_png(pages.printed_page([LINE], size=(1240, 300)))
    idle = []
    for _ in range(PICTURES):
        began = time.monotonic()
        assert text_of(site.sync(picture).json()) == LINE
        idle.append(time.monotonic() - began)
    book = site.submit(pages.digital_pdf([pages.LINES[:4]] * BOOK_PAGES))
    wait_until(lambda: pages_read(site, book) >= 2 * WORKERS, 60, "the book is not read")
    beside, passed = [], []
    for _ in range(PICTURES):
        before, began = pages_read(site, book), time.monotonic()
        assert text_of(site.sync(picture).json()) == LINE
        beside.append(time.monotonic() - began)
        passed.append(pages_read(site, book) - before)
    if FULL:
        told = f"\npicture alone {statistics.median(idle):.3f} s; beside the book {statistics.median(beside):.3f} s"
        print(f"{told}, while {sorted(passed)} pages of it were read")  # noqa: T201
    # Those in progress when it came and when it was taken up, and one for each other worker while it is read.
    assert statistics.median(passed) <= 3 * WORKERS
    assert pages_read(site, book) < BOOK_PAGES, "the book was over before the last picture came"
