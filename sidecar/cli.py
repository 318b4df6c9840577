"""The `sidecar` command.

Invariant: without a sub-command, or with `Key=Value` words in its place, it is the launcher, so that
`docker run IMAGE eula=accept Mounts:License=/license` works as written. Exit codes are those of contract H16.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import urllib.error
import urllib.request
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import structlog

from licenses.errors import LicensesError
from sidecar import __version__
from sidecar.cli_deploy import deploy_group
from sidecar.cli_languages import languages_command
from sidecar.cli_ledger import ledger_group
from sidecar.cli_settings import CONFIG, WORDS, at_state, open_ledger, settings_of
from sidecar.cli_usage import usage_group
from sidecar.clock import SystemClock, instant
from sidecar.errors import (
    BillingError,
    DeployError,
    LedgerUnavailableError,
    LicenseDownloadError,
    MeterAlreadyRunningError,
    SettingsError,
    SidecarError,
)
from sidecar.logs import configure_logs
from sidecar.settings import (
    NOT_USED,
    Settings,
    described,
    load_settings,
    load_what_is_valid,
    require_start,
    unknown_names,
    unused_names,
)

if TYPE_CHECKING:
    from sidecar.state_place import StatePlace

EXIT_USAGE = 64
EXIT_SETTINGS = 65
EXIT_UNAVAILABLE = 69
EXIT_SOFTWARE = 70
EXIT_ALREADY_RUNNING = 73
EXIT_PERMISSION = 77
EXIT_LICENSE = 78
_PASSING = {"CouldNotConnect", "BillingEndpointBusy", "Unknown"}
_MAX_TOKEN_BYTES = 64 * 1024
_WEB_ENDS_WITHIN_SECONDS = 6.0
_log = structlog.get_logger("Tollgate.Sidecar")


def _settings_help() -> str:
    lines = ["\b", "Settings (words on the command line, environment with ':' or '__', or a file):"]
    lines += [f"  {name:<45}{meaning}{f' [{default}]' if default else ''}" for name, default, _, meaning in described()]
    lines += ["", "\b", "Accepted, and not used here:"]
    lines += [f"  {one.name:<45}{one.reason}" for one in NOT_USED]
    return "\n".join(lines)


class _SettingsGroup(click.Group):
    """A group whose first word may be a setting."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Route `Key=Value` words, or nothing at all, to the launcher."""
        first = next((arg for arg in args if arg != "--"), None)
        if first is None or (first not in self.commands and "=" in first and not first.startswith("--config")):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_SettingsGroup, epilog=_settings_help(), context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sidecar")
def cli() -> None:
    """Tollgate's sidecar: the gate, the meter and the API in front of the OCR core.

    Without a command it starts everything: sidecar eula=accept Mounts:License=/license Mounts:Output=/output
    """


@cli.command()
@WORDS
@CONFIG
def run(words: tuple[str, ...], config: Path | None) -> None:
    """Start core, meter and web, and keep them running (the default)."""
    from sidecar.bootstrap import LogSinks, MeterLock, ledger_path, migrate
    from sidecar.launcher import Launcher
    from sidecar.ledger import damage_path
    from sidecar.log_files import require_log_mount
    from sidecar.state_place import choose_state

    settings = load_settings(words, file=config)
    configure_logs(settings.log_levels, process="launcher")
    require_start(settings, reports=True)
    if settings.download_license:
        _download_license(at_state(settings))
        return
    if not settings.is_connected:
        _require_mounts(settings)
    require_log_mount(settings)
    _require_free_port(settings)
    place = choose_state(settings)
    settings = replace(settings, state_directory=place.directory, state_on_output=False)
    migrate(settings)
    MeterLock(settings).release()  # another instance on the same state is named before anything starts
    with LogSinks(settings, "launcher"):
        _tell_of_settings(settings, words, config, place)
        damage = damage_path(ledger_path(settings))
        code = Launcher(settings, os.environ).run(
            lambda: _get(settings, "/ready")[0] == 200, damage.exists, lambda: migrate(settings)
        )
    sys.exit(code)


