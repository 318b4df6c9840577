"""`ocr-core`: reads settings, probes the CPU, loads the engine, then serves on a Unix socket until it is told to stop.

Invariants:

* Everything that can be shared is loaded in the master, before the fork; a replaced worker is ready at once.
* One process more than pages at a time: while all of them read, one is left to answer `/health` and `/inspect`.
* A worker dies with its master, at its deadline, and at its memory limit; the master starts another in its place.
"""

import argparse
import errno
import gc
import json
import logging
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from licenses import host
from ocr_core import cpu, limits, self_test
from ocr_core.app import SERVICE, Services, WsgiApp, create_app
from ocr_core.clock import SystemClock
from ocr_core.errors import CoreError, NotSupportedLanguageError
from ocr_core.languages import FIRST_MODEL, first_model, known_models
from ocr_core.settings import Settings, SettingsError, WordError, read_settings
from ocr_core.tesseract import TesserocrEngine
from ocr_core.wall import Wall

EXIT_USAGE = 64
EXIT_CONFIG = 65
EXIT_UNAVAILABLE = 69
EXIT_PERMISSION = 77
EXIT_CPU = 132

SOCKET_MODE = 0o660
_GRACEFUL_SECONDS = 10
_HEARTBEATS = "/dev/shm"  # noqa: S108 - memory, so that a slow disk never looks like a hung worker
_PROBES = 10
_PROBE_PAUSE_SECONDS = 0.1
_HARD_DEADLINE_AFTER_SECONDS = 6  # later than the sidecar gives up, so that it does not try a hopeless page again
_MASTER_DEADLINE_AFTER_SECONDS = 10

_DESCRIPTION = """\
Reads pages: decodes documents and runs Tesseract, behind a licence, an AVX2 probe and the meter's lease.
Listens on a Unix socket for the sidecar; it is started by `sidecar` or by its own systemd unit.

Settings are Key=Value words or environment variables (':' may be written '__'); unknown names are ignored:

  Sidecar:CoreSocket           where to listen                     /run/sidecar/core.sock
  Sidecar:StateDirectory       where the meter put device.pub      /var/lib/sidecar
  Sidecar:TrustRoot            the vendor's public keys            /etc/tollgate/trust-root.json
  Sidecar:HostId               operator-set id that a licence may be bound to
  Mounts:License               folder of licence files             /license
  Mounts:Shared                folder of documents                 /share
  Core:Workers                 pages read at once                  the CPUs that may be used
  Core:CpuInfo                 file that lists the CPU's flags     /proc/cpuinfo
  Core:Tessdata                folder of Tesseract models          $TESSDATA_PREFIX or Debian's
  Core:Languages               models without a language asked     detected among all
  Core:PageTimeoutSeconds      deadline for one page               60
  Core:MaxMegapixels           pages are shrunk to this            3
  Core:WorkerMemoryMegabytes   address space of one worker         2048
  Core:DieWithParent           stop when the starter is gone       false
  Logging:LogLevel:Default     what is logged, from this level on  Information

Exit codes: 0 stopped when told to, 64 usage, 65 a setting or model is unusable, 69 another core holds the socket,
77 permission, 132 (self-test) this CPU has no AVX2.
"""


def version() -> str:
    """The version of the installed product."""
    try:
        return metadata.version("tollgate")
    except metadata.PackageNotFoundError:
        return "0"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `ocr-core`; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog=SERVICE, description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"{SERVICE} {version()}")
    parser.add_argument("--self-test", action="store_true", help="probe the CPU, read a page drawn here, and exit")
    parser.add_argument("--json", action="store_true", help="print the self-test's facts as JSON")
    parser.add_argument("settings", nargs="*", metavar="Key=Value", help="settings, see above")
    try:
        parsed = parser.parse_args(arguments)
    except SystemExit as exc:
        return EXIT_USAGE if exc.code else 0
    try:
        settings = read_settings(parsed.settings, os.environ)
    except SettingsError as exc:
        return _stop(EXIT_USAGE if isinstance(exc, WordError) else EXIT_CONFIG, str(exc))
    return _self_test(settings, as_json=parsed.json) if parsed.self_test else _serve(settings)


