"""Devices and licences: who gets which, for how long, and that every one handed out is kept."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licenses import issue, rotation
from licenses.authority import devices as device_room
from licenses.authority.devices import Device
from licenses.authority.periods import commitment_period
from licenses.errors import (
    AccountError,
    BadSignatureError,
    BusyError,
    ForkError,
    FormatError,
    IssueError,
    LicensesError,
    MismatchError,
    OutOfQuotaError,
    UnauthorizedUseError,
)
from licenses.host import HostFactors
from licenses.model import CONTAINER_TYPE, READ_PAGES_METER, License
from licenses.verify import judge, open_license
from tests.fakes.licences import NOW
from tests.fakes.vendor_accounts import FakeBooks, a_books

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)


@pytest.fixture
def books(tmp_path):
    books = a_books(tmp_path)
    yield books
    books.database.close()


def fetch(books: FakeBooks, subscription, **given) -> License:
    """What a caller gets, opened as an appliance would."""
    blob = books.licensing.license_for(subscription, **{"container_type": CONTAINER_TYPE, **given})
    return open_license(blob, books.vendor.trust_root)


# ---- devices --------------------------------------------------------------------------------------------------------


def test_a_device_is_known_by_its_enrolment(books):
    subscription, device = books.a_subscription(), books.a_device()
    known = books.licensing.devices.enrol(device.enrolment(anchor=device.anchor(12)), subscription.id)
    assert known == Device(
        origin=device.origin,
        subscription_id=subscription.id,
        public_key=device.public,
        enrolled_at=NOW,
        last_report_at=None,
        anchor=device.anchor(12),
        enrolment=known.enrolment,
    )
    assert known.verifying_key == device.key.verifying
    assert books.again().licensing.devices.all() == books.licensing.devices.all(subscription.id) == [known]
    assert books.licensing.devices.all("s-000000000000") == []


def test_the_same_or_an_older_enrolment_changes_nothing(books):
    subscription, device = books.a_subscription(), books.a_device()
    newer, older = device.enrolment(at=NOW), device.enrolment(at=NOW - DAY)
    known = books.licensing.devices.enrol(newer, subscription.id)
    books.clock.move(DAY)
    assert (
        books.licensing.devices.enrol(newer, subscription.id)
        == books.licensing.devices.enrol(older, subscription.id)
        == known
    )
    assert [line.action for line in books.trail.lines(subject=device.origin)] == ["device.enrol"]


def test_a_newer_enrolment_brings_newer_facts(books):
    subscription, device = books.a_subscription(), books.a_device()
    books.licensing.devices.enrol(device.enrolment(), subscription.id)
    books.clock.move(DAY)
    newer = device.enrolment(at=NOW + DAY, anchor=device.anchor(5), bindings=HostFactors(operator_id="w7").bind())
    known = books.licensing.devices.enrol(newer, subscription.id)
    assert (known.enrolled_at, known.anchor, known.enrolment) == (NOW, device.anchor(5), newer)
    assert known.bindings.threshold == 1
    assert len(books.licensing.devices.all()) == 1


def test_an_enrolment_made_under_a_clock_in_the_future_does_not_keep_out_those_that_follow(books):
    subscription, device = books.a_subscription(), books.a_device()
    wrong = device.enrolment(at=NOW + 26_000 * DAY)
    assert books.licensing.devices.enrol(wrong, subscription.id).is_enrolled_by(wrong)
    books.clock.move(DAY)
    right = device.enrolment(at=NOW + DAY, bindings=HostFactors(operator_id="w7").bind())
    known = books.licensing.devices.enrol(right, subscription.id)
    assert (known.enrolment, known.bindings.threshold) == (right, 1)
    books.clock.move(DAY)
    known = books.licensing.devices.enrol(wrong, subscription.id)  # the file that is still on the clerk's stick
    assert (known.enrolment, known.is_enrolled_by(right), known.is_enrolled_by(wrong)) == (right, True, False)
    assert [line.action for line in books.trail.lines(subject=device.origin)] == ["device.enrol"] * 2


def test_an_older_enrolment_is_told_from_the_one_in_force(books):
    subscription, device = books.a_subscription(), books.a_device()
    newer, older = device.enrolment(at=NOW), device.enrolment(at=NOW - DAY)
    books.licensing.devices.enrol(newer, subscription.id)
    assert books.licensing.devices.enrol(newer, subscription.id).is_enrolled_by(newer)
    assert not books.licensing.devices.enrol(older, subscription.id).is_enrolled_by(older)
    bare = books.licensing.devices.register(books.a_device().public, subscription.id)
    assert not bare.is_enrolled_by(newer)


def test_enrolments_that_are_not_good_are_refused(books):
    subscription, device, other = books.a_subscription(), books.a_device(), books.a_device()
    good = device.enrolment()
    forged = good.replace(good[good.index(b'"sig":"') :][:20], other.enrolment()[-40:-20])
    foreign = dataclasses.replace(device, vendor="other.example")
    for blob, error in (
        (b"", FormatError),
        (b"{}", FormatError),
        (forged, LicensesError),
        (good[:-10], FormatError),
        (foreign.enrolment(anchor=foreign.anchor(3)), MismatchError),
    ):
        with pytest.raises(error):
            books.licensing.devices.enrol(blob, subscription.id)
    with pytest.raises(AccountError):
        books.licensing.devices.enrol(good, "s-000000000000")
    assert books.licensing.devices.all() == []


def test_a_signature_of_another_key_is_no_enrolment(books):
    device, other = books.a_device(), books.a_device()
    stolen = dataclasses.replace(other, key=dataclasses.replace(other.key, key_id=device.key.key_id))
    signature = stolen.enrolment().split(b'"sig":"')[1].split(b'"')[0]
    good = device.enrolment()
    forged = good.replace(good.split(b'"sig":"')[1].split(b'"')[0], signature)
    with pytest.raises(BadSignatureError):
        books.licensing.devices.enrol(forged, books.a_subscription().id)


def test_a_device_belongs_to_one_subscription(books):
    mine, yours, device = books.a_subscription(), books.a_subscription(), books.a_device()
    books.licensing.devices.enrol(device.enrolment(), mine.id)
    for attempt in (
        lambda: books.licensing.devices.enrol(device.enrolment(at=NOW + DAY), yours.id),
        lambda: books.licensing.devices.register(device.public, yours.id),
        lambda: fetch(books, yours, device_public=device.public),
        lambda: fetch(books, yours, enrolment=device.enrolment()),
        lambda: books.licensing.issue_next(yours.id, device.origin, until=date(2027, 3, 1)),
        lambda: books.licensing.next_if_due(yours.id, device.origin),
    ):
        with pytest.raises(MismatchError, match="belongs to another subscription"):
            attempt()
    assert books.licensing.devices.one(device.origin).subscription_id == mine.id
    assert books.licensing.licenses() == []


def test_a_place_held_by_a_bare_public_key_goes_to_who_shows_the_enrolment(books):
    squatter, owner, device = books.a_subscription(), books.a_subscription(), books.a_device()
    books.licensing.devices.register(device.public, squatter.id)
    assert books.licensing.devices.one(device.origin).enrolment is None
    with pytest.raises(MismatchError):
        books.licensing.devices.register(device.public, owner.id)
    books.licensing.devices.enrol(device.enrolment(), owner.id)
    assert books.licensing.devices.one(device.origin).subscription_id == owner.id
    with pytest.raises(MismatchError):
        books.licensing.devices.register(device.public, squatter.id)


@pytest.mark.parametrize("raw", [b"", b"x", bytes(31), bytes(33)])
def test_what_is_no_key_is_no_device(books, raw):
    with pytest.raises(FormatError, match="32 bytes"):
        books.licensing.devices.register(raw, books.a_subscription().id)
    assert books.licensing.devices.all() == []


def test_an_unknown_device_is_told_how_to_enrol(books):
    with pytest.raises(MismatchError, match="is not enrolled") as caught:
        books.licensing.devices.one("vendor.example/0000000000000000")
    assert "licenses request" in caught.value.next_step


def test_the_last_report_is_the_latest(books):
    subscription, device = books.a_subscription(), books.a_device()
    books.licensing.devices.register(device.public, subscription.id)
    for at in (NOW, NOW + DAY, NOW - DAY):
        books.licensing.devices.note_report(device.origin, at)
    assert books.licensing.devices.one(device.origin).last_report_at == NOW + DAY


def test_the_largest_good_checkpoint_is_the_anchor_and_another_root_is_a_fork(books):
    subscription, device = books.a_subscription(), books.a_device()
    books.licensing.devices.enrol(device.enrolment(anchor=device.anchor(5)), subscription.id)
    for size in (9, 7, 9):
        books.licensing.devices.note_checkpoint(device.anchor(size))
    assert books.licensing.devices.one(device.origin).anchor == device.anchor(9)
    with pytest.raises(ForkError, match="first 7 entries"):
        books.licensing.devices.note_checkpoint(device.anchor(7, fill=8))
    with pytest.raises(ForkError, match="first 5 entries"):
        books.licensing.devices.enrol(device.enrolment(at=NOW + DAY, anchor=device.anchor(5, fill=8)), subscription.id)
    assert fetch(books, subscription, device_public=device.public).ledger_anchor == device.anchor(9)
    assert books.licensing.devices.one(device.origin).enrolment == device.enrolment(anchor=device.anchor(5))


def test_nobody_fills_the_books_with_enrolments_of_one_device(books, monkeypatch):
    monkeypatch.setattr(device_room, "MAX_ENROLMENTS", 3)
    subscription, device = books.a_subscription(), books.a_device()
    files = [device.enrolment(at=NOW + number * SECOND) for number in range(5)]
    for blob in files[:3]:
        books.licensing.devices.enrol(blob, subscription.id)
    with pytest.raises(BusyError, match="3 enrolments") as caught:
        books.licensing.devices.enrol(files[3], subscription.id)
    assert caught.value.retry_after == 3600
    assert (
        books.licensing.devices.enrol(files[0], subscription.id).enrolment == files[2]
    )  # those known are still answered
    books.licensing.devices.enrol(books.a_device().enrolment(), subscription.id)
    books.clock.move(DAY)
    assert books.licensing.devices.enrol(files[4], subscription.id).enrolment == files[4]


def test_nobody_fills_the_books_with_devices(books, monkeypatch):
    monkeypatch.setattr(device_room, "MAX_DEVICES", 3)
    subscription, other = books.a_subscription(), books.a_subscription()
    devices = [books.a_device() for _ in range(3)]
    for device in devices:
        books.licensing.devices.register(device.public, subscription.id)
    for attempt in (
        lambda: books.licensing.devices.register(books.a_device().public, subscription.id),
        lambda: books.licensing.devices.enrol(books.a_device().enrolment(), subscription.id),
    ):
        with pytest.raises(OutOfQuotaError, match="has 3 devices, as many as it may"):
            attempt()
    books.licensing.devices.enrol(devices[0].enrolment(), subscription.id)
    books.licensing.devices.register(books.a_device().public, other.id)
    assert len(books.licensing.devices.all(subscription.id)) == 3


# ---- which licence --------------------------------------------------------------------------------------------------


def test_a_licence_is_bound_to_device_host_and_ledger_and_says_what_the_tier_says(books):
    subscription, device = books.a_subscription(quantity=1000), books.a_device()
    host = HostFactors(operator_id="ward-7")
    enrolment = device.enrolment(anchor=device.anchor(4), bindings=host.bind())
    lic = fetch(books, subscription, enrolment=enrolment, device_public=device.public)
    assert lic.license_id == f"{subscription.id}.{device.origin.rpartition('/')[2]}.2027"
    assert (lic.sequence, lic.customer, lic.container_types) == (1, "St. Example's Hospital", (CONTAINER_TYPE,))
    assert (lic.device_pubkey, lic.ledger_anchor, lic.time_anchor) == (device.public, device.anchor(4), NOW)
    meter = lic.meter(READ_PAGES_METER)
    assert (meter.hard, meter.soft, meter.overage_allowed, meter.unit) == (1000, 900, False, "page")
    assert (lic.not_before, lic.expires_at) == (NOW, datetime(2027, 12, 31, 23, 59, 59, tzinfo=UTC))
    assert lic.termination_at - lic.expires_at == 14 * DAY
    assert judge(lic, at=NOW, host=host, device_public=device.public).serves
    assert not judge(lic, at=NOW, host=HostFactors(operator_id="ward-8"), device_public=device.public).serves
    assert not judge(lic, at=NOW, host=host, device_public=books.a_device().public).serves


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"container_type": "translator"}, MismatchError, "is for computervisionread, not for 'translator'"),
        ({"approved": False}, UnauthorizedUseError, "is not approved"),
        ({"approved": False, "container_type": "translator"}, MismatchError, "not for 'translator'"),
        ({"device_public": b"short"}, FormatError, "32 bytes"),
        ({"enrolment": b"{}"}, FormatError, "lacks the member"),
    ],
)
def test_refusals_have_their_word_and_issue_nothing(books, given, error, words):
    subscription = books.a_subscription(approved=given.pop("approved", True))
    with pytest.raises(error, match=words):
        fetch(books, subscription, **given)
    assert books.licensing.licenses() == []
    assert books.licensing.devices.all() == []


def test_enrolment_and_public_key_must_be_of_one_device(books):
    subscription = books.a_subscription()
    with pytest.raises(MismatchError, match="another device"):
        fetch(books, subscription, enrolment=books.a_device().enrolment(), device_public=books.a_device().public)
    assert books.licensing.devices.all() == []


def test_approval_counts_as_it_is_when_the_licence_is_asked_for(books):
    subscription = books.a_subscription()
    fetch(books, subscription)
    books.accounts.approve(subscription.id, False)
    for attempt in (
        lambda: fetch(books, subscription),
        lambda: books.licensing.issue_next(subscription.id, None, until=date(2027, 3, 1)),
        lambda: books.licensing.next_if_due(subscription.id, None),
        lambda: books.licensing.license_in_force(subscription.id, None),
    ):
        with pytest.raises(UnauthorizedUseError):
            attempt()
    assert len(books.licensing.licenses()) == 1


def test_the_same_licence_is_given_while_it_says_what_is_wanted(books):
    subscription, device, other = books.a_subscription(), books.a_device(), books.a_device()
    first = books.licensing.license_for(subscription, container_type=CONTAINER_TYPE, device_public=device.public)
    books.clock.move(30 * DAY)
    again = books.licensing.license_for(subscription, container_type=CONTAINER_TYPE, enrolment=device.enrolment())
    assert again == first
    assert (
        fetch(books, subscription, device_public=other.public).license_id
        != open_license(first, books.vendor.trust_root).license_id
    )
    assert fetch(books, subscription).device_pubkey is None
    assert len(books.licensing.licenses()) == 3


def test_what_changed_is_issued_as_the_next_sequence(books):
    subscription, device = books.a_subscription(quantity=1000), books.a_device()
    larger = books.a_subscription(quantity=5000)
    assert fetch(books, subscription, device_public=device.public).sequence == 1
    bound = device.enrolment(at=NOW + DAY, bindings=HostFactors(operator_id="w7").bind())
    lic = fetch(books, subscription, enrolment=bound)
    assert (lic.sequence, lic.bindings.floating) == (2, False)
    books.accounts.change_tier(subscription.id, larger.tier)
    lic = fetch(books, subscription, device_public=device.public)
    assert (lic.sequence, lic.meter(READ_PAGES_METER).hard) == (3, 5000)
    assert fetch(books, subscription, device_public=device.public).sequence == 3
    newest, *_, oldest = books.licensing.licenses(subscription.id)
    assert (newest.sequence, oldest.sequence, newest.tier, oldest.tier) == (3, 1, larger.tier, subscription.tier)


def test_a_revoked_licence_is_followed_by_one_of_another_id(books):
    subscription, device = books.a_subscription(), books.a_device()
    first = fetch(books, subscription, device_public=device.public)
    issue.revoke(books.folder / "vendor", license_ids=[first.license_id], key_ids=[])
    second = fetch(books, subscription, device_public=device.public)
    assert (second.license_id, second.sequence) == (f"{first.license_id}.r2", 1)
    assert second.revoked.license_ids == (first.license_id,)
    issue.revoke(books.folder / "vendor", license_ids=[second.license_id], key_ids=[])
    assert fetch(books, subscription, device_public=device.public).license_id == f"{first.license_id}.r3"


def test_a_licence_of_a_key_that_was_rotated_out_is_issued_anew(books):
    subscription, device = books.a_subscription(), books.a_device()
    old = fetch(books, subscription, device_public=device.public).key_id
    made, _ = rotation.rotate(books.folder / "vendor", rotation.Wish(issuing=True, revoke=(old,)), at=NOW)
    blob = books.again().licensing.license_for(subscription, container_type=CONTAINER_TYPE, device_public=device.public)
    lic = open_license(blob, made.trust_root)
    assert (lic.sequence, lic.key_id != old) == (2, True)


def test_sequences_have_no_hole_however_many_ask_at_once(books):
    subscription, device = books.a_subscription(), books.a_device()
    books.licensing.devices.register(device.public, subscription.id)
    other = books.again()

    def ask(number: int) -> int:
        of_either = (books, other)[number % 2].licensing
        return of_either.issue_next(subscription.id, device.origin, until=date(2027, 6, 30)).sequence

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(ask, range(24))) == list(range(1, 25))
    kept = books.licensing.licenses(origin=device.origin)
    assert [one.sequence for one in kept] == list(range(24, 0, -1))
    opened = [open_license(one.blob, books.vendor.trust_root) for one in kept]
    assert [(lic.license_id, lic.sequence) for lic in opened] == [(one.license_id, one.sequence) for one in kept]


def test_a_licence_that_cannot_be_signed_is_not_kept(books):
    subscription, device = books.a_subscription(), books.a_device()
    books.licensing.devices.register(device.public, subscription.id)
    before = books.trail.verify()
    for path in (books.folder / "vendor").glob("issuing-*.key"):
        path.unlink()
    with pytest.raises(IssueError, match="no issuing key"):
        books.again().licensing.issue_next(subscription.id, device.origin, until=date(2027, 6, 30))
    assert books.licensing.licenses() == []
    assert books.trail.verify() == before


def test_each_licence_is_told_in_the_audit_trail(books):
    subscription = books.a_subscription()
    made = books.licensing.issue_next(subscription.id, None, until=date(2027, 6, 30))
    (line,) = books.trail.lines(subject=made.license_id)
    assert (line.action, line.facts["sequence"], line.facts["device"]) == ("license.issue", 1, None)
    assert line.facts["expires_at"] == "2027-06-30T23:59:59Z"


# ---- for how long ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("period", "day", "label", "first", "last"),
    [
        ("month", date(2027, 1, 1), "2027-01", date(2027, 1, 1), date(2027, 1, 31)),
        ("month", date(2028, 2, 29), "2028-02", date(2028, 2, 1), date(2028, 2, 29)),
        ("month", date(2027, 2, 28), "2027-02", date(2027, 2, 1), date(2027, 2, 28)),
        ("month", date(2027, 12, 31), "2027-12", date(2027, 12, 1), date(2027, 12, 31)),
        ("year", date(2027, 6, 1), "2027", date(2027, 1, 1), date(2027, 12, 31)),
    ],
)
def test_periods_are_those_of_the_calendar(period, day, label, first, last):
    found = commitment_period(period, day)
    assert (found.label, found.first, found.last) == (label, first, last)


@given(st.dates(date(2000, 1, 1), date(2999, 12, 30)), st.sampled_from(["month", "year"]))
def test_periods_follow_each_other_without_a_gap(day, period):
    found = commitment_period(period, day)
    assert found.first <= day <= found.last
    assert commitment_period(period, found.last + DAY).first == found.last + DAY
    assert commitment_period(period, found.first).label == commitment_period(period, found.last).label == found.label


@pytest.mark.parametrize(
    ("period", "at", "label", "ends"),
    [
        ("year", NOW, "2027", issue.end_of_day(date(2027, 12, 31))),
        ("month", NOW, "2027-01", issue.end_of_day(date(2027, 1, 31))),
        ("month", datetime(2027, 1, 31, 23, 59, 58, tzinfo=UTC), "2027-01", issue.end_of_day(date(2027, 1, 31))),
        ("month", issue.end_of_day(date(2027, 1, 31)), "2027-02", issue.end_of_day(date(2027, 2, 28))),
        ("year", issue.end_of_day(date(2027, 12, 31)), "2028", issue.end_of_day(date(2028, 12, 31))),
        ("year", datetime(2028, 1, 1, tzinfo=UTC), "2028", issue.end_of_day(date(2028, 12, 31))),
    ],
)  # fmt: skip
def test_without_overage_a_licence_ends_with_its_period(books, period, at, label, ends):
    books.clock.now = at
    lic = fetch(books, books.a_subscription(period=period), device_public=books.a_device().public)
    assert lic.license_id.endswith(f".{label}")
    assert (lic.not_before, lic.expires_at, lic.sequence) == (at, ends, 1)


def test_without_overage_the_next_period_begins_its_own_count(books):
    subscription, device = books.a_subscription(period="month"), books.a_device()
    january = fetch(books, subscription, device_public=device.public)
    books.clock.now = january.expires_at - SECOND
    assert fetch(books, subscription, device_public=device.public) == january
    books.clock.now = january.expires_at + timedelta(hours=1)
    assert judge(january, at=books.clock.now, device_public=device.public).serves  # in grace, until it is fetched
    february = fetch(books, subscription, device_public=device.public)
    assert (february.license_id[-7:], february.sequence) == ("2027-02", 1)
    assert fetch(books, subscription, device_public=device.public) == february


@pytest.mark.parametrize(("period", "days", "lead"), [("year", 366, 60), ("month", 62, 20)])
def test_with_overage_a_licence_is_renewed_before_it_ends(books, period, days, lead):
    subscription, device = books.a_subscription(period=period, overage=True), books.a_device()
    first = fetch(books, subscription, device_public=device.public)
    assert (first.expires_at.date() - NOW.date()).days == days
    meter = first.meter(READ_PAGES_METER)
    assert (meter.hard, meter.soft) == (None, None)
    books.clock.now = first.expires_at - lead * DAY - SECOND
    assert fetch(books, subscription, device_public=device.public) == first
    assert books.licensing.next_if_due(subscription.id, device.origin) is None
    books.clock.now = first.expires_at - lead * DAY
    second = fetch(books, subscription, device_public=device.public)
    assert (second.license_id, second.sequence) == (first.license_id, 2)
    assert second.expires_at > first.expires_at


def test_the_next_licence_goes_ahead_by_file_once(books):
    subscription, device = books.a_subscription(), books.a_device()
    first = fetch(books, subscription, device_public=device.public)
    assert books.licensing.next_if_due(subscription.id, device.origin) is None
    books.clock.now = first.expires_at - 59 * DAY
    ahead = books.licensing.next_if_due(subscription.id, device.origin)
    assert (ahead.license_id[-4:], ahead.not_before) == ("2028", datetime(2028, 1, 1, tzinfo=UTC))
    assert books.licensing.next_if_due(subscription.id, device.origin) == ahead
    assert fetch(books, subscription, device_public=device.public) == first  # what serves now is still the old one
    books.clock.now = datetime(2028, 1, 1, tzinfo=UTC)
    assert fetch(books, subscription, device_public=device.public) == open_license(ahead.blob, books.vendor.trust_root)
    assert books.licensing.next_if_due(subscription.id, device.origin) is None
    assert len(books.licensing.licenses()) == 2


def test_a_device_without_a_licence_is_due_one(books):
    subscription, device = books.a_subscription(), books.a_device()
    books.licensing.devices.register(device.public, subscription.id)
    made = books.licensing.next_if_due(subscription.id, device.origin)
    assert (made.not_before, made.origin) == (NOW, device.origin)


def test_a_device_that_was_silent_for_long_is_due_one_for_now(books):
    subscription, device = books.a_subscription(), books.a_device()
    fetch(books, subscription, device_public=device.public)
    books.clock.now = datetime(2029, 5, 1, tzinfo=UTC)
    made = books.licensing.next_if_due(subscription.id, device.origin)
    assert (made.license_id[-4:], made.not_before) == ("2029", books.clock.now)


@pytest.mark.parametrize(
    ("since", "until", "words"),
    [
        (None, date(2027, 1, 14), "would be none"),
        (date(2027, 3, 1), date(2027, 2, 28), "would be none"),
        (None, date(2028, 1, 1), "grants 1,000 for 2027 and no more"),
        (date(2028, 1, 1), date(2029, 1, 1), "grants 1,000 for 2028 and no more"),
    ],
)
def test_a_term_that_is_none_is_refused(books, since, until, words):
    subscription = books.a_subscription()
    with pytest.raises(IssueError, match=words):
        books.licensing.issue_next(subscription.id, None, since=since, until=until)
    assert books.licensing.licenses() == []


@pytest.mark.parametrize("overage", [True, False])
@pytest.mark.parametrize(
    ("since", "until"),
    [
        (None, date.max),
        (None, date(9999, 12, 18)),
        (date(9999, 12, 30), date.max),
        (date.max, date.max),
        (None, date.min),
        (date.max, date.min),
    ],
)
def test_a_term_beyond_the_calendar_is_refused(books, since, until, overage):
    subscription = books.a_subscription(overage=overage)
    with pytest.raises(IssueError, match=r"would be none|beyond the year 9999|and no more"):
        books.licensing.issue_next(subscription.id, None, since=since, until=until)
    assert books.licensing.licenses() == []


@pytest.mark.parametrize(
    ("since", "until"),
    [
        (None, date(9999, 12, 17)),
        (date(9999, 12, 1), date(9999, 12, 17)),
        (date.min, date(9999, 12, 17)),
        (date.min, date.min),
    ],
)
def test_the_first_and_the_last_days_of_the_calendar_make_a_term(books, since, until):
    subscription = books.a_subscription(overage=True)
    made = books.licensing.issue_next(subscription.id, None, since=since, until=until)
    assert made.expires_at.date() == until
    assert books.again().licensing.licenses() == books.licensing.newest_licenses() == [made]


def test_a_licence_that_begins_in_the_last_month_of_the_calendar_is_the_next_one(books):
    subscription = books.a_subscription(overage=True)
    made = books.licensing.issue_next(subscription.id, None, since=date(9999, 12, 1), until=date(9999, 12, 17))
    assert books.licensing.next_if_due(subscription.id, None) == made


def test_a_term_can_be_chosen(books):
    subscription, more = books.a_subscription(), books.a_subscription(overage=True)
    made = books.licensing.issue_next(subscription.id, None, since=date(2027, 3, 1), until=date(2027, 3, 31))
    assert made.not_before == datetime(2027, 3, 1, tzinfo=UTC)
    assert made.expires_at == datetime(2027, 3, 31, 23, 59, 59, tzinfo=UTC)
    longer = books.licensing.issue_next(more.id, None, until=date(2030, 12, 31))
    assert longer.expires_at.year == 2030
    assert [one.license_id for one in books.licensing.newest_licenses()] == [made.license_id, longer.license_id]


@given(
    steps=st.lists(st.integers(0, 200), min_size=1, max_size=12),
    period=st.sampled_from(["month", "year"]),
    overage=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_whenever_a_device_asks_it_gets_what_serves_now_and_never_an_older_one(
    tmp_path_factory, steps, period, overage
):
    books = a_books(tmp_path_factory.mktemp("books"))
    subscription, device = books.a_subscription(period=period, overage=overage), books.a_device()
    seen: dict[str, int] = {}
    last_end = NOW
    for days in steps:
        books.clock.move(days * DAY)
        lic = fetch(books, subscription, device_public=device.public)
        assert judge(lic, at=books.clock.now, device_public=device.public).serves
        assert lic.expires_at > books.clock.now
        assert lic.expires_at >= last_end
        assert lic.sequence >= seen.get(lic.license_id, 1)
        last_end, seen[lic.license_id] = lic.expires_at, lic.sequence
        ahead = books.licensing.next_if_due(subscription.id, device.origin)
        assert ahead is None or ahead.expires_at > lic.expires_at
    books.trail.verify()
    books.database.close()
