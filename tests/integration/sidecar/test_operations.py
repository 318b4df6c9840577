"""Operations over several web processes and restarts: the queue, the page limit, and how long results are kept."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from licenses.durable import write_file
from licenses.model import READ_PAGES_METER
from ocr_core.page_text import PageText
from sidecar import reading, results
from sidecar.admission import NotServingError, Standing
from sidecar.core_client import Document
from sidecar.errors import (
    CoreDownError,
    CoreTimeoutError,
    DocumentRefusedError,
    LedgerUnavailableError,
    OperationNotFoundError,
    QueueFullError,
    SidecarError,
    SpoolUnavailableError,
)
from sidecar.ledger import Ledger, UseEvent, prepare
from sidecar.reading import Reader, ReadParameters
from sidecar.results import Operation, OperationStore, ReadRequest
from tests.fakes.clock import FakeClock
from tests.fakes.licences import a_license

HOUR = 3600


class HeldCore:
    """A core that finds as many pages as the document has bytes, and reads none before it is let."""

    def __init__(self) -> None:
        self.may_read = threading.Event()
        self.folder = Path()
        self.busy = False
        self.refusal: SidecarError | None = None

    def inspect(self, operation_id: str, _rules: object, _language: object, **_asked: object) -> Document:
        if self.busy:
            raise CoreTimeoutError("no answer within 10 s")
        size = (self.folder / "operations" / operation_id / "document").stat().st_size
        return Document(format="pdf", pages=size)

    def recognize(self, _operation_id: str, page: int, **_asked: object) -> PageText:
        self.may_read.wait(20)
        if self.refusal is not None:
            raise self.refusal
        return self.page(page)

    @staticmethod
    def page(page: int) -> PageText:
        return PageText(page=page, width=100, height=100, unit="pixel", angle=0.0, orientation=0)


class OpenGate:
    """A decision as of this moment."""

    def __init__(self, house: House, ledger: Ledger) -> None:
        self._house = house
        self._ledger = ledger

    def refresh(self) -> Standing:
        return self._house.standing

    @property
    def standing(self) -> Any:
        return SimpleNamespace(ledger=self._ledger.snapshot(READ_PAGES_METER))


class BrokenLedger(Ledger):
    """A ledger on a disk that takes nothing."""

    def record_use(self, events: Iterable[UseEvent]) -> int:
        raise LedgerUnavailableError(f"{len(list(events))} pages cannot be counted: disk I/O error")


class House:
    """One state directory and one spool, with as many web processes' readers as a test asks for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.core = HeldCore()
        self.core.folder = folder
        self.standing = cast("Standing", SimpleNamespace(license=None))
        self._open: list[Callable[[], None]] = []
        prepare(folder / "ledger.db")

    def store(self, *, result_seconds: int = 48 * HOUR) -> OperationStore:
        store = OperationStore(self.folder, result_seconds=result_seconds)
        store.prepare()
        return store

    def reader(
        self,
        *,
        max_queued: int = 100,
        result_seconds: int = 48 * HOUR,
        workers: int = 1,
        max_running_seconds: float = HOUR,
        ledger_type: type[Ledger] = Ledger,
    ) -> Reader:
        ledger = ledger_type(self.folder / "ledger.db", clock=self.clock, instance="c0ffee123456", version="0")
        reader = Reader(
            store=self.store(result_seconds=result_seconds),
            core=cast("Any", self.core),
            ledger=ledger,
            admission=cast("Any", OpenGate(self, ledger)),
            clock=self.clock,
            max_running_seconds=max_running_seconds,
            max_queued=max_queued,
            max_document_bytes=1000,
        )
        reader.start()
        reader.widen(workers)
        self._open += [reader.stop, ledger.close]
        return reader

    def limit(self, pages: int) -> None:
        """A licence with a hard limit comes into force."""
        self.standing = cast("Standing", SimpleNamespace(license=a_license(page_limit=pages)))

    def count(self, request: ReadRequest) -> None:
        ledger = Ledger(self.folder / "ledger.db", clock=self.clock, instance="c0ffee123456", version="0")
        try:
            ledger.record_use(
                UseEvent(
                    operation_id=request.operation_id,
                    page=page,
                    meter=READ_PAGES_METER,
                    license_id=request.license_id,
                )
                for page in request.pages
            )
        finally:
            ledger.close()

    def pages(self) -> int:
        ledger = Ledger(self.folder / "ledger.db", clock=self.clock, instance="c0ffee123456", version="0")
        try:
            return ledger.snapshot(READ_PAGES_METER).license_pages.get(a_license().license_id, 0)
        finally:
            ledger.close()

    def submit(self, reader: Reader, pages: int, **asked: Any) -> str:
        return reader.submit(iter([bytes(pages)]), ReadParameters(**asked), self.standing)

    def close(self) -> None:
        self.core.may_read.set()
        for stop in self._open:
            stop()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def wait_until(holds: Callable[[], object]) -> None:
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


