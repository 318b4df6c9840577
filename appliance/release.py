"""What a release is: a signed manifest of every file of its bundle.

Invariants:

* The manifest is a DSSE envelope (see `licenses.envelope`, which seals it) with exactly one spelling and one signature.
* Which key to believe is decided by the caller, never by the bundle; the key inside says only which one it was. Where
  nothing is trusted yet, that key is taken, and its fingerprint shown: a first installation is worth what the way is
  worth by which the bundle, or its SHA-256, came.
* Nothing but that key is looked at before the signature held.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import BundleFormatError, ReleaseSignatureError, UntrustedReleaseKeyError
from appliance.signature import PUBLIC_KEY_BYTES, is_signature

RELEASE_TYPE = "application/vnd.tollgate.release.v1+json"
MANIFEST_NAME = "manifest.dsse"
MAX_MANIFEST_BYTES = 1024 * 1024
EVALUATION_PREFIX = "evaluation-"

_SCHEMA = 1
_MEMBER = re.compile(r"[A-Za-z0-9_+.-]+(?:/[A-Za-z0-9_+.-]+)*")
_MAX_MEMBER_PATH = 255
_VERSION = re.compile(r"[0-9]+(?:\.[0-9]+){1,3}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MODES = {"0644": 0o644, "0755": 0o755}
_PEM_KEY_PREFIX = bytes.fromhex("302a300506032b6570032100")
"""What precedes the 32 bytes of an Ed25519 key in SubjectPublicKeyInfo (RFC 8410)."""


@dataclass(frozen=True, slots=True)
class ReleaseKey:
    """A public release key.

    Attributes:
        raw: The 32 bytes of the Ed25519 key.
    """

    raw: bytes

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the bare bytes, in hexadecimal: what people compare."""
        return hashlib.sha256(self.raw).hexdigest()

    def to_pem(self) -> bytes:
        """The file that OpenSSL reads too."""
        text = base64.b64encode(_PEM_KEY_PREFIX + self.raw)
        return b"-----BEGIN PUBLIC KEY-----\n%b\n-----END PUBLIC KEY-----\n" % text

    @classmethod
    def from_pem(cls, blob: bytes, path: Path) -> ReleaseKey:
        """Read the file of a public key.

        Raises:
            BundleFormatError: It holds no Ed25519 public key.
        """
        lines = blob.decode("ascii", "replace").strip().splitlines()
        try:
            der = base64.b64decode("".join(lines[1:-1]), validate=True)
        except (binascii.Error, ValueError):
            der = b""
        key = cls(der[-PUBLIC_KEY_BYTES:])
        if key.to_pem().decode().split() != " ".join(lines).split():
            raise BundleFormatError(
                f"{path} holds no Ed25519 public key in PEM form",
                next_step="Nothing was changed. Give the file 'release-key.pem' as the vendor published it.",
            )
        return key


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a bundle.

    Attributes:
        path: Its place, with slashes, below the bundle's folder.
        size: Its length in bytes.
        sha256: Of its content, in hexadecimal.
        mode: Its permissions, 0644 or 0755.
    """

    path: str
    size: int
    sha256: str
    mode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a release consists of, and what it needs.

    Attributes:
        version: The product's version, as 1.2.3.
        revision: The source that it was built from.
        machine: The kind of processor, as `uname -m` tells it.
        python: The Python that the wheels are made for, as (3, 11).
        glibc: The oldest C library that the wheels run with, as (2, 28).
        installed_bytes: Room that an installation takes, in bytes.
        image: The name under which the image is loaded.
        evaluation: Whether the release key is one for evaluation.
        key: The key that signed, once `open_manifest` has verified it.
        members: Every file but the manifest itself, by path, in order.
    """

    version: str
    revision: str
    machine: str
    python: tuple[int, int]
    glibc: tuple[int, int]
    installed_bytes: int
    image: str
    evaluation: bool
    key: ReleaseKey
    members: Mapping[str, Member]

    @property
    def folder(self) -> str:
        """The name of the bundle's folder."""
        return f"tollgate-{self.version}"

    @property
    def release_id(self) -> str:
        """The name that it is installed under: its version, and the first digits of the manifest's SHA-256."""
        return f"{self.version}-{hashlib.sha256(self.to_payload()).hexdigest()[:8]}"

    def to_payload(self) -> bytes:
        """The bytes that are signed: compact JSON, members sorted."""
        return _canonical(
            {
                "schema": _SCHEMA,
                "product": "tollgate",
                "version": self.version,
                "revision": self.revision,
                "machine": self.machine,
                "python": list(self.python),
                "glibc": list(self.glibc),
                "installed_bytes": self.installed_bytes,
                "image": self.image,
                "evaluation": self.evaluation,
                "release_key": base64.b64encode(self.key.raw).decode("ascii"),
                "files": {
                    member.path: {"size": member.size, "sha256": member.sha256, "mode": f"{member.mode:04o}"}
                    for member in self.members.values()
                },
            }
        )

    @classmethod
    def from_payload(cls, payload: bytes) -> Manifest:
        """Read what `to_payload` wrote, and only that.

        Raises:
            BundleFormatError: It is anything else.
        """
        try:
            said = json.loads(payload)
            manifest = cls(
                version=said["version"],
                revision=said["revision"],
                machine=said["machine"],
                python=_pair(said["python"]),
                glibc=_pair(said["glibc"]),
                installed_bytes=said["installed_bytes"],
                image=said["image"],
                evaluation=said["evaluation"],
                key=_key_named(said),
                members={path: _member(path, said["files"][path]) for path in sorted(said["files"])},
            )
            whole = manifest.to_payload() == payload and manifest._is_of_right_kinds()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
            raise BundleFormatError(f"the manifest is malformed: {exc!r}") from exc
        if not whole:
            raise BundleFormatError("the manifest is of a kind that this version does not know")
        return manifest

    def _is_of_right_kinds(self) -> bool:
        """Whether each value is of its kind; the one who signed a first bundle may be anybody."""
        texts = (self.version, self.revision, self.machine, self.image)
        return (
            all(isinstance(text, str) for text in texts)
            and _VERSION.fullmatch(self.version) is not None
            and type(self.installed_bytes) is int
            and self.installed_bytes >= 0
            and type(self.evaluation) is bool
        )


