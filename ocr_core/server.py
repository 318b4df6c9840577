"""The core's processes: a gunicorn master, its workers on a Unix socket, and what a worker is bound to after the fork.

Invariants:

* One process more than pages at a time: while all of them read, one is left to answer `/health` and `/inspect`.
* A worker dies with its master, at its deadline, and at its memory limit; the master starts another in its place.
"""

import errno
import logging
import os
import signal
import socket
import stat
import time
from pathlib import Path

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from ocr_core import limits
from ocr_core.app import SERVICE, WsgiApp
from ocr_core.settings import Settings

SOCKET_MODE = 0o660
_GRACEFUL_SECONDS = 10
_HEARTBEATS = "/dev/shm"  # noqa: S108 - memory, so that a slow disk never looks like a hung worker
_PROBES = 10
_PROBE_PAUSE_SECONDS = 0.1
_HARD_DEADLINE_AFTER_SECONDS = 6  # later than the sidecar gives up, so that it does not try a hopeless page again
_MASTER_DEADLINE_AFTER_SECONDS = 10


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


class CoreServer(BaseApplication):  # type: ignore[misc]
    """gunicorn around the app: sync workers on a Unix socket, nothing read from its own configuration files."""

    def __init__(self, settings: Settings, app: WsgiApp) -> None:
        self._settings = settings
        self._app = app
        self._master = os.getpid()
        super().__init__()

    def load_config(self) -> None:
        """Set what gunicorn must know."""
        settings = self._settings
        for name, value in {
            "bind": f"unix:{settings.socket}",
            "worker_tmp_dir": _HEARTBEATS if os.access(_HEARTBEATS, os.W_OK) else None,
            "umask": 0o777 & ~SOCKET_MODE,
            "worker_class": "sync",
            "workers": settings.workers + 1,
            "preload_app": True,
            "timeout": settings.page_timeout_seconds + _MASTER_DEADLINE_AFTER_SECONDS,
            "graceful_timeout": _GRACEFUL_SECONDS,
            "control_socket_disable": True,
            "proc_name": SERVICE,
            "accesslog": None,
            "errorlog": "-",
            "loglevel": logging.getLevelName(min(max(settings.log_level, logging.WARNING), logging.CRITICAL)).lower(),
            "limit_request_line": 1024,
            "limit_request_fields": 32,
            "limit_request_field_size": 32 * 1024,
            "post_fork": self._on_fork,
            "pre_request": self._before_request,
            "post_request": self._after_request,
        }.items():
            self.cfg.set(name, value)

    def load(self) -> WsgiApp:
        """The app."""
        return self._app

    def _on_fork(self, _arbiter: Arbiter, _worker: object) -> None:
        limits.die_with_parent(signal.SIGKILL, parent_pid=self._master)
        limits.limit_memory(self._settings.memory_bytes)

    def _before_request(self, _worker: object, _request: object) -> None:
        limits.arm_deadline(self._settings.page_timeout_seconds + _HARD_DEADLINE_AFTER_SECONDS)

    def _after_request(self, _worker: object, _request: object, _environ: object, _response: object) -> None:
        limits.disarm_deadline()
