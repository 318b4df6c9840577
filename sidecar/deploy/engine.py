"""The container engine, Docker or Podman, over the Docker API: the only file that imports the Docker SDK.

Invariants:

* Nothing of the SDK's leaves this file: values are of `plan.py`, every failure is a `DeployError` with a next step.
* Every call ends in time; what runs in a container beyond it is ended.
* No image is ever fetched from a registry.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import docker
from docker.errors import APIError, DockerException, ImageLoadError, NotFound
from urllib3.exceptions import HTTPError

from sidecar.deploy.body import found_of, is_task
from sidecar.deploy.plan import (
    ARCHITECTURE,
    EXIT_DATA,
    EXIT_PERMISSION,
    EXIT_TAKEN,
    EXIT_UNAVAILABLE,
    EngineFacts,
    Found,
    Image,
)
from sidecar.errors import DeployError

LEAST_API = (1, 40)
_CALL_SECONDS = 60
_LOAD_SECONDS = 900
_MAX_OUTPUT_BYTES = 16 * 2**20
_VERSION_LABEL = "org.opencontainers.image.version"
_CHUNK_BYTES = 2**20
_IN_USE = re.compile(r"port is already allocated|address already in use", re.IGNORECASE)
_FULL = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_LOADING = "load the image"
_NAME_USED = re.compile(r"name .*(is already in use|already in use)", re.IGNORECASE)
_NO_FOLDER = re.compile(r"bind source path does not exist|no such file or directory|statfs", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that was run in a container.

    Attributes:
        code: Its exit code; None when it was ended for taking too long.
        output: What it printed on standard output.
        errors: What it printed on standard error.
    """

    code: int | None
    output: str
    errors: str


class Engine(Protocol):
    """What deploying needs of an engine. All methods raise `DeployError`, and nothing else."""

    def facts(self) -> EngineFacts:
        """What it says of itself."""

    def image(self, reference: str) -> Image | None:
        """An image that it has, by name or id."""

    def load(self, archive: BinaryIO) -> list[Image]:
        """Take in the images of an archive as `docker save` writes it."""

    def find(self, name: str) -> Found | None:
        """The container of exactly this name."""

    def create(self, name: str, body: Mapping[str, Any]) -> str:
        """Make a container, not started; its id."""

    def start(self, container: str) -> None:
        """Start a container."""

    def stop(self, container: str, seconds: int) -> None:
        """Ask a container to end; after so many seconds it is killed."""

    def rename(self, container: str, name: str) -> None:
        """Give a container another name."""

    def remove(self, container: str) -> None:
        """Take a container away, by force; volumes with a name stay."""

    def run(self, container: str, command: Sequence[str], seconds: float) -> Ended:
        """Run a command in a running container."""

    def run_task(self, name: str, body: Mapping[str, Any], seconds: float) -> Ended:
        """Make a container, run it to its end, and take it away."""

    def logs(
        self, container: str, *, tail: int | None = None, since: float | None = None, follow: bool = False
    ) -> Iterator[bytes]:
        """What a container printed, oldest first; with `follow` for as long as it runs."""

    def describe(self, container: str) -> dict[str, Any]:
        """All that the engine tells of a container."""


def default_addresses(environ: Mapping[str, str], uid: int) -> list[str]:
    """Where engines listen when no address is given: Docker's socket, then Podman's with and without root."""
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}"
    own = [f"{runtime}/docker.sock", f"{runtime}/podman/podman.sock"]
    common = ["/var/run/docker.sock", "/run/podman/podman.sock"]
    return [f"unix://{path}" for path in (common if uid == 0 else [*common, *own])]


