"""Enrol, revoke, rotate and reset a clock, as a vendor and an operator do it."""

import hashlib
import json
import stat
from datetime import UTC, datetime

import pytest

from licenses import ml_dsa
from licenses.clock_reset import open_clock_reset
from licenses.device_key import DeviceKey
from licenses.enrolment import open_enrolment
from licenses.host import HostFactors
from licenses.issue import load_issuer
from licenses.keyring import TrustRoot, follow, load_trust_root
from licenses.revocation import open_revocation
from licenses.verify import open_license
from licenses.watch import LicenseWatch
from tests.fakes.records import FakeMeter


@pytest.fixture
def appliance(tmp_path):
    """A state directory with a device key, and the records of two windows."""
    (tmp_path / "state").mkdir()
    device = DeviceKey.load_or_create(tmp_path / "state")
    meter = FakeMeter(tmp_path / "output", device=device.signing_key)
    meter.window(uses=3)
    meter.window(uses=2)
    return tmp_path


@pytest.fixture
def enrolled(appliance, run):
    """The same, with its enrolment."""
    code, _, err = run(
        "request", "--out", appliance / "enrolment.dsse.json", "--state-directory", appliance / "state",
        "--output", appliance / "output", "--host-id", "ward-7",
    )  # fmt: skip
    assert code == 0, err
    return appliance


def _issue(run, site, name="license.dat", *more):
    code, out, err = run(
        "issue", "--keys", site / "keys", "--customer", "x", "--days", 30, "--out", site / name, "--json", *more
    )
    assert code == 0, err
    return json.loads(out)


# ---- enrol ----------------------------------------------------------------------------------------------------------


def test_request_tells_device_host_and_checkpoints(enrolled):
    found = open_enrolment((enrolled / "enrolment.dsse.json").read_bytes())
    assert found.device_public == DeviceKey.load_or_create(enrolled / "state").public_raw
    assert HostFactors(operator_id="WARD-7").matches(found.bindings) == 1
    assert 0 < found.first_checkpoint.size < found.last_checkpoint.size
    assert b"ward-7" not in (enrolled / "enrolment.dsse.json").read_bytes()


def test_request_before_the_first_start_makes_the_key_and_names_no_checkpoint(tmp_path, run):
    (tmp_path / "state").mkdir()
    code, out, _ = run("request", "--out", tmp_path / "e", "--state-directory", tmp_path / "state", "--host-id", "a",
                       "--output", tmp_path / "none")  # fmt: skip
    assert code == 0
    assert "none yet" in out
    assert stat.S_IMODE((tmp_path / "state" / "device.key").stat().st_mode) == 0o400


def test_request_binds_the_kinds_that_are_wanted(tmp_path, run):
    (tmp_path / "state").mkdir()
    arguments = ["request", "--out", tmp_path / "e", "--state-directory", tmp_path / "state", "--host-id", "ward-7"]
    assert run(*arguments, "--factor", "shoe_size")[0] == 64
    facts = json.loads(run(*arguments, "--factor", "operator_id", "--json")[1])
    assert (facts["threshold"], facts["factors"]) == (1, ["operator_id"])


def test_request_without_a_state_directory_is_64(tmp_path, run):
    code, _, err = run("request", "--out", tmp_path / "e", "--state-directory", tmp_path / "none", "--host-id", "a")
    assert code == 64
    assert "state directory" in err


def test_request_refuses_checkpoints_of_another_device(appliance, run):
    (appliance / "other").mkdir()
    other = DeviceKey.load_or_create(appliance / "other")
    ours = next((appliance / "output" / "computervisionread").iterdir())
    ours.rename(ours.with_name(other.instance_id))
    code, _, err = run("request", "--out", appliance / "e", "--state-directory", appliance / "other",
                       "--output", appliance / "output", "--host-id", "a")  # fmt: skip
    assert code == 78
    assert "checkpoint" in err
    assert not (appliance / "e").exists()


