"""One process that has imported every part and forks them on command, so that a restart costs milliseconds.

`python -m tests.e2e.zygote` reads orders as JSON lines and answers each with one:

* {"part": "web", "words": [...], "log": "/path"}   →  {"pid": 4711, "ended": {...}}
* {}                                                 →  {"ended": {"4711": -9}}   what ended since the last answer

A part's child leads a process group of its own and runs what the command runs: `sidecar web`, `sidecar meter`,
`ocr-core`. With `"engine": "marked"` the core reads with `tests.fakes.marked.MarkedEngine` in place of Tesseract; that
is the only thing in which such a part differs from one that the launcher starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class Zygote:
    """The process, as a test holds it. For one thread."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.zygote"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._ended: dict[int, int] = {}

    def start(self, part: str, words: list[str], log: Path, *, engine: str = "marked") -> int:
        """Fork a part; its process id, which is also its group's."""
        return int(self._ask(part=part, words=words, log=str(log), engine=engine)["pid"])

    def ended(self) -> dict[int, int]:
        """How the processes ended that did: an exit code, or minus the signal."""
        self._ask()
        return self._ended

    def close(self) -> None:
        """End it; what it forked goes too."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, **order: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        answer = dict(json.loads(self._process.stdout.readline()))
        self._ended.pop(answer.get("pid", 0), None)  # the number of somebody who ended long ago may come again
        self._ended.update((int(pid), code) for pid, code in answer["ended"].items())
        return answer


# ---- inside ---------------------------------------------------------------------------------------------------------


def _serve() -> None:
    orders, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever an import prints must not look like an answer
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # so that workers whose master was killed are reaped
    for package in ("licenses", "sidecar", "ocr_core"):
        found = importlib.import_module(package)
        for info in pkgutil.walk_packages(found.__path__, f"{package}."):
            importlib.import_module(info.name)
    for module in ("gunicorn.app.base", "gunicorn.workers.gthread", "gunicorn.workers.sync", "tests.fakes.marked"):
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    for line in orders:
        order = json.loads(line)
        answer: dict[str, object] = {}
        if order:
            answer["pid"] = _fork(order, (orders.fileno(), answers.fileno()))
        answers.write(json.dumps({**answer, "ended": _reap()}).encode() + b"\n")
        answers.flush()


def _reap() -> dict[int, int]:
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = os.waitstatus_to_exitcode(found[1])
    return ended


def _fork(order: dict[str, Any], ours: tuple[int, ...]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)
        return pid
    code = 1
    try:
        with contextlib.suppress(PermissionError):
            os.setpgid(0, 0)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            for descriptor in ours:
                os.close(descriptor)
            log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            for source, target in ((null, 0), (log, 1), (log, 2)):
                os.dup2(source, target)
            code = _run(order)
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else int(bool(exc.code))
    except BaseException:  # noqa: BLE001 - whatever ends a part is in its log, and never in the zygote
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(order: dict[str, Any]) -> int:
    if order["part"] == "core":
        from ocr_core import __main__ as core
        from tests.fakes.marked import MarkedEngine

        if order["engine"] == "marked":
            vars(core)["TesserocrEngine"] = lambda _tessdata: MarkedEngine()
        return core.main(order["words"])
    from sidecar.cli import main

    main([order["part"], *order["words"]])
    return 0


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    _serve()
