"""A service as it stands and as it was taken down, for people's and programs' eyes.

Invariant: values alone; nothing here asks an engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sidecar.deploy.plan import Found, Plan
from sidecar.deploy.words import Told


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


def service_url(plan: Plan, engine_address: str) -> str:
    """Where the service is reached from here."""
    host, _, port = plan.publish.rpartition(":")
    if host in {"0.0.0.0", "::", ""}:  # noqa: S104 - compared, not bound
        host = urlsplit(engine_address).hostname or "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


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
