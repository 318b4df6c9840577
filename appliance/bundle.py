"""A bundle: one tar, or the folder that it was unpacked to. Written here, and held against its manifest here.

Invariants:

* A tar has exactly one spelling: the manifest first, then the members in order, no times, no owners, nothing between
  and nothing behind. So each of its bytes follows from the manifest, and a tar is read by comparing, not by parsing.
* A folder holds the members and nothing else: regular files with no permission more than was signed.
* Nothing of a bundle is handed out before all of it was verified, and each file is held against its hash once more
  while it is copied.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from appliance.errors import (
    BundleChangedError,
    BundleError,
    BundleForeignFileError,
    BundleFormatError,
    BundleMissingFileError,
    BundleTruncatedError,
)
from appliance.release import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest, Member, open_manifest

Progress = Callable[[int, int], None]
"""Told how many bytes of how many are verified."""

IMAGE = "image.tar.gz"
"""The member that an engine loads, unpacked: `gunzip --stdout image.tar.gz | docker load`."""

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)
_CHUNK = 1024 * 1024
_MANIFEST_MODE = 0o644
_LONG_NAME = "././@LongLink"
_UNPACK = (
    "Nothing was changed. Unpack the bundle again as root with 'tar xf', into an empty folder of a file system that "
    "keeps permissions (not on the USB stick itself)."
)


def nothing_told(done: int, whole: int) -> None:
    """Progress that nobody wants to see."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was verified.

    Attributes:
        manifest: What is in it.
        envelope: The signed manifest as it is in the bundle.
        path: The tar or the folder.
    """

    manifest: Manifest
    envelope: bytes
    path: Path

    def members(self, *folders: str) -> list[Member]:
        """Those whose path begins with one of these, in order."""
        return [member for member in self.manifest.members.values() if member.path.startswith(folders)]

    def copy(self, member: Member, into: Path) -> None:
        """Copy one file, with its permissions; the folders above it are made.

        Raises:
            BundleChangedError: It is no longer what was verified.
            OSError: The target cannot be written.
        """
        into.parent.mkdir(parents=True, exist_ok=True)
        with self.open(member) as source, into.open("wb") as target:
            digest = hashlib.sha256()
            for chunk in _chunks(source, member.size):
                digest.update(chunk)
                target.write(chunk)
            if digest.hexdigest() != member.sha256 or target.tell() != member.size:
                raise BundleChangedError(f"{member.path} was changed while it was copied")
            os.fchmod(target.fileno(), member.mode)
            target.flush()
            os.fsync(target.fileno())

    def open(self, member: Member) -> BinaryIO:
        """A stream at the beginning of a file; of a tar, the next file follows behind its `size` bytes.

        Raises:
            OSError: It cannot be opened.
        """
        if self.path.is_dir():
            return _open_plainly(self.path / member.path)
        stream = self.path.open("rb")
        stream.seek(_offset_of(self.manifest, len(self.envelope), member))
        return stream


def open_bundle(path: Path, trusted: Collection[str] | None, progress: Progress = nothing_told) -> Bundle:
    """Verify every byte of a bundle.

    Args:
        path: A tar as `make bundle` makes it, or the folder that it was unpacked to.
        trusted: Fingerprints of the release keys to believe; None takes the key that the manifest names.
        progress: Told how far it is.

    Raises:
        BundleError: It is refused; the subclass says for what.
        HostError: The machine has nothing to check signatures with.
    """
    try:
        return _open_folder(path, trusted, progress) if path.is_dir() else _open_tar(path, trusted, progress)
    except OSError as exc:
        raise BundleFormatError(
            f"the bundle cannot be read: {exc}", next_step="Nothing was changed. Check the path and the medium."
        ) from exc


def read_manifest(path: Path, trusted: Collection[str] | None) -> tuple[Manifest, bytes]:
    """The verified manifest of a bundle of which nothing else was looked at, and its envelope.

    Raises:
        BundleError: There is none, or it is refused.
    """
    try:
        if path.is_dir():
            with _open_plainly(path / MANIFEST_NAME) as stream:
                blob = stream.read(MAX_MANIFEST_BYTES + 1)
            return open_manifest(blob, trusted), blob
        with path.open("rb") as stream:
            blob, manifest = _manifest_of_tar(stream, trusted)
            return manifest, blob
    except FileNotFoundError as exc:
        raise BundleMissingFileError(f"{exc.filename} is not there") from exc
    except OSError as exc:
        raise BundleFormatError(
            f"the bundle cannot be read: {exc}", next_step="Nothing was changed. Check the path and the medium."
        ) from exc


def member_of(root: Path, path: str) -> Member:
    """Describe a file for a manifest: executable for all, or readable for all."""
    file = root / path
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    executable = file.stat().st_mode & stat.S_IXUSR
    return Member(path, file.stat().st_size, sha256, 0o755 if executable else 0o644)


def write_tar(out: BinaryIO, root: Path, manifest: Manifest, envelope: bytes) -> None:
    """Write the one tar that the manifest allows.

    Args:
        out: Where to.
        root: The folder of the members.
        manifest: What is in it.
        envelope: The manifest, signed.
    """
    out.write(_header(manifest, MANIFEST_NAME, len(envelope), _MANIFEST_MODE))
    out.write(_padded(envelope))
    for member in manifest.members.values():
        out.write(_header(manifest, member.path, member.size, member.mode))
        with (root / member.path).open("rb") as stream:
            for chunk in _chunks(stream, member.size):
                out.write(chunk)
        out.write(bytes(-member.size % _BLOCK))
    out.write(_END)


def _open_tar(path: Path, trusted: Collection[str] | None, progress: Progress) -> Bundle:
    with path.open("rb") as stream:
        envelope, manifest = _manifest_of_tar(stream, trusted)
        whole = sum(member.size for member in manifest.members.values())
        done = 0
        for member in manifest.members.values():
            header = _header(manifest, member.path, member.size, member.mode)
            found = _exactly(stream, len(header), member.path)
            if found != header:
                raise _wrong_header(found, manifest, member)
            digest = hashlib.sha256()
            for chunk in _chunks(stream, member.size):
                digest.update(chunk)
                done += len(chunk)
                progress(done, whole)
            padding = _exactly(stream, -member.size % _BLOCK, member.path)
            if digest.hexdigest() != member.sha256 or padding.strip(b"\0"):
                raise BundleChangedError(f"{member.path} is not what was signed")
        if stream.read(len(_END)) != _END:
            raise BundleTruncatedError("the bundle has no end, or more files than were signed")
        if stream.read(1):
            raise BundleForeignFileError("something follows behind the end of the bundle")
    return Bundle(manifest, envelope, path)


def _manifest_of_tar(stream: BinaryIO, trusted: Collection[str] | None) -> tuple[bytes, Manifest]:
    header = _exactly(stream, _BLOCK, MANIFEST_NAME)
    try:
        said = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeError) as exc:
        raise BundleFormatError("this is no bundle, or its first bytes were changed") from exc
    if not said.name.endswith(f"/{MANIFEST_NAME}") or not 0 < said.size <= MAX_MANIFEST_BYTES:
        raise BundleFormatError(f"the bundle does not begin with {MANIFEST_NAME}")
    envelope = _exactly(stream, said.size, MANIFEST_NAME)
    padding = _exactly(stream, -said.size % _BLOCK, MANIFEST_NAME)
    manifest = open_manifest(envelope, trusted)
    if header != _header(manifest, MANIFEST_NAME, len(envelope), _MANIFEST_MODE) or padding.strip(b"\0"):
        raise BundleChangedError(f"the entry of {MANIFEST_NAME} is not what was written")
    return envelope, manifest


def _wrong_header(found: bytes, manifest: Manifest, member: Member) -> BundleError:
    """Say in what an entry differs from the one that was signed."""
    try:
        name = tarfile.TarInfo.frombuf(found[:_BLOCK], "utf-8", "strict").name
        if name == _LONG_NAME:
            name = found[_BLOCK : 2 * _BLOCK].rstrip(b"\0").decode()
    except (tarfile.HeaderError, UnicodeError):
        return BundleChangedError(f"the entry of {member.path} is damaged")
    below = name.removeprefix(f"{manifest.folder}/")
    if below == member.path:
        return BundleChangedError(f"the entry of {member.path} is not what was signed (length, permissions or owner)")
    if below in manifest.members:
        return BundleMissingFileError(f"{member.path} is missing; {below} is in its place")
    return BundleForeignFileError(f"{name!r} is in the bundle, and nobody signed it")


def _open_folder(path: Path, trusted: Collection[str] | None, progress: Progress) -> Bundle:
    manifest, envelope = read_manifest(path, trusted)
    _require_nothing_else(path, manifest)
    whole = sum(member.size for member in manifest.members.values())
    done = 0
    for member in manifest.members.values():
        try:
            with _open_plainly(path / member.path) as stream:
                facts = os.fstat(stream.fileno())
                _require_signed_facts(member, facts)
                digest = hashlib.sha256()
                for chunk in _chunks(stream, member.size):
                    digest.update(chunk)
                    done += len(chunk)
                    progress(done, whole)
        except FileNotFoundError as exc:
            raise BundleMissingFileError(f"{member.path} is missing") from exc
        if digest.hexdigest() != member.sha256:
            raise BundleChangedError(f"{member.path} is not what was signed")
    return Bundle(manifest, envelope, path)


def _require_signed_facts(member: Member, facts: os.stat_result) -> None:
    """Length and permissions. Fewer permissions for group and others are the caller's umask, and no harm."""
    if facts.st_size != member.size:
        raise BundleChangedError(f"{member.path} has {facts.st_size} bytes, {member.size} were signed")
    mode = stat.S_IMODE(facts.st_mode)
    if mode & ~member.mode or mode & 0o700 != member.mode & 0o700:
        raise BundleChangedError(
            f"{member.path} has the permissions {mode:04o}, {member.mode:04o} were signed", next_step=_UNPACK
        )


