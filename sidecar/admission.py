"""Admission: gather the facts, decide once, let every request read that one decision.

Invariant: an admitted request reads one reference and waits for no fact; the facts are at most `REFRESH_SECONDS` old.
A refusal is never older than the request it answers: several processes decide, and what one of them has told to be
ready the next must not refuse for facts of before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
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
_CONFIRM_SECONDS = 1.0
_RECENT_SECONDS = 0.1
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
class EndpointStanding:
    """How the billing endpoint stands, in connected mode.

    Attributes:
        address: Scheme, host and port.
        word: Status word of the last contact (contract B.3); "Unknown" before the first.
        problem: What is wrong with it; empty when nothing is.
        contact_at: When it last took something, or gave a licence (effective, UTC); None before the first time.
        pending_reports: Sealed windows that it has not taken yet.
    """

    address: str
    word: str
    problem: str
    contact_at: datetime | None
    pending_reports: int


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
        endpoint: How the billing endpoint stands; None in disconnected mode.
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
    endpoint: EndpointStanding | None = None

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
        "failure_word": snapshot.failure_word,
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
        self._observing = threading.Lock()
        self._started_ns = clock.read().boottime_ns
        self._lease_lost_ns: int | None = self._started_ns
        self._core_seen = False
        self._core_answered: tuple[int, CoreHealth] | None = None
        self._lease_seen = False
        self._noted: LicenseView | None = None
        self._unnoted_ns: int | None = None
        self._terms = LedgerTerms(ledger, licenses)
        self._standing = self._observe()
        self._looked = self._decided = time.monotonic()

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
        standing = self.confirm()
        if not standing.verdict.serves:
            raise NotServingError(standing.verdict)
        return standing

    def confirm(self) -> Standing:
        """The present decision, a refusal only with facts gathered since the call; all who wait share one look."""
        standing = self.standing
        return standing if standing.verdict.serves else self._looked_since(time.monotonic())

    def recent(self) -> Standing:
        """The decision with facts a tenth of a second old at most: for who asks how it is, and compares."""
        return self._looked_since(time.monotonic() - _RECENT_SECONDS)

    def _looked_since(self, moment: float) -> Standing:
        """A decision on facts gathered after a moment; the present one where looking takes too long."""
        if self._looked >= moment or not self._observing.acquire(timeout=_CONFIRM_SECONDS):
            return self.standing
        try:
            return self.standing if self._looked >= moment else self._renew()
        finally:
            self._observing.release()

    def refresh(self) -> Standing:
        """Gather the facts anew and decide."""
        with self._observing:
            return self._renew()

    def _renew(self) -> Standing:
        """Look and decide, one thread at a time; a fault nobody thought of closes the gate."""
        looked, before = time.monotonic(), self._standing
        try:
            self._standing = self._observe()
        except Exception as exc:  # noqa: BLE001 - whatever it is, it must close the gate and end no thread
            _log.error("the facts cannot be gathered", error=repr(exc))
            self._standing = replace(before, verdict=_failed_closed(f"an internal error: {exc!r}"))
        self._looked, self._decided = looked, time.monotonic()
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
            standing = self.refresh()
            try:
                if on_refresh is not None:
                    on_refresh(standing)
            except Exception as exc:  # noqa: BLE001 - whoever listens must not end the watch
                _log.error("the decision could not be passed on", error=repr(exc))
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
        view = self._noted_view(self._licenses.look(now.at, snapshot), snapshot, reading.boottime_ns)
        terms_problem = ""
        try:
            terms_problem = self._terms.refusal(view.license, now.at) if view.license and snapshot else ""
        except LedgerUnavailableError as exc:
            ledger_problem = ledger_problem or str(exc)
        core, core_problem = self._core_health(reading.boottime_ns)
        meter = MeterStatus.read(self._settings.state_directory)
        if meter is not None and meter.boot_id != reading.boot_id:
            meter = None
        facts = Facts(
            effective_at=now.at,
            license=license_facts(view),
            license_problem=view.problem,
            license_step=view.next_step,
            terms_problem=terms_problem,
            ledger_problem=ledger_problem,
            spool_problem=self._spool_problem(),
            core_problem=core_problem,
            core_starting=not self._core_seen and self._uptime_seconds(now) < _START_SECONDS,
            cpu_problem=core.cpu_problem if core else "",
            output_problem=meter.output_problem if meter else "",
            connected=self._settings.is_connected,
            endpoint_problem=meter.endpoint_problem if meter else "",
            endpoint_word=meter.endpoint_word if meter and meter.endpoint_problem else "",
            lease=self._lease(view.license, now, is_noted=_is_noted(view, snapshot)),
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
            endpoint=self._endpoint(meter, snapshot),
        )

    def _noted_view(self, view: LicenseView, snapshot: LedgerSnapshot | None, boottime_ns: int) -> LicenseView:
        """The licence to decide by: the one before, as long as the ledger has not entered the one that replaces it.

        Else pages would be counted under a licence ahead of the entry that says it is in force, and an auditor would
        find them under the one before. The meter enters it within half a second.
        """
        before = self._noted
        if snapshot is None or not view.serves or _is_noted(view, snapshot):
            self._noted, self._unnoted_ns = view if view.serves else None, None
            return view
        if before is None or before.license is None:
            return view
        if self._unnoted_ns is None:
            self._unnoted_ns = boottime_ns
        is_lately = boottime_ns - self._unnoted_ns < _EXCHANGE_SECONDS * 1e9
        used = snapshot.license_pages.get(before.license.license_id, 0)
        return before if is_lately and not before.license.is_used_up(used) else view

    def _endpoint(self, meter: MeterStatus | None, snapshot: LedgerSnapshot | None) -> EndpointStanding | None:
        """What the meter and the ledger tell of the endpoint; this process never asks it."""
        if not self._settings.is_connected:
            return None
        word, problem = ("", "") if meter is None else (meter.endpoint_word, meter.endpoint_problem)
        if snapshot is not None and snapshot.failure_word:
            word, problem = snapshot.failure_word, snapshot.failure
        delivered = None
        with suppress(LedgerUnavailableError):
            delivered = self._ledger.delivered()
        contact_at = delivered.at if delivered else None
        if meter is not None and meter.contact_ms:
            told_at = instant(meter.contact_ms * 1_000_000)
            contact_at = told_at if contact_at is None else max(contact_at, told_at)
        return EndpointStanding(
            address=self._settings.endpoint_place,
            word=word or "Unknown",
            problem=problem,
            contact_at=contact_at,
            pending_reports=delivered.pending if delivered else 0,
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

    def _lease(self, lic: License | None, now: EffectiveTime, *, is_noted: bool) -> Lease:
        """Read the lease as the core will; one that was just lost is awaited for a while."""
        if lic is not None and self._licenses.device is not None:
            try:
                lease = open_lease(self._licenses.lease_path.read_bytes(), self._licenses.device)
                if self._is_honoured(lease, lic, now, is_noted=is_noted):
                    self._lease_lost_ns, self._lease_seen = None, True
                    return Lease.HONOURED
            except (OSError, LicensesError):
                pass
        if self._lease_lost_ns is None or lic is None:
            self._lease_lost_ns = now.reading.boottime_ns
        waited = (now.reading.boottime_ns - self._lease_lost_ns) / 1e9
        if self._lease_seen and waited < _EXCHANGE_SECONDS and is_noted:
            return Lease.HONOURED  # being exchanged with the licence; the core itself refuses what it must
        return Lease.AWAITED if waited < _START_SECONDS else Lease.ABSENT

    def _is_honoured(self, lease: MintedLease, lic: License, now: EffectiveTime, *, is_noted: bool) -> bool:
        """Whether the core will take the lease: of this boot, not over, and for the licence in force.

        One for another licence does only where the ledger knows the one in force: the meter may be ahead then.
        """
        known = (lease.license_id, lease.license_sequence)
        if known != (lic.license_id, lic.sequence) and (not is_noted or not self._licenses.vouches(*known, now.at)):
            return False
        reading = now.reading
        boottime_ms = reading.boottime_ns // 1_000_000
        return (
            lease.refusal(boot_id=reading.boot_id, boottime_ms=boottime_ms, license_id=known[0], sequence=known[1])
            is None
        )

    def _uptime_seconds(self, now: EffectiveTime) -> float:
        return (now.reading.boottime_ns - self._started_ns) / 1e9


def _is_noted(view: LicenseView, snapshot: LedgerSnapshot | None) -> bool:
    """Whether the ledger knows the licence, or there is nothing to know."""
    lic = view.license
    return lic is None or snapshot is None or snapshot.license_floors.get(lic.license_id, 0) >= lic.sequence


def _failed_closed(reason: str) -> Verdict:
    """What holds when no decision can be made: nothing is served."""
    return Verdict(state=State.STARTING, reason=reason, serves=False)
