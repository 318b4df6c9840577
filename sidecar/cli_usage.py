"""`sidecar usage`: carry usage out, take the vendor's acknowledgement in, show a statement as a QR code.

Invariant: each command works while the service runs and when it is stopped, tells what it wrote and what comes next,
and leaves nothing half done. Exit codes are those of contract H16: 65 for a file that is refused, 77 for a missing
permission, 78 when histories differ or a licence that came along is of no use.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from licenses.device_key import CREDENTIAL_NAME, PUBLIC_NAME, handed_over_key, instance_id_of
from licenses.errors import KeyFileError
from licenses.model import READ_PAGES_METER
from licenses.verify import day_text
from sidecar.cli_settings import CONFIG, WORDS, open_ledger, require_ledger, settings_of
from sidecar.clock import SystemClock
from sidecar.errors import AckRefusedError, LedgerForkError, LedgerUnavailableError, unwritable

if TYPE_CHECKING:
    from licenses.device_key import DeviceKey
    from sidecar.exchange import Exported, Imported
    from sidecar.settings import Settings

EXIT_DATA = 65
EXIT_LICENSE = 78
_JSON = click.option("--json", "as_json", is_flag=True, help="Print facts for machines.")
_STEPS = """\b
One exchange:
  sidecar usage export --out /media/stick        on the appliance
  licenses acknowledge usage-….tar.gz …          at the vendor
  sidecar usage import-ack ack-….dsse.json       on the appliance