def test_licence_for_an_enrolment_is_bound_to_it(site, enrolled, run):
    facts = _issue(run, site, "license.dat", "--enrolment", enrolled / "enrolment.dsse.json")
    found = open_enrolment((enrolled / "enrolment.dsse.json").read_bytes())
    assert facts["device_pubkey"] == found.device_public.hex()
    assert facts["ledger_anchor"] == found.last_checkpoint.to_members()
    assert facts["time_anchor"] == facts["issued_at"]
    root = site / "keys" / "trust-root.json"
    here = ["inspect", site / "license.dat", "--trust-root", root, "--host-id", "ward-7"]
    assert "would serve." in run(*here, "--state-directory", enrolled / "state")[1]
    assert "bound to one device key" in run(*here)[1]
    (enrolled / "away").mkdir()
    DeviceKey.load_or_create(enrolled / "away")
    assert "this device has another key" in run(*here, "--state-directory", enrolled / "away")[1]


def test_enrolment_and_single_bindings_exclude_each_other(site, enrolled, run):
    arguments = ["issue", "--keys", site / "keys", "--customer", "x", "--days", 3, "--out", site / "l"]
    enrolment = ["--enrolment", enrolled / "enrolment.dsse.json"]
    assert run(*arguments, *enrolment, "--device-key", enrolled / "state" / "device.pub")[0] == 64


def test_edited_enrolment_issues_nothing(site, enrolled, run):
    blob = bytearray((enrolled / "enrolment.dsse.json").read_bytes())
    blob[60] ^= 1
    (enrolled / "enrolment.dsse.json").write_bytes(blob)
    code, _, _ = run("issue", "--keys", site / "keys", "--customer", "x", "--days", 3, "--out", site / "l",
                     "--enrolment", enrolled / "enrolment.dsse.json")  # fmt: skip
    assert code in (65, 78)
    assert not (site / "l").exists()


# ---- revoke ---------------------------------------------------------------------------------------------------------


def test_revocation_is_carried_by_the_next_licence_and_by_a_file(site, run):
    first = _issue(run, site)
    code, out, err = run(
        "revoke", "--keys", site / "keys", "--license-id", first["license_id"], "--out", site / "revocation.dat"
    )
    assert code == 0, err
    assert first["license_id"] in out
    root = load_trust_root(site / "keys" / "trust-root.json")
    assert open_revocation((site / "revocation.dat").read_bytes(), root).revoked.license_ids == (first["license_id"],)
    second = _issue(run, site, "second.dat")
    assert second["revoked"] == {"sequence": 1, "license_ids": [first["license_id"]], "key_ids": []}


def test_licence_is_taken_back_by_its_file(site, run):
    facts = _issue(run, site)
    code, out, _ = run("revoke", "--keys", site / "keys", "--license", site / "license.dat", "--json")
    assert code == 0
    assert json.loads(out)["license_ids"] == [facts["license_id"]]


def test_revocations_only_grow(site, run):
    for number in (1, 2, 2):
        code, out, _ = run("revoke", "--keys", site / "keys", "--license-id", f"l{number}", "--json")
        assert code == 0
        assert json.loads(out)["sequence"] == number
    assert json.loads(out)["license_ids"] == ["l1", "l2"]


def test_revoked_id_is_not_issued_again(site, run):
    first = _issue(run, site)
    run("revoke", "--keys", site / "keys", "--license-id", first["license_id"])
    code, _, err = run("issue", "--keys", site / "keys", "--customer", "x", "--days", 3, "--out", site / "l",
                       "--license-id", first["license_id"], "--sequence", 2)  # fmt: skip
    assert code == 64
    assert "new id" in err


