"""The last seal's state in a small file beside the ledger, so that the log can go on though the ledger is lost.

Invariant: the file is replaced whole after each seal; it holds no more than sums and hashes. It is evidence too: a
ledger that knows less than its own kept seal is an older copy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from licenses.durable import write_file
from licenses.errors import RecordError
from licenses.usage_log.merkle import Frontier

KEPT_NAME = "ledger.kept"
_MAX_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSeal:
    """What the ledger was at its newest seal.

    Attributes:
        size: Entries sealed.
        frontier: Merkle frontier at `size`, in hexadecimal, the largest subtree first.
        window: Facts of the newest sealed window, as the record file's header tells them.
        first_seq: First entry of that window.
        note: Its signed checkpoint.
        totals: Units by meter and month.
        license_totals: Units by licence id and meter.
        license_floors: Highest sequence ever in force, by licence id.
        failed_cycles: Consecutive failed cycles.
        file: Path of its record file below the instance's folder; empty until written.
        file_sha256: Digest of that file in hexadecimal; empty until written.
    """

    size: int
    frontier: list[str]
    window: dict[str, Any]
    first_seq: int
    note: str
    totals: Mapping[str, Mapping[str, int]]
    license_totals: Mapping[str, Mapping[str, int]]
    license_floors: Mapping[str, int]
    failed_cycles: int
    file: str
    file_sha256: str

    @property
    def hashes(self) -> list[bytes]:
        """The frontier's hashes."""
        return [bytes.fromhex(one) for one in self.frontier]

    @property
    def root(self) -> bytes:
        """Merkle root at `size`."""
        return Frontier(self.size, self.hashes).root()

    def write(self, folder: Path) -> None:
        """Replace the file.

        Raises:
            OSError: The folder cannot be written.
        """
        content = json.dumps(asdict(self), sort_keys=True).encode("utf-8")
        write_file(folder / KEPT_NAME, [content], mode=0o600, overwrite=True)

    @classmethod
    def read(cls, folder: Path) -> KeptSeal | None:
        """The file's content; None when there is none, or none that can be understood."""
        try:
            with (folder / KEPT_NAME).open("rb") as stream:
                found = cls(**json.loads(stream.read(_MAX_BYTES)))
            _ = found.root
        except (OSError, ValueError, TypeError, RecordError):
            return None
        return found