def _tell_of_settings(settings: Settings, words: tuple[str, ...], config: Path | None, place: StatePlace) -> None:
    """The first lines of the log, in the order in which operators of the original container know them."""
    for name in unknown_names(words, os.environ, config):
        _log.warning("this setting is not known and has no effect", name=name)
    for name, reason in unused_names(words, os.environ, config):
        _log.info(f"{name} is not used here: {reason}")
    purpose = "the licence that is fetched" if settings.is_connected else "reading licence files"
    _log.info(f"Using '{settings.license_folder}' for {purpose}.")
    _log.info(f"Using '{settings.output_directory}' for writing usage records.")
    if not place.outlives:
        _log.warning(
            "Ledger and device key end with this container: the next one is another device, and a power cut takes the "
            "pages of a window with it.",
            reason=place.reason,
            next_step="mount a volume for them, as with 'docker run -v tollgate-state:/var/lib/sidecar'",
        )
    elif place.reason:
        _log.info(
            f"Using '{place.directory}' for ledger and device key. Give it to nobody: the key is in it.",
            reason=place.reason,
        )
    if settings.is_connected:
        _log.info(f"Submitting metering to '{settings.endpoint_place}'.")
    elif settings.billing or settings.api_key:
        _log.info("Billing and ApiKey are not used: Mounts:License names a licence folder, so metering stays local.")
    _log.info("Logging to console.")
    if settings.disk_log_format:
        _log.info(f"Logging to disk, below '{settings.output_directory}'.")
    if settings.fluentd_host:
        _log.info(f"Logging to Fluentd at {settings.fluentd_host}:{settings.fluentd_port}.", tls=settings.fluentd_tls)
    _log.warning("No access control enabled!", meaning="any caller that reaches this port is served")


@cli.command()
@WORDS
@CONFIG
def web(words: tuple[str, ...], config: Path | None) -> None:
    """Serve the HTTP API."""
    from sidecar.web.server import WebServer

    settings = settings_of(words, config, process="web")
    require_start(settings)
    WebServer(settings).run()


@cli.command()
@WORDS
@CONFIG
def meter(words: tuple[str, ...], config: Path | None) -> None:
    """Run the meter: windows, record files, leases. Exactly one per state directory."""
    from sidecar.bootstrap import LogSinks, MeterLock, await_web, build_meter, build_store
    from sidecar.scheduler import MeterTimetable
    from sidecar.service_manager import ServiceManager, has_manager
    from sidecar.stop_signal import StopSignal

    settings = settings_of(words, config, process="meter")
    require_start(settings, reports=True)
    stop = StopSignal()
    lock = MeterLock(settings)
    with LogSinks(settings, "meter"):
        one = build_meter(settings)
        store = build_store(settings)
        store.prepare()
        one.open()
        manager = ServiceManager()
        manager.ready(one.sentence)

        def at_work() -> None:
            lock.at_work()
            manager.at_work()

        MeterTimetable(
            one,
            clock=SystemClock(),
            expire_results=lambda: store.expire(now_ns=one.now_ns),
            tell_status=lambda: manager.status(one.sentence),
        ).run(stop, at_work)
        manager.stopping()
        if not has_manager(os.environ) and not await_web(settings, _WEB_ENDS_WITHIN_SECONDS):
            _log.info("web goes on; what it counts from now on is in the next window")
        one.close()
        lock.release()


@cli.command()
@WORDS
@CONFIG
def core(words: tuple[str, ...], config: Path | None) -> None:
    """Become the core (`ocr-core`) with these settings, for a service manager to keep."""
    from sidecar.launcher import become_core

    settings = settings_of(words, config, process="core")
    require_start(settings)
    become_core(settings, os.environ)


@cli.command(name="migrate")
@WORDS
@CONFIG
def migrate_command(words: tuple[str, ...], config: Path | None) -> None:
    """Bring the ledger's schema up to date; run it once before anything serves."""
    from sidecar.bootstrap import ledger_path, migrate

    settings = settings_of(words, config, process="migrate")
    migrate(settings)
    click.echo(f"{ledger_path(settings)} is up to date")


@cli.command()
@WORDS
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print facts for machines.")
def diagnose(words: tuple[str, ...], config: Path | None, as_json: bool) -> None:
    """Look for every cause of a refusal; works with the service down. Exit 1 when a check fails."""
    from sidecar.diagnose import diagnose as run_checks
    from sidecar.diagnose import rows

    settings, refused = load_what_is_valid(words, file=config)
    configure_logs(settings.log_levels, process="diagnose")
    settings = at_state(settings)
    checks = run_checks(
        settings,
        SystemClock(),
        refused=refused,
        unknown=unknown_names(words, os.environ, config),
        unused=unused_names(words, os.environ, config),
    )
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        for row in rows(checks, for_terminal=sys.stdout.isatty()):
            click.echo(row)
    sys.exit(1 if any(check.result == "fail" for check in checks) else 0)


cli.add_command(deploy_group)
cli.add_command(languages_command)
cli.add_command(ledger_group)
cli.add_command(usage_group)


