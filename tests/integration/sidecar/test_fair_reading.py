"""Who is read when: pages of many operations, few inspections at once, and a document that kills what reads it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ocr_core.page_text import PageText
from sidecar.core_client import Document
from sidecar.errors import CoreBusyError, CoreUnavailableError, QueueFullError, SlowDocumentError
from sidecar.reading import ReadParameters
from tests.integration.sidecar.test_operations import HeldCore, House, wait_until


class TicketCore(HeldCore):
    """Reads one page for each ticket, and remembers in which order it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.tickets = threading.Semaphore(0)
        self.asked: list[tuple[str, int]] = []
        self.poison: set[int] = set()
        self.inspecting = self.most_inspecting = 0
        self._lock = threading.Lock()

    def inspect(self, operation_id: str, _rules: object, _language: object, **_asked: object) -> Document:
        with self._lock:
            self.inspecting += 1
            self.most_inspecting = max(self.most_inspecting, self.inspecting)
        time.sleep(0.02)
        with self._lock:
            self.inspecting -= 1
        return super().inspect(operation_id, _rules, _language)

    def recognize(self, operation_id: str, page: int, **_asked: object) -> PageText:
        with self._lock:
            self.asked.append((operation_id, page))
        if page in self.poison:
            raise CoreUnavailableError("the core gave up in the middle of a page, twice")
        assert self.tickets.acquire(timeout=20)
        return PageText(page=page, width=100, height=100, unit="pixel", angle=0.0, orientation=0)


@pytest.fixture
def core() -> TicketCore:
    return TicketCore()


@pytest.fixture
def house(tmp_path: Path, core: TicketCore) -> Iterator[House]:
    house = House(tmp_path)
    core.folder = tmp_path
    house.core = core
    yield house
    core.tickets.release(1000)
    house.close()


@pytest.mark.parametrize("workers", [1, 3])
def test_a_picture_waits_for_the_pages_in_progress_and_no_more_however_long_the_book(
    house: House, core: TicketCore, workers: int
) -> None:
    reader = house.reader(workers=workers)
    house.submit(reader, 300)
    core.tickets.release(20)
    wait_until(lambda: len(core.asked) == 20 + workers)
    for _ in range(3):
        then = len(core.asked) + 2
        picture = house.submit(reader, 1)
        core.tickets.release(2)
        wait_until(lambda then=then: len(core.asked) == then)
        assert (picture, 1) in core.asked[-2:]


def test_books_are_read_side_by_side(house: House, core: TicketCore) -> None:
    reader = house.reader()
    first = house.submit(reader, 100)
    wait_until(lambda: core.asked)
    second = house.submit(reader, 100)
    core.tickets.release(40)
    wait_until(lambda: len(core.asked) == 41)
    of_second = sum(operation == second for operation, _ in core.asked)
    assert 19 <= of_second <= 21
    assert [page for operation, page in core.asked if operation == first] == list(range(1, 42 - of_second))


def test_no_more_than_two_documents_are_looked_at_at_once(house: House, core: TicketCore) -> None:
    reader = house.reader()
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda _: house.submit(reader, 1), range(12)))
    assert core.most_inspecting == 2


class SlowCore(TicketCore):
    """Reads at once what is easy; whatever has two pages is slow, and is read when there is a ticket."""

    def __init__(self) -> None:
        super().__init__()
        self.slow_at: set[str] = set()
        self.patiently: list[tuple[str, int]] = []

    def inspect(self, operation_id: str, _rules: object, _language: object, *, patient: bool = True) -> Document:
        found = super().inspect(operation_id, _rules, _language)
        if found.pages == 2:
            self.slow_at.add(operation_id)
        return found

    def recognize(self, operation_id: str, page: int, *, patient: bool = True, **_asked: object) -> PageText:
        if operation_id in self.slow_at:
            if not patient:
                raise SlowDocumentError("takes long")
            self.patiently.append((operation_id, page))
            return super().recognize(operation_id, page)
        self.asked.append((operation_id, page))
        return PageText(page=page, width=100, height=100, unit="pixel", angle=0.0, orientation=0)


