"""What arrives, as accounting takes it: whose it is, what it holds, and what became of it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from licenses.ack import Ack
from licenses.authority.accounts import Subscription
from licenses.authority.bundle_records import Cell
from licenses.keys import VerifyingKey
from licenses.usage_log.bundle import Span
from licenses.usage_log.report import Finding

Sums = Mapping[tuple[str, str], int]
"""Units per meter and month ("YYYY-MM")."""
Consistency = Callable[[int], tuple[bytes, list[bytes]]]
"""The root that a log has at a smaller size, and the proof that ties it to the log's checkpoint."""


class Source(NamedTuple):
    """Whose log it is, as the vendor knows it.

    Attributes:
        origin: "<vendor domain>/<device id>".
        key: The device's, pinned.
        subscription: Which is billed.
    """

    origin: str
    key: VerifyingKey
    subscription: Subscription


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a bundle holds, verified entry by entry.

    Attributes:
        span: Which part of which log.
        digest: SHA-256 of its manifest: the same bundle again has the same.
        note: The device's checkpoint at its end.
        since_root: The root where it begins; None at entry 0.
        since_note: The device's checkpoint there, if it is carried.
        cells: All entries, summed up; each ends where a window does, or where something is known of the log.
        carried: The vendor's acknowledgement that it follows, if it is carried.
        findings: Of the auditor's verifier.
        consistency: For the proof of a fork.
    """

    span: Span
    digest: bytes
    note: str
    since_root: bytes | None
    since_note: str | None
    cells: Sequence[Cell]
    carried: Ack | None
    findings: Sequence[Finding]
    consistency: Consistency

    @property
    def roots(self) -> dict[int, bytes]:
        """The roots that the log has by it, at the end of each cell and where it begins."""
        roots = {cell.size: cell.root for cell in self.cells}
        if self.since_root is not None:
            roots[self.span.since] = self.since_root
        return roots

    @property
    def notes(self) -> dict[int, str]:
        """The device's checkpoints in it, by size."""
        begin = {} if self.since_note is None else {self.span.since: self.since_note}
        return {**begin, self.span.size: self.note}


@dataclass(frozen=True, slots=True, kw_only=True)
class Billed:
    """What became of an arrival.

    Attributes:
        billed: Units billed for the first time, per meter.
        corrected: Units by which what reports had told was corrected, per meter; may be negative.
        repeated: Whether nothing of it was new, and all of it is what was known before.
        findings: What speaks against the books, or against it.
        unbelieved: The entries of a bundle that are not tied to what is known: nothing of them counts.
    """

    billed: Mapping[str, int]
    corrected: Mapping[str, int]
    repeated: bool
    findings: tuple[Finding, ...] = ()
    unbelieved: tuple[int, int] | None = None


def month_of(at: datetime) -> str:
    """The month that an instant lies in, "YYYY-MM"."""
    return f"{at.year:04}-{at.month:02}"


def per_meter(sums: Sums) -> dict[str, int]:
    """Units per meter, over all months; none of 0."""
    meters: Counter[str] = Counter()
    for (meter, _), quantity in sums.items():
        meters[meter] += quantity
    return {meter: quantity for meter, quantity in sorted(meters.items()) if quantity}


def units_text(sums: Sums) -> str:
    """Units per meter, for people."""
    meters = per_meter(sums)
    return ", ".join(f"{quantity:,} {meter}" for meter, quantity in meters.items()) or "nothing"
