"""While hostile documents stream in, a normal page is answered nearly as fast as on an idle service; nobody is lost.

Only in the long form (HOSTILE=full): each storm is compared with the time just before it.
"""

import itertools
import os
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest
import requests

from tests import pages
from tests.e2e.site import Site, a_site, text_of, wait_until
from tests.fakes import hostile
from tests.fakes.hostile import damage

IS_LONG = os.environ.get("HOSTILE") == "full"
CALLERS = 4
SLOWER_AT_MOST = 2.0  # from the acceptance of the core
NAMES = (
    "png claims 65000 x 65000",
    "png, a million tiny chunks",
    "png, fewer rows than it says",
    "progressive jpeg of 3000 scans over 9900 x 9900",
    "jpeg, a megabyte of fill bytes",
    "jpeg, sampling factors of 0",
    "bmp, RLE8 of endless lines",
    "bmp, rows that are not there",
    "tiff, a page that is followed by itself",
    "tiff, a flood of tags",
    "tiff, strips without number",
    "pdf of one page 10000 times",
    "pdf, pages that hold themselves",
    "pdf, a stream of objects that is a bomb",
    "pdf, encrypted by itself",
    "text",
    "zeros",
)


FOREIGN = Path(__file__).parents[3] / "shared" / "hostile"
PAIRS = int(os.environ.get("STORM_PAIRS", "3"))
PAGES = 30  # in each phase


def made() -> list[bytes]:
    blobs = [sample.make() for sample in hostile.made() if sample.name in NAMES]
    assert len(blobs) == len(NAMES)
    return blobs + [sample.make() for sample in itertools.islice(damage.truncated(), 0, None, 40)]


def foreign() -> list[bytes]:
    return [path.read_bytes() for path in sorted(FOREIGN.glob("*")) if path.suffix != ".json"]


@pytest.mark.skipif(not IS_LONG, reason="needs a machine of its own; make test-hostile")
@pytest.mark.parametrize("documents", [made, foreign], ids=["made to be refused", "of others"])
def test_a_storm_of_hostile_documents_hardly_slows_a_normal_page(documents: Callable[[], list[bytes]]) -> None:
    page = pages.as_png(pages.printed_page(pages.LINES[:6], size=(1000, 500)))
    blobs = documents()
    if not blobs:
        pytest.skip("the shared corpus is not here")
    with a_site() as site:
        times(site, page, 6)
        blobs = [blob for blob in blobs if not has_text(site, blob)]
        workers = len(site.core_workers())
        idle, stormy, ratios, sent = list[float](), list[float](), list[float](), 0
        codes, failures = Counter[int](), list[str]()
        for _ in range(PAIRS):  # side by side, so that what else the machine does is in both
            alone = times(site, page, PAGES)
            with Storm(site, blobs) as storm:
                beside = times(site, page, PAGES)
            idle, stormy = idle + alone, stormy + beside
            ratios.append(statistics.median(beside) / statistics.median(alone))
            sent, codes, failures = sent + storm.sent, codes + storm.codes, failures + storm.failures
        ratio = statistics.median(stormy) / statistics.median(idle)
        slow = statistics.quantiles(stormy, n=20)[-1] / statistics.quantiles(idle, n=20)[-1]
        told = (
            f"{len(stormy)} pages during {sent} hostile documents ({len(blobs)} different ones): median "
            f"{statistics.median(idle):.3f} s alone, {statistics.median(stormy):.3f} s beside: {ratio:.2f} times "
            f"({', '.join(f'{one:.2f}' for one in ratios)}); 95 %: {slow:.2f} times; codes {dict(codes)}"
        )
        sys.stdout.write(told + "\n")
        assert not failures, told + str(failures[:3]) + site.log_text()[-3000:]
        assert sent > CALLERS * PAIRS
        assert ratio <= SLOWER_AT_MOST, told
        wait_until(lambda: len(site.core_workers()) == workers, 10, "a worker was lost for good")
        assert site.ready() == 200


def has_text(site: Site, blob: bytes) -> bool:
    """Whether words are found: then it is a page like any other, and reading it is load, whatever it was made for."""
    answer = site.sync(blob)
    return answer.status_code == 200 and bool(text_of(answer.json()))


def times(site: Site, page: bytes, count: int) -> list[float]:
    """How long one page after another took."""
    return [seconds_for(site, page) for _ in range(count)]


def seconds_for(site: Site, page: bytes) -> float:
    started = time.monotonic()
    answer = site.sync(page)
    assert answer.status_code == 200, answer.text
    return time.monotonic() - started


class Storm:
    """Callers that send one hostile document after another, each when the one before has been answered to its end."""

    def __init__(self, site: Site, blobs: list[bytes]) -> None:
        self.sent = 0
        self.codes = Counter[int]()
        self.failures: list[str] = []
        self._site, self._blobs, self._over, self._lock = site, blobs, threading.Event(), threading.Lock()
        self._callers = [threading.Thread(target=self._send, args=(number,)) for number in range(CALLERS)]

    def __enter__(self) -> Self:
        for caller in self._callers:
            caller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for caller in self._callers:
            caller.join()

    def _send(self, number: int) -> None:
        mine = self._blobs[number::CALLERS] + self._blobs
        with requests.Session() as session:
            for blob in itertools.cycle(mine):
                if self._over.is_set():
                    return
                answer = session.post(
                    f"{self._site.url}/vision/v3.2/read/syncAnalyze",
                    data=blob,
                    headers={"Content-Type": "application/octet-stream"},
                    timeout=60,
                )
                with self._lock:
                    self.sent += 1
                    self.codes[answer.status_code] += 1
                    if answer.status_code >= 500 and answer.status_code != 503:
                        self.failures.append(f"{answer.status_code} {answer.text[:200]}")
