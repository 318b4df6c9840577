"""The auditor's check: what must be caught is done to good records, and caught."""

import copy
import dataclasses
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from licenses.device_key import device_id_of
from licenses.errors import RecordError
from licenses.keyring import SigningKey
from licenses.keys import public_pem
from licenses.usage_log import command, copies
from licenses.usage_log.claims import MAX_FORKS
from licenses.usage_log.entry import leaf_hash
from licenses.usage_log.files import header_line, parse_record_file, render, trailer_line, write_once
from licenses.usage_log.fork import MAX_FORK_BYTES, fork_name, prove_fork
from licenses.usage_log.merkle import Frontier
from licenses.usage_log.note import sign_checkpoint
from licenses.usage_log.report import MAX_FINDINGS_SHOWN, Coverage, EntryRange, ExitCode, Severity, Verdict
from licenses.usage_log.timeline import MAX_WINDOW_MS
from licenses.usage_log.verify import find_instances, main, verify_records
from tests.fakes.licences import a_vendor
from tests.fakes.records import WINDOW_MS, FakeMeter

VENDOR = a_vendor()
READ_PAGES = "CognitiveServices.ComputerVision.Container.ReadPages"


@pytest.fixture
def meter(tmp_path):
    """Three windows: entries [0, 6), [6, 11), [11, 17)."""
    meter = FakeMeter(tmp_path / "output")
    for uses in (3, 4, 5):
        meter.window(uses=uses)
    return meter


def _verify(meter: FakeMeter, *, pinned: bool = True, **given):
    keys = [meter.device.verifying] if pinned else []
    return verify_records(meter.folder, VENDOR.trust_root, device_keys=keys, **given)


def _codes(report) -> set[str]:
    findings = [*report.findings, *(finding for one in report.instances for finding in one.findings)]
    return {finding.code for finding in findings if finding.severity is not Severity.NOTE}


def _edit(path, old: bytes, new: bytes) -> None:
    blob = path.read_bytes()
    assert old in blob
    _overwrite(path, blob.replace(old, new, 1))


def _overwrite(path, blob: bytes) -> None:
    path.unlink()
    path.write_bytes(blob)


