"""Admission: gather the facts, decide once, let every request read that one decision.

Invariant: a request reads one reference and never waits for a fact; the facts are at most `REFRESH_SECONDS` old.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from licenses.errors import LicensesError
from licenses.lease import Lease as MintedLease
from licenses.lease import open_lease
from licenses.model import READ_PAGES_METER, License
from sidecar.clock import Clock, EffectiveTime, effective_time, instant
from sidecar.core_client import CoreClient, CoreHealth
from sidecar.errors import CoreTimeoutError, CoreUnavailableError, LedgerUnavailableError, SidecarError
from sidecar.gate import Facts, Lease, LicenseFacts, State, Verdict, decide
from sidecar.ledger import Ledger, LedgerSnapshot
from sidecar.ledger_terms import LedgerTerms
from sidecar.license_mount import LicenseMount, LicenseView
from sidecar.meter_status import MeterStatus
from sidecar.settings import STANDARD_MAX_ATTEMPTS, Settings
from sidecar.states import refusal_message

REFRESH_SECONDS = 0.5
_STALE_SECONDS = 15.0
_START_SECONDS = 20.0
_CORE_SILENT_NS = 10_000_000_000
_EXCHANGE_SECONDS = 3.0
_log = structlog.get_logger("Tollgate.Gate")


class NotServingError(SidecarError):
    """Queries are not admitted now; nothing was recorded.

    Attributes:
        verdict: The decision and its reason.
    """

    code = "not_serving"

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(refusal_message(verdict))
        self.verdict = verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What everything that shows the service's state shows: one decision and the facts behind it.

    Attributes:
        verdict: The decision.
        license: The licence in force; None when no file holds one.
        view: The licence folder as it was found.
        ledger: The ledger at that moment; None when it cannot be read.
        core: The core's word about itself; None when it does not answer.
        window_closes_at: When the open window is to be closed (UTC); None when the meter has not said so in this boot.
        effective_at: Effective time of the decision (UTC).
        quarantined: The wall clock is ahead of what is believed.
        evaluation: An evaluation licence is in force.
    """

    verdict: Verdict
    license: License | None
    view: LicenseView
    ledger: LedgerSnapshot | None
    core: CoreHealth | None
    window_closes_at: datetime | None
    effective_at: datetime
    quarantined: bool

    @property
    def evaluation(self) -> bool:
        """Whether an evaluation licence is in force; shown everywhere."""
        return self.license is not None and self.license.evaluation


def license_facts(view: LicenseView) -> LicenseFacts | None:
    """The part of a licence that the decision looks at."""
    lic, judgement = view.license, view.judgement
    if lic is None or judgement is None:
        return None
    pages = lic.meter(READ_PAGES_METER)
    return LicenseFacts(
        standing=judgement.standing.name,
        reason=judgement.reason,
        serves=judgement.serves,
        expires_at=lic.expires_at,
        termination_at=lic.termination_at,
        soft_pages=None if pages is None else pages.soft,
        hard_pages=None if pages is None or pages.overage_allowed else pages.hard,
    )


def attempts_allowed(settings: Settings, lic: License | None) -> int:
    """Failed cycles after which queries are refused; only an evaluation licence may leave the standard."""
    return settings.max_attempts if lic is not None and lic.evaluation else STANDARD_MAX_ATTEMPTS


def metering_facts(snapshot: LedgerSnapshot, lic: License | None, settings: Settings) -> dict[str, object]:
    """The part of the ledger that the decision looks at, as keywords of `Facts`."""
    return {
        "pages_used": snapshot.license_pages.get(lic.license_id, 0) if lic else 0,
        "failed_cycles": snapshot.failed_cycles,
        "failure": snapshot.failure,
        "max_attempts": attempts_allowed(settings, lic),
        "strict": settings.strict,
    }


