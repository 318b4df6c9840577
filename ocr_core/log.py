"""The core's log: lines on standard error, for a person at a terminal or for the journal of systemd.

Invariant: a line is written to a descriptor that is open already, because who reads documents can open no other. The
journal gets each line's level in front of it, in its own notation, and keeps it as the event's priority.
"""

import logging
import os
import sys

from gunicorn.glogging import Logger

_FOR_PEOPLE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_FOR_THE_JOURNAL = "%(name)s: %(message)s"  # which knows the time, and shows the level
_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6}
_LOWEST_PRIORITY = 7


def is_read_by_journal(journal_stream: str, descriptor: int = 2) -> bool:
    """Whether a stream is the one that systemd connected to the journal.

    Args:
        journal_stream: The value of JOURNAL_STREAM: device and inode. A process further down inherits the variable even
            where its standard error was sent elsewhere.
        descriptor: The stream.
    """
    try:
        facts = os.fstat(descriptor)
    except OSError:
        return False
    return journal_stream == f"{facts.st_dev}:{facts.st_ino}"


class JournalFormatter(logging.Formatter):
    """One event as lines that each bear the event's priority, as `<4>ocr_core: …`."""

    def __init__(self) -> None:
        super().__init__(_FOR_THE_JOURNAL)

    def format(self, record: logging.LogRecord) -> str:
        """The lines."""
        priority = _PRIORITIES.get(record.levelno, _LOWEST_PRIORITY)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def configure(level: int, journal_stream: str) -> None:
    """Send the log of this process, and of those forked from it, to standard error.

    Args:
        level: What is logged, from this level on.
        journal_stream: The value of JOURNAL_STREAM.
    """
    handler = logging.StreamHandler(sys.stderr)
    by_journal = is_read_by_journal(journal_stream)
    handler.setFormatter(JournalFormatter() if by_journal else logging.Formatter(_FOR_PEOPLE))
    # Libraries never below Information: at Debug, Pillow tells what stands in a document.
    logging.basicConfig(level=max(level, logging.INFO), handlers=[handler], force=True)
    logging.getLogger("ocr_core").setLevel(level)


class ServerLogger(Logger):  # type: ignore[misc]
    """What gunicorn tells, in the same form as everything else."""

    def setup(self, cfg: object) -> None:
        """Take over gunicorn's configuration."""
        super().setup(cfg)
        self.error_log.propagate = True
