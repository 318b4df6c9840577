"""Connected mode with a real ledger, real files and a real HTTP endpoint; the clock is the test's.

Each window is told once, whatever the endpoint does in between; ten failures cut off, one success resumes.
"""

from __future__ import annotations

import errno
import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from licenses.device_key import device_id_of
from licenses.keys import SigningKey
from licenses.model import READ_PAGES_METER, License, Reporting
from licenses.model import Meter as Allowance
from licenses.usage_log.entry import parse_entry
from licenses.usage_log.files import FOLDER
from licenses.usage_log.fork import prove_fork
from licenses.usage_log.note import sign_checkpoint
from sidecar.billing_client import BillingClient
from sidecar.bootstrap import build_meter
from sidecar.errors import LedgerConflictError, OutputUnwritableError
from sidecar.exchange import Exchange
from sidecar.gate import State
from sidecar.ledger import Ledger, UseEvent, note_damage
from sidecar.meter_status import METER_STATUS_NAME, MeterStatus
from sidecar.metering import Meter
from sidecar.record_output import RecordOutput
from sidecar.settings import CONNECTED, Settings
from sidecar.states import public_word, refusal_message, status_message
from tests.e2e.site import command
from tests.fakes.billing import FakeEndpoint, Manner, refused
from tests.fakes.clock import FakeClock
from tests.fakes.licences import NOW, a_license, a_vendor

KEY = "0123456789abcdef0123456789abcdef"


class Connected:
    """One connected appliance's meter on a folder, with a clock and an endpoint that the test moves."""

    def __init__(self, folder: Path, endpoint: FakeEndpoint, **settings: Any) -> None:
        self.folder, self.endpoint = folder, endpoint
        self.clock = FakeClock()
        (folder / "output").mkdir()
        (folder / "trust-root.json").write_bytes(endpoint.vendor.trust_root_blob)
        self.settings = Settings(
            mode=CONNECTED,
            billing=settings.pop("billing", endpoint.url),
            api_key=settings.pop("api_key", KEY),
            output_directory=folder / "output",
            state_directory=folder / "state",
            trust_root=folder / "trust-root.json",
            **settings,
        )
        self.start()

    def start(self) -> None:
        self.meter: Meter = build_meter(self.settings, self.clock)
        self.ledger: Ledger = self.meter._ledger
        self.meter.open()

    def crash(self) -> None:
        """As after kill -9."""
        self.ledger.close()
        self.start()

    def restart(self) -> None:
        """Stop in good order, the last window told where that can be done, and start."""
        self.meter.interrupt_contact()
        self.meter.close()
        self.crash()

    def meet(self) -> None:
        """What the timetable does a few seconds after the start."""
        self.meter.watch_endpoint()

    def use(self, pages: int) -> None:
        """Count pages of one document."""
        operation, lic = str(uuid.uuid4()), a_license().license_id
        self.ledger.record_use(
            [
                UseEvent(operation_id=operation, page=page, meter=READ_PAGES_METER, license_id=lic)
                for page in range(1, pages + 1)
            ]
        )

    def cycle(self, seconds: float = 700) -> int:
        """A window later; consecutive failures after it."""
        self.clock.pass_seconds(seconds)
        return self.meter.cycle().failed_cycles

    @property
    def counted(self) -> int:
        return sum(quantity for _, quantity in self.ledger.months(READ_PAGES_METER))

    @property
    def told(self) -> int:
        return self.endpoint.pages(READ_PAGES_METER)

    def status(self) -> MeterStatus:
        """What the meter tells the other processes."""
        status = MeterStatus.read(self.settings.state_directory)
        assert status is not None
        return status

    def state(self) -> State:
        return self.meter._verdict().state

    def word(self) -> str:
        return public_word(self.meter._verdict())

    def serves(self) -> bool:
        """Whether queries are admitted, and the core has its lease."""
        return self.meter._verdict().serves and (self.settings.state_directory / "lease.dsse.json").exists()

    def faults(self) -> list[dict[str, Any]]:
        first, size = self.ledger.base(), self.ledger.snapshot(READ_PAGES_METER).size
        entries = [parse_entry(line) for line in self.ledger.lines(first, size)]
        return [entry for entry in entries if entry["kind"] == "fault"]


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    one = FakeEndpoint()
    yield one
    one.close()


@pytest.fixture
def site(folder: Path, endpoint: FakeEndpoint) -> Iterator[Connected]:
    one = Connected(folder, endpoint)
    yield one
    one.ledger.close()


# ---- first contact ---------------------------------------------------------------------------------------------------


def test_the_first_contact_fetches_a_licence_of_this_device_and_serves(site: Connected) -> None:
    assert site.state() is State.STARTING
    assert not site.serves()
    site.meet()
    assert site.serves()
    lic = site.meter._license
    assert lic is not None
    assert lic.device_pubkey == site.meter._device.public_raw
    assert [path.name for path in (site.settings.state_directory / "licenses").iterdir()] == ["license.dat"]
    ((_, headers, body), *_) = site.endpoint.requests
    assert headers["Ocp-Apim-Subscription-Key"] == KEY
    assert body["enrolment"]["payloadType"].endswith("enrolment.v1+json")


