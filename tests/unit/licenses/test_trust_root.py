"""The trust root over the years: successors, chains, revoked keys, and the second signature."""

import base64
import dataclasses
import shutil
import subprocess
import sys
from datetime import timedelta

import pytest

from licenses import envelope, ml_dsa
from licenses.errors import (
    BadSignatureError,
    FormatError,
    IssueError,
    LicensesError,
    RevokedKeyError,
    SuccessionError,
    UnsupportedKeyError,
    UntrustedKeyError,
)
from licenses.issue import Issuer, generate_vendor, seal_license
from licenses.keyring import TrustRoot, follow, load_successor, version_name
from licenses.keys import Algorithm, SigningKey, load_signing_key, public_pem
from licenses.rotation import Wish, plan
from licenses.verify import open_license
from tests.fakes.licences import NOW, a_license, a_vendor

VENDOR = a_vendor()
ROOT, ROOT_KEY = VENDOR.trust_root, VENDOR.keys.root_key
THREE = generate_vendor(domain="vendor.example", evaluation=False, at=NOW, root_count=3, threshold=2)

needs_ml_dsa = pytest.mark.skipif(not ml_dsa.is_supported(), reason="this cryptography has no ML-DSA-65")


def _next(root: TrustRoot = ROOT, **changes: object) -> TrustRoot:
    return dataclasses.replace(root, **{"version": root.version + 1, **changes})  # type: ignore[arg-type]


# ---- succession -----------------------------------------------------------------------------------------------------


def test_successor_is_version_plus_one_signed_by_the_old_and_its_own():
    new_key = SigningKey.generate("root")
    new = _next(root_keys={new_key.key_id: new_key.verifying})
    assert ROOT.successor(new.seal([ROOT_KEY, new_key])) == new


def test_its_own_content_is_no_change():
    assert ROOT.successor(VENDOR.trust_root_blob) is ROOT


def test_successor_wants_the_old_keys():
    new_key = SigningKey.generate("root")
    new = _next(root_keys={new_key.key_id: new_key.verifying})
    with pytest.raises(SuccessionError, match="not signed by the keys of version 1"):
        ROOT.successor(new.seal([new_key]))


def test_successor_wants_its_own_keys_too():
    new_key = SigningKey.generate("root")
    new = _next(root_keys={new_key.key_id: new_key.verifying})
    with pytest.raises(UntrustedKeyError):
        ROOT.successor(envelope.seal(new.to_payload(), envelope.TRUST_ROOT_TYPE, [ROOT_KEY]))


def test_successor_wants_the_threshold_of_the_old():
    old, (one, two, _) = THREE.trust_root, THREE.root_keys
    new_key = SigningKey.generate("root")
    new = _next(old, threshold=1, root_keys={new_key.key_id: new_key.verifying})
    assert old.successor(new.seal([one, two, new_key])) == new
    with pytest.raises(SuccessionError, match="2 are needed"):
        old.successor(new.seal([one, new_key]))


REFUSED = {
    "jump": ({"version": 3}, "jumps from version 1 to 3"),
    "same_version_other_content": ({"version": 1, "expires_at": NOW}, "same version and other content"),
    "other_vendor": ({"vendor": "other.example"}, "another vendor"),
    "older_issue": ({"issued_at": ROOT.issued_at - timedelta(seconds=1)}, "forgets"),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED)
def test_bad_successor_is_refused(changes, words):
    with pytest.raises(SuccessionError, match=words):
        ROOT.successor(_next(**changes).seal([ROOT_KEY]))


def test_rollback_is_refused():
    two = ROOT.successor(_next().seal([ROOT_KEY]))
    with pytest.raises(SuccessionError, match="goes back: version 1, in force is 2"):
        two.successor(VENDOR.trust_root_blob)


def test_evaluation_root_is_no_successor_of_a_production_one():
    with pytest.raises(LicensesError):
        ROOT.successor(a_vendor(evaluation=True).trust_root_blob)


def test_chain_is_followed_and_a_gap_is_not():
    two = _next()
    three = _next(two)
    blobs = [root.seal([ROOT_KEY]) for root in (two, three)]
    assert follow(ROOT, blobs) == three
    with pytest.raises(SuccessionError, match="jumps"):
        follow(ROOT, blobs[1:])


