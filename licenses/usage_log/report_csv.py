"""The totals of an audit as CSV, for spreadsheets.

Columns, in this order:

    kind        "month" or "day"
    period      "2027-01" or "2027-01-15", UTC, in effective time
    instance    the instance id
    meter       the meter's name
    quantity    units, a whole number
    coverage    the weakest that is known of the period's entries: acked, sealed, unpinned, unsealed, pruned, missing,
                damaged; below "sealed" the quantity is not proven, or not complete
    evaluation  "yes" when some or all of the instance's records are for evaluation, else "no"

Invariant: a cell never begins as a formula does, whatever the records hold.
"""

import csv
from collections.abc import Iterator
from io import StringIO

from licenses.usage_log.report import InstanceReport, Report, printable

COLUMNS = ("kind", "period", "instance", "meter", "quantity", "coverage", "evaluation")

_FORMULA = ("=", "+", "-", "@")


def csv_text(report: Report) -> str:
    """All months and days of all instances, with one line of column names."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in report.instances:
        writer.writerows([_cell(value) for value in row] for row in _rows(one))
    return out.getvalue()


def _rows(one: InstanceReport) -> Iterator[tuple[str | int, ...]]:
    for kind, periods in (("month", one.months), ("day", one.days)):
        for period, meters in sorted(periods.items()):
            for meter, quantity in sorted(meters.items()):
                coverage = one.coverage[period].value
                yield kind, period, one.instance, meter, quantity, coverage, "yes" if one.evaluation else "no"


def _cell(value: str | int) -> str | int:
    if isinstance(value, int):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
