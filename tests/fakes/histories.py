"""Honest lives of a meter, drawn from a seed: months of restarts, reboots, clock trouble and licence changes.

history = History(tmp_path, Random(7))
history.live(windows=12)
expected = history.expected()               # what an auditor must find, counted apart from the records

Invariants: the same seed gives the same bytes, keys and signatures included. A history keeps its own tally of every
use and of every gap that it made, and never reads the records back to tell what is expected.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from licenses.ack import acknowledge
from licenses.device_key import ROLE
from licenses.keys import SigningKey, key_id_of
from licenses.model import READ_PAGES_METER
from licenses.usage_log.entry import leaf_hash
from licenses.usage_log.files import header_line, record_name, render, trailer_line, write_once
from licenses.usage_log.note import sign_checkpoint
from licenses.usage_log.report import InstanceReport, Report, Severity
from tests.fakes.licences import NOW, FakeVendor
from tests.fakes.records import FakeMeter

SECOND_MS = 1000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
LAYOUT_METER = "CognitiveServices.ComputerVision.Container.LayoutPages"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MONTH_ENDS = ((2027, 12, 31), (2028, 2, 28), (2028, 2, 29), (2027, 3, 31))


def seeded_key(rng: Random, role: str = ROLE) -> SigningKey:
    """A device key that the seed decides."""
    private = Ed25519PrivateKey.from_private_bytes(rng.randbytes(32))
    return SigningKey(key_id_of(private.public_key(), role), private)


def guid(rng: Random) -> str:
    """A random GUID that the seed decides."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


@dataclass(frozen=True, slots=True)
class Counted:
    """One use as the history remembers it."""

    seq: int
    effective_ms: int
    meter: str
    quantity: int


@dataclass(slots=True, kw_only=True)
class Expected:
    """What an auditor must find in one instance's records.

    Attributes:
        verdict: The instance's verdict with the device key pinned.
        codes: Codes of all findings graver than a note.
        resets: How often a token set time back.
        size: Entries of the log.
        acked: How many of them the vendor acknowledged.
        evaluation: Whether any licence in force was for evaluation.
        licenses: Licence ids that were in force.
        meters: Sums per meter.
        months: Sums per month and meter.
        days: Sums per day and meter.
    """

    verdict: str
    codes: frozenset[str]
    resets: int
    size: int
    acked: int
    evaluation: bool
    licenses: frozenset[str]
    meters: dict[str, int]
    months: dict[str, dict[str, int]]
    days: dict[str, dict[str, int]]


@dataclass(slots=True)
class Book:
    """A tally of uses, kept apart from the records."""

    uses: list[Counted] = field(default_factory=list)

    def note(self, seq: int, effective_ms: int, quantity: int, meter: str = READ_PAGES_METER) -> None:
        """Remember one use."""
        self.uses.append(Counted(seq, effective_ms, meter, quantity))

    def sums(self, *, since: int = 0, until: int | None = None) -> dict[str, int]:
        """Per meter, of the entries from `since` on, and before `until`."""
        total: Counter[str] = Counter()
        for use in self.uses:
            if use.seq >= since and (until is None or use.seq < until):
                total[use.meter] += use.quantity
        return dict(total)

    def sums_by(self, form: str, *, since: int = 0) -> dict[str, dict[str, int]]:
        """Per period, as `strftime` names it ("%Y-%m" or "%Y-%m-%d"), and meter."""
        periods: dict[str, Counter[str]] = {}
        for use in self.uses:
            if use.seq >= since:
                name = (_EPOCH + timedelta(milliseconds=use.effective_ms)).strftime(form)
                periods.setdefault(name, Counter())[use.meter] += use.quantity
        return {name: dict(one) for name, one in periods.items()}


