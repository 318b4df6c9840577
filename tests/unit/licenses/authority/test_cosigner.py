"""The vendor's judgement of bundles: verify, compare with what is known, cosign; and never two histories."""

import dataclasses
import os
import shutil
import threading
from datetime import timedelta

import pytest

from licenses import issue, rotation
from licenses.ack import Ack, open_ack
from licenses.authority.cosigner import Cosigner, Enclosures, KnownAcks, load_ack_key
from licenses.errors import (
    BadSignatureError,
    ExchangeError,
    ForkError,
    IssueError,
    KeyFileError,
    LicensesError,
    RecordError,
    UntrustedKeyError,
)
from licenses.keys import SigningKey
from licenses.model import READ_PAGES_METER, LedgerAnchor
from licenses.revocation import open_revocation
from licenses.usage_log.entry import leaf_hash
from licenses.usage_log.fork import ForkKind, verify_fork
from licenses.usage_log.merkle import root_of
from licenses.usage_log.note import cosign, open_checkpoint, sign_checkpoint
from tests.fakes.bundles import a_bundle
from tests.fakes.licences import NOW, a_license, a_vendor
from tests.fakes.records import FakeMeter

DAY = timedelta(days=1)
LATER = NOW + 30 * DAY


class Exchange:
    """A vendor, a device, and the folder in which bundles and acknowledgements travel."""

    def __init__(self, folder, *, vendor=None, remembers: bool = True) -> None:
        self.folder = folder
        self.vendor = vendor or a_vendor()
        self.meter = FakeMeter(folder / "output", vendor=self.vendor.trust_root.vendor)
        self.known = KnownAcks(folder / "known" if remembers else None)
        self.enrolled_at: LedgerAnchor | None = None

    @property
    def device(self):
        return self.meter.device.verifying

    def bundle(self, since: int = 0, meter: FakeMeter | None = None, **options):
        return a_bundle(meter or self.meter, self.folder, since, **options)

    def acknowledge(self, path, *, at=LATER, vendor=None, **enclosures):
        vendor = vendor or self.vendor
        cosigner = Cosigner(
            device=self.device,
            trust_root=vendor.trust_root,
            key=vendor.keys.ack_key,
            known=self.known,
            enrolled_at=self.enrolled_at,
        )
        return cosigner.acknowledge(path, at=at, enclosures=Enclosures(**enclosures))

    def copy_of_device(self) -> FakeMeter:
        """The device as it is now, to go on elsewhere."""
        clone = FakeMeter.__new__(FakeMeter)
        state = {name: (list(value) if isinstance(value, list) else value) for name, value in vars(self.meter).items()}
        clone.__dict__.update(state)
        clone.frontier = type(self.meter.frontier)(*self.meter.frontier.to_tuple())
        clone.folder = self.folder / "clone" / "computervisionread" / self.meter.instance
        shutil.copytree(self.meter.folder, clone.folder)
        clone.files = [clone.folder / path.relative_to(self.meter.folder) for path in self.meter.files]
        return clone


@pytest.fixture
def exchange(tmp_path):
    exchange = Exchange(tmp_path)
    exchange.meter.window(uses=3)
    exchange.meter.window(uses=2)
    return exchange


def _root(meter: FakeMeter, size: int) -> bytes:
    return root_of(map(leaf_hash, meter.lines[:size]))


# ---- the honest way -------------------------------------------------------------------------------------------------


def test_first_bundle_is_acknowledged(exchange):
    done = exchange.acknowledge(exchange.bundle())
    ack = open_ack(done.blob, exchange.vendor.trust_root, device=exchange.device)
    assert ack == done.ack
    assert (ack.size, ack.root) == (exchange.meter.size, _root(exchange.meter, exchange.meter.size))
    assert (ack.totals, done.billed, done.billed_from) == ({READ_PAGES_METER: 5}, {READ_PAGES_METER: 5}, 0)
    assert (ack.time_anchor, ack.license, done.repeated) == (LATER, None, False)
    assert (exchange.folder / "known" / ack.file_name).read_bytes() == done.blob


