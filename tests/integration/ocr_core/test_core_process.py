"""The core as a process: its walls, its socket, its workers' lives."""

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from ocr_core.__main__ import EXIT_CONFIG, EXIT_PERMISSION, EXIT_UNAVAILABLE
from tests import pages
from tests.fakes.licences import NOW, a_license
from tests.integration.ocr_core.running_core import RunningCore, UnixConnection, is_alive, running_core

PAGE = pages.as_png(pages.printed_page(pages.LINES[:3], size=(1240, 500)))
_WORDS = " ".join(pages.LINES).split()


def a_slow_page() -> bytes:
    """A sheet full of small print: a second or more for one CPU."""
    lines = [" ".join(_WORDS[(7 * n + k) % len(_WORDS)] for k in range(16)) for n in range(75)]
    return pages.as_png(pages.printed_page(lines, size=(2480, 3508), dpi=300, points=7))


def code_of(told: dict[str, object]) -> object:
    error = told.get("error")
    return error["code"] if isinstance(error, dict) else None


def until(seconds: float, done: object, what: str) -> None:
    give_up = time.monotonic() + seconds
    while not done():  # type: ignore[operator]
        assert time.monotonic() < give_up, what
        time.sleep(0.02)


# ---- walls


def test_health_answers_without_licence_and_lease() -> None:
    with running_core(licensed=False) as core:
        status, told = core.get("/health")
        assert status == 200
        assert told["service"] == "ocr-core"
        assert told["cpu"] == {"supported": True, "reason": "AVX2 works"}
        assert told["license"]["standing"] == "none"  # type: ignore[index]
        assert told["workers"] == len(os.sched_getaffinity(0)) or told["workers"]


def test_the_core_alone_reads_nothing(core: RunningCore) -> None:
    name = core.put_document(PAGE)
    for path in ("/inspect", "/page"):
        status, told = core.request("POST", path, {"document": name, "page": 1}, lease=None)
        assert (status, code_of(told)) == (403, "LeaseRefused")


def test_a_lease_must_be_in_force(core: RunningCore) -> None:
    name = core.put_document(PAGE)
    for changes in (
        {"from_boottime_ms": 1000, "until_boottime_ms": 2000},
        {"license_sequence": 99},
        {"boot_id": "another"},
    ):
        status, told = core.request("POST", "/page", {"document": name, "page": 1}, lease=core.lease_header(**changes))
        assert (status, code_of(told)) == (403, "LeaseRefused")


def test_a_licence_that_is_taken_away_is_missed_within_two_seconds_and_found_again() -> None:
    with running_core() as core:
        name = core.put_document(PAGE)
        assert core.page(name)[0] == 200

        def all_workers_say(code: str | None) -> bool:
            told = [core.inspect(name)[1] for _ in range(3 * len(core.workers()))]
            return all(("error" not in answer) if code is None else code_of(answer) == code for answer in told)

        core.take_license_away()
        until(2, lambda: all_workers_say("LicenseRefused"), "the licence was not missed")
        core.put_license()
        until(2, lambda: all_workers_say(None), "the licence was not found again")


def test_a_licence_that_is_over_is_refused() -> None:
    over = replace(a_license(), expires_at=NOW - timedelta(days=9), termination_at=NOW - timedelta(days=2))
    with running_core(over) as core:
        status, told = core.page(core.put_document(PAGE))
        assert (status, code_of(told)) == (403, "LicenseRefused")


def test_a_cpu_without_avx2_is_refused_first(tmp_path: os.PathLike[str]) -> None:
    cpuinfo = os.path.join(tmp_path, "cpuinfo")
    with open(cpuinfo, "w") as file:
        file.write("flags : fpu sse avx\n")
    with running_core(licensed=False, words=(f"Core:CpuInfo={cpuinfo}",)) as core:
        status, told = core.page(core.put_document(PAGE))
        assert (status, code_of(told)) == (503, "CpuUnsupported")
        assert "AVX2" in str(told)
        assert core.get("/health")[1]["cpu"]["supported"] is False  # type: ignore[index]


# ---- requests


