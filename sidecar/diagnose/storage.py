"""Where the service keeps things: folders, who may write them, how much room is left, how fast the disk is.

Invariants:

* A disk is tried with a file that has no name, so nothing is left behind however it ends.
* A look at a folder ends in time although a network file system may not.
* Root may write everywhere, the service may not: run by root, folders are judged for the service's user.
"""

from __future__ import annotations

import errno
import itertools
import os
import pwd
import shlex
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from licenses.model import READ_PAGES_METER
from sidecar.admission import attempts_allowed
from sidecar.bootstrap import ledger_path
from sidecar.clock import Clock
from sidecar.diagnose.check import Check, fail, ok, warn
from sidecar.errors import SidecarError
from sidecar.ledger import Ledger, LedgerSnapshot
from sidecar.settings import Settings

_NONE_BYTES = 1024 * 1024
_LOW_BYTES = 256 * 1024 * 1024
_FEW_INODES = 1000
_BLOCK = bytes(4096)
_TRIES = 3
_WRONG_OWNER = "wrong_owner"
_MOST_LICENSES = 1000
_SLOW_SECONDS = {"output": 2.0, "state": 0.2, "spool": 2.0}
"""What a write may take: each page waits for the state directory, each window for the output mount."""


@dataclass(frozen=True, slots=True)
class User:
    """Whom folders are judged for.

    Attributes:
        uid: User id.
        gid: Group id.
        is_other: Whether that is not who runs the checks.
    """

    uid: int
    gid: int
    is_other: bool = False

    def __str__(self) -> str:
        return f"{self.uid}:{self.gid}"

    def may_use(self, found: os.stat_result, wanted: int = 0o7) -> bool:
        """Whether it can be read (4), written (2) and searched (1), as its mode says."""
        shift = 6 if found.st_uid == self.uid else 3 if found.st_gid == self.gid else 0
        return self.uid == 0 or (stat.S_IMODE(found.st_mode) >> shift) & wanted == wanted


def service_user(settings: Settings) -> User:
    """Who the service runs as: whoever runs this; for root, the owner of the ledger, or of the state directory."""
    own = User(os.geteuid(), os.getegid())
    if own.uid != 0:
        return own
    for path in (ledger_path(settings), settings.state_directory):
        try:
            found = path.stat()
        except OSError:
            continue
        return User(found.st_uid, found.st_gid, is_other=found.st_uid != 0)
    return own


def ledger(settings: Settings, clock: Clock) -> tuple[LedgerSnapshot | None, Check]:
    """What the ledger holds; None when there is none, or none that can be read."""
    path = ledger_path(settings)
    try:
        is_there = path.exists()
    except OSError as exc:
        return None, fail("ledger", f"{path}: {exc.strerror}", "run this as the service's user, or as root")
    if not is_there:
        return None, warn("ledger", f"there is none yet at {path}", "it is made at the first start")
    try:
        opened = Ledger(path, clock=clock, instance="", version="")
        try:
            snapshot = opened.snapshot(READ_PAGES_METER)
        finally:
            opened.close()
    except SidecarError as exc:
        return None, fail("ledger", str(exc), exc.next_step or "run 'sidecar ledger check'; delete nothing")
    return snapshot, ok("ledger", f"{snapshot.size} entries, {snapshot.sealed_size} of them sealed")


def metering(settings: Settings, snapshot: LedgerSnapshot | None) -> Iterator[Check]:
    """Whether windows get out."""
    if snapshot is None:
        return
    if snapshot.failed_cycles:
        most = max(settings.max_attempts, attempts_allowed(settings, None))
        cause = f"{snapshot.failed_cycles} consecutive failed tries; the last: {snapshot.failure}"
        level = fail if snapshot.failed_cycles >= most else warn
        yield level("metering", cause, "mend that cause; the next try delivers all that is pending")
    else:
        waiting = "1 record file" if snapshot.pending_files == 1 else f"{snapshot.pending_files} record files"
        yield ok("metering", f"no failed try; {waiting} pending")


# ---- folders --------------------------------------------------------------------------------------------------------


def folder(name: str, path: Path, setting: str, user: User, settings: Settings) -> Iterator[Check]:
    """One folder: there, the service's, with room, and on a disk that answers."""
    found: list[Check] = []
    broken: list[OSError] = []

    def look() -> None:
        try:
            found.append(_looked_at(name, path, setting, user))
        except OSError as exc:
            broken.append(exc)

    thread = threading.Thread(target=look, name=f"look-{name}", daemon=True)
    thread.start()
    thread.join(settings.output_timeout_seconds)
    shown = shlex.quote(str(path))
    if found:
        yield found[0]
    elif broken:
        cause = f"{path}: {broken[0].strerror or broken[0]}"
        yield fail(name, cause, f"check the disk behind it: 'dmesg', 'findmnt -T {shown}' ({setting})")
    else:
        cause = f"{path} does not answer within {settings.output_timeout_seconds} s"
        yield fail(name, cause, f"check the disk or network file system behind it: 'findmnt -T {shown}' ({setting})")


