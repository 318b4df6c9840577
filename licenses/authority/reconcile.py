"""Reconciliation: of every device what was reported, what its entries bear out, and what a person should look at.

Invariant: it reads, and changes nothing. What it lists was kept when it was found, at the intake; gaps, silence and
sums are computed from the books as they are.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from licenses.authority.database import Database, kept_instant, summed, whole_sum
from licenses.errors import MismatchError
from licenses.strict_json import instant_text
from licenses.usage_log.report import Severity, counted, printable
from licenses.verify import day_text

SILENT_AFTER = timedelta(days=35)
"""So long after its last report, or its enrolment, a device counts as silent: a monthly bundle and some days."""
MAX_FINDINGS = 200
"""Findings listed of one device: the gravest, and among equals the newest."""
MAX_FORKS_LISTED = 200
"""Forks listed of one device: the newest, and the first."""

_EACH = "SELECT origin, since, size FROM "
_BILLED = f"({_EACH} span UNION ALL {_EACH} unsettled_now)"
_COVERED = f"({_EACH} span UNION ALL {_EACH} unsettled_now UNION ALL {_EACH} claim)"
_GRAVITY = " ".join(f"WHEN '{severity.value}' THEN {rank}" for rank, severity in enumerate(Severity))
_MAX_NUMBER = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFinding:
    """What was found wrong with what a device sent.

    Attributes:
        at: UTC instant of the arrival that showed it.
        severity: How grave.
        code: Stable name of the kind of finding.
        place: Where: a file, or a stretch of entries.
        message: In one sentence.
    """

    at: datetime
    severity: Severity
    code: str
    place: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFork:
    """A second history of a device's log.

    Attributes:
        at: UTC instant of the arrival that showed it.
        cause: In one sentence.
        name: The file name of the proof; empty without one.
        proven: Whether `find_proof` has a proof; not where nothing signed is known that would make one.
        number: Counted from the first that was found of the device, which is 1.
    """

    at: datetime
    cause: str
    name: str
    proven: bool
    number: int


class ForkProof(NamedTuple):
    """What `licenses check-fork` verifies.

    Attributes:
        name: Its file name.
        blob: Its bytes.
    """

    name: str
    blob: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceBooks:
    """One device in the books.

    Attributes:
        origin: Whose log.
        subscription_id: Which subscription it belongs to.
        customer: The customer's name.
        enrolled_at: UTC instant at which it was first heard of.
        last_report_at: UTC instant of its last report or bundle; None so far.
        silent: Whether that, or its enrolment, is too long ago.
        size: Entries of its log that the books reach to.
        acked: Entries acknowledged.
        reported: Units billed on the device's word, per meter.
        verified: Units whose entries were seen, per meter.
        corrected: What was billed beyond the device's word once its entries were seen, per meter; may be negative.
        billed: Units billed, per meter.
        gaps: Stretches of entries that never arrived.
        elsewhere: Stretches that an acknowledgement covers, and of which nothing was billed here.
        findings: The gravest first, and among equals the newest; `MAX_FINDINGS` at most.
        left_out: How many more there are, none of them graver.
        forks: The newest first; `MAX_FORKS_LISTED` at most, of which the last is the first that was found.
        forks_left_out: How many more there are, before the newest ones.
    """

    origin: str
    subscription_id: str
    customer: str
    enrolled_at: datetime
    last_report_at: datetime | None
    silent: bool
    size: int = 0
    acked: int = 0
    reported: Mapping[str, int] = field(default_factory=dict)
    verified: Mapping[str, int] = field(default_factory=dict)
    corrected: Mapping[str, int] = field(default_factory=dict)
    billed: Mapping[str, int] = field(default_factory=dict)
    gaps: tuple[tuple[int, int], ...] = ()
    elsewhere: tuple[tuple[int, int], ...] = ()
    findings: tuple[DeviceFinding, ...] = ()
    left_out: int = 0
    forks: tuple[KnownFork, ...] = ()
    forks_left_out: int = 0

    @property
    def unverified(self) -> dict[str, int]:
        """Units billed whose entries were not seen yet, per meter."""
        rest = {meter: quantity - self.verified.get(meter, 0) for meter, quantity in self.billed.items()}
        return {meter: quantity for meter, quantity in rest.items() if quantity}

    @property
    def clock_findings(self) -> tuple[DeviceFinding, ...]:
        """Those that concern the device's time."""
        return tuple(one for one in self.findings if one.code.startswith(("clock", "quarantine")))

    @property
    def worst(self) -> Severity | None:
        """How grave the gravest of it is; None when there is nothing to look at."""
        found = {one.severity for one in self.findings}
        if self.forks or Severity.TAMPERED in found:
            return Severity.TAMPERED
        if self.gaps or self.elsewhere or Severity.GAP in found or Severity.UNREADABLE in found:
            return Severity.GAP
        return Severity.NOTE if self.silent or found else None

    def to_members(self) -> dict[str, object]:
        """Plain JSON members."""
        return {
            "origin": self.origin,
            "subscription": self.subscription_id,
            "customer": self.customer,
            "enrolled_at": instant_text(self.enrolled_at),
            "last_report_at": None if self.last_report_at is None else instant_text(self.last_report_at),
            "silent": self.silent,
            "worst": None if self.worst is None else self.worst.value,
            "size": self.size,
            "acked": self.acked,
            "reported": dict(self.reported),
            "verified": dict(self.verified),
            "unverified": self.unverified,
            "corrected": dict(self.corrected),
            "billed": dict(self.billed),
            "gaps": [list(gap) for gap in self.gaps],
            "billed_elsewhere": [list(one) for one in self.elsewhere],
            "findings": _finding_members(self.findings),
            "findings_left_out": self.left_out,
            "forks": [
                {"at": instant_text(one.at), "cause": one.cause, "name": one.name, "proven": one.proven}
                for one in self.forks
            ],
            "forks_left_out": self.forks_left_out,
        }

    def to_lines(self) -> Iterator[str]:
        """For people; whatever a device sent, a terminal shows it as text."""
        worst = "" if self.worst is None else f"  {self.worst.value.upper()}"
        yield f"{self.origin}{worst}"
        heard = "never" if self.last_report_at is None else day_text(self.last_report_at)
        yield f"  {printable(self.customer)}, {self.subscription_id}; last heard of: {heard}{_silent(self)}"
        yield f"  entries [0, {self.size:,}), acknowledged {self.acked:,}"
        for meter in sorted({*self.billed, *self.verified}):
            yield (
                f"  {printable(meter)}: billed {self.billed.get(meter, 0):,}, of it verified entry by entry "
                f"{self.verified.get(meter, 0):,}; reported {self.reported.get(meter, 0):,}, corrected by "
                f"{self.corrected.get(meter, 0):+,}"
            )
        for since, size in self.gaps[:20]:
            yield f"  GAP: the entries [{since:,}, {size:,}) never arrived"
        for since, size in self.elsewhere[:20]:
            yield (
                f"  GAP: the entries [{since:,}, {size:,}) were acknowledged, and are not billed here; to have them "
                "billed, take in all records of the device: sidecar usage export --all"
            )
        for fork in self.forks:
            proof = f"; the proof: {fork.name}" if fork.proven else "; there is no portable proof"
            yield f"  FORK: {instant_text(fork.at)}: {printable(fork.cause)}{proof}"
        if self.forks_left_out:
            yield f"  and {counted(self.forks_left_out, 'more fork', 'more forks')} after the first"
        yield from _finding_lines(self.findings, self.left_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionFindings:
    """What was found wrong with reports of containers without a ledger, which are no devices.

    Attributes:
        subscription_id: Under whose key they came.
        customer: The customer's name.
        findings: The gravest first, and among equals the newest; `MAX_FINDINGS` at most.
        left_out: How many more there are, none of them graver.
    """

    subscription_id: str
    customer: str
    findings: tuple[DeviceFinding, ...]
    left_out: int = 0

    def to_members(self) -> dict[str, object]:
        """Plain JSON members."""
        return {
            "subscription": self.subscription_id,
            "customer": self.customer,
            "findings": _finding_members(self.findings),
            "findings_left_out": self.left_out,
        }

    def to_lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.subscription_id}, without a ledger  {self.findings[0].severity.value.upper()}"
        yield f"  {printable(self.customer)}"
        yield from _finding_lines(self.findings, self.left_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """All devices.

    Attributes:
        at: UTC instant at which the books were read.
        devices: By origin.
        subscriptions: Those with findings of containers without a ledger.
    """

    at: datetime
    devices: tuple[DeviceBooks, ...]
    subscriptions: tuple[SubscriptionFindings, ...] = ()

    @property
    def worst(self) -> Severity | None:
        """How grave the gravest finding of all is."""
        found = {one.worst for one in self.devices}
        found |= {finding.severity for one in self.subscriptions for finding in one.findings}
        return next((one for one in (Severity.TAMPERED, Severity.GAP, Severity.NOTE) if one in found), None)

    def to_members(self) -> dict[str, object]:
        """Plain JSON members."""
        return {
            "at": instant_text(self.at),
            "worst": None if self.worst is None else self.worst.value,
            "devices": [one.to_members() for one in self.devices],
            "subscriptions": [one.to_members() for one in self.subscriptions],
        }

    def to_lines(self) -> Iterator[str]:
        """For people."""
        for books in self.devices:
            yield from books.to_lines()
            yield ""
        for subscription in self.subscriptions:
            yield from subscription.to_lines()
            yield ""
        looked_at = sum(1 for one in self.devices if one.worst is not None)
        yield f"{counted(len(self.devices), 'device', 'devices')}; to look at: {looked_at}"


def reconcile(
    database: Database, *, at: datetime, silent_after: timedelta = SILENT_AFTER, origin: str | None = None
) -> Reconciliation:
    """Read the books of all devices.

    Args:
        database: The authority's.
        at: The vendor's time, aware UTC.
        silent_after: How long without a word makes a device silent.
        origin: Only this device.

    Raises:
        MismatchError: There is no such device.
        AuthorityError: The database refused it.
    """
    if origin is not None and database.one("SELECT 1 FROM device_now WHERE origin = ?", [origin]) is None:
        raise MismatchError(
            f"there is no device {origin[:200]!r}", next_step="List them: licenses authority device list."
        )
    sums = _Sums(database, origin)
    devices = tuple(
        _device(row, sums, at, silent_after)
        for row in database.query(
            f"""SELECT d.*, c.name AS customer FROM device_now d JOIN subscription s ON s.id = d.subscription_id
                JOIN customer c ON c.id = s.customer_id {_only("d.", origin)} ORDER BY d.origin""",  # noqa: S608
            _params(origin),
        )
    )
    subscriptions = tuple(
        SubscriptionFindings(
            subscription_id=row["id"],
            customer=row["customer"],
            findings=tuple(sums.findings[row["id"]]),
            left_out=sums.left_out[row["id"]],
        )
        for row in database.query(
            """SELECT s.id, c.name AS customer FROM subscription s JOIN customer c ON c.id = s.customer_id
               WHERE s.id IN (SELECT origin FROM finding) AND ? IS NULL ORDER BY s.id""",
            [origin],
        )
    )
    return Reconciliation(at=at, devices=devices, subscriptions=subscriptions)


def find_proof(database: Database, origin: str, number: int) -> ForkProof | None:
    """The portable proof of a fork of a device, by its `KnownFork.number`; None if there is none.

    Raises:
        AuthorityError: The database refused it.
    """
    if not 1 <= number <= _MAX_NUMBER:
        return None
    row = database.one(
        "SELECT name, proof FROM fork WHERE origin = ? ORDER BY seq LIMIT 1 OFFSET ?", [origin, number - 1]
    )
    return None if row is None or row["proof"] is None else ForkProof(row["name"], bytes(row["proof"]))


class _Sums:
    """What the books hold of each device, read with one statement per table."""

    def __init__(self, database: Database, origin: str | None) -> None:
        params = _params(origin)
        self.charged: defaultdict[str, defaultdict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
        for row in database.query(
            f"""SELECT origin, kind, meter, {whole_sum("quantity")} FROM amount
                WHERE origin IS NOT NULL {_only("", origin, "AND")} GROUP BY origin, kind, meter""",  # noqa: S608
            params,
        ):
            self.charged[row["origin"]][row["kind"]][row["meter"]] = summed(row)
        for row in database.query(
            f"""SELECT origin, json_extract(e.value, '$[0]') AS meter, {whole_sum("json_extract(e.value, '$[2]')")}
                FROM verified, json_each(verified.sums) e {_only("", origin)} GROUP BY 1, 2""",  # noqa: S608
            params,
        ):
            self.charged[row["origin"]]["verified"][row["meter"]] = summed(row)
        self.gaps: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for row in database.query(
            f"""SELECT origin, before, since FROM (
                  SELECT origin, since, coalesce(max(size) OVER (PARTITION BY origin ORDER BY since
                    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
                  FROM {_COVERED} {_only("", origin)}) WHERE since > before ORDER BY origin, since""",  # noqa: S608
            params,
        ):
            self.gaps[row["origin"]].append((row["before"], row["since"]))
        self.elsewhere: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        claims = list(database.query(f"SELECT * FROM claim {_only('', origin)} ORDER BY origin, since", params))  # noqa: S608
        for row in claims:
            self.elsewhere[row["origin"]] += _not_billed(database, row["origin"], row["since"], row["size"])
        self.sizes = _largest(database, _COVERED, origin)
        self.acked = _largest(database, "ack", origin)
        self.findings: defaultdict[str, list[DeviceFinding]] = defaultdict(list)
        self.left_out: Counter[str] = Counter()
        for row in database.query(
            f"""SELECT * FROM finding {_only("", origin)} ORDER BY CASE severity {_GRAVITY} ELSE 0 END, seq DESC""",  # noqa: S608
            params,
        ):
            if len(self.findings[row["origin"]]) < MAX_FINDINGS:
                self.findings[row["origin"]].append(_finding(row))
            else:
                self.left_out[row["origin"]] += 1
        self.forks: defaultdict[str, list[KnownFork]] = defaultdict(list)
        self.forks_left_out: Counter[str] = Counter()
        for row in database.query(
            f"""SELECT * FROM (
                  SELECT seq, origin, at, cause, name, proof IS NOT NULL AS proven,
                    row_number() OVER (PARTITION BY origin ORDER BY seq) AS number,
                    count(*) OVER (PARTITION BY origin) AS total
                  FROM fork {_only("", origin)})
                WHERE number = 1 OR number > total - ? + 1 ORDER BY seq DESC""",  # noqa: S608
            [*params, MAX_FORKS_LISTED],
        ):
            self.forks[row["origin"]].append(_fork(row))
            self.forks_left_out[row["origin"]] = row["total"] - len(self.forks[row["origin"]])


def _device(row: Mapping[str, Any], sums: _Sums, at: datetime, silent_after: timedelta) -> DeviceBooks:
    origin = row["origin"]
    charged = sums.charged[origin]
    enrolled_at = kept_instant(row["enrolled_at"])
    last = None if row["last_report_at"] is None else kept_instant(row["last_report_at"])
    return DeviceBooks(
        origin=origin,
        subscription_id=row["subscription_id"],
        customer=row["customer"],
        enrolled_at=enrolled_at,
        last_report_at=last,
        silent=at - (last or enrolled_at) > silent_after,
        size=sums.sizes.get(origin, 0),
        acked=sums.acked.get(origin, 0),
        reported=_added((charged["report"],)),
        verified=_added((charged["bundle"], charged["verified"])),
        corrected=_added((charged["correction"],)),
        billed=_added((charged["report"], charged["bundle"], charged["correction"])),
        gaps=tuple(sums.gaps[origin]),
        elsewhere=tuple(sums.elsewhere[origin]),
        findings=_standing(sums.findings[origin], claimed=bool(sums.elsewhere[origin])),
        left_out=sums.left_out[origin],
        forks=tuple(sums.forks[origin]),
        forks_left_out=sums.forks_left_out[origin],
    )


def _standing(findings: Iterable[DeviceFinding], *, claimed: bool) -> tuple[DeviceFinding, ...]:
    """The findings as they stand: that something was billed elsewhere is a remark once its entries came."""
    standing = (
        replace(one, severity=Severity.NOTE) if one.code == "billed_elsewhere" and not claimed else one
        for one in findings
    )
    return tuple(sorted(standing, key=lambda one: tuple(Severity).index(one.severity)))


def _not_billed(database: Database, origin: str, since: int, size: int) -> Iterator[tuple[int, int]]:
    """What of [since, size) is covered by an acknowledgement alone."""
    at = since
    for row in database.query(
        f"SELECT since, size FROM {_BILLED} WHERE origin = ? AND since < ? AND size > ? ORDER BY since",  # noqa: S608
        [origin, size, since],
    ):
        if at < row["since"]:
            yield at, row["since"]
        at = max(at, row["size"])
    if at < size:
        yield at, size


def _added(parts: Iterable[Counter[str]]) -> dict[str, int]:
    whole: Counter[str] = Counter()
    for part in parts:
        whole.update(part)
    return {meter: quantity for meter, quantity in sorted(whole.items()) if quantity}


def _largest(database: Database, table: str, origin: str | None) -> dict[str, int]:
    rows = database.query(
        f"SELECT origin, max(size) AS size FROM {table} {_only('', origin)} GROUP BY origin",  # noqa: S608
        _params(origin),
    )
    return {row["origin"]: row["size"] for row in rows}


def _only(prefix: str, origin: str | None, word: str = "WHERE") -> str:
    return "" if origin is None else f"{word} {prefix}origin = ?"


def _params(origin: str | None) -> list[str]:
    return [] if origin is None else [origin]


def _fork(row: Mapping[str, Any]) -> KnownFork:
    return KnownFork(
        at=kept_instant(row["at"]),
        cause=row["cause"],
        name=row["name"],
        proven=bool(row["proven"]),
        number=row["number"],
    )


def _finding(row: Mapping[str, Any]) -> DeviceFinding:
    return DeviceFinding(
        at=kept_instant(row["at"]),
        severity=Severity(row["severity"]),
        code=row["code"],
        place=row["place"],
        message=row["message"],
    )


def _finding_members(findings: Iterable[DeviceFinding]) -> list[dict[str, str]]:
    return [
        {
            "at": instant_text(one.at),
            "severity": one.severity.value,
            "code": one.code,
            "where": one.place,
            "message": one.message,
        }
        for one in findings
    ]


def _finding_lines(findings: Sequence[DeviceFinding], left_out: int) -> Iterator[str]:
    for one in findings[:20]:
        yield f"  {one.severity.value.upper()}: {one.code}: {printable(f'{one.place}: {one.message}')}"
    if len(findings) > 20:
        listed = f"{len(findings) - 20} of them" if left_out else "them"
        more = len(findings) - 20 + left_out
        yield f"  and {counted(more, 'more finding', 'more findings')}, none of them graver; --json lists {listed}"


def _silent(one: DeviceBooks) -> str:
    return " (silent)" if one.silent else ""
