"""`licenses authority`: what is used. Bundles in and acknowledgements out, sums, statements, and what does not fit.

Invariant: a command that takes something in has it in the database before it writes a file; whoever loses the file runs
the command again and gets the same one.
"""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import click

from licenses import durable, issue
from licenses.authority.accounts import Accounts
from licenses.authority.cli_options import DATABASE_OPTION, Books, columns, open_books, with_keys
from licenses.authority.intake import Acknowledged, Intake
from licenses.authority.qr import MAX_BYTES, fits, qr_code
from licenses.authority.reconcile import SILENT_AFTER, reconcile
from licenses.authority.statement_csv import to_csv
from licenses.authority.statement_html import to_html
from licenses.authority.statements import Statement, billed_use, statement
from licenses.authority.vendor_keys import VendorKeys
from licenses.cli_text import FILE, JSON_OPTION, ExitCode, evaluation_banner, now, show, table
from licenses.errors import AccountError, ForkError, KeyFileError
from licenses.usage_log.report import Severity, printable
from licenses.verify import day_text

_EXITS = {Severity.TAMPERED: 1, Severity.GAP: 3, Severity.NOTE: ExitCode.OK}
_QR_KINDS = ("svg", "png")


@click.command("intake")
@click.argument("file", metavar="BUNDLE", type=FILE)
@click.option("--out", type=FILE, default=Path(), help="Folder for the acknowledgement.  [default: here]")
@click.option(
    "--no-renewal",
    is_flag=True,
    help="Add no licence, even if the next one is due; one that this acknowledgement had before stays in it.",
)
@click.option(
    "--qr", "qr_file", type=FILE, help="Also write the acknowledgement as a QR code, .svg or .png, where it fits."
)
@DATABASE_OPTION
@with_keys
@JSON_OPTION
def intake_command(
    *,
    file: Path,
    out: Path,
    no_renewal: bool,
    qr_file: Path | None,
    database: str,
    keys_folder: Path,
    key_command: str | None,
    as_json: bool,
) -> None:
    """Take in a usage bundle from an air-gapped site, and write its acknowledgement.

    The bundle is verified entry by entry; what no bundle and no report brought before is billed. The next licence goes
    along when the one that the device has ends soon. The same bundle again gives the same file again. The file written
    is for 'sidecar usage import-ack' on the appliance.

    What does not fit into a QR code is taken in and written all the same; then no code is, and it says so.
    """
    if qr_file is not None and _kind(qr_file) not in _QR_KINDS:
        raise click.UsageError("--qr needs a file whose name ends with .svg or .png.")
    keys = VendorKeys(keys_folder, key_command=key_command)
    with open_books(database) as books:
        taking = Intake(books.database, books.trail, books.accounts, books.licensing(keys), keys, now)
        try:
            done = taking.take_bundle(None, file, renew=not no_renewal)
        except ForkError as exc:
            if exc.proof is None:
                raise
            _write(out / exc.name, exc.proof)
            step = f"The proof is in {out / exc.name}; anyone can check it: licenses check-fork. {exc.next_step}"
            raise ForkError(str(exc), next_step=step, proof=exc.proof, name=exc.name) from exc
    place = out / done.ack.file_name
    digest = _write(place, done.blob)
    facts, lines = _taken_in(done)
    facts |= {"file": str(place), "sha256": digest}
    lines = [*evaluation_banner(done.ack.evaluation), *lines, *table({"Written to": str(place), "SHA-256": digest})]
    if qr_file is None:
        lines += ["It fits into a QR code: --qr FILE.svg writes one."] if fits(done.blob) else []
    elif fits(done.blob):
        _write(qr_file, qr_code(done.blob, _kind(qr_file)))
        facts["qr"] = str(qr_file)
        lines += table({"As a QR code": str(qr_file)})
    else:
        facts["qr"] = None
        lines += [
            f"It does not fit into a QR code, so {qr_file} was not written: it has {len(done.blob):,} bytes, and a "
            f"code holds {MAX_BYTES:,} at most. Carry the file: {place}"
        ]
    lines.append("On the appliance: 'sidecar usage import-ack FILE'.")
    show(facts, lines, as_json=as_json)


@click.command("report")
@click.option("--customer", "named", help="Of this customer alone: the id or the name.")
@click.option("--month", help="Of this month alone, such as 2027-03.")
@DATABASE_OPTION
@JSON_OPTION
def report_command(*, named: str | None, month: str | None, database: str, as_json: bool) -> None:
    """What was used, as it is billed: per month, customer, subscription, device and meter."""
    with open_books(database) as books:
        customer_id = None if named is None else _customer_id(books.accounts, named)
        found = billed_use(books.database, customer_id=customer_id, month=month)
    rows = [
        (
            str(one["month"]),
            printable(str(one["customer"])),
            str(one["subscription"]),
            str(one["device"] or "without a ledger"),
            printable(str(one["meter"])),
            f"{one['quantity']:,}",
        )
        for one in found
    ]
    header = ("Month", "Customer", "Subscription", "Device", "Meter", "Units")
    show({"usage": found}, columns(header, rows, nothing="no use was billed"), as_json=as_json)


@click.command("reconcile")
@click.option("--device", "named", help="Of this one alone: the device's id, or the whole name of its log.")
@click.option(
    "--silent-days",
    type=click.IntRange(1, 3650),
    default=SILENT_AFTER.days,
    show_default=True,
    help="So long without a word makes a device silent.",
)
@DATABASE_OPTION
@JSON_OPTION
def reconcile_command(*, named: str | None, silent_days: int, database: str, as_json: bool) -> None:
    """Every device: reported against verified, gaps, clock findings, forks, and who is silent.

    Exit code 0 when nothing speaks against the books, 3 with gaps, 1 when something contradicts itself.
    """
    with open_books(database) as books:
        origin = None if named is None else _origin(books, named)
        found = reconcile(books.database, at=now(), silent_after=timedelta(days=silent_days), origin=origin)
    show(found.to_members(), list(found.to_lines()), as_json=as_json)
    if found.worst is not None:
        raise SystemExit(_EXITS[found.worst])


