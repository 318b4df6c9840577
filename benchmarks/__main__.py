"""`make bench`: every part after the other; `python -m benchmarks.PART` runs one.

    python -m benchmarks [PART…] [--write FILE]

With `--write` the figures of the parts that ran also go into a document, between its marks for each of them.
"""

from __future__ import annotations

import argparse
import importlib
import io
import sys
import time
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from typing import TextIO

import structlog

from benchmarks.figures import replaced_between
from benchmarks.machine import busy_warning, described, progress

PARTS = {
    "throughput": "Pages a second, beside bare tesserocr and what others use",
    "core_process": "One page alone, many pages together, start and memory of the core",
    "service": "The service around the core",
    "polling": "Answers to polls, and large uploads",
    "metering": "The meter and its ledger",
    "authority": "The vendor's side",
    "authority_http": "The vendor's service under reports of many devices",
}
"""Module and heading of each part, in the order in which they run."""
_TABLES = {"throughput", "core_process"}


class _Both(io.TextIOBase):
    """Writes to the terminal and keeps the text."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self.kept = io.StringIO()

    def write(self, text: str) -> int:
        self._terminal.write(text)
        self._terminal.flush()
        return self.kept.write(text)


def main() -> int:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure Tollgate against baselines.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}; all when none is named")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the figures into this document")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    if warning := busy_warning():
        print(warning, file=sys.stderr)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # what parts of the product say
    print(described() + "\n", flush=True)
    figures, failed = {"machine": described()}, []
    for part, heading in PARTS.items():
        if asked.parts and part not in asked.parts:
            continue
        began = time.monotonic()
        progress(f"part {part}")
        both = _Both(sys.stdout)
        print(f"## {heading}\n", flush=True)
        try:
            with redirect_stdout(both):
                importlib.import_module(f"benchmarks.{part}").main()
        except Exception as exc:  # noqa: BLE001 - what the other parts show is not lost with it
            traceback.print_exc()
            progress(f"FAILED: {part}: {type(exc).__name__}: {exc}")
            failed.append(part)
        else:
            text = both.kept.getvalue().strip()
            figures[part] = text if part in _TABLES else f"```text\n{text}\n```"
        print(flush=True)
        progress(f"part {part} took {time.monotonic() - began:.0f} s")
    if asked.write is not None:
        document = asked.write.read_text(encoding="utf-8")
        for part, text in figures.items():
            document = replaced_between(document, part, text)
        asked.write.write_text(document, encoding="utf-8")
        progress(f"written to {asked.write}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
