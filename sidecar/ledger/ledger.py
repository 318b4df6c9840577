"""The ledger's reads and writes.

Invariant: an entry, its idempotency key, the totals and the high water commit in one `BEGIN IMMEDIATE` transaction
with `synchronous=FULL`, or not at all. Callers that wait together are committed together, each learning its own
outcome. A window is closed by appending its `window` entry and its `seal` row in one transaction; sealing and writing
the record file follow, each step repeatable after a crash.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlite_utils.db import Database

from licenses.usage_log.entry import encode_entry, leaf_hash
from licenses.usage_log.merkle import Frontier
from sidecar.clock import Clock, EffectiveTime, HighWater, effective_time, instant, month_of
from sidecar.errors import LedgerConflictError, LedgerUnavailableError
from sidecar.ledger.migrations import LEDGER_MIGRATIONS

CONTAINER_TYPE = "ComputerVision.ComputerVisionRead"
API_TYPE = "computervision"
_BUSY_SECONDS = 10.0
_CHUNK = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class UseEvent:
    """One page read: what is counted, and the key under which it is counted once.

    Attributes:
        operation_id: GUID of the operation, lower case.
        page: 1-based page of the source document.
        meter: Meter name.
        quantity: Units, at least one.
        license_id: Licence under which the page was read.
    """

    operation_id: str
    page: int
    meter: str
    license_id: str
    quantity: int = 1

    @property
    def event_id(self) -> str:
        """Idempotency key."""
        return f"{self.operation_id}/{self.page}"

    def content_sha256(self) -> bytes:
        """Digest of what may not change between two reports of the same event (times and licence may)."""
        text = f"{self.operation_id}\n{self.page}\n{self.meter}\n{self.quantity}"
        return hashlib.sha256(text.encode("ascii")).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSnapshot:
    """What the decision needs to know of the ledger, read in one go.

    Attributes:
        high_water: Highest effective time committed to; None in a ledger without entries.
        failed_cycles: Consecutive failed metering cycles.
        failure: Cause of the last failed cycle; empty after a success.
        license_pages: Pages counted under each licence id, for the meter asked.
        size: Number of entries.
        sealed_size: Entries covered by the newest seal.
        pending_files: Closed windows whose record file is not on the output mount yet.
        license_floors: The highest sequence ever in force, by licence id.
    """

    high_water: HighWater | None
    failed_cycles: int
    failure: str
    license_pages: Mapping[str, int]
    size: int
    sealed_size: int
    pending_files: int
    license_floors: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRecord:
    """A closed window on its way to the output mount.

    Attributes:
        first_seq: First entry of the window.
        size: Number of entries in the ledger up to and including its `window` entry.
        window: Bounds, counts and licence in force, as the record file's header tells them.
        root: Merkle root at `size`; None until sealed.
        note: The signed checkpoint; None until sealed.
    """

    first_seq: int
    size: int
    window: dict[str, Any]
    root: bytes | None
    note: str | None


@dataclass(slots=True)
class _Ticket:
    events: Sequence[UseEvent]
    counted: int = 0
    error: Exception | None = None
    done: bool = field(default=False)


def prepare(path: Path) -> None:
    """Create the ledger if there is none and bring its schema up to date.

    Raises:
        LedgerUnavailableError: The file cannot be created, opened or migrated.
    """
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        connection = _connect(path)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            LEDGER_MIGRATIONS.apply(Database(connection, execute_plugins=False))
        finally:
            connection.close()
    except (OSError, sqlite3.Error) as exc:
        raise _unavailable(exc, path) from exc


class Ledger:
    """One process's hold on the ledger. Safe to share between threads.

    Args:
        path: The database; `prepare` must have run.
        clock: Where times come from.
        instance: The instance's id, written into each entry as `containerId`.
        version: Product version, written as `containerVersion`.
    """

    def __init__(self, path: Path, *, clock: Clock, instance: str, version: str) -> None:
        self._path = path
        self._clock = clock
        self._instance = instance
        self._version = version
        self._queue: list[_Ticket] = []
        self._queue_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._problem = ""
        try:
            self._writer = Database(_connect(path), execute_plugins=False)
            self._reader = Database(_connect(path), execute_plugins=False)
            if LEDGER_MIGRATIONS.pending(self._reader):
                raise LedgerUnavailableError(
                    f"{path}: the ledger has not been brought up to date",
                    next_step="run 'sidecar migrate' once before anything serves",
                )
            self._reader.execute("PRAGMA query_only=ON")
        except sqlite3.Error as exc:
            raise _unavailable(exc, path) from exc

    @property
    def problem(self) -> str:
        """Why the last write failed; empty after one that succeeded."""
        return self._problem

    def close(self) -> None:
        """Close both connections."""
        with self._write_lock, self._read_lock:
            self._writer.close()
            self._reader.close()

    # ---- writing ----------------------------------------------------------------------------------------------------

    def record_use(self, events: Sequence[UseEvent]) -> int:
        """Commit one `use` entry per event, durably; an event that is there already is not counted again.

        All events of one call commit together or not at all. Callers that wait at the same time share a commit.

        Returns:
            How many of the events were new.

        Raises:
            LedgerConflictError: An event id is there with other content.
            LedgerUnavailableError: Nothing was recorded.
        """
        ticket = _Ticket(events)
        with self._queue_lock:
            self._queue.append(ticket)
        with self._write_lock:
            if not ticket.done:
                with self._queue_lock:
                    batch, self._queue = self._queue, []
                self._commit_batch(batch)
        if ticket.error is not None:
            raise ticket.error
        return ticket.counted

    def append(self, kind: str, fields: Mapping[str, Any]) -> int:
        """Commit one entry that is not a use; its common fields are filled in here.

        Returns:
            The entry's sequence number.
        """
        with self._write_lock, self._transaction():
            now = self._now()
            seq = self._next_seq()
            self._insert(seq, kind, now, fields)
            self._keep_time(now)
            return seq

    def keep_time(self) -> EffectiveTime:
        """Persist the present effective time as the new high water."""
        with self._write_lock, self._transaction():
            now = self._now()
            self._keep_time(now)
            return now

    def note_license(self, fields: Mapping[str, Any], *, in_force: tuple[str, int] | None) -> None:
        """Enter which licence is in force, and remember its sequence so that no older file may take its place.

        Args:
            fields: Of the `license` entry.
            in_force: Id and sequence of the licence in force; None when none is.
        """
        with self._write_lock, self._transaction():
            now = self._now()
            self._insert(self._next_seq(), "license", now, fields)
            if in_force is not None:
                self._writer.execute(
                    """INSERT INTO license_floor(license_id, sequence) VALUES (?, ?)
                       ON CONFLICT(license_id) DO UPDATE SET sequence = max(sequence, excluded.sequence)""",
                    list(in_force),
                )
            self._keep_time(now)

    def license_floors(self) -> Mapping[str, int]:
        """The highest sequence ever in force, by licence id."""
        with self._reading() as db:
            return _license_floors(db)

    def adopt_time(self, effective_ns: int, fields: Mapping[str, Any], *, token_id: str = "") -> EffectiveTime:
        """Make another instant the high water, with a `clock` entry as evidence.

        Args:
            effective_ns: The instant that somebody vouches for, nanoseconds since the epoch.
            fields: Who vouches and why, for the entry.
            token_id: Id of a clock-reset token, which can be used once; only with one may time go down.

        Returns:
            The effective time before the change.

        Raises:
            LedgerConflictError: The token was used before, or time would go down without one; nothing was changed.
        """
        with self._write_lock, self._transaction():
            before = self._now()
            if token_id:
                self._use_token(token_id)
            elif effective_ns < before.ns:
                raise LedgerConflictError(
                    "time can only be set back with a clock-reset token", next_step="ask the vendor for one"
                )
            self._insert(self._next_seq(), "clock", before, {**fields, "to_effective_ms": effective_ns // 1_000_000})
            self._keep_time(EffectiveTime(ns=effective_ns, quarantined=False, reading=before.reading))
            return before

    def close_window(self, reason: str, context: Mapping[str, Any]) -> int:
        """Close the open window: append its `window` entry and register it for sealing.

        Args:
            reason: Why it closes: `interval`, `shutdown` or `recovery`.
            context: Further facts for the record file's header: `origin` of the log, licence in force.

        Returns:
            The ledger's size after the `window` entry.
        """
        with self._write_lock, self._transaction():
            now = self._now()
            last = self._writer.execute(
                "SELECT size, window, cumulative FROM seal ORDER BY size DESC LIMIT 1"
            ).fetchone()
            first_seq, opened, before = (
                (0, None, {}) if last is None else (last[0], json.loads(last[1]), json.loads(last[2]))
            )
            cumulative = dict(self._writer.execute("SELECT meter, sum(qty) FROM total GROUP BY meter").fetchall())
            sums = {
                meter: qty - before.get(meter, 0) for meter, qty in cumulative.items() if qty != before.get(meter, 0)
            }
            closed = {**_times(now), "boot_id": now.reading.boot_id}
            origin = opened["origin"] if opened else context["origin"]
            bounds = {"opened": opened["closed"] if opened else self._birth(closed), "closed": closed}
            seq = self._next_seq()
            self._insert(
                seq,
                "window",
                now,
                {
                    **bounds,
                    "reason": reason,
                    "first_seq": first_seq,
                    "meters": [{"name": name, "quantity": qty} for name, qty in sorted(sums.items())],
                },
            )
            self._writer.execute(
                "INSERT INTO seal(size, first_seq, window, cumulative) VALUES (?, ?, ?, ?)",
                [
                    seq + 1,
                    first_seq,
                    # The log's name never changes, whatever trust root is found later.
                    json.dumps({**context, **bounds, "reason": reason, "origin": origin}),
                    json.dumps(cumulative),
                ],
            )
            self._keep_time(now)
            return seq + 1

    def seal_window(self, record: PendingRecord, sign: Callable[[int, bytes], str]) -> None:
        """Compute the Merkle root of a closed window and store its signed checkpoint.

        Hashing happens outside any transaction, so no request waits for it. Windows are sealed in order.

        Args:
            record: A closed window whose `root` is None.
            sign: Called with `(size, root)`; returns the signed checkpoint's text.
        """
        frontier = self._frontier(record.first_seq)
        frontier.extend(self.leaves(record.first_seq, record.size))
        root = frontier.root()
        note = sign(record.size, root)
        with self._write_lock, self._transaction():
            self._writer.execute("UPDATE seal SET root = ?, note = ? WHERE size = ?", [root, note, record.size])
            self._writer.execute("DELETE FROM frontier")
            self._writer.conn.executemany("INSERT INTO frontier(level, hash) VALUES (?, ?)", enumerate(frontier.hashes))

    def mark_written(self, size: int, file: str, file_sha256: str) -> None:
        """Note that the record file of the window ending at `size` is durable on the output mount."""
        with self._write_lock, self._transaction():
            self._writer.execute(
                "UPDATE seal SET file = ?, file_sha256 = ? WHERE size = ?", [file, bytes.fromhex(file_sha256), size]
            )

    def cycle_failed(self, failure: str, fields: Mapping[str, Any]) -> int:
        """Count one more failed cycle, with a `fault` entry as evidence.

        Returns:
            Consecutive failed cycles, this one included.
        """
        with self._write_lock, self._transaction():
            now = self._now()
            self._keep_time(now)
            self._writer.execute("UPDATE hwm SET failed_cycles = failed_cycles + 1, failure = ?", [failure])
            count = int(self._writer.execute("SELECT failed_cycles FROM hwm").fetchone()[0])
            self._insert(self._next_seq(), "fault", now, {**fields, "failed_cycles": count})
            return count

    def cycle_succeeded(self) -> None:
        """Reset the count of failed cycles."""
        with self._write_lock, self._transaction():
            self._writer.execute("UPDATE hwm SET failed_cycles = 0, failure = '' WHERE failed_cycles > 0")

    # ---- reading ----------------------------------------------------------------------------------------------------

    def snapshot(self, meter: str) -> LedgerSnapshot:
        """Read what the decision needs."""
        with self._reading() as db:
            row = db.execute(
                """SELECT (SELECT max(seq) + 1 FROM entry),
                          (SELECT max(size) FROM seal WHERE root IS NOT NULL),
                          (SELECT count(*) FROM seal WHERE file IS NULL)"""
            ).fetchone()
            mark = db.execute("SELECT effective_ns, boot_id, boottime_ns, failed_cycles, failure FROM hwm").fetchone()
            used = db.execute("SELECT license_id, qty FROM license_total WHERE meter = ?", [meter]).fetchall()
            floors = _license_floors(db)
        return LedgerSnapshot(
            high_water=None if mark is None else HighWater(effective_ns=mark[0], boot_id=mark[1], boottime_ns=mark[2]),
            failed_cycles=0 if mark is None else mark[3],
            failure="" if mark is None else mark[4],
            license_pages=dict(used),
            size=row[0] or 0,
            sealed_size=row[1] or 0,
            pending_files=row[2],
            license_floors=floors,
        )

    def now(self) -> EffectiveTime:
        """The present effective time."""
        with self._reading() as db:
            mark = db.execute("SELECT effective_ns, boot_id, boottime_ns FROM hwm").fetchone()
        return effective_time(self._clock.read(), _high_water(mark))

    def totals(self, month: str | None = None) -> list[tuple[str, int]]:
        """Units per meter, of all time or of one month `YYYY-MM`, ordered by meter name."""
        where, arguments = ("WHERE month = ?", [month]) if month else ("", [])
        with self._reading() as db:
            rows = db.execute(
                f"SELECT meter, sum(qty) FROM total {where} GROUP BY meter ORDER BY meter",  # noqa: S608
                arguments,
            ).fetchall()
        return [(str(meter), int(qty)) for meter, qty in rows]

    def months(self, meter: str) -> list[tuple[str, int]]:
        """Units of one meter per month, oldest first."""
        with self._reading() as db:
            rows = db.execute("SELECT month, qty FROM total WHERE meter = ? ORDER BY month", [meter]).fetchall()
        return [(str(month), int(qty)) for month, qty in rows]

    def has_open_window(self) -> bool:
        """Whether entries lie behind the last `window` entry."""
        with self._reading() as db:
            row = db.execute("SELECT (SELECT max(seq) + 1 FROM entry), (SELECT max(size) FROM seal)").fetchone()
        return (row[0] or 0) > (row[1] or 0)

    def pending_records(self) -> list[PendingRecord]:
        """Closed windows whose record file is not written yet, oldest first."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT first_seq, size, window, root, note FROM seal WHERE file IS NULL ORDER BY size"
            ).fetchall()
        return [
            PendingRecord(first_seq=first, size=size, window=json.loads(window), root=root, note=note)
            for first, size, window, root, note in rows
        ]

    def file_sha256_before(self, size: int) -> str:
        """Digest of the record file before the window that ends at `size`; empty if there is none."""
        with self._reading() as db:
            row = db.execute(
                "SELECT file_sha256 FROM seal WHERE size < ? ORDER BY size DESC LIMIT 1", [size]
            ).fetchone()
        return row[0].hex() if row and row[0] else ""

    def last_seal(self) -> tuple[int, bytes] | None:
        """Size and root of the newest seal."""
        with self._reading() as db:
            row = db.execute("SELECT size, root FROM seal WHERE root IS NOT NULL ORDER BY size DESC LIMIT 1").fetchone()
        return None if row is None else (int(row[0]), bytes(row[1]))

    def frontier_root(self) -> bytes | None:
        """Root that the stored frontier gives; equals the newest seal's in a sound ledger."""
        last = self.last_seal()
        return None if last is None else self._frontier(last[0]).root()

    def root_at(self, size: int) -> bytes:
        """Merkle root over the first `size` entries."""
        with self._reading() as db:
            row = db.execute("SELECT root FROM seal WHERE size = ? AND root IS NOT NULL", [size]).fetchone()
        if row is not None:
            return bytes(row[0])
        frontier = Frontier()
        frontier.extend(self.leaves(0, size))
        return frontier.root()

    def used_after(self, size: int, meter: str) -> tuple[int, datetime | None]:
        """Units of a meter recorded after the first `size` entries, and when the first of them was (effective, UTC)."""
        with self._reading() as db:
            total = db.execute("SELECT coalesce(sum(qty), 0) FROM total WHERE meter = ?", [meter]).fetchone()[0]
            seal = db.execute(
                "SELECT cumulative FROM seal WHERE size <= ? ORDER BY size DESC LIMIT 1", [size]
            ).fetchone()
            first = db.execute(
                "SELECT body FROM entry WHERE seq >= ? AND kind = 'use' ORDER BY seq LIMIT 1", [size]
            ).fetchone()
        before = json.loads(seal[0]).get(meter, 0) if seal else 0
        since = None if first is None else instant(json.loads(first[0])["effective_ms"] * 1_000_000)
        return (0 if first is None else int(total) - int(before)), since

    def lines(self, first_seq: int, next_seq: int) -> Iterator[bytes]:
        """The exact lines of entries `[first_seq, next_seq)`, in order."""
        yield from self._column("body", first_seq, next_seq)

    def leaves(self, first_seq: int, next_seq: int) -> Iterator[bytes]:
        """The leaf hashes of entries `[first_seq, next_seq)`, in order."""
        yield from self._column("leaf", first_seq, next_seq)

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _commit_batch(self, batch: Sequence[_Ticket]) -> None:
        """Commit all tickets in one transaction; one whose events conflict is left out, the others stand.

        A ticket counts as failed until the commit has returned: no path out of here can leave one looking recorded.
        """
        refused: dict[int, LedgerConflictError] = {}
        counted: dict[int, int] = {}
        failure: Exception = LedgerUnavailableError(f"{self._path}: the commit did not come to its end")
        try:
            with self._transaction():
                now = self._now()
                seq = self._next_seq()
                for ticket in batch:
                    try:
                        fresh = self._unseen(ticket.events)
                    except LedgerConflictError as exc:
                        refused[id(ticket)] = exc
                        continue
                    for event, digest in fresh:
                        self._insert_use(seq, event, digest, now)
                        seq += 1
                    counted[id(ticket)] = len(fresh)
                self._keep_time(now)
        except LedgerUnavailableError as exc:
            failure, counted = exc, {}
        except BaseException:
            counted = {}
            raise
        finally:
            for ticket in batch:
                ticket.counted = counted.get(id(ticket), 0)
                ticket.error = None if id(ticket) in counted else refused.get(id(ticket), failure)
                ticket.done = True

    def _use_token(self, token_id: str) -> None:
        known = self._writer.execute(
            "SELECT 1 FROM idem WHERE source = 'clock-reset' AND event_id = ?", [token_id]
        ).fetchone()
        if known is not None:
            raise LedgerConflictError(
                f"the clock-reset token {token_id} was used before", next_step="ask the vendor for another one"
            )
        self._writer.execute(
            "INSERT INTO idem(source, event_id, body_sha256, seq) VALUES ('clock-reset', ?, ?, ?)",
            [token_id, hashlib.sha256(token_id.encode()).digest(), self._next_seq()],
        )

    def _unseen(self, events: Sequence[UseEvent]) -> list[tuple[UseEvent, bytes]]:
        fresh = []
        for event in events:
            digest = event.content_sha256()
            row = self._writer.execute(
                "SELECT body_sha256 FROM idem WHERE source = ? AND event_id = ?", [self._instance, event.event_id]
            ).fetchone()
            if row is None:
                fresh.append((event, digest))
            elif row[0] != digest:
                raise LedgerConflictError(
                    f"event {event.event_id} was recorded with other content",
                    next_step="this is a fault of the caller; the first record stands",
                )
        return fresh

    def _insert_use(self, seq: int, event: UseEvent, digest: bytes, now: EffectiveTime) -> None:
        self._insert(
            seq,
            "use",
            now,
            {
                "apiType": API_TYPE,
                "containerId": self._instance,
                "containerType": CONTAINER_TYPE,
                "containerVersion": self._version,
                "id": event.operation_id,
                "page": event.page,
                "meter": {"name": event.meter, "quantity": event.quantity},
                "requestTime": now.reading.wall_ns // 1_000_000_000,
            },
        )
        self._writer.execute(
            "INSERT INTO idem(source, event_id, body_sha256, seq) VALUES (?, ?, ?, ?)",
            [self._instance, event.event_id, digest, seq],
        )
        self._writer.execute(
            """INSERT INTO total(meter, month, qty) VALUES (?, ?, ?)
               ON CONFLICT(meter, month) DO UPDATE SET qty = qty + excluded.qty""",
            [event.meter, month_of(now.ns), event.quantity],
        )
        self._writer.execute(
            """INSERT INTO license_total(license_id, meter, qty) VALUES (?, ?, ?)
               ON CONFLICT(license_id, meter) DO UPDATE SET qty = qty + excluded.qty""",
            [event.license_id, event.meter, event.quantity],
        )

    def _insert(self, seq: int, kind: str, now: EffectiveTime, fields: Mapping[str, Any]) -> None:
        line = encode_entry({**fields, "seq": seq, "kind": kind, **_times(now)})
        self._writer.execute(
            "INSERT INTO entry(seq, kind, body, leaf) VALUES (?, ?, ?, ?)", [seq, kind, line, leaf_hash(line)]
        )

    def _next_seq(self) -> int:
        return int(self._writer.execute("SELECT coalesce(max(seq) + 1, 0) FROM entry").fetchone()[0])

    def _now(self) -> EffectiveTime:
        mark = self._writer.execute("SELECT effective_ns, boot_id, boottime_ns FROM hwm").fetchone()
        return effective_time(self._clock.read(), _high_water(mark))

    def _keep_time(self, now: EffectiveTime) -> None:
        self._writer.execute(
            """INSERT INTO hwm(id, effective_ns, boot_id, boottime_ns) VALUES (1, ?, ?, ?)
               ON CONFLICT(id) DO UPDATE SET effective_ns = excluded.effective_ns, boot_id = excluded.boot_id,
                                             boottime_ns = excluded.boottime_ns""",
            [now.ns, now.reading.boot_id, now.reading.boottime_ns],
        )

    def _birth(self, otherwise: dict[str, Any]) -> dict[str, Any]:
        """Bounds of the first window's start: the ledger's first entry."""
        row = self._writer.execute("SELECT body FROM entry ORDER BY seq LIMIT 1").fetchone()
        if row is None:
            return otherwise
        first = json.loads(row[0])
        return {key: first.get(key, value) for key, value in otherwise.items()}

    def _frontier(self, size: int) -> Frontier:
        with self._reading() as db:
            rows = db.execute("SELECT hash FROM frontier ORDER BY level").fetchall() if size else []
        return Frontier(size, [bytes(row[0]) for row in rows])

    def _column(self, column: str, first_seq: int, next_seq: int) -> Iterator[bytes]:
        at = first_seq
        while at < next_seq:
            with self._reading() as db:
                rows = db.execute(
                    f"SELECT {column} FROM entry WHERE seq >= ? AND seq < ? ORDER BY seq LIMIT ?",  # noqa: S608
                    [at, next_seq, _CHUNK],
                ).fetchall()
            if not rows:
                raise LedgerUnavailableError(
                    f"{self._path}: entry {at} is missing", next_step="run 'sidecar diagnose'; do not delete anything"
                )
            for row in rows:
                yield bytes(row[0])
            at += len(rows)

    @contextmanager
    def _reading(self) -> Iterator[Database]:
        with self._read_lock:
            try:
                yield self._reader
            except sqlite3.Error as exc:
                raise _unavailable(exc, self._path) from exc

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Take SQLite's write lock before the first read, so that check-then-record cannot interleave."""
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._writer.execute("COMMIT")
            except BaseException:
                self._writer.rollback()
                raise
        except sqlite3.Error as exc:
            failure = _unavailable(exc, self._path)
            self._problem = str(failure)
            raise failure from exc
        self._problem = ""


def _license_floors(db: Database) -> Mapping[str, int]:
    return dict(db.execute("SELECT license_id, sequence FROM license_floor").fetchall())


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA journal_size_limit=16777216")
    return connection


def _unavailable(exc: Exception, path: Path) -> LedgerUnavailableError:
    return LedgerUnavailableError(
        f"{path}: {exc}",
        next_step=f"check free space on {path.parent} and that the service's user owns it; delete nothing there",
    )


def _high_water(row: Sequence[Any] | None) -> HighWater | None:
    return None if row is None else HighWater(effective_ns=row[0], boot_id=row[1], boottime_ns=row[2])


def _times(now: EffectiveTime) -> dict[str, int]:
    return {
        "wall_ms": now.reading.wall_ns // 1_000_000,
        "effective_ms": now.ns // 1_000_000,
        "boottime_ms": now.reading.boottime_ns // 1_000_000,
    }
