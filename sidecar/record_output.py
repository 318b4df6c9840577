"""The output mount: where record files, checkpoints and acknowledgements of one instance go.

Invariant: the only place that writes there, but for the folder of the log (`log_files`). Every look at the mount has a
time limit, because a network file system may block for ever: a call that has not come back is left alone, and until it
has, nothing else is tried. Nothing is deleted: a file that is damaged is moved aside.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, TypeVar

from licenses.durable import make_folders, sweep, sync_folder, write_file
from licenses.usage_log.files import (
    CHECKPOINT_NAME,
    CHECKPOINTS_FOLDER,
    FOLDER,
    Tally,
    header_line,
    tally_trailer_line,
    write_once,
)
from licenses.usage_log.note import MAX_NOTE_BYTES
from sidecar.errors import OutputUnwritableError, unwritable
from sidecar.ledger import LedgerReader, SealedWindow

SERVICE_NAME = "computervisionread"
ASIDE_FOLDER = "aside"
ACKS_FOLDER = "acks"
FORKS_FOLDER = "forks"
_POLL_SECONDS = 0.25
_T = TypeVar("_T")


def instance_folder(output_directory: Path, instance: str) -> Path:
    """Where an instance's records lie on the output mount."""
    return output_directory / SERVICE_NAME / instance


def render_window(
    ledger: LedgerReader, window: SealedWindow, instance: str, *, previous_sha256: str | None = None
) -> Iterator[bytes]:
    """The bytes of a window's record file, in pieces; they depend on the ledger alone.

    Args:
        ledger: The ledger.
        window: The window.
        instance: Whose file.
        previous_sha256: Digest of the file before, where that is not on the output mount yet; None asks the ledger.

    Raises:
        LedgerUnavailableError: An entry of it is not there.
    """
    header = {
        **window.window,
        "instance": instance,
        "first_seq": window.first_seq,
        "previous_file_sha256": (
            ledger.file_sha256_before(window.size) if previous_sha256 is None else previous_sha256
        ),
        "frontier": window.frontier_before,
    }
    yield header_line(header) + b"\n"
    tally = Tally()
    for line in ledger.lines(window.first_seq, window.size):
        tally.add_line(line)
        yield line + b"\n"
    yield tally_trailer_line(tally, size=window.size, root=window.root) + b"\n"


