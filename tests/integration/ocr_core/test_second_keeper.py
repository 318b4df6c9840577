"""The keeper of the second engine, its process and its client, with an engine that does what its picture says."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psutil
import pytest

from ocr_core.engine import FoundLine, FoundOrientation, FoundWord, Picture
from ocr_core.errors import EngineTimeoutError, FailedToProcessError
from ocr_core.limits import OwnMemory
from ocr_core.second_engine import SecondEngine, SecondEngineHost
from ocr_core.second_engine import wire as second_wire
from ocr_core.second_engine.keeper import Keeper, Terms
from ocr_core.second_engine.process import MEMORY_BYTES
from ocr_core.second_engine.state import State, StateBoard
from tests.forked import ways_out

READ, DIE, HANG, FAIL, LATE, SLOW, LIE, HUNGRY = range(8)
SLOW_SECONDS = 0.3
TERMS = Terms(picture_seconds=1.0, load_seconds=3.0, idle_seconds=60.0, longest_pause_seconds=2.0)


class Puppet:
    """An engine that does what the first pixel says."""

    name = "puppet"
    version = "1"

    def languages(self) -> tuple[str, ...]:
        return ()

    def preload(self, languages: tuple[str, ...]) -> None:
        return None

    def orientation(self, picture: Picture) -> FoundOrientation | None:
        return None

    def read(self, picture: Picture, languages: tuple[str, ...], *, timeout_seconds: float) -> tuple[FoundLine, ...]:
        match picture.pixels[0]:
            case 1:  # DIE
                os.kill(os.getpid(), signal.SIGKILL)
            case 2:  # HANG
                while True:
                    pass
            case 3:  # FAIL
                raise FailedToProcessError("no")
            case 4:  # LATE
                raise EngineTimeoutError("no")
            case 5:  # SLOW
                time.sleep(SLOW_SECONDS)
            case 6:  # LIE
                return (a_line(f"beyond {os.getpid()}", right=picture.width + 1),)
            case 7:  # HUNGRY
                try:
                    return (a_line(str(len(bytearray(2 * MEMORY_BYTES))), right=5),)
                except MemoryError:
                    return (a_line("no-memory", right=5),)
        return (a_line(f"{os.getpid()}", right=picture.width),)


class Unloadable(Puppet):
    def preload(self, languages: tuple[str, ...]) -> None:
        raise FailedToProcessError("no model")


class SlowToLoad(Puppet):
    def preload(self, languages: tuple[str, ...]) -> None:
        time.sleep(60)


def a_line(text: str, *, right: int) -> FoundLine:
    words = tuple(FoundWord(text=word, box=(0, 0, right, 1), confidence=1.0) for word in text.split())
    return FoundLine(words=words, baseline=(0, 1, right, 1), block=0)


def a_picture(order: int, *, width: int = 100, height: int = 40) -> Picture:
    return Picture(pixels=bytes([order]) + bytes(width * height - 1), width=width, height=height, dpi=None)


@contextlib.contextmanager
def hosted(make: Callable[[], Puppet] = Puppet, **terms: float) -> Iterator[SecondEngineHost]:
    host = SecondEngineHost(version="1", make_engine=make, terms=replace(TERMS, **terms))  # type: ignore[arg-type]
    try:
        host.tend()
        yield host
    finally:
        host.close()


@pytest.fixture(scope="module")
def shared_host() -> Iterator[SecondEngineHost]:
    with hosted() as host:
        yield host


@pytest.fixture
def engine(shared_host: SecondEngineHost) -> SecondEngine:
    return shared_host.engine


def read(engine: SecondEngine, order: int = READ, *, seconds: float = 10.0) -> str:
    lines = engine.read(a_picture(order), (), timeout_seconds=seconds)
    return " ".join(word.text for line in lines for word in line.words)


def until(seconds: float, happened: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def keeper_of(host: SecondEngineHost) -> psutil.Process:
    assert host._keeper is not None
    return psutil.Process(host._keeper)


def test_pictures_are_read_by_one_process_that_is_neither_this_one_nor_its_child(engine: SecondEngine) -> None:
    pids = {int(read(engine)) for _ in range(3)}
    assert len(pids) == 1
    process = psutil.Process(pids.pop())
    assert process.name() == "second-engine"
    assert process.parent().name() == "second-keeper"
    assert process.parent().ppid() == os.getpid()
    until(5, lambda: engine.facts().pictures >= 3)


def test_a_process_that_is_killed_in_the_middle_fails_one_picture_and_the_next_is_read(engine: SecondEngine) -> None:
    first = read(engine)
    with pytest.raises(FailedToProcessError) as failure:
        read(engine, DIE)
    assert not isinstance(failure.value, EngineTimeoutError)
    assert read(engine) != first


def test_a_process_that_is_killed_while_idle_is_not_missed(engine: SecondEngine) -> None:
    first = int(read(engine))
    os.kill(first, signal.SIGKILL)
    until(5, lambda: not psutil.pid_exists(first))  # the keeper has seen it off
    assert int(read(engine)) != first


def test_an_engine_that_hangs_is_killed_when_its_time_is_over(engine: SecondEngine) -> None:
    hung = int(read(engine))
    before = engine.facts().killed
    began = time.monotonic()
    with pytest.raises(EngineTimeoutError):
        read(engine, HANG, seconds=10)
    assert time.monotonic() - began >= TERMS.picture_seconds
    until(5, lambda: not psutil.pid_exists(hung))
    assert engine.facts().killed == before + 1
    assert int(read(engine)) != hung


def test_a_process_is_as_free_as_the_core_is_told_to_be() -> None:
    host = SecondEngineHost(version="1", make_engine=Puppet, terms=replace(TERMS, is_confined=False))
    host.tend()
    with open(f"/proc/{read(host.engine)}/status", encoding="ascii") as file:
        assert "Seccomp:\t0" in file.read()
    host.close()


def test_who_waits_less_is_told_so_in_time_and_the_engine_is_there_for_the_next(engine: SecondEngine) -> None:
    for _ in range(12):  # so that it is known to be quick
        read(engine)
    with pytest.raises(EngineTimeoutError):
        read(engine, HANG, seconds=0.5)
    assert read(engine)


@pytest.mark.parametrize(("order", "error"), [(FAIL, FailedToProcessError), (LATE, EngineTimeoutError)])
def test_what_the_engine_raises_is_raised_here_and_costs_no_process(
    engine: SecondEngine, order: int, error: type[Exception]
) -> None:
    first = read(engine)
    with pytest.raises(error):
        read(engine, order)
    assert read(engine) == first


def test_lines_beyond_the_picture_are_not_believed(engine: SecondEngine) -> None:
    with pytest.raises(FailedToProcessError, match="malformed"):
        read(engine, LIE)
    assert read(engine)


def test_memory_is_bounded(engine: SecondEngine) -> None:
    assert read(engine, HUNGRY) == "no-memory"


def test_a_picture_that_is_no_picture_is_not_even_sent() -> None:
    with hosted() as host:  # its own: a picture of another test is counted a moment after its answer has come
        engine = host.engine
        for picture in (
            Picture(pixels=b"x", width=2, height=1, dpi=None),
            Picture(pixels=b"", width=0, height=0, dpi=None),
            Picture(pixels=bytes(70_000), width=70_000, height=1, dpi=None),
        ):
            with pytest.raises(FailedToProcessError, match="a size that the second engine does not read"):
                engine.read(picture, (), timeout_seconds=5)
        assert read(engine), "whatever had been sent before would have been read, or refused, before this"
        until(5, lambda: engine.facts().pictures >= 1)
        facts = engine.facts()
        assert (facts.pictures, facts.busy, facts.refused, facts.loads) == (1, 0, 0, 1)


def test_four_callers_are_served_one_after_another_and_each_gets_its_own(engine: SecondEngine) -> None:
    widths = range(50, 54)

    def ask(width: int) -> int:
        lines = engine.read(a_picture(SLOW, width=width), (), timeout_seconds=20)
        return lines[0].words[0].box[2]

    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, widths)) == list(widths)
    assert time.monotonic() - began >= 4 * SLOW_SECONDS


def test_garbage_is_refused_and_harms_nobody(engine: SecondEngine) -> None:
    first, refused = read(engine), engine.facts().refused
    for blob in (b"", b"x", bytes(28), bytes(100), b"2ndread1" + bytes(20)):
        engine._outlet.send(blob)
    assert read(engine) == first
    assert engine.facts().refused == refused + 4  # nothing at all is no message


def test_nobody_waits_in_vain_behind_a_long_queue() -> None:
    with hosted() as host:
        engine = host.engine
        until(10, lambda: bool(read(engine)))
        for _ in range(3):
            read(engine, SLOW)
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(read, engine, SLOW, seconds=20) for _ in range(7)]
            until(10, lambda: engine.facts().waiting >= 4)
            with pytest.raises(EngineTimeoutError):
                read(engine, seconds=2 * SLOW_SECONDS)
            assert engine.facts().busy == 1, "it was refused without waiting"
            assert all(task.result() for task in asked)


def test_a_request_whose_sender_is_gone_is_not_read() -> None:
    with hosted() as host:
        engine = host.engine
        read(engine)
        until(5, lambda: engine.facts().state == State.IDLE)
        waiting = threading.Thread(target=read, args=(engine, SLOW))
        waiting.start()
        until(5, lambda: engine.facts().state == State.READING)
        ours, theirs = second_wire.pair()
        pixels = second_wire.sealed(a_picture(HANG).pixels)
        second_wire.send_request(
            engine._outlet, a_picture(HANG), deadline=time.monotonic() + 60, pixels=pixels, reply=theirs.fileno()
        )
        for descriptor in (ours, theirs):
            descriptor.close()
        os.close(pixels)
        waiting.join()
        assert read(engine)
        assert engine.facts().killed == 0


def test_an_engine_that_nobody_needs_is_unloaded_and_loaded_again() -> None:
    with hosted(idle_seconds=0.3) as host:
        first = int(read(host.engine))
        until(5, lambda: host.engine.facts().state == State.UNLOADED)
        assert not psutil.pid_exists(first)
        assert int(read(host.engine)) != first
        assert host.engine.facts().loads == 2


def test_an_engine_that_cannot_be_loaded_is_tried_again_after_growing_pauses() -> None:
    with hosted(Unloadable) as host:
        began = time.monotonic()
        while time.monotonic() - began < 1.5:
            with pytest.raises(FailedToProcessError):
                read(host.engine)
        assert 2 <= host.engine.facts().died <= 4
        until(5, lambda: host.engine.facts().state == State.PAUSED)


def test_where_no_process_can_be_had_nobody_waits_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    outlet, inlet = second_wire.pair()
    board = StateBoard()
    keeper = threading.Thread(target=Keeper(inlet, board, Puppet, TERMS).run)
    keeper.start()

    def no_fork() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", no_fork)
    engine = SecondEngine(outlet, version="1", board=board)
    try:
        for _ in range(3):
            began = time.monotonic()
            with pytest.raises(FailedToProcessError) as failure:
                read(engine)
            assert not isinstance(failure.value, EngineTimeoutError)
            assert time.monotonic() - began < 4
        until(5, lambda: engine.facts().state == State.PAUSED)
    finally:
        outlet.close()
        keeper.join()
        inlet.close()


def test_an_engine_that_takes_too_long_to_load_is_killed() -> None:
    with hosted(SlowToLoad, load_seconds=0.3) as host:
        with pytest.raises(FailedToProcessError):
            read(host.engine, seconds=20)
        assert host.engine.facts().killed >= 1


def test_a_keeper_that_is_killed_takes_its_engine_along_and_is_replaced() -> None:
    with hosted() as host:
        old = int(read(host.engine))
        keeper_of(host).kill()
        until(5, lambda: not psutil.pid_exists(old))
        with pytest.raises(FailedToProcessError):  # nobody is there to hear it
            read(host.engine, seconds=1.0)
        host.tend()
        assert int(read(host.engine)) != old


def test_requests_of_a_keeper_that_dies_in_the_middle_fail_at_once() -> None:
    with hosted() as host:
        read(host.engine)
        until(5, lambda: host.engine.facts().state == State.IDLE)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(read, host.engine, HANG)
            until(5, lambda: host.engine.facts().state == State.READING)
            began = time.monotonic()
            keeper_of(host).kill()
            with pytest.raises(FailedToProcessError) as failure:
                asked.result()
            assert not isinstance(failure.value, EngineTimeoutError)
            assert time.monotonic() - began < 4, "it was waited for as if it were not there"


def test_nothing_is_left_when_the_master_is_killed() -> None:
    code = (
        "import os, time\n"
        "from tests.integration.ocr_core.test_second_keeper import *\n"
        "host = SecondEngineHost(version='1', make_engine=Puppet, terms=TERMS)\n"
        "host.tend()\n"
        "print(read(host.engine), host._keeper, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as master:
        assert master.stdout is not None
        family = [int(pid) for pid in master.stdout.readline().split()]
        assert len(family) == 2
        assert all(map(psutil.pid_exists, family))
        master.kill()
    until(5, lambda: not any(map(psutil.pid_exists, family)))


def test_the_engine_process_is_bound(engine: SecondEngine) -> None:
    process = psutil.Process(int(read(engine)))
    keeper = process.parent()
    assert keeper is not None
    soft, hard = process.rlimit(psutil.RLIMIT_DATA)
    # What other tests left in this process is inherited; an engine's keeper brings next to nothing.
    assert MEMORY_BYTES <= soft == hard <= MEMORY_BYTES + OwnMemory().data_bytes() + 64 * 2**20
    with open(f"/proc/{process.pid}/oom_score_adj", encoding="ascii") as file:
        assert int(file.read()) >= 500
    until(5, lambda: len(ways_out(keeper.pid)) == 3)  # the inlet, the sign of life, the engine
    until(5, lambda: len(ways_out(process.pid)) == 1)
    with open(f"/proc/{process.pid}/status", encoding="ascii") as file:
        assert "Seccomp:\t2" in file.read()


def test_signals_to_the_group_are_not_for_them(engine: SecondEngine) -> None:
    process = psutil.Process(int(read(engine)))
    keeper = process.parent()
    assert keeper is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        keeper.send_signal(number)
        process.send_signal(number)
    assert int(read(engine)) == process.pid
