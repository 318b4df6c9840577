"""The second wall, held by the master for its workers: they ask it whether to read, and are handed the document open.

A worker that decodes a stranger's bytes may open neither the licence, nor the state directory, nor the documents of
others. So it asks over a socket that it inherited; the answer comes on a socket of its own, with the document's
descriptor where one was asked for.

Invariants:

* No document is handed out without a lease that the wall admits; a GUID that is not known cannot be found out.
* A question is bounded and believed in nothing; whatever is in it, or if it is empty, the next one is answered.
* Only a process that inherited the socket can ask, and no worker holds the end on which questions arrive.
"""

import contextlib
import logging
import os
import re
import socket
import threading
import time
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

import msgspec

from ocr_core.cpu import Cpu
from ocr_core.errors import CoreError, FailedToProcessError
from ocr_core.spool import open_document
from ocr_core.wall import LicenseStanding, Wall

_MAX_QUESTION_BYTES = 64 * 1024
_MAX_ANSWER_BYTES = 64 * 1024
_PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.1
_GUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

_log = logging.getLogger("ocr_core.gatekeeper")


class Gate(Protocol):
    """Who lets requests through, and opens what they are about."""

    @property
    def cpu(self) -> Cpu:
        """What is known of the processor."""

    def admit(self, lease_header: str | None) -> None:
        """Let a request through; see `Wall.admit`.

        Raises:
            CoreError: It is refused.
        """

    def license_standing(self) -> LicenseStanding:
        """How the licence stands, for people.

        Raises:
            FailedToProcessError: There was no answer.
        """

    def open_document(self, lease_header: str | None, document: str) -> BinaryIO:
        """Let a request through, and open its document for reading.

        Args:
            lease_header: As for `admit`.
            document: Its GUID.

        Raises:
            CoreError: The request is refused, or there is no such document.
        """


class _Question(msgspec.Struct, frozen=True, kw_only=True):
    about: Literal["admission", "standing", "document"]
    lease: str | None = None
    document: str = ""


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    code: str = ""
    message: str = ""
    standing: LicenseStanding | None = None


class Gatekeeper:
    """The master's side: a thread that answers one question after another.

    Args:
        wall: The second wall; only that thread uses it once it runs.
        shared_directory: Holds `operations/<guid>/document`.
    """

    def __init__(self, wall: Wall, shared_directory: Path) -> None:
        self._wall = wall
        self._shared_directory = shared_directory
        self._outlet, self._inlet = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._outlet.settimeout(_PATIENCE_SECONDS)
        self._is_closed = False
        self.gate: Gate = _AskedGate(self._outlet, wall.cpu)
        """What the workers use."""

    def start(self) -> None:
        """Begin to answer, in a thread that ends with the process."""
        threading.Thread(target=self._answer_all, name="gatekeeper", daemon=True).start()

    def leave_in_worker(self) -> None:
        """Close, in a forked worker, what a worker must not have: the end on which all workers' questions arrive."""
        self._inlet.close()

    def close(self) -> None:
        """Answer no more."""
        self._is_closed = True
        self._outlet.close()
        with contextlib.suppress(OSError):
            self._inlet.shutdown(socket.SHUT_RDWR)

    def _answer_all(self) -> None:
        while not self._is_closed:
            try:
                blob, descriptors, *_ = socket.recv_fds(self._inlet, _MAX_QUESTION_BYTES, 1)
            except OSError as exc:  # short of memory or of descriptors, perhaps not for long
                _log.error("a question could not be taken: %s", exc.strerror)
                time.sleep(_PAUSE_SECONDS)
                continue
            try:
                # Fails for what is no socket; a worker that was taken over may send anything.
                replies = [socket.socket(fileno=descriptor) for descriptor in descriptors]
            except OSError:
                for descriptor in descriptors:
                    os.close(descriptor)
                continue
            try:
                for reply in replies:
                    self._answer(blob, reply)
            except Exception:  # noqa: BLE001 - the next worker is to be answered, whatever this one sent
                _log.exception("a question could not be answered")
            finally:
                for reply in replies:
                    reply.close()

    def _answer(self, blob: bytes, reply: socket.socket) -> None:
        answer, file = _Answer(), None
        try:
            question = msgspec.json.decode(blob, type=_Question)
            if question.about == "standing":
                answer = _Answer(standing=self._wall.license_standing())
            else:
                self._wall.admit(question.lease)
            if question.about == "document" and _GUID.fullmatch(question.document):
                file = open_document(self._shared_directory, question.document)
        except CoreError as exc:
            answer = _Answer(code=exc.code, message=str(exc))
        except msgspec.MsgspecError as exc:
            _log.error("a malformed question: %s", exc)
            return
        message = [msgspec.json.encode(answer)]
        try:
            if file is None:
                reply.sendmsg(message, (), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            else:
                with file:
                    socket.send_fds(reply, message, [file.fileno()], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as exc:
            _log.info("who asked is gone: %s", exc.strerror)


class _AskedGate:
    """The workers' side. See `Gate`."""

    def __init__(self, outlet: socket.socket, cpu: Cpu) -> None:
        self._outlet = outlet
        self._cpu = cpu

    @property
    def cpu(self) -> Cpu:
        return self._cpu

    def admit(self, lease_header: str | None) -> None:
        self._ask(_Question(about="admission", lease=lease_header))

    def license_standing(self) -> LicenseStanding:
        answer, _ = self._ask(_Question(about="standing"))
        if answer.standing is None:
            raise FailedToProcessError("The core's master gave no answer.")
        return answer.standing

    def open_document(self, lease_header: str | None, document: str) -> BinaryIO:
        _, descriptor = self._ask(_Question(about="document", lease=lease_header, document=document))
        if descriptor is None:
            raise FailedToProcessError("The core's master opened no document.")
        os.set_inheritable(descriptor, False)
        return os.fdopen(descriptor, "rb")

    def _ask(self, question: _Question) -> tuple[_Answer, int | None]:
        """Ask, and wait.

        Raises:
            CoreError: The refusal, as the wall would have raised it.
            FailedToProcessError: There was no answer.
        """
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours:
                with theirs:
                    socket.send_fds(self._outlet, [msgspec.json.encode(question)], [theirs.fileno()])
                ours.settimeout(_PATIENCE_SECONDS)
                blob, descriptors, *_ = socket.recv_fds(ours, _MAX_ANSWER_BYTES, 1)
            answer = msgspec.json.decode(blob, type=_Answer)
        except (OSError, msgspec.MsgspecError) as exc:
            raise FailedToProcessError("The core's master gave no answer.") from exc
        if answer.code:
            raise _refusals().get(answer.code, FailedToProcessError)(answer.message)
        return answer, descriptors[0] if descriptors else None


def _refusals() -> dict[str, type[CoreError]]:
    """Every refusal by its code; of two with one code, the more general."""
    kinds: list[type[CoreError]] = [CoreError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return {kind.code: kind for kind in reversed(kinds) if kind is not CoreError}
