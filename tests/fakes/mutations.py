"""What somebody without the device's key may do to sealed records, drawn from a seed.

specimen = Specimen(folder, Random(7), a_vendor())
mutation = MUTATIONS["edit use"](specimen, Random(8))     # None: not possible here, or it would change nothing
with specimen.mutated(mutation):
    report = specimen.verify(mutation.defence)

Invariants:

* A mutation is a set of changes to the files below the output mount; one that leaves every byte as it was is none.
* Whoever makes "rebuilt" ones computes anew all that bears no signature: numbers, sums, leaves, roots, trailers,
  frontiers, hashes of files and their names. Then he deals with the seals in one of several ways (`Seals`).
* Each mutation names the defence that must catch it: the pinned key alone, or what the auditor kept.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path, PurePosixPath
from random import Random
from typing import Any

from licenses.ack import acknowledge
from licenses.device_key import device_id_of, instance_id_of
from licenses.keys import SigningKey, public_pem
from licenses.usage_log.entry import leaf_hash
from licenses.usage_log.files import record_name
from licenses.usage_log.merkle import Frontier
from licenses.usage_log.note import sign_checkpoint
from licenses.usage_log.report import Report
from licenses.usage_log.verify import verify_records
from tests.fakes.histories import DAY_MS, History, guid, seeded_key
from tests.fakes.licences import NOW, FakeVendor

MAX_FILES = 3

Entry = dict[str, Any]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ENCODER = json.JSONEncoder(ensure_ascii=True, sort_keys=True, separators=(",", ":"))


class Defence(StrEnum):
    """What an auditor has in hand besides the folder and the pinned device key."""

    KEY = "pinned key alone"
    STRICT = "pinned key alone, with --strict"
    KEPT = "checkpoint kept from an earlier audit"
    ACK = "the vendor's acknowledgement"


RECALL = (Defence.KEPT, Defence.ACK)
"""What remembers a state of the log outside the folder."""


class Seals(StrEnum):
    """What the attacker does with the checkpoints after he has rebuilt the records."""

    LEAVE = "leaves them"
    EDIT = "edits their text under the old signature"
    RESIGN = "signs all anew with another key"
    REMOVE_LATER = "takes away those that his records contradict"
    REMOVE_ALL = "takes all away"


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link in place of a file."""

    target: str


Content = bytes | Link | None


@dataclass(frozen=True, slots=True)
class Mutation:
    """Changes to the files of a specimen.

    Attributes:
        changes: New content by path below the output mount; None takes the file away.
        defence: What must catch it.
        text: In words.
    """

    changes: Mapping[str, Content]
    defence: Defence
    text: str


@dataclass(slots=True)
class Window:
    """One record file, taken apart."""

    header: Entry
    entries: list[Entry]
    trailer: Entry

    @property
    def closing(self) -> Entry:
        """The window entry."""
        return self.entries[-1]


def encode(value: object) -> bytes:
    """JSON as the meter spells it."""
    return _ENCODER.encode(value).encode("ascii")


def take_apart(blob: bytes) -> Window:
    """A record file as values."""
    header, *entries, trailer = map(json.loads, blob.splitlines())
    return Window(header, entries, trailer)


@dataclass(slots=True)
class Rebuilt:
    """Records computed anew: the files by name below `usage/`, and the root at each size that a file ends with."""

    files: dict[str, bytes] = field(default_factory=dict)
    roots: dict[int, bytes] = field(default_factory=dict)


def rebuild(windows: Sequence[Window], *, renumbers: bool = True, resums: bool = True, retells: bool = True) -> Rebuilt:
    """Compute anew whatever bears no signature.

    Args:
        windows: In order; changed in place.
        renumbers: Whether `seq` and `first_seq` are set.
        resums: Whether sums and counts are.
        retells: Whether the header repeats what the window entry tells.
    """
    result, frontier, previous, size = Rebuilt(), Frontier(), "", 0
    for window in windows:
        header, closing, first = window.header, window.entries[-1] if window.entries else {}, size
        counts: Counter[str] = Counter(str(entry.get("kind")) for entry in window.entries)
        sums: Counter[str] = Counter()
        for entry in window.entries:
            if entry.get("kind") == "use":
                sums[entry["meter"]["name"]] += entry["meter"]["quantity"]
        meters = [{"name": name, "quantity": quantity} for name, quantity in sorted(sums.items()) if quantity]
        if renumbers:
            for seq, entry in enumerate(window.entries, first):
                entry["seq"] = seq
            header["first_seq"] = first
            if closing.get("kind") == "window":
                closing["first_seq"] = first
        if resums and closing.get("kind") == "window":
            closing["meters"] = meters
        if retells and closing.get("kind") == "window":
            header |= {name: closing[name] for name in header.keys() & closing.keys() & _TOLD}
        header["previous_file_sha256"] = previous
        if "frontier" in header:
            header["frontier"] = [one.hex() for one in frontier.hashes]
        lines = [encode(entry) for entry in window.entries]
        frontier.extend(map(leaf_hash, lines))
        size = frontier.size
        trailer = {**window.trailer, "size": size, "root": frontier.root().hex()}
        if resums:
            trailer |= {"counts": dict(counts), "meters": meters}
        blob = b"".join(line + b"\n" for line in (encode(header), *lines, encode(trailer)))
        previous = _sha256(blob)
        closed_ms = header["closed"]["effective_ms"]
        name = record_name(first, max(size, first + 1), _EPOCH + timedelta(milliseconds=min(closed_ms, _LATEST_MS)))
        result.files[name] = blob
        result.roots[size] = frontier.root()
    return result


_TOLD = frozenset(
    {"opened", "closed", "reason", "first_seq", "product_version", "license_id", "license_sequence", "evaluation"}
)
_LATEST_MS = 4_102_444_800_000


