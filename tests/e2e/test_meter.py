"""The meter as a process: windows, cutoff and recovery, shutdown; what it wrote is verified as an auditor would."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.e2e.site import Site, a_site, command, wait_until
from tests.pages import as_pdf, as_png, printed_page

PAGE = as_png(printed_page(size=(900, 400)))
FAST = ("Metering:MinIntervalSeconds=1", "Metering:MaxIntervalSeconds=1")


def verify(site: Site) -> dict[str, object]:
    """The auditor's command over the output folder, with the device key pinned."""
    done = command(
        "usage-verify",
        site.folder / "output",
        "--trust-root",
        site.trust_root,
        "--device-key",
        site.folder / "state" / "device.pub",
        "--json",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def test_use_becomes_a_sealed_record_that_an_auditor_can_verify() -> None:
    with a_site(*FAST) as site:
        site.result(site.submit(as_pdf([printed_page(size=(900, 400))] * 3)))
        site.sync(PAGE)
        wait_until(lambda: len(site.recorded_uses()) == 4, 10, "no record file")
        assert site.pages() == 4
        assert site.stop() == 0
        verify(site)
        now = time.gmtime()
        files = list((site.folder / "output").glob(f"computervisionread/*/usage/{now.tm_year}/*/*.jsonl"))
        assert files
        assert all(path.stat().st_mode & 0o777 == 0o440 for path in files)


def test_totals_by_month() -> None:
    with a_site() as site:
        assert site.get("/records/usage-logs/").json() == {
            "type": "CommerceUsageResponse",
            "meters": [],
            "apiType": "computervision",
            "serviceName": "computervisionread",
        }
        site.sync(PAGE)
        now = time.gmtime()
        meter = {"name": "CognitiveServices.ComputerVision.Container.ReadPages", "quantity": 1, "billedUnit": 1}
        for path in (
            "/records/usage-logs",
            "/records/usage-logs/",
            f"/records/usage-logs/{now.tm_mon}/{now.tm_year}",
            f"/records/usage-logs/{now.tm_mon:02d}/{now.tm_year}",
            f"/records/usage-logs/{now.tm_mon:02d}/{now.tm_year}/",
        ):
            answer = site.get(path)
            assert (answer.status_code, answer.json()["meters"]) == (200, [meter]), path
        assert site.get("/records/usage-logs/03/2031").json()["meters"] == []
        for bad in ("13/2031", "0/2031", "x/2031", "03/31", "03/20310", "03/x"):
            answer = site.get(f"/records/usage-logs/{bad}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "BadArgument")


def test_sigterm_closes_the_window() -> None:
    with a_site() as site:
        site.sync(PAGE)
        started = time.monotonic()
        assert site.stop() == 0
        assert time.monotonic() - started < 10
        assert len(site.recorded_uses()) == 1
        assert not (site.folder / "state" / "lease.dsse.json").exists()
        verify(site)


def test_crash_leaves_the_window_to_the_next_start() -> None:
    with a_site() as site:
        site.sync(PAGE)
        site.crash()
        assert site.recorded_uses() == []
        site.start()
        wait_until(lambda: len(site.recorded_uses()) == 1, 5, "the window was lost")
        assert site.pages() == 1
        site.stop()
        verify(site)


def test_ten_failed_cycles_cut_off_and_the_first_success_resumes() -> None:
    with a_site(*FAST) as site:
        output = site.folder / "output"
        site.sync(PAGE)
        wait_until(lambda: len(site.recorded_uses()) == 1, 10, "no record file")
        output.rename(site.folder / "away")
        seen = set()

        def cut_off() -> bool:
            status = site.status()
            failed = status["metering"]["failedCycles"]
            seen.add((failed, status["state"], status["serves"]))
            return bool(status["state"] == "METERING_CUTOFF")

        wait_until(cut_off, 40, f"no cutoff: {seen}")
        assert {(failed, state, serves) for failed, state, serves in seen if 1 <= failed <= 9} == {
            (failed, "METERING_RETRY", True) for failed in range(1, 10)
        }
        answer = site.post(PAGE)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "NoCredit")
        assert "CouldNotConnect" in answer.json()["error"]["message"]
        assert str(output) in answer.json()["error"]["message"]
        assert site.ready() == 503
        assert not (site.folder / "state" / "lease.dsse.json").exists()

        site.stop()
        site.start(ready=False)
        wait_until(lambda: site.ready() == 503 and site.status()["state"] == "METERING_CUTOFF", 15, "restart resets")
        (site.folder / "away").rename(output)
        site.wait_ready(10)
        assert site.status()["metering"]["failedCycles"] == 0
        assert site.sync(PAGE).status_code == 200
        site.stop()
        assert len(site.recorded_uses()) == 2
        verify(site)


def test_second_meter_on_the_same_state_refuses_and_says_who_holds_it(service: Site) -> None:
    done = command("sidecar", "meter", *service.words)
    assert done.returncode == 73
    (first,) = service.processes("meter")
    assert f"process {first.pid} on {os.uname().nodename}" in done.stderr
    assert "Next step:" in done.stderr
    assert service.ready() == 200


def test_cadence_is_for_evaluation_licences_only(tmp_path: Path) -> None:
    site = Site(*FAST)
    try:
        keys = site.folder / "production"
        site.licenses("keygen", "--out", keys, "--vendor", "vendor.example")
        site.license_file.unlink()
        site.licenses("issue", "--keys", keys, "--customer", "Test", "--days", "30", "--out", site.license_file)
        done = command("sidecar", "meter", *site.words, f"Sidecar:TrustRoot={keys / 'trust-root.json'}")
        assert done.returncode == 65
        assert "evaluation" in done.stderr
    finally:
        site.remove()


@pytest.mark.parametrize("part", ["license", "output", "state", "share"])
def test_no_canary_reaches_what_is_kept(part: str, canaries: Site) -> None:
    """Words of the document, its name, headers and addresses are nowhere but in the result that was asked for."""
    found = [
        path
        for path in (canaries.folder / part).rglob("*")
        if path.is_file() and path.name != "result.jsonl" and b"CANARY" in path.read_bytes().upper()
    ]
    assert found == []
    assert "CANARY" not in canaries.log_text().upper()


@pytest.fixture(scope="module")
def canaries() -> object:
    import requests

    with a_site(*FAST) as site:
        document = as_png(printed_page(["canary canary canary"], size=(900, 300)))
        for route in ("analyze", "syncAnalyze"):
            answer = requests.post(
                f"{site.url}/vision/v3.2/read/{route}?canary=canary",
                files={"canary": ("canary.png", document)},
                headers={"User-Agent": "canary", "X-Canary": "canary", "Ocp-Apim-Subscription-Key": "canary"},
                timeout=30,
            )
            assert answer.status_code in {200, 202}
        site.get("/canary?canary")
        site.post(b"canary", kind="text/canary")
        site.post(document, query="?pages=canary&language=canary")
        assert "CANARY" not in site.get("/metrics").text.upper()
        wait_until(lambda: len(site.recorded_uses()) == 2, 10, "no record file")
        site.stop()
        yield site
