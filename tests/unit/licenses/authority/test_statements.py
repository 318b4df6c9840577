"""Statements: a month against the commitment, on paper and in a spreadsheet."""

import csv
import dataclasses
import io
import re
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licenses import issue
from licenses.authority.statement_csv import COLUMNS, to_csv
from licenses.authority.statement_html import to_html
from licenses.authority.statements import closes_at, statement
from licenses.errors import AccountError, FormatError
from licenses.model import CONTAINER_TYPE, READ_PAGES_METER
from licenses.strict_json import instant_text
from licenses.usage_report import UsageRequest
from tests.fakes.licences import a_vendor
from tests.fakes.vendor_books import VendorBooks

METER = READ_PAGES_METER
MONTH_MS = 31 * 24 * 3600 * 1000


def _months(tmp_path, uses, **terms):
    """Books of a site that used so many pages in each month from January on."""
    books = VendorBooks(tmp_path, **terms)
    site = books.site()
    for number, count in enumerate(uses):
        if number:
            site.meter.wait(MONTH_MS)
            books.at += timedelta(days=31)
        site.meter.window(uses=count)
        books.take(site, site.report())
    return books


def _line(books, month):
    (line,) = statement(books.database, books.customer.id, month).lines
    return line


def test_month_without_use_has_a_line(tmp_path):
    books = VendorBooks(tmp_path)
    made = statement(books.database, books.customer.id, "2027-01")
    (line,) = made.lines
    assert (line.used, line.commitment, line.overage, line.year_to_date) == (0, 1_000_000, 0, 0)
    assert (made.devices, made.up_to, made.month_name) == ((), None, "January 2027")
    assert statement(books.database, books.customer.id, "2026-12").lines == ()  # before the subscription


def test_commitment_of_a_year_is_used_up_month_by_month(tmp_path):
    books = _months(tmp_path, (4, 5, 3), quantity=7, period="year")
    lines = [_line(books, f"2027-0{number}") for number in (1, 2, 3)]
    assert [line.used for line in lines] == [4, 5, 3]
    assert [line.used_in_period for line in lines] == [4, 9, 12]
    assert [line.year_to_date for line in lines] == [4, 9, 12]
    assert [line.overage for line in lines] == [0, 2, 3]
    assert sum(line.overage for line in lines) == 12 - 7
    assert {(line.period, line.commitment, line.overage_agreed) for line in lines} == {("2027", 7, True)}


def test_commitment_of_a_month_begins_anew(tmp_path):
    books = _months(tmp_path, (4, 5, 3), quantity=3, period="month")
    lines = [_line(books, f"2027-0{number}") for number in (1, 2, 3)]
    assert [(line.period, line.used_in_period, line.overage) for line in lines] == [
        ("2027-01", 4, 1),
        ("2027-02", 5, 2),
        ("2027-03", 3, 0),
    ]
    assert lines[2].year_to_date == 12


def test_next_year_begins_anew(tmp_path):
    books = VendorBooks(tmp_path, quantity=2, period="year")
    site = books.site()
    site.meter.window(uses=5)
    books.take(site, site.report())
    site.meter.wait(12 * MONTH_MS)
    books.at += timedelta(days=380)
    site.meter.window(uses=1)
    books.take(site, site.report())
    line = _line(books, "2028-01")
    assert (line.used, line.used_in_period, line.overage, line.year_to_date) == (1, 1, 0, 1)


def test_tier_is_that_of_the_month(tmp_path):
    books = _months(tmp_path, (4, 5), quantity=3, period="month")
    books.accounts.add_tier("larger", meter=METER, quantity=100, period="month", overage_allowed=False)
    books.accounts.change_tier(books.subscription_id, "larger")
    assert (_line(books, "2027-01").tier, _line(books, "2027-01").overage) == ("tier", 1)
    line = _line(books, "2027-02")
    assert (line.tier, line.commitment, line.overage, line.overage_agreed) == ("larger", 100, 0, False)