def choose_address(given: str | None, environ: Mapping[str, str], uid: int, exists: Callable[[str], bool]) -> str:
    """The engine's address: the one given, `DOCKER_HOST`, or the first socket that is there.

    Raises:
        DeployError: There is none.
    """
    address = given or environ.get("DOCKER_HOST", "")
    if address:
        return address
    for one in default_addresses(environ, uid):
        if exists(one.removeprefix("unix://")):
            return one
    looked = ", ".join(one.removeprefix("unix://") for one in default_addresses(environ, uid))
    raise DeployError(
        "engine_unreachable",
        f"no container engine was found: DOCKER_HOST is not set, and there is no {looked}",
        next_step="start Docker ('systemctl start docker') or Podman ('systemctl start podman.socket'), "
        "or set DOCKER_HOST",
    )


def _require_way(address: str) -> None:
    """The SDK goes through SSH by a library that most do without."""
    if address.startswith("ssh://") and importlib.util.find_spec("paramiko") is None:
        raise DeployError(
            "sdk_missing",
            f"{address}: the way through SSH needs the Python package paramiko, which is not installed here",
            next_step="run 'pip install paramiko'; or forward the socket: 'ssh -nNT -L /tmp/engine.sock:"
            "/var/run/docker.sock HOST', and --engine unix:///tmp/engine.sock",
        )


