"""The API page in a real browser: every document is offered, and 'Try it out' works with a file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

from tests.e2e.browser import Browser
from tests.e2e.legible import seen, touch
from tests.e2e.site import Site
from tests.pages import LINES, as_png, character_error_rate, printed_page

PAGE = printed_page(LINES[:3], size=(1240, 500))
GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "page.png"
    path.write_bytes(as_png(PAGE))
    return path


def opened(browser: Browser, operation: str) -> WebElement:
    """One operation, unfolded and ready to be tried."""
    browser.click(f"[id$='-{operation}'] .opblock-summary-control")
    browser.click(f"[id$='-{operation}'] .try-out__btn")
    return browser.find(f"[id$='-{operation}']")


def executed(browser: Browser, block: WebElement) -> tuple[int, str]:
    """Status and everything else that the page shows of the answer to a click on 'Execute'."""
    browser.click(".execute", within=block)
    browser.wait(lambda: not block.find_elements(By.CSS_SELECTOR, ".loading-container"), "no answer is shown")
    answer = browser.find(".live-responses-table .response", within=block)
    status, _, rest = answer.text.partition("\n")
    return int(status.split()[0]), rest


def test_page_offers_every_document_and_takes_all_of_itself_from_here(service: Site, browser: Browser) -> None:
    browser.open(f"{service.url}/swagger/")
    choices = Select(browser.find(".topbar select"))
    titles = [option.text for option in choices.options]
    assert titles[0] == "Read 3.2"
    assert len(set(titles)) == len(titles)
    for option in choices.options:
        address = f"{service.url}/swagger/{option.get_attribute('value')}"
        title = service.get(address.removeprefix(service.url)).json()["info"]["title"]
        assert title == option.text
    for title in ("The service itself", titles[-1], "Read 3.2"):
        Select(browser.find(".topbar select")).select_by_visible_text(title)
        browser.wait(lambda wanted=title: wanted in browser.find(".info .title").text, f"{title} is not shown")
        assert browser.find(".opblock")
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [1280, 800, 760, 400])
def test_nothing_lies_over_the_heading(service: Site, browser: Browser, width: int) -> None:
    with seen(browser, width):
        browser.open(f"{service.url}/swagger/")
        browser.find(".topbar select")
        assert not touch(browser, "body > header a, .topbar .select-label span")


def test_try_it_out_reads_a_file(service: Site, browser: Browser, picture: Path) -> None:
    browser.open(f"{service.url}/swagger/index.html")
    submit = opened(browser, "readAnalyze")
    browser.find("input[type=file]", within=submit).send_keys(str(picture))
    status, shown = executed(browser, submit)
    assert status == 202
    location = re.search(r"operation-location: (\S+)", shown)
    assert location, shown
    assert location[1].startswith(f"{service.url}/vision/v3.2/read/analyzeResults/")
    (operation_id,) = GUID.findall(location[1])

    fetch = opened(browser, "getReadResult")
    browser.find("input[placeholder=operationId]", within=fetch).send_keys(operation_id)

    def answered() -> str | None:
        status, shown = executed(browser, fetch)
        assert status == 200
        return shown if '"succeeded"' in shown else None

    shown = browser.wait(answered, "the operation does not end")
    assert shown is not None
    body = browser.find(".live-responses-table .response .microlight", within=fetch).text
    (page,) = json.loads(body)["analyzeResult"]["readResults"]
    assert character_error_rate(PAGE.text, "\n".join(line["text"] for line in page["lines"])) < 0.02
    assert browser.complaints() == []
