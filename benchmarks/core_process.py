"""The core's processes: one page on idle processors, a long PDF on all of them, the first answer, a worker's memory.

The core is asked over its own socket, without the service around it, one question after another where a page is to
have the machine to itself. What is compared takes turns: page by page, or document by document.
"""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress

import psutil

from benchmarks.contenders import bare_tesserocr
from benchmarks.figures import Spread, table
from benchmarks.load import family
from benchmarks.machine import progress, usable_cpus
from benchmarks.pages import BenchPage, bench_set
from tests import pages as drawn
from tests.integration.ocr_core.running_core import RunningCore, running_core

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
_FIRST_WORDS = "Every page is counted once, and once only, by the meter."
_PAGES_OF_A_PDF = 24
_LARGE = (2480, 3508)  # pixels: 8.7 MP, A4 at 300 DPI
_MEGABYTE = 2**20


def main() -> None:
    """Print every figure with its goal."""
    workers = max(2, usable_cpus())
    rows = [_first_answer(workers)]
    rows += _one_page(workers)
    rows.append(_long_pdf(workers))
    rows += _memory(workers)
    print(table(("what", "measured", "goal"), rows))


# ---- the first answer -----------------------------------------------------------------------------------------------


def _first_answer(workers: int) -> tuple[str, str, str]:
    """From the start of `ocr-core` to the first page that was read right."""
    seconds = []
    core = RunningCore(words=(f"Core:Workers={workers}",))
    try:
        name = core.put_document(drawn.as_png(drawn.printed_page([_FIRST_WORDS], size=(1240, 400))))
        for number in range(2 * ROUNDS + 1):
            progress(f"start {number + 1} of the core")
            lease = core.lease_header()
            began = time.perf_counter()
            core.start(wait=False)
            told = _answered(core, name, lease)
            if number:  # the first start also fills the caches of the file system
                seconds.append(time.perf_counter() - began)
            if _text(told) != _FIRST_WORDS:
                raise RuntimeError(f"the first answer was {_text(told)!r}")
            core.stop()
    finally:
        core.clean_up()
    return "start of ocr-core to the first right answer, s", Spread.of(seconds).told(2), "≤ 0.70"


def _answered(core: RunningCore, name: str, lease: str) -> dict[str, object]:
    """The answer to a page, asked for until there is one."""
    assert core.process is not None
    while core.process.poll() is None:
        with suppress(OSError):
            status, told = core.request("POST", "/page", {"document": name, "page": 1}, lease=lease)
            if status != 200:
                raise RuntimeError(f"the core answered {status}: {told}")
            return told
        time.sleep(0.005)
    raise RuntimeError(f"the core did not start: {core.log_text()}")


def _text(told: dict[str, object]) -> str:
    return "\n".join(line["text"] for line in told["lines"])  # type: ignore[attr-defined]


# ---- one page -------------------------------------------------------------------------------------------------------


