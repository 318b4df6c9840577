"""The one way out: calls to the vendor's billing endpoint, made only by commands and processes that are told to.

Invariant: bounded in time and bytes, however the other side behaves: a name that does not resolve, an answer that
comes a byte at a time, one that never ends. Follows no redirect, for that would carry the key elsewhere; the key never
reaches a message or a log. Only the settings name a proxy: what the host's own programs go by (`http_proxy`,
`no_proxy`, …) is not looked at. Whatever goes wrong is a `BillingError` with a status word of contract B.3.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import queue
import socket
import ssl
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from sidecar.billing_refusals import not_understood, refused, too_long, unreachable
from sidecar.settings import Proxy

LICENSE_PATH = "/tollgate/v1/license"
USAGE_PATH = "/tollgate/v1/usage"
ACKNOWLEDGEMENTS_PATH = "/tollgate/v1/acknowledgements"
MAX_ANSWER_BYTES = 256 * 1024
CALL_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageTaken:
    """The endpoint's word that it has taken a report.

    Attributes:
        repeated: Whether it had taken the same before; nothing was billed for it then.
    """

    repeated: bool


@dataclass(slots=True)
class _Call:
    """One request on its way, and the connection that can be cut under it."""

    method: str
    path: str
    body: bytes | None
    kind: str
    answers: queue.SimpleQueue[tuple[int, bytes, Mapping[str, str]] | Exception | None]
    connection: http.client.HTTPConnection | None = None


class BillingClient:
    """Calls to one endpoint with one key. One call at a time; `stop` may come from another thread.

    Args:
        endpoint: The setting `Billing`, an absolute http(s) address.
        api_key: The setting `ApiKey`.
        proxy: The proxy to go through; None for none.
        ca_file: Certificates to verify the endpoint's by; None for the system's.
        seconds: Longest time for one call, from the name's resolution to the answer's last byte.
    """

    def __init__(
        self,
        endpoint: str,
        api_key: str,
        proxy: Proxy | None = None,
        *,
        ca_file: Path | None = None,
        seconds: float = CALL_SECONDS,
    ) -> None:
        parts = urlsplit(endpoint)
        self._is_tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._is_tls else 80)
        shown = f"[{self._host}]" if ":" in self._host else self._host
        self._place = f"{parts.scheme}://{shown}" + (f":{parts.port}" if parts.port else "")
        self._base = parts.path.rstrip("/")
        self._api_key = api_key
        self._proxy = proxy
        self._ca_file = ca_file
        self._seconds = seconds
        self._connection: http.client.HTTPConnection | None = None
        self._call: _Call | None = None
        self._stopped = threading.Event()

    @property
    def place(self) -> str:
        """Scheme, host and port of the endpoint, for people."""
        return self._place

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.is_set()

    def fetch_license(
        self, container_type: str, device_public: bytes | None, *, enrolment: bytes | None = None
    ) -> bytes:
        """Ask for a licence file.

        Args:
            container_type: What this container is.
            device_public: The 32 public bytes of this device's key, if there is one, for a licence bound to it.
            enrolment: The device's enrolment, signed by that key, if there is one.

        Returns:
            The file's bytes, not verified yet.

        Raises:
            BillingError: The endpoint cannot be reached, or refuses.
        """
        body: dict[str, Any] = {
            "containerType": container_type,
            "devicePublicKey": device_public.hex() if device_public else None,
        }
        if enrolment is not None:
            body["enrolment"] = json.loads(enrolment)
        return self._asked("POST", LICENSE_PATH, json.dumps(body).encode("ascii"))

    def send_usage(self, body: bytes, report_id: str) -> UsageTaken:
        """Deliver one report; the same again, if it was not certain that it arrived, is billed once.

        Args:
            body: The request's JSON.
            report_id: The id in it, which the answer must bear too.

        Raises:
            BillingError: The endpoint cannot be reached, refuses, or its answer does not say that it took this report.
        """
        blob = self._asked("POST", USAGE_PATH, body)
        try:
            answer = json.loads(blob)
            is_taken = answer["status"] == "Valid" and str(answer["id"]).lower() == report_id
            repeated = answer.get("repeated") is True
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
            raise not_understood(self._place) from exc
        if not is_taken:
            raise not_understood(self._place)
        return UsageTaken(repeated=repeated)

    def fetch_acknowledgement(self, device_id: str) -> bytes:
        """Ask for the newest acknowledgement of a device's log.

        Args:
            device_id: 16 hexadecimal digits.

        Returns:
            The file's bytes, not verified yet.

        Raises:
            BillingError: The endpoint cannot be reached, or refuses.
        """
        return self._asked("GET", f"{ACKNOWLEDGEMENTS_PATH}/{quote(device_id, safe='')}/latest", None)

    def stop(self) -> None:
        """End the call that is under way, and refuse all further ones: the process ends."""
        self._stopped.set()
        call = self._call
        if call is not None:
            call.answers.put(None)
            _cut(call.connection)

    def go_on(self, seconds: float) -> None:
        """Allow calls again after `stop`, each for so long at most."""
        self._seconds = seconds
        self._stopped.clear()

    def close(self) -> None:
        """Let the connection go that was kept for the next call."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # ---- one call ---------------------------------------------------------------------------------------------------

    def _asked(self, method: str, path: str, body: bytes | None) -> bytes:
        try:
            status, blob, headers = self._exchanged(method, path, body, "application/json")
        except (OSError, http.client.HTTPException, ValueError) as exc:
            self.close()
            raise unreachable(exc, self._place, self._proxy) from exc
        if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            raise refused(status, blob, headers, self._proxy)
        if len(blob) > MAX_ANSWER_BYTES:
            raise too_long(self._place, MAX_ANSWER_BYTES)
        return blob

    def _exchanged(self, method: str, path: str, body: bytes | None, kind: str) -> tuple[int, bytes, Mapping[str, str]]:
        """Do it in a thread of its own and wait so long: a resolver, or a slow answer, obeys no socket's time-out."""
        if self._stopped.is_set():
            raise ConnectionAbortedError("this process is ending")
        call = _Call(method, path, body, kind, queue.SimpleQueue())
        call.connection, self._connection = self._connection, None
        self._call = call
        threading.Thread(target=self._run, args=(call,), name="billing", daemon=True).start()
        if self._stopped.is_set():
            call.answers.put(None)  # it came between the two looks
        try:
            answer = call.answers.get(timeout=self._seconds)
        except queue.Empty:
            _cut(call.connection)
            raise TimeoutError(f"no answer within {self._seconds:g} s") from None
        finally:
            self._call = None
        if answer is None:
            raise ConnectionAbortedError("this process is ending")
        if isinstance(answer, Exception):
            raise answer
        self._connection = call.connection
        return answer

    def _run(self, call: _Call) -> None:
        try:
            try:
                reused = call.connection is not None
                call.answers.put(self._sent(call))
            except (http.client.RemoteDisconnected, ConnectionError):
                # The endpoint had closed what was kept open. Every call may be made again: none counts twice.
                if not reused:
                    raise
                _close(call)
                call.answers.put(self._sent(call))
        except Exception as exc:  # noqa: BLE001 - it is raised again where the call was made
            _close(call)
            call.answers.put(exc)

    def _sent(self, call: _Call) -> tuple[int, bytes, Mapping[str, str]]:
        connection = call.connection = call.connection or self._connect()
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Ocp-Apim-Subscription-Key": self._api_key,
        }
        target = self._base + call.path
        if call.body is not None:
            headers["Content-Type"] = call.kind
        if self._proxy is not None and not self._is_tls:
            headers |= _credentials(self._proxy) | {"Host": self._place.partition("://")[2]}
            target = self._place + target
        connection.request(call.method, target, body=call.body, headers=headers)
        answer = connection.getresponse()
        blob = bytes(answer.read(MAX_ANSWER_BYTES + 1))
        if answer.length and len(blob) <= MAX_ANSWER_BYTES:
            raise http.client.IncompleteRead(blob, answer.length)
        told = {name.lower(): value for name, value in answer.getheaders()}
        if answer.will_close or not answer.isclosed():  # or the rest of it would be taken for the next answer
            _close(call)
        return answer.status, blob, told

    def _connect(self) -> http.client.HTTPConnection:
        """A connection that is made when it is first used; through a proxy, https goes by CONNECT and shows nothing."""
        host, port = (self._proxy.host, self._proxy.port) if self._proxy else (self._host, self._port)
        if not self._is_tls:
            return http.client.HTTPConnection(host, port, timeout=self._seconds)
        secure = http.client.HTTPSConnection(host, port, timeout=self._seconds, context=self._trust())
        if self._proxy is not None:
            secure.set_tunnel(self._host, self._port, _credentials(self._proxy))
        return secure

    def _trust(self) -> ssl.SSLContext:
        """By the system's certificates, or by those of the file alone."""
        if self._ca_file is None:
            return ssl.create_default_context()
        try:
            return ssl.create_default_context(cafile=str(self._ca_file))
        except OSError as exc:
            raise OSError(f"Sidecar:BillingCaFile {self._ca_file}: {exc.strerror or exc}") from exc


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


def _credentials(proxy: Proxy) -> dict[str, str]:
    if not proxy.credentials:
        return {}
    token = base64.b64encode(proxy.credentials.encode("utf-8")).decode("ascii")
    return {"Proxy-Authorization": f"Basic {token}"}


def _cut(connection: http.client.HTTPConnection | None) -> None:
    """End whatever waits on a connection, from another thread."""
    raw = getattr(connection, "sock", None)
    if raw is not None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(raw, socket.SHUT_RDWR)  # of the bytes below TLS: no farewell is waited for


def _close(call: _Call) -> None:
    if call.connection is not None:
        call.connection.close()
        call.connection = None
