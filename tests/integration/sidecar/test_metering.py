"""The metering cycle with a real ledger and real files: ten failures cut off, one success resumes, nothing is lost."""

import errno
import random
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from licenses.device_key import DeviceKey
from licenses.lease import open_lease
from licenses.model import READ_PAGES_METER, LedgerAnchor, Reporting
from licenses.usage_log.entry import leaf_hash, parse_entry
from licenses.usage_log.files import RecordFile, parse_record_file
from licenses.usage_log.merkle import root_of
from licenses.usage_log.note import open_checkpoint
from licenses.usage_log.report import Verdict
from licenses.usage_log.verify import verify_records
from licenses.verify import Standing
from sidecar.bootstrap import ledger_path, migrate
from sidecar.errors import LedgerConflictError, LedgerUnavailableError
from sidecar.ledger import Ledger, UseEvent
from sidecar.license_mount import LicenseMount
from sidecar.meter_status import MeterStatus
from sidecar.metering import Meter, RecordOutput
from sidecar.settings import Settings
from tests.fakes.clock import FakeClock
from tests.fakes.licences import a_license, a_vendor


class Site:
    """One appliance's meter on a folder, with a clock that the test moves."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.vendor = a_vendor()
        trust_root, license_file = self.vendor.install(folder)
        self.license_file = license_file
        (folder / "output").mkdir()
        self.settings = replace(
            Settings(
                license_directory=license_file.parent,
                output_directory=folder / "output",
                state_directory=folder / "state",
                trust_root=trust_root,
            ),
            **settings,  # type: ignore[arg-type]
        )
        self.start()

    def start(self) -> None:
        migrate(self.settings, self.clock)
        self.device = DeviceKey.load_or_create(self.settings.state_directory)
        self.licenses = LicenseMount(self.settings, monotonic=lambda: self.clock.read().boottime_ns / 1e9)
        self.ledger = Ledger(
            ledger_path(self.settings), clock=self.clock, instance=self.device.instance_id, version="0.1.0"
        )
        self.output = RecordOutput(self.settings.output_directory, self.device.instance_id)
        self.meter = Meter(
            settings=self.settings,
            clock=self.clock,
            ledger=self.ledger,
            licenses=self.licenses,
            device=self.device,
            output=self.output,
            jitter=random.Random(1),
        )
        self.meter.open()

    def crash(self) -> None:
        """As after kill -9: nothing is closed by the meter, and a new one starts."""
        self.ledger.close()
        self.start()

    def use(self, pages: int) -> None:
        operation = str(uuid.uuid4())
        self.ledger.record_use(
            [
                UseEvent(operation_id=operation, page=page, meter=READ_PAGES_METER, license_id=a_license().license_id)
                for page in range(1, pages + 1)
            ]
        )

    def files(self) -> list[RecordFile]:
        found = [parse_record_file(path) for path in self.output.folder.glob("usage/*/*/*.jsonl")]
        return sorted(found, key=lambda file: file.header.first_seq)

    def pages_in_files(self) -> int:
        entries = [parse_entry(line) for file in self.files() for line in file.lines]
        return sum(1 for entry in entries if entry["kind"] == "use")

    def break_output(self) -> None:
        self.settings.output_directory.rename(self.folder / "elsewhere")
        self.settings.output_directory.write_text("not a folder")

    def mend_output(self) -> None:
        self.settings.output_directory.unlink()
        (self.folder / "elsewhere").rename(self.settings.output_directory)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.ledger.close()


def require_sound(site: Site) -> None:
    """The files are the log: contiguous, chained, and under seals that the device key signed."""
    files = site.files()
    lines: list[bytes] = []
    previous = ""
    for file in files:
        assert file.header.first_seq == len(lines)
        assert file.header.previous_file_sha256 == previous
        lines += file.lines
        assert file.trailer.size == len(lines)
        assert file.trailer.root == root_of(map(leaf_hash, lines))
        note = (site.output.folder / "checkpoints" / str(len(lines))).read_text()
        keys = {file.header.origin: site.device.verifying_key}
        checkpoint = open_checkpoint(note, keys)
        assert (checkpoint.size, checkpoint.root) == (len(lines), file.trailer.root)
        previous = file.sha256
    assert lines == list(site.ledger.lines(0, len(lines)))


def test_a_cycle_writes_the_window_as_a_sealed_file(site: Site) -> None:
    site.use(3)
    site.clock.pass_seconds(650)
    outcome = site.meter.cycle()
    assert outcome.failed_cycles == 0
    (path,) = outcome.files
    assert path.stat().st_mode & 0o777 == 0o440
    assert site.pages_in_files() == 3
    assert dict(site.files()[0].trailer.meters) == {READ_PAGES_METER: 3}
    require_sound(site)


def test_an_empty_window_is_closed_too(site: Site) -> None:
    site.meter.cycle()
    site.clock.pass_seconds(700)
    site.meter.cycle()
    assert len(site.files()) == 2
    require_sound(site)


def test_windows_last_between_ten_and_fifteen_minutes(site: Site) -> None:
    lengths = [site.meter.plan() for _ in range(500)]
    assert min(lengths) >= 600
    assert max(lengths) <= 900
    assert max(lengths) - min(lengths) > 250


def test_tenth_failure_cuts_off_and_first_success_resumes(site: Site) -> None:
    lease = site.licenses.lease_path
    assert lease.exists()
    site.break_output()
    for attempt in range(1, 10):
        site.use(1)
        site.clock.pass_seconds(700)
        assert site.meter.cycle().failed_cycles == attempt
        assert lease.exists(), f"served through failure {attempt}"
    site.use(1)
    site.clock.pass_seconds(700)
    assert site.meter.cycle().failed_cycles == 10
    assert not lease.exists()
    site.clock.pass_seconds(700)
    assert site.meter.cycle().failed_cycles == 11

    site.mend_output()
    site.clock.pass_seconds(700)
    outcome = site.meter.cycle()
    assert outcome.failed_cycles == 0
    assert lease.exists()
    assert site.pages_in_files() == 10
    assert len(site.files()) == 12
    require_sound(site)


def test_restarts_neither_reset_nor_advance_the_count(site: Site) -> None:
    site.break_output()
    for attempt in range(1, 11):
        site.clock.pass_seconds(700)
        assert site.meter.cycle().failed_cycles == attempt
        site.crash()
        assert site.ledger.snapshot(READ_PAGES_METER).failed_cycles == attempt
        assert site.licenses.lease_path.exists() is (attempt < 10)
    site.mend_output()
    site.crash()
    assert site.ledger.snapshot(READ_PAGES_METER).failed_cycles == 0
    assert site.licenses.lease_path.exists()


def test_strict_takes_the_lease_back_at_the_first_failure(tmp_path: Path) -> None:
    site = Site(tmp_path, strict=True)
    site.break_output()
    site.clock.pass_seconds(700)
    site.meter.cycle()
    assert not site.licenses.lease_path.exists()
    site.ledger.close()


def test_failure_says_path_uid_and_command(site: Site) -> None:
    shutil.rmtree(site.settings.output_directory)
    site.clock.pass_seconds(700)
    failure = site.meter.cycle().failure
    assert str(site.settings.output_directory) in failure
    assert "Mounts:Output" in failure


def test_output_deleted_underneath_is_made_again(site: Site) -> None:
    site.use(1)
    site.meter.cycle()
    before = site.files()[0].path.read_bytes()
    shutil.rmtree(site.output.folder)
    site.use(2)
    site.clock.pass_seconds(700)
    assert site.meter.cycle().failed_cycles == 0
    assert site.pages_in_files() == 3
    assert site.files()[0].path.read_bytes() == before


def test_crash_leaves_the_window_to_the_next_start(site: Site) -> None:
    site.use(4)
    site.crash()
    assert site.pages_in_files() == 4
    assert site.files()[-1].header.reason == "recovery"
    assert site.files()[-1].header.license_id == a_license().license_id
    require_sound(site)


def test_shutdown_closes_the_window(site: Site) -> None:
    site.use(2)
    site.meter.close()
    assert site.pages_in_files() == 2
    assert site.files()[-1].header.reason == "shutdown"
    assert not site.licenses.lease_path.exists()
    site.crash()
    require_sound(site)


def test_shutdown_with_broken_output_counts_no_attempt(site: Site) -> None:
    site.break_output()
    site.meter.close()
    assert site.ledger.snapshot(READ_PAGES_METER).failed_cycles == 0
    site.mend_output()
    site.crash()
    assert len(site.files()) == 1


@pytest.mark.parametrize("step", ["seal", "write", "mark"])
def test_crash_between_the_steps_of_delivery(site: Site, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die after closing, after sealing, after writing: the next start ends with the same log, once."""
    site.use(5)
    name = {"seal": "seal_window", "write": "file_sha256_before", "mark": "mark_written"}[step]

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(site.ledger, name, die)
        with pytest.raises(KeyboardInterrupt):
            site.meter.cycle()
    site.crash()
    assert site.pages_in_files() == 5
    require_sound(site)


