"""The monthly statement of a customer: use against the commitment, with overage. What it looks like is for other rooms.

Invariants:

* A statement closes `CLOSES_AFTER` after its month. It counts what arrived for its month until then; from then on it is
  the same whenever it is drawn up.
* What arrives for a month whose statement is closed is in the first one that is still open, as "arrived since, for
  earlier months". So each unit is in one statement and no other.

Overage is what use has beyond the commitment. Each month is measured against the tier in force at its end: of a
commitment by the year, against what the months before it left of that tier's quantity. Use that was overage already
takes nothing of a commitment, and a month's overage is never more than its use: a larger tier takes back no overage of
months before, a smaller one makes none of what lay within the larger. Months under a tier of another period, or of
another meter, do not count against a year's commitment. What arrives late is measured as if it had come in time, and
the overage that it makes in its month and in those after it is told with it. So the statements add up, under one tier,
to what the whole period has beyond its commitment.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from licenses import envelope
from licenses.ack import MAX_ACK_BYTES
from licenses.authority.accounts import Accounts, Customer, Subscription, Tier
from licenses.authority.audit_trail import AuditTrail
from licenses.authority.database import Database, kept_instant, summed, whole_sum
from licenses.authority.key_kinds import evaluation_at
from licenses.authority.periods import commitment_period
from licenses.errors import FormatError
from licenses.keys import EVALUATION_PREFIX
from licenses.strict_json import instant_text, parse_instant
from licenses.usage_log.report import printable

CLOSES_AFTER = timedelta(days=10)
"""So long after the end of its month a statement still counts what arrives for it."""

_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementLine:
    """One meter of one subscription.

    Attributes:
        subscription_id: Which subscription.
        container_type: What it is for.
        tier: The name of the tier in force at the end of the month.
        meter: The meter's name.
        used: Units in the month.
        unproved: Those of them that a container without a ledger told.
        period: The period of the commitment that the month lies in, "2027" or "2027-03"; empty without a commitment.
        commitment: Units committed to in that period; 0 without one.
        used_in_period: Units from its beginning to the end of the month that count against it.
        overage: Units of the month beyond the commitment.
        overage_agreed: Whether the tier bills them.
        year_to_date: Units from January to the end of the month.
        late: Units for earlier months that arrived since their statements closed; may be negative, by corrections.
        late_from: The earliest of those months, "2027-01"; empty without any.
        late_overage: What those units changed of the overage of months before this one.
    """

    subscription_id: str
    container_type: str
    tier: str
    meter: str
    used: int
    unproved: int
    period: str
    commitment: int
    used_in_period: int
    overage: int
    overage_agreed: bool
    year_to_date: int
    late: int = 0
    late_from: str = ""
    late_overage: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementDevice:
    """What one device brought to the month.

    Attributes:
        origin: Whose log; empty for all containers without one.
        subscription_id: Which subscription.
        meter: The meter's name.
        used: Units in the month.
        corrected: Those of them by which entries corrected what was reported; may be negative.
        late: Units for earlier months that arrived since their statements closed; may be negative.
    """

    origin: str
    subscription_id: str
    meter: str
    used: int
    corrected: int
    late: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A customer's month.

    Attributes:
        customer: Who pays.
        month: "2027-03", UTC.
        lines: By subscription and meter.
        devices: By subscription and origin.
        up_to: UTC instant of the newest arrival that is counted; None when nothing arrived.
        evaluation: Whether the vendor's keys were for evaluation when the newest of it arrived, or when it closed if
            nothing did; or the customer's newest licence or acknowledgement was, when it closed: no basis for an
            invoice.
    """

    customer: Customer
    month: str
    lines: tuple[StatementLine, ...]
    devices: tuple[StatementDevice, ...]
    up_to: datetime | None
    evaluation: bool = False

    @property
    def month_name(self) -> str:
        """Such as "March 2027"."""
        year, _, month = self.month.partition("-")
        return f"{_MONTHS[int(month) - 1]} {year}"

    @property
    def closes_at(self) -> datetime:
        """UTC instant from which on nothing that arrives changes it."""
        return closes_at(self.month)

    def to_members(self) -> dict[str, object]:
        """Plain JSON members."""
        return {
            "customer_id": self.customer.id,
            "customer": self.customer.name,
            "month": self.month,
            "up_to": None if self.up_to is None else instant_text(self.up_to),
            "closes_at": instant_text(self.closes_at),
            "evaluation": self.evaluation,
            "lines": [
                {name: getattr(line, name) for name in StatementLine.__dataclass_fields__} for line in self.lines
            ],
            "devices": [
                {name: getattr(device, name) for name in StatementDevice.__dataclass_fields__}
                for device in self.devices
            ],
        }


