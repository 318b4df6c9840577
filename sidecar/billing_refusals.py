"""What a call to the billing endpoint came to when it did not succeed: a status word, a cause and a next step.

Invariant: pure. Whatever the other side sends becomes a `BillingError` whose word is one of contract B.3 and whose
texts are printable and short; what it says of itself goes before what can be guessed from here.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from licenses.usage_log.fork import MAX_FORK_BYTES
from sidecar.errors import BillingError
from sidecar.settings import Proxy

MAX_CAUSE = 300
MAX_NEXT_STEP = 500
_LONGEST_WAIT_SECONDS = 86400
_BY_ITSELF = "nothing at first: the meter tries again by itself; if it lasts, tell the vendor"
_ADDRESS = "check the address in Billing, and what stands between: a portal or a proxy may have answered"
_PATH = "check the path in Billing: there is no billing endpoint at that address"
_WORDS = {
    HTTPStatus.UNAUTHORIZED: "Invalid",
    HTTPStatus.PAYMENT_REQUIRED: "OutOfQuota",
    HTTPStatus.FORBIDDEN: "ContainerUseUnauthorized",
    HTTPStatus.CONFLICT: "Mismatch",
    HTTPStatus.TOO_MANY_REQUESTS: "BillingEndpointBusy",
    HTTPStatus.SERVICE_UNAVAILABLE: "BillingEndpointBusy",
}
_STEPS = {
    "Invalid": "set ApiKey to a key of the endpoint in Billing that was not revoked, and restart",
    "OutOfQuota": "ask the vendor for a larger commitment",
    "ContainerUseUnauthorized": "ask the vendor to approve this subscription",
    "Mismatch": "use a key of this kind of container and of the subscription that this device belongs to; if it is "
    "one, send the vendor a bundle of 'sidecar usage export'",
    "BillingEndpointBusy": _BY_ITSELF,
    "Unknown": "check the address in Billing; if it is right, ask the vendor",
}
_STATUS_STEPS = {HTTPStatus.NOT_FOUND: _PATH, HTTPStatus.METHOD_NOT_ALLOWED: _PATH}
_PROXY_STEPS = {
    "407": "check HTTP_PROXY_CREDS: the proxy wants others",
    "403": "have the proxy allow the host in Billing, or list it in HTTP_PROXY_BYPASS_URLS; HTTP_PROXY names the proxy",
}


def unreachable(exc: Exception, place: str, proxy: Proxy | None) -> BillingError:
    """There was no answer, or none in HTTP.

    Args:
        exc: What the call ended with.
        place: Scheme, host and port of the endpoint.
        proxy: The proxy on the way; None for none.
    """
    way = f" through the proxy {proxy.host}:{proxy.port}" if proxy else ""
    return BillingError(
        "CouldNotConnect",
        f"the billing endpoint {place} cannot be reached{way}: {_told(exc)}",
        next_step=_step_for(exc, proxy),
    )


def refused(code: int, blob: bytes, headers: Mapping[str, str], proxy: Proxy | None) -> BillingError:
    """There was an answer, and it is no success.

    Args:
        code: HTTP status.
        blob: The answer's body, or the beginning of it.
        headers: The answer's headers, names in lower case.
        proxy: The proxy on the way; None for none.
    """
    if code == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED and proxy is not None:
        return BillingError(
            "CouldNotConnect",
            f"the billing endpoint cannot be reached through the proxy {proxy.host}:{proxy.port}: it wants other "
            f"credentials (HTTP {code})",
            next_step=_PROXY_STEPS["407"],
            http_status=code,
        )
    members = _members(blob)
    claimed = members.get("status")
    status = HTTPStatus(code) if code in set(HTTPStatus) else HTTPStatus.INTERNAL_SERVER_ERROR
    word = claimed if isinstance(claimed, str) and claimed in _STEPS else _WORDS.get(status, "Unknown")
    cause, own_step = _text(members, "message", MAX_CAUSE), _text(members, "nextStep", MAX_NEXT_STEP)
    way = f" through the proxy {proxy.host}:{proxy.port}" if proxy and not members else ""
    if HTTPStatus.MULTIPLE_CHOICES <= code < HTTPStatus.BAD_REQUEST:
        cause = f"it sends elsewhere{_where(headers.get('location', ''))}, and is not followed: the key would go there"
        step = f"{_ADDRESS}; if the endpoint has moved, set Billing to where it is"
    elif word == "Unknown" and code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        step = _BY_ITSELF
    else:
        step = _STATUS_STEPS.get(status, _STEPS[word])
    proof = members.get("proof")
    return BillingError(
        word,
        f"Endpoint connection failed with status '{word}' (HTTP {code}){way}{f': {cause}' if cause else ''}",
        next_step=own_step or step,
        retry_after=_seconds_of(headers.get("retry-after", ""), headers.get("date", "")),
        http_status=code,
        refusal=_text(members, "code", 64),
        proof=proof.encode("utf-8", "replace") if isinstance(proof, str) and len(proof) <= MAX_FORK_BYTES else None,
    )


def too_long(place: str, limit: int) -> BillingError:
    """A success whose body is longer than any that an endpoint sends."""
    return BillingError("Unknown", f"{place} answered more than {limit} bytes", next_step=_ADDRESS)


def not_understood(place: str) -> BillingError:
    """A success that does not say what was asked."""
    return BillingError(
        "Unknown",
        f"{place} answered, but not as a billing endpoint that has taken the report does",
        next_step=_ADDRESS,
    )


def _members(blob: bytes) -> dict[str, Any]:
    try:
        found = json.loads(blob)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(members: Mapping[str, Any], name: str, most: int) -> str:
    """A printable text, without the full stop that others put behind it here; empty when it is none."""
    value = members.get(name)
    if not isinstance(value, str) or not value[:most].isprintable():
        return ""
    return value[:most].strip().rstrip(".")


def _where(location: str) -> str:
    """Scheme, host and port of a redirect's target: what follows, or stands before the host, may be secret."""
    try:
        parts = urlsplit(location)
        port = parts.port
    except ValueError:
        return ""
    if not parts.hostname or not parts.hostname.isprintable():
        return ""
    return f", to {parts.scheme}://{parts.hostname[:100]}{f':{port}' if port else ''}"


