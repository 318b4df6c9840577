"""The clerk's pages through Flask's client: what is let in, what is done in whose name, and what attacks come to."""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from licenses.authority.clerk_access import ClerkAccess, TrustedProxy
from licenses.authority.clerk_sessions import IDLE, TRIES_FROM_ONE_PLACE, TRIES_WITHIN
from licenses.authority.passwords import Cost, PasswordFile
from licenses.authority.proxies import NO_PROXIES, Proxies
from licenses.authority.web.app import create_app
from licenses.authority.web.services import ClerkOffice, Services, Uploads
from licenses.enrolment import open_enrolment
from licenses.errors import ConflictError
from licenses.model import CONTAINER_TYPE, READ_PAGES_METER
from licenses.usage_log.fork import verify_fork
from licenses.usage_report import UsageRequest
from licenses.verify import open_license
from tests.fakes.licences import NOW
from tests.fakes.vendor_books import VendorBooks

PASSWORD = "four words nobody joins"
CHEAP = Cost(memory_kib=8, passes=1, lanes=1)
HOME = "http://localhost"
HOSTILE = "</title><script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}"


class Vendor:
    """A vendor's service with the clerk's pages.

    Attributes:
        books: The vendor's side behind it; its clock is set by hand.
        passwords: The clerks' passwords.
        uploads: The folder in which files lie while they are looked at.
    """

    def __init__(
        self,
        folder: Path,
        *,
        listen: str = "127.0.0.1:8400",
        proxy: TrustedProxy | None = None,
        forwarders: Proxies = NO_PROXIES,
        max_bytes: int = 2**21,
    ) -> None:
        self.books = VendorBooks(folder)
        self.passwords = PasswordFile(folder / "passwords", cost=CHEAP)
        self.uploads = folder / "uploads"
        access = ClerkAccess(listen=listen, passwords=self.passwords, proxy=proxy, forwarders=forwarders)
        self.app = create_app(
            Services(
                database=self.books.database,
                accounts=self.books.accounts,
                licensing=self.books.licensing,
                intake=self.books.intake,
                keys=self.books.keys,
                uploads=Uploads(self.uploads, max_bytes=max_bytes),
                clerk=ClerkOffice(access=access, trail=self.books.trail, clock=self.books.clock),
            )
        )

    def browser(self, peer: str = "127.0.0.1") -> Visit:
        return Visit(self.app.test_client(), peer)

    def close(self) -> None:
        self.books.database.close()
        assert not self.uploads.exists() or list(self.uploads.iterdir()) == []


class Visit:
    """A browser: cookies, the forms of the page that is open, and the headers that browsers send."""

    def __init__(self, client: FlaskClient, peer: str) -> None:
        self.client = client
        self.peer = peer
        self.headers: dict[str, str] = {}
        self.page: TestResponse | None = None
        self._token = ""

    def open(self, path: str, **more: Any) -> TestResponse:
        return self._keep(self.client.get(path, **self._facts(more)))

    def send(self, path: str, *, headers: dict[str, str] | None = None, **fields: Any) -> TestResponse:
        """Send a form of the open page, with its token."""
        fields = {"token": self.token(), **fields}
        headers = {"Origin": HOME, "Sec-Fetch-Site": "same-origin", **(headers or {})}
        return self._keep(self.client.post(path, data=fields, **self._facts({"headers": headers})))

    def drop(self, path: str, field: str, blob: bytes, *, name: str = "file.tar.gz", **fields: Any) -> TestResponse:
        """Send a form with a file."""
        return self.send(path, **fields, **{field: (io.BytesIO(blob), name)})

    def token(self) -> str:
        """That of the last page that had a form."""
        return self._token

    def log_in(self, name: str = "anna", password: str = PASSWORD, next_page: str = "/clerk/") -> TestResponse:
        self.open(f"/clerk/login?next={next_page}")
        return self.send("/clerk/login", name=name, password=password, next=next_page)

    def cookie(self, name: str = "tollgate-clerk") -> str | None:
        found = self.client.get_cookie(name, path="/clerk")
        return None if found is None else found.value

    def _facts(self, more: dict[str, Any]) -> dict[str, Any]:
        headers = {**self.headers, **more.pop("headers", {})}
        return {"environ_base": {"REMOTE_ADDR": self.peer}, "headers": headers, **more}

    def _keep(self, answer: TestResponse) -> TestResponse:
        self.page = answer
        found = re.search(r'name="token" value="([0-9a-f]{64})"', answer.text)
        self._token = found[1] if found else self._token
        return answer


@pytest.fixture
def vendor(tmp_path: Path) -> Iterator[Vendor]:
    one = Vendor(tmp_path)
    one.passwords.set("anna", PASSWORD)
    yield one
    one.close()


@pytest.fixture
def visit(vendor: Vendor) -> Visit:
    one = vendor.browser()
    assert one.log_in().status_code == 303
    return one


