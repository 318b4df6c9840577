from collections.abc import Iterator

import pytest

from tests.integration.ocr_core.running_core import RunningCore, running_core


@pytest.fixture(scope="module")
def core() -> Iterator[RunningCore]:
    """One core for the tests of a module that leave it as they found it."""
    with running_core() as running:
        yield running


@pytest.fixture
def own_core() -> Iterator[RunningCore]:
    """A core for one test that does something to it; not started yet."""
    running = RunningCore()
    try:
        yield running
    finally:
        running.clean_up()
