"""The core's processes: a gunicorn master, its workers on a Unix socket, and what a worker is bound to after the fork.

Invariants:

* More processes than pages at a time: while all of those are read, some are left for documents that take long to
  decode, and one to answer `/health` and `/inspect`.
* A worker dies with its master, at its deadline, and at its memory limit; the master starts another in its place.
* A worker that has grown ends of itself after an answer. What waits to be accepted waits in the socket, which all hold.
* Where no process may be started for a while, those that are there serve on; it is tried again about every second.
"""

import errno
import logging
import os
import signal
import socket
import stat
import sys
import time
from pathlib import Path

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.workers.sync import SyncWorker

from ocr_core import confinement, limits
from ocr_core.app import DECODING_SECONDS, HARD_DEADLINE_AFTER_SECONDS, SERVICE, WsgiApp
from ocr_core.confinement import Role
from ocr_core.decoder_process import DecoderProcess
from ocr_core.errors import DecoderLostError
from ocr_core.gatekeeper import Gatekeeper
from ocr_core.log import ServerLogger
from ocr_core.memory_share import most_at_once
from ocr_core.second_engine import SecondEngineHost
from ocr_core.service_manager import tell_workers
from ocr_core.settings import Settings
from ocr_core.slots import Slots

SOCKET_MODE = 0o660
_GRACEFUL_SECONDS = 10
_HEARTBEATS = "/dev/shm"  # noqa: S108 - memory, so that a slow disk never looks like a hung worker
_PROBES = 10
_PROBE_PAUSE_SECONDS = 0.1
_MASTER_DEADLINE_AFTER_SECONDS = 30
_MASTER_WAITS_SECONDS = 1.0
_PATIENCE_SECONDS = 5.0
_PAUSE_SECONDS = 1.0  # before a worker ends that could not begin: the next is forked at once, and would fare no better
_TRIMMED_ABOVE_BYTES = 112 * 2**20  # what is given back must be fetched again for the next page
_REQUESTS = 20_000
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_WORKER_CPU_SECONDS = 3600

_log = logging.getLogger("ocr_core")


def processes(settings: Settings) -> int:
    """How many workers there are: one for each page that is read at once, some for what takes long, one to spare."""
    return settings.workers + most_at_once(settings.workers) + 2


def make_slots(settings: Settings) -> Slots:
    """Slots for all processes, and for those that replace them while they end."""
    return Slots(
        2 * processes(settings),
        cores=settings.workers,
        arm=limits.arm_deadline,
        disarm=limits.disarm_deadline,
    )


def prepare_socket(path: Path) -> None:
    """Make the folder, clear away a socket that nobody listens on.

    Raises:
        OSError: EADDRINUSE when another core answers there, or when something else lies in the way.
    """
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "something that is no socket lies there")
    for _ in range(_PROBES):  # the workers of a master that was killed take a moment to die
        if not _answers(path):
            path.unlink(missing_ok=True)
            return
        time.sleep(_PROBE_PAUSE_SECONDS)
    raise OSError(errno.EADDRINUSE, "another core is running there")


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_PAUSE_SECONDS)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except TimeoutError:
            pass
        return True


def cpu_seconds(settings: Settings) -> int:
    """CPU time after which the kernel kills a worker; one that is well ends of itself before, between two pages."""
    return _WORKER_CPU_SECONDS + 3 * settings.page_timeout_seconds


