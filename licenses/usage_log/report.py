"""What an audit found, as values, as JSON, and as text that a person can check.

Invariants:

* A verdict never hides what was not covered: every entry from 0 on lies in exactly one range of the report, and each
  day and month tells the weakest of the ranges that it lies in.
* The exit code follows from the findings alone: 1 tampered, 4 unreadable, 3 gaps, 2 good but not anchored (only when
  strict), 0 otherwise; the first that applies.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum, StrEnum

from licenses.verify import day_text

MAX_FINDINGS_SHOWN = 20
MAX_FINDINGS_PER_CODE = 10
MAX_LISTED = 1000
MAX_STOPS_SHOWN = 5
MAX_TERMS_SHOWN = 10
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Severity(StrEnum):
    """How grave a finding is; the values are wire format."""

    TAMPERED = "tampered"
    UNREADABLE = "unreadable"
    GAP = "gap"
    NOTE = "note"


class Verdict(StrEnum):
    """The answer in one word; the values are wire format."""

    GOOD = "good"
    UNPINNED = "unpinned"
    UNSEALED = "unsealed"
    UNANCHORED = "unanchored"
    GAPS = "gaps"
    UNREADABLE = "unreadable"
    TAMPERED = "tampered"


class ExitCode(IntEnum):
    """What `usage-verify` ends with."""

    GOOD = 0
    TAMPERED = 1
    UNANCHORED = 2
    GAPS = 3
    UNREADABLE = 4
    USAGE = 64
    CANNOT_RUN = 70
    INTERRUPTED = 130


class Coverage(StrEnum):
    """What is known of a range of entries, from the strongest to the weakest; the values are wire format.

    Attributes:
        ACKED: Here, sealed by the pinned key, and acknowledged by the vendor.
        SEALED: Here, and sealed by the pinned key.
        UNPINNED: Here, and in agreement with the checkpoints; no key was pinned that proves whose those are.
        UNSEALED: Here, and nothing proves them.
        PRUNED: Not here; the records begin later.
        MISSING: Not here, though there are earlier ones, or a seal tells of them.
        DAMAGED: Here, but not what was sealed, or not to be read.
    """

    ACKED = "acked"
    SEALED = "sealed"
    UNPINNED = "unpinned"
    UNSEALED = "unsealed"
    PRUNED = "pruned"
    MISSING = "missing"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that an auditor must know.

    Attributes:
        severity: How grave.
        code: Stable name of the kind of finding.
        where: File and entry, as far as known.
        message: In one sentence.
    """

    severity: Severity
    code: str
    where: str
    message: str


@dataclass(frozen=True, slots=True)
class EntryRange:
    """The entries [first, end), and what is known of them."""

    first: int
    end: int
    coverage: Coverage


