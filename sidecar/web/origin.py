"""The address of this service as its client named it (contract E.0).

Invariant: nothing of a request is repeated in an answer unless it is what an address may be made of, and what a proxy
says of the client's address counts only where the operator trusts that proxy.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address

from flask import current_app, request
from werkzeug.datastructures import Headers

from sidecar.web.paths import AS_SENT
from sidecar.web.services import services

_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,253}|\[(?P<ipv6>[0-9A-Fa-f:.]{2,45})\])(:(?P<port>\d{1,5}))?", re.ASCII)
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+){1,20}/?", re.ASCII)
_PORT = re.compile(r"\d{1,5}", re.ASCII)
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def origin() -> str:
    """Scheme, host and port, as in `http://host:5000`; behind a trusted proxy also the path in front of ours."""
    listen = services(current_app).settings.listen
    return origin_of(request.headers, scheme=request.scheme, unnamed=listen, forwarded=_forwarded())


def prefix() -> str:
    """The path that a trusted proxy has in front of ours, as in `/ocr`; empty where there is none."""
    return _prefix(request.headers) if _forwarded() else ""


def root() -> str:
    """What links of our own pages begin with: `/ocr/` behind a trusted proxy that says so, else the way up from here.

    Relative, for a proxy that is not trusted may have a path in front of ours too.
    """
    up = "../" * (request.environ.get(AS_SENT, request.path).count("/") - 1)
    return f"{prefix()}/" if prefix() else up or "./"


def origin_of(headers: Headers, *, scheme: str, unnamed: str, forwarded: bool) -> str:
    """The address that a request's headers name.

    Of several values, as proxies in a row leave them, the last counts: the nearest proxy's own.

    Args:
        headers: The request's headers.
        scheme: How the request arrived.
        unnamed: Host and port where the headers name none that could be one.
        forwarded: Whether what `X-Forwarded-Proto`, `-Host`, `-Port` and `-Prefix` say counts.
    """
    host = _host(headers.get("Host", "")) or unnamed
    if forwarded:
        told = _last(headers, "X-Forwarded-Proto").lower()
        scheme = told if told in _DEFAULT_PORTS else scheme
        told_host = _host(_last(headers, "X-Forwarded-Host"))
        host = told_host or host
        port = _last(headers, "X-Forwarded-Port")
        if _PORT.fullmatch(port) and 0 < int(port) < 65536 and not _port_of(told_host):
            host = _without_port(host) + ("" if port == _DEFAULT_PORTS[scheme] else f":{port}")
    return f"{scheme}://{host}{_prefix(headers) if forwarded else ''}"


def _forwarded() -> bool:
    """Whether the request comes from a proxy that is believed."""
    return services(current_app).settings.trusted_proxies.trust(request.remote_addr or "")


def _prefix(headers: Headers) -> str:
    told = _last(headers, "X-Forwarded-Prefix")
    return told.rstrip("/") if _PREFIX.fullmatch(told) and not {".", ".."} & set(told.split("/")) else ""


def _last(headers: Headers, name: str) -> str:
    return headers.get(name, "").rpartition(",")[2].strip()


def _host(text: str) -> str:
    """The text, where it is a host with or without a port; else nothing."""
    match = _HOST.fullmatch(text)
    if match is None or int(match["port"] or 0) > 65535:
        return ""
    if match["ipv6"]:
        try:
            IPv6Address(match["ipv6"])
        except ValueError:
            return ""
    return text


def _port_of(host: str) -> str:
    match = _HOST.fullmatch(host)
    return match["port"] or "" if match else ""


def _without_port(host: str) -> str:
    match = _HOST.fullmatch(host)
    return match["name"] if match else host
