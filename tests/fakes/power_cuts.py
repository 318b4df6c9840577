"""What a power cut may leave on a disk: rebuilt from a trace of `io_faults.c`, as strictly as POSIX allows.

* A file's bytes and size are certain as of its last sync. Of what was written later, each block (512 or 4096 bytes) may
  be there in any of its later states or in none: dropped, kept, reordered, torn within; the size may be any later one.
* A name (created, linked, renamed, removed) is certain when its own folder was synced after it; a new folder's name
  when the folder above was. Of later changes either a prefix is there, as a journal replays it, or any subset that
  keeps the order of changes to one name.
* Nothing is certain because time has passed.

start, inodes = read_tree(root)                 # before
disk = Disk(start, inodes)
disk.follow(read_trace(trace, root)[:cut])      # after
disk.write_remains(into, Random(seed))
"""

from __future__ import annotations

import os
import pickle
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

SHARED_MEMORY = "-shm"
FOLDER, NOTHING = "folder", "nothing"
_GARBAGE = bytes(range(256)) * 16


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a trace.

    Attributes:
        what: A letter: Create, Write, Truncate, Sync of a file, sync of a folDer, Link, Rename, Unlink, Mkdir,
            cHmod, marK. A mark "licences" tells what an operator put into the licence folder.
        words: Its arguments; paths are relative to the traced folder.
        data: What was written.
        mark: What was told at this point.
    """

    what: str
    words: tuple[str, ...] = ()
    data: bytes = b""
    mark: Any = None


def marked(what: object) -> str:
    """A value as the text of a mark."""
    return b64encode(pickle.dumps(what)).decode("ascii")


def read_trace(path: Path, root: Path) -> list[Event]:
    """Read what the shim traced below a folder."""
    events = []
    blob, at = path.read_bytes(), 0
    while at < len(blob):
        end = blob.index(b"\n", at)
        what, *words = os.fsdecode(blob[at:end]).split("\t")
        at = end + 1
        data, mark = b"", None
        if what == "W":
            length = int(words[2])
            data, at = blob[at : at + length], at + length + 1
        elif what == "K":
            mark = pickle.loads(b64decode(words[0]))
        elif what in "CDLMRU":
            words = [os.path.relpath(word, root) if word.startswith("/") else word for word in words]
        events.append(Event(what, tuple(words), data, mark))
    return events


def told_in(events: Iterable[Event], name: str) -> list[tuple[Any, ...]]:
    """The rest of every mark under a name, in order."""
    return [event.mark[1:] for event in events if event.what == "K" and event.mark[0] == name]


@dataclass(slots=True)
class _File:
    """One inode: what is certain, and what was done since."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # (offset, bytes), or (size, None)
    mode: int = 0o600

    def sync(self) -> None:
        for offset, data in self.pending:
            _apply(self.durable, offset, data)
        self.pending.clear()


@dataclass(slots=True)
class _Change:
    """One change of names: what each path means after it."""

    names: dict[str, _File | str]
    folders: set[str]  # those whose sync makes it certain, not synced yet


