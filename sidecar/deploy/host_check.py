"""Whether an engine's host could run a service: looked at with the service's own eyes, in a short-lived container.

Invariant: nothing is changed but the owner of a folder, and that only when a person agreed to it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from sidecar.deploy.body import chown_body, task_body
from sidecar.deploy.console import Console
from sidecar.deploy.decisions import foreign_folders, obstacles
from sidecar.deploy.engine import Ended, Engine
from sidecar.deploy.plan import (
    EXIT_CPU,
    EXIT_DATA,
    EXIT_PERMISSION,
    EXIT_SOFTWARE,
    EXIT_UNAVAILABLE,
    USER,
    EngineFacts,
    Plan,
)
from sidecar.deploy.words import Finding
from sidecar.errors import DeployError

_CHECK_SECONDS = 240
_CHOWN_SECONDS = 600
_TOLD = frozenset({"licence", "licence file", "clock", "second engine", "confinement"})
"""Checks that stop no start, and are told when something is amiss."""


class HostCheck:
    """The look at one engine's host.

    Args:
        engine: The engine.
        task: Name of the short-lived container.
        console: The person at the command.
    """

    def __init__(self, engine: Engine, task: str, console: Console) -> None:
        self._engine = engine
        self._task = task
        self._console = console

    def require_possible(self, plan: Plan, engine: EngineFacts, *, is_agreed: bool) -> None:
        """Look with the service's own eyes whether it could serve, and offer to mend owners.

        Args:
            plan: The service.
            engine: What the engine says of itself.
            is_agreed: Whether folders may be given to the service's user without asking.

        Raises:
            DeployError: It could not.
        """
        _require_folders(plan, engine)
        findings = self._diagnose(plan)
        folders = foreign_folders(findings, plan)
        if folders:
            self._give(folders, plan, engine, is_agreed=is_agreed)
            findings = self._diagnose(plan)
        in_the_way = obstacles(findings)
        for one in findings:
            if one.result != "ok" and one.name in _TOLD:
                self._console.tell(f"{one.result}: {one.name}: {one.cause}")
        if not in_the_way:
            return
        first = in_the_way[0]
        for one in in_the_way[1:]:
            self._console.tell(f"fail: {one.name}: {one.cause}")
        processor = first.name == "processor"
        raise DeployError(
            "processor" if processor else "not_possible",
            f"{first.name}: {first.cause}",
            next_step=first.next_step,
            exit_code=EXIT_CPU if processor else EXIT_PERMISSION if first.code else EXIT_UNAVAILABLE,
        )

    def _diagnose(self, plan: Plan) -> list[Finding]:
        """`sidecar diagnose`, on the engine's host, as the service would run: processor, engine, pages, folders."""
        self._console.wait("checking processor, engine, folders and licence in a container")
        done = self._engine.run_task(self._task, task_body(plan, ["sidecar", "diagnose", "--json"]), _CHECK_SECONDS)
        try:
            return Finding.from_checks(json.loads(done.output))
        except ValueError as exc:
            raise _silent(done, "the check of this host") from exc

    def _give(self, folders: Sequence[str], plan: Plan, engine: EngineFacts, *, is_agreed: bool) -> None:
        commands = [_chown_command(folder, engine) for folder in folders]
        for folder, command in zip(folders, commands, strict=True):
            self._console.tell(f"{folder} cannot be used by the service, which runs as {USER}: '{command}' mends that.")
        if not is_agreed and not self._console.agrees(f"Give {' and '.join(folders)} to {USER} now?"):
            raise DeployError(
                "wrong_owner",
                f"{' and '.join(folders)} cannot be used by {USER}, which the service runs as",
                next_step=f"run '{' && '.join(commands)}' on the engine's host, or this command with --yes",
                exit_code=EXIT_PERMISSION,
            )
        for folder, command in zip(folders, commands, strict=True):
            done = self._engine.run_task(self._task, chown_body(plan, folder), _CHOWN_SECONDS)
            if done.code != 0:
                raise DeployError(
                    "wrong_owner",
                    f"{folder} could not be given to {USER}: {_last_line(done.errors) or f'exit code {done.code}'}",
                    next_step=f"run '{command}' on the engine's host",
                    exit_code=EXIT_PERMISSION,
                )
            self._console.tell(f"{folder} was given to {USER}.")


def _require_folders(plan: Plan, engine: EngineFacts) -> None:
    """A folder that is missing is most likely misspelt; Podman would make it. Elsewhere it cannot be looked for."""
    for mount in plan.mounts:
        if engine.is_local and mount.is_folder and not Path(mount.source).is_dir():
            raise DeployError(
                "folder_missing",
                f"{mount.source} is not there, or is no folder",
                next_step=f"check how it is written, or run 'mkdir -p {shlex.quote(mount.source)}'",
                exit_code=EXIT_DATA,
            )


def _chown_command(folder: str, engine: EngineFacts) -> str:
    command = f"chown -R {USER} {shlex.quote(folder)}"
    return f"podman unshare {command}" if engine.kind == "podman" and engine.is_rootless else command


def _silent(done: Ended, what: str) -> DeployError:
    told = "it took too long" if done.code is None else _last_line(done.errors) or f"exit code {done.code}"
    return DeployError(
        "check_failed",
        f"{what} said nothing that could be read: {told}",
        next_step="see the engine's own log; try 'sidecar diagnose' in a container of the image by hand",
        exit_code=EXIT_SOFTWARE,
    )


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
