"""What the host offers: its clock, its port, and the ways out where there is to be one.

Invariant: a way out is tried only where a setting has the service use it. A connection is made and closed, and nothing
is sent over it; but in connected mode the billing endpoint is asked a question that changes nothing.
"""

from __future__ import annotations

import errno
import http.client
import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from licenses.device_key import device_id_of, load_device_public
from licenses.errors import LicensesError
from licenses.verify import day_text
from sidecar.billing_client import proxy_for
from sidecar.bootstrap import build_billing_client
from sidecar.clock import Clock, EffectiveTime
from sidecar.diagnose.check import Check, fail, ok, warn
from sidecar.errors import BillingError, SettingsError
from sidecar.log_files import require_log_mount
from sidecar.meter_status import MeterStatus
from sidecar.settings import Settings

_SECONDS = 5.0
_STATUS_BYTES = 1024 * 1024
_NS = 1_000_000_000
_NEAR_SECONDS = 1
_WEB_SOCKET = "ocr-sidecar-web.socket"
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound


def clock(now: EffectiveTime, source: Clock) -> Iterator[Check]:
    """The wall clock against the time since boot, counted from the highest time that was ever reached."""
    behind = (now.ns - now.reading.wall_ns) / _NS
    since_boot = now.reading.boottime_ns // _NS
    if now.quarantined:
        cause = f"the wall clock is {-behind:.0f} s ahead of what the time since boot allows; it is not believed"
        yield warn("clock", cause, "correct the host's clock; if it is right, run 'sidecar clock accept'")
    elif behind > _NEAR_SECONDS:
        cause = f"the wall clock is {behind:.0f} s behind time already reached; effective time goes on from there"
        yield warn("clock", cause, "correct the host's clock; if it was too far ahead before, ask for a reset token")
    else:
        kept = "kept by a time service" if source.is_synchronised() else "not kept by a time service"
        days, hours = since_boot // 86_400, since_boot % 86_400 // 3600
        told = f"effective time {day_text(now.at)}, {days} d {hours} h since boot, {kept}"
        yield ok("clock", told)


def port(settings: Settings) -> Iterator[Check]:
    """Whether the address can be listened on, or is by this service already."""
    host = _ANYWHERE.get(settings.host, settings.host)
    try:
        with socket.create_connection((host, settings.port), _SECONDS):
            pass
    except OSError:
        yield _free(settings)
        return
    state = _state_told(host, settings.port)
    if state:
        yield ok("port", f"{settings.listen} is in use by this service, which is {state}")
    elif _is_kept_open():
        cause = f"{settings.listen} is kept open by systemd for this service; web does not answer behind it"
        yield warn("port", cause, "look at 'systemctl status ocr-sidecar-web.service'")
    else:
        step = f"find it with 'ss -ltnp sport = :{settings.port}' and stop it, or set Sidecar:Listen"
        yield fail("port", f"{settings.listen} is in use by another program", step)


