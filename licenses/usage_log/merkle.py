"""The Merkle tree of RFC 6962, as a frontier that grows and as proofs that anyone can check.

Invariants:

* Leaves come in as their hashes, SHA-256(0x00 || line); a node is SHA-256(0x01 || left || right).
* A `Frontier` of n leaves holds one hash per bit set in n, the largest subtree first; no leaf is needed again.
* `verify_…` return nothing or raise `RecordError`; a proof too long or too short does not hold.
"""

import hashlib
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Self

from licenses.errors import RecordError

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


class Frontier:
    """The right edge of a growing tree: enough to append and to tell the root.

    Args:
        size: Number of leaves so far.
        hashes: Roots of the complete subtrees, the largest first.

    Raises:
        RecordError: So many hashes do not make a frontier of that size.
    """

    __slots__ = ("_hashes", "_size")

    def __init__(self, size: int = 0, hashes: Iterable[bytes] = ()) -> None:
        self._size = size
        self._hashes = list(hashes)
        if size < 0 or len(self._hashes) != size.bit_count() or any(len(one) != HASH_BYTES for one in self._hashes):
            raise RecordError(f"{len(self._hashes)} hashes are no frontier of {size} leaves")

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._size

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """Roots of the complete subtrees, the largest first; for storage."""
        return tuple(self._hashes)

    def to_tuple(self) -> tuple[int, tuple[bytes, ...]]:
        """Size and hashes, as the constructor takes them."""
        return self._size, self.hashes

    @classmethod
    def from_tuple(cls, stored: tuple[int, Iterable[bytes]]) -> Self:
        """What `to_tuple` gave."""
        return cls(*stored)

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        self.extend((leaf,))

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaf hashes, in order.

        Raises:
            RecordError: One is not 32 bytes; those before it have been added.
        """
        hashes, sha256 = self._hashes, hashlib.sha256
        for leaf in leaves:
            if len(leaf) != HASH_BYTES:
                raise RecordError(f"a leaf hash has {len(leaf)} bytes, not {HASH_BYTES}")
            rest, node = self._size, leaf
            while rest & 1:
                node = sha256(b"\x01" + hashes.pop() + node).digest()
                rest >>= 1
            hashes.append(node)
            self._size += 1

    def root(self) -> bytes:
        """The root over all leaves; of the empty tree, SHA-256 of nothing."""
        if not self._hashes:
            return EMPTY_ROOT
        node = self._hashes[-1]
        for left in reversed(self._hashes[:-1]):
            node = _node(left, node)
        return node


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root over leaf hashes."""
    frontier = Frontier()
    frontier.extend(leaves)
    return frontier.root()


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of RFC 6962 section 2.1.1, from the leaf upward.

    Args:
        leaves: All leaf hashes.
        index: Which leaf, counted from 0.

    Raises:
        RecordError: There is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise RecordError(f"there is no leaf {index} among {len(leaves)}")
    low, high, path = 0, len(leaves), []
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(root_of(leaves[middle:high]))
            high = middle
        else:
            path.append(root_of(leaves[low:middle]))
            low = middle
    return path[::-1]


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """The proof of RFC 6962 section 2.1.2 that the first `old_size` leaves are still the same.

    Args:
        leaves: All leaf hashes.
        old_size: Size of the earlier tree.

    Raises:
        RecordError: The tree never had that size.
    """
    if not 0 <= old_size <= len(leaves):
        raise RecordError(f"{len(leaves)} leaves never were {old_size}")
    if old_size in (0, len(leaves)):
        return []
    low, high, whole, proof = 0, len(leaves), True, []
    while old_size != high:
        middle = low + _split(high - low)
        if old_size <= middle:
            proof.append(root_of(leaves[middle:high]))
            high = middle
        else:
            proof.append(root_of(leaves[low:middle]))
            low, whole = middle, False
    if not whole:
        proof.append(root_of(leaves[low:high]))
    return proof[::-1]


def consistency_proof_from(frontier: Frontier, leaves_after: Iterable[bytes], new_size: int) -> list[bytes]:
    """The proof of `consistency_proof`, without the leaves of the earlier tree and without holding any.

    Args:
        frontier: Of the earlier tree; left as it is.
        leaves_after: The leaf hashes from there on, in order; read once, and no further than needed.
        new_size: Size of the newer tree.

    Raises:
        RecordError: The newer tree is smaller, or there are not so many leaves.
    """
    old_size, old_hashes = frontier.to_tuple()
    if new_size < old_size:
        raise RecordError(f"a log does not shrink from {old_size} to {new_size} entries")
    if old_size in (0, new_size):
        return []
    # From the root down: where the earlier tree ends in the left half, the right half is all new; where it ends in the
    # right half, the left half is the next largest subtree of its frontier.
    low, high, known, steps = 0, new_size, 0, []
    while old_size != high:
        middle = low + _split(high - low)
        if old_size <= middle:
            steps.append((middle, high))
            high = middle
        else:
            steps.append((known, -1))
            low, known = middle, known + 1
    leaves, proof = iter(leaves_after), []
    if known:
        proof.append(old_hashes[known])
    at = old_size
    for first, following in reversed(steps):
        if following == -1:
            proof.append(old_hashes[first])
            continue
        subtree = Frontier()
        subtree.extend(islice(leaves, following - at))
        if subtree.size != following - at:
            raise RecordError(f"there are fewer than {new_size} leaves")
        proof.append(subtree.root())
        at = following
    return proof


def verify_inclusion(*, root: bytes, size: int, index: int, leaf: bytes, proof: Sequence[bytes]) -> None:
    """Check that `leaf` is leaf number `index` of the tree of `size` leaves with that root.

    Raises:
        RecordError: The proof does not hold.
    """
    if not 0 <= index < size:
        raise RecordError(f"there is no leaf {index} in a tree of {size}")
    position, last, node = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise RecordError("the inclusion proof is too long")
        if position & 1 or position == last:
            node = _node(sibling, node)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            node = _node(node, sibling)
        position >>= 1
        last >>= 1
    if last != 0:
        raise RecordError("the inclusion proof is too short")
    if node != root:
        raise RecordError(f"leaf {index} is not in the tree of that root")


def verify_consistency(
    *, old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree of `new_size` begins with all leaves of the tree of `old_size`.

    Raises:
        RecordError: The proof does not hold.
    """
    if not 0 <= old_size <= new_size:
        raise RecordError(f"a log does not shrink from {old_size} to {new_size} entries")
    if old_size in (0, new_size):
        expected = EMPTY_ROOT if old_size == 0 else new_root
        if proof or old_root != expected:
            raise RecordError("two roots of one size differ, or the consistency proof is not empty")
        return
    steps = list(proof)
    if old_size & (old_size - 1) == 0:
        steps.insert(0, old_root)
    if not steps:
        raise RecordError("the consistency proof is too short")
    position, last = old_size - 1, new_size - 1
    while position & 1:
        position >>= 1
        last >>= 1
    old_node = new_node = steps[0]
    for sibling in steps[1:]:
        if last == 0:
            raise RecordError("the consistency proof is too long")
        if position & 1 or position == last:
            old_node, new_node = _node(sibling, old_node), _node(sibling, new_node)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            new_node = _node(new_node, sibling)
        position >>= 1
        last >>= 1
    if last != 0 or old_node != old_root or new_node != new_root:
        raise RecordError("the newer tree does not extend the older one")


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _split(count: int) -> int:
    """The largest power of two below `count`, which is 2 or more."""
    return 1 << ((count - 1).bit_length() - 1)
