"""One decision, shown everywhere: every state through the real application, page by page."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from licenses.watch import LicenseView
from sidecar.admission import NotServingError, Standing
from sidecar.bootstrap import Services
from sidecar.gate import State, Verdict
from sidecar.settings import Settings
from sidecar.states import STATES
from sidecar.web.app import create_app
from tests.fakes.clock import FakeClock
from tests.fakes.licences import NOW

SERVING = {State.ACTIVE, State.EXPIRING, State.GRACE, State.METERING_RETRY, State.OUTPUT_UNWRITABLE}


@dataclass
class FixedAdmission:
    """Admission with a decision that a test has made."""

    standing: Standing

    def require(self) -> Standing:
        if not self.standing.verdict.serves:
            raise NotServingError(self.standing.verdict)
        return self.standing


def client_in(state: State) -> FlaskClient:
    serves = state in SERVING
    warnings = () if state is State.ACTIVE or not serves else (f"because of {state}",)
    verdict = Verdict(state=state, reason=f"because of {state}", serves=serves, warnings=warnings)
    standing = Standing(
        verdict=verdict,
        license=None,
        view=LicenseView(problem="none"),
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
