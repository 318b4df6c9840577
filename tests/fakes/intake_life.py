"""An intake on a disk that misbehaves, in a process of its own: what `Stage.play` runs.

The folder is one that `VendorBooks` made: `books` with the database, `keys`, and what arrives.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from licenses.authority.intake import Acknowledged, Received
from licenses.errors import LicensesError
from tests.fakes.io_faults import Disk, Fault, Tell
from tests.fakes.vendor_books import VendorBooks


def take_in(
    tell: Tell,
    *,
    folder: Path,
    arrival: Path,
    fault: Fault | None,
    kill: bool,
    log: Path | None = None,
) -> None:
    """Take in one arrival while the fault happens; then die, or lift the fault and take it in again.

    Args:
        tell: Told "done" or "refused", then "again".
        folder: Of the books.
        arrival: A bundle, or the body of a report.
        fault: What goes wrong; None for nothing.
        kill: Whether to die by SIGKILL after it; with a fault that lasts on everything this is a kill at that call.
        log: Where to write the calls that were counted.
    """
    disk = Disk(folder)
    disk.leave_out_syncs()
    if log is not None:
        disk.log_calls(log)
    if fault is not None:
        disk.arm(fault)
    try:
        tell("done", _take(folder, arrival))
    except LicensesError as exc:
        tell("refused", type(exc).__name__, str(exc), exc.next_step)
    tell("hits", disk.hits)
    if kill:
        os.kill(os.getpid(), signal.SIGKILL)
    disk.lift()
    with suppress(LicensesError):
        tell("again", _take(folder, arrival))


def take(books: VendorBooks, arrival: Path) -> Acknowledged | Received:
    """Take in a bundle, or the body of a report."""
    if arrival.suffix == ".gz":
        return books.intake.take_bundle(None, arrival)
    return books.intake.take_report(books.subscription, arrival.read_bytes())


def _take(folder: Path, arrival: Path) -> bool:
    """Whether nothing of it was new, in books opened for it alone."""
    books = VendorBooks.reopened(folder)
    try:
        return take(books, arrival).repeated
    finally:
        books.database.close()
