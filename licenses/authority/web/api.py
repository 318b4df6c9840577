"""The HTTP API under /tollgate/v1: licences out, usage in, acknowledgements out. docs/protocol.md tells it to others.

Invariants:

* Who calls is known before anything of the request's body is looked at, and everything that is handed out or taken in
  is judged for that subscription.
* A route reads the request, calls one use case, and dresses its answer; what is licensed, billed or refused is decided
  below.
"""

import base64
import binascii
import math
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from urllib.parse import quote

from flask import Blueprint, Response, current_app, g, request
from msgspec import json

from licenses import __version__, envelope
from licenses.ack import MAX_ACK_BYTES, ack_name
from licenses.authority.accounts import Subscription
from licenses.authority.web import bodies
from licenses.authority.web.answers import JSON, file_response, json_response
from licenses.authority.web.described import Answer, Described, Parameter, described
from licenses.authority.web.errors import RequestRefusedError
from licenses.authority.web.openapi import KEY_HEADER, build_document
from licenses.authority.web.services import Services, services
from licenses.authority.web.wire import (
    Envelope,
    Health,
    LicenseRequest,
    MeterReading,
    UsageAnswer,
    UsageBody,
)
from licenses.errors import FormatError, InvalidKeyError
from licenses.strict_json import parse_object

PREFIX = "/tollgate/v1"
LICENSE_NAME = "license.dat"

bp = Blueprint("api", __name__, url_prefix=PREFIX)

_CALLER = (HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS)
_ALWAYS = (HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.SERVICE_UNAVAILABLE)
_BODY = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
)
_VERDICTS = (HTTPStatus.PAYMENT_REQUIRED, HTTPStatus.FORBIDDEN, HTTPStatus.CONFLICT)
# Clients give up on lines of 8 KiB, and the bundle is billed by then.
_MOST_LISTED = 4096
_DOCUMENT = "authority.openapi"
_ACK_HEADERS = {"Content-Disposition": "The name to keep the file under."}
_BUNDLE_HEADERS = {
    **_ACK_HEADERS,
    "Tollgate-Billed": "Units billed for this bundle, as `meter=quantity`, separated by commas; empty for none. In a "
    "meter's name all but letters, digits and `-._~` is percent-encoded UTF-8. Ends with `...` where not all fits in.",
    "Tollgate-Repeated": "`true` when all of it was taken in before, and this is the same acknowledgement again.",
    "Tollgate-Missing": "Entries that never arrived, as `since-size`, separated by commas; empty for none. Ends with "
    "`...` where not all fits in.",
    "Tollgate-Findings": "How many gaps and oddities were found, for the vendor's clerk to look at.",
}
_ORIGIN = Parameter(
    name="origin",
    meaning="Whose log: the device's id, or the log's whole name with %2F for its slash.",
    pattern=r"^([A-Za-z0-9][A-Za-z0-9.\-]{0,252}/)?[0-9a-f]{16}$",
    example="0123456789abcdef",
)
_SIZE = Parameter(
    name="size",
    meaning="Number of entries that the acknowledgement covers; or the newest that there is.",
    pattern=r"^(latest|0|[1-9][0-9]{0,15})$",
    example="latest",
)


@bp.post("/license")
@described(
    Described(
        summary="Download the licence of a device",
        operation_id="downloadLicense",
        takes=LicenseRequest,
        answer=Answer(
            meaning="The licence file: the one in force while it lasts, else the next.",
            model=Envelope,
            headers={"Content-Disposition": "The name to keep the file under."},
        ),
        errors=(*_CALLER, *_BODY, *_VERDICTS, *_ALWAYS),
    )
)
def download_license() -> Response:
    """A licence for a container type, bound to the device that asks."""
    caller = _caller()
    asked = bodies.read_model(bodies.read_json(request), LicenseRequest)
    blob = _services().licensing.license_for(
        caller,
        container_type=asked.container_type,
        enrolment=_enrolment(asked),
        device_public=None if asked.device_public_key is None else bytes.fromhex(asked.device_public_key),
    )
    return file_response(blob, LICENSE_NAME)


@bp.post("/usage")
@described(
    Described(
        summary="Report usage",
        operation_id="reportUsage",
        takes=UsageBody,
        answer=Answer(meaning="Taken in and billed, once however often it is sent.", model=UsageAnswer),
        errors=(*_CALLER, *_BODY, *_VERDICTS, *_ALWAYS),
    )
)
def report_usage() -> Response:
    """One usage report of a connected container."""
    caller = _caller()
    blob = bodies.read_json(request)
    bodies.read_model(blob, UsageBody)
    done = _services().intake.take_report(caller, blob)
    g.facts = {"origin": done.origin, "size": done.size, "repeated": done.repeated}
    return json_response(
        UsageAnswer(
            status="Valid",
            id=done.id,
            billed=_readings(done.billed),
            repeated=done.repeated,
            size=done.size,
        )
    )