@click.command("statement")
@click.option("--customer", "named", required=True, help="The customer's id or name.")
@click.option("--month", required=True, metavar="MONTH", help="Such as 2027-03.")
@click.option("--csv", "csv_file", type=FILE, help="Write it as CSV.")
@click.option("--html", "html_file", type=FILE, help="Write it as one page, for a browser and for paper.")
@DATABASE_OPTION
@JSON_OPTION
def statement_command(
    *, named: str, month: str, csv_file: Path | None, html_file: Path | None, database: str, as_json: bool
) -> None:
    """A customer's month against the commitment, with overage and the year to date."""
    with open_books(database) as books:
        made = statement(books.database, _customer_id(books.accounts, named), month)
    facts = made.to_members()
    lines = _statement_lines(made)
    for name, file, text in (("csv", csv_file, to_csv), ("html", html_file, to_html)):
        if file is not None:
            facts[name] = str(file)
            facts[f"{name}_sha256"] = _write(file, text(made).encode("utf-8"))
            lines += table({"Written to": str(file)})
    show(facts, lines, as_json=as_json)


COMMANDS: tuple[click.Command, ...] = (intake_command, report_command, reconcile_command, statement_command)


def _customer_id(accounts: Accounts, named: str) -> str:
    found = [one.id for one in accounts.customers() if named in (one.id, one.name)]
    if not found:
        raise AccountError(f"there is no customer {named[:200]!r}")
    return found[0]


def _origin(books: Books, named: str) -> str:
    """The name of a device's log, from the device's id; any other name is left to be looked for as it is."""
    row = books.database.one("SELECT origin FROM device_now WHERE substr(origin, -17) = '/' || ?", [named])
    return named if row is None else str(row["origin"])


def _taken_in(done: Acknowledged) -> tuple[dict[str, object], list[str]]:
    span, ack = done.span, done.ack
    facts: dict[str, object] = {
        "origin": span.origin,
        "since": span.since,
        "size": span.size,
        "until": span.until.isoformat(),
        "acknowledged": ack.size,
        "repeated": done.repeated,
        "billed": dict(done.billed),
        "corrected": dict(done.corrected),
        "totals": dict(ack.totals),
        "license_carried": done.ack.license is not None,
        "license": None if done.license is None else {"id": done.license.license_id, "sequence": done.license.sequence},
        "missing": [list(one) for one in done.missing],
        "findings": [
            {"severity": one.severity.value, "code": one.code, "where": one.where, "message": one.message}
            for one in done.findings
        ],
        "remarks": list(done.remarks),
        "evaluation": ack.evaluation,
    }
    rows = {
        "Log": span.origin,
        "Taken in": f"entries [{span.since:,}, {span.size:,})" + (", known before" if done.repeated else ""),
        "Until": f"{day_text(span.until)}, by the device's clock",
        "Billed": _units(done.billed),
    }
    if done.corrected:
        rows["Corrected"] = _units(done.corrected)
    rows["Acknowledged"] = f"entries [0, {ack.size:,}), {_units(ack.totals)} in all"
    rows["Next licence"] = _next_licence(done)
    lines = table(rows)
    lines += [f"MISSING: the entries [{since:,}, {size:,}) never arrived" for since, size in done.missing[:10]]
    for one in done.findings[:10]:
        lines.append(f"{one.severity.value.upper()}: {printable(f'{one.where}: {one.message}')}")
    return facts, [*lines, *done.remarks]


def _next_licence(done: Acknowledged) -> str:
    if done.license is not None:
        return f"{done.license.license_id} sequence {done.license.sequence}, to {day_text(done.license.expires_at)}"
    return "none goes along" if done.ack.license is None else "none is new; that of the earlier acknowledgement stays"


def _statement_lines(made: Statement) -> list[str]:
    header = ("Subscription", "Meter", "Used", "Period", "Commitment", "Used in it", "Overage", "Year to date")
    rows = [
        (
            line.subscription_id,
            printable(line.meter),
            f"{line.used:,}",
            line.period or "none",
            f"{line.commitment:,}",
            f"{line.used_in_period:,}",
            f"{line.overage:,}" + ("" if line.overage_agreed or not line.overage else " (not agreed)"),
            f"{line.year_to_date:,}",
        )
        for line in made.lines
    ]
    head = f"{printable(made.customer.name)}, {made.month_name}"
    late = [
        f"Arrived since, for earlier months, from {line.late_from} on: {line.late:+,} {printable(line.meter)} of "
        f"{line.subscription_id}, {line.late_overage:+,} beyond the commitment"
        for line in made.lines
        if line.late_from
    ]
    closes = f"Closes {day_text(made.closes_at)}: what arrives after that for this month is in a later statement."
    listed = columns(header, rows, nothing="there was no subscription in this month")
    return [*evaluation_banner(made.evaluation), head, "", *listed, *late, closes]


def _units(meters: Mapping[str, int]) -> str:
    return ", ".join(f"{quantity:,} {name}" for name, quantity in sorted(meters.items()) if quantity) or "nothing"


def _kind(file: Path) -> str:
    return file.suffix.removeprefix(".").lower()


def _write(file: Path, blob: bytes) -> str:
    try:
        durable.make_folders(file.parent)
    except OSError as exc:
        raise KeyFileError.from_os_error(exc, file.parent, doing="make the folder", mode="u+rwx") from exc
    return issue.write_license_file(file, blob, force=True)
