"""`sidecar languages`: which languages are read here, with what, and how to add more without a network.

Invariant: it asks the running core, so it tells what is in force and not what a folder holds; it changes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from sidecar.cli_settings import CONFIG, WORDS, settings_of
from sidecar.errors import CoreUnavailableError

if TYPE_CHECKING:
    from sidecar.core_client import CoreLanguages


@click.command(name="languages")
@WORDS
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print facts for machines.")
def languages_command(words: tuple[str, ...], config: Path | None, as_json: bool) -> None:
    """List the languages that are read here, and how to add more offline. Needs the core to run."""
    from sidecar.bootstrap import build_core_client

    settings = settings_of(words, config, process="languages")
    try:
        told = build_core_client(settings).languages()
    except CoreUnavailableError as exc:
        raise CoreUnavailableError(
            f"which languages are read is the core's to say, and it does not answer: {exc}",
            next_step="start the service, or name the running core's socket with Sidecar:CoreSocket=…",
        ) from exc
    if as_json:
        from sidecar.web.language_pages import languages_told  # the same form as /languages.json

        click.echo(msgspec.json.format(msgspec.json.encode(languages_told(told)), indent=2).decode())
    else:
        click.echo("\n".join(_lines(told)))


def _lines(told: CoreLanguages) -> list[str]:
    served = [one for one in told.languages if one.served_by is not None]
    missing = [one for one in told.languages if one.served_by is None]
    wide = max(len(one.name) for one in told.languages)
    lines = [f"{len(served)} of {len(told.languages)} languages are read here:", ""]
    lines += [f"  {one.code:<9} {one.name:<{wide}}  {one.served_by}" for one in served]
    if missing:
        lines += ["", "Not installed:", ""]
        lines += [f"  {one.code:<9} {one.name:<{wide}}  {one.own_model:<20} {one.debian_package}" for one in missing]
    lines += ["", f"Models installed in {told.tessdata}: {' '.join(told.models)}", _without_a_language(told), ""]
    return [*lines, *_HOW_TO_ADD.format(tessdata=told.tessdata).splitlines()]


def _without_a_language(told: CoreLanguages) -> str:
    first = "+".join(told.default_models)
    if told.detects:
        return f"Without a language asked for, a page is read with {first}, then with the model that its text asks for."
    return f"Without a language asked for, a page is read with {first} (Core:Languages)."


_HOW_TO_ADD = """\
To add a language without a network: on a machine that has one, fetch its Debian package (apt-get download
tesseract-ocr-pol) or its file pol.traineddata; carry it over; install the package with dpkg -i, or copy the
file into {tessdata}; restart the core.\
"""
