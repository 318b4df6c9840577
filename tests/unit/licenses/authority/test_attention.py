"""What a clerk should look at, counted: forks and findings of late, without remarks."""

from datetime import timedelta

import pytest

from licenses.authority.attention import WITHIN, Attention, attention
from licenses.errors import ForkError
from licenses.strict_json import instant_text


def _find(books, severity, *, days_ago, code="x"):
    at = instant_text(books.at - timedelta(days=days_ago))
    with books.database.writing() as tx:
        tx.execute(
            """INSERT INTO finding(origin, at, severity, code, place, message, digest)
               VALUES ('vendor.example/0', ?, ?, ?, '', 'm', ?)""",
            [at, severity, code, f"{severity}{days_ago}".encode().ljust(32, b"0")],
        )


def test_nothing_is_counted_where_nothing_was_found(books, appliance):
    assert attention(books.database, at=books.at) == Attention(forks=0, findings=0)


def test_remarks_and_what_is_long_ago_are_not_counted(books):
    for severity in ("gap", "tampered", "unreadable", "note"):
        _find(books, severity, days_ago=1)
        _find(books, severity, days_ago=WITHIN.days + 1)
    assert attention(books.database, at=books.at) == Attention(forks=0, findings=3)
    assert attention(books.database, at=books.at, within=timedelta(days=365)).findings == 6


def test_a_fork_is_counted(books, appliance):
    other = appliance.copy()
    appliance.meter.window(uses=1)
    other.meter.window(uses=2)
    books.take_bundle(appliance.bundle())
    with pytest.raises(ForkError):
        books.take_bundle(other.bundle())
    assert attention(books.database, at=books.at).forks == 1
    assert attention(books.database, at=books.at + WITHIN + timedelta(days=1)).forks == 0
