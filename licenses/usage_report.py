"""The usage report: what a connected appliance tells the vendor of one stretch of its ledger.

Invariants:

* It is signed by the device key, and holds the device's own signed checkpoint at its end: what it says of origin, size
  and root is what that checkpoint says; a report that differs does not exist.
* It tells of the entries [since, size), and both are sealed boundaries: no report ends within a window.
* A report that begins behind entry 0 should prove that it continues the log: with the root at `since` and the
  consistency proof from there to its checkpoint. Without it the vendor refuses what is new in it, until a bundle has
  brought these entries.
* Its sums are integers per meter and month of the effective time, together no more than its entries can hold, nor than
  `MAX_UNITS`. Like the ledger they come from, they hold no text of a document, no file name and no client's address.
* On the wire (`UsageRequest`) it travels inside the public `usageRequestBody`, whose `id` and `quantity` must be those
  of the signed report.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from licenses import envelope
from licenses.device_key import device_id_of
from licenses.errors import FormatError, RecordError, UntrustedKeyError
from licenses.keys import SigningKey, VerifyingKey
from licenses.strict_json import MAX_BYTES, MAX_INTEGER, Fields, canonical, instant_text, parse_object
from licenses.usage_log.entry import MAX_QUANTITY
from licenses.usage_log.merkle import HASH_BYTES, verify_consistency
from licenses.usage_log.note import Checkpoint, open_checkpoint, unverified_checkpoint

PAYLOAD_TYPE = envelope.USAGE_REPORT_TYPE
MAX_REPORT_BYTES = 64 * 1024
MAX_BODY_BYTES = 96 * 1024
MAX_SUMS = 256
MAX_UNITS = 10**12
"""Units in one report or request, over all meters and months: a thousand pages a second for thirty years."""

_MAX_CHECKPOINT_BYTES = 2048
_GUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ANY_GUID = re.compile("[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}")
_MONTH = re.compile("[0-9]{4}-(?:0[1-9]|1[0-2])")


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """What happened between two sealed boundaries of a ledger.

    Attributes:
        id: GUID in lower case; the same report delivered again bears the same.
        origin: Whose log, "<vendor domain>/<device id>".
        since: Its first entry.
        size: The entry after its last: the log's size at the seal.
        checkpoint: The device's signed note at `size`.
        totals: Units per meter and month ("YYYY-MM" of the effective time, UTC), each from 1 on; empty without use.
        closed_at: UTC instant, by the effective time, at which the last window closed.
        license_id: The licence under which the meter counted at its end; empty without one.
        product_version: What is installed there.
        since_root: Merkle root over [0, since), 32 bytes; None at 0, and where the ledger does not know it.
        proof: The consistency proof (RFC 6962) from there to the checkpoint.
    """

    id: str
    origin: str
    since: int
    size: int
    checkpoint: str
    totals: Mapping[str, Mapping[str, int]]
    closed_at: datetime
    license_id: str
    product_version: str
    since_root: bytes | None = None
    proof: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if _GUID.fullmatch(self.id) is None:
            raise FormatError("a usage report's id must be a GUID in lower case")
        if not 0 <= self.since < self.size:
            raise FormatError(f"a usage report cannot tell of the entries [{self.since}, {self.size})")
        if sum(map(len, self.totals.values())) > MAX_SUMS or not all(self.totals.values()):
            raise FormatError(f"a usage report holds at most {MAX_SUMS} sums, and no meter without one")
        for meter, months in self.totals.items():
            for month, quantity in months.items():
                if _MONTH.fullmatch(month) is None or type(quantity) is not int or not 0 < quantity <= MAX_INTEGER:
                    raise FormatError(f"a usage report's sum of {meter!r:.140} in {month!r:.20} is out of range")
        units, entries = sum(sum(months.values()) for months in self.totals.values()), self.size - self.since
        if units > min(MAX_UNITS, entries * MAX_QUANTITY):
            raise FormatError(
                f"a usage report cannot tell of {units:,} units in {entries:,} entries",
                next_step=f"An entry holds {MAX_QUANTITY:,} units at most, and a report {MAX_UNITS:,}: report what the "
                "entries sum up to.",
            )
        try:
            claimed = unverified_checkpoint(self.checkpoint)
        except RecordError as exc:
            raise FormatError(f"the usage report's checkpoint is malformed: {exc}") from exc
        if len(self.checkpoint) > _MAX_CHECKPOINT_BYTES or (claimed.origin, claimed.size) != (self.origin, self.size):
            raise FormatError("the usage report and the checkpoint in it tell of different logs")
        self._require_proof(claimed)

    @property
    def root(self) -> bytes:
        """Merkle root over [0, size), 32 bytes, as its checkpoint says."""
        return unverified_checkpoint(self.checkpoint).root

    def quantity(self, meter: str) -> int:
        """Units of one meter over all months; 0 for one that it does not name."""
        return sum(self.totals.get(meter, {}).values())

    def _require_proof(self, end: Checkpoint) -> None:
        if self.since_root is None:
            if self.proof:
                raise FormatError("a usage report's proof needs the root that it begins with")
            return
        if self.since == 0:
            raise FormatError("a usage report from entry 0 on continues nothing, and proves nothing of it")
        try:
            verify_consistency(
                old_size=self.since, old_root=self.since_root, new_size=self.size, new_root=end.root, proof=self.proof
            )
        except RecordError as exc:
            raise FormatError(f"the usage report does not prove what it continues: {exc}") from exc

    def to_payload(self) -> bytes:
        """The bytes that are signed."""
        members: dict[str, object] = {}
        if self.since_root is not None:
            members = {"since_root": self.since_root.hex(), "proof": [one.hex() for one in self.proof]}
        return canonical(
            members
            | {
                "schema": 1,
                "id": self.id,
                "origin": self.origin,
                "since": self.since,
                "size": self.size,
                "checkpoint": _text(self.checkpoint),
                "totals": [
                    {"meter": meter, "month": month, "quantity": quantity}
                    for meter, months in sorted(self.totals.items())
                    for month, quantity in sorted(months.items())
                ],
                "closed_at": instant_text(self.closed_at),
                "license_id": self.license_id,
                "product_version": self.product_version,
            }
        )


def seal_report(report: UsageReport, device_key: SigningKey) -> bytes:
    """Sign a report with the device key.

    Returns:
        The DSSE envelope, at most `MAX_REPORT_BYTES`.

    Raises:
        LicensesError: The key is not of the device that the report is of, or the checkpoint in it is not signed by
            it, or the report is too long.
    """
    blob = envelope.seal(report.to_payload(), PAYLOAD_TYPE, [device_key])
    open_report(blob, device_key.verifying)
    return blob


def open_report(blob: bytes, device: VerifyingKey) -> UsageReport:
    """Verify a report and the checkpoint in it, and read it.

    Args:
        blob: The envelope.
        device: The device's key, pinned: from its enrolment, not from the report.

    Raises:
        LicensesError: It is malformed, not signed by this device, or of another device's log.
    """
    payload = envelope.open_envelope(blob, PAYLOAD_TYPE, {device.key_id: device}, max_bytes=MAX_REPORT_BYTES)
    report = _from_payload(payload)
    if report.origin.rpartition("/")[2] != device_id_of(device.raw):
        raise UntrustedKeyError(
            f"the usage report is of the log {report.origin}, not of the device {device_id_of(device.raw)}",
            next_step="A device reports its own use alone; look at which appliance sent this.",
        )
    open_checkpoint(report.checkpoint, {report.origin: device})
    return report


def unverified_origin(blob: bytes) -> str:
    """Whose log a report says that it is of, before anything of it is believed: to find the key to verify it with.

    Raises:
        FormatError: It is malformed.
    """
    claimed = envelope.unverified_payload(blob, PAYLOAD_TYPE, max_bytes=MAX_REPORT_BYTES)
    return _from_payload(claimed.payload).origin


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRequest:
    """The public `usageRequestBody`, and the signed report that bears it out.

    Attributes:
        id: GUID in lower case, one per report.
        container_type: Such as "ComputerVision.ComputerVisionRead"; 1 to 128 characters, like the other texts.
        container_version: What is installed.
        container_id: The id of the running container or instance.
        meter: The meter's name.
        quantity: Units of it, from 0 to `MAX_UNITS`.
        request_time: Seconds since 1970 UTC, by the sender's clock; told, never believed.
        api_type: Such as "computervision".
        report: The report's envelope; None from containers that keep no ledger.
    """

    id: str
    container_type: str
    container_version: str
    container_id: str
    meter: str
    quantity: int
    request_time: int
    api_type: str
    report: bytes | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.quantity <= MAX_UNITS:
            raise FormatError(
                f"a usage request cannot tell of {self.quantity:,} units",
                next_step=f"Tell of {MAX_UNITS:,} at most; of more in several requests, each with an id of its own.",
            )

    def to_body(self) -> bytes:
        """The JSON that is posted."""
        members: dict[str, object] = {
            "id": self.id,
            "containerType": self.container_type,
            "containerVersion": self.container_version,
            "containerId": self.container_id,
            "meter": {"name": self.meter, "quantity": self.quantity},
            "requestTime": self.request_time,
            "apiType": self.api_type,
        }
        if self.report is not None:
            members["report"] = parse_object(self.report, what="usage report", max_bytes=MAX_REPORT_BYTES).rest()
        return canonical(members)

    @classmethod
    def from_body(cls, body: bytes) -> "UsageRequest":
        """Read a posted body; the report in it is not verified. A quantity such as 12.0 is 12, as senders write it.

        Raises:
            FormatError: It is something else.
        """
        fields = parse_object(body, what="usage request", max_bytes=MAX_BODY_BYTES, whole_floats=True)
        meter = fields.nested("meter")
        request = cls(
            id=fields.text("id", pattern=_ANY_GUID).lower(),
            container_type=fields.text("containerType", max_length=128),
            container_version=fields.text("containerVersion", max_length=128),
            container_id=fields.text("containerId", max_length=128),
            meter=meter.text("name", max_length=128),
            quantity=meter.integer("quantity"),
            request_time=fields.integer("requestTime"),
            api_type=fields.text("apiType", max_length=128),
            report=canonical(fields.nested("report").rest()) if fields.has("report") else None,
        )
        meter.end()
        fields.end()
        return request

    def require_same(self, report: UsageReport) -> None:
        """Refuse a body that says other than the signed report in it.

        Raises:
            FormatError: Another id, or another quantity.
        """
        if self.id != report.id:
            raise FormatError(f"the request bears the id {self.id}, the signed report in it {report.id}")
        if self.quantity != report.quantity(self.meter):
            raise FormatError(
                f"the request tells of {self.quantity} units of {self.meter}, the signed report in it of "
                f"{report.quantity(self.meter)}"
            )


def _from_payload(payload: bytes) -> UsageReport:
    fields = parse_object(payload, what="usage report", max_bytes=MAX_BYTES)
    fields.integer("schema", minimum=1, maximum=1)
    report = UsageReport(
        id=fields.text("id", pattern=_GUID),
        origin=fields.text("origin"),
        since=fields.integer("since"),
        size=fields.integer("size", minimum=1),
        checkpoint=_note_from(fields.text("checkpoint", max_length=2 * _MAX_CHECKPOINT_BYTES)),
        totals=_totals_from(fields.nested_list("totals", max_items=MAX_SUMS)),
        closed_at=fields.instant("closed_at"),
        license_id="" if fields.take_if_empty("license_id") else fields.text("license_id", max_length=64),
        product_version=fields.text("product_version", max_length=64),
        since_root=fields.hex_bytes("since_root", length=HASH_BYTES) if fields.has("since_root") else None,
        proof=tuple(map(_hash_from, fields.texts("proof", max_length=64))) if fields.has("proof") else (),
    )
    fields.end()
    if report.to_payload() != payload:
        raise FormatError("the usage report is not spelled as it must be")
    return report


def _totals_from(records: list[Fields]) -> dict[str, dict[str, int]]:
    totals: dict[str, dict[str, int]] = {}
    for record in records:
        meter, month = record.text("meter", max_length=128), record.text("month", pattern=_MONTH)
        if month in totals.setdefault(meter, {}):
            raise FormatError(f"the usage report sums {meter} of {month} twice")
        totals[meter][month] = record.integer("quantity", minimum=1)
        record.end()
    return totals


def _hash_from(text: str) -> bytes:
    return Fields({"hash": text}, "usage report.proof").hex_bytes("hash", length=HASH_BYTES)


def _note_from(text: str) -> str:
    try:
        note = base64.b64decode(text.encode("ascii"), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeError) as exc:
        raise FormatError("the usage report's checkpoint is not a note in base64") from exc
    return note


def _text(note: str) -> str:
    return base64.b64encode(note.encode("utf-8")).decode("ascii")
