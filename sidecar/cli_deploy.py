"""`sidecar deploy`: the service in a container of Docker or Podman.

Invariants:

* The Docker SDK is imported here, and only when one of these commands runs; without it the message says how to get it.
* What is waited for is told on standard error, facts on standard output, so that `--json` can be piped.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sidecar.cli_settings import WORDS
from sidecar.errors import DeployError

if TYPE_CHECKING:
    from sidecar.deploy.engine import DockerEngine
    from sidecar.deploy.images import Source
    from sidecar.deploy.plan import Asked
    from sidecar.deploy.service import Deployment
    from sidecar.deploy.standing import Service

_PLACES = {"/license": "licences", "/output": "records", "/share": "spool", "/var/lib/sidecar": "state"}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_NAME = click.option("--name", default="tollgate", show_default=True, help="Name of the service, and of its container.")
_ENGINE = click.option("--engine", metavar="URL", help="The engine's address.  [default: DOCKER_HOST, else its socket]")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print facts for machines.")
_YES = click.option("--yes", is_flag=True, help="Give folders to the service's user (chown) without asking.")
_WAIT = click.option(
    "--wait", "wait_seconds", type=click.IntRange(5, 3600), default=120, show_default=True, help="Seconds until ready."
)
_FOLDERS = (
    click.option(
        "--license",
        "license_folder",
        metavar="FOLDER",
        help="Folder of licence files; needed at first, unless connected.",
    ),
    click.option("--output", metavar="FOLDER", help="Folder for usage records; needed at first."),
    click.option("--state", metavar="FOLDER|VOLUME", help="Ledger and device key.  [default: the volume NAME-state]"),
    click.option("--share", metavar="FOLDER|VOLUME", help="Documents and results.  [default: the volume NAME-share]"),
    click.option(
        "--publish", metavar="[ADDRESS:]PORT", help="The host's side of the service.  [default: 0.0.0.0:5000]"
    ),
    click.option("--memory", metavar="SIZE", help="Most memory, as 8g.  [default: 8g, or what the host can spare]"),
    click.option("--cpus", type=click.FloatRange(0.5, 1024), help="Most processors.  [default: the host's]"),
    click.option(
        "--bundle",
        type=click.Path(path_type=Path, exists=True),
        help="Bundle, its unpacked folder, or an archive of 'docker save', to load the image from.",
    ),
    click.option("--image", metavar="NAME", help="An image that the engine has already."),
    click.option(
        "--release-key",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="Believe bundles signed by this key alone.  [default: the key of the bundle before]",
    ),
)
_STEPS = """\b
First:     sidecar deploy up --bundle tollgate-….tar --license /srv/license --output /srv/output eula=accept
Later:     sidecar deploy upgrade --bundle tollgate-….tar
In need:   sidecar deploy support-bundle

\b
Exit codes: 0 well, 64 wrong use or EULA, 65 bundle, image or settings do not fit, 69 something needed is not there
(engine, image, port, room, readiness), 70 the service ended or could not be upgraded, 73 the name is taken
or another command is at work, 77 no permission (a folder's owner, the engine's socket), 78 no licence, 130 interrupted,
132 no AVX2.
"""


def _with_what_is_asked(command: Any) -> Any:
    """All that a service can be asked to be, and how."""
    for option in reversed((*_FOLDERS, _NAME, _WAIT, _YES, _ENGINE, _JSON, WORDS)):
        command = option(command)
    return command


@click.group(name="deploy", epilog=_STEPS)
def deploy_group() -> None:
    """Run the service in a container of Docker or Podman, with every limit, and look after it.

    Works over DOCKER_HOST, also on another machine. Nothing is fetched from a registry, and no command removes state,
    records or licences.
    """


@deploy_group.command()
@_with_what_is_asked
def up(**given: Any) -> None:
    """Check this host, make the container, wait until it serves. Run twice, it changes nothing.

    Settings are words, as eula=accept Core:Languages=deu+eng.
    """
    _bring(given, "was started", lambda one: one.up)


@deploy_group.command()
@_with_what_is_asked
@click.option("--allow-downgrade", is_flag=True, help="Let an older version replace a newer one.")
def upgrade(*, allow_downgrade: bool, **given: Any) -> None:
    """Replace the service by another image, settings or limits; what is not given stays.

    The old one finishes its pages and closes its window, then the new one starts. When that is not ready in time, the
    old one comes back. An empty value, as Core:Languages=, takes a setting away.
    """
    _bring(given, "was upgraded", lambda one: partial(one.upgrade, allow_downgrade=allow_downgrade))


def _bring(given: dict[str, Any], done: str, verb: Callable[[Deployment], Callable[..., Service]]) -> None:
    """Have a service be as it is asked for, by one of the two ways there are, and tell how it stands then."""
    with _command(given["engine"], given["name"]) as one:
        service = verb(one.deployment)(
            _asked(given), _source(given), wait_seconds=given["wait_seconds"], is_agreed=given["yes"]
        )
        one.console.end()
        _tell(
            service,
            one.engine.address,
            as_json=given["as_json"],
            done=done if service.changed else "is as asked for, nothing was changed",
        )


@deploy_group.command()
@_NAME
@_ENGINE
@_JSON
def status(*, name: str, engine: str | None, as_json: bool) -> None:
    """Tell how the service and its container stand."""
    with _command(engine, name) as one:
        service = one.deployment.status()
        one.console.end()
        _tell(service, one.engine.address, as_json=as_json, done=f"is {service.found.status}")


@deploy_group.command()
@_NAME
@_ENGINE
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl+C.")
@click.option("-n", "--tail", type=click.IntRange(0), help="So many lines from the end.")
@click.option("--since", metavar="TIME", help="From then on: 90s, 10m, 2h, 1d ago, or 2031-03-01T08:00:00Z.")
def logs(*, name: str, engine: str | None, follow: bool, tail: int | None, since: str | None) -> None:
    """Print the service's log."""
    from sidecar.deploy.decisions import require_ours

    begin = None if since is None else _instant(since, time.time())
    with _command(engine, name) as one:
        found, _ = require_ours(name, one.engine.find(name))
        for chunk in one.engine.logs(found.id, tail=tail, since=begin, follow=follow):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()


