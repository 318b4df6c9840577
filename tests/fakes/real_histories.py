"""Honest lives of the real meter: `Meter`, `Ledger` and `RecordOutput` under a clock and a seed.

with RealHistory(tmp_path, Random(7)) as history:
    history.live(windows=8)
    expected = history.expected()

Invariant: the history drives the meter as the scheduler, an operator and bad luck would, and never touches a record.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from random import Random
from typing import Self
from unittest import mock

from licenses.ack import acknowledge
from licenses.device_key import DeviceKey
from licenses.model import READ_PAGES_METER, License, LicenseId
from sidecar.bootstrap import ledger_path, migrate
from sidecar.exchange import Exchange, export_usage
from sidecar.ledger import Ledger, UseEvent
from sidecar.license_mount import LicenseMount
from sidecar.metering import Meter, RecordOutput
from sidecar.settings import Settings
from tests.fakes.clock import NS, FakeClock
from tests.fakes.histories import Book, Expected
from tests.fakes.licences import NOW, FakeVendor, a_license, a_vendor

HOUR = 3600
DAY = 24 * HOUR
_STARTS = (
    datetime(2027, 1, 31, 22, 50, tzinfo=UTC),
    datetime(2027, 2, 28, 23, 20, tzinfo=UTC),
    datetime(2027, 6, 15, 9, tzinfo=UTC),
    datetime(2027, 11, 30, 23, 30, tzinfo=UTC),
)


@cache
def the_vendor() -> FakeVendor:
    """One vendor for all histories of a run; making keys takes longer than a history."""
    return a_vendor()


class RealHistory:
    """One appliance's meter, driven by a seed; a context manager.

    Args:
        folder: A folder of its own; the records come under `output`.
        rng: Decides everything but the device's key.
        output: The output mount; by default `<folder>/output`.
        with_gaps: Whether things may happen that leave a gap, which the expected verdict then tells.
    """

    def __init__(self, folder: Path, rng: Random, *, output: Path | None = None, with_gaps: bool = False) -> None:
        self.rng = rng
        self._with_gaps = with_gaps
        self.book = Book()
        self.vendor = the_vendor()
        self.clock = FakeClock(at=rng.choice(_STARTS) + timedelta(seconds=rng.randrange(3600)), boot_id=self._guid())
        self._born_ns = self.clock.wall_ns
        self._issued = 0
        self.license: License | None = self._new_license()
        self._gaps: list[tuple[int, str]] = []
        self._resets: list[int] = []
        self._acked = 0
        self.any_evaluation = False
        self.license_ids: set[str] = set()
        self._version = "0.1.0"
        self._broken = False
        self._known: list[tuple[str, int]] = []
        self._folder = folder
        self._elsewhere = folder / "elsewhere"
        output = output or folder / "output"
        trust_root, self._license_file = self.vendor.install(folder, self.license)
        output.mkdir(exist_ok=True)
        self.settings = replace(
            Settings(
                license_directory=self._license_file.parent,
                output_directory=output,
                state_directory=folder / "state",
                trust_root=trust_root,
            )
        )
        self._patch = mock.patch("sidecar.metering.__version__", self._version)
        self._patch.start()
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.ledger.close()
        self._patch.stop()

    @property
    def folder(self) -> Path:
        """The instance's records."""
        return self.output.folder

    # ---- the meter's life -------------------------------------------------------------------------------------------

    def _start(self) -> None:
        migrate(self.settings)
        self.device = DeviceKey.load_or_create(self.settings.state_directory)
        self.ledger = Ledger(
            ledger_path(self.settings), clock=self.clock, instance=self.device.instance_id, version=self._version
        )
        self.output = RecordOutput(self.settings.output_directory, self.device.instance_id)
        licenses = LicenseMount(self.settings, keeper=True, monotonic=lambda: self.clock.read().boottime_ns / 1e9)
        self.exchange = Exchange(
            ledger=self.ledger,
            licenses=licenses,
            output=self.output,
            state_directory=self.settings.state_directory,
            license_directory=self.settings.license_directory,
        )
        self.meter = Meter(
            settings=self.settings,
            clock=self.clock,
            ledger=self.ledger,
            licenses=licenses,
            device=self.device,
            output=self.output,
            jitter=self.rng,
        )
        self.meter.open()
        self._note_license()

    def _note_license(self) -> None:
        lic = self.license
        if lic is not None:
            self.license_ids.add(lic.license_id)
            self.any_evaluation |= lic.evaluation

    def live(self, windows: int) -> None:
        """Let so many windows pass; at the end everything is delivered and the meter has stopped in order."""
        for _ in range(windows):
            for happening in self.rng.choices(_HAPPENINGS, weights=_WEIGHTS, k=self.rng.randrange(5)):
                self.clock.pass_seconds(self.rng.uniform(0, 90))
                happening(self)
            left = (self.meter.deadline_ns - self.clock.boottime_ns) / NS
            self.clock.pass_seconds(max(0.0, left) + self.rng.uniform(0, 2))
            self.meter.watch_clock()
            self.meter.cycle()
        if self._broken:
            self._mend_output()
        self.clock.pass_seconds(30)
        outcomes = [self.meter.cycle()]
        if self.rng.random() < 0.5:
            outcomes.append(self.meter.close())
        assert all(outcome.failure == "" for outcome in outcomes), outcomes

    def _use(self) -> None:
        operation, pages = self._guid(), self.rng.choice((1, 1, 2, 5))
        events = [self._event(operation, page) for page in range(1, pages + 1)]
        now, size = self.ledger.now(), self._size
        counted = self.ledger.record_use(events)
        assert counted == pages
        for index in range(pages):
            self.book.note(size + index, now.ns // 1_000_000, 1)
        self._known += [(operation, page) for page in range(1, pages + 1)]

    def _retry(self) -> None:
        """A report sent again, together with a new page of the same operation: the new one alone counts."""
        if not self._known:
            return
        operation, _ = self.rng.choice(self._known)
        pages = [page for known, page in self._known if known == operation]
        fresh = max(pages) + 1
        now, size = self.ledger.now(), self._size
        counted = self.ledger.record_use([self._event(operation, page) for page in (*pages, fresh)])
        assert counted == 1
        self.book.note(size, now.ns // 1_000_000, 1)
        self._known.append((operation, fresh))

    def _event(self, operation: str, page: int) -> UseEvent:
        identity = self.license.license_id if self.license else "none"
        return UseEvent(operation_id=operation, page=page, meter=READ_PAGES_METER, license_id=identity)

    def _crash(self) -> None:
        """As after kill -9; perhaps the host went down as well, perhaps somebody exchanges the licence meanwhile."""
        self.ledger.close()
        self._away()
        self._start()

    def _crash_inside(self) -> None:
        """Die between two steps of a delivery."""
        step = self.rng.choice(("seal_window", "mark_written", "cycle_succeeded"))
        die = mock.patch.object(self.ledger, step, side_effect=KeyboardInterrupt)
        with die, contextlib.suppress(KeyboardInterrupt):
            self.meter.cycle()
        self._crash()

    def _restart(self) -> None:
        """Stopped in order."""
        self.meter.close()
        self._crash()

    def _upgrade(self) -> None:
        self._patch.stop()
        self._version = f"{self.rng.randrange(1, 4)}.{self.rng.randrange(10)}.0"
        self._patch = mock.patch("sidecar.metering.__version__", self._version)
        self._patch.start()
        self.rng.choice((self._restart, self._crash))()

    def _away(self) -> None:
        """Seconds to days without a meter, in which the licence may be exchanged."""
        gone = self.rng.choice((1, 60, 3 * HOUR, 3 * DAY, 13 * DAY))
        if self.rng.random() < 0.5:
            self.clock.pass_seconds(gone)
        else:
            self.clock.wall_ns += gone * NS
            self.clock.boottime_ns, self.clock.boot_id = 5 * NS, self._guid()
        if self.rng.random() < 0.3:
            self._put_another_license()

    def _step(self) -> None:
        seconds = self.rng.choice((-1, 1)) * self.rng.choice((1, 300, HOUR, 40 * DAY))
        self.clock.step_wall(seconds)
        self.meter.note_step(seconds)
        self.meter.watch_clock()

    def _vouch(self) -> None:
        """A time service, or an operator, says that the wall clock is right."""
        if self.clock.wall_ns <= self.ledger.now().ns:
            return
        if self.rng.random() < 0.5:
            self.clock.synchronised = True
            self.meter.watch_clock()
            self.clock.synchronised = False
        else:
            self.ledger.adopt_time(self.clock.wall_ns, {"action": "accepted"})
            self.meter.watch_clock()

    def _reset(self) -> None:
        before = self.ledger.now().ns
        earlier = before - self.rng.choice((NS, HOUR * NS, 20 * DAY * NS))
        token = self._guid()
        self._resets.append(self._size)
        self.ledger.adopt_time(earlier, {"action": "reset", "token_id": token}, token_id=token)
        self.clock.wall_ns = earlier
        self.meter.watch_clock()

    def _exchange_license(self) -> None:
        self._put_another_license()
        self.meter.watch_license()
        self._note_license()

    def _put_another_license(self) -> None:
        """A renewal, another licence, one for evaluation, or none."""
        before = self.license or self._new_license()
        match self.rng.randrange(4):
            case 0:
                self.license = replace(before, sequence=before.sequence + 1)
            case 1:
                self.license = self._new_license()
            case 2:
                self.license = replace(before, sequence=before.sequence + 1, evaluation=not before.evaluation)
            case _:
                self.license = None
        if self.license is None:
            self._license_file.unlink(missing_ok=True)
        else:
            self._license_file.write_bytes(self.vendor.seal(self.license))

    def _break_output(self) -> None:
        """The mount is gone for a while: cycles fail, and perhaps more than ten of them."""
        if not self._broken:
            self.settings.output_directory.rename(self._elsewhere)
            self.settings.output_directory.write_text("not a folder")
            self._broken = True

    def _mend_output(self) -> None:
        if self._broken:
            self.settings.output_directory.unlink()
            self._elsewhere.rename(self.settings.output_directory)
            self._broken = False

    def _many_failures(self) -> None:
        self._break_output()
        for _ in range(self.rng.randrange(1, 12)):
            self.clock.pass_seconds(self.rng.uniform(600, 900))
            assert self.meter.cycle().failed_cycles > 0
            if self.rng.random() < 0.2:
                self._crash()
        self._mend_output()

    def _acknowledge(self) -> None:
        """The vendor acknowledges some window that it has not seen yet, or the same once more."""
        windows = [one for one in self.ledger.sealed_windows() if one.size >= self._acked]
        if self._broken or not windows:
            return
        window, ack_key = self.rng.choice(windows), self.vendor.keys.ack_key
        ack = acknowledge(
            window.note,
            device=self.device.verifying_key,
            key=ack_key,
            trust_root=self.vendor.trust_root,
            at=NOW,
            totals=self.book.sums(until=window.size),
        )
        self.exchange.import_ack(ack.seal(ack_key), proof_folder=self._folder / "proofs")
        self._acked = window.size

    def _suspend(self) -> None:
        """The host sleeps for hours with the window open: nothing was restarted, and nothing was closed."""
        if self._with_gaps:
            self.meter.cycle()  # so that no start lies in the window that is too long
            self.clock.pass_seconds(self.rng.uniform(3 * HOUR, 3 * DAY))
            self._gaps.append((self._size, "long_window"))
            self.meter.cycle()

    def _lose_temporaries(self) -> None:
        """What a crash leaves lying about in the output."""
        if not self._broken and self.output.folder.is_dir():
            for name in (".probe", ".checkpoint.1-2.tmp"):
                (self.output.folder / name).write_bytes(b"\n")

    def _lose_records(self) -> None:
        """Somebody deletes record files or checkpoints, some or all; the meter writes them again in time."""
        if self._broken or self.ledger.now().ns - self._born_ns > 300 * DAY * NS:
            return
        names = [path for path in self.output.folder.rglob("*") if path.is_file() and path.parent.name != "acks"]
        gone = names if self.rng.random() < 0.2 else self.rng.sample(sorted(names), self.rng.randrange(len(names) + 1))
        for path in gone:
            path.unlink()

    def _tear_newest(self) -> None:
        """The host goes down, and the newest file loses what was not on the disk."""
        if self._broken:
            return
        found = sorted(self.output.folder.glob("usage/*/*/*.jsonl"), key=lambda path: int(path.stem.partition("-")[0]))
        if found and found[-1].stem.endswith(f"-{self.ledger.sealed_windows()[-1].size}"):
            blob = found[-1].read_bytes()
            found[-1].chmod(0o640)
            found[-1].write_bytes(blob[: self.rng.randrange(len(blob))])
        self._crash()

    # ---- what an auditor must find ----------------------------------------------------------------------------------

    def export(self) -> Path:
        """A bundle of what came after the last acknowledgement."""
        return export_usage(
            self.ledger, self.device, self._folder / "bundles", state_directory=self.settings.state_directory
        ).path

    @property
    def has_news(self) -> bool:
        """Whether windows closed after the last acknowledgement."""
        return bool(self.ledger.sealed_windows(self._acked))

    def expected(self, *, of_bundle: bool = False) -> Expected:
        """What an auditor must find with the device key pinned and nothing else in hand.

        Args:
            of_bundle: In the bundle that `export` gives, not in the folder.
        """
        since = self._acked if of_bundle else 0
        codes = frozenset(code for seq, code in self._gaps if seq >= since)
        return Expected(
            verdict="gaps" if codes else "good",
            codes=codes,
            resets=sum(seq >= since for seq in self._resets),
            size=self.ledger.snapshot(READ_PAGES_METER).sealed_size,
            acked=self._acked,
            evaluation=self.any_evaluation,
            licenses=frozenset(self.license_ids),
            meters=self.book.sums(since=since),
            months=self.book.sums_by("%Y-%m", since=since),
            days=self.book.sums_by("%Y-%m-%d", since=since),
        )

    @property
    def _size(self) -> int:
        return self.ledger.snapshot(READ_PAGES_METER).size

    def _new_license(self) -> License:
        """One that is valid whatever the history does to the clock, and a day longer than those before it."""
        self._issued += 1
        return a_license(
            license_id=LicenseId(self._guid()),
            issued_at=datetime(2026, 3, 1, tzinfo=UTC),
            not_before=datetime(2026, 3, 1, tzinfo=UTC),
            expires_at=datetime(2034, 1, 1, tzinfo=UTC) + timedelta(days=self._issued),
            termination_at=datetime(2035, 1, 1, tzinfo=UTC),
        )

    def _guid(self) -> str:
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))


_WEIGHTED: tuple[tuple[Callable[[RealHistory], None], int], ...] = (
    (RealHistory._use, 40),
    (RealHistory._retry, 6),
    (RealHistory._crash, 4),
    (RealHistory._crash_inside, 3),
    (RealHistory._restart, 3),
    (RealHistory._upgrade, 2),
    (RealHistory._step, 5),
    (RealHistory._vouch, 4),
    (RealHistory._reset, 2),
    (RealHistory._exchange_license, 5),
    (RealHistory._break_output, 1),
    (RealHistory._mend_output, 3),
    (RealHistory._many_failures, 1),
    (RealHistory._suspend, 1),
    (RealHistory._acknowledge, 4),
    (RealHistory._lose_temporaries, 1),
    (RealHistory._lose_records, 2),
    (RealHistory._tear_newest, 1),
)
_HAPPENINGS = tuple(one for one, _ in _WEIGHTED)
_WEIGHTS = tuple(weight for _, weight in _WEIGHTED)
