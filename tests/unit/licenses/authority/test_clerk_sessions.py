"""Sessions that end, and tries that are counted."""

from datetime import UTC, datetime, timedelta

import pytest

from licenses.authority.clerk_sessions import (
    IDLE,
    LONGEST,
    MAX_SESSIONS,
    TRIES_FROM_ONE_PLACE,
    TRIES_OF_ONE_NAME,
    TRIES_WITHIN,
    ClerkSessions,
)
from licenses.authority.database import open_database
from licenses.errors import TooManyTriesError

NOW = datetime(2027, 1, 15, 12, 0, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture
def database(tmp_path):
    one = open_database(tmp_path / "authority.db", create=True)
    yield one
    one.close()


@pytest.fixture
def sessions(database):
    return ClerkSessions(database)


def test_a_session_is_found_by_its_secret_alone(database, sessions):
    secret = sessions.begin("anna", "stamp", at=NOW)
    found = sessions.find(secret, at=NOW + SECOND)
    assert found is not None
    assert (found.name, found.stamp, found.begun_at) == ("anna", "stamp", NOW)
    assert sessions.find(secret + "x", at=NOW) is None
    assert sessions.find("", at=NOW) is None
    (row,) = database.query("SELECT * FROM clerk_session")
    assert secret not in map(str, row.values())
    assert sessions.find(row["digest"], at=NOW) is None


def test_every_login_has_a_secret_of_its_own(sessions):
    secrets = {sessions.begin("anna", "stamp", at=NOW) for _ in range(20)}
    assert len(secrets) == 20
    assert min(map(len, secrets)) >= 43


def test_a_session_ends_when_nothing_is_asked(sessions):
    secret = sessions.begin("anna", "stamp", at=NOW)
    assert sessions.find(secret, at=NOW + IDLE - SECOND) is not None
    assert sessions.find(secret, at=NOW + IDLE + IDLE - 2 * SECOND) is not None
    assert sessions.find(secret, at=NOW + 3 * IDLE - 2 * SECOND) is None
    assert sessions.find(secret, at=NOW + IDLE) is None  # and does not come back


def test_a_session_ends_however_much_is_asked(sessions):
    secret, at = sessions.begin("anna", "stamp", at=NOW), NOW
    while at < NOW + LONGEST - SECOND:
        assert sessions.find(secret, at=at) is not None
        at += timedelta(minutes=20)
    assert sessions.find(secret, at=NOW + LONGEST) is None


def test_a_clock_that_steps_back_a_little_logs_nobody_out(sessions):
    secret = sessions.begin("anna", "stamp", at=NOW)
    assert sessions.find(secret, at=NOW - timedelta(minutes=1)) is not None
    assert sessions.find(secret, at=NOW - timedelta(hours=1)) is None


def test_logging_out_ends_it(sessions):
    one, other = sessions.begin("anna", "stamp", at=NOW), sessions.begin("anna", "stamp", at=NOW)
    sessions.end(one)
    sessions.end("nothing")
    assert sessions.find(one, at=NOW) is None
    assert sessions.find(other, at=NOW) is not None


def test_sessions_do_not_pile_up(database, sessions, monkeypatch):
    monkeypatch.setattr("licenses.authority.clerk_sessions.MAX_SESSIONS", 3)
    kept = [sessions.begin("anna", "stamp", at=NOW + number * SECOND) for number in range(5)]
    assert [sessions.find(one, at=NOW + 5 * SECOND) is not None for one in kept] == [False, False, True, True, True]
    sessions.begin("anna", "stamp", at=NOW + LONGEST + 9 * SECOND)
    assert database.one("SELECT count(*) AS n FROM clerk_session") == {"n": 1}
    assert MAX_SESSIONS == 1000


def test_the_sixth_try_from_one_place_is_not_looked_at(sessions):
    for number in range(TRIES_FROM_ONE_PLACE):
        sessions.count_try(f"name{number}", "192.0.2.7", at=NOW + number * SECOND)
    with pytest.raises(TooManyTriesError) as caught:
        sessions.count_try("anna", "192.0.2.7", at=NOW + 10 * SECOND)
    assert caught.value.retry_after == (TRIES_WITHIN - 10 * SECOND).total_seconds()
    assert "15 minutes" in str(caught.value)
    sessions.count_try("anna", "192.0.2.8", at=NOW + 10 * SECOND)
    sessions.count_try("anna", "192.0.2.7", at=NOW + TRIES_WITHIN + SECOND)


def test_a_name_has_its_limit_from_many_places(sessions):
    for number in range(TRIES_OF_ONE_NAME):
        sessions.count_try("anna", f"place {number}", at=NOW)
    with pytest.raises(TooManyTriesError):
        sessions.count_try("anna", "elsewhere", at=NOW)
    sessions.count_try("bert", "elsewhere", at=NOW)


def test_a_login_forgets_its_own_tries_and_no_others(sessions):
    for name in ("anna", "anna", "bert", "bert", "bert"):
        sessions.count_try(name, "192.0.2.7", at=NOW)
    sessions.forget_tries("anna", "192.0.2.7")
    sessions.count_try("bert", "192.0.2.7", at=NOW)
    sessions.count_try("bert", "192.0.2.7", at=NOW)
    with pytest.raises(TooManyTriesError):
        sessions.count_try("anna", "192.0.2.7", at=NOW)


def test_tries_are_counted_through_a_restart(database, sessions):
    for _ in range(TRIES_FROM_ONE_PLACE):
        sessions.count_try("anna", "192.0.2.7", at=NOW)
    other = open_database(database.path)
    try:
        with pytest.raises(TooManyTriesError):
            ClerkSessions(other).count_try("anna", "192.0.2.7", at=NOW)
    finally:
        other.close()
