"""The web process: gunicorn around the application.

Invariant: threads and connections to the ledger are made in the worker, after the fork, never in gunicorn's master,
which for that reason imports none of what serves (and stays half as large).
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from gunicorn.app.base import BaseApplication
from gunicorn.http.unreader import SocketUnreader

from sidecar.service_manager import has_manager
from sidecar.settings import Settings
from sidecar.web.watched import WatchedArbiter, WorkerReports

GRACEFUL_SECONDS = 4
_ARENAS = 2
_M_ARENA_MAX = -8  # malloc.h
_PIECE_BYTES = 128 * 1024
_UNDECIDED_STATE = "STARTING"  # of `gate.State`, which the master has no need of
_log = structlog.get_logger("Tollgate.Web")


class WebServer(BaseApplication):  # type: ignore[misc]
    """Serves the HTTP API until SIGTERM.

    Args:
        settings: The settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._reports = WorkerReports()
        super().__init__()

    def run(self) -> None:
        """Serve; on the sockets that the service manager hands over where it does, else on its own."""
        try:
            WatchedArbiter(self, self._reports, _damage_to_end_for(self._settings)).run()
        except RuntimeError as exc:
            _log.critical("the web process cannot go on", error=str(exc))
            sys.exit(1)

    def load_config(self) -> None:
        """Set gunicorn up; nothing is read from its own files or environment."""
        settings = self._settings
        for name, value in {
            "bind": [settings.listen],
            "worker_class": "sidecar.web.worker.ApiWorker",
            "workers": settings.web_workers,
            "threads": settings.web_threads,
            "worker_connections": 1000,
            "keepalive": 75,
            "timeout": 60,
            "graceful_timeout": GRACEFUL_SECONDS,
            "backlog": 1024,
            "accesslog": None,
            "errorlog": "-",
            "loglevel": "error",  # its warnings tell client addresses
            "forwarded_allow_ips": "",
            "secure_scheme_headers": {},
            "control_socket_disable": True,
            "proc_name": "sidecar-web",
            "post_fork": self._forked,
            "pre_request": _serving,
            "post_worker_init": _started,
            "worker_exit": _stopped,
        }.items():
            self.cfg.set(name, value)

    def _forked(self, _server: Any, worker: Any) -> None:
        """The log's own threads belong to the worker."""
        from sidecar.bootstrap import LogSinks

        _spare_memory()
        worker.reports = self._reports
        worker.log_sinks = LogSinks(self._settings, "web")

    def load(self) -> Any:
        """Build the application in the worker."""
        from sidecar.bootstrap import build_services
        from sidecar.web.app import create_app

        return create_app(build_services(self._settings))


def _damage_to_end_for(settings: Settings) -> Path | None:
    """The mark of damage, where each process has a container of its own; a launcher or systemd would stop us for it."""
    return None if has_manager(os.environ) else settings.damage_mark


def _spare_memory() -> None:
    """Keep large uploads from leaving their size behind: few heaps for many threads, small pieces off the socket."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc's, which else has a heap for each few threads
        mallopt(_M_ARENA_MAX, _ARENAS)
    SocketUnreader.max_body_chunk = _PIECE_BYTES


def _services(worker: Any) -> Any:
    """The services behind a worker's application; None when it could not be built."""
    app = worker.app.callable
    return None if app is None else app.extensions["sidecar"]


def _serving(worker: Any, message: Any) -> None:
    from sidecar.web.bodies import note_message

    note_message(worker, message)


def _started(worker: Any) -> None:
    one = _services(worker)
    if one is not None:
        from sidecar.bootstrap import WebPresence

        worker.presence = WebPresence(one.settings)
        one.start(partial(_report, worker.reports))
        # What is there now stays. Let the collector not go through it again and again: that takes tens of
        # milliseconds, in which nothing is answered.
        gc.collect()
        gc.freeze()
        _log.info("Now listening on: http://" + one.settings.listen)


def _report(reports: WorkerReports, standing: Any) -> None:
    verdict = standing.verdict
    reports.tell(f"{verdict.state}: {verdict.reason}", decided=verdict.state != _UNDECIDED_STATE)


def _stopped(_server: Any, worker: Any) -> None:
    one = _services(worker)
    if one is not None:
        one.stop()
        worker.presence.end()
    worker.log_sinks.stop()
