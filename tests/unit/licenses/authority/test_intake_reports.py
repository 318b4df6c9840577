"""Usage reports over the wire: billed once, refused when they contradict what is known, and never half taken in."""

import dataclasses
from datetime import timedelta

import pytest

from licenses import envelope, usage_report
from licenses.authority.reconcile import reconcile
from licenses.authority.statements import closes_at, statement
from licenses.errors import (
    BadSignatureError,
    ConflictError,
    ExchangeError,
    ForkError,
    FormatError,
    LicensesError,
    MismatchError,
    OutOfQuotaError,
    UnauthorizedUseError,
    UnknownStateError,
    UntrustedKeyError,
)
from licenses.keys import SigningKey
from licenses.model import CONTAINER_TYPE, READ_PAGES_METER
from licenses.usage_log.fork import ForkKind, verify_fork
from licenses.usage_report import UsageRequest
from tests.fakes.vendor_books import LATER, VendorBooks

METER = READ_PAGES_METER


def _told(report, quantity):
    months = {month: quantity for months in report.totals.values() for month in months}
    return dataclasses.replace(report, totals={METER: months})


def test_report_is_billed_once(books, appliance):
    first, again = books.take(appliance, appliance.report(0)), books.take(appliance, appliance.report(0))
    assert (first.billed, first.repeated, first.since, first.size) == ({METER: 3}, False, *appliance.windows[0])
    assert (again.billed, again.repeated, again.size) == ({}, True, first.size)
    assert books.billed(appliance.origin) == 3
    assert books.licensing.devices.one(appliance.origin).last_report_at == LATER


def test_same_window_under_another_id_bills_nothing(books, appliance):
    books.take(appliance, appliance.report(1))
    again = books.take(appliance, appliance.report(1, id="11111111-2222-4333-8444-555555555555"))
    assert (again.billed, again.repeated) == ({}, True)
    assert (books.billed(), books.findings()) == (2, [])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_reports_are_taken_in_any_order(books, appliance, order):
    for window in order:
        books.take(appliance, appliance.report(window))
    assert books.billed() == 9
    ack = books.opened(appliance, books.intake.acknowledgement(books.subscription, appliance.origin, None))
    assert (ack.size, ack.totals) == (appliance.windows[-1][1], {METER: 9})


def test_window_without_use_is_known_and_bills_nothing(books, appliance):
    appliance.meter.window()
    done = books.take(appliance, appliance.report(3))
    assert (done.billed, done.repeated) == ({}, False)
    assert books.take(appliance, appliance.report(3)).repeated


def test_months_are_those_of_the_effective_time(books, appliance):
    appliance.meter.wait(20 * 24 * 3600 * 1000)
    books.at += timedelta(days=30)
    appliance.meter.window(uses=5)
    for window in range(4):
        books.take(appliance, appliance.report(window))
    rows = books.database.query("SELECT billed_month, sum(quantity) AS n FROM amount GROUP BY 1 ORDER BY 1")
    assert [(row["billed_month"], row["n"]) for row in rows] == [("2027-01", 9), ("2027-02", 5)]


# ---- whose it is ----------------------------------------------------------------------------------------------------


def test_report_of_an_unknown_device_is_refused(books):
    stranger = books.site(enrolled=False)
    stranger.meter.window(uses=1)
    with pytest.raises(MismatchError, match="not enrolled"):
        books.take(stranger, stranger.report())
    assert books.billed() == 0


def test_report_of_another_subscriptions_device_is_refused(books):
    other = books.accounts.add_subscription(books.customer.id, container_type=CONTAINER_TYPE, tier="tier")
    appliance = books.site(subscription_id=other.id)
    appliance.meter.window(uses=1)
    with pytest.raises(MismatchError, match="another subscription"):
        books.take(appliance, appliance.report())
    assert dict(books.rows())["arrival"] == 0


def test_report_signed_by_another_device_is_refused(books, appliance):
    other = books.site()
    blob = envelope.seal(appliance.report(0).to_payload(), usage_report.PAYLOAD_TYPE, [other.meter.device])
    body = _body_with(appliance, blob)
    with pytest.raises(UntrustedKeyError):
        books.intake.take_report(books.subscription, body)
    forged = SigningKey(appliance.meter.device.key_id, other.meter.device.private)
    blob = envelope.seal(appliance.report(0).to_payload(), usage_report.PAYLOAD_TYPE, [forged])
    with pytest.raises(BadSignatureError):
        books.intake.take_report(books.subscription, _body_with(appliance, blob))
    assert dict(books.rows())["arrival"] == 0