@cli.group()
def clock() -> None:
    """Look at the clock, believe it after a jump, or set it back with the vendor's token."""


@clock.command(name="status")
@WORDS
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print facts for machines.")
def clock_status(words: tuple[str, ...], config: Path | None, as_json: bool) -> None:
    """Tell the effective time beside the wall clock's."""
    from licenses.verify import day_text

    settings = settings_of(words, config, process="clock")
    ledger, _ = open_ledger(settings)
    now = ledger.now()
    wall = instant(now.reading.wall_ns)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "effectiveTime": now.at.isoformat(),
                    "wallTime": wall.isoformat(),
                    "quarantined": now.quarantined,
                    "synchronised": SystemClock().is_synchronised(),
                }
            )
        )
        return
    click.echo(f"effective time  {day_text(now.at)}")
    click.echo(f"wall clock      {day_text(wall)}{'  NOT BELIEVED' if now.quarantined else ''}")
    if now.quarantined:
        click.echo("Next step: correct the host's clock; if it is right, run 'sidecar clock accept'.")


@clock.command(name="accept")
@WORDS
@CONFIG
def clock_accept(words: tuple[str, ...], config: Path | None) -> None:
    """Believe the wall clock although it jumped ahead. Time never goes back by itself after that."""
    from licenses.verify import day_text
    from sidecar.timekeeping import accept_clock

    settings = settings_of(words, config, process="clock")
    ledger, _ = open_ledger(settings)
    before = accept_clock(ledger, SystemClock())
    click.echo(f"effective time was {day_text(before.at)}, is {day_text(ledger.now().at)}")


