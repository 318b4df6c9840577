"""Checkpoints as signed notes: the C2SP formats signed-note, tlog-checkpoint and tlog-cosignature, with Ed25519.

Invariants:

* The signature covers the text up to and including the line end before the blank line.
* A key is known by name *and* key hash: signatures of others are ignored, a known key's bad one refuses the note.
* A device's key is named like its log, "<vendor domain>/<device id>"; the vendor's ack keys are all named
  "<vendor domain>/ack", and their key hashes tell them apart.
* A cosignature (version 1) is a timestamped signature of another type than a log's own, so neither passes as the other.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from licenses.errors import BadSignatureError, RecordError, UntrustedKeyError
from licenses.keys import SigningKey, VerifyingKey
from licenses.strict_json import MAX_INTEGER
from licenses.usage_log.merkle import HASH_BYTES

MAX_NOTE_BYTES = 64 * 1024
MAX_SIGNATURES = 32

_ED25519 = b"\x01"
_COSIGNATURE = b"\x04"
_MAX_SECONDS = 253_402_300_799  # the last second of the year 9999
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


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A log's state that a witness vouches for.

    Attributes:
        checkpoint: The state.
        key: The witness's key.
        at: UTC instant of the cosignature, to the second.
    """

    checkpoint: Checkpoint
    key: VerifyingKey
    at: datetime


def key_hash(name: str, key: VerifyingKey) -> bytes:
    """The four bytes that, with the name, say which key signed: SHA-256(name LF 0x01 key)[:4]."""
    return _hash_of(name, key, _ED25519)


def verifier_text(name: str, key: VerifyingKey) -> str:
    """The key as other tools for signed notes take it: "name+hash+base64"."""
    return f"{name}+{key_hash(name, key).hex()}+{base64.b64encode(_ED25519 + key.raw).decode('ascii')}"


def cosigner_name(vendor: str) -> str:
    """The name of a vendor's ack keys in cosignatures."""
    return f"{vendor}/ack"


def cosigner_hash(name: str, key: VerifyingKey) -> bytes:
    """The four bytes that, with the name, say which key cosigned: SHA-256(name LF 0x04 key)[:4]."""
    return _hash_of(name, key, _COSIGNATURE)


def cosigner_text(name: str, key: VerifyingKey) -> str:
    """A witness's key as other tools take it: "name+hash+base64"."""
    return f"{name}+{cosigner_hash(name, key).hex()}+{base64.b64encode(_COSIGNATURE + key.raw).decode('ascii')}"


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


def cosign(note: str, name: str, key: SigningKey, at: datetime) -> str:
    """Add a witness's cosignature to a signed checkpoint.

    Args:
        note: The checkpoint, signed by its log; the caller has verified that.
        name: The witness's name.
        key: The witness's key.
        at: The instant, aware UTC.

    Returns:
        The note with one more line.

    Raises:
        RecordError: It is no checkpoint, has too many signatures, or name or instant have no such form.
    """
    text, signatures = _take_apart(note)
    _checkpoint_from(text)
    seconds = int(at.timestamp())
    if _NAME.fullmatch(name) is None or not 0 <= seconds <= _MAX_SECONDS or len(signatures) == MAX_SIGNATURES:
        raise RecordError("the checkpoint cannot be cosigned so")
    signed = (
        cosigner_hash(name, key.verifying) + seconds.to_bytes(8, "big") + key.sign(_cosigned_message(text, seconds))
    )
    return f"{note}{_DASH}{name} {base64.b64encode(signed).decode('ascii')}\n"


