"""The ranges of a report, against a count of every single entry."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from licenses.usage_log.coverage import merged, ranges_of
from licenses.usage_log.report import Coverage

SIZE = 40
intervals = st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(sorted).map(tuple), max_size=6)


def _held(pieces) -> set[int]:
    return {at for first, end in pieces for at in range(first, end)}


@given(intervals)
def test_merged_intervals_hold_the_same_and_do_not_touch(pieces):
    whole = merged(pieces)
    assert _held(whole) == _held(pieces)
    assert all(one[1] < other[0] for one, other in pairwise(whole))


@given(
    bounds=st.lists(st.integers(0, SIZE), min_size=3, max_size=3).map(sorted),
    sets=st.tuples(intervals, intervals, intervals),
    acked=st.integers(0, SIZE),
    anchored=st.booleans(),
)
def test_every_entry_lies_in_the_one_range_that_is_due(bounds, sets, acked, anchored):
    (first, end, size), (proven, damaged, missing) = bounds, sets
    ranges = ranges_of(
        first=first, end=end, size=size, proven=proven, damaged=damaged, missing=missing, acked=acked, anchored=anchored
    )
    assert [at for part in ranges for at in range(part.first, part.end)] == list(range(size))
    assert all(one.coverage is not other.coverage for one, other in pairwise(ranges))
    for part in ranges:
        for at in range(part.first, part.end):
            if at < first:
                due = Coverage.PRUNED
            elif at >= end or at in _held(missing):
                due = Coverage.MISSING
            elif at in _held(proven):
                due = (Coverage.ACKED if at < acked else Coverage.SEALED) if anchored else Coverage.UNPINNED
            else:
                due = Coverage.DAMAGED if at in _held(damaged) else Coverage.UNSEALED
            assert part.coverage is due