class CoreServer(BaseApplication):  # type: ignore[misc]
    """gunicorn around the app: sync workers on a Unix socket, nothing read from its own configuration files.

    Args:
        settings: What the core is told.
        app: What answers.
        slots: What the workers know of each other; from `make_slots`.
        decoder: Decodes documents, in a process beside each worker.
        gatekeeper: Holds the second wall, in the master.
        second: Keeps the second engine, where there is one.
    """

    def __init__(
        self,
        settings: Settings,
        app: WsgiApp,
        slots: Slots,
        *,
        decoder: DecoderProcess,
        gatekeeper: Gatekeeper,
        second: SecondEngineHost | None = None,
    ) -> None:
        self.settings = settings
        self.slots = slots
        self.decoder = decoder
        self.gatekeeper = gatekeeper
        self.second = second
        self._app = app
        self._master = os.getpid()
        super().__init__()

    def load_config(self) -> None:
        """Set what gunicorn must know."""
        settings = self.settings
        for name, value in {
            "bind": f"unix:{settings.socket}",
            "worker_tmp_dir": _HEARTBEATS if os.access(_HEARTBEATS, os.W_OK) else None,
            "umask": 0o777 & ~SOCKET_MODE,
            "worker_class": CoreWorker,
            "workers": processes(settings),
            "preload_app": True,
            "timeout": max(settings.page_timeout_seconds, int(DECODING_SECONDS)) + _MASTER_DEADLINE_AFTER_SECONDS,
            "graceful_timeout": _GRACEFUL_SECONDS,
            "control_socket_disable": True,
            "proc_name": SERVICE,
            "accesslog": None,
            "errorlog": None,  # it goes the way of our own log
            "logger_class": ServerLogger,
            "loglevel": logging.getLevelName(min(max(settings.log_level, logging.WARNING), logging.CRITICAL)).lower(),
            "limit_request_line": 1024,
            "limit_request_fields": 32,
            "limit_request_field_size": 32 * 1024,
            "when_ready": self._when_ready,
            "pre_fork": self._before_fork,
            "post_fork": self._on_fork,
            "child_exit": self._on_exit,
        }.items():
            self.cfg.set(name, value)

    def load(self) -> WsgiApp:
        """The app."""
        return self._app

    def run(self) -> None:
        """Serve until told to stop; ends in SystemExit."""
        self.slots.leave_out()
        CoreArbiter(self).run()

    def _when_ready(self, _arbiter: Arbiter) -> None:
        if self.settings.is_confined:
            found = confinement.confine(Role.KEEPER)
            _log.log(logging.DEBUG if found.complete else logging.WARNING, "master: %s", found)
        self.gatekeeper.start()

    def _before_fork(self, arbiter: "CoreArbiter", worker: "CoreWorker") -> None:
        worker.slot = self.slots.give()
        arbiter.unborn = worker
        self.slots.hand_down()

    def _on_fork(self, _arbiter: Arbiter, worker: "CoreWorker") -> None:
        for number in _ENDING:
            signal.signal(number, signal.SIG_DFL)  # the master's handlers would keep them to themselves
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        limits.die_with_parent(signal.SIGKILL, parent_pid=self._master)
        limits.limit_memory(self.settings.memory_bytes)
        self.slots.sit_down(worker.slot)
        self.slots.leave_out()
        worker.memory = limits.OwnMemory()
        if self.second is not None:
            self.second.leave_in_worker()
        self.gatekeeper.leave_in_worker()
        seconds = cpu_seconds(self.settings)
        # Before the worker is confined: it may start no process from then on.
        try:
            if not self.settings.is_confined:
                self.decoder.start()
                return
            self.decoder.start(lambda: confinement.confine(Role.READER, cpu_seconds=2 * seconds))
        except DecoderLostError as exc:
            _log.error("worker: no process for its decoder: %s; another begins in its place", exc.__cause__)
            time.sleep(_PAUSE_SECONDS)
            sys.exit(0)  # with any other code the master would stop, and all workers with it
        models = confinement.readable_models(self.settings.tessdata)
        found = confinement.confine(Role.READER, readable=models, cpu_seconds=seconds)
        if not found.complete:
            _log.debug("worker: %s", found)

    def _on_exit(self, _arbiter: Arbiter, worker: "CoreWorker") -> None:
        death = self.slots.take_back(worker.slot)
        if death is not None:
            why = "outlived its deadline" if death.overdue else "was lost"
            _log.warning("worker %d %s at %s; replaced", worker.pid, why, death.task.name.lower())


