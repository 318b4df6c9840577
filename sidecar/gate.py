"""The one decision: from the facts to a state and its reason.

Invariant: pure. The same facts always give the same verdict; nothing here reads a clock, a file or a setting. Pages,
`/ready`, `/status`, metrics, logs and the gate itself all show the value that `decide` returned.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

EXPIRING_BEFORE = timedelta(days=30)
WARNING_DAYS = (30, 14, 7, 1)


class State(StrEnum):
    """What the service is in; wire format: added to, never renamed."""

    STARTING = "STARTING"
    UNLICENSED = "UNLICENSED"
    MISMATCH = "MISMATCH"
    NOT_YET_VALID = "NOT_YET_VALID"
    ACTIVE = "ACTIVE"
    EXPIRING = "EXPIRING"
    GRACE = "GRACE"
    TERMINATED = "TERMINATED"
    REVOKED = "REVOKED"
    SUSPENDED = "SUSPENDED"
    METERING_RETRY = "METERING_RETRY"
    METERING_CUTOFF = "METERING_CUTOFF"
    OUT_OF_QUOTA = "OUT_OF_QUOTA"
    HOST_MISMATCH = "HOST_MISMATCH"
    HOST_UNSUPPORTED = "HOST_UNSUPPORTED"
    OUTPUT_UNWRITABLE = "OUTPUT_UNWRITABLE"
    LEDGER_UNAVAILABLE = "LEDGER_UNAVAILABLE"
    SPOOL_UNAVAILABLE = "SPOOL_UNAVAILABLE"
    CORE_DOWN = "CORE_DOWN"


class Lease(StrEnum):
    """How the lease that the core demands stands."""

    HONOURED = "honoured"
    AWAITED = "awaited"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class LicenseFacts:
    """What is known of the licence in force, or of the best that was found.

    Attributes:
        standing: Word of `licenses.verify.Standing`, in capitals.
        reason: Why it stands so, in words.
        serves: Whether a licence of that standing admits work.
        expires_at: End of the paid term (exclusive, UTC).
        termination_at: End of grace (exclusive, UTC).
        hard_pages: Pages after which work is refused; None means no hard limit.
        soft_pages: Pages after which a warning is shown; None means none.
    """

    standing: str
    reason: str
    serves: bool
    expires_at: datetime
    termination_at: datetime
    hard_pages: int | None = None
    soft_pages: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that the decision depends on.

    Attributes:
        effective_at: Effective time (UTC).
        license: The licence in force, None when no file holds one.
        license_problem: Why there is none.
        pages_used: Pages counted under the licence in force.
        failed_cycles: Consecutive failed metering cycles.
        max_attempts: Failed cycles after which queries are refused.
        strict: Refuse from the first failed cycle.
        failure: What made the last cycle fail; empty when it succeeded.
        output_problem: What is known to be wrong with the output mount now; empty when nothing is.
        terms_problem: Why the ledger does not meet the licence's terms; empty when it does.
        ledger_problem: Why the ledger cannot be used; empty when it can.
        spool_problem: Why documents and results cannot be kept; empty when they can.
        core_problem: Why the core does not answer; empty when it does.
        cpu_problem: Why this processor cannot run the core; empty when it can.
        lease: How the lease stands.
    """

    effective_at: datetime
    license: LicenseFacts | None
    license_problem: str = ""
    pages_used: int = 0
    failed_cycles: int = 0
    max_attempts: int = 10
    strict: bool = False
    failure: str = ""
    output_problem: str = ""
    terms_problem: str = ""
    ledger_problem: str = ""
    spool_problem: str = ""
    core_problem: str = ""
    core_starting: bool = False
    cpu_problem: str = ""
    lease: Lease = Lease.HONOURED


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The decision.

    Attributes:
        state: The state.
        reason: The cause in words; goes into pages, bodies and logs as it is.
        serves: Whether queries are admitted.
        warnings: What a person should know although queries are served.
    """

    state: State
    reason: str
    serves: bool
    warnings: tuple[str, ...] = ()


_STANDINGS = {
    "NOT_YET_VALID": State.NOT_YET_VALID,
    "EXPIRED": State.TERMINATED,
    "MISMATCH": State.MISMATCH,
    "REVOKED": State.REVOKED,
    "SUPERSEDED": State.REVOKED,
    "HOST_MISMATCH": State.HOST_MISMATCH,
    "DEVICE_MISMATCH": State.HOST_MISMATCH,
}


def decide(facts: Facts) -> Verdict:
    """Decide. The first rule that fails gives the state; warnings gather from all that are served through."""
    lic = facts.license
    if facts.ledger_problem:
        return _refuse(State.LEDGER_UNAVAILABLE, facts.ledger_problem)
    if lic is None:
        return _refuse(State.UNLICENSED, facts.license_problem or "no licence file was found")
    if not lic.serves:
        return _refuse(_STANDINGS.get(lic.standing, State.UNLICENSED), lic.reason)
    if facts.terms_problem:
        return _refuse(State.SUSPENDED, facts.terms_problem)
    if facts.failed_cycles >= facts.max_attempts:
        return _refuse(
            State.METERING_CUTOFF,
            f"usage could not be recorded in {facts.failed_cycles} consecutive tries; the last one failed with: "
            f"{facts.failure or 'unknown cause'}",
        )
    if lic.hard_pages is not None and facts.pages_used >= lic.hard_pages:
        return _refuse(State.OUT_OF_QUOTA, f"{facts.pages_used} of {lic.hard_pages} licensed pages are used")
    if facts.cpu_problem:
        return _refuse(State.HOST_UNSUPPORTED, facts.cpu_problem)
    if facts.spool_problem:
        return _refuse(State.SPOOL_UNAVAILABLE, facts.spool_problem)
    if facts.core_problem:
        return _refuse(State.STARTING if facts.core_starting else State.CORE_DOWN, facts.core_problem)
    if facts.strict and (facts.failed_cycles or facts.output_problem):
        return _refuse(
            State.METERING_RETRY if facts.failed_cycles else State.OUTPUT_UNWRITABLE,
            f"Metering:Strict is on and usage cannot be recorded: {facts.failure or facts.output_problem}",
        )
    if facts.lease is Lease.AWAITED:
        return _refuse(State.STARTING, "waiting for the meter to mint the core's lease")
    if facts.lease is Lease.ABSENT:
        return _refuse(State.SUSPENDED, "the meter mints no lease for the core; the meter process is not running")
    return _serve(facts, lic)


def _serve(facts: Facts, lic: LicenseFacts) -> Verdict:
    warnings = []
    left = lic.expires_at - facts.effective_at
    if lic.standing == "GRACE":
        state, reason = State.GRACE, lic.reason
        warnings.append(f"the licence has expired; grace ends {lic.termination_at:%Y-%m-%d %H:%M} UTC")
    elif left < EXPIRING_BEFORE:
        state = State.EXPIRING
        reason = f"the licence expires {lic.expires_at:%Y-%m-%d %H:%M} UTC, in {_days(left)}"
        warnings.append(reason)
    else:
        state, reason = State.ACTIVE, "licence valid and metering healthy"
    if lic.soft_pages is not None and facts.pages_used >= lic.soft_pages:
        warnings.append(f"{facts.pages_used} pages are used; the commitment is {lic.soft_pages}")
    if facts.output_problem:
        warnings.append(facts.output_problem)
        state, reason = State.OUTPUT_UNWRITABLE, facts.output_problem
    if facts.failed_cycles:
        state = State.METERING_RETRY
        reason = f"metering attempt {facts.failed_cycles} of {facts.max_attempts} failed: {facts.failure}"
        warnings.append(reason)
    return Verdict(state=state, reason=reason, serves=True, warnings=tuple(dict.fromkeys(warnings)))


def _refuse(state: State, reason: str) -> Verdict:
    return Verdict(state=state, reason=reason, serves=False)


def _days(left: timedelta) -> str:
    return f"{left.days} days" if left.days != 1 else "1 day"
