"""One pass over the usage records of one instance.

Invariants:

* Nothing is slurped: records are read line by line, once, in memory that does not grow with them (but for eight bytes
  per use, to find one that was counted twice).
* What header and trailer say is compared with the entries, the entries with the sealed roots, the sealed roots with
  the checkpoints, and those with the pinned key; the first link that breaks is named.

The steps, in the order of the code:

1. find the record files, the checkpoints, the acknowledgements and proofs of a fork, and whose they claim to be;
2. file by file: name, header, chain of file hashes, numbering without holes or overlaps, window after window;
3. line by line: spelling, numbering, effective time never backwards, totals;
4. meanwhile, at each size that a file, a checkpoint or an acknowledgement names: the Merkle root (`proof`);
5. at the end: seals beyond the records, uses counted twice, licences;
6. what is covered, and what is not.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from licenses.ack import Ack
from licenses.device_key import instance_id_of
from licenses.errors import FormatError, RecordError
from licenses.keys import VerifyingKey
from licenses.strict_json import Fields, JsonValue
from licenses.usage_log.claims import Given, SignedFiles
from licenses.usage_log.coverage import Interval, merged, ranges_of
from licenses.usage_log.doubles import SeenUses, doubles_in
from licenses.usage_log.entry import integer_of, parse_entry, read_use, use_from
from licenses.usage_log.files import (
    FOLDER,
    Moment,
    RecordHeader,
    RecordReader,
    RecordTrailer,
    meters_from,
    sequence_range,
)
from licenses.usage_log.grants import Terms, compare, listed
from licenses.usage_log.incidents import Incidents
from licenses.usage_log.note import Checkpoint
from licenses.usage_log.periods import BEYOND, DAY_MS, Periods, day_name
from licenses.usage_log.proof import Claim, Outcome, Source, TreeProof
from licenses.usage_log.report import (
    Finding,
    FindingList,
    InstanceReport,
    Severity,
    moment_text,
)
from licenses.usage_log.timeline import Timeline

Progress = Callable[[int], None]

_TICK = 8191


class InstanceAudit:
    """Audits the records of one instance.

    Args:
        folder: The instance's folder.
        given: What the auditor brings.
        progress: Called now and then with the number of entries read.
    """

    def __init__(self, folder: Path, given: Given, progress: Progress | None = None) -> None:
        self._folder = folder
        self._prefix = os.path.join(folder, "")
        self._given = given
        self._progress = progress or (lambda _entries: None)
        self._report = InstanceReport(instance=folder.resolve().name, evaluation=given.trust_root.evaluation)
        self._findings = FindingList()
        self._find = self._findings.find
        self._signed = SignedFiles(folder, self._find)
        self._proof = TreeProof(self._find)
        self._timeline = Timeline(self._find)
        self._terms = Terms()
        self._uses = SeenUses()
        self._remember = self._uses.add
        self._claims: list[Claim] = []
        self._acks: list[tuple[str, Ack]] = []
        self._first_seq = 0
        self._next_seq = 0
        self._end = 0
        self._unsealed = 0
        self._holes: list[Interval] = []
        self._previous_sha256: str | None = ""
        self._effective_ms = 0
        self._last_use_ms = -1
        self._day_ms = range(0)
        self._sums: defaultdict[bytes, int] = defaultdict(int)
        self._sums_at: dict[int, dict[str, int]] = {}
        self._stops: list[int] = []
        self._stop_at = -1
        self._periods = Periods(self._sums)
        self._others: Counter[str] = Counter()
        self._incidents = Incidents()
        self._licenses: dict[str, None] = {}
        self._outcomes: Mapping[Claim, Outcome] = {}

    @property
    def checkpoint_roots(self) -> Mapping[int, bytes]:
        """What the checkpoints say, by size; to compare with another copy of the same log."""
        return {one.size: one.root for one in self._claims if one.source is Source.CHECKPOINT}

    def outcome_of(self, told: Checkpoint) -> Outcome | None:
        """How the claim ended that a checkpoint here, or the kept one, makes; None where none makes it."""
        found = {one for claim, one in self._outcomes.items() if (claim.size, claim.root) == (told.size, told.root)}
        return next((one for one in Outcome if one in found), None)

    def proves(self, size: int) -> bool:
        """Whether the entries before `size`, as they are here, are those that were sealed."""
        return any(first <= size <= end for first, end in merged(self._proof.proven))

    def run(self) -> InstanceReport:
        """Audit, and report."""
        files = self._record_files()
        self._identify(files)
        key = self._pinned_key()
        self._collect_claims(key)
        for first, following, path in files:
            self._audit_file(path, first, following)
        if self._next_seq == self._stop_at:
            self._stop()
        self._outcomes = outcomes = self._proof.close(self._end, self._given.proofs)
        self._audit_acks(outcomes)
        self._note_not_compared(outcomes)
        self._find_doubles([path for _, _, path in files])
        self._close_terms(key)
        self._cover(key, outcomes)
        self._incidents.tell(self._find)
        self._sum_up(key)
        return self._report

    # ---- 1. what is there -------------------------------------------------------------------------------------------

    def _record_files(self) -> list[tuple[int, int, Path]]:
        files: list[tuple[int, int, Path]] = []

        def refused(exc: OSError) -> None:
            self._findings.add(unreadable(str(exc.filename), exc))

        for folder, subfolders, names in os.walk(self._folder / FOLDER, onerror=refused):
            subfolders.sort()
            for name in sorted(names):
                path = Path(folder) / name
                found = sequence_range(name)
                if found is not None:
                    files.append((*found, path))
                elif not name.startswith("."):
                    message = "This is not a record file; it was passed over."
                    self._find(Severity.NOTE, "foreign_file", self._where(path), message)
        if not files:
            message = "There are no record files."
            self._find(Severity.UNREADABLE, "no_records", self._where(self._folder / FOLDER), message)
        return sorted(files)

    def _identify(self, files: list[tuple[int, int, Path]]) -> None:
        """Whose records these claim to be; which the pinned key then proves, or does not."""
        for _, _, path in files:
            with suppress(RecordError, OSError), RecordReader(path) as reader:
                self._report.instance, self._report.origin = reader.header.instance, reader.header.origin
                return
        self._report.origin = self._signed.origin()

    def _pinned_key(self) -> VerifyingKey | None:
        vendor = self._report.origin.rpartition("/")[0]
        if self._report.origin and vendor != self._given.trust_root.vendor:
            message = f"The records name the vendor {vendor!r}, the trust root {self._given.trust_root.vendor!r}."
            self._find(Severity.NOTE, "other_vendor", "", message)
        key = self._given.key_of(self._report.origin)
        if key is not None and self._report.instance != instance_id_of(key.raw):
            message = f"The instance is not named after the pinned device ({instance_id_of(key.raw)})."
            self._find(Severity.TAMPERED, "other_instance_name", "", message)
        return key

    def _collect_claims(self, key: VerifyingKey | None) -> None:
        origin = self._report.origin
        self._claims.extend(self._signed.claims(origin, key))
        for told, where, source in (
            (self._given.manifest, "the bundle's manifest", Source.CHECKPOINT),
            (self._given.kept, "the kept checkpoint", Source.KEPT),
        ):
            if told is not None and told.origin == origin:
                self._claims.append(Claim(told.size, told.root, where, source))
        self._signed.find_forks(origin, key)
        self._acks.extend(self._signed.acks(origin, self._given, key))
        for where, ack in self._acks:
            self._claims.append(Claim(ack.size, ack.root, where, Source.ACK))
            self._report.evaluation |= ack.evaluation
        self._proof.claim(self._claims)
        self._stops = sorted(ack.size for _, ack in self._acks)
        self._stop_at = self._stops[0] if self._stops else -1

    # ---- 2. file by file --------------------------------------------------------------------------------------------

    def _audit_file(self, path: Path, first: int, following: int) -> None:
        where = self._where(path)
        self._place(first, where)
        self._report.files += 1
        self._timeline.begin_file()
        totals = _FileTotals(self._sums, self._others)
        try:
            with RecordReader(path) as reader:
                self._audit_header(reader.header, where, first)
                self._require_folder(reader.header, where)
                told = reader.header.frontier if reader.header.first_seq == first else None
                self._proof.begin(first, told, where)
                self._audit_lines(self._proof.through(reader), where, totals)
            if reader.trailer is None:
                raise RecordError(f"{path.name} has no trailer")
            self._audit_end(reader.header, reader.trailer, where, following, totals)
            self._previous_sha256 = reader.sha256
        except RecordError as exc:
            self._lose(first, following)
            self._find(Severity.TAMPERED, "malformed", f"{where}, near entry {self._next_seq}", f"{exc}.")
        except OSError as exc:
            self._lose(first, following)
            self._findings.add(unreadable(where, exc))
        self._next_seq = following
        self._end = max(self._end, following)
        self._unsealed += following > self._proof.sealed_size
        if any(ack.size == following for _, ack in self._acks):
            self._sums_at[following] = self._named_sums()

    def _place(self, first: int, where: str) -> None:
        """See whether a file follows the one before."""
        if self._report.files == 0:
            self._first_seq = self._next_seq = self._end = first
            self._previous_sha256 = None if first else ""
        elif first != self._next_seq:
            self._previous_sha256 = None
            if first > self._next_seq:
                self._holes.append((self._next_seq, first))
                message = f"The entries [{self._next_seq}, {first}) are missing."
            else:
                message = f"The entries [{first}, {self._next_seq}) are there twice, or the chain begins anew."
            self._find(Severity.TAMPERED, "numbering", where, message)
            self._proof.leave_out()
            self._terms.leave_out(self._named_sums(), self._effective_ms, self._last_use_ms)
            self._next_seq = first

    def _lose(self, first: int, following: int) -> None:
        self._proof.lose(first, following)
        self._terms.leave_out(self._named_sums(), self._effective_ms, self._last_use_ms)
        self._previous_sha256 = None

    def _audit_header(self, header: RecordHeader, where: str, first: int) -> None:
        for holds, code, message in (
            (
                header.instance == self._report.instance,
                "other_instance",
                f"The file is of the instance {header.instance}.",
            ),
            (header.origin == self._report.origin, "other_origin", f"The file is of {header.origin}."),
            (
                header.first_seq == first,
                "numbering",
                f"The header begins at entry {header.first_seq}, the name at {first}.",
            ),
            (
                self._previous_sha256 in (None, header.previous_file_sha256),
                "file_chain",
                "The file does not follow the one before it: that was changed, or this one was.",
            ),
        ):
            if not holds:
                self._find(Severity.TAMPERED, code, where, message)
        if header.license_id:
            self._licenses[header.license_id] = None
        self._report.evaluation |= header.evaluation
        self._terms.begin_file(header, header.opened.effective_ms)

    def _require_folder(self, header: RecordHeader, where: str) -> None:
        """A file lies in the folder of the month in which its window closed; whoever looks there must find it."""
        month = day_name(header.closed.effective_ms // DAY_MS)[:7].replace("-", "/")
        if month != BEYOND and where.rpartition("/")[0] != f"{FOLDER}/{month}":
            message = f"The file belongs into {FOLDER}/{month}."
            self._find(Severity.TAMPERED, "other_folder", where, message)

    def _audit_end(
        self, header: RecordHeader, trailer: RecordTrailer, where: str, following: int, totals: "_FileTotals"
    ) -> None:
        counts, meters = totals.since(self._sums, self._others, entries=self._next_seq - header.first_seq)
        for holds, code, message in (
            (
                self._next_seq == following,
                "numbering",
                f"The file ends at entry {self._next_seq}, its name at {following}.",
            ),
            (
                trailer.size == following,
                "numbering",
                f"The trailer tells of {trailer.size} entries, the name of {following}.",
            ),
            (trailer.counts == counts, "totals", "The trailer's counts are not those of the entries."),
            (trailer.meters == meters, "totals", "The trailer's sums are not those of the entries."),
            (
                self._proof.has_root(trailer.root),
                "root",
                "The entries do not give the root that the trailer tells.",
            ),
        ):
            if not holds:
                self._find(Severity.TAMPERED, code, where, message)
        self._audit_window(header, meters, where, totals)

    def _audit_window(self, header: RecordHeader, meters: Mapping[str, int], where: str, totals: "_FileTotals") -> None:
        window = totals.window
        if window is None or window.get("seq") != self._next_seq - 1:
            self._find(Severity.TAMPERED, "no_window", where, "The last entry does not close a window.")
            return
        fields = Fields(window, "window")
        try:
            opened, closed = (Moment.from_value(window.get(name), name) for name in ("opened", "closed"))
            told = meters_from(fields.nested_list("meters"))
            reason, first_seq = fields.text("reason"), fields.integer("first_seq")
        except FormatError as exc:
            self._find(Severity.TAMPERED, "malformed", where, f"The entry that closes the window is malformed: {exc}.")
            return
        bounds = (header.opened, header.closed, header.reason, header.first_seq)
        context_differs = any(window.get(name, one) != one for name, one in _context_of(header).items())
        # A version whose window entries tell the context writes the frontier into every header.
        lacks_frontier = header.frontier is None and "product_version" in window
        if bounds != (opened, closed, reason, first_seq) or context_differs or lacks_frontier:
            message = "The header does not tell the window that the sealed entries tell."
            self._find(Severity.TAMPERED, "header", where, message)
        if told != meters:
            self._find(Severity.TAMPERED, "totals", where, "The window's sums are not those of its entries.")
        in_force = self._terms.told
        if header.license_id and in_force is not None and not _is_licence_of(header, in_force):
            message = "The header does not tell the licence that the sealed entries tell."
            self._find(Severity.TAMPERED, "header", where, message)
        self._timeline.window(opened, closed, reason, before_ms=totals.before_window_ms, where=where)

    # ---- 3. line by line --------------------------------------------------------------------------------------------

    def _audit_lines(self, lines: Iterable[bytes], where: str, totals: "_FileTotals") -> None:
        sums, remember, report = self._sums, self._remember, self._report
        for line in lines:
            if self._next_seq == self._stop_at:
                self._stop()
            use = read_use(line)
            entry: Mapping[str, JsonValue] = {}
            if use is None:
                entry = parse_entry(line)
                if entry["kind"] == "use":
                    use = use_from(entry)
            if use is not None:
                seq, effective_ms, identity, page, meter, quantity = use
            else:
                seq, effective_ms = integer_of(entry, "seq"), integer_of(entry, "effective_ms")
            if seq != self._next_seq:
                message = f"An entry is numbered {seq} where {self._next_seq} is due."
                self._find(Severity.TAMPERED, "numbering", where, message)
            if effective_ms < self._effective_ms:
                self._find(Severity.TAMPERED, "time", where, f"The effective time runs backwards at entry {seq}.")
            if effective_ms not in self._day_ms:
                self._day_ms = self._periods.turn(effective_ms, self._next_seq)
            if use is not None:
                sums[meter] += quantity
                remember(identity, page, meter)
                self._last_use_ms = effective_ms
            else:
                self._audit_other(entry, where, totals)
            if report.first_ms is None:
                report.first_ms = effective_ms
            self._effective_ms = effective_ms
            self._next_seq += 1
            report.entries += 1
            if entry.get("kind") == "clock":
                self._follow_reset(entry, where)
            if report.entries & _TICK == 0:
                self._progress(report.entries)

    def _stop(self) -> None:
        """All entries before an acknowledged size are read: keep their sums."""
        self._sums_at[self._next_seq] = self._named_sums()
        self._stop_at = next((size for size in self._stops if size > self._next_seq), -1)

    def _audit_other(self, entry: Mapping[str, JsonValue], where: str, totals: "_FileTotals") -> None:
        before_ms = None if self._report.first_ms is None else self._effective_ms
        kind = str(entry["kind"])
        self._others[kind] += 1
        match kind:
            case "window":
                if totals.window is not None:
                    message = f"Entry {self._next_seq} closes the window of this file again."
                    self._find(Severity.TAMPERED, "second_window", where, message)
                totals.window, totals.before_window_ms = entry, before_ms
            case "boot":
                self._timeline.start(entry, before_ms)
            case "license":
                last_ms = integer_of(entry, "effective_ms") if before_ms is None else before_ms
                self._terms.entry(entry, self._named_sums(), last_ms, self._last_use_ms)
                self._report.evaluation |= entry.get("evaluation") is True
                if isinstance(identity := entry.get("license_id"), str):
                    self._licenses[identity] = None
            case "gap":
                self._find(Severity.GAP, "gap_entry", where, f"Entry {entry['seq']} tells of a gap.")
            case "clock" | "quarantine" | "fault":
                self._incidents.add(entry)
            case _:
                pass

    def _follow_reset(self, entry: Mapping[str, JsonValue], where: str) -> None:
        """With the vendor's token time may go down, once; from there on it counts again."""
        to_ms = entry.get("to_effective_ms")
        if entry.get("action") == "reset" and type(to_ms) is int and to_ms < self._effective_ms:
            message = (
                f"Time was set back from {moment_text(self._effective_ms)} to {moment_text(to_ms)} "
                f"with the vendor's token {entry.get('token_id')!r:.80}; ask the vendor whether that is one of theirs."
            )
            self._find(Severity.NOTE, "clock_reset", where, message)
            self._effective_ms = to_ms

    # ---- 5. at the end ----------------------------------------------------------------------------------------------

    def _audit_acks(self, outcomes: Mapping[Claim, Outcome]) -> None:
        """What the vendor acknowledged, and whether the totals accepted are those of the entries."""
        met = {(claim.where, claim.size) for claim, outcome in outcomes.items() if outcome is Outcome.MET}
        whole = self._first_seq == 0 and not self._holes and not self._proof.damaged
        for where, ack in self._acks:
            if (where, ack.size) not in met:
                continue
            self._report.acked = max(self._report.acked, ack.size)
            sums = self._sums_at.get(ack.size)
            if sums is None or not whole:
                continue
            accepted = {name: quantity for name, quantity in ack.totals.items() if quantity}
            if accepted != sums:
                message = (
                    f"The vendor accepted {_sums_text(accepted)} for the entries [0, {ack.size}); they sum up to "
                    f"{_sums_text(sums)}."
                )
                self._find(Severity.TAMPERED, "ack_totals", where, message)

    def _note_not_compared(self, outcomes: Mapping[Claim, Outcome]) -> None:
        left = [claim for claim, outcome in outcomes.items() if outcome is Outcome.NOT_COMPARED]
        sizes = sorted({claim.size for claim in left if claim.source is Source.CHECKPOINT})
        if sizes:
            which = f"at {sizes[0]} entries" if len(sizes) == 1 else f"at {len(sizes)} sizes up to {sizes[-1]} entries"
            message = f"The seals {which} could not be compared: not all of what they seal is here."
            self._find(Severity.NOTE, "not_compared", "", message)
        for claim in left:
            if claim.source is Source.KEPT:
                self._report.unanchored = (
                    f"The kept checkpoint is of {claim.size} entries; the records here begin later, and nothing was "
                    "compared with it."
                )
                self._find(Severity.NOTE, "kept_not_compared", claim.where, self._report.unanchored)
            elif claim.source is Source.ACK and claim.size > self._report.acked:
                message = (
                    f"The acknowledgement of {claim.size} entries could not be compared: not all of them are here."
                )
                self._find(Severity.NOTE, "ack_not_compared", claim.where, message)

    def _find_doubles(self, paths: list[Path]) -> None:
        for path, use, earlier in doubles_in(paths, self._uses.suspects()):
            identity = use.identity.decode("ascii")
            message = f"Entry {use.seq} counts page {use.page} of {identity} again, as entry {earlier} did."
            self._find(Severity.TAMPERED, "double", self._where(path), message)

    def _close_terms(self, key: VerifyingKey | None) -> None:
        self._terms.close(self._named_sums(), self._effective_ms, self._last_use_ms)
        if self._given.licenses is not None:
            device_raw = None if key is None else key.raw
            compare(self._terms.terms, self._given.licenses, device_raw, self._find)

    # ---- 6. what is covered -----------------------------------------------------------------------------------------

    def _cover(self, key: VerifyingKey | None, outcomes: Mapping[Claim, Outcome]) -> None:
        self._report.size = max(self._end, self._proof.sealed_size)
        self._report.ranges = ranges_of(
            first=self._first_seq,
            end=self._end,
            size=self._report.size,
            proven=self._proof.proven,
            damaged=self._proof.damaged,
            missing=self._holes,
            acked=self._report.acked,
            anchored=key is not None,
        )
        self._periods.close(self._next_seq)
        if self._unsealed > 1 and self._proof.sealed_size:
            message = (
                f"{self._unsealed} files follow the newest seal; the meter writes no file before the seal of the one "
                "before it: seals were taken away, or this was copied while the meter wrote."
            )
            self._find(Severity.GAP, "seals_missing", "", message)
        if self._first_seq == 0:
            return
        proven = merged(self._proof.proven)
        missing = f"The entries [0, {self._first_seq}) are not here: pruned or taken away."
        if not any(first <= self._first_seq < end for first, end in proven):
            message = f"{missing} Without them nothing that follows is proven."
            self._find(Severity.GAP, "pruned", "", message)
            return
        met = [claim for claim, outcome in outcomes.items() if outcome is Outcome.MET and claim.size >= self._first_seq]
        vouchers = [
            words
            for source, words in (
                (Source.KEPT, "the kept checkpoint covers them"),
                (Source.ACK, "the vendor acknowledged them"),
            )
            if any(claim.source is source for claim in met)
        ]
        if not vouchers:
            self._report.unanchored = (
                self._report.unanchored or f"{missing} No kept checkpoint and no acknowledgement covers them."
            )
        told = (
            f"; {' and '.join(vouchers)}." if vouchers else "; no kept checkpoint and no acknowledgement covers them."
        )
        self._find(Severity.NOTE, "pruned", "", f"{missing} What follows is proven without them{told}")

    def _sum_up(self, key: VerifyingKey | None) -> None:
        report, timeline = self._report, self._timeline
        report.pinned_key = "" if key is None else key.key_id
        report.last_ms = None if report.first_ms is None else self._effective_ms
        uses = report.entries - self._others.total()
        report.counts = {**({"use": uses} if uses else {}), **self._others}
        report.meters, report.licenses = self._named_sums(), tuple(self._licenses)
        report.months, report.days = self._periods.months(), self._periods.days()
        report.coverage = self._periods.coverage(report.ranges)
        report.terms = listed(self._terms.terms)
        report.windows, report.covered = timeline.windows, tuple(timeline.covered)
        report.starts = tuple(timeline.starts)
        report.starts_in_all, report.stopped_ms = timeline.starts_in_all, timeline.stopped_ms
        report.findings, report.suppressed = tuple(self._findings.kept), self._findings.suppressed

    def _named_sums(self) -> dict[str, int]:
        return {meter.decode("utf-8"): quantity for meter, quantity in self._sums.items() if quantity}

    def _where(self, path: Path) -> str:
        return os.fspath(path).removeprefix(self._prefix)


