"""The log on the output mount: `Logging:Disk:*`, one series of JSON-lines files for each process.

Invariant: no two processes write one file, a line stands there whole or not at all, and the log never takes the space
that usage records need: below a reserve of free space nothing is written. Files lie beside the records, in
`<output>/computervisionread/<instance id>/logs/`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from licenses.device_key import instance_id_of, load_device_public
from licenses.durable import make_folders
from licenses.errors import LicensesError
from sidecar.clock import instant
from sidecar.errors import SettingsError
from sidecar.logs import LogEvent
from sidecar.record_output import instance_folder
from sidecar.settings import Settings

LOGS_FOLDER = "logs"
BYTES_PER_MEGABYTE = 1024 * 1024
_LEAST_KEPT_BYTES = 4 * BYTES_PER_MEGABYTE
_MOST_KEPT_BYTES = 64 * BYTES_PER_MEGABYTE
_LOOK_SECONDS = 5.0


class LogFiles:
    """Appends events to the newest file of this process's series.

    Args:
        output_directory: `Mounts:Output`; it must be there already.
        instance: The instance's id; None while it is not known yet.
        process: This process's name; the files' names begin with it.
        max_bytes: A new file is begun when the current one has so many; None for never.
        max_files: How many files of this kind of process are kept; None for all.
    """

    def __init__(
        self,
        output_directory: Path,
        instance: Callable[[], str | None],
        process: str,
        *,
        max_bytes: int | None,
        max_files: int | None,
    ) -> None:
        self._root = output_directory
        self._instance = instance
        self._process = process
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._names = re.compile(rf"{re.escape(process)}-(\d{{8}}T\d{{6}}Z)-(\d{{1,9}})-(\d{{1,9}})\.log")
        self._folder: Path | None = None
        self._file: int | None = None
        self._size = 0
        self._number = 0

    def deliver(self, events: deque[LogEvent]) -> bool:
        """Write events from the left; False until the meter has given the instance its id.

        Raises:
            OSError: The mount is missing, full, read-only or of another owner.
        """
        if self._folder is None:
            instance = self._instance()
            if instance is None:
                return False
            self._folder = instance_folder(self._root, instance) / LOGS_FOLDER
        if self._file is not None and os.fstat(self._file).st_nlink == 0:
            self.close()  # somebody removed the file; what is written to it would be seen by nobody
        while events:
            event = events[0]
            if self._file is None or (self._max_bytes is not None and self._size >= self._max_bytes):
                self._begin(event.wall_ns)
            self._require_room()
            self._append(json.dumps(event.to_wire(), ensure_ascii=False).encode("utf-8", "replace") + b"\n")
            events.popleft()
        return True

    def idle(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Close the current file."""
        descriptor, self._file = self._file, None
        if descriptor is not None:
            with contextlib.suppress(OSError):  # what it would tell was told when the line was written
                os.close(descriptor)

    def _begin(self, wall_ns: int) -> None:
        """Begin a new file, and remove the oldest where there are too many."""
        self.close()
        if not self._root.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._root))
        folder = self._folder
        assert folder is not None  # noqa: S101 - deliver() has seen to it
        make_folders(folder, mode=0o750)
        self._require_room()
        self._number += 1
        name = f"{self._process}-{instant(wall_ns):%Y%m%dT%H%M%SZ}-{os.getpid()}-{self._number}.log"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(folder / name, flags, 0o640)
        self._size = 0
        if self._max_files is not None:
            self._prune(folder, name, self._max_files)

    def _append(self, line: bytes) -> None:
        """Write a whole line, or none of it."""
        descriptor = self._file
        assert descriptor is not None  # noqa: S101 - as above
        written = 0
        try:
            while written < len(line):
                written += os.write(descriptor, line[written:])
        except OSError:
            if written:
                os.ftruncate(descriptor, self._size)
            raise
        self._size += written

    def _require_room(self) -> None:
        """Leave space to the records: a twentieth of the disk, from 4 to 64 MiB."""
        found = os.statvfs(self._root)
        kept = min(max(found.f_blocks * found.f_frsize // 20, _LEAST_KEPT_BYTES), _MOST_KEPT_BYTES)
        if found.f_bavail * found.f_frsize < kept:
            raise OSError(
                errno.ENOSPC, f"the last {kept // BYTES_PER_MEGABYTE} MiB are kept for usage records", str(self._root)
            )

    def _prune(self, folder: Path, current: str, keep: int) -> None:
        """Remove the oldest files of this kind of process, but none that a living process may be writing."""
        found = [match for name in os.listdir(folder) if (match := self._names.fullmatch(name)) and name != current]
        found.sort(key=lambda match: (match[1], int(match[2]), int(match[3])))
        for match in found[: max(0, len(found) + 1 - keep)]:
            if int(match[2]) == os.getpid() or not os.path.exists(f"/proc/{match[2]}"):
                (folder / match[0]).unlink(missing_ok=True)


def known_instance(state_directory: Path) -> str | None:
    """The instance's id; None before the meter's first start."""
    try:
        return instance_id_of(load_device_public(state_directory).raw)
    except LicensesError:
        return None


def require_log_mount(settings: Settings) -> None:
    """Refuse to start with a log on disk and no output mount to write it to (contract A.3, A.6).

    Raises:
        SettingsError: The mount is missing, cannot be written, or does not answer.
    """
    if not settings.disk_log_format:
        return
    root = settings.output_directory
    problem = ["does not answer"]

    def look() -> None:
        if not root.is_dir():
            problem[0] = "is no folder" if root.exists() else "does not exist"
        elif os.statvfs(root).f_flag & os.ST_RDONLY:
            problem[0] = "is mounted read-only"
        elif not os.access(root, os.W_OK | os.X_OK):
            problem[0] = f"cannot be written by {os.geteuid()}:{os.getegid()}"
        else:
            problem[0] = ""

    looking = threading.Thread(target=look, name="look-at-output", daemon=True)
    looking.start()
    looking.join(_LOOK_SECONDS)
    if problem[0]:
        raise SettingsError(
            f"Logging:Disk:Format is set, and the output folder {root} {problem[0]}",
            next_step=f"mount a volume at {root} (Mounts:Output) that {os.geteuid()}:{os.getegid()} may write, "
            "or take Logging:Disk:Format away",
        )
