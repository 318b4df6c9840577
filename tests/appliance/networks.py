"""Networks of the tests' own: one with nothing but a loopback, and one with a world behind it that records all it gets.

Invariant: what is started while a network is entered lives in it, and so do sockets made then. Nothing here touches the
network of the host.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

INSIDE, WORLD = "192.0.2.2", "192.0.2.1"  # of a range that is nobody's, for documentation
INSIDE_6, WORLD_6 = "2001:db8::2", "2001:db8::1"

_NEW_NETWORK = 0x40000000
_ALL_PROTOCOLS = 3
_HOP_BY_HOP = 0
_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}
_libc = ctypes.CDLL(None, use_errno=True)


def _join(descriptor: int) -> None:
    if _libc.setns(descriptor, _NEW_NETWORK) != 0:
        raise OSError(ctypes.get_errno(), "cannot enter the network")


class Network:
    """A network namespace.

    Args:
        name: Its name below /run/netns.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be in it, with this thread alone, and with all that it starts."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            _join(there)
            yield
        finally:
            _join(before)
            os.close(before)
            os.close(there)

    def counters(self) -> dict[str, int]:
        """What the kernel has counted in it, as `Ip.OutNoRoutes` or `Udp6.OutDatagrams`."""
        with self.entered():
            old, new = (Path(f"/proc/thread-self/net/{name}").read_text() for name in ("snmp", "snmp6"))
        found: dict[str, int] = {}
        lines = old.splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            kind, *words = names.split()
            found |= {kind[:-1] + "." + word: int(n) for word, n in zip(words, values.split()[1:], strict=True)}
        for line in new.splitlines():
            name, number = line.split()
            kind, six, word = name.partition("6")
            found[f"{kind}{six}.{word}"] = int(number)
        return found


@dataclass(frozen=True)
class Packet:
    """What has left a network.

    Attributes:
        kind: As `UDP to 192.0.2.1 port 53`.
        content: What follows the headers that are named in it.
    """

    kind: str
    content: bytes

    def __str__(self) -> str:
        return f"{self.kind}: {self.content[:80]!r}"


class World:
    """All that lies behind the one wire: records every packet, and resolves every name to itself.

    Args:
        network: Where it lies.
        wire: The name of its end of the wire.
    """

    def __init__(self, network: Network, wire: str) -> None:
        with network.entered():
            self._ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
            self._resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._resolver.bind((WORLD, 53))
        self._ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**24)
        self._ear.bind((wire, 0))
        self._ear.setblocking(False)
        threading.Thread(target=self._resolve, daemon=True).start()

    def packets(self) -> list[Packet]:
        """What has come since this was asked last, but for the kernel's own word that it has an address."""
        found = []
        while True:
            try:
                frame, (_, _, direction, _, _) = self._ear.recvfrom(65536)
            except BlockingIOError:
                return found
            if direction != socket.PACKET_OUTGOING:
                found.append(_packet(frame))
            found = [one for one in found if one.kind != "MLD"]

    def close(self) -> None:
        self._ear.close()
        self._resolver.close()

    def _resolve(self) -> None:
        while True:
            try:
                question, asked_by = self._resolver.recvfrom(4096)
                end = question.index(b"\0", 12) + 5
                is_old = question[end - 4 : end - 2] == b"\0\x01"
                answer = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04" + socket.inet_aton(WORLD) if is_old else b""
                head = question[:2] + b"\x81\x80\0\x01" + (b"\0\x01" if is_old else b"\0\0") + b"\0\0\0\0"
                self._resolver.sendto(head + question[12:end] + answer, asked_by)
            except (ValueError, OSError):
                if self._resolver.fileno() < 0:
                    return


def _packet(frame: bytes) -> Packet:
    kind, rest = int.from_bytes(frame[12:14]), frame[14:]
    if kind == 0x0800:
        protocol, to, rest = rest[9], socket.inet_ntop(socket.AF_INET, rest[16:20]), rest[4 * (rest[0] & 15) :]
    elif kind == 0x86DD:
        protocol, to, rest = rest[6], socket.inet_ntop(socket.AF_INET6, rest[24:40]), rest[40:]
        if protocol == _HOP_BY_HOP:
            return Packet("MLD", rest)
    else:
        return Packet({0x0806: "ARP"}.get(kind, f"Ethernet {kind:#06x}"), rest)
    told = _PROTOCOLS.get(protocol, f"protocol {protocol}")
    if told in {"TCP", "UDP"}:
        return Packet(f"{told} to {to} port {struct.unpack_from('>H', rest, 2)[0]}", rest[8:])
    return Packet(f"{told} to {to}", rest)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextmanager
def _namespace() -> Iterator[Network]:
    name = f"test-{uuid.uuid4().hex[:8]}"
    _ip("netns", "add", name)
    try:
        _ip("-netns", name, "link", "set", "lo", "up")
        yield Network(name)
    finally:
        _ip("netns", "delete", name)


@contextmanager
def an_empty_network() -> Iterator[Network]:
    """A network with nothing but `lo`."""
    with _namespace() as network:
        yield network


@contextmanager
def a_network_with_a_world() -> Iterator[tuple[Network, World]]:
    """A network with an interface, addresses, a default route and a name server, and the world behind them."""
    with ExitStack() as last:
        inside, outside = last.enter_context(_namespace()), last.enter_context(_namespace())
        for network in (inside, outside):
            with network.entered():
                for name in ("router_solicitations", "dad_transmits", "accept_ra"):  # the kernel's own packets
                    Path(f"/proc/sys/net/ipv6/conf/default/{name}").write_text("0")
        _ip("-netns", inside.name, "link", "add", "inside", "type", "veth", "peer", "world", "netns", outside.name)
        for network, wire, old, new in ((inside, "inside", INSIDE, INSIDE_6), (outside, "world", WORLD, WORLD_6)):
            _ip("-netns", network.name, "address", "add", f"{old}/24", "dev", wire)
            _ip("-netns", network.name, "address", "add", f"{new}/64", "dev", wire, "nodad")
            _ip("-netns", network.name, "link", "set", wire, "up")
        _ip("-netns", inside.name, "route", "add", "default", "via", WORLD)
        _ip("-netns", inside.name, "route", "add", "default", "via", WORLD_6)
        world = World(outside, "world")
        last.callback(world.close)
        yield inside, world