@pytest.mark.parametrize("whole", [True, False], ids=["all_of_it", "since_the_last"])
@pytest.mark.parametrize("remembers", [True, False], ids=["known", "forgetful"])
def test_next_bundle_bills_what_is_new(tmp_path, whole, remembers):
    exchange = Exchange(tmp_path, remembers=remembers)
    exchange.meter.window(uses=3)
    first = exchange.acknowledge(exchange.bundle())
    exchange.meter.window(uses=4)
    exchange.meter.window()
    since = 0 if whole else first.ack.size
    done = exchange.acknowledge(exchange.bundle(since, acks={first.ack.size: first.blob} if since else None))
    new, begins = (7, 0) if whole and not remembers else (4, first.ack.size)
    assert (done.billed, done.billed_from) == ({READ_PAGES_METER: new}, begins)
    assert done.ack.totals == {READ_PAGES_METER: 7}


def test_same_bundle_again_gives_the_same_file_and_bills_nothing(exchange):
    path = exchange.bundle()
    first, again = exchange.acknowledge(path), exchange.acknowledge(path, at=LATER + DAY)
    assert (again.blob, again.repeated, again.billed) == (first.blob, True, {})
    exchange.meter.window(uses=1)
    exchange.acknowledge(exchange.bundle(first.ack.size))
    assert exchange.acknowledge(path, at=LATER + 2 * DAY).blob == first.blob


def test_acknowledged_bundle_goes_out_again_with_a_licence(exchange):
    path, licence = exchange.bundle(), exchange.vendor.seal()
    first = exchange.acknowledge(path)
    again = exchange.acknowledge(path, at=LATER + DAY, license=licence)
    assert (again.ack.license, again.repeated, again.billed) == (licence, True, {})
    assert (again.ack.size, again.ack.totals) == (first.ack.size, first.ack.totals)
    assert exchange.acknowledge(path).blob == again.blob


def test_licence_revocation_and_anchor_go_along(exchange):
    vendor, lines = exchange.vendor, exchange.meter.lines
    anchor = LedgerAnchor(origin=exchange.meter.origin, size=4, root=root_of(map(leaf_hash, lines[:4])))
    licence = vendor.seal(a_license(device_pubkey=exchange.device.raw, ledger_anchor=anchor))
    issuer = dataclasses.replace(vendor.issuer, revoked=issue.Revoked(sequence=1, license_ids=("x",)))
    revocation = issue.seal_revocation(issuer, at=NOW)
    ack = exchange.acknowledge(exchange.bundle(), license=licence, revocation=revocation, anchor=False).ack
    assert (ack.license, ack.revocation, ack.time_anchor) == (licence, revocation, None)
    assert open_revocation(ack.revocation, vendor.trust_root).revoked.sequence == 1


def test_evaluation_vendor_acknowledges_for_evaluation(tmp_path):
    exchange = Exchange(tmp_path, vendor=a_vendor(evaluation=True))
    exchange.meter.window(uses=1)
    assert exchange.acknowledge(exchange.bundle()).ack.evaluation


def test_memory_survives_a_change_of_ack_keys(exchange, tmp_path):
    issue.save_vendor(exchange.vendor.keys, tmp_path / "keys")
    first = exchange.acknowledge(exchange.bundle())
    old = exchange.vendor.keys.ack_key.key_id
    made, _ = rotation.rotate(tmp_path / "keys", rotation.Wish(ack=True, revoke=(old,)), at=LATER)
    key = load_ack_key(tmp_path / "keys", made.trust_root)
    assert key.key_id != old
    newer = dataclasses.replace(exchange.vendor.keys, trust_root=made.trust_root, ack_key=key)
    vendor = dataclasses.replace(exchange.vendor, keys=newer)
    again = exchange.acknowledge(exchange.bundle(), vendor=vendor)
    assert (again.repeated, again.ack.key_id, again.ack.totals) == (True, key.key_id, first.ack.totals)
    exchange.meter.window(uses=4)
    done = exchange.acknowledge(exchange.bundle(first.ack.size), vendor=vendor)
    assert (done.billed, done.billed_from) == ({READ_PAGES_METER: 4}, first.ack.size)


