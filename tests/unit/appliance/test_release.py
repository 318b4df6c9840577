"""The manifest: signed, spelled once, and believed only under the key that is trusted."""

from __future__ import annotations

import base64
import random
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from appliance import release
from appliance.errors import BundleError, BundleFormatError, ReleaseSignatureError, UntrustedReleaseKeyError
from appliance.release import Manifest, Member, ReleaseKey, fingerprint_of, open_manifest, version_numbers
from appliance.signature import is_signature
from licenses import envelope
from licenses.errors import LicensesError
from licenses.keys import fingerprint
from licenses.strict_json import canonical
from tests.fakes.releases import KEY, MANIFEST, OTHER_KEY, public

FILE = Member("docs/appliance.md", 9, "0" * 64, 0o644)
WHOLE = replace(MANIFEST, members={FILE.path: FILE, "install.sh": Member("install.sh", 3, "1" * 64, 0o755)})


def sealed(payload: bytes | None = None, payload_type: str = envelope.RELEASE_TYPE) -> bytes:
    return envelope.seal(WHOLE.to_payload() if payload is None else payload, payload_type, [KEY])


def test_what_is_sealed_is_read_back() -> None:
    assert open_manifest(sealed(), {public(KEY).fingerprint}) == WHOLE
    assert open_manifest(sealed(), None).key.fingerprint == public(KEY).fingerprint


def test_both_rooms_speak_of_the_same_envelope() -> None:
    assert release.RELEASE_TYPE == envelope.RELEASE_TYPE
    assert WHOLE.to_payload() == canonical(__import__("json").loads(WHOLE.to_payload()))
    assert public(KEY).fingerprint == fingerprint(KEY.verifying.public)


def test_another_key_is_named_and_refused() -> None:
    with pytest.raises(UntrustedReleaseKeyError) as refused:
        open_manifest(sealed(), {public(OTHER_KEY).fingerprint})
    assert public(KEY).fingerprint in str(refused.value)
    assert public(OTHER_KEY).fingerprint in str(refused.value)


def test_a_key_that_is_named_and_did_not_sign_is_refused() -> None:
    other = envelope.seal(WHOLE.to_payload(), envelope.RELEASE_TYPE, [OTHER_KEY])
    with pytest.raises(ReleaseSignatureError):
        open_manifest(other, None)


def test_what_was_signed_as_something_else_is_no_release() -> None:
    with pytest.raises(BundleFormatError):
        open_manifest(sealed(payload_type=envelope.LICENSE_TYPE), None)


def test_no_byte_can_change() -> None:
    blob = bytearray(sealed())
    trusted = {KEY.key_id: KEY.verifying}
    for place in range(len(blob)):
        changed = bytes(blob[:place]) + bytes([blob[place] ^ (1 << place % 8)]) + bytes(blob[place + 1 :])
        with pytest.raises(BundleError):
            open_manifest(changed, {public(KEY).fingerprint})
        if place % 16 == 0:  # the other reader of envelopes is asked as well, less often, since it is slower
            with pytest.raises(LicensesError):
                envelope.open_envelope(changed, envelope.RELEASE_TYPE, trusted)
    for longer in (b" " + sealed(), sealed() + b"\n", sealed() + b"\0"):
        with pytest.raises(BundleFormatError):
            open_manifest(longer, None)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "../escape", "docs/../../escape", "docs/./a", "docs//a", "", "a b", "a\\b", "a\n",
        "manifest.dsse", "x" * 256,
    ],
)  # fmt: skip
def test_a_signed_path_may_not_leave_the_folder(path: str) -> None:
    payload = replace(WHOLE, members={path: Member(path, 1, "0" * 64, 0o644)}).to_payload()
    with pytest.raises(BundleFormatError):
        open_manifest(sealed(payload), None)


@pytest.mark.parametrize(
    "change",
    [
        ('"schema":1', '"schema":2'),
        ('"product":"tollgate"', '"product":"other"'),
        ('"mode":"0755"', '"mode":"4755"'),
        ('"size":9', '"size":-9'),
        ('"size":9', '"size":9.0'),
        ('"version":"1.2.3"', '"version":"../1"'),
        ('"version":"1.2.3"', '"version":1'),
        ('"revision":"c0ffee"', '"revision":[]'),
        ('"machine":"x86_64"', '"machine":null'),
        ('"image":"localhost/tollgate:1.2.3"', '"image":{}'),
        ('"installed_bytes":1000', '"installed_bytes":"1000"'),
        ('"installed_bytes":1000', '"installed_bytes":-1'),
        ('"evaluation":true', '"evaluation":1'),
        ('"revision"', '"surprise":1,"revision"'),
        ("{", "[" * 100_000),
    ],
)
def test_a_signed_manifest_of_another_kind_is_refused(change: tuple[str, str]) -> None:
    payload = WHOLE.to_payload().decode().replace(*change, 1)
    with pytest.raises(BundleFormatError):
        open_manifest(sealed(payload.encode()), None)


def test_a_manifest_has_a_bound() -> None:
    with pytest.raises(BundleFormatError, match="more than"):
        open_manifest(b"{" * (release.MAX_MANIFEST_BYTES + 1), None)


def test_the_key_file_is_the_one_that_openssl_reads(tmp_path: Path) -> None:
    path = tmp_path / "release-key.pem"
    path.write_bytes(public(KEY).to_pem())
    loaded = serialization.load_pem_public_key(path.read_bytes())
    assert isinstance(loaded, Ed25519PublicKey)
    assert loaded.public_bytes_raw() == public(KEY).raw
    assert fingerprint_of(str(path)) == public(KEY).fingerprint == fingerprint_of(public(KEY).fingerprint.upper())


@pytest.mark.parametrize(
    "content", [b"", b"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n", b"\xff", b"a\nb\nc"]
)
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(BundleFormatError, match="public key"):
        fingerprint_of(str(path))
    with pytest.raises(BundleFormatError, match="cannot be read"):
        fingerprint_of(str(tmp_path / "nothing"))


def test_the_machines_openssl_judges_as_the_library_does() -> None:
    draw = random.Random(7)
    for _ in range(50):
        message = draw.randbytes(draw.randrange(200))
        signature = KEY.sign(message)
        assert is_signature(KEY.verifying.raw, signature, message)
        place = draw.randrange(64)
        wrong = signature[:place] + bytes([signature[place] ^ 4]) + signature[place + 1 :]
        assert not is_signature(KEY.verifying.raw, wrong, message)
        assert not is_signature(OTHER_KEY.verifying.raw, signature, message)
        assert not is_signature(KEY.verifying.raw, signature, message + b"x")
    assert not is_signature(KEY.verifying.raw, b"", b"")
    assert not is_signature(b"\xff" * 32, bytes(64), b"")


def test_a_release_is_installed_under_its_version_and_content() -> None:
    other = replace(WHOLE, revision="decade")
    assert WHOLE.release_id.startswith("1.2.3-")
    assert WHOLE.release_id != other.release_id
    assert version_numbers("1.10.0") > version_numbers("1.9.9")


def test_the_payload_names_no_key_but_in_base64() -> None:
    payload = WHOLE.to_payload().replace(base64.b64encode(WHOLE.key.raw), b"!!!")
    with pytest.raises(BundleFormatError):
        open_manifest(sealed(payload), None)
    assert isinstance(Manifest.from_payload(WHOLE.to_payload()).key, ReleaseKey)
