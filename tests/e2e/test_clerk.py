"""The clerk's page in a real browser, against the real service: by keyboard alone, light and dark, without scripts."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
import requests
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.e2e.browser import Browser, a_browser
from tests.e2e.legible import broken, hard_to_read, is_light, seen, touch
from tests.e2e.site import BINARIES, command
from tests.e2e.vendor import Vendor
from tests.fakes.records import FakeMeter
from tests.fakes.vendor_books import FakeSite

PASSWORD = "four words nobody joins"
MARKUP = "<script>document.title='taken over'</script> & Sons"


class Office(Vendor):
    """A vendor with a clerk."""

    def set_password(self, name: str = "anna", password: str = PASSWORD) -> subprocess.CompletedProcess[str]:
        """What a person types at the prompt, from a file."""
        return subprocess.run(
            [str(BINARIES / "licenses"), "authority", "password", "--name", name],
            input=f"{password}\n",
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={"PATH": "/usr/bin:/bin", **self.environment},
        )

    def appliance(self, name: str = "site") -> FakeSite:
        """An appliance that keeps records, and is not enrolled yet."""
        vendor = json.loads(self.licenses("inspect", self.trust_root, "--json"))["vendor"]
        place = self.folder / name
        return FakeSite(FakeMeter(place / "output", vendor=vendor), place)


@pytest.fixture(scope="module")
def office() -> Iterator[Office]:
    one = Office()
    try:
        done = one.set_password()
        assert done.returncode == 0, done.stderr
        yield one.start()  # type: ignore[misc]
    finally:
        one.remove()


@pytest.fixture
def page(office: Office) -> Iterator[Browser]:
    """A browser of its own, into whose downloads one can look."""
    with a_browser() as one:
        downloads = office.folder / "downloads"
        downloads.mkdir(exist_ok=True)
        one.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
        yield one


# ---- by keyboard ----------------------------------------------------------------------------------------------------


def focused(page: Browser) -> WebElement:
    return page.driver.switch_to.active_element


def press(page: Browser, *keys: str) -> None:
    ActionChains(page.driver).send_keys(*keys).perform()


def tab_to(page: Browser, css: str) -> WebElement:
    """Go on with Tab until the element has the focus, which must then be seen."""
    wanted = page.find(css)
    for _ in range(60):
        if focused(page) == wanted:
            outline = wanted.value_of_css_property("outline-style"), wanted.value_of_css_property("outline-width")
            assert outline == ("solid", "3px"), f"{css} has the focus, and nobody sees it: {outline}"
            return wanted
        press(page, Keys.TAB)
    pytest.fail(f"Tab never comes to {css}")


def told(page: Browser, css: str) -> str:
    """What an element says; empty while one page gives way to another."""
    try:
        return page.find(css).text
    except StaleElementReferenceException:
        return ""


def heading(page: Browser) -> str:
    """The page's heading."""
    return told(page, "h1")


def go_by_keyboard(page: Browser, title: str) -> None:
    """Open a page of the navigation."""
    links = page.driver.find_elements(By.CSS_SELECTOR, "nav a")
    place = [link.text for link in links].index(title) + 1
    tab_to(page, f"nav li:nth-child({place}) a")
    press(page, Keys.ENTER)
    page.wait(lambda: heading(page) == title, f"the page {title} does not open")


def log_in_by_keyboard(page: Browser, office: Office) -> None:
    page.open(f"{office.url}/clerk/")
    page.wait(lambda: heading(page) == "Log in", "no login")
    assert focused(page).get_attribute("id") == "name"
    press(page, "anna", Keys.TAB)
    press(page, PASSWORD, Keys.ENTER)
    page.wait(lambda: heading(page) == "Overview", "no overview")


