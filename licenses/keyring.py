"""The trust root: whom to believe, and for what.

Invariants:

* A trust root is signed by the threshold of its own root keys; whether to believe it is decided by where it was
  installed, never by anything inside a folder that is being checked.
* No key has two roles, and each key's record fixes its algorithm.
* A root is for evaluation exactly when all of its keys are; a production root may list evaluation issuing keys.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from licenses import envelope
from licenses.errors import FormatError
from licenses.keys import EVALUATION_PREFIX, KeyId, SigningKey, VerifyingKey, key_id_of, read_small_file
from licenses.strict_json import MAX_BYTES, Fields, canonical, instant_text, parse_object

__all__ = ["EVALUATION_PREFIX", "KeyId", "SigningKey", "TrustRoot", "VerifyingKey", "load_trust_root"]

_KEY_ID = re.compile(r"(?:evaluation-)?(?:root|issuing|ack)-[0-9a-f]{16}")
_VENDOR = re.compile(r"(?=.{1,200}\Z)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustRoot:
    """Whom to believe, for what.

    Attributes:
        version: Grows by one with every replacement.
        vendor: The vendor's domain; the first part of every record origin.
        evaluation: Whether the whole root, and so everything under it, is for evaluation.
        threshold: How many root keys must sign a trust root.
        root_keys: May sign trust roots.
        issuing_keys: May sign licences.
        ack_keys: May acknowledge usage.
        issued_at: UTC instant at which it was made.
        expires_at: UTC instant from which nothing may be issued under it (exclusive).
    """

    version: int
    vendor: str
    evaluation: bool
    threshold: int
    root_keys: Mapping[KeyId, VerifyingKey]
    issuing_keys: Mapping[KeyId, VerifyingKey]
    ack_keys: Mapping[KeyId, VerifyingKey]
    issued_at: datetime
    expires_at: datetime

    def __post_init__(self) -> None:
        keys = [*self.root_keys.values(), *self.issuing_keys.values(), *self.ack_keys.values()]
        if _VENDOR.fullmatch(self.vendor) is None:
            raise FormatError(f"the trust root's vendor {self.vendor!r} is not a lower-case domain name")
        if not 1 <= self.threshold <= len(self.root_keys):
            raise FormatError(f"the trust root wants {self.threshold} of {len(self.root_keys)} root keys")
        if len({key.raw for key in keys}) != len(keys):
            raise FormatError("the trust root gives one key to two roles, or under two names")
        if not self.issuing_keys:
            raise FormatError("the trust root has no issuing key")
        if self.issued_at >= self.expires_at:
            raise FormatError("the trust root expires before it begins")
        if self.evaluation != all(key.evaluation for key in keys):
            raise FormatError("a trust root is for evaluation exactly when all of its keys are")
        if not self.evaluation and any(key.evaluation for key in self.root_keys.values()):
            raise FormatError("an evaluation key may not sign a production trust root")

    @classmethod
    def from_bytes(cls, blob: bytes) -> "TrustRoot":
        """Read a trust root and verify that its own root keys signed it.

        Raises:
            LicensesError: It is malformed, or signed by fewer than the threshold of its root keys.
        """
        unverified = cls._from_payload(envelope.unverified_payload(blob, envelope.TRUST_ROOT_TYPE).payload)
        opened = envelope.open_signed(
            blob, envelope.TRUST_ROOT_TYPE, unverified.root_keys, threshold=unverified.threshold
        )
        return cls._from_payload(opened.payload)

    def to_payload(self) -> bytes:
        """The bytes that the root keys sign."""
        return canonical(
            {
                "schema": 1,
                "version": self.version,
                "vendor": self.vendor,
                "evaluation": self.evaluation,
                "threshold": self.threshold,
                "root_keys": _key_records(self.root_keys),
                "issuing_keys": _key_records(self.issuing_keys),
                "ack_keys": _key_records(self.ack_keys),
                "issued_at": instant_text(self.issued_at),
                "expires_at": instant_text(self.expires_at),
            }
        )

    def seal(self, keys: Sequence[SigningKey]) -> bytes:
        """The signed file.

        Raises:
            BadSignatureError: The keys given are not the threshold of its root keys.
        """
        blob = envelope.seal(self.to_payload(), envelope.TRUST_ROOT_TYPE, keys)
        envelope.open_signed(blob, envelope.TRUST_ROOT_TYPE, self.root_keys, threshold=self.threshold)
        return blob

    @classmethod
    def _from_payload(cls, payload: bytes) -> "TrustRoot":
        fields = parse_object(payload, what="trust root")
        fields.integer("schema", minimum=1, maximum=1)
        root = cls(
            version=fields.integer("version", minimum=1),
            vendor=fields.text("vendor", max_length=200),
            evaluation=fields.flag("evaluation"),
            threshold=fields.integer("threshold", minimum=1, maximum=16),
            root_keys=_keys_from(fields.nested_list("root_keys", max_items=16), "root"),
            issuing_keys=_keys_from(fields.nested_list("issuing_keys", max_items=16), "issuing"),
            ack_keys=_keys_from(fields.nested_list("ack_keys", max_items=16), "ack"),
            issued_at=fields.instant("issued_at"),
            expires_at=fields.instant("expires_at"),
        )
        fields.end()
        return root


def load_trust_root(path: Path) -> TrustRoot:
    """Read and verify a trust root file.

    Raises:
        KeyFileError: The file cannot be read.
        LicensesError: It is not a trust root, or not signed as it must be.
    """
    blob = read_small_file(path, doing="read the trust root", mode="0444", max_bytes=MAX_BYTES)
    return TrustRoot.from_bytes(blob)


def _key_records(keys: Mapping[KeyId, VerifyingKey]) -> list[dict[str, str]]:
    return [
        {"key_id": key_id, "algorithm": "ed25519", "public": base64.b64encode(keys[key_id].raw).decode("ascii")}
        for key_id in sorted(keys)
    ]


def _keys_from(records: list[Fields], role: str) -> dict[KeyId, VerifyingKey]:
    keys: dict[KeyId, VerifyingKey] = {}
    for record in records:
        key_id = KeyId(record.text("key_id", pattern=_KEY_ID))
        algorithm, public_text = record.text("algorithm"), record.text("public")
        record.end()
        if algorithm != "ed25519":
            raise FormatError(f"key {key_id} is of the algorithm {algorithm!r}, which this version does not know")
        try:
            raw = base64.b64decode(public_text, validate=True)
            public = Ed25519PublicKey.from_public_bytes(raw)
        except (binascii.Error, ValueError) as exc:
            raise FormatError(f"key {key_id} is not an Ed25519 public key") from exc
        if base64.b64encode(raw).decode("ascii") != public_text:
            raise FormatError(f"key {key_id} is not in plain base64")
        evaluation = key_id.startswith(EVALUATION_PREFIX)
        if key_id != key_id_of(public, role, evaluation=evaluation):
            raise FormatError(f"the id {key_id} does not fit its key or its role ({role})")
        if key_id in keys:
            raise FormatError(f"the key {key_id} is listed twice")
        keys[key_id] = VerifyingKey(key_id, public)
    return keys
