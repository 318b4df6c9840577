"""What is kept of answers: never seen once its operation is gone, whichever process took it away."""

from __future__ import annotations

import os
import threading
import tracemalloc
import uuid
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from flask.testing import FlaskClient

from licenses.watch import LicenseView
from ocr_core.page_text import Line, PageText, Word
from sidecar.admission import Standing
from sidecar.bootstrap import Services
from sidecar.clock import HighWater
from sidecar.errors import SpoolUnavailableError
from sidecar.gate import State, Verdict
from sidecar.ledger import LedgerSnapshot
from sidecar.reading import Reader
from sidecar.results import Ending, Operation, OperationStore, ReadRequest
from sidecar.settings import Settings
from sidecar.web import read_v3, service_pages
from sidecar.web.app import create_app
from sidecar.web.rendered import EXTENSION, PART_BYTES, WHOLE_BYTES, RenderedAnswers
from tests.fakes.admission import FixedAdmission
from tests.fakes.clock import NS, FakeClock
from tests.fakes.licences import NOW

RESULT_SECONDS = 600
BOX = (1, 1, 9, 1, 9, 5, 1, 5)
PAGE = PageText(
    page=1,
    width=10,
    height=10,
    unit="pixel",
    angle=0.0,
    orientation=0,
    lines=(Line(text="one", polygon=BOX, words=(Word(text="one", polygon=BOX, confidence=0.9),), confidence=0.9),),
)


class CountingReader(Reader):
    """A web process's reader on a spool, counting how often an operation is looked up in it."""

    found = 0

    def find(self, operation_id: str) -> Operation:
        self.found += 1
        return super().find(operation_id)


class Process:
    """One web process on a spool that it shares with others."""

    def __init__(self, folder: Path, clock: FakeClock) -> None:
        self.folder = folder
        self.store = OperationStore(folder, result_seconds=RESULT_SECONDS)
        self.store.prepare()
        self.admission = FixedAdmission(a_standing(State.ACTIVE))
        nothing = cast("Any", None)
        self.reader = CountingReader(
            store=self.store,
            core=nothing,
            ledger=nothing,
            admission=cast("Any", self.admission),
            clock=clock,
            max_running_seconds=60,
            max_queued=10,
            max_document_bytes=1000,
        )
        one = SimpleNamespace(
            settings=Settings(),
            clock=clock,
            admission=self.admission,
            reader=self.reader,
            callers=threading.BoundedSemaphore(4),
        )
        self.app = create_app(cast("Services", one))
        self.client: FlaskClient = self.app.test_client()

    def poll(self, operation_id: str, version: str = "v3.2") -> tuple[int, bytes]:
        answer = self.client.get(f"/vision/{version}/read/analyzeResults/{operation_id}")
        return answer.status_code, answer.data


def a_standing(state: State) -> Standing:
    return Standing(
        verdict=Verdict(state=state, reason="", serves=state is State.ACTIVE),
        license=None,
        view=LicenseView(problem="none"),
        ledger=None,
        core=None,
        window_closes_at=None,
        effective_at=NOW,
        quarantined=False,
    )


def a_snapshot(clock: FakeClock) -> LedgerSnapshot:
    """A ledger that knows the present moment."""
    known = HighWater(effective_ns=clock.wall_ns, boottime_ns=clock.boottime_ns, boot_id=clock.boot_id)
    return LedgerSnapshot(
        high_water=known,
        failed_cycles=0,
        failure="",
        failure_word="",
        license_pages={},
        size=1,
        sealed_size=0,
        pending_files=0,
        license_floors={},
    )


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def two(tmp_path: Path, clock: FakeClock) -> tuple[Process, Process]:
    return Process(tmp_path, clock), Process(tmp_path, clock)


def begin(process: Process, clock: FakeClock, *, result_seconds: int = RESULT_SECONDS) -> str:
    operation_id = str(uuid.uuid4())
    process.store.receive(operation_id, [b"document"], max_bytes=100)
    process.store.accept(
        ReadRequest(
            operation_id=operation_id,
            created_ns=clock.wall_ns,
            pages=(1,),
            language=None,
            reading_order="basic",
            license_id="",
            synchronous=False,
            result_seconds=result_seconds,
        )
    )
    process.store.begin(operation_id)
    return operation_id


def finish(process: Process, clock: FakeClock, operation_id: str, *, result_seconds: int = RESULT_SECONDS) -> None:
    process.store.put_page(operation_id, PAGE)
    process.store.put_result(operation_id, [1])
    process.store.finish(operation_id, finished_ns=clock.wall_ns, result_seconds=result_seconds)


