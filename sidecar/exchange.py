"""The exchange with the vendor: usage goes out as one bundle, an acknowledgement comes back.

Invariants:

* What goes out is rendered from the ledger alone and depends on nothing else but the acknowledgement that came before:
  the same state gives the same bytes, while the service runs or when it is stopped.
* An acknowledgement counts only when it is the vendor's, of this device's log, and of entries that are this ledger's.
  Everything that it carries may be put in place again: applying it twice changes nothing.
* An acknowledgement of other entries, or of more than there are, means that this ledger or another copy of it was
  rolled back. It is refused, entered into the ledger, and proven in a file that the vendor can check.
* Time goes up by the vendor's word and never down; a licence that came along is judged like any other.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import structlog

from licenses.ack import Ack, ack_name, open_ack, read_ack_file
from licenses.device_key import DeviceKey, device_id_of
from licenses.durable import make_folders, write_file
from licenses.errors import LicensesError
from licenses.folder import read_folder
from licenses.host import Bindings
from licenses.keyring import TrustRoot
from licenses.model import READ_PAGES_METER
from licenses.revocation import open_revocation
from licenses.strict_json import Fields, canonical
from licenses.usage_log.bundle import BundleFile, Progress, Span, plain_file, proof_file, seal_bundle
from licenses.usage_log.entry import parse_entry, read_use
from licenses.usage_log.files import CHECKPOINT_NAME, CHECKPOINTS_FOLDER, FOLDER, meter_list, meters_from, record_name
from licenses.usage_log.fork import confess_rollback, fork_name, prove_fork, verify_fork
from licenses.usage_log.merkle import EMPTY_ROOT, consistency_proof_from
from licenses.usage_log.note import Checkpoint
from licenses.usage_log.statement import Statement
from licenses.verify import Standing, judge, open_license
from licenses.watch import LicenseView, keep_revocation
from sidecar.clock import instant, month_of
from sidecar.errors import (
    AckRefusedError,
    LedgerForkError,
    LedgerUnavailableError,
    NothingToExportError,
    OutputUnwritableError,
    unwritable,
)
from sidecar.ledger import Ledger, LedgerReader, SealedWindow
from sidecar.license_mount import LicenseMount
from sidecar.record_output import ACKS_FOLDER, RecordOutput, render_window

MAX_WINDOWS = 50_000
BUNDLE_MODE = 0o640
ACK_MODE = 0o440
LICENSE_MODE = 0o640
_TRIES = 1000
_log = structlog.get_logger("Tollgate.Exchange")
_MS = 1_000_000
_UNFIT = {
    Standing.MISMATCH,
    Standing.EXPIRED,
    Standing.DEVICE_MISMATCH,
    Standing.SUPERSEDED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What went out.

    Attributes:
        path: The bundle.
        sha256: Of its bytes, in hexadecimal.
        bytes: Its length.
        span: Which part of the log it carries.
        windows: How many record files.
        meters: Units in it, per meter.
        open_units: Pages counted since its last window, which come with the next one.
        windows_left: Sealed windows that did not fit, which come with the next one.
    """

    path: Path
    sha256: str
    bytes: int
    span: Span
    windows: int
    meters: Mapping[str, int]
    open_units: int
    windows_left: int


@dataclass(slots=True, kw_only=True)
class Imported:
    """What became of an acknowledgement.

    Attributes:
        ack: What it says.
        repeated: Whether that size was acknowledged before.
        unacked_units: Pages that are not acknowledged yet.
        ack_file: Where it lies beside the records; None when it could not be put there.
        license_file: Where the licence lies that came along; None without one, or when it was not put in place.
        license_problem: Why the licence was not put in place; empty when it was, or when none came along.
        copy_command: What to run to put the licence in place; empty when nothing is left to do.
        revocation: Sequence of the list of revocations that came along and is newer than the one known; 0 for none.
        time_before: The effective time before it was raised to the vendor's; None when it was not.
        warnings: What could not be done.
    """

    ack: Ack
    repeated: bool = False
    unacked_units: int = 0
    ack_file: Path | None = None
    license_file: Path | None = None
    license_problem: str = ""
    copy_command: str = ""
    revocation: int = 0
    time_before: datetime | None = None
    warnings: list[str] = field(default_factory=list)