# ---- the page limit -------------------------------------------------------------------------------------------------


def test_processes_agree_on_the_pages_left(house: House) -> None:
    house.limit(5)
    one, other = house.reader(), house.reader()
    house.submit(one, 3)
    with pytest.raises(NotServingError, match="3 pages are asked for, and 2 of 5 are left"):
        house.submit(other, 3)
    house.submit(other, 1)
    with pytest.raises(NotServingError, match="2 pages are asked for, and 1 of 5 is left"):
        house.submit(other, 2)
    house.submit(other, 1)
    with pytest.raises(NotServingError, match="1 page is asked for, and 0 of 5 are left"):
        house.submit(other, 1)
    house.core.may_read.set()
    wait_until(lambda: house.pages() == 5)


def test_many_processes_at_once_never_overshoot(house: House) -> None:
    house.limit(10)
    house.core.may_read.set()
    readers = [house.reader() for _ in range(4)]
    taken: list[str] = []

    def client(reader: Reader) -> None:
        for _ in range(6):
            try:
                taken.append(house.submit(reader, 1))
            except NotServingError:
                time.sleep(0.005)

    threads = [threading.Thread(target=client, args=(reader,)) for reader in readers for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) <= 10
    wait_until(lambda: house.pages() == len(taken))
    wait_until(lambda: readers[0].waiting_operations == 0)
    while len(taken) < 10:
        taken.append(house.submit(readers[0], 1))  # what was refused for a moment is there in the end
        wait_until(lambda: readers[0].waiting_operations == 0)
    with pytest.raises(NotServingError):
        house.submit(readers[0], 1)
    wait_until(lambda: house.pages() == 10)


@pytest.mark.parametrize("left", ["nothing", "its first name", "all"])
def test_pages_of_what_a_dead_process_left_are_spoken_for(house: House, left: str) -> None:
    house.limit(5)
    gone = house.store()
    request = ReadRequest(
        operation_id=str(uuid.uuid4()),
        created_ns=house.clock.wall_ns,
        pages=(1, 2, 3),
        language=None,
        reading_order="basic",
        license_id=a_license().license_id,
        synchronous=False,
        result_seconds=HOUR,
    )
    place = gone.enter(request.operation_id)
    gone.receive(request.operation_id, [bytes(3)], max_bytes=10)
    if left == "all":
        gone.reserve(place, request)
    gone.accept(request)
    os.close(place.handle)  # killed; and a power cut may take the place, or its name
    if left == "nothing":
        place.path.unlink()
    (house.folder / "unfinished" / "rubbish").write_text("")

    reader = house.reader()
    with pytest.raises(NotServingError, match="2 of 5 are left"):
        house.submit(reader, 3)
    house.core.may_read.set()
    wait_until(lambda: reader.find(request.operation_id).status == "succeeded")
    assert house.pages() == 3
    wait_until(lambda: reader.waiting_operations == 0)


