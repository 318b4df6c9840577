"""Home, readiness, status, metrics and the API page, as a browser, a probe and a scraper see them."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.browser import Browser
from tests.e2e.legible import broken, hard_to_read, is_light, seen
from tests.e2e.site import Site, command


class Links(HTMLParser):
    """Every address that a page makes a browser fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.followed: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag in {"script", "img", "link"}:
            self.fetched += [value for name in ("src", "href") if (value := found.get(name))]
        elif tag == "a" and found.get("href"):
            self.followed.append(str(found["href"]))


def test_ready_has_the_three_fields(service: Site) -> None:
    answer = service.get("/ready")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert list(answer.json()) == ["service", "ready", "message"]
    assert answer.json()["service"] == "computervisionread"
    assert answer.json()["ready"] == "ready"


def test_status_begins_with_the_fields_of_the_contract(service: Site) -> None:
    status = service.status()
    assert list(status)[:3] == ["service", "apiStatus", "apiStatusMessage"]
    assert status["apiStatus"] == "Valid"
    assert status["apiStatusMessage"] == "Api Key is valid, no action needed."
    assert status["state"] == "ACTIVE"
    assert status["evaluation"] is True
    assert status["license"]["daysLeft"] in {89, 90}
    assert status["metering"]["windowClosesAt"]
    assert status["core"]["answers"] is True


@pytest.mark.parametrize("path", ["/ContainerLiveness", "/ready", "/status", "/", "/metrics", "/records/usage-logs/"])
def test_head_mirrors_get(service: Site, path: str) -> None:
    import requests

    head = requests.head(service.url + path, timeout=10)
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    "path",
    ["/", "/languages", "/languages/", "//Languages", "/swagger", "//swagger", "/swagger/", "/swagger/index.html"],
)
def test_pages_fetch_everything_from_here(service: Site, path: str) -> None:
    answer = service.get(path)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    links = Links(answer.text)
    assert links.fetched
    base = answer.url.removeprefix(service.url).rpartition("/")[0]
    for address in links.fetched + links.followed:
        assert not re.match(r"(https?:)?//", address), address
        fetched = service.get(address if address.startswith("/") else f"{base}/{address}")
        assert fetched.status_code == 200, address
        assert fetched.content


def test_home_shows_the_one_decision(service: Site) -> None:
    page = service.get("/").text
    assert "ACTIVE" in page
    assert "EVALUATION LICENCE" in page
    assert f"{service.url}/vision/v3.2/read/syncAnalyze" in page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_every_page_is_legible_and_fits(service: Site, browser: Browser, scheme: str, width: int) -> None:
    with seen(browser, width, scheme):
        for path in ("/", "/languages", "/nowhere"):
            browser.open(f"{service.url}{path}")
            assert hard_to_read(browser) == [], path
            assert is_light(browser) is (scheme == "light")
            logo, title = (browser.find(f"header > {one}").rect for one in ("img", "div"))
            assert logo["y"] < title["y"] + title["height"], f"{path}: the logo stands alone"
            assert title["y"] < logo["y"] + logo["height"], f"{path}: the logo stands alone"
        browser.open(f"{service.url}/")
        assert browser.find("dd.long").text == service.status()["license"]["id"]
        assert broken(browser, "dd.long") == []


def test_openapi_document_describes_every_route(service: Site) -> None:
    document = service.get("/swagger/vision-v3.2-read/swagger.json").json()
    assert document["openapi"].startswith("3.0")
    paths = set(document["paths"])
    assert {
        "/vision/v3.2/read/analyze",
        "/vision/v3.2/read/syncAnalyze",
        "/vision/v3.2/read/analyzeResults/{operationId}",
        "/vision/v3.2/read/operations/{operationId}",
    } == paths
    assert {"/ready", "/status"} <= set(service.get("/swagger/service/swagger.json").json()["paths"])
    references = set(
        re.findall(r'"#/components/schemas/(\w+)"', service.get("/swagger/vision-v3.2-read/swagger.json").text)
    )
    assert references == set(document["components"]["schemas"])
    assert service.get("/swagger/vision-v9-read/swagger.json").status_code == 404


