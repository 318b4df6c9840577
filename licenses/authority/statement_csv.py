"""A statement for spreadsheets.

It has one line of column names, then one line per subscription and meter, in this order:

    customer_id, customer, month, subscription, container_type, tier, meter, used, of_it_unproved, period, commitment,
    used_in_period, overage, overage_agreed, year_to_date, up_to, evaluation, late, late_from, late_overage, closes_at

`overage_agreed` is "yes" where the tier bills overage, else "no"; `up_to` is the instant of the newest arrival;
`evaluation` is "yes" when the vendor's keys were for evaluation, else "no". `late` is what arrived since for earlier
months, from the month `late_from` on, and `late_overage` the overage that it made; both may be negative where records
corrected what was reported. What is to be paid beyond the commitment is `overage` and `late_overage` together. A cell
never begins as a formula does.
"""

import csv
from io import StringIO

from licenses.authority.statements import Statement
from licenses.strict_json import instant_text
from licenses.usage_log.report import printable

COLUMNS = (
    "customer_id",
    "customer",
    "month",
    "subscription",
    "container_type",
    "tier",
    "meter",
    "used",
    "of_it_unproved",
    "period",
    "commitment",
    "used_in_period",
    "overage",
    "overage_agreed",
    "year_to_date",
    "up_to",
    "evaluation",
    "late",
    "late_from",
    "late_overage",
    "closes_at",
)

_FORMULA = ("=", "+", "-", "@")


def to_csv(one: Statement) -> str:
    """The statement for spreadsheets; see the columns above."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    up_to = "" if one.up_to is None else instant_text(one.up_to)
    for line in one.lines:
        row: tuple[str | int, ...] = (
            one.customer.id,
            one.customer.name,
            one.month,
            line.subscription_id,
            line.container_type,
            line.tier,
            line.meter,
            line.used,
            line.unproved,
            line.period,
            line.commitment,
            line.used_in_period,
            line.overage,
            "yes" if line.overage_agreed else "no",
            line.year_to_date,
            up_to,
            "yes" if one.evaluation else "no",
            line.late,
            line.late_from,
            line.late_overage,
            instant_text(one.closes_at),
        )
        writer.writerow([_cell(value) for value in row])
    return out.getvalue()


def _cell(value: str | int) -> str | int:
    if isinstance(value, int):
        return value
    cell = printable(value)
    return f"'{cell}" if cell.startswith(_FORMULA) else cell
