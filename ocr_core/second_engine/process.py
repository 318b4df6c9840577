"""The process that the second engine lives in: made for it, bound, and thrown away when anything is wrong with it.

Invariants:

* The heavy libraries are imported here and nowhere else, after the fork.
* One picture at a time; the keeper watches the time and kills, so nothing here needs to be trusted to end.
* The kernel's out-of-memory killer takes this process before any worker, and a limit on its memory comes before that.
* Nothing that the libraries print gets out; no core dump is written.
"""

import ctypes
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from ocr_core import limits
from ocr_core.confinement import Role, confine, finish
from ocr_core.engine import OcrEngine
from ocr_core.errors import EngineTimeoutError, FailedToProcessError
from ocr_core.forked_process import be_known_as, disconnect_all_but
from ocr_core.second_engine import wire as second_wire
from ocr_core.second_engine.wire import Request

LOADED = b"L"
NEXT = b"N"
"""The picture is done with, one way or another."""

NOT_LOADED = 3
"""How it exits when the engine cannot be loaded."""

MEMORY_BYTES = 1_100_000_000
_ADDRESS_SPACE_BYTES = 3 * 1024**3  # threads reserve more than they use
_OOM_SCORE = 700
_NICENESS = 5
_M_ARENA_MAX = -8
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_STANDARD = (0, 1, 2)

_READ_BY_LOADER = tuple(
    Path(name)
    for name in (
        "/lib",
        "/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/usr/local/lib",
        "/etc/ld.so.cache",
        "/proc/cpuinfo",
        "/proc/meminfo",
        "/proc/self",
    )
)

EngineFactory = Callable[[], OcrEngine]


def rapid_engine() -> OcrEngine:
    """The engine, its heavy libraries imported now."""
    # Each would start a thread for each CPU; numpy has no work for them here.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    from ocr_core.second_engine.rapid import RapidEngine

    return RapidEngine()


def leave_family(keep: Iterable[int]) -> None:
    """Make a forked process its own: signals to the group are not for it, and files of the family are closed.

    Args:
        keep: Descriptors that it needs beyond the standard ones.
    """
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGCHLD, signal.SIGALRM, signal.SIGWINCH):
        signal.signal(number, signal.SIG_DFL)
    disconnect_all_but(keep)


def live(keeper: socket.socket, make_engine: EngineFactory, *, parent_pid: int, is_confined: bool = True) -> None:
    """Be the engine's process until the keeper has no more use for it.

    Args:
        keeper: Requests come from here, and are acknowledged here.
        make_engine: Makes the engine.
        parent_pid: The keeper.
        is_confined: Whether the process gives up what it does not need.
    """
    limits.die_with_parent(signal.SIGKILL, parent_pid=parent_pid)
    be_known_as("second-engine")
    leave_family([keeper.fileno()])
    os.nice(_NICENESS)  # pages that read well go before those that have to be read again
    _limit()
    # Before there are threads; what the libraries load comes after it, so that the filter of system calls is the last.
    begun = confine(Role.READER, readable=_READ_BY_LOADER, with_filter=False) if is_confined else None
    try:
        engine = make_engine()
        engine.preload(())
    except (FailedToProcessError, ImportError):
        os._exit(NOT_LOADED)
    if begun is not None:
        finish(begun)
    keeper.send(LOADED)
    while (request := second_wire.receive_request(keeper, wait=True)) is not None:
        try:
            _answer(request, engine)
        finally:
            request.close()
        keeper.send(NEXT)


def _answer(request: Request, engine: OcrEngine) -> None:
    try:
        picture = request.picture()
        lines = engine.read(picture, (), timeout_seconds=max(0.0, request.deadline - time.monotonic()))
        second_wire.send_lines(request, lines)
    except EngineTimeoutError:
        request.answer(second_wire.TOO_LATE)
    except (FailedToProcessError, second_wire.WireError, OSError):
        request.answer(second_wire.FAILED)


def _limit() -> None:
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_ARENA_MAX, 2)  # an arena for each thread holds on to what the last page needed
    silence = os.open(os.devnull, os.O_RDWR)
    for descriptor in _STANDARD:
        os.dup2(silence, descriptor)
    os.close(silence)
    with suppress(OSError):  # a host without /proc; the limits below still hold
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE), encoding="ascii")
    memory = limits.OwnMemory()
    inherited = memory.data_bytes()
    memory.close()
    for kind, most in (
        (resource.RLIMIT_DATA, inherited + MEMORY_BYTES),
        (resource.RLIMIT_AS, inherited + _ADDRESS_SPACE_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (bound, bound))