class Specimen:
    """Sealed records on disk, with all that an attacker may have besides.

    That is another history of the same device (as after a restored image), the records of another device, and a key of
    his own.

    Args:
        output: An empty folder; best on a file system in memory.
        rng: Decides everything.
        vendor: Acknowledges the records.
    """

    def __init__(self, output: Path, rng: Random, vendor: FakeVendor) -> None:
        self.output = output
        self.vendor = vendor
        windows = rng.randrange(2, 4)
        shared = rng.randrange(1, windows) if rng.random() < 0.8 else 0
        while True:
            seed = rng.getrandbits(64)
            self.history = _small_history(output, seed, windows)
            if len(self.history.files) <= MAX_FILES:
                break
            shutil.rmtree(output)
        self.folder = self.history.folder
        self.prefix = f"{self.folder.relative_to(output)}/"
        aside = output.with_name(f"{output.name}-aside")
        other = _small_history(aside / "other", rng.getrandbits(64), windows)
        _small_history(aside / "fork", seed, windows, shared=shared, then=rng.getrandbits(64))
        for path in output.rglob("*"):
            if path.is_file():
                path.chmod(0o600)
        self.pristine = _read_tree(output)
        self.other = {
            name.replace(other.instance, self.history.instance): blob
            for name, blob in _read_tree(aside / "other").items()
        }
        self.fork = _read_tree(aside / "fork")
        shutil.rmtree(aside)
        self.attacker = seeded_key(rng)
        self.kept = self.pristine[f"{self.prefix}checkpoint"].decode()
        self.ack = self.acknowledged(self.kept, self.history.book.sums())
        self.records = sorted(
            (name for name in self.pristine if name.endswith(".jsonl")), key=lambda name: _range_of(name)[0]
        )
        self.sizes = [_range_of(name)[1] for name in self.records]
        self._windows = [take_apart(self.pristine[name]) for name in self.records]
        self._roots = {size: window.trailer["root"] for size, window in zip(self.sizes, self._windows, strict=True)}

    def windows(self) -> list[Window]:
        """All record files, taken apart; yours to change."""
        return [take_apart(self.pristine[name]) for name in self.records]

    def acknowledged(self, note: str, totals: Mapping[str, int], vendor: FakeVendor | None = None) -> bytes:
        """A vendor's acknowledgement of a checkpoint of this device."""
        vendor = vendor or self.vendor
        ack_key = vendor.keys.ack_key
        ack = acknowledge(
            note,
            device=self.history.device.verifying,
            key=ack_key,
            trust_root=vendor.trust_root,
            at=NOW,
            totals={name: quantity for name, quantity in totals.items() if quantity},
        )
        return ack.seal(ack_key)

    def checkpoint(self, size: int) -> str:
        """Path of a window's checkpoint."""
        return f"{self.prefix}checkpoints/{size}"

    def verify(self, defence: Defence) -> Report:
        """The audit, with what the defence says."""
        return verify_records(
            self.output,
            self.vendor.trust_root,
            device_keys=[self.history.device.verifying],
            previous=self.kept if defence is Defence.KEPT else None,
            acks=[self.ack] if defence is Defence.ACK else [],
        )

    def mutation(self, changes: Mapping[str, Content], text: str, defence: Defence = Defence.KEY) -> Mutation | None:
        """What remains of the changes; None when nothing does."""
        real = {name: content for name, content in changes.items() if content != self.pristine.get(name)}
        if defence is Defence.KEY and self._takes_the_beginning(real):
            defence = Defence.STRICT
        return Mutation(real, defence, text) if real else None

    def _takes_the_beginning(self, changes: Mapping[str, Content]) -> bool:
        """Whether the oldest files go, and no other: what is left proves itself, and nothing covers what is gone."""
        gone = [name in changes and not isinstance(changes[name], bytes) for name in self.records]
        return gone[0] and gone == sorted(gone, reverse=True)

    @contextlib.contextmanager
    def mutated(self, mutation: Mutation) -> Iterator[None]:
        """The folder with the changes made; undone at the end."""
        touched = list(mutation.changes)
        try:
            for name in touched:  # first take away, so that a folder may become a file and a file a folder
                if mutation.changes[name] is None:
                    (self.output / name).unlink(missing_ok=True)
            for name in touched:
                self._put(name, mutation.changes[name])
            yield
        finally:
            self._undo(touched)

    def _put(self, name: str, content: Content) -> None:
        path = self.output / name
        match content:
            case bytes():
                try:
                    path.write_bytes(content)
                except FileNotFoundError:
                    path.parent.mkdir(parents=True)
                    path.write_bytes(content)
            case Link(target):
                path.unlink(missing_ok=True)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(target)
            case None:
                with contextlib.suppress(OSError):
                    path.parent.rmdir()  # an empty folder is as good as none

    def _undo(self, touched: Sequence[str]) -> None:
        for name in touched:
            path = self.output / name
            if name not in self.pristine or path.is_symlink():
                path.unlink(missing_ok=True)
        for name in touched:
            if name in self.pristine:
                self._put(name, self.pristine[name])
            else:
                self._remove_empty((self.output / name).parent)

    def _remove_empty(self, folder: Path) -> None:
        while folder != self.output:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent

    def is_undone(self) -> bool:
        """Whether the folder is again as it was; slow."""
        return _read_tree(self.output) == self.pristine

    # ---- what all rebuilt mutations share ---------------------------------------------------------------------------

    def rebuilt(
        self, rng: Random, windows: Sequence[Window], text: str, *, since: int, seals: Seals | None = None, **how: bool
    ) -> Mutation | None:
        """Rebuild the records, and deal with the seals in one of the ways.

        Args:
            rng: Draws the way.
            windows: What the records shall be.
            text: What was done, in words.
            since: The first entry that is not as it was sealed; -1 when every entry is.
            seals: The way, when it is not to be drawn.
            how: For `rebuild`.
        """
        result = rebuild(windows, **how)
        changes: dict[str, Content] = dict.fromkeys(self.records)
        changes |= {f"{self.prefix}usage/{name}": blob for name, blob in result.files.items()}
        if all(content == self.pristine.get(name) for name, content in changes.items()):
            return None
        way = seals or rng.choice(list(Seals))
        defence = Defence.KEY
        newest = f"{self.prefix}checkpoint"
        match way:
            case Seals.LEAVE:
                pass
            case Seals.EDIT | Seals.RESIGN:
                notes = {size: self._forged(rng, size, root, way) for size, root in result.roots.items()}
                changes |= {self.checkpoint(size): None for size in self.sizes}
                changes |= {self.checkpoint(size): note for size, note in notes.items()}
                changes[newest] = notes[max(notes)] if notes else None
            case Seals.REMOVE_LATER:
                good = [size for size in self.sizes if since < 0 or size <= since]
                changes |= {self.checkpoint(size): None for size in self.sizes if size not in good}
                changes[newest] = self.pristine[self.checkpoint(good[-1])] if good else None
                defence = rng.choice(RECALL) if good else Defence.KEY
            case Seals.REMOVE_ALL:
                changes |= {self.checkpoint(size): None for size in self.sizes}
                changes[newest] = None
        if all(self._roots.get(size) == root.hex() for size, root in result.roots.items()):
            defence = rng.choice(RECALL)  # what is left is as it was sealed: a cut tail
        return self.mutation(changes, f"{text}; rebuilt, and as to the seals he {way.value}", defence)

    def _forged(self, rng: Random, size: int, root: bytes, way: Seals) -> bytes:
        if way is Seals.RESIGN:
            return sign_checkpoint(self.history.origin, size, root, self.attacker).encode()
        genuine = self.pristine[self.checkpoint(rng.choice(self.sizes))].decode()
        _, _, signatures = genuine.partition("\n\n")
        text = f"{self.history.origin}\n{size}\n{base64.b64encode(root).decode()}\n"
        return f"{text}\n{signatures}".encode()


def _small_history(output: Path, seed: int, windows: int, *, shared: int | None = None, then: int = 0) -> History:
    """A short honest history; one that is `shared` for some windows goes on differently from there."""
    rng = Random(seed)
    history = History(output, rng, with_older_versions=False, calm=True)
    history.live(windows if shared is None else shared)
    if shared is not None:
        rng.seed(then)
        history.live(max(1, windows - shared))
    return history


