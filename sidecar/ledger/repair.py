"""A damaged or outdated ledger is built anew from what is left: its own rows, its record files, its kept seal.

Invariants:

* Nothing is deleted: the old files are moved aside, into a folder of their own, before the new ledger takes the name.
* No entry is believed that its leaf, or a checkpoint signed by this device, does not bear out. What was sealed keeps
  its numbers and its bytes, so the log goes on and never forks.
* Uses that lie behind a hole are not lost: they are entered again, under new numbers. What cannot be found again is
  told by a `gap` entry.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from licenses.durable import make_folders, sync_folder, write_file
from licenses.usage_log.entry import encode_entry, leaf_hash, parse_entry
from licenses.usage_log.merkle import HASH_BYTES, Frontier
from sidecar.clock import month_of
from sidecar.errors import LedgerUnavailableError
from sidecar.ledger.database import ASIDE_FOLDER, connect, create_private, damage_path, recount_path
from sidecar.ledger.kept import KeptSeal
from sidecar.ledger.migrations import LEDGER_MIGRATIONS
from sidecar.ledger.salvage import Evidence, RecordLines, Salvage, Sources
from sidecar.ledger.sql import Database
from sidecar.ledger.use_form import UseForm, form_of, use_line
from sidecar.ledger.values import content_sha256, nested_sums

_LIKELY_MS = 24 * 3600 * 1000
_LIKELY_CYCLES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What was done.

    Attributes:
        cause: Why.
        aside: Folder that now holds the old files.
        entries: Entries that kept their numbers.
        entered_again: Uses from behind a hole, which were entered again under new numbers.
        gap: Numbers of the first entry lost and of the first one after it; None when none is lost.
    """

    cause: str
    aside: Path
    entries: int
    entered_again: int
    gap: tuple[int, int] | None


def behind(path: Path, evidence: Evidence) -> str:
    """Why the ledger is not the newest copy of itself, in words; empty when it is as new as its own records.

    Raises:
        sqlite3.Error: The database cannot be read.
    """
    with closing(connect(path, query_only=True)) as db:
        sealed = db.execute("SELECT coalesce(max(size), 0) FROM seal WHERE root IS NOT NULL").fetchone()[0]
    if evidence.sealed_size > sealed:
        return f"the ledger knows {sealed} sealed entries, but {evidence.sealed_size} were sealed: it is an older copy"
    return ""


def repair(path: Path, evidence: Evidence, cause: str) -> Repair:
    """Build the ledger anew beside the old one, then exchange them. Nobody else may have it open.

    A crash at any point leaves either the old ledger, or a rebuilt one that `finish_repair` puts in its place.

    Args:
        path: The database.
        evidence: What is known outside it.
        cause: Why, for the entry that tells of it.

    Raises:
        LedgerUnavailableError: Entries that were sealed can be found nowhere; nothing was moved.
        OSError: The state directory cannot be written, or a source not read.
        sqlite3.Error: Likewise.
    """
    fresh = path.with_name(f".{path.name}.new")
    for suffix in ("", "-wal", "-shm", "-journal"):
        fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
    with Salvage(path) as old:
        evidence = evidence.complete(old.notes())
        if evidence.forked_at is not None:
            raise _two_histories(path, evidence)
        built = _build(fresh, old, evidence, files_first=False) or _build(fresh, old, evidence, files_first=True)
    if built is None:
        raise _beyond_repair(path, evidence)
    # What was counted before a kept seal is not there to be recognised: only later results are offered again.
    since_ms = evidence.kept.window["closed"]["effective_ms"] if built.gap and evidence.kept else 0
    write_file(recount_path(path), [b"%d" % since_ms], mode=0o640, overwrite=True)
    fresh.replace(_rebuilt_path(path))
    sync_folder(path.parent)
    aside = finish_repair(path)
    return Repair(
        cause=cause, aside=aside, entries=built.kept, entered_again=built.next_seq - built.kept, gap=built.gap
    )


def finish_repair(path: Path) -> Path:
    """Move the old files aside and give the rebuilt ledger its name.

    Returns:
        The folder that holds the old files; one that is not there, when there was no rebuilt ledger.

    Raises:
        OSError: The state directory cannot be written; calling this again goes on.
    """
    rebuilt = _rebuilt_path(path)
    aside = _free_aside(path)
    if not rebuilt.exists():
        return aside
    old = [one for suffix in ("-shm", "-wal", "-journal", "") if (one := path.with_name(path.name + suffix)).exists()]
    if old:
        make_folders(aside, mode=0o700)
    for one in old:
        one.replace(aside / one.name)
    if old:
        sync_folder(aside)
    rebuilt.replace(path)
    damage_path(path).unlink(missing_ok=True)
    sync_folder(path.parent)
    return aside