def _looked_at(name: str, path: Path, setting: str, user: User) -> Check:
    shown = shlex.quote(str(path))
    try:
        found = path.stat()
    except FileNotFoundError:
        step = f"run 'mkdir -p {shown} && chown {user} {shown}', or mount a folder there ({setting})"
        return fail(name, f"{path} is not there", step)
    if not stat.S_ISDIR(found.st_mode):
        return fail(name, f"{path} is no folder", f"make or mount one there that belongs to {user} ({setting})")
    belongs = f"belongs to {found.st_uid}:{found.st_gid}, mode {stat.S_IMODE(found.st_mode):04o}"
    room = os.statvfs(path)
    if room.f_flag & os.ST_RDONLY:
        return fail(name, f"{path} is mounted read-only", f"mount it read-write ({setting})")
    may = user.may_use(found) if user.is_other else os.access(path, os.R_OK | os.W_OK | os.X_OK)
    if not may:
        cause = f"{path} {belongs}, and cannot be written by {user}, which the service runs as"
        step = f"run 'chown -R {user} {shown} && chmod u+rwx {shown}' on the host ({setting})"
        return fail(name, cause, step, code=_WRONG_OWNER)
    free = room.f_bavail * room.f_frsize
    if free < _NONE_BYTES or (room.f_files and not room.f_favail):
        what = f"{free // 1024:,} KiB" if free < _NONE_BYTES else "no room for another file"
        return fail(name, f"{path} is full: {what} left", f"free space there; delete no records ({setting})")
    try:
        seconds = _sync_seconds(path)
    except PermissionError:
        if not user.is_other:
            raise
        # A network file system may take root for nobody (NFS does: root_squash); the service's user may write there.
        cause = f"{path} {belongs}, {free // 2**20:,} MiB free; a write could not be tried as root"
        return warn(name, cause, f"run '{_as(user)} sidecar diagnose' ({setting})")
    told = f"{path} {belongs}, {free // 2**20:,} MiB free, a write is safe on disk after {1000 * seconds:.0f} ms"
    if free < _LOW_BYTES or (room.f_files and room.f_favail < _FEW_INODES):
        return warn(name, told, f"free some space there soon; delete no records ({setting})")
    if seconds > _SLOW_SECONDS.get(name, 2.0):
        step = f"{'each page waits' if name == 'state' else 'the service waits'} for it: use a faster disk ({setting})"
        return warn(name, told, step)
    return ok(name, told)


def _as(user: User) -> str:
    """What root puts before a command to run it as that user; in a container ids need no name."""
    name = _name_of(user.uid)
    return f"runuser -u {name} --" if name else f"setpriv --reuid={user.uid} --regid={user.gid} --clear-groups"


def _name_of(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def licenses_readable(path: Path, setting: str, user: User) -> Iterator[Check]:
    """Told when the licence folder, or a file in it, cannot be read; what the files say is looked at elsewhere."""
    try:
        for one in [path, *itertools.islice(path.iterdir(), _MOST_LICENSES)]:
            wanted = 0o5 if one.is_dir() else 0o4
            if not (user.may_use(one.stat(), wanted) if user.is_other else os.access(one, wanted)):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(one))
    except PermissionError as exc:
        cause = f"{exc.filename or path} cannot be read by {user}, which the service runs as"
        give = readable(path, user) if _owner(path) == 0 else f"chown -R {user} {shlex.quote(str(path))}"
        yield fail("licence folder", cause, f"run '{give}' on the host ({setting})", code=_WRONG_OWNER)
    except OSError:
        return


def readable(path: Path, user: User) -> str:
    """The command that lets the service, and the core in the same group, read a folder and not write it."""
    shown = shlex.quote(str(path))
    return f"chgrp -R {user.gid} {shown} && chmod -R g+rX {shown}"


def _owner(path: Path) -> int | None:
    try:
        return path.stat().st_uid
    except OSError:
        return None


def _sync_seconds(path: Path) -> float:
    """How long a small write takes until the disk has it: the middle one of a few.

    Raises:
        OSError: It cannot be written.
    """
    fd = _nameless(path)
    try:
        taken = []
        for number in range(_TRIES):
            started = time.monotonic()
            os.pwrite(fd, _BLOCK, number * len(_BLOCK))
            os.fsync(fd)
            taken.append(time.monotonic() - started)
    finally:
        os.close(fd)
    return sorted(taken)[_TRIES // 2]


def _nameless(path: Path) -> int:
    """A new file that is gone when it is closed."""
    try:
        return os.open(path, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:  # not every file system can do that
        named = path / f".diagnose-{os.getpid()}-{threading.get_ident()}"
        fd = os.open(named, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        named.unlink()
        return fd
