"""ML-DSA-65 (FIPS 204), the second signature that a trust root may demand, where the library offers it.

Invariants:

* This is the only place that imports it: `cryptography` offers it from version 47 on, and only over an OpenSSL (or
  its like) that has it. Where it is missing, `UnsupportedKeyError` says so; nothing is accepted without it.
* Keys and signatures have the sizes of FIPS 204, table 2; anything else is refused before it is used.
"""

from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm

from licenses.errors import FormatError, UnsupportedKeyError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey

PUBLIC_BYTES = 1952
SIGNATURE_BYTES = 3309


def is_supported() -> bool:
    """Whether this installation can make and verify ML-DSA-65 signatures."""
    try:
        generate()
    except UnsupportedKeyError:
        return False
    return True


def generate() -> "MLDSA65PrivateKey":
    """A new private key.

    Raises:
        UnsupportedKeyError: This installation has no ML-DSA-65.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

        return MLDSA65PrivateKey.generate()
    except (ImportError, UnsupportedAlgorithm) as exc:
        raise UnsupportedKeyError("this installation cannot make ML-DSA-65 keys") from exc


def public_from_raw(raw: bytes) -> "MLDSA65PublicKey":
    """The public key of these bytes.

    Raises:
        FormatError: They are no ML-DSA-65 public key.
        UnsupportedKeyError: This installation has no ML-DSA-65.
    """
    if len(raw) != PUBLIC_BYTES:
        raise FormatError(f"an ML-DSA-65 public key has {PUBLIC_BYTES} bytes, not {len(raw)}")
    try:
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PublicKey

        return MLDSA65PublicKey.from_public_bytes(raw)
    except (ImportError, UnsupportedAlgorithm) as exc:
        raise UnsupportedKeyError("this installation cannot verify ML-DSA-65 signatures, which are demanded") from exc
    except ValueError as exc:
        raise FormatError("these are not the bytes of an ML-DSA-65 public key") from exc


def is_private(key: object) -> bool:
    """Whether this is an ML-DSA-65 private key."""
    try:
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
    except ImportError:
        return False
    return isinstance(key, MLDSA65PrivateKey)
