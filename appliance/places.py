"""Where everything lies on a machine.

Invariant: what the installer owns (programs, units, links) and what belongs to the site (settings, licences, ledger,
records) never share a folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

COMMANDS = ("licenses", "ocr-core", "sidecar", "usage-verify")
"""Linked into the path of every user."""
INSTALLER_COMMAND = "tollgate-install"
UNIT_SUFFIXES = (".path", ".service", ".socket", ".target")
TARGET = "ocr-sidecar.target"
USER = "nonroot"
UID = GID = 65532

_RELEASE_ID = re.compile(r"[0-9]+(?:\.[0-9]+)*-[0-9a-f]{8}")
_OWN_UNIT = re.compile(r"ocr-(?:core|sidecar)[.-]")
_COMPLETE = ".complete"


@dataclass(frozen=True, slots=True)
class Places:
    """The folders and files of one machine.

    Attributes:
        root: Where its file system begins; another one than `/` in tests alone.
    """

    root: Path = Path("/")

    @property
    def programs(self) -> Path:
        """Holds one folder for each release, and `current`."""
        return self.root / "opt/tollgate"

    @property
    def current(self) -> Path:
        """The link to the release in force."""
        return self.programs / "current"

    @property
    def staging(self) -> Path:
        """Verified copies of wheels, while a release is made of them."""
        return self.programs / ".staging"

    @property
    def guests(self) -> Path:
        """Where installers of bundles run from, each in a folder of its own; gone with the boot."""
        return self.root / "run"

    @property
    def journal(self) -> Path:
        """Tells a later run which release an interrupted one came from."""
        return self.programs / ".switch.json"

    @property
    def lock(self) -> Path:
        """Held by the one installer at work; gone with the boot."""
        return self.root / "run/tollgate-install.lock"

    @property
    def units(self) -> Path:
        """Below what `systemctl edit` writes, above nothing of the distribution's."""
        return self.root / "usr/local/lib/systemd/system"

    @property
    def sysusers(self) -> Path:
        """The users of the service."""
        return self.root / "usr/local/lib/sysusers.d/tollgate.conf"

    @property
    def tmpfiles(self) -> Path:
        """The folders of the service."""
        return self.root / "usr/local/lib/tmpfiles.d/tollgate.conf"

    @property
    def commands(self) -> Path:
        """For commands of every user."""
        return self.root / "usr/local/bin"

    @property
    def root_commands(self) -> Path:
        """For commands of the administrator."""
        return self.root / "usr/local/sbin"

    @property
    def tessdata(self) -> Path:
        """Language data, where Debian's packages put theirs too."""
        return self.root / "usr/share/tesseract-ocr/5/tessdata"

    @property
    def configuration(self) -> Path:
        """Settings, licences and trusted keys of the site."""
        return self.root / "etc/tollgate"

    @property
    def settings(self) -> Path:
        """The site's settings."""
        return self.configuration / "sidecar.conf"

    @property
    def trust_root(self) -> Path:
        """Whose licences are believed."""
        return self.configuration / "trust-root.json"

    @property
    def release_key(self) -> Path:
        """Whose upgrades are believed."""
        return self.configuration / "release-key.pem"

    @property
    def licenses(self) -> Path:
        """Licence files, unless a setting names another folder."""
        return self.configuration / "license"

    @property
    def state(self) -> Path:
        """Ledger and device key, unless a setting names another folder."""
        return self.root / "var/lib/sidecar"

    @property
    def output(self) -> Path:
        """Usage records, unless a setting names another folder."""
        return self.root / "var/lib/tollgate/output"

    @property
    def spool(self) -> Path:
        """Documents and results, unless a setting names another folder."""
        return self.root / "var/lib/tollgate/share"

    def releases(self) -> list[Path]:
        """The folders of all releases, complete or not."""
        if not self.programs.is_dir():
            return []
        return sorted(path for path in self.programs.iterdir() if _RELEASE_ID.fullmatch(path.name) and path.is_dir())

    def halves(self) -> list[Path]:
        """The folders of releases that were not made, or not removed, to their end."""
        return [release for release in self.releases() if not is_complete(release)]

    def installed(self) -> Path | None:
        """The release in force; None when there is none."""
        if not self.current.is_symlink():
            return None
        release = self.programs / self.current.readlink().name
        return release if is_complete(release) else None


def unit_names(places: Places) -> list[str]:
    """The units that any release here brings, and those that lie in their place, whoever removed their release."""
    brought = {path.name for release in places.releases() for path in unit_files(release)}
    lying = {path.name for path in places.units.glob("ocr-*") if _OWN_UNIT.match(path.name)}
    return sorted(name for name in brought | lying if (places.units / name).exists())


def is_complete(release: Path) -> bool:
    """Whether a release was made to its end."""
    return (release / _COMPLETE).is_file()


def mark_of(release: Path) -> Path:
    """The file that says that a release was made to its end; the last that is written."""
    return release / _COMPLETE


def parts_of(release: Path) -> Path:
    """What a release keeps of its bundle: manifest, units, language data, documents, the installer."""
    return release / "bundle"


def unit_files(release: Path) -> list[Path]:
    """The units that a release brings."""
    folder = parts_of(release) / "systemd"
    return sorted(path for path in folder.iterdir() if path.suffix in UNIT_SUFFIXES) if folder.is_dir() else []


def version_of(release: Path) -> str:
    """The version in a release's name."""
    return release.name.rpartition("-")[0]
