"""Chromium for tests: the distribution's own, with no window and a fresh profile, able to reach this machine alone."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

_BINARIES = ("chromium", "google-chrome", "google-chrome-stable")
_PATIENCE_SECONDS = 30
_T = TypeVar("_T")


class Browser:
    """A browser and the few things that a person does with it.

    Attributes:
        driver: Selenium's own, for everything else.
    """

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, address: str) -> None:
        self.driver.get_log("browser")  # what was said before is of no interest
        self.driver.get(address)

    def wait(self, holds: Callable[[], _T], what: str) -> _T:
        # While a page gives way to the next, what is asked of it may be gone before the answer: it is asked again.
        waiting = WebDriverWait(
            self.driver, _PATIENCE_SECONDS, poll_frequency=0.1, ignored_exceptions=[WebDriverException]
        )
        return waiting.until(lambda _: holds(), what)

    def find(self, css: str, *, within: WebElement | None = None) -> WebElement:
        """The first element that matches, as soon as it is there."""
        place = within or self.driver

        def found() -> WebElement | None:
            return next(iter(place.find_elements(By.CSS_SELECTOR, css)), None)

        element = self.wait(found, f"nothing matches {css}")
        assert element is not None
        return element

    def click(self, css: str, *, within: WebElement | None = None) -> None:
        """Click once the element is there; wherever the page has been scrolled to."""
        element = self.find(css, within=within)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def complaints(self) -> list[str]:
        """What the console holds against the page since it was opened: errors, and what the page's policy forbids."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@contextlib.contextmanager
def a_browser() -> Iterator[Browser]:
    """A browser that ends with the test; skips where there is none to be had."""
    binary = next(filter(None, map(shutil.which, _BINARIES)), None)
    driver_binary = shutil.which("chromedriver")
    if binary is None or driver_binary is None:
        pytest.skip("Chromium and chromedriver are not installed; scripts/system-packages test installs them")
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        options = ChromeOptions()
        options.binary_location = binary
        for word in (
            "--headless=new",
            "--no-sandbox",  # which Chromium does not have when it is run by root
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--no-first-run",
            "--window-size=1280,1600",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
            f"--user-data-dir={profile}",
        ):
            options.add_argument(word)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = Chrome(options=options, service=ChromeService(driver_binary))
        try:
            yield Browser(driver)
        finally:
            driver.quit()
