"""The proof of a fork: it convinces of a fork, and of nothing that an honest log signs."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licenses.device_key import device_id_of
from licenses.errors import BadSignatureError, LicensesError, RecordError, UntrustedKeyError
from licenses.keys import SigningKey
from licenses.usage_log.entry import leaf_hash
from licenses.usage_log.fork import (
    ForkKind,
    confess_rollback,
    fork_name,
    prove_fork,
    read_fork_file,
    verify_fork,
)
from licenses.usage_log.merkle import consistency_proof, root_of
from licenses.usage_log.note import Checkpoint, sign_checkpoint, sign_extended

KEY, OTHER = SigningKey.generate("device"), SigningKey.generate("device")
DEVICE = KEY.verifying
ORIGIN = f"vendor.example/{device_id_of(DEVICE.raw)}"


def _leaves(count: int, forked_at: int | None = None) -> list[bytes]:
    at = count if forked_at is None else forked_at
    return [leaf_hash(b"%d" % seq if seq < at else b"fork %d" % seq) for seq in range(count)]


def _note(leaves: list[bytes], key: SigningKey = KEY, origin: str = ORIGIN) -> str:
    return sign_checkpoint(origin, len(leaves), root_of(leaves), key)


def _edited(blob: bytes, **changes) -> bytes:
    return json.dumps({**json.loads(blob), **changes}).encode()


def _b64(note: str) -> str:
    return base64.b64encode(note.encode()).decode()


SAME = prove_fork(_note(_leaves(7)), _note(_leaves(7, 3)), DEVICE)


def test_two_roots_of_one_size():
    fork = verify_fork(SAME, DEVICE)
    assert (fork.kind, fork.origin, fork.first.size, fork.second.size) == (ForkKind.SAME_SIZE, ORIGIN, 7, 7)
    assert prove_fork(_note(_leaves(7, 3)), _note(_leaves(7)), DEVICE) == SAME
    assert "two different histories of its first 7 entries" in fork.reason


def _other_past(small: int, large: int, forked_at: int, device=DEVICE) -> bytes:
    longer = _leaves(large, forked_at)
    return prove_fork(
        _note(longer),
        _note(_leaves(small)),
        device,
        root=root_of(longer[:small]),
        proof=consistency_proof(longer, small),
    )


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_other_past(small, more, data):
    forked_at = data.draw(st.integers(0, small - 1))
    fork = verify_fork(_other_past(small, small + more, forked_at), DEVICE)
    assert (fork.kind, fork.first.size, fork.second.size) == (ForkKind.OTHER_PAST, small, small + more)


@given(st.integers(0, 40), st.integers(1, 40))
def test_honest_growth_proves_nothing(small, more):
    leaves = _leaves(small + more)
    with pytest.raises(RecordError, match="proves nothing"):
        prove_fork(
            _note(leaves[:small]),
            _note(leaves),
            DEVICE,
            root=root_of(leaves[:small]),
            proof=consistency_proof(leaves, small),
        )
    with pytest.raises(RecordError, match="proves nothing"):
        prove_fork(_note(leaves[:small]), _note(leaves), DEVICE)


def test_one_statement_twice_proves_nothing():
    with pytest.raises(RecordError, match="proves nothing"):
        prove_fork(_note(_leaves(7)), _note(_leaves(7)), DEVICE)
    with pytest.raises(RecordError, match="proves nothing"):
        prove_fork(_note(_leaves(7)), _note(_leaves(7, 3)), DEVICE, root=bytes(32))


def test_made_up_root_proves_nothing():
    leaves = _leaves(9)
    with pytest.raises(RecordError):
        prove_fork(_note(leaves[:5]), _note(leaves), DEVICE, root=bytes(32), proof=consistency_proof(leaves, 5))
    blob = _other_past(5, 9, 2)
    for changes in ({"root": "00" * 32}, {"proof": []}, {"proof": ["00" * 32]}):
        with pytest.raises(RecordError):
            verify_fork(_edited(blob, **changes), DEVICE)


def test_empty_log_forks_from_nothing():
    with pytest.raises(RecordError, match="proves nothing"):
        prove_fork(_note([]), _note(_leaves(3)), DEVICE, root=bytes(32), proof=())


def test_rolled_back_log_confesses():
    long, short = _leaves(9), _leaves(4)
    seen = Checkpoint(ORIGIN, 9, root_of(long))
    confession = confess_rollback(Checkpoint(ORIGIN, 4, root_of(short)), seen, KEY)
    fork = verify_fork(prove_fork(confession, _note(long), DEVICE), DEVICE)
    assert (fork.kind, fork.first.size, fork.second.size, fork.root) == (ForkKind.ROLLED_BACK, 4, 9, None)
    assert "restored from an older copy" in fork.reason
    for other in (_note(_leaves(9, 5)), _note(_leaves(10))):
        with pytest.raises(RecordError, match="proves nothing"):
            prove_fork(confession, other, DEVICE)


@pytest.mark.parametrize("line", ["seen 9", "seen 09 x", "seen 9 AAAA", "saw 9 " + "A" * 43 + "=", "seen"])
def test_other_extension_lines_confess_nothing(line):
    statement = sign_extended(Checkpoint(ORIGIN, 4, root_of(_leaves(4))), [line], KEY)
    with pytest.raises(RecordError, match="proves nothing"):
        prove_fork(statement, _note(_leaves(9)), DEVICE)


@pytest.mark.parametrize(
    ("here", "seen"), [((ORIGIN, 9), (ORIGIN, 9)), ((ORIGIN, 9), (ORIGIN, 4)), (("v/x", 4), (ORIGIN, 9))]
)
def test_no_confession_without_a_longer_state(here, seen):
    with pytest.raises(RecordError):
        confess_rollback(Checkpoint(*here, bytes(32)), Checkpoint(*seen, bytes(32)), KEY)


def test_statement_with_extension_lines_counts_as_a_checkpoint():
    statement = sign_extended(Checkpoint(ORIGIN, 7, root_of(_leaves(7, 3))), ["pages 2027-01 12"], KEY)
    assert verify_fork(prove_fork(statement, _note(_leaves(7)), DEVICE), DEVICE).kind is ForkKind.SAME_SIZE


def test_statements_of_others_prove_nothing():
    with pytest.raises(UntrustedKeyError):
        verify_fork(SAME, OTHER.verifying)
    forged = _note(_leaves(7, 3), OTHER)
    with pytest.raises(UntrustedKeyError):
        verify_fork(_edited(SAME, second=_b64(forged)), DEVICE)
    broken = _note(_leaves(7, 3)).replace("\n7\n", "\n8\n")
    with pytest.raises(BadSignatureError):
        verify_fork(_edited(SAME, second=_b64(broken)), DEVICE)


def test_two_logs_of_one_device_are_no_fork():
    elsewhere = f"other.example/{device_id_of(DEVICE.raw)}"
    with pytest.raises(RecordError, match="different logs"):
        prove_fork(_note(_leaves(7)), _note(_leaves(7, 3), origin=elsewhere), DEVICE)


BAD = {
    "unknown_member": {"note": 1},
    "schema_2": {"schema": 2},
    "no_base64": {"first": "!"},
    "loose_base64": {"first": "YR=="},
    "no_note": {"first": _b64("hello\n")},
    "root_without_proof": {"root": "00" * 32},
    "out_of_order": {"first": _b64(_note(_leaves(9)))},
}


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD)
def test_malformed_proof_is_refused(changes):
    with pytest.raises(RecordError):
        verify_fork(_edited(SAME, **changes), DEVICE)


def test_file_is_read_within_bounds(tmp_path):
    path = tmp_path / fork_name(ORIGIN, 9, 7)
    assert path.name == f"fork-{ORIGIN.replace('/', '-')}-7-9.json"
    path.write_bytes(SAME)
    assert read_fork_file(path) == SAME
    path.write_bytes(b" " * 300_000)
    with pytest.raises(LicensesError):
        read_fork_file(path)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_else(blob):
    with pytest.raises(LicensesError):
        verify_fork(blob, DEVICE)
