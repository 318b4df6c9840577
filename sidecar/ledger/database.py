"""Connections to the ledger's database, and what is said when it fails.

Invariant: every connection commits with `synchronous=FULL`, and a failure of SQLite leaves as a
`LedgerUnavailableError`. Damage is told apart from a disk that is full or out of reach, and noted in a file beside the
database: the next start repairs before anything serves. The database is its owner's alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import stat
from pathlib import Path

from sidecar.errors import LedgerUnavailableError
from sidecar.settings import DAMAGED_SUFFIX

USERS_SUFFIX = ".lock"
ASIDE_FOLDER = "aside"
_BESIDE = ("-wal", "-shm", "-journal")
_BUSY_SECONDS = 10.0
_PASSING = {
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def connect(path: Path, *, query_only: bool = False) -> sqlite3.Connection:
    """Open the ledger; the caller begins and ends transactions itself.

    Raises:
        sqlite3.Error: It cannot be opened.
    """
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA journal_size_limit=16777216")
        if query_only:
            connection.execute("PRAGMA query_only=ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def create_private(path: Path) -> None:
    """Make an empty database that is its owner's alone, unless there is one; SQLite gives all beside it the same mode.

    One that is there is not opened: closing it would drop the locks that SQLite has on it in this process.

    Raises:
        OSError: It cannot be made.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def close_to_others(path: Path) -> None:
    """Take a database, what lies beside it and what was moved aside from the group: earlier releases let it read them.

    The core is in that group. What is somebody else's is left to its owner.
    """
    for one in (path, *(path.with_name(path.name + suffix) for suffix in _BESIDE), path.parent / ASIDE_FOLDER):
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(one.stat().st_mode)
            if mode & 0o077:
                one.chmod(mode & 0o700)


def unavailable(exc: Exception, path: Path) -> LedgerUnavailableError:
    """The failure in words; damage is also noted for the next start."""
    if is_damage(exc):
        note_damage(path, str(exc))
        return LedgerUnavailableError(
            f"{path}: {exc}",
            next_step="restart the service: the damaged file is moved aside and rebuilt then; delete nothing",
        )
    return LedgerUnavailableError(
        f"{path}: {exc}",
        next_step=f"check free space on {path.parent} and that the service's user owns it; delete nothing there",
    )


def is_damage(exc: Exception) -> bool:
    """Whether SQLite says that the file's content is broken."""
    code = getattr(exc, "sqlite_errorcode", None)
    return isinstance(exc, sqlite3.Error) and code is not None and (code & 0xFF) in _DAMAGE


def is_passing(exc: sqlite3.Error) -> bool:
    """Whether the disk or another process is at fault, and not the content."""
    code = getattr(exc, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF) in _PASSING


def is_full(exc: Exception) -> bool:
    """Whether the disk had no room."""
    if isinstance(exc, OSError):
        return exc.errno in (errno.ENOSPC, errno.EDQUOT)
    code = getattr(exc, "sqlite_errorcode", None)
    return isinstance(exc, sqlite3.Error) and code is not None and (code & 0xFF) == sqlite3.SQLITE_FULL


def damage_path(path: Path) -> Path:
    """The file that tells the next start of damage."""
    return path.with_name(path.name + DAMAGED_SUFFIX)


def recount_path(path: Path) -> Path:
    """The file that asks the web to offer its finished operations again, after a repair."""
    return path.with_name(path.stem + ".recount")


def note_damage(path: Path, cause: str) -> None:
    """Leave word for the next start; on a disk that takes nothing there is no more to be done."""
    with contextlib.suppress(OSError):
        descriptor = os.open(damage_path(path), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            os.write(descriptor, f"{cause}\n".encode())
        finally:
            os.close(descriptor)


def hold(path: Path, *, alone: bool = False) -> int | None:
    """Count as a user of the ledger, or as its only one; the kernel lets go of it with the descriptor.

    Args:
        path: The database.
        alone: Ask for it alone, as a repair must.

    Returns:
        The descriptor to close; None when somebody else has it (only when asked for alone), or when the folder takes
        no lock file.
    """
    try:
        descriptor = os.open(path.with_name(path.name + USERS_SUFFIX), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX | fcntl.LOCK_NB) if alone else fcntl.LOCK_SH)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