def test_file_written_again_after_an_upgrade_has_the_same_bytes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die after the rename and before the ledger knows; come back as another version."""
    site.use(1)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(site.ledger, "mark_written", die)
        with pytest.raises(KeyboardInterrupt):
            site.meter.cycle()
    monkeypatch.setattr("sidecar.metering.__version__", "9.9.9")
    site.crash()
    assert site.ledger.snapshot(READ_PAGES_METER).failed_cycles == 0
    assert site.ledger.pending_records() == []
    require_sound(site)


def test_lease_is_for_one_window_and_a_little_more(site: Site) -> None:
    lease = open_lease(site.licenses.lease_path.read_bytes(), site.device.verifying_key)
    lic = a_license()
    now_ms = site.clock.boottime_ns // 1_000_000

    def honoured(boottime_ms: int) -> bool:
        return (
            lease.refusal(
                boot_id=site.clock.boot_id, boottime_ms=boottime_ms, license_id=lic.license_id, sequence=lic.sequence
            )
            is None
        )

    assert honoured(now_ms)
    assert not honoured(now_ms + 961_000)
    assert lease.until_boottime_ms == site.meter.deadline_ns // 1_000_000 + 60_000


@pytest.mark.parametrize("end", ["found at work", "found at a start", "found after a reboot"])
def test_no_window_closes_before_the_logs_name_is_known(tmp_path: Path, end: str) -> None:
    """The first window names the log for good, and a vendor takes nothing of a log under another name."""
    site = Site(tmp_path, trust_root=tmp_path / "mounted-later.json")
    for _ in range(20):  # longer than any window may be open
        site.clock.pass_seconds(700)
        assert site.meter.cycle().failed_cycles == 0
    assert site.meter.deadline_ns > site.clock.boottime_ns
    assert site.meter.close().failure == ""
    site.crash()
    site.clock.pass_seconds(700)
    site.meter.cycle()
    assert site.ledger.window_count() == 0
    assert not list(site.settings.output_directory.rglob("*.jsonl"))
    for _ in range(20):
        site.clock.pass_seconds(700)
        site.meter.cycle()
    (tmp_path / "trust-root.json").rename(site.settings.trust_root)
    if end == "found at work":
        site.meter.watch_license()
        assert site.licenses.lease_path.exists()
    else:
        if end == "found after a reboot":
            site.clock.reboot()
        site.crash()
    for _ in range(2):
        site.use(2)
        site.clock.pass_seconds(700)
        assert site.meter.cycle().failed_cycles == 0
    require_sound(site)
    assert site.pages_in_files() == 4
    assert {file.header.origin for file in site.files()} == {f"vendor.example/{site.device.device_id}"}
    report = verify_records(
        site.settings.output_directory, site.vendor.trust_root, device_keys=[site.device.verifying_key]
    )
    assert report.verdict == Verdict.GOOD, report
    site.ledger.close()


def test_status_and_lease_that_could_not_be_written_are_made_up_for(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = MeterStatus.write

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(MeterStatus, "write", full)
    site.clock.pass_seconds(700)
    with pytest.raises(LedgerUnavailableError):
        site.meter.cycle()
    monkeypatch.setattr(MeterStatus, "write", write)
    site.clock.pass_seconds(10)
    site.meter.watch_output()
    lease = open_lease((site.settings.state_directory / "lease.dsse.json").read_bytes(), site.device.verifying_key)
    assert lease.until_boottime_ms >= site.meter.deadline_ns // 1_000_000
    status = MeterStatus.read(site.settings.state_directory)
    assert status is not None
    assert status.deadline_ns == site.meter.deadline_ns


def test_looking_at_a_well_output_writes_no_lease_anew(site: Site) -> None:
    path = site.settings.state_directory / "lease.dsse.json"
    before = path.stat().st_ino
    for _ in range(3):
        site.clock.pass_seconds(10)
        site.meter.watch_output()
    assert path.stat().st_ino == before


def test_licence_taken_away_takes_the_lease_and_is_noted(site: Site) -> None:
    kept = site.license_file.read_bytes()
    site.license_file.unlink()
    site.meter.watch_license()
    assert site.licenses.lease_path.exists(), "it may be that the file is being exchanged"
    site.clock.pass_seconds(1)
    site.meter.watch_license()
    assert not site.licenses.lease_path.exists()
    site.license_file.write_bytes(kept)
    site.meter.watch_license()
    assert site.licenses.lease_path.exists()
    size = site.ledger.snapshot(READ_PAGES_METER).size
    noted = [entry for entry in map(parse_entry, site.ledger.lines(0, size)) if entry["kind"] == "license"]
    assert [entry["in_force"] for entry in noted] == [True, False, True]


def test_a_longer_licence_is_taken_up(site: Site) -> None:
    later = a_license().expires_at + timedelta(days=365)
    renewed = a_license(sequence=2, expires_at=later, termination_at=later)
    (site.license_file.parent / "renewed.dat").write_bytes(site.vendor.seal(renewed))
    site.meter.watch_license()
    lease = open_lease(site.licenses.lease_path.read_bytes(), site.device.verifying_key)
    assert lease.license_sequence == 2


def test_tampered_frontier_is_mended_at_the_next_start(site: Site) -> None:
    site.use(3)
    site.meter.cycle()
    site.ledger._writer.execute("UPDATE frontier SET hash = zeroblob(32) WHERE level = 0")
    site.crash()
    (entry,) = entries(site, "quarantine")
    assert "frontier" in str(entry["cause"])
    site.meter.cycle()
    assert site.pages_in_files() == 3


# ---- the clock ------------------------------------------------------------------------------------------------------


def entries(site: Site, kind: str) -> list[dict[str, object]]:
    size = site.ledger.snapshot(READ_PAGES_METER).size
    return [dict(entry) for entry in map(parse_entry, site.ledger.lines(0, size)) if entry["kind"] == kind]


def test_quarantine_is_noted_and_ends_when_the_clock_is_corrected(site: Site) -> None:
    site.clock.step_wall(365 * 86400)
    site.meter.watch_clock()
    site.meter.watch_clock()
    assert site.ledger.now().quarantined
    assert site.licenses.lease_path.exists(), "a wrong year bricks nothing"
    site.clock.step_wall(-365 * 86400)
    site.meter.watch_clock()
    noted = entries(site, "quarantine")
    assert [entry["begins"] for entry in noted] == [True, False]
    assert noted[0]["ahead_ms"] == 365 * 86400 * 1000


def test_quarantine_ends_when_a_time_service_vouches(site: Site) -> None:
    site.clock.step_wall(30 * 86400)
    site.meter.watch_clock()
    site.clock.synchronised = True
    site.meter.watch_clock()
    now = site.ledger.now()
    assert (now.quarantined, now.ns) == (False, site.clock.wall_ns)
    assert [entry["action"] for entry in entries(site, "clock")] == ["synchronised"]


def test_signed_anchor_raises_time(site: Site) -> None:
    anchor = a_license().issued_at + timedelta(days=100)
    anchored = a_license(sequence=2, time_anchor=anchor)
    site.license_file.write_bytes(site.vendor.seal(anchored))
    site.clock.step_wall(-400 * 86400)
    site.meter.watch_clock()
    assert site.ledger.now().at == anchor
    site.meter.watch_clock()
    assert [entry["action"] for entry in entries(site, "clock")] == ["anchor"]


def test_operator_accepts_the_clock(site: Site) -> None:
    site.clock.step_wall(30 * 86400)
    site.ledger.adopt_time(site.clock.wall_ns, {"action": "accepted"})
    assert site.ledger.now().ns == site.clock.wall_ns
    assert not site.ledger.now().quarantined


def test_time_goes_down_with_a_token_once(site: Site) -> None:
    before = site.ledger.now().ns
    earlier = before - 100 * 86400 * 1_000_000_000
    site.clock.step_wall(-100 * 86400)
    with pytest.raises(LedgerConflictError, match="token"):
        site.ledger.adopt_time(earlier, {"action": "reset"})
    site.ledger.adopt_time(earlier, {"action": "reset"}, token_id="token-1")
    assert site.ledger.now().ns == earlier
    with pytest.raises(LedgerConflictError, match="used before"):
        site.ledger.adopt_time(earlier, {"action": "reset"}, token_id="token-1")
    assert len(entries(site, "clock")) == 1


def test_steps_are_noted(site: Site) -> None:
    site.meter.note_step(-3600.5)
    assert entries(site, "clock")[0]["by_ms"] == -3600500


def test_auditor_follows_every_kind_of_clock_trouble(site: Site) -> None:
    """Steps, a quarantine, an accepted jump and a reset with a token: the records verify, and the reset is told."""
    site.use(1)
    site.clock.step_wall(30 * 86400)
    site.meter.watch_clock()
    site.ledger.adopt_time(site.clock.wall_ns, {"action": "accepted"})
    site.meter.watch_clock()
    site.clock.pass_seconds(700)
    site.meter.cycle()
    site.clock.step_wall(-29 * 86400)
    site.meter.note_step(-29 * 86400)
    token = "0d7e1b0c-3f0e-4a33-9d8b-6c8f6f2f1a11"
    site.ledger.adopt_time(site.clock.wall_ns, {"action": "reset", "token_id": token}, token_id=token)
    site.use(2)
    site.clock.pass_seconds(700)
    site.meter.cycle()
    report = verify_records(
        site.settings.output_directory, site.vendor.trust_root, device_keys=[site.device.verifying_key]
    )
    assert report.verdict == Verdict.GOOD, report
    found = [finding.code for one in report.instances for finding in one.findings]
    assert sorted(found) == ["clock_entries", "clock_reset", "quarantine_entries"]


def test_an_older_licence_cannot_come_back(site: Site) -> None:
    """Sequence 2 with 5 pages replaced sequence 1 without a limit; putting the old file back gains nothing."""
    old = site.license_file.read_bytes()
    site.license_file.write_bytes(site.vendor.seal(a_license(sequence=2, page_limit=5)))
    site.meter.watch_license()
    site.license_file.unlink()
    site.meter.watch_license()
    site.clock.pass_seconds(1)
    site.meter.watch_license()
    site.license_file.write_bytes(old)
    site.meter.watch_license()
    assert not site.licenses.lease_path.exists()
    view = site.licenses.look(site.ledger.now().at, site.ledger.snapshot(READ_PAGES_METER))
    assert view.judgement is not None
    assert view.judgement.standing is Standing.SUPERSEDED
    site.crash()
    assert not site.licenses.lease_path.exists(), "not after a restart either"


def anchored(site: Site, **changes: object) -> None:
    site.license_file.write_bytes(site.vendor.seal(a_license(sequence=2, **changes)))
    site.meter.watch_license()
    site.meter.mint()


def test_licence_that_continues_this_ledger_serves(site: Site) -> None:
    site.use(3)
    site.meter.cycle()
    size, root = site.ledger.last_seal() or (0, b"")
    origin = site.files()[0].header.origin
    anchored(site, ledger_anchor=LedgerAnchor(origin=origin, size=size, root=root))
    assert site.licenses.lease_path.exists()
    anchored(site, ledger_anchor=LedgerAnchor(origin=origin, size=2, root=site.ledger.root_at(2)))
    assert site.licenses.lease_path.exists()


@pytest.mark.parametrize("wrong", ["root", "size", "origin"])
def test_licence_that_continues_another_ledger_suspends(site: Site, wrong: str) -> None:
    """A restored older copy, a fork, another device: the vendor's checkpoint tells."""
    site.use(3)
    site.meter.cycle()
    size, root = site.ledger.last_seal() or (0, b"")
    origin = site.files()[0].header.origin
    anchor = {
        "root": LedgerAnchor(origin=origin, size=size, root=bytes(32)),
        "size": LedgerAnchor(origin=origin, size=size + 100, root=root),
        "origin": LedgerAnchor(origin="vendor.example/0000000000000000", size=size, root=root),
    }[wrong]
    anchored(site, ledger_anchor=anchor)
    assert not site.licenses.lease_path.exists()