def _one_page(workers: int) -> list[tuple[str, str, str]]:
    """All pages one after the other, each by bare tesserocr and by the core; sums of the wall clock.

    All of them are print, so the second engine is there and is not asked.
    """
    found = bench_set()
    bare = bare_tesserocr(1)
    ratios: dict[str, list[float]] = {"one engine": [], "best": [], "two engines": []}
    count = f"Core:Workers={workers}"
    with (
        closing(_Stopped(bare.stop)),
        running_core(words=(count, "Core:SecondEngine=off")) as one,
        running_core(words=(count,)) as two,
    ):
        bare.start(found)
        readers: list[Callable[[BenchPage], object]] = [bare.read, _reader(one, found), _reader(two, found)]
        for page in found[-3:]:  # models load, and the second engine beside the first
            for read in readers:
                read(page)
        for number in range(ROUNDS):
            progress(f"one page at a time, round {number + 1} of {ROUNDS}")
            times = [[_seconds(lambda r=read, p=page: r(p)) for read in readers] for page in found]  # type: ignore[misc]
            stock, alone, both = (sum(column) for column in zip(*times, strict=True))
            ratios["one engine"].append(alone / stock)
            ratios["two engines"].append(both / stock)
            single = sorted(ours / theirs for theirs, ours, _ in times)
            ratios["best"].append(single[len(single) // 4])
    what = f"one page alone, {len(found)} pages: time to stock tesserocr's"
    return [
        (f"{what}, one engine", Spread.of(ratios["one engine"]).told(2), "≤ 0.70"),
        ("the quarter of the pages that gains most, at least", Spread.of(ratios["best"]).told(2), "≤ 0.55"),
        (f"{what}, with the second engine", Spread.of(ratios["two engines"]).told(2), ""),
    ]


def _reader(core: RunningCore, found: list[BenchPage]) -> Callable[[BenchPage], object]:
    names = {page.name: core.put_document(page.blob) for page in found}
    lease = core.lease_header()

    def read(page: BenchPage) -> None:
        asked = {"document": names[page.name], "page": 1, "language": "en"}
        status, told = core.request("POST", "/page", asked, lease=lease)
        if status != 200:
            raise RuntimeError(f"{page.name}: {told}")

    return read


class _Stopped:
    def __init__(self, close: Callable[[], None]) -> None:
        self.close = close


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


# ---- a document of many pages ---------------------------------------------------------------------------------------


def _long_pdf(workers: int) -> tuple[str, str, str]:
    """One PDF, its pages asked for side by side as the service does, by one worker and by all."""
    lines = drawn.LINES
    sheets = [drawn.printed_page((lines[k % 10 :] + lines[: k % 10]) * 3) for k in range(_PAGES_OF_A_PDF)]
    blob = drawn.as_pdf(sheets)
    ratios = []
    with running_core(words=("Core:Workers=1",)) as one, running_core(words=(f"Core:Workers={workers}",)) as many:
        cores = {1: one, workers: many}
        names = {count: core.put_document(blob) for count, core in cores.items()}

        def read_all(count: int) -> None:
            core, lease = cores[count], cores[count].lease_header()

            def read(page: int) -> None:
                asked = {"document": names[count], "page": page, "language": "en"}
                status, told = core.request("POST", "/page", asked, lease=lease)
                if status != 200:
                    raise RuntimeError(f"page {page}: {told}")

            with ThreadPoolExecutor(count) as pool:
                list(pool.map(read, range(1, _PAGES_OF_A_PDF + 1)))

        for number in range(ROUNDS):
            progress(f"a PDF of {_PAGES_OF_A_PDF} pages, round {number + 1} of {ROUNDS}")
            alone = _seconds(lambda: read_all(1))
            together = _seconds(lambda: read_all(workers))
            ratios.append(together / (alone / workers))
    what = f"a PDF of {_PAGES_OF_A_PDF} pages on {workers} workers: time to 1/{workers} of one worker's"
    return what, Spread.of(ratios).told(2), "≤ 1.10"


# ---- memory ---------------------------------------------------------------------------------------------------------


def _memory(workers: int) -> list[tuple[str, str, str]]:
    """Proportional memory of a worker, with the process that decodes for it, on pages of 8.7 million pixels."""
    with running_core(words=(f"Core:Workers={workers}",)) as core:
        sheets = [drawn.printed_page(drawn.LINES * 5, size=_LARGE, dpi=300, points=p) for p in (9, 10, 11)]
        names = [core.put_document(drawn.as_jpeg(sheet)) for sheet in sheets]
        names += [core.put_document(_with_alpha(sheet)) for sheet in sheets]
        idle = _largest(core)
        with _watched(core) as peak:

            def read(name: str) -> None:
                status, told = core.page(name, patient=True)
                if status != 200:
                    raise RuntimeError(str(told))

            progress("memory: large pages, as many at once as there are workers")
            with ThreadPoolExecutor(workers + 1) as pool:
                list(pool.map(read, names * 3))
        after = _largest(core)
    worker = "a worker with its decoder, PSS in MB: "
    return [
        (worker + "idle", f"{idle:.0f}", ""),
        (worker + "after pages of 8.7 MP", f"{after:.0f}", "≤ 120"),
        (worker + "most while it reads them", f"{max(peak, default=0.0):.0f}", "≤ 120"),
    ]


def _with_alpha(sheet: drawn.PrintedPage) -> bytes:
    blob = io.BytesIO()
    sheet.image.convert("RGBA").save(blob, "PNG", dpi=(300, 300))
    return blob.getvalue()


def _largest(core: RunningCore) -> float:
    """The most that one worker and its children hold now, megabytes."""
    return max((sum(map(_pss, family(worker.pid))) for worker in core.workers()), default=0.0)


def _pss(process: psutil.Process) -> float:
    with suppress(OSError), open(f"/proc/{process.pid}/smaps_rollup", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 / _MEGABYTE for line in lines if line.startswith("Pss:"))
    return 0.0


@contextmanager
def _watched(core: RunningCore) -> Iterator[list[float]]:
    """Samples of `_largest`, some thirty a second."""
    samples: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.03):
            with suppress(psutil.NoSuchProcess):
                samples.append(_largest(core))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield samples
    finally:
        over.set()
        watcher.join()


if __name__ == "__main__":
    main()
