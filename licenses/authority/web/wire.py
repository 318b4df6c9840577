"""What goes over the wire besides files: the one description of each body, from which the OpenAPI document is made.

Invariant: a member that nobody knows is refused, not passed over: a misspelt `enrolment` would give a licence that is
bound to nothing.
"""

from typing import Annotated, Literal

import msgspec

from licenses.strict_json import canonical
from licenses.usage_report import MAX_UNITS

Word = Literal[
    "Valid",
    "Invalid",
    "Mismatch",
    "OutOfQuota",
    "ContainerUseUnauthorized",
    "BillingEndpointBusy",
    "Unknown",
]
"""The status words of contract B.3 that this side says; `CouldNotConnect` is for a client to say of itself."""

_Name = Annotated[str, msgspec.Meta(pattern="^[ -~]{1,128}$")]
_Quantity = Annotated[int, msgspec.Meta(ge=0, le=MAX_UNITS)]
_Seconds = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
_Hex32 = Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F]{64}$")]
_Guid = Annotated[str, msgspec.Meta(pattern="^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$")]
_Base64 = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9+/]+={0,2}$", max_length=96 * 1024)]


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One signature of an envelope."""

    keyid: str
    sig: str


class Envelope(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A DSSE v1 envelope: what is signed, its type, and who signed it."""

    payload_type: str
    payload: str
    signatures: list[Signature]

    def to_bytes(self) -> bytes:
        """The envelope in its one spelling, whatever white space and order of members it came with.

        Raises:
            FormatError: It holds what has no such spelling.
        """
        return canonical(msgspec.to_builtins(self))


class LicenseRequest(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Which licence is wanted.

    `enrolment` is what `licenses request` wrote on the appliance, as the JSON object that it is or in base64: with it
    the device is enrolled and the licence is bound to it. `devicePublicKey` names a device that is enrolled already.
    """

    container_type: _Name
    device_public_key: _Hex32 | None = None
    enrolment: Envelope | _Base64 | None = None


class MeterReading(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Units of one meter; a quantity of 12.0 is 12."""

    name: _Name
    quantity: _Quantity


class UsageBody(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The public `usageRequestBody`, and the signed report that bears it out.

    `id` and `meter.quantity` must agree with the report. Containers that keep no ledger send no report: what they tell
    is billed once by its id, and marked as unproved.
    """

    id: _Guid
    container_type: _Name
    container_version: _Name
    container_id: _Name
    meter: MeterReading
    request_time: _Seconds
    api_type: _Name
    report: Envelope | msgspec.UnsetType = msgspec.UNSET


class UsageAnswer(msgspec.Struct, frozen=True):
    """What became of a report: `billed` is empty when all of it was billed before, and then `repeated` is true."""

    status: Literal["Valid"]
    id: str
    billed: list[MeterReading]
    repeated: bool
    size: int


class Health(msgspec.Struct, frozen=True):
    """The service answers, and so does its database."""

    status: Literal["Valid"]
    version: str


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Why a request was refused.

    `status` is for the sender's own decision, `code` names the kind of refusal and never changes, `message` is the
    cause and `nextStep` what a person can do. With a fork comes `proof`, the exact text of the file that proves it,
    and the name `proofName` to keep it under.
    """

    status: Word
    code: str
    message: str
    next_step: str
    proof: str | None = None
    proof_name: str | None = None
