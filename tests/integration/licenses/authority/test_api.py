"""The HTTP API over a real database, real keys and devices that keep real records."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import re
import sqlite3
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from licenses.ack import open_ack
from licenses.authority import database as database_module
from licenses.authority import intake
from licenses.authority.accounts import Subscription
from licenses.authority.web import bodies
from licenses.authority.web.app import create_app
from licenses.authority.web.openapi import KEY_HEADER
from licenses.authority.web.services import CallRate, Services, Uploads
from licenses.model import CONTAINER_TYPE, READ_PAGES_METER
from licenses.usage_log.fork import verify_fork
from licenses.verify import open_license
from tests.fakes.bundles import archive_of, members_of, packed, tar_member
from tests.fakes.vendor_books import FakeSite, VendorBooks

PREFIX = "/tollgate/v1"


class Office:
    """A vendor's service, and one key for it.

    Attributes:
        books: The vendor's side behind it.
        key: A key of its subscription, in the first place.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        self.books = VendorBooks(folder, **options)
        self.key = self.books.accounts.new_key(self.books.subscription_id, 1)
        self.uploads = folder / "uploads"
        self.client = self.client_of()

    def client_of(self, **changes: Any) -> FlaskClient:
        books = self.books
        services = Services(
            database=books.database,
            accounts=books.accounts,
            licensing=books.licensing,
            intake=books.intake,
            keys=books.keys,
            uploads=Uploads(self.uploads),
        )
        return create_app(dataclasses.replace(services, **changes)).test_client()

    def post(self, path: str, blob: bytes, *, kind: str = "application/json", key: str | None = None) -> TestResponse:
        headers = {KEY_HEADER: self.key if key is None else key, "Content-Type": kind}
        return self.client.post(PREFIX + path, data=blob, headers=headers)

    def license(self, key: str | None = None, **members: Any) -> TestResponse:
        return self.post("/license", json.dumps({"containerType": CONTAINER_TYPE, **members}).encode(), key=key)

    def usage(self, site: FakeSite, window: int = -1, *, key: str | None = None, **changes: Any) -> TestResponse:
        return self.post("/usage", site.body(site.report(window), **changes), key=key)

    def bundle(self, path: Path, *, key: str | None = None) -> TestResponse:
        return self.post("/bundles", path.read_bytes(), kind="application/gzip", key=key)

    def acknowledgement(self, origin: str, size: int | str = "latest", *, key: str | None = None) -> TestResponse:
        name = origin.replace("/", "%2F")
        return self.client.get(
            f"{PREFIX}/acknowledgements/{name}/{size}", headers={KEY_HEADER: self.key if key is None else key}
        )

    def another(self, container_type: str = CONTAINER_TYPE, *, approved: bool = True) -> tuple[Subscription, str]:
        """Another subscription of the same customer, and a key of it."""
        accounts = self.books.accounts
        one = accounts.add_subscription(
            self.books.customer.id, container_type=container_type, tier="tier", approved=approved
        )
        return one, accounts.new_key(one.id, 1)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    one = Office(tmp_path)
    yield one
    one.books.database.close()
    assert not one.uploads.exists() or list(one.uploads.iterdir()) == []


def refusal(answer: TestResponse) -> tuple[int, str]:
    """Status and word of an answer, which must say why and what to do."""
    told = answer.get_json()
    assert told["message"]
    assert told["nextStep"]
    assert told["code"]
    assert ("Retry-After" in answer.headers) is (answer.status_code in {429, 503})
    return answer.status_code, told["status"]


def everywhere(office: Office, site: FakeSite, key: str) -> list[TestResponse]:
    """Each route with that key."""
    return [
        office.license(key),
        office.usage(site, key=key),
        office.bundle(site.bundle(), key=key),
        office.acknowledgement(site.origin, key=key),
    ]


# ---- keys -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "wrong", "0" * 64, "é", "a" * 5000, "' OR 1=1 --"])
def test_a_wrong_key_is_invalid_everywhere(office: Office, key: str) -> None:
    site = office.books.site()
    site.meter.window(uses=1)
    for answer in everywhere(office, site, key):
        assert refusal(answer) == (401, "Invalid")
        assert len(key) < 4 or key not in answer.text
    assert office.books.billed() == 0


def test_no_key_at_all_is_invalid(office: Office) -> None:
    answer = office.client.post(f"{PREFIX}/license", json={"containerType": CONTAINER_TYPE})
    assert refusal(answer) == (401, "Invalid")
    assert KEY_HEADER in answer.get_json()["message"]


