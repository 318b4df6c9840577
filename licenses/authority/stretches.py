"""The rows of accounting: stretches of a log that are billed, acknowledged, waiting or seen, and what they sum up to.

Invariant: rows are added and never changed; that stretches which are billed never overlap is the database's to refuse.
"""

import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from licenses.authority.arrivals import Source, Sums, month_of
from licenses.authority.bundle_records import Cell
from licenses.authority.database import Transaction, summed, whole_sum
from licenses.authority.forks import proof_of_fork
from licenses.keys import VerifyingKey
from licenses.strict_json import instant_text
from licenses.usage_report import UsageReport

ENDLESS = 2**62
"""An end behind all entries."""


class Stretch(NamedTuple):
    """A stretch of a log, and what is known of it: how it came to be billed, or what it sums up to."""

    since: int
    size: int
    source: str


class Unsettled(NamedTuple):
    """A report behind a hole: what it proves, until it is known of which history it is."""

    since: int
    size: int
    arrival: int
    root: bytes
    since_root: bytes
    note: str
    proof: str

    @property
    def steps(self) -> list[bytes]:
        """The proof that the log continues that of `since_root`."""
        return [bytes.fromhex(step) for step in json.loads(self.proof)]

    def agrees(self, roots: Mapping[int, bytes]) -> bool:
        """Whether it is of the history that has these roots."""
        mine = {self.size: self.root, self.since: self.since_root}
        return all(roots.get(size, root) == root for size, root in mine.items())

    def contradicts(self, report: UsageReport) -> bool:
        """Whether both cannot be of one history: they have other roots at one size."""
        roots = {report.size: report.root}
        if report.since_root is not None:
            roots[report.since] = report.since_root
        return not self.agrees(roots)

    def proof_against(self, report: UsageReport, device: VerifyingKey) -> bytes | None:
        """The proof that it and a report are of two histories; None if they make none."""
        if self.size == report.size:
            return proof_of_fork(self.note, report.checkpoint, device)
        if self.since == report.size:
            return proof_of_fork(report.checkpoint, self.note, device, root=self.since_root, steps=self.steps)
        if self.size == report.since and report.since_root is not None:
            return proof_of_fork(self.note, report.checkpoint, device, root=report.since_root, steps=report.proof)
        return None


class Stretches:
    """Stretches that do not overlap, to be asked by entry."""

    def __init__(self, stretches: Sequence[Stretch]) -> None:
        self._stretches = stretches
        self._begins = [one.since for one in stretches]

    def at(self, entry: int) -> Stretch | None:
        """The stretch that an entry lies in."""
        index = bisect_right(self._begins, entry) - 1
        return self._stretches[index] if index >= 0 and entry < self._stretches[index].size else None


def stretch_at(tx: Transaction, origin: str, entry: int) -> Stretch | None:
    """The stretch that is billed and has this entry."""
    return next(iter(billed_stretches(tx, origin, entry, entry + 1)), None)


def billed_stretches(tx: Transaction, origin: str, since: int, size: int) -> list[Stretch]:
    """What is billed and touches [since, size), in order."""
    return _touching(tx, "span", "source", origin, (since, size))


def claimed_stretches(tx: Transaction, origin: str, since: int, size: int) -> list[Stretch]:
    """What an acknowledgement told of, and was not known here then, within [since, size); billed since or not."""
    return _touching(tx, "claim", "told", origin, (since, size))


def unsettled_stretches(tx: Transaction, origin: str, since: int, size: int) -> list[Unsettled]:
    """What waits behind a hole and touches [since, size), in order."""
    rows = tx.query(
        """SELECT since, size, arrival, root, since_root, note, proof FROM unsettled_now
           WHERE origin = ? AND since < ? AND size > ? ORDER BY since""",
        [origin, size, since],
    )
    return [Unsettled(**row) for row in rows]


def keep_waiting(tx: Transaction, report: UsageReport, arrival: int) -> None:
    """Let a report wait behind a hole."""
    tx.execute(
        """INSERT INTO unsettled(arrival, origin, since, size, root, since_root, note, proof)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?)""",
        [
            arrival,
            report.origin,
            report.since,
            report.size,
            report.root,
            report.since_root,
            report.checkpoint,
            json.dumps([step.hex() for step in report.proof]),
        ],
    )


def settle(tx: Transaction, origin: str, one: Unsettled, at: datetime) -> None:
    """Let what waited behind a hole be of the log's history."""
    tx.execute("INSERT INTO settlement(arrival, good, at) VALUES (?, 1, ?)", [one.arrival, instant_text(at)])
    cover(tx, origin, one.since, one.size, "report", arrival=one.arrival, linked=True)
    know(tx, origin, [(one.since, one.since_root), (one.size, one.root)], {one.size: one.note})
    tx.execute(
        "INSERT OR IGNORE INTO link(origin, size, later, proof) VALUES (?, ?, ?, ?)",
        [origin, one.since, one.size, one.proof],
    )


def covered_stretches(tx: Transaction, origin: str, size: int) -> list[Stretch]:
    """All of [0, size) of which something arrived, or that an acknowledgement covers, in order."""
    waiting = (Stretch(one.since, one.size, "report") for one in unsettled_stretches(tx, origin, 0, size))
    return sorted([*billed_stretches(tx, origin, 0, size), *claimed_stretches(tx, origin, 0, size), *waiting])


def signed_for(tx: Transaction, origin: str) -> int:
    """Up to where this vendor has acknowledged a log, here or elsewhere."""
    row = tx.one(
        """SELECT max((SELECT coalesce(max(size), 0) FROM ack WHERE origin = :o),
                      (SELECT coalesce(max(acked), 0) FROM claim WHERE origin = :o)) AS size""",
        {"o": origin},
    )
    return 0 if row is None else int(row["size"])


