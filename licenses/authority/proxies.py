"""Reverse proxies: from whom a request's forwarded headers are believed, and what they then say.

Invariants:

* A header counts from a listed address alone. From anywhere else it is as if it were not there: else whoever guesses
  passwords would be another client at each try.
* Of a chain the right-most address that is no proxy of ours is the client: what stands left of it, the client wrote.
* What no address can be read from ends the chain there; nobody is taken for a client whom no proxy named.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from licenses.errors import ClerkAccessError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NARROWEST_COMMON = {4: 8, 6: 16}


@dataclass(frozen=True, slots=True)
class Proxies:
    """The addresses at which reverse proxies are.

    Attributes:
        networks: Single addresses, or networks in which nobody else is.
    """

    networks: tuple[Network, ...] = ()

    @classmethod
    def from_words(cls, words: Sequence[str], *, danger: str) -> Self:
        """Read a setting.

        Args:
            words: Such as "10.0.0.5" or "10.0.8.0/24".
            danger: What each of those who are listed could do, for the refusal of a network that is nearly everybody.

        Raises:
            ClerkAccessError: One is no address, or is nearly everybody.
        """
        return cls(tuple(_network(word, danger) for word in words))

    def __contains__(self, peer: str) -> bool:
        """Whether an address is one of theirs; a Unix socket has none."""
        address = _address(peer)
        return address is not None and self._hold(address)

    def client_of(self, peer: str, forwarded_for: str | None) -> str:
        """The address of who really asks.

        Args:
            peer: Who is connected.
            forwarded_for: The header X-Forwarded-For: addresses, separated by commas, each appended by who received it.
        """
        client = peer
        if peer in self:
            for hop in reversed((forwarded_for or "").split(",")):
                address = _address(_without_port(hop.strip()))
                if address is None:
                    break
                client = str(address)
                if not self._hold(address):
                    break
        return client

    def is_https(self, peer: str, forwarded_proto: str | None) -> bool:
        """Whether it is a proxy, and says in the header X-Forwarded-Proto that the client speaks TLS to it."""
        return peer in self and (forwarded_proto or "").strip().lower() == "https"

    def _hold(self, address: Address) -> bool:
        return any(address.version == network.version and address in network for network in self.networks)


NO_PROXIES = Proxies()
"""Nobody's headers are believed."""


def _network(text: str, danger: str) -> Network:
    try:
        network = ipaddress.ip_network(text.strip())
    except ValueError as exc:
        raise ClerkAccessError(
            f"{text[:80]!r} is no address of a proxy: {exc}",
            next_step="Give an address such as 10.0.0.5, or a network such as 10.0.8.0/24.",
        ) from exc
    if network.prefixlen < _NARROWEST_COMMON[network.version]:
        raise ClerkAccessError(
            f"{text} is nearly everybody: whoever is in it could {danger}",
            next_step="Give the proxy's own address.",
        )
    return network


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _without_port(hop: str) -> str:
    """Some proxies append the port: 192.0.2.7:1234, [2001:db8::7]:1234."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