def test_a_key_that_was_revoked_or_regenerated_is_invalid_and_the_other_one_is_not(office: Office) -> None:
    site = office.books.site()
    site.meter.window(uses=1)
    accounts, subscription = office.books.accounts, office.books.subscription_id
    second = accounts.new_key(subscription, 2)
    newer = accounts.new_key(subscription, 1)
    for answer in everywhere(office, site, office.key):
        assert refusal(answer) == (401, "Invalid")
    assert office.license(second).status_code == office.license(newer).status_code == 200
    accounts.revoke_key(subscription, 2)
    assert refusal(office.license(second)) == (401, "Invalid")
    assert office.license(newer).status_code == 200


def test_a_subscription_that_is_not_approved(office: Office) -> None:
    office.books.accounts.approve(office.books.subscription_id, False)
    site = office.books.site()
    site.meter.window(uses=1)
    for answer in everywhere(office, site, office.key)[:3]:
        assert refusal(answer) == (403, "ContainerUseUnauthorized")
    assert office.books.billed() == 0
    office.books.accounts.approve(office.books.subscription_id, True)
    assert office.usage(site).status_code == 200


def test_a_key_of_another_container_type(office: Office) -> None:
    site = office.books.site()
    site.meter.window(uses=1)
    _, key = office.another("speechtotext")
    for answer in everywhere(office, site, key):
        assert refusal(answer) == (409, "Mismatch")
    assert refusal(office.license(containerType="speechtotext")) == (409, "Mismatch")
    assert office.books.billed() == 0


def test_a_key_of_another_subscription_opens_nothing_of_a_device(office: Office) -> None:
    site = office.books.site()
    site.meter.window(uses=1)
    _, key = office.another()
    for answer in everywhere(office, site, key)[1:]:
        assert refusal(answer) == (409, "Mismatch")
    assert refusal(office.license(key, enrolment=json.loads(site.enrolment()))) == (409, "Mismatch")
    assert office.books.billed() == 0


# ---- licences -------------------------------------------------------------------------------------------------------


def test_a_licence_for_any_device(office: Office) -> None:
    answer = office.license(devicePublicKey=None)
    lic = open_license(answer.data, office.books.vendor.trust_root)
    assert (lic.device_pubkey, lic.container_types) == (None, (CONTAINER_TYPE,))
    assert answer.headers["Content-Disposition"] == 'attachment; filename="license.dat"'
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("form", ["object", "base64"])
def test_a_licence_for_a_device_that_enrols_with_it(office: Office, form: str) -> None:
    site = office.books.site(enrolled=False)
    blob = site.enrolment()
    sent = json.loads(blob) if form == "object" else base64.b64encode(blob).decode()
    answer = office.license(enrolment=sent)
    lic = open_license(answer.data, office.books.vendor.trust_root)
    assert lic.device_pubkey == site.meter.device.verifying.raw
    assert office.books.licensing.devices.one(site.origin).enrolment == blob
    again = office.license(enrolment=sent, devicePublicKey=site.meter.device.verifying.raw.hex())
    assert again.data == answer.data


def test_an_enrolment_that_was_changed_enrols_nobody(office: Office) -> None:
    site = office.books.site(enrolled=False)
    members = json.loads(site.enrolment())
    members["signatures"][0]["sig"] = base64.b64encode(bytes(64)).decode()
    assert refusal(office.license(enrolment=members)) == (409, "Mismatch")
    assert office.books.licensing.devices.all() == []


@pytest.mark.parametrize(
    "members",
    [
        {"enrollment": "x"},
        {"enrolment": "not base64!"},
        {"enrolment": "aGVsbG8="},
        {"enrolment": 7},
        {"enrolment": {"payload": "x"}},
        {"devicePublicKey": "00"},
        {"devicePublicKey": "zz" * 32},
        {"containerType": ""},
        {"containerType": None},
        {"containerType": "\x00"},
    ],
)
def test_a_request_that_is_not_as_described_is_refused(office: Office, members: dict[str, Any]) -> None:
    assert refusal(office.license(**members)) == (400, "Unknown")


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"containerType": "a", "containerType": "b"}',
        b"[" * 10_000,
        b'{"a":1e999}',
        b"{} x",
    ],
)
@pytest.mark.parametrize("path", ["/license", "/usage"])
def test_what_is_no_such_json_is_refused(office: Office, path: str, blob: bytes) -> None:
    assert refusal(office.post(path, blob)) == (400, "Unknown")


