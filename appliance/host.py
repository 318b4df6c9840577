"""What of a machine decides whether Tollgate can be installed on it.

Invariants:

* Nothing is changed, made or sent; whoever may read the files may look.
* Each check has a result, a cause and a next step; what could not be looked at is a warning, never silence.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from appliance.places import UID, USER, Places, is_complete, version_of
from appliance.release import Manifest
from appliance.settings import is_accepted, read_settings
from appliance.system import System

OLDEST_SYSTEMD = 250
"""The first that has `LoadCredentialEncrypted=`."""
_LEAST_MEMORY = 2 * 1024**3
_LEAST_RECORD_ROOM = 1024**3
_MODULES = ("ctypes", "venv", "zipfile", "sqlite3", "ssl")
_DEFAULT_LISTEN = "0.0.0.0:5000"
_NAME_WIDTH = 14


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check.

    Attributes:
        name: What was looked at.
        result: `ok`, `warn` (it can be installed, with something amiss) or `fail`.
        cause: What was found.
        next_step: What to do; empty when nothing is to be done.
    """

    name: str
    result: Literal["ok", "warn", "fail"]
    cause: str
    next_step: str = ""

    def lines(self) -> Iterator[str]:
        """As people read it."""
        yield f"{self.result:>4}  {self.name:<{_NAME_WIDTH}}{self.cause}"
        if self.next_step:
            yield f"{'':{6 + _NAME_WIDTH}}→ {self.next_step}"

    def to_wire(self) -> dict[str, str]:
        """As programs read it."""
        return asdict(self)


def look_at(places: Places, system: System, manifest: Manifest) -> Iterator[Check]:
    """Look at everything that decides.

    Args:
        places: The machine.
        system: Its commands.
        manifest: What is to be installed.
    """
    yield _processor(places, manifest)
    yield _c_library(manifest)
    yield _python(manifest)
    yield _service_manager(system)
    yield _memory(places)
    yield from _room(places, manifest)
    yield _users(places)
    yield from _owners(places)
    yield _installed(places, manifest)
    yield from _hidden_units(places)
    yield _port(places, system)
    yield _terms(places)
    yield _licence(places)


def _processor(places: Places, manifest: Manifest) -> Check:
    machine = platform.machine()
    if machine != manifest.machine:
        return Check(
            "processor", "fail", f"this is a {machine}, the bundle is for {manifest.machine}", "Use another machine."
        )
    try:
        flags = (places.root / "proc/cpuinfo").read_text()
    except OSError as exc:
        return Check("processor", "warn", f"the flags cannot be read: {exc}", "Make sure that it has AVX2.")
    if " avx2" not in flags:
        return Check(
            "processor", "fail", "it has no AVX2, without which no page can be read",
            "Use a processor with AVX2; for a virtual machine, choose a CPU model that passes it on (such as 'host').",
        )  # fmt: skip
    return Check("processor", "ok", f"{machine} with AVX2, {os.cpu_count()} processors")


def _c_library(manifest: Manifest) -> Check:
    name, version = platform.libc_ver()
    wanted = ".".join(map(str, manifest.glibc))
    numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
    if name != "glibc" or numbers < manifest.glibc:
        return Check(
            "C library", "fail", f"this is {name or 'no glibc'} {version}, glibc {wanted} or newer is needed",
            "Use Debian 12, or a distribution that is as new.",
        )  # fmt: skip
    return Check("C library", "ok", f"glibc {version}; {wanted} or newer is needed")


def _python(manifest: Manifest) -> Check:
    wanted = ".".join(map(str, manifest.python))
    if sys.version_info[:2] != manifest.python:
        return Check(
            "Python", "fail", f"this is {platform.python_version()}, the wheels are made for {wanted}",
            f"Install Python {wanted} as python3 (Debian 12 has 3.11), or run the image of the bundle instead.",
        )  # fmt: skip
    missing = [name for name in _MODULES if importlib.util.find_spec(name) is None]
    if missing:
        return Check(
            "Python", "fail", f"its standard library lacks {', '.join(missing)}",
            "Install the package python3; python3-minimal is not enough.",
        )  # fmt: skip
    return Check("Python", "ok", platform.python_version())


def _service_manager(system: System) -> Check:
    version = system.manager_version()
    if version is None:
        return Check(
            "systemd", "fail", "systemd does not run this machine",
            "Boot it with systemd; in a container or elsewhere, run the image of the bundle instead.",
        )  # fmt: skip
    if version < OLDEST_SYSTEMD:
        return Check("systemd", "fail", f"this is {version}, {OLDEST_SYSTEMD} or newer is needed", "Use Debian 12.")
    return Check("systemd", "ok", f"version {version}")