class _FileTotals:
    """What the sums were before a file, and the entry that closes its window."""

    __slots__ = ("_others", "_sums", "before_window_ms", "window")

    def __init__(self, sums: Mapping[bytes, int], others: Counter[str]) -> None:
        self._sums = dict(sums)
        self._others = Counter(others)
        self.window: Mapping[str, JsonValue] | None = None
        self.before_window_ms: int | None = None

    def since(
        self, sums: Mapping[bytes, int], others: Counter[str], *, entries: int
    ) -> tuple[dict[str, int], dict[str, int]]:
        """Counts per kind and sums per meter of this file, without those that are zero."""
        counts = others - self._others
        uses = entries - counts.total()
        grown = {meter: quantity - self._sums.get(meter, 0) for meter, quantity in sums.items()}
        meters = {meter.decode("utf-8"): quantity for meter, quantity in grown.items() if quantity}
        return {**({"use": uses} if uses else {}), **counts}, meters


def unreadable(where: str, exc: OSError) -> Finding:
    """The finding that the operating system refused something."""
    return Finding(Severity.UNREADABLE, "unreadable", where, f"It cannot be read: {exc.strerror or exc}.")


def _context_of(header: RecordHeader) -> Mapping[str, JsonValue]:
    """What a window entry of newer versions tells as the header does."""
    return {
        "product_version": header.product_version,
        "license_id": header.license_id,
        "license_sequence": header.license_sequence,
        "evaluation": header.evaluation,
    }


def _is_licence_of(header: RecordHeader, entry: Mapping[str, JsonValue]) -> bool:
    told = (entry.get("license_id"), entry.get("sequence"), entry.get("evaluation") is True)
    return told == (header.license_id, header.license_sequence, header.evaluation)


def _sums_text(sums: Mapping[str, int]) -> str:
    return ", ".join(f"{quantity:,} of {name}" for name, quantity in sorted(sums.items())) or "nothing"
