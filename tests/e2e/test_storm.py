"""While hostile documents stream in, a normal page is answered nearly as fast as on an idle service; nobody is lost.

Only in the long form (HOSTILE=full): the storm is compared with the idle times before and after it.
"""

import itertools
import os
import statistics
import sys
import threading
import time

import pytest
import requests

from tests import pages
from tests.e2e.site import Site, a_site
from tests.fakes import hostile
from tests.fakes.hostile import damage

IS_LONG = os.environ.get("HOSTILE") == "full"
SECONDS = float(os.environ.get("STORM_SECONDS", "20"))
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


@pytest.mark.skipif(not IS_LONG, reason="needs a machine of its own; make test-hostile")
def test_a_storm_of_hostile_documents_hardly_slows_a_normal_page() -> None:
    page = pages.as_png(pages.printed_page(pages.LINES[:6], size=(1000, 500)))
    blobs = [sample.make() for sample in hostile.made() if sample.name in NAMES]
    assert len(blobs) == len(NAMES)
    blobs += [sample.make() for sample in itertools.islice(damage.truncated(), 0, None, 40)]
    with a_site() as site:
        for _ in range(4):
            seconds_for(site, page)
        workers = len(site.core_workers())
        before = times(site, page, SECONDS / 3)
        storm = Storm(site, blobs)
        during = times(site, page, SECONDS)
        storm.stop()
        after = times(site, page, SECONDS / 3)
        idle = before + after
        ratio = statistics.median(during) / statistics.median(idle)
        slow = statistics.quantiles(during, n=20)[-1] / statistics.quantiles(idle, n=20)[-1]
        told = (
            f"{len(during)} pages during {storm.sent} hostile documents ({storm.sent / SECONDS:.0f}/s): median "
            f"{statistics.median(during):.3f} s, {ratio:.2f} x idle; 95 %: {slow:.2f} x idle; codes {storm.codes}"
        )
        sys.stdout.write(told + "\n")
        assert not storm.failures, told + str(storm.failures[:3]) + site.log_text()[-3000:]
        assert storm.sent > CALLERS
        assert ratio <= SLOWER_AT_MOST, told
        assert len(site.core_workers()) == workers
        assert site.ready() == 200


def times(site: Site, page: bytes, seconds: float) -> list[float]:
    """How long one page after another took."""
    until, found = time.monotonic() + seconds, []
    while time.monotonic() < until or len(found) < 8:
        found.append(seconds_for(site, page))
    return found


def seconds_for(site: Site, page: bytes) -> float:
    started = time.monotonic()
    assert site.sync(page).status_code == 200
    return time.monotonic() - started


class Storm:
    """Callers that send one hostile document after another, each when the one before has been answered to its end."""

    def __init__(self, site: Site, blobs: list[bytes]) -> None:
        self.sent = 0
        self.codes: dict[int, int] = {}
        self.failures: list[str] = []
        self._site, self._blobs, self._over, self._lock = site, blobs, threading.Event(), threading.Lock()
        self._callers = [threading.Thread(target=self._send, args=(number,)) for number in range(CALLERS)]
        for caller in self._callers:
            caller.start()

    def stop(self) -> None:
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
                    self.codes[answer.status_code] = self.codes.get(answer.status_code, 0) + 1
                    if answer.status_code >= 500 and answer.status_code != 503:
                        self.failures.append(f"{answer.status_code} {answer.text[:200]}")