def test_slow_documents_leave_others_a_place_and_are_read_in_the_end(tmp_path: Path) -> None:
    house, core = House(tmp_path), SlowCore()
    house.core, core.folder = core, tmp_path
    reader = house.reader(workers=2)
    slow = [house.submit(reader, 2) for _ in range(5)]
    wait_until(lambda: core.patiently)
    for _ in range(10):
        picture = house.submit(reader, 1)
        wait_until(lambda picture=picture: reader.find(picture).status == "succeeded")
    assert len(core.patiently) == 1
    core.tickets.release(10)
    wait_until(lambda: all(reader.find(one).status == "succeeded" for one in slow))
    assert sorted(core.patiently) == sorted((one, page) for one in slow for page in (1, 2))
    house.close()


class SlowLookCore(TicketCore):
    """Whatever has three bytes or more takes long to look at, and is looked at when there is a ticket."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0
        self.busy_times = 0

    def inspect(self, operation_id: str, _rules: object, _language: object, *, patient: bool = True) -> Document:
        found = super().inspect(operation_id, _rules, _language)
        if found.pages < 3:
            return found
        if not patient:
            raise SlowDocumentError("takes long")
        self.looks += 1
        assert self.tickets.acquire(timeout=20)
        return found

    def recognize(self, operation_id: str, page: int, **_asked: object) -> PageText:
        self.asked.append((operation_id, page))
        if self.busy_times:
            self.busy_times -= 1
            raise CoreBusyError("no memory left")
        return PageText(page=page, width=100, height=100, unit="pixel", angle=0.0, orientation=0)


@pytest.fixture
def looked_at(tmp_path: Path) -> Iterator[tuple[House, SlowLookCore]]:
    house, core = House(tmp_path), SlowLookCore()
    house.core, core.folder = core, tmp_path
    yield house, core
    core.tickets.release(1000)
    house.close()


def test_documents_that_take_long_to_look_at_leave_others_a_place(looked_at: tuple[House, SlowLookCore]) -> None:
    house, core = looked_at
    reader = house.reader(workers=2)
    with ThreadPoolExecutor(5) as pool:
        slow = [pool.submit(house.submit, reader, 3) for _ in range(5)]
        wait_until(lambda: core.looks)
        for _ in range(10):
            picture = house.submit(reader, 1)
            wait_until(lambda picture=picture: reader.find(picture).status == "succeeded")
        assert core.looks == 1
        core.tickets.release(5)
        for one in slow:
            operation = one.result()
            wait_until(lambda operation=operation: reader.find(operation).status == "succeeded")


def test_a_look_that_takes_long_is_not_waited_for_at_the_end(looked_at: tuple[House, SlowLookCore]) -> None:
    house, core = looked_at
    reader = house.reader(workers=2)
    with ThreadPoolExecutor(3) as pool:
        slow = [pool.submit(house.submit, reader, 3) for _ in range(3)]
        wait_until(lambda: core.looks and core.inspecting == 0)
        time.sleep(0.2)
        reader.stop()
        wait_until(lambda: sum(one.done() for one in slow) == 2)
        over, at_work = futures.wait(slow, timeout=0)
        assert len(at_work) == 1
        assert all(isinstance(one.exception(), QueueFullError) for one in over)
        core.tickets.release(5)


def test_a_document_that_the_core_has_nothing_left_for_is_come_back_to(looked_at: tuple[House, SlowLookCore]) -> None:
    house, core = looked_at
    reader = house.reader()
    core.busy_times = 1
    operation = house.submit(reader, 1)
    wait_until(lambda: reader.find(operation).status == "succeeded")
    assert core.asked == [(operation, 1)] * 2
    core.busy_times = 1
    with pytest.raises(CoreBusyError):
        reader.read_now([b"x"], ReadParameters(), house.standing)


def test_a_book_whose_every_page_kills_costs_no_more_than_the_pages_in_progress(house: House, core: TicketCore) -> None:
    core.poison = set(range(1, 501))
    reader = house.reader(workers=2)
    book = house.submit(reader, 500)
    wait_until(lambda: reader.find(book).status == "failed")
    assert len(core.asked) <= 2
    core.poison = set()
    picture = house.submit(reader, 1)
    core.tickets.release()
    wait_until(lambda: reader.find(picture).status == "succeeded")
