"""Where the time goes, page by page: processor seconds of bare tesserocr, of the core and of the whole service.

For whoever makes the core faster; one page at a time, so that a busy machine disturbs little.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing

from benchmarks.contenders import CoreSocket, bare_tesserocr
from benchmarks.figures import table
from benchmarks.load import Contender
from benchmarks.machine import progress
from benchmarks.pages import BenchPage, bench_set
from benchmarks.servers import ENGLISH, WholeService
from tests.e2e.site import a_site


def main(words: Sequence[str] = ()) -> None:
    """Print a row for each page; the words are settings of the core."""
    pages = bench_set()
    bare = bare_tesserocr(1)
    with a_site("Core:Workers=1", *words) as site, closing(_Stopped(bare)):
        core, service = CoreSocket(site, "core"), WholeService(site, "service", query=ENGLISH)
        for contender in (bare, core, service):
            contender.start(pages)
            contender.read(pages[0])
        rows, together = [], [0.0, 0.0, 0.0]
        for page in pages:
            progress(page.name)
            costs = [_cost(contender, page) for contender in (bare, core, service)]
            spent = [seconds for seconds, _ in costs]
            together = [one + more for one, more in zip(together, spent, strict=True)]
            rates = [f"{page.error_rate(text):.4f}" for _, text in costs[:2]]
            rows.append([page.name, f"{page.pixels / 1e6:.1f}", *_told(spent), *rates])
    rows.append(["together", "", *_told(together), "", ""])
    head = ("processor seconds", "MP", "bare", "core", "service", "core/bare", "service/bare", "bare CER", "core CER")
    print(table(head, rows))


def _told(spent: Sequence[float]) -> list[str]:
    limit, core, service = spent
    return [*(f"{seconds:.2f}" for seconds in spent), f"{core / limit:.2f}", f"{service / limit:.2f}"]


class _Stopped:
    def __init__(self, contender: Contender) -> None:
        self.close = contender.stop


def _cost(contender: Contender, page: BenchPage) -> tuple[float, str]:
    """The less of two readings' processor time, and the text."""
    taken = []
    for _ in range(2):
        before = contender.cpu_seconds()
        text = contender.read(page)
        taken.append(contender.cpu_seconds() - before)
    return min(taken), text


if __name__ == "__main__":
    main(sys.argv[1:])
