"""Network addresses that an operator lists: document sources (ADR 15), trusted proxies, origins of web pages.

Invariant: pure, and closed: what is not listed is refused, in whatever way it is spelt. Lists are parsed once, with the
settings; one that could mean more than its writer thought is refused then.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from urllib.parse import quote, unquote, urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*", re.ASCII)
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_MAX_URL = 8192
_MAX_NAME = 253
_DECODINGS = 4
_UNTOUCHED = "/%:@!$&'()*+,;=~-._"
# Reached through a translator, or by an old convention, these lead to an address that is not told by its range.
_TRANSITIONAL = tuple(
    ip_network(one)
    for one in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96", "fec0::/10", "192.88.99.0/24")
)


def effective_address(address: Address) -> Address:
    """The address that is reached: the IPv4 one inside `::ffff:0:0/96`, else the address itself."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def is_public(address: Address) -> bool:
    """Whether an address is of the open internet: not private, shared, loopback, link-local, multicast, reserved."""
    one = effective_address(address)
    return (
        one.is_global
        and not one.is_multicast
        and not one.is_reserved
        and not any(one in network for network in _TRANSITIONAL if network.version == one.version)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentUrl:
    """An absolute http or https address, by its parts.

    Attributes:
        scheme: `http` or `https`.
        host: A name in lower case, or an IP address in its shortest form, without brackets; else as it came.
        port: Its port.
        target: Path and query, as they are sent.
        bears_credentials: It has a `user:password@`.
    """

    scheme: str
    host: str
    port: int
    target: str
    bears_credentials: bool = False

    @classmethod
    def from_text(cls, text: str) -> DocumentUrl:
        """Take a URL apart.

        Raises:
            ValueError: It is no absolute http or https address.
        """
        text = text.strip(" ")
        if len(text) > _MAX_URL or any(ord(one) <= 32 or ord(one) == 127 or one == "\\" for one in text):
            raise ValueError("no address")
        parts = urlsplit(text)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError("not an absolute http or https address")
        port = _PORTS[parts.scheme] if parts.port is None else parts.port
        if not 0 < port < 65536:
            raise ValueError("no port")
        path = quote(parts.path or "/", safe=_UNTOUCHED)
        query = "?" + quote(parts.query, safe=_UNTOUCHED + "?") if parts.query else ""
        return cls(
            scheme=parts.scheme,
            host=_normal_host(parts.hostname),
            port=port,
            target=path + query,
            bears_credentials="@" in parts.netloc,
        )

    @property
    def address(self) -> Address | None:
        """The host, where it is an IP address and no name."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    @property
    def authority(self) -> str:
        """Scheme, host and port; the port is left out where it goes without saying."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS[self.scheme] else f":{self.port}")

    @property
    def segments(self) -> list[str]:
        """What lies between the path's slashes, each decoded until nothing more is coded."""
        return [_decoded(one) for one in self.target.partition("?")[0].split("/")]


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentSources:
    """From where documents may be fetched; nothing is, unless it is listed.

    Attributes:
        places: Scheme, host, port and the path that the documents' paths begin with.
        networks: Address ranges that listed names may lead to although they are not public.
    """

    places: tuple[DocumentUrl, ...] = ()
    networks: tuple[Network, ...] = ()

    @classmethod
    def from_text(cls, text: str) -> DocumentSources:
        """Read the setting: `http(s)://HOST[:PORT][/PATH]` and address ranges.

        Raises:
            ValueError: One of them is neither.
        """
        places, networks = [], []
        for word in split_list(text):
            if "://" not in word:
                networks.append(_network(word))
                continue
            place = _place(word)
            if _climbs(place):
                raise ValueError(word)
            places.append(place)
        return cls(places=tuple(places), networks=tuple(networks))

    def __bool__(self) -> bool:
        return bool(self.places)

    def __str__(self) -> str:
        return ",".join(
            [place.authority + place.target for place in self.places] + [str(network) for network in self.networks]
        )

    def permits(self, url: DocumentUrl) -> bool:
        """Whether a document may be asked for by this URL; the addresses of its host are another question."""
        return not url.bears_credentials and any(_is_below(place, url) for place in self.places)

    def permits_address(self, url: DocumentUrl, address: Address) -> bool:
        """Whether to connect to an address that a permitted URL's host leads to."""
        one = effective_address(address)
        if url.address is not None:
            return one == effective_address(url.address)  # the operator wrote it down as it is
        return is_public(one) or _lies_in(one, self.networks)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedProxies:
    """Whose `X-Forwarded-` headers are believed; by default nobody's.

    Attributes:
        everybody: Every caller's.
        networks: Those of callers from these ranges.
    """

    everybody: bool = False
    networks: tuple[Network, ...] = ()

    @classmethod
    def from_text(cls, text: str) -> TrustedProxies:
        """Read the setting: `true`, `false`, or address ranges.

        Raises:
            ValueError: It is none of these.
        """
        if text.lower() in {"true", "false"}:
            return cls(everybody=text.lower() == "true")
        return cls(networks=tuple(_network(word) for word in split_list(text)))

    def __str__(self) -> str:
        return ",".join(map(str, self.networks)) or str(self.everybody).lower()

    def trust(self, peer: str) -> bool:
        """Whether the headers of this peer count.

        Args:
            peer: Its IP address.
        """
        if self.everybody or not self.networks:
            return self.everybody
        try:
            return _lies_in(effective_address(ip_address(peer.partition("%")[0])), self.networks)
        except ValueError:
            return False


def read_origins(text: str) -> tuple[str, ...]:
    """Origins of web pages, as browsers write them: `*`, or `scheme://host[:port]`.

    Raises:
        ValueError: One of them is no origin.
    """
    origins = []
    for word in split_list(text):
        if word == "*":
            return ("*",)
        place = _place(word.lower())
        if place.target != "/":
            raise ValueError(word)
        origins.append(place.authority)
    return tuple(origins)


def split_list(text: str) -> list[str]:
    """The words of a list, whatever separates them: commas, semicolons or blanks."""
    return [word for word in re.split(r"[\s,;]+", text) if word]


def _network(word: str) -> Network:
    try:
        network = ip_network(word)
    except ValueError as exc:
        raise ValueError(word) from exc
    if isinstance(network, IPv6Network) and network.subnet_of(IPv6Network("::ffff:0:0/96")):
        raise ValueError(f"{word}: write it as an IPv4 range")
    return network


def _lies_in(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks if network.version == address.version)


def _place(word: str) -> DocumentUrl:
    place = DocumentUrl.from_text(word)
    if place.bears_credentials or "?" in word or "#" in word or not (place.address or _is_name(place.host)):
        raise ValueError(word)
    return place


def _normal_host(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        return text.lower()


def _is_name(host: str) -> bool:
    """Whether this is a name, and not an address in disguise such as 2130706433, 0x7f.1 or 0177.0.0.1."""
    return (
        len(host) <= _MAX_NAME
        and _NAME.fullmatch(host) is not None
        and _NUMERIC_LABEL.fullmatch(host.rpartition(".")[2]) is None
    )


def _is_below(place: DocumentUrl, url: DocumentUrl) -> bool:
    if (place.scheme, place.host, place.port) != (url.scheme, url.host, url.port):
        return False
    wanted = [segment for segment in place.segments if segment]
    return not wanted or (url.segments[1 : len(wanted) + 1] == wanted and not _climbs(url))


def _decoded(text: str) -> str:
    for _ in range(_DECODINGS):
        text = unquote(text)
    return text


def _climbs(url: DocumentUrl) -> bool:
    """Whether a server could take the path for one that leads upwards."""
    parts = [part for segment in url.segments for part in re.split(r"[/\\]", segment)]
    return any(part.partition(";")[0] in {".", ".."} for part in parts)
