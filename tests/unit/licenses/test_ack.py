"""The acknowledgement: two signatures of one ack key over one state of one log, and nothing else passes for it."""

import base64
import dataclasses
import json
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licenses import envelope, issue
from licenses.ack import (
    MAX_ACK_BYTES,
    Ack,
    ack_name,
    acknowledge,
    is_ack_name,
    open_ack,
    read_ack_file,
)
from licenses.device_key import device_id_of
from licenses.errors import (
    BadSignatureError,
    FormatError,
    KeyFileError,
    LicensesError,
    RecordError,
    RevokedKeyError,
    UntrustedKeyError,
)
from licenses.keys import KeyId, SigningKey
from licenses.strict_json import MAX_BYTES, canonical
from licenses.usage_log.note import cosign, open_checkpoint, sign_checkpoint
from tests.fakes.licences import NOW, a_vendor

VENDOR, DEVICE, OTHER_DEVICE = a_vendor(), SigningKey.generate("device"), SigningKey.generate("device")
ROOT, KEY = VENDOR.trust_root, VENDOR.keys.ack_key
ORIGIN = f"{ROOT.vendor}/{device_id_of(DEVICE.verifying.raw)}"
NOTE = sign_checkpoint(ORIGIN, 7, bytes(range(32)), DEVICE)
METER = "CognitiveServices.ComputerVision.Container.ReadPages"


def an_ack(note: str = NOTE, vendor=VENDOR, **changes: object) -> Ack:
    facts: dict[str, object] = {"at": NOW, "totals": {METER: 5}, **changes}
    return acknowledge(note, device=DEVICE.verifying, key=vendor.keys.ack_key, trust_root=vendor.trust_root, **facts)


ACK = an_ack(license_file=b"a licence", revocation=b"a revocation", time_anchor=NOW)
BLOB = ACK.seal(KEY)


def _signed(key: SigningKey = KEY, **changes: object) -> bytes:
    """The acknowledgement with members exchanged (None: left out), signed for all that."""
    members = json.loads(envelope.unverified_payload(BLOB).payload) | changes
    kept = {name: value for name, value in members.items() if value is not None}
    return envelope.seal(canonical(kept), envelope.ACK_TYPE, [key])


def test_ack_is_read_back():
    assert open_ack(BLOB, ROOT) == ACK
    assert open_ack(BLOB + b"\n", ROOT, device=DEVICE.verifying) == ACK
    assert (ACK.size, ACK.root, ACK.totals, ACK.evaluation) == (7, bytes(range(32)), {METER: 5}, False)


def test_short_ack_is_read_back():
    short = an_ack(totals={})
    assert open_ack(short.seal(KEY), ROOT) == short
    assert short.license is short.revocation is short.time_anchor is None


def test_checkpoint_inside_is_the_devices_own():
    assert open_checkpoint(ACK.checkpoint, {ORIGIN: DEVICE.verifying}).size == 7
    assert ACK.checkpoint.startswith(NOTE)


def test_everything_under_an_evaluation_vendor_is_marked():
    vendor = a_vendor(evaluation=True)
    note = sign_checkpoint(f"{vendor.trust_root.vendor}/{device_id_of(DEVICE.verifying.raw)}", 7, bytes(32), DEVICE)
    ack = an_ack(note, vendor)
    assert ack.evaluation
    assert open_ack(ack.seal(vendor.keys.ack_key), vendor.trust_root).evaluation


@pytest.mark.parametrize("key", [VENDOR.issuing_key, VENDOR.keys.root_key, DEVICE, SigningKey.generate("ack")])
def test_only_ack_keys_may_make_one(key):
    with pytest.raises(UntrustedKeyError):
        open_ack(_signed(key), ROOT)
    with pytest.raises(UntrustedKeyError):
        acknowledge(NOTE, device=DEVICE.verifying, key=key, trust_root=ROOT, at=NOW, totals={})


def test_another_vendors_ack_is_not_believed():
    with pytest.raises(UntrustedKeyError):
        open_ack(BLOB, a_vendor().trust_root)