def test_correction_is_shown_with_its_device(tmp_path):
    books = VendorBooks(tmp_path)
    site, other = books.site(), books.site()
    site.meter.window(uses=5)
    other.meter.window(uses=2)
    report = site.report()
    books.take(site, dataclasses.replace(report, totals={METER: {"2027-01": 3}}))
    books.take_bundle(site.bundle())
    books.take(other, other.report())
    made = statement(books.database, books.customer.id, "2027-01")
    assert made.lines[0].used == 7
    assert {one.origin: (one.used, one.corrected) for one in made.devices} == {
        site.origin: (5, 2),
        other.origin: (2, 0),
    }


def test_unproved_use_and_other_meters_are_told(tmp_path):
    books = VendorBooks(tmp_path)
    for number, meter in enumerate((METER, "=cmd|' /C calc'!A0")):
        request = _plain(number, 12, meter)
        books.intake.take_report(books.subscription, request.to_body())
    made = statement(books.database, books.customer.id, "2027-01")
    assert [(one.meter, one.unproved, one.commitment, one.period) for one in made.lines] == [
        ("=cmd|' /C calc'!A0", 12, 0, ""),
        (METER, 12, 1_000_000, "2027"),
    ]
    assert {one.origin for one in made.devices} == {""}
    assert "'=cmd" in to_csv(made)
    assert not re.search(r"(?m)(^|,)\"?=", to_csv(made))


def test_bundle_of_the_days_after_counts_for_its_month(tmp_path):
    books = VendorBooks(tmp_path)
    site = books.site()
    site.meter.window(uses=5)
    made = statement(books.database, books.customer.id, "2027-01")
    assert (made.lines[0].used, made.up_to, made.closes_at) == (0, None, datetime(2027, 2, 11, tzinfo=UTC))
    books.at = made.closes_at - timedelta(seconds=1)
    books.take_bundle(site.bundle())
    made = statement(books.database, books.customer.id, "2027-01")
    assert (made.lines[0].used, made.lines[0].late, made.up_to) == (5, 0, books.at)
    (line,) = statement(books.database, books.customer.id, "2027-02").lines
    assert (line.used, line.late, line.late_from, line.year_to_date) == (0, 0, "", 5)


def test_what_arrives_after_the_close_is_told_in_a_later_statement_alone(tmp_path):
    books = VendorBooks(tmp_path, quantity=7)
    site = books.site()
    for uses in (3, 6):
        site.meter.window(uses=uses)
    books.take(site, site.report(0))
    books.at = closes_at("2027-01")
    closed = statement(books.database, books.customer.id, "2027-01")
    books.take(site, site.report(1))
    assert statement(books.database, books.customer.id, "2027-01") == closed
    made = statement(books.database, books.customer.id, "2027-02")
    (line,) = made.lines
    assert (line.used, line.late, line.late_from, line.overage, line.late_overage) == (0, 6, "2027-01", 0, 2)
    assert (line.used_in_period, line.year_to_date) == (9, 9)
    assert {one.origin: (one.used, one.late) for one in made.devices} == {site.origin: (0, 6)}
    (later,) = statement(books.database, books.customer.id, "2027-03").lines
    assert (later.late, later.late_overage, later.used_in_period, later.year_to_date) == (0, 0, 9, 9)
    (row,) = csv.DictReader(io.StringIO(to_csv(made)))
    assert (row["late"], row["late_from"], row["late_overage"], row["closes_at"]) == (
        "6",
        "2027-01",
        "2",
        "2027-03-11T00:00:00Z",
    )
    text = _words(to_html(made))
    assert "Arrived since, for earlier months, from 2027-01 on +6" in text
    assert "Beyond the commitment, by what arrived since +2" in text
    assert "closes on 2027-03-11 00:00 UTC" in text
    assert "Arrived since, for earlier months, from" not in _words(to_html(closed))


def test_late_correction_is_taken_back_in_a_later_statement(tmp_path):
    books = VendorBooks(tmp_path, quantity=7)
    site = books.site()
    site.meter.window(uses=5)
    books.take(site, dataclasses.replace(site.report(), totals={METER: {"2027-01": 9}}))
    books.at = closes_at("2027-01")
    assert [_line(books, "2027-01").used, _line(books, "2027-01").overage] == [9, 2]
    books.take_bundle(site.bundle())
    line = _line(books, "2027-02")
    assert (line.used, line.late, line.late_overage, line.used_in_period) == (0, -4, -2, 5)
    assert [_line(books, "2027-01").used, _line(books, "2027-01").overage] == [9, 2]