def test_too_much_unacknowledged_use_suspends_until_the_vendor_has_seen_it(site: Site) -> None:
    site.use(9)
    anchored(site, reporting=Reporting(max_unacked_units=10))
    assert site.licenses.lease_path.exists()
    site.use(1)
    site.meter.cycle()
    assert not site.licenses.lease_path.exists()
    size, root = site.ledger.last_seal() or (0, b"")
    seen = LedgerAnchor(origin=site.files()[0].header.origin, size=size, root=root)
    site.license_file.write_bytes(
        site.vendor.seal(a_license(sequence=3, reporting=Reporting(max_unacked_units=10), ledger_anchor=seen))
    )
    site.meter.watch_license()
    assert site.licenses.lease_path.exists()
    site.use(9)
    assert site.ledger.used_after(size, READ_PAGES_METER)[0] == 9


def test_use_that_stays_unacknowledged_for_too_long_suspends(site: Site) -> None:
    site.use(1)
    anchored(site, reporting=Reporting(max_unacked_days=30))
    site.clock.pass_seconds(29 * 86400)
    site.meter.cycle()
    assert site.licenses.lease_path.exists()
    site.clock.pass_seconds(86400)
    site.meter.cycle()
    assert not site.licenses.lease_path.exists()


def test_output_that_vanishes_between_windows_is_told_before_the_window_closes(site: Site) -> None:
    def told() -> str:
        status = MeterStatus.read(site.settings.state_directory)
        assert status is not None
        return status.output_problem

    site.meter.watch_output()
    assert told() == ""
    site.break_output()
    site.meter.watch_output()
    assert str(site.settings.output_directory) in told()
    assert site.ledger.snapshot(READ_PAGES_METER).failed_cycles == 0
    site.mend_output()
    site.meter.watch_output()
    assert told() == ""


def test_exchange_of_licences_never_lengthens_the_open_window(site: Site) -> None:
    """From production to evaluation and back, again and again: the deadline only comes nearer."""
    deadline = site.meter.deadline_ns
    for sequence in range(2, 12):
        site.clock.pass_seconds(30)
        site.license_file.write_bytes(site.vendor.seal(a_license(sequence=sequence, evaluation=sequence % 2 == 0)))
        site.meter.watch_license()
        assert site.meter.deadline_ns <= deadline
        deadline = site.meter.deadline_ns
