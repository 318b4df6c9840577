"""The licence as a value: complete, consistent, and read strictly."""

import contextlib
import dataclasses
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licenses.errors import FormatError
from licenses.host import HostFactors
from licenses.keyring import KeyId
from licenses.model import (
    READ_PAGES_METER,
    LedgerAnchor,
    License,
    Meter,
    Reporting,
    Revoked,
    version_numbers,
)
from licenses.strict_json import canonical
from tests.fakes.licences import NOW, a_license

FULL = a_license(
    customer="Krankenhaus Stra\u00dfe \U0001f3e5",
    features=("handwriting", "languages:deu"),
    evaluation=True,
    bindings=HostFactors(machine_id="m", operator_id="ward-7").bind(threshold=1),
    meters=(Meter(name=READ_PAGES_METER, unit="page", soft=90, hard=100, overage_allowed=True),),
    reporting=Reporting(max_unacked_days=30, max_unacked_units=1000),
    device_pubkey=bytes(range(32)),
    ledger_anchor=LedgerAnchor(origin="vendor.example/0123456789abcdef", size=7, root=bytes(32)),
    revoked=Revoked(sequence=3, license_ids=("old",), key_ids=("issuing-0123456789abcdef",)),
    time_anchor=NOW,
    min_version="0.1",
)


@pytest.mark.parametrize("lic", [a_license(), FULL], ids=["plain", "full"])
def test_licence_is_read_back(lic):
    assert License.from_payload(lic.to_payload(), key_id=lic.key_id) == lic


def test_signer_is_not_part_of_the_payload():
    lic = License.from_payload(a_license().to_payload(), key_id=KeyId("another"))
    assert lic.key_id == "another"


def _payload(**changes: object) -> bytes:
    members = {**json.loads(FULL.to_payload()), **changes}
    return canonical({name: value for name, value in members.items() if value is not ...})


METER = json.loads(FULL.to_payload())["meters"][0]
FACTOR = json.loads(FULL.to_payload())["bindings"]["factors"][0]

BAD = {
    "unknown_member": {"extra": 1},
    "schema_2": {"schema": 2},
    "other_product": {"product": "other"},
    "license_id_empty": {"license_id": ""},
    "license_id_path": {"license_id": "../x"},
    "license_id_number": {"license_id": 7},
    "sequence_0": {"sequence": 0},
    "sequence_text": {"sequence": "1"},
    "sequence_true": {"sequence": True},
    "customer_missing": {"customer": ...},
    "customer_line_break": {"customer": "a\nb"},
    "customer_too_long": {"customer": "x" * 257},
    "container_types_empty": {"container_types": []},
    "container_types_text": {"container_types": "computervisionread"},
    "container_types_twice": {"container_types": ["a", "a"]},
    "feature_with_space": {"features": ["a b"]},
    "evaluation_text": {"evaluation": "false"},
    "evaluation_missing": {"evaluation": ...},
    "begins_as_it_ends": {"not_before": "2027-12-31T23:59:59Z"},
    "terminates_before_expiry": {"termination_at": "2027-12-31T23:59:58Z"},
    "day_only": {"expires_at": "2027-12-31"},
    "local_time": {"expires_at": "2027-12-31T23:59:59+01:00"},
    "meter_twice": {"meters": [METER, METER]},
    "meter_unknown_member": {"meters": [{**METER, "price": 1}]},
    "meter_soft_above_hard": {"meters": [{**METER, "soft": 101}]},
    "meter_negative": {"meters": [{**METER, "hard": -1}]},
    "meters_17": {"meters": [{**METER, "name": f"m{n}"} for n in range(17)]},
    "binding_threshold_0": {"bindings": {"threshold": 0, "factors": [FACTOR], "salt": "00" * 16}},
    "binding_threshold_too_high": {"bindings": {"threshold": 2, "factors": [FACTOR], "salt": "00" * 16}},
    "binding_without_salt": {"bindings": {"threshold": 1, "factors": [FACTOR]}},
    "binding_salt_short": {"bindings": {"threshold": 1, "factors": [FACTOR], "salt": "00"}},
    "binding_floating_with_threshold": {"bindings": {"threshold": 1, "factors": []}},
    "binding_factor_unknown": {"bindings": {"threshold": 1, "factors": [{**FACTOR, "name": "mac"}], "salt": "00" * 16}},
    "binding_factor_twice": {"bindings": {"threshold": 1, "factors": [FACTOR, FACTOR], "salt": "00" * 16}},
    "device_pubkey_short": {"device_pubkey": "00"},
    "device_pubkey_null": {"device_pubkey": None},
    "ledger_anchor_root_short": {"ledger_anchor": {"origin": "o", "size": 1, "root": "00"}},
    "revoked_unknown_member": {"revoked": {"sequence": 0, "license_ids": [], "key_ids": [], "all": True}},
    "min_version_words": {"min_version": "newest"},
    "time_anchor_number": {"time_anchor": 1},
}


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD)
def test_bad_payload_is_refused(changes):
    with pytest.raises(FormatError):
        License.from_payload(_payload(**changes), key_id=FULL.key_id)


@given(
    st.sampled_from(sorted(json.loads(FULL.to_payload()))), st.none() | st.integers() | st.text() | st.lists(st.none())
)
def test_any_member_of_any_value_raises_nothing_else(name, value):
    with contextlib.suppress(FormatError):
        License.from_payload(_payload(**{name: value}), key_id=FULL.key_id)


@pytest.mark.parametrize(
    "changes",
    [
        {"not_before": NOW.replace(tzinfo=None)},
        {"not_before": NOW.astimezone(timezone(timedelta(hours=1)))},
        {"issued_at": NOW.replace(microsecond=1)},
        {"license_id": "a b"},
        {"device_pubkey": b"short"},
    ],
)
def test_inconsistent_licence_cannot_be_made(changes):
    with pytest.raises(FormatError):
        a_license(**changes)


def test_meter_is_found_by_name():
    assert FULL.meter() == FULL.meters[0]
    assert FULL.meter("other") is None


def test_licence_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.customer = "x"  # type: ignore[misc]


def test_years_at_the_edge_are_read_back():
    lic = a_license(
        expires_at=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
        termination_at=datetime.max.replace(tzinfo=UTC, microsecond=0),
    )
    assert License.from_payload(lic.to_payload(), key_id=lic.key_id) == lic


@pytest.mark.parametrize(
    ("lower", "higher"), [("0.1.0", "0.1.1"), ("0.9", "0.10"), ("1", "1.0.1"), ("3.2.0-local", "3.2.1"), ("", "0.0.1")]
)
def test_versions_compare_by_number(lower, higher):
    assert version_numbers(lower) < version_numbers(higher)
