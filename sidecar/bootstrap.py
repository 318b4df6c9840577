"""The composition root: from settings to running parts. The only module that knows how they connect.

Invariant: nothing is built twice in one process, and nothing is opened before it is needed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog

from licenses.device_key import DeviceKey, handed_over_key, instance_id_of, load_device_public
from licenses.durable import make_folders
from licenses.errors import LicensesError
from licenses.keys import VerifyingKey
from sidecar import __version__
from sidecar.admission import Admission, Standing
from sidecar.billing_client import BillingClient, proxy_for
from sidecar.clock import Clock, SystemClock
from sidecar.connection import Connection
from sidecar.core_client import DECODING_SECONDS, CoreClient
from sidecar.document_download import DocumentDownload
from sidecar.endpoint import Endpoint
from sidecar.errors import LedgerUnavailableError, MeterAlreadyRunningError, SettingsError, SidecarError
from sidecar.exchange import Exchange
from sidecar.ledger import Ledger, recount_path, start_ledger
from sidecar.license_mount import LEASE_NAME, LicenseMount
from sidecar.log_files import BYTES_PER_MEGABYTE, LogFiles, known_instance
from sidecar.log_queue import QueuedSink
from sidecar.logs import add_sinks
from sidecar.metering import Meter
from sidecar.reading import Reader
from sidecar.record_output import RecordOutput, instance_folder
from sidecar.results import OperationStore
from sidecar.settings import Settings

LOCK_NAME = "meter.lock"
WEB_LOCK_NAME = "web.lock"
_DEVICE_WAIT_SECONDS = 30.0
_DEVICE_PATIENCE_SECONDS = 2.0
_METER_SILENCE_SECONDS = 20.0
_LAST_LINES_SECONDS = 1.0
_log = structlog.get_logger("Tollgate.Sidecar")


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything behind the web's routes: handed to the application, never global.

    Attributes:
        settings: The settings.
        clock: Where readings come from.
        ledger: The ledger.
        admission: The gate.
        reader: Takes documents in.
        downloads: Fetches documents that are named by URL.
        callers: Bounds those who send documents, or wait for one to be read: some threads are always left for polls,
            probes and pages.
    """

    settings: Settings
    clock: Clock
    ledger: Ledger
    admission: Admission
    reader: Reader
    downloads: DocumentDownload
    callers: threading.BoundedSemaphore

    def start(self, on_standing: Callable[[Standing], None] | None = None) -> None:
        """Start the threads behind the routes; call it in the process that serves.

        Args:
            on_standing: Told of each decision, as soon as it is made.
        """
        if self.settings.document_sources:
            _log.warning("Documents are fetched from the network.", places=str(self.settings.document_sources))
        self.reader.start()
        if recount_path(self.ledger.path).exists():
            threading.Thread(target=self._recount, name="recount", daemon=True).start()

        def decided(standing: Standing) -> None:
            self.reader.widen(standing.core.workers if standing.core else 0)
            if on_standing is not None:
                on_standing(standing)

        self.admission.start(decided)

    def _recount(self) -> None:
        """After a repair of the ledger: results that clients may have seen are counted again where they are missing."""
        try:
            since = recount_path(self.ledger.path).read_text(encoding="ascii") or "0"
            pages = self.reader.recount(since_ns=int(since) * 1_000_000)
            recount_path(self.ledger.path).unlink(missing_ok=True)
        except (SidecarError, OSError, ValueError) as exc:
            _log.warning("results could not be counted again; the next start tries it once more", cause=str(exc))
        else:
            _log.info("results in the spool were offered to the ledger again", pages=pages)

    def stop(self) -> None:
        """Stop them; unfinished operations stay in the spool."""
        self.reader.stop()
        self.admission.stop()


def ledger_path(settings: Settings) -> Path:
    """Where the ledger is."""
    return settings.ledger_path