def _lines(path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


# ---- good -----------------------------------------------------------------------------------------------------------


def test_good_records_with_a_pinned_key_are_good(meter):
    report = _verify(meter)
    one = report.instances[0]
    assert report.verdict is Verdict.GOOD
    assert report.exit_code(strict=True) == ExitCode.GOOD
    assert one.ranges == (EntryRange(0, 17, Coverage.SEALED),)
    assert (one.files, one.entries, one.size) == (3, 17, 17)
    assert one.counts == {"boot": 1, "license": 1, "use": 12, "window": 3}
    assert one.meters == {READ_PAGES: 12}
    assert one.months == {"2027-01": {READ_PAGES: 12}}
    assert one.licenses == (meter.license_id,)
    assert one.days == {"2027-01-15": {READ_PAGES: 12}}
    assert one.coverage == {"2027-01": Coverage.SEALED, "2027-01-15": Coverage.SEALED}
    assert not one.evaluation
    assert one.findings == ()


def test_months_are_summed_apart(tmp_path):
    meter = FakeMeter(tmp_path)
    meter.window(uses=1)
    meter.wait(31 * 24 * 3600 * 1000)
    meter.entry("boot", boot_id=meter.boot_id)
    meter.window(uses=2)
    assert _verify(meter).instances[0].months == {"2027-01": {READ_PAGES: 1}, "2027-02": {READ_PAGES: 2}}


def test_windows_without_use_are_good(tmp_path):
    meter = FakeMeter(tmp_path)
    for _ in range(3):
        meter.window()
    assert _verify(meter).verdict is Verdict.GOOD


def test_meter_restarted_after_days_is_good(meter):
    meter.wait(3 * 24 * 3600 * 1000)
    meter.boot_id, meter.boottime_ms = "another-boot", 5
    meter.entry("boot", boot_id=meter.boot_id)
    meter.window(uses=1)
    assert _verify(meter).verdict is Verdict.GOOD


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_records_are_found_from_any_level(meter, levels):
    folder = meter.folder
    for _ in range(levels):
        folder = folder.parent
    assert find_instances(folder) == [meter.folder]
    assert find_instances(meter.folder / "usage") == [meter.folder]


def test_instance_on_one_level_hides_none_on_the_next(meter, tmp_path):
    """One site sent an instance's folder, another a copy of its whole output mount."""
    other = FakeMeter(tmp_path / "other")
    other.window(uses=700)
    received = tmp_path / "received"
    shutil.copytree(meter.folder, received / "siteA")
    shutil.copytree(tmp_path / "other", received / "siteB")
    deep = received / "siteB" / "computervisionread" / other.instance
    assert find_instances(received) == [received / "siteA", deep]
    report = verify_records(received, VENDOR.trust_root, device_keys=[meter.device.verifying])
    assert report.verdict is Verdict.UNPINNED
    assert [one.meters[READ_PAGES] for one in report.instances] == [12, 700]


def test_folders_that_were_not_looked_at_are_noted(meter, tmp_path):
    top = meter.folder.parent.parent
    for name in ("one", "two"):
        (top / name).symlink_to(tmp_path)
    (top / "a" / "b" / "c" / "d").mkdir(parents=True)
    report = verify_records(top, VENDOR.trust_root, device_keys=[meter.device.verifying])
    assert report.verdict is Verdict.GOOD
    assert [(one.severity, one.code, one.where) for one in report.findings] == [
        (Severity.NOTE, "folder_passed_over", "one"),
        (Severity.NOTE, "folder_passed_over", "a/b/c/d"),
    ]
    assert "nor at 1 more such" in report.findings[0].message


def test_folder_that_cannot_be_listed_is_told_and_the_others_are_read(meter, monkeypatch):
    top = meter.folder.parent
    (top / "locked").mkdir()
    listed = Path.iterdir

    def refused(folder):
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", refused)
    report = verify_records(top, VENDOR.trust_root, device_keys=[meter.device.verifying])
    assert report.verdict is Verdict.UNREADABLE
    assert [(one.code, one.where) for one in report.findings] == [("unreadable", "locked")]
    assert report.instances[0].verdict is Verdict.GOOD


def test_copied_and_renamed_folder_is_still_good(meter, tmp_path):
    shutil.copytree(meter.folder, tmp_path / "for the auditor")
    report = verify_records(tmp_path / "for the auditor", VENDOR.trust_root, device_keys=[meter.device.verifying])
    assert report.verdict is Verdict.GOOD


def test_two_instances_are_reported_each(meter, tmp_path):
    other = FakeMeter(tmp_path / "output")
    other.window(uses=1)
    report = verify_records(
        tmp_path / "output", VENDOR.trust_root, device_keys=[meter.device.verifying, other.device.verifying]
    )
    assert report.verdict is Verdict.GOOD
    assert {one.instance for one in report.instances} == {meter.instance, other.instance}


def test_evaluation_is_told(tmp_path):
    meter = FakeMeter(tmp_path)
    meter.evaluation = True
    meter.entry("license", in_force=True, license_id=meter.license_id, sequence=1, evaluation=True)
    meter.window(uses=1)
    report = _verify(meter)
    assert report.verdict is Verdict.GOOD
    assert report.instances[0].evaluation
    assert "EVALUATION" in "\n".join(report.to_lines())


def test_records_of_versions_without_frontier_and_context_are_good(tmp_path):
    meter = FakeMeter(tmp_path, with_frontier=False, with_context=False)
    for uses in (3, 2):
        meter.window(uses=uses)
    assert _verify(meter).verdict is Verdict.GOOD


# ---- keys -----------------------------------------------------------------------------------------------------------


def test_without_a_pinned_key_nothing_is_better_than_unpinned(meter):
    report = _verify(meter, pinned=False)
    assert report.verdict is Verdict.UNPINNED
    assert report.exit_code() == ExitCode.GOOD
    assert report.exit_code(strict=True) == ExitCode.UNANCHORED
    assert report.instances[0].ranges == (EntryRange(0, 17, Coverage.UNPINNED),)


def test_key_inside_the_folder_is_not_trusted(meter):
    for place in (meter.folder, meter.folder / "usage", meter.folder.parent):
        meter.save_device_key(place / "device.pub")
    assert _verify(meter, pinned=False).verdict is Verdict.UNPINNED


def test_all_signed_anew_with_another_key_is_caught(meter, tmp_path):
    forger = FakeMeter(tmp_path / "forged")
    for uses in (1, 1, 1):
        forger.window(uses=uses)
    report = verify_records(forger.folder, VENDOR.trust_root, device_keys=[meter.device.verifying])
    assert report.verdict is Verdict.TAMPERED
    assert _codes(report) == {"pinned_key_unused"}


def test_checkpoints_signed_anew_under_the_old_name_are_caught(meter):
    forger = SigningKey.generate("device")
    for size in (6, 11, 17):
        meter.seal(size, meter.frontier.root(), key=forger)
    assert {"checkpoint_signature", "no_seal"} <= _codes(_verify(meter))


def test_missing_checkpoints_are_caught_when_a_key_is_pinned(meter):
    shutil.rmtree(meter.folder / "checkpoints")
    (meter.folder / "checkpoint").unlink()
    assert _codes(_verify(meter)) == {"no_seal"}
    assert _verify(meter, pinned=False).instances[0].ranges == (EntryRange(0, 17, Coverage.UNSEALED),)


def test_records_of_another_vendor_are_noted(meter):
    report = verify_records(
        meter.folder, a_vendor(domain="other.example").trust_root, device_keys=[meter.device.verifying]
    )
    assert [finding.code for finding in report.instances[0].findings] == ["other_vendor"]


# ---- tampering ------------------------------------------------------------------------------------------------------


def _edit_quantity(meter):
    _edit(meter.files[1], b'"quantity":1', b'"quantity":0')


def _edit_and_repair(meter):
    """Edit the uses of the second window, and repair all that bears no signature: sums, roots, hashes of files."""
    frontier, previous = Frontier(), ""
    for path in meter.files:
        record = parse_record_file(path)
        lines = record.lines
        if path == meter.files[1]:
            lines = tuple(
                line.replace(b'"quantity":1}', b'"quantity":0}').replace(
                    b'"meters":[{"name":"' + READ_PAGES.encode() + b'","quantity":4}]', b'"meters":[]'
                )
                for line in lines
            )
        frontier.extend(map(leaf_hash, lines))
        header = header_line({**dataclasses.asdict(record.header), "previous_file_sha256": previous})
        trailer = trailer_line(lines, size=record.trailer.size, root=frontier.root())
        path.unlink()
        previous = write_once(path, render(header, lines, trailer))


def _drop_a_line(meter):
    lines = _lines(meter.files[1])
    _overwrite(meter.files[1], b"".join(lines[:2] + lines[3:]))


def _insert_a_line(meter):
    lines = _lines(meter.files[1])
    _overwrite(meter.files[1], b"".join([*lines[:2], lines[1], *lines[2:]]))


def _swap_two_lines(meter):
    lines = _lines(meter.files[1])
    lines[1], lines[2] = lines[2], lines[1]
    _overwrite(meter.files[1], b"".join(lines))


def _swap_two_uses_keeping_their_numbers(meter):
    lines = _lines(meter.files[1])
    first, second = json.loads(lines[1]), json.loads(lines[2])
    first["id"], second["id"] = second["id"], first["id"]
    for place, entry in ((1, first), (2, second)):
        lines[place] = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    _overwrite(meter.files[1], b"".join(lines))


def _cut_the_last_bytes(meter):
    _overwrite(meter.files[2], meter.files[2].read_bytes()[:-100])


def _cut_the_last_file(meter):
    meter.files[2].unlink()


def _drop_a_file_in_the_middle(meter):
    meter.files[1].unlink()


def _empty_a_file(meter, number=0):
    _overwrite(meter.files[number], b"")


def _swap_two_files(meter):
    first, second = meter.files[0].read_bytes(), meter.files[1].read_bytes()
    _overwrite(meter.files[0], second)
    _overwrite(meter.files[1], first)


def _rename_a_file(meter):
    meter.files[1].rename(meter.files[1].with_name("6-12.jsonl"))


def _edit_the_trailers_sum(meter):
    _edit(meter.files[2], b'"quantity":5}],"record":"trailer"', b'"quantity":4}],"record":"trailer"')


def _edit_the_trailers_root(meter):
    blob = meter.files[2].read_bytes()
    start = blob.rindex(b'"root":"') + len(b'"root":"')
    _overwrite(meter.files[2], blob[:start] + b"0" * 64 + blob[start + 64 :])


def _edit_the_headers_licence(meter):
    _edit(meter.files[2], meter.license_id.encode(), b"7" + meter.license_id[1:].encode())


def _edit_the_headers_window(meter):
    _edit(meter.files[2], b'"reason":"interval","record"', b'"reason":"shutdown","record"')


def _edit_the_headers_hash(meter, number=2):
    blob = meter.files[number].read_bytes()
    start = blob.index(b'"previous_file_sha256":"') + len(b'"previous_file_sha256":"')
    _overwrite(meter.files[number], blob[:start] + b"0" * 64 + blob[start + 64 :])


def _edit_the_headers_version(meter):
    """Of the middle file: its hash is in the next header."""
    _edit(meter.files[1], b'"product_version":"0.1.0"', b'"product_version":"0.2.0"')


def _edit_the_newest_headers_version(meter):
    _edit(meter.files[2], b'"product_version":"0.1.0"', b'"product_version":"0.2.0"')


def _edit_the_newest_headers_evaluation(meter):
    _edit(meter.files[2], b'"evaluation":false', b'"evaluation":true')


def _edit_the_headers_frontier(meter, number=2):
    blob = meter.files[number].read_bytes()
    start = blob.index(b'"frontier":["') + len(b'"frontier":["')
    _overwrite(meter.files[number], blob[:start] + b"0" * 64 + blob[start + 64 :])


def _edit_the_checkpoint(meter):
    path = meter.folder / "checkpoint"
    _overwrite(path, path.read_bytes().replace(b"\n17\n", b"\n16\n"))


def _spoil_the_checkpoint(meter):
    _overwrite(meter.folder / "checkpoint", b"\xff")


def _rename_a_checkpoint(meter):
    (meter.folder / "checkpoints" / "11").rename(meter.folder / "checkpoints" / "12")


def _begin_the_chain_anew(meter):
    """What a home-made chain does at a torn file: the next one starts from nothing."""
    _overwrite(meter.files[2], meter.files[2].read_bytes()[:50])
    again = FakeMeter(meter.folder.parents[1], device=meter.device)
    again.now_ms = meter.now_ms
    again.window(uses=2)
    again.seal(again.size, again.frontier.root())


TAMPERING = {
    _edit_quantity: {"sealed_root"},
    _edit_and_repair: {"sealed_root"},
    _drop_a_line: {"numbering"},
    _insert_a_line: {"numbering"},
    _swap_two_lines: {"numbering"},
    _swap_two_uses_keeping_their_numbers: {"sealed_root"},
    _cut_the_last_bytes: {"malformed"},
    _cut_the_last_file: {"cut_tail"},
    _drop_a_file_in_the_middle: {"numbering"},
    _empty_a_file: {"malformed"},
    _swap_two_files: {"numbering", "file_chain"},
    _rename_a_file: {"numbering"},
    _edit_the_trailers_sum: {"totals"},
    _edit_the_trailers_root: {"root"},
    _edit_the_headers_licence: {"header"},
    _edit_the_headers_window: {"header"},
    _edit_the_headers_hash: {"file_chain"},
    _edit_the_headers_version: {"file_chain"},
    _edit_the_newest_headers_version: {"header"},
    _edit_the_newest_headers_evaluation: {"header"},
    _edit_the_headers_frontier: {"frontier"},
    _edit_the_checkpoint: {"checkpoint_signature"},
    _spoil_the_checkpoint: {"checkpoint_format"},
    _rename_a_checkpoint: {"checkpoint_name"},
    _begin_the_chain_anew: {"numbering"},
}


@pytest.mark.parametrize(("tamper", "codes"), TAMPERING.items(), ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "unpinned"])
def test_tampering_is_caught_and_named(meter, tamper, codes, pinned):
    tamper(meter)
    report = _verify(meter, pinned=pinned)
    if not pinned and codes == {"checkpoint_signature"}:
        codes = {"sealed_root"}
    assert codes <= _codes(report)
    assert report.verdict is Verdict.TAMPERED
    assert report.exit_code() == ExitCode.TAMPERED


