"""The process beside the worker: it answers as the document room does, and its death or sloth costs one document."""

import dataclasses
import errno
import gc
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import psutil
import pytest
from PIL import Image, ImageChops

from ocr_core import decoder_process, documents, errors, forked_process, limits, memory_share
from ocr_core.budget import Budget
from ocr_core.decoder_process import DecoderProcess
from ocr_core.forked_process import fork
from ocr_core.limits import OwnMemory
from ocr_core.memory_share import SHARE_BYTES, Places
from tests import pages
from tests.forked import ways_out

PAGE = pages.printed_page()


@pytest.fixture
def decoder() -> Iterator[DecoderProcess]:
    process = DecoderProcess()
    yield process
    process.close()


@contextmanager
def opened(blob: bytes) -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile() as file:
        file.write(blob)
        file.flush()
        yield file


@pytest.mark.parametrize("blob", [pages.as_png(PAGE), pages.as_tiff([PAGE] * 2), pages.digital_pdf([pages.LINES] * 2)])
def test_it_answers_as_the_document_room_does(decoder: DecoderProcess, blob: bytes) -> None:
    with opened(blob) as file:
        found = documents.inspect(file)
        here = documents.load_page(file, found.pages, max_pixels=10**6)
        assert decoder.inspect(file) == found
        there = decoder.load_page(file, found.pages, max_pixels=10**6)
    assert (here.width, here.height, here.unit, here.dpi) == (there.width, there.height, there.unit, there.dpi)
    assert ImageChops.difference(here.image, there.image).getbbox() is None


