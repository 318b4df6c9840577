"""The vendor's side: keys on disk, licences that open."""

import stat
from datetime import date, timedelta

import pytest

from licenses import issue
from licenses.errors import IssueError, KeyFileError, LicensesError
from licenses.issue import Issuer, end_of_day, load_issuer, save_vendor, seal_license, start_of_day
from licenses.keyring import load_trust_root
from licenses.verify import open_license
from tests.fakes.licences import NOW, a_license, a_vendor

VENDOR = a_vendor(evaluation=True)


@pytest.fixture
def keys(tmp_path):
    """A vendor's folder."""
    save_vendor(VENDOR.keys, tmp_path / "keys")
    return tmp_path / "keys"


def test_folder_holds_private_keys_for_the_vendor_alone(keys):
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in keys.iterdir()}
    assert modes.pop("trust-root.json") == 0o644
    assert len(modes) == 3
    assert set(modes.values()) == {0o600}
    assert all(name.startswith("evaluation-") for name in modes)
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700


def test_issuer_is_read_back(keys):
    issuer = load_issuer(keys)
    assert issuer.trust_root == VENDOR.trust_root
    assert issuer.issuing_key.verifying == VENDOR.issuing_key.verifying
    assert open_license(seal_license(a_license(), issuer), load_trust_root(keys / "trust-root.json")).evaluation


def test_keys_are_not_overwritten(keys):
    before = (keys / "trust-root.json").read_bytes()
    with pytest.raises(IssueError, match="exists"):
        save_vendor(a_vendor().keys, keys)
    assert (keys / "trust-root.json").read_bytes() == before


def test_force_keeps_the_old_root_and_keys(keys):
    before = (keys / "trust-root.json").read_bytes()
    save_vendor(a_vendor().keys, keys, force=True)
    kept = list(keys.glob("trust-root-*.json"))
    assert [path.read_bytes() for path in kept] == [before]
    assert len(list(keys.glob("*.key"))) == 6
    assert not load_issuer(keys).trust_root.evaluation


def test_missing_issuing_key_is_named(keys):
    path = keys / f"{VENDOR.issuing_key.key_id}.key"
    path.unlink()
    with pytest.raises(IssueError, match=path.name):
        load_issuer(keys)


def test_exchanged_issuing_key_is_refused(keys):
    path = keys / f"{VENDOR.issuing_key.key_id}.key"
    path.write_bytes(a_vendor().issuing_key.to_pem())
    with pytest.raises(IssueError, match="is not"):
        load_issuer(keys)


def test_open_issuing_key_is_refused(keys):
    (keys / f"{VENDOR.issuing_key.key_id}.key").chmod(0o644)
    with pytest.raises(KeyFileError, match="others"):
        load_issuer(keys)


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(KeyFileError, match="write the vendor's keys"):
        save_vendor(VENDOR.keys, tmp_path / "file")


def test_licence_that_would_not_open_is_not_issued():
    stranger = Issuer(trust_root=VENDOR.trust_root, issuing_key=a_vendor().issuing_key)
    with pytest.raises(IssueError, match="would not open"):
        seal_license(a_license(), stranger)
    late = a_license(issued_at=VENDOR.trust_root.expires_at)
    with pytest.raises(IssueError, match="had expired"):
        seal_license(late, VENDOR.issuer)


def test_domain_must_be_one():
    with pytest.raises(LicensesError):
        issue.generate_vendor(domain="Not A Domain", evaluation=False, at=NOW)


def test_licence_file_is_not_replaced_unless_told(tmp_path):
    path = tmp_path / "license.dat"
    issue.write_license_file(path, b"old")
    with pytest.raises(KeyFileError, match=r"license\.dat"):
        issue.write_license_file(path, b"new")
    issue.write_license_file(path, b"new", force=True)
    assert issue.read_license_file(path) == b"new"


def test_day_ends_at_its_last_second_and_begins_at_its_first():
    day = date(2027, 3, 31)
    assert end_of_day(day) - start_of_day(day) == timedelta(hours=23, minutes=59, seconds=59)
    assert issue.new_license_id() != issue.new_license_id()
