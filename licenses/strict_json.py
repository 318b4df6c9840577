"""JSON with exactly one reading.

Invariants:

* What `loads` accepts has one meaning for every parser: UTF-8, no duplicate member, no float, no NaN, no lone
  surrogate, integers within ±(2^53-1), bounded size and depth, nothing after the value. Only where the caller says so
  is 12.0 read, and then as the integer 12.
* Whatever is wrong, `FormatError` is raised, and nothing else.
* `canonical` writes the one form that is signed and hashed: compact, members sorted, ASCII.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NoReturn, TypeAlias

from licenses.errors import FormatError

JsonValue: TypeAlias = "bool | int | str | list[JsonValue] | dict[str, JsonValue] | None"

MAX_BYTES = 64 * 1024
MAX_DEPTH = 8
MAX_INTEGER = 2**53 - 1

_DEPTH_TOKENS = re.compile(
    rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL
)  # a string without end still ends: linear time
_WHOLE_FLOAT = re.compile(r"(-?[0-9]{1,17})\.0{1,17}")
_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_ENCODER = json.JSONEncoder(ensure_ascii=True, allow_nan=False, sort_keys=True, separators=(",", ":"))


def canonical(value: object) -> bytes:
    """Encode plain JSON values in the one form that is signed and hashed.

    Raises:
        FormatError: The value holds something that has no such form.
    """
    try:
        _refuse_floats(value)
        return _ENCODER.encode(value).encode("ascii")
    except (TypeError, ValueError, RecursionError) as exc:
        raise FormatError(f"cannot be written as JSON: {exc}") from exc


def loads(
    blob: bytes, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH, whole_floats: bool = False
) -> JsonValue:
    """Parse bytes that have exactly one reading.

    Args:
        blob: The whole document; white space around and inside is allowed, other trailing bytes are not.
        max_bytes: Longest document accepted, in bytes.
        max_depth: Deepest nesting accepted; a plain number has depth 0, `{}` has depth 1.
        whole_floats: Whether to read a number such as 12.0 as the integer 12, for a public form that has floats.

    Raises:
        FormatError: Anything else than such a document.
    """
    if len(blob) > max_bytes:
        raise FormatError(f"{len(blob)} bytes are too many, the limit is {max_bytes}")
    try:
        text = blob.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise FormatError(f"not UTF-8: byte {exc.start} is {exc.reason}") from exc
    _bound_depth(blob, max_depth)
    try:
        value: JsonValue = (_WHOLE_DECODER if whole_floats else _DECODER).decode(text)
    except FormatError:
        raise
    except json.JSONDecodeError as exc:
        raise FormatError(f"not JSON: {_fault(exc)}") from exc
    except (ValueError, RecursionError, OverflowError) as exc:
        raise FormatError(f"not JSON: {exc}") from exc
    if "\\u" in text:
        _refuse_surrogates(value)
    return value


def parse_object(blob: bytes, *, what: str, max_bytes: int = MAX_BYTES, whole_floats: bool = False) -> "Fields":
    """Parse a document that is one JSON object, ready to have its members taken; see `loads`.

    Raises:
        FormatError: It is not strict JSON, or not an object.
    """
    value = loads(blob, max_bytes=max_bytes, whole_floats=whole_floats)
    if not isinstance(value, dict):
        raise FormatError(f"{what} must be a JSON object")
    return Fields(value, what)


def instant_text(at: datetime) -> str:
    """An aware UTC instant as it is written in signed documents, to the second."""
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def parse_instant(text: str, *, what: str) -> datetime:
    """Read what `instant_text` wrote, and only that.

    Raises:
        FormatError: Another form, or a day that does not exist.
    """
    if _INSTANT.fullmatch(text) is None:
        raise FormatError(f"{what} must be an instant such as 2027-03-31T23:59:59Z")
    try:
        return datetime.fromisoformat(text[:-1]).replace(tzinfo=UTC)
    except ValueError as exc:
        raise FormatError(f"{what} is no instant: {exc}") from exc


class Fields:
    """The members of one JSON object, taken one by one; what is left at the end is refused.

    Each method removes its member and raises FormatError when it is missing or of another kind. A method with a
    `default` returns that for a missing member.
    """

    def __init__(self, members: Mapping[str, JsonValue], what: str) -> None:
        self._members = dict(members)
        self._what = what

    def has(self, name: str) -> bool:
        """Whether the member is there and not yet taken."""
        return name in self._members

    def take_if_empty(self, name: str) -> bool:
        """Take the member if it is an empty string, and say whether it was."""
        if self._members.get(name) != "":
            return False
        del self._members[name]
        return True

    def text(self, name: str, *, max_length: int = 256, pattern: re.Pattern[str] | None = None) -> str:
        """A string without control characters, 1 to `max_length` characters, matching `pattern` as a whole."""
        value = self._take(name)
        if not isinstance(value, str):
            self._refuse(name, "must be a string")
        if not 1 <= len(value) <= max_length:
            self._refuse(name, f"must have 1 to {max_length} characters")
        if not value.isprintable():
            self._refuse(name, "holds a control character or another that cannot be printed")
        if pattern is not None and pattern.fullmatch(value) is None:
            self._refuse(name, f"does not match {pattern.pattern}")
        return value

    def integer(self, name: str, *, minimum: int = 0, maximum: int = MAX_INTEGER) -> int:
        """An integer in [minimum, maximum]; booleans are not integers."""
        value = self._take(name)
        if not isinstance(value, int) or isinstance(value, bool):
            self._refuse(name, "must be an integer")
        if not minimum <= value <= maximum:
            self._refuse(name, f"must be {minimum} to {maximum}")
        return value

    def flag(self, name: str) -> bool:
        """A boolean."""
        value = self._take(name)
        if not isinstance(value, bool):
            self._refuse(name, "must be true or false")
        return value

    def instant(self, name: str) -> datetime:
        """An aware UTC instant, to the second."""
        return parse_instant(self.text(name, max_length=20), what=f"{self._what}.{name}")

    def hex_bytes(self, name: str, *, length: int) -> bytes:
        """Exactly `length` bytes, written as lower-case hexadecimal digits."""
        value = self.text(name, max_length=2 * length)
        if re.fullmatch(f"[0-9a-f]{{{2 * length}}}", value) is None:
            self._refuse(name, f"must be {2 * length} lower-case hexadecimal digits")
        return bytes.fromhex(value)

    def texts(self, name: str, *, max_items: int = 64, max_length: int = 256) -> tuple[str, ...]:
        """A list of distinct strings."""
        values = self._list(name, max_items)
        one_each = tuple(
            Fields({"item": value}, f"{self._what}.{name}").text("item", max_length=max_length) for value in values
        )
        if len(set(one_each)) != len(one_each):
            self._refuse(name, "holds the same item twice")
        return one_each

    def nested(self, name: str) -> "Fields":
        """One object."""
        value = self._take(name)
        if not isinstance(value, dict):
            self._refuse(name, "must be an object")
        return Fields(value, f"{self._what}.{name}")

    def nested_list(self, name: str, *, max_items: int = 64) -> "list[Fields]":
        """A list of objects."""
        found: list[Fields] = []
        for index, value in enumerate(self._list(name, max_items)):
            if not isinstance(value, dict):
                self._refuse(name, "must hold objects only")
            found.append(Fields(value, f"{self._what}.{name}[{index}]"))
        return found

    def rest(self) -> dict[str, JsonValue]:
        """All members that were not taken, for one that is passed on as it is."""
        left, self._members = self._members, {}
        return left

    def end(self) -> None:
        """Refuse whatever was not taken."""
        if self._members:
            unknown = ", ".join(map(ascii, sorted(self._members)))[:200]
            raise FormatError(f"{self._what} has members that this version does not know: {unknown}")

    def _list(self, name: str, max_items: int) -> list[JsonValue]:
        value = self._take(name)
        if not isinstance(value, list):
            self._refuse(name, "must be a list")
        if len(value) > max_items:
            self._refuse(name, f"holds {len(value)} items, the limit is {max_items}")
        return value

    def _take(self, name: str) -> JsonValue:
        if name not in self._members:
            raise FormatError(f"{self._what} lacks the member {name!r}")
        return self._members.pop(name)

    def _refuse(self, name: str, why: str) -> NoReturn:
        raise FormatError(f"{self._what}.{name} {why}")


def _fault(exc: json.JSONDecodeError) -> str:
    """What is wrong, in words for a person who copied a file."""
    length = len(exc.doc.rstrip())
    if length == 0:
        return "there is nothing in it"
    if exc.pos >= length or exc.msg.startswith("Unterminated string"):
        return f"it ends after {length} characters in the middle, so it looks cut off"
    return f"{exc.msg[:1].lower()}{exc.msg[1:].removesuffix(' at')} at character {exc.pos}"


def _bound_depth(blob: bytes, max_depth: int) -> None:
    depth = 0
    for token in _DEPTH_TOKENS.finditer(blob):
        match token.group():
            case b"{" | b"[":
                depth += 1
                if depth > max_depth:
                    raise FormatError(f"nested deeper than {max_depth} levels")
            case b"}" | b"]":
                depth -= 1
            case _:
                pass


def _refuse_floats(value: object) -> None:
    match value:
        case str() | int() | None:
            pass
        case dict():
            for item in value.values():
                _refuse_floats(item)
        case list() | tuple():
            for item in value:
                _refuse_floats(item)
        case _:
            raise FormatError(f"cannot be written as JSON here: {type(value).__name__}")


def _refuse_surrogates(value: JsonValue) -> None:
    match value:
        case str():
            if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
                raise FormatError("a string holds half of a surrogate pair")
        case list():
            for item in value:
                _refuse_surrogates(item)
        case dict():
            for name, item in value.items():
                _refuse_surrogates(name)
                _refuse_surrogates(item)
        case _:
            pass


def _members(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise FormatError("an object names the same member twice")
    return members


def _integer(digits: str) -> int:
    if len(digits) > 17 or abs(value := int(digits)) > MAX_INTEGER:
        raise FormatError(f"an integer is beyond ±{MAX_INTEGER}")
    if digits == "-0":
        raise FormatError("minus zero is not an integer")
    return value


def _no_float(digits: str) -> NoReturn:
    raise FormatError(f"{digits[:20]} is not an integer")


def _whole(digits: str) -> int:
    found = _WHOLE_FLOAT.fullmatch(digits)
    return _no_float(digits) if found is None else _integer(found.group(1))


_DECODER = json.JSONDecoder(
    object_pairs_hook=_members, parse_int=_integer, parse_float=_no_float, parse_constant=_no_float
)
_WHOLE_DECODER = json.JSONDecoder(
    object_pairs_hook=_members, parse_int=_integer, parse_float=_whole, parse_constant=_no_float
)