@clock.command(name="reset")
@click.argument("token", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@WORDS
@CONFIG
def clock_reset(token: Path, words: tuple[str, ...], config: Path | None) -> None:
    """Set time back to the wall clock's with the vendor's clock-reset TOKEN, which works once."""
    from licenses.verify import day_text
    from sidecar.timekeeping import reset_clock

    settings = settings_of(words, config, process="clock")
    ledger, licenses = open_ledger(settings)
    with token.open("rb") as stream:
        blob = stream.read(_MAX_TOKEN_BYTES)
    before = reset_clock(blob, ledger=ledger, clock=SystemClock(), licenses=licenses)
    click.echo(f"effective time was {day_text(before.at)}, is {day_text(ledger.now().at)}")


@cli.command()
@WORDS
@CONFIG
@click.option(
    "--of",
    "process",
    type=click.Choice(["web", "meter", "core"]),
    default="web",
    help="Whose health: of a container that holds one process alone.",
)
def health(words: tuple[str, ...], config: Path | None, process: str) -> None:
    """Exit 0 when the running service would serve a query now, else 1; needs no shell and no curl.

    With --of meter or --of core: when that process is at work.
    """
    is_well, told = _HEALTH[process](settings_of(words, config, process="health"))
    click.echo(told)
    sys.exit(0 if is_well else 1)


def _web_health(settings: Settings) -> tuple[bool, str]:
    status, body = _get(settings, "/ready")
    return status == 200, str(body.get("message", "the service does not answer"))


def _meter_health(settings: Settings) -> tuple[bool, str]:
    from sidecar.bootstrap import meter_problem

    problem = meter_problem(settings)
    return not problem, problem or "the meter is at work"


def _core_health(settings: Settings) -> tuple[bool, str]:
    from sidecar.bootstrap import build_core_client

    try:
        found = build_core_client(settings).health()
    except SidecarError as exc:
        return False, str(exc)
    return True, f"the core answers, {found.workers} pages at once"


_HEALTH = {"web": _web_health, "meter": _meter_health, "core": _core_health}


@cli.command()
@WORDS
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print the whole answer of /status.")
def status(words: tuple[str, ...], config: Path | None, as_json: bool) -> None:
    """Tell the state of the running service, its reason and the next step."""
    settings = settings_of(words, config, process="status")
    code, body = _get(settings, "/status")
    if code != 200:
        raise SidecarError(
            f"nothing answers on {settings.listen}", next_step="start the service, or run 'sidecar diagnose'"
        )
    if as_json:
        click.echo(json.dumps(body, indent=2))
        return
    click.echo(f"{body['state']}: {body['title']}")
    click.echo(f"  reason     {body['reason']}")
    if body["nextStep"]:
        click.echo(f"  next step  {body['nextStep']}")
    for warning in body["warnings"]:
        click.echo(f"  warning    {warning}")
    if body["license"]:
        lic = body["license"]
        mark = " (EVALUATION)" if lic["evaluation"] else ""
        click.echo(f"  licence    {lic['id']} for {lic['customer']}, {lic['daysLeft']} days left{mark}")
    if body["metering"]:
        click.echo(f"  pages      {body['metering']['pages']} under this licence")


def main(argv: list[str] | None = None) -> None:
    """Run the command; every failure is one message with a next step, and an exit code of contract H16."""
    os.umask(0o027)
    try:
        cli.main(args=argv, prog_name="sidecar", standalone_mode=False)
    except click.exceptions.Exit as exc:
        sys.exit(exc.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as exc:
        exc.show()
        sys.exit(EXIT_USAGE)
    except SettingsError as exc:
        _say(exc)
        sys.exit(exc.exit_code)
    except (LicenseDownloadError, DeployError) as exc:
        _say(exc)
        sys.exit(exc.exit_code)
    except BillingError as exc:
        _say(exc)
        sys.exit(EXIT_UNAVAILABLE if exc.status in _PASSING else EXIT_LICENSE)
    except MeterAlreadyRunningError as exc:
        _say(exc)
        sys.exit(EXIT_ALREADY_RUNNING)
    except LedgerUnavailableError as exc:
        _say(exc)
        sys.exit(EXIT_PERMISSION if "Permission denied" in str(exc.__cause__) else EXIT_UNAVAILABLE)
    except (SidecarError, LicensesError) as exc:
        _say(exc)
        sys.exit(EXIT_UNAVAILABLE)
    except PermissionError as exc:
        click.echo(f"sidecar: {exc.filename or ''}: {exc.strerror}", err=True)
        click.echo("Next step: run this as the service's user, or as root", err=True)
        sys.exit(EXIT_PERMISSION)


def _say(exc: SidecarError | LicensesError) -> None:
    click.echo(f"sidecar: {exc}", err=True)
    if exc.next_step:
        click.echo(f"Next step: {exc.next_step}", err=True)


def _download_license(settings: Settings) -> None:
    """Fetch the licence file, say what it is and until when."""
    from licenses.device_key import load_device_public
    from licenses.keyring import load_trust_root
    from licenses.verify import day_text
    from sidecar.bootstrap import build_billing_client
    from sidecar.license_download import download_license

    root = load_trust_root(settings.trust_root)
    try:
        device_public = load_device_public(settings.state_directory).raw
    except LicensesError:
        device_public = None  # no meter has run here yet; the licence is not bound to a device then
    lic, path = download_license(
        build_billing_client(settings),
        settings.license_directory,
        root,
        at=instant(SystemClock().read().wall_ns),
        device_public=device_public,
    )
    mark = "EVALUATION licence" if lic.evaluation else "Licence"
    click.echo(f"{mark} {lic.license_id}, sequence {lic.sequence}, for {lic.customer}")
    click.echo(f"Serves {', '.join(lic.container_types)} until {day_text(lic.expires_at)}")
    click.echo(f"Written to {path}")


def _require_mounts(settings: Settings) -> None:
    """A missing licence folder is a mistake in the command line, better said now than as a state (contract A.6)."""
    if settings.license_directory.is_dir():
        return
    missing = f"the licence folder {settings.license_directory} does not exist"
    mount = "mount a volume and make sure the directory named by Mounts:License exists"
    if settings.billing or settings.api_key:
        raise SettingsError(
            f"{missing}; it was named, so metering stays local, Billing and ApiKey are not used, and a licence file "
            "is needed",
            next_step=f"{mount}, then fetch the file with DownloadLicense=True or put in the one that the vendor sent; "
            "or leave Mounts:License out, to report to Billing in connected mode",
        )
    raise SettingsError(missing, next_step=mount)


def _require_free_port(settings: Settings) -> None:
    """Say at once that the port is taken, rather than after several tries deep in a log."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as exc:
            raise SettingsError(
                f"cannot listen on {settings.listen}: {exc.strerror or exc}",
                next_step="stop what uses that port, or choose another with Sidecar:Listen (PORT with 'make run')",
            ) from exc


def _get(settings: Settings, path: str) -> tuple[int, dict[str, Any]]:
    """Ask the running service on this machine; status 0 when nothing answers."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{host}:{settings.port}{path}", timeout=3) as answer:
            return answer.status, dict(json.load(answer))
    except urllib.error.HTTPError as exc:
        try:
            return exc.code, dict(json.load(exc))
        except ValueError:
            return exc.code, {}
    except (OSError, ValueError):
        return 0, {}


if __name__ == "__main__":
    main()
