"""From bytes to a licence, and the judgement."""

import dataclasses
import time
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licenses import envelope
from licenses.errors import BadSignatureError, FormatError, LicensesError, UntrustedKeyError
from licenses.host import HostFactors
from licenses.keyring import SigningKey, TrustRoot
from licenses.model import LedgerAnchor, License, Reporting, Revoked
from licenses.usage_log.merkle import root_of
from licenses.verify import (
    NEXT_STEPS,
    Standing,
    anchor_refusal,
    day_text,
    judge,
    open_license,
    reporting_refusal,
    time_left_text,
)
from tests.fakes.licences import NOW, a_license, a_vendor

VENDOR = a_vendor()
SECOND = timedelta(seconds=1)
LIC = a_license()
HOST = HostFactors(machine_id="m1", product_uuid="p1", operator_id="ward-7")


# ---- opening --------------------------------------------------------------------------------------------------------


def test_licence_opens_under_its_vendor():
    lic = open_license(VENDOR.seal(LIC), VENDOR.trust_root)
    assert lic == a_license(key_id=VENDOR.issuing_key.key_id)
    assert not lic.evaluation


def test_armoured_licence_opens():
    blob = envelope.armour(VENDOR.seal(LIC), envelope.LICENSE_TYPE)
    assert open_license(blob, VENDOR.trust_root).license_id == LIC.license_id


def test_licence_of_another_vendor_is_untrusted():
    with pytest.raises(UntrustedKeyError):
        open_license(a_vendor().seal(LIC), VENDOR.trust_root)


@pytest.mark.parametrize("role", ["root_key", "ack_key"])
def test_other_roles_may_not_issue(role):
    key: SigningKey = getattr(VENDOR.keys, role)
    with pytest.raises(UntrustedKeyError):
        open_license(envelope.seal(LIC.to_payload(), envelope.LICENSE_TYPE, [key]), VENDOR.trust_root)


def test_signed_payload_that_is_no_licence_is_refused():
    blob = envelope.seal(b"{}", envelope.LICENSE_TYPE, [VENDOR.issuing_key])
    with pytest.raises(FormatError):
        open_license(blob, VENDOR.trust_root)


def test_every_flipped_byte_is_refused():
    blob = VENDOR.seal(LIC)
    for position in range(len(blob)):
        edited = bytearray(blob)
        edited[position] ^= 1 << position % 8
        with pytest.raises(LicensesError):
            open_license(bytes(edited), VENDOR.trust_root)


def test_more_pages_written_into_a_good_file_are_refused():
    blob = VENDOR.seal(a_license(page_limit=100))
    payload = envelope.unverified_payload(blob).payload
    richer = payload.replace(b'"hard":100', b'"hard":999')
    assert richer != payload
    signature = envelope.unverified_payload(blob).signatures[0]
    forged = envelope._spell(richer, envelope.LICENSE_TYPE, [(VENDOR.issuing_key.key_id, signature)])
    with pytest.raises(BadSignatureError):
        open_license(forged, VENDOR.trust_root)


def test_evaluation_vendor_makes_evaluation_licences():
    vendor = a_vendor(evaluation=True)
    assert open_license(vendor.seal(LIC), vendor.trust_root).evaluation


def test_evaluation_key_marks_the_licence_whatever_it_says():
    evaluation = a_vendor(evaluation=True)
    keys = {**VENDOR.trust_root.issuing_keys, **evaluation.trust_root.issuing_keys}
    root = dataclasses.replace(VENDOR.trust_root, issuing_keys=keys)
    claims_production = envelope.seal(LIC.to_payload(), envelope.LICENSE_TYPE, [evaluation.issuing_key])
    assert not LIC.evaluation
    assert open_license(claims_production, root).evaluation
    both = envelope.seal(LIC.to_payload(), envelope.LICENSE_TYPE, [VENDOR.issuing_key, evaluation.issuing_key])
    assert open_license(both, root).evaluation


def test_evaluation_licence_may_come_from_a_production_key():
    assert open_license(VENDOR.seal(a_license(evaluation=True)), VENDOR.trust_root).evaluation


def test_licence_issued_after_the_trust_root_expired_is_refused():
    def root(expires_at: object) -> TrustRoot:
        return dataclasses.replace(VENDOR.trust_root, expires_at=expires_at)  # type: ignore[arg-type]

    blob = VENDOR.seal(LIC)
    open_license(blob, root(LIC.issued_at + SECOND))
    with pytest.raises(UntrustedKeyError, match="had expired"):
        open_license(blob, root(LIC.issued_at))


