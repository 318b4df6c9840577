"""Bundles: what is new of them is billed, what reports told is borne out, and what goes back is one file."""

import dataclasses
import json
import os
import shutil
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from licenses import issue, rotation
from licenses.authority.bundle_records import audited
from licenses.authority.database import RESERVE_BYTES
from licenses.authority.intake import Intake
from licenses.authority.reconcile import reconcile
from licenses.authority.statements import closes_at, statement
from licenses.authority.vendor_keys import VendorKeys
from licenses.device_key import device_id_of
from licenses.errors import (
    BadSignatureError,
    ExchangeError,
    FileAccessError,
    ForkError,
    LicensesError,
    MismatchError,
    RecordError,
    RevokedKeyError,
    UnauthorizedUseError,
    UnknownStateError,
    UntrustedKeyError,
)
from licenses.keys import SigningKey
from licenses.model import CONTAINER_TYPE, READ_PAGES_METER
from licenses.revocation import open_revocation
from licenses.usage_log.fork import ForkKind, verify_fork
from licenses.usage_log.report import Severity
from licenses.verify import open_license
from tests.fakes.bundles import archive_of, members_of, packed, tar_member
from tests.fakes.records import FakeMeter
from tests.fakes.vendor_books import LATER, FakeSite

METER = READ_PAGES_METER
DAY = timedelta(days=1)


def _told(report, quantity):
    months = {month: quantity for months in report.totals.values() for month in months}
    return dataclasses.replace(report, totals={METER: months})


def test_bundle_is_billed_and_acknowledged(books, appliance):
    done = books.take_bundle(appliance.bundle(), renew=False)
    ack = books.opened(appliance, done.blob)
    assert ack == done.ack
    assert (ack.size, ack.totals, ack.license) == (appliance.meter.size, {METER: 9}, None)
    assert (done.billed, done.corrected, done.repeated, done.missing) == ({METER: 9}, {}, False, ())
    assert books.billed(appliance.origin) == 9
    assert books.licensing.devices.one(appliance.origin).anchor.size == ack.size


def test_same_bundle_again_gives_the_same_file(books, appliance):
    path = appliance.bundle()
    first = books.take_bundle(path)
    books.at += DAY
    again = books.take_bundle(path)
    assert (again.blob, again.billed, again.repeated) == (first.blob, {}, True)
    appliance.meter.window(uses=1)
    books.take_bundle(appliance.bundle(first.ack.size))
    assert books.take_bundle(path).blob == first.blob
    assert books.billed() == 10


def test_another_bundle_of_the_same_entries_gives_the_same_file(books, appliance):
    first = books.take_bundle(appliance.bundle())
    other = books.take_bundle(appliance.bundle(appliance.windows[2][0]))
    assert (other.blob, other.billed, other.repeated) == (first.blob, {}, True)


@pytest.mark.parametrize("whole", [True, False], ids=["all_of_it", "since_the_last"])
def test_next_bundle_bills_what_is_new(books, appliance, whole):
    first = books.take_bundle(appliance.bundle(), renew=False)
    appliance.meter.window(uses=4)
    since = 0 if whole else first.ack.size
    done = books.take_bundle(appliance.bundle(since), renew=False)
    assert (done.billed, done.repeated) == ({METER: 4}, False)
    assert done.ack.totals == {METER: 13}


def test_older_bundle_bills_nothing_and_gets_the_newest_acknowledgement(books, appliance):
    early = appliance.bundle()
    appliance.meter.window(uses=4)
    newest = books.take_bundle(appliance.bundle())
    old = books.take_bundle(early)
    assert (old.billed, old.repeated, old.blob) == ({}, True, newest.blob)


def test_bundle_bills_what_reports_did_not_bring(books, appliance):
    books.take(appliance, appliance.report(1))
    done = books.take_bundle(appliance.bundle())
    assert (done.billed, done.corrected) == ({METER: 7}, {})
    assert (books.billed(), books.findings()) == (9, [])
    for window in range(3):
        assert books.take(appliance, appliance.report(window)).repeated
    assert (books.billed(), books.findings()) == (9, [])


