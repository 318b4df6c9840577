"""Many files in one folder: read without blocking, chosen without surprise."""

import os
import random
import socket
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licenses.errors import FolderError
from licenses.folder import MAX_FILES, LicenseFile, choose, read_folder
from licenses.model import Revoked
from licenses.strict_json import MAX_BYTES
from licenses.verify import Standing
from tests.fakes.licences import NOW, a_license, a_vendor

VENDOR = a_vendor()
LATER = a_license().expires_at + timedelta(days=365)


def _file(name: str, **changes: object) -> LicenseFile:
    return LicenseFile(name, VENDOR.seal(a_license(**changes)))


# ---- reading --------------------------------------------------------------------------------------------------------


def test_files_are_read_in_the_order_of_their_names(tmp_path):
    for name in ("b.dat", "a.dat"):
        (tmp_path / name).write_bytes(name.encode())
    assert read_folder(tmp_path) == (LicenseFile("a.dat", b"a.dat"), LicenseFile("b.dat", b"b.dat"))


def test_hidden_files_and_leftovers_are_passed_over(tmp_path):
    for name in (".hidden", "license.dat~", "#license.dat#", "license.dat.part", "license.tmp", "x.swp", "kept.bak"):
        (tmp_path / name).touch()
    assert [file.name for file in read_folder(tmp_path)] == ["kept.bak"]