class Admission:
    """Holds the present decision and keeps it fresh from a thread of its own.

    Args:
        settings: The settings.
        clock: Where readings come from.
        ledger: The ledger.
        licenses: The licence folder.
        core: The core.
        spool_problem: Tells why the spool cannot be written; empty when it can.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        ledger: Ledger,
        licenses: LicenseMount,
        core: CoreClient,
        spool_problem: Callable[[], str] = str,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._ledger = ledger
        self._licenses = licenses
        self._core = core
        self._spool_problem = spool_problem
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._started_ns = clock.read().boottime_ns
        self._lease_lost_ns: int | None = self._started_ns
        self._core_seen = False
        self._core_answered: tuple[int, CoreHealth] | None = None
        self._lease_seen = False
        self._terms = LedgerTerms(ledger, licenses)
        self._standing = self._observe()
        self._decided = time.monotonic()

    @property
    def standing(self) -> Standing:
        """The present decision with the facts behind it; one that nobody keeps fresh any more admits nothing."""
        standing = self._standing
        if standing.verdict.serves and time.monotonic() - self._decided > _STALE_SECONDS:
            return replace(standing, verdict=_failed_closed("the facts behind the last decision are too old"))
        return standing

    def require(self) -> Standing:
        """Admit a query.

        Raises:
            NotServingError: Queries are not admitted.
        """
        standing = self.standing
        if not standing.verdict.serves:
            raise NotServingError(standing.verdict)
        return standing

    def refresh(self) -> Standing:
        """Gather the facts anew and decide."""
        before, self._standing = self._standing, self._observe()
        self._decided = time.monotonic()
        now = self._standing.verdict
        if now.state is not before.verdict.state or now.serves is not before.verdict.serves:
            log = _log.info if now.serves else _log.warning
            log("state changed", state=now.state.value, was=before.verdict.state.value, reason=now.reason)
        return self._standing

    def start(self, on_refresh: Callable[[Standing], None] | None = None) -> None:
        """Keep the decision fresh until `stop`."""
        self._thread = threading.Thread(target=self._watch, args=(on_refresh,), name="admission", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop keeping it fresh."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _watch(self, on_refresh: Callable[[Standing], None] | None) -> None:
        while not self._stop.is_set():
            try:
                standing = self.refresh()
                if on_refresh is not None:
                    on_refresh(standing)
            except Exception as exc:  # noqa: BLE001 - whatever it is, it must close the gate and not end the watch
                _log.error("the facts cannot be gathered", error=repr(exc))
                self._standing = replace(self._standing, verdict=_failed_closed(f"an internal error: {exc!r}"))
            self._stop.wait(REFRESH_SECONDS)

    def _observe(self) -> Standing:
        ledger_problem, snapshot = "", None
        reading = self._clock.read()
        try:
            if self._ledger.problem:
                self._ledger.restore_reserve()
                self._ledger.keep_time()  # a ledger that could not be written is tried again before it is trusted
            snapshot = self._ledger.snapshot(READ_PAGES_METER)
            ledger_problem = self._ledger.problem
        except LedgerUnavailableError as exc:
            ledger_problem = str(exc)
        now = effective_time(reading, snapshot.high_water if snapshot else None)
        view = self._licenses.look(now.at, snapshot.license_floors if snapshot else None)
        terms_problem = self._terms.refusal(view.license, now.at) if view.license and snapshot else ""
        core, core_problem = self._core_health(reading.boottime_ns)
        meter = MeterStatus.read(self._settings.state_directory)
        if meter is not None and meter.boot_id != reading.boot_id:
            meter = None
        facts = Facts(
            effective_at=now.at,
            license=license_facts(view),
            license_problem=view.problem,
            terms_problem=terms_problem,
            ledger_problem=ledger_problem,
            spool_problem=self._spool_problem(),
            core_problem=core_problem,
            core_starting=not self._core_seen and self._uptime_seconds(now) < _START_SECONDS,
            cpu_problem=core.cpu_problem if core else "",
            output_problem=meter.output_problem if meter else "",
            lease=self._lease(view.license, now),
        )
        if snapshot is not None:
            facts = replace(facts, **metering_facts(snapshot, view.license, self._settings))  # type: ignore[arg-type]
        return Standing(
            verdict=decide(facts),
            license=view.license,
            view=view,
            ledger=snapshot,
            core=core,
            window_closes_at=instant(now.ns + max(0, meter.deadline_ns - reading.boottime_ns)) if meter else None,
            effective_at=now.at,
            quarantined=now.quarantined,
        )

    def _core_health(self, boottime_ns: int) -> tuple[CoreHealth | None, str]:
        """What the core says of itself; what it said before, while it is there and only too busy to answer."""
        try:
            health = self._core.health()
        except CoreTimeoutError as exc:
            if self._core_answered is not None and boottime_ns - self._core_answered[0] < _CORE_SILENT_NS:
                return self._core_answered[1], ""
            return None, str(exc)
        except CoreUnavailableError as exc:
            return None, str(exc)
        self._core_seen = True
        self._core_answered = boottime_ns, health
        return health, ""

    def _lease(self, lic: License | None, now: EffectiveTime) -> Lease:
        """Read the lease as the core will; one that was just lost is awaited for a while."""
        if lic is not None and self._licenses.device is not None:
            try:
                lease = open_lease(self._licenses.lease_path.read_bytes(), self._licenses.device)
                if self._is_honoured(lease, lic, now):
                    self._lease_lost_ns, self._lease_seen = None, True
                    return Lease.HONOURED
            except (OSError, LicensesError):
                pass
        if self._lease_lost_ns is None or lic is None:
            self._lease_lost_ns = now.reading.boottime_ns
        waited = (now.reading.boottime_ns - self._lease_lost_ns) / 1e9
        if self._lease_seen and waited < _EXCHANGE_SECONDS:
            return Lease.HONOURED  # being exchanged with the licence; the core itself refuses what it must
        return Lease.AWAITED if waited < _START_SECONDS else Lease.ABSENT

    def _is_honoured(self, lease: MintedLease, lic: License, now: EffectiveTime) -> bool:
        """Whether the core will take the lease: of this boot, not over, and for the licence in force."""
        known = (lease.license_id, lease.license_sequence)
        if known != (lic.license_id, lic.sequence) and not self._licenses.vouches(*known, now.at):
            return False
        reading = now.reading
        boottime_ms = reading.boottime_ns // 1_000_000
        return (
            lease.refusal(boot_id=reading.boot_id, boottime_ms=boottime_ms, license_id=known[0], sequence=known[1])
            is None
        )

    def _uptime_seconds(self, now: EffectiveTime) -> float:
        return (now.reading.boottime_ns - self._started_ns) / 1e9


def _failed_closed(reason: str) -> Verdict:
    """What holds when no decision can be made: nothing is served."""
    return Verdict(state=State.STARTING, reason=reason, serves=False)
