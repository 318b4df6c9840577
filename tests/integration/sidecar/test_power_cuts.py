"""Power cuts: what was not synced is lost, kept, reordered or torn; what a client was promised is there, once.

Lives drawn by lot are traced call by call. At points drawn by lot the disk is rebuilt as a power cut might have left it
(`tests.fakes.power_cuts` says how strictly), the real code starts on it, and everything is compared: with the clients'
lists, with checkpoints that an auditor took away, ledger with records. Some ledgers are rebuilt at that start, and some
disks lose power a second time while the service comes back.

Short form: some 25 cuts. `FAULTS=full`: more than 1000. `POWER_CUTS_SEED` repeats a run.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from licenses.errors import LicensesError
from licenses.keyring import TrustRoot
from licenses.keys import load_public_key
from licenses.usage_log.report import Severity
from licenses.usage_log.verify import verify_records
from tests.fakes import meter_life
from tests.fakes.io_faults import HAS_COMPILER, Stage
from tests.fakes.licences import FakeVendor
from tests.fakes.power_cuts import Disk, Event, read_trace, read_tree, told_in

FULL = os.environ.get("FAULTS") == "full"
SEED = int(os.environ.get("POWER_CUTS_SEED") or (secrets.randbelow(10**9) if FULL else 20270115))
LIVES, CUTS, STEPS = (60, 25, 40) if FULL else (3, 8, 25)

pytestmark = pytest.mark.skipif(not HAS_COMPILER, reason="no C compiler (make test installs one)")


@dataclass(slots=True)
class Tally:
    """What some lives came to."""

    cuts: int = 0
    second_cuts: int = 0
    events: int = 0
    promised: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        for name in ("cuts", "second_cuts", "events", "promised"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.wrong += other.wrong


@dataclass(frozen=True, slots=True)
class Past:
    """What was told before a cut."""

    asked: list[meter_life.Use] = field(default_factory=list)
    promised: list[meter_life.Use] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    at: tuple[int, int] = (0, 0)

    def after(self, events: Sequence[Event]) -> Past:
        clock = told_in(events, "clock")
        return Past(
            asked=self.asked + [use for (uses,) in told_in(events, "asked") for use in uses],
            promised=self.promised + [use for (uses,) in told_in(events, "promised") for use in uses],
            notes=self.notes + [note for (note,) in told_in(events, "delivered")],
            at=clock[-1] if clock else self.at,
        )


class Life:
    """One life, and its cuts."""

    def __init__(self, stage: Stage, vendor: FakeVendor, folder: Path, seed: int) -> None:
        self._stage = stage
        self._vendor = vendor
        self._folder = folder
        self._seed = seed
        self._random = Random(seed)
        self._tally = Tally()

    def run(self, *, cuts: int, steps: int, ignore_syncs: bool = False, lax: bool = False) -> Tally:
        site = self._folder / "site"
        meter_life.lay_out(site, self._vendor)
        start, inodes = read_tree(site)
        events = self._live(site, self._seed, steps=steps, lax=lax)
        shutil.rmtree(site)
        for number in range(cuts):
            cut = self._draw(events)
            disk = Disk(start, inodes, ignore_syncs=ignore_syncs)
            disk.follow(events[:cut])
            place = f"POWER_CUTS_SEED={SEED}: life {self._seed}, cut {number} at event {cut} of {len(events)}"
            self._cut(disk, Past().after(events[:cut]), place, again=self._random.random() < 0.25)
        return self._tally

    def _live(
        self, site: Path, seed: int, *, steps: int, past: Past | None = None, lax: bool = False, boots: int = 0
    ) -> list[Event]:
        trace = site.parent / "trace"
        trace.unlink(missing_ok=True)
        at = past.at if past else None
        lived = self._stage.play(
            meter_life.live_traced, folder=site, trace=trace, seed=seed, steps=steps, at=at, boots=boots, lax=lax
        )
        self._tally.wrong += [
            f"life {seed}: {what}"
            for name, *what in lived.told
            if name in {"unnamed", "named"} and "nothing_to_export" not in what
        ]
        events = read_trace(trace, site)
        self._tally.events += len(events)
        return events

    def _draw(self, events: Sequence[Event]) -> int:
        """Anywhere, or right after something was promised."""
        promises = [index + 1 for index, event in enumerate(events) if event.what == "K" and event.mark[0] != "asked"]
        if promises and self._random.random() < 0.3:
            return self._random.choice(promises)
        return self._random.randint(0, len(events))

    def _cut(self, disk: Disk, past: Past, place: str, *, again: bool, boots: int = 1) -> None:
        self._tally.cuts += 1
        site = self._folder / "site"
        place += f", {disk.write_remains(site, self._random)}"
        self._audit_remains(site, past, place)
        if (site / "state" / "ledger.db").exists() and self._random.random() < 0.25:
            # Whether there is any damage or not: the ledger is rebuilt, also from its write-ahead log.
            (site / "state" / "ledger.db.damaged").write_text("told by a test")
            place += ", rebuilt"
        if again:
            start, inodes = read_tree(site)
            events = self._live(site, self._seed + 1, steps=2, past=past, boots=boots)
            cut = self._draw(events)
            second = Disk(start, inodes)
            second.follow(events[:cut])
            shutil.rmtree(site)
            self._tally.second_cuts += 1
            place += f"; again at event {cut} of {len(events)}"
            self._cut(second, past.after(events[:cut]), place, again=False, boots=boots + 1)
            return
        played = self._stage.play(
            meter_life.recover,
            folder=site,
            asked=past.asked,
            promised=past.promised,
            at=past.at if past.at[0] else meter_life.ends_at([]),
            checkpoints=past.notes[-2:],
            boots=boots,
        )
        shutil.rmtree(site)
        self._tally.promised += len(set(past.promised))
        wrong = [text for (text,) in played.all("wrong")]
        wrong += [f"at {one[0]}: {one[-1] if len(one) == 2 else one[2]}" for one in played.all("unnamed")]
        wrong += [f"at {one[0]}: {one[2]}" for one in played.all("named")]
        if played.died or (not wrong and not played.all("sound")):
            wrong.append(f"died of {played.died}")
        self._tally.wrong += [f"{place}: {text}" for text in wrong]

    def _audit_remains(self, site: Path, past: Past, place: str) -> None:
        """What an auditor finds before anybody comes back is at worst the beginning of the truth."""
        early = set() if past.notes else {"no_records", "no_seal"}  # the first window is still on its way
        public = site / "state" / "device.pub"
        if not public.exists():
            return
        try:
            key = load_public_key(public, "device")
        except LicensesError as exc:
            self._tally.wrong.append(f"{place}: before the start: {exc}")
            return
        report = verify_records(site / "output", TrustRoot.from_bytes(self._vendor.trust_root_blob), device_keys=[key])
        for instance in report.instances:
            grave = [one for one in instance.findings if one.severity is not Severity.NOTE and one.code not in early]
            if grave:
                self._tally.wrong.append(f"{place}: before the start: {grave}")


def live_all(stages: list[Stage], vendor: FakeVendor, folder: Path, lives: int, **words: object) -> Tally:
    """Lives side by side."""
    total = Tally()

    def live(number: int) -> list[Tally]:
        return [
            Life(stages[number], vendor, folder / str(seed), SEED + 10 * seed).run(**words)  # type: ignore[arg-type]
            for seed in range(number, lives, len(stages))
        ]

    with ThreadPoolExecutor(len(stages)) as pool:
        for some in pool.map(live, range(len(stages))):
            for one in some:
                total.add(one)
    return total


def test_promised_pages_survive_power_cuts(stages: list[Stage], vendor: FakeVendor, folder: Path) -> None:
    started = time.monotonic()
    total = live_all(stages, vendor, folder, LIVES, cuts=CUTS, steps=STEPS)
    print(  # noqa: T201  the numbers are what this is for
        f"\nseed {SEED}: {LIVES} lives of {total.events // LIVES} events, {total.cuts} power cuts, {total.second_cuts} "
        f"of them while coming back from one; {total.promised} promised pages looked for; {len(total.wrong)} wrong; "
        f"{time.monotonic() - started:.0f} s"
    )
    assert not total.wrong, "\n".join([f"{len(total.wrong)} wrong", *total.wrong[:20]])
    assert total.cuts >= LIVES * CUTS
    assert total.promised > total.cuts


@pytest.mark.parametrize("carelessness", ["ignore_syncs", "lax"])
def test_carelessness_is_found(stages: list[Stage], vendor: FakeVendor, folder: Path, carelessness: str) -> None:
    """The model can fail: on a disk that lies about syncs, and with a ledger opened with synchronous=OFF, pages go."""
    total = live_all(stages, vendor, folder, 2, cuts=5, steps=25, **{carelessness: True})
    kinds = Counter(word for text in total.wrong for word in ("lost", "does not start", "auditor") if word in text)
    print(f"\n{carelessness}: {total.cuts} cuts, {dict(kinds)}")  # noqa: T201
    assert kinds["lost"] or kinds["does not start"]


# ---- the model itself -----------------------------------------------------------------------------------------------

MAKE = [Event("M", ("d",)), Event("C", ("1", "644", "d/new")), Event("W", ("1", "0", "2000"), b"a" * 2000)]
SYNCS = [Event("S", ("1",)), Event("D", ("d",)), Event("D", (".",))]
RENAME = [Event("R", ("d/new", "d/name"))]
OVERWRITE = [Event("W", ("1", "0", "2000"), b"b" * 2000), Event("T", ("1", "1500"))]


def remains(folder: Path, events: list[Event]) -> Counter[tuple[tuple[str, bytes], ...]]:
    """What a hundred power cuts leave: files by name."""
    found: Counter[tuple[tuple[str, bytes], ...]] = Counter()
    for number in range(100):
        disk = Disk({}, {})
        disk.follow(events)
        into = folder / str(number)
        disk.write_remains(into, Random(number))
        found[tuple(sorted((path.name, path.read_bytes()) for path in into.glob("d/*")))] += 1
    return found


def test_model_keeps_what_was_synced(tmp_path: Path) -> None:
    assert set(remains(tmp_path, [*MAKE, *SYNCS])) == {(("new", b"a" * 2000),)}


def test_model_loses_what_was_not(tmp_path: Path) -> None:
    names_only = remains(tmp_path / "1", [*MAKE, *SYNCS[1:]])
    assert {len(one[0][1]) for one in names_only} >= {0, 2000}
    assert any(0 < one[0][1].count(b"\0") < 2000 for one in names_only), "some blocks of a file"
    data_only = remains(tmp_path / "2", [*MAKE, SYNCS[0]])
    assert set(data_only) == {(), (("new", b"a" * 2000),)}
    assert set(remains(tmp_path / "3", [*MAKE, *SYNCS[:2]])) == {(), (("new", b"a" * 2000),)}, "the folder's own name"


def test_model_renames_at_once_or_not(tmp_path: Path) -> None:
    found = remains(tmp_path, [*MAKE, *SYNCS, *RENAME])
    assert set(found) == {(("new", b"a" * 2000),), (("name", b"a" * 2000),)}


def test_model_tears_what_is_overwritten(tmp_path: Path) -> None:
    found = {one[0][1] for one in remains(tmp_path, [*MAKE, *SYNCS, *OVERWRITE])}
    assert {len(content) for content in found} == {1500, 2000}
    assert {b"a" * 2000, b"b" * 1500} <= found
    assert any({97, 98} <= set(content) for content in found), "some old blocks, some new ones"