def told(answer: TestResponse) -> str:
    """What a page says, without its tags."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", answer.text)).split())


# ---- being let in ---------------------------------------------------------------------------------------------------


PAGES = ["", "bundles", "customers", "licences", "devices", "statements", "findings", "trail", "tiers"]


def test_nothing_is_shown_to_who_is_not_logged_in(vendor: Vendor) -> None:
    for path in (*PAGES, "customers/c-1", "devices/x/y", "nowhere", "statements/c-1/2027-01.csv"):
        answer = vendor.browser().open(f"/clerk/{path}")
        assert answer.status_code == 303
        assert answer.headers["Location"] == f"/clerk/login?next=/clerk/{path}"
        assert "Example" not in answer.text


def test_every_page_is_shown_to_a_clerk_and_says_where_it_is(visit: Visit) -> None:
    for path in PAGES:
        answer = visit.open(f"/clerk/{path}")
        assert answer.status_code == 200, told(answer)
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert answer.text.count('aria-current="page"') == 1
        assert answer.text.count("<h1") == 1


def test_the_root_leads_a_browser_here_and_is_nothing_to_a_program(vendor: Vendor) -> None:
    html = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    answer = vendor.browser().open("/", headers=html)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/clerk/")
    for headers in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
        answer = vendor.browser().open("/", headers=headers)
        assert (answer.status_code, answer.get_json()["code"]) == (404, "not_found")


def test_login_goes_to_the_page_that_was_asked_for(vendor: Vendor) -> None:
    one = vendor.browser()
    answer = one.log_in(next_page="/clerk/devices")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/clerk/devices")
    assert "Audit trail" in told(one.open("/clerk/"))


@pytest.mark.parametrize(
    "place", ["https://evil.example/", "//evil.example", "/\\evil.example", "/clerk/\\evil", "javascript:alert(1)", ""]
)
def test_login_leads_nowhere_else(vendor: Vendor, place: str) -> None:
    assert vendor.browser().log_in(next_page=place).headers["Location"] == "/clerk/"


def test_who_would_send_a_password_in_clear_is_told(vendor: Vendor) -> None:
    assert "not encrypted" in told(vendor.browser("192.0.2.7").open("/clerk/login"))
    assert "not encrypted" in told(vendor.browser("2001:db8::1").open("/clerk/login"))
    for peer in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        assert "not encrypted" not in told(vendor.browser(peer).open("/clerk/login"))
    answer = vendor.app.test_client().get(
        "/clerk/login", base_url="https://localhost", environ_base={"REMOTE_ADDR": "192.0.2.7"}
    )
    assert "not encrypted" not in told(answer)


def test_wrong_name_and_wrong_password_are_told_apart_by_nothing(vendor: Vendor) -> None:
    texts = set()
    for name, password in (("anna", "wrong"), ("bert", PASSWORD)):
        answer = vendor.browser().log_in(name=name, password=password)
        assert answer.status_code == 403
        assert "Set-Cookie" not in answer.headers or "tollgate-clerk" not in answer.headers["Set-Cookie"]
        texts.add(re.sub(r'value="[^"]*"', "", answer.text))
    assert len(texts) == 1


def test_login_and_logout_are_in_the_trail_and_passwords_are_nowhere(vendor: Vendor, visit: Visit) -> None:
    visit.open("/clerk/")
    assert visit.send("/clerk/logout").status_code == 303
    assert visit.open("/clerk/").status_code == 303
    lines = [(line.actor, line.action) for line in vendor.books.trail.lines(limit=2)]
    assert lines == [("clerk:anna", "clerk.logout"), ("clerk:anna", "clerk.login")]
    assert PASSWORD.encode() not in b"".join(
        path.read_bytes() for path in vendor.books.database.path.parent.glob("*.db*")
    )


def test_a_session_ends_with_time_and_with_the_password(vendor: Vendor, visit: Visit) -> None:
    vendor.books.at += IDLE - timedelta(seconds=1)
    assert visit.open("/clerk/").status_code == 200
    vendor.passwords.set("anna", PASSWORD)
    assert visit.open("/clerk/").status_code == 303
    visit.log_in()
    assert visit.open("/clerk/").status_code == 200
    vendor.books.at += IDLE
    assert visit.open("/clerk/").status_code == 303
    answer = visit.send("/clerk/customers", name="Nobody's")
    assert answer.status_code == 403
    assert "not logged in" in told(answer)
    assert len(vendor.books.accounts.customers()) == 1


def test_a_removed_clerk_is_out_at_once(vendor: Vendor, visit: Visit) -> None:
    vendor.passwords.set("bert", PASSWORD)
    vendor.passwords.remove("anna")
    assert visit.open("/clerk/").status_code == 303


@pytest.mark.parametrize("listen", ["127.0.0.1:8400", "0.0.0.0:8400"])
def test_the_page_is_closed_until_a_password_is_set(tmp_path: Path, listen: str) -> None:
    vendor = Vendor(tmp_path, listen=listen)
    for answer in (vendor.browser().open("/clerk/"), vendor.browser().open("/clerk/login")):
        assert answer.status_code == 403
        assert "no clerk has a password" in told(answer).lower()
        assert "licenses authority password" in told(answer)
        assert "<form" not in answer.text
    vendor.passwords.set("anna", PASSWORD)
    assert vendor.browser().open("/clerk/login").status_code == 200
    assert vendor.browser().log_in().status_code == 303


def test_a_password_file_that_cannot_be_believed_is_named_in_the_log_alone(
    vendor: Vendor, capsys: pytest.CaptureFixture[str]
) -> None:
    vendor.passwords.path.chmod(0o644)
    answer = vendor.browser().open("/clerk/login")
    assert answer.status_code == 503
    assert str(vendor.passwords.path) not in answer.text
    assert str(vendor.passwords.path) in "".join(capsys.readouterr())


# ---- a proxy's word -------------------------------------------------------------------------------------------------


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[Vendor]:
    one = Vendor(tmp_path, listen="0.0.0.0:8400", proxy=TrustedProxy.from_words("X-Remote-User", ["10.0.0.5"]))
    yield one
    one.close()


def test_a_listed_proxy_names_the_clerk(proxied: Vendor) -> None:
    one = proxied.browser("10.0.0.5")
    one.headers = {"X-Remote-User": "berta@vendor.example"}
    assert one.open("/clerk/customers").status_code == 200
    assert one.send("/clerk/customers", name="Hospital").status_code == 303
    assert proxied.books.trail.lines(limit=1)[0].actor == "clerk:berta@vendor.example"
    assert "Log out" not in told(one.open("/clerk/"))


def test_a_proxys_clerk_needs_the_token_all_the_same(proxied: Vendor) -> None:
    one = proxied.browser("10.0.0.5")
    one.headers = {"X-Remote-User": "berta"}
    one.open("/clerk/customers")
    for token in ("", "0" * 64):
        assert one.send("/clerk/customers", name="Hospital", token=token).status_code == 403
    assert len(proxied.books.accounts.customers()) == 1


@pytest.mark.parametrize("peer", ["10.0.0.6", "127.0.0.1", "::1"])
def test_the_header_from_elsewhere_is_nothing(proxied: Vendor, peer: str) -> None:
    one = proxied.browser(peer)
    one.headers = {"X-Remote-User": "berta"}
    assert one.open("/clerk/customers").status_code == 303


def test_the_header_is_nothing_unless_it_was_switched_on(vendor: Vendor) -> None:
    one = vendor.browser("10.0.0.5")
    one.headers = {"X-Remote-User": "anna", "X-Forwarded-User": "anna", "Remote-User": "anna"}
    assert one.open("/clerk/customers").status_code == 303


def test_a_proxy_that_names_nobody_gets_a_cause_and_no_login(proxied: Vendor) -> None:
    answer = proxied.browser("10.0.0.5").open("/clerk/customers")
    assert answer.status_code == 403
    assert "X-Remote-User" in told(answer)


def test_behind_a_tls_proxy_cookies_are_bound_to_host_and_tls(proxied: Vendor) -> None:
    proxied.passwords.set("anna", PASSWORD)
    one = proxied.browser("10.0.0.5")
    one.headers = {"X-Forwarded-Proto": "https", "X-Remote-User": "berta"}
    cookie = one.open("/clerk/").headers["Set-Cookie"]
    assert cookie.startswith("__Host-tollgate-form=")
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=Strict"} <= set(cookie.split("; "))
    other = proxied.browser("10.0.0.6")
    other.headers = {"X-Forwarded-Proto": "https"}
    assert "Secure" not in other.open("/clerk/login").headers["Set-Cookie"]


@pytest.fixture
def forwarded(tmp_path: Path) -> Iterator[Vendor]:
    forwarders = Proxies.from_words(["10.0.0.5", "10.0.8.0/28"], danger="")
    one = Vendor(tmp_path, listen="0.0.0.0:8400", forwarders=forwarders)
    one.passwords.set("anna", PASSWORD)
    yield one
    one.close()


def _from(vendor: Vendor, client: str, *, peer: str = "10.0.0.5", proto: str = "https") -> Visit:
    """A browser that a proxy stands before."""
    one = vendor.browser(peer)
    one.headers = {"X-Forwarded-For": client, "X-Forwarded-Proto": proto}
    return one


def test_behind_a_proxy_a_guesser_keeps_himself_out_and_nobody_else(forwarded: Vendor) -> None:
    guesses = [_from(forwarded, "192.0.2.7").log_in(password="wrong guess").status_code for _ in range(7)]
    assert guesses == [403] * TRIES_FROM_ONE_PLACE + [429, 429]
    assert _from(forwarded, "198.51.100.1, 192.0.2.7").log_in().status_code == 429  # what he writes himself is nothing
    assert _from(forwarded, "192.0.2.7, 10.0.8.3").log_in().status_code == 429
    assert _from(forwarded, "192.0.2.8").log_in().status_code == 303


def test_a_forwarded_address_from_elsewhere_is_nothing(forwarded: Vendor) -> None:
    guesses = [
        _from(forwarded, f"198.51.100.{number}", peer="10.0.0.6").log_in(password="wrong guess").status_code
        for number in range(6)
    ]
    assert guesses == [403] * TRIES_FROM_ONE_PLACE + [429]


def test_cookies_are_bound_to_tls_when_a_listed_proxy_says_so(forwarded: Vendor) -> None:
    answers = [
        _from(forwarded, "192.0.2.8").open("/clerk/login"),
        _from(forwarded, "192.0.2.8").log_in(),
    ]
    for answer in answers:
        cookie = answer.headers["Set-Cookie"]
        assert cookie.startswith("__Host-tollgate-")
        assert {"Secure", "HttpOnly", "Path=/", "SameSite=Strict"} <= set(cookie.split("; "))
    for one in (_from(forwarded, "192.0.2.8", proto="http"), _from(forwarded, "192.0.2.8", peer="10.0.0.6")):
        assert "Secure" not in one.open("/clerk/login").headers["Set-Cookie"]


@pytest.mark.parametrize(
    ("peer", "proto", "readable", "unknown"),
    [
        ("10.0.0.5", "https", False, False),
        ("10.0.0.5", "http", True, False),
        ("10.0.0.6", "https", True, True),
        ("127.0.0.1", "https", False, True),
    ],
)
def test_the_login_tells_what_is_amiss_with_the_way_to_it(
    forwarded: Vendor, peer: str, proto: str, readable: bool, unknown: bool
) -> None:
    text = told(_from(forwarded, "192.0.2.8", peer=peer, proto=proto).open("/clerk/login"))
    assert ("not encrypted" in text) is readable
    assert ("licenses authority serve --proxy" in text) is unknown
    assert "--proxy" not in told(forwarded.browser(peer).open("/clerk/login"))


# ---- what a clerk does ----------------------------------------------------------------------------------------------


def test_a_customer_from_nothing_to_a_key(vendor: Vendor, visit: Visit) -> None:
    visit.open("/clerk/tiers")
    answer = visit.send(
        "/clerk/tiers", name="read-5k", meter=READ_PAGES_METER, quantity="5,000", period="month", overage="yes"
    )
    assert "read-5k" in told(visit.open(answer.headers["Location"]))
    visit.open("/clerk/customers")
    place = visit.send("/clerk/customers", name="  Ministry of Records ").headers["Location"]
    assert "The customer was added." in told(visit.open(place))
    customer = next(one for one in vendor.books.accounts.customers() if one.name == "Ministry of Records")
    fields = {"container_type": CONTAINER_TYPE, "tier": "read-5k", "approved": "yes"}
    answer = visit.send(f"/clerk/customers/{customer.id}/subscriptions", **fields)
    page = told(visit.open(answer.headers["Location"]))
    assert "5,000 pages a month, more is served and billed" in page
    (subscription,) = vendor.books.accounts.subscriptions(customer.id)
    visit.open(f"/clerk/subscriptions/{subscription.id}/keys/1")
    answer = visit.send(f"/clerk/subscriptions/{subscription.id}/keys/1", replaces="")
    (key,) = re.findall(r"\b[0-9a-f]{64}\b", answer.text.replace(visit.token(), ""))
    assert vendor.books.accounts.subscription_of_key(key) == subscription
    actions = [(line.actor, line.action) for line in vendor.books.trail.lines(limit=4)]
    assert actions == [
        ("clerk:anna", "key.new"),
        ("clerk:anna", "subscription.add"),
        ("clerk:anna", "customer.add"),
        ("clerk:anna", "tier.add"),
    ]


def test_a_key_is_shown_once_and_sending_the_form_again_ends_nothing(vendor: Vendor, visit: Visit) -> None:
    accounts, subscription = vendor.books.accounts, vendor.books.subscription_id
    old = accounts.new_key(subscription, 1)
    place = f"/clerk/subscriptions/{subscription}/keys/1"
    shown = accounts.keys(subscription)[0].fingerprint
    assert f"{shown}…" in told(visit.open(place))
    answer = visit.send(place, replaces=shown)
    assert answer.headers["Cache-Control"] == "no-store"
    (key,) = re.findall(r"\b[0-9a-f]{64}\b", answer.text.replace(visit.token(), ""))
    assert key != old
    again = visit.send(place, replaces=shown)
    assert again.status_code == 409
    assert "another one by now" in told(again)
    assert accounts.subscription_of_key(key).id == subscription
    for path in (place, f"/clerk/customers/{vendor.books.customer.id}", "/clerk/trail", "/clerk/"):
        assert key not in visit.open(path).text
    fingerprint = accounts.keys(subscription)[0].fingerprint
    visit.open(place)
    assert visit.send(f"{place}/revocation", replaces=fingerprint).status_code == 303
    assert accounts.keys(subscription)[0].fingerprint == ""


def test_approval_and_tier_are_changed_in_the_clerks_name(vendor: Vendor, visit: Visit) -> None:
    accounts, subscription = vendor.books.accounts, vendor.books.subscription_id
    accounts.add_tier("other", meter=READ_PAGES_METER, quantity=7, period="month", overage_allowed=False)
    visit.open(f"/clerk/customers/{vendor.books.customer.id}")
    assert visit.send(f"/clerk/subscriptions/{subscription}/approval", approved="no").status_code == 303
    assert visit.send(f"/clerk/subscriptions/{subscription}/tier", tier="other").status_code == 303
    now = accounts.subscription(subscription)
    assert (now.approved, now.tier) == (False, "other")
    assert {line.actor for line in vendor.books.trail.lines(limit=2)} == {"clerk:anna"}


def test_an_enrolment_that_is_not_kept_is_told(vendor: Vendor, visit: Visit) -> None:
    site = vendor.books.site()
    device = site.meter.device
    older = replace(open_enrolment(site.enrolment()), created_at=NOW - timedelta(days=1)).seal(device)
    visit.open("/clerk/devices")
    said = []
    for blob in (site.enrolment(), older):
        answer = visit.drop("/clerk/devices", "enrolment", blob, subscription=vendor.books.subscription_id)
        said.append("this one changed nothing" in told(visit.open(answer.headers["Location"])))
    assert said == [False, True]


def test_a_device_is_enrolled_by_file_and_licensed_until_a_day(vendor: Vendor, visit: Visit) -> None:
    site = vendor.books.site(enrolled=False)
    visit.open("/clerk/devices")
    answer = visit.drop("/clerk/devices", "enrolment", site.enrolment(), subscription=vendor.books.subscription_id)
    assert answer.status_code == 303, told(answer)
    assert "by its signed enrolment" in told(visit.open(answer.headers["Location"]))
    until = (vendor.books.at + timedelta(days=90)).date()
    place = f"/clerk/subscriptions/{vendor.books.subscription_id}/licences"
    answer = visit.send(place, origin=site.origin, until=until.isoformat())
    page = visit.open(answer.headers["Location"])
    assert until.isoformat() in told(page)
    (link,) = re.findall(r'href="(/clerk/licences/[^"]+)"', page.text)
    blob = visit.open(link).data
    lic = open_license(blob, vendor.books.vendor.trust_root)
    assert (lic.device_pubkey, lic.expires_at.date()) == (site.meter.device.verifying.raw, until)
    assert visit.page is not None
    assert re.fullmatch(
        r'attachment; filename="license-[A-Za-z0-9.-]+\.dat"', visit.page.headers["Content-Disposition"]
    )
    listed = told(visit.open("/clerk/licences"))
    assert until.isoformat() in listed
    assert "in force" in listed


@pytest.mark.parametrize("until", ["", "2027-13-01", "tomorrow", "1999-01-01", "9999-12-18", "9999-12-31"])
def test_a_licence_until_no_day_is_refused_by_name(vendor: Vendor, visit: Visit, until: str) -> None:
    visit.open("/clerk/licences")
    answer = visit.send(f"/clerk/subscriptions/{vendor.books.subscription_id}/licences", until=until)
    assert answer.status_code == 409
    assert "Next step" in told(answer)
    assert vendor.books.licensing.licenses() == []


def test_a_bundle_goes_in_and_its_acknowledgement_with_the_next_licence_comes_out(vendor: Vendor, visit: Visit) -> None:
    site = vendor.books.site()
    site.meter.window(uses=5)
    bundle = site.bundle().read_bytes()
    visit.open("/clerk/bundles")
    page = visit.drop("/clerk/bundles", "bundle", bundle, renew="yes")
    assert page.status_code == 200
    assert "Billed: 5 pages" in told(page).replace(" .", ".")
    assert "next licence is enclosed" in told(page)
    (link,) = re.findall(r'href="(/clerk/acknowledgements/[^"]+)"', page.text)
    answer = visit.open(link)
    ack = vendor.books.opened(site, answer.data)
    assert (ack.size, ack.totals) == (site.windows[-1][1], {READ_PAGES_METER: 5})
    assert ack.license is not None
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{ack.file_name}"'
    assert {line.actor for line in vendor.books.trail.lines(subject=site.origin, limit=1)} == {"clerk:anna"}
    visit.open("/clerk/bundles")
    again = told(visit.drop("/clerk/bundles", "bundle", bundle))
    assert "nothing was billed" in again
    assert vendor.books.billed() == 5


def test_without_the_tick_no_licence_is_enclosed(vendor: Vendor, visit: Visit) -> None:
    site = vendor.books.site()
    site.meter.window(uses=1)
    visit.open("/clerk/bundles")
    page = visit.drop("/clerk/bundles", "bundle", site.bundle().read_bytes())
    assert "No licence goes with it" in told(page)
    assert vendor.books.licensing.licenses() == []


def test_a_fork_is_refused_and_its_proof_can_be_had(vendor: Vendor, visit: Visit) -> None:
    site = vendor.books.site()
    site.meter.window(uses=2)
    other = site.copy()
    site.meter.window(uses=3)
    other.meter.window(uses=4)
    visit.open("/clerk/bundles")
    assert visit.drop("/clerk/bundles", "bundle", site.bundle().read_bytes()).status_code == 200
    answer = visit.drop("/clerk/bundles", "bundle", other.bundle().read_bytes())
    assert answer.status_code == 409
    assert "two histories" in told(answer)
    assert "1 fork in 90 days" in told(visit.open("/clerk/"))
    listed = visit.open("/clerk/findings")
    assert "1 fork" in told(listed)
    device = visit.open(f"/clerk/devices/{site.origin}")
    (link,) = re.findall(r'href="(/clerk/forks/[^"]+)"', device.text)
    proof = visit.open(link)
    assert verify_fork(proof.data, site.meter.device.verifying).origin == site.origin
    for wrong in ("0", "2", "9999999999999999"):
        assert visit.open(f"/clerk/forks/{wrong}/{site.origin}").status_code == 409


def test_a_contradiction_of_a_container_without_a_ledger_is_among_the_findings(vendor: Vendor, visit: Visit) -> None:
    assert "without a ledger" not in told(visit.open("/clerk/findings"))
    first = UsageRequest(
        id="5b1e5f0e-2c77-4c0e-8f7d-6a3f0f7f9b10",
        container_type=CONTAINER_TYPE,
        container_version="3.2.0",
        container_id="c0ffee",
        meter=READ_PAGES_METER,
        quantity=3,
        request_time=1893456000,
        api_type="computervision",
    )
    vendor.books.intake.take_report(vendor.books.subscription, first.to_body())
    with pytest.raises(ConflictError):
        vendor.books.intake.take_report(vendor.books.subscription, replace(first, quantity=7).to_body())
    page = visit.open("/clerk/findings")
    assert f"Containers without a ledger: {vendor.books.subscription.id}" in told(page)
    assert first.id in told(page)
    assert "with other content" in told(page)


def test_a_statement_is_one_click_away_as_a_page_and_as_csv(vendor: Vendor, visit: Visit) -> None:
    site = vendor.books.site()
    site.meter.window(uses=8)
    vendor.books.intake.take_bundle(None, site.bundle())
    page = visit.open("/clerk/statements")
    month = f"{vendor.books.at:%Y-%m}"
    link = f"/clerk/statements/{vendor.books.customer.id}/{month}"
    assert f'href="{link}.html"' in page.text
    answer = visit.open(f"{link}.html")
    assert "Example" in told(answer)
    policy = answer.headers["Content-Security-Policy"]
    assert "unsafe-inline" not in policy
    assert "sha256-" in policy
    csv = visit.open(f"{link}.csv")
    assert csv.headers["Content-Type"].startswith("text/csv")
    assert csv.headers["Content-Disposition"] == f'attachment; filename="statement-St.-Example-s-Hospital-{month}.csv"'
    assert ",8" in csv.text
    for wrong in (f"{link}.pdf", f"/clerk/statements/{vendor.books.customer.id}/2027-13.csv"):
        assert visit.open(wrong).status_code == 400
    assert visit.open(f"/clerk/statements/c-000000000000/{month}.csv").status_code == 409


def test_the_trail_can_be_searched_and_verified(vendor: Vendor, visit: Visit) -> None:
    page = told(visit.open("/clerk/trail?verify=yes"))
    assert "The chain holds" in page
    assert str(vendor.books.trail.verify()) in page
    page = told(visit.open(f"/clerk/trail?subject={vendor.books.customer.id}"))
    assert "customer.add" in page
    assert "clerk.login" not in page


def test_devices_and_licences_are_in_the_order_of_what_needs_a_person(vendor: Vendor, visit: Visit) -> None:
    first, second = vendor.books.site(), vendor.books.site()
    vendor.books.licensing.devices.note_report(first.origin, vendor.books.at)
    vendor.books.licensing.devices.note_report(second.origin, vendor.books.at - timedelta(days=40))
    page = told(visit.open("/clerk/devices"))
    ids = [page.index(one.origin.rpartition("/")[2]) for one in (second, first)]
    assert ids == sorted(ids)
    assert page.count("silent") == 2  # the lead says it too
    for site, days in ((first, 20), (second, 200)):
        until = (vendor.books.at + timedelta(days=days)).date()
        vendor.books.licensing.issue_next(vendor.books.subscription_id, site.origin, until=until)
    page = told(visit.open("/clerk/licences"))
    ids = [page.index(one.origin.rpartition("/")[2]) for one in (first, second)]
    assert ids == sorted(ids)
    assert page.count("ends soon") == 1
    assert "1 licence ends within 30 days" in told(visit.open("/clerk/"))


# ---- attacks --------------------------------------------------------------------------------------------------------


FORMS = [
    "customers",
    "tiers",
    "customers/{customer}/subscriptions",
    "subscriptions/{subscription}/approval",
    "subscriptions/{subscription}/tier",
    "subscriptions/{subscription}/keys/1",
    "subscriptions/{subscription}/keys/1/revocation",
    "subscriptions/{subscription}/licences",
    "devices",
    "bundles",
    "logout",
]


def _place(vendor: Vendor, form: str) -> str:
    return "/clerk/" + form.format(customer=vendor.books.customer.id, subscription=vendor.books.subscription_id)


def test_the_list_of_forms_is_whole(vendor: Vendor) -> None:
    rules = [rule for rule in vendor.app.url_map.iter_rules() if "POST" in (rule.methods or ())]
    ours = {rule.rule for rule in rules if rule.rule.startswith("/clerk/")}
    known = {"/clerk/" + form.format(customer="<customer_id>", subscription="<subscription_id>") for form in FORMS}
    known = {one.replace("keys/1", "keys/<number:slot>") for one in known}
    assert ours == known | {"/clerk/login", "/clerk/<path:_rest>"}


@pytest.mark.parametrize("token", ["", "0" * 64, "é"])
def test_a_form_without_its_token_changes_nothing(vendor: Vendor, visit: Visit, token: str) -> None:
    before = vendor.books.trail.verify()
    for form in FORMS:
        data: dict[str, Any] = {"token": token, "name": "Evil", "approved": "no"}
        if form in {"devices", "bundles"}:
            data["bundle" if form == "bundles" else "enrolment"] = (io.BytesIO(b"x"), "x")
        answer = visit.client.post(_place(vendor, form), data=data, headers={"Origin": HOME})
        assert answer.status_code == 403, form
        assert "was not made by a page" in told(answer)
    assert vendor.books.trail.verify() == before
    assert visit.open("/clerk/").status_code == 200  # still logged in


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "same-site", "Origin": HOME},
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost:8081"},
        {"Origin": "null"},
    ],
)
def test_a_form_from_another_site_changes_nothing_even_with_the_token(
    vendor: Vendor, visit: Visit, headers: dict[str, str]
) -> None:
    before = vendor.books.trail.verify()
    visit.open("/clerk/customers")
    for form in FORMS:
        data = {"token": visit.token(), "name": "Evil", "approved": "no"}
        answer = visit.client.post(_place(vendor, form), data=data, headers=headers)
        assert answer.status_code == 403, form
        assert "another site" in told(answer)
    assert vendor.books.trail.verify() == before


def test_a_token_is_of_one_session(vendor: Vendor, visit: Visit) -> None:
    other = vendor.browser()
    other.log_in()
    other.open("/clerk/customers")
    visit.open("/clerk/customers")
    assert visit.token() != other.token()
    assert visit.send("/clerk/customers", name="Evil", token=other.token()).status_code == 403


def test_reading_a_page_changes_nothing(vendor: Vendor, visit: Visit) -> None:
    before = vendor.books.trail.verify()
    for form in FORMS:
        visit.open(_place(vendor, form) + "?name=Evil&approved=no&tier=tier&token=" + "0" * 64)
        for method in ("PUT", "DELETE", "PATCH", "TRACE"):
            assert visit.client.open(_place(vendor, form), method=method).status_code == 405
    assert vendor.books.trail.verify() == before


def test_a_session_that_was_prepared_for_the_clerk_is_nobodys(vendor: Vendor) -> None:
    one = vendor.browser()
    planted = "A" * 43
    one.client.set_cookie("tollgate-clerk", planted, path="/clerk")
    assert one.open("/clerk/").status_code == 303
    one.log_in()
    assert one.cookie() != planted
    attacker = vendor.browser()
    attacker.client.set_cookie("tollgate-clerk", planted, path="/clerk")
    assert attacker.open("/clerk/").status_code == 303


def test_a_login_ends_the_session_that_the_browser_had(vendor: Vendor, visit: Visit) -> None:
    before = visit.cookie()
    assert before is not None
    again = vendor.browser()
    again.open("/clerk/login")
    again.client.set_cookie("tollgate-clerk", before, path="/clerk")
    assert again.send("/clerk/login", name="anna", password=PASSWORD, next="").status_code == 303
    assert again.cookie() != before
    assert visit.open("/clerk/").status_code == 303


def test_a_login_that_was_not_asked_for_logs_nobody_in(vendor: Vendor) -> None:
    one = vendor.browser()
    for data in ({"name": "anna", "password": PASSWORD}, {"name": "anna", "password": PASSWORD, "token": "0" * 64}):
        assert one.client.post("/clerk/login", data=data, headers={"Origin": HOME}).status_code == 403
    one.open("/clerk/login")
    token = one.token()
    other = vendor.browser()
    other.open("/clerk/login")
    assert other.send("/clerk/login", name="anna", password=PASSWORD, token=token).status_code == 403
    assert other.cookie() is None


def test_cookies_are_out_of_reach_of_scripts_and_other_sites(vendor: Vendor) -> None:
    one = vendor.browser()
    cookies = [one.open("/clerk/login").headers["Set-Cookie"], one.log_in().headers.get_all("Set-Cookie")[0]]
    for cookie in cookies:
        assert {"HttpOnly", "SameSite=Strict", "Path=/clerk"} <= set(cookie.split("; "))
        assert "Secure" not in cookie  # which a browser would not send back over HTTP
        assert "Expires" not in cookie


@pytest.mark.parametrize("number", ["99999999999999999999", "9" * 3000, "-1", "1.0", "\u0661", "9223372036854775808"])
def test_numbers_that_are_none_are_no_page(vendor: Vendor, visit: Visit, number: str) -> None:
    numbered = [rule for rule in vendor.app.url_map.iter_rules() if "number" in str(rule) and "clerk" in rule.endpoint]
    assert len(numbered) == 6
    for rule in numbered:
        path = re.sub(r"<number:[a-z]+>", quote(number), str(rule))
        path = re.sub(r"<[^>]+>", "x", path)
        if "GET" in (rule.methods or ()):
            assert visit.open(path).status_code == 404, path
        else:
            visit.open("/clerk/customers")
            assert visit.send(path).status_code == 404, path


@pytest.mark.parametrize("number", ["0", "3", "9999999999999999"])
def test_numbers_of_what_is_not_there_are_refused(vendor: Vendor, visit: Visit, number: str) -> None:
    site = vendor.books.site()
    subscription = vendor.books.subscription_id
    for path in (
        f"acknowledgements/{site.origin}/{number}",
        f"forks/{number}/{site.origin}",
        f"licences/{subscription}/x/{number}",
        f"subscriptions/{subscription}/keys/{number}",
    ):
        assert 400 <= visit.open(f"/clerk/{path}").status_code < 500, path


@pytest.mark.parametrize("month", ["0000-01", "0001-01", "9999-12", "9999-01"])
def test_months_at_the_ends_of_time_are_no_fault(vendor: Vendor, visit: Visit, month: str) -> None:
    for kind in ("html", "csv"):
        assert visit.open(f"/clerk/statements/{vendor.books.customer.id}/{month}.{kind}").status_code < 500


def test_over_tls_cookies_are_bound_to_it(vendor: Vendor) -> None:
    cookie = vendor.app.test_client().get("/clerk/login", base_url="https://localhost").headers["Set-Cookie"]
    assert cookie.startswith("__Host-")
    assert {"Secure", "HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))


def test_guessing_ends_after_a_few_tries_even_with_the_right_password(vendor: Vendor) -> None:
    one = vendor.browser("192.0.2.7")
    for number in range(TRIES_FROM_ONE_PLACE):
        assert one.log_in(password=f"wrong guess {number}").status_code == 403
    answer = one.log_in()
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) == TRIES_WITHIN.total_seconds()
    assert "15 minutes" in told(answer)
    assert vendor.browser("192.0.2.8").log_in().status_code == 303
    vendor.books.at += TRIES_WITHIN + timedelta(seconds=1)
    assert one.log_in().status_code == 303


def test_guessing_from_one_ipv6_network_is_one_guesser(vendor: Vendor) -> None:
    answers = [vendor.browser(f"2001:db8::{number}").log_in(password="wrong guess") for number in range(7)]
    assert [answer.status_code for answer in answers] == [403] * TRIES_FROM_ONE_PLACE + [429, 429]


def test_a_forwarded_address_does_not_make_another_guesser(vendor: Vendor) -> None:
    one = vendor.browser("192.0.2.7")
    codes = []
    for number in range(TRIES_FROM_ONE_PLACE + 1):
        one.headers = {"X-Forwarded-For": f"198.51.100.{number}", "Forwarded": f"for=198.51.100.{number}"}
        codes.append(one.log_in(password="wrong guess").status_code)
    assert codes[-1] == 429


def test_names_that_would_be_markup_are_text_on_every_page(vendor: Vendor, visit: Visit) -> None:
    books = vendor.books
    visit.open("/clerk/customers")
    place = visit.send("/clerk/customers", name=HOSTILE).headers["Location"].partition("?")[0]
    customer = place.rpartition("/")[2]
    subscription = books.accounts.add_subscription(customer, container_type=CONTAINER_TYPE, tier="tier")
    site = books.site(subscription_id=subscription.id)
    site.meter.window(uses=1)
    visit.open("/clerk/bundles")
    taken = visit.drop("/clerk/bundles", "bundle", site.bundle().read_bytes(), name='"><script>alert(1)</script>.gz')
    month = f"{books.at:%Y-%m}"
    pages = [taken]
    pages += [visit.open(f"/clerk/{path}") for path in PAGES]
    pages += [
        visit.open(path)
        for path in (
            place,
            f"/clerk/devices/{site.origin}",
            f"/clerk/subscriptions/{subscription.id}/keys/1",
            f"/clerk/statements/{customer}/{month}.html",
            f"/clerk/trail?subject={customer}",
            "/clerk/trail?subject=%3Cscript%3Ealert(1)%3C/script%3E",
            "/clerk/nowhere/%3Cscript%3Ealert(1)%3C/script%3E",
            "/clerk/devices/%3Cscript%3Ealert(1)%3C/script%3E",
            "/clerk/login?next=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
            f"{place}?done=%3Cscript%3Ealert(1)%3C/script%3E",
        )
    ]
    assert sum("alert(1)" in page.text for page in pages) >= 10
    for page in pages:
        assert "<script" not in page.text.lower()
        assert "<img src=x" not in page.text
        assert "{{7*7}}" in page.text or "49&#39;" not in page.text
    other = vendor.browser()
    for page in (
        other.open("/clerk/login?next=%22%3E%3Cscript%3Ealert(1)%3C/script%3E"),
        other.log_in(name='"><script>alert(1)</script>', password="wrong"),
    ):
        assert "<script" not in page.text


def test_a_csv_for_a_customer_whose_name_is_a_formula_or_a_path(vendor: Vendor, visit: Visit) -> None:
    visit.open("/clerk/customers")
    place = visit.send("/clerk/customers", name='=cmd|calc!A0"; filename="../../etc/passwd').headers["Location"]
    customer = place.partition("?")[0].rpartition("/")[2]
    answer = visit.open(f"/clerk/statements/{customer}/{vendor.books.at:%Y-%m}.csv")
    assert answer.status_code == 200
    assert re.fullmatch(r'attachment; filename="[A-Za-z0-9.-]+\.csv"', answer.headers["Content-Disposition"])
    assert not re.search(r'(^|,|")=', answer.text, re.MULTILINE)


NAMES = ["../../../evil", "/etc/passwd", "..\\..\\evil", "a\x00b", "x" * 4000, "é" * 200, "bundle.tar.gz\r\nX-Evil: 1"]


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_an_upload_is_never_a_path(vendor: Vendor, visit: Visit, tmp_path: Path, name: str) -> None:
    site = vendor.books.site()
    site.meter.window(uses=1)
    before = {path for path in tmp_path.rglob("*") if "site-" not in str(path)}
    visit.open("/clerk/bundles")
    boundary = "edge"
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="token"\r\n\r\n{visit.token()}\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="bundle"; filename="{name}"\r\n'
        "Content-Type: application/gzip\r\n\r\n"
    ).encode() + site.bundle().read_bytes()
    body += f"\r\n--{boundary}--\r\n".encode()
    answer = visit.client.post(
        "/clerk/bundles",
        data=body,
        content_type=f"multipart/form-data; boundary={boundary}",
        headers={"Origin": HOME},
    )
    assert answer.status_code in {200, 400}, told(answer)
    assert "evil" not in answer.text.lower()
    after = {path for path in tmp_path.rglob("*") if "site-" not in str(path)}
    assert {path.name for path in after - before} <= {"uploads", "authority.db-wal", "authority.db-shm"}


FIELD = b'--edge\r\nContent-Disposition: form-data; name="a"\r\n\r\n'


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "multipart/form-data"),
        (b"", "multipart/form-data; boundary="),
        (b"nothing", "multipart/form-data; boundary=edge"),
        (b"--edge\r\n\r\n", "multipart/form-data; boundary=edge"),
        (b"--edge--\r\n", "multipart/form-data; boundary=edge"),
        (b"x" * 600_000, "multipart/form-data; boundary=edge"),
        (
            b'--edge\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"x" * 600_000,
            "multipart/form-data; boundary=edge",
        ),
        (
            b'--edge\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n' * 100,
            "multipart/form-data; boundary=edge",
        ),
        (b"token=x", "application/x-www-form-urlencoded"),
        (b"{}", "application/json"),
        (b"", "text/plain"),
    ],
)
def test_a_form_that_is_none_is_refused_by_name(vendor: Vendor, visit: Visit, body: bytes, kind: str) -> None:
    before = vendor.books.trail.verify()
    answer = visit.client.post("/clerk/bundles", data=body, content_type=kind, headers={"Origin": HOME})
    assert answer.status_code in {400, 403}
    assert "Next step" in told(answer)
    assert vendor.books.trail.verify() == before


@pytest.mark.parametrize("body", [b"x" * 600_000, FIELD + b"x" * 600_000, b"--edge\r\n" + b"A: b\r\n" * 100_000])
def test_what_is_no_file_is_not_gathered_in_memory(visit: Visit, body: bytes) -> None:
    kind = "multipart/form-data; boundary=edge"
    answer = visit.client.post("/clerk/bundles", data=body, content_type=kind, headers={"Origin": HOME})
    assert answer.status_code == 400
    assert "too long" in told(answer)


def _parts(visit: Visit, *files: tuple[str, bytes]) -> bytes:
    """A form with its token and these files."""
    head = f'--edge\r\nContent-Disposition: form-data; name="token"\r\n\r\n{visit.token()}\r\n'
    parts = [
        f'--edge\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\n\r\n'.encode() + blob + b"\r\n"
        for name, blob in files
    ]
    return head.encode() + b"".join(parts) + b"--edge--\r\n"


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ((), "no file was chosen"),
        ((("bundle", b""),), "no file was chosen"),
        ((("other", b"x"),), "another file"),
        ((("bundle", b"x"), ("bundle", b"y")), "another file"),
        ((("bundle", b"x"), ("other", b"y")), "another file"),
    ],
)
def test_a_form_holds_the_one_file_that_is_asked_for(visit: Visit, files: Any, text: str) -> None:
    visit.open("/clerk/bundles")
    answer = visit.client.post(
        "/clerk/bundles",
        data=_parts(visit, *files),
        content_type="multipart/form-data; boundary=edge",
        headers={"Origin": HOME},
    )
    assert answer.status_code == 400
    assert text in told(answer).lower()


def test_a_bundle_that_is_none_or_too_large_is_refused_by_name(vendor: Vendor, visit: Visit) -> None:
    visit.open("/clerk/bundles")
    for blob, status in ((b"no bundle at all", 409), (bytes(2**21 + 1), 413), (bytes(2**22), 413)):
        answer = visit.drop("/clerk/bundles", "bundle", blob)
        assert answer.status_code == status, told(answer)
        assert "Next step" in told(answer)
        visit.open("/clerk/bundles")
    assert vendor.books.billed() == 0


def test_an_enrolment_has_a_size_of_its_own(vendor: Vendor, visit: Visit) -> None:
    visit.open("/clerk/devices")
    answer = visit.drop("/clerk/devices", "enrolment", bytes(65 * 1024), subscription=vendor.books.subscription_id)
    assert answer.status_code == 413
    for blob in (b"x", b"{}", json.dumps({"payloadType": "x"}).encode()):
        visit.open("/clerk/devices")
        answer = visit.drop("/clerk/devices", "enrolment", blob, subscription=vendor.books.subscription_id)
        assert answer.status_code == 400
        assert "Next step" in told(answer)
    assert vendor.books.licensing.devices.all() == []


def test_a_file_is_not_kept_for_who_is_not_logged_in_or_has_no_token(
    vendor: Vendor, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    monkeypatch.setattr("licenses.authority.web.bodies._require_room", lambda folder, coming: None)
    real = Path.open

    def spying(path: Path, *words: Any, **more: Any) -> Any:
        file = real(path, *words, **more)
        if words and words[0] == "xb":
            write = file.write
            return _Counting(file, lambda part: kept.append(len(part)) or write(part))
        return file

    monkeypatch.setattr(Path, "open", spying)
    for one in (vendor.browser(), visit):
        answer = one.client.post(
            "/clerk/bundles",
            data={"token": "0" * 64, "bundle": (io.BytesIO(b"x" * 300_000), "x")},
            headers={"Origin": HOME},
        )
        assert answer.status_code == 403
    assert kept == []


class _Counting:
    """A file that tells what is written to it."""

    def __init__(self, file: Any, write: Any) -> None:
        self._file = file
        self.write = write

    def __enter__(self) -> _Counting:
        return self

    def __exit__(self, *_facts: object) -> None:
        self._file.close()


def test_every_answer_forbids_frames_scripts_and_foreign_content(visit: Visit) -> None:
    for path in (*PAGES, "nowhere", "static/clerk.css", "static/icon.svg"):
        _require_hard(visit.open(f"/clerk/{path}"), path)


def _require_hard(answer: TestResponse, path: str) -> None:
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'self'" in policy
    assert "unsafe" not in policy
    assert "script-src" not in policy
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert ("no-store" in answer.headers["Cache-Control"]) is not path.startswith("static")
    assert not re.search(r"<script|<style|\son[a-z]+=|\sstyle=|javascript:", answer.text)
    for address in re.findall(r'(?:src|href|action)="([^"]*)"', answer.text):
        assert re.match(r"/clerk/|#", address), address


@pytest.mark.parametrize(
    "path", ["static/../app.py", "static/%2e%2e/app.py", "static/..%2fapp.py", "static//etc/passwd"]
)
def test_static_files_are_those_of_the_page(visit: Visit, path: str) -> None:
    assert visit.open(f"/clerk/{path}").status_code in {303, 404}


def test_the_page_without_its_last_slash_is_found(visit: Visit) -> None:
    answer = visit.open("/clerk")
    assert (answer.status_code, answer.headers["Location"]) == (308, "/clerk/")


def test_without_an_office_there_are_no_clerks_pages(vendor: Vendor) -> None:
    import dataclasses

    from licenses.authority.web.services import services

    bare = create_app(dataclasses.replace(services(vendor.app), clerk=None)).test_client()
    for path in ("/clerk", "/clerk/", "/clerk/login", "/clerk/static/clerk.css"):
        assert bare.get(path).status_code == 404


def test_a_full_disk_is_told_and_nothing_is_kept(vendor: Vendor, visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 0})())
    visit.open("/clerk/bundles")
    answer = visit.drop("/clerk/bundles", "bundle", b"x" * 100)
    assert answer.status_code == 503
    assert "No space left" in told(answer)


def test_a_page_that_fails_says_nothing_of_why(vendor: Vendor, visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "licenses.authority.devices.Devices.all", lambda *_: (_ for _ in ()).throw(RuntimeError("inner words"))
    )
    vendor.app.config["PROPAGATE_EXCEPTIONS"] = False
    answer = visit.open("/clerk/devices")
    assert answer.status_code == 500
    assert "inner words" not in answer.text
    assert "service's log" in told(answer)
