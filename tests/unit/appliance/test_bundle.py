"""A bundle with one byte changed, anything added, taken away, renamed or opened up is refused, by name."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.bundle import member_of, open_bundle
from appliance.errors import (
    BundleChangedError,
    BundleError,
    BundleForeignFileError,
    BundleFormatError,
    BundleMissingFileError,
    BundleTruncatedError,
)
from appliance.release import MANIFEST_NAME, Manifest
from tests.fakes.releases import FILES, KEY, LONG_NAME, lay_out, packed, public, signed

TRUSTED = {public(KEY).fingerprint}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "tollgate-1.2.3"
    lay_out(root, FILES)
    return root


@pytest.fixture
def manifest(folder: Path) -> Manifest:
    return signed(folder)


@pytest.fixture
def tar(folder: Path, manifest: Manifest, tmp_path: Path) -> Path:
    return packed(folder, manifest, tmp_path / "bundle.tar")


def test_folder_and_tar_are_taken_and_copied_from(folder: Path, tar: Path, tmp_path: Path) -> None:
    for number, path in enumerate((folder, tar)):
        told: list[tuple[int, int]] = []
        bundle = open_bundle(path, TRUSTED, lambda done, whole, told=told: told.append((done, whole)))  # type: ignore[misc]
        whole = sum(map(len, FILES.values()))
        assert told[-1] == (whole, whole)
        assert [member.path for member in bundle.members("")] == sorted(FILES)
        for member in bundle.members(""):
            target = tmp_path / str(number) / member.path
            bundle.copy(member, target)
            assert target.read_bytes() == FILES[member.path]
            assert target.stat().st_mode & 0o777 == member.mode


def test_the_same_files_make_the_same_tar(folder: Path, manifest: Manifest, tar: Path, tmp_path: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
    assert packed(folder, signed(folder), tmp_path / "again.tar").read_bytes() == tar.read_bytes()


def test_any_tar_unpacks_it_to_a_folder_that_is_taken(tar: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "xf", tar, "-C", out], check=True)
    assert open_bundle(out / "tollgate-1.2.3", TRUSTED).manifest.version == "1.2.3"
    with tarfile.open(tar) as archive:
        assert {entry.mtime for entry in archive} == {0}
        assert {(entry.uid, entry.gid, entry.uname, entry.gname) for entry in archive} == {(0, 0, "", "")}


def test_no_byte_of_a_tar_can_change(tar: Path, tmp_path: Path) -> None:
    blob = tar.read_bytes()
    changed = tmp_path / "changed.tar"
    # In headers, content, padding and the end; tests/appliance does the same to a real one.
    for place in {*range(0, len(blob), 61), *range(0, 512, 5), *range(len(blob) - 1100, len(blob), 29)}:
        changed.write_bytes(blob[:place] + bytes([blob[place] ^ (1 << place % 8)]) + blob[place + 1 :])
        with pytest.raises(BundleError):
            open_bundle(changed, TRUSTED)


def test_a_tar_that_is_cut_off_anywhere_is_refused(tar: Path, tmp_path: Path) -> None:
    blob = tar.read_bytes()
    for length in {*range(0, len(blob), 97), len(blob) - 1, len(blob) - 512, len(blob) - 1024}:
        (tmp_path / "cut.tar").write_bytes(blob[:length])
        with pytest.raises(BundleTruncatedError):
            open_bundle(tmp_path / "cut.tar", TRUSTED)


@pytest.mark.parametrize("more", [b"\0", b"x", bytes(10240)])
def test_nothing_may_follow_behind_a_tar(tar: Path, more: bytes) -> None:
    with tar.open("ab") as stream:
        stream.write(more)
    with pytest.raises(BundleForeignFileError):
        open_bundle(tar, TRUSTED)


def rewritten(tar: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> Path:
    """The tar with its entries changed, in the same spelling."""
    with tarfile.open(tar) as archive:
        entries = [(entry, content.read() if (content := archive.extractfile(entry)) else b"") for entry in archive]
    change(entries)
    out = tar.with_name("rewritten.tar")
    with out.open("wb") as stream:
        for entry, content in entries:
            entry.pax_headers = {}
            stream.write(entry.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict"))
            stream.write(content + bytes(-len(content) % 512))
        stream.write(bytes(1024))
    return out


def entry_of(name: str, content: bytes = b"", **facts: object) -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    for fact, value in facts.items():
        setattr(entry, fact, value)
    return entry, content


def set_fact(place: int, fact: str, value: object) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]:
    return lambda entries: setattr(entries[place][0], fact, value)


def test_a_tar_that_is_only_written_again_is_the_same(tar: Path) -> None:
    assert rewritten(tar, lambda entries: None).read_bytes() == tar.read_bytes()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda entries: entries.insert(1, entry_of("../../etc/cron.d/job", b"x")), BundleForeignFileError),
        (lambda entries: entries.insert(1, entry_of("/etc/cron.d/job", b"x")), BundleForeignFileError),
        (lambda entries: entries.insert(3, entry_of("tollgate-1.2.3/more", b"x")), BundleForeignFileError),
        (lambda entries: entries.append(entry_of("tollgate-1.2.3/more", b"x")), BundleTruncatedError),
        (lambda entries: entries.append(entry_of("x" * 300)), BundleTruncatedError),
        (lambda entries: entries.insert(2, entry_of("d", type=tarfile.DIRTYPE)), BundleForeignFileError),
        (lambda entries: entries.pop(2), BundleMissingFileError),
        (lambda entries: entries.pop(), BundleTruncatedError),
        (lambda entries: entries.reverse(), BundleFormatError),
        (lambda entries: entries.append(entries.pop(1)), BundleMissingFileError),
        (set_fact(4, "mode", 0o4755), BundleChangedError),
        (set_fact(4, "mode", 0o600), BundleChangedError),
        (set_fact(4, "mtime", 1), BundleChangedError),
        (set_fact(4, "uid", 1), BundleChangedError),
        (set_fact(4, "uname", "root"), BundleChangedError),
        (set_fact(4, "type", tarfile.LNKTYPE), BundleChangedError),
        (set_fact(4, "type", tarfile.SYMTYPE), BundleChangedError),
        (set_fact(4, "name", "tollgate-1.2.3/other"), BundleForeignFileError),
        (set_fact(0, "mode", 0o666), BundleChangedError),
        (set_fact(0, "name", "tollgate-9/manifest.dsse"), BundleChangedError),
        (set_fact(0, "name", "manifest.dsse"), BundleFormatError),
    ],
)
def test_entries_of_a_tar_are_what_was_signed(
    tar: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None], error: type[BundleError]
) -> None:
    with pytest.raises(error):
        open_bundle(rewritten(tar, change), TRUSTED)


@pytest.mark.parametrize(
    "blob", [b"", b"x" * 5000, bytes(5000), entry_of("a/manifest.dsse", size=2**40)[0].tobuf(tarfile.GNU_FORMAT)]
)
def test_what_is_no_bundle_is_refused(tmp_path: Path, blob: bytes) -> None:
    (tmp_path / "any").write_bytes(blob)
    with pytest.raises((BundleFormatError, BundleTruncatedError)):
        open_bundle(tmp_path / "any", None)
    with pytest.raises(BundleFormatError):
        open_bundle(tmp_path / "nothing", None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleMissingFileError):
        open_bundle(tmp_path / "empty", None)


def test_no_byte_of_a_folder_can_change(folder: Path, manifest: Manifest) -> None:
    for path in [*FILES, MANIFEST_NAME]:
        content = (folder / path).read_bytes()
        for place in range(0, len(content), 37):
            (folder / path).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            with pytest.raises(BundleError):
                open_bundle(folder, TRUSTED)
        (folder / path).write_bytes(content + b"\n")
        with pytest.raises(BundleError):
            open_bundle(folder, TRUSTED)
        (folder / path).write_bytes(content)
    open_bundle(folder, TRUSTED)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda root: (root / "more").write_bytes(b""), BundleForeignFileError),
        (lambda root: (root / "docs/more.md").write_bytes(b""), BundleForeignFileError),
        (lambda root: (root / "folder").mkdir(), BundleForeignFileError),
        (lambda root: (root / ".hidden").symlink_to("/etc/passwd"), BundleForeignFileError),
        (lambda root: os.mkfifo(root / "pipe"), BundleForeignFileError),
        (lambda root: (root / "empty").unlink(), BundleMissingFileError),
        (lambda root: (root / "empty").rename(root / "other"), BundleForeignFileError),
        (lambda root: (root / MANIFEST_NAME).unlink(), BundleMissingFileError),
        (lambda root: (root / "install.sh").chmod(0o644), BundleChangedError),
        (lambda root: (root / "trust-root.json").chmod(0o666), BundleChangedError),
        (lambda root: (root / "trust-root.json").chmod(0o755), BundleChangedError),
        (lambda root: (root / "install.sh").chmod(0o4755), BundleChangedError),
    ],
)
def test_a_folder_holds_what_was_signed(
    folder: Path, manifest: Manifest, change: Callable[[Path], object], error: type[BundleError]
) -> None:
    change(folder)
    with pytest.raises(error):
        open_bundle(folder, TRUSTED)


def test_a_link_in_place_of_a_file_or_folder_is_refused(folder: Path, manifest: Manifest, tmp_path: Path) -> None:
    (folder / "empty").unlink()
    (folder / "empty").symlink_to(folder / "install.sh")
    with pytest.raises(BundleForeignFileError):
        open_bundle(folder, TRUSTED)
    (folder / "empty").unlink()
    (folder / "empty").touch(0o644)
    (folder / "docs").rename(tmp_path / "docs")
    (folder / "docs").symlink_to(tmp_path / "docs")
    with pytest.raises(BundleForeignFileError):
        open_bundle(folder, TRUSTED)


def test_a_strict_umask_is_no_reason_to_refuse(folder: Path, manifest: Manifest) -> None:
    for path in FILES:
        (folder / path).chmod((folder / path).stat().st_mode & 0o700)
    open_bundle(folder, TRUSTED)


def test_what_changes_after_it_was_verified_is_not_copied(folder: Path, manifest: Manifest, tmp_path: Path) -> None:
    bundle = open_bundle(folder, TRUSTED)
    (folder / LONG_NAME).write_bytes(b"PK" + bytes(699) + b"!")
    with pytest.raises(BundleChangedError):
        bundle.copy(manifest.members[LONG_NAME], tmp_path / "copy.whl")
    (folder / LONG_NAME).write_bytes(b"PK")
    with pytest.raises(BundleTruncatedError):
        bundle.copy(manifest.members[LONG_NAME], tmp_path / "copy.whl")


def test_a_member_is_described_as_it_lies_there(folder: Path) -> None:
    assert member_of(folder, "install.sh").mode == 0o755
    assert member_of(folder, "empty").size == 0


def test_a_stream_of_a_tar_stands_at_the_member(tar: Path) -> None:
    bundle = open_bundle(tar, TRUSTED)
    with bundle.open(bundle.manifest.members[LONG_NAME]) as stream:
        assert isinstance(stream, io.BufferedReader)
        assert stream.read(2) == b"PK"
