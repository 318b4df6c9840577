"""One Ed25519 signature, verified by the OpenSSL that the machine's Python comes with.

Invariant: a signature that could not be checked is an error, never a wrong or a right signature.
"""

from __future__ import annotations

import ctypes
import functools

from appliance.errors import HostError

_ED25519 = 1087
"""OpenSSL's number of the algorithm (`EVP_PKEY_ED25519`)."""
_LIBRARIES = ("libcrypto.so.3", "libcrypto.so.1.1")
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64


def is_signature(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` is that of the Ed25519 key `public` over `message`.

    Args:
        public: The bare public key, 32 bytes.
        signature: 64 bytes; any other length is no signature.
        message: What was signed.

    Raises:
        HostError: The machine has no OpenSSL to check it with.
    """
    if len(public) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    crypto = _libcrypto()
    key = crypto.EVP_PKEY_new_raw_public_key(_ED25519, None, public, len(public))
    context = crypto.EVP_MD_CTX_new()
    try:
        if not key or not context or crypto.EVP_DigestVerifyInit(context, None, None, None, key) != 1:
            return False
        return bool(crypto.EVP_DigestVerify(context, signature, len(signature), message, len(message)) == 1)
    finally:
        crypto.EVP_MD_CTX_free(context)
        crypto.EVP_PKEY_free(key)


@functools.cache
def _libcrypto() -> ctypes.CDLL:
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
        for function, result, arguments in (
            ("EVP_PKEY_new_raw_public_key", pointer, (ctypes.c_int, pointer, text, size)),
            ("EVP_PKEY_free", None, (pointer,)),
            ("EVP_MD_CTX_new", pointer, ()),
            ("EVP_MD_CTX_free", None, (pointer,)),
            ("EVP_DigestVerifyInit", ctypes.c_int, (pointer, pointer, pointer, pointer, pointer)),
            ("EVP_DigestVerify", ctypes.c_int, (pointer, text, size, text, size)),
        ):
            entry = getattr(library, function)
            entry.restype, entry.argtypes = result, arguments
        return library
    raise HostError(
        "this machine has no OpenSSL (libcrypto) to check signatures with",
        next_step="Nothing was changed. Install the package libssl3, which Debian's python3 comes with.",
    )
