"""What `sidecar deploy` does: bring a service up, replace it by another, take it down.

Invariants:

* A service is replaced by going forward or going back, never by half: the old container is put aside, and taken away
  only when the new one serves. Cut off anywhere, the next command ends it (`decisions.mend`).
* Two containers of one service never run side by side: one ledger has one writer. The old one has ended, its window
  closed, before the new one starts.
* Every wait ends in time and says what it waits for.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from sidecar.deploy.archive import open_archive
from sidecar.deploy.body import chown_body, container_body, task_body
from sidecar.deploy.decisions import (
    Mend,
    Up,
    decide_up,
    differences,
    foreign_folders,
    mend,
    obstacles,
    require_no_downgrade,
    require_ours,
)
from sidecar.deploy.engine import Ended, Engine
from sidecar.deploy.plan import (
    EXIT_CPU,
    EXIT_DATA,
    EXIT_PERMISSION,
    EXIT_SOFTWARE,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    STOP_SECONDS,
    USER,
    Asked,
    EngineFacts,
    Found,
    Image,
    Plan,
    plan_for,
    require_settings,
)
from sidecar.deploy.words import Finding, Told
from sidecar.errors import DeployError

_CHECK_SECONDS = 240
_ASK_SECONDS = 20
_CHOWN_SECONDS = 600
_POLL_SECONDS = 0.5
_BACK_SECONDS = 120
_BEFORE_SETTLED = 2
"""An answer that refuses must come twice in a row: a licence is looked for only once the service has begun."""
_BEFORE_RUNNING = {"created", "initialized", "configured"}
_FINAL_CODES = {64, 65, 69, 73, 77, 78}
_LAST_LINES = 5


class Console(Protocol):
    """The person at the command."""

    def tell(self, line: str) -> None:
        """Say something that stays."""

    def wait(self, what: str) -> None:
        """Say what is waited for, in the place of what was said so before."""

    def progress(self, what: str, done: int, whole: int) -> None:
        """The same with how far it is."""

    def agrees(self, question: str) -> bool:
        """Whether the person says yes; false when there is nobody to ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the image comes from; nothing given means the one that runs.

    Attributes:
        archive: A bundle, its folder, or an archive of images.
        reference: An image that the engine has.
        trusted: Fingerprints of release keys to believe; None takes the one of the bundle before, or at first any.
    """

    archive: Path | None = None
    reference: str | None = None
    trusted: Collection[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service as it stands.

    Attributes:
        found: Its container.
        plan: How that was made.
        told: What the service says; None when it says nothing.
        changed: Whether the command changed anything.
        is_cut_off: Whether an upgrade was cut off and waits to be ended.
    """

    found: Found
    plan: Plan
    told: Told | None
    changed: bool = False
    is_cut_off: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Downed:
    """A service that was taken down.

    Attributes:
        plan: How it was made; state, records and licences are still there.
        exit_code: How its container ended.
        entries: Entries in its ledger; None when that could not be looked at.
        open_entries: Those of them in no sealed window yet.
    """

    plan: Plan
    exit_code: int
    entries: int | None
    open_entries: int | None


