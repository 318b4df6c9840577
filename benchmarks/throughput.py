"""Pages a second: bare tesserocr, our core, the whole service, and what others would use, on the same pages in turns.

Two heats. In the first each contender that starts a command is told to use one thread (`OMP_THREAD_LIMIT=1`), which is
several times faster; the second has them as they come from the shop, on fewer pages, because they take so long.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from benchmarks.contenders import TUNED, CoreSocket, TesseractCommand, bare_tesserocr, pytesseract
from benchmarks.figures import Spread, quantile, table
from benchmarks.load import Contender, Memory, Round, run_round, warmed_up
from benchmarks.machine import progress, usable_cpus
from benchmarks.pages import BenchPage, bench_set, few_pages
from benchmarks.servers import (
    ANY_LANGUAGE,
    ENGLISH,
    Kreuzberg,
    RapidOcr,
    Recipe,
    WholeService,
    command_is_installed,
    peers_are_installed,
)
from tests.e2e.site import Site

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
PAGES = int(os.environ.get("BENCH_PAGES", "0"))
CALLERS = 4
_SHIPPED_PAGES = 4


@dataclass(slots=True)
class Entry:
    """A contender and what came of it.

    Attributes:
        contender: Who.
        goal: The ratio to the limit that it has to reach; None where it has none.
        has_plain_text: Whether its answers can be compared letter by letter.
        memory: What it took.
        rounds: One after the other.
        ratios: Each round's pages a second over those of the limit in the round that it ran last.
    """

    contender: Contender
    goal: float | None = None
    has_plain_text: bool = True
    memory: Memory = field(default_factory=lambda: Memory(peak=0, pss=None))
    rounds: list[Round] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)


Maker = Callable[[], Entry]


def main() -> None:
    """Run both heats and print a table for each."""
    pages, workers = bench_set(), usable_cpus()
    if PAGES:
        pages = few_pages(pages, min(PAGES, len(pages)))
    with ExitStack() as stack:
        native = _site(stack, "Core:MaxMegapixels=100")
        usual = _site(stack)
        alone = _site(stack, "Core:MaxMegapixels=100", "Core:SecondEngine=off"), _site(stack, "Core:SecondEngine=off")
        bare = partial(_limit, workers)
        first = heat(bare, [*_ours(native, usual), *_alone(*alone)], _peers(workers, TUNED), pages, rounds=ROUNDS)
        shipped = few_pages(pages, min(_SHIPPED_PAGES, len(pages)))
        second = heat(bare, _as_shipped(usual), _peers(workers, {}), shipped, rounds=1, warm_up=1)
    print(
        f"{len(pages)} pages of {pages[-1].pixels / 1e6:.1f} to {pages[0].pixels / 1e6:.1f} megapixels, "
        f"{CALLERS} callers, {workers} engines of each kind; median of {ROUNDS} interleaved rounds and their range.\n"
    )
    print(told(first, pages) + "\n")
    for line in verdicts(first, pages):
        print(f"* {line}")
    print(
        "\nAs they come, without telling Debian's Tesseract to use one thread; "
        f"{len(shipped)} of the pages, one round:\n"
    )
    print(told(second, shipped))


def heat(
    limit: Maker,
    ours: Sequence[Maker],
    peers: Sequence[Maker],
    pages: Sequence[BenchPage],
    *,
    rounds: int,
    warm_up: int | None = None,
) -> list[Entry]:
    """Start all, warm each up, then let them take turns; a peer that fails is left out.

    Args:
        limit: Makes what all are compared with; it runs anew before ours and before the peers.
        ours: Make what has to run.
        peers: Make what runs where it can.
        pages: What they read.
        rounds: How often.
        warm_up: How many pages are read before, while the memory is looked at; None for all.

    Returns:
        The limit, ours, then the peers.
    """
    with ExitStack() as stack:

        def started(make: Maker) -> Entry:
            entry = make()
            stack.callback(entry.contender.stop)
            progress(f"starting and warming up: {entry.contender.name}")
            entry.contender.start(pages)
            entry.memory = warmed_up(entry.contender, pages[:warm_up], callers=CALLERS)
            return entry

        bare, own, others = started(limit), [started(make) for make in ours], []
        for make in peers:
            try:
                others.append(started(make))
            except Exception as exc:  # noqa: BLE001 - a peer that does not run is told, the others go on
                progress(f"LEFT OUT: {exc}")
        for number in range(rounds):
            for group in (own, others):
                for entry in (bare, *group):
                    progress(f"round {number + 1} of {rounds}: {entry.contender.name}")
                    try:
                        entry.rounds.append(run_round(entry.contender, pages, callers=CALLERS))
                    except Exception as exc:
                        if group is own:
                            raise
                        progress(f"NOT COUNTED: {exc}")
                        continue
                    entry.ratios.append(entry.rounds[-1].pages_per_second / bare.rounds[-1].pages_per_second)
    return [bare, *own, *(entry for entry in others if entry.rounds)]


def _site(stack: ExitStack, *settings: str) -> Site:
    progress("starting a service " + " ".join(settings))
    site = Site(*settings)
    stack.callback(site.remove)
    return site.start()


def _limit(workers: int) -> Entry:
    return Entry(bare_tesserocr(workers))


def _alone(native: Site, usual: Site) -> list[Maker]:
    """The service without its second engine: at the limit's error rate, as the limit has one engine too."""
    return [
        lambda: Entry(WholeService(native, "HTTP service, native, one engine", query=ENGLISH), goal=0.95),
        lambda: Entry(WholeService(usual, "HTTP service, 3 MP, one engine", query=ENGLISH), goal=1.05),
    ]


