"""What goes into the ledger and what comes out, as values.

Invariant: nothing here touches the database.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sidecar.clock import HighWater


@dataclass(frozen=True, slots=True, kw_only=True)
class UseEvent:
    """One page read: what is counted, and the key under which it is counted once.

    Attributes:
        operation_id: GUID of the operation, lower case.
        page: 1-based page of the source document.
        meter: Meter name.
        quantity: Units, at least one.
        license_id: Licence under which the page was read.
    """

    operation_id: str
    page: int
    meter: str
    license_id: str
    quantity: int = 1

    @property
    def event_id(self) -> str:
        """Idempotency key, for people."""
        return f"{self.operation_id}/{self.page}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSnapshot:
    """What the decision needs to know of the ledger, read in one go.

    Attributes:
        high_water: Highest effective time committed to; None in a ledger without entries.
        failed_cycles: Consecutive failed metering cycles.
        failure: Cause of the last failed cycle; empty after a success.
        failure_word: The billing endpoint's status word (contract B.3) where that made it fail; else empty.
        license_pages: Pages counted under each licence id, for the meter asked.
        size: Number of entries.
        sealed_size: Entries covered by the newest seal.
        pending_files: Closed windows whose record file is not on the output mount yet.
        license_floors: The highest sequence ever in force, by licence id.
    """

    high_water: HighWater | None
    failed_cycles: int
    failure: str
    failure_word: str
    license_pages: Mapping[str, int]
    size: int
    sealed_size: int
    pending_files: int
    license_floors: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRecord:
    """A closed window on its way to the output mount.

    Attributes:
        first_seq: First entry of the window.
        size: Number of entries in the ledger up to and including its `window` entry.
        window: Bounds, counts and licence in force, as the record file's header tells them.
        root: Merkle root at `size`; None until sealed.
        note: The signed checkpoint; None until sealed.
    """

    first_seq: int
    size: int
    window: dict[str, Any]
    root: bytes | None
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedWindow:
    """A closed and sealed window.

    Attributes:
        first_seq: First entry of the window.
        size: Number of entries in the ledger up to and including its `window` entry.
        window: Bounds, counts and licence in force, as the record file's header tells them.
        root: Merkle root at `size`, 32 bytes.
        note: The signed checkpoint.
        frontier_before: Merkle frontier at `first_seq`, the largest subtree first.
        file: Path of its record file below the instance's folder; empty until written.
        file_sha256: Digest of that file; None until written.
    """

    first_seq: int
    size: int
    window: dict[str, Any]
    root: bytes
    note: str
    frontier_before: tuple[bytes, ...]
    file: str
    file_sha256: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Acked:
    """The newest acknowledgement.

    Attributes:
        size: Entries that the vendor has acknowledged.
        root: Merkle root over them, 32 bytes.
        cosigned: The checkpoint with the vendor's cosignature; empty when it was recovered without it.
    """

    size: int
    root: bytes
    cosigned: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """How far the billing endpoint has taken the usage.

    Attributes:
        size: Entries of all windows that it took, oldest first; 0 before the first.
        at: When it took the last one (effective, UTC); None before the first.
        pending: Sealed windows that it has not taken yet.
    """

    size: int
    at: datetime | None
    pending: int


def content_sha256(text: str) -> bytes:
    """Digest that an idempotency key is stored with."""
    return hashlib.sha256(text.encode("utf-8")).digest()


def nested_sums(rows: Sequence[tuple[str, str, int]]) -> dict[str, dict[str, int]]:
    """Rows (outer, inner, quantity) as quantities by outer and inner name."""
    nested: dict[str, dict[str, int]] = {}
    for outer, inner, quantity in rows:
        nested.setdefault(outer, {})[inner] = quantity
    return nested
