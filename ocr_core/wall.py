"""The second wall: before any page, the CPU, then the licence, then the lease; each with its own refusal.

Invariants:

* The core believes nobody: it verifies the licence with the trust root and the lease with the device's public key
  itself, so the core started alone, or reached past the sidecar, reads nothing.
* The order of refusal is CPU, licence, lease.
* Dates are judged at the lease's effective time, which no step of the wall clock moves; without a lease that holds,
  at the wall clock, and only to say which refusal it is.
"""

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from licenses.device_key import load_device_public
from licenses.errors import LicensesError
from licenses.host import HostFactors
from licenses.keyring import VerifyingKey
from licenses.lease import Lease, open_lease
from licenses.watch import LicenseView, LicenseWatch
from ocr_core.clock import Clock
from ocr_core.cpu import Cpu
from ocr_core.errors import CpuUnsupportedError, LeaseRefusedError, LicenseRefusedError

LOOK_INTERVAL_MS = 500
MAX_LEASE_HEADER = 16 * 1024
NO_LICENSE = "none"
_SAME_CLOCK = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LicenseStanding:
    """How the licence stands, for people.

    Attributes:
        standing: A standing of licensing, or "none".
        reason: In words.
        license_id: Of the licence that is told of, if there is one.
    """

    standing: str
    reason: str
    license_id: str | None


class Wall:
    """Admits requests, or raises the refusal.

    Args:
        cpu: What is known of the processor.
        license_directory: The folder of licence files.
        trust_root: The vendor's public keys.
        state_directory: Where the device's public key lies.
        host: The facts of this host, for licences that are bound to it.
        clock: The clocks.
    """

    def __init__(
        self,
        *,
        cpu: Cpu,
        license_directory: Path,
        trust_root: Path,
        state_directory: Path,
        host: HostFactors,
        clock: Clock,
    ) -> None:
        self._cpu = cpu
        self._license_directory = license_directory
        self._trust_root = trust_root
        self._state_directory = state_directory
        self._host = host
        self._clock = clock
        self._watch = self._new_watch()
        self._device: VerifyingKey | None = None
        self._device_problem = ""
        self._looked_at_ms: int | None = None
        self._judged_at = datetime.min.replace(tzinfo=UTC)
        self._view = LicenseView()
        self._lease_blob = b""
        self._lease: Lease | None = None

    @property
    def cpu(self) -> Cpu:
        """What is known of the processor."""
        return self._cpu

    def admit(self, lease_header: str | None) -> None:
        """Let a request through.

        Args:
            lease_header: The lease's envelope in base64, as the request carried it.

        Raises:
            CpuUnsupportedError: This machine cannot run the engine.
            LicenseRefusedError: No licence serves.
            LeaseRefusedError: The lease is missing, forged, of another licence, or over.
        """
        if not self._cpu.supported:
            raise CpuUnsupportedError(self._cpu.reason)
        boottime_ms = self._clock.boottime_ms()
        self._renew_device(boottime_ms)
        lease, problem = self._open(lease_header)
        view = self._look(self._time_of(lease, boottime_ms), boottime_ms)
        lic = view.license
        if lic is None or not view.serves:
            raise LicenseRefusedError(_reason(view))
        if lease is None:
            raise LeaseRefusedError(problem)
        license_id, sequence = str(lic.license_id), lic.sequence
        if (lease.license_id, lease.license_sequence) != (license_id, sequence) and self._watch.vouches(
            lease.license_id, lease.license_sequence, self._time_of(lease, boottime_ms)
        ):
            license_id, sequence = lease.license_id, lease.license_sequence
        refusal = lease.refusal(
            boot_id=self._clock.boot_id(), boottime_ms=boottime_ms, license_id=license_id, sequence=sequence
        )
        if refusal is not None:
            raise LeaseRefusedError(f"The lease is refused: {refusal}. The meter mints a new one while it is healthy.")

    def license_standing(self) -> LicenseStanding:
        """How the licence stands, judged at the newest lease's time if there was one, else at the wall clock."""
        boottime_ms = self._clock.boottime_ms()
        self._renew_device(boottime_ms)
        view = self._look(self._time_of(self._lease, boottime_ms), boottime_ms)
        standing = str(view.judgement.standing) if view.judgement is not None else NO_LICENSE
        license_id = str(view.license.license_id) if view.license is not None else None
        return LicenseStanding(standing=standing, reason=_reason(view), license_id=license_id)

    def _time_of(self, lease: Lease | None, boottime_ms: int) -> datetime:
        if (
            lease is not None
            and lease.boot_id == self._clock.boot_id()
            and lease.from_boottime_ms <= boottime_ms < lease.until_boottime_ms
        ):
            return lease.effective_at(boottime_ms)
        return self._clock.now()

    def _look(self, at: datetime, boottime_ms: int) -> LicenseView:
        """The licence folder as of at most half a second ago, judged at the same clock as asked for now."""
        if not self._looked_lately(boottime_ms) or abs(at - self._judged_at) > _SAME_CLOCK:
            self._view = self._watch.look(at)
            self._judged_at = at
            self._looked_at_ms = boottime_ms
        return self._view

    def _looked_lately(self, boottime_ms: int) -> bool:
        return self._looked_at_ms is not None and 0 <= boottime_ms - self._looked_at_ms < LOOK_INTERVAL_MS

    def _renew_device(self, boottime_ms: int) -> None:
        """Read the device's public key anew with each look; a new device starts with nothing remembered."""
        if self._looked_lately(boottime_ms):
            return
        try:
            device = load_device_public(self._state_directory)
        except LicensesError as exc:
            device, self._device_problem = None, f"{exc} {exc.next_step}"
        if self._device is None or device is None or device.raw != self._device.raw:
            self._lease, self._lease_blob = None, b""
            if self._device is not None:
                self._watch = self._new_watch()
        self._device = device

    def _new_watch(self) -> LicenseWatch:
        return LicenseWatch(
            self._license_directory,
            trust_root_path=self._trust_root,
            state_directory=self._state_directory,
            host=self._host,
            monotonic=lambda: self._clock.boottime_ms() / 1000,
        )

    def _open(self, header: str | None) -> tuple[Lease | None, str]:
        """The lease if its signature holds, else why not; the last good one is remembered by its bytes."""
        if not header:
            return None, "The request carries no lease (header Tollgate-Lease); only the sidecar may ask the core."
        if self._device is None:
            return None, f"The lease cannot be verified: {self._device_problem}"
        if len(header) > MAX_LEASE_HEADER:
            return None, "The lease is far too long."
        try:
            blob = base64.b64decode(header, validate=True)
        except (binascii.Error, ValueError):
            return None, "The lease is not base64."
        if self._lease is None or blob != self._lease_blob:
            try:
                self._lease = open_lease(blob, self._device)
            except LicensesError as exc:
                return None, f"The lease is refused: {exc}"
            self._lease_blob = blob
        return self._lease, ""


def _reason(view: LicenseView) -> str:
    if view.judgement is not None:
        return f"{view.judgement.reason} {view.judgement.next_step}".strip()
    return view.problem
