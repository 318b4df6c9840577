"""The trust root: whom to believe, and for what.

Invariants:

* A trust root is signed by the threshold of its own root keys; whether to believe it is decided by where it was
  installed, never by anything inside a folder that is being checked.
* No key has two roles, and each key's place in the trust root fixes its algorithm.
* A production trust root is replaced only by its successor: version + 1 of the same vendor, signed by the threshold of
  the old root keys and of its own. What it revokes stays revoked.
* Where a root lists second keys (ML-DSA-65), whatever it vouches for bears their signatures too, or is refused.
* A root is for evaluation exactly when all of its keys are; a production root may list evaluation issuing keys.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from licenses import envelope, ml_dsa
from licenses.errors import FormatError, LicensesError, RevokedKeyError, SuccessionError, UntrustedKeyError
from licenses.keys import (
    EVALUATION_PREFIX,
    Algorithm,
    KeyId,
    PublicKey,
    SigningKey,
    VerifyingKey,
    key_id_of,
    read_small_file,
)
from licenses.strict_json import MAX_BYTES, Fields, canonical, instant_text, parse_object

__all__ = [
    "EVALUATION_PREFIX",
    "KeyId",
    "SigningKey",
    "TrustRoot",
    "VerifyingKey",
    "follow",
    "load_successor",
    "load_trust_root",
    "version_name",
]

SECOND_ROOT_ROLE = "root-mldsa"
SECOND_ISSUING_ROLE = "issuing-mldsa"
MAX_REVOKED = 256
MAX_STEPS = 64

_KEY_ID = re.compile(r"(?:evaluation-)?(?:(?:root|issuing)(?:-mldsa)?|ack)-[0-9a-f]{16}")
_MAX_PUBLIC_TEXT = 2700
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
        second_root_keys: If any, the threshold of these (ML-DSA-65) must sign trust roots as well.
        second_issuing_keys: If any, one of these (ML-DSA-65) must sign licences and the like as well.
        revoked_key_ids: Keys taken back; a later version may add to them, never leave one out.
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
    second_root_keys: Mapping[KeyId, VerifyingKey] = field(default_factory=dict)
    second_issuing_keys: Mapping[KeyId, VerifyingKey] = field(default_factory=dict)
    revoked_key_ids: tuple[KeyId, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "revoked_key_ids", tuple(sorted(set(self.revoked_key_ids))))
        seconds = [*self.second_root_keys.values(), *self.second_issuing_keys.values()]
        firsts = [*self.root_keys.values(), *self.issuing_keys.values(), *self.ack_keys.values()]
        keys = [*firsts, *seconds]
        if _VENDOR.fullmatch(self.vendor) is None:
            raise FormatError(f"the trust root's vendor {self.vendor!r} is not a lower-case domain name")
        if not 1 <= self.threshold <= len(self.root_keys):
            raise FormatError(f"the trust root wants {self.threshold} of {len(self.root_keys)} root keys")
        if self.second_root_keys and len(self.second_root_keys) < self.threshold:
            raise FormatError(f"the trust root wants {self.threshold} of {len(self.second_root_keys)} second root keys")
        if any(key.algorithm is not Algorithm.ED25519 for key in firsts) or any(
            key.algorithm is not Algorithm.ML_DSA_65 for key in seconds
        ):
            raise FormatError("the trust root lists a key where keys of another algorithm are listed")
        if {key.key_id for key in keys} & set(self.revoked_key_ids):
            raise FormatError("the trust root lists a key that it revokes")
        if len({key.raw for key in keys}) != len(keys):
            raise FormatError("the trust root gives one key to two roles, or under two names")
        if not self.issuing_keys:
            raise FormatError("the trust root has no issuing key")
        if self.issued_at >= self.expires_at:
            raise FormatError("the trust root expires before it begins")
        if self.evaluation != all(key.evaluation for key in keys):
            raise FormatError("a trust root is for evaluation exactly when all of its keys are")
        if not self.evaluation and any(
            key.evaluation for key in (*self.root_keys.values(), *self.second_root_keys.values())
        ):
            raise FormatError("an evaluation key may not sign a production trust root")

    @classmethod
    def from_bytes(cls, blob: bytes) -> "TrustRoot":
        """Read a trust root and verify that its own root keys signed it.

        Raises:
            LicensesError: It is malformed, or signed by fewer than the threshold of its root keys.
        """
        unverified = cls._from_payload(envelope.unverified_payload(blob, envelope.TRUST_ROOT_TYPE).payload)
        return cls._from_payload(unverified.opened_by_root_keys(blob))

    def opened_by_root_keys(self, blob: bytes) -> bytes:
        """The payload of a trust root file that this root's root keys signed, this root's own or a successor's.

        Raises:
            LicensesError: It is malformed, or signed by fewer than the threshold of the root keys.
        """
        return envelope.open_signed(
            blob,
            envelope.TRUST_ROOT_TYPE,
            self.root_keys,
            threshold=self.threshold,
            second_keys=self.second_root_keys,
        ).payload

    def open_issued(self, blob: bytes, payload_type: str, *, max_bytes: int = MAX_BYTES) -> envelope.Opened:
        """Verify what issuing keys sign: a licence, a revocation, a clock reset.

        Raises:
            RevokedKeyError: Only keys signed it that were taken back.
            LicensesError: It is malformed, or not signed as this root demands.
        """
        return self._opened(blob, payload_type, self.issuing_keys, self.second_issuing_keys, max_bytes)

    def open_acknowledged(self, blob: bytes, payload_type: str, *, max_bytes: int = MAX_BYTES) -> envelope.Opened:
        """Verify what ack keys sign: an acknowledgement of usage.

        Raises:
            RevokedKeyError: Only keys signed it that were taken back.
            LicensesError: It is malformed, or not signed as this root demands.
        """
        return self._opened(blob, payload_type, self.ack_keys, {}, max_bytes)

    def _opened(
        self,
        blob: bytes,
        payload_type: str,
        keys: Mapping[KeyId, VerifyingKey],
        second_keys: Mapping[KeyId, VerifyingKey],
        max_bytes: int,
    ) -> envelope.Opened:
        try:
            return envelope.open_signed(blob, payload_type, keys, second_keys=second_keys, max_bytes=max_bytes)
        except UntrustedKeyError as exc:
            claimed = envelope.unverified_payload(blob, payload_type, max_bytes=max_bytes)
            taken_back = sorted(set(claimed.key_ids) & set(self.revoked_key_ids))
            if not taken_back:
                raise
            raise RevokedKeyError(f"signed by {', '.join(taken_back)}, which the vendor has revoked") from exc

    def successor(self, blob: bytes) -> "TrustRoot":
        """Read the trust root that takes this one's place; this one's own content gives this one back.

        Args:
            blob: The signed file.

        Raises:
            SuccessionError: It may not take this one's place.
            LicensesError: It is malformed, or signed by too few of the old or of its own root keys.
        """
        new = TrustRoot.from_bytes(blob)
        if new == self:
            return self
        if new.version <= self.version:
            how = "goes back" if new.version < self.version else "has the same version and other content"
            raise SuccessionError(
                f"the trust root {how}: version {new.version}, in force is {self.version}",
                next_step="Install the newest trust root that the vendor issued; until then the one in force stays.",
            )
        if new.version != self.version + 1:
            raise SuccessionError(f"the trust root jumps from version {self.version} to {new.version}")
        try:
            self.opened_by_root_keys(blob)
        except LicensesError as exc:
            raise SuccessionError(
                f"version {new.version} of the trust root is not signed by the keys of version {self.version}: {exc}",
                next_step="Check with the vendor where the file comes from; until then the trust root in force stays.",
            ) from exc
        if (new.vendor, new.evaluation) != (self.vendor, self.evaluation):
            raise SuccessionError(
                f"version {new.version} of the trust root is of another vendor, or changes between evaluation and "
                f"production: {new.vendor}, in force is {self.vendor}"
            )
        if new.issued_at < self.issued_at or not set(self.revoked_key_ids) <= set(new.revoked_key_ids):
            raise SuccessionError(f"version {new.version} of the trust root forgets what version {self.version} said")
        return new

    def to_payload(self) -> bytes:
        """The bytes that the root keys sign; what this root has none of is not mentioned."""
        newer: dict[str, object] = {
            "second_root_keys": _key_records(self.second_root_keys),
            "second_issuing_keys": _key_records(self.second_issuing_keys),
            "revoked_key_ids": sorted(self.revoked_key_ids),
        }
        return canonical(
            {
                **{name: value for name, value in newer.items() if value},
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

        Args:
            keys: The threshold of its root keys; for a successor, also those of the version before.

        Raises:
            LicensesError: The keys given are not the threshold of its root keys.
        """
        blob = envelope.seal(self.to_payload(), envelope.TRUST_ROOT_TYPE, keys)
        self.opened_by_root_keys(blob)
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
            second_root_keys=_second_keys_from(fields, "second_root_keys", SECOND_ROOT_ROLE),
            second_issuing_keys=_second_keys_from(fields, "second_issuing_keys", SECOND_ISSUING_ROLE),
            revoked_key_ids=_revoked_from(fields),
        )
        fields.end()
        return root


