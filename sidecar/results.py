"""The spool: each operation is a folder of plain files, so that a poll can hit any process and a restart loses nothing.

Invariant: a result is visible if and only if `outcome.json` is there, and that file appears by one atomic rename,
after the ledger's commit. Names inside the spool are made from operation ids alone, never from what a client sent.
A folder that cannot be understood is as good as none: it disturbs no other and expires by its age. How long a result is
kept is settled when its operation is accepted, and written down with it.

Layout of `<Mounts:Shared>/operations/<operation id>/`:

* `document`: the bytes as they arrived; removed with the outcome.
* `request.json`: what was asked; its presence means that the operation was accepted.
* `pages/<n>.json`: one `PageText` each, while the operation runs.
* `result.jsonl`: all of them, a line each, written before they are counted; it tells nothing without an outcome.
* `outcome.json`: how it ended, and until when it can be fetched.

`<Mounts:Shared>/unfinished/<operation id>+<pages>+<licence id>` is the operation's place: made before its document is
taken in (and called by the id alone until it is known how many pages the operation will use), removed with its outcome,
locked by the process that works on it. One look at that folder tells all processes the same: which operations wait, and
which pages are spoken for. Places are not synced to disk; `survey` makes those anew that a power cut took.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from licenses.durable import write_file
from ocr_core.page_text import PageText
from sidecar.errors import DocumentRefusedError, OperationNotFoundError, SpoolUnavailableError

Status = Literal["notStarted", "running", "succeeded", "failed"]
_MOST_KNOWN = 1000
_GONE = ".gone-"
_ABANDONED_NS = 3600 * 1_000_000_000
_GUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """One accepted operation.

    Attributes:
        operation_id: GUID, lower case.
        created_ns: Effective time when it was accepted, nanoseconds since the epoch.
        pages: Pages of the source document to read, ascending, from 1.
        language: BCP-47 code asked for; None to let the core choose.
        reading_order: `basic` or `natural`.
        license_id: Licence under which it was admitted.
        synchronous: The client waits on the connection; after a restart nobody can fetch the result.
        result_seconds: How long its outcome can be fetched; 0: until it was fetched once.
    """

    operation_id: str
    created_ns: int
    pages: tuple[int, ...]
    language: str | None
    reading_order: str
    license_id: str
    synchronous: bool
    result_seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """An outcome as it lies in the spool, to be known again without reading it: an outcome never changes.

    Attributes:
        operation_id: GUID, lower case.
        expires_ns: Effective time after which it is not found any more, nanoseconds since the epoch.
        mark: Inode and time of change of the outcome's file.
    """

    operation_id: str
    expires_ns: int
    mark: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An operation as a poll sees it.

    Attributes:
        operation_id: GUID, lower case.
        status: In the words of Read 3.2.
        created_ns: When it was accepted, nanoseconds since the epoch.
        updated_ns: When it last changed.
        pages: The pages read, one at a time; none unless succeeded.
        errors: `(code, message)` pairs; empty unless failed.
        ending: How it ended, to be known again; None until it has, and where it may be fetched once only.
        fetched_once: It is to be forgotten as soon as a client has had it.
    """

    operation_id: str
    status: Status
    created_ns: int
    updated_ns: int
    pages: Iterable[PageText] = ()
    errors: tuple[tuple[str, str], ...] = ()
    ending: Ending | None = None
    fetched_once: bool = False


