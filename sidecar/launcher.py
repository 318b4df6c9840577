"""The launcher: core, meter and web as child processes of one supervisor (container, or a terminal).

Invariant: a child that dies is started again, and when one cannot be kept alive the launcher stops the others and
exits non-zero. On SIGTERM or SIGINT web stops first, then the meter closes the window while the core ends; no child
outlives the launcher.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn

import structlog

from sidecar.settings import LAUNCHER_VARIABLE, Settings, is_setting
from sidecar.stop_signal import StopSignal

EXIT_CHILD_LOST = 70
_MAX_STARTS = 6
_MAX_MENDS = 3
_STARTS_WITHIN_SECONDS = 60.0
_STOP_SECONDS = {"web": 5.0, "meter": 3.5, "core": 1.0}
"""How long each may take to end. Meter and core end side by side: 8.5 s at most of the 10 s of `docker stop`."""
_PR_SET_PDEATHSIG = 1
_CORE = [sys.executable, "-m", "ocr_core"]
_log = structlog.get_logger("Tollgate.Launcher")


@dataclass(slots=True)
class _Child:
    name: str
    command: Sequence[str]
    environ: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    starts: list[float] = field(default_factory=list)


class Launcher:
    """Starts the three processes and keeps them.

    Args:
        settings: Handed down to the children through their environment, so that no secret shows in their arguments.
        environ: The launcher's own environment.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        launched = {LAUNCHER_VARIABLE: str(os.getpid())}
        own = _environment(settings, environ) | launched
        # Web needs no secret: only the meter calls the vendor.
        web = _environment(settings, environ, secrets=False) | launched
        python = [sys.executable, "-m"]
        self._children = [
            _Child("core", _CORE, core_environment(settings, environ) | launched),
            _Child("meter", [*python, "sidecar.cli", "meter"], own),
            _Child("web", [*python, "sidecar.cli", "web"], web),
        ]

    def run(
        self,
        is_ready: Callable[[], bool],
        is_damaged: Callable[[], bool] = lambda: False,
        mend: Callable[[], None] = lambda: None,
    ) -> int:
        """Run until a signal or until a child is lost for good.

        Args:
            is_ready: Whether the whole service would serve now; asked until it says yes, once.
            is_damaged: Whether a child has met damage that can only be mended while none of them runs.
            mend: Mends it; called between a stop of all children and their new start.

        Returns:
            The exit code: 0 after a signal, else non-zero.
        """
        stop = StopSignal()
        started = time.monotonic()
        for child in self._children:
            self._start(child)
        announced = False
        mended = code = 0
        while not stop.wait(0.1):
            if mended < _MAX_MENDS and is_damaged():
                _log.error("damage was found in the ledger; all processes are stopped while it is rebuilt")
                mended += 1
                self._drain()
                mend()
                for child in self._children:
                    child.starts.clear()
                    self._start(child)
            lost = [child for child in self._children if not self._keep(child)]
            if lost:
                _log.error("a process cannot be kept running; stopping", process=lost[0].name)
                code = _exit_code(lost[0])
                break
            if not announced and is_ready():
                announced = True
                seconds = round(time.monotonic() - started, 1)
                _log.info("Application started. Press Ctrl+C to shut down.", ready_after_seconds=seconds)
        self._drain()
        return code

    def _start(self, child: _Child) -> None:
        child.starts.append(time.monotonic())
        child.process = subprocess.Popen(
            child.command,
            env=child.environ,
            stdin=subprocess.DEVNULL,
            # Own process group: Ctrl+C in the terminal reaches the launcher alone, which then stops them in order.
            process_group=0,
            preexec_fn=partial(_die_with_parent, os.getpid()),  # noqa: PLW1509 - one prctl; there are no other threads
        )

    def _keep(self, child: _Child) -> bool:
        """Start a child again if it is gone; false when that has happened too often."""
        process = child.process
        if process is None or process.poll() is None:
            return True
        now = time.monotonic()
        child.starts = [at for at in child.starts if now - at < _STARTS_WITHIN_SECONDS]
        if len(child.starts) >= _MAX_STARTS or process.returncode in _FINAL_CODES:
            return False
        _log.warning("process ended, starting it again", process=child.name, exit_code=process.returncode)
        time.sleep(min(2.0, 0.1 * 2 ** len(child.starts)))
        self._start(child)
        return True

    def _drain(self) -> None:
        """Stop web first so that nothing new arrives, then the meter so that it closes the window.

        The core has nothing left to do once web is gone, and no part in closing a window: it ends meanwhile.
        """
        self._end("web")
        self._end("meter", "core")

    def _end(self, *names: str) -> None:
        """Ask processes to end, all at once, and kill each that takes longer than it may."""
        asked = time.monotonic()
        there = [(child.name, child.process) for child in self._children if child.name in names and child.process]
        for _, process in there:
            process.terminate()
        for name, process in there:
            try:
                process.wait(max(0.0, asked + _STOP_SECONDS[name] - time.monotonic()))
            except subprocess.TimeoutExpired:
                _log.warning("process did not stop in time and is killed", process=name)
                process.kill()
                process.wait()


def become_core(settings: Settings, environ: Mapping[str, str]) -> NoReturn:
    """Turn this process into the core, where a service manager keeps it and not a launcher.

    Args:
        settings: The settings; the core itself reads no file.
        environ: This process's environment.
    """
    os.execve(sys.executable, _CORE, core_environment(settings, environ))  # noqa: S606 - a list of our own words


def core_environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The core's environment: the settings without any secret, for it decodes what strangers send.

    It knows of no mode: the licences of connected mode lie in a folder like any other.
    """
    return _environment(settings, environ, secrets=False) | {"Mounts__License": str(settings.license_folder)}


def _environment(settings: Settings, environ: Mapping[str, str], *, secrets: bool = True) -> dict[str, str]:
    # What was decided above holds: the same setting in another spelling, or in a file, must not win below.
    inherited = {name: value for name, value in environ.items() if not is_setting(name)}
    return {
        **inherited,
        **settings.to_environment(secrets=secrets),
        "SIDECAR_CONFIG": os.devnull,
        "PYTHONUNBUFFERED": "1",
    }


def _exit_code(child: _Child) -> int:
    """The lost child's own exit code where that says what is wrong, so that a supervisor sees it too."""
    code = child.process.returncode if child.process is not None else None
    return code if code in _FINAL_CODES else EXIT_CHILD_LOST


# Bad usage, bad settings, no permission, another meter: starting again cannot mend these.
_FINAL_CODES = {64, 65, 73, 77}


def _die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGTERM when the launcher is gone; it may be process 1, or gone already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