@pytest.mark.parametrize("was_counted", [False, True])
def test_a_result_that_a_kill_left_without_an_outcome_is_counted_once(house: House, was_counted: bool) -> None:
    house.limit(5)
    gone = house.store()
    request = ReadRequest(
        operation_id=str(uuid.uuid4()),
        created_ns=house.clock.wall_ns,
        pages=(1, 2),
        language=None,
        reading_order="basic",
        license_id=a_license().license_id,
        synchronous=False,
        result_seconds=HOUR,
    )
    place = gone.enter(request.operation_id)
    gone.receive(request.operation_id, [bytes(2)], max_bytes=10)
    gone.reserve(place, request)
    gone.accept(request)
    gone.begin(request.operation_id)
    for page in request.pages:
        gone.put_page(request.operation_id, house.core.page(page))
    gone.put_result(request.operation_id, request.pages)
    os.close(place.handle)
    assert gone.get(request.operation_id, now_ns=house.clock.wall_ns).status == "running"
    if was_counted:
        house.count(request)

    reader = house.reader()  # the core reads nothing, for all of it was read
    wait_until(lambda: reader.find(request.operation_id).status == "succeeded")
    assert [page.page for page in reader.find(request.operation_id).pages] == [1, 2]
    assert house.pages() == 2


@pytest.mark.parametrize("left", [b"", b'{"page": 2, "li'])
def test_a_page_that_a_power_cut_tore_is_read_again(house: House, left: bytes) -> None:
    store = house.store()
    operation_id = str(uuid.uuid4())
    store.receive(operation_id, [b"x"], max_bytes=10)
    store.begin(operation_id)
    for page in (1, 2):
        store.put_page(operation_id, house.core.page(page))
    (house.folder / "operations" / operation_id / "pages" / "2.json").write_bytes(left)
    assert [store.has_page(operation_id, page) for page in (1, 2, 3)] == [True, False, False]
    store.put_page(operation_id, house.core.page(2))
    assert store.has_page(operation_id, 2)


def test_a_failure_leaves_no_result(house: House) -> None:
    store = house.store()
    operation_id = str(uuid.uuid4())
    store.receive(operation_id, [b"x"], max_bytes=10)
    store.begin(operation_id)
    store.put_page(operation_id, house.core.page(1))
    store.put_result(operation_id, [1])
    store.finish(operation_id, finished_ns=1, result_seconds=HOUR, errors=[("StorageException", "no")])
    assert [path.name for path in (house.folder / "operations" / operation_id).iterdir()] == ["outcome.json"]


def test_failed_and_broken_off_documents_give_their_pages_back(house: House) -> None:
    house.limit(2)
    reader = house.reader()

    def broken() -> Iterator[bytes]:
        yield b"x"
        raise DocumentRefusedError("BadArgument", "the client went away")

    for _ in range(3):
        with pytest.raises(DocumentRefusedError):
            reader.submit(broken(), ReadParameters(), house.standing)
        with pytest.raises(NotServingError):
            house.submit(reader, 3)
    assert reader.waiting_operations == 0
    house.submit(reader, 2)


# ---- the queue ------------------------------------------------------------------------------------------------------


def test_the_queue_is_one_over_all_processes(house: House) -> None:
    one, other = house.reader(max_queued=3), house.reader(max_queued=3)
    house.submit(one, 1)
    house.submit(one, 1)
    house.submit(other, 1)
    for reader in (one, other):
        assert reader.waiting_operations == 3
        with pytest.raises(QueueFullError):
            house.submit(reader, 1)
    house.core.may_read.set()
    wait_until(lambda: one.waiting_operations == 0)
    house.submit(other, 1)


def test_a_busy_core_is_not_the_documents_fault(house: House) -> None:
    reader = house.reader()
    house.submit(reader, 1)
    house.core.busy = True
    with pytest.raises(QueueFullError):
        house.submit(reader, 1)
    house.core.may_read.set()
    wait_until(lambda: reader.waiting_operations == 0)
    with pytest.raises(DocumentRefusedError, match="in time"):  # nobody else was there to wait for
        house.submit(reader, 1)
    assert reader.waiting_operations == 0


