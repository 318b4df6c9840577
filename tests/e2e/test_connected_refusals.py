"""Each refusal of the vendor's service as the administrator of a connected appliance meets it, with real processes.

The word, the cause and a next step that fits are in `/status`, in the log and in `sidecar diagnose`; when the vendor
has mended it, the appliance goes on by itself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.connected import PAGE, ConnectedSite, RealCounterpart, agreed
from tests.e2e.site import command, wait_until
from tests.e2e.vendor import Vendor


class Strict(RealCounterpart):
    """A vendor who sold three pages, and bills no more than that."""

    def __init__(self) -> None:
        self.vendor = Vendor(quantity=3, overage=False).start()
        self.key = self.vendor.key
        self.url = self.vendor.url


@pytest.fixture
def strict() -> Iterator[Strict]:
    one = Strict()
    yield one
    one.remove()


def told(site: ConnectedSite, word: str) -> dict[str, Any]:
    """Wait until the appliance says the word; its status."""
    wait_until(lambda: site.status()["apiStatus"] == word, 40, f"{word}: {site.status()}\n{site.log_text()[-2000:]}")
    return site.status()


def diagnosed(site: ConnectedSite, key: str) -> dict[str, str]:
    done = command("sidecar", "diagnose", "--json", "eula=accept", *site.words[1:])
    assert key not in done.stdout + done.stderr
    (check,) = (one for one in json.loads(done.stdout) if one["name"] == "endpoint")
    return dict(check)


def test_what_the_vendor_refuses_is_told_with_what_to_do_and_heals_by_itself(strict: Strict) -> None:
    vendor, site = strict.vendor, ConnectedSite(strict)
    try:
        site.start()
        assert site.sync(PAGE).status_code == 200
        assert diagnosed(site, strict.key)["result"] == "ok"

        vendor.authority("subscription", "refuse", vendor.subscription)
        status = told(site, "ContainerUseUnauthorized")
        assert status["state"] == "METERING_RETRY"
        assert "approve" in status["endpoint"]["problem"]
        assert site.sync(PAGE).status_code == 200
        check = diagnosed(site, strict.key)
        assert (check["result"], check["code"]) == ("fail", "ContainerUseUnauthorized")
        assert "approve" in check["cause"] + check["next_step"]
        vendor.authority("subscription", "approve", vendor.subscription)
        told(site, "Valid")

        assert site.sync(PAGE).status_code == 200
        status = told(site, "OutOfQuota")
        assert site.sync(PAGE).status_code == 403
        assert "commitment" in status["nextStep"]
        assert "folder" not in status["nextStep"]
        vendor.authority("tier", "add", "larger", "--quantity", "1000", "--period", "year")
        vendor.authority("subscription", "move", vendor.subscription, "--tier", "larger")
        told(site, "Valid")
        assert site.sync(PAGE).status_code == 200

        vendor.authority("key", "revoke", vendor.subscription, "--slot", "1")
        status = told(site, "Invalid")
        assert "ApiKey" in status["endpoint"]["problem"]
        check = diagnosed(site, strict.key)
        assert (check["result"], check["code"]) == ("fail", "Invalid")
        assert "ApiKey" in check["next_step"]
        assert strict.key not in site.log_text()
    finally:
        site.remove()


def test_a_second_machine_from_one_image_is_told_so_and_keeps_the_proof(strict: Strict) -> None:
    site, twin = ConnectedSite(strict), ConnectedSite(strict)
    try:
        site.start()
        agreed(site, strict, 0)
        assert site.stop() == 0
        for name in ("state", "output"):
            shutil.copytree(site.folder / name, twin.folder / name, dirs_exist_ok=True)
        site.start()
        agreed(site, strict, 0)
        assert site.stop() == 0
        twin.start(ready=False)
        wait_until(lambda: twin.ready() != 0, 60, "does not answer")
        status = told(twin, "Mismatch")
        assert "licenses check-fork" in status["endpoint"]["problem"]
        (proof,) = twin.folder.glob("output/computervisionread/*/forks/fork-*.json")
        assert (twin.folder / "state" / proof.name).read_bytes() == proof.read_bytes()
        checked = command("licenses", "check-fork", proof, "--device-key", twin.folder / "state" / "device.pub")
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert twin.sync(PAGE).status_code == 200
        assert strict.pages() == 0
    finally:
        site.remove()
        twin.remove()


def test_a_key_of_another_kind_of_container_is_told_as_such(strict: Strict) -> None:
    vendor = strict.vendor
    other = vendor.add_subscription("--container-type", "speechtotext")
    strict.key = vendor.new_key(other)
    site = ConnectedSite(strict)
    try:
        site.start(ready=False)
        wait_until(lambda: site.ready() == 503, 60, "does not answer")
        status = told(site, "Mismatch")
        assert status["state"] == "UNLICENSED"
        assert "speechtotext" in status["endpoint"]["problem"]
        check = diagnosed(site, strict.key)
        assert (check["result"], check["code"]) == ("fail", "Mismatch")
    finally:
        site.remove()
