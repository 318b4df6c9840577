"""Whatever is done to a bundle without the device's key is refused, or changes nothing of what it holds.

The short form takes seconds. `FAULTS=full` tries tens of thousands; what was tried is printed per class (`pytest -s`).
"""

import os
import tempfile
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from licenses.errors import LicensesError
from licenses.usage_log.bundle import MANIFEST_NAME
from licenses.usage_log.report import ExitCode
from tests.fakes.bundle_mutations import BUNDLE_MUTATIONS, BundleSpecimen
from tests.fakes.licences import a_vendor

FULL = os.environ.get("FAULTS") == "full"
PER_CLASS = 2_000 if FULL else 25
PER_SPECIMEN = 200
MEMORY = Path("/dev/shm")
CAUGHT = {ExitCode.TAMPERED, ExitCode.GAPS, ExitCode.UNREADABLE}
VENDOR = a_vendor()


@pytest.mark.parametrize("name", BUNDLE_MUTATIONS)
def test_every_mutation_of_a_bundle_is_refused(name):
    refused: Counter[str] = Counter()
    survivors, same, tried = [], 0, 0
    for number in range(-(-PER_CLASS // PER_SPECIMEN)):
        with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
            specimen = BundleSpecimen(Path(folder), Random(f"{name}/{number}"))
            assert specimen.contents(specimen.blob) == specimen.packed
            assert specimen.audit(specimen.blob, VENDOR.trust_root).exit_code() == ExitCode.GOOD
            for index in range(min(PER_SPECIMEN, PER_CLASS)):
                blob = BUNDLE_MUTATIONS[name](specimen, Random(f"{name}/{number}/{index}"))
                if blob == specimen.blob:
                    continue
                tried += 1
                verdict = specimen.audit(blob, VENDOR.trust_root).exit_code()
                try:
                    contents = specimen.contents(blob)
                    # Envelopes may end with one line end; the manifest is one.
                    contents[MANIFEST_NAME] = contents[MANIFEST_NAME].removesuffix(b"\n")
                except LicensesError as exc:
                    refused[type(exc).__name__] += 1
                    assert verdict in CAUGHT, f"{name}/{number}/{index} is refused, and the audit says {verdict}"
                except AssertionError:
                    refused["not of the pinned device"] += 1
                    assert verdict in CAUGHT, f"{name}/{number}/{index} is of another, and the audit says {verdict}"
                else:
                    same += contents == specimen.packed
                    survivors += [] if contents == specimen.packed else [f"{name}/{number}/{index}"]
    how = ", ".join(f"{kind} {count}" for kind, count in refused.most_common())
    print(f"{name}: {tried} tried, {refused.total()} refused ({how}), {same} with the very same content")  # noqa: T201
    assert not survivors, f"{len(survivors)} of {tried} accepted with other content: {survivors[:5]}"
    assert refused.total() >= tried / 2
