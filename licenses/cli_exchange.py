"""The vendor's end of the exchange: acknowledge a bundle, check a fork proof, read a statement. Part of `licenses`.

Invariants:

* Each command says what it verified with which key, what it wrote and what to do next. A fork is never acknowledged;
  its proof is written instead.
* Whatever cosigns is loaded when it is asked for: an appliance's installation goes without the vendor's side.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from licenses import durable, issue
from licenses.cli_text import FILE, JSON_OPTION, evaluation_banner, now, show, table
from licenses.device_key import ROLE as DEVICE_ROLE
from licenses.enrolment import Enrolment, read_enrolment
from licenses.errors import ForkError, IssueError, KeyFileError, RecordError
from licenses.keyring import load_trust_root
from licenses.keys import VerifyingKey, load_public_key, read_small_file
from licenses.usage_log.fork import Fork, read_fork_file, verify_fork
from licenses.usage_log.note import MAX_NOTE_BYTES
from licenses.usage_log.report import Severity
from licenses.usage_log.statement import Statement, open_statement
from licenses.verify import day_text

if TYPE_CHECKING:
    from licenses.authority.cosigner import Acknowledged

_DEVICE_KEY = click.option("--device-key", "device_file", type=FILE, help="The device's public key, 'device.pub'.")
_ENROLMENT = click.option(
    "--enrolment", "enrolment_file", type=FILE, help="The device's enrolment, from 'licenses request'."
)


@click.command()
@click.argument("bundle", type=FILE)
@click.option("--keys", "keys_folder", type=FILE, required=True, help="The folder that keygen wrote.")
@_ENROLMENT
@_DEVICE_KEY
@click.option(
    "--known",
    "known_folder",
    type=FILE,
    help="Folder of all acknowledgements given so far; the new one is added. Without it no fork is found.",
)
@click.option("--next-license", "license_file", type=FILE, help="A licence to send along, for the licence folder.")
@click.option("--revocation", "revocation_file", type=FILE, help="A revocation to send along, from 'licenses revoke'.")
@click.option("--no-time-anchor", is_flag=True, help="Do not vouch that the time of the acknowledgement has passed.")
@click.option("--out", type=FILE, required=True, help="Folder for the acknowledgement, or for the proof of a fork.")
@JSON_OPTION
def acknowledge(
    *,
    bundle: Path,
    keys_folder: Path,
    enrolment_file: Path | None,
    device_file: Path | None,
    known_folder: Path | None,
    license_file: Path | None,
    revocation_file: Path | None,
    no_time_anchor: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Verify a usage bundle from 'sidecar usage export', and acknowledge it.

    Each entry is checked against the device's signed checkpoint, and the log against what was acknowledged before.
    The same bundle again gives the same file again; a bundle that is older, or of another history, is refused. The
    file written is for 'sidecar usage import-ack' on the appliance.
    """
    try:
        from licenses.authority.cosigner import Cosigner, Enclosures, KnownAcks, load_ack_key
    except ModuleNotFoundError as exc:
        raise IssueError(
            "nothing that acknowledges is installed here: the vendor's side is no part of an appliance",
            next_step="Run it on the vendor's machine, where the extra 'authority' is installed.",
        ) from exc
    enrolled = None if enrolment_file is None else read_enrolment(enrolment_file)
    trust_root = load_trust_root(keys_folder / issue.TRUST_ROOT_NAME)
    cosigner = Cosigner(
        device=_device(enrolled, device_file),
        trust_root=trust_root,
        key=load_ack_key(keys_folder, trust_root),
        known=KnownAcks(known_folder),
        enrolled_at=None if enrolled is None else enrolled.last_checkpoint,
    )
    enclosures = Enclosures(
        license=None if license_file is None else issue.read_license_file(license_file),
        revocation=None if revocation_file is None else issue.read_license_file(revocation_file),
        anchor=not no_time_anchor,
    )
    try:
        done = cosigner.acknowledge(bundle, at=now(), enclosures=enclosures)
    except ForkError as exc:
        if exc.proof is None:
            raise
        _write(out, exc.name, exc.proof)
        step = f"The proof is in {out / exc.name}; anyone can check it: licenses check-fork. {exc.next_step}"
        raise ForkError(str(exc), next_step=step, proof=exc.proof, name=exc.name) from exc
    digest = _write(out, done.ack.file_name, done.blob)
    facts, rows = _shown(done)
    written = {"Written to": str(out / done.ack.file_name), "SHA-256": digest}
    lines = [*evaluation_banner(done.ack.evaluation), *table({**rows, **written}), *_remarks(done, known_folder)]
    lines.append("On the appliance: 'sidecar usage import-ack FILE'.")
    show({"file": str(out / done.ack.file_name), "sha256": digest, **facts}, lines, as_json=as_json)


@click.command("check-fork")
@click.argument("file", type=FILE)
@_ENROLMENT
@_DEVICE_KEY
@JSON_OPTION
def check_fork(*, file: Path, enrolment_file: Path | None, device_file: Path | None, as_json: bool) -> None:
    """Check the proof that a device's log forked; exit code 0 only if it proves it.

    Nobody who made or carried the file has to be believed: it holds two statements that the device itself signed.
    """
    enrolled = None if enrolment_file is None else read_enrolment(enrolment_file)
    facts, rows = _fork_shown(verify_fork(read_fork_file(file), _device(enrolled, device_file)))
    show({"file": str(file), **facts}, table(rows), as_json=as_json)


