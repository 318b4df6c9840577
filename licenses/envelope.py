"""The one signed container: DSSE v1 as JSON, optionally in PEM-like armour.

Invariants:

* What is signed is the type and the payload, each with its length, so no payload passes under another type.
* The payload is handed out only after its signatures held; whatever is read before that is called unverified.
* An envelope has exactly one spelling: JSON, base64 and armour are compared with what `seal` and `armour` would have
  written, so no byte can change and leave the file valid. (One line end after the text is allowed.)
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from licenses.errors import BadSignatureError, FormatError, UntrustedKeyError
from licenses.keys import KeyId, SigningKey, VerifyingKey
from licenses.strict_json import MAX_BYTES, Fields, canonical, parse_object

LICENSE_TYPE = "application/vnd.tollgate.license.v1+json"
LEASE_TYPE = "application/vnd.tollgate.lease.v1+json"
TRUST_ROOT_TYPE = "application/vnd.tollgate.trust-root.v1+json"
REVOCATION_TYPE = "application/vnd.tollgate.revocation.v1+json"
CLOCK_RESET_TYPE = "application/vnd.tollgate.clock-reset.v1+json"
ACK_TYPE = "application/vnd.tollgate.ack.v1+json"
ENROLMENT_TYPE = "application/vnd.tollgate.enrolment.v1+json"
USAGE_BUNDLE_TYPE = "application/vnd.tollgate.usage-bundle.v1+json"
USAGE_REPORT_TYPE = "application/vnd.tollgate.usage-report.v1+json"
RELEASE_TYPE = "application/vnd.tollgate.release.v1+json"

MAX_SIGNATURES = 16

_KINDS = {
    LICENSE_TYPE: "license",
    LEASE_TYPE: "lease",
    TRUST_ROOT_TYPE: "trust root",
    REVOCATION_TYPE: "revocation",
    CLOCK_RESET_TYPE: "clock reset",
    ACK_TYPE: "ack",
    ENROLMENT_TYPE: "enrolment",
    USAGE_BUNDLE_TYPE: "usage bundle",
    USAGE_REPORT_TYPE: "usage report",
    RELEASE_TYPE: "release",
}
_IN_PROSE = {LICENSE_TYPE: "licence", ACK_TYPE: "acknowledgement", USAGE_BUNDLE_TYPE: "manifest of a usage bundle"}
_ARMOUR_MARK = b"-----BEGIN "
_ARMOUR_WIDTH = 64


@dataclass(frozen=True, slots=True)
class Opened:
    """A payload whose signatures held, and whose they are: in the order of the envelope, second keys last."""

    payload: bytes
    signers: tuple[VerifyingKey, ...]


@dataclass(frozen=True, slots=True)
class Unverified:
    """What an envelope claims before any signature was checked."""

    payload: bytes
    payload_type: str
    key_ids: tuple[str, ...]
    signatures: tuple[bytes, ...]


def pre_authentication(payload: bytes, payload_type: str) -> bytes:
    """The bytes that are signed: DSSE v1's pre-authentication encoding."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(payload: bytes, payload_type: str, keys: Sequence[SigningKey]) -> bytes:
    """Sign a payload with each key.

    Args:
        payload: Any bytes.
        payload_type: One of the types above.
        keys: At least one.

    Returns:
        The envelope, as JSON without a line end.
    """
    if not keys:
        raise ValueError("an envelope needs at least one key")
    message = pre_authentication(payload, payload_type)
    signed = [(key.key_id, key.sign(message)) for key in keys]
    return _spell(payload, payload_type, signed)


def open_envelope(
    blob: bytes,
    payload_type: str,
    keys: Mapping[KeyId, VerifyingKey],
    *,
    threshold: int = 1,
    max_bytes: int = MAX_BYTES,
) -> bytes:
    """The payload of an envelope, verified; see `open_signed`, which also tells who signed."""
    return open_signed(blob, payload_type, keys, threshold=threshold, max_bytes=max_bytes).payload


def open_signed(
    blob: bytes,
    payload_type: str,
    keys: Mapping[KeyId, VerifyingKey],
    *,
    threshold: int = 1,
    second_keys: Mapping[KeyId, VerifyingKey] = MappingProxyType({}),
    max_bytes: int = MAX_BYTES,
) -> Opened:
    """Verify an envelope and hand out its payload.

    Args:
        blob: The file, bare or armoured.
        payload_type: The only type accepted.
        keys: The keys to believe; signatures of others count for nothing.
        threshold: How many different keys must have signed.
        second_keys: Keys of another algorithm; if there are any, `threshold` of them must have signed as well.
        max_bytes: Longest file accepted.

    Returns:
        The payload and the believed keys that signed it.

    Raises:
        FormatError: Not an envelope of this type.
        UntrustedKeyError: No key that is believed has signed.
        BadSignatureError: A signature of a believed key does not hold, or fewer than `threshold` keys signed.
    """
    claimed = unverified_payload(blob, payload_type, max_bytes=max_bytes)
    message = pre_authentication(claimed.payload, payload_type)
    signers: dict[bytes, VerifyingKey] = {}
    second_signers: dict[bytes, VerifyingKey] = {}
    for claimed_id, signature in zip(claimed.key_ids, claimed.signatures, strict=True):
        key = _find(keys, claimed_id)
        found = signers if key is not None else second_signers
        key = _find(second_keys, claimed_id) if key is None else key
        if key is None:
            continue
        if not key.is_signature(signature, message):
            raise BadSignatureError(f"the signature of {claimed_id} does not fit this {_words(payload_type)}")
        found[key.raw] = key
    if not signers and not second_signers:
        raise UntrustedKeyError(f"signed by {', '.join(claimed.key_ids)}, which the trust root does not know")
    if len(signers) < threshold:
        raise BadSignatureError(f"signed by {len(signers)} trusted key(s), {threshold} are needed")
    if second_keys and len(second_signers) < threshold:
        raise BadSignatureError(
            f"the trust root demands {threshold} second signature(s) as well, by {', '.join(second_keys)}; "
            f"there are {len(second_signers)}"
        )
    return Opened(claimed.payload, (*signers.values(), *second_signers.values()))