class History(FakeMeter):
    """A meter whose windows, restarts and clock a seed decides.

    Args:
        output: The output mount.
        rng: Decides everything.
        starts_at: Effective time of the first entry; by default somewhere in 2027, often just before a month ends.
        device: The device's key; by default one that the seed decides.
        with_gaps: Whether things may happen that leave a gap, which the expected verdict then tells.
        with_older_versions: Whether the first windows may be those of a version that wrote less into them.
        calm: Whether to leave out whatever takes many entries; for small histories.
    """

    def __init__(
        self,
        output: Path,
        rng: Random,
        *,
        starts_at: datetime | None = None,
        device: SigningKey | None = None,
        with_gaps: bool = False,
        with_older_versions: bool = True,
        calm: bool = False,
    ) -> None:
        self.rng = rng
        self.book = Book()
        self.wall_skew_ms = 0
        self.product_version = "0.1.0"
        self.license_sequence = 1
        self.in_force = True
        self.roots: dict[int, bytes] = {}
        self._gaps: list[tuple[int, str]] = []
        self._resets: list[int] = []
        self._licenses: list[tuple[int, str, bool]] = []
        self._first_seqs: list[int] = []
        self._provable: list[bool] = []
        self.pruned_to = 0
        self.unsealed = False
        self._with_gaps = with_gaps
        self._calm = calm
        self._failed_cycles = 0
        self._quarantined = False
        self._acked = 0
        self._known: list[tuple[str, int]] = []
        older = with_older_versions and rng.random() < 0.1
        super().__init__(output, device=device or seeded_key(rng), with_frontier=not older, with_context=not older)
        start = starts_at or _some_start(rng)
        self.now_ms = int(start.timestamp()) * 1000 + rng.randrange(1000)
        self.boottime_ms = rng.randrange(5_000, 10**9)
        self.boot_id = guid(rng)
        self.license_id = guid(rng)
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Forget the entries that the parent wrote before the seed had its say."""
        self.lines.clear()
        self._pending.clear()
        self._opened = self.moment()
        self._boot()
        self._note_license()

    # ---- what a meter does ------------------------------------------------------------------------------------------

    def moment(self) -> dict[str, object]:
        """The present, with a wall clock that may be wrong."""
        return {**super().moment(), "wall_ms": max(0, self.now_ms + self.wall_skew_ms)}

    def entry(self, kind: str, **members: object) -> bytes:
        """Append an entry."""
        return super().entry(kind, **{"wall_ms": max(0, self.now_ms + self.wall_skew_ms), **members})

    def read_pages(self, pages: int, *, meter: str = READ_PAGES_METER) -> None:
        """One operation of so many pages, each an entry."""
        operation = guid(self.rng)
        for page in range(1, pages + 1):
            self.wait(self.rng.randrange(40, 900))
            quantity = 1 if self.rng.random() < 0.9 else self.rng.choice((0, 2, 7, 1000))
            self.book.note(self.size, self.now_ms, quantity, meter)
            self._known.append((operation, page))
            self.entry(
                "use",
                apiType="computervision",
                containerId=self.instance,
                containerType="ComputerVision.ComputerVisionRead",
                containerVersion=self.product_version,
                id=operation,
                page=page,
                meter={"name": meter, "quantity": quantity},
                requestTime=max(0, self.now_ms + self.wall_skew_ms) // 1000,
            )

    def window(self, *, uses: int = 0, seal: bool = True, reason: str = "interval") -> Path:
        """Close the window and write its record file and checkpoint; time is the caller's to pass."""
        for _ in range(uses):
            self.read_pages(1)
        first_seq, closed = self.size - len(self._pending), self.moment()
        bounds = {"opened": self._opened, "closed": closed, "reason": reason, "first_seq": first_seq}
        sums: Counter[str] = Counter()
        for use in reversed(self.book.uses):
            if use.seq < first_seq:
                break
            sums[use.meter] += use.quantity
        context = {
            "product_version": self.product_version,
            "license_id": self.license_id if self.in_force else "",
            "license_sequence": self.license_sequence if self.in_force else 0,
            "evaluation": self.evaluation and self.in_force,
        }
        meters = [{"name": name, "quantity": quantity} for name, quantity in sorted(sums.items()) if quantity]
        self.entry("window", **bounds, **(context if self.with_context else {}), meters=meters)
        frontier_before = self.frontier.hashes
        self.frontier.extend(map(leaf_hash, self._pending))
        root = self.frontier.root()
        header = header_line(
            {
                **bounds,
                **context,
                "instance": self.instance,
                "origin": self.origin,
                "previous_file_sha256": self.previous_sha256,
                "frontier": frontier_before if self.with_frontier else None,
            }
        )
        at = _EPOCH + timedelta(milliseconds=self.now_ms)
        path = self.folder / "usage" / record_name(first_seq, self.size, at)
        path.parent.mkdir(parents=True, exist_ok=True)
        trailer = trailer_line(self._pending, size=self.size, root=root)
        self.previous_sha256 = write_once(path, render(header, self._pending, trailer))
        self.files.append(path)
        self.roots[self.size] = root
        self._first_seqs.append(first_seq)
        self._provable.append(self.with_frontier or first_seq == 0)
        if self.in_force:
            self._licenses.append((self.size - 1, self.license_id, self.evaluation))
        self.unsealed = not seal
        if seal:
            self.seal(self.size, root)
        self._pending, self._opened = [], closed
        return path

    def _boot(self) -> None:
        self.entry("boot", boot_id=self.boot_id, product_version=self.product_version)

    def _note_license(self) -> None:
        if not self.in_force:
            self.entry("license", in_force=False)
            return
        self._licenses.append((self.size, self.license_id, self.evaluation))
        self.entry(
            "license",
            in_force=True,
            license_id=self.license_id,
            sequence=self.license_sequence,
            evaluation=self.evaluation,
            expires_at=(self.now_ms + 200 * DAY_MS) // 1000,
        )

    # ---- what happens to a meter ------------------------------------------------------------------------------------

    def live(self, windows: int) -> None:
        """Let so many windows pass, with whatever the seed has in store for them."""
        for _ in range(windows):
            left = self.rng.randrange(10 * MINUTE_MS, 15 * MINUTE_MS + 1)
            for happening in self.rng.choices(_HAPPENINGS, weights=_WEIGHTS, k=self.rng.randrange(5)):
                passed = min(left, self.rng.randrange(3 * MINUTE_MS))
                self.wait(passed)
                left -= passed
                happening(self)
            self.wait(left)
            self.window()
            self._after_window()

    def _after_window(self) -> None:
        """Whether the file could be delivered; ten failures in a row are survived, and all comes out in order."""
        if self._failed_cycles:
            if self.rng.random() < 0.5 and self._failed_cycles < 12:
                self._failed_cycles += 1
                self.entry("fault", code="output_unwritable", failed_cycles=self._failed_cycles)
            else:
                self._failed_cycles = 0
        elif self.rng.random() < 0.05:
            self._failed_cycles = 1
            self.entry("fault", code="output_unwritable", failed_cycles=1)

    def _some_pages(self) -> None:
        meter = READ_PAGES_METER if self.rng.random() < 0.85 else LAYOUT_METER
        self.read_pages(self.rng.choice((1, 1, 1, 2, 3) if self._calm else (1, 1, 2, 3, 5, 17)), meter=meter)

    def _retry(self) -> None:
        """A report sent again is not entered again: nothing happens to the log."""

    def _restart(self) -> None:
        """Stopped and started in order, perhaps much later."""
        self.window(reason="shutdown")
        self._off()
        self._boot()
        self._note_license()

    def _crash(self) -> None:
        """Killed; the next start closes what was left open."""
        self._off()
        self.window(reason="recovery")
        self._boot()
        self._note_license()

    def _off(self) -> None:
        """Seconds to months without a meter; the host may have been off, then the boot clock begins anew."""
        gone = self.rng.choice((5 * SECOND_MS, MINUTE_MS, 3 * HOUR_MS, 3 * DAY_MS, 45 * DAY_MS, 400 * DAY_MS))
        self.now_ms += gone
        if self.rng.random() < 0.5:
            self.boot_id, self.boottime_ms = guid(self.rng), self.rng.randrange(3_000, 90_000)
        else:
            self.boottime_ms += gone

    def _upgrade(self) -> None:
        """Another version, which writes all that this one knows of."""
        self.window(reason="shutdown")
        self.wait(20 * SECOND_MS)
        self.product_version = f"{self.rng.randrange(1, 4)}.{self.rng.randrange(10)}.0"
        self.with_context = self.with_frontier = True
        self._boot()
        self._note_license()

    def _step(self) -> None:
        """Somebody sets the wall clock; effective time goes its way."""
        by_ms = self.rng.choice((-1, 1)) * self.rng.choice(
            (SECOND_MS, 5 * MINUTE_MS, HOUR_MS, 40 * DAY_MS, 4000 * DAY_MS)
        )
        self.wall_skew_ms += by_ms
        self.entry("clock", action="step", by_ms=by_ms)

    def _quarantine(self) -> None:
        self._quarantined = not self._quarantined
        self.entry("quarantine", begins=self._quarantined, ahead_ms=max(0, self.wall_skew_ms))

    def _vouch(self) -> None:
        """NTP, a signed anchor or an operator raises effective time."""
        action = self.rng.choice(("anchor", "synchronised", "accepted"))
        by_ms = self.rng.choice((1, MINUTE_MS, 30 * DAY_MS))
        self.entry("clock", action=action, to_effective_ms=self.now_ms + by_ms)
        self.now_ms += by_ms
        self.wall_skew_ms = 0

    def _reset(self) -> None:
        """The vendor's token sets time back."""
        to_ms = self.now_ms - self.rng.choice((1, MINUTE_MS, 30 * DAY_MS))
        self._resets.append(self.size)
        self.entry("clock", action="reset", token_id=guid(self.rng), to_effective_ms=to_ms)
        self.now_ms, self.wall_skew_ms = to_ms, 0

    def _exchange_license(self) -> None:
        """A renewal, another licence, one for evaluation, or none."""
        match self.rng.randrange(4):
            case 0:
                self.license_sequence += 1
            case 1:
                self.license_id, self.license_sequence = guid(self.rng), self.rng.randrange(1, 9)
            case 2:
                self.evaluation = not self.evaluation
                self.license_sequence += 1
            case _:
                self.in_force = not self.in_force
        self._note_license()

    def _acknowledged(self) -> None:
        """The vendor has seen everything up to the newest seal."""
        if self.files and self.frontier.size > self._acked:
            self._acked = self.frontier.size
            self.entry("ack", size=self._acked, root=self.frontier.root().hex())

    def _suspended(self) -> None:
        """The host sleeps for hours with the window open: nothing was restarted, and nothing was closed."""
        if self._with_gaps:
            self.window()  # so that no start lies in the window that is too long
            self.wait(self.rng.randrange(3 * HOUR_MS, 3 * DAY_MS))
            self.window()
            self._gaps.append((self.size - 1, "long_window"))

    def _gap(self) -> None:
        """The meter itself tells of a gap."""
        if self._with_gaps:
            self._gaps.append((self.size, "gap_entry"))
            self.entry("gap", reason="restored")

    def _damage(self) -> None:
        """A damaged piece of the state was moved aside at a start."""
        self._crash()
        self.entry("quarantine", piece="results", moved_to="quarantine/results-1")

    # ---- what is done to the records, honestly ----------------------------------------------------------------------

    def leave_unsealed(self) -> None:
        """Copied between the record file and its checkpoint."""
        self.wait(12 * MINUTE_MS)
        self.window(seal=False)

    def prune(self, files: int, *, checkpoints: bool = True) -> None:
        """Take away the oldest files, and perhaps their checkpoints, as an operator may in time; one sealed stays."""
        files = max(0, min(files, len(self.files) - (2 if self.unsealed else 1)))
        for path in self.files[:files]:
            path.unlink()
            if checkpoints:
                (self.folder / "checkpoints" / path.stem.partition("-")[2]).unlink()
        for kept in (self.files, self._first_seqs, self._provable):
            del kept[:files]
        self.pruned_to = self._first_seqs[0]

    def kept_checkpoint(self, size: int) -> str:
        """The checkpoint of a window as an auditor kept it."""
        return sign_checkpoint(self.origin, size, self.roots[size], self.device)

    def acknowledgement(self, size: int, vendor: FakeVendor) -> bytes:
        """The vendor's acknowledgement of everything up to the end of a window."""
        ack_key = vendor.keys.ack_key
        ack = acknowledge(
            self.kept_checkpoint(size),
            device=self.device.verifying,
            key=ack_key,
            trust_root=vendor.trust_root,
            at=NOW,
            totals={name: quantity for name, quantity in self.book.sums(until=size).items() if quantity},
        )
        return ack.seal(ack_key)

    # ---- what an auditor must find ----------------------------------------------------------------------------------

    def expected(self, *, kept: int | None = None, acked: int | None = None) -> Expected:
        """What an auditor must find with the device key pinned.

        Args:
            kept: Size of a checkpoint that he kept; None for none.
            acked: Size of the newest acknowledgement that he has; None for none.
        """
        since = self.pruned_to
        codes = {code for seq, code in self._gaps if seq >= since}
        if not self._provable[0]:
            codes.add("pruned")
        footholds = [first for first, told in zip(self._first_seqs, self._provable, strict=True) if told]
        compared = [size for size in (kept, acked) if size is not None and footholds and size >= footholds[0]]
        is_anchored = bool(compared) if since else True
        if kept is not None and kept < since:
            is_anchored = False  # he kept something, and cannot compare it
        verdict = "gaps" if codes else "good" if is_anchored else "unanchored"
        is_sealed = not self.unsealed or self.frontier.size in compared
        return Expected(
            verdict=verdict if verdict != "good" or is_sealed else "unsealed",
            codes=frozenset(codes),
            resets=sum(seq >= since for seq in self._resets),
            size=self.frontier.size,
            acked=acked if acked is not None and acked in compared else 0,
            evaluation=any(evaluation for seq, _, evaluation in self._licenses if seq >= since),
            licenses=frozenset(identity for seq, identity, _ in self._licenses if seq >= since),
            meters=self.book.sums(since=since),
            months=self.book.sums_by("%Y-%m", since=since),
            days=self.book.sums_by("%Y-%m-%d", since=since),
        )


