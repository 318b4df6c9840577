"""The service's log: one JSON object in a line, on standard error, for whatever collects it.

Invariant: no key, no envelope, no client's address and nothing of a body is passed to a logger. Values are escaped.
"""

import sys

import structlog


def configure() -> None:
    """Have this process write its log so."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(sort_keys=False),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
