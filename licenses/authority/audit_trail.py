"""The audit trail: who changed what, and when; append-only and hash-chained.

Invariants:

* A line is written in the transaction of the change that it tells of: there is none without the other.
* Each line's hash covers the line and the hash before it, from seq 1 on without holes, so no line can be altered, taken
  out or put in between without every later hash changing. Who can write to the database can make the chain anew: a head
  that was noted elsewhere (`seq:hash`) shows that too, and shows a tail that was cut off.
* No line holds a key; an API key is named by the first digits of its digest.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from licenses.authority.database import Database, Transaction
from licenses.errors import FormatError, RecordError
from licenses.strict_json import canonical, instant_text, parse_instant

Clock = Callable[[], datetime]
"""The vendor's time: aware UTC, to the second."""

_ZERO = bytes(32)
_HASHED = ("seq", "at", "actor", "action", "subject", "facts")
_HEAD = re.compile(r"(0|[1-9][0-9]{0,15}):([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLine:
    """One change.

    Attributes:
        seq: From 1 on, without holes.
        at: UTC instant.
        actor: Who did it, such as "cli:anna", "clerk:anna", "api:SUBSCRIPTION".
        action: What was done, such as "customer.add".
        subject: To what: the id of a customer, subscription, device or licence.
        facts: What else is worth knowing; plain JSON values.
        hash: SHA-256 over the line and the hash before it, 32 bytes.
    """

    seq: int
    at: datetime
    actor: str
    action: str
    subject: str
    facts: Mapping[str, object]
    hash: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """The state of the trail after a number of lines; its text is to be noted elsewhere.

    Attributes:
        seq: How many lines.
        hash: The hash of the last of them; 32 zero bytes without any.
    """

    seq: int = 0
    hash: bytes = _ZERO

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash.hex()}"

    @classmethod
    def from_text(cls, text: str) -> "Head":
        """Read what `str` wrote.

        Raises:
            FormatError: It is something else.
        """
        found = _HEAD.fullmatch(text.strip())
        if found is None:
            raise FormatError("a head of the audit trail has the form SEQ:SHA256", next_step="Copy it as a whole.")
        return cls(int(found[1]), bytes.fromhex(found[2]))


class AuditTrail:
    """The trail of one database, as one actor writes it.

    Args:
        database: Where it is kept.
        clock: The vendor's time.
        actor: Who acts, 1 to 100 printable characters.
    """

    def __init__(self, database: Database, clock: Clock, *, actor: str) -> None:
        if not (1 <= len(actor) <= 100 and actor.isprintable()):
            raise FormatError("an actor's name has 1 to 100 printable characters", next_step="Choose another name.")
        self._database = database
        self._clock = clock
        self._actor = actor

    @property
    def actor(self) -> str:
        """Who acts."""
        return self._actor

    def by(self, actor: str) -> "AuditTrail":
        """The same trail, as another actor writes it."""
        return AuditTrail(self._database, self._clock, actor=actor)

    def record(self, tx: Transaction, action: str, subject: str, facts: Mapping[str, object] | None = None) -> Head:
        """Write one line, in the transaction of the change itself.

        Args:
            tx: That transaction.
            action: What was done; words joined by a dot.
            subject: To what.
            facts: Plain JSON values, no floats, nothing secret.

        Raises:
            AuthorityError: The database refused it.
            FormatError: The facts have no JSON form.
        """
        last = tx.one("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")
        head = Head() if last is None else Head(last["seq"], last["hash"])
        at, text = instant_text(self._clock()), canonical(dict(facts or {})).decode("ascii")
        seq = head.seq + 1
        members = [seq, at, self._actor, action, subject, text]
        digest = _hash(head.hash, members)
        tx.execute(
            "INSERT INTO audit(seq, at, actor, action, subject, facts, hash) VALUES (?, ?, ?, ?, ?, ?, ?)",
            [*members, digest],
        )
        return Head(seq, digest)

    def lines(self, *, subject: str | None = None, limit: int = 100) -> list[AuditLine]:
        """The newest lines, the newest first.

        Args:
            subject: Of this subject alone.
            limit: At most so many.
        """
        wanted, params = ("", [limit]) if subject is None else ("WHERE subject = ?", [subject, limit])
        rows = self._database.query(f"SELECT * FROM audit {wanted} ORDER BY seq DESC LIMIT ?", params)  # noqa: S608
        return list(map(_line, rows))

    def verify(self, expected: Head | None = None) -> Head:
        """Compute the whole chain again.

        Args:
            expected: A head that was noted elsewhere; the trail must go through it.

        Returns:
            The head as it is now.

        Raises:
            RecordError: A line was altered, taken out or put in, or the trail does not go through `expected`.
        """
        head = Head()
        if expected is not None and expected.seq == 0:
            expected = None
        for row in self._database.query("SELECT * FROM audit ORDER BY seq"):
            if row["seq"] != head.seq + 1:
                raise _broken(f"line {head.seq + 1} is missing")
            digest = _hash(head.hash, [row[name] for name in _HASHED])
            if digest != row["hash"]:
                raise _broken(f"line {row['seq']} or one before it was altered")
            head = Head(row["seq"], digest)
            if expected is not None and expected.seq == head.seq and expected != head:
                raise _broken(f"the lines up to {head.seq} are not those that had the hash {expected.hash.hex()[:16]}…")
        if expected is not None and head.seq < expected.seq:
            raise _broken(f"it ends at line {head.seq}; it went on to {expected.seq} once")
        return head


def _hash(previous: bytes, members: Sequence[object]) -> bytes:
    return hashlib.sha256(previous + canonical(list(members))).digest()


def _line(row: Mapping[str, object]) -> AuditLine:
    digest, seq = row["hash"], row["seq"]
    if not isinstance(digest, bytes) or not isinstance(seq, int):
        raise RecordError("a line of the audit trail is damaged")
    return AuditLine(
        seq=seq,
        at=parse_instant(str(row["at"]), what="the time of a line of the audit trail"),
        actor=str(row["actor"]),
        action=str(row["action"]),
        subject=str(row["subject"]),
        facts=json.loads(str(row["facts"])),
        hash=digest,
    )


def _broken(cause: str) -> RecordError:
    return RecordError(
        f"the audit trail does not hold: {cause}",
        next_step="Keep the database as it is, and compare it with the newest backup.",
    )
