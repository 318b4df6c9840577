"""Tree, proofs and checkpoints against code and logs that are not ours.

Three oracles:

* the definitions of RFC 6962 section 2.1, word for word, over the leaf and node hashes of sigstore-python;
* sigstore-python's verifier, which follows Trillian's: it splits a proof by arithmetic on index and size, where ours
  walks the tree level by level as RFC 9162 section 2.1.3.2 does. sigstore has no verifier of consistency, so
  `consistent_as_trillian` joins its own pieces in the way of github.com/transparency-dev/merkle, `proof/verify.go`;
* what others published: the test data of github.com/transparency-dev/merkle (the eight leaves of Certificate
  Transparency), an entry of the public log log2025-1.rekor.sigstore.dev under the key that sigstore-python ships, and
  tree heads of sum.golang.org under the key in the Go source (`cmd/go/internal/modfetch/key.go`).
"""

import base64
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sigstore import _store
from sigstore._internal.merkle import (
    _chain_border_right,
    _chain_inner,
    _decomp_inclusion_proof,
    _hash_children,
    _hash_leaf,
    verify_merkle_inclusion,
)
from sigstore._internal.rekor.checkpoint import SignedCheckpoint, verify_checkpoint
from sigstore._internal.trust import Keyring
from sigstore._utils import KeyID
from sigstore.errors import VerificationError
from sigstore_models.common import v1 as common_v1

from licenses.errors import BadSignatureError, RecordError
from licenses.keyring import KeyId, SigningKey, VerifyingKey
from licenses.usage_log.entry import leaf_hash
from licenses.usage_log.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    inclusion_proof,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from licenses.usage_log.note import key_hash, open_checkpoint, open_note, sign_checkpoint

SIZES = range(1, 65)
LINES = [b'{"n":%d}' % number for number in range(max(SIZES))]
LEAVES = [leaf_hash(line) for line in LINES]

Proof = list[bytes]
Tree = Callable[[int, int], bytes]
"""The root over the leaves [low, high)."""


# ---- the definitions ------------------------------------------------------------------------------------------------


def split(count: int) -> int:
    """The largest power of two smaller than `count`."""
    k = 1
    while k * 2 < count:
        k *= 2
    return k


def tree_over(leaf: Callable[[int], bytes]) -> Tree:
    """MTH of section 2.1 over the leaf hashes that a function gives."""

    @cache
    def root(low: int, high: int) -> bytes:
        if high - low == 1:
            return leaf(low)
        middle = low + split(high - low)
        return _hash_children(root(low, middle), root(middle, high))

    return root


def path(tree: Tree, index: int, low: int, high: int) -> Proof:
    """PATH of section 2.1.1."""
    if high - low == 1:
        return []
    middle = low + split(high - low)
    if index < middle:
        return [*path(tree, index, low, middle), tree(middle, high)]
    return [*path(tree, index, middle, high), tree(low, middle)]


def proof(tree: Tree, old: int, low: int, high: int, *, whole: bool = True) -> Proof:
    """SUBPROOF of section 2.1.2; `old` is counted from the very first leaf."""
    if old == high:
        return [] if whole else [tree(low, high)]
    middle = low + split(high - low)
    if old <= middle:
        return [*proof(tree, old, low, middle, whole=whole), tree(middle, high)]
    return [*proof(tree, old, middle, high, whole=False), tree(low, middle)]


TREE = tree_over(lambda index: _hash_leaf(LINES[index]))
ALIKE = _hash_leaf(b"alike")


@cache
def alike(width: int) -> bytes:
    """The root over so many leaves that are all the same; so trees of any size can be had."""
    if width == 1:
        return ALIKE
    return _hash_children(alike(split(width)), alike(width - split(width)))


def huge_tree(low: int, high: int) -> bytes:
    """A tree of leaves that are all the same."""
    return alike(high - low)


# ---- the other verifier ---------------------------------------------------------------------------------------------


