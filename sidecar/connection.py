"""Connected mode: the meter's way to its vendor (ADR 29).

Invariants:

* The licence is the vendor's word, and lies in a folder of the meter's own: core and gate see a licence file and a
  lease, as without a network.
* A window is told of in one report, made of what is sealed: the same bytes at each try, under the same id. It counts as
  delivered when the endpoint has said so and the ledger has remembered it; a crash between the two delivers it again,
  which the vendor bills once. Windows go oldest first, and none is ever left out.
* Every stay with the endpoint is bounded, however much waits; what is left over goes at the next.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from licenses.device_key import DeviceKey
from licenses.durable import make_folders, write_file
from licenses.enrolment import enrol
from licenses.errors import LicensesError
from licenses.host import Bindings
from licenses.model import CONTAINER_TYPE, READ_PAGES_METER, License
from licenses.usage_log.merkle import Frontier, consistency_proof_from
from licenses.usage_report import UsageReport, UsageRequest, seal_report
from licenses.verify import Standing, judge, open_license
from sidecar import __version__
from sidecar.billing_client import BillingClient
from sidecar.clock import Clock, EffectiveTime, instant
from sidecar.errors import (
    AckRefusedError,
    BillingError,
    LedgerConflictError,
    LedgerForkError,
    LedgerUnavailableError,
    OutputUnwritableError,
)
from sidecar.exchange import Exchange
from sidecar.ledger import API_TYPE, Ledger, SealedWindow
from sidecar.ledger import CONTAINER_TYPE as REPORTED_TYPE
from sidecar.license_download import FILE_MODE, FILE_NAME
from sidecar.license_mount import LicenseMount

NEXT_NAME = "next.dat"
_BATCH = 64
_UNLICENSED = "none"
_log = structlog.get_logger("Tollgate.Endpoint")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of one stay with the endpoint.

    Attributes:
        delivered: Reports that it took.
        pending: Reports that still wait.
        failure: Why it ended before all were taken, or why, with nothing to deliver, it came to nothing; None when time
            was up, or nothing was wrong.
        interrupted: The process ends; nothing was found out about the endpoint.
    """

    delivered: int
    pending: int
    failure: BillingError | None = None
    interrupted: bool = False


