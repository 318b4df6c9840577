"""The vendor's service under the reports of many devices: one process, real reports, real commits.

Each device reports every ten seconds, each at its own moment, on a connection of its own, as appliances do. A report's
time runs from the moment at which it was due, so that a stall counts for all that was due meanwhile. The baseline is
`/health` at the same rate in the same minute: what a connection, a request and a read of the database cost. Then the
reports while it verifies a large bundle.
"""

from __future__ import annotations

import http.client
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from benchmarks.authority import _window
from benchmarks.figures import quantile
from benchmarks.machine import progress
from tests.fakes.vendor_books import FakeSite, VendorBooks

DEVICES = int(os.environ.get("BENCH_DEVICES", "500"))
EVERY_SECONDS = 10.0
ROUNDS = int(os.environ.get("BENCH_REPORTS", "4"))
BUNDLE_ENTRIES = int(os.environ.get("BENCH_BESIDE", "200000"))
CALLERS = 48
API = "/tollgate/v1"


def main() -> None:
    """Print every figure with its goal."""
    with tempfile.TemporaryDirectory(prefix="bench-") as holder:
        folder = Path(holder)
        books = VendorBooks(folder, at=datetime.now(UTC).replace(microsecond=0))
        key = books.accounts.new_key(books.subscription_id, 1)
        progress(f"{DEVICES} devices with {ROUNDS} reports each")
        bodies = [_reports(books) for _ in range(DEVICES)]
        large = books.site()
        while large.meter.size < BUNDLE_ENTRIES:
            _window(large, min(100_000, BUNDLE_ENTRIES - large.meter.size))
        bundle = large.bundle().read_bytes()
        books.database.close()
        service, port = _serve(books)
        try:
            headers = {"Ocp-Apim-Subscription-Key": key, "Content-Type": "application/json"}
            process = psutil.Process(service.pid).children()[0]
            bare = _paced([lambda: _call(port, "GET", f"{API}/health", b"", headers)] * (DEVICES * 2))
            before = process.cpu_times()
            rounds = [
                [(lambda body=body: _call(port, "POST", f"{API}/usage", body, headers)) for body in _in_turn(bodies, n)]
                for n in range(ROUNDS + 1)
            ]
            calls = [call for one in rounds[:-1] for call in one]
            taken = _paced(calls)
            after = process.cpu_times()
            memory = process.memory_info().rss / 2**20
            with ThreadPoolExecutor(1) as other:
                packed = {**headers, "Content-Type": "application/gzip"}
                verified = other.submit(_timed, lambda: _call(port, "POST", f"{API}/bundles", bundle, packed))
                beside = _paced(rounds[-1])
            seconds_verified = verified.result()
        finally:
            service.terminate()
            service.wait(30)
        found = VendorBooks.reopened(folder)
        assert found.billed() == DEVICES * (ROUNDS + 1) + large.used(), found.billed()
        found.database.close()
    seconds = (after.user + after.system - before.user - before.system) / len(calls)
    print(f"{DEVICES} devices, each every {EVERY_SECONDS:g} s: {len(calls):,} reports, {DEVICES / EVERY_SECONDS:.0f}/s")
    print(f"  report    {_told(taken)}   (goal: p99 100 ms at most)")
    print(f"  /health   {_told(bare)}")
    during = beside[: max(1, int(seconds_verified * DEVICES / EVERY_SECONDS))]
    print(f"  beside    {_told(during)}   (while {BUNDLE_ENTRIES:,} entries are verified, {seconds_verified:.1f} s)")
    print(f"  {seconds * 1000:.1f} ms of processor time a report; the service holds {memory:.0f} MiB")


# ---- parts -----------------------------------------------------------------------------------------------------------


def _reports(books: VendorBooks) -> list[bytes]:
    """A device's reports, of one page each."""
    site: FakeSite = books.site()
    site.meter.now_ms = int((books.at - timedelta(days=1)).timestamp() * 1000)
    for _ in range(ROUNDS + 1):
        site.meter.window(uses=1)
    return [site.body(site.report(number)) for number in range(ROUNDS + 1)]


def _in_turn(bodies: Sequence[Sequence[bytes]], number: int) -> list[bytes]:
    """The n-th report of each device, always in one order that looks like none."""
    order = random.Random(8).sample(range(len(bodies)), len(bodies))
    return [bodies[place][number] for place in order]


def _serve(books: VendorBooks) -> tuple[subprocess.Popen[str], int]:
    words = ["--database", str(books.path), "--keys", str(books.keys_folder), "--listen", "127.0.0.1:0"]
    with (books.folder / "log").open("w") as log:
        service = subprocess.Popen(
            [Path(sys.executable).parent / "licenses", "authority", "serve", *words],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert service.stdout is not None
    greeting = service.stdout.readline()
    assert greeting.startswith("Now listening on: "), (books.folder / "log").read_text()
    return service, int(greeting.rpartition(":")[2])


def _call(port: int, method: str, path: str, body: bytes, headers: dict[str, str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        told = answer.read()
        assert answer.status == 200, (answer.status, told[:300])
    finally:
        connection.close()


def _timed(call: Callable[[], None]) -> float:
    """The seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _paced(calls: Sequence[Callable[[], None]]) -> list[float]:
    """Make each call at its moment; the seconds from then to its answer."""
    pause = EVERY_SECONDS / DEVICES
    started = time.perf_counter() + 0.1

    def at(number: int) -> float:
        due = started + number * pause
        time.sleep(max(0.0, due - time.perf_counter()))
        calls[number]()
        return time.perf_counter() - due

    with ThreadPoolExecutor(CALLERS) as pool:
        return list(pool.map(at, range(len(calls))))


def _told(seconds: Sequence[float]) -> str:
    p50, p99, most = (1000 * quantile(seconds, part) for part in (0.5, 0.99, 1.0))
    return f"p50 {p50:6.1f} ms  p99 {p99:6.1f} ms  most {most:6.1f} ms"


if __name__ == "__main__":
    main()