def test_late_use_of_another_year_is_measured_against_that_year(tmp_path):
    books = VendorBooks(tmp_path, quantity=7)
    site = books.site()
    for uses in (6, 4):
        site.meter.window(uses=uses)
    books.take(site, site.report(0))
    books.at = datetime(2028, 5, 3, tzinfo=UTC)
    books.take(site, site.report(1))
    line = _line(books, "2028-04")
    assert (line.period, line.used_in_period, line.year_to_date) == ("2028", 0, 0)
    assert (line.late, line.late_from, line.late_overage) == (4, "2027-01", 3)
    assert [_line(books, month).late for month in ("2027-02", "2028-03", "2028-05")] == [0, 0, 0]


@given(
    arrivals=st.lists(
        st.tuples(st.integers(0, 14), st.integers(0, 5), st.integers(0, 25)).map(
            lambda one: (one[0], one[0] + one[1], one[2])
        ),
        max_size=12,
    ),
    quantity=st.integers(0, 40),
    period=st.sampled_from(["month", "year"]),
)
@settings(max_examples=60, deadline=None)
def test_statements_add_up_whenever_use_arrives(tmp_path_factory, arrivals, quantity, period):
    """Use of some month, told months and days later: every unit is in one statement, and the overage adds up."""
    books = VendorBooks(tmp_path_factory.mktemp("books"), quantity=quantity, period=period)
    begins = datetime(2027, 1, 18, tzinfo=UTC)
    used: Counter[str] = Counter()
    with books.database.writing() as tx:
        for number, (of, told, day) in enumerate(arrivals):
            month, at = _month_after(begins, of), _month_after(begins, told)
            instant = max(begins, datetime(int(at[:4]), int(at[5:]), 1 + day, tzinfo=UTC))
            used[month] += number + 1
            tx.execute(
                """INSERT INTO amount(subscription_id, meter, month, billed_month, quantity, kind, at)
                   VALUES (?, ?, ?, ?, ?, 'plain', ?)""",
                [books.subscription_id, METER, month, month, number + 1, instant_text(instant)],
            )
    lines = [_line(books, _month_after(begins, number)) for number in range(24)]
    assert sum(line.used + line.late for line in lines) == used.total()
    periods: Counter[str] = Counter()
    for month, count in used.items():
        periods[month if period == "month" else month[:4]] += count
    overage = sum(max(0, count - quantity) for count in periods.values())
    assert sum(line.overage + line.late_overage for line in lines) == overage
    books.database.close()


TIERS = {
    "100": (100, "year"),
    "1000": (1000, "year"),
    "50 a month": (50, "month"),
    "300": (300, "year"),
}


@pytest.mark.parametrize(
    ("months", "overages", "in_period"),
    [
        # larger: what was billed beyond the smaller one takes nothing of it, and is not taken back
        ([("100", 900), ("1000", 50)], [800, 0], [900, 950]),
        ([("100", 900), ("1000", 950)], [800, 50], [900, 1850]),
        # smaller: what lay within the larger one stays within it
        ([("1000", 900), ("100", 50)], [0, 50], [900, 950]),
        ([("1000", 60), ("100", 50), ("100", 5)], [0, 10, 5], [60, 110, 115]),
        # there and back
        ([("100", 120), ("1000", 100), ("100", 10)], [20, 0, 10], [120, 220, 230]),
        # a month's own commitment takes nothing of a year's, nor the other way round
        ([("50 a month", 70), ("300", 310)], [20, 10], [70, 310]),
        ([("300", 290), ("50 a month", 60), ("300", 15)], [0, 10, 5], [290, 60, 305]),
    ],
)
def test_each_month_is_measured_against_the_tier_then_in_force(tmp_path, months, overages, in_period):
    books = VendorBooks(tmp_path)
    for name, (quantity, period) in TIERS.items():
        books.accounts.add_tier(
            name.replace(" ", "-"), meter=METER, quantity=quantity, period=period, overage_allowed=True
        )
    lines = []
    for number, (name, used) in enumerate(months):
        books.at = datetime(2027, 2 + number, 20, tzinfo=UTC)
        books.accounts.change_tier(books.subscription_id, name.replace(" ", "-"))
        body = _plain(number, used).to_body()
        books.intake.take_report(books.subscription, body)
        lines.append(_line(books, f"2027-{2 + number:02}"))
    assert [line.overage for line in lines] == overages
    assert [line.used_in_period for line in lines] == in_period
    assert [line.commitment for line in lines] == [TIERS[name][0] for name, _ in months]
    assert [_line(books, f"2027-{2 + number:02}") for number in range(len(months))] == lines  # and stays so


