"""The keeper of the second engine: takes requests from workers, keeps one engine process, kills it when it must.

It is forked from the core's master before any worker, imports nothing heavy, and looks at no pixel.

Invariants:

* One picture is read at a time; a process that is still at it when its time is over is killed, and who asked is told.
* Every request is answered or its socket closed, whatever happens to the engine's process.
* A request that cannot be read in time is refused at once: its sender has a first reading to fall back on.
* A process that dies is replaced when the next picture comes, after a pause that grows while it keeps dying; one that
  nobody needs is ended, and its memory given back.
"""

import logging
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ocr_core import limits
from ocr_core.forked_process import be_known_as, fork
from ocr_core.second_engine import process as second_process
from ocr_core.second_engine import wire as second_wire
from ocr_core.second_engine.process import EngineFactory
from ocr_core.second_engine.state import State, StateBoard
from ocr_core.second_engine.wire import Request, WireError

_log = logging.getLogger("ocr_core.second")

_GRACE_SECONDS = 0.5  # the engine looks at the clock itself, and a stop in good order keeps its models loaded
_FIRST_GUESS_SECONDS = 1.5
_WEIGHT_OF_LAST = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the keeper goes by.

    Attributes:
        picture_seconds: Longest time for one picture.
        load_seconds: Longest time to load the engine.
        idle_seconds: After how long without a picture the engine is unloaded.
        most_waiting: How many requests wait at most.
        longest_pause_seconds: Longest time between two tries to start an engine that keeps dying.
        is_confined: Whether the engine's process gives up what it does not need.
    """

    picture_seconds: float = 20.0
    load_seconds: float = 30.0
    idle_seconds: float = 300.0
    most_waiting: int = 32
    longest_pause_seconds: float = 60.0
    is_confined: bool = True


@dataclass(slots=True, kw_only=True)
class _Engine:
    """The engine's process.

    Attributes:
        pid: Its number.
        socket: Requests go here.
        since: When it began what it does now.
        kill_at: When it is killed unless it answers; None while it is idle.
        reading: What it reads; None while it loads or is idle.
    """

    pid: int
    socket: socket.socket
    since: float
    kill_at: float | None
    reading: Request | None = None


class Keeper:
    """See the module.

    Args:
        inlet: Requests come from here.
        board: Where its state is told.
        make_engine: Makes the engine, in its process.
        terms: What it goes by.
        monotonic: Seconds from the system's monotonic clock.
    """

    def __init__(
        self,
        inlet: socket.socket,
        board: StateBoard,
        make_engine: EngineFactory,
        terms: Terms,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inlet = inlet
        self._board = board
        self._make_engine = make_engine
        self._terms = terms
        self._monotonic = monotonic
        self._waiting: deque[Request] = deque()
        self._engine: _Engine | None = None
        self._failures = 0
        self._not_before = 0.0
        self._usual_seconds = _FIRST_GUESS_SECONDS

    def run(self) -> None:
        """Serve until nobody is left who could ask."""
        self._tell()
        while not _is_hung_up(self._inlet):
            self._wait()
            self._take_requests()
            self._hear_engine()
            self._watch_time()
            self._hand_out()
            self._tell()
        self._end_engine()

    # ---- what comes in

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._inlet, select.POLLIN)
        moments = [request.deadline for request in self._waiting]
        if (engine := self._engine) is not None:
            poll.register(engine.socket, select.POLLIN)
            moments.append(engine.since + self._terms.idle_seconds if engine.kill_at is None else engine.kill_at)
        seconds = max(0.0, min(moments) - self._monotonic()) if moments else None
        poll.poll(None if seconds is None else min(seconds * 1000 + 1, 3_600_000))

    def _take_requests(self) -> None:
        for _ in range(self._terms.most_waiting):
            try:
                request = second_wire.receive_request(self._inlet, wait=False)
            except BlockingIOError:
                return
            except WireError as exc:
                self._board.count(refused=1)
                _log.warning("second engine: a malformed request was refused: %s", exc)
                continue
            if request is None:
                return
            if self._has_time_for(request):
                request.answer(second_wire.ACCEPTED)
                self._waiting.append(request)
            else:
                self._board.count(busy=1)
                _dismiss(request, second_wire.BUSY)

    def _has_time_for(self, request: Request) -> bool:
        before = len(self._waiting) + (self._engine is not None and self._engine.reading is not None)
        seconds = (before + 1) * self._usual_seconds
        return len(self._waiting) < self._terms.most_waiting and request.deadline - self._monotonic() > seconds

    def _hear_engine(self) -> None:
        engine = self._engine
        if engine is None:
            return
        try:
            message = engine.socket.recv(1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if message == second_process.LOADED and engine.reading is None:
            self._board.count(loads=1)
        elif message == second_process.NEXT and engine.reading is not None:
            engine.reading.close()
            seconds = self._monotonic() - engine.since
            self._usual_seconds += _WEIGHT_OF_LAST * (seconds - self._usual_seconds)
            self._failures = 0
            self._board.count(pictures=1)
        else:
            self._engine_died()
            return
        engine.reading, engine.kill_at, engine.since = None, None, self._monotonic()

    # ---- what goes out

    def _watch_time(self) -> None:
        now = self._monotonic()
        for request in [one for one in self._waiting if one.deadline <= now or one.is_abandoned()]:
            self._waiting.remove(request)
            _dismiss(request, second_wire.TOO_LATE)
        engine = self._engine
        if engine is None:
            return
        if engine.kill_at is None:
            if now - engine.since >= self._terms.idle_seconds:
                _log.info("second engine: unloaded after %.0f idle seconds", now - engine.since)
                self._end_engine()
        elif engine.kill_at <= now:
            if (reading := engine.reading) is None:
                _log.error("second engine: killed, as it did not load within %.0f seconds", self._terms.load_seconds)
                self._fail()
            else:
                _log.warning("second engine: killed, as a picture took longer than %.1f seconds", now - engine.since)
                engine.reading = None
                _dismiss(reading, second_wire.TOO_LATE)
            self._board.count(killed=1)
            self._end_engine()

    def _hand_out(self) -> None:
        now = self._monotonic()
        if self._waiting and self._engine is None and now >= self._not_before:
            self._start_engine()
        while self._waiting and self._engine is None:
            _dismiss(self._waiting.popleft(), second_wire.FAILED)
        engine = self._engine
        if not self._waiting or engine is None or engine.kill_at is not None:
            return
        request = self._waiting.popleft()
        deadline = min(request.deadline, now + self._terms.picture_seconds)
        engine.reading, engine.since, engine.kill_at = request, now, deadline + _GRACE_SECONDS
        try:
            second_wire.forward(engine.socket, request, deadline=deadline)
        except OSError:
            self._engine_died()

    # ---- the process

    def _start_engine(self) -> None:
        ours, theirs = second_wire.pair()
        keeper = os.getpid()
        try:
            pid = fork()
        except OSError as exc:
            ours.close()
            theirs.close()
            _log.error("second engine: no process for it: %s", exc.strerror)
            self._fail()
            return
        if pid == 0:
            code = 1
            try:
                second_process.live(theirs, self._make_engine, parent_pid=keeper, is_confined=self._terms.is_confined)
                code = 0
            finally:
                os._exit(code)
        theirs.close()
        now = self._monotonic()
        self._engine = _Engine(pid=pid, socket=ours, since=now, kill_at=now + self._terms.load_seconds)

    def _engine_died(self) -> None:
        engine = self._engine
        if engine is None:
            return
        code = os.waitstatus_to_exitcode(self._end_engine())
        self._board.count(died=1)
        self._fail()
        if code == second_process.NOT_LOADED:
            _log.error("second engine: it could not be loaded; install the extra 'handwriting' anew")
        else:
            _log.error(
                "second engine: its process ended by itself (%s)", f"signal {-code}" if code < 0 else f"code {code}"
            )

    def _fail(self) -> None:
        """Wait before the next try: not at all the first time, then longer each time."""
        pause = min(2.0 ** (self._failures - 1), self._terms.longest_pause_seconds) if self._failures else 0.0
        self._failures = min(self._failures + 1, 30)
        self._not_before = self._monotonic() + pause

    def _end_engine(self) -> int:
        """Kill the process and see it off; its wait status."""
        engine, self._engine = self._engine, None
        if engine is None:
            return 0
        if engine.reading is not None:
            _dismiss(engine.reading, second_wire.FAILED)
        engine.socket.close()
        if (ended := os.waitpid(engine.pid, os.WNOHANG))[0]:
            return ended[1]
        os.kill(engine.pid, signal.SIGKILL)
        return os.waitpid(engine.pid, 0)[1]

    def _tell(self) -> None:
        engine = self._engine
        if engine is None:
            state = State.PAUSED if self._monotonic() < self._not_before else State.UNLOADED
        elif engine.reading is not None:
            state = State.READING
        else:
            state = State.IDLE if engine.kill_at is None else State.LOADING
        self._board.tell(state, waiting=len(self._waiting))


def keep(
    inlet: socket.socket, board: StateBoard, make_engine: EngineFactory, terms: Terms, *, alive: int, parent_pid: int
) -> None:
    """Be the keeper's process until the master is gone.

    Args:
        inlet: Requests come from here.
        board: Where its state is told.
        make_engine: Makes the engine.
        terms: What it goes by.
        alive: A descriptor that the master watches; it closes with this process.
        parent_pid: The master.
    """
    limits.die_with_parent(signal.SIGKILL, parent_pid=parent_pid)
    be_known_as("second-keeper")
    second_process.leave_family([inlet.fileno(), alive])
    Keeper(inlet, board, make_engine, terms).run()


def _dismiss(request: Request, answer: bytes) -> None:
    request.answer(answer)
    request.close()


def _is_hung_up(inlet: socket.socket) -> bool:
    poll = select.poll()
    poll.register(inlet, 0)
    return any(events & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, events in poll.poll(0))
