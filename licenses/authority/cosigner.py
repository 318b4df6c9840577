"""The exchange by files alone: verify a bundle, compare it with the acknowledgements in a folder, cosign.

Invariants:

* Nothing is acknowledged that the pinned device key did not sign, that the records do not bear out entry by entry, or
  that does not continue what was acknowledged before.
* What was acknowledged is remembered, durably, before the acknowledgement is handed out; what is billed are the
  entries behind the last acknowledgement, so a second upload bills nothing.
* The same bundle again gives the same file again. A fork gives a proof, and nothing else.
"""

import contextlib
import fcntl
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from licenses import durable, issue
from licenses.ack import Ack, ack_name, acknowledge, is_ack_name, open_ack, read_ack_file, recall_ack
from licenses.authority.bundle_records import BundleRecords, audited
from licenses.errors import (
    ExchangeError,
    ForkError,
    IssueError,
    KeyFileError,
    UntrustedKeyError,
)
from licenses.host import Bindings
from licenses.keyring import TrustRoot
from licenses.keys import SigningKey, VerifyingKey
from licenses.model import LedgerAnchor
from licenses.revocation import open_revocation
from licenses.usage_log.bundle import Span, unpack_bundle
from licenses.usage_log.fork import fork_name, prove_fork
from licenses.usage_log.report import Finding
from licenses.verify import Standing, judge, open_license

_LOCK_NAME = ".lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Enclosures:
    """What goes back with an acknowledgement.

    Attributes:
        license: The next licence file.
        revocation: A revocation file.
        anchor: Whether to vouch that the time of the acknowledgement has passed.
    """

    license: bytes | None = None
    revocation: bytes | None = None
    anchor: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """What became of a bundle.

    Attributes:
        ack: The acknowledgement.
        blob: Its file.
        span: Which part of which log the bundle carries.
        billed_from: The first entry that is acknowledged for the first time.
        billed: Units in the entries from there on, per meter; nothing when the bundle was acknowledged before.
        repeated: Whether the bundle was acknowledged before.
        findings: Gaps and notes of the audit, for a person to judge.
    """

    ack: Ack
    blob: bytes
    span: Span
    billed_from: int
    billed: Mapping[str, int]
    repeated: bool
    findings: tuple[Finding, ...]


