"""The licence in force, as a process that runs for months sees it.

Invariants:

* Web, meter and core look through this one module, so they agree.
* A licence in force stays in force as long as it is good itself and its file's name is still there: a truncated,
  half-copied, unreadable or worse file under that name disturbs nothing.
* A file that is taken away is taken away: what was read from it is forgotten.
* What is remembered outlives a process: the keeper (the meter) writes it beside the ledger, the others read it there.
  Nothing rests on that copy's honesty: it is a licence file like any other and is verified like one.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from licenses import durable
from licenses.device_key import load_device_public
from licenses.errors import FolderError, LicensesError
from licenses.folder import Choice, FileVerdict, LicenseFile, choose, read_folder
from licenses.host import HostFactors
from licenses.keyring import TrustRoot, load_trust_root
from licenses.keys import VerifyingKey
from licenses.model import License
from licenses.strict_json import MAX_BYTES, canonical, parse_object
from licenses.verify import Judgement

KEPT_NAME = "license.kept"
_MAX_KEPT_BYTES = 2 * MAX_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class LicenseView:
    """What was found at one look.

    Attributes:
        license: The licence to go by; it need not serve.
        name: Its file's name.
        judgement: How it stands; None when there is no licence.
        verdicts: What became of each file.
        problem: Why there is no licence; empty when there is one.
    """

    license: License | None = None
    name: str = ""
    judgement: Judgement | None = None
    verdicts: tuple[FileVerdict, ...] = ()
    problem: str = ""

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
    """

    def __init__(
        self,
        directory: Path,
        *,
        trust_root_path: Path,
        state_directory: Path,
        host: HostFactors | None = None,
        keeper: bool = False,
    ) -> None:
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

    def look(self, at: datetime) -> LicenseView:
        """Read the folder and judge what is there at the effective time `at`; never raises."""
        try:
            root = self._current_root()
        except LicensesError as exc:
            return LicenseView(problem=f"the trust root cannot be used: {exc} {exc.next_step}")
        if self._kept is None:
            self._kept = self._recall()
        try:
            files = read_folder(self._directory)
        except FolderError as exc:
            if self._kept is None or not self._directory.is_dir():
                self._forget()
                return LicenseView(problem=f"{exc} {exc.next_step}")
            files = (LicenseFile(self._kept.name, None, str(exc)),)
        choice = self._choose(self._with_kept(files), root, at)
        self._keep(files, choice)
        if choice.best is None:
            return LicenseView(verdicts=choice.verdicts, problem=_problem(choice, self._directory))
        return LicenseView(
            license=choice.best, name=choice.best_name or "", judgement=choice.judgement, verdicts=choice.verdicts
        )

    def _with_kept(self, files: tuple[LicenseFile, ...]) -> tuple[LicenseFile, ...]:
        """Add the licence in force as it was read, if its file's name is there with other content."""
        kept = self._kept
        if kept is None:
            return files
        same_name = [file for file in files if file.name == kept.name]
        if not same_name:
            self._forget()
            return files
        return files if same_name[0].blob == kept.blob else (*files, kept)

    def _keep(self, files: tuple[LicenseFile, ...], choice: Choice) -> None:
        if not choice.serves:
            return
        for file in files:
            if file.name == choice.best_name and file.blob is not None and self._is(file, choice):
                if self._keeper and file != self._kept:
                    self._write_down(file)
                self._kept = file

    def _write_down(self, file: LicenseFile) -> None:
        """Best effort: where it fails, the licence in force is remembered until the process ends."""
        content = canonical({"name": file.name, "blob": base64.b64encode(file.blob or b"").decode("ascii")})
        with contextlib.suppress(OSError):
            durable.write_file(self._kept_path, [content], mode=0o440, overwrite=True)

    def _recall(self) -> LicenseFile | None:
        """What the keeper wrote down; it counts only while a file of that name is in the folder."""
        try:
            with self._kept_path.open("rb") as stream:
                fields = parse_object(stream.read(_MAX_KEPT_BYTES), what="kept licence", max_bytes=_MAX_KEPT_BYTES)
            name = fields.text("name")
            return LicenseFile(name, base64.b64decode(fields.text("blob", max_length=_MAX_KEPT_BYTES), validate=True))
        except (OSError, LicensesError, binascii.Error, ValueError):
            return None

    def _forget(self) -> None:
        self._kept = None
        if self._keeper:
            with contextlib.suppress(OSError):
                self._kept_path.unlink()

    def _is(self, file: LicenseFile, choice: Choice) -> bool:
        """Whether the file under the chosen name is the chosen one, not what came in its place."""
        verdict = next(verdict for verdict in choice.verdicts if verdict.name == file.name)
        return verdict.license == choice.best

    def _choose(self, files: tuple[LicenseFile, ...], root: TrustRoot, at: datetime) -> Choice:
        device = self.device
        return choose(files, root, at=at, host=self._host, device_public=device.raw if device else None)

    def _current_root(self) -> TrustRoot:
        try:
            found = self._trust_root_path.stat()
            mark = (found.st_mtime_ns, found.st_size, found.st_ino)
        except OSError:
            mark = None
        if self._trust_root is None or (mark is not None and mark != self._trust_root_mark):
            try:
                self._trust_root = load_trust_root(self._trust_root_path)
            except LicensesError:
                if self._trust_root is None:
                    raise
            self._trust_root_mark = mark
        return self._trust_root


def _problem(choice: Choice, directory: Path) -> str:
    if not choice.verdicts:
        return f"there is no licence file in {directory}"
    told = "; ".join(f"{verdict.name}: {verdict.reason}" for verdict in choice.verdicts[:5])
    return f"no valid disconnected container licence in {directory}: {told}"
