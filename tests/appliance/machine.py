"""A booted Debian in a container: real systemd, the product's units, the service behind a port of the host's."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from licenses.model import READ_PAGES_METER
from tests.appliance.engine import BOOT_IMAGE, PROJECT, Container, Engine
from tests.e2e.site import free_port, wait_until

UNITS = PROJECT / "systemd"
KEPT = ("ocr-core.service", "ocr-sidecar-web.service", "ocr-sidecar-meter.service")


class Machine:
    """One booted machine.

    Args:
        container: The container that it is.
        port: The port of this host that leads to its port 5000.
    """

    def __init__(self, container: Container, port: int) -> None:
        self.container = container
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def wait_booted(self) -> None:
        wait_until(
            lambda: self.run("systemctl", "is-system-running", check=False).strip() in {"running", "degraded"},
            60,
            "the machine does not boot",
        )
        # As on a machine that is none of a container's; without it no credential reaches a service.
        self.run("mount", "--make-rshared", "/")

    def run(self, *words: str, check: bool = True) -> str:
        return self.container.run(*words, check=check)

    def install(self, trust_root: Path, license_file: Path) -> None:
        """Put units, users, folders, settings and a licence in their places, and start the service."""
        self.run("mkdir", "-p", "/etc/tollgate")
        for unit in UNITS.iterdir():
            if unit.suffix in {".service", ".socket", ".target", ".path"}:
                self.container.put(unit, "/etc/systemd/system/")
        self.container.put(UNITS / "sysusers.conf", "/usr/lib/sysusers.d/tollgate.conf")
        self.container.put(UNITS / "tmpfiles.conf", "/usr/lib/tmpfiles.d/tollgate.conf")
        with tempfile.TemporaryDirectory() as folder:
            settings = Path(folder) / "sidecar.conf"
            settings.write_text(
                re.sub(r"^#(Eula = accept)", r"\1", (UNITS / "sidecar.conf").read_text(), flags=re.MULTILINE)
            )
            self.container.put(settings, "/etc/tollgate/sidecar.conf")
        self.container.put(trust_root, "/etc/tollgate/trust-root.json")
        self.run("chmod", "644", "/etc/tollgate/trust-root.json")
        self.run("systemd-sysusers")
        self.run("systemd-tmpfiles", "--create", "tollgate.conf")
        self.container.put(license_file, "/etc/tollgate/license/license.dat")
        self.run("chown", "root:nonroot", "/etc/tollgate/license/license.dat")
        self.run("chmod", "640", "/etc/tollgate/license/license.dat")
        self.run("systemctl", "daemon-reload")
        units = [path.name for path in UNITS.iterdir() if "[Install]" in path.read_text()]
        self.run("systemctl", "enable", "--quiet", *sorted(units))
        self.run("systemctl", "start", "ocr-sidecar.target")
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
def a_machine(engine: Engine) -> Iterator[Machine]:
    """Boot one; it is gone at the end."""
    port = free_port()
    with engine.container(
        "--systemd=always", "--privileged", "--publish", f"127.0.0.1:{port}:5000", BOOT_IMAGE, "/sbin/init"
    ) as container:
        one = Machine(container, port)
        one.wait_booted()
        yield one