def _ours(native: Site, usual: Site) -> list[Maker]:
    return [
        lambda: Entry(CoreSocket(native, "core, native resolution")),
        lambda: Entry(WholeService(native, "HTTP service, native resolution", query=ENGLISH), goal=0.95),
        lambda: Entry(CoreSocket(usual, "core, 3 MP")),
        lambda: Entry(WholeService(usual, "HTTP service, 3 MP", query=ENGLISH), goal=1.05),
        lambda: Entry(WholeService(usual, "HTTP service, 3 MP, language not told", query=ANY_LANGUAGE)),
    ]


def _as_shipped(usual: Site) -> list[Maker]:
    return [lambda: Entry(WholeService(usual, "HTTP service", query=ANY_LANGUAGE))]


def _peers(workers: int, environment: dict[str, str]) -> list[Maker]:
    """What others would use, as far as it is installed; rapidocr_api, which is slow either way, only as it comes."""
    makers: list[Maker] = []
    if command_is_installed():
        makers.append(lambda: Entry(TesseractCommand(workers, environment)))
    else:
        progress("LEFT OUT: everything that needs the tesseract command, which is not installed")
    if not peers_are_installed():
        progress("LEFT OUT: pytesseract and the HTTP peers, which are not installed")
        return makers
    if command_is_installed():
        makers += [
            lambda: Entry(pytesseract(workers, environment)),
            lambda: Entry(Recipe("FastAPI + pytesseract (HTTP)", environment)),
            lambda: Entry(Kreuzberg("kreuzberg (HTTP)", environment), has_plain_text=False),
        ]
    if not environment:
        makers.append(lambda: Entry(RapidOcr("rapidocr_api (HTTP; no Tesseract)", environment)))
    return makers


# ---- what is told ----------------------------------------------------------------------------------------------------


def told(entries: Sequence[Entry], pages: Sequence[BenchPage]) -> str:
    """The table of a heat; the first entry is the limit."""
    head = (
        "",
        "pages/s",
        "of the limit",
        "goal",
        "p50 s",
        "p95 s",
        "CPU s/page",
        "peak MiB",
        "PSS MiB",
        "CER",
        "median",
    )
    rows = []
    for entry in entries:
        speeds = [one.pages_per_second for one in entry.rounds]
        latencies = [seconds for one in entry.rounds for seconds in one.latencies]
        rates = error_rates(entry, pages)
        rows.append(
            (
                entry.contender.name,
                Spread.of(speeds).told(2),
                Spread.of(entry.ratios).told(2),
                f"≥ {entry.goal:.2f}" if entry.goal is not None else "",
                f"{quantile(latencies, 0.5):.2f}",
                f"{quantile(latencies, 0.95):.2f}",
                f"{cpu_a_page(entry):.2f}",
                f"{entry.memory.peak / 2**20:.0f}",
                f"{entry.memory.pss / 2**20:.0f}" if entry.memory.pss else "-",
                f"{statistics.fmean(rates):.4f}" if rates else "-",
                f"{statistics.median(rates):.4f}" if rates else "-",
            )
        )
    return table(head, rows)


def error_rates(entry: Entry, pages: Sequence[BenchPage]) -> list[float]:
    """Of each page, by the last round's text; empty where its text is marked up."""
    if not entry.has_plain_text:
        return []
    return [page.error_rate(entry.rounds[-1].texts[page.name]) for page in pages]


def cpu_a_page(entry: Entry) -> float:
    """Processor seconds for a page, all rounds together."""
    return sum(one.cpu_seconds for one in entry.rounds) / sum(len(one.latencies) for one in entry.rounds)


def verdicts(entries: Sequence[Entry], pages: Sequence[BenchPage]) -> list[str]:
    """Each goal with what was reached, and at which error rate: faster is worth nothing where it reads worse."""
    lines, limit = [], statistics.fmean(error_rates(entries[0], pages))
    for entry in entries:
        if entry.goal is None:
            continue
        rate = statistics.fmean(error_rates(entry, pages))
        ratio = Spread.of(entry.ratios)
        cpu = cpu_a_page(entry) / cpu_a_page(entries[0])
        lines.append(
            f"{entry.contender.name}: {ratio.told(3)} of the limit, goal {entry.goal:.2f}: "
            f"{'reached' if ratio.middle >= entry.goal else 'MISSED'}; processor time a page {cpu:.2f} of the limit's; "
            f"mean CER {rate:.4f}, the limit's {limit:.4f}."
        )
    return lines


if __name__ == "__main__":
    main()
