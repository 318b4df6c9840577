"""A whole life of a meter, on real files, told as it goes: what a client was promised, what failed and how it is named.

`live` is the life, `recover` what comes after: a start, a retry of what was never promised, one cycle; then everything
is compared: the client's own list, the ledger, the record files, the auditor's verdict.
"""

from __future__ import annotations

import gc
import re
import sqlite3
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from licenses.ack import acknowledge
from licenses.device_key import DeviceKey, instance_id_of
from licenses.keyring import TrustRoot, load_trust_root
from licenses.keys import load_signing_key
from licenses.model import READ_PAGES_METER
from licenses.usage_log.entry import parse_entry
from licenses.usage_log.files import CHECKPOINT_NAME, parse_record_file
from licenses.usage_log.note import unverified_checkpoint
from licenses.usage_log.report import Verdict
from licenses.usage_log.verify import verify_records
from sidecar import __version__
from sidecar.bootstrap import MeterLock, build_meter, ledger_path, migrate
from sidecar.clock import instant
from sidecar.errors import LedgerConflictError, SidecarError
from sidecar.exchange import Exchange, export_usage
from sidecar.ledger import Ledger, UseEvent
from sidecar.ledger.database import note_damage
from sidecar.license_mount import LicenseMount
from sidecar.metering import Meter
from sidecar.settings import Settings
from tests.fakes.clock import NS, FakeClock
from tests.fakes.io_faults import Disk, Fault, Kind, Tell, by_somebody_else
from tests.fakes.licences import FakeVendor, a_license
from tests.fakes.power_cuts import marked

WINDOW_SECONDS = 650
RENEWED, NEXT, ACK_KEY = "renewed.dat", "next.dat", "ack.key"
_Result = TypeVar("_Result")

Use = tuple[str, int]
"""Operation and page."""


