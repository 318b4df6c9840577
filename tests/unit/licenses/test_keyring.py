"""Keys, key files, trust roots."""

import dataclasses
import json
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from licenses import envelope
from licenses.errors import BadSignatureError, FormatError, KeyFileError, LicensesError
from licenses.keyring import EVALUATION_PREFIX, KeyId, SigningKey, TrustRoot, VerifyingKey, load_trust_root
from licenses.keys import fingerprint, load_public_key, load_signing_key, public_pem
from licenses.strict_json import canonical
from tests.fakes.licences import a_vendor

VENDOR = a_vendor()
EVALUATION = a_vendor(evaluation=True)


# ---- keys -----------------------------------------------------------------------------------------------------------


def test_key_id_names_role_and_fingerprint():
    key = SigningKey.generate("ack")
    assert key.key_id == f"ack-{fingerprint(key.verifying.public)[:16]}"


def test_evaluation_key_says_so_in_its_id_and_cannot_hide_it():
    key = SigningKey.generate("issuing", evaluation=True)
    assert key.key_id.startswith(EVALUATION_PREFIX)
    assert key.verifying.evaluation
    assert VerifyingKey(key.key_id, key.verifying.public, evaluation=False).evaluation


def test_keys_compare_by_id_and_bytes():
    key, other = SigningKey.generate("ack"), SigningKey.generate("ack")
    assert key.verifying == key.verifying
    assert len({key.verifying, key.verifying, other.verifying}) == 2
    assert key.verifying != VerifyingKey(KeyId("x"), key.verifying.public)
    assert len(key.verifying.raw) == 32


def test_text_of_a_signing_key_does_not_show_the_key():
    key = SigningKey.generate("ack")
    assert "private" not in repr(key)


def test_key_files_are_read_back(tmp_path):
    key = SigningKey.generate("issuing", evaluation=True)
    private, public = tmp_path / f"{key.key_id}.key", tmp_path / "key.pub"
    private.write_bytes(key.to_pem())
    private.chmod(0o600)
    public.write_bytes(public_pem(key.verifying.public))
    assert load_signing_key(private, "issuing").verifying == key.verifying
    assert load_public_key(public, "issuing").raw == key.verifying.raw


def test_private_key_open_to_others_is_refused(tmp_path):
    path = tmp_path / "k"
    path.write_bytes(SigningKey.generate("ack").to_pem())
    path.chmod(0o640)
    with pytest.raises(KeyFileError) as caught:
        load_signing_key(path, "ack")
    assert "mode 0640" in str(caught.value)
    assert caught.value.next_step == f"Close it: chmod 0600 {path}"


