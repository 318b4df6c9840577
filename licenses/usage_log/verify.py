"""The auditor's check of usage records, and the command `usage-verify`.

Invariants:

* No key found in the folder is ever believed: without a pinned device key the best verdict is UNPINNED.
* Nothing is slurped: records are read line by line, once, in memory that does not grow with them (but for eight bytes
  per use, to find one that was counted twice).
* What header and trailer say is compared with the entries, the entries with the sealed roots, the sealed roots with
  the checkpoints, and those with the pinned key; the first link that breaks is named.

The steps, in the order of the code:

1. find the instances, their record files and checkpoints;
2. file by file: name, header, chain of file hashes, numbering without holes or overlaps, window after window;
3. line by line: spelling, numbering, effective time never backwards, totals;
4. at each size that a file or a checkpoint names: the Merkle root;
5. checkpoints: signature with the pinned key, and no more entries sealed than there are;
6. uses counted twice; what is covered, and what is not.
"""

import argparse
import json
import os
import re
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import licenses
from licenses.device_key import ROLE, device_id_of, instance_id_of
from licenses.errors import FormatError, LicensesError, RecordError
from licenses.keyring import TrustRoot, load_trust_root
from licenses.keys import VerifyingKey, load_public_key, read_small_file
from licenses.strict_json import Fields, JsonValue
from licenses.usage_log.entry import Use, leaf_hash, parse_entry, read_use
from licenses.usage_log.files import (
    CHECKPOINT_NAME,
    CHECKPOINTS_FOLDER,
    FOLDER,
    Moment,
    RecordHeader,
    RecordReader,
    RecordTrailer,
    meters_from,
    sequence_range,
)
from licenses.usage_log.merkle import Frontier
from licenses.usage_log.note import MAX_NOTE_BYTES, Checkpoint, open_checkpoint, unverified_checkpoint
from licenses.usage_log.report import (
    Coverage,
    EntryRange,
    ExitCode,
    Finding,
    InstanceReport,
    Report,
    Severity,
    moment_text,
)

MAX_WINDOW_MS = (10 * 15 + 1) * 60 * 1000
MAX_FINDINGS_PER_CODE = 10
RECOVERY = "recovery"

_BATCH = 4096
_SIZE_NAME = re.compile(r"0|[1-9][0-9]{0,15}")


def verify_records(
    directory: Path,
    trust_root: TrustRoot,
    *,
    device_keys: Sequence[VerifyingKey] = (),
    previous: str | None = None,
) -> Report:
    """Verify all usage records below a folder.

    Args:
        directory: The output mount, a service's folder in it, or one instance's folder.
        trust_root: The vendor whose records these should be.
        device_keys: Public keys of the devices, pinned: obtained otherwise than from this folder.
        previous: A signed checkpoint that the auditor kept from an earlier audit; the records must extend it.

    Returns:
        What was found. Nothing that is wrong with the records is raised.

    Raises:
        RecordError: `previous` is not a checkpoint, or a pinned key's signature on it does not hold.
    """
    kept = None if previous is None else _open_kept(previous, device_keys)
    findings: list[Finding] = []
    try:
        folders = find_instances(directory)
    except OSError as exc:
        return Report(instances=(), findings=(_unreadable(str(directory), exc),))
    if not folders:
        message = "There are no usage records here: no folder 'usage' of an instance was found."
        findings.append(Finding(Severity.UNREADABLE, "no_records", str(directory), message))
    reports = [_InstanceAudit(folder, trust_root, device_keys, kept).run() for folder in folders]
    origins = {report.origin for report in reports}
    if kept is not None and kept.origin not in origins:
        message = f"The kept checkpoint is of {kept.origin}, of which there are no records."
        findings.append(Finding(Severity.TAMPERED, "kept_origin_missing", str(directory), message))
    for key in device_keys:
        if key.key_id not in {report.pinned_key for report in reports}:
            message = f"No records are of the pinned device {device_id_of(key.raw)}."
            findings.append(Finding(Severity.TAMPERED, "pinned_key_unused", str(directory), message))
    return Report(instances=tuple(reports), findings=tuple(findings))