def test_the_first_contact_of_a_new_device_warns_of_nothing(site: Connected) -> None:
    with capture_logs() as lines:
        site.meet()
    assert site.endpoint.asked("/acknowledgements/") == 1
    assert [line for line in lines if line["log_level"] != "info"] == []


@pytest.mark.parametrize(("status", "code"), [(409, "authority_mismatch"), (409, ""), (500, "authority_refused")])
def test_a_new_device_that_is_refused_for_another_cause_is_warned_of(
    site: Connected, monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    answer = refused(status, "Mismatch", code=code)
    monkeypatch.setattr(site.endpoint, "_acknowledgement", lambda _: answer)
    with capture_logs() as lines:
        site.meet()
    (line,) = (line for line in lines if line["log_level"] == "warning")
    assert "gave no acknowledgement" in line["event"]


def test_nothing_is_asked_before_the_first_contact_is_due(site: Connected) -> None:
    assert site.endpoint.requests == []
    site.meet()
    before = len(site.endpoint.requests)
    site.meet()
    assert len(site.endpoint.requests) == before


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (401, "Invalid"),
        (402, "OutOfQuota"),
        (403, "ContainerUseUnauthorized"),
        (409, "Mismatch"),
        (429, "BillingEndpointBusy"),
        (503, "BillingEndpointBusy"),
        (500, "Unknown"),
    ],
)
def test_a_refused_first_contact_is_told_with_its_word_and_counts_as_no_attempt(
    site: Connected, status: int, word: str
) -> None:
    site.endpoint.refusal = (status, word, {})
    site.meet()
    verdict = site.meter._verdict()
    assert (verdict.state, verdict.serves, public_word(verdict)) == (State.UNLICENSED, False, word)
    assert f"validation failed with status '{word}'" in refusal_message(verdict)
    assert f"HTTP {status}" in verdict.reason
    assert "by itself" in refusal_message(verdict)
    assert site.ledger.snapshot(READ_PAGES_METER).failed_cycles == 0
    told = MeterStatus.read(site.settings.state_directory)
    assert told is not None
    assert told.endpoint_word == word
    assert KEY not in repr(told)


def test_without_a_licence_it_is_asked_for_ever_more_rarely(site: Connected, monkeypatch: pytest.MonkeyPatch) -> None:
    site.endpoint.leave()
    asked: list[float] = []
    passed = 0
    fetch = BillingClient.fetch_license

    def noted(client: BillingClient, *about: Any, **more: Any) -> bytes:
        asked.append(passed)
        return fetch(client, *about, **more)

    monkeypatch.setattr(BillingClient, "fetch_license", noted)
    while passed < 3600:
        site.meet()
        site.clock.pass_seconds(5)
        passed += 5
    assert asked[:5] == [0, 5, 15, 35, 75]
    assert all(600 <= later - before <= 640 for before, later in pairwise(asked[8:]))
    assert site.word() == "CouldNotConnect"
    site.endpoint.listen()
    site.meter.plan()
    for _ in range(130):
        site.clock.pass_seconds(5)
        site.meet()
    assert site.serves()


def test_a_licence_that_is_not_the_vendors_is_not_taken(folder: Path) -> None:
    other = FakeEndpoint()
    site = Connected(folder, other)
    other.vendor = a_vendor()
    site.meet()
    assert site.word() == "Mismatch"
    assert list((site.settings.state_directory / "licenses").iterdir()) == []
    other.close()


def test_a_start_without_the_endpoint_serves_on_the_licence_that_is_there(site: Connected) -> None:
    site.meet()
    site.endpoint.leave()
    site.crash()
    assert site.serves()
    site.meet()
    assert site.serves()
    assert site.ledger.snapshot(READ_PAGES_METER).failed_cycles == 0


def test_a_contact_that_did_not_come_about_is_not_told_as_one(site: Connected) -> None:
    site.meet()
    site.use(1)
    assert site.cycle() == 0
    site.clock.pass_seconds(60)
    site.restart()
    site.meet()
    assert (site.status().endpoint_word, site.ledger.delivered().pending) == ("Valid", 0)
    site.restart()
    before = site.ledger.delivered().at
    assert before is not None
    site.endpoint.leave()
    site.clock.pass_seconds(600)
    with capture_logs() as lines:
        site.meet()
    told = site.status()
    assert told.endpoint_word == "CouldNotConnect"
    assert "cannot be reached" in told.endpoint_problem
    assert told.contact_ms <= before.timestamp() * 1000
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == [
        "Endpoint connection failed with status 'CouldNotConnect'"
    ]
    assert site.serves()
    site.endpoint.listen()
    assert site.cycle() == 0
    assert (site.status().endpoint_word, site.status().endpoint_problem) == ("Valid", "")
    assert site.status().contact_ms > told.contact_ms


def test_the_last_contact_is_known_after_a_restart(site: Connected) -> None:
    site.meet()
    before = site.status().contact_ms
    assert before
    site.endpoint.leave()
    site.clock.pass_seconds(600)
    site.crash()
    assert (site.status().contact_ms, site.status().endpoint_word) == (before, "")
    site.meet()
    assert (site.status().contact_ms, site.status().endpoint_word) == (before, "CouldNotConnect")


