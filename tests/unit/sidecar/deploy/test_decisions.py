"""How an upgrade that was cut off is ended, and what a look from inside means."""

from __future__ import annotations

import pytest

from sidecar.deploy.decisions import Mend, foreign_folders, mend, obstacles
from sidecar.deploy.plan import Found
from sidecar.deploy.words import Finding, Told
from tests.fakes.container_engine import a_status
from tests.unit.sidecar.deploy.test_plan import a_plan


def a_container(*, is_running: bool) -> Found:
    return Found(
        id="x",
        status="running" if is_running else "exited",
        is_running=is_running,
        exit_code=0,
        restarts=0,
        started_at="",
        plan=a_plan(),
        version="1",
    )


RUNS, STANDS = a_container(is_running=True), a_container(is_running=False)
REMOVE_NEXT, STOP, REMOVE, BRING_BACK, START, REMOVE_PREVIOUS = Mend


@pytest.mark.parametrize(
    ("current", "previous", "following", "serves", "steps"),
    [
        (None, None, None, False, ()),
        (RUNS, None, None, True, ()),
        (STANDS, None, None, False, ()),  # stopped on purpose: nothing was cut off
        (RUNS, None, STANDS, True, (REMOVE_NEXT,)),
        (STANDS, None, STANDS, False, (REMOVE_NEXT, START)),
        (None, STANDS, STANDS, False, (REMOVE_NEXT, BRING_BACK, START)),
        (STANDS, STANDS, None, False, (REMOVE, BRING_BACK, START)),
        (RUNS, STANDS, None, False, (STOP, REMOVE, BRING_BACK, START)),
        (RUNS, STANDS, None, True, (REMOVE_PREVIOUS,)),
        (None, STANDS, None, False, (BRING_BACK, START)),
    ],
)
def test_an_upgrade_that_was_cut_off(
    current: Found | None, previous: Found | None, following: Found | None, serves: bool, steps: tuple[Mend, ...]
) -> None:
    assert mend(current, previous, following, serves=serves) == steps


def a_finding(name: str, result: str = "fail", code: str = "") -> Finding:
    return Finding(name=name, result=result, cause="c", next_step="s", code=code)


def test_the_processor_comes_first_among_what_is_in_the_way() -> None:
    found = [a_finding("output"), a_finding("licence"), a_finding("page", "warn"), a_finding("processor")]
    assert [one.name for one in obstacles(found)] == ["processor", "output"]


def test_folders_of_the_host_can_be_given_and_volumes_cannot() -> None:
    codes = [a_finding(name, code="wrong_owner") for name in ("output", "state", "licence folder", "spool")]
    assert foreign_folders(codes, a_plan()) == ["/srv/output", "/srv/license"]
    assert foreign_folders([a_finding("output", code="")], a_plan()) == []


@pytest.mark.parametrize(
    ("state", "is_settled", "code"),
    [
        ("ACTIVE", True, 0),
        ("GRACE", True, 0),
        ("STARTING", False, 69),
        ("CORE_DOWN", False, 69),
        ("SUSPENDED", False, 69),
        ("UNLICENSED", True, 78),
        ("OUT_OF_QUOTA", True, 78),
        ("METERING_CUTOFF", True, 69),
        ("HOST_UNSUPPORTED", True, 132),
    ],
)
def test_what_a_state_means(state: str, is_settled: bool, code: int) -> None:
    told = Told.from_status(a_status(state))
    assert (told.is_settled, told.exit_code) == (is_settled, code)


@pytest.mark.parametrize("facts", [{}, {"state": "ACTIVE"}, {**a_status("ACTIVE"), "warnings": None}])
def test_what_is_no_status_is_none(facts: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no status"):
        Told.from_status(facts)


@pytest.mark.parametrize("told", [{}, [1], [{"name": "x"}], None, "text"])
def test_what_are_no_checks_are_none(told: object) -> None:
    if told == {}:
        assert Finding.from_checks(told) == []
        return
    with pytest.raises(ValueError, match="no checks"):
        Finding.from_checks(told)