def test_key_that_issues_cannot_be_revoked_before_it_is_rotated(site, run):
    key_id = load_issuer(site / "keys").issuing_key.key_id
    arguments = ["revoke", "--keys", site / "keys", "--key-id", key_id]
    code, _, err = run(*arguments)
    assert code == 64
    assert "rotate --issuing" in err
    assert run("rotate", "--keys", site / "keys", "--issuing")[0] == 0
    assert run(*arguments)[0] == 0


def test_wrong_use_of_revoke(site, run):
    assert run("revoke", "--keys", site / "keys")[0] == 64
    assert run("revoke", "--keys", site / "keys", "--license-id", "a b")[0] == 64
    assert run("revoke", "--keys", site / "keys", "--out", site / "r")[0] == 64
    assert run("revoke", "--keys", site / "keys", "--license", site / "none")[0] == 64
    code, _, err = run("revoke", "--keys", site / "keys", "--key-id", "issuing-0123456789abcdef")
    assert code == 64
    assert "lists no issuing key" in err
    (site / "there").touch()
    assert run("revoke", "--keys", site / "keys", "--license-id", "l", "--out", site / "there")[0] == 64
    assert not (site / "keys" / "revoked.json").exists()


def test_damaged_list_issues_nothing(site, run):
    (site / "keys" / "revoked.json").write_text('{"sequence":1}')
    assert run("issue", "--keys", site / "keys", "--customer", "x", "--days", 3, "--out", site / "l")[0] == 65


def test_inspect_knows_what_was_revoked_here(site, enrolled, run):
    first = _issue(run, site)
    run("revoke", "--keys", site / "keys", "--license-id", first["license_id"], "--out", site / "r")
    (enrolled / "state" / "revoked.kept").write_bytes((site / "r").read_bytes())
    here = ["inspect", site / "license.dat", "--trust-root", site / "keys" / "trust-root.json"]
    assert "would serve." in run(*here)[1]
    assert "has revoked the licence" in run(*here, "--state-directory", enrolled / "state")[1]


def test_inspect_knows_what_was_in_force_here(site, enrolled, run):
    root, licences = site / "keys" / "trust-root.json", site / "licences"
    licences.mkdir()
    for sequence in (1, 2):
        _issue(run, licences.parent, f"l{sequence}", "--license-id", "x", "--sequence", sequence)
    (licences / "l2").write_bytes((site / "l2").read_bytes())
    watch = LicenseWatch(licences, trust_root_path=root, state_directory=enrolled / "state", keeper=True)
    assert watch.look(datetime.now(UTC)).serves
    here = ["--trust-root", root, "--state-directory", enrolled / "state", "--json"]
    assert json.loads(run("inspect", site / "l1", *here)[1])["standing"] == "superseded"
    assert json.loads(run("inspect", site / "l2", *here)[1])["standing"] == "valid"
    run("keygen", "--out", site / "other" / "keys", "--evaluation")
    _issue(run, site / "other", "l", "--license-id", "x", "--sequence", 1)
    here[1] = site / "other" / "keys" / "trust-root.json"
    assert json.loads(run("inspect", site / "other" / "l", *here)[1])["standing"] == "valid"


def test_inspect_knows_the_sequence_floor(site, run):
    facts = _issue(run, site)
    here = ["inspect", site / "license.dat", "--trust-root", site / "keys" / "trust-root.json", "--json"]
    assert json.loads(run(*here, "--sequence-floor", 2)[1])["standing"] == "superseded"
    assert json.loads(run(*here, "--sequence-floor", facts["sequence"])[1])["standing"] == "valid"


# ---- rotate ---------------------------------------------------------------------------------------------------------