def test_every_entry_lies_in_exactly_one_range(meter):
    for tamper in (_drop_a_file_in_the_middle, _cut_the_last_file):
        tamper(meter)
        ranges = _verify(meter).instances[0].ranges
        assert [one.first for one in ranges] == [0, *(one.end for one in ranges[:-1])]
        assert ranges[-1].end == 17


def test_what_was_sealed_before_the_damage_stays_sealed(meter):
    _edit(meter.files[2], b'"page":1', b'"page":9')
    assert _verify(meter).instances[0].ranges == (
        EntryRange(0, 11, Coverage.SEALED),
        EntryRange(11, 17, Coverage.DAMAGED),
    )


def _damage_the_second_window(meter):
    _edit(meter.files[1], b'"page":1', b'"page":9')


@pytest.mark.parametrize(
    ("tamper", "coverage"),
    [
        (_damage_the_second_window, Coverage.DAMAGED),
        (_edit_and_repair, Coverage.DAMAGED),
        (_drop_a_line, Coverage.DAMAGED),
        (lambda meter: _empty_a_file(meter, 1), Coverage.DAMAGED),
        (_drop_a_file_in_the_middle, Coverage.MISSING),
    ],
)
def test_what_follows_the_damage_is_proven_from_its_own_header_on(meter, tamper, coverage):
    tamper(meter)
    report = _verify(meter)
    assert report.verdict is Verdict.TAMPERED
    assert report.instances[0].ranges == (
        EntryRange(0, 6, Coverage.SEALED),
        EntryRange(6, 11, coverage),
        EntryRange(11, 17, Coverage.SEALED),
    )


def test_without_frontiers_nothing_after_the_damage_is_proven(tmp_path):
    meter = FakeMeter(tmp_path, with_frontier=False)
    for uses in (3, 4, 5):
        meter.window(uses=uses)
    _damage_the_second_window(meter)
    assert [one.coverage for one in _verify(meter).instances[0].ranges] == [
        Coverage.SEALED, Coverage.DAMAGED, Coverage.UNSEALED,
    ]  # fmt: skip


def test_any_flipped_byte_of_any_file_is_caught(tmp_path):
    meter = FakeMeter(tmp_path / "output")
    meter.window(uses=1)
    meter.window()
    paths = [*meter.files, meter.folder / "checkpoint", *(meter.folder / "checkpoints").iterdir()]
    harmless = []
    for path in paths:
        blob = path.read_bytes()
        for position in range(0, len(blob), 7):
            _overwrite(path, blob[:position] + bytes([blob[position] ^ 1]) + blob[position + 1 :])
            if _verify(meter).verdict is Verdict.GOOD:
                harmless.append((path.name, blob[max(0, position - 20) : position + 1]))
        _overwrite(path, blob)
    assert harmless == []


