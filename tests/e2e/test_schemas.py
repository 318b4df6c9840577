"""schemathesis over the OpenAPI documents against a whole service, with every check that it has.

The short form always draws the same requests, those that go through each schema systematically and a few more, and
leaves out previews, whose routes and schemas are made from the same table as those of the version that they came
before; `make test-schemas` takes every document, draws anew and more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from schemathesis.generation.case import Case
from schemathesis.hooks import HookContext
from schemathesis.specs.openapi.media_types import unregister_all

from tests.e2e.site import Site, a_site
from tests.fakes.web_server import served
from tests.integration.sidecar.test_openapi import DOCUMENTS
from tests.pages import as_bmp, as_jpeg, as_pdf, as_png, as_tiff, encoded, printed_page

FULL = os.environ.get("SCHEMAS") == "full"
EXAMPLES = 50 if FULL else 5
NAMES = [name for name in DOCUMENTS if FULL or "-preview" not in name]
PAGE = printed_page(["Gate 7"], size=(160, 60), points=9)
DOCUMENTS_OF_KIND = {
    "application/octet-stream": as_png(PAGE),
    "application/pdf": as_pdf([PAGE]),
    "image/bmp": as_bmp(PAGE),
    "image/gif": encoded(PAGE.image, "GIF"),
    "image/jpeg": as_jpeg(PAGE),
    "image/png": as_png(PAGE),
    "image/tiff": as_tiff([PAGE]),
    "image/webp": encoded(PAGE.image, "WEBP", lossless=True),
    "image/x-icon": encoded(PAGE.image, "ICO", sizes=[(160, 60)]),
}
"""A document for each kind of body that is no document by chance."""


class Picture(BaseHTTPRequestHandler):
    """The page, whatever is asked for."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(DOCUMENTS_OF_KIND["image/png"])))
        self.end_headers()
        self.wfile.write(DOCUMENTS_OF_KIND["image/png"])

    def log_message(self, *_words: object) -> None:
        pass


@pytest.fixture(scope="module")
def pictures() -> Iterator[str]:
    """Where a document can be fetched by URL."""
    with served(Picture) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def site(pictures: str) -> Iterator[Site]:
    """A service; schemathesis is given the bodies, ids, languages and addresses that no generator finds by itself."""
    with a_site(f"Sidecar:AllowedImageSources={pictures}") as one:
        location = one.submit(as_png(PAGE))
        assert one.result(location)["status"] == "succeeded"

        @schemathesis.hook
        def map_case(_context: HookContext, case: Case) -> Case:
            if case.meta is None or not case.meta.generation.mode.is_positive:
                return case
            for values, known in (
                (case.path_parameters, {"operationId": location[-36:]}),
                (case.query, {"language": "en", "pages": "1"}),
                (case.body, {"file": as_png(PAGE), "url": f"{pictures}/page.png"}),
            ):
                if isinstance(values, dict):
                    values.update({name: known[name] for name in known if name in values})
            return case

        for kind, document in DOCUMENTS_OF_KIND.items():
            schemathesis.openapi.media_type(kind, st.just(document))
        yield one
    unregister_all()
    schemathesis.hooks.unregister_all()


def failures(address: str, **more: Any) -> Iterator[str]:
    """Everything that schemathesis finds wrong with what one document describes; it takes further settings."""
    settings: dict[str, Any] = {
        "continue-on-failure": True,
        "generation": {"deterministic": not FULL},
        "phases": {"fuzzing": {"generation": {"max-examples": EXAMPLES}}},
        **more,
    }
    schema = schemathesis.openapi.from_url(address, config=SchemathesisConfig.from_dict(settings))
    sent = 0
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            yield repr(event)
        elif isinstance(event, events.ScenarioFinished):
            sent += len(event.recorder.interactions)
            for case_id, checks in event.recorder.checks.items():
                for check in checks:
                    if check.failure_info is not None:
                        case = event.recorder.cases[case_id].value
                        response = event.recorder.interactions[case_id].response
                        answered = "" if response is None else f"{response.status_code} {response.content[:200]!r}"
                        yield f"{check.name}: {check.failure_info.failure}\n{case.as_curl_command()[:1000]}\n{answered}"
    assert sent


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_what_the_document_says(site: Site, name: str) -> None:
    found = list(failures(f"{site.url}/swagger/{name}/swagger.json"))
    assert not found, "\n\n".join(found)