def included_in_sigstore(root: bytes, size: int, index: int, line: bytes, hashes: Sequence[bytes]) -> bool:
    """What sigstore-python says of an inclusion proof."""
    inner = SimpleNamespace(
        inclusion_proof=SimpleNamespace(log_index=index, tree_size=size, hashes=list(hashes), root_hash=root),
        canonicalized_body=line,
    )
    try:
        verify_merkle_inclusion(SimpleNamespace(_inner=inner))
    except VerificationError:
        return False
    return True


def consistent_as_trillian(old: int, old_root: bytes, new: int, new_root: bytes, hashes: Sequence[bytes]) -> bool:
    """Trillian's verification of a consistency proof, of sigstore-python's pieces; 0 < old <= new."""
    if old == new:
        return not hashes and old_root == new_root
    inner, border = _decomp_inclusion_proof(old - 1, new)
    shift = (old & -old).bit_length() - 1
    inner -= shift
    rest = list(hashes) if old == 1 << shift else list(hashes[1:])
    if len(rest) != inner + border or (old != 1 << shift and not hashes):
        return False
    seed = old_root if old == 1 << shift else hashes[0]
    position = (old - 1) >> shift
    left_only = [one for level, one in enumerate(rest[:inner]) if position >> level & 1]
    before = _chain_border_right(_chain_border_right(seed, left_only), rest[inner:])
    after = _chain_border_right(_chain_inner(seed, rest[:inner], position), rest[inner:])
    return before == old_root and after == new_root


def included(root: bytes, size: int, index: int, leaf: bytes, hashes: Sequence[bytes]) -> bool:
    """What we say of an inclusion proof."""
    try:
        verify_inclusion(root=root, size=size, index=index, leaf=leaf, proof=hashes)
    except RecordError:
        return False
    return True


def consistent(old: int, old_root: bytes, new: int, new_root: bytes, hashes: Sequence[bytes]) -> bool:
    """What we say of a consistency proof."""
    try:
        verify_consistency(old_size=old, old_root=old_root, new_size=new, new_root=new_root, proof=hashes)
    except RecordError:
        return False
    return True


def flipped(one: bytes, bit: int) -> bytes:
    return (int.from_bytes(one, "big") ^ 1 << bit % 256).to_bytes(32, "big")


def damaged(hashes: Proof, chance: random.Random) -> list[Proof]:
    """Proofs of another length or with another hash in one place; none of them can hold."""
    other = chance.randbytes(32)
    found = [[*hashes, other], [other, *hashes], [*hashes, *hashes[-1:], other]]
    for at, one in enumerate(hashes):
        found.append([*hashes[:at], flipped(one, chance.randrange(256)), *hashes[at + 1 :]])
        found.append([*hashes[:at], *hashes[at + 1 :]])
        found.append([*hashes[:at], one, *hashes[at:]])
    found += [[*hashes[:at], hashes[at + 1], hashes[at], *hashes[at + 2 :]] for at in range(len(hashes) - 1)]
    return [one for one in found if one != hashes]


# ---- every small tree -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_root_and_frontier_are_those_of_the_definition(size: int) -> None:
    assert root_of(LEAVES[:size]) == TREE(0, size)
    frontier = Frontier()
    frontier.extend(LEAVES[:size])
    widths = [1 << level for level in reversed(range(size.bit_length())) if size >> level & 1]
    starts = [sum(widths[:at]) for at in range(len(widths))]
    assert frontier.hashes == tuple(TREE(start, start + width) for start, width in zip(starts, widths, strict=True))


@pytest.mark.parametrize("size", SIZES)
def test_inclusion_both_ways(size: int) -> None:
    chance, root = random.Random(size), TREE(0, size)
    for index in range(size):
        theirs, ours = path(TREE, index, 0, size), inclusion_proof(LEAVES[:size], index)
        assert ours == theirs
        assert included(root, size, index, LEAVES[index], theirs)
        assert included_in_sigstore(root, size, index, LINES[index], ours)
        for wrong in damaged(ours, chance):
            assert not included(root, size, index, LEAVES[index], wrong)
            assert not included_in_sigstore(root, size, index, LINES[index], wrong)
        for wrong_root in (flipped(root, chance.randrange(256)), LEAVES[index] if size > 1 else EMPTY_ROOT):
            assert not included(wrong_root, size, index, LEAVES[index], ours)
            assert not included_in_sigstore(wrong_root, size, index, LINES[index], ours)
        other = chance.randrange(max(SIZES))
        if other != index:
            assert not included(root, size, index, LEAVES[other], ours)
            assert not included_in_sigstore(root, size, index, LINES[other], ours)