def test_report_of_another_container_type_is_refused(books, appliance):
    with pytest.raises(MismatchError, match="is for computervisionread"):
        books.take(appliance, appliance.report(0), container_type="TextAnalytics.KeyPhrase")
    books.take(appliance, appliance.report(0), container_type=CONTAINER_TYPE)
    assert books.billed() == 3


def test_report_for_an_unapproved_subscription_is_refused_and_can_come_again(books, appliance):
    books.accounts.approve(books.subscription_id, False)
    with pytest.raises(UnauthorizedUseError):
        books.take(appliance, appliance.report(0))
    books.accounts.approve(books.subscription_id, True)
    assert books.take(appliance, appliance.report(0)).billed == {METER: 3}


@pytest.mark.parametrize("changes", [{"quantity": 2}, {"id": "11111111-2222-4333-8444-555555555555"}])
def test_body_that_says_other_than_its_report_is_refused(books, appliance, changes):
    with pytest.raises(FormatError):
        books.take(appliance, appliance.report(0), **changes)
    assert dict(books.rows())["arrival"] == 0


# ---- contradictions -------------------------------------------------------------------------------------------------


def test_same_id_with_other_content_is_a_conflict(books, appliance):
    books.take(appliance, appliance.report(0))
    with pytest.raises(ConflictError, match="came before with other content"):
        books.take(appliance, _told(appliance.report(0), 7))
    assert (books.billed(), books.findings()) == (3, ["report_id"])
    with pytest.raises(ConflictError):
        books.take(appliance, _told(appliance.report(0), 7))
    assert books.findings() == ["report_id"]  # the same again is not told twice


def test_report_that_overlaps_is_a_conflict(books, appliance):
    books.take(appliance, appliance.report(0))
    with pytest.raises(ConflictError, match="only"):
        books.take(appliance, appliance.report(0, until=1))
    assert (books.billed(), books.findings()) == (3, ["overlap"])
    assert books.take(appliance, appliance.report(1)).billed == {METER: 2}


def test_slow_twin_within_what_is_billed_is_a_finding(books, appliance):
    clone = appliance.copy()
    appliance.meter.window(uses=14)
    for window in range(4):
        books.take(appliance, appliance.report(window))
    for _ in range(2):
        clone.meter.window(uses=2)
    for window in (3, 4):
        with pytest.raises(ConflictError, match="nothing is known to end"):
            books.take(clone, clone.report(window))
    assert books.findings() == ["overlap", "overlap"]
    assert books.billed() == 23
    assert books.take_bundle(appliance.bundle()).repeated  # the history that is known is as good as before
    assert dict(books.rows())["fork"] == 0
    clone.meter.window(uses=20)
    with pytest.raises(ForkError):
        books.take_bundle(clone.bundle())


def test_bundle_that_ends_within_what_is_billed_is_a_finding_and_taints_nothing(books, appliance):
    clone = appliance.copy()
    clone.meter.window(uses=14)
    for window in range(4):
        books.take(clone, clone.report(window))
    appliance.meter.window(uses=2)
    path = appliance.bundle()
    for found in (["overlap"], []):  # the same again is not known either; it was found before
        done = books.take_bundle(path)
        assert (done.billed, done.repeated, [one.code for one in done.findings]) == ({}, False, found)
        assert "were not believed" in done.remarks[0]
    assert books.findings() == ["overlap"]
    assert books.take_bundle(clone.bundle()).repeated
    assert dict(books.rows())["fork"] == 0


def test_enrolment_of_a_twin_is_a_fork_and_no_licence_asks_for_its_log(books, appliance):
    clone = appliance.copy()
    appliance.meter.window(uses=2)
    clone.meter.window(uses=2)
    for window in range(4):
        books.take(appliance, appliance.report(window))
    for _ in range(2):
        with pytest.raises(ForkError, match="not those that are known") as caught:
            books.licensing.devices.enrol(clone.enrolment(), books.subscription_id)
    assert caught.value.proof is None
    with pytest.raises(ForkError):
        books.licensing.license_for(books.subscription, container_type=CONTAINER_TYPE, enrolment=clone.enrolment())
    assert books.licensing.devices.one(appliance.origin).anchor is None
    assert len(list(books.database.query("SELECT * FROM fork"))) == 1
    assert books.trail.lines(subject=appliance.origin)[0].action == "device.fork"
    assert books.take_bundle(appliance.bundle()).repeated