@pytest.mark.parametrize("told", [1, 40])
def test_entries_win_over_what_was_reported(books, appliance, told):
    books.take(appliance, _told(appliance.report(2), told))
    assert books.billed() == told
    done = books.take_bundle(appliance.bundle())
    assert (done.billed, done.corrected) == ({METER: 5}, {METER: 4 - told})
    assert (books.billed(), books.findings()) == (9, ["report_wrong"])
    assert ([one.code for one in done.findings], done.repeated) == (["report_wrong"], False)
    assert done.ack.totals == {METER: 9}
    assert books.take_bundle(appliance.bundle()).corrected == {}
    assert books.billed() == 9


def test_report_that_comes_after_the_entries_is_compared_with_them(books, appliance):
    books.take_bundle(appliance.bundle())
    assert books.take(appliance, _told(appliance.report(2), 1)).repeated
    assert (books.billed(), books.findings()) == (9, ["report_differs"])


def test_report_of_several_windows_is_borne_out_by_a_bundle_with_all_of_them(books, appliance):
    first = appliance.bundle()
    appliance.meter.window(uses=6)
    books.take(appliance, _told(appliance.report(1, until=3), 1))
    assert books.billed() == 1
    done = books.take_bundle(first)  # has windows 0 to 2; not all that the report tells of
    assert (done.billed, done.corrected, books.findings()) == ({METER: 3}, {}, ["overlap"])
    done = books.take_bundle(appliance.bundle(appliance.windows[1][0]))
    assert (done.billed, done.corrected) == ({}, {METER: 11})
    assert (books.billed(), books.findings()) == (15, ["overlap", "report_wrong"])


def test_bundle_is_one_line_of_the_trail_and_its_repetition_none(books, appliance):
    books.take(appliance, appliance.report(0))
    before = len(books.trail.lines(limit=1000))
    path = appliance.bundle()
    books.take_bundle(path, renew=False)
    (line,) = [one for one in books.trail.lines(subject=appliance.origin) if one.action == "usage.take"]
    assert (line.actor, line.facts["billed"], line.facts["since"]) == ("test", {METER: 6}, 0)
    assert line.facts["size"] == appliance.meter.size
    assert [one.action for one in books.trail.lines(limit=2)] == ["ack.give", "usage.take"]
    books.take_bundle(path, renew=False)
    assert len(books.trail.lines(limit=1000)) == before + 2  # reports are rows of their own, which only grow


def test_bundles_in_the_wrong_order_are_billed_and_acknowledged_in_the_end(books, appliance):
    with pytest.raises(ExchangeError, match="were taken in, but nothing can be acknowledged"):
        books.take_bundle(appliance.bundle(appliance.windows[1][0]))
    assert books.billed() == 6
    done = books.take_bundle(appliance.bundle())
    assert (done.billed, done.ack.size, done.missing) == ({METER: 3}, appliance.meter.size, ())


def test_hole_is_named_and_what_is_before_it_acknowledged(books, appliance):
    first = books.take_bundle(appliance.bundle(), renew=False)
    appliance.meter.window(uses=1)
    appliance.meter.window(uses=2)
    hole = appliance.windows[3]
    done = books.take_bundle(appliance.bundle(appliance.windows[4][0]), renew=False)
    assert (done.missing, done.ack.size, done.billed) == ((hole,), first.ack.size, {METER: 2})
    assert "never arrived" in done.remarks[0]


def test_acknowledgement_from_elsewhere_covers_what_is_not_known(books, appliance):
    vendor, meter = books.vendor, appliance.meter
    ack = meter.ack(vendor, meter.checkpoint(appliance.windows[1][1]))
    done = books.take_bundle(appliance.bundle(ack.size, acks={ack.size: ack.seal(vendor.keys.ack_key)}), renew=False)
    assert (done.billed, done.ack.size, done.ack.totals) == ({METER: 4}, meter.size, {METER: 9})
    assert (books.billed(), books.findings()) == (4, ["billed_elsewhere"])
    assert [one.code for one in done.findings] == ["billed_elsewhere"]
    (device,) = reconcile(books.database, at=books.at).devices
    assert (device.elsewhere, device.gaps, device.worst) == (((0, ack.size),), (), Severity.GAP)
    assert any("usage export --all" in line for line in device.to_lines())


def _sums(books):
    rows = books.database.query("SELECT kind, sum(quantity) AS n FROM amount GROUP BY 1 HAVING n <> 0")
    return {row["kind"]: row["n"] for row in rows}


