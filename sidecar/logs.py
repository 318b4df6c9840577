"""Logging: one line form for people, the console form that operators of the original container know (contract A.5).

Invariant: no document text, file name of a document, client address, key or licence envelope is ever passed to a
logger. Values are escaped, so nobody can forge a line. A sink takes an event without waiting for anything.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from sidecar.clock import SystemClock, instant
from sidecar.journal import Journal, field_name, is_standard_error
from sidecar.log_levels import LogLevels

_NUMBERS = {
    "Trace": 5,
    "Debug": logging.DEBUG,
    "Information": logging.INFO,
    "Warning": logging.WARNING,
    "Error": logging.ERROR,
    "Critical": logging.CRITICAL,
    "None": logging.CRITICAL + 1,
}
_WORDS = {"debug": "Debug", "info": "Information", "warning": "Warning", "error": "Error", "critical": "Critical"}
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # syslog's
_SHORT = {"debug": "dbug", "info": "info", "warning": "warn", "error": "fail", "critical": "crit"}
# What structlog need not even look at; it knows no levels but the standard library's.
_FILTERS = {**_NUMBERS, "Trace": logging.NOTSET, "None": logging.CRITICAL}
_MAX_TEXT_LENGTH = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEvent:
    """One event of the log, as sinks other than the console get it.

    Attributes:
        wall_ns: When, by the host's wall clock: nanoseconds since the epoch.
        level: `Debug`, `Information`, `Warning`, `Error` or `Critical`.
        category: Who tells it, as in `Tollgate.Meter`.
        process: `web`, `meter` or `launcher`.
        message: What is told.
        facts: Names and values that belong to it.
        exception: A traceback; empty when there is none.
    """

    wall_ns: int
    level: str
    category: str
    process: str
    message: str
    facts: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    exception: str = ""

    def to_wire(self) -> dict[str, Any]:
        """The event as one flat record, the same on disk and for Fluentd."""
        return {
            "time": f"{instant(self.wall_ns):%Y-%m-%dT%H:%M:%S}.{self.wall_ns // 1_000_000 % 1000:03d}Z",
            "level": self.level,
            "category": self.category,
            "process": self.process,
            "pid": os.getpid(),
            "message": self.message,
            **({"facts": dict(self.facts)} if self.facts else {}),
            **({"exception": self.exception} if self.exception else {}),
        }


class LogSink(Protocol):
    """Where events go beside the console."""

    @property
    def name(self) -> str:
        """Its name among the settings: `Disk` or `Fluentd`."""
        ...

    def offer(self, event: LogEvent) -> None:
        """Take an event or drop it, at once; never raise."""
        ...


class _Router:
    """Decides for each event where it goes.

    Args:
        levels: The rules.
        process: This process's name.
    """

    def __init__(self, levels: LogLevels, process: str) -> None:
        self.process = process
        self.sinks: tuple[LogSink, ...] = ()
        self._clock = SystemClock()
        self._levels = levels
        self._from: dict[tuple[str, str], int] = {}

    def __call__(self, logger: _NamedLogger, method: str, event: MutableMapping[str, Any]) -> Any:
        """The event for the console, once the other sinks have had it."""
        number = _NUMBERS[_WORDS[method]]
        wanting = [sink for sink in self.sinks if self._is_wanted(sink.name, logger.name, number)]
        if wanting:
            made = self._event(logger.name, method, event)
            for sink in wanting:
                sink.offer(made)
        if not self._is_wanted("Console", logger.name, number):
            raise structlog.DropEvent
        return event

    def _is_wanted(self, sink: str, category: str, number: int) -> bool:
        if (sink, category) not in self._from:
            self._from[sink, category] = _NUMBERS[self._levels.level(sink, category)]
        return number >= self._from[sink, category]

    def _event(self, category: str, method: str, event: Mapping[str, Any]) -> LogEvent:
        facts = {
            name: value if isinstance(value, bool | int | float | None) else str(value)[:_MAX_TEXT_LENGTH]
            for name, value in event.items()
            if name not in {"event", "level", "exception"}
        }
        return LogEvent(
            wall_ns=self._clock.read().wall_ns,
            level=_WORDS[method],
            category=category,
            process=self.process,
            message=str(event.get("event", ""))[:_MAX_TEXT_LENGTH],
            facts=facts,
            exception=str(event.get("exception") or "")[-_MAX_TEXT_LENGTH:],
        )


def configure_logs(levels: LogLevels, *, process: str) -> None:
    """Send this process's log to standard error.

    Args:
        levels: What is told, from which level on.
        process: `web`, `meter` or `launcher`; the event's second word.
    """
    global _router  # noqa: PLW0603 - as structlog's own configuration, one per process
    under_journal = is_standard_error(os.environ.get("JOURNAL_STREAM", ""))
    _router = _Router(levels, process)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            _router,
            _journal(process, Journal()) if under_journal else _console(process),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_FILTERS[levels.lowest]),
        logger_factory=_NamedLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    # It tells of every job that waits while the output mount hangs, many times a second; the meter tells it once.
    logging.getLogger("apscheduler").setLevel(logging.CRITICAL)
    logging.basicConfig(level=logging.WARNING, handlers=[_FromLibraries()], force=True)


def add_sinks(*sinks: LogSink) -> None:
    """Send events to these too, from now on; after the fork where there is one, because sinks have threads."""
    _router.sinks += sinks


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


class _FromLibraries(logging.Handler):
    """What libraries tell through the standard library's loggers goes the same way."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hand the record on; `emit` must not raise."""
        try:
            level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
            exception = {"exc_info": record.exc_info} if record.exc_info else {}
            structlog.get_logger(record.name).log(level, record.getMessage(), **exception)
        except Exception:  # noqa: BLE001 - a log line is not worth more than what is being done
            self.handleError(record)


_router = _Router(LogLevels(), "sidecar")


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


def _journal(process: str, journal: Journal) -> Any:
    """To the journal as fields; as a line of JSON, which it takes from standard error, when it does not take that."""

    def render(logger: _NamedLogger, _method: str, event: MutableMapping[str, Any]) -> str:
        level = str(event.get("level", "info"))
        facts = {key: str(value) for key, value in event.items() if key not in {"level", "event", "exception"}}
        told = " ".join([str(event.get("event", "")), *(f"{key}={_value(value)}" for key, value in facts.items())])
        fields = [
            ("MESSAGE", told[:_MAX_TEXT_LENGTH]),
            ("PRIORITY", str(_PRIORITIES.get(level, 6))),
            ("SYSLOG_IDENTIFIER", f"sidecar-{process}"),
            (field_name("category"), logger.name),
            *((field_name(key), value[:_MAX_TEXT_LENGTH]) for key, value in facts.items()),
        ]
        if event.get("exception"):
            fields.append((field_name("exception"), str(event["exception"])[-_MAX_TEXT_LENGTH:]))
        if journal.send(fields):
            raise structlog.DropEvent
        return json.dumps({"logger": logger.name, "process": process, **event}, default=str)

    return render


def _value(value: Any) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text and text else json.dumps(text)
