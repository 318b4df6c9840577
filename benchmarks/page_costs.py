"""Where the time goes, page by page: processor seconds of the core beside those of bare tesserocr on the same page.

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
from tests.e2e.site import a_site


def main(words: Sequence[str] = ()) -> None:
    """Print a row for each page; the words are settings of the core."""
    pages = bench_set()
    bare = bare_tesserocr(1)
    with a_site("Core:Workers=1", *words) as site, closing(_Stopped(bare)):
        core = CoreSocket(site, "core")
        for contender in (bare, core):
            contender.start(pages)
            contender.read(pages[0])
        rows = []
        for page in pages:
            progress(page.name)
            (limit, text), (ours, our_text) = _cost(bare, page), _cost(core, page)
            rates = f"{page.error_rate(text):.4f}", f"{page.error_rate(our_text):.4f}"
            rows.append(
                (page.name, f"{page.pixels / 1e6:.1f}", f"{limit:.2f}", f"{ours:.2f}", f"{ours / limit:.2f}", *rates)
            )
    print(table(("", "MP", "bare CPU s", "core CPU s", "ratio", "bare CER", "core CER"), rows))
    together = [sum(float(row[column]) for row in rows) for column in (2, 3)]
    print(f"\ntogether {together[0]:.2f} s and {together[1]:.2f} s, ratio {together[1] / together[0]:.3f}")


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
