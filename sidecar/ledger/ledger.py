"""The ledger's writes.

Invariant: an entry, its idempotency key, the totals and the high water commit in one `BEGIN IMMEDIATE` transaction
with `synchronous=FULL`, or not at all. Callers that wait together are committed together, each learning its own
outcome. A window is closed by appending its `window` entry and its `seal` row in one transaction; sealing and writing
the record file follow, each step repeatable after a crash. On a full disk the reserve is given up for what must still
be written down (faults, windows, time), never for a use.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from licenses.durable import make_folders
from licenses.usage_log.entry import encode_entry, leaf_hash, parse_entry, read_use
from sidecar.clock import Clock, EffectiveTime, effective_time, month_of
from sidecar.errors import LedgerConflictError, LedgerUnavailableError
from sidecar.ledger.database import close_to_others, connect, create_private, hold, is_full, note_damage, unavailable
from sidecar.ledger.migrations import LEDGER_MIGRATIONS
from sidecar.ledger.queries import SIZE_SQL, LedgerReader, high_water
from sidecar.ledger.reserve import DiskReserve
from sidecar.ledger.sql import Database
from sidecar.ledger.use_form import UseForm, meter_of, use_line
from sidecar.ledger.values import PendingRecord, SealedWindow, UseEvent, content_sha256, nested_sums

# What the header of a record file and the entry that closes its window both tell.
_SEALED_CONTEXT = ("product_version", "license_id", "license_sequence", "evaluation")
_T = TypeVar("_T")


@dataclass(slots=True)
class _Ticket:
    events: Sequence[UseEvent]
    counted: int = 0
    error: Exception | None = None
    done: bool = field(default=False)
    turn: threading.Event = field(default_factory=threading.Event)


def prepare(path: Path) -> None:
    """Create the ledger if there is none, bring its schema up to date, and lay the disk reserve.

    Raises:
        LedgerUnavailableError: The file cannot be created, opened or migrated.
    """
    try:
        make_folders(path.parent, mode=0o750)
        create_private(path)
        close_to_others(path)
        connection = connect(path)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            LEDGER_MIGRATIONS.apply(Database(connection, execute_plugins=False))
        finally:
            connection.close()
    except (OSError, sqlite3.Error) as exc:
        raise unavailable(exc, path) from exc
    DiskReserve(path.parent).restore()


class Ledger(LedgerReader):
    """One process's hold on the ledger. Safe to share between threads.

    Args:
        path: The database; `prepare` must have run.
        clock: Where times come from.
        instance: The instance's id, written into each entry as `containerId`.
        version: Product version, written as `containerVersion`.

    Raises:
        LedgerUnavailableError: It cannot be opened, or its schema is not up to date.
    """

    def __init__(self, path: Path, *, clock: Clock, instance: str, version: str) -> None:
        self._hold = hold(path)
        try:
            super().__init__(path, clock=clock)
        except LedgerUnavailableError:
            self._let_go()  # or the next start in this process takes us for another one that has it open
            raise
        self._instance = instance
        self._version = version
        self._queue: list[_Ticket] = []
        self._queue_lock = threading.Lock()
        self._is_led = False
        self._write_lock = threading.Lock()
        self._forms: dict[str, int] = {}
        self._problem = ""
        self._reserve = DiskReserve(path.parent)
        try:
            self._writer = Database(connect(path), execute_plugins=False)
            self._place = _identity(path)
        except sqlite3.Error as exc:
            super().close()
            self._let_go()
            raise unavailable(exc, path) from exc

    @property
    def problem(self) -> str:
        """Why no use can be recorded now; empty when the last write succeeded and the disk has room."""
        if self._problem:
            return self._problem
        return self._full().args[0] if self._reserve.is_spent else ""

    def close(self) -> None:
        """Close both connections."""
        with self._write_lock:
            self._writer.close()
            self._let_go()
        super().close()

    def _let_go(self) -> None:
        if self._hold is not None:
            os.close(self._hold)
            self._hold = None

    def restore_reserve(self) -> bool:
        """Take the disk reserve back if there is room again; whether it is there now."""
        return self._reserve.restore()

    # ---- uses -------------------------------------------------------------------------------------------------------

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
            leads, self._is_led = not self._is_led, True
        if not leads:
            ticket.turn.wait()
        if not ticket.done:
            self._lead()
        if ticket.error is not None or not ticket.done:
            raise ticket.error or LedgerUnavailableError(f"{self._path}: the commit was interrupted")
        return ticket.counted

    # ---- other entries ----------------------------------------------------------------------------------------------

    def append(self, kind: str, fields: Mapping[str, Any]) -> int:
        """Commit one entry that is not a use; its common fields are filled in here.

        Returns:
            The entry's sequence number.
        """

        def work() -> int:
            now = self._now()
            seq = self._insert(kind, now, fields)
            self._keep_time(now)
            return seq

        return self._write(work)

    def keep_time(self) -> EffectiveTime:
        """Persist the present effective time as the new high water."""

        def work() -> EffectiveTime:
            now = self._now()
            self._keep_time(now)
            return now

        return self._write(work)

    def note_license(self, fields: Mapping[str, Any], *, in_force: tuple[str, int] | None) -> None:
        """Enter which licence is in force, and remember its sequence so that no older file may take its place.

        Args:
            fields: Of the `license` entry.
            in_force: Id and sequence of the licence in force; None when none is.
        """

        def work() -> None:
            now = self._now()
            self._insert("license", now, fields)
            if in_force is not None:
                self._writer.execute(
                    """INSERT INTO license_floor(license_id, sequence) VALUES (?, ?)
                       ON CONFLICT(license_id) DO UPDATE SET sequence = max(sequence, excluded.sequence)""",
                    list(in_force),
                )
            self._keep_time(now)

        self._write(work)

    def note_ack(self, size: int, cosigned: str, fields: Mapping[str, Any], *, root: bytes | None = None) -> bool:
        """Enter that the vendor has acknowledged the first `size` entries.

        Args:
            size: Entries acknowledged; the caller has compared the root.
            cosigned: The checkpoint with the vendor's cosignature.
            fields: Of the `ack` entry.
            root: Merkle root at `size`; computed when not given.

        Returns:
            False when that size was acknowledged before; nothing is written then.
        """
        root = self.root_at(size) if root is None else root

        def work() -> bool:
            if self._writer.execute("SELECT 1 FROM ack WHERE size = ?", [size]).fetchone() is not None:
                return False
            now = self._now()
            seq = self._insert("ack", now, fields)
            self._writer.execute(
                "INSERT INTO ack(size, root, cosigned, seq) VALUES (?, ?, ?, ?)", [size, root, cosigned, seq]
            )
            self._keep_time(now)
            return True

        return self._write(work)

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

        def work() -> EffectiveTime:
            before = self._now()
            if token_id:
                self._use_token(token_id)
            elif effective_ns < before.ns:
                raise LedgerConflictError(
                    "time can only be set back with a clock-reset token", next_step="ask the vendor for one"
                )
            self._insert("clock", before, {**fields, "to_effective_ms": effective_ns // 1_000_000})
            self._keep_time(EffectiveTime(ns=effective_ns, quarantined=False, reading=before.reading))
            return before

        return self._write(work)

    def cycle_failed(self, failure: str, fields: Mapping[str, Any], *, word: str = "") -> int:
        """Count one more failed cycle, with a `fault` entry as evidence.

        Args:
            failure: Its cause, for people.
            fields: Of the entry.
            word: The billing endpoint's status word, where that made it fail.

        Returns:
            Consecutive failed cycles, this one included.
        """

        def work() -> int:
            now = self._now()
            self._keep_time(now)
            self._writer.execute(
                "UPDATE hwm SET failed_cycles = failed_cycles + 1, failure = ?, failure_word = ?", [failure, word]
            )
            count = int(self._writer.execute("SELECT failed_cycles FROM hwm").fetchone()[0])
            self._insert("fault", now, {**fields, "failed_cycles": count})
            return count

        return self._write(work)

    def cycle_succeeded(self) -> None:
        """Reset the count of failed cycles."""
        self._write(
            lambda: self._writer.execute(
                "UPDATE hwm SET failed_cycles = 0, failure = '', failure_word = '' WHERE failed_cycles > 0"
            )
        )

    def mark_delivered(self, window: SealedWindow) -> None:
        """Note that the billing endpoint has taken this window, and so all before it."""

        def work() -> None:
            now = self._now()
            self._writer.execute(
                """INSERT INTO delivery(id, size, root, at_ms) VALUES (1, ?, ?, ?)
                   ON CONFLICT(id) DO UPDATE SET size = excluded.size, root = excluded.root, at_ms = excluded.at_ms""",
                [window.size, window.root, now.ns // 1_000_000],
            )

        self._write(work)

    # ---- windows ----------------------------------------------------------------------------------------------------

    def close_window(self, reason: str, context: Mapping[str, Any]) -> int:
        """Close the open window: append its `window` entry and register it for sealing.

        Args:
            reason: Why it closes: `interval`, `shutdown` or `recovery`.
            context: Further facts for the record file's header: `origin` of the log, licence in force.

        Returns:
            The ledger's size after the `window` entry.
        """
        return self._write(lambda: self._close_window(reason, context))

    def seal_window(self, record: PendingRecord, sign: Callable[[int, bytes], str]) -> None:
        """Compute the Merkle root of a closed window and store its signed checkpoint.

        Hashing happens outside any transaction, so no request waits for it. Windows are sealed in order.

        Args:
            record: A closed window whose `root` is None.
            sign: Called with `(size, root)`; returns the signed checkpoint's text.
        """
        frontier = self.frontier_at(record.first_seq)
        frontier.extend(self.leaves(record.first_seq, record.size))
        root = frontier.root()
        note = sign(record.size, root)

        def work() -> None:
            self._writer.execute(
                "UPDATE seal SET root = ?, note = ?, frontier = ? WHERE size = ?",
                [root, note, b"".join(frontier.hashes), record.size],
            )
            if self._writer.execute("SELECT max(size) FROM seal WHERE root IS NOT NULL").fetchone()[0] != record.size:
                return  # one from before the newest seal, sealed again after a repair
            self._writer.execute("DELETE FROM frontier")
            self._writer.conn.executemany("INSERT INTO frontier(level, hash) VALUES (?, ?)", enumerate(frontier.hashes))

        self._write(work)

    def mark_written(self, size: int, file: str, file_sha256: str) -> None:
        """Note that the record file of the window ending at `size` is durable on the output mount."""
        self._write(
            lambda: self._writer.execute(
                "UPDATE seal SET file = ?, file_sha256 = ? WHERE size = ?", [file, bytes.fromhex(file_sha256), size]
            )
        )

    def mark_unwritten(self, sizes: Sequence[int]) -> None:
        """Note that the record files of these windows are gone from the output mount: they are pending again."""
        self._write(
            lambda: self._writer.conn.executemany(
                "UPDATE seal SET file = NULL WHERE size = ?", [(size,) for size in sizes]
            )
        )

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _lead(self) -> None:
        """Commit all that wait; then hand the lead to the first who came meanwhile, so that nobody waits for long."""
        with self._queue_lock:
            batch, self._queue = self._queue, []
        try:
            with self._write_lock:
                self._commit_batch(batch)
        finally:
            with self._queue_lock:
                following = self._queue[0] if self._queue else None
                self._is_led = following is not None
            for ticket in batch:
                ticket.turn.set()
            if following is not None:
                following.turn.set()

    def _commit_batch(self, batch: Sequence[_Ticket]) -> None:
        """Commit all tickets in one transaction; one whose events conflict is left out, the others stand.

        A ticket counts as failed until the commit has returned: no path out of here can leave one looking recorded.
        """
        refused: dict[int, LedgerConflictError] = {}
        counted: dict[int, int] = {}
        failure: Exception = LedgerUnavailableError(f"{self._path}: the commit did not come to its end")
        try:
            if self._reserve.is_spent and not self._reserve.restore():
                raise self._full()
            forms: dict[str, int] = {}
            with self._transaction():
                now = self._now()
                seq = self._next_seq()
                sums: Counter[tuple[str, str]] = Counter()
                for ticket in batch:
                    try:
                        fresh = [event for event in ticket.events if self._is_unseen(event)]
                    except LedgerConflictError as exc:
                        refused[id(ticket)] = exc
                        continue
                    for event in fresh:
                        self._insert_use(seq, event, now, forms)
                        sums[event.meter, event.license_id] += event.quantity
                        seq += 1
                    counted[id(ticket)] = len(fresh)
                self._add_up(sums, month_of(now.ns))
                self._keep_time(now)
            self._forms |= forms
        except LedgerUnavailableError as exc:
            failure, counted = exc, {}
            if exc.__cause__ is not None and is_full(exc.__cause__):  # type: ignore[arg-type]
                self._reserve.spend()
        except BaseException:
            counted = {}
            raise
        finally:
            for ticket in batch:
                ticket.counted = counted.get(id(ticket), 0)
                ticket.error = None if id(ticket) in counted else refused.get(id(ticket), failure)
                ticket.done = True

    def _is_unseen(self, event: UseEvent) -> bool:
        """Whether the event is new.

        Raises:
            LedgerConflictError: It is there with other content (times and licence may differ).
        """
        row = self._writer.execute(
            """SELECT u.quantity, f.text FROM use_entry u JOIN use_form f ON f.id = u.form
               WHERE u.operation = ? AND u.page = ?""",
            [uuid.UUID(event.operation_id).bytes, event.page],
        ).fetchone()
        if row is None:
            return True
        if (row[0], meter_of(row[1])) != (event.quantity, event.meter):
            raise LedgerConflictError(
                f"event {event.event_id} was recorded with other content",
                next_step="this is a fault of the caller; the first record stands",
            )
        return False

    def _insert_use(self, seq: int, event: UseEvent, now: EffectiveTime, forms: dict[str, int]) -> None:
        text = UseForm(container_id=self._instance, container_version=self._version, meter=event.meter).text
        operation = uuid.UUID(event.operation_id)
        times = _times(now)
        line = use_line(text, seq=seq, operation=operation, page=event.page, quantity=event.quantity, **times)
        if read_use(line) is None:
            parse_entry(line)  # says what is wrong with it
        self._writer.execute(
            """INSERT INTO use_entry(seq, form, operation, page, quantity, wall_ms, effective_ms, boottime_ms, leaf)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            [
                seq,
                self._form_id(text, forms),
                operation.bytes,
                event.page,
                event.quantity,
                times["wall_ms"],
                times["effective_ms"],
                times["boottime_ms"],
                leaf_hash(line),
            ],
        )

    def _form_id(self, text: str, fresh: dict[str, int]) -> int:
        """The row of a form; one that this transaction makes is remembered only when it has committed."""
        known = self._forms.get(text) or fresh.get(text)
        if known is None:
            self._writer.execute("INSERT INTO use_form(text) VALUES (?) ON CONFLICT(text) DO NOTHING", [text])
            known = fresh[text] = int(
                self._writer.execute("SELECT id FROM use_form WHERE text = ?", [text]).fetchone()[0]
            )
        return known

    def _add_up(self, sums: Mapping[tuple[str, str], int], month: str) -> None:
        for (meter, license_id), quantity in sums.items():
            self._writer.execute(
                """INSERT INTO total(meter, month, qty) VALUES (?, ?, ?)
                   ON CONFLICT(meter, month) DO UPDATE SET qty = qty + excluded.qty""",
                [meter, month, quantity],
            )
            self._writer.execute(
                """INSERT INTO license_total(license_id, meter, qty) VALUES (?, ?, ?)
                   ON CONFLICT(license_id, meter) DO UPDATE SET qty = qty + excluded.qty""",
                [license_id, meter, quantity],
            )

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
            [token_id, content_sha256(token_id), self._next_seq()],
        )

    def _close_window(self, reason: str, context: Mapping[str, Any]) -> int:
        now = self._now()
        last = self._writer.execute("SELECT size, window, cumulative FROM seal ORDER BY size DESC LIMIT 1").fetchone()
        first_seq, opened, before = (
            (0, None, {}) if last is None else (last[0], json.loads(last[1]), json.loads(last[2]))
        )
        cumulative = dict(self._writer.execute("SELECT meter, sum(qty) FROM total GROUP BY meter").fetchall())
        sums = {meter: qty - before.get(meter, 0) for meter, qty in cumulative.items() if qty != before.get(meter, 0)}
        closed = {**_times(now), "boot_id": now.reading.boot_id}
        origin = opened["origin"] if opened else context["origin"]
        bounds = {"opened": opened["closed"] if opened else self._birth(closed), "closed": closed}
        seq = self._insert(
            "window",
            now,
            {
                **bounds,
                **{name: context[name] for name in _SEALED_CONTEXT if name in context},
                "reason": reason,
                "first_seq": first_seq,
                "meters": [{"name": name, "quantity": qty} for name, qty in sorted(sums.items())],
            },
        )
        self._writer.execute(
            "UPDATE seal SET sums = NULL WHERE sums IS NOT NULL AND root IS NOT NULL AND size < ?", [first_seq]
        )
        self._writer.execute(
            "INSERT INTO seal(size, first_seq, window, cumulative, sums) VALUES (?, ?, ?, ?, ?)",
            [
                seq + 1,
                first_seq,
                # The log's name never changes, whatever trust root is found later.
                json.dumps({**context, **bounds, "reason": reason, "origin": origin}),
                json.dumps(cumulative),
                json.dumps(self._sums()),
            ],
        )
        self._keep_time(now)
        return seq + 1

    def _sums(self) -> dict[str, dict[str, dict[str, int]]]:
        """All sums as they are at the end of a window, for the seal that is kept beside the ledger."""
        totals = self._writer.execute("SELECT meter, month, qty FROM total").fetchall()
        license_totals = self._writer.execute("SELECT license_id, meter, qty FROM license_total").fetchall()
        return {"totals": nested_sums(totals), "license_totals": nested_sums(license_totals)}

    def _insert(self, kind: str, now: EffectiveTime, fields: Mapping[str, Any]) -> int:
        seq = self._next_seq()
        line = encode_entry({**fields, "seq": seq, "kind": kind, **_times(now)})
        self._writer.execute(
            "INSERT INTO line_entry(seq, kind, body, leaf) VALUES (?, ?, ?, ?)", [seq, kind, line, leaf_hash(line)]
        )
        return seq

    def _next_seq(self) -> int:
        return int(self._writer.execute(f"SELECT {SIZE_SQL}").fetchone()[0])

    def _now(self) -> EffectiveTime:
        mark = self._writer.execute("SELECT effective_ns, boot_id, boottime_ns FROM hwm").fetchone()
        return effective_time(self._clock.read(), high_water(mark))

    def _keep_time(self, now: EffectiveTime) -> None:
        self._writer.execute(
            """INSERT INTO hwm(id, effective_ns, boot_id, boottime_ns) VALUES (1, ?, ?, ?)
               ON CONFLICT(id) DO UPDATE SET effective_ns = excluded.effective_ns, boot_id = excluded.boot_id,
                                             boottime_ns = excluded.boottime_ns""",
            [now.ns, now.reading.boot_id, now.reading.boottime_ns],
        )

    def _birth(self, otherwise: dict[str, Any]) -> dict[str, Any]:
        """Bounds of the first window's start: the ledger's first entry."""
        row = self._writer.execute("SELECT body FROM entry WHERE seq = 0").fetchone()
        if row is None:
            return otherwise
        first = json.loads(row[0])
        return {key: first.get(key, value) for key, value in otherwise.items()}

    def _write(self, work: Callable[[], _T]) -> _T:
        """Do some work in a transaction; on a full disk once more, with the reserve given up for it."""
        with self._write_lock:
            try:
                with self._transaction():
                    return work()
            except LedgerUnavailableError as exc:
                if not is_full(exc.__cause__ or exc) or not self._reserve.spend():  # type: ignore[arg-type]
                    raise
            with self._transaction():
                return work()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Take SQLite's write lock before the first read, so that check-then-record cannot interleave."""
        self._require_place()
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._writer.execute("COMMIT")
            except BaseException:
                self._writer.rollback()
                raise
        except sqlite3.Error as exc:
            failure = unavailable(exc, self._path)
            self._problem = str(failure)
            raise failure from exc
        self._problem = ""

    def _require_place(self) -> None:
        """See that the open file still is the one that others find: what goes into a deleted file is lost.

        Raises:
            LedgerUnavailableError: It was removed or replaced under this process.
        """
        if _identity(self._path) == self._place:
            return
        note_damage(self._path, "the file was removed or replaced at work")
        failure = LedgerUnavailableError(
            f"{self._path} was removed or replaced while it was in use",
            next_step="restart the whole service: the ledger is rebuilt then; delete nothing there",
        )
        self._problem = str(failure)
        raise failure

    def _full(self) -> LedgerUnavailableError:
        folder = self._path.parent
        return LedgerUnavailableError(
            f"{folder}: the disk is full; nothing new is taken in before there is room again",
            next_step=f"free space on the file system that holds {folder}; nothing there has to be deleted",
        )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _times(now: EffectiveTime) -> dict[str, int]:
    return {
        "wall_ms": now.reading.wall_ns // 1_000_000,
        "effective_ms": now.ns // 1_000_000,
        "boottime_ms": now.reading.boottime_ns // 1_000_000,
    }
