"""The vendor's end of the exchange, as the commands show it."""

import io
import json
import sys
from datetime import UTC, datetime

import pytest

from licenses.ack import open_ack
from licenses.device_key import DeviceKey
from licenses.keyring import load_trust_root
from licenses.keys import public_pem
from licenses.model import READ_PAGES_METER
from licenses.usage_log.fork import prove_fork
from licenses.usage_log.note import Checkpoint, sign_checkpoint
from licenses.usage_log.statement import Statement
from tests.fakes.bundles import a_bundle
from tests.fakes.records import FakeMeter


@pytest.fixture
def appliance(site, run):
    """A vendor's folder, an appliance with two windows, its enrolment, and its first bundle."""
    (site / "state").mkdir()
    device = DeviceKey.load_or_create(site / "state")
    meter = FakeMeter(site / "output", device=device.signing_key, vendor="evaluation.tollgate.example")
    meter.window(uses=3)
    code, _, err = run(
        "request",
        "--out",
        site / "enrolment.dsse.json",
        "--state-directory",
        site / "state",
        "--output",
        site / "output",
    )
    assert code == 0, err
    meter.window(uses=2)
    (site / "device.pub").write_bytes(public_pem(device.verifying_key.public))
    return site, meter


def _acknowledge(run, site, bundle, *more):
    return run(
        "acknowledge", bundle, "--keys", site / "keys", "--known", site / "known", "--out", site / "out", *more
    )  # fmt: skip


@pytest.mark.parametrize("option", [("--enrolment", "enrolment.dsse.json"), ("--device-key", "device.pub")])
def test_acknowledgement_is_written_and_told(appliance, run, option):
    site, meter = appliance
    code, out, err = _acknowledge(run, site, a_bundle(meter, site), option[0], site / option[1], "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    ack = open_ack((site / "out" / f"ack-{meter.origin.replace('/', '-')}-{meter.size}.dsse.json").read_bytes(),
                   load_trust_root(site / "keys" / "trust-root.json"), device=meter.device.verifying)  # fmt: skip
    assert facts["file"] == str(site / "out" / ack.file_name)
    assert (facts["size"], facts["billed"], facts["repeated"]) == (ack.size, {READ_PAGES_METER: 5}, False)
    assert (facts["evaluation"], facts["gaps"]) == (True, [])


def test_inspect_shows_an_acknowledgement(appliance, run):
    site, meter = appliance
    file = json.loads(_acknowledge(run, site, a_bundle(meter, site), "--device-key", site / "device.pub", "--json")[1])[
        "file"
    ]
    root = ("--trust-root", site / "keys" / "trust-root.json")
    code, out, _ = run("inspect", file, *root)
    assert code == 0
    for words in (f"entries [0, {meter.size})", f"5 {READ_PAGES_METER}", "good, by evaluation-ack-", "(EVALUATION)"):
        assert words in out
    facts = json.loads(run("inspect", file, *root, "--json")[1])
    assert (facts["verified"], facts["size"], facts["totals"]) == (True, meter.size, {READ_PAGES_METER: 5})
    assert "NOT VERIFIED" in run("inspect", file)[1]


def test_words_for_people(appliance, run):
    site, meter = appliance
    bundle = a_bundle(meter, site)
    code, out, _ = _acknowledge(run, site, bundle, "--device-key", site / "device.pub")
    assert code == 0
    assert f"5 {READ_PAGES_METER} in the entries [0, {meter.size})" in out
    assert "EVALUATION" in out
    assert "sidecar usage import-ack" in out
    code, out, _ = _acknowledge(run, site, bundle, "--device-key", site / "device.pub")
    assert code == 0
    assert "nothing: entries up to" in out
    code, out, _ = run(
        "acknowledge", bundle, "--keys", site / "keys", "--out", site / "out2", "--device-key", site / "device.pub"
    )
    assert code == 0
    assert "Nothing is remembered" in out


def test_licence_goes_along(appliance, run):
    site, meter = appliance
    licence = site / "next.dat"
    assert run("issue", "--keys", site / "keys", "--customer", "x", "--days", 30, "--out", licence,
               "--enrolment", site / "enrolment.dsse.json")[0] == 0  # fmt: skip
    code, out, err = _acknowledge(run, site, a_bundle(meter, site), "--enrolment", site / "enrolment.dsse.json",
                                  "--next-license", licence, "--no-time-anchor", "--json")  # fmt: skip
    assert (code, err) == (0, "")
    assert (json.loads(out)["license"], json.loads(out)["time_anchor"]) == (True, None)


