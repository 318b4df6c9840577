"""Every state by the facts that lead to it, and what may never happen."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.gate import Facts, Lease, LicenseFacts, State, decide
from tests.fakes.licences import NOW

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


def test_soft_limit_warns_and_serves() -> None:
    verdict = decide(replace(lic("VALID", serves=True, soft_pages=3), pages_used=3))
    assert verdict.serves
    assert any("3 pages are used" in warning for warning in verdict.warnings)


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
