"""The ledger at a start: made if there is none, brought up to date, checked, and mended before anything serves.

Invariant: one process at a time comes through here (the caller holds the lock of migrations). A repair happens only
while nobody has the ledger open; what it did becomes entries of the log.
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from licenses.device_key import instance_id_of
from licenses.errors import LicensesError
from licenses.keys import VerifyingKey
from sidecar.clock import Clock
from sidecar.errors import LedgerUnavailableError
from sidecar.ledger.check import start_problem
from sidecar.ledger.database import hold, is_passing, unavailable
from sidecar.ledger.ledger import Ledger, prepare
from sidecar.ledger.repair import Repair, behind, finish_repair, repair
from sidecar.ledger.salvage import Evidence, gather_evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """How the ledger was found.

    Attributes:
        repair: What had to be mended; None when it was sound.
    """

    repair: Repair | None


def start_ledger(
    path: Path,
    *,
    records: Path,
    key: VerifyingKey | None,
    clock: Clock,
    version: str,
    limit_seconds: float = 20.0,
) -> Started:
    """Make the ledger ready.

    Args:
        path: The database.
        records: The instance's folder on the output mount, from which sealed entries can be taken back.
        key: The device's public key; None before the first start.
        clock: Where times come from.
        version: Product version.
        limit_seconds: How long the output mount may take to answer. A sound ledger starts without it.

    Raises:
        LedgerUnavailableError: It cannot be used, and cannot be mended now.
    """
    try:
        finish_repair(path)  # one that a crash interrupted
    except OSError as exc:
        raise unavailable(exc, path) from exc
    evidence = gather_evidence(path.parent, records, key, limit_seconds=limit_seconds)
    if evidence.is_silent and key is not None and not path.exists():
        raise _silent(path, evidence, "it is not there")  # before an empty one is made, which would be believed
    cause = _problem(path, evidence)
    if not cause:
        return Started(repair=None)
    if evidence.is_silent:
        raise _silent(path, evidence, cause)
    alone = hold(path, alone=True)
    if alone is None:
        raise LedgerUnavailableError(
            f"{path}: {cause}; another process of the service still has it open",
            next_step="stop the whole service and start it again: the ledger is moved aside and rebuilt then",
        )
    try:
        # Looked at once more now that nobody works on it: what was being written is no damage.
        evidence = gather_evidence(path.parent, records, key, limit_seconds=limit_seconds)
        cause = _problem(path, evidence)
        if not cause:
            return Started(repair=None)
        if evidence.is_silent:
            raise _silent(path, evidence, cause)
        done = repair(path, evidence, cause)
    except (OSError, sqlite3.Error) as exc:
        raise unavailable(exc, path) from exc
    finally:
        os.close(alone)
    _tell(path, done, key=key, clock=clock, version=version)
    return Started(repair=done)


def _silent(path: Path, evidence: Evidence, cause: str) -> LedgerUnavailableError:
    """Nothing is mended while the record files cannot be asked: what only they have would be given up as lost."""
    return LedgerUnavailableError(
        f"{path}: {cause}; it is rebuilt with the record files below {evidence.records}, which does not answer",
        next_step=f"check the disk or network file system behind it: 'dmesg', 'findmnt -T {evidence.records}'; then "
        "start again. Nothing was moved",
    )


def _problem(path: Path, evidence: Evidence) -> str:
    try:
        prepare(path)
        return start_problem(path) or behind(path, evidence)
    except LedgerUnavailableError as exc:
        if not isinstance(exc.__cause__, sqlite3.Error) or is_passing(exc.__cause__):
            raise
        return str(exc.__cause__)
    except sqlite3.Error as exc:
        if is_passing(exc):
            raise unavailable(exc, path) from exc
        return str(exc)
    except (ValueError, TypeError, LookupError, LicensesError) as exc:
        return f"it cannot be understood: {exc!r}"  # nobody but us writes it, so it is damaged


def _tell(path: Path, done: Repair, *, key: VerifyingKey | None, clock: Clock, version: str) -> None:
    """Enter the repair into the log."""
    ledger = Ledger(path, clock=clock, instance=instance_id_of(key.raw) if key else "unknown", version=version)
    try:
        ledger.append(
            "quarantine",
            {
                "what": "ledger",
                "cause": done.cause[:200].encode("ascii", "replace").decode("ascii"),
                "aside": f"{done.aside.parent.name}/{done.aside.name}",
                "entries": done.entries,
                "entered_again": done.entered_again,
            },
        )
        if done.gap is not None:
            ledger.append("gap", {"first_seq": done.gap[0], "next_seq": done.gap[1], "cause": "ledger lost"})
    finally:
        ledger.close()
