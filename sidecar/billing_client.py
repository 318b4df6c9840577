"""The one way out: calls to the vendor's billing endpoint, made only by commands and processes that are told to.

Invariant: bounded in time and bytes; follows no redirect, for that would carry the key elsewhere; the key never
reaches a message or a log. Whatever goes wrong is a `BillingError` with a status word of contract B.3.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from http import HTTPStatus
from typing import Any

from sidecar.errors import BillingError

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
    """

    def __init__(self, endpoint: str, api_key: str) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._api_key = api_key
        self._opener = urllib.request.build_opener(_NoRedirect)

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
        try:
            with self._opener.open(request, timeout=_SECONDS) as answer:
                blob = bytes(answer.read(MAX_ANSWER_BYTES + 1))
        except urllib.error.HTTPError as exc:
            raise self._refused(exc) from exc
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "reason", exc)
            raise BillingError(
                "CouldNotConnect",
                f"the billing endpoint {self._endpoint} cannot be reached: {reason}",
                next_step="check the address, the network, the proxy and the system's certificates",
            ) from exc
        if len(blob) > MAX_ANSWER_BYTES:
            raise BillingError("Unknown", f"{self._endpoint} answered more than {MAX_ANSWER_BYTES} bytes")
        return blob

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