def statement(database: Database, customer_id: str, month: str) -> Statement:
    """Draw up the statement of a customer for a month.

    Args:
        database: The authority's.
        customer_id: Who pays.
        month: "2027-03".

    Raises:
        AccountError: There is no such customer.
        FormatError: That is no month.
        AuthorityError: The database refused it.
    """
    first, last = month_bounds(month)
    accounts = Accounts(database, AuditTrail(database, lambda: last, actor="statement"), lambda: last)
    customer = accounts.customer(customer_id)
    since = f"{_first_year(database, customer_id, month):04}-01"
    # "told": what a statement before this one counts, as it arrived before that one closed.
    rows = [
        row | {"quantity": summed(row)}
        for row in database.query(
            f"""SELECT a.subscription_id, a.origin, a.meter, a.billed_month AS month, a.kind,
                 a.billed_month < :month AND a.at < :opened AS told, {whole_sum("a.quantity")}, max(a.at) AS at
               FROM amount a JOIN subscription s ON s.id = a.subscription_id
               WHERE s.customer_id = :customer AND a.billed_month BETWEEN :since AND :month AND a.kind <> 'ack'
                 AND a.at < :closes GROUP BY 1, 2, 3, 4, 5, 6""",  # noqa: S608
            {
                "customer": customer_id,
                "since": since,
                "month": month,
                "opened": instant_text(first + CLOSES_AFTER),
                "closes": instant_text(closes_at(month)),
            },
        )
    ]
    lines: list[StatementLine] = []
    for subscription in accounts.subscriptions(customer_id):
        if subscription.created_at <= last:
            own = [row for row in rows if row["subscription_id"] == subscription.id]
            begins = max(since, f"{subscription.created_at:%Y-%m}")
            tiers = {one: accounts.tier_at(subscription.id, month_bounds(one)[1]) for one in _months(begins, month)}
            lines.extend(_lines(subscription, tiers, own, first))
    up_to = max((kept_instant(row["at"]) for row in rows), default=None)
    return Statement(
        customer=customer,
        month=month,
        lines=tuple(lines),
        devices=tuple(_devices([row for row in rows if not row["told"]], month)),
        up_to=up_to,
        evaluation=evaluation_at(database, up_to or closes_at(month) - timedelta(seconds=1))
        or _was_given_evaluation(database, customer_id, before=closes_at(month)),
    )


# ---- sums -----------------------------------------------------------------------------------------------------------


def billed_use(
    database: Database, *, customer_id: str | None = None, month: str | None = None
) -> list[dict[str, str | int]]:
    """What was used, as it is billed: by month, customer, subscription, device and meter.

    Args:
        database: The authority's.
        customer_id: Of this customer alone.
        month: Of this month alone, "2027-03".

    Returns:
        Of each: `month`, `customer` (the name), `subscription`, `device` (its log; empty without one), `meter` and
        `quantity`; none where corrections took all of it back.

    Raises:
        FormatError: That is no month.
        AuthorityError: The database refused it.
    """
    if month is not None:
        month_bounds(month)
    rows = database.query(
        f"""SELECT a.billed_month AS month, c.name AS customer, a.subscription_id AS subscription,
              coalesce(a.origin, '') AS device, a.meter AS meter, {whole_sum("a.quantity")}
            FROM amount a JOIN subscription s ON s.id = a.subscription_id JOIN customer c ON c.id = s.customer_id
            WHERE a.kind <> 'ack' AND (:customer IS NULL OR c.id = :customer)
              AND (:month IS NULL OR a.billed_month = :month)
            GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5""",  # noqa: S608
        {"customer": customer_id, "month": month},
    )
    named = ("month", "customer", "subscription", "device", "meter")
    return [{name: row[name] for name in named} | {"quantity": quantity} for row in rows if (quantity := summed(row))]