@bp.post("/bundles")
@described(
    Described(
        summary="Hand in a usage bundle, get its acknowledgement",
        operation_id="handInBundle",
        takes_files=bodies.BUNDLE_TYPES,
        answer=Answer(
            meaning="The acknowledgement file, with the next licence in it when one is due.",
            model=Envelope,
            headers=_BUNDLE_HEADERS,
        ),
        errors=(*_CALLER, *_BODY, *_VERDICTS, *_ALWAYS),
    )
)
def hand_in_bundle() -> Response:
    """One usage bundle of a site without a network, or with one."""
    caller = _caller()
    uploads = _services().uploads
    with uploads.place(caller.id), bodies.stored_bundle(request, uploads) as path, uploads.turn():
        done = _services().intake.take_bundle(caller, path)
    g.facts = {"origin": done.span.origin, "size": done.span.size, "repeated": done.repeated}
    answer = file_response(done.blob, done.ack.file_name)
    answer.headers["Tollgate-Billed"] = _listed(
        f"{quote(one.name, safe='', errors='replace')}={one.quantity}" for one in _readings(done.billed)
    )
    answer.headers["Tollgate-Repeated"] = "true" if done.repeated else "false"
    answer.headers["Tollgate-Missing"] = _listed(f"{since}-{size}" for since, size in done.missing)
    answer.headers["Tollgate-Findings"] = str(len(done.findings))
    return answer


@bp.get("/acknowledgements/<path:origin>/<size>")
@described(
    Described(
        summary="Download an acknowledgement",
        operation_id="downloadAcknowledgement",
        path=(_ORIGIN, _SIZE),
        answer=Answer(meaning="The acknowledgement file.", model=Envelope, headers=_ACK_HEADERS),
        errors=(*_CALLER, HTTPStatus.NOT_FOUND, *_VERDICTS, *_ALWAYS),
    )
)
def download_acknowledgement(origin: str, size: str) -> Response:
    """An acknowledgement that was given before."""
    caller = _caller()
    if not (_ORIGIN.holds(origin) and _SIZE.holds(size)):
        raise RequestRefusedError(
            HTTPStatus.NOT_FOUND,
            "not_found",
            "No log or no size has such a name.",
            next_step="Give the device's id, 16 hexadecimal digits, and a number of entries or 'latest'.",
        )
    if "/" not in origin:
        origin = f"{_services().keys.trust_root.vendor}/{origin}"
    number = None if size == "latest" else int(size)
    blob = _services().intake.acknowledgement(caller, origin, number)
    return file_response(blob, _ack_name(blob, origin))


@bp.get("/health")
@described(
    Described(
        summary="Whether the service works",
        operation_id="health",
        answer=Answer(meaning="It does, and its database answers.", model=Health),
        errors=_ALWAYS,
        needs_key=False,
    )
)
def health() -> Response:
    """For whoever watches over the service."""
    _services().database.one("SELECT count(*) AS known FROM customer")
    return json_response(Health(status="Valid", version=__version__))


@bp.get("/openapi.json")
def openapi() -> Response:
    """This API for programs."""
    kept: bytes | None = current_app.extensions.get(_DOCUMENT)
    if kept is None:
        kept = current_app.extensions[_DOCUMENT] = json.encode(build_document(current_app))
    return Response(kept, content_type=JSON)


def _services() -> Services:
    return services(current_app)


def _caller() -> Subscription:
    """The subscription whose key was sent.

    Raises:
        InvalidKeyError: There is no key, or none of ours.
        RequestRefusedError: It calls too often.
    """
    key = request.headers.get(KEY_HEADER, "")
    if not key:
        raise InvalidKeyError(f"no API key was sent in the header {KEY_HEADER}")
    subscription = _services().accounts.subscription_of_key(key)
    g.subscription = subscription.id
    wait = _services().calls.wait_seconds(subscription.id)
    if wait:
        raise RequestRefusedError(
            HTTPStatus.TOO_MANY_REQUESTS,
            "authority_too_many_requests",
            "This subscription calls more often than it may.",
            next_step="Let each device report every 10 to 15 minutes, and wait as long as Retry-After says.",
            word="BillingEndpointBusy",
            retry_after=math.ceil(wait),
        )
    return subscription


def _listed(items: Iterable[str]) -> str:
    """Items of ASCII as the value of a header."""
    text = ",".join(items)
    return text if len(text) <= _MOST_LISTED else text[:_MOST_LISTED].rpartition(",")[0] + ",..."


def _readings(billed: Mapping[str, int]) -> list[MeterReading]:
    return [MeterReading(name, quantity) for name, quantity in sorted(billed.items())]


def _ack_name(blob: bytes, origin: str) -> str:
    """The name of an acknowledgement of our own making."""
    claimed = envelope.unverified_payload(blob, envelope.ACK_TYPE, max_bytes=MAX_ACK_BYTES)
    return ack_name(
        origin, parse_object(claimed.payload, what="acknowledgement", max_bytes=MAX_ACK_BYTES).integer("size")
    )


def _enrolment(asked: LicenseRequest) -> bytes | None:
    if asked.enrolment is None:
        return None
    if isinstance(asked.enrolment, Envelope):
        return asked.enrolment.to_bytes()
    try:
        return base64.b64decode(asked.enrolment, validate=True)
    except binascii.Error as exc:
        raise FormatError("the enrolment is not base64", next_step="Send the file in base64, or as JSON.") from exc