@pytest.mark.parametrize(
    "content", [b"", b"rubbish", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", b"x" * 9000]
)
def test_file_without_a_key_is_refused(tmp_path, content):
    path = tmp_path / "k"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(FormatError):
        load_signing_key(path, "ack")
    with pytest.raises(FormatError):
        load_public_key(path, "ack")


def test_key_of_another_algorithm_is_refused(tmp_path):
    private, public = tmp_path / "k", tmp_path / "p"
    key = ec.generate_private_key(ec.SECP256R1())
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    private.chmod(0o600)
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(FormatError, match="not an Ed25519 key"):
        load_signing_key(private, "ack")
    with pytest.raises(FormatError, match="not an Ed25519 key"):
        load_public_key(public, "ack")


def test_missing_file_and_folder_in_its_place_are_named(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(KeyFileError, match=str(path)):
            load_public_key(path, "device")


# ---- trust roots ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", [VENDOR, EVALUATION], ids=["production", "evaluation"])
def test_trust_root_is_read_back(vendor, tmp_path):
    path = tmp_path / "trust-root.json"
    path.write_bytes(vendor.trust_root_blob + b"\n")
    assert load_trust_root(path) == vendor.trust_root


def test_missing_trust_root_is_named(tmp_path):
    with pytest.raises(KeyFileError, match="cannot read the trust root"):
        load_trust_root(tmp_path / "none")


def test_trust_root_signed_by_another_is_refused():
    blob = envelope.seal(VENDOR.trust_root.to_payload(), envelope.TRUST_ROOT_TYPE, [VENDOR.issuing_key])
    with pytest.raises(LicensesError):
        TrustRoot.from_bytes(blob)


def test_trust_root_wants_its_threshold_of_root_keys():
    second = SigningKey.generate("root")
    root = dataclasses.replace(
        VENDOR.trust_root,
        threshold=2,
        root_keys={**VENDOR.trust_root.root_keys, second.key_id: second.verifying},
    )
    assert TrustRoot.from_bytes(root.seal([VENDOR.keys.root_key, second])) == root
    with pytest.raises(BadSignatureError):
        root.seal([second])
    alone = envelope.seal(root.to_payload(), envelope.TRUST_ROOT_TYPE, [second])
    with pytest.raises(BadSignatureError):
        TrustRoot.from_bytes(alone)


def _signed(**changes: object) -> bytes:
    payload = canonical({**json.loads(VENDOR.trust_root.to_payload()), **changes})
    return envelope.seal(payload, envelope.TRUST_ROOT_TYPE, [VENDOR.keys.root_key])


MEMBERS = json.loads(VENDOR.trust_root.to_payload())
ISSUING, ACK = MEMBERS["issuing_keys"][0], MEMBERS["ack_keys"][0]

BAD = {
    "unknown_member": {"extra": 1},
    "schema_2": {"schema": 2},
    "vendor_upper_case": {"vendor": "Vendor.Example"},
    "vendor_with_slash": {"vendor": "vendor/example"},
    "threshold_0": {"threshold": 0},
    "threshold_2_of_1": {"threshold": 2},
    "no_issuing_key": {"issuing_keys": []},
    "evaluation_without_such_keys": {"evaluation": True},
    "key_in_two_roles": {"ack_keys": [{**ISSUING, "key_id": "ack-" + ISSUING["key_id"][-16:]}]},
    "key_of_another_role": {"ack_keys": [ISSUING]},
    "key_under_another_id": {"issuing_keys": [{**ISSUING, "key_id": "issuing-0123456789abcdef"}]},
    "key_of_17_bytes": {"issuing_keys": [{**ISSUING, "public": "AAAA"}]},
    "algorithm_none": {"issuing_keys": [{**ISSUING, "algorithm": "none"}]},
    "key_twice": {"issuing_keys": [ISSUING, ISSUING]},
    "expires_before_it_begins": {"expires_at": "2000-01-01T00:00:00Z"},
}


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD)
def test_bad_trust_root_is_refused(changes):
    with pytest.raises(FormatError):
        TrustRoot.from_bytes(_signed(**changes))


def test_evaluation_root_key_may_not_sign_a_production_root():
    root_keys = EVALUATION.trust_root.root_keys
    with pytest.raises(FormatError):
        dataclasses.replace(VENDOR.trust_root, root_keys=root_keys)


def test_production_root_may_list_an_evaluation_issuing_key():
    keys = {**VENDOR.trust_root.issuing_keys, **EVALUATION.trust_root.issuing_keys}
    root = dataclasses.replace(VENDOR.trust_root, issuing_keys=keys)
    assert TrustRoot.from_bytes(root.seal([VENDOR.keys.root_key])) == root


def test_term_is_half_open():
    with pytest.raises(FormatError):
        dataclasses.replace(VENDOR.trust_root, expires_at=VENDOR.trust_root.issued_at)
    dataclasses.replace(VENDOR.trust_root, expires_at=VENDOR.trust_root.issued_at + timedelta(seconds=1))


@given(st.integers(0, len(VENDOR.trust_root_blob) - 1), st.integers(1, 255))
@settings(deadline=None)
def test_no_byte_of_a_trust_root_can_change(position, flip):
    blob = bytearray(VENDOR.trust_root_blob)
    blob[position] ^= flip
    with pytest.raises(LicensesError):
        TrustRoot.from_bytes(bytes(blob))