def test_enrolment_within_what_is_billed_is_not_believed(books, appliance):
    clone = appliance.copy()
    appliance.meter.window(uses=14)
    for window in range(4):
        books.take(appliance, appliance.report(window))
    clone.meter.window(uses=2)
    assert books.licensing.devices.enrol(clone.enrolment(), books.subscription_id).anchor is None
    assert books.take_bundle(appliance.bundle()).repeated
    assert books.licensing.devices.one(appliance.origin).anchor.size == appliance.windows[-1][1]


def test_enrolment_ahead_of_the_log_that_fits_no_window_is_a_finding(books, appliance):
    clone = appliance.copy()
    clone.meter.window(uses=2)
    books.licensing.devices.enrol(clone.enrolment(), books.subscription_id)
    appliance.meter.window(uses=14)
    for window in range(4):
        books.take(appliance, appliance.report(window))
    assert (books.billed(), books.findings()) == (23, ["enrolment_differs"])
    with pytest.raises(ForkError):
        books.take_bundle(appliance.bundle())


def test_contradiction_that_proves_nothing_is_a_fork_without_a_proof(books, appliance):
    clone = appliance.copy()
    appliance.meter.window(uses=2)
    clone.meter.window(uses=2)
    clone.meter.window(uses=1)
    books.licensing.devices.enrol(
        appliance.enrolment(), books.subscription_id
    )  # told, with no checkpoint that is signed
    with pytest.raises(ForkError) as caught:
        books.take(clone, clone.report(4))
    assert caught.value.proof is None
    assert (books.billed(), dict(books.rows())["fork"]) == (0, 1)


def test_two_machines_of_one_image_are_found_at_the_same_size(books, appliance):
    clone = appliance.copy()
    appliance.meter.window(uses=1)
    clone.meter.window(uses=1)
    for window in range(4):
        books.take(appliance, appliance.report(window))
    with pytest.raises(ForkError) as caught:
        books.take(clone, clone.report(3, id="11111111-2222-4333-8444-555555555555"))
    proven = verify_fork(caught.value.proof, appliance.meter.device.verifying)
    assert proven.kind is ForkKind.SAME_SIZE
    assert books.billed() == 10
    (fork,) = books.database.query("SELECT * FROM fork")
    assert (fork["origin"], fork["proof"], fork["name"]) == (appliance.origin, caught.value.proof, caught.value.name)
    assert books.trail.lines(subject=appliance.origin)[0].action == "device.fork"
    appliance.meter.window(uses=2)
    assert books.take(appliance, appliance.report(4)).billed == {METER: 2}  # the history that is known goes on


def test_two_machines_of_one_image_are_found_by_what_they_continue(books, appliance):
    clone = appliance.copy()
    appliance.meter.window(uses=1)
    clone.meter.window(uses=1)
    clone.meter.window(uses=1)
    for window in range(4):
        books.take(appliance, appliance.report(window))
    with pytest.raises(ForkError) as caught:
        books.take(clone, clone.report(4))
    assert verify_fork(caught.value.proof, appliance.meter.device.verifying).kind is ForkKind.OTHER_PAST
    assert books.billed() == 10


def test_fork_is_found_when_the_later_report_came_first(books, appliance):
    clone = appliance.copy()
    appliance.meter.window(uses=1)
    appliance.meter.window(uses=1)
    clone.meter.window(uses=1)
    books.take(appliance, appliance.report(4))
    with pytest.raises(ForkError) as caught:
        books.take(clone, clone.report(3))
    assert verify_fork(caught.value.proof, appliance.meter.device.verifying).kind is ForkKind.OTHER_PAST
    assert books.billed() == 1


def test_history_before_enrolment_is_that_of_the_enrolment(books):
    appliance = books.site(enrolled=False)
    appliance.meter.window(uses=1)
    clone = appliance.copy()
    appliance.meter.window(uses=2)
    books.licensing.devices.enrol(appliance.enrolment(), books.subscription_id)
    clone.meter.window(uses=2)
    assert books.take(clone, clone.report(0)).billed == {METER: 1}
    with pytest.raises(ForkError, match="not those that are known"):
        books.take(clone, clone.report(1))
    assert books.billed() == 1


# ---- behind a hole --------------------------------------------------------------------------------------------------


