"""Taking in what devices tell: a usage report from the wire, or a bundle of records by any road.

Invariants:

* Bytes are verified with the key that was pinned at enrolment before a word of them is believed, and what is new is
  verified in full before anything is stored.
* One arrival is one transaction: what is billed, the acknowledgement, the licence in it and the audit trail are there
  together, or not at all. Whoever is cut off sends the same again.
* What was billed is durable before the answer leaves. A refusal leaves its finding or its proof, and bills nothing.
* An arrival has the time at which it is written, and time does not run back: what was told of a closed month stays.
* A bundle never takes the last of the disk: what it unpacks to is counted before a byte is written.
* An acknowledgement covers what was billed and is proven to continue the log from its first entry on; the same bundle
  again gives the same file again.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from licenses import issue
from licenses.ack import Ack, acknowledge, recall_ack
from licenses.authority.accounting import Accounting
from licenses.authority.accounts import Accounts, Subscription
from licenses.authority.arrivals import Billed, Evidence, Source
from licenses.authority.audit_trail import AuditTrail, Clock
from licenses.authority.bundle_records import BundleRecords, audited
from licenses.authority.database import RESERVE_BYTES, Database, Transaction
from licenses.authority.devices import Device
from licenses.authority.key_kinds import note_key_kind
from licenses.authority.licensing import IssuedLicense, Licensing
from licenses.authority.periods import commitment_period
from licenses.authority.vendor_keys import VendorKeys
from licenses.errors import (
    BusyError,
    ExchangeError,
    FileAccessError,
    LicensesError,
    MismatchError,
    OutOfQuotaError,
    RecordError,
    UnauthorizedUseError,
    UnknownStateError,
)
from licenses.model import LedgerAnchor
from licenses.revocation import open_revocation
from licenses.usage_log.bundle import MANIFEST_NAME, Span, unpack_bundle
from licenses.usage_log.note import unverified_checkpoint
from licenses.usage_log.report import Finding, Severity
from licenses.usage_report import UsageRequest, open_report, unverified_origin

MAX_BUNDLE_BYTES = 1024**3
"""The largest bundle that is looked at, in bytes."""
MAX_UNPACKED_BYTES = 16 * 1024**3
"""The most that one may unpack to, in bytes."""

_CLOCK_NOTES = {"clock_entries", "clock_reset", "quarantine_entries"}
_WORKSPACE = "intake-"
_LOCK = ".lock"
_TRIES = 4
_RETRY_SECONDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What became of a usage report.

    Attributes:
        id: The report's id.
        origin: Whose log; None for a container that keeps none, whose use is billed unproved.
        since: The first entry that it tells of; 0 without a log.
        size: The entry after its last; 0 without a log.
        billed: Units billed for the first time, per meter.
        repeated: Whether nothing of it was new.
    """

    id: str
    origin: str | None
    since: int
    size: int
    billed: Mapping[str, int]
    repeated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """What became of a bundle.

    Attributes:
        span: Which part of which log it carries.
        ack: The acknowledgement that goes back; of fewer entries while some are missing, which `missing` names.
        blob: Its file.
        license: The next licence, if one goes back with it.
        billed: Units billed for the first time, per meter.
        corrected: Units by which earlier reports were corrected, per meter; may be negative.
        repeated: Whether nothing of it was new, and all of it is what was known before.
        missing: The stretches of entries before its end that never arrived.
        findings: Gaps and clock findings of the audit, and what speaks against the books, for a person to judge.
        remarks: What else the clerk should know, such as why no licence goes back.
    """

    span: Span
    ack: Ack
    blob: bytes
    license: IssuedLicense | None
    billed: Mapping[str, int]
    corrected: Mapping[str, int]
    repeated: bool
    missing: tuple[tuple[int, int], ...]
    findings: tuple[Finding, ...]
    remarks: tuple[str, ...]


