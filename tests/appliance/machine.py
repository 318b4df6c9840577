"""A booted Debian in a container: real systemd, a USB stick, and a port of this host's that leads to the service."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import requests

from licenses.model import READ_PAGES_METER
from tests.appliance.engine import BOOT_IMAGE, Container, Engine
from tests.e2e.site import free_port, wait_until

KEPT = ("ocr-core.service", "ocr-sidecar-web.service", "ocr-sidecar-meter.service")
STICK = "/media/stick"
SAFE = "/media/safe"

_SHARED_MOUNTS = """\
[Unit]
DefaultDependencies=no
Before=sysinit.target
[Service]
Type=oneshot
ExecStart=/bin/mount --make-rshared /
[Install]
WantedBy=sysinit.target
"""


class Machine:
    """One booted machine.

    Args:
        container: The container that it is.
        port: The port of this host that leads to its port 5000.
        stick: The folder of this host that is its USB stick.
    """

    def __init__(self, container: Container, port: int, stick: Path) -> None:
        self.container = container
        self.port = port
        self.stick = stick
        self.url = f"http://127.0.0.1:{port}"

    def wait_booted(self) -> None:
        wait_until(
            lambda: self.run("systemctl", "is-system-running", check=False).strip() in {"running", "degraded"},
            120,
            "the machine does not boot",
        )
        # No way out: who asks for its port is a neighbour.
        pid = self.container.engine("inspect", "--format", "{{.State.Pid}}", self.container.name).stdout.strip()
        subprocess.run(["nsenter", "--net", f"--target={pid}", "ip", "route", "delete", "default"], check=True)

    def be_no_container(self) -> None:
        """Share mounts as every machine does that is no container, from each boot on: credentials arrive by that."""
        self.run("bash", "-c", f"printf '%s' '{_SHARED_MOUNTS}' > /etc/systemd/system/shared-mounts.service")
        self.run("systemctl", "enable", "--quiet", "--now", "shared-mounts.service")

    def run(self, *words: str, check: bool = True) -> str:
        return self.container.run(*words, check=check)

    def exits(self, *words: str) -> int:
        return self.container.exits(*words)

    def shell(self, command: str) -> subprocess.CompletedProcess[str]:
        """What root types there; both channels together are its standard output."""
        return self.container.engine(
            "exec", "--workdir", "/root", "--env", "LC_ALL=C.UTF-8", "--env", "TERM=dumb", self.container.name,
            "bash", "-c", f"exec 2>&1\n{command}", check=False,
        )  # fmt: skip

    def install(self, bundle: Path, license_file: Path) -> None:
        """Install a bundle and a licence, as docs/appliance.md tells, and wait until it serves."""
        for path in (bundle, license_file):
            (self.stick / path.name).write_bytes(path.read_bytes())
        self.run("tar", "xf", f"{STICK}/{bundle.name}", "-C", "/root")
        (folder,) = self.run("bash", "-c", "echo /root/tollgate-*").split()
        self.run(f"{folder}/install.sh", "--accept-eula", "--licence", f"{STICK}/{license_file.name}")
        self.wait_ready()

    def wait_ready(self, seconds: float = 60) -> None:
        wait_until(self.is_ready, seconds, f"not ready\n{self.journal()}")

    def is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/ready", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    def journal(self, *units: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", *(f"--unit={unit}" for unit in units or ("ocr-*",)))

    def property(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def pid(self, unit: str) -> str:
        return self.property(unit, "MainPID")

    def youngest_child(self, unit: str) -> str:
        """The last process that a unit's main process has started: a worker."""
        return self.run("cat", f"/proc/{self.pid(unit)}/task/{self.pid(unit)}/children").split()[-1]

    def signal(self, unit: str, name: str) -> None:
        """Send a signal to a unit's main process."""
        self.run("systemctl", "kill", "--kill-whom=main", f"--signal={name}", unit)

    def wait_replaced(self, unit: str, pid: str, seconds: float) -> float:
        """Wait until a unit serves again under another process; how long that took, in seconds."""
        began = time.monotonic()
        wait_until(
            lambda: self.property(unit, "ActiveState") == "active" and self.pid(unit) not in {pid, "0"},
            seconds,
            f"{unit} is not back\n{self.journal(unit)}",
        )
        return time.monotonic() - began

    def reboot(self) -> None:
        self.container.engine("restart", "--time", "30", self.container.name)
        self.wait_booted()

    def read(self, picture: Path) -> requests.Response:
        return requests.post(
            f"{self.url}/vision/v3.2/read/syncAnalyze",
            data=picture.read_bytes(),
            headers={"Content-Type": "application/octet-stream"},
            timeout=60,
        )

    def pages(self) -> int:
        meters = requests.get(f"{self.url}/records/usage-logs/", timeout=10).json()["meters"]
        return sum(meter["quantity"] for meter in meters if meter["name"] == READ_PAGES_METER)


@contextmanager
def a_machine(engine: Engine, stick: Path | None = None, safe: Path | None = None) -> Iterator[Machine]:
    """Boot one, with nothing installed and no way out; it is gone at the end.

    Args:
        engine: Runs it.
        stick: What is plugged in; a new one by default.
        safe: A second medium.
    """
    port = free_port()
    with ExitStack() as last:
        if stick is None:
            stick = Path(last.enter_context(tempfile.TemporaryDirectory(prefix="stick-")))
        stick.chmod(0o755)
        media = ["--volume", f"{stick}:{STICK}", *(["--volume", f"{safe}:{SAFE}"] if safe is not None else [])]
        container = last.enter_context(
            engine.container(
                "--systemd=always", "--privileged", "--publish", f"127.0.0.1:{port}:5000",
                *media, BOOT_IMAGE, "/sbin/init",
            )
        )  # fmt: skip
        one = Machine(container, port, stick)
        one.wait_booted()
        one.be_no_container()
        yield one