def test_fork_is_refused_and_proven(appliance, run):
    site, meter = appliance
    first = _acknowledge(run, site, a_bundle(meter, site), "--device-key", site / "device.pub")
    assert first[0] == 0
    clone = FakeMeter(site / "clone", device=meter.device, vendor="evaluation.tollgate.example")
    for uses in (3, 1, 1, 1):
        clone.window(uses=uses)
    code, out, err = _acknowledge(run, site, a_bundle(clone, site), "--device-key", site / "device.pub", "--json")
    assert code == 65
    assert json.loads(out)["error"]["code"] == "ledger_fork"
    proof = next((site / "out").glob("fork-*.json"))
    assert str(proof) in err
    code, out, err = run("check-fork", proof, "--device-key", site / "device.pub", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "file": str(proof),
        "proven": True,
        "kind": "other_past" if clone.size != meter.size else "same_size",
        "origin": meter.origin,
        "device": meter.origin.rpartition("/")[2],
        "sizes": sorted((meter.size, clone.size)),
        "reason": json.loads(out)["reason"],
    }
    assert "Proven  " in run("check-fork", proof, "--enrolment", site / "enrolment.dsse.json")[1]


def test_what_proves_nothing_is_refused(appliance, run, tmp_path):
    site, meter = appliance
    notes = [sign_checkpoint(meter.origin, 7, bytes([byte]) * 32, meter.device) for byte in (1, 2)]
    path = tmp_path / "fork.json"
    path.write_bytes(prove_fork(*notes, meter.device.verifying))
    assert run("check-fork", path, "--device-key", site / "device.pub")[0] == 0
    (tmp_path / "other").mkdir()
    DeviceKey.load_or_create(tmp_path / "other")
    assert run("check-fork", path, "--device-key", tmp_path / "other" / "device.pub")[0] == 78
    path.write_text("{}")
    code, _, err = run("check-fork", path, "--device-key", site / "device.pub")
    assert code == 65
    assert "malformed" in err
    assert run("check-fork", path)[0] == 64


def test_statement_is_read_from_a_file_and_from_standard_input(appliance, run, monkeypatch):
    site, meter = appliance
    statement = Statement.of(
        Checkpoint(meter.origin, 7, bytes(32)),
        {"2025-01": 5, "2027-01": 12, "2027-02": 30},
        until=datetime(2027, 2, 3, tzinfo=UTC),
        evaluation=True,
    )
    note = statement.sign(meter.device)
    (site / "statement").write_text(note, encoding="utf-8")
    code, out, _ = run("read-statement", site / "statement", "--device-key", site / "device.pub")
    assert code == 0
    for words in ("2027-02  ", "30 pages", "In all", "47 pages", "Before 2026-03", "EVALUATION", "2027-02-03 00:00:00"):
        assert words in out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(note.encode()), encoding="utf-8"))
    code, out, _ = run("read-statement", "-", "--enrolment", site / "enrolment.dsse.json", "--json")
    assert code == 0
    facts = json.loads(out)
    assert (facts["total"], facts["before"], facts["months"]["2027-01"]) == (47, 5, 12)
    (site / "statement").write_text(note.replace(" 30", " 31"), encoding="utf-8")
    assert run("read-statement", site / "statement", "--device-key", site / "device.pub")[0] == 78
    (site / "statement").write_bytes(b"\xff")
    assert run("read-statement", site / "statement", "--device-key", site / "device.pub")[0] == 65


def test_device_must_be_told_once(appliance, run):
    site, meter = appliance
    bundle = a_bundle(meter, site)
    assert _acknowledge(run, site, bundle)[0] == 64
    both = ("--device-key", site / "device.pub", "--enrolment", site / "enrolment.dsse.json")
    assert _acknowledge(run, site, bundle, *both)[0] == 64


def test_damaged_bundle_is_refused_with_a_next_step(appliance, run):
    site, meter = appliance
    bundle = a_bundle(meter, site)
    bundle.write_bytes(bundle.read_bytes()[:-10])
    code, _, err = _acknowledge(run, site, bundle, "--device-key", site / "device.pub")
    assert code == 65
    assert "cut off" in err
    assert "sidecar usage export" in err
    assert not (site / "out").exists()


def test_folder_that_cannot_be_made_is_named(appliance, run):
    site, meter = appliance
    (site / "out").write_bytes(b"")
    code, _, err = _acknowledge(run, site, a_bundle(meter, site), "--device-key", site / "device.pub")
    assert code in (64, 77)
    assert str(site / "out") in err


@pytest.mark.parametrize("words", [["authority", "init"], ["acknowledge", "bundle", "--keys", "keys", "--out", "out"]])
def test_an_appliance_goes_without_the_vendors_side(words: list[str], run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("licenses.authority")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "licenses.authority", None)
    code, _, err = run(*words)
    assert code != 0
    assert "no part of an appliance" in err