class Deployment:
    """One service of one engine.

    Args:
        engine: The engine.
        name: The service's name.
        console: The person at the command.
        monotonic: Seconds from a clock that never steps.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        console: Console,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine = engine
        self._name = name
        self._console = console
        self._monotonic = monotonic
        self._sleep = sleep

    @property
    def _previous(self) -> str:
        return f"{self._name}-previous"

    @property
    def _next(self) -> str:
        return f"{self._name}-next"

    # ---- up ---------------------------------------------------------------------------------------------------------

    def up(self, asked: Asked, source: Source, *, wait_seconds: float, is_agreed: bool) -> Service:
        """Have the service run as asked for; nothing changes when it does already.

        Args:
            asked: What was given.
            source: Where the image comes from.
            wait_seconds: How long to wait until it is ready.
            is_agreed: Whether folders may be given to the service's user without asking.

        Raises:
            DeployError: It cannot be, or the service ended; a container that was made for it is gone then, or stopped.
            SettingsError: A setting cannot be used.
        """
        engine = self._engine.facts()
        self._settle()
        there = self._engine.find(self._name)
        before = None if there is None else require_ours(self._name, there)[1]
        require_settings(asked.words, before)
        image, release_key = self._image(source, before)
        wanted = plan_for(self._name, asked, image=image, engine=engine, before=before, release_key=release_key)
        action = decide_up(wanted, there)
        if action is Up.CREATE:
            self._require_possible(wanted, engine, is_agreed=is_agreed)
            self._console.wait(f"making the container '{self._name}'")
            container = self._engine.create(self._name, container_body(wanted))
            try:
                self._engine.start(container)
            except BaseException:
                self._engine.remove(container)
                raise
        elif action is Up.START and there is not None:
            self._engine.start(there.id)
        try:
            told = self._wait_ready(self._name, wait_seconds)
        except DeployError:
            if action is not Up.NOTHING:
                self._stop_if_there()
            raise
        except KeyboardInterrupt:
            self._console.tell(
                f"Interrupted: '{self._name}' goes on starting. 'sidecar deploy status' tells how it is, "
                "'sidecar deploy down' takes it away."
            )
            raise
        return self._service(told, changed=action is not Up.NOTHING)

    def _stop_if_there(self) -> None:
        """Stop a service that ends by itself: its engine would start it again and again."""
        found = self._engine.find(self._name)
        if found is not None:
            self._engine.stop(found.id, STOP_SECONDS)

    def _service(self, told: Told | None, *, changed: bool) -> Service:
        found, plan = self._there()
        return Service(found=found, plan=plan, told=told, changed=changed)

    def _there(self) -> tuple[Found, Plan]:
        return require_ours(self._name, self._engine.find(self._name))

    # ---- the image --------------------------------------------------------------------------------------------------

    def _image(self, source: Source, before: Plan | None) -> tuple[Image, str]:
        """The image to run, loaded where it has to be, and the key that signed its bundle."""
        if source.archive is not None:
            return self._loaded(source.archive, source, before)
        reference = source.reference or (before.image_id if before else "")
        if not reference:
            step = "add --bundle PATH, or --image NAME for an image that the engine has already"
            raise DeployError("usage", "no image was given", next_step=step, exit_code=EXIT_USAGE)
        image = self._engine.image(reference)
        if image is None:
            step = "load it with --bundle PATH; nothing is ever fetched from a registry"
            raise DeployError("image_missing", f"the engine has no image {reference}", next_step=step)
        if source.reference is None and before is not None:
            return Image(
                id=image.id, reference=before.reference, architecture=image.architecture, version=image.version
            ), ""
        return image, ""

    def _loaded(self, path: Path, source: Source, before: Plan | None) -> tuple[Image, str]:
        trusted = source.trusted
        if trusted is None and before is not None and before.release_key:
            trusted = {before.release_key}
        with open_archive(
            path, trusted, lambda done, whole: self._console.progress(f"checking {path.name}", done, whole)
        ) as one:
            if one.release_key:
                first = trusted is None
                self._console.tell(
                    f"{path.name}: release {one.version}, all as it was signed by the key {one.release_key[:16]}…"
                    + (" (believed from now on; compare it with what the vendor published)" if first else "")
                )
            elif trusted is not None:
                raise DeployError(
                    "release_unsigned",
                    f"{path} is signed by nobody, and {' or '.join(sorted(trusted))} is trusted here",
                    next_step="give the vendor's signed bundle; to take an image on your own word, load it into the "
                    "engine and name it with --image",
                    exit_code=EXIT_DATA,
                )
            else:
                self._console.tell(f"{path.name}: an image without a signature; it is taken as it is.")
            image = self._engine.image(one.image_id) if one.image_id else None
            if image is None:
                self._console.wait("loading the image into the engine")
                images = self._engine.load(one.stream)
                if len(images) != 1:
                    step = "give an archive of one image, as the bundle's"
                    cause = f"{path} holds {len(images)} images"
                    raise DeployError("image_ambiguous", cause, next_step=step, exit_code=EXIT_DATA)
                (image,) = images
            release_key, reference = one.release_key, one.reference
        if reference and self._named(reference) == image.id:
            image = Image(id=image.id, reference=reference, architecture=image.architecture, version=image.version)
        return image, release_key

    def _named(self, reference: str) -> str:
        image = self._engine.image(reference)
        return "" if image is None else image.id

    # ---- what has to be so before -----------------------------------------------------------------------------------

    def _require_possible(self, plan: Plan, engine: EngineFacts, *, is_agreed: bool) -> None:
        """Look with the service's own eyes whether it could serve, and offer to mend owners.

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
            if one.result != "ok" and one.name in {"licence", "licence file", "clock", "second engine", "confinement"}:
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
        done = self._engine.run_task(
            f"{self._name}-check", task_body(plan, ["sidecar", "diagnose", "--json"]), _CHECK_SECONDS
        )
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
            done = self._engine.run_task(f"{self._name}-check", chown_body(plan, folder), _CHOWN_SECONDS)
            if done.code != 0:
                raise DeployError(
                    "wrong_owner",
                    f"{folder} could not be given to {USER}: {_last_line(done.errors) or f'exit code {done.code}'}",
                    next_step=f"run '{command}' on the engine's host",
                    exit_code=EXIT_PERMISSION,
                )
            self._console.tell(f"{folder} was given to {USER}.")

    # ---- waiting ----------------------------------------------------------------------------------------------------

    def _wait_ready(self, name: str, seconds: float) -> Told | None:
        """Wait until the service serves, or has settled in a state that a person must mend.

        Returns:
            What it said last; None when it said nothing until the time was up.

        Raises:
            DeployError: It ended by itself.
        """
        until = self._monotonic() + seconds
        restarts: int | None = None
        refusals = 0
        told: Told | None = None
        while True:
            found = self._engine.find(name)
            if found is None:
                raise DeployError(
                    "absent", f"the container '{name}' was taken away meanwhile", next_step="run this again"
                )
            restarts = found.restarts if restarts is None else restarts
            if found.restarts > restarts or not (found.is_running or found.status in _BEFORE_RUNNING):
                raise self._ended(found)
            now = self._ask(found) if found.is_running else None
            told = now or told
            refusals = refusals + 1 if now is not None and now.is_settled else 0
            if now is not None and (now.serves or refusals >= _BEFORE_SETTLED):
                return now
            left = until - self._monotonic()
            if left <= 0:
                return told
            said = "the service does not answer yet" if told is None else f"{told.title}: {told.reason}"
            self._console.wait(f"waiting until '{name}' is ready, {left:.0f} s at most: {said}")
            self._sleep(min(_POLL_SECONDS, left))

    def _ended(self, found: Found) -> DeployError:
        lines = b"".join(self._engine.logs(found.id, tail=_LAST_LINES)).decode("utf-8", "replace")
        for line in lines.splitlines():
            self._console.tell(f"  | {line}")
        return DeployError(
            "ended",
            f"the service ended by itself{f', with exit code {found.exit_code}' if found.exit_code else ''}",
            next_step="its last lines stand above, more with 'sidecar deploy logs'; mend that and run this again, or "
            "take it away with 'sidecar deploy down'",
            exit_code=found.exit_code if found.exit_code in _FINAL_CODES else EXIT_SOFTWARE,
        )

    def _ask(self, found: Found) -> Told | None:
        """What the service says of itself, asked inside its container: that needs no way to its port."""
        try:
            done = self._engine.run(found.id, ["sidecar", "status", "--json"], _ASK_SECONDS)
            return Told.from_status(json.loads(done.output)) if done.code == 0 else None
        except (DeployError, ValueError):
            return None  # it may just have ended, which is looked at next

    # ---- upgrade ----------------------------------------------------------------------------------------------------

    def upgrade(
        self, asked: Asked, source: Source, *, wait_seconds: float, is_agreed: bool, allow_downgrade: bool = False
    ) -> Service:
        """Replace the service by another image or other settings; back to the old one when the new one does not serve.

        Args:
            asked: What was given; the rest stays as it is.
            source: Where the image comes from; nothing given keeps it.
            wait_seconds: How long the new one has to become ready.
            is_agreed: Whether folders may be given to the service's user without asking.
            allow_downgrade: Whether an older version may take the place of a newer one.

        Raises:
            DeployError: It cannot be, or the new one did not serve; the old one serves then, as before.
            SettingsError: A setting cannot be used.
        """
        engine = self._engine.facts()
        self._settle()
        there, before = self._there()
        require_settings(asked.words, before)
        image, release_key = self._image(source, before)
        if not allow_downgrade:
            require_no_downgrade(there.version, image.version)
        wanted = plan_for(self._name, asked, image=image, engine=engine, before=before, release_key=release_key)
        otherwise = differences(wanted, before)
        if not otherwise:
            return self._service(self._ask(there) if there.is_running else None, changed=False)
        self._console.tell(f"To change: {'; '.join(otherwise)}.")
        self._require_possible(wanted, engine, is_agreed=is_agreed)
        standing = self._ask(there) if there.is_running else None
        told = self._replace(there, wanted, standing, wait_seconds)
        return self._service(told, changed=True)

    def _replace(self, old: Found, wanted: Plan, standing: Told | None, wait_seconds: float) -> Told | None:
        try:
            new = self._engine.create(self._next, container_body(wanted))
            self._end(old, self._name)
            self._engine.rename(old.id, self._previous)
            self._engine.rename(new, self._name)
            self._engine.start(new)
            told = self._wait_ready(self._name, wait_seconds)
            if not _is_as_good(told, standing):
                said = "it did not answer" if told is None else f"{told.state}: {told.reason}"
                raise DeployError("not_ready", f"the new one is not ready after {wait_seconds:.0f} s: {said}")
        except (DeployError, KeyboardInterrupt) as exc:
            self._console.tell(f"Going back to the old one: {exc or 'interrupted'}")
            self._settle(serves=False)
            back = self._wait_ready(self._name, max(wait_seconds, _BACK_SECONDS))
            if isinstance(exc, KeyboardInterrupt):
                raise
            state = "it is not ready yet" if back is None else f"it is {back.state}"
            raise DeployError(
                "rolled_back",
                f"not upgraded: {exc}. The old one is back, and {state}; nothing that was counted is lost",
                next_step=exc.next_step or "read what the new one said above, mend that, and run this again",
                exit_code=EXIT_SOFTWARE,
            ) from exc
        self._engine.remove(old.id)
        return told

    def _end(self, container: Found, name: str) -> int:
        """Stop a container so that its window is closed; its exit code.

        Raises:
            DeployError: It runs on.
        """
        if container.is_running:
            self._console.wait(f"waiting until '{name}' has finished its pages and closed its window")
            self._engine.stop(container.id, STOP_SECONDS)
        found = self._engine.find(name)
        if found is not None and found.is_running:
            step = "look at the engine's log; the service was asked to end and is still there"
            raise DeployError("not_stopped", f"the container '{name}' runs on", next_step=step, exit_code=EXIT_SOFTWARE)
        return found.exit_code if found is not None else 0

    def _settle(self, *, serves: bool | None = None) -> None:
        """End an upgrade that was cut off.

        Args:
            serves: Whether the container under the service's name is good; None asks it.
        """
        current, previous, following = map(self._engine.find, (self._name, self._previous, self._next))
        for name, one in ((self._previous, previous), (self._next, following)):
            if one is not None:
                require_ours(self._name, one, called=name)
        if previous is None and following is None:
            return
        if serves is None:
            self._console.tell("An upgrade was cut off here; it is ended first.")
            told = self._ask(current) if current is not None and current.is_running else None
            serves = told is not None and told.serves
        for step in mend(current, previous, following, serves=serves):
            self._carry_out(step, current, previous, following)

    def _carry_out(self, step: Mend, current: Found | None, previous: Found | None, following: Found | None) -> None:
        self._console.wait(step.value)
        if step is Mend.REMOVE_NEXT and following is not None:
            self._engine.remove(following.id)
        elif step is Mend.STOP_CURRENT and current is not None:
            self._engine.stop(current.id, STOP_SECONDS)
        elif step is Mend.REMOVE_CURRENT and current is not None:
            self._engine.remove(current.id)
        elif step is Mend.BRING_BACK and previous is not None:
            self._engine.rename(previous.id, self._name)
        elif step is Mend.START_CURRENT and (back := previous or current) is not None:
            self._engine.start(back.id)
        elif step is Mend.REMOVE_PREVIOUS and previous is not None:
            self._engine.remove(previous.id)

    # ---- status, down -----------------------------------------------------------------------------------------------

    def status(self) -> Service:
        """How the service stands; nothing is changed.

        Raises:
            DeployError: There is none.
        """
        found = self._engine.find(self._name)
        others = [self._engine.find(name) for name in (self._previous, self._next)]
        is_cut_off = any(one is not None for one in others)
        if found is None and is_cut_off:
            step = "run 'sidecar deploy up' or 'sidecar deploy upgrade' again; either ends it first"
            raise DeployError("cut_off", f"an upgrade of '{self._name}' was cut off", next_step=step)
        found, plan = require_ours(self._name, found)
        told = self._ask(found) if found.is_running else None
        return Service(found=found, plan=plan, told=told, is_cut_off=is_cut_off)

    def down(self) -> Downed:
        """Stop the service with its window closed, and take its container away; nothing else is removed.

        Raises:
            DeployError: There is none, or it does not end.
        """
        self._settle()
        found, plan = self._there()
        code = self._end(found, self._name)
        entries, sealed = self._ledger(plan)
        self._engine.remove(found.id)
        return Downed(
            plan=plan,
            exit_code=code,
            entries=entries,
            open_entries=None if entries is None or sealed is None else entries - sealed,
        )

    def _ledger(self, plan: Plan) -> tuple[int | None, int | None]:
        """Entries and sealed entries of a ledger that nobody writes to now."""
        self._console.wait("looking what the ledger holds")
        body = task_body(plan, ["sidecar", "ledger", "status", "--json"])
        done = self._engine.run_task(f"{self._name}-check", body, _ASK_SECONDS)
        try:
            facts = json.loads(done.output)
            return int(facts["entries"]), int(facts["sealed"])
        except (ValueError, KeyError, TypeError):
            return None, None

    def inside(self, command: Sequence[str], seconds: float) -> Ended:
        """Run a command as the service, whether it runs or not.

        Args:
            command: The command's words.
            seconds: How long it may take.

        Raises:
            DeployError: There is no service, or the engine does not do it.
        """
        found, plan = self._there()
        if found.is_running:
            return self._engine.run(found.id, command, seconds)
        return self._engine.run_task(f"{self._name}-check", task_body(plan, command), seconds)