@pytest.mark.parametrize("acked", [None, 7], ids=["true", "other_totals"])
def test_entries_that_come_after_their_acknowledgement_are_billed(books, appliance, acked):
    """A database that was restored knows less than it acknowledged; the whole log mends it, however it comes."""
    vendor, meter = books.vendor, appliance.meter
    ack = meter.ack(vendor, meter.checkpoint(appliance.windows[1][1]), totals=None if acked is None else {METER: acked})
    books.take_bundle(appliance.bundle(ack.size, acks={ack.size: ack.seal(vendor.keys.ack_key)}), renew=False)
    assert _sums(books) == {"bundle": 4, "ack": ack.totals[METER]}
    assert books.take(appliance, appliance.report(0)).billed == {METER: 3}
    assert _sums(books) == {"report": 3, "bundle": 4, "ack": ack.totals[METER] - 3}
    (device,) = reconcile(books.database, at=books.at).devices
    assert device.elsewhere == (appliance.windows[1],)
    done = books.take_bundle(appliance.bundle(), renew=False)
    assert (done.billed, done.ack.totals, done.missing) == ({METER: 2}, {METER: 9}, ())
    assert _sums(books) == {"report": 3, "bundle": 6}
    (device,) = reconcile(books.database, at=books.at).devices
    assert (device.elsewhere, device.gaps, device.billed) == ((), (), {METER: 9})
    assert device.worst is Severity.NOTE
    assert books.take_bundle(appliance.bundle(), renew=False).repeated
    assert books.billed() == 9


def test_restored_books_bill_what_they_lost(books, appliance):
    first = books.take_bundle(appliance.bundle(), renew=False)
    books.database.copy_to(books.folder / "old.db")
    appliance.meter.window(uses=50)
    lost = books.take_bundle(appliance.bundle(first.ack.size), renew=False)
    appliance.meter.window(uses=6)
    books.database.close()
    for suffix in ("-wal", "-shm"):
        Path(f"{books.path}{suffix}").unlink(missing_ok=True)
    shutil.copy(books.folder / "old.db", books.path)
    books.open()
    done = books.take_bundle(appliance.bundle(lost.ack.size, acks={lost.ack.size: lost.blob}), renew=False)
    assert (done.billed, done.ack.totals) == ({METER: 6}, {METER: 65})
    done = books.take_bundle(appliance.bundle(), renew=False)
    assert (done.billed, done.ack.totals, books.billed()) == ({METER: 50}, {METER: 65}, 65)


def test_bundle_that_is_verified_while_a_statement_closes_is_in_the_next(books, appliance, monkeypatch):
    month = f"{books.at:%Y-%m}"
    books.at = closes_at(month) - timedelta(seconds=30)

    def slow(*args, **options):
        books.at += timedelta(seconds=90)
        return audited(*args, **options)

    monkeypatch.setattr("licenses.authority.intake.audited", slow)
    assert books.take_bundle(appliance.bundle()).billed == {METER: 9}
    (line,) = statement(books.database, books.customer.id, month).lines
    assert line.used == 0
    (line,) = statement(books.database, books.customer.id, f"{books.at:%Y-%m}").lines
    assert (line.late, line.late_from) == (9, month)


# ---- what is refused ------------------------------------------------------------------------------------------------


def _nothing_kept(books):
    kept = dict(books.rows())
    return not any(kept.values()) and sorted(path.name for path in books.path.parent.iterdir() if path.is_dir()) == []


def test_bundle_of_an_unknown_device_is_refused_before_it_is_unpacked(books):
    stranger = books.site(enrolled=False)
    stranger.meter.window(uses=1)
    with pytest.raises(UntrustedKeyError, match="no device is known"):
        books.take_bundle(stranger.bundle())
    assert _nothing_kept(books)


def test_bundle_of_another_subscriptions_device_is_refused(books, appliance):
    other = books.accounts.add_subscription(books.customer.id, container_type=CONTAINER_TYPE, tier="tier")
    with pytest.raises(MismatchError, match="another subscription"):
        books.intake.take_bundle(other, appliance.bundle())
    assert _nothing_kept(books)
    assert books.intake.take_bundle(None, appliance.bundle()).billed == {METER: 9}