def lay_out(folder: Path, vendor: FakeVendor) -> None:
    """What an operator provides: licence, trust root, a folder for records. The state directory is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    vendor.install(folder)
    (folder / "output").mkdir(exist_ok=True)
    for sequence, name in ((2, RENEWED), (3, NEXT)):
        later = a_license().expires_at + timedelta(days=365 * sequence)
        (folder / name).write_bytes(vendor.seal(a_license(sequence=sequence, expires_at=later, termination_at=later)))
    (folder / ACK_KEY).write_bytes(vendor.keys.ack_key.to_pem())
    (folder / ACK_KEY).chmod(0o600)


def settings_of(folder: Path) -> Settings:
    """The settings of a folder that was laid out."""
    return Settings(
        license_directory=folder / "license",
        output_directory=folder / "output",
        state_directory=folder / "state",
        trust_root=folder / "trust-root.json",
    )


class Appliance:
    """Meter and client on one folder; every step is guarded as the meter's timetable guards it.

    Args:
        folder: Laid out by `lay_out`.
        tell: Where everything is told.
        clock: The clock.
        seed: Of the operations' ids.
    """

    def __init__(self, folder: Path, tell: Tell, clock: FakeClock, seed: int = 0) -> None:
        self.folder = folder
        self.clock = clock
        self.settings = settings_of(folder)
        self.tell = tell
        self.meter: Meter | None = None
        self.web: Ledger | None = None
        self._lock: MeterLock | None = None
        self._random = Random(seed)

    # ---- life -------------------------------------------------------------------------------------------------------

    def attempt(self, step: str, action: Callable[[], _Result]) -> _Result | None:
        """Do one step; a failure with a name is told under it, any other as what it is: a fault of the product."""
        try:
            return action()
        except SidecarError as exc:
            self.tell("named", step, exc.code, str(exc), exc.next_step)
        except Exception:  # noqa: BLE001  finding those is what this is for
            self.tell("unnamed", step, traceback.format_exc())
        return None

    def start(self, tries: int = 2) -> bool:
        """Start as the meter's process does; after a failure once more, as a service manager does."""
        for _ in range(tries):
            if self.attempt("start", self._start):
                return True
            self.drop()
        return False

    def _start(self) -> bool:
        migrate(self.settings, self.clock)
        self._lock = MeterLock(self.settings)
        self.meter = build_meter(self.settings, self.clock)
        self.meter.open()
        device = LicenseMount(self.settings).device
        if device is None:
            return False  # the web's process waits for the meter's key, then gives up with a named error
        self.web = Ledger(
            ledger_path(self.settings), clock=self.clock, instance=instance_id_of(device.raw), version=__version__
        )
        return True

    def drop(self) -> None:
        """As a process that ends: descriptors and locks go, nothing is said."""
        for ledger in (self.web, None if self.meter is None else self.meter._ledger):
            if ledger is not None:
                with suppress(Exception):
                    ledger.close()
        if self._lock is not None:
            with suppress(OSError):
                self._lock.release()
        self.meter = self.web = self._lock = None
        gc.collect()

    def close(self) -> None:
        """Shut down in order."""
        if self.meter is not None:
            self.attempt("close", self.meter.close)
        self.drop()

    # ---- what goes on -----------------------------------------------------------------------------------------------

    def operation(self) -> str:
        """The id of the next operation."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def use(self, pages: int, operation: str = "") -> str:
        """A client's operation of so many pages; told before as asked, after as promised."""
        operation = operation or self.operation()
        uses = [(operation, page) for page in range(1, pages + 1)]
        self.tell("asked", uses)
        web = self.web
        if web is not None and self.attempt("use", lambda: web.record_use(events(uses))) is not None:
            self.tell("promised", uses)
        return operation

    def pass_seconds(self, seconds: float) -> None:
        """Time goes by."""
        self.clock.pass_seconds(seconds)
        self.tell("clock", self.clock.wall_ns, self.clock.boottime_ns)

    def cycle(self) -> bool:
        """A window's end."""
        self.pass_seconds(WINDOW_SECONDS)
        if self.meter is None:
            return False
        outcome = self.attempt("cycle", self.meter.cycle)
        if outcome is None:
            return False
        if outcome.failed_cycles:
            self.tell("failed", outcome.failed_cycles, outcome.failure)
            return False
        self.tell("delivered", self.checkpoint())
        return True

    def checkpoint(self) -> str:
        """The newest checkpoint, as an auditor would take it away; empty when there is none."""
        with by_somebody_else():
            found = [path.read_text() for path in self.settings.output_directory.glob(f"*/*/{CHECKPOINT_NAME}")]
            return found[0] if found else ""

    def exchange(self) -> None:
        """A bundle goes out to the vendor; what comes back, with the next licence, is applied twice."""
        meter, web = self.meter, self.web
        if meter is None or web is None:
            return
        state, out = self.settings.state_directory, self.folder / "out"
        with by_somebody_else():
            out.mkdir(exist_ok=True)
            if (note := self.checkpoint()) == "":
                return
            key, root = load_signing_key(self.folder / ACK_KEY, "ack"), load_trust_root(self.settings.trust_root)
            ack = acknowledge(
                note,
                device=meter._device.verifying_key,
                key=key,
                trust_root=root,
                at=instant(self.clock.wall_ns).replace(microsecond=0),
                totals={READ_PAGES_METER: self._pages_in(unverified_checkpoint(note).size)},
                license_file=(self.folder / NEXT).read_bytes(),
            )
            blob = ack.seal(key)
        self.attempt("export", lambda: export_usage(web, meter._device, out, state_directory=state))
        exchange = Exchange(
            ledger=web,
            licenses=LicenseMount(self.settings),
            output=meter._output,
            state_directory=state,
            license_directory=self.settings.license_directory,
        )
        for _ in range(2):
            self.attempt("import", lambda: exchange.import_ack(blob, proof_folder=out))

    def _pages_in(self, size: int) -> int:
        assert self.web is not None
        return sum(parse_entry(line)["kind"] == "use" for line in self.web.lines(0, size))

    def watch(self) -> None:
        """What the timetable does between two windows."""
        meter = self.meter
        if meter is None:
            return
        for name in ("watch_license", "watch_clock", "keep_time", "watch_output"):
            self.attempt(name, getattr(meter, name))

    def renew_license(self) -> None:
        """The operator puts the renewed licence into the folder."""
        with by_somebody_else():
            (self.settings.license_directory / RENEWED).write_bytes((self.folder / RENEWED).read_bytes())
            self._tell_licenses()

    def take_licenses_away(self) -> dict[str, bytes]:
        """The operator empties the licence folder; returns what was there."""
        with by_somebody_else():
            kept = {path.name: path.read_bytes() for path in self.settings.license_directory.iterdir()}
            for name in kept:
                (self.settings.license_directory / name).unlink()
            self._tell_licenses()
        return kept

    def put_back(self, kept: dict[str, bytes]) -> None:
        """The operator puts the licences back."""
        with by_somebody_else():
            for name, blob in kept.items():
                (self.settings.license_directory / name).write_bytes(blob)
            self._tell_licenses()

    def _tell_licenses(self) -> None:
        self.tell("licences", {path.name: path.read_bytes() for path in self.settings.license_directory.iterdir()})


