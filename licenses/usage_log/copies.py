"""Several folders with one log: copies, of which the largest holds all that the others hold, or a log that forked.

Invariants:

* Where windows end differs from copy to copy once one goes its own way, so a common size of two seals proves little:
  the newest seal of the smaller copy is compared with the entries of the larger one, as a kept checkpoint is.
* A fork is told where both sides are proven: not where records of one were edited or cannot be read.
* What was not compared is a gap, never passed over; how many audits comparing may take is bounded.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from itertools import combinations
from pathlib import Path

from licenses.usage_log.audit import InstanceAudit, Progress
from licenses.usage_log.claims import Given
from licenses.usage_log.note import Checkpoint
from licenses.usage_log.proof import Outcome
from licenses.usage_log.report import Finding, InstanceReport, Severity

MAX_AUDITS = 32

_WHY = "a copy of the device went on beside it, or an older state was restored."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Copy:
    """One folder of records, audited.

    Attributes:
        folder: Where.
        name: What the auditor knows it by.
        audit: Its audit, done.
        report: What that told.
        roots: What its seals say, by size.
    """

    folder: Path
    name: str
    audit: InstanceAudit
    report: InstanceReport
    roots: Mapping[int, bytes]

    @property
    def newest(self) -> Checkpoint | None:
        """The newest seal; None when there is none."""
        if not self.roots:
            return None
        size = max(self.roots)
        return Checkpoint(self.report.origin, size, self.roots[size])


class _Answer(Enum):
    """What comparing two copies came to."""

    SAME = auto()
    FORK = auto()
    NOT_COMPARED = auto()


def copy_of(folder: Path, below: Path, audit: InstanceAudit, report: InstanceReport) -> Copy:
    """An audited folder, named as it lies below the one that the auditor gave."""
    return Copy(
        folder=folder, name=os.path.relpath(folder, below), audit=audit, report=report, roots=audit.checkpoint_roots
    )


def compare_copies(copies: Sequence[Copy], given: Given, progress: Progress | None = None) -> Iterator[Finding]:
    """Compare all that hold the same log, each with each.

    Args:
        copies: All folders, of whatever logs.
        given: What the auditor brought to their audits.
        progress: Called now and then with the number of entries read anew.
    """
    logs: defaultdict[str, list[Copy]] = defaultdict(list)
    for one in copies:
        if one.report.origin:
            logs[one.report.origin].append(one)
    comparison = _Comparison(given, progress)
    for log in logs.values():
        yield from comparison.of(sorted(log, key=_extent, reverse=True))
    if comparison.left_out:
        message = f"{comparison.left_out} further pairs of copies of one log were not compared: give fewer at once."
        yield Finding(Severity.GAP, "copies_not_compared", "", message)


class _Comparison:
    """Compares copies, and counts the audits that it takes."""

    def __init__(self, given: Given, progress: Progress | None) -> None:
        self._given = given
        self._progress = progress
        self._audits = 0
        self.left_out = 0

    def of(self, copies: Sequence[Copy]) -> Iterator[Finding]:
        """Compare the copies of one log, the largest first."""
        whole: dict[Copy, set[Copy]] = {one: set() for one in copies}  # the larger ones that hold all of it
        for larger, smaller in combinations(copies, 2):
            if whole[larger] & whole[smaller]:
                continue  # both are beginnings of one log
            names = f"{larger.name} and {smaller.name}"
            answer, message = self._compare(larger, smaller)
            if answer is _Answer.SAME:
                whole[smaller].add(larger)
                yield Finding(Severity.NOTE, "same_log_twice", names, message)
            elif answer is _Answer.FORK:
                yield Finding(Severity.TAMPERED, "fork", names, message)
            elif message:
                yield Finding(Severity.GAP, "copies_not_compared", names, message)
            else:
                self.left_out += 1

    def _compare(self, larger: Copy, smaller: Copy) -> tuple[_Answer, str]:
        """The answer, in a sentence too; in none where it would have taken one audit too many."""
        origin, newest = larger.report.origin, smaller.newest
        forked = [size for size, root in smaller.roots.items() if larger.roots.get(size, root) != root]
        if forked:
            message = f"Both are sealed as the log of {origin}, but differ at {min(forked)} entries: {_WHY}"
            return _Answer.FORK, message
        outcome = None if newest is None else larger.audit.outcome_of(newest)
        if newest is not None and outcome is None:
            if self._audits == MAX_AUDITS:
                return _Answer.NOT_COMPARED, ""
            self._audits += 1
            again = InstanceAudit(larger.folder, replace(self._given, kept=newest), self._progress)
            again.run()
            outcome = again.outcome_of(newest)
            if outcome is Outcome.NOT_MET and larger.audit.proves(newest.size):
                message = (
                    f"Both are sealed as the log of {origin}, but the smaller one's {newest.size} entries are not the "
                    f"first of the larger one: {_WHY}"
                )
                return _Answer.FORK, message
        if outcome is Outcome.MET:
            return _Answer.SAME, f"Both hold the log of {origin}; add up the sums of one of them only."
        message = (
            f"Both are of the log of {origin}, but nothing tells whether the larger one continues the smaller one: not "
            "all that its newest seal speaks of is here, whole and proven, in the other."
        )
        return _Answer.NOT_COMPARED, message


def _extent(copy: Copy) -> tuple[int, int, int]:
    """How much of the log a copy proves; of two that prove as much, the one with more entries is the larger."""
    return max(copy.roots, default=-1), copy.report.size, copy.report.entries