@pytest.mark.parametrize("name", pages.bad_files())
def test_a_bad_document_gets_its_code(core: RunningCore, name: str) -> None:
    blob, code = pages.bad_files()[name]
    status, told = core.inspect(core.put_document(blob))
    assert (status, code_of(told)) == (400, code)


def test_an_unknown_language_is_refused_at_inspection_and_at_the_page(core: RunningCore) -> None:
    name = core.put_document(PAGE)
    for status, told in (core.inspect(name, language="xx"), core.page(name, language="xx")):
        assert (status, code_of(told)) == (400, "NotSupportedLanguage")


def test_a_body_beyond_the_limit_is_refused(core: RunningCore) -> None:
    status, told = core.request("POST", "/page", b" " * 70_000)
    assert (status, code_of(told)) == (400, "BadArgument")


def test_a_picture_beyond_the_memory_of_a_worker_is_a_bad_image_and_the_worker_lives() -> None:
    rows = zlib.compressobj(1)
    pixels = b"".join(rows.compress(b"\0" + b"\xff" * 40_000) for _ in range(10_000)) + rows.flush()
    header = b"\x00\x00\x27\x10\x00\x00\x27\x10\x08\x06\x00\x00\x00"
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        pages.png_chunk(kind, data) for kind, data in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    )
    with running_core(words=("Core:WorkerMemoryMegabytes=512", "Core:Workers=1")) as core:
        before = {worker.pid for worker in core.workers()}
        status, told = core.page(core.put_document(bomb))
        assert (status, code_of(told)) == (400, "InvalidImage")
        assert core.page(core.put_document(PAGE))[0] == 200
        assert {worker.pid for worker in core.workers()} == before


# ---- workers


def test_there_are_more_workers_than_pages_at_once_so_that_health_answers_while_all_read() -> None:
    with running_core(words=("Core:Workers=1",)) as core:
        assert len(core.workers()) == 4
        assert core.get("/health")[1]["workers"] == 1
        name = core.put_document(a_slow_page())
        answers: list[int] = []
        reading = threading.Thread(target=lambda: answers.append(core.page(name)[0]))
        reading.start()
        time.sleep(0.3)
        assert core.get("/health")[0] == 200
        assert core.inspect(core.put_document(PAGE))[0] == 200
        assert reading.is_alive()
        reading.join()
        assert answers == [200]


def busy_worker(core: RunningCore) -> psutil.Process:
    """Who works just now; waits until one of them does."""

    def used(worker: psutil.Process) -> float:
        return float(sum(worker.cpu_times()[:2]))

    before = {worker: used(worker) for worker in core.workers()}
    give_up = time.monotonic() + 10
    while time.monotonic() < give_up:
        time.sleep(0.02)
        for worker, seconds in before.items():
            if used(worker) - seconds >= 0.1:
                return worker
    raise AssertionError("no worker works")


def test_a_worker_killed_in_the_middle_of_a_page_is_replaced() -> None:
    with running_core(words=("Core:Workers=1",)) as core:
        name = core.put_document(a_slow_page())
        lost: list[Exception] = []

        def ask() -> None:
            try:
                core.page(name)
            except OSError as exc:
                lost.append(exc)

        reading = threading.Thread(target=ask)
        reading.start()
        time.sleep(0.4)
        killed = busy_worker(core)
        killed.kill()
        reading.join(10)
        assert len(lost) == 1
        assert core.page(name)[0] == 200
        until(5, lambda: len(core.workers()) == 4, "the worker was not replaced")
        assert killed.pid not in {worker.pid for worker in core.workers()}


def test_a_page_that_takes_too_long_is_given_up() -> None:
    with running_core(words=("Core:Workers=1", "Core:PageTimeoutSeconds=1")) as core:
        lines = [" ".join(_WORDS[(3 * n + k) % len(_WORDS)] for k in range(26)) for n in range(130)]
        crowded = pages.printed_page(lines, size=(3400, 4400), dpi=300, points=6)
        status, told = core.page(core.put_document(pages.as_png(crowded)))
        if status == 200:
            pytest.skip("this machine reads a crowded page within a second")
        assert (status, code_of(told)) == (504, "FailedToProcess")
        assert core.page(core.put_document(PAGE))[0] == 200


