"""`licenses authority intake, report, reconcile, statement`: what each does, says and writes."""

import json
import re
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from licenses import issue
from licenses.ack import open_ack
from licenses.authority.accounts import Accounts
from licenses.authority.audit_trail import AuditTrail
from licenses.authority.database import open_database
from licenses.authority.licensing import Licensing
from licenses.authority.qr import MAX_BYTES
from licenses.authority.vendor_keys import VendorKeys
from licenses.cli_text import now
from licenses.keyring import load_trust_root
from licenses.model import CONTAINER_TYPE, READ_PAGES_METER
from licenses.usage_log.fork import read_fork_file, verify_fork
from licenses.verify import open_license
from tests.fakes.records import FakeMeter
from tests.fakes.vendor_books import FakeSite

METER = READ_PAGES_METER


class Office:
    """A vendor's folder with one enrolled appliance, and the commands run on it."""

    def __init__(self, run, folder) -> None:
        self._run, self.folder = run, folder
        self.keys, self.database = folder / "keys", folder / "authority.db"
        vendor = issue.generate_vendor(domain="vendor.example", evaluation=True, at=now() - timedelta(days=1))
        issue.save_vendor(vendor, self.keys)
        database = open_database(self.database, create=True)
        trail = AuditTrail(database, now, actor="test")
        accounts = Accounts(database, trail, now)
        self.customer = accounts.add_customer("Ward 7")
        accounts.add_tier("small", meter=METER, quantity=4, period="year", overage_allowed=True)
        subscription = accounts.add_subscription(self.customer.id, container_type=CONTAINER_TYPE, tier="small")
        meter = FakeMeter(folder / "site" / "output", vendor="vendor.example", at=now() - timedelta(hours=6))
        self.site = FakeSite(meter, folder / "site")
        Licensing(database, trail, VendorKeys(self.keys), now).devices.enrol(self.site.enrolment(), subscription.id)
        database.close()
        for uses in (3, 2):
            meter.window(uses=uses)

    def __call__(self, *words: object, keys: bool = False) -> tuple[int, str, str]:
        places = ["--database", self.database, *(["--keys", self.keys] if keys else [])]
        return self._run("authority", *words, *places)

    def intake(self, bundle, *words: object) -> tuple[int, str, str]:
        return self("intake", bundle, "--out", self.folder / "out", *words, keys=True)


@pytest.fixture
def office(run, tmp_path):
    return Office(run, tmp_path)


