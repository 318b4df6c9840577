"""The image, a vendor, and a booted machine; each made once for the session."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.appliance.engine import USER, Engine
from tests.appliance.machine import Machine, a_machine
from tests.e2e.site import command
from tests.pages import as_png, printed_page

collect_ignore_glob = [] if os.environ.get("APPLIANCE") else ["test_*.py"]


class Vendor:
    """Issues licences."""

    def __init__(self, folder: Path) -> None:
        self._keys = folder / "vendor"
        done = command("licenses", "keygen", "--out", self._keys, "--evaluation")
        assert done.returncode == 0, done.stderr

    @property
    def trust_root(self) -> Path:
        return self._keys / "trust-root.json"

    def issue(self, out: Path) -> Path:
        done = command(
            "licenses", "issue", "--keys", self._keys, "--customer", "Test", "--days", "90", "--out", out, "--force"
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return out


class Mounts:
    """The folders that an administrator mounts."""

    def __init__(self, folder: Path, vendor: Vendor) -> None:
        self.license, self.output = folder / "license", folder / "output"
        for one in (self.license, self.output):
            one.mkdir()
        vendor.issue(self.license / "license.dat")

    def give_to_service(self) -> None:
        for folder in (self.license, self.output):
            for path in [folder, *folder.rglob("*")]:
                os.chown(path, USER, USER)

    def records(self) -> list[Path]:
        return sorted(self.output.glob("computervisionread/*/usage/*/*/*.jsonl"))


@pytest.fixture(scope="session")
def vendor() -> Iterator[Vendor]:
    with tempfile.TemporaryDirectory(prefix="vendor-") as folder:
        yield Vendor(Path(folder))


@pytest.fixture(scope="session")
def engine(vendor: Vendor) -> Engine:
    """Podman, with the image made."""
    one = Engine()
    one.make_image(vendor.trust_root)
    return one


@pytest.fixture
def mounts(tmp_path: Path, vendor: Vendor) -> Mounts:
    return Mounts(tmp_path, vendor)


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "page.png"
    path.write_bytes(as_png(printed_page()))
    return path


@pytest.fixture(scope="session")
def bundle(engine: Engine) -> Path:
    """The bundle for a site, with the image in it."""
    return engine.make_bundle()


@pytest.fixture(scope="session")
def bare(engine: Engine) -> Engine:
    """What boots bare machines."""
    engine.make_boot_image()
    return engine


@pytest.fixture(scope="session")
def machine(bare: Engine, bundle: Path, vendor: Vendor) -> Iterator[Machine]:
    """A booted machine, installed from the bundle, with the service running."""
    with a_machine(bare) as one:
        one.install(bundle, vendor.issue(vendor.trust_root.with_name("license.dat")))
        yield one
