"""The clerks' passwords: kept as hashes, in a closed file, and told from wrong ones."""

import os
import re
import sys
import threading
import time

import pytest

from licenses.authority import passwords
from licenses.authority.passwords import LONGEST, SHORTEST, Cost, PasswordFile, same_stamp
from licenses.errors import BusyError, ClerkAccessError, FormatError, KeyFileError

CHEAP = Cost(memory_kib=8, passes=1, lanes=1)
GOOD = "four words nobody joins"


@pytest.fixture
def file(tmp_path):
    return PasswordFile(tmp_path / "keep" / "passwords", cost=CHEAP)


def test_without_a_file_nobody_has_a_password(file):
    assert file.names() == []
    assert file.verify("anna", GOOD) is None
    assert file.stamp("anna") is None


def test_the_right_password_is_told_from_all_others(file):
    assert file.set("anna", GOOD) is False
    stamp = file.verify("anna", GOOD)
    assert stamp is not None
    assert same_stamp(stamp, file.stamp("anna"))
    for name, wrong in (("anna", GOOD + " "), ("anna", ""), ("anna", GOOD.upper()), ("bert", GOOD), ("", GOOD)):
        assert file.verify(name, wrong) is None


def test_what_is_kept_is_an_argon2id_hash_in_a_file_of_its_owner(file):
    file.set("anna", GOOD)
    text = file.path.read_text()
    assert re.fullmatch(r"anna:\$argon2id\$v=19\$m=8,t=1,p=1\$[^$]+\$[^$]+\n", text)
    assert GOOD not in text
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert file.path.parent.stat().st_mode & 0o777 == 0o700


def test_the_usual_cost_is_the_second_choice_of_rfc_9106(tmp_path):
    file = PasswordFile(tmp_path / "passwords")
    file.set("anna", GOOD)
    assert "$argon2id$v=19$m=65536,t=3,p=4$" in file.path.read_text()
    assert file.verify("anna", GOOD) is not None


def test_a_new_password_has_another_stamp_even_when_it_is_the_same(file):
    file.set("anna", GOOD)
    before = file.stamp("anna")
    assert file.set("anna", GOOD) is True
    assert before is not None
    assert not same_stamp(before, file.stamp("anna"))


def test_one_password_however_its_letters_are_composed(file):
    file.set("anna", "Gr\u00fc\u00dfe aus Z\u00fcrich")
    assert file.verify("anna", "Gru\u0308\u00dfe aus Zu\u0308rich") is not None


def test_a_removed_clerk_is_out_and_the_others_are_not(file):
    file.set("anna", GOOD)
    file.set("bert", GOOD)
    file.remove("anna")
    assert file.names() == ["bert"]
    assert file.verify("anna", GOOD) is None
    assert file.verify("bert", GOOD) is not None
    with pytest.raises(ClerkAccessError, match="anna"):
        file.remove("anna")


@pytest.mark.parametrize(
    "password",
    ["", "x" * (SHORTEST - 1), "abababababab", "x" * (LONGEST + 1), "tab\tand some more", "I am anna, let me in"],
)
def test_a_password_that_is_easily_guessed_is_not_taken(file, password):
    with pytest.raises(ClerkAccessError) as caught:
        file.set("anna", password)
    assert password not in str(caught.value) or not password
    assert not file.path.exists()


@pytest.mark.parametrize("name", ["", "Anna", "an na", "a:b", "a\nb", "-a", "x" * 65, "änna", "a/b"])
def test_a_name_that_could_be_mistaken_is_not_taken(file, name):
    with pytest.raises(ClerkAccessError, match="no name for a clerk"):
        file.set(name, GOOD)


def test_a_file_that_others_may_open_is_not_believed(file):
    file.set("anna", GOOD)
    file.path.chmod(0o640)
    with pytest.raises(KeyFileError, match="0640") as caught:
        file.verify("anna", GOOD)
    assert "chmod 0600" in caught.value.next_step


@pytest.mark.parametrize(
    "text",
    ["anna\n", "anna:secret\n", "anna:$argon2i$v=19$m=8,t=1,p=1$abcdabcdabcd$abcdabcd\n", "\x00\n", "An:$argon2id$xx"],
)
def test_a_damaged_file_is_named_and_lets_nobody_in(file, text):
    file.path.parent.mkdir()
    file.path.write_text(text)
    file.path.chmod(0o600)
    with pytest.raises(FormatError, match="line 1") as caught:
        file.verify("anna", GOOD)
    assert "licenses authority password" in caught.value.next_step


def test_a_hash_that_is_cut_off_is_named(file):
    file.set("anna", GOOD)
    file.path.write_text(file.path.read_text()[:-3].replace("$v=19", "$v=19$") + "\n")
    with pytest.raises(FormatError, match="a hash"):
        file.verify("anna", GOOD)


def test_the_same_clerk_twice_is_damage(file):
    file.set("anna", GOOD)
    file.path.write_text(file.path.read_text() * 2)
    with pytest.raises(FormatError, match="line 2"):
        file.names()


def test_guesses_wait_for_each_other_and_not_for_ever(file, monkeypatch):
    file.set("anna", GOOD)
    monkeypatch.setattr(passwords, "_PATIENCE_SECONDS", 0.01)
    with passwords._ONE_AT_A_TIME, pytest.raises(BusyError) as caught:
        file.verify("anna", GOOD)
    assert caught.value.retry_after
    assert file.verify("anna", GOOD) is not None


def test_few_wait_for_their_turn_and_the_others_are_told_at_once(file, monkeypatch):
    file.set("anna", GOOD)
    answers = []

    def log_in():
        try:
            answers.append(file.verify("anna", GOOD) is not None)
        except BusyError:
            answers.append("busy")

    threads = [threading.Thread(target=log_in) for _ in range(10)]
    with passwords._ONE_AT_A_TIME:
        for thread in threads:
            thread.start()
        while answers.count("busy") < 6:
            time.sleep(0.005)
        assert answers == ["busy"] * 6
    for thread in threads:
        thread.join()
    assert answers.count(True) == 4
    assert file.verify("anna", GOOD) is not None


def test_two_who_set_passwords_at_once_lose_none(file):
    names = [f"clerk{number}" for number in range(8)]
    threads = [threading.Thread(target=file.set, args=(name, GOOD)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.names() == names


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root")
def test_what_root_sets_belongs_to_who_owns_the_folder(file):
    file.path.parent.mkdir()
    os.chown(file.path.parent, 65532, 65532)
    file.set("anna", GOOD)
    assert (file.path.stat().st_uid, file.path.stat().st_gid) == (65532, 65532)


def test_without_the_extra_its_name_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "argon2", None)
    with pytest.raises(ClerkAccessError, match="argon2-cffi is not installed") as caught:
        PasswordFile(tmp_path / "passwords")
    assert "tollgate[authority]" in caught.value.next_step
