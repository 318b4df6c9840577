"""Where an image comes from: bundles that are signed, archives that are not, and what is neither."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.bundle import IMAGE
from sidecar.deploy.archive import ImageArchive, open_archive, read_release_key
from sidecar.errors import DeployError
from tests.fakes.releases import KEY, MANIFEST, OTHER_KEY, lay_out, packed, public, signed

DIGEST = "ab" * 32


def an_archive(path: Path, digest: str = DIGEST, *, config: str = "{}.json") -> Path:
    """An archive as `docker save` writes it, as far as it is looked at here."""
    index = json.dumps([{"Config": config.format(digest), "RepoTags": ["localhost/tollgate:2"], "Layers": []}]).encode()
    with tarfile.open(path, "w") as tar:
        for name, blob in (("layer.tar", bytes(3000)), ("manifest.json", index)):
            info = tarfile.TarInfo(name)
            info.size = len(blob)
            tar.addfile(info, io.BytesIO(blob))
    return path


def told(done: int, whole: int) -> None:
    assert done <= whole


@pytest.mark.parametrize("config", ["{}.json", "{}", "blobs/sha256/{}"])
def test_an_archive_tells_its_images_id(tmp_path: Path, config: str) -> None:
    path = an_archive(tmp_path / "image.tar", config=config)
    with open_archive(path, None, told) as one:
        assert (one.image_id, one.release_key) == (f"sha256:{DIGEST}", "")
        assert one.stream.read() == path.read_bytes()


def test_an_index_of_another_kind_tells_no_id(tmp_path: Path) -> None:
    with open_archive(an_archive(tmp_path / "image.tar", config="x/{}"), None, told) as one:
        assert one.image_id == ""


@pytest.mark.parametrize(
    "blob",
    [b"", b"x" * 5000, bytes(10240), b"\x1f\x8b compressed", gzip.compress(bytes(20000))[:-9], gzip.compress(b"x")],
    ids=["empty", "text", "an empty tar", "no gzip", "half a gzip", "a text in gzip"],
)
def test_what_is_no_archive_is_refused(tmp_path: Path, blob: bytes) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(blob)
    with pytest.raises(DeployError) as refused, open_archive(path, None, told):
        pass
    assert refused.value.exit_code == 65
    assert refused.value.next_step


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that a bundle was unpacked to, as far as it is looked at here."""
    root = tmp_path / MANIFEST.folder
    archive = an_archive(tmp_path / "saved.tar").read_bytes()
    lay_out(root, {"install.sh": b"#!/bin/sh\n", IMAGE: gzip.compress(archive, mtime=0), "docs/x.md": b"x"})
    return root


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("trusted", [None, {public(KEY).fingerprint}])
def test_a_bundle_hands_out_its_image(folder: Path, tmp_path: Path, is_packed: bool, trusted: set[str] | None) -> None:
    manifest = signed(folder)
    path = packed(folder, manifest, tmp_path / "bundle.tar") if is_packed else folder
    with open_archive(path, trusted, told) as one:
        assert (one.image_id, one.reference) == (f"sha256:{DIGEST}", MANIFEST.image)
        assert (one.release_key, one.version) == (public(KEY).fingerprint, MANIFEST.version)
        assert one.stream.read() == gzip.decompress((folder / IMAGE).read_bytes())


@pytest.mark.parametrize("is_packed", [True, False])
def test_a_bundle_of_another_key_is_refused(folder: Path, tmp_path: Path, is_packed: bool) -> None:
    manifest = signed(folder, key=OTHER_KEY)
    path = packed(folder, manifest, tmp_path / "bundle.tar") if is_packed else folder
    with pytest.raises(DeployError) as refused, open_archive(path, {public(KEY).fingerprint}, told):
        pass
    assert (refused.value.reason, refused.value.exit_code) == ("release_untrusted_key", 65)


def test_a_bundle_with_one_byte_changed_hands_out_nothing(folder: Path, tmp_path: Path) -> None:
    whole = packed(folder, signed(folder), tmp_path / "bundle.tar").read_bytes()
    handed_out = 0
    for at in range(0, len(whole), 97):
        changed = bytearray(whole)
        changed[at] ^= 1
        path = tmp_path / "changed.tar"
        path.write_bytes(changed)
        with pytest.raises(DeployError) as refused, open_archive(path, {public(KEY).fingerprint}, told) as one:
            handed_out += len(one.stream.read())
        assert refused.value.exit_code == 65
    assert handed_out == 0


def read_another(one: ImageArchive, image: Path) -> None:
    with image.open("r+b") as stream:
        stream.seek(9)  # what system packed it: the same is in it
        stream.write(b"?")
    one.stream.read()


def test_an_image_that_changes_while_it_is_read_is_told(folder: Path) -> None:
    signed(folder)
    image = folder / IMAGE
    with pytest.raises(DeployError, match="changed while it was read"), open_archive(folder, None, told) as one:
        read_another(one, image)


@pytest.mark.parametrize(
    "damage", [lambda blob: blob[:-9], lambda blob: blob[:-5] + b"?" + blob[-4:]], ids=["cut off", "another byte"]
)
def test_an_archive_that_is_damaged_behind_its_index_is_told_when_it_is_read(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "image.tar.gz"
    path.write_bytes(damage(gzip.compress(an_archive(tmp_path / "image.tar").read_bytes() + bytes(2**20))))
    with open_archive(path, None, told) as one, pytest.raises(DeployError, match="damaged") as refused:
        one.stream.read()
    assert refused.value.exit_code == 65


def test_a_bundle_without_an_image_is_told(tmp_path: Path) -> None:
    root = tmp_path / MANIFEST.folder
    lay_out(root, {"install.sh": b"#!/bin/sh\n"})
    signed(root)
    with pytest.raises(DeployError, match="holds no image"), open_archive(root, None, told):
        pass


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match=r"none\.tar is not there"), open_archive(tmp_path / "none.tar", None, told):
        pass


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeployError) as refused, open_archive(tmp_path, None, told):
        pass
    assert refused.value.exit_code == 65


def test_a_file_that_is_no_release_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("none")
    for path in (tmp_path / "key", tmp_path / "absent"):
        with pytest.raises(DeployError) as refused:
            read_release_key(path)
        assert refused.value.exit_code == 65