class DockerEngine:
    """An engine that speaks the Docker API.

    Args:
        address: As in `DOCKER_HOST`; None looks at that, then for the usual sockets.
        environ: Where `DOCKER_HOST` and `DOCKER_TLS_VERIFY` are.
    """

    def __init__(self, address: str | None = None, environ: Mapping[str, str] = os.environ) -> None:
        self.address = choose_address(address, environ, os.geteuid(), os.path.exists)
        _require_way(self.address)
        with self._told("connect"):
            self._client = docker.DockerClient.from_env(
                environment={**environ, "DOCKER_HOST": self.address},
                version="auto",
                timeout=_CALL_SECONDS,
            )
        self._api: Any = self._client.api
        if tuple(map(int, self._api.api_version.split("."))) < LEAST_API:
            raise DeployError(
                "engine_old",
                f"the engine at {self.address} speaks version {self._api.api_version} of the Docker API",
                next_step="use Docker 19.03 or newer, or Podman 4 or newer",
            )

    # ---- what it has ------------------------------------------------------------------------------------------------

    def facts(self) -> EngineFacts:
        """What it says of itself."""
        with self._told("ask"):
            version, info = self._api.version(), self._api.info()
        parts = [str(part.get("Name", "")) for part in version.get("Components") or ()]
        return EngineFacts(
            host=str(info.get("Name", "")),
            kind="podman" if any("podman" in part.lower() for part in parts) else "docker",
            version=str(version.get("Version", "")),
            api_version=str(self._api.api_version),
            system=str(info.get("OperatingSystem", "")),
            kernel=str(info.get("KernelVersion", "")),
            architecture=str(info.get("Architecture", "")),
            cpus=int(info.get("NCPU") or 0),
            memory_bytes=int(info.get("MemTotal") or 0),
            is_rootless=any("rootless" in str(one) for one in info.get("SecurityOptions") or ()),
            # A socket may be forwarded from elsewhere, or mounted into a container.
            is_local=self.address.startswith("unix://") and info.get("Name") == socket.gethostname(),
        )

    def image(self, reference: str) -> Image | None:
        """An image that it has, by name or id."""
        with self._told("look for the image"):
            try:
                return _image(self._api.inspect_image(reference), reference)
            except NotFound:
                return None

    def load(self, archive: BinaryIO) -> list[Image]:
        """Take in the images of an archive as `docker save` writes it."""
        self._api.timeout = _LOAD_SECONDS  # an engine says nothing while it unpacks
        try:
            with self._told(_LOADING):
                names = [image.id or "" for image in self._client.images.load(_chunks(archive))]  # type: ignore[arg-type]
                return [_image(self._api.inspect_image(name), "") for name in names]
        finally:
            self._api.timeout = _CALL_SECONDS

    def find(self, name: str) -> Found | None:
        """The container of exactly this name."""
        with self._told("look for the container"):
            try:
                told = self._api.inspect_container(name)
            except NotFound:
                return None
        return found_of(told) if str(told.get("Name", "")).lstrip("/") == name else None

    def describe(self, container: str) -> dict[str, Any]:
        """All that the engine tells of a container."""
        with self._told("look at the container"):
            return dict(self._api.inspect_container(container))

    # ---- a container's life -----------------------------------------------------------------------------------------

    def create(self, name: str, body: Mapping[str, Any]) -> str:
        """Make a container, not started; its id."""
        with self._told("make the container"):
            return str(self._api.create_container_from_config(dict(body), name)["Id"])

    def start(self, container: str) -> None:
        """Start a container."""
        with self._told("start the container"):
            self._api.start(container)

    def stop(self, container: str, seconds: int) -> None:
        """Ask a container to end; after so many seconds it is killed."""
        with self._told("stop the container"):
            self._api.stop(container, timeout=seconds)

    def rename(self, container: str, name: str) -> None:
        """Give a container another name."""
        with self._told("rename the container"):
            self._api.rename(container, name)

    def remove(self, container: str) -> None:
        """Take a container away, by force; volumes with a name stay."""
        with self._told("remove the container"), contextlib.suppress(NotFound):
            # With it go the volumes without a name that the image asks for; the service's own all have one.
            self._api.remove_container(container, force=True, v=True)

    # ---- commands ---------------------------------------------------------------------------------------------------

    def run(self, container: str, command: Sequence[str], seconds: float) -> Ended:
        """Run a command in a running container."""
        with self._told("run a command in the container"):
            made = self._api.exec_create(container, list(command), stdout=True, stderr=True)["Id"]
            stream = self._api.exec_start(made, stream=True, demux=True)
            output, is_late = _collected(stream, seconds)
            code = None if is_late else self._api.exec_inspect(made)["ExitCode"]
        return Ended(code, *output)

    def run_task(self, name: str, body: Mapping[str, Any], seconds: float) -> Ended:
        """Make a container, run it to its end, and take it away."""
        self._remove_old_task(name)
        container = self.create(name, body)
        try:
            self.start(container)
            until = time.monotonic() + seconds
            while (now := self.find(name)) is not None and (now.is_running or now.status in {"created", "initialized"}):
                if time.monotonic() > until:
                    return Ended(None, "", "")
                time.sleep(0.2)
            code = now.exit_code if now is not None else None
            with self._told("read what it printed"):
                output = self._api.logs(container, stdout=True, stderr=False)
                errors = self._api.logs(container, stdout=False, stderr=True)
        finally:
            self.remove(container)
        return Ended(code, _text(output), _text(errors))

    def _remove_old_task(self, name: str) -> None:
        """Take away what a run that was cut off has left.

        Raises:
            DeployError: The name is another's.
        """
        with self._told("look for the container"):
            try:
                told = self._api.inspect_container(name)
            except NotFound:
                return
        if not is_task(told):
            step = f"give the container '{name}' another name, or choose another service name with --name"
            cause = f"the name '{name}', which a short-lived container of this command needs, is taken"
            raise DeployError("name_taken", cause, next_step=step, exit_code=EXIT_TAKEN)
        self.remove(str(told["Id"]))

    def logs(
        self, container: str, *, tail: int | None = None, since: float | None = None, follow: bool = False
    ) -> Iterator[bytes]:
        """What a container printed, oldest first; with `follow` for as long as it runs."""
        with self._told("read the log"):
            yield from self._api.logs(
                container, stream=True, follow=follow, tail="all" if tail is None else tail, since=since
            )

    @contextlib.contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        """Every failure of the SDK's, in words and with what to do."""
        try:
            yield
        except APIError as exc:
            raise _refused(doing, str(exc.explanation or exc)) from exc
        except ImageLoadError as exc:
            raise _refused(doing, str(exc)) from exc
        except (DockerException, HTTPError, OSError) as exc:
            raise self._unreachable(doing, exc) from exc

    def _unreachable(self, doing: str, exc: Exception) -> DeployError:
        told = _innermost(exc)
        if _FULL.search(told):
            return _refused(doing, told)
        path = self.address.removeprefix("unix://")
        if "Permission denied" in told:
            return DeployError(
                "engine_permission",
                f"{path} may not be used by user id {os.geteuid()}",
                next_step="run this as root, or as a user of the group that the socket belongs to ('ls -l' shows it)",
                exit_code=EXIT_PERMISSION,
            )
        return DeployError(
            "engine_unreachable",
            f"the engine at {self.address} does not answer ({doing}): {told}",
            next_step="check that it runs ('systemctl status docker podman.socket'), and DOCKER_HOST",
        )


