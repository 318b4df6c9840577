"""What can be told of a log apart from its database, and what can still be read of a damaged one.

Invariant: no entry is believed that its leaf does not bear out, and no checkpoint that this device did not sign. What
cannot be read is simply not there; of an output mount that does not answer that is not known, so it is told.
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from licenses.errors import LicensesError
from licenses.keys import VerifyingKey
from licenses.usage_log.entry import leaf_hash, parse_entry
from licenses.usage_log.files import CHECKPOINT_NAME, CHECKPOINTS_FOLDER, FOLDER, RecordReader, sequence_range
from licenses.usage_log.note import MAX_NOTE_BYTES, Checkpoint, open_checkpoint, unverified_checkpoint
from sidecar.ledger.database import connect, is_passing
from sidecar.ledger.kept import KeptSeal
from sidecar.ledger.use_form import use_line

HEADER_FACTS = ("product_version", "license_id", "license_sequence", "evaluation")
_CHUNK = 2000
_MISSES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of the log outside its database.

    Attributes:
        records: The instance's folder on the output mount; it may be missing.
        key: The device's public key; None before there is one, and then no checkpoint is believed.
        kept: The kept seal; None when there is none.
        checkpoints: Checkpoints on the output mount that this device signed, by size.
        forked_at: A size at which this device has signed two roots; None when it has not.
        is_silent: Whether the output mount did not answer: nobody knows what it holds.
    """

    records: Path
    key: VerifyingKey | None
    kept: KeptSeal | None
    checkpoints: Mapping[int, tuple[Checkpoint, str]]
    forked_at: int | None = None
    is_silent: bool = False

    @property
    def sealed_size(self) -> int:
        """Entries known to have been sealed."""
        return max([*self.checkpoints, self.kept.size if self.kept else 0], default=0)

    def root_at(self, size: int) -> bytes | None:
        """The root that this device signed at `size`; None when it is not known."""
        if size in self.checkpoints:
            return self.checkpoints[size][0].root
        return self.kept.root if self.kept is not None and self.kept.size == size else None

    def complete(self, notes: Iterable[str] = ()) -> Evidence:
        """The same with every checkpoint on the output mount, and with further ones whose signatures hold."""
        key = self.key
        if key is None:
            return self
        found = dict(self.checkpoints)
        forked_at = self.forked_at
        for note in chain(notes, [self.kept.note if self.kept else ""], _notes_in(self.records / CHECKPOINTS_FOLDER)):
            signed = _believe(note, key)
            if signed is not None and found.setdefault(signed.size, (signed, note))[0].root != signed.root:
                forked_at = signed.size
        return replace(self, checkpoints=found, forked_at=forked_at)


def gather_evidence(state: Path, records: Path, key: VerifyingKey | None, *, limit_seconds: float = 20.0) -> Evidence:
    """Look at the kept seal and at the newest checkpoint on the output mount; what cannot be read is not there.

    Args:
        state: The state directory.
        records: The instance's folder on the output mount.
        key: The device's public key; None before there is one.
        limit_seconds: How long the mount may take to answer.
    """
    told: list[str] = []
    # In a thread of its own: a network file system may block for ever, and every start of web and meter passes here.
    look = threading.Thread(
        target=lambda: told.append(_read_note(records / CHECKPOINT_NAME)), name="look-records", daemon=True
    )
    look.start()
    look.join(limit_seconds)
    note = told[0] if told else ""
    newest = None if key is None else _believe(note, key)
    found = {} if newest is None else {newest.size: (newest, note)}
    kept = _signed(KeptSeal.read(state), key)
    return Evidence(records=records, key=key, kept=kept, checkpoints=found, is_silent=not told)


