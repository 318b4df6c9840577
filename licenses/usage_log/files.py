"""Record files: one metering window each, as lines of JSON that an auditor can read with common tools.

    {"record":"header", ...}        whose file this is, its window, the SHA-256 of the file before
    {"kind":"use", ...}             the entries [first_seq, size), each line a leaf of the Merkle tree
    {"kind":"window", ...}          the last entry closes the window
    {"record":"trailer", ...}       counts, sums, and the Merkle root over the entries [0, size)

Invariants:

* A record file is written once and appears whole; its bytes depend on the ledger alone, so writing it again after a
  crash writes the same.
* Header and trailer are not leaves. Nothing in them is believed that the entries between them do not bear out.
* Reading is line by line and bounded; a file without its trailer or its last line end is cut off, not short.
"""

import errno
import hashlib
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from licenses import durable
from licenses.errors import FormatError, RecordError
from licenses.model import PRODUCT
from licenses.strict_json import MAX_INTEGER, Fields, JsonValue, canonical
from licenses.usage_log.entry import KINDS, MAX_LINE_BYTES, parse_line, read_use

SCHEMA = 1
FILE_MODE = 0o440
FOLDER = "usage"
CHECKPOINT_NAME = "checkpoint"
CHECKPOINTS_FOLDER = "checkpoints"

