"""What the meter tells the other processes beside the ledger: when the window closes, how output and endpoint are.

Invariant: a small file in the state directory, replaced whole; whoever cannot read it simply knows less.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from licenses.durable import write_file

METER_STATUS_NAME = "meter.json"
_MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterStatus:
    """One meter's word.

    Attributes:
        deadline_ns: CLOCK_BOOTTIME at which the open window is to be closed.
        boot_id: The boot that this is told in.
        output_problem: What is known to be wrong with the output mount; empty when nothing is.
        endpoint_problem: What is known to be wrong with the billing endpoint; empty when nothing is.
        endpoint_word: Its status word for that (contract B.3); "Valid" after a success, empty before the first contact.
        contact_ms: Effective time of the last success with the endpoint, since 1970 UTC; 0 before the first.
    """

    deadline_ns: int
    boot_id: str
    output_problem: str
    endpoint_problem: str = ""
    endpoint_word: str = ""
    contact_ms: int = 0

    def write(self, state_directory: Path) -> None:
        """Replace the file.

        Raises:
            OSError: The state directory cannot be written.
        """
        content = json.dumps(asdict(self)).encode("utf-8")
        write_file(state_directory / METER_STATUS_NAME, [content], mode=0o640, overwrite=True)

    @classmethod
    def read(cls, state_directory: Path) -> MeterStatus | None:
        """The file's content; None when there is none, or none that can be understood."""
        try:
            with (state_directory / METER_STATUS_NAME).open("rb") as stream:
                found = json.loads(stream.read(_MAX_BYTES))
            return cls(
                deadline_ns=int(found["deadline_ns"]),
                boot_id=str(found["boot_id"]),
                output_problem=str(found["output_problem"]),
                endpoint_problem=str(found.get("endpoint_problem", "")),
                endpoint_word=str(found.get("endpoint_word", "")),
                contact_ms=int(found.get("contact_ms", 0)),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