def _after(exchange, folder, **changes):
    """The vendor after a change of its ack keys."""
    issue.save_vendor(exchange.vendor.keys, folder)
    made, _ = rotation.rotate(folder, rotation.Wish(ack=True, **changes), at=LATER)
    keys = dataclasses.replace(
        exchange.vendor.keys, trust_root=made.trust_root, ack_key=load_ack_key(folder, made.trust_root)
    )
    return dataclasses.replace(exchange.vendor, keys=keys)


@pytest.mark.parametrize("change", ["drop", "revoke"])
def test_carried_ack_whose_key_is_no_longer_good_is_no_reason_to_refuse_what_is_known(exchange, tmp_path, change):
    first = exchange.acknowledge(exchange.bundle())
    vendor = _after(exchange, tmp_path / "keys", **{change: (first.ack.key_id,)})
    exchange.meter.window(uses=4)
    path = exchange.bundle(first.ack.size, acks={first.ack.size: first.blob})
    done = exchange.acknowledge(path, vendor=vendor)
    assert (done.billed, done.billed_from, done.ack.totals[READ_PAGES_METER]) == (
        {READ_PAGES_METER: 4},
        first.ack.size,
        9,
    )


@pytest.mark.parametrize("change", ["drop", "revoke"])
def test_carried_ack_whose_key_is_no_longer_good_proves_nothing_that_is_not_known(tmp_path, change):
    exchange = Exchange(tmp_path, remembers=False)
    exchange.meter.window(uses=3)
    first = exchange.acknowledge(exchange.bundle())
    vendor = _after(exchange, tmp_path / "keys", **{change: (first.ack.key_id,)})
    exchange.meter.window(uses=4)
    with pytest.raises(UntrustedKeyError):
        exchange.acknowledge(exchange.bundle(first.ack.size, acks={first.ack.size: first.blob}), vendor=vendor)


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_older_bundle_that_was_never_acknowledged_is_refused_by_name(exchange):
    old = exchange.bundle()
    exchange.meter.window(uses=1)
    exchange.acknowledge(exchange.bundle())
    with pytest.raises(ExchangeError, match="was acknowledged before") as caught:
        exchange.acknowledge(old)
    assert "restored from an older copy" in caught.value.next_step


def test_bundle_that_leaves_entries_out_is_refused(exchange):
    since = 6
    with pytest.raises(ExchangeError, match="begins at entry 6; acknowledged are 0"):
        exchange.acknowledge(exchange.bundle(since))


def test_bundle_of_another_device_is_refused(exchange, tmp_path):
    other = FakeMeter(tmp_path / "other", vendor=exchange.vendor.trust_root.vendor)
    other.window(uses=1)
    with pytest.raises(LicensesError):
        exchange.acknowledge(exchange.bundle(meter=other))
    other.origin = exchange.meter.origin
    with pytest.raises((UntrustedKeyError, BadSignatureError, RecordError)):
        exchange.acknowledge(exchange.bundle(meter=other))


def test_records_that_do_not_bear_out_the_checkpoint_are_refused(exchange):
    path = exchange.meter.files[-1]
    path.chmod(0o640)
    path.write_bytes(path.read_bytes().replace(b'"quantity":1', b'"quantity":2', 1))
    with pytest.raises(RecordError, match="records do not hold"):
        exchange.acknowledge(exchange.bundle())
    assert not list((exchange.folder / "known").glob("ack-*"))


