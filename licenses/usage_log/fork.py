"""The proof of a fork: two statements of one device that cannot both be true of one growing log.

It convinces whoever holds the device's public key, and nobody has to be believed who made it. There are three kinds:

* two checkpoints of one size with different roots;
* two checkpoints of different sizes, and the root that the larger log has at the smaller size, which differs: a
  consistency proof ties that root to the larger checkpoint;
* a checkpoint whose extension line says that the device had seen a larger one of its own ("seen <size> <root>"): its
  log was rolled back.

Invariant: what an honest log could have signed is refused as proving nothing: one statement twice, or honest growth.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from licenses.device_key import device_id_of
from licenses.errors import FormatError, RecordError, UntrustedKeyError
from licenses.keys import SigningKey, VerifyingKey, read_small_file
from licenses.strict_json import Fields, canonical, parse_object
from licenses.usage_log.merkle import verify_consistency
from licenses.usage_log.note import MAX_NOTE_BYTES, Checkpoint, open_extended, sign_extended, unverified_extended

MAX_FORK_BYTES = 256 * 1024

_SEEN = "seen"
_SIZE = re.compile(r"[1-9][0-9]{0,15}")
_ROOT = re.compile(r"[A-Za-z0-9+/]{43}=")


class ForkKind(StrEnum):
    """What contradicts what; the values are wire format."""

    SAME_SIZE = "same_size"
    OTHER_PAST = "other_past"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """A proven fork.

    Attributes:
        kind: What contradicts what.
        first: The checkpoint of the smaller size.
        second: The other.
        root: What the log of the second has at the size of the first; None when it was rolled back.
    """

    kind: ForkKind
    first: Checkpoint
    second: Checkpoint
    root: bytes | None

    @property
    def origin(self) -> str:
        """Whose log forked."""
        return self.first.origin

    @property
    def reason(self) -> str:
        """What is proven, in one sentence."""
        if self.kind is ForkKind.ROLLED_BACK:
            return (
                f"The device signed a log of {self.first.size} entries after it had seen its own checkpoint of "
                f"{self.second.size}: it was restored from an older copy."
            )
        return (
            f"The device signed two different histories of its first {self.first.size} entries: it was copied, or "
            "restored from an older copy and used on."
        )


def prove_fork(
    one: str, other: str, device: VerifyingKey, *, root: bytes | None = None, proof: Sequence[bytes] = ()
) -> bytes:
    """Make the proof of a fork, and check it.

    Args:
        one: A checkpoint that the device signed; may have extension lines.
        other: Another one.
        device: The device's key.
        root: For different sizes, what the larger log has at the smaller size.
        proof: The consistency proof that ties it to the larger checkpoint.

    Returns:
        The file.

    Raises:
        RecordError: It proves nothing.
        LicensesError: A signature does not hold.
    """
    first, second = sorted((one, other), key=lambda note: (unverified_extended(note)[0].size, note))
    members: dict[str, object] = {"schema": 1, "first": _text(first), "second": _text(second)}
    if root is not None:
        members |= {"root": root.hex(), "proof": [one_hash.hex() for one_hash in proof]}
    blob = canonical(members) + b"\n"
    verify_fork(blob, device)
    return blob


def confess_rollback(here: Checkpoint, seen: Checkpoint, key: SigningKey) -> str:
    """Sign what the log is, knowing that it was longer: for `prove_fork`, together with the checkpoint that was seen.

    Raises:
        RecordError: The other is not a longer state of the same log.
    """
    if here.origin != seen.origin or here.size >= seen.size:
        raise RecordError("a log is rolled back only from a longer state of itself")
    root = base64.b64encode(seen.root).decode("ascii")
    return sign_extended(here, [f"{_SEEN} {seen.size} {root}"], key)


def verify_fork(blob: bytes, device: VerifyingKey) -> Fork:
    """Check the proof of a fork.

    Args:
        blob: The file.
        device: The device's public key, known otherwise than from the file.

    Raises:
        RecordError: It is malformed, or proves nothing.
        UntrustedKeyError: The statements are not of this device.
        BadSignatureError: A signature does not hold.
    """
    try:
        fields = parse_object(blob, what="fork proof", max_bytes=MAX_FORK_BYTES)
        fields.integer("schema", minimum=1, maximum=1)
        notes = _note_from(fields, "first"), _note_from(fields, "second")
        root: bytes | None = None
        proof: tuple[bytes, ...] = ()
        if fields.has("root"):
            root = fields.hex_bytes("root", length=32)
            proof = tuple(_hash_from(text) for text in fields.texts("proof", max_length=64))
        fields.end()
    except FormatError as exc:
        raise RecordError(f"the fork proof is malformed: {exc}") from exc
    (first, lines), (second, _) = (_opened(note, device) for note in notes)
    if first.origin != second.origin:
        raise RecordError(f"the two checkpoints are of different logs: {first.origin} and {second.origin}")
    return Fork(kind=_kind(first, lines, second, root, proof), first=first, second=second, root=root)


def read_fork_file(path: Path) -> bytes:
    """Read a fork proof, unverified.

    Raises:
        KeyFileError: It cannot be read.
        FormatError: It is too long.
    """
    return read_small_file(path, doing="read the fork proof", mode="0644", max_bytes=MAX_FORK_BYTES)


def fork_name(origin: str, one: int, other: int) -> str:
    """The file name of a fork proof, by the sizes of its two checkpoints."""
    first, second = sorted((one, other))
    return f"fork-{origin.replace('/', '-')}-{first}-{second}.json"


def _kind(
    first: Checkpoint, lines: Sequence[str], second: Checkpoint, root: bytes | None, proof: Sequence[bytes]
) -> ForkKind:
    if first.size > second.size:
        raise RecordError("the fork proof's checkpoints are not in the order of their sizes")
    if first.size == second.size:
        if first.root == second.root or root is not None:
            raise RecordError("the two checkpoints are of one and the same history: this proves nothing")
        return ForkKind.SAME_SIZE
    if root is None:
        if _seen_in(lines, first.origin) != second:
            raise RecordError("a log that grew honestly has two such checkpoints: this proves nothing")
        return ForkKind.ROLLED_BACK
    if first.size == 0 or root == first.root:
        raise RecordError("the larger log continues the smaller one: this proves nothing")
    verify_consistency(old_size=first.size, old_root=root, new_size=second.size, new_root=second.root, proof=proof)
    return ForkKind.OTHER_PAST


def _seen_in(lines: Sequence[str], origin: str) -> Checkpoint | None:
    for line in lines:
        word, _, rest = line.partition(" ")
        size, _, root = rest.partition(" ")
        if word == _SEEN and _SIZE.fullmatch(size) and _ROOT.fullmatch(root):
            return Checkpoint(origin, int(size), base64.b64decode(root))
    return None


def _opened(note: str, device: VerifyingKey) -> tuple[Checkpoint, tuple[str, ...]]:
    origin = unverified_extended(note)[0].origin
    if origin.rpartition("/")[2] != device_id_of(device.raw):
        raise UntrustedKeyError(
            f"the checkpoint is of {origin}, not of the device {device_id_of(device.raw)}",
            next_step="Give the public key of the device that the proof names.",
        )
    return open_extended(note, {origin: device})


def _note_from(fields: Fields, name: str) -> str:
    text = fields.text(name, max_length=2 * MAX_NOTE_BYTES)
    try:
        note = base64.b64decode(text.encode("ascii"), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeError) as exc:
        raise FormatError(f"{name} is not a note in base64") from exc
    if _text(note) != text:
        raise FormatError(f"{name} is not in plain base64")
    return note


def _hash_from(text: str) -> bytes:
    return Fields({"hash": text}, "proof").hex_bytes("hash", length=32)


def _text(note: str) -> str:
    return base64.b64encode(note.encode("utf-8")).decode("ascii")
