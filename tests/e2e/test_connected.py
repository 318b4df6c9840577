"""Connected mode with real processes: a service without a licence file, and an endpoint of the tests' own over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from tests.e2e.connected import KEY, PAGE, ConnectedSite, FakeCounterpart, agreed
from tests.e2e.site import command, wait_until
from tests.fakes.billing import Manner


@pytest.fixture
def endpoint() -> Iterator[FakeCounterpart]:
    one = FakeCounterpart()
    yield one
    one.remove()


def test_only_the_meter_has_the_key_and_a_way_out(endpoint: FakeCounterpart) -> None:
    site = ConnectedSite(endpoint)
    try:
        site.start()
        assert site.sync(PAGE).status_code == 200
        agreed(site, endpoint, 1)
        port = int(endpoint.url.rpartition(":")[2])
        callers = {
            part
            for part in ("core", "meter", "web")
            for process in site.processes(part)
            for one in process.net_connections("inet")
            if one.raddr and one.raddr.port == port
        }
        assert callers <= {"meter"}
        for part in ("core", "web"):
            for process in site.processes(part):
                assert KEY not in process.environ().values()
                assert KEY not in " ".join(process.cmdline())
        assert KEY in site.processes("meter")[0].environ().values()
        assert KEY not in site.log_text()
        assert f"Submitting metering to '{endpoint.url}'." in site.log_text()
    finally:
        site.remove()


def test_a_key_that_is_refused_at_first_contact_is_told_everywhere(endpoint: FakeCounterpart) -> None:
    endpoint.endpoint.key = "another"
    site = ConnectedSite(endpoint)
    try:
        site.start(ready=False)
        wait_until(lambda: site.ready() == 503, 60, "does not answer")
        wait_until(lambda: site.status()["apiStatus"] == "Invalid", 30, "the word is not shown")
        told = site.status()
        assert told["state"] == "UNLICENSED"
        assert "by itself" in told["nextStep"]
        assert site.sync(PAGE).status_code == 403
        assert "Endpoint connection failed with status 'Invalid'" in site.log_text()
        assert "Invalid" in site.get("/").text
        found = command("sidecar", "diagnose", "--json", "eula=accept", *site.words[1:])
        checks = {one["name"]: one for one in json.loads(found.stdout)}
        assert (checks["endpoint"]["result"], checks["endpoint"]["code"]) == ("fail", "Invalid")
        assert KEY not in found.stdout
        endpoint.endpoint.key = KEY
        site.wait_ready()
        found = command("sidecar", "diagnose", "--json", "eula=accept", *site.words[1:])
        checks = {one["name"]: one for one in json.loads(found.stdout)}
        assert checks["endpoint"]["result"] == "ok", checks["endpoint"]
        assert "takes the key" in checks["endpoint"]["cause"]
    finally:
        site.remove()


def test_a_start_without_the_endpoint_and_nothing_to_report_tells_of_no_contact(endpoint: FakeCounterpart) -> None:
    site = ConnectedSite(endpoint, "Metering:MinIntervalSeconds=120", "Metering:MaxIntervalSeconds=120")

    def contact() -> float:
        name = "tollgate_endpoint_contact_timestamp_seconds "
        (line,) = (line for line in site.get("/metrics").text.splitlines() if line.startswith(name))
        return float(line.removeprefix(name))

    try:
        site.start()
        assert site.sync(PAGE).status_code == 200
        assert site.stop() == 0
        assert endpoint.pages() == 1
        endpoint.leave()
        stopped_at = time.time()
        site.start()
        wait_until(lambda: site.status()["endpoint"]["status"] != "Unknown", 30, "no contact was tried")
        told = site.status()["endpoint"]
        assert (told["status"], told["pendingReports"]) == ("CouldNotConnect", 0)
        assert "refused" in told["problem"]
        assert datetime.fromisoformat(told["lastContactAt"]).timestamp() <= stopped_at
        assert contact() <= stopped_at
        assert site.ready() == 200
        assert "gave no" not in site.log_text()
    finally:
        site.remove()


def test_a_stop_does_not_wait_for_an_endpoint_that_is_silent(endpoint: FakeCounterpart) -> None:
    site = ConnectedSite(endpoint)
    try:
        site.start()
        endpoint.endpoint.manner = Manner.SILENT
        asked = endpoint.endpoint.asked("/usage")
        wait_until(lambda: endpoint.endpoint.asked("/usage") > asked, 20, "no report")
        began = time.monotonic()
        assert site.stop() == 0
        assert time.monotonic() - began < 8
        assert "is killed" not in site.log_text()
    finally:
        site.remove()


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (("Billing=https://billing.example",), "ApiKey is missing"),
        (("ApiKey=abc",), "Billing is missing"),
        (("Sidecar:Mode=connected",), "Billing and ApiKey are missing"),
    ],
)
def test_half_of_what_connected_mode_needs_starts_nothing(words: tuple[str, ...], missing: str) -> None:
    done = command("sidecar", "eula=accept", *words)
    assert done.returncode == 65
    assert missing in done.stderr
    assert "Mounts:License" in done.stderr.partition("Next step:")[2]