def follow(root: TrustRoot, blobs: Iterable[bytes]) -> TrustRoot:
    """Go from one trust root to the next, each the successor of the one before.

    Raises:
        LicensesError: One of them may not follow; see `TrustRoot.successor`.
    """
    for blob in blobs:
        root = root.successor(blob)
    return root


def version_name(path: Path, version: int) -> Path:
    """Where an earlier version of a trust root file lies: `trust-root-v2.json` beside `trust-root.json`."""
    return path.with_name(f"{path.stem}-v{version}{path.suffix}")


def load_successor(path: Path, root: TrustRoot) -> TrustRoot:
    """Read the trust root at `path` if it may take the place of the one in force.

    What lies between them is read from the files beside it that `version_name` names.

    Raises:
        SuccessionError: It may not, or a version between them is missing.
        LicensesError: A file cannot be read, or is not a trust root signed as it must be.
    """
    newest = load_trust_root(path)
    if newest.version - root.version > MAX_STEPS:
        raise SuccessionError(f"the trust root jumps from version {root.version} to {newest.version}")
    between = [version_name(path, version) for version in range(root.version + 1, newest.version)]
    for missing in between:
        if not missing.exists():
            raise SuccessionError(
                f"the trust root jumps from version {root.version} to {newest.version}: {missing} is missing"
            )
    return follow(root, map(_read_root, (*between, path)))