def _month_after(begins, number):
    year, month = divmod(begins.month - 1 + number, 12)
    return f"{begins.year + year:04}-{month + 1:02}"


def _plain(number, quantity, meter=METER):
    return UsageRequest(
        id=f"5b1e5f0e-2c77-4c0e-8f7d-6a3f0f7f9b1{number}",
        container_type=CONTAINER_TYPE,
        container_version="3.2.0",
        container_id="c0ffee",
        meter=meter,
        quantity=quantity,
        request_time=1893456000,
        api_type="computervision",
    )


def _words(page):
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


@pytest.mark.parametrize(
    "month", ["2027-13", "2027-00", "0000-12", "2027-1", "2027", "", "9999-12", "2027-01-01", "20a7-01", "abcdefg"]
)
def test_what_is_no_month_is_refused(tmp_path, month):
    books = VendorBooks(tmp_path)
    with pytest.raises(FormatError) as told:
        statement(books.database, books.customer.id, month)
    assert told.value.next_step == "Give a year and a month of it, as 2026-11."


def test_customer_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(AccountError):
        statement(VendorBooks(tmp_path).database, "c-0", "2027-01")


def test_other_customers_use_is_not_in_it(tmp_path):
    books = _months(tmp_path, (4,))
    other = books.accounts.add_customer("Another")
    books.accounts.add_subscription(other.id, container_type=CONTAINER_TYPE, tier="tier")
    made = statement(books.database, other.id, "2027-01")
    assert [line.used for line in made.lines] == [0]
    assert made.devices == ()


def test_csv_has_the_columns_that_it_promises(tmp_path):
    books = _months(tmp_path, (4, 5), quantity=7, period="year")
    made = statement(books.database, books.customer.id, "2027-02")
    header, row = csv.reader(io.StringIO(to_csv(made)))
    assert tuple(header) == COLUMNS
    told = dict(zip(header, row, strict=True))
    assert (told["customer"], told["used"], told["commitment"], told["overage"], told["year_to_date"]) == (
        "St. Example's Hospital",
        "5",
        "7",
        "2",
        "9",
    )
    assert (told["overage_agreed"], told["month"], told["period"]) == ("yes", "2027-02", "2027")


class _Page(HTMLParser):
    """What a page refers to, whether its elements are closed, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.places: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.places += [value for name, value in attrs if name in ("src", "href", "action", "data")]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_page_needs_nothing_else_and_tells_all(tmp_path):
    books = _months(tmp_path, (4, 5), quantity=7, period="year")
    made = statement(books.database, books.customer.id, "2027-02")
    page = to_html(made)
    read = _Page(page)
    assert (read.places, read.open) == ([], [])
    assert "http" not in page.replace("http-equiv", "")
    assert "@media print" in page
    words = " ".join(read.words)
    for told in (
        "St. Example's Hospital",
        "February 2027",
        METER,
        "Commitment for 2027",
        "128 %",
        "beyond the commitment",
    ):
        assert told in words
    assert 'aria-label="9 of 7 used in 2027"' in page


def test_names_are_text_on_the_page(tmp_path):
    books = VendorBooks(tmp_path)
    evil = books.accounts.add_customer('<script>alert(1)</script> & "Co"')
    books.accounts.add_subscription(evil.id, container_type=CONTAINER_TYPE, tier="tier")
    page = to_html(statement(books.database, evil.id, "2027-01"))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert _Page(page).open == []


@pytest.mark.parametrize("renew", [True, False], ids=["licence", "acknowledgement"])
def test_evaluation_is_no_basis_for_an_invoice(tmp_path, renew):
    books = VendorBooks(tmp_path, evaluation=True)
    site = books.site()
    site.meter.evaluation = True
    site.meter.entry("license", in_force=True, license_id=site.meter.license_id, sequence=1, evaluation=True)
    site.meter.window(uses=1)
    books.take_bundle(site.bundle(), renew=renew)
    made = statement(books.database, books.customer.id, "2027-01")
    assert made.evaluation
    assert "basis for an invoice" in to_html(made)
    assert [row["evaluation"] for row in csv.DictReader(io.StringIO(to_csv(made)))] == ["yes"]


def _exchange_keys(books, *, evaluation):
    """The books go on with another vendor's keys of the same name."""
    books.database.close()
    books.keys_folder = books.folder / f"keys-{evaluation}"
    books.vendor = a_vendor(evaluation=evaluation)
    issue.save_vendor(books.vendor.keys, books.keys_folder)
    books.open()