class CoreWorker(SyncWorker):  # type: ignore[misc]
    """Serves one request at a time, each under a deadline; ends between two when it has grown too large."""

    app: CoreServer
    slot: int
    requests_left: int
    memory: limits.OwnMemory

    def init_process(self) -> None:
        """Begin to serve."""
        self.requests_left = _REQUESTS + self.slot * _REQUESTS // 16  # so that not all are replaced at once
        super().init_process()

    def run(self) -> None:
        """Serve until told to end, or until it is better to."""
        super().run()
        if self.app.decoder.has_failed():
            _log.error("worker: its decoder could not work; another begins in its place")
            time.sleep(_PAUSE_SECONDS)

    def init_signals(self) -> None:
        """Listen to signals; to that of a decoder that went away as well: nobody is to be sent here then."""
        super().init_signals()
        signal.signal(signal.SIGCHLD, self._decoder_ended)
        signal.siginterrupt(signal.SIGCHLD, False)
        self._decoder_ended()  # it may have gone before that

    def _decoder_ended(self, *_: object) -> None:
        """End after what is being answered: a confined worker can start no other decoder."""
        if self.app.decoder.is_lost():
            self.alive = False

    def handle(self, listener: socket.socket, client: socket.socket, addr: object) -> None:
        """Serve one connection."""
        client.settimeout(_PATIENCE_SECONDS)  # one who does not end his request, or take his answer, holds no worker
        allowed = self.app.settings.page_timeout_seconds + DECODING_SECONDS + HARD_DEADLINE_AFTER_SECONDS
        with self.app.slots.request(allowed):
            super().handle(listener, client, addr)
        self.requests_left -= 1
        is_spent = self.requests_left <= 0 or time.process_time() > _WORKER_CPU_SECONDS or self.app.decoder.pid is None
        most = self.app.settings.recycle_bytes
        if is_spent or not self.memory.is_within(most, trimmed_above=_TRIMMED_ABOVE_BYTES):
            self.alive = False

    def handle_request(self, listener: socket.socket, req: object, client: socket.socket, addr: object) -> None:
        """Answer one request, unless who asked has gone while it waited."""
        if not limits.has_hung_up(client):
            super().handle_request(listener, req, client, addr)


class CoreArbiter(Arbiter):  # type: ignore[misc]
    """The master; it also ends workers that no timer of their own can end, because they were stopped."""

    app: CoreServer
    unborn: CoreWorker | None

    def __init__(self, app: CoreServer) -> None:
        self._stopped: frozenset[int] = frozenset()
        self._is_refused = False
        self.unborn = None
        super().__init__(app)

    def manage_workers(self) -> None:
        """Have as many workers as there must be; called before the first fork, and every second."""
        if self.app.second is not None:
            self.app.second.tend()
        super().manage_workers()

    def spawn_worker(self) -> None:
        """Fork one worker, where that is possible; told to end before it can listen to signals, it ends."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        try:
            super().spawn_worker()
            self.unborn, self._is_refused = None, False
        except OSError as exc:
            if os.getpid() != self.pid:
                raise  # in the worker itself
            self._give_up_unborn(exc)
        finally:
            self.app.slots.leave_out()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)

    def _give_up_unborn(self, reason: OSError) -> None:
        """Start no worker now; `manage_workers` tries again."""
        if not self._is_refused:  # once, not every second
            _log.error("no process for another worker: %s; %d serve on", reason.strerror, len(self.WORKERS))
        self._is_refused = True
        worker, self.unborn = self.unborn, None
        if worker is not None:
            self.app.slots.take_back(worker.slot)
            worker.tmp.close()

    def murder_workers(self) -> None:
        """End workers that hang or stand still; called every second."""
        super().murder_workers()
        stopped = frozenset(pid for pid in self.WORKERS if limits.is_stopped(pid))
        for pid, worker in list(self.WORKERS.items()):
            is_late = self.app.slots.overdue_by(worker.slot) > _MASTER_WAITS_SECONDS
            if is_late or pid in stopped & self._stopped:
                self.kill_worker(pid, signal.SIGKILL)
        self._stopped = stopped
        tell_workers(len(self.WORKERS.keys() - stopped), self.num_workers)
