"""A disk that misbehaves on command, and processes to run on it: the Python end of `io_faults.c`.

with Stage.on(library) as stage:                # one interpreter with the shim, everything imported
    played = stage.play(scenes.live, folder=…)  # a fork of it runs `live(tell, folder=…)`: no new interpreter per run

Within the fork, `Disk()` steers the shim. Whatever the function tells comes back in order, also when the fork is killed
or ends itself in the middle.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import gc
import importlib
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sidecar.log_levels import LogLevels
from sidecar.logs import configure_logs

SOURCE = Path(__file__).with_suffix(".c")
TIME_LIMIT_SECONDS = 120
HAS_COMPILER = shutil.which("cc") is not None
Tell = Callable[..., None]


def build(folder: Path) -> Path:
    """Compile the shim into a folder."""
    out = folder / "io_faults.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", out, SOURCE, "-pthread"], check=True)
    return out


class Kind(enum.IntFlag):
    """Kinds of calls, numbered as in the shim."""

    OPEN = 1
    OPEN_TO_READ = 2
    WRITE = 4
    SYNC = 8
    NAME = 16
    UNLINK = 32
    MKDIR = 64
    RESIZE = 128
    CHMOD = 256
    READ = 512


CHANGES = Kind.OPEN | Kind.WRITE | Kind.SYNC | Kind.NAME | Kind.UNLINK | Kind.MKDIR | Kind.RESIZE | Kind.CHMOD
NOTHING = Kind(0)
LASTING = {
    errno.ENOSPC: Kind.OPEN | Kind.WRITE | Kind.SYNC | Kind.NAME | Kind.MKDIR | Kind.RESIZE,
    errno.EROFS: CHANGES,
    errno.EIO: ~Kind(0),
}
"""What goes on failing on a disk that is full, read-only, broken."""


class Effect(enum.IntEnum):
    """What happens to the N-th call."""

    FAIL = 1
    SHORT = 2
    SHORT_THEN_FAIL = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        nth: At which call, counted from 1.
        effect: What happens to it.
        error: The errno, where something fails.
        lasting: Kinds of calls that go on failing after it; none for once.
        whole: Whether it lasts on everything, not only on the disk that it began on.
    """

    nth: int
    effect: Effect = Effect.FAIL
    error: int = errno.EIO
    lasting: Kind = NOTHING
    whole: bool = False

    def __str__(self) -> str:
        lasts = "" if not self.lasting else ", from then on everywhere" if self.whole else ", from then on"
        return f"call {self.nth}: {self.effect.name} {errno.errorcode[self.error]}{lasts}"


@dataclass(frozen=True, slots=True)
class Call:
    """One call that the shim counted."""

    number: int
    kind: Kind
    name: str
    path: str


class Disk:
    """Steers the shim in this process.

    Args:
        folder: What is watched; each folder in it stands for one disk.
        kinds: Which calls are counted, and may fail.
    """

    def __init__(self, folder: Path, kinds: Kind = ~Kind.READ) -> None:
        self._shim = ctypes.CDLL(None)
        self._shim.io_faults_first_hit.restype = ctypes.c_char_p
        self._shim.io_faults_count.restype = ctypes.c_long
        self._shim.io_faults_hits.restype = ctypes.c_long
        self._shim.io_faults_watch(os.fsencode(folder), int(kinds) & 0xFFFF)

    def arm(self, fault: Fault) -> None:
        """Let it happen."""
        self._shim.io_faults_arm(
            ctypes.c_long(fault.nth),
            int(fault.effect),
            fault.error,
            int(fault.lasting) & 0xFFFF,
            int(not fault.whole),
        )

    def lift(self) -> None:
        """Nothing goes wrong from here on."""
        self._shim.io_faults_lift()

    def leave_out_syncs(self) -> None:
        """Count syncs without doing them: what the process and others see is the same, and it is faster."""
        self._shim.io_faults_leave_out_syncs(1)

    def slow_syncs(self, folder: Path, seconds: float) -> None:
        """Every sync below a folder takes so long."""
        self._shim.io_faults_slow_syncs(os.fsencode(folder), ctypes.c_long(int(seconds * 1000)))

    def log_calls(self, path: Path) -> None:
        """Append every counted call to a file, for `calls_in`."""
        self._shim.io_faults_log_calls(os.fsencode(path))

    def trace(self, path: Path) -> None:
        """Append every call that succeeded to a file, for `tests.fakes.power_cuts`."""
        self._shim.io_faults_trace(os.fsencode(path))

    def mark(self, text: str) -> None:
        """Put a mark into the trace: what was promised to somebody by now."""
        self._shim.io_faults_mark(os.fsencode(text))

    @property
    def count(self) -> int:
        """Calls counted so far."""
        return int(self._shim.io_faults_count())

    @property
    def hits(self) -> int:
        """Calls that were made to fail, or were made short."""
        return int(self._shim.io_faults_hits())

    @property
    def first_hit(self) -> str:
        """Number, name and path of the first of them."""
        return os.fsdecode(self._shim.io_faults_first_hit())


