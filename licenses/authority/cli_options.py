"""What the commands of `licenses authority` share: where the database and the keys are, who acts, and how lists look.

Invariant: no option takes a key. What is given are places: of the database, of the key files, of a command that prints
a key.
"""

import os
import pwd
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from licenses.authority.accounts import Accounts
from licenses.authority.audit_trail import AuditTrail
from licenses.authority.database import Database, open_database
from licenses.authority.licensing import Licensing
from licenses.authority.vendor_keys import VendorKeys
from licenses.cli_text import FILE, now

DATABASE_OPTION = click.option(
    "--database",
    envvar="TOLLGATE_AUTHORITY_DATABASE",
    required=True,
    show_envvar=True,
    metavar="PLACE",
    help="The authority's database: a path, or sqlite:/// and a path.",
)
KEYS_OPTION = click.option(
    "--keys",
    "keys_folder",
    type=FILE,
    envvar="TOLLGATE_AUTHORITY_KEYS",
    required=True,
    show_envvar=True,
    help="The folder that keygen wrote.",
)
KEY_COMMAND_OPTION = click.option(
    "--key-command",
    envvar="TOLLGATE_AUTHORITY_KEY_COMMAND",
    show_envvar=True,
    help="Prints a private key, so that none need lie in the folder; {key_id} in it is the key wanted.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """What a command works with.

    Attributes:
        database: The database, open.
        trail: The audit trail, in the name of who runs the command.
        accounts: Customers, tiers, subscriptions and keys.
    """

    database: Database
    trail: AuditTrail
    accounts: Accounts

    def licensing(self, keys: VendorKeys) -> Licensing:
        """Devices and licences, with what they are signed with."""
        return Licensing(self.database, self.trail, keys, now)


@contextmanager
def open_books(place: str | Path, *, create: bool = False) -> Iterator[Books]:
    """Open the database for one command.

    Raises:
        AuthorityError: See `open_database`.
    """
    database = open_database(place, create=create)
    try:
        trail = AuditTrail(database, now, actor=f"cli:{_user()}")
        yield Books(database=database, trail=trail, accounts=Accounts(database, trail, now))
    finally:
        database.close()


def with_keys(command: Callable[..., None]) -> Callable[..., None]:
    """Both options that tell where keys come from."""
    return KEYS_OPTION(KEY_COMMAND_OPTION(command))


def columns(header: Sequence[str], rows: Sequence[Sequence[str]], *, nothing: str) -> list[str]:
    """A list for people: aligned, with its header; `nothing` where there are no rows."""
    if not rows:
        return [nothing]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (header, *rows)]


def plain(facts: Mapping[str, object]) -> dict[str, object]:
    """Members that JSON can hold: instants as text, bytes as hexadecimal."""
    return {name: _plain(value) for name, value in facts.items()}


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    isoformat = getattr(value, "isoformat", None)
    return value if isoformat is None else isoformat()


def _user() -> str:
    """Who runs the command, as the system knows him; for a user without a name, his number."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