def _told(exc: Exception) -> str:
    """What went wrong, in the words of whom it went wrong for."""
    if isinstance(exc, http.client.HTTPException) and not isinstance(exc, OSError):
        return f"its answer is no HTTP ({type(exc).__name__})"
    told = str(exc) or type(exc).__name__
    return told[:MAX_CAUSE] if told.isprintable() else type(exc).__name__


def _step_for(exc: Exception, proxy: Proxy | None) -> str:
    """The next step that fits a failure of the connection."""
    whom, setting = ("proxy", "HTTP_PROXY") if proxy else ("endpoint", "Billing")
    match exc:
        case OSError() if str(exc).startswith("Tunnel connection failed:"):
            status = str(exc).partition(":")[2].split()
            return _PROXY_STEPS.get(
                status[0] if status else "", "ask who runs the proxy in HTTP_PROXY: it does not connect to the endpoint"
            )
        case OSError() if "Sidecar:BillingCaFile" in str(exc):
            return "put the certificates of the endpoint's authority there, in PEM, readable for the service's user"
        case ssl.SSLCertVerificationError():
            return (
                "check the host's date; if the endpoint's certificate is by an authority of your own or the vendor's, "
                "name that authority's certificate in Sidecar:BillingCaFile"
            )
        case ssl.SSLError():
            return "check Billing: does https belong before that host and port, and does nothing between break up TLS?"
        case socket.gaierror():
            return f"check the host name in {setting}, and that the name server answers the meter (/etc/resolv.conf)"
        case TimeoutError():
            return (
                f"check that a firewall lets the meter through to the {whom} in {setting}; what is slow may also be "
                "the name server"
            )
        case ConnectionRefusedError():
            return f"check the port in {setting}, and that the {whom} runs"
        case http.client.HTTPException():
            return f"check the port in {setting}: something else than a billing endpoint listens there, or cuts it off"
        case _:
            return f"check the address in {setting}, the network, the proxy and the certificates"


def _seconds_of(retry_after: str, date: str) -> int | None:
    """`Retry-After` in seconds, of its two forms; None when it is neither. A date counts from the answer's own."""
    try:
        if retry_after.isdigit():
            seconds = int(retry_after[:9])
        else:
            seconds = round((parsedate_to_datetime(retry_after) - parsedate_to_datetime(date)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0, seconds), _LONGEST_WAIT_SECONDS)
