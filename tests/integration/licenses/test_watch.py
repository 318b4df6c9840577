"""The licence in force over real files: what disturbs it, what does not, and what a new process still knows."""

import dataclasses
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from licenses import issue
from licenses.device_key import DeviceKey
from licenses.host import HostFactors
from licenses.issue import Issuer, Vendor
from licenses.keyring import version_name
from licenses.model import License, Revoked
from licenses.rotation import Wish, plan
from licenses.verify import Standing
from licenses.watch import KEPT_NAME, KEPT_REVOKED_NAME, KEPT_ROOT_NAME, LicenseWatch
from tests.fakes.licences import NOW, FakeVendor, a_license, a_vendor

VENDOR = a_vendor()
GOOD = a_license()
YEAR = timedelta(days=365)
BETTER = a_license(sequence=2, expires_at=GOOD.expires_at + YEAR, termination_at=GOOD.termination_at + YEAR)
WORSE = a_license(license_id="worse", expires_at=NOW + timedelta(days=1), termination_at=NOW + timedelta(days=1))
EXPIRED = a_license(
    license_id="old",
    not_before=NOW - timedelta(days=9),
    expires_at=NOW - timedelta(days=1),
    termination_at=NOW - timedelta(days=1),
)


@dataclasses.dataclass
class Place:
    """A licence folder, a state directory and a trust root."""

    folder: Path
    vendor: FakeVendor = VENDOR

    @property
    def licences(self) -> Path:
        return self.folder / "license"

    @property
    def file(self) -> Path:
        return self.licences / "license.dat"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def root(self) -> Path:
        return self.folder / "trust-root.json"

    def watch(self, *, host: HostFactors | None = None, **options) -> LicenseWatch:
        return LicenseWatch(self.licences, trust_root_path=self.root, state_directory=self.state, host=host, **options)

    def put(self, lic: License, name: str = "license.dat") -> bytes:
        blob = self.vendor.seal(lic)
        (self.licences / name).write_bytes(blob)
        return blob


@pytest.fixture
def place() -> Iterator[Place]:
    """A place that another user can reach, with the good licence in it."""
    folder = Path(tempfile.mkdtemp(prefix="watch-"))
    try:
        folder.chmod(0o755)
        (folder / "state").mkdir()
        VENDOR.install(folder, GOOD)
        yield Place(folder)
    finally:
        for path in [folder, *folder.rglob("*")]:
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        shutil.rmtree(folder)


