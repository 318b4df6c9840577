"""Podman with a storage of its own, which is kept between runs so that bases are made once; containers never are."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
STORAGE = Path(os.environ.get("APPLIANCE_STORAGE", PROJECT / "build" / "appliance"))
IMAGE = "localhost/tollgate:test"
BOOT_IMAGE = "localhost/boot-base:bookworm"
LOCKS = ("requirements/handwriting.txt", "requirements/deploy.txt")
USER = 65532
_HAS_ONE_CGROUP = Path("/sys/fs/cgroup/cgroup.controllers").exists()


class Engine:
    """Runs podman's commands."""

    def __init__(self) -> None:
        STORAGE.mkdir(parents=True, exist_ok=True)
        self.options = ["--root", str(STORAGE / "storage"), "--runroot", str(STORAGE / "run")]
        self.environ = dict(os.environ)
        if not _HAS_ONE_CGROUP:
            self.environ.setdefault("CONTAINERS_CONF", str(PROJECT / "containers" / "containers.conf"))

    def words(self, *words: str | Path) -> list[str]:
        """The whole command line."""
        return ["podman", "--log-level=fatal", *self.options, *map(str, words)]

    def __call__(
        self, *words: str | Path, check: bool = True, seconds: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        done = subprocess.run(
            self.words(*words), capture_output=True, text=True, env=self.environ, timeout=seconds, check=False
        )
        assert not check or done.returncode == 0, f"podman {' '.join(map(str, words))}\n{done.stdout}{done.stderr}"
        return done

    def has(self, image: str) -> bool:
        return self("image", "exists", image, check=False).returncode == 0

    def make_image(self, trust_root: Path) -> None:
        """What `make image` does."""
        subprocess.run(
            ["scripts/make-image", IMAGE, LOCKS[0]],
            cwd=PROJECT,
            env={**self.environ, "ENGINE_OPTIONS": " ".join(self.options), "TRUST_ROOT": str(trust_root)},
            check=True,
        )

    def make_bundle(self) -> Path:
        """What `make bundle` does, of the image that was made before; where it is."""
        out = STORAGE / "bundle"
        for old in out.glob("*.tar"):
            old.unlink()
        subprocess.run(
            [sys.executable, "scripts/make-bundle", IMAGE, out, *LOCKS],
            cwd=PROJECT,
            env={**self.environ, "ENGINE_OPTIONS": " ".join(self.options), "RUN_DIR": str(STORAGE / "vendor")},
            check=True,
        )
        (bundle,) = out.glob("*.tar")
        return bundle

    def make_boot_image(self) -> None:
        """A bare Debian that boots, with nothing of the product's and nothing that only the product needs."""
        if not self.has(BOOT_IMAGE):
            tar = STORAGE / "boot.tar"
            subprocess.run(
                ["mmdebstrap", "--quiet", "--variant=minbase",
                 "--include=python3,ca-certificates,systemd,systemd-sysv,dbus", "bookworm", tar],
                check=True,
            )  # fmt: skip
            self("import", tar, BOOT_IMAGE)
            tar.unlink()

    @contextmanager
    def container(self, *words: str | Path) -> Iterator[Container]:
        """A container in the background, removed at the end."""
        name = f"test-{uuid.uuid4().hex[:8]}"
        try:
            self("run", "--detach", "--name", name, *words)
            yield Container(self, name)
        finally:
            self("rm", "--force", "--time", "5", "--volumes", name, check=False)


class Container:
    """A running container.

    Args:
        engine: Who runs it.
        name: Its name.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name

    def run(self, *words: str | Path, check: bool = True) -> str:
        """Run a command in it; what it printed."""
        done = self.engine("exec", self.name, *words, check=check)
        return done.stdout + done.stderr

    def exits(self, *words: str | Path) -> int:
        """Run a command in it; its exit code."""
        return self.engine("exec", self.name, *words, check=False).returncode

    def put(self, path: Path, place: str) -> None:
        """Copy a file or folder into it."""
        self.engine("cp", path, f"{self.name}:{place}")

    def log(self) -> str:
        done = self.engine("logs", self.name)
        return done.stdout + done.stderr


class Terminal:
    """A command at a terminal of its own, as a person has it: Ctrl+C is a key here.

    Args:
        words: The command.
        environ: Its environment.
    """

    def __init__(self, words: list[str], environ: dict[str, str]) -> None:
        pid, self._screen = pty.fork()
        if pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever runs the tests may have it ignored
            os.execvpe(words[0], words, environ)
        self._pid = pid
        self._seen = b""

    def seen(self) -> str:
        """All that it has shown."""
        while select.select([self._screen], [], [], 0)[0]:
            try:
                more = os.read(self._screen, 65536)
            except OSError:  # it has ended
                break
            if not more:
                break
            self._seen += more
        return self._seen.decode(errors="replace")

    def wait_for(self, text: str, seconds: float) -> None:
        until = time.monotonic() + seconds
        while text not in self.seen():
            assert time.monotonic() < until, f"no {text!r} in:\n{self.seen()}"
            time.sleep(0.1)

    def type(self, text: str) -> None:
        """Type on its keyboard."""
        os.write(self._screen, text.encode())

    def press_ctrl_c(self, seconds: float) -> int:
        """Press it; the exit code, which must come in time."""
        self.type("\x03")
        return self.wait(seconds)

    def wait(self, seconds: float) -> int:
        """Its exit code, which must come in time."""
        until = time.monotonic() + seconds
        while True:
            self.seen()
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < until, f"still there after {seconds} s:\n{self.seen()}"
            time.sleep(0.05)