def _require_nothing_else(root: Path, manifest: Manifest) -> None:
    """Every file below is a member, and every folder holds one."""
    wanted = {MANIFEST_NAME, *manifest.members}
    folders = {parent for path in wanted for parent in _folders_above(path)}
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                path = f"{folder}{entry.name}"
                if entry.is_dir(follow_symlinks=False) and path in folders:
                    waiting.append(f"{path}/")
                elif not (entry.is_file(follow_symlinks=False) and path in wanted):
                    raise BundleForeignFileError(f"{path!r} is in the bundle's folder, and nobody signed it")


def _folders_above(path: str) -> Iterator[str]:
    parts = path.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))


def _open_plainly(path: Path) -> BinaryIO:
    """Open a regular file, never through a link at its end and never one that blocks."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    stream = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        stream.close()
        raise BundleForeignFileError(f"{path} is no regular file")
    return stream


def _offset_of(manifest: Manifest, envelope_bytes: int, wanted: Member) -> int:
    """Where the content of a member begins, which follows from the lengths before it."""
    offset = _BLOCK + envelope_bytes + -envelope_bytes % _BLOCK
    for member in manifest.members.values():
        offset += len(_header(manifest, member.path, member.size, member.mode))
        if member.path == wanted.path:
            return offset
        offset += member.size + -member.size % _BLOCK
    raise KeyError(wanted.path)


def _header(manifest: Manifest, path: str, size: int, mode: int) -> bytes:
    """The one header that a member has: no time, owner or group. A long name makes it three blocks long."""
    entry = tarfile.TarInfo(f"{manifest.folder}/{path}")
    entry.size, entry.mode = size, mode
    return entry.tobuf(tarfile.GNU_FORMAT, "ascii", "strict")


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % _BLOCK)


def _exactly(stream: BinaryIO, size: int, path: str) -> bytes:
    found = stream.read(size)
    if len(found) != size:
        raise BundleTruncatedError(f"the bundle ends in {path}")
    return found


def _chunks(stream: BinaryIO, size: int) -> Iterable[bytes]:
    """So many bytes of a stream, in pieces.

    Raises:
        BundleTruncatedError: It has fewer.
    """
    left = size
    while left:
        chunk = stream.read(min(left, _CHUNK))
        if not chunk:
            raise BundleTruncatedError("the bundle ends in the middle of a file")
        left -= len(chunk)
        yield chunk
