"""The spool: each operation is a folder of plain files, so that a poll can hit any process and a restart loses nothing.

Invariant: a result is visible if and only if `outcome.json` is there, and that file appears by one atomic rename,
after the ledger's commit. Names inside the spool are made from operation ids alone, never from what a client sent.

Layout of `<Mounts:Shared>/operations/<operation id>/`:

* `document`: the bytes as they arrived; removed with the outcome.
* `request.json`: what was asked; its presence means that the operation was accepted.
* `pages/<n>.json`: one `PageText` each, hidden until the outcome is there.
* `outcome.json`: how it ended.
* `claim`: locked by the process that works on it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ocr_core.page_text import PageText
from sidecar.errors import DocumentRefusedError, OperationNotFoundError, SpoolUnavailableError

Status = Literal["notStarted", "running", "succeeded", "failed"]
_GUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """One accepted operation.

    Attributes:
        operation_id: GUID, lower case.
        created_ns: Wall clock when it was accepted, nanoseconds since the epoch.
        pages: Pages of the source document to read, ascending, from 1.
        language: BCP-47 code asked for; None to let the core choose.
        reading_order: `basic` or `natural`.
        license_id: Licence under which it was admitted.
        synchronous: The client waits on the connection; after a restart nobody can fetch the result.
    """

    operation_id: str
    created_ns: int
    pages: tuple[int, ...]
    language: str | None
    reading_order: str
    license_id: str
    synchronous: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An operation as a poll sees it.

    Attributes:
        operation_id: GUID, lower case.
        status: In the words of Read 3.2.
        created_ns: When it was accepted, nanoseconds since the epoch.
        updated_ns: When it last changed.
        pages: The pages read; empty unless succeeded.
        errors: `(code, message)` pairs; empty unless failed.
    """

    operation_id: str
    status: Status
    created_ns: int
    updated_ns: int
    pages: tuple[PageText, ...] = ()
    errors: tuple[tuple[str, str], ...] = ()


