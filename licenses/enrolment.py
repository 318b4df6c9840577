"""The enrolment: what an appliance tells the vendor, so that a licence can be bound to it.

Invariants:

* It is signed by the device key that it names, so nobody enrols a key that he does not hold.
* It holds salted HMACs of host factors, never the factors, and no usage beyond two checkpoints.
* The checkpoints were verified with the device key before they were written in.
"""

import dataclasses
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from licenses import envelope
from licenses.device_key import ROLE, DeviceKey, device_id_of
from licenses.errors import BadSignatureError, FormatError, KeyFileError, RecordError, UntrustedKeyError
from licenses.host import Bindings
from licenses.keys import SigningKey, VerifyingKey, key_id_of, read_small_file
from licenses.model import CONTAINER_TYPE, LedgerAnchor
from licenses.strict_json import MAX_BYTES, canonical, instant_text, parse_object
from licenses.usage_log.files import CHECKPOINT_NAME, CHECKPOINTS_FOLDER
from licenses.usage_log.note import MAX_NOTE_BYTES, open_checkpoint, unverified_checkpoint

_GZIP = b"\x1f\x8b"
_MAKE = (
    "Give the file that 'licenses request' wrote on the appliance, as it is: carried over in binary mode, and not "
    "saved by an editor."
)
_SIZE = re.compile(r"0|[1-9][0-9]{0,15}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What an appliance tells of itself.

    Attributes:
        device_public: The 32 public bytes of its device key.
        bindings: The salted factors of its host.
        created_at: UTC instant at which it was made, by the host's clock.
        product_version: What is installed there.
        first_checkpoint: The earliest sealed state of its ledger; None before the first record file.
        last_checkpoint: The latest.
    """

    device_public: bytes
    bindings: Bindings
    created_at: datetime
    product_version: str
    first_checkpoint: LedgerAnchor | None = None
    last_checkpoint: LedgerAnchor | None = None

    def __post_init__(self) -> None:
        if (self.first_checkpoint is None) != (self.last_checkpoint is None):
            raise FormatError("an enrolment must name both checkpoints or none")
        for checkpoint in (self.first_checkpoint, self.last_checkpoint):
            if checkpoint is not None and not checkpoint.origin.endswith(f"/{self.device_id}"):
                raise FormatError(f"the checkpoint of {checkpoint.origin} is not of the device {self.device_id}")

    @property
    def device_id(self) -> str:
        """16 hexadecimal digits that name the device."""
        return device_id_of(self.device_public)

    @property
    def device_key(self) -> VerifyingKey:
        """The device's public key, under its id.

        Raises:
            FormatError: The bytes are not a key.
        """
        try:
            public = Ed25519PublicKey.from_public_bytes(self.device_public)
        except ValueError as exc:
            raise FormatError("the enrolled device key is not an Ed25519 public key") from exc
        return VerifyingKey(key_id_of(public, ROLE), public)

    def seal(self, key: SigningKey) -> bytes:
        """The file, signed by the device's private key.

        Raises:
            FormatError: The key is not the one that is enrolled.
        """
        if key.verifying.raw != self.device_public:
            raise FormatError("an enrolment must be signed by the key that it enrols")
        members: dict[str, object] = {
            "schema": 1,
            "device_pubkey": self.device_public.hex(),
            "bindings": self.bindings.to_members(),
            "created_at": instant_text(self.created_at),
            "product_version": self.product_version,
        }
        if self.first_checkpoint is not None and self.last_checkpoint is not None:
            members["first_checkpoint"] = self.first_checkpoint.to_members()
            members["last_checkpoint"] = self.last_checkpoint.to_members()
        return envelope.seal(canonical(members), envelope.ENROLMENT_TYPE, [key])


def open_enrolment(blob: bytes) -> Enrolment:
    """Read an enrolment and verify that the device key in it signed it.

    Raises:
        LicensesError: It is malformed, or not signed by that key.
    """
    try:
        key = _from_payload(envelope.unverified_payload(blob, envelope.ENROLMENT_TYPE).payload).device_key
        return _from_payload(envelope.open_envelope(blob, envelope.ENROLMENT_TYPE, {key.key_id: key}))
    except FormatError as exc:
        raise FormatError(f"this is no enrolment: {_other_kind(blob) or exc}", next_step=_step(blob)) from exc
    except (BadSignatureError, UntrustedKeyError) as exc:
        raise BadSignatureError(
            f"the enrolment is not signed by the device that it names: {exc}", next_step=f"Carry it over again. {_MAKE}"
        ) from exc


def _other_kind(blob: bytes) -> str | None:
    """What the file is instead, as far as it can be told from outside."""
    if not blob.strip():
        return "the file is empty"
    if blob.startswith(_GZIP):
        return "it is packed, as usage bundles are"
    kind = envelope.kind_of(blob)
    return None if kind in (None, "an enrolment") else f"it is {kind}"


def _step(blob: bytes) -> str:
    if blob.startswith(_GZIP):
        return f"For a usage bundle: licenses authority intake FILE. {_MAKE}"
    return _MAKE


def enrol(device: DeviceKey, bindings: Bindings, *, output: Path | None, at: datetime, product_version: str) -> bytes:
    """Make the enrolment of this appliance.

    Args:
        device: Its key.
        bindings: The salted factors of its host.
        output: The output mount with its record files; None if there are none yet.
        at: The host's time, aware UTC.
        product_version: What is installed.

    Raises:
        KeyFileError: A checkpoint cannot be read.
        LicensesError: A checkpoint is malformed, or not signed by this device's key.
    """
    enrolment = Enrolment(
        device_public=device.public_raw, bindings=bindings, created_at=at, product_version=product_version
    )
    if output is not None:
        first, last = _checkpoints(output / CONTAINER_TYPE / device.instance_id, device.verifying_key)
        enrolment = dataclasses.replace(enrolment, first_checkpoint=first, last_checkpoint=last)
    return enrolment.seal(device.signing_key)


def read_enrolment(path: Path) -> Enrolment:
    """Read and verify an enrolment file.

    Raises:
        KeyFileError: It cannot be read.
        LicensesError: See `open_enrolment`.
    """
    return open_enrolment(read_enrolment_file(path))


def read_enrolment_file(path: Path) -> bytes:
    """The bytes of an enrolment file, of which nothing is believed yet.

    Raises:
        KeyFileError: It cannot be read.
        FormatError: It is longer than any enrolment.
    """
    try:
        return read_small_file(path, doing="read the enrolment", mode="0644", max_bytes=MAX_BYTES)
    except FormatError as exc:
        raise FormatError(f"this is no enrolment: {exc}", next_step=_MAKE) from exc


def _checkpoints(folder: Path, key: VerifyingKey) -> tuple[LedgerAnchor | None, LedgerAnchor | None]:
    try:
        names = [path.name for path in (folder / CHECKPOINTS_FOLDER).iterdir()]
    except FileNotFoundError:
        return None, None
    except OSError as exc:
        raise KeyFileError.from_os_error(exc, folder, doing="read the checkpoints", mode="u+rx") from exc
    sizes = [int(name) for name in names if _SIZE.fullmatch(name)]
    if not sizes:
        return None, None
    first = _checkpoint(folder / CHECKPOINTS_FOLDER / str(min(sizes)), key)
    latest = folder / CHECKPOINT_NAME
    last = _checkpoint(latest if latest.exists() else folder / CHECKPOINTS_FOLDER / str(max(sizes)), key)
    return first, last


def _checkpoint(path: Path, key: VerifyingKey) -> LedgerAnchor:
    blob = read_small_file(path, doing="read the checkpoint", mode="0444", max_bytes=MAX_NOTE_BYTES)
    try:
        note = blob.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise RecordError(f"the checkpoint {path} is not UTF-8") from exc
    checkpoint = open_checkpoint(note, {unverified_checkpoint(note).origin: key})
    return LedgerAnchor(origin=checkpoint.origin, size=checkpoint.size, root=checkpoint.root)


def _from_payload(payload: bytes) -> Enrolment:
    fields = parse_object(payload, what="enrolment")
    fields.integer("schema", minimum=1, maximum=1)
    first, last = (
        LedgerAnchor.from_fields(fields.nested(name)) if fields.has(name) else None
        for name in ("first_checkpoint", "last_checkpoint")
    )
    enrolment = Enrolment(
        device_public=fields.hex_bytes("device_pubkey", length=32),
        bindings=Bindings.from_fields(fields.nested("bindings")),
        created_at=fields.instant("created_at"),
        product_version=fields.text("product_version", max_length=64),
        first_checkpoint=first,
        last_checkpoint=last,
    )
    fields.end()
    return enrolment
