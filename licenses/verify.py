"""From bytes to a licence, and from a licence to whether it serves here and now.

Invariants:

* `open_license` verifies before it parses; nobody but the signing key decides what is an evaluation licence.
* `judge` is pure: the same licence, instant and facts give the same answer. The first rule that fails is the reason.
* What could not be found out counts against a bound licence: no host facts, no device key, no service.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from licenses import envelope
from licenses.errors import UntrustedKeyError
from licenses.host import HostFactors
from licenses.keyring import TrustRoot
from licenses.model import CONTAINER_TYPE, LedgerAnchor, License, Reporting, version_numbers

__all__ = [
    "CONTAINER_TYPE",
    "Judgement",
    "Standing",
    "anchor_refusal",
    "day_text",
    "judge",
    "open_license",
    "reporting_refusal",
    "time_left_text",
]


class Standing(StrEnum):
    """How a licence stands; the values are wire format."""

    VALID = "valid"
    NOT_YET_VALID = "not_yet_valid"
    GRACE = "grace"
    EXPIRED = "expired"
    MISMATCH = "mismatch"
    REVOKED = "revoked"
    SUPERSEDED = "superseded"
    HOST_MISMATCH = "host_mismatch"
    DEVICE_MISMATCH = "device_mismatch"
    UPGRADE_NEEDED = "upgrade_needed"

    @property
    def serves(self) -> bool:
        """Whether work is admitted."""
        return self in (Standing.VALID, Standing.GRACE)


NEXT_STEPS: Mapping[Standing, str] = {
    Standing.VALID: "No action needed.",
    Standing.NOT_YET_VALID: "Wait for the term to begin; the present licence may stay in the folder beside this one.",
    Standing.GRACE: "Put the renewed licence into the folder before the grace ends; no restart is needed.",
    Standing.EXPIRED: "Put a renewed licence into the folder; no restart is needed.",
    Standing.MISMATCH: "Ask the vendor for a licence for this type of container.",
    Standing.REVOKED: "Ask the vendor for a new licence.",
    Standing.SUPERSEDED: "Use the newest licence file of this id; older ones are refused.",
    Standing.HOST_MISMATCH: "Run on the host that it is bound to, set its operator id, or have it bound anew.",
    Standing.DEVICE_MISMATCH: "Restore the device key that it is bound to, or have it bound to 'device.pub' anew.",
    Standing.UPGRADE_NEEDED: "Install the product version that the licence asks for, or a later one.",
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """The answer to "does this licence serve here and now".

    Attributes:
        standing: In one word.
        reason: In one sentence for a person.
    """

    standing: Standing
    reason: str

    @property
    def serves(self) -> bool:
        """Whether work is admitted; true in VALID and GRACE."""
        return self.standing.serves

    @property
    def next_step(self) -> str:
        """What a person can do."""
        return NEXT_STEPS[self.standing]


def open_license(blob: bytes, trust_root: TrustRoot) -> License:
    """Verify a licence file and read it.

    Args:
        blob: The file, bare or armoured.
        trust_root: Whose issuing keys to believe. A licence whose signing key or root is for evaluation is an
            evaluation licence, whatever its payload says.

    Raises:
        LicensesError: FormatError, UntrustedKeyError, RevokedKeyError or BadSignatureError, and nothing else.
    """
    opened = trust_root.open_issued(blob, envelope.LICENSE_TYPE)
    lic = License.from_payload(opened.payload, key_id=opened.signers[0].key_id)
    if lic.issued_at >= trust_root.expires_at:
        raise UntrustedKeyError(
            f"issued {day_text(lic.issued_at)}, when the trust root had expired ({day_text(trust_root.expires_at)})",
            next_step="Ask the vendor for the current trust root, and for a licence issued under it.",
        )
    if trust_root.evaluation or any(key.evaluation for key in opened.signers):
        return dataclasses.replace(lic, evaluation=True)
    return lic


def judge(
    lic: License,
    *,
    at: datetime,
    container_type: str = CONTAINER_TYPE,
    host: HostFactors | None = None,
    device_public: bytes | None = None,
    sequence_floor: int | Mapping[str, int] = 0,
    revoked_license_ids: Collection[str] = (),
    revoked_key_ids: Collection[str] = (),
    product_version: str | None = None,
) -> Judgement:
    """Say whether a verified licence serves.

    Args:
        lic: The licence.
        at: The effective time, aware UTC.
        container_type: What this container is.
        host: The facts of this host; None where nobody looked, which a bound licence does not forgive.
        device_public: The 32 public bytes of this device's key; None where there is none yet.
        sequence_floor: The highest sequence that was ever in force, for this licence's id or as a mapping from id.
        revoked_license_ids: Ids that the vendor has taken back.
        revoked_key_ids: Keys that the vendor has taken back.
        product_version: The version of this product; None leaves `min_version` unjudged.
    """
    floor = sequence_floor if isinstance(sequence_floor, int) else sequence_floor.get(lic.license_id, 0)
    if lic.license_id in revoked_license_ids:
        return Judgement(Standing.REVOKED, f"The vendor has revoked the licence {lic.license_id}.")
    if lic.key_id in revoked_key_ids:
        return Judgement(Standing.REVOKED, f"The vendor has revoked the key {lic.key_id}, which signed this licence.")
    if lic.sequence < floor:
        return Judgement(
            Standing.SUPERSEDED, f"Sequence {lic.sequence} is older than {floor}, which was in force before."
        )
    if container_type not in lic.container_types:
        return Judgement(
            Standing.MISMATCH, f"The licence is for {', '.join(lic.container_types)}, not for {container_type}."
        )
    if lic.device_pubkey is not None and lic.device_pubkey != device_public:
        known = "no device key could be read here" if device_public is None else "this device has another key"
        return Judgement(Standing.DEVICE_MISMATCH, f"The licence is bound to one device key, and {known}.")
    if not lic.bindings.floating and not (host or HostFactors()).is_bound_by(lic.bindings):
        found = 0 if host is None else host.matches(lic.bindings)
        return Judgement(
            Standing.HOST_MISMATCH,
            f"The licence is bound to a host: {found} of {len(lic.bindings.factors)} factors match, "
            f"{lic.bindings.threshold} must.",
        )
    if product_version is not None and version_numbers(product_version) < version_numbers(lic.min_version or "0"):
        return Judgement(
            Standing.UPGRADE_NEEDED, f"The licence needs version {lic.min_version} or later; this is {product_version}."
        )
    return _judge_term(lic, at)


def _judge_term(lic: License, at: datetime) -> Judgement:
    if at < lic.not_before:
        return Judgement(Standing.NOT_YET_VALID, f"The licence begins on {day_text(lic.not_before)}.")
    if at < lic.expires_at:
        return Judgement(
            Standing.VALID,
            f"The licence is valid until {day_text(lic.expires_at)}, {time_left_text(lic.expires_at - at)} left.",
        )
    if at < lic.termination_at:
        return Judgement(
            Standing.GRACE,
            f"The licence expired on {day_text(lic.expires_at)}; grace ends on {day_text(lic.termination_at)}, "
            f"{time_left_text(lic.termination_at - at)} left.",
        )
    return Judgement(Standing.EXPIRED, f"The licence expired on {day_text(lic.expires_at)}.")


def anchor_refusal(
    anchor: LedgerAnchor | None, *, origin: str, size: int, root_at: Callable[[int], bytes | None]
) -> str | None:
    """Why a ledger does not extend the checkpoint that a licence names, in words; None when it does.

    Args:
        anchor: The checkpoint; None is extended by every ledger.
        origin: Whose ledger it is.
        size: How many entries it has.
        root_at: The Merkle root over its first so many entries, None where nothing tells it any more; asked at most
            once, for a size from 0 to `size`.
    """
    if anchor is None:
        return None
    if origin != anchor.origin:
        return f"The licence continues the ledger of {anchor.origin}; this is the ledger of {origin}."
    if size < anchor.size:
        return (
            f"The licence continues a ledger of {anchor.size} entries; this one has {size}: "
            "it was restored from an older copy, or begun anew."
        )
    root = root_at(anchor.size)
    if root is None:
        return (
            f"The first {anchor.size} entries, which the licence continues, were lost with the ledger; nothing that is "
            "left shows whether this ledger continues them."
        )
    if root != anchor.root:
        return f"The first {anchor.size} entries of this ledger are not those that the licence continues: it forked."
    return None


def reporting_refusal(
    reporting: Reporting, *, at: datetime, unacked_since: datetime | None, unacked_units: int
) -> str | None:
    """Why more must be acknowledged before more is served, in words; None when nothing must.

    Args:
        reporting: What the licence allows.
        at: The effective time, aware UTC.
        unacked_since: When the oldest use without the vendor's acknowledgement was recorded; None without any.
        unacked_units: How much was used since the last acknowledgement.
    """
    days, units = reporting.max_unacked_days, reporting.max_unacked_units
    if days is not None and unacked_since is not None and at - unacked_since >= timedelta(days=days):
        return (
            f"Use since {day_text(unacked_since)} is not acknowledged by the vendor; "
            f"the licence allows {days} day{'' if days == 1 else 's'}."
        )
    if units is not None and unacked_units >= units:
        return f"{unacked_units:,} pages are not acknowledged by the vendor; the licence allows {units:,}."
    return None


_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def day_text(at: datetime) -> str:
    """An instant for people, the same in every locale: "Wednesday 2027-03-31 23:59:59 UTC"."""
    return f"{_DAYS[at.weekday()]} {at.isoformat(sep=' ', timespec='seconds').removesuffix('+00:00')} UTC"


def time_left_text(left: timedelta) -> str:
    """A duration for people, rounded down: "130 days", "1 day", "23 hours", "less than an hour"."""
    hours = int(left.total_seconds() // 3600)
    if hours >= 24:
        return f"{hours // 24} day{'' if hours < 48 else 's'}"
    if hours >= 1:
        return f"{hours} hour{'' if hours == 1 else 's'}"
    return "less than an hour"