def load_trust_root(path: Path) -> TrustRoot:
    """Read and verify a trust root file.

    Raises:
        KeyFileError: The file cannot be read.
        LicensesError: It is not a trust root, or not signed as it must be.
    """
    return TrustRoot.from_bytes(_read_root(path))


def _read_root(path: Path) -> bytes:
    return read_small_file(path, doing="read the trust root", mode="0444", max_bytes=MAX_BYTES)


def _key_records(keys: Mapping[KeyId, VerifyingKey]) -> list[dict[str, str]]:
    return [
        {
            "key_id": key_id,
            "algorithm": keys[key_id].algorithm.value,
            "public": base64.b64encode(keys[key_id].raw).decode("ascii"),
        }
        for key_id in sorted(keys)
    ]


def _second_keys_from(fields: Fields, name: str, role: str) -> dict[KeyId, VerifyingKey]:
    if not fields.has(name):
        return {}
    return _keys_from(fields.nested_list(name, max_items=4), role, Algorithm.ML_DSA_65)


def _revoked_from(fields: Fields) -> tuple[KeyId, ...]:
    if not fields.has("revoked_key_ids"):
        return ()
    revoked = fields.texts("revoked_key_ids", max_items=MAX_REVOKED, max_length=100)
    if any(_KEY_ID.fullmatch(key_id) is None for key_id in revoked) or list(revoked) != sorted(revoked):
        raise FormatError("the trust root's revoked_key_ids must be key ids, in order")
    return tuple(map(KeyId, revoked))


def _keys_from(records: list[Fields], role: str, algorithm: Algorithm = Algorithm.ED25519) -> dict[KeyId, VerifyingKey]:
    keys: dict[KeyId, VerifyingKey] = {}
    for record in records:
        key_id = KeyId(record.text("key_id", pattern=_KEY_ID))
        claimed, public_text = record.text("algorithm"), record.text("public", max_length=_MAX_PUBLIC_TEXT)
        record.end()
        if claimed != algorithm.value:
            raise FormatError(f"key {key_id} is of the algorithm {claimed!r}, where {algorithm.value} is wanted")
        public = _public_from(key_id, public_text, algorithm)
        evaluation = key_id.startswith(EVALUATION_PREFIX)
        if key_id != key_id_of(public, role, evaluation=evaluation):
            raise FormatError(f"the id {key_id} does not fit its key or its role ({role})")
        if key_id in keys:
            raise FormatError(f"the key {key_id} is listed twice")
        keys[key_id] = VerifyingKey(key_id, public)
    return keys


def _public_from(key_id: KeyId, text: str, algorithm: Algorithm) -> PublicKey:
    try:
        raw = base64.b64decode(text, validate=True)
        public: PublicKey = (
            Ed25519PublicKey.from_public_bytes(raw) if algorithm is Algorithm.ED25519 else ml_dsa.public_from_raw(raw)
        )
    except (binascii.Error, ValueError) as exc:
        raise FormatError(f"key {key_id} is not an {algorithm.value} public key") from exc
    if base64.b64encode(raw).decode("ascii") != text:
        raise FormatError(f"key {key_id} is not in plain base64")
    return public
