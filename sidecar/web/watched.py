"""Gunicorn's master as the service manager sees it: ready when a worker has decided, alive while every worker decides.

Invariant: the master tells of work only what workers told it since it looked last. A worker tells of each decision
that it made afresh (see `Admission`), so one whose facts cannot be gathered any more, or which was stopped, runs into
the watchdog.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from sidecar.service_manager import ServiceManager, unheard

_SILENCE_SECONDS = 15.0
_START_SECONDS = 90.0
_MAX_MESSAGE_BYTES = 4096
_DAMAGE_SECONDS = 3.0
EXIT_DAMAGED = 69
_UNDECIDED, _DECIDED = b"-", b"+"
_log = structlog.get_logger("Tollgate.Web")


class WorkerReports:
    """Short messages from workers to their master, over a pair of sockets that both inherit.

    Args:
        monotonic: Where the time comes from, in seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._master, self._worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._master, self._worker):
            end.setblocking(False)
        self._monotonic = monotonic
        self._heard: dict[int, float] = {}
        self._decided = False
        self.sentence = ""

    def tell(self, sentence: str, *, decided: bool) -> None:
        """In a worker: a decision was made afresh. When the master does not listen, nobody misses it.

        Args:
            sentence: How things stand.
            decided: Whether what is needed for a decision was there.
        """
        message = b"%d %b%b" % (os.getpid(), _DECIDED if decided else _UNDECIDED, sentence.encode("utf-8", "replace"))
        try:
            self._worker.send(message[:_MAX_MESSAGE_BYTES])
        except OSError:
            return

    def receive(self) -> None:
        """In the master: take in what was told since the last call."""
        while True:
            try:
                message = self._master.recv(_MAX_MESSAGE_BYTES)
            except OSError:
                return
            pid, _, rest = message.partition(b" ")
            if not pid.isdigit():
                continue
            self._heard[int(pid)] = self._monotonic()
            self._decided = self._decided or rest.startswith(_DECIDED)
            self.sentence = rest[1:].decode("utf-8", "replace")

    @property
    def is_decided(self) -> bool:
        """Whether any worker has ever made a real decision."""
        return self._decided

    def all_work(self, pids: set[int]) -> bool:
        """In the master: whether each of these workers is at work, or has only just been started.

        Args:
            pids: The workers that there are now; others are forgotten.
        """
        now = self._monotonic()
        self._heard = {pid: self._heard.get(pid, now + _START_SECONDS - _SILENCE_SECONDS) for pid in pids}
        return bool(pids) and all(now - at <= _SILENCE_SECONDS for at in self._heard.values())


class WatchedArbiter(Arbiter):  # type: ignore[misc]
    """Gunicorn's master; on each turn of its loop it passes on what the workers told.

    Args:
        app: The application.
        reports: What the workers tell.
        damage: The mark that damage in the ledger leaves, where nobody else stops this process for it.
    """

    def __init__(self, app: object, reports: WorkerReports, damage: Path | None = None) -> None:
        self._reports = reports
        self._damage = damage
        self._damaged_at: float | None = None
        self._service_manager = ServiceManager()
        super().__init__(app)

    def start(self) -> None:
        """Take over the sockets."""
        with unheard():
            super().start()
        self._service_manager.status("Starting: the ledger is checked")

    def murder_workers(self) -> None:
        """On each turn: end workers that hang, then tell how things stand."""
        super().murder_workers()
        self._reports.receive()
        if self._reports.is_decided:
            self._service_manager.ready(self._reports.sentence)
        elif self._reports.sentence:
            self._service_manager.status(self._reports.sentence)
        if self._reports.all_work(set(self.WORKERS)):
            self._service_manager.at_work()
        self._end_for_a_repair()

    def _end_for_a_repair(self) -> None:
        """End when there is damage, so that the next start mends it: nobody may have the ledger open then."""
        if self._damage is None or not self._damage.exists():
            self._damaged_at = None
            return
        now = time.monotonic()
        self._damaged_at = now if self._damaged_at is None else self._damaged_at
        if now - self._damaged_at > _DAMAGE_SECONDS:
            _log.error("damage was found in the ledger; ending, so that the next start rebuilds it")
            raise HaltServer("damage in the ledger", EXIT_DAMAGED)

    def stop(self, graceful: bool = True) -> None:
        """Stop the workers."""
        self._service_manager.stopping()
        super().stop(graceful)