def grave_codes(findings: Sequence[object]) -> frozenset[str]:
    """Codes of the findings graver than a note."""
    return frozenset(one.code for one in findings if one.severity is not Severity.NOTE)  # type: ignore[attr-defined]


def differences(report: InstanceReport, expected: Expected, *, passing_over: Collection[str] = ()) -> list[str]:
    """Where an audit of honest records departs from what the history knows; empty when it does not.

    Args:
        report: What the audit found.
        expected: What the history knows.
        passing_over: Names of facts not to compare.
    """
    found: dict[str, tuple[object, object]] = {
        "verdict": (str(report.verdict), expected.verdict),
        "codes": (grave_codes(report.findings), expected.codes),
        "resets": (
            sum(one.code == "clock_reset" for one in report.findings),
            min(expected.resets, 10),
        ),
        "size": (report.size, expected.size),
        "acked": (report.acked, expected.acked),
        "evaluation": (report.evaluation, expected.evaluation),
        "licenses": (frozenset(report.licenses), expected.licenses),
        "meters": (_without_zero(report.meters), _without_zero(expected.meters)),
        "months": (_periods(report.months), _periods(expected.months)),
        "days": (_periods(report.days), _periods(expected.days)),
    }
    covered = [one.first for one in report.ranges], [one.end for one in report.ranges]
    wanted = [0, *covered[1][:-1]], [*covered[0][1:], expected.size]
    found["ranges"] = (covered, wanted)
    return [
        f"{name}: found {one!r}, expected {other!r}"
        for name, (one, other) in found.items()
        if one != other and name not in passing_over
    ]


