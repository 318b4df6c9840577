"""Checkpoints as signed notes: the C2SP formats signed-note and tlog-checkpoint, with Ed25519.

Invariants:

* The signature covers the text up to and including the line end before the blank line.
* A key is known by name *and* key hash: signatures of others are ignored, a known key's bad one refuses the note.
* The key's name is the log's origin, "<vendor domain>/<device id>".
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from licenses.errors import BadSignatureError, RecordError, UntrustedKeyError
from licenses.keys import SigningKey, VerifyingKey
from licenses.strict_json import MAX_INTEGER
from licenses.usage_log.merkle import HASH_BYTES

MAX_NOTE_BYTES = 64 * 1024
MAX_SIGNATURES = 32

_ED25519 = b"\x01"
_DASH = "\u2014 "
_NAME = re.compile(r"[^\s+\x00-\x1f\x7f]{1,200}")
_FOREIGN = re.compile("[\x00-\x09\x0b-\x1f\ud800-\udfff]")
_SIZE = re.compile(r"0|[1-9][0-9]{0,15}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's state.

    Attributes:
        origin: Whose log.
        size: Number of entries.
        root: Merkle root over them, 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    def to_text(self) -> str:
        """The text that is signed: three lines.

        Raises:
            RecordError: A field has no such form.
        """
        if _NAME.fullmatch(self.origin) is None:
            raise RecordError(f"{self.origin!r} is no origin: it must have neither spaces nor '+'")
        if not 0 <= self.size <= MAX_INTEGER or len(self.root) != HASH_BYTES:
            raise RecordError("a checkpoint needs a size from 0 on and a root of 32 bytes")
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode('ascii')}\n"


def key_hash(name: str, key: VerifyingKey) -> bytes:
    """The four bytes that, with the name, say which key signed: SHA-256(name LF 0x01 key)[:4]."""
    return hashlib.sha256(name.encode("utf-8") + b"\n" + _ED25519 + key.raw).digest()[:4]


def verifier_text(name: str, key: VerifyingKey) -> str:
    """The key as other tools for signed notes take it: "name+hash+base64"."""
    return f"{name}+{key_hash(name, key).hex()}+{base64.b64encode(_ED25519 + key.raw).decode('ascii')}"


def sign_note(text: str, name: str, key: SigningKey) -> str:
    """Sign a text under a key name.

    Raises:
        RecordError: The text or the name has no such form.
    """
    if not text.endswith("\n") or _FOREIGN.search(text) is not None or _NAME.fullmatch(name) is None:
        raise RecordError("a note's text must end with a line end and hold no control characters")
    signature = key_hash(name, key.verifying) + key.sign(text.encode("utf-8"))
    return f"{text}\n{_DASH}{name} {base64.b64encode(signature).decode('ascii')}\n"


def open_note(note: str, keys: Mapping[str, VerifyingKey]) -> str:
    """Verify a note and hand out its text.

    Args:
        note: The whole note.
        keys: The keys to believe, by name.

    Raises:
        RecordError: It is no note.
        UntrustedKeyError: None of the keys has signed it.
        BadSignatureError: A signature of one of the keys does not hold.
    """
    text, signatures = _take_apart(note)
    verified = False
    for name, claimed_hash, signature in signatures:
        key = keys.get(name)
        if key is None or key_hash(name, key) != claimed_hash:
            continue
        if not key.is_signature(signature, text.encode("utf-8")):
            raise BadSignatureError(f"the signature of {name} does not fit the checkpoint")
        verified = True
    if not verified:
        raise UntrustedKeyError(
            f"no trusted key has signed the checkpoint (signed by {', '.join(name for name, _, _ in signatures)})",
            next_step="Compare the device key that you pinned with the one that the operator's device has.",
        )
    return text


def sign_checkpoint(origin: str, size: int, root: bytes, signing_key: SigningKey) -> str:
    """The signed checkpoint of a log at `size` entries; the key's name is the origin."""
    return sign_note(Checkpoint(origin, size, root).to_text(), origin, signing_key)


def open_checkpoint(text: str, keys: Mapping[str, VerifyingKey]) -> Checkpoint:
    """Verify a signed checkpoint and read it.

    Args:
        text: The whole note.
        keys: The keys to believe, by name; the name of a device's key is its origin.

    Raises:
        RecordError: It is no checkpoint.
        UntrustedKeyError: None of the keys has signed it.
        BadSignatureError: A signature of one of the keys does not hold.
    """
    return _checkpoint_from(open_note(text, keys))


def unverified_checkpoint(text: str) -> Checkpoint:
    """Read a checkpoint without believing it.

    Raises:
        RecordError: It is no checkpoint.
    """
    return _checkpoint_from(_take_apart(text)[0])


def _take_apart(note: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    if len(note) > MAX_NOTE_BYTES or _FOREIGN.search(note) is not None:
        raise RecordError("this is no signed note: too long, or with characters that a note cannot hold")
    head, blank, tail = note.rpartition("\n\n")
    if not blank or not tail.endswith("\n"):
        raise RecordError("this is no signed note: a text, a blank line and signatures are wanted")
    lines = tail[:-1].split("\n")
    if not 1 <= len(lines) <= MAX_SIGNATURES:
        raise RecordError(f"a note with {len(lines)} signatures is not accepted")
    return f"{head}\n", [_signature(line) for line in lines]


def _signature(line: str) -> tuple[str, bytes, bytes]:
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not space or _NAME.fullmatch(name) is None:
        raise RecordError("a signature line of the note is malformed")
    try:
        signed = base64.b64decode(encoded.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as exc:
        raise RecordError("a signature of the note is not base64") from exc
    if len(signed) < 5 or base64.b64encode(signed).decode("ascii") != encoded:
        raise RecordError("a signature of the note is malformed")
    return name, signed[:4], signed[4:]


def _checkpoint_from(text: str) -> Checkpoint:
    lines = text.split("\n")
    if len(lines) != 4 or lines[3] or _SIZE.fullmatch(lines[1]) is None:
        raise RecordError("a checkpoint must have three lines: origin, size, root")
    try:
        root = base64.b64decode(lines[2].encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as exc:
        raise RecordError("a checkpoint's root is not base64") from exc
    checkpoint = Checkpoint(lines[0], int(lines[1]), root)
    if checkpoint.to_text() != text:
        raise RecordError("a checkpoint is not spelled as it must be")
    return checkpoint
