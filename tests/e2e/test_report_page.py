"""The auditor's page in a real browser: on a screen and on a telephone, light and dark."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.browser import Browser
from tests.e2e.legible import broken, hard_to_read, is_light, seen
from tests.e2e.site import command
from tests.fakes.licences import a_vendor
from tests.fakes.records import FakeMeter

VENDOR = a_vendor()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of records without a fault; of records that nobody pinned, and of which some are gone."""
    folder = tmp_path_factory.mktemp("audit")
    trust_root = folder / "root.json"
    trust_root.write_bytes(VENDOR.trust_root_blob)
    meter = FakeMeter(folder / "output")
    for uses in (3, 4, 5):
        meter.window(uses=uses)
        meter.wait(20 * 3600 * 1000)
        meter.entry("boot", boot_id=meter.boot_id)
    meter.window()
    meter.save_device_key(folder / "device.pub")
    words = ("usage-verify", meter.folder, "--trust-root", trust_root)
    whole, holed = folder / "whole.html", folder / "holed.html"
    done = command(*words, "--device-key", folder / "device.pub", "--html", whole)
    assert done.returncode == 0, done.stdout + done.stderr
    sorted(meter.folder.rglob("*.jsonl"))[1].unlink()
    done = command(*words, "--html", holed)
    assert done.returncode != 0
    return [whole, holed]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_report_is_legible_and_fits(reports: list[Path], browser: Browser, scheme: str, width: int) -> None:
    with seen(browser, width, scheme):
        for path in reports:
            browser.open(path.as_uri())
            assert hard_to_read(browser) == [], path.name
            assert is_light(browser) is (scheme == "light")
            assert broken(browser, ".verdict .word, th") == []
            assert browser.complaints() == []
