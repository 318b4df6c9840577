"""When the billing endpoint is met, and what is remembered of it; the meter's cycle decides what counts as a failure.

Invariants:

* What must happen comes first: a licence where there is none, then the reports. Another licence and the vendor's
  acknowledgement are asked for when usage is told, and their failure fails nothing.
* It counts as met when it has taken usage or given what was asked for. With nothing to tell, nobody was met where it
  gave nothing, or a licence that does not serve.
* A cycle's own attempt is never put off. Between two cycles the endpoint is met at the start, while there is no
  licence, and while reports are left over that it was taking; never sooner than it asked for by `Retry-After`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import structlog

from licenses.errors import ExchangeError
from licenses.model import READ_PAGES_METER, License, Reporting
from sidecar.clock import Clock
from sidecar.connection import Connection, Delivery
from sidecar.errors import BillingError
from sidecar.ledger import LedgerReader

LICENSE_EVERY = timedelta(days=1)
LICENSE_ENDS_SOON = timedelta(days=7)
ACKNOWLEDGEMENT_EVERY = timedelta(days=1)
_FIRST_PAUSE_SECONDS = 5.0
_NS = 1_000_000_000
_log = structlog.get_logger("Tollgate.Endpoint")


class Endpoint:
    """One endpoint, as the meter knows it.

    Args:
        connection: The way to it.
        clock: Where readings come from.
        ledger: Tells the effective time, and what waits.

    Attributes:
        problem: What is wrong with it, with the next step; empty when nothing is.
        word: Status word of the last contact (contract B.3); empty before the first.
        contact_ms: Effective time of the last success, milliseconds since 1970 UTC; 0 before the first.
        has_backlog: Whether reports are left over from the last stay, which it would have taken.
    """

    def __init__(self, connection: Connection, *, clock: Clock, ledger: LedgerReader) -> None:
        self._connection = connection
        self._clock = clock
        self._ledger = ledger
        self.problem = self.word = ""
        self.contact_ms = 0
        self.has_backlog = False
        self._has_met = False
        self._has_answered = False
        self._pause_seconds = _FIRST_PAUSE_SECONDS
        self._wait_seconds = 0.0
        self._failed_ns = 0
        self._license_asked_ns: int | None = None
        self._acknowledged_ns: int | None = None

    def prepare(self) -> None:
        """Make the folder of licences.

        Raises:
            LedgerUnavailableError: The state directory cannot be written.
        """
        self._connection.prepare()

    def is_due(self, *, licensed: bool, longest_pause_seconds: float) -> bool:
        """Whether to meet it now, between two cycles.

        Args:
            licensed: Whether a licence is in force.
            longest_pause_seconds: The next cycle comes no later, so no pause is longer.
        """
        if self._has_met and licensed and not self.has_backlog:
            return False
        waited_ns = self._clock.read().boottime_ns - self._failed_ns
        return waited_ns >= min(self._wait_seconds, longest_pause_seconds) * _NS

    def meet(self, seconds: float, look: Callable[[], License | None]) -> Delivery:
        """One stay: fetch a licence where there is none, deliver what waits, then what may fail.

        Args:
            seconds: No further report is begun after so long.
            look: Looks at the licence folder; the licence in force, None when none is.

        Raises:
            BillingError: Nothing was delivered, and why.
            LedgerUnavailableError: The ledger, or the licence folder, cannot be used.
        """
        is_first, self._has_met, self._has_answered = not self._has_met, True, False
        lic = look()
        was_licensed = lic is not None
        try:
            if lic is None:
                lic = self._fetch_license(None, look)
            done = self._connection.deliver(seconds)
            if done.failure is not None and not done.delivered:
                raise done.failure
        except BillingError as exc:
            if self._connection.is_interrupted:
                return Delivery(delivered=0, pending=0, interrupted=True)
            self._note_failure(exc, is_first=is_first, licensed=lic is not None)
            raise
        if done.failure is not None:
            self._note_failure(done.failure, is_first=is_first, licensed=lic is not None)
        elif not done.interrupted:
            if done.delivered or (lic is not None and not was_licensed):
                self._note_success()
            self.has_backlog = done.pending > 0
            failure = self._ask_for_more(lic, look, has_told_all=not done.pending)
            is_licensed = lic is not None or look() is not None  # an acknowledgement may have brought what was missing
            if not is_licensed:
                failure = self._connection.unlicensed(self._ledger.now())
            if failure is not None and not (is_licensed and self._has_answered):
                if self._connection.is_interrupted:
                    return replace(done, interrupted=True)
                self._note_failure(failure, is_first=is_first, licensed=is_licensed)
                return replace(done, failure=failure)
        return done

    def meet_at_last(self, seconds: float, *, licensed: bool) -> bool:
        """At shutdown: one short stay, if the endpoint was well. What waits is told at the next start.

        Returns:
            Whether all is told.

        Raises:
            LedgerUnavailableError: The ledger cannot be used.
        """
        if self.problem or not licensed:
            return False
        self._connection.resume(seconds)
        done = self._connection.deliver(seconds)
        if done.failure is not None:
            _log.warning("the last window is reported at the next start", cause=str(done.failure))
        return not done.pending

    def interrupt(self) -> None:
        """The process ends: cut short what goes on with it. May come from another thread."""
        self._connection.interrupt()

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _fetch_license(self, in_force: License | None, look: Callable[[], License | None]) -> License | None:
        now = self._ledger.now()
        changed = self._connection.fetch_license(now, in_force=in_force)
        self._license_asked_ns = now.reading.boottime_ns
        return look() if changed else in_force

    def _ask_for_more(
        self, lic: License | None, look: Callable[[], License | None], *, has_told_all: bool
    ) -> BillingError | None:
        """Another licence: once a day, when this one ends soon, or is used up. The vendor's word for what it saw.

        Returns:
            Why the endpoint did not give what was asked for; None when it gave it, or nothing was.
        """
        now = self._ledger.now()
        wanted = "licence"
        try:
            if lic is not None and (
                self._is_over(self._license_asked_ns, LICENSE_EVERY)
                or lic.expires_at - now.at < LICENSE_ENDS_SOON
                or self._is_used_up(lic)
            ):
                self._fetch_license(lic, look)
                self._note_success()
            is_bound = lic is not None and lic.reporting != Reporting()
            if has_told_all and (is_bound or self._is_over(self._acknowledged_ns, ACKNOWLEDGEMENT_EVERY)):
                wanted = "acknowledgement"
                self._connection.fetch_acknowledgement()
                self._acknowledged_ns = now.reading.boottime_ns
                self._note_success()
        except BillingError as exc:
            if self._has_answered and not self._connection.is_interrupted and not self._is_of_a_new_log(exc):
                _log.warning(f"the endpoint answers, but gave no {wanted}", cause=str(exc), next_step=exc.next_step)
            return exc
        return None

    def _is_of_a_new_log(self, refusal: BillingError) -> bool:
        """Whether nothing is acknowledged because no window was ever closed, as on a new device."""
        return refusal.refusal == ExchangeError.code and self._ledger.last_seal() is None

    def _is_used_up(self, lic: License) -> bool:
        return lic.is_used_up(self._ledger.snapshot(READ_PAGES_METER).license_pages.get(lic.license_id, 0))

    def _is_over(self, since_ns: int | None, span: timedelta) -> bool:
        elapsed_ns = self._clock.read().boottime_ns - (since_ns or 0)
        return since_ns is None or elapsed_ns >= span.total_seconds() * _NS

    def _note_success(self) -> None:
        if self.problem:
            _log.info("the billing endpoint answers again", endpoint=self._connection.place)
        self.problem, self.word, self._has_answered = "", "Valid", True
        self.contact_ms = self._ledger.now().ns // 1_000_000
        self._pause_seconds, self._wait_seconds = _FIRST_PAUSE_SECONDS, 0.0

    def _note_failure(self, failure: BillingError, *, is_first: bool, licensed: bool) -> None:
        if is_first or failure.status != self.word:
            event = f"Endpoint connection failed with status '{failure.status}'"
            _log.warning(event, endpoint=self._connection.place, cause=str(failure), next_step=failure.next_step)
        self.problem, self.word = f"{failure}. {failure.next_step}", failure.status
        self.has_backlog = False  # the next cycle tries again, and then the rest follows
        self._failed_ns = self._clock.read().boottime_ns
        self._wait_seconds = float(failure.retry_after or 0)
        if not licensed:
            # Nothing is served, so it is asked more often than a cycle comes, but ever more rarely.
            self._wait_seconds = max(self._pause_seconds, self._wait_seconds)
            self._pause_seconds *= 2