def test_use_counted_twice_is_caught(meter):
    operation = json.loads(meter.lines[3])["id"]
    meter.use(operation=operation)
    meter.window()
    report = _verify(meter)
    assert _codes(report) == {"double"}
    assert "Entry 17 counts page 1 of" in "\n".join(report.to_lines())
    assert "as entry 3 did" in "\n".join(report.to_lines())


def test_other_page_of_the_same_operation_is_no_double(meter):
    operation = json.loads(meter.lines[3])["id"]
    meter.use(operation=operation, page=2)
    meter.window()
    assert _verify(meter).verdict is Verdict.GOOD


def test_effective_time_that_runs_backwards_is_caught(meter):
    meter.now_ms -= 60_000
    meter.use()
    meter.now_ms += 60_000
    meter.window()
    assert _codes(_verify(meter)) == {"time"}


# ---- the four holes that home-made chains share ---------------------------------------------------------------------


def test_hole_one_a_tail_cut_off_does_not_verify(meter):
    meter.files[2].unlink()
    report = _verify(meter)
    assert _codes(report) == {"cut_tail"}
    assert report.instances[0].ranges[-1] == EntryRange(11, 17, Coverage.MISSING)


def test_hole_two_a_key_that_lies_beside_the_records_is_believed_by_nobody(meter, tmp_path):
    forger = FakeMeter(tmp_path / "forged")
    forger.window(uses=1)
    forger.save_device_key(forger.folder / "device.pub")
    assert _verify(forger, pinned=False).verdict is Verdict.UNPINNED
    pinned = verify_records(forger.folder, VENDOR.trust_root, device_keys=[meter.device.verifying])
    assert pinned.verdict is Verdict.TAMPERED


def test_hole_three_a_chain_that_begins_anew_at_a_torn_file_is_caught(meter):
    _begin_the_chain_anew(meter)
    assert {"numbering"} <= _codes(_verify(meter))


def test_hole_four_what_was_not_covered_stands_in_the_verdict_and_in_the_ranges(meter):
    meter.prune(1)
    meter.window(uses=1, seal=False)
    report = _verify(meter)
    assert report.verdict is Verdict.UNANCHORED
    assert report.exit_code(strict=True) == ExitCode.UNANCHORED
    assert [one.coverage for one in report.instances[0].ranges] == [
        Coverage.PRUNED, Coverage.SEALED, Coverage.UNSEALED,
    ]  # fmt: skip
    text = "\n".join(report.to_lines())
    assert "[0, 6)  PRUNED" in text
    assert "[17, 19)  UNSEALED" in text


# ---- what an earlier checkpoint proves ------------------------------------------------------------------------------


def _roll_back(meter):
    """Take the newest file and every trace of its seal away: within the folder nothing is missing."""
    meter.files[2].unlink()
    (meter.folder / "checkpoints" / "17").unlink()
    shutil.copy(meter.folder / "checkpoints" / "11", meter.folder / "checkpoint")


def test_rolled_back_records_are_caught_by_the_kept_checkpoint(meter):
    kept = (meter.folder / "checkpoint").read_text()
    _roll_back(meter)
    assert _verify(meter).verdict is Verdict.GOOD
    report = _verify(meter, previous=kept)
    assert _codes(report) == {"cut_tail"}
    assert "the kept checkpoint" in "\n".join(report.to_lines())


def test_records_that_grew_since_the_kept_checkpoint_are_good(meter):
    kept = (meter.folder / "checkpoint").read_text()
    meter.window(uses=2)
    assert _verify(meter, previous=kept).verdict is Verdict.GOOD


def test_rewritten_history_is_caught_by_the_kept_checkpoint_even_if_the_device_signed_it(meter, tmp_path):
    kept = (meter.folder / "checkpoints" / "11").read_text()
    rewritten = FakeMeter(tmp_path / "again", device=meter.device)
    for uses in (3, 4, 5):
        rewritten.window(uses=uses)
    assert _verify(rewritten).verdict is Verdict.GOOD
    assert _codes(_verify(rewritten, previous=kept)) == {"sealed_root"}


def test_kept_checkpoint_of_another_log_is_caught(meter, tmp_path):
    other = FakeMeter(tmp_path / "other")
    other.window()
    assert _codes(_verify(meter, previous=(other.folder / "checkpoint").read_text())) == {"kept_origin_missing"}


def test_kept_checkpoint_that_was_edited_is_not_used(meter):
    kept = (meter.folder / "checkpoint").read_text().replace("\n17\n", "\n7\n")
    with pytest.raises(RecordError, match="kept checkpoint"):
        _verify(meter, previous=kept)


# ---- a beginning that is not here any more --------------------------------------------------------------------------


def test_pruned_beginning_is_told_and_what_follows_is_proven(meter):
    assert meter.prune(1) == 6
    report = _verify(meter)
    one = report.instances[0]
    assert _codes(report) == set()
    assert [finding.code for finding in one.findings] == ["pruned"]
    assert one.ranges == (EntryRange(0, 6, Coverage.PRUNED), EntryRange(6, 17, Coverage.SEALED))
    assert one.coverage["2027-01"] is Coverage.PRUNED
    assert one.meters == {READ_PAGES: 9}


def test_pruned_beginning_that_nobody_vouches_for_is_not_anchored(meter):
    meter.prune(1)
    report = _verify(meter)
    assert report.verdict is Verdict.UNANCHORED
    assert (report.exit_code(), report.exit_code(strict=True)) == (ExitCode.GOOD, ExitCode.UNANCHORED)


@pytest.mark.parametrize("size", [6, 11, 17])
@pytest.mark.parametrize("voucher", ["kept", "given", "filed"])
def test_pruned_beginning_that_somebody_vouches_for_is_anchored(meter, size, voucher):
    note = meter.checkpoint(size)
    meter.prune(1)
    ack = meter.ack(VENDOR, note)
    if voucher == "filed":
        meter.file_ack(VENDOR, ack)
    report = _verify(
        meter,
        previous=note if voucher == "kept" else None,
        acks=[ack.seal(VENDOR.keys.ack_key)] if voucher == "given" else [],
    )
    assert report.verdict is Verdict.GOOD
    assert report.exit_code(strict=True) == ExitCode.GOOD
    assert "but for their beginning" in report.verdict_text


