"""The calendar periods that a tier commits to.

Invariant: months and years are UTC; a period begins at midnight.
"""

import calendar
from dataclasses import dataclass
from datetime import date

from licenses.authority.accounts import Period


@dataclass(frozen=True, slots=True)
class CommitmentPeriod:
    """A calendar month or year, UTC.

    Attributes:
        label: "2027-03" or "2027".
        first: Its first day.
        last: Its last day.
    """

    label: str
    first: date
    last: date


def commitment_period(period: Period, day: date) -> CommitmentPeriod:
    """The period that a day lies in."""
    if period == "year":
        return CommitmentPeriod(f"{day.year:04}", date(day.year, 1, 1), date(day.year, 12, 31))
    length = calendar.monthrange(day.year, day.month)[1]
    return CommitmentPeriod(
        f"{day.year:04}-{day.month:02}", date(day.year, day.month, 1), date(day.year, day.month, length)
    )