def find_instances(directory: Path) -> list[Path]:
    """The instances' folders at, or up to two levels below, a folder; those have a folder `usage`.

    Raises:
        OSError: The folder cannot be listed.
    """
    if directory.name == FOLDER and not (directory / FOLDER).is_dir():
        directory = directory.parent
    level = [directory]
    for _ in range(3):
        found = [folder for folder in level if (folder / FOLDER).is_dir()]
        if found:
            return found
        level = [child for folder in level for child in sorted(folder.iterdir()) if _is_plain_folder(child)]
    return []


class _InstanceAudit:
    """One pass over the records of one instance."""

    def __init__(
        self, folder: Path, trust_root: TrustRoot, device_keys: Sequence[VerifyingKey], kept: Checkpoint | None
    ) -> None:
        self._folder = folder
        self._trust_root = trust_root
        self._device_keys = device_keys
        self._kept = kept
        self._report = InstanceReport(instance=folder.resolve().name, evaluation=trust_root.evaluation)
        self._found: Counter[str] = Counter()
        self._frontier = Frontier()
        self._provable = True
        self._root_broken = False
        self._next_seq = 0
        self._first_seq = 0
        self._holes: list[tuple[int, int]] = []
        self._effective_ms = 0
        self._closed: Moment | None = None
        self._previous_sha256: str | None = ""
        self._in_force: Mapping[str, JsonValue] | None = None
        self._claims: dict[int, list[tuple[str, bytes]]] = {}
        self._stops: list[int] = []
        self._proven = 0
        self._sealed_size = 0
        self._uses = array("q")
        self._counts: Counter[str] = Counter()
        self._meters: Counter[str] = Counter()
        self._months: dict[str, Counter[str]] = {}
        self._licenses: dict[str, None] = {}

    def run(self) -> InstanceReport:
        """Audit, and report."""
        report = self._report
        files = self._record_files()
        checkpoints = self._read_checkpoints()
        self._identify(files, checkpoints)
        key = self._pinned_key()
        self._open_checkpoints(checkpoints, key)
        self._stops = sorted(self._claims, reverse=True)
        for index, (first, following, path) in enumerate(files):
            self._audit_file(path, first, following, is_first=index == 0)
        self._close_claims()
        self._find_doubles([path for _, _, path in files])
        report.pinned_key = "" if key is None else key.key_id
        report.size = max(self._next_seq, self._sealed_size)
        report.ranges = tuple(self._ranges(anchored=key is not None))
        report.counts, report.meters, report.licenses = dict(self._counts), dict(self._meters), tuple(self._licenses)
        report.months = dict(self._months)
        self._note_kinds()
        return report

    # ---- 1. what is there -------------------------------------------------------------------------------------------

    def _record_files(self) -> list[tuple[int, int, Path]]:
        files: list[tuple[int, int, Path]] = []

        def refused(exc: OSError) -> None:
            self._add_finding(_unreadable(str(exc.filename), exc))

        for folder, subfolders, names in os.walk(self._folder / FOLDER, onerror=refused):
            subfolders.sort()
            for name in sorted(names):
                path = Path(folder) / name
                found = sequence_range(name)
                if found is not None:
                    files.append((*found, path))
                elif not name.startswith("."):
                    self._find(
                        Severity.NOTE,
                        "foreign_file",
                        self._where(path),
                        "This is not a record file; it was passed over.",
                    )
        if not files:
            self._find(
                Severity.UNREADABLE, "no_records", self._where(self._folder / FOLDER), "There are no record files."
            )
        return sorted(files)

    def _read_checkpoints(self) -> list[tuple[Path, str]]:
        """All checkpoints, as text; the newest copy first."""
        paths = [self._folder / CHECKPOINT_NAME]
        folder = self._folder / CHECKPOINTS_FOLDER
        try:
            paths += sorted(
                (path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: path.name
            )
        except FileNotFoundError:
            pass
        except OSError as exc:
            self._add_finding(_unreadable(self._where(folder), exc))
        texts: list[tuple[Path, str]] = []
        for path in paths:
            if not path.exists():
                continue
            try:
                blob = read_small_file(path, doing="read the checkpoint", mode="0444", max_bytes=MAX_NOTE_BYTES)
                texts.append((path, blob.decode("utf-8")))
            except UnicodeDecodeError:
                self._find(Severity.TAMPERED, "checkpoint_format", self._where(path), "The checkpoint is not UTF-8.")
            except FormatError as exc:
                self._find(
                    Severity.TAMPERED, "checkpoint_format", self._where(path), f"The checkpoint is malformed: {exc}."
                )
            except LicensesError as exc:
                self._find(Severity.UNREADABLE, "unreadable", self._where(path), f"{exc}.")
        return texts

    def _identify(self, files: list[tuple[int, int, Path]], checkpoints: list[tuple[Path, str]]) -> None:
        """Whose records these claim to be; which the pinned key then proves, or does not."""
        for _, _, path in files:
            with suppress(RecordError, OSError), RecordReader(path) as reader:
                self._report.instance, self._report.origin = reader.header.instance, reader.header.origin
                return
        for _, text in checkpoints:
            with suppress(RecordError):
                self._report.origin = unverified_checkpoint(text).origin
                return

    def _pinned_key(self) -> VerifyingKey | None:
        vendor, _, device = self._report.origin.rpartition("/")
        if self._report.origin and vendor != self._trust_root.vendor:
            message = f"The records name the vendor {vendor!r}, the trust root {self._trust_root.vendor!r}."
            self._find(Severity.NOTE, "other_vendor", "", message)
        key = next((key for key in self._device_keys if device_id_of(key.raw) == device), None)
        if key is not None and self._report.instance != instance_id_of(key.raw):
            message = f"The instance is not named after the pinned device ({instance_id_of(key.raw)})."
            self._find(Severity.TAMPERED, "other_instance_name", "", message)
        return key

    # ---- 2. file by file --------------------------------------------------------------------------------------------

    def _audit_file(self, path: Path, first: int, following: int, *, is_first: bool) -> None:
        where = self._where(path)
        if is_first and first > 0:
            self._provable = False
            self._first_seq = self._next_seq = first
            self._previous_sha256 = None
            message = (
                f"The entries [0, {first}) are not here: pruned or taken away. Without them no root can be computed."
            )
            self._find(Severity.GAP, "pruned", where, message)
        elif first != self._next_seq:
            self._provable = False
            self._previous_sha256 = None
            if first > self._next_seq:
                self._holes.append((self._next_seq, first))
                message = f"The entries [{self._next_seq}, {first}) are missing."
            else:
                message = f"The entries [{first}, {self._next_seq}) are there twice, or the chain begins anew."
            self._find(Severity.TAMPERED, "numbering", where, message)
            self._next_seq = first
        self._report.files += 1
        try:
            with RecordReader(path) as reader:
                self._audit_header(reader.header, where, first)
                audit = _FileTotals()
                for line in self._batched(reader):
                    self._audit_line(line, where, audit)
            if reader.trailer is None:
                raise RecordError(f"{path.name} has no trailer")
            self._audit_end(reader.header, reader.trailer, where, following, audit)
            self._previous_sha256 = reader.sha256
        except RecordError as exc:
            self._provable = False
            self._previous_sha256 = None
            self._find(Severity.TAMPERED, "malformed", f"{where}, near entry {self._next_seq}", f"{exc}.")
        except OSError as exc:
            self._provable = False
            self._previous_sha256 = None
            self._add_finding(_unreadable(where, exc))
        self._next_seq = following

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
        self._audit_frontier(header, where)
        if header.license_id:
            self._licenses[header.license_id] = None
        self._report.evaluation |= header.evaluation

    def _audit_frontier(self, header: RecordHeader, where: str) -> None:
        known = self._provable and not self._root_broken
        if known and header.frontier is not None and header.frontier != self._frontier.hashes:
            message = "The header's frontier is not that of the entries before it."
            self._find(Severity.TAMPERED, "frontier", where, message)

    def _audit_end(
        self, header: RecordHeader, trailer: RecordTrailer, where: str, following: int, audit: "_FileTotals"
    ) -> None:
        meters = {name: quantity for name, quantity in audit.meters.items() if quantity}
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
            (trailer.counts == audit.counts, "totals", "The trailer's counts are not those of the entries."),
            (trailer.meters == meters, "totals", "The trailer's sums are not those of the entries."),
        ):
            if not holds:
                self._find(Severity.TAMPERED, code, where, message)
        if self._provable and not self._root_broken and self._frontier.root() != trailer.root:
            self._find(Severity.TAMPERED, "root", where, "The entries do not give the root that the trailer tells.")
        self._audit_window(header, meters, where, audit)

    def _audit_window(self, header: RecordHeader, meters: Mapping[str, int], where: str, audit: "_FileTotals") -> None:
        if audit.window is None or audit.window.get("seq") != self._next_seq - 1:
            self._find(Severity.TAMPERED, "no_window", where, "The last entry does not close a window.")
            return
        fields = Fields(audit.window, "window")
        try:
            opened, closed = (Moment.from_fields(fields.nested(name)) for name in ("opened", "closed"))
            told = meters_from(fields.nested_list("meters"))
            reason, first_seq = fields.text("reason"), fields.integer("first_seq")
        except FormatError as exc:
            self._find(Severity.TAMPERED, "malformed", where, f"The entry that closes the window is malformed: {exc}.")
            return
        bounds = (header.opened, header.closed, header.reason, header.first_seq)
        context_differs = any(audit.window.get(name, one) != one for name, one in _context_of(header).items())
        if bounds != (opened, closed, reason, first_seq) or context_differs:
            message = "The header does not tell the window that the sealed entries tell."
            self._find(Severity.TAMPERED, "header", where, message)
        if told != meters:
            self._find(Severity.TAMPERED, "totals", where, "The window's sums are not those of its entries.")
        if header.license_id and self._in_force is not None and not _is_licence_of(header, self._in_force):
            message = "The header does not tell the licence that the sealed entries tell."
            self._find(Severity.TAMPERED, "header", where, message)
        if self._closed is not None and opened != self._closed:
            message = (
                f"No window covers {moment_text(self._closed.effective_ms)} to {moment_text(opened.effective_ms)}."
            )
            self._find(Severity.GAP, "window_gap", where, message)
        same_boot = opened.boot_id == closed.boot_id  # then the boot clock tells the length, whatever was set meanwhile
        length = closed.boottime_ms - opened.boottime_ms if same_boot else closed.effective_ms - opened.effective_ms
        restarted = audit.boots or reason == RECOVERY or opened.boot_id != closed.boot_id
        if length > MAX_WINDOW_MS and not restarted:
            message = f"The window was open for {length // 60_000} minutes though nothing was restarted."
            self._find(Severity.GAP, "long_window", where, message)
        self._closed = closed

    # ---- 3. line by line --------------------------------------------------------------------------------------------

    def _audit_line(self, line: bytes, where: str, audit: "_FileTotals") -> None:
        use = read_use(line)
        entry: Mapping[str, JsonValue] = {}
        if use is None:
            entry = parse_entry(line)
            if entry["kind"] == "use":
                use = _use_from(entry)
            else:
                self._audit_other(entry, where, audit)
                seq, effective_ms, kind = _integer(entry, "seq"), _integer(entry, "effective_ms"), str(entry["kind"])
        if use is not None:
            seq, effective_ms, kind = use.seq, use.effective_ms, "use"
            meter = use.meter.decode("ascii")
            audit.meters[meter] += use.quantity
            self._meters[meter] += use.quantity
            month = self._months.get(audit.month(effective_ms))
            if month is None:
                month = self._months[audit.month(effective_ms)] = Counter()
            month[meter] += use.quantity
            self._uses.append(_use_hash(use))
        if seq != self._next_seq:
            message = f"An entry is numbered {seq} where {self._next_seq} is due."
            self._find(Severity.TAMPERED, "numbering", where, message)
        if effective_ms < self._effective_ms:
            self._find(Severity.TAMPERED, "time", where, f"The effective time runs backwards at entry {seq}.")
        if self._report.first_ms is None:
            self._report.first_ms = effective_ms
        self._effective_ms = self._report.last_ms = effective_ms
        if kind == "clock":
            self._follow_reset(entry, where)
        audit.counts[kind] += 1
        self._counts[kind] += 1
        self._report.entries += 1
        self._next_seq += 1

    def _follow_reset(self, entry: Mapping[str, JsonValue], where: str) -> None:
        """With the vendor's token time may go down, once; from there on it counts again."""
        to_ms = entry.get("to_effective_ms")
        if entry.get("action") == "reset" and type(to_ms) is int and to_ms < self._effective_ms:
            message = (
                f"Time was set back from {moment_text(self._effective_ms)} to {moment_text(to_ms)} "
                f"with the vendor's token {entry.get('token_id')}; ask the vendor whether that is one of theirs."
            )
            self._find(Severity.NOTE, "clock_reset", where, message)
            self._effective_ms = to_ms

    def _audit_other(self, entry: Mapping[str, JsonValue], where: str, audit: "_FileTotals") -> None:
        match entry["kind"]:
            case "window":
                audit.window = entry
            case "boot":
                audit.boots += 1
            case "license":
                self._in_force = entry
                self._report.evaluation |= entry.get("evaluation") is True
                if isinstance(identity := entry.get("license_id"), str):
                    self._licenses[identity] = None
            case "gap":
                self._find(Severity.GAP, "gap_entry", where, f"Entry {entry['seq']} tells of a gap.")
            case _:
                pass

    # ---- 4. roots ---------------------------------------------------------------------------------------------------

    def _batched(self, reader: RecordReader) -> Iterator[bytes]:
        """Pass the lines on, and grow the tree with their leaves, stopping at each size that has a claim."""
        pending: list[bytes] = []
        stop = self._next_stop()
        for line in reader:
            pending.append(leaf_hash(line))
            if len(pending) >= _BATCH or (stop is not None and self._frontier.size + len(pending) == stop):
                self._frontier.extend(pending)
                pending.clear()
                self._check_claims()
                stop = self._next_stop()
            yield line
        self._frontier.extend(pending)
        self._check_claims()

    def _next_stop(self) -> int | None:
        while self._stops and self._stops[-1] <= self._frontier.size:
            self._stops.pop()
        return self._stops[-1] if self._stops else None

    def _check_claims(self) -> None:
        claims = self._claims.pop(self._frontier.size, None)
        if claims is None or not self._provable or self._root_broken:
            return
        root = self._frontier.root()
        for where, claimed in claims:
            if claimed != root:
                self._root_broken = True
                message = f"The entries [{self._proven}, {self._frontier.size}) are not those that were sealed."
                self._find(Severity.TAMPERED, "sealed_root", where, message)
        if not self._root_broken:
            self._proven = self._frontier.size

    def _close_claims(self) -> None:
        """Claims on sizes that the records never reached."""
        for size, claims in sorted(self._claims.items()):
            for where, claimed in claims:
                if size == 0 and claimed == Frontier().root():
                    continue
                if size > self._next_seq:
                    message = (
                        f"{size} entries were sealed, only those before {self._next_seq} are here: the end is cut off."
                    )
                    self._find(Severity.TAMPERED, "cut_tail", where, message)
                elif not self._provable:
                    message = f"The seal at {size} entries could not be compared."
                    self._find(Severity.NOTE, "not_compared", where, message)

    # ---- 5. checkpoints ---------------------------------------------------------------------------------------------

    def _open_checkpoints(self, texts: list[tuple[Path, str]], key: VerifyingKey | None) -> None:
        origin = self._report.origin
        signed = 0
        for path, text in texts:
            where = self._where(path)
            try:
                checkpoint = unverified_checkpoint(text) if key is None else open_checkpoint(text, {origin: key})
            except RecordError as exc:
                self._find(Severity.TAMPERED, "checkpoint_format", where, f"The checkpoint is malformed: {exc}.")
                continue
            except LicensesError as exc:
                self._find(Severity.TAMPERED, "checkpoint_signature", where, f"{exc}.")
                continue
            signed += 1
            if checkpoint.origin != origin:
                self._find(Severity.TAMPERED, "other_origin", where, f"The checkpoint is of {checkpoint.origin}.")
                continue
            named = path.parent.name == CHECKPOINTS_FOLDER
            if named and (_SIZE_NAME.fullmatch(path.name) is None or int(path.name) != checkpoint.size):
                self._find(
                    Severity.TAMPERED, "checkpoint_name", where, f"The checkpoint is of {checkpoint.size} entries."
                )
            self._claim(checkpoint, where)
        if key is not None and signed == 0:
            message = "No checkpoint here is signed by the pinned device key."
            self._find(Severity.TAMPERED, "no_seal", self._where(self._folder / CHECKPOINT_NAME), message)
        if self._kept is not None and self._kept.origin == origin:
            self._claim(self._kept, "the kept checkpoint")

    def _claim(self, checkpoint: Checkpoint, where: str) -> None:
        self._claims.setdefault(checkpoint.size, []).append((where, checkpoint.root))
        self._sealed_size = max(self._sealed_size, checkpoint.size)

    # ---- 6. doubles, and what is covered ----------------------------------------------------------------------------

    def _find_doubles(self, paths: Sequence[Path]) -> None:
        suspects = {one for one, other in pairwise(sorted(self._uses)) if one == other}
        self._uses = array("q")
        if not suspects:
            return
        seen: dict[tuple[bytes, int, bytes], int] = {}
        for use, path in _uses_in(paths):
            if _use_hash(use) not in suspects:
                continue
            earlier = seen.setdefault((use.identity, use.page, use.meter), use.seq)
            if earlier != use.seq:
                identity = use.identity.decode("ascii")
                message = f"Entry {use.seq} counts page {use.page} of {identity} again, as entry {earlier} did."
                self._find(Severity.TAMPERED, "double", self._where(path), message)

    def _ranges(self, *, anchored: bool) -> Iterator[EntryRange]:
        if self._first_seq:
            yield EntryRange(0, self._first_seq, Coverage.PRUNED)
        start = self._first_seq
        if self._proven > start:
            yield EntryRange(start, self._proven, Coverage.SEALED if anchored else Coverage.UNPINNED)
            start = self._proven
        for low, high in self._holes:
            if low > start:
                yield EntryRange(start, low, Coverage.UNSEALED)
            yield EntryRange(low, high, Coverage.MISSING)
            start = high
        if self._next_seq > start:
            yield EntryRange(start, self._next_seq, Coverage.UNSEALED)
        if self._sealed_size > self._next_seq:
            yield EntryRange(self._next_seq, self._sealed_size, Coverage.MISSING)

    def _note_kinds(self) -> None:
        for kind, words in (
            ("fault", "Metering cycles that failed"),
            ("clock", "Steps or corrections of the clock"),
            ("quarantine", "Damaged pieces that were moved aside"),
        ):
            if self._counts[kind]:
                self._find(
                    Severity.NOTE, f"{kind}_entries", "", f"{words}, by number of entries: {self._counts[kind]}."
                )

    def _where(self, path: Path) -> str:
        return str(path.relative_to(self._folder)) if path.is_relative_to(self._folder) else str(path)

    def _find(self, severity: Severity, code: str, where: str, message: str) -> None:
        self._add_finding(Finding(severity, code, where, message))

    def _add_finding(self, finding: Finding) -> None:
        self._found[finding.code] += 1
        if self._found[finding.code] <= MAX_FINDINGS_PER_CODE:
            self._report.findings.append(finding)
        else:
            self._report.suppressed += 1