def test_rotation_is_a_chain_that_customers_can_follow(site, run):
    keys, first = site / "keys", _issue(run, site)
    old = load_trust_root(keys / "trust-root.json")
    code, out, err = run("rotate", "--keys", keys, "--root", "--issuing", "--ack")
    assert code == 0, err
    assert "version 2" in out
    assert run("rotate", "--keys", keys, "--issuing", "--revoke", first["key_id"])[0] == 0
    names = ["trust-root-v2.json", "trust-root.json"]
    new = follow(old, [(keys / name).read_bytes() for name in names])
    assert new.version == 3
    assert (keys / "trust-root-v1.json").exists()
    assert new.revoked_key_ids == (first["key_id"],)
    assert run("verify", site / "license.dat", "--trust-root", keys / "trust-root.json")[0] == 78
    assert run("verify", site / "license.dat", "--trust-root", keys / "trust-root-v2.json")[0] == 0
    second = _issue(run, site, "second.dat")
    assert second["key_id"] not in (first["key_id"], None)
    assert open_license((site / "second.dat").read_bytes(), new)
    assert len(list(keys.glob("*.key"))) == 3
    assert len(list((keys / "retired").glob("*.key"))) == 4
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in keys.rglob("*.key"))


def test_root_keys_may_be_kept_elsewhere(site, run):
    keys, stick = site / "keys", site / "stick"
    stick.mkdir()
    root_key = next(keys.glob("*root-*.key"))
    root_key.rename(stick / root_key.name)
    code, _, err = run("rotate", "--keys", keys, "--issuing")
    assert code == 64
    assert "--root-keys" in err
    assert run("rotate", "--keys", keys, "--root", "--root-keys", stick)[0] == 0
    assert not list(keys.glob("*root-*.key"))
    assert len(list(stick.glob("*root-*.key"))) == 1
    assert (stick / "retired" / root_key.name).exists()


def test_wrong_use_of_rotate_changes_nothing(site, run):
    before = (site / "keys" / "trust-root.json").read_bytes()
    for arguments in (
        [],
        ["--revoke", "issuing-0123456789abcdef"],
        ["--drop", load_issuer(site / "keys").issuing_key.key_id],
    ):
        assert run("rotate", "--keys", site / "keys", *arguments)[0] == 64
    assert (site / "keys" / "trust-root.json").read_bytes() == before
    assert not (site / "keys" / "retired").exists()


def test_rotation_that_cannot_be_written_leaves_the_trust_root(site, run):
    keys = site / "keys"
    before = (keys / "trust-root.json").read_bytes()
    (keys / "trust-root-v1.json").mkdir()
    code, _, err = run("rotate", "--keys", keys, "--issuing")
    assert code == 77
    assert "write the new trust root" in err
    assert (keys / "trust-root.json").read_bytes() == before
    (keys / "trust-root-v1.json").rmdir()
    assert run("rotate", "--keys", keys, "--issuing")[0] == 0


def test_threshold_of_root_keys(tmp_path, run):
    keys = tmp_path / "keys"
    assert run("keygen", "--out", keys, "--vendor", "vendor.example", "--threshold", 2)[0] == 64
    assert run("keygen", "--out", keys, "--vendor", "vendor.example", "--roots", 3, "--threshold", 2)[0] == 0
    roots = sorted(keys.glob("root-*.key"))
    roots[0].rename(tmp_path / "lost")
    assert run("rotate", "--keys", keys, "--root")[0] == 0
    assert len(list(keys.glob("root-*.key"))) == 3
    for path in sorted(keys.glob("root-*.key"))[:2]:
        path.unlink()
    code, _, err = run("rotate", "--keys", keys, "--issuing")
    assert code == 64
    assert "2 must sign" in err


