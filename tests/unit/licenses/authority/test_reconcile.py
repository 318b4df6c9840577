"""Reconciliation: what was reported, what was verified, and what a person should look at."""

import dataclasses
import json
import uuid
from datetime import timedelta

import pytest

from licenses.authority import forks
from licenses.authority import reconcile as reconciliation
from licenses.authority.reconcile import find_proof, reconcile
from licenses.authority.statement_csv import to_csv
from licenses.authority.statement_html import to_html
from licenses.authority.statements import billed_use, statement
from licenses.errors import ConflictError, ExchangeError, ForkError, MismatchError
from licenses.model import READ_PAGES_METER
from licenses.usage_log.note import sign_checkpoint
from licenses.usage_log.report import Severity

METER = READ_PAGES_METER
DAY = timedelta(days=1)


def _of(books, appliance, **options):
    (device,) = reconcile(books.database, at=books.at, origin=appliance.origin, **options).devices
    return device


def test_device_that_said_nothing_is_silent_in_the_end(books):
    site = books.site()
    fresh = _of(books, site)
    assert (fresh.last_report_at, fresh.silent, fresh.size, fresh.worst) == (None, False, 0, None)
    books.at += 36 * DAY
    old = _of(books, site)
    assert (old.silent, old.worst) == (True, Severity.NOTE)
    assert not _of(books, site, silent_after=100 * DAY).silent


def test_reported_is_told_apart_from_verified(books, appliance):
    for window in range(3):
        books.take(appliance, appliance.report(window))
    one = _of(books, appliance)
    assert (one.reported, one.verified, one.unverified, one.billed) == ({METER: 9}, {}, {METER: 9}, {METER: 9})
    assert (one.last_report_at, one.acked, one.size) == (books.at, 0, appliance.meter.size)
    appliance.meter.window(uses=1)
    books.take_bundle(appliance.bundle())
    one = _of(books, appliance)
    assert (one.reported, one.verified, one.unverified, one.billed) == ({METER: 9}, {METER: 10}, {}, {METER: 10})
    assert (one.acked, one.gaps, one.corrected, one.worst) == (appliance.meter.size, (), {}, None)


def test_correction_is_shown(books, appliance):
    report = appliance.report(1)
    lie = {METER: {month: 30 for months in report.totals.values() for month in months}}
    books.take(appliance, dataclasses.replace(report, totals=lie))
    books.take_bundle(appliance.bundle())
    one = _of(books, appliance)
    assert (one.reported, one.corrected, one.billed) == ({METER: 30}, {METER: -28}, {METER: 9})
    assert [finding.code for finding in one.findings] == ["report_wrong"]
    assert one.worst is Severity.TAMPERED


def test_gaps_are_listed(books, appliance):
    books.take(appliance, appliance.report(2))
    assert _of(books, appliance).gaps == ((0, appliance.windows[2][0]),)
    books.take(appliance, appliance.report(0))
    one = _of(books, appliance)
    assert (one.gaps, one.worst) == ((appliance.windows[1],), Severity.GAP)
    books.take(appliance, appliance.report(1))
    assert _of(books, appliance).gaps == ()


def test_forks_conflicts_and_clocks_are_listed(books, appliance):
    clone = appliance.copy()
    appliance.meter.wait(40 * 24 * 3600 * 1000)
    appliance.meter.window(uses=1)
    clone.meter.window(uses=1)
    for window in (0, 3):
        books.take(appliance, appliance.report(window))
    with pytest.raises(ConflictError):
        books.take(appliance, appliance.report(0, until=1))
    with pytest.raises(ForkError) as caught:
        books.take(clone, clone.report(3, id="11111111-2222-4333-8444-555555555555"))
    one = _of(books, appliance)
    assert [finding.code for finding in one.findings] == ["overlap", "clock_ahead"]
    assert [finding.code for finding in one.clock_findings] == ["clock_ahead"]
    (fork,) = one.forks
    assert (fork.proven, fork.name, fork.number) == (True, caught.value.name, 1)
    assert find_proof(books.database, appliance.origin, 1) == (caught.value.name, caught.value.proof)
    assert one.worst is Severity.TAMPERED


def _fork(books, site, number):
    """A second history of the first window, which the device signed like the first."""
    size = site.windows[0][1]
    note = sign_checkpoint(site.origin, size, number.to_bytes(32, "big"), site.meter.device)
    with pytest.raises(ForkError) as caught:
        books.take(site, site.report(0, id=str(uuid.UUID(int=number)), checkpoint=note))
    return caught.value.proof


def test_one_device_does_not_fill_the_books_with_forks(books, appliance, monkeypatch):
    monkeypatch.setattr(forks, "MAX_FORKS", 3)
    books.take(appliance, appliance.report(0))
    proofs = [_fork(books, appliance, number) for number in range(1, 6)]
    assert all(proofs)  # also where it is not kept, the refusal bears it
    lines = len(books.trail.lines(limit=1000))
    assert len(_of(books, appliance).forks) == 3
    books.at += timedelta(days=1)
    later = [_fork(books, appliance, number) for number in (6, 7)]
    one = _of(books, appliance)
    assert [fork.number for fork in one.forks] == [4, 3, 2, 1]
    kept = [find_proof(books.database, appliance.origin, number) for number in range(1, 6)]
    assert [proof and proof.blob for proof in kept] == [*proofs[:3], later[0], None]
    assert len(books.trail.lines(limit=1000)) == lines + 1