def test_a_worker_that_is_stopped_in_the_middle_of_a_page_is_replaced_long_before_its_deadline() -> None:
    with running_core(words=("Core:Workers=1",)) as core:
        name = core.put_document(a_slow_page())
        lost: list[Exception] = []

        def ask() -> None:
            try:
                core.page(name)
            except OSError as exc:
                lost.append(exc)

        reading = threading.Thread(target=ask)
        reading.start()
        stopped = busy_worker(core)
        stopped.suspend()
        reading.join(10)
        assert len(lost) == 1
        until(5, lambda: not is_alive(stopped.pid), "the stopped worker is still there")
        until(5, lambda: len(core.workers()) == 4, "the worker was not replaced")
        assert core.page(name)[0] == 200


def lost_page(core: RunningCore, name: str) -> None:
    with contextlib.suppress(OSError):
        core.page(name)


def test_a_page_that_cost_two_workers_is_refused_to_the_third_and_others_are_read() -> None:
    with running_core(words=("Core:Workers=1",)) as core:
        name = core.put_document(a_slow_page())
        for _ in range(2):
            reading = threading.Thread(target=lost_page, args=(core, name))
            reading.start()
            lost = busy_worker(core)
            lost.kill()
            reading.join(10)
            until(10, lambda: not psutil.pid_exists(lost.pid), "the master does not see to the dead")  # noqa: B023
        status, told = core.page(name)
        assert (status, code_of(told)) == (500, "FailedToProcess")
        assert "twice" in str(told)
        assert core.page(core.put_document(PAGE))[0] == 200


@pytest.mark.slow
def test_a_caller_who_never_ends_his_request_holds_no_worker() -> None:
    with running_core(words=("Core:Workers=1",)) as core:
        before = {worker.pid for worker in core.workers()}
        for headers_end in (True, False):
            slow = UnixConnection(core.socket, 30)
            try:
                slow.putrequest("POST", "/page")
                slow.putheader("Tollgate-Lease", core.lease_header())
                slow.putheader("Content-Length", "1000")
                if headers_end:
                    slow.endheaders()  # and no body ever
                else:
                    slow.connect()
                    slow.sock.sendall(b"POST /pa")
                    assert slow.sock.recv(1) == b""  # closed
            finally:
                slow.close()
        assert core.page(core.put_document(PAGE))[0] == 200
        assert {worker.pid for worker in core.workers()} == before