def test_missed_versions_are_read_from_beside_the_newest(tmp_path):
    two = _next()
    three = _next(two)
    path = tmp_path / "trust-root.json"
    path.write_bytes(three.seal([ROOT_KEY]))
    with pytest.raises(SuccessionError, match=r"trust-root-v2\.json is missing"):
        load_successor(path, ROOT)
    version_name(path, 2).write_bytes(two.seal([ROOT_KEY]) + b"\n")
    assert load_successor(path, ROOT) == three
    with pytest.raises(SuccessionError, match="goes back"):
        load_successor(version_name(path, 2), three)


def test_far_jump_is_refused_before_anything_is_searched(tmp_path):
    (tmp_path / "root").write_bytes(dataclasses.replace(ROOT, version=2**50).seal([ROOT_KEY]))
    with pytest.raises(SuccessionError, match="jumps"):
        load_successor(tmp_path / "root", ROOT)


# ---- revoked keys ---------------------------------------------------------------------------------------------------


def _revoking(key_id: str) -> TrustRoot:
    fresh = SigningKey.generate("issuing")
    return _next(issuing_keys={fresh.key_id: fresh.verifying}, revoked_key_ids=(key_id,))


def test_what_a_revoked_key_signed_is_refused_by_name():
    root = ROOT.successor(_revoking(VENDOR.issuing_key.key_id).seal([ROOT_KEY]))
    with pytest.raises(RevokedKeyError, match=VENDOR.issuing_key.key_id):
        open_license(VENDOR.seal(), root)


def test_a_key_that_was_only_left_out_is_untrusted():
    with pytest.raises(UntrustedKeyError) as caught:
        open_license(VENDOR.seal(), dataclasses.replace(_revoking("ack-0123456789abcdef")))
    assert not isinstance(caught.value, RevokedKeyError)


def test_a_key_cannot_be_listed_and_revoked():
    with pytest.raises(FormatError, match="lists a key that it revokes"):
        _next(revoked_key_ids=(VENDOR.issuing_key.key_id,))


def test_what_is_revoked_stays_revoked():
    two = ROOT.successor(_revoking(VENDOR.issuing_key.key_id).seal([ROOT_KEY]))
    with pytest.raises(SuccessionError, match="forgets"):
        two.successor(_next(two, revoked_key_ids=()).seal([ROOT_KEY]))


# ---- rotation -------------------------------------------------------------------------------------------------------


def test_new_issuing_key_leaves_old_licences_good():
    made = plan(ROOT, [ROOT_KEY], Wish(issuing=True), at=NOW)
    assert made.trust_root.version == 2
    assert open_license(VENDOR.seal(), made.trust_root)
    new = Issuer(trust_root=made.trust_root, issuing_key=made.new_keys[0])
    assert open_license(seal_license(a_license(), new), ROOT.successor(made.blob))
    assert made.retired == {VENDOR.issuing_key.key_id}


def test_root_keys_rotate_with_their_threshold():
    made = plan(THREE.trust_root, THREE.root_keys[:2], Wish(root=True), at=NOW)
    assert len(made.trust_root.root_keys) == 3
    assert made.trust_root.threshold == 2
    assert not set(made.trust_root.root_keys) & set(THREE.trust_root.root_keys)
    assert THREE.trust_root.successor(made.blob) == made.trust_root


def test_revoking_the_only_issuing_key_wants_a_new_one():
    gone = (VENDOR.issuing_key.key_id,)
    with pytest.raises(IssueError, match="no issuing key"):
        plan(ROOT, [ROOT_KEY], Wish(revoke=gone), at=NOW)
    made = plan(ROOT, [ROOT_KEY], Wish(revoke=gone, issuing=True), at=NOW)
    with pytest.raises(RevokedKeyError):
        open_license(VENDOR.seal(), made.trust_root)


