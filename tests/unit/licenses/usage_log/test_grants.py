"""Licences in force, against the files that the auditor gives."""

from datetime import UTC, datetime, timedelta

import pytest

from licenses.errors import RecordError
from licenses.model import READ_PAGES_METER, Meter
from licenses.usage_log.grants import SLACK_MS
from licenses.usage_log.report import InstanceReport, Severity, Verdict
from licenses.usage_log.verify import main, verify_records
from tests.fakes.licences import NOW, a_license, a_vendor
from tests.fakes.records import FakeMeter

VENDOR = a_vendor()
OTHER_ID = "7a0c2a9e-0d2b-4d8e-9a57-3f1f6d1f2b10"
DAY_MS = 24 * 3600 * 1000


@pytest.fixture
def meter(tmp_path):
    meter = FakeMeter(tmp_path / "output")
    meter.window(uses=4)
    return meter


def _audit(meter: FakeMeter, *licenses, vendor=VENDOR) -> InstanceReport:
    files = [vendor.seal(lic) for lic in licenses]
    keys = [meter.device.verifying]
    return verify_records(meter.folder, vendor.trust_root, device_keys=keys, license_files=files).instances[0]


def _found(one: InstanceReport) -> list[tuple[str, str]]:
    return [(finding.severity.value, finding.code) for finding in one.findings]


def _enter(meter: FakeMeter, license_id: str, sequence: int = 1, **members) -> None:
    meter.license_id, meter.license_sequence = license_id, sequence
    meter.entry("license", in_force=True, license_id=license_id, sequence=sequence, evaluation=False, **members)


def test_licence_that_fits_is_no_finding(meter):
    assert _audit(meter, a_license(page_limit=4)).findings == ()


def test_nothing_is_said_of_licences_unless_they_were_given(meter):
    report = verify_records(meter.folder, VENDOR.trust_root, device_keys=[meter.device.verifying])
    assert report.instances[0].findings == ()
    assert _found(_audit(meter)) == [("note", "license_not_given")]


def test_each_licence_not_given_is_told_once(meter):
    for license_id in (OTHER_ID, a_license().license_id, OTHER_ID):
        _enter(meter, license_id)
        meter.window(uses=1)
    assert _found(_audit(meter, a_license())) == [("note", "license_not_given")]


def test_terms_tell_what_was_used_under_which_licence(meter):
    _enter(meter, OTHER_ID, sequence=1)
    meter.window(uses=3)
    meter.entry("boot", boot_id=meter.boot_id)
    _enter(meter, OTHER_ID, sequence=1)
    meter.window(uses=2)
    meter.entry("license", in_force=False)
    meter.license_id = ""
    one = _audit(meter, a_license(), a_license(license_id=OTHER_ID))
    assert one.verdict is Verdict.GOOD
    assert [(term.license_id, dict(term.meters)) for term in one.terms] == [
        (a_license().license_id, {READ_PAGES_METER: 4}),
        (OTHER_ID, {READ_PAGES_METER: 5}),
    ]


def test_use_beyond_the_quota_is_told_in_numbers(meter):
    one = _audit(meter, a_license(page_limit=3))
    assert _found(one) == [("note", "over_quota")]
    assert "4 of 3 units" in one.findings[0].message
    assert "1 more, which the licence does not allow" in one.findings[0].message


def test_quota_counts_over_all_issues_of_a_licence_and_is_that_of_the_newest(meter):
    _enter(meter, a_license().license_id, sequence=2)
    meter.window(uses=3)
    first, second = a_license(page_limit=4), a_license(sequence=2, page_limit=7)
    assert _audit(meter, first, second).findings == ()
    assert _found(_audit(meter, first, a_license(sequence=2, page_limit=6))) == [("note", "over_quota")]


def test_overage_that_the_licence_allows_is_told_as_such(meter):
    allowed = a_license(meters=(Meter(name=READ_PAGES_METER, unit="page", hard=3, overage_allowed=True),))
    assert _found(_audit(meter, allowed)) == [("note", "overage")]


