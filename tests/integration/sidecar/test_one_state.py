"""One decision, shown everywhere: every state through the real application, page by page."""

from __future__ import annotations

import json
import re
import threading
from types import SimpleNamespace
from typing import cast

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from licenses.errors import FormatError
from licenses.folder import FileVerdict
from licenses.verify import Standing as LicenseStanding
from licenses.watch import LicenseView
from sidecar.admission import Standing
from sidecar.bootstrap import Services
from sidecar.gate import State, Verdict
from sidecar.settings import Settings
from sidecar.states import STATES
from sidecar.web.app import create_app
from tests.fakes.admission import FixedAdmission
from tests.fakes.clock import FakeClock
from tests.fakes.licences import NOW

SERVING = {State.ACTIVE, State.EXPIRING, State.GRACE, State.METERING_RETRY, State.OUTPUT_UNWRITABLE}


def client_in(state: State, *verdicts: FileVerdict) -> FlaskClient:
    serves = state in SERVING
    warnings = () if state is State.ACTIVE or not serves else (f"because of {state}",)
    verdict = Verdict(state=state, reason=f"because of {state}", serves=serves, warnings=warnings)
    standing = Standing(
        verdict=verdict,
        license=None,
        view=LicenseView(problem="none", verdicts=verdicts),
        ledger=None,
        core=None,
        window_closes_at=None,
        effective_at=NOW,
        quarantined=False,
    )
    one = SimpleNamespace(
        settings=Settings(),
        clock=FakeClock(),
        ledger=SimpleNamespace(totals=lambda _month=None: [], months=lambda _meter: []),
        admission=FixedAdmission(standing),
        reader=SimpleNamespace(waiting_operations=0),
        callers=threading.BoundedSemaphore(4),
    )
    return create_app(cast("Services", one)).test_client()


@pytest.mark.parametrize("path", ["/nothing", "/records/nothing/here", "/visions"])
def test_a_person_at_a_page_that_is_not_there_is_shown_the_way(path: str) -> None:
    page = client_in(State.ACTIVE).get(
        f"{path}?secret=1", headers={"Accept": "text/html,application/xml;q=0.9,*/*;q=0.8"}
    )
    assert (page.status_code, page.content_type) == (404, "text/html; charset=utf-8")
    text = page.data.decode()
    assert "No such page" in text
    assert "nothing/here" not in text
    assert "secret" not in text
    home = "../" * (path.count("/") - 1) or "./"
    assert f'<a href="{home}">Home</a>' in text
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    assert page.headers["Vary"] == "Accept"


@pytest.mark.parametrize(
    ("method", "path", "accept"),
    [
        ("GET", "/nothing", "*/*"),
        ("GET", "/nothing", "application/json"),
        ("GET", "/nothing", "text/*"),
        ("POST", "/nothing", "text/html"),
        ("GET", "/vision/v9.9/read/analyze", "text/html"),
        ("GET", "/Vision/", "text/html"),
        ("GET", "/computervision/nothing", "text/html"),
    ],
)
def test_a_client_of_the_api_gets_no_body_where_nothing_is(method: str, path: str, accept: str) -> None:
    answer = client_in(State.ACTIVE).open(path, method=method, headers={"Accept": accept})
    assert (answer.status_code, answer.data) == (404, b"")
    assert "Content-Type" not in answer.headers


@pytest.mark.parametrize("state", list(State))
def test_every_page_shows_the_same_state(state: State) -> None:
    client = client_in(state)
    info = STATES[state]
    serves = state in SERVING

    ready = client.get("/ready")
    assert ready.status_code == (200 if serves else 503)
    assert json.loads(ready.data)["ready"] == ("ready" if serves else "notready")

    status = json.loads(client.get("/status").data)
    assert (status["state"], status["apiStatus"], status["serves"]) == (state.value, info.public, serves)
    assert status["reason"] == f"because of {state}"
    assert status["nextStep"] == info.next_step
    assert f"because of {state}" in status["apiStatusMessage"] or state is State.ACTIVE

    home = client.get("/").data.decode()
    assert state.value in home
    assert info.title in home
    assert info.next_step.replace("'", "&#39;") in home
    word, heading = re.findall(r"<p class=\"word\">(.*)</p>\s*<div>\s*<h2>(.*)</h2>", home)[0]
    assert heading.casefold() != word.replace("_", " ").casefold()  # said once
    assert home.count(f"ecause of {state}.") == 1

    families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").data.decode())}
    shown = {sample.labels["state"] for sample in families["tollgate_state"].samples if sample.value == 1}
    assert shown == {state.value}
    assert families["tollgate_serving"].samples[0].value == float(serves)

    assert client.get("/records/usage-logs/").status_code == 200
    if not serves:
        refused = client.post("/vision/v3.2/read/analyze", data=b"x", content_type="image/png")
        assert refused.status_code == info.http_status
        error = json.loads(refused.data)["error"]
        assert f"'{info.public}'" in error["message"]
        assert f"because of {state}" in error["message"]
        assert info.next_step in error["message"]
        assert ("Retry-After" in refused.headers) is (info.http_status == 503 and state is not State.HOST_UNSUPPORTED)


def test_home_tells_of_each_file_that_is_at_fault_what_to_do() -> None:
    cut = FileVerdict("five.dat", FormatError.code, "not JSON: cut off", next_step=FormatError.usual_step)
    past = FileVerdict("four.dat", LicenseStanding.EXPIRED, "It expired.", next_step="Put a renewed one there.")
    home = client_in(State.UNLICENSED, cut, past).get("/").data.decode()
    assert f'<p class="file"><b>five.dat</b>: not JSON: cut off. {FormatError.usual_step}</p>' in home
    assert '<p class="file"><b>four.dat</b>: It expired.</p>' in home
