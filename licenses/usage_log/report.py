"""What an audit found, as values, as JSON, and as text that a person can check.

Invariants:

* A verdict never hides what was not covered: every entry from 0 on lies in exactly one range of the report.
* The exit code follows from the findings alone: 1 tampered, 4 unreadable, 3 gaps, 2 good but not anchored (only when
  strict), 0 otherwise; the first that applies.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum, StrEnum

from licenses.verify import day_text

MAX_FINDINGS_SHOWN = 20
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


class Coverage(StrEnum):
    """What is known of a range of entries; the values are wire format."""

    SEALED = "sealed"
    UNPINNED = "unpinned"
    UNSEALED = "unsealed"
    PRUNED = "pruned"
    MISSING = "missing"


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
        ranges: What is known of the entries from 0 on.
        counts: Entries per kind.
        meters: Sums per meter.
        months: Sums per month "YYYY-MM" and meter.
        licenses: Licence ids that were in force.
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
    ranges: tuple[EntryRange, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    meters: Mapping[str, int] = field(default_factory=dict)
    months: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    licenses: tuple[str, ...] = ()
    first_ms: int | None = None
    last_ms: int | None = None
    findings: list[Finding] = field(default_factory=list)
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
        return Verdict.GOOD if {one.coverage for one in self.ranges} <= {Coverage.SEALED} else Verdict.UNSEALED


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
        whole = InstanceReport(instance="", pinned_key="all", findings=list(self.findings)).verdict
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
            case Verdict.UNPINNED | Verdict.UNSEALED:
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
        """The report for people."""
        for one in self.instances:
            yield from _instance_lines(one)
            yield ""
        for finding in self.findings:
            yield _finding_line(finding)
        yield f"VERDICT: {_VERDICT_TEXTS[self.verdict]}"


_VERDICT_TEXTS: Mapping[Verdict, str] = {
    Verdict.GOOD: "GOOD. The records are complete, unchanged, and sealed by the pinned device key.",
    Verdict.UNPINNED: "UNPINNED. The records agree with themselves; nothing proves whose they are: give --device-key.",
    Verdict.UNSEALED: "UNSEALED. What is sealed is good; the last records bear no seal of the pinned device key yet.",
    Verdict.GAPS: "GAPS. Nothing is known to be changed, but not everything is covered; see the findings.",
    Verdict.UNREADABLE: "UNREADABLE. Some of it could not be read, so nothing is said of the whole.",
    Verdict.TAMPERED: "TAMPERED. The records are not what the device sealed, or are not consistent; see the findings.",
}


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
        "ranges": [{"first": part.first, "end": part.end, "coverage": part.coverage.value} for part in one.ranges],
        "counts": dict(one.counts),
        "meters": dict(one.meters),
        "months": {month: dict(meters) for month, meters in one.months.items()},
        "licenses": list(one.licenses),
        "first_effective_ms": one.first_ms,
        "last_effective_ms": one.last_ms,
        "findings": [_finding_members(finding) for finding in one.findings],
        "findings_not_listed": one.suppressed,
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
    yield f"Entries    {one.entries:,} in {one.files:,} files" + (f"  ({kinds})" if kinds else "")
    for meter, quantity in sorted(one.meters.items()):
        yield f"Total      {quantity:,}  {meter}"
    for month, meters in sorted(one.months.items()):
        for meter, quantity in sorted(meters.items()):
            yield f"  {month}  {quantity:,}  {meter}"
    if one.licenses:
        yield f"Licences   {', '.join(one.licenses)}"
    yield f"Key        {one.pinned_key + ' (pinned)' if one.pinned_key else 'NOT PINNED: no signature was verified'}"
    for part in one.ranges:
        yield f"Range      [{part.first:,}, {part.end:,})  {part.coverage.value.upper()}"
    for finding in one.findings[:MAX_FINDINGS_SHOWN]:
        yield _finding_line(finding)
    hidden = max(0, len(one.findings) - MAX_FINDINGS_SHOWN) + one.suppressed
    if hidden:
        yield f"           … and {hidden:,} more findings (--json lists up to a bound)"
    yield f"Verdict    {one.verdict.value.upper()}"


def _finding_line(finding: Finding) -> str:
    where = f"{finding.where}: " if finding.where else ""
    return f"{finding.severity.value.upper():<10} {where}{finding.message}  [{finding.code}]"
