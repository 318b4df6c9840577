"""Whole services. `service` is shared by tests that leave it as it was; the others take `a_site` for themselves."""

from collections.abc import Iterator

import pytest

from tests.e2e.browser import Browser, a_browser
from tests.e2e.site import Site, a_site


@pytest.fixture(scope="session")
def service() -> Iterator[Site]:
    with a_site() as site:
        yield site


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with a_browser() as one:
        yield one