def test_pruned_beginning_without_a_frontier_is_a_gap(tmp_path):
    meter = FakeMeter(tmp_path, with_frontier=False, with_context=False)
    for uses in (3, 4, 5):
        meter.window(uses=uses)
    meter.prune(1)
    report = _verify(meter)
    assert _codes(report) == {"pruned"}
    assert report.exit_code() == ExitCode.GAPS
    assert report.instances[0].ranges == (EntryRange(0, 6, Coverage.PRUNED), EntryRange(6, 17, Coverage.UNSEALED))


def test_pruned_beginning_without_a_seal_on_what_follows_is_a_gap(meter):
    meter.prune(1)
    shutil.rmtree(meter.folder / "checkpoints")
    (meter.folder / "checkpoint").unlink()
    assert _codes(_verify(meter, pinned=False)) == {"pruned"}


def test_frontier_that_does_not_lead_to_the_sealed_root_is_caught(meter):
    meter.prune(2)
    _edit_the_headers_frontier(meter, -1)
    report = _verify(meter)
    assert "sealed_root" in _codes(report)
    assert report.instances[0].ranges[-1] == EntryRange(11, 17, Coverage.DAMAGED)


def test_frontier_that_is_not_what_was_sealed_at_the_cut_is_caught(meter):
    (meter.folder / "usage" / "2027" / "01" / "0-6.jsonl").unlink()
    del meter.files[0]
    _edit_the_headers_frontier(meter, 0)
    assert "frontier" in _codes(_verify(meter))


def test_edited_entry_is_caught_after_a_pruned_beginning(meter):
    meter.prune(1)
    _edit_quantity(meter)
    assert {"totals", "sealed_root"} <= _codes(_verify(meter))


def test_edited_hash_is_caught_after_a_pruned_beginning(meter):
    meter.prune(1)
    _edit_the_headers_hash(meter, 1)
    assert _codes(_verify(meter)) == {"file_chain"}


def test_kept_checkpoint_in_the_pruned_part_is_told_not_to_have_been_compared(meter):
    kept = meter.checkpoint(6)
    meter.prune(2)
    report = _verify(meter, previous=kept)
    assert "kept_not_compared" in {finding.code for finding in report.instances[0].findings}
    assert report.verdict is Verdict.UNANCHORED
    assert (report.exit_code(), report.exit_code(strict=True)) == (ExitCode.GOOD, ExitCode.UNANCHORED)


def test_kept_checkpoint_in_the_pruned_part_is_not_made_good_by_an_acknowledgement(meter):
    kept, newest = meter.checkpoint(6), meter.checkpoint(17)
    meter.prune(2)
    report = _verify(meter, previous=kept, acks=[meter.ack(VENDOR, newest).seal(VENDOR.keys.ack_key)])
    assert report.exit_code(strict=True) == ExitCode.UNANCHORED


def test_old_checkpoints_of_a_pruned_part_are_told_in_one_note(meter):
    for number in range(15):
        meter.seal(number % 5 + 1, bytes([number % 5]) * 32)
    meter.seal(17, meter.frontier.root())
    (meter.folder / "usage" / "2027" / "01" / "0-6.jsonl").unlink()
    notes = [one.message for one in _verify(meter).instances[0].findings if one.code == "not_compared"]
    assert len(notes) == 1
    assert "at 5 sizes up to 5 entries" in notes[0]


# ---- acknowledgements -----------------------------------------------------------------------------------------------


def test_acknowledged_entries_are_told_apart_from_those_that_are_sealed_alone(meter):
    meter.file_ack(VENDOR, meter.ack(VENDOR, meter.checkpoint(6)))
    meter.file_ack(VENDOR, meter.ack(VENDOR, meter.checkpoint(11)))
    report = _verify(meter)
    assert report.verdict is Verdict.GOOD
    assert report.instances[0].acked == 11
    assert report.instances[0].ranges == (EntryRange(0, 11, Coverage.ACKED), EntryRange(11, 17, Coverage.SEALED))


def test_acknowledgement_alone_pins_no_key(meter):
    meter.file_ack(VENDOR, meter.ack(VENDOR, meter.checkpoint(17)))
    report = _verify(meter, pinned=False)
    assert report.verdict is Verdict.UNPINNED
    assert report.instances[0].ranges == (EntryRange(0, 17, Coverage.UNPINNED),)


@pytest.mark.parametrize("filed", [True, False])
def test_log_that_forked_from_what_was_acknowledged_is_caught(meter, tmp_path, filed):
    ack = meter.ack(VENDOR, meter.checkpoint(11))
    again = FakeMeter(tmp_path / "again", device=meter.device)
    for uses in (3, 4, 5):
        again.window(uses=uses)
    if filed:
        again.file_ack(VENDOR, ack)
    report = _verify(again, acks=[] if filed else [ack.seal(VENDOR.keys.ack_key)])
    assert _codes(report) == {"ack_fork"}
    assert report.exit_code() == ExitCode.TAMPERED
    assert report.instances[0].acked == 0


def test_records_rolled_back_behind_the_acknowledgement_are_caught(meter):
    meter.file_ack(VENDOR, meter.ack(VENDOR, meter.checkpoint(17)))
    _roll_back(meter)
    assert _codes(_verify(meter)) == {"cut_tail"}


def test_totals_that_the_vendor_accepted_are_compared(meter):
    meter.file_ack(VENDOR, meter.ack(VENDOR, meter.checkpoint(11), totals={READ_PAGES: 6}))
    report = _verify(meter)
    assert _codes(report) == {"ack_totals"}
    assert f"accepted 6 of {READ_PAGES}" in "\n".join(report.to_lines())
    assert f"sum up to 7 of {READ_PAGES}" in "\n".join(report.to_lines())


def test_totals_are_compared_where_no_window_ends_too(meter):
    root = Frontier()
    root.extend(map(leaf_hash, meter.lines[:4]))
    meter.seal(4, root.root())
    note = meter.checkpoint(4)
    meter.seal(17, meter.frontier.root())
    meter.file_ack(VENDOR, meter.ack(VENDOR, note, totals={READ_PAGES: 2}))
    assert _verify(meter).verdict is Verdict.GOOD
    meter.file_ack(VENDOR, meter.ack(VENDOR, note, totals={READ_PAGES: 3}))
    assert _codes(_verify(meter)) == {"ack_totals"}


def test_totals_are_not_compared_where_not_all_entries_are_here(meter):
    meter.file_ack(VENDOR, meter.ack(VENDOR, meter.checkpoint(11), totals={READ_PAGES: 6}))
    meter.prune(1)
    assert _verify(meter).verdict is Verdict.GOOD


