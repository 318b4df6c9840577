"""Core, meter and web as a service manager keeps them: each alone, on sockets handed over, telling how they are."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests

from tests.e2e.site import BINARIES, READY_SECONDS, command, free_port, wait_until
from tests.pages import as_png, printed_page

_HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


class Manager:
    """A service manager in small: starts one process, may hand a socket over, hears what its main process tells."""

    def __init__(self, folder: Path, name: str, words: list[str], handed_over: socket.socket | None = None) -> None:
        self._ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ear.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        address = folder / f"{name}.notes"
        address.unlink(missing_ok=True)
        self._ear.bind(str(address))
        self._ear.setblocking(False)
        self.log = folder / f"{name}.log"
        self.told: list[str] = []
        program = [str(BINARIES / "sidecar"), name, *words]
        fds = () if handed_over is None else (handed_over.fileno(),)
        if handed_over is not None:
            program = [sys.executable, "-c", _HAND_OVER, str(handed_over.fileno()), *program]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                program, env={**os.environ, "NOTIFY_SOCKET": str(address)}, stdout=log, stderr=log, pass_fds=fds
            )

    def listen(self) -> list[str]:
        """Take in what the main process told; what its children tell does not count."""
        while True:
            try:
                note, ancillary, _, _ = self._ear.recvmsg(4096, 1024)
            except BlockingIOError:
                return self.told
            pid = int.from_bytes(ancillary[0][2][:4], sys.byteorder)
            if pid == self.process.pid:
                self.told += note.decode().splitlines()

    def wait_ready(self) -> None:
        wait_until(lambda: "READY=1" in self.listen(), READY_SECONDS, f"not ready\n{self.log.read_text()}")

    def beats(self) -> int:
        """How often it has told that it is at work."""
        return self.listen().count("WATCHDOG=1")

    def status(self) -> str:
        return [note for note in self.listen() if note.startswith("STATUS=")][-1]

    def stop(self) -> int:
        self.process.terminate()
        try:
            # Who does not listen while it waits has the process wait, too.
            wait_until(lambda: (self.listen(), self.process.poll() is not None)[1], 15, self.log.read_text())
            return self.process.wait()
        finally:
            self.process.kill()
            self._ear.close()


class Kept:
    """An appliance without a launcher."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("license", "output", "share", "state"):
            (folder / name).mkdir()
        for words in (
            ["licenses", "keygen", "--out", folder / "vendor", "--evaluation"],
            ["licenses", "issue", "--keys", folder / "vendor", "--customer", "Test", "--days", "90", "--out",
             folder / "license" / "license.dat"],
        ):  # fmt: skip
            done = command(*words)
            assert done.returncode == 0, done.stderr
        self.port = free_port()
        self.web_socket = socket.create_server(("127.0.0.1", self.port))
        self.core_socket = socket.socket(socket.AF_UNIX)
        self.core_socket.bind(str(folder / "core.sock"))
        self.core_socket.listen(64)
        self.words = [
            "eula=accept",
            f"Mounts:License={folder / 'license'}",
            f"Mounts:Output={folder / 'output'}",
            f"Mounts:Shared={folder / 'share'}",
            f"Sidecar:StateDirectory={folder / 'state'}",
            f"Sidecar:CoreSocket={folder / 'core.sock'}",
            f"Sidecar:TrustRoot={folder / 'vendor' / 'trust-root.json'}",
            "Sidecar:Listen=127.0.0.1:1",  # never opened: the socket that is handed over counts
            "ApiKey=a-secret",
        ]
        done = command("sidecar", "migrate", *self.words)
        assert done.returncode == 0, done.stderr
        self.core = Manager(folder, "core", self.words, self.core_socket)
        self.meter = Manager(folder, "meter", self.words)
        self.web = Manager(folder, "web", self.words, self.web_socket)

    def read(self) -> requests.Response:
        return requests.post(
            f"http://127.0.0.1:{self.port}/vision/v3.2/read/syncAnalyze",
            data=as_png(printed_page()),
            headers={"Content-Type": "application/octet-stream"},
            timeout=60,
        )


@contextmanager
def a_kept() -> Iterator[Kept]:
    with tempfile.TemporaryDirectory(prefix="kept-") as name:  # short, as the name of a Unix socket must be
        one = Kept(Path(name))
        with ExitStack() as last:  # one that does not stop must not keep the others running
            last.callback(one.core_socket.close)
            last.callback(one.web_socket.close)
            for part in ("core", "meter", "web"):
                last.callback(lambda part=part: getattr(one, part).stop())
            yield one


@pytest.fixture(scope="module")
def kept() -> Iterator[Kept]:
    with a_kept() as one:
        for part in (one.core, one.meter, one.web):
            part.wait_ready()
        yield one


def test_web_is_ready_when_the_licence_is_decided_and_then_reads(kept: Kept) -> None:
    told = kept.web.listen()
    assert told.index("READY=1") > told.index("STATUS=Starting: the ledger is checked")
    assert kept.web.status().startswith("STATUS=ACTIVE: ")
    answer = kept.read()
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "succeeded"


def test_a_sentence_tells_how_things_stand(kept: Kept) -> None:
    assert kept.meter.status().startswith("STATUS=ACTIVE: ")
    wait_until(lambda: kept.core.status().endswith(" workers are up"), READY_SECONDS, kept.core.status())


def test_the_core_gets_no_secret(kept: Kept) -> None:
    assert b"a-secret" not in Path(f"/proc/{kept.core.process.pid}/environ").read_bytes()


@pytest.mark.parametrize("name", ["core", "meter", "web"])
def test_the_watchdog_is_fed_while_the_work_goes_on(kept: Kept, name: str) -> None:
    part: Manager = getattr(kept, name)
    before = part.beats()
    wait_until(lambda: part.beats() > before + 1, 15, "no sign of work")


def test_the_sockets_stay_when_web_is_told_to_stop(kept: Kept) -> None:
    assert kept.web.stop() == 0
    assert "STOPPING=1" in kept.web.told
    kept.web = Manager(kept.folder, "web", kept.words, kept.web_socket)
    assert kept.read().status_code == 200  # it waited in the socket
