"""Bundles for tests: made of a `FakeMeter`'s records, honest or hostile.

path = a_bundle(meter, tmp_path)
path = a_bundle(meter, tmp_path, since=100)          # only what came after entry 100
"""

import io
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from licenses.strict_json import canonical
from licenses.usage_log.bundle import BundleFile, Span, plain_file, proof_file, write_bundle
from licenses.usage_log.entry import leaf_hash
from licenses.usage_log.files import sequence_range
from licenses.usage_log.merkle import consistency_proof, root_of
from licenses.usage_log.note import sign_checkpoint
from tests.fakes.records import FakeMeter

GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"


def span_of(meter: FakeMeter, since: int = 0) -> Span:
    """The span from `since` to the last window."""
    sizes = [sequence_range(path.name) for path in meter.files]
    size = max(found[1] for found in sizes if found)
    return Span(
        origin=meter.origin,
        instance=meter.instance,
        since=since,
        size=size,
        root=root_of(map(leaf_hash, meter.lines[:size])),
        until_ms=meter.now_ms,
    )


def bundle_files(meter: FakeMeter, since: int = 0, acks: Mapping[int, bytes] | None = None) -> list[BundleFile]:
    """The files that the appliance would put in."""
    span, leaves = span_of(meter, since), [leaf_hash(line) for line in meter.lines]
    note = sign_checkpoint(meter.origin, span.size, span.root, meter.device).encode()
    files = [
        plain_file(f"{span.folder}/checkpoint", note),
        plain_file(f"{span.folder}/checkpoints/{span.size}", note),
        plain_file("totals.json", canonical({"since": since, "size": span.size}) + b"\n"),
        *(
            plain_file(f"{span.folder}/{path.relative_to(meter.folder)}", path.read_bytes())
            for path in meter.files
            if int(path.name.partition("-")[0]) >= since
        ),
        *(plain_file(f"{span.folder}/acks/{size}.dsse.json", blob) for size, blob in (acks or {}).items()),
    ]
    if since:
        old_root = root_of(leaves[:since])
        old = sign_checkpoint(meter.origin, since, old_root, meter.device).encode()
        files.append(plain_file(f"{span.folder}/checkpoints/{since}", old))
        files.append(proof_file(span, old_root, consistency_proof(leaves[: span.size], since)))
    return files


def a_bundle(meter: FakeMeter, folder: Path, since: int = 0, acks: Mapping[int, bytes] | None = None) -> Path:
    """Write the bundle of a meter's records from `since` on, and return its path."""
    span = span_of(meter, since)
    path = folder / span.file_name
    with path.open("wb") as stream:
        write_bundle(stream, bundle_files(meter, since, acks), span, meter.device)
    return path


def archive_of(path: Path) -> bytes:
    """The tar archive inside a bundle."""
    return zlib.decompress(path.read_bytes(), zlib.MAX_WBITS | 16)


def packed(archive: bytes, *, level: int = 6) -> bytes:
    """An archive packed as a bundle is, honest or not."""
    deflate = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflate.compress(archive) + deflate.flush()
    return GZIP_HEADER + body + zlib.crc32(archive).to_bytes(4, "little") + len(archive).to_bytes(4, "little")


def tar_member(name: str, content: bytes = b"", **changes: object) -> bytes:
    """A member as `tarfile` writes it, by default one that a bundle could hold."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime, info.uid, info.gid = len(content), 0o444, 0, 0, 0
    for field, value in changes.items():
        setattr(info, field, value)
    header = info.tobuf(tarfile.USTAR_FORMAT)
    return header + content + bytes(-len(content) % 512)


def members_of(archive: bytes) -> list[tuple[str, bytes]]:
    """Names and contents of an archive, as `tarfile` reads it."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return [(one.name, tar.extractfile(one).read()) for one in tar.getmembers()]  # type: ignore[union-attr]
