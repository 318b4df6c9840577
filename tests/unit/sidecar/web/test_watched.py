"""What gunicorn's master learns of its workers."""

from __future__ import annotations

import os

from sidecar.web.watched import WorkerReports


class Seconds:
    """A clock that goes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_decision_is_awaited() -> None:
    reports = WorkerReports()
    reports.tell("STARTING: waiting for the core", decided=False)
    reports.receive()
    assert (reports.is_decided, reports.sentence) == (False, "STARTING: waiting for the core")
    reports.tell("ACTIVE: all is well", decided=True)
    reports.tell("STARTING: again", decided=False)
    reports.receive()
    assert (reports.is_decided, reports.sentence) == (True, "STARTING: again")


def test_every_worker_must_be_heard_of() -> None:
    seconds = Seconds()
    reports, me = WorkerReports(seconds), os.getpid()
    assert not reports.all_work(set())
    reports.tell("ACTIVE: all is well", decided=True)
    reports.receive()
    assert reports.all_work({me})
    seconds.now += 15
    assert reports.all_work({me})
    seconds.now += 1
    assert not reports.all_work({me})
    reports.tell("ACTIVE: all is well", decided=True)
    reports.receive()
    assert reports.all_work({me})


def test_a_new_worker_has_time_to_start() -> None:
    seconds = Seconds()
    reports = WorkerReports(seconds)
    assert reports.all_work({1})
    seconds.now += 90
    assert reports.all_work({1})
    assert reports.all_work({1, 2})
    seconds.now += 1
    assert not reports.all_work({1, 2})
    assert reports.all_work({2})


def test_a_worker_that_tells_nonsense_or_too_much_harms_nobody() -> None:
    reports = WorkerReports()
    reports._worker.send(b"nonsense")
    reports._worker.send(b"")
    reports._worker.send(b"-1 +x")
    reports.receive()
    assert reports.sentence == ""
    for _ in range(100_000):
        reports.tell("x" * 5000, decided=True)
    reports.receive()
    assert reports.is_decided
