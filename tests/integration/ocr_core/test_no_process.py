"""A machine that permits no more processes for a while: the core reads on with what it has, and comes back to full."""

import enum
import errno
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from ocr_core.decoder_process import DecoderProcess
from ocr_core.server import CoreArbiter, CoreServer, make_slots
from ocr_core.settings import read_settings
from tests import pages
from tests.integration.ocr_core.running_core import RunningCore

SOURCE = Path(__file__).parents[2] / "fakes" / "fork_faults.c"
PAGE = pages.as_png(pages.printed_page(pages.LINES[:3], size=(1240, 500)))
WORKERS = 4
FAULT_SECONDS = 4.0  # longer than it takes to run through all slots, were none given back

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (make test installs one)")


class Refused(enum.IntFlag):
    """What is refused, numbered as in the shim; the master is the first process."""

    NOTHING = 0
    FORKS_OF_THE_FIRST = 1
    FORKS_OF_OTHERS = 2
    THREADS_OF_OTHERS = 4


class Limits:
    """Steers the shim in a core's processes."""

    def __init__(self, folder: Path) -> None:
        self._library = folder / "fork_faults.so"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", self._library, SOURCE, "-ldl", "-pthread"], check=True)
        self._told = folder / "fork_faults"
        self._told.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(self._library), "FORK_FAULTS_FILE": str(self._told)}

    def refuse(self, kinds: Refused) -> None:
        with self._told.open("r+b") as out:
            out.write(struct.pack("<I", kinds))

    def refused(self) -> int:
        return int(struct.unpack("<II", self._told.read_bytes())[1])


@contextmanager
def limited_core(limits: Limits) -> Iterator[RunningCore]:
    core = RunningCore(words=("Core:Workers=1", "Core:SecondEngine=off"))
    core.environment = limits.environment
    try:
        core.start()
        yield core
    finally:
        core.clean_up()


def has_decoder(worker: psutil.Process) -> bool:
    try:
        return any(child.status() != psutil.STATUS_ZOMBIE for child in worker.children())
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("kind", [Refused.FORKS_OF_THE_FIRST, Refused.FORKS_OF_OTHERS, Refused.THREADS_OF_OTHERS])
def test_a_core_that_may_start_no_process_serves_on_and_comes_back_to_full_number(
    kind: Refused, tmp_path: Path
) -> None:
    limits = Limits(tmp_path)
    with limited_core(limits) as core:
        assert core.process is not None
        name = core.put_document(PAGE)
        assert core.page(name)[0] == 200
        _, *killed = core.workers()
        limits.refuse(kind)
        for worker in killed:
            worker.kill()
        until = time.monotonic() + FAULT_SECONDS
        while time.monotonic() < until:
            assert core.process.poll() is None, core.log_text()
            # A worker whose decoder may start no thread learns of it a moment late.
            assert core.page(name)[0] in ({200, 503} if kind == Refused.THREADS_OF_OTHERS else {200})
            time.sleep(0.05)
        assert 0 < limits.refused() < 2 * WORKERS * FAULT_SECONDS, "it is not tried again, or without a pause"
        limits.refuse(Refused.NOTHING)
        until = time.monotonic() + 10
        while len([worker for worker in core.workers() if has_decoder(worker)]) < WORKERS:
            assert time.monotonic() < until, core.log_text()
            assert core.process.poll() is None, core.log_text()
            time.sleep(0.05)
        for _ in range(2 * WORKERS):
            assert core.page(name)[0] == 200
        assert "Traceback" not in core.log_text()
        assert core.stop() == 0


def test_a_fork_that_fails_costs_neither_a_slot_nor_a_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    settings = read_settings((f"Sidecar:CoreSocket={tmp_path / 'core.sock'}", "Core:Workers=1"), {})
    slots = make_slots(settings)
    server = CoreServer(settings, lambda *_: (), slots, decoder=DecoderProcess(), gatekeeper=None)  # type: ignore[arg-type]
    arbiter = CoreArbiter(server)
    arbiter.pid = os.getpid()
    monkeypatch.setattr(os, "fork", refused)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        arbiter.spawn_worker()
    assert len(os.listdir("/proc/self/fd")) == before
    assert arbiter.WORKERS == {}
    assert slots.give() == 0
    assert caplog.text.count("no process for another worker") == 1