@pytest.mark.skipif(not ml_dsa.is_supported(), reason="this cryptography has no ML-DSA-65")
def test_second_signature_from_the_start_and_later(tmp_path, run):
    keys = tmp_path / "keys"
    assert run("keygen", "--out", keys, "--evaluation", "--second-signature")[0] == 0
    facts = _issue(run, tmp_path)
    assert run("verify", tmp_path / "license.dat", "--trust-root", keys / "trust-root.json")[0] == 0
    assert run("rotate", "--keys", keys, "--root", "--issuing", "--revoke", facts["key_id"])[0] == 0
    _issue(run, tmp_path, "second.dat")
    assert run("keygen", "--out", tmp_path / "plain" / "keys", "--evaluation")[0] == 0
    _issue(run, tmp_path / "plain")
    assert run("rotate", "--keys", tmp_path / "plain" / "keys", "--second-signature")[0] == 0
    root = tmp_path / "plain" / "keys" / "trust-root.json"
    assert TrustRoot.from_bytes(root.read_bytes()).second_issuing_keys
    assert run("verify", tmp_path / "plain" / "license.dat", "--trust-root", root)[0] == 78
    _issue(run, tmp_path / "plain", "second.dat")
    assert run("verify", tmp_path / "plain" / "second.dat", "--trust-root", root)[0] == 0


# ---- reset a clock --------------------------------------------------------------------------------------------------


def test_clock_reset_is_for_one_licence_and_one_device(site, enrolled, run):
    facts = _issue(run, site)
    code, out, err = run(
        "reset-clock", "--keys", site / "keys", "--license", site / "license.dat",
        "--enrolment", enrolled / "enrolment.dsse.json", "--out", site / "reset.dat",
    )  # fmt: skip
    assert code == 0, err
    assert "sidecar clock reset" in out
    reset = open_clock_reset((site / "reset.dat").read_bytes(), load_trust_root(site / "keys" / "trust-root.json"))
    assert reset.license_id == facts["license_id"]
    assert reset.device_public == DeviceKey.load_or_create(enrolled / "state").public_raw
    assert reset.evaluation


WRONG_RESETS = {
    "no_licence": ["--device-key", "DEVICE"],
    "two_licences": ["--device-key", "DEVICE", "--license-id", "x", "--license", "LICENSE"],
    "no_device": ["--license-id", "x"],
    "two_devices": ["--license-id", "x", "--device-key", "DEVICE", "--enrolment", "ENROLMENT"],
    "in_the_future": ["--license-id", "x", "--device-key", "DEVICE", "--not-earlier-than", "2999-01-01"],
    "good_for_a_year": ["--license-id", "x", "--device-key", "DEVICE", "--days", "365"],
}


@pytest.mark.parametrize("arguments", WRONG_RESETS.values(), ids=WRONG_RESETS)
def test_wrong_use_of_reset_clock_is_64(site, enrolled, run, arguments):
    _issue(run, site)
    places = {
        "DEVICE": enrolled / "state" / "device.pub",
        "ENROLMENT": enrolled / "enrolment.dsse.json",
        "LICENSE": site / "license.dat",
    }
    words = [places.get(word, word) for word in arguments]
    code, _, err = run("reset-clock", "--keys", site / "keys", "--out", site / "reset.dat", *words)
    assert code == 64, err
    assert not (site / "reset.dat").exists()


# ---- look at any file -----------------------------------------------------------------------------------------------


def test_inspect_shows_every_kind_of_file(site, enrolled, run):
    facts = _issue(run, site)
    run("revoke", "--keys", site / "keys", "--license-id", facts["license_id"], "--out", site / "r")
    run("reset-clock", "--keys", site / "keys", "--license-id", "x", "--device-key", enrolled / "state" / "device.pub",
        "--out", site / "c")  # fmt: skip
    root = site / "keys" / "trust-root.json"
    for path, words in (
        (root, "Root keys"),
        (enrolled / "enrolment.dsse.json", "Last checkpoint"),
        (site / "r", "Taken back"),
        (site / "c", "Good until"),
    ):
        code, out, err = run("inspect", path, "--trust-root", root)
        assert code == 0, err
        assert words in out
        facts = json.loads(run("inspect", path, "--trust-root", root, "--json")[1])
        assert facts["verified"] is True
        assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    for path in (site / "r", site / "c"):
        assert "NOT VERIFIED" in run("inspect", path)[1]
