"""The meter's timetable: the only file that imports APScheduler.

Invariant: a window's length is measured on the boot clock. APScheduler plans by the wall clock, so a watch in the main
thread compares the two every second: when the wall clock stepped, all jobs are planned anew, and a window that is due
by the boot clock is closed whatever the wall clock says.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from sidecar.clock import Clock, instant
from sidecar.errors import LedgerUnavailableError, SidecarError
from sidecar.metering import Meter
from sidecar.stop_signal import StopSignal

STEP_TOLERANCE_NS = 2 * 1_000_000_000
WATCH_SECONDS = 1.0
_LICENSE_SECONDS = 0.5
_CLOCK_SECONDS = 1
_KEEP_TIME_SECONDS = 60
_EXPIRE_SECONDS = 60
_OUTPUT_SECONDS = 10
_STATUS_SECONDS = 10
_ENDPOINT_SECONDS = 5
_LONGEST_JOB_NS = 600 * 1_000_000_000  # the output mount may be silent for half of it, by its setting
_log = structlog.get_logger("Tollgate.Scheduler")


class MeterTimetable:
    """Runs a meter's jobs until told to stop.

    Args:
        meter: The meter.
        clock: Where readings come from.
        expire_results: Removes results past their lifetime.
        tell_status: Tells a person who looks at the process how things stand.
    """

    def __init__(
        self,
        meter: Meter,
        *,
        clock: Clock,
        expire_results: Callable[[], object],
        tell_status: Callable[[], object] = lambda: None,
    ) -> None:
        self._meter = meter
        self._clock = clock
        # One worker: the jobs share the meter, and a cycle must never overlap another.
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(1)},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        self._jobs: dict[str, tuple[Callable[[], object], float]] = {
            "license": (meter.watch_license, _LICENSE_SECONDS),
            "clock": (meter.watch_clock, _CLOCK_SECONDS),
            "time": (meter.keep_time, _KEEP_TIME_SECONDS),
            "output": (meter.watch_output, _OUTPUT_SECONDS),
            "results": (expire_results, _EXPIRE_SECONDS),
            "status": (tell_status, _STATUS_SECONDS),
        }
        if meter.is_connected:
            self._jobs["endpoint"] = (meter.watch_endpoint, _ENDPOINT_SECONDS)
        self._planned_ns = 0
        self._ended_ns = clock.read().boottime_ns
        self._closing = False

    def run(self, stop: StopSignal, at_work: Callable[[], None] = lambda: None) -> None:
        """Run until `stop` comes; the caller closes the last window afterwards.

        Args:
            stop: Tells when to stop.
            at_work: Called every second while the jobs go on: not when the last one ended longer ago than any may take.
        """
        for name, (job, seconds) in self._jobs.items():
            self._scheduler.add_job(self._noted(_guarded(name, job)), _Every(seconds), id=name)
        self._plan_window()
        self._scheduler.start()
        self._meter.look_over_ledger()
        offset = self._offset_ns()
        while not stop.wait(WATCH_SECONDS):
            if self._clock.read().boottime_ns - self._ended_ns < _LONGEST_JOB_NS:
                at_work()
            now = self._offset_ns()
            if abs(now - offset) > STEP_TOLERANCE_NS:
                seconds = round((now - offset) / 1e9, 1)
                _log.warning("the wall clock stepped; jobs are planned anew", seconds=seconds)
                self._plan_all()
                _guarded("step", partial(self._meter.note_step, seconds))()
            offset = now
            self._plan_window()
            if self._meter.ledger_is_damaged:
                # Nothing can be mended while others have the ledger open: end, so that the service is started anew.
                self._meter.interrupt_contact()
                self._scheduler.shutdown(wait=True)
                raise LedgerUnavailableError(
                    "damage was found in the ledger",
                    next_step="nothing: at the next start it is moved aside and rebuilt; delete nothing",
                )
        self._meter.interrupt_contact()
        self._scheduler.shutdown(wait=True)

    def _noted(self, job: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            job()
            self._ended_ns = self._clock.read().boottime_ns

        return run

    def _plan_window(self) -> None:
        """Keep the window's job at the meter's deadline; run it now if it is overdue by the boot clock."""
        deadline_ns = self._meter.deadline_ns
        if self._closing or (self._scheduler.get_job("window") is not None and deadline_ns == self._planned_ns):
            return
        self._planned_ns = deadline_ns
        self._scheduler.add_job(
            _guarded("window", self._close_window), "date", run_date=self._due(), id="window", replace_existing=True
        )

    def _close_window(self) -> None:
        self._closing = True
        try:
            self._meter.cycle()
        finally:
            self._closing = False

    def _plan_all(self) -> None:
        soon = instant(self._clock.read().wall_ns) + timedelta(seconds=0.5)
        for name in self._jobs:
            self._scheduler.modify_job(name, next_run_time=soon)
        self._planned_ns = 0
        self._plan_window()
        self._scheduler.wakeup()

    def _due(self) -> datetime:
        reading = self._clock.read()
        return instant(reading.wall_ns) + timedelta(
            seconds=max(0.0, (self._meter.deadline_ns - reading.boottime_ns) / 1e9)
        )

    def _offset_ns(self) -> int:
        reading = self._clock.read()
        return reading.wall_ns - reading.boottime_ns


class _Every(BaseTrigger):  # type: ignore[misc]
    """Every so many seconds, counted from now and never made up for.

    APScheduler's own interval trigger lists every run that it missed before it coalesces them: after the wall clock
    jumped ahead by a year, a job of every half second would keep it counting for hours.

    Args:
        seconds: Time between two runs.
    """

    def __init__(self, seconds: float) -> None:
        self._between = timedelta(seconds=seconds)

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """The next run: at once the first time, then so long after `now`."""
        return now if previous_fire_time is None else now + self._between


def _guarded(name: str, job: Callable[[], object]) -> Callable[[], None]:
    """A job that tells of its failure once and lives on; what counts as a failed cycle was counted inside."""
    told = ""

    def run() -> None:
        nonlocal told
        try:
            job()
        except SidecarError as exc:
            if str(exc) != told:
                _log.error("job failed", job=name, code=exc.code, cause=str(exc), next_step=exc.next_step)
            told = str(exc)
        except Exception as exc:  # noqa: BLE001 - one job's fault must not end the meter, nor pass unseen
            if repr(exc) != told:
                _log.error("job failed unexpectedly", job=name, error=repr(exc), exc_info=exc)
            told = repr(exc)
        else:
            told = ""

    return run