def events(uses: Sequence[Use]) -> list[UseEvent]:
    """What a client's pages are to the ledger."""
    lic = a_license().license_id
    return [
        UseEvent(operation_id=operation, page=page, meter=READ_PAGES_METER, license_id=lic) for operation, page in uses
    ]


# ---- the life -------------------------------------------------------------------------------------------------------


def live(
    tell: Tell,
    folder: Path,
    *,
    fault: Fault | None = None,
    calls: Path | None = None,
    whole: bool = True,
    reads: bool = False,
) -> None:
    """A life in which one thing goes wrong; then it is lifted, and the same process goes on to one more cycle.

    Args:
        tell: Where it is told.
        folder: Laid out by `lay_out`.
        fault: What goes wrong; None for nothing.
        calls: Where the counted calls are listed.
        whole: The long life; otherwise the short one.
        reads: Count reads and nothing else; otherwise everything else.
    """
    disk = _a_disk(folder, fault=fault, calls=calls, reads=reads)
    one = Appliance(folder, tell, FakeClock())
    _grow_up(one) if whole else _grow_up_fast(one)
    disk.lift()
    tell("hit", disk.first_hit, disk.hits, disk.count)
    if one.meter is None and not one.start():
        tell("wrong", "the fault is lifted, and the process does not start")
        return
    one.use(1)
    if not one.cycle():
        tell("wrong", f"the fault is lifted, and the next cycle fails: {one.meter and one.meter._ledger.problem}")


def _a_disk(folder: Path, *, fault: Fault | None, calls: Path | None, reads: bool) -> Disk:
    disk = Disk(folder, Kind.READ if reads else ~Kind.READ)
    disk.leave_out_syncs()
    if calls is not None:
        disk.log_calls(calls)
    if fault is not None:
        disk.arm(fault)
    return disk


def live_to_damage(tell: Tell, folder: Path) -> None:
    """A life that ends with pages that no record holds yet, and with word of damage in the ledger."""
    one = Appliance(folder, tell, FakeClock())
    one.start()
    one.use(3)
    one.cycle()
    one.use(4)
    note_damage(ledger_path(one.settings), "told by a test")
    # Nothing is closed: as after kill -9 the newest pages lie in the write-ahead log.


def mend(
    tell: Tell,
    folder: Path,
    *,
    at: tuple[int, int],
    fault: Fault | None = None,
    calls: Path | None = None,
    reads: bool = False,
) -> None:
    """A start that mends the ledger, while one thing goes wrong; then it is lifted, and the next start works.

    Args:
        tell: Where it is told.
        folder: As `live_to_damage` left it.
        at: Wall clock and boot clock, nanoseconds.
        fault: What goes wrong; None for nothing.
        calls: Where the counted calls are listed.
        reads: Count reads and nothing else; otherwise everything else.
    """
    disk = _a_disk(folder, fault=fault, calls=calls, reads=reads)
    one = Appliance(folder, tell, a_clock(at))
    one.start()
    disk.lift()
    tell("hit", disk.first_hit, disk.hits, disk.count)
    tell("clock", one.clock.wall_ns, one.clock.boottime_ns)
    if one.meter is None and not one.start():
        tell("wrong", "the fault is lifted, and the process does not start")
    one.drop()


def _grow_up_fast(one: Appliance) -> None:
    one.start()
    one.use(3)
    one.cycle()
    one.renew_license()
    one.watch()
    one.use(1)
    one.close()
    one.start()
    one.use(2)


def _grow_up(one: Appliance) -> None:
    one.start()
    first = one.use(3)
    one.use(1)
    one.watch()
    one.cycle()
    one.use(3, first)  # the answer was lost, the client asks again
    one.use(2)
    one.pass_seconds(60)
    one.clock.step_wall(3 * 3600)
    one.watch()
    one.clock.step_wall(-3 * 3600)
    one.watch()
    one.cycle()
    one.renew_license()
    one.use(4)
    one.watch()
    one.cycle()
    kept = one.take_licenses_away()
    one.watch()
    one.put_back(kept)
    one.watch()
    one.exchange()
    one.watch()
    one.use(2)
    if (web := one.web) is not None:
        other = [replace(event, quantity=7) for event in events([(first, 1)])]
        with suppress(LedgerConflictError):
            one.attempt("conflict", lambda: web.record_use(other))
    one.close()
    one.start()
    one.use(2)
    one.cycle()
    one.use(1)
    one.drop()  # as after kill -9
    one.start()
    one.use(1)


