"""Who is let in to the clerk's page, decided from plain values: the address listened on, the peer, its headers.

Invariants:

* Nobody is let in without a name, wherever the page is served; the name is what the audit trail will hold.
* A proxy's header is believed only when it was switched on by name, and only from an address that is listed. From
  anywhere else it is as if it were not there.
* On an address that others can reach, the page does not exist until there is a way to be let in.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from licenses.authority.passwords import NAME, PasswordFile
from licenses.authority.proxies import NO_PROXIES, Proxies
from licenses.errors import ClerkAccessError

_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
_TAKEN_HEADERS = frozenset(
    {"host", "cookie", "origin", "referer", "content-type", "content-length", "user-agent", "accept", "connection"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedProxy:
    """A reverse proxy that has asked the clerk who he is, and tells it.

    Attributes:
        header: The header that holds the clerk's name; the proxy must remove it from what clients send.
        proxies: The addresses from which it is believed.
    """

    header: str
    proxies: Proxies

    @classmethod
    def from_words(cls, header: str | None, addresses: Sequence[str]) -> Self | None:
        """Read the two settings; None when neither is given.

        Args:
            header: Such as "X-Remote-User".
            addresses: Such as "10.0.0.5" or "10.0.8.0/24".

        Raises:
            ClerkAccessError: One is given without the other, or one of them is not what it should be.
        """
        if header is None and not addresses:
            return None
        if header is None or not addresses:
            raise ClerkAccessError(
                "a proxy's header and the addresses it may come from are given together, or not at all",
                next_step="Give both, such as --clerk-header X-Remote-User --clerk-proxy 10.0.0.5, or neither.",
            )
        if _HEADER.fullmatch(header) is None or header.lower() in _TAKEN_HEADERS:
            raise ClerkAccessError(
                f"{header[:80]!r} cannot be the header that names the clerk",
                next_step="Take one of the proxy's own, such as X-Remote-User.",
            )
        return cls(header=header, proxies=Proxies.from_words(addresses, danger="name himself any clerk"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClerkAccess:
    """The ways in.

    Attributes:
        listen: The address that the service listens on, such as "127.0.0.1:8400", "[::]:8400" or "unix:/run/a.sock".
        passwords: The clerks' passwords.
        proxy: A proxy that names the clerk; None believes no header.
        forwarders: Proxies that tell whose request it is, and whether it came over TLS.
    """

    listen: str
    passwords: PasswordFile
    proxy: TrustedProxy | None = None
    forwarders: Proxies = NO_PROXIES

    @property
    def is_reachable_by_others(self) -> bool:
        """Whether the service listens on more than this machine's own address."""
        return not is_loopback(self.listen)

    def require_way_in(self) -> None:
        """Refuse to show the page while nobody could be let in to it.

        Raises:
            ClerkAccessError: There is neither a password nor a proxy.
            LicensesError: The file of passwords cannot be read.
        """
        if self.proxy is None and not self.passwords.names():
            where = f"the service listens on {self.listen}, and " if self.is_reachable_by_others else ""
            raise ClerkAccessError(
                f"{where}no clerk has a password yet: the clerk's page is closed",
                next_step="On the machine of the service, as its user, run: licenses authority password",
            )

    def clerk_by_header(self, peer: str, value: str | None) -> str | None:
        """The name that the proxy vouches for; None when this is not the proxy.

        Raises:
            ClerkAccessError: It is the proxy, and it names nobody, or somebody who cannot be.
        """
        if self.proxy is None or peer not in self.proxy.proxies:
            return None
        name = (value or "").strip().lower()
        if NAME.fullmatch(name) is None:
            raise ClerkAccessError(
                f"the proxy at {peer} sent no name of a clerk in {self.proxy.header}",
                next_step="Have the proxy ask for a login, and send the name: lower-case letters, digits, . _ @ and -.",
            )
        return name

    def is_over_tls(self, peer: str, forwarded_proto: str | None) -> bool:
        """Whether a proxy at this address says, and is believed, that the browser speaks TLS to it.

        Args:
            peer: Who is connected.
            forwarded_proto: The header X-Forwarded-Proto.
        """
        return self.forwarders.is_https(peer, forwarded_proto) or (
            self.proxy is not None and self.proxy.proxies.is_https(peer, forwarded_proto)
        )

    def knows(self, peer: str) -> bool:
        """Whether a proxy at this address was named, for the one or the other."""
        return peer in self.forwarders or (self.proxy is not None and peer in self.proxy.proxies)


def is_loopback(listen: str) -> bool:
    """Whether only this machine can reach a listening address; a Unix socket is one."""
    if listen.startswith("unix:"):
        return True
    host = listen.rpartition(":")[0].strip("[]") if ":" in listen else listen
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def neighbourhood(peer: str) -> str:
    """What is counted as one guesser: an IPv4 address, or the /64 that one IPv6 host can have all of."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return "local"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