@pytest.mark.parametrize("new", SIZES)
def test_consistency_both_ways(new: int) -> None:
    chance, new_root = random.Random(new), TREE(0, new)
    for old in range(1, new + 1):
        old_root = TREE(0, old)
        theirs, ours = proof(TREE, old, 0, new), consistency_proof(LEAVES[:new], old)
        assert ours == theirs
        assert consistent(old, old_root, new, new_root, theirs)
        assert consistent_as_trillian(old, old_root, new, new_root, ours)
        for wrong in damaged(ours, chance):
            assert not consistent(old, old_root, new, new_root, wrong)
            assert not consistent_as_trillian(old, old_root, new, new_root, wrong)
        bit = chance.randrange(256)
        for roots in ((flipped(old_root, bit), new_root), (old_root, flipped(new_root, bit)), (new_root, old_root)):
            if roots != (old_root, new_root):
                assert not consistent(old, roots[0], new, roots[1], ours)
                assert not consistent_as_trillian(old, roots[0], new, roots[1], ours)


def test_a_proof_under_another_index_or_size_is_judged_alike() -> None:
    """A size is not under the root, so some of these hold; both verifiers must say the same of each."""
    size, judged = 21, set()
    for index in range(size):
        ours = inclusion_proof(LEAVES[:size], index)
        for told_size in range(1, 40):
            for told_index in range(told_size):
                verdict = included(TREE(0, size), told_size, told_index, LEAVES[index], ours)
                assert verdict == included_in_sigstore(TREE(0, size), told_size, told_index, LINES[index], ours)
                judged.add(verdict)
    for old in range(1, size):
        ours = consistency_proof(LEAVES[:size], old)
        for told_new in range(2, 40):
            for told_old in range(1, told_new):
                said = (told_old, TREE(0, old), told_new, TREE(0, size), ours)
                assert consistent(*said) == consistent_as_trillian(*said)
    assert judged == {True, False}


# ---- large trees ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_random_large_trees(seed: int) -> None:
    chance = random.Random(seed)
    size = chance.randrange(1_000, 20_000)
    lines = [chance.randbytes(12) for _ in range(size)]
    leaves = [leaf_hash(line) for line in lines]
    tree = tree_over(leaves.__getitem__)
    root = root_of(leaves)
    assert root == tree(0, size)
    for _ in range(4):
        index, old = chance.randrange(size), chance.randrange(1, size)
        audit, extension = inclusion_proof(leaves, index), consistency_proof(leaves, old)
        assert (audit, extension) == (path(tree, index, 0, size), proof(tree, old, 0, size))
        assert included_in_sigstore(root, size, index, lines[index], audit)
        assert consistent_as_trillian(old, root_of(leaves[:old]), size, root, extension)


@pytest.mark.parametrize("seed", range(300))
def test_trees_of_any_size_up_to_the_largest_that_a_checkpoint_can_tell(seed: int) -> None:
    chance = random.Random(seed)
    new = chance.randrange(2, 1 << chance.randrange(2, 54))
    old, index = chance.randrange(1, new + 1), chance.randrange(new)
    if chance.random() < 0.3:
        old = 1 << (old.bit_length() - 1)
    root, old_root = alike(new), alike(old)
    audit, extension = path(huge_tree, index, 0, new), proof(huge_tree, old, 0, new)
    assert included(root, new, index, ALIKE, audit)
    assert included_in_sigstore(root, new, index, b"alike", audit)
    assert consistent(old, old_root, new, root, extension)
    assert consistent_as_trillian(old, old_root, new, root, extension)
    for wrong in damaged(audit, chance):
        verdict = included(root, new, index, ALIKE, wrong)
        assert verdict == included_in_sigstore(root, new, index, b"alike", wrong)
        assert not verdict
    for wrong in damaged(extension, chance):
        verdict = consistent(old, old_root, new, root, wrong)
        assert verdict == consistent_as_trillian(old, old_root, new, root, wrong)
        assert not verdict


