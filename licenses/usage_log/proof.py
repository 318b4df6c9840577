"""The proof that entries are those that were sealed: the tree grown over what was read, against the roots claimed.

Invariants:

* A root is computed from the entries and a foothold: the empty tree, or the frontier that a file's header tells. What
  a header tells proves nothing by itself; a claimed root that is met proves foothold and entries together.
* Once a root is not met, or entries could not be read, nothing more is proven until a header gives a new foothold.
* Every claim ends in one of three ways: met, not met (a finding), or not compared (which is told, never passed over).
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto

from licenses.errors import RecordError
from licenses.strict_json import Fields, parse_object
from licenses.usage_log.coverage import Interval
from licenses.usage_log.entry import leaf_hash
from licenses.usage_log.merkle import EMPTY_ROOT, Frontier, verify_consistency
from licenses.usage_log.report import Severity

_BATCH = 4096

Find = Callable[[Severity, str, str, str], None]


class Source(Enum):
    """Who claims a root."""

    CHECKPOINT = auto()
    KEPT = auto()
    ACK = auto()


class Outcome(Enum):
    """How a claim ended."""

    MET = auto()
    NOT_MET = auto()
    NOT_COMPARED = auto()


@dataclass(frozen=True, slots=True)
class Claim:
    """One root over the entries [0, size), as somebody told it.

    Attributes:
        size: Number of entries.
        root: Merkle root over them, 32 bytes.
        where: What told it, for people.
        source: Who told it.
    """

    size: int
    root: bytes
    where: str
    source: Source


@dataclass(frozen=True, slots=True)
class Consistency:
    """A proof that a log of `new_size` entries begins with all of an earlier one; believed by nobody's word.

    Attributes:
        old_size: Size of the earlier log.
        new_size: Size of the later one.
        proof: The hashes of RFC 6962 section 2.1.2.
    """

    old_size: int
    new_size: int
    proof: tuple[bytes, ...]

    @classmethod
    def from_bytes(cls, blob: bytes) -> "Consistency":
        """Read the proof in a bundle; the roots that it tells are not, for only claims count.

        Raises:
            FormatError: It is something else.
        """
        fields = parse_object(blob, what="consistency proof")
        hashes = [Fields({"hash": one}, "proof") for one in fields.texts("proof", max_length=64)]
        return cls(
            old_size=fields.integer("old_size"),
            new_size=fields.integer("new_size"),
            proof=tuple(one.hex_bytes("hash", length=32) for one in hashes),
        )


class TreeProof:
    """Grows the tree over the entries read, and compares it with the roots claimed.

    Args:
        find: Called with what is found.

    Attributes:
        proven: The entries that claimed roots bear out, as intervals in the order read.
        damaged: The entries that a claimed root contradicts, or that could not be read, likewise.
        sealed_size: The largest size claimed.
    """

    def __init__(self, find: Find) -> None:
        self._find = find
        self._claims: dict[int, list[Claim]] = {}
        self._sizes: list[int] = []
        self._outcomes: dict[Claim, Outcome] = {}
        self._frontier: Frontier | None = Frontier()
        self._newest_root: tuple[tuple[bytes, ...], bytes] = ((), EMPTY_ROOT)
        self._is_told = False
        self._last = 0
        self.proven: list[Interval] = []
        self.damaged: list[Interval] = []
        self.sealed_size = 0

    def claim(self, claims: Iterable[Claim]) -> None:
        """Set what the entries are to be compared with; before the first file."""
        for claim in claims:
            at_size = self._claims.setdefault(claim.size, [])
            if claim.source is Source.CHECKPOINT:
                self._require_one_state(claim, at_size)
            at_size.append(claim)
        self._sizes = sorted(self._claims)
        self.sealed_size = self._sizes[-1] if self._sizes else 0
        self._meet_claims()

    def begin(self, first_seq: int, told: tuple[bytes, ...] | None, where: str) -> None:
        """A file begins.

        Args:
            first_seq: Its first entry.
            told: The frontier in its header, if there is one.
            where: The file, for people.
        """
        if self._frontier is not None and self._frontier.size == first_seq:
            if told is not None and told != self._frontier.hashes:
                message = "The header's frontier is not that of the entries before it."
                self._find(Severity.TAMPERED, "frontier", where, message)
            return
        if self._frontier is not None and self._last < self._frontier.size:
            self.damaged.append((self._last, first_seq))  # more lines or fewer than the names tell
        self._frontier = None if told is None else Frontier(first_seq, told)
        if first_seq == 0:
            self._frontier = Frontier()
        self._is_told, self._last = True, first_seq
        self._meet_claims()

    def through(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Pass the entries' lines on, and grow the tree with their leaves, stopping at each size that has a claim."""
        pending: list[bytes] = []
        room = self._room()
        for line in lines:
            pending.append(leaf_hash(line))
            if len(pending) >= room:
                self._grow(pending)
                room = self._room()
            yield line
        self._grow(pending)

    def has_root(self, root: bytes) -> bool:
        """Whether the entries so far give that root; where nothing can be computed, nothing is held against it."""
        return self._frontier is None or self._root(self._frontier) == root

    def lose(self, first: int, end: int) -> None:
        """The entries [first, end) could not be read: what follows needs a new foothold."""
        self._frontier = None
        self.damaged.append((first, end))

    def leave_out(self) -> None:
        """Entries are missing, or there twice: what follows needs a new foothold."""
        self._frontier = None

    def close(self, end: int, proofs: Sequence[Consistency] = ()) -> Mapping[Claim, Outcome]:
        """All is read: judge the claims that no entry reached.

        Args:
            end: The first entry that is not here.
            proofs: Consistency proofs, for claims on sizes before the first entry that is here.

        Returns:
            How each claim ended.
        """
        for size in self._sizes:
            for claim in self._claims[size]:
                if claim in self._outcomes:
                    continue
                if size > end:
                    message = f"{size} entries were sealed, only those before {end} are here: the end is cut off."
                    self._find(Severity.TAMPERED, "cut_tail", claim.where, message)
                    self._outcomes[claim] = Outcome.NOT_MET
                else:
                    self._outcomes[claim] = self._by_consistency(claim, proofs)
        return self._outcomes

    def _room(self) -> int:
        """How many leaves may be added before the tree must be looked at."""
        if self._frontier is None:
            return _BATCH
        size = self._frontier.size
        position = bisect_right(self._sizes, size)
        return min(_BATCH, self._sizes[position] - size) if position < len(self._sizes) else _BATCH

    def _grow(self, pending: list[bytes]) -> None:
        if self._frontier is not None and pending:
            self._frontier.extend(pending)
            self._meet_claims()
        pending.clear()

    def _meet_claims(self) -> None:
        """Compare the tree, as it is, with what is claimed of its size."""
        frontier = self._frontier
        claims = None if frontier is None else self._claims.get(frontier.size)
        if frontier is None or claims is None:
            return
        root, first, size = self._root(frontier), self._last, frontier.size
        for claim in claims:
            self._outcomes[claim] = Outcome.MET if claim.root == root else Outcome.NOT_MET
            if claim.root != root:
                self._find(Severity.TAMPERED, *self._mismatch(claim, first))
        if any(claim.root == root for claim in claims):
            if first < size:
                self.proven.append((first, size))
            self._last, self._is_told = size, False
        else:
            if first < size:
                self.damaged.append((first, size))
            self._frontier = None

    def _root(self, frontier: Frontier) -> bytes:
        """The root of the tree as it is; it is asked for twice at each file's end."""
        if self._newest_root[0] != frontier.hashes:
            self._newest_root = frontier.hashes, frontier.root()
        return self._newest_root[1]

    def _mismatch(self, claim: Claim, first: int) -> tuple[str, str, str]:
        if claim.source is Source.ACK:
            message = f"The vendor acknowledged other entries [0, {claim.size}) than those here: the log forked."
            return "ack_fork", claim.where, message
        if first == claim.size:
            return "frontier", claim.where, f"The header's frontier at {first} entries is not what was sealed."
        begun = " from the frontier that the header tells" if self._is_told and first else ""
        return "sealed_root", claim.where, f"The entries [{first}, {claim.size}){begun} are not those that were sealed."

    def _require_one_state(self, claim: Claim, others: Iterable[Claim]) -> None:
        if any(other.source is Source.CHECKPOINT and other.root != claim.root for other in others):
            message = (
                f"Two states of one log are sealed at {claim.size} entries: a copy of the device went on beside it, or "
                "an older state was restored."
            )
            self._find(Severity.TAMPERED, "fork", claim.where, message)

    def _by_consistency(self, claim: Claim, proofs: Sequence[Consistency]) -> Outcome:
        """Compare a claim on entries that are not here with one that was met, by a proof."""
        if claim.size == 0 and claim.root == EMPTY_ROOT:
            return Outcome.MET
        met = {one.size: one.root for one, outcome in self._outcomes.items() if outcome is Outcome.MET}
        tried = False
        for proof in proofs:
            if proof.old_size != claim.size or proof.new_size not in met:
                continue
            tried = True
            with suppress(RecordError):
                verify_consistency(
                    old_size=claim.size,
                    old_root=claim.root,
                    new_size=proof.new_size,
                    new_root=met[proof.new_size],
                    proof=proof.proof,
                )
                return Outcome.MET
        if not tried:
            return Outcome.NOT_COMPARED
        code = "ack_fork" if claim.source is Source.ACK else "inconsistent"
        message = f"The consistency proof does not lead from these {claim.size} entries to those that are sealed here."
        self._find(Severity.TAMPERED, code, claim.where, message)
        return Outcome.NOT_MET