def test_the_place_of_a_dead_upload_is_given_away(house: House) -> None:
    gone = house.store()
    operation_id = str(uuid.uuid4())
    place = gone.enter(operation_id)
    gone.receive(operation_id, [b"half"], max_bytes=10)
    os.close(place.handle)
    reader = house.reader()
    wait_until(lambda: reader.waiting_operations == 0)
    assert not (house.folder / "operations" / operation_id).exists()


def test_a_live_upload_keeps_its_place(house: House) -> None:
    store = house.store()
    operation_id = str(uuid.uuid4())
    place = store.enter(operation_id)
    store.receive(operation_id, [b"half"], max_bytes=10)
    reader = house.reader()
    house.submit(reader, 1)
    house.core.may_read.set()
    wait_until(lambda: reader.waiting_operations == 1)
    assert (house.folder / "operations" / operation_id / "document").exists()
    store.leave(place)
    assert reader.waiting_operations == 0


def test_a_clock_set_back_takes_no_upload_away(house: House) -> None:
    store = house.store()
    operation_id = str(uuid.uuid4())
    place = store.enter(operation_id)
    removed: list[int] = []

    def chunks() -> Iterator[bytes]:
        yield b"ha"
        removed.append(store.expire(now_ns=time.time_ns() + 2 * HOUR * 10**9))
        yield b"lf"

    store.receive(operation_id, chunks(), max_bytes=10)
    assert removed == [0]
    assert (house.folder / "operations" / operation_id / "document").read_bytes() == b"half"
    store.leave(place)
    assert store.expire(now_ns=time.time_ns()) == 0
    assert store.expire(now_ns=time.time_ns() + 2 * HOUR * 10**9) == 1  # nobody works on it any more


# ---- who waits on the connection ------------------------------------------------------------------------------------


def read_now(house: House, reader: Reader) -> Operation:
    return reader.read_now(iter([b"x"]), ReadParameters(), house.standing)


def test_of_a_read_that_could_not_be_counted_nothing_is_left(house: House) -> None:
    reader = house.reader(ledger_type=BrokenLedger)
    house.core.may_read.set()
    with pytest.raises(LedgerUnavailableError):
        read_now(house, reader)
    assert reader.waiting_operations == 0
    assert not list((house.folder / "operations").iterdir())


