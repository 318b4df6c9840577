"""Keys under their ids, and the small files that hold them.

Invariants:

* A key id ends in the first 16 hexadecimal digits of SHA-256 of the public key, so an id cannot be moved to another
  key; ids that start with "evaluation-" mark their key, and everything that it signs, as evaluation.
* A key is Ed25519, or ML-DSA-65 where a trust root demands a second signature. The key itself fixes the algorithm;
  no document chooses one.
* A private key is never printed and never read from a file that others may open.
"""

import hashlib
import os
import stat
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NewType, Protocol, cast

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from licenses import ml_dsa
from licenses.errors import FormatError, KeyFileError

KeyId = NewType("KeyId", str)


class Algorithm(StrEnum):
    """What a key is for; the values are wire format."""

    ED25519 = "ed25519"
    ML_DSA_65 = "ml-dsa-65"


class PublicKey(Protocol):
    """What is needed of a public key, whatever its algorithm."""

    def verify(self, signature: bytes, data: bytes, /) -> None:
        """Raise InvalidSignature unless the signature holds."""

    def public_bytes_raw(self) -> bytes:
        """The bare bytes."""
        ...

    def public_bytes(self, encoding: serialization.Encoding, format: serialization.PublicFormat) -> bytes:  # noqa: A002
        """An encoded form."""
        ...


class PrivateKey(Protocol):
    """What is needed of a private key, whatever its algorithm."""

    def sign(self, data: bytes, /) -> bytes:
        """The signature."""
        ...

    def public_key(self) -> PublicKey:
        """The public half."""
        ...

    def private_bytes(
        self,
        encoding: serialization.Encoding,
        format: serialization.PrivateFormat,  # noqa: A002
        encryption_algorithm: serialization.KeySerializationEncryption,
    ) -> bytes:
        """An encoded form."""
        ...


EVALUATION_PREFIX = "evaluation-"
MAX_KEY_FILE_BYTES = 8 * 1024


def fingerprint(public: PublicKey) -> str:
    """SHA-256 of the bare public bytes, in hexadecimal."""
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()


def key_id_of(public: PublicKey, role: str, *, evaluation: bool = False) -> KeyId:
    """The id that a key of this role bears."""
    return KeyId(f"{EVALUATION_PREFIX if evaluation else ''}{role}-{fingerprint(public)[:16]}")


@dataclass(frozen=True, slots=True, eq=False)
class VerifyingKey:
    """A public key under its id.

    Attributes:
        key_id: Its id; only a hint of which key to try.
        public: The key.
        evaluation: Whether all that it signs is for evaluation; always true when the id says so.
    """

    key_id: KeyId
    public: PublicKey
    evaluation: bool = False

    def __post_init__(self) -> None:
        if self.key_id.startswith(EVALUATION_PREFIX):
            object.__setattr__(self, "evaluation", True)

    @property
    def raw(self) -> bytes:
        """The bare public bytes; 32 for Ed25519."""
        return self.public.public_bytes_raw()

    @property
    def algorithm(self) -> Algorithm:
        """Fixed by the key itself."""
        return Algorithm.ED25519 if isinstance(self.public, Ed25519PublicKey) else Algorithm.ML_DSA_65

    def is_signature(self, signature: bytes, message: bytes) -> bool:
        """Whether `signature` is this key's signature over `message`."""
        try:
            self.public.verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VerifyingKey) and (self.key_id, self.raw) == (other.key_id, other.raw)

    def __hash__(self) -> int:
        return hash((self.key_id, self.raw))


@dataclass(frozen=True, slots=True, eq=False)
class SigningKey:
    """A private key under its id. Its text form never shows the key."""

    key_id: KeyId
    private: PrivateKey = field(repr=False)

    @classmethod
    def generate(cls, role: str, *, evaluation: bool = False, algorithm: Algorithm = Algorithm.ED25519) -> "SigningKey":
        """A new key, from the operating system's randomness.

        Raises:
            UnsupportedKeyError: This installation has no such algorithm.
        """
        private: PrivateKey = (
            Ed25519PrivateKey.generate() if algorithm is Algorithm.ED25519 else cast("PrivateKey", ml_dsa.generate())
        )
        return cls(key_id_of(private.public_key(), role, evaluation=evaluation), private)

    @property
    def verifying(self) -> VerifyingKey:
        """The public half, under the same id."""
        return VerifyingKey(self.key_id, self.private.public_key())

    def sign(self, message: bytes) -> bytes:
        """The signature; 64 bytes for Ed25519."""
        return self.private.sign(message)

    def to_pem(self) -> bytes:
        """The private key as unencrypted PKCS #8; for key files only."""
        return self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def load_signing_key(path: Path, role: str, *, algorithm: Algorithm = Algorithm.ED25519) -> SigningKey:
    """Read a private key file (unencrypted PKCS #8 PEM) and name the key by its fingerprint.

    Args:
        path: The file; refused when anyone but its owner may read it. A name that starts with "evaluation-" marks
            the key as evaluation.
        role: What the key is for, the first word of its id.
        algorithm: The only one accepted.

    Raises:
        KeyFileError: The file cannot be read, or is open to others.
        FormatError: It holds no private key of that algorithm.
    """
    pem = read_small_file(path, doing=f"read the {role} key", mode="0600", private=True)
    return signing_key_from_pem(pem, role, source=str(path), algorithm=algorithm)


