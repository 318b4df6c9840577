"""What follows from how a service stands: to make it, to replace it, to end an upgrade that was cut off.

Invariant: nothing here asks an engine or waits; each decision is a function of what was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from appliance.release import version_numbers
from sidecar.deploy.plan import EXIT_DATA, EXIT_TAKEN, LICENSE, NANO, OUTPUT, SHARE, STATE, Found, Plan, size_text
from sidecar.deploy.words import Finding
from sidecar.errors import DeployError


def differences(wanted: Plan, there: Plan) -> list[str]:
    """What is otherwise than wanted, for people; values of settings are not told, for some are secret."""
    told = []
    if wanted.image_id != there.image_id:
        told.append(
            f"image {there.reference} → {wanted.reference}{' (another build)' * (wanted.reference == there.reference)}"
        )
    if wanted.publish != there.publish:
        told.append(f"address {there.publish} → {wanted.publish}")
    if wanted.memory_bytes != there.memory_bytes:
        told.append(f"memory {size_text(there.memory_bytes)} → {size_text(wanted.memory_bytes)}")
    if wanted.nano_cpus != there.nano_cpus:
        told.append(f"processors {there.nano_cpus / NANO:g} → {wanted.nano_cpus / NANO:g}")
    if wanted.restart != there.restart:
        told.append(f"restart policy {there.restart} → {wanted.restart}")
    before, after = {one.target: one for one in there.mounts}, {one.target: one for one in wanted.mounts}
    told += [
        f"{target} {before[target].source if target in before else 'nothing'} → "
        f"{after[target].source if target in after else 'nothing'}"
        for target in sorted(before.keys() | after.keys())
        if before.get(target) != after.get(target)
    ]
    old, new = dict(there.settings), dict(wanted.settings)
    changed = sorted(name.replace("__", ":") for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if changed:
        told.append(f"settings {', '.join(changed)}")
    if wanted.release_key != there.release_key:
        told.append("the key that bundles are believed by")
    if wanted.form != there.form:
        told.append("limits of another version of this command")
    return told


class Up(StrEnum):
    """What `up` has to do."""

    CREATE = "create"
    START = "start"
    NOTHING = "nothing"


def decide_up(wanted: Plan, there: Found | None) -> Up:
    """What `up` has to do; it never replaces what there is, so it never interrupts a service.

    Raises:
        DeployError: The name is another's, or the service there is otherwise than wanted.
    """
    if there is None:
        return Up.CREATE
    _, plan = require_ours(wanted.name, there)
    otherwise = differences(wanted, plan)
    if otherwise:
        raise DeployError(
            "different",
            f"the service '{wanted.name}' is there, otherwise than asked for: {'; '.join(otherwise)}",
            next_step="run 'sidecar deploy upgrade' with the same options, which drains it first",
            exit_code=EXIT_DATA,
        )
    return Up.NOTHING if there.is_running else Up.START


def require_ours(name: str, there: Found | None, *, called: str = "") -> tuple[Found, Plan]:
    """The service of this name, and how it was made.

    Args:
        name: The service's name.
        there: What the engine has.
        called: The container's name, where it is another.

    Raises:
        DeployError: There is none, or the container is not ours.
    """
    if there is None:
        raise DeployError(
            "absent",
            f"there is no service '{name}' in this engine",
            next_step="start one with 'sidecar deploy up', or give its name with --name",
        )
    if there.plan is None or there.plan.name != name:
        raise DeployError(
            "name_taken",
            f"the name '{called or name}' is taken by a container that 'sidecar deploy' did not make",
            next_step="choose another with --name; that container is left as it is",
            exit_code=EXIT_TAKEN,
        )
    return there, there.plan


def require_no_downgrade(there: str, wanted: str) -> None:
    """Refuse a version that is older than the one there is; a version that is not told is no reason.

    Raises:
        DeployError: It is older.
    """
    if there and wanted and version_numbers(wanted) < version_numbers(there):
        raise DeployError(
            "downgrade",
            f"version {there} is there, and the image is {wanted}",
            next_step="if the older version is really wanted, add --allow-downgrade",
            exit_code=EXIT_DATA,
        )


class Mend(StrEnum):
    """One step that ends an upgrade which was cut off."""

    REMOVE_NEXT = "remove the new container that never served"
    STOP_CURRENT = "stop the new container"
    REMOVE_CURRENT = "remove the new container"
    BRING_BACK = "give the old container its name back"
    START_CURRENT = "start the old container"
    REMOVE_PREVIOUS = "remove the old container"


def mend(current: Found | None, previous: Found | None, following: Found | None, *, serves: bool) -> tuple[Mend, ...]:
    """How to end an upgrade that was cut off anywhere: forward when the new one serves, else back.

    Args:
        current: The container under the service's own name.
        previous: The one that was put aside to be brought back.
        following: The one that was made and had not its turn yet.
        serves: Whether `current` runs and serves.

    Returns:
        The steps; none when no upgrade was cut off.
    """
    steps: list[Mend] = [Mend.REMOVE_NEXT] if following is not None else []
    if previous is None:
        if following is not None and current is not None and not current.is_running:
            steps.append(Mend.START_CURRENT)  # it was stopped to make room
        return tuple(steps)
    if current is not None and serves:
        return (*steps, Mend.REMOVE_PREVIOUS)
    if current is not None:
        steps += [Mend.STOP_CURRENT] if current.is_running else []
        steps += [Mend.REMOVE_CURRENT]
    return (*steps, Mend.BRING_BACK, Mend.START_CURRENT)


# ---- what a look from inside a container found ----------------------------------------------------------------------

_HEALS = frozenset(
    {"licence", "licence file", "decision", "clock", "metering", "port", "core", "endpoint", "log", "device key"}
)
"""Checks that the service survives: it starts, tells the state that follows, and mends by itself."""
_FOLDERS = {"output": OUTPUT, "state": STATE, "spool": SHARE, "licence folder": LICENSE}
WRONG_OWNER = "wrong_owner"


def foreign_folders(findings: Sequence[Finding], plan: Plan) -> list[str]:
    """Folders of the host's that the service's user cannot use, and that a `chown` would mend."""
    targets = [_FOLDERS[one.name] for one in findings if one.code == WRONG_OWNER and one.name in _FOLDERS]
    return [source for target in targets if (source := plan.source(target)).startswith("/")]


def obstacles(findings: Sequence[Finding]) -> list[Finding]:
    """What is in the way of a start; the processor first."""
    found = [one for one in findings if one.result == "fail" and one.name not in _HEALS]
    return sorted(found, key=lambda one: one.name != "processor")
