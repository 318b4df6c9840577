"""Checkpoints: the C2SP formats, and nothing that only resembles them."""

import base64
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from licenses.errors import BadSignatureError, LicensesError, RecordError, UntrustedKeyError
from licenses.keyring import KeyId, SigningKey, VerifyingKey
from licenses.usage_log.note import (
    Checkpoint,
    cosign,
    cosigner_hash,
    cosigner_name,
    cosigner_text,
    key_hash,
    open_checkpoint,
    open_cosigned,
    open_extended,
    open_note,
    sign_checkpoint,
    sign_extended,
    sign_note,
    unverified_checkpoint,
    unverified_extended,
    verifier_text,
)

# The example key and note of the Go implementation of signed notes.
SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
PETER = SigningKey(KeyId("peter"), Ed25519PrivateKey.from_private_bytes(SEED))
PETERS_VERIFIER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETERS_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)

# The example of the checkpoint specification.
SPECIFIED = (
    "example.com/behind-the-sofa\n"
    "20852163\n"
    "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    "\n"
    "\u2014 example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
)

ORIGIN = "vendor.example/0123456789abcdef"
KEY, OTHER = SigningKey.generate("device"), SigningKey.generate("device")
KEYS = {ORIGIN: KEY.verifying}
NOTE = sign_checkpoint(ORIGIN, 7, bytes(range(32)), KEY)


def test_note_is_signed_as_others_sign_it():
    text = PETERS_NOTE.rpartition("\n\n")[0] + "\n"
    assert sign_note(text, "PeterNeumann", PETER) == PETERS_NOTE
    assert open_note(PETERS_NOTE, {"PeterNeumann": PETER.verifying}) == text


def test_key_is_told_as_others_tell_it():
    assert key_hash("PeterNeumann", PETER.verifying).hex() == "c74f20a3"
    assert verifier_text("PeterNeumann", PETER.verifying) == PETERS_VERIFIER


def test_specified_checkpoint_is_read():
    checkpoint = unverified_checkpoint(SPECIFIED)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert SPECIFIED.startswith(checkpoint.to_text() + "\n")


