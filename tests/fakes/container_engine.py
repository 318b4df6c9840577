"""An engine without containers: it remembers what it was told, and has services behave as a test wants.

It refuses what a real one must never be asked: two containers of one service running side by side.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from sidecar.deploy.body import found_of
from sidecar.deploy.engine import Ended
from sidecar.deploy.plan import EngineFacts, Found, Image
from sidecar.errors import DeployError

GIB = 2**30
HOST = EngineFacts(
    host=f"host-{os.getpid()}",  # tests of other processes have a turn of their own
    kind="podman",
    version="4.3.1",
    api_version="1.41",
    system="debian",
    kernel="6.1",
    architecture="amd64",
    cpus=4,
    memory_bytes=16 * GIB,
    is_rootless=False,
    is_local=False,
)
OLD = Image(id="sha256:" + "1" * 64, reference="localhost/tollgate:1", architecture="amd64", version="1.0.0")
NEW = Image(id="sha256:" + "2" * 64, reference="localhost/tollgate:2", architecture="amd64", version="1.1.0")
NO_FINDINGS: tuple[dict[str, str], ...] = ()


class KilledError(BaseException):
    """The command is gone, as after kill -9: nothing of its own runs any more."""


@dataclass
class _Container:
    id: str
    name: str
    body: Mapping[str, Any]
    is_running: bool = False
    status: str = "created"
    exit_code: int = 0
    restarts: int = 0


@dataclass
class FakeEngine:
    """What an engine is asked for, without one.

    Attributes:
        states: What each image's service answers as its state; `""` never answers, `"ENDS"` ends at once.
        findings: What a diagnosis finds, one list for each time it is asked; the last one goes on.
        interrupt: Called before each change with its name and number, from 1; may raise.
    """

    states: dict[str, str] = field(default_factory=lambda: {OLD.id: "ACTIVE", NEW.id: "ACTIVE"})
    findings: list[Sequence[Mapping[str, str]]] = field(default_factory=lambda: [NO_FINDINGS])
    interrupt: Callable[[str, int], None] = lambda _what, _number: None
    images: list[Image] = field(default_factory=lambda: [OLD, NEW])
    chown_code: int = 0
    host: EngineFacts = HOST

    def __post_init__(self) -> None:
        self.containers: dict[str, _Container] = {}
        self.tasks: list[Mapping[str, Any]] = []
        self.changes = 0
        self.loaded: list[bytes] = []
        self.entries, self.sealed = 7, 7

    # ---- what it has ------------------------------------------------------------------------------------------------

    def facts(self) -> EngineFacts:
        return self.host

    def image(self, reference: str) -> Image | None:
        return next((one for one in self.images if reference in {one.id, one.reference}), None)

    def load(self, archive: BinaryIO) -> list[Image]:
        self.loaded.append(archive.read())
        return [NEW]

    def find(self, name: str) -> Found | None:
        one = next((one for one in self.containers.values() if one.name == name), None)
        return None if one is None else found_of(self.describe(one.id))

    def describe(self, container: str) -> dict[str, Any]:
        one = self._one(container)
        host = dict(one.body["HostConfig"])
        image = self.image(one.body["Image"])
        mounts = [
            {
                "Type": mount["Type"],
                "Source": mount["Source"],
                "Name": mount["Source"],
                "Destination": mount["Target"],
                "RW": not mount["ReadOnly"],
            }
            for mount in host.pop("Mounts")
        ]
        labels = dict(one.body["Labels"])
        if image is not None:
            labels["org.opencontainers.image.version"] = image.version
        return {
            "Id": one.id,
            "Name": f"/{one.name}",
            "Image": one.body["Image"],
            "Config": {"Env": ["PATH=/bin", *one.body["Env"]], "Labels": labels, "User": one.body["User"]},
            "HostConfig": host,
            "Mounts": mounts,
            "State": {"Status": one.status, "Running": one.is_running, "ExitCode": one.exit_code, "StartedAt": "now"},
            "RestartCount": one.restarts,
        }

    # ---- changes ----------------------------------------------------------------------------------------------------

    def create(self, name: str, body: Mapping[str, Any]) -> str:
        self._change("create")
        if any(one.name == name for one in self.containers.values()):
            raise DeployError("name_taken", f"{name} is taken", exit_code=73)
        identity = f"id-{self.changes}"
        self.containers[identity] = _Container(identity, name, body)
        return identity

    def start(self, container: str) -> None:
        self._change("start")
        one = self._one(container)
        running = [other.name for other in self.containers.values() if other.is_running and other is not one]
        assert not running, f"{one.name} was started beside {running}"
        one.is_running, one.status = True, "running"
        if self._state(one) == "ENDS":
            one.is_running, one.status, one.exit_code = False, "exited", 65

    def stop(self, container: str, seconds: int) -> None:
        self._change("stop")
        one = self._one(container)
        if one.is_running:
            one.is_running, one.status, one.exit_code = False, "exited", 0

    def rename(self, container: str, name: str) -> None:
        self._change("rename")
        assert all(one.name != name for one in self.containers.values()), f"{name} is taken"
        self._one(container).name = name

    def remove(self, container: str) -> None:
        self._change("remove")
        assert not self._one(container).is_running, "a running service was removed"
        del self.containers[container]

    def _change(self, what: str) -> None:
        self.changes += 1
        self.interrupt(what, self.changes)

    # ---- commands ---------------------------------------------------------------------------------------------------

    def run(self, container: str, command: Sequence[str], seconds: float) -> Ended:
        assert self._one(container).is_running
        state = self._state(self._one(container))
        if not state:
            return Ended(69, "", "nothing answers")
        return Ended(0, json.dumps(a_status(state)), "")

    def run_task(self, name: str, body: Mapping[str, Any], seconds: float) -> Ended:
        self.tasks.append(body)
        words = [*body["Entrypoint"], *body["Cmd"]]
        if words[0] == "chown":
            return Ended(self.chown_code, "", "not permitted" if self.chown_code else "")
        if "ledger" in words:
            return Ended(0, json.dumps({"entries": self.entries, "sealed": self.sealed}), "")
        told = self.findings.pop(0) if len(self.findings) > 1 else self.findings[0]
        return Ended(0, json.dumps(list(told)), "")

    def logs(
        self, container: str, *, tail: int | None = None, since: float | None = None, follow: bool = False
    ) -> Iterator[bytes]:
        yield b"a line of the log\n"

    def _one(self, container: str) -> _Container:
        found = self.containers.get(container)
        return found or next(one for one in self.containers.values() if one.name == container)

    def _state(self, one: _Container) -> str:
        return self.states[one.body["Image"]]


class FakeConsole:
    """A person who is told, and agrees or not."""

    def __init__(self, *, agrees: bool = False) -> None:
        self.said: list[str] = []
        self.waited: list[str] = []
        self.asked: list[str] = []
        self._agrees = agrees

    def tell(self, line: str) -> None:
        self.said.append(line)

    def wait(self, what: str) -> None:
        self.waited.append(what)

    def progress(self, what: str, done: int, whole: int) -> None:
        self.waited.append(what)

    def agrees(self, question: str) -> bool:
        self.asked.append(question)
        return self._agrees


def a_status(state: str) -> dict[str, Any]:
    """What `/status` tells, as far as it is asked for."""
    serves = state in {"ACTIVE", "EXPIRING", "GRACE"}
    return {
        "state": state,
        "title": state.title(),
        "reason": f"because {state.lower()}",
        "nextStep": "" if serves else "mend it",
        "serves": serves,
        "version": "1.0.0",
        "warnings": [],
    }
