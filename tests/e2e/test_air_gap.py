"""A site without a network and its vendor, each in a network of its own with nothing in it: only files cross.

Enrolment, licence, reads, export, intake, acknowledgement with the renewal, import; and a second round, in which the
appliance is killed first. Both sides count the same pages, and neither has tried to reach anybody.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from licenses.model import READ_PAGES_METER
from tests.appliance.networks import Network, an_empty_network
from tests.appliance.test_egress import COUNTED, OfflineSite
from tests.e2e.site import wait_until
from tests.e2e.vendor import Vendor
from tests.pages import as_pdf, as_png, printed_page

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"), reason="needs root, ip and unshare"
)
PAGE = printed_page(size=(600, 200))


class AirGappedSite(OfflineSite):
    """An appliance that has nothing of its vendor but what was carried to it.

    Args:
        network: Where it lives.
    """

    def __init__(self, network: Network) -> None:
        super().__init__(network, is_traced=False)
        shutil.rmtree(self.folder / "vendor")  # the keys are at the vendor's
        self.license_file.unlink()

    @property
    def trust_root(self) -> Path:
        carried = self.folder / "trust-root.json"
        return carried if carried.exists() else super().trust_root

    def read(self, documents: int) -> None:
        """Read documents of two pages, until their use is in the record files."""
        before = self.pages()
        for _ in range(documents):
            assert self.sync(as_pdf([PAGE, PAGE])).status_code == 200
        wait_until(
            lambda: len(self.recorded_uses()) == self.pages() == before + 2 * documents, 20, "no window was closed"
        )

    def facts(self, *words: str | Path) -> dict[str, Any]:
        return dict(json.loads(self.with_settings("usage", *words, "--json")))


class AirGappedVendor(Vendor):
    """The vendor's office; every command runs in its network.

    Args:
        network: Where it lies.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        super().__init__()

    def licenses(self, *words: str | Path) -> str:
        with self._network.entered():
            return super().licenses(*words)


def carried(file: Path | str, to: Path) -> Path:
    """What a person does with a stick."""
    return Path(shutil.copy(file, to))


def networks_of(site: AirGappedSite) -> set[str]:
    return {os.readlink(f"/proc/{process.pid}/ns/net") for process in site.processes()}


def network_of(network: Network) -> str:
    with network.entered():
        return os.readlink("/proc/thread-self/ns/net")


def test_a_round_trip_in_which_only_files_cross() -> None:
    with ExitStack() as last:
        here, there = last.enter_context(an_empty_network()), last.enter_context(an_empty_network())
        world = os.readlink("/proc/thread-self/ns/net")
        before = here.counters(), there.counters()
        vendor = AirGappedVendor(there)
        last.callback(vendor.remove)
        last.enter_context(here.entered())
        site = AirGappedSite(here)
        last.callback(site.remove)
        state, stick = site.folder / "state", site.folder / "stick"
        stick.mkdir()
        office = vendor.folder / "stick"
        office.mkdir()

        # ---- enrolment, and the first licence, which ends within the week
        carried(vendor.trust_root, site.folder / "trust-root.json")
        site.run(
            "licenses", "request", "--state-directory", state, "--output", site.folder / "output",
            "--out", stick / "enrolment.dsse.json",
        )  # fmt: skip
        enrolled = vendor.authority(
            "enrol", carried(stick / "enrolment.dsse.json", office), "--subscription", vendor.subscription
        )
        device = str(enrolled["origin"])
        ends = datetime.now(UTC).date() + timedelta(days=5)
        vendor.authority(
            "license", "issue", "--subscription", vendor.subscription, "--device", device, "--until", str(ends),
            "--out", office / "license.dat",
        )  # fmt: skip
        carried(office / "license.dat", site.license_file)

        # ---- reads
        site.start()
        # The core may have left even this network for one of its own.
        assert network_of(here) in networks_of(site)
        assert not {network_of(there), world} & networks_of(site)
        assert len({network_of(here), network_of(there), world}) == 3
        site.read(2)
        first = site.status()["license"]
        assert first["daysLeft"] <= 5

        # ---- out, in, and back with the renewal
        exported = site.facts("export", "--out", stick)
        assert exported["meters"] == {READ_PAGES_METER: 4}
        taken = vendor.authority("intake", carried(exported["file"], office), "--out", office)
        assert taken["billed"] == {READ_PAGES_METER: 4}
        site.facts("import-ack", carried(taken["file"], stick))
        wait_until(lambda: site.status()["license"]["daysLeft"] > 300, 10, "the renewed licence is not taken up")
        assert site.ready() == 200

        # ---- again, after the appliance was killed: what is new, and only that
        site.crash()
        site.start()
        site.read(1)
        assert site.sync(as_png(PAGE)).status_code == 200
        assert site.stop() == 0
        second = site.facts("export", "--out", stick)
        assert (second["since"], second["meters"]) == (exported["size"], {READ_PAGES_METER: 3})
        bundle = carried(second["file"], office)
        again = vendor.authority("intake", bundle, "--out", office)
        assert again["billed"] == {READ_PAGES_METER: 3}
        assert vendor.authority("intake", bundle, "--out", office)["billed"] == {}
        site.facts("import-ack", carried(again["file"], stick))

        # ---- both sides tell the same
        site.start()
        assert site.pages() == 7
        (books,) = vendor.authority("reconcile")["devices"]
        assert books["billed"] == books["verified"] == {READ_PAGES_METER: 7}
        assert (books["acked"], books["gaps"], books["forks"]) == (second["size"], [], [])
        ledger = json.loads(site.with_settings("ledger", "status", "--json"))
        assert ledger["acknowledged"] == second["size"]
        assert site.stop() == 0
        site.run(
            "usage-verify", site.folder / "output", "--trust-root", site.trust_root,
            "--device-key", state / "device.pub",
        )  # fmt: skip
        for old, new in zip(before, (here.counters(), there.counters()), strict=True):
            assert {name: new[name] - old[name] for name in COUNTED} == dict.fromkeys(COUNTED, 0)
