"""Where the image comes from: a bundle that is signed, or a bare archive as `docker save` and `podman save` write it.

Invariants:

* Of a bundle, nothing is handed out before all of it was held against the manifest that a trusted release key signed;
  what is then read is held against its hash once more.
* What is handed out is unpacked: Podman 4.3, as Debian 12 has it, loads no archive that gzip has packed.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import re
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from appliance.bundle import IMAGE, Bundle, open_bundle
from appliance.errors import InstallError
from appliance.release import MANIFEST_NAME, Manifest, ReleaseKey
from sidecar.deploy.plan import EXIT_DATA
from sidecar.errors import DeployError

_MAX_INDEX_BYTES = 4 * 2**20
_GZIP = b"\x1f\x8b"
_DIGEST = re.compile(r"(?:blobs/sha256/)?([0-9a-f]{64})(?:\.json)?")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ImageArchive:
    """An image to load.

    Attributes:
        stream: The archive's tar, at its beginning; reading it raises `DeployError` where it is damaged.
        image_id: The id that the image has where engines name images by their configuration; empty when not told.
        reference: The name that it is to have; empty when only the archive tells.
        release_key: Fingerprint of the key that signed it; empty when nobody did.
        version: The release's version; empty when not told.
    """

    stream: BinaryIO = field(repr=False)
    image_id: str = ""
    reference: str = ""
    release_key: str = ""
    version: str = ""


@contextlib.contextmanager
def open_archive(path: Path, trusted: Collection[str] | None, progress: Progress) -> Iterator[ImageArchive]:
    """Open an image to load.

    Args:
        path: A bundle, the folder that one was unpacked to, or an archive of images.
        trusted: Fingerprints of the release keys to believe; None takes the one that the bundle names.
        progress: Told how many bytes of how many are verified.

    Raises:
        DeployError: There is nothing of the kind, or it is refused.
    """
    try:
        if not path.is_dir() and not _is_bundle(path):
            with path.open("rb") as stream:
                yield ImageArchive(_unpacked(stream, path), _image_id(stream, path))
            return
        bundle = open_bundle(path, trusted, progress)
        with _member(bundle, bundle.manifest) as (member, finish):
            yield ImageArchive(
                _unpacked(member, path),
                _image_id(member, path),
                bundle.manifest.image,
                bundle.manifest.key.fingerprint,
                bundle.manifest.version,
            )
            finish()
    except InstallError as exc:
        raise DeployError(exc.code, str(exc), next_step=exc.next_step, exit_code=exc.exit_code) from exc
    except FileNotFoundError as exc:
        raise _unreadable(
            f"{exc.filename or path} is not there", "give the path of the bundle, or of its image"
        ) from exc
    except OSError as exc:
        raise _unreadable(f"{path} cannot be read: {exc.strerror or exc}", "check the path and the medium") from exc


def read_release_key(path: Path) -> str:
    """The fingerprint of a published release key.

    Raises:
        DeployError: The file holds none.
    """
    try:
        return ReleaseKey.from_pem(path.read_bytes(), path).fingerprint
    except InstallError as exc:
        raise DeployError(exc.code, str(exc), next_step=exc.next_step, exit_code=exc.exit_code) from exc
    except OSError as exc:
        raise _unreadable(f"{path} cannot be read: {exc.strerror or exc}", "check the path of --release-key") from exc


def _is_bundle(path: Path) -> bool:
    try:
        with tarfile.open(path) as tar:
            first = tar.next()
    except (tarfile.TarError, EOFError, zlib.error) as exc:
        step = "give Tollgate's bundle, the folder it was unpacked to, or an archive of 'docker save'"
        raise _unreadable(f"{path} is neither a bundle nor an archive of images", step) from exc
    return first is not None and first.name.endswith(f"/{MANIFEST_NAME}")


@contextlib.contextmanager
def _member(bundle: Bundle, manifest: Manifest) -> Iterator[tuple[BinaryIO, Callable[[], None]]]:
    """The image's bytes, and what holds them against their hash once they were read."""
    told = manifest.members.get(IMAGE)
    if told is None:
        raise _unreadable(f"{bundle.path} holds no {IMAGE}", "ask the vendor for a bundle with the image")
    with bundle.open(told) as source:
        window = _Window(source, told.size)

        def finish() -> None:
            if window.was_read_whole and window.sha256 != told.sha256:
                step = "do not start it; check the medium, and remove the image that was loaded"
                raise _unreadable(f"{bundle.path} was changed while it was read", step)

        yield io.BufferedReader(window, 2**20), finish


class _Window(io.RawIOBase):
    """A part of a file, from where it stands, as a file of its own; hashes what is read from its beginning on."""

    def __init__(self, source: BinaryIO, size: int) -> None:
        self._source, self._size = source, size
        self._start = source.tell()
        self._at = self._hashed = 0
        self._hash = hashlib.sha256()

    @property
    def was_read_whole(self) -> bool:
        return self._hashed == self._size

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        if not self._at:
            self._hashed, self._hash = 0, hashlib.sha256()
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._source.seek(self._start + self._at)
        chunk = self._source.read(min(len(buffer), max(0, self._size - self._at)))
        buffer[: len(chunk)] = chunk
        if self._at == self._hashed:
            self._hash.update(chunk)
            self._hashed += len(chunk)
        self._at += len(chunk)
        return len(chunk)


class _Unpacked(gzip.GzipFile):
    """What gzip has packed; damage is told as that of the file."""

    def __init__(self, packed: BinaryIO, path: Path) -> None:
        super().__init__(fileobj=packed, mode="rb")
        self._path = path

    def read(self, size: int | None = -1) -> bytes:
        try:
            return super().read(size)
        except (EOFError, zlib.error, OSError) as exc:
            raise _unreadable(f"{self._path} is damaged, or ends too early: {exc}", "fetch it again") from exc


def _unpacked(stream: BinaryIO, path: Path) -> BinaryIO:
    """The tar at the beginning of a stream, packed or not."""
    magic = stream.read(len(_GZIP))
    stream.seek(0)
    return cast(BinaryIO, _Unpacked(stream, path)) if magic == _GZIP else stream


def _image_id(stream: BinaryIO, path: Path) -> str:
    """The digest of the image's configuration, which the archive's index names."""
    try:
        with tarfile.open(fileobj=stream) as tar:
            index = tar.extractfile("manifest.json")
            entries = json.loads(index.read(_MAX_INDEX_BYTES)) if index is not None else []
        found = _DIGEST.fullmatch(str(entries[0]["Config"])) if len(entries) == 1 else None
    except (KeyError, IndexError, TypeError, ValueError, EOFError, tarfile.TarError, zlib.error) as exc:
        raise _unreadable(
            f"{path} is no archive of images", "give one as 'docker save' or 'podman save' write it"
        ) from exc
    finally:
        stream.seek(0)
    return f"sha256:{found[1]}" if found else ""


def _unreadable(cause: str, step: str) -> DeployError:
    return DeployError("bundle_unreadable", cause, next_step=step, exit_code=EXIT_DATA)