# ---- a traced life, for power cuts ----------------------------------------------------------------------------------


def live_traced(
    tell: Tell,
    folder: Path,
    *,
    trace: Path,
    seed: int,
    steps: int,
    at: tuple[int, int] | None = None,
    boots: int = 0,
    lax: bool = False,
) -> None:
    """A life drawn by lot, every call that changes something traced, and everything told put between them as marks.

    Args:
        tell: Where the last word is told.
        folder: Laid out by `lay_out`; may hold a state already.
        trace: Where the trace is written.
        seed: Of the lot.
        steps: How many things happen.
        at: Wall clock and boot clock, nanoseconds, at its beginning; None for the first.
        boots: How many times the host was started before.
        lax: Open the ledger with `synchronous=OFF`, as a product would that does not care.
    """
    if lax:
        sqlite3.connect = partial(sqlite3.connect, factory=_Lax)  # type: ignore[assignment]
    disk = Disk(folder)
    disk.leave_out_syncs()
    disk.trace(trace)

    def mark(*what: Any) -> None:
        disk.mark(marked(what))
        if what[0] in {"named", "unnamed", "failed"}:
            tell(*what)

    one = Appliance(folder, mark, a_clock(at, boots), seed=seed)
    mark("clock", one.clock.wall_ns, one.clock.boottime_ns)
    one.start()
    _wander(one, Random(seed), steps)


def a_clock(at: tuple[int, int] | None = None, boots: int = 0) -> FakeClock:
    """A clock that stands at an instant; after a power cut on another boot."""
    clock = FakeClock()
    if at is not None:
        clock.wall_ns, clock.boottime_ns = at
    if boots:
        clock.reboot(90)
        clock.boot_id = str(uuid.UUID(int=boots, version=4))
    return clock


def _wander(one: Appliance, random: Random, steps: int) -> None:
    actions: dict[Callable[[], object], int] = {
        lambda: one.use(random.randint(1, 5)): 12,
        lambda: one.use(random.randint(60, 250)): 1,
        lambda: one.use(2, earlier[0]) if earlier else None: 1,
        one.cycle: 5,
        one.watch: 4,
        one.renew_license: 1,
        one.exchange: 1,
        lambda: one.put_back(one.take_licenses_away()): 1,
        lambda: (one.take_licenses_away(), one.watch()): 1,
        lambda: (one.close(), one.start()): 1,
        lambda: (one.drop(), one.start()): 1,
        lambda: (one.drop(), note_damage(ledger_path(one.settings), "told by a test"), one.start()): 1,
        lambda: one.pass_seconds(random.randint(1, 100)): 2,
        lambda: one.clock.step_wall(random.choice([-7200, 7200])): 1,
        lambda: one.meter and one.attempt("accept", lambda: one.meter and _accept(one)): 1,
    }
    earlier: list[str] = []
    for action in random.choices(list(actions), list(actions.values()), k=steps):
        done = action()
        if isinstance(done, str) and not earlier:
            earlier.append(done)


def _accept(one: Appliance) -> None:
    if one.web is not None and one.clock.wall_ns > one.web.now().ns:
        one.web.adopt_time(one.clock.wall_ns, {"action": "accepted"})


class _Lax(sqlite3.Connection):
    """A connection that does not sync, whatever it is told."""

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        return super().execute(re.sub(r"(?i)synchronous\s*=\s*\w+", "synchronous=OFF", sql), *arguments)


# ---- after it -------------------------------------------------------------------------------------------------------


def recover(
    tell: Tell,
    folder: Path,
    *,
    asked: Sequence[Use],
    promised: Sequence[Use],
    at: tuple[int, int],
    checkpoints: Sequence[str] = (),
    boots: int = 0,
    thorough: bool = True,
) -> None:
    """Start on what is there, and tell under "wrong" everything that is not as it was promised.

    Args:
        tell: Where it is told.
        folder: What a life left.
        asked: The uses that clients asked for.
        promised: Those that they were promised.
        at: Wall clock and boot clock, nanoseconds, when the life ended.
        checkpoints: Notes that an auditor took away; the records must extend them.
        boots: How many times the host was started before; a power cut starts it again.
        thorough: Go on to another cycle and an exchange with the vendor.
    """
    Disk(folder).leave_out_syncs()
    clock = a_clock(at, boots)
    clock.pass_seconds(30)
    one = Appliance(folder, tell, clock, seed=-1)
    if not one.start(tries=1):
        tell("wrong", "the process does not start")
        return
    meter, web = one.meter, one.web
    assert meter is not None
    assert web is not None
    counted = uses_in(web)
    compare(tell, counted, asked=asked, promised=promised)
    everything = list(dict.fromkeys(asked))
    fresh = web.record_use(events(everything))
    if fresh != len(everything) - len(set(counted)):
        tell("wrong", f"asked again, {fresh} pages were new; {len(set(counted))} of {len(everything)} were there")
    if not one.cycle():
        tell("wrong", "the first cycle fails")
    if thorough:
        one.use(1)
        if not one.cycle():
            tell("wrong", "the second cycle fails")
        one.exchange()
        one.watch()
    expect_sound(tell, one, checkpoints)
    one.drop()


