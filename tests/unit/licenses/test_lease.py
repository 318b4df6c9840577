"""Leases: what makes the core refuse."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licenses import envelope
from licenses.errors import BadSignatureError, FormatError, LicensesError, UntrustedKeyError
from licenses.keyring import SigningKey
from licenses.lease import open_lease, seal_lease
from tests.fakes.licences import NOW, a_lease, a_license

DEVICE, OTHER = SigningKey.generate("device"), SigningKey.generate("device")
LEASE = a_lease()
PRESENTED = {
    "boot_id": LEASE.boot_id,
    "boottime_ms": LEASE.from_boottime_ms,
    "license_id": a_license().license_id,
    "sequence": 1,
}


def test_lease_opens_with_the_device_key():
    assert open_lease(seal_lease(LEASE, DEVICE), DEVICE.verifying) == LEASE


def test_lease_of_another_device_is_refused():
    with pytest.raises(UntrustedKeyError):
        open_lease(seal_lease(LEASE, OTHER), DEVICE.verifying)
    with pytest.raises(BadSignatureError):
        open_lease(seal_lease(LEASE, SigningKey(DEVICE.key_id, OTHER.private)), DEVICE.verifying)


HONOURED = {
    "first_instant": {},
    "last_instant": {"boottime_ms": LEASE.until_boottime_ms - 1},
}
REFUSED = {
    "before": ({"boottime_ms": LEASE.from_boottime_ms - 1}, "has not begun"),
    "end": ({"boottime_ms": LEASE.until_boottime_ms}, "ended 0 s ago"),
    "after": ({"boottime_ms": LEASE.until_boottime_ms + 61_000}, "ended 61 s ago"),
    "other_boot": ({"boot_id": "other"}, "restarted"),
    "other_licence": ({"license_id": "other"}, "in force is other sequence 1"),
    "renewed_licence": ({"sequence": 2}, "sequence 2"),
}


@pytest.mark.parametrize("changes", HONOURED.values(), ids=HONOURED)
def test_lease_is_honoured(changes):
    assert LEASE.refusal(**{**PRESENTED, **changes}) is None


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED)
def test_lease_is_refused(changes, words):
    assert words in str(LEASE.refusal(**{**PRESENTED, **changes}))


def test_effective_time_follows_boottime_within_the_window():
    assert LEASE.effective_at(LEASE.from_boottime_ms) == NOW
    assert LEASE.effective_at(LEASE.from_boottime_ms + 1500) == NOW + timedelta(milliseconds=1500)
    assert LEASE.effective_at(0) == NOW
    assert LEASE.effective_at(10**15) == NOW + timedelta(minutes=20)


@pytest.mark.parametrize(
    "changes",
    [
        {"until_boottime_ms": LEASE.from_boottime_ms},
        {"from_boottime_ms": -1},
        {"effective_ms": -(10**12)},
        {"effective_ms": int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp() * 1000)},
    ],
)
def test_lease_without_sense_cannot_be_made(changes):
    with pytest.raises(FormatError):
        a_lease(**changes)


@pytest.mark.parametrize("payload", [b"", b"{}", b"[]", LEASE.to_payload()[:-1] + b',"z":1}'])
def test_signed_payload_that_is_no_lease_is_refused(payload):
    with pytest.raises(FormatError):
        open_lease(envelope.seal(payload, envelope.LEASE_TYPE, [DEVICE]), DEVICE.verifying)


def test_licence_is_no_lease():
    blob = envelope.seal(LEASE.to_payload(), envelope.LICENSE_TYPE, [DEVICE])
    with pytest.raises(FormatError):
        open_lease(blob, DEVICE.verifying)


def test_lease_fits_an_http_header():
    assert len(seal_lease(LEASE, DEVICE)) < 1500


@given(st.integers(0, len(seal_lease(LEASE, DEVICE)) - 1), st.integers(1, 255))
@settings(deadline=None)
def test_no_byte_of_a_lease_can_change(position, flip):
    blob = bytearray(seal_lease(LEASE, DEVICE))
    blob[position] ^= flip
    with pytest.raises(LicensesError):
        open_lease(bytes(blob), DEVICE.verifying)
