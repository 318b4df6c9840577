"""One entry of the usage log is one line: its bytes are what is hashed, stored and exported.

Invariants:

* An entry has exactly one spelling: compact JSON, members sorted, ASCII, integers only, no line end. What
  `parse_entry` accepts, `encode_entry` would write again byte for byte.
* Every entry has `seq`, `kind`, `wall_ms`, `effective_ms` and `boottime_ms`. A `use` entry has the members of the
  public contract and no others, so no text of a document, no file name and no client address can slip in.
* A `window` entry is the last of its record file: `opened` and `closed` (moments with `boot_id`), `reason`,
  `first_seq` and `meters` (the sums of the window), and `product_version`, `license_id`, `license_sequence` and
  `evaluation` as its header tells them. So what a file's header and trailer say is under the seal.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from licenses.errors import FormatError, RecordError
from licenses.strict_json import MAX_DEPTH, JsonValue, canonical, loads

KINDS = frozenset({"use", "window", "boot", "license", "clock", "gap", "fault", "ack", "key", "quarantine"})
MAX_LINE_BYTES = 16 * 1024
MAX_QUANTITY = 1_000_000_000
INTEGER_MEMBERS = ("boottime_ms", "effective_ms", "seq", "wall_ms")

_USE_TEXTS = ("apiType", "containerId", "containerType", "containerVersion", "id")
_USE_MEMBERS = frozenset((*INTEGER_MEMBERS, *_USE_TEXTS, "kind", "meter", "page", "requestTime"))
_METER_MEMBERS = frozenset({"name", "quantity"})
_LONG_NUMBER = re.compile(r"[0-9]{16}")
_GUID_PATTERN = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_GUID = re.compile(_GUID_PATTERN)
_TEXT = r'"[ !#-\[\]-~]{1,128}"'
_NUMBER = "(?:0|[1-9][0-9]{0,14})"
_USE_LINE = re.compile(
    (
        rf'\{{"apiType":{_TEXT},"boottime_ms":{_NUMBER},"containerId":{_TEXT},"containerType":{_TEXT},'
        rf'"containerVersion":{_TEXT},"effective_ms":({_NUMBER}),"id":"({_GUID_PATTERN})","kind":"use",'
        rf'"meter":\{{"name":"([ !#-\[\]-~]{{1,128}})","quantity":({_NUMBER})\}},"page":([1-9][0-9]{{0,14}}),'
        rf'"requestTime":{_NUMBER},"seq":({_NUMBER}),"wall_ms":{_NUMBER}\}}'
    ).encode("ascii")
)


class Use(NamedTuple):
    """What an auditor counts in a `use` entry; `identity` and `meter` are ASCII bytes."""

    seq: int
    effective_ms: int
    identity: bytes
    page: int
    meter: bytes
    quantity: int


def encode_entry(entry: Mapping[str, object]) -> bytes:
    """The line of an entry, without line end.

    Raises:
        RecordError: A member is missing, unknown or of the wrong kind.
    """
    try:
        line = canonical(dict(entry))
    except FormatError as exc:
        raise RecordError(f"an entry {exc}") from exc
    parse_entry(line)
    return line


def parse_line(line: bytes) -> dict[str, JsonValue]:
    """Read an object that has exactly one spelling: compact, members sorted, ASCII, integers only.

    Several times faster than `strict_json`, which is asked where a line holds what only it can judge.

    Raises:
        RecordError: It is not exactly what `strict_json.canonical` writes.
    """
    if len(line) > MAX_LINE_BYTES:
        raise RecordError(f"an entry of {len(line)} bytes is too long, the limit is {MAX_LINE_BYTES}")
    try:
        text = line.decode("ascii")
        value, end = _DECODER.raw_decode(text)
        spelled = _ENCODER.encode(value)
        if "\\u" in text or text.count("{") + text.count("[") > MAX_DEPTH or _LONG_NUMBER.search(text) is not None:
            loads(line, max_bytes=MAX_LINE_BYTES)
    except (FormatError, ValueError, RecursionError, OverflowError) as exc:
        raise RecordError(f"an entry is not JSON: {exc}") from exc
    if end != len(text) or spelled != text:
        raise RecordError("an entry is not spelled as the meter spells it (spaces, order, escapes or repeated members)")
    if not isinstance(value, dict):
        raise RecordError("an entry is not an object")
    return value


def parse_entry(line: bytes) -> dict[str, JsonValue]:
    """Read one line, without line end.

    Raises:
        RecordError: It is not exactly what `encode_entry` writes.
    """
    entry = parse_line(line)
    for name in INTEGER_MEMBERS:
        member = entry.get(name)
        if type(member) is not int or member < 0:
            raise RecordError(f"an entry's {name} is not a whole number from 0 on")
    kind = entry.get("kind")
    if kind == "use":
        _require_use(entry)
    elif not isinstance(kind, str) or kind not in KINDS:
        raise RecordError(f"an entry is of the unknown kind {kind!r:.40}")
    return entry


def read_use(line: bytes) -> Use | None:
    """Read a plain `use` line many times faster than `parse_entry`.

    Returns:
        None for every other line, and for a `use` line with escapes or very large numbers: ask `parse_entry` then.
        Whatever this accepts, `parse_entry` accepts with the same meaning.
    """
    found = _USE_LINE.fullmatch(line)
    if found is None or len(line) > MAX_LINE_BYTES:
        return None
    effective_ms, identity, meter, quantity, page, seq = found.groups()
    amount = int(quantity)
    if amount > MAX_QUANTITY:
        return None
    return Use(int(seq), int(effective_ms), identity, int(page), meter, amount)


def use_from(entry: Mapping[str, JsonValue]) -> Use:
    """The same of a `use` entry that `parse_entry` accepted; a meter's name beyond ASCII is in UTF-8.

    Raises:
        RecordError: It is another kind of entry.
    """
    meter = entry.get("meter")
    if not isinstance(meter, dict):
        raise RecordError("a use entry has no meter")
    return Use(
        integer_of(entry, "seq"),
        integer_of(entry, "effective_ms"),
        str(entry["id"]).encode("ascii"),
        integer_of(entry, "page"),
        str(meter["name"]).encode("utf-8"),
        integer_of(meter, "quantity"),
    )


def integer_of(members: Mapping[str, JsonValue], name: str) -> int:
    """A member that is an integer.

    Raises:
        RecordError: It is missing, or something else.
    """
    value = members.get(name)
    if type(value) is not int:
        raise RecordError(f"{name} is not an integer")
    return value


def leaf_hash(line: bytes) -> bytes:
    """The leaf of a line in the Merkle tree: SHA-256(0x00 || line)."""
    return hashlib.sha256(b"\x00" + line).digest()


def _require_use(entry: Mapping[str, JsonValue]) -> None:
    if entry.keys() != _USE_MEMBERS:
        wrong = sorted(entry.keys() ^ _USE_MEMBERS)
        raise RecordError(f"a use entry lacks or adds members: {', '.join(map(ascii, wrong))[:200]}")
    for member in _USE_TEXTS:
        text = entry[member]
        if not isinstance(text, str) or not 1 <= len(text) <= 128:
            raise RecordError(f"a use entry's {member} is not a text of 1 to 128 characters")
    identity, meter = entry["id"], entry["meter"]
    if not isinstance(identity, str) or _GUID.fullmatch(identity) is None:
        raise RecordError("a use entry's id is not a GUID in lower case")
    page, requested = entry["page"], entry["requestTime"]
    if type(page) is not int or page < 1 or type(requested) is not int or requested < 0:
        raise RecordError("a use entry's page or requestTime is out of range")
    if not isinstance(meter, dict) or meter.keys() != _METER_MEMBERS:
        raise RecordError("a use entry's meter must have a name and a quantity")
    name, quantity = meter["name"], meter["quantity"]
    if not isinstance(name, str) or not 1 <= len(name) <= 128:
        raise RecordError("a use entry's meter has no name")
    if type(quantity) is not int or not 0 <= quantity <= MAX_QUANTITY:
        raise RecordError("a use entry's quantity is out of range")


def _refuse_number(digits: str) -> NoReturn:
    raise RecordError(f"an entry holds {digits[:20]}, which is not an integer")


_DECODER = json.JSONDecoder(parse_float=_refuse_number, parse_constant=_refuse_number)
_ENCODER = json.JSONEncoder(ensure_ascii=True, allow_nan=False, sort_keys=True, separators=(",", ":"))
