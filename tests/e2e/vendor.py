"""A vendor's side for tests: real commands, a real service on a free port, one customer with one subscription."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from tests.e2e.site import BINARIES, command

KEY_HEADER = "Ocp-Apim-Subscription-Key"
API = "/tollgate/v1"


class Vendor:
    """The books and the service of one vendor.

    Attributes:
        folder: Where everything lies.
        keys: The folder that keygen wrote.
        database: The books' file; beside it lies what is looked at.
        subscription: The id of the subscription.
        key: Its API key.
        url: Base address of the service, once it was started.
    """

    def __init__(
        self, keys: Path | None = None, *, books: Path | None = None, quantity: int = 1_000_000, overage: bool = True
    ) -> None:
        self._holder = tempfile.TemporaryDirectory(prefix="vendor-")
        self.folder = Path(self._holder.name)
        self.keys = keys or self.folder / "keys"
        self.database = (books or self.folder) / "authority.db"
        self.url = ""
        self._process: subprocess.Popen[str] | None = None
        if keys is None:
            self.licenses("keygen", "--evaluation", "--out", self.keys)
        self.authority("init")
        self.authority("customer", "add", "St. Example's Hospital")
        words = ["--overage"] if overage else []
        self.authority("tier", "add", "tier", "--quantity", str(quantity), "--period", "year", *words)
        self.subscription = self.add_subscription()
        self.key = self.new_key(self.subscription)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "TOLLGATE_AUTHORITY_DATABASE": str(self.database),
            "TOLLGATE_AUTHORITY_KEYS": str(self.keys),
        }

    @property
    def trust_root(self) -> Path:
        return self.keys / "trust-root.json"

    # ---- the commands -----------------------------------------------------------------------------------------------

    def licenses(self, *words: str | Path) -> str:
        done = command("licenses", *words, **self.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def authority(self, *words: str | Path) -> dict[str, Any]:
        """Run a command of `licenses authority`; its facts."""
        return dict(json.loads(self.licenses("authority", *words, "--json")))

    def add_subscription(self, *words: str) -> str:
        told = self.authority("subscription", "add", "--customer", "St. Example's Hospital", "--tier", "tier", *words)
        return str(told["id"])

    def new_key(self, subscription: str, slot: int = 1) -> str:
        return str(self.authority("key", "new", subscription, "--slot", str(slot))["key"])

    # ---- the service ------------------------------------------------------------------------------------------------

    def start(self, *words: str, listen: str = "127.0.0.1:0") -> Vendor:
        """Start the service, and wait for its first line."""
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [str(BINARIES / "licenses"), "authority", "serve", "--listen", listen, *words],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **self.environment},
            )
        assert self._process.stdout is not None
        greeting = self._process.stdout.readline()
        assert greeting.startswith("Now listening on: "), greeting + self.log.read_text()
        self.url = greeting.removeprefix("Now listening on: ").strip()
        return self

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL of the master and its worker."""
        if self._process is not None:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            self._process.kill()
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            self._end(signal.SIGKILL)

    def remove(self) -> None:
        self.kill()
        self._holder.cleanup()

    def _end(self, number: signal.Signals) -> int:
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(number)
        code = self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None
        return code

    # ---- the API ----------------------------------------------------------------------------------------------------

    def get(self, path: str, *, key: str | None = None) -> requests.Response:
        return requests.get(self.url + API + path, headers={KEY_HEADER: self.key if key is None else key}, timeout=30)

    def post(
        self, path: str, blob: bytes | Any, *, kind: str = "application/json", key: str | None = None
    ) -> requests.Response:
        headers = {KEY_HEADER: self.key if key is None else key, "Content-Type": kind}
        return requests.post(self.url + API + path, data=blob, headers=headers, timeout=120)


@contextlib.contextmanager
def a_vendor_at_work(**options: Any) -> Iterator[Vendor]:
    """A vendor whose service is started, stopped and removed afterwards."""
    vendor = Vendor(**options)
    try:
        yield vendor.start()
    finally:
        vendor.remove()
