"""The journal of systemd, spoken to in its own protocol: what an event tells is there as fields, not as text to parse.

Invariant: an event is one datagram, sent without waiting; what the journal does not take goes to standard error as
everything else does. Values may hold anything: a value with line ends is sent with its length, so nobody can forge a
field.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")
PREFIX = "TOLLGATE_"
_MAX_NAME_LENGTH = 64


def is_standard_error(journal_stream: str, descriptor: int = 2) -> bool:
    """Whether a stream is the one that systemd connected to the journal.

    Args:
        journal_stream: The value of JOURNAL_STREAM: device and inode. A process further down inherits the variable
            even where its standard error was sent elsewhere.
        descriptor: The stream.
    """
    try:
        facts = os.fstat(descriptor)
    except OSError:
        return False
    return journal_stream == f"{facts.st_dev}:{facts.st_ino}"


def field_name(name: str) -> str:
    """The field of ours that a fact goes into: capital letters, digits and underscores."""
    return (PREFIX + re.sub(r"[^A-Z0-9]+", "_", name.upper()))[:_MAX_NAME_LENGTH].rstrip("_")


def datagram(fields: Iterable[tuple[str, str]]) -> bytes:
    """The bytes of one event.

    Args:
        fields: Names as the journal wants them, and values.
    """
    parts = []
    for name, value in fields:
        content = value.encode("utf-8", "replace")
        if b"\n" in content:
            parts.append(name.encode("ascii") + b"\n" + struct.pack("<Q", len(content)) + content + b"\n")
        else:
            parts.append(name.encode("ascii") + b"=" + content + b"\n")
    return b"".join(parts)


class Journal:
    """Sends events.

    Args:
        path: Where the journal listens.
    """

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    def send(self, fields: Iterable[tuple[str, str]]) -> bool:
        """Send one event at once; false when the journal does not take it."""
        try:
            self._socket.sendto(datagram(fields), self._path)
        except OSError:
            return False
        return True
