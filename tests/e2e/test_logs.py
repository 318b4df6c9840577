"""The log of a whole service: on the console, on the output mount and at a Fluentd, with a disk that runs full."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.site import Site, command, wait_until
from tests.fakes.fluentd import FakeFluentd
from tests.pages import encoded, printed_page

PROCESSES = ("launcher", "meter", "web")
UNUSED = {
    "ApplicationInsights:InstrumentationKey": "hush-1",
    "Queue:Azure:ConnectionString": "hush-2",
    "Cache:Redis": "hush-3",
    "EnableSyncNTPServer": "true",
    "Mounts:Input": "/input",
}


@dataclass
class Life:
    """A service from start to stop.

    Attributes:
        site: The service, stopped.
        fluentd: Where its log was sent to.
        is_small: Whether the output mount was a small disk, which was filled.
        events: The log on disk, by process.
        liveness: Status and body of `/ContainerLiveness`.
        seconds: How long reading a page took: with all well; with Fluentd gone and no room for logs.
        verified: Exit code of the auditor's check.
    """

    site: Site
    fluentd: FakeFluentd
    is_small: bool
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    liveness: tuple[int, dict[str, Any]] = (0, {})
    seconds: list[float] = field(default_factory=list)
    verified: int = -1


@pytest.fixture(scope="module")
def life() -> Iterator[Life]:
    fluentd = FakeFluentd()
    site = Site(
        "Metering:MinIntervalSeconds=1",
        "Metering:MaxIntervalSeconds=1",
        "Logging:Disk:Format=json",
        "Logging:Disk:LogLevel=Debug",
        "Logging:Console:LogLevel:Tollgate.Meter=Warning",
        "Fluentd:Host=127.0.0.1",
        f"Fluentd:Port={fluentd.port}",
        "HealthCheck:MemoryUpperboundInMB=64",
        *(f"{name}={value}" for name, value in UNUSED.items()),
    )
    output = site.folder / "output"
    words = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(output)]
    is_small = (
        shutil.which("mount") is not None and subprocess.run(words, capture_output=True, check=False).returncode == 0
    )
    try:
        life = Life(site, fluentd, is_small)
        site.start()
        _read(life)
        answer = site.get("/ContainerLiveness")
        life.liveness = (answer.status_code, answer.json())
        wait_until(lambda: _logged(output, "meter", "usage record written"), 20, "no record in the log on disk")
        wait_until(lambda: fluentd.records("tollgate.meter"), 20, "nothing was shipped")
        if is_small:
            (output / "someone-elses").write_bytes(bytes(13 * 2**20))
        fluentd.hang_up()
        _read(life)
        wait_until(lambda: len(site.recorded_uses()) == 2, 20, "the page is not on record")
        if is_small:
            wait_until(lambda: "kept for usage records" in site.log_text(), 20, "the full disk is not told of")
        assert site.stop() == 0
        life.events = {process: _events(output, process) for process in PROCESSES}
        check = ("--trust-root", site.trust_root, "--device-key", site.folder / "state" / "device.pub")
        life.verified = command("usage-verify", output, *check).returncode
        yield life
    finally:
        site.crash()
        if is_small:
            subprocess.run(["umount", "-l", output], check=False)
        site.remove()
        fluentd.close()


def _read(life: Life) -> None:
    page = encoded(printed_page(["A page"], size=(600, 200)).image, "PNG", dpi=(150, 150))
    began = time.monotonic()
    assert life.site.sync(page).status_code == 200
    life.seconds.append(time.monotonic() - began)


def _events(output: Path, process: str) -> list[dict[str, Any]]:
    files = sorted(output.glob(f"computervisionread/*/logs/{process}-*.log"))
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def _logged(output: Path, process: str, message: str) -> bool:
    return any(message in event["message"] for event in _events(output, process))


def test_each_process_has_a_series_of_its_own(life: Life) -> None:
    for process in PROCESSES:
        assert life.events[process], process
        assert {event["process"] for event in life.events[process]} == {process}


def test_fluentd_gets_what_the_disk_gets(life: Life) -> None:
    for process in PROCESSES:
        on_disk = [event for event in life.events[process] if event["level"] != "Debug"]
        shipped = life.fluentd.records(f"tollgate.{process}")
        assert on_disk[0] in shipped


def test_the_last_lines_arrive_at_shutdown(life: Life) -> None:
    assert any("window closed at shutdown" in record["message"] for record in life.fluentd.records("tollgate.meter"))


def test_levels_differ_by_sink_and_category(life: Life) -> None:
    assert "info: Tollgate.Meter[meter]" not in life.site.log_text()
    assert "info: Tollgate.Launcher[launcher]" in life.site.log_text()


def test_the_core_is_heard_on_the_console(life: Life) -> None:
    assert "INFO ocr_core: ocr-core" in life.site.log_text()


def test_what_is_not_used_is_told_once_and_without_its_value(life: Life) -> None:
    told = life.site.log_text()
    for name in ("ApplicationInsights", "Queue:Azure", "Cache:Redis", "EnableSyncNTPServer", "Mounts:Input"):
        assert told.count(f"{name} is not used here: ") == 1, name
    everything = told + json.dumps(life.events) + life.fluentd.raw.decode("utf-8", "replace")
    assert "hush" not in everything


def test_liveness_tells_of_too_much_memory(life: Life) -> None:
    status, body = life.liveness
    assert status == 503
    assert body["alive"] is False
    assert body["memoryLimitMegabytes"] == 64
    assert 64 < body["memoryMegabytes"] < 4096


def test_records_are_written_where_the_log_no_longer_is(life: Life) -> None:
    assert len(life.site.recorded_uses()) == 2 or not life.is_small
    assert life.verified == 0
    if life.is_small:
        warnings = life.site.log_text().count("the log cannot be written to the output mount")
        assert 1 <= warnings <= len(PROCESSES)


def test_nobody_waits_for_the_log(life: Life) -> None:
    first, second = life.seconds
    assert second < 10 * first + 1
