"""What is known of every entry: the ranges of a report.

Invariant: each entry from 0 on lies in exactly one range, ranges are in order, and neighbours differ in coverage.
"""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise

from licenses.usage_log.report import Coverage, EntryRange

Interval = tuple[int, int]


def ranges_of(
    *,
    first: int,
    end: int,
    size: int,
    proven: Iterable[Interval],
    damaged: Iterable[Interval],
    missing: Iterable[Interval],
    acked: int,
    anchored: bool,
) -> tuple[EntryRange, ...]:
    """Tell what is known of the entries [0, size).

    Args:
        first: The first entry that is here.
        end: The first entry that is not here any more.
        size: Entries that the log is known to have had; from `end` on.
        proven: Entries that a claimed root bears out.
        damaged: Entries that a claimed root contradicts, or that could not be read.
        missing: Entries that are not here though earlier ones are.
        acked: Entries that the vendor acknowledged.
        anchored: Whether the claimed roots are of a pinned key.
    """
    sets = merged(proven), merged(damaged), merged(missing)
    bounds = {0, first, end, size, acked}
    bounds.update(bound for intervals in sets for interval in intervals for bound in interval)
    ranges: list[EntryRange] = []
    for low, high in pairwise(sorted(bound for bound in bounds if bound <= size)):
        is_proven, is_damaged, is_missing = (_holds(intervals, low) for intervals in sets)
        if low < first:
            coverage = Coverage.PRUNED
        elif low >= end or is_missing:
            coverage = Coverage.MISSING
        elif is_proven and anchored:
            coverage = Coverage.ACKED if low < acked else Coverage.SEALED
        elif is_proven:
            coverage = Coverage.UNPINNED
        else:
            coverage = Coverage.DAMAGED if is_damaged else Coverage.UNSEALED
        if ranges and ranges[-1].coverage is coverage:
            ranges[-1] = EntryRange(ranges[-1].first, high, coverage)
        else:
            ranges.append(EntryRange(low, high, coverage))
    return tuple(ranges)


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """Half-open intervals, sorted, those that touch made one, empty ones left out."""
    whole: list[Interval] = []
    for first, end in sorted(intervals):
        if whole and first <= whole[-1][1]:
            whole[-1] = (whole[-1][0], max(whole[-1][1], end))
        elif first < end:
            whole.append((first, end))
    return whole


def _holds(intervals: list[Interval], at: int) -> bool:
    position = bisect_right(intervals, at, key=lambda interval: interval[0]) - 1
    return position >= 0 and at < intervals[position][1]
