"""What holds for every test: in which order files are taken, what a process carries, that none fails for being slow.

Files are shared out among the processes as they become free (`make test`). Those that take longest come first, so that
no process is left with one of them when the others have ended.
"""

import gc
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

TESTS = Path(__file__).parent
LONGEST_FIRST = (
    "e2e/test_crash.py",
    "e2e/test_connected_authority.py",
    "integration/sidecar/test_io_faults.py",
    "e2e/test_schemas.py",
    "e2e/test_clock.py",
    "e2e/test_authority.py",
    "e2e/test_clerk.py",
    "e2e/test_meter.py",
    "e2e/test_exchange.py",
    "e2e/test_connected_refusals.py",
    "e2e/test_docs_authority.py",
    "e2e/test_connected.py",
    "integration/ocr_core/test_core_process.py",
    "e2e/test_faults.py",
    "e2e/test_wire.py",
    "e2e/test_kills.py",
    "e2e/test_air_gap.py",
    "e2e/test_docs_auditing.py",
    "integration/ocr_core/test_reading.py",
    "e2e/test_walls.py",
    "integration/sidecar/test_output_faults.py",
    "e2e/test_privacy.py",
    "e2e/test_download.py",
    "integration/sidecar/test_ledger_repair.py",
    "e2e/test_read.py",
    "e2e/test_pictures.py",
    "integration/ocr_core/test_languages_read.py",
    "integration/ocr_core/test_polygons.py",
    "e2e/test_storm.py",
    "e2e/test_samples.py",
    "e2e/test_docs_connected.py",
    "e2e/test_docs_licensing.py",
    "integration/licenses/authority/test_api.py",
    "integration/licenses/authority/test_server.py",
    "integration/licenses/test_mutations.py",
    "e2e/test_service_pages.py",
    "e2e/test_hostile.py",
    "integration/ocr_core/test_second_engine.py",
    "e2e/test_logs.py",
    "integration/ocr_core/test_hostile.py",
)
"""By the seconds they take on two processors; all others come after them."""

_PLACES = {TESTS / name: place for place, name in enumerate(LONGEST_FIRST)}

# A busy machine is no fault of the code; what has to be quick has a test that says how quick.
settings.register_profile("tollgate", deadline=None)
settings.load_profile("tollgate")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first; within a file nothing changes its place."""
    items.sort(key=lambda item: _PLACES.get(item.path, len(_PLACES)))


def pytest_collection_finish() -> None:
    """Keep the collector from going through thousands of collected tests each time."""
    gc.collect()
    gc.freeze()


def pytest_runtest_teardown() -> None:
    """Forget how a test had the log written: a command that runs in this process sets it up, and leaves it so."""
    structlog.reset_defaults()
