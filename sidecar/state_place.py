"""Where the state lies in a container that was given no volume for it: beside the usage records.

Who runs the image by its shortest line mounts two folders, licence and output. Ledger and device key must outlive the
container all the same, or each start is a new device and a power cut takes pages that were answered with it.

Invariants:

* What is mounted at the state directory, or lies there already, is used; nothing is ever moved.
* Without both, the state goes to the output mount only where that can carry a ledger: another container does not keep
  its state there, and the file system's locks are to be relied on.
* Where it cannot be kept, that is said with the option that keeps it.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from licenses.durable import make_folders
from sidecar.bootstrap import MeterLock, ledger_path
from sidecar.errors import SidecarError
from sidecar.settings import Settings

FOLDER = "state"
_POINTER = "state"
_MOUNTS = Path("/proc/self/mountinfo")
_ROOT = Path("/")
# SQLite's memory that processes share, and locks that hold, are a matter of course on these.
_LOCAL_KINDS = {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePlace:
    """Where the state was put.

    Attributes:
        directory: The folder.
        outlives: Whether it is still there when the container is gone.
        reason: Why it is there; empty where it was mounted, or is not ours to choose.
    """

    directory: Path
    outlives: bool = True
    reason: str = ""


def place_of_state(settings: Settings, *, mounts: Path = _MOUNTS) -> Path:
    """Where the state of this container is; looks only, for commands beside the service.

    Args:
        settings: The settings.
        mounts: The kernel's list of mounts.
    """
    if not _may_choose(settings, mounts) or not _is_mounted(settings.output_directory, mounts):
        return settings.state_directory
    with contextlib.suppress(OSError):
        return Path(os.readlink(_pointer(settings)))
    return settings.output_directory / FOLDER


def choose_state(settings: Settings, *, mounts: Path = _MOUNTS) -> StatePlace:
    """Decide where the state goes, make that folder, and leave word of it for commands beside the service.

    Args:
        settings: The settings.
        mounts: The kernel's list of mounts.
    """
    if not _may_choose(settings, mounts):
        return StatePlace(directory=settings.state_directory)
    wanted = settings.output_directory / FOLDER
    problem = _problem(settings, wanted, mounts)
    place = (
        StatePlace(directory=settings.state_directory, outlives=False, reason=problem)
        if problem
        else StatePlace(directory=wanted, reason=f"no volume is mounted at {settings.state_directory}")
    )
    _leave_word(_pointer(settings), place.directory)
    return place


def _may_choose(settings: Settings, mounts: Path) -> bool:
    if not settings.state_on_output or _is_mounted(settings.state_directory, mounts):
        return False
    with contextlib.suppress(OSError):
        return not ledger_path(settings).exists()
    return True


def _problem(settings: Settings, wanted: Path, mounts: Path) -> str:
    """Why the state cannot lie there; empty when it can."""
    output = settings.output_directory
    if not _is_mounted(output, mounts):
        return f"nothing is mounted at {output} either"
    kind = _mount_of(output, mounts)[1]
    if kind not in _LOCAL_KINDS:
        return f"{output} is a file system of type {kind}, on which a ledger is not safe"
    try:
        make_folders(wanted, mode=0o700)
        MeterLock(replace(settings, state_directory=wanted)).release()
    except OSError as exc:
        return f"{wanted} cannot be made: {exc.strerror or exc}"
    except SidecarError as exc:
        return str(exc)
    return ""


def _pointer(settings: Settings) -> Path:
    return settings.core_socket.parent / _POINTER


def _leave_word(pointer: Path, directory: Path) -> None:
    with contextlib.suppress(OSError):  # then commands beside the service look where it should be
        pointer.unlink(missing_ok=True)
        pointer.symlink_to(directory)


def _is_mounted(path: Path, mounts: Path) -> bool:
    """Whether a folder lies on anything but the container's own root."""
    return _mount_of(path, mounts)[0] != _ROOT


def _mount_of(path: Path, mounts: Path) -> tuple[Path, str]:
    """Where what holds a path is mounted, and what kind of file system it is."""
    real = Path(os.path.realpath(path))
    found = (_ROOT, "")
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return found
    for line in lines:
        before, _, after = line.partition(" - ")
        words, kind = before.split(" "), after.partition(" ")[0]
        if len(words) < 5:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", _unescaped, words[4]))
        # Of two on the same place the later one is seen.
        if real.is_relative_to(point) and len(point.parts) >= len(found[0].parts):
            found = (point, kind)
    return found


def _unescaped(match: re.Match[str]) -> str:
    return chr(int(match[1], 8))
