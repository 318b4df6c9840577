"""The vendor's side of a test, with one appliance that has three windows."""

import pytest

from tests.fakes.vendor_books import VendorBooks


@pytest.fixture
def books(tmp_path):
    """The vendor's side."""
    made = VendorBooks(tmp_path)
    yield made
    made.database.close()


@pytest.fixture
def appliance(books):
    """An enrolled appliance: three windows with 3, 2 and 4 pages."""
    made = books.site()
    for uses in (3, 2, 4):
        made.meter.window(uses=uses)
    return made
