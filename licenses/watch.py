"""The licence in force, as a process that runs for months sees it.

Invariants:

* Web, meter and core look through this one module, so they agree.
* A licence in force stays in force as long as it is good itself and its file's name is still there: a truncated,
  half-copied, unreadable or worse file under that name disturbs nothing.
* A file that is taken away is taken away: a second later what was read from it is forgotten (a file that is being
  exchanged has no name for a moment). What it revoked stays revoked.
* The trust root in force gives way only to its successor; a production one, once believed here, is never rolled back.
* What is remembered outlives a process: the keeper (the meter) writes it beside the ledger, the others read it there.
  Nothing rests on that copy's honesty: it is a licence file like any other and is verified like one.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from licenses import durable
from licenses.device_key import load_device_public
from licenses.errors import FolderError, LicensesError
from licenses.folder import Choice, FileVerdict, LicenseFile, choose, read_folder
from licenses.host import HostFactors
from licenses.keyring import TrustRoot, load_successor, load_trust_root
from licenses.keys import VerifyingKey, read_small_file
from licenses.model import License
from licenses.strict_json import MAX_BYTES, canonical, parse_object
from licenses.verify import Judgement, judge, open_license

KEPT_NAME = "license.kept"
KEPT_REVOKED_NAME = "revoked.kept"
KEPT_ROOT_NAME = "trust-root.kept"
_MAX_KEPT_BYTES = 2 * MAX_BYTES
_EXCHANGED_WITHIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LicenseView:
    """What was found at one look.

    Attributes:
        license: The licence to go by; it need not serve.
        name: Its file's name.
        judgement: How it stands; None when there is no licence.
        verdicts: What became of each file.
        problem: Why there is no licence; empty when there is one.
        next_step: What to do about the first of the files that are there but grant nothing; empty when there is a
            licence, or no file.
        trust_root_problem: Why the installed trust root is not the one in force; empty when it is.
        trust_root_version: Of the one in force; 0 when there is none.
        revoked_sequence: Of the newest list of revocations; 0 without any.
    """

    license: License | None = None
    name: str = ""
    judgement: Judgement | None = None
    verdicts: tuple[FileVerdict, ...] = ()
    problem: str = ""
    next_step: str = ""
    trust_root_problem: str = ""
    trust_root_version: int = 0
    revoked_sequence: int = 0

    @property
    def serves(self) -> bool:
        """Whether there is a licence under which work is admitted."""
        return self.judgement is not None and self.judgement.serves


class LicenseWatch:
    """Looks at the licence folder again and again, and remembers the good licence it saw last.

    Not safe to share between threads without a lock.

    Args:
        directory: The folder of licence files.
        trust_root_path: The vendor's public keys.
        state_directory: Where the device's public key appears at the meter's first start.
        host: The facts of this host.
        keeper: Whether this process writes down what is remembered; one process does.
        monotonic: Seconds from a clock that never steps.
    """

    def __init__(
        self,
        directory: Path,
        *,
        trust_root_path: Path,
        state_directory: Path,
        host: HostFactors | None = None,
        keeper: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._directory = directory
        self._trust_root_path = trust_root_path
        self._state_directory = state_directory
        self._host = host
        self._keeper = keeper
        self._kept_path = state_directory / KEPT_NAME
        self._trust_root: TrustRoot | None = None
        self._trust_root_mark: tuple[int, int, int] | None = None
        self._device: VerifyingKey | None = None
        self._kept: LicenseFile | None = None
        self._seen_name = ""
        self._missing_from: float | None = None
        self._revoked_by: bytes | None = None
        self._revoked_sequence = 0
        self._trust_root_problem = ""

    @property
    def trust_root(self) -> TrustRoot | None:
        """The trust root, once one could be read."""
        return self._trust_root

    @property
    def device(self) -> VerifyingKey | None:
        """The device's public key, once the meter has made it."""
        if self._device is None:
            try:
                self._device = load_device_public(self._state_directory)
            except LicensesError:
                return None
        return self._device

    def look(
        self,
        at: datetime,
        *,
        sequence_floor: int | Mapping[str, int] = 0,
        product_version: str | None = None,
        revoked_license_ids: Collection[str] = (),
        revoked_key_ids: Collection[str] = (),
        used: Mapping[str, int] | None = None,
    ) -> LicenseView:
        """Read the folder and judge what is there; never raises.

        Args:
            at: The effective time, aware UTC.
            sequence_floor: The highest sequence that was ever in force, best as a mapping from licence id.
            product_version: The version of this product; None leaves `min_version` unjudged.
            revoked_license_ids: Licences known to be taken back, besides what the files here and before them say.
            revoked_key_ids: The same for keys.
            used: Pages counted so far, by licence id; None where nobody counts.
        """
        try:
            root = self._current_root()
        except LicensesError as exc:
            return LicenseView(problem=f"the trust root cannot be used: {exc} {exc.next_step}")
        if self._kept is None:
            self._kept = self._recall()
        try:
            files = read_folder(self._directory)
        except FolderError as exc:
            if self._kept is None or not _is_folder(self._directory):
                self._forget()
                return self._view(problem=f"{exc} {exc.next_step}")
            files = (LicenseFile(self._kept.name, None, str(exc)),)
        device = self.device
        choice = choose(
            self._with_kept(files),
            root,
            at=at,
            host=self._host,
            device_public=device.raw if device else None,
            sequence_floor=sequence_floor,
            revoked_license_ids=revoked_license_ids,
            revoked_key_ids=revoked_key_ids,
            product_version=product_version,
            remembered=self._remembered(),
            used=used,
        )
        self._remember(choice)
        self._keep(files, choice)
        if choice.best is None:
            return self._view(verdicts=choice.verdicts, problem=_problem(choice, self._directory))
        return self._view(
            license=choice.best, name=choice.best_name or "", judgement=choice.judgement, verdicts=choice.verdicts
        )

    def vouches(self, license_id: str, sequence: int, at: datetime) -> bool:
        """Whether the keeper's licence in force is this one, and serves.

        While files are being exchanged, each process sees another moment of the folder; the keeper's word, which is
        the licence itself, settles it. Always false once its file was taken away.

        Args:
            license_id: Of the licence asked for.
            sequence: Of the licence asked for.
            at: The effective time, aware UTC.
        """
        kept = self._recall()
        if kept is None or kept.blob is None or self._trust_root is None:
            return False
        try:
            os.stat(self._directory / kept.name)
            lic = open_license(kept.blob, self._trust_root)
        except (OSError, LicensesError):
            return False
        if (lic.license_id, lic.sequence) != (license_id, sequence):
            return False
        device = self.device
        return judge(lic, at=at, host=self._host, device_public=device.raw if device else None).serves

    def _view(
        self,
        *,
        license: License | None = None,  # noqa: A002
        name: str = "",
        judgement: Judgement | None = None,
        verdicts: tuple[FileVerdict, ...] = (),
        problem: str = "",
    ) -> LicenseView:
        return LicenseView(
            license=license,
            name=name,
            judgement=judgement,
            verdicts=verdicts,
            problem=problem,
            next_step="" if license is not None else next((one.next_step for one in verdicts if one.next_step), ""),
            trust_root_problem=self._trust_root_problem,
            trust_root_version=self._trust_root.version if self._trust_root else 0,
            revoked_sequence=self._revoked_sequence,
        )

    def _remembered(self) -> tuple[bytes, ...]:
        """The files that carried the newest list of revocations, as this process and as the keeper saw it."""
        own = () if self._revoked_by is None else (self._revoked_by,)
        kept = recall_revocations(self._state_directory)
        return own if kept == own else (*own, *kept)

    def _remember(self, choice: Choice) -> None:
        if choice.revoked_by is None:
            return
        if self._keeper and choice.revoked_by != self._revoked_by:
            self._write(KEPT_REVOKED_NAME, choice.revoked_by)
        self._revoked_by, self._revoked_sequence = choice.revoked_by, choice.revoked_sequence

    def _with_kept(self, files: tuple[LicenseFile, ...]) -> tuple[LicenseFile, ...]:
        """Add the licence in force as it was read, if its name is there with other content or was a moment ago."""
        kept = self._kept
        if kept is None:
            return files
        same_name = [file for file in files if file.name == kept.name]
        if not same_name:
            if self._is_being_exchanged():
                return (*files, kept)
            self._forget()
            return files
        self._seen_name, self._missing_from = kept.name, None
        return files if same_name[0].blob == kept.blob else (*files, kept)

    def _is_being_exchanged(self) -> bool:
        """Whether the name of the licence in force, which this process has seen, is gone only since a moment ago."""
        if self._kept is None or self._kept.name != self._seen_name:
            return False
        now = self._monotonic()
        self._missing_from = now if self._missing_from is None else self._missing_from
        return now - self._missing_from < _EXCHANGED_WITHIN_SECONDS

    def _keep(self, files: tuple[LicenseFile, ...], choice: Choice) -> None:
        if not choice.serves:
            return
        for file in files:
            if file.name == choice.best_name and file.blob is not None and self._is(file, choice):
                if self._keeper and file != self._kept:
                    self._write_down(file)
                self._kept, self._seen_name, self._missing_from = file, file.name, None

    def _write_down(self, file: LicenseFile) -> None:
        blob = base64.b64encode(file.blob or b"").decode("ascii")
        self._write(KEPT_NAME, canonical({"name": file.name, "blob": blob}))

    def _write(self, name: str, content: bytes) -> None:
        """Best effort: where it fails, what is remembered is remembered until the process ends."""
        with contextlib.suppress(OSError):
            durable.write_file(self._state_directory / name, [content], mode=0o440, overwrite=True)

    def _recall(self) -> LicenseFile | None:
        """What the keeper wrote down; it counts only while a file of that name is in the folder."""
        return recall_license(self._state_directory)

    def _forget(self) -> None:
        # The keeper may not have noticed yet; what it still remembers was not seen by this process any more.
        self._kept, self._seen_name, self._missing_from = None, "", None
        if self._keeper:
            with contextlib.suppress(OSError):
                self._kept_path.unlink()

    def _is(self, file: LicenseFile, choice: Choice) -> bool:
        """Whether the file under the chosen name is the chosen one, not what came in its place."""
        verdict = next(verdict for verdict in choice.verdicts if verdict.name == file.name)
        return verdict.license == choice.best

    def _current_root(self) -> TrustRoot:
        try:
            found = self._trust_root_path.stat()
            mark = (found.st_mtime_ns, found.st_size, found.st_ino)
        except OSError:
            mark = None
        settled = mark == self._trust_root_mark and not self._trust_root_problem
        if self._trust_root is not None and (mark is None or settled):
            return self._trust_root
        before = self._trust_root or self._kept_root()
        try:
            if before is None or before.evaluation:
                root = load_trust_root(self._trust_root_path)
            else:
                root = load_successor(self._trust_root_path, before)
            self._trust_root_problem = ""
        except LicensesError as exc:
            if before is None or mark is None:
                raise
            root = before
            self._trust_root_problem = f"{exc}. {exc.next_step}"
        self._trust_root, self._trust_root_mark = root, mark
        if self._keeper and not self._trust_root_problem:
            self._keep_root()
        return root

    def _kept_root(self) -> TrustRoot | None:
        blob = _recalled(self._state_directory / KEPT_ROOT_NAME)
        try:
            return None if blob is None else TrustRoot.from_bytes(blob)
        except LicensesError:
            return None

    def _keep_root(self) -> None:
        try:
            blob = read_small_file(self._trust_root_path, doing="read the trust root", mode="0444", max_bytes=MAX_BYTES)
            if TrustRoot.from_bytes(blob) == self._trust_root and blob != _recalled(
                self._state_directory / KEPT_ROOT_NAME
            ):
                self._write(KEPT_ROOT_NAME, blob)
        except LicensesError:
            return  # it changed just now; the next look reads it again