def test_revoked_key_is_named():
    fresh = SigningKey.generate("ack")
    successor = dataclasses.replace(
        ROOT, version=2, ack_keys={fresh.key_id: fresh.verifying}, revoked_key_ids=(KEY.key_id,)
    )
    with pytest.raises(RevokedKeyError, match=KEY.key_id):
        open_ack(BLOB, successor)


def test_both_ack_keys_count_while_they_are_exchanged():
    fresh = SigningKey.generate("ack")
    both = dataclasses.replace(ROOT, version=2, ack_keys={**ROOT.ack_keys, fresh.key_id: fresh.verifying})
    assert open_ack(BLOB, both).key_id == KEY.key_id
    newer = acknowledge(NOTE, device=DEVICE.verifying, key=fresh, trust_root=both, at=NOW, totals={})
    assert open_ack(newer.seal(fresh), both).key_id == fresh.key_id


def test_cosignature_of_another_ack_key_does_not_do():
    fresh = SigningKey.generate("ack")
    both = dataclasses.replace(ROOT, version=2, ack_keys={**ROOT.ack_keys, fresh.key_id: fresh.verifying})
    with pytest.raises(UntrustedKeyError):
        open_ack(_signed(fresh), both)


def test_ack_after_the_trust_root_expired_is_refused():
    late = an_ack(at=ROOT.expires_at)
    with pytest.raises(UntrustedKeyError, match="expired"):
        open_ack(late.seal(KEY), ROOT)


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


OTHER_NOTE = cosign(sign_checkpoint(ORIGIN, 8, bytes(32), DEVICE), f"{ROOT.vendor}/ack", KEY, NOW)
OTHER_NAME = cosign(NOTE, "other.example/ack", KEY, NOW)
STRANGER = cosign(NOTE, f"{ROOT.vendor}/ack", SigningKey.generate("ack"), NOW)
LATER = cosign(NOTE, f"{ROOT.vendor}/ack", KEY, NOW + timedelta(seconds=1))
BROKEN = ACK.checkpoint[:-30] + ("A" if ACK.checkpoint[-30] != "A" else "B") + ACK.checkpoint[-29:]

WRONG = {
    "other_origin": ({"origin": "vendor.example/ffffffffffffffff"}, FormatError),
    "other_size": ({"size": 8}, FormatError),
    "other_root": ({"root": "00" * 32}, FormatError),
    "other_checkpoint": ({"checkpoint": _b64(OTHER_NOTE)}, FormatError),
    "no_cosignature": ({"checkpoint": _b64(NOTE)}, UntrustedKeyError),
    "cosigned_under_another_name": ({"checkpoint": _b64(OTHER_NAME)}, UntrustedKeyError),
    "cosigned_by_a_stranger": ({"checkpoint": _b64(STRANGER)}, UntrustedKeyError),
    "cosigned_at_another_time": ({"checkpoint": _b64(LATER)}, BadSignatureError),
    "cosignature_does_not_fit": ({"checkpoint": _b64(BROKEN)}, BadSignatureError),
    "told_another_time": ({"acknowledged_at": "2027-01-16T12:00:00Z"}, BadSignatureError),
    "anchor_after_itself": ({"time_anchor": "2027-01-15T12:00:01Z"}, FormatError),
    "checkpoint_no_note": ({"checkpoint": _b64("hello\n")}, FormatError),
    "checkpoint_no_base64": ({"checkpoint": "!!!!"}, FormatError),
    "checkpoint_loose_base64": ({"checkpoint": "YR=="}, FormatError),
    "checkpoint_no_utf8": ({"checkpoint": base64.b64encode(b"\xff").decode()}, FormatError),
    "checkpoint_missing": ({"checkpoint": None}, FormatError),
    "license_empty": ({"license": ""}, FormatError),
    "license_too_long": ({"license": base64.b64encode(bytes(MAX_BYTES + 1)).decode()}, FormatError),
    "unknown_member": ({"price": 1}, FormatError),
    "schema_2": ({"schema": 2}, FormatError),
    "meter_twice": ({"totals": [{"name": "a", "quantity": 1}] * 2}, FormatError),
    "negative_total": ({"totals": [{"name": "a", "quantity": -1}]}, FormatError),
    "too_many_meters": ({"totals": [{"name": f"m{i}", "quantity": 1} for i in range(65)]}, FormatError),
}


