"""Is the ledger sound: quickly at each start, thoroughly when asked.

Invariant: nothing here writes. The quick check costs the same however long the log is (but for a database small enough
to be read whole); the thorough one reads every line, and says how far it is.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from licenses.errors import LicensesError
from licenses.keys import VerifyingKey
from licenses.usage_log.entry import leaf_hash, parse_entry, read_use
from licenses.usage_log.merkle import HASH_BYTES, Frontier
from licenses.usage_log.note import open_checkpoint
from sidecar.clock import month_of
from sidecar.ledger.database import connect, damage_path, is_damage, is_passing, note_damage
from sidecar.ledger.queries import SIZE_SQL

_SMALL_BYTES = 64 * 1024 * 1024
_SMALL_TABLES = (
    "seal",
    "total",
    "license_total",
    "license_floor",
    "hwm",
    "frontier",
    "idem",
    "ack",
    "use_form",
    "delivery",
)
_TAIL_WINDOWS = 2
_TAIL_ENTRIES = 20_000
_CHUNK = 2000
_MAX_FINDINGS = 50
_SHAPE = (
    "line_entry(seq, kind, body, leaf)",
    "use_entry(seq, form, operation, page, quantity, wall_ms, effective_ms, boottime_ms, leaf)",
    "use_form(id, text)",
    "idem(source, event_id, body_sha256, seq)",
    "total(meter, month, qty)",
    "license_total(license_id, meter, qty)",
    "license_floor(license_id, sequence)",
    "seal(size, first_seq, window, cumulative, root, note, file, file_sha256, frontier, sums)",
    "hwm(id, effective_ns, boot_id, boottime_ns, failed_cycles, failure, failure_word)",
    "delivery(id, size, root, at_ms)",
    "frontier(level, hash)",
    "ack(size, root, cosigned, seq)",
    "entry(seq, kind, body, leaf)",
)
_LINES = "SELECT seq, body, leaf FROM entry WHERE seq >= ? AND seq < ? ORDER BY seq"


@dataclass(frozen=True, slots=True)
class LedgerFinding:
    """One thing that is wrong.

    Attributes:
        code: Stable word.
        message: In one sentence.
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerReport:
    """What a thorough check found.

    Attributes:
        size: Entries.
        sealed_size: Entries under the newest seal.
        windows: Closed windows.
        findings: What is wrong; empty for a sound ledger.
    """

    size: int
    sealed_size: int
    windows: int
    findings: tuple[LedgerFinding, ...]


def start_problem(path: Path) -> str:
    """Why the ledger may not be used as it is, in words; empty when it looks sound.

    Looks at SQLite's own structure (of the whole file while it is small, else of everything but the entries), the
    frontier against the newest seal, and the newest entries against their leaves.

    Raises:
        sqlite3.Error: The database cannot be opened for another reason than damage.
    """
    if damage_path(path).exists():
        return "damage was found while it was in use"
    if not path.exists():
        return ""
    try:
        with closing(connect(path, query_only=True)) as db:
            db.execute("BEGIN")  # one state of the log: a meter may seal meanwhile
            return next(_start_findings(db, path), LedgerFinding("", "")).message
    except sqlite3.DatabaseError as exc:
        if not is_damage(exc):
            raise
        return str(exc)


def is_small(path: Path) -> bool:
    """Whether a start reads the whole database."""
    return path.stat().st_size <= _SMALL_BYTES


def look_over(path: Path) -> str:
    """SQLite's check of the whole structure, for a thread of its own; damage is noted for the next start.

    Returns:
        What is wrong; empty when nothing is.

    Raises:
        sqlite3.Error: The database cannot be read for another reason than damage.
    """
    problem = ""
    try:
        with closing(connect(path, query_only=True)) as db:
            problem = next((finding.message for finding in _structure(db, "PRAGMA quick_check(1)")), "")
    except sqlite3.DatabaseError as exc:
        if not is_damage(exc):
            raise
        problem = str(exc)
    if problem:
        note_damage(path, problem)
    return problem


