"""How the clerk's pages say times, numbers and names.

Invariant: each filter gives plain text; escaping is the template's.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from licenses.model import READ_PAGES_METER
from licenses.strict_json import instant_text

_DAY = timedelta(days=1)
_DIGEST = re.compile(r"[0-9a-f]{64}")


def instant(at: datetime) -> str:
    """Such as "2027-01-15 12:30 UTC"."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def day(at: datetime) -> str:
    """Such as "2027-01-15"."""
    return at.astimezone(UTC).strftime("%Y-%m-%d")


def last_day(at: datetime) -> str:
    """The last whole day before an exclusive end, such as that of a licence."""
    return day(at - timedelta(seconds=1))


def number(count: int) -> str:
    """With commas between thousands."""
    return f"{count:,}"


def meter(name: str) -> str:
    """What a meter counts, in a word; the name itself for one that is not ours."""
    return "pages" if name == READ_PAGES_METER else name


def size(count: int) -> str:
    """Bytes in a unit that fits."""
    for unit, scale in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} bytes"


def distance(then: datetime, now: datetime) -> str:
    """How far an instant is from now, in the largest unit that tells something: "in 3 days", "2 hours ago"."""
    delta = then - now
    text = span(abs(delta))
    if text == "now":
        return "just now"
    return f"in {text}" if delta > timedelta(0) else f"{text} ago"


def span(length: timedelta) -> str:
    """A length of time in one unit, rounded down."""
    for unit, one in (("day", _DAY), ("hour", timedelta(hours=1)), ("minute", timedelta(minutes=1))):
        count = length // one
        if count >= 1:
            return f"{count:,} {unit}{'' if count == 1 else 's'}"
    return "now"


def facts(members: Mapping[str, object]) -> str:
    """What a line of the audit trail tells besides, on one line; of a digest the first digits."""
    return " · ".join(f"{name.replace('_', ' ')}: {_value(value)}" for name, value in members.items())


def _value(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return number(value)
        case None:
            return "none"
        case str():
            return f"{value[:16]}…" if _DIGEST.fullmatch(value) else value
        case dict() if all(isinstance(one, int) for one in value.values()):
            return ", ".join(f"{number(count)} {meter(name)}" for name, count in value.items()) or "none"
        case _:
            return json.dumps(value, ensure_ascii=False)


FILTERS: Mapping[str, Callable[..., str]] = {
    "instant": instant,
    "day": day,
    "last_day": last_day,
    "number": number,
    "meter": meter,
    "size": size,
    "distance": distance,
    "wire": instant_text,
    "facts": facts,
}
"""By the names that templates know them by."""