def test_it_decodes_where_it_may_not_stand_back(decoder: DecoderProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a unit of systemd whose filter of system calls refuses a change of priority."""

    def refused(_by: int) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "nice", refused)
    with opened(pages.as_png(PAGE)) as file:
        assert decoder.inspect(file).pages == 1


def test_its_refusals_are_the_document_rooms(decoder: DecoderProcess) -> None:
    for name, (blob, code) in pages.bad_files().items():
        with opened(blob) as file, pytest.raises(errors.CoreError) as refusal:
            decoder.inspect(file)
        assert refusal.value.code == code, name
    with opened(pages.as_png(PAGE)) as file, pytest.raises(errors.InvalidPageRangeError):
        decoder.load_page(file, 2, max_pixels=10**6)


def test_pages_that_share_large_resources_are_within_the_time_of_a_look(decoder: DecoderProcess) -> None:
    with opened(pages.pdf_with_shared_picture(count=150, picture_bytes=10_000_000)) as file:
        assert decoder.inspect(file, documents.Rules(max_sheet_inches=17.0)).pages == 150


def test_one_process_serves_many_documents_and_holds_nothing_of_the_worker(decoder: DecoderProcess) -> None:
    pids = set()
    with opened(pages.as_png(PAGE)) as file:
        for _ in range(5):
            decoder.inspect(file)
            pids.add(decoder.pid)
        (pid,) = pids
        assert [one.path for one in psutil.Process(pid).open_files() if not one.path.startswith("/proc/")] == []
        assert pid is not None
        assert len(ways_out(pid)) <= 3, ways_out(pid)  # the line, its own memory, the places


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (signal.SIGSEGV, errors.InvalidImageError),
        (signal.SIGABRT, errors.InvalidImageError),
        (signal.SIGILL, errors.InvalidImageError),
        (signal.SIGPROF, errors.InvalidImageError),
        (signal.SIGKILL, errors.DecoderLostError),
    ],
)
def test_a_decoder_that_dies_costs_one_document(
    number: signal.Signals, error: type[errors.CoreError], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = documents.inspect
    monkeypatch.setattr(documents, "inspect", lambda file, rules: os.kill(os.getpid(), number))
    decoder = DecoderProcess()
    with opened(pages.as_png(PAGE)) as file:
        with pytest.raises(errors.CoreError) as refusal:
            decoder.inspect(file)
        assert type(refusal.value) is error
        monkeypatch.setattr(documents, "inspect", real)
        assert decoder.inspect(file).pages == 1
    decoder.close()


@pytest.mark.parametrize(
    "fault", [BufferError("of the text"), OSError(errno.ENOLCK, "of the text"), KeyboardInterrupt()]
)
def test_a_decoder_that_fails_unexpectedly_tells_by_what_and_nothing_of_the_document(
    fault: BaseException, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = documents.inspect

    def failing(*some: object) -> documents.Inspection:
        monkeypatch.setattr(documents, "inspect", real)
        raise fault

    monkeypatch.setattr(documents, "inspect", failing)
    decoder = DecoderProcess()
    decoder.start()
    monkeypatch.setattr(documents, "inspect", real)
    first = decoder.pid
    with opened(pages.as_png(PAGE)) as file:
        with pytest.raises(errors.FailedToProcessError) as refusal:
            decoder.inspect(file)
        assert decoder.inspect(file).pages == 1
    told = f"{refusal.value} {caplog.text}"
    if isinstance(fault, Exception):
        assert type(refusal.value) is errors.FailedToProcessError
        assert type(fault).__name__ in str(refusal.value)
        assert type(fault).__name__ in caplog.text
        assert decoder.pid == first
    else:
        assert "failed" in caplog.text
    assert "text" not in told
    assert "outside" not in told
    decoder.close()


def test_a_place_that_cannot_be_taken_costs_one_document(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> bool:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    places = Places()
    monkeypatch.setattr(places, "take", refused)
    decoder = DecoderProcess(places)
    with opened(pages.as_png(PAGE)) as file:
        with pytest.raises(errors.FailedToProcessError, match="OSError"):
            decoder.inspect(file, budget=PATIENT)
        first = decoder.pid
        assert decoder.inspect(file, budget=USUAL).pages == 1
        assert decoder.pid == first
    decoder.close()


def test_a_decoder_that_fails_at_its_start_is_not_called_ended_from_outside(
    decoder: DecoderProcess, caplog: pytest.LogCaptureFixture
) -> None:
    def failing() -> None:
        time.sleep(0.5)  # it is asked by then
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    decoder.start(failing)
    with opened(pages.as_png(PAGE)) as file, pytest.raises(errors.DecoderLostError):
        decoder.inspect(file)
    assert "failed" in caplog.text
    assert "outside" not in caplog.text


def spin(*_: object) -> None:
    while True:
        pass


@pytest.mark.parametrize(
    ("work", "budget", "error"),
    [
        (spin, Budget(cpu_seconds=0.5, wall_seconds=30), errors.InvalidImageError),
        (spin, Budget(cpu_seconds=30, wall_seconds=2), errors.MachineBusyError),
        (lambda *_: time.sleep(60), Budget(cpu_seconds=1, wall_seconds=0.5), errors.MachineBusyError),
    ],
    ids=["too much work", "some work in all the waiting", "hardly any work"],
)
def test_a_decoder_that_takes_too_long_is_ended_and_the_document_judged_by_its_work_alone(
    work: object, budget: Budget, error: type[errors.CoreError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "inspect", work)
    decoder = DecoderProcess()
    with opened(pages.as_png(PAGE)) as file, pytest.raises(errors.CoreError) as refusal:
        decoder.inspect(file, budget=budget)
    assert type(refusal.value) is error
    assert decoder.pid is None


@pytest.mark.parametrize(
    ("work", "budget"),
    [
        (spin, Budget(cpu_seconds=0.3, wall_seconds=30, is_last=False)),
        (lambda *_: time.sleep(60), Budget(cpu_seconds=1, wall_seconds=0.3, is_last=False)),
    ],
    ids=["too much work", "too much waiting"],
)
def test_a_document_that_is_slow_for_one_in_a_hurry_is_not_called_damaged(
    work: object, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "inspect", work)
    decoder = DecoderProcess()
    with opened(pages.as_png(PAGE)) as file, pytest.raises(errors.SlowDocumentError):
        decoder.inspect(file, budget=budget)
    assert decoder.pid is None


def swell(*_: object) -> documents.Inspection:
    grown = b"x" * (SHARE_BYTES + 20 * 2**20)
    time.sleep(0.1)
    return documents.Inspection(format=documents.DocumentFormat.PNG, pages=len(grown) // len(grown))


HURRIED = Budget(cpu_seconds=5, wall_seconds=30, is_last=False)
USUAL = Budget(cpu_seconds=5, wall_seconds=30)
PATIENT = Budget(cpu_seconds=5, wall_seconds=30, place_seconds=30)
SOON_TIRED = Budget(cpu_seconds=5, wall_seconds=30, place_seconds=0.2)


@pytest.mark.parametrize("budget", [HURRIED, USUAL, PATIENT])
def test_a_document_that_takes_much_memory_takes_the_place_for_it_and_leaves_it(
    budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "inspect", swell)
    places = Places()
    decoder = DecoderProcess(places)
    with opened(pages.as_png(PAGE)) as file:
        for _ in range(2):
            assert decoder.inspect(file, budget=budget).pages == 1
        assert places.take(1.0)
    decoder.close()


@pytest.mark.parametrize(
    ("budget", "error"),
    [
        (HURRIED, errors.SlowDocumentError),
        (USUAL, errors.MachineBusyError),
        (SOON_TIRED, errors.MachineBusyError),
    ],
)
def test_a_document_that_takes_much_memory_is_stopped_where_there_is_no_place_for_it(
    budget: Budget, error: type[errors.CoreError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "inspect", swell)
    places = Places()
    assert places.take()
    decoder = DecoderProcess(places)
    with opened(pages.as_png(PAGE)) as file:
        with pytest.raises(error):
            decoder.inspect(file, budget=budget)
        places.leave()
        assert decoder.inspect(file, budget=budget).pages == 1
    decoder.close()


@pytest.mark.parametrize("budget", [HURRIED, PATIENT])
def test_a_document_that_takes_more_than_a_place_allows_is_too_large_whoever_asks(
    budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "inspect", swell)
    monkeypatch.setattr(memory_share, "LARGE_BYTES", SHARE_BYTES + 10 * 2**20)
    decoder = DecoderProcess(Places())
    with opened(pages.as_png(PAGE)) as file, pytest.raises(errors.InvalidImageError, match="memory"):
        decoder.inspect(file, budget=budget)
    decoder.close()


def test_who_is_patient_waits_for_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "inspect", swell)
    places = Places()
    assert places.take()
    decoder = DecoderProcess(places)
    threading.Timer(0.5, places.leave).start()
    began = time.monotonic()
    with opened(pages.as_png(PAGE)) as file:
        assert decoder.inspect(file, budget=PATIENT).pages == 1
    assert time.monotonic() - began > 0.4
    decoder.close()


def test_a_picture_is_asked_for_its_memory_before_it_is_decoded() -> None:
    places = Places()
    assert places.take()
    decoder = DecoderProcess(places)
    with opened(pages.encoded(Image.new("RGB", (4000, 4000), "white"), "PNG")) as file:
        with pytest.raises(errors.SlowDocumentError):
            decoder.load_page(file, 1, max_pixels=10**6, budget=HURRIED)
        assert decoder.pid is not None
        places.leave()
        assert decoder.load_page(file, 1, max_pixels=10**6, budget=HURRIED).width == 4000
    decoder.close()


@pytest.mark.parametrize("count", [1, 3])
def test_there_are_as_many_places_as_there_are_to_be_and_the_kernel_frees_those_of_the_dead(count: int) -> None:
    places = Places(count)
    children = []
    for _ in range(count):
        readable, writable = os.pipe()
        if not (pid := fork()):
            os.write(writable, b"x" if places.take() else b"-")
            time.sleep(60)
            os._exit(0)
        assert os.read(readable, 1) == b"x"
        children.append(pid)
    assert not places.take(0.05)
    os.kill(children[0], signal.SIGKILL)
    assert places.take(5.0)
    for pid in children[1:]:
        os.kill(pid, signal.SIGKILL)
    for pid in children:
        os.waitpid(pid, 0)
    places.close()


def test_a_decoder_that_swells_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_process, "MEMORY_BYTES", 100 * 2**20)
    # More than the allocator can have at hand of what other tests let go in this process.
    monkeypatch.setattr(documents, "inspect", lambda *_: bytearray(4000 * 2**20))
    decoder = DecoderProcess()
    with opened(pages.as_png(PAGE)) as file, pytest.raises(errors.InvalidImageError, match="memory"):
        decoder.inspect(file)
    decoder.close()


def test_a_decoder_that_kept_much_memory_makes_place_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    OwnMemory().trim()  # else the process gives back what other tests left here, and seems to have kept nothing
    kept, real = [], documents.inspect
    monkeypatch.setattr(documents, "inspect", lambda *some: kept.append(b"x" * 100 * 2**20) or real(*some))
    decoder = DecoderProcess()
    with opened(pages.as_png(PAGE)) as file:
        for _ in range(3):
            assert decoder.inspect(file).pages == 1
            assert decoder.pid is None
    decoder.close()


def test_a_decoder_that_went_away_between_two_documents_is_replaced(decoder: DecoderProcess) -> None:
    with opened(pages.as_png(PAGE)) as file:
        assert decoder.inspect(file).pages == 1
        first = decoder.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        psutil.Process(first).wait(5)
        assert decoder.inspect(file).pages == 1
        assert decoder.pid != first


def test_what_the_worker_forgot_does_not_hold_up_a_decoder(
    decoder: DecoderProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an engine's session: its end waits for threads that a fork leaves behind."""
    worker, first = os.getpid(), limits.die_with_parent
    monkeypatch.setattr(limits, "die_with_parent", lambda *some, **more: (gc.collect(), first(*some, **more)))

    class Forgotten:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            while os.getpid() != worker:
                time.sleep(1)

    gc.disable()
    try:
        Forgotten()
        with opened(pages.as_png(PAGE)) as file:
            assert decoder.inspect(file, budget=dataclasses.replace(decoder_process.LOOK, wall_seconds=3)).pages == 1
    finally:
        gc.enable()


def test_a_decoder_that_never_begins_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forked_process, "disconnect_all_but", lambda _: time.sleep(600))
    decoder = DecoderProcess()
    with opened(pages.as_png(PAGE)) as file:
        decoder.start()
        stuck = decoder.pid
        with pytest.raises(errors.MachineBusyError):
            decoder.inspect(file, budget=dataclasses.replace(decoder_process.LOOK, wall_seconds=0.1))
    assert stuck is not None
    assert not psutil.pid_exists(stuck)


def test_a_decoder_ends_with_its_worker() -> None:
    readable, writable = os.pipe()
    worker = fork()
    if not worker:
        decoder = DecoderProcess()
        with opened(pages.as_png(PAGE)) as file:
            decoder.inspect(file)
        os.write(writable, str(decoder.pid).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(worker, 0)
    left = int(os.read(readable, 99))
    until = time.monotonic() + 5
    while psutil.pid_exists(left) and psutil.Process(left).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.01)