class Disk:
    """A disk, and what has been done to it since its files were certain.

    Args:
        start: What is certain: files by path, folders as None. As `read_tree` gives it.
        inodes: Path of each file of the start by inode number, as traces name it.
        ignore_syncs: Take no sync for one, as a disk would that lies.
    """

    def __init__(
        self, start: Mapping[str, bytes | None], inodes: Mapping[str, str], *, ignore_syncs: bool = False
    ) -> None:
        self._names: dict[str, _File | str] = {}
        self._now: dict[str, _File | str] = {}
        self._inodes: dict[str, _File] = {}
        self._changes: list[_Change] = []
        self._ignore_syncs = ignore_syncs
        for path, content in start.items():
            self._names[path] = FOLDER if content is None else _File(bytearray(content))
        self._now.update(self._names)
        for number, path in inodes.items():
            found = self._now.get(path)
            if isinstance(found, _File):
                self._inodes[number] = found

    def follow(self, events: Iterable[Event]) -> None:
        """Let something be done."""
        for event in events:
            self._follow(event)

    def _follow(self, event: Event) -> None:
        words = event.words
        match event.what:
            case "C":
                file = self._inodes[words[0]] = _File(mode=int(words[1], 8) & 0o777)
                self._change({words[2]: file})
            case "W":
                self._inodes[words[0]].pending.append((int(words[1]), event.data))
            case "T":
                self._inodes[words[0]].pending.append((int(words[1]), None))
            case "H":
                self._inodes[words[0]].mode = int(words[1], 8) & 0o777
            case "S" if not self._ignore_syncs:
                self._inodes[words[0]].sync()
            case "D" if not self._ignore_syncs:
                for change in self._changes:
                    change.folders.discard(words[0])
            case "L":
                self._change({words[1]: self._now[words[0]]})
            case "R":
                self._change({words[0]: NOTHING, words[1]: self._now[words[0]]})
            case "U":
                self._change({words[0]: NOTHING})
            case "M":
                self._change({words[0]: FOLDER})
            case "K" if event.mark[0] == "licences":
                self._put_licenses(event.mark[1])
            case _:
                pass

    def _put_licenses(self, files: Mapping[str, bytes]) -> None:
        """What an operator did to the licence folder, who waited until it was on the disk."""
        gone = [path for path, what in self._now.items() if path.startswith("license/") and what != NOTHING]
        names: dict[str, _File | str] = dict.fromkeys(gone, NOTHING)
        self._change(names | {f"license/{name}": _File(bytearray(blob)) for name, blob in files.items()})
        self._changes[-1].folders.clear()

    def _change(self, names: dict[str, _File | str]) -> None:
        self._now.update(names)
        self._changes.append(_Change(names, {os.path.dirname(path) or "." for path in names}))

    # ---- the cut ----------------------------------------------------------------------------------------------------

    def write_remains(self, into: Path, random: Random) -> str:
        """Write one of the trees that a power cut now may leave.

        Returns:
            How it was drawn, for messages.
        """
        names = dict(self._names)
        as_journal = random.random() < 0.5
        for change in self._surviving_prefix(random) if as_journal else self._surviving_subset(random):
            names.update(change.names)
        block = random.choice([512, 4096])
        way = random.choice(["nothing", "everything", "prefix", "blocks", "blocks", "blocks"])
        into.mkdir(parents=True, exist_ok=True)
        for path in sorted(names):
            what = names[path]
            place = into / path
            if what == NOTHING or not _has_folders(names, path):
                continue
            if isinstance(what, str):
                place.mkdir(exist_ok=True)
                continue
            if path.endswith(SHARED_MEMORY):
                content = random.choice([None, bytes(len(what.durable)), _GARBAGE * 8])
            else:
                content = _remains(what, random, way, block)
            if content is not None:
                place.write_bytes(content)
                place.chmod(what.mode)
        return f"names as {'a prefix' if as_journal else 'any subset'}, of {block}-byte blocks {way}"

    def _surviving_prefix(self, random: Random) -> Iterator[_Change]:
        certain = max((index + 1 for index, change in enumerate(self._changes) if not change.folders), default=0)
        yield from self._changes[: random.randint(certain, len(self._changes))]

    def _surviving_subset(self, random: Random) -> Iterator[_Change]:
        lost: set[str] = set()
        share = random.choice([0.2, 0.5, 0.8])
        for change in self._changes:
            if change.folders and (not lost.isdisjoint(change.names) or random.random() > share):
                lost |= set(change.names)
            else:
                yield change


def _has_folders(names: Mapping[str, _File | str], path: str) -> bool:
    folder = os.path.dirname(path)
    return not folder or (names.get(folder) == FOLDER and _has_folders(names, folder))


def _remains(file: _File, random: Random, way: str, block: int) -> bytes:
    """One of the contents that the file may have after the cut."""
    if not file.pending or way == "nothing":
        return bytes(file.durable)
    if way in {"everything", "prefix"}:
        kept = len(file.pending) if way == "everything" else random.randint(0, len(file.pending))
        content = bytearray(file.durable)
        for offset, data in file.pending[:kept]:
            _apply(content, offset, data)
        return bytes(content)
    sizes = [len(file.durable)]
    writes: list[tuple[int, bytes]] = []
    for offset, data in file.pending:
        before = sizes[-1]
        if data is None:
            sizes.append(offset)
            writes.append((offset, bytes(max(0, before - offset))))  # what is cut off reads as zeros when it is back
        else:
            sizes.append(max(before, offset + len(data)))
            writes.append((offset, data))
    by_block: dict[int, list[tuple[int, bytes]]] = {}
    for offset, data in writes:
        for number in range(offset // block, (offset + len(data) - 1) // block + 1) if data else ():
            start = max(offset, number * block)
            end = min(offset + len(data), (number + 1) * block)
            by_block.setdefault(number, []).append((start, data[start - offset : end - offset]))
    content = bytearray(file.durable) + bytes(max(0, max(sizes) - len(file.durable)))
    share = random.choice([0.1, 0.5, 0.9])
    for states in by_block.values():
        last = len(states) if random.random() < share else random.randint(0, len(states))
        for start, data in states[:last]:
            content[start : start + len(data)] = data
        if last < len(states) and random.random() < 0.15:
            start, data = states[last]
            torn = random.randint(0, len(data))
            content[start : start + torn] = data[:torn]
        elif last == 0 and states[0][0] >= len(file.durable) and random.random() < 0.1:
            start, data = states[0]
            content[start : start + len(data)] = (_GARBAGE * (len(data) // len(_GARBAGE) + 1))[: len(data)]
    return bytes(content[: random.choice(sizes)])


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    """One write, or a change of size when there are no bytes."""
    if data is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


# ---- real trees -----------------------------------------------------------------------------------------------------


def read_tree(root: Path) -> tuple[dict[str, bytes | None], dict[str, str]]:
    """What lies below a folder: content by path (None for a folder), and path by inode number."""
    contents: dict[str, bytes | None] = {}
    inodes: dict[str, str] = {}
    for folder, subfolders, names in os.walk(root):
        for name in subfolders:
            contents[os.path.relpath(os.path.join(folder, name), root)] = None
        for name in names:
            path = os.path.join(folder, name)
            contents[os.path.relpath(path, root)] = Path(path).read_bytes()
            inodes[str(os.stat(path).st_ino)] = os.path.relpath(path, root)
    return contents, inodes