@pytest.mark.parametrize("path", ["/license", "/usage", "/bundles"])
def test_bodies_of_another_kind_are_refused(office: Office, path: str) -> None:
    assert refusal(office.post(path, b"x", kind="text/plain")) == (415, "Unknown")


@pytest.mark.parametrize("path", ["/license", "/usage"])
def test_json_that_is_too_large_is_refused(office: Office, path: str) -> None:
    blob = b" " * (bodies.MAX_BODY_BYTES + 1)
    assert refusal(office.post(path, blob)) == (413, "Unknown")


# ---- reports --------------------------------------------------------------------------------------------------------


def test_a_report_is_billed_once_however_often_it_comes(office: Office) -> None:
    site = office.books.site()
    site.meter.window(uses=3)
    first = office.usage(site).get_json()
    assert first == {
        "status": "Valid",
        "id": site.report().id,
        "billed": [{"name": READ_PAGES_METER, "quantity": 3}],
        "repeated": False,
        "size": site.windows[-1][1],
    }
    assert office.usage(site).get_json() == {**first, "billed": [], "repeated": True}
    assert office.books.billed(site.origin) == 3


def test_reports_in_any_order(office: Office) -> None:
    site = office.books.site()
    for uses in (1, 0, 4):
        site.meter.window(uses=uses)
    for window in (2, 0, 2, 1, 0):
        assert office.usage(site, window).status_code == 200
    assert office.books.billed(site.origin) == 5


def test_use_of_a_container_that_keeps_no_log(office: Office) -> None:
    body = {
        "id": "5B1E5F0E-2c77-4c0e-8f7d-6a3f0f7f9b10",
        "containerType": CONTAINER_TYPE,
        "containerVersion": "3.2.0-local",
        "containerId": "c0ffee123456",
        "meter": {"name": READ_PAGES_METER, "quantity": 12.0},
        "requestTime": 1893456000,
        "apiType": "computervision",
    }
    first = office.post("/usage", json.dumps(body).encode()).get_json()
    assert (first["billed"], first["size"]) == ([{"name": READ_PAGES_METER, "quantity": 12}], 0)
    assert office.post("/usage", json.dumps(body).encode()).get_json()["repeated"]
    other = {**body, "meter": {"name": READ_PAGES_METER, "quantity": 13}}
    assert refusal(office.post("/usage", json.dumps(other).encode())) == (409, "Mismatch")
    assert office.books.billed() == 12


def test_a_report_of_a_device_that_nobody_enrolled(office: Office) -> None:
    site = office.books.site(enrolled=False)
    site.meter.window(uses=1)
    assert refusal(office.usage(site)) == (409, "Mismatch")


def test_a_report_that_another_device_signed(office: Office) -> None:
    one, other = office.books.site(), office.books.site()
    one.meter.window(uses=1)
    other.meter.window(uses=1)
    members = json.loads(one.body(one.report()))
    members["report"]["payload"] = json.loads(other.body(other.report()))["report"]["payload"]
    assert refusal(office.post("/usage", json.dumps(members).encode())) == (409, "Mismatch")
    assert office.books.billed() == 0


def test_a_body_that_says_other_than_the_report_in_it(office: Office) -> None:
    site = office.books.site()
    site.meter.window(uses=3)
    status, word = refusal(office.usage(site, quantity=2))
    assert (status, word) == (400, "Unknown")
    assert office.books.billed() == 0


def test_two_machines_of_one_image_are_a_fork_with_its_proof(office: Office) -> None:
    site = office.books.site()
    site.meter.window(uses=1)
    twin = site.copy()
    site.meter.window(uses=2)
    twin.meter.window(uses=2)
    assert office.usage(site, 0).status_code == office.usage(site).status_code == 200
    answer = office.post("/usage", twin.body(twin.report(id="5b1e5f0e-2c77-4c0e-8f7d-6a3f0f7f9b10")))
    assert refusal(answer) == (409, "Mismatch")
    told = answer.get_json()
    assert told["code"] == "ledger_fork"
    assert verify_fork(told["proof"].encode(), site.meter.device.verifying).origin == site.origin
    assert told["proofName"].startswith("fork-")
    assert office.books.billed(site.origin) == 3


def test_use_beyond_a_commitment_without_overage_is_told_and_kept(tmp_path: Path) -> None:
    office = Office(tmp_path, quantity=4, overage_allowed=False)
    site = office.books.site()
    site.meter.window(uses=3)
    assert office.usage(site).status_code == 200
    site.meter.window(uses=3)
    assert refusal(office.usage(site)) == (402, "OutOfQuota")
    assert refusal(office.usage(site)) == (402, "OutOfQuota")
    assert office.books.billed(site.origin) == 6


