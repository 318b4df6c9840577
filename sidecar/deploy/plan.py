"""What service there should be: from what a person gave, what there is already, and what the engine's host offers.

Invariants:

* A plan that is made can be carried out as far as can be known without an engine; what cannot be is refused here.
* Settings reach the service as environment variables, never as words: those stand in the host's process list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from sidecar.errors import DeployError, SettingsError
from sidecar.settings import (
    Settings,
    canonical_name,
    load_settings,
    named_fields,
    parse_words,
    require_start,
)

USER = "65532:65532"
ARCHITECTURE = "amd64"
LEAST_MEMORY_BYTES = 2 * 2**30
STOP_SECONDS = 30
_PREFERRED_MEMORY_BYTES = 8 * 2**30
_LEFT_TO_HOST_BYTES = 2**30
NANO = 1_000_000_000
SERVICE_PORT = 5000
FORM = "1"
"""Number of the set of limits below; it goes up when they change, so that an upgrade is offered."""

EXIT_USAGE = 64
EXIT_DATA = 65
EXIT_UNAVAILABLE = 69
EXIT_SOFTWARE = 70
EXIT_TAKEN = 73
EXIT_PERMISSION = 77
EXIT_LICENSE = 78
EXIT_CPU = 132

LICENSE, OUTPUT, STATE, SHARE = "/license", "/output", "/var/lib/sidecar", "/share"
TARGETS = frozenset({LICENSE, OUTPUT, STATE, SHARE})
_FIXED = {
    "mounts:license": "give the folder with --license",
    "mounts:output": "give the folder with --output",
    "mounts:shared": "give a folder or volume with --share",
    "sidecar:statedirectory": "give a folder or volume with --state",
    "sidecar:coresocket": "leave it out; it has its place",
    "sidecar:listen": "give the host's side with --publish",
    "downloadlicense": "fetch the licence first: 'sidecar eula=accept billing=… apikey=… DownloadLicense=True'",
}
_SYSTEM_BELOW = frozenset({"bin", "boot", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "sys", "usr"})
"""Folders of a root file system that hold the host's own, down to the last one."""
_SYSTEM = frozenset({
    "dev", "etc", "home", "media", "mnt", "opt", "root", "run", "srv", "tmp", "var", "dev/shm", "run/user", "var/cache",
    "var/lib", "var/lib/containers", "var/lib/docker", "var/log", "var/run", "var/spool", "var/tmp",
})  # fmt: skip
"""Folders that the whole host shares; those below them may be a service's."""
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


# ---- values ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A folder of the host's, or a volume of the engine's, in the container.

    Attributes:
        target: Where it is in the container.
        source: An absolute path on the engine's host, or the volume's name.
        read_only: Whether the service may only read it.
    """

    target: str
    source: str
    read_only: bool = False

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of the host's."""
        return self.source.startswith("/")

    def to_body(self) -> dict[str, Any]:
        """As the Engine API wants it. Docker refuses a folder that is missing then; Podman makes it, as root."""
        kind = "bind" if self.is_folder else "volume"
        return {"Type": kind, "Source": self.source, "Target": self.target, "ReadOnly": self.read_only}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One service, as it should be or as it was made.

    Attributes:
        name: The container's name.
        image_id: The image's id, a digest: what runs is what was looked at.
        reference: What people call the image.
        publish: Address and port of the host that lead to the service, as `0.0.0.0:5000`.
        mounts: Folders and volumes, by target.
        memory_bytes: Most memory, swap included.
        nano_cpus: Processors, in thousand millionths.
        settings: Environment of the service, name and value, by name.
        restart: The engine's restart policy.
        release_key: Fingerprint of the key that its next bundles are believed by; empty when there was none yet.
        form: Number of the set of limits.
    """

    name: str
    image_id: str
    reference: str
    publish: str
    mounts: tuple[Mount, ...]
    memory_bytes: int
    nano_cpus: int
    settings: tuple[tuple[str, str], ...] = field(repr=False)
    restart: str
    release_key: str = ""
    form: str = FORM

    def source(self, target: str) -> str:
        """What is mounted at a place of the container."""
        return next((one.source for one in self.mounts if one.target == target), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that the engine has.

    Attributes:
        id: Its digest.
        reference: A name of it, or the id when it has none.
        architecture: Of its programs, as `amd64`.
        version: The product's version; empty when it is no image of ours.
    """

    id: str
    reference: str
    architecture: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What an engine says of itself and its host.

    Attributes:
        host: What its host calls itself.
        kind: `docker` or `podman`.
        version: Its version.
        api_version: Of the API that is spoken with it.
        system: The host's operating system.
        kernel: The host's kernel.
        architecture: The host's processors, as `x86_64`.
        cpus: How many of them.
        memory_bytes: The host's memory.
        is_rootless: Whether it runs without root.
        is_local: Whether its host is this machine.
    """

    host: str
    kind: str
    version: str
    api_version: str
    system: str
    kernel: str
    architecture: str
    cpus: int
    memory_bytes: int
    is_rootless: bool
    is_local: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A container as the engine tells of it.

    Attributes:
        id: Its id.
        status: The engine's word, as `running`, `exited`, `created`.
        is_running: Whether its process is there.
        exit_code: How it ended the last time.
        restarts: How often the engine started it again.
        started_at: When, as the engine writes it.
        plan: How it was made; None when it is not one of ours.
        version: The product's version; empty when it is not told.
    """

    id: str
    status: str
    is_running: bool
    exit_code: int
    restarts: int
    started_at: str
    plan: Plan | None
    version: str


