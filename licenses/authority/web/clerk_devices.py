"""The clerk's pages of licences by expiry and of devices by last report; enrolling, and issuing the next licence."""

from datetime import date, timedelta

from flask import Blueprint, Response, current_app, request
from werkzeug.wrappers import Response as AnyResponse

from licenses.authority.reconcile import SILENT_AFTER, reconcile
from licenses.authority.web.clerk_desk import desk
from licenses.authority.web.clerk_page import download, form, page, see, takes_a_file
from licenses.authority.web.forms import stored_file
from licenses.authority.web.login import require_token
from licenses.authority.web.services import services
from licenses.errors import IssueError, MismatchError
from licenses.keys import read_small_file

MAX_ENROLMENT_BYTES = 64 * 1024
SOON = timedelta(days=30)


def add_to(bp: Blueprint) -> None:
    """Put these pages into the blueprint."""
    bp.get("/licences", endpoint="licences")(licences)
    bp.get("/licences/<subscription_id>/<license_id>/<number:sequence>", endpoint="licence_file")(licence_file)
    bp.get("/devices", endpoint="devices")(devices)
    bp.post("/devices", endpoint="enrol")(enrol)
    bp.get("/devices/<path:origin>", endpoint="device")(device)
    bp.post("/subscriptions/<subscription_id>/licences", endpoint="issue")(issue)


def licences() -> Response:
    """The newest licence of each subscription and device, those that end first at the top."""
    one = desk()
    return page(
        "licences.html", here="licences", licences=one.licensing.newest_licenses(), owners=one.owners(), soon=SOON
    )


def licence_file(subscription_id: str, license_id: str, sequence: int) -> Response:
    """A licence file."""
    for one in desk().licensing.licenses(subscription_id):
        if (one.license_id, one.sequence) == (license_id, sequence):
            return download(one.blob, f"license-{license_id}-{sequence}.dat", "application/json")
    raise MismatchError(
        f"no licence {license_id[:80]!r} with the sequence {sequence} was issued",
        next_step="The page 'Licences' lists those that were.",
    )


def devices() -> Response:
    """All devices, those that were silent for longest at the top."""
    one = desk()
    found = sorted(one.licensing.devices.all(), key=lambda each: (each.last_report_at or each.enrolled_at, each.origin))
    return page("devices.html", here="devices", devices=found, owners=one.owners(), silent=SILENT_AFTER)


@takes_a_file
def enrol() -> AnyResponse:
    """Enrol a device from the file that `licenses request` wrote there."""
    uploads = services(current_app).uploads
    with (
        uploads.place(None),
        stored_file(request, uploads, field="enrolment", before=require_token, max_bytes=MAX_ENROLMENT_BYTES) as (
            path,
            fields,
        ),
    ):
        blob = read_small_file(path, doing="read the enrolment", mode="0600", max_bytes=MAX_ENROLMENT_BYTES)
        made = desk().licensing.devices.enrol(blob, fields.get("subscription", ""))
    return see("device", done="enrolled" if made.is_enrolled_by(blob) else "older_enrolment", origin=made.origin)


def device(origin: str) -> Response:
    """One device: its licences, and the form for the next one."""
    one = desk()
    found = one.licensing.devices.one(origin)
    subscription, customer = one.owners()[found.subscription_id]
    tier = one.accounts.tier(subscription.tier)
    books = reconcile(services(current_app).database, at=one.now(), origin=origin).devices
    return page(
        "device.html",
        here="devices",
        books=books[0] if books else None,
        device=found,
        subscription=subscription,
        customer=customer,
        tier=tier,
        licences=one.licensing.licenses(origin=origin),
    )


def issue(subscription_id: str) -> AnyResponse:
    """Issue the next licence."""
    fields = form()
    origin = fields.get("origin") or None
    try:
        until = date.fromisoformat(fields.get("until", ""))
    except ValueError as exc:
        raise IssueError(
            "the last day is no day", next_step="Give it as year, month and day, such as 2027-12-31."
        ) from exc
    made = desk().licensing.issue_next(subscription_id, origin, until=until)
    if made.origin is None:
        return see("licences", done="issued")
    return see("device", done="issued", origin=made.origin)
