"""A plan as the Engine API's JSON, and read back from what an engine tells of a container.

Invariants:

* The container itself is the only memory of how it was made: what `container_body` writes, `plan_of` reads.
* Every container of ours has all limits. Which ones is a form with a number; a container of another form is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sidecar.deploy.plan import LICENSE, NANO, SERVICE_PORT, STOP_SECONDS, TARGETS, USER, Found, Mount, Plan

_PIDS = 512
_LOG = {"max-size": "10m", "max-file": "5"}
_ROLE = "tollgate.role"
_NAME = "tollgate.name"
_FORM = "tollgate.form"
_REFERENCE = "tollgate.image"
_SETTINGS = "tollgate.settings"
_RELEASE_KEY = "tollgate.release-key"
_VERSION = "org.opencontainers.image.version"


def container_body(plan: Plan) -> dict[str, Any]:
    """The service's container, as `POST /containers/create` takes it."""
    address, _, port = plan.publish.rpartition(":")
    return {
        **_confined(plan),
        "Hostname": plan.name,
        "Labels": {
            _ROLE: "service",
            _NAME: plan.name,
            _FORM: plan.form,
            _REFERENCE: plan.reference,
            _SETTINGS: " ".join(name for name, _ in plan.settings),
            _RELEASE_KEY: plan.release_key,
        },
        "ExposedPorts": {f"{SERVICE_PORT}/tcp": {}},
        "StopSignal": "SIGTERM",
        "StopTimeout": STOP_SECONDS,
        "Healthcheck": {
            "Test": ["CMD", "sidecar", "health"],
            "Interval": 30 * NANO,
            "Timeout": 5 * NANO,
            "StartPeriod": 30 * NANO,
            "Retries": 3,
        },
        "HostConfig": {
            **_limits(plan),
            "Mounts": [mount.to_body() for mount in plan.mounts],
            "PortBindings": {f"{SERVICE_PORT}/tcp": [{"HostIp": address, "HostPort": port}]},
            "RestartPolicy": {"Name": plan.restart, "MaximumRetryCount": 0},
        },
    }


def task_body(plan: Plan, command: Sequence[str]) -> dict[str, Any]:
    """A short-lived container that runs one command beside the service: same user, mounts and limits, no network."""
    return {
        **_confined(plan),
        "Labels": {_ROLE: "task", _NAME: plan.name},
        "Entrypoint": [command[0]],
        "Cmd": list(command[1:]),
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            **_limits(plan),
            "Mounts": [mount.to_body() for mount in plan.mounts],
            "NetworkMode": "none",
        },
    }


def is_task(inspected: Mapping[str, Any]) -> bool:
    """Whether a container is one that `task_body` made, from what the engine tells of it."""
    return ((inspected.get("Config") or {}).get("Labels") or {}).get(_ROLE) == "task"


def chown_body(plan: Plan, folder: str) -> dict[str, Any]:
    """A short-lived container that gives one folder of the host's to the service's user: root, with that right."""
    body = task_body(plan, ["chown", "-R", USER, "/folder"])
    limits = _limits(plan) | {"CapAdd": ["CHOWN", "DAC_READ_SEARCH"], "NetworkMode": "none"}
    mount = Mount(target="/folder", source=folder)
    return {**body, "User": "0:0", "Env": [], "HostConfig": {**limits, "Mounts": [mount.to_body()]}}


def _confined(plan: Plan) -> dict[str, Any]:
    # The folder of licences is named: so Billing and ApiKey alone do not mean connected mode, but Sidecar:Mode does.
    settings = [("Mounts__License", LICENSE), *plan.settings]
    return {"Image": plan.image_id, "User": USER, "Env": [f"{name}={value}" for name, value in settings]}


def _limits(plan: Plan) -> dict[str, Any]:
    return {
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Privileged": False,
        "Memory": plan.memory_bytes,
        "MemorySwap": plan.memory_bytes,
        "NanoCpus": plan.nano_cpus,
        "PidsLimit": _PIDS,
        "Tmpfs": {"/tmp": "rw,noexec,nosuid,nodev,size=64m,mode=1777"},  # noqa: S108 - the container's own
        "LogConfig": {"Type": "json-file", "Config": _LOG},
    }


def plan_of(inspected: Mapping[str, Any]) -> Plan | None:
    """How a container was made, from what the engine tells of it; None when it is not a service of ours."""
    config, host = inspected.get("Config") or {}, inspected.get("HostConfig") or {}
    labels = config.get("Labels") or {}
    if labels.get(_ROLE) != "service":
        return None
    environment = dict(one.partition("=")[::2] for one in config.get("Env") or ())
    bindings = (host.get("PortBindings") or {}).get(f"{SERVICE_PORT}/tcp") or [{}]
    address = bindings[0].get("HostIp") or "0.0.0.0"  # noqa: S104 - read, not bound
    return Plan(
        name=str(labels.get(_NAME, "")),
        image_id=str(inspected.get("Image", "")),
        reference=str(labels.get(_REFERENCE, "")),
        publish=f"{address}:{bindings[0].get('HostPort', '')}",
        mounts=tuple(sorted(_mounts_of(inspected.get("Mounts") or ()), key=lambda one: one.target)),
        memory_bytes=int(host.get("Memory") or 0),
        nano_cpus=_nano_cpus_of(host),
        settings=tuple(sorted((name, environment.get(name, "")) for name in labels.get(_SETTINGS, "").split())),
        restart=str((host.get("RestartPolicy") or {}).get("Name", "")),
        release_key=str(labels.get(_RELEASE_KEY, "")),
        form=str(labels.get(_FORM, "")) if _has_limits(config, host) else "altered",
    )


def _mounts_of(told: Sequence[Mapping[str, Any]]) -> Iterator[Mount]:
    """What was given to the container; a volume without a name, which the image asked for, is none of that."""
    for one in told:
        is_volume = one.get("Type") == "volume"
        target = str(one.get("Destination", ""))
        if one.get("Type") == "bind" or (is_volume and target in TARGETS):
            source = str(one.get("Name") if is_volume else one.get("Source", ""))
            yield Mount(target=target, source=source, read_only=not one.get("RW", True))


def _nano_cpus_of(host: Mapping[str, Any]) -> int:
    """Podman tells the quota of a period in place of what it was given."""
    if host.get("NanoCpus"):
        return int(host["NanoCpus"])
    quota, period = int(host.get("CpuQuota") or 0), int(host.get("CpuPeriod") or 0)
    return round(quota * NANO / period) if quota > 0 and period > 0 else 0


def _has_limits(config: Mapping[str, Any], host: Mapping[str, Any]) -> bool:
    """Whether the walls still stand; memory, processors and mounts are compared by themselves."""
    return (
        config.get("User") == USER
        and bool(host.get("ReadonlyRootfs"))
        and not host.get("Privileged")
        and bool(host.get("CapDrop"))
        and not host.get("CapAdd")
        and any(str(one).startswith("no-new-privileges") for one in host.get("SecurityOpt") or ())
    )


def found_of(inspected: Mapping[str, Any]) -> Found:
    """A container, from what the engine tells of it."""
    state, config = inspected.get("State") or {}, inspected.get("Config") or {}
    return Found(
        id=str(inspected.get("Id", "")),
        status=str(state.get("Status", "")),
        is_running=bool(state.get("Running")),
        exit_code=int(state.get("ExitCode") or 0),
        restarts=int(inspected.get("RestartCount") or 0),
        started_at=str(state.get("StartedAt", "")),
        plan=plan_of(inspected),
        version=str((config.get("Labels") or {}).get(_VERSION, "")),
    )
