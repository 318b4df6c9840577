"""A whole service for tests: real launcher, core, meter and web on a free port, with a licence of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import requests

from licenses.cli import main as licenses_command
from licenses.model import READ_PAGES_METER
from tests.fakes.disks import mounted

READY_SECONDS = 60.0
BINARIES = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(holds: Callable[[], object], seconds: float, what: str) -> None:
    """Wait for a condition of another process; polling real processes is the only way to see it.

    What takes longer is asked less often: asking costs the processor that the others work with.
    """
    until = time.monotonic() + seconds
    pause = 0.02
    while not holds():
        if time.monotonic() > until:
            raise AssertionError(f"after {seconds} s: {what}")
        time.sleep(pause)
        pause = min(pause * 1.2, 0.15)


def command(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one of the project's commands to its end."""
    return subprocess.run(
        [str(BINARIES / str(words[0])), *map(str, words[1:])],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


class Site:
    """One appliance in a temporary folder.

    Attributes:
        url: Base address of the HTTP API.
        folder: Where everything lies.
    """

    def __init__(self, *settings: str, issue: tuple[str, ...] = ("--days", "90")) -> None:
        # A short path: the name of a Unix socket has little room.
        self._holder = tempfile.TemporaryDirectory(prefix="site-")
        self.folder = Path(self._holder.name)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._settings = list(settings)
        self.environment: dict[str, str] = {}
        self._launcher: subprocess.Popen[bytes] | None = None
        for name in ("license", "output", "share", "state"):
            (self.folder / name).mkdir()
        self.licenses("keygen", "--out", self.folder / "vendor", "--evaluation")
        self.issue(*issue)

    # ---- the vendor -------------------------------------------------------------------------------------------------

    @property
    def license_file(self) -> Path:
        return self.folder / "license" / "license.dat"

    @property
    def trust_root(self) -> Path:
        return self.folder / "vendor" / "trust-root.json"

    def issue(self, *options: str, name: str = "license.dat") -> Path:
        out = self.folder / "license" / name
        self.licenses(
            "issue",
            "--keys",
            self.folder / "vendor",
            "--customer",
            "Test",
            *options,
            "--out",
            out,
            "--force",
        )
        return out

    def licenses(self, *words: str | Path) -> None:
        """Run the vendor's command in this process: the service is under test here, and each site has a vendor."""
        with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.redirect_stderr(told):
            try:
                licenses_command([str(word) for word in words])
            except SystemExit as end:
                code = end.code
        assert code == 0, told.getvalue()

    # ---- life -------------------------------------------------------------------------------------------------------

    @property
    def words(self) -> list[str]:
        return [
            "eula=accept",
            f"Mounts:License={self.folder / 'license'}",
            f"Mounts:Output={self.folder / 'output'}",
            f"Mounts:Shared={self.folder / 'share'}",
            f"Sidecar:StateDirectory={self.folder / 'state'}",
            f"Sidecar:CoreSocket={self.folder / 'core.sock'}",
            f"Sidecar:TrustRoot={self.trust_root}",
            f"Sidecar:Listen=127.0.0.1:{self.port}",
            *self._settings,
        ]

    def start(self, *, ready: bool = True) -> Site:
        with self.log.open("ab") as log:
            self._launcher = subprocess.Popen(
                [str(BINARIES / "sidecar"), *self.words],
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
            )
        if ready:
            self.wait_ready()
        return self

    def stop(self) -> int:
        """SIGTERM, as an operator's Ctrl+C; the launcher's exit code."""
        if self._launcher is None:
            return 0
        if self._launcher.poll() is None:
            self._launcher.send_signal(signal.SIGTERM)
        code = self._launcher.wait(20)
        self._launcher = None
        return code

    def crash(self) -> None:
        """Kill -9 of everything at once, as a power cut would (the disk's own caches aside)."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._launcher is not None:
            self._launcher.wait(10)
            self._launcher = None

    def remove(self) -> None:
        self.crash()
        self._holder.cleanup()

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        wait_until(lambda: self.ready() == 200, seconds, f"not ready\n{self.log_text()}")

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    # ---- processes --------------------------------------------------------------------------------------------------

    def processes(self, part: str | None = None) -> list[psutil.Process]:
        """The launcher and all below it, or those of one part: core, meter, web."""
        if self._launcher is None:
            return []
        try:
            top = psutil.Process(self._launcher.pid)
            everything = [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
        if part is None:
            return everything
        marks = {"core": "ocr_core", "meter": "meter", "web": "web"}
        found = []
        for process in everything:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if marks[part] in process.cmdline()[1:4]:
                    found.append(process)
        return found

    def core_workers(self) -> list[psutil.Process]:
        """Processes below the core's master that serve; the second engine's and the decoders are not among them."""
        family = self.processes("core")
        pids = {process.pid for process in family}
        return [one for one in family if one.ppid() in pids and not one.name().startswith(("second-", "decoder"))]

    # ---- the API ----------------------------------------------------------------------------------------------------

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=10)

    def ready(self) -> int:
        try:
            return self.get("/ready").status_code
        except requests.RequestException:
            return 0

    def status(self) -> dict[str, Any]:
        return dict(self.get("/status").json())

    def pages(self) -> int:
        """Pages that the service says it counted."""
        meters = self.get("/records/usage-logs/").json()["meters"]
        return sum(meter["quantity"] for meter in meters if meter["name"] == READ_PAGES_METER)

    def settled_pages(self) -> int:
        """The same, once nothing is being read."""
        wait_until(lambda: "tollgate_operations_unfinished 0.0" in self.get("/metrics").text, 60, "still reading")
        return self.pages()

    def post(self, document: bytes, *, query: str = "", kind: str = "application/octet-stream") -> requests.Response:
        return requests.post(
            f"{self.url}/vision/v3.2/read/analyze{query}", data=document, headers={"Content-Type": kind}, timeout=60
        )

    def sync(self, document: bytes, *, query: str = "") -> requests.Response:
        return requests.post(
            f"{self.url}/vision/v3.2/read/syncAnalyze{query}",
            data=document,
            headers={"Content-Type": "application/octet-stream"},
            timeout=120,
        )

    def submit(self, document: bytes, *, query: str = "") -> str:
        """Send a document; the address of its result."""
        answer = self.post(document, query=query)
        assert answer.status_code == 202, answer.text
        return answer.headers["Operation-Location"]

    def result(self, location: str, seconds: float = 60) -> dict[str, Any]:
        """Poll until the operation has ended."""
        path = location.removeprefix(self.url)
        last: dict[str, Any] = {}

        def ended() -> bool:
            with contextlib.suppress(requests.RequestException):
                answer = self.get(path)
                assert answer.status_code == 200, answer.text
                last.update(answer.json())
            return last.get("status") in {"succeeded", "failed"}

        wait_until(ended, seconds, f"operation not over: {last}")
        return last

    # ---- the records ------------------------------------------------------------------------------------------------

    def record_lines(self) -> list[dict[str, Any]]:
        """Every entry in the record files on the output mount."""
        lines = []
        for path in sorted((self.folder / "output").glob("computervisionread/*/usage/*/*/*.jsonl")):
            lines += [json.loads(line) for line in path.read_text().splitlines()]
        return sorted((line for line in lines if "record" not in line), key=lambda line: int(line["seq"]))

    def recorded_uses(self) -> list[tuple[str, int]]:
        return [(line["id"], line["page"]) for line in self.record_lines() if line["kind"] == "use"]


def text_of(result: dict[str, Any]) -> str:
    """All text of a result, line by line."""
    pages = result["analyzeResult"]["readResults"]
    return "\n".join(line["text"] for page in pages for line in page["lines"])


@contextlib.contextmanager
def a_site(*settings: str, **options: Any) -> Iterator[Site]:
    """A started site that is stopped and removed afterwards."""
    site = Site(*settings, **options)
    try:
        yield site.start()
    finally:
        site.remove()


@contextlib.contextmanager
def a_site_on_a_small_disk(name: str, size: str) -> Iterator[Site]:
    """A started site, one of whose folders (`output`, `share`, `state`) is a disk of its own; needs root."""
    site = Site()
    try:
        with mounted(site.folder / name, f"size={size}"):
            try:
                yield site.start()
            finally:
                site.crash()
    finally:
        site.remove()