class KnownAcks:
    """The vendor's memory: a folder of the acknowledgements given so far.

    It is the vendor's own, so a file in it counts although its ack key may have been replaced since; but only as far
    as the device itself signed the checkpoint in it.

    Args:
        folder: Made if it is not there; None remembers nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others out, so that two bundles of one forked log are not both acknowledged.

        Raises:
            KeyFileError: The folder cannot be used.
        """
        if self._folder is None:
            yield
            return
        try:
            durable.make_folders(self._folder, mode=0o700)
            descriptor = os.open(self._folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise _unusable(exc, self._folder) from exc
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def of(self, origin: str, device: VerifyingKey, trust_root: TrustRoot) -> list[tuple[Ack, bytes]]:
        """All acknowledgements of a log with their files, the smallest first.

        Raises:
            LicensesError: One of them cannot be read, or was changed.
        """
        if self._folder is None:
            return []
        prefix = ack_name(origin, 0).removesuffix("0.dsse.json")
        try:
            paths = [path for path in self._folder.iterdir() if path.name.startswith(prefix) and is_ack_name(path.name)]
        except OSError as exc:
            raise _unusable(exc, self._folder) from exc
        found = []
        for path in paths:
            blob = read_ack_file(path)
            try:
                ack = open_ack(blob, trust_root, device=device)
            except UntrustedKeyError:
                ack = recall_ack(blob, device)
            found.append((ack, blob))
        return sorted(found, key=lambda one: one[0].size)

    def keep(self, ack: Ack, blob: bytes) -> None:
        """Remember an acknowledgement, durably.

        Raises:
            KeyFileError: The folder cannot be written.
        """
        if self._folder is None:
            return
        try:
            durable.write_file(self._folder / ack.file_name, [blob], mode=0o600, overwrite=True)
        except OSError as exc:
            raise _unusable(exc, self._folder) from exc


class Cosigner:
    """The vendor, as it judges the bundles of one device.

    Args:
        device: The device's key, pinned: from its enrolment, not from the bundle.
        trust_root: The vendor's.
        key: An ack key of the trust root.
        known: What was acknowledged so far.
        enrolled_at: The checkpoint that the device showed when it was enrolled.
    """

    def __init__(
        self,
        *,
        device: VerifyingKey,
        trust_root: TrustRoot,
        key: SigningKey,
        known: KnownAcks,
        enrolled_at: LedgerAnchor | None = None,
    ) -> None:
        self._device = device
        self._trust_root = trust_root
        self._key = key
        self._known = known
        self._enrolled_at = enrolled_at

    def acknowledge(self, path: Path, *, at: datetime, enclosures: Enclosures) -> Acknowledged:
        """Verify a bundle and acknowledge it.

        Args:
            path: The bundle.
            at: The vendor's time, aware UTC, to the second.
            enclosures: What to send along.

        Raises:
            ForkError: The log is not the one that was acknowledged.
            ExchangeError: The bundle is older than the last acknowledgement, or begins behind it.
            RecordError: The bundle is damaged, or its records do not bear out its checkpoint.
            IssueError: What is to be sent along must not be.
            LicensesError: A file cannot be read or written, or is not signed by this device.
        """
        with self._known.locked(), tempfile.TemporaryDirectory(prefix="acknowledge-") as workspace:
            span = unpack_bundle(path, Path(workspace), device_keys=[self._device]).span
            records = BundleRecords(Path(workspace) / span.folder, span)
            note = records.note(self._device)
            history = self._known.of(span.origin, self._device, self._trust_root)
            same = next((one for one in history if one[0].size == span.size), None)
            if same is not None:
                if same[0].root != span.root:
                    raise _forked(records, same[0].size, same[0].checkpoint, note, self._device)
                return self._repeat(same, span, note, at, enclosures)
            last = self._last(history, records)
            begins = 0 if last is None else last.size
            _require_continuation(span, begins)
            findings = audited(Path(workspace), span, self._device, self._trust_root)
            billed = self._compare(records, last, begins, note)
            self._check(enclosures, at, records)
            before: Mapping[str, int] = {} if last is None else last.totals
            ack, blob = self._sign(note, at, dict(Counter(before) + Counter(billed)), enclosures)
            return Acknowledged(
                ack=ack, blob=blob, span=span, billed_from=begins, billed=billed, repeated=False, findings=findings
            )

    def _repeat(
        self, same: tuple[Ack, bytes], span: Span, note: str, at: datetime, enclosures: Enclosures
    ) -> Acknowledged:
        """The same file again; made anew only when something else is to go with it, or its key is no longer good."""
        ack, blob = same
        wanted = replace(
            enclosures,
            license=enclosures.license or ack.license,
            revocation=enclosures.revocation or ack.revocation,
        )
        more = (wanted.license, wanted.revocation) != (ack.license, ack.revocation)
        if more or ack.key_id not in self._trust_root.ack_keys:
            self._check(wanted, at)
            ack, blob = self._sign(note, at, ack.totals, wanted)
        return Acknowledged(ack=ack, blob=blob, span=span, billed_from=span.size, billed={}, repeated=True, findings=())

    def _last(self, history: Sequence[tuple[Ack, bytes]], records: BundleRecords) -> Ack | None:
        """The newest acknowledgement: of those remembered, and of the one that the bundle itself follows."""
        known = any(ack.size == records.span.since for ack, _ in history)
        carried = records.carried_ack(self._device, self._trust_root, known=known)
        remembered = history[-1][0] if history else None
        if carried is None or (remembered is not None and remembered.size >= carried.size):
            return remembered
        return carried

    def _compare(self, records: BundleRecords, last: Ack | None, begins: int, note: str) -> dict[str, int]:
        """Refuse a log that is not the one known; return the units that nobody acknowledged yet."""
        claims = [] if last is None else [(last.size, last.root, last.checkpoint)]
        if self._enrolled_at is not None and self._enrolled_at.origin == records.span.origin:
            claims.append((self._enrolled_at.size, self._enrolled_at.root, ""))
        roots, billed = records.roots_and_sums({size for size, _, _ in claims}, begins)
        for size, root, theirs in claims:
            if roots.get(size, root) != root:
                raise _forked(records, size, theirs, note, self._device)
        return billed

    def _check(self, enclosures: Enclosures, at: datetime, records: BundleRecords | None = None) -> None:
        if enclosures.revocation is not None:
            open_revocation(enclosures.revocation, self._trust_root)
        if enclosures.license is None:
            return
        lic = open_license(enclosures.license, self._trust_root)
        judgement = judge(replace(lic, bindings=Bindings()), at=at, device_public=self._device.raw)
        if not judgement.serves and judgement.standing is not Standing.NOT_YET_VALID:
            raise IssueError(
                f"the next licence would not serve on this device: {judgement.reason}", next_step=judgement.next_step
            )
        anchor = lic.ledger_anchor
        if records is None or anchor is None:
            return
        roots, _ = records.roots_and_sums({anchor.size}, records.span.size)
        if (
            anchor.origin != records.span.origin
            or anchor.size > records.span.size
            or roots.get(anchor.size, anchor.root) != anchor.root
        ):
            raise IssueError(
                f"the next licence continues {anchor.origin} at {anchor.size} entries, which this log does not"
            )

    def _sign(self, note: str, at: datetime, totals: Mapping[str, int], enclosures: Enclosures) -> tuple[Ack, bytes]:
        ack = acknowledge(
            note,
            device=self._device,
            key=self._key,
            trust_root=self._trust_root,
            at=at,
            totals=totals,
            license_file=enclosures.license,
            revocation=enclosures.revocation,
            time_anchor=at if enclosures.anchor else None,
        )
        blob = ack.seal(self._key) + b"\n"
        self._known.keep(ack, blob)
        return ack, blob


def load_ack_key(folder: Path, trust_root: TrustRoot) -> SigningKey:
    """Read an ack key of the trust root from a vendor's folder.

    Raises:
        LicensesError: It cannot be read, or none is there.
    """
    for key_id, listed in trust_root.ack_keys.items():
        path = issue.key_path(folder, key_id)
        if path.exists():
            return issue.load_listed_key(path, listed, "ack")
    raise IssueError(
        f"no ack key of the trust root is in {folder}; looked for "
        + ", ".join(f"{key_id}.key" for key_id in trust_root.ack_keys),
        next_step="Give --keys the folder that 'licenses keygen' wrote.",
    )


def _require_continuation(span: Span, begins: int) -> None:
    if span.size < begins:
        raise ExchangeError(
            f"the bundle ends at entry {span.size}; up to {begins} was acknowledged before",
            next_step="Take the newest bundle. If this is the newest that the appliance can make, its ledger was "
            "restored from an older copy: have the last acknowledgement imported there, which proves it.",
        )
    if span.since > begins:
        raise ExchangeError(f"the bundle begins at entry {span.since}; acknowledged are {begins} entries")


def _forked(records: BundleRecords, size: int, theirs: str, note: str, device: VerifyingKey) -> ForkError:
    """The error, with the proof that ties the bundle's own history at `size` to its checkpoint."""
    span = records.span
    if not theirs:
        return ForkError(f"the first {size} entries of the log {span.origin} are not those that it had at enrolment")
    root, proof = (None, []) if size == span.size else records.consistency(size)
    return ForkError(
        f"the first {size} entries of the log {span.origin} are not those that were acknowledged",
        proof=prove_fork(theirs, note, device, root=root, proof=proof),
        name=fork_name(span.origin, size, span.size),
    )


def _unusable(exc: OSError, folder: Path) -> KeyFileError:
    return KeyFileError.from_os_error(exc, folder, doing="use the folder of acknowledgements", mode="u+rwx")