def test_a_worker_that_has_grown_is_replaced_and_no_request_is_lost() -> None:
    # The smallest bound there is: every page is a worker's last.
    with running_core(words=("Core:Workers=2", "Core:WorkerRecycleMegabytes=32")) as core:
        name, lease = core.put_document(PAGE), core.lease_header()
        before = {worker.pid for worker in core.workers()}
        answers: list[int] = []

        def ask() -> None:
            answers.extend(
                core.request("POST", "/page", {"document": name, "page": 1}, lease=lease)[0] for _ in range(5)
            )

        callers = [threading.Thread(target=ask) for _ in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert answers == [200] * 20
        until(5, lambda: before.isdisjoint(worker.pid for worker in core.workers()), "nobody was replaced")


def test_no_worker_outlives_its_master(own_core: RunningCore) -> None:
    own_core.start()
    workers = [worker.pid for worker in own_core.workers()]
    assert workers
    own_core.stop(signal.SIGKILL)
    until(3, lambda: not any(is_alive(pid) for pid in workers), "a worker outlived its master")


def test_the_core_dies_with_who_started_it_if_told_so(own_core: RunningCore) -> None:
    script = (
        "import subprocess, sys, time\n"
        "core = subprocess.Popen([sys.executable, '-m', 'ocr_core', *sys.argv[1:]], stderr=subprocess.DEVNULL)\n"
        "print(core.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", script, *own_core.words, "Core:DieWithParent=true"], stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    try:
        until(10, own_core.socket.exists, "the core did not start")
        starter.kill()
        starter.wait()
        until(10, lambda: not is_alive(pid), "the core outlived its starter")
    finally:
        starter.stdout.close()
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


def text_of(told: dict[str, object]) -> list[object]:
    return [line["text"] for line in told["lines"]]  # type: ignore[attr-defined]


def test_a_page_alone_is_read_by_two_threads_and_reads_the_same_as_by_one() -> None:
    page = pages.as_png(pages.printed_page(pages.LINES * 3))
    read = {}
    for workers in (1, 2):
        with running_core(words=(f"Core:Workers={workers}",)) as core:
            status, told = core.page(core.put_document(page))
            assert status == 200
            read[workers] = text_of(told)
            # The second thread waits for the next page.
            assert sorted({worker.num_threads() for worker in core.workers()}) == list(range(1, workers + 1))
    assert read[1] == read[2] == list(pages.LINES * 3)


# ---- socket, start and stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly_within_seconds(own_core: RunningCore, number: signal.Signals) -> None:
    own_core.start()
    workers = [worker.pid for worker in own_core.workers()]
    started = time.monotonic()
    assert own_core.stop(number) == 0
    assert time.monotonic() - started < 3
    assert not any(is_alive(pid) for pid in workers)
    assert not own_core.socket.exists()


def test_it_finishes_the_page_it_reads_before_it_stops(own_core: RunningCore) -> None:
    own_core.start()
    name = own_core.put_document(a_slow_page())
    answers: list[int] = []
    reading = threading.Thread(target=lambda: answers.append(own_core.page(name)[0]))
    reading.start()
    time.sleep(0.3)
    assert own_core.stop() == 0
    reading.join()
    assert answers == [200]


def test_the_socket_is_for_its_user_and_group(core: RunningCore) -> None:
    mode = core.socket.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660


def test_a_stale_socket_is_replaced(own_core: RunningCore) -> None:
    own_core.start()
    own_core.stop(signal.SIGKILL)
    assert own_core.socket.exists()
    own_core.start()
    assert own_core.page(own_core.put_document(PAGE))[0] == 200


def test_a_second_core_leaves_the_first_alone(core: RunningCore) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "ocr_core", *core.words], capture_output=True, text=True, check=False
    )
    assert second.returncode == EXIT_UNAVAILABLE
    assert "another core" in second.stderr
    assert core.get("/health")[0] == 200


def test_something_else_in_the_way_is_not_removed(own_core: RunningCore) -> None:
    own_core.socket.parent.mkdir()
    own_core.socket.write_text("precious")
    own_core.start(wait=False)
    assert own_core.process is not None
    assert own_core.process.wait(10) == EXIT_CONFIG
    assert own_core.socket.read_text() == "precious"


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(own_core: RunningCore) -> None:
    own_core.socket.parent.mkdir(mode=0o500)
    own_core.start(wait=False)
    assert own_core.process is not None
    assert own_core.process.wait(10) == EXIT_PERMISSION
    assert str(os.getuid()) in own_core.log_text()


def test_garbage_on_the_socket_does_not_harm(core: RunningCore) -> None:
    for garbage in (b"", b"\0" * 100, b"GET / HTTP/9.9\r\n\r\n", b"POST /page HTTP/1.1\r\nContent-Length: -5\r\n\r\n"):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(core.socket))
            raw.sendall(garbage)
    assert core.page(core.put_document(PAGE))[0] == 200


def test_workers_whose_decoders_were_killed_are_replaced_before_anybody_is_sent_to_them(core: RunningCore) -> None:
    document = core.put_document(PAGE)
    workers = core.workers()
    for worker in workers:
        for decoder in worker.children():
            decoder.kill()
    until(10, lambda: not any(worker.is_running() for worker in workers), "a worker without a decoder goes on")
    for _ in range(4):
        assert core.page(document)[0] == 200


def test_only_master_and_workers_can_write_what_they_know_of_each_other() -> None:
    with running_core(words=("Core:Workers=1", "Core:SecondEngine=off")) as core:
        assert core.process is not None
        master = psutil.Process(core.process.pid)
        (shared,) = (line.split()[0] for line in mapped_and_shared(master.pid))
        for worker in core.workers():
            assert shared in {line.split()[0] for line in mapped_and_shared(worker.pid)}
            for decoder in worker.children():
                assert mapped_and_shared(decoder.pid) == []


def mapped_and_shared(pid: int) -> list[str]:
    """The memory without a name that a process shares and may write."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [line for line in lines if " rw-s " in line and "/dev/zero" in line]
