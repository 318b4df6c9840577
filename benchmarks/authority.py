"""The vendor's side: a bundle of a million entries taken in, from the file to the acknowledgement.

The intake runs in a process of its own, as the command does, and beside it stands what the same bytes cost at least:
inflating the bundle and hashing its lines.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
import zlib
from pathlib import Path

from licenses.model import READ_PAGES_METER
from sidecar.ledger.use_form import UseForm, use_line
from tests.fakes.vendor_books import FakeSite, VendorBooks

ENTRIES = int(os.environ.get("BENCH_TAKEN_IN", "1000000"))
WINDOW = 100_000


def main() -> None:
    """Print every figure with its goal."""
    if sys.argv[1:2] == ["take-in"]:
        _take_in(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    intake()


def intake() -> None:
    """A million entries in files of a hundred thousand: verified, billed, acknowledged, and durable."""
    with tempfile.TemporaryDirectory(prefix="bench-") as holder:
        folder = Path(holder)
        books = VendorBooks(folder)
        site = books.site()
        while site.meter.size < ENTRIES:
            _window(site, min(WINDOW, ENTRIES - site.meter.size))
        path = site.bundle()
        books.database.close()
        baseline = _baseline(path)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.authority", "take-in", folder, path],
            capture_output=True,
            text=True,
            check=True,
        )
        told = json.loads(done.stdout)
        assert told["billed"] == site.used()
        size = path.stat().st_size / 2**20
    print(
        f"{ENTRIES:,} entries taken in    {told['seconds']:6.1f} s, peak {told['peak_mib']:.0f} MiB   "
        "(goal: 30 s, 300 MiB)"
    )
    print(f"  processor time             {told['processor_seconds']:6.1f} s")
    print(f"  the same bundle again      {told['again_seconds']:6.1f} s")
    print(f"  inflating and SHA-256      {baseline:6.1f} s, ratio {told['processor_seconds'] / baseline:.1f}")
    print(f"  bundle of {size:.0f} MiB, database of {told['database_kib']:,} KiB")


# ---- parts -----------------------------------------------------------------------------------------------------------


def _window(site: FakeSite, entries: int) -> None:
    """A window of so many uses, as the ledger would write them."""
    meter = site.meter
    text = UseForm(container_id=meter.instance, container_version="0.1.0", meter=READ_PAGES_METER).text
    for _ in range(entries - 1):
        meter.wait(7)
        line = use_line(
            text,
            seq=meter.size,
            operation=uuid.UUID(int=(meter.size + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128),
            page=1,
            quantity=1,
            wall_ms=meter.now_ms,
            effective_ms=meter.now_ms,
            boottime_ms=meter.boottime_ms,
        )
        meter.lines.append(line)
        meter._pending.append(line)
    meter.window()


def _baseline(path: Path) -> float:
    """Processor seconds to inflate the bundle and hash each line once."""
    started = time.process_time()
    inflate, rest = zlib.decompressobj(zlib.MAX_WBITS | 16), b""
    with path.open("rb") as packed:
        while piece := packed.read(2**20):
            *lines, rest = (rest + inflate.decompress(piece)).split(b"\n")
            for line in lines:
                hashlib.sha256(b"\x00" + line).digest()
    return time.process_time() - started


def _take_in(folder: Path, path: Path) -> None:
    """In a process of its own: take the bundle in twice, and tell what it took."""
    books = VendorBooks.reopened(folder)
    started, worked = time.perf_counter(), time.process_time()
    done = books.intake.take_bundle(None, path)
    seconds, processor_seconds = time.perf_counter() - started, time.process_time() - worked
    peak = _peak_mib(os.getpid())  # not rusage, which counts what the other process was at the fork
    started = time.perf_counter()
    again = books.intake.take_bundle(None, path)
    assert again.blob == done.blob
    print(
        json.dumps(
            {
                "seconds": seconds,
                "processor_seconds": processor_seconds,
                "again_seconds": time.perf_counter() - started,
                "peak_mib": peak,
                "billed": done.billed[READ_PAGES_METER],
                "database_kib": books.path.stat().st_size // 1024,
            }
        )
    )


def _peak_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


if __name__ == "__main__":
    main()