@contextmanager
def by_somebody_else() -> Iterator[None]:
    """What happens within is done by another process than the one on the faulty disk; nothing of it is counted."""
    shim = ctypes.CDLL(None)
    if not hasattr(shim, "io_faults_pause"):
        yield
        return
    shim.io_faults_pause(1)
    try:
        yield
    finally:
        shim.io_faults_pause(0)


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A temporary folder in memory where that is possible: hundreds of lives are written there, and thrown away."""
    memory = Path("/dev/shm")
    in_memory = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 256 * 2**20
    with tempfile.TemporaryDirectory(prefix="lives-", dir=memory if in_memory else None) as name:
        yield Path(name)


def calls_in(path: Path) -> list[Call]:
    """The calls that `Disk.log_calls` wrote."""
    calls = []
    for line in path.read_text().splitlines():
        number, kind, name, where = line.split("\t")
        calls.append(Call(int(number), Kind(int(kind)), name, where))
    return calls


# ---- processes ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Played:
    """What came back from one fork.

    Attributes:
        told: What it told, in order.
        died: How it ended, when not by itself: an exception's text, or a signal.
    """

    told: list[tuple[Any, ...]] = field(default_factory=list)
    died: str = ""

    def all(self, name: str) -> list[tuple[Any, ...]]:
        """The rest of everything told under a name."""
        return [one[1:] for one in self.told if one[0] == name]

    def last(self, name: str, default: Any = None) -> Any:
        """The first value of the last thing told under a name."""
        found = self.all(name)
        return found[-1][0] if found else default


class Stage:
    """An interpreter that has the shim loaded and everything imported, and forks once per run.

    Args:
        library: The compiled shim; None for none.
        modules: What it imports before the first fork.
        rehearsal: A module's function, run once before the first fork, so that what is imported late is imported:
            forks that give up their rights may not be able to read the interpreter's files.
    """

    def __init__(
        self, library: Path | None, modules: tuple[str, ...] = (), *, rehearsal: Callable[[], None] | None = None
    ) -> None:
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        scene = None if rehearsal is None else (rehearsal.__module__, rehearsal.__qualname__)
        if library is not None:
            environment["LD_PRELOAD"] = str(library)
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import tests.fakes.io_faults as own; own.serve({modules!r}, {scene!r})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=Path(__file__).parents[2],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def play(self, function: Callable[..., None], **words: Any) -> Played:
        """Run `function(tell, **words)` in a fork; it must be a module's function, and all words must be picklable."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        _send(self._process.stdin.fileno(), (function.__module__, function.__qualname__, words))
        played = Played()
        while True:
            message = _receive(self._process.stdout.fileno())
            if message is None:
                raise RuntimeError("the stage is gone")
            if message[0] == "end":
                played.died = message[1]
                return played
            played.told.append(message[1])

    def close(self) -> None:
        """End the interpreter."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


def serve(modules: tuple[str, ...], rehearsal: tuple[str, str] | None = None) -> None:
    """Body of a stage's process: one fork per request, until the requests end."""
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # nobody's print disturbs the answers
    configure_logs(LogLevels(rules=(("", "", "None"),)), process="meter")
    for module in modules:
        importlib.import_module(module)
    if rehearsal is not None:
        getattr(importlib.import_module(rehearsal[0]), rehearsal[1])()
    gc.collect()
    gc.freeze()
    while (request := _receive(requests)) is not None:
        pid = os.fork()
        if pid == 0:
            _perform(answers, *request)
        _, status = os.waitpid(pid, 0)
        died = ""
        if os.WIFSIGNALED(status):
            died = f"signal {signal.Signals(os.WTERMSIG(status)).name}"
        elif os.WEXITSTATUS(status) == 70:
            died = "an exception, told before"
        _send(answers, ("end", died))


def _perform(answers: int, module: str, name: str, words: dict[str, Any]) -> None:
    signal.alarm(TIME_LIMIT_SECONDS)

    def tell(*what: Any) -> None:
        _send(answers, ("told", what))

    code = 0
    try:
        getattr(importlib.import_module(module), name)(tell, **words)
    except BaseException:  # noqa: BLE001  a fork must never return into the loop of its parent
        tell("unnamed", "the fork", traceback.format_exc())
        code = 70
    os._exit(code)


def _send(to: int, message: object) -> None:
    body = pickle.dumps(message)
    rest = memoryview(struct.pack("<I", len(body)) + body)
    while rest:
        rest = rest[os.write(to, rest) :]


def _receive(source: int) -> Any:
    head = _exactly(source, 4)
    return None if head is None else pickle.loads(_exactly(source, struct.unpack("<I", head)[0]) or b"")


def _exactly(source: int, length: int) -> bytes | None:
    got = b""
    with suppress(ConnectionResetError):
        while len(got) < length:
            piece = os.read(source, length - len(got))
            if not piece:
                return None
            got += piece
    return got
