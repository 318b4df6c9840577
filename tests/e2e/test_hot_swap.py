"""Licence files exchanged under load, as fast as a person never could: no request fails.

`HOT_SWAPS` sets how many (default 60; the long form is `make test-swaps`).
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections import Counter

from tests.e2e.site import Site, a_site
from tests.pages import as_png, printed_page

SWAPS = int(os.environ.get("HOT_SWAPS", "60"))
PAGE = as_png(printed_page(size=(600, 200)))


class Swapper:
    """Exchanges the licence file in one of the ways that files are exchanged, good and bad."""

    def __init__(self, site: Site, seed: int = 1) -> None:
        self._file = site.license_file
        self._random = random.Random(seed)
        self._good = [
            site.issue("--days", str(days), name=".made").rename(site.folder / f"{days}.dat").read_bytes()
            for days in range(40, 50)
        ]

    def swap(self) -> str:
        way = self._random.choice(
            ["rename", "rename", "in place", "slowly", "truncated", "garbage", "directory", "empty"]
        )
        blob = self._random.choice(self._good)
        self._clear()
        if way == "rename":
            beside = self._file.with_name(".incoming")
            beside.write_bytes(blob)
            beside.rename(self._file)
        elif way == "in place":
            self._file.write_bytes(blob)
        elif way == "slowly":
            with self._file.open("wb") as out:
                for at in range(0, len(blob), 400):
                    out.write(blob[at : at + 400])
                    out.flush()
                    time.sleep(0.005)
        elif way == "truncated":
            self._file.write_bytes(blob[: self._random.randrange(len(blob))])
        elif way == "garbage":
            self._file.write_bytes(self._random.randbytes(1000))
        elif way == "empty":
            self._file.write_bytes(b"")
        else:
            beside = self._file.with_name(".folder")
            beside.mkdir(exist_ok=True)
            self._file.unlink()
            beside.rename(self._file)
        return way

    def _clear(self) -> None:
        """A directory in the file's place goes first; the name is gone for a moment only."""
        if self._file.is_dir():
            self._file.rmdir()
            self._file.write_bytes(b"")


def test_swaps_under_load_fail_no_request() -> None:
    with a_site("Core:Workers=2") as site:
        swapper = Swapper(site)
        answers: Counter[int] = Counter()
        texts: list[str] = []
        stop = threading.Event()

        def client() -> None:
            while not stop.is_set():
                answer = site.sync(PAGE)
                answers[answer.status_code] += 1
                if answer.status_code != 200:
                    texts.append(answer.text)

        threads = [threading.Thread(target=client) for _ in range(3)]
        for thread in threads:
            thread.start()
        ways: Counter[str] = Counter()
        patience = time.monotonic() + 120
        while ways.total() < SWAPS or (answers[200] <= SWAPS // 10 and time.monotonic() < patience):
            ways[swapper.swap()] += 1
            time.sleep(random.uniform(0, 0.06))
        stop.set()
        for thread in threads:
            thread.join()
        failed = sum(answers.values()) - answers[200]
        sys.stdout.write(f"\n{ways.total()} swaps {dict(ways)}, {answers[200]} requests served, {failed} failed\n")
        assert set(answers) == {200}, texts[:3]
        assert answers[200] > SWAPS // 10
        assert site.settled_pages() == answers[200]
