"""The records of an unpacked bundle: verified, then read entry by entry.

Invariants:

* `audited` comes first: what it lets through is borne out, entry by entry, by what the pinned device key signed.
* The records are read as a stream, so that a bundle of a million entries takes no more memory than one of ten.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from licenses.ack import Ack, open_ack, read_ack_file
from licenses.errors import ExchangeError, LicensesError, RecordError, UntrustedKeyError
from licenses.keyring import TrustRoot
from licenses.keys import VerifyingKey, read_small_file
from licenses.usage_log.bundle import Span
from licenses.usage_log.entry import leaf_hash, parse_entry, read_use, use_from
from licenses.usage_log.files import CHECKPOINT_NAME, CHECKPOINTS_FOLDER, RecordReader, sequence_range
from licenses.usage_log.merkle import Frontier, consistency_proof_from
from licenses.usage_log.note import MAX_NOTE_BYTES, Checkpoint, open_checkpoint
from licenses.usage_log.report import Coverage, Finding, Severity
from licenses.usage_log.verify import verify_records

_BATCH = 4096
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def audited(folder: Path, span: Span, device: VerifyingKey, trust_root: TrustRoot) -> tuple[Finding, ...]:
    """Have the auditor's verifier look at the records; what it found that is no reason to refuse.

    Raises:
        RecordError: They do not bear out the checkpoint.
    """
    report = verify_records(folder, trust_root, device_keys=[device])
    findings = (*report.findings, *(finding for one in report.instances for finding in one.findings))
    grave = [one for one in findings if one.severity in (Severity.TAMPERED, Severity.UNREADABLE)]
    if grave:
        where = f"{grave[0].where}: " if grave[0].where else ""
        raise RecordError(f"the records do not hold: {where}{grave[0].message} ({len(grave)} such findings)")
    covered = {
        (part.first, part.end)
        for one in report.instances
        for part in one.ranges
        if part.coverage in (Coverage.ACKED, Coverage.SEALED)
    }
    at = span.since
    for first, end in sorted(covered):
        at = max(at, end) if first <= at else at
    if at != span.size:
        raise RecordError(f"the records do not bear out the entries [{at}, {span.size}) that the checkpoint tells of")
    return findings


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A stretch of a log whose entries were read.

    Attributes:
        since: Its first entry.
        size: The entry after its last.
        root: Merkle root over [0, size), 32 bytes.
        sums: Units per meter and month ("YYYY-MM" of the effective time, UTC), each from 1 on.
    """

    since: int
    size: int
    root: bytes
    sums: Mapping[tuple[str, str], int]


