"""`licenses authority`: devices and the licences issued to them.

Invariant: what is written to a file was verified as an appliance would, and is kept in the database first.
"""

import dataclasses
from datetime import datetime
from pathlib import Path

import click

from licenses import issue
from licenses.authority.cli_options import DATABASE_OPTION, Books, columns, open_books, plain, with_keys
from licenses.authority.devices import NOT_IN_FORCE, Device
from licenses.authority.licensing import IssuedLicense, Licensing
from licenses.authority.vendor_keys import VendorKeys
from licenses.cli_text import (
    FILE,
    FIRST_INSTANT,
    JSON_OPTION,
    anchor_text,
    describe_license,
    license_facts,
    now,
    show,
    table,
)
from licenses.enrolment import read_enrolment_file
from licenses.errors import AccountError, MismatchError
from licenses.verify import day_text, open_license, time_left_text

_DEVICE = click.option(
    "--device", "named", help="The device's id (16 hexadecimal digits), or the whole name of its log."
)


@click.command()
@click.argument("file", type=FILE)
@click.option("--subscription", "subscription_id", required=True, help="Whose device it is.")
@DATABASE_OPTION
@with_keys
@JSON_OPTION
def enrol(
    *, file: Path, subscription_id: str, database: str, keys_folder: Path, key_command: str | None, as_json: bool
) -> None:
    """Take in the enrolment of an appliance, made there by 'licenses request'."""
    blob = read_enrolment_file(file)
    with open_books(database) as books:
        device = books.licensing(VendorKeys(keys_folder, key_command=key_command)).devices.enrol(blob, subscription_id)
    in_force = device.is_enrolled_by(blob)
    rows = {
        "Device": device.origin,
        "Subscription": device.subscription_id,
        "Enrolled": day_text(device.enrolled_at),
        "Host": "any" if device.bindings.floating else f"{device.bindings.threshold} facts must match",
        "Checkpoint": "none yet" if device.anchor is None else anchor_text(device.anchor),
    }
    lines = table(rows)
    if not in_force:
        lines = [*lines, NOT_IN_FORCE]
    show({**_device_facts(device), "in_force": in_force}, lines, as_json=as_json)


@click.group()
def device() -> None:
    """The appliances that are known."""


@device.command("list")
@click.option("--subscription", "subscription_id", help="Of this subscription alone.")
@DATABASE_OPTION
@with_keys
@JSON_OPTION
def device_list(
    *, subscription_id: str | None, database: str, keys_folder: Path, key_command: str | None, as_json: bool
) -> None:
    """All devices, with when each last reported."""
    with open_books(database) as books:
        _require_subscription(books, subscription_id)
        found = books.licensing(VendorKeys(keys_folder, key_command=key_command)).devices.all(subscription_id)
    rows = [
        (
            one.origin,
            one.subscription_id,
            "by its public key alone" if one.enrolment is None else "by enrolment",
            "never" if one.last_report_at is None else day_text(one.last_report_at),
        )
        for one in found
    ]
    lines = columns(("Device", "Subscription", "Known", "Last report"), rows, nothing="no device yet")
    show({"devices": list(map(_device_facts, found))}, lines, as_json=as_json)


@click.group("license")
def license_group() -> None:
    """Licences: issue the next one, and what was issued."""