def compare(tell: Tell, counted: Sequence[Use], *, asked: Sequence[Use], promised: Sequence[Use]) -> None:
    """The client's list against the ledger's."""
    doubled = [use for use, times in Counter(counted).items() if times > 1]
    lost = sorted(set(promised) - set(counted))
    invented = sorted(set(counted) - set(asked))
    for what, uses in (("doubled", doubled), ("lost", lost), ("invented", invented)):
        if uses:
            tell("wrong", f"{len(uses)} pages are {what}: {uses[:3]}")


def uses_in(ledger: Ledger) -> list[Use]:
    """Every use in the ledger, in order."""
    size = ledger.snapshot(READ_PAGES_METER).size
    entries = [parse_entry(line) for line in ledger.lines(0, size)]
    return [_use(entry) for entry in entries if entry["kind"] == "use"]


def expect_sound(tell: Tell, one: Appliance, checkpoints: Sequence[str] = ()) -> None:
    """Ledger and records agree, nothing is pending, the auditor is content."""
    ledger = one.web
    assert ledger is not None
    counted = uses_in(ledger)
    snapshot = ledger.snapshot(READ_PAGES_METER)
    if snapshot.pending_files or ledger.pending_records():
        tell("wrong", f"{snapshot.pending_files} records are pending")
    if snapshot.failed_cycles:
        tell("wrong", f"{snapshot.failed_cycles} cycles count as failed")
    sums = {
        "total": dict(ledger.totals()).get(READ_PAGES_METER, 0),
        "months": sum(quantity for _, quantity in ledger.months(READ_PAGES_METER)),
        "licences": sum(snapshot.license_pages.values()),
    }
    for name, quantity in sums.items():
        if quantity != len(counted):
            tell("wrong", f"{name} says {quantity} pages, the ledger holds {len(counted)}")
    licensed = LicenseMount(one.settings).look(ledger.now().at, ledger.snapshot(READ_PAGES_METER)).serves
    if licensed and not (one.settings.state_directory / "lease.dsse.json").exists():
        tell("wrong", f"all is well, and there is no lease: {one.meter and one.meter._verdict()}")
    output = one.settings.output_directory
    files = [parse_record_file(path) for path in output.glob("*/*/usage/*/*/*.jsonl")]
    lines = [line for file in sorted(files, key=lambda file: file.header.first_seq) for line in file.lines]
    if lines != list(ledger.lines(0, len(lines))):
        tell("wrong", "the records do not hold what the ledger holds")
    written = [_use(entry) for entry in map(parse_entry, lines) if entry["kind"] == "use"]
    if written != counted:
        tell("wrong", f"{len(counted)} pages in the ledger, {len(written)} in the records")
    trust_root = TrustRoot.from_bytes(one.settings.trust_root.read_bytes())
    key = DeviceKey.load_or_create(one.settings.state_directory).verifying_key
    for kept in checkpoints or [None]:
        report = verify_records(output, trust_root, device_keys=[key], previous=kept)
        (instance,) = report.instances or (None,)
        if instance is None or instance.verdict is not Verdict.GOOD:
            findings = [str(one) for one in (instance.findings if instance else report.findings)]
            tell("wrong", f"the auditor says {instance and instance.verdict}: {findings}")
        elif instance.meters.get(READ_PAGES_METER, 0) != len(counted):
            tell("wrong", f"the auditor counts {instance.meters}, the ledger holds {len(counted)}")
    tell("sound", len(counted), len(files))


def _use(entry: Any) -> Use:
    return str(entry["id"]), int(entry["page"])


def ends_at(clock: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Where the clock of a life stood last."""
    fresh = FakeClock()
    return clock[-1] if clock else (fresh.wall_ns + NS, fresh.boottime_ns + NS)