def _twin_behind_a_hole(books, appliance):
    """A copy that reports its third window on, before the machine that it was made of reports its second."""
    books.take(appliance, appliance.report(0))
    books.take(appliance, appliance.report(1))
    books.take(appliance, appliance.report(2))
    clone = appliance.copy()
    appliance.meter.window(uses=2)
    for _ in range(3):
        clone.meter.window(uses=1)
    assert books.take(clone, clone.report(5)).billed == {METER: 1}
    (device,) = reconcile(books.database, at=books.at).devices
    assert (len(device.gaps), books.billed()) == (1, 10)
    return clone


def test_copy_that_reports_behind_a_hole_does_not_keep_the_machine_out(books, appliance):
    clone = _twin_behind_a_hole(books, appliance)
    assert books.take(appliance, appliance.report(3)).billed == {METER: 2}
    assert books.findings() == []  # nothing contradicts itself so far
    appliance.meter.window(uses=4)
    assert books.take(appliance, appliance.report(4)).billed == {METER: 4}
    assert (books.billed(), books.findings()) == (15, ["superseded"])
    with pytest.raises(ConflictError, match="taken back"):
        books.take(clone, clone.report(5))
    done = books.take_bundle(appliance.bundle())
    assert (done.repeated, done.ack.totals, books.billed()) == (True, {METER: 15}, 15)
    (device,) = reconcile(books.database, at=books.at).devices
    assert (device.gaps, device.billed, device.unverified) == ((), {METER: 15}, {})


@pytest.mark.parametrize("ending", ["beyond", "same_size"])
def test_bundle_takes_back_what_a_copy_reported_behind_a_hole(books, appliance, ending):
    clone = _twin_behind_a_hole(books, appliance)
    appliance.meter.window(uses=1 if ending == "same_size" else 4)
    if ending == "same_size":
        appliance.meter.window(uses=0)
    done = books.take_bundle(appliance.bundle())
    assert [one.code for one in done.findings] == ["superseded"]
    assert books.billed() == appliance.used()
    (fork,) = books.database.query("SELECT * FROM fork")
    kind = ForkKind.SAME_SIZE if ending == "same_size" else ForkKind.OTHER_PAST
    assert verify_fork(fork["proof"], appliance.meter.device.verifying).kind is kind
    appliance.meter.window(uses=3)
    assert books.take(appliance, appliance.report()).billed == {METER: 3}
    with pytest.raises(ForkError):
        books.take_bundle(clone.bundle())


def test_what_waited_behind_a_hole_is_of_the_history_once_it_is_filled(books, appliance):
    for _ in range(3):
        appliance.meter.window(uses=1)
    for window in (5, 3, 1, 4, 2):
        assert books.take(appliance, appliance.report(window)).billed
        assert books.take(
            appliance, appliance.report(window, id=f"{window}1111111-2222-4333-8444-555555555555")
        ).repeated
    assert [row["n"] for row in books.database.query("SELECT count(*) AS n FROM span")] == [0]
    books.take(appliance, appliance.report(0))
    ack = books.opened(appliance, books.intake.acknowledgement(books.subscription, appliance.origin, None))
    assert (ack.size, ack.totals, books.findings()) == (appliance.meter.size, {METER: 12}, [])
    assert books.take_bundle(appliance.bundle()).repeated


def test_hole_that_another_history_fills_takes_back_what_waited(books, appliance):
    clone = appliance.copy()
    appliance.meter.window(uses=5)
    clone.meter.window(uses=5)
    clone.meter.window(uses=1)
    books.take(clone, clone.report(4))
    for window in range(4):
        books.take(appliance, appliance.report(window))
    assert (books.billed(), books.findings()) == (14, ["superseded"])
    (fork,) = books.database.query("SELECT * FROM fork")
    assert verify_fork(fork["proof"], appliance.meter.device.verifying).kind is ForkKind.OTHER_PAST


# ---- clocks ---------------------------------------------------------------------------------------------------------


def test_use_of_a_clock_that_is_ahead_is_billed_now_and_told(books, appliance):
    appliance.meter.wait(400 * 24 * 3600 * 1000)
    appliance.meter.window(uses=6)
    assert books.take(appliance, appliance.report(3)).billed == {METER: 6}
    assert books.findings() == ["clock_ahead"]
    (row,) = books.database.query("SELECT month, billed_month FROM amount")
    assert (row["month"], row["billed_month"]) == ("2028-02", "2027-01")


def test_use_of_a_clock_that_is_behind_is_billed_when_the_subscription_began(books):
    appliance = books.site()
    appliance.meter.now_ms -= 3000 * 24 * 3600 * 1000
    appliance.meter.window(uses=2)
    books.take(appliance, appliance.report())
    assert books.findings() == ["clock_behind"]
    (row,) = books.database.query("SELECT month, billed_month FROM amount")
    assert (row["month"][:3], row["billed_month"]) == ("201", "2027-01")


