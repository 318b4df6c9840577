"""The Merkle tree, against published vectors and against its own definition."""

import hashlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licenses.errors import RecordError
from licenses.usage_log.entry import leaf_hash
from licenses.usage_log.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    consistency_proof_from,
    inclusion_proof,
    root_of,
    verify_consistency,
    verify_inclusion,
)

# The reference inputs of Certificate Transparency, and the roots over the first 1, 2, … 8 of them.
INPUTS = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [leaf_hash(one) for one in INPUTS]
PATHS = {
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
}
CONSISTENCY = {
    (1, 1): [],
    (1, 8): PATHS[0, 8],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
}


def _tree_by_definition(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + _tree_by_definition(leaves[:k]) + _tree_by_definition(leaves[k:])).digest()


def _leaves(count: int) -> list[bytes]:
    return [leaf_hash(b"%d" % number) for number in range(count)]


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_the_published_ones(size):
    assert root_of(LEAVES[:size]).hex() == ROOTS[size - 1]


@pytest.mark.parametrize(("place", "path"), PATHS.items())
def test_inclusion_proofs_are_the_published_ones(place, path):
    index, size = place
    assert [one.hex() for one in inclusion_proof(LEAVES[:size], index)] == path


@pytest.mark.parametrize(("sizes", "proof"), CONSISTENCY.items())
def test_consistency_proofs_are_the_published_ones(sizes, proof):
    old, new = sizes
    assert [one.hex() for one in consistency_proof(LEAVES[:new], old)] == proof


def test_empty_tree_has_the_hash_of_nothing():
    assert Frontier().root() == EMPTY_ROOT == hashlib.sha256().digest()


@given(st.integers(0, 70))
@settings(deadline=None)
def test_frontier_is_the_tree_of_the_definition(count):
    assert root_of(_leaves(count)) == _tree_by_definition(_leaves(count))


@given(st.integers(0, 70), st.integers(0, 70))
@settings(deadline=None)
def test_frontier_goes_on_from_where_it_was_stored(first, more):
    leaves = _leaves(first + more)
    frontier = Frontier()
    frontier.extend(leaves[:first])
    frontier = Frontier.from_tuple(frontier.to_tuple())
    for leaf in leaves[first:]:
        frontier.append(leaf)
    assert (frontier.size, frontier.root()) == (len(leaves), root_of(leaves))
    assert len(frontier.hashes) == frontier.size.bit_count()


@pytest.mark.parametrize(
    ("size", "hashes"), [(1, []), (0, [bytes(32)]), (3, [bytes(32)]), (1, [b"x"]), (-1, [bytes(32)])]
)
def test_frontier_that_does_not_add_up_is_refused(size, hashes):
    with pytest.raises(RecordError):
        Frontier(size, hashes)


def test_leaf_of_another_length_is_refused():
    with pytest.raises(RecordError):
        Frontier().append(b"x")


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_proofs_hold_and_no_changed_proof_does(data):
    size = data.draw(st.integers(1, 40))
    leaves, index, old = _leaves(size), data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))
    root, old_root = root_of(leaves), root_of(leaves[:old])
    path, proof = inclusion_proof(leaves, index), consistency_proof(leaves, old)
    verify_inclusion(root=root, size=size, index=index, leaf=leaves[index], proof=path)
    verify_consistency(old_size=old, old_root=old_root, new_size=size, new_root=root, proof=proof)

    other = leaf_hash(b"other")
    for wrong in ([*path, other], path[:-1] if path else [other], [other, *path[1:]] if path else [other]):
        with pytest.raises(RecordError):
            verify_inclusion(root=root, size=size, index=index, leaf=leaves[index], proof=wrong)
    with pytest.raises(RecordError):
        verify_inclusion(root=root, size=size, index=index, leaf=other, proof=path)
    for wrong in ([*proof, other], [other, *proof[1:]] if proof else [other]):
        with pytest.raises(RecordError):
            verify_consistency(old_size=old, old_root=old_root, new_size=size, new_root=root, proof=wrong)
    with pytest.raises(RecordError):
        verify_consistency(old_size=old, old_root=other, new_size=size, new_root=root, proof=proof)


def test_changed_history_has_no_consistency_proof():
    honest, edited = _leaves(12), _leaves(12)
    edited[3] = leaf_hash(b"edited")
    with pytest.raises(RecordError, match="does not extend"):
        verify_consistency(
            old_size=8,
            old_root=root_of(honest[:8]),
            new_size=12,
            new_root=root_of(edited),
            proof=consistency_proof(edited, 8),
        )


@pytest.mark.parametrize(
    "call",
    [
        lambda: inclusion_proof(_leaves(3), 3),
        lambda: inclusion_proof([], 0),
        lambda: consistency_proof(_leaves(3), 4),
        lambda: verify_inclusion(root=bytes(32), size=3, index=3, leaf=bytes(32), proof=[]),
        lambda: verify_inclusion(root=bytes(32), size=0, index=0, leaf=bytes(32), proof=[]),
        lambda: verify_consistency(old_size=3, old_root=bytes(32), new_size=2, new_root=bytes(32), proof=[]),
        lambda: verify_consistency(old_size=2, old_root=bytes(32), new_size=2, new_root=bytes(31), proof=[]),
        lambda: verify_consistency(old_size=3, old_root=bytes(32), new_size=5, new_root=bytes(32), proof=[]),
    ],
)
def test_what_cannot_be_is_refused(call):
    with pytest.raises(RecordError):
        call()


def test_hundred_thousand_leaves_take_less_than_half_a_second():
    leaves = _leaves(100_000)
    started = time.perf_counter()
    frontier = Frontier()
    frontier.extend(leaves)
    frontier.root()
    assert time.perf_counter() - started < 0.5


@given(st.integers(0, 300), st.integers(0, 300))
def test_consistency_proof_from_a_frontier_is_the_same(one, other):
    old, new = sorted((one, other))
    leaves = _leaves(new)
    frontier = Frontier()
    frontier.extend(leaves[:old])
    rest = iter([*leaves[old:], b"not asked for"])
    proof = consistency_proof_from(frontier, rest, new)
    assert proof == consistency_proof(leaves, old)
    assert frontier.root() == root_of(leaves[:old])


def test_consistency_proof_from_a_frontier_needs_all_leaves():
    frontier = Frontier()
    frontier.extend(_leaves(5))
    for after, size in (((), 6), (_leaves(9)[5:8], 9), ((), 4)):
        with pytest.raises(RecordError):
            consistency_proof_from(frontier, after, size)
