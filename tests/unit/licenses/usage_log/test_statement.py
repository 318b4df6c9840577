"""The statement: short, signed, and read back as it was made."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licenses.device_key import device_id_of
from licenses.errors import BadSignatureError, LicensesError, RecordError, UntrustedKeyError
from licenses.keys import SigningKey
from licenses.usage_log.note import Checkpoint, open_checkpoint, sign_checkpoint, sign_extended
from licenses.usage_log.statement import MAX_MONTHS, Statement, open_statement

KEY, OTHER = SigningKey.generate("device"), SigningKey.generate("device")
ORIGIN = f"vendor.example/{device_id_of(KEY.verifying.raw)}"
CHECKPOINT = Checkpoint(ORIGIN, 1234, bytes(range(32)))
UNTIL = datetime(2027, 3, 5, 9, 30, tzinfo=UTC)
STATEMENT = Statement.of(CHECKPOINT, {"2026-12": 310, "2027-02": 4711, "2027-03": 12}, until=UNTIL)
NOTE = STATEMENT.sign(KEY)


def test_statement_is_read_back():
    assert open_statement(NOTE, KEY.verifying) == STATEMENT
    assert STATEMENT.months == {"2026-12": 310, "2027-01": 0, "2027-02": 4711, "2027-03": 12}
    assert (STATEMENT.total, STATEMENT.before) == (5033, 0)
    assert NOTE.splitlines()[3:5] == ["until 2027-03-05T09:30:00Z", "pages 2026-12 310 0 4711 12"]


def test_statement_survives_a_terminal_and_a_mail():
    for text in (NOTE.rstrip("\n"), NOTE + "\n\n", NOTE.replace("\n", "\r\n")):
        assert open_statement(text, KEY.verifying) == STATEMENT


def test_old_months_are_summed_up():
    months = {f"{year}-{month:02d}": 1000 for year in (2024, 2025, 2026) for month in range(1, 13)}
    statement = Statement.of(CHECKPOINT, months, until=UNTIL)
    assert (statement.first_month, statement.before, statement.total) == ("2026-01", 24_000, 36_000)
    assert open_statement(statement.sign(KEY), KEY.verifying) == statement
    long_pause = Statement.of(CHECKPOINT, {"2019-05": 7, "2026-12": 1}, until=UNTIL)
    assert (long_pause.first_month, long_pause.before, long_pause.total) == ("2026-01", 7, 8)


def test_nothing_used_is_a_statement_too():
    statement = Statement.of(CHECKPOINT, {"2026-12": 0}, until=UNTIL, evaluation=True)
    assert open_statement(statement.sign(KEY), KEY.verifying) == statement
    assert (statement.months, statement.total, statement.evaluation) == ({}, 0, True)


def test_statement_is_no_checkpoint_and_a_checkpoint_no_statement():
    with pytest.raises(RecordError):
        open_checkpoint(NOTE, {ORIGIN: KEY.verifying})
    with pytest.raises(RecordError, match="no statement"):
        open_statement(sign_checkpoint(ORIGIN, 1, bytes(32), KEY), KEY.verifying)


def test_statement_of_another_device_is_refused():
    with pytest.raises(UntrustedKeyError):
        open_statement(NOTE, OTHER.verifying)
    with pytest.raises(UntrustedKeyError):
        open_statement(sign_extended(CHECKPOINT, NOTE.splitlines()[3:5], OTHER), KEY.verifying)
    with pytest.raises(BadSignatureError):
        open_statement(NOTE.replace(" 4711", " 4710"), KEY.verifying)
    with pytest.raises(RecordError):
        STATEMENT.sign(OTHER)


GOOD = ["until 2027-03-05T09:30:00Z", "before 2026-12 5", "pages 2026-12 1 2", "evaluation"]
BAD = {
    "no_time": GOOD[1:],
    "other_time": ["until yesterday", *GOOD[1:]],
    "before_another_month": [GOOD[0], "before 2026-11 5", *GOOD[2:]],
    "before_without_pages": [*GOOD[:2], GOOD[3]],
    "before_nothing": [GOOD[0], "before 2026-12 0", *GOOD[2:]],
    "before_twice": [GOOD[0], "before 2026-12 5 5", *GOOD[2:]],
    "other_order": [GOOD[1], GOOD[0], *GOOD[2:]],
    "a_line_twice": [*GOOD, GOOD[-1]],
    "unknown_line": [*GOOD, "seen 9"],
    "no_month": [*GOOD[:1], "pages 2026-13 1", GOOD[3]],
    "month_alone": [*GOOD[:1], "pages 2026-12", GOOD[3]],
    "leading_zero": [*GOOD[:1], "pages 2026-12 01", GOOD[3]],
    "negative": [*GOOD[:1], "pages 2026-12 -1", GOOD[3]],
    "huge": [*GOOD[:1], f"pages 2026-12 {10**15 * 9 + 10**15}", GOOD[3]],
    "two_blanks": [*GOOD[:1], "pages 2026-12  1", GOOD[3]],
    "too_many_months": [*GOOD[:1], "pages 2026-12" + " 1" * (MAX_MONTHS + 1), GOOD[3]],
    "evaluation_of_what": [*GOOD[:3], "evaluation x"],
}


@pytest.mark.parametrize("lines", BAD.values(), ids=BAD)
def test_other_lines_are_refused_though_signed(lines):
    assert open_statement(sign_extended(CHECKPOINT, GOOD, KEY), KEY.verifying).before == 5
    with pytest.raises(RecordError):
        open_statement(sign_extended(CHECKPOINT, lines, KEY), KEY.verifying)


@pytest.mark.parametrize("months", [{"2026-13": 1}, {"x": 1}, {"2026-12": -1}, {"2026-12": 2**53}])
def test_months_without_sense_are_refused(months):
    with pytest.raises(RecordError):
        Statement.of(CHECKPOINT, months, until=UNTIL)


@given(
    st.dictionaries(
        st.tuples(st.integers(1970, 2200), st.integers(1, 12)).map(lambda one: f"{one[0]}-{one[1]:02d}"),
        st.integers(0, 10**9),
        max_size=40,
    )
)
def test_no_page_is_lost(months):
    statement = open_statement(Statement.of(CHECKPOINT, months, until=UNTIL).sign(KEY), KEY.verifying)
    assert statement.total == sum(months.values())
    assert all(months.get(month, 0) == pages for month, pages in statement.months.items())


@given(st.text(max_size=200))
def test_arbitrary_text_raises_nothing_else(text):
    with pytest.raises(LicensesError):
        open_statement(text, KEY.verifying)
