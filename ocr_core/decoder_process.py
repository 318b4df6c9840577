"""Decoding in a process beside the worker, because what a stranger sent may make a decoder crash, hang or swell.

Invariants:

* A document costs at most the work of `LOOK` or `LOAD`; then the kernel kills the process, and the document is refused
  as damaged. Who is in a hurry gives it `QUICK_LOOK` or `QUICK_LOAD`, and hears no more than that it is slow.
* A document is judged by its work alone: that the machine was busy meanwhile is no verdict on it.
* It takes little memory, or one of the few places for those that take much (`memory_share`).
* The worker lives on. It starts another process where it still may; a confined worker may not, and ends when it has
  answered, so that its successor comes with another.
* The process gets the document as a descriptor, and holds no other but its end of the line to the worker.
* What comes back is believed no further than its shape: a refusal of this product, or as many pixels as it says.
* Of a failure that nobody foresaw comes back the type alone: an exception's text may hold bytes of a document.
* The process dies with its worker.
"""

import contextlib
import dataclasses
import logging
import os
import resource
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Annotated, BinaryIO, Literal, NoReturn

import msgspec
from PIL import Image

from ocr_core import budget as bounds
from ocr_core import documents, errors, forked_process, limits
from ocr_core.budget import Budget
from ocr_core.documents import DocumentFormat, Inspection, PageImage, Rules
from ocr_core.memory_share import SHARE_BYTES, MemoryShare, Places
from ocr_core.page_text import Number

_log = logging.getLogger("ocr_core")


LOOK = Budget(cpu_seconds=2.0, wall_seconds=12.0)
LOAD = Budget(cpu_seconds=4.0, wall_seconds=24.0)
PATIENT_LOOK = dataclasses.replace(LOOK, place_seconds=6.0)
PATIENT_LOAD = dataclasses.replace(LOAD, place_seconds=12.0)
QUICK_LOOK = Budget(cpu_seconds=0.15, wall_seconds=2.0, is_last=False)
QUICK_LOAD = Budget(cpu_seconds=0.3, wall_seconds=2.5, is_last=False)
"""What a document may cost while others wait: several times what large ones do that are not made to be slow."""
NAME = "decoder"
MEMORY_BYTES = 1000 * 2**20
"""What decoding may take in any case above what the worker itself holds; `memory_share` stops most of it before."""

_NICENESS = 10
_KEPT_BYTES = SHARE_BYTES // 4  # that a process may have grown by and still be used again
_LENGTHS = struct.Struct("<IQ?")  # of the head, of the pixels; whether the process ends now
_MAX_HEAD_BYTES = 64 * 1024
_STRIP_BYTES = 256 * 1024
_SECONDS_TO_END = 0.5
_GLANCE_SECONDS = 0.001
_EXIT_FAILED = 1
_LAST_AFTER_CPU_SECONDS = 1000.0
TOO_LARGE = "The document needs more memory to decode than one page may take."
FAILED = "The document is damaged: its decoder failed."
TOO_LONG = "The document is damaged: it takes too long to decode."
SLOW = "The document takes long to decode."
BUSY = "The machine was too busy to decode the document in time."
_OUTGROWN = signal.SIGUSR1
_SWOLLEN = signal.SIGUSR2
_SIGNALS_OF_THE_WORKER = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGPROF,
)


class _Look(msgspec.Struct, frozen=True, tag=True):
    formats: tuple[str, ...]
    min_side: int
    max_side: int
    max_pages: int
    max_sheet_inches: float | None
    budget: Budget


class _Load(msgspec.Struct, frozen=True, tag=True):
    page: int
    max_pixels: int
    budget: Budget


class _Found(msgspec.Struct, frozen=True, tag=True):
    format: DocumentFormat
    pages: int


class _Loaded(msgspec.Struct, frozen=True, tag=True):
    size: tuple[int, int]
    width: Number
    height: Number
    unit: Literal["pixel", "inch"]
    dpi: int | None


class _Refused(msgspec.Struct, frozen=True, tag=True):
    error: str
    message: str


class _Failed(msgspec.Struct, frozen=True, tag=True):
    """Something that nobody foresaw: the type of the exception."""

    kind: Annotated[str, msgspec.Meta(pattern=r"\A\w{1,64}\Z")]


_decode_question: Callable[[bytes], _Look | _Load] = msgspec.json.Decoder(_Look | _Load).decode
_decode_answer: Callable[[bytes | bytearray], _Found | _Loaded | _Refused | _Failed] = msgspec.json.Decoder(
    _Found | _Loaded | _Refused | _Failed
).decode
_REFUSALS = {
    kind.__name__: kind
    for kind in (
        errors.FailedToProcessError,
        errors.InvalidImageError,
        errors.InvalidImageDimensionError,
        errors.InvalidImageSizeError,
        errors.InvalidPageRangeError,
        errors.MachineBusyError,
        errors.SlowDocumentError,
        errors.UnsupportedImageFormatError,
    )
}