def test_no_wish_and_unknown_keys_are_refused():
    with pytest.raises(IssueError, match="nothing is to change"):
        plan(ROOT, [ROOT_KEY], Wish(), at=NOW)
    with pytest.raises(IssueError, match="lists no key"):
        plan(ROOT, [ROOT_KEY], Wish(issuing=True, revoke=(SigningKey.generate("ack").key_id,)), at=NOW)


def test_too_few_root_keys_make_no_rotation():
    with pytest.raises(LicensesError):
        plan(THREE.trust_root, THREE.root_keys[:1], Wish(issuing=True), at=NOW)


# ---- the second signature -------------------------------------------------------------------------------------------

HYBRID = (
    generate_vendor(domain="vendor.example", evaluation=False, at=NOW, second_signature=True)
    if ml_dsa.is_supported()
    else None
)


def _hybrid() -> tuple[TrustRoot, SigningKey, SigningKey]:
    assert HYBRID is not None
    assert HYBRID.second_issuing_key is not None
    return HYBRID.trust_root, HYBRID.issuing_key, HYBRID.second_issuing_key


def _licence(*keys: SigningKey) -> bytes:
    lic = a_license(issued_at=NOW)
    return envelope.seal(lic.to_payload(), envelope.LICENSE_TYPE, keys)


@needs_ml_dsa
def test_drill_licence_with_both_signatures_opens():
    root, first, second = _hybrid()
    assert TrustRoot.from_bytes(HYBRID.trust_root_blob) == root
    assert open_license(_licence(first, second), root).key_id == first.key_id
    assert open_license(_licence(second, first), root).key_id == first.key_id
    issuer = Issuer(trust_root=root, issuing_key=first, second_key=second)
    assert open_license(seal_license(a_license(issued_at=NOW), issuer), root)


@needs_ml_dsa
def test_drill_one_signature_alone_is_refused():
    root, first, second = _hybrid()
    with pytest.raises(BadSignatureError, match="demands 1 second signature"):
        open_license(_licence(first), root)
    with pytest.raises(BadSignatureError, match="0 trusted key"):
        open_license(_licence(second), root)


@needs_ml_dsa
def test_drill_wrong_second_key_is_refused():
    root, first, second = _hybrid()
    stranger = SigningKey.generate("issuing-mldsa", algorithm=Algorithm.ML_DSA_65)
    with pytest.raises(BadSignatureError):
        open_license(_licence(first, stranger), root)
    with pytest.raises(BadSignatureError, match="does not fit"):
        open_license(_licence(first, SigningKey(second.key_id, stranger.private)), root)
    with pytest.raises(BadSignatureError, match="does not fit"):
        open_license(_licence(first, SigningKey(second.key_id, first.private)), root)


@needs_ml_dsa
def test_drill_edited_second_signature_is_refused():
    root, first, second = _hybrid()
    blob = _licence(first, second)
    signature = base64.b64encode(envelope.unverified_payload(blob).signatures[1])
    at = blob.index(signature)
    for position in range(at, at + len(signature), 97):
        edited = bytearray(blob)
        edited[position] = ord("A") if blob[position] != ord("A") else ord("B")
        with pytest.raises(LicensesError):
            open_license(bytes(edited), root)


@needs_ml_dsa
def test_root_keys_sign_successors_twice_as_well():
    root, first = _hybrid()[0], HYBRID.root_keys[0]
    new = _next(root)
    assert root.successor(new.seal([first, *HYBRID.second_root_keys])) == new
    without = envelope.seal(new.to_payload(), envelope.TRUST_ROOT_TYPE, [first])
    with pytest.raises(BadSignatureError):
        root.successor(without)


@needs_ml_dsa
def test_second_signature_can_be_demanded_later_and_its_keys_rotate():
    made = plan(ROOT, [ROOT_KEY], Wish(second_signature=True), at=NOW)
    with pytest.raises(BadSignatureError):
        open_license(VENDOR.seal(), made.trust_root)
    roots = [ROOT_KEY, *(key for key in made.new_keys if key.key_id in made.trust_root.second_root_keys)]
    again = plan(made.trust_root, roots, Wish(root=True, issuing=True), at=NOW)
    assert follow(ROOT, [made.blob, again.blob]) == again.trust_root
    assert len(again.trust_root.second_issuing_keys) == 2