def _is_kept_open() -> bool:
    """Whether the service manager listens for web, which it does while web is down, too."""
    words = ["systemctl", "is-active", "--quiet", _WEB_SOCKET]
    try:
        return subprocess.run(words, capture_output=True, timeout=_SECONDS, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _free(settings: Settings) -> Check:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((settings.host, settings.port))
    except OSError as exc:
        steps = {
            errno.EACCES: "set Sidecar:Listen to a port from 1024 on; those below are for root",
            errno.EADDRNOTAVAIL: "set Sidecar:Listen to an address of this host, or to 0.0.0.0",
            errno.EADDRINUSE: f"find who holds it with 'ss -ltnp sport = :{settings.port}'",
        }
        step = steps.get(exc.errno or 0, "set Sidecar:Listen to an address of this host and a free port")
        return fail("port", f"{settings.listen} cannot be listened on: {exc.strerror or exc}", step)
    return ok("port", f"{settings.listen} is free")


def _state_told(host: str, number: int) -> str:
    """The state that our own status page tells; empty when it is not ours."""
    connection = http.client.HTTPConnection(host, number, timeout=_SECONDS)
    try:
        connection.request("GET", "/status")
        answer = json.loads(connection.getresponse().read(_STATUS_BYTES))
        return str(answer["state"]) if "apiStatus" in answer else ""
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return ""
    finally:
        connection.close()


def endpoint(settings: Settings) -> Iterator[Check]:
    """Whether the billing endpoint can be reached, where it is used; in connected mode, whether it takes the key."""
    if settings.is_connected:
        yield from _asked(settings)
        return
    if not settings.billing:
        return
    if not settings.download_license:
        told = "not asked: metering stays local; 'sidecar diagnose DownloadLicense=True …' tries it"
        yield ok("endpoint", told)
        return
    parts = urlsplit(settings.billing)
    proxy = proxy_for(settings.billing, settings.proxy, settings.proxy_bypass)
    is_tls = parts.scheme == "https"
    host, number = parts.hostname or "", parts.port or (443 if is_tls else 80)
    place = f"{host}:{number}"
    if proxy is not None:
        step = "check HTTP_PROXY and the network"
        yield from _reached("endpoint", proxy.host, proxy.port, step, f"the proxy {proxy.host}:{proxy.port} answers")
        return
    step = "check Billing, the network and, for https, the system's certificates"
    yield from _reached(
        "endpoint", host, number, step, f"{place} answers", is_tls=is_tls, ca_file=settings.billing_ca_file
    )


def _asked(settings: Settings) -> Iterator[Check]:
    """Ask for the acknowledgement that there is: it tells whether the key counts, and changes nothing there."""
    if not (settings.api_key and settings.billing):
        told = "not asked: connected mode needs Billing and ApiKey, and they are not both known here"
        yield warn("endpoint", told, "run this with the settings of the meter; if these are they, add what is missing")
        return
    client = build_billing_client(settings)
    try:
        device = device_id_of(load_device_public(settings.state_directory).raw)
    except LicensesError:
        device = "0" * 16
    well = f"{client.place} answers, and takes the key"
    try:
        client.fetch_acknowledgement(device)
    except BillingError as exc:
        # The key is looked at before the device, so these two take it.
        is_new = exc.status == "Mismatch" and not _has_fetched(settings)
        if exc.refusal != "exchange_refused" and not is_new:
            yield fail("endpoint", str(exc), exc.next_step, code=exc.status)
            return
        well += "; it has acknowledged nothing yet"
    finally:
        client.close()
    last = MeterStatus.read(settings.state_directory)
    if last is not None and last.endpoint_problem:
        cause = f"{well}; but the meter's last contact with it failed: {last.endpoint_problem}"
        yield fail("endpoint", cause, "mend the cause named; the meter tries again by itself", code=last.endpoint_word)
    else:
        yield ok("endpoint", well)


def _has_fetched(settings: Settings) -> bool:
    """Whether the endpoint has given a licence, and so knows this device."""
    try:
        return any(settings.license_folder.iterdir())
    except OSError:
        return False


def log(settings: Settings) -> Iterator[Check]:
    """The ways that the log goes beside the console."""
    try:
        require_log_mount(settings)
    except SettingsError as exc:
        yield fail("log", str(exc), exc.next_step)
    if settings.fluentd_host:
        place = f"{settings.fluentd_host}:{settings.fluentd_port}"
        step = "check Fluentd:Host, Fluentd:Port and the network; lines wait, and the oldest are dropped"
        for check in _reached("log", settings.fluentd_host, settings.fluentd_port, step, f"Fluentd at {place} answers"):
            yield check if check.result == "ok" else warn("log", f"Fluentd: {check.cause}", check.next_step)


def _reached(
    name: str, host: str, number: int, step: str, well: str, *, is_tls: bool = False, ca_file: Path | None = None
) -> Iterator[Check]:
    """Connect and go away again."""
    try:
        with socket.create_connection((host, number), _SECONDS) as plain:
            if is_tls:
                with ssl.create_default_context(cafile=ca_file).wrap_socket(plain, server_hostname=host):
                    pass
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        yield fail(name, f"{host}:{number} cannot be reached: {reason}", step)
    else:
        yield ok(name, well)
