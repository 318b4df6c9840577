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

from tests.e2e.site import Site, a_site, wait_until
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


def test_what_one_process_tells_to_be_ready_no_other_refuses() -> None:
    """Each web process decides for itself; once any has said "ready", a query is served by all of them."""
    with a_site("Sidecar:WebWorkers=4") as site:
        refused = refusals(site)
        for _ in range(3):
            site.license_file.unlink()
            wait_until(lambda: len(refusals(site)) == 12, 20, "queries without a licence are not refused by all")
            site.issue("--days", "90")
            wait_until(lambda: site.ready() == 200, 20, "not ready with a new licence")
            refused += refusals(site)
    assert not refused


def refusals(site: Site, documents: int = 12) -> list[str]:
    """What is said to those of so many documents that are not taken."""
    answers = [site.post(PAGE) for _ in range(documents)]
    return [answer.text for answer in answers if answer.status_code != 202]


def test_another_licence_takes_over_when_one_is_used_up() -> None:
    """The longest one is taken first; when its pages are used, the file beside it serves, also in the records."""
    with a_site("Sidecar:WebWorkers=2", issue=granting("first", 1, "--days", "90", "--pages-hard", "3")) as site:
        site.issue(*granting("second", 1, "--days", "30"), name="second.dat")
        serve(site, 3)
        wait_until(lambda: site.status()["license"]["id"] == "second", 5, "the second licence is not in force")
        serve(site, 3)
        next_steps = {one["file"]: one["nextStep"] for one in site.status()["licenseFiles"]}
        assert next_steps["license.dat"] == "No action needed: another licence serves."
        assert order_of_entries(site) == ["first 1", *["page"] * 3, "second 1", *["page"] * 3]


def test_no_page_is_counted_ahead_of_the_licence_that_grants_it() -> None:
    """A used-up licence is exchanged under a client that never rests: the entry for the next comes first."""
    with a_site("Sidecar:WebWorkers=2", issue=granting("one", 1, "--days", "90", "--pages-hard", "2")) as site:
        for sequence in range(2, 7):
            serve(site, 2)
            assert site.sync(PAGE).status_code in {403, 503}
            site.issue(*granting("one", sequence, "--days", "90", "--pages-hard", str(2 * sequence)))
        serve(site, 2)
        assert order_of_entries(site) == [
            entry for sequence in range(1, 7) for entry in (f"one {sequence}", "page", "page")
        ]


def granting(license_id: str, sequence: int, *options: str) -> tuple[str, ...]:
    return ("--license-id", license_id, "--sequence", str(sequence), *options)


def serve(site: Site, pages: int) -> None:
    """Ask without a rest until so many pages were served."""
    answers: Counter[int] = Counter()
    until = time.monotonic() + 20
    while answers[200] < pages and time.monotonic() < until:
        answers[site.sync(PAGE).status_code] += 1
    assert answers[200] == pages, answers
    assert set(answers) <= {200, 403, 503}, answers


def order_of_entries(site: Site) -> list[str]:
    """The licences and pages in the records, in the order of the ledger; the service is stopped for it."""
    assert site.stop() == 0
    return [
        "page" if line["kind"] == "use" else f"{line['license_id']} {line['sequence']}"
        for line in site.record_lines()
        if line["kind"] == "use" or (line["kind"] == "license" and line["in_force"])
    ]
