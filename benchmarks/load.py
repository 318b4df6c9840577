"""One contender reads pages for several callers: how long it took, what processor time and memory it needed.

Invariants:

* Every contender gets the same pages in the same order from the same number of callers, so that its times hold the
  same waiting; who calls is not counted as the contender's processor time.
* An answer without text is no answer: the round fails.
"""

from __future__ import annotations

import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psutil

from benchmarks.pages import BenchPage

_SAMPLES_A_SECOND = 10


class WrongAnswerError(Exception):
    """A contender answered something that is no text of the page."""


class Contender(ABC):
    """Something that reads pages.

    Attributes:
        name: As in the table.
    """

    name: str

    @abstractmethod
    def start(self, pages: Sequence[BenchPage]) -> None:
        """Start it, and wait until it is ready; the pages are those that it will be asked for."""

    @abstractmethod
    def read(self, page: BenchPage) -> str:
        """The text of a page; called from several threads at once."""

    @abstractmethod
    def processes(self) -> list[psutil.Process]:
        """Everything that runs for it at the moment."""

    @abstractmethod
    def stop(self) -> None:
        """End it; also one that did not start."""

    def refresh(self) -> None:  # noqa: B027 - most remember nothing
        """Before each round: forget what was read, where the contender remembers it."""

    def cpu_seconds(self) -> float:
        """Processor time so far, of all processes that it has or had."""
        return sum(_cpu_seconds(process) for process in self.processes())


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What came of one round.

    Attributes:
        seconds: From the first call to the last answer.
        latencies: Seconds of each call.
        cpu_seconds: Processor time of the contender's processes.
        texts: What was read, by the page's name.
    """

    seconds: float
    latencies: tuple[float, ...]
    cpu_seconds: float
    texts: dict[str, str]

    @property
    def pages_per_second(self) -> float:
        """Throughput."""
        return len(self.latencies) / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a contender's processes took together, bytes.

    Attributes:
        peak: The most at any time, by each process's own high-water mark.
        pss: What they held at the end, shared pages shared out; None where none outlives a page.
    """

    peak: int
    pss: int | None


def run_round(contender: Contender, pages: Sequence[BenchPage], *, callers: int) -> Round:
    """Have all pages read.

    Raises:
        WrongAnswerError: A page came back without text.
    """
    contender.refresh()

    def read(page: BenchPage) -> tuple[float, str]:
        began = time.perf_counter()
        text = contender.read(page)
        return time.perf_counter() - began, text

    cpu = contender.cpu_seconds()
    started = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        answers = list(pool.map(read, pages))
    seconds = time.perf_counter() - started
    cpu = contender.cpu_seconds() - cpu
    for page, (_, text) in zip(pages, answers, strict=True):
        if not text.strip():
            raise WrongAnswerError(f"{contender.name} found no text on {page.name}")
    return Round(
        seconds=seconds,
        latencies=tuple(taken for taken, _ in answers),
        cpu_seconds=cpu,
        texts={page.name: text for page, (_, text) in zip(pages, answers, strict=True)},
    )


def warmed_up(contender: Contender, pages: Sequence[BenchPage], *, callers: int) -> Memory:
    """Have the pages read once without taking the time, and look at the memory meanwhile."""
    with _watched(contender) as peak:
        run_round(contender, pages, callers=callers)
    pss = [_pss(process) for process in contender.processes()]
    return Memory(peak=peak(), pss=sum(pss) if pss else None)


@contextlib.contextmanager
def _watched(contender: Contender) -> Iterator[Callable[[], int]]:
    """Samples while the block runs; the yielded function tells the peak so far, bytes."""
    most, over = 0, threading.Event()

    def sample() -> None:
        nonlocal most
        while not over.wait(1 / _SAMPLES_A_SECOND):
            most = max(most, sum(high_water(process) for process in contender.processes()))

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield lambda: max(most, sum(high_water(process) for process in contender.processes()))
    finally:
        over.set()
        sampler.join()


def family(pid: int) -> list[psutil.Process]:
    """A process and all below it; empty where it is gone."""
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _cpu_seconds(process: psutil.Process) -> float:
    """Its own time and that of its children that are gone."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def high_water(process: psutil.Process) -> int:
    """Most resident memory that a process has had, bytes."""
    try:
        with open(f"/proc/{process.pid}/status", encoding="utf-8", errors="replace") as lines:
            return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