def test_bundle_for_an_unapproved_subscription_is_refused(books, appliance):
    books.accounts.approve(books.subscription_id, False)
    with pytest.raises(UnauthorizedUseError):
        books.take_bundle(appliance.bundle())
    assert _nothing_kept(books)
    done = books.intake.take_bundle(None, appliance.bundle())  # a clerk takes it in; no licence goes back
    assert (done.billed, done.license) == ({METER: 9}, None)
    assert "No licence goes back" in done.remarks[0]


def test_bundle_of_another_vendor_is_refused(books, tmp_path):
    meter = FakeMeter(tmp_path / "foreign" / "output", vendor="other.example")
    site = FakeSite(meter, tmp_path / "foreign")
    meter.window(uses=1)
    with pytest.raises(UntrustedKeyError):
        books.take_bundle(site.bundle())


def test_forged_bundle_is_refused(books, appliance):
    forger = appliance.copy()
    forger.meter.device = SigningKey(appliance.meter.device.key_id, SigningKey.generate("device").private)
    with pytest.raises(BadSignatureError):
        books.take_bundle(forger.bundle())
    assert _nothing_kept(books)


def test_every_changed_bundle_is_refused(books, appliance):
    path = appliance.bundle()
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        changed = bytearray(whole)
        changed[at] ^= 0x55
        path.write_bytes(changed)
        with pytest.raises(LicensesError):
            books.take_bundle(path)
    for cut in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(LicensesError):
            books.take_bundle(path)
    assert _nothing_kept(books)
    path.write_bytes(whole)
    assert books.take_bundle(path).billed == {METER: 9}


@pytest.mark.parametrize("name", ["../astray-8", "/etc/cron.d/astray-8", "computervisionread/../../astray-8", "a b"])
def test_bundle_with_a_path_escape_is_refused(books, appliance, name):
    path = appliance.bundle()
    members = sorted([*members_of(archive_of(path)), (name, b"astray-8")])
    path.write_bytes(packed(b"".join(tar_member(*one) for one in members) + bytes(1024)))
    with pytest.raises(RecordError, match="has no place in a bundle"):
        books.take_bundle(path)
    assert list(books.folder.parent.rglob("*astray-8*")) == []
    assert not Path("/etc/cron.d/astray-8").exists()
    assert _nothing_kept(books)


def test_bundle_of_two_gigabytes_is_refused_unread(books, appliance, tmp_path):
    path = tmp_path / "huge.tar.gz"
    shutil.copy(appliance.bundle(), path)
    os.truncate(path, 2 * 1024**3)  # sparse: no disk is taken
    with pytest.raises(RecordError, match="2,147,483,648 bytes, the limit is 1,073,741,824"):
        books.take_bundle(path)


def test_bundle_that_claims_two_gigabytes_is_refused_without_unpacking_them(books, appliance):
    path = appliance.bundle()
    archive = bytearray(archive_of(path))
    archive[124:136] = b"%011o\x00" % (2 * 1024**3)  # the size in the first member's header
    archive[148:156] = b" " * 8
    archive[148:156] = b"%06o\x00 " % sum(archive[:512])
    path.write_bytes(packed(bytes(archive)))
    with pytest.raises(RecordError):
        books.take_bundle(path)
    assert _nothing_kept(books)


def test_bundle_that_unpacks_to_too_much_is_refused(books, appliance):
    bounded = Intake(
        books.database,
        books.trail,
        books.accounts,
        books.licensing,
        books.keys,
        books.clock,
        max_unpacked_bytes=4096,
    )
    with pytest.raises(RecordError):
        bounded.take_bundle(None, appliance.bundle())
    assert _nothing_kept(books)


def test_bundle_never_takes_the_last_of_the_disk(books, appliance, monkeypatch):
    path = appliance.bundle()
    unpacked = len(archive_of(path))
    free = unpacked + RESERVE_BYTES - 1
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    monkeypatch.setattr("licenses.usage_log.bundle._unpack_member", lambda *_: pytest.fail("a file was written"))
    with pytest.raises(UnknownStateError, match=f"{unpacked:,} bytes") as caught:
        books.take_bundle(path)
    assert "Free some space" in caught.value.next_step
    assert _nothing_kept(books)
    monkeypatch.undo()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free + 1))
    assert books.take_bundle(path).billed == {METER: 9}