# ---- bundles and acknowledgements -----------------------------------------------------------------------------------


def test_a_bundle_comes_back_as_its_acknowledgement_and_the_same_again(office: Office) -> None:
    site = office.books.site()
    site.meter.window(uses=3)
    path = site.bundle()
    first = office.bundle(path)
    ack = open_ack(first.data, office.books.vendor.trust_root, device=site.meter.device.verifying)
    assert (ack.origin, ack.size) == (site.origin, site.windows[-1][1])
    assert first.headers["Content-Disposition"] == f'attachment; filename="{ack.file_name}"'
    told = {name: first.headers[f"Tollgate-{name}"] for name in ("Billed", "Repeated", "Missing", "Findings")}
    assert told == {"Billed": f"{READ_PAGES_METER}=3", "Repeated": "false", "Missing": "", "Findings": "0"}
    again = office.bundle(path)
    assert again.data == first.data
    assert (again.headers["Tollgate-Billed"], again.headers["Tollgate-Repeated"]) == ("", "true")
    assert office.books.billed(site.origin) == 3


def test_a_bundle_after_reports_bills_only_what_they_did_not_tell(office: Office) -> None:
    site = office.books.site()
    site.meter.window(uses=3)
    assert office.usage(site).status_code == 200
    site.meter.window(uses=2)
    assert office.bundle(site.bundle()).headers["Tollgate-Billed"] == f"{READ_PAGES_METER}=2"
    assert office.books.billed(site.origin) == 5


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Seiten-\u4e16", "Seiten-%E4%B8%96=5"),
        ("a,b=1", "a%2Cb%3D1=5"),
        ("100% +", "100%25%20%2B=5"),
        ("x" * 128, "x" * 128 + "=5"),
    ],
)
def test_what_was_billed_is_told_whatever_the_meter_is_called(office: Office, name: str, told: str) -> None:
    site = office.books.site()
    _use(site, name)
    site.meter.window()
    answer = office.bundle(site.bundle())
    assert answer.status_code == 200, answer.text
    assert answer.headers["Tollgate-Billed"] == told
    assert unquote(told.rpartition("=")[0]) == name
    assert office.books.billed(site.origin) == 5


def test_what_was_billed_is_told_in_part_where_it_is_too_long_for_a_header(office: Office) -> None:
    site = office.books.site()
    for number in range(60):
        _use(site, f"{number:02}" + "\u4e16" * 40)
        if number % 20 == 19:
            site.meter.window()
    answer = office.bundle(site.bundle())
    assert answer.status_code == 200, answer.text
    listed = answer.headers["Tollgate-Billed"].split(",")
    assert listed[-1] == "..."
    assert 5 < len(listed) < 60
    assert all(one.endswith("%96=5") for one in listed[:-1])
    assert office.books.billed(site.origin) == 5 * 60


def _use(site: FakeSite, meter: str) -> None:
    """Five units on a meter of that name."""
    site.meter.entry(
        "use",
        apiType="computervision",
        containerId=site.meter.instance,
        containerType="ComputerVision.ComputerVisionRead",
        containerVersion="0.1.0",
        id=str(uuid.uuid4()),
        page=1,
        meter={"name": meter, "quantity": 5},
        requestTime=site.meter.now_ms // 1000,
    )


def test_a_bundle_with_the_next_licence(office: Office) -> None:
    site = office.books.site()
    office.license(enrolment=json.loads(site.enrolment()))
    site.meter.window(uses=1)
    office.books.at += timedelta(days=350)
    ack = open_ack(office.bundle(site.bundle()).data, office.books.vendor.trust_root)
    assert ack.license is not None
    lic = open_license(ack.license, office.books.vendor.trust_root)
    assert lic.device_pubkey == site.meter.device.verifying.raw


def test_a_bundle_without_what_came_before_is_taken_in_but_not_acknowledged(office: Office) -> None:
    site = office.books.site()
    site.meter.window(uses=1)
    middle = site.windows[-1][1]
    site.meter.window(uses=2)
    answer = office.bundle(site.bundle(since=middle))
    assert refusal(answer) == (409, "Mismatch")
    assert answer.get_json()["code"] == "exchange_refused"
    assert f"[0, {middle})" in answer.get_json()["message"]
    assert office.books.billed(site.origin) == 2
    assert office.bundle(site.bundle()).status_code == 200
    assert office.books.billed(site.origin) == 3