def _memory(places: Places) -> Check:
    try:
        facts = (places.root / "proc/meminfo").read_text().split()
        amount = int(facts[facts.index("MemTotal:") + 1]) * 1024
    except (OSError, ValueError, IndexError):
        return Check("memory", "warn", "how much there is cannot be read", "Make sure that there are 2 GiB or more.")
    text = f"{amount / 1024**3:.1f} GiB"
    if amount < _LEAST_MEMORY:
        return Check("memory", "warn", f"{text} is little", "Give it 2 GiB or more; 1 GiB for each further processor.")
    return Check("memory", "ok", text)


def _room(places: Places, manifest: Manifest) -> Iterator[Check]:
    needed = 0
    if not is_complete(places.programs / manifest.release_id):  # the run after an interrupted one needs no room twice
        left = sum(_held(folder) for folder in (places.staging, *places.halves()))
        needed = max(0, manifest.installed_bytes - left)
    for name, place, wanted, severe in (
        ("programs", places.programs, needed, True),
        ("records", site_folder(places, "mounts:output", places.output), _LEAST_RECORD_ROOM, False),
        ("ledger", site_folder(places, "sidecar:statedirectory", places.state), _LEAST_RECORD_ROOM, False),
    ):
        there = _nearest(place)
        facts = os.statvfs(there)
        free = shutil.disk_usage(there).free
        told = f"{free / 1e9:.1f} GB free at {there}, {wanted / 1e9:.1f} GB are wanted"
        if facts.f_flag & os.ST_RDONLY:
            yield Check(name, "fail", f"{there} is mounted read-only", f"Mount it writable: findmnt -T {there}")
        elif severe and facts.f_flag & os.ST_NOEXEC:
            yield Check(name, "fail", f"{there} is mounted noexec", f"Mount it without noexec: findmnt -T {there}")
        elif free < wanted:
            yield Check(name, "fail" if severe else "warn", told, f"Free room, or use a larger disk: df {there}")
        else:
            yield Check(name, "ok", told)


def _users(places: Places) -> Check:
    """The service's user and group have their number, and nobody else is one of them."""
    try:
        users = _rows(places.root / "etc/passwd", 7)
        groups = _rows(places.root / "etc/group", 4)
    except (OSError, UnicodeError) as exc:
        return Check("users", "warn", f"they cannot be read: {exc}", "Look into /etc/passwd and /etc/group.")
    for kind, rows, command in (("user", users, "usermod"), ("group", groups, "groupmod")):
        for name, _, number, *_rest in rows:
            if (name == USER) != (number == str(UID)):
                return Check(
                    "users", "fail", f"{kind} {name} has the number {number}; the service needs {USER} to be {UID}",
                    f"Give that {kind} another name or number ({command}), so that {USER} can be {UID}.",
                )  # fmt: skip
    members = {name for name, *_, listed in groups if name == USER for name in listed.split(",") if name}
    members |= {name for name, _, _, group, *_rest in users if group == str(UID)}
    members -= {USER}
    if members:
        return Check(
            "users", "warn", f"{', '.join(sorted(members))} can read what is the service's, by the group {USER}",
            f"Unless that is wanted, take them out: {'; '.join(_leaves(name, users) for name in sorted(members))}",
        )  # fmt: skip
    there = any(name == USER for name, *_ in users)
    return Check("users", "ok", f"{USER} is {UID}" if there else f"{USER} ({UID}) will be made")


def _rows(file: Path, count: int) -> list[list[str]]:
    """The lines of a table of users or groups that have as many fields as they should."""
    return [row for line in file.read_text().splitlines() if len(row := line.split(":")) == count]


def _leaves(name: str, users: list[list[str]]) -> str:
    """The command by which somebody leaves the service's group, which may be his first or a further one."""
    is_first = any(row[0] == name and row[3] == str(UID) for row in users)
    return f"usermod --gid GROUP {name}" if is_first else f"gpasswd --delete {name} {USER}"


