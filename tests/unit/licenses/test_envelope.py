"""DSSE envelopes: verified before parsed, one spelling, and the same as everyone else's."""

import base64
import json
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

from licenses import envelope
from licenses.envelope import LEASE_TYPE, LICENSE_TYPE, armour, open_envelope, open_signed, pre_authentication, seal
from licenses.errors import BadSignatureError, FormatError, LicensesError, UntrustedKeyError
from licenses.keyring import KeyId, SigningKey, VerifyingKey
from licenses.keys import public_pem
from licenses.strict_json import canonical

KEY, OTHER = SigningKey.generate("issuing"), SigningKey.generate("issuing")
KEYS = {KEY.key_id: KEY.verifying}
BOTH = {**KEYS, OTHER.key_id: OTHER.verifying}
PAYLOAD = b'{"what":"ever"}'


def _members(**changes: object) -> dict[str, object]:
    return {**json.loads(seal(PAYLOAD, LICENSE_TYPE, [KEY])), **changes}


def test_sealed_payload_opens():
    opened = open_signed(seal(PAYLOAD, LICENSE_TYPE, [KEY]), LICENSE_TYPE, KEYS)
    assert opened.payload == PAYLOAD
    assert opened.signers == (KEY.verifying,)


def test_pre_authentication_encoding_is_the_published_example():
    assert pre_authentication(b"hello world", "http://example.com/HelloWorld") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


# ---- against other implementations ----------------------------------------------------------------------------------


def _foreign_key(key: SigningKey) -> SSlibKey:
    return SSlibKey.from_crypto(key.verifying.public, keyid=key.key_id)


@given(payload=st.binary(max_size=300))
@settings(max_examples=30, deadline=None)
def test_securesystemslib_verifies_what_we_sealed(payload):
    theirs = Envelope.from_dict(json.loads(seal(payload, LICENSE_TYPE, [KEY, OTHER])))
    assert theirs.payload == payload
    accepted = theirs.verify([_foreign_key(KEY), _foreign_key(OTHER)], 2)
    assert set(accepted) == {KEY.key_id, OTHER.key_id}


