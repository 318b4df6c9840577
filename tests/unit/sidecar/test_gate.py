"""Every state by the facts that lead to it, and what may never happen."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licenses.verify import judge
from sidecar.gate import Facts, Lease, LicenseFacts, State, decide
from sidecar.states import STATES, WORDS, next_step, public_word, refusal_message, status_message
from tests.fakes.licences import NOW, a_license

LICENCE = LicenseFacts(
    standing="VALID",
    reason="valid",
    serves=True,
    expires_at=NOW + timedelta(days=300),
    termination_at=NOW + timedelta(days=314),
)
HEALTHY = Facts(effective_at=NOW, license=LICENCE)


def lic(standing: str, *, serves: bool = False, **changes: object) -> Facts:
    return replace(HEALTHY, license=replace(LICENCE, standing=standing, serves=serves, reason=standing, **changes))


CASES = [
    (HEALTHY, State.ACTIVE, True),
    (replace(HEALTHY, license=None), State.UNLICENSED, False),
    (lic("NOT_YET_VALID"), State.NOT_YET_VALID, False),
    (lic("EXPIRED"), State.TERMINATED, False),
    (lic("MISMATCH"), State.MISMATCH, False),
    (lic("REVOKED"), State.REVOKED, False),
    (lic("SUPERSEDED"), State.REVOKED, False),
    (lic("HOST_MISMATCH"), State.HOST_MISMATCH, False),
    (lic("DEVICE_MISMATCH"), State.HOST_MISMATCH, False),
    (lic("UPGRADE_NEEDED"), State.UNLICENSED, False),
    (lic("GRACE", serves=True), State.GRACE, True),
    (lic("VALID", serves=True, expires_at=NOW + timedelta(days=29)), State.EXPIRING, True),
    (lic("VALID", serves=True, expires_at=NOW + timedelta(days=30)), State.ACTIVE, True),
    (replace(HEALTHY, failed_cycles=1), State.METERING_RETRY, True),
    (replace(HEALTHY, failed_cycles=9), State.METERING_RETRY, True),
    (replace(HEALTHY, failed_cycles=10), State.METERING_CUTOFF, False),
    (replace(HEALTHY, failed_cycles=11), State.METERING_CUTOFF, False),
    (replace(HEALTHY, failed_cycles=1, strict=True), State.METERING_RETRY, False),
    (replace(HEALTHY, output_problem="no folder"), State.OUTPUT_UNWRITABLE, True),
    (replace(HEALTHY, output_problem="no folder", strict=True), State.OUTPUT_UNWRITABLE, False),
    (lic("VALID", serves=True, hard_pages=5), State.ACTIVE, True),
    (replace(lic("VALID", serves=True, hard_pages=5), pages_used=4), State.ACTIVE, True),
    (replace(lic("VALID", serves=True, hard_pages=5), pages_used=5), State.OUT_OF_QUOTA, False),
    (replace(HEALTHY, cpu_problem="no avx2"), State.HOST_UNSUPPORTED, False),
    (replace(HEALTHY, core_problem="gone"), State.CORE_DOWN, False),
    (replace(HEALTHY, core_problem="gone", core_starting=True), State.STARTING, False),
    (replace(HEALTHY, lease=Lease.AWAITED), State.STARTING, False),
    (replace(HEALTHY, lease=Lease.ABSENT), State.SUSPENDED, False),
    (replace(HEALTHY, spool_problem="full"), State.SPOOL_UNAVAILABLE, False),
    (replace(HEALTHY, terms_problem="fork"), State.SUSPENDED, False),
    (replace(HEALTHY, ledger_problem="disk"), State.LEDGER_UNAVAILABLE, False),
]


@pytest.mark.parametrize(("facts", "state", "serves"), CASES, ids=lambda value: getattr(value, "name", None))
def test_decide_table(facts: Facts, state: State, serves: bool) -> None:
    verdict = decide(facts)
    assert (verdict.state, verdict.serves) == (state, serves)
    assert verdict.reason


def test_table_reaches_every_state() -> None:
    assert {state for _, state, _ in CASES} == set(State)


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"container_types": ("formrecognizer",)},
        {"not_before": NOW + timedelta(days=1)},
        {"expires_at": NOW - timedelta(days=1), "termination_at": NOW + timedelta(days=12)},
        {"expires_at": NOW - timedelta(days=1), "termination_at": NOW - timedelta(days=1)},
    ],
    ids=["mismatch", "not yet valid", "grace", "terminated"],
)
def test_what_a_licence_is_told_to_be_goes_into_a_sentence(changes: dict[str, object], *, connected: bool) -> None:
    past = {"not_before": NOW - timedelta(days=400), "issued_at": NOW - timedelta(days=400)}
    judgement = judge(a_license(**{**past, **changes}), at=NOW)
    facts = lic(judgement.standing.name, serves=judgement.serves)
    assert facts.license is not None
    facts = replace(facts, license=replace(facts.license, reason=judgement.reason), connected=connected)
    for one in (facts, replace(facts, endpoint_problem="it does not answer.")):
        verdict = decide(one)
        assert judgement.reason.removesuffix(".") in verdict.reason
        for message in (status_message(verdict), refusal_message(verdict)):
            assert ".." not in message
            assert ".;" not in message


def test_a_file_that_is_no_licence_sends_nobody_for_another_alone() -> None:
    told = "no valid disconnected container licence in /license: five.dat: not JSON"
    message = refusal_message(
        decide(replace(HEALTHY, license=None, license_problem=told, license_step="Copy it again."))
    )
    assert f"{told}. Copy it again." in message
    assert "Mounts:License" not in message
    assert "Mounts:License" in refusal_message(decide(replace(HEALTHY, license=None)))


def test_a_licence_for_a_later_version_sends_nobody_to_the_folder() -> None:
    assert next_step(decide(lic("UPGRADE_NEEDED"))).startswith("Install the product version")


def test_soft_limit_warns_and_serves() -> None:
    verdict = decide(replace(lic("VALID", serves=True, soft_pages=3), pages_used=3))
    assert verdict.serves
    assert any("3 pages are used" in warning for warning in verdict.warnings)
    one = decide(replace(lic("VALID", serves=True, soft_pages=1), pages_used=1))
    assert one.warnings == ("1 page is used; the commitment is 1",)


@given(
    standing=st.sampled_from(["VALID", "GRACE", "EXPIRED", "REVOKED", "MISMATCH", "SOMETHING_NEW"]),
    failed=st.integers(0, 30),
    used=st.integers(0, 20),
    hard=st.none() | st.integers(0, 20),
    core=st.sampled_from(["", "down"]),
    lease=st.sampled_from(list(Lease)),
    ledger=st.sampled_from(["", "broken"]),
    strict=st.booleans(),
)
def test_serves_only_when_every_rule_holds(
    *, standing: str, failed: int, used: int, hard: int | None, core: str, lease: Lease, ledger: str, strict: bool
) -> None:
    verdict = decide(
        replace(
            lic(standing, serves=standing in {"VALID", "GRACE"}, hard_pages=hard),
            failed_cycles=failed,
            pages_used=used,
            core_problem=core,
            lease=lease,
            ledger_problem=ledger,
            strict=strict,
        )
    )
    allowed = (
        standing in {"VALID", "GRACE"}
        and failed < 10
        and (hard is None or used < hard)
        and not core
        and lease is Lease.HONOURED
        and not ledger
        and not (strict and failed)
    )
    assert verdict.serves is allowed


# ---- connected mode --------------------------------------------------------------------------------------------------

DOWN = "the billing endpoint cannot be reached. check the network"


def test_connected_without_a_licence_waits_for_the_first_contact() -> None:
    verdict = decide(Facts(effective_at=NOW, license=None, connected=True))
    assert (verdict.state, verdict.serves, public_word(verdict)) == (State.STARTING, False, "Unknown")


@pytest.mark.parametrize("word", ["CouldNotConnect", "Invalid", "Mismatch", "ContainerUseUnauthorized", "OutOfQuota"])
def test_connected_without_a_licence_tells_the_endpoints_word(word: str) -> None:
    facts = Facts(effective_at=NOW, license=None, connected=True, endpoint_problem=DOWN, endpoint_word=word)
    verdict = decide(facts)
    assert (verdict.state, public_word(verdict)) == (State.UNLICENSED, word)
    assert DOWN in verdict.reason
    assert "folder" not in next_step(verdict)
    assert f"'{word}'" in refusal_message(verdict)


def test_connected_with_a_licence_that_ended_sends_nobody_to_a_folder() -> None:
    ended = replace(lic("EXPIRED", serves=False), connected=True)
    assert "vendor" in next_step(decide(ended))
    cut_off = decide(replace(ended, endpoint_problem=DOWN, endpoint_word="CouldNotConnect"))
    assert (cut_off.state, public_word(cut_off)) == (State.TERMINATED, "CouldNotConnect")
    assert DOWN in cut_off.reason


@pytest.mark.parametrize(("failed", "serves"), [(1, True), (9, True), (10, False), (30, False)])
@pytest.mark.parametrize("word", ["CouldNotConnect", "Invalid", "BillingEndpointBusy"])
def test_the_word_of_the_failure_is_shown_from_the_first_failed_cycle_on(
    failed: int, word: str, *, serves: bool
) -> None:
    facts = replace(lic("VALID", serves=True), connected=True, failed_cycles=failed, failure=DOWN, failure_word=word)
    verdict = decide(facts)
    assert (verdict.serves, public_word(verdict)) == (serves, word)
    strict = decide(replace(facts, strict=True))
    assert (strict.serves, public_word(strict)) == (False, word)


def test_a_record_that_cannot_be_written_shows_the_states_own_word() -> None:
    verdict = decide(replace(lic("VALID", serves=True), connected=True, failed_cycles=10, failure="disk full"))
    assert public_word(verdict) == "CouldNotConnect"
    assert "recorded" in verdict.reason


def test_an_endpoint_that_fails_between_two_cycles_is_a_warning() -> None:
    facts = replace(lic("VALID", serves=True), connected=True, endpoint_problem=DOWN, endpoint_word="CouldNotConnect")
    verdict = decide(facts)
    assert (verdict.state, verdict.serves, public_word(verdict)) == (State.ACTIVE, True, "Valid")
    assert DOWN in verdict.warnings


def test_every_word_of_a_state_is_a_public_one() -> None:
    assert {info.public for info in STATES.values()} <= set(WORDS)


@pytest.mark.parametrize(
    ("days", "connected", "state"),
    [
        (29, False, State.EXPIRING),
        (29, True, State.ACTIVE),
        (7, True, State.ACTIVE),
        (6, True, State.EXPIRING),
        (-1, True, State.GRACE),
    ],
)
def test_a_licence_that_is_renewed_by_itself_is_no_worry_until_its_successor_is_late(
    days: int, state: State, *, connected: bool
) -> None:
    ends = NOW + timedelta(days=days)
    facts = lic("GRACE" if days < 0 else "VALID", serves=True, expires_at=ends, termination_at=ends + timedelta(days=9))
    verdict = decide(replace(facts, connected=connected))
    assert (verdict.state, verdict.serves) == (state, True)
    if connected and state is not State.ACTIVE:
        assert "by itself" in next_step(verdict) or "billing endpoint" in next_step(verdict)
        assert "file" not in next_step(verdict)


@pytest.mark.parametrize(
    "facts",
    [
        replace(lic("VALID", serves=True, hard_pages=5), pages_used=5),
        replace(HEALTHY, terms_problem="too much is not acknowledged"),
    ],
)
def test_connected_nobody_is_sent_for_a_file(facts: Facts) -> None:
    verdict = decide(replace(facts, connected=True))
    assert not verdict.serves
    assert "at every cycle" in next_step(verdict)
    assert "file" not in next_step(verdict)
    assert "folder" not in next_step(verdict)
    assert next_step(decide(facts)) == STATES[verdict.state].next_step
