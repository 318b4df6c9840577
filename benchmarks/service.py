"""The service's own numbers: start to ready, memory of what is not the core, the gate's decision, a licence's check."""

from __future__ import annotations

import os
import time
from datetime import timedelta

from benchmarks.figures import Spread, quantile
from benchmarks.load import high_water
from benchmarks.machine import progress
from benchmarks.pages import bench_set
from licenses.verify import judge, open_license
from sidecar.gate import Facts, LicenseFacts, decide
from tests.e2e.site import Site
from tests.fakes.licences import NOW, a_vendor

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))


def main() -> None:
    """Print every figure with its goal."""
    site = Site()
    try:
        _start_up(site)
        for page in bench_set()[:4]:
            site.sync(page.blob).raise_for_status()
        _memory(site)
    finally:
        site.remove()
    _gate()
    _license()


def _start_up(site: Site) -> None:
    seconds = []
    for number in range(ROUNDS):
        progress(f"start {number + 1} of {ROUNDS} of the service")
        started = time.perf_counter()
        site.start()
        seconds.append(time.perf_counter() - started)
        site.stop()
    print(f"start to /ready 200          {Spread.of(seconds).told(2)} s   (goal: 3 s at most)\n")
    site.start()


def _memory(site: Site) -> None:
    print("memory after large pages     RSS      peak     PSS   MiB")
    together = 0.0
    for part in ("web", "meter", "core"):
        for process in site.processes(part):
            full = process.memory_full_info()
            rss, pss = full.rss / 2**20, full.pss / 2**20
            print(f"  {part:<22}{rss:9.0f}{high_water(process) / 2**20:10.0f}{pss:8.0f}")
            together += rss if part != "core" else 0.0
    print(f"web and meter together       {together:5.0f} MiB RSS   (goal: 160 at most)\n")


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
    middle, late = quantile(taken, 0.5), quantile(taken, 0.99)
    print(f"gate decision                p50 {middle:.1f} µs, p99 {late:.1f} µs   (goal: p99 20 µs)")


def _license() -> None:
    """Open and verify one licence file, as at every look into the folder."""
    vendor = a_vendor()
    blob, root = vendor.seal(), vendor.trust_root
    taken = []
    for _ in range(2000):
        started = time.perf_counter_ns()
        judge(open_license(blob, root), at=NOW)
        taken.append((time.perf_counter_ns() - started) / 1e6)
    middle, late = quantile(taken, 0.5), quantile(taken, 0.99)
    print(f"licence open and verify      p50 {middle:.2f} ms, p99 {late:.2f} ms   (goal: p99 5 ms)")


if __name__ == "__main__":
    main()