def instance_of(report: Report, instance: str) -> InstanceReport:
    """One instance's report."""
    return next(one for one in report.instances if one.instance == instance)


def _without_zero(sums: object) -> dict[str, int]:
    return {name: quantity for name, quantity in dict(sums).items() if quantity}  # type: ignore[call-overload]


def _periods(sums: object) -> dict[str, dict[str, int]]:
    periods = {name: _without_zero(one) for name, one in dict(sums).items()}  # type: ignore[call-overload]
    return {name: one for name, one in periods.items() if one}


def _some_start(rng: Random) -> datetime:
    """Often minutes before a month, a year or a leap day ends."""
    if rng.random() < 0.5:
        at = datetime(*rng.choice(_MONTH_ENDS), hour=23, minute=15, tzinfo=UTC)
        return at + timedelta(minutes=rng.randrange(45))
    return datetime(2027, 1, 15, 12, tzinfo=UTC) + timedelta(seconds=rng.randrange(365 * 86400))


_WEIGHTED: tuple[tuple[Callable[[History], None], int], ...] = (
    (History._some_pages, 60),
    (History._retry, 3),
    (History._restart, 4),
    (History._crash, 4),
    (History._damage, 1),
    (History._upgrade, 2),
    (History._step, 4),
    (History._quarantine, 3),
    (History._vouch, 3),
    (History._reset, 2),
    (History._exchange_license, 4),
    (History._acknowledged, 3),
    (History._suspended, 2),
    (History._gap, 1),
)
_HAPPENINGS = tuple(one for one, _ in _WEIGHTED)
_WEIGHTS = tuple(weight for _, weight in _WEIGHTED)
