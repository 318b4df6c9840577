"""`licenses authority password`: who may use the clerk's page.

Invariant: a password is typed at a prompt, or comes over standard input when that is no terminal; it is never an
argument, an environment variable or part of a message.
"""

import sys
from pathlib import Path

import click

from licenses.authority.cli_options import DATABASE_OPTION, Books, open_books
from licenses.authority.passwords import LONGEST, SHORTEST, PasswordFile, require_name
from licenses.cli_text import FILE, JSON_OPTION, show
from licenses.errors import ClerkAccessError

PASSWORDS_OPTION = click.option(
    "--passwords",
    "passwords_file",
    type=FILE,
    envvar="TOLLGATE_AUTHORITY_PASSWORDS",
    show_envvar=True,
    metavar="FILE",
    help="The file of the clerks' passwords, for the service's user alone.  [default: 'passwords' beside the database]",
)


@click.command()
@DATABASE_OPTION
@PASSWORDS_OPTION
@click.option("--name", default="clerk", show_default=True, help="The clerk's name; the audit trail will hold it.")
@click.option("--remove", is_flag=True, help="Take this clerk's password away.")
@click.option("--list", "listed", is_flag=True, help="Tell who has a password.")
@JSON_OPTION
def password(
    *, database: str, passwords_file: Path | None, name: str, remove: bool, listed: bool, as_json: bool
) -> None:
    """Set the password of a clerk for the service's page; it is asked for twice.

    It counts at once, and logs out whoever is logged in under the name. Without a terminal, one line is read from
    standard input.
    """
    if remove and listed:
        raise click.UsageError("Give --remove or --list, not both.")
    with open_books(database) as books:
        file = PasswordFile(passwords_file or beside(books.database.path))
        if listed:
            names = file.names()
            show({"clerks": names}, names or [f"Nobody has a password in {file.path}."], as_json=as_json)
            return
        if remove:
            file.remove(name)
            _note(books, "clerk.remove", name)
            lines = [f"{name} has no password any more, and is logged out."]
            show({"clerk": name, "set": False}, lines, as_json=as_json)
            return
        require_name(name)
        known = file.set(name, _asked(name))
        _note(books, "clerk.password", name)
    facts = {"clerk": name, "set": True, "replaced": known, "file": str(file.path)}
    lines = [f"{name} has {'another' if known else 'a'} password, kept as a hash in {file.path}."]
    show(facts, lines, as_json=as_json)


COMMANDS: tuple[click.Command, ...] = (password,)


def beside(database: Path) -> Path:
    """Where the passwords are unless it is said otherwise."""
    return database.parent / "passwords"


def _note(books: Books, action: str, name: str) -> None:
    with books.database.writing() as tx:
        books.trail.record(tx, action, name)


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _asked(name: str) -> str:
    if _is_terminal():
        typed: str = click.prompt(
            f"Password of {name} ({SHORTEST} to {LONGEST} characters)",
            hide_input=True,
            confirmation_prompt="The same again",
            err=True,
        )
        return typed
    line = sys.stdin.readline(LONGEST + 2)
    if not line:
        raise ClerkAccessError(
            "there is no terminal to ask for the password, and nothing on standard input",
            next_step="Run the command in a terminal.",
        )
    return line.rstrip("\n").removesuffix("\r")