def test_load_and_verify_is_quick():
    blob, root = VENDOR.seal(LIC), VENDOR.trust_root
    open_license(blob, root)
    started = time.perf_counter()
    for _ in range(50):
        judge(open_license(blob, root), at=NOW)
    assert (time.perf_counter() - started) / 50 < 0.005


# ---- judging --------------------------------------------------------------------------------------------------------

BOUND = a_license(bindings=HOST.bind(threshold=2))
OTHER_HOST = HostFactors(machine_id="m2", product_uuid="p2", operator_id="ward-7")
SWAPPED_PART = HostFactors(machine_id="m1", product_uuid="p2", operator_id="WARD-7 ")
DEVICE = a_license(device_pubkey=bytes(32))

CASES = {
    "valid": (LIC, {}, Standing.VALID),
    "first_instant": (LIC, {"at": LIC.not_before}, Standing.VALID),
    "before_first_instant": (LIC, {"at": LIC.not_before - SECOND}, Standing.NOT_YET_VALID),
    "last_instant": (LIC, {"at": LIC.expires_at - SECOND}, Standing.VALID),
    "expiry": (LIC, {"at": LIC.expires_at}, Standing.GRACE),
    "last_instant_of_grace": (LIC, {"at": LIC.termination_at - SECOND}, Standing.GRACE),
    "termination": (LIC, {"at": LIC.termination_at}, Standing.EXPIRED),
    "no_grace": (a_license(termination_at=LIC.expires_at), {"at": LIC.expires_at}, Standing.EXPIRED),
    "other_container": (LIC, {"container_type": "speech"}, Standing.MISMATCH),
    "one_of_two_containers": (a_license(container_types=("speech", "computervisionread")), {}, Standing.VALID),
    "sequence_at_floor": (a_license(sequence=2), {"sequence_floor": 2}, Standing.VALID),
    "sequence_below_floor": (a_license(sequence=2), {"sequence_floor": 3}, Standing.SUPERSEDED),
    "floor_of_this_id": (LIC, {"sequence_floor": {LIC.license_id: 2}}, Standing.SUPERSEDED),
    "floor_of_another_id": (LIC, {"sequence_floor": {"other": 2}}, Standing.VALID),
    "id_revoked": (LIC, {"revoked_license_ids": {LIC.license_id}}, Standing.REVOKED),
    "key_revoked": (LIC, {"revoked_key_ids": {LIC.key_id}}, Standing.REVOKED),
    "host": (BOUND, {"host": HOST}, Standing.VALID),
    "host_with_a_swapped_part": (BOUND, {"host": SWAPPED_PART}, Standing.VALID),
    "other_host": (BOUND, {"host": OTHER_HOST}, Standing.HOST_MISMATCH),
    "host_without_facts": (BOUND, {"host": HostFactors()}, Standing.HOST_MISMATCH),
    "host_not_looked_at": (BOUND, {"host": None}, Standing.HOST_MISMATCH),
    "device": (DEVICE, {"device_public": bytes(32)}, Standing.VALID),
    "other_device": (DEVICE, {"device_public": bytes(31) + b"\1"}, Standing.DEVICE_MISMATCH),
    "no_device_key": (DEVICE, {"device_public": None}, Standing.DEVICE_MISMATCH),
    "old_version": (a_license(min_version="0.2"), {"product_version": "0.1.9"}, Standing.UPGRADE_NEEDED),
    "version": (a_license(min_version="0.2"), {"product_version": "0.2.0"}, Standing.VALID),
    "version_not_judged": (a_license(min_version="0.2"), {}, Standing.VALID),
    "revoked_comes_first": (LIC, {"revoked_license_ids": [LIC.license_id], "at": LIC.termination_at}, Standing.REVOKED),
}


@pytest.mark.parametrize(("lic", "facts", "standing"), CASES.values(), ids=CASES)
def test_judgement(lic, facts, standing):
    judgement = judge(lic, **{"at": NOW, **facts})
    assert judgement.standing is standing
    assert judgement.serves == (standing in (Standing.VALID, Standing.GRACE))
    assert judgement.reason.endswith(".")
    assert judgement.next_step


