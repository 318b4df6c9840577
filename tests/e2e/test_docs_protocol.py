"""docs/protocol.md: every command runs and prints what it says, and nothing that the service can say is left out."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest

from licenses import errors as family
from licenses.authority.web import api, bodies, errors, worker
from licenses.authority.web.errors import WIRE_ERRORS
from licenses.authority.web.wire import LicenseRequest, UsageAnswer, UsageBody, Word
from licenses.errors import AccountError, AuthorityError, ClerkAccessError, LicensesError, TooManyTriesError
from tests.docs import PROJECT, run_document
from tests.e2e.vendor import Vendor, a_vendor_at_work
from tests.fakes.records import FakeMeter
from tests.fakes.vendor_books import FakeSite
from tests.unit.licenses.authority.web.test_openapi import DOCUMENT as OPENAPI

DOCUMENT = PROJECT / "docs" / "protocol.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
OF_THE_CLERK = {ClerkAccessError, TooManyTriesError}


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    with a_vendor_at_work() as one:
        yield one


def test_commands_of_the_document_run(vendor: Vendor, tmp_path: Path) -> None:
    name = json.loads(vendor.licenses("inspect", vendor.trust_root, "--json"))["vendor"]
    place, appliance = tmp_path / "run", tmp_path / "appliance"
    place.mkdir()
    site = FakeSite(FakeMeter(appliance / "output", vendor=name, at=datetime.now(UTC)), appliance)
    (place / "enrolment.dsse.json").write_bytes(site.enrolment())
    site.meter.window(uses=3)
    twin = site.copy()
    (place / "report.json").write_bytes(site.body(site.report()))
    site.meter.window(uses=2)
    shutil.copy(site.bundle(), place / "bundle.tar.gz")
    twin.meter.window(uses=2)
    (place / "twin.json").write_bytes(twin.body(twin.report(id="0c0ffee0-2c77-4c0e-8f7d-6a3f0f7f9b10")))
    shutil.copy(vendor.trust_root, place / "trust-root.json")
    (place / "key.header").write_text(f"Ocp-Apim-Subscription-Key: {vendor.key}\n")
    assert run_document(DOCUMENT, place, environment={"AUTHORITY": vendor.url}) >= 25


def codes() -> set[str]:
    """Every code that an answer of the API may have."""
    found = {"internal"}
    for module in (errors, bodies, api, worker):
        text = Path(str(module.__file__)).read_text()
        found |= set(re.findall(r'"((?:request_|authority_too|not_found|method_not)[a-z_]*)"', text))
    kinds: list[type[LicensesError]] = [LicensesError]
    for kind in kinds:
        kinds += kind.__subclasses__()
        if kind.__module__ == family.__name__ and kind not in OF_THE_CLERK:
            named = issubclass(kind, AuthorityError) and kind is not AuthorityError
            found |= {kind.code} if named or kind in WIRE_ERRORS else set()
    return found - {LicensesError.code}


def test_every_code_word_and_status_is_told() -> None:
    assert AccountError.code in codes()
    assert "request_too_slow" in codes()
    for code in codes():
        assert f"`{code}`" in TEXT, code
    told = set(re.findall(r"`([a-z]+_[a-z_]+)`", TEXT))
    assert told - codes() == {"revoked_key", "key_file"}  # kinds of others that are named
    for word in get_args(Word):
        assert f"`{word}`" in TEXT or f'"{word}"' in TEXT, word
    for methods in OPENAPI["paths"].values():
        for one in methods.values():
            for status in set(one["responses"]) - {"200"}:
                assert re.search(rf"^\| .*\b{status}\b", TEXT, re.MULTILINE), status


def test_every_request_header_and_member_is_told() -> None:
    for path, methods in OPENAPI["paths"].items():
        for method, one in methods.items():
            assert f"{method.upper()} {path.removeprefix(api.PREFIX)}" in TEXT
            for header in one["responses"]["200"].get("headers", {}):
                assert f"`{header}`" in TEXT, header
    for model in (LicenseRequest, UsageBody, UsageAnswer):
        for field in model.__struct_encode_fields__:
            assert re.search(rf"[`\"]{field}[`\"]", TEXT), field
    assert f"up to {bodies.MAX_BODY_BYTES // 1024} KiB" in TEXT
    assert f"within {worker.HEAD_SECONDS:.0f} seconds" in TEXT