def _owners(places: Places) -> Iterator[Check]:
    """The folders that the service writes to, where they are there already."""
    for name, place in (
        ("state", site_folder(places, "sidecar:statedirectory", places.state)),
        ("output", site_folder(places, "mounts:output", places.output)),
        ("spool", site_folder(places, "mounts:shared", places.spool)),
    ):
        try:
            owner = place.stat().st_uid
        except FileNotFoundError:
            continue
        except OSError as exc:
            yield Check(name, "warn", f"{place} cannot be looked at: {exc.strerror}", "Run this as root.")
            continue
        if owner != UID:
            yield Check(
                name, "fail", f"{place} belongs to user {owner}, the service is {UID}", f"chown -R {UID}:{UID} {place}"
            )
        else:
            yield Check(name, "ok", f"{place} belongs to {USER}, and is kept")


def _installed(places: Places, manifest: Manifest) -> Check:
    if places.journal.exists() or places.halves():
        return Check(
            "installed", "warn", "an earlier run was interrupted", "Nothing to do: an installation cleans up after it."
        )
    release = places.installed()
    if release is None:
        kept = " (a ledger of earlier is there, and is kept)" if (places.state / "ledger.db").exists() else ""
        return Check("installed", "ok", f"nothing is; {manifest.version} will be{kept}")
    if release.name == manifest.release_id:
        return Check("installed", "ok", f"this very release, {manifest.version}")
    return Check("installed", "ok", f"version {version_of(release)}; {manifest.version} will take its place")


def _hidden_units(places: Places) -> Iterator[Check]:
    """Whole units of the administrator's go before those of a bundle; what only adds to them does not."""
    folder = places.root / "etc/systemd/system"
    hiding = sorted(path.name for path in folder.glob("ocr-*") if path.is_file() and not path.is_symlink())
    if hiding:
        yield Check(
            "units", "warn", f"{', '.join(hiding)} in {folder} hide those of the bundle",
            f"Unless that is wanted: systemctl revert {' '.join(hiding)}",
        )  # fmt: skip


def _port(places: Places, system: System) -> Check:
    listen = read_settings(places.settings).get("sidecar:listen", _DEFAULT_LISTEN)
    host, _, port = listen.rpartition(":")
    if system.is_active("ocr-sidecar-web.socket"):
        return Check("port", "ok", f"{listen} is held by this service")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host.strip("[]"), int(port)))
    except (OSError, ValueError, OverflowError) as exc:
        if isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE:
            return Check(
                "port", "fail", f"{listen} is taken by another program",
                f"Find it with 'ss -ltnp', and stop it; or choose another port: Sidecar:Listen in {places.settings} "
                "and 'systemctl edit ocr-sidecar-web.socket'.",
            )  # fmt: skip
        return Check(
            "port", "warn", f"{listen} could not be tried: {exc}", f"Check Sidecar:Listen in {places.settings}."
        )
    return Check("port", "ok", f"{listen} is free")


def _terms(places: Places) -> Check:
    if is_accepted(places.settings):
        return Check("licence terms", "ok", "accepted")
    return Check(
        "licence terms", "warn", "not accepted yet, so nothing will be started",
        f"Read them and give --accept-eula, or write 'Eula = accept' into {places.settings}.",
    )  # fmt: skip


def _licence(places: Places) -> Check:
    folder = license_folder(places)
    try:
        files = [path.name for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    except OSError as exc:
        return Check("licence", "warn", f"{folder} cannot be read: {exc.strerror}", "Run this as root.")
    if files:
        return Check("licence", "ok", f"{', '.join(sorted(files))} in {folder}")
    if is_connected(places):
        return Check("licence", "ok", "the billing endpoint gives it, in connected mode")
    return Check(
        "licence", "warn", f"there is no file in {folder}, so nothing will be started",
        f"Give --licence FILE, or copy the file that the vendor issued to {folder}.",
    )  # fmt: skip


def license_folder(places: Places) -> Path:
    """Where licence files lie on this machine."""
    return site_folder(places, "mounts:license", places.licenses)


def is_connected(places: Places) -> bool:
    """Whether the settings have the licence fetched from the billing endpoint, so that no file is needed."""
    return read_settings(places.settings).get("sidecar:mode", "").lower() == "connected"


def site_folder(places: Places, setting: str, default: Path) -> Path:
    """A folder of the site's: the one that a setting names, else the usual one."""
    named = read_settings(places.settings).get(setting)
    return places.root / named.lstrip("/") if named else default


def _held(folder: Path) -> int:
    """The bytes that come free when a folder is removed; what cannot be read counts as nothing."""
    sizes = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                facts = os.lstat(os.path.join(place, name))
                sizes[facts.st_dev, facts.st_ino] = facts.st_blocks * 512
    return sum(sizes.values())


def _nearest(path: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return next(one for one in (path, *path.parents) if one.is_dir())
