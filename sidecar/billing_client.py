"""The one way out: calls to the vendor's billing endpoint, made only by commands and processes that are told to.

Invariant: bounded in time and bytes; follows no redirect, for that would carry the key elsewhere; the key never
reaches a message or a log. Only the settings name a proxy: what the host's own programs go by (`http_proxy`,
`no_proxy`, …) is not looked at. Whatever goes wrong is a `BillingError` with a status word of contract B.3.
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from sidecar.errors import BillingError
from sidecar.settings import Proxy

LICENSE_PATH = "/tollgate/v1/license"
MAX_ANSWER_BYTES = 256 * 1024
_SECONDS = 30.0
_WORDS = {
    HTTPStatus.UNAUTHORIZED: ("Invalid", "check ApiKey and Billing: the key must belong to that endpoint"),
    HTTPStatus.PAYMENT_REQUIRED: ("OutOfQuota", "ask the vendor for a larger commitment"),
    HTTPStatus.FORBIDDEN: ("ContainerUseUnauthorized", "ask the vendor to approve this subscription"),
    HTTPStatus.CONFLICT: ("Mismatch", "use the key of a resource of this kind of container"),
    HTTPStatus.TOO_MANY_REQUESTS: ("BillingEndpointBusy", "try again later"),
    HTTPStatus.SERVICE_UNAVAILABLE: ("BillingEndpointBusy", "try again later"),
}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_named: Any) -> None:
        """None: the redirect itself becomes the answer, which is an error."""


class BillingClient:
    """Calls to one endpoint with one key.

    Args:
        endpoint: The setting `Billing`, an absolute http(s) address.
        api_key: The setting `ApiKey`.
        proxy: The proxy to go through; None for none.
    """

    def __init__(self, endpoint: str, api_key: str, proxy: Proxy | None = None) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._api_key = api_key
        self._proxy = proxy
        self._opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))

    def fetch_license(self, container_type: str, device_public: bytes | None) -> bytes:
        """Ask for a licence file.

        Args:
            container_type: What this container is.
            device_public: The 32 public bytes of this device's key, if there is one, for a licence bound to it.

        Returns:
            The file's bytes, not verified yet.

        Raises:
            BillingError: The endpoint cannot be reached, or refuses.
        """
        body = {"containerType": container_type, "devicePublicKey": device_public.hex() if device_public else None}
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked with the settings
            self._endpoint + LICENSE_PATH,
            data=json.dumps(body).encode("ascii"),
            headers={"Content-Type": "application/json", "Ocp-Apim-Subscription-Key": self._api_key},
            method="POST",
        )
        if self._proxy is not None:
            self._through(request, self._proxy)
        try:
            with self._opener.open(request, timeout=_SECONDS) as answer:
                blob = bytes(answer.read(MAX_ANSWER_BYTES + 1))
        except urllib.error.HTTPError as exc:
            raise self._refused(exc) from exc
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "reason", exc)
            way = f" through the proxy {self._proxy.host}:{self._proxy.port}" if self._proxy else ""
            raise BillingError(
                "CouldNotConnect",
                f"the billing endpoint {self._endpoint} cannot be reached{way}: {reason}",
                next_step="check the address, the network, the proxy and the system's certificates",
            ) from exc
        if len(blob) > MAX_ANSWER_BYTES:
            raise BillingError("Unknown", f"{self._endpoint} answered more than {MAX_ANSWER_BYTES} bytes")
        return blob

    def _through(self, request: urllib.request.Request, proxy: Proxy) -> None:
        """Send it to the proxy; an https endpoint is then reached by CONNECT, and the proxy sees none of it."""
        host = f"[{proxy.host}]" if ":" in proxy.host else proxy.host
        request.set_proxy(f"{host}:{proxy.port}", "http")
        if proxy.credentials:
            token = base64.b64encode(proxy.credentials.encode("utf-8")).decode("ascii")
            request.add_unredirected_header("Proxy-Authorization", f"Basic {token}")

    def _refused(self, exc: urllib.error.HTTPError) -> BillingError:
        try:
            status = HTTPStatus(exc.code)
        except ValueError:
            status = HTTPStatus.INTERNAL_SERVER_ERROR
        word, step = _WORDS.get(status, ("Unknown", "check the address in Billing; else ask the vendor"))
        told = ""
        try:
            answer = json.loads(exc.read(MAX_ANSWER_BYTES))
            word, told = str(answer["status"])[:40], str(answer["message"])[:300]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        detail = f": {told}" if told.isprintable() and told else ""
        return BillingError(
            word,
            f"Endpoint connection failed with status '{word}' (HTTP {exc.code}){detail}",
            next_step=step,
        )


def proxy_for(endpoint: str, proxy: Proxy | None, bypass: Iterable[str]) -> Proxy | None:
    """The proxy on the way to an endpoint; None when there is none, or when the endpoint is among those to bypass it.

    Args:
        endpoint: An absolute address.
        proxy: The setting `HTTP_PROXY`.
        bypass: `HTTP_PROXY_BYPASS_URLS`: host names and addresses; one that begins with a dot stands for all below it.
    """
    host = (urlsplit(endpoint).hostname or "").lower()
    listed = any(host == one or (one.startswith(".") and host.endswith(one)) for one in bypass)
    return None if listed else proxy
