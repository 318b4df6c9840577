"""Install, upgrade, remove.

Invariants:

* A release is made in a folder of its own, and counts from the moment that its mark is written. Until then the machine
  runs what it ran before.
* Putting a release in force is one function that may be run any number of times, from any state: it is what a first
  installation, an upgrade, the way back, and the run after an interrupted one do.
* The way back never brings back an older ledger: what the new version counted stays counted.
* The old release stays until the new one is up; settings, licences, ledger and records always stay.
"""

from __future__ import annotations

import contextlib
import fcntl
import filecmp
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.bundle import Bundle
from appliance.errors import (
    AlreadyRunningError,
    DowngradeError,
    InstallError,
    LicenseFileError,
    NotReadyError,
    RolledBackError,
    StepError,
)
from appliance.host import is_connected, license_folder, site_folder
from appliance.places import (
    COMMANDS,
    GID,
    INSTALLER_COMMAND,
    TARGET,
    USER,
    Places,
    is_complete,
    mark_of,
    parts_of,
    unit_files,
    unit_names,
    version_of,
)
from appliance.release import MANIFEST_NAME, version_numbers
from appliance.settings import accept_terms, is_accepted
from appliance.system import System

Say = Callable[[str], None]

_PARTS = (
    "CHANGELOG.md", "README.md", "checksums.txt", "docs/", "install.sh", "installer/", "release-key.pem",
    "sbom.cdx.json", "systemd/", "tessdata/", "trust-root.json", "usage-verify.pyz",
)  # fmt: skip
_SERVICES = (
    "ocr-core.service", "ocr-sidecar-meter.service", "ocr-sidecar-migrate.service", "ocr-sidecar-web.service",
)  # fmt: skip
_MAX_LICENSE_BYTES = 64 * 1024
_POLL_SECONDS = 0.5
_DECIDED = (
    "HOST_MISMATCH", "HOST_UNSUPPORTED", "MISMATCH", "NOT_YET_VALID", "OUT_OF_QUOTA", "REVOKED", "TERMINATED",
    "UNLICENSED",
)  # fmt: skip
"""States that do not pass by waiting, once the service has looked at everything."""
_SECONDS_TO_DECIDE = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the administrator asked for.

    Attributes:
        accept_terms: Whether to accept the licence terms for the site.
        license_file: A licence file to install; None for none.
        allow_downgrade: Whether an older version may take the place of a newer one.
        start: Whether to start the service where terms and licence allow it.
        wait_seconds: How long the service may take until it is ready.
    """

    accept_terms: bool = False
    license_file: Path | None = None
    allow_downgrade: bool = False
    start: bool = True
    wait_seconds: float = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What was in force before a switch began.

    Attributes:
        release: The name of the release; None when there was none.
        active: Whether it ran.
        ready: Whether it would serve a query.
    """

    release: str | None
    active: bool
    ready: bool