_FILE_NAME = re.compile(r"(0|[1-9][0-9]{0,15})-([1-9][0-9]{0,15})\.jsonl")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TEMPORARY_NAME = ".incoming"
_NUMBER = "(0|[1-9][0-9]{0,14})"
_MOMENT = (
    rf'\{{"boot_id":"([ !#-\[\]-~]{{1,64}})","boottime_ms":{_NUMBER},"effective_ms":{_NUMBER},"wall_ms":{_NUMBER}\}}'
)
_PLAIN_HEADER = re.compile(
    rf'\{{"closed":{_MOMENT},"evaluation":(true|false),"first_seq":{_NUMBER},'
    r'"frontier":\[((?:"[0-9a-f]{64}",)*(?:"[0-9a-f]{64}")?)\],'
    rf'"instance":"([ !#-\[\]-~]{{1,64}})","license_id":"([ !#-\[\]-~]{{0,256}})","license_sequence":{_NUMBER},'
    rf'"opened":{_MOMENT},"origin":"([ !#-\[\]-~]{{1,256}})","previous_file_sha256":"((?:[0-9a-f]{{64}})?)",'
    rf'"product":"{PRODUCT}","product_version":"([ !#-\[\]-~]{{1,64}})","reason":"([ !#-\[\]-~]{{1,64}})",'
    rf'"record":"header","schema":{SCHEMA}\}}'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One instant on all clocks.

    Attributes:
        wall_ms: The host's wall clock, milliseconds since 1970 UTC.
        effective_ms: The effective time, which never runs backwards, milliseconds since 1970 UTC.
        boottime_ms: CLOCK_BOOTTIME in milliseconds.
        boot_id: The boot of the host.
    """

    wall_ms: int
    effective_ms: int
    boottime_ms: int
    boot_id: str

    @classmethod
    def from_value(cls, value: JsonValue, what: str) -> Self:
        """Read a moment as it is usually written fast, and any other one as `from_fields` does.

        Raises:
            FormatError: It is no moment.
        """
        if isinstance(value, dict) and len(value) == 4:
            boot_id, *numbers = map(value.get, ("boot_id", "wall_ms", "effective_ms", "boottime_ms"))
            wall_ms, effective_ms, boottime_ms = numbers
            if (
                type(boot_id) is str
                and 1 <= len(boot_id) <= 64
                and boot_id.isprintable()
                and type(wall_ms) is type(effective_ms) is type(boottime_ms) is int
                and min(wall_ms, effective_ms, boottime_ms) >= 0
                and max(wall_ms, effective_ms, boottime_ms) <= MAX_INTEGER
            ):
                return cls(wall_ms=wall_ms, effective_ms=effective_ms, boottime_ms=boottime_ms, boot_id=boot_id)
        return cls.from_fields(Fields({"moment": value}, what).nested("moment"))

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read the members of a moment."""
        moment = cls(
            wall_ms=fields.integer("wall_ms"),
            effective_ms=fields.integer("effective_ms"),
            boottime_ms=fields.integer("boottime_ms"),
            boot_id=fields.text("boot_id", max_length=64),
        )
        fields.end()
        return moment


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordHeader:
    """The first line of a record file.

    Attributes:
        instance: Whose file; a folder's name.
        origin: Whose log, "<vendor domain>/<device id>".
        product_version: The version that made the file.
        license_id: The licence in force when the window closed; empty for none.
        license_sequence: Its sequence; 0 for none.
        evaluation: Whether that licence was for evaluation.
        reason: Why the window closed.
        opened: Start of the window (inclusive).
        closed: End of the window (exclusive).
        first_seq: The first entry.
        previous_file_sha256: Of the file before, in hexadecimal; empty in the first.
        frontier: Merkle frontier of the entries [0, first_seq), the largest subtree first; with it the file is
            proven though earlier ones are gone. None in files of versions that did not write it.
    """

    instance: str
    origin: str
    product_version: str
    license_id: str
    license_sequence: int
    evaluation: bool
    reason: str
    opened: Moment
    closed: Moment
    first_seq: int
    previous_file_sha256: str
    frontier: tuple[bytes, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordTrailer:
    """The last line of a record file.

    Attributes:
        counts: Entries of this file per kind.
        meters: Sums of this file per meter.
        size: Number of entries in the log up to here.
        root: Merkle root over all of them, 32 bytes.
    """

    counts: Mapping[str, int]
    meters: Mapping[str, int]
    size: int
    root: bytes


@dataclass(slots=True)
class Tally:
    """Counts and sums over entries."""

    counts: Counter[str] = field(default_factory=Counter)
    meters: Counter[str] = field(default_factory=Counter)

    def add(self, entry: Mapping[str, object]) -> None:
        """Count one entry that `parse_entry` accepted, or that the ledger wrote."""
        self.counts[str(entry["kind"])] += 1
        if entry["kind"] == "use":
            meter = entry["meter"]
            if isinstance(meter, dict):
                self.meters[meter["name"]] += meter["quantity"]

    def add_line(self, line: bytes) -> None:
        """Count one line that the ledger wrote."""
        use = read_use(line)
        if use is None:
            self.add(json.loads(line))
        else:
            self.counts["use"] += 1
            self.meters[use.meter.decode("ascii")] += use.quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFile:
    """One record file, whole in memory; for large ones use `RecordReader`.

    Attributes:
        path: Where it lies.
        header: Its first line.
        lines: The entries' lines, without line ends.
        trailer: Its last line.
        sha256: Of all its bytes, in hexadecimal.
    """

    path: Path
    header: RecordHeader
    lines: tuple[bytes, ...]
    trailer: RecordTrailer
    sha256: str


# ---- writing --------------------------------------------------------------------------------------------------------


def record_name(first_seq: int, next_seq: int, at: datetime) -> str:
    """The path of a record file below `usage/`: "YYYY/MM/<first_seq>-<next_seq>.jsonl", by the month of `at`."""
    if not 0 <= first_seq < next_seq:
        raise RecordError(f"a record file cannot hold the entries [{first_seq}, {next_seq})")
    return f"{at.year:04d}/{at.month:02d}/{first_seq}-{next_seq}.jsonl"


def sequence_range(name: str) -> tuple[int, int] | None:
    """First and next sequence number in a record file's name; None for any other name."""
    found = _FILE_NAME.fullmatch(name)
    if found is None:
        return None
    first, following = int(found[1]), int(found[2])
    return (first, following) if first < following else None


def header_line(members: Mapping[str, object]) -> bytes:
    """The first line, without line end.

    Args:
        members: Those of `RecordHeader`; `opened` and `closed` as mappings with the members of `Moment`, `frontier`
            as hashes, in bytes or hexadecimal; it may be None or left out.

    Raises:
        RecordError: One is missing, unknown or of the wrong kind.
    """
    marks: dict[str, object] = {"record": "header", "schema": SCHEMA, "product": PRODUCT}
    hashes = members.get("frontier")
    if hashes is not None:
        if not isinstance(hashes, (list, tuple)):
            raise RecordError("a header's frontier must be a list of hashes")
        marks["frontier"] = [one.hex() if isinstance(one, bytes) else one for one in hashes]
    try:
        line = canonical({**{name: value for name, value in members.items() if name != "frontier"}, **marks})
        _header_from(line)
    except FormatError as exc:
        raise RecordError(f"a record file cannot begin so: {exc}") from exc
    return line


def trailer_line(lines: Iterable[bytes], *, size: int, root: bytes) -> bytes:
    """The last line, without line end.

    Args:
        lines: The entries of this file, as the ledger wrote them.
        size: Number of entries in the log up to here.
        root: Merkle root over all of them.
    """
    tally = Tally()
    for line in lines:
        tally.add(json.loads(line))
    return tally_trailer_line(tally, size=size, root=root)


def tally_trailer_line(tally: Tally, *, size: int, root: bytes) -> bytes:
    """The last line, for callers that count while they write."""
    return canonical(
        {
            "record": "trailer",
            "schema": SCHEMA,
            "counts": dict(tally.counts),
            "meters": meter_list(tally.meters),
            "size": size,
            "root": root.hex(),
        }
    )


def meter_list(meters: Mapping[str, int]) -> list[dict[str, object]]:
    """Sums as they are written: sorted by name, without those that are zero."""
    return [{"name": name, "quantity": quantity} for name, quantity in sorted(meters.items()) if quantity]


def render(header: bytes, lines: Iterable[bytes], trailer: bytes) -> Iterator[bytes]:
    """The bytes of a record file, in pieces."""
    yield header + b"\n"
    for line in lines:
        yield line + b"\n"
    yield trailer + b"\n"


def write_once(path: Path, chunks: Iterable[bytes], *, mode: int = FILE_MODE) -> str:
    """Write a record file: it appears whole and durable, or not at all, and never replaces another.

    Writing the same bytes again, as after a crash, changes nothing. One writer per folder.

    Returns:
        SHA-256 of the bytes, in hexadecimal.

    Raises:
        FileExistsError: There is a file of that name with other bytes.
        OSError: The operating system refused.
    """
    pieces = iter(chunks)
    if path.exists():
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
        if _file_sha256(path) != digest.hexdigest():
            raise FileExistsError(errno.EEXIST, "a record file of that name holds other bytes", str(path))
        durable.sync_folder(path.parent)
        return digest.hexdigest()
    return durable.write_file(path, pieces, mode=mode, overwrite=False, temporary_name=_TEMPORARY_NAME)


def write_replacing(path: Path, content: bytes, *, mode: int = FILE_MODE) -> str:
    """Write a small file durably, in place of the one that may be there; readers see the old or the new.

    Returns:
        SHA-256 of the content, in hexadecimal.

    Raises:
        OSError: The operating system refused.
    """
    return durable.write_file(path, [content], mode=mode, overwrite=True)


# ---- reading --------------------------------------------------------------------------------------------------------


class RecordReader:
    """One record file, line by line; a context manager and an iterator over the entries' lines.

    `header` is there at once, `trailer` and `sha256` when the iteration has come to its end.

    Raises:
        RecordError: The file is not shaped as a record file; while opening or while iterating.
        OSError: The operating system refused.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trailer: RecordTrailer | None = None
        self.sha256 = ""
        self._digest = hashlib.sha256()
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        self._stream = open(descriptor, "rb", buffering=64 * 1024)  # noqa: SIM115  closed by __exit__
        try:
            _require_regular(descriptor, path.name)
            self.header = _header_from(self._line())
        except FormatError as exc:
            self._stream.close()
            raise RecordError(f"{path.name} does not begin with a header: {exc}") from exc
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def __iter__(self) -> Iterator[bytes]:
        readline, update = self._stream.readline, self._digest.update
        line = self._line()
        while following := readline(MAX_LINE_BYTES + 2):
            update(following)
            yield line
            line = following[:-1]
            if following[-1] != 0x0A:
                raise RecordError(f"{self.path.name} is cut off, or holds a line that is too long")
        try:
            self.trailer = _trailer_from(line)
        except FormatError as exc:
            raise RecordError(f"{self.path.name} is cut off: its last line is no trailer ({exc})") from exc
        self.sha256 = self._digest.hexdigest()

    def _line(self) -> bytes:
        line = self._stream.readline(MAX_LINE_BYTES + 2)
        if not line.endswith(b"\n"):
            raise RecordError(f"{self.path.name} is cut off, or holds a line that is too long")
        self._digest.update(line)
        return line[:-1]


def parse_record_file(path: Path) -> RecordFile:
    """Read a whole record file into memory. Its entries are not parsed and nothing is verified.

    Raises:
        RecordError: It is not shaped as a record file.
        OSError: The operating system refused.
    """
    with RecordReader(path) as reader:
        lines = tuple(reader)
    trailer = reader.trailer
    if trailer is None:
        raise RecordError(f"{path.name} has no trailer")
    return RecordFile(path=path, header=reader.header, lines=lines, trailer=trailer, sha256=reader.sha256)


def _header_from(line: bytes) -> RecordHeader:
    return _plain_header(line) or _any_header(line)


def _plain_header(line: bytes) -> RecordHeader | None:
    """Read a header as it is usually written, several times faster than `_any_header`.

    Returns:
        None for every other line: ask `_any_header` then. Whatever this accepts, that accepts with the same meaning.
    """
    found = _PLAIN_HEADER.fullmatch(line.decode("latin-1"))
    if found is None or len(line) > MAX_LINE_BYTES:
        return None
    told = found.groups()
    first_seq, hashes = int(told[5]), tuple(bytes.fromhex(one) for one in _SHA256.findall(told[6]))
    if len(hashes) != first_seq.bit_count() or told[6].endswith(","):
        return None
    return RecordHeader(
        instance=told[7],
        origin=told[14],
        product_version=told[16],
        license_id=told[8],
        license_sequence=int(told[9]),
        evaluation=told[4] == "true",
        reason=told[17],
        opened=_plain_moment(told[10:14]),
        closed=_plain_moment(told[0:4]),
        first_seq=first_seq,
        previous_file_sha256=told[15],
        frontier=hashes,
    )


def _plain_moment(told: Sequence[str]) -> Moment:
    boot_id, boottime_ms, effective_ms, wall_ms = told
    return Moment(wall_ms=int(wall_ms), effective_ms=int(effective_ms), boottime_ms=int(boottime_ms), boot_id=boot_id)


def _any_header(line: bytes) -> RecordHeader:
    members = _members_of(line, "header")
    tells_frontier, hashes = "frontier" in members, members.pop("frontier", None)
    fields = _marked(members, "header")
    if fields.text("product") != PRODUCT:
        raise FormatError("the header is of another product")
    first_seq = fields.integer("first_seq")
    header = RecordHeader(
        instance=fields.text("instance", max_length=64),
        origin=fields.text("origin"),
        product_version=fields.text("product_version", max_length=64),
        license_id=_text_or_empty(fields, "license_id"),
        license_sequence=fields.integer("license_sequence"),
        evaluation=fields.flag("evaluation"),
        reason=fields.text("reason", max_length=64),
        opened=Moment.from_fields(fields.nested("opened")),
        closed=Moment.from_fields(fields.nested("closed")),
        first_seq=first_seq,
        previous_file_sha256=_text_or_empty(fields, "previous_file_sha256", _SHA256),
        frontier=_frontier_from(hashes, first_seq) if tells_frontier else None,
    )
    fields.end()
    return header


def _frontier_from(hashes: JsonValue, size: int) -> tuple[bytes, ...]:
    if not isinstance(hashes, list) or len(hashes) != size.bit_count():
        raise FormatError(f"the header's frontier is not that of {size} entries")
    if not all(isinstance(one, str) and _SHA256.fullmatch(one) for one in hashes):
        raise FormatError("the header's frontier holds something else than hashes")
    return tuple(bytes.fromhex(one) for one in hashes if isinstance(one, str))


def _trailer_from(line: bytes) -> RecordTrailer:
    fields = _marked(_members_of(line, "trailer"), "trailer")
    counted = fields.nested("counts")
    counts = {kind: counted.integer(kind, minimum=1) for kind in sorted(KINDS) if counted.has(kind)}
    counted.end()
    trailer = RecordTrailer(
        counts=counts,
        meters=meters_from(fields.nested_list("meters", max_items=64)),
        size=fields.integer("size", minimum=1),
        root=fields.hex_bytes("root", length=32),
    )
    fields.end()
    return trailer


def meters_from(records: Iterable[Fields]) -> dict[str, int]:
    """Read what `meter_list` wrote.

    Raises:
        FormatError: It is something else.
    """
    meters: dict[str, int] = {}
    for record in records:
        name = record.text("name", max_length=128)
        if name in meters:
            raise FormatError(f"the meter {name} is summed twice")
        meters[name] = record.integer("quantity")
        record.end()
    return meters


def _require_regular(descriptor: int, name: str) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise RecordError(f"{name} is not a regular file")


def _members_of(line: bytes, mark: str) -> dict[str, JsonValue]:
    try:
        return parse_line(line)
    except RecordError as exc:
        raise FormatError(f"the {mark} is not spelled as the meter spells it: {exc}") from exc


def _marked(members: Mapping[str, JsonValue], mark: str) -> Fields:
    """The members of a header or trailer, but for those that say which of the two it is."""
    fields = Fields(members, mark)
    if fields.text("record") != mark:
        raise FormatError(f"this is not a {mark}")
    fields.integer("schema", minimum=SCHEMA, maximum=SCHEMA)
    return fields


def _text_or_empty(fields: Fields, name: str, pattern: re.Pattern[str] | None = None) -> str:
    return "" if fields.take_if_empty(name) else fields.text(name, pattern=pattern)


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1024 * 1024):
            digest.update(piece)
    return digest.hexdigest()
