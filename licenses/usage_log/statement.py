"""The statement for one-way sites: a checkpoint and the pages per month in one signed note, short enough for a QR code.

    vendor.example/0123456789abcdef
    1234
    AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=
    until 2027-03-05T09:30:00Z
    before 2026-12 5120                      pages of all months before that one; left out when there are none
    pages 2026-12 310 0 4711 12              pages of that month and of those after it

    — vendor.example/0123456789abcdef …

Invariants:

* It is a checkpoint in the sense of C2SP tlog-checkpoint, with extension lines, signed by the device: the numbers are
  the device's word, the root binds it to the records, which prove the numbers when they are seen.
* It tells of sealed entries alone, and of at most `MAX_MONTHS` months one by one.
* A statement has exactly one spelling.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from licenses.device_key import device_id_of
from licenses.errors import FormatError, RecordError, UntrustedKeyError
from licenses.keys import SigningKey, VerifyingKey
from licenses.strict_json import MAX_INTEGER, instant_text, parse_instant
from licenses.usage_log.note import Checkpoint, open_extended, sign_extended, unverified_extended

MAX_MONTHS = 12

_MONTH = re.compile("([0-9]{4})-(0[1-9]|1[0-2])")
_NUMBER = re.compile("0|[1-9][0-9]{0,15}")
_EVALUATION = "evaluation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What a device tells of its use.

    Attributes:
        checkpoint: The state of its log.
        until: The effective time at which the last window closed, aware UTC, to the second.
        first_month: The first of the months told one by one, "YYYY-MM"; empty when nothing was used.
        pages: Pages of that month and of those after it.
        before: Pages of all months before.
        evaluation: Whether it was made under an evaluation licence.
    """

    checkpoint: Checkpoint
    until: datetime
    first_month: str = ""
    pages: tuple[int, ...] = ()
    before: int = 0
    evaluation: bool = False

    def __post_init__(self) -> None:
        if len(self.pages) > MAX_MONTHS or bool(self.pages) != bool(_MONTH.fullmatch(self.first_month)):
            raise RecordError(f"a statement tells of a first month and at most {MAX_MONTHS} months from there on")
        if any(not 0 <= pages <= MAX_INTEGER for pages in (*self.pages, self.before)) or (
            self.before and not self.pages
        ):
            raise RecordError("a statement's pages must be whole numbers from 0 on")

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, months: Mapping[str, int], *, until: datetime, evaluation: bool = False
    ) -> "Statement":
        """Tell the newest months one by one, and sum up those before.

        Args:
            checkpoint: The state of the log.
            months: Pages per month "YYYY-MM", over all of the log.
            until: The effective time at which the last window closed.
            evaluation: Whether it is made under an evaluation licence.

        Raises:
            RecordError: A month is none, or the pages are no numbers.
        """
        used = sorted(month for month, pages in months.items() if pages)
        if not used:
            return cls(checkpoint=checkpoint, until=until, evaluation=evaluation)
        last = _count(used[-1])
        first = max(_count(used[0]), last - MAX_MONTHS + 1)
        return cls(
            checkpoint=checkpoint,
            until=until,
            first_month=_name(first),
            pages=tuple(months.get(_name(month), 0) for month in range(first, last + 1)),
            before=sum(pages for month, pages in months.items() if _count(month) < first),
            evaluation=evaluation,
        )

    @property
    def months(self) -> dict[str, int]:
        """Pages per month, those told one by one."""
        return {_name(month): pages for month, pages in enumerate(self.pages, start=_start(self.first_month))}

    @property
    def total(self) -> int:
        """Pages over all of the log."""
        return self.before + sum(self.pages)

    def sign(self, key: SigningKey) -> str:
        """The note, signed by the device's key.

        Raises:
            RecordError: The log is not that device's.
        """
        if self.checkpoint.origin.rpartition("/")[2] != device_id_of(key.verifying.raw):
            raise RecordError(f"the log {self.checkpoint.origin} is not of this device")
        return sign_extended(self.checkpoint, self.to_lines(), key)

    def to_lines(self) -> list[str]:
        """The extension lines of the note."""
        lines = [f"until {instant_text(self.until)}"]
        if self.before:
            lines.append(f"before {self.first_month} {self.before}")
        if self.pages:
            lines.append(f"pages {self.first_month} {' '.join(map(str, self.pages))}")
        return [*lines, _EVALUATION] if self.evaluation else lines


def open_statement(note: str, device: VerifyingKey) -> Statement:
    """Verify a statement and read it.

    Args:
        note: The whole note, with or without the last line end.
        device: The device's public key, known otherwise.

    Raises:
        RecordError: It is no statement.
        UntrustedKeyError: It is not of this device.
        BadSignatureError: The signature does not hold.
    """
    whole = note.replace("\r\n", "\n").rstrip("\n") + "\n"
    origin = unverified_extended(whole)[0].origin
    if origin.rpartition("/")[2] != device_id_of(device.raw):
        raise UntrustedKeyError(
            f"the statement is of {origin}, not of the device {device_id_of(device.raw)}",
            next_step="Give the public key of the device that the statement names.",
        )
    checkpoint, lines = open_extended(whole, {origin: device})
    statement = _from_lines(checkpoint, lines)
    if list(lines) != statement.to_lines():
        raise RecordError("the statement is not spelled as it must be")
    return statement


def _from_lines(checkpoint: Checkpoint, lines: tuple[str, ...]) -> Statement:
    words = {line.partition(" ")[0]: line.split(" ")[1:] for line in lines}
    try:
        until = parse_instant(" ".join(words.get("until", [])), what="the statement's time")
    except FormatError as exc:
        raise RecordError(f"this is no statement: {exc}") from exc
    first, *pages = words.get("pages", [""])
    _, *before = words.get("before", [""])
    if any(_NUMBER.fullmatch(one) is None for one in (*pages, *before)) or len(before) > 1:
        raise RecordError("the statement's pages are no numbers")
    return Statement(
        checkpoint=checkpoint,
        until=until,
        first_month=first,
        pages=tuple(map(int, pages)),
        before=int(before[0]) if before else 0,
        evaluation=_EVALUATION in words,
    )


def _start(month: str) -> int:
    return _count(month) if month else 0


def _count(month: str) -> int:
    """Months since the year 0."""
    found = _MONTH.fullmatch(month)
    if found is None:
        raise RecordError(f"{month!r:.20} is no month such as 2027-03")
    return int(found[1]) * 12 + int(found[2]) - 1


def _name(count: int) -> str:
    return f"{count // 12:04d}-{count % 12 + 1:02d}"
