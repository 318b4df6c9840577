"""`make bench`: throughput through HTTP against bare tesserocr, polls, start-up, memory, and the gate's decision.

The machine may be noisy: baseline and service take turns on the same pages, and the medians' ratio is the figure.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psutil
import requests

from benchmarks import metering, polling
from benchmarks.bare import BareTesserocr
from benchmarks.pages import bench_pages
from licenses.verify import judge, open_license
from sidecar.gate import Facts, LicenseFacts, decide
from tests.e2e.site import Site
from tests.fakes.licences import NOW, a_vendor

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
CALLERS = 4


def main() -> None:
    """Run everything and print one table per question."""
    workers = len(os.sched_getaffinity(0))
    print(f"{platform.machine()}, {workers} CPUs, Python {platform.python_version()}, {ROUNDS} rounds\n")
    site = Site(f"Core:Workers={workers}")
    try:
        _start_up(site)
        _throughput(site, workers)
        _memory(site)
    finally:
        site.remove()
    _gate()
    _license()
    print()
    polling.main()
    print()
    metering.main()


def _start_up(site: Site) -> None:
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        site.start()
        seconds.append(time.perf_counter() - started)
        site.stop()
    print(f"start to /ready 200          {_spread(seconds)} s   (goal: 3 s at most)\n")
    site.start()


def _throughput(site: Site, workers: int) -> None:
    pages = bench_pages()
    names, blobs = [name for name, _ in pages], [blob for _, blob in pages]
    bare = BareTesserocr(workers)
    try:
        bare.seconds_for(blobs[:workers])
        _through_http(site, blobs[:workers])
        limit, ours = [], []
        for _ in range(ROUNDS):
            limit.append(len(blobs) / bare.seconds_for(blobs))
            ours.append(len(blobs) / _through_http(site, blobs))
    finally:
        bare.close()
    ratios = [mine / theirs for mine, theirs in zip(ours, limit, strict=True)]
    print(f"{len(names)} pages, {CALLERS} callers, {workers} workers")
    print(f"bare tesserocr               {_spread(limit)} pages/s")
    print(f"HTTP, syncAnalyze            {_spread(ours)} pages/s")
    print(f"ratio                        {_spread(ratios)}     (goal: 0.90 at least)\n")


def _through_http(site: Site, blobs: list[bytes]) -> float:
    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=CALLERS))
    address = f"{site.url}/vision/v3.2/read/syncAnalyze?language=en"

    def read(blob: bytes) -> None:
        answer = session.post(address, data=blob, headers={"Content-Type": "application/octet-stream"}, timeout=300)
        answer.raise_for_status()

    started = time.perf_counter()
    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(read, blobs))
    return time.perf_counter() - started


def _memory(site: Site) -> None:
    print("memory after that            RSS      peak     PSS   MiB")
    together = 0.0
    for part in ("web", "meter", "core"):
        for process in site.processes(part):
            full = process.memory_full_info()
            rss, pss = full.rss / 2**20, full.pss / 2**20
            print(f"  {part:<6} {process.pid:>8}        {rss:9.0f}{_peak(process):10.0f}{pss:8.0f}")
            together += rss if part != "core" else 0.0
    print(f"web and meter together       {together:5.0f} MiB RSS   (goal: 160 at most)\n")


def _peak(process: psutil.Process) -> float:
    with open(f"/proc/{process.pid}/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def _gate() -> None:
    lic = LicenseFacts(
        standing="VALID",
        reason="",
        serves=True,
        expires_at=NOW + timedelta(days=300),
        termination_at=NOW + timedelta(days=300),
    )
    facts = Facts(effective_at=NOW, license=lic)
    taken = []
    for _ in range(20000):
        started = time.perf_counter_ns()
        decide(facts)
        taken.append((time.perf_counter_ns() - started) / 1000)
    taken.sort()
    print(f"gate decision                p50 {taken[10000]:.1f} µs, p99 {taken[19800]:.1f} µs   (goal: p99 20 µs)")


def _license() -> None:
    """Open and verify one licence file, as at every look into the folder."""
    vendor = a_vendor()
    blob, root = vendor.seal(), vendor.trust_root
    taken = []
    for _ in range(2000):
        started = time.perf_counter_ns()
        judge(open_license(blob, root), at=NOW)
        taken.append((time.perf_counter_ns() - started) / 1e6)
    taken.sort()
    print(f"licence open and verify      p50 {taken[1000]:.2f} ms, p99 {taken[1980]:.2f} ms   (goal: p99 5 ms)")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):6.3f} [{min(values):.3f}..{max(values):.3f}]"


if __name__ == "__main__":
    main()
