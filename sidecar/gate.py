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
FETCHED_EXPIRING_BEFORE = timedelta(days=7)
FETCHED_WARNING_DAYS = (7, 1)
"""A licence that the meter fetches is renewed without anybody: only one whose successor is late is worth a word."""


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
        license_step: What to do about a file that is there but no licence; empty when there is none.
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
        connected: Whether the licence is fetched from the billing endpoint, and usage reported to it.
        failure_word: Status word of the endpoint, where that made the last cycle fail; else empty.
        endpoint_problem: What is known to be wrong with the endpoint now; empty when nothing is.
        endpoint_word: Its status word for that.
    """

    effective_at: datetime
    license: LicenseFacts | None
    license_problem: str = ""
    license_step: str = ""
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
    connected: bool = False
    failure_word: str = ""
    endpoint_problem: str = ""
    endpoint_word: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The decision.

    Attributes:
        state: The state.
        reason: The cause in words, without a full stop at its end; goes into pages, bodies and logs as it is.
        serves: Whether queries are admitted.
        warnings: What a person should know although queries are served.
        word: Public status word (contract B.3), where the billing endpoint's own says more than the state's.
        next_step: What a person does about it, where that is another than the state's.
    """

    state: State
    reason: str
    serves: bool
    warnings: tuple[str, ...] = ()
    word: str = ""
    next_step: str = ""


_STANDINGS = {
    "NOT_YET_VALID": State.NOT_YET_VALID,
    "EXPIRED": State.TERMINATED,
    "MISMATCH": State.MISMATCH,
    "REVOKED": State.REVOKED,
    "SUPERSEDED": State.REVOKED,
    "HOST_MISMATCH": State.HOST_MISMATCH,
    "DEVICE_MISMATCH": State.HOST_MISMATCH,
}


_UPGRADE = "Install the product version that the licence asks for, or a later one."
_RENEWED = (
    "Nothing, if the vendor has a next licence: the meter asks the billing endpoint for it at every cycle. Else ask "
    "the vendor."
)
_ASK_VENDOR = "Ask the vendor for the next licence; the meter fetches it by itself, no file has to be put anywhere."
_ENLARGED = (
    "Ask the vendor for a larger commitment; the meter asks the billing endpoint for the licence at every cycle, and "
    "serving resumes by itself."
)
_ACKNOWLEDGED = (
    "If the billing endpoint does not answer, mend that: the meter fetches the vendor's acknowledgement at every "
    "cycle. Else call the vendor, and keep the records."
)


def decide(facts: Facts) -> Verdict:
    """Decide. The first rule that fails gives the state; warnings gather from all that are served through."""
    lic = facts.license
    if facts.ledger_problem:
        return _refuse(State.LEDGER_UNAVAILABLE, facts.ledger_problem)
    if facts.connected and (lic is None or not lic.serves):
        return _refuse_unfetched(facts)
    if lic is None:
        problem = facts.license_problem or "no licence file was found"
        return _refuse(State.UNLICENSED, problem, next_step=facts.license_step)
    if not lic.serves:
        step = _UPGRADE if lic.standing == "UPGRADE_NEEDED" else ""
        return _refuse(_STANDINGS.get(lic.standing, State.UNLICENSED), lic.reason, next_step=step)
    if facts.terms_problem:
        return _refuse(State.SUSPENDED, facts.terms_problem, next_step=_ACKNOWLEDGED if facts.connected else "")
    if facts.failed_cycles >= facts.max_attempts:
        return _refuse(
            State.METERING_CUTOFF,
            f"usage could not be {'reported' if facts.failure_word else 'recorded'} in {facts.failed_cycles} "
            f"consecutive tries; the last one failed with: {facts.failure or 'unknown cause'}",
            word=facts.failure_word,
        )
    if lic.hard_pages is not None and facts.pages_used >= lic.hard_pages:
        used = f"{facts.pages_used} of {lic.hard_pages} licensed pages are used"
        return _refuse(State.OUT_OF_QUOTA, used, next_step=_ENLARGED if facts.connected else "")
    if facts.cpu_problem:
        return _refuse(State.HOST_UNSUPPORTED, facts.cpu_problem)
    if facts.spool_problem:
        return _refuse(State.SPOOL_UNAVAILABLE, facts.spool_problem)
    if facts.core_problem:
        return _refuse(State.STARTING if facts.core_starting else State.CORE_DOWN, facts.core_problem)
    if facts.strict and (facts.failed_cycles or facts.output_problem):
        return _refuse(
            State.METERING_RETRY if facts.failed_cycles else State.OUTPUT_UNWRITABLE,
            f"Metering:Strict is on and usage cannot be {'reported' if facts.failure_word else 'recorded'}: "
            f"{facts.failure or facts.output_problem}",
            word=facts.failure_word,
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
    elif left < (FETCHED_EXPIRING_BEFORE if facts.connected else EXPIRING_BEFORE):
        state = State.EXPIRING
        reason = f"the licence expires {lic.expires_at:%Y-%m-%d %H:%M} UTC, in {_days(left)}"
        warnings.append(reason)
    else:
        state, reason = State.ACTIVE, "licence valid and metering healthy"
    if lic.soft_pages is not None and facts.pages_used >= lic.soft_pages:
        used = "1 page is" if facts.pages_used == 1 else f"{facts.pages_used} pages are"
        warnings.append(f"{used} used; the commitment is {lic.soft_pages}")
    if facts.output_problem:
        warnings.append(facts.output_problem)
        state, reason = State.OUTPUT_UNWRITABLE, facts.output_problem
    if facts.failed_cycles:
        state = State.METERING_RETRY
        reason = f"metering attempt {facts.failed_cycles} of {facts.max_attempts} failed: {facts.failure}"
        warnings.append(reason)
    elif facts.endpoint_problem:
        warnings.append(facts.endpoint_problem)
    return Verdict(
        state=state,
        reason=_clause(reason),
        serves=True,
        warnings=tuple(dict.fromkeys(warnings)),
        word=facts.failure_word if state is State.METERING_RETRY else "",
        next_step=_RENEWED if facts.connected and state in {State.EXPIRING, State.GRACE} else "",
    )


def _refuse_unfetched(facts: Facts) -> Verdict:
    """Connected, and the endpoint has given no licence that serves: no file could be put into a folder."""
    told = facts.endpoint_problem or facts.failure
    word = facts.endpoint_word or facts.failure_word
    step = "Mend the cause named; the meter asks the billing endpoint again by itself."
    lic = facts.license
    if lic is not None:
        state = _STANDINGS.get(lic.standing, State.UNLICENSED)
        reason = f"{_clause(lic.reason)}; no other licence could be fetched: {told}" if told else lic.reason
        return _refuse(state, reason, word=word, next_step=step if told else _ASK_VENDOR)
    if told:
        return _refuse(State.UNLICENSED, f"no licence could be fetched: {told}", word=word, next_step=step)
    return _refuse(State.STARTING, "the meter is fetching the licence from the billing endpoint")


def _refuse(state: State, reason: str, *, word: str = "", next_step: str = "") -> Verdict:
    return Verdict(state=state, reason=_clause(reason), serves=False, word=word, next_step=next_step)


def _clause(sentence: str) -> str:
    """A cause as it goes into a sentence: licences and the vendor's service tell theirs with a full stop."""
    return sentence.removesuffix(".")


def _days(left: timedelta) -> str:
    return f"{left.days} days" if left.days != 1 else "1 day"