# ---- what others published ------------------------------------------------------------------------------------------


def published(*texts: str) -> Proof:
    return [base64.b64decode(text) for text in texts]


CT_LINES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
# testdata/inclusion/*/happy-path.json: index, size, root, proof.
INCLUSION = [
    (
        5,
        8,
        "XcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=",
        published(
            "vBoGQ7EuTS18d5GPROD095qDi2z57FtcKD4fTYhZnms=",
            "yoVOoSjtBQtBs1/8G4e46yveRh6eO1WW7Oa51ZdaCuA=",
            "037kGJdt2VdTwcc4Yrk5j6Kiz5tP8P3+izDNlSCWFLc=",
        ),
    ),
    (
        2,
        3,
        "rra8/idLcKFPsGel5VeCZNsPqbUa9eC6FZFY8yngbnc=",
        published("+sVCA+fMaWzw38tCySodnbr3CtnmIfS9jZhmLwDjwSU="),
    ),
    (
        1,
        5,
        "Tju7H3tHjc/nH7YxYxUZo7yhLJrvyhYSv85ME6hiZNQ=",
        published(
            "bjQLnP+zepicpUTmu3gKLHiQHT+zNzh2hRGjBhevoB0=",
            "Xwg/ChozygdqlSeYMlgNs+DvRYS9/x9UyKNg9Q3jAx4=",
            "vBoGQ7EuTS18d5GPROD095qDi2z57FtcKD4fTYhZnms=",
        ),
    ),
]
# testdata/consistency/*/happy-path.json: old size, new size, old root, new root, proof.
CONSISTENCY = [
    (
        1,
        8,
        "bjQLnP+zepicpUTmu3gKLHiQHT+zNzh2hRGjBhevoB0=",
        "XcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=",
        published(
            "lqKW0iTyhcZ77pPDD4owkVfw2qNdxbh+QQt4YwoJz8c=",
            "Xwg/ChozygdqlSeYMlgNs+DvRYS9/x9UyKNg9Q3jAx4=",
            "a0eq8p7jwq+a+Im8H7klTavTEXfxYjLdaqsDXKOb9uQ=",
        ),
    ),
    (
        6,
        8,
        "duZ9rbzfHhDht03cYIq9L5jfsW+851J3tSMqEn8gh+8=",
        "XcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=",
        published(
            "DrxdNDf74tsVi58Sah0RjjCBgQMdCpSfje3t68VY72o=",
            "yoVOoSjtBQtBs1/8G4e46yveRh6eO1WW7Oa51ZdaCuA=",
            "037kGJdt2VdTwcc4Yrk5j6Kiz5tP8P3+izDNlSCWFLc=",
        ),
    ),
    (
        2,
        5,
        "+sVCA+fMaWzw38tCySodnbr3CtnmIfS9jZhmLwDjwSU=",
        "Tju7H3tHjc/nH7YxYxUZo7yhLJrvyhYSv85ME6hiZNQ=",
        published(
            "Xwg/ChozygdqlSeYMlgNs+DvRYS9/x9UyKNg9Q3jAx4=",
            "vBoGQ7EuTS18d5GPROD095qDi2z57FtcKD4fTYhZnms=",
        ),
    ),
    (
        6,
        7,
        "duZ9rbzfHhDht03cYIq9L5jfsW+851J3tSMqEn8gh+8=",
        "3bib5AOAnjJXUNPSY814kpwpQreUKjS3fhIslZSnTIw=",
        published(
            "DrxdNDf74tsVi58Sah0RjjCBgQMdCpSfje3t68VY72o=",
            "sIaT7C5yFZcTBkHoIR5+7cy0wmQTlj7ubB4u0W/7Gl8=",
            "037kGJdt2VdTwcc4Yrk5j6Kiz5tP8P3+izDNlSCWFLc=",
        ),
    ),
]


