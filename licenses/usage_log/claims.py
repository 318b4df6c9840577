"""What bears a signature: the checkpoints and acknowledgements of one log, verified, as claims on its entries.

The proofs of a fork that lie beside them are no claims on entries: one that holds is a finding by itself.

Invariants:

* A checkpoint is believed with the pinned device key alone, an acknowledgement with an ack key of the trust root alone;
  without a pinned key a checkpoint is a claim that proves nothing of whose it is.
* Each file in the folder that is not good is a finding; what the auditor gave and is not good is an error, before.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from licenses.ack import MAX_ACK_BYTES, Ack, open_ack
from licenses.device_key import device_id_of
from licenses.errors import FormatError, LicensesError, RecordError, UntrustedKeyError
from licenses.keyring import TrustRoot
from licenses.keys import VerifyingKey, read_small_file
from licenses.model import License
from licenses.usage_log.files import CHECKPOINT_NAME, CHECKPOINTS_FOLDER
from licenses.usage_log.fork import MAX_FORK_BYTES, verify_fork
from licenses.usage_log.note import MAX_NOTE_BYTES, Checkpoint, open_checkpoint, unverified_checkpoint
from licenses.usage_log.proof import Claim, Consistency, Find, Source
from licenses.usage_log.report import Severity

ACKS_FOLDER = "acks"
ACK_SUFFIX = ".dsse.json"
FORKS_FOLDER = "forks"
FORK_SUFFIX = ".json"
MAX_FORKS = 64

_NO_PROOF = (Severity.NOTE, "fork_unproven")
_SIZE_NAME = re.compile(r"0|[1-9][0-9]{0,15}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the auditor brings, from another source than the folder.

    Attributes:
        trust_root: The vendor whose records these should be.
        device_keys: Public keys of the devices, pinned.
        kept: A checkpoint from an earlier audit.
        manifest: The state of the log that the manifest of the bundle tells.
        acks: Acknowledgements, verified.
        licenses: Licences, verified; None when none were asked to be compared.
        proofs: Consistency proofs; they need no belief.
    """

    trust_root: TrustRoot
    device_keys: Sequence[VerifyingKey] = ()
    kept: Checkpoint | None = None
    manifest: Checkpoint | None = None
    acks: Sequence[Ack] = ()
    licenses: Sequence[License] | None = None
    proofs: Sequence[Consistency] = field(default_factory=tuple)

    def key_of(self, origin: str) -> VerifyingKey | None:
        """The pinned key of the device whose log that is."""
        return key_of(origin, self.device_keys)


def key_of(origin: str, device_keys: Sequence[VerifyingKey]) -> VerifyingKey | None:
    """The pinned key of the device whose log that is; None when none was pinned for it."""
    device = origin.rpartition("/")[2]
    return next((key for key in device_keys if device_id_of(key.raw) == device), None)


@dataclass(frozen=True, slots=True)
class SignedText:
    """A checkpoint file as it was read.

    Attributes:
        path: Where it lies.
        text: What it holds.
    """

    path: Path
    text: str


