"""The gate when its facts go wrong: a core that is not well, a watch that breaks, facts that are old."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from licenses.folder import LicenseFile, choose
from licenses.model import License
from licenses.watch import LicenseView
from sidecar import admission as admission_module
from sidecar.admission import Admission, NotServingError
from sidecar.clock import HighWater
from sidecar.core_client import CoreClient, CoreHealth
from sidecar.errors import CoreDownError, CoreTimeoutError, CoreUnavailableError, SidecarError
from sidecar.gate import State, Verdict
from sidecar.ledger import LedgerSnapshot
from sidecar.settings import Settings
from tests.fakes.clock import FakeClock
from tests.fakes.licences import NOW, a_license, a_vendor


def a_core_that_answers(folder: Path, status: str, body: str) -> Path:
    """A server on a real Unix socket that gives every request the same answer."""
    path = folder / "core.sock"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        while True:
            client, _ = server.accept()
            client.recv(65536)
            client.sendall(f"HTTP/1.0 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            client.close()

    threading.Thread(target=serve, daemon=True).start()
    return path


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("500 Oops", '{"error":{"code":"FailedToProcess","message":"no memory"}}'),
        ("400 Oops", '{"error":{"code":"BadArgument","message":"odd"}}'),
        ("403 No", '{"error":{"code":"LeaseRefused","message":"no"}}'),
        ("504 Late", '{"error":{"code":"FailedToProcess","message":"late"}}'),
        ("200 OK", "nonsense"),
        ("200 OK", "[]"),
        ("200 OK", "{}"),
        ("200 OK", '{"workers":"many","cpu":{"supported":true},"engine":{},"languages":1}'),
    ],
)
def test_whatever_health_answers_is_one_error(tmp_path: Path, status: str, body: str) -> None:
    core = CoreClient(a_core_that_answers(tmp_path, status, body), tmp_path / "lease", page_seconds=5)
    with pytest.raises(CoreUnavailableError):
        core.health()


class Facts:
    """Licences that a test can make break."""

    device = None
    lease_path = Path("/nowhere")

    def __init__(self) -> None:
        self.broken = False
        self.looks = 0
        self.looking = threading.Event()
        self.hold = threading.Event()
        self.hold.set()

    def look(self, at: datetime, ledger: object = None) -> LicenseView:
        self.looks += 1
        if not self.hold.is_set():
            self.looking.set()
            self.hold.wait(10)
        if self.broken:
            raise RuntimeError("a fault nobody thought of")
        return LicenseView(problem="none")


@pytest.fixture
def facts() -> Facts:
    return Facts()


@pytest.fixture
def gate(facts: Facts, tmp_path: Path) -> Iterator[Admission]:
    clock = FakeClock()
    mark = HighWater(effective_ns=clock.wall_ns, boottime_ns=clock.boottime_ns, boot_id=clock.boot_id)
    snapshot = SimpleNamespace(
        high_water=mark, license_floors={}, license_pages={}, failed_cycles=0, failure="", failure_word=""
    )
    ledger = SimpleNamespace(problem="", snapshot=lambda _meter: snapshot)
    health = CoreHealth(workers=1, cpu_problem="", engine="x", languages=())
    one = Admission(
        settings=Settings(state_directory=tmp_path),
        clock=clock,
        ledger=cast("object", ledger),  # type: ignore[arg-type]
        licenses=cast("object", facts),  # type: ignore[arg-type]
        core=cast("object", SimpleNamespace(health=lambda: health)),  # type: ignore[arg-type]
    )
    yield one
    one.stop()


def serve(gate: Admission) -> None:
    """As if the last decision had been to serve."""
    standing = gate._standing
    gate._standing = admission_module.replace(standing, verdict=Verdict(state=State.ACTIVE, reason="", serves=True))
    gate._decided = time.monotonic()


def test_fault_in_the_watch_closes_the_gate_and_the_watch_goes_on(gate: Admission, facts: Facts) -> None:
    serve(gate)
    gate.require()
    facts.broken = True
    gate.start()
    until = time.monotonic() + 5
    while gate.standing.verdict.serves and time.monotonic() < until:
        time.sleep(0.02)
    with pytest.raises(NotServingError, match="nobody thought of"):
        gate.require()
    facts.broken = False
    while gate.standing.verdict.state is not State.UNLICENSED and time.monotonic() < until:
        time.sleep(0.02)
    assert gate.standing.verdict.state is State.UNLICENSED


def test_facts_that_nobody_renews_admit_nothing(gate: Admission, facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_module, "_CONFIRM_SECONDS", 0.2)
    gate.start()
    facts.hold.clear()  # as if the folder lay on a share that does not answer
    until = time.monotonic() + 5
    while not facts.looking.is_set() and time.monotonic() < until:
        time.sleep(0.01)
    serve(gate)
    gate._decided -= 60
    try:
        with pytest.raises(NotServingError, match="too old"):
            gate.require()
    finally:
        facts.hold.set()


def test_a_refusal_is_not_older_than_the_request(gate: Admission, facts: Facts) -> None:
    """Another process may have told already that queries are served: this one looks before it refuses."""
    facts.broken = True
    assert not gate.refresh().verdict.serves
    facts.broken = False
    with pytest.raises(NotServingError) as refused:
        gate.require()
    assert refused.value.verdict.state is State.UNLICENSED
    assert gate.standing.verdict.state is State.UNLICENSED


def test_those_who_are_refused_at_once_share_a_look(gate: Admission, facts: Facts) -> None:
    """Hammering a closed gate costs a look or two, not one for each caller."""
    gate.refresh()
    looks = facts.looks
    facts.hold.clear()
    callers = [threading.Thread(target=gate.confirm) for _ in range(50)]
    for caller in callers:
        caller.start()
    time.sleep(0.2)  # all of them are there
    facts.hold.set()
    for caller in callers:
        caller.join(10)
    assert 1 <= facts.looks - looks <= 3


class Core:
    """Answers, until a test says how it does not."""

    def __init__(self) -> None:
        self.problem: SidecarError | None = None

    def health(self) -> CoreHealth:
        if self.problem is not None:
            raise self.problem
        return CoreHealth(workers=1, cpu_problem="", engine="x", languages=())


@pytest.mark.parametrize(
    ("problem", "seconds", "is_down"),
    [
        (CoreTimeoutError("no answer"), 1, False),
        (CoreTimeoutError("no answer"), 11, True),
        (CoreDownError("nobody is there"), 1, True),
    ],
    ids=["busy", "silent for long", "gone"],
)
def test_a_core_that_is_too_busy_to_answer_is_not_down_for_a_while(
    facts: Facts, tmp_path: Path, problem: SidecarError, seconds: int, is_down: bool
) -> None:
    clock, core = FakeClock(), Core()
    mark = HighWater(effective_ns=clock.wall_ns, boottime_ns=clock.boottime_ns, boot_id=clock.boot_id)
    snapshot = SimpleNamespace(
        high_water=mark, license_floors={}, license_pages={}, failed_cycles=0, failure="", failure_word=""
    )
    gate = Admission(
        settings=Settings(state_directory=tmp_path),
        clock=clock,
        ledger=cast("object", SimpleNamespace(problem="", snapshot=lambda _meter: snapshot)),  # type: ignore[arg-type]
        licenses=cast("object", facts),  # type: ignore[arg-type]
        core=cast("object", core),  # type: ignore[arg-type]
    )
    assert gate.standing.core is not None
    core.problem = problem
    clock.pass_seconds(seconds)
    assert (gate.refresh().core is None) == is_down


VENDOR = a_vendor()
DAY = timedelta(days=1)


def judged(lic: License) -> LicenseView:
    choice = choose([LicenseFile("license.dat", VENDOR.seal(lic))], VENDOR.trust_root, at=NOW)
    return LicenseView(license=choice.best, judgement=choice.judgement, verdicts=choice.verdicts)


def a_snapshot(pages: int, sequence: int = 1) -> LedgerSnapshot:
    known = a_license().license_id
    return cast("LedgerSnapshot", SimpleNamespace(license_floors={known: sequence}, license_pages={known: pages}))


def test_the_licence_before_is_gone_by_until_the_ledger_knows_the_next(gate: Admission) -> None:
    first, second = judged(a_license(page_limit=5)), judged(a_license(sequence=2))
    seconds = 1_000_000_000
    assert gate._noted_view(first, a_snapshot(pages=1), 0) is first
    assert gate._noted_view(second, a_snapshot(pages=2), 0) is first
    assert gate._noted_view(second, a_snapshot(pages=5), 0) is second, "it has no pages left"
    assert gate._noted_view(second, a_snapshot(pages=2), 2 * seconds) is first
    assert gate._noted_view(second, a_snapshot(pages=2), 3 * seconds) is second, "the meter is not there"
    assert gate._noted_view(second, a_snapshot(pages=2, sequence=2), 4 * seconds) is second


def test_a_licence_that_does_not_serve_is_told_at_once(gate: Admission) -> None:
    first, ended = judged(a_license()), judged(a_license(sequence=2, expires_at=NOW - DAY, termination_at=NOW - DAY))
    assert not ended.serves
    assert gate._noted_view(first, a_snapshot(pages=1), 0) is first
    assert gate._noted_view(ended, a_snapshot(pages=1), 0) is ended
