"""Usage totals over HTTP (contract C.2): their shape, their months, and that they answer whatever else does not."""

from __future__ import annotations

import json
import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from licenses.device_key import DeviceKey
from licenses.model import READ_PAGES_METER
from sidecar.bootstrap import Services, build_services, ledger_path
from sidecar.ledger import UseEvent
from sidecar.settings import Settings
from sidecar.web.app import create_app
from tests.fakes.clock import FakeClock
from tests.fakes.licences import NOW, FakeVendor, a_license, a_vendor

ALL = "/records/usage-logs/"
OTHER_METER = "CognitiveServices.ComputerVision.Container.Another"
HEALTH = {
    "service": "ocr-core",
    "workers": 2,
    "cpu": {"supported": True, "reason": ""},
    "engine": {"name": "none", "version": "0"},
    "languages": ["eng"],
}


@dataclass
class Appliance:
    """Everything behind the routes of one appliance, with a clock that a test moves; nothing of it is started."""

    folder: Path
    clock: FakeClock
    vendor: FakeVendor
    license_file: Path
    services: Services
    web: FlaskClient

    def read_pages(self, pages: int, *, meter: str = READ_PAGES_METER) -> None:
        operation = str(uuid.uuid4())
        license_id = a_license().license_id
        self.services.ledger.record_use(
            [
                UseEvent(operation_id=operation, page=page, meter=meter, license_id=license_id)
                for page in range(1, pages + 1)
            ]
        )

    def pass_to(self, at: datetime) -> None:
        """Time goes by, on all clocks."""
        self.clock.pass_seconds(at.timestamp() - self.clock.wall_ns / 1e9)

    def totals(self, path: str = ALL) -> dict[str, int]:
        answer = self.web.get(path)
        assert answer.status_code == 200, answer.text
        meters = json.loads(answer.data)["meters"]
        assert all(meter["billedUnit"] == meter["quantity"] for meter in meters)
        return {meter["name"]: meter["quantity"] for meter in meters}

    def state(self) -> str:
        """What the gate decides now."""
        self.services.admission.refresh()
        return str(json.loads(self.web.get("/status").data)["state"])


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Appliance]:
    vendor = a_vendor()
    trust_root, license_file = vendor.install(tmp_path)
    for name in ("output", "share", "state"):
        (tmp_path / name).mkdir()
    settings = replace(
        Settings(),
        license_directory=license_file.parent,
        output_directory=tmp_path / "output",
        shared_directory=tmp_path / "share",
        state_directory=tmp_path / "state",
        trust_root=trust_root,
        core_socket=tmp_path / "core.sock",
    )
    DeviceKey.load_or_create(settings.state_directory)
    clock = FakeClock()
    services = build_services(settings, clock)
    yield Appliance(tmp_path, clock, vendor, license_file, services, create_app(services).test_client())
    services.ledger.close()


# ---- the shape ------------------------------------------------------------------------------------------------------


def test_bytes_are_those_that_stock_clients_are_shown(appliance: Appliance) -> None:
    appliance.read_pages(3)
    answer = appliance.web.get(ALL)
    assert answer.data.decode() == (
        '{"type":"CommerceUsageResponse","meters":[{"name":"CognitiveServices.ComputerVision.Container.ReadPages",'
        '"quantity":3,"billedUnit":3}],"apiType":"computervision","serviceName":"computervisionread"}'
    )
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"


def test_quantities_are_whole_numbers(appliance: Appliance) -> None:
    appliance.read_pages(1)
    (meter,) = json.loads(appliance.web.get(ALL).data, parse_float=pytest.fail)["meters"]
    assert type(meter["quantity"]) is type(meter["billedUnit"]) is int


def test_new_ledger_has_no_meters(appliance: Appliance) -> None:
    assert json.loads(appliance.web.get(ALL).data) == {
        "type": "CommerceUsageResponse",
        "meters": [],
        "apiType": "computervision",
        "serviceName": "computervisionread",
    }


