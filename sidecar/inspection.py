"""Looking at documents before their pages are read: in a hurry, and with patience those that take long.

Invariants:

* Few documents are looked at side by side, so that however many arrive, pages do not wait behind them.
* One that takes long has its turn among the pages that do, and holds up no other look.
* Nobody waits longer than `_WAITS_SECONDS` for a turn, nor for one that is not to come any more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field

from sidecar.admission import Admission, NotServingError
from sidecar.core_client import CoreClient, Document, DocumentRules
from sidecar.errors import (
    CoreBusyError,
    CoreRefusedError,
    CoreTimeoutError,
    DocumentRefusedError,
    QueueFullError,
    SlowDocumentError,
)

_AT_ONCE = 2  # the core has a process for them that reads no pages
_WAITS_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is to be looked at.

    Attributes:
        operation_id: Under which the document lies in the spool.
        rules: What the API version takes.
        language: BCP-47 code that is asked for; None to let the core choose.
    """

    operation_id: str
    rules: DocumentRules
    language: str | None


@dataclass(frozen=True, slots=True, eq=False)
class PatientLook:
    """A look at a document that takes long, for a queue to give out."""

    subject: Subject
    found: Future[Document] = field(default_factory=Future)


class Inspector:
    """Has the core look at documents.

    Args:
        core: The core.
        admission: The gate, for its words where the core refuses to look.
        queue: Puts a look that takes long among the pages that do; who takes it from there calls `answer`.
        is_alone: Whether the document that is looked at is the only one there is.
    """

    def __init__(
        self,
        *,
        core: CoreClient,
        admission: Admission,
        queue: Callable[[PatientLook], object],
        is_alone: Callable[[], bool],
    ) -> None:
        self._core = core
        self._admission = admission
        self._queue = queue
        self._is_alone = is_alone
        self._turns = threading.BoundedSemaphore(_AT_ONCE)
        self._lock = threading.Lock()
        self._patient: set[PatientLook] = set()
        self._is_over = False

    def look(self, subject: Subject) -> tuple[Document, bool]:
        """Look at a document.

        Returns:
            What it is, and whether it takes long.

        Raises:
            DocumentRefusedError: It is at fault.
            QueueFullError: The core did not come to it in time.
            CoreUnavailableError: The core cannot look at it now.
            CoreRefusedError: The core will not work.
            NotServingError: For a reason that the gate knows.
        """
        if not self._turns.acquire(timeout=_WAITS_SECONDS):
            raise QueueFullError("the core is busy looking at other documents", next_step="try again later")
        try:
            return self._inspect(subject, patient=False), False
        except SlowDocumentError:
            pass
        finally:
            self._turns.release()
        return self._look_patiently(PatientLook(subject)), True

    def answer(self, look: PatientLook) -> None:
        """Look now, unless nobody waits for it any more."""
        if not look.found.set_running_or_notify_cancel():
            return
        try:
            look.found.set_result(self._inspect(look.subject, patient=True))
        except Exception as exc:  # noqa: BLE001 - whatever it is, who waits is to hear it
            look.found.set_exception(exc)

    def stop(self) -> None:
        """Have nobody wait for a turn any more."""
        with self._lock:
            self._is_over = True
            waited_for = list(self._patient)
        for look in waited_for:
            look.found.cancel()

    def _look_patiently(self, look: PatientLook) -> Document:
        with self._lock:
            self._patient.add(look)
            if self._is_over:
                look.found.cancel()
        self._queue(look)
        try:
            try:
                return look.found.result(_WAITS_SECONDS)
            except TimeoutError:
                look.found.cancel()  # unless it is being looked at by now
            return look.found.result()
        except CancelledError as exc:
            raise QueueFullError("the core is busy with other large documents", next_step="try again later") from exc
        finally:
            with self._lock:
                self._patient.discard(look)

    def _inspect(self, subject: Subject, *, patient: bool) -> Document:
        """Ask the core; when it refuses to look, say why in the words of the gate.

        A core that is busy with others' pages may not come to it in time, which says nothing about the document.
        """
        try:
            return self._core.inspect(subject.operation_id, subject.rules, subject.language, patient=patient)
        except CoreBusyError as exc:
            raise QueueFullError("the core is busy with other documents", next_step="try again later") from exc
        except CoreTimeoutError as exc:
            if not self._is_alone():
                raise QueueFullError("the core is busy with other documents", next_step="try again later") from exc
            raise DocumentRefusedError("InvalidImage", "The document could not be examined in time.") from exc
        except CoreRefusedError as exc:
            verdict = self._admission.refresh().verdict
            if not verdict.serves:
                raise NotServingError(verdict) from exc
            raise
