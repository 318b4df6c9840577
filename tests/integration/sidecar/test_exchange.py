"""The exchange with a real ledger, meter and files: out, acknowledged, back; and all that must be refused."""

import errno
import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from licenses import issue
from licenses.ack import open_ack
from licenses.authority.cosigner import Acknowledged, Cosigner, Enclosures, KnownAcks
from licenses.device_key import DeviceKey
from licenses.errors import ForkError
from licenses.issue import Issuer
from licenses.keys import SigningKey
from licenses.model import READ_PAGES_METER, Reporting, Revoked
from licenses.strict_json import loads
from licenses.usage_log.bundle import check_proof, proof_name, unpack_bundle
from licenses.usage_log.fork import ForkKind, verify_fork
from licenses.usage_log.note import Checkpoint, open_checkpoint
from licenses.usage_log.report import Coverage, Verdict
from licenses.usage_log.statement import open_statement
from licenses.usage_log.verify import verify_records
from sidecar import exchange as exchange_module
from sidecar.errors import (
    AckRefusedError,
    LedgerForkError,
    LedgerUnavailableError,
    NothingToExportError,
    OutputUnwritableError,
)
from sidecar.exchange import Exchange, Exported, Imported, export_usage, make_statement
from sidecar.ledger import LedgerReader
from tests.fakes.licences import FakeVendor, a_license, a_vendor
from tests.integration.sidecar.test_metering import Site

DAY = 86_400.0


