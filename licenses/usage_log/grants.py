"""The licences in force, as the records tell, against the licence files that the auditor gives.

Invariants:

* Nothing is refused here that the meter may do: a use that was admitted in time may be written down a moment later,
  and the last document of a quota may have more pages than were left. Where only a header tells of a licence, it may
  have come into force within that window.
* What is not covered by a licence is a gap, as time without a window is; how much was used beyond a quota is told in
  numbers, for it is the contract that says what follows.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from licenses.model import License
from licenses.strict_json import JsonValue
from licenses.usage_log.entry import integer_of
from licenses.usage_log.files import RecordHeader
from licenses.usage_log.proof import Find
from licenses.usage_log.report import MAX_LISTED, LicenseTerm, Severity, moment_text
from licenses.usage_log.timeline import MAX_WINDOW_MS
from licenses.verify import day_text

SLACK_MS = MAX_WINDOW_MS


class Terms:
    """Follows which licence is in force, in the order of the entries."""

    def __init__(self) -> None:
        self._now: LicenseTerm | None = None
        self._before: Counter[str] = Counter()
        self._told: Mapping[str, JsonValue] | None = None
        self._interrupted = False
        self.terms: list[LicenseTerm] = []

    @property
    def told(self) -> Mapping[str, JsonValue] | None:
        """The newest `license` entry; None before the first."""
        return self._told

    def begin_file(self, header: RecordHeader, at_ms: int) -> None:
        """A file begins; where entries before it are not here, its header tells of the licence."""
        if header.first_seq > 0 and self._told is None and self._now is None and header.license_id:
            self._now = LicenseTerm(
                license_id=header.license_id,
                sequence=header.license_sequence,
                evaluation=header.evaluation,
                from_ms=at_ms,
                until_ms=at_ms,
                last_use_ms=None,
                expires_at=None,
                meters={},
            )

    def leave_out(self, sums: Mapping[str, int], last_ms: int, last_use_ms: int) -> None:
        """Entries are missing: which licence is in force is not known until a header or an entry tells."""
        self.close(sums, last_ms, last_use_ms)
        self._told = None

    def entry(self, entry: Mapping[str, JsonValue], sums: Mapping[str, int], last_ms: int, last_use_ms: int) -> None:
        """A `license` entry.

        Args:
            entry: The entry.
            sums: What was used before it, per meter.
            last_ms: The time of the entry before; that of this one when there is none.
            last_use_ms: The time of the last use before; -1 when there is none.
        """
        self.close(sums, last_ms, last_use_ms)
        self._told = entry
        identity, sequence, expires_at = entry.get("license_id"), entry.get("sequence"), entry.get("expires_at")
        if entry.get("in_force") is False or not isinstance(identity, str) or type(sequence) is not int:
            self._interrupted = True
            return
        self._now = LicenseTerm(
            license_id=identity,
            sequence=sequence,
            evaluation=entry.get("evaluation") is True,
            from_ms=integer_of(entry, "effective_ms"),
            until_ms=integer_of(entry, "effective_ms"),
            last_use_ms=None,
            expires_at=expires_at if type(expires_at) is int else None,
            meters={},
        )

    def close(self, sums: Mapping[str, int], last_ms: int, last_use_ms: int) -> None:
        """The licence in force ends, or the records do."""
        now, self._now = self._now, None
        used, self._before = Counter(sums) - self._before, Counter(sums)
        if now is None:
            return
        term = LicenseTerm(
            license_id=now.license_id,
            sequence=now.sequence,
            evaluation=now.evaluation,
            from_ms=now.from_ms,
            until_ms=max(now.from_ms, last_ms),
            last_use_ms=last_use_ms if used else None,
            expires_at=now.expires_at,
            meters=dict(used),
        )
        if self.terms and not self._interrupted and _same(self.terms[-1], term):
            term = _joined(self.terms.pop(), term)
        self._interrupted = False
        self.terms.append(term)


def compare(terms: Sequence[LicenseTerm], licenses: Sequence[License], device_raw: bytes | None, find: Find) -> None:
    """Compare what was in force with the licence files.

    Args:
        terms: What was in force, in order.
        licenses: The licence files, verified.
        device_raw: The public bytes of the pinned device; None when none was pinned.
        find: Called with what is found.
    """
    known = {(str(lic.license_id), lic.sequence): lic for lic in licenses}
    missing: set[tuple[str, int]] = set()
    for term in terms:
        lic = known.get((term.license_id, term.sequence))
        if lic is not None:
            _compare_one(term, lic, find)
        elif (term.license_id, term.sequence) not in missing:
            missing.add((term.license_id, term.sequence))
            message = f"The licence {_name(term)} was in force from {moment_text(term.from_ms)} and was not given."
            find(Severity.NOTE, "license_not_given", "", message)
    in_force = {(term.license_id, term.sequence) for term in terms}
    for identity, lic in known.items():
        if identity in in_force and lic.device_pubkey is not None and device_raw not in (None, lic.device_pubkey):
            message = f"The licence {lic.license_id} (sequence {lic.sequence}) is for another device than this."
            find(Severity.GAP, "license_other_device", "", message)
    _compare_quotas(terms, licenses, find)


def _compare_one(term: LicenseTerm, lic: License, find: Find) -> None:
    not_before, termination = _milliseconds(lic.not_before), _milliseconds(lic.termination_at)
    told_expiry = term.expires_at is None or term.expires_at * 1000 == _milliseconds(lic.expires_at)
    if term.evaluation != lic.evaluation or not told_expiry:
        message = f"The records do not tell the licence {_name(term)} as the vendor issued it."
        find(Severity.TAMPERED, "license_differs", "", message)
    if term.from_ms < not_before - SLACK_MS:
        message = (
            f"The licence {_name(term)} was in force from {moment_text(term.from_ms)}, but is valid from "
            f"{day_text(lic.not_before)} on."
        )
        find(Severity.GAP, "license_not_in_force", "", message)
    if term.last_use_ms is not None and term.last_use_ms >= termination + SLACK_MS:
        message = (
            f"Use until {moment_text(term.last_use_ms)} was under the licence {_name(term)}, which ended for good "
            f"{day_text(lic.termination_at)}."
        )
        find(Severity.GAP, "license_not_in_force", "", message)


def _compare_quotas(terms: Sequence[LicenseTerm], licenses: Sequence[License], find: Find) -> None:
    newest: dict[str, License] = {}
    for lic in sorted(licenses, key=lambda one: one.sequence):
        newest[lic.license_id] = lic
    for identity, lic in newest.items():
        used: Counter[str] = Counter()
        for term in terms:
            if term.license_id == identity:
                used.update(term.meters)
        for meter in lic.meters:
            if meter.hard is None or used[meter.name] <= meter.hard:
                continue
            allowed = "which the licence allows" if meter.overage_allowed else "which the licence does not allow"
            message = (
                f"Under the licence {identity} {used[meter.name]:,} of {meter.hard:,} units of {meter.name} were used: "
                f"{used[meter.name] - meter.hard:,} more, {allowed}."
            )
            find(Severity.NOTE, "overage" if meter.overage_allowed else "over_quota", "", message)


def listed(terms: Sequence[LicenseTerm]) -> tuple[LicenseTerm, ...]:
    """As many as a report lists, the newest."""
    return tuple(terms[-MAX_LISTED:])


def _same(one: LicenseTerm, other: LicenseTerm) -> bool:
    same = (one.license_id, one.sequence, one.evaluation) == (other.license_id, other.sequence, other.evaluation)
    return same and (None in (one.expires_at, other.expires_at) or one.expires_at == other.expires_at)


def _joined(one: LicenseTerm, other: LicenseTerm) -> LicenseTerm:
    return LicenseTerm(
        license_id=one.license_id,
        sequence=one.sequence,
        evaluation=one.evaluation,
        from_ms=one.from_ms,
        until_ms=other.until_ms,
        last_use_ms=one.last_use_ms if other.last_use_ms is None else other.last_use_ms,
        expires_at=one.expires_at if other.expires_at is None else other.expires_at,
        meters=dict(Counter(one.meters) + Counter(other.meters)),
    )


def _name(term: LicenseTerm) -> str:
    return f"{term.license_id} (sequence {term.sequence})"


def _milliseconds(at: datetime) -> int:
    return int(at.timestamp()) * 1000