def test_a_finished_operation_is_read_once_for_each_version(two: tuple[Process, Process], clock: FakeClock) -> None:
    web, _ = two
    one = begin(web, clock)
    finish(web, clock, one)
    first = web.poll(one)
    assert first[0] == 200
    assert b'"succeeded"' in first[1]
    assert [web.poll(one), web.poll(one.upper())] == [first, first]
    assert web.reader.found == 1
    earlier = web.poll(one, "v3.0")
    assert earlier[0] == 200
    assert earlier[1] != first[1]
    assert web.reader.found == 2
    assert web.poll(one, "v3.0") == earlier
    assert web.poll(one) == first
    assert web.reader.found == 2


def test_what_still_runs_is_looked_up_at_every_poll(two: tuple[Process, Process], clock: FakeClock) -> None:
    web, other = two
    one = begin(web, clock)
    assert b'"running"' in web.poll(one)[1]
    assert b'"running"' in web.poll(one)[1]
    assert web.reader.found == 2
    finish(other, clock, one)
    assert b'"succeeded"' in web.poll(one)[1]


def test_a_result_that_one_process_removes_is_gone_from_all_at_once(
    two: tuple[Process, Process], clock: FakeClock
) -> None:
    one = begin(two[0], clock)
    finish(two[0], clock, one)
    assert [process.poll(one)[0] for process in two] == [200, 200]
    two[1].store.discard(one)
    assert [process.poll(one)[0] for process in two] == [404, 404]


def test_a_result_is_gone_as_soon_as_its_time_is_over(two: tuple[Process, Process], clock: FakeClock) -> None:
    one = begin(two[0], clock)
    finish(two[0], clock, one)
    clock.pass_seconds(RESULT_SECONDS)
    assert [process.poll(one)[0] for process in two] == [200, 200]
    clock.wall_ns += 1
    assert [process.poll(one)[0] for process in two] == [404, 404]  # though nobody has removed it yet
    assert two[0].store.expire(now_ns=clock.wall_ns) == 1
    assert [process.poll(one)[0] for process in two] == [404, 404]


def test_a_clock_set_back_brings_no_result_back(two: tuple[Process, Process], clock: FakeClock) -> None:
    one = begin(two[0], clock)
    finish(two[0], clock, one)
    assert two[0].poll(one)[0] == 200
    clock.pass_seconds(RESULT_SECONDS + 1)
    for process in two:
        process.admission.standing = replace(process.admission.standing, ledger=a_snapshot(clock))
    clock.step_wall(-RESULT_SECONDS)
    assert [process.poll(one)[0] for process in two] == [404, 404]


def test_another_outcome_under_the_same_name_is_not_taken_for_the_kept_one(
    two: tuple[Process, Process], clock: FakeClock
) -> None:
    web, _ = two
    one = begin(web, clock)
    finish(web, clock, one)
    before = web.poll(one)
    clock.pass_seconds(5)
    web.store.finish(
        one, finished_ns=clock.wall_ns, result_seconds=RESULT_SECONDS, errors=[("FailedToProcess", "no more")]
    )
    after = web.poll(one)
    assert b'"succeeded"' in before[1]
    assert b'"failed"' in after[1]


def test_what_may_be_fetched_once_is_never_kept(two: tuple[Process, Process], clock: FakeClock) -> None:
    web, other = two
    one = begin(web, clock, result_seconds=0)
    finish(web, clock, one, result_seconds=0)
    assert other.client.head(f"/vision/v3.2/read/analyzeResults/{one}").status_code == 200
    assert web.poll(one)[0] == 200
    assert [process.poll(one)[0] for process in two] == [404, 404]


def large_result(process: Process, clock: FakeClock, *, result_seconds: int = RESULT_SECONDS) -> tuple[str, bytes]:
    """An operation whose answer is larger than any that is kept, and that answer."""
    one = begin(process, clock, result_seconds=result_seconds)
    line = PAGE.lines[0]
    pages = [msgspec.structs.replace(PAGE, page=number, lines=(line,) * 1000) for number in range(1, 41)]
    for page in pages:
        process.store.put_page(one, page)
    process.store.put_result(one, [page.page for page in pages])
    process.store.finish(one, finished_ns=clock.wall_ns, result_seconds=result_seconds)
    wording = read_v3.V3_2.wording
    told = [page for stored in pages for page in wording.of_page(stored)]
    return one, msgspec.json.encode(wording.around(process.store.get(one, now_ns=clock.wall_ns), told))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_large_result_is_sent_in_parts_that_are_the_same_as_all_at_once(
    two: tuple[Process, Process], clock: FakeClock
) -> None:
    web, _ = two
    one, wanted = large_result(web, clock)
    assert len(wanted) > 8 * WHOLE_BYTES
    before = open_files()
    for _ in range(2):
        answer = web.client.get(f"/vision/v3.2/read/analyzeResults/{one}")
        parts = list(answer.iter_encoded())
        assert b"".join(parts) == wanted
        assert len(parts) > 20
        assert min(map(len, parts[:-1])) >= PART_BYTES
        assert "Content-Length" not in answer.headers
        answer.close()
    assert open_files() == before
    assert web.client.head(f"/vision/v3.2/read/analyzeResults/{one}").data == b""
    assert open_files() == before