def test_meters_are_told_one_by_one_in_the_order_of_their_names(appliance: Appliance) -> None:
    appliance.read_pages(2)
    appliance.read_pages(5, meter=OTHER_METER)
    assert list(appliance.totals().items()) == [(OTHER_METER, 5), (READ_PAGES_METER, 2)]


def test_a_page_shows_at_once_and_a_retry_does_not(appliance: Appliance) -> None:
    event = UseEvent(operation_id=str(uuid.uuid4()), page=1, meter=READ_PAGES_METER, license_id=a_license().license_id)
    for _ in range(3):
        appliance.services.ledger.record_use([event])
        assert appliance.totals() == {READ_PAGES_METER: 1}


# ---- months ---------------------------------------------------------------------------------------------------------


def test_each_month_has_its_own(appliance: Appliance) -> None:
    appliance.read_pages(1)
    appliance.pass_to(datetime(2027, 1, 31, 23, 59, 59, tzinfo=UTC))
    appliance.read_pages(2)
    appliance.pass_to(datetime(2027, 2, 1, tzinfo=UTC))
    appliance.read_pages(4)
    appliance.pass_to(datetime(2028, 1, 10, tzinfo=UTC))
    appliance.read_pages(8)
    assert appliance.totals() == {READ_PAGES_METER: 15}
    for path, pages in (("01/2027", 3), ("02/2027", 4), ("01/2028", 8)):
        assert appliance.totals(f"/records/usage-logs/{path}") == {READ_PAGES_METER: pages}
    for path in ("03/2027", "02/2028", "01/2029", "12/2026"):
        assert appliance.totals(f"/records/usage-logs/{path}") == {}


def test_a_wall_clock_that_steps_does_not_move_pages_to_another_month(appliance: Appliance) -> None:
    """The month is that of the effective time, as in the records."""
    appliance.read_pages(1)
    appliance.clock.step_wall(-timedelta(days=60).total_seconds())
    appliance.read_pages(1)
    appliance.clock.step_wall(timedelta(days=120).total_seconds())
    appliance.read_pages(1)
    assert appliance.totals("/records/usage-logs/1/2027") == {READ_PAGES_METER: 3}


@pytest.mark.parametrize("path", ["1/2027", "01/2027", "1/2027/", "01/2027/"])
def test_one_digit_or_two_with_a_slash_or_without(appliance: Appliance, path: str) -> None:
    appliance.read_pages(2)
    assert appliance.totals(f"/records/usage-logs/{path}") == {READ_PAGES_METER: 2}


def test_all_with_a_slash_or_without(appliance: Appliance) -> None:
    appliance.read_pages(2)
    assert appliance.totals("/records/usage-logs") == appliance.totals("/records/usage-logs/") == {READ_PAGES_METER: 2}


@pytest.mark.parametrize("path", ["3/2031", "03/2031", "12/0001", "1/9999"])
def test_month_without_use_is_empty_and_no_error(appliance: Appliance, path: str) -> None:
    appliance.read_pages(1)
    answer = appliance.web.get(f"/records/usage-logs/{path}")
    assert (answer.status_code, json.loads(answer.data)["meters"]) == (200, [])


BAD_NUMBERS = {
    "zero": "0",
    "two_zeros": "00",
    "word": "abc",
    "negative": "-3",
    "signed": "%2B3",
    "fraction": "3.0",
    "exponent": "1e1",
    "hexadecimal": "0x3",
    "underscore": "1_0",
    "space": "%20",
    "space_before": "%203",
    "space_after": "3%20",
    "line_end": "3%0A",
    "null": "3%00",
    "arabic_digit": "٣",
    "full_width_digit": "\uff13",
    "superscript": "³",
    "roman": "Ⅲ",
    "no_utf8": "%FF",
    "sql": "3'%20OR%20'1'='1",
    "very_long": "3" * 5000,
    "very_long_zeros": "0" * 5000 + "3",
}
BAD_MONTHS = {**BAD_NUMBERS, "thirteen": "13", "three_digits": "003", "ninety_nine": "99"}
BAD_YEARS = {**BAD_NUMBERS, "two_digits": "31", "three_digits": "203", "five_digits": "02031", "year_zero": "0000"}


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("month", BAD_MONTHS.values(), ids=BAD_MONTHS)
def test_bad_month_is_told(appliance: Appliance, month: str, slash: str) -> None:
    require_refusal(
        appliance.web, f"/records/usage-logs/{month}/2031{slash}", "The month must be a number from 1 to 12."
    )


