"""`python -m tests.fuzzing`: fuzz the document room for a while; exit code 1 when there are finds."""

import argparse
import sys
import time
from pathlib import Path

from tests.fakes import hostile
from tests.fakes.hostile import damage
from tests.fuzzing.fuzzer import Fuzzer

_LARGEST_SEED = 200_000
_FOREIGN = Path(__file__).parents[3] / "shared" / "hostile"
_FIXTURES = Path(__file__).parents[1] / "fixtures" / "hostile"


def seeds() -> dict[str, bytes]:
    """Good documents, those made to break a decoder as far as they are small, and what was found before."""
    found = dict(damage.good())
    for sample in hostile.made():
        if not any(word in sample.name for word in ("bomb", "million", "000 ")):
            found[sample.name] = sample.make()
    for folder in (_FIXTURES, _FOREIGN):
        if folder.is_dir():
            found |= {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
    return {name: blob for name, blob in found.items() if 0 < len(blob) <= _LARGEST_SEED}


def main() -> int:
    """Run, and tell what was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the chance; told, to repeat a run")
    asked = parser.parse_args()
    start = seeds()
    sys.stdout.write(f"{len(start)} seeds, chance {asked.seed}, {asked.seconds:g} s\n")
    report = Fuzzer(start, out=asked.out, seed=asked.seed).run(asked.seconds)
    ends = ", ".join(f"{count} {end}" for end, count in report.ends.most_common())
    sys.stdout.write(f"{report.executions} documents: {ends}\n")
    for end, blob in sorted(report.finds.items()):
        sys.stdout.write(f"  {end} ({len(blob)} bytes, in {asked.out})\n")
    return 1 if report.finds else 0


if __name__ == "__main__":
    sys.exit(main())