def test_bundle_in_acknowledgement_and_licence_out(office):
    code, out, err = office.intake(office.site.bundle(), "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert (facts["billed"], facts["acknowledged"], facts["repeated"]) == ({METER: 5}, office.site.meter.size, False)
    (file,) = (office.folder / "out").iterdir()
    assert str(file) == facts["file"]
    root = load_trust_root(office.keys / issue.TRUST_ROOT_NAME)
    ack = open_ack(file.read_bytes(), root, device=office.site.meter.device.verifying)
    lic = open_license(ack.license, root)
    assert facts["license"] == {"id": lic.license_id, "sequence": 1}
    database = open_database(office.database)
    assert {line.actor for line in AuditTrail(database, now, actor="x").lines(limit=3)} != {"test"}
    database.close()


def test_same_bundle_again_writes_the_same_file(office):
    path = office.site.bundle()
    office.intake(path)
    (file,) = (office.folder / "out").iterdir()
    first = file.read_bytes()
    shutil.rmtree(office.folder / "out")
    code, out, _ = office.intake(path)
    assert (code, file.read_bytes()) == (0, first)
    assert "known before" in out
    assert "sidecar usage import-ack" in out


def test_acknowledgement_alone_fits_into_a_qr_code(office):
    path = office.site.bundle()
    code, out, _ = office.intake(path, "--no-renewal")
    assert (code, "It fits into a QR code" in out) == (0, True)
    for kind, mark in (("svg", b"<svg"), ("png", b"\x89PNG")):
        target = office.folder / f"ack.{kind}"
        assert office.intake(path, "--no-renewal", "--qr", target)[0] == 0
        assert mark in target.read_bytes()[:200]
    (file,) = (office.folder / "out").iterdir()
    assert file.stat().st_size <= MAX_BYTES


def test_what_does_not_fit_into_a_qr_code_is_taken_in_and_told(office):
    path, code_file = office.site.bundle(), office.folder / "ack.svg"
    code, out, err = office.intake(path, "--qr", code_file)
    (file,) = (office.folder / "out").iterdir()
    assert (code, err) == (0, "")
    assert "Billed        5" in out
    assert f"does not fit into a QR code, so {code_file} was not written" in out
    assert f"Carry the file: {file}" in out
    assert not code_file.exists()
    facts = json.loads(office.intake(path, "--qr", code_file, "--json")[1])
    assert (facts["qr"], facts["repeated"], facts["file"]) == (None, True, str(file))


def test_no_renewal_keeps_the_licence_that_went_along_before(office):
    path = office.site.bundle()
    office.intake(path)
    (file,) = (office.folder / "out").iterdir()
    first = file.read_bytes()
    code, out, _ = office.intake(path, "--no-renewal")
    assert (code, file.read_bytes()) == (0, first)
    assert "none is new; that of the earlier acknowledgement stays" in out
    facts = json.loads(office.intake(path, "--no-renewal", "--json")[1])
    assert (facts["license"], facts["license_carried"]) == (None, True)


def test_qr_of_another_kind_is_refused_before_anything_is_done(office):
    assert office.intake(office.site.bundle(), "--qr", office.folder / "ack.jpg")[0] == 64
    assert not (office.folder / "out").exists()


def test_fork_leaves_its_proof(office):
    clone = office.site.copy()
    for one in (office.site, clone):
        one.meter.window(uses=1)
    assert office.intake(office.site.bundle())[0] == 0
    code, _, err = office.intake(clone.bundle())
    assert code != 0
    (proof,) = [path for path in (office.folder / "out").iterdir() if path.name.startswith("fork-")]
    assert proof.name in err
    verify_fork(read_fork_file(proof), office.site.meter.device.verifying)
    code, out, _ = office("reconcile")
    assert (code, "FORK:" in out) == (1, True)


def test_reconcile_ends_as_it_found(office):
    assert office("reconcile")[0] == 0
    office.site.meter.window(uses=1)
    code, _, err = office.intake(office.site.bundle(office.site.windows[1][0]))
    assert code != 0
    assert "were taken in, but nothing can be acknowledged" in err
    code, out, _ = office("reconcile", "--json")
    assert (code, json.loads(out)["worst"]) == (3, "gap")
    assert office.intake(office.site.bundle())[0] == 0
    code, out, _ = office("reconcile", "--device", office.site.origin)
    assert (code, "to look at: 0" in out) == (0, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("reconcile", "--device", "nope"), "device list"),
        (("report", "--month", "x"), "as 2026-11"),
        (("report", "--month", "2027-13"), "as 2026-11"),
        (("report", "--customer", "nope"), "customer list"),
        (("audit", "list", "--subject", "nope"), "audit list"),
    ],
)
def test_mistyped_name_is_no_all_clear(office, words, told):
    code, out, err = office(*words)
    assert (code, out) == (65, "")
    assert told in err


@pytest.mark.parametrize("words", [("device", "list"), ("license", "list")])
def test_mistyped_subscription_is_no_empty_list(office, words):
    code, _, err = office(*words, "--subscription", "nope", keys=True)
    assert (code, "there is no subscription 'nope'" in err) == (65, True)


def test_reconcile_takes_the_device_by_its_id(office):
    code, out, _ = office("reconcile", "--device", office.site.origin.rpartition("/")[2])
    assert (code, office.site.origin in out, "1 device" in out) == (0, True, True)


def test_report_shows_what_is_billed(office):
    assert "no use was billed" in office("report")[1]
    office.intake(office.site.bundle())
    code, out, _ = office("report", "--json")
    (row,) = json.loads(out)["usage"]
    assert (code, row["customer"], row["device"], row["quantity"]) == (0, "Ward 7", office.site.origin, 5)
    assert office.site.origin in office("report", "--customer", "Ward 7", "--month", row["month"])[1]
    assert "no use was billed" in office("report", "--month", "2020-01")[1]
    code, _, err = office("report", "--customer", "Nobody")
    assert (code != 0, "customer list" in err) == (True, True)


def test_statement_is_shown_and_written(office):
    office.intake(office.site.bundle())
    month = f"{datetime.fromtimestamp(office.site.meter.now_ms / 1000, UTC):%Y-%m}"
    created = f"{now():%Y-%m}"
    words = ("statement", "--customer", office.customer.id, "--month", max(month, created))
    code, out, _ = office(*words)
    assert code == 0
    assert "Ward 7" in out
    assert out.startswith("*** EVALUATION")
    assert re.search(r"Closes .* \d{4}-\d\d-11 00:00:00 UTC", out)
    csv_file, html_file = office.folder / "s.csv", office.folder / "s.html"
    code, out, _ = office(*words, "--csv", csv_file, "--html", html_file, "--json")
    facts = json.loads(out)
    assert (code, facts["lines"][0]["used"], facts["lines"][0]["overage"]) == (0, 5, 1)
    assert csv_file.read_text().startswith("customer_id,")
    assert html_file.read_text().startswith("<!DOCTYPE html>")
    code, _, err = office("statement", "--customer", "Ward 7", "--month", "March")
    assert (code != 0, "as 2026-11" in err) == (True, True)
