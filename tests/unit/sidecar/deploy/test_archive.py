"""Where an image comes from: bundles that are signed, archives that are not, and what is neither."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from sidecar.deploy.archive import open_archive, read_release_key
from sidecar.errors import DeployError

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
    [b"", b"x" * 5000, bytes(10240), b"\x1f\x8b compressed"],
    ids=["empty", "text", "an empty tar", "compressed"],
)
def test_what_is_no_archive_is_refused(tmp_path: Path, blob: bytes) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(blob)
    with pytest.raises(DeployError) as refused, open_archive(path, None, told):
        pass
    assert refused.value.exit_code == 65
    assert refused.value.next_step


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
