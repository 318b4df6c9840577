"""A real core: its own process, a real Unix socket, a really signed licence and lease."""

import base64
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil

from licenses.device_key import DeviceKey
from licenses.lease import Lease, seal_lease
from licenses.model import License
from ocr_core.clock import SystemClock
from ocr_core.memory_share import most_at_once
from tests.fakes.licences import FakeVendor, a_lease, a_license, a_vendor

_START_SECONDS = 20
MINUTE_MS = 60_000


class RunningCore:
    """One core and everything it needs, in a folder of its own.

    Args:
        lic: The licence in its folder; None leaves the folder empty.
        words: Further settings.
    """

    def __init__(self, lic: License | None = None, *, licensed: bool = True, words: tuple[str, ...] = ()) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="core-"))
        self.socket = self.folder / "run" / "core.sock"
        self.license_directory = self.folder / "license"
        self.shared = self.folder / "share"
        self.state = self.folder / "state"
        for folder in (self.license_directory, self.shared, self.state):
            folder.mkdir()
        self.vendor: FakeVendor = a_vendor()
        self.license = lic or a_license(not_before=datetime(2020, 1, 1, tzinfo=UTC))  # valid by any wall clock, too
        self.vendor.install(self.folder, self.license)
        if not licensed:
            self.take_license_away()
        self.device = DeviceKey.load_or_create(self.state)
        self.words = (
            f"Sidecar:CoreSocket={self.socket}",
            f"Sidecar:StateDirectory={self.state}",
            f"Sidecar:TrustRoot={self.folder / 'trust-root.json'}",
            f"Mounts:License={self.license_directory}",
            f"Mounts:Shared={self.shared}",
            *words,
        )
        self.environment: dict[str, str] = {}
        self.log = self.folder / "core.log"
        self.process: subprocess.Popen[bytes] | None = None

    # ---- the process

    def start(self, *, wait: bool = True) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ocr_core", *self.words],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            try:
                status, told = self.get("/health")
                pages = int(str(told["workers"]))
                if status == 200 and len(self.workers()) > pages + most_at_once(pages) + 1:
                    return
            except OSError:
                if self.process is not None and self.process.poll() is not None:
                    break
            time.sleep(0.02)
        raise AssertionError(f"the core did not start: {self.log_text()}")

    def stop(self, number: signal.Signals = signal.SIGTERM, *, timeout: float = 15) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout)

    def workers(self) -> list[psutil.Process]:
        assert self.process is not None
        family = psutil.Process(self.process.pid).children()
        return [process for process in family if not _name(process).startswith("second-")]

    def second_engine(self) -> list[psutil.Process]:
        """The second engine's keeper, and the engine's process after it while it is loaded."""
        assert self.process is not None
        family = psutil.Process(self.process.pid).children(recursive=True)
        found = [process for process in family if _name(process).startswith("second-")]
        return sorted(found, key=_name, reverse=True)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def clean_up(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- licence and lease

    def put_license(self, lic: License | None = None) -> None:
        (self.license_directory / "license.dat").write_bytes(self.vendor.seal(lic or self.license))

    def take_license_away(self) -> None:
        (self.license_directory / "license.dat").unlink()

    def lease(self, **changes: object) -> Lease:
        clock = SystemClock()
        window = {
            "boot_id": clock.boot_id(),
            "from_boottime_ms": clock.boottime_ms() - 1000,
            "until_boottime_ms": clock.boottime_ms() + 20 * MINUTE_MS,
            "license_id": self.license.license_id,
            "license_sequence": self.license.sequence,
        }
        return a_lease(**(window | changes))

    def lease_header(self, **changes: object) -> str:
        return base64.b64encode(seal_lease(self.lease(**changes), self.device.signing_key)).decode("ascii")

    # ---- requests

    def put_document(self, blob: bytes) -> str:
        name = str(uuid.uuid4())
        folder = self.shared / "operations" / name
        folder.mkdir(parents=True)
        (folder / "document").write_bytes(blob)
        return name

    def get(self, path: str) -> tuple[int, dict[str, object]]:
        return self.request("GET", path, None, lease=None)

    def inspect(self, document: str, **fields: object) -> tuple[int, dict[str, object]]:
        return self.request("POST", "/inspect", {"document": document, **fields})

    def page(self, document: str, page: int = 1, **fields: object) -> tuple[int, dict[str, object]]:
        return self.request("POST", "/page", {"document": document, "page": page, **fields})

    def request(
        self, method: str, path: str, body: object, *, lease: str | None = "", timeout: float = 60
    ) -> tuple[int, dict[str, object]]:
        """Ask; a lease is minted unless one (or None) is given."""
        headers = {} if lease is None else {"Tollgate-Lease": lease or self.lease_header()}
        connection = UnixConnection(self.socket, timeout)
        try:
            data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("core", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@contextmanager
def running_core(
    lic: License | None = None, *, licensed: bool = True, words: tuple[str, ...] = ()
) -> Iterator[RunningCore]:
    core = RunningCore(lic, licensed=licensed, words=words)
    try:
        core.start()
        yield core
    finally:
        core.clean_up()


def _name(process: psutil.Process) -> str:
    """What a process calls itself; nothing for one that is gone."""
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