def test_what_is_no_file_is_named_and_never_waited_for(tmp_path):
    (tmp_path / "a_folder").mkdir()
    os.mkfifo(tmp_path / "b_pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "c_socket"))
    (tmp_path / "d_link").symlink_to("nowhere")
    (tmp_path / "e_large").write_bytes(b"x" * (MAX_BYTES + 1))
    (tmp_path / "f_longest").write_bytes(b"x" * MAX_BYTES)
    files = read_folder(tmp_path)
    assert [file.blob is None for file in files] == [True] * 5 + [False]
    problems = " ".join(file.problem or "" for file in files)
    for words in ("a directory", "a pipe", "a socket", "No such file", f"longer than {MAX_BYTES}"):
        assert words in problems


def test_link_to_a_file_is_followed_as_orchestrators_mount_them(tmp_path):
    data = tmp_path / "..data"
    data.mkdir()
    (data / "license.dat").write_bytes(b"x")
    (tmp_path / "license.dat").symlink_to("..data/license.dat")
    assert read_folder(tmp_path) == (LicenseFile("license.dat", b"x"),)


def test_reading_is_bounded(tmp_path):
    for number in range(MAX_FILES + 3):
        (tmp_path / f"{number:03}").touch()
    files = read_folder(tmp_path)
    assert len(files) == MAX_FILES + 1
    assert files[-1].problem is not None
    assert files[-1].problem.startswith("3 older files")


def test_of_too_many_files_the_newest_are_read(tmp_path):
    """A licence for each month: no order of their names may keep the last one from being read."""
    names = [f"s-1.{2027 + number // 12}-{number % 12 + 1:02}-1.dat" for number in range(MAX_FILES + 3)]
    (tmp_path / "a-gone").symlink_to("nowhere")
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(name.encode())
        os.utime(tmp_path / name, (number * 1000, number * 1000))
    files = read_folder(tmp_path)
    assert [file.name for file in files] == [*names[3:], "…"]
    assert files[-1].problem is not None
    assert files[-1].problem.startswith("4 older files")
    os.utime(tmp_path / names[0])
    assert [file.name for file in read_folder(tmp_path)][:2] == [names[0], names[4]]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file_is_named(tmp_path):
    (tmp_path / "license.dat").touch(mode=0)
    assert "Permission denied" in str(read_folder(tmp_path)[0].problem)


def test_name_that_is_not_utf8_is_shown(tmp_path):
    os.close(os.open(os.fsencode(tmp_path) + b"/\xff", os.O_CREAT))
    assert read_folder(tmp_path)[0].name.isascii()


def test_missing_folder_is_named_with_the_setting(tmp_path):
    with pytest.raises(FolderError) as caught:
        read_folder(tmp_path / "none")
    assert "Mounts:License" in caught.value.next_step
    assert str(caught.value.uid) in caught.value.next_step
    (tmp_path / "file").touch()
    with pytest.raises(FolderError):
        read_folder(tmp_path / "file")


# ---- choosing -------------------------------------------------------------------------------------------------------


def test_empty_folder_gives_no_licence():
    choice = choose((), VENDOR.trust_root, at=NOW)
    assert (choice.best, choice.best_name, choice.judgement, choice.verdicts) == (None, None, None, ())
    assert not choice.serves


def test_good_file_wins_among_all_kinds_of_bad_ones(tmp_path):
    files = (
        LicenseFile("a", None, "This is a directory, not a file."),
        LicenseFile("b", b""),
        LicenseFile("c", VENDOR.seal()[:100]),
        LicenseFile("d", a_vendor().seal()),
        LicenseFile("e", VENDOR.trust_root_blob),
        _file("f", license_id="over", not_before=NOW - timedelta(9), expires_at=NOW - timedelta(2), termination_at=NOW),
        _file("g", license_id="other", container_types=("speech",)),
        _file("h"),
    )
    choice = choose(files, VENDOR.trust_root, at=NOW)
    assert choice.best_name == "h"
    assert choice.serves
    assert [verdict.standing_or_problem for verdict in choice.verdicts] == [
        "file_problem",
        "license_format",
        "license_format",
        "untrusted_key",
        "license_format",
        Standing.EXPIRED,
        Standing.MISMATCH,
        Standing.VALID,
    ]
    assert all(verdict.reason and verdict.next_step for verdict in choice.verdicts)


WINS = {
    "higher_sequence": ({"sequence": 2}, {"sequence": 1, "expires_at": LATER, "termination_at": LATER}),
    "serving_beats_newer": ({"sequence": 1}, {"sequence": 2, "not_before": NOW + timedelta(days=1)}),
    "serving_beats_newer_for_another_container": ({"sequence": 1}, {"sequence": 2, "container_types": ("speech",)}),
    "later_expiry_of_another_id": (
        {"license_id": "b", "expires_at": LATER, "termination_at": LATER},
        {"license_id": "a", "sequence": 9},
    ),
    "production_beats_evaluation": (
        {"license_id": "b"},
        {"license_id": "a", "evaluation": True, "expires_at": LATER, "termination_at": LATER},
    ),
    "running_term_beats_grace": (
        {"license_id": "b", "termination_at": a_license().expires_at},
        {"license_id": "a", "expires_at": NOW - timedelta(days=1), "termination_at": LATER},
    ),
    "not_yet_valid_tells_more_than_expired": (
        {"not_before": NOW + timedelta(days=1)},
        {"license_id": "a", "expires_at": NOW - timedelta(days=1), "termination_at": NOW},
    ),
}


@pytest.mark.parametrize(("winner", "loser"), WINS.values(), ids=WINS)
@pytest.mark.parametrize("names", ["wl", "lw"])
def test_choice_between_two(winner, loser, names):
    files = [_file(name, **(winner if name == "w" else loser)) for name in sorted(names)]
    assert choose(files, VENDOR.trust_root, at=NOW).best_name == "w"


@pytest.mark.parametrize("ids", [("0", "f"), ("f", "0")])
def test_of_two_that_end_alike_the_one_issued_later_wins(ids):
    """Never the accident of an id: a licence put in another's place with other terms is the vendor's newer word."""
    first, second = (digit * 8 + "-0d2b-4d8e-9a57-3f1f6d1f2b10" for digit in ids)
    issued = a_license().issued_at
    files = [
        _file("a.dat", license_id=first, issued_at=issued),
        _file("b.dat", license_id=second, issued_at=issued + timedelta(seconds=1)),
    ]
    assert choose(files, VENDOR.trust_root, at=NOW).best_name == "b.dat"


USED = {"a": 5, "b": 4}


@pytest.mark.parametrize(
    ("long", "short", "best"),
    [
        ({"page_limit": 5}, {}, "b.dat"),
        ({"page_limit": 5}, {"page_limit": 5}, "b.dat"),
        ({"page_limit": 5}, {"page_limit": 4}, "a.dat"),  # both are used up
        ({"page_limit": 6}, {}, "a.dat"),
        ({"page_limit": 5}, {"evaluation": True}, "a.dat"),  # a production licence is never left for an evaluation one
        ({"page_limit": 5}, {"expires_at": NOW - timedelta(days=1), "termination_at": LATER}, "b.dat"),
    ],
)
def test_one_with_pages_left_beats_one_that_is_used_up(long, short, best):
    term = {"expires_at": LATER, "termination_at": LATER}
    files = [_file("a.dat", license_id="a", **term, **long), _file("b.dat", license_id="b", **short)]
    choice = choose(files, VENDOR.trust_root, at=NOW, used=USED)
    assert choice.best_name == best
    assert choice.serves
    told = choice.verdicts[0]
    if long["page_limit"] == 5:
        assert told.reason.endswith("All its pages are used.")
        assert ("more pages" in told.next_step) == (best == "a.dat")
    else:
        assert "used" not in told.reason


def test_where_all_are_used_up_no_file_is_told_that_another_serves():
    files = [_file(f"{name}.dat", license_id=name, page_limit=4) for name in "ab"]
    verdicts = choose(files, VENDOR.trust_root, at=NOW, used=USED).verdicts
    assert all("more pages" in verdict.next_step for verdict in verdicts)


def test_one_exchanged_for_less_of_the_same_sequence_gives_no_pages_any_more():
    """What a process remembers of a file counts as one more file after it."""
    files = [_file("a.dat", license_id="a", page_limit=5), _file("a.dat", license_id="a")]
    choice = choose(files, VENDOR.trust_root, at=NOW, used=USED)
    assert choice.best is not None
    assert choice.best.is_used_up(5)


def test_where_nobody_counts_nothing_is_used_up():
    files = [
        _file("a.dat", license_id="a", page_limit=0, expires_at=LATER, termination_at=LATER),
        _file("b.dat", license_id="b", page_limit=5),
    ]
    assert choose(files, VENDOR.trust_root, at=NOW).best_name == "b.dat"
    assert choose(files[1:], VENDOR.trust_root, at=NOW).best_name == "b.dat"


def test_older_sequence_is_told_what_replaced_it():
    verdict = choose([_file("a"), _file("b", sequence=2)], VENDOR.trust_root, at=NOW).verdicts[0]
    assert verdict.standing_or_problem == Standing.SUPERSEDED
    assert "sequence 2 in the same folder" in verdict.reason


def test_once_the_newer_sequence_was_in_force_the_older_is_refused():
    choice = choose([_file("a")], VENDOR.trust_root, at=NOW, sequence_floor={a_license().license_id: 2})
    assert choice.judgement is not None
    assert choice.judgement.standing is Standing.SUPERSEDED


def test_licence_may_revoke_another():
    revoking = _file("b", license_id="new", revoked=Revoked(sequence=1, license_ids=(a_license().license_id,)))
    longer = _file("a", expires_at=LATER, termination_at=LATER)
    choice = choose([longer, revoking], VENDOR.trust_root, at=NOW)
    assert choice.best_name == "b"
    assert choice.verdicts[0].standing_or_problem == Standing.REVOKED
    assert choice.revoked_license_ids == {a_license().license_id}


def test_revoked_licence_revokes_nothing():
    revenge = _file("a", license_id="old", revoked=Revoked(sequence=9, license_ids=("new",)))
    choice = choose([revenge, _file("b", license_id="new")], VENDOR.trust_root, at=NOW, revoked_license_ids={"old"})
    assert choice.best_name == "b"


def test_evaluation_licence_revokes_nothing_of_production():
    signer = VENDOR.issuing_key.key_id
    revoked = Revoked(sequence=9, license_ids=("real",), key_ids=(signer,))
    evaluation = _file("a", license_id="try", evaluation=True, revoked=revoked)
    assert choose([evaluation, _file("b", license_id="real")], VENDOR.trust_root, at=NOW).best_name == "b"


@given(st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_choice_does_not_depend_on_the_order_of_files(shuffle):
    files = [
        LicenseFile("a", b"x"),
        _file("b", sequence=1),
        _file("c", sequence=2),
        _file("d", license_id="z", expires_at=LATER, termination_at=LATER),
        _file("e", license_id="y", expires_at=LATER, termination_at=LATER),
        _file("f", sequence=2),
    ]
    shuffled = list(files)
    random.Random(shuffle.random()).shuffle(shuffled)
    choice = choose(shuffled, VENDOR.trust_root, at=NOW)
    assert choice.best_name == "e"
    assert {verdict.name: verdict.standing_or_problem for verdict in choice.verdicts} == {
        "a": "license_format",
        "b": Standing.SUPERSEDED,
        "c": Standing.VALID,
        "d": Standing.VALID,
        "e": Standing.VALID,
        "f": Standing.VALID,
    }