@pytest.mark.parametrize(("index", "size", "root", "hashes"), INCLUSION)
def test_published_inclusion_proofs(index: int, size: int, root: str, hashes: Proof) -> None:
    leaves = [leaf_hash(line) for line in CT_LINES]
    assert inclusion_proof(leaves[:size], index) == hashes
    assert included(base64.b64decode(root), size, index, leaves[index], hashes)
    assert included_in_sigstore(base64.b64decode(root), size, index, CT_LINES[index], hashes)


@pytest.mark.parametrize(("old", "new", "old_root", "new_root", "hashes"), CONSISTENCY)
def test_published_consistency_proofs(old: int, new: int, old_root: str, new_root: str, hashes: Proof) -> None:
    leaves = [leaf_hash(line) for line in CT_LINES]
    said = (old, base64.b64decode(old_root), new, base64.b64decode(new_root), hashes)
    assert consistency_proof(leaves[:new], old) == hashes
    assert consistent(*said)
    assert consistent_as_trillian(*said)


REKOR = "log2025-1.rekor.sigstore.dev"
# An entry of that log as its server answered; checked in by sigstore-js (packages/sign, rekor-v2.test.ts).
REKOR_BODY = (
    b'{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{"data":{"algorithm":"SHA2_256","digest":'
    b'"5dJ2SakUeOXY4ut1hBHPomz+hTn6tc0KTzcGosA+epE="},"signature":{"content":"MEYCIQDcJO82nz1rrtu1DxSpruX1ogJum8dl4IiG'
    b'BMPz3jYcbgIhAKwQ8wNu1On8pYfhAJCK8OqT0OOGTh/yAQ+An/e3d/dU","verifier":{"keyDetails":"PKIX_ECDSA_P256_SHA_256",'
    b'"publicKey":{"rawBytes":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE0q9Q+tdG195CXKfmUx1YatvZ/mN3rhjpOfm1lvskWprH9Pxpe9'
    b'Xc6LjEJbBcVPhutkfUvBB9RDk+42SNE6/5xg=="}}}}}}'
)
REKOR_PROOF = published(
    "KIoYVJ0TqmaEkFboP7YWTjSh8vFjVECmokcTOAByfIM=",
    "Umf0h0cK2hegTzNnSgsXszyiA4bp5OvEvP+GrWq3C8w=",
    "vNQeSNBfepYZI2Ez3ViKdCft0JH87ZS8IGKwixxUVjc=",
    "JBAugd5awOqmHXIKgz1MOjlR5f37VqmP0bWoRVcHX5M=",
    "xYH2mAxGxfOgvSOLnItT2LsJt+Z2a2egjf8QJFwK7jA=",
    "PbZWM3NitzChx9A22m/kddDtzh2bAKX5Fy7j76l3z2k=",
    "sKX9Sbsahvw5DiC2oP6pbZsDi1NzuNS1nIULXkCC57o=",
    "pfTCxXHnCM253jwYxVJcuUhmoTTtDxznn92QhN0M4Ws=",
    "cJ8uk2ZvZyfg+HRILKOHcyHu2pvI8Fz3R1MyMvyzWtA=",
)
REKOR_NOTE = (
    f"{REKOR}\n412115\n+8vUkEgBK/ansexBUomzocaWoPEmPIzxJC/y+xNMQN4=\n\n\u2014 {REKOR} "
    "zxGZFahCZ/+MqTjH4rC5MWcdLDWbpetE5l30RZfQc4BQkRjWSoKipEUPjvHENeZDHIlAsuezJcLzUVvItpNjaSRoMAs=\n"
)


def rekor_key() -> tuple[bytes, bytes]:
    """Public key (DER) and log id from the trust root that sigstore-python ships."""
    folder = resources.files(_store) / "https%3A%2F%2Ftuf-repo-cdn.sigstore.dev"
    trusted = json.loads((folder / "trusted_root.json").read_bytes())
    (log,) = [log for log in trusted["tlogs"] if log["baseUrl"] == f"https://{REKOR}"]
    return base64.b64decode(log["publicKey"]["rawBytes"]), base64.b64decode(log["logId"]["keyId"])