def test_every_standing_is_judged_somewhere_and_has_a_next_step():
    assert {standing for _, _, standing in CASES.values()} == set(Standing) == set(NEXT_STEPS)


@given(st.timedeltas(min_value=timedelta(days=-800), max_value=timedelta(days=800)))
def test_term_serves_exactly_from_begin_to_termination(away):
    at = NOW + away
    assert judge(LIC, at=at).serves == (LIC.not_before <= at < LIC.termination_at)


def test_day_text_has_the_weekday():
    assert day_text(LIC.expires_at) == "Friday 2027-12-31 23:59:59 UTC"


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (timedelta(days=2, hours=23), "2 days"),
        (timedelta(days=1), "1 day"),
        (timedelta(hours=23, minutes=59), "23 hours"),
        (timedelta(hours=1), "1 hour"),
        (timedelta(minutes=59), "less than an hour"),
    ],
)
def test_time_left_is_rounded_down(left, text):
    assert time_left_text(left) == text


# ---- the ledger and the vendor's acknowledgement --------------------------------------------------------------------

LEAVES = [bytes([number]) * 32 for number in range(9)]
ORIGIN = "vendor.example/0123456789abcdef"


def _root_at(leaves):
    return lambda size: root_of(leaves[:size])


@pytest.mark.parametrize("size", range(len(LEAVES) + 1))
def test_ledger_extends_each_of_its_own_checkpoints(size):
    anchor = LedgerAnchor(origin=ORIGIN, size=size, root=root_of(LEAVES[:size]))
    assert anchor_refusal(anchor, origin=ORIGIN, size=len(LEAVES), root_at=_root_at(LEAVES)) is None


def test_licence_without_an_anchor_continues_any_ledger():
    assert anchor_refusal(None, origin=ORIGIN, size=0, root_at=_root_at([])) is None


def test_other_ledger_shorter_ledger_and_fork_are_told():
    anchor = LedgerAnchor(origin=ORIGIN, size=5, root=root_of(LEAVES[:5]))
    found = anchor_refusal(anchor, origin="vendor.example/0", size=9, root_at=_root_at(LEAVES))
    assert "this is the ledger of vendor.example/0" in found
    found = anchor_refusal(anchor, origin=ORIGIN, size=4, root_at=_root_at(LEAVES))
    assert "restored from an older copy" in found
    forked = [*LEAVES[:4], bytes(32), *LEAVES[5:]]
    assert "forked" in anchor_refusal(anchor, origin=ORIGIN, size=9, root_at=_root_at(forked))
    assert "were lost" in anchor_refusal(anchor, origin=ORIGIN, size=9, root_at=lambda _: None)


REPORTS = {
    "no_limit": (Reporting(), 400, 10**9, None),
    "within_days": (Reporting(max_unacked_days=30), 29, 0, None),
    "at_the_last_day": (Reporting(max_unacked_days=30), 30, 0, "allows 30 days"),
    "nothing_used": (Reporting(max_unacked_days=30), None, 0, None),
    "within_pages": (Reporting(max_unacked_units=1000), 400, 999, None),
    "at_the_last_page": (Reporting(max_unacked_units=1000), 0, 1000, "allows 1,000"),
}


@pytest.mark.parametrize(("reporting", "days", "units", "words"), REPORTS.values(), ids=REPORTS)
def test_use_without_acknowledgement_has_limits(reporting, days, units, words):
    since = None if days is None else NOW - timedelta(days=days)
    found = reporting_refusal(reporting, at=NOW, unacked_since=since, unacked_units=units)
    assert found is None if words is None else words in found


DECIDES = {
    "judge": {
        "license_id", "sequence", "container_types", "not_before", "expires_at", "termination_at", "bindings",
        "device_pubkey", "min_version", "key_id",
    },
    "choose": {"revoked", "evaluation"},
    "open_license": {"schema", "product", "issued_at"},
    "anchor_refusal": {"ledger_anchor"},
    "reporting_refusal": {"reporting"},
    "the_meter": {"meters"},
    "the_clock": {"time_anchor"},
    "shown": {"customer", "features"},
}  # fmt: skip


def test_every_field_of_a_licence_is_decided_upon_somewhere():
    assert set().union(*DECIDES.values()) == {field.name for field in dataclasses.fields(License)}
    assert sum(map(len, DECIDES.values())) == len(dataclasses.fields(License))
    assert Revoked() == LIC.revoked