def test_from_the_login_to_a_downloaded_acknowledgement_by_keyboard_alone(office: Office, page: Browser) -> None:
    site = office.appliance("by-keyboard")
    log_in_by_keyboard(page, office)

    go_by_keyboard(page, "Devices")
    enrolment = office.folder / "enrolment.json"
    enrolment.write_bytes(site.enrolment())
    tab_to(page, "#subscription")
    tab_to(page, "#enrolment").send_keys(str(enrolment))  # as the file dialogue would
    tab_to(page, "section:last-of-type button")
    press(page, Keys.ENTER)
    page.wait(lambda: heading(page).startswith("Device "), "the device is not enrolled")
    assert site.origin.rpartition("/")[2] in heading(page)

    site.meter.window(uses=7)
    go_by_keyboard(page, "Bundles")
    tab_to(page, "#bundle").send_keys(str(site.bundle()))
    assert tab_to(page, "#renew").is_selected()
    tab_to(page, ".drop button")
    press(page, Keys.ENTER)
    page.wait(lambda: page.driver.find_elements(By.CSS_SELECTOR, ".note.good"), "the bundle is not acknowledged")
    assert "Billed: 7 pages." in page.find(".note.good").text
    assert "next licence is enclosed" in page.find(".note.good").text
    assert focused(page).get_attribute("id") == "ack"
    press(page, Keys.ENTER)
    name = page.find("dd.id").text
    path = office.folder / "downloads" / name
    page.wait(path.exists, f"{name} is not downloaded")
    shown = json.loads(office.licenses("inspect", path, "--trust-root", office.trust_root, "--json"))
    assert shown["size"] == site.windows[-1][1]
    assert shown["verified"] is True
    assert page.complaints() == []

    tab_to(page, ".who button")
    press(page, Keys.ENTER)
    page.wait(lambda: heading(page) == "Log in", "not logged out")
    page.driver.back()
    time.sleep(0.5)
    assert name not in page.driver.page_source  # going back does not show what was there before
    page.open(f"{office.url}/clerk/bundles")
    assert heading(page) == "Log in"


