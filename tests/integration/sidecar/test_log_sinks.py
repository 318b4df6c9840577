"""The log on disk and the log for Fluentd, on real files and real sockets, with everything that can be wrong there."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from sidecar.bootstrap import LogSinks
from sidecar.errors import SettingsError
from sidecar.log_files import LogFiles, require_log_mount
from sidecar.log_levels import LogLevels
from sidecar.log_queue import QueuedSink
from sidecar.logs import LogEvent, add_sinks, configure_logs
from sidecar.settings import Settings, load_settings
from tests.fakes.fluentd import FakeFluentd, a_certificate
from tests.integration.sidecar.test_output_faults import mounted

AN_EVENT = LogEvent(
    wall_ns=1_750_000_000_123_456_789,
    level="Information",
    category="Tollgate.Test",
    process="web",
    message="something happened",
    facts={"pages": 3, "ok": True, "cause": None},
)


def until(holds: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def lines_of(files: list[Path]) -> list[dict[str, Any]]:
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def names(folder: Path) -> list[Path]:
    """Log files in the order in which they were begun."""
    return sorted(folder.glob("computervisionread/*/logs/*.log"), key=lambda path: int(path.stem.split("-")[-1]))


def some_files(folder: Path, **changes: Any) -> LogFiles:
    return LogFiles(folder, lambda: "an-instance", "web", **{"max_bytes": None, "max_files": None, **changes})


def events(count: int, **changes: Any) -> deque[LogEvent]:
    return deque(replace(AN_EVENT, facts={"number": number}, **changes) for number in range(count))


# ---- files ----------------------------------------------------------------------------------------------------------


def test_a_line_of_the_log(tmp_path: Path) -> None:
    assert some_files(tmp_path).deliver(deque([AN_EVENT, replace(AN_EVENT, message="ünïcode\n", exception="Trace")]))
    (path,) = names(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o640
    first, second = lines_of([path])
    assert first == {
        "time": "2025-06-15T15:06:40.123Z",
        "level": "Information",
        "category": "Tollgate.Test",
        "process": "web",
        "pid": os.getpid(),
        "message": "something happened",
        "facts": {"pages": 3, "ok": True, "cause": None},
    }
    assert (second["message"], second["exception"]) == ("ünïcode\n", "Trace")


def test_a_new_file_begins_when_the_current_one_is_full(tmp_path: Path) -> None:
    files = some_files(tmp_path, max_bytes=2000)
    waiting = events(100)
    files.deliver(waiting)
    assert not waiting
    found = names(tmp_path)
    sizes = [path.stat().st_size for path in found]
    longest = max(len(line) for path in found for line in path.read_bytes().splitlines(keepends=True))
    assert all(2000 <= size < 2000 + longest for size in sizes[:-1])
    assert [line["facts"]["number"] for line in lines_of(found)] == list(range(100))


def test_without_a_limit_there_is_one_file(tmp_path: Path) -> None:
    files = some_files(tmp_path)
    for _ in range(3):
        files.deliver(events(1000, message="x" * 2000))
    assert len(names(tmp_path)) == 1


def test_the_oldest_files_go_but_none_of_a_living_process_and_none_of_others(tmp_path: Path) -> None:
    folder = tmp_path / "computervisionread" / "an-instance" / "logs"
    folder.mkdir(parents=True)
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    kept = [f"web-20200101T000000Z-{sleeper.pid}-1.log", "meter-20200101T000000Z-99999999-1.log", "mine.log"]
    try:
        for name in (*kept, "web-20200101T000000Z-99999999-1.log", "web-20200102T000000Z-99999998-1.log"):
            (folder / name).touch()
        files = some_files(tmp_path, max_bytes=1, max_files=3)
        files.deliver(events(10))
    finally:
        sleeper.communicate(b"\n")
    found = {path.name for path in folder.iterdir()} - set(kept)
    assert all((folder / name).exists() for name in kept)
    assert sorted(int(name.removesuffix(".log").split("-")[-1]) for name in found) == [8, 9, 10]


def test_it_waits_until_the_instance_has_its_name(tmp_path: Path) -> None:
    known: list[str | None] = [None]
    files = LogFiles(tmp_path, lambda: known[0], "web", max_bytes=None, max_files=None)
    waiting = events(1)
    assert not files.deliver(waiting)
    assert len(waiting) == 1
    assert not list(tmp_path.iterdir())
    known[0] = "late"
    assert files.deliver(waiting)
    assert names(tmp_path)[0].parts[-3] == "late"


def test_a_file_that_was_removed_is_begun_anew(tmp_path: Path) -> None:
    files = some_files(tmp_path)
    files.deliver(events(1))
    shutil.rmtree(tmp_path / "computervisionread")
    files.deliver(events(2))
    assert len(lines_of(names(tmp_path))) == 2


def test_two_processes_write_two_files(tmp_path: Path) -> None:
    code = (
        "import sys; from collections import deque; from pathlib import Path; from sidecar.log_files import LogFiles\n"
        "from sidecar.logs import LogEvent\n"
        "e=LogEvent(wall_ns=1750000000000000000, level='Error', category='c', process='web', message='m')\n"
        "LogFiles(Path(sys.argv[1]),lambda:'an-instance','web',max_bytes=None,max_files=5).deliver(deque([e]*50))\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, tmp_path]) for _ in range(3)]
    assert [one.wait(60) for one in running] == [0, 0, 0]
    assert [len(lines_of([path])) for path in names(tmp_path)] == [50, 50, 50]


# ---- a disk that is not well ----------------------------------------------------------------------------------------


def test_the_last_of_the_space_is_left_to_the_records(tmp_path: Path) -> None:
    with mounted(tmp_path, "size=12m"):
        files = some_files(tmp_path, max_bytes=1024 * 1024)
        with pytest.raises(OSError, match="kept for usage records"):
            files.deliver(events(10_000, message="x" * 4000))
        free = os.statvfs(tmp_path)
        assert 3 * 2**20 < free.f_bavail * free.f_frsize < 5 * 2**20
        for path in names(tmp_path)[:4]:
            path.unlink()
        waiting = events(3, message="room again")
        assert files.deliver(waiting)
        assert [line["message"] for line in lines_of(names(tmp_path))][-3:] == ["room again"] * 3


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reserve is gone too, as when somebody else fills the disk in the middle of a line."""
    with mounted(tmp_path, "size=1m"):
        monkeypatch.setattr(LogFiles, "_require_room", lambda self: None)
        files = some_files(tmp_path)
        waiting = events(2000, message="x" * 3001)
        with pytest.raises(OSError, match="No space left"):
            files.deliver(waiting)
        (path,) = names(tmp_path)
        content = path.read_bytes()
        assert content.endswith(b"}\n")
        assert len(lines_of([path])) == 2000 - len(waiting)


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What the console is told, with the log set up."""
    lines: list[str] = []

    class Listener:
        name = "Console-test"

        def offer(self, event: LogEvent) -> None:
            lines.append(f"{event.level} {event.message} {dict(event.facts)}")

    configure_logs(LogLevels(), process="web")
    add_sinks(Listener())
    return lines


class Switched:
    """A delivery that can be broken, and blocked as on a mount that hangs."""

    def __init__(self) -> None:
        self.delivered: list[LogEvent] = []
        self.broken = False
        self.free = threading.Event()
        self.free.set()

    def deliver(self, events: deque[LogEvent]) -> bool:
        self.free.wait()
        if self.broken:
            raise OSError(28, "No space left on device")
        self.delivered += events
        events.clear()
        return True

    def idle(self) -> None:
        self.delivered.append(replace(AN_EVENT, message="idle"))

    def close(self) -> None:
        self.delivered.append(replace(AN_EVENT, message="closed"))


def test_a_hanging_mount_keeps_nobody_waiting_and_is_told_once(told: list[str]) -> None:
    delivery = Switched()
    delivery.free.clear()
    sink = QueuedSink("Disk", "the output mount", delivery, max_events=50)
    sink.start()
    slowest = 0.0
    for number in range(500):
        began = time.monotonic()
        sink.offer(replace(AN_EVENT, message=str(number)))
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 1.0
    (line,) = told
    assert "does not keep up" in line
    sink.finish()
    began = time.monotonic()
    assert not sink.join(0.2)
    assert time.monotonic() - began < 5
    delivery.free.set()
    assert sink.join(20)
    assert delivery.delivered[-1].message == "closed"


def test_what_fails_is_tried_again_and_told_once(told: list[str]) -> None:
    delivery = Switched()
    delivery.broken = True
    sink = QueuedSink("Disk", "the output mount", delivery, max_events=10)
    sink.start()
    sink.offer(AN_EVENT)
    until(lambda: told, "nothing was told")
    for number in range(30):
        sink.offer(replace(AN_EVENT, message=str(number)))
    delivery.broken = False
    until(lambda: len(told) == 2, "it does not tell that it goes on")
    assert "No space left on device" in told[0]
    assert told[0].startswith("Warning")
    assert "again" in told[1]
    assert "'dropped_lines': 2" in told[1]
    sink.finish()
    assert sink.join(20)
    assert [event.message for event in delivery.delivered if event.message.isdigit()] == [str(n) for n in range(10)]


def test_a_fault_of_ours_ends_nothing(told: list[str]) -> None:
    delivery = Switched()
    delivery.delivered = None  # type: ignore[assignment]
    sink = QueuedSink("Disk", "the output mount", delivery)
    sink.start()
    sink.offer(AN_EVENT)
    until(lambda: told, "nothing was told")
    assert "TypeError" in told[0]
    delivery.delivered = []
    until(lambda: delivery.delivered, "it did not go on")


# ---- what goes where ------------------------------------------------------------------------------------------------


def test_each_sink_has_its_own_levels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fluentd = FakeFluentd()
    settings = load_settings(
        [
            f"Mounts:Output={tmp_path}",
            "Logging:Disk:Format=json",
            "Logging:Disk:LogLevel=Debug",
            "Logging:LogLevel:Default=Error",
            "Logging:Fluentd:LogLevel:Tollgate.Chatty=None",
            "Fluentd:Host=127.0.0.1",
            f"Fluentd:Port={fluentd.port}",
        ],
        {},
    )
    settings = replace(settings, state_directory=_with_device(tmp_path))
    configure_logs(settings.log_levels, process="meter")
    with LogSinks(settings, "meter"):
        for category in ("Tollgate.Chatty", "Tollgate.Quiet"):
            log = structlog.get_logger(category)
            for method in ("debug", "info", "error"):
                getattr(log, method)(f"{category} {method}", pages=1, folder=tmp_path)
        _fail(structlog.get_logger("Tollgate.Quiet"))
    written = lines_of(names(tmp_path))
    assert [line["message"] for line in written] == [
        *(f"Tollgate.{who} {method}" for who in ("Chatty", "Quiet") for method in ("debug", "info", "error")),
        "it failed",
    ]
    assert written[0]["facts"] == {"pages": 1, "folder": str(tmp_path)}
    assert "ZeroDivisionError" in written[-1]["exception"]
    assert "ZeroDivisionError" in capsys.readouterr().err
    until(lambda: len(fluentd.events) == 2, "not shipped")
    assert fluentd.records("tollgate.meter") == written[-2:]
    fluentd.close()


def _with_device(folder: Path) -> Path:
    from licenses.device_key import DeviceKey

    (folder / "state").mkdir()
    DeviceKey.load_or_create(folder / "state")
    return folder / "state"


def _fail(log: Any) -> None:
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        log.exception("it failed")


def test_without_fluentd_its_library_is_not_loaded(tmp_path: Path) -> None:
    code = (
        "import sys; from sidecar.bootstrap import LogSinks; from sidecar.settings import load_settings\n"
        "import sidecar.cli, sidecar.diagnose, sidecar.launcher, sidecar.web.server, sidecar.scheduler\n"
        "LogSinks(load_settings(['Logging:Disk:Format=json', 'Fluentd:Port=1'], {}), 'web').stop()\n"
        "print([name for name in sys.modules if name.split('.')[0] in {'fluent', 'msgpack'} or 'shipping' in name])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("what", ["missing", "a file", "read-only", "well"])
def test_a_log_on_disk_wants_an_output_mount(tmp_path: Path, what: str) -> None:
    settings = Settings(disk_log_format="json", output_directory=tmp_path / "output")
    with _mount(settings.output_directory, what):
        require_log_mount(replace(settings, disk_log_format=""))
        if what == "well":
            require_log_mount(settings)
            return
        with pytest.raises(SettingsError, match="Logging:Disk:Format is set") as caught:
            require_log_mount(settings)
    assert caught.value.exit_code == 65
    assert "Mounts:Output" in caught.value.next_step


@contextmanager
def _mount(path: Path, what: str) -> Iterator[None]:
    if what == "a file":
        path.touch()
    elif what != "missing":
        path.mkdir()
    if what != "read-only":
        yield
        return
    with mounted(path, "ro"):
        yield


# ---- Fluentd --------------------------------------------------------------------------------------------------------


@contextmanager
def shipping(port: int, *words: str) -> Iterator[QueuedSink]:
    """The sink as it is built, stopped at the end."""
    from sidecar import bootstrap

    settings = load_settings(["Fluentd:Host=127.0.0.1", f"Fluentd:Port={port}", *words], {})
    (sink,) = bootstrap._fluentd_sink(settings, "web")
    sink.start()
    try:
        yield sink
    finally:
        sink.finish()
        assert sink.join(20)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_events_arrive_in_order_and_survive_a_broken_connection(tmp_path: Path, tls: bool) -> None:
    certificate = a_certificate(tmp_path) if tls else None
    fluentd = FakeFluentd(certificate)
    words = ["Fluentd:UseTLS=true", f"Sidecar:FluentdCaFile={certificate[0]}"] if certificate else []
    with shipping(fluentd.port, *words) as sink:
        for event in events(250):
            sink.offer(event)
        until(lambda: len(fluentd.events) == 250, "not all arrived")
        assert fluentd.connections == 1
        assert [record["facts"]["number"] for record in fluentd.records("tollgate.web")] == list(range(250))
        _, at, record = fluentd.events[0]
        assert record == replace(AN_EVENT, facts={"number": 0}).to_wire()
        assert abs(at - AN_EVENT.wall_ns / 1e9) < 1e-5
        assert (AN_EVENT.message.encode() in fluentd.raw) is True
        fluentd.hang_up()
        time.sleep(0.1)
        sink.offer(replace(AN_EVENT, message="after"))
        until(lambda: fluentd.records()[-1]["message"] == "after", "it did not connect again")
    fluentd.close()


def test_events_wait_while_fluentd_is_away(told: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    with shipping(port) as sink:
        for event in events(5):
            sink.offer(event)
        until(lambda: told, "nothing was told")
        assert "refused" in told[0]
        fluentd = FakeFluentd(port=port)
        until(lambda: len(fluentd.events) == 5, "what waited did not arrive")
    assert len(told) == 1
    fluentd.close()


def test_heartbeats_come_when_nothing_else_does() -> None:
    fluentd = FakeFluentd()
    from sidecar.log_shipping import FluentdDelivery

    delivery = FluentdDelivery("127.0.0.1", fluentd.port, "web", buffer_bytes=32768)
    sink = QueuedSink("Fluentd", "Fluentd", delivery, idle_seconds=0.05)
    sink.start()
    until(lambda: len(fluentd.records("tollgate.web.heartbeat")) >= 2, "no heartbeat")
    assert fluentd.records()[0] == {"message": "heartbeat", "process": "web", "pid": os.getpid()}
    sink.finish()
    assert sink.join(20)
    fluentd.close()


def test_a_server_that_takes_nothing_keeps_nobody_waiting() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as silent:
        settings = load_settings(["Fluentd:Host=127.0.0.1", f"Fluentd:Port={silent.getsockname()[1]}"], {})
        sinks = LogSinks(settings, "web")
        for _ in range(3000):
            sinks._sinks[0].offer(replace(AN_EVENT, message="x" * 5000))
        began = time.monotonic()
        sinks.stop()
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("wrong", ["unknown certificate", "another host's certificate", "no TLS there", "silence"])
def test_tls_that_cannot_be_trusted_gets_no_event(tmp_path: Path, wrong: str, told: list[str]) -> None:
    certificate = a_certificate(tmp_path, for_other=wrong.startswith("another"))
    fluentd = FakeFluentd(None if wrong == "no TLS there" else certificate)
    words = ["Fluentd:UseTLS=true", "Fluentd:TlsConnectionEstablishmentTimeoutMs=300"]
    if wrong != "unknown certificate":
        words.append(f"Sidecar:FluentdCaFile={certificate[0]}")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if wrong == "silence" else fluentd.port
        with shipping(port, *words) as sink:
            sink.offer(AN_EVENT)
            until(lambda: told, "nothing was told")
    assert fluentd.events == []
    assert AN_EVENT.message.encode() not in fluentd.raw
    fluentd.close()
