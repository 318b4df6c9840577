"""What the vendor took back: by licence, by file, and for good."""

import pytest

from licenses import envelope, issue
from licenses.errors import FormatError, IssueError, LicensesError
from licenses.folder import LicenseFile, choose
from licenses.issue import Issuer, seal_revocation
from licenses.model import Revoked
from licenses.revocation import is_revocation, open_revocation
from licenses.verify import Standing
from tests.fakes.licences import NOW, a_license, a_vendor

VENDOR, EVALUATION = a_vendor(), a_vendor(evaluation=True)
LIC = a_license()


def _revocation(vendor=VENDOR, **changes):
    revoked = Revoked(**{"sequence": 1, "license_ids": (LIC.license_id,), **changes})
    issuer = Issuer(trust_root=vendor.trust_root, issuing_key=vendor.issuing_key, revoked=revoked)
    return seal_revocation(issuer, at=NOW)


def _choose(*blobs, remembered=(), **more):
    files = [LicenseFile(f"f{number}", blob) for number, blob in enumerate(blobs)]
    return choose(files, VENDOR.trust_root, at=NOW, remembered=remembered, **more)


def test_revocation_is_read_back_and_told_from_a_licence():
    found = open_revocation(_revocation(), VENDOR.trust_root)
    assert found.revoked == Revoked(sequence=1, license_ids=(LIC.license_id,))
    assert is_revocation(_revocation())
    assert not is_revocation(VENDOR.seal())
    assert not is_revocation(b"rubbish")


def test_file_beside_a_licence_takes_it_back():
    choice = _choose(VENDOR.seal(), _revocation())
    assert choice.judgement.standing is Standing.REVOKED
    assert [verdict.standing_or_problem for verdict in choice.verdicts] == ["revoked", "revocation"]
    assert "list 1" in choice.verdicts[1].reason
    assert choice.revoked_sequence == 1


def test_a_revocation_alone_is_no_licence():
    choice = _choose(_revocation())
    assert choice.best is None
    assert not choice.serves


def test_what_was_seen_once_stays_revoked():
    assert _choose(VENDOR.seal()).serves
    assert not _choose(VENDOR.seal(), remembered=[_revocation()]).serves
    carried = VENDOR.seal(a_license(license_id="new", revoked=Revoked(sequence=2, license_ids=(LIC.license_id,))))
    assert not _choose(VENDOR.seal(), remembered=[carried]).serves


def test_remembered_rubbish_and_forgeries_revoke_nothing():
    assert _choose(VENDOR.seal(), remembered=[b"", b"{}", _revocation(a_vendor())]).serves


def test_newest_list_is_the_one_to_remember():
    newer = _revocation(sequence=7)
    choice = _choose(VENDOR.seal(), _revocation(), newer)
    assert (choice.revoked_sequence, choice.revoked_by) == (7, newer)
    assert _choose(VENDOR.seal()).revoked_by is None


def test_key_taken_back_by_a_file():
    other = a_vendor()
    root = issue.TrustRoot(
        **{
            **{name: getattr(VENDOR.trust_root, name) for name in VENDOR.trust_root.__slots__},
            "issuing_keys": {**VENDOR.trust_root.issuing_keys, **other.trust_root.issuing_keys},
        }
    )
    issuer = Issuer(
        trust_root=root,
        issuing_key=other.issuing_key,
        revoked=Revoked(sequence=1, key_ids=(VENDOR.issuing_key.key_id,)),
    )
    files = [LicenseFile("a", VENDOR.seal()), LicenseFile("b", seal_revocation(issuer, at=NOW))]
    assert choose(files, root, at=NOW).judgement.standing is Standing.REVOKED


def test_revocation_of_another_vendor_is_told_and_does_nothing():
    choice = _choose(VENDOR.seal(), _revocation(a_vendor()))
    assert choice.serves
    assert choice.verdicts[1].standing_or_problem == "untrusted_key"


@pytest.mark.parametrize("payload", [b"{}", b"[]", b'{"schema":1}', b'{"schema":1,"issued_at":"x","revoked":{}}'])
def test_bad_revocation_is_refused(payload):
    with pytest.raises(LicensesError):
        open_revocation(envelope.seal(payload, envelope.REVOCATION_TYPE, [VENDOR.issuing_key]), VENDOR.trust_root)


def test_list_without_a_sequence_does_not_exist():
    with pytest.raises(FormatError):
        Revoked(license_ids=(LIC.license_id,))


def test_empty_list_is_not_issued():
    with pytest.raises(IssueError, match="nothing is revoked"):
        seal_revocation(VENDOR.issuer, at=NOW)


def test_list_has_a_bound_and_the_longest_one_fits_into_a_licence(tmp_path):
    issue.save_vendor(VENDOR.keys, tmp_path / "keys")
    ids = [f"{number:036d}" for number in range(512)]
    assert issue.revoke(tmp_path / "keys", license_ids=ids, key_ids=[]).sequence == 1
    assert len(issue.seal_license(LIC, issue.load_issuer(tmp_path / "keys"))) < 65536
    with pytest.raises(IssueError, match="at most 512"):
        issue.revoke(tmp_path / "keys", license_ids=["one-more"], key_ids=[])
