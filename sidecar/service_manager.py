"""What the service manager (systemd) is told of this process: ready, at work, and how things stand in a sentence.

Invariant: where no service manager listens, nothing happens. `at_work` is called by the work itself, never by a timer
beside it: a process that only looks alive must run into its watchdog.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from gunicorn.systemd import sd_notify

from sidecar.settings import LAUNCHER_VARIABLE

_VARIABLE = "NOTIFY_SOCKET"
_MAX_SENTENCE_LENGTH = 500
_log = logging.getLogger(__name__)


def has_manager(environ: Mapping[str, str]) -> bool:
    """Whether somebody starts and stops this process together with the others: the launcher, or systemd.

    Args:
        environ: This process's environment.
    """
    return LAUNCHER_VARIABLE in environ or _VARIABLE in environ


class ServiceManager:
    """The service manager's end of one process. Only what the unit's main process says counts."""

    def __init__(self) -> None:
        self._is_ready = False
        self._sentence = ""

    def ready(self, sentence: str) -> None:
        """Tell once that the process serves.

        Args:
            sentence: How things stand.
        """
        if not self._is_ready:
            self._is_ready = True
            self._send("READY=1")
        self.status(sentence)

    def status(self, sentence: str) -> None:
        """Tell how things stand, when that has changed; `systemctl status` shows it."""
        if sentence != self._sentence:
            self._sentence = sentence
            self._send("STATUS=" + " ".join(sentence.split())[:_MAX_SENTENCE_LENGTH])

    def at_work(self) -> None:
        """Tell that the work went on since the last call; the watchdog waits for this."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Tell that the process is about to end."""
        self._send("STOPPING=1\nSTATUS=Stopping")

    def _send(self, state: str) -> None:
        sd_notify(state, _log)


@contextmanager
def unheard() -> Iterator[None]:
    """Keep what is called from telling the service manager anything: gunicorn says that it is ready far too early."""
    address = os.environ.pop(_VARIABLE, None)
    try:
        yield
    finally:
        if address is not None:
            os.environ[_VARIABLE] = address
