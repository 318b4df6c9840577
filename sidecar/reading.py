"""Reading a document: split into pages, pages side by side, counted when the whole of it is read.

Invariant: the entries of an operation are committed to the ledger after its last page was read and before its outcome
can be seen; an operation that fails is not counted at all. Everything needed to go on after a crash is in the spool,
and every step may be repeated: pages that were read are kept, use is counted under the operation's id.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import structlog

from licenses.model import READ_PAGES_METER
from ocr_core.page_text import PageText
from sidecar.admission import Admission, NotServingError, Standing
from sidecar.clock import Clock, effective_time
from sidecar.core_client import CoreClient, DocumentRules
from sidecar.errors import (
    CoreBusyError,
    CoreDownError,
    CoreRefusedError,
    CoreUnavailableError,
    DocumentRefusedError,
    LedgerUnavailableError,
    OperationNotFoundError,
    QueueFullError,
    RecognitionError,
    SidecarError,
    SlowDocumentError,
    SpoolUnavailableError,
)
from sidecar.fair_queue import Lane
from sidecar.gate import State, Verdict
from sidecar.inspection import Inspector, PatientLook, Subject
from sidecar.ledger import Ledger, UseEvent
from sidecar.page_selection import require_pages_expression, select_pages
from sidecar.results import Ending, Operation, OperationStore, Place, ReadRequest
from sidecar.work_queue import WorkQueue, most_beside

READ_RULES = DocumentRules(formats=("jpeg", "png", "bmp", "tiff", "pdf"), max_bytes=536_870_912)
"""What Read 3.2 takes; the setting `Sidecar:MaxDocumentBytes` bounds every version."""
_PAGED_FORMATS = {"tiff", "pdf"}
_SCAN_SECONDS = 5.0
_PATIENCE_SECONDS = 1.0
_HOLD_SECONDS = 10.0
_SURVEY_SECONDS = 10.0
_END = 0
_SAID_TO_CALLERS = (
    CoreBusyError,
    CoreRefusedError,
    CoreDownError,
    DocumentRefusedError,
    LedgerUnavailableError,
    SpoolUnavailableError,
)
_log = structlog.get_logger("Tollgate.Reading")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadParameters:
    """What a client asks of a read, in no API version's words.

    Attributes:
        pages: The `pages` expression, empty for all.
        language: BCP-47 code; None to let the core choose.
        reading_order: `basic` or `natural`.
        rules: What the version takes.
        result_seconds: How long the result can be fetched; 0: until it was fetched once; None: as long as others.
    """

    pages: str = ""
    language: str | None = None
    reading_order: str = "basic"
    rules: DocumentRules = READ_RULES
    result_seconds: int | None = None


@dataclass(slots=True)
class _Job:
    request: ReadRequest
    place: Place
    deadline_ns: int
    waiting: set[int] = field(default_factory=set)
    read: dict[int, PageText] = field(default_factory=dict)
    slow: bool = False
    kept: bool = False
    counting: bool = False
    counted: bool = False
    held_back: bool = False
    failure: SidecarError | None = None
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def lane(self) -> Lane:
        """Where its pages wait."""
        if self.slow:
            return Lane.SLOW
        return Lane.WAITED_FOR if self.request.synchronous else Lane.LEFT


@dataclass(frozen=True, slots=True)
class _PageOf:
    """A page of an operation, counted from 1; or its end, which is to be made known."""

    job: _Job
    page: int


class Reader:
    """Takes documents in and has their pages read.

    Pages are read in the order of a `WorkQueue`: a single picture does not wait behind the pages of a book, nor does
    who waits on the connection behind a heap of documents. A document that takes long to decode is put aside, and then
    read with patience beside the others, never in place of all of them.

    Args:
        store: The spool.
        core: The core.
        ledger: The ledger.
        admission: The gate.
        clock: Where readings come from.
        max_running_seconds: An operation is failed after this long.
        max_queued: Unfinished operations kept before new ones are turned away.
        max_document_bytes: Largest document.
    """

    def __init__(
        self,
        *,
        store: OperationStore,
        core: CoreClient,
        ledger: Ledger,
        admission: Admission,
        clock: Clock,
        max_running_seconds: float,
        max_queued: int,
        max_document_bytes: int,
    ) -> None:
        self._store = store
        self._core = core
        self._ledger = ledger
        self._admission = admission
        self._clock = clock
        self._max_running_ns = int(max_running_seconds * 1e9)
        self._max_queued = max_queued
        self._max_document_bytes = max_document_bytes
        self._lock = threading.Lock()
        self._queue: WorkQueue[_PageOf | PatientLook] = WorkQueue()
        self._inspector = Inspector(
            core=core,
            admission=admission,
            queue=lambda look: self._queue.add([look], Lane.SLOW),
            is_alone=lambda: len(store.places()) <= 1,
        )
        self._jobs: dict[str, _Job] = {}
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._surveyed = threading.Event()

    # ---- what the web calls -----------------------------------------------------------------------------------------

    def submit(self, chunks: Iterable[bytes], parameters: ReadParameters, standing: Standing) -> str:
        """Take a document in, look at its structure and queue its pages.

        Args:
            chunks: The document's bytes as they arrive.
            parameters: What is asked.
            standing: The decision that admitted the request.

        Returns:
            The operation's id, a lower-case GUID.

        Raises:
            DocumentRefusedError: Document or parameters are at fault; nothing is kept.
            QueueFullError: Too much is waiting.
            CoreUnavailableError: The core cannot look at it now.
            CoreRefusedError: The core will not work.
            SpoolUnavailableError: The spool is full or broken.
        """
        return self._submit(chunks, parameters, standing).request.operation_id

    def _submit(
        self, chunks: Iterable[bytes], parameters: ReadParameters, standing: Standing, *, synchronous: bool = False
    ) -> _Job:
        operation_id = str(uuid.uuid4())
        max_bytes = min(self._max_document_bytes, parameters.rules.max_bytes)
        place = self._store.enter(operation_id)
        try:
            waiting = len(self._store.places())
            if waiting > self._max_queued:
                raise QueueFullError(f"{waiting - 1} operations are waiting", next_step="try again later")
            size = self._store.receive(operation_id, chunks, max_bytes=max_bytes)
            if size == 0:
                raise DocumentRefusedError("BadArgument", "The request body is empty.")
            require_pages_expression(parameters.pages)
            subject = Subject(operation_id=operation_id, rules=parameters.rules, language=parameters.language)
            document, is_slow = self._inspector.look(subject)
            paged = document.format in _PAGED_FORMATS
            request = ReadRequest(
                operation_id=operation_id,
                created_ns=self._now_ns(),
                pages=select_pages(parameters.pages if paged else "", document.pages),
                language=parameters.language,
                reading_order=parameters.reading_order,
                license_id=standing.license.license_id if standing.license else "",
                synchronous=synchronous,
                result_seconds=(
                    self._store.result_seconds if parameters.result_seconds is None else parameters.result_seconds
                ),
            )
            self._reserve(request, place, standing)
            self._store.accept(request)
            return self._enqueue(request, place, slow=is_slow)
        except BaseException:
            self._store.discard(operation_id)
            self._store.leave(place)
            raise

    def _reserve(self, request: ReadRequest, place: Place, standing: Standing) -> None:
        """Speak for the pages of a document, unless it is larger than what is left of a hard limit.

        What is being read counts in, whichever process reads it. A page may be seen both as spoken for and as counted
        for a moment, never as neither: the sum is taken in that order.
        """
        lic = standing.license
        meter = lic.meter(READ_PAGES_METER) if lic else None
        if lic is None or meter is None or meter.hard is None or meter.overage_allowed:
            self._store.reserve(place, request)
            return
        if not self._surveyed.wait(_SURVEY_SECONDS):
            raise QueueFullError("the spool has not been looked through yet", next_step="try again in a moment")
        with self._store.agreeing():
            used = self._store.reserved(lic.license_id)
            used += self._ledger.snapshot(READ_PAGES_METER).license_pages.get(lic.license_id, 0)
            if used + len(request.pages) <= meter.hard:
                self._store.reserve(place, request)
                return
        left = max(0, meter.hard - used)
        asked = "1 page is" if len(request.pages) == 1 else f"{len(request.pages)} pages are"
        raise NotServingError(
            Verdict(
                state=State.OUT_OF_QUOTA,
                reason=f"{asked} asked for, and {left} of {meter.hard} {'is' if left == 1 else 'are'} left",
                serves=False,
            )
        )

    def read_now(self, chunks: Iterable[bytes], parameters: ReadParameters, standing: Standing) -> Operation:
        """Take a document in and wait until it is read.

        Returns:
            The finished operation, succeeded or failed.

        Raises:
            Everything that `submit` raises, and what stopped the reading when that is no fault of the document.
        """
        job = self._submit(chunks, parameters, standing, synchronous=True)
        operation_id = job.request.operation_id
        waited_out = not job.over.wait(self._max_running_ns / 1e9 + _HOLD_SECONDS)
        if waited_out and not self._give_up(job, RecognitionError("nobody waits for the operation any more")):
            job.over.wait(_HOLD_SECONDS)
        if isinstance(job.failure, _SAID_TO_CALLERS):
            self._store.discard(operation_id)  # it may have no outcome, and nobody asks for it
            raise job.failure
        operation = self.find(operation_id)
        if job.failure is not None and operation.status != "failed":  # it has no outcome, or none yet
            operation = replace(operation, status="failed", pages=(), errors=(_public_error(job.failure),))
        if operation.status in {"succeeded", "failed"}:
            self._store.discard(operation_id)
        return operation

    def recount(self, *, since_ns: int = 0) -> int:
        """Offer every result that is still there to the ledger again, as after a repair; most are counted already.

        Args:
            since_ns: Only results finished after this effective time, nanoseconds since the epoch.

        Returns:
            Pages that were not.
        """
        return sum(self._count(request) for request in self._store.succeeded(since_ns=since_ns))

    def find(self, operation_id: str) -> Operation:
        """Look an operation up.

        Raises:
            OperationNotFoundError: Unknown, expired or deleted.
        """
        return self._store.get(operation_id, now_ns=self._polled_ns())

    def holds(self, ending: Ending) -> bool:
        """Whether `find` would still find an operation that has ended as it did before; cheap.

        Raises:
            SpoolUnavailableError: The spool cannot be read.
        """
        return self._store.holds(ending, now_ns=self._polled_ns())

    def forget(self, operation_id: str) -> None:
        """Let go of an operation that has ended, and of its result."""
        self._store.discard(operation_id)

    @property
    def waiting_operations(self) -> int:
        """Operations that have not ended, in all processes; this process's own while the spool cannot be read."""
        try:
            return len(self._store.places())
        except SpoolUnavailableError:
            with self._lock:
                return len(self._jobs)

    # ---- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take up what a restart left unfinished, now and every few seconds."""
        threading.Thread(target=self._scan_forever, name="reading-scan", daemon=True).start()

    def widen(self, workers: int) -> None:
        """Send as many pages side by side as the core has workers; and beside them, what takes long."""
        if not workers:
            return
        self._queue.widen(workers)
        with self._lock:
            while len(self._threads) < workers + most_beside(workers) and not self._stopping.is_set():
                thread = threading.Thread(target=self._work_forever, name=f"reading-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def stop(self) -> None:
        """Stop taking pages; what is unfinished stays in the spool and is taken up at the next start."""
        self._stopping.set()
        self._queue.stop()
        self._inspector.stop()
        with self._lock:
            jobs = list(self._jobs.values())
        stopped = CoreDownError("The service stopped before the document was read; send it again.")
        for job in jobs:
            if job.request.synchronous and self._give_up(job, stopped):
                job.over.set()

    # ---- the queue --------------------------------------------------------------------------------------------------

    def _enqueue(self, request: ReadRequest, place: Place, *, slow: bool = False) -> _Job:
        with self._lock:
            deadline_ns = self._clock.read().boottime_ns + self._max_running_ns
            job = _Job(request, place, deadline_ns, waiting=set(request.pages), slow=slow)
            self._jobs[request.operation_id] = job
        self._queue.add((_PageOf(job, page) for page in request.pages), job.lane)
        return job

    def _push_slow(self, page: int, job: _Job) -> None:
        """Come to a page with patience, when its turn comes."""
        job.slow = True
        self._queue.add([_PageOf(job, page)], Lane.SLOW)

    def _push_later(self, page: int, job: _Job) -> None:
        """Come back to a page, or to the end of an operation, after a while; no thread waits for it."""
        if not job.held_back:
            job.held_back = True
            _log.warning("operation waits", operation_id=job.request.operation_id, page=page or "end")
        self._queue.add_later(_PageOf(job, page), Lane.LEFT if page == _END else job.lane, _PATIENCE_SECONDS)

    def _work_forever(self) -> None:
        while not self._queue.is_over:
            with self._queue.next() as following:
                if following is None:
                    return
                lane, item = following
                if isinstance(item, PatientLook):
                    self._inspector.answer(item)
                else:
                    self._work_on(item.page, item.job, lane)

    def _work_on(self, page: int, job: _Job, lane: Lane) -> None:
        try:
            if page == _END:
                self._finish(job)
            elif job.slow and lane is not Lane.SLOW and job.failure is None:
                self._push_slow(page, job)
            else:
                self._read_page(page, job, patient=lane is Lane.SLOW)
        except Exception as exc:  # noqa: BLE001 - a fault of ours must end the operation, not the thread
            _log.error("page failed unexpectedly", operation_id=job.request.operation_id, error=repr(exc))
            if page == _END:
                self._push_later(_END, job)
            else:
                self._page_over(page, job, RecognitionError("an internal error stopped the page"))

    def _read_page(self, page: int, job: _Job, *, patient: bool) -> None:
        """Read a page and keep it; what was read is not read again because it could not be kept at once."""
        request = job.request
        if job.failure is not None:
            self._page_over(page, job, None)
            return
        failure: SidecarError | None = None
        try:
            if self._is_late(job):
                raise RecognitionError("the operation ran longer than Task:MaxRunningTimeSpanInMinutes allows")
            self._store.begin(request.operation_id)
            if not self._store.has_page(request.operation_id, page):
                if page not in job.read:
                    job.read[page] = self._core.recognize(
                        request.operation_id,
                        page,
                        language=request.language,
                        reading_order=request.reading_order,
                        patient=patient,
                    )
                self._store.put_page(request.operation_id, job.read.pop(page))
        except SlowDocumentError as exc:
            if not patient:
                self._push_slow(page, job)
                return
            failure = RecognitionError(str(exc))
        except (CoreBusyError, CoreRefusedError, CoreDownError, SpoolUnavailableError) as exc:
            if not request.synchronous:
                self._push_later(page, job)
                return
            failure = exc
        except OperationNotFoundError as exc:
            failure = RecognitionError(str(exc))
        except (DocumentRefusedError, RecognitionError, CoreUnavailableError) as exc:
            failure = exc
        self._page_over(page, job, failure)

    def _is_late(self, job: _Job) -> bool:
        return self._clock.read().boottime_ns >= job.deadline_ns

    def _page_over(self, page: int, job: _Job, failure: SidecarError | None) -> None:
        with self._lock:
            job.waiting.discard(page)
            if failure is not None and job.failure is None:
                job.failure = failure
            if job.waiting:
                return
        self._finish(job)

    def _give_up(self, job: _Job, failure: SidecarError) -> bool:
        """Have an operation end uncounted because its caller is told that it failed; false when it is counted already.

        Args:
            job: The operation.
            failure: What it ends with, unless it has failed before.
        """
        with self._lock:
            if job.counting:
                return False
            job.failure = job.failure or failure
            return True

    def _finish(self, job: _Job) -> None:
        """Count, then show. Until the ledger has committed, nothing of the result can be seen.

        The result is on the disk before it is counted: a spool that is full fails an operation as long as it is free.
        What was counted is shown as a success and nothing else, however long the spool takes to come back.
        """
        request = job.request
        with self._lock:
            job.counting = job.failure is None
        try:
            if job.counting and not job.counted:
                if not job.kept:
                    self._store.put_result(request.operation_id, request.pages)
                    job.kept = True
                self._count(request)
                job.counted = True
            self._store.finish(
                request.operation_id,
                finished_ns=self._now_ns(),
                result_seconds=request.result_seconds,
                errors=[] if job.failure is None else [_public_error(job.failure)],
            )
        except OperationNotFoundError:
            _log.warning("operation's folder is gone", operation_id=request.operation_id, counted=job.counted)
        except (LedgerUnavailableError, SpoolUnavailableError) as exc:
            if not job.counted and (request.synchronous or self._is_late(job)) and job.failure is None:
                job.failure = exc
            if not request.synchronous:
                self._push_later(_END, job)
                return
            job.failure = job.failure or exc
        self._let_go(job)

    def _count(self, request: ReadRequest) -> int:
        return self._ledger.record_use(
            [
                UseEvent(
                    operation_id=request.operation_id,
                    page=page,
                    meter=READ_PAGES_METER,
                    license_id=request.license_id,
                )
                for page in request.pages
            ]
        )

    def _let_go(self, job: _Job) -> None:
        request = job.request
        if job.failure is not None:
            _log.warning(
                "operation failed",
                operation_id=request.operation_id,
                code=_public_error(job.failure)[0],
                cause=str(job.failure),
            )
        with self._lock:
            self._jobs.pop(request.operation_id, None)
        self._store.leave(job.place)
        job.over.set()

    def _polled_ns(self) -> int:
        """Effective time by the high water that the standing was decided with: a poll waits for no database."""
        snapshot = self._admission.standing.ledger
        return effective_time(self._clock.read(), None if snapshot is None else snapshot.high_water).ns

    def _now_ns(self) -> int:
        """Effective time; the wall clock's while the ledger cannot be read."""
        try:
            return self._ledger.now().ns
        except LedgerUnavailableError:
            return self._clock.read().wall_ns

    # ---- after a restart --------------------------------------------------------------------------------------------

    def _scan_forever(self) -> None:
        while not self._stopping.is_set():
            try:
                self._take_up()
            except SidecarError as exc:
                _log.warning("the spool cannot be read", cause=str(exc))
            except Exception as exc:  # noqa: BLE001 - recovery must outlive whatever lies in the spool
                _log.error("an unfinished operation cannot be taken up", error=repr(exc))
            self._stopping.wait(_SCAN_SECONDS)

    def _take_up(self) -> None:
        """Go on with accepted operations that nobody works on, the oldest first."""
        if not self._surveyed.is_set():
            self._store.survey()
            self._surveyed.set()
        found = []
        for operation_id, name in self._store.places().items():
            with self._lock:
                if operation_id in self._jobs:
                    continue
            request = self._store.request(operation_id)
            found.append((request.created_ns if request else 0, operation_id, name))
        for _, operation_id, name in sorted(found):
            place = self._store.take_over(name)
            if place is None:
                continue
            try:
                goes_on = self._takes_up(operation_id, place)
            except SidecarError:
                os.close(place.handle)
                raise
            if not goes_on:
                self._store.leave(place)

    def _takes_up(self, operation_id: str, place: Place) -> bool:
        """Go on with an operation that is held now; false when there is nothing to go on with."""
        request = self._store.request(operation_id)
        if request is None or request.synchronous:
            self._store.discard(operation_id)  # an upload that broke off, or a caller who is not there any more
            return False
        if self._store.is_over(operation_id):
            return False
        _log.info("taking up an unfinished operation", operation_id=operation_id)
        self._enqueue(request, place)
        return True


def _public_error(failure: SidecarError) -> tuple[str, str]:
    """Code and message of contract E.1.4 for what stopped an operation."""
    if isinstance(failure, DocumentRefusedError):
        return failure.reason, str(failure)
    if isinstance(failure, SpoolUnavailableError | LedgerUnavailableError):
        return "StorageException", "The result could not be stored."
    return "FailedToProcess", "The document could not be processed."
