"""What the core's processes give up before a stranger's bytes reach them, and what the kernel would not take.

Invariants:

* A process that reads documents keeps what is open and what it may read, and no way to anything else; it can take none
  of it back.
* Each step stands alone: one that the kernel, or a container around us, does not permit is told of and left out; the
  others are taken.
* Nothing is promised untried: `probe` confines a child, and what it tells is what happened to that child.
"""

import contextlib
import enum
import errno
import logging
import os
import resource
import stat
import sys
import sysconfig
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from ocr_core.confinement import landlock, privileges, seccomp, system_calls
from ocr_core.forked_process import fork

_log = logging.getLogger("ocr_core")

OPEN_FILES = 256
TASKS = 8192
"""Threads and processes of the user, all counted, beyond which this process starts no thread."""
FILE_BYTES = 1024**3
"""What one file may grow to: memory files hold pictures on their way to the second engine."""
_NO_CORE_DUMP_AT_ALL = 1  # 0 would still let the kernel pipe one to a collector
_DUMPED_MEMORY = Path("/proc/self/coredump_filter")
_SACRIFICED_FIRST = 500  # of 1000: when memory is short, the kernel ends who reads a page before who counts it
_OOM_SCORE = Path("/proc/self/oom_score_adj")

_READ_BY_LIBRARIES = (
    # Letters that a PDF names and does not hold, as pdfium looks for them; the time zone for the log.
    "/usr/share/fonts", "/usr/local/share/fonts", "/usr/share/X11/fonts", "/usr/share/zoneinfo", "/etc/localtime",
    "/sys/devices/system/cpu",
)  # fmt: skip


class Role(enum.StrEnum):
    """What a process is for."""

    KEEPER = "keeper"
    """Starts and watches others, and sees no document."""
    READER = "reader"
    """Decodes or recognises what strangers sent, and starts nothing but threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What one process gave up.

    Attributes:
        role: What the process is for.
        lowered: What was taken, each in a few words.
        refused: What the kernel or a container around us would not do, each with the reason.
    """

    role: Role
    lowered: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every step was taken."""
        return bool(self.lowered) and not self.refused

    def to_wire(self) -> dict[str, object]:
        """As `/health` tells it."""
        return {"complete": self.complete, "lowered": self.lowered, "refused": self.refused}


class _Steps:
    """Steps taken one after another, whether or not one before was possible."""

    def __init__(self) -> None:
        self.lowered: list[str] = []
        self.refused: list[str] = []

    def take(self, name: str, step: Callable[[], str | None]) -> None:
        try:
            detail = step()
        except OSError as exc:
            self.refused.append(f"{name}: {exc.strerror or exc}")
        else:
            self.lowered.append(f"{name} ({detail})" if detail else name)

    def result(self, role: Role) -> Confinement:
        return Confinement(role=role, lowered=tuple(self.lowered), refused=tuple(self.refused))


def confine(
    role: Role, *, readable: Iterable[Path] = (), cpu_seconds: int | None = None, with_filter: bool = True
) -> Confinement:
    """Give up what this process does not need. Irrevocable; never raises.

    To be called before the process starts a thread. With the filter, no library can be loaded later.

    Args:
        role: What the process is for.
        readable: What may still be opened for reading besides the libraries, unless by a keeper: folders and files.
        cpu_seconds: CPU time after which the process is killed, unless it is a keeper.
        with_filter: Whether system calls are filtered at once; else `finish` does it, when all is loaded.

    Returns:
        What was done.
    """
    steps = _Steps()
    if _tasks() > 1:
        steps.refused.append("threads that ran before: only the filter of system calls binds them")
    kept = _capabilities_to_keep(role)
    if role is not Role.KEEPER:
        steps.take("first to be ended when memory is short", _offer_to_be_ended)
    steps.take("limits", lambda: _limit(role, cpu_seconds))
    steps.take("no network", _leave_the_network)
    steps.take("no new privileges", privileges.gain_nothing_more)
    steps.take("no capabilities", lambda: _drop_capabilities(kept))
    if role is not Role.KEEPER:
        steps.take("files", lambda: _see_nothing_but(readable))
    found = steps.result(role)
    return finish(found) if with_filter else found


def finish(begun: Confinement) -> Confinement:
    """Filter the system calls of all threads, where `confine` was asked to leave that out. Never raises.

    Args:
        begun: What `confine` returned.
    """
    is_keeper = begun.role is Role.KEEPER
    policy = system_calls.for_keeping_processes() if is_keeper else system_calls.for_reading(os.getpid())
    try:
        seccomp.install(policy)
    except OSError as exc:
        return replace(begun, refused=(*begun.refused, f"system calls: {exc.strerror or exc}"))
    detail = "all but hostile ones" if is_keeper else "those of a list"
    return replace(begun, lowered=(*begun.lowered, f"system calls ({detail})"))


def probe(*, readable: Iterable[Path] = (), cpu_seconds: int | None = None) -> Confinement:
    """What a reader gives up on this machine, found out by confining a child. Never raises."""
    nothing = Confinement(
        role=Role.READER, refused=("everything: the process that tried it died, or could not be started",)
    )
    try:
        told_at, tell_at = os.pipe()
    except OSError:
        return nothing
    with os.fdopen(told_at, "rb") as told:
        with os.fdopen(tell_at, "wb", buffering=0) as tell:
            try:
                pid = fork()
            except OSError:
                return nothing
            if pid == 0:
                try:
                    with contextlib.suppress(BaseException):
                        found = confine(Role.READER, readable=readable, cpu_seconds=cpu_seconds)
                        tell.write(msgspec.json.encode(found))
                finally:
                    os._exit(0)
        blob = told.read()
    os.waitpid(pid, 0)
    try:
        return msgspec.json.decode(blob, type=Confinement)
    except msgspec.MsgspecError:
        return nothing


def log(found: Confinement | None) -> None:
    """Tell the log, in one line, how those are confined who see what strangers send; None: not at all."""
    if found is None:
        _log.warning("NOT CONFINED: with Core:Confinement=off a hostile document may do what this user may do")
    elif found.complete:
        _log.info("readers of documents are confined: %s", "; ".join(found.lowered))
    else:
        _log.warning(
            "readers of documents are confined, but for what this system refuses: %s. Done: %s",
            "; ".join(found.refused),
            "; ".join(found.lowered) or "nothing",
        )


def readable_models(tessdata: Path) -> list[Path]:
    """What a reader opens of a folder of models: all beneath it, and what links in it lead to."""
    links = (path for path in tessdata.glob("**/*.traineddata") if path.is_symlink())
    return [tessdata, *(path.resolve() for path in links)]


# ---- the steps ------------------------------------------------------------------------------------------------------


def _tasks() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1


def _offer_to_be_ended() -> None:
    if int(_OOM_SCORE.read_text()) < _SACRIFICED_FIRST:
        _OOM_SCORE.write_text(str(_SACRIFICED_FIRST))


def _limit(role: Role, cpu_seconds: int | None) -> str:
    _dump_nothing()
    if role is Role.KEEPER:
        return "no dump of memory"
    _lower(resource.RLIMIT_NOFILE, OPEN_FILES)
    _lower(resource.RLIMIT_NPROC, TASKS)
    _lower(resource.RLIMIT_FSIZE, FILE_BYTES + _log_bytes())
    for kind in (resource.RLIMIT_MSGQUEUE, resource.RLIMIT_MEMLOCK):
        _lower(kind, 0)
    if cpu_seconds is not None:
        _lower(resource.RLIMIT_CPU, cpu_seconds)
    told = [f"no dump of memory, {OPEN_FILES} files, {TASKS} tasks, {FILE_BYTES >> 20} MiB a file"]
    for kind, unit, name in (
        (resource.RLIMIT_AS, 2**20, "MiB of addresses"),
        (resource.RLIMIT_DATA, 2**20, "MiB of data"),
        (resource.RLIMIT_CPU, 1, "s of CPU"),
    ):
        soft, _ = resource.getrlimit(kind)
        if soft == resource.RLIM_INFINITY:
            continue
        told.append(f"{soft // unit} {name}")
        if kind != resource.RLIMIT_CPU:  # which a decoder is given anew for each document, below the hard limit
            resource.setrlimit(kind, (soft, soft))
    return ", ".join(told)


def _dump_nothing() -> None:
    """No image of this process's memory is kept when it crashes: there is a document in it."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    bound = _NO_CORE_DUMP_AT_ALL if hard == resource.RLIM_INFINITY else min(_NO_CORE_DUMP_AT_ALL, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (bound, bound))
    _DUMPED_MEMORY.write_text("0")


