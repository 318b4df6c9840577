"""Bundles are verified as folders are: by the pinned key, and no further than their manifest is good."""

import json

import pytest

from licenses import envelope
from licenses.keyring import SigningKey
from licenses.model import READ_PAGES_METER
from licenses.strict_json import canonical
from licenses.usage_log.bundle import plain_file, write_bundle
from licenses.usage_log.report import Coverage, EntryRange, ExitCode, Severity, Verdict
from licenses.usage_log.verify import main, verify_records
from tests.fakes.bundles import a_bundle, archive_of, bundle_files, members_of, packed, span_of
from tests.fakes.licences import a_vendor
from tests.fakes.records import FakeMeter

VENDOR = a_vendor()


@pytest.fixture
def meter(tmp_path):
    """Three windows: entries [0, 6), [6, 11), [11, 17)."""
    meter = FakeMeter(tmp_path / "output")
    for uses in (3, 4, 5):
        meter.window(uses=uses)
    return meter


def _verify(path, meter: FakeMeter, *, pinned: bool = True, **given):
    keys = [meter.device.verifying] if pinned else []
    return verify_records(path, VENDOR.trust_root, device_keys=keys, **given)


def _codes(report) -> set[str]:
    findings = [*report.findings, *(finding for one in report.instances for finding in one.findings)]
    return {finding.code for finding in findings if finding.severity is not Severity.NOTE}


def test_bundle_of_everything_is_as_good_as_the_folder(meter, tmp_path):
    report, folder = _verify(a_bundle(meter, tmp_path), meter), _verify(meter.folder, meter)
    assert report.verdict is Verdict.GOOD
    assert report.instances[0].ranges == folder.instances[0].ranges
    assert report.instances[0].months == folder.instances[0].months


def test_bundle_without_a_pinned_key_is_unpinned(meter, tmp_path):
    assert _verify(a_bundle(meter, tmp_path), meter, pinned=False).verdict is Verdict.UNPINNED


def test_bundle_that_begins_later_is_proven_and_not_anchored(meter, tmp_path):
    report = _verify(a_bundle(meter, tmp_path, since=6), meter)
    assert _codes(report) == set()
    assert report.verdict is Verdict.UNANCHORED
    assert report.instances[0].ranges == (EntryRange(0, 6, Coverage.PRUNED), EntryRange(6, 17, Coverage.SEALED))


@pytest.mark.parametrize("since", [6, 11])
def test_acknowledgement_in_the_bundle_anchors_it(meter, tmp_path, since):
    ack = meter.ack(VENDOR, meter.checkpoint(since)).seal(VENDOR.keys.ack_key)
    report = _verify(a_bundle(meter, tmp_path, since=since, acks={since: ack}), meter)
    assert report.verdict is Verdict.GOOD
    assert report.instances[0].acked == since


@pytest.mark.parametrize("with_frontier", [True, False])
def test_kept_checkpoint_at_the_beginning_is_compared(tmp_path, with_frontier):
    meter = FakeMeter(tmp_path / "output", with_frontier=with_frontier)
    for uses in (3, 4, 5):
        meter.window(uses=uses)
    again = FakeMeter(tmp_path / "again", device=meter.device)
    again.window(uses=3)
    bundle = a_bundle(meter, tmp_path, since=6)
    assert _codes(_verify(bundle, meter, previous=again.checkpoint(6))) >= {"frontier" if with_frontier else "pruned"}
    if with_frontier:
        assert _verify(bundle, meter, previous=meter.checkpoint(6)).exit_code(strict=True) == ExitCode.GOOD


def test_kept_checkpoint_before_the_beginning_is_not_compared(meter, tmp_path):
    report = _verify(a_bundle(meter, tmp_path, since=11), meter, previous=meter.checkpoint(6))
    assert report.exit_code(strict=True) == ExitCode.UNANCHORED
    assert "kept_not_compared" in {finding.code for finding in report.instances[0].findings}


def test_bundle_signed_by_another_is_caught(meter, tmp_path):
    honest = meter.device
    path = a_bundle(meter, tmp_path)
    members = dict(members_of(archive_of(path)))
    statement = envelope.unverified_payload(members["manifest.dsse.json"], envelope.USAGE_BUNDLE_TYPE).payload
    meter.device = SigningKey.generate("device")
    forged = envelope.seal(statement, envelope.USAGE_BUNDLE_TYPE, [meter.device])
    meter.device = honest
    archive = archive_of(path).replace(members["manifest.dsse.json"], forged)
    path.write_bytes(packed(archive))
    report = _verify(path, meter)
    assert {"bundle", "pinned_key_unused"} >= _codes(report) >= {"bundle"}
    assert report.exit_code() == ExitCode.TAMPERED


def test_file_that_is_not_what_the_manifest_tells_is_caught(meter, tmp_path):
    path = a_bundle(meter, tmp_path)
    path.write_bytes(packed(archive_of(path).replace(b'"quantity":1}', b'"quantity":0}', 1)))
    report = _verify(path, meter)
    assert _codes(report) == {"bundle"}
    assert report.instances == ()


@pytest.mark.parametrize(("quantity", "codes"), [(12, set()), (11, {"bundle_totals"})])
def test_totals_in_the_bundle_are_compared(meter, tmp_path, quantity, codes):
    totals = canonical({"meters": [{"name": READ_PAGES_METER, "quantity": quantity}]})
    files = [one for one in bundle_files(meter) if one.name != "totals.json"]
    span = span_of(meter)
    with (tmp_path / span.file_name).open("wb") as stream:
        write_bundle(stream, [*files, plain_file("totals.json", totals)], span, meter.device)
    assert _codes(_verify(tmp_path / span.file_name, meter)) == codes


def test_truncated_bundle_is_caught(meter, tmp_path):
    path = a_bundle(meter, tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    assert _codes(_verify(path, meter)) == {"bundle"}


def test_what_is_no_bundle_accuses_nobody(meter, tmp_path):
    path = tmp_path / "root.json"
    path.write_bytes(VENDOR.trust_root_blob)
    report = _verify(path, meter)
    assert (report.verdict, report.exit_code()) == (Verdict.UNREADABLE, ExitCode.UNREADABLE)


def test_nothing_is_left_behind(meter, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    path = a_bundle(meter, tmp_path)
    assert _verify(path, meter).verdict is Verdict.GOOD
    path.write_bytes(path.read_bytes()[:-20])
    _verify(path, meter)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_command_takes_a_bundle(meter, tmp_path, capsys):
    root, key = tmp_path / "root.json", meter.save_device_key(tmp_path / "device.pub")
    root.write_bytes(VENDOR.trust_root_blob)
    path = a_bundle(meter, tmp_path)
    arguments = [str(path), "--trust", str(root), "--device-key", str(key), "--json"]
    assert main([*arguments, "--strict"]) == 0
    assert json.loads(capsys.readouterr().out)["instances"][0]["entries"] == 17
    path.write_bytes(b"\x1f\x8b\x08" + b"x" * 100)
    assert main(arguments) == 1
    assert str(path) in capsys.readouterr().out