class _FileTotals:
    """What one file's entries add up to."""

    __slots__ = ("_month", "_month_ms", "boots", "counts", "meters", "window")

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.meters: Counter[str] = Counter()
        self.boots = 0
        self.window: Mapping[str, JsonValue] | None = None
        self._month = ""
        self._month_ms = range(0)

    def month(self, effective_ms: int) -> str:
        """The month of an effective time, "YYYY-MM"; remembers the day, mostly that of the next entry too."""
        if effective_ms not in self._month_ms:
            day_ms = 86_400_000
            start = effective_ms - effective_ms % day_ms
            self._month_ms = range(start, start + day_ms)
            try:
                self._month = datetime.fromtimestamp(start // 1000, UTC).strftime("%Y-%m")
            except (ValueError, OverflowError, OSError):
                self._month = "beyond"
        return self._month


def _open_kept(text: str, device_keys: Sequence[VerifyingKey]) -> Checkpoint:
    kept = unverified_checkpoint(text)
    device = kept.origin.rpartition("/")[2]
    key = next((key for key in device_keys if device_id_of(key.raw) == device), None)
    if key is None:
        return kept
    try:
        return open_checkpoint(text, {kept.origin: key})
    except LicensesError as exc:
        raise RecordError(f"the kept checkpoint is not good: {exc}", next_step="Take the copy that you kept.") from exc


def _uses_in(paths: Sequence[Path]) -> Iterator[tuple[Use, Path]]:
    for path in paths:
        with suppress(RecordError, OSError), RecordReader(path) as reader:
            for line in reader:
                use = read_use(line)
                if use is None:
                    entry = parse_entry(line)
                    use = _use_from(entry) if entry["kind"] == "use" else None
                if use is not None:
                    yield use, path


def _use_from(entry: Mapping[str, JsonValue]) -> Use:
    meter = entry["meter"]
    if not isinstance(meter, dict):
        raise RecordError("a use entry has no meter")
    return Use(
        _integer(entry, "seq"),
        _integer(entry, "effective_ms"),
        str(entry["id"]).encode("ascii"),
        _integer(entry, "page"),
        str(meter["name"]).encode("utf-8"),
        _integer(meter, "quantity"),
    )


def _use_hash(use: Use) -> int:
    return hash((use.identity, use.page, use.meter))


def _integer(members: Mapping[str, JsonValue], name: str) -> int:
    value = members[name]
    if not isinstance(value, int):
        raise RecordError(f"{name} is not an integer")
    return value


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


def _is_plain_folder(path: Path) -> bool:
    return not path.name.startswith(".") and path.is_dir() and not path.is_symlink()


def _unreadable(where: str, exc: OSError) -> Finding:
    return Finding(Severity.UNREADABLE, "unreadable", where, f"It cannot be read: {exc.strerror or exc}.")


# ---- the command -----------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Wrong use is 64; 2 already says something else."""
        self.print_usage(sys.stderr)
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="usage-verify",
        description="Verify usage records. Needs no network and no vendor; believes no key that lies in the folder.",
        epilog="Exit codes: 0 good, 1 tampered, 2 good but not anchored (only with --strict), 3 gaps, 4 unreadable, "
        "64 wrong use.",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="output mount, or the folder of one instance")
    parser.add_argument(
        "--trust-root", "--trust", type=Path, required=True, metavar="FILE", help="the vendor's trust root"
    )
    parser.add_argument(
        "--device-key",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="the device's public key (device.pub), from another source than DIR; may be given several times",
    )
    parser.add_argument("--prev", type=Path, metavar="FILE", help="the checkpoint kept from an earlier audit")
    parser.add_argument("--strict", action="store_true", help="good but not anchored is not good enough: exit code 2")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--version", action="version", version=f"%(prog)s {licenses.__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    write: Callable[[str], int] = sys.stdout.write
    try:
        previous = None if arguments.prev is None else _read_note(arguments.prev)
        report = verify_records(
            arguments.directory,
            load_trust_root(arguments.trust_root),
            device_keys=[load_public_key(path, ROLE) for path in arguments.device_key],
            previous=previous,
        )
    except LicensesError as exc:
        if arguments.json:
            error = {"code": exc.code, "message": str(exc), "next_step": exc.next_step}
            write(json.dumps({"verdict": "unreadable", "exit_code": 4, "error": error}) + "\n")
        sys.stderr.write(f"usage-verify: {exc}.\nNext step: {exc.next_step}\n")
        return ExitCode.UNREADABLE
    if arguments.json:
        write(json.dumps(report.to_members(strict=arguments.strict), indent=2) + "\n")
    else:
        write("".join(f"{line}\n" for line in report.to_lines()))
    return report.exit_code(strict=arguments.strict)


def _read_note(path: Path) -> str:
    blob = read_small_file(path, doing="read the kept checkpoint", mode="0444", max_bytes=MAX_NOTE_BYTES)
    try:
        return blob.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise RecordError(f"{path} is not a checkpoint: it is not UTF-8") from exc


if __name__ == "__main__":
    sys.exit(main())