def test_checkpoint_is_read_back():
    assert open_checkpoint(NOTE, KEYS) == Checkpoint(ORIGIN, 7, bytes(range(32)))
    assert NOTE.splitlines()[:3] == [ORIGIN, "7", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="]


def test_key_of_another_name_or_bytes_is_not_believed():
    for keys in ({}, {"other": KEY.verifying}, {ORIGIN: OTHER.verifying}):
        with pytest.raises(UntrustedKeyError):
            open_checkpoint(NOTE, keys)


def test_changed_text_is_refused():
    with pytest.raises(BadSignatureError):
        open_checkpoint(NOTE.replace("\n7\n", "\n8\n"), KEYS)


def _line(name: str, signed: bytes) -> str:
    return f"\u2014 {name} {base64.b64encode(signed).decode()}\n"


def test_signature_of_a_stranger_is_ignored():
    stranger = sign_checkpoint(ORIGIN, 7, bytes(range(32)), OTHER).rpartition("\n\n")[2]
    head, _, tail = NOTE.rpartition("\n\n")
    assert open_checkpoint(f"{head}\n\n{stranger}{tail}", KEYS).size == 7


def test_bad_signature_of_a_known_key_refuses_the_note_beside_a_good_one():
    forged = _line(ORIGIN, key_hash(ORIGIN, KEY.verifying) + bytes(64))
    with pytest.raises(BadSignatureError):
        open_checkpoint(NOTE + forged, KEYS)


def test_note_may_hold_blank_lines_but_a_checkpoint_may_not():
    note = sign_note("a\n\nb\n", ORIGIN, KEY)
    assert open_note(note, KEYS) == "a\n\nb\n"
    with pytest.raises(RecordError):
        open_checkpoint(note, KEYS)


ROOT = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
BAD_TEXTS = {
    "two_lines": f"{ORIGIN}\n7\n",
    "extension_line": f"{ORIGIN}\n7\n{ROOT}\nmore\n",
    "leading_zero": f"{ORIGIN}\n07\n{ROOT}\n",
    "negative": f"{ORIGIN}\n-7\n{ROOT}\n",
    "other_digits": f"{ORIGIN}\n\u0667\n{ROOT}\n",
    "huge": f"{ORIGIN}\n{'9' * 30}\n{ROOT}\n",
    "origin_empty": f"\n7\n{ROOT}\n",
    "origin_with_space": f"a b\n7\n{ROOT}\n",
    "origin_with_plus": f"a+b\n7\n{ROOT}\n",
    "root_short": f"{ORIGIN}\n7\nAAEC\n",
    "root_loose_bits": f"{ORIGIN}\n7\n{ROOT[:-2]}9=\n",
    "root_no_base64": f"{ORIGIN}\n7\n!!!!\n",
}


@pytest.mark.parametrize("text", BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_signed_text_that_is_no_checkpoint_is_refused(text):
    with pytest.raises(RecordError):
        open_checkpoint(sign_note(text, ORIGIN, KEY), KEYS)


BAD_NOTES = {
    "empty": "",
    "no_signature": NOTE.rpartition("\n\n")[0] + "\n\n",
    "no_blank_line": NOTE.replace("\n\n", "\n"),
    "no_line_end": NOTE[:-1],
    "hyphen_for_dash": NOTE.replace("\u2014", "-"),
    "carriage_returns": NOTE.replace("\n", "\r\n"),
    "tab": NOTE.replace(" ", "\t"),
    "signature_unpadded": NOTE.replace("=\n", "\n"),
    "signature_short": f"{ORIGIN}\n7\n{ROOT}\n\n\u2014 {ORIGIN} AAAA\n",
    "line_without_name": f"{ORIGIN}\n7\n{ROOT}\n\n\u2014  {ROOT}\n",
    "too_long": NOTE.rpartition("\n\n")[0] + "\n\n" + _line("x", bytes(68)) * 900,
    "signatures_33": NOTE.rpartition("\n\n")[0] + "\n\n" + _line("x", bytes(68)) * 33,
}


@pytest.mark.parametrize("note", BAD_NOTES.values(), ids=BAD_NOTES)
def test_what_only_resembles_a_note_is_refused(note):
    with pytest.raises(RecordError):
        open_checkpoint(note, KEYS)


@given(st.integers(0, len(NOTE) - 1), st.characters())
def test_no_character_can_change(position, other):
    if NOTE[position] == other:
        return
    with pytest.raises(LicensesError):
        open_checkpoint(NOTE[:position] + other + NOTE[position + 1 :], KEYS)


@given(st.text(max_size=200))
def test_arbitrary_text_raises_nothing_else(text):
    with pytest.raises(LicensesError):
        open_checkpoint(text, KEYS)


@pytest.mark.parametrize(
    ("origin", "size", "root"),
    [
        ("a b", 1, bytes(32)),
        ("", 1, bytes(32)),
        ("a\nb", 1, bytes(32)),
        ("a", -1, bytes(32)),
        ("a", 1, bytes(31)),
        ("a", 2**53, bytes(32)),
    ],
)
def test_checkpoint_without_sense_is_not_signed(origin, size, root):
    with pytest.raises(RecordError):
        sign_checkpoint(origin, size, root, KEY)


@pytest.mark.parametrize("text", ["no end", "bell\a\n", ""])
def test_text_without_the_form_of_a_note_is_not_signed(text):
    with pytest.raises(RecordError):
        sign_note(text, ORIGIN, KEY)


# A checkpoint of a public test log as its mirror served it, with the cosignatures of public witnesses; and their keys.
WITNESSED = (
    "arche2025h1.staging.ct.transparency.dev\n"
    "1432088532\n"
    "U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=\n"
    "\n"
    "\u2014 arche2025h1.staging.ct.transparency.dev "
    "ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=\n"
    "\u2014 witness1.smartit.nu/witness1 pIyCDwAAAABqEiEghIp82KWebrw7/oHQwlTAm3g2RKS4+eebl8eO0WH+/iEcxZ75W3u5hNI7TOQ"
    "tmJbqmNWVuE0tgh0XwzdZsDsUAQ==\n"
    "\u2014 remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBx"
    "tqB0DrAWfBw==\n"
)
WITNESSES = [
    "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
    "witness1.smartit.nu/witness1+a48c820f+BPSFWg9G6KPiO7QPryYO5Xq4oYJJ+kAvLKLSimDhoxMO",
]
# The log's own key, which signs as logs do.
WITNESSED_LOG = "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"


def _known(text: str) -> tuple[str, VerifyingKey]:
    name, _, encoded = text.split("+", 2)
    return name, VerifyingKey(KeyId(name), Ed25519PublicKey.from_public_bytes(base64.b64decode(encoded)[1:]))


@pytest.mark.parametrize("text", WITNESSES)
def test_cosignatures_of_public_witnesses_hold(text):
    name, key = _known(text)
    assert cosigner_text(name, key) == text
    cosigned = open_cosigned(WITNESSED, name, [key])
    assert (cosigned.checkpoint.size, cosigned.at) == (1432088532, datetime(2026, 5, 23, 21, 50, 24, tzinfo=UTC))
    for changed in (WITNESSED.replace("\n1432088532\n", "\n1432088531\n"), WITNESSED.replace("AABqEiEg", "AABqEiEh")):
        with pytest.raises(BadSignatureError):
            open_cosigned(changed, name, [key])


def test_log_of_the_witnessed_checkpoint_signed_it_too():
    name, key = _known(WITNESSED_LOG)
    assert verifier_text(name, key) == WITNESSED_LOG
    assert open_checkpoint(WITNESSED, {name: key}).size == 1432088532
    with pytest.raises(UntrustedKeyError):
        open_cosigned(WITNESSED, name, [key])


WITNESS, WITNESS_NAME, AT = (
    SigningKey.generate("ack"),
    cosigner_name("vendor.example"),
    datetime(2027, 1, 15, tzinfo=UTC),
)
COSIGNED = cosign(NOTE, WITNESS_NAME, WITNESS, AT)


def test_cosignature_is_read_back_and_leaves_the_logs_own():
    found = open_cosigned(COSIGNED, WITNESS_NAME, [OTHER.verifying, WITNESS.verifying])
    assert (found.checkpoint.size, found.key, found.at) == (7, WITNESS.verifying, AT)
    assert open_checkpoint(COSIGNED, KEYS) == found.checkpoint


def test_cosignature_does_not_pass_for_the_logs_signature_nor_the_other_way_round():
    with pytest.raises(UntrustedKeyError):
        open_checkpoint(cosign(NOTE, ORIGIN, OTHER, AT), {ORIGIN: OTHER.verifying})
    with pytest.raises(UntrustedKeyError):
        open_cosigned(NOTE, ORIGIN, [KEY.verifying])


def test_witness_of_another_name_or_key_is_not_believed():
    for name, key in ((WITNESS_NAME, OTHER), ("other.example/ack", WITNESS)):
        with pytest.raises(UntrustedKeyError):
            open_cosigned(COSIGNED, name, [key.verifying])


def test_first_of_two_cosignatures_is_told_and_both_must_hold():
    twice = cosign(COSIGNED, WITNESS_NAME, WITNESS, datetime(2027, 1, 16, tzinfo=UTC))
    assert open_cosigned(twice, WITNESS_NAME, [WITNESS.verifying]).at == AT
    forged = _line(WITNESS_NAME, cosigner_hash(WITNESS_NAME, WITNESS.verifying) + bytes(72))
    with pytest.raises(BadSignatureError):
        open_cosigned(COSIGNED + forged, WITNESS_NAME, [WITNESS.verifying])


@pytest.mark.parametrize("signature", [bytes(64), bytes(71), bytes(73), b"\xff" * 72], ids=["64", "71", "73", "time"])
def test_malformed_cosignature_is_refused(signature):
    forged = _line(WITNESS_NAME, cosigner_hash(WITNESS_NAME, WITNESS.verifying) + signature)
    with pytest.raises(RecordError):
        open_cosigned(NOTE + forged, WITNESS_NAME, [WITNESS.verifying])


def test_only_checkpoints_are_cosigned():
    full = NOTE + "".join(_line(f"x{number}", bytes(68)) for number in range(31))
    for note, name in ((sign_note("hello\n", ORIGIN, KEY), WITNESS_NAME), (NOTE, "a b"), (full, WITNESS_NAME)):
        with pytest.raises(RecordError):
            cosign(note, name, WITNESS, AT)


@given(st.integers(0, len(COSIGNED) - 1), st.characters())
def test_no_character_of_a_cosigned_note_can_change(position, other):
    if COSIGNED[position] == other:
        return
    with pytest.raises(LicensesError):
        _open_both(COSIGNED[:position] + other + COSIGNED[position + 1 :])


def _open_both(note: str) -> None:
    open_cosigned(note, WITNESS_NAME, [WITNESS.verifying])
    open_checkpoint(note, KEYS)


def test_extension_lines_are_read_back_and_make_it_no_plain_checkpoint():
    checkpoint = Checkpoint(ORIGIN, 7, bytes(32))
    note = sign_extended(checkpoint, ["pages 2027-01 12", "x"], KEY)
    assert open_extended(note, KEYS) == unverified_extended(note) == (checkpoint, ("pages 2027-01 12", "x"))
    assert open_extended(NOTE, KEYS) == (open_checkpoint(NOTE, KEYS), ())
    with pytest.raises(RecordError):
        open_checkpoint(note, KEYS)
    with pytest.raises(BadSignatureError):
        open_extended(note.replace(" 12", " 13"), KEYS)


@pytest.mark.parametrize("lines", [[], [""], ["a", ""], ["a\nb"], ["a\n"], ["bell\a"]])
def test_extension_lines_without_the_form_are_not_signed(lines):
    with pytest.raises(RecordError):
        sign_extended(Checkpoint(ORIGIN, 7, bytes(32)), lines, KEY)


def test_empty_extension_line_is_refused_though_signed():
    for text in (f"{ORIGIN}\n7\n{ROOT}\n\nx\n", f"{ORIGIN}\n7\n\n{ROOT}\n", f"{ORIGIN}\n7\n{ROOT}\n\n", "\n"):
        with pytest.raises(RecordError):
            open_extended(sign_note(text, ORIGIN, KEY), KEYS)
