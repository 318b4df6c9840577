"""What the tests of faults share: a vendor, interpreters whose system calls can be made to fail, a folder in memory."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.io_faults import Stage, build, quick_folder
from tests.fakes.licences import FakeVendor, a_vendor


@pytest.fixture(scope="session")
def vendor() -> FakeVendor:
    return a_vendor()


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Stage]]:
    """As many as there are processors; each forks once per life, so none has a past."""
    library = build(tmp_path_factory.mktemp("shim"))
    opened = [Stage(library, ("tests.fakes.meter_life",)) for _ in range(max(2, os.cpu_count() or 2))]
    yield opened
    for stage in opened:
        stage.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder
