"""The authority's database, and the only room of `licenses` that knows which one it is.

Invariants:

* A change is one transaction, `BEGIN IMMEDIATE` to `COMMIT`, with `synchronous=FULL`: it is on the disk as a whole
  before the answer leaves, or nothing of it is.
* Whatever the database refuses leaves as an `AuthorityError`: a full disk, a locked, damaged or missing file as
  `UnknownStateError`, one that is busy for longer than a caller should wait as `BusyError`, a name or id that is there
  already as `ConflictError`. No error of the library escapes.
* It is its owner's alone, mode 0600, as the key files are; one that others may open is refused.
* Migrations run once, before anything is read; a database that a newer version has written to is left alone.
* Each thread has a connection of its own, and none survives a fork.

Statements are SQL with parameters, the same for any room; only this file would have to learn another database.
"""

import contextlib
import errno
import os
import re
import sqlite3
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from licenses import durable
from licenses.authority.migrations import MIGRATIONS, Migration
from licenses.authority.sql import Database as Library
from licenses.authority.sql import Migrations
from licenses.errors import AuthorityError, BusyError, ConflictError, UnknownStateError, remedy
from licenses.strict_json import parse_instant

BUSY_SECONDS = 10.0
"""How long a change waits for another one, in seconds."""
RETRY_SECONDS = 5
"""What a caller is told to wait when that was too short, in seconds."""
RESERVE_BYTES = 64 * 1024**2
"""So much of its disk is left to the database, whatever arrives, in bytes."""

Params = Sequence[Any] | Mapping[str, Any]

_APPLICATION_ID = 0x746F6C6C  # "toll": no other program's database, nor another one of this product, is taken for ours
_SET = "licenses.authority"
_FEW_PAGES = 64 * 1024
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_ACCESS = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY}
_TAKEN = {sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_ROWID}


class Changed(NamedTuple):
    """What a statement did.

    Attributes:
        rows: How many rows it changed.
        last_id: The row id of the last row that it inserted.
    """

    rows: int
    last_id: int


class Transaction:
    """What may be done between begin and commit; made by `Database.writing` alone."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def execute(self, sql: str, params: Params = ()) -> Changed:
        """Run one statement that returns no rows.

        Raises:
            AuthorityError: The database refused it.
        """
        try:
            cursor = self._connection.execute(sql, params)
            return Changed(cursor.rowcount, cursor.lastrowid or 0)
        except sqlite3.Error as exc:
            raise _refusal(exc, self._path) from exc

    def execute_many(self, sql: str, rows: Iterator[Params] | Sequence[Params]) -> None:
        """Run one statement for each row of parameters.

        Raises:
            AuthorityError: The database refused it.
        """
        try:
            self._connection.executemany(sql, rows)
        except sqlite3.Error as exc:
            raise _refusal(exc, self._path) from exc

    def query(self, sql: str, params: Params = ()) -> Iterator[dict[str, Any]]:
        """The rows that a statement returns, with what this transaction has changed so far.

        Raises:
            AuthorityError: The database refused it.
        """
        return _rows(self._connection, self._path, sql, params)

    def one(self, sql: str, params: Params = ()) -> dict[str, Any] | None:
        """The first of these rows; None without any."""
        return next(self.query(sql, params), None)


@dataclass(slots=True, eq=False, weakref_slot=True)
class _Session:
    """One thread's connection; it is closed when the thread has ended."""

    connection: sqlite3.Connection
    pid: int
    depth: int = 0


class Database:
    """An open database. Safe to share between threads; each forked process opens connections of its own.

    Made by `open_database`.

    Args:
        path: The file, migrated.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._turn = threading.Lock()
        self._sessions: weakref.WeakSet[_Session] = weakref.WeakSet()
        self._sessions_lock = threading.Lock()

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """One change, committed at the end, or rolled back when an exception leaves the block.

        Within a block of the same thread, this is a part of that change: it is undone alone if an exception leaves it,
        and is on the disk when the outer block ends.

        Raises:
            BusyError: Others kept the database for longer than `BUSY_SECONDS`.
            UnknownStateError: The disk is full, or the database cannot be written; nothing was changed.
        """
        session = self._session()
        if session.depth:
            yield from self._part(session)
            return
        if not self._turn.acquire(timeout=BUSY_SECONDS):
            raise _busy(self.path)
        try:
            yield from self._whole(session)
        finally:
            self._turn.release()

    def query(self, sql: str, params: Params = ()) -> Iterator[dict[str, Any]]:
        """The rows that a statement returns, in its order, one by one.

        Within `writing` of the same thread it sees what was changed there. Take all rows, or drop the iterator, before
        the thread begins a change: a change cannot begin on a view of the past.

        Raises:
            AuthorityError: The database refused it.
        """
        return _rows(self._session().connection, self.path, sql, params)

    def one(self, sql: str, params: Params = ()) -> dict[str, Any] | None:
        """The first of these rows; None without any."""
        return next(self.query(sql, params), None)

    def copy_to(self, path: Path) -> None:
        """Write a whole and consistent copy, while others go on; for backups.

        Args:
            path: A file that is not there yet; it gets mode 0600.

        Raises:
            UnknownStateError: It cannot be written, or is there already.
        """
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            try:
                self._session().connection.execute("VACUUM INTO ?", [str(path)])
            except sqlite3.Error as exc:
                path.unlink(missing_ok=True)
                raise _refusal(exc, path) from exc
            durable.sync_folder(path.parent)
        except OSError as exc:
            raise _unreachable(exc, path) from exc

    def close(self) -> None:
        """Close the connections of all threads of this process."""
        with self._sessions_lock:
            sessions = list(self._sessions)
            self._sessions.clear()
        for session in sessions:
            if session.pid == os.getpid():
                session.connection.close()
        self._local = threading.local()

    def _session(self) -> _Session:
        session: _Session | None = getattr(self._local, "session", None)
        if session is None or session.pid != os.getpid():
            session = _Session(_connect(self.path), os.getpid())
            self._local.session = session
            with self._sessions_lock:
                self._sessions.add(session)
        return session

    def _whole(self, session: _Session) -> Iterator[Transaction]:
        connection = session.connection
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as exc:
            raise _refusal(exc, self.path) from exc
        session.depth = 1
        try:
            yield Transaction(connection, self.path)
            try:
                connection.execute("COMMIT")
            except sqlite3.Error as exc:
                raise _refusal(exc, self.path) from exc
        finally:
            session.depth = 0
            if connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")

    def _part(self, session: _Session) -> Iterator[Transaction]:
        connection, name = session.connection, f"part_{session.depth}"
        session.depth += 1
        done = False
        try:
            connection.execute(f"SAVEPOINT {name}")
            yield Transaction(connection, self.path)
            connection.execute(f"RELEASE {name}")
            done = True
        except sqlite3.Error as exc:
            raise _refusal(exc, self.path) from exc
        finally:
            session.depth -= 1
            if not done and connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute(f"ROLLBACK TO {name}")
                    connection.execute(f"RELEASE {name}")


def whole_sum(quantity: str) -> str:
    """The SQL that adds integers up in three columns, which `summed` puts together.

    SQLite's own sum ends in an error where it leaves 64 bits, and one customer's rows would end everybody's books. Here
    each column adds numbers of 22 bits at most: they stay within 64 up to 2**42 rows, and with 64 bytes or more to each
    that is more than SQLite's largest file holds.

    Args:
        quantity: The SQL of one integer.
    """
    return (
        f"sum({quantity} >> 42) AS high, sum(({quantity} >> 21) & 2097151) AS middle, sum({quantity} & 2097151) AS low"
    )


def summed(row: Mapping[str, Any]) -> int:
    """The sum in a row that was asked for with `whole_sum`."""
    high, middle, low = int(row["high"]), int(row["middle"]), int(row["low"])
    return (high << 42) + (middle << 21) + low


def kept_instant(text: str) -> datetime:
    """The UTC instant that a row holds.

    Raises:
        FormatError: It holds none.
    """
    return parse_instant(text, what="a time in the database")


def open_database(place: str | Path, *, create: bool = False, migrations: Sequence[Migration] = MIGRATIONS) -> Database:
    """Open the database and bring its schema up to date.

    Args:
        place: A path, or `sqlite:///` and a path, as other programs write it (`sqlite:////var/lib/…` is absolute).
        create: Make it, with mode 0600, if it is not there.
        migrations: What to bring it up to.

    Raises:
        UnknownStateError: It is not there, is open to others than its owner, is of another kind or of a newer version,
            or cannot be opened or written.
        BusyError: Others kept it for too long.
    """
    path = _path_of(place)
    try:
        if create:
            _make(path)
        elif not path.exists():
            raise UnknownStateError(
                f"there is no database at {path}", next_step=f"Make it: licenses authority init --database {path}"
            )
    except OSError as exc:
        raise _unreachable(exc, path) from exc
    connection = _connect(path)
    try:
        _migrate(connection, path, migrations)
    except sqlite3.Error as exc:
        raise _refusal(exc, path) from exc
    finally:
        connection.close()
    _require_private(path)  # now that it is ours: of any other file it would be no advice
    return Database(path)


def _path_of(place: str | Path) -> Path:
    if isinstance(place, Path):
        return place
    found = _SCHEME.match(place)
    if found is None:
        return Path(place)
    scheme = found[1].lower()
    if scheme != "sqlite":
        raise UnknownStateError(
            f"databases of the kind {scheme!r} are not supported", next_step="Give a path, or sqlite:/// and a path."
        )
    _, _, rest = place.partition(":///")
    if not rest:
        raise UnknownStateError(
            "the address of the database names no file", next_step="Give a path, or sqlite:/// and a path."
        )
    return Path(rest)


def _make(path: Path) -> None:
    durable.make_folders(path.parent, mode=0o700)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        durable.sync_folder(path.parent)


def _require_private(path: Path) -> None:
    """Refuse what others may open, as the key files are: they may have read it, or written what is billed."""
    wide: dict[Path, int] = {}
    for file in (Path(f"{path}{suffix}") for suffix in ("", "-wal", "-shm")):
        try:
            mode = file.stat().st_mode & 0o777
        except FileNotFoundError:
            continue  # the last to close the database removes the other two
        except OSError as exc:
            raise _unreachable(exc, path) from exc
        if mode & 0o077:
            wide[file] = mode
    if wide:
        raise UnknownStateError(
            f"others than its owner may open the database {path} (mode {max(wide.values()):04o})",
            next_step=f"Close it: chmod 600 {' '.join(map(str, wide))}",
        )


def _connect(path: Path) -> sqlite3.Connection:
    """A connection that begins and ends no transaction by itself."""
    try:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA recursive_triggers=ON")  # or INSERT OR REPLACE would delete behind a trigger
            connection.execute("PRAGMA journal_size_limit=16777216")
        except sqlite3.Error:
            connection.close()
            raise
    except sqlite3.Error as exc:
        raise _refusal(exc, path) from exc
    return connection


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration]) -> None:
    steps = Migrations(_SET)
    for migration in migrations:
        steps(name=migration.name)(_running(migration.statements))
    known = {migration.name for migration in migrations}
    library = Library(connection, execute_plugins=False)
    if not _is_up_to_date(library, steps, known, path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            if not _is_up_to_date(library, steps, known, path):  # nobody else can be at it now
                steps.apply(library)
                connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        connection.execute("PRAGMA journal_mode=WAL")


def _is_up_to_date(library: Library, steps: Migrations, known: Collection[str], path: Path) -> bool:
    """Whether nothing is to be done; what is newer, or (told within a transaction) not ours, is refused."""
    within = library.conn.in_transaction
    (found,) = library.execute("PRAGMA application_id").fetchone()
    if found != _APPLICATION_ID:
        if within and (found or library.table_names()):
            raise UnknownStateError(
                f"{path} is a database of something else", next_step="Give the path of the authority's database."
            )
        return False
    newer = sorted({step.name for step in steps.applied(library)} - set(known))
    if newer:
        raise UnknownStateError(
            f"{path} was written by a newer version, which knows {', '.join(newer)}",
            next_step="Install that version or a later one; the database is left as it is.",
        )
    return not steps.pending(library)


def _running(statements: Sequence[str]) -> Callable[[Library], None]:
    def run(library: Library) -> None:
        for statement in statements:
            library.execute(statement)

    return run


def _rows(connection: sqlite3.Connection, path: Path, sql: str, params: Params) -> Iterator[dict[str, Any]]:
    try:
        cursor = connection.execute(sql, params)
    except sqlite3.Error as exc:
        raise _refusal(exc, path) from exc
    try:
        names = [column[0] for column in cursor.description or ()]
        for row in cursor:
            yield dict(zip(names, row, strict=True))
    except sqlite3.Error as exc:
        raise _refusal(exc, path) from exc
    finally:
        cursor.close()


def _busy(path: Path) -> BusyError:
    return BusyError(f"the database {path} is busy", retry_after=RETRY_SECONDS)


def _refusal(exc: sqlite3.Error, path: Path) -> AuthorityError:
    """What the library said, in the words of this package."""
    extended: int = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    code = extended & 0xFF
    if code in _BUSY:
        return _busy(path)
    if extended in _TAKEN:
        return ConflictError(f"the database has another row of that name already: {exc}")
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and not _has_room(path.parent)):
        return UnknownStateError(
            f"the disk of the database {path} is full",
            next_step=f"Free some space on {path.parent}, then send the same again: nothing of it was kept.",
        )
    if code in _DAMAGE:
        return UnknownStateError(
            f"the database {path} is damaged, or no database: {exc}",
            next_step=f"Stop the service, keep {path} as it is, and put the newest backup in its place.",
        )
    if code in _ACCESS:
        return UnknownStateError(
            f"the database {path} cannot be opened or written: {exc}",
            next_step=remedy(_access(path.parent), path.parent, mode="u+rwx", uid=os.geteuid()),
        )
    return UnknownStateError(f"the database {path} refused: {exc}")


def _has_room(folder: Path) -> bool:
    """Whether the disk takes a few pages more; where SQLite maps memory it calls a full disk an I/O error."""
    try:
        facts = os.statvfs(folder)
    except OSError:
        return True
    return facts.f_bavail * facts.f_frsize >= _FEW_PAGES


def _access(folder: Path) -> OSError:
    """What most likely keeps SQLite from a folder: it is mounted read-only, or belongs to somebody else."""
    with contextlib.suppress(OSError):
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            return OSError(errno.EROFS, os.strerror(errno.EROFS))
    return PermissionError()


def _unreachable(exc: OSError, path: Path) -> UnknownStateError:
    return UnknownStateError(
        f"the database {path} cannot be made or reached: {exc.strerror or exc}",
        next_step=remedy(
            exc, path if isinstance(exc, FileExistsError) else path.parent, mode="u+rwx", uid=os.geteuid()
        ),
    )