def check_ledger(
    path: Path,
    *,
    origin_key: VerifyingKey | None = None,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> LedgerReport:
    """Read everything: structure, every line against its leaf, every seal, and the sums.

    Args:
        path: The database.
        origin_key: The device's public key, to verify the checkpoints' signatures; None skips that.
        progress: Called with entries read and entries in all, every few thousand entries.

    Raises:
        sqlite3.Error: The database cannot be read.
    """
    try:
        return _check_all(path, origin_key, progress)
    except (sqlite3.Error, ValueError, TypeError, LookupError, LicensesError) as exc:
        if isinstance(exc, sqlite3.Error) and is_passing(exc):
            raise
        found = LedgerFinding("structure", f"the ledger cannot be read: {exc!r}")
        return LedgerReport(size=0, sealed_size=0, windows=0, findings=(found,))


def _check_all(path: Path, origin_key: VerifyingKey | None, progress: Callable[[int, int], None]) -> LedgerReport:
    with closing(connect(path, query_only=True)) as db:
        db.execute("BEGIN")  # one state of the log, whatever is written meanwhile
        size = db.execute(f"SELECT {SIZE_SQL}").fetchone()[0]
        sealed, windows = db.execute(
            "SELECT coalesce(max(size), 0), count(*) FROM seal WHERE root IS NOT NULL"
        ).fetchone()
        findings: list[LedgerFinding] = []
        for finding in _all_findings(db, size, origin_key, progress):
            findings.append(finding)
            if len(findings) == _MAX_FINDINGS:
                findings.append(LedgerFinding("more", "There may be more; the first are listed."))
                break
    return LedgerReport(size=size, sealed_size=sealed, windows=windows, findings=tuple(findings))


def _start_findings(db: sqlite3.Connection, path: Path) -> Iterator[LedgerFinding]:
    for shape in _SHAPE:
        table, _, columns = shape.rstrip(")").partition("(")
        db.execute(f"SELECT {columns} FROM {table} LIMIT 0")  # noqa: S608 - words of our own
    if is_small(path):
        yield from _structure(db, "PRAGMA quick_check(5)")
    else:
        for table in _SMALL_TABLES:
            yield from _structure(db, f"PRAGMA quick_check({table})")
    yield from _frontier(db)
    size = db.execute(f"SELECT {SIZE_SQL}").fetchone()[0]
    tail = db.execute("SELECT first_seq FROM seal ORDER BY size DESC LIMIT 1 OFFSET ?", [_TAIL_WINDOWS - 1]).fetchone()
    start = max(_base(db), tail[0] if tail else 0, size - _TAIL_ENTRIES)
    for seq, line, leaf in _entries(db, start, size):
        if line == b"":
            yield LedgerFinding("missing", f"entry {seq} is missing")
        elif leaf_hash(line) != leaf:
            yield LedgerFinding("leaf", f"entry {seq} is not the one that was hashed")


def _all_findings(
    db: sqlite3.Connection, size: int, key: VerifyingKey | None, progress: Callable[[int, int], None]
) -> Iterator[LedgerFinding]:
    yield from _structure(db, "PRAGMA quick_check(20)")
    yield from _frontier(db)
    seals = db.execute("SELECT first_seq, size, window, root, note, frontier FROM seal ORDER BY size").fetchall()
    for one, other in pairwise(seals):
        if other[0] != one[1]:
            yield LedgerFinding(
                "windows", f"the window that ends at {other[1]} does not begin where the last one ended"
            )
    base = _base(db)
    frontier = _frontier_at(seals, base)
    due = {seal[1]: seal for seal in seals if seal[1] > base and seal[3] is not None}
    sums: Counter[tuple[str, str]] = Counter()
    for seq, line, leaf in _entries(db, base, size):
        if line == b"":
            yield LedgerFinding("missing", f"entry {seq} is missing")
            return
        if leaf_hash(line) != leaf:
            yield LedgerFinding("leaf", f"entry {seq} is not the one that was hashed")
        _add(sums, line)
        frontier.append(leaf)
        if seq + 1 in due:
            yield from _seal_findings(due[seq + 1], frontier, key)
        if seq % 5000 == 0:
            progress(seq, size)
    progress(size, size)
    if base == 0:
        told = {(meter, month): qty for meter, month, qty in db.execute("SELECT meter, month, qty FROM total")}
        for meter, month in sorted(set(told) | set(sums)):
            counted = sums[meter, month]
            if told.get((meter, month), 0) != counted:
                message = f"{meter} in {month}: the total says {told.get((meter, month), 0)}, the entries {counted}"
                yield LedgerFinding("totals", message)


def _seal_findings(seal: tuple[Any, ...], frontier: Frontier, key: VerifyingKey | None) -> Iterator[LedgerFinding]:
    _, size, window, root, note, stored = seal
    if frontier.root() != root:
        yield LedgerFinding("root", f"the entries [0, {size}) do not give the root that was sealed")
    if stored is not None and b"".join(frontier.hashes) != stored:
        yield LedgerFinding("frontier", f"the frontier stored at {size} is not that of the entries")
    if key is None:
        return
    try:
        checkpoint = open_checkpoint(note, {json.loads(window)["origin"]: key})
    except LicensesError as exc:
        yield LedgerFinding("checkpoint", f"the checkpoint at {size}: {exc}")
        return
    if (checkpoint.size, checkpoint.root) != (size, root):
        yield LedgerFinding("checkpoint", f"the checkpoint stored at {size} is of {checkpoint.size} entries")


def _structure(db: sqlite3.Connection, statement: str) -> Iterator[LedgerFinding]:
    for (word,) in db.execute(statement):
        if word != "ok":
            yield LedgerFinding("structure", str(word))


def _frontier(db: sqlite3.Connection) -> Iterator[LedgerFinding]:
    last = db.execute("SELECT size, root FROM seal WHERE root IS NOT NULL ORDER BY size DESC LIMIT 1").fetchone()
    if last is None:
        return
    hashes = [bytes(row[0]) for row in db.execute("SELECT hash FROM frontier ORDER BY level")]
    try:
        root = Frontier(last[0], hashes).root()
    except LicensesError as exc:
        yield LedgerFinding("frontier", str(exc))
        return
    if root != last[1]:
        yield LedgerFinding("frontier", "the Merkle frontier does not give the root that was sealed last")


def _base(db: sqlite3.Connection) -> int:
    """The first entry that the ledger holds: 0, unless it was begun anew from a kept seal."""
    row = db.execute(
        """SELECT min(seq) FROM (SELECT min(seq) AS seq FROM line_entry UNION ALL SELECT min(seq) FROM use_entry)"""
    ).fetchone()
    return int(row[0] or 0)


def _frontier_at(seals: list[tuple[Any, ...]], base: int) -> Frontier:
    stored = next((seal[5] for seal in seals if seal[1] == base), None)
    if base == 0 or stored is None:
        return Frontier()
    return Frontier(base, [stored[at : at + HASH_BYTES] for at in range(0, len(stored), HASH_BYTES)])


def _entries(db: sqlite3.Connection, start: int, size: int) -> Iterator[tuple[int, bytes, bytes]]:
    """Entries in order; one that is missing comes with an empty line, and ends it."""
    due = start
    for first in range(start, size, _CHUNK):
        for seq, line, leaf in db.execute(_LINES, [first, min(first + _CHUNK, size)]):
            if seq != due:
                yield due, b"", b""
                return
            yield seq, line, leaf
            due += 1
    if due != size:
        yield due, b"", b""


def _add(sums: Counter[tuple[str, str]], line: bytes) -> None:
    use = read_use(line)
    if use is not None:
        sums[use.meter.decode("ascii"), month_of(use.effective_ms * 1_000_000)] += use.quantity
        return
    entry: Mapping[str, Any] = parse_entry(line)
    if entry["kind"] == "use":
        sums[entry["meter"]["name"], month_of(entry["effective_ms"] * 1_000_000)] += entry["meter"]["quantity"]
