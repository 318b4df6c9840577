"""The second engine as the rest of the core sees it: an engine behind the port, somewhere else.

Workers hold a `SecondEngine`, which sends pixels and waits. The master holds a `SecondEngineHost`, which has the keeper
running. The engine itself, with its heavy libraries, is in a process that the keeper starts at the first picture.

Invariants:

* None of the heavy libraries is imported by the master or a worker; whether they are there is looked up on disk.
* A call ends in time, however the other side fails, and raises nothing but FailedToProcessError and its child.
* Only a process that inherited the socket can call; a worker does not hold the end on which pictures arrive.
"""

import dataclasses
import importlib.util
import logging
import os
import select
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from typing import Literal, cast

from ocr_core.engine import FoundLine, FoundOrientation, Picture
from ocr_core.errors import CoreError, EngineTimeoutError, FailedToProcessError
from ocr_core.forked_process import fork
from ocr_core.second_engine import process as second_process
from ocr_core.second_engine import wire as second_wire
from ocr_core.second_engine.keeper import Terms, keep
from ocr_core.second_engine.process import EngineFactory
from ocr_core.second_engine.readable_scripts import READABLE_MODELS, are_readable
from ocr_core.second_engine.state import Facts, StateBoard
from ocr_core.second_engine.wire import WireError

Wish = Literal["auto", "off", "required"]

NAME = "rapidocr"
NOT_INSTALLED = "the extra 'handwriting' is not installed"

_PACKAGES = ("rapidocr", "onnxruntime", "cv2", "numpy")
_MOST_SECONDS = 40.0  # waiting for others and reading; a page has a minute for everything
_HEARD_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 60.0

_log = logging.getLogger("ocr_core.second")


class SecondEngineMissingError(CoreError):
    """The second engine is required and not installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Whether there is a second engine, for people to read.

    Attributes:
        wish: What `Core:SecondEngine` says.
        available: Whether pages may be shown to it.
        reason: Why not; empty when it is available.
        name: What it calls itself.
        version: Its version; empty when it is not installed.
    """

    wish: Wish
    available: bool
    reason: str
    name: str
    version: str


def standing(wish: Wish) -> Standing:
    """Look up whether there is a second engine; imports and starts nothing."""
    version = _version()
    reason = "Core:SecondEngine is off" if wish == "off" else "" if version else NOT_INSTALLED
    return Standing(wish=wish, available=not reason, reason=reason, name=NAME, version=version)


def _version() -> str:
    """The installed version; empty unless everything that it needs is there."""
    with suppress(ImportError, ValueError):  # PackageNotFoundError is an ImportError
        if all(importlib.util.find_spec(package) is not None for package in _PACKAGES):
            return metadata.version(NAME)
    return ""


class SecondEngine:
    """An engine in a process of its own, shared by all workers.

    Args:
        outlet: Requests go here.
        version: What the engine's version is.
        board: Where the keeper tells its state.
    """

    name = NAME

    def __init__(self, outlet: socket.socket, *, version: str, board: StateBoard) -> None:
        self._outlet = outlet
        self._version = version
        self._board = board

    @property
    def version(self) -> str:
        """See `OcrEngine.version`."""
        return self._version

    def languages(self) -> tuple[str, ...]:
        """See `OcrEngine.languages`."""
        return READABLE_MODELS

    def preload(self, languages: tuple[str, ...]) -> None:
        """See `OcrEngine.preload`; it is loaded when the first picture comes."""

    def is_able_to_read(self, models: tuple[str, ...]) -> bool:
        """Whether what these Tesseract models read is in writing that it knows."""
        return are_readable(models)

    def facts(self) -> Facts:
        """What it is at, and what it has done."""
        return self._board.facts()

    def told(self) -> dict[str, object]:
        """What it is and has done, for `/health`."""
        facts = self.facts()
        return {
            "name": self.name,
            "version": self._version,
            **dataclasses.asdict(facts),
            "state": facts.state.name.casefold(),
        }

    def orientation(self, picture: Picture) -> FoundOrientation | None:  # noqa: ARG002
        """See `OcrEngine.orientation`; it has no model for it."""
        return None

    def read(self, picture: Picture, languages: tuple[str, ...], *, timeout_seconds: float) -> tuple[FoundLine, ...]:  # noqa: ARG002
        """See `OcrEngine.read`. EngineTimeoutError comes at once where others wait too long already."""
        now = time.monotonic()
        until = now + min(timeout_seconds, _MOST_SECONDS)
        if (
            len(picture.pixels) != picture.width * picture.height
            or not 1 <= picture.width * picture.height <= second_wire.MAX_PIXELS
            or max(picture.width, picture.height) > second_wire.MAX_SIDE
        ):
            raise FailedToProcessError("The picture has a size that the second engine does not read.")
        try:
            ours, theirs = second_wire.pair()
            with ours:
                with theirs:
                    self._ask(picture, theirs, until)
                return _answer(ours, picture, until)
        except BlockingIOError as exc:
            raise EngineTimeoutError("The second engine has too much to do.") from exc
        except TimeoutError as exc:
            raise EngineTimeoutError("The second engine did not answer in time.") from exc
        except WireError as exc:
            raise FailedToProcessError(f"The second engine's answer is malformed: {exc}.") from exc
        except OSError as exc:
            raise FailedToProcessError(f"The second engine cannot be asked: {exc.strerror}.") from exc

    def _ask(self, picture: Picture, reply: socket.socket, until: float) -> None:
        pixels = second_wire.sealed(picture.pixels)
        try:
            second_wire.send_request(self._outlet, picture, deadline=until, pixels=pixels, reply=reply.fileno())
        finally:
            os.close(pixels)


