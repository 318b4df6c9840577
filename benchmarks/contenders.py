"""Who reads the pages without HTTP: bare tesserocr, pytesseract, the tesseract command, our core through its socket."""

from __future__ import annotations

import base64
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import psutil

from benchmarks.load import Contender, WrongAnswerError, family
from benchmarks.machine import waited
from benchmarks.pages import BenchPage
from ocr_core.page_text import PageText
from sidecar.license_mount import LEASE_NAME
from tests.e2e.site import Site
from tests.integration.ocr_core.running_core import UnixConnection

PEERS = Path(sys.executable).parent.parent / "peers"
"""The environment of what we compare with."""
HERE = Path(__file__).parent
# Debian's Tesseract divides a page among threads that mostly wait for each other: told to use one it is kind to it.
TUNED = {"OMP_THREAD_LIMIT": "1"}
_ANSWER_SECONDS = 300.0


class PageFolder:
    """Pages as files in a folder of their own."""

    def __init__(self, pages: Sequence[BenchPage]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="pages-")
        for page in pages:
            self.path(page).write_bytes(page.blob)

    def path(self, page: BenchPage) -> Path:
        """Where a page lies."""
        return Path(self._folder.name) / page.name

    def remove(self) -> None:
        """Remove it."""
        self._folder.cleanup()


class LineProcesses(Contender):
    """Processes that take a path a line and answer with a line of JSON; each reads one page at a time.

    Args:
        name: As in the table.
        command: Starts one of them.
        count: How many.
        environment: Beside what is inherited.
    """

    def __init__(self, name: str, command: Sequence[str], count: int, environment: Mapping[str, str]) -> None:
        self.name = name
        self._command, self._count, self._environment = command, count, environment
        self._all: list[subprocess.Popen[str]] = []
        self._idle: queue.LifoQueue[subprocess.Popen[str]] = queue.LifoQueue()
        self._folder: PageFolder | None = None

    def start(self, pages: Sequence[BenchPage]) -> None:
        """Start all of them."""
        self._folder = PageFolder(pages)
        for _ in range(self._count):
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment_with(self._environment),
            )
            self._all.append(process)
        for process in self._all:
            self._answer(process)
            self._idle.put(process)

    def read(self, page: BenchPage) -> str:
        """Give it to one that is idle."""
        assert self._folder is not None
        process = self._idle.get(timeout=_ANSWER_SECONDS)
        assert process.stdin is not None
        process.stdin.write(f"{self._folder.path(page)}\n")
        process.stdin.flush()
        text = self._answer(process)
        self._idle.put(process)
        return text

    def _answer(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise WrongAnswerError(f"{self.name}: a process ended")
        return str(json.loads(line))

    def processes(self) -> list[psutil.Process]:
        """They and what they started."""
        return [one for process in self._all for one in family(process.pid)]

    def stop(self) -> None:
        """End all of them."""
        for process in self._all:
            process.kill()
            process.wait()
        if self._folder is not None:
            self._folder.remove()


def bare_tesserocr(count: int) -> Contender:
    """The limit."""
    return LineProcesses(
        f"bare tesserocr, {count} processes (the limit)", [sys.executable, "-m", "benchmarks.bare"], count, {}
    )


def pytesseract(count: int, environment: Mapping[str, str]) -> Contender:
    """Processes with pytesseract, which runs the command for each page."""
    command = [str(PEERS / "bin" / "python"), str(HERE / "peers" / "pytesseract_lines.py")]
    return LineProcesses(f"pytesseract, {count} processes", command, count, environment)


class TesseractCommand(Contender):
    """The command, anew for each page.

    Args:
        count: How many may run at a time.
        environment: Beside what is inherited.
    """

    def __init__(self, count: int, environment: Mapping[str, str]) -> None:
        self.name = f"tesseract command, {count} at a time"
        self._environment = environment_with(environment)
        self._free = threading.Semaphore(count)
        self._lock = threading.Lock()
        self._running: set[int] = set()
        self._spent = 0.0
        self._folder: PageFolder | None = None

    def start(self, pages: Sequence[BenchPage]) -> None:
        """Lay the pages ready."""
        self._folder = PageFolder(pages)

    def read(self, page: BenchPage) -> str:
        """Run it once."""
        assert self._folder is not None
        with self._free, tempfile.TemporaryFile() as out:
            process = subprocess.Popen(
                ["tesseract", str(self._folder.path(page)), "-", "-l", "eng"],
                stdout=out,
                stderr=subprocess.DEVNULL,
                env=self._environment,
            )
            with self._lock:
                self._running.add(process.pid)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            with self._lock:
                self._running.discard(process.pid)
                self._spent += usage.ru_utime + usage.ru_stime
            if process.returncode:
                raise WrongAnswerError(f"{self.name} failed on {page.name} with {process.returncode}")
            out.seek(0)
            return out.read().decode("utf-8", "replace")

    def processes(self) -> list[psutil.Process]:
        """Those that run now."""
        with self._lock:
            running = list(self._running)
        return [one for pid in running for one in family(pid)]

    def cpu_seconds(self) -> float:
        """Of all that have ended."""
        return self._spent

    def stop(self) -> None:
        """Take the pages away."""
        if self._folder is not None:
            self._folder.remove()


class CoreSocket(Contender):
    """Our core, asked as its service asks it; the documents lie in the shared folder.

    Args:
        site: The service; whoever made it starts and removes it.
        name: As in the table.
    """

    def __init__(self, site: Site, name: str) -> None:
        self.name = name
        self._site = site
        self._documents: dict[str, str] = {}

    def start(self, pages: Sequence[BenchPage]) -> None:
        """Put the documents where the core finds them."""
        for page in pages:
            document = str(uuid.uuid4())
            folder = self._site.folder / "share" / "operations" / document
            folder.mkdir(parents=True)
            (folder / "document").write_bytes(page.blob)
            self._documents[page.name] = document
        waited(lambda: bool(self._site.core_workers()), 30, "the core has no workers")

    def read(self, page: BenchPage) -> str:
        """One page as English, columns one after the other as everybody else does it."""
        lease = (self._site.folder / "state" / LEASE_NAME).read_bytes()
        body = {"document": self._documents[page.name], "page": 1, "language": "en", "reading_order": "natural"}
        headers = {"Content-Type": "application/json", "Tollgate-Lease": base64.b64encode(lease).decode("ascii")}
        connection = UnixConnection(self._site.folder / "core.sock", _ANSWER_SECONDS)
        try:
            connection.request("POST", "/page", msgspec.json.encode(body), headers)
            answer = connection.getresponse()
            told = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise WrongAnswerError(f"{self.name} answered {answer.status} to {page.name}: {told[:200]!r}")
        return "\n".join(line.text for line in PageText.from_bytes(told).lines)

    def processes(self) -> list[psutil.Process]:
        """The core's master and all below it."""
        core = {process.pid: process for process in self._site.processes("core")}
        for process in list(core.values()):
            core |= {child.pid: child for child in family(process.pid)}
        return list(core.values())

    def stop(self) -> None:
        """Take the documents away."""
        for document in self._documents.values():
            shutil.rmtree(self._site.folder / "share" / "operations" / document, ignore_errors=True)


def environment_with(more: Mapping[str, str]) -> dict[str, str]:
    """Our environment without what tunes Tesseract, and more."""
    return {name: value for name, value in os.environ.items() if name not in TUNED} | dict(more)