class SignedFiles:
    """The checkpoints, acknowledgements and proofs of a fork in one instance's folder.

    Args:
        folder: The instance's folder.
        find: Called with what is found.
    """

    def __init__(self, folder: Path, find: Find) -> None:
        self._folder = folder
        self._prefix = os.path.join(folder, "")
        self._find = find
        self.checkpoints = list(self._read_checkpoints())

    def origin(self) -> str:
        """The log that the checkpoints name, believed by nobody's word; empty when there is none."""
        for one in self.checkpoints:
            try:
                return unverified_checkpoint(one.text).origin
            except RecordError:
                continue
        return ""

    def claims(self, origin: str, key: VerifyingKey | None) -> Iterator[Claim]:
        """The checkpoints that hold.

        Args:
            origin: The log.
            key: The pinned key of its device, if there is one.
        """
        signed = 0
        for one in self.checkpoints:
            where = self._where(one.path)
            try:
                checkpoint = (
                    unverified_checkpoint(one.text) if key is None else open_checkpoint(one.text, {origin: key})
                )
            except RecordError as exc:
                self._find(Severity.TAMPERED, "checkpoint_format", where, f"The checkpoint is malformed: {exc}.")
                continue
            except LicensesError as exc:
                self._find(Severity.TAMPERED, "checkpoint_signature", where, f"{exc}.")
                continue
            signed += 1
            if checkpoint.origin != origin:
                self._find(Severity.TAMPERED, "other_origin", where, f"The checkpoint is of {checkpoint.origin}.")
                continue
            named = one.path.parent.name == CHECKPOINTS_FOLDER
            if named and (_SIZE_NAME.fullmatch(one.path.name) is None or int(one.path.name) != checkpoint.size):
                message = f"The checkpoint is of {checkpoint.size} entries."
                self._find(Severity.TAMPERED, "checkpoint_name", where, message)
            yield Claim(checkpoint.size, checkpoint.root, where, Source.CHECKPOINT)
        if key is not None and signed == 0:
            message = "No checkpoint here is signed by the pinned device key."
            self._find(Severity.TAMPERED, "no_seal", self._where(self._folder / CHECKPOINT_NAME), message)

    def acks(self, origin: str, given: Given, key: VerifyingKey | None) -> Iterator[tuple[str, Ack]]:
        """The acknowledgements of this log that hold: those given, and those in the folder; each with its name.

        Args:
            origin: The log.
            given: What the auditor brings.
            key: The pinned key of the log's device, if there is one.
        """
        for ack in given.acks:
            if ack.origin == origin:
                yield "the acknowledgement given", ack
        for path in self._listed(self._folder / ACKS_FOLDER):
            where = self._where(path)
            if not path.name.endswith(ACK_SUFFIX):
                self._find(Severity.NOTE, "foreign_file", where, "This is no acknowledgement; it was passed over.")
                continue
            blob = self._read(path, "read the acknowledgement", MAX_ACK_BYTES)
            found = None if blob is None else self._opened(blob, where, given.trust_root, key)
            if found is None:
                continue
            if found.origin == origin:
                yield where, found
            else:
                self._find(Severity.TAMPERED, "other_origin", where, f"The acknowledgement is of {found.origin}.")

    def find_forks(self, origin: str, key: VerifyingKey | None) -> None:
        """Look at the proofs that the log forked: the vendor sent them, and the appliance put them beside its records.

        One that does not hold accuses nobody, not even who put it there, and is noted.

        Args:
            origin: The log.
            key: The pinned key of its device, if there is one.
        """
        paths = self._listed(self._folder / FORKS_FOLDER)
        if len(paths) > MAX_FORKS:
            message = f"Of {len(paths)} files the first {MAX_FORKS} were looked at."
            self._find(Severity.NOTE, "forks_left_out", FORKS_FOLDER, message)
        for path in paths[:MAX_FORKS]:
            where = self._where(path)
            if not path.name.endswith(FORK_SUFFIX):
                self._find(Severity.NOTE, "foreign_file", where, "This is no proof of a fork; it was passed over.")
                continue
            if key is None:
                message = "A proof that the log forked was not checked, for no key of its device was pinned."
                self._find(Severity.NOTE, "fork_not_checked", where, message)
                continue
            blob = self._read(path, "read the fork proof", MAX_FORK_BYTES, malformed=_NO_PROOF)
            if blob is None:
                continue
            try:
                fork = verify_fork(blob, key)
                if fork.origin != origin:
                    raise RecordError(f"it is of {fork.origin}")
            except LicensesError as exc:
                self._find(*_NO_PROOF, where, f"The proof of a fork does not hold: {exc}.")
                continue
            self._find(Severity.TAMPERED, "fork", where, fork.reason)

    def _opened(self, blob: bytes, where: str, trust_root: TrustRoot, key: VerifyingKey | None) -> Ack | None:
        try:
            ack = open_ack(blob, trust_root)
        except UntrustedKeyError as exc:
            message = f"It was not compared, for no ack key of the trust root given vouches for it: {exc}."
            self._find(Severity.NOTE, "ack_untrusted", where, message)
            return None
        except LicensesError as exc:
            self._find(Severity.TAMPERED, "ack_format", where, f"The acknowledgement is not good: {exc}.")
            return None
        if key is not None:
            try:
                open_checkpoint(ack.checkpoint, {ack.origin: key})
            except LicensesError as exc:
                message = f"What was acknowledged is not what the pinned device signed: {exc}."
                self._find(Severity.TAMPERED, "ack_checkpoint", where, message)
                return None
        return ack

    def _read_checkpoints(self) -> Iterator[SignedText]:
        """All checkpoints, as text; the newest copy first."""
        newest = self._folder / CHECKPOINT_NAME
        for path in [*([newest] if os.path.lexists(newest) else []), *self._listed(self._folder / CHECKPOINTS_FOLDER)]:
            blob = self._read(path, "read the checkpoint", MAX_NOTE_BYTES)
            if blob is None:
                continue
            try:
                yield SignedText(path, blob.decode("utf-8"))
            except UnicodeDecodeError:
                self._find(Severity.TAMPERED, "checkpoint_format", self._where(path), "The checkpoint is not UTF-8.")

    def _read(
        self,
        path: Path,
        doing: str,
        max_bytes: int,
        *,
        malformed: tuple[Severity, str] = (Severity.TAMPERED, "checkpoint_format"),
    ) -> bytes | None:
        if path.is_symlink():
            self._find(Severity.UNREADABLE, "unreadable", self._where(path), "It is a symbolic link, and not followed.")
            return None
        try:
            return read_small_file(path, doing=doing, mode="0444", max_bytes=max_bytes)
        except FormatError as exc:
            self._find(*malformed, self._where(path), f"The file is malformed: {exc}.")
        except LicensesError as exc:
            self._find(Severity.UNREADABLE, "unreadable", self._where(path), f"{exc}.")
        return None

    def _listed(self, folder: Path) -> list[Path]:
        try:
            return sorted(
                (path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda one: one.name
            )
        except FileNotFoundError:
            return []
        except OSError as exc:
            message = f"It cannot be read: {exc.strerror or exc}."
            self._find(Severity.UNREADABLE, "unreadable", self._where(folder), message)
            return []

    def _where(self, path: Path) -> str:
        return os.fspath(path).removeprefix(self._prefix)
