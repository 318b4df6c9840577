"""The proof of roots: what was left alone is proven, what was touched is not, whatever was done to which file."""

from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licenses.errors import FormatError
from licenses.strict_json import canonical
from licenses.usage_log.coverage import merged
from licenses.usage_log.entry import leaf_hash
from licenses.usage_log.merkle import EMPTY_ROOT, Frontier, consistency_proof, root_of
from licenses.usage_log.proof import Claim, Consistency, Outcome, Source, TreeProof
from licenses.usage_log.report import FindingList


@dataclass
class Log:
    """A log in files, and what an honest device tells of it."""

    lines: list[bytes]
    bounds: list[tuple[int, int]]
    findings: FindingList = field(default_factory=FindingList)

    def __post_init__(self) -> None:
        self.leaves = [leaf_hash(line) for line in self.lines]
        self.proof = TreeProof(self.findings.find)

    def claim(self, size: int, source: Source = Source.CHECKPOINT, root: bytes | None = None) -> Claim:
        return Claim(size, root_of(self.leaves[:size]) if root is None else root, f"at {size}", source)

    def frontier(self, size: int) -> tuple[bytes, ...]:
        frontier = Frontier()
        frontier.extend(self.leaves[:size])
        return frontier.hashes

    def read(self, first: int, lines: list[bytes], *, told: bool = True) -> None:
        self.proof.begin(first, self.frontier(first) if told else None, f"file {first}")
        assert list(self.proof.through(lines)) == lines

    @property
    def codes(self) -> set[str]:
        return {finding.code for finding in self.findings.kept}


def _log(*lengths: int) -> Log:
    ends = [0, *accumulate(lengths)]
    return Log([b"line %d" % number for number in range(ends[-1])], list(pairwise(ends)))


lengths = st.lists(st.integers(1, 7), min_size=1, max_size=8)


@given(lengths=lengths, data=st.data())
def test_exactly_what_was_left_alone_is_proven(lengths, data):
    """Each file is good, edited, dropped or not to be read; each seal is there; every header tells its frontier."""
    log = _log(*lengths)
    log.proof.claim([log.claim(end) for _, end in log.bounds])
    fates = data.draw(st.lists(st.sampled_from(["good", "good", "edited", "dropped", "lost"]), min_size=8, max_size=8))
    due = 0
    for (first, end), fate in zip(log.bounds, fates, strict=False):
        if fate == "dropped":
            continue
        if first != due:
            log.proof.leave_out()
        lines = log.lines[first:end]
        if fate == "edited":
            lines[data.draw(st.integers(0, len(lines) - 1))] = b"edited"
        if fate == "lost":
            log.proof.lose(first, end)
        else:
            log.read(first, lines)
        due = end
    log.proof.close(due)
    alone = [bounds for bounds, fate in zip(log.bounds, fates, strict=False) if fate == "good"]
    touched = [bounds for bounds, fate in zip(log.bounds, fates, strict=False) if fate in ("edited", "lost")]
    assert merged(log.proof.proven) == merged(alone)
    assert merged(log.proof.damaged) == merged(touched)
    assert ("sealed_root" in log.codes) == ("edited" in fates[: len(log.bounds)])


@given(lengths=lengths, data=st.data())
def test_one_seal_at_the_end_proves_all_from_any_beginning(lengths, data):
    log = _log(*lengths)
    size = len(log.lines)
    begin = data.draw(st.sampled_from(log.bounds))[0]
    log.proof.claim([log.claim(size)])
    for first, end in log.bounds:
        if first >= begin:
            log.read(first, log.lines[first:end])
    assert log.proof.close(size) == {log.claim(size): Outcome.MET}
    assert merged(log.proof.proven) == [(begin, size)]
    assert log.codes == set()


@given(lengths=lengths, data=st.data())
def test_false_frontier_never_leads_to_a_sealed_root(lengths, data):
    log = _log(*lengths, 3)
    size = len(log.lines)
    begin = data.draw(st.sampled_from(log.bounds[1:]))[0]
    told = list(log.frontier(begin))
    told[data.draw(st.integers(0, len(told) - 1))] = bytes(32)
    log.proof.claim([log.claim(size)])
    log.proof.begin(begin, tuple(told), "file")
    list(log.proof.through(log.lines[begin:]))
    log.proof.close(size)
    assert log.codes == {"sealed_root"}
    assert log.proof.proven == []