Where nothing may leave but a photograph: sidecar usage qr
"""
_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group(name="usage", epilog=_STEPS)
def usage_group() -> None:
    """Exchange usage with the vendor: one file out, one file back. No network is used."""


@usage_group.command(name="export")
@click.option("--out", type=_FOLDER, required=True, help="Folder to write the bundle to; made if it is not there.")
@click.option("--since", type=click.IntRange(0), help="Begin at this entry.  [default: the last acknowledgement]")
@click.option("--all", "everything", is_flag=True, help="Begin at the first entry, whatever was acknowledged.")
@_JSON
@WORDS
@CONFIG
def export_command(
    *, words: tuple[str, ...], config: Path | None, out: Path, since: int | None, everything: bool, as_json: bool
) -> None:
    """Write a bundle of all sealed usage records since the last acknowledgement, signed by the device key.

    The bundle holds record files, checkpoints and totals, and no document, no text and no client address. The same
    state of the ledger gives the same bytes. The window that is open now comes with the next bundle.
    """
    from sidecar.exchange import export_usage
    from sidecar.ledger import LedgerReader

    if everything and since is not None:
        raise click.UsageError("Give --since or --all, not both.")
    settings = settings_of(words, config, process="usage")
    device = _device(settings)
    ledger = LedgerReader(require_ledger(settings), clock=SystemClock())
    try:
        done = export_usage(
            ledger,
            device,
            out,
            state_directory=settings.state_directory,
            since=0 if everything else since,
            progress=_Progress("exporting"),
        )
    finally:
        ledger.close()
    if as_json:
        click.echo(json.dumps(_export_facts(done), indent=2))
        return
    span = done.span
    click.echo(f"Written to {done.path}")
    click.echo(f"  size       {_size_text(done.bytes)}, SHA-256 {done.sha256}")
    click.echo(f"  log        {span.origin}")
    files = "1 record file" if done.windows == 1 else f"{done.windows:,} record files"
    click.echo(f"  entries    {span.since:,} to {span.size - 1:,}, in {files}")
    click.echo(f"  until      {day_text(span.until)}")
    click.echo(f"  pages      {done.meters.get(READ_PAGES_METER, 0):,}")
    click.echo(f"  next time  {done.open_units:,} pages counted since then")
    if done.windows_left:
        click.echo(f"  left out   {done.windows_left:,} windows: they come with the next bundle, after this one's turn")
    click.echo("Send this file to the vendor; apply what comes back with 'sidecar usage import-ack FILE'.")


@usage_group.command(name="import-ack")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--proof", type=_FOLDER, help="Folder for the proof, if histories differ.  [default: state directory]")
@_JSON
@WORDS
@CONFIG
def import_command(
    *, words: tuple[str, ...], config: Path | None, file: Path, proof: Path | None, as_json: bool
) -> None:
    """Apply the vendor's acknowledgement FILE. Applying it twice is harmless.

    What the vendor sent along is put in place: the next licence into the licence folder, revocations, and the
    vendor's time, which only ever raises the effective time. No restart is needed.
    """
    from licenses.ack import read_ack_file
    from sidecar.exchange import Exchange
    from sidecar.record_output import RecordOutput

    settings = settings_of(words, config, process="usage")
    _require_owner(settings)
    blob = read_ack_file(file)
    ledger, licenses = open_ledger(settings)
    instance = instance_id_of(licenses.device.raw) if licenses.device else ""
    exchange = Exchange(
        ledger=ledger,
        licenses=licenses,
        output=RecordOutput(settings.output_directory, instance, limit_seconds=settings.output_timeout_seconds),
        state_directory=settings.state_directory,
        device_key_directory=settings.device_key_directory,
        license_directory=settings.license_folder,
        handed_over_key=handed_over_key(os.environ),
    )
    try:
        done = exchange.import_ack(blob, proof_folder=proof or settings.state_directory)
    except (AckRefusedError, LedgerForkError) as exc:
        _tell_refusal(exc, as_json=as_json)
        sys.exit(EXIT_LICENSE if isinstance(exc, LedgerForkError) else EXIT_DATA)
    finally:
        ledger.close()
    if as_json:
        click.echo(json.dumps(_import_facts(done), indent=2))
    else:
        _tell_import(done)
    if done.license_problem and not done.copy_command:
        sys.exit(EXIT_LICENSE)


@usage_group.command()
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the code as FILE.svg or FILE.png too."
)
@_JSON
@WORDS
@CONFIG
def qr(*, words: tuple[str, ...], config: Path | None, out: Path | None, as_json: bool) -> None:
    """Show the newest checkpoint and the pages per month as a QR code, signed by the device key.

    The vendor reads the scanned text with 'licenses read-statement'. It tells of sealed pages; it is no
    acknowledgement's substitute, for it carries no records.
    """
    from sidecar.exchange import make_statement
    from sidecar.ledger import LedgerReader
    from sidecar.qr import QrCode

    kind = "" if out is None else out.suffix.lower().removeprefix(".")
    if out is not None and kind not in {"svg", "png"}:
        raise click.UsageError(f"{out} must end in .svg or .png.")
    settings = settings_of(words, config, process="usage")
    device = _device(settings)
    ledger = LedgerReader(require_ledger(settings), clock=SystemClock())
    try:
        statement = make_statement(ledger)
    finally:
        ledger.close()
    note = statement.sign(device.signing_key)
    code = QrCode(note)
    if out is not None:
        _write(out, code.to_bytes(kind))
    if as_json:
        facts = {
            "statement": note,
            "origin": statement.checkpoint.origin,
            "size": statement.checkpoint.size,
            "root": statement.checkpoint.root.hex(),
            "until": statement.until.isoformat(),
            "months": statement.months,
            "before": statement.before,
            "total": statement.total,
            "evaluation": statement.evaluation,
            "file": None if out is None else str(out),
        }
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(code.for_terminal())
    click.echo(note)
    if out is not None:
        click.echo(f"Written to {out}")


# ---- what is shown --------------------------------------------------------------------------------------------------


def _export_facts(done: Exported) -> dict[str, object]:
    span = done.span
    return {
        "file": str(done.path),
        "sha256": done.sha256,
        "bytes": done.bytes,
        "origin": span.origin,
        "since": span.since,
        "size": span.size,
        "root": span.root.hex(),
        "until": span.until.isoformat(),
        "windows": done.windows,
        "meters": dict(done.meters),
        "pagesInOpenWindow": done.open_units,
        "windowsLeft": done.windows_left,
    }


def _import_facts(done: Imported) -> dict[str, object]:
    ack = done.ack
    return {
        "origin": ack.origin,
        "size": ack.size,
        "root": ack.root.hex(),
        "acknowledgedAt": ack.acknowledged_at.isoformat(),
        "evaluation": ack.evaluation,
        "repeated": done.repeated,
        "totals": dict(ack.totals),
        "unackedPages": done.unacked_units,
        "file": None if done.ack_file is None else str(done.ack_file),
        "license": None if done.license_file is None else str(done.license_file),
        "licenseProblem": done.license_problem,
        "copyCommand": done.copy_command,
        "revocationList": done.revocation or None,
        "timeRaisedFrom": None if done.time_before is None else done.time_before.isoformat(),
        "warnings": done.warnings,
    }


def _tell_import(done: Imported) -> None:
    ack = done.ack
    mark = " (EVALUATION)" if ack.evaluation else ""
    again = "again: it was acknowledged before, and nothing is counted twice" if done.repeated else "from now on"
    click.echo(f"Acknowledged{mark}: {ack.size:,} entries of {ack.origin}, {again}")
    click.echo(f"  by         {ack.key_id}, {day_text(ack.acknowledged_at)}")
    click.echo(f"  accepted   {_units(ack.totals)}")
    click.echo(f"  since then {done.unacked_units:,} pages")
    if done.ack_file is not None:
        click.echo(f"  file       {done.ack_file}")
    if done.license_file is not None:
        click.echo(f"  licence    {done.license_file}")
    if done.revocation:
        click.echo(f"  revocation list {done.revocation} is obeyed from now on")
    if done.time_before is not None and ack.time_anchor is not None:
        click.echo(f"  time       raised from {day_text(done.time_before)} to {day_text(ack.time_anchor)}")
    for warning in done.warnings:
        click.echo(f"Warning: {warning}", err=True)
    if done.license_problem:
        click.echo(f"Licence: {done.license_problem}", err=True)
    if done.copy_command:
        click.echo(
            f"Next step: put the licence in place where the folder can be written: {done.copy_command}", err=True
        )


def _tell_refusal(exc: AckRefusedError | LedgerForkError, *, as_json: bool) -> None:
    if as_json:
        proof = str(exc.proof) if isinstance(exc, LedgerForkError) and exc.proof is not None else None
        error = {"code": exc.code, "message": str(exc), "nextStep": exc.next_step, "proof": proof}
        click.echo(json.dumps({"error": error}, indent=2))
    click.echo(f"sidecar: {exc}", err=True)
    click.echo(f"Next step: {exc.next_step}", err=True)


def _units(meters: Mapping[str, int]) -> str:
    return ", ".join(f"{quantity:,} {name}" for name, quantity in sorted(meters.items())) or "no use"


def _size_text(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


class _Progress:
    """Tells a person how far it is, on long work and on a terminal only."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._told = time.monotonic()
        self._on = sys.stderr.isatty()

    def __call__(self, done: int, steps: int) -> None:
        """So many steps of so many are done."""
        if not self._on or (time.monotonic() - self._told < 1 and done < steps):
            return
        self._told = time.monotonic()
        click.echo(f"\r{self._what}: {100 * done // steps} %", err=True, nl=done == steps)


