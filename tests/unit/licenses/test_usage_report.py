"""Usage reports: what is signed, what is refused, and how one travels in the public request body."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licenses import envelope, usage_report
from licenses.device_key import device_id_of
from licenses.errors import BadSignatureError, FormatError, LicensesError, UntrustedKeyError
from licenses.keyring import SigningKey
from licenses.model import READ_PAGES_METER
from licenses.strict_json import canonical
from licenses.usage_log.entry import MAX_QUANTITY, leaf_hash
from licenses.usage_log.merkle import consistency_proof, root_of
from licenses.usage_log.note import sign_checkpoint
from licenses.usage_report import (
    MAX_SUMS,
    MAX_UNITS,
    UsageReport,
    UsageRequest,
    open_report,
    seal_report,
    unverified_origin,
)
from tests.fakes.licences import NOW

DEVICE, OTHER = SigningKey.generate("device"), SigningKey.generate("device")
ORIGIN = f"vendor.example/{device_id_of(DEVICE.verifying.raw)}"
OTHER_ORIGIN = f"vendor.example/{device_id_of(OTHER.verifying.raw)}"
ROOT = bytes(range(32))


def a_report(*, origin: str = ORIGIN, key: SigningKey = DEVICE, size: int = 20, **changes: object) -> UsageReport:
    """A report of twelve pages over the turn of a month."""
    members = {
        "id": "5b1e5f0e-2c77-4c0e-8f7d-6a3f0f7f9b10",
        "origin": origin,
        "since": 10,
        "size": size,
        "checkpoint": sign_checkpoint(origin, size, ROOT, key),
        "totals": {READ_PAGES_METER: {"2026-12": 5, "2027-01": 7}},
        "closed_at": NOW,
        "license_id": "6f1c2a9e-0d2b-4d8e-9a57-3f1f6d1f2b10",
        "product_version": "1.0.0",
    }
    return UsageReport(**members | changes)


def a_request(of: UsageReport | None = None, **changes: object) -> UsageRequest:
    """The request that carries `a_report()`."""
    report = a_report() if of is None else of
    request = UsageRequest(
        id=report.id,
        container_type="ComputerVision.ComputerVisionRead",
        container_version="3.2.0-local",
        container_id="c0ffee123456",
        meter=READ_PAGES_METER,
        quantity=12,
        request_time=1893456000,
        api_type="computervision",
        report=seal_report(report, DEVICE),
    )
    return dataclasses.replace(request, **changes)


def test_report_opens_with_the_device_key():
    report = open_report(seal_report(a_report(), DEVICE), DEVICE.verifying)
    assert report == a_report()
    assert report.root == ROOT
    assert (report.quantity(READ_PAGES_METER), report.quantity("other")) == (12, 0)


@pytest.mark.parametrize(
    ("totals", "entries"),
    [
        ({READ_PAGES_METER: {"2027-01": MAX_QUANTITY * 10 + 1}}, 10),
        ({READ_PAGES_METER: {"2026-12": MAX_QUANTITY * 10, "2027-01": 1}}, 10),
        ({READ_PAGES_METER: {"2027-01": MAX_QUANTITY * 9}, "other": {"2027-01": MAX_QUANTITY + 1}}, 10),
        ({READ_PAGES_METER: {"2027-01": MAX_UNITS + 1}}, 2**40),
        ({READ_PAGES_METER: {f"{year}-01": MAX_UNITS // 100 for year in range(2000, 2101)}}, 2**40),
        ({READ_PAGES_METER: {"2027-01": 2**53 - 1}}, 2**40),
    ],
)
def test_report_tells_of_no_more_than_its_entries_can_hold(totals, entries):
    with pytest.raises(FormatError, match="units") as told:
        a_report(size=10 + entries, totals=totals)
    assert "entries" in told.value.next_step


@pytest.mark.parametrize(("units", "entries"), [(MAX_QUANTITY * 10, 10), (10**9, 10**9), (MAX_UNITS, 2**40)])
def test_the_fullest_report_and_that_of_the_longest_outage_are_reports(units, entries):
    report = a_report(size=10 + entries, totals={READ_PAGES_METER: {"2027-01": units}})
    assert open_report(seal_report(report, DEVICE), DEVICE.verifying) == report
    request = a_request(report, quantity=units)
    assert UsageRequest.from_body(request.to_body()) == request


def test_request_tells_of_no_more_than_a_report_may():
    assert a_request(quantity=MAX_UNITS).quantity == MAX_UNITS
    with pytest.raises(FormatError, match="1,000,000,000,001 units") as told:
        UsageRequest.from_body(a_request(quantity=MAX_UNITS).to_body().replace(b"000000000}", b"000000001}"))
    assert "id of its own" in told.value.next_step


def a_proven_report(old: int = 10, size: int = 20, **changes: object) -> UsageReport:
    """A report that proves what it continues."""
    leaves = [leaf_hash(b"%d" % number) for number in range(size)]
    return a_report(
        **{
            "since": old,
            "size": size,
            "checkpoint": sign_checkpoint(ORIGIN, size, root_of(leaves), DEVICE),
            "since_root": root_of(leaves[:old]),
            "proof": tuple(consistency_proof(leaves, old)),
            **changes,
        }
    )


@pytest.mark.parametrize(("old", "size"), [(1, 2), (8, 16), (10, 20), (63, 64), (64, 100)])
def test_report_proves_what_it_continues(old, size):
    report = a_proven_report(old, size)
    assert open_report(seal_report(report, DEVICE), DEVICE.verifying) == report


@pytest.mark.parametrize(
    "changes", [{"since_root": ROOT}, {"since_root": None}, {"proof": ()}, {"since": 9}, {"since": 0}]
)
def test_report_that_does_not_continue_what_it_says_is_refused(changes):
    with pytest.raises(FormatError):
        a_proven_report(**changes)


def test_window_without_use_is_reported():
    report = a_report(totals={}, license_id="")
    assert open_report(seal_report(report, DEVICE), DEVICE.verifying) == report


def test_report_of_another_device_is_refused():
    blob = seal_report(a_report(origin=OTHER_ORIGIN, key=OTHER), OTHER)
    assert unverified_origin(blob) == OTHER_ORIGIN
    with pytest.raises(UntrustedKeyError):
        open_report(blob, DEVICE.verifying)


def test_report_of_the_log_of_another_device_is_refused():
    report = a_report(origin=OTHER_ORIGIN, key=OTHER)
    blob = envelope.seal(report.to_payload(), usage_report.PAYLOAD_TYPE, [DEVICE])
    with pytest.raises(UntrustedKeyError, match="not of the device"):
        open_report(blob, DEVICE.verifying)


def test_checkpoint_of_another_signer_is_refused():
    report = a_report(checkpoint=sign_checkpoint(ORIGIN, 20, ROOT, OTHER))
    blob = envelope.seal(report.to_payload(), usage_report.PAYLOAD_TYPE, [DEVICE])
    with pytest.raises(UntrustedKeyError):
        open_report(blob, DEVICE.verifying)
    with pytest.raises(UntrustedKeyError):
        seal_report(report, DEVICE)


def test_forged_signature_is_refused():
    blob = envelope.seal(a_report().to_payload(), usage_report.PAYLOAD_TYPE, [SigningKey(DEVICE.key_id, OTHER.private)])
    with pytest.raises(BadSignatureError):
        open_report(blob, DEVICE.verifying)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "5B1E5F0E-2c77-4c0e-8f7d-6a3f0f7f9b10"},
        {"id": "not a guid"},
        {"since": 20},
        {"since": -1},
        {"checkpoint": sign_checkpoint(ORIGIN, 21, ROOT, DEVICE)},
        {"checkpoint": sign_checkpoint(OTHER_ORIGIN, 20, ROOT, DEVICE)},
        {"checkpoint": "no note"},
        {"totals": {"m": {"2027-13": 1}}},
        {"totals": {"m": {"2027-1": 1}}},
        {"totals": {"m": {"2027-01": 0}}},
        {"totals": {"m": {"2027-01": -1}}},
        {"totals": {"m": {"2027-01": 2**53}}},
        {"totals": {"m": {"2027-01": 1.0}}},
        {"totals": {"m": {}}},
        {"totals": {f"m{number}": {"2027-01": 1} for number in range(MAX_SUMS + 1)}},
    ],
)
def test_impossible_report_is_refused(changes):
    with pytest.raises(FormatError):
        a_report(**changes)


def test_largest_report_fits():
    totals = {"m" * 120 + f"{number:08}": {"2027-01": MAX_UNITS // MAX_SUMS} for number in range(MAX_SUMS)}
    report = a_report(size=10 + 2**40, totals=totals)
    blob = seal_report(report, DEVICE)
    assert len(blob) <= usage_report.MAX_REPORT_BYTES
    assert UsageRequest.from_body(a_request(report).to_body()).report == blob


def _resealed(**changes: object) -> bytes:
    members = json.loads(a_report().to_payload()) | changes
    return envelope.seal(canonical(members), usage_report.PAYLOAD_TYPE, [DEVICE])


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"surplus": 1},
        {"checkpoint": "%%%"},
        {"closed_at": "2027-01-15T12:00:00+00:00"},
        {"totals": [{"meter": "m", "month": "2027-01", "quantity": 1}] * 2},
        {"totals": [{"meter": m, "month": "2027-01", "quantity": 1} for m in "ba"]},
        {"totals": [{"meter": "m", "month": "2027-01", "quantity": 0}]},
        {"totals": [{"meter": "m", "month": "2027-01", "quantity": MAX_QUANTITY * 10 + 1}]},
        {"totals": {}},
        {"proof": []},
        {"since_root": ROOT.hex(), "proof": ["00"]},
    ],
)
def test_signed_nonsense_is_refused(changes):
    with pytest.raises(FormatError):
        open_report(_resealed(**changes), DEVICE.verifying)


@given(at=st.integers(min_value=0), byte=st.integers(0, 255))
@settings(max_examples=300)
def test_no_changed_byte_passes(at, byte):
    blob = bytearray(_SEALED)
    at %= len(blob)
    if blob[at] == byte:
        return
    blob[at] = byte
    with pytest.raises(LicensesError):
        open_report(bytes(blob), DEVICE.verifying)


@given(blob=st.binary(max_size=300))
def test_anything_else_is_refused_in_the_family(blob):
    for read in (lambda: open_report(blob, DEVICE.verifying), lambda: UsageRequest.from_body(blob)):
        with pytest.raises(LicensesError):
            read()


# ---- the public body -------------------------------------------------------------------------------------------------


def test_request_travels_with_its_report():
    request = a_request()
    read = UsageRequest.from_body(request.to_body())
    assert read == request
    assert read.report is not None
    report = open_report(read.report, DEVICE.verifying)
    read.require_same(report)


def test_request_of_the_public_example_is_read():
    body = (
        b'{"id":"5B1E5F0E-2c77-4c0e-8f7d-6a3f0f7f9b10","containerType":"ComputerVision.ComputerVisionRead",\n'
        b' "containerVersion":"3.2.0-local","containerId":"c0ffee123456",\n'
        b' "meter":{"name":"CognitiveServices.ComputerVision.Container.ReadPages","quantity":12.0},'
        b'"requestTime":1893456000,"apiType":"computervision"}'
    )
    assert UsageRequest.from_body(body) == a_request(report=None)


@pytest.mark.parametrize("quantity", ["12.5", "1e3", "-1", "-1.0", "true", '"12"', "NaN", "1" * 20, "1" * 18 + ".0"])
def test_quantity_that_is_no_whole_number_is_refused(quantity):
    body = a_request(report=None).to_body().replace(b":12}", f":{quantity}}}".encode())
    with pytest.raises(FormatError):
        UsageRequest.from_body(body)


@pytest.mark.parametrize(
    "changes", [{"id": "6b1e5f0e-2c77-4c0e-8f7d-6a3f0f7f9b10"}, {"quantity": 11}, {"meter": "another"}]
)
def test_request_that_says_other_than_its_report_is_refused(changes):
    with pytest.raises(FormatError):
        a_request(**changes).require_same(a_report())


_SEALED = seal_report(a_report(), DEVICE)