# ---- what was asked for ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a person gave; None where nothing was given.

    Attributes:
        license: Folder of licence files.
        output: Folder for usage records.
        state: Folder or volume of the state.
        share: Folder or volume of the spool.
        publish: `PORT` or `ADDRESS:PORT`.
        memory: As `8g`.
        cpus: How many.
        words: Settings, as `Key=Value`.
    """

    license: str | None = None
    output: str | None = None
    state: str | None = None
    share: str | None = None
    publish: str | None = None
    memory: str | None = None
    cpus: float | None = None
    words: Sequence[str] = ()


def plan_for(
    name: str, asked: Asked, *, image: Image, engine: EngineFacts, before: Plan | None = None, release_key: str = ""
) -> Plan:
    """The service that was asked for. What was not said is as `before`, or has its default.

    Args:
        name: The container's name.
        asked: What was given.
        image: The image to run.
        engine: The engine.
        before: The service there is.
        release_key: Fingerprint of the key that signed the image's bundle.

    Raises:
        DeployError: It cannot be so.
        SettingsError: A setting cannot be used.
    """
    if not _NAME.fullmatch(name):
        raise _usage(f"'{name}' is no name for a container", "use letters, digits, '-', '_' and '.'")
    _require_right_image(image, engine)
    memory = _memory(asked.memory, engine, before)
    settings = _settings(asked.words, before)
    nano_cpus = _nano_cpus(asked.cpus, engine, before)
    return Plan(
        name=name,
        image_id=image.id,
        reference=image.reference,
        publish=read_publish(asked.publish)
        if asked.publish
        else before.publish
        if before
        else f"0.0.0.0:{SERVICE_PORT}",
        mounts=(
            *_licenses(asked, before, settings),
            _mount(OUTPUT, asked.output, "--output", before, default=None),
            _mount(SHARE, asked.share, "--share", before, default=f"{name}-share"),
            _mount(STATE, asked.state, "--state", before, default=f"{name}-state"),
        ),
        memory_bytes=memory,
        nano_cpus=nano_cpus,
        settings=settings,
        # Podman starts again after a boot only what is to run always; a service that is stopped here is taken away.
        restart="always" if engine.kind == "podman" else "unless-stopped",
        release_key=release_key or (before.release_key if before else ""),
    )


def _require_right_image(image: Image, engine: EngineFacts) -> None:
    if not image.version:
        step = "give Tollgate's bundle with --bundle, or its image with --image"
        raise DeployError(
            "image_foreign", f"{image.reference} is no image of Tollgate", next_step=step, exit_code=EXIT_DATA
        )
    if image.architecture != ARCHITECTURE or engine.architecture not in {"x86_64", ARCHITECTURE}:
        raise DeployError(
            "architecture",
            f"the image {image.reference} is for {image.architecture or 'an unknown architecture'}, "
            f"and the engine's host is {engine.architecture or 'of an unknown one'}; the core needs {ARCHITECTURE}",
            next_step=f"use the bundle for {ARCHITECTURE}, on a host of that architecture",
            exit_code=EXIT_DATA,
        )


def _memory(asked: str | None, engine: EngineFacts, before: Plan | None) -> int:
    if asked is not None:
        wanted = read_size(asked)
    elif before is not None:
        wanted = before.memory_bytes
    else:
        wanted = min(_PREFERRED_MEMORY_BYTES, engine.memory_bytes - _LEFT_TO_HOST_BYTES)
        wanted -= wanted % 2**20
    if engine.memory_bytes < LEAST_MEMORY_BYTES or wanted > engine.memory_bytes:
        step = f"use a host with more memory; at least {size_text(LEAST_MEMORY_BYTES)} are needed"
        if engine.memory_bytes >= LEAST_MEMORY_BYTES:
            step = f"give less with --memory, at least {size_text(LEAST_MEMORY_BYTES)}"
        raise DeployError(
            "memory",
            f"{size_text(max(wanted, LEAST_MEMORY_BYTES))} of memory are wanted, the engine's host has "
            f"{size_text(engine.memory_bytes)}",
            next_step=step,
            exit_code=EXIT_UNAVAILABLE,
        )
    if wanted < LEAST_MEMORY_BYTES and (asked is not None or before is None):
        raise _usage(
            f"--memory {size_text(wanted)} is too little: a page may need more, and would never be read",
            f"give at least {size_text(LEAST_MEMORY_BYTES)}",
        )
    return wanted


def _nano_cpus(asked: float | None, engine: EngineFacts, before: Plan | None) -> int:
    if asked is None:
        return before.nano_cpus if before is not None else engine.cpus * NANO
    if asked > engine.cpus:
        raise DeployError(
            "cpus",
            f"{asked:g} processors are wanted, the engine's host has {engine.cpus}",
            next_step=f"give at most {engine.cpus} with --cpus",
        )
    return round(asked * NANO)


def _licenses(asked: Asked, before: Plan | None, settings: Sequence[tuple[str, str]]) -> tuple[Mount, ...]:
    """The folder of licence files; a connected service, which fetches its licence, has none unless it was given."""
    is_known = asked.license or (before.source(LICENSE) if before else "")
    if not is_known and settings_from(dict(settings)).is_connected:
        return ()
    return (_mount(LICENSE, asked.license, "--license", before, default=None, read_only=True),)


def _mount(
    target: str, asked: str | None, option: str, before: Plan | None, *, default: str | None, read_only: bool = False
) -> Mount:
    source = asked or (before.source(target) if before else "") or default
    if not source:
        what = "licence files" if target == LICENSE else "usage records"
        step = f"add {option} FOLDER"
        if target == LICENSE:
            step += "; a service that fetches its licence wants Sidecar:Mode=connected billing=… apikey=…"
        raise _usage(f"the folder for {what} is not given", step)
    if source.startswith("/"):
        folder = PurePosixPath("/", *PurePosixPath(source).parts[1:])
        if _is_the_hosts(folder):
            raise _usage(
                f"{option} {source}: that is the host's own, and no folder to give to a service",
                "make a folder for it alone, as /srv/tollgate/output, and give that",
            )
        return Mount(target=target, source=str(folder), read_only=read_only)
    if default is None or not _NAME.fullmatch(source):
        wants = "an absolute path" if default is None else "an absolute path, or the name of a volume"
        raise _usage(f"{option} {source}: wants {wants}", f"give {wants}")
    return Mount(target=target, source=source, read_only=read_only)


def _is_the_hosts(folder: PurePosixPath) -> bool:
    """Whether a `chown` of all below could harm others: the root, what the system has there, somebody's home."""
    parts = folder.parts[1:]
    below = "/".join(parts)
    return (
        not parts
        or ".." in parts
        or parts[0] in _SYSTEM_BELOW
        or below in _SYSTEM
        or (parts[0] == "home" and len(parts) == 2)
    )