class Connection:
    """Fetches licences and acknowledgements, delivers reports. Used by one thread; `interrupt` may come from another.

    Args:
        client: The billing endpoint.
        clock: Measures how long a stay lasts.
        ledger: The ledger.
        licenses: The licence folder, for trust root and judgement.
        device: The device key, which signs the reports.
        folder: The licence folder, the meter's own in this mode.
        exchange: Takes acknowledgements in.
        proof_folder: Where a fork's proof is put.
    """

    def __init__(
        self,
        *,
        client: BillingClient,
        clock: Clock,
        ledger: Ledger,
        licenses: LicenseMount,
        device: DeviceKey,
        folder: Path,
        exchange: Exchange,
        proof_folder: Path,
    ) -> None:
        self._client = client
        self._clock = clock
        self._ledger = ledger
        self._licenses = licenses
        self._device = device
        self._folder = folder
        self._exchange = exchange
        self._proof_folder = proof_folder

    @property
    def place(self) -> str:
        """Scheme, host and port of the endpoint, for people."""
        return self._client.place

    @property
    def is_interrupted(self) -> bool:
        """Whether the process ends, and calls are cut short."""
        return self._client.is_stopped

    def interrupt(self) -> None:
        """Cut the call that is under way; there are no more until `resume`."""
        self._client.stop()

    def resume(self, call_seconds: float) -> None:
        """Allow calls again after `interrupt`, each for so long at most."""
        self._client.go_on(call_seconds)

    # ---- the licence ------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the folder of licences.

        Raises:
            LedgerUnavailableError: The state directory cannot be written.
        """
        try:
            make_folders(self._folder, mode=0o750)
        except OSError as exc:
            raise self._unwritable(exc) from exc

    def fetch_license(self, now: EffectiveTime, *, in_force: License | None) -> bool:
        """Ask for the licence of this device, and put it into the folder if it is another than the one in force.

        Args:
            now: The effective time.
            in_force: The licence that serves; None when none does, and then the device introduces itself.

        Returns:
            Whether there is another licence now.

        Raises:
            BillingError: The endpoint cannot be reached or refuses, or what it sent is not for us.
            LedgerUnavailableError: The licence folder cannot be written.
        """
        enrolment = None
        if in_force is None:
            enrolment = enrol(
                self._device, Bindings(), output=None, at=instant(now.reading.wall_ns), product_version=__version__
            )
        blob = self._client.fetch_license(CONTAINER_TYPE, self._device.public_raw, enrolment=enrolment)
        lic, standing = self._judged(blob, now)
        if in_force is not None and (lic.license_id, lic.sequence) == (in_force.license_id, in_force.sequence):
            return False
        # One whose day is still to come must not take the name of the one that serves.
        name = NEXT_NAME if standing is Standing.NOT_YET_VALID and in_force is not None else FILE_NAME
        path = self._folder / name
        try:
            if path.is_file() and path.read_bytes() == blob:
                return False
            write_file(path, [blob], mode=FILE_MODE, overwrite=True)
        except OSError as exc:
            raise self._unwritable(exc) from exc
        _log.info("licence fetched", license_id=lic.license_id, sequence=lic.sequence, expires_at=str(lic.expires_at))
        return True

    def _judged(self, blob: bytes, now: EffectiveTime) -> tuple[License, Standing]:
        root = self._licenses.trust_root
        if root is None:
            self._licenses.look(now.at)
            root = self._licenses.trust_root
        if root is None:
            raise BillingError(
                "Unknown", "there is no trust root to judge the licence by", next_step="check Sidecar:TrustRoot"
            )
        try:
            lic = open_license(blob, root)
        except LicensesError as exc:
            raise BillingError(
                "Mismatch",
                f"what the endpoint sent is no licence that this trust root knows: {exc}",
                next_step=exc.next_step,
            ) from exc
        judgement = judge(  # by all that the folder goes by, or what is taken here would be refused there
            lic,
            at=now.at,
            device_public=self._device.public_raw,
            sequence_floor=self._ledger.license_floors(),
            product_version=__version__,
        )
        if not judgement.serves and judgement.standing is not Standing.NOT_YET_VALID:
            raise BillingError("Invalid", judgement.reason.removesuffix("."), next_step=judgement.next_step)
        return lic, judgement.standing

    def unlicensed(self, now: EffectiveTime) -> BillingError:
        """Why no licence is in force though the endpoint gave one, as the folder tells it.

        Raises:
            LedgerUnavailableError: The ledger cannot be read.
        """
        view = self._licenses.look(now.at, self._ledger.snapshot(READ_PAGES_METER))
        told, step = view.problem, view.next_step
        if view.judgement is not None:
            told, step = view.judgement.reason, view.judgement.next_step
        return BillingError("Invalid", told.removesuffix("."), next_step=step)

    # ---- the reports ------------------------------------------------------------------------------------------------

    def deliver(self, seconds: float) -> Delivery:
        """Deliver one report for each sealed window that was not taken yet, oldest first; at least one is tried.

        Args:
            seconds: No further report is begun after so long.

        Raises:
            LedgerUnavailableError: The ledger cannot be read or written.
        """
        until_ns = self._clock.read().boottime_ns + int(seconds * 1e9)
        delivered, failure = 0, None
        standing = self._ledger.delivered()
        size, pending = standing.size, standing.pending
        while pending and failure is None and not self.is_interrupted:
            windows = self._ledger.undelivered(size, _BATCH)
            if not windows:
                break
            for window in windows:
                if self.is_interrupted or (delivered and self._clock.read().boottime_ns >= until_ns):
                    return self._told(delivered, pending)
                try:
                    self._send(window)
                except BillingError as exc:
                    failure = self._with_proof(exc)
                    break
                self._ledger.mark_delivered(window)
                size, delivered, pending = window.size, delivered + 1, pending - 1
        return self._told(delivered, pending, failure)

    def _told(self, delivered: int, pending: int, failure: BillingError | None = None) -> Delivery:
        if delivered:
            _log.info("usage reported", reports=delivered, pending=pending)
        interrupted = self.is_interrupted
        return Delivery(
            delivered=delivered,
            pending=pending,
            failure=None if interrupted else failure,
            interrupted=interrupted and (failure is not None or not delivered),
        )

    def _send(self, window: SealedWindow) -> None:
        try:
            report = report_of(window, self._ledger.window_totals(window), self._ledger.leaves)
            envelope = seal_report(report, self._device.signing_key)
        except LicensesError as exc:
            raise BillingError(
                "Unknown",
                f"the report of the entries up to {window.size} cannot be made: {exc}",
                next_step=exc.next_step,
            ) from exc
        request = UsageRequest(
            id=report.id,
            container_type=REPORTED_TYPE,
            container_version=report.product_version,
            container_id=self._device.instance_id,
            meter=READ_PAGES_METER,
            quantity=report.quantity(READ_PAGES_METER),
            request_time=int(report.closed_at.timestamp()),
            api_type=API_TYPE,
            report=envelope,
        )
        taken = self._client.send_usage(request.to_body(), report.id)
        if taken.repeated:
            _log.info("the endpoint had taken this report before", entries=f"{window.first_seq}-{window.size}")

    def _with_proof(self, refusal: BillingError) -> BillingError:
        """The refusal with the place of the proof that came with it, if it proves that this log has forked."""
        if refusal.proof is None:
            return refusal
        try:
            place = self._exchange.keep_fork(refusal.proof)
        except LicensesError as exc:
            _log.warning("what the endpoint sent as the proof of a fork proves none of this log", cause=str(exc))
            return refusal
        except OutputUnwritableError as exc:
            _log.error("the proof of a fork cannot be kept", cause=str(exc), next_step=exc.next_step)
            return refusal
        return BillingError(
            refusal.status,
            str(refusal),
            next_step=f"{refusal.next_step}. {place} proves it: check it with 'licenses check-fork', and keep it",
            retry_after=refusal.retry_after,
            http_status=refusal.http_status,
            refusal=refusal.refusal,
            proof=refusal.proof,
        )

    # ---- acknowledgements -------------------------------------------------------------------------------------------

    def fetch_acknowledgement(self) -> int:
        """Fetch the vendor's signature under the newest checkpoint that it knows, and enter it.

        Returns:
            Entries acknowledged.

        Raises:
            BillingError: The endpoint cannot be reached or refuses, or what it sent does not count here, or could not
                be entered.
        """
        blob = self._client.fetch_acknowledgement(self._device.device_id)
        try:
            done = self._exchange.import_ack(blob, proof_folder=self._proof_folder)
        except (AckRefusedError, LedgerForkError) as exc:
            raise BillingError("Mismatch", str(exc), next_step=exc.next_step) from exc
        except (OutputUnwritableError, LedgerUnavailableError, LedgerConflictError) as exc:
            # The reports are taken already: what goes wrong here is no failure of metering.
            raise BillingError(
                "Unknown", f"the acknowledgement came and could not be entered: {exc}", next_step=exc.next_step
            ) from exc
        if not done.repeated:
            _log.info("acknowledged by the vendor", entries=done.ack.size)
        return done.ack.size

    def _unwritable(self, exc: OSError) -> LedgerUnavailableError:
        return LedgerUnavailableError(
            f"{self._folder}: {exc.strerror or exc}", next_step=f"check free space and owner of {self._folder}"
        )


def report_of(
    window: SealedWindow, totals: dict[str, dict[str, int]], leaves: Callable[[int, int], Iterable[bytes]]
) -> UsageReport:
    """The report of a window: nothing in it changes from one try to the next, its id least of all.

    It proves that the window continues the log: without that the vendor could not tell it from another machine's, and
    refuses it. The proof has at most two hashes for each doubling of the log's length. Where the ledger cannot make
    one, the use is told all the same: the refusal is seen on both sides, and ends when a bundle has proven the use.

    Args:
        window: A sealed window.
        totals: Its units by meter and month.
        leaves: The leaf hashes of a stretch of entries.

    Raises:
        FormatError: The window's own facts make no report.
        LedgerUnavailableError: The ledger cannot be read.
    """
    facts: dict[str, Any] = window.window
    origin = str(facts["origin"])
    digest = hashlib.sha256(f"{origin}\n{window.first_seq}\n{window.size}\n".encode() + window.root).digest()
    report = UsageReport(
        id=str(uuid.UUID(bytes=digest[:16], version=4)),
        origin=origin,
        since=window.first_seq,
        size=window.size,
        checkpoint=window.note,
        totals=totals,
        closed_at=instant(facts["closed"]["effective_ms"] * 1_000_000).replace(microsecond=0),
        license_id=str(facts.get("license_id") or _UNLICENSED),
        product_version=str(facts.get("product_version") or __version__),
    )
    if not window.first_seq:
        return report
    try:
        before = Frontier(window.first_seq, window.frontier_before)
        proof = tuple(consistency_proof_from(before, leaves(window.first_seq, window.size), window.size))
        return replace(report, since_root=before.root(), proof=proof)
    except LicensesError as exc:
        _log.warning(
            "a report goes without proof of what it continues; the vendor refuses it until a bundle has come",
            entries=f"{window.first_seq}-{window.size}",
            cause=str(exc),
            next_step="run 'sidecar ledger check', then send the vendor a bundle of 'sidecar usage export'",
        )
        return report
