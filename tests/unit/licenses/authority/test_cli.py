"""`licenses authority`: what each command does, says, and writes to the audit trail."""

import json
import os
import pwd
import stat
import subprocess
import sys
from datetime import timedelta

import pytest

from licenses.authority.accounts import Accounts
from licenses.authority.audit_trail import AuditTrail
from licenses.authority.cli import authority
from licenses.authority.database import open_database
from licenses.cli_text import now
from licenses.errors import InvalidKeyError
from licenses.keyring import load_trust_root
from licenses.keys import SigningKey
from licenses.model import READ_PAGES_METER
from licenses.verify import open_license
from tests.fakes.vendor_accounts import FakeDevice

SETTINGS = ("DATABASE", "KEYS", "KEY_COMMAND")


class Office:
    """A vendor's folder, and the command run in it."""

    def __init__(self, run, folder) -> None:
        self._run = run
        self.folder = folder

    def __call__(self, *words: object) -> tuple[int, str, str]:
        return self._run("authority", *words)

    def facts(self, *words: object) -> dict:
        code, out, err = self(*words, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    def accounts(self) -> Accounts:
        database = open_database(self.folder / "authority.db")
        return Accounts(database, AuditTrail(database, now, actor="test"), now)

    def a_subscription(self, *more: str) -> str:
        self("customer", "add", "Alba")
        self("tier", "add", "t", "--quantity", 1000, "--period", "year")
        return str(self.facts("subscription", "add", "--customer", "Alba", "--tier", "t", *more)["id"])


@pytest.fixture
def office(site, run, monkeypatch):
    monkeypatch.setenv("TOLLGATE_AUTHORITY_DATABASE", str(site / "authority.db"))
    monkeypatch.setenv("TOLLGATE_AUTHORITY_KEYS", str(site / "keys"))
    assert run("authority", "init")[0] == 0
    return Office(run, site)


@pytest.fixture
def enrolment(site, run):
    (site / "state").mkdir()
    words = ("--state-directory", site / "state", "--host-id", "w7", "--factor", "operator_id")
    assert run("request", *words, "--out", site / "enrolment.json")[0] == 0
    return site / "enrolment.json"


# ---- the whole ------------------------------------------------------------------------------------------------------


def _leaves(group, path=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _leaves(command, (*path, name))
        else:
            yield (*path, name), command


def test_every_command_helps_takes_json_and_no_key(run):
    for path, command in _leaves(authority):
        code, out, _ = run("authority", *path, "--help")
        assert code == 0
        assert command.help.split()[0] in out
        assert not {"--api-key", "--key", "--password"} & {option for one in command.params for option in one.opts}


def test_the_group_is_listed_and_loaded_late(run):
    code, out, _ = run("--help")
    assert (code, "authority" in out) == (0, True)
    code, out, _ = run("authority", "--help")
    assert code == 0
    assert {name for name, _ in authority.commands.items()} <= set(out.split())
    code, _, err = run("authority", "no-such-thing")
    assert code == 64
    assert "No such command" in err


WITHOUT = """
import sys
sys.modules["sqlite_utils"] = None
from licenses.cli import main
main(["authority", "customer", "list"])
"""


def test_without_its_packages_the_command_says_what_to_install():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert "needs the package sqlite_utils" in done.stderr
    assert "pip install 'tollgate[authority]'" in done.stderr


@pytest.mark.parametrize("words", [("customer", "list"), ("enrol", "file", "--subscription", "s-1")])
def test_without_a_database_nothing_runs(run, monkeypatch, words):
    for name in SETTINGS:
        monkeypatch.delenv(f"TOLLGATE_AUTHORITY_{name}", raising=False)
    code, _, err = run("authority", *words)
    assert code == 64
    assert "Missing option '--database'" in err


def test_init_makes_a_database_once_and_tells_whose_keys_sign(office):
    facts = office.facts("init")
    assert (facts["vendor"], facts["customers"]) == ("evaluation.tollgate.example", 0)
    assert stat.S_IMODE((office.folder / "authority.db").stat().st_mode) == 0o600
    office("customer", "add", "Alba")
    code, out, _ = office("init")
    assert (code, "EVALUATION" in out, "Customers  1" in out) == (0, True, True)


def test_a_missing_database_is_named_with_the_command_that_makes_it(run, tmp_path):
    code, out, err = run("authority", "customer", "list", "--database", tmp_path / "none.db", "--json")
    assert code == 65
    assert json.loads(out)["error"]["code"] == "authority_unknown"
    assert f"licenses authority init --database {tmp_path / 'none.db'}" in err


def test_who_ran_a_command_is_in_the_audit_trail(office):
    made = office.facts("customer", "add", "Alba")
    (line,) = office.facts("audit", "list")["lines"]
    assert (line["actor"], line["action"]) == (f"cli:{pwd.getpwuid(os.getuid()).pw_name}", "customer.add")
    assert (line["subject"], line["facts"]) == (made["id"], {"name": "Alba"})


def test_a_user_without_a_name_is_told_by_number(office, monkeypatch):
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    office("customer", "add", "Alba")
    assert office.facts("audit", "list")["lines"][0]["actor"] == f"cli:{os.getuid()}"


# ---- customers, tiers, subscriptions --------------------------------------------------------------------------------


def test_lists_say_how_to_begin_and_then_what_there_is(office):
    for words in (("customer", "list"), ("tier", "list"), ("subscription", "list"), ("license", "list")):
        assert "licenses authority" in office(*words)[1]
    assert office("device", "list")[1] == "no device yet\n"
    assert office("audit", "list")[1] == "no change yet\n"
    subscription = office.a_subscription()
    assert "Alba" in office("customer", "list")[1]
    assert "1,000 in each year, more is refused" in office("tier", "list")[1]
    assert subscription in office("subscription", "list", "--customer", "Alba")[1]
    office("customer", "add", "Bona")
    assert office.facts("subscription", "list", "--customer", "Bona")["subscriptions"] == []
    assert len(office.facts("customer", "list")["customers"]) == 2


def test_a_tier_says_what_it_commits_to(office):
    made = office.facts("tier", "add", "m", "--quantity", 5, "--period", "month", "--overage")
    assert (made["quantity"], made["period"], made["overage_allowed"], made["meter"]) == (
        5,
        "month",
        True,
        READ_PAGES_METER,
    )
    assert "5 in each month, more is billed" in office("tier", "list")[1]


@pytest.mark.parametrize("quantity", [-1, 2**53, "9" * 23, "9" * 5000, "many"])
def test_a_quantity_that_is_none_is_wrong_use(office, quantity):
    code, _, err = office("tier", "add", "t", "--quantity", quantity, "--period", "year")
    assert code == 64
    assert "--quantity" in err
    assert "9007199254740991" in err or "not a valid integer range" in err
    assert office.facts("tier", "list")["tiers"] == []


def test_a_wrong_file_is_no_enrolment_and_is_called_what_it_is(office):
    subscription = office.a_subscription()
    out = office.folder / "any.dat"
    office.facts("license", "issue", "--subscription", subscription, "--any-device", "--out", out)
    for name, blob, told, step in (
        ("any.dat", None, "it is a licence", "licenses request"),
        ("empty", b"", "the file is empty", "licenses request"),
        ("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(100_000), "longer than 65536 bytes", "licenses request"),
        ("usage.tar.gz", b"\x1f\x8b\x08" + bytes(100), "it is packed", "licenses authority intake FILE"),
    ):
        if blob is not None:
            (office.folder / name).write_bytes(blob)
        code, _, err = office("enrol", office.folder / name, "--subscription", subscription)
        assert code == 65, err
        assert "this is no enrolment: " in err
        assert told in err
        assert step in err.partition("Next step: ")[2]
    assert office.facts("device", "list")["devices"] == []


@pytest.mark.parametrize("until", ["9999-12-31", "9999-12-18"])
def test_a_licence_beyond_the_calendar_is_refused_by_name(office, until):
    words = ("--subscription", office.a_subscription(), "--any-device", "--until", until)
    code, _, err = office("license", "issue", *words, "--out", office.folder / "any.dat")
    assert code == 64
    assert "beyond the year 9999" in err or "and no more" in err
    assert "Traceback" not in err
    assert "Next step: " in err
    assert not (office.folder / "any.dat").exists()


def test_a_customer_is_named_by_id_or_whole_name(office):
    office.a_subscription()
    customer = office.facts("customer", "list")["customers"][0]["id"]
    made = office.facts("subscription", "add", "--customer", customer, "--tier", "t", "--container-type", "speech")
    assert (made["customer_id"], made["container_type"]) == (customer, "speech")
    code, _, err = office("subscription", "add", "--customer", "Alb", "--tier", "t")
    assert (code, "there is no customer 'Alb'" in err) == (65, True)


def test_a_subscription_is_approved_refused_and_moved(office):
    subscription = office.a_subscription("--not-approved")
    office("tier", "add", "larger", "--quantity", 9, "--period", "year")
    assert office.facts("subscription", "approve", subscription)["approved"] is True
    assert office.facts("subscription", "refuse", subscription)["approved"] is False
    assert "no: nothing is licensed" in office("subscription", "refuse", subscription)[1]
    assert office.facts("subscription", "move", subscription, "--tier", "larger")["tier"] == "larger"
    code, _, err = office("subscription", "move", subscription, "--tier", "none")
    assert (code, "there is no tier 'none'" in err) == (65, True)


# ---- keys -----------------------------------------------------------------------------------------------------------


def test_a_key_is_shown_once(office):
    subscription = office.a_subscription()
    made = office.facts("key", "new", subscription, "--slot", 1)
    assert office.accounts().subscription_of_key(made["key"]).id == subscription
    for words in (("key", "list", subscription), ("audit", "list"), ("subscription", "list")):
        assert made["key"] not in office(*words)[1]
    assert made["fingerprint"] in office("key", "list", subscription)[1]
    code, out, _ = office("key", "new", subscription, "--slot", 1)
    assert (code, f"instead of {made['fingerprint']}" in out) == (0, True)
    with pytest.raises(InvalidKeyError, match="regenerated"):
        office.accounts().subscription_of_key(made["key"])


def test_a_key_can_go_to_a_file_and_is_then_not_printed(office):
    subscription = office.a_subscription()
    path = office.folder / "api-key"
    code, out, _ = office("key", "new", subscription, "--slot", 2, "--out", path)
    key = path.read_text().strip()
    assert code == 0
    assert key not in out
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert office.accounts().subscription_of_key(key).id == subscription


def test_a_key_that_cannot_be_written_down_is_not_made_and_the_old_one_goes_on(office):
    subscription = office.a_subscription()
    path = office.folder / "api-key"
    office("key", "new", subscription, "--slot", 1, "--out", path)
    key = path.read_text().strip()
    for target in (path, office.folder / "nowhere" / "api-key"):
        code, _, err = office("key", "new", subscription, "--slot", 1, "--out", target)
        assert code == 64
        assert "cannot write the API key" in err
    assert path.read_text().strip() == key
    assert office.accounts().subscription_of_key(key).id == subscription


def test_a_key_is_revoked(office):
    subscription = office.a_subscription()
    key = office.facts("key", "new", subscription, "--slot", 1)["key"]
    assert office.facts("key", "revoke", subscription, "--slot", 1)["revoked"] is True
    assert "there was no key in that place" in office("key", "revoke", subscription, "--slot", 1)[1]
    with pytest.raises(InvalidKeyError, match="revoked"):
        office.accounts().subscription_of_key(key)
    assert office("key", "new", subscription, "--slot", 3)[0] == 64


# ---- devices and licences -------------------------------------------------------------------------------------------


def test_an_enrolment_that_is_not_kept_is_told(office):
    subscription, device = office.a_subscription(), FakeDevice(SigningKey.generate("device"), "vendor.example")
    path, told = office.folder / "enrolment.json", []
    for at in (now(), now() - timedelta(days=1)):
        path.write_bytes(device.enrolment(at=at))
        told.append(office("enrol", path, "--subscription", subscription)[1])
        told.append(office.facts("enrol", path, "--subscription", subscription)["in_force"])
    assert ("changed nothing" in told[0], told[1]) == (False, True)
    assert ("this one changed nothing" in " ".join(told[2].split()), told[3]) == (True, False)


def test_from_enrolment_to_licence(office, enrolment):
    subscription = office.a_subscription()
    device = office.facts("enrol", enrolment, "--subscription", subscription)
    assert device["enrolled"] is True
    listed = office("device", "list", "--subscription", subscription)[1]
    assert device["origin"] in listed
    assert "never" in listed
    out = office.folder / "license.dat"
    facts = office.facts(
        "license", "issue", "--subscription", subscription, "--device", device["device_id"], "--out", out
    )
    root = load_trust_root(office.folder / "keys" / "trust-root.json")
    lic = open_license(out.read_bytes(), root)
    assert (facts["license_id"], facts["verified"], lic.sequence) == (lic.license_id, True, 1)
    assert lic.device_pubkey.hex() == device["public_key"]
    code, _, err = office(
        "license", "issue", "--subscription", subscription, "--device", device["origin"], "--out", out
    )
    assert (code, "File exists" in err) == (64, True)
    again = ("license", "issue", "--subscription", subscription, "--device", device["origin"], "--out", out, "--force")
    assert office.facts(*again)["sequence"] == 1
    until = f"{lic.expires_at.year}-12-31"
    assert office.facts(*again, "--until", until)["sequence"] == 2
    assert [one["sequence"] for one in office.facts("license", "list")["licenses"]] == [2]
    assert [one["sequence"] for one in office.facts("license", "list", "--all")["licenses"]] == [2, 1]
    other = office.a_subscription()
    assert office.facts("license", "list", "--device", device["origin"], "--subscription", other)["licenses"] == []
    kept = office.folder / "kept.dat"
    office("license", "export", lic.license_id, "--sequence", 1, "--out", kept)
    assert open_license(kept.read_bytes(), root) == lic
    assert office.facts("license", "export", lic.license_id, "--out", kept, "--force")["sequence"] == 2
    code, _, err = office("license", "export", "none", "--out", kept)
    assert (code, "no such licence was issued" in err) == (65, True)


def test_a_licence_for_any_device_is_asked_for_plainly(office):
    subscription = office.a_subscription()
    words = ("license", "issue", "--subscription", subscription, "--out", office.folder / "license.dat")
    for wrong in ((), ("--any-device", "--device", "x"), ("--any-device", "--since", "2027-01-01")):
        code, _, err = office(*words, *wrong)
        assert code == 64
        assert "Usage" in err
    assert office.facts(*words, "--any-device")["license_id"].split(".")[1] == "any"
    code, _, err = office(*words, "--device", "0" * 16)
    assert (code, "there is no device" in err) == (65, True)


def test_what_is_not_approved_is_not_licensed(office):
    subscription = office.a_subscription("--not-approved")
    out = office.folder / "license.dat"
    code, printed, err = office(
        "license", "issue", "--subscription", subscription, "--any-device", "--out", out, "--json"
    )
    assert code == 65
    assert json.loads(printed)["error"]["code"] == "authority_use_unauthorized"
    assert "subscription approve" in err
    assert not out.exists()


def test_keys_by_a_command(office, monkeypatch):
    subscription = office.a_subscription()
    safe = office.folder / "safe"
    safe.mkdir(mode=0o700)
    for path in (office.folder / "keys").glob("*.key"):
        path.rename(safe / path.name)
    words = ("license", "issue", "--subscription", subscription, "--any-device", "--out", office.folder / "license.dat")
    assert office(*words)[0] == 64
    monkeypatch.setenv("TOLLGATE_AUTHORITY_KEY_COMMAND", f"cat {safe}/{{key_id}}.key")
    assert office(*words)[0] == 0


# ---- the audit trail, backups ---------------------------------------------------------------------------------------


def test_the_trail_is_verified_against_a_head_noted_elsewhere(office):
    office("customer", "add", "Alba")
    head = office.facts("audit", "verify")["head"]
    office("customer", "add", "Bona")
    assert "goes through line 1" in office("audit", "verify", "--expect", head)[1]
    code, _, err = office("audit", "verify", "--expect", f"9:{'0' * 64}")
    assert (code, "ends at line 2; it went on to 9 once" in err) == (65, True)
    code, _, err = office("audit", "verify", "--expect", "nonsense")
    assert (code, "SEQ:SHA256" in err) == (65, True)


def test_the_trail_can_be_read_by_subject(office):
    subscription = office.a_subscription()
    office("key", "new", subscription, "--slot", 1)
    actions = [line["action"] for line in office.facts("audit", "list", "--subject", subscription)["lines"]]
    assert actions == ["key.new", "subscription.add"]
    assert len(office.facts("audit", "list", "--limit", 1)["lines"]) == 1
    code, _, err = office("audit", "list", "--limit", "99999999999999999999")
    assert (code, "1<=x<=1000000" in err) == (64, True)


def test_a_backup_is_the_whole_database_and_replaces_nothing(office):
    office.a_subscription()
    copy = office.folder / "copy.db"
    facts = office.facts("backup", copy)
    assert facts["audit"] == office.facts("audit", "verify", "--database", copy)["head"]
    assert office.facts("customer", "list", "--database", f"sqlite:///{copy}")["customers"][0]["name"] == "Alba"
    code, _, err = office("backup", copy)
    assert (code, "File exists" in err) == (65, True)