@pytest.mark.parametrize("year", BAD_YEARS.values(), ids=BAD_YEARS)
def test_bad_year_is_told(appliance: Appliance, year: str) -> None:
    require_refusal(appliance.web, f"/records/usage-logs/03/{year}", "The year must have four digits.")


def require_refusal(web: FlaskClient, path: str, message: str) -> None:
    answer = web.get(path)
    assert answer.status_code == 400
    assert json.loads(answer.data) == {"error": {"code": "BadArgument", "message": message}}
    assert "Retry-After" not in answer.headers


@pytest.mark.parametrize("path", ["03", "03/2031/1"])
def test_other_addresses_are_not_there(appliance: Appliance, path: str) -> None:
    assert appliance.web.get(f"/records/usage-logs/{path}").status_code == 404


# ---- methods --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/records/usage-logs", ALL, "/records/usage-logs/01/2027", "/records/usage-logs/13/2027"]
)
def test_head_is_get_without_a_body(appliance: Appliance, path: str) -> None:
    appliance.read_pages(2)
    get, head = appliance.web.get(path), appliance.web.head(path)
    assert (head.status_code, head.data) == (get.status_code, b"")
    for name in ("Content-Type", "Content-Length", "Cache-Control"):
        assert head.headers.get(name) == get.headers.get(name)


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_nothing_can_be_written_here(appliance: Appliance, method: str) -> None:
    for path in (ALL, "/records/usage-logs/01/2027"):
        answer = getattr(appliance.web, method)(path)
        assert answer.status_code == 405
        assert "GET" in answer.headers["Allow"]


# ---- every state ----------------------------------------------------------------------------------------------------