class DecoderProcess:
    """Decodes documents as `documents` does, in a process that is started when it is first needed.

    Not for several threads. A copy that a fork left in another process starts a process of its own.

    Args:
        places: For documents that take much memory; shared by all decoders of a core.
    """

    def __init__(self, places: Places | None = None) -> None:
        self._places = places or Places()
        self._owner = 0
        self._pid = 0
        self._line: socket.socket | None = None
        self._has_failed = False

    @property
    def pid(self) -> int | None:
        """The process that is there now."""
        return self._pid if self._line is not None and self._owner == os.getpid() else None

    def start(self, on_start: Callable[[], object] = lambda: None) -> None:
        """Start the process now, unless it is there already.

        Args:
            on_start: Called in it before it sees a document, as to confine it.

        Raises:
            DecoderLostError: The operating system permits no other process, or a confinement.
        """
        self._started(on_start)

    def is_lost(self) -> bool:
        """Whether the process went away while it had nothing to do."""
        if self.pid is None:
            return False
        with contextlib.suppress(ChildProcessError):
            return self._glanced_at() is not None
        return True

    def has_failed(self) -> bool:
        """Whether the last process ended because it could not work at all, as where no thread may be started."""
        if self.pid is not None and not self._has_failed:
            with contextlib.suppress(ChildProcessError):
                ended = self._glanced_at()
                self._has_failed = ended is not None and ended.si_code == os.CLD_EXITED and ended.si_status > 0
        return self._has_failed

    def inspect(self, file: BinaryIO, rules: Rules = documents.USUAL, *, budget: Budget = LOOK) -> Inspection:
        """`documents.inspect`.

        Raises:
            CoreError: One of the document codes.
        """
        question = _Look(
            formats=tuple(map(str, rules.formats)),
            min_side=rules.min_side,
            max_side=rules.max_side,
            max_pages=rules.max_pages,
            max_sheet_inches=rules.max_sheet_inches,
            budget=budget,
        )
        answer, _ = self._ask(file, question, budget, most=0)
        if not isinstance(answer, _Found) or not 1 <= answer.pages <= rules.max_pages:
            raise self._nonsense()
        return Inspection(format=answer.format, pages=answer.pages)

    def load_page(self, file: BinaryIO, page: int, *, max_pixels: int, budget: Budget = LOAD) -> PageImage:
        """`documents.load_page`.

        Raises:
            CoreError: One of the document codes.
        """
        question = _Load(page=page, max_pixels=max_pixels, budget=budget)
        answer, pixels = self._ask(file, question, budget, most=2 * max_pixels)
        if (
            not isinstance(answer, _Loaded)
            or min(*answer.size, answer.width, answer.height) <= 0
            or answer.size[0] * answer.size[1] != len(pixels)
        ):
            raise self._nonsense()
        return PageImage(
            image=Image.frombuffer("L", answer.size, pixels, "raw", "L", 0, 1),
            page=page,
            width=answer.width,
            height=answer.height,
            unit=answer.unit,
            dpi=answer.dpi,
        )

    def close(self) -> None:
        """Let the process end, if there is one."""
        line, self._line = self._line, None
        if line is None:
            return
        line.close()
        if self._owner == os.getpid():
            self._ended()

    # ---- the worker's end

    def _glanced_at(self) -> os.waitid_result | None:
        """How the process ended, while it waits to be reaped; None while it runs."""
        return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)

    def _ask(
        self, file: BinaryIO, question: _Look | _Load, budget: Budget, *, most: int
    ) -> tuple[_Found | _Loaded, bytearray]:
        until = time.monotonic() + budget.longest_seconds + _SECONDS_TO_END
        line = self._started()
        try:
            line.settimeout(budget.longest_seconds)
            try:
                socket.send_fds(line, [msgspec.json.encode(question)], [file.fileno()])
            except (BrokenPipeError, ConnectionResetError):  # it went away while it had nothing to do
                self.close()
                line = self._started()
                line.settimeout(budget.longest_seconds)
                socket.send_fds(line, [msgspec.json.encode(question)], [file.fileno()])
            head_bytes, body_bytes, is_last = _LENGTHS.unpack(_received(line, _LENGTHS.size, until))
            if head_bytes > _MAX_HEAD_BYTES or body_bytes > most:
                raise self._nonsense()
            answer = _decode_answer(_received(line, head_bytes, until))
            pixels = _received(line, body_bytes, until)
            if is_last:
                self.close()
        except TimeoutError as exc:
            self.close()
            raise _too_late(budget) from exc
        except (EOFError, OSError) as exc:
            raise self._died(budget) from exc
        except msgspec.MsgspecError as exc:
            raise self._nonsense() from exc
        if isinstance(answer, _Refused):
            raise _REFUSALS.get(answer.error, errors.FailedToProcessError)(answer.message)
        if isinstance(answer, _Failed):
            _log.error("the decoder failed on a document: %s", answer.kind)
            raise errors.FailedToProcessError(f"The decoder failed: {answer.kind}.")
        return answer, pixels

    def _started(self, on_start: Callable[[], object] = lambda: None) -> socket.socket:
        """The line to the process, started where there is none."""
        if self._owner != os.getpid():
            if self._line is not None:
                self._line.close()  # another process's
            self._line, self._owner = None, os.getpid()
        if self._line is None:
            worker = os.getpid()
            with contextlib.ExitStack() as opened:
                try:
                    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
                    opened.callback(ours.close)
                    opened.callback(theirs.close)
                    self._pid = forked_process.fork()
                except OSError as exc:
                    raise errors.DecoderLostError(f"The document cannot be decoded here: {exc.strerror}.") from exc
                opened.pop_all()
            if not self._pid:
                _serve_and_exit(theirs, worker, self._places, on_start)
            theirs.close()
            self._line, self._has_failed = ours, False
        return self._line

    def _died(self, budget: Budget) -> errors.CoreError:
        """Tell why the process went away in the middle of a document."""
        line, self._line = self._line, None
        if line is not None:
            line.close()
        code, used = self._ended()
        if code > 0:
            self._has_failed = True
            _log.error("a decoder failed beside its documents")
            return errors.DecoderLostError("The decoder failed; the page may be tried again.")
        number = -code
        if number == signal.SIGPROF:
            return _too_long(budget)
        if number == _OUTGROWN:
            return _too_late(budget)
        if number == _SWOLLEN:
            return errors.InvalidImageError(TOO_LARGE)
        if number == signal.SIGALRM:
            seconds = used.ru_utime + used.ru_stime if used is not None else 0.0
            _log.warning("a decoder had %.1f s of work in all its time: the machine is busy", seconds)
            return _too_late(budget)
        if number in (
            0,
            signal.SIGKILL,
            signal.SIGTERM,
            signal.SIGXCPU,
        ):  # somebody else's doing, as for want of memory
            _log.error("a decoder was ended from outside, by signal %d", number)
            return errors.DecoderLostError("The decoder was ended; the page may be tried again.")
        if not budget.is_last:  # it may have been for want of memory; who is patient finds out
            return errors.SlowDocumentError(SLOW)
        if used is not None and used.ru_maxrss * 1024 > MEMORY_BYTES * 3 // 4:
            return errors.InvalidImageError(TOO_LARGE)
        _log.warning("a decoder failed on a document, by signal %d", number)
        return errors.InvalidImageError(FAILED)

    def _ended(self) -> tuple[int, resource.struct_rusage | None]:
        """How the process ended, whose line is closed, and what it had used; who does not end is killed.

        Returns:
            Its exit code; a signal's number, negative; 0 where it does not end, or somebody else was told.
        """
        with contextlib.suppress(ChildProcessError, PermissionError):  # a confined worker may not kill; it ends itself
            if found := self._reaped(_SECONDS_TO_END):
                return found
            os.kill(self._pid, signal.SIGKILL)
            if found := self._reaped(_SECONDS_TO_END):
                return found
        return 0, None

    def _reaped(self, seconds: float) -> tuple[int, resource.struct_rusage] | None:
        """Its exit code, or a signal's number, negative, and what it had used; None if it does not end in time.

        Raises:
            ChildProcessError: Somebody else was told.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pid, status, used = os.wait4(self._pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status), used
            time.sleep(_GLANCE_SECONDS)
        return None

    def _nonsense(self) -> errors.CoreError:
        self.close()
        return errors.FailedToProcessError("The decoder gave an answer that cannot be.")


def _too_long(budget: Budget) -> errors.CoreError:
    return errors.InvalidImageError(TOO_LONG) if budget.is_last else errors.SlowDocumentError(SLOW)


def _too_late(budget: Budget) -> errors.CoreError:
    return errors.MachineBusyError(BUSY) if budget.is_last else errors.SlowDocumentError(SLOW)


def _received(line: socket.socket, length: int, until: float) -> bytearray:
    """So many bytes.

    Raises:
        TimeoutError: They did not come in time.
        EOFError: The other end is gone.
    """
    found = bytearray(length)
    rest = memoryview(found)
    while rest:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        line.settimeout(left)
        count = line.recv_into(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return found


# ---- the process ----------------------------------------------------------------------------------------------------


def _serve_and_exit(line: socket.socket, worker: int, places: Places, on_start: Callable[[], object]) -> NoReturn:
    """Decode what is asked for until the worker hangs up."""
    code = _EXIT_FAILED
    try:
        limits.die_with_parent(signal.SIGKILL, parent_pid=worker)
        bounds.disarm()
        for number in _SIGNALS_OF_THE_WORKER:
            signal.signal(number, signal.SIG_DFL)
        forked_process.disconnect_all_but([line.fileno(), places.fileno()])
        forked_process.leave_no_core_file()
        forked_process.be_known_as(NAME)
        with contextlib.suppress(OSError):  # a service manager may not permit it; pages are read all the same
            os.nice(_NICENESS)  # where processors are short, pages that are being read go before documents that swell
        forked_process.fall_silent()  # libraries tell of every damaged document, at length
        memory = limits.OwnMemory()
        bounds.limit_data(memory.data_bytes() + MEMORY_BYTES)
        on_start()
        memory.trim()  # else what the worker had freed would be filled without being seen to grow
        share = MemoryShare(places, memory, _give_up)
        share.watch()
        kept_above = memory.private_bytes() + _KEPT_BYTES
        with contextlib.suppress(OSError):  # the worker hung up
            while _answered(line, memory, share, kept_above):
                pass
        code = 0
    except BaseException as exc:  # noqa: BLE001 - nothing may escape into the worker's own code
        _log.error("the decoder failed: %s", type(exc).__name__)  # heard until it falls silent; the code always tells
    finally:
        os._exit(code)


def _give_up(is_too_large: bool) -> None:
    """End at once: it grew beyond its share and there was no place, or beyond what any document may."""
    os.kill(os.getpid(), _SWOLLEN if is_too_large else _OUTGROWN)


def _answered(line: socket.socket, memory: limits.OwnMemory, share: MemoryShare, kept_above: int) -> bool:
    """Answer one question; False when it was the last."""
    blob, descriptors, _, _ = socket.recv_fds(line, _MAX_HEAD_BYTES, 1)
    if not blob or not descriptors:
        return False
    question = _decode_question(blob)
    image: Image.Image | None = None
    answer: _Found | _Loaded | _Refused | _Failed
    with os.fdopen(descriptors[0], "rb", buffering=0) as file:
        try:
            with share.document(wait_seconds=question.budget.place_seconds):
                bounds.arm(question.budget)
                if isinstance(question, _Look):
                    answer = _look(file, question)
                else:
                    answer, image = _load(file, question, share)
        except errors.CoreError as exc:
            answer = _Refused(type(exc).__name__, str(exc))
        except MemoryError:
            answer = _Refused("InvalidImageError", TOO_LARGE)
        except Exception as exc:  # noqa: BLE001 - nobody hears this process but the worker, which is told
            answer = _Failed(type(exc).__name__)
    bounds.disarm()
    head = msgspec.json.encode(answer)
    if memory.private_bytes() > kept_above:
        memory.trim()
    is_last = memory.private_bytes() > kept_above or time.process_time() > _LAST_AFTER_CPU_SECONDS
    line.sendall(_LENGTHS.pack(len(head), 0 if image is None else image.width * image.height, is_last) + head)
    for strip in () if image is None else _strips(image):
        line.sendall(strip)
    return not is_last


def _look(file: BinaryIO, question: _Look) -> _Found:
    rules = Rules(
        formats=question.formats,
        min_side=question.min_side,
        max_side=question.max_side,
        max_pages=question.max_pages,
        max_sheet_inches=question.max_sheet_inches,
    )
    found = documents.inspect(file, rules)
    return _Found(found.format, found.pages)


def _load(file: BinaryIO, question: _Load, share: MemoryShare) -> tuple[_Loaded, Image.Image]:
    found = documents.load_page(file, question.page, max_pixels=question.max_pixels, need=share.need)
    answer = _Loaded(found.image.size, found.width, found.height, found.unit, found.dpi)
    return answer, found.image


def _strips(gray: Image.Image) -> Iterator[bytes]:
    """The pixels of a picture from top to bottom, in pieces that need little memory beside it."""
    rows = max(1, _STRIP_BYTES // gray.width)
    for top in range(0, gray.height, rows):
        yield gray.crop((0, top, gray.width, min(gray.height, top + rows))).tobytes()