def test_who_waits_hears_of_a_failure_however_early_it_is(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = house.reader()
    house.core.may_read.set()
    house.core.refusal = CoreDownError("no answer")
    enqueue = reader._enqueue

    def enqueue_until_over(*args: Any, **words: Any) -> Any:
        job = enqueue(*args, **words)
        wait_until(lambda: not house.store().places())
        return job

    monkeypatch.setattr(reader, "_enqueue", enqueue_until_over)
    with pytest.raises(CoreDownError):
        read_now(house, reader)
    assert not list((house.folder / "operations").iterdir())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_HOLD_SECONDS", 0.2)


@pytest.mark.usefixtures("impatient")
def test_a_read_that_its_caller_was_told_failed_is_not_counted(house: House) -> None:
    house.limit(5)
    reader = house.reader(max_running_seconds=0.1)
    assert read_now(house, reader).status == "failed"
    assert not list((house.folder / "operations").iterdir())
    assert reader.waiting_operations == 1  # its page is at work
    house.core.may_read.set()
    wait_until(lambda: reader.waiting_operations == 0)
    assert house.pages() == 0
    assert not list((house.folder / "operations").iterdir())


@pytest.mark.usefixtures("impatient")
def test_a_read_that_is_being_counted_is_waited_for(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.limit(5)
    reader = house.reader(max_running_seconds=0.1)
    house.core.may_read.set()
    given_up = []

    def give_up(job: Any, failure: SidecarError) -> bool:
        given_up.append(Reader._give_up(reader, job, failure))
        may_count.set()
        return given_up[-1]

    may_count = threading.Event()
    count = reader._count
    monkeypatch.setattr(reader, "_count", lambda request: may_count.wait(20) and count(request))
    monkeypatch.setattr(reader, "_give_up", give_up)
    assert read_now(house, reader).status == "succeeded"
    assert given_up == [False]
    assert house.pages() == 1


def test_a_read_that_a_stop_broke_off_is_not_counted(house: House) -> None:
    house.limit(5)
    reader = house.reader()
    with ThreadPoolExecutor(1) as pool:
        caller = pool.submit(read_now, house, reader)
        wait_until(lambda: list((house.folder / "operations").glob("*/pages")))
        reader.stop()
        with pytest.raises(CoreDownError, match="stopped before the document was read"):
            caller.result(timeout=10)
    house.core.may_read.set()
    wait_until(lambda: not house.store().places())
    assert house.pages() == 0


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A disk that takes no result."""

    def write(path: Path, *args: Any, **words: Any) -> str:
        if path.name == "result.jsonl":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_file(path, *args, **words)

    with monkeypatch.context() as patched:
        patched.setattr(results, "write_file", write)
        yield


@pytest.mark.usefixtures("full")
def test_a_read_that_the_spool_has_no_room_for_is_not_counted(house: House) -> None:
    house.limit(5)
    reader = house.reader()
    house.core.may_read.set()
    with pytest.raises(SpoolUnavailableError, match="No space left"):
        read_now(house, reader)
    assert house.pages() == 0
    assert not list((house.folder / "operations").iterdir())


def test_what_somebody_waited_for_who_is_gone_is_removed_with_the_expired(house: House) -> None:
    store = house.store()
    waited_for, asked_for = str(uuid.uuid4()), str(uuid.uuid4())
    for operation_id in (waited_for, asked_for):
        store.receive(operation_id, [b"x"], max_bytes=10)
        store.accept(
            ReadRequest(
                operation_id=operation_id,
                created_ns=house.clock.wall_ns,
                pages=(1,),
                language=None,
                reading_order="basic",
                license_id="",
                synchronous=operation_id == waited_for,
                result_seconds=HOUR,
            )
        )
    place = store.enter(waited_for)
    later_ns = time.time_ns() + 2 * HOUR * 10**9
    assert store.expire(now_ns=later_ns) == 0
    store.leave(place)
    assert store.expire(now_ns=time.time_ns()) == 0
    assert store.expire(now_ns=later_ns) == 1
    assert [folder.name for folder in (house.folder / "operations").iterdir()] == [asked_for]


# ---- how long results are kept --------------------------------------------------------------------------------------


def ended(house: House, reader: Reader, **asked: Any) -> str:
    house.core.may_read.set()
    operation_id = house.submit(reader, 1, **asked)
    wait_until(lambda: reader.find(operation_id).ending or reader.find(operation_id).fetched_once)
    return operation_id


def test_lifetime_holds_over_a_restart_with_another_setting(house: House) -> None:
    short = ended(house, house.reader(result_seconds=HOUR))
    long = ended(house, house.reader(result_seconds=5 * HOUR))
    own = ended(house, house.reader(result_seconds=HOUR), result_seconds=3 * HOUR)
    for setting in (2 * HOUR, 9 * HOUR):
        later = house.reader(result_seconds=setting)
        for operation_id in (short, long, own):
            assert later.find(operation_id).status == "succeeded"
    for hours, gone, there in ((1.1, [short], [long, own]), (2.0, [short, own], [long]), (2.0, [short, own, long], [])):
        house.clock.pass_seconds(hours * HOUR)
        later = house.reader(result_seconds=HOUR)
        house.store(result_seconds=9 * HOUR).expire(now_ns=house.clock.wall_ns)
        for operation_id in gone:
            assert not (house.folder / "operations" / operation_id).exists()
            with pytest.raises(OperationNotFoundError):
                later.find(operation_id)
        for operation_id in there:
            assert later.find(operation_id).status == "succeeded"


def test_expired_results_are_not_found_although_nobody_removed_them(house: House) -> None:
    reader = house.reader(result_seconds=HOUR)
    operation_id = ended(house, reader)
    ending = reader.find(operation_id).ending
    assert ending is not None
    assert reader.holds(ending)
    house.clock.pass_seconds(HOUR + 1)
    assert not reader.holds(ending)
    with pytest.raises(OperationNotFoundError):
        reader.find(operation_id)


def test_a_clock_set_wrong_takes_no_result_away(house: House) -> None:
    reader = house.reader(result_seconds=HOUR)
    operation_id = ended(house, reader)
    house.clock.step_wall(365 * 24 * HOUR)
    assert reader.find(operation_id).status == "succeeded"


def test_what_may_be_fetched_once_is_not_kept_for_ever(house: House) -> None:
    operation_id = ended(house, house.reader(result_seconds=HOUR), result_seconds=0)
    reader = house.reader(result_seconds=HOUR)
    found = reader.find(operation_id)
    assert (found.fetched_once, found.ending) == (True, None)
    house.clock.pass_seconds(HOUR + 1)
    with pytest.raises(OperationNotFoundError):
        reader.find(operation_id)
    assert house.store().expire(now_ns=house.clock.wall_ns) == 1


def test_whoever_asks_while_a_result_is_removed_finds_it_whole_or_not_at_all(house: House) -> None:
    """Polls never see an operation half gone: neither as a broken store nor as one that is running again."""
    reader = house.reader()
    seen: Counter[str] = Counter()
    for _ in range(40):
        operation_id = ended(house, reader, result_seconds=0)
        begun = threading.Barrier(4)

        def poll(operation_id: str = operation_id, begun: threading.Barrier = begun) -> list[str]:
            begun.wait()
            told = []
            while not told or told[-1] != "gone":
                try:
                    told.append(reader.find(operation_id).status)
                except OperationNotFoundError:
                    told.append("gone")
            return told

        with ThreadPoolExecutor(3) as pool:
            polls = [pool.submit(poll) for _ in range(3)]
            begun.wait()
            reader.forget(operation_id)
            for one in polls:
                seen.update(one.result(timeout=30))
    assert set(seen) <= {"succeeded", "gone"}
    assert seen["gone"] == 120
    assert not list((house.folder / "operations").iterdir())


def test_what_a_removal_left_over_is_removed_with_the_expired(house: House) -> None:
    store = house.store()
    left_over = house.folder / "operations" / ".gone-0b8b2a1e-6a1e-4a55-9c3e-0d5a4a3f2b10"
    (left_over / "pages").mkdir(parents=True)
    assert store.expire(now_ns=house.clock.wall_ns) == 0
    assert not left_over.exists()


def test_results_of_an_earlier_version_expire_by_the_setting(house: House) -> None:
    reader = house.reader(result_seconds=HOUR)
    operation_id = ended(house, reader)
    folder = house.folder / "operations" / operation_id
    for name in ("request.json", "outcome.json"):
        told = json.loads((folder / name).read_text())
        for member in ("result_seconds", "expires_ns", "fetched_once"):
            told.pop(member, None)
        (folder / name).write_text(json.dumps(told))
    assert reader.find(operation_id).status == "succeeded"
    house.clock.pass_seconds(HOUR + 1)
    with pytest.raises(OperationNotFoundError):
        reader.find(operation_id)


def test_an_operation_that_runs_too_long_fails_uncounted(house: House) -> None:
    reader = house.reader()
    operation_id = house.submit(reader, 2)
    wait_until(lambda: reader.find(operation_id).status == "running")
    house.clock.pass_seconds(HOUR + 1)
    house.core.may_read.set()
    wait_until(lambda: reader.find(operation_id).status == "failed")
    assert reader.find(operation_id).errors[0][0] == "FailedToProcess"
    wait_until(lambda: reader.waiting_operations == 0)
    assert house.pages() == 0