def ed25519(raw: bytes) -> VerifyingKey:
    return VerifyingKey(KeyId("published"), Ed25519PublicKey.from_public_bytes(raw))


def keyring(key: VerifyingKey) -> Keyring:
    der = key.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    detail = common_v1.PublicKeyDetails.PKIX_ED25519
    return Keyring([common_v1.PublicKey(raw_bytes=base64.b64encode(der), key_details=detail)])


def test_entry_of_a_public_log_down_to_its_signed_root() -> None:
    der, log_id = rekor_key()
    key = ed25519(der[-32:])
    assert key_hash(REKOR, key) == log_id[:4]
    checkpoint = open_checkpoint(REKOR_NOTE, {REKOR: key})
    assert (checkpoint.origin, checkpoint.size) == (REKOR, 412115)
    index = checkpoint.size - 1
    assert included(checkpoint.root, checkpoint.size, index, leaf_hash(REKOR_BODY), REKOR_PROOF)
    assert included_in_sigstore(checkpoint.root, checkpoint.size, index, REKOR_BODY, REKOR_PROOF)
    assert not included(checkpoint.root, checkpoint.size, index - 1, leaf_hash(REKOR_BODY), REKOR_PROOF)
    entry = SimpleNamespace(
        _inner=SimpleNamespace(
            inclusion_proof=SimpleNamespace(checkpoint=SimpleNamespace(envelope=REKOR_NOTE), root_hash=checkpoint.root),
            log_id=SimpleNamespace(key_id=log_id),
        )
    )
    verify_checkpoint(keyring(key), entry)
    with pytest.raises(BadSignatureError):
        open_checkpoint(REKOR_NOTE.replace("412115", "412116"), {REKOR: key})


SUMDB_KEY = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
SUMDB_HEADS = [
    (
        "go.sum database tree\n6476701\nmb8QLQIs0Z0yP5Cstq6guj87oXWeC9gEM8oVikmm9Wk=\n",
        "Az3grsLX85Gz+s1SiTbgkuqxgItqFq7gsMUEyVnrsa9LM7Us9S+1xbFIGu95949rj4nPRYfvimWEPWL+o3GeoWwOoAw=",
    ),
    (
        "go.sum database tree\n52544510\n+TGlZfnTizQCJgyZR56QixD8+X4dd8Wefy8U1w6k0Ig=\n",
        "Az3grn6d1PSjcypDf9bfcFVU5fvJB7VkLc0MAbz8jqeQVnSbAj9pKcsB5dJt5VdswPDUtiFar5LPRBu+uEQAT1CDfAc=",
    ),
]


@pytest.mark.parametrize(("text", "signature"), SUMDB_HEADS)
def test_tree_heads_of_the_go_checksum_database(text: str, signature: str) -> None:
    name, hashed, encoded = SUMDB_KEY.split("+", 2)
    key = ed25519(base64.b64decode(encoded)[1:])
    assert key_hash(name, key).hex() == hashed
    assert open_note(f"{text}\n\u2014 {name} {signature}\n", {name: key}) == text
    with pytest.raises(BadSignatureError):
        open_note(f"{text.replace('5', '6', 1)}\n\u2014 {name} {signature}\n", {name: key})


def test_our_checkpoints_are_read_and_verified_by_sigstore() -> None:
    device, origin = SigningKey.generate("device"), "vendor.example/0123456789abcdef"
    root = hashlib.sha256(b"root").digest()
    note = sign_checkpoint(origin, 4711, root, device)
    read = SignedCheckpoint.from_text(note)
    assert (read.checkpoint.origin, read.checkpoint.log_size, read.checkpoint.log_hash) == (origin, 4711, root.hex())
    key_id = KeyID(key_hash(origin, device.verifying) + bytes(28))
    read.signed_note.verify(keyring(device.verifying), key_id)
    with pytest.raises(VerificationError):
        SignedCheckpoint.from_text(note.replace("4711", "4712")).signed_note.verify(keyring(device.verifying), key_id)
    with pytest.raises(VerificationError):
        read.signed_note.verify(keyring(SigningKey.generate("device").verifying), key_id)