def test_missing_record_file_is_refused(exchange):
    exchange.meter.window(uses=1)
    exchange.meter.files.pop(1)
    with pytest.raises(RecordError):
        exchange.acknowledge(exchange.bundle())


def test_carried_ack_of_another_vendor_is_refused(exchange):
    stranger = Exchange(exchange.folder / "stranger")
    stranger.meter = exchange.meter
    first = stranger.acknowledge(exchange.bundle())
    exchange.meter.window(uses=1)
    with pytest.raises(UntrustedKeyError):
        exchange.acknowledge(exchange.bundle(first.ack.size, acks={first.ack.size: first.blob}))


def test_key_that_is_no_ack_key_signs_nothing(exchange):
    keys = dataclasses.replace(exchange.vendor.keys, ack_key=SigningKey.generate("ack"))
    with pytest.raises(UntrustedKeyError):
        exchange.acknowledge(exchange.bundle(), vendor=dataclasses.replace(exchange.vendor, keys=keys))


BAD_LICENCES = {
    "expired": {"expires_at": NOW - 5 * DAY, "termination_at": NOW - DAY},
    "other_device": {"device_pubkey": bytes(32)},
    "other_type": {"container_types": ("formrecognizer",)},
    "other_log": {"ledger_anchor": LedgerAnchor(origin="vendor.example/x", size=1, root=bytes(32))},
}


@pytest.mark.parametrize("changes", BAD_LICENCES.values(), ids=BAD_LICENCES)
def test_licence_that_would_not_serve_there_is_not_sent(exchange, changes):
    licence = exchange.vendor.seal(a_license(**changes))
    with pytest.raises(IssueError):
        exchange.acknowledge(exchange.bundle(), license=licence)
    assert not list((exchange.folder / "known").glob("ack-*"))


@pytest.mark.parametrize(("size", "root"), [(4, bytes(32)), (10_000, bytes(32))], ids=["other_root", "beyond"])
def test_licence_on_another_checkpoint_is_not_sent(exchange, size, root):
    anchor = LedgerAnchor(origin=exchange.meter.origin, size=size, root=root)
    with pytest.raises(IssueError, match="which this log does not"):
        exchange.acknowledge(exchange.bundle(), license=exchange.vendor.seal(a_license(ledger_anchor=anchor)))


def test_forged_enclosures_are_not_sent(exchange):
    for enclosure in ({"license": a_vendor().seal()}, {"license": b"x"}, {"revocation": exchange.vendor.seal()}):
        with pytest.raises(LicensesError):
            exchange.acknowledge(exchange.bundle(), **enclosure)


# ---- forks ----------------------------------------------------------------------------------------------------------


def test_clone_of_the_same_size_is_a_fork(exchange):
    clone = exchange.copy_of_device()
    exchange.meter.window(uses=2)
    exchange.acknowledge(exchange.bundle())
    clone.window(uses=2)
    with pytest.raises(ForkError) as caught:
        exchange.acknowledge(exchange.bundle(meter=clone))
    fork = verify_fork(caught.value.proof, exchange.device)
    assert (fork.kind, fork.first.size) == (ForkKind.SAME_SIZE, clone.size)


@pytest.mark.parametrize("acked_before", [True, False])
def test_clone_that_went_further_is_a_fork(exchange, acked_before):
    common = exchange.acknowledge(exchange.bundle()) if acked_before else None
    clone = exchange.copy_of_device()
    exchange.meter.window(uses=2)
    acked = exchange.acknowledge(exchange.bundle())
    clone.window(uses=3)
    clone.window(uses=4)
    since = common.ack.size if common else 0
    with pytest.raises(ForkError, match="not those that were acknowledged") as caught:
        exchange.acknowledge(exchange.bundle(since, meter=clone))
    fork = verify_fork(caught.value.proof, exchange.device)
    assert (fork.kind, fork.first.size, fork.second.size) == (ForkKind.OTHER_PAST, acked.ack.size, clone.size)
    assert caught.value.name.startswith("fork-")
    assert len(list((exchange.folder / "known").glob("ack-*"))) == (2 if acked_before else 1)