class Trade:
    """One appliance and its vendor."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.site = Site(folder, **settings)
        self.known = KnownAcks(folder / "known")
        self.out = folder / "out"

    # ---- at the appliance -------------------------------------------------------------------------------------------

    def window(self, pages: int = 0, seconds: float = 700) -> None:
        if pages:
            self.site.use(pages)
        self.site.clock.pass_seconds(seconds)
        self.site.meter.cycle()

    def export(self, **options: object) -> Exported:
        reader = LedgerReader(self.site.ledger.path, clock=self.site.clock)
        try:
            return export_usage(
                reader,
                self.site.device,
                self.out,
                state_directory=self.site.settings.state_directory,
                **options,  # type: ignore[arg-type]
            )
        finally:
            reader.close()

    def apply(self, blob: bytes) -> Imported:
        return Exchange(
            ledger=self.site.ledger,
            licenses=self.site.licenses,
            output=self.site.output,
            state_directory=self.site.settings.state_directory,
            license_directory=self.site.settings.license_directory,
        ).import_ack(blob, proof_folder=self.folder / "proof")

    # ---- at the vendor ----------------------------------------------------------------------------------------------

    def acknowledge(self, done: Exported, vendor: FakeVendor | None = None, **enclosures: object) -> Acknowledged:
        vendor = vendor or self.site.vendor
        cosigner = Cosigner(
            device=self.site.device.verifying_key,
            trust_root=vendor.trust_root,
            key=vendor.keys.ack_key,
            known=self.known,
        )
        at = self.site.ledger.now().at.replace(microsecond=0)
        return cosigner.acknowledge(done.path, at=at, enclosures=Enclosures(**{"anchor": False, **enclosures}))  # type: ignore[arg-type]

    def round_trip(self, **enclosures: object) -> Imported:
        return self.apply(self.acknowledge(self.export(), **enclosures).blob)

    # ---- what is there ----------------------------------------------------------------------------------------------

    def entries(self, kind: str) -> list[dict[str, object]]:
        size = self.site.ledger.snapshot(READ_PAGES_METER).size
        return [entry for entry in map(json.loads, self.site.ledger.lines(0, size)) if entry["kind"] == kind]

    def verify(self, folder: Path | None = None):
        return verify_records(
            folder or self.site.settings.output_directory,
            self.site.vendor.trust_root,
            device_keys=[self.site.device.verifying_key],
        )

    def state_copy(self, name: str) -> Path:
        """A copy of the state directory, as a backup or a disk image would hold it."""
        self.site.ledger.close()
        copy = self.folder / name
        shutil.copytree(self.site.settings.state_directory, copy)
        self.site.start()
        return copy

    def restore(self, copy: Path) -> None:
        """Put an old copy of the state directory in the place of the new one."""
        self.site.ledger.close()
        shutil.rmtree(self.site.settings.state_directory)
        shutil.copytree(copy, self.site.settings.state_directory)
        shutil.rmtree(self.site.settings.output_directory)
        self.site.settings.output_directory.mkdir()
        self.site.start()


@pytest.fixture
def trade(tmp_path: Path) -> Iterator[Trade]:
    trade = Trade(tmp_path)
    yield trade
    trade.site.ledger.close()


# ---- the round trip -------------------------------------------------------------------------------------------------


def test_round_trip(trade: Trade) -> None:
    trade.window(3)
    trade.window(2)
    trade.site.use(4)
    done = trade.export()
    assert (done.meters, done.open_units, done.windows, done.windows_left) == ({READ_PAGES_METER: 5}, 4, 2, 0)
    assert (done.bytes, done.path.parent) == (done.path.stat().st_size, trade.out)
    acked = trade.acknowledge(done)
    assert acked.billed == {READ_PAGES_METER: 5}
    imported = trade.apply(acked.blob)
    assert (imported.repeated, imported.unacked_units, imported.warnings) == (False, 4, [])
    row = trade.site.ledger.acked()
    assert row is not None
    assert (row.size, row.root, row.cosigned) == (done.span.size, done.span.root, acked.ack.checkpoint)
    (entry,) = trade.entries("ack")
    assert (entry["size"], entry["root"]) == (done.span.size, done.span.root.hex())
    assert imported.ack_file is not None
    assert imported.ack_file.read_bytes() == acked.blob


def test_next_export_begins_after_the_acknowledgement(trade: Trade, tmp_path: Path) -> None:
    trade.window(3)
    first = trade.acknowledge(trade.export())
    trade.apply(first.blob)
    with pytest.raises(NothingToExportError, match="nothing new"):
        trade.export()
    trade.window(2)
    trade.window()
    done = trade.export()
    assert (done.span.since, done.meters) == (first.ack.size, {READ_PAGES_METER: 2})
    manifest = unpack_bundle(done.path, tmp_path / "unpacked", device_keys=[trade.site.device.verifying_key])
    proof = (tmp_path / "unpacked" / proof_name(done.span)).read_bytes()
    check_proof(proof, manifest.span, Checkpoint(first.ack.origin, first.ack.size, first.ack.root))
    folder = tmp_path / "unpacked" / done.span.folder
    assert (folder / "acks" / f"{first.ack.size}.dsse.json").read_bytes() == first.blob
    note = (folder / "checkpoints" / str(first.ack.size)).read_text()
    assert open_checkpoint(note, {done.span.origin: trade.site.device.verifying_key}).root == first.ack.root
    second = trade.acknowledge(done)
    assert (second.billed, second.billed_from) == ({READ_PAGES_METER: 2}, first.ack.size)
    assert trade.apply(second.blob).ack.totals == {READ_PAGES_METER: 5}


def test_vendor_without_memory_goes_on_from_the_ack_in_the_bundle(trade: Trade) -> None:
    trade.window(3)
    first = trade.acknowledge(trade.export())
    trade.apply(first.blob)
    trade.window(2)
    trade.known = KnownAcks(None)
    second = trade.acknowledge(trade.export())
    assert (second.billed, second.ack.totals) == ({READ_PAGES_METER: 2}, {READ_PAGES_METER: 5})


def test_records_in_the_bundle_are_those_on_the_mount(trade: Trade, tmp_path: Path) -> None:
    trade.window(3)
    trade.window(1)
    done = trade.export()
    unpack_bundle(done.path, tmp_path / "unpacked")
    for path in trade.site.output.folder.rglob("usage/*/*/*.jsonl"):
        copy = tmp_path / "unpacked" / done.span.folder / path.relative_to(trade.site.output.folder)
        assert copy.read_bytes() == path.read_bytes()
    report = trade.verify(tmp_path / "unpacked")
    assert report.verdict is Verdict.GOOD


def test_verifier_finds_the_acknowledgement_beside_the_records(trade: Trade) -> None:
    trade.window(3)
    imported = trade.round_trip()
    trade.window(2)
    report = trade.verify()
    assert report.verdict is Verdict.GOOD
    ranges = {(one.first, one.end): one.coverage for one in report.instances[0].ranges}
    assert ranges[(0, imported.ack.size)] is Coverage.ACKED


def test_totals_tell_each_month(trade: Trade, tmp_path: Path) -> None:
    trade.window(3)  # 15 January 2027
    trade.window(4, seconds=20 * DAY)  # open from January to February
    trade.window(5)
    done = trade.export()
    unpack_bundle(done.path, tmp_path / "unpacked")
    totals = loads((tmp_path / "unpacked" / "totals.json").read_bytes())
    assert isinstance(totals, dict)
    meter = lambda quantity: [{"name": READ_PAGES_METER, "quantity": quantity}]  # noqa: E731
    assert totals["meters"] == meter(12)
    assert totals["months"] == [
        {"month": "2027-01", "meters": meter(7)},
        {"month": "2027-02", "meters": meter(5)},
    ]


# ---- the same bytes -------------------------------------------------------------------------------------------------


def test_same_state_gives_the_same_bytes(trade: Trade) -> None:
    trade.window(3)
    trade.round_trip()
    trade.window(2)
    first = trade.export()
    blob = first.path.read_bytes()
    first.path.unlink()
    trade.site.use(7)  # what is not sealed does not matter
    assert trade.export().path.read_bytes() == blob


def test_bytes_do_not_depend_on_the_output_mount(trade: Trade) -> None:
    trade.window(3)
    trade.window(2)
    blob = trade.export().path.read_bytes()
    shutil.rmtree(trade.site.output.folder)
    assert trade.export().path.read_bytes() == blob


def test_windows_that_wait_for_the_mount_go_out_as_they_will_be_written(trade: Trade, tmp_path: Path) -> None:
    trade.window(1)
    in_the_way = trade.site.files()[0].path.parent / ".incoming"  # the name of a record file while it is written
    in_the_way.mkdir()
    for pages in (2, 3, 4):
        trade.window(pages)
    assert trade.site.ledger.snapshot(READ_PAGES_METER).pending_files == 3
    early = trade.export()
    assert early.meters == {READ_PAGES_METER: 10}
    blob = early.path.read_bytes()
    in_the_way.rmdir()
    trade.window()
    unpack_bundle(early.path, tmp_path / "unpacked", device_keys=[trade.site.device.verifying_key])
    for copy in (tmp_path / "unpacked" / early.span.folder).rglob("usage/*/*/*.jsonl"):
        assert copy.read_bytes() == (trade.site.output.folder / copy.relative_to(copy.parents[3])).read_bytes()
    assert trade.verify(tmp_path / "unpacked").verdict is Verdict.GOOD
    trade.window(1)
    assert trade.export(since=0).path != early.path
    assert early.path.read_bytes() == blob


def test_export_while_pages_are_counted(trade: Trade) -> None:
    trade.window(3)
    blob = trade.export().path.read_bytes()
    stop = threading.Event()

    def count() -> None:
        while not stop.is_set():
            trade.site.use(1)

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            assert trade.export().path.read_bytes() == blob
            assert make_statement(trade.site.ledger).total == 3
    finally:
        stop.set()
        for thread in threads:
            thread.join()


# ---- from where -----------------------------------------------------------------------------------------------------


def test_empty_ledger_is_told(trade: Trade) -> None:
    with pytest.raises(NothingToExportError, match="no window has closed yet"):
        trade.export()
    with pytest.raises(NothingToExportError):
        make_statement(trade.site.ledger)
    assert not trade.out.exists()


def test_since_and_all(trade: Trade) -> None:
    trade.window(3)
    size = trade.export().span.size
    trade.window(2)
    assert trade.export(since=size).meters == {READ_PAGES_METER: 2}
    trade.apply(trade.acknowledge(trade.export()).blob)
    assert trade.export(since=0).meters == {READ_PAGES_METER: 5}
    with pytest.raises(NothingToExportError, match=f"no window ends at entry {size - 1}") as caught:
        trade.export(since=size - 1)
    assert caught.value.next_step == "give --since 0, or --all"


def test_acknowledgement_within_a_window_goes_out_from_the_windows_begin(trade: Trade) -> None:
    trade.window(3)
    size = trade.export().span.size
    trade.window(5)
    trade.site.ledger.note_ack(size + 2, "", {"size": size + 2})
    assert trade.export().span.since == size


def test_more_windows_than_fit_go_out_one_after_the_other(trade: Trade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "MAX_WINDOWS", 2)
    for pages in (1, 2, 3):
        trade.window(pages)
    done = trade.export()
    assert (done.meters, done.windows, done.windows_left) == ({READ_PAGES_METER: 3}, 2, 1)
    trade.apply(trade.acknowledge(done).blob)
    assert trade.export().meters == {READ_PAGES_METER: 3}


def test_ledger_of_another_device_is_not_signed_for(trade: Trade, tmp_path: Path) -> None:
    trade.window(1)
    (tmp_path / "other").mkdir()
    other = DeviceKey.load_or_create(tmp_path / "other")
    with pytest.raises(LedgerUnavailableError, match="the device key is of the device"):
        export_usage(trade.site.ledger, other, trade.out, state_directory=tmp_path)


def test_disk_full_leaves_nothing_half_written(trade: Trade, monkeypatch: pytest.MonkeyPatch) -> None:
    trade.window(3)
    trade.out.mkdir()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputUnwritableError, match="ENOSPC") as caught:
        trade.export()
    assert "free space" in caught.value.next_step
    assert not list(trade.out.iterdir())


def test_really_full_disk(trade: Trade) -> None:
    trade.window(3)
    trade.out = Path("/dev/full")
    with pytest.raises(OutputUnwritableError):
        trade.export()


# ---- back -----------------------------------------------------------------------------------------------------------


def test_applied_twice_is_harmless_and_says_so(trade: Trade) -> None:
    trade.window(3)
    blob = trade.acknowledge(trade.export()).blob
    assert not trade.apply(blob).repeated
    size = trade.site.ledger.snapshot(READ_PAGES_METER).size
    again = trade.apply(blob)
    assert (again.repeated, again.warnings) == (True, [])
    assert trade.site.ledger.snapshot(READ_PAGES_METER).size == size
    assert len(trade.entries("ack")) == 1


def test_older_acknowledgement_is_refused_by_name(trade: Trade) -> None:
    trade.window(3)
    old = trade.acknowledge(trade.export()).blob
    trade.window(1)
    trade.apply(trade.acknowledge(trade.export()).blob)
    with pytest.raises(AckRefusedError, match="older"):
        trade.apply(old)
    assert len(trade.entries("ack")) == 1
    assert not trade.entries("fault")


def test_acknowledgement_of_entries_lost_with_the_ledger_is_refused_by_name(trade: Trade) -> None:
    """Ledger and records are gone, and the log goes on from its kept seal: what lies before cannot be compared."""
    trade.window(3)
    old = trade.acknowledge(trade.export()).blob
    trade.window(1)
    trade.site.ledger.close()
    for path in trade.site.settings.state_directory.glob("ledger.db*"):
        path.unlink()
    shutil.rmtree(trade.site.output.folder)
    trade.site.start()
    size = trade.site.ledger.snapshot(READ_PAGES_METER).size
    with pytest.raises(AckRefusedError, match="lost with the ledger"):
        trade.apply(old)
    assert trade.site.ledger.snapshot(READ_PAGES_METER).size == size


def test_forged_acknowledgements_are_refused(trade: Trade) -> None:
    trade.window(3)
    done = trade.export()
    blob = trade.acknowledge(done).blob
    flipped = blob.replace(b'"payload":"', b'"payload":"A', 1)
    for forged in (flipped, blob[:-40], b"", trade.site.vendor.seal()):
        with pytest.raises(AckRefusedError):
            trade.apply(forged)
    trade.known = KnownAcks(None)
    with pytest.raises(AckRefusedError, match="which the trust root does not know"):
        trade.apply(trade.acknowledge(done, a_vendor()).blob)
    assert trade.site.ledger.acked() is None
    assert not trade.entries("fault")


def test_acknowledgement_of_another_device_is_refused(trade: Trade, tmp_path: Path) -> None:
    trade.window(3)
    (tmp_path / "other").mkdir()
    other = Trade(tmp_path / "other")
    other.site.vendor = trade.site.vendor
    other.window(3)
    with pytest.raises(AckRefusedError, match="not of the device"):
        trade.apply(other.acknowledge(other.export()).blob)
    other.site.ledger.close()


def test_evaluation_key_acknowledges_nothing_of_production(trade: Trade) -> None:
    trade.window(3)
    keys = trade.site.vendor.keys
    trial = SigningKey.generate("ack", evaluation=True)
    root = replace(keys.trust_root, version=2, ack_keys={**keys.trust_root.ack_keys, trial.key_id: trial.verifying})
    trade.site.settings.trust_root.write_bytes(root.seal(keys.root_keys))
    vendor = FakeVendor(replace(keys, trust_root=root, ack_key=trial))
    acked = trade.acknowledge(trade.export(), vendor)
    assert acked.ack.evaluation
    with pytest.raises(AckRefusedError, match="evaluation key"):
        trade.apply(acked.blob)
    assert trade.site.ledger.acked() is None


def test_missing_trust_root_is_named(trade: Trade) -> None:
    trade.window(3)
    blob = trade.acknowledge(trade.export()).blob
    trade.site.settings.trust_root.unlink()
    trade.site.crash()
    with pytest.raises(AckRefusedError, match="trust root"):
        trade.apply(blob)


def test_unacknowledged_use_is_counted_from_the_acknowledgement(tmp_path: Path) -> None:
    trade = Trade(tmp_path)
    trade.site.license_file.write_bytes(
        trade.site.vendor.seal(a_license(sequence=2, reporting=Reporting(max_unacked_units=5)))
    )
    trade.site.meter.watch_license()
    trade.window(5)
    assert not trade.site.settings.state_directory.joinpath("lease.dsse.json").exists()
    trade.round_trip()
    trade.site.meter.watch_license()
    trade.site.meter.mint()
    assert trade.site.settings.state_directory.joinpath("lease.dsse.json").exists()
    trade.site.ledger.close()


def test_output_that_cannot_be_written_is_a_warning(trade: Trade) -> None:
    trade.window(3)
    blob = trade.acknowledge(trade.export()).blob
    trade.site.break_output()
    done = trade.apply(blob)
    assert done.ack_file is None
    assert "could not be put beside the records" in done.warnings[0]
    assert trade.site.ledger.acked() is not None
    trade.site.mend_output()
    again = trade.apply(blob)
    assert again.ack_file is not None
    assert again.ack_file.exists()


# ---- what comes along -----------------------------------------------------------------------------------------------


def test_next_licence_is_put_in_place_beside_the_one_in_force(trade: Trade) -> None:
    trade.window(3)
    before = trade.site.license_file.read_bytes()
    renewal = trade.site.vendor.seal(a_license(sequence=2))
    done = trade.round_trip(license=renewal)
    assert done.license_file == trade.site.license_file.parent / f"{a_license().license_id}-2.dat"
    assert done.license_file.read_bytes() == renewal
    assert trade.site.license_file.read_bytes() == before
    view = trade.site.licenses.look(trade.site.ledger.now().at)
    assert (view.license.sequence if view.license else 0, view.serves) == (2, True)
    assert trade.apply(trade.acknowledge(trade.export(since=0)).blob).license_file == done.license_file


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_licence_folder_without_permission_is_told(trade: Trade) -> None:
    _require_set_aside(trade, lambda folder: folder.chmod(0o500))


def test_licence_folder_on_a_read_only_mount_is_told(trade: Trade, monkeypatch: pytest.MonkeyPatch) -> None:
    real = exchange_module.write_file

    def read_only(path: Path, *rest: object, **options: object) -> str:
        if path.parent == trade.site.settings.license_directory:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, *rest, **options)  # type: ignore[arg-type]

    _require_set_aside(trade, lambda _: monkeypatch.setattr(exchange_module, "write_file", read_only))


def _require_set_aside(trade: Trade, close) -> None:
    trade.window(3)
    renewal = trade.site.vendor.seal(a_license(sequence=2))
    close(trade.site.settings.license_directory)
    done = trade.round_trip(license=renewal)
    aside = trade.site.settings.state_directory / f"{a_license().license_id}-2.dat"
    assert aside.read_bytes() == renewal
    assert done.license_file is None
    assert done.copy_command == f"cp {aside} {trade.site.settings.license_directory}/"
    assert "cannot be written" in done.license_problem
    assert trade.site.ledger.acked() is not None


def test_expired_licence_is_not_put_in_place_and_the_acknowledgement_counts(trade: Trade) -> None:
    trade.window(3)
    lic = a_license(sequence=2)
    short = replace(
        lic, expires_at=lic.not_before + timedelta(days=30), termination_at=lic.not_before + timedelta(days=30)
    )
    blob = trade.acknowledge(trade.export(), license=trade.site.vendor.seal(short)).blob
    trade.window(seconds=40 * DAY)
    done = trade.apply(blob)
    assert "of no use here" in done.license_problem
    assert "expired" in done.license_problem
    assert done.license_file is None
    assert len(list(trade.site.license_file.parent.iterdir())) == 1
    assert trade.site.ledger.acked() is not None


def test_forged_licence_inside_is_not_put_in_place(trade: Trade) -> None:
    trade.window(3)
    stranger = a_vendor().seal(a_license(sequence=9))
    authority_ack = trade.acknowledge(trade.export()).ack
    forged = replace(authority_ack, license=stranger).seal(trade.site.vendor.keys.ack_key)
    done = trade.apply(forged)
    assert "not good" in done.license_problem
    assert len(list(trade.site.license_file.parent.iterdir())) == 1


def test_superseded_licence_is_not_put_in_place(trade: Trade) -> None:
    trade.site.license_file.write_bytes(trade.site.vendor.seal(a_license(sequence=5)))
    trade.site.meter.watch_license()
    trade.window(3)
    done = trade.round_trip(license=trade.site.vendor.seal(a_license(sequence=4)))
    assert "older than 5" in done.license_problem


def test_revocation_is_obeyed_at_once(trade: Trade) -> None:
    trade.window(3)
    vendor = trade.site.vendor
    revoked = Revoked(sequence=1, license_ids=(a_license().license_id,))
    issuer = Issuer(trust_root=vendor.trust_root, issuing_key=vendor.issuing_key, revoked=revoked)
    revocation = issue.seal_revocation(issuer, at=trade.site.ledger.now().at.replace(microsecond=0))
    assert trade.site.licenses.look(trade.site.ledger.now().at).serves
    done = trade.round_trip(revocation=revocation)
    assert (done.revocation, done.warnings) == (1, [])
    assert not trade.site.licenses.look(trade.site.ledger.now().at).serves
    trade.window()
    assert trade.round_trip(revocation=revocation).revocation == 0


def test_time_is_raised_by_the_vendors_word_and_never_lowered(trade: Trade) -> None:
    trade.window(3)
    done = trade.export()
    trade.site.clock.pass_seconds(3600)
    acked = trade.acknowledge(done, anchor=True)
    trade.site.clock.step_wall(-5 * DAY)
    before = trade.site.ledger.now().at
    assert trade.apply(acked.blob).time_before is None
    assert trade.site.ledger.now().at >= before
    later = acked.ack.acknowledged_at + timedelta(hours=5)
    trade.known = KnownAcks(None)
    cosigner = Cosigner(
        device=trade.site.device.verifying_key,
        trust_root=trade.site.vendor.trust_root,
        key=trade.site.vendor.keys.ack_key,
        known=trade.known,
    )
    blob = cosigner.acknowledge(done.path, at=later, enclosures=Enclosures()).blob
    raised = trade.apply(blob)
    assert raised.time_before is not None
    assert trade.site.ledger.now().at == later
    assert trade.entries("clock")[-1]["action"] == "anchor"


# ---- two histories --------------------------------------------------------------------------------------------------


def _require_proven(trade: Trade, blob: bytes, kind: ForkKind) -> LedgerForkError:
    with pytest.raises(LedgerForkError) as caught:
        trade.apply(blob)
    assert caught.value.proof is not None
    assert caught.value.proof.parent == trade.folder / "proof"
    assert verify_fork(caught.value.proof.read_bytes(), trade.site.device.verifying_key).kind is kind
    fault = trade.entries("fault")[-1]
    assert fault["code"] == "ledger_fork"
    assert trade.site.ledger.acked() is None
    return caught.value


def test_ledger_that_was_rolled_back_is_told_and_proven(trade: Trade) -> None:
    trade.window(1)
    image = trade.state_copy("image")
    trade.window(8)
    blob = trade.acknowledge(trade.export(since=0)).blob
    trade.restore(image)
    refused = _require_proven(trade, blob, ForkKind.ROLLED_BACK)
    assert "restored from an older copy" in str(refused)
    assert open_ack(blob, trade.site.vendor.trust_root).size in {
        entry["acked_size"] for entry in trade.entries("fault")
    }


def test_ledger_that_was_rolled_back_and_used_on_is_told_and_proven(trade: Trade) -> None:
    trade.window(1)
    image = trade.state_copy("image")
    trade.window(2)
    blob = trade.acknowledge(trade.export(since=0)).blob
    trade.restore(image)
    for pages in (5, 6):
        trade.window(pages)
    _require_proven(trade, blob, ForkKind.OTHER_PAST)


def test_clone_of_the_same_size_is_told_and_proven(trade: Trade) -> None:
    trade.window(1)
    image = trade.state_copy("image")
    trade.window(2)
    acked = trade.acknowledge(trade.export(since=0))
    trade.restore(image)
    trade.window(0)
    size = trade.site.ledger.last_seal()
    assert size is not None
    missing = acked.ack.size - size[0]
    assert missing > 0
    trade.site.use(missing - 1)
    trade.window()
    _require_proven(trade, acked.blob, ForkKind.SAME_SIZE)


def test_vendor_finds_the_same_fork(trade: Trade) -> None:
    trade.window(1)
    image = trade.state_copy("image")
    trade.window(2)
    trade.acknowledge(trade.export(since=0))
    trade.restore(image)
    for pages in (5, 6):
        trade.window(pages)
    with pytest.raises(ForkError) as caught:
        trade.acknowledge(trade.export(since=0))
    assert caught.value.proof is not None
    assert verify_fork(caught.value.proof, trade.site.device.verifying_key).kind is ForkKind.OTHER_PAST


def test_fork_without_the_device_key_is_refused_all_the_same(trade: Trade) -> None:
    trade.window(1)
    image = trade.state_copy("image")
    trade.window(8)
    blob = trade.acknowledge(trade.export(since=0)).blob
    trade.restore(image)
    (trade.site.settings.state_directory / "device.key").unlink()
    with pytest.raises(LedgerForkError) as caught:
        trade.apply(blob)
    assert caught.value.proof is None
    assert "There is no proof file" in caught.value.next_step
    assert trade.entries("fault")[-1]["code"] == "ledger_fork"


# ---- the statement --------------------------------------------------------------------------------------------------


def test_statement_tells_sealed_pages_per_month(trade: Trade) -> None:
    trade.window(3)
    trade.window(4, seconds=20 * DAY)
    trade.window(5)
    trade.site.use(9)
    statement = make_statement(trade.site.ledger)
    assert statement.months == {"2027-01": 7, "2027-02": 5}
    note = statement.sign(trade.site.device.signing_key)
    read = open_statement(note, trade.site.device.verifying_key)
    assert (read.total, read.checkpoint.size, read.evaluation) == (12, trade.export().span.size, False)