def test_acknowledgement_that_was_edited_is_caught(meter):
    path = meter.file_ack(VENDOR, meter.ack(VENDOR, meter.checkpoint(11)))
    envelope = json.loads(path.read_bytes())
    envelope["payload"] = "e30="
    path.write_text(json.dumps(envelope))
    assert _codes(_verify(meter)) == {"ack_format"}


def test_acknowledgement_of_another_device_is_caught(meter, tmp_path):
    other = FakeMeter(tmp_path / "other")
    other.window()
    meter.file_ack(VENDOR, other.ack(VENDOR, other.checkpoint(3)))
    assert _codes(_verify(meter)) == {"ack_checkpoint"}


def test_acknowledgement_of_another_vendor_counts_for_nothing(meter):
    stranger = a_vendor()
    meter.file_ack(stranger, meter.ack(stranger, meter.checkpoint(11)))
    report = _verify(meter)
    assert report.verdict is Verdict.GOOD
    assert [finding.code for finding in report.instances[0].findings] == ["ack_untrusted"]
    assert report.instances[0].acked == 0


def test_acknowledgement_given_that_is_not_good_is_refused(meter):
    stranger = a_vendor()
    with pytest.raises(RecordError, match="acknowledgement given"):
        _verify(meter, acks=[meter.ack(stranger, meter.checkpoint(11)).seal(stranger.keys.ack_key)])


def test_acknowledgement_of_records_that_are_not_here_is_caught(meter, tmp_path):
    other = FakeMeter(tmp_path / "other")
    other.window()
    ack = other.ack(VENDOR, other.checkpoint(3))
    assert _codes(_verify(meter, acks=[ack.seal(VENDOR.keys.ack_key)])) == {"ack_origin_missing"}


def test_acknowledgement_in_the_pruned_part_is_told_not_to_have_been_compared(meter):
    meter.file_ack(VENDOR, meter.ack(VENDOR, meter.checkpoint(6)))
    meter.prune(2)
    report = _verify(meter)
    assert "ack_not_compared" in {finding.code for finding in report.instances[0].findings}
    assert report.exit_code(strict=True) == ExitCode.UNANCHORED


def test_foreign_files_among_the_acknowledgements_are_noted(meter):
    (meter.folder / "acks").mkdir()
    (meter.folder / "acks" / "notes.txt").touch()
    assert [finding.where for finding in _verify(meter).instances[0].findings] == ["acks/notes.txt"]


# ---- copies of a device ---------------------------------------------------------------------------------------------


def test_two_states_of_one_size_in_one_folder_are_a_fork(meter):
    meter.seal(11, b"\0" * 32)
    shutil.copy(meter.folder / "checkpoints" / "17", meter.folder / "checkpoint")
    (meter.folder / "checkpoints" / "12").write_text(meter.checkpoint(11))
    meter.seal(11, parse_record_file(meter.files[1]).trailer.root)
    assert {"fork", "sealed_root"} <= _codes(_verify(meter))


def test_copy_of_the_device_that_went_on_beside_it_is_caught(meter, tmp_path):
    clone = FakeMeter(tmp_path / "clone", device=meter.device)
    for uses in (3, 4, 5):
        clone.window(uses=uses)
    shutil.copytree(clone.folder, meter.folder.parent / "clone")
    report = verify_records(meter.folder.parent, VENDOR.trust_root, device_keys=[meter.device.verifying])
    assert _codes(report) == {"fork"}
    assert "differ at 6 entries" in "\n".join(report.to_lines())


def test_older_copy_of_the_same_log_is_noted(meter):
    shutil.copytree(meter.folder, meter.folder.parent / "copy")
    meter.window(uses=1)
    report = verify_records(meter.folder.parent, VENDOR.trust_root, device_keys=[meter.device.verifying])
    assert report.verdict is Verdict.GOOD
    assert [finding.code for finding in report.findings] == ["same_log_twice"]


def _clone(meter: FakeMeter, folder) -> FakeMeter:
    """A copy of the device and of its records, which goes on by itself from here."""
    clone = copy.copy(meter)
    clone.lines, clone.files, clone._pending = list(meter.lines), list(meter.files), list(meter._pending)
    clone.frontier = Frontier(*meter.frontier.to_tuple())
    clone.folder = folder
    shutil.copytree(meter.folder, folder)
    return clone


def _verify_all(meter: FakeMeter, **given):
    return verify_records(meter.folder.parent, VENDOR.trust_root, device_keys=[meter.device.verifying], **given)


@pytest.mark.parametrize("further", [(7, 300), (300,), (1, 1, 1)])
def test_copy_whose_windows_never_end_where_the_others_do_is_caught(meter, further):
    clone = _clone(meter, meter.folder.parent / "clone")
    for uses in (10, 20):
        meter.window(uses=uses)
    for uses in further:
        clone.window(uses=uses)
    assert _verify(meter).verdict is _verify(clone).verdict is Verdict.GOOD
    report = _verify_all(meter)
    assert [(one.severity, one.code) for one in report.findings] == [(Severity.TAMPERED, "fork")]
    assert report.exit_code() == ExitCode.TAMPERED


@pytest.mark.parametrize("names", list(itertools.permutations("abc")))
def test_each_copy_is_compared_with_every_other(meter, names):
    """The copy that went its own way is neither the first nor the last by name in some of these."""
    older, clone = (_clone(meter, meter.folder.parent / name) for name in names[:2])
    shutil.rmtree(meter.folder)
    older.window(uses=1)
    clone.window(uses=7)
    grown = _clone(older, meter.folder.parent / names[2])
    for uses in (10, 20):
        grown.window(uses=uses)
    report = _verify_all(meter)
    assert sorted(one.code for one in report.findings) == ["fork", "fork", "same_log_twice"]
    told = {one.where for one in report.findings if one.code == "fork"}
    assert all(clone.folder.name in where.split() for where in told)


def test_older_copy_whose_seal_the_newer_one_has_no_more_is_met_by_its_entries(meter):
    shutil.copytree(meter.folder, meter.folder.parent / "copy")
    meter.window(uses=1)
    (meter.folder / "checkpoints" / "17").unlink()
    report = _verify_all(meter)
    assert report.verdict is Verdict.GOOD
    assert [finding.code for finding in report.findings] == ["same_log_twice"]