@pytest.mark.parametrize("kept", [10**30, -5, "nonsense"])
def test_a_last_contact_that_cannot_have_been_is_forgotten(site: Connected, kept: object) -> None:
    path = site.settings.state_directory / METER_STATUS_NAME
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"contact_ms": kept}))
    site.crash()
    assert site.status().contact_ms == 0


def test_a_refusal_with_nothing_to_report_is_told_with_its_word(site: Connected) -> None:
    site.meet()
    site.restart()
    site.endpoint.refusal = (401, "Invalid", {})
    site.meet()
    assert (site.status().endpoint_word, site.serves()) == ("Invalid", True)
    assert "HTTP 401" in site.status().endpoint_problem


@pytest.mark.parametrize("is_ending", [False, True])
def test_a_contact_that_did_not_come_about_ends_no_count_of_failures(
    site: Connected, is_ending: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.meet()
    site.ledger.cycle_failed("told by a test", {"code": "billing"}, word="CouldNotConnect")
    endpoint = site.meter._endpoint
    assert endpoint is not None
    endpoint.has_backlog = True
    site.endpoint.leave()
    fetch = BillingClient.fetch_acknowledgement

    def cut_short(client: BillingClient, device_id: str) -> bytes:
        if is_ending:
            endpoint.interrupt()
        return fetch(client, device_id)

    monkeypatch.setattr(BillingClient, "fetch_acknowledgement", cut_short)
    site.meet()
    assert site.ledger.snapshot(READ_PAGES_METER).failed_cycles == 1
    assert site.status().endpoint_word == ("Valid" if is_ending else "CouldNotConnect")


# ---- reports ---------------------------------------------------------------------------------------------------------


def test_each_window_is_told_in_one_report_and_totals_agree(site: Connected) -> None:
    site.meet()
    for pages in (3, 0, 5):
        site.use(pages)
        assert site.cycle() == 0
    assert site.told == site.counted == 8
    assert len(site.endpoint.reports) == site.ledger.window_count() == 3
    assert site.endpoint.gaps() == []
    assert site.ledger.delivered().pending == 0


def test_pages_of_two_months_are_told_by_month(site: Connected) -> None:
    site.meet()
    site.use(2)
    site.clock.pass_seconds((NOW.replace(month=2, day=1) - NOW).total_seconds())
    site.use(3)
    site.cycle()
    (report,) = site.endpoint.reports.values()
    assert report.totals == {READ_PAGES_METER: {"2027-01": 2, "2027-02": 3}}


def test_ten_failures_cut_off_and_the_first_success_delivers_everything(site: Connected) -> None:
    site.meet()
    site.use(4)
    site.endpoint.leave()
    for attempt in range(1, 10):
        site.use(1)
        assert site.cycle() == attempt
        assert site.serves()
        assert (site.state(), site.word()) == (State.METERING_RETRY, "CouldNotConnect")
        if attempt in (3, 9):
            site.crash()
            assert site.ledger.snapshot(READ_PAGES_METER).failed_cycles == attempt
    assert site.cycle() == 10
    assert not site.serves()
    assert (site.state(), site.word()) == (State.METERING_CUTOFF, "CouldNotConnect")
    assert "could not be reported in 10 consecutive tries" in refusal_message(site.meter._verdict())
    site.crash()
    site.meet()
    assert site.ledger.snapshot(READ_PAGES_METER).failed_cycles == 10
    assert not site.serves()
    assert site.cycle() == 11
    assert {entry["status"] for entry in site.faults()} == {"CouldNotConnect"}
    site.endpoint.listen()
    assert site.cycle() == 0
    assert site.serves()
    assert site.told == site.counted == 13
    assert site.endpoint.gaps() == []


def test_a_restart_with_the_endpoint_back_resumes_at_once(site: Connected) -> None:
    site.meet()
    site.endpoint.refusal = (401, "Invalid", {})
    for attempt in range(1, 11):
        assert site.cycle() == attempt
    assert (site.state(), site.word()) == (State.METERING_CUTOFF, "Invalid")
    site.endpoint.refusal = None
    site.crash()
    assert site.state() is State.METERING_CUTOFF
    site.meet()
    assert site.serves()
    assert site.ledger.delivered().pending == 0


@pytest.mark.parametrize(
    ("manner", "word"),
    [
        (Manner.DROPS_ANSWER, "CouldNotConnect"),
        (Manner.NO_HTTP, "CouldNotConnect"),
        (Manner.CUT_SHORT, "CouldNotConnect"),
        (Manner.NO_JSON, "Unknown"),
        (Manner.OTHER_JSON, "Unknown"),
        (Manner.OTHER_ID, "Unknown"),
        (Manner.HUGE, "Unknown"),
        (Manner.REDIRECTS, "Unknown"),
    ],
)
def test_whatever_the_endpoint_does_the_window_stays_pending_and_is_billed_once(
    site: Connected, manner: Manner, word: str
) -> None:
    site.meet()
    site.use(7)
    site.endpoint.manner = manner
    assert site.cycle() == 1
    assert (site.state(), site.word()) == (State.METERING_RETRY, word)
    assert site.ledger.delivered().pending == 1
    assert not any("elsewhere" in path for path, _, _ in site.endpoint.requests)
    site.endpoint.manner = Manner.WELL
    site.use(1)
    assert site.cycle() == 0
    assert site.told == site.counted == 8
    has_taken = manner in {Manner.DROPS_ANSWER, Manner.NO_HTTP, Manner.CUT_SHORT}
    assert bool(site.endpoint.repeated) is has_taken


@pytest.mark.parametrize("manner", [Manner.SILENT, Manner.DRIPS])
def test_an_endpoint_that_does_not_come_to_an_end_is_given_up(site: Connected, manner: Manner) -> None:
    site.meet()
    site.meter._endpoint._connection.resume(0.3)  # type: ignore[union-attr]
    site.endpoint.manner = manner
    assert site.cycle() == 1
    assert "no answer within 0.3 s" in site.meter._verdict().reason


def test_a_crash_between_the_endpoints_word_and_ours_delivers_again_the_same_bytes(
    site: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.meet()
    site.use(2)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(site.ledger, "mark_delivered", die)
    with pytest.raises(KeyboardInterrupt):
        site.cycle()
    site.crash()
    site.meet()
    usage = [body for path, _, body in site.endpoint.requests if path.endswith("/usage")]
    assert len(usage) >= 2
    assert usage[0] == usage[1]
    assert site.told == site.counted == 2
    assert site.endpoint.repeated == 1


def test_hundreds_of_windows_wait_out_a_long_outage_and_go_in_bounded_pieces(site: Connected) -> None:
    site.meet()
    site.endpoint.leave()
    for number in range(300):
        site.use(1 + number % 3)
        assert site.cycle() == number + 1
    site.endpoint.listen()

    def each_takes_a_second() -> None:
        site.clock.pass_seconds(1)

    site.endpoint.on_usage = each_takes_a_second
    before = site.clock.boottime_ns
    assert site.cycle(0) == 0
    assert site.serves()
    assert (site.clock.boottime_ns - before) / 1e9 <= 32
    assert 290 >= site.ledger.delivered().pending >= 265
    assert "reports wait" in site.meter.sentence
    for _ in range(40):
        before = site.clock.boottime_ns
        site.meet()
        assert (site.clock.boottime_ns - before) / 1e9 <= 12
    assert site.ledger.delivered().pending == 0
    assert site.told == site.counted == 600
    assert site.endpoint.gaps() == []
    asked = len(site.endpoint.requests)
    site.meet()
    assert len(site.endpoint.requests) == asked


def test_what_comes_after_a_success_in_the_same_cycle_is_no_failed_cycle(site: Connected) -> None:
    site.meet()
    site.endpoint.leave()
    for _ in range(5):
        site.use(1)
        site.cycle()
    site.endpoint.listen()
    taken = 0

    def busy_after_two() -> None:
        nonlocal taken
        taken += 1
        if taken == 2:
            site.endpoint.refusal = (429, "BillingEndpointBusy", {"Retry-After": "120"})

    site.endpoint.on_usage = busy_after_two
    assert site.cycle() == 0
    assert site.serves()
    assert site.ledger.delivered().pending == 4
    verdict = site.meter._verdict()
    assert any("BillingEndpointBusy" in warning for warning in verdict.warnings)
    assert site.cycle() == 1
    assert site.word() == "BillingEndpointBusy"


def test_a_report_that_the_endpoint_refuses_holds_up_what_comes_after_it(site: Connected) -> None:
    """Nothing is left out: the vendor must see that a history forked, and the customer that it is so."""
    site.meet()
    site.endpoint.refusal = (409, "Mismatch", {})
    for attempt in range(1, 11):
        assert site.cycle() == attempt
    assert (site.state(), site.word()) == (State.METERING_CUTOFF, "Mismatch")
    assert site.ledger.delivered().size == 0


def test_what_the_endpoint_advises_is_told_where_administrators_look(site: Connected) -> None:
    site.meet()
    site.endpoint.refusal = (409, "Mismatch", {})
    site.endpoint.refusal_members = {"nextStep": "Use the key of the X-ray department."}
    site.cycle()
    verdict = site.meter._verdict()
    assert "told by a test. Use the key of the X-ray department" in verdict.reason
    assert "X-ray" in status_message(verdict)
    assert ".." not in status_message(verdict)
    told = MeterStatus.read(site.settings.state_directory)
    assert told is not None
    assert "X-ray" in told.endpoint_problem


def a_proof(site: Connected) -> bytes:
    """Of a history that the site's device signed elsewhere."""
    (window,) = site.ledger.undelivered(0, 1)
    device = site.meter._device
    twin = sign_checkpoint(str(window.window["origin"]), window.size, bytes(32), device.signing_key)
    return prove_fork(window.note, twin, device.verifying_key)


def test_the_proof_of_a_fork_is_kept_beside_the_records(site: Connected) -> None:
    site.meet()
    site.use(1)
    site.endpoint.leave()
    site.cycle()
    site.endpoint.listen()
    proof = a_proof(site)
    site.endpoint.refusal = (409, "Mismatch", {})
    site.endpoint.refusal_members = {"code": "ledger_fork", "proof": proof.decode(), "proofName": "../../evil"}
    assert site.cycle() == 2
    kept = list(site.settings.output_directory.rglob("forks/*"))
    assert [file.read_bytes() for file in kept] == [proof]
    assert kept[0].name.startswith("fork-")
    assert kept[0].parent.parent.parent.name == "computervisionread"
    assert next(site.settings.state_directory.glob("fork-*")).read_bytes() == proof
    assert str(kept[0]) in site.meter._verdict().reason
    assert "licenses check-fork" in site.meter._verdict().reason
    before = kept[0].stat().st_mtime_ns
    assert site.cycle() == 3
    assert kept[0].stat().st_mtime_ns == before
    assert site.serves()
    done = command(
        "usage-verify", site.settings.output_directory, "--trust-root", site.settings.trust_root,
        "--device-key", site.settings.state_directory / "device.pub",
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"TAMPERED   forks/{kept[0].name}" in done.stdout
    done = command("licenses", "check-fork", kept[0], "--device-key", site.settings.state_directory / "device.pub")
    assert "Proven  yes" in done.stdout, done.stderr


@pytest.mark.parametrize("what", ["nonsense", "of another device", "honest"])
def test_what_proves_no_fork_is_not_kept(site: Connected, what: str) -> None:
    site.meet()
    site.use(1)
    site.endpoint.leave()
    site.cycle()
    site.endpoint.listen()
    proof = a_proof(site)
    if what == "nonsense":
        proof = b"{}"
    elif what == "of another device":
        key = SigningKey.generate("device")
        origin = f"vendor.example/{device_id_of(key.verifying.raw)}"
        one, two = (sign_checkpoint(origin, 9, bytes([number]) * 32, key) for number in (1, 2))
        proof = prove_fork(one, two, key.verifying)
    else:
        members = json.loads(proof)
        proof = json.dumps(members | {"second": members["first"]}).encode()
    site.endpoint.refusal = (409, "Mismatch", {})
    site.endpoint.refusal_members = {"code": "ledger_fork", "proof": proof.decode()}
    assert site.cycle() == 2
    assert site.word() == "Mismatch"
    assert not list(site.folder.rglob("fork*"))


def test_a_proof_that_the_output_does_not_take_is_in_the_state(
    site: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.meet()
    site.use(1)
    site.endpoint.leave()
    site.cycle()
    site.endpoint.listen()
    site.endpoint.refusal = (409, "Mismatch", {})
    site.endpoint.refusal_members = {"code": "ledger_fork", "proof": a_proof(site).decode()}

    def full(*_: object) -> Path:
        raise OutputUnwritableError("no space left", next_step="free some")

    monkeypatch.setattr(RecordOutput, "keep_fork", full)
    assert site.cycle() == 2
    (kept,) = site.settings.state_directory.glob("fork-*")
    assert (str(kept) in site.meter._verdict().reason, site.word()) == (True, "Mismatch")


def test_retry_after_is_honoured_between_cycles(site: Connected) -> None:
    site.endpoint.refusal = (503, "BillingEndpointBusy", {"Retry-After": "90"})
    site.meet()
    asked = len(site.endpoint.requests)
    site.clock.pass_seconds(85)
    site.meet()
    assert len(site.endpoint.requests) == asked
    site.clock.pass_seconds(10)
    site.meet()
    assert len(site.endpoint.requests) > asked


def test_an_output_that_fails_is_a_failed_cycle_and_no_word_of_the_endpoint(site: Connected) -> None:
    site.meet()
    site.use(1)
    site.settings.output_directory.rename(site.folder / "elsewhere")
    site.settings.output_directory.write_text("no folder")
    assert site.cycle() == 1
    assert site.ledger.snapshot(READ_PAGES_METER).failure_word == ""
    assert site.told == 0
    site.settings.output_directory.unlink()
    (site.folder / "elsewhere").rename(site.settings.output_directory)
    assert site.cycle() == 0
    assert site.told == site.counted == 1


def test_a_contact_ends_no_cutoff_while_records_cannot_be_written(site: Connected) -> None:
    site.meet()
    assert site.cycle() == 0
    records = site.meter._output.folder / FOLDER
    records.rename(site.folder / "elsewhere")
    records.write_text("no folder")  # the folder above it takes the test write all the same
    for attempt in range(1, 11):
        site.use(1)
        assert site.cycle() == attempt
    assert site.state() is State.METERING_CUTOFF
    site.restart()
    site.meter.watch_output()
    site.meet()
    assert site.ledger.snapshot(READ_PAGES_METER).failed_cycles == 10
    assert (site.state(), site.serves()) == (State.METERING_CUTOFF, False)
    records.unlink()
    (site.folder / "elsewhere").rename(records)
    site.restart()
    site.meet()
    assert site.serves()
    assert site.ledger.pending_records() == []
    assert site.told == site.counted == 10


def test_a_lease_that_a_failed_write_took_is_minted_again_before_the_next_cycle(
    site: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.meet()
    write = MeterStatus.write

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(MeterStatus, "write", full)
    assert site.cycle() == 1
    assert not site.serves()
    monkeypatch.setattr(MeterStatus, "write", write)
    site.clock.pass_seconds(10)
    site.meter.watch_output()
    assert site.serves()


def test_the_last_window_is_told_at_shutdown_where_the_endpoint_was_well(site: Connected) -> None:
    site.meet()
    site.use(3)
    site.meter.interrupt_contact()
    site.meter.close()
    assert site.told == 3


def test_a_shutdown_with_the_endpoint_gone_is_no_attempt_and_tells_it_at_the_next_start(site: Connected) -> None:
    site.meet()
    site.use(3)
    site.endpoint.leave()
    assert site.cycle() == 1
    site.meter.interrupt_contact()
    site.meter.close()
    site.endpoint.listen()
    site.crash()
    assert site.ledger.snapshot(READ_PAGES_METER).failed_cycles == 1
    site.meet()
    assert site.ledger.snapshot(READ_PAGES_METER).failed_cycles == 0
    assert site.told == site.counted == 3


def test_a_cycle_that_the_end_of_the_process_cuts_short_is_no_attempt(site: Connected) -> None:
    site.meet()
    site.use(1)
    site.endpoint.on_usage = site.meter.interrupt_contact
    site.endpoint.manner = Manner.SILENT
    site.clock.pass_seconds(700)
    assert site.meter.cycle().failure == ""
    assert site.ledger.snapshot(READ_PAGES_METER).failed_cycles == 0
    assert site.ledger.delivered().pending == 1


# ---- what comes back -------------------------------------------------------------------------------------------------


def test_a_renewed_licence_is_fetched_and_taken_up(site: Connected) -> None:
    site.meet()
    sequences = []
    site.endpoint.terms = lambda public: a_license(device_pubkey=public, sequence=2)
    for _ in range(4):
        site.cycle(7 * 3600)
        lic = site.meter._license
        assert lic is not None
        sequences.append(lic.sequence)
    assert sequences[0] == 1
    assert sequences[-1] == 2
    assert site.endpoint.asked("/license") <= 3


def test_a_commitment_that_was_used_up_and_enlarged_is_taken_up_at_the_next_cycle(
    folder: Path, endpoint: FakeEndpoint
) -> None:
    def granted(pages: int, sequence: int) -> None:
        meter = Allowance(name=READ_PAGES_METER, unit="page", hard=pages)
        endpoint.terms = lambda public: a_license(device_pubkey=public, meters=(meter,), sequence=sequence)

    granted(5, 1)
    site = Connected(folder, endpoint)
    site.meet()
    site.use(5)
    assert site.cycle() == 0
    assert (site.state(), site.word()) == (State.OUT_OF_QUOTA, "OutOfQuota")
    asked = site.endpoint.asked("/license")
    assert site.cycle() == 0
    assert site.endpoint.asked("/license") == asked + 1
    granted(9, 2)
    assert site.cycle() == 0
    assert site.serves()
    asked = site.endpoint.asked("/license")
    assert site.cycle() == 0
    assert site.endpoint.asked("/license") == asked
    site.ledger.close()


def test_a_licence_of_a_later_day_does_not_take_the_place_of_the_one_in_force(site: Connected) -> None:
    site.meet()
    later = NOW + timedelta(days=30)
    site.endpoint.terms = lambda public: a_license(device_pubkey=public, sequence=2, not_before=later)
    site.cycle(25 * 3600)
    assert site.serves()
    assert (site.settings.state_directory / "licenses" / "next.dat").exists()
    site.crash()
    assert site.serves()
    assert site.meter._license is not None
    assert site.meter._license.sequence == 1


@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        ({"not_before": NOW + timedelta(days=2)}, "begins on"),
        ({"min_version": "99.0"}, "needs version 99.0"),
        ({"expires_at": NOW - timedelta(days=2), "termination_at": NOW - timedelta(days=1)}, "expired on"),
    ],
)
def test_a_fetched_licence_that_does_not_serve_is_told_and_asked_for_ever_more_rarely(
    site: Connected, terms: dict[str, Any], reason: str
) -> None:
    issued = NOW - timedelta(days=30)
    site.endpoint.terms = lambda public: a_license(
        **({"device_pubkey": public, "issued_at": issued, "not_before": issued} | terms)
    )
    for _ in range(720):
        site.meter.watch_license()
        site.meet()
        site.clock.pass_seconds(5)
    assert site.endpoint.asked("/license") < 15
    assert not site.serves()
    assert site.word() == "Invalid"
    assert reason in site.status().endpoint_problem
    assert ".." not in site.status().endpoint_problem
    assert site.status().contact_ms == 0
    site.endpoint.terms = lambda public: a_license(device_pubkey=public, sequence=2)
    site.clock.pass_seconds(900)
    site.meter.plan()
    site.meet()
    assert site.serves()
    assert (site.status().endpoint_word, site.status().endpoint_problem) == ("Valid", "")


def test_an_older_licence_than_the_one_in_force_is_not_taken_and_asked_for_ever_more_rarely(site: Connected) -> None:
    site.endpoint.terms = lambda public: a_license(
        device_pubkey=public,
        sequence=5,
        expires_at=NOW + timedelta(days=2),
        termination_at=NOW + timedelta(days=3),
    )
    site.meet()
    site.use(3)
    assert site.cycle() == 0
    path = site.settings.state_directory / "licenses" / "license.dat"
    kept = path.read_bytes()
    site.endpoint.terms = lambda public: a_license(device_pubkey=public, sequence=2)  # the vendor restored a backup
    with capture_logs() as lines:
        assert site.cycle(25 * 3600) == 0
    (line,) = (line for line in lines if "gave no licence" in line["event"])
    assert "Sequence 2 is older than 5" in line["cause"]
    assert path.read_bytes() == kept
    assert site.serves()
    site.clock.pass_seconds(3 * 86400)
    asked = site.endpoint.asked("/license")
    for _ in range(720):
        site.clock.pass_seconds(5)
        site.meter.watch_license()
        site.meet()
    assert site.state() is State.TERMINATED
    assert site.endpoint.asked("/license") - asked < 15
    assert "Sequence 2 is older than 5" in site.status().endpoint_problem
    assert site.status().endpoint_word == "Invalid"


def test_usage_is_told_though_the_fetched_licence_is_still_to_come(site: Connected) -> None:
    site.endpoint.terms = lambda public: a_license(device_pubkey=public, not_before=NOW + timedelta(days=2))
    site.meet()
    assert site.cycle() == 0
    assert site.ledger.delivered().pending == 0
    assert site.status().endpoint_word == "Invalid"
    site.clock.pass_seconds(2 * 86400)
    site.meter.watch_license()
    assert site.cycle() == 0
    assert site.serves()
    assert (site.status().endpoint_word, site.status().endpoint_problem) == ("Valid", "")


def test_what_is_told_is_acknowledged_once_a_day(site: Connected) -> None:
    site.meet()
    for _ in range(3):
        site.use(1)
        site.cycle()
    acked = site.ledger.acked()
    assert acked is not None
    assert acked.size == min(report.size for report in site.endpoint.reports.values())
    site.cycle(25 * 3600)
    newest = site.ledger.acked()
    assert newest is not None
    assert newest.size > acked.size


def test_a_licence_that_bounds_unacknowledged_use_is_acknowledged_every_cycle(
    folder: Path, endpoint: FakeEndpoint
) -> None:
    def terms(public: bytes) -> License:
        return a_license(device_pubkey=public, reporting=Reporting(max_unacked_units=5))

    endpoint.terms = terms
    site = Connected(folder, endpoint)
    site.meet()
    for _ in range(4):
        site.use(4)
        assert site.cycle() == 0
        assert site.serves(), site.meter._verdict()
    site.ledger.close()


def test_everything_that_waited_out_an_outage_is_acknowledged_to_the_last_entry(site: Connected) -> None:
    site.meet()
    site.endpoint.leave()
    for number in range(30):
        site.use(number % 3)
        site.cycle()
        if number in (4, 17):
            site.crash()
    site.endpoint.listen()
    assert site.cycle(25 * 3600) == 0
    assert site.ledger.delivered().pending == 0
    told = max(report.size for report in site.endpoint.reports.values())
    acked = site.ledger.acked()
    assert acked is not None
    assert acked.size == told == site.ledger.delivered().size
    assert all(report.since_root for report in site.endpoint.reports.values() if report.since)


def test_windows_that_can_prove_nothing_are_told_all_the_same(site: Connected) -> None:
    site.meet()
    site.endpoint.leave()
    for _ in range(3):
        site.use(1)
        site.cycle()
    damaged = site.ledger.undelivered(0, 1)[0].size
    site.ledger._writer.execute("UPDATE seal SET frontier = NULL WHERE size = ?", [damaged])
    site.endpoint.listen()
    assert site.cycle() == 0
    assert site.told == site.counted == 3
    proven = [bool(site.endpoint.reports[place].since_root) for place in sorted(site.endpoint.reports)]
    assert proven == [False, False, True, True]


def test_without_an_acknowledgement_the_work_goes_on(site: Connected) -> None:
    site.meet()
    site.use(1)
    site.endpoint.acknowledges = False
    with capture_logs() as lines:
        assert site.cycle() == 0
    (line,) = (line for line in lines if line["log_level"] == "warning")
    assert "gave no acknowledgement" in line["event"]
    assert site.serves()
    assert site.ledger.acked() is None
    site.restart()
    with capture_logs() as lines:
        site.meet()
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == [line["event"]]


def test_an_acknowledgement_that_cannot_be_kept_fails_nothing_and_is_told(site: Connected) -> None:
    site.meet()
    (site.settings.state_directory / "acks").write_text("no folder")
    for _ in range(11):
        site.use(1)
        with capture_logs() as lines:
            assert site.cycle() == 0
    (line,) = (line for line in lines if line["log_level"] == "warning")
    assert "gave no acknowledgement" in line["event"]
    assert str(site.settings.state_directory / "acks") in line["cause"]
    assert line["next_step"]
    assert site.serves()
    assert site.told == site.counted == 11
    assert site.ledger.acked() is None
    (site.settings.state_directory / "acks").unlink()
    assert site.cycle() == 0
    assert site.ledger.acked() is not None


def test_an_anchor_that_time_has_passed_meanwhile_fails_nothing(
    site: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    def passed(*_: object, **__: object) -> None:
        raise LedgerConflictError("time can only be set back with a token", next_step="ask the vendor for one")

    monkeypatch.setattr(Exchange, "import_ack", passed)
    site.meet()
    site.use(1)
    assert site.cycle() == 0
    assert site.serves()


def test_an_acknowledgement_of_entries_that_were_lost_fails_nothing_and_is_told(site: Connected) -> None:
    site.meet()
    site.use(3)
    assert site.cycle() == 0
    site.use(2)
    assert site.cycle() == 0
    acked = site.ledger.delivered().size
    site.endpoint.leave()
    site.use(4)
    assert site.cycle() == 1  # the endpoint never learns of this window
    site.ledger.close()
    for path in site.settings.state_directory.glob("ledger.db*"):
        path.unlink()
    shutil.rmtree(site.settings.output_directory)
    site.settings.output_directory.mkdir()
    site.endpoint.listen()
    site.start()
    assert site.ledger.base() > acked
    site.meet()
    for _ in range(3):
        site.use(1)
        with capture_logs() as lines:
            assert site.cycle() == 0
    (line,) = (line for line in lines if "gave no acknowledgement" in line["event"])
    assert f"acknowledges {acked} entries" in line["cause"]
    assert "call the vendor" in line["next_step"]
    assert site.serves()
    assert [entry["code"] for entry in site.faults()] == []


# ---- the client ------------------------------------------------------------------------------------------------------


def test_many_reports_share_a_connection_and_survive_its_end(endpoint: FakeEndpoint) -> None:
    client = BillingClient(endpoint.url, KEY)
    endpoint.answer = (200, b"", {})
    for _ in range(3):
        with pytest.raises(Exception, match="HTTP 404"):
            client._asked("GET", "/x", None)
    endpoint.leave()
    endpoint.listen()
    with pytest.raises(Exception, match="HTTP 404"):
        client._asked("GET", "/x", None)
    client.close()


# ---- a ledger that was damaged, lost, or older than this mode --------------------------------------------------------


def test_a_rebuilt_ledger_knows_what_was_delivered_and_with_what_the_last_cycle_failed(site: Connected) -> None:
    site.meet()
    site.use(3)
    assert site.cycle() == 0
    site.endpoint.refusal = (401, "Invalid", {})
    site.use(2)
    assert site.cycle() == 1
    before = site.ledger.delivered()
    note_damage(site.ledger.path, "told by a test")
    site.crash()
    assert list((site.settings.state_directory / "aside").iterdir())
    assert site.ledger.delivered().size == before.size > 0
    assert (site.ledger.snapshot(READ_PAGES_METER).failed_cycles, site.word()) == (1, "Invalid")
    site.endpoint.refusal = None
    assert site.cycle() == 0
    assert site.told == site.counted == 5
    assert site.endpoint.repeated == 0


def test_a_lost_ledger_is_told_again_from_the_records_and_billed_once(site: Connected) -> None:
    site.endpoint.acknowledges = False
    site.meet()
    for pages in (3, 2):
        site.use(pages)
        assert site.cycle() == 0
    site.ledger.close()
    for path in site.settings.state_directory.glob("ledger.db*"):
        path.unlink()
    site.start()
    site.meet()
    assert site.cycle() == 0
    assert site.endpoint.repeated == 2
    assert site.told == site.counted == 5
    assert site.endpoint.gaps() == []


def test_what_a_row_says_of_another_history_counts_for_nothing(site: Connected) -> None:
    site.endpoint.acknowledges = False
    site.meet()
    site.use(3)
    assert site.cycle() == 0
    site.ledger._writer.execute("UPDATE delivery SET size = size + 1000")
    assert site.ledger.delivered().size == 0
    site.ledger._writer.execute("UPDATE delivery SET size = size - 1000, root = zeroblob(32)")
    assert site.ledger.delivered().size == 0
    assert site.cycle() == 0
    assert (site.told, site.endpoint.repeated) == (3, 1)


def test_an_appliance_that_worked_disconnected_tells_what_was_not_acknowledged(
    folder: Path, endpoint: FakeEndpoint
) -> None:
    site = Connected(folder, endpoint)
    with_file = replace(site.settings, mode="disconnected", license_directory=folder / "license")
    endpoint.vendor.install(folder)
    site.ledger.close()
    connected, site.settings = site.settings, with_file
    site.start()
    assert site.endpoint.requests == []
    for pages in (4, 1):
        site.use(pages)
        assert site.cycle() == 0
    site.ledger.close()
    site.settings = connected
    site.start()
    site.meet()
    assert site.cycle() == 0
    assert site.told == site.counted == 5
    site.ledger.close()
