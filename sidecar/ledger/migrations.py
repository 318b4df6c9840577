"""The ledger's schema, as migrations that are never edited after release.

Invariant: a migration and the record that it ran commit together; nothing serves before all have run.
"""

from __future__ import annotations

import json
import uuid

from licenses.usage_log.merkle import Frontier
from sidecar.ledger.sql import Database, Migrations
from sidecar.ledger.use_form import LINE_SQL, form_of, use_line

LEDGER_MIGRATIONS = Migrations("ledger")


@LEDGER_MIGRATIONS()
def m001_ledger(db: Database) -> None:
    """Entries, idempotency keys, totals, seals, high water and the Merkle frontier."""
    for statement in (
        """CREATE TABLE entry(
             seq INTEGER PRIMARY KEY,
             kind TEXT NOT NULL,
             body BLOB NOT NULL,
             leaf BLOB NOT NULL CHECK (length(leaf) = 32)
           ) STRICT""",
        """CREATE TABLE idem(
             source TEXT NOT NULL,
             event_id TEXT NOT NULL,
             body_sha256 BLOB NOT NULL,
             seq INTEGER NOT NULL,
             PRIMARY KEY (source, event_id)
           ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE total(
             meter TEXT NOT NULL,
             month TEXT NOT NULL,
             qty INTEGER NOT NULL CHECK (qty >= 0),
             PRIMARY KEY (meter, month)
           ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE license_total(
             license_id TEXT NOT NULL,
             meter TEXT NOT NULL,
             qty INTEGER NOT NULL CHECK (qty >= 0),
             PRIMARY KEY (license_id, meter)
           ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE seal(
             size INTEGER PRIMARY KEY,
             first_seq INTEGER NOT NULL,
             window TEXT NOT NULL,
             cumulative TEXT NOT NULL,
             root BLOB,
             note TEXT,
             file TEXT,
             file_sha256 BLOB
           ) STRICT""",
        """CREATE TABLE hwm(
             id INTEGER PRIMARY KEY CHECK (id = 1),
             effective_ns INTEGER NOT NULL,
             boot_id TEXT NOT NULL,
             boottime_ns INTEGER NOT NULL,
             failed_cycles INTEGER NOT NULL DEFAULT 0,
             failure TEXT NOT NULL DEFAULT ''
           ) STRICT""",
        "CREATE TABLE frontier(level INTEGER PRIMARY KEY, hash BLOB NOT NULL CHECK (length(hash) = 32)) STRICT",
    ):
        db.execute(statement)


@LEDGER_MIGRATIONS()
def m002_license_floor(db: Database) -> None:
    """The highest sequence of each licence that was ever in force."""
    db.execute(
        """CREATE TABLE license_floor(
             license_id TEXT PRIMARY KEY,
             sequence INTEGER NOT NULL
           ) STRICT, WITHOUT ROWID"""
    )


@LEDGER_MIGRATIONS()
def m003_compact_uses(db: Database) -> None:
    """A page costs a row of numbers instead of a line and a key; the view `entry` shows the exact lines.

    Also: the Merkle frontier at each seal, so that a record file can be proven without those before it, and the
    vendor's acknowledgements.
    """
    for statement in (
        "ALTER TABLE entry RENAME TO line_entry",
        """CREATE TABLE use_form(
             id INTEGER PRIMARY KEY,
             text TEXT NOT NULL UNIQUE
           ) STRICT""",
        """CREATE TABLE use_entry(
             seq INTEGER PRIMARY KEY,
             form INTEGER NOT NULL REFERENCES use_form(id),
             operation BLOB NOT NULL CHECK (length(operation) = 16),
             page INTEGER NOT NULL,
             quantity INTEGER NOT NULL,
             wall_ms INTEGER NOT NULL,
             effective_ms INTEGER NOT NULL,
             boottime_ms INTEGER NOT NULL,
             leaf BLOB NOT NULL CHECK (length(leaf) = 32),
             UNIQUE (operation, page)
           ) STRICT""",
        "ALTER TABLE seal ADD COLUMN frontier BLOB",
        "ALTER TABLE seal ADD COLUMN sums TEXT",
        """CREATE TABLE ack(
             size INTEGER PRIMARY KEY,
             root BLOB NOT NULL CHECK (length(root) = 32),
             cosigned TEXT NOT NULL,
             seq INTEGER NOT NULL
           ) STRICT""",
        "CREATE INDEX seal_pending ON seal(size) WHERE file IS NULL",
        "DELETE FROM idem WHERE source != 'clock-reset'",
    ):
        db.execute(statement)
    _move_uses(db)
    _fill_frontiers(db)
    db.execute(
        f"""CREATE VIEW entry(seq, kind, body, leaf) AS
            SELECT seq, kind, body, leaf FROM line_entry
            UNION ALL
            SELECT u.seq, 'use', {LINE_SQL}, u.leaf FROM use_entry u JOIN use_form f ON f.id = u.form"""  # noqa: S608
    )


@LEDGER_MIGRATIONS()
def m004_delivery(db: Database) -> None:
    """How far the billing endpoint has taken the usage, and with which status word the last cycle failed."""
    for statement in (
        """CREATE TABLE delivery(
             id INTEGER PRIMARY KEY CHECK (id = 1),
             size INTEGER NOT NULL,
             root BLOB NOT NULL CHECK (length(root) = 32),
             at_ms INTEGER NOT NULL
           ) STRICT""",
        "ALTER TABLE hwm ADD COLUMN failure_word TEXT NOT NULL DEFAULT ''",
    ):
        db.execute(statement)


def _move_uses(db: Database) -> None:
    forms: dict[str, int] = {}
    for seq, body, leaf in db.execute("SELECT seq, body, leaf FROM line_entry WHERE kind = 'use'").fetchall():
        entry = json.loads(body)
        text = form_of(entry).text
        numbers = {name: entry[name] for name in ("page", "wall_ms", "effective_ms", "boottime_ms")}
        numbers["quantity"] = entry["meter"]["quantity"]
        operation = uuid.UUID(entry["id"])
        if use_line(text, seq=seq, operation=operation, **numbers) != body:
            continue  # spelled otherwise: it stays a line, and is shown all the same
        if text not in forms:
            forms[text] = len(forms) + 1
            db.execute("INSERT INTO use_form(id, text) VALUES (?, ?)", [forms[text], text])
        db.execute(
            """INSERT INTO use_entry(seq, form, operation, page, quantity, wall_ms, effective_ms, boottime_ms, leaf)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            [
                seq,
                forms[text],
                operation.bytes,
                numbers["page"],
                numbers["quantity"],
                numbers["wall_ms"],
                numbers["effective_ms"],
                numbers["boottime_ms"],
                leaf,
            ],
        )
        db.execute("DELETE FROM line_entry WHERE seq = ?", [seq])


def _fill_frontiers(db: Database) -> None:
    frontier = Frontier()
    leaves = db.execute("SELECT seq, leaf FROM line_entry UNION ALL SELECT seq, leaf FROM use_entry ORDER BY seq")
    sizes = [row[0] for row in db.execute("SELECT size FROM seal WHERE root IS NOT NULL ORDER BY size").fetchall()]
    for size in sizes:
        frontier.extend(bytes(leaf) for _, leaf in leaves.fetchmany(size - frontier.size))
        db.execute("UPDATE seal SET frontier = ? WHERE size = ?", [b"".join(frontier.hashes), size])
