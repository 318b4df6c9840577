"""Every state is explained; every error is mapped."""

from http import HTTPStatus

import pytest

import sidecar.bootstrap  # noqa: F401 - loads every module that adds to the family
from sidecar.admission import NotServingError
from sidecar.errors import DocumentRefusedError, SidecarError
from sidecar.gate import State, Verdict
from sidecar.states import STATES, refusal_message, status_message
from sidecar.web.errors import WIRE_ERRORS, wire_error

PUBLIC_WORDS = {
    "Valid",
    "Invalid",
    "Mismatch",
    "CouldNotConnect",
    "OutOfQuota",
    "BillingEndpointBusy",
    "ContainerUseUnauthorized",
    "Unknown",
}


@pytest.mark.parametrize("state", list(State))
def test_state_has_public_word_title_and_next_step(state: State) -> None:
    info = STATES[state]
    assert info.public in PUBLIC_WORDS
    assert info.title
    assert bool(info.next_step) is (state is not State.ACTIVE)
    assert info.http_status in {200, 403, 503}


def test_refusal_has_every_word_that_users_search_for() -> None:
    verdict = Verdict(state=State.OUT_OF_QUOTA, reason="5 of 5 licensed pages are used", serves=False)
    message = refusal_message(verdict)
    assert message.startswith(
        "Container is not in a valid state. Subscription validation failed with status 'OutOfQuota'."
    )
    assert "5 of 5 licensed pages are used" in message
    assert STATES[State.OUT_OF_QUOTA].next_step in message


def test_active_message_is_the_known_one() -> None:
    verdict = Verdict(state=State.ACTIVE, reason="fine", serves=True)
    assert status_message(verdict) == "Api Key is valid, no action needed."


def subclasses(of: type[SidecarError]) -> set[type[SidecarError]]:
    return {of} | {one for child in of.__subclasses__() for one in subclasses(child)}


def test_every_error_of_the_family_has_a_place_on_the_wire() -> None:
    assert subclasses(SidecarError) - {SidecarError} == set(WIRE_ERRORS)


def test_retry_goes_with_503_alone() -> None:
    assert all(wire.status is HTTPStatus.SERVICE_UNAVAILABLE for wire in WIRE_ERRORS.values() if wire.retry)


@pytest.mark.parametrize(
    ("state", "status", "retry"),
    [
        (State.UNLICENSED, 403, False),
        (State.METERING_CUTOFF, 403, False),
        (State.STARTING, 503, True),
        (State.HOST_UNSUPPORTED, 503, False),
    ],
)
def test_refused_query_on_the_wire(state: State, status: int, retry: bool) -> None:
    wire = wire_error(NotServingError(Verdict(state=state, reason="why", serves=False)))
    assert (wire.status, wire.retry) == (status, retry)
    assert wire.code == ("NoCredit" if status == 403 else "ServiceUnavailable")


def test_document_error_carries_its_own_code() -> None:
    wire = wire_error(DocumentRefusedError("InvalidImage", "broken"))
    assert (wire.status, wire.code, wire.message) == (400, "InvalidImage", "broken")