def load_handed_over_key(path: Path, role: str) -> SigningKey:
    """Read an Ed25519 private key that the service manager handed over as a credential.

    Who may read a credential is told by an access list, which shows as permissions of the file's group; the service
    manager answers for them.

    Args:
        path: The credential.
        role: What the key is for, the first word of its id.

    Raises:
        KeyFileError: The file cannot be read.
        FormatError: It holds no private key of that algorithm.
    """
    pem = read_small_file(path, doing=f"read the {role} key", mode="0400")
    return signing_key_from_pem(pem, role, source=str(path))


def signing_key_from_pem(pem: bytes, role: str, *, source: str, algorithm: Algorithm = Algorithm.ED25519) -> SigningKey:
    """Read a private key (unencrypted PKCS #8 PEM) and name it by its fingerprint.

    Args:
        pem: The text.
        role: What the key is for, the first word of its id.
        source: Where it comes from, for messages; a file name that starts with "evaluation-" marks it as evaluation.
        algorithm: The only one accepted.

    Raises:
        FormatError: It is no private key of that algorithm.
    """
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise FormatError(f"{source} holds no unencrypted private key in PEM form") from exc
    if algorithm is Algorithm.ED25519:
        if not isinstance(private, Ed25519PrivateKey):
            raise FormatError(f"the key in {source} is not an Ed25519 key")
    elif not ml_dsa.is_private(private):
        raise FormatError(f"the key in {source} is not an ML-DSA-65 key")
    evaluation = source.rpartition("/")[2].startswith(EVALUATION_PREFIX)
    known = cast("PrivateKey", private)
    return SigningKey(key_id_of(known.public_key(), role, evaluation=evaluation), known)


def load_public_key(path: Path, role: str) -> VerifyingKey:
    """Read a public key file (PEM) and name the key by its fingerprint.

    Raises:
        KeyFileError: The file cannot be read.
        FormatError: It holds no Ed25519 public key.
    """
    pem = read_small_file(path, doing=f"read the {role} public key", mode="0444")
    try:
        public = serialization.load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise FormatError(
            f"{path} holds no public key in PEM form",
            next_step="Give the file 'device.pub' of the state directory, or a copy.",
        ) from exc
    if not isinstance(public, Ed25519PublicKey):
        raise FormatError(f"the key in {path} is not an Ed25519 key")
    return VerifyingKey(key_id_of(public, role), public)


def public_pem(public: PublicKey) -> bytes:
    """The PEM text that `load_public_key` reads."""
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def read_small_file(
    path: Path, *, doing: str, mode: str, private: bool = False, max_bytes: int = MAX_KEY_FILE_BYTES
) -> bytes:
    """Read a small regular file without ever blocking on it.

    Args:
        path: The file.
        doing: The attempt in words, for the message.
        mode: The permission bits wanted, for the message.
        private: Refuse a file that anyone but its owner may open.
        max_bytes: Longest file accepted.

    Raises:
        KeyFileError: It cannot be read, is no regular file, or is open to others.
        FormatError: It is too long.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with open(descriptor, "rb") as stream:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                raise KeyFileError(
                    f"cannot {doing}: {path} is not a regular file", path=path, next_step="Give the path of a file."
                )
            if private and facts.st_mode & 0o077:
                raise KeyFileError(
                    f"will not {doing}: others than its owner may open {path} (mode {facts.st_mode & 0o777:04o})",
                    path=path,
                    next_step=f"Close it: chmod {mode} {path}",
                )
            blob = stream.read(max_bytes + 1)
    except OSError as exc:
        raise KeyFileError.from_os_error(exc, path, doing=doing, mode=mode) from exc
    except ValueError as exc:
        raise KeyFileError(
            f"cannot {doing}: {exc}", path=path, next_step="Give a path without NUL characters."
        ) from exc
    if len(blob) > max_bytes:
        raise FormatError(f"{path} is longer than {max_bytes} bytes")
    return blob