@pytest.mark.parametrize("evaluation", [True, False])
def test_use_of_a_container_without_a_ledger_is_for_evaluation_as_the_keys_are(tmp_path, evaluation):
    books = VendorBooks(tmp_path, evaluation=evaluation)
    books.intake.take_report(books.subscription, _plain(0, 5).to_body())
    assert statement(books.database, books.customer.id, "2027-01").evaluation is evaluation


@pytest.mark.parametrize("evaluation", [True, False])
def test_a_closed_statement_stays_for_evaluation_or_not(tmp_path, evaluation):
    books = VendorBooks(tmp_path, evaluation=evaluation)
    books.intake.take_report(books.subscription, _plain(0, 5).to_body())
    books.licensing.license_in_force(books.subscription_id, None)
    closed = statement(books.database, books.customer.id, "2027-01")
    books.at = closed.closes_at
    _exchange_keys(books, evaluation=not evaluation)
    books.accounts.change_tier(books.subscription_id, "tier")
    books.licensing.issue_next(books.subscription_id, None, until=date(2028, 1, 1))
    books.intake.take_report(books.subscription, _plain(1, 5).to_body())
    assert statement(books.database, books.customer.id, "2027-01") == closed
    assert closed.evaluation is evaluation
    assert statement(books.database, books.customer.id, "2027-02").evaluation is not evaluation


def test_a_closed_statement_stays_without_an_arrival_too(tmp_path):
    books = VendorBooks(tmp_path)
    made = statement(books.database, books.customer.id, "2027-01")
    books.at = made.closes_at
    _exchange_keys(books, evaluation=True)
    books.licensing.license_in_force(books.subscription_id, None)
    assert statement(books.database, books.customer.id, "2027-01") == made
    assert statement(books.database, books.customer.id, "2027-02").evaluation


def test_a_vendors_clock_that_was_set_back_changes_nothing_of_before(tmp_path):
    books = VendorBooks(tmp_path)
    books.intake.take_report(books.subscription, _plain(0, 5).to_body())
    made = statement(books.database, books.customer.id, "2027-01")
    assert not made.evaluation
    _exchange_keys(books, evaluation=True)
    books.at -= timedelta(hours=1)
    books.licensing.license_in_force(books.subscription_id, None)
    rows = list(books.database.query("SELECT at, evaluation FROM key_kind ORDER BY seq"))
    assert [row["evaluation"] for row in rows] == [0, 1]
    assert rows[0]["at"] <= rows[1]["at"]


def test_vendor_in_earnest_has_a_basis_for_an_invoice(tmp_path):
    books = VendorBooks(tmp_path)
    site = books.site()
    site.meter.window(uses=1)
    books.take_bundle(site.bundle())
    made = statement(books.database, books.customer.id, "2027-01")
    assert not made.evaluation
    assert "basis for an invoice" not in to_html(made)
    assert [row["evaluation"] for row in csv.DictReader(io.StringIO(to_csv(made)))] == ["no"]


def test_customer_without_subscription_gets_a_page(tmp_path):
    books = VendorBooks(tmp_path)
    nobody = books.accounts.add_customer("Nobody")
    assert "no subscription" in to_html(statement(books.database, nobody.id, "2027-01"))