class BundleRecords:
    """The record files of an unpacked bundle, which the verifier has found good."""

    def __init__(self, folder: Path, span: Span) -> None:
        self._folder = folder
        self.span = span

    def note(self, device: VerifyingKey) -> str:
        """The device's checkpoint of all that the bundle tells of.

        Raises:
            LicensesError: It is not there, not signed by the device, or of something else.
        """
        path = self._folder / CHECKPOINT_NAME
        blob = read_small_file(path, doing="read the checkpoint", mode="0444", max_bytes=MAX_NOTE_BYTES)
        try:
            note = blob.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise RecordError("the bundle's checkpoint is not UTF-8") from exc
        checkpoint = open_checkpoint(note, {self.span.origin: device})
        if checkpoint != Checkpoint(self.span.origin, self.span.size, self.span.root):
            raise RecordError("the bundle's checkpoint is not that of its manifest")
        return note

    def carried_ack(self, device: VerifyingKey, trust_root: TrustRoot, *, known: bool) -> Ack | None:
        """The vendor's own acknowledgement that the records follow, if the bundle carries it and it is good.

        Args:
            device: The pinned key.
            trust_root: Whose ack keys to believe.
            known: Whether the vendor's own memory tells of the log at that size. Then nothing hangs on the file: one
                whose key was revoked or dropped since, which the appliance cannot help, is as good as none.

        Raises:
            LicensesError: It is not good.
        """
        path = self._folder / "acks" / f"{self.span.since}.dsse.json"
        if not path.exists():
            return None
        try:
            ack = open_ack(read_ack_file(path), trust_root, device=device)
        except UntrustedKeyError:
            if not known:
                raise
            return None
        return ack if (ack.origin, ack.size) == (self.span.origin, self.span.since) else None

    def roots_and_sums(self, sizes: set[int], billed_from: int) -> tuple[dict[int, bytes], dict[str, int]]:
        """The roots at those sizes that lie within the bundle, and the units of all entries from one on."""
        frontier, lines, sums = self._foothold(), self._lines(), Counter[str]()
        roots: dict[int, bytes] = {}
        for stop in sorted({size for size in (*sizes, self.span.size) if frontier.size <= size <= self.span.size}):
            while frontier.size < stop:
                batch = list(islice(lines, min(_BATCH, stop - frontier.size)))
                if not batch:
                    raise RecordError("the bundle's records end too early")
                _add_up(batch[max(0, billed_from - frontier.size) :], sums)
                frontier.extend(map(leaf_hash, batch))
            roots[stop] = frontier.root()
        return roots, dict(sums)

    @property
    def since_root(self) -> bytes | None:
        """The root that the log has where the bundle begins; None at entry 0.

        Raises:
            ExchangeError: The records do not tell, as those of early versions.
        """
        return self._foothold().root() if self.span.since else None

    def since_note(self, device: VerifyingKey) -> str | None:
        """The device's checkpoint of where the bundle begins, if it carries one and it is of that root."""
        path = self._folder / CHECKPOINTS_FOLDER / str(self.span.since)
        if not self.span.since or not path.exists():
            return None
        blob = read_small_file(path, doing="read the checkpoint", mode="0444", max_bytes=MAX_NOTE_BYTES)
        try:
            note = blob.decode("utf-8")
            checkpoint = open_checkpoint(note, {self.span.origin: device})
        except (UnicodeDecodeError, LicensesError):
            return None
        told = Checkpoint(self.span.origin, self.span.since, self.since_root or b"")
        return note if checkpoint == told else None

    def licence_at_end(self) -> tuple[str, int]:
        """The licence in force when the last window closed: its id and sequence; ("", 0) for none."""
        with RecordReader(self._paths()[-1]) as reader:
            return reader.header.license_id, reader.header.license_sequence

    def cells(self, cuts: Collection[int]) -> Iterator[Cell]:
        """All entries, summed up window by window.

        Args:
            cuts: Further sizes at which a cell ends; those outside of the bundle do not count.

        Raises:
            LicensesError: The records cannot be read.
        """
        frontier, lines = self._foothold(), self._lines()
        ends = (found[1] for path in self._paths() if (found := sequence_range(path.name)) is not None)
        since = frontier.size
        months = _Months()
        for stop in sorted({cut for cut in (*cuts, *ends, self.span.size) if since < cut <= self.span.size}):
            sums: Counter[tuple[str, str]] = Counter()
            while frontier.size < stop:
                batch = list(islice(lines, min(_BATCH, stop - frontier.size)))
                if not batch:
                    raise RecordError("the bundle's records end too early")
                months.add_up(batch, sums)
                frontier.extend(map(leaf_hash, batch))
            yield Cell(since=since, size=stop, root=frontier.root(), sums={key: sums[key] for key in sums if sums[key]})
            since = stop

    def consistency(self, size: int) -> tuple[bytes, list[bytes]]:
        """The root that this log has at `size`, and the proof that ties it to the bundle's checkpoint."""
        frontier, leaves = self._foothold(), map(leaf_hash, self._lines())
        frontier.extend(islice(leaves, size - frontier.size))
        return frontier.root(), consistency_proof_from(frontier, leaves, self.span.size)

    def _paths(self) -> list[Path]:
        found = [(sequence_range(path.name), path) for path in (self._folder / "usage").rglob("*.jsonl")]
        return [path for _, path in sorted((span, path) for span, path in found if span is not None)]

    def _foothold(self) -> Frontier:
        if self.span.since == 0:
            return Frontier()
        with RecordReader(self._paths()[0]) as reader:
            if reader.header.frontier is None:
                raise ExchangeError("the records do not begin at entry 0, and do not tell what they continue")
            return Frontier(reader.header.first_seq, reader.header.frontier)

    def _lines(self) -> Iterator[bytes]:
        for path in self._paths():
            with RecordReader(path) as reader:
                yield from reader


class _Months:
    """Adds up uses by the month of their effective time, which changes rarely from one to the next."""

    __slots__ = ("_begins_ms", "_ends_ms", "_name")

    def __init__(self) -> None:
        self._begins_ms, self._ends_ms, self._name = 0, 0, ""

    def add_up(self, lines: Sequence[bytes], sums: Counter[tuple[str, str]]) -> None:
        """Add the uses among these lines to the sums per meter and month."""
        of_month: Counter[bytes] = Counter()
        for line in lines:
            use = read_use(line)
            if use is None:
                entry = parse_entry(line)
                if entry["kind"] != "use":
                    continue
                use = use_from(entry)
            if not self._begins_ms <= use.effective_ms < self._ends_ms:
                self._flush(of_month, sums)
                self._turn_to(use.effective_ms)
            of_month[use.meter] += use.quantity
        self._flush(of_month, sums)

    def _flush(self, of_month: Counter[bytes], sums: Counter[tuple[str, str]]) -> None:
        for meter, quantity in of_month.items():
            sums[meter.decode("utf-8"), self._name] += quantity
        of_month.clear()

    def _turn_to(self, effective_ms: int) -> None:
        try:
            at = _EPOCH + timedelta(milliseconds=effective_ms)
            begins = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            ends = begins.replace(year=begins.year + begins.month // 12, month=begins.month % 12 + 1)
        except (OverflowError, ValueError) as exc:
            raise RecordError(
                f"an entry's effective time of {effective_ms} ms after 1970 is beyond all months"
            ) from exc
        self._name = f"{begins.year:04}-{begins.month:02}"
        self._begins_ms, self._ends_ms = ((one - _EPOCH) // timedelta(milliseconds=1) for one in (begins, ends))


def _add_up(lines: Sequence[bytes], sums: Counter[str]) -> None:
    for line in lines:
        use = read_use(line)
        if use is not None:
            sums[use.meter.decode("ascii")] += use.quantity
            continue
        entry = parse_entry(line)
        meter = entry.get("meter")
        if entry["kind"] == "use" and isinstance(meter, dict):
            sums[str(meter["name"])] += int(str(meter["quantity"]))
