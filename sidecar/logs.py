"""Logging: one line form for people, the console form that operators of the original container know (contract A.5).

Invariant: no document text, file name of a document, client address, key or licence envelope is ever passed to a
logger. Values are escaped, so nobody can forge a line.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_LEVELS = {
    "Trace": logging.NOTSET,
    "Debug": logging.DEBUG,
    "Information": logging.INFO,
    "Warning": logging.WARNING,
    "Error": logging.ERROR,
    "Critical": logging.CRITICAL,
    "None": logging.CRITICAL,
}
_SHORT = {"debug": "dbug", "info": "info", "warning": "warn", "error": "fail", "critical": "crit"}


def configure_logs(level: str, *, process: str) -> None:
    """Send this process's log to standard error.

    Args:
        level: A level of contract A.3 (`Information`, ...).
        process: `web`, `meter` or `launcher`; the event's second word.
    """
    under_journal = "JOURNAL_STREAM" in os.environ
    structlog.configure(
        processors=[
            *([_silent] if level == "None" else []),
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            _journal(process) if under_journal else _console(process),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=_NamedLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    # It tells of every job that waits while the output mount hangs, many times a second; the meter tells it once.
    logging.getLogger("apscheduler").setLevel(logging.CRITICAL)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="warn: %(name)s[0]\n      %(message)s")


class _NamedLogger:
    """Writes finished lines; carries the category it was asked for."""

    def __init__(self, name: str) -> None:
        self.name = name

    def msg(self, message: str) -> None:
        """Write one event; a closed stream is no reason to stop serving."""
        try:
            sys.stderr.write(message + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            pass

    debug = info = warning = error = critical = exception = msg


class _NamedLoggerFactory:
    def __call__(self, *args: Any) -> _NamedLogger:
        return _NamedLogger(str(args[0]) if args else "Tollgate")


def _silent(_logger: _NamedLogger, _method: str, _event: MutableMapping[str, Any]) -> Any:
    raise structlog.DropEvent


def _console(process: str) -> Any:
    def render(logger: _NamedLogger, _method: str, event: MutableMapping[str, Any]) -> str:
        level = _SHORT.get(str(event.pop("level", "info")), "info")
        exception = event.pop("exception", None)
        text = str(event.pop("event", ""))
        facts = " ".join(f"{key}={_value(value)}" for key, value in event.items())
        lines = [f"{level}: {logger.name}[{process}]", f"      {text}{' ' if facts else ''}{facts}"]
        if exception:
            lines += [f"      {line}" for line in str(exception).splitlines()]
        return "\n".join(lines)

    return render


def _journal(process: str) -> Any:
    def render(logger: _NamedLogger, _method: str, event: MutableMapping[str, Any]) -> str:
        return json.dumps({"logger": logger.name, "process": process, **event}, default=str)

    return render


def _value(value: Any) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text and text else json.dumps(text)
