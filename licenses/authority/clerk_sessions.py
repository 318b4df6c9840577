"""Who is logged in to the clerk's page, and how often somebody tried in vain.

Invariants:

* A session is known by a random secret of 256 bits that only the browser has; here is its SHA-256 alone. Each login
  makes a new one, so that nobody can prepare a session for another.
* A session ends by itself after half an hour without a request and ten hours after its beginning, whatever is done in
  it; and with the password that it was begun with (its stamp, see `passwords`).
* A try is counted before the password is looked at, and forgotten only when it was the right one: tries at the same
  time, other processes and restarts are no way around the limit.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from licenses.authority.database import Database
from licenses.errors import TooManyTriesError
from licenses.strict_json import instant_text, parse_instant

IDLE = timedelta(minutes=30)
LONGEST = timedelta(hours=10)
TRIES_WITHIN = timedelta(minutes=15)
TRIES_FROM_ONE_PLACE = 5
TRIES_OF_ONE_NAME = 100
MAX_SESSIONS = 1000
_NOTED_EVERY = timedelta(minutes=1)
_CLOCK_STEP = timedelta(minutes=5)  # which a clock may go back without logging anybody out


@dataclass(frozen=True, slots=True, kw_only=True)
class ClerkSession:
    """One clerk in one browser.

    Attributes:
        name: The clerk.
        stamp: Of the password that was given.
        begun_at: UTC instant of the login.
        seen_at: UTC instant of the last request, to the minute or better.
    """

    name: str
    stamp: str
    begun_at: datetime
    seen_at: datetime


class ClerkSessions:
    """The sessions and the failed logins.

    Args:
        database: Where they are kept, so that all processes know of them.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, name: str, stamp: str, *, at: datetime) -> str:
        """Log a clerk in.

        Args:
            name: The clerk.
            stamp: Of the password that was given.
            at: Now, aware UTC, to the second.

        Returns:
            The session's secret, for the browser alone.
        """
        secret = secrets.token_urlsafe(32)
        with self._database.writing() as tx:
            tx.execute(
                "DELETE FROM clerk_session WHERE seen_at < ? OR begun_at < ?",
                (instant_text(at - IDLE), instant_text(at - LONGEST)),
            )
            tx.execute(
                "DELETE FROM clerk_session WHERE digest IN"
                " (SELECT digest FROM clerk_session ORDER BY seen_at DESC LIMIT -1 OFFSET ?)",
                (MAX_SESSIONS - 1,),
            )
            tx.execute(
                "INSERT INTO clerk_session (digest, name, stamp, begun_at, seen_at) VALUES (?, ?, ?, ?, ?)",
                (_digest(secret), name, stamp, instant_text(at), instant_text(at)),
            )
        return secret

    def find(self, secret: str, *, at: datetime) -> ClerkSession | None:
        """The session with this secret, if it has not ended.

        Args:
            secret: What the browser sent.
            at: Now, aware UTC, to the second; remembered as the time of the last request.
        """
        digest = _digest(secret)
        row = self._database.one("SELECT * FROM clerk_session WHERE digest = ?", (digest,))
        if row is None:
            return None
        session = ClerkSession(
            name=str(row["name"]),
            stamp=str(row["stamp"]),
            begun_at=parse_instant(str(row["begun_at"]), what="begun_at"),
            seen_at=parse_instant(str(row["seen_at"]), what="seen_at"),
        )
        if not session.begun_at - _CLOCK_STEP <= at < session.begun_at + LONGEST or at >= session.seen_at + IDLE:
            self.end(secret)
            return None
        if at >= session.seen_at + _NOTED_EVERY:
            with self._database.writing() as tx:
                tx.execute("UPDATE clerk_session SET seen_at = ? WHERE digest = ?", (instant_text(at), digest))
        return session

    def end(self, secret: str) -> None:
        """Log out; a secret that is none is passed over."""
        with self._database.writing() as tx:
            tx.execute("DELETE FROM clerk_session WHERE digest = ?", (_digest(secret),))

    def count_try(self, name: str, place: str, *, at: datetime) -> None:
        """Count a login before its password is looked at.

        Args:
            name: The name that was given, whether there is such a clerk or not.
            place: From where, as `clerk_access.neighbourhood` tells it.
            at: Now, aware UTC, to the second.

        Raises:
            TooManyTriesError: There were too many; this one was not counted.
        """
        since = instant_text(at - TRIES_WITHIN)
        with self._database.writing() as tx:
            tx.execute(
                "DELETE FROM clerk_try WHERE tried_at < ? OR tried_at > ?", (since, instant_text(at + TRIES_WITHIN))
            )
            for column, value, limit in (("place", place, TRIES_FROM_ONE_PLACE), ("name", name, TRIES_OF_ONE_NAME)):
                last_allowed = tx.one(
                    f"SELECT tried_at FROM clerk_try WHERE {column} = ? ORDER BY tried_at DESC LIMIT 1 OFFSET ?",  # noqa: S608 - one of the two words above
                    (value, limit - 1),
                )
                if last_allowed is not None:
                    free_at = parse_instant(str(last_allowed["tried_at"]), what="tried_at") + TRIES_WITHIN
                    wait = max(1, int((free_at - at).total_seconds()))
                    raise TooManyTriesError(
                        f"too many logins failed; the next one is looked at in {_minutes(wait)}", retry_after=wait
                    )
            tx.execute(
                "INSERT INTO clerk_try (name, place, tried_at) VALUES (?, ?, ?)", (name, place, instant_text(at))
            )

    def forget_tries(self, name: str, place: str) -> None:
        """Forget the tries that led to a login; those from there for other names stay counted."""
        with self._database.writing() as tx:
            tx.execute("DELETE FROM clerk_try WHERE name = ? AND place = ?", (name, place))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _minutes(seconds: int) -> str:
    minutes = -(-seconds // 60)
    return "a minute" if minutes == 1 else f"{minutes} minutes"
