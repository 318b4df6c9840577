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
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from ocr_core import landlock, privileges, seccomp, system_calls

_log = logging.getLogger("ocr_core")

OPEN_FILES = 256
TASKS = 8192
"""Threads and processes of the user, all counted, beyond which this process starts no thread."""
FILE_BYTES = 1024**3
"""What one file may grow to: memory files hold pictures on their way to the second engine."""
_NO_CORE_DUMP_AT_ALL = 1  # 0 would still let the kernel pipe one to a collector
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
    """Decodes and reads documents."""


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


def confine(
    role: Role, *, readable: Iterable[Path] = (), cpu_seconds: int | None = None, with_filter: bool = True
) -> Confinement:
    """Give up what this process does not need. Irrevocable; never raises.

    To be called before the process starts a thread. With the filter, no library can be loaded later.

    Args:
        role: What the process is for.
        readable: What a reader may still open for reading besides the libraries: folders and files.
        cpu_seconds: CPU time after which a reader is killed.
        with_filter: Whether system calls are filtered at once; else `finish` does it, when all is loaded.

    Returns:
        What was done.
    """
    lowered: list[str] = []
    refused: list[str] = []

    def take(name: str, step: Callable[[], str | None]) -> None:
        try:
            detail = step()
        except OSError as exc:
            refused.append(f"{name}: {exc.strerror or exc}")
        else:
            lowered.append(f"{name} ({detail})" if detail else name)

    if _tasks() > 1:
        refused.append("threads that ran before: only the system call filter binds them")
    is_reader = role is Role.READER
    if is_reader:
        take("ended first when memory is short", _offer_to_be_ended)
    take("limits of files, tasks and dumps", lambda: _limit(is_reader=is_reader, cpu_seconds=cpu_seconds))
    take("no network", _leave_the_network)
    take("no new privileges", privileges.gain_nothing_more)
    take("no capabilities", lambda: _drop_capabilities(is_reader=is_reader))
    if is_reader:
        take("files", lambda: _see_nothing_but(readable))
    found = Confinement(role=role, lowered=tuple(lowered), refused=tuple(refused))
    return finish(found) if with_filter else found


def finish(begun: Confinement) -> Confinement:
    """Filter the system calls of all threads, where `confine` was asked to leave that out. Never raises.

    Args:
        begun: What `confine` returned.
    """
    is_reader = begun.role is Role.READER
    policy = system_calls.for_reading_documents(os.getpid()) if is_reader else system_calls.for_keeping_processes()
    try:
        seccomp.install(policy)
    except OSError as exc:
        return replace(begun, refused=(*begun.refused, f"system calls: {exc.strerror or exc}"))
    detail = "a list of what is allowed" if is_reader else "a list of what is not"
    return replace(begun, lowered=(*begun.lowered, f"system calls ({detail})"))


def probe(*, readable: Iterable[Path] = (), cpu_seconds: int | None = None) -> Confinement:
    """What a reader gives up on this machine, found out by confining a child. Never raises."""
    nothing = Confinement(role=Role.READER, refused=("everything: no child process could be started to try it",))
    try:
        told_at, tell_at = os.pipe()
    except OSError:
        return nothing
    try:
        pid = os.fork()
    except OSError:
        os.close(told_at)
        os.close(tell_at)
        return nothing
    if pid == 0:
        try:
            with contextlib.suppress(BaseException):
                os.write(tell_at, msgspec.json.encode(confine(Role.READER, readable=readable, cpu_seconds=cpu_seconds)))
        finally:
            os._exit(0)
    os.close(tell_at)
    with os.fdopen(told_at, "rb") as told:
        blob = told.read()
    os.waitpid(pid, 0)
    try:
        return msgspec.json.decode(blob, type=Confinement)
    except msgspec.MsgspecError:
        return Confinement(role=Role.READER, refused=("everything: the child that tried it died",))


def log(found: Confinement) -> None:
    """Tell the log, in one line, how readers are confined."""
    if not found.lowered and not found.refused:
        _log.warning("NOT CONFINED: Core:Confinement=off lets a hostile document do what this user may do")
    elif found.refused:
        _log.warning(
            "confined, but for what this system refuses: %s; done: %s",
            "; ".join(found.refused),
            "; ".join(found.lowered),
        )
    else:
        _log.info("readers are confined: %s", "; ".join(found.lowered))


# ---- the steps ------------------------------------------------------------------------------------------------------


def _tasks() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1


def _offer_to_be_ended() -> None:
    if int(_OOM_SCORE.read_text()) < _SACRIFICED_FIRST:
        _OOM_SCORE.write_text(str(_SACRIFICED_FIRST))


def _limit(*, is_reader: bool, cpu_seconds: int | None) -> str:
    _lower(resource.RLIMIT_CORE, _NO_CORE_DUMP_AT_ALL)
    if not is_reader:
        return "dumps"
    _lower(resource.RLIMIT_NOFILE, OPEN_FILES)
    _lower(resource.RLIMIT_NPROC, TASKS)
    _lower(resource.RLIMIT_FSIZE, FILE_BYTES + _log_bytes())
    for kind in (resource.RLIMIT_MSGQUEUE, resource.RLIMIT_MEMLOCK):
        _lower(kind, 0)
    if cpu_seconds is None:
        return f"{OPEN_FILES} files, {TASKS} tasks"
    _lower(resource.RLIMIT_CPU, cpu_seconds)
    return f"{OPEN_FILES} files, {TASKS} tasks, {cpu_seconds} s of CPU"


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


def _drop_capabilities(*, is_reader: bool) -> str | None:
    """Root, and who was given it on purpose, may go on reading files of others: Landlock says which."""
    keep = (privileges.CAN_READ_ALL,) if is_reader else (privileges.CAN_READ_ALL, privileges.CAN_DO_ALL_TO_FILES)
    kept_some = privileges.drop_capabilities(keep=keep)
    return ("but for reading files" if is_reader else "but for files") if kept_some else None


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
    return [*installed, Path(__file__).parent, Path(__file__).parent.parent / "licenses"]