def test_copy_that_ends_before_the_other_begins_is_not_good(meter):
    """Each is proven, but not that one continues the other, even where the vendor vouches for the later one."""
    shutil.copytree(meter.folder, meter.folder.parent / "copy")
    for uses in (1, 2):
        meter.window(uses=uses)
    meter.file_ack(VENDOR, meter.ack(VENDOR, meter.checkpoint(meter.size)))
    meter.prune(4)
    assert _verify(meter).verdict is Verdict.GOOD
    report = _verify_all(meter)
    assert [(one.severity, one.code) for one in report.findings] == [(Severity.GAP, "copies_not_compared")]
    assert report.exit_code() == ExitCode.GAPS


def test_seal_of_a_copy_laid_among_those_of_the_other_compares_nothing(meter):
    """Seals on entries that are not here are told to be not compared; they do not stand for the comparison."""
    clone = _clone(meter, meter.folder.parent / "clone")
    clone.window(uses=7)
    for uses in (10, 20):
        meter.window(uses=uses)
    meter.file_ack(VENDOR, meter.ack(VENDOR, meter.checkpoint(meter.size)))
    meter.prune(4)
    shutil.copy(clone.folder / "checkpoints" / str(clone.size), meter.folder / "checkpoints")
    assert "copies_not_compared" in _codes(_verify_all(meter))


def test_copy_of_damaged_records_is_no_fork(meter):
    """A fork is an accusation: it is told where both are proven, not where one of them was edited."""
    shutil.copytree(meter.folder, meter.folder.parent / "copy")
    meter.window(uses=1)
    (meter.folder / "checkpoints" / "17").unlink()
    _edit(meter.files[2], b'"quantity":1', b'"quantity":2')
    codes = _codes(_verify_all(meter))
    assert "sealed_root" in codes
    assert "fork" not in codes


def test_copies_beyond_the_bound_are_told(meter, monkeypatch):
    monkeypatch.setattr(copies, "MAX_AUDITS", 1)
    clones = [_clone(meter, meter.folder.parent / name) for name in "ab"]
    for clone in clones:
        clone.window(uses=7)
    for uses in (10, 20):
        meter.window(uses=uses)
    report = _verify_all(meter)
    assert {"fork", "copies_not_compared"} <= _codes(report)
    assert report.exit_code() == ExitCode.TAMPERED


def _file_fork(meter: FakeMeter, *, device: SigningKey | None = None) -> Path:
    """Put the proof that the device signed two histories where the sidecar puts those that the vendor sent it."""
    signed_by = device or meter.device
    origin = f"{meter.origin.rpartition('/')[0]}/{device_id_of(signed_by.verifying.raw)}"
    one, other = (sign_checkpoint(origin, 17, root * 32, signed_by) for root in (b"1", b"2"))
    path = meter.folder / "forks" / fork_name(origin, 17, 17)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(prove_fork(one, other, signed_by.verifying))
    return path


def test_proof_of_a_fork_beside_the_records_counts(meter):
    path = _file_fork(meter)
    report = _verify(meter)
    assert [(one.severity, one.code, one.where) for one in report.instances[0].findings] == [
        (Severity.TAMPERED, "fork", f"forks/{path.name}")
    ]
    assert "two different histories of its first 17 entries" in report.instances[0].findings[0].message
    assert report.exit_code() == ExitCode.TAMPERED


def test_proof_of_a_fork_is_not_believed_without_a_pinned_key(meter):
    _file_fork(meter)
    report = _verify(meter, pinned=False)
    assert report.verdict is Verdict.UNPINNED
    assert [one.code for one in report.instances[0].findings] == ["fork_not_checked"]


def test_proof_of_a_fork_that_does_not_hold_is_noted(meter):
    path = _file_fork(meter, device=SigningKey.generate("device"))
    (path.parent / "fork-edited.json").write_bytes(_file_fork(meter).read_bytes().replace(b'"first":"', b'"first":"QQ'))
    _file_fork(meter).unlink()
    (path.parent / "fork-long.json").write_bytes(b" " * (MAX_FORK_BYTES + 1))
    (path.parent / "fork-empty.json").touch()
    (path.parent / "readme").touch()
    report = _verify(meter)
    assert report.verdict is Verdict.GOOD
    assert sorted(one.code for one in report.instances[0].findings) == ["foreign_file", *["fork_unproven"] * 4]


def test_proof_of_a_fork_of_another_log_of_the_device_is_noted(meter, tmp_path):
    other = FakeMeter(tmp_path / "other", device=meter.device, vendor="other.example")
    other.window()
    shutil.copytree(_file_fork(other).parent, meter.folder / "forks")
    report = _verify(meter)
    assert report.verdict is Verdict.GOOD
    assert "it is of other.example/" in report.instances[0].findings[0].message


def test_number_of_proofs_of_a_fork_is_bounded(meter):
    path = _file_fork(meter)
    for number in range(MAX_FORKS):
        (path.parent / f"a{number}.json").write_bytes(b"{}")
    report = _verify(meter)
    assert {one.code for one in report.instances[0].findings} == {"fork_unproven", "forks_left_out"}


# ---- gaps -----------------------------------------------------------------------------------------------------------


def test_time_without_a_window_is_a_gap(meter):
    meter.wait(WINDOW_MS)
    meter._opened = meter.moment()
    meter.window()
    report = _verify(meter)
    assert _codes(report) == {"window_gap"}
    assert report.exit_code() == ExitCode.GAPS


def test_window_left_open_too_long_is_a_gap(meter):
    meter.wait(MAX_WINDOW_MS)
    meter.window()
    assert _codes(_verify(meter)) == {"long_window"}


def test_window_that_a_crash_left_open_is_no_gap(meter):
    meter.wait(MAX_WINDOW_MS)
    meter.window(reason="recovery")
    assert _verify(meter).verdict is Verdict.GOOD


def test_gap_that_the_meter_tells_of_is_a_gap(meter):
    meter.entry("gap", reason="clock")
    meter.window()
    assert _codes(_verify(meter)) == {"gap_entry"}


def test_failed_cycles_are_noted_and_do_no_harm(meter):
    meter.entry("fault", code="output_unwritable", failed_cycles=1)
    meter.window()
    report = _verify(meter)
    assert report.verdict is Verdict.GOOD
    assert [finding.code for finding in report.instances[0].findings] == ["fault_entries"]


def test_newest_file_without_its_seal_is_unsealed(meter):
    meter.window(uses=1, seal=False)
    report = _verify(meter)
    assert report.verdict is Verdict.UNSEALED
    assert (report.exit_code(), report.exit_code(strict=True)) == (ExitCode.GOOD, ExitCode.UNANCHORED)
    assert report.instances[0].ranges[-1] == EntryRange(17, 19, Coverage.UNSEALED)


