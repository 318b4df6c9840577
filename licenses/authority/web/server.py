"""The service's process: gunicorn around the application.

Invariants:

* The address is taken before anything else is done, so a taken port is told at once and by name.
* Threads and connections to the database are made in the worker, after the fork, never in gunicorn's master. There is
  one worker: the database has one writer at a time anyway, and one process sees how often each subscription calls.
* A folder of uploads is one service's alone, from before it listens until its last process ends: whoever begins removes
  what lies there.
* SIGTERM ends it with exit code 0: what is being answered is answered, as long as it takes ten seconds at most; what is
  cut off then was not committed, and comes again.
"""

import contextlib
import errno
import fcntl
import gc
import ipaddress
import os
import re
import resource
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from licenses import durable
from licenses.authority.accounts import Accounts
from licenses.authority.audit_trail import AuditTrail, Clock
from licenses.authority.clerk_access import ClerkAccess
from licenses.authority.database import open_database
from licenses.authority.intake import Intake
from licenses.authority.licensing import Licensing
from licenses.authority.vendor_keys import VendorKeys
from licenses.authority.web import bodies, log
from licenses.authority.web.app import create_app
from licenses.authority.web.services import EXTENSION, ClerkOffice, Services, Uploads
from licenses.authority.web.worker import SPARE, AuthorityWorker, ServerLog, begun
from licenses.errors import FileAccessError, KeyFileError, UnknownStateError
from licenses.keys import read_small_file

GRACEFUL_SECONDS = 10
THREADS = 16
CONNECTIONS = 1000