@deploy_group.command()
@_NAME
@_ENGINE
@_JSON
def down(*, name: str, engine: str | None, as_json: bool) -> None:
    """Finish pages, close the window, take the container away. State, records, licences and image stay."""
    with _command(engine, name) as one:
        done = one.deployment.down()
        one.console.end()
        if as_json:
            facts = {
                "name": name,
                "exitCode": done.exit_code,
                "entries": done.entries,
                "openEntries": done.open_entries,
                "kept": {mount.target: mount.source for mount in done.plan.mounts},
            }
            click.echo(json.dumps(facts, indent=2))
            return
        click.echo(f"'{name}' has ended, and its container is gone.")
        if done.entries is None or done.open_entries is None:
            click.echo("  ledger     could not be looked at; nothing in it was changed")
        elif done.open_entries:
            click.echo(f"  ledger     {done.entries:,} entries; {done.open_entries:,} in a window that is still open")
            click.echo("             The next start seals and delivers them; delete nothing.")
        else:
            click.echo(f"  ledger     {done.entries:,} entries, all of them in closed windows")
        for mount in done.plan.mounts:
            kept = f"{_PLACES[mount.target]:<9}{'' if mount.is_folder else 'volume '}{mount.source}"
            click.echo(f"  kept       {kept}")


@deploy_group.command(name="support-bundle")
@_NAME
@_ENGINE
@_JSON
@click.option("--out", type=click.Path(path_type=Path), help="File, or folder for it.  [default: this folder]")
def support_bundle(*, name: str, engine: str | None, as_json: bool, out: Path | None) -> None:
    """Write one archive for the vendor: state, redacted settings, last log lines, diagnosis, the records' verdict.

    It holds no key, no licence, no document and no record.
    """
    from sidecar.deploy.support import collect, default_name

    at = datetime.now(UTC)
    with _command(engine, name) as one:
        path = out or Path()
        path = path / default_name(name, at) if path.is_dir() else path
        one.console.wait("asking the service, its container and its engine")
        bundle = collect(one.deployment, one.engine, one.engine.address, at=at)
        one.console.end()
        try:
            bundle.write(path, at)
        except OSError as exc:
            step = "give another place with --out; what is there is never overwritten"
            raise DeployError("unwritable", f"{path}: {exc.strerror}", next_step=step, exit_code=77) from exc
        if as_json:
            facts = {
                "file": str(path),
                "bytes": path.stat().st_size,
                "parts": sorted(bundle.members),
                "failed": list(bundle.failed),
            }
            click.echo(json.dumps(facts, indent=2))
            return
        click.echo(f"Written to {path} ({path.stat().st_size / 1024:,.0f} KiB)")
        click.echo(f"  holds      {', '.join(sorted(bundle.members))}")
        if bundle.failed:
            click.echo(f"  not had    {', '.join(bundle.failed)}; why stands in them")
        click.echo("No key, licence, document or record is in it. Look through it, then send it to the vendor.")


# ---- what the commands share ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Command:
    deployment: Deployment
    engine: DockerEngine
    console: Terminal