def test_foreign_files_are_noted_and_hidden_ones_passed_over(meter):
    (meter.folder / "usage" / "notes.txt").touch()
    (meter.folder / "usage" / ".incoming").touch()
    report = _verify(meter)
    assert report.verdict is Verdict.GOOD
    assert [finding.where for finding in report.instances[0].findings] == ["usage/notes.txt"]


# ---- unreadable -----------------------------------------------------------------------------------------------------


def test_folder_without_records_is_unreadable(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        assert verify_records(folder, VENDOR.trust_root).exit_code() == ExitCode.UNREADABLE
    (tmp_path / "usage").mkdir()
    assert verify_records(tmp_path, VENDOR.trust_root).exit_code() == ExitCode.UNREADABLE


def test_link_in_place_of_a_file_is_not_followed(meter, tmp_path):
    meter.files[1].rename(tmp_path / "elsewhere")
    meter.files[1].symlink_to(tmp_path / "elsewhere")
    report = _verify(meter)
    assert "unreadable" in _codes(report)
    assert report.verdict is Verdict.UNREADABLE


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_file_without_permission_is_unreadable(meter):
    meter.files[1].chmod(0)
    assert _verify(meter).exit_code() == ExitCode.UNREADABLE


def test_findings_are_bounded_and_counted(meter):
    for _ in range(30):
        meter.use()
    path = meter.window()
    _overwrite(path, path.read_bytes().replace(b'"seq":2', b'"seq":9').replace(b'"seq":3', b'"seq":9'))
    report = _verify(meter)
    assert report.verdict is Verdict.TAMPERED
    assert len(report.instances[0].findings) <= MAX_FINDINGS_SHOWN
    assert "and 10 more findings" in "\n".join(report.to_lines())


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def files(meter, tmp_path):
    """Trust root and pinned key, as files outside the records."""
    root, key = tmp_path / "root.json", tmp_path / "device.pub"
    root.write_bytes(VENDOR.trust_root_blob)
    key.write_bytes(public_pem(meter.device.verifying.public))
    return root, key


@pytest.mark.parametrize("option", ["--trust-root", "--trust"])
def test_command_prints_what_a_person_can_check(meter, files, capsys, option):
    root, key = files
    assert main([str(meter.folder), option, str(root), "--device-key", str(key), "--strict"]) == 0
    out = capsys.readouterr().out
    for words in (
        meter.origin,
        "Friday 2027-01-15 12:00:00 UTC",
        "17 in 3 files",
        f"12  {READ_PAGES}",
        "(pinned)",
        "[0, 17)  SEALED",
        "VERDICT: GOOD",
    ):
        assert words in out


def test_command_prints_json(meter, files, capsys):
    root, key = files
    assert main([str(meter.folder), "--trust", str(root), "--device-key", str(key), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["verdict"], report["exit_code"]) == ("good", 0)
    assert report["instances"][0]["ranges"] == [{"first": 0, "end": 17, "coverage": "sealed"}]


def test_command_exits_as_promised(meter, files, tmp_path, capsys):
    root, key = files
    folder, trust, pin = str(meter.folder), ["--trust", str(root)], ["--device-key", str(key)]
    kept = tmp_path / "kept"
    shutil.copy(meter.folder / "checkpoint", kept)
    assert main([folder, *trust]) == 0
    assert main([folder, *trust, "--strict"]) == 2
    assert main([folder, *trust, *pin, "--prev", str(kept)]) == 0
    assert main([folder, "--trust", str(tmp_path / "none")]) == 4
    assert main([folder, *trust, "--device-key", str(root)]) == 4
    assert main([folder, *trust, "--prev", str(root), "--json"]) == 4
    assert main([str(tmp_path / "none"), *trust]) == 4
    meter.files[0].unlink()
    assert main([folder, *trust, *pin]) == 0
    assert main([folder, *trust, *pin, "--strict"]) == 2
    assert main([folder, *trust, *pin, "--strict", "--prev", str(kept)]) == 0
    meter.entry("gap", reason="restored")
    meter.window()
    assert main([folder, *trust, *pin]) == 3
    meter.files[3].unlink()
    _cut_the_last_file(meter)
    assert main([folder, *trust, *pin]) == 1
    assert "Next step:" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["x"], ["x", "--trust"], ["x", "--trust", "y", "--no-such"]])
def test_wrong_use_is_64(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 64


def test_help_and_version(capsys):
    for option in ("--help", "--version"):
        with pytest.raises(SystemExit) as caught:
            main([option])
        assert caught.value.code == 0
    assert "exit codes: 0 good, 1 tampered" in " ".join(capsys.readouterr().out.split())


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_one_line_on_a_terminal_and_is_taken_away():
    terminal, pipe = _Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        progress = command.ProgressLine(stream, after_seconds=0)
        progress(1234567)
        progress.end()
    assert terminal.getvalue() == "\r1,234,567 entries read\r" + " " * 22 + "\r"
    assert pipe.getvalue() == ""


def test_nothing_is_said_of_the_progress_of_short_work(meter):
    terminal = _Terminal()
    progress = command.ProgressLine(terminal)
    progress(10)
    progress.end()
    assert terminal.getvalue() == ""


def test_terminal_shows_what_records_hold_as_text(tmp_path):
    meter = FakeMeter(tmp_path)
    meter.entry("license", in_force=True, license_id="\x1b[2J\u202e", sequence=1, evaluation=False)
    meter.license_id = "x"
    meter.window()
    text = "\n".join(_verify(meter).to_lines())
    assert "\\u{1b}[2J\\u{202e}" in text
    assert all(line.isprintable() for line in text.split("\n"))


def test_fault_of_the_program_does_not_accuse_the_records(meter, files, monkeypatch, capsys):
    def fail(*arguments, **given):
        raise ZeroDivisionError

    monkeypatch.setattr(command, "verify_records", fail)
    assert main([str(meter.folder), "--trust", str(files[0])]) == ExitCode.CANNOT_RUN
    assert "says nothing of the records" in capsys.readouterr().err


def test_reader_that_has_read_enough_is_no_fault(meter, files):
    tool = [sys.executable, "-m", "licenses.usage_log.verify", str(meter.folder), "--trust", str(files[0]), "--json"]
    with subprocess.Popen(tool, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_twenty_thousand_entries_take_less_than_two_seconds(tmp_path):
    meter = FakeMeter(tmp_path)
    for _ in range(4):
        meter.window(uses=5_000)
    started = time.perf_counter()
    assert _verify(meter).verdict is Verdict.GOOD
    assert time.perf_counter() - started < 2
