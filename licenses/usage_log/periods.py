"""Days and months: what was used in each, and how well it is covered.

Invariants:

* A day begins at midnight UTC in effective time; a month is the sum of its days.
* A period's coverage is the weakest of the ranges that its entries lie in. Where entries before or after it are not
  here, some of them may have been of that period: that counts too.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache

from licenses.usage_log.report import Coverage, EntryRange

DAY_MS = 86_400_000
BEYOND = "beyond"

_ORDER = {coverage: number for number, coverage in enumerate(Coverage)}
_NOT_HERE = frozenset({Coverage.PRUNED, Coverage.MISSING})


class Periods:
    """Sums per day, gathered while time passes.

    Args:
        running: Sums per meter that the caller keeps adding to.
    """

    def __init__(self, running: Mapping[bytes, int]) -> None:
        self._running = running
        self._at_begin: dict[bytes, int] = {}
        self._day: int | None = None
        self._first_seq = 0
        self._sums: dict[int, Counter[str]] = {}
        self._bounds: dict[int, tuple[int, int]] = {}

    def turn(self, effective_ms: int, seq: int) -> range:
        """An entry is of another day than the one before it.

        Args:
            effective_ms: Its time; it is not in the running sums yet.
            seq: Its number.

        Returns:
            The times of the new day.
        """
        self.close(seq)
        self._day = effective_ms // DAY_MS
        self._first_seq = seq
        self._at_begin = dict(self._running)
        return range(self._day * DAY_MS, (self._day + 1) * DAY_MS)

    def close(self, end: int) -> None:
        """The day is over, as far as was read; `end` is the first entry that is not of it."""
        if self._day is None:
            return
        sums = self._sums.setdefault(self._day, Counter())
        for meter, quantity in self._running.items():
            grown = quantity - self._at_begin.get(meter, 0)
            if grown:
                sums[meter.decode("utf-8")] += grown
        first, last = self._bounds.get(self._day, (self._first_seq, end))
        self._bounds[self._day] = (min(first, self._first_seq), max(last, end))
        self._day = None

    def days(self) -> dict[str, dict[str, int]]:
        """Sums per day "YYYY-MM-DD" and meter, of the days with use."""
        return {name: dict(sums) for name, sums in self._named(10).items() if sums}

    def months(self) -> dict[str, dict[str, int]]:
        """Sums per month "YYYY-MM" and meter, of the months with use."""
        return {name: dict(sums) for name, sums in self._named(7).items() if sums}

    def coverage(self, ranges: Sequence[EntryRange]) -> dict[str, Coverage]:
        """The weakest coverage of each day and each month."""
        weakest: dict[str, Coverage] = {}
        starts = [part.first for part in ranges]
        for day, (first, end) in self._bounds.items():
            near = ranges[max(0, bisect_right(starts, first) - 2) : bisect_right(starts, end)]
            found = max(_touching(near, first, end), key=_ORDER.__getitem__, default=Coverage.UNSEALED)
            for name in (day_name(day), day_name(day)[:7]):
                weakest[name] = max(weakest.get(name, found), found, key=_ORDER.__getitem__)
        return dict(sorted(weakest.items()))

    def _named(self, length: int) -> dict[str, Counter[str]]:
        named: dict[str, Counter[str]] = {}
        for day in sorted(self._sums):
            named.setdefault(day_name(day)[:length], Counter()).update(self._sums[day])
        return named


@lru_cache(maxsize=1024)
def day_name(day: int) -> str:
    """A day by its number since 1970: "YYYY-MM-DD"; "beyond" after the year 9999."""
    try:
        return datetime.fromtimestamp(day * 86_400, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return BEYOND


def _touching(ranges: Sequence[EntryRange], first: int, end: int) -> Iterator[Coverage]:
    for part in ranges:
        slack = 1 if part.coverage in _NOT_HERE else 0
        if part.first < end + slack and part.end > first - slack:
            yield part.coverage
