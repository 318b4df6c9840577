"""What is asked of the ledger.

Invariant: nothing here writes. A question about sums is answered from `total`, never by counting entries, so it costs
the same at ten entries and at ten million.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from licenses.strict_json import MAX_INTEGER
from licenses.usage_log.merkle import HASH_BYTES, Frontier
from sidecar.clock import Clock, EffectiveTime, HighWater, effective_time, instant, month_of
from sidecar.errors import LedgerUnavailableError
from sidecar.ledger.database import connect, unavailable
from sidecar.ledger.kept import KeptSeal
from sidecar.ledger.migrations import LEDGER_MIGRATIONS
from sidecar.ledger.sql import Database
from sidecar.ledger.use_form import meter_of
from sidecar.ledger.values import Acked, Delivered, LedgerSnapshot, PendingRecord, SealedWindow, nested_sums

SIZE_SQL = """max(coalesce((SELECT max(seq) + 1 FROM line_entry), 0),
                  coalesce((SELECT max(seq) + 1 FROM use_entry), 0),
                  coalesce((SELECT max(size) FROM seal), 0))"""
_CHUNK = 2000
# Windows whose entries were lost with an earlier ledger cannot be told of any more; the vendor sees the gap.
_UNDELIVERED = "FROM seal WHERE size > ? AND root IS NOT NULL AND first_seq >= ?"
_COLUMNS = {
    "body": "SELECT seq, body FROM entry WHERE seq >= ? AND seq < ? ORDER BY seq",
    # Not through the view: it would put every line together, to throw it away.
    "leaf": """SELECT seq, leaf FROM line_entry WHERE seq >= ?1 AND seq < ?2 UNION ALL
               SELECT seq, leaf FROM use_entry WHERE seq >= ?1 AND seq < ?2 ORDER BY seq""",
}


class LedgerReader:
    """A hold on the ledger that can only read. Safe to share between threads.

    Args:
        path: The database; `prepare` must have run.
        clock: Where times come from.

    Raises:
        LedgerUnavailableError: It cannot be opened, or its schema is not up to date.
    """

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._read_lock = threading.Lock()
        try:
            self._reader = Database(connect(path), execute_plugins=False)
        except sqlite3.Error as exc:
            raise unavailable(exc, path) from exc
        try:
            if LEDGER_MIGRATIONS.pending(self._reader):
                raise LedgerUnavailableError(
                    f"{path}: the ledger has not been brought up to date",
                    next_step="run 'sidecar migrate' once before anything serves",
                )
            self._reader.execute("PRAGMA query_only=ON")
        except sqlite3.Error as exc:
            self._reader.close()
            raise unavailable(exc, path) from exc
        except LedgerUnavailableError:
            self._reader.close()
            raise

    @property
    def path(self) -> Path:
        """The database."""
        return self._path

    def close(self) -> None:
        """Close the connection."""
        with self._read_lock:
            self._reader.close()

    # ---- what the decision asks -------------------------------------------------------------------------------------

    def snapshot(self, meter: str) -> LedgerSnapshot:
        """Read what the decision needs."""
        with self._reading() as db:
            row = db.execute(
                f"""SELECT {SIZE_SQL},
                           (SELECT max(size) FROM seal WHERE root IS NOT NULL),
                           (SELECT count(*) FROM seal WHERE file IS NULL)"""  # noqa: S608
            ).fetchone()
            mark = db.execute(
                "SELECT effective_ns, boot_id, boottime_ns, failed_cycles, failure, failure_word FROM hwm"
            ).fetchone()
            used = db.execute("SELECT license_id, qty FROM license_total WHERE meter = ?", [meter]).fetchall()
            floors = _license_floors(db)
        return LedgerSnapshot(
            high_water=high_water(mark),
            failed_cycles=0 if mark is None else mark[3],
            failure="" if mark is None else mark[4],
            failure_word="" if mark is None else mark[5],
            license_pages=dict(used),
            size=row[0],
            sealed_size=row[1] or 0,
            pending_files=row[2],
            license_floors=floors,
        )

    def now(self) -> EffectiveTime:
        """The present effective time."""
        with self._reading() as db:
            mark = db.execute("SELECT effective_ns, boot_id, boottime_ns FROM hwm").fetchone()
        return effective_time(self._clock.read(), high_water(mark))

    def license_floors(self) -> Mapping[str, int]:
        """The highest sequence ever in force, by licence id."""
        with self._reading() as db:
            return _license_floors(db)

    def noted_license(self) -> Mapping[str, Any]:
        """What the newest `license` entry says; empty when there is none."""
        with self._reading() as db:
            row = db.execute("SELECT body FROM line_entry WHERE kind = 'license' ORDER BY seq DESC LIMIT 1").fetchone()
        return {} if row is None else dict(json.loads(row[0]))

    # ---- sums -------------------------------------------------------------------------------------------------------

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

    def used_after(self, size: int, meter: str) -> tuple[int, datetime | None]:
        """Units of a meter recorded after the first `size` entries, and when the first of them was (effective, UTC)."""
        with self._reading() as db:
            total = db.execute("SELECT coalesce(sum(qty), 0) FROM total WHERE meter = ?", [meter]).fetchone()[0]
            seal = db.execute(
                "SELECT cumulative FROM seal WHERE size <= ? ORDER BY size DESC LIMIT 1", [size]
            ).fetchone()
            first = db.execute(
                "SELECT effective_ms FROM use_entry WHERE seq >= ? ORDER BY seq LIMIT 1", [size]
            ).fetchone()
        before = json.loads(seal[0]).get(meter, 0) if seal else 0
        since = None if first is None else instant(first[0] * 1_000_000)
        return (0 if first is None else int(total) - int(before)), since

    # ---- windows and seals ------------------------------------------------------------------------------------------

    def has_open_window(self) -> bool:
        """Whether entries lie behind the last `window` entry."""
        with self._reading() as db:
            row = db.execute(f"SELECT {SIZE_SQL}, (SELECT max(size) FROM seal)").fetchone()  # noqa: S608
        return bool(row[0] > (row[1] or 0))

    def window_count(self) -> int:
        """Closed windows."""
        with self._reading() as db:
            return int(db.execute("SELECT count(*) FROM seal").fetchone()[0])

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

    def sealed_windows(
        self, after_size: int = 0, *, since_ms: int = 0, until_size: int | None = None
    ) -> list[SealedWindow]:
        """Sealed windows that end behind entry `after_size`, oldest first.

        Args:
            after_size: Windows up to this size are left out.
            since_ms: Windows that closed before this effective time, milliseconds since 1970 UTC, are left out.
            until_size: Windows that end behind it are left out; None for none.
        """
        with self._reading() as db:
            rows = db.execute(
                """SELECT first_seq, size, window, root, note, file, file_sha256,
                          (SELECT frontier FROM seal AS before WHERE before.size = seal.first_seq)
                   FROM seal WHERE size > ? AND size <= ? AND root IS NOT NULL ORDER BY size""",
                [after_size, MAX_INTEGER if until_size is None else until_size],
            ).fetchall()
        windows = []
        for first, size, window, root, note, file, sha256, frontier in rows:
            facts: dict[str, Any] = json.loads(window)
            if facts["closed"]["effective_ms"] >= since_ms:
                windows.append(
                    SealedWindow(
                        first_seq=first,
                        size=size,
                        window=facts,
                        root=bytes(root),
                        note=note,
                        frontier_before=_hashes(frontier or b""),
                        file=file or "",
                        file_sha256=sha256 and bytes(sha256),
                    )
                )
        return windows

    def delivered(self) -> Delivered:
        """How far the billing endpoint has taken the usage; what the vendor has acknowledged need not be told again.

        What the row says of another history than the ledger's counts for nothing.
        """
        with self._reading() as db:
            row = db.execute(
                "SELECT d.size, d.at_ms FROM delivery d JOIN seal s ON s.size = d.size AND s.root = d.root"
            ).fetchone()
            size, at = (0, None) if row is None else (int(row[0]), instant(row[1] * 1_000_000))
            size = max(size, int(db.execute("SELECT coalesce(max(size), 0) FROM ack").fetchone()[0]))
            pending = db.execute(f"SELECT count(*) {_UNDELIVERED}", [size, self._base(db)]).fetchone()[0]
        return Delivered(size=size, at=at, pending=int(pending))

    def undelivered(self, after_size: int, limit: int) -> list[SealedWindow]:
        """The oldest sealed windows that end behind entry `after_size` and whose entries the ledger holds.

        Args:
            after_size: Where the delivery stands.
            limit: At most so many.
        """
        with self._reading() as db:
            last = db.execute(
                f"SELECT max(size) FROM (SELECT size {_UNDELIVERED} ORDER BY size LIMIT ?)",  # noqa: S608 - our own
                [after_size, self._base(db), limit],
            ).fetchone()[0]
            base = self._base(db)
        if last is None:
            return []
        return [one for one in self.sealed_windows(after_size, until_size=last) if one.first_seq >= base]

    def window_totals(self, window: SealedWindow) -> dict[str, dict[str, int]]:
        """Units of a window by meter and month of the effective time (UTC), summed from its entries."""
        with self._reading() as db:
            rows = db.execute(
                """SELECT f.text, strftime('%Y-%m', u.effective_ms / 1000, 'unixepoch'), sum(u.quantity)
                   FROM use_entry u JOIN use_form f ON f.id = u.form
                   WHERE u.seq >= ? AND u.seq < ? GROUP BY 1, 2""",
                [window.first_seq, window.size],
            ).fetchall()
            spelled_otherwise = db.execute(
                "SELECT body FROM line_entry WHERE seq >= ? AND seq < ? AND kind = 'use'",
                [window.first_seq, window.size],
            ).fetchall()
        sums: Counter[tuple[str, str]] = Counter()
        for text, month, quantity in rows:
            sums[meter_of(text), str(month)] += int(quantity)
        for (body,) in spelled_otherwise:
            entry = json.loads(body)
            sums[entry["meter"]["name"], month_of(entry["effective_ms"] * 1_000_000)] += entry["meter"]["quantity"]
        return nested_sums([(meter, month, quantity) for (meter, month), quantity in sorted(sums.items()) if quantity])

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

    def written_files(self, since_month: str) -> list[tuple[int, str]]:
        """Record files written, oldest first: size of the log at their end, and path below the instance's folder.

        Args:
            since_month: "YYYY-MM"; files of earlier months are left out, unless they are not acknowledged yet. So are
                those whose entries the ledger does not hold any more.
        """
        with self._reading() as db:
            acked = db.execute("SELECT coalesce(max(size), 0) FROM ack").fetchone()[0]
            base = self._base(db)
            rows = db.execute("SELECT size, first_seq, file FROM seal WHERE file IS NOT NULL ORDER BY size").fetchall()
        oldest = f"usage/{since_month.replace('-', '/')}"
        return [(size, file) for size, first, file in rows if first >= base and (size > acked or file >= oldest)]

    def last_file(self) -> tuple[str, bytes, int] | None:
        """Path below the instance's folder, SHA-256 and size of the newest record file that the ledger could write."""
        with self._reading() as db:
            row = db.execute(
                """SELECT file, file_sha256, size FROM seal WHERE file IS NOT NULL AND first_seq >= ?
                   ORDER BY size DESC LIMIT 1""",
                [self._base(db)],
            ).fetchone()
        return None if row is None else (str(row[0]), bytes(row[1]), int(row[2]))

    def frontier_root(self) -> bytes | None:
        """Root that the stored frontier gives; equals the newest seal's in a sound ledger."""
        last = self.last_seal()
        return None if last is None else self._frontier(last[0]).root()

    def frontier_at(self, size: int) -> Frontier:
        """The Merkle frontier over the first `size` entries; quick where a window was sealed."""
        with self._reading() as db:
            row = db.execute(
                "SELECT size, frontier FROM seal WHERE size <= ? AND frontier IS NOT NULL ORDER BY size DESC LIMIT 1",
                [size],
            ).fetchone()
        frontier = Frontier() if row is None else Frontier(row[0], _hashes(row[1]))
        frontier.extend(self.leaves(frontier.size, size))
        return frontier

    def root_at(self, size: int) -> bytes:
        """Merkle root over the first `size` entries.

        Raises:
            LedgerUnavailableError: The ledger was begun anew behind that size, and nothing tells the root.
        """
        return self._told_root(size) or self.frontier_at(size).root()

    def known_root_at(self, size: int) -> bytes | None:
        """As `root_at`; None where the ledger was begun anew behind that size, and nothing tells the root."""
        return self._told_root(size) or (self.frontier_at(size).root() if size >= self.base() else None)

    def _told_root(self, size: int) -> bytes | None:
        with self._reading() as db:
            row = db.execute(
                """SELECT root FROM seal WHERE size = ?1 AND root IS NOT NULL
                   UNION ALL SELECT root FROM ack WHERE size = ?1 LIMIT 1""",
                [size],
            ).fetchone()
        return None if row is None else bytes(row[0])

    def base(self) -> int:
        """The first entry that the ledger holds: 0, unless it was begun anew from a kept seal."""
        with self._reading() as db:
            return self._base(db)

    def acked(self) -> Acked | None:
        """The newest acknowledgement; None before the first."""
        with self._reading() as db:
            row = db.execute("SELECT size, root, cosigned FROM ack ORDER BY size DESC LIMIT 1").fetchone()
        return None if row is None else Acked(size=row[0], root=bytes(row[1]), cosigned=row[2])

    def kept_seal(self) -> KeptSeal | None:
        """The newest seal as it is kept beside the ledger; None before the first."""
        with self._reading() as db:
            row = db.execute(
                """SELECT size, first_seq, window, note, frontier, file, file_sha256, sums
                   FROM seal WHERE root IS NOT NULL ORDER BY size DESC LIMIT 1"""
            ).fetchone()
            if row is None:
                return None
            failed = db.execute("SELECT failed_cycles FROM hwm").fetchone()
            floors = _license_floors(db)
        sums = json.loads(row[7] or "{}")
        return KeptSeal(
            size=row[0],
            first_seq=row[1],
            window=json.loads(row[2]),
            note=row[3],
            frontier=[one.hex() for one in _hashes(row[4])],
            file=row[5] or "",
            file_sha256=row[6].hex() if row[6] else "",
            totals=sums.get("totals", {}),
            license_totals=sums.get("license_totals", {}),
            license_floors=floors,
            failed_cycles=failed[0] if failed else 0,
        )

    # ---- entries ----------------------------------------------------------------------------------------------------

    def lines(self, first_seq: int, next_seq: int) -> Iterator[bytes]:
        """The exact lines of entries `[first_seq, next_seq)`, in order.

        Raises:
            LedgerUnavailableError: One of them is not there.
        """
        yield from self._column("body", first_seq, next_seq)

    def leaves(self, first_seq: int, next_seq: int) -> Iterator[bytes]:
        """The leaf hashes of entries `[first_seq, next_seq)`, in order.

        Raises:
            LedgerUnavailableError: One of them is not there.
        """
        yield from self._column("leaf", first_seq, next_seq)

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _base(self, db: Database) -> int:
        """The first entry that the ledger holds: 0, unless it was begun anew from a kept seal."""
        row = db.execute(
            "SELECT (SELECT min(seq) FROM line_entry), (SELECT min(seq) FROM use_entry), (SELECT max(size) FROM seal)"
        ).fetchone()
        held = [seq for seq in row[:2] if seq is not None]
        return int(min(held)) if held else int(row[2] or 0)

    def _frontier(self, size: int) -> Frontier:
        """The stored frontier at the newest seal."""
        with self._reading() as db:
            rows = db.execute("SELECT hash FROM frontier ORDER BY level").fetchall() if size else []
        return Frontier(size, [bytes(row[0]) for row in rows])

    def _column(self, column: str, first_seq: int, next_seq: int) -> Iterator[bytes]:
        for start in range(first_seq, next_seq, _CHUNK):
            end = min(start + _CHUNK, next_seq)
            with self._reading() as db:
                rows = db.execute(_COLUMNS[column], [start, end]).fetchall()
            for due, (seq, value) in zip(range(start, end), rows, strict=False):
                if seq != due:
                    raise self._missing(due)
                yield bytes(value)
            if len(rows) != end - start:
                raise self._missing(start + len(rows))

    def _missing(self, seq: int) -> LedgerUnavailableError:
        return LedgerUnavailableError(
            f"{self._path}: entry {seq} is missing", next_step="run 'sidecar ledger check'; do not delete anything"
        )

    @contextmanager
    def _reading(self) -> Iterator[Database]:
        with self._read_lock:
            try:
                yield self._reader
            except sqlite3.Error as exc:
                raise unavailable(exc, self._path) from exc


def high_water(row: Sequence[Any] | None) -> HighWater | None:
    """The high water of a row (effective_ns, boot_id, boottime_ns, …)."""
    return None if row is None else HighWater(effective_ns=row[0], boot_id=row[1], boottime_ns=row[2])


def _license_floors(db: Database) -> Mapping[str, int]:
    return dict(db.execute("SELECT license_id, sequence FROM license_floor").fetchall())


def _hashes(joined: bytes) -> tuple[bytes, ...]:
    return tuple(joined[start : start + HASH_BYTES] for start in range(0, len(joined), HASH_BYTES))
