"""What the sub-commands share: settings as words or a file, and the ledger of an existing state directory.

Invariant: a command that only looks changes nothing, and never makes a state directory.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidecar import __version__
from sidecar.clock import SystemClock
from sidecar.errors import LedgerUnavailableError
from sidecar.logs import configure_logs
from sidecar.settings import Settings, load_settings

if TYPE_CHECKING:
    from sidecar.ledger import Ledger
    from sidecar.license_mount import LicenseMount

WORDS = click.argument("words", nargs=-1, metavar="[KEY=VALUE]...")
CONFIG = click.option(
    "--config", "config", type=click.Path(path_type=Path, dir_okay=False), help="Settings file (INI or TOML)."
)


def settings_of(words: tuple[str, ...], config: Path | None, *, process: str) -> Settings:
    """The settings of a command, with logging set up by them, and the state directory where the state is.

    Raises:
        SettingsError: They cannot be used.
    """
    settings = load_settings(words, file=config)
    configure_logs(settings.log_levels, process=process)
    return at_state(settings)


def at_state(settings: Settings) -> Settings:
    """The same settings, with the state directory where the state of this container is."""
    if not settings.state_on_output:
        return settings
    from sidecar.state_place import place_of_state

    return replace(settings, state_directory=place_of_state(settings), state_on_output=False)


def require_ledger(settings: Settings) -> Path:
    """Where the ledger of an existing state directory is.

    Raises:
        LedgerUnavailableError: There is none.
    """
    from sidecar.bootstrap import ledger_path

    path = ledger_path(settings)
    if not path.exists():
        raise LedgerUnavailableError(
            f"there is no ledger in {settings.state_directory}",
            next_step="name the state directory with Sidecar:StateDirectory=…, or start the service once",
        )
    return path


def open_ledger(settings: Settings) -> tuple[Ledger, LicenseMount]:
    """The ledger of an existing state directory, and the licence folder beside it.

    Raises:
        LedgerUnavailableError: There is no ledger, or no device key.
    """
    from licenses.device_key import instance_id_of
    from sidecar.ledger import Ledger
    from sidecar.license_mount import LicenseMount

    licenses = LicenseMount(settings)
    path = require_ledger(settings)
    if licenses.device is None:
        raise LedgerUnavailableError(
            f"there is no device key in {settings.state_directory}",
            next_step="name the state directory with Sidecar:StateDirectory=…, or start the service once",
        )
    instance = instance_id_of(licenses.device.raw)
    return Ledger(path, clock=SystemClock(), instance=instance, version=__version__), licenses