@contextlib.contextmanager
def _command(engine: str | None, name: str) -> Iterator[_Command]:
    """A command's engine and service; the line that tells of waiting is gone at the end."""
    if importlib.util.find_spec("docker") is None:
        raise DeployError(
            "sdk_missing",
            "the Docker SDK for Python is not installed here; 'sidecar deploy' needs it",
            next_step="run 'pip install tollgate[deploy]'; without a network: "
            "'pip install --no-index --find-links wheelhouse docker' in the bundle's folder",
        )
    from sidecar.deploy.engine import DockerEngine
    from sidecar.deploy.service import Deployment

    console = Terminal()
    try:
        reached = DockerEngine(engine)
        yield _Command(Deployment(reached, name, console), reached, console)
    finally:
        console.end()


def _asked(given: dict[str, Any]) -> Asked:
    from sidecar.deploy.plan import Asked

    return Asked(
        license=given["license_folder"],
        output=given["output"],
        state=given["state"],
        share=given["share"],
        publish=given["publish"],
        memory=given["memory"],
        cpus=given["cpus"],
        words=given["words"],
    )


def _source(given: dict[str, Any]) -> Source:
    from sidecar.deploy.archive import read_release_key
    from sidecar.deploy.images import Source

    if given["bundle"] is not None and given["image"] is not None:
        raise click.UsageError("Give --bundle or --image, not both.")
    key = given["release_key"]
    return Source(
        archive=given["bundle"],
        reference=given["image"],
        trusted=None if key is None else {read_release_key(key)},
    )


def _tell(service: Service, address: str, *, as_json: bool, done: str) -> None:
    """A service for people or programs; ends with the exit code of its state."""
    from sidecar.deploy.plan import EXIT_UNAVAILABLE, size_text
    from sidecar.deploy.standing import facts_of, service_url

    plan, found, told = service.plan, service.found, service.told
    if as_json:
        click.echo(json.dumps(facts_of(service, address), indent=2))
    else:
        click.echo(f"'{plan.name}' {done}: {told.state if told else 'it does not answer'}")
        click.echo(f"  url        {service_url(plan, address)}")
        click.echo(f"  image      {plan.reference} ({found.version or 'version unknown'})")
        click.echo(f"  limits     {size_text(plan.memory_bytes)} memory, {plan.nano_cpus / 1e9:g} processors")
        for mount in plan.mounts:
            click.echo(f"  {_PLACES[mount.target]:<10} {'' if mount.is_folder else 'volume '}{mount.source}")
        if found.restarts:
            click.echo(f"  restarts   {found.restarts}: see 'sidecar deploy logs'")
        if told is not None:
            click.echo(f"  reason     {told.reason}")
            for warning in told.warnings:
                click.echo(f"  warning    {warning}")
            if told.next_step:
                click.echo(f"  next step  {told.next_step}")
        elif found.is_running:
            click.echo("  next step  see 'sidecar deploy logs'")
        else:
            click.echo(f"  next step  it ended with exit code {found.exit_code}; 'sidecar deploy up' starts it again")
        if service.is_cut_off:
            click.echo("  upgrade    was cut off; 'sidecar deploy up' or 'upgrade' ends it")
    sys.exit(told.exit_code if told is not None else EXIT_UNAVAILABLE)


def _instant(text: str, now: float) -> float:
    """Seconds since 1970 of a time that is written as so long ago, or in full."""
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if found:
        return max(1.0, now - int(found[1]) * _UNITS[found[2]])
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(f"--since {text}: wants 90s, 10m, 2h, 1d, or 2031-03-01T08:00:00Z.") from None
    return max(1.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())


class Terminal:
    """The person at the terminal, or the file that standard error goes to."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._shown = ""

    def tell(self, line: str) -> None:
        """Say something that stays."""
        self._clear()
        click.echo(line, err=True)

    def wait(self, what: str) -> None:
        """Say what is waited for: one sentence that changes, or in a file a line for each that is new."""
        if self._is_terminal:
            self._clear()
            # A screen that went on to the next line by itself could not be told which lines to take away again.
            self._shown = textwrap.fill(what, max(20, shutil.get_terminal_size().columns - 1))
            click.echo(self._shown, err=True, nl=False)
        else:
            told = re.sub(r"\d+ s at most", "", what)
            if told != self._shown:
                click.echo(f"{what} …", err=True)
            self._shown = told

    def progress(self, what: str, done: int, whole: int) -> None:
        """The same with how far it is."""
        self.wait(f"{what}: {100 * done // max(1, whole)} %" if self._is_terminal else what)

    def agrees(self, question: str) -> bool:
        """Whether the person says yes; false when there is nobody to ask."""
        self._clear()
        return sys.stdin.isatty() and self._is_terminal and click.confirm(question, default=False, err=True)

    def end(self) -> None:
        """Take away what is waited for."""
        self._clear()
        self._shown = ""

    def _clear(self) -> None:
        if self._is_terminal and self._shown:
            click.echo("\r" + "\33[A" * self._shown.count("\n") + "\33[J", err=True, nl=False)
            self._shown = ""