# ---- what is needed -------------------------------------------------------------------------------------------------


def _device(settings: Settings) -> DeviceKey:
    """The device's private key, which only the service's user may read.

    Raises:
        LedgerUnavailableError: It is not there, or not ours to read.
        LicensesError: The file holds something else.
    """
    from licenses.device_key import DeviceKey

    try:
        return DeviceKey.load(settings.device_key_directory, handed_over=handed_over_key(os.environ))
    except KeyFileError as exc:
        if isinstance(exc.__cause__, PermissionError):
            raise _not_ours(settings, str(exc)) from exc.__cause__
        if isinstance(exc.__cause__, FileNotFoundError):
            raise _no_key(settings) from exc
        raise


def _no_key(settings: Settings) -> LedgerUnavailableError:
    cause = f"there is no device key in {settings.device_key_directory}"
    if not (settings.state_directory / PUBLIC_NAME).exists():
        return LedgerUnavailableError(
            cause, next_step="name the state directory with Sidecar:StateDirectory=…, or start the service once"
        )
    handing_over = f"systemd-run --quiet --pipe --wait --property=LoadCredentialEncrypted={CREDENTIAL_NAME}"
    return LedgerUnavailableError(
        f"{cause}: it is sealed, or lost",
        next_step=f"where it is sealed, run as root: {handing_over} sidecar usage …; else restore it from the backup",
    )


def _require_owner(settings: Settings) -> None:
    """What is written here, the service must be able to read and replace.

    Raises:
        LedgerUnavailableError: Another user's state directory.
    """
    try:
        owner = settings.state_directory.stat().st_uid
    except OSError:
        return  # said better by whoever needs what is in it
    if owner != os.geteuid():
        cause = f"{settings.state_directory} belongs to user id {owner}, this is user id {os.geteuid()}"
        raise _not_ours(settings, cause) from PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _not_ours(settings: Settings, cause: str) -> LedgerUnavailableError:
    try:
        owner = str(settings.state_directory.stat().st_uid)
    except OSError:
        owner = "that owns the state directory"
    # A bare Debian has no sudo, but root needs none.
    become = "setpriv --reuid={0} --regid={0} --clear-groups" if os.geteuid() == 0 else "sudo -u '#{0}'"
    step = f"run it as the service's user, id {owner}, such as: {become.format(owner)} sidecar usage …"
    return LedgerUnavailableError(cause, next_step=step)


def _write(path: Path, content: bytes) -> None:
    from licenses.durable import write_file

    try:
        write_file(path, [content], mode=0o644, overwrite=True)
    except OSError as exc:
        raise unwritable(exc, path.parent) from exc
