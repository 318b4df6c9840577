"""What each state means to people and to clients: public word, HTTP status, title and next step.

Invariant: every `State` has exactly one row here; a test walks them all. Public words are those of contract B.3.
"""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.gate import State, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class StateInfo:
    """One row.

    Attributes:
        public: Word that clients of the original service know (contract B.3).
        http_status: Status of a refused query; 403 for what a licence or the meter decides, 503 for what heals alone.
        title: Headline for people.
        next_step: What a person does about it; empty for the healthy state alone.
    """

    public: str
    http_status: int
    title: str
    next_step: str


WORDS = (
    "Valid",
    "Invalid",
    "Mismatch",
    "CouldNotConnect",
    "OutOfQuota",
    "BillingEndpointBusy",
    "ContainerUseUnauthorized",
    "Unknown",
)
"""The public status words (contract B.3)."""

STATES: dict[State, StateInfo] = {
    State.STARTING: StateInfo(
        public="Unknown",
        http_status=503,
        title="Starting",
        next_step="Wait a few seconds; if it stays like this, read the log and run 'sidecar diagnose'.",
    ),
    State.UNLICENSED: StateInfo(
        public="Invalid",
        http_status=403,
        title="No valid licence",
        next_step="Put a licence file into the folder named by Mounts:License; it is taken up within two seconds.",
    ),
    State.MISMATCH: StateInfo(
        public="Mismatch",
        http_status=403,
        title="Licence for another container",
        next_step="Ask the vendor for a licence of container type 'computervisionread'.",
    ),
    State.NOT_YET_VALID: StateInfo(
        public="Invalid",
        http_status=403,
        title="Licence not valid yet",
        next_step="Check the host's date and time zone; else wait for the licence's first day.",
    ),
    State.ACTIVE: StateInfo(public="Valid", http_status=200, title="Active", next_step=""),
    State.EXPIRING: StateInfo(
        public="Valid",
        http_status=200,
        title="Active, licence ends soon",
        next_step="Ask the vendor for the next licence now and put its file beside the present one.",
    ),
    State.GRACE: StateInfo(
        public="Valid",
        http_status=200,
        title="Licence expired, in grace",
        next_step="Install the renewed licence file before grace ends; after that queries are refused.",
    ),
    State.TERMINATED: StateInfo(
        public="Invalid",
        http_status=403,
        title="Licence expired",
        next_step="Install a renewed licence file; serving resumes without a restart and all records are kept.",
    ),
    State.REVOKED: StateInfo(
        public="Invalid",
        http_status=403,
        title="Licence withdrawn",
        next_step="Install the newest licence file that the vendor sent; an older one is not accepted again.",
    ),
    State.SUSPENDED: StateInfo(
        public="Unknown",
        http_status=403,
        title="Suspended",
        next_step="If the meter is not running, start it and read its log; else send the usage records to the vendor "
        "and install the licence that comes back.",
    ),
    State.METERING_RETRY: StateInfo(
        public="CouldNotConnect",
        http_status=403,
        title="Usage is not being recorded or reported, retrying",
        next_step="Mend the cause named before the tenth failed try; the next success delivers all that is pending.",
    ),
    State.METERING_CUTOFF: StateInfo(
        public="CouldNotConnect",
        http_status=403,
        title="Cut off: usage could not be recorded or reported",
        next_step="Mend the cause named; the next try delivers all that is pending and serving resumes by itself.",
    ),
    State.OUT_OF_QUOTA: StateInfo(
        public="OutOfQuota",
        http_status=403,
        title="Licensed pages are used up",
        next_step="Ask the vendor for a licence with more pages and put its file into the licence folder.",
    ),
    State.HOST_MISMATCH: StateInfo(
        public="Mismatch",
        http_status=403,
        title="Licence for another machine",
        next_step="Run 'licenses request' here and send its file to the vendor for a licence bound to this machine.",
    ),
    State.HOST_UNSUPPORTED: StateInfo(
        public="Unknown",
        http_status=503,
        title="This processor cannot run the core",
        next_step="Run on a host, or a virtual machine with a CPU model, that offers AVX2.",
    ),
    State.OUTPUT_UNWRITABLE: StateInfo(
        public="CouldNotConnect",
        http_status=403,
        title="The output folder cannot be written",
        next_step="Mend the folder named by Mounts:Output; it must belong to the user that the service runs as.",
    ),
    State.LEDGER_UNAVAILABLE: StateInfo(
        public="Unknown",
        http_status=503,
        title="The ledger cannot be used",
        next_step="Check free space and owner of Sidecar:StateDirectory; nothing there may be deleted.",
    ),
    State.SPOOL_UNAVAILABLE: StateInfo(
        public="Unknown",
        http_status=503,
        title="The spool cannot be written",
        next_step="Free space in the folder named by Mounts:Shared, check its owner; what waits is then finished.",
    ),
    State.CORE_DOWN: StateInfo(
        public="Unknown",
        http_status=503,
        title="The OCR core does not answer",
        next_step="Wait for its restart; if it stays down, read the core's log and run 'ocr-core --self-test'.",
    ),
}


def public_word(verdict: Verdict) -> str:
    """The contract's status word for a verdict: the billing endpoint's own, where that decided."""
    return verdict.word or STATES[verdict.state].public


def next_step(verdict: Verdict) -> str:
    """What a person does about it; empty when there is nothing to do."""
    return verdict.next_step or STATES[verdict.state].next_step


def refusal_message(verdict: Verdict) -> str:
    """The sentence of contract C.3, with our reason and next step behind it."""
    return (
        "Container is not in a valid state. Subscription validation failed with status "
        f"'{public_word(verdict)}'. {verdict.state}: {verdict.reason}. {next_step(verdict)}"
    ).rstrip()


def status_message(verdict: Verdict) -> str:
    """The sentence for `/ready` and `/status`."""
    if verdict.serves and verdict.state is State.ACTIVE:
        return "Api Key is valid, no action needed."
    if verdict.serves:
        return f"Api Key is valid. {verdict.state}: {verdict.reason}. {next_step(verdict)}"
    return refusal_message(verdict)
