"""The compose file, run as it is: three containers, one of them with a port."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.appliance.conftest import Mounts, Vendor
from tests.appliance.engine import IMAGE, PROJECT, USER, Engine
from tests.appliance.test_image import PAGES, read_by_the_official_client
from tests.e2e.site import free_port, wait_until

FILE = PROJECT / "containers" / "compose.yaml"
PROJECT_NAME = "tollgate-compose-test"
TOOL = Path(sys.executable).with_name("podman-compose")
SIDECAR = "/opt/tollgate/current/bin/sidecar"
PYTHON = "/opt/tollgate/current/bin/python"


class Compose:
    """The three containers of `containers/compose.yaml`.

    Args:
        engine: Who runs them.
        mounts: Licence and output.
        folder: For the command by which the tool calls the engine.
    """

    def __init__(self, engine: Engine, mounts: Mounts, folder: Path) -> None:
        self.engine = engine
        self.mounts = mounts
        self.port = free_port()
        self.podman = folder / "podman"
        self.podman.write_text(f'#!/bin/sh\nexec {" ".join(engine.words())} "$@"\n')
        self.podman.chmod(0o755)
        self.environ = {
            **engine.environ,
            "EULA": "accept",
            "TOLLGATE_IMAGE": IMAGE,
            "TOLLGATE_LISTEN": f"127.0.0.1:{self.port}",
            "TOLLGATE_LICENSE": str(mounts.license),
            "TOLLGATE_OUTPUT": str(mounts.output),
            "TOLLGATE_MEMORY": "3g",
            "TOLLGATE_CPUS": "2",
        }

    def __call__(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [TOOL, "--podman-path", self.podman, "-f", FILE, "-p", PROJECT_NAME, *words],
            env={**self.environ, **environ}, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    def up(self) -> None:
        done = self("up", "--detach")
        assert done.returncode == 0, done.stdout + done.stderr

    def down(self, *words: str) -> None:
        self("down", "--timeout", "30", *words)

    def facts(self, service: str) -> dict[str, Any]:
        (facts,) = json.loads(self.engine("inspect", self.name(service)).stdout)
        return dict(facts)

    def name(self, service: str) -> str:
        return f"{PROJECT_NAME}_{service}_1"

    def log(self, service: str) -> str:
        done = self.engine("logs", self.name(service), check=False)
        return done.stdout + done.stderr

    def run(self, service: str, *words: str) -> subprocess.CompletedProcess[str]:
        return self.engine("exec", self.name(service), *words, check=False)

    def is_healthy(self, service: str) -> bool:
        """Whether the meter or the core says so of itself."""
        return self.run(service, SIDECAR, "health", "--of", service).returncode == 0

    def kill(self, service: str) -> None:
        """As the kernel ends a process: the engine was not asked, so it brings it back."""
        os.kill(int(self.facts(service)["State"]["Pid"]), signal.SIGKILL)

    def status(self) -> dict[str, Any]:
        try:
            return dict(requests.get(f"http://127.0.0.1:{self.port}/status", timeout=10).json())
        except requests.RequestException:
            return {"state": "no answer"}

    def wait_active(self, seconds: float = 90) -> None:
        wait_until(
            lambda: self.status()["state"] == "ACTIVE",
            seconds,
            "\n".join(f"--- {one}\n{self.log(one)[-2000:]}" for one in ("web", "meter", "core")),
        )

    def pages(self) -> int:
        return int(self.status()["metering"]["pages"])

    def require_pages(self, count: int) -> None:
        """What is shown of the ledger is up to a second old."""
        wait_until(lambda: self.pages() >= count, 10, f"not {count} pages, but {self.pages()}")
        assert self.pages() == count


@pytest.fixture(scope="module")
def compose(engine: Engine, vendor: Vendor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    folder = tmp_path_factory.mktemp("compose")
    one = Compose(engine, Mounts(folder, vendor), folder)
    one.mounts.give_to_service()
    try:
        one.up()
        one.wait_active()
        yield one
    finally:
        one.down("--volumes")


def test_nothing_starts_before_the_terms_are_accepted(compose: Compose) -> None:
    done = compose("config", EULA="")
    assert done.returncode != 0
    assert "set EULA=accept to accept the licence terms" in done.stdout + done.stderr


def test_a_page_is_read_by_the_official_client(compose: Compose, picture: Path) -> None:
    before = compose.pages()
    assert read_by_the_official_client(compose.port, picture)["status"] == "succeeded"
    compose.require_pages(before + PAGES)


def test_the_containers_are_as_closed_as_the_file_says(compose: Compose) -> None:
    for service in ("web", "meter", "core"):
        host = compose.facts(service)["HostConfig"]
        assert host["ReadonlyRootfs"] is True
        assert "no-new-privileges" in host["SecurityOpt"]
        assert host["NetworkMode"] == "none" or service == "web"
        status = compose.run(service, PYTHON, "-c", "print(open('/proc/1/status').read())").stdout
        assert "CapEff:\t0000000000000000" in status
        assert f"Uid:\t{USER}\t" in status
        refused = compose.run(service, PYTHON, "-c", "open('/opt/x', 'w')")
        assert "Read-only file system" in refused.stderr
    # No interface but the loopback: there is nothing that a packet could leave by.
    for service in ("meter", "core"):
        interfaces = compose.run(service, PYTHON, "-c", "import socket; print(socket.if_nameindex())").stdout
        assert interfaces.strip() == "[(1, 'lo')]"


def test_the_core_has_neither_ledger_nor_device_key_and_web_not_the_key(compose: Compose) -> None:
    look = "import glob; print(*sorted(glob.glob('/var/lib/*/*')), sep='\\n')"
    found = {one: compose.run(one, PYTHON, "-c", look).stdout for one in ("web", "meter", "core")}
    assert "/var/lib/ocr-meter/device.key" in found["meter"]
    assert "/var/lib/sidecar/ledger.db" in found["web"]
    assert "device.key" not in found["web"]
    assert "/var/lib/ocr-core/device.pub" in found["core"]
    assert not {"device.key", "ledger.db"} & {Path(path).name for path in found["core"].split()}


def test_each_container_tells_its_own_health(compose: Compose) -> None:
    for service in ("web", "meter", "core"):
        done = compose.engine("healthcheck", "run", compose.name(service), check=False)
        assert done.returncode == 0, (service, done.stdout + done.stderr)


@pytest.mark.parametrize("service", ["web", "meter", "core"])
def test_what_is_killed_comes_back_and_the_count_is_right(compose: Compose, picture: Path, service: str) -> None:
    before, pid = compose.pages(), compose.facts(service)["State"]["Pid"]
    compose.kill(service)
    started = time.monotonic()
    wait_until(lambda: compose.facts(service)["State"]["Pid"] not in {0, pid}, 30, f"{service} did not come back")
    # What web tells is up to half a second old: at first it has not seen yet that somebody was gone.
    wait_until(lambda: compose.is_healthy("meter") and compose.is_healthy("core"), 60, compose.log(service))
    compose.wait_active()
    print(f"{service}: serving again after {time.monotonic() - started:.1f} s")  # noqa: T201
    compose.require_pages(before)
    assert read_by_the_official_client(compose.port, picture)["status"] == "succeeded"
    compose.require_pages(before + PAGES)


def test_damage_in_the_ledger_is_mended_without_anybodys_hand(compose: Compose, picture: Path) -> None:
    before = compose.pages()
    compose.run("web", PYTHON, "-c", "open('/var/lib/sidecar/ledger.db.damaged', 'w')")
    wait_until(
        lambda: any("the ledger was rebuilt" in compose.log(one) for one in ("web", "meter", "migrate")),
        90,
        "\n".join(compose.log(one)[-1500:] for one in ("web", "meter")),
    )
    compose.wait_active()
    compose.require_pages(before)
    assert read_by_the_official_client(compose.port, picture)["status"] == "succeeded"
    compose.require_pages(before + PAGES)


def test_down_closes_the_window_and_up_goes_on(compose: Compose, picture: Path) -> None:
    before, known = compose.pages() + PAGES, set(compose.mounts.records())
    assert read_by_the_official_client(compose.port, picture)["status"] == "succeeded"
    compose.require_pages(before)
    compose.down()
    (record,) = set(compose.mounts.records()) - known
    found = record.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (USER, USER, 0o440)
    assert '"kind":"use"' in record.read_text()
    compose.up()
    compose.wait_active()
    compose.require_pages(before)
    assert len(list(compose.mounts.output.glob("computervisionread/*"))) == 1  # still the same device


def test_each_process_alone_waits_and_says_for_whom(compose: Compose) -> None:
    """In any order: web before the meter, the core before everybody."""
    compose.down("--volumes")
    compose("up", "--detach", "--no-deps", "core")
    wait_until(lambda: "listening on" in compose.log("core"), 30, compose.log("core"))
    compose("up", "--detach", "--no-deps", "web")
    wait_until(lambda: "waiting for the meter" in compose.log("web"), 30, compose.log("web"))
    assert compose.facts("web")["RestartCount"] == 0
    compose("up", "--detach", "--no-deps", "meter")
    compose.wait_active()
    assert compose.facts("core")["RestartCount"] == 0
