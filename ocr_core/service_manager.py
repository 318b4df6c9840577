"""What the service manager (systemd) is told of the core, and the socket that it may hand over.

Invariant: where no service manager listens, nothing happens. The master tells of work in its own loop and only while
a worker could take a page, so that a core which only looks alive runs into its watchdog. Gunicorn itself tells that
the master is ready: the models are loaded and the processor was tried before it begins.
"""

import logging

from gunicorn.systemd import listen_fds, sd_notify

_log = logging.getLogger("ocr_core")


def has_handed_over_a_socket() -> bool:
    """Whether this process was started with a socket that already listens; gunicorn then takes that one."""
    return bool(listen_fds(unset_environment=False))


def tell_workers(working: int, wanted: int) -> None:
    """Tell how many workers could take a page; none of them: say nothing, and let the watchdog bite.

    Args:
        working: Workers that neither hang nor stand still.
        wanted: Workers that there should be.
    """
    if working > 0:
        sd_notify(f"WATCHDOG=1\nSTATUS={working} of {wanted} workers are up", _log)
