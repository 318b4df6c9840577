"""`sidecar ledger`: how the ledger stands, and whether all of it is sound.

Invariant: nothing here writes to the ledger; both commands work while the service runs, and when it is stopped.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from licenses.errors import LicensesError
from licenses.model import READ_PAGES_METER
from sidecar.cli_settings import CONFIG, WORDS, require_ledger, settings_of
from sidecar.clock import SystemClock

if TYPE_CHECKING:
    from sidecar.settings import Settings

_QUIET_SECONDS = 1.0


@click.group(name="ledger")
def ledger_group() -> None:
    """Look at the ledger: what it holds, and whether it is sound."""


@ledger_group.command(name="status")
@WORDS
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print facts for machines.")
def ledger_status(words: tuple[str, ...], config: Path | None, as_json: bool) -> None:
    """Tell size, seals, what waits, and who writes."""
    facts = _facts(settings_of(words, config, process="ledger"))
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(f"ledger          {facts['path']}  ({_size(facts['bytes'])}, {facts['bytesPerEntry']} bytes an entry)")
    click.echo(
        f"entries         {facts['entries']:,}, sealed {facts['sealed']:,}, acknowledged {facts['acknowledged']:,}"
    )
    click.echo(f"windows         {facts['windows']:,} closed, {facts['pendingFiles']:,} not on the output mount yet")
    for meter in facts["meters"]:
        click.echo(f"total           {meter['quantity']:,}  {meter['name']}")
    click.echo(f"effective time  {facts['effectiveTime']}")
    if facts["failedCycles"]:
        click.echo(f"FAILED CYCLES   {facts['failedCycles']}: {facts['failure']}")
    click.echo(f"meter           {facts['meter'] or 'none is running'}")
    click.echo(f"disk reserve    {'there' if facts['reserve'] else 'SPENT: the disk was full; free some space'}")
    if facts["damage"]:
        click.echo("DAMAGE          was met; it is mended at the next start of the service")


@ledger_group.command(name="check")
@WORDS
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print facts for machines.")
@click.option(
    "--repair", is_flag=True, help="When something is wrong, have the service's next start rebuild the ledger."
)
def ledger_check(words: tuple[str, ...], config: Path | None, as_json: bool, repair: bool) -> None:
    """Read every entry: SQLite's structure, leaves, roots, signatures, sums. Exit 1 when something is wrong."""
    from licenses.device_key import load_device_public
    from sidecar.bootstrap import ledger_path
    from sidecar.ledger import check_ledger, damage_path, note_damage

    settings = settings_of(words, config, process="ledger")
    require_ledger(settings)
    try:
        key = load_device_public(settings.state_directory)
    except LicensesError:
        key = None
    started = time.monotonic()
    path = ledger_path(settings)
    report = check_ledger(path, origin_key=key, progress=_Progress())
    if report.findings and repair:
        note_damage(path, report.findings[0].message)
    if as_json:
        members = {
            "sound": not report.findings,
            "entries": report.size,
            "sealed": report.sealed_size,
            "windows": report.windows,
            "signaturesChecked": key is not None,
            "findings": [{"code": finding.code, "message": finding.message} for finding in report.findings],
        }
        click.echo(json.dumps(members, indent=2))
    else:
        for finding in report.findings:
            click.echo(f"{click.style('WRONG', fg='red')}  {finding.message}  [{finding.code}]")
        seconds = time.monotonic() - started
        read = f"{report.size:,} entries in {report.windows:,} sealed windows, read in {seconds:.1f} s"
        if report.findings:
            click.echo(f"{read}.")
            click.echo(
                "Next step: restart the service, which moves the ledger aside and rebuilds it. Delete nothing."
                if damage_path(path).exists()
                else "Next step: run this again with --repair, then restart the service; it rebuilds the ledger then."
            )
        else:
            signed = "every seal signed by this device" if key else "no device key here, so no signature was checked"
            click.echo(f"{click.style('SOUND', fg='green')}  {read}; {signed}.")
    sys.exit(1 if report.findings else 0)


class _Progress:
    """A line on the terminal while it takes long."""

    def __init__(self) -> None:
        self._started = self._told = time.monotonic()
        self._shown = False

    def __call__(self, done: int, of: int) -> None:
        now = time.monotonic()
        if not sys.stderr.isatty() or now - self._started < _QUIET_SECONDS:
            return
        if done >= of:
            if self._shown:
                click.echo("\r\033[K", nl=False, err=True)
        elif now - self._told > 0.2:
            self._told, self._shown = now, True
            click.echo(f"\rreading … {done:,} of {of:,} entries", nl=False, err=True)


def _facts(settings: Settings) -> dict[str, Any]:
    from sidecar.bootstrap import LOCK_NAME
    from sidecar.ledger import LedgerReader, damage_path
    from sidecar.ledger.reserve import DiskReserve

    path = require_ledger(settings)
    ledger = LedgerReader(path, clock=SystemClock())
    try:
        snapshot, acked, now = ledger.snapshot(READ_PAGES_METER), ledger.acked(), ledger.now()
        totals, windows = ledger.totals(), ledger.window_count()
    finally:
        ledger.close()
    size = sum(_bytes(path.with_name(path.name + suffix)) for suffix in ("", "-wal"))
    return {
        "path": str(path),
        "bytes": size,
        "bytesPerEntry": round(size / snapshot.size) if snapshot.size else 0,
        "entries": snapshot.size,
        "sealed": snapshot.sealed_size,
        "acknowledged": acked.size if acked else 0,
        "windows": windows,
        "pendingFiles": snapshot.pending_files,
        "meters": [{"name": meter, "quantity": quantity} for meter, quantity in totals],
        "effectiveTime": now.at.isoformat(timespec="seconds"),
        "failedCycles": snapshot.failed_cycles,
        "failure": snapshot.failure,
        "meter": _lock_holder(settings.state_directory / LOCK_NAME),
        "reserve": not DiskReserve(settings.state_directory).is_spent,
        "damage": damage_path(path).exists(),
    }


def _lock_holder(path: Path) -> str:
    """Who holds the meter's lock; empty when nobody does."""
    import fcntl

    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return os.pread(handle, 200, 0).decode("utf-8", "replace").strip()
    else:
        return ""
    finally:
        os.close(handle)


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"