def test_a_customer_a_subscription_and_a_key_by_keyboard_alone(office: Office, page: Browser) -> None:
    log_in_by_keyboard(page, office)
    go_by_keyboard(page, "Customers")
    tab_to(page, "#name").send_keys(MARKUP, Keys.ENTER)
    page.wait(lambda: heading(page) == MARKUP, "the customer is not there")
    assert page.driver.title.startswith("<script>")
    tab_to(page, "section:last-of-type button")
    press(page, Keys.ENTER)
    page.wait(lambda: "no key yet" in told(page, "[role=status]"), "the subscription is not there")
    tab_to(page, "a.button.little")
    press(page, Keys.ENTER)
    page.wait(lambda: heading(page).startswith("Key 1"), "the key's page does not open")
    tab_to(page, "section button")
    press(page, Keys.ENTER)
    key = page.find("code.key").text
    answer = requests.post(
        f"{office.url}/tollgate/v1/license",
        json={"containerType": "computervisionread"},
        headers={"Ocp-Apim-Subscription-Key": key},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["payloadType"].endswith("license.v1+json")
    tab_to(page, "main a.button")
    press(page, Keys.ENTER)
    page.wait(lambda: heading(page) == MARKUP, "no way back")
    assert key not in page.driver.page_source
    assert page.complaints() == []


def test_the_skip_link_comes_first_and_leads_to_the_content(office: Office, page: Browser) -> None:
    log_in_by_keyboard(page, office)
    page.open(f"{office.url}/clerk/devices")
    press(page, Keys.TAB)
    assert focused(page).text == "To the content"
    assert focused(page).is_displayed()
    press(page, Keys.ENTER)
    assert focused(page).tag_name == "main"


REACHABLE = """
return [...document.querySelectorAll('a[href], button, input:not([type=hidden]), select, summary')]
  .filter(e => e.checkVisibility()).map((e, n) => (e.dataset.stop = n));
"""
AT = """
const e = document.activeElement, look = getComputedStyle(e), box = e.getBoundingClientRect();
return [e.dataset.stop ?? '', look.outlineStyle + ' ' + look.outlineWidth, box.bottom > 0 && box.top < innerHeight];
"""


def test_tab_comes_to_everything_in_its_order_and_shows_where_it_is(office: Office, page: Browser) -> None:
    metrics = {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    log_in_by_keyboard(page, office)
    for path in (*PAGES, *_pages_of_one(office)):
        page.open(f"{office.url}/clerk/{path}")
        page.driver.execute_script("document.activeElement.blur()")
        stops = page.driver.execute_script(REACHABLE)
        assert len(stops) > 8, path
        passed: list[int] = []
        for _ in range(4 * len(stops)):
            if len(passed) == len(stops):
                break
            press(page, Keys.TAB)
            stop, outline, is_seen = page.driver.execute_script(AT)
            if stop == "" or (passed and int(stop) == passed[-1]):
                continue  # a table that is scrolled by keyboard; the parts of a date
            assert (outline, is_seen) == ("solid 3px", True), f"{path}: nobody sees where {stop} is"
            passed.append(int(stop))
        assert passed == sorted(passed) == stops, path


# ---- what a person sees ---------------------------------------------------------------------------------------------


PAGES = ("", "bundles", "customers", "licences", "devices", "statements", "findings", "trail", "tiers")


def _pages_of_one(office: Office) -> list[str]:
    """Those of one customer, one device that has a licence, a key that is there and one that is not."""
    long_name = "Universitätsklinikum Nordrhein-Westfalen, Abteilung für Medizinische Informationstechnik"
    with contextlib.suppress(AssertionError):  # it is there from the time before
        office.authority("customer", "add", long_name)
    site = office.appliance(f"legible-{uuid.uuid4().hex[:8]}")
    enrolment = office.folder / "legible.json"
    enrolment.write_bytes(site.enrolment())
    office.authority("enrol", enrolment, "--subscription", office.subscription)
    site.meter.window(uses=1234)
    assert office.post("/bundles", site.bundle().read_bytes(), kind="application/gzip").status_code == 200
    customer = office.authority("subscription", "list")["subscriptions"][0]["customer_id"]
    keys = f"subscriptions/{office.subscription}/keys"
    return [f"customers/{customer}", f"devices/{site.origin}", f"{keys}/1", f"{keys}/2"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_every_page_is_legible_labelled_and_fits(office: Office, page: Browser, scheme: str, width: int) -> None:
    """Contrast of at least 4.5 to 1 (WCAG 2.2, 1.4.3), a label for each field, nothing beyond the window's edge."""
    with seen(page, width, scheme):
        page.open(f"{office.url}/clerk/login")
        assert hard_to_read(page) == []
        log_in_by_keyboard(page, office)
        for path in (*PAGES, *_pages_of_one(office)):
            page.open(f"{office.url}/clerk/{path}")
            assert hard_to_read(page) == [], path
            assert page.complaints() == []
        assert is_light(page) is (scheme == "light")


def test_nothing_is_asked_of_scripts(office: Office, page: Browser) -> None:
    page.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    log_in_by_keyboard(page, office)
    go_by_keyboard(page, "Statements")
    page.click(".months a")
    page.wait(lambda: "Statement of usage" in told(page, "body"), "no statement")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 700, 400])
def test_a_statement_keeps_its_looks_under_the_policy(office: Office, page: Browser, scheme: str, width: int) -> None:
    _pages_of_one(office)
    with seen(page, width, scheme):
        log_in_by_keyboard(page, office)
        page.open(f"{office.url}/clerk/statements")
        months = page.driver.find_elements(By.CSS_SELECTOR, ".months a")
        for address in [str(month.get_attribute("href")) for month in months]:
            page.open(address)
            if page.driver.find_elements(By.CSS_SELECTOR, ".devices tbody tr"):
                break
        assert "Statement of usage" in told(page, "body")
        assert page.find("body").value_of_css_property("max-width") != "none"
        assert page.find(".devices tbody tr")
        assert hard_to_read(page) == []
        assert broken(page, ".devices thead, .num") == []
        assert not touch(page, ".devices thead th")
        assert page.complaints() == []


def test_another_site_can_neither_frame_it_nor_post_to_it(office: Office, page: Browser, tmp_path: Path) -> None:
    log_in_by_keyboard(page, office)
    evil = tmp_path / "evil.html"
    evil.write_text(
        f'<iframe src="{office.url}/clerk/"></iframe>'
        f'<form method="post" action="{office.url}/clerk/customers"><input name="name" value="Evil">'
        "<button>win a prize</button></form>"
    )
    page.driver.get(evil.as_uri())
    time.sleep(0.5)
    page.driver.switch_to.frame(0)
    assert "Overview" not in page.driver.page_source
    page.driver.switch_to.default_content()
    page.find("button").click()
    page.wait(lambda: page.driver.find_elements(By.CSS_SELECTOR, ".note"), "no answer")
    assert "nothing was changed" in page.find(".note").text
    assert "Evil" not in office.licenses("authority", "customer", "list")


# ---- the commands ---------------------------------------------------------------------------------------------------


def test_the_page_is_closed_until_a_password_is_set_and_the_first_lines_say_so() -> None:
    one = Office()
    try:
        one.start(listen="127.0.0.1:0")
        answer = requests.get(f"{one.url}/clerk/login", timeout=30)
        assert answer.status_code == 403
        assert "licenses authority password" in answer.text
        assert "<form" not in answer.text
        assert one.set_password().returncode == 0
        assert "<form" in requests.get(f"{one.url}/clerk/login", timeout=30).text
        assert one.stop() == 0
    finally:
        one.remove()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--clerk-header", "X-Remote-User"), "given together"),
        (("--clerk-proxy", "10.0.0.5"), "given together"),
        (("--clerk-header", "X-Remote-User", "--clerk-proxy", "0.0.0.0/0"), "nearly everybody"),
        (("--clerk-header", "Cookie", "--clerk-proxy", "10.0.0.5"), "cannot be the header"),
        (("--proxy", "0.0.0.0/0"), "nearly everybody: whoever is in it could pass for any client"),
        (("--proxy", "10.0.0.5", "--proxy", "gate.example"), "no address of a proxy"),
    ],
)
def test_half_a_proxy_is_refused_at_the_start(office: Office, words: tuple[str, ...], told: str) -> None:
    done = command("licenses", "authority", "serve", "--listen", "127.0.0.1:0", *words, **office.environment)
    assert done.returncode == 65, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def _answer(port: int, *headers: str, path: str = "/clerk/customers", body: str = "") -> str:
    """What comes back for these very header lines, which no library would send so."""
    first = f"{'POST' if body else 'GET'} {path} HTTP/1.1"
    more = ("Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(body)}") if body else ()
    head = "".join(f"{line}\r\n" for line in (first, "Host: localhost", *headers, *more))
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(f"{head}Connection: close\r\n\r\n{body}".encode())
        return b"".join(iter(lambda: client.recv(65536), b"")).decode()