@license_group.command("issue")
@click.option("--subscription", "subscription_id", required=True, help="For which subscription.")
@_DEVICE
@click.option("--any-device", is_flag=True, help="Instead of --device: it serves on any.")
@click.option("--until", callback=FIRST_INSTANT, metavar="DAY", help="Last day.  [default: as the tier says]")
@click.option("--since", callback=FIRST_INSTANT, metavar="DAY", help="First day.  [default: now]")
@click.option("--out", type=FILE, required=True, help="The licence file to write.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@DATABASE_OPTION
@with_keys
@JSON_OPTION
def license_issue(
    *,
    subscription_id: str,
    named: str | None,
    any_device: bool,
    until: datetime | None,
    since: datetime | None,
    out: Path,
    force: bool,
    database: str,
    keys_folder: Path,
    key_command: str | None,
    as_json: bool,
) -> None:
    """Issue a licence, bound to the device and to the host factors of its enrolment.

    Without --until, the licence in force is written again if enough of it is left. A tier without overage grants its
    quantity for one calendar month or year, and its licences end with that.
    """
    if (named is None) != any_device:
        raise click.UsageError("Say for which device: either --device, or --any-device.")
    if since is not None and until is None:
        raise click.UsageError("--since needs --until.")
    keys = VendorKeys(keys_folder, key_command=key_command)
    with open_books(database) as books:
        licensing = books.licensing(keys)
        origin = None if named is None else _origin(licensing, named)
        if until is None:
            issued = licensing.license_in_force(subscription_id, origin)
        else:
            first = None if since is None else since.date()
            issued = licensing.issue_next(subscription_id, origin, until=until.date(), since=first)
    _write(issued, out, keys, force=force, as_json=as_json)


@license_group.command("export")
@click.argument("license_id", metavar="LICENSE")
@click.option("--sequence", type=click.IntRange(1), help="Which of that id.  [default: the newest]")
@click.option("--out", type=FILE, required=True, help="The licence file to write.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@DATABASE_OPTION
@with_keys
@JSON_OPTION
def license_export(
    *,
    license_id: str,
    sequence: int | None,
    out: Path,
    force: bool,
    database: str,
    keys_folder: Path,
    key_command: str | None,
    as_json: bool,
) -> None:
    """Write a licence that was issued before to a file again."""
    keys = VendorKeys(keys_folder, key_command=key_command)
    with open_books(database) as books:
        found = [
            one
            for one in books.licensing(keys).licenses()
            if one.license_id == license_id and sequence in (None, one.sequence)
        ]
    if not found:
        raise AccountError(
            f"no such licence was issued: {license_id[:64]!r}", next_step="List them: licenses authority license list."
        )
    _write(found[0], out, keys, force=force, as_json=as_json)


@license_group.command("list")
@click.option("--subscription", "subscription_id", help="Of this subscription alone.")
@_DEVICE
@click.option("--all", "everything", is_flag=True, help="Those before the newest as well, the newest first.")
@DATABASE_OPTION
@with_keys
@JSON_OPTION
def license_list(
    *,
    subscription_id: str | None,
    named: str | None,
    everything: bool,
    database: str,
    keys_folder: Path,
    key_command: str | None,
    as_json: bool,
) -> None:
    """The newest licence of each device, those that end first at the top."""
    with open_books(database) as books:
        _require_subscription(books, subscription_id)
        licensing = books.licensing(VendorKeys(keys_folder, key_command=key_command))
        origin = None if named is None else _origin(licensing, named)
        found = licensing.licenses() if everything else licensing.newest_licenses()
    found = [one for one in found if subscription_id in (None, one.subscription_id) and origin in (None, one.origin)]
    at = now()
    rows = [
        (one.license_id, str(one.sequence), one.tier, day_text(one.expires_at), _left(one, at), one.origin or "any")
        for one in found
    ]
    header = ("Licence", "Sequence", "Tier", "Expires", "Left", "Device")
    lines = columns(header, rows, nothing="no licence yet: licenses authority license issue")
    facts = [plain({name: value for name, value in dataclasses.asdict(one).items() if name != "blob"}) for one in found]
    show({"licenses": facts}, lines, as_json=as_json)


COMMANDS: tuple[click.Command, ...] = (enrol, device, license_group)


def _require_subscription(books: Books, subscription_id: str | None) -> None:
    """A name that was mistyped is no empty list."""
    if subscription_id is not None:
        books.accounts.subscription(subscription_id)


def _origin(licensing: Licensing, named: str) -> str:
    """The name of a device's log, from that or from the device's id."""
    for one in licensing.devices.all():
        if named in (one.origin, one.device_id):
            return one.origin
    raise MismatchError(f"there is no device {named[:200]!r}", next_step="List them: licenses authority device list.")


def _write(issued: IssuedLicense, out: Path, keys: VendorKeys, *, force: bool, as_json: bool) -> None:
    digest = issue.write_license_file(out, issued.blob, force=force)
    lic, at = open_license(issued.blob, keys.trust_root), now()
    facts = {"file": str(out), "sha256": digest, **license_facts(lic, at, verified_by=keys.trust_root)}
    more = {"Written to": str(out), "SHA-256": digest}
    show(facts, describe_license(lic, at, verified_by=keys.trust_root, more=more), as_json=as_json)


def _left(one: IssuedLicense, at: datetime) -> str:
    if at < one.not_before:
        return "not begun"
    if at < one.expires_at:
        return time_left_text(one.expires_at - at)
    return "in grace" if at < one.termination_at else "ended"


def _device_facts(one: Device) -> dict[str, object]:
    return {
        "origin": one.origin,
        "device_id": one.device_id,
        "subscription_id": one.subscription_id,
        "public_key": one.public_key.hex(),
        "enrolled_at": one.enrolled_at.isoformat(),
        "enrolled": one.enrolment is not None,
        "last_report_at": None if one.last_report_at is None else one.last_report_at.isoformat(),
        "anchor": None if one.anchor is None else one.anchor.to_members(),
    }
