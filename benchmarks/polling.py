"""How fast `/status` and polls are answered, and what large uploads cost the web process in memory.

The web process has one core to itself; the load (one process, 64 kept connections) and the rest of the service share
another. The baseline is the smallest application that gunicorn's gthread worker can serve: a constant body of the same
size, with the same number of threads, on the same core, in turns with the service.

Two loads: as much as goes (each connection asks again as soon as it is answered), and a fixed rate, where a request's
time runs from the moment at which it was due, so that a stall of the server counts for all that was due meanwhile.
"""

from __future__ import annotations

import http.client
import io
import os
import re
import select
import socket
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
import requests
from PIL import Image

from sidecar.results import OperationStore, ReadRequest
from sidecar.settings import Settings
from tests.e2e.site import Site, free_port, wait_until
from tests.pages import LINES, as_png, printed_page

CONNECTIONS = 64
RATE = 1500
SECONDS = float(os.environ.get("BENCH_SECONDS", "3"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
UPLOADS = 10
SIDE_BY_SIDE = 4
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_PIECE = 2**20


# ---- load -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Answers:
    """What a load has seen.

    Attributes:
        seconds: Time of each answer, in the order of arrival.
        took: From its first request to its last answer.
        wrong: Answers that were not 200.
    """

    seconds: list[float] = field(default_factory=list)
    took: float = 0.0
    wrong: int = 0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.seconds) / self.took

    def quantile(self, part: float) -> float:
        """A quantile of the times, in milliseconds."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * part))] * 1000


@dataclass(slots=True)
class _Connection:
    sock: socket.socket
    due: float = 0.0
    read: bytes = b""


class Load:
    """Asks one address over and over again, on connections that are kept.

    Args:
        port: Of the server on this host.
        path: Of an answer with a Content-Length.
    """

    def __init__(self, port: int, path: str) -> None:
        self._path = path
        self._request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: */*\r\n\r\n".encode()
        self._arrivals = select.epoll()
        self._connections: dict[int, _Connection] = {}
        for _ in range(CONNECTIONS):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections[sock.fileno()] = _Connection(sock)
            self._arrivals.register(sock.fileno(), select.EPOLLIN)
        self._idle: deque[_Connection] = deque()
        self._seen = Answers()
        for one in self._connections.values():  # one answer each: how connections are taken in is another question
            one.due = time.perf_counter()
            one.sock.sendall(self._request)
            while one not in self._idle:
                self._read(one)
        self._seen = Answers()

    def run(self, seconds: float, rate: float | None) -> Answers:
        """Do it for so long, so many times a second or (None) as often as goes, and wait for the last answers."""
        due: deque[float] = deque()
        started = time.perf_counter()
        until, planned = started + seconds, 0
        while True:
            now = time.perf_counter()
            if rate is None:
                due.extend([now] * (len(self._idle) if now < until else 0))
                pause = 1.0
            else:
                while (moment := started + planned / rate) <= now and moment < until:
                    due.append(moment)
                    planned += 1
                pause = max(0.0, min(moment, until) - now) if now < until else 1.0
            while due and self._idle:
                one = self._idle.popleft()  # so that each of them is used
                one.due = due.popleft()
                one.sock.sendall(self._request)
            if now >= until and not due and len(self._idle) == CONNECTIONS:
                break
            if now > until + 30:
                raise TimeoutError(f"requests for {self._path} were never answered")
            # select(2) waits for microseconds, where epoll counts in milliseconds.
            if select.select([self._arrivals], [], [], pause)[0]:
                for number, _ in self._arrivals.poll(0):
                    self._read(self._connections[number])
        self._seen.took = time.perf_counter() - started
        return self._seen

    def _read(self, one: _Connection) -> None:
        piece = one.sock.recv(65536)
        if not piece:
            raise ConnectionError(f"the server closed a connection while {self._path} was asked for")
        one.read += piece
        if _is_whole(one.read):
            self._seen.seconds.append(time.perf_counter() - one.due)
            self._seen.wrong += not one.read.startswith(b"HTTP/1.1 200")
            one.read = b""
            self._idle.append(one)

    def close(self) -> None:
        """Close the connections."""
        self._arrivals.close()
        for one in self._connections.values():
            one.sock.close()


def load(port: int, path: str, *, seconds: float, rate: float | None = None) -> Answers:
    """Ask one address over and over again.

    Args:
        port: Of the server on this host.
        path: Of an answer with a Content-Length.
        seconds: How long.
        rate: Requests a second, evenly spaced; None for as many as go.
    """
    with closing(Load(port, path)) as one:
        return one.run(seconds, rate)


def _is_whole(answer: bytes) -> bool:
    head = answer.find(b"\r\n\r\n")
    if head < 0:
        return False
    length = _LENGTH.search(answer, 0, head)
    assert length is not None, answer[:head]
    return len(answer) - head - 4 >= int(length[1])


# ---- what is asked --------------------------------------------------------------------------------------------------


def serve_constant(port: int, size: int) -> None:
    """The baseline: gunicorn with a body of so many bytes; never returns."""
    from gunicorn.app.base import BaseApplication

    body = b"x" * size
    headers = [("Content-Type", "application/json; charset=utf-8"), ("Content-Length", str(size))]

    def constant(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", headers)
        return [body]

    class Constant(BaseApplication):  # type: ignore[misc]
        def load_config(self) -> None:
            for name, value in {
                "bind": [f"127.0.0.1:{port}"],
                "worker_class": "gthread",
                "threads": Settings().web_threads,
                "keepalive": 75,
                "loglevel": "error",
                "control_socket_disable": True,
            }.items():
                self.cfg.set(name, value)

        def load(self) -> Any:
            return constant

    Constant().run()


@contextmanager
def baseline(size: int, core: int) -> Iterator[int]:
    """The baseline's port."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.polling", "--constant", str(port), str(size)])
    try:
        wait_until(lambda: _answers(port), 20, "the baseline does not answer")
        top = psutil.Process(process.pid)
        pin([top, *top.children(recursive=True)], core)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def _answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/", timeout=5).status_code == 200
    except requests.RequestException:
        return False


def pin(processes: Iterable[psutil.Process], *cores: int) -> None:
    """Keep processes, with all the threads that they have, on some cores."""
    for process in processes:
        for thread in process.threads():
            os.sched_setaffinity(thread.id, cores)


def main() -> None:
    """Print every figure with its goal."""
    everywhere = os.sched_getaffinity(0)
    ours, theirs = min(everywhere), max(everywhere)
    site = Site()
    try:
        site.start()
        os.sched_setaffinity(0, {ours})
        pin(site.processes(), ours)
        pin(site.processes("web"), theirs)
        location = site.submit(as_png(printed_page(LINES * 3, size=(2480, 3508), dpi=300)))
        result = site.result(location)
        lines = sum(len(page["lines"]) for page in result["analyzeResult"]["readResults"])
        finished = location.removeprefix(site.url)
        print(
            f"polling: web on core {theirs}, {CONNECTIONS} connections from core {ours}, {ROUNDS} x {SECONDS:g} s each"
        )
        polls(site, theirs, "/status", "/status")
        polls(site, theirs, f"poll, finished ({lines} lines)", finished)
        with a_running_operation(site) as running:
            polls(site, theirs, "poll, running", running)
        os.sched_setaffinity(0, everywhere)
        pin([one for one in site.processes() if one not in site.processes("web")], *everywhere)
        while_pages_are_read(site, finished)
        pin(site.processes(), *everywhere)
        uploads(site)
        print(f"web and meter together         {resident(site):6.0f} MiB RSS   (goal: 160 at most)")
    finally:
        os.sched_setaffinity(0, everywhere)
        site.remove()


def polls(site: Site, core: int, name: str, path: str) -> None:
    """Print one address's figures beside the baseline's."""
    size = len(requests.get(site.url + path, timeout=10).content)
    most: list[tuple[Answers, Answers]] = []
    paced: list[tuple[Answers, Answers]] = []
    with baseline(size, core) as bare:
        for port, where in ((bare, "/"), (site.port, path)):
            load(port, where, seconds=1)
        for _ in range(ROUNDS):
            most.append((load(bare, "/", seconds=SECONDS), load(site.port, path, seconds=SECONDS)))
            paced.append(
                (load(bare, "/", seconds=SECONDS, rate=RATE), load(site.port, path, seconds=SECONDS, rate=RATE))
            )
    assert not any(one.wrong for pair in most + paced for one in pair)
    print(f"{name}, {size} bytes")
    _print_pairs("as much as goes", most)
    _print_pairs(f"{RATE}/s", paced)


def _print_pairs(name: str, pairs: list[tuple[Answers, Answers]]) -> None:
    for who, number in (("bare gunicorn", 0), ("service", 1)):
        goal = ""
        if who == "service":
            goal = f"   (goal: {RATE}/s at least)" if name == "as much as goes" else "   (goal: p99 10 ms at most)"
        print(
            f"  {name:<16} {who:<14}"
            f" {_middle(pair[number].rate for pair in pairs):5.0f}/s"
            f"  p50 {_middle(pair[number].quantile(0.5) for pair in pairs):6.2f} ms"
            f"  p99 {_middle(pair[number].quantile(0.99) for pair in pairs):6.2f} ms{goal}"
        )
    print(
        f"  {name:<16} ratio         "
        f" {_middle(ours.rate / bare.rate for bare, ours in pairs):5.2f}  "
        f"  p50 {_middle(ours.quantile(0.5) / bare.quantile(0.5) for bare, ours in pairs):6.2f}   "
        f"  p99 {_middle(ours.quantile(0.99) / bare.quantile(0.99) for bare, ours in pairs):6.2f}"
    )


def _middle(values: Iterable[float]) -> float:
    return statistics.median(values)


@contextmanager
def a_running_operation(site: Site) -> Iterator[str]:
    """The path of an operation that does not end meanwhile: the spool says that another process works on it."""
    store = OperationStore(site.folder / "share", result_seconds=60)
    name = str(uuid.uuid4())
    place = store.enter(name)
    (site.folder / "share" / "operations" / name).mkdir()
    store.accept(
        ReadRequest(
            operation_id=name,
            created_ns=time.time_ns(),
            pages=(1,),
            language=None,
            reading_order="basic",
            license_id="",
            synchronous=False,
            result_seconds=60,
        )
    )
    store.begin(name)
    try:
        yield f"/vision/v3.2/read/analyzeResults/{name}"
    finally:
        store.discard(name)
        store.leave(place)


def while_pages_are_read(site: Site, path: str) -> None:
    """Polls while the core has all cores busy; printed for the record, there is no goal."""
    blob = as_png(printed_page(LINES * 5, size=(2480, 3508), dpi=300))
    stop = threading.Event()

    def read() -> int:
        count = 0
        while not stop.is_set():
            site.sync(blob).raise_for_status()
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        time.sleep(1)
        seen = load(site.port, path, seconds=SECONDS, rate=RATE)
        stop.set()
        pages = sum(reader.result() for reader in readers)
    print(f"the same poll while {pages} pages are read, nobody has a core alone")
    print(f"  {RATE}/s           service        {seen.rate:5.0f}/s", end="")
    print(f"  p50 {seen.quantile(0.5):6.2f} ms  p99 {seen.quantile(0.99):6.2f} ms   (no goal)")


# ---- memory ---------------------------------------------------------------------------------------------------------


def uploads(site: Site) -> None:
    """Ten documents of 50 MB, four side by side: how far the web process grows above where it was."""
    picture = a_large_bitmap()
    noise = os.urandom(len(picture))
    ways = [Upload(blob, way) for way in ("length", "chunks", "one chunk", "multipart") for blob in (picture, noise)]
    ways = (ways * 2)[:UPLOADS]
    ways[0].send(site)  # what the first of all requests loads is no growth
    before, growth = watched(site, lambda: _all_of(ways, site))
    print(
        f"{UPLOADS} uploads of {len(picture) / 1e6:.1f} MB, {SIDE_BY_SIDE} side by side: "
        f"web grows by {growth:.1f} MiB over {before:.0f} MiB at its peak   (goal: less than 20 MB)"
    )


def _all_of(ways: list[Upload], site: Site) -> None:
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        list(pool.map(lambda one: one.send(site), ways))


def watched(site: Site, work: Callable[[], None]) -> tuple[float, float]:
    """Resident memory of the web's workers before some work, and the growth of their peaks in it, in MiB."""
    workers = [one for one in site.processes("web") if one.ppid() in {other.pid for other in site.processes("web")}]
    for worker in workers:
        with open(f"/proc/{worker.pid}/clear_refs", "w", encoding="ascii") as forget:
            forget.write("5")  # the peak so far
    before = sum(worker.memory_info().rss for worker in workers) / 2**20
    work()
    return before, sum(_peak(worker) for worker in workers) - before


def _peak(process: psutil.Process) -> float:
    with open(f"/proc/{process.pid}/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def a_large_bitmap() -> bytes:
    """A valid document just under 50 MB."""
    out = io.BytesIO()
    Image.new("RGB", (4080, 4080), "white").save(out, "BMP")
    return out.getvalue()


@dataclass(frozen=True, slots=True)
class Upload:
    """One document on its way.

    Attributes:
        blob: The document.
        way: `length`, `chunks`, `one chunk` or `multipart`.
    """

    blob: bytes
    way: str

    def send(self, site: Site) -> None:
        """Send it; a picture must be taken and noise be refused."""
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=120)
        try:
            connection.putrequest("POST", "/vision/v3.2/read/analyze")
            before, after, kind = b"", b"", "application/octet-stream"
            if self.way == "multipart":
                mark = uuid.uuid4().hex
                kind = f"multipart/form-data; boundary={mark}"
                before = f'--{mark}\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'.encode()
                after = f"\r\n--{mark}--\r\n".encode()
            connection.putheader("Content-Type", kind)
            chunked = "chunk" in self.way
            if chunked:
                connection.putheader("Transfer-Encoding", "chunked")
            else:
                connection.putheader("Content-Length", str(len(before) + len(self.blob) + len(after)))
            connection.endheaders()
            piece = len(self.blob) if self.way == "one chunk" else _PIECE
            connection.send(before)
            for start in range(0, len(self.blob), piece):
                part = memoryview(self.blob)[start : start + piece]
                if chunked:
                    connection.send(f"{len(part):x}\r\n".encode())
                connection.send(part)
                if chunked:
                    connection.send(b"\r\n")
            connection.send(b"0\r\n\r\n" if chunked else after)
            answer = connection.getresponse()
            told = answer.read()
            taken = answer.status == 202
            assert taken == self.blob.startswith(b"BM"), (self.way, answer.status, told[:200])
        finally:
            connection.close()


def resident(site: Site) -> float:
    """Resident memory of all of web and meter, in MiB."""
    together = [*site.processes("web"), *site.processes("meter")]
    return float(sum(one.memory_info().rss for one in together)) / 2**20


if __name__ == "__main__":
    if sys.argv[1:2] == ["--constant"]:
        serve_constant(int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