@needs_ml_dsa
def test_second_signature_is_not_lost_by_revoking_its_only_key():
    root, _, second = _hybrid()
    roots = [*HYBRID.root_keys, *HYBRID.second_root_keys]
    with pytest.raises(IssueError, match="no longer be demanded"):
        plan(root, roots, Wish(revoke=(second.key_id,)), at=NOW)
    made = plan(root, roots, Wish(revoke=(second.key_id,), issuing=True), at=NOW)
    assert len(made.trust_root.second_issuing_keys) == 1


@needs_ml_dsa
def test_place_in_the_trust_root_fixes_the_algorithm():
    root, first, second = _hybrid()
    with pytest.raises(FormatError, match="another algorithm"):
        dataclasses.replace(ROOT, issuing_keys={second.key_id: second.verifying})
    with pytest.raises(FormatError, match="another algorithm"):
        dataclasses.replace(root, second_issuing_keys={first.key_id: first.verifying})
    relabelled = root.to_payload().replace(b'"ml-dsa-65"', b'"ed25519"')
    blob = envelope.seal(relabelled, envelope.TRUST_ROOT_TYPE, [*HYBRID.root_keys, *HYBRID.second_root_keys])
    with pytest.raises(FormatError, match="where ml-dsa-65 is wanted"):
        TrustRoot.from_bytes(blob)


@needs_ml_dsa
def test_second_private_key_is_read_back(tmp_path):
    second = _hybrid()[2]
    path = tmp_path / "k"
    path.write_bytes(second.to_pem())
    path.chmod(0o600)
    assert load_signing_key(path, "issuing-mldsa", algorithm=Algorithm.ML_DSA_65).verifying == second.verifying
    with pytest.raises(FormatError, match="not an Ed25519 key"):
        load_signing_key(path, "issuing-mldsa")
    path.write_bytes(ROOT_KEY.to_pem())
    with pytest.raises(FormatError, match="not an ML-DSA-65 key"):
        load_signing_key(path, "issuing-mldsa", algorithm=Algorithm.ML_DSA_65)


@needs_ml_dsa
def test_without_the_algorithm_the_trust_root_is_refused_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.mldsa", None)
    with pytest.raises(UnsupportedKeyError, match="ML-DSA-65"):
        TrustRoot.from_bytes(HYBRID.trust_root_blob)
    with pytest.raises(UnsupportedKeyError):
        SigningKey.generate("root-mldsa", algorithm=Algorithm.ML_DSA_65)
    assert not ml_dsa.is_supported()
    assert TrustRoot.from_bytes(VENDOR.trust_root_blob) == ROOT
    assert UnsupportedKeyError.code == "unsupported_key"


@pytest.mark.parametrize("raw", [b"", b"x" * 32, b"x" * 1951, b"x" * 1953])
def test_second_public_key_of_another_size_is_refused(raw):
    with pytest.raises(FormatError, match="1952"):
        ml_dsa.public_from_raw(raw)


# ---- against other implementations ----------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_signs_what_we_open_and_verifies_what_we_signed(tmp_path):
    payload = a_license().to_payload()
    message = envelope.pre_authentication(payload, envelope.LICENSE_TYPE)
    (tmp_path / "key").write_bytes(VENDOR.issuing_key.to_pem())
    (tmp_path / "pub").write_bytes(public_pem(VENDOR.issuing_key.verifying.public))
    (tmp_path / "message").write_bytes(message)

    def openssl(*arguments: str) -> str:
        command = ["openssl", "pkeyutl", *arguments, "-rawin", "-in", "message"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    openssl("-sign", "-inkey", "key", "-out", "theirs")
    blob = envelope._spell(
        payload, envelope.LICENSE_TYPE, [(VENDOR.issuing_key.key_id, (tmp_path / "theirs").read_bytes())]
    )
    assert open_license(blob, ROOT).license_id == a_license().license_id
    ours = envelope.unverified_payload(VENDOR.seal(a_license()))
    (tmp_path / "ours").write_bytes(ours.signatures[0])
    assert "Verified Successfully" in openssl("-verify", "-pubin", "-inkey", "pub", "-sigfile", "ours")
