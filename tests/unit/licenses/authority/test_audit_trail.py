"""The audit trail: every change is told, and whoever alters what was told is found out."""

import sqlite3
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licenses.authority.audit_trail import AuditTrail, Head
from licenses.errors import FormatError, RecordError
from tests.fakes.vendor_accounts import a_books

SHORT = st.text(st.characters(codec="utf-8"), max_size=8)
FACTS = st.dictionaries(SHORT, st.integers(-(2**53) + 1, 2**53 - 1) | SHORT, max_size=3)
WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
TRIGGERS = ("DROP TRIGGER audit_is_never_changed", "DROP TRIGGER audit_is_never_deleted")
COLUMNS = ("seq", "at", "actor", "action", "subject", "facts")


@pytest.fixture
def books(tmp_path):
    books = a_books(tmp_path)
    yield books
    books.database.close()


def record(books, *subjects: str) -> list[Head]:
    with books.database.writing() as tx:
        return [books.trail.record(tx, "thing.add", subject, {"n": number}) for number, subject in enumerate(subjects)]


def forge(books, *statements: str) -> None:
    """What somebody with the database's file, and no respect for triggers, would do."""
    connection = sqlite3.connect(books.database.path)
    for statement in (*TRIGGERS, *statements):
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_lines_tell_who_did_what_and_when(books):
    record(books, "a", "b")
    books.clock.move(timedelta(hours=1))
    other = books.trail.by("clerk:anna")
    with books.database.writing() as tx:
        other.record(tx, "thing.drop", "a")
    newest, *_, oldest = books.trail.lines()
    assert (newest.seq, newest.actor, newest.action, newest.subject, newest.facts) == (
        3, "clerk:anna", "thing.drop", "a", {},
    )  # fmt: skip
    assert newest.at - oldest.at == timedelta(hours=1)
    assert (oldest.actor, oldest.facts) == ("test", {"n": 0})
    assert [line.seq for line in books.trail.lines(subject="a")] == [3, 1]
    assert [line.seq for line in books.trail.lines(limit=2)] == [3, 2]


def test_a_line_is_there_exactly_when_its_change_is(books):
    def change() -> None:
        with books.database.writing() as tx:
            books.trail.record(tx, "thing.add", "lost")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        change()
    assert books.trail.lines() == []
    assert str(books.trail.verify()) == f"0:{'0' * 64}"
    assert [head.seq for head in record(books, "kept")] == [1]


@pytest.mark.parametrize("actor", ["", "a" * 101, "two\nlines"])
def test_an_actor_has_a_name_that_can_be_shown(books, actor):
    with pytest.raises(FormatError):
        AuditTrail(books.database, books.clock, actor=actor)


@given(st.lists(st.tuples(WORDS, WORDS, FACTS), min_size=1, max_size=6), st.data())
@settings(max_examples=60, deadline=None)
def test_any_alteration_is_found(tmp_path_factory, lines, data):
    books = a_books(tmp_path_factory.mktemp("books"))
    with books.database.writing() as tx:
        heads = [books.trail.record(tx, action, subject, facts) for action, subject, facts in lines]
    assert books.trail.verify() == heads[-1]
    for head in heads:
        assert books.trail.verify(Head.from_text(str(head))) == heads[-1]
    seq = data.draw(st.integers(1, len(lines)))
    column = data.draw(st.sampled_from(COLUMNS))
    if column == "seq":
        forge(books, f"UPDATE audit SET seq = 1000 WHERE seq = {seq}")
    else:
        forge(books, f"UPDATE audit SET {column} = {column} || ' ' WHERE seq = {seq}")
    with pytest.raises(RecordError, match="audit trail does not hold"):
        books.trail.verify()
    books.database.close()


def test_a_missing_line_is_found_and_a_missing_end_by_a_head_noted_elsewhere(books):
    heads = record(books, "a", "b", "c")
    forge(books, "DELETE FROM audit WHERE seq = 3")
    assert books.trail.verify() == heads[1]
    assert books.trail.verify(heads[0]) == heads[1]
    with pytest.raises(RecordError, match="ends at line 2; it went on to 3 once"):
        books.trail.verify(heads[2])
    forge_again = sqlite3.connect(books.database.path)
    forge_again.execute("DELETE FROM audit WHERE seq = 1")
    forge_again.commit()
    with pytest.raises(RecordError, match="line 1 is missing"):
        books.trail.verify()


def test_a_trail_made_anew_is_found_by_a_head_noted_elsewhere(books, tmp_path):
    heads = record(books, "a", "b")
    (tmp_path / "other").mkdir()
    other = a_books(tmp_path / "other")
    remade = record(other, "a", "x")
    assert other.trail.verify(heads[0]) == remade[1]
    with pytest.raises(RecordError, match="are not those that had the hash"):
        other.trail.verify(heads[1])
    assert other.trail.verify(Head()) == remade[1]


@pytest.mark.parametrize("text", ["", "1", "1:zz", f"01:{'0' * 64}", f"1:{'0' * 63}", f"-1:{'0' * 64}"])
def test_a_head_has_one_form(text):
    with pytest.raises(FormatError):
        Head.from_text(text)