def _log_in(port: int, *headers: str, password: str = PASSWORD) -> str:
    """Log in as a browser does whose proxy sends these header lines; the answer."""
    shown = _answer(port, *headers, path="/clerk/login")
    cookie = re.search(r"Set-Cookie: ([^;]+)", shown)
    token = re.search(r'name="token" value="([0-9a-f]{64})"', shown)
    assert cookie is not None
    assert token is not None
    body = urlencode({"token": token[1], "name": "anna", "password": password})
    return _answer(port, *headers, f"Cookie: {cookie[1]}", path="/clerk/login", body=body)


def test_behind_a_proxy_strangers_keep_no_clerk_out_and_cookies_are_bound_to_tls() -> None:
    one = Office()
    try:
        assert one.set_password().returncode == 0
        one.start("--proxy", "192.0.2.0/28", "--proxy", "127.0.0.1")
        tls = "X-Forwarded-Proto: https"
        guesser = (
            ("X-Forwarded-For: 203.0.113.9",),
            ("X-Forwarded-For: 198.51.100.1, 203.0.113.9",),
            ("X-Forwarded-For: 198.51.100.2", "X-Forwarded-For: 203.0.113.9"),
            ("X-Forwarded-For: 203.0.113.9", "X_Forwarded_For: 198.51.100.3"),
            ("X-Forwarded-For: 203.0.113.9", "Forwarded: for=198.51.100.4", "X-Real-IP: 198.51.100.4"),
        )
        for headers in guesser:
            assert "403" in _log_in(one.port, tls, *headers, password="not the password").splitlines()[0]
        for headers in guesser:
            assert "429" in _log_in(one.port, tls, *headers).splitlines()[0], headers
        entered = _log_in(one.port, tls, "X-Forwarded-For: 203.0.113.10")
        assert "303" in entered.splitlines()[0]
        (cookie,) = re.findall(r"Set-Cookie: (__Host-tollgate-clerk=.*)", entered)
        assert "Secure" in cookie
        session = f"Cookie: {cookie.partition(';')[0]}"
        assert "Hospital" in _answer(one.port, tls, "X-Forwarded-For: 203.0.113.10", session)
        assert "Hospital" not in _answer(one.port, "X-Forwarded-For: 203.0.113.10", session)  # it came in clear
        assert not any("203.0.113" in line for line in one.log.read_text().splitlines())
    finally:
        one.remove()