def test_bundles_that_were_changed_are_refused_and_leave_nothing(office: Office, tmp_path: Path) -> None:
    site = office.books.site()
    site.meter.window(uses=2)
    before = dict(office.books.rows())
    blob = site.bundle().read_bytes()
    for place in range(0, len(blob), max(1, len(blob) // 25)):
        changed = blob[:place] + bytes([blob[place] ^ 0x55]) + blob[place + 1 :]
        answer = office.post("/bundles", changed, kind="application/gzip")
        assert refusal(answer)[1] in {"Mismatch", "Unknown"}
        assert answer.status_code in {400, 409}
    assert refusal(office.post("/bundles", blob[:-9], kind="application/gzip"))[0] in {400, 409}
    assert refusal(office.post("/bundles", b"", kind="application/gzip"))[0] in {400, 409}
    assert dict(office.books.rows()) == before


def test_a_bundle_larger_than_the_service_takes(office: Office) -> None:
    site = office.books.site()
    site.meter.window(uses=2)
    office.client = office.client_of(uploads=Uploads(office.uploads, max_bytes=100))
    answer = office.bundle(site.bundle())
    assert refusal(answer) == (413, "Unknown")
    assert answer.get_json()["code"] == "request_too_large"


def test_acknowledgements_are_fetched_again_by_name_and_by_device(office: Office) -> None:
    site = office.books.site()
    site.meter.window(uses=1)
    blob = office.bundle(site.bundle()).data
    size = site.windows[-1][1]
    device = site.origin.rpartition("/")[2]
    for name, wanted in ((site.origin, size), (site.origin, "latest"), (device, size), (device, "latest")):
        answer = office.acknowledgement(name, wanted)
        assert answer.data == blob
        assert f"-{size}.dsse.json" in answer.headers["Content-Disposition"]


def test_reports_are_acknowledged_too(office: Office) -> None:
    site = office.books.site()
    site.meter.window(uses=3)
    assert office.usage(site).status_code == 200
    answer = office.acknowledgement(site.origin)
    ack = open_ack(answer.data, office.books.vendor.trust_root, device=site.meter.device.verifying)
    assert (ack.size, dict(ack.totals)) == (site.windows[-1][1], {READ_PAGES_METER: 3})


@pytest.mark.parametrize(
    ("origin", "size"),
    [("nobody", "1"), ("0" * 16, "x"), ("0" * 16, "-1"), ("0" * 16, "01"), ("..", "1"), ("a/../" + "0" * 16, "1")],
)
def test_an_acknowledgement_of_no_such_name(office: Office, origin: str, size: str) -> None:
    assert refusal(office.acknowledgement(origin, size)) == (404, "Unknown")


def test_an_acknowledgement_that_there_is_not(office: Office) -> None:
    site = office.books.site()
    assert refusal(office.acknowledgement("0" * 16)) == (409, "Mismatch")
    assert refusal(office.acknowledgement(site.origin)) == (409, "Mismatch")
    site.meter.window(uses=1)
    office.bundle(site.bundle())
    assert refusal(office.acknowledgement(site.origin, 999)) == (409, "Mismatch")


# ---- when this side is in trouble -----------------------------------------------------------------------------------


def test_a_subscription_that_calls_too_often(office: Office) -> None:
    office.client = office.client_of(calls=CallRate(0.1, 2))
    assert [office.license().status_code for _ in range(2)] == [200, 200]
    answer = office.license()
    assert refusal(answer) == (429, "BillingEndpointBusy")
    assert answer.headers["Retry-After"] == "10"
    _, key = office.another()
    assert office.license(key).status_code == 200


def test_a_database_that_others_keep_busy(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    site = office.books.site()
    site.meter.window(uses=1)
    office.books.database.close()
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.05)
    other = sqlite3.connect(office.books.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    answer = office.usage(site)
    assert refusal(answer) == (503, "BillingEndpointBusy")
    assert answer.headers["Retry-After"] == str(database_module.RETRY_SECONDS)
    assert str(office.books.folder) not in answer.text
    assert office.client.get(f"{PREFIX}/health").status_code == 200
    other.execute("ROLLBACK")
    assert office.usage(site).get_json()["repeated"] is False


def test_a_disk_that_is_full_for_a_bundle(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    site = office.books.site()
    site.meter.window(uses=1)
    with monkeypatch.context() as patch:
        patch.setattr(bodies, "RESERVE_BYTES", 2**62)
        answer = office.bundle(site.bundle())
    assert refusal(answer) == (503, "Unknown")
    assert "No space left" in answer.get_json()["message"]
    assert office.bundle(site.bundle()).status_code == 200


def test_a_disk_that_is_too_full_to_unpack_a_bundle(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    site = office.books.site()
    site.meter.window(uses=1)
    with monkeypatch.context() as patch:
        patch.setattr(intake, "RESERVE_BYTES", 2**62)
        answer = office.bundle(site.bundle())
    assert refusal(answer) == (503, "Unknown")
    assert str(office.books.folder) not in answer.text
    assert office.bundle(site.bundle()).status_code == 200


def test_keys_that_cannot_be_read(office: Office) -> None:
    for path in office.books.keys_folder.glob("*.key"):
        path.unlink()
    answer = office.license()
    assert refusal(answer) == (503, "Unknown")
    assert str(office.books.folder) not in answer.text


def test_health(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = office.client.get(f"{PREFIX}/health")
    assert answer.get_json()["status"] == "Valid"
    office.books.database.close()
    office.books.path.write_bytes(b"no database" * 1000)
    assert refusal(office.client.get(f"{PREFIX}/health")) == (503, "Unknown")


def test_the_log_tells_who_and_what_and_no_key(office: Office, capsys: pytest.CaptureFixture[str]) -> None:
    site = office.books.site()
    site.meter.window(uses=1)
    office.usage(site)
    office.license("sesame")
    said = capsys.readouterr()
    text = said.out + said.err
    assert office.books.subscription_id in text
    assert site.origin in text
    assert office.key not in text
    assert "sesame" not in text


# ---- next steps that fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("blob", "cause"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"{", "not JSON"),
        (b"nonsense", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"id": 1, "id": 2}', "same member twice"),
        (b'{"id": 1.5}', "is not an integer"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 50_000, "nested deeper"),
    ],
)
@pytest.mark.parametrize("path", ["/license", "/usage"])
def test_what_is_no_json_is_told_to_who_sends_requests(office: Office, path: str, blob: bytes, cause: str) -> None:
    answer = office.post(path, blob)
    assert refusal(answer) == (400, "Unknown")
    told = answer.get_json()
    assert told["code"] == "license_format"
    assert re.search(f"^the request's body .*{cause}", told["message"])
    assert "docs/protocol.md" in told["nextStep"]


def test_a_report_or_an_enrolment_that_is_malformed_sends_nobody_for_a_file(office: Office) -> None:
    site = office.books.site()
    site.meter.window(uses=1)
    report = json.loads(site.body(site.report()))
    report["report"]["payload"] = base64.b64encode(b'{"schema": 1}').decode()
    answer = office.post("/usage", json.dumps(report).encode())
    assert "docs/protocol.md" in answer.get_json()["nextStep"] or answer.get_json()["code"] == "bad_signature"
    report = json.loads(site.body(site.report()))
    report["meter"]["quantity"] = 7
    answer = office.post("/usage", json.dumps(report).encode())
    assert answer.get_json()["code"] == "license_format"
    assert "docs/protocol.md" in answer.get_json()["nextStep"]
    for other in ({"enrolment": "AAAA"}, {"enrolment": {"payloadType": "x", "payload": "", "signatures": []}}):
        answer = office.license(**other)
        assert refusal(answer) == (400, "Unknown")
        assert "no enrolment" in answer.get_json()["message"]
        assert "licenses request" in answer.get_json()["nextStep"]


def test_an_empty_or_changed_bundle_is_told_what_is_wrong_with_it(office: Office) -> None:
    site = office.books.site()
    site.meter.window(uses=1)
    path = site.bundle()
    answer = office.post("/bundles", b"", kind="application/gzip")
    assert refusal(answer) == (409, "Mismatch")
    assert "is empty" in answer.get_json()["message"]
    assert "sidecar usage export" in answer.get_json()["nextStep"]
    members = members_of(archive_of(path))
    record = next(name for name, _ in members if name.endswith(".jsonl"))
    changed = [(name, kept.replace(b'"quantity":1', b'"quantity":9')) for name, kept in members]
    assert changed != members
    archive = b"".join(tar_member(*one) for one in changed) + bytes(1024)
    for blob in (packed(archive), gzip.compress(archive)):
        answer = office.post("/bundles", blob, kind="application/gzip")
        assert refusal(answer) == (409, "Mismatch")
        assert f"{record} is not the file that the manifest tells of" in answer.get_json()["message"]
    assert office.books.billed() == 0
