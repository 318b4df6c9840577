"""The sidecar's worker and its request bodies in a process of their own, around an application that reads nothing.

python -m tests.fakes.web_worker_process THREADS [MODULE.NAME=SECONDS...]

What is tested with it is the server: bounds and timeouts, each of which may be set. A document is answered with its
length, or with what refuses it; `/large` is an answer that no buffer holds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from flask import Request, Response
from gunicorn.app.base import BaseApplication

from sidecar.errors import DocumentRefusedError
from sidecar.web import bodies, worker

MAX_BYTES = 1_000_000
LARGE_PIECES = 2000
PIECE = b"x" * 65536


class Server(BaseApplication):  # type: ignore[misc]
    def __init__(self, threads: int) -> None:
        self._threads = threads
        super().__init__()

    def load_config(self) -> None:
        for name, value in {
            "bind": ["127.0.0.1:0"],
            "worker_class": "sidecar.web.worker.ApiWorker",
            "threads": self._threads,
            "keepalive": 75,
            "graceful_timeout": 4,
            "loglevel": "error",
            "control_socket_disable": True,
            "pre_request": bodies.note_message,
            "post_worker_init": _greet,
        }.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        return _application


def _greet(one: Any) -> None:
    sys.stdout.write(f"{one.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()


def _fetch(text: str, *, max_bytes: int) -> Iterator[bytes]:
    yield text.encode()[:max_bytes]


def _application(environ: Any, start_response: Any) -> Any:
    request = Request(environ)
    if request.path == "/large":
        return Response(PIECE for _ in range(LARGE_PIECES))(environ, start_response)
    if request.method != "POST":
        return Response("ok")(environ, start_response)
    try:
        if request.path == "/refused":
            raise DocumentRefusedError("BadArgument", "Nobody wants it.")
        parts = bodies.document_chunks(request, formats=("png",), max_bytes=MAX_BYTES, fetch=_fetch)
        answer = Response(str(sum(map(len, parts))))
    except DocumentRefusedError as exc:
        bodies.drain(request, max_bytes=2 * MAX_BYTES)
        answer = Response(str(exc), status=400)
    return answer(environ, start_response)


def main() -> None:
    threads, *bounds = sys.argv[1:]
    for place, _, seconds in (bound.partition("=") for bound in bounds):
        module, _, name = place.partition(".")
        room = {"bodies": bodies, "worker": worker}[module]
        setattr(room, name, type(getattr(room, name))(seconds))
    sys.argv[1:] = []
    Server(int(threads)).run()


if __name__ == "__main__":
    main()
