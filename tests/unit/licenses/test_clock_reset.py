"""The clock reset: one licence, one device, one time, a short while."""

import dataclasses
from datetime import timedelta

import pytest

from licenses import envelope
from licenses.clock_reset import LONGEST, ClockReset, open_clock_reset
from licenses.errors import FormatError, LicensesError, UntrustedKeyError
from licenses.issue import seal_clock_reset
from licenses.keys import SigningKey
from tests.fakes.licences import NOW, a_license, a_vendor

VENDOR, DEVICE = a_vendor(), SigningKey.generate("device").verifying
DAY = timedelta(days=1)
RESET = ClockReset(
    token_id="0f7e3c1a-4a6b-4f0e-9d57-0a1b2c3d4e5f",
    license_id=a_license().license_id,
    device_public=DEVICE.raw,
    not_earlier_than=NOW - DAY,
    issued_at=NOW,
    expires_at=NOW + 7 * DAY,
    key_id=VENDOR.issuing_key.key_id,
)
HERE = {"wall": NOW, "license_id": RESET.license_id, "device_public": DEVICE.raw, "used_token_ids": ()}


def test_token_is_read_back():
    assert open_clock_reset(seal_clock_reset(RESET, VENDOR.issuer), VENDOR.trust_root) == RESET


def test_token_of_an_evaluation_vendor_says_so():
    vendor = a_vendor(evaluation=True)
    assert open_clock_reset(seal_clock_reset(RESET, vendor.issuer), vendor.trust_root).evaluation


def test_only_issuing_keys_may_make_one():
    for key in (VENDOR.keys.root_key, VENDOR.keys.ack_key, SigningKey.generate("device")):
        blob = envelope.seal(RESET.to_payload(), envelope.CLOCK_RESET_TYPE, [key])
        with pytest.raises(UntrustedKeyError):
            open_clock_reset(blob, VENDOR.trust_root)


def test_licence_is_no_token_and_a_token_no_licence():
    with pytest.raises(FormatError, match="this is a licence"):
        open_clock_reset(VENDOR.seal(), VENDOR.trust_root)
    relabelled = envelope.seal(RESET.to_payload(), envelope.LICENSE_TYPE, [VENDOR.issuing_key])
    with pytest.raises(FormatError):
        open_clock_reset(relabelled, VENDOR.trust_root)


CASES = {
    "honoured": ({}, None),
    "used": ({"used_token_ids": {RESET.token_id}}, "used before"),
    "another_used": ({"used_token_ids": {"x"}}, None),
    "other_licence": ({"license_id": "other"}, "in force is other"),
    "other_device": ({"device_public": bytes(32)}, "not for this one"),
    "no_device_key": ({"device_public": None}, "not for this one"),
    "first_instant": ({"wall": RESET.not_earlier_than}, None),
    "clock_too_early": ({"wall": RESET.not_earlier_than - timedelta(seconds=1)}, "set it first"),
    "last_instant": ({"wall": RESET.expires_at - timedelta(seconds=1)}, None),
    "clock_still_ahead": ({"wall": RESET.expires_at}, "was good until"),
}


@pytest.mark.parametrize(("facts", "words"), CASES.values(), ids=CASES)
def test_refusal(facts, words):
    refusal = RESET.refusal(**{**HERE, **facts})
    if words is None:
        assert refusal is None
    else:
        assert words in refusal


def test_time_goes_down_to_the_hosts_clock_and_never_below_the_bound():
    assert RESET.lowered(NOW + DAY) == NOW + DAY
    assert RESET.lowered(NOW - 9 * DAY) == RESET.not_earlier_than


BAD = {
    "token_id": {"token_id": "1"},
    "device": {"device_public": b"x"},
    "expires_before_issue": {"expires_at": NOW},
    "good_for_too_long": {"expires_at": NOW + LONGEST + DAY},
    "bound_after_issue": {"not_earlier_than": NOW + DAY},
}


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD)
def test_bad_token_does_not_exist(changes):
    with pytest.raises(LicensesError):
        dataclasses.replace(RESET, **changes)
