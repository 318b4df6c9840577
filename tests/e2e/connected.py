"""A connected appliance, and either of two endpoints: one of the tests' own, and `licenses authority serve`."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any, Protocol

import requests

from licenses import envelope as dsse
from licenses.model import READ_PAGES_METER
from tests.e2e.site import Site, command, wait_until
from tests.e2e.vendor import API, KEY_HEADER, Vendor
from tests.fakes.billing import FakeEndpoint, a_present_license, a_present_vendor
from tests.pages import as_png, printed_page

PAGE = as_png(printed_page(size=(600, 200)))
WINDOW_SECONDS = 3
KEY = "0123456789abcdef0123456789abcdef"


class Counterpart(Protocol):
    """The vendor's side of the story."""

    key: str

    @property
    def url(self) -> str: ...

    @property
    def trust_root(self) -> bytes: ...

    def leave(self) -> None:
        """Be killed."""

    def come(self) -> None:
        """Be started, at the same address."""

    def pages(self) -> int:
        """Pages billed."""

    def entries(self) -> int:
        """Entries that were reported."""

    def acknowledged(self) -> int:
        """Entries under the acknowledgement that the device would be given now."""

    def remove(self) -> None: ...


class FakeCounterpart:
    """The tests' own endpoint."""

    def __init__(self) -> None:
        self.endpoint = FakeEndpoint(vendor=a_present_vendor(), terms=a_present_license, key=KEY)
        self.key = KEY

    @property
    def url(self) -> str:
        return self.endpoint.url

    @property
    def trust_root(self) -> bytes:
        return self.endpoint.vendor.trust_root_blob

    def leave(self) -> None:
        self.endpoint.leave()

    def come(self) -> None:
        self.endpoint.listen()

    def pages(self) -> int:
        return self.endpoint.pages(READ_PAGES_METER)

    def entries(self) -> int:
        return max(report.size for report in self.endpoint.reports.values())

    def acknowledged(self) -> int:
        (origin,) = {report.origin for report in self.endpoint.reports.values()}
        path = f"{API}/acknowledgements/{origin.rpartition('/')[2]}/latest"
        return _acknowledged(requests.get(self.url + path, headers={KEY_HEADER: KEY}, timeout=30))

    def remove(self) -> None:
        self.endpoint.close()


class RealCounterpart:
    """`licenses authority serve`."""

    def __init__(self) -> None:
        self.vendor = Vendor().start()
        self.key = self.vendor.key
        self.url = self.vendor.url

    @property
    def trust_root(self) -> bytes:
        return self.vendor.trust_root.read_bytes()

    def leave(self) -> None:
        self.vendor.kill()

    def come(self) -> None:
        self.vendor.start(listen=self.url.removeprefix("http://"))

    def pages(self) -> int:
        with sqlite3.connect(self.vendor.folder / "authority.db") as books:
            (found,) = books.execute("SELECT sum(quantity) FROM amount WHERE kind <> 'ack'").fetchone()
        return int(found or 0)

    def _books(self) -> dict[str, Any]:
        (device,) = self.vendor.authority("reconcile")["devices"]
        assert (device["gaps"], device["forks"]) == ([], []), device
        return dict(device)

    def entries(self) -> int:
        return int(self._books()["size"])

    def acknowledged(self) -> int:
        device_id = str(self._books()["origin"]).rpartition("/")[2]
        given = _acknowledged(self.vendor.get(f"/acknowledgements/{device_id}/latest"))
        assert self._books()["acked"] == given
        return given

    def remove(self) -> None:
        self.vendor.remove()


def _acknowledged(answer: requests.Response) -> int:
    assert answer.status_code == 200, answer.text
    payload = dsse.unverified_payload(answer.content, dsse.ACK_TYPE).payload
    return int(json.loads(payload)["size"])


class ConnectedSite(Site):
    """An appliance with an address and a key in the place of a licence file."""

    def __init__(self, counterpart: Counterpart, *settings: str) -> None:
        cadence = (f"Metering:MinIntervalSeconds={WINDOW_SECONDS}", f"Metering:MaxIntervalSeconds={WINDOW_SECONDS}")
        super().__init__(*cadence, f"Billing={counterpart.url}", f"ApiKey={counterpart.key}", *settings)
        self.license_file.unlink()
        (self.folder / "trust-root.json").write_bytes(counterpart.trust_root)

    @property
    def trust_root(self) -> Path:
        told = self.folder / "trust-root.json"
        return told if told.exists() else super().trust_root

    @property
    def words(self) -> list[str]:
        return [word for word in super().words if not word.startswith("Mounts:License")]

    def failed_cycles(self) -> int:
        return int(self.status()["metering"]["failedCycles"])

    def ledger(self) -> dict[str, Any]:
        """What `sidecar ledger status` tells."""
        done = command("sidecar", "ledger", "status", "--json", *self.words[1:])
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(json.loads(done.stdout))

    def refused_reports(self) -> list[str]:
        """The status word of each failed cycle, as the records tell it."""
        return [line["status"] for line in self.record_lines() if line["kind"] == "fault" and "status" in line]


def agreed(site: ConnectedSite, counterpart: Counterpart, pages: int) -> None:
    """Wait until both sides have counted so many pages, and nothing waits."""

    def both() -> bool:
        told = site.status()["endpoint"]
        return told is not None and told["pendingReports"] == 0 and site.pages() == counterpart.pages() == pages

    try:
        wait_until(both, 60, "the two sides do not agree")
    except AssertionError as exc:
        told = site.status()
        raise AssertionError(
            f"{site.pages()} here, {counterpart.pages()} there, {pages} were read; {told['endpoint']} "
            f"{told['metering']}\n{site.log_text()[-4000:]}"
        ) from exc