def migrate(settings: Settings, clock: Clock | None = None) -> None:
    """Make the state directory, bring the ledger up to date and mend it; one process at a time does it.

    Raises:
        LedgerUnavailableError: The state directory or the ledger cannot be used.
    """
    handle = _open_lock(settings, "migrate.lock")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        key = _device_public(settings)
        instance = instance_id_of(key.raw) if key else "none"
        started = start_ledger(
            ledger_path(settings),
            records=instance_folder(settings.output_directory, instance),
            key=key,
            clock=SystemClock() if clock is None else clock,
            version=__version__,
            limit_seconds=settings.output_timeout_seconds,
        )
        if started.repair is not None:
            _log.error(
                "the ledger was rebuilt; the old files were moved aside",
                cause=started.repair.cause,
                aside=str(started.repair.aside),
                entries=started.repair.entries,
                entered_again=started.repair.entered_again,
            )
    finally:
        os.close(handle)


class LogSinks:
    """The log's ways beside the console, as the settings want them; a context that ends with a last try to deliver.

    Make it in the process that logs, after the fork. Without `Logging:Disk:Format` and `Fluentd:Host` it does nothing.

    Args:
        settings: The settings.
        process: This process's name.
    """

    def __init__(self, settings: Settings, process: str) -> None:
        self._sinks = [*_disk_sink(settings, process), *_fluentd_sink(settings, process)]
        for sink in self._sinks:
            sink.start()
        add_sinks(*self._sinks)

    def __enter__(self) -> LogSinks:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Deliver what waits, for a second at most: whoever stops us does not wait for long."""
        for sink in self._sinks:
            sink.finish()
        until = time.monotonic() + _LAST_LINES_SECONDS
        for sink in self._sinks:
            sink.join(max(0.0, until - time.monotonic()))


def _disk_sink(settings: Settings, process: str) -> list[QueuedSink]:
    if not settings.disk_log_format:
        return []
    megabytes = settings.disk_log_megabytes
    files = LogFiles(
        settings.output_directory,
        lambda: known_instance(settings.state_directory),
        process,
        max_bytes=None if megabytes is None else megabytes * BYTES_PER_MEGABYTE,
        max_files=settings.disk_log_files,
    )
    return [QueuedSink("Disk", "the output mount", files)]


def _fluentd_sink(settings: Settings, process: str) -> list[QueuedSink]:
    if not settings.fluentd_host:
        return []
    from sidecar.log_shipping import FluentdDelivery  # its library is not even loaded otherwise

    fluentd = FluentdDelivery(
        settings.fluentd_host,
        settings.fluentd_port,
        process,
        buffer_bytes=settings.fluentd_buffer_bytes,
        tls_seconds=settings.fluentd_tls_ms / 1000 if settings.fluentd_tls else None,
        ca_file=settings.fluentd_ca_file,
    )
    return [QueuedSink("Fluentd", "Fluentd", fluentd, idle_seconds=settings.fluentd_heartbeat_ms / 1000)]


def build_core_client(settings: Settings) -> CoreClient:
    """The sidecar's end of the core's socket."""
    return CoreClient(
        settings.core_socket,
        settings.state_directory / LEASE_NAME,
        page_seconds=max(settings.page_timeout_seconds, DECODING_SECONDS) + 5,
    )


def build_store(settings: Settings) -> OperationStore:
    """The spool."""
    return OperationStore(settings.shared_directory, result_seconds=settings.result_seconds)


def build_services(settings: Settings, clock: Clock | None = None) -> Services:
    """Everything behind the web's routes.

    Raises:
        SidecarError: The state directory, the ledger or the spool cannot be used.
    """
    clock = clock or SystemClock()
    migrate(settings, clock)
    licenses = _license_mount(settings, clock)
    store = build_store(settings)
    store.prepare()
    ledger = Ledger(ledger_path(settings), clock=clock, instance=_instance(licenses, settings), version=__version__)
    core = build_core_client(settings)
    admission = Admission(
        settings=settings, clock=clock, ledger=ledger, licenses=licenses, core=core, spool_problem=store.problem
    )
    reader = Reader(
        store=store,
        core=core,
        ledger=ledger,
        admission=admission,
        clock=clock,
        max_running_seconds=settings.max_running_minutes * 60,
        max_queued=settings.max_queued_operations,
        max_document_bytes=settings.max_document_bytes,
    )
    return Services(
        settings=settings,
        clock=clock,
        ledger=ledger,
        admission=admission,
        reader=reader,
        downloads=DocumentDownload(settings.document_sources),
        callers=threading.BoundedSemaphore(settings.web_threads * 3 // 4),
    )


def build_meter(settings: Settings, clock: Clock | None = None) -> Meter:
    """The meter. The caller holds the meter's lock.

    Raises:
        SidecarError: The state directory or the ledger cannot be used, or the settings need an evaluation licence.
    """
    clock = clock or SystemClock()
    migrate(settings, clock)
    try:
        device = DeviceKey.load_or_create(
            settings.state_directory,
            private_directory=settings.device_key_directory,
            handed_over=handed_over_key(os.environ),
        )
        if settings.core_state is not None:
            device.publish(settings.core_state)
    except LicensesError as exc:
        raise LedgerUnavailableError(str(exc), next_step=exc.next_step) from exc
    licenses = _license_mount(settings, clock, keeper=True)
    ledger = Ledger(ledger_path(settings), clock=clock, instance=device.instance_id, version=__version__)
    output = RecordOutput(settings.output_directory, device.instance_id, limit_seconds=settings.output_timeout_seconds)
    try:
        require_cadence(settings, licenses, ledger.now().at)
    except SidecarError:
        ledger.close()
        raise
    return Meter(
        settings=settings,
        clock=clock,
        ledger=ledger,
        licenses=licenses,
        device=device,
        output=output,
        jitter=random.SystemRandom(),
        endpoint=_endpoint(settings, ledger, licenses, device, clock=clock, output=output)
        if settings.is_connected
        else None,
    )


def build_billing_client(settings: Settings) -> BillingClient:
    """The way to the billing endpoint that the settings name; nothing is asked yet."""
    return BillingClient(
        settings.billing,
        settings.api_key,
        proxy_for(settings.billing, settings.proxy, settings.proxy_bypass),
        ca_file=settings.billing_ca_file,
    )


def _endpoint(
    settings: Settings,
    ledger: Ledger,
    licenses: LicenseMount,
    device: DeviceKey,
    *,
    clock: Clock,
    output: RecordOutput,
) -> Endpoint:
    exchange = Exchange(
        ledger=ledger,
        licenses=licenses,
        output=output,
        state_directory=settings.state_directory,
        license_directory=settings.license_folder,
        device_key_directory=settings.device_key_directory,
        handed_over_key=handed_over_key(os.environ),
    )
    connection = Connection(
        client=build_billing_client(settings),
        clock=clock,
        ledger=ledger,
        licenses=licenses,
        device=device,
        folder=settings.license_folder,
        exchange=exchange,
        proof_folder=settings.state_directory,
    )
    return Endpoint(connection, clock=clock, ledger=ledger)


def require_cadence(settings: Settings, licenses: LicenseMount, at: datetime) -> None:
    """Refuse windows or attempts outside the standard, unless the licence in force is an evaluation licence.

    Args:
        settings: The settings.
        licenses: The licence folder.
        at: The effective time, aware UTC.

    Raises:
        SettingsError: They are outside, and a production licence is in force.
    """
    if settings.has_standard_cadence:
        return
    view = licenses.look(at)
    if view.license is not None and not view.license.evaluation:
        raise SettingsError(
            "Metering:MinIntervalSeconds, Metering:MaxIntervalSeconds and Metering:MaxAttempts may leave 600, 900 and "
            "10 under an evaluation licence only",
            next_step="take these settings away",
        )


class MeterLock:
    """Exactly one meter per state directory: an advisory lock that the kernel drops with the process.

    Args:
        settings: Where the state directory is.

    Raises:
        MeterAlreadyRunningError: Somebody else holds it; the text says who.
        LedgerUnavailableError: The state directory cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._handle = _open_lock(settings, LOCK_NAME)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            holder = os.pread(self._handle, 200, 0).decode("utf-8", "replace").strip() or "an unknown process"
            os.close(self._handle)
            raise MeterAlreadyRunningError(
                f"another meter works on {settings.state_directory}: {holder}",
                next_step="stop that one, or give this instance a Sidecar:StateDirectory of its own",
            ) from exc
        with contextlib.suppress(OSError):  # on a full disk the lock still holds, it only does not tell whose it is
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)

    def at_work(self) -> None:
        """Leave word that the meter goes on, for who looks after it from outside; call it every second."""
        os.utime(self._handle)

    def release(self) -> None:
        """Let go of it; the kernel does so too when the process ends."""
        os.close(self._handle)


