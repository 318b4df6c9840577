"""Hostile documents through the real core: refused with a code or read, in time, in bounds, and no worker is lost."""

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests import pages
from tests.fakes import hostile
from tests.integration.ocr_core.footprint import Footprint, proportional_bytes
from tests.integration.ocr_core.running_core import RunningCore

# From the acceptance of the core: no answer later, and no more memory above idle. The long form measures time by the
# clock and wants a machine of its own; the other one by the processors' work, which other tests do not disturb.
SECONDS = 10
MEMORY_BYTES = 2**30
TRIES = 4

FOREIGN = Path(__file__).parents[4] / "shared" / "hostile"
IS_LONG = os.environ.get("HOSTILE") == "full"
FORMATS = ["jpeg", "png", "bmp", "tiff", "pdf", "gif", "webp", "ico"]
QUICK = (
    "png claims 65000 x 65000",
    "png, a million tiny chunks",
    "progressive jpeg of 3000 scans over 9900 x 9900",
    "jpeg, a megabyte of fill bytes",
    "bmp, RLE8 of endless lines",
    "gif claims 65535 x 65535",
    "ico in an ico in an ico",
    "tiff, a page that is followed by itself",
    "tiff, strips without number",
    "tiff, a million strips of nothing",
    "pdf of one page 10000 times",
    "pdf, pages that hold themselves",
    "pdf, a table that comes before itself",
    "pdf, objects in a stream of objects in itself",
    "pdf, a sheet of [0 0 1e38 1e38]",
    "pdf, a form that draws itself",
    "pdf, a pattern that paints with itself",
)


# What takes most memory: by its header, or only found out while it is drawn.
BOMBS = (
    "pdf, a stream of objects that is a bomb",
    "pdf, JBIG2 of 65000 x 65000 of white",
    "pdf, a content of 900 MB of spaces",
    "png bomb, 10000 x 10000 colour",
)


def samples() -> Iterator[hostile.Sample]:
    if IS_LONG:
        yield from hostile.everything()
    else:
        yield from (sample for sample in hostile.made() if sample.name in QUICK)
        yield from hostile.quick(16)
    foreign = sorted(FOREIGN.glob("*")) if FOREIGN.is_dir() else []
    for path in foreign if IS_LONG else foreign[::8]:
        if path.suffix != ".json":
            yield hostile.Sample(name=path.name, make=path.read_bytes)


def asked(core: RunningCore, blob: bytes) -> str:
    """What became of a document; beside other tests the machine may be too busy to tell, and is asked again."""
    document = core.put_document(blob)
    for _ in range(1 if IS_LONG else TRIES):
        status, answer = read(core, document)
        if status != 503:
            break
    assert status in (200, 400), answer
    return "read" if status == 200 else str(answer["error"]["code"])  # type: ignore[index]


def read(core: RunningCore, document: str) -> tuple[int, dict[str, object]]:
    """What the core says of a document, of its first page and of its last."""
    status, answer = core.inspect(document, formats=FORMATS, max_side=15_999, min_side=50)
    if status == 200:
        count = int(str(answer["pages"]))
        status, answer = core.page(document, 1)
        if status == 200 and count > 1:
            status, answer = core.page(document, count)
    return status, answer


def test_every_quick_sample_is_there() -> None:
    assert set(QUICK) <= {sample.name for sample in hostile.made()}


def test_a_hostile_document_is_refused_or_read_in_time_and_in_bounds(core: RunningCore) -> None:
    page = core.put_document(pages.as_png(pages.printed_page(pages.LINES[:2], size=(900, 300))))
    assert core.page(page)[0] == 200
    assert core.process is not None
    wrong: list[str] = []
    slowest, largest, count = (0.0, ""), (0, ""), 0
    for sample in samples():
        blob = sample.make()
        started = time.monotonic()
        with Footprint(core.process.pid) as footprint:
            try:
                end = asked(core, blob)
            except AssertionError as exc:
                end = str(exc)
        seconds = time.monotonic() - started if IS_LONG else footprint.cpu_seconds
        slowest = max(slowest, (seconds, sample.name))
        largest = max(largest, (footprint.grown_bytes >> 20, sample.name))
        count += 1
        if end not in sample.ends or seconds > SECONDS or footprint.grown_bytes > MEMORY_BYTES:
            wrong.append(f"{sample.name}: {end}, {seconds:.1f} s, {footprint.grown_bytes >> 20} MiB")
        if IS_LONG or not count % 10:
            assert core.page(page)[0] == 200, f"after {sample.name}"
    report = f"{count} documents; slowest {slowest}; largest {largest} MiB"
    assert not wrong, "\n".join([report, *wrong])
    core.wait_until_ready()
    if IS_LONG:
        sys.stdout.write(report + "\n")


def test_several_bombs_at_once_take_no_more_memory_than_one_may(core: RunningCore) -> None:
    """As many at once as there are processes, patient ones and such as are in a hurry: the sum is bounded, not each."""
    made = {sample.name: sample for sample in hostile.made()}
    several = [made[name] for name in (*BOMBS, *BOMBS)] if IS_LONG else [made[name] for name in BOMBS[:2]]
    assert core.process is not None
    for patient in (None, True, False) if IS_LONG else (None,):
        core.wait_until_ready()
        idle = peak = proportional_bytes(core.process.pid)
        with ThreadPoolExecutor(len(several)) as callers:
            answers = [callers.submit(status_of, core, sample.make(), patient) for sample in several]
            while not all(answer.done() for answer in answers):
                peak = max(peak, proportional_bytes(core.process.pid))
        assert peak - idle < MEMORY_BYTES, f"{(peak - idle) >> 20} MiB with {patient=}"
        assert {answer.result() for answer in answers} <= {200, 400, 503}
        if IS_LONG:
            sys.stdout.write(f"{len(several)} bombs at once, {patient=}: {(peak - idle) >> 20} MiB above idle\n")


def status_of(core: RunningCore, blob: bytes, patient: bool | None) -> int:
    document = core.put_document(blob)
    status, _ = core.inspect(document, patient=patient)
    return core.page(document, patient=patient)[0] if status == 200 else status


def test_who_is_in_a_hurry_hears_that_a_document_is_slow_as_often_as_he_asks(core: RunningCore) -> None:
    samples = {sample.name: sample for sample in hostile.made()}
    swelling = core.put_document(samples["pdf, a stream of objects that is a bomb"].make())
    document = core.put_document(samples["bmp, RLE8 without end"].make())
    assert core.inspect(document, patient=False)[0] == 200
    for _ in range(3):
        status, told = core.inspect(swelling, patient=False)
        assert status == 503
        assert "SlowDocument" in str(told)
        status, told = core.page(document, patient=False)
        assert status == 503
        assert "SlowDocument" in str(told)
    assert core.page(document, patient=True)[0] in {200, 400, 503}
    assert core.inspect(swelling, patient=True)[0] in {400, 503}