# ---- quotas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("period", ["month", "year"])
def test_commitment_without_overage_is_out_of_quota_and_still_billed(tmp_path, period):
    books = VendorBooks(tmp_path, quantity=5, period=period, overage_allowed=False)
    appliance = books.site()
    for uses in (3, 2, 1):
        appliance.meter.window(uses=uses)
    books.take(appliance, appliance.report(0))
    books.take(appliance, appliance.report(1))
    for _ in range(2):
        with pytest.raises(OutOfQuotaError, match="6 of 5"):
            books.take(appliance, appliance.report(2))
    assert books.billed() == 6
    books.accounts.add_tier("larger", meter=METER, quantity=6, period=period, overage_allowed=False)
    books.accounts.change_tier(books.subscription_id, "larger")
    assert books.take(appliance, appliance.report(2)).repeated


def test_quota_that_cannot_be_asked_for_takes_nothing_in(tmp_path, monkeypatch):
    books = VendorBooks(tmp_path, quantity=5, overage_allowed=False)
    appliance = books.site()
    appliance.meter.window(uses=3)

    def full(name: str) -> None:
        raise UnknownStateError(f"the disk is full, no {name} is found", next_step="nothing of it was kept.")

    with monkeypatch.context() as patched:
        patched.setattr(books.accounts, "tier", full)
        with pytest.raises(UnknownStateError):
            books.take(appliance, appliance.report())
    assert (books.billed(), dict(books.rows())["arrival"]) == (0, 0)
    assert books.take(appliance, appliance.report()).billed == {METER: 3}


def test_quota_begins_anew_with_the_period(tmp_path):
    books = VendorBooks(tmp_path, quantity=3, period="month", overage_allowed=False)
    appliance = books.site()
    appliance.meter.window(uses=3)
    books.take(appliance, appliance.report(0))
    appliance.meter.wait(30 * 24 * 3600 * 1000)
    appliance.meter.window(uses=3)
    books.at += timedelta(days=31)
    assert books.take(appliance, appliance.report(1)).billed == {METER: 3}


# ---- containers without a ledger ------------------------------------------------------------------------------------


def _plain_request(**changes):
    request = UsageRequest(
        id="5b1e5f0e-2c77-4c0e-8f7d-6a3f0f7f9b10",
        container_type=CONTAINER_TYPE,
        container_version="3.2.0",
        container_id="c0ffee",
        meter=METER,
        quantity=12,
        request_time=1893456000,
        api_type="computervision",
    )
    return dataclasses.replace(request, **changes)


def test_plain_report_is_billed_once_by_its_id(books):
    body = _plain_request().to_body()
    first, again = (books.intake.take_report(books.subscription, body) for _ in range(2))
    assert (first.billed, first.repeated, first.origin, first.size) == ({METER: 12}, False, None, 0)
    assert (again.billed, again.repeated) == ({}, True)
    later = _plain_request(request_time=1893459999).to_body()
    assert books.intake.take_report(books.subscription, later).repeated
    (row,) = books.database.query("SELECT kind, quantity, origin FROM amount")
    assert (row["kind"], row["quantity"], row["origin"]) == ("plain", 12, None)


@pytest.mark.parametrize("changes", [{"quantity": 13}, {"meter": "another"}, {"container_id": "other"}])
def test_plain_report_with_other_content_is_a_conflict(books, changes):
    books.intake.take_report(books.subscription, _plain_request().to_body())
    for _ in range(3):  # however often, it is one finding
        with pytest.raises(ConflictError):
            books.intake.take_report(books.subscription, _plain_request(**changes).to_body())
    assert (books.billed(), books.findings()) == (12, ["report_id"])
    (found,) = reconcile(books.database, at=books.at).subscriptions
    assert (found.subscription_id, found.findings[0].place) == (books.subscription_id, _plain_request().id)


def test_id_of_a_signed_report_is_no_plain_one(books, appliance):
    report = appliance.report(0)
    books.take(appliance, report)
    with pytest.raises(ConflictError):
        books.intake.take_report(books.subscription, _plain_request(id=report.id).to_body())


def test_id_of_a_plain_report_is_no_signed_one(books, appliance):
    books.intake.take_report(books.subscription, _plain_request(id=appliance.report(0).id).to_body())
    with pytest.raises(ConflictError):
        books.take(appliance, appliance.report(0))
    assert books.billed() == 12