def test_many_forks_are_listed_with_the_first_and_the_newest(books, appliance, monkeypatch):
    monkeypatch.setattr(reconciliation, "MAX_FORKS_LISTED", 3)
    books.take(appliance, appliance.report(0))
    for number in range(1, 6):
        _fork(books, appliance, number)
    one = _of(books, appliance)
    assert ([fork.number for fork in one.forks], one.forks_left_out) == ([5, 4, 1], 2)
    assert any("2 more forks" in line for line in one.to_lines())
    assert one.to_members()["forks_left_out"] == 2
    assert find_proof(books.database, appliance.origin, 2) is not None
    assert find_proof(books.database, appliance.origin, 0) is None


def test_findings_of_the_audit_are_listed(books):
    site = books.site()
    site.meter.window(uses=1)
    site.meter.entry("gap", reason="lost", from_seq=0)
    site.meter.window(uses=1)
    books.take_bundle(site.bundle())
    one = _of(books, site)
    assert one.worst is Severity.GAP
    assert {finding.severity for finding in one.findings} == {Severity.GAP}


def test_all_devices_are_there_for_people_and_machines(books, appliance):
    other = books.site()
    with pytest.raises(ExchangeError):
        books.take_bundle(appliance.bundle(appliance.windows[1][0]))
    found = reconcile(books.database, at=books.at)
    assert [one.origin for one in found.devices] == sorted([appliance.origin, other.origin])
    assert found.worst is Severity.GAP
    members = json.loads(json.dumps(found.to_members()))
    told = {one["origin"]: one for one in members["devices"]}
    assert told[appliance.origin]["gaps"] == [[0, appliance.windows[1][0]]]
    assert told[other.origin]["billed"] == {}
    text = "\n".join(found.to_lines())
    assert f"GAP: the entries [0, {appliance.windows[1][0]}) never arrived" in text
    assert "2 devices; to look at: 1" in text


def test_what_a_device_sent_cannot_steer_a_terminal(books, appliance):
    report = appliance.report(0)
    odd = {"m\u202eeter": {month: 1 for months in report.totals.values() for month in months}}
    quiet = dataclasses.replace(report, totals={METER: dict(report.totals[METER])})
    assert quiet == report
    with books.database.writing() as tx:
        for meter, months in odd.items():
            tx.execute(
                """INSERT INTO amount(subscription_id, origin, size, meter, month, billed_month, quantity, kind, at)
                   VALUES (?, ?, 5, ?, ?, ?, 1, 'report', '2027-01-18T12:00:00Z')""",
                [books.subscription_id, appliance.origin, meter, next(iter(months)), next(iter(months))],
            )
    assert "\u202e" not in "\n".join(reconcile(books.database, at=books.at).to_lines())


def test_gravest_finding_is_never_left_out(books, appliance):
    books.take(appliance, appliance.report(0))
    with pytest.raises(ConflictError):
        books.take(appliance, dataclasses.replace(appliance.report(0), totals={METER: {"2027-01": 7}}))
    with books.database.writing() as tx:
        tx.execute_many(
            """INSERT INTO finding(origin, at, severity, code, place, message, digest)
               VALUES (?, '2027-01-20T00:00:00Z', ?, 'made_up', 'here', ?, ?)""",
            [
                (appliance.origin, severity, f"number {number}", bytes([*number.to_bytes(2), kind]) + bytes(29))
                for kind, severity in enumerate(("gap", "note"))
                for number in range(150)
            ],
        )
    one = _of(books, appliance)
    assert (one.worst, len(one.findings), one.left_out) == (Severity.TAMPERED, 200, 101)
    assert [finding.code for finding in one.findings][:2] == ["report_id", "made_up"]
    order = [finding.severity for finding in one.findings]
    assert order == [Severity.TAMPERED, *[Severity.GAP] * 150, *[Severity.NOTE] * 49]
    assert [finding.message for finding in one.findings][1:3] == ["number 149", "number 148"]
    assert one.to_members()["findings_left_out"] == 101
    assert "and 281 more findings, none of them graver; --json lists 180 of them" in "\n".join(one.to_lines())


def test_device_that_nobody_knows_is_no_all_clear(books):
    with pytest.raises(MismatchError, match="there is no device 'nope'"):
        reconcile(books.database, at=books.at, origin="nope")


def _crowded(books, site, quantity, times=1100):
    """As if a site had brought so much that no integer of the database holds the sum."""
    row = (
        books.subscription_id,
        site.origin,
        1,
        METER,
        "2027-01",
        "2027-01",
        quantity,
        "report",
        "2027-01-15T12:00:00Z",
    )
    with books.database.writing() as tx:
        tx.execute_many(
            """INSERT INTO amount(subscription_id, origin, size, meter, month, billed_month, quantity, kind, at)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            [row] * times,
        )
        tx.execute_many(
            "INSERT INTO verified(origin, since, size, sums, arrival) VALUES (?, ?, ?, ?, 1)",
            [(site.origin, n, n + 1, json.dumps([[METER, "2027-01", quantity]])) for n in range(times)],
        )


def test_no_sum_of_one_customer_ends_the_books_of_the_others(books, appliance):
    books.take(appliance, appliance.report(0))
    crowd = books.site()
    _crowded(books, crowd, 2**56)
    one = _of(books, crowd)
    assert (one.billed, one.verified) == ({METER: 1100 * 2**56}, {METER: 1100 * 2**56})
    assert len(reconcile(books.database, at=books.at).devices) == 2
    made = statement(books.database, books.customer.id, "2027-01")
    assert sum(line.used for line in made.lines) > 2**63
    assert "1," in to_html(made) + to_csv(made)
    assert sum(row["quantity"] for row in billed_use(books.database)) == made.lines[0].used
    books.take(appliance, appliance.report(1))
