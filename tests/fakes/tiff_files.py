"""TIFF files tag by tag: what no library here writes, for good documents and for hostile ones."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, LONG8 = 1, 2, 3, 4, 5, 7, 16
_CODES = {BYTE: "B", SHORT: "H", LONG: "I", LONG8: "Q"}

Value = int | bytes | Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Directory:
    """One page.

    Attributes:
        tags: Tag → type and value; RATIONAL takes numerator and denominator in turn.
        blocks: The strips or tiles.
        tiled: Whether they are tiles.
        next_at: Where the file says that the next page is; None for where it is.
        counts: What the file says of the blocks' lengths; None for the truth.
    """

    tags: Mapping[int, tuple[int, Value]] = field(default_factory=dict)
    blocks: Sequence[bytes] = ()
    tiled: bool = False
    next_at: int | None = None
    counts: Sequence[int] | None = None


def picture(
    width: int,
    height: int,
    blocks: Sequence[bytes],
    *,
    bits: Sequence[int] = (8,),
    photometric: int = 1,
    compression: int = 1,
    rows: int | None = None,
    tile: tuple[int, int] | None = None,
    more: Mapping[int, tuple[int, Value]] | None = None,
) -> Directory:
    """A page with the tags that every page has."""
    tags: dict[int, tuple[int, Value]] = {
        256: (LONG, width),
        257: (LONG, height),
        258: (SHORT, bits),
        259: (SHORT, compression),
        262: (SHORT, photometric),
        277: (SHORT, len(bits)),
    }
    if tile is None:
        tags[278] = (LONG, height if rows is None else rows)
    else:
        tags |= {322: (LONG, tile[0]), 323: (LONG, tile[1])}
    return Directory(tags=tags | dict(more or {}), blocks=blocks, tiled=tile is not None)


def tiff(directories: Sequence[Directory], *, order: str = "<", big: bool = False) -> bytes:
    """The file."""
    magic = b"II" if order == "<" else b"MM"
    head = magic + struct.pack(order + "HHHQ", 43, 8, 0, 0) if big else magic + struct.pack(order + "HI", 42, 0)
    offset_code, inline, number = ("Q", 8, LONG8) if big else ("I", 4, LONG)
    out = bytearray(head)
    link_at = len(head) - inline
    for page in directories:
        starts = []
        for block in page.blocks:
            starts.append(len(out))
            out += block
        tags = dict(page.tags)
        if page.blocks:
            where, lengths = (324, 325) if page.tiled else (273, 279)
            tags.setdefault(where, (number, starts))
            tags.setdefault(lengths, (number, page.counts or [len(block) for block in page.blocks]))
        entries = b""
        for tag, (kind, value) in sorted(tags.items()):
            data, count = _data(order, kind, value)
            if len(data) > inline:
                out += b"\0" * (len(out) % 2)
                at = len(out)
                out += data
                data = struct.pack(order + offset_code, at)
            entries += struct.pack(order + "HH" + offset_code, tag, kind, count) + data.ljust(inline, b"\0")
        out += b"\0" * (len(out) % 2)
        struct.pack_into(order + offset_code, out, link_at, len(out))
        out += struct.pack(order + ("Q" if big else "H"), len(tags)) + entries
        link_at = len(out)
        out += struct.pack(order + offset_code, page.next_at or 0)
    return bytes(out)


def _data(order: str, kind: int, value: Value) -> tuple[bytes, int]:
    if isinstance(value, bytes):
        return value, len(value)
    numbers = [value] if isinstance(value, int) else list(value)
    if kind == RATIONAL:
        return struct.pack(f"{order}{len(numbers)}I", *numbers), len(numbers) // 2
    return struct.pack(f"{order}{len(numbers)}{_CODES[kind]}", *numbers), len(numbers)
