"""Every open, read, write, sync, rename, … of a meter's life fails: nothing promised is lost, nothing counted twice.

A clean life is counted first. Then each of its calls is made to fail in a life of its own, with ENOSPC, EIO or EROFS,
or is cut short, once or from then on. The life may go wrong in any way that has a name. When the fault is lifted, the
same process delivers within one cycle, and a new process finds everything in order.

Short form: in a short life, every call made on every file meets a fault. `FAULTS=full`: each call of the long
life meets each fault. The start that mends a damaged ledger is treated like a life.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from queue import SimpleQueue
from random import Random
from typing import Any

import pytest

from tests.fakes import meter_life
from tests.fakes.io_faults import (
    CHANGES,
    HAS_COMPILER,
    LASTING,
    Call,
    Effect,
    Fault,
    Kind,
    Played,
    Stage,
    calls_in,
)
from tests.fakes.licences import FakeVendor

FULL = os.environ.get("FAULTS") == "full"
READING = Kind.OPEN_TO_READ | Kind.READ

pytestmark = pytest.mark.skipif(not HAS_COMPILER, reason="no C compiler (make test installs one)")


@dataclass(slots=True)
class Tally:
    """What a campaign came to."""

    faults: int = 0
    hits: int = 0
    named: Counter[str] = field(default_factory=Counter)
    failed_cycles: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """What went wrong, each kind once with its number and the first case."""
        kinds: dict[str, list[str]] = {}
        for text in self.wrong:
            kinds.setdefault(signature_of(text), []).append(text)
        told = []
        for kind, texts in kinds.items():
            places = "\n    ".join(text.split("]: ", 1)[0] + "]" for text in texts[:20])
            told.append(f"--- {len(texts)} times: {kind}\n    {places}\n{texts[0]}")
        return "\n".join([f"{len(self.wrong)} wrong, of {len(kinds)} kinds", *told])


def signature_of(text: str) -> str:
    """What is the same in two failures of one kind: the product's lines and the error, or the text without numbers."""
    lines = re.findall(r'File ".*/((?:sidecar|licenses)/.*)", line (\d+), in (\S+)', text)
    if lines:
        error = re.sub(r"[:\[(].*", "", text.strip().splitlines()[-1])
        return " < ".join([error, *(f"{path}:{line} {name}" for path, line, name in lines[::-1][:4])])
    return re.sub(r"\b[0-9a-f]{8}-[0-9a-f-]{27}\b|\b[0-9a-f]{12,16}\b|/tmp/\S*|\d+", "#", text.split("]: ", 1)[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is played with a fault, and what was before it.

    Attributes:
        play: Function of `tests.fakes.meter_life`, which takes a fault and a list of calls.
        before: A folder to begin with, as it is; None for one that was only laid out.
        past: What was told in that folder's life.
        words: Further arguments.
    """

    play: Callable[..., None]
    before: Path | None = None
    past: Played = field(default_factory=Played)
    words: dict[str, Any] = field(default_factory=dict)

    def lay_out(self, folder: Path, vendor: FakeVendor) -> None:
        if self.before is None:
            meter_life.lay_out(folder, vendor)
        else:
            shutil.copytree(self.before, folder, ignore=shutil.ignore_patterns("ledger.reserve"))


def play_one(stage: Stage, vendor: FakeVendor, folder: Path, scene: Scene, fault: Fault) -> Tally:
    """One life with one fault, and what comes after it."""
    tally = Tally(faults=1)
    scene.lay_out(folder, vendor)
    lived = stage.play(scene.play, folder=folder, fault=fault, **scene.words)
    told = Played(scene.past.told + lived.told)
    after = stage.play(
        meter_life.recover,
        folder=folder,
        asked=[use for (uses,) in told.all("asked") for use in uses],
        promised=[use for (uses,) in told.all("promised") for use in uses],
        at=meter_life.ends_at(told.all("clock")),
        checkpoints=[note for (note,) in told.all("delivered")[-1:]],
        thorough=FULL and fault.nth % 5 == 0,
    )
    shutil.rmtree(folder)
    hit = lived.all("hit")
    tally.hits = hit[0][1] if hit else 0
    tally.named = Counter(code for _, code, *_ in lived.all("named"))
    tally.failed_cycles = len(lived.all("failed"))
    place = f"{fault} [{hit[0][0] if hit else ''}]"
    for played, when in ((lived, "in the life"), (after, "after it")):
        tally.wrong += [f"{place}: {when}: {text}" for (text,) in played.all("wrong")]
        tally.wrong += [f"{place}: {when}, at {step}: {trace}" for step, trace in played.all("unnamed")]
        if played.died:
            tally.wrong.append(f"{place}: {when}: died of {played.died}")
    for step, code, text, next_step in lived.all("named"):
        if not next_step or code == "ledger_fork":
            tally.wrong.append(f"{place}: in the life, at {step}: {code}: {text} (next step: {next_step})")
    tally.wrong += [f"{place}: after it, at {one[0]}: {one[2]}" for one in after.all("named")]
    if not after.all("sound") and not tally.wrong:
        tally.wrong.append(f"{place}: it was not looked at")
    return tally


def play_all(stages: list[Stage], vendor: FakeVendor, folder: Path, scene: Scene, faults: list[Fault]) -> Tally:
    """Lives side by side, one stage each."""
    free: SimpleQueue[Stage] = SimpleQueue()
    for stage in stages:
        free.put(stage)

    def play(number: int) -> Tally:
        stage = free.get()
        try:
            return play_one(stage, vendor, folder / str(number), scene, faults[number])
        finally:
            free.put(stage)

    total = Tally()
    with ThreadPoolExecutor(len(stages)) as pool:
        for number, one in enumerate(pool.map(play, range(len(faults)))):
            if number and number % 1000 == 0:
                print(f"{number} of {len(faults)} lives, {len(total.wrong)} wrong", flush=True)  # noqa: T201
            total.faults += one.faults
            total.hits += one.hits
            total.named += one.named
            total.failed_cycles += one.failed_cycles
            total.wrong += one.wrong
    return total


def count_calls(stage: Stage, vendor: FakeVendor, folder: Path, scene: Scene) -> list[Call]:
    """The calls of a life in which nothing goes wrong."""
    site, log = folder / "clean", folder / "calls"
    scene.lay_out(site, vendor)
    lived = stage.play(scene.play, folder=site, calls=log, **scene.words)
    assert not lived.all("unnamed")
    assert not lived.all("wrong")
    shutil.rmtree(site)
    within = lived.all("hit")[0][2]
    return calls_in(log)[:within]


def every_fault(calls: list[Call]) -> Iterator[Fault]:
    """Each call with every error it may meet, once and from then on; each write cut short."""
    for call in calls:
        errors = [errno.EIO] if call.kind in READING else [errno.EIO, errno.ENOSPC, errno.EROFS]
        for error in errors:
            yield Fault(nth=call.number, error=error)
            yield Fault(nth=call.number, error=error, lasting=LASTING[error])
        yield Fault(nth=call.number, error=errno.EIO, lasting=LASTING[errno.EIO], whole=True)
        if call.kind is Kind.WRITE:
            yield Fault(nth=call.number, effect=Effect.SHORT)
            yield Fault(nth=call.number, effect=Effect.SHORT, lasting=Kind.WRITE)
            for error in (errno.ENOSPC, errno.EIO):
                yield Fault(nth=call.number, effect=Effect.SHORT_THEN_FAIL, error=error, lasting=LASTING[error])


def some_faults(calls: list[Call], each: int) -> Iterator[Fault]:
    """Every call that is made on every file a few times, at points drawn by lot; all faults take turns."""
    turns = {kind: cycle(list(every_fault([Call(0, kind, "", "")]))) for kind in (*CHANGES, *READING)}
    alike: dict[tuple[str, str], list[Call]] = {}
    for call in calls:
        alike.setdefault((call.name, re.sub(r"[0-9a-f]{12}|\d+", "#", call.path)), []).append(call)
    random = Random(len(calls))
    drawn = [call for group in alike.values() for call in random.sample(group, min(each, len(group)))]
    for call in sorted(drawn, key=lambda call: call.number):
        yield replace(next(turns[call.kind]), nth=call.number)


def play_with_faults(stages: list[Stage], vendor: FakeVendor, folder: Path, scene: Scene, *, each: int) -> None:
    started = time.monotonic()
    calls = count_calls(stages[0], vendor, folder, scene)
    ledger = {call.name for call in calls if call.path.endswith("ledger.db-wal")}
    assert ledger & {"pread", "pwrite"}, "SQLite goes past the shim"
    faults = list(every_fault(calls) if FULL else some_faults(calls, each))
    total = play_all(stages, vendor, folder, scene, faults)
    by_kind = Counter(call.kind.name for call in calls)
    print(  # noqa: T201  the numbers are what this is for
        f"\n{len(calls)} calls {dict(by_kind)}; {total.faults} lives with one fault, {total.hits} calls failed; "
        f"errors by name {dict(total.named)}; {total.failed_cycles} failed cycles; {len(total.wrong)} wrong; "
        f"{time.monotonic() - started:.0f} s"
    )
    assert not total.wrong, str(total)
    assert total.hits >= len(faults) * 0.9, "the faults do not reach the product"


@pytest.mark.parametrize("reads", [False, True], ids=["changes", "reads"])
def test_every_call_of_a_life(stages: list[Stage], vendor: FakeVendor, folder: Path, reads: bool) -> None:
    scene = Scene(play=meter_life.live, words={"whole": FULL, "reads": reads})
    play_with_faults(stages, vendor, folder, scene, each=2 if reads else 1)


@pytest.mark.parametrize("reads", [False, True], ids=["changes", "reads"])
def test_every_call_of_a_repair(stages: list[Stage], vendor: FakeVendor, folder: Path, reads: bool) -> None:
    """What cannot be read just now is not lost: a repair that meets a failing disk is put off."""
    before = folder / "before"
    meter_life.lay_out(before, vendor)
    past = stages[0].play(meter_life.live_to_damage, folder=before)
    at = meter_life.ends_at(past.all("clock"))
    scene = Scene(play=meter_life.mend, before=before, past=past, words={"at": at, "reads": reads})
    play_with_faults(stages, vendor, folder, scene, each=1)