@dataclass(frozen=True, slots=True)
class CoveredTime:
    """Time that windows cover one after the other, in effective time, milliseconds since 1970 UTC; end exclusive."""

    from_ms: int
    until_ms: int
    windows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The meter started.

    Attributes:
        seq: The entry that tells of it.
        at_ms: When, in effective time, milliseconds since 1970 UTC.
        since_ms: The last sign of life before; None when none is here.
        in_good_order: Whether the stop before it closed its window; there was nothing to recover.
    """

    seq: int
    at_ms: int
    since_ms: int | None
    in_good_order: bool

    @property
    def stopped_ms(self) -> int:
        """For how long it did not run before; after a crash, at most so long."""
        return 0 if self.since_ms is None else self.at_ms - self.since_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class LicenseTerm:
    """The time for which one licence was in force without a change.

    Attributes:
        license_id: Which licence.
        sequence: Which issue of it.
        evaluation: Whether it is for evaluation.
        from_ms: Since when, in effective time, milliseconds since 1970 UTC.
        until_ms: The last entry under it.
        last_use_ms: The last use under it; None when there was none.
        expires_at: When it was to expire, as the records tell, seconds since 1970 UTC; None when they do not.
        meters: What was used under it.
    """

    license_id: str
    sequence: int
    evaluation: bool
    from_ms: int
    until_ms: int
    last_use_ms: int | None
    expires_at: int | None
    meters: Mapping[str, int]


class FindingList:
    """Collects findings, but not without bound: of each code, the first few are kept and the others counted."""

    def __init__(self) -> None:
        self._found: Counter[str] = Counter()
        self.kept: list[Finding] = []
        self.suppressed = 0

    def find(self, severity: Severity, code: str, where: str, message: str) -> None:
        """Add one, from its parts."""
        self.add(Finding(severity, code, where, message))

    def add(self, finding: Finding) -> None:
        """Add one."""
        self._found[finding.code] += 1
        if self._found[finding.code] <= MAX_FINDINGS_PER_CODE:
            self.kept.append(finding)
        else:
            self.suppressed += 1


@dataclass(slots=True, kw_only=True)
class InstanceReport:
    """What was found in the records of one instance.

    Attributes:
        instance: Its id, the folder's name.
        origin: Whose log.
        pinned_key: Id of the pinned device key that signed it; empty when none was pinned for it.
        evaluation: Whether any of it was done under an evaluation licence.
        files: Record files read.
        entries: Entries read.
        size: Entries that the log is known to have had.
        acked: Entries that the vendor acknowledged, as far as that was borne out by the records; 0 for none.
        unanchored: Why good records are still not anchored; empty when nothing speaks against it.
        ranges: What is known of the entries from 0 on.
        counts: Entries per kind.
        meters: Sums per meter.
        months: Sums per month "YYYY-MM" and meter.
        days: Sums per day "YYYY-MM-DD" and meter.
        coverage: The weakest coverage per month and per day, by their names.
        licenses: Licence ids that were in force.
        terms: For how long each, one after the other; the newest that are listed.
        windows: Windows that closed.
        covered: The time that windows cover without a gap, piece by piece.
        starts: The meter's starts that are listed.
        starts_in_all: All of its starts.
        stopped_ms: For how long it did not run before its starts, in all.
        first_ms: Effective time of the first entry read; None when none was.
        last_ms: Effective time of the last entry read; None when none was.
        findings: What an auditor must know, in the order found.
        suppressed: Further findings of the same kinds that are not listed.
    """

    instance: str
    origin: str = ""
    pinned_key: str = ""
    evaluation: bool = False
    files: int = 0
    entries: int = 0
    size: int = 0
    acked: int = 0
    unanchored: str = ""
    ranges: tuple[EntryRange, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    meters: Mapping[str, int] = field(default_factory=dict)
    months: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    days: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    coverage: Mapping[str, Coverage] = field(default_factory=dict)
    licenses: tuple[str, ...] = ()
    terms: tuple[LicenseTerm, ...] = ()
    windows: int = 0
    covered: tuple[CoveredTime, ...] = ()
    starts: tuple[Start, ...] = ()
    starts_in_all: int = 0
    stopped_ms: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    findings: Sequence[Finding] = ()
    suppressed: int = 0

    @property
    def verdict(self) -> Verdict:
        """The answer in one word."""
        grave = {finding.severity for finding in self.findings}
        if Severity.TAMPERED in grave:
            return Verdict.TAMPERED
        if Severity.UNREADABLE in grave:
            return Verdict.UNREADABLE
        if Severity.GAP in grave:
            return Verdict.GAPS
        if not self.pinned_key:
            return Verdict.UNPINNED
        if self.unanchored:
            return Verdict.UNANCHORED
        found = {one.coverage for one in self.ranges}
        return Verdict.GOOD if found <= {Coverage.ACKED, Coverage.SEALED, Coverage.PRUNED} else Verdict.UNSEALED


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found in a folder.

    Attributes:
        instances: One report each.
        findings: What concerns no single instance.
    """

    instances: tuple[InstanceReport, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The gravest verdict of all."""
        whole = InstanceReport(instance="", pinned_key="all", findings=self.findings).verdict
        found = {whole, *(one.verdict for one in self.instances)}
        return next(verdict for verdict in reversed(Verdict) if verdict in found)

    def exit_code(self, *, strict: bool = False) -> ExitCode:
        """The exit code of `usage-verify`."""
        match self.verdict:
            case Verdict.TAMPERED:
                return ExitCode.TAMPERED
            case Verdict.UNREADABLE:
                return ExitCode.UNREADABLE
            case Verdict.GAPS:
                return ExitCode.GAPS
            case Verdict.UNPINNED | Verdict.UNSEALED | Verdict.UNANCHORED:
                return ExitCode.UNANCHORED if strict else ExitCode.GOOD
            case Verdict.GOOD:
                return ExitCode.GOOD

    def to_members(self, *, strict: bool = False) -> dict[str, object]:
        """The report as plain JSON members."""
        return {
            "verdict": self.verdict.value,
            "exit_code": int(self.exit_code(strict=strict)),
            "findings": [_finding_members(finding) for finding in self.findings],
            "instances": [_instance_members(one) for one in self.instances],
        }

    def to_lines(self) -> Iterator[str]:
        """The report for people; whatever the records hold, a terminal shows it as text."""
        for one in self.instances:
            yield from map(printable, _instance_lines(one))
            yield ""
        for finding in gravest_first(self.findings):
            yield printable(_finding_line(finding))
        yield f"VERDICT: {self.verdict_text}"

    @property
    def verdict_text(self) -> str:
        """The answer in a few sentences."""
        pruned = any(part.coverage is Coverage.PRUNED for one in self.instances for part in one.ranges)
        if self.verdict is Verdict.GOOD and pruned:
            return _GOOD_BUT_PRUNED
        return _VERDICT_TEXTS[self.verdict]


_GOOD_BUT_PRUNED = (
    "GOOD. The records are unchanged and sealed by the pinned device key, and complete but for their beginning, which "
    "was pruned and which the kept checkpoint or the vendor's acknowledgement covers."
)
_VERDICT_TEXTS: Mapping[Verdict, str] = {
    Verdict.GOOD: "GOOD. The records are complete, unchanged, and sealed by the pinned device key.",
    Verdict.UNPINNED: "UNPINNED. The records agree with themselves; nothing proves whose they are: give --device-key.",
    Verdict.UNSEALED: "UNSEALED. What is sealed is good; the last records bear no seal of the pinned device key yet.",
    Verdict.UNANCHORED: "UNANCHORED. What is here is good; nothing that you gave or that the vendor signed covers what "
    "is not here; see the notes.",
    Verdict.GAPS: "GAPS. Nothing is known to be changed, but not everything is covered; see the findings.",
    Verdict.UNREADABLE: "UNREADABLE. Some of it could not be read, so nothing is said of the whole.",
    Verdict.TAMPERED: "TAMPERED. The records are not what the device sealed, or are not consistent; see the findings.",
}


def printable(text: str) -> str:
    """A text of unknown origin, without what would steer a terminal or turn the direction of writing."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else f"\\u{{{ord(char):x}}}" for char in text)


def duration_text(milliseconds: int) -> str:
    """A duration for people, in two units: "3 d 4 h", "12 min 5 s", "0 s"."""
    seconds = max(0, milliseconds) // 1000
    parts = [(seconds // 86_400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    first = next((index for index, (amount, _) in enumerate(parts) if amount), 3)
    return " ".join(f"{amount} {unit}" for amount, unit in parts[first : first + 2] if amount) or "0 s"


def moment_text(milliseconds: int) -> str:
    """Milliseconds since 1970 UTC, for people."""
    try:
        return day_text(_EPOCH + timedelta(milliseconds=milliseconds))
    except OverflowError:
        return f"{milliseconds} ms after 1970"


def _instance_members(one: InstanceReport) -> dict[str, object]:
    return {
        "instance": one.instance,
        "origin": one.origin,
        "verdict": one.verdict.value,
        "pinned_key": one.pinned_key,
        "evaluation": one.evaluation,
        "files": one.files,
        "entries": one.entries,
        "size": one.size,
        "acked": one.acked,
        "unanchored": one.unanchored,
        "ranges": [{"first": part.first, "end": part.end, "coverage": part.coverage.value} for part in one.ranges],
        "counts": dict(one.counts),
        "meters": dict(one.meters),
        "months": {month: dict(meters) for month, meters in one.months.items()},
        "days": {day: dict(meters) for day, meters in one.days.items()},
        "coverage": {period: coverage.value for period, coverage in one.coverage.items()},
        "licenses": list(one.licenses),
        "terms": [_term_members(term) for term in one.terms],
        "windows": one.windows,
        "covered": [
            {"from_ms": part.from_ms, "until_ms": part.until_ms, "windows": part.windows} for part in one.covered
        ],
        "starts": [
            {"seq": start.seq, "at_ms": start.at_ms, "since_ms": start.since_ms, "in_good_order": start.in_good_order}
            for start in one.starts
        ],
        "starts_in_all": one.starts_in_all,
        "stopped_ms": one.stopped_ms,
        "first_effective_ms": one.first_ms,
        "last_effective_ms": one.last_ms,
        "findings": [_finding_members(finding) for finding in one.findings],
        "findings_not_listed": one.suppressed,
    }


def _term_members(term: LicenseTerm) -> dict[str, object]:
    return {
        "license_id": term.license_id,
        "sequence": term.sequence,
        "evaluation": term.evaluation,
        "from_ms": term.from_ms,
        "until_ms": term.until_ms,
        "expires_at": term.expires_at,
        "meters": dict(term.meters),
    }


def _finding_members(finding: Finding) -> dict[str, str]:
    return {
        "severity": finding.severity.value,
        "code": finding.code,
        "where": finding.where,
        "message": finding.message,
    }


def _instance_lines(one: InstanceReport) -> Iterator[str]:
    if one.evaluation:
        yield "*** EVALUATION: some or all of this was done under an evaluation licence ***"
    yield f"Instance   {one.instance}"
    yield f"Origin     {one.origin or 'unknown'}"
    if one.first_ms is not None and one.last_ms is not None:
        yield f"Covers     {moment_text(one.first_ms)}  to  {moment_text(one.last_ms)}"
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(one.counts.items()))
    yield f"Entries    {one.entries:,} in {counted(one.files, 'file', 'files')}" + (f"  ({kinds})" if kinds else "")
    for meter, quantity in sorted(one.meters.items()):
        yield f"Total      {quantity:,}  {meter}"
    for month, meters in sorted(one.months.items()):
        for meter, quantity in sorted(meters.items()):
            yield f"  {month}  {quantity:,}  {meter}  {one.coverage[month].value}"
    for term in one.terms[-MAX_TERMS_SHOWN:]:
        sort = ", evaluation" if term.evaluation else ""
        yield f"Licence    {term.license_id} (sequence {term.sequence}{sort}) from {moment_text(term.from_ms)}"
    yield f"Windows    {one.windows:,}" + (f", covering {duration_text(_covered_ms(one))}" if one.covered else "")
    if one.starts_in_all:
        stopped = f", not running for {duration_text(one.stopped_ms)} in all before them" if one.stopped_ms else ""
        yield f"Starts     {one.starts_in_all:,}{stopped}"
    for start in longest_stops(one):
        how = "stopped in good order" if start.in_good_order else "at most, after a crash or kill"
        since = "" if start.since_ms is None else f"from {moment_text(start.since_ms)} "
        yield f"  {duration_text(start.stopped_ms):<9} {since}to {moment_text(start.at_ms)}, {how}"
    if one.acked:
        yield f"Acked      [0, {one.acked:,}) by the vendor"
    yield f"Key        {one.pinned_key + ' (pinned)' if one.pinned_key else 'NOT PINNED: no signature was verified'}"
    for part in one.ranges:
        yield f"Range      [{part.first:,}, {part.end:,})  {part.coverage.value.upper()}"
    for finding in gravest_first(one.findings)[:MAX_FINDINGS_SHOWN]:
        yield _finding_line(finding)
    hidden = max(0, len(one.findings) - MAX_FINDINGS_SHOWN) + one.suppressed
    if hidden:
        yield f"           ... and {hidden:,} more findings of the same kinds"
    yield f"Verdict    {one.verdict.value.upper()}"


def gravest_first(findings: Sequence[Finding]) -> list[Finding]:
    """The same findings, the gravest first, and among equals in the order found."""
    order = list(Severity)
    return sorted(findings, key=lambda finding: order.index(finding.severity))


def counted(count: int, one: str, many: str) -> str:
    """A number with its noun: "1 step", "3 steps"."""
    return f"{count:,} {one if count == 1 else many}"


def longest_stops(one: InstanceReport) -> list[Start]:
    """The stops worth showing, the longest few, in the order of time."""
    stops = sorted((start for start in one.starts if start.stopped_ms), key=lambda start: -start.stopped_ms)
    return sorted(stops[:MAX_STOPS_SHOWN], key=lambda start: start.seq)


def _covered_ms(one: InstanceReport) -> int:
    return sum(part.until_ms - part.from_ms for part in one.covered)


def _finding_line(finding: Finding) -> str:
    where = f"{finding.where}: " if finding.where else ""
    return f"{finding.severity.value.upper():<10} {where}{finding.message}  [{finding.code}]"
