"""The commands of the machine: the only module that starts processes.

Invariant: a command that fails is a `StepError` that names it and says what it printed, or an answer that says so.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from appliance.errors import StepError

_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PIP_CONFIG_FILE": os.devnull,  # `--isolated` alone leaves the machine's /etc/pip.conf in force
}
_LINES_SHOWN = 12
_MOST_RESTARTS = 20
_STOP_TRIES = 4


class System:
    """The machine that this runs on."""

    def run(self, *words: str | Path, seconds: float = 900) -> str:
        """Run a command to its end.

        Args:
            words: The command.
            seconds: Longest time that it may take.

        Returns:
            What it printed.

        Raises:
            StepError: It failed, took too long, or is not there.
        """
        try:
            done = subprocess.run(
                list(map(str, words)), capture_output=True, text=True, errors="replace", env=_ENVIRONMENT,
                stdin=subprocess.DEVNULL, close_fds=False, timeout=seconds, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise StepError(f"'{words[0]}' could not be run to its end: {exc}") from exc
        if done.returncode:
            said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_LINES_SHOWN:])
            raise StepError(f"'{' '.join(map(str, words))}' ended with {done.returncode}:\n{said}")
        return done.stdout

    def succeeds(self, *words: str | Path, seconds: float = 60) -> bool:
        """Whether a command ends with 0."""
        try:
            self.run(*words, seconds=seconds)
        except StepError:
            return False
        return True

    def hand_over(self, *words: str | Path) -> int:
        """Have another command go on, at the same terminal; what it ended with."""
        return subprocess.run(list(map(str, words)), env=_ENVIRONMENT, check=False).returncode

    def manager_version(self) -> int | None:
        """The version of the systemd that runs this machine; None when none does."""
        if not Path("/run/systemd/system").is_dir():
            return None
        try:
            found = re.search(r"[0-9]+", self.run("systemctl", "--version", seconds=10))
        except StepError:
            return None
        return int(found[0]) if found else None

    def is_active(self, unit: str) -> bool:
        """Whether a unit is up, or on its way."""
        return self._state(unit) in {"active", "activating", "reloading"}

    def has_failed(self, unit: str) -> bool:
        """Whether a unit is down for good, or ends again and again."""
        if self._state(unit) == "failed":
            return True
        restarts = self._property(unit, "NRestarts")
        return restarts.isdigit() and int(restarts) >= _MOST_RESTARTS

    def last_words(self, units: Sequence[str]) -> str:
        """The last lines that units themselves have written to the journal."""
        try:
            return self.run(
                "journalctl", "--quiet", "--no-pager", "--boot", "--lines=4", "--output=cat",
                *(f"_SYSTEMD_UNIT={unit}" for unit in units), seconds=30,
            )  # fmt: skip
        except StepError:
            return ""

    def _state(self, unit: str) -> str:
        return self._property(unit, "ActiveState")

    def _property(self, unit: str, name: str) -> str:
        try:
            return self.run("systemctl", "show", f"--property={name}", "--value", unit, seconds=30).strip()
        except StepError:
            return ""

    def reload(self) -> None:
        """Have systemd read its units anew."""
        self.run("systemctl", "daemon-reload")

    def enable(self, units: Sequence[str]) -> None:
        """Have units started with the machine."""
        self.run("systemctl", "enable", "--quiet", *units)

    def disable(self, units: Sequence[str]) -> None:
        """Have units started no longer."""
        self.run("systemctl", "disable", "--quiet", *units)

    def start(self, unit: str, units: Sequence[str]) -> None:
        """Start a unit; failures of earlier tries by any of `units` are forgotten before."""
        self.succeeds("systemctl", "reset-failed", *units)
        self.run("systemctl", "start", "--no-block", unit)

    def stop(self, units: Sequence[str]) -> None:
        """Stop units, and wait until they are down.

        A start that is still on its way, as of a run that was killed, may cancel a stop: then it is asked for again.

        Raises:
            StepError: One of them stays up.
        """
        for _ in range(_STOP_TRIES):
            self.succeeds("systemctl", "stop", *units, seconds=300)
            up = [unit for unit in units if self.is_active(unit)]
            if not up:
                break
        else:
            raise StepError(f"{', '.join(up)} cannot be stopped: systemctl status {up[0]}")
        self.succeeds("systemctl", "reset-failed", *units)

    def make_users(self, file: Path) -> None:
        """Make the users that a file of sysusers.d names."""
        self.run("systemd-sysusers", file)

    def make_folders(self, file: Path) -> None:
        """Make the folders that a file of tmpfiles.d names, with their owners."""
        self.run("systemd-tmpfiles", "--create", file)

    def make_environment(self, release: Path, wheelhouse: Path, locks: Sequence[Path]) -> None:
        """Make a Python environment of exactly the locked wheels, with byte code.

        Args:
            release: Its folder.
            wheelhouse: All wheels; `pip` is among them.
            locks: The lock files.
        """
        python = release / "bin" / "python"
        self.run("python3", "-I", "-m", "venv", "--without-pip", release)
        (pip,) = wheelhouse.glob("pip-*.whl")
        install: list[str | Path] = [
            "python3", "-I", "-B", pip / "pip", "--isolated", "--python", python, "install", "--quiet",
            "--no-compile", "--no-cache-dir", "--no-index", "--disable-pip-version-check", "--root-user-action=ignore",
            "--find-links", wheelhouse,
        ]  # fmt: skip
        self.run(*install, "--require-hashes", *(word for lock in locks for word in ("--requirement", lock)))
        self.run(*install, "--no-deps", "tollgate")
        for site in release.glob("lib/python3.*/site-packages"):
            self.run(python, "-I", "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash", site)

    def flush(self) -> None:
        """Have all that was written reach the disks."""
        os.sync()

    def version_of_product(self, release: Path) -> str:
        """What the product of a release says its version is; proves that it can be run at all."""
        return self.run(release / "bin" / "sidecar", "--version", seconds=60).split()[-1]

    def is_ready(self, release: Path) -> bool:
        """Whether the running service would serve a query now."""
        return self.succeeds(release / "bin" / "sidecar", "health", seconds=30)

    def status(self, release: Path) -> str | None:
        """What the running service says of itself; None when nothing answers."""
        try:
            return self.run(release / "bin" / "sidecar", "status", seconds=30)
        except StepError:
            return None

    def verify_license(self, release: Path, file: Path, trust_root: Path) -> None:
        """Have a release judge a licence file.

        Raises:
            StepError: It is not to be believed, or has ended.
        """
        self.run(release / "bin" / "licenses", "verify", file, "--trust-root", trust_root, seconds=60)

    def may_follow(self, release: Path, old: Path, new: Path) -> bool:
        """Whether a trust root is the same as another or its successor, as a release judges it."""
        judge = (
            "import sys; from pathlib import Path; from licenses.keyring import load_successor, load_trust_root; "
            "load_successor(Path(sys.argv[2]), load_trust_root(Path(sys.argv[1])))"
        )
        return self.succeeds(release / "bin" / "python", "-I", "-c", judge, old, new)
