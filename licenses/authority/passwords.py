"""The file of the clerks' passwords; the only file that imports argon2.

Invariants:

* A password is kept as its Argon2id hash, in a file that nobody but its owner may open; it is never printed, logged
  or taken from an argument.
* The file is read at each question, so that a password that is set, changed or removed counts at once.
* Whether a name is unknown or its password is wrong cannot be told by the time that the answer takes.
* At most one hash is computed at a time in a process, and few wait for it: guessing costs the service 64 MiB and a few
  threads at most, however many guess.

The library is loaded when it is first needed: the rest of `licenses authority` works without the extra.

One line per clerk: the name, a colon, and the hash in PHC form. The cost is the second choice of RFC 9106, section 4:
3 passes over 64 MiB in 4 lanes.
"""

import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import secrets
import threading
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from licenses import durable
from licenses.errors import BusyError, ClerkAccessError, FormatError, KeyFileError
from licenses.keys import read_small_file

if TYPE_CHECKING:
    from argon2 import PasswordHasher

SHORTEST = 12
LONGEST = 256
MAX_CLERKS = 200
NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
_LINE = re.compile(r"([a-z0-9][a-z0-9._@-]{0,63}):(\$argon2id\$[!-~]{20,256})")
_MAX_FILE_BYTES = 64 * 1024
_PATIENCE_SECONDS = 10
_RETRY_SECONDS = 5
_ONE_AT_A_TIME = threading.Lock()
_QUEUE = threading.BoundedSemaphore(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one guess costs.

    Attributes:
        memory_kib: Memory that is gone through, in KiB.
        passes: How often.
        lanes: How many threads may share the work.
    """

    memory_kib: int = 64 * 1024
    passes: int = 3
    lanes: int = 4


USUAL_COST = Cost()


class PasswordFile:
    """Who may use the clerk's page, and what proves it.

    Args:
        path: The file; without it nobody has a password.
        cost: Of the hashes that are made from now on; older ones are verified at the cost they were made with.
    """

    def __init__(self, path: Path, *, cost: Cost = USUAL_COST) -> None:
        self.path = path
        self._hasher = _hasher(cost)
        self._nobodys: str | None = None

    def names(self) -> list[str]:
        """The clerks who have a password, in the order of the alphabet.

        Raises:
            KeyFileError: The file cannot be read, or others than its owner may open it.
            FormatError: It is not what `set` wrote.
        """
        return sorted(self._read())

    def set(self, name: str, password: str) -> bool:
        """Give a clerk a password, or another one; whoever is logged in under the name is logged out by it.

        Args:
            name: 1 to 64 lower-case letters, digits, and `.`, `_`, `@`, `-`.
            password: 12 to 256 characters; another form of the same Unicode text is the same password.

        Returns:
            Whether the clerk had a password before.

        Raises:
            ClerkAccessError: The name or the password will not do.
            KeyFileError: The file cannot be read or written.
            FormatError: It is not what this wrote.
        """
        require_name(name)
        _require_good(name, password)
        with self._alone():
            hashes = self._read()
            known = name in hashes
            if not known and len(hashes) >= MAX_CLERKS:
                raise ClerkAccessError(f"{self.path} holds {MAX_CLERKS} clerks, and no more will be added")
            self._write({**hashes, name: self._hash(_text(password))})
        return known

    def remove(self, name: str) -> None:
        """Take a clerk's password away; whoever is logged in under the name is logged out by it.

        Raises:
            ClerkAccessError: There is no such clerk.
            KeyFileError: The file cannot be read or written.
            FormatError: It is not what `set` wrote.
        """
        with self._alone():
            hashes = self._read()
            if name not in hashes:
                raise ClerkAccessError(
                    f"no clerk {name!r} has a password in {self.path}",
                    next_step="'licenses authority password --list' tells who has one.",
                )
            self._write({one: kept for one, kept in hashes.items() if one != name})

    def stamp(self, name: str) -> str | None:
        """What changes with the clerk's password, and tells nothing of it; None when the clerk has none.

        Raises:
            KeyFileError: The file cannot be read, or others than its owner may open it.
            FormatError: It is not what `set` wrote.
        """
        kept = self._read().get(name)
        return None if kept is None else _stamp_of(kept)

    def verify(self, name: str, password: str) -> str | None:
        """Whether this is the clerk's password: its stamp, else None.

        Raises:
            BusyError: Too many are being verified already.
            KeyFileError: The file cannot be read, or others than its owner may open it.
            FormatError: It is not what `set` wrote.
        """
        kept = self._read().get(name)
        with _turn():
            if self._nobodys is None:
                self._nobodys = self._hasher.hash(secrets.token_hex(16))
            good = self._holds(kept or self._nobodys, _text(password[: LONGEST + 1]))
        return _stamp_of(kept) if good and kept is not None else None

    def _hash(self, password: str) -> str:
        with _ONE_AT_A_TIME:
            return self._hasher.hash(password)

    def _holds(self, kept: str, password: str) -> bool:
        from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

        try:
            return self._hasher.verify(kept, password)
        except VerifyMismatchError:
            return False
        except (InvalidHashError, VerificationError) as exc:
            raise _damaged(self.path, "a hash") from exc

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other writers out, from the reading to the writing."""
        lock = self.path.with_name(f".{self.path.name}.lock")
        try:
            durable.make_folders(lock.parent, mode=0o700)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            raise KeyFileError.from_os_error(
                exc, self.path.parent, doing="write the passwords to", mode="0700"
            ) from exc
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _read(self) -> dict[str, str]:
        try:
            blob = read_small_file(
                self.path, doing="read the passwords", mode="0600", private=True, max_bytes=_MAX_FILE_BYTES
            )
        except KeyFileError as exc:
            if isinstance(exc.__cause__, FileNotFoundError):
                return {}
            raise
        hashes: dict[str, str] = {}
        for number, line in enumerate(blob.decode("ascii", "replace").splitlines(), start=1):
            if not line.strip() or line.startswith("#"):
                continue
            found = _LINE.fullmatch(line)
            if found is None or found[1] in hashes:
                raise _damaged(self.path, f"line {number}")
            hashes[found[1]] = found[2]
        return hashes

    def _write(self, hashes: dict[str, str]) -> None:
        lines = "".join(f"{name}:{kept}\n" for name, kept in sorted(hashes.items()))
        try:
            durable.write_file(self.path, [lines.encode("ascii")], mode=0o600, overwrite=True)
            if os.geteuid() == 0:  # set by root, for a service that is not: it owns the folder
                owner = self.path.parent.stat()
                os.chown(self.path, owner.st_uid, owner.st_gid)
        except OSError as exc:
            raise KeyFileError.from_os_error(exc, self.path, doing="write the passwords", mode="0600") from exc


def require_name(name: str) -> None:
    """Refuse what cannot be a clerk's name.

    Raises:
        ClerkAccessError: It is empty, too long, or holds other characters than a name may.
    """
    if NAME.fullmatch(name) is None:
        raise ClerkAccessError(
            f"{name[:80]!r} is no name for a clerk",
            next_step="Take 1 to 64 lower-case letters, digits, and '.', '_', '@' or '-', such as 'anna'.",
        )


def same_stamp(one: str, other: str | None) -> bool:
    """Whether two stamps are of the same password; in the same time wherever they differ."""
    return other is not None and hmac.compare_digest(one, other)


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    """Wait to be the one whose hash is computed, unless too many wait already."""
    if not _QUEUE.acquire(blocking=False):
        raise _too_many()
    try:
        if not _ONE_AT_A_TIME.acquire(timeout=_PATIENCE_SECONDS):
            raise _too_many()
        try:
            yield
        finally:
            _ONE_AT_A_TIME.release()
    finally:
        _QUEUE.release()


def _too_many() -> BusyError:
    return BusyError("too many log in at the same time", retry_after=_RETRY_SECONDS)


def _hasher(cost: Cost) -> "PasswordHasher":
    try:
        from argon2 import PasswordHasher
    except ImportError as exc:
        raise ClerkAccessError(
            "the library argon2-cffi is not installed here, and passwords are kept by it",
            next_step="Install the extra 'authority' of this product: pip install 'tollgate[authority]'.",
        ) from exc
    return PasswordHasher(time_cost=cost.passes, memory_cost=cost.memory_kib, parallelism=cost.lanes, encoding="utf-8")


def _require_good(name: str, password: str) -> None:
    if not SHORTEST <= len(password) <= LONGEST:
        raise ClerkAccessError(
            f"a password has {SHORTEST} to {LONGEST} characters",
            next_step="Take four or more words that nobody would put together.",
        )
    if not password.isprintable() or len(set(password)) < 5 or (name in password.casefold() and len(name) > 3):
        raise ClerkAccessError(
            "the password holds the clerk's name, too few different characters, or some that cannot be typed",
            next_step="Take four or more words that nobody would put together.",
        )


def _text(password: str) -> str:
    return unicodedata.normalize("NFC", password)


def _stamp_of(kept: str) -> str:
    return hashlib.sha256(b"tollgate clerk password\0" + kept.encode("ascii")).hexdigest()


def _damaged(path: Path, where: str) -> FormatError:
    return FormatError(
        f"{path} is not a file of passwords: {where} cannot be read",
        next_step=f"Move {path} aside and set the passwords again: licenses authority password.",
    )