def healthy_core(appliance: Appliance) -> None:
    """A core on the Unix socket that says it is well."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(appliance.folder / "core.sock"))
    server.listen()
    body = json.dumps(HEALTH)

    def serve() -> None:
        while True:
            client, _ = server.accept()
            client.recv(65536)
            client.sendall(f"HTTP/1.0 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            client.close()

    threading.Thread(target=serve, daemon=True).start()


def without_licence(appliance: Appliance) -> None:
    appliance.license_file.unlink()
    assert appliance.state() == "STARTING", "its licence may be on the way: files are exchanged"
    appliance.clock.pass_seconds(1)


def licence_of_a_stranger(appliance: Appliance) -> None:
    without_licence(appliance)
    appliance.state()
    appliance.license_file.write_bytes(a_vendor().seal())


def expired(appliance: Appliance) -> None:
    appliance.pass_to(a_license().termination_at + timedelta(days=1))


def not_yet_valid(appliance: Appliance) -> None:
    without_licence(appliance)
    appliance.state()
    later = a_license(not_before=NOW + timedelta(days=3))
    appliance.license_file.write_bytes(appliance.vendor.seal(later))


def cut_off(appliance: Appliance) -> None:
    healthy_core(appliance)
    for _ in range(10):
        appliance.services.ledger.cycle_failed("the output folder is gone", {"cause": "test"})


def out_of_quota(appliance: Appliance) -> None:
    appliance.license_file.write_bytes(appliance.vendor.seal(a_license(page_limit=1)))


def core_down(appliance: Appliance) -> None:
    appliance.clock.pass_seconds(60)


def meter_down(appliance: Appliance) -> None:
    healthy_core(appliance)
    appliance.clock.pass_seconds(60)
    appliance.services.admission.refresh()
    appliance.clock.pass_seconds(60)


@pytest.mark.parametrize(
    ("happens", "state"),
    [
        (without_licence, "UNLICENSED"),
        (licence_of_a_stranger, "UNLICENSED"),
        (expired, "TERMINATED"),
        (not_yet_valid, "NOT_YET_VALID"),
        (cut_off, "METERING_CUTOFF"),
        (out_of_quota, "OUT_OF_QUOTA"),
        (core_down, "CORE_DOWN"),
        (meter_down, "SUSPENDED"),
    ],
)
def test_answered_when_queries_are_not(appliance: Appliance, happens: Callable[[Appliance], None], state: str) -> None:
    appliance.read_pages(3)
    happens(appliance)
    assert appliance.state() == state
    refused = appliance.web.post("/vision/v3.2/read/syncAnalyze", data=b"x", content_type="image/png")
    assert refused.status_code in {403, 503}
    assert appliance.totals() == appliance.totals("/records/usage-logs/01/2027") == {READ_PAGES_METER: 3}
    assert appliance.web.head(ALL).status_code == 200
    assert appliance.web.get("/records/usage-logs/13/2027").status_code == 400


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_answered_at_once_while_somebody_writes(appliance: Appliance, begin: str) -> None:
    """What is committed is told; nobody waits for the one who writes."""
    appliance.read_pages(3)
    writer = sqlite3.connect(ledger_path(appliance.services.settings), isolation_level=None)
    writer.execute(begin)
    writer.execute("UPDATE total SET qty = 4711")
    try:
        started = time.monotonic()
        for _ in range(20):
            assert appliance.totals() == {READ_PAGES_METER: 3}
        assert time.monotonic() - started < 2
    finally:
        writer.rollback()
        writer.close()


def test_ledger_that_cannot_be_read_is_told_with_the_time_to_come_back(appliance: Appliance) -> None:
    appliance.read_pages(3)
    appliance.services.ledger.close()
    for path in (ALL, "/records/usage-logs/01/2027"):
        answer = appliance.web.get(path)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert json.loads(answer.data)["error"]["code"] == "ServiceUnavailable"
    assert appliance.web.get("/records/usage-logs/13/2027").status_code == 400


# ---- what it costs --------------------------------------------------------------------------------------------------


class Watched:
    """What SQLite does when a page is asked for.

    Attributes:
        statements: What was run.
        steps: Instructions of SQLite's virtual machine that it took.
    """

    def __init__(self, appliance: Appliance, path: str) -> None:
        self.statements: list[str] = []
        self.steps = 0
        connection = appliance.services.ledger._reader.conn
        connection.set_trace_callback(self.statements.append)
        connection.set_progress_handler(self._step, 1)
        try:
            assert appliance.web.get(path).status_code == 200
        finally:
            connection.set_trace_callback(None)
            connection.set_progress_handler(None, 0)

    def _step(self) -> None:
        self.steps += 1


@pytest.mark.parametrize("path", [ALL, "/records/usage-logs/01/2027", "/records/usage-logs/05/2027"])
def test_cost_does_not_grow_with_the_entries(appliance: Appliance, path: str) -> None:
    appliance.read_pages(1)
    few = Watched(appliance, path)
    for _ in range(40):
        appliance.read_pages(100)
    many = Watched(appliance, path)
    assert few.steps == many.steps < 200
    plans = []
    reader = sqlite3.connect(ledger_path(appliance.services.settings))
    for statement in many.statements:
        plans += [row[3] for row in reader.execute(f"EXPLAIN QUERY PLAN {statement}")]
    reader.close()
    touched = [plan for plan in plans if plan.startswith(("SCAN", "SEARCH"))]
    assert touched
    assert all(plan.split()[1] == "total" for plan in touched), plans