def unverified_payload(blob: bytes, payload_type: str | None = None, *, max_bytes: int = MAX_BYTES) -> Unverified:
    """Take an envelope apart without believing a word of it.

    Args:
        blob: The file, bare or armoured.
        payload_type: The type wanted; None accepts any that this version knows.
        max_bytes: Longest file accepted.

    Raises:
        FormatError: Not an envelope, not of that type, or not spelled as `seal` spells it.
    """
    if len(blob) > max_bytes:
        raise FormatError(f"{len(blob)} bytes are too many, the limit is {max_bytes}")
    if not blob.strip():
        raise FormatError("the file is empty")
    bare = _take_off_armour(blob, payload_type) if blob.startswith(_ARMOUR_MARK) else _without_line_end(blob)
    fields = parse_object(bare, what="envelope", max_bytes=max_bytes)
    claimed_type = fields.text("payloadType")
    if claimed_type not in _KINDS or payload_type not in (None, claimed_type):
        wanted = "a kind that this version knows" if payload_type is None else _one(payload_type)
        raise FormatError(f"this is {_one(claimed_type)}, not {wanted}")
    payload = _from_base64(fields.text("payload", max_length=max_bytes), "payload")
    signed = [_signature(record) for record in fields.nested_list("signatures", max_items=MAX_SIGNATURES)]
    fields.end()
    if not signed:
        raise FormatError("the envelope bears no signature")
    if len({key_id for key_id, _ in signed}) != len(signed):
        raise FormatError("the envelope bears two signatures under one key id")
    if _spell(payload, claimed_type, signed) != bare:
        raise FormatError("the envelope is not spelled as it was when it was signed (spaces, order or escapes differ)")
    return Unverified(payload, claimed_type, tuple(key_id for key_id, _ in signed), tuple(sig for _, sig in signed))


def kind_of(blob: bytes) -> str | None:
    """What a file says that it is, such as "a licence"; None when it is no envelope. Nothing is verified."""
    try:
        return _one(unverified_payload(blob, max_bytes=len(blob)).payload_type)
    except FormatError:
        return None


def armour(envelope: bytes, payload_type: str) -> bytes:
    """Wrap an envelope so that it survives mail and terminals: BEGIN and END lines around base64."""
    label = _kind(payload_type).upper().encode("ascii")
    text = base64.b64encode(envelope)
    lines = [text[start : start + _ARMOUR_WIDTH] for start in range(0, len(text), _ARMOUR_WIDTH)]
    return b"\n".join(
        [b"-----BEGIN TOLLGATE %b-----" % label, *lines, b"-----END TOLLGATE %b-----" % label, b""],
    )


def _take_off_armour(blob: bytes, payload_type: str | None) -> bytes:
    text = blob
    if b"\r" in text:
        if text.count(b"\r") != text.count(b"\n"):
            raise FormatError("the armour has broken line ends")
        text = text.replace(b"\r\n", b"\n")
    text = text.removesuffix(b"\n")
    lines = text.split(b"\n")
    try:
        bare = base64.b64decode(b"".join(lines[1:-1]), validate=True)
    except binascii.Error as exc:
        raise FormatError("the armour does not hold base64") from exc
    for kind in _KINDS if payload_type is None else (payload_type,):
        if armour(bare, kind) == text + b"\n":
            return bare
    wanted = "" if payload_type is None else f" of {_one(payload_type)}"
    raise FormatError(f"the armour{wanted} is damaged: a line is cut, moved or changed")


def _without_line_end(blob: bytes) -> bytes:
    return blob.removesuffix(b"\r\n") if blob.endswith(b"\r\n") else blob.removesuffix(b"\n")


def _signature(record: Fields) -> tuple[KeyId, bytes]:
    key_id = KeyId(record.text("keyid", max_length=100))
    signature = _from_base64(record.text("sig", max_length=8192), "sig")
    record.end()
    return key_id, signature


def _find(keys: Mapping[KeyId, VerifyingKey], claimed_id: str) -> "VerifyingKey | None":
    for key_id, key in keys.items():
        if key_id == claimed_id:
            return key
    return None


def _spell(payload: bytes, payload_type: str, signed: Sequence[tuple[KeyId, bytes]]) -> bytes:
    return canonical(
        {
            "payload": base64.b64encode(payload).decode("ascii"),
            "payloadType": payload_type,
            "signatures": [
                {"keyid": key_id, "sig": base64.b64encode(signature).decode("ascii")} for key_id, signature in signed
            ],
        }
    )


def _from_base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as exc:
        raise FormatError(f"the envelope's {what} is not base64") from exc


def _kind(payload_type: str) -> str:
    return _KINDS.get(payload_type, f"thing of the type {payload_type!r}")


def _words(payload_type: str) -> str:
    """The kind as it is called in a sentence."""
    return _IN_PROSE.get(payload_type) or _kind(payload_type)


def _one(payload_type: str) -> str:
    words = _words(payload_type)
    return f"{'an' if words[0] in 'aeo' else 'a'} {words}"