class Salvage:
    """The old database, as far as it can still be read; each row is believed only if its leaf bears it out."""

    def __init__(self, path: Path) -> None:
        self._db: sqlite3.Connection | None = None
        self._forms: dict[int, str] = {}
        try:
            if path.exists():
                self._db = connect(path)
                self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except (sqlite3.Error, UnicodeDecodeError) as exc:
            if isinstance(exc, sqlite3.Error) and is_passing(exc):
                self.__exit__()
                raise
        self._forms = {row[0]: str(row[1]) for row in self.rows("SELECT id, text FROM use_form")}
        sizes = [
            row[0]
            for statement in ("SELECT max(seq) + 1 FROM line_entry", "SELECT max(seq) + 1 FROM use_entry")
            for row in self.rows(statement)
        ]
        self._size = max((size for size in sizes if isinstance(size, int)), default=0)

    def __enter__(self) -> Salvage:
        return self

    def __exit__(self, *_: object) -> None:
        if self._db is not None:
            self._db.close()

    def rows(self, statement: str, arguments: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Rows of a statement; none when they are damaged.

        Raises:
            sqlite3.Error: The disk, not the data, is at fault: another try may find them.
        """
        if self._db is None:
            return []
        try:
            return self._db.execute(statement, arguments).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as exc:
            if isinstance(exc, sqlite3.Error) and is_passing(exc):
                raise
            return []

    def notes(self) -> list[str]:
        """Checkpoints that were stored; whether they are good is for the key to say."""
        return [str(row[0]) for row in self.rows("SELECT note FROM seal WHERE note IS NOT NULL")]

    def lines(self, start: int) -> Iterator[tuple[int, bytes]]:
        """Lines from `start` on, with their numbers; those that cannot be believed are left out."""
        at, misses = start, 0
        while self._db is not None and (at < self._size or misses < _MISSES):
            found = list(self._chunk(at, at + _CHUNK)) or [
                line for seq in range(at, at + _CHUNK) for line in self._chunk(seq, seq + 1)
            ]
            yield from sorted(found)
            misses = 0 if found else misses + _CHUNK
            at += _CHUNK

    def uses_from(self, start: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Uses from `start` on, each with the licence that the entries before it name; empty when none does."""
        license_id = ""
        for _, line in self.lines(start):
            entry: dict[str, Any] = dict(parse_entry(line))
            if entry["kind"] == "license":
                license_id = str(entry.get("license_id", ""))
            if entry["kind"] == "use":
                yield license_id, entry

    def _chunk(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        for seq, line, leaf in self.rows(
            "SELECT seq, body, leaf FROM line_entry WHERE seq >= ? AND seq < ?", [start, end]
        ):
            if isinstance(line, bytes) and leaf_hash(line) == leaf:
                yield seq, line
        for seq, form, operation, page, quantity, wall_ms, effective_ms, boottime_ms, leaf in self.rows(
            """SELECT seq, form, operation, page, quantity, wall_ms, effective_ms, boottime_ms, leaf
               FROM use_entry WHERE seq >= ? AND seq < ?""",
            [start, end],
        ):
            with suppress(KeyError, ValueError, TypeError):
                line = use_line(
                    self._forms[form],
                    seq=seq,
                    operation=uuid.UUID(bytes=operation),
                    page=page,
                    quantity=quantity,
                    wall_ms=wall_ms,
                    effective_ms=effective_ms,
                    boottime_ms=boottime_ms,
                )
                if leaf_hash(line) == leaf:
                    yield seq, line


class RecordLines:
    """The record files on the output mount, as a source of lines."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[int, tuple[int, Path]] = {}
        with suppress(OSError):
            for path in sorted((folder / FOLDER).glob("*/*/*.jsonl")):
                found = sequence_range(path.name)
                if found is not None:
                    self._files[found[0]] = (found[1], path)
        self._starts = sorted(self._files)

    def lines(self, start: int) -> Iterator[tuple[int, bytes]]:
        """Lines from `start` on with their numbers, as the files claim them."""
        for first in self._starts:
            end, path = self._files[first]
            if end <= start:
                continue
            # A file that is gone or damaged is no source; one that the disk does not give is a reason to try again.
            with suppress(FileNotFoundError, LicensesError), RecordReader(path) as reader:
                yield from ((seq, line) for seq, line in zip(range(first, end), reader, strict=False) if seq >= start)

    def header(self, size: int) -> Mapping[str, Any] | None:
        """The facts of the window that ends at `size`, from its file's header."""
        path = self._ending_at(size)
        if path is None:
            return None
        with suppress(OSError, LicensesError), RecordReader(path) as reader:
            told = reader.header
            facts: dict[str, Any] = {name: getattr(told, name) for name in (*HEADER_FACTS, "reason", "origin")}
            return facts
        return None

    def digest(self, first: int, size: int, root: bytes) -> tuple[str, bytes | None]:
        """Path below the instance's folder and SHA-256 of the file of a window; empty when it is not sound."""
        path = self._ending_at(size)
        if path is None or self._files.get(first, (0, path))[1] != path:
            return "", None
        with suppress(OSError, LicensesError), RecordReader(path) as reader:
            for _ in reader:
                pass
            if reader.trailer is not None and (reader.trailer.size, reader.trailer.root) == (size, root):
                return str(path.relative_to(self._folder)), bytes.fromhex(reader.sha256)
        return "", None

    def _ending_at(self, size: int) -> Path | None:
        return next((path for end, path in self._files.values() if end == size), None)


class Sources:
    """Both sources as one: each entry from the first that has it."""

    def __init__(self, old: Salvage, records: RecordLines, *, files_first: bool) -> None:
        self._old = old
        self._records = records
        self._files_first = files_first

    def entries(self, start: int) -> Iterator[tuple[bytes, Mapping[str, Any]]]:
        """Lines from `start` on and what they say, up to the first that neither source has."""
        sources = (self._records, self._old) if self._files_first else (self._old, self._records)
        streams = [_Stream(source.lines(start)) for source in sources]
        seq = start
        while (found := next((one for stream in streams if (one := stream.at(seq)) is not None), None)) is not None:
            try:
                entry = parse_entry(found)
            except LicensesError:
                return
            if entry["seq"] != seq:
                return
            yield found, entry
            seq += 1

    def window_facts(self, size: int, entry: Mapping[str, Any]) -> dict[str, Any] | None:
        """The header's facts of a window: from the old seal, else from its entry and its file's header."""
        for (window,) in self._old.rows("SELECT window FROM seal WHERE size = ?", [size]):
            with suppress(ValueError):
                facts: dict[str, Any] = json.loads(window)
                if facts.get("closed") == entry["closed"]:
                    return facts
        told = self._records.header(size)
        origin = told["origin"] if told else next((json.loads(row[0])["origin"] for row in self._seals()), None)
        if origin is None or (told is None and any(name not in entry for name in HEADER_FACTS)):
            return None
        context = {name: entry[name] if name in entry else (told or {})[name] for name in HEADER_FACTS}
        bounds = {name: entry[name] for name in ("opened", "closed", "reason")}
        return {**context, **bounds, "origin": origin}

    def file_at(self, first: int, size: int, root: bytes) -> tuple[str, bytes | None]:
        """The record file of a window, if it lies sound on the output mount."""
        return self._records.digest(first, size, root)

    def _seals(self) -> Iterator[tuple[Any, ...]]:
        return iter(self._old.rows("SELECT window FROM seal ORDER BY size DESC LIMIT 1"))


class _Stream:
    """Numbered lines in order, asked for by number."""

    def __init__(self, lines: Iterator[tuple[int, bytes]]) -> None:
        self._lines = lines
        self._next = next(lines, None)

    def at(self, seq: int) -> bytes | None:
        """The line of that number; None when it is not there. Numbers asked for must not go down."""
        while self._next is not None and self._next[0] < seq:
            self._next = next(self._lines, None)
        return self._next[1] if self._next is not None and self._next[0] == seq else None


def _signed(kept: KeptSeal | None, key: VerifyingKey | None) -> KeptSeal | None:
    """A kept seal whose size and root this device has signed; any other is none."""
    signed = None if kept is None or key is None else _believe(kept.note, key)
    return (
        kept
        if signed is not None and kept is not None and (signed.size, signed.root) == (kept.size, kept.root)
        else None
    )


def _read_note(path: Path) -> str:
    """A checkpoint's text; empty where there is none, or what is no file and could keep the reader waiting."""
    with suppress(OSError, UnicodeDecodeError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return os.read(descriptor, MAX_NOTE_BYTES).decode("utf-8")
        finally:
            os.close(descriptor)
    return ""


def _notes_in(folder: Path) -> Iterator[str]:
    """The text of each checkpoint in a folder, one at a time: there is one for each window of years."""
    with suppress(OSError):
        for name in sorted(os.listdir(folder)):
            yield _read_note(folder / name)


def _believe(note: str, key: VerifyingKey) -> Checkpoint | None:
    """A checkpoint, if this device signed it."""
    with suppress(LicensesError):
        return open_checkpoint(note, {unverified_checkpoint(note).origin: key})
    return None
