"""The ledger's schema, as migrations that are never edited after release.

Invariant: a migration and the record that it ran commit together; nothing serves before all have run.
"""

from __future__ import annotations

from sqlite_utils.db import Database
from sqlite_utils.migrations import Migrations

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