def test_bundle_that_is_not_there_is_the_callers_mistake(books):
    with pytest.raises(FileAccessError):
        books.take_bundle(books.folder / "nowhere.tar.gz")


# ---- forks ----------------------------------------------------------------------------------------------------------


def _two_of_one_image(books, appliance):
    clone = appliance.copy()
    appliance.meter.window(uses=5)
    clone.meter.window(uses=5)
    return clone


@pytest.mark.parametrize("further", [0, 1], ids=["same_size", "other_past"])
def test_two_sites_of_one_image_are_found_and_proven(books, appliance, further):
    clone = _two_of_one_image(books, appliance)
    for _ in range(further):
        clone.meter.window(uses=1)
    books.take_bundle(appliance.bundle())
    for _ in range(2):
        with pytest.raises(ForkError) as caught:
            books.take_bundle(clone.bundle())
    proven = verify_fork(caught.value.proof, appliance.meter.device.verifying)
    assert proven.kind is (ForkKind.OTHER_PAST if further else ForkKind.SAME_SIZE)
    assert [row["name"] for row in books.database.query("SELECT name FROM fork")] == [caught.value.name]
    assert books.billed() == 14
    appliance.meter.window(uses=1)
    assert books.take_bundle(appliance.bundle()).billed == {METER: 1}


def test_site_of_an_older_image_that_is_behind_is_found(books, appliance):
    clone = appliance.copy()
    clone.meter.window(uses=1)
    appliance.meter.window(uses=1)
    appliance.meter.window(uses=1)
    books.take_bundle(appliance.bundle())
    with pytest.raises(ForkError) as caught:
        books.take_bundle(clone.bundle())
    assert caught.value.proof is None  # nothing that the device signed is known of that size
    assert books.billed() == 11


def test_forked_bundle_is_proven_by_a_report(books, appliance):
    clone = _two_of_one_image(books, appliance)
    for window in range(4):
        books.take(appliance, appliance.report(window))
    with pytest.raises(ForkError) as caught:
        books.take_bundle(clone.bundle())
    assert verify_fork(caught.value.proof, appliance.meter.device.verifying).kind is ForkKind.SAME_SIZE


def test_forked_report_is_found_by_a_bundle(books, appliance):
    clone = _two_of_one_image(books, appliance)
    books.take_bundle(appliance.bundle())
    with pytest.raises(ForkError) as caught:
        books.take(clone, clone.report(3, id="11111111-2222-4333-8444-555555555555"))
    assert verify_fork(caught.value.proof, appliance.meter.device.verifying).kind is ForkKind.SAME_SIZE
    assert books.billed() == 14


# ---- what goes back -------------------------------------------------------------------------------------------------


def _install(appliance, lic):
    meter = appliance.meter
    meter.license_id, meter.license_sequence = lic.license_id, lic.sequence
    meter.entry("license", in_force=True, license_id=lic.license_id, sequence=lic.sequence, evaluation=False)


def test_renewal_is_one_act(books, appliance):
    done = books.take_bundle(appliance.bundle())
    lic = open_license(done.ack.license, books.vendor.trust_root)
    assert (lic.license_id, lic.sequence) == (done.license.license_id, done.license.sequence)
    assert lic.device_pubkey == appliance.meter.device.verifying.raw
    assert (lic.ledger_anchor.size, lic.ledger_anchor.root) == (done.ack.size, done.ack.root)


def test_licence_that_was_lost_on_the_way_goes_along_again(books, appliance):
    first = books.take_bundle(appliance.bundle())
    appliance.meter.window(uses=1)
    again = books.take_bundle(appliance.bundle())
    assert (again.license, again.ack.license) == (first.license, first.ack.license)


def test_licence_that_the_device_has_does_not_go_along(books, appliance):
    first = books.take_bundle(appliance.bundle())
    _install(appliance, first.license)
    appliance.meter.window(uses=1)
    done = books.take_bundle(appliance.bundle())
    assert (done.license, done.ack.license) == (None, None)
    assert len(books.licensing.licenses()) == 1