def month_bounds(month: str) -> tuple[datetime, datetime]:
    """The first and the last second of a month such as "2027-03", UTC.

    Raises:
        FormatError: That is no month.
    """
    try:
        begins = parse_instant(f"{month}-01T00:00:00Z", what="the month")
    except FormatError as exc:
        raise _no_month(month) from exc
    if begins.year >= 9999:
        raise _no_month(month)
    ends = begins.replace(year=begins.year + begins.month // 12, month=begins.month % 12 + 1)
    return begins, ends - timedelta(seconds=1)


def _no_month(text: str) -> FormatError:
    return FormatError(
        f"{printable(text)[:40]!r} is no month that a statement is drawn up for",
        next_step="Give a year and a month of it, as 2026-11.",
    )


def closes_at(month: str) -> datetime:
    """The UTC instant from which on nothing that arrives changes the statement of a month.

    Raises:
        FormatError: That is no month.
    """
    return month_bounds(month)[1] + timedelta(seconds=1) + CLOSES_AFTER


def _months(since: str, month: str) -> Iterator[str]:
    """Each month from one to another."""
    year, number = int(since[:4]), int(since[5:])
    while (name := f"{year:04}-{number:02}") <= month:
        yield name
        year, number = (year, number + 1) if number < 12 else (year + 1, 1)


def _first_year(database: Database, customer_id: str, month: str) -> int:
    """The year of the earliest month that the statement counts anything for."""
    begins, _ = month_bounds(month)
    row = database.one(
        """SELECT min(a.billed_month) AS month FROM amount a JOIN subscription s ON s.id = a.subscription_id
           WHERE s.customer_id = ? AND a.at >= ? AND a.at < ? AND a.kind <> 'ack'""",
        [customer_id, instant_text(begins + CLOSES_AFTER), instant_text(closes_at(month))],
    )
    return begins.year if row is None or row["month"] is None else min(begins.year, int(row["month"][:4]))


def _was_given_evaluation(database: Database, customer_id: str, *, before: datetime) -> bool:
    """Whose keys signed what the customer had got last by then; their ids tell."""
    asked = {"c": customer_id, "before": instant_text(before)}
    row = database.one(
        """SELECT blob FROM license WHERE subscription_id IN (SELECT id FROM subscription WHERE customer_id = :c)
           AND issued_at < :before ORDER BY seq DESC LIMIT 1""",
        asked,
    ) or database.one(
        """SELECT blob FROM ack WHERE origin IN (
             SELECT origin FROM device_now d JOIN subscription s ON s.id = d.subscription_id WHERE s.customer_id = :c)
           AND at < :before ORDER BY seq DESC LIMIT 1""",
        asked,
    )
    if row is None:
        return False
    claimed = envelope.unverified_payload(row["blob"], max_bytes=MAX_ACK_BYTES)
    return any(key_id.startswith(EVALUATION_PREFIX) for key_id in claimed.key_ids)


def _lines(
    subscription: Subscription, tiers: Mapping[str, Tier], rows: Sequence[dict[str, Any]], first: datetime
) -> Iterator[StatementLine]:
    """The lines of a subscription; the tiers are those in force at the end of each month, the statement's the last."""
    month = f"{first.year:04}-{first.month:02}"
    tier = tiers[month]
    used: defaultdict[str, Counter[str]] = defaultdict(Counter)
    known: defaultdict[str, Counter[str]] = defaultdict(Counter)
    late: defaultdict[str, Counter[str]] = defaultdict(Counter)
    unproved: Counter[str] = Counter()
    for row in rows:
        meter, of = row["meter"], row["month"]
        used[meter][of] += row["quantity"]
        if row["told"]:
            known[meter][of] += row["quantity"]
        elif of < month:
            late[meter][of] += row["quantity"]
        elif row["kind"] == "plain":
            unproved[meter] += row["quantity"]
    for meter in sorted({tier.meter, *used}):
        months = used[meter]
        overages = _overages(meter, tiers, months)
        before = _overages(meter, tiers, known[meter])
        committed = meter == tier.meter
        year_to_date = sum(quantity for name, quantity in months.items() if name[:4] == month[:4])
        yield StatementLine(
            subscription_id=subscription.id,
            container_type=subscription.container_type,
            tier=tier.name,
            meter=meter,
            used=months[month],
            unproved=unproved[meter],
            period=_period(tier, month) if committed else "",
            commitment=tier.quantity if committed else 0,
            used_in_period=sum(months[one] for one in _sharing(meter, tiers, month)) if committed else year_to_date,
            overage=overages[month],
            overage_agreed=tier.overage_allowed,
            year_to_date=year_to_date,
            late=late[meter].total(),
            late_from=min(late[meter], default=""),
            late_overage=sum(overages[one] - before[one] for one in tiers if one < month),
        )


def _period(tier: Tier, month: str) -> str:
    return commitment_period(tier.period, month_bounds(month)[0].date()).label


def _sharing(meter: str, tiers: Mapping[str, Tier], month: str) -> list[str]:
    """The months up to this one that draw on the same commitment."""
    period = _period(tiers[month], month)
    return [one for one, tier in tiers.items() if one <= month and tier.meter == meter and _period(tier, one) == period]


def _overages(meter: str, tiers: Mapping[str, Tier], used: Mapping[str, int]) -> dict[str, int]:
    """What each month brought beyond the commitment; negative where corrections take back what others brought."""
    found: dict[str, int] = {}
    for month, tier in tiers.items():
        now = used.get(month, 0)
        if tier.meter != meter:
            found[month] = now
            continue
        sharing = _sharing(meter, tiers, month)
        over = sum(found[one] for one in sharing if one < month)
        beyond = sum(used.get(one, 0) for one in sharing) - over - tier.quantity
        found[month] = min(now, max(0, beyond)) if now >= 0 else min(0, max(now, -over, beyond))
    return found


def _devices(rows: Sequence[dict[str, Any]], month: str) -> Iterator[StatementDevice]:
    used: Counter[tuple[str, str, str]] = Counter()
    corrected: Counter[tuple[str, str, str]] = Counter()
    late: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        key = (row["subscription_id"], row["origin"] or "", row["meter"])
        if row["month"] < month:
            late[key] += row["quantity"]
            continue
        used[key] += row["quantity"]
        if row["kind"] == "correction":
            corrected[key] += row["quantity"]
    for key in sorted({*used, *late}):
        subscription_id, origin, meter = key
        yield StatementDevice(
            origin=origin,
            subscription_id=subscription_id,
            meter=meter,
            used=used[key],
            corrected=corrected[key],
            late=late[key],
        )