class OperationStore:
    """The spool's folder.

    Args:
        shared_directory: `Mounts:Shared`.
        result_seconds: How long an outcome can be fetched.
    """

    def __init__(self, shared_directory: Path, *, result_seconds: float) -> None:
        self._root = shared_directory / "operations"
        self._result_ns = int(result_seconds * 1e9)

    def prepare(self) -> None:
        """Make the spool's folder.

        Raises:
            SpoolUnavailableError: It cannot be made or written.
        """
        try:
            self._root.mkdir(mode=0o750, parents=True, exist_ok=True)
            if not os.access(self._root, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied", str(self._root))
        except OSError as exc:
            raise _unavailable(exc, self._root) from exc

    # ---- on the way in ----------------------------------------------------------------------------------------------

    def receive(self, operation_id: str, chunks: Iterable[bytes], *, max_bytes: int) -> int:
        """Store a document as it arrives, without holding it in memory.

        Returns:
            Its size in bytes.

        Raises:
            DocumentRefusedError: More than `max_bytes` arrived, or none.
            SpoolUnavailableError: The spool is full or broken.
        """
        folder = self._folder(operation_id)
        size = 0
        try:
            folder.mkdir(mode=0o750)
            with (folder / "document").open("xb") as out:
                for chunk in chunks:
                    size += len(chunk)
                    if size > max_bytes:
                        raise DocumentRefusedError(
                            "InvalidImageSize", f"Input image is too large: at most {max_bytes} bytes are accepted."
                        )
                    out.write(chunk)
        except OSError as exc:
            self.discard(operation_id)
            raise _unavailable(exc, self._root) from exc
        except BaseException:
            self.discard(operation_id)
            raise
        return size

    def accept(self, request: ReadRequest) -> None:
        """Make the operation known: from here on it is finished, also over a restart."""
        self._write(self._folder(request.operation_id) / "request.json", asdict(request))

    def discard(self, operation_id: str) -> None:
        """Remove an operation and all that belongs to it."""
        shutil.rmtree(self._folder(operation_id), ignore_errors=True)

    # ---- while it runs ----------------------------------------------------------------------------------------------

    def claim(self, operation_id: str) -> int | None:
        """Take an unfinished operation for this process.

        Returns:
            A file descriptor that holds the claim until it is closed, or None when another process has it.
        """
        try:
            handle = os.open(self._folder(operation_id) / "claim", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return None
        return handle

    def unfinished(self) -> Iterator[ReadRequest]:
        """Accepted operations that have no outcome yet, oldest first."""
        found = []
        for folder in self._folders():
            if (folder / "outcome.json").exists():
                continue
            request = self._read(folder / "request.json")
            if request is not None:
                found.append(ReadRequest(**{**request, "pages": tuple(request["pages"])}))
        yield from sorted(found, key=lambda request: request.created_ns)

    def begin(self, operation_id: str) -> None:
        """Note that work on the operation has begun."""
        try:
            (self._folder(operation_id) / "pages").mkdir(exist_ok=True)
        except OSError as exc:
            raise _unavailable(exc, self._root) from exc

    def has_page(self, operation_id: str, page: int) -> bool:
        """Whether a page was read before a restart."""
        return (self._folder(operation_id) / "pages" / f"{page}.json").exists()

    def put_page(self, operation_id: str, page: PageText) -> None:
        """Keep a page that was read; nobody sees it before the outcome."""
        _replace(self._folder(operation_id) / "pages" / f"{page.page}.json", page.to_wire(), self._root)

    def finish(self, operation_id: str, *, finished_ns: int, errors: Iterable[tuple[str, str]] = ()) -> None:
        """Make the outcome visible and let go of the document."""
        folder = self._folder(operation_id)
        failed = [list(error) for error in errors]
        self._write(
            folder / "outcome.json",
            {"status": "failed" if failed else "succeeded", "finished_ns": finished_ns, "errors": failed},
        )
        (folder / "document").unlink(missing_ok=True)

    # ---- on the way out ---------------------------------------------------------------------------------------------

    def get(self, operation_id: str, *, now_ns: int, begun: bool = False) -> Operation:
        """Look an operation up.

        Args:
            operation_id: As the client sent it; anything that is no GUID is simply not found.
            now_ns: Wall clock, nanoseconds since the epoch.
            begun: Whether this process knows that work has begun.

        Raises:
            OperationNotFoundError: Unknown, expired or deleted.
        """
        folder = self._folder(operation_id.lower())
        request = self._read(folder / "request.json")
        if request is None:
            raise OperationNotFoundError(f"no operation {folder.name}")
        outcome = self._read(folder / "outcome.json")
        created_ns = int(request["created_ns"])
        if outcome is None:
            pages = folder / "pages"
            try:
                updated_ns, running = pages.stat().st_mtime_ns, True
            except OSError:
                updated_ns, running = created_ns, begun
            return Operation(
                operation_id=folder.name,
                status="running" if running else "notStarted",
                created_ns=created_ns,
                updated_ns=max(created_ns, updated_ns),
            )
        finished_ns = int(outcome["finished_ns"])
        if now_ns > finished_ns + self._result_ns:
            raise OperationNotFoundError(f"operation {folder.name} has expired")
        return Operation(
            operation_id=folder.name,
            status=outcome["status"],
            created_ns=created_ns,
            updated_ns=finished_ns,
            pages=() if outcome["errors"] else tuple(self._pages(folder, request["pages"])),
            errors=tuple((str(code), str(message)) for code, message in outcome["errors"]),
        )

    def expire(self, *, now_ns: int) -> int:
        """Remove outcomes past their lifetime and uploads that never became operations.

        Returns:
            How many folders were removed.
        """
        removed = 0
        for folder in self._folders():
            outcome = self._read(folder / "outcome.json")
            if outcome is not None:
                stale = now_ns > int(outcome["finished_ns"]) + self._result_ns
            elif (folder / "request.json").exists():
                stale = False
            else:
                stale = now_ns > _modified_ns(folder) + 3600 * 1_000_000_000
            if stale:
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
        return removed

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _folder(self, operation_id: str) -> Path:
        if not _GUID.fullmatch(operation_id):
            raise OperationNotFoundError("the operation id is no GUID")
        return self._root / operation_id

    def _folders(self) -> list[Path]:
        try:
            with os.scandir(self._root) as entries:
                return [Path(entry.path) for entry in entries if _GUID.fullmatch(entry.name)]
        except OSError as exc:
            raise _unavailable(exc, self._root) from exc

    def _pages(self, folder: Path, numbers: Iterable[int]) -> Iterator[PageText]:
        for number in numbers:
            try:
                yield PageText.from_bytes((folder / "pages" / f"{number}.json").read_bytes())
            except (OSError, ValueError) as exc:
                raise SpoolUnavailableError(f"page {number} of operation {folder.name}: {exc}") from exc

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            return dict(json.loads(path.read_bytes()))
        except (FileNotFoundError, ValueError):
            return None  # never written, or torn by a power cut: as good as not there
        except OSError as exc:
            raise _unavailable(exc, self._root) from exc

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        _replace(path, json.dumps(content).encode("utf-8"), self._root)


def _replace(path: Path, content: bytes, root: Path) -> None:
    temporary = path.with_suffix(".new")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as exc:
        raise _unavailable(exc, root) from exc


def _modified_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _unavailable(exc: OSError, root: Path) -> SpoolUnavailableError:
    return SpoolUnavailableError(
        f"{root}: {exc.strerror or exc}",
        next_step=f"check free space and owner of {root.parent} (Mounts:Shared); wanted: {os.geteuid()}:{os.getegid()}",
    )
