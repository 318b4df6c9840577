"""How often a subscription may call, and how many bundles come at once."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licenses.authority.web.services import CallRate, Uploads
from licenses.errors import BusyError


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_calls_that_come_together_and_then_one_by_one() -> None:
    clock = Clock()
    rate = CallRate(2.0, 3, clock)
    assert [rate.wait_seconds("a") for _ in range(3)] == [0.0, 0.0, 0.0]
    assert rate.wait_seconds("a") == 0.5
    assert rate.wait_seconds("b") == 0.0
    clock.now += 0.25
    assert rate.wait_seconds("a") == pytest.approx(0.25)
    clock.now += 0.25
    assert rate.wait_seconds("a") == 0.0
    assert rate.wait_seconds("a") > 0
    clock.now += 3600
    assert [rate.wait_seconds("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


@given(pauses=st.lists(st.floats(0, 5), max_size=60), per_second=st.floats(0.1, 50), at_once=st.integers(1, 20))
def test_never_more_than_the_rate_allows(pauses: list[float], per_second: float, at_once: int) -> None:
    clock = Clock()
    rate, allowed = CallRate(per_second, at_once, clock), 0
    for pause in pauses:
        clock.now += pause
        wait = rate.wait_seconds("a")
        allowed += wait == 0
        assert allowed <= at_once + (clock.now - 1000) * per_second + 1e-6
        if wait:
            clock.now += wait + 1e-9
            assert rate.wait_seconds("a") == 0.0  # who waits as he was told is let in
            allowed += 1


@pytest.mark.parametrize("who", [None, "s-1"])
def test_places_are_given_back_however_a_request_ends(tmp_path: Path, who: str | None) -> None:
    uploads = Uploads(tmp_path, at_once=1 if who is None else 2)
    with pytest.raises(ZeroDivisionError), uploads.place(who):
        raise ZeroDivisionError
    with uploads.place(who), pytest.raises(BusyError) as told, uploads.place("s-2"):
        pass
    assert told.value.retry_after == 30
    with uploads.place(who):
        pass


def test_one_subscription_keeps_neither_others_nor_the_clerk_out(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, at_once=6, each=2)
    with contextlib.ExitStack() as held:
        for one in ("s-1", "s-1"):
            held.enter_context(uploads.place(one))
        with pytest.raises(BusyError, match="of your bundles"):
            held.enter_context(uploads.place("s-1"))
        for one in ("s-2", "s-2", "s-3"):
            held.enter_context(uploads.place(one))
        with pytest.raises(BusyError, match="as many bundles"):
            held.enter_context(uploads.place("s-3"))
        held.enter_context(uploads.place(None))
        with pytest.raises(BusyError, match="as many bundles"):
            held.enter_context(uploads.place(None))
    for _ in range(3):
        with uploads.place("s-1"), uploads.place("s-1"):
            pass


def test_the_clerk_takes_no_more_than_there_are(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, at_once=3, each=2)
    with uploads.place(None), uploads.place(None), uploads.place("s-1"), pytest.raises(BusyError), uploads.place("s-2"):
        pass


def test_one_bundle_is_verified_at_a_time(tmp_path: Path) -> None:
    uploads, running, most = Uploads(tmp_path), [0], [0]

    def verify() -> None:
        with uploads.turn():
            running[0] += 1
            most[0] = max(most[0], running[0])
            threading.Event().wait(0.01)
            running[0] -= 1

    threads = [threading.Thread(target=verify) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert (most, running) == ([1], [0])


def test_a_turn_that_does_not_come_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("licenses.authority.web.services._VERIFY_SECONDS", 0.01)
    uploads = Uploads(tmp_path)
    with uploads.turn(), pytest.raises(BusyError) as told, uploads.turn():
        pass
    assert told.value.retry_after == 60