def open_cosigned(note: str, name: str, keys: Collection[VerifyingKey]) -> Cosigned:
    """Verify a witness's cosignature on a checkpoint. Who signed the checkpoint itself is not looked at.

    Args:
        note: The whole note.
        name: The witness's name.
        keys: The keys to believe under that name.

    Returns:
        What is vouched for, by the first good cosignature.

    Raises:
        RecordError: It is no checkpoint, or a cosignature is malformed.
        UntrustedKeyError: None of the keys has cosigned it.
        BadSignatureError: A cosignature of one of the keys does not hold.
    """
    text, signatures = _take_apart(note)
    known = {cosigner_hash(name, key): key for key in keys}
    found: Cosigned | None = None
    for claimed_name, claimed_hash, signature in signatures:
        key = known.get(claimed_hash)
        if claimed_name != name or key is None:
            continue
        seconds = int.from_bytes(signature[:8], "big")
        if len(signature) != 8 + 64 or seconds > _MAX_SECONDS:
            raise RecordError(f"the cosignature of {name} is malformed")
        if not key.is_signature(signature[8:], _cosigned_message(text, seconds)):
            raise BadSignatureError(f"the cosignature of {name} does not fit the checkpoint")
        found = found or Cosigned(_checkpoint_from(text), key, datetime.fromtimestamp(seconds, UTC))
    if found is None:
        raise UntrustedKeyError(
            f"no trusted key of {name} has cosigned the checkpoint",
            next_step="Check that the acknowledgement and the trust root come from the same vendor.",
        )
    return found


def sign_extended(checkpoint: Checkpoint, lines: Sequence[str], key: SigningKey) -> str:
    """A checkpoint with extension lines, signed under its origin: a statement that says more than the log's state.

    `open_checkpoint` refuses it, so no statement is ever taken for the plain checkpoint of a record folder.

    Raises:
        RecordError: A line is empty or holds what a note cannot hold, or there is none.
    """
    if not lines or any(not line or "\n" in line for line in lines):
        raise RecordError("an extended checkpoint needs lines, none of them empty")
    return sign_note(checkpoint.to_text() + "".join(f"{line}\n" for line in lines), checkpoint.origin, key)


def open_extended(note: str, keys: Mapping[str, VerifyingKey]) -> tuple[Checkpoint, tuple[str, ...]]:
    """Verify a signed checkpoint that may have extension lines, and read it.

    Args:
        note: The whole note.
        keys: The keys to believe, by name; the name of a device's key is its origin.

    Returns:
        The checkpoint, and its extension lines.

    Raises:
        RecordError: It is no checkpoint.
        UntrustedKeyError: None of the keys has signed it.
        BadSignatureError: A signature of one of the keys does not hold.
    """
    return _split(open_note(note, keys))


def unverified_extended(note: str) -> tuple[Checkpoint, tuple[str, ...]]:
    """Read a checkpoint that may have extension lines, without believing it.

    Raises:
        RecordError: It is no checkpoint.
    """
    return _split(_take_apart(note)[0])


def unverified_checkpoint(text: str) -> Checkpoint:
    """Read a checkpoint without believing it.

    Raises:
        RecordError: It is no checkpoint.
    """
    return _checkpoint_from(_take_apart(text)[0])


def _hash_of(name: str, key: VerifyingKey, kind: bytes) -> bytes:
    return hashlib.sha256(name.encode("utf-8") + b"\n" + kind + key.raw).digest()[:4]


def _cosigned_message(text: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


def _take_apart(note: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    if len(note) > MAX_NOTE_BYTES or _FOREIGN.search(note) is not None:
        raise RecordError("this is no signed note: too long, or with characters that a note cannot hold")
    head, blank, tail = note.rpartition("\n\n")
    if not blank or not tail.endswith("\n"):
        raise RecordError("this is no signed note: a text, a blank line and signatures are wanted")
    lines = tail[:-1].split("\n")
    if not 1 <= len(lines) <= MAX_SIGNATURES:
        raise RecordError(f"a note with {len(lines)} signatures is not accepted")
    if len(set(lines)) != len(lines):
        raise RecordError("a note bears the same signature twice")
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


def _split(text: str) -> tuple[Checkpoint, tuple[str, ...]]:
    lines = text.removesuffix("\n").split("\n")
    if "" in lines:
        raise RecordError("a checkpoint must not hold an empty line")
    return _checkpoint_from("".join(f"{line}\n" for line in lines[:3])), tuple(lines[3:])


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
