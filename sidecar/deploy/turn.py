"""One command at a time changes a service: two would take each other's containers away.

Invariants:

* Who has the turn is a living process: the kernel takes it back when that ends, however it ends; no file is left.
* The turn is for a container's name on an engine's host, by whatever address and user the engine is reached; it holds
  among the commands of one machine. Who is refused is told the process that has it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import pwd
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sidecar.deploy.plan import EXIT_TAKEN
from sidecar.errors import DeployError

_CREDENTIALS = struct.Struct("3i")
_VERBS = frozenset({"up", "upgrade", "down", "support-bundle"})


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has the turn.

    Attributes:
        pid: Its process; 0 when the kernel does not tell, as of one in another container.
        uid: Its user; -1 when the kernel does not tell.
    """

    pid: int
    uid: int

    def __str__(self) -> str:
        if not self.pid:
            return "another 'sidecar deploy'"
        try:
            user = pwd.getpwuid(self.uid).pw_name
        except KeyError:
            user = f"user {self.uid}"
        return f"{self._command()} (process {self.pid} of {user})"

    def _command(self) -> str:
        """What it was called with, as far as that is no secret."""
        try:
            words = Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            words = []
        verbs = (word.decode() for word in words if word.decode("utf-8", "replace") in _VERBS)
        return f"'sidecar deploy {verb}'" if (verb := next(verbs, "")) else "another 'sidecar deploy'"


@contextlib.contextmanager
def turn(host: str, name: str) -> Iterator[None]:
    """Have the turn for a service while the block runs.

    Args:
        host: What the engine's host calls itself.
        name: The service's name.

    Raises:
        DeployError: Another process has it.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as held:
        try:
            held.bind(_address(host, name))
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise DeployError("at_work", f"this machine gives no turn: {exc.strerror}") from exc
            raise _refused(name, holder(host, name) or Holder(0, -1)) from None
        held.listen(socket.SOMAXCONN)  # nobody is let in; who knocks learns from the kernel who listens
        yield


def holder(host: str, name: str) -> Holder | None:
    """Who has the turn for a service; None when nobody has.

    Args:
        host: What the engine's host calls itself.
        name: The service's name.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
        knock.setblocking(False)
        try:
            knock.connect(_address(host, name))
        except ConnectionRefusedError:
            return None
        except OSError:
            return Holder(0, -1)
        pid, uid, _ = _CREDENTIALS.unpack(
            knock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size),
        )
    return Holder(pid, uid)


def _address(host: str, name: str) -> str:
    """A name in the kernel's own list, which no file system holds."""
    return f"\0tollgate-deploy-{hashlib.sha256(f'{host}/{name}'.encode()).hexdigest()}"


def _refused(name: str, one: Holder) -> DeployError:
    return DeployError(
        "at_work",
        f"{one} is at work on '{name}'",
        next_step="wait until that has ended, or end it with Ctrl+C there, and run this again",
        exit_code=EXIT_TAKEN,
    )