@click.command("read-statement")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@_ENROLMENT
@_DEVICE_KEY
@JSON_OPTION
def read_statement(*, file: Path, enrolment_file: Path | None, device_file: Path | None, as_json: bool) -> None:
    """Verify a statement from 'sidecar usage qr' (its text, as scanned; '-' reads standard input) and show it."""
    enrolled = None if enrolment_file is None else read_enrolment(enrolment_file)
    statement = open_statement(_text(file), _device(enrolled, device_file))
    facts, rows = _statement_shown(statement)
    show(facts, [*evaluation_banner(statement.evaluation), *table(rows)], as_json=as_json)


COMMANDS: tuple[click.Command, ...] = (acknowledge, check_fork, read_statement)


def _device(enrolled: Enrolment | None, device_file: Path | None) -> VerifyingKey:
    if (enrolled is None) == (device_file is None):
        raise click.UsageError("Say which device's signature to believe: either --enrolment or --device-key.")
    if enrolled is not None:
        return enrolled.device_key
    return load_public_key(device_file or Path(), DEVICE_ROLE)


def _write(folder: Path, name: str, blob: bytes) -> str:
    try:
        durable.make_folders(folder)
    except OSError as exc:
        raise KeyFileError.from_os_error(exc, folder, doing="make the folder", mode="u+rwx") from exc
    return issue.write_license_file(folder / name, blob, force=True)


def _text(file: Path) -> str:
    if str(file) == "-":
        blob = sys.stdin.buffer.read(MAX_NOTE_BYTES + 1)
    else:
        blob = read_small_file(file, doing="read the statement", mode="0644", max_bytes=MAX_NOTE_BYTES)
    try:
        return blob.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise RecordError(f"{file} is not UTF-8, so it is no statement") from exc


def _shown(done: Acknowledged) -> tuple[dict[str, object], dict[str, str]]:
    ack = done.ack
    facts: dict[str, object] = {
        "origin": ack.origin,
        "size": ack.size,
        "root": ack.root.hex(),
        "acknowledged_at": ack.acknowledged_at.isoformat(),
        "until": done.span.until.isoformat(),
        "repeated": done.repeated,
        "billed_from": done.billed_from,
        "billed": dict(done.billed),
        "totals": dict(ack.totals),
        "license": ack.license is not None,
        "revocation": ack.revocation is not None,
        "time_anchor": None if ack.time_anchor is None else ack.time_anchor.isoformat(),
        "key_id": ack.key_id,
        "evaluation": ack.evaluation,
        "gaps": [
            {"code": one.code, "where": one.where, "message": one.message}
            for one in done.findings
            if one.severity is Severity.GAP
        ],
    }
    rows = {
        "Log": ack.origin,
        "Acknowledged": f"entries [0, {ack.size:,}), root {ack.root.hex()[:16]}…"
        + (", as before" if done.repeated else ""),
        "Until": f"{day_text(done.span.until)}, by the device's clock",
        "To bill": f"nothing: entries up to {ack.size:,} were acknowledged before"
        if done.repeated
        else f"{_units(done.billed)} in the entries [{done.billed_from:,}, {ack.size:,})",
        "In all": _units(ack.totals),
        "Along with it": ", ".join(
            name
            for name, there in (
                ("the next licence", ack.license),
                ("a revocation", ack.revocation),
                ("a time anchor", ack.time_anchor),
            )
            if there is not None
        )
        or "nothing",
        "Signed by": ack.key_id,
    }
    return facts, rows


def _remarks(done: Acknowledged, known_folder: Path | None) -> list[str]:
    gaps = [one for one in done.findings if one.severity is Severity.GAP]
    lines = [f"GAP: {one.where}: {one.message}" for one in gaps[:10]]
    if known_folder is None:
        lines.append("Nothing is remembered: give --known FOLDER each time, or a forked log will not be noticed.")
    return lines


def _units(meters: Mapping[str, int]) -> str:
    return ", ".join(f"{quantity:,} {name}" for name, quantity in sorted(meters.items()) if quantity) or "nothing"


def _fork_shown(fork: Fork) -> tuple[dict[str, object], dict[str, str]]:
    facts: dict[str, object] = {
        "proven": True,
        "kind": fork.kind.value,
        "origin": fork.origin,
        "device": fork.origin.rpartition("/")[2],
        "sizes": [fork.first.size, fork.second.size],
        "reason": fork.reason,
    }
    rows = {
        "Proven": f"yes. {fork.reason}",
        "Log": fork.origin,
        "First": f"{fork.first.size:,} entries, root {fork.first.root.hex()}",
        "Second": f"{fork.second.size:,} entries, root {fork.second.root.hex()}",
    }
    if fork.root is not None:
        rows["At that size"] = f"the second has the root {fork.root.hex()}"
    return facts, rows


def _statement_shown(statement: Statement) -> tuple[dict[str, object], dict[str, str]]:
    checkpoint = statement.checkpoint
    facts: dict[str, object] = {
        "origin": checkpoint.origin,
        "size": checkpoint.size,
        "root": checkpoint.root.hex(),
        "until": statement.until.isoformat(),
        "months": statement.months,
        "before": statement.before,
        "total": statement.total,
        "evaluation": statement.evaluation,
    }
    rows = {
        "Log": checkpoint.origin,
        "Signature": f"good, by the device {checkpoint.origin.rpartition('/')[2]}",
        "Entries": f"{checkpoint.size:,}, root {checkpoint.root.hex()[:16]}…",
        "Until": f"{day_text(statement.until)}, by the device's clock",
        **({f"Before {statement.first_month}": f"{statement.before:,} pages"} if statement.before else {}),
        **{month: f"{pages:,} pages" for month, pages in statement.months.items()},
        "In all": f"{statement.total:,} pages",
    }
    return facts, rows