class Installer:
    """Works on one machine.

    Args:
        places: The machine.
        system: Its commands.
        say: Takes each line for the administrator.
    """

    def __init__(self, places: Places, system: System, say: Say) -> None:
        self._places = places
        self._system = system
        self._say = say

    def install(self, bundle: Bundle, wishes: Wishes) -> None:
        """Install a verified bundle, or upgrade to it.

        Raises:
            RolledBackError: It does not come up; the old release is in force again.
            InstallError: Something else failed; the cause and the next step are told.
        """
        places, manifest = self._places, bundle.manifest
        with self._alone():
            installed = places.installed()
            if installed is not None:
                self._require_no_downgrade(version_of(installed), manifest.version, wishes)
            new = places.programs / manifest.release_id
            try:
                self._make(bundle, new)
            except (InstallError, OSError):
                with contextlib.suppress(OSError):  # the disk that half a release fills is often the ledger's
                    self._remove(places.staging, *(() if is_complete(new) else (new,)))
                raise
            if wishes.license_file is not None:
                self._require_good_license(wishes.license_file, new)
            before = self._remember(new)
            old = places.programs / before.release if before.release else None
            try:
                state = self._switch(new, wishes, before)
            except (InstallError, OSError) as exc:
                if old is not None and old != new:
                    self._go_back(old, new, before, exc, wishes)
                if isinstance(exc, NotReadyError):
                    self._settle(bundle, new)  # it is installed; that it is not ready is the site's to mend
                raise
            self._settle(bundle, new)
            self._conclude(new, state)

    def uninstall(self) -> None:
        """Remove the programs; what belongs to the site stays, and is named.

        Raises:
            InstallError: Something could not be stopped or removed.
        """
        places = self._places
        with self._alone():
            units = unit_names(places)
            if units:
                self._say("Stopping the service; the meter closes its window …")
                self._system.stop(units)
                self._system.disable([name for name in units if _is_enabled_by_name(places.units / name)])
            self._say("Removing programs and units …")
            for release in places.releases():
                self._take_back_models(release)
            for name in units:
                (places.units / name).unlink(missing_ok=True)
            if units or places.releases():  # the releases go last: while one is there, an earlier run was cut off
                self._system.reload()
            places.sysusers.unlink(missing_ok=True)
            places.tmpfiles.unlink(missing_ok=True)
            for link in self._command_links():
                if link.is_symlink() and link.readlink().is_relative_to(places.programs):
                    link.unlink()
            self._remove(places.staging, *places.releases())
            for ours in (places.current, places.journal):
                ours.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                places.programs.rmdir()  # unless the site keeps something there
        self._tell_what_stays()

    # ---- one release ---------------------------------------------------------------------------------------------

    def _make(self, bundle: Bundle, release: Path) -> None:
        """Make the folder of a release; what an interrupted run left of it is removed before."""
        places = self._places
        if is_complete(release):
            self._say(f"Release {release.name} is made already.")
            return
        self._remove(places.staging, *places.halves())
        places.programs.mkdir(parents=True, exist_ok=True)
        self._say(f"Making release {release.name} in {places.programs} …")
        for member in bundle.members("wheelhouse/", "requirements/"):
            bundle.copy(member, places.staging / member.path)
        locks = sorted((places.staging / "requirements").iterdir())
        self._system.make_environment(release, places.staging / "wheelhouse", locks)
        for member in bundle.members(*_PARTS):
            bundle.copy(member, parts_of(release) / member.path)
        _replace(parts_of(release) / MANIFEST_NAME, bundle.envelope, 0o644)
        told = self._system.version_of_product(release)
        if told != bundle.manifest.version:
            raise StepError(f"the programs say that they are version {told}, not {bundle.manifest.version}")
        self._system.flush()
        _replace(mark_of(release), b"", 0o644)
        self._remove(places.staging)

    def _put_in_force(self, release: Path) -> None:
        """Users, folders, settings, units, commands and the link `current`, as this release wants them."""
        places, parts = self._places, parts_of(release)
        _replace(places.sysusers, (parts / "systemd/sysusers.conf").read_bytes(), 0o644)
        self._system.make_users(places.sysusers)
        if not places.settings.exists():
            _replace(places.settings, (parts / "systemd/sidecar.conf").read_bytes(), 0o640)
        self._take_trust_root(release)
        _replace(places.tmpfiles, (parts / "systemd/tmpfiles.conf").read_bytes(), 0o644)
        self._system.make_folders(places.tmpfiles)
        self._put_models(release)
        units = unit_files(release)
        named = {path.name for path in units}
        gone = [name for name in unit_names(places) if name not in named]
        if gone:
            self._system.disable(gone)
        for name in gone:
            (places.units / name).unlink()
        for path in units:
            _replace(places.units / path.name, path.read_bytes(), 0o644)
        _link(places.current, Path(release.name))
        for link in self._command_links():
            target = places.current / "bin" / link.name
            _link(link, parts_of(places.current) / "install.sh" if link.name == INSTALLER_COMMAND else target)
        self._system.reload()
        self._system.enable([path.name for path in units if _is_enabled_by_name(path)])

    def _command_links(self) -> list[Path]:
        places = self._places
        return [*(places.commands / name for name in COMMANDS), places.root_commands / INSTALLER_COMMAND]

    def _put_models(self, release: Path) -> None:
        """Language data, without touching what a package or a person put there."""
        ours = [parts_of(one) / "tessdata" for one in self._places.releases()]
        for model in sorted((parts_of(release) / "tessdata").rglob("*.traineddata")):
            path = model.relative_to(parts_of(release) / "tessdata")
            target = self._places.tessdata / path
            known = any((one / path).is_file() and _is_same(one / path, target) for one in ours)
            if target.exists() and _is_same(model, target):
                continue
            if not target.exists() or (known and not self._is_of_package(target)):
                _replace(target, model.read_bytes(), 0o644)
            else:
                self._say(f"{target} is another one than the bundle's, and is kept.")

    def _take_back_models(self, release: Path) -> None:
        folder = parts_of(release) / "tessdata"
        for model in folder.rglob("*.traineddata"):
            target = self._places.tessdata / model.relative_to(folder)
            if target.exists() and _is_same(model, target) and not self._is_of_package(target):
                target.unlink()
        for empty in (self._places.tessdata, *self._places.tessdata.parents[:2]):
            with contextlib.suppress(OSError):
                empty.rmdir()

    def _is_of_package(self, path: Path) -> bool:
        """Whether Debian's package manager put a file there."""
        lists = (self._places.root / "var/lib/dpkg/info").glob("tesseract-ocr*.list")
        place = f"/{path.relative_to(self._places.root)}"
        return any(place in one.read_text(errors="replace").splitlines() for one in lists)

    def _take_trust_root(self, release: Path) -> None:
        """The vendor's public keys: the first ones, or the successor of those that are there."""
        places, new = self._places, parts_of(release) / "trust-root.json"
        if not places.trust_root.exists():
            _replace(places.trust_root, new.read_bytes(), 0o644)
        elif _is_same(places.trust_root, new):
            return
        elif self._system.may_follow(release, places.trust_root, new):
            self._say("The vendor's trust root is replaced by its successor.")
            _replace(places.trust_root, new.read_bytes(), 0o644)
        else:
            self._say(f"The bundle's trust root does not follow the one in {places.trust_root}, which is kept.")

    # ---- the switch ----------------------------------------------------------------------------------------------

    def _remember(self, new: Path) -> Before:
        """What was in force before; by the journal, where an earlier run was interrupted.

        Args:
            new: The release that is to be put in force.
        """
        places = self._places
        installed = places.installed()
        ready = installed is not None and self._system.is_ready(installed)
        if not ready:  # what serves got through its switch: whatever the journal says of it is of long ago
            before = self._interrupted()
            if before is not None and (before.release is not None or installed in {None, new}):
                self._say("Going on where an earlier run was interrupted.")
                return before
        before = Before(
            release=installed.name if installed else None,
            active=installed is not None and self._is_up(installed),
            ready=ready,
        )
        said = {"release": before.release, "active": before.active, "ready": before.ready}
        _replace(places.journal, json.dumps(said).encode(), 0o600)
        return before

    def _interrupted(self) -> Before | None:
        """What the journal of an interrupted run tells; None where there is none, or what it names is gone."""
        places = self._places
        with contextlib.suppress(OSError, ValueError, TypeError):
            before = Before(**json.loads(places.journal.read_text()))
            if before.release is None or is_complete(places.programs / before.release):
                return before
        return None

    def _switch(self, new: Path, wishes: Wishes, before: Before) -> str | None:
        """Put a release in force and start it where that is allowed.

        Returns:
            What the running service says of itself; None when it was not started.
        """
        if before.release != new.name:
            self._stop()
        self._say(f"Putting {version_of(new)} in force …")
        self._put_in_force(new)
        if wishes.accept_terms and not is_accepted(self._places.settings):
            accept_terms(self._places.settings)
        if wishes.license_file is not None:
            self._put_license(wishes.license_file)
        # What ran, runs again: terms and licence may come from where this does not look, as a drop-in of the units.
        if not (wishes.start and (before.active or self._may_start())):
            return None
        self._start(new)
        return self._wait(new, wishes.wait_seconds, ready=before.ready or before.release is None)

    def _stop(self) -> None:
        """Stop whatever runs; the meter closes its window on the way."""
        units = unit_names(self._places)
        if any(self._system.is_active(unit) for unit in units):
            self._say("Stopping the service; the meter closes its window …")
            self._system.stop(units)

    def _may_start(self) -> bool:
        return is_accepted(self._places.settings) and not self._lacks_license()

    def _lacks_license(self) -> bool:
        return not self._license_files() and not is_connected(self._places)

    def _start(self, release: Path) -> None:
        self._say("Starting …")
        self._system.start(TARGET, [path.name for path in unit_files(release)])

    def _is_up(self, release: Path) -> bool:
        names = {path.name for path in unit_files(release)}
        return any(self._system.is_active(unit) for unit in _SERVICES if unit in names)

    def _wait(self, release: Path, seconds: float, *, ready: bool) -> str:
        """Wait until the service is ready; or, where it was not before either, until it answers.

        Raises:
            NotReadyError: It is not in time, or a process is down for good.
        """
        began = told = time.monotonic()
        while True:
            if self._system.is_ready(release):
                self._say(f"Ready after {time.monotonic() - began:.0f} s.")
                return self._system.status(release) or ""
            status = self._system.status(release)
            if not ready and status is not None:
                return status
            failed = [unit for unit in _SERVICES if self._system.has_failed(unit)]
            waited = time.monotonic() - began
            decided = status is not None and status.startswith(_DECIDED) and waited > _SECONDS_TO_DECIDE
            if failed or decided or waited > seconds:
                cause = f"{', '.join(failed)} failed" if failed else f"not ready after {waited:.0f} s"
                words = status or self._system.last_words(failed or _SERVICES)
                raise NotReadyError(f"{version_of(release)} does not come up: {cause}\n{words}".rstrip())
            if time.monotonic() - told > 10:
                told = time.monotonic()
                self._say(f"… waiting for it to be ready, {told - began:.0f} s")
            time.sleep(_POLL_SECONDS)

    def _go_back(self, old: Path, new: Path, before: Before, cause: Exception, wishes: Wishes) -> None:
        """Put the old release in force again, as it was.

        Raises:
            RolledBackError: Always; it tells how that ended.
        """
        self._say(f"{cause}")
        self._say(f"Going back to {version_of(old)} …")
        self._stop()
        if self._places.installed() != new:
            self._remove(new)  # which may give the way back the room that the switch lacked
        self._put_in_force(old)
        if before.active:
            self._start(old)
            self._wait(old, wishes.wait_seconds, ready=before.ready)
        self._places.journal.unlink(missing_ok=True)
        self._remove(new)
        how = "serves again" if before.active else "is in force again, stopped as it was"
        raise RolledBackError(
            f"{version_of(new)} did not come up, so {version_of(old)} {how}; ledger and records are as they were",
            next_step="Send the vendor the lines above and 'journalctl -u \"ocr-*\" --since -15min'.",
        ) from cause

    # ---- licences ------------------------------------------------------------------------------------------------

    def _require_good_license(self, file: Path, release: Path) -> None:
        """Have a licence file judged before it is put beside others."""
        places = self._places
        root = places.trust_root if places.trust_root.exists() else parts_of(release) / "trust-root.json"
        try:
            if file.stat().st_size > _MAX_LICENSE_BYTES:
                raise LicenseFileError(f"{file} is too long for a licence")
            self._system.verify_license(release, file, root)
        except OSError as exc:
            raise LicenseFileError(f"the licence file cannot be read: {exc}") from exc
        except StepError as exc:
            raise LicenseFileError(f"the licence is refused: {exc}") from exc

    def _put_license(self, file: Path) -> None:
        folder = license_folder(self._places)
        name = file.name if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", file.name) else "license.dat"
        target = folder / name
        if target.exists() and not _is_same(
            file, target
        ):  # the one that is there may be in force until this one begins
            digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
            target = target.with_name(f"{target.stem}-{digest}{target.suffix}")
        _replace(target, file.read_bytes(), 0o640)
        # A folder of the site's own has any group; the usual one was given the service's.
        group = folder.stat().st_gid if folder == self._places.licenses else GID
        os.chown(target, -1, group, follow_symlinks=False)
        self._say(f"The licence is in {target}.")

    def _license_files(self) -> list[Path]:
        folder = license_folder(self._places)
        return [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []

    # ---- the rest ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self._places.lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._places.lock, os.O_RDWR | os.O_CREAT, 0o600)
        os.set_inheritable(
            descriptor, True
        )  # what this starts and leaves behind when it is killed still holds the lock
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise AlreadyRunningError("another installation is at work on this machine") from exc
            yield
        finally:
            os.close(descriptor)

    def _require_no_downgrade(self, installed: str, version: str, wishes: Wishes) -> None:
        if version_numbers(version) < version_numbers(installed) and not wishes.allow_downgrade:
            raise DowngradeError(f"version {installed} is installed, and the bundle is {version}")

    def _settle(self, bundle: Bundle, new: Path) -> None:
        """From now on this release is what upgrades are held against, and there is no way back."""
        _replace(self._places.release_key, bundle.manifest.key.to_pem(), 0o644)
        self._places.journal.unlink(missing_ok=True)
        self._remove(self._places.staging, *(release for release in self._places.releases() if release != new))

    def _remove(self, *folders: Path) -> None:
        for folder in folders:
            if folder.is_dir():
                mark_of(folder).unlink(missing_ok=True)  # half a release is none
                shutil.rmtree(folder)

    def _conclude(self, release: Path, state: str | None) -> None:
        """Say what was reached, and the next step where there is one."""
        places = self._places
        self._say(f"Tollgate {version_of(release)} is installed.")
        steps = []
        if state is None:
            if not is_accepted(places.settings):
                steps.append(f"read the licence terms and write 'Eula = accept' into {places.settings}")
            if self._lacks_license():
                steps.append(f"copy the licence file that the vendor issued to {license_folder(places)}")
            steps.append(f"systemctl start {TARGET}")
            self._say("It is not started. What is left to do:")
            for number, step in enumerate(steps, 1):
                self._say(f"  {number}. {step}")
        else:
            self._say(state.rstrip())

    def _tell_what_stays(self) -> None:
        places = self._places
        usual = {places.state, places.output, places.spool, places.configuration}
        kept: Sequence[tuple[Path, str]] = [
            (site_folder(places, "sidecar:statedirectory", places.state), "ledger and device key"),
            (site_folder(places, "mounts:output", places.output), "usage records"),
            (site_folder(places, "mounts:shared", places.spool), "documents and results"),
            (license_folder(places), "licences"),
            (places.configuration, "settings, trusted keys, licences"),
        ]
        there = [(path, what) for path, what in kept if path.exists() and path != places.licenses]
        if not there:
            self._say("Tollgate is removed; nothing of it is left.")
            return
        self._say("Tollgate is removed. Kept, because only you may decide about it:")
        width = max(len(str(path)) for path, _ in there) + 2
        for path, what in there:
            self._say(f"  {path!s:<{width}}{what}")
        self._say("Once usage was acknowledged by the vendor and an auditor needs nothing more, remove them by hand:")
        self._say(f"  rm -r {' '.join(str(path) for path, _ in there if path in usual)}")
        for path, _ in there:
            if path not in usual:
                self._say(f"  what is Tollgate's in {path}: the folder is of your choice, and may hold more")
        self._say(f"  userdel {USER}; userdel ocr-core")


def _is_enabled_by_name(unit: Path) -> bool:
    return "[Install]" in unit.read_text()


def _is_same(one: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(one, other, shallow=False)


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Write a file so that it is whole or as it was, whatever happens; nothing when it is the same already."""
    if path.is_file() and not path.is_symlink() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.incoming")
    half.unlink(missing_ok=True)
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:  # never through a link
        stream.write(content)
        stream.flush()
        os.fchmod(stream.fileno(), mode)
        os.fsync(stream.fileno())
    half.replace(path)
    _sync(path.parent)


def _link(path: Path, target: Path) -> None:
    """Have a symbolic link lead to a target, at once."""
    if path.is_symlink() and path.readlink() == target:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.incoming")
    half.unlink(missing_ok=True)
    half.symlink_to(target)
    half.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
