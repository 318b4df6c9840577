"""The command `licenses`, as a person and as a machine use it."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from licenses.device_key import DeviceKey


@pytest.fixture
def issued(site, run):
    """A licence until the end of March 2099, and its trust root."""
    code, _, err = run(
        "issue", "--keys", site / "keys", "--customer", "St. Example", "--expires", "2099-03-31", "--not-before",
        "2027-01-01", "--grace-days", 14, "--pages-soft", 90, "--pages-hard", 100, "--out", site / "license.dat",
    )  # fmt: skip
    assert code == 0, err
    return site / "license.dat", site / "keys" / "trust-root.json"


def test_keygen_says_where_and_that_it_is_evaluation(tmp_path, run):
    code, out, _ = run("keygen", "--out", tmp_path / "keys", "--evaluation")
    assert code == 0
    assert "*** EVALUATION" in out
    assert str(tmp_path / "keys" / "trust-root.json") in out


def test_production_keygen_without_a_vendor_names_a_default_and_says_so(tmp_path, run):
    code, _, err = run("keygen", "--out", tmp_path / "keys")
    assert code == 0
    assert "vendor.tollgate.example" in err
    assert (tmp_path / "keys" / "trust-root.json").exists()


def test_keygen_twice_is_refused_without_force(site, run):
    code, _, err = run("keygen", "--out", site / "keys", "--evaluation")
    assert code == 64
    assert "Next step:" in err
    assert run("keygen", "--out", site / "keys", "--evaluation", "--force")[0] == 0


def test_issue_shows_what_was_granted(site, run):
    code, out, _ = run(
        "issue", "--keys", site / "keys", "--customer", "St. Example", "--expires", "2099-03-31",
        "--grace-days", 14, "--pages-hard", 100_000, "--overage", "--feature", "handwriting", "--min-version", "0.1",
        "--max-unacked-days", 30, "--out", site / "license.dat",
    )  # fmt: skip
    assert code == 0
    for words in (
        "EVALUATION", "St. Example", "Tuesday 2099-03-31 23:59:59 UTC", "Tuesday 2099-04-14 23:59:59 UTC", "100,000",
        "billed as overage", "handwriting", "0.1 or later", "30 days without", "days left", "evaluation-issuing-",
    ):  # fmt: skip
        assert words in out


def test_days_end_a_term_at_the_end_of_a_day(site, run):
    _, out, _ = run("issue", "--keys", site / "keys", "--customer", "x", "--days", 30, "--out", site / "l", "--json")
    facts = json.loads(out)
    assert facts["expires_at"].endswith("T23:59:59Z")
    assert facts["days_left"] in (30, 31)
    assert facts["evaluation"] is True
    assert facts["termination_at"] == facts["expires_at"]


@pytest.mark.parametrize(
    ("expires", "told"),
    [
        ("2026-03-31", "This term has ended already, on Tuesday 2026-03-31 23:59:59 UTC: the licence serves nowhere."),
        ("2099-03-31", ""),
    ],
)
def test_a_term_that_has_ended_is_issued_with_a_remark(site, run, expires, told):
    arguments = ["issue", "--keys", site / "keys", "--customer", "x", "--not-before", "2026-01-01", "--out", site / "l"]
    code, out, err = run(*arguments, "--expires", expires, "--json")
    assert (code, err.strip()) == (0, told)
    assert json.loads(out)["file"] == str(site / "l")
    if told:
        _, _, err = run(*arguments, "--expires", expires, "--grace-days", 3650, "--force")
        assert "serves in grace alone" in err


def test_help_says_when_a_sequence_is_needed(run):
    words = " ".join(run("issue", "--help")[1].split())
    assert "Id to renew; needs --sequence." in words
    assert "[default: 1 for a new id; required with --license-id]" in words


USAGE = {
    "no_end": [],
    "two_ends": ["--expires", "2099-01-01", "--days", "3"],
    "bad_day": ["--expires", "31.3.2099"],
    "no_such_day": ["--expires", "2099-02-30"],
    "ends_before_it_begins": ["--expires", "2020-01-01"],
    "overage_without_limit": ["--days", "3", "--overage"],
    "soft_above_hard": ["--days", "3", "--pages-soft", "9", "--pages-hard", "8"],
    "renewal_without_sequence": ["--days", "3", "--license-id", "x"],
    "bad_license_id": ["--days", "3", "--license-id", "a b", "--sequence", "2"],
    "bad_feature": ["--days", "3", "--feature", "a b"],
    "beyond_the_calendar": ["--expires", "9999-12-31", "--grace-days", "1"],
    "unknown_option": ["--days", "3", "--no-such"],
    "missing_factor_file": ["--days", "3", "--bind", "/nonexistent/f"],
    "missing_device_key": ["--days", "3", "--device-key", "/nonexistent/f"],
}


@pytest.mark.parametrize("arguments", USAGE.values(), ids=USAGE)
def test_wrong_use_of_issue_is_64_and_writes_nothing(site, run, arguments):
    code, out, err = run("issue", "--keys", site / "keys", "--customer", "x", "--out", site / "l", *arguments)
    assert code == 64, err
    assert out == ""
    assert err
    assert not (site / "l").exists()


def test_licence_is_not_replaced_without_force(issued, site, run):
    arguments = ["issue", "--keys", site / "keys", "--customer", "x", "--days", 3, "--out", issued[0]]
    code, _, err = run(*arguments)
    assert code == 64
    assert "move" in err
    assert run(*arguments, "--force")[0] == 0


def test_inspect_without_trust_root_says_that_nothing_is_verified(issued, run):
    code, out, _ = run("inspect", issued[0])
    assert code == 0
    assert "NOT VERIFIED" in out
    assert "if the signature is good" in out
    assert json.loads(run("inspect", issued[0], "--json")[1])["verified"] is False


def test_inspect_says_why_it_would_not_serve_here(site, run):
    state = site / "state"
    state.mkdir()
    DeviceKey.load_or_create(state)
    run("issue", "--keys", site / "keys", "--customer", "x", "--days", 3, "--out", site / "l", "--device-key",
        state / "device.pub")  # fmt: skip
    root = site / "keys" / "trust-root.json"
    code, out, _ = run("inspect", site / "l", "--trust-root", root)
    assert code == 0
    assert "would NOT serve" in out
    assert "Next step" in out
    code, out, _ = run("inspect", site / "l", "--trust-root", root, "--device-key", state / "device.pub")
    assert "would serve." in out


@pytest.mark.parametrize(
    ("at", "code", "words"),
    [
        ("2026-12-31T23:59:59Z", 78, "NOT_YET_VALID"),
        ("2027-01-01", 0, "VALID"),
        ("2099-03-31T23:59:58Z", 0, "VALID"),
        ("2099-03-31T23:59:59Z", 0, "GRACE"),
        ("2099-04-14T23:59:59Z", 78, "EXPIRED"),
    ],
)
def test_verify_judges_the_term(issued, run, at, code, words):
    found, out, _ = run("verify", issued[0], "--trust-root", issued[1], "--at", at)
    assert found == code
    assert f"Verdict      {words}." in out


def test_verify_judges_the_container(issued, run):
    code, out, _ = run("verify", issued[0], "--trust-root", issued[1], "--container-type", "speech", "--json")
    assert code == 78
    assert json.loads(out)["standing"] == "mismatch"


def test_verify_shows_a_binding_but_does_not_judge_it(site, run):
    assert run("factors", "--out", site / "f", "--operator-id", "ward-7", "--threshold", 1)[0] == 0
    run("issue", "--keys", site / "keys", "--customer", "x", "--days", 3, "--bind", site / "f", "--out", site / "l")
    code, out, _ = run("verify", site / "l", "--trust-root", site / "keys" / "trust-root.json")
    assert code == 0
    assert "must match" in out
    assert "operator_id" in out


def test_armoured_licence_verifies(site, run):
    run("issue", "--keys", site / "keys", "--customer", "x", "--days", 3, "--armour", "--out", site / "l")
    assert (site / "l").read_text().startswith("-----BEGIN TOLLGATE LICENSE-----")
    assert run("verify", site / "l", "--trust-root", site / "keys" / "trust-root.json")[0] == 0


def test_licence_of_another_vendor_is_78(issued, tmp_path, run):
    run("keygen", "--out", tmp_path / "other", "--evaluation")
    code, out, err = run("verify", issued[0], "--trust-root", tmp_path / "other" / "trust-root.json", "--json")
    assert code == 78
    assert json.loads(out)["error"]["code"] == "untrusted_key"
    assert "Next step:" in err


def test_edited_licence_is_refused(issued, run):
    blob = bytearray(issued[0].read_bytes())
    blob[40] ^= 1
    issued[0].write_bytes(blob)
    assert run("verify", issued[0], "--trust-root", issued[1])[0] in (65, 78)


def test_rubbish_is_65(issued, tmp_path, run):
    (tmp_path / "rubbish").write_bytes(b"\x00\xff")
    for arguments in (["verify", tmp_path / "rubbish", "--trust-root", issued[1]], ["inspect", tmp_path / "rubbish"]):
        code, _, err = run(*arguments)
        assert code == 65
        assert "not UTF-8" in err


def test_missing_file_is_64(issued, tmp_path, run):
    assert run("verify", tmp_path / "none", "--trust-root", issued[1])[0] == 64


def test_open_private_key_is_77(site, run):
    for path in (site / "keys").glob("*.key"):
        path.chmod(0o644)
    code, _, err = run("issue", "--keys", site / "keys", "--customer", "x", "--days", 3, "--out", site / "l")
    assert code == 77
    assert "chmod 0600" in err


def test_version_and_help(run):
    assert run("--version")[1].startswith("licenses 0.")
    for command in (
        "keygen", "issue", "inspect", "verify", "factors", "request", "revoke", "rotate", "reset-clock",
    ):  # fmt: skip
        code, out, _ = run(command, "--help")
        assert code == 0
        assert "--json" in out


def test_expired_licence_says_how_long_ago(issued, run):
    out = run("inspect", issued[0], "--at", "2099-04-02")[1]
    assert "(1 day ago)" in out


def test_environment_clock_is_used_when_no_time_is_given(issued, run):
    out = json.loads(run("inspect", issued[0], "--json")[1])
    assert abs(datetime.fromisoformat(out["at"]) - datetime.now(UTC)) < timedelta(minutes=1)
