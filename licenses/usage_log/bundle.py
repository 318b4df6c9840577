"""The bundle: all that one exchange carries out, as one archive that common tools unpack and anyone can check.

    README.txt                                          what this is, and how to check it
    computervisionread/<instance>/acks/<size>.dsse.json the acknowledgement that the records follow, if there was one
    computervisionread/<instance>/checkpoint            the newest signed checkpoint
    computervisionread/<instance>/checkpoints/<size>    the same, and the one that the records follow
    computervisionread/<instance>/usage/YYYY/MM/…jsonl  the record files of [since, size)
    manifest.dsse.json                                  in-toto Statement over every other file, by the device key
    proofs/consistency-<since>-<size>.json              that the log of `size` entries extends the one of `since`
    totals.json                                         what the records sum up to, per month

Invariants:

* The same content gives the same bytes: members sorted by name, times and owners zero, one gzip header. (The
  compressed bytes also depend on the version of zlib; the archive inside does not.)
* An archive has exactly one spelling: each tar header is compared with the one that would have been written, so
  links, devices, sparse files, extended headers and other owners do not exist here. A name is one of those above, and
  names only grow: none can come twice or leave the folder.
* Unpacking reads a stream once and is bounded in members, in bytes and in the ratio of the two sizes. What is not in
  the manifest, or is only in the manifest, refuses the whole.
* Who signed is decided by the key that the caller pinned. Without one the manifest proves nothing but its own files.
"""

import hashlib
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, NoReturn

from licenses import envelope
from licenses.device_key import device_id_of
from licenses.errors import FileAccessError, FormatError, RecordError, UntrustedKeyError
from licenses.keys import SigningKey, VerifyingKey
from licenses.model import CONTAINER_TYPE
from licenses.strict_json import Fields, canonical, parse_object
from licenses.usage_log.merkle import verify_consistency
from licenses.usage_log.note import Checkpoint
from licenses.verify import day_text

MANIFEST_NAME = "manifest.dsse.json"
README_NAME = "README.txt"
TOTALS_NAME = "totals.json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://tollgate.example/usage-bundle/v1"

MAX_MEMBERS = 100_000
MAX_BYTES = 64 * 1024**3
MAX_MANIFEST_BYTES = 32 * 1024**2
MAX_PROOF_BYTES = 16 * 1024
MAX_RATIO = 500