def test_forwarded_headers_of_a_peer_that_is_not_listed_are_nothing() -> None:
    one = Office()
    try:
        assert one.set_password().returncode == 0
        one.start("--proxy", "192.0.2.0/28")
        for number in range(5):
            headers = (f"X-Forwarded-For: 203.0.113.{number}", "X-Forwarded-Proto: https")
            answer = _log_in(one.port, *headers, password="not the password")
            assert "403" in answer.splitlines()[0]
            assert "Secure" not in answer
        assert "429" in _log_in(one.port, "X-Forwarded-For: 203.0.113.9").splitlines()[0]
    finally:
        one.remove()


def test_a_proxys_word_is_taken_in_one_form_alone() -> None:
    one = Office()
    try:
        one.start("--clerk-header", "X-Remote-User", "--clerk-proxy", "127.0.0.1")
        assert "200 OK" in _answer(one.port, "X-Remote-User: berta").splitlines()[0]
        assert "berta" in _answer(one.port, "x-remote-user: Berta")
        for headers in (
            (),
            ("X_Remote_User: berta",),
            ("X-Remote_User: berta",),
            ("X-Remote-User: berta", "X-Remote-User: anna"),
            ("X-Remote-User: berta", "X_Remote_User: anna", "X-Remote-User: "),
            ("X-Remote-User: <b>berta",),
        ):
            answer = _answer(one.port, *headers)
            assert answer.splitlines()[0].split()[1] in {"400", "403"}, headers
            assert "Hospital" not in answer
    finally:
        one.remove()


def test_a_password_is_never_an_argument_and_is_in_no_file_but_as_a_hash(office: Office) -> None:
    assert "PASSWORD" not in office.licenses("authority", "password", "--help").replace(
        "TOLLGATE_AUTHORITY_PASSWORDS", ""
    )
    done = office.set_password("berta", "another four odd words")
    assert done.returncode == 0
    assert "another four odd words" not in done.stdout + done.stderr
    assert json.loads(office.licenses("authority", "password", "--list", "--json")) == {"clerks": ["anna", "berta"]}
    for path in office.folder.glob("*"):
        assert path.is_dir() or b"another four odd words" not in path.read_bytes()
    office.licenses("authority", "password", "--name", "berta", "--remove")
    refused = office.set_password("berta", "short")
    assert refused.returncode == 65
    assert "12 to 256 characters" in refused.stderr
    assert "short" not in refused.stderr.replace("12 to", "")
    assert "clerk.remove" in office.licenses("authority", "audit", "list")
