"""The support bundle: one archive that tells a reader far away how a service stands, and nothing that is secret.

Invariants:

* What goes in is a list of facts of our own making; no file of the site's is copied. Keys, licences, documents, results
  and records stay where they are; of records there is the verifier's verdict.
* Every text passes the redactor, and every part has a bound in bytes and seconds; a part that fails is told as failed.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sidecar import __version__
from sidecar.deploy.engine import Ended, Engine
from sidecar.deploy.plan import OUTPUT, STATE, Found, Plan
from sidecar.deploy.redaction import Redactor, shown_settings
from sidecar.deploy.service import Deployment
from sidecar.deploy.standing import facts_of
from sidecar.errors import DeployError

_LOG_LINES = 2000
_MAX_LOG_BYTES = 4 * 2**20
_COMMAND_SECONDS = 240
_TRUST_ROOT = "/etc/tollgate/trust-root.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportBundle:
    """What was collected.

    Attributes:
        members: Name and text of each file.
        failed: Names of the parts that could not be had.
    """

    members: Mapping[str, str]
    failed: tuple[str, ...]

    def write(self, path: Path, at: datetime) -> None:
        """Write the archive, readable by its owner alone; what is there already is left alone.

        Raises:
            OSError: It cannot be written.
        """
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name, text in sorted(self.members.items()):
                blob = text.encode()
                info = tarfile.TarInfo(f"{path.name.removesuffix('.tar.gz')}/{name}")
                info.size, info.mode, info.mtime = len(blob), 0o600, int(at.timestamp())
                tar.addfile(info, io.BytesIO(blob))
        with open(path, "xb", opener=_private) as stream:
            stream.write(gzip.compress(archive.getvalue(), mtime=int(at.timestamp())))


def collect(deployment: Deployment, engine: Engine, engine_address: str, *, at: datetime) -> SupportBundle:
    """Ask the service, its container and its engine; whether it runs or not.

    Raises:
        DeployError: There is no such service.
    """
    service = deployment.status()
    plan, found = service.plan, service.found
    redactor = Redactor.of(dict(plan.settings))
    members: dict[str, str] = {}
    failed: list[str] = []

    def put(name: str, made: Callable[[], Any]) -> None:
        try:
            value = made()
        except (DeployError, ValueError, KeyError, TypeError) as exc:
            failed.append(name)
            value = {"failed": str(exc)}
        if isinstance(value, str):
            members[name] = redactor.clean(value)
        else:
            members[name] = json.dumps(redactor.clean_members(value), indent=2) + "\n"

    put("engine.json", lambda: _nameless(asdict(engine.facts())))
    put("service.json", lambda: facts_of(service, engine_address) | {"status": None})
    put("settings.json", lambda: shown_settings(dict(plan.settings)))
    put("container.json", lambda: _container(engine.describe(found.id)))
    put("status.json", lambda: dict(service.told.facts) if service.told else {"failed": "the service does not answer"})
    put("diagnose.json", lambda: _json_of(deployment.inside(["sidecar", "diagnose", "--json"], _COMMAND_SECONDS)))
    put("ledger.json", lambda: _json_of(deployment.inside(["sidecar", "ledger", "status", "--json"], _COMMAND_SECONDS)))
    put("verify.json", lambda: _json_of(deployment.inside(_verify(plan), _COMMAND_SECONDS)))
    put("log.txt", lambda: _log(engine, found))
    about = {
        "madeAt": at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "by": f"sidecar deploy {__version__}",
        "parts": sorted(members),
        "failed": failed,
        "leftOut": "keys, licences, documents, results and usage records; secret settings are (hidden)",
    }
    members["about.json"] = json.dumps(redactor.clean_members(about), indent=2) + "\n"
    return SupportBundle(members=members, failed=tuple(failed))


def default_name(name: str, at: datetime) -> str:
    """What the archive is called when no name is given."""
    return f"tollgate-support-{name}-{at.astimezone(UTC):%Y%m%d-%H%M%S}.tar.gz"


def _verify(plan: Plan) -> list[str]:
    """The auditor's check of the records that lie on the output mount, with what this service pins."""
    trust_root = dict(plan.settings).get("Sidecar__TrustRoot", _TRUST_ROOT)
    key = f"{STATE}/device.pub"
    return ["usage-verify", OUTPUT, "--trust-root", trust_root, "--device-key", key, "--json"]


def _json_of(done: Ended) -> Any:
    if done.code is None:
        raise DeployError("late", "it took too long")
    try:
        return json.loads(done.output)
    except ValueError as exc:
        told = (done.errors or done.output).strip()[-2000:]
        raise DeployError("no_answer", f"exit code {done.code}: {told}") from exc


def _log(engine: Engine, found: Found) -> str:
    blob = b"".join(engine.logs(found.id, tail=_LOG_LINES))
    return blob[-_MAX_LOG_BYTES:].decode("utf-8", "replace")


def _container(told: Mapping[str, Any]) -> dict[str, Any]:
    """What the engine tells of the container; its environment is told in `settings.json`, redacted."""
    host, state = dict(told.get("HostConfig") or {}), dict(told.get("State") or {})
    return {
        "Id": told.get("Id"),
        "Image": told.get("Image"),
        "Created": told.get("Created"),
        "State": {
            name: state.get(name)
            for name in ("Status", "Running", "OOMKilled", "ExitCode", "Error", "StartedAt", "FinishedAt")
        },
        "Health": (state.get("Health") or state.get("Healthcheck") or {}).get("Status"),
        "RestartCount": told.get("RestartCount"),
        "Mounts": [
            {name: one.get(name) for name in ("Type", "Source", "Destination", "RW")}
            for one in told.get("Mounts") or ()
        ],
        "Limits": {
            name: host.get(name)
            for name in (
                "Memory", "MemorySwap", "NanoCpus", "CpuQuota", "CpuPeriod", "PidsLimit", "ReadonlyRootfs", "CapDrop",
                "CapAdd", "SecurityOpt", "Privileged", "RestartPolicy", "LogConfig", "PortBindings", "Tmpfs",
            )
        },
        "User": (told.get("Config") or {}).get("User"),
    }  # fmt: skip


def _nameless(facts: dict[str, Any]) -> dict[str, Any]:
    """What an engine says of itself, without what its host is called: that is the site's own."""
    return {name: value for name, value in facts.items() if name != "host"}


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)
