"""Units on a real boot of systemd: they come up, read a page, come back, and mend what is broken."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path

import pytest

from tests.appliance.machine import KEPT, Machine
from tests.e2e.site import wait_until


def is_active(machine: Machine, unit: str) -> bool:
    return machine.property(unit, "ActiveState") == "active"


def test_units_are_up_and_tell_how_they_are(machine: Machine) -> None:
    for unit in KEPT:
        wait_until(partial(is_active, machine, unit), 60, f"{unit} does not come up")
    assert machine.property("ocr-sidecar-web.service", "StatusText").startswith("ACTIVE: ")
    assert machine.property("ocr-sidecar-meter.service", "StatusText").startswith("ACTIVE: ")
    assert machine.property("ocr-core.service", "StatusText").endswith(" workers are up")
    assert machine.run("systemctl", "--failed", "--no-legend").strip() == ""


def test_a_page_is_read_and_counted(machine: Machine, picture: Path) -> None:
    before = machine.pages()
    answer = machine.read(picture)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "succeeded"
    assert machine.pages() == before + 1


@pytest.mark.parametrize("unit", KEPT)
def test_what_is_killed_is_back_within_five_seconds(machine: Machine, picture: Path, unit: str) -> None:
    before, pid = machine.pages(), machine.pid(unit)
    began = time.monotonic()
    machine.signal(unit, "SIGKILL")
    machine.wait_replaced(unit, pid, 5)
    answer = machine.read(picture)
    print(f"{unit}: a page was read {time.monotonic() - began:.1f} s after the kill")  # noqa: T201
    assert answer.status_code == 200, answer.text
    assert machine.pages() == before + 1


@pytest.mark.parametrize("unit", KEPT)
def test_what_stands_still_is_replaced_by_the_watchdog(machine: Machine, picture: Path, unit: str) -> None:
    pid = machine.pid(unit)
    machine.signal(unit, "SIGSTOP")
    machine.wait_replaced(unit, pid, 45)
    assert "watchdog" in machine.journal(unit).lower()
    assert machine.read(picture).status_code == 200


def test_the_writer_of_the_count_is_replaced_when_it_stands_still(machine: Machine, picture: Path) -> None:
    """Web's worker enters each page into the ledger; its master, which lives on, must not vouch for it."""
    unit = "ocr-sidecar-web.service"
    before, pid = machine.pages(), machine.pid(unit)
    machine.run("bash", "-c", f"kill -STOP {machine.youngest_child(unit)}")
    machine.wait_replaced(unit, pid, 90)
    machine.wait_ready()
    assert machine.pages() == before
    assert machine.read(picture).status_code == 200
    assert machine.pages() == before + 1


def test_the_journal_knows_what_is_grave(machine: Machine) -> None:
    machine.run("bash", "-c", f"kill -KILL {machine.youngest_child('ocr-core.service')}")
    grave = ("journalctl", "--no-pager", "--output=cat", "--unit=ocr-core.service", "--priority=err")
    wait_until(lambda: "was sent SIGKILL" in machine.run(*grave), 10, "no error of the core's is known as one")
    assert "listening on" not in machine.run(*grave)


def test_the_journal_holds_the_log_as_fields(machine: Machine) -> None:
    found = machine.run("journalctl", "--output=json", "--no-pager", "--lines=1", "TOLLGATE_CATEGORY=Tollgate.Meter")
    event = json.loads(found)
    assert event["_SYSTEMD_UNIT"] == "ocr-sidecar-meter.service"
    assert event["SYSLOG_IDENTIFIER"] == "sidecar-meter"
    assert event["PRIORITY"] in {"3", "4", "6"}


def test_handwriting_is_read_behind_all_walls(machine: Machine) -> None:
    note = Path(__file__).resolve().parents[3] / "shared" / "corpus" / "cognitive-serv-handwritten_text.jpg"
    if not note.exists():
        pytest.skip("the shared corpus is not here")
    (page,) = machine.read(note).json()["analyzeResult"]["readResults"]
    assert [line["text"] for line in page["lines"]] == ["You must be the change", "you want to see in the world!"]


def test_what_is_needed_passes_the_filters(machine: Machine) -> None:
    """The meter asks whether the clock is kept; decoders stand back."""
    words = machine.property("ocr-sidecar-meter.service", "SystemCallFilter").split()
    assert "adjtimex" in words
    assert "clock_settime" not in words
    script = "for one in /proc/[0-9]*; do echo $(<$one/comm) $(cut -d' ' -f19 $one/stat); done"
    told = [line.split()[-1] for line in machine.run("bash", "-c", script).splitlines() if line.startswith("decoder")]
    assert told
    assert "0" not in told


def test_nothing_has_a_network(machine: Machine) -> None:
    for unit in KEPT:
        own = machine.run("readlink", f"/proc/{machine.pid(unit)}/ns/net")
        assert own != machine.run("readlink", "/proc/1/ns/net")


def test_the_meter_alone_can_read_the_device_key(machine: Machine) -> None:
    key = "var/lib/sidecar/device.key"
    assert machine.run("stat", "--format=%U %a", f"/{key}").split() == ["nonroot", "400"]
    assert machine.run("stat", "--format=%U", f"/proc/{machine.pid('ocr-core.service')}").strip() == "ocr-core"
    seen_by_web = f"/proc/{machine.pid('ocr-sidecar-web.service')}/root/{key}"
    assert machine.run("stat", "--format=%U %a", seen_by_web).split() == ["root", "0"]


def test_damage_is_mended_and_nothing_is_lost(machine: Machine, picture: Path) -> None:
    before = machine.pages()
    machine.run("touch", "/var/lib/sidecar/ledger.db.damaged")
    wait_until(lambda: "the ledger was rebuilt" in machine.journal("ocr-sidecar-migrate.service"), 30, "no repair")
    machine.wait_ready()
    assert machine.pages() == before
    assert machine.read(picture).status_code == 200


def test_a_sealed_device_key_serves_in_place_of_the_file(machine: Machine, picture: Path) -> None:
    public = machine.run("cat", "/var/lib/sidecar/device.pub")
    machine.run("systemctl", "stop", "ocr-sidecar-meter.service")
    machine.run("mkdir", "-p", "/etc/credstore.encrypted")
    machine.run(
        "systemd-creds", "encrypt", "--name=tollgate.device-key", "/var/lib/sidecar/device.key",
        "/etc/credstore.encrypted/tollgate.device-key",
    )  # fmt: skip
    machine.run("rm", "/var/lib/sidecar/device.key")
    machine.run("systemctl", "start", "ocr-sidecar-meter.service")
    machine.wait_ready()
    assert machine.run("cat", "/var/lib/sidecar/device.pub") == public
    assert machine.read(picture).status_code == 200


def test_a_reboot_keeps_the_totals(machine: Machine, picture: Path) -> None:
    before = machine.pages()
    machine.reboot()
    machine.wait_ready()
    assert machine.pages() == before
    assert machine.read(picture).status_code == 200
