"""How much there is for a clerk to look at, counted quickly; `reconcile` tells what it is.

Invariant: it reads a few rows by time, however much usage there is in the books.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from licenses.authority.database import Database
from licenses.strict_json import instant_text
from licenses.usage_log.report import Severity

WITHIN = timedelta(days=90)
"""What was found longer ago is not counted: rows of findings stay for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """What was found of late.

    Attributes:
        forks: Second histories of a log.
        findings: Gaps, wrong clocks and reports that were not borne out; remarks are not counted.
    """

    forks: int
    findings: int


def attention(database: Database, *, at: datetime, within: timedelta = WITHIN) -> Attention:
    """Count what was found of late.

    Args:
        database: The authority's.
        at: The vendor's time, aware UTC.
        within: How long ago at most.

    Raises:
        AuthorityError: The database refused it.
    """
    since = instant_text(at - within)
    forks = database.one("SELECT count(*) AS n FROM fork WHERE at >= ?", [since])
    findings = database.one(
        "SELECT count(*) AS n FROM finding WHERE at >= ? AND severity <> ?", [since, Severity.NOTE.value]
    )
    return Attention(forks=(forks or {"n": 0})["n"], findings=(findings or {"n": 0})["n"])