def _settings(words: Sequence[str], before: Plan | None) -> tuple[tuple[str, str], ...]:
    given = parse_words(words)
    for name, step in _FIXED.items():
        if name in given:
            raise SettingsError(
                f"{name}={given[name][:80]} is not for a container", next_step=step, exit_code=EXIT_USAGE
            )
    official = {canonical_name(one.metadata["name"]): one.metadata["name"] for one in named_fields()}
    environment = dict(before.settings) if before is not None else {}
    for name, value in given.items():
        spelled = official.get(name, name).replace(":", "__")
        environment.pop(spelled, None)
        if value:
            environment[spelled] = value
    require_start(settings_from(environment), reports=True)
    return tuple(sorted(environment.items()))


def require_settings(words: Sequence[str], before: Plan | None) -> None:
    """Refuse settings that no service starts with, before anything is done.

    Raises:
        SettingsError: A setting cannot be used, or the EULA is not accepted.
    """
    _settings(words, before)


def settings_from(environment: Mapping[str, str]) -> Settings:
    """What the service makes of its environment, as this version understands it.

    Raises:
        SettingsError: A setting cannot be used.
    """
    mounted = {"Mounts__License": LICENSE, "SIDECAR_CONFIG": "/dev/null"}
    return load_settings((), environ={**environment, **mounted})


def read_publish(text: str) -> str:
    """`PORT` or `ADDRESS:PORT` of the host, in full.

    Raises:
        DeployError: It is neither.
    """
    address, _, port = text.rpartition(":")
    bare = address.strip("[]")
    if not port.isdigit() or not 0 < int(port) <= 65535 or not re.fullmatch(r"[0-9a-fA-F.:]*", bare):
        raise _usage(f"--publish {text}: wants PORT or ADDRESS:PORT", "write it like 5000 or 127.0.0.1:5000")
    return f"{bare or '0.0.0.0'}:{int(port)}"  # noqa: S104 - as the documented line publishes it


def read_size(text: str) -> int:
    """Bytes from `512m`, `8g`, `8GiB`; the units are powers of 1024.

    Raises:
        DeployError: It is no size.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise _usage(f"'{text}' is no size", "write it like 8g or 4096m")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def size_text(count: int) -> str:
    """Bytes for people, as `8 GiB` or `1.5 GiB`."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if count >= unit:
            return f"{count / unit:.1f}".removesuffix(".0") + f" {name}"
    return f"{count} bytes"


def _usage(cause: str, step: str) -> DeployError:
    return DeployError("usage", cause, next_step=step, exit_code=EXIT_USAGE)