def verified_stretches(tx: Transaction, origin: str, since: int, size: int) -> list[Stretch]:
    """Of what reports told, the stretches within [since, size) whose entries were seen; with their sums as JSON."""
    return _touching(tx, "verified", "sums", origin, (since, size))


def _touching(tx: Transaction, table: str, column: str, origin: str, bounds: tuple[int, int]) -> list[Stretch]:
    begins = f"SELECT max(since) FROM {table} WHERE origin = :o AND since <= :since"  # noqa: S608
    rows = tx.query(
        f"""SELECT since, size, {column} AS what FROM {table} WHERE origin = :o AND since < :size AND size > :since
            AND since >= coalesce(({begins}), 0) ORDER BY since""",  # noqa: S608
        {"o": origin, "since": bounds[0], "size": bounds[1]},
    )
    return [Stretch(row["since"], row["size"], row["what"]) for row in rows]


def uncovered(spans: Iterable[Stretch], since: int, size: int) -> list[tuple[int, int]]:
    """What of [since, size) no stretch covers."""
    free, at = [], since
    for span in spans:
        if at < span.since:
            free.append((at, span.since))
        at = max(at, span.size)
    return [*free, (at, size)] if at < size else free


def keep_arrival(
    tx: Transaction,
    source: Source,
    road: str,
    *,
    since: int,
    size: int,
    root: bytes,
    closed_at: datetime,
    digest: bytes,
    at: datetime,
) -> int:
    """Note an arrival; its number."""
    return tx.execute(
        """INSERT INTO arrival(at, road, subscription_id, origin, since, size, root, closed_at, digest)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        [
            instant_text(at),
            road,
            source.subscription.id,
            source.origin,
            since,
            size,
            root,
            instant_text(closed_at),
            digest,
        ],
    ).last_id


def cover(tx: Transaction, origin: str, since: int, size: int, how: str, *, arrival: int, linked: bool) -> None:
    """Note a stretch as billed; the database refuses one that overlaps."""
    tx.execute(
        "INSERT INTO span(origin, since, size, source, linked, arrival) VALUES (?, ?, ?, ?, ?, ?)",
        [origin, since, size, how, int(linked), arrival],
    )


def charge(tx: Transaction, source: Source, size: int, sums: Sums, *, kind: str, at: datetime) -> None:
    """Bill units of a stretch that ends at `size`, each in the month that the rules allow."""
    first, last, told_at = month_of(source.subscription.created_at), month_of(at), instant_text(at)
    tx.execute_many(
        """INSERT INTO amount(subscription_id, origin, size, meter, month, billed_month, quantity, kind, at)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        [
            (
                source.subscription.id,
                source.origin,
                size,
                meter,
                month,
                max(first, min(month, last)),
                quantity,
                kind,
                told_at,
            )
            for (meter, month), quantity in sums.items()
        ],
    )


def charged(tx: Transaction, origin: str, since: int, size: int, *, but: str = "") -> dict[tuple[str, str], int]:
    """Units of the stretches that end within (since, size], per meter and month; with all corrections."""
    rows = tx.query(
        f"""SELECT meter, month, {whole_sum("quantity")} FROM amount
            WHERE origin = ? AND size > ? AND size <= ? AND kind <> ? GROUP BY meter, month""",  # noqa: S608
        [origin, since, size, but],
    )
    return {(row["meter"], row["month"]): quantity for row in rows if (quantity := summed(row))}


def keep_verified(tx: Transaction, origin: str, cell: Cell, arrival: int) -> None:
    """Note what the entries of a stretch sum up to."""
    sums = [[meter, month, quantity] for (meter, month), quantity in sorted(cell.sums.items())]
    tx.execute(
        "INSERT INTO verified(origin, since, size, sums, arrival) VALUES (?, ?, ?, ?, ?)",
        [origin, cell.since, cell.size, json.dumps(sums), arrival],
    )


def know(tx: Transaction, origin: str, roots: Iterable[tuple[int, bytes]], notes: Mapping[int, str]) -> None:
    """Remember roots and checkpoints; whether they contradict what is known was looked at before."""
    tx.execute_many(
        "INSERT OR IGNORE INTO known_root(origin, size, root) VALUES (?, ?, ?)",
        [(origin, size, root) for size, root in roots],
    )
    tx.execute_many(
        "INSERT OR IGNORE INTO checkpoint(origin, size, note) VALUES (?, ?, ?)",
        [(origin, size, note) for size, note in notes.items()],
    )


def keep_link(tx: Transaction, report: UsageReport) -> None:
    """Remember the proof that a report continues the log, if it has one; a later delivery of it may."""
    if report.since_root is None:
        return
    know(tx, report.origin, [(report.since, report.since_root)], {})
    tx.execute(
        "INSERT OR IGNORE INTO link(origin, size, later, proof) VALUES (?, ?, ?, ?)",
        [report.origin, report.since, report.size, json.dumps([one.hex() for one in report.proof])],
    )


def note_at(tx: Transaction, origin: str, size: int) -> str | None:
    """The device's checkpoint at a size; None if it never came."""
    row = tx.one("SELECT note FROM checkpoint WHERE origin = ? AND size = ?", [origin, size])
    return None if row is None else str(row["note"])


def missing_before(tx: Transaction, origin: str, size: int) -> list[tuple[int, int]]:
    """The stretches of [0, size) that never arrived, and that no acknowledgement covers either."""
    return uncovered(covered_stretches(tx, origin, size), 0, size)