def test_metrics_are_prometheus_and_say_the_same(service: Site) -> None:
    text = service.get("/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    states = {sample.labels["state"]: sample.value for sample in families["tollgate_state"].samples}
    assert states.pop("ACTIVE") == 1
    assert set(states.values()) == {0}
    (serving,) = families["tollgate_serving"].samples
    assert serving.value == 1
    (expiry,) = families["license_expiration_timestamp_seconds"].samples
    assert expiry.value > 1_700_000_000


# ---- the commands ---------------------------------------------------------------------------------------------------


def test_health_and_status_commands(service: Site) -> None:
    healthy = command("sidecar", "health", *service.words)
    assert (healthy.returncode, healthy.stdout) == (0, "Api is ready..\n")
    for process, told in (("meter", "the meter is at work"), ("core", "the core answers")):
        healthy = command("sidecar", "health", "--of", process, *service.words)
        assert healthy.returncode == 0
        assert told in healthy.stdout
    told = command("sidecar", "status", *service.words)
    assert told.returncode == 0
    assert told.stdout.startswith("ACTIVE: Active\n")
    assert "(EVALUATION)" in told.stdout


def test_diagnose_finds_nothing_wrong(service: Site) -> None:
    done = command("sidecar", "diagnose", *service.words)
    assert done.returncode == 0, done.stdout
    amiss = [line for line in done.stdout.splitlines() if line.split()[0] != "ok" and "→" not in line]
    assert all("confinement" in line for line in amiss), amiss  # what a kernel refuses is no fault of ours
    assert "ACTIVE" in done.stdout


def test_diagnose_names_every_cause_with_the_service_down() -> None:
    site = Site("Core:CpuInfo=/dev/null")
    try:
        site.license_file.write_text("nonsense")
        (site.folder / "output").rmdir()
        done = command("sidecar", "diagnose", *site.words)
        assert done.returncode == 1
        for cause in ("AVX2", "license.dat", str(site.folder / "output")):
            assert cause in done.stdout
        assert done.stdout.count("→") >= 4
    finally:
        site.remove()


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["Mounts:License=/tmp"], 64, "EULA=accept"),
        (["eula=no"], 64, "EULA=accept"),
        (["eula=accept", "billing=nonsense"], 65, "Invalid Billing Endpoint URI."),
        (["eula=accept", "Mounts:License=/nowhere"], 65, "Mounts:License"),
        (["eula=accept", "nonsense"], 64, "Key=Value"),
        (["eula=accept", "Metering:MaxAttempts=ten"], 65, "Metering:MaxAttempts"),
        (["nonsense"], 64, "nonsense"),
        (["--nonsense"], 64, "nonsense"),
    ],
)
def test_start_refusals(words: list[str], code: int, text: str) -> None:
    done = command("sidecar", *words)
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_empty_argument_list_with_a_full_environment_starts() -> None:
    """Everything from the environment, in the spelling that orchestrators allow."""
    site = Site()
    try:
        environment = {word.split("=", 1)[0].replace(":", "__"): word.split("=", 1)[1] for word in site.words}
        environment["Mounts__License"] = "/nowhere/on/this/machine"
        done = command("sidecar", **environment)
        assert done.returncode == 65
        assert "/nowhere/on/this/machine" in done.stderr
    finally:
        site.remove()


def test_taken_port_is_named(service: Site) -> None:
    done = command("sidecar", *service.words)
    assert done.returncode == 65
    assert f"cannot listen on 127.0.0.1:{service.port}" in done.stderr


@pytest.mark.parametrize("name", ["sidecar", "ocr-core", "licenses", "usage-verify"])
def test_every_command_has_help_and_version(name: str) -> None:
    assert command(name, "--help").returncode == 0
    version = command(name, "--version")
    assert version.returncode == 0
    assert "0.1.0" in version.stdout
