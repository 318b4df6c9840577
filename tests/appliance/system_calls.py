"""Which system calls that reach for a network were made, by strace over a process and all that it starts.

Every call is stopped at before the kernel, and any filter of the process's own, has looked at it: what a process is not
permitted to do, and tries, is seen too.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import psutil

from tests.e2e.site import wait_until

_CALLS = "socket,connect,sendto,sendmsg,sendmmsg,io_uring_setup"
_ADDRESS = re.compile(r'sa_family=(\w+)(?:[^}]*?(?:inet_addr\(|inet_pton\(AF_INET6, )"([0-9a-fA-F.:]+)")?')
_SOCKET = re.compile(r"\bsocket\((\w+), (\w+)")
_CALL = re.compile(r"^\d+ +(\w+)\(")
_HARMLESS = {"AF_UNIX", "AF_UNSPEC"}  # the latter takes a connection of UDP apart


def traced(words: Iterable[str], trace: Path) -> list[str]:
    """A command under strace, which stands aside: the command is the child that is started, and gets all signals.

    Args:
        words: The command.
        trace: Where the calls are written to.
    """
    return [
        "strace",
        "-DD",
        "-f",
        "-qq",
        "-s",
        "0",
        "-e",
        f"trace={_CALLS}",
        "-e",
        "signal=none",
        "-o",
        str(trace),
        *words,
    ]


def wait_written(trace: Path) -> None:
    """Wait until all that was traced has ended, and strace with it."""
    words = ["-o", str(trace)]

    def is_gone() -> bool:
        return not any(
            one.info["name"] == "strace" and " ".join(words) in " ".join(one.info["cmdline"] or ())
            for one in psutil.process_iter(["name", "cmdline"])
        )

    wait_until(is_gone, 20, f"still traced into {trace}")


class Calls:
    """What was traced.

    Args:
        traces: The files.

    Attributes:
        families: How many sockets were made, by `AF_… SOCK_…`.
        offences: Lines of calls that reach for something beyond this machine, or could unseen.
    """

    def __init__(self, traces: Iterable[Path]) -> None:
        self.families: Counter[str] = Counter()
        self.offences: list[str] = []
        self.number = 0
        for trace in traces:
            for line in trace.read_text(errors="replace").splitlines():
                self._look_at(line)

    def _look_at(self, line: str) -> None:
        call = _CALL.match(line)
        if call is None:
            return  # the second half of one that was told already
        self.number += 1
        made = _SOCKET.search(line) if call[1] == "socket" else None
        if made is not None:
            self.families[f"{made[1]} {made[2]}"] += 1
        if (
            call[1] == "io_uring_setup"  # what goes through it is seen by nobody
            or (made is not None and _can_ask_for_names(made[1], made[2]))
            or any(_is_beyond(family, address) for family, address in _ADDRESS.findall(line))
        ):
            self.offences.append(line)


def _can_ask_for_names(family: str, kind: str) -> bool:
    """Names and time are asked for by UDP, also of a resolver on this machine that asks on."""
    return family == "AF_PACKET" or (family in {"AF_INET", "AF_INET6"} and kind != "SOCK_STREAM")


def _is_beyond(family: str, address: str) -> bool:
    if family in _HARMLESS or family == "AF_NETLINK":  # the latter asks the kernel which interfaces there are
        return False
    try:
        return not ipaddress.ip_address(address).is_loopback
    except ValueError:
        return True
