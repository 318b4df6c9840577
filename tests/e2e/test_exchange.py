"""The exchange with the real commands: a running service exports, the vendor acknowledges, the service goes on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from licenses.model import READ_PAGES_METER
from tests.e2e.site import BINARIES, Site, command, wait_until
from tests.pages import as_png, printed_page

PAGE = as_png(printed_page(size=(600, 200)))


class TradingSite(Site):
    """A site whose windows close each second, and the vendor it reports to."""

    def __init__(self, *settings: str, **options: Any) -> None:
        super().__init__("Metering:MinIntervalSeconds=1", "Metering:MaxIntervalSeconds=1", *settings, **options)

    def usage(self, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        settings = [word for word in self.words if not word.startswith("eula")]
        return command("sidecar", "usage", *words, *settings, **environment)

    def facts(self, *words: str | Path) -> dict[str, Any]:
        done = self.usage(*words, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(json.loads(done.stdout))

    def acknowledge(self, bundle: str, *words: str | Path) -> dict[str, Any]:
        done = command(
            "licenses", "acknowledge", bundle, "--keys", self.folder / "vendor", "--device-key", self.device_key,
            "--known", self.folder / "known", "--out", self.folder / "back", "--json", *words,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(json.loads(done.stdout))

    @property
    def device_key(self) -> Path:
        return self.folder / "state" / "device.pub"

    def read(self, pages: int) -> None:
        for _ in range(pages):
            assert self.sync(PAGE).status_code == 200

    def wait_sealed(self, pages: int) -> None:
        """Until so many pages are in record files."""
        wait_until(lambda: len(self.recorded_uses()) >= pages, 15, f"pages not sealed\n{self.log_text()[-2000:]}")

    def verified(self, *words: str | Path) -> dict[str, Any]:
        done = command(
            "usage-verify", *(words or (self.folder / "output",)), "--trust-root", self.trust_root,
            "--device-key", self.device_key, "--json",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(json.loads(done.stdout))


@pytest.fixture
def site() -> Iterator[TradingSite]:
    site = TradingSite()
    try:
        yield site.start()
    finally:
        site.remove()


@pytest.fixture(scope="module")
def running() -> Iterator[TradingSite]:
    """A site for tests that add pages to it and leave it running."""
    site = TradingSite()
    try:
        yield site.start()
    finally:
        site.remove()


def test_two_exchanges_with_a_running_service(running: TradingSite) -> None:
    site, before = running, running.pages()
    site.read(3)
    site.wait_sealed(before + 3)
    first = site.facts("export", "--out", site.folder / "out")
    assert first["meters"] == {READ_PAGES_METER: before + 3}
    acked = site.acknowledge(first["file"])
    assert acked["billed"] == {READ_PAGES_METER: before + 3}
    applied = site.facts("import-ack", acked["file"])
    assert (applied["size"], applied["repeated"], applied["evaluation"]) == (first["size"], False, True)
    assert site.facts("import-ack", acked["file"])["repeated"]
    site.read(2)
    site.wait_sealed(before + 5)
    second = site.facts("export", "--out", site.folder / "out")
    assert (second["since"], second["meters"]) == (first["size"], {READ_PAGES_METER: 2})
    newer = site.acknowledge(second["file"])
    assert newer["totals"] == {READ_PAGES_METER: before + 5}
    assert site.facts("import-ack", newer["file"])["unackedPages"] == 0
    older = site.usage("import-ack", acked["file"])
    assert older.returncode == 65
    assert "it is an older one" in older.stderr
    ranges = site.verified()["instances"][0]["ranges"]
    assert ranges[0] == {"first": 0, "end": newer["size"], "coverage": "acked"}
    site.verified(second["file"])
    assert site.ready() == 200


def test_service_that_is_stopped_exports_too_and_the_next_licence_arrives(site: TradingSite) -> None:
    site.read(2)
    assert site.stop() == 0
    done = site.usage("export", "--out", site.folder / "out")
    assert done.returncode == 0, done.stderr
    assert "  pages      2\n" in done.stdout
    assert "sidecar usage import-ack FILE" in done.stdout
    bundle = next((site.folder / "out").iterdir())
    blob = bundle.read_bytes()
    assert site.usage("export", "--out", site.folder / "out").returncode == 0
    assert bundle.read_bytes() == blob
    before = site.license_file
    kept = site.folder / "kept.dat"
    shutil.copy(before, kept)
    renewal = site.issue("--days", "400", name="renewal.dat")
    renewal.rename(site.folder / "renewal.dat")
    acked = site.acknowledge(str(bundle), "--next-license", site.folder / "renewal.dat")
    applied = site.facts("import-ack", acked["file"])
    assert Path(applied["license"]).read_bytes() == (site.folder / "renewal.dat").read_bytes()
    assert before.read_bytes() == kept.read_bytes()
    before.unlink()
    site.start()
    assert site.status()["license"]["daysLeft"] > 390


def test_licence_that_limits_unacknowledged_pages(site: TradingSite) -> None:
    site.issue("--days", "90", "--max-unacked-pages", "3")
    wait_until(lambda: site.ready() == 200, 20, "not ready under the other licence")
    site.read(3)
    wait_until(lambda: site.ready() != 200, 20, "served beyond what may stay unacknowledged")
    assert site.status()["state"] == "SUSPENDED"
    site.wait_sealed(3)
    acked = site.acknowledge(site.facts("export", "--out", site.folder / "out")["file"])
    assert site.facts("import-ack", acked["file"])["unackedPages"] == 0
    wait_until(lambda: site.ready() == 200, 20, "not served after the acknowledgement")
    site.read(1)


def test_restored_disk_image_is_found_on_both_sides(site: TradingSite) -> None:
    site.read(1)
    assert site.stop() == 0
    shutil.copytree(site.folder / "state", site.folder / "image")
    site.start().read(4)
    assert site.stop() == 0
    acked = site.acknowledge(site.facts("export", "--out", site.folder / "out")["file"])
    for name in ("state", "output"):
        shutil.rmtree(site.folder / name)
    shutil.copytree(site.folder / "image", site.folder / "state")
    (site.folder / "output").mkdir()
    refused = site.usage("import-ack", acked["file"], "--json")
    assert refused.returncode == 78
    error = json.loads(refused.stdout)["error"]
    assert error["code"] == "ledger_fork"
    assert "restored from an older copy" in refused.stderr
    proof = Path(error["proof"])
    assert proof.parent == site.folder / "state"
    checked = command("licenses", "check-fork", proof, "--device-key", site.device_key, "--json")
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["kind"] == "rolled_back"
    site.start().read(9)
    assert site.stop() == 0
    bundle = site.facts("export", "--out", site.folder / "out")["file"]
    forked = command(
        "licenses", "acknowledge", bundle, "--keys", site.folder / "vendor", "--device-key", site.device_key,
        "--known", site.folder / "known", "--out", site.folder / "back",
    )  # fmt: skip
    assert forked.returncode == 65, forked.stdout
    (proof,) = (site.folder / "back").glob("fork-*.json")
    checked = command("licenses", "check-fork", proof, "--device-key", site.device_key, "--json")
    assert json.loads(checked.stdout)["kind"] == "other_past"


def test_statement_as_a_code_and_as_text(running: TradingSite, tmp_path: Path) -> None:
    site, before = running, running.pages()
    site.read(2)
    site.wait_sealed(before + 2)
    done = site.usage("qr", "--out", tmp_path / "usage.svg")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "usage.svg").read_bytes().startswith(b"<?xml")
    assert max(map(len, done.stdout.splitlines()[:30])) <= 80
    note = site.facts("qr", "--out", tmp_path / "usage.png")["statement"]
    assert (tmp_path / "usage.png").read_bytes().startswith(b"\x89PNG")
    read = subprocess.run(
        [BINARIES / "licenses", "read-statement", "-", "--device-key", site.device_key, "--json"],
        input=note, capture_output=True, text=True, check=True,
    )  # fmt: skip
    facts = json.loads(read.stdout)
    assert (facts["total"], facts["evaluation"]) == (before + 2, True)
    assert site.usage("qr", "--out", tmp_path / "usage.txt").returncode == 64


def test_what_cannot_be_done_is_said_with_a_next_step(tmp_path: Path) -> None:
    site = TradingSite()
    try:
        nothing = site.usage("export", "--out", tmp_path)
        assert nothing.returncode == 69
        assert "there is no device key" in nothing.stderr
        site.start()
        site.read(1)
        site.wait_sealed(1)
        assert site.stop() == 0
        both = site.usage("export", "--out", tmp_path, "--all", "--since", "0")
        assert both.returncode == 64
        (tmp_path / "ack").write_text("x")
        refused = site.usage("import-ack", tmp_path / "ack")
        assert refused.returncode == 65
        assert "Next step" in refused.stderr
        key = site.folder / "state" / "device.key"
        key.rename(tmp_path / "tollgate.device-key")
        sealed = site.usage("export", "--out", tmp_path)
        assert sealed.returncode == 69
        assert "LoadCredentialEncrypted=tollgate.device-key sidecar usage" in sealed.stderr
        assert site.usage("export", "--out", tmp_path, CREDENTIALS_DIRECTORY=str(tmp_path)).returncode == 0
        (tmp_path / "tollgate.device-key").rename(key)
        full = site.usage("export", "--out", "/dev/full")
        assert full.returncode not in (0, 70)
        assert "Traceback" not in full.stderr
    finally:
        site.remove()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_other_user_is_told_whose_key_it_is(running: TradingSite, tmp_path: Path) -> None:
    site, before = running, running.pages()
    site.read(1)
    site.wait_sealed(before + 1)
    site.folder.chmod(0o755)
    (site.folder / "state").chmod(0o755)
    settings = [word for word in site.words if not word.startswith("eula")]
    for words in (["export", "--out", str(tmp_path)], ["qr"], ["import-ack", str(Path(__file__))]):
        done = subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, "usage", *words, *settings],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 77, done.stderr
        assert "run it as the service's user, id 0" in done.stderr
        assert "Traceback" not in done.stderr


_AS_NOBODY = """
import os, sys
import licenses.ack, sidecar.bootstrap, sidecar.exchange, sidecar.qr  # while they can be read
from sidecar.cli import main
os.setgid(65534)
os.setuid(65534)
main(sys.argv[1:])
"""
