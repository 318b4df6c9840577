"""The real bundle: twice the same bytes, and not one of them can change."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.bundle import IMAGE, open_bundle
from appliance.errors import BundleError, UntrustedReleaseKeyError
from appliance.release import MANIFEST_NAME
from tests.appliance.conftest import Vendor
from tests.appliance.engine import IMAGE as TAG
from tests.appliance.engine import Engine
from tests.appliance.releases import release_key
from tests.fakes.releases import OTHER_KEY, public


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def test_what_is_in_it(bundle: Path) -> None:
    manifest = open_bundle(bundle, {public(release_key()).fingerprint}).manifest
    print(f"{bundle.name}: {bundle.stat().st_size / 1e6:.0f} MB, {len(manifest.members)} files")  # noqa: T201
    for path in (
        IMAGE, "install.sh", "checksums.txt", "release-key.pem", "sbom.cdx.json", "trust-root.json", "usage-verify.pyz",
        "docs/appliance.md", "docs/running.md", "containers/compose.yaml", "systemd/ocr-sidecar.target",
        "tessdata/eng.traineddata", "tessdata/osd.traineddata", "installer/appliance/command.py",
    ):  # fmt: skip
        assert path in manifest.members, path
    assert any(path.startswith("wheelhouse/tollgate-") for path in manifest.members)
    assert any(path.startswith("containers/kubernetes/") for path in manifest.members)
    assert (manifest.machine, manifest.python, manifest.evaluation) == ("x86_64", (3, 11), True)


def test_checksums_are_those_that_sha256sum_checks(bundle: Path, tmp_path: Path) -> None:
    with tarfile.open(bundle) as archive:
        listed = archive.extractfile(f"{archive.getnames()[0].partition('/')[0]}/checksums.txt")
        assert listed is not None
        lines = dict(reversed(line.split("  ")) for line in listed.read().decode().splitlines())  # type: ignore[arg-type]
    members = open_bundle(bundle, None).manifest.members
    assert lines == {path: member.sha256 for path, member in members.items() if path != "checksums.txt"}


@pytest.fixture
def damaged(bundle: Path) -> Iterator[Path]:
    """The bundle under another name, to be damaged and mended."""
    copy = bundle.with_name("damaged.tar.tmp")
    with bundle.open("rb") as source, copy.open("wb") as target:
        os.copy_file_range(source.fileno(), target.fileno(), 0)
        while os.sendfile(target.fileno(), source.fileno(), None, 2**30):
            pass
    yield copy
    copy.unlink()


def test_one_byte_changed_anywhere_is_refused(damaged: Path) -> None:
    with tarfile.open(damaged) as archive:
        entries = {entry.name.partition("/")[2]: entry for entry in archive}
    size = damaged.stat().st_size
    wheel = next(path for path in entries if path.startswith("wheelhouse/cryptography-"))
    places = {
        "its first byte": 0,
        "the signature": entries[MANIFEST_NAME].offset_data + entries[MANIFEST_NAME].size - 20,
        "the manifest": entries[MANIFEST_NAME].offset_data + 1000,
        "the installer": entries["install.sh"].offset_data + 5,
        "permissions": entries["install.sh"].offset + 104,
        "a name": entries["trust-root.json"].offset + 20,
        "an owner": entries["trust-root.json"].offset + 113,
        "a time": entries["trust-root.json"].offset + 140,
        "a wheel": entries[wheel].offset_data + entries[wheel].size // 2,
        "the image": entries[IMAGE].offset_data + entries[IMAGE].size - 9,
        "padding": entries["trust-root.json"].offset_data + entries["trust-root.json"].size,
        "the end": size - 1,
    }
    with damaged.open("r+b") as stream:
        for what, place in places.items():
            stream.seek(place)
            (before,) = stream.read(1)
            stream.seek(place)
            stream.write(bytes([before ^ 1]))
            stream.flush()
            with pytest.raises(BundleError) as refused:
                open_bundle(damaged, None)
            print(f"{what}: {refused.value.code}: {refused.value}")  # noqa: T201
            stream.seek(place)
            stream.write(bytes([before]))
            stream.flush()
    open_bundle(damaged, None)
    with pytest.raises(UntrustedReleaseKeyError):
        open_bundle(damaged, {public(OTHER_KEY).fingerprint})


def test_two_runs_make_the_same_bytes_also_of_an_image_that_is_built_anew(
    engine: Engine, bundle: Path, vendor: Vendor
) -> None:
    first = sha256(bundle)
    engine("rmi", "--force", TAG)
    engine("image", "prune", "--force")
    engine.make_image(vendor.trust_root)
    second = sha256(engine.make_bundle())
    print(f"{bundle.name}: SHA-256 {first} and {second}")  # noqa: T201
    assert second == first
