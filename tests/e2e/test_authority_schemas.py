"""schemathesis over the authority's OpenAPI document, with every check that it has; see `test_schemas`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis.generation.case import Case
from schemathesis.hooks import HookContext
from schemathesis.specs.openapi.media_types import unregister_all

from licenses.authority.web.bodies import BUNDLE_TYPES
from licenses.model import CONTAINER_TYPE
from tests.e2e.test_authority import an_appliance
from tests.e2e.test_schemas import failures
from tests.e2e.vendor import API, Vendor, a_vendor_at_work


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vendor]:
    """A service that knows one appliance; schemathesis is given what it signed, which no generator finds by itself."""
    with a_vendor_at_work() as one:
        site = an_appliance(one, tmp_path_factory.mktemp("appliance"))
        site.meter.window(uses=2)
        blob, report = site.bundle().read_bytes(), json.loads(site.body(site.report()))
        assert one.post("/bundles", blob, kind="application/gzip").status_code == 200
        enrolment, public = json.loads(site.enrolment()), site.meter.device.verifying.raw.hex()

        @schemathesis.hook
        def map_case(_context: HookContext, case: Case) -> Case:
            if case.meta is None or not case.meta.generation.mode.is_positive:
                return case
            if case.path_parameters:
                case.path_parameters.update(origin=site.origin, size="latest")
            if isinstance(case.body, dict) and "meter" in case.body:
                case.body = report if "report" in case.body else {**case.body, "containerType": report["containerType"]}
            elif isinstance(case.body, dict):
                known = {"containerType": CONTAINER_TYPE, "devicePublicKey": public, "enrolment": enrolment}
                case.body.update({name: known[name] for name in known if case.body.get(name) is not None})
            return case

        for kind in BUNDLE_TYPES:
            schemathesis.openapi.media_type(kind, st.just(blob))
        yield one
    unregister_all()
    schemathesis.hooks.unregister_all()


def test_answers_are_what_the_document_says(vendor: Vendor) -> None:
    found = list(failures(f"{vendor.url}{API}/openapi.json", auth={"openapi": {"apiKey": {"api_key": vendor.key}}}))
    assert not found, "\n\n".join(found)
    lines = vendor.log_lines()
    assert not [line for line in lines if line["level"] != "info"]
    for route, expected in (("license", 200), ("usage", 200), ("bundles", 200), ("acknowledgements", 200)):
        assert any(line.get("status") == expected and f"/{route}" in line["route"] for line in lines), route
