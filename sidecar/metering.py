"""The metering cycle: close the window, seal it, write its record file, report it where connected, mint the next lease.

Invariant: a cycle succeeds only when the ledger has committed, the record file, its name and the checkpoint are durable
on the output mount, and, in connected mode, the billing endpoint has taken a report. Any failure leaves everything
pending in the ledger; the count of consecutive failures is persisted, so a restart neither resets nor advances it. Each
step may be repeated after a crash: the bytes of a record file, and of a report, depend on the ledger alone.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from licenses.device_key import DeviceKey
from licenses.durable import sweep, write_file
from licenses.errors import LicensesError
from licenses.lease import Lease, seal_lease
from licenses.model import READ_PAGES_METER, License
from licenses.usage_log.files import FOLDER, record_name
from licenses.usage_log.note import Checkpoint, open_checkpoint, sign_checkpoint, unverified_checkpoint
from sidecar import __version__
from sidecar.admission import attempts_allowed, license_facts, metering_facts
from sidecar.clock import Clock, EffectiveTime, instant, month_of
from sidecar.endpoint import Endpoint
from sidecar.errors import BillingError, LedgerUnavailableError, OutputUnwritableError
from sidecar.gate import FETCHED_WARNING_DAYS, WARNING_DAYS, Facts, Verdict, decide
from sidecar.ledger import Ledger, PendingRecord, SealedWindow, damage_path, is_small, look_over
from sidecar.ledger_terms import LedgerTerms
from sidecar.license_mount import LicenseMount, LicenseView
from sidecar.meter_status import MeterStatus
from sidecar.record_output import RecordOutput, render_window
from sidecar.settings import (
    STANDARD_MAX_INTERVAL_SECONDS,
    STANDARD_MIN_INTERVAL_SECONDS,
    Settings,
)

LEASE_SLACK_SECONDS = 60
CONTACT_SECONDS = 30.0
"""Longest stay with the billing endpoint in a cycle; the lease outlives it."""
BACKLOG_SECONDS = 10.0
"""The same between two cycles, while reports wait."""
_LAST_CONTACT_SECONDS = 1.0
KEEP_RECORDS = timedelta(days=400)
_REWRITTEN_AT_ONCE = 200
_SHUTDOWN_LIMIT_SECONDS = 2.0
_log = structlog.get_logger("Tollgate.Meter")


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleOutcome:
    """How a cycle went.

    Attributes:
        failed_cycles: Consecutive failures after it; zero means success.
        failure: Cause of the failure; empty on success.
        files: Record files written.
    """

    failed_cycles: int
    failure: str
    files: tuple[Path, ...] = ()


class Meter:
    """The use case behind the meter process.

    Args:
        settings: The settings.
        clock: Where readings come from.
        ledger: The ledger.
        licenses: The licence folder.
        device: The device key; only the meter holds it.
        output: The output mount.
        jitter: Source of the windows' random lengths.
        endpoint: The billing endpoint, in connected mode; None in disconnected mode.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        ledger: Ledger,
        licenses: LicenseMount,
        device: DeviceKey,
        output: RecordOutput,
        jitter: random.Random,
        endpoint: Endpoint | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._ledger = ledger
        self._licenses = licenses
        self._device = device
        self._output = output
        self._jitter = jitter
        self._endpoint = endpoint
        self._terms = LedgerTerms(ledger, licenses)
        self._license: License | None = None
        self._minted: tuple[str, int, int] | None = None
        self._published: MeterStatus | None = None
        self._deadline_ns = clock.read().boottime_ns
        self._output_problem = ""
        self._seen_note = ""
        self._unpersisted_failures = 0
        self._failed_cycles = 0
        self._quarantined = False
        self._has_waited_for_name = False
        self._warned: tuple[str, int, int] | None = None

    @property
    def deadline_ns(self) -> int:
        """CLOCK_BOOTTIME at which the open window is to be closed."""
        return self._deadline_ns

    @property
    def now_ns(self) -> int:
        """Effective time, nanoseconds since the epoch."""
        return self._ledger.now().ns

    @property
    def sentence(self) -> str:
        """How things stand as far as the meter is concerned, for people."""
        verdict = self._verdict()
        waits = self._ledger.delivered().pending if self._endpoint is not None else 0
        return f"{verdict.state}: {verdict.reason}{f'; {waits} reports wait' if waits else ''}"

    @property
    def is_connected(self) -> bool:
        """Whether there is a billing endpoint to report to."""
        return self._endpoint is not None

    # ---- the life of a meter ----------------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin: note the boot, close what a crash left open, look at the output, mint the first lease."""
        sweep(self._settings.state_directory)
        if self._endpoint is not None:
            self._endpoint.prepare()
            told = MeterStatus.read(self._settings.state_directory)
            if told is not None and 0 < told.contact_ms <= self.now_ns // 1_000_000:
                self._endpoint.contact_ms = told.contact_ms
        self._failed_cycles = self._ledger.snapshot(READ_PAGES_METER).failed_cycles
        self._license = self._serving_license()
        crashed = self._ledger.has_open_window() and not self._is_nameless
        if crashed:
            self._ledger.close_window("recovery", self._context_before())
        reading = self._clock.read()
        self._ledger.append("boot", {"boot_id": reading.boot_id, "product_version": __version__})
        self._note_license()
        try:
            self._output.probe()
            self._look_at_history()
            self._look_at_newest()
            self._look_for_losses()
            if crashed or self._ledger.pending_records():
                files = self._deliver()
                if self._endpoint is None:  # else the endpoint has a word in it
                    self._ledger.cycle_succeeded()
                _log.info("usage records delivered at start", files=len(files))
        except OutputUnwritableError as exc:
            # No cycle was due, so nothing is counted: a restart neither resets nor advances the attempts.
            self._output_problem = f"{exc}. {exc.next_step}"
            _log.warning("the output folder cannot be written", cause=str(exc), next_step=exc.next_step)
        self.plan()
        self.mint()

    def cycle(self, reason: str = "interval") -> CycleOutcome:
        """Close the window and deliver all that is pending; count the failure if that cannot be done."""
        try:
            if self._is_nameless:
                return self._wait_for_name()
            self._close_window(reason)
            self._seal_pending()
            self._look_at_history()
            self._look_for_losses()
            files = self._deliver()
            if self._endpoint is not None:
                self.plan()  # the lease does not wait for the endpoint, however long that takes
                self.mint()
                if self._endpoint.meet(CONTACT_SECONDS, self._looked_license).interrupted:
                    return CycleOutcome(failed_cycles=self._failed_cycles, failure="", files=tuple(files))
            self._ledger.cycle_succeeded()
        except (OutputUnwritableError, LedgerUnavailableError, BillingError) as exc:
            return self._failed(exc)
        except Exception as exc:  # noqa: BLE001 - a fault of ours is a failed cycle like any other
            return self._failed(OutputUnwritableError(f"{type(exc).__name__}: {exc}", next_step="call the vendor"))
        self._output_problem = ""
        self._failed_cycles = self._unpersisted_failures = 0
        _log.info("usage record written", file=files[-1].name if files else "", files=len(files))
        self.plan()
        self.mint()
        return CycleOutcome(failed_cycles=0, failure="", files=tuple(files))

    def close(self) -> CycleOutcome:
        """Close the window at shutdown, if its log has a name. A failure is not counted: no cycle was due."""
        self._revoke()
        self._output.limit_seconds = min(self._output.limit_seconds, _SHUTDOWN_LIMIT_SECONDS)
        try:
            if self._is_nameless:
                return CycleOutcome(failed_cycles=self._failed_cycles, failure="")
            self._close_window("shutdown")
            files = self._deliver()
            if self._endpoint is None or self._endpoint.meet_at_last(
                _LAST_CONTACT_SECONDS, licensed=self._license is not None
            ):
                self._ledger.cycle_succeeded()
        except (OutputUnwritableError, LedgerUnavailableError) as exc:
            _log.warning("the last window stays pending in the ledger", cause=str(exc), next_step=exc.next_step)
            return CycleOutcome(failed_cycles=-1, failure=str(exc))
        _log.info("window closed at shutdown", file=files[-1].name if files else "")
        return CycleOutcome(failed_cycles=0, failure="", files=tuple(files))

    def plan(self, latest_ns: int | None = None) -> float:
        """Draw the length of the next window, uniformly between the bounds, and set its deadline on the boot clock.

        Args:
            latest_ns: CLOCK_BOOTTIME after which the deadline may not lie; None for no such bound.

        Returns:
            The length in seconds.
        """
        seconds = self._jitter.uniform(*self._window_seconds)
        deadline_ns = self._clock.read().boottime_ns + int(seconds * 1e9)
        self._deadline_ns = deadline_ns if latest_ns is None else min(deadline_ns, latest_ns)
        self._publish()
        return seconds

    def watch_license(self) -> None:
        """Look at the licence folder; note a change in the ledger, and mint or take back the lease accordingly."""
        lic = self._serving_license()
        if _identity(lic) == _identity(self._license):
            return
        relaxed, before = self._is_relaxed, self._license
        self._license = lic
        try:
            self._note_license()
        except LedgerUnavailableError:
            self._license = before  # entered at the next look, or not in force
            raise
        if self._is_relaxed != relaxed:
            # Other bounds hold now, but the open window never grows by an exchange of licences.
            self.plan(latest_ns=self._deadline_ns)
        self.mint()

    @property
    def _window_seconds(self) -> tuple[int, int]:
        """Shortest and longest window."""
        if self._settings.has_standard_cadence or self._is_relaxed:
            return self._settings.min_interval_seconds, self._settings.max_interval_seconds
        return STANDARD_MIN_INTERVAL_SECONDS, STANDARD_MAX_INTERVAL_SECONDS

    @property
    def _is_relaxed(self) -> bool:
        """Whether windows and attempts outside the standard are allowed: under an evaluation licence."""
        return self._license is not None and self._license.evaluation

    def watch_clock(self) -> None:
        """Note when the wall clock is not believed, and believe it again when somebody vouches for it."""
        now = self._ledger.now()
        anchor_ns = self._anchor_ns()
        if anchor_ns > now.ns:
            self._ledger.adopt_time(anchor_ns, {"action": "anchor"})
            _log.info("time raised to the vendor's anchor", seconds=round((anchor_ns - now.ns) / 1e9))
            now = self._ledger.now()
        if now.quarantined and self._clock.is_synchronised():
            self._ledger.adopt_time(now.reading.wall_ns, {"action": "synchronised"})
            _log.info("the wall clock is synchronised and believed again")
            now = self._ledger.now()
        if now.quarantined == self._quarantined:
            return
        self._quarantined = now.quarantined
        ahead_ms = max(0, now.reading.wall_ns - now.ns) // 1_000_000
        self._ledger.append("quarantine", {"begins": now.quarantined, "ahead_ms": ahead_ms})
        if now.quarantined:
            _log.warning(
                "the wall clock jumped ahead and is not believed",
                seconds=ahead_ms // 1000,
                next_step="correct the host's clock; if it is right, run 'sidecar clock accept'",
            )
        else:
            _log.info("the wall clock is believed again")

    def note_step(self, seconds: float) -> None:
        """Enter a step of the wall clock into the ledger, for auditors."""
        self._ledger.append("clock", {"action": "step", "by_ms": round(seconds * 1000)})

    def keep_time(self) -> None:
        """Persist the effective time, so that a clock set back later gains nothing; warn of a licence that ends."""
        now = self._ledger.keep_time()
        lic = self._license
        if lic is None:
            return
        left = (lic.expires_at - now.at).total_seconds() / 86400
        passed = [days for days in (WARNING_DAYS if self._endpoint is None else FETCHED_WARNING_DAYS) if left <= days]
        if passed and (lic.license_id, lic.sequence, min(passed)) != self._warned:
            self._warned = (lic.license_id, lic.sequence, min(passed))
            _log.warning(
                "the licence ends soon" if left > 0 else "the licence has ended and is in grace",
                days_left=max(0, int(left)),
                expires_at=f"{lic.expires_at:%Y-%m-%d %H:%M} UTC",
                next_step="put the renewed licence file into the licence folder"
                if self._endpoint is None
                else "ask the vendor why the billing endpoint gives no next licence",
            )

    @property
    def ledger_is_damaged(self) -> bool:
        """Whether some process has met damage in the ledger; the next start mends it."""
        return damage_path(self._ledger.path).exists()

    def look_over_ledger(self) -> None:
        """After the start: have a large ledger's structure checked, beside the work and at the lowest priority."""
        if is_small(self._ledger.path):
            return  # the start has read all of it

        def work() -> None:
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
            try:
                problem = look_over(self._ledger.path)
            except Exception as exc:  # noqa: BLE001 - the work goes on; the next start looks again
                _log.warning("the ledger could not be looked over", cause=str(exc))
                return
            if problem:
                _log.error("the ledger is damaged", cause=problem, next_step="nothing: the next start rebuilds it")

        threading.Thread(target=work, name="ledger-check", daemon=True).start()

    def watch_output(self) -> None:
        """See whether the output mount is well, between two windows; no attempt is counted.

        Status and lease are made up for here, where a window's begin could not write them: the core would refuse all
        until the next one.
        """
        before = self._output_problem
        self._ledger.restore_reserve()
        try:
            self._output.probe(durable=False)
            self._look_at_history()
        except OutputUnwritableError as exc:
            self._output_problem = f"{exc}. {exc.next_step}"
            if not before:
                _log.warning("the output folder cannot be written", cause=str(exc), next_step=exc.next_step)
        else:
            self._output_problem = ""
            if before:
                _log.info("the output folder can be written again")
        self._publish()
        self.mint()

    def watch_endpoint(self) -> None:
        """Between two cycles: the first contact, a licence where there is none, what an outage has left to report.

        No attempt is counted: a cycle counts its own.
        """
        if self._endpoint is None or not self._endpoint.is_due(
            licensed=self._license is not None, longest_pause_seconds=self._window_seconds[0]
        ):
            return
        try:
            done = self._endpoint.meet(BACKLOG_SECONDS, self._looked_license)
        except BillingError:
            pass  # told, and remembered, where it was noticed
        else:
            # A test write may succeed where a record file does not: none may be left to write either.
            is_written = not self._output_problem and not self._ledger.pending_records()
            if done.failure is None and not done.interrupted and is_written:
                self._ledger.cycle_succeeded()
                self._failed_cycles = self._unpersisted_failures = 0
        self._publish()
        self.mint()

    def interrupt_contact(self) -> None:
        """The process ends: cut short what goes on with the endpoint. May come from another thread."""
        if self._endpoint is not None:
            self._endpoint.interrupt()

    def mint(self) -> None:
        """Mint the lease for the open window if queries may be served, else take it back."""
        verdict = self._verdict()
        lic = self._license
        if lic is None or not verdict.serves:
            self._revoke()
            return
        until_ms = self._deadline_ns // 1_000_000 + LEASE_SLACK_SECONDS * 1000
        key = (lic.license_id, lic.sequence, until_ms)
        if key == self._minted:
            return
        now = self._ledger.keep_time()
        from_ms = now.reading.boottime_ns // 1_000_000
        if from_ms >= until_ms:
            return  # the window is over, and the cycle that is due mints for the next
        lease = Lease(
            license_id=lic.license_id,
            license_sequence=lic.sequence,
            instance=self._device.instance_id,
            boot_id=now.reading.boot_id,
            from_boottime_ms=from_ms,
            until_boottime_ms=until_ms,
            effective_ms=now.ns // 1_000_000,
            serial=from_ms,
        )
        with self._keeping_state():
            envelope = seal_lease(lease, self._device.signing_key)
            write_file(self._licenses.lease_path, [envelope], mode=0o640, overwrite=True)
        self._minted = key

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _serving_license(self) -> License | None:
        """The licence under which work is admitted now, as far as licences are concerned."""
        view = self._look()
        return view.license if view.serves else None

    def _looked_license(self) -> License | None:
        self.watch_license()
        return self._license

    def _look(self) -> LicenseView:
        return self._licenses.look(self._ledger.now().at, self._ledger.snapshot(READ_PAGES_METER))

    def _anchor_ns(self) -> int:
        """The newest instant that a licence in the folder vouches for."""
        verdicts = self._look().verdicts
        anchors = [verdict.license.time_anchor for verdict in verdicts if verdict.license is not None]
        return max((int(at.timestamp()) * 1_000_000_000 for at in anchors if at is not None), default=0)

    def _note_license(self) -> None:
        """Enter into the ledger which licence is in force, or that none is."""
        lic = self._license
        fields: dict[str, Any] = {"in_force": lic is not None}
        if lic is None:
            view = self._look()
            reason = view.judgement.reason if view.judgement else view.problem
            if self._endpoint is None:
                _log.warning("The container has no valid disconnected container licence", cause=reason)
            else:
                _log.info("no licence is in force yet; it is fetched from the billing endpoint", cause=reason)
        else:
            fields |= {
                "license_id": lic.license_id,
                "sequence": lic.sequence,
                "evaluation": lic.evaluation,
                "expires_at": int(lic.expires_at.timestamp()),
            }
            _log.info("licence in force", license_id=lic.license_id, sequence=lic.sequence, evaluation=lic.evaluation)
        self._ledger.note_license(fields, in_force=_identity(lic))

    @property
    def _is_nameless(self) -> bool:
        """Whether nobody can tell the log's name: no window has closed, and there is no trust root to name the vendor.

        The first window names the log for good, and the vendor takes nothing of one under another name.
        """
        if self._licenses.trust_root is None and not self._ledger.window_count():
            self._look()
            return self._licenses.trust_root is None
        return False

    def _wait_for_name(self) -> CycleOutcome:
        """Leave the window open; without a trust root there is no licence, so no use can come into it."""
        self._has_waited_for_name = True
        step = "check Sidecar:TrustRoot"
        _log.warning("no window is closed before there is a trust root", cause=self._look().problem, next_step=step)
        self.plan()
        self.mint()
        return CycleOutcome(failed_cycles=self._failed_cycles, failure="")

    def _close_window(self, reason: str) -> None:
        # One that was left open for longer than a window may last is closed late, as after a crash: no gap to audit.
        self._ledger.close_window("recovery" if self._has_waited_for_name else reason, self._context())
        self._has_waited_for_name = False

    def _deliver(self) -> list[Path]:
        """Seal and write every closed window that is not on the output mount yet, oldest first."""
        pending = self._seal_pending()
        if not pending:
            return []
        sizes = {record.size for record in pending}
        windows = [one for one in self._ledger.sealed_windows(min(sizes) - 1) if one.size in sizes]
        last = self._ledger.last_seal()
        files = [self._write(window, newest=last is not None and window.size == last[0]) for window in windows]
        self._keep_seal()
        return files

    def _seal_pending(self) -> list[PendingRecord]:
        """Seal every closed window, also those that cannot be written now: an export carries them all the same."""
        pending = self._ledger.pending_records()
        for record in pending:
            if record.root is None:
                self._ledger.seal_window(record, partial(self._sign, str(record.window["origin"])))
                self._keep_seal()
        return pending

    def _sign(self, origin: str, size: int, root: bytes) -> str:
        return sign_checkpoint(origin, size, root, self._device.signing_key)

    def _write(self, window: SealedWindow, *, newest: bool) -> Path:
        name = record_name(window.first_seq, window.size, instant(window.window["closed"]["effective_ms"] * 1_000_000))
        try:
            path, digest = self._write_once(name, window, newest=newest)
        except FileExistsError:
            self._make_room(name, window)
            try:
                path, digest = self._write_once(name, window, newest=newest)
            except FileExistsError as exc:
                raise OutputUnwritableError(
                    f"{self._output.folder / FOLDER / name} came back with other content while it was being replaced",
                    next_step="find out what else writes there; nothing but this service may",
                ) from exc
        self._ledger.mark_written(window.size, str(path.relative_to(self._output.folder)), digest)
        return path

    def _write_once(self, name: str, window: SealedWindow, *, newest: bool) -> tuple[Path, str]:
        chunks = render_window(self._ledger, window, self._device.instance_id)
        return self._output.write(name, chunks, window.note, window.size, newest=newest)

    def _make_room(self, name: str, window: SealedWindow) -> None:
        """Move a damaged file aside; but one that this device sealed otherwise is evidence of two histories."""
        told = self._believe(self._output.checkpoint_at(window.size))
        if told is not None and (told.size, told.root) != (window.size, window.root):
            raise self._two_histories(window.size)
        self._set_aside(f"{FOLDER}/{name}")

    def _set_aside(self, file: str) -> None:
        aside = self._output.set_aside(file, self._ledger.now().at)
        _log.warning("a damaged record file was moved aside and is written again", file=file, aside=aside)
        self._ledger.append("quarantine", {"what": "record_file", "file": file, "aside": aside})

    def _look_at_history(self) -> None:
        """See that the newest checkpoint on the mount, if this device signed it, is one of this ledger's.

        Raises:
            OutputUnwritableError: It is of another history.
        """
        note = self._output.checkpoint()
        if note == self._seen_note:
            return
        told = self._believe(note)
        if told is not None:
            size = self._ledger.snapshot(READ_PAGES_METER).size
            root = self._ledger.known_root_at(told.size) if told.size <= size else b""
            if root not in (None, told.root):
                raise self._two_histories(told.size)
        self._seen_note = note

    def _believe(self, note: str) -> Checkpoint | None:
        """A checkpoint, if this device signed it."""
        with suppress(LicensesError):
            return open_checkpoint(note, {unverified_checkpoint(note).origin: self._device.verifying_key})
        return None

    def _two_histories(self, size: int) -> OutputUnwritableError:
        return OutputUnwritableError(
            f"{self._output.folder} holds other records of {size} sealed entries: this ledger, or these records, come "
            "from an older copy of the device",
            next_step="keep both as they are and call the vendor; point Mounts:Output elsewhere to go on meanwhile",
        )

    def _look_for_losses(self) -> None:
        """Record files that vanished from the mount are written again, some at each cycle."""
        since = month_of(self._ledger.now().ns - int(KEEP_RECORDS.total_seconds()) * 1_000_000_000)
        gone = self._output.missing(self._ledger.written_files(since))
        if gone:
            self._ledger.append("fault", {"code": "records_missing", "files": len(gone)})
            self._ledger.mark_unwritten(gone[-_REWRITTEN_AT_ONCE:])
            _log.warning(
                "record files are missing from the output folder; they are written again from the ledger",
                files=len(gone),
                next_step="nothing to do if they were moved away on purpose; else find out who deletes there",
            )

    def _look_at_newest(self) -> None:
        """At a start: the newest file is the one that a crash of the host may have torn."""
        last = self._ledger.last_file()
        if last is not None and not self._output.is_sound(last[0], last[1]):
            self._set_aside(last[0])
            self._ledger.mark_unwritten([last[2]])

    def _keep_seal(self) -> None:
        kept = self._ledger.kept_seal()
        if kept is not None:
            with self._keeping_state():
                kept.write(self._settings.state_directory)

    def _context(self) -> dict[str, Any]:
        lic = self._license
        return {
            "license_id": lic.license_id if lic else "",
            "license_sequence": lic.sequence if lic else 0,
            "evaluation": bool(lic and lic.evaluation),
            # Frozen with the window: a file written again after an upgrade must have the same bytes.
            "product_version": __version__,
            "origin": f"{self._licenses.vendor}/{self._device.device_id}",
        }

    def _context_before(self) -> dict[str, Any]:
        """Of a window that a crash left open: it was worked in under the licence that the log names last."""
        noted = self._ledger.noted_license()
        return self._context() | {
            "license_id": noted.get("license_id", ""),
            "license_sequence": noted.get("sequence", 0),
            "evaluation": noted.get("evaluation", False),
        }

    def _failed(self, exc: OutputUnwritableError | LedgerUnavailableError | BillingError) -> CycleOutcome:
        cause = f"{exc}. {exc.next_step}"
        word = exc.status if isinstance(exc, BillingError) else ""
        try:
            count = self._ledger.cycle_failed(cause, {"code": exc.code} | ({"status": word} if word else {}), word=word)
        except LedgerUnavailableError:
            self._unpersisted_failures += 1
            count = self._failed_cycles + self._unpersisted_failures
        else:
            self._failed_cycles, self._unpersisted_failures = count, 0
        self._output_problem = ""
        limit = attempts_allowed(self._settings, self._license)
        log = _log.error if count >= limit or count in (1, 5, 8) else _log.warning
        event = f"metering attempt failed with status '{word}'" if word else "metering attempt failed"
        log(event, attempt=count, of=limit, cause=str(exc), next_step=exc.next_step)
        try:
            self.plan()
            self.mint()
        except LedgerUnavailableError:
            self._revoke()
        return CycleOutcome(failed_cycles=count, failure=cause)

    def _verdict(self) -> Verdict:
        """The decision as far as the meter is concerned: it does not ask the core that waits for its lease."""
        snapshot = self._ledger.snapshot(READ_PAGES_METER)
        now: EffectiveTime = self._ledger.now()
        view = self._licenses.look(now.at, snapshot)
        terms_problem = self._terms.refusal(view.license, now.at) if view.license else ""
        metering: dict[str, Any] = metering_facts(snapshot, view.license, self._settings)
        return decide(
            Facts(
                effective_at=now.at,
                license=license_facts(view),
                license_problem=view.problem,
                license_step=view.next_step,
                terms_problem=terms_problem,
                output_problem=self._output_problem,
                connected=self._endpoint is not None,
                endpoint_problem=self._endpoint.problem if self._endpoint else "",
                endpoint_word=self._endpoint.word if self._endpoint else "",
                **metering,
            )
        )

    def _publish(self) -> None:
        """Tell the web what the meter alone knows, unless just that was told before."""
        status = MeterStatus(
            deadline_ns=self._deadline_ns,
            boot_id=self._clock.read().boot_id,
            output_problem=self._output_problem,
            endpoint_problem=self._endpoint.problem if self._endpoint else "",
            endpoint_word=self._endpoint.word if self._endpoint else "",
            contact_ms=self._endpoint.contact_ms if self._endpoint else 0,
        )
        if status == self._published:
            return
        with self._keeping_state():
            status.write(self._settings.state_directory)
        self._published = status

    @contextmanager
    def _keeping_state(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            folder = self._settings.state_directory
            raise LedgerUnavailableError(
                f"{folder}: {exc.strerror or exc}", next_step=f"check free space and owner of {folder}"
            ) from exc

    def _revoke(self) -> None:
        self._minted = None
        try:
            self._licenses.lease_path.unlink(missing_ok=True)
        except OSError as exc:
            # It ends by itself with its window, and every look tries again; nothing else may stop for it.
            _log.error("the lease cannot be taken back", cause=f"{self._licenses.lease_path}: {exc.strerror or exc}")


def _identity(lic: License | None) -> tuple[str, int] | None:
    return None if lic is None else (lic.license_id, lic.sequence)