def _read_tree(folder: Path) -> dict[str, bytes]:
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place) / name
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def _range_of(name: str) -> tuple[int, int]:
    first, _, following = PurePosixPath(name).stem.partition("-")
    return int(first), int(following)


def _sha256(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()


# ---- bytes ----------------------------------------------------------------------------------------------------------

Mutator = Callable[[Specimen, Random], Mutation | None]
MUTATIONS: dict[str, Mutator] = {}


def _mutator(function: Mutator) -> Mutator:
    MUTATIONS[function.__name__.strip("_").replace("_", " ")] = function
    return function


def _some_file(specimen: Specimen, rng: Random) -> tuple[str, bytes]:
    """Mostly a record file; now and then a checkpoint."""
    names = specimen.records if rng.random() < 0.75 else [name for name in specimen.pristine if "/checkpoint" in name]
    name = rng.choice(names)
    return name, specimen.pristine[name]


def _bytes_at(specimen: Specimen, rng: Random, pattern: re.Pattern[bytes]) -> tuple[str, bytes, int, int] | None:
    """A file, and where in it one of the matches lies."""
    name, blob = _some_file(specimen, rng)
    found = [match.span() for match in pattern.finditer(blob)]
    return (name, blob, *rng.choice(found)) if found else None


def _replaced(specimen: Specimen, name: str, blob: bytes, start: int, end: int, new: bytes) -> Mutation | None:  # noqa: PLR0917
    text = f"{name}: {blob[start:end][:40]!r} at {start} becomes {new[:40]!r}"
    return specimen.mutation({name: blob[:start] + new + blob[end:]}, text)


@_mutator
def _flip_bit(specimen: Specimen, rng: Random) -> Mutation | None:
    name, blob = _some_file(specimen, rng)
    at = rng.randrange(len(blob))
    return _replaced(specimen, name, blob, at, at + 1, bytes([blob[at] ^ 1 << rng.randrange(8)]))


@_mutator
def _set_byte(specimen: Specimen, rng: Random) -> Mutation | None:
    name, blob = _some_file(specimen, rng)
    at = rng.randrange(len(blob))
    return _replaced(specimen, name, blob, at, at + 1, rng.randbytes(1))


@_mutator
def _drop_bytes(specimen: Specimen, rng: Random) -> Mutation | None:
    name, blob = _some_file(specimen, rng)
    at = rng.randrange(len(blob))
    return _replaced(specimen, name, blob, at, at + rng.choice((1, 1, 2, 5, 100)), b"")


@_mutator
def _insert_bytes(specimen: Specimen, rng: Random) -> Mutation | None:
    name, blob = _some_file(specimen, rng)
    at = rng.randrange(len(blob) + 1)
    new = rng.choice(
        (rng.randbytes(1), blob[at : at + 7], b" ", b"\n", b"0", b"\x00", b"\xef\xbb\xbf", b"\xe2\x80\xa8")
    )
    return _replaced(specimen, name, blob, at, at, new)


@_mutator
def _swap_bytes(specimen: Specimen, rng: Random) -> Mutation | None:
    name, blob = _some_file(specimen, rng)
    at = rng.randrange(len(blob) - 1)
    return _replaced(specimen, name, blob, at, at + 2, blob[at : at + 2][::-1])


@_mutator
def _change_case(specimen: Specimen, rng: Random) -> Mutation | None:
    """Of a letter, a hexadecimal digit, `true`."""
    if found := _bytes_at(specimen, rng, re.compile(rb"[A-Za-z]+")):
        name, blob, start, end = found
        if rng.random() < 0.5:
            start = rng.randrange(start, end)
            end = start + 1
        return _replaced(specimen, name, blob, start, end, blob[start:end].swapcase())
    return None


@_mutator
def _spell_number(specimen: Specimen, rng: Random) -> Mutation | None:
    """The same number in another way, or its neighbour."""
    if found := _bytes_at(specimen, rng, re.compile(rb"-?[0-9]+")):
        name, blob, start, end = found
        old = blob[start:end]
        new = rng.choice(
            (
                b"0%b",
                b"-%b",
                b"+%b",
                b"%b.0",
                b"%be0",
                b"%bE-0",
                b"%b ",
                b" %b",
                b'"%b"',
                b"%b_0",
                b"0x%b",
                b"%b0",
                b"%b\t",
            )
        ).replace(b"%b", old)
        if rng.random() < 0.3:
            new = b"%d" % (int(old) + rng.choice((-1, 1, 1000, 2**53, 2**64)))
        return _replaced(specimen, name, blob, start, end, new)
    return None


@_mutator
def _add_space(specimen: Specimen, rng: Random) -> Mutation | None:
    """White space where JSON allows it, and at the ends of lines."""
    if found := _bytes_at(specimen, rng, re.compile(rb"[\[\]{}:,\n]")):
        name, blob, start, end = found
        at = rng.choice((start, end))
        return _replaced(
            specimen, name, blob, at, at, rng.choice((b" ", b"\t", b"\r", b"\n", b"  ", b"\x0b", b"\xc2\xa0"))
        )
    return None


@_mutator
def _escape_character(specimen: Specimen, rng: Random) -> Mutation | None:
    """The same text in another spelling."""
    if found := _bytes_at(specimen, rng, re.compile(rb"(?<=[A-Za-z\"])[A-Za-z](?=[A-Za-z\"])")):
        name, blob, start, end = found
        code = b"%04x" % blob[start]
        new = b"\\u" + rng.choice((code, code.upper()))
        return _replaced(specimen, name, blob, start, end, new)
    return None


@_mutator
def _add_member(specimen: Specimen, rng: Random) -> Mutation | None:
    """A member more, or one again."""
    if found := _bytes_at(specimen, rng, re.compile(rb'"[A-Za-z_]+":(?:[0-9]+|"[^"]*"),')):
        name, blob, start, end = found
        new = rng.choice((blob[start:end] * 2, b'"zz":0,' + blob[start:end], blob[start:end] + b'"aa":{},'))
        return _replaced(specimen, name, blob, start, end, new)
    return None


@_mutator
def _cut_inside(specimen: Specimen, rng: Random) -> Mutation | None:
    name, blob = _some_file(specimen, rng)
    at = rng.choice((0, rng.randrange(len(blob)), len(blob) - 1, blob.rfind(b"\n", 0, -1) + rng.randrange(2)))
    return _replaced(specimen, name, blob, at, len(blob), b"")


@_mutator
def _append_something(specimen: Specimen, rng: Random) -> Mutation | None:
    name, blob = _some_file(specimen, rng)
    last = blob[blob.rfind(b"\n", 0, -1) + 1 :]
    other = specimen.pristine[rng.choice(list(specimen.pristine))]
    new = rng.choice(
        (b"\n", b" ", b"\x00", b"\r\n", b"{}\n", rng.randbytes(rng.randrange(1, 99)), last, last[:-1], blob, other)
    )
    return _replaced(specimen, name, blob, len(blob), len(blob), new)


@_mutator
def _line_ends_and_marks(specimen: Specimen, rng: Random) -> Mutation | None:
    name, blob = _some_file(specimen, rng)
    match rng.randrange(6):
        case 0:
            new = blob.replace(b"\n", b"\r\n")
        case 1:
            new = blob.replace(b"\n", b"\r")
        case 2:
            new = b"\xef\xbb\xbf" + blob
        case 3:
            new = blob.decode().encode("utf-16")
        case 4:
            lines = blob.splitlines(keepends=True)
            at = rng.randrange(len(lines))
            lines[at] = lines[at][:-1] + rng.choice((b"\r\n", b" \n", b"\n\n", b"\x00\n"))
            new = b"".join(lines)
        case _:
            new = blob[:-1]
    return specimen.mutation({name: new}, f"{name}: other line ends or marks")


@_mutator
def _giant_line(specimen: Specimen, rng: Random) -> Mutation | None:
    name, blob = _some_file(specimen, rng)
    length = rng.choice((16 * 1024, 16 * 1024 + 1, 64 * 1024, 300_000))
    lines = blob.splitlines(keepends=True)
    at = rng.randrange(len(lines) + 1)
    giant = rng.choice((b"0" * length, b" " * length, b"[" * length, b'{"a":"' + b"a" * length + b'"}')) + b"\n"
    return specimen.mutation({name: b"".join([*lines[:at], giant, *lines[at:]])}, f"{name}: a giant line at {at}")


# ---- lines, as they are ---------------------------------------------------------------------------------------------


def _some_lines(specimen: Specimen, rng: Random) -> tuple[str, list[bytes]]:
    name = rng.choice(specimen.records)
    return name, specimen.pristine[name].splitlines(keepends=True)


@_mutator
def _drop_line(specimen: Specimen, rng: Random) -> Mutation | None:
    name, lines = _some_lines(specimen, rng)
    at = rng.randrange(len(lines))
    del lines[at : at + rng.choice((1, 1, 1, 2, 5))]
    return specimen.mutation({name: b"".join(lines)}, f"{name}: without line {at}")


@_mutator
def _insert_line(specimen: Specimen, rng: Random) -> Mutation | None:
    name, lines = _some_lines(specimen, rng)
    source = rng.choice((specimen.pristine, specimen.other, specimen.fork))
    donor = rng.choice([blob for one, blob in source.items() if one.endswith(".jsonl")]).splitlines(keepends=True)
    at = rng.randrange(len(lines) + 1)
    lines.insert(at, rng.choice(donor))
    return specimen.mutation({name: b"".join(lines)}, f"{name}: a line more at {at}")


@_mutator
def _swap_lines(specimen: Specimen, rng: Random) -> Mutation | None:
    name, lines = _some_lines(specimen, rng)
    other_name, other = (name, lines) if rng.random() < 0.7 else _some_lines(specimen, rng)
    other = lines if other_name == name else other
    one, two = rng.randrange(len(lines)), rng.randrange(len(other))
    lines[one], other[two] = other[two], lines[one]
    return specimen.mutation(
        {name: b"".join(lines), other_name: b"".join(other)},
        f"line {one} of {name} and {two} of {other_name} change places",
    )


@_mutator
def _edit_member(specimen: Specimen, rng: Random) -> Mutation | None:
    """One member of one line gets another value of its kind, spelled as the meter would; nothing else is repaired."""
    name, lines = _some_lines(specimen, rng)
    at = rng.randrange(len(lines))
    members = json.loads(lines[at])
    what = _edit_something(members, rng)
    lines[at] = encode(members) + b"\n"
    return specimen.mutation({name: b"".join(lines)}, f"{name}, line {at}: {what}")


def _edit_something(members: Entry, rng: Random) -> str:
    """Change one member, however deep; returns what."""
    path: list[str] = []
    holder: Any = members
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            if isinstance(holder, dict):
                holder["x"] = 1
            else:
                holder.append({})
            return f"{'.'.join(path)} grows"
        key = rng.choice(keys)
        path.append(str(key))
        if isinstance(holder[key], dict | list) and rng.random() < 0.9:
            holder = holder[key]
            continue
        match rng.randrange(8):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[f"{key}x"] = holder.pop(key)
            case 2:
                holder[key] = rng.choice((None, True, False, 0, "", [], {}, -1, 1.5, "x"))
            case _:
                holder[key] = _another(holder[key], rng)
        return (
            f"{'.'.join(path)} becomes {str(holder.get(key, 'gone') if isinstance(holder, dict) else holder[key])[:60]}"
        )


def _another(value: Any, rng: Random) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return max(0, value + rng.choice((-1, 1, 2, 60_000, DAY_MS, -DAY_MS, 10**12)))
        case str() if value:
            at = rng.randrange(len(value))
            return value[:at] + rng.choice("0123456789abcdefx.-") + value[at + 1 :]
        case str():
            return rng.choice(("x", guid(rng), "0" * 64))
        case list():
            return [*value, *value] if value and rng.random() < 0.5 else value[1:]
        case _:
            return 1


# ---- entries, with everything rebuilt -------------------------------------------------------------------------------


def _pick(windows: Sequence[Window], rng: Random, *kinds: str) -> tuple[Window, int, Entry] | None:
    """An entry of one of these kinds (of any but `window` when none is given): its window, place and members."""
    found = [
        (window, at, entry)
        for window in windows
        for at, entry in enumerate(window.entries)
        if (entry["kind"] in kinds if kinds else entry["kind"] != "window")
    ]
    return rng.choice(found) if found else None


@_mutator
def _edit_use(specimen: Specimen, rng: Random) -> Mutation | None:
    """Quantity, page, operation, meter: what money depends on."""
    windows = specimen.windows()
    if (picked := _pick(windows, rng, "use")) is None:
        return None
    _, _, use = picked
    match rng.randrange(6):
        case 0 | 1:
            use["meter"]["quantity"] = max(0, use["meter"]["quantity"] + rng.choice((-1, 1, 10, -1000)))
        case 2:
            use["page"] += rng.choice((1, 2, 100))
        case 3:
            use["id"] = guid(rng)
        case 4:
            use["meter"]["name"] = rng.choice(("Cheaper.Meter", "CognitiveServices.ComputerVision.Container.ReadPage"))
        case _:
            member = rng.choice(("apiType", "containerId", "containerType", "containerVersion", "requestTime"))
            use[member] = _another(use[member], rng)
    return specimen.rebuilt(rng, windows, f"use {use['seq']} edited", since=use["seq"])


@_mutator
def _edit_all_uses(specimen: Specimen, rng: Random) -> Mutation | None:
    """Every quantity of a window, or of the whole log, halved or gone."""
    windows = specimen.windows()
    chosen = windows if rng.random() < 0.4 else [rng.choice(windows)]
    factor = rng.choice((0, 2))
    touched = [entry for window in chosen for entry in window.entries if entry["kind"] == "use"]
    for use in touched:
        use["meter"]["quantity"] = use["meter"]["quantity"] * factor
    since = min((use["seq"] for use in touched), default=-1)
    return specimen.rebuilt(rng, windows, f"{len(touched)} quantities times {factor}", since=since)


@_mutator
def _edit_times(specimen: Specimen, rng: Random) -> Mutation | None:
    """One entry's times, or those of all from there on, by anything from a millisecond to years."""
    windows = specimen.windows()
    entries = [entry for window in windows for entry in window.entries]
    at = rng.randrange(len(entries))
    chosen = entries[at:] if rng.random() < 0.5 else [entries[at]]
    by_ms = rng.choice((-1, 1)) * rng.choice((1, 1000, 3_600_000, 31 * DAY_MS, 400 * DAY_MS))
    members = rng.choice((("effective_ms",), ("wall_ms",), ("boottime_ms",), ("effective_ms", "wall_ms")))
    for entry in chosen:
        for holder in (entry, *(entry[name] for name in ("opened", "closed") if name in entry)):
            for member in members:
                holder[member] = max(0, holder[member] + by_ms)
    return specimen.rebuilt(
        rng, windows, f"{', '.join(members)} of {len(chosen)} entries from {at} by {by_ms} ms", since=at
    )


@_mutator
def _edit_licence(specimen: Specimen, rng: Random) -> Mutation | None:
    """Under which licence it was, in every place that tells."""
    windows = specimen.windows()
    member = rng.choice(("license_id", "sequence", "evaluation", "expires_at", "in_force"))
    told = {"license_id": "license_id", "sequence": "license_sequence", "evaluation": "evaluation"}.get(member)
    since = -1
    only = rng.random() < 0.5
    for window in windows:
        for entry in window.entries:
            name = member if entry["kind"] == "license" else told if entry["kind"] == "window" and not only else None
            if name is not None and name in entry:
                entry[name] = guid(Random(str(entry[name]))) if name == "license_id" else _another(entry[name], rng)
                since = entry["seq"] if since < 0 else since
    return None if since < 0 else specimen.rebuilt(rng, windows, f"licence: another {member}", since=since)


@_mutator
def _edit_window(specimen: Specimen, rng: Random) -> Mutation | None:
    """What a window entry and its header tell."""
    windows = specimen.windows()
    window = rng.choice(windows)
    entry = window.closing
    member = rng.choice(
        ("opened", "closed", "reason", "product_version", "license_id", "license_sequence", "evaluation")
    )
    if member in ("opened", "closed"):
        name = rng.choice(list(entry[member]))
        entry[member][name] = _another(entry[member][name], rng)
    elif member == "reason":
        entry[member] = rng.choice([one for one in ("interval", "shutdown", "recovery") if one != entry[member]])
    elif member == "license_id":
        entry[member] = guid(rng)
    else:
        entry[member] = _another(entry[member], rng)
    return specimen.rebuilt(rng, windows, f"window {entry['seq']}: another {member}", since=entry["seq"])


@_mutator
def _edit_any_entry(specimen: Specimen, rng: Random) -> Mutation | None:
    """Any member of any entry, sums repaired or not."""
    windows = specimen.windows()
    window = rng.choice(windows)
    entry = rng.choice(window.entries)
    seq, before = entry["seq"], deepcopy(entry)
    what = _edit_something(entry, rng)
    try:
        return specimen.rebuilt(rng, windows, f"entry {seq}: {what}", since=seq, renumbers=rng.random() < 0.5)
    except (KeyError, TypeError, AttributeError, OverflowError):  # nobody could rebuild such a thing
        entry.clear()
        entry |= before
        return None


@_mutator
def _drop_entries(specimen: Specimen, rng: Random) -> Mutation | None:
    """One or more entries gone, the rest numbered anew."""
    windows = specimen.windows()
    if (
        picked := _pick(
            windows, rng, *rng.choice((("use",), ("boot", "clock", "license", "quarantine", "fault", "ack")))
        )
    ) is None:
        return None
    window, at, entry = picked
    count = rng.choice((1, 1, 2, 4))
    since = entry["seq"]
    del window.entries[at : min(at + count, len(window.entries) - 1)]
    return specimen.rebuilt(rng, windows, f"without entry {since} and up to {count - 1} more", since=since)


@_mutator
def _insert_entry(specimen: Specimen, rng: Random) -> Mutation | None:
    """An entry that never was: of another device, of another history, or made up."""
    windows = specimen.windows()
    source = rng.choice((specimen.pristine, specimen.other, specimen.fork))
    donor = take_apart(rng.choice([blob for name, blob in source.items() if name.endswith(".jsonl")]))
    new = deepcopy(rng.choice(donor.entries))
    window = rng.choice(windows)
    at = rng.randrange(len(window.entries))
    beside = window.entries[at]
    since = beside["seq"]
    if rng.random() < 0.7:
        new |= {name: beside[name] for name in ("wall_ms", "effective_ms", "boottime_ms")}
    window.entries.insert(at, new)
    return specimen.rebuilt(rng, windows, f"a {new['kind']} entry inserted at {since}", since=since)


@_mutator
def _count_again(specimen: Specimen, rng: Random) -> Mutation | None:
    """A use that is there, under a new number, at a good time."""
    windows = specimen.windows()
    if (picked := _pick(windows, rng, "use")) is None:
        return None
    new = deepcopy(picked[2])
    window = rng.choice(windows)
    at = rng.randrange(len(window.entries))
    since = window.entries[at]["seq"]
    new |= {name: window.entries[at][name] for name in ("wall_ms", "effective_ms", "boottime_ms")}
    window.entries.insert(at, new)
    return specimen.rebuilt(rng, windows, f"use {picked[2]['seq']} again at {since}", since=since)


@_mutator
def _swap_entries(specimen: Specimen, rng: Random) -> Mutation | None:
    """Two entries change places; their numbers, and perhaps their times, stay where they were."""
    windows = specimen.windows()
    entries = [entry for window in windows for entry in window.entries if entry["kind"] != "window"]
    if len(entries) < 2:
        return None
    one, two = rng.sample(entries, 2)
    stays = ("wall_ms", "effective_ms", "boottime_ms") if rng.random() < 0.6 else ()
    since = min(one["seq"], two["seq"])
    kept = [{name: entry[name] for name in ("seq", *stays)} for entry in (one, two)]
    first, second = dict(one), dict(two)
    one.clear()
    two.clear()
    one |= second | kept[0]
    two |= first | kept[1]
    return specimen.rebuilt(rng, windows, f"entries {kept[0]['seq']} and {kept[1]['seq']} change places", since=since)


@_mutator
def _change_kind(specimen: Specimen, rng: Random) -> Mutation | None:
    """A use becomes an entry that counts nothing."""
    windows = specimen.windows()
    if (picked := _pick(windows, rng, "use", "clock", "quarantine", "license")) is None:
        return None
    _, _, entry = picked
    times = {name: entry[name] for name in ("seq", "wall_ms", "effective_ms", "boottime_ms")}
    entry.clear()
    entry |= {**times, "kind": rng.choice(("ack", "key", "clock", "quarantine", "fault", "boot"))}
    return specimen.rebuilt(rng, windows, f"entry {entry['seq']} becomes a {entry['kind']} entry", since=entry["seq"])


@_mutator
def _drop_window(specimen: Specimen, rng: Random) -> Mutation | None:
    """A whole window gone, its neighbours joined, everything behind it numbered anew."""
    windows = specimen.windows()
    at = rng.randrange(len(windows))
    gone = windows.pop(at)
    if not windows:
        return None
    if at < len(windows) and rng.random() < 0.7:
        windows[at].closing["opened"] = gone.closing["opened"]
    since = gone.entries[0]["seq"]
    return specimen.rebuilt(rng, windows, f"without window {at}", since=since)


@_mutator
def _merge_windows(specimen: Specimen, rng: Random) -> Mutation | None:
    windows = specimen.windows()
    at = rng.randrange(len(windows) - 1)
    first = windows.pop(at)
    since = first.closing["seq"]
    second = windows[at]
    second.closing["opened"] = first.closing["opened"]
    second.entries[:0] = first.entries[:-1]
    return specimen.rebuilt(rng, windows, f"windows {at} and {at + 1} made one", since=since)


@_mutator
def _split_window(specimen: Specimen, rng: Random) -> Mutation | None:
    windows = specimen.windows()
    at = rng.randrange(len(windows))
    window = windows[at]
    if len(window.entries) < 2:
        return None
    cut = rng.randrange(1, len(window.entries))
    since = window.entries[cut]["seq"]
    closing = deepcopy(window.closing)
    last = window.entries[cut - 1]
    closing["closed"] |= {name: last[name] for name in ("wall_ms", "effective_ms", "boottime_ms")}
    closing |= {name: last[name] for name in ("wall_ms", "effective_ms", "boottime_ms")}
    first = Window(deepcopy(window.header), [*window.entries[:cut], closing], window.trailer)
    window.entries = window.entries[cut:]
    window.closing["opened"] = dict(closing["closed"])
    windows.insert(at, first)
    return specimen.rebuilt(rng, windows, f"window {at} made two at entry {since}", since=since)


@_mutator
def _move_entries(specimen: Specimen, rng: Random) -> Mutation | None:
    """The boundary between two windows shifts; the entries' numbers stay, the window entry moves."""
    windows = specimen.windows()
    at = rng.randrange(len(windows) - 1)
    first, second = windows[at], windows[at + 1]
    if len(first.entries) < 2:
        return None
    count = rng.randrange(1, len(first.entries))
    since = first.entries[-1 - count]["seq"]
    moved = first.entries[-1 - count : -1]
    del first.entries[-1 - count : -1]
    second.entries[:0] = moved
    return specimen.rebuilt(rng, windows, f"{len(moved)} entries from window {at} to the next", since=since)


# ---- headers and trailers, with the chain of files rebuilt ----------------------------------------------------------


@_mutator
def _edit_header(specimen: Specimen, rng: Random) -> Mutation | None:
    """One member of a header; every entry, root and seal is as it was, and the hashes of files follow."""
    return _edit_frame(specimen, rng, headers=True)


@_mutator
def _edit_trailer(specimen: Specimen, rng: Random) -> Mutation | None:
    """One member of a trailer; the hashes of files follow."""
    return _edit_frame(specimen, rng, headers=False)


def _edit_frame(specimen: Specimen, rng: Random, *, headers: bool) -> Mutation | None:
    windows = specimen.windows()
    chosen = windows if rng.random() < 0.3 else [rng.choice(windows)]
    draw = rng.getrandbits(32)
    what = ""
    for window in chosen:
        what = _edit_something(window.header if headers else window.trailer, Random(draw))
    changes: dict[str, Content] = {}
    previous = ""
    for name, window, before in zip(specimen.records, windows, specimen._windows, strict=True):
        if window.header.get("previous_file_sha256") == before.header["previous_file_sha256"]:
            window.header["previous_file_sha256"] = previous
        blob = b"".join(encode(one) + b"\n" for one in (window.header, *window.entries, window.trailer))
        previous = _sha256(blob)
        changes[name] = blob
    return specimen.mutation(changes, f"{'headers' if headers else 'trailers'} of {len(chosen)} files: {what}")


# ---- files ----------------------------------------------------------------------------------------------------------


@_mutator
def _drop_files(specimen: Specimen, rng: Random) -> Mutation | None:
    """Any record files gone, the seals left as they are."""
    gone = rng.sample(specimen.records, rng.randrange(1, len(specimen.records) + 1))
    return specimen.mutation(dict.fromkeys(gone), f"without {', '.join(gone)}")


@_mutator
def _drop_all_checkpoints(specimen: Specimen, rng: Random) -> Mutation | None:
    gone = [name for name in specimen.pristine if "/checkpoint" in name]
    return specimen.mutation(dict.fromkeys(gone), "without any checkpoint")


@_mutator
def _swap_files(specimen: Specimen, rng: Random) -> Mutation | None:
    one, two = rng.sample(list(specimen.pristine), 2)
    return specimen.mutation(
        {one: specimen.pristine[two], two: specimen.pristine[one]}, f"{one} and {two} change places"
    )


@_mutator
def _copy_file_over_another(specimen: Specimen, rng: Random) -> Mutation | None:
    one, two = rng.choice(specimen.records), rng.choice(list(specimen.pristine))
    if rng.random() < 0.5:
        checkpoints = [name for name in specimen.pristine if "/checkpoints/" in name]
        one = rng.choice(checkpoints)
    return specimen.mutation({one: specimen.pristine[two]}, f"{two} in place of {one}")


@_mutator
def _rename_file(specimen: Specimen, rng: Random) -> Mutation | None:
    """A record file or a numbered checkpoint under another name."""
    names = [name for name in specimen.pristine if not name.endswith("/checkpoint")]
    name = rng.choice(names)
    path = PurePosixPath(name)
    if path.suffix == ".jsonl":
        first, following = _range_of(name)
        base = rng.choice(
            (
                f"{first}-{following + 1}.jsonl",
                f"{first + 1}-{following}.jsonl",
                f"{first + 1}-{following + 1}.jsonl",
                f"0{first}-{following}.jsonl",
                f"{first}-{following}.JSONL",
                f"{first}-{following}.jsonl.gz",
                f".{first}-{following}.jsonl",
                f"{first}_{following}.jsonl",
                f"{first}-{following}",
                f"{following}-{2 * following}.jsonl",
                f" {first}-{following}.jsonl",
            )
        )
    else:
        base = rng.choice((f"{int(path.name) + 1}", f"0{path.name}", f"{path.name}.bak", str(specimen.sizes[-1] + 7)))
    new = str(path.with_name(base))
    if new in specimen.pristine:
        return None
    return specimen.mutation({name: None, new: specimen.pristine[name]}, f"{name} renamed to {base}")


@_mutator
def _move_file(specimen: Specimen, rng: Random) -> Mutation | None:
    """A record file in the folder of another month, year, or none."""
    name = rng.choice(specimen.records)
    path = PurePosixPath(name)
    year, month = path.parts[-3], path.parts[-2]
    folder = rng.choice(
        (
            f"{year}/{int(month) % 12 + 1:02d}",
            f"{int(year) + 1}/{month}",
            year,
            ".",
            f"{year}/{month}/{month}",
            f"{year}/{int(month)}",
            f"{year}/{month}x",
            f"{year}-{month}",
        )
    )
    new = str(PurePosixPath(f"{specimen.prefix}usage") / folder / path.name)
    return (
        None if new == name else specimen.mutation({name: None, new: specimen.pristine[name]}, f"{name} moved to {new}")
    )


@_mutator
def _append_window(specimen: Specimen, rng: Random) -> Mutation | None:
    """A window more behind the newest seal, in a file of its own: never sealed, so never good."""
    windows = specimen.windows()
    source = rng.choice((specimen.fork, specimen.other, specimen.pristine))
    donor = take_apart(rng.choice([blob for name, blob in source.items() if name.endswith(".jsonl")]))
    donor.header |= {"instance": specimen.history.instance, "origin": specimen.history.origin}
    by_ms = max(0, windows[-1].closing["effective_ms"] - donor.entries[0]["effective_ms"])
    for entry in donor.entries:
        for holder in (entry, *(entry[name] for name in ("opened", "closed") if name in entry)):
            holder["effective_ms"] += by_ms
        if entry["kind"] == "use":
            entry |= {"containerId": specimen.history.instance, "id": guid(rng)}
    if rng.random() < 0.7:
        donor.closing["opened"] = dict(windows[-1].closing["closed"])
    windows.append(donor)
    mutation = specimen.rebuilt(rng, windows, "a window more", since=specimen.sizes[-1], seals=Seals.LEAVE)
    return mutation and replace(mutation, defence=Defence.STRICT)


@_mutator
def _insert_file(specimen: Specimen, rng: Random) -> Mutation | None:
    """A record file more, in a place where one could be."""
    source = rng.choice((specimen.pristine, specimen.other, specimen.fork))
    donor = rng.choice([name for name in source if name.endswith(".jsonl")])
    first, following = _range_of(donor)
    end = specimen.sizes[-1]
    base = rng.choice(
        (f"{first}-{following}", f"{end}-{end + following - first}", f"{first}-{following + 1}", f"{end}-{end + 1}")
    )
    folder = PurePosixPath(rng.choice(specimen.records)).parent
    if rng.random() < 0.3:
        folder = folder.parent / "13"
    new = f"{folder}/{base}.jsonl"
    blob = rng.choice((source[donor], source[donor], b"", rng.randbytes(50)))
    if new in specimen.pristine:
        return None
    return specimen.mutation({new: blob}, f"a file more: {new}")


@_mutator
def _link_file(specimen: Specimen, rng: Random) -> Mutation | None:
    """A symbolic link in place of a record file: to nothing, to itself, to another file or to a copy."""
    name = rng.choice(specimen.records)
    base = PurePosixPath(name).name
    other = os.path.relpath(rng.choice(specimen.records), PurePosixPath(name).parent)
    target = rng.choice(("nothing", base, other, f"{base}.moved", "/dev/null", ".."))
    changes: dict[str, Content] = {name: Link(target)}
    if target == f"{base}.moved":
        changes[f"{name}.moved"] = specimen.pristine[name]
    return specimen.mutation(changes, f"{name} becomes a link to {target}")


@_mutator
def _link_seal(specimen: Specimen, rng: Random) -> Mutation | None:
    """A symbolic link in place of a checkpoint, even if what it leads to is the same."""
    name = rng.choice([one for one in specimen.pristine if "/checkpoint" in one])
    copy = f"{specimen.prefix}copy"
    target = os.path.relpath(rng.choice((copy, rng.choice(specimen.records), "nothing")), PurePosixPath(name).parent)
    changes: dict[str, Content] = {name: Link(target), copy: specimen.pristine[name]}
    return specimen.mutation(changes, f"{name} becomes a link to {target}")


@_mutator
def _spoil_file(specimen: Specimen, rng: Random) -> Mutation | None:
    """Emptied, zeroed or replaced by noise of the same length."""
    name, blob = _some_file(specimen, rng)
    new = rng.choice((b"", bytes(len(blob)), rng.randbytes(len(blob)), b"\n", b"{}\n", b"null\n" * 3))
    return specimen.mutation({name: new}, f"{name} spoiled")


# ---- splices, forks, other keys -------------------------------------------------------------------------------------


@_mutator
def _splice_devices(specimen: Specimen, rng: Random) -> Mutation | None:
    """Files of another device among these, as they are or under this device's name, seals included or not."""
    donors = [name for name in specimen.other if name.endswith(".jsonl")]
    count = rng.randrange(1, len(donors) + 1)
    chosen = rng.sample(donors, count)
    changes: dict[str, Content] = {}
    renames = rng.random() < 0.6
    for donor in chosen:
        window = take_apart(specimen.other[donor])
        if renames:
            window.header |= {"instance": specimen.history.instance, "origin": specimen.history.origin}
        blob = b"".join(encode(one) + b"\n" for one in (window.header, *window.entries, window.trailer))
        first, _ = _range_of(donor)
        changes |= {name: None for name in specimen.records if _range_of(name)[0] == first}
        changes[donor] = blob
    if rng.random() < 0.4:
        changes |= {name: blob for name, blob in specimen.other.items() if "/checkpoint" in name}
    return specimen.mutation(
        changes, f"{count} files of another device {'under this name' if renames else 'as they are'}"
    )


@_mutator
def _splice_windows_of_another_device(specimen: Specimen, rng: Random) -> Mutation | None:
    """Windows of another device as if they were this one's, everything rebuilt."""
    windows = specimen.windows()
    donors = [take_apart(blob) for name, blob in specimen.other.items() if name.endswith(".jsonl")]
    at = rng.randrange(len(windows))
    donor = deepcopy(rng.choice(donors))
    since = windows[at].entries[0]["seq"]
    donor.header = {**donor.header, "instance": specimen.history.instance, "origin": specimen.history.origin}
    for entry in donor.entries:
        if entry["kind"] == "use":
            entry["containerId"] = specimen.history.instance
    if rng.random() < 0.5:
        windows[at] = donor
    else:
        windows.insert(at, donor)
    return specimen.rebuilt(rng, windows, f"a window of another device at {at}", since=since)


@_mutator
def _fork(specimen: Specimen, rng: Random) -> Mutation | None:
    """Another history of the same device, signed by the same key: mixed with this one, or in its place.

    In its place, and with every trace of this one gone, only what the auditor kept can tell.
    """
    changes: dict[str, Content] = dict.fromkeys(specimen.pristine)
    changes |= specimen.fork
    common = [name for name in specimen.records if specimen.fork.get(name) == specimen.pristine[name]]
    ours = [size for size in specimen.sizes if size > (_range_of(common[-1])[1] if common else 0)]
    defence = rng.choice(RECALL)
    match rng.randrange(4):
        case 0:
            text = "all of the other history"
        case 1 if ours:
            size = rng.choice(ours)
            changes[specimen.checkpoint(size)] = specimen.pristine[specimen.checkpoint(size)]
            defence, text = Defence.KEY, f"the other history, with this one's checkpoint {size} left over"
        case 2:
            changes[f"{specimen.prefix}checkpoint"] = specimen.pristine[f"{specimen.prefix}checkpoint"]
            defence, text = Defence.KEY, "the other history, with this one's newest checkpoint left over"
        case _:
            kept = rng.sample(specimen.records, rng.randrange(1, len(specimen.records) + 1))
            changes |= {name: specimen.pristine[name] for name in kept}
            text = "the other history, with some of this one's files in their places"
    if all(changes.get(name) == blob for name, blob in specimen.pristine.items()):
        return None
    return specimen.mutation(changes, text, defence)


@_mutator
def _resign(specimen: Specimen, rng: Random) -> Mutation | None:
    """Nothing changed but the seals: all, or some, by another key under this device's name."""
    sizes = specimen.sizes if rng.random() < 0.5 else rng.sample(specimen.sizes, 1)
    roots = {
        size: bytes.fromhex(window.trailer["root"])
        for size, window in zip(specimen.sizes, specimen._windows, strict=True)
    }
    changes: dict[str, Content] = {
        specimen.checkpoint(size): sign_checkpoint(
            specimen.history.origin, size, roots[size], specimen.attacker
        ).encode()
        for size in sizes
    }
    if specimen.sizes[-1] in sizes:
        changes[f"{specimen.prefix}checkpoint"] = changes[specimen.checkpoint(specimen.sizes[-1])]
    if rng.random() < 0.5:
        changes[f"{specimen.prefix}device.pub"] = public_pem(specimen.attacker.verifying.public)
    return specimen.mutation(changes, f"{len(sizes)} seals by another key")


@_mutator
def _another_identity(specimen: Specimen, rng: Random) -> Mutation | None:
    """Everything edited and signed by another device, in the old folder or its own, its key file beside it."""
    forger = _Forger(specimen, specimen.attacker)
    windows = specimen.windows()
    for window in windows:
        window.header |= {"instance": forger.instance, "origin": forger.origin}
        for entry in window.entries:
            if entry["kind"] == "use":
                entry["containerId"] = forger.instance
    result = rebuild(windows)
    folder = specimen.prefix if rng.random() < 0.5 else f"computervisionread/{forger.instance}/"
    changes: dict[str, Content] = dict.fromkeys(specimen.pristine)
    changes |= {f"{folder}usage/{name}": blob for name, blob in result.files.items()}
    notes = {
        size: sign_checkpoint(forger.origin, size, root, specimen.attacker).encode()
        for size, root in result.roots.items()
    }
    changes |= {f"{folder}checkpoints/{size}": note for size, note in notes.items()}
    changes[f"{folder}checkpoint"] = notes[max(notes)]
    for place in rng.sample(("", "usage/", "checkpoints/../"), rng.randrange(3)):
        changes[f"{folder}{place}device.pub".replace("checkpoints/../", "")] = public_pem(
            specimen.attacker.verifying.public
        )
    return specimen.mutation(changes, "all of it signed by another device")


class _Forger:
    """The names that another key gives."""

    def __init__(self, specimen: Specimen, key: SigningKey) -> None:
        self.instance = instance_id_of(key.verifying.raw)
        vendor = specimen.history.origin.rpartition("/")[0]
        self.origin = f"{vendor}/{device_id_of(key.verifying.raw)}"


@_mutator
def _cut_tail(specimen: Specimen, rng: Random) -> Mutation | None:
    """The newest files gone: with a seal left over, which tells; or with every trace, when only the kept one tells."""
    keep = rng.randrange(len(specimen.records))
    gone = specimen.sizes[keep:]
    changes: dict[str, Content] = dict.fromkeys(specimen.records[keep:])
    changes |= {specimen.checkpoint(size): None for size in gone}
    newest = f"{specimen.prefix}checkpoint"
    changes[newest] = specimen.pristine[specimen.checkpoint(specimen.sizes[keep - 1])] if keep else None
    match rng.randrange(3):
        case 0:
            left = rng.choice(gone)
            changes[specimen.checkpoint(left)] = specimen.pristine[specimen.checkpoint(left)]
            return specimen.mutation(changes, f"{len(gone)} newest files gone, the checkpoint {left} left over")
        case 1:
            del changes[newest]
            return specimen.mutation(changes, f"{len(gone)} newest files gone, the newest checkpoint left over")
        case _:
            return specimen.mutation(changes, f"{len(gone)} newest files gone with every trace", rng.choice(RECALL))


@_mutator
def _cut_tail_and_rebuild(specimen: Specimen, rng: Random) -> Mutation | None:
    """Cut in the middle of a window, which is closed as if it had ended there."""
    windows = specimen.windows()
    at = rng.randrange(len(windows))
    window = windows[at]
    if len(window.entries) < 2:
        return None
    cut = rng.randrange(len(window.entries) - 1)
    since = window.entries[cut]["seq"]
    del window.entries[cut:-1]
    del windows[at + 1 :]
    return specimen.rebuilt(rng, windows, f"cut off at {since} and closed", since=since)


@_mutator
def _go_on_after_the_cut(specimen: Specimen, rng: Random) -> Mutation | None:
    """As a clone or a restored image would: cut, then other windows in place of those that were."""
    windows = specimen.windows()
    keep = rng.randrange(len(windows))
    donors = [take_apart(blob) for name, blob in specimen.fork.items() if name.endswith(".jsonl")]
    since = windows[keep].entries[0]["seq"]
    del windows[keep:]
    windows += deepcopy(rng.sample(donors, rng.randrange(1, len(donors) + 1)))
    if not windows:
        return None
    return specimen.rebuilt(rng, windows, f"cut off at {since}, then other windows", since=since)


@_mutator
def _replay_checkpoint(specimen: Specimen, rng: Random) -> Mutation | None:
    """A genuine checkpoint under the number of another."""
    size, other = rng.sample(specimen.sizes, 2)
    note = specimen.pristine[specimen.checkpoint(other)]
    return specimen.mutation({specimen.checkpoint(size): note}, f"checkpoint {other} under the name {size}")


@_mutator
def _begin_anew(specimen: Specimen, rng: Random) -> Mutation | None:
    """A file torn, and behind it a chain that starts from nothing: what home-made chains accept."""
    at = rng.randrange(len(specimen.records))
    name = specimen.records[at]
    blob = specimen.pristine[name]
    changes: dict[str, Content] = {name: blob[: rng.randrange(len(blob))]}
    fresh = rebuild([deepcopy(window) for window in specimen._windows[at:]])
    changes |= dict.fromkeys(specimen.records[at + 1 :])
    for one, new in fresh.files.items():
        changes.setdefault(f"{specimen.prefix}usage/{one}", new)
    return specimen.mutation(changes, f"{name} torn, and a chain that begins anew")