class Intake:
    """Takes in reports and bundles.

    Args:
        database: Where everything is kept; bundles are unpacked beside it.
        trail: What changes are written to, in the name of who brings what arrives.
        accounts: Whose subscriptions.
        licensing: Whose devices, and the licences that go back.
        keys: What acknowledgements are signed with.
        clock: The vendor's time.
        max_bundle_bytes: The largest bundle that is looked at.
        max_unpacked_bytes: The most that one may unpack to.
    """

    def __init__(  # noqa: PLR0917 - the five that it stands on, and the clock
        self,
        database: Database,
        trail: AuditTrail,
        accounts: Accounts,
        licensing: Licensing,
        keys: VendorKeys,
        clock: Clock,
        *,
        max_bundle_bytes: int = MAX_BUNDLE_BYTES,
        max_unpacked_bytes: int = MAX_UNPACKED_BYTES,
    ) -> None:
        self._database = database
        self._accounts = accounts
        self._licensing = licensing
        self._keys = keys
        self._clock = clock
        self._max_bundle_bytes = max_bundle_bytes
        self._max_unpacked_bytes = max_unpacked_bytes
        self._accounting = Accounting(database, trail)

    # ---- reports ----------------------------------------------------------------------------------------------------

    def take_report(self, subscription: Subscription, body: bytes) -> Received:
        """Take in a posted usage report, and bill what is new of it.

        Args:
            subscription: Whose key came with it.
            body: The public `usageRequestBody`, with the signed report of a container that keeps a log.

        Raises:
            UnauthorizedUseError: The subscription is not approved.
            MismatchError: It is of another container type, or of a device of another subscription or none.
            ConflictError: The same id, or a part of the same entries, came before with other content.
            ForkError: The log is not the one that is known.
            OutOfQuotaError: It was taken in; but the commitment is used up, and the tier allows no overage.
            LicensesError: It is malformed, or not signed by that device; or the database refuses.
        """
        request = UsageRequest.from_body(body)
        if not subscription.approved:
            raise UnauthorizedUseError(
                f"the subscription {subscription.id} is not approved for {subscription.container_type}"
            )
        if _service(request.container_type) != _service(subscription.container_type):
            raise MismatchError(
                f"the subscription {subscription.id} is for {subscription.container_type}, not for "
                f"{request.container_type[:64]!r}"
            )
        if request.report is None:
            return self._take_plain(subscription, request)
        return self._take_proven(subscription, request, request.report)

    def _take_plain(self, subscription: Subscription, request: UsageRequest) -> Received:
        with self._database.writing() as tx:
            at = self._accounting.arrives_at(tx, subscription, self._clock())
            note_key_kind(tx, self._keys, at)
            done = self._accounting.reports.bill_plain(tx, subscription, request, at=at)
            spent = self._out_of_quota(tx, subscription, at)
        if isinstance(done, LicensesError):
            raise done
        if spent is not None:
            raise spent
        return Received(id=request.id, origin=None, since=0, size=0, billed=done.billed, repeated=done.repeated)

    def _take_proven(self, subscription: Subscription, request: UsageRequest, envelope: bytes) -> Received:
        device = self._device_of(subscription, unverified_origin(envelope))
        report = open_report(envelope, device.verifying_key)
        request.require_same(report)
        with self._database.writing() as tx:
            at = self._accounting.arrives_at(tx, subscription, self._clock())
            note_key_kind(tx, self._keys, at)
            source = Source(report.origin, device.verifying_key, subscription)
            done = self._accounting.reports.bill_report(tx, source, report, at=at)
            self._licensing.devices.note_report(report.origin, at)
            spent = self._out_of_quota(tx, subscription, at)
        if isinstance(done, LicensesError):
            raise done
        if spent is not None:
            raise spent
        return Received(
            id=report.id,
            origin=report.origin,
            since=report.since,
            size=report.size,
            billed=done.billed,
            repeated=done.repeated,
        )

    def _out_of_quota(self, tx: Transaction, subscription: Subscription, at: datetime) -> OutOfQuotaError | None:
        """The answer to a report that was taken in beyond the commitment; asked before the commit, told after it."""
        tier = self._accounts.tier(subscription.tier)
        if tier.overage_allowed:
            return None
        period = commitment_period(tier.period, at.date()).label
        row = tx.one(
            """SELECT sum(quantity) AS used FROM billed_total
               WHERE subscription_id = ? AND meter = ? AND month BETWEEN ? AND ?""",
            [subscription.id, tier.meter, period, f"{period}~"],
        )
        used = 0 if row is None or row["used"] is None else int(row["used"])
        if used <= tier.quantity:
            return None
        return OutOfQuotaError(
            f"the report was taken in, but with {used:,} of {tier.quantity:,} {tier.meter} the commitment for "
            f"{period} is used up"
        )

    # ---- bundles ----------------------------------------------------------------------------------------------------

    def take_bundle(self, subscription: Subscription | None, path: Path, *, renew: bool = True) -> Acknowledged:
        """Take in a bundle, bill what is new of it, and acknowledge it; with the next licence if one is due.

        Args:
            subscription: Whose key came with it; None for a clerk, to whom any enrolled device will do.
            path: The bundle.
            renew: Whether to send the next licence along when it is due.

        Raises:
            UnauthorizedUseError: The subscription is not approved.
            MismatchError: The device is not known, or belongs to another subscription.
            ForkError: The log is not the one that is known.
            RecordError: The bundle is damaged or too large, or its records do not bear out its checkpoint.
            ExchangeError: It was taken in; but nothing can be acknowledged while entries before it are missing.
            BusyError: Others wrote to the books of this log all the while.
            UnknownStateError: The disk is full, or the database refuses; nothing was kept.
            LicensesError: It is not signed by that device, or the acknowledgement cannot be signed.
        """
        if subscription is not None and not subscription.approved:
            raise UnauthorizedUseError(
                f"the subscription {subscription.id} is not approved for {subscription.container_type}"
            )
        self._require_size(path)
        with _workspace(self._database.path.parent) as folder:
            device, span = self._unpack(subscription, path, folder)
            digest = hashlib.sha256((folder / MANIFEST_NAME).read_bytes()).digest()
            records = BundleRecords(folder / span.folder, span)
            source = Source(
                span.origin,
                device.verifying_key,
                subscription or self._accounts.subscription(device.subscription_id),
            )
            findings: tuple[Finding, ...] = ()
            if not self._accounting.is_known(digest):
                findings = tuple(
                    one
                    for one in audited(folder, span, device.verifying_key, self._keys.trust_root)
                    if one.severity is Severity.GAP or one.code in _CLOCK_NOTES
                )
            for _ in range(_TRIES):
                done = self._bill_bundle(source, records, findings, digest=digest, renew=renew)
                if isinstance(done, LicensesError):
                    raise done
                if done is not None:
                    return done
        raise BusyError(f"the books of {span.origin} are written to by others", retry_after=_RETRY_SECONDS)

    def _bill_bundle(
        self,
        source: Source,
        records: BundleRecords,
        findings: tuple[Finding, ...],
        *,
        digest: bytes,
        renew: bool,
    ) -> Acknowledged | LicensesError | None:
        """Bill and acknowledge; None when something else of the log arrived meanwhile, and all is to be read again."""
        span, accounting = records.span, self._accounting
        version = accounting.version(source.origin)
        evidence = None
        if not accounting.is_known(digest):
            evidence = Evidence(
                span=span,
                digest=digest,
                note=records.note(source.key),
                since_root=records.since_root,
                since_note=records.since_note(source.key),
                cells=tuple(records.cells(accounting.cuts(source.origin, span.since, span.size))),
                carried=self._carried(source, records),
                findings=findings,
                consistency=records.consistency,
            )
        with self._database.writing() as tx:
            if accounting.version(source.origin) != version:
                return None
            # Not before: while a bundle is verified, or waits for its turn, a statement may close.
            at = accounting.arrives_at(tx, source.subscription, self._clock())
            note_key_kind(tx, self._keys, at)
            if evidence is None:
                done = accounting.bundles.known_before(tx, source, span)
            else:
                outcome = accounting.bundles.bill_bundle(tx, source, evidence, at=at)
                if isinstance(outcome, LicensesError):
                    return outcome
                done = outcome
            self._licensing.devices.note_report(source.origin, at)
            missing = tuple(accounting.acknowledgements.missing(tx, source.origin, span.size))
            given = self._acknowledge(tx, source, records, at=at, renew=renew)
        if given is None:
            return ExchangeError(
                f"the entries [{span.since}, {span.size}) were taken in, but nothing can be acknowledged: the entries "
                f"[{missing[0][0]}, {missing[0][1]}) never arrived"
                if missing
                else f"the entries [{span.since}, {span.size}) were taken in, but nothing can be acknowledged: it is "
                "not proven that they continue those before"
            )
        ack, blob, lic, remarks = given
        return Acknowledged(
            span=span,
            ack=ack,
            blob=blob,
            license=lic,
            billed=done.billed,
            corrected=done.corrected,
            repeated=done.repeated,
            missing=missing,
            findings=(*findings, *done.findings),
            remarks=(*_not_believed(done), *remarks),
        )

    def _carried(self, source: Source, records: BundleRecords) -> Ack | None:
        since = records.span.since
        if not since:
            return None
        known = self._accounting.knows(source.origin, since)
        return records.carried_ack(source.key, self._keys.trust_root, known=known)

    def _unpack(self, subscription: Subscription | None, path: Path, folder: Path) -> tuple[Device, Span]:
        keys = [device.verifying_key for device in self._licensing.devices.all()]
        span = unpack_bundle(
            path,
            folder,
            device_keys=keys,
            pinned_only=True,
            max_bytes=self._max_unpacked_bytes,
            before_writing=lambda coming: _require_room(folder.parent, coming),
        ).span
        return self._device_of(subscription, span.origin), span

    def _device_of(self, subscription: Subscription | None, origin: str) -> Device:
        device = self._licensing.devices.one(origin)
        if subscription is not None and device.subscription_id != subscription.id:
            raise MismatchError(f"the device {origin} belongs to another subscription")
        return device

    def _require_size(self, path: Path) -> None:
        try:
            size = path.stat().st_size
        except OSError as exc:
            raise FileAccessError.from_os_error(exc, path, doing="read the bundle", mode="0644") from exc
        if size > self._max_bundle_bytes:
            raise RecordError(
                f"the bundle has {size:,} bytes, the limit is {self._max_bundle_bytes:,}",
                next_step="Have it exported in parts: 'sidecar usage export' carries what was not acknowledged yet.",
            )

    # ---- acknowledgements -------------------------------------------------------------------------------------------

    def acknowledgement(self, subscription: Subscription, origin: str, size: int | None) -> bytes:
        """The acknowledgement of a log at a size, or the newest that can be given.

        Args:
            subscription: Whose key asks.
            origin: Whose log.
            size: Number of entries; None for as many as can be acknowledged.

        Raises:
            MismatchError: The device is not known, or belongs to another subscription.
            ExchangeError: Nothing can be acknowledged there.
            LicensesError: It cannot be signed, or the database refuses.
        """
        device = self._device_of(subscription, origin)
        at = self._clock()
        with self._database.writing() as tx:
            if size is None:
                size = self._ackable(tx, origin)
            if size is None or (
                self._accounting.acknowledgements.newest(tx, origin, size) is None
                and not self._accounting.acknowledgements.is_ackable(tx, origin, size)
            ):
                raise ExchangeError(
                    f"nothing of the log {origin} can be acknowledged"
                    + ("" if size is None else f" at {size} entries")
                    + ": its use is not known from the first entry on, or not proven to be of one history",
                )
            return self._ack_with(tx, Source(origin, device.verifying_key, subscription), size, None, at)[1]

    def _ackable(self, tx: Transaction, origin: str) -> int | None:
        found = self._accounting.acknowledgements.ackable(tx, origin)
        return None if found is None else found[0]

    def _acknowledge(
        self, tx: Transaction, source: Source, records: BundleRecords, *, at: datetime, renew: bool
    ) -> tuple[Ack, bytes, IssuedLicense | None, tuple[str, ...]] | None:
        """The acknowledgement that goes back with a bundle, the licence in it, and remarks; None if there is none."""
        origin, span = source.origin, records.span
        size = (
            span.size
            if self._accounting.acknowledgements.newest(tx, origin, span.size) is not None
            else self._ackable(tx, origin)
        )
        if size is None:
            return None
        remarks: list[str] = []
        if size < span.size:
            remarks.append(f"Only {size:,} entries are acknowledged: some before those of the bundle never arrived.")
        root = unverified_checkpoint(self._accounting.acknowledgements.note(tx, origin, size) or "").root
        self._licensing.devices.note_checkpoint(LedgerAnchor(origin=origin, size=size, root=root))
        lic: IssuedLicense | None = None
        if renew:
            try:
                lic = self._next_license(source, records)
            except (BusyError, UnknownStateError):
                raise
            except LicensesError as exc:
                remarks.append(f"No licence goes back: {exc}. {exc.next_step}")
        ack, blob = self._ack_with(tx, source, size, lic, at)
        return ack, blob, lic, tuple(remarks)

    def _next_license(self, source: Source, records: BundleRecords) -> IssuedLicense | None:
        """The licence that follows the one that the device had when the bundle's last window closed."""
        due = self._licensing.next_if_due(source.subscription.id, source.origin)
        if due is not None:
            return due
        newest = self._licensing.licenses(source.subscription.id, origin=source.origin)[:1]
        if newest and (newest[0].license_id, newest[0].sequence) != records.licence_at_end():
            return newest[0]
        return None

    def _ack_with(
        self, tx: Transaction, source: Source, size: int, lic: IssuedLicense | None, at: datetime
    ) -> tuple[Ack, bytes]:
        """The same file again; made anew only when it would say something else now, or its key is no longer good."""
        kept = self._accounting.acknowledgements.newest(tx, source.origin, size)
        if kept is None:
            return self._sign(tx, source, size, at, lic=lic, revocation=self._revocation(None, at))
        ack = recall_ack(kept, source.key)
        revocation = self._revocation(ack.revocation, at)
        wanted = ack.license if lic is None else lic.blob
        totals = self._accounting.acknowledgements.totals(tx, source.origin, size)
        good = ack.key_id in self._keys.trust_root.ack_keys
        if good and (wanted, revocation, totals) == (ack.license, ack.revocation, dict(ack.totals)):
            return ack, kept
        return self._sign(tx, source, size, at, lic=lic, kept=ack.license, revocation=revocation)

    def _revocation(self, kept: bytes | None, at: datetime) -> bytes | None:
        """The list of what is revoked, if there is one; the same file as before, as long as it says all."""
        issuer = self._keys.issuer()
        if issuer.revoked.sequence == 0:
            return kept
        if kept is not None:
            with contextlib.suppress(LicensesError):
                if open_revocation(kept, self._keys.trust_root).revoked.sequence >= issuer.revoked.sequence:
                    return kept
        return issue.seal_revocation(issuer, at=at)

    def _sign(
        self,
        tx: Transaction,
        source: Source,
        size: int,
        at: datetime,
        *,
        lic: IssuedLicense | None,
        revocation: bytes | None,
        kept: bytes | None = None,
    ) -> tuple[Ack, bytes]:
        note = self._accounting.acknowledgements.note(tx, source.origin, size)
        if note is None:
            raise UnknownStateError(f"the checkpoint of {source.origin} at {size} entries is not in the database")
        key = self._keys.ack_key()
        ack = acknowledge(
            note,
            device=source.key,
            key=key,
            trust_root=self._keys.trust_root,
            at=at,
            totals=self._accounting.acknowledgements.totals(tx, source.origin, size),
            license_file=kept if lic is None else lic.blob,
            revocation=revocation,
            time_anchor=at,
        )
        blob = ack.seal(key) + b"\n"
        self._accounting.acknowledgements.keep(tx, ack, blob)
        return ack, blob