class StoredPages:
    """The pages of a result, read from its file one at a time: all of them at once may be more than the memory holds.

    The file is open from the start, and can be read to its end also when the operation is removed meanwhile. Not to be
    read by two threads.

    Args:
        path: The file.
        operation_id: Whose result it is.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path, operation_id: str) -> None:
        self._operation_id = operation_id
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)

    def __iter__(self) -> Iterator[PageText]:
        """The pages, in order.

        Raises:
            SpoolUnavailableError: The file cannot be read, or holds something else.
        """
        try:
            with open(self._file, "rb", closefd=False) as lines:
                lines.seek(0)
                for line in lines:
                    yield PageText.from_bytes(line)
        except (OSError, ValueError) as exc:
            raise SpoolUnavailableError(f"the result of operation {self._operation_id} cannot be read: {exc}") from exc


@dataclass(slots=True)
class Place:
    """A place among the unfinished operations that this process holds.

    Attributes:
        path: Its file, which tells of it by its name.
        handle: Holds the lock on it, until it is closed or the process ends.
    """

    path: Path
    handle: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    finished_ns: int
    expires_ns: int
    fetched_once: bool
    errors: tuple[tuple[str, str], ...]


class OperationStore:
    """The spool's folder.

    Args:
        shared_directory: `Mounts:Shared`.
        result_seconds: How long an outcome can be fetched, where its operation does not say.
    """

    def __init__(self, shared_directory: Path, *, result_seconds: int) -> None:
        self._root = shared_directory / "operations"
        self._places = shared_directory / "unfinished"
        self._result_seconds = result_seconds
        self._problem = ""
        self._known: dict[str, tuple[tuple[int, int], int]] = {}

    @property
    def result_seconds(self) -> int:
        """How long an outcome can be fetched, where its operation does not say."""
        return self._result_seconds

    def prepare(self) -> None:
        """Make the spool's folder.

        Raises:
            SpoolUnavailableError: It cannot be made or written.
        """
        try:
            for folder in (self._root, self._places):
                folder.mkdir(mode=0o750, parents=True, exist_ok=True)
                if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                    raise PermissionError(13, "Permission denied", str(folder))
        except OSError as exc:
            raise _unavailable(exc, self._root) from exc

    def problem(self) -> str:
        """Why the spool cannot be written; empty when it can. Asks the disk only after a write has failed."""
        if self._problem:
            try:
                probe = self._root / ".probe"
                probe.write_bytes(bytes(65536))
                probe.unlink()
                self._problem = ""
            except OSError as exc:
                self._problem = str(_unavailable(exc, self._root))
        return self._problem

    # ---- places ------------------------------------------------------------------------------------------------------

    def enter(self, operation_id: str) -> Place:
        """Give a new operation its place, held by this process.

        Raises:
            SpoolUnavailableError: The spool is full or broken.
        """
        path = self._places / self._folder(operation_id).name
        while True:
            with self._writing():
                handle = self._open_place(path)
            fcntl.flock(handle, fcntl.LOCK_EX)  # whoever found it before it was locked lets go of it at once
            if os.fstat(handle).st_nlink:
                return Place(path, handle)
            os.close(handle)

    def take_over(self, name: str) -> Place | None:
        """Hold the place of an operation that nobody works on any more.

        Args:
            name: Of the place, from `places`.

        Returns:
            None when another process works on it, or when it has ended meanwhile.
        """
        path = self._places / name
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = path.stat().st_ino == os.fstat(handle).st_ino
        except OSError:
            held = False
        if not held:
            os.close(handle)
            return None
        return Place(path, handle)

    def leave(self, place: Place) -> None:
        """Give a place up."""
        with contextlib.suppress(OSError):  # a place that cannot be removed now is found to be over by whoever looks
            place.path.unlink()
        os.close(place.handle)

    def places(self) -> dict[str, str]:
        """All operations that are taken in or accepted and have not ended, in any process: places by operation id.

        Raises:
            SpoolUnavailableError: The spool cannot be read.
        """
        try:
            return {name[:36]: name for name in os.listdir(self._places) if _GUID.fullmatch(name[:36])}
        except OSError as exc:
            raise _unavailable(exc, self._places) from exc

    def reserve(self, place: Place, request: ReadRequest) -> None:
        """Note in an operation's place which pages it will use.

        Raises:
            SpoolUnavailableError: The spool is full or broken.
        """
        path = self._places / _place_name(request)
        with self._writing():
            place.path.rename(path)
        place.path = path

    def reserved(self, license_id: str) -> int:
        """Pages that operations which have not ended will use under a licence.

        Raises:
            SpoolUnavailableError: The spool cannot be read.
        """
        total = 0
        for name in self.places().values():
            _, _, told = name.partition("+")
            pages, _, under = told.partition("+")
            if under == license_id and pages.isdecimal():
                total += int(pages)
        return total

    @contextlib.contextmanager
    def agreeing(self) -> Iterator[None]:
        """One process at a time may add up reservations and add its own.

        Raises:
            SpoolUnavailableError: The spool is full or broken.
        """
        with self._writing():
            handle = os.open(self._places / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def survey(self) -> None:
        """Make a place for each accepted operation that has no outcome; reads the whole spool, so once at a start.

        Raises:
            SpoolUnavailableError: The spool is full or broken.
        """
        placed = self.places()
        for folder in self._folders():
            request = None if (folder / "outcome.json").exists() else self._request(folder)
            if request is None or placed.get(folder.name) == _place_name(request):
                continue
            with self._writing():
                os.close(self._open_place(self._places / _place_name(request)))
                if folder.name in placed:  # a power cut took the name that it had at last
                    (self._places / placed[folder.name]).unlink(missing_ok=True)

    def _open_place(self, path: Path) -> int:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except FileNotFoundError:
            self._places.mkdir(mode=0o750)  # somebody tidied up
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)

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
            with self._writing():
                folder.mkdir(mode=0o750)
                out = (folder / "document").open("xb")
            with out:
                for chunk in chunks:
                    size += len(chunk)
                    if size > max_bytes:
                        raise DocumentRefusedError(
                            "InvalidImageSize", f"Input image is too large: at most {max_bytes} bytes are accepted."
                        )
                    with self._writing():
                        out.write(chunk)
                with self._writing():
                    out.flush()
        except BaseException:
            self.discard(operation_id)
            raise
        return size

    def accept(self, request: ReadRequest) -> None:
        """Make the operation known: from here on it is finished, also over a restart."""
        content = json.dumps(asdict(request)).encode("utf-8")
        # A caller who waits on the connection asks again after a power cut; the others were told to come back.
        self._replace(self._folder(request.operation_id) / "request.json", content, durable=not request.synchronous)

    def discard(self, operation_id: str) -> None:
        """Remove an operation and all that belongs to it; for whoever asks it is gone in one step."""
        self._remove(self._folder(operation_id))

    # ---- while it runs ----------------------------------------------------------------------------------------------

    def request(self, operation_id: str) -> ReadRequest | None:
        """What was asked of an accepted operation; None when it never was, or cannot be understood.

        Raises:
            SpoolUnavailableError: The spool cannot be read.
        """
        return self._request(self._folder(operation_id))

    def succeeded(self, *, since_ns: int = 0) -> Iterator[ReadRequest]:
        """Operations whose result can be fetched and that finished after `since_ns` (effective time), in no order."""
        for folder in self._folders():
            outcome = self._outcome(folder)
            if outcome is None or outcome.errors or outcome.finished_ns <= since_ns:
                continue
            request = self._request(folder)
            if request is not None:
                yield request

    def is_over(self, operation_id: str) -> bool:
        """Whether an operation has its outcome, or is gone."""
        folder = self._folder(operation_id)
        return (folder / "outcome.json").exists() or not (folder / "request.json").exists()

    def begin(self, operation_id: str) -> None:
        """Note that work on the operation has begun."""
        with self._writing(operation_id):
            (self._folder(operation_id) / "pages").mkdir(exist_ok=True)

    def has_page(self, operation_id: str, page: int) -> bool:
        """Whether a page was read before a restart, and is there as a whole: a power cut may have torn its file."""
        try:
            PageText.from_bytes((self._folder(operation_id) / "pages" / f"{page}.json").read_bytes())
        except (OSError, ValueError):
            return False
        return True

    def put_page(self, operation_id: str, page: PageText) -> None:
        """Keep a page that was read; nobody sees it before the outcome.

        Raises:
            OperationNotFoundError: The operation's folder is gone.
            SpoolUnavailableError: The spool is full or broken.
        """
        self._replace(self._folder(operation_id) / "pages" / f"{page.page}.json", page.to_wire(), operation_id)

    def put_result(self, operation_id: str, pages: Iterable[int]) -> None:
        """Keep the pages that were put as one result, so that little is left to write for the outcome.

        Args:
            operation_id: The operation.
            pages: Which, in order; all of them were put before, and are there until the outcome is.

        Raises:
            OperationNotFoundError: The operation's folder is gone.
            SpoolUnavailableError: The spool is full or broken.
        """
        folder = self._folder(operation_id)
        with self._writing(operation_id):
            lines = ((folder / "pages" / f"{page}.json").read_bytes() + b"\n" for page in pages)
            write_file(folder / "result.jsonl", lines, mode=0o640, overwrite=True)

    def finish(
        self,
        operation_id: str,
        *,
        finished_ns: int,
        result_seconds: int,
        errors: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Make the outcome visible and let go of the document. The result of a success was put before.

        Args:
            operation_id: The operation.
            finished_ns: When it ended, nanoseconds since the epoch.
            result_seconds: As in its request.
            errors: What stopped it, for a failure.

        Raises:
            OperationNotFoundError: The operation's folder is gone.
            SpoolUnavailableError: The spool is full or broken; nothing is visible.
        """
        folder = self._folder(operation_id)
        failed = [list(error) for error in errors]
        outcome = {
            "status": "failed" if failed else "succeeded",
            "finished_ns": finished_ns,
            # What nobody fetches is not kept for ever either.
            "expires_ns": finished_ns + (result_seconds or self._result_seconds) * 1_000_000_000,
            "fetched_once": result_seconds == 0,
            "errors": failed,
        }
        self._replace(folder / "outcome.json", json.dumps(outcome).encode("utf-8"), operation_id, durable=True)
        with contextlib.suppress(OSError):  # what is left over expires with the outcome
            (folder / "document").unlink(missing_ok=True)
            if failed:
                (folder / "result.jsonl").unlink(missing_ok=True)
            shutil.rmtree(folder / "pages", ignore_errors=True)

    # ---- on the way out ---------------------------------------------------------------------------------------------

    def get(self, operation_id: str, *, now_ns: int) -> Operation:
        """Look an operation up.

        Args:
            operation_id: As the client sent it; anything that is no GUID is simply not found.
            now_ns: Effective time, nanoseconds since the epoch.

        Raises:
            OperationNotFoundError: Unknown, expired or deleted.
            SpoolUnavailableError: The spool cannot be read.
        """
        folder = self._folder(operation_id.lower())
        mark = self._mark(folder.name, "outcome.json")
        outcome = None if mark is None else self._outcome(folder)
        created_ns = self._created_ns(folder)
        if created_ns is None:
            raise OperationNotFoundError(f"no operation {folder.name}")
        if outcome is None:
            begun = self._mark(folder.name, "pages")
            return Operation(
                operation_id=folder.name,
                status="notStarted" if begun is None else "running",
                created_ns=created_ns,
                updated_ns=created_ns if begun is None else max(created_ns, begun[1]),
            )
        if now_ns > outcome.expires_ns:
            raise OperationNotFoundError(f"operation {folder.name} has expired")
        ending = None
        if mark is not None and not outcome.fetched_once:
            ending = Ending(operation_id=folder.name, expires_ns=outcome.expires_ns, mark=mark)
        return Operation(
            operation_id=folder.name,
            status="failed" if outcome.errors else "succeeded",
            created_ns=created_ns,
            updated_ns=max(created_ns, outcome.finished_ns),
            pages=() if outcome.errors else self._result(folder),
            errors=outcome.errors,
            ending=ending,
            fetched_once=outcome.fetched_once,
        )

    def holds(self, ending: Ending, *, now_ns: int) -> bool:
        """Whether `get` would find the same outcome again; a look at one file's name, whichever process removes it.

        Args:
            ending: From an operation that `get` has found.
            now_ns: Effective time, nanoseconds since the epoch.

        Raises:
            SpoolUnavailableError: The spool cannot be read.
        """
        return now_ns <= ending.expires_ns and self._mark(ending.operation_id, "outcome.json") == ending.mark

    def expire(self, *, now_ns: int) -> int:
        """Remove outcomes past their lifetime, uploads that never became operations, and what nobody understands.

        So is what a caller waited for who is not there any more. What has a place is left alone, whatever its age seems
        to be: after a clock was set back, effective time is far ahead of the time that new files bear.

        Args:
            now_ns: Effective time, nanoseconds since the epoch; results do not vanish because a clock was set wrong.

        Returns:
            How many folders were removed.
        """
        removed = 0
        folders = self._folders()  # before the places, for a place is there before its folder
        placed = self.places() | self.places()  # a look may miss a name that changes meanwhile; it changes once
        for folder in folders:
            outcome = self._outcome(folder)
            if outcome is not None:
                stale = now_ns > outcome.expires_ns
            elif folder.name in placed:
                stale = False
            else:
                request = self._request(folder)
                is_left = request is None or request.synchronous
                stale = is_left and now_ns > _modified_ns(folder) + _ABANDONED_NS
            if stale:
                self._remove(folder)
                removed += 1
        for left_over in self._root.glob(_GONE + "*"):
            shutil.rmtree(left_over, ignore_errors=True)
        return removed

    # ---- inside -----------------------------------------------------------------------------------------------------

    @staticmethod
    def _remove(folder: Path) -> None:
        """Take the folder's name away, then the folder: nobody meets an operation that is there by half."""
        gone = folder.with_name(_GONE + folder.name)
        try:
            folder.rename(gone)
        except OSError:
            gone = folder  # it is not there, or nothing can be renamed here; what can be removed is
        shutil.rmtree(gone, ignore_errors=True)

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

    def _result(self, folder: Path) -> StoredPages:
        try:
            return StoredPages(folder / "result.jsonl", folder.name)
        except OSError as exc:
            if isinstance(exc, FileNotFoundError) and self._mark(folder.name, "outcome.json") is None:
                raise OperationNotFoundError(f"operation {folder.name} was removed just now") from exc
            raise SpoolUnavailableError(f"the result of operation {folder.name} cannot be read: {exc}") from exc

    def _request(self, folder: Path) -> ReadRequest | None:
        """The accepted request; None when it was never written, torn by a power cut, or of another version."""
        found = self._read(folder / "request.json")
        try:
            return ReadRequest(
                operation_id=folder.name,
                created_ns=int(found["created_ns"]),
                pages=tuple(map(int, found["pages"])),
                language=None if found["language"] is None else str(found["language"]),
                reading_order=str(found["reading_order"]),
                license_id=str(found["license_id"]),
                synchronous=bool(found["synchronous"]),
                result_seconds=int(found.get("result_seconds", self._result_seconds)),  # earlier versions wrote none
            )
        except (KeyError, TypeError, ValueError):
            return None

    def _outcome(self, folder: Path) -> _Outcome | None:
        found = self._read(folder / "outcome.json")
        try:
            finished_ns = int(found["finished_ns"])
            return _Outcome(
                finished_ns=finished_ns,
                expires_ns=int(found.get("expires_ns", finished_ns + self._result_seconds * 1_000_000_000)),
                fetched_once=bool(found.get("fetched_once", False)),
                errors=tuple((str(code), str(message)) for code, message in found["errors"]),
            )
        except (KeyError, TypeError, ValueError):
            return None

    def _created_ns(self, folder: Path) -> int | None:
        """When an operation was accepted; None when it was not. Its request is read once, for it never changes."""
        mark = self._mark(folder.name, "request.json")
        if mark is None:
            return None
        known = self._known.get(folder.name)
        if known is None or known[0] != mark:
            request = self._request(folder)
            if request is None:
                return None
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            known = self._known[folder.name] = (mark, request.created_ns)
        return known[1]

    def _mark(self, operation_id: str, name: str) -> tuple[int, int] | None:
        """What tells one file, or folder, of an operation from another in its place; None when there is none."""
        try:
            found = os.stat(f"{self._root}/{operation_id}/{name}")  # no Path: it is on every poll's way
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise _unavailable(exc, self._root) from exc
        return found.st_ino, found.st_mtime_ns

    def _read(self, path: Path) -> Any:
        try:
            return json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        except OSError as exc:
            raise _unavailable(exc, self._root) from exc

    def _replace(self, path: Path, content: bytes, operation_id: str = "", *, durable: bool = False) -> None:
        with self._writing(operation_id):
            if durable:
                write_file(path, [content], mode=0o640, overwrite=True)
            else:
                temporary = path.with_suffix(".new")
                temporary.write_bytes(content)
                temporary.replace(path)

    @contextlib.contextmanager
    def _writing(self, operation_id: str = "") -> Iterator[None]:
        """Tell a spool that is full or broken from one operation whose folder somebody took away."""
        try:
            yield
        except FileNotFoundError as exc:
            if operation_id and self._root.is_dir() and not self._folder(operation_id).is_dir():
                raise OperationNotFoundError(f"the folder of operation {operation_id} is gone") from exc
            self._problem = str(_unavailable(exc, self._root))
            raise _unavailable(exc, self._root) from exc
        except OSError as exc:
            self._problem = str(_unavailable(exc, self._root))
            raise _unavailable(exc, self._root) from exc


def _place_name(request: ReadRequest) -> str:
    """What the place of an accepted operation is called; a licence's id is made of what names are made of."""
    return f"{request.operation_id}+{len(request.pages)}+{request.license_id}"


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