class RecordOutput:
    """One instance's folder on the output mount.

    Args:
        output_directory: `Mounts:Output`; it must be there already, only what lies below is made.
        instance: Instance id, a folder's name.
        limit_seconds: How long the mount may give no sign of life before a call is given up.
    """

    def __init__(self, output_directory: Path, instance: str, *, limit_seconds: float = 20.0) -> None:
        self._root = output_directory
        self.folder = instance_folder(output_directory, instance)
        self.limit_seconds = limit_seconds
        self._stuck: tuple[Future[object], float] | None = None
        self._alive = time.monotonic()

    def probe(self, *, durable: bool = True) -> None:
        """Write and remove a file, as a record file would be written.

        Args:
            durable: Whether to wait for the disk, as a record file does, and to sweep up what killed writers left; a
                look every few seconds need not.

        Raises:
            OutputUnwritableError: It cannot be done; the text says what to do.
        """

        def work() -> None:
            if durable:
                for folder in (self.folder, self.folder / CHECKPOINTS_FOLDER):
                    sweep(folder)
            probe = self.folder / ".probe"
            self._make_folder(self.folder)
            with probe.open("wb") as out:
                out.write(b"\n")
                out.flush()
                if durable:
                    os.fsync(out.fileno())
            probe.unlink()

        self._bounded(work)

    def write(
        self, name: str, chunks: Iterator[bytes], checkpoint: str, size: int, *, newest: bool = True
    ) -> tuple[Path, str]:
        """Make a record file and its checkpoint durable.

        Args:
            name: Path below `usage/`.
            chunks: The file's bytes.
            checkpoint: The signed checkpoint at its end.
            size: Entries in the log at its end.
            newest: Whether `checkpoint` is to become this one.

        Returns:
            The file and the SHA-256 of its bytes, as 64 hex digits.

        Raises:
            FileExistsError: A file of that name holds other bytes.
            OutputUnwritableError: One of them is not durable.
        """
        path = self.folder / FOLDER / name

        def work() -> str:
            self._make_folder(path.parent)
            self._make_folder(self.folder / CHECKPOINTS_FOLDER)
            digest = write_once(path, self._noting(chunks))
            places = [f"{CHECKPOINTS_FOLDER}/{size}", *([CHECKPOINT_NAME] if newest else [])]
            for place in places:
                write_file(self.folder / place, [checkpoint.encode("utf-8")], mode=0o440, overwrite=True)
            return digest

        return path, self._bounded(work)

    def missing(self, files: Sequence[tuple[int, str]]) -> list[int]:
        """Which of these windows have lost their record file or their checkpoint.

        Args:
            files: Size of the log at a window's end, and path of its file below the instance's folder.

        Returns:
            The sizes.

        Raises:
            OutputUnwritableError: The mount cannot be looked at.
        """

        def work() -> list[int]:
            self._make_folder(self.folder)
            checkpoints = self._names(self.folder / CHECKPOINTS_FOLDER)
            names = {
                folder: self._names(self.folder / folder) for folder in {os.path.dirname(file) for _, file in files}
            }
            return [
                size
                for size, file in files
                if os.path.basename(file) not in names[os.path.dirname(file)] or str(size) not in checkpoints
            ]

        return self._bounded(work)

    def is_sound(self, file: str, sha256: bytes) -> bool:
        """Whether a record file has the bytes that were written.

        Raises:
            OutputUnwritableError: It cannot be read.
        """

        def work() -> bool:
            digest = hashlib.sha256()
            try:
                with _open_regular(self.folder / file) as stream:
                    while piece := stream.read(1024 * 1024):
                        self._alive = time.monotonic()
                        digest.update(piece)
            except (FileNotFoundError, _NotRegularError):
                return False
            return digest.digest() == sha256

        return self._bounded(work)

    def set_aside(self, file: str, at: datetime) -> str:
        """Move a damaged record file out of the way, without deleting anything.

        Args:
            file: Path below the instance's folder.
            at: Effective time, for the new name.

        Returns:
            The new path below the instance's folder; empty when there was no such file.

        Raises:
            OutputUnwritableError: It cannot be moved.
        """

        def work() -> str:
            source = self.folder / file
            if not source.exists():
                return ""
            self._make_folder(self.folder / ASIDE_FOLDER)
            stem = f"{ASIDE_FOLDER}/{at:%Y%m%dT%H%M%SZ}-{source.name}"
            name = next(
                name for name in (stem, *(f"{stem}.{n}" for n in range(2, 1000))) if not (self.folder / name).exists()
            )
            source.replace(self.folder / name)
            sync_folder(self.folder / ASIDE_FOLDER)
            sync_folder(source.parent)
            return name

        return self._bounded(work)

    def checkpoint(self) -> str:
        """The newest checkpoint on the mount, unverified; empty when there is none.

        Raises:
            OutputUnwritableError: The mount cannot be read.
        """

        def work() -> str:
            return self._note(CHECKPOINT_NAME)

        return self._bounded(work)

    def checkpoint_at(self, size: int) -> str:
        """The checkpoint on the mount at `size` entries, unverified; empty when there is none.

        Raises:
            OutputUnwritableError: The mount cannot be read.
        """
        return self._bounded(lambda: self._note(f"{CHECKPOINTS_FOLDER}/{size}"))

    def keep_ack(self, name: str, blob: bytes) -> Path:
        """Put an acknowledgement beside the records, where auditors find it.

        Raises:
            OutputUnwritableError: It cannot be written.
        """

        def work() -> None:
            self._make_folder(self.folder / ACKS_FOLDER)
            write_file(self.folder / ACKS_FOLDER / name, [blob], mode=0o440, overwrite=True)

        self._bounded(work)
        return self.folder / ACKS_FOLDER / name

    def keep_fork(self, name: str, blob: bytes) -> Path:
        """Put the proof of a fork beside the records, where auditors find it; what lies there already stays.

        Raises:
            OutputUnwritableError: It cannot be written.
        """
        place = self.folder / FORKS_FOLDER / name

        def work() -> None:
            if not place.exists():
                self._make_folder(place.parent)
                write_file(place, [blob], mode=0o440, overwrite=True)

        self._bounded(work)
        return place

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _bounded(self, work: Callable[[], _T]) -> _T:
        """Do it in a thread of its own, and wait while the mount shows signs of life."""
        if self._stuck is not None and not self._stuck[0].done():
            raise self._silent(time.monotonic() - self._stuck[1])
        self._stuck = None
        future: Future[_T] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as exc:  # noqa: BLE001 - handed to the caller, who is waiting for it
                future.set_exception(exc)

        self._alive = begun = time.monotonic()
        threading.Thread(target=run, name="record-output", daemon=True).start()
        while True:
            try:
                return future.result(timeout=_POLL_SECONDS)
            except OSError as exc:
                if isinstance(exc, FutureTimeoutError) and not (future.done() and future.exception() is exc):
                    if future.done():
                        continue  # it ended while this one stopped waiting
                    if time.monotonic() - self._alive > self.limit_seconds:
                        self._stuck = (future, begun)  # type: ignore[assignment]
                        raise self._silent(time.monotonic() - begun) from None
                    continue
                if isinstance(exc, FileExistsError):
                    raise
                raise unwritable(exc, self._root) from exc

    def _noting(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """A write that goes on is a sign of life."""
        for chunk in chunks:
            self._alive = time.monotonic()
            yield chunk
        self._alive = time.monotonic()

    def _silent(self, seconds: float) -> OutputUnwritableError:
        return OutputUnwritableError(
            f"{self._root} does not answer: a call begun {seconds:.0f} s ago has not come back",
            next_step=f"check the disk or network file system behind {self._root}: 'dmesg', "
            f"'findmnt -T {self._root}'; the records wait in the ledger",
        )

    def _note(self, name: str) -> str:
        with (
            suppress(FileNotFoundError, UnicodeDecodeError, _NotRegularError),
            _open_regular(self.folder / name) as stream,
        ):
            return stream.read(MAX_NOTE_BYTES).decode("utf-8")
        return ""

    def _names(self, folder: Path) -> set[str]:
        try:
            return set(os.listdir(folder))
        except FileNotFoundError:
            return set()

    def _make_folder(self, folder: Path) -> None:
        """Make a folder below the mount; the mount itself is the operator's to provide."""
        if not self._root.is_dir():
            missing = not self._root.exists()
            kind = FileNotFoundError if missing else NotADirectoryError
            raise kind(2 if missing else 20, "no such folder" if missing else "not a folder", str(self._root))
        make_folders(folder, mode=0o750)


class _NotRegularError(Exception):
    """Something that is no file lies where a file should."""


def _open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, but nothing that could keep the reader waiting."""
    stream = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise _NotRegularError(path)
    return stream
