"""Who reads the pages over HTTP: the whole service, and peers; all asked on connections that are kept."""

from __future__ import annotations

import http.client
import json
import queue
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.contenders import HERE, PEERS, environment_with
from benchmarks.load import Contender, WrongAnswerError, family
from benchmarks.machine import waited
from benchmarks.pages import BenchPage
from tests.e2e.site import Site, free_port

ENGLISH = "?language=en&readingOrder=natural"
"""What our service is asked for: columns one after the other, as everybody else does it."""
ANY_LANGUAGE = "?readingOrder=natural"
"""The same with the language detected."""
_ANSWER_SECONDS = 300.0
_START_SECONDS = 60.0


class HttpContender(Contender):
    """Any server that takes a page in one POST.

    Attributes:
        port: On this host.
        path: What is posted to.
        form_field: The field of a form that holds the page; None where the body is the page.
    """

    port: int
    path: str
    form_field: str | None = None

    def __init__(self, name: str) -> None:
        self.name = name
        self._idle: queue.LifoQueue[http.client.HTTPConnection] = queue.LifoQueue()
        self._bodies: dict[str, tuple[bytes, str]] = {}

    def text_of(self, answer: Any) -> str:
        """The text in an answer's JSON."""
        raise NotImplementedError

    def start(self, pages: Sequence[BenchPage]) -> None:
        """Make the requests' bodies ready."""
        for page in pages:
            self._bodies[page.name] = self._body(page)

    def read(self, page: BenchPage) -> str:
        """Post it."""
        body, kind = self._bodies[page.name]
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_ANSWER_SECONDS)
            connection.connect()
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.request("POST", self.path, body, {"Content-Type": kind})
        answer = connection.getresponse()
        told = answer.read()
        if not 200 <= answer.status < 300:
            raise WrongAnswerError(f"{self.name} answered {answer.status} to {page.name}: {told[:200]!r}")
        self._idle.put(connection)
        return self.text_of(json.loads(told))

    def refresh(self) -> None:
        """Close the connections: a server may have given them up while others had their turn."""
        with suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()

    def stop(self) -> None:
        """Close the connections."""
        HttpContender.refresh(self)

    def _body(self, page: BenchPage) -> tuple[bytes, str]:
        if self.form_field is None:
            return page.blob, "application/octet-stream"
        mark, kind = uuid.uuid4().hex, "image/jpeg" if page.name.endswith(".jpg") else "image/png"
        head = (
            f'--{mark}\r\nContent-Disposition: form-data; name="{self.form_field}"; filename="{page.name}"\r\n'
            f"Content-Type: {kind}\r\n\r\n"
        )
        return head.encode() + page.blob + f"\r\n--{mark}--\r\n".encode(), f"multipart/form-data; boundary={mark}"


class WholeService(HttpContender):
    """The whole product: launcher, web, meter and core, every page gated and counted.

    Args:
        site: The service; whoever made it starts and removes it.
        name: As in the table.
        query: Of the request.
    """

    def __init__(self, site: Site, name: str, *, query: str) -> None:
        super().__init__(name)
        self._site = site
        self.port = site.port
        self.path = "/vision/v3.2/read/syncAnalyze" + query

    def text_of(self, answer: Any) -> str:
        """All lines in the order of the answer."""
        return "\n".join(line["text"] for page in answer["analyzeResult"]["readResults"] for line in page["lines"])

    def processes(self) -> list[psutil.Process]:
        """The launcher and all below it."""
        return self._site.processes()


class PeerServer(HttpContender):
    """A server of the peers' environment.

    Args:
        name: As in the table.
        environment: Beside what is inherited.
    """

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        super().__init__(name)
        self.port = free_port()
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._holder = tempfile.TemporaryDirectory(prefix="peer-")
        self.folder = Path(self._holder.name)

    def command(self) -> list[str]:
        """What starts it."""
        raise NotImplementedError

    def own_environment(self) -> dict[str, str]:
        """What it needs to be told."""
        return {}

    def start(self, pages: Sequence[BenchPage]) -> None:
        """Start it, and wait until it listens."""
        super().start(pages)
        with (self.folder / "log.txt").open("wb") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=environment_with({**self.own_environment(), **self._environment}),
            )
        waited(self._listens, _START_SECONDS, f"{self.name} does not listen: {self._log()[-500:]}")

    def processes(self) -> list[psutil.Process]:
        """It and all below it."""
        return family(self._process.pid) if self._process is not None else []

    def stop(self) -> None:
        """End it and all below it."""
        super().stop()
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process is not None:
            self._process.wait()
        self._holder.cleanup()

    def _listens(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise WrongAnswerError(f"{self.name} ended: {self._log()[-500:]}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _log(self) -> str:
        path = self.folder / "log.txt"
        return path.read_text(errors="replace") if path.exists() else ""


class Recipe(PeerServer):
    """FastAPI around pytesseract, as most would write it."""

    path, form_field = "/ocr", "file"

    def command(self) -> list[str]:
        """One process with uvicorn's defaults."""
        app = ["recipe:app", "--app-dir", str(HERE / "peers")]
        address = ["--host", "127.0.0.1", "--port", str(self.port), "--log-level", "warning"]
        return [str(PEERS / "bin" / "uvicorn"), *app, *address]

    def text_of(self, answer: Any) -> str:
        """Its one member."""
        return str(answer["text"])


class Kreuzberg(PeerServer):
    """Kreuzberg's own server; it answers with Markdown."""

    path, form_field = "/extract", "data"

    def command(self) -> list[str]:
        """As its documentation starts it."""
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        return [str(PEERS / "bin" / "litestar"), "--app", "kreuzberg._api.main:app", "run", *address]

    def own_environment(self) -> dict[str, str]:
        """Nothing of it outside its folder, and no telemetry."""
        return {
            "HOME": str(self.folder),
            "KREUZBERG_CACHE_DIR": str(self.folder / "cache"),
            "KREUZBERG_ENABLE_OPENTELEMETRY": "false",
        }

    def refresh(self) -> None:
        """It keeps what it has read."""
        super().refresh()
        for kept in (self.folder / "cache").glob("*/*.msgpack"):
            kept.unlink()

    def text_of(self, answer: Any) -> str:
        """The Markdown of the one document, without what it says of itself."""
        return str(answer[0]["content"]).rpartition("\n...\n")[2]


class RapidOcr(PeerServer):
    """rapidocr_api: PP-OCR on ONNX Runtime, no Tesseract."""

    path, form_field = "/ocr", "image_file"

    def command(self) -> list[str]:
        """One process, its default."""
        return [str(PEERS / "bin" / "rapidocr_api"), "-ip", "127.0.0.1", "-p", str(self.port), "-workers", "1"]

    def text_of(self, answer: Any) -> str:
        """Line by line, in its order."""
        return "\n".join(line["rec_txt"] for line in answer.values())


def peers_are_installed() -> bool:
    """Whether `make bench` could set up the peers' environment."""
    return (PEERS / "bin" / "uvicorn").exists()


def command_is_installed() -> bool:
    """Whether there is a tesseract command."""
    return shutil.which("tesseract") is not None