class WebPresence:
    """Word of a web process that it may still count pages; the kernel drops it with the process.

    Args:
        settings: Where the state directory is.

    Raises:
        LedgerUnavailableError: The state directory cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._handle = _open_lock(settings, WEB_LOCK_NAME)
        fcntl.flock(self._handle, fcntl.LOCK_SH)

    def end(self) -> None:
        """Nothing more will be counted."""
        os.close(self._handle)


def await_web(settings: Settings, seconds: float) -> bool:
    """Wait until no web process may count any more, so that the last window holds all pages.

    Args:
        settings: Where the state directory is.
        seconds: How long, at most.

    Returns:
        Whether they are all gone.
    """
    try:
        handle = _open_lock(settings, WEB_LOCK_NAME)
    except LedgerUnavailableError:
        return False
    until = time.monotonic() + seconds
    try:
        while True:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
    finally:
        os.close(handle)


def meter_problem(settings: Settings) -> str:
    """What is wrong with the meter's process, seen from outside; empty when it is at work."""
    path = settings.state_directory / LOCK_NAME
    try:
        with path.open("rb") as handle:
            # By the same clock that the meter leaves word by: a step of the clock is over with its next word.
            silence = abs(time.time() - os.fstat(handle.fileno()).st_mtime)
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "" if silence < _METER_SILENCE_SECONDS else f"the meter has not gone on for {silence:.0f} s"
    except OSError as exc:
        return f"the meter is not running: {path}: {exc.strerror or exc}"
    return "the meter is not running"