def test_clone_that_stayed_behind_is_refused_as_older(exchange):
    clone = exchange.copy_of_device()
    exchange.meter.window(uses=9)
    exchange.acknowledge(exchange.bundle())
    clone.window(uses=1)
    with pytest.raises(ExchangeError):
        exchange.acknowledge(exchange.bundle(meter=clone))


def test_log_that_forked_from_its_enrolment_is_refused(exchange):
    size = exchange.meter.size
    exchange.enrolled_at = LedgerAnchor(origin=exchange.meter.origin, size=size, root=bytes(32))
    with pytest.raises(ForkError, match="enrolment") as caught:
        exchange.acknowledge(exchange.bundle())
    assert caught.value.proof is None
    exchange.enrolled_at = LedgerAnchor(origin=exchange.meter.origin, size=size, root=_root(exchange.meter, size))
    assert exchange.acknowledge(exchange.bundle()).ack.size == size


def test_two_bundles_of_one_fork_at_once_are_not_both_acknowledged(exchange):
    clone = exchange.copy_of_device()
    exchange.meter.window(uses=2)
    clone.window(uses=3)
    paths, outcomes = [exchange.bundle(), exchange.bundle(meter=clone)], []

    def upload(path) -> None:
        try:
            outcomes.append(exchange.acknowledge(path))
        except (ForkError, ExchangeError) as exc:
            outcomes.append(exc)

    threads = [threading.Thread(target=upload, args=[path]) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([one for one in outcomes if not isinstance(one, Exception)]) == 1


# ---- the memory -----------------------------------------------------------------------------------------------------


def test_damaged_memory_is_named(exchange):
    path = exchange.folder / "known" / exchange.acknowledge(exchange.bundle()).ack.file_name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LicensesError):
        exchange.acknowledge(exchange.bundle())


def test_memory_of_other_logs_does_not_matter(exchange):
    other = Exchange(exchange.folder / "other", vendor=exchange.vendor)
    other.known = exchange.known
    other.meter.window(uses=1)
    other.acknowledge(other.bundle())
    assert exchange.acknowledge(exchange.bundle()).billed_from == 0


def test_forged_memory_is_not_believed(exchange):
    ack = exchange.acknowledge(exchange.bundle()).ack
    forger = a_vendor()
    other = SigningKey.generate("device")
    note = open_checkpoint(ack.checkpoint, {ack.origin: exchange.device})
    forged_note = sign_checkpoint(note.origin, note.size + 1, bytes(32), other)
    forged = Ack(
        origin=note.origin,
        size=note.size + 1,
        root=bytes(32),
        checkpoint=cosign(forged_note, "x/ack", forger.keys.ack_key, NOW),
        acknowledged_at=NOW,
        key_id=forger.keys.ack_key.key_id,
    )
    (exchange.folder / "known" / forged.file_name).write_bytes(forged.seal(forger.keys.ack_key))
    with pytest.raises(LicensesError):
        exchange.acknowledge(exchange.bundle())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_memory_that_cannot_be_written_is_named(exchange):
    (exchange.folder / "known").mkdir(mode=0o500)
    with pytest.raises(KeyFileError, match="known"):
        exchange.acknowledge(exchange.bundle())


def test_memory_that_is_no_folder_is_named(exchange):
    (exchange.folder / "known").write_bytes(b"")
    with pytest.raises(KeyFileError, match="known"):
        exchange.acknowledge(exchange.bundle())


def test_no_ack_key_in_the_folder_is_named(tmp_path):
    vendor = a_vendor()
    with pytest.raises(IssueError, match="no ack key"):
        load_ack_key(tmp_path, vendor.trust_root)