_NUMBER = "(?:0|[1-9][0-9]{0,15})"
_INSTANCE = re.compile("[0-9a-f]{12}")
_MEMBER = re.compile(
    rf"README\.txt|manifest\.dsse\.json|totals\.json|proofs/consistency-{_NUMBER}-{_NUMBER}\.json"
    rf"|{CONTAINER_TYPE}/(?P<instance>[0-9a-f]{{12}})/(?:checkpoint|checkpoints/{_NUMBER}|acks/{_NUMBER}\.dsse\.json"
    rf"|usage/[0-9]{{4}}/[0-9]{{2}}/{_NUMBER}-{_NUMBER}\.jsonl)"
)
_AGAIN = (
    "Carry the file over again in binary mode; if it is still refused, make it anew with 'sidecar usage export'. "
    "What the appliance holds is not touched by this."
)
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_FOREIGN_BYTES = 128 * 1024
_BLOCK = 512
_PIECE = 1024 * 1024
_MAX_MEMBER_BYTES = 8**11 - 1
_SLACK_BYTES = 16 * 1024**2
_MAX_MS = 253_402_300_800_000  # the year 10000

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Which part of which log a bundle carries.

    Attributes:
        origin: Whose log.
        instance: The instance's folder name, 12 hexadecimal digits.
        since: The first entry: what came before is acknowledged or carried otherwise.
        size: Number of entries in the log up to the end of the bundle.
        root: Merkle root over them, 32 bytes.
        until_ms: The effective time at which the last window closed, milliseconds since 1970 UTC.
    """

    origin: str
    instance: str
    since: int
    size: int
    root: bytes
    until_ms: int

    def __post_init__(self) -> None:
        if not 0 <= self.since < self.size or len(self.root) != 32 or _INSTANCE.fullmatch(self.instance) is None:
            raise RecordError(f"a bundle cannot hold the entries [{self.since}, {self.size}) of {self.instance}")

    @property
    def folder(self) -> str:
        """The instance's folder inside the bundle."""
        return f"{CONTAINER_TYPE}/{self.instance}"

    @property
    def until(self) -> datetime:
        """The effective time at which the last window closed, aware UTC."""
        return datetime.fromtimestamp(self.until_ms // 1000, UTC)

    @property
    def file_name(self) -> str:
        """The name under which the bundle travels: "usage-<origin>-<size>.tar.gz", "/" as "-"."""
        return f"usage-{self.origin.replace('/', '-')}-{self.size}.tar.gz"


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFile:
    """One file to go into a bundle.

    Attributes:
        name: Its path inside the bundle.
        chunks: Gives its bytes, in pieces; called twice, and must give the same. Files are read in the order of their
            names, so what is computed from others may come after them.
    """

    name: str
    chunks: Callable[[], Iterable[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a bundle says of itself.

    Attributes:
        span: Which part of which log.
        files: SHA-256 of every other file, in hexadecimal, by name; in the order of the names.
        signer: The pinned key that signed it; None when no key of that log was pinned, and nothing is proven.
    """

    span: Span
    files: Mapping[str, str]
    signer: VerifyingKey | None = None


@dataclass(frozen=True, slots=True)
class SealedBundle:
    """A bundle ready to be written.

    Attributes:
        manifest: What it says of itself.
    """

    manifest: Manifest
    _sizes: Mapping[str, int]
    _files: Sequence[BundleFile]
    _progress: Progress

    def chunks(self) -> Iterator[bytes]:
        """The archive's bytes, in pieces.

        Raises:
            RecordError: A file gives other bytes than it gave before.
        """
        yield _GZIP_HEADER
        deflate, crc, length = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS), 0, 0
        for piece in self._archive():
            crc, length = zlib.crc32(piece, crc), length + len(piece)
            if packed := deflate.compress(piece):
                yield packed
        yield deflate.flush() + crc.to_bytes(4, "little") + (length & 0xFFFFFFFF).to_bytes(4, "little")

    def _archive(self) -> Iterator[bytes]:
        for number, file in enumerate(self._files, start=1):
            size = self._sizes[file.name]
            yield _header(file.name, size)
            digest, written = hashlib.sha256(), 0
            for piece in file.chunks():
                digest.update(piece)
                written += len(piece)
                yield piece
            if written != size or self.manifest.files.get(file.name, digest.hexdigest()) != digest.hexdigest():
                raise RecordError(f"{file.name} changed while the bundle was written", next_step="Export again.")
            yield bytes(-size % _BLOCK)
            self._progress(len(self._files) + number, 2 * len(self._files))
        yield bytes(2 * _BLOCK)


def write_bundle(
    stream: BinaryIO, files: Iterable[BundleFile], span: Span, key: SigningKey, *, progress: Progress | None = None
) -> Manifest:
    """Write a bundle; see `seal_bundle`, which leaves the writing to the caller."""
    bundle = seal_bundle(files, span, key, progress=progress)
    for piece in bundle.chunks():
        stream.write(piece)
    return bundle.manifest


def seal_bundle(
    files: Iterable[BundleFile], span: Span, key: SigningKey, *, progress: Progress | None = None
) -> SealedBundle:
    """Read all files once, and sign the manifest over them. Memory does not grow with their bytes.

    Args:
        files: All but the README and the manifest.
        span: Which part of which log this is.
        key: The device's key.
        progress: Called with steps done and steps in all; each file is two steps, this is the first half.

    Raises:
        RecordError: A name has no place in a bundle, comes twice, or there are too many.
    """
    tell = progress or (lambda _done, _steps: None)
    ordered = sorted([*files, _file(README_NAME, _readme(span))], key=lambda file: file.name)
    names = [file.name for file in ordered]
    for name in names:
        _require_name(name, span.instance)
    if len(set(names)) != len(names) or len(names) >= MAX_MEMBERS or MANIFEST_NAME in names:
        raise RecordError("the files of a bundle are too many, or one comes twice")
    sizes, digests = {}, {}
    for number, file in enumerate(ordered, start=1):
        digest, size = hashlib.sha256(), 0
        for piece in file.chunks():
            digest.update(piece)
            size += len(piece)
        sizes[file.name], digests[file.name] = size, digest.hexdigest()
        tell(number, 2 * (len(ordered) + 1))
    signed = envelope.seal(_statement(span, digests), envelope.USAGE_BUNDLE_TYPE, [key])
    sizes[MANIFEST_NAME] = len(signed)
    everything = sorted([*ordered, _file(MANIFEST_NAME, signed)], key=lambda file: file.name)
    return SealedBundle(Manifest(span=span, files=digests, signer=key.verifying), sizes, everything, tell)


def plain_file(name: str, content: bytes) -> BundleFile:
    """A small file to go into a bundle."""
    return _file(name, content)


def proof_file(span: Span, old_root: bytes, proof: Sequence[bytes]) -> BundleFile:
    """The proof that the log extends what it was at the beginning of the bundle."""
    content = canonical(
        {
            "origin": span.origin,
            "old_size": span.since,
            "old_root": old_root.hex(),
            "new_size": span.size,
            "new_root": span.root.hex(),
            "proof": [one.hex() for one in proof],
        }
    )
    return _file(proof_name(span), content + b"\n")


def proof_name(span: Span) -> str:
    """Where the consistency proof lies."""
    return f"proofs/consistency-{span.since}-{span.size}.json"


def check_proof(blob: bytes, span: Span, earlier: Checkpoint) -> None:
    """Check the bundle's consistency proof against a checkpoint that is known otherwise.

    Args:
        blob: The file.
        span: Which part of which log the bundle carries.
        earlier: The log's state at the beginning of the bundle, as the caller knows it.

    Raises:
        RecordError: It does not hold.
    """
    try:
        fields = parse_object(blob, what="consistency proof", max_bytes=MAX_PROOF_BYTES)
        told = (fields.text("origin"), fields.integer("old_size"), fields.integer("new_size"))
        roots = (fields.hex_bytes("old_root", length=32), fields.hex_bytes("new_root", length=32))
        hashes = [Fields({"hash": one}, "proof") for one in fields.texts("proof", max_length=64)]
        proof = [one.hex_bytes("hash", length=32) for one in hashes]
        fields.end()
    except FormatError as exc:
        raise RecordError(f"the consistency proof is malformed: {exc}", next_step=_AGAIN) from exc
    if told != (earlier.origin, earlier.size, span.size) or roots != (earlier.root, span.root):
        raise RecordError("the consistency proof is of other checkpoints", next_step=_AGAIN)
    verify_consistency(
        old_size=earlier.size, old_root=earlier.root, new_size=span.size, new_root=span.root, proof=proof
    )


# ---- reading --------------------------------------------------------------------------------------------------------


def is_bundle(path: Path) -> bool:
    """Whether a path looks like a bundle, not like a folder of records; nothing is believed yet.

    Raises:
        FileAccessError: It cannot be read.
    """
    if path.is_dir():
        return False
    with _opened(path) as stream:
        return stream.read(3) == _GZIP_HEADER[:3]


def unpack_bundle(
    path: Path,
    into: Path,
    *,
    device_keys: Sequence[VerifyingKey] = (),
    pinned_only: bool = False,
    max_bytes: int = MAX_BYTES,
    before_writing: Callable[[int], None] = lambda _: None,
) -> Manifest:
    """Unpack a bundle into a folder, and check it against its manifest.

    Args:
        path: The bundle.
        into: An empty folder of the caller's own. After an error it holds a part of the bundle.
        device_keys: The keys of devices that the caller pinned.
        pinned_only: Whether to refuse a bundle of any other device, before a byte of it is written.
        max_bytes: Most bytes to unpack.
        before_writing: Told how many bytes it unpacks to, once it was read and before one is written; may refuse.

    Returns:
        What the bundle says of itself; `signer` tells whether a pinned key vouches for it.

    Raises:
        RecordError: It is no bundle, is damaged, or holds something else than its manifest says.
        BadSignatureError: The pinned key of that log did not sign the manifest.
        UntrustedKeyError: Only pinned devices are wanted, and this is of another one.
        FileAccessError: It cannot be read, or the folder cannot be written.
    """
    with _opened(path) as packed:
        # Read once without writing a byte: what is not whole, or not the pinned device's, costs no disk.
        kept: list[bytes] = []
        stream = _Inflated(packed, path.name, max_bytes)
        digests = _read_members(stream, _only(MANIFEST_NAME, kept))
        try:
            stream.require_end()
        except RecordError as exc:
            raise RecordError(f"{exc}{_changed(digests, kept)}", next_step=exc.next_step) from exc
        if not kept:
            raise RecordError(f"{path.name} holds no manifest", next_step=_AGAIN)
        manifest = open_manifest(b"".join(kept), device_keys)
        if pinned_only and manifest.signer is None:
            raise UntrustedKeyError(
                f"{path.name} is of the log {manifest.span.origin}, of which no device is known here",
                next_step="Enrol the device first, or take the bundle to the vendor that its log is named after.",
            )
        del digests[MANIFEST_NAME]
        _compare(path.name, digests, manifest.files)
        for name in digests:
            _require_name(name, manifest.span.instance)
        stream.require_own_packing()
        before_writing(stream.given)
        packed.seek(0)
        stream = _Inflated(packed, path.name, max_bytes)
        written = _read_members(stream, lambda name: into / name)
        stream.require_end()
    del written[MANIFEST_NAME]
    _compare(path.name, written, manifest.files)
    return manifest


def _only(wanted: str, kept: list[bytes]) -> "Callable[[str], list[bytes] | Path | None]":
    return lambda name: kept if name == wanted else None


def _read_members(stream: "_Inflated", keep: Callable[[str], "list[bytes] | Path | None"]) -> dict[str, str]:
    """All members in order, and their SHA-256; each kept in a list or a file, or nowhere."""
    digests: dict[str, str] = {}
    last = ""
    while (member := _member(stream)) is not None:
        name, size = member
        if name <= last or len(digests) == MAX_MEMBERS:
            stream.refuse("its members are too many, or not in the order of their names")
        last = stream.at = name
        place = keep(name)
        if isinstance(place, Path):
            digests[name] = _unpack_member(stream, place, size)
        else:
            digests[name] = _digest_member(stream, size, place)
    stream.at = ""
    return digests


def _changed(found: Mapping[str, str], manifest: Sequence[bytes]) -> str:
    """Which files of a damaged bundle its manifest tells otherwise of, to end a message with. Nothing is verified."""
    try:
        told = open_manifest(b"".join(manifest), ()).files
    except RecordError:
        return ""
    names = sorted(name for name in told if found.get(name) != told[name])
    return f"; changed: {', '.join(names[:3])}{' and more' if names[3:] else ''}" if names else ""


def open_manifest(blob: bytes, device_keys: Sequence[VerifyingKey]) -> Manifest:
    """Read a bundle's manifest, and verify it with the pinned key of its log.

    Raises:
        RecordError: It is malformed.
        BadSignatureError: The pinned key of that log did not sign it.
        UntrustedKeyError: It is signed under another key's id.
    """
    try:
        if not blob.endswith(b"}") or not blob.startswith(b"{"):
            raise FormatError("it is wrapped, or something follows it")
        claimed = envelope.unverified_payload(blob, envelope.USAGE_BUNDLE_TYPE, max_bytes=MAX_MANIFEST_BYTES)
        manifest = _manifest_from(claimed.payload)
    except FormatError as exc:
        raise RecordError(f"the bundle's manifest is malformed: {exc}", next_step=_AGAIN) from exc
    device_id = manifest.span.origin.rpartition("/")[2]
    key = next((key for key in device_keys if device_id_of(key.raw) == device_id), None)
    if key is None:
        return manifest
    envelope.open_envelope(blob, envelope.USAGE_BUNDLE_TYPE, {key.key_id: key}, max_bytes=MAX_MANIFEST_BYTES)
    return Manifest(span=manifest.span, files=manifest.files, signer=key)


def _manifest_from(payload: bytes) -> Manifest:
    fields = parse_object(payload, what="manifest", max_bytes=MAX_MANIFEST_BYTES)
    if (fields.text("_type"), fields.text("predicateType")) != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise FormatError("the statement is of another type")
    files: dict[str, str] = {}
    last = ""
    for subject in fields.nested_list("subject", max_items=MAX_MEMBERS):
        name, digest = subject.text("name", pattern=_MEMBER), subject.nested("digest")
        files[name] = digest.hex_bytes("sha256", length=32).hex()
        digest.end()
        subject.end()
        if name <= last or name == MANIFEST_NAME:
            raise FormatError("the subjects are not in the order of their names")
        last = name
    told = fields.nested("predicate")
    span = Span(
        origin=told.text("origin"),
        instance=told.text("instance", pattern=_INSTANCE),
        since=told.integer("since"),
        size=told.integer("size", minimum=1),
        root=told.hex_bytes("root", length=32),
        until_ms=told.integer("until_ms", maximum=_MAX_MS - 1),
    )
    told.end()
    fields.end()
    return Manifest(span=span, files=files)


def _statement(span: Span, digests: Mapping[str, str]) -> bytes:
    return canonical(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": name, "digest": {"sha256": digests[name]}} for name in sorted(digests)],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "origin": span.origin,
                "instance": span.instance,
                "since": span.since,
                "size": span.size,
                "root": span.root.hex(),
                "until_ms": span.until_ms,
            },
        }
    )


def _compare(bundle: str, found: Mapping[str, str], told: Mapping[str, str]) -> None:
    for name in sorted(found.keys() ^ told.keys()):
        where = "is not in its manifest" if name in found else "is in its manifest and not there"
        raise RecordError(f"{bundle}: {name} {where}", next_step=_AGAIN)
    for name, digest in found.items():
        if digest != told[name]:
            raise RecordError(f"{bundle}: {name} is not the file that the manifest tells of", next_step=_AGAIN)


def _require_name(name: str, instance: str) -> None:
    found = _MEMBER.fullmatch(name)
    if found is None or found["instance"] not in (None, instance):
        raise RecordError(f"{ascii(name)[:120]} has no place in a bundle of {instance}", next_step=_AGAIN)


# ---- the archive ----------------------------------------------------------------------------------------------------


class _Inflated:
    """The archive inside a bundle, read once and within bounds.

    Attributes:
        at: The member that is being read, for messages; empty outside of members.
    """

    def __init__(self, packed: BinaryIO, name: str, max_bytes: int) -> None:
        self.at = ""
        self._packed = packed
        self._name = name
        self._max_bytes = max_bytes
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._crc = 0
        self._taken = 0
        self._given = 0
        self._ready = b""
        self._header = packed.read(len(_GZIP_HEADER))
        if self._header != _GZIP_HEADER:
            self._pass_foreign_header()

    @property
    def given(self) -> int:
        """Bytes unpacked so far."""
        return self._given

    def require_own_packing(self) -> None:
        """Refuse what another tool packed. Such a one is read that far only so that a changed file in it is named."""
        if self._header != _GZIP_HEADER:
            self.refuse("it was packed anew by another tool; the files in it are those that the manifest tells of")

    def refuse(self, why: str) -> NoReturn:
        """Refuse the bundle."""
        raise RecordError(f"{self._name}: {why}{self.at and f' (at {self.at})'}", next_step=_AGAIN)

    def _pass_foreign_header(self) -> None:
        """Go on behind the header that another tool wrote (RFC 1952, 2.3); refuse what is no gzip file."""
        begin = self._header + self._packed.read(_FOREIGN_BYTES)
        if not begin:
            raise RecordError(
                f"{self._name} is empty: nothing of a bundle arrived",
                next_step="Send the file that 'sidecar usage export' wrote; look at its size where it comes from.",
            )
        if not begin.startswith(_GZIP_HEADER[:3]):
            kind = envelope.kind_of(begin)
            raise RecordError(
                f"{self._name} is {kind}, and no bundle" if kind else f"{self._name} is no bundle, which gzip packed",
                next_step="Give the file that 'sidecar usage export' wrote: usage-….tar.gz, as it is.",
            )
        flags = begin[3] if len(begin) > 3 else 0
        at = len(_GZIP_HEADER)
        if flags & 4:
            at += 2 + int.from_bytes(begin[at : at + 2], "little")
        for flag in (8, 16):
            if flags & flag:
                at = begin.find(b"\0", at) + 1 or len(begin)
        if flags & 2:
            at += 2
        self._packed.seek(at)

    def read(self, count: int) -> bytes:
        """Exactly so many bytes, at most a piece."""
        while len(self._ready) < count:
            self._ready += self._more()
        given, self._ready = self._ready[:count], self._ready[count:]
        return given

    def pieces(self, count: int) -> Iterator[bytes]:
        """Exactly so many bytes, in pieces."""
        while count:
            piece = self.read(min(count, _PIECE))
            count -= len(piece)
            yield piece

    def require_end(self) -> None:
        """Refuse whatever follows, inside the archive and behind it."""
        while not self._inflate.eof:
            if self._more():
                self.refuse("something follows its last member")
        wanted = self._crc.to_bytes(4, "little") + (self._given & 0xFFFFFFFF).to_bytes(4, "little")
        if self._ready or self._inflate.unused_data + self._packed.read(_BLOCK) != wanted:
            self.refuse("its checksum is wrong, or something follows its end")

    def _more(self) -> bytes:
        if self._inflate.eof:
            self.refuse("it is cut off")
        fed = self._inflate.unconsumed_tail
        if not fed:
            fed = self._packed.read(64 * 1024)
            self._taken += len(fed)
            if not fed:
                self.refuse("it is cut off")
        try:
            piece = self._inflate.decompress(fed, _PIECE)
        except zlib.error:
            self.refuse("it is damaged")
        self._crc = zlib.crc32(piece, self._crc)
        self._given += len(piece)
        if self._given > min(self._max_bytes, MAX_RATIO * self._taken + _SLACK_BYTES):
            self.refuse("it unpacks to more than a bundle of records can")
        return piece


def _member(stream: _Inflated) -> tuple[str, int] | None:
    """Name and size of the next member; None at the end."""
    header = stream.read(_BLOCK)
    if not any(header):
        if any(stream.read(_BLOCK)):
            stream.refuse("its end is malformed")
        return None
    try:
        name, size = header[:100].rstrip(b"\0").decode("ascii"), int(header[124:135], 8)
    except ValueError:
        stream.refuse("a member's header is malformed")
    if _MEMBER.fullmatch(name) is None:
        stream.refuse(f"the member {ascii(name)[:120]} has no place in a bundle")
    if _header(name, size) != header:
        stream.refuse(
            f"the member {name} has no place in a bundle: another tool packed it, with other mode, time or kind"
        )
    if name == MANIFEST_NAME and size > MAX_MANIFEST_BYTES:
        stream.refuse("its manifest is too long")
    return name, size


def _digest_member(stream: _Inflated, size: int, kept: list[bytes] | None) -> str:
    digest = hashlib.sha256()
    for piece in stream.pieces(size):
        digest.update(piece)
        if kept is not None:
            kept.append(piece)
    _require_padding(stream, size, "a member")
    return digest.hexdigest()


def _require_padding(stream: _Inflated, size: int, name: str) -> None:
    if any(stream.read(-size % _BLOCK)):
        stream.refuse(f"there is something between {name} and the next member")


def _unpack_member(stream: _Inflated, path: Path, size: int) -> str:
    digest = hashlib.sha256()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            for piece in stream.pieces(size):
                digest.update(piece)
                file.write(piece)
    except OSError as exc:
        raise FileAccessError.from_os_error(exc, path, doing="unpack the bundle", mode="u+rwx") from exc
    _require_padding(stream, size, path.name)
    return digest.hexdigest()


def _header(name: str, size: int) -> bytes:
    """The tar header (POSIX ustar) of a member: a plain file, readable by all, of nobody and no time."""
    encoded = name.encode("ascii")
    if len(encoded) > 100 or not 0 <= size <= _MAX_MEMBER_BYTES:
        raise RecordError(f"{ascii(name)[:120]} is too long for a bundle")
    fields = (
        encoded.ljust(100, b"\0"),
        b"0000444\0",
        b"0000000\0",
        b"0000000\0",
        b"%011o\0" % size,
        b"00000000000\0",
        b" " * 8,
        b"0",
        bytes(100),
        b"ustar\00000",
        bytes(247),
    )
    header = b"".join(fields)
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _opened(path: Path) -> BinaryIO:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return open(descriptor, "rb")
        os.close(descriptor)
    except OSError as exc:
        raise FileAccessError.from_os_error(exc, path, doing="read the bundle", mode="0644") from exc
    raise FileAccessError(f"{path} is not a regular file", path=path, next_step="Give the path of a bundle.")


def _file(name: str, content: bytes) -> BundleFile:
    return BundleFile(name=name, chunks=lambda: (content,))


def _readme(span: Span) -> bytes:
    return f"""\
Usage records of one Tollgate appliance, for its vendor and for auditors.

Log        {span.origin}
Instance   {span.instance}
Entries    {span.since} to {span.size - 1}; the log has {span.size} up to here
Until      {day_text(span.until)} (effective time)
Root       {span.root.hex()}

What is inside
  {span.folder}/usage/          record files: one entry per line, JSON
  {span.folder}/checkpoint      the newest checkpoint, signed by the device
  {span.folder}/checkpoints/    the same, and the one that these records follow
  {span.folder}/acks/           the vendor's acknowledgement of what came before
  proofs/                       that this log extends what came before
  totals.json                   what these records sum up to
  manifest.dsse.json            SHA-256 of every file, signed by the device

No document, no text of a document, no file name and no client address is in here.

To check it, with the vendor's trust root and the device's public key, neither of them taken from here:

  usage-verify {span.file_name} --trust-root trust-root.json --device-key device.pub

To see with common tools that each file is the one that the device signed for:

  jq -r .payload manifest.dsse.json | base64 -d | jq -r '.subject[] | .digest.sha256 + "  " + .name' | sha256sum -c
""".encode()