@pytest.mark.parametrize(("changes", "error"), WRONG.values(), ids=WRONG)
def test_ack_that_says_something_else_is_refused_though_signed(changes, error):
    assert open_ack(_signed(), ROOT) == ACK
    with pytest.raises(error):
        open_ack(_signed(**changes), ROOT)


def test_ack_of_another_device_is_refused_where_the_device_is_known():
    with pytest.raises(UntrustedKeyError, match="not of the device"):
        open_ack(BLOB, ROOT, device=OTHER_DEVICE.verifying)
    forged = cosign(sign_checkpoint(ORIGIN, 7, bytes(range(32)), OTHER_DEVICE), f"{ROOT.vendor}/ack", KEY, NOW)
    with pytest.raises(UntrustedKeyError):
        open_ack(_signed(checkpoint=_b64(forged)), ROOT, device=DEVICE.verifying)


def test_vendor_does_not_acknowledge_what_the_device_did_not_sign():
    for note in (
        sign_checkpoint(ORIGIN, 7, bytes(32), OTHER_DEVICE),
        sign_checkpoint(f"{ROOT.vendor}/ffffffffffffffff", 7, bytes(32), DEVICE),
        sign_checkpoint(ORIGIN, 7, bytes(32), DEVICE).replace("\n7\n", "\n8\n"),
    ):
        with pytest.raises(LicensesError):
            an_ack(note)


def test_ack_is_signed_by_the_key_that_cosigned():
    with pytest.raises(FormatError):
        ACK.seal(dataclasses.replace(KEY, key_id=KeyId("ack-0000000000000000")))


def test_other_signed_files_are_no_acks():
    with pytest.raises(FormatError, match="this is a licence"):
        open_ack(VENDOR.seal(), ROOT)
    relabelled = envelope.seal(envelope.unverified_payload(BLOB).payload, envelope.LICENSE_TYPE, [KEY])
    with pytest.raises(FormatError):
        open_ack(relabelled, ROOT)


def test_too_long_a_file_is_refused_unread(tmp_path):
    with pytest.raises(FormatError, match="too many"):
        open_ack(b"{" * (MAX_ACK_BYTES + 1), ROOT)
    long = tmp_path / "ack"
    long.write_bytes(b"{" * (MAX_ACK_BYTES + 1))
    with pytest.raises(FormatError):
        read_ack_file(long)
    with pytest.raises(KeyFileError):
        read_ack_file(tmp_path / "none")


def test_largest_files_inside_fit():
    large = an_ack(license_file=bytes(MAX_BYTES), revocation=bytes(MAX_BYTES))
    assert open_ack(large.seal(KEY), ROOT) == large
    with pytest.raises(FormatError):
        an_ack(license_file=bytes(MAX_BYTES + 1))


def test_name():
    assert ACK.file_name == f"ack-{ORIGIN.replace('/', '-')}-7.dsse.json" == ack_name(ORIGIN, 7)
    assert is_ack_name(ACK.file_name)
    assert not any(
        map(is_ack_name, ("ack.dsse.json", "ack-x-07.dsse.json", ACK.file_name + "x", "usage-x-7.dsse.json"))
    )


def test_armour_is_taken_off():
    assert open_ack(envelope.armour(BLOB, envelope.ACK_TYPE), ROOT) == ACK


@given(st.integers(0, len(BLOB) - 1), st.integers(1, 255))
def test_no_byte_can_change(position, flip):
    changed = bytearray(BLOB)
    changed[position] ^= flip
    with pytest.raises(LicensesError):
        open_ack(bytes(changed), ROOT)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_nothing_else(blob):
    with pytest.raises(LicensesError):
        open_ack(blob, ROOT)


def test_issued_vendor_opens_its_own_ack(tmp_path):
    issue.save_vendor(VENDOR.keys, tmp_path)
    with pytest.raises(RecordError):
        an_ack("no note")