def _lower(kind: int, limit: int) -> None:
    soft, hard = resource.getrlimit(kind)
    soft, hard = (limit if bound == resource.RLIM_INFINITY else min(limit, bound) for bound in (soft, hard))
    resource.setrlimit(kind, (soft, hard))


def _log_bytes() -> int:
    """How long the log is if it goes to a file: it may still grow."""
    with contextlib.suppress(OSError):
        found = os.fstat(2)
        return found.st_size if stat.S_ISREG(found.st_mode) else 0
    return 0


def _leave_the_network() -> str:
    try:
        privileges.leave_the_network()
    except OSError:
        if seccomp.is_available():
            return "by the filter of system calls"
        raise
    return "a network of its own, empty"


def _capabilities_to_keep(role: Role) -> list[int]:
    """Root, and who was given it on purpose, may go on reading files of others: Landlock says which."""
    held = privileges.held_capabilities()
    wanted = [privileges.CAN_READ_ALL]
    if role is Role.KEEPER:
        wanted.append(privileges.CAN_DO_ALL_TO_FILES)
    return [number for number in wanted if held >> number & 1]


def _drop_capabilities(kept: Collection[int]) -> str | None:
    privileges.drop_capabilities(keep=kept)
    return None if not kept else "but for files of others" if len(kept) > 1 else "but for reading files of others"


def _see_nothing_but(readable: Iterable[Path]) -> str:
    try:
        known = landlock.restrict([*readable, *_libraries(), *map(Path, _READ_BY_LIBRARIES)])
    except OSError as exc:
        if exc.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise OSError(exc.errno, "the kernel has no Landlock; files of this user can be read, not written") from exc
        raise
    return f"Landlock {known}: nothing written, nothing read but libraries and models"


def _libraries() -> list[Path]:
    """Python's own folders and this package's: modules that are imported late, and lines for a traceback."""
    paths = sysconfig.get_paths()
    installed = [Path(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    # Not whatever else is on the path: a folder that someone works in may hold anything.
    installed += [Path(entry) for entry in sys.path if entry.endswith(("/site-packages", "/dist-packages"))]
    core = Path(__file__).parents[1]
    return [*installed, core, core.parent / "licenses"]