def _open_lock(settings: Settings, name: str) -> int:
    """A lock file in the state directory, which is made durably when it is not there: the ledger will lie in it."""
    try:
        make_folders(settings.state_directory, mode=0o750)
        return os.open(settings.state_directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as exc:
        uid, gid = os.geteuid(), os.getegid()
        step = f"make that folder (Sidecar:StateDirectory) and run 'chown {uid}:{gid}' on it"
        if exc.errno == errno.EROFS:
            step = (
                "mount it read-write; systemd's units let the service write at /var/lib/sidecar alone: mount the disk "
                "there, and leave Sidecar:StateDirectory at that"
            )
        raise LedgerUnavailableError(f"{settings.state_directory}: {exc.strerror or exc}", next_step=step) from exc


def _license_mount(settings: Settings, clock: Clock, *, keeper: bool = False) -> LicenseMount:
    return LicenseMount(settings, keeper=keeper, monotonic=lambda: clock.read().boottime_ns / 1e9)


def _device_public(settings: Settings) -> VerifyingKey | None:
    """The device's public key; None before the first start."""
    try:
        return load_device_public(settings.state_directory)
    except LicensesError:
        return None


def _instance(licenses: LicenseMount, settings: Settings) -> str:
    """The instance's id, once the meter has made the device key at its first start, however long that takes."""
    told_at = time.monotonic() - _DEVICE_WAIT_SECONDS + _DEVICE_PATIENCE_SECONDS
    while (device := licenses.device) is None:
        if time.monotonic() - told_at > _DEVICE_WAIT_SECONDS:
            told_at = time.monotonic()
            _log.warning(
                "waiting for the meter, which makes the device key at its first start",
                folder=str(settings.core_state_directory),
                next_step="start the meter ('sidecar meter'), or read its log",
            )
        time.sleep(0.05)
    return instance_id_of(device.raw)