# ---- building --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Built:
    """The new ledger's running state."""

    next_seq: int = 0
    kept: int = 0
    frontier: Frontier = field(default_factory=Frontier)
    totals: Counter[tuple[str, str]] = field(default_factory=Counter)
    license_totals: Counter[tuple[str, str]] = field(default_factory=Counter)
    floors: dict[str, int] = field(default_factory=dict)
    license_id: str = ""
    boot_id: str = ""
    effective_ms: int = 0
    boottime_ms: int = 0
    failed_cycles: int = 0
    first_seq: int = 0
    tokens: dict[str, int] = field(default_factory=dict)
    acks: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    forms: dict[str, int] = field(default_factory=dict)
    gap: tuple[int, int] | None = None


def _build(fresh: Path, old: Salvage, evidence: Evidence, *, files_first: bool) -> _Built | None:
    """Fill a new database; None when a sealed root does not come out, or sealed entries are missing."""
    fresh.unlink(missing_ok=True)
    create_private(fresh)
    with closing(connect(fresh)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        db = Database(connection, execute_plugins=False)
        LEDGER_MIGRATIONS.apply(db)
        connection.execute("BEGIN IMMEDIATE")
        built = _Built()
        sources = Sources(old, RecordLines(evidence.records), files_first=files_first)
        reached = _fill(connection, built, sources, evidence)
        kept = evidence.kept
        if reached and built.next_seq < evidence.sealed_size and kept is not None and kept.size > built.next_seq:
            hole = built.next_seq
            connection.execute("ROLLBACK")
            connection.execute("BEGIN IMMEDIATE")
            built = _Built(gap=(hole, kept.size))
            _begin_at(connection, built, kept)
            reached = _fill(connection, built, sources, evidence)
        if not reached or built.next_seq < evidence.sealed_size:
            return None
        built.kept = built.next_seq
        _enter_again(connection, built, old)
        _write_state(connection, built, old)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode=WAL")
    return built


def _fill(db: sqlite3.Connection, built: _Built, sources: Sources, evidence: Evidence) -> bool:
    """Append line after line until one cannot be found; false when a root differs from what this device signed."""
    for line, entry in sources.entries(built.next_seq):
        leaf = leaf_hash(line)
        _store(db, built, entry, line, leaf)
        built.frontier.append(leaf)
        built.next_seq += 1
        _follow(built, entry)
        if entry["kind"] == "window" and not _close(db, built, entry, sources, evidence):
            return False
    return True


def _enter_again(db: sqlite3.Connection, built: _Built, old: Salvage) -> None:
    """Uses from behind a hole: nothing has sealed their numbers, so they get new ones."""
    for license_id, entry in old.uses_from(built.next_seq):
        key = [uuid.UUID(entry["id"]).bytes, entry["page"]]
        if db.execute("SELECT 1 FROM use_entry WHERE operation = ? AND page = ?", key).fetchone() is not None:
            continue
        effective_ms = max(entry["effective_ms"], built.effective_ms)
        line = encode_entry({**entry, "seq": built.next_seq, "effective_ms": effective_ms})
        built.license_id = license_id or built.license_id
        moved = parse_entry(line)
        _store(db, built, moved, line, leaf_hash(line))
        built.next_seq += 1
        _follow(built, moved)


def _store(db: sqlite3.Connection, built: _Built, entry: Mapping[str, Any], line: bytes, leaf: bytes) -> None:
    if entry["kind"] == "use":
        form: UseForm = form_of(dict(entry))
        operation, meter = uuid.UUID(entry["id"]), entry["meter"]
        numbers = {name: entry[name] for name in ("page", "wall_ms", "effective_ms", "boottime_ms")}
        spelled = use_line(form.text, seq=entry["seq"], operation=operation, quantity=meter["quantity"], **numbers)
        if spelled == line:
            if form.text not in built.forms:
                built.forms[form.text] = len(built.forms) + 1
                db.execute("INSERT INTO use_form(id, text) VALUES (?, ?)", [built.forms[form.text], form.text])
            # The table itself knows which pages are in it: a set of them would not fit into memory in a large ledger.
            stored = db.execute(
                """INSERT INTO use_entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
                   ON CONFLICT(operation, page) DO NOTHING""",
                [
                    entry["seq"],
                    built.forms[form.text],
                    operation.bytes,
                    entry["page"],
                    meter["quantity"],
                    numbers["wall_ms"],
                    numbers["effective_ms"],
                    numbers["boottime_ms"],
                    leaf,
                ],
            )
            if stored.rowcount:
                return
    db.execute("INSERT INTO line_entry VALUES (?, ?, ?, ?)", [entry["seq"], entry["kind"], line, leaf])


def _follow(built: _Built, entry: Mapping[str, Any]) -> None:
    """Keep the sums and marks that the ledger keeps beside its entries."""
    built.effective_ms, built.boottime_ms = entry["effective_ms"], entry["boottime_ms"]
    match entry["kind"]:
        case "use":
            name, quantity = entry["meter"]["name"], entry["meter"]["quantity"]
            built.totals[name, month_of(entry["effective_ms"] * 1_000_000)] += quantity
            built.license_totals[built.license_id, name] += quantity
        case "boot":
            built.boot_id = str(entry.get("boot_id", built.boot_id))
        case "license":
            built.license_id = str(entry.get("license_id", "")) if entry.get("in_force") else ""
            if built.license_id:
                sequence = int(entry.get("sequence", 0))
                built.floors[built.license_id] = max(sequence, built.floors.get(built.license_id, 0))
        case "ack":
            root = bytes.fromhex(str(entry.get("root", "")))
            if len(root) == HASH_BYTES:
                built.acks[int(entry["size"])] = (root, entry["seq"])
        case "fault":
            built.failed_cycles = int(entry.get("failed_cycles", built.failed_cycles))
        case "clock":
            built.effective_ms = int(entry.get("to_effective_ms", built.effective_ms))
            if token_id := str(entry.get("token_id", "")):
                built.tokens[token_id] = entry["seq"]
        case _:
            pass


def _close(
    db: sqlite3.Connection, built: _Built, entry: Mapping[str, Any], sources: Sources, evidence: Evidence
) -> bool:
    """Register a window; false when this device signed another root at its end."""
    size, root = built.next_seq, built.frontier.root()
    if evidence.root_at(size) not in (None, root):
        return False
    signed = evidence.checkpoints.get(size)
    closed = entry["closed"]
    built.boot_id = closed["boot_id"]
    facts = sources.window_facts(size, entry)
    if facts is None:
        return False
    file, sha256 = sources.file_at(built.first_seq, size, root)
    if file:
        built.failed_cycles = 0
    cumulative: Counter[str] = Counter()
    for (meter, _), quantity in built.totals.items():
        cumulative[meter] += quantity
    db.execute(
        """INSERT INTO seal(size, first_seq, window, cumulative, root, note, file, file_sha256, frontier, sums)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        [
            size,
            built.first_seq,
            json.dumps(facts),
            json.dumps(cumulative),
            root if signed else None,
            signed[1] if signed else None,
            file or None if signed else None,  # none, not an empty name: it is still to be written
            sha256 if signed else None,
            b"".join(built.frontier.hashes),
            json.dumps(_sums(built)),
        ],
    )
    if signed:
        db.execute("DELETE FROM frontier")
        db.executemany("INSERT INTO frontier VALUES (?, ?)", enumerate(built.frontier.hashes))
    built.first_seq = size
    return True


def _begin_at(db: sqlite3.Connection, built: _Built, kept: KeptSeal) -> None:
    """Go on from the kept seal, without the entries before it."""
    built.next_seq = built.first_seq = kept.size
    built.frontier = Frontier(kept.size, kept.hashes)
    cumulative: Counter[str] = Counter()
    for meter, months in kept.totals.items():
        for month, quantity in months.items():
            built.totals[meter, month] += quantity
            cumulative[meter] += quantity
    for license_id, meters in kept.license_totals.items():
        for meter, quantity in meters.items():
            built.license_totals[license_id, meter] += quantity
    built.floors = dict(kept.license_floors)
    built.license_id = str(kept.window.get("license_id", ""))
    built.failed_cycles = kept.failed_cycles
    closed = kept.window["closed"]
    built.boot_id, built.effective_ms = closed["boot_id"], closed["effective_ms"]
    built.boottime_ms = closed["boottime_ms"]
    db.execute(
        """INSERT INTO seal(size, first_seq, window, cumulative, root, note, file, file_sha256, frontier, sums)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        [
            kept.size,
            kept.first_seq,
            json.dumps(kept.window),
            json.dumps(cumulative),
            kept.root,
            kept.note,
            kept.file or "lost",
            bytes.fromhex(kept.file_sha256) if kept.file_sha256 else None,
            b"".join(kept.hashes),
            json.dumps(_sums(built)),
        ],
    )
    db.executemany("INSERT INTO frontier VALUES (?, ?)", enumerate(kept.hashes))


def _sums(built: _Built) -> dict[str, dict[str, dict[str, int]]]:
    totals = [(meter, month, quantity) for (meter, month), quantity in built.totals.items()]
    license_totals = [(lic, meter, quantity) for (lic, meter), quantity in built.license_totals.items()]
    return {"totals": nested_sums(totals), "license_totals": nested_sums(license_totals)}


def _write_state(db: sqlite3.Connection, built: _Built, old: Salvage) -> None:
    for (meter, month), quantity in built.totals.items():
        db.execute("INSERT INTO total VALUES (?, ?, ?)", [meter, month, quantity])
    for (license_id, meter), quantity in built.license_totals.items():
        db.execute("INSERT INTO license_total VALUES (?, ?, ?)", [license_id, meter, quantity])
    for license_id, sequence in built.floors.items():
        db.execute("INSERT INTO license_floor VALUES (?, ?)", [license_id, sequence])
    for token_id, seq in built.tokens.items():
        values = ["clock-reset", token_id, content_sha256(token_id), seq]
        db.execute("INSERT INTO idem VALUES (?, ?, ?, ?)", values)
    # The log tells what was acknowledged; the rows also have the vendor's cosignature.
    cosigned = dict(old.rows("SELECT size, cosigned FROM ack"))
    for size, (root, seq) in built.acks.items():
        db.execute("INSERT INTO ack VALUES (?, ?, ?, ?)", [size, root, str(cosigned.get(size, "")), seq])
    if not built.next_seq:
        return
    marks = old.rows("SELECT effective_ns, boot_id, boottime_ns, failed_cycles, failure FROM hwm")
    mark = next((mark for mark in marks if _is_likely(mark, built)), None)
    if mark is None:
        failure = "" if built.failed_cycles == 0 else "a metering cycle failed before the ledger was rebuilt"
        mark = (
            built.effective_ms * 1_000_000,
            built.boot_id,
            built.boottime_ms * 1_000_000,
            built.failed_cycles,
            failure,
        )
    db.execute(
        """INSERT INTO hwm(id, effective_ns, boot_id, boottime_ns, failed_cycles, failure)
           VALUES (1, ?, ?, ?, ?, ?)""",
        list(mark),
    )
    # With what a cycle failed, and how far the endpoint has taken the usage: believed where it is of this history.
    for (word,) in old.rows("SELECT failure_word FROM hwm WHERE failed_cycles > 0 LIMIT 1"):
        db.execute("UPDATE hwm SET failure_word = ? WHERE failed_cycles > 0", [str(word)[:40]])
    for size, root, at_ms in old.rows("SELECT size, root, at_ms FROM delivery WHERE id = 1"):
        if [type(size), type(root), type(at_ms)] == [int, bytes, int] and db.execute(
            "SELECT 1 FROM seal WHERE size = ? AND root = ?", [size, root]
        ).fetchone():
            db.execute("INSERT INTO delivery VALUES (1, ?, ?, ?)", [size, root, at_ms])


def _is_likely(mark: tuple[Any, ...], built: _Built) -> bool:
    """Whether a high water is what the meter may have kept since the last entry, and not a flipped bit."""
    if [type(one) for one in mark] != [int, str, int, int, str]:
        return False
    ahead_ms = mark[0] // 1_000_000 - built.effective_ms
    return bool(0 <= ahead_ms <= _LIKELY_MS and 0 <= mark[2] < 2**62 and 0 <= mark[3] <= _LIKELY_CYCLES)


# ---- files -----------------------------------------------------------------------------------------------------------


def _rebuilt_path(path: Path) -> Path:
    """A ledger that is whole, and waits for its name."""
    return path.with_name(f"{path.name}.rebuilt")


def _free_aside(path: Path) -> Path:
    stem = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-ledger"
    names = (stem, *(f"{stem}-{number}" for number in range(2, 1000)))
    free = (path.parent / ASIDE_FOLDER / name for name in names if not (path.parent / ASIDE_FOLDER / name).exists())
    for aside in free:
        return aside
    raise LedgerUnavailableError(f"{path.parent / ASIDE_FOLDER}: no free name")


def _two_histories(path: Path, evidence: Evidence) -> LedgerUnavailableError:
    return LedgerUnavailableError(
        f"{path}: this device has sealed two different histories of {evidence.forked_at} entries: the ledger, or the "
        f"records in {evidence.records}, come from an older copy",
        next_step="keep both as they are and call the vendor; delete nothing",
    )


def _beyond_repair(path: Path, evidence: Evidence) -> LedgerUnavailableError:
    return LedgerUnavailableError(
        f"{path}: entries that were sealed (up to {evidence.sealed_size}) are neither in the ledger nor in the record "
        f"files below {evidence.records}",
        next_step=f"put the missing record files back into {evidence.records} and start again; or call the vendor",
    )