@contextmanager
def without_privileges() -> Iterator[None]:
    """As a user whom permissions bind; root is bound by none."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


# ---- what does not disturb the licence in force ---------------------------------------------------------------------


def _truncated(place: Place) -> None:
    place.file.write_bytes(place.file.read_bytes()[:100])


def _emptied(place: Place) -> None:
    place.file.write_bytes(b"")


def _edited(place: Place) -> None:
    blob = bytearray(place.file.read_bytes())
    blob[90] ^= 1
    place.file.write_bytes(blob)


def _too_long(place: Place) -> None:
    place.file.write_bytes(b"x" * (64 * 1024 + 1))


def _directory(place: Place) -> None:
    place.file.unlink()
    place.file.mkdir()


def _pipe(place: Place) -> None:
    place.file.unlink()
    os.mkfifo(place.file)


def _dangling_link(place: Place) -> None:
    place.file.unlink()
    place.file.symlink_to("nowhere")


def _of_another_vendor(place: Place) -> None:
    place.file.write_bytes(a_vendor().seal(GOOD))


def _worse(place: Place) -> None:
    place.put(WORSE)


def _expired(place: Place) -> None:
    place.put(EXPIRED)


def _older_sequence(place: Place) -> None:
    place.put(a_license(expires_at=BETTER.expires_at + YEAR, termination_at=BETTER.termination_at + YEAR))


SPOILS = [
    _truncated, _emptied, _edited, _too_long, _directory, _pipe, _dangling_link, _of_another_vendor, _worse, _expired,
    _older_sequence,
]  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__.strip("_"))
@pytest.mark.parametrize("restarted", [False, True], ids=["same_process", "new_process"])
def test_good_licence_stays_in_force(place, spoil, restarted):
    place.put(BETTER)
    watch = place.watch(keeper=True)
    assert watch.look(NOW).serves
    spoil(place)
    if restarted:
        watch = place.watch()
    for _ in range(2):
        view = watch.look(NOW)
        assert view.serves
        assert view.license.sequence == BETTER.sequence
        assert view.name == "license.dat"
        assert len(view.verdicts) == 2


def test_half_copied_file_never_disturbs_and_serves_once_it_is_whole(place):
    watch = place.watch()
    assert watch.look(NOW).license.sequence == 1
    blob = VENDOR.seal(BETTER)
    with place.file.open("wb", buffering=0) as stream:
        for start in range(0, len(blob), 100):
            stream.write(blob[start : start + 100])
            view = watch.look(NOW)
            assert view.serves
            assert view.license.sequence == (2 if start + 100 >= len(blob) else 1)
    assert [verdict.standing_or_problem for verdict in watch.look(NOW).verdicts] == ["valid"]


@pytest.mark.parametrize("taken", ["file", "folder"])
def test_permissions_taken_away_are_told_and_disturb_nothing(place, taken):
    watch = place.watch()
    with without_privileges():
        assert watch.look(NOW).serves
    (place.file if taken == "file" else place.licences).chmod(0)
    with without_privileges():
        view = watch.look(NOW)
    assert view.serves
    assert "annot" in view.verdicts[0].reason
    fresh = place.watch()
    with without_privileges():
        view = fresh.look(NOW)
    assert not view.serves
    assert "65534" in view.problem or os.geteuid() != 0


def test_folder_above_that_may_not_be_entered_raises_nothing(place):
    watch = place.watch()
    with without_privileges():
        assert watch.look(NOW).serves
    place.folder.chmod(0)
    with without_privileges():
        assert watch.look(NOW).serves


def test_licence_in_force_ends_with_its_own_term_whatever_lies_in_its_place(place):
    watch = place.watch(keeper=True)
    assert watch.look(NOW).serves
    _truncated(place)
    assert watch.look(GOOD.termination_at - timedelta(seconds=1)).judgement.standing is Standing.GRACE
    assert not watch.look(GOOD.termination_at).serves


# ---- what changes it ------------------------------------------------------------------------------------------------


def test_better_file_is_in_force_at_the_next_look(place):
    watch = place.watch()
    assert watch.look(NOW).license.sequence == 1
    place.put(BETTER, "new.dat")
    view = watch.look(NOW)
    assert (view.name, view.license.sequence) == ("new.dat", 2)
    assert [verdict.standing_or_problem for verdict in view.verdicts] == ["superseded", "valid"]


def test_removed_file_is_removed(place):
    clock = [0.0]
    watch = place.watch(keeper=True, monotonic=lambda: clock[0])
    assert watch.look(NOW).serves
    place.file.unlink()
    assert watch.look(NOW).serves  # it may be that it is being exchanged
    clock[0] += 1
    view = watch.look(NOW)
    assert not view.serves
    assert "there is no licence file" in view.problem
    assert not (place.state / KEPT_NAME).exists()
    place.file.write_bytes(b"rubbish")
    assert not watch.look(NOW).serves
    assert not place.watch().look(NOW).serves


def test_name_that_is_gone_for_a_moment_disturbs_nothing(place):
    clock = [0.0]
    watch = place.watch(keeper=True, monotonic=lambda: clock[0])
    assert watch.look(NOW).serves
    for _ in range(20):
        place.file.unlink()
        for _ in range(3):
            view = watch.look(NOW)
            assert view.serves
            assert view.name == "license.dat"
            clock[0] += 0.3
        place.file.write_bytes(b"half of it")
        assert watch.look(NOW).serves
        clock[0] += 0.3
    assert (place.state / KEPT_NAME).exists()


def test_name_that_was_never_seen_is_not_awaited(place):
    assert place.watch(keeper=True).look(NOW).serves
    place.file.unlink()
    assert not place.watch().look(NOW).serves


def test_what_one_process_has_forgotten_the_keeper_does_not_bring_back(place):
    """The meter may notice half a second later that the file is gone; until then its copy is still there."""
    clock = [0.0]
    assert place.watch(keeper=True).look(NOW).serves
    watch = place.watch(monotonic=lambda: clock[0])
    assert watch.look(NOW).serves
    place.file.unlink()
    assert watch.look(NOW).serves
    clock[0] += 1
    for _ in range(3):
        assert not watch.look(NOW).serves
        clock[0] += 0.1
    assert (place.state / KEPT_NAME).exists()


def test_removed_folder_is_removed(place):
    watch = place.watch(keeper=True)
    assert watch.look(NOW).serves
    shutil.rmtree(place.licences)
    assert "Mounts:License" in watch.look(NOW).problem
    assert not (place.state / KEPT_NAME).exists()


def test_thousand_swaps_never_fail(place):
    """Good, bad, truncated and half-copied files in turn; each look serves under the best licence so far."""
    watch, sequence = place.watch(), 1
    blobs = [VENDOR.seal(a_license(sequence=number)) for number in range(2, 12)]
    assert watch.look(NOW).serves
    for number in range(1000):
        match number % 4:
            case 0 if number % 100 == 0:
                sequence += 1
                place.file.write_bytes(blobs[sequence - 2])
            case 0 | 1:
                place.file.write_bytes(b"not a licence")
            case 2:
                place.file.write_bytes(blobs[sequence - 2][: number % 900])
            case _:
                place.file.write_bytes(blobs[0])
        view = watch.look(NOW)
        assert view.serves
        assert view.license.sequence == sequence


# ---- what is written down -------------------------------------------------------------------------------------------


def test_only_the_keeper_writes(place):
    assert place.watch().look(NOW).serves
    assert list(place.state.iterdir()) == []
    assert place.watch(keeper=True).look(NOW).serves
    assert sorted(path.name for path in place.state.iterdir()) == [KEPT_NAME, KEPT_ROOT_NAME]
    assert stat.S_IMODE((place.state / KEPT_NAME).stat().st_mode) == 0o440


def test_keeper_writes_a_better_licence_down(place):
    watch = place.watch(keeper=True)
    watch.look(NOW)
    before = (place.state / KEPT_NAME).read_bytes()
    watch.look(NOW)
    assert (place.state / KEPT_NAME).read_bytes() == before
    place.put(BETTER)
    watch.look(NOW)
    assert (place.state / KEPT_NAME).read_bytes() != before


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"x" * 200_000, b'{"blob":"!","name":"license.dat"}'])
def test_damaged_memory_is_no_memory(place, content):
    (place.state / KEPT_NAME).write_bytes(content)
    _truncated(place)
    assert not place.watch().look(NOW).serves


def test_forged_memory_is_verified_like_any_file(place):
    place.watch(keeper=True).look(NOW)
    kept = (place.state / KEPT_NAME).read_bytes()
    (place.state / KEPT_NAME).chmod(0o600)
    (place.state / KEPT_NAME).write_bytes(kept[:200] + bytes([kept[200] ^ 1]) + kept[201:])
    _truncated(place)
    assert not place.watch().look(NOW).serves


def test_state_directory_that_cannot_be_written_does_no_harm(place):
    shutil.rmtree(place.state)
    watch = place.watch(keeper=True)
    assert watch.look(NOW).serves
    _truncated(place)
    assert watch.look(NOW).serves


# ---- what the caller knows ------------------------------------------------------------------------------------------


def test_floor_of_this_id_refuses_an_older_file_after_a_restart(place):
    floor = {GOOD.license_id: 2}
    view = place.watch().look(NOW, sequence_floor=floor)
    assert view.judgement.standing is Standing.SUPERSEDED
    assert place.watch().look(NOW, sequence_floor={"another": 9}).serves
    place.put(BETTER)
    assert place.watch().look(NOW, sequence_floor=floor).serves


def test_product_version_is_judged_when_it_is_told(place):
    place.put(a_license(min_version="2.0"))
    assert place.watch().look(NOW).serves
    assert place.watch().look(NOW, product_version="2.0.1").serves
    view = place.watch().look(NOW, product_version="1.9")
    assert view.judgement.standing is Standing.UPGRADE_NEEDED


def test_revocations_that_the_caller_knows_are_judged(place):
    assert not place.watch().look(NOW, revoked_license_ids=[GOOD.license_id]).serves
    assert not place.watch().look(NOW, revoked_key_ids=[VENDOR.issuing_key.key_id]).serves


def test_host_and_device_are_judged(place):
    device = DeviceKey.load_or_create(place.state)
    host = HostFactors(operator_id="ward-7")
    place.put(a_license(device_pubkey=device.public_raw, bindings=host.bind()))
    assert place.watch(host=host).look(NOW).serves
    assert place.watch(host=HostFactors(operator_id="ward-8")).look(NOW).judgement.standing is Standing.HOST_MISMATCH
    (place.state / "device.pub").unlink()
    assert place.watch(host=host).look(NOW).judgement.standing is Standing.DEVICE_MISMATCH


# ---- revocations are remembered -------------------------------------------------------------------------------------


def _revocation(sequence: int = 1) -> bytes:
    revoked = Revoked(sequence=sequence, license_ids=(GOOD.license_id,))
    issuer = Issuer(trust_root=VENDOR.trust_root, issuing_key=VENDOR.issuing_key, revoked=revoked)
    return issue.seal_revocation(issuer, at=NOW)


def test_revocation_takes_effect_at_once_and_outlives_its_file(place):
    watch = place.watch(keeper=True)
    assert watch.look(NOW).serves
    (place.licences / "revocation.dat").write_bytes(_revocation())
    view = watch.look(NOW)
    assert view.judgement.standing is Standing.REVOKED
    assert view.revoked_sequence == 1
    (place.licences / "revocation.dat").unlink()
    assert not watch.look(NOW).serves
    for restarted in (place.watch(keeper=True), place.watch()):
        assert restarted.look(NOW).judgement.standing is Standing.REVOKED
    place.put(a_license(license_id="new"), "new.dat")
    assert place.watch().look(NOW).license.license_id == "new"


def test_what_only_the_keeper_saw_counts_for_all(place):
    web, meter = place.watch(), place.watch(keeper=True)
    (place.licences / "revocation.dat").write_bytes(_revocation())
    assert not web.look(NOW).serves
    place.put(a_license(license_id="new"), "new.dat")
    assert web.look(NOW).serves
    revoked = Revoked(sequence=2, license_ids=(GOOD.license_id, "new"))
    issuer = Issuer(trust_root=VENDOR.trust_root, issuing_key=VENDOR.issuing_key, revoked=revoked)
    (place.licences / "revocation.dat").write_bytes(issue.seal_revocation(issuer, at=NOW))
    meter.look(NOW)
    (place.licences / "revocation.dat").unlink()
    assert web.look(NOW).revoked_sequence == 2
    assert not web.look(NOW).serves


def test_older_list_never_replaces_a_newer_one(place):
    watch = place.watch(keeper=True)
    (place.licences / "revocation.dat").write_bytes(_revocation(5))
    watch.look(NOW)
    kept = (place.state / KEPT_REVOKED_NAME).read_bytes()
    (place.licences / "revocation.dat").write_bytes(_revocation(4))
    assert place.watch(keeper=True).look(NOW).revoked_sequence == 5
    assert (place.state / KEPT_REVOKED_NAME).read_bytes() == kept


# ---- the trust root gives way to its successors only ----------------------------------------------------------------


def _successor(vendor: Vendor = VENDOR.keys) -> Vendor:
    made = plan(vendor.trust_root, vendor.root_keys, Wish(issuing=True), at=NOW)
    return dataclasses.replace(
        vendor, trust_root=made.trust_root, trust_root_blob=made.blob, issuing_key=made.new_keys[0]
    )


def test_successor_is_taken_at_the_next_look_and_never_rolled_back(place):
    watch = place.watch(keeper=True)
    assert watch.look(NOW).trust_root_version == 1
    place.root.write_bytes(_successor().trust_root_blob)
    view = watch.look(NOW)
    assert (view.serves, view.trust_root_version, view.trust_root_problem) == (True, 2, "")
    place.root.write_bytes(VENDOR.trust_root_blob)
    for looking in (watch, place.watch(keeper=True), place.watch()):
        view = looking.look(NOW)
        assert (view.serves, view.trust_root_version) == (True, 2)
        assert "goes back" in view.trust_root_problem


def test_jump_is_refused_until_the_version_between_lies_beside(place):
    two = _successor()
    three = _successor(two)
    watch = place.watch(keeper=True)
    watch.look(NOW)
    place.root.write_bytes(three.trust_root_blob)
    view = watch.look(NOW)
    assert (view.serves, view.trust_root_version) == (True, 1)
    assert "trust-root-v2.json is missing" in view.trust_root_problem
    version_name(place.root, 2).write_bytes(two.trust_root_blob)
    view = watch.look(NOW)
    assert (view.serves, view.trust_root_version, view.trust_root_problem) == (True, 3, "")


@pytest.mark.parametrize("content", [b"", b"rubbish", a_vendor().trust_root_blob], ids=["empty", "rubbish", "stranger"])
@pytest.mark.parametrize("restarted", [False, True], ids=["same_process", "new_process"])
def test_bad_or_foreign_trust_root_is_told_and_changes_nothing(place, content, restarted):
    watch = place.watch(keeper=True)
    watch.look(NOW)
    place.root.write_bytes(content)
    view = (place.watch() if restarted else watch).look(NOW)
    assert view.serves
    assert view.trust_root_problem


def test_missing_trust_root_serves_nothing_after_a_restart(place):
    place.watch(keeper=True).look(NOW)
    place.root.unlink()
    view = place.watch().look(NOW)
    assert not view.serves
    assert "trust root cannot be used" in view.problem


def test_evaluation_gives_way_to_production_and_not_the_other_way(place):
    evaluation = a_vendor(evaluation=True)
    evaluation.install(place.folder, GOOD)
    assert place.watch(keeper=True).look(NOW).license.evaluation
    VENDOR.install(place.folder, GOOD)
    view = place.watch(keeper=True).look(NOW)
    assert view.serves
    assert not view.license.evaluation
    evaluation.install(place.folder, GOOD)
    view = place.watch(keeper=True).look(NOW)
    assert view.trust_root_problem
    assert not view.license or not view.license.evaluation
