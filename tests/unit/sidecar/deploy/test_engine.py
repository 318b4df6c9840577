"""Which engine is meant, and what its refusals say to a person."""

from __future__ import annotations

import json
import os
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from sidecar.deploy.engine import DockerEngine, _refused, choose_address
from sidecar.errors import DeployError

DOCKER, PODMAN = "/var/run/docker.sock", "/run/podman/podman.sock"


@pytest.mark.parametrize(
    ("given", "environ", "uid", "there", "address"),
    [
        ("tcp://h:1", {"DOCKER_HOST": "unix:///x"}, 0, {DOCKER}, "tcp://h:1"),
        (None, {"DOCKER_HOST": "unix:///x"}, 0, {DOCKER}, "unix:///x"),
        (None, {}, 0, {DOCKER, PODMAN}, f"unix://{DOCKER}"),
        (None, {}, 0, {PODMAN}, f"unix://{PODMAN}"),
        (None, {}, 7, {"/run/user/7/podman/podman.sock"}, "unix:///run/user/7/podman/podman.sock"),
        (None, {"XDG_RUNTIME_DIR": "/r"}, 7, {"/r/docker.sock"}, "unix:///r/docker.sock"),
    ],
)
def test_the_engine_that_is_meant(
    given: str | None, environ: dict[str, str], uid: int, there: set[str], address: str
) -> None:
    assert choose_address(given, environ, uid, there.__contains__) == address


def test_no_engine_is_told_with_where_it_was_looked_for() -> None:
    with pytest.raises(DeployError, match=DOCKER) as told:
        choose_address(None, {}, 0, lambda _: False)
    assert (told.value.reason, told.value.exit_code) == ("engine_unreachable", 69)
    assert "DOCKER_HOST" in told.value.next_step


@pytest.mark.parametrize(
    ("said", "reason", "code"),
    [
        ("write /x: no space left on device", "disk_full", 69),
        ("Bind for 0.0.0.0:5000 failed: port is already allocated", "port_taken", 69),
        ("rootlessport listen tcp 0.0.0.0:80: bind: address already in use", "port_taken", 69),
        ('Conflict. The container name "/tollgate" is already in use by container f00', "name_taken", 73),
        ("invalid mount config for type bind: bind source path does not exist: /srv", "folder_missing", 65),
        ("statfs /srv/output: no such file or directory", "folder_missing", 65),
        ("something else\n  in two lines", "engine_refused", 69),
    ],
)
def test_what_an_engine_refuses_is_told_with_what_to_do(said: str, reason: str, code: int) -> None:
    told = _refused("start the container", said)
    assert (told.reason, told.exit_code) == (reason, code)
    assert told.next_step
    assert "\n" not in str(told)


def test_an_archive_that_an_engine_does_not_take_is_no_missing_folder() -> None:
    told = _refused("load the image", "no supported format: open /var/tmp/x/index.json: no such file or directory")
    assert (told.reason, told.exit_code) == ("engine_refused", 69)


def test_an_engine_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="does not answer") as told:
        DockerEngine(f"unix://{tmp_path}/none.sock", {})
    assert told.value.exit_code == 69
    assert "No such file" in str(told.value)


@pytest.fixture
def rude_socket(tmp_path: Path) -> Iterator[Path]:
    """Something that listens and is no engine."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(path))
        server.listen()

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnot JSON!")

        threading.Thread(target=answer, daemon=True).start()
        yield path
        server.shutdown(socket.SHUT_RDWR)


def test_what_listens_and_is_no_engine_is_told(rude_socket: Path) -> None:
    with pytest.raises(DeployError) as told:
        DockerEngine(f"unix://{rude_socket}", {})
    assert told.value.exit_code == 69


def test_a_way_through_ssh_is_told_with_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paramiko", None)
    with pytest.raises(DeployError, match="paramiko") as told:
        DockerEngine("ssh://root@box.example", {})
    assert "ssh -nNT -L" in told.value.next_step


@pytest.mark.parametrize("address", ["nonsense", "ftp://host", "unix://", "tcp://127.0.0.1:1"])
def test_an_address_of_no_engine_is_told(address: str) -> None:
    with pytest.raises(DeployError):
        DockerEngine(address, {})


class EngineOfOneContainer(BaseHTTPRequestHandler):
    """Answers as an engine with one container, whose labels the server holds; notes what it is asked to change."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, labels, asked = self.path.partition("?")[0], self.server.labels, self.server.asked  # type: ignore[attr-defined]
        if self.command != "GET":
            asked.append((self.command, path.partition("/containers")[2]))
        if path.endswith("/version"):
            self.reply(200, {"ApiVersion": "1.41", "Version": "24"})
        elif path.endswith("/containers/tollgate-check/json"):
            self.reply(200, {"Id": "f00", "Name": "/tollgate-check", "Config": {"Labels": labels}})
        else:
            self.reply(204 if self.command == "DELETE" else 500, {"message": "no more is told"})

    do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the names that the base class calls

    def reply(self, code: int, told: dict[str, Any]) -> None:
        blob = b"" if code == 204 else json.dumps(told).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(blob)))
        self.end_headers()
        if blob:
            self.wfile.write(blob)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


@pytest.mark.parametrize(
    ("labels", "reason", "changes"),
    [
        ({}, "name_taken", []),
        ({"tollgate.role": "service"}, "name_taken", []),
        ({"tollgate.role": "task"}, "engine_refused", [("DELETE", "/f00"), ("POST", "/create")]),
    ],
    ids=["a stranger's", "a service", "left by a run that was cut off"],
)
def test_of_the_name_of_a_task_nothing_but_a_task_is_removed(
    tmp_path: Path, labels: dict[str, str], reason: str, changes: list[tuple[str, str]]
) -> None:
    path = tmp_path / "s"
    with socketserver.ThreadingUnixStreamServer(os.fspath(path), EngineOfOneContainer) as server:
        server.daemon_threads, server.labels, server.asked = True, labels, []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        engine = DockerEngine(f"unix://{path}", {})
        with pytest.raises(DeployError) as told:
            engine.run_task("tollgate-check", {}, 1)
        server.shutdown()
    assert (told.value.reason, server.asked) == (reason, changes)  # type: ignore[attr-defined]