def _answer(reply: socket.socket, picture: Picture, until: float) -> tuple[FoundLine, ...]:
    """Wait for what was read.

    Raises:
        EngineTimeoutError: There was no time for it.
        FailedToProcessError: The engine failed, or is not there.
        WireError: The answer is malformed.
        OSError: The socket is broken; TimeoutError among them.
    """
    heard_by = min(until, time.monotonic() + _HEARD_SECONDS)
    is_heard = False
    while True:
        left = (until if is_heard else heard_by) - time.monotonic()
        if left <= 0:
            if is_heard or heard_by == until:
                raise TimeoutError
            raise FailedToProcessError("The second engine is not running.")
        reply.settimeout(left)
        try:
            answer = second_wire.receive_answer(reply, picture)
        except TimeoutError:
            continue
        if isinstance(answer, tuple):
            return answer
        if answer == second_wire.ACCEPTED and not is_heard:
            is_heard = True
        elif answer in (second_wire.TOO_LATE, second_wire.BUSY):
            raise EngineTimeoutError("The second engine had no time for the page.")
        else:
            raise FailedToProcessError("The second engine could not read the page.")


class SecondEngineHost:
    """Has the keeper running; lives in the core's master.

    Args:
        version: What the engine's version is.
        make_engine: Makes the engine, in its process.
        terms: What the keeper goes by.
    """

    def __init__(
        self,
        *,
        version: str,
        make_engine: EngineFactory = second_process.rapid_engine,
        terms: Terms = Terms(),  # noqa: B008 - frozen
    ) -> None:
        self._outlet, self._inlet = second_wire.pair()
        self._board = StateBoard()
        self._make_engine = make_engine
        self._terms = terms
        self._keeper: int | None = None
        self._alive: int | None = None
        self._deaths = 0
        self._started_at = 0.0
        self._not_before = 0.0
        self.engine = SecondEngine(self._outlet, version=version, board=self._board)
        """What the workers use."""

    def tend(self) -> None:
        """Have the keeper running: start it, or start it again when it is gone. Cheap; called about every second."""
        now = time.monotonic()
        if self._alive is not None and _is_at_end(self._alive):
            os.close(self._alive)
            self._alive = None
            with suppress(ChildProcessError):  # the server reaps every child
                os.waitpid(cast("int", self._keeper), os.WNOHANG)
            self._deaths = 1 if now - self._started_at > _LONGEST_PAUSE_SECONDS else self._deaths + 1
            self._not_before = now + (min(2.0 ** (self._deaths - 2), _LONGEST_PAUSE_SECONDS) if self._deaths > 1 else 0)
            _log.error("second engine: its keeper is gone; another is started")
        if self._alive is None and now >= self._not_before:
            self._start(now)

    def leave_in_worker(self) -> None:
        """Close, in a forked worker, what a worker must not have: the end on which all workers' pictures arrive."""
        self._inlet.close()
        if self._alive is not None:
            os.close(self._alive)
            self._alive = None

    def close(self) -> None:
        """End the keeper, and with it the engine."""
        if self._keeper is not None and self._alive is not None:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._keeper, signal.SIGKILL)
                os.waitpid(self._keeper, 0)
            os.close(self._alive)
            self._alive = None
        self._inlet.close()
        self._outlet.close()

    def _start(self, now: float) -> None:
        master = os.getpid()
        self._started_at = now
        self._alive, theirs = os.pipe()
        try:
            self._keeper = fork()
        except OSError as exc:
            _log.error("second engine: no process for its keeper: %s", exc.strerror)
            os.close(theirs)
            os.close(self._alive)
            self._alive = None
            self._not_before = now + _LONGEST_PAUSE_SECONDS
            return
        if self._keeper == 0:
            code = 1
            try:
                keep(self._inlet, self._board, self._make_engine, self._terms, alive=theirs, parent_pid=master)
                code = 0
            finally:
                os._exit(code)
        os.close(theirs)


def host(wish: Wish, *, is_confined: bool = True) -> SecondEngineHost | None:
    """A host for the second engine; None when there is none or none is wished for. Says which in the log.

    Args:
        wish: What `Core:SecondEngine` says.
        is_confined: Whether its process gives up what it does not need.

    Raises:
        SecondEngineMissingError: It is required and not installed.
    """
    found = standing(wish)
    if found.available:
        _log.info("second engine: %s %s, loaded when it is needed", found.name, found.version)
        return SecondEngineHost(version=found.version, terms=Terms(is_confined=is_confined))
    if wish == "required":
        raise SecondEngineMissingError(f"Core:SecondEngine is required, but {found.reason}.")
    _log.info("second engine: none, as %s", found.reason)
    return None


def _is_at_end(pipe: int) -> bool:
    poll = select.poll()
    poll.register(pipe, 0)
    return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))