def _not_believed(done: Billed) -> tuple[str, ...]:
    if done.unbelieved is None:
        return ()
    since, size = done.unbelieved
    return (
        f"The entries [{since:,}, {size:,}) of it were not believed, and nothing of them was billed: they end inside "
        "of what is known. Ask which machine they are from; 'licenses authority reconcile' lists what was found.",
    )


def _service(container_type: str) -> str:
    """The service that a container type names: "computervisionread" and "ComputerVision.ComputerVisionRead" are one."""
    return container_type.rpartition(".")[2].casefold()


@contextlib.contextmanager
def _workspace(beside: Path) -> Iterator[Path]:
    """A folder to unpack into; what an intake that was killed left behind is removed first.

    Raises:
        UnknownStateError: It cannot be made, written or read.
    """
    try:
        _sweep(beside)
        lock, name = tempfile.mkstemp(prefix=_WORKSPACE, suffix=_LOCK, dir=beside)
    except OSError as exc:
        raise _unusable(beside, exc) from exc
    folder = Path(name.removesuffix(_LOCK))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder.mkdir(mode=0o700)
        yield folder
    except FileAccessError as exc:
        if not exc.path.is_relative_to(folder):
            raise
        raise _unusable(beside, exc) from exc
    except OSError as exc:
        raise _unusable(beside, exc) from exc
    finally:
        _remove(folder, Path(name))
        os.close(lock)


def _require_room(beside: Path, coming: int) -> None:
    """A few bytes unpack to very many, and the database needs the disk that they would fill."""
    free = shutil.disk_usage(beside).free
    if free < coming + RESERVE_BYTES:
        raise UnknownStateError(
            f"the bundle unpacks to {coming:,} bytes; of the {free:,} that are free on the database's disk, "
            f"{RESERVE_BYTES:,} are left to the database",
            next_step=f"Free some space on {beside}, then send the same again: nothing of it was kept.",
        )


def _unusable(beside: Path, exc: OSError | FileAccessError) -> UnknownStateError:
    return UnknownStateError(
        f"the bundle cannot be unpacked in {beside}: {exc}",
        next_step=f"Free some space on {beside}, then send the same again: nothing of it was kept.",
    )


def _sweep(beside: Path) -> None:
    for left in beside.glob(f"{_WORKSPACE}*{_LOCK}"):
        with contextlib.suppress(OSError):
            lock = os.open(left, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(Path(str(left).removesuffix(_LOCK)), left)
            finally:
                os.close(lock)


def _remove(folder: Path, lock: Path) -> None:
    """Remove a workspace; as long as something of it is left, its lock tells the next intake to try again."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        if not folder.exists():
            lock.unlink()
