"""`licenses authority password`: asked for, never given."""

import json

import pytest
from click.testing import CliRunner

from licenses.authority import cli_clerk
from licenses.authority.audit_trail import AuditTrail
from licenses.authority.cli import authority
from licenses.authority.database import open_database
from licenses.authority.passwords import PasswordFile
from licenses.cli_text import now
from licenses.errors import ClerkAccessError

GOOD = "four words nobody joins"


@pytest.fixture
def place(tmp_path):
    open_database(tmp_path / "authority.db", create=True).close()
    return tmp_path


@pytest.fixture
def run(place):
    def command(*words, typed=""):
        done = CliRunner().invoke(
            authority, ["password", "--database", str(place / "authority.db"), *words], input=typed
        )
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    return command


def _actions(place):
    database = open_database(place / "authority.db")
    try:
        return [(line.action, line.subject) for line in AuditTrail(database, now, actor="test").lines()]
    finally:
        database.close()


def test_a_password_is_read_from_a_line_and_kept_beside_the_database(place, run):
    done = run("--name", "anna", typed=f"{GOOD}\n")
    assert (done.exit_code, done.output) == (0, f"anna has a password, kept as a hash in {place / 'passwords'}.\n")
    assert PasswordFile(place / "passwords").verify("anna", GOOD) is not None
    done = run("--name", "anna", "--json", typed=f"{GOOD}\r\n")
    assert json.loads(done.output)["replaced"] is True
    assert PasswordFile(place / "passwords").verify("anna", GOOD) is not None
    assert _actions(place) == [("clerk.password", "anna"), ("clerk.password", "anna")]


def test_it_is_asked_for_twice_at_a_terminal(place, run, monkeypatch):
    monkeypatch.setattr(cli_clerk, "_is_terminal", lambda: True)
    done = run(typed=f"{GOOD}\n{GOOD}\n")
    assert done.exit_code == 0
    assert GOOD not in done.output
    assert done.output.count("Password of clerk") == 1
    assert "The same again" in done.output
    done = run(typed=f"{GOOD}\nanother one, mistyped\n{GOOD}\n{GOOD}\n")
    assert done.exit_code == 0
    assert "do not match" in done.output


def test_another_place_can_be_named(place, run):
    run("--passwords", str(place / "elsewhere" / "file"), typed=GOOD)
    assert PasswordFile(place / "elsewhere" / "file").names() == ["clerk"]
    assert not (place / "passwords").exists()


def test_a_list_and_a_removal(place, run):
    assert "Nobody has a password" in run("--list").output
    run("--name", "anna", typed=GOOD)
    assert json.loads(run("--list", "--json").output) == {"clerks": ["anna"]}
    assert "logged out" in run("--name", "anna", "--remove").output
    assert json.loads(run("--list", "--json").output) == {"clerks": []}
    assert _actions(place)[0] == ("clerk.remove", "anna")
    with pytest.raises(ClerkAccessError):
        run("--name", "anna", "--remove")
    assert run("--list", "--remove").exit_code == 2


def test_nothing_to_read_is_told_with_a_next_step(place, run):
    with pytest.raises(ClerkAccessError, match="no terminal") as caught:
        run()
    assert "terminal" in caught.value.next_step
    assert not (place / "passwords").exists()


def test_a_refused_password_is_not_repeated_and_leaves_no_trace(place, run):
    with pytest.raises(ClerkAccessError) as caught:
        run(typed="tiny secret\n")
    assert "tiny" not in str(caught.value) + caught.value.next_step
    assert _actions(place) == []