def test_licence_in_force_before_it_began_is_a_gap(meter):
    early = a_license(not_before=NOW + timedelta(days=1))
    assert _found(_audit(meter, early)) == [("gap", "license_not_in_force")]


def test_licence_renewed_within_the_first_window_that_is_here_is_no_gap(meter):
    meter.wait(5 * 60 * 1000)
    renewed = datetime.fromtimestamp(meter.now_ms // 1000, UTC)
    _enter(meter, OTHER_ID)
    meter.window(uses=1)
    meter.prune(1)
    assert _found(_audit(meter, a_license(license_id=OTHER_ID, not_before=renewed))) == [("note", "pruned")]


def test_only_entries_tell_of_the_licence_where_all_of_them_are_here(tmp_path):
    meter = FakeMeter(tmp_path)
    _enter(meter, OTHER_ID)
    meter.window(uses=1)
    assert [term.license_id for term in _audit(meter).terms] == [a_license().license_id, OTHER_ID]


@pytest.mark.parametrize(("late_ms", "is_gap"), [(SLACK_MS - 60_000, False), (SLACK_MS + 60_000, True)])
def test_use_after_the_licence_ended_for_good_is_a_gap(meter, late_ms, is_gap):
    ended = datetime.fromtimestamp((meter.now_ms - late_ms) / 1000, UTC).replace(microsecond=0)
    meter.use()
    meter.window()
    lic = a_license(expires_at=ended, termination_at=ended)
    found = _found(_audit(meter, lic))
    assert (("gap", "license_not_in_force") in found) == is_gap


def test_licence_of_another_device_is_a_gap(meter):
    assert _found(_audit(meter, a_license(device_pubkey=b"\x01" * 32))) == [("gap", "license_other_device")]
    assert _audit(meter, a_license(device_pubkey=meter.device.verifying.raw)).findings == ()


def test_licence_told_otherwise_than_it_was_issued_is_caught(meter):
    meter.entry("license", in_force=True, license_id=meter.license_id, sequence=1, evaluation=False, expires_at=5)
    meter.window()
    assert ("tampered", "license_differs") in _found(_audit(meter, a_license()))


def test_evaluation_licence_told_as_another_is_caught(tmp_path):
    vendor = a_vendor(evaluation=True)
    meter = FakeMeter(tmp_path)
    meter.window(uses=1)
    assert ("tampered", "license_differs") in _found(_audit(meter, a_license(), vendor=vendor))


def test_records_that_begin_within_a_term_take_the_licence_from_the_header(meter):
    meter.window(uses=3)
    meter.prune(1)
    one = _audit(meter, a_license(page_limit=2))
    assert [(term.license_id, dict(term.meters)) for term in one.terms] == [
        (meter.license_id, {READ_PAGES_METER: 3}),
    ]
    assert ("note", "over_quota") in _found(one)


def test_damage_before_it_makes_no_licence_look_wrong(meter):
    _enter(meter, OTHER_ID)
    lost = meter.window(uses=1)
    meter.window(uses=1)
    lost.unlink()
    one = _audit(meter, a_license(), a_license(license_id=OTHER_ID))
    assert {code for severity, code in _found(one) if severity == Severity.TAMPERED} == {"numbering"}


def test_licence_given_that_is_not_good_is_refused(meter):
    with pytest.raises(RecordError, match="licence given"):
        verify_records(meter.folder, VENDOR.trust_root, license_files=[a_vendor().seal()])


def test_command_takes_licences(meter, tmp_path, capsys):
    root, lic = VENDOR.install(tmp_path, a_license(page_limit=3))
    assert main([str(meter.folder), "--trust", str(root), "--license", str(lic)]) == 0
    assert "[over_quota]" in capsys.readouterr().out
    assert main([str(meter.folder), "--trust", str(root), "--license", str(root)]) == 4