def _stop(code: int, message: str) -> int:
    sys.stderr.write(f"{SERVICE}: {message}\n")
    return code


# ---- serving --------------------------------------------------------------------------------------------------------


def _serve(settings: Settings) -> int:
    # Libraries never below Information: at Debug, Pillow tells what stands in a document.
    level = max(settings.log_level, logging.INFO)
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("ocr_core").setLevel(settings.log_level)
    if settings.die_with_parent:
        limits.die_with_parent(signal.SIGTERM, parent_pid=os.getppid())
    try:
        services = build(settings)
        _prepare_socket(settings.socket)
    except CoreError as exc:
        return _stop(EXIT_CONFIG, str(exc))
    except PermissionError as exc:
        needed = f"user id {os.getuid()} must be able to write to {settings.socket.parent}"
        return _stop(EXIT_PERMISSION, f"cannot listen on {settings.socket}: {exc.strerror}; {needed}")
    except OSError as exc:
        code = EXIT_UNAVAILABLE if exc.errno == errno.EADDRINUSE else EXIT_CONFIG
        return _stop(code, f"cannot listen on {settings.socket}: {exc.strerror}")
    if not services.wall.cpu.supported:
        logging.getLogger("ocr_core").error("no page will be read: %s", services.wall.cpu.reason)
    logging.getLogger("ocr_core").info(
        "%s %s with %s %s (%s): listening on %s, %d pages at once",
        SERVICE, services.version, services.engine.name, services.engine.version,
        "+".join(services.default_languages), settings.socket, settings.workers,
    )  # fmt: skip
    gc.collect()
    gc.freeze()  # what the workers share stays shared: the collector does not write to it
    try:
        CoreServer(settings, create_app(services)).run()
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else EXIT_CONFIG if exc.code else 0
    return 0


def build(settings: Settings) -> Services:
    """Build everything that the app works with, the default models loaded.

    Raises:
        CoreError: A default model is not installed or cannot be loaded.
    """
    engine = TesserocrEngine(settings.tessdata)
    installed = engine.languages()
    if not installed:
        raise NotSupportedLanguageError(
            f"There is no Tesseract model in {settings.tessdata}. Install tesseract-ocr-eng, or set Core:Tessdata."
        )
    default_languages = known_models(settings.languages or (first_model(installed),), installed)
    engine.preload(default_languages)
    wall = Wall(
        cpu=cpu.probe(settings.cpu_info),
        license_directory=settings.license_directory,
        trust_root=settings.trust_root,
        state_directory=settings.state_directory,
        host=host.collect(operator_id=settings.host_id),
        clock=SystemClock(),
    )
    return Services(
        engine=engine,
        wall=wall,
        version=version(),
        shared_directory=settings.shared_directory,
        tessdata=settings.tessdata,
        default_languages=default_languages,
        detects=not settings.languages,
        workers=settings.workers,
        page_timeout_seconds=settings.page_timeout_seconds,
        max_pixels=settings.max_pixels,
    )


def _prepare_socket(path: Path) -> None:
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


def _self_test(settings: Settings, *, as_json: bool) -> int:
    """Print what this machine can do, and read a page that is drawn here."""
    models = settings.languages or (FIRST_MODEL,)  # the page drawn is in English
    facts = self_test.run(TesserocrEngine(settings.tessdata), models, cpu.probe(settings.cpu_info), settings.max_pixels)
    facts = {"service": SERVICE, "version": version(), **facts}
    text = json.dumps(facts, indent=2) if as_json else "\n".join(f"{name:<20} {_told(facts[name])}" for name in facts)
    sys.stdout.write(text + "\n")
    if not facts["cpu_supported"]:
        return EXIT_CPU
    return 0 if facts["passed"] else EXIT_CONFIG


def _told(value: object) -> str:
    return " ".join(str(part) for part in value) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    sys.exit(main())
