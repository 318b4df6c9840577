"""The acknowledgement: the vendor's word that it has seen a log up to a checkpoint.

Invariants:

* It is signed by an ack key of the trust root, never by an issuing key, and holds the device's own signed checkpoint
  with the vendor's cosignature (C2SP tlog-cosignature, version 1) added: any tool for signed notes can check that part.
* What it says of origin, size, root and time is what the cosigned checkpoint says; one that differs does not exist.
* Licence and revocation inside are files like any other: whoever takes them out verifies them as such.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from licenses import envelope
from licenses.device_key import device_id_of
from licenses.errors import BadSignatureError, FormatError, RecordError, UntrustedKeyError
from licenses.keyring import TrustRoot
from licenses.keys import EVALUATION_PREFIX, KeyId, SigningKey, VerifyingKey, read_small_file
from licenses.strict_json import MAX_BYTES, Fields, canonical, instant_text, parse_object
from licenses.usage_log.files import meter_list, meters_from
from licenses.usage_log.note import (
    MAX_NOTE_BYTES,
    cosign,
    cosigner_name,
    open_checkpoint,
    open_cosigned,
    unverified_checkpoint,
)
from licenses.verify import day_text

MAX_ACK_BYTES = 512 * 1024
MAX_METERS = 64

_NAME = re.compile(r"ack-.{1,200}-(0|[1-9][0-9]{0,15})\.dsse\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """What the vendor has seen and accepted.

    Attributes:
        origin: Whose log, "<vendor domain>/<device id>".
        size: Number of entries acknowledged: all of [0, size).
        root: Merkle root over them, 32 bytes.
        checkpoint: The device's signed note with the vendor's cosignature.
        acknowledged_at: UTC instant of the cosignature.
        totals: Units accepted over all of [0, size), per meter.
        license: The next licence file, if one is due.
        revocation: The newest revocation file, if there is one.
        time_anchor: UTC instant that the vendor vouches has passed; None says nothing.
        key_id: Who signed it.
        evaluation: Whether an evaluation key signed it.
    """

    origin: str
    size: int
    root: bytes
    checkpoint: str
    acknowledged_at: datetime
    totals: Mapping[str, int] = field(default_factory=dict)
    license: bytes | None = None
    revocation: bytes | None = None
    time_anchor: datetime | None = None
    key_id: KeyId
    evaluation: bool = False

    def __post_init__(self) -> None:
        claimed = unverified_checkpoint(self.checkpoint)
        if (claimed.origin, claimed.size, claimed.root) != (self.origin, self.size, self.root):
            raise FormatError("the acknowledgement and the checkpoint in it tell of different logs")
        if self.time_anchor is not None and self.time_anchor > self.acknowledged_at:
            raise FormatError("the acknowledgement's time anchor lies after its own time")
        if len(self.totals) > MAX_METERS:
            raise FormatError(f"an acknowledgement holds at most {MAX_METERS} meters")
        for blob in (self.license, self.revocation):
            if blob is not None and not 0 < len(blob) <= MAX_BYTES:
                raise FormatError("a file inside the acknowledgement is empty or too long")

    @property
    def file_name(self) -> str:
        """The name under which it travels: "ack-<origin>-<size>.dsse.json", "/" as "-"."""
        return ack_name(self.origin, self.size)

    def seal(self, key: SigningKey) -> bytes:
        """The file, signed by the ack key that cosigned the checkpoint.

        Raises:
            FormatError: The key is another one.
        """
        if key.key_id != self.key_id:
            raise FormatError(f"the acknowledgement is to be signed by {self.key_id}, not by {key.key_id}")
        members: dict[str, object] = {
            "schema": 1,
            "origin": self.origin,
            "size": self.size,
            "root": self.root.hex(),
            "checkpoint": _text(self.checkpoint.encode("utf-8")),
            "acknowledged_at": instant_text(self.acknowledged_at),
            "totals": meter_list(self.totals),
        }
        if self.license is not None:
            members["license"] = _text(self.license)
        if self.revocation is not None:
            members["revocation"] = _text(self.revocation)
        if self.time_anchor is not None:
            members["time_anchor"] = instant_text(self.time_anchor)
        return envelope.seal(canonical(members), envelope.ACK_TYPE, [key])


def acknowledge(
    note: str,
    *,
    device: VerifyingKey,
    key: SigningKey,
    trust_root: TrustRoot,
    at: datetime,
    totals: Mapping[str, int],
    license_file: bytes | None = None,
    revocation: bytes | None = None,
    time_anchor: datetime | None = None,
) -> Ack:
    """Cosign a device's checkpoint. Whether its log extends what was acknowledged before is for the caller to know.

    Args:
        note: The checkpoint, as the device signed it.
        device: The device's key.
        key: An ack key of the trust root.
        trust_root: The vendor.
        at: The instant, aware UTC, to the second.
        totals: Units over all of the log, per meter.
        license_file: The next licence file to send along.
        revocation: The revocation file to send along.
        time_anchor: An instant to vouch for.

    Raises:
        LicensesError: The device did not sign it, or the trust root has no such ack key.
    """
    listed = trust_root.ack_keys.get(key.key_id)
    if listed != key.verifying:
        raise UntrustedKeyError(f"{key.key_id} is no ack key of the trust root of {trust_root.vendor}")
    checkpoint = open_checkpoint(note, {unverified_checkpoint(note).origin: device})
    _require_device(checkpoint.origin, device)
    return Ack(
        origin=checkpoint.origin,
        size=checkpoint.size,
        root=checkpoint.root,
        checkpoint=cosign(note, cosigner_name(trust_root.vendor), key, at),
        acknowledged_at=at,
        totals=dict(totals),
        license=license_file,
        revocation=revocation,
        time_anchor=time_anchor,
        key_id=key.key_id,
        evaluation=trust_root.evaluation or key.verifying.evaluation,
    )


def open_ack(blob: bytes, trust_root: TrustRoot, *, device: VerifyingKey | None = None) -> Ack:
    """Verify an acknowledgement and read it.

    Args:
        blob: The file, bare or armoured.
        trust_root: Whose ack keys to believe.
        device: The device whose log it must be of, and whose signature must be on the checkpoint too; None leaves
            that to the caller.

    Raises:
        FormatError: It is malformed, or its checkpoint is.
        UntrustedKeyError: No ack key of the trust root signed it, or the checkpoint is not this device's.
        RevokedKeyError: The key that signed it was taken back.
        BadSignatureError: A signature does not hold.
    """
    opened = trust_root.open_acknowledged(blob, envelope.ACK_TYPE, max_bytes=MAX_ACK_BYTES)
    signer = opened.signers[0]
    evaluation = trust_root.evaluation or any(key.evaluation for key in opened.signers)
    ack = _from_payload(opened.payload, signer.key_id, evaluation=evaluation)
    try:
        cosigned = open_cosigned(ack.checkpoint, cosigner_name(trust_root.vendor), [signer])
    except RecordError as exc:
        raise FormatError(f"the acknowledgement's checkpoint is malformed: {exc}") from exc
    if cosigned.at != ack.acknowledged_at:
        raise BadSignatureError("the acknowledgement and the cosignature in it tell different times")
    if ack.acknowledged_at >= trust_root.expires_at:
        raise UntrustedKeyError(
            f"acknowledged {day_text(ack.acknowledged_at)}, when the trust root had expired",
            next_step="Ask the vendor for the current trust root, and for an acknowledgement under it.",
        )
    if device is not None:
        _require_device(ack.origin, device)
        open_checkpoint(ack.checkpoint, {ack.origin: device})
    return ack


def recall_ack(blob: bytes, device: VerifyingKey) -> Ack:
    """Read an acknowledgement from the vendor's own memory, whose ack key may have been replaced since.

    Only the device's signature on the checkpoint is verified; what the vendor said, the memory is trusted for.

    Raises:
        LicensesError: It is malformed, or the checkpoint is not this device's.
    """
    claimed = envelope.unverified_payload(blob, envelope.ACK_TYPE, max_bytes=MAX_ACK_BYTES)
    key_id = KeyId(claimed.key_ids[0])
    ack = _from_payload(claimed.payload, key_id, evaluation=key_id.startswith(EVALUATION_PREFIX))
    _require_device(ack.origin, device)
    open_checkpoint(ack.checkpoint, {ack.origin: device})
    return ack


def read_ack_file(path: Path) -> bytes:
    """Read an acknowledgement file, unverified.

    Raises:
        KeyFileError: It cannot be read.
        FormatError: It is too long.
    """
    return read_small_file(path, doing="read the acknowledgement", mode="0644", max_bytes=MAX_ACK_BYTES)


def ack_name(origin: str, size: int) -> str:
    """The file name of an acknowledgement."""
    return f"ack-{origin.replace('/', '-')}-{size}.dsse.json"


def is_ack_name(name: str) -> bool:
    """Whether a file is named like an acknowledgement."""
    return _NAME.fullmatch(name) is not None


def _from_payload(payload: bytes, key_id: KeyId, *, evaluation: bool) -> Ack:
    fields = parse_object(payload, what="acknowledgement", max_bytes=MAX_ACK_BYTES)
    fields.integer("schema", minimum=1, maximum=1)
    try:
        ack = Ack(
            origin=fields.text("origin"),
            size=fields.integer("size"),
            root=fields.hex_bytes("root", length=32),
            checkpoint=_note_from(fields),
            acknowledged_at=fields.instant("acknowledged_at"),
            totals=meters_from(fields.nested_list("totals", max_items=MAX_METERS)),
            license=_bytes_from(fields, "license"),
            revocation=_bytes_from(fields, "revocation"),
            time_anchor=fields.instant("time_anchor") if fields.has("time_anchor") else None,
            key_id=key_id,
            evaluation=evaluation,
        )
    except RecordError as exc:
        raise FormatError(f"the acknowledgement's checkpoint is malformed: {exc}") from exc
    fields.end()
    return ack


def _require_device(origin: str, device: VerifyingKey) -> None:
    device_id = device_id_of(device.raw)
    if origin.rpartition("/")[2] != device_id:
        raise UntrustedKeyError(
            f"this is of the log {origin}, not of the device {device_id}",
            next_step="Take the file that was made for this device; its name bears the device's id.",
        )


def _note_from(fields: Fields) -> str:
    try:
        return _from_text(fields.text("checkpoint", max_length=2 * MAX_NOTE_BYTES), "checkpoint").decode("utf-8")
    except UnicodeDecodeError as exc:
        raise FormatError("the acknowledgement's checkpoint is not UTF-8") from exc


def _bytes_from(fields: Fields, name: str) -> bytes | None:
    return _from_text(fields.text(name, max_length=2 * MAX_BYTES), name) if fields.has(name) else None


def _from_text(text: str, name: str) -> bytes:
    try:
        blob = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as exc:
        raise FormatError(f"the acknowledgement's {name} is not base64") from exc
    if _text(blob) != text:
        raise FormatError(f"the acknowledgement's {name} is not in plain base64")
    return blob


def _text(blob: bytes) -> str:
    return base64.b64encode(blob).decode("ascii")