def recall_license(state_directory: Path) -> LicenseFile | None:
    """The licence file that the keeper wrote down as the one in force, not verified; None where there is none."""
    blob = _recalled(state_directory / KEPT_NAME)
    try:
        if blob is None:
            return None
        fields = parse_object(blob, what="kept licence", max_bytes=_MAX_KEPT_BYTES)
        name = fields.text("name")
        return LicenseFile(name, base64.b64decode(fields.text("blob", max_length=_MAX_KEPT_BYTES), validate=True))
    except (LicensesError, binascii.Error, ValueError):
        return None


def keep_revocation(state_directory: Path, blob: bytes) -> None:
    """Write down a file with the newest list of revocations, verified by the caller, so that all processes obey it.

    Raises:
        OSError: The operating system refused.
    """
    durable.write_file(state_directory / KEPT_REVOKED_NAME, [blob], mode=0o440, overwrite=True)


def recall_revocations(state_directory: Path) -> tuple[bytes, ...]:
    """The file with the newest list of revocations that the keeper wrote down, for `choose(remembered=…)`."""
    blob = _recalled(state_directory / KEPT_REVOKED_NAME)
    return () if blob is None else (blob,)


def _recalled(path: Path) -> bytes | None:
    try:
        return read_small_file(path, doing="read what is remembered", mode="0440", max_bytes=_MAX_KEPT_BYTES)
    except LicensesError:
        return None


def _is_folder(path: Path) -> bool:
    """Whether it is there as a folder; one that may not be looked at is."""
    try:
        return path.is_dir()
    except PermissionError:
        return True


def _problem(choice: Choice, directory: Path) -> str:
    if not choice.verdicts:
        return f"no valid disconnected container licence: there is no licence file in {directory}"
    told = "; ".join(f"{verdict.name}: {verdict.reason}" for verdict in choice.verdicts[:5])
    return f"no valid disconnected container licence in {directory}: {told}"