@given(payload=st.binary(min_size=1, max_size=300))
@settings(max_examples=30, deadline=None)
def test_we_open_what_securesystemslib_signed(payload):
    theirs = Envelope(payload, LICENSE_TYPE, {})
    theirs.sign(CryptoSigner(KEY.private, _foreign_key(KEY)))
    assert open_envelope(canonical(theirs.to_dict()), LICENSE_TYPE, KEYS) == payload


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_verifies_what_we_sealed(tmp_path):
    members = json.loads(seal(PAYLOAD, LICENSE_TYPE, [KEY]))
    (tmp_path / "key").write_bytes(public_pem(KEY.verifying.public))
    (tmp_path / "sig").write_bytes(base64.b64decode(members["signatures"][0]["sig"]))
    (tmp_path / "message").write_bytes(pre_authentication(PAYLOAD, LICENSE_TYPE))
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "key", "-rawin", "-in", "message"]
    done = subprocess.run([*command, "-sigfile", "sig"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Signature Verified Successfully" in done.stdout, done.stderr


# ---- who signed -----------------------------------------------------------------------------------------------------


def test_unknown_signer_is_untrusted():
    with pytest.raises(UntrustedKeyError, match=OTHER.key_id):
        open_envelope(seal(PAYLOAD, LICENSE_TYPE, [OTHER]), LICENSE_TYPE, KEYS)


def test_signature_under_a_known_id_by_another_key_is_bad():
    forged = SigningKey(KEY.key_id, OTHER.private)
    with pytest.raises(BadSignatureError):
        open_envelope(seal(PAYLOAD, LICENSE_TYPE, [forged]), LICENSE_TYPE, KEYS)


def test_unknown_second_signature_counts_for_nothing_and_does_no_harm():
    opened = open_signed(seal(PAYLOAD, LICENSE_TYPE, [OTHER, KEY]), LICENSE_TYPE, KEYS)
    assert opened.signers == (KEY.verifying,)


def test_bad_signature_of_a_known_key_refuses_the_whole():
    forged = SigningKey(OTHER.key_id, KEY.private)
    with pytest.raises(BadSignatureError):
        open_envelope(seal(PAYLOAD, LICENSE_TYPE, [KEY, forged]), LICENSE_TYPE, BOTH)


def test_threshold_of_two_wants_two_keys():
    assert open_envelope(seal(PAYLOAD, LICENSE_TYPE, [KEY, OTHER]), LICENSE_TYPE, BOTH, threshold=2) == PAYLOAD
    with pytest.raises(BadSignatureError, match="2 are needed"):
        open_envelope(seal(PAYLOAD, LICENSE_TYPE, [KEY]), LICENSE_TYPE, BOTH, threshold=2)


def test_one_key_under_two_ids_counts_once():
    twin = SigningKey(KeyId("twin"), KEY.private)
    keys = {**KEYS, twin.key_id: VerifyingKey(twin.key_id, KEY.verifying.public)}
    with pytest.raises(BadSignatureError):
        open_envelope(seal(PAYLOAD, LICENSE_TYPE, [KEY, twin]), LICENSE_TYPE, keys, threshold=2)


def test_payload_does_not_pass_under_another_type():
    blob = seal(PAYLOAD, LEASE_TYPE, [KEY])
    with pytest.raises(FormatError, match="this is a lease, not a licence"):
        open_envelope(blob, LICENSE_TYPE, KEYS)
    relabelled = canonical({**json.loads(blob), "payloadType": LICENSE_TYPE})
    with pytest.raises(BadSignatureError):
        open_envelope(relabelled, LICENSE_TYPE, KEYS)


def test_payload_is_not_looked_at_before_the_signature_holds():
    blob = canonical(_members(payload=base64.b64encode(b"{]").decode()))
    with pytest.raises(BadSignatureError):
        open_envelope(blob, LICENSE_TYPE, KEYS)


# ---- one spelling ---------------------------------------------------------------------------------------------------


def test_no_byte_can_change():
    blob = seal(PAYLOAD, LICENSE_TYPE, [KEY]) + b"\n"
    _assert_no_byte_can_change(blob)


def test_no_byte_of_the_armour_can_change():
    blob = armour(seal(PAYLOAD, LICENSE_TYPE, [KEY]), LICENSE_TYPE)
    _assert_no_byte_can_change(blob)
    _assert_no_byte_can_change(blob.replace(b"\n", b"\r\n"))


def _assert_no_byte_can_change(blob: bytes) -> None:
    assert open_envelope(blob, LICENSE_TYPE, KEYS) == PAYLOAD
    for position in range(len(blob)):
        for other in {blob[position] ^ 1, blob[position] ^ 0x20, 0x20, 0x0A, 0x0D, 0, 0xFF} - {blob[position]}:
            edited = blob[:position] + bytes([other]) + blob[position + 1 :]
            with pytest.raises(LicensesError):
                open_envelope(edited, LICENSE_TYPE, KEYS)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_one_line_end_is_allowed(end):
    assert open_envelope(seal(PAYLOAD, LICENSE_TYPE, [KEY]) + end, LICENSE_TYPE, KEYS) == PAYLOAD


SIGNATURE = _members()["signatures"][0]  # type: ignore[index]

BAD = {
    "empty": b"",
    "blank": b" \n ",
    "null": b"null",
    "list": b"[]",
    "two_line_ends": seal(PAYLOAD, LICENSE_TYPE, [KEY]) + b"\n\n",
    "spaces": json.dumps(_members()).encode(),
    "another_order": json.dumps(dict(reversed(_members().items())), separators=(",", ":")).encode(),
    "unknown_member": canonical(_members(extra=1)),
    "no_signature": canonical(_members(signatures=[])),
    "signature_twice": canonical(_members(signatures=[SIGNATURE, SIGNATURE])),
    "signature_member": canonical(_members(signatures=[{**SIGNATURE, "alg": "none"}])),
    "signatures_17": canonical(_members(signatures=[{**SIGNATURE, "keyid": f"k{n}"} for n in range(17)])),
    "base64_url": canonical(_members(payload="e30-_w==")),
    "base64_unpadded": canonical(_members(payload="e30")),
    "base64_loose_bits": canonical(_members(payload="e31=")),
    "base64_line_break": canonical(_members(payload="e3\n0=")),
    "base64_not_ascii": canonical(_members(payload="\u00e9")),
    "unknown_type": canonical(_members(payloadType="application/x")),
    "too_long": b" " * 65537,
    "too_long_payload": seal(b"x" * 60_000, LICENSE_TYPE, [KEY]),
    "armour_cut": armour(seal(PAYLOAD, LICENSE_TYPE, [KEY]), LICENSE_TYPE)[:-20],
    "armour_of_a_lease": armour(seal(PAYLOAD, LICENSE_TYPE, [KEY]), LEASE_TYPE),
    "armour_line_ends_mixed": armour(seal(PAYLOAD, LICENSE_TYPE, [KEY]), LICENSE_TYPE).replace(b"\n", b"\r\n", 1),
    "armour_of_nothing": b"-----BEGIN TOLLGATE LICENSE-----\n-----END TOLLGATE LICENSE-----\n",
    "pem": public_pem(KEY.verifying.public),
}


@pytest.mark.parametrize("blob", BAD.values(), ids=BAD)
def test_bad_envelope_is_refused(blob):
    with pytest.raises(FormatError):
        open_envelope(blob, LICENSE_TYPE, KEYS)


@given(st.binary(max_size=300) | st.binary(max_size=80).map(lambda tail: b"-----BEGIN " + tail))
def test_arbitrary_bytes_raise_nothing_else(blob):
    with pytest.raises(LicensesError):
        open_envelope(blob, LICENSE_TYPE, KEYS)


@given(st.data())
@settings(deadline=None)
def test_spliced_envelopes_raise_nothing_else(data):
    blob = seal(PAYLOAD, LICENSE_TYPE, [KEY])
    start = data.draw(st.integers(0, len(blob)))
    end = data.draw(st.integers(start, len(blob)))
    edited = blob[:start] + data.draw(st.binary(max_size=20)) + blob[end:]
    if edited.strip() == blob:
        return
    with pytest.raises(LicensesError):
        open_envelope(edited, LICENSE_TYPE, KEYS)


def test_armour_is_readable_text_of_64_columns():
    text = armour(seal(PAYLOAD, envelope.TRUST_ROOT_TYPE, [KEY]), envelope.TRUST_ROOT_TYPE).decode("ascii")
    assert text.startswith("-----BEGIN TOLLGATE TRUST ROOT-----\n")
    assert max(map(len, text.splitlines())) == 64


def test_seal_wants_a_key():
    with pytest.raises(ValueError, match="at least one key"):
        seal(PAYLOAD, LICENSE_TYPE, [])
