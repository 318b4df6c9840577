"""The vendor's keys: from the folder or from a command, and never anywhere else."""

import shlex
import sys

import pytest

from licenses import issue
from licenses.authority import vendor_keys
from licenses.authority.vendor_keys import VendorKeys
from licenses.errors import IssueError, KeyFileError, LicensesError
from licenses.keys import SigningKey
from licenses.model import Revoked
from tests.fakes.licences import NOW, a_vendor


@pytest.fixture
def folder(tmp_path):
    issue.save_vendor(a_vendor().keys, tmp_path / "vendor")
    return tmp_path / "vendor"


@pytest.fixture
def elsewhere(folder, tmp_path):
    """A command that prints the keys, which are no longer in the folder."""
    (tmp_path / "safe").mkdir(mode=0o700)
    for path in folder.glob("*.key"):
        path.rename(tmp_path / "safe" / path.name)
    return f"cat {shlex.quote(str(tmp_path / 'safe'))}/{{key_id}}.key"


def python(code: str) -> str:
    return f"{sys.executable} -c {shlex.quote(code)} {{key_id}}"


def test_keys_of_the_folder(folder):
    keys = VendorKeys(folder)
    assert keys.issuing_key().key_id in keys.trust_root.issuing_keys
    assert keys.ack_key().key_id in keys.trust_root.ack_keys
    assert keys.issuer().issuing_key is keys.issuing_key()


def test_keys_that_a_command_prints(folder, elsewhere):
    with pytest.raises(IssueError, match="no issuing key of the trust root is in"):
        VendorKeys(folder).issuing_key()
    keys = VendorKeys(folder, key_command=elsewhere)
    assert keys.issuing_key().verifying == keys.trust_root.issuing_keys[keys.issuing_key().key_id]
    assert keys.ack_key().verifying == keys.trust_root.ack_keys[keys.ack_key().key_id]


def test_a_command_is_asked_once_for_each_key(folder, elsewhere, tmp_path):
    log = tmp_path / "asked"
    script = tmp_path / "print-key"
    script.write_text(f'#!/bin/sh\necho "$1" >> {log}\n{elsewhere.replace("{key_id}", "$1")}\n')
    script.chmod(0o755)
    keys = VendorKeys(folder, key_command=f"{script} {{key_id}}")
    for _ in range(3):
        keys.issuing_key(), keys.ack_key(), keys.issuer()
    assert sorted(log.read_text().split()) == sorted([*keys.trust_root.issuing_keys, *keys.trust_root.ack_keys])


def test_a_second_signature_is_asked_for_where_the_trust_root_demands_it(tmp_path):
    vendor = issue.generate_vendor(domain="vendor.example", evaluation=False, at=NOW, second_signature=True)
    issue.save_vendor(vendor, tmp_path / "vendor")
    command = f"cat {tmp_path}/vendor/{{key_id}}.key"
    for keys in (VendorKeys(tmp_path / "vendor"), VendorKeys(tmp_path / "vendor", key_command=command)):
        assert keys.issuer().second_key.verifying == vendor.second_issuing_key.verifying


def test_an_evaluation_vendor_stays_one(tmp_path):
    issue.save_vendor(a_vendor(evaluation=True).keys, tmp_path / "vendor")
    keys = VendorKeys(tmp_path / "vendor", key_command=f"cat {tmp_path}/vendor/{{key_id}}.key")
    assert keys.issuing_key().verifying.evaluation
    assert keys.issuer().evaluation


def test_what_is_revoked_is_read_each_time(folder):
    keys = VendorKeys(folder)
    assert keys.issuer().revoked == Revoked()
    issue.revoke(folder, license_ids=["taken-back"], key_ids=[])
    assert keys.issuer().revoked.license_ids == ("taken-back",)


def test_a_key_file_that_others_may_read_is_refused(folder):
    for path in folder.glob("*.key"):
        path.chmod(0o640)
    with pytest.raises(KeyFileError, match="others than its owner may open"):
        VendorKeys(folder).issuing_key()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("false", "ended with exit code 1"),
        ("/nowhere/print-key", "cannot be run: No such file"),
        (python("print('hello')"), "is no unencrypted private key"),
        (python("pass"), "is no unencrypted private key"),
        (python("print('x' * 10000)"), "printed more than 8192 bytes"),
        (python("import time; time.sleep(60)"), "did not end within 0 s"),
    ],
)
def test_a_command_that_prints_no_key_is_named(folder, monkeypatch, command, words):
    if "sleep" in command:
        monkeypatch.setattr(vendor_keys, "COMMAND_SECONDS", 0.2)
    keys = VendorKeys(folder, key_command=command)
    with pytest.raises(IssueError, match=words) as caught:
        keys.ack_key()
    assert "Run the command by hand" in caught.value.next_step


def test_another_key_than_the_listed_one_is_refused_and_not_repeated(folder, tmp_path):
    stranger = tmp_path / "stranger.key"
    stranger.write_bytes(SigningKey.generate("ack").to_pem())
    with pytest.raises(IssueError, match="printed another key than ack-") as caught:
        VendorKeys(folder, key_command=f"cat {stranger}").ack_key()
    secret = stranger.read_text().splitlines()[1]
    assert secret not in str(caught.value) + caught.value.next_step


@pytest.mark.parametrize(("command", "words"), [("", "is empty"), ("'open", "cannot be split")])
def test_a_command_must_be_one(folder, command, words):
    with pytest.raises(IssueError, match=words):
        VendorKeys(folder, key_command=command)


def test_no_shell_runs(folder, tmp_path):
    marker = tmp_path / "marker"
    with pytest.raises(LicensesError):
        VendorKeys(folder, key_command=f"cat {tmp_path}/{{key_id}}; touch {marker}").ack_key()
    assert not marker.exists()


def test_text_of_the_keys_shows_none(folder):
    keys = VendorKeys(folder)
    key = keys.ack_key()
    assert key.to_pem().decode().splitlines()[1] not in repr(key) + repr(keys) + repr(keys.__dict__)