def service_url(plan: Plan, engine_address: str) -> str:
    """Where the service is reached from here."""
    host, _, port = plan.publish.rpartition(":")
    if host in {"0.0.0.0", "::", ""}:  # noqa: S104 - compared, not bound
        host = urlsplit(engine_address).hostname or "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


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


def _is_as_good(told: Told | None, standing: Told | None) -> bool:
    """Whether a new service may take the old one's place: it serves, or is refused for the same as the old one."""
    if told is None:
        return False
    return told.serves or (standing is not None and not standing.serves and told.state == standing.state)


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


def facts_of(service: Service, engine_address: str) -> dict[str, Any]:
    """A service for programs, as `--json` prints it."""
    plan, found, told = service.plan, service.found, service.told
    return {
        "name": plan.name,
        "url": service_url(plan, engine_address),
        "container": {
            "id": found.id,
            "status": found.status,
            "running": found.is_running,
            "exitCode": found.exit_code,
            "restarts": found.restarts,
            "startedAt": found.started_at,
        },
        "image": {
            "reference": plan.reference,
            "id": plan.image_id,
            "version": found.version,
        },
        "releaseKey": plan.release_key,
        "limits": {"memoryBytes": plan.memory_bytes, "cpus": plan.nano_cpus / 1e9},
        "mounts": {one.target: one.source for one in plan.mounts},
        "state": None if told is None else told.state,
        "reason": None if told is None else told.reason,
        "nextStep": None if told is None else told.next_step,
        "serves": told is not None and told.serves,
        "warnings": [] if told is None else list(told.warnings),
        "status": None if told is None else dict(told.facts),
        "changed": service.changed,
        "upgradeCutOff": service.is_cut_off,
    }