def test_licence_that_ends_soon_is_followed_by_the_next(books, appliance):
    first = books.take_bundle(appliance.bundle())
    _install(appliance, first.license)
    books.at = first.license.expires_at - DAY
    appliance.meter.window(uses=1)
    done = books.take_bundle(appliance.bundle())
    assert done.license.sequence == first.license.sequence + 1
    assert books.take_bundle(appliance.bundle()).blob == done.blob


def test_revocations_go_along(books, appliance):
    path = appliance.bundle()
    assert books.take_bundle(path).ack.revocation is None
    issue.revoke(books.keys_folder, license_ids=["6f1c2a9e-0d2b-4d8e-9a57-3f1f6d1f2b10"], key_ids=[])
    done = books.take_bundle(path)
    assert open_revocation(done.ack.revocation, books.vendor.trust_root).revoked.sequence == 1
    assert books.take_bundle(path).blob == done.blob


def test_acknowledgement_of_a_replaced_key_is_signed_anew(books, appliance):
    path = appliance.bundle()
    first = books.take_bundle(path)
    vendor = issue.generate_vendor(domain=books.vendor.trust_root.vendor, evaluation=False, at=LATER - DAY)
    shutil.rmtree(books.keys_folder)
    issue.save_vendor(vendor, books.keys_folder)
    books.keys = VendorKeys(books.keys_folder)
    intake = Intake(books.database, books.trail, books.accounts, books.licensing, books.keys, books.clock)
    again = intake.take_bundle(None, path, renew=False)
    assert again.ack.key_id == vendor.ack_key.key_id != first.ack.key_id
    assert (again.ack.size, again.ack.totals, again.billed) == (first.ack.size, first.ack.totals, {})


@pytest.mark.parametrize("change", ["drop", "revoke"])
def test_bundle_that_carries_an_acknowledgement_of_a_key_no_longer_good_is_taken_in(books, appliance, change):
    first = books.take_bundle(appliance.bundle(), renew=False)
    rotation.rotate(books.keys_folder, rotation.Wish(ack=True, **{change: (first.ack.key_id,)}), at=LATER)
    books.open()
    appliance.meter.window(uses=4)
    path = appliance.bundle(first.ack.size, acks={first.ack.size: first.blob})
    done = books.take_bundle(path, renew=False)
    assert (done.billed, done.ack.totals, done.missing) == ({METER: 4}, {METER: 13}, ())
    assert done.ack.key_id != first.ack.key_id
    assert books.findings() == []


def test_acknowledgement_from_elsewhere_by_a_revoked_key_covers_nothing(books, appliance):
    vendor, meter = books.vendor, appliance.meter
    ack = meter.ack(vendor, meter.checkpoint(appliance.windows[1][1]))
    rotation.rotate(books.keys_folder, rotation.Wish(ack=True, revoke=(ack.key_id,)), at=LATER)
    books.open()
    with pytest.raises(RevokedKeyError):
        books.take_bundle(appliance.bundle(ack.size, acks={ack.size: ack.seal(vendor.keys.ack_key)}), renew=False)
    assert books.billed() == 0


def test_gaps_and_clock_findings_are_kept(books):
    site = books.site()
    site.meter.window(uses=1)
    site.meter.entry("gap", reason="lost", from_seq=0)
    site.meter.window(uses=1)
    done = books.take_bundle(site.bundle())
    assert {one.severity.value for one in done.findings} == {"gap"}
    assert set(books.findings()) == {one.code for one in done.findings}


# ---- disk and workspace ---------------------------------------------------------------------------------------------


def test_nothing_is_left_in_the_workspace(books, appliance):
    books.take_bundle(appliance.bundle())
    assert [path.name for path in books.path.parent.iterdir() if "intake" in path.name] == []


def test_what_a_killed_intake_left_is_swept(books, appliance):
    left = books.path.parent / "intake-abandoned"
    (left / "computervisionread").mkdir(parents=True)
    Path(f"{left}.lock").touch()
    books.take_bundle(appliance.bundle())
    assert not left.exists()
    assert not Path(f"{left}.lock").exists()


def test_totals_are_those_of_the_entries(books, appliance):
    uses = [json.loads(line) for line in appliance.meter.lines]
    pages = sum(one["meter"]["quantity"] for one in uses if one["kind"] == "use")
    assert books.take_bundle(appliance.bundle()).ack.totals == {METER: pages}
    assert device_id_of(appliance.meter.device.verifying.raw) in appliance.origin
