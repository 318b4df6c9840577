"""`ocr-core`: reads settings, probes the CPU, loads the engine, then serves on a Unix socket until it is told to stop.

Invariants:

* Everything that can be shared is loaded here, in the master, before the fork; a replaced worker is ready at once.
"""

import argparse
import dataclasses
import errno
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib import metadata

from licenses import host
from ocr_core import check, confinement, cpu, limits, log, second_engine, self_test
from ocr_core.app import SERVICE, Services, create_app
from ocr_core.clock import SystemClock
from ocr_core.confinement import Confinement, privileges
from ocr_core.decoder_process import DecoderProcess
from ocr_core.engine import OcrEngine
from ocr_core.errors import CoreError, NotSupportedLanguageError
from ocr_core.gatekeeper import Gatekeeper
from ocr_core.halves import HalvesEngine
from ocr_core.languages import first_model, known_models
from ocr_core.memory_share import Places, most_at_once
from ocr_core.second_engine import SecondEngine
from ocr_core.server import CoreServer, cpu_seconds, make_slots, prepare_socket
from ocr_core.service_manager import has_handed_over_a_socket
from ocr_core.settings import Settings, SettingsError, WordError, read_settings
from ocr_core.tesseract import TesserocrEngine
from ocr_core.wall import Wall

EXIT_USAGE = 64
EXIT_CONFIG = 65
EXIT_UNAVAILABLE = 69
EXIT_PERMISSION = 77
EXIT_CPU = 132

