"""kill -9 of each process in the middle of its work: nothing lost, nothing doubled."""

from __future__ import annotations

import threading
import time

import psutil
import pytest
import requests

from tests.e2e.site import Site, a_site, a_site_on_a_small_disk, text_of, wait_until
from tests.fakes.disks import fill
from tests.pages import LINES, as_pdf, as_png, character_error_rate, printed_page

# Dense enough that a page takes a good part of a second: there is a middle to be killed in.
DENSE = printed_page(LINES * 3, size=(1654, 2339), dpi=200, points=9)
BOOK_PAGES = 4
BOOK = as_pdf([DENSE] * BOOK_PAGES)
SMALL = as_png(printed_page(LINES[:2], size=(900, 300)))


def busy_worker(site: Site) -> psutil.Process:
    """A core worker that is at work now, however small a share of the processor it gets."""
    found: list[psutil.Process] = []
    began = {process.pid: process.cpu_times().user for process in site.core_workers()}

    def look() -> bool:
        for process in site.core_workers():
            used = process.cpu_times().user
            if used - began.setdefault(process.pid, used) > 0.05:
                found.append(process)
                return True
        return False

    wait_until(look, 30, "no worker is busy")
    return found[0]


def test_core_worker_killed_in_the_middle_of_a_page() -> None:
    with a_site() as site:
        answers: list[requests.Response] = []
        thread = threading.Thread(target=lambda: answers.append(site.sync(as_png(DENSE))))
        thread.start()
        busy_worker(site).kill()
        thread.join(60)
        assert answers[0].status_code == 200
        assert character_error_rate(DENSE.text, text_of(answers[0].json())) < 0.02
        assert site.pages() == 1
        assert site.ready() == 200
        site.stop()
        assert len(site.recorded_uses()) == 1


def test_whole_core_killed_in_the_middle_of_a_document() -> None:
    with a_site() as site:
        location = site.submit(BOOK)
        busy_worker(site)
        for process in site.processes("core"):
            process.kill()
        result = site.result(location, 90)
        assert result["status"] == "succeeded"
        assert len(result["analyzeResult"]["readResults"]) == BOOK_PAGES
        assert site.pages() == BOOK_PAGES


@pytest.mark.parametrize("whole", [False, True], ids=["worker", "with-master"])
def test_web_killed_in_the_middle_of_a_document(whole: bool) -> None:
    with a_site() as site:
        location = site.submit(BOOK)
        done = site.folder / "share" / "operations" / location[-36:] / "pages"
        wait_until(lambda: len(list(done.glob("*.json"))) >= 2, 30, "no page was read")
        assert not (done.parent / "outcome.json").exists()
        for process in site.processes("web")[0 if whole else 1 :]:
            process.kill()
        site.wait_ready()
        result = site.result(location, 90)
        assert result["status"] == "succeeded"
        assert [page["page"] for page in result["analyzeResult"]["readResults"]] == list(range(1, BOOK_PAGES + 1))
        assert site.pages() == BOOK_PAGES
        site.stop()
        uses = site.recorded_uses()
        assert len(uses) == len(set(uses)) == BOOK_PAGES


def test_everything_killed_in_the_middle_of_a_document() -> None:
    with a_site() as site:
        location = site.submit(BOOK)
        done = site.folder / "share" / "operations" / location[-36:] / "pages"
        wait_until(lambda: len(list(done.glob("*.json"))) >= 2, 30, "no page was read")
        site.crash()
        site.start()
        assert site.result(location, 90)["status"] == "succeeded"
        assert site.pages() == BOOK_PAGES
        site.stop()
        assert len(set(site.recorded_uses())) == len(site.recorded_uses()) == BOOK_PAGES


def test_meter_killed_is_started_again_and_its_window_closed_late() -> None:
    with a_site() as site:
        site.sync(SMALL)
        (meter,) = site.processes("meter")
        meter.kill()
        wait_until(
            lambda: [process.pid for process in site.processes("meter")] not in ([], [meter.pid]), 5, "not restarted"
        )
        wait_until(lambda: len(site.recorded_uses()) == 1, 5, "the window was lost")
        site.wait_ready(5)
        assert site.sync(SMALL).status_code == 200
        assert site.pages() == 2
        site.stop()
        assert len(set(site.recorded_uses())) == 2


def test_web_killed_again_and_again_under_load_keeps_the_count_exact() -> None:
    """What clients saw succeed is counted, once; the ledger has nothing that was not read."""
    with a_site() as site:
        locations: list[str] = []
        stop = threading.Event()

        def client() -> None:
            while not stop.is_set():
                try:
                    locations.append(site.submit(SMALL))
                except (requests.RequestException, AssertionError):
                    stop.wait(0.1)

        threads = [threading.Thread(target=client) for _ in range(3)]
        for thread in threads:
            thread.start()
        kills, patience = 0, time.monotonic() + 120
        while kills < 4 or (len(locations) <= 10 and time.monotonic() < patience):
            stop.wait(1.0)
            if kills < 4 and (workers := site.processes("web")[1:]):
                workers[0].kill()
                kills += 1
        stop.set()
        for thread in threads:
            thread.join()
        site.wait_ready()
        assert len(locations) > 10
        for location in locations:
            assert site.result(location, 90)["status"] == "succeeded"
        assert site.settled_pages() >= len(locations)
        site.stop()
        uses = site.recorded_uses()
        assert len(uses) == len(set(uses))
        counted = {operation for operation, _ in uses}
        assert {location[-36:] for location in locations} <= counted


def test_launcher_killed_takes_its_children_along() -> None:
    with a_site() as site:
        family = site.processes()
        family[0].kill()
        _, alive = psutil.wait_procs(family, timeout=15)
        assert alive == []


def test_no_child_is_left_after_stop() -> None:
    with a_site() as site:
        family = site.processes()
        assert len(family) >= 6
        assert site.stop() == 0
        _, alive = psutil.wait_procs(family, timeout=15)
        assert alive == []


def test_full_state_disk_refuses_new_work_and_loses_nothing() -> None:
    """A real small file system that fills up: nothing is shown that was not counted, and room heals everything."""
    with a_site_on_a_small_disk("state", "20m") as site:
        state = site.folder / "state"
        assert site.sync(SMALL).status_code == 200
        filler = fill(state)
        served = 1
        for _ in range(40):
            answer = site.post(SMALL)
            if answer.status_code != 202:
                break
            served += 1
            time.sleep(0.2)
        assert answer.status_code == 503
        assert site.status()["state"] == "LEDGER_UNAVAILABLE"
        assert str(state) in site.status()["reason"]
        filler.unlink()
        site.wait_ready(10)
        assert site.settled_pages() == served
        site.stop()
        assert len(set(site.recorded_uses())) == len(site.recorded_uses()) == served