def _refused(doing: str, told: str) -> DeployError:
    """What the engine itself refuses."""
    told = " ".join(told.split())
    if _FULL.search(told):
        step = (
            "free space on the file system that holds the engine's images ('docker info' names it), then run this again"
        )
        return DeployError("disk_full", f"could not {doing}: {told}", next_step=step)
    if _IN_USE.search(told):
        step = "find who has it with 'ss -ltnp', stop that, or choose another port with --publish"
        return DeployError("port_taken", f"the port is taken: {told}", next_step=step)
    if _NAME_USED.search(told):
        step = "choose another name with --name; that container is left as it is"
        return DeployError("name_taken", f"the name is taken: {told}", next_step=step, exit_code=EXIT_TAKEN)
    if doing != _LOADING and _NO_FOLDER.search(told):
        step = "make the folder that is named on the engine's host, then run this again"
        return DeployError("folder_missing", f"could not {doing}: {told}", next_step=step, exit_code=EXIT_DATA)
    step = "see the engine's own log ('journalctl -u docker -u podman'), mend that, and run this again"
    return DeployError("engine_refused", f"could not {doing}: {told}", next_step=step, exit_code=EXIT_UNAVAILABLE)


def _innermost(exc: BaseException) -> str:
    """The cause at the bottom: the SDK wraps a missing socket four times."""
    seen: BaseException = exc
    while (deeper := seen.__cause__ or seen.__context__) is not None:
        seen = deeper
    return str(seen) or type(seen).__name__


def _image(told: Mapping[str, Any], asked: str) -> Image:
    labels = (told.get("Config") or {}).get("Labels") or {}
    names = [str(one) for one in told.get("RepoTags") or ()]
    identity = str(told.get("Id", ""))
    return Image(
        id=identity if identity.startswith("sha256:") else f"sha256:{identity}",
        reference=asked or (names[0] if names else identity),
        architecture=str(told.get("Architecture", "")) or ARCHITECTURE,
        version=str(labels.get(_VERSION_LABEL, ""))
        if labels.get("org.opencontainers.image.title") == "Tollgate"
        else "",
    )


def _chunks(archive: BinaryIO) -> Iterator[bytes]:
    while chunk := archive.read(_CHUNK_BYTES):
        yield chunk


def _collected(stream: Any, seconds: float) -> tuple[tuple[str, str], bool]:
    """What a command prints until its end, or until its time is up."""
    late = threading.Event()

    def end() -> None:
        late.set()
        stream.close()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    left = _MAX_OUTPUT_BYTES
    try:
        for pair in stream:
            for into, chunk in zip(parts, pair, strict=True):
                if chunk and left > 0:
                    into.append(chunk[:left])
                    left -= len(chunk)
    finally:
        timer.cancel()
    return (_text(b"".join(parts[0])), _text(b"".join(parts[1]))), late.is_set()


def _text(blob: bytes) -> str:
    return blob[:_MAX_OUTPUT_BYTES].decode("utf-8", "replace")