_DESCRIPTION = """\
Reads pages: decodes documents and runs Tesseract, behind a licence, an AVX2 probe and the meter's lease.
Listens on a Unix socket for the sidecar; it is started by `sidecar` or by its own systemd unit.

Settings are Key=Value words or environment variables (':' may be written '__'); unknown names are ignored:

  Sidecar:CoreSocket           where to listen                     /run/sidecar/core.sock
  Sidecar:StateDirectory       where the meter put device.pub      /var/lib/sidecar
  Sidecar:CoreStateDirectory   the same, where the core gets no
                               more of the state than that         Sidecar:StateDirectory
  Sidecar:TrustRoot            the vendor's public keys            /etc/tollgate/trust-root.json
  Sidecar:HostId               operator-set id that a licence may be bound to
  Mounts:License               folder of licence files             /license
  Mounts:Shared                folder of documents                 /share
  Core:Workers                 pages read at once                  the CPUs that may be used,
                                                                   fewer if memory is short
  Core:CpuInfo                 file that lists the CPU's flags     /proc/cpuinfo
  Core:Tessdata                folder of Tesseract models          $TESSDATA_PREFIX or Debian's
  Core:Languages               models without a language asked     detected among all
  Core:PageTimeoutSeconds      deadline for one page               60
  Core:MaxMegapixels           pages are shrunk to this, large
                               print further; above 3 only to it   3
  Core:WorkerMemoryMegabytes   address space of one worker         2048
  Core:WorkerRecycleMegabytes  a worker that holds more after
                               a page is replaced                  256
  Core:SecondEngine            for handwriting and photos: auto
                               (where installed), off, required    auto
  Core:SecondEngineForPrint    true: it reads receipts and poor
                               typescript, too; better and slower  false
  Core:Confinement             auto: processes give up what they
                               do not need; off to find faults     auto
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
    parser.add_argument("--self-test", action="store_true", help="try out all that reading a page needs, and exit")
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
    log.configure(settings.log_level, os.environ.get("JOURNAL_STREAM", ""))
    if settings.die_with_parent:
        limits.die_with_parent(signal.SIGTERM, parent_pid=os.getppid())
    privileges.forget_environment()
    try:
        second = second_engine.host(settings.second_engine, is_confined=settings.is_confined)
        services, gatekeeper = build(settings, None if second is None else second.engine)
        if not has_handed_over_a_socket():
            prepare_socket(settings.socket)
    except CoreError as exc:
        return _stop(EXIT_CONFIG, str(exc))
    except PermissionError as exc:
        needed = f"user id {os.getuid()} must be able to write to {settings.socket.parent}"
        return _stop(EXIT_PERMISSION, f"cannot listen on {settings.socket}: {exc.strerror}; {needed}")
    except OSError as exc:
        code = EXIT_UNAVAILABLE if exc.errno == errno.EADDRINUSE else EXIT_CONFIG
        return _stop(code, f"cannot listen on {settings.socket}: {exc.strerror}")
    if not services.gate.cpu.supported:
        logging.getLogger("ocr_core").error("no page will be read: %s", services.gate.cpu.reason)
    logging.getLogger("ocr_core").info(
        "%s %s with %s %s (%s): listening on %s, %d pages at once",
        SERVICE, services.version, services.engine.name, services.engine.version,
        "+".join(services.default_languages), settings.socket, settings.workers,
    )  # fmt: skip
    if settings.is_short_of_memory:
        logging.getLogger("ocr_core").warning(
            "fewer pages at once than the %d CPUs would do, for there are %d MiB of memory: give more (docker run "
            "--memory), or leave the second engine out (Core:SecondEngine=off), or set Core:Workers",
            limits.usable_cpus(),
            (limits.usable_memory_bytes() or 0) >> 20,
        )
    confinement.log(services.confinement)
    gc.collect()
    gc.freeze()  # what the workers share stays shared: the collector does not write to it
    try:
        CoreServer(
            settings,
            create_app(services),
            services.slots,
            decoder=services.decoder,
            gatekeeper=gatekeeper,
            second=second,
        ).run()
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else EXIT_CONFIG if exc.code else 0
    return 0


def build(settings: Settings, second: SecondEngine | None = None) -> tuple[Services, Gatekeeper]:
    """Build everything that the app works with, the default models loaded; and who holds the second wall for it.

    Args:
        settings: What the core is told.
        second: The second engine, where there is one.

    Raises:
        CoreError: A default model is not installed or cannot be loaded.
    """
    slots = make_slots(settings)
    engine: OcrEngine = TesserocrEngine(settings.tessdata)
    if settings.workers > 1:
        engine = HalvesEngine(engine, TesserocrEngine(settings.tessdata), slots.free_core)
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
    gatekeeper = Gatekeeper(wall, settings.shared_directory)
    services = Services(
        engine=engine,
        second=second,
        gate=gatekeeper.gate,
        version=version(),
        tessdata=settings.tessdata,
        default_languages=default_languages,
        detects=not settings.languages,
        workers=settings.workers,
        page_timeout_seconds=settings.page_timeout_seconds,
        max_pixels=settings.max_pixels,
        second_for_print=settings.second_engine_for_print,
        slots=slots,
        decoder=DecoderProcess(Places(most_at_once(settings.workers))),
        confinement=confined_readers(settings),
    )
    return services, gatekeeper


def confined_readers(settings: Settings) -> Confinement | None:
    """How processes will be confined that see what strangers send, tried out; None where they are not to be."""
    if not settings.is_confined:
        return None
    models = confinement.readable_models(settings.tessdata)
    return confinement.probe(readable=models, cpu_seconds=cpu_seconds(settings))


def _self_test(settings: Settings, *, as_json: bool) -> int:
    """Print what this machine can do, tried out."""
    probed = cpu.probe(settings.cpu_info)
    found = self_test.run(
        settings,
        engine=TesserocrEngine(settings.tessdata),
        cpu=probed,
        confined=lambda: confined_readers(settings),
        memory_bytes=limits.usable_memory_bytes(),
    )
    if as_json:
        facts = {"service": SERVICE, "version": version(), "passed": found.passed, "problem": found.problem}
        told = facts | found.facts | {"checks": [dataclasses.asdict(check) for check in found.checks]}
        sys.stdout.write(json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(f"{SERVICE} {version()}\n")
        sys.stdout.writelines(f"{row}\n" for row in check.rows(found.checks, for_terminal=sys.stdout.isatty()))
    return EXIT_CPU if not probed.supported else 0 if found.passed else EXIT_CONFIG


if __name__ == "__main__":
    sys.exit(main())