def test_polls_of_a_large_result_take_little_memory(two: tuple[Process, Process], clock: FakeClock) -> None:
    web, _ = two
    one, wanted = large_result(web, clock)
    tracemalloc.start()
    try:
        answers = [web.client.get(f"/vision/v3.2/read/analyzeResults/{one}") for _ in range(3)]
        side_by_side = zip(*(answer.iter_encoded() for answer in answers), strict=True)
        length = sum(len(part) for parts in side_by_side for part in parts)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert length == 3 * len(wanted)
    assert most < 2 * len(wanted)  # a page of each, in all its forms; one answer alone took 9 times its length


def test_a_large_result_that_is_being_sent_is_sent_to_its_end(two: tuple[Process, Process], clock: FakeClock) -> None:
    web, other = two
    one, wanted = large_result(web, clock)
    parts = web.client.get(f"/vision/v3.2/read/analyzeResults/{one}").iter_encoded()
    first = next(parts)
    other.store.discard(one)
    assert first + b"".join(parts) == wanted
    assert web.poll(one)[0] == 404


def test_a_large_result_that_may_be_fetched_once_stays_until_all_of_it_was_sent(
    two: tuple[Process, Process], clock: FakeClock
) -> None:
    web, other = two
    one, wanted = large_result(web, clock, result_seconds=0)
    path = f"/vision/v3.2/read/analyzeResults/{one}"
    assert other.client.head(path).status_code == 200
    hung_up = other.client.get(path)
    next(hung_up.iter_encoded())
    hung_up.close()
    assert web.poll(one) == (200, wanted)
    assert [process.poll(one)[0] for process in two] == [404, 404]


def test_a_damaged_result_is_refused_and_a_large_one_breaks_off(two: tuple[Process, Process], clock: FakeClock) -> None:
    web, _ = two
    one = begin(web, clock)
    finish(web, clock, one)
    (web.folder / "operations" / one / "result.jsonl").write_bytes(b'{"page":1}\n')
    assert web.poll(one)[0] == 500
    large, _ = large_result(web, clock)
    with (web.folder / "operations" / large / "result.jsonl").open("ab") as result:
        result.write(b'{"page":41}\n')
    parts = web.client.get(f"/vision/v3.2/read/analyzeResults/{large}").iter_encoded()
    with pytest.raises(SpoolUnavailableError):
        list(parts)


def test_status_shows_a_change_of_standing_at_once(
    two: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    web, _ = two
    described: list[Standing] = []
    describe = service_pages.describe

    def counting(standing: Standing) -> service_pages.Status:
        described.append(standing)
        return describe(standing)

    monkeypatch.setattr(service_pages, "describe", counting)
    for _ in range(3):
        assert web.client.get("/status").json["state"] == State.ACTIVE.value  # type: ignore[index]
    assert len(described) == 1
    web.admission.standing = a_standing(State.OUT_OF_QUOTA)
    assert web.client.get("/status").json["state"] == State.OUT_OF_QUOTA.value  # type: ignore[index]
    web.admission.standing = replace(web.admission.standing, quarantined=True)
    assert web.client.get("/status").json["clockQuarantined"] is True  # type: ignore[index]


def an_ending(number: int) -> Ending:
    return Ending(operation_id=f"{number:08x}-0000-0000-0000-000000000000", expires_ns=NS, mark=(number, number))


def test_the_answers_asked_for_last_are_kept_up_to_a_bound() -> None:
    answers = RenderedAnswers(kept_bytes=800)
    for number in range(8):
        answers.put("3.2", an_ending(number), bytes(100))
    assert answers.get(an_ending(0).operation_id, "3.2") is not None
    answers.put("3.2", an_ending(8), bytes(100))
    kept = [number for number in range(9) if answers.get(an_ending(number).operation_id, "3.2") is not None]
    assert kept == [0, 2, 3, 4, 5, 6, 7, 8]


def test_a_large_answer_does_not_drive_out_the_others() -> None:
    answers = RenderedAnswers(kept_bytes=800)
    answers.put("3.2", an_ending(1), bytes(100))
    answers.put("3.2", an_ending(2), bytes(101))
    assert answers.get(an_ending(1).operation_id, "3.2") is not None
    assert answers.get(an_ending(2).operation_id, "3.2") is None


def test_an_answer_that_is_put_again_counts_once() -> None:
    answers = RenderedAnswers(kept_bytes=800)
    for _ in range(100):
        answers.put("3.2", an_ending(1), bytes(100))
        answers.drop(an_ending(2).operation_id, "3.2")
    for number in range(2, 9):
        answers.put("3.2", an_ending(number), bytes(100))
    assert answers.get(an_ending(1).operation_id, "3.2") is not None


def test_every_process_has_answers_of_its_own(two: tuple[Process, Process]) -> None:
    assert two[0].app.extensions[EXTENSION] is not two[1].app.extensions[EXTENSION]