@given(lengths=lengths, source=st.sampled_from(Source), data=st.data())
def test_claim_on_a_size_within_a_file_is_compared(lengths, source, data):
    log = _log(*lengths)
    size = data.draw(st.integers(0, len(log.lines)))
    honest, false = log.claim(size, source), log.claim(size, source, bytes(32))
    log.proof.claim([honest, false])
    for first, end in log.bounds:
        log.read(first, log.lines[first:end])
    outcomes = log.proof.close(len(log.lines))
    assert (outcomes[honest], outcomes[false]) == (Outcome.MET, Outcome.NOT_MET)
    assert ("ack_fork" in log.codes) == (source is Source.ACK)


def test_two_checkpoints_of_one_size_are_a_fork():
    log = _log(3)
    log.proof.claim([log.claim(3), log.claim(3), log.claim(3, root=bytes(32))])
    assert log.codes == {"fork"}


def test_claim_beyond_the_records_is_a_tail_cut_off():
    log = _log(3, 2)
    log.proof.claim([log.claim(5)])
    log.read(0, log.lines[:3])
    assert log.proof.close(3) == {log.claim(5): Outcome.NOT_MET}
    assert log.codes == {"cut_tail"}


def test_frontier_that_differs_from_the_entries_before_it_is_named():
    log = _log(3, 2)
    log.read(0, log.lines[:3])
    log.proof.begin(3, (bytes(32), bytes(32)), "file")
    assert log.codes == {"frontier"}


def test_without_a_foothold_nothing_is_held_against_a_root():
    log = _log(3, 2)
    log.proof.claim([log.claim(5)])
    log.read(3, log.lines[3:], told=False)
    assert log.proof.has_root(bytes(32))
    assert log.proof.close(5) == {log.claim(5): Outcome.NOT_COMPARED}
    assert log.codes == set()


def test_claim_on_the_empty_log_is_met_by_any():
    log = _log(3)
    log.proof.claim([Claim(0, EMPTY_ROOT, "kept", Source.KEPT)])
    log.read(0, log.lines)
    assert list(log.proof.close(3).values()) == [Outcome.MET]


# ---- consistency proofs ---------------------------------------------------------------------------------------------


def _begun_late(source: Source, root: bytes | None = None) -> tuple[Log, Claim]:
    """A log whose first three entries are not here, with a claim on two of them."""
    log = _log(3, 4)
    earlier = log.claim(2, source, root)
    log.proof.claim([earlier, log.claim(7)])
    log.read(3, log.lines[3:])
    return log, earlier


def test_claim_on_what_is_not_here_is_met_by_a_proof():
    log, earlier = _begun_late(Source.KEPT)
    proof = Consistency(2, 7, tuple(consistency_proof(log.leaves, 2)))
    assert log.proof.close(7, [proof])[earlier] is Outcome.MET
    assert log.codes == set()


@pytest.mark.parametrize(("source", "code"), [(Source.KEPT, "inconsistent"), (Source.ACK, "ack_fork")])
def test_proof_that_does_not_lead_there_is_caught(source, code):
    log, earlier = _begun_late(source, bytes(32))
    proof = Consistency(2, 7, tuple(consistency_proof(log.leaves, 2)))
    assert log.proof.close(7, [proof])[earlier] is Outcome.NOT_MET
    assert log.codes == {code}


@pytest.mark.parametrize(("old", "new"), [(3, 7), (2, 6)])
def test_proof_of_other_sizes_compares_nothing(old, new):
    log, earlier = _begun_late(Source.KEPT)
    proof = Consistency(old, new, tuple(consistency_proof(log.leaves[:new], old)))
    assert log.proof.close(7, [proof])[earlier] is Outcome.NOT_COMPARED


def test_proof_is_read_from_its_file():
    blob = canonical({"old_size": 2, "new_size": 7, "old_root": "x", "proof": ["0" * 64, "1" * 64]})
    assert Consistency.from_bytes(blob) == Consistency(2, 7, (bytes(32), b"\x11" * 32))
    for wrong in (b"[]", b"{}", canonical({"old_size": 2, "new_size": 7, "proof": ["0"]})):
        with pytest.raises(FormatError):
            Consistency.from_bytes(wrong)