# ---- out ------------------------------------------------------------------------------------------------------------


def export_usage(
    ledger: LedgerReader,
    device: DeviceKey,
    out: Path,
    *,
    state_directory: Path,
    since: int | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write a bundle of the sealed windows since an acknowledgement.

    Args:
        ledger: The ledger; only read.
        device: The device's key, which signs the manifest.
        out: Folder to write to; made if it is not there.
        state_directory: Where imported acknowledgements are kept.
        since: The first entry to carry, which must be the end of a window; None is the last acknowledgement.
        progress: Called with steps done and steps in all.

    Raises:
        NothingToExportError: There is no sealed window, or none after `since`.
        LedgerUnavailableError: The ledger cannot be read.
        OutputUnwritableError: The bundle cannot be written.
    """
    acked = ledger.acked()
    begins = since if since is not None else acked.size if acked is not None else 0
    begins = max(begins, ledger.base())  # what a rebuilt ledger does not hold any more, it cannot carry
    found = ledger.sealed_windows(begins)
    if not found:
        raise _nothing(ledger, begins)
    if since is None:
        begins = found[0].first_seq  # the same, unless what was acknowledged is no end of a window here any more
    if found[0].first_seq != begins:
        raise NothingToExportError(
            f"no window ends at entry {begins}; one goes from {found[0].first_seq} to {found[0].size}",
            next_step=f"give --since {found[0].first_seq}, or --all",
        )
    windows = found[:MAX_WINDOWS]
    last = windows[-1]
    span = Span(
        origin=str(last.window["origin"]),
        instance=device.instance_id,
        since=begins,
        size=last.size,
        root=last.root,
        until_ms=int(last.window["closed"]["effective_ms"]),
    )
    if span.origin.rpartition("/")[2] != device.device_id:
        raise LedgerUnavailableError(
            f"the ledger is of the log {span.origin}, the device key is of the device {device.device_id}",
            next_step="restore ledger and device key from one backup; move nothing else meanwhile",
        )
    meters, months = _sums(ledger, windows)
    files = [
        plain_file(f"{span.folder}/{CHECKPOINT_NAME}", last.note.encode("utf-8")),
        plain_file(f"{span.folder}/{CHECKPOINTS_FOLDER}/{span.size}", last.note.encode("utf-8")),
        plain_file("totals.json", _totals(span, meters, months)),
        *_record_files(ledger, windows, span),
        *(_what_came_before(ledger, span, state_directory) if begins else ()),
    ]
    path = out / span.file_name
    try:
        make_folders(out)
        bundle = seal_bundle(files, span, device.signing_key, progress=progress)
        digest = write_file(path, bundle.chunks(), mode=BUNDLE_MODE, overwrite=True)
        length = path.stat().st_size
    except OSError as exc:
        raise unwritable(exc, out) from exc
    return Exported(
        path=path,
        sha256=digest,
        bytes=length,
        span=span,
        windows=len(windows),
        meters=meters,
        open_units=ledger.used_after(found[-1].size, READ_PAGES_METER)[0],
        windows_left=len(found) - len(windows),
    )


def make_statement(ledger: LedgerReader) -> Statement:
    """The newest checkpoint and the sealed pages per month, for sites that only a photograph leaves.

    Raises:
        NothingToExportError: There is no sealed window.
        LedgerUnavailableError: The ledger cannot be read.
    """
    last = ledger.last_seal()
    windows = [] if last is None else ledger.sealed_windows(last[0] - 1)
    if last is None or not windows:
        raise _nothing(ledger, 0)
    window = windows[0]
    size, months = _months(ledger)
    for month, meters in _uses(ledger.lines(window.size, size)).items():
        months[month] -= meters[READ_PAGES_METER]
    return Statement.of(
        Checkpoint(str(window.window["origin"]), window.size, window.root),
        months,
        until=_closed(window).replace(microsecond=0),
        evaluation=bool(window.window.get("evaluation")),
    )


def _months(ledger: LedgerReader) -> tuple[int, Counter[str]]:
    """The ledger's size, and the pages per month up to there: read again when a page was counted in between."""
    for _ in range(_TRIES):
        size = ledger.snapshot(READ_PAGES_METER).size
        months = Counter(dict(ledger.months(READ_PAGES_METER)))
        if ledger.snapshot(READ_PAGES_METER).size == size:
            return size, months
    raise LedgerUnavailableError(
        f"{ledger.path}: it grows too fast to be summed up", next_step="try again when fewer documents are read"
    )


def _nothing(ledger: LedgerReader, begins: int) -> NothingToExportError:
    if begins:
        return NothingToExportError(
            f"nothing new: all {begins} sealed entries are acknowledged, or no window has closed since",
            next_step="wait for the next window (at most 15 minutes), or give --all to carry everything again",
        )
    what = "no window has closed yet" if ledger.has_open_window() else "the ledger is empty"
    return NothingToExportError(
        f"{what}, so there is nothing to carry out",
        next_step="a window closes within 15 minutes of the start, and when the service is stopped",
    )


def _record_files(ledger: LedgerReader, windows: Sequence[SealedWindow], span: Span) -> Iterator[BundleFile]:
    previous: str | None = None
    for window in windows:
        name = record_name(window.first_seq, window.size, _closed(window))
        render = partial(render_window, ledger, window, span.instance, previous_sha256=previous)
        yield BundleFile(name=f"{span.folder}/{FOLDER}/{name}", chunks=render)
        # The ledger knows the digest of what is on the output mount; of what waits for it, it is computed.
        previous = None if window.file_sha256 is not None else _digest(render())


def _digest(pieces: Iterable[bytes]) -> str:
    digest = sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _what_came_before(ledger: LedgerReader, span: Span, state_directory: Path) -> Iterator[BundleFile]:
    """The checkpoint that the bundle follows, its acknowledgement, and the proof that the log extends it."""
    before = next((one for one in ledger.sealed_windows(span.since - 1) if one.size == span.since), None)
    if before is None:
        return
    yield plain_file(f"{span.folder}/{CHECKPOINTS_FOLDER}/{span.since}", before.note.encode("utf-8"))
    with suppress(LicensesError):
        kept = read_ack_file(state_directory / ACKS_FOLDER / ack_name(span.origin, span.since))
        yield plain_file(f"{span.folder}/{ACKS_FOLDER}/{span.since}.dsse.json", kept)
    leaves = ledger.leaves(span.since, span.size)
    yield proof_file(span, before.root, consistency_proof_from(ledger.frontier_at(span.since), leaves, span.size))


def _sums(ledger: LedgerReader, windows: Sequence[SealedWindow]) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Units per meter, and per month and meter: as the window entries tell, or entry by entry over a month's end."""
    months: dict[str, Counter[str]] = {}
    for window in windows:
        first, last = (_month(window.window[name]["effective_ms"]) for name in ("opened", "closed"))
        if first == last:
            (line,) = ledger.lines(window.size - 1, window.size)
            told = Fields(parse_entry(line), "window").nested_list("meters")
            months.setdefault(last, Counter()).update(meters_from(told))
        else:
            for month, meters in _uses(ledger.lines(window.first_seq, window.size)).items():
                months.setdefault(month, Counter()).update(meters)
    every = {month: dict(meters) for month, meters in sorted(months.items()) if meters}
    return dict(sum(map(Counter, every.values()), Counter[str]())), every


def _uses(lines: Iterable[bytes]) -> dict[str, Counter[str]]:
    """Units per month and meter, entry by entry."""
    months: dict[str, Counter[str]] = {}
    for line in lines:
        use = read_use(line)
        if use is not None:
            months.setdefault(_month(use.effective_ms), Counter())[use.meter.decode("ascii")] += use.quantity
    return months


def _totals(span: Span, meters: Mapping[str, int], months: Mapping[str, Mapping[str, int]]) -> bytes:
    members = {
        "origin": span.origin,
        "since": span.since,
        "size": span.size,
        "meters": meter_list(meters),
        "months": [{"month": month, "meters": meter_list(one)} for month, one in months.items()],
    }
    return canonical(members) + b"\n"


def _closed(window: SealedWindow) -> datetime:
    return instant(int(window.window["closed"]["effective_ms"]) * _MS)


def _month(effective_ms: int) -> str:
    return month_of(effective_ms * _MS)


# ---- back -----------------------------------------------------------------------------------------------------------


class Exchange:
    """Takes in what the vendor sends back.

    Args:
        ledger: The ledger.
        licenses: The licence folder and the trust root.
        output: The output mount.
        state_directory: Where acknowledgements are kept, and what cannot be put elsewhere.
        license_directory: `Mounts:License`.
        device_key_directory: Where the device key lies, which signs a proof; by default in the state directory.
        handed_over_key: Where the service manager put that key, when it does not lie there.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        licenses: LicenseMount,
        output: RecordOutput,
        state_directory: Path,
        license_directory: Path,
        device_key_directory: Path | None = None,
        handed_over_key: Path | None = None,
    ) -> None:
        self._ledger = ledger
        self._licenses = licenses
        self._output = output
        self._state = state_directory
        self._device_key_directory = device_key_directory or state_directory
        self._handed_over_key = handed_over_key
        self._license_directory = license_directory

    def import_ack(self, blob: bytes, *, proof_folder: Path) -> Imported:
        """Apply an acknowledgement; again, if it was applied before.

        Args:
            blob: The file.
            proof_folder: Where to put the proof, if it turns out that histories differ.

        Raises:
            AckRefusedError: It is not the vendor's, not of this log, older than the last one, or of entries that the
                ledger lost.
            LedgerConflictError: Time went past the vendor's meanwhile.
            LedgerForkError: It is of another history than the ledger's.
            LedgerUnavailableError: The ledger cannot be read or written.
            OutputUnwritableError: It cannot be kept in the state directory.
        """
        view = self._look()
        root = self._licenses.trust_root
        if root is None:
            raise AckRefusedError(
                f"there is no trust root to judge the acknowledgement by: {view.problem}",
                next_step="check Sidecar:TrustRoot",
            )
        ack = self._opened(blob, root)
        last = self._ledger.acked()
        self._require_same_history(ack, proof_folder)
        if last is not None and last.size > ack.size:
            raise AckRefusedError(
                f"this acknowledges {ack.size} entries; {last.size} were acknowledged before, so it is an older one",
                next_step="nothing is lost: the newer one stays in force; this file is of no more use",
            )
        fields: dict[str, Any] = {
            "size": ack.size,
            "root": ack.root.hex(),
            "acknowledged_at": int(ack.acknowledged_at.timestamp()),
            "key_id": ack.key_id,
            "evaluation": ack.evaluation,
        }
        done = Imported(ack=ack)
        self._keep(ack, blob, done)
        done.repeated = not self._ledger.note_ack(ack.size, ack.checkpoint, fields, root=ack.root)
        done.unacked_units = self._ledger.used_after(ack.size, READ_PAGES_METER)[0]
        self._raise_time(ack, done)
        self._take_revocation(ack, root, view, done)
        self._take_license(ack, root, done)
        return done

    def keep_fork(self, blob: bytes) -> Path:
        """Keep the proof, which somebody else sent, that this device signed two histories: here and beside the records.

        Args:
            blob: The proof, not verified yet.

        Returns:
            Where an auditor finds it; in the state directory, where the output folder takes nothing.

        Raises:
            LicensesError: It proves nothing of this device.
            OutputUnwritableError: It could be kept nowhere.
        """
        device = DeviceKey.load(self._device_key_directory, handed_over=self._handed_over_key)
        fork = verify_fork(blob, device.verifying_key)
        name = fork_name(fork.origin, fork.first.size, fork.second.size)
        place = self._state / name
        is_new = not place.exists()
        try:
            if is_new:
                write_file(place, [blob], mode=BUNDLE_MODE, overwrite=True)
            place = self._output.keep_fork(name, blob)
        except OutputUnwritableError as exc:
            _log.warning("the proof of a fork is not beside the records", cause=str(exc), next_step=exc.next_step)
        except OSError as exc:
            raise unwritable(exc, self._state) from exc
        if is_new:
            _log.error("this device signed two histories of its log", cause=fork.reason, proof=str(place))
        return place

    def _look(self) -> LicenseView:
        return self._licenses.look(self._ledger.now().at, self._ledger.snapshot(READ_PAGES_METER))

    def _opened(self, blob: bytes, root: TrustRoot) -> Ack:
        device = self._licenses.device
        if device is None:
            raise AckRefusedError(
                f"there is no device key in {self._state}, so there is no log that could be acknowledged",
                next_step="name the state directory with Sidecar:StateDirectory=…",
            )
        try:
            ack = open_ack(blob, root, device=device)
        except LicensesError as exc:
            raise AckRefusedError(str(exc), next_step=exc.next_step) from exc
        origin = self._origin()
        if ack.origin != origin:
            raise AckRefusedError(
                f"this is of the log {ack.origin}; here is {origin}",
                next_step="take the file that was made for this device",
            )
        if ack.evaluation and not root.evaluation:
            raise AckRefusedError(
                "an evaluation key acknowledges nothing under a production trust root",
                next_step="ask the vendor for an acknowledgement under its production key",
            )
        return ack

    def _origin(self) -> str:
        """The log's name, which never changes once a window has closed."""
        last = self._ledger.last_seal()
        if last is not None:
            return str(self._ledger.sealed_windows(last[0] - 1)[0].window["origin"])
        device = self._licenses.device
        return f"{self._licenses.vendor}/{device_id_of(device.raw) if device else ''}"

    # ---- two histories ----------------------------------------------------------------------------------------------

    def _require_same_history(self, ack: Ack, proof_folder: Path) -> None:
        size = self._ledger.snapshot(READ_PAGES_METER).size
        root = self._ledger.known_root_at(ack.size) if ack.size <= size else b""
        if root == ack.root:
            return
        if root is None:
            raise AckRefusedError(
                f"this acknowledges {ack.size} entries, which were lost with the ledger: it was begun anew at entry "
                f"{self._ledger.base()}, and nothing that is left shows whether they are its own",
                next_step="wait for the vendor's next acknowledgement, of more entries; call the vendor if none comes",
            )
        sealed = self._ledger.last_seal()
        self._ledger.append(
            "fault",
            {
                "code": LedgerForkError.code,
                "acked_size": ack.size,
                "acked_root": ack.root.hex(),
                "sealed_size": 0 if sealed is None else sealed[0],
            },
        )
        if ack.size > size:
            cause = (
                f"the vendor acknowledged {ack.size} entries that this device signed; the ledger has {size}: it was "
                "restored from an older copy, or another copy of this device is in use"
            )
        else:
            cause = (
                f"the first {ack.size} entries of the ledger are not those that the vendor acknowledged: it was "
                "restored from an older copy and used on, or another copy of this device is in use"
            )
        step = "stop, keep the state directory and the output folder as they are, and call the vendor"
        try:
            proof = self._prove(ack, proof_folder)
        except (LicensesError, OutputUnwritableError) as exc:
            raise LedgerForkError(cause, next_step=f"{step}. There is no proof file: {exc}") from exc
        raise LedgerForkError(cause, next_step=f"{step}; send it {proof}, which proves this", proof=proof)

    def _prove(self, ack: Ack, folder: Path) -> Path:
        sealed = self._ledger.last_seal()
        size = 0 if sealed is None else sealed[0]
        device = DeviceKey.load(self._device_key_directory, handed_over=self._handed_over_key)
        if ack.size > size:
            here = Checkpoint(ack.origin, size, EMPTY_ROOT if sealed is None else sealed[1])
            own = confess_rollback(here, Checkpoint(ack.origin, ack.size, ack.root), device.signing_key)
            proof = prove_fork(own, ack.checkpoint, device.verifying_key)
        else:
            window = self._ledger.sealed_windows(ack.size - 1)[0]
            size = window.size
            if size == ack.size:
                proof = prove_fork(window.note, ack.checkpoint, device.verifying_key)
            else:
                frontier = self._ledger.frontier_at(ack.size)
                path = consistency_proof_from(frontier, self._ledger.leaves(ack.size, size), size)
                proof = prove_fork(window.note, ack.checkpoint, device.verifying_key, root=frontier.root(), proof=path)
        place = folder / fork_name(ack.origin, ack.size, size)
        try:
            make_folders(folder)
            write_file(place, [proof], mode=BUNDLE_MODE, overwrite=True)
        except OSError as exc:
            raise unwritable(exc, folder) from exc
        return place

    # ---- what comes along -------------------------------------------------------------------------------------------

    def _keep(self, ack: Ack, blob: bytes, done: Imported) -> None:
        """In the state directory for the next bundle, and beside the records for auditors."""
        try:
            make_folders(self._state / ACKS_FOLDER, mode=0o750)
            write_file(self._state / ACKS_FOLDER / ack.file_name, [blob], mode=ACK_MODE, overwrite=True)
        except OSError as exc:
            raise unwritable(exc, self._state) from exc
        try:
            done.ack_file = self._output.keep_ack(ack.file_name, blob)
        except OutputUnwritableError as exc:
            done.warnings.append(f"the acknowledgement could not be put beside the records: {exc}. {exc.next_step}")

    def _raise_time(self, ack: Ack, done: Imported) -> None:
        if ack.time_anchor is None:
            return
        anchor_ns = int(ack.time_anchor.timestamp()) * 1_000_000_000
        if anchor_ns > self._ledger.now().ns:
            done.time_before = self._ledger.adopt_time(anchor_ns, {"action": "anchor"}).at

    def _take_revocation(self, ack: Ack, root: TrustRoot, view: LicenseView, done: Imported) -> None:
        if ack.revocation is None:
            return
        try:
            revocation = open_revocation(ack.revocation, root)
            if revocation.revoked.sequence > view.revoked_sequence:
                keep_revocation(self._state, ack.revocation)
                done.revocation = revocation.revoked.sequence
        except LicensesError as exc:
            done.warnings.append(f"the revocation that came along is not good: {exc}. {exc.next_step}")
        except OSError as exc:
            done.warnings.append(f"the revocation that came along could not be kept: {unwritable(exc, self._state)}")

    def _take_license(self, ack: Ack, root: TrustRoot, done: Imported) -> None:
        if ack.license is None:
            return
        device = self._licenses.device
        try:
            lic = open_license(ack.license, root)
        except LicensesError as exc:
            done.license_problem = f"the licence that came along is not good: {exc}. {exc.next_step}"
            return
        judgement = judge(
            replace(lic, bindings=Bindings()),  # the host is looked at where the folder is read
            at=self._ledger.now().at,
            device_public=device.raw if device else None,
            sequence_floor=self._ledger.license_floors(),
        )
        if judgement.standing in _UNFIT:
            done.license_problem = f"the licence that came along is of no use here: {judgement.reason}"
            return
        name = f"{lic.license_id}-{lic.sequence}.dat"
        present = self._present(ack.license)
        if present is not None:
            done.license_file = present
            return
        place = self._license_directory / name
        try:
            write_file(place, [ack.license], mode=LICENSE_MODE, overwrite=True)
            done.license_file = place
        except OSError as exc:
            self._set_license_aside(ack.license, name, exc, done)

    def _present(self, blob: bytes) -> Path | None:
        """Where the licence lies in the folder already, under any name."""
        with suppress(LicensesError):
            for file in read_folder(self._license_directory):
                if file.blob == blob:
                    return self._license_directory / file.name
        return None

    def _set_license_aside(self, blob: bytes, name: str, exc: OSError, done: Imported) -> None:
        try:
            write_file(self._state / name, [blob], mode=LICENSE_MODE, overwrite=True)
        except OSError as state_exc:
            done.license_problem = (
                f"the licence that came along could not be kept: {unwritable(state_exc, self._state)}"
            )
            return
        done.license_problem = (
            f"the licence folder {self._license_directory} cannot be written from here: {exc.strerror or exc}"
        )
        done.copy_command = f"cp {shlex.quote(str(self._state / name))} {shlex.quote(str(self._license_directory))}/"