_BACKLOG = 1024
# How long the thread that verifies a bundle may keep the interpreter when others want it, some twenty times a report.
_TURN_SECONDS = 0.0001
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:\s]*):(?P<port>[0-9]{1,5})")
_log = structlog.get_logger("Tollgate.Authority")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What the service shows to clients that speak TLS.

    Attributes:
        chain: PEM file of the certificate and those that lead to a CA.
        key: PEM file of its private key; for the service's user alone.
    """

    chain: Path
    key: Path

    def require_usable(self) -> None:
        """Look at it before anybody connects.

        Raises:
            KeyFileError: A file cannot be read, is open to others, or they do not fit each other.
        """
        for path, private in ((self.chain, False), (self.key, True)):
            read_small_file(path, doing="read the certificate", mode="0600", private=private, max_bytes=256 * 1024)
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(self.chain, self.key, password="")
        except (ssl.SSLError, OSError, ValueError) as exc:
            raise KeyFileError(
                f"{self.chain} and {self.key} are no certificate and its private key: {exc}",
                path=self.chain,
                next_step="Give PEM files, the certificate with its chain, and its key unencrypted.",
            ) from exc


def take_address(text: str) -> socket.socket:
    """Begin to listen, as "HOST:PORT" says; clients wait until somebody answers.

    Args:
        text: Such as "127.0.0.1:8400"; "0.0.0.0" or an empty host means all addresses of IPv4, "[::]" those of both
            versions, port 0 a free one.

    Raises:
        UnknownStateError: It is no such address, is not this machine's, is taken, or is not for this user.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None or int(found["port"]) > 65535:
        raise UnknownStateError(
            f"{text!r} is no address to listen on", next_step="Give HOST:PORT, such as 127.0.0.1:8400 or [::]:8400."
        )
    host, port = found["host"].strip("[]"), int(found["port"])
    try:
        family, *_, place = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM)[0]  # noqa: S104
        both = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(place[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=both)
    except OSError as exc:
        raise UnknownStateError(f"cannot listen on {text}: {exc.strerror or exc}", next_step=_step(exc, port)) from exc


@contextlib.contextmanager
def sole_use(folder: Path) -> Iterator[None]:
    """Keep a folder of uploads for this process, and for those that it makes by fork.

    The lock is on the folder itself, and ends with the last of these processes, however it ends.

    Raises:
        UnknownStateError: Another service has it.
        FileAccessError: It cannot be made or opened.
    """
    with contextlib.ExitStack() as held:
        try:
            durable.make_folders(folder, mode=0o700)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            held.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise UnknownStateError(
                f"another 'licenses authority serve' keeps its uploads in {folder}",
                next_step="Use that one, or end it first: 'pgrep -af authority' finds it. A second service needs a "
                "folder of its own: --uploads FOLDER.",
            ) from exc
        except OSError as exc:
            raise FileAccessError.from_os_error(exc, folder, doing="keep uploads there", mode="0700") from exc
        yield


def is_for_this_machine(listener: socket.socket) -> bool:
    """Whether nobody else can reach it."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def address_of(listener: socket.socket, *, is_tls: bool) -> str:
    """The address that clients on this machine may use."""
    host, port = listener.getsockname()[:2]
    return f"http{'s' if is_tls else ''}://{f'[{host}]' if ':' in host else host}:{port}"


def build_app(
    place: str | Path, keys: VendorKeys, uploads: Uploads, clock: Clock, *, access: ClerkAccess | None = None
) -> Flask:
    """Open the database and build the application around it; in the process that serves.

    Args:
        place: The database; see `open_database`.
        keys: What is signed with.
        uploads: Where bundles lie.
        clock: The vendor's time.
        access: Who is let in to the clerk's pages; None serves none.

    Raises:
        AuthorityError: The database cannot be opened.
    """
    bodies.clear_leftovers(uploads.folder)
    database = open_database(place)
    trail = AuditTrail(database, clock, actor="api")
    accounts = Accounts(database, trail, clock)
    licensing = Licensing(database, trail, keys, clock)
    return create_app(
        Services(
            database=database,
            accounts=accounts,
            licensing=licensing,
            intake=Intake(database, trail, accounts, licensing, keys, clock, max_bundle_bytes=uploads.max_bytes),
            keys=keys,
            uploads=uploads,
            clerk=None if access is None else ClerkOffice(access=access, trail=trail, clock=clock),
        )
    )


class AuthorityServer(BaseApplication):  # type: ignore[misc]
    """Serves until SIGTERM or Ctrl+C.

    Args:
        listener: From `take_address`; the server closes it.
        build: Builds the application, in the worker.
        certificate: What to show to clients; None speaks plain HTTP.
        greeting: What to say on standard output as soon as requests are answered.
    """

    def __init__(
        self, listener: socket.socket, build: Callable[[], Flask], *, certificate: Certificate | None, greeting: str
    ) -> None:
        self._descriptor = listener.detach()
        self._build = build
        self._certificate = certificate
        self._greeting = greeting
        super().__init__()

    def run(self) -> None:
        """Serve.

        Raises:
            SystemExit: At the end, with the exit code of the process.
        """
        log.configure()
        _allow_files()
        Arbiter(self).run()

    def load_config(self) -> None:
        """Set gunicorn up; nothing is read from its own files or environment."""
        settings: dict[str, Any] = {
            "bind": [f"fd://{self._descriptor}"],
            "worker_class": AuthorityWorker,
            "workers": 1,
            "threads": THREADS,
            "worker_connections": CONNECTIONS + SPARE,
            "keepalive": 75,
            "timeout": 120,
            "graceful_timeout": GRACEFUL_SECONDS,
            "backlog": _BACKLOG,
            "accesslog": None,
            "errorlog": "-",
            "loglevel": "error",  # its warnings tell client addresses
            "logger_class": ServerLog,
            "forwarded_allow_ips": "",
            "secure_scheme_headers": {},
            "control_socket_disable": True,
            "proc_name": "licenses-authority",
            "pre_request": begun,
            "post_worker_init": self._started,
            "worker_exit": _stopped,
        }
        if self._certificate is not None:
            settings |= {"certfile": str(self._certificate.chain), "keyfile": str(self._certificate.key)}
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Build the application in the worker."""
        return self._build()

    def _started(self, worker: Any) -> None:
        if worker.app.callable is None:
            return
        gc.collect()
        gc.freeze()  # what is there now stays; a long collection would let everybody wait
        sys.setswitchinterval(_TURN_SECONDS)
        if worker.age == 1:
            with contextlib.suppress(OSError):
                sys.stdout.write(self._greeting + "\n")
                sys.stdout.flush()
        else:
            _log.warning("the worker was started again", number=worker.age)


def _allow_files() -> None:
    """Raise this process's own limit of open files, which is often 1024, to what the connections need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, 4 * CONNECTIONS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _stopped(_server: Any, worker: Any) -> None:
    app: Flask | None = worker.app.callable
    if app is not None:
        one: Services = app.extensions[EXTENSION]
        one.database.close()


def _step(exc: OSError, port: int) -> str:
    match exc.errno:
        case errno.EADDRINUSE:
            return (
                "Another program, or another 'licenses authority serve', listens there already: "
                f"'ss -ltnp sport = :{port}' tells which. End it, or choose another address with --listen."
            )
        case errno.EACCES:
            return "Ports below 1024 are for root: choose one above with --listen, and put a reverse proxy before it."
        case errno.EADDRNOTAVAIL:
            return "This machine has no such address: 'ip address' lists those that it has."
        case _:
            return "Give another address with --listen."