# ---- when it arrives ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["report", "plain"])
def test_closed_statement_stays_though_the_clock_is_set_back(books, appliance, kind):
    month = f"{books.at:%Y-%m}"
    books.at = closes_at(month) + timedelta(seconds=10)
    books.take(appliance, appliance.report(0))
    books.at -= timedelta(minutes=1)
    if kind == "plain":
        books.intake.take_report(books.subscription, _plain_request().to_body())
    else:
        books.take(appliance, appliance.report(1))
    assert [line.used for line in statement(books.database, books.customer.id, month).lines] == [0]


def test_clock_that_was_far_ahead_once_is_not_followed_for_ever(books, appliance):
    at, books.at = books.at, books.at.replace(year=2099)
    books.take(appliance, appliance.report(0))
    books.at = at
    books.take(appliance, appliance.report(1))
    assert [line.used for line in statement(books.database, books.customer.id, f"{at:%Y-%m}").lines] == [2]


# ---- acknowledgements -----------------------------------------------------------------------------------------------


def test_reports_are_acknowledged_when_they_are_proven_to_continue(books, appliance):
    for window in range(3):
        books.take(appliance, appliance.report(window))
    sizes = [size for _, size in appliance.windows]
    for size, total in zip(sizes, (3, 5, 9), strict=True):
        blob = books.intake.acknowledgement(books.subscription, appliance.origin, size)
        ack = books.opened(appliance, blob)
        assert (ack.size, ack.totals, ack.license) == (size, {METER: total}, None)
        books.at += timedelta(hours=1)
        assert books.intake.acknowledgement(books.subscription, appliance.origin, size) == blob
    assert books.intake.acknowledgement(books.subscription, appliance.origin, None) == blob


def test_report_that_proves_nothing_is_held_until_its_entries_come(books, appliance):
    books.take(appliance, appliance.report(0, proven=False))  # from entry 0 on there is nothing to prove
    with pytest.raises(ConflictError, match="does not prove") as caught:
        books.take(appliance, appliance.report(1, proven=False))
    assert "usage export" in caught.value.next_step
    assert (books.billed(), books.findings()) == (3, ["unproven"])
    books.take_bundle(appliance.bundle())
    assert books.take(appliance, appliance.report(1, proven=False)).repeated
    assert (books.billed(), books.findings()) == (9, ["unproven"])
    ack = books.opened(appliance, books.intake.acknowledgement(books.subscription, appliance.origin, None))
    assert (ack.size, ack.totals) == (appliance.windows[2][1], {METER: 9})


def test_report_that_proved_nothing_is_billed_when_it_comes_with_its_proof(books, appliance):
    with pytest.raises(ConflictError):
        books.take(appliance, appliance.report(1, proven=False))
    for window in range(3):
        assert not books.take(appliance, appliance.report(window)).repeated
    ack = books.opened(appliance, books.intake.acknowledgement(books.subscription, appliance.origin, None))
    assert (ack.size, ack.totals) == (appliance.windows[2][1], {METER: 9})
    assert books.billed() == 9


def test_hole_is_not_acknowledged(books, appliance):
    for window in (0, 2):
        books.take(appliance, appliance.report(window))
    ack = books.opened(appliance, books.intake.acknowledgement(books.subscription, appliance.origin, None))
    assert ack.size == appliance.windows[0][1]


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_nothing_else_is_acknowledged(books, appliance, size):
    books.take(appliance, appliance.report(0))
    with pytest.raises(ExchangeError):
        books.intake.acknowledgement(books.subscription, appliance.origin, size)


def test_acknowledgement_of_another_subscriptions_device_is_refused(books, appliance):
    other = books.accounts.add_subscription(books.customer.id, container_type=CONTAINER_TYPE, tier="tier")
    books.take(appliance, appliance.report(0))
    with pytest.raises(MismatchError):
        books.intake.acknowledgement(other, appliance.origin, None)


def test_device_that_reported_nothing_has_no_acknowledgement(books):
    with pytest.raises(ExchangeError):
        books.intake.acknowledgement(books.subscription, books.site().origin, None)


def test_every_refusal_is_of_the_family(books, appliance):
    for body in (b"", b"{}", b"[]", b"\xff", b'{"id":1}', appliance.body(appliance.report(0))[:-5]):
        with pytest.raises(LicensesError):
            books.intake.take_report(books.subscription, body)


def _body_with(appliance, blob):
    request = UsageRequest.from_body(appliance.body(appliance.report(0)))
    return dataclasses.replace(request, report=blob).to_body()