def open_manifest(blob: bytes, trusted: Collection[str] | None) -> Manifest:
    """Verify a manifest and read it.

    Args:
        blob: The file.
        trusted: Fingerprints of the release keys to believe; None takes the key that the manifest names.

    Returns:
        The manifest; its key has signed it.

    Raises:
        BundleFormatError: It is no manifest.
        UntrustedReleaseKeyError: Another key than the trusted ones is named.
        ReleaseSignatureError: The signature does not hold.
    """
    payload, key_id, signature = _take_apart(blob)
    try:
        key = _key_named(json.loads(payload))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise BundleFormatError("the manifest names no release key") from exc
    if trusted is not None and key.fingerprint not in trusted:
        raise UntrustedReleaseKeyError(
            f"the bundle is signed by the release key {key.fingerprint}, "
            f"and {' or '.join(sorted(trusted))} is trusted here"
        )
    message = b"DSSEv1 %d %b %d %b" % (len(RELEASE_TYPE), RELEASE_TYPE.encode(), len(payload), payload)
    if not is_signature(key.raw, signature, message):
        raise ReleaseSignatureError(f"{MANIFEST_NAME} was changed: its signature does not hold")
    manifest = Manifest.from_payload(payload)
    if key_id != f"{EVALUATION_PREFIX if manifest.evaluation else ''}release-{key.fingerprint[:16]}":
        raise BundleFormatError(f"{MANIFEST_NAME} gives its key another name than the key has")
    return manifest


def fingerprint_of(text: str) -> str:
    """The fingerprint of a release key, given as such or as the file of the key.

    Raises:
        BundleFormatError: It is neither.
    """
    if _SHA256.fullmatch(text.lower()):
        return text.lower()
    path = Path(text)
    try:
        with path.open("rb") as stream:
            return ReleaseKey.from_pem(stream.read(4096), path).fingerprint
    except OSError as exc:
        raise BundleFormatError(
            f"the release key cannot be read: {exc}",
            next_step="Nothing was changed. Give the file of a public key, or its fingerprint of 64 digits.",
        ) from exc


def version_numbers(version: str) -> tuple[int, ...]:
    """A version as numbers, for comparison."""
    return tuple(int(part) for part in re.findall(r"[0-9]+", version))


def _take_apart(blob: bytes) -> tuple[bytes, str, bytes]:
    """Payload, name of the key and signature of an envelope, which must be spelled as `licenses.envelope.seal` does."""
    if len(blob) > MAX_MANIFEST_BYTES:
        raise BundleFormatError(f"{MANIFEST_NAME} has {len(blob)} bytes, more than {MAX_MANIFEST_BYTES}")
    try:
        said = json.loads(blob)
        (record,) = said["signatures"]
        payload = base64.b64decode(said["payload"], validate=True)
        signature = base64.b64decode(record["sig"], validate=True)
        spelled = _canonical(
            {
                "payload": base64.b64encode(payload).decode("ascii"),
                "payloadType": RELEASE_TYPE,
                "signatures": [{"keyid": record["keyid"], "sig": base64.b64encode(signature).decode("ascii")}],
            }
        )
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise BundleFormatError(f"{MANIFEST_NAME} is no signed manifest") from exc
    if spelled != blob:
        raise BundleFormatError(f"{MANIFEST_NAME} is not spelled as it was when it was signed")
    return payload, str(record["keyid"]), signature


def _canonical(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=True, allow_nan=False, sort_keys=True, separators=(",", ":")).encode("ascii")


def _key_named(said: Mapping[str, str]) -> ReleaseKey:
    raw = base64.b64decode(said["release_key"], validate=True)
    if len(raw) != PUBLIC_KEY_BYTES:
        raise ValueError("a release key has 32 bytes")
    return ReleaseKey(raw)


def _pair(numbers: list[int]) -> tuple[int, int]:
    first, second = numbers
    return int(first), int(second)


def _member(path: str, said: Mapping[str, str | int]) -> Member:
    if (
        _MEMBER.fullmatch(path) is None
        or len(path) > _MAX_MEMBER_PATH
        or {".", ".."} & set(path.split("/"))
        or path == MANIFEST_NAME
    ):
        raise ValueError(f"{path!r} is no place in a bundle")
    size, sha256 = said["size"], said["sha256"]
    if type(size) is not int or size < 0 or not isinstance(sha256, str) or _SHA256.fullmatch(sha256) is None:
        raise ValueError(f"{path!r} has no size or hash")
    return Member(path, size, sha256, _MODES[str(said["mode"])])
