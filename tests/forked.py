"""What a forked child of a test found, and what a forked process has open."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ocr_core.forked_process import fork


def in_child(work: Callable[[], int]) -> int:
    """The exit code of a forked child; a signal's number, negative."""
    pid = fork()
    if pid == 0:
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def ways_out(pid: int) -> list[str]:
    """Where the descriptors of a process lead that lead anywhere, the standard ones left out."""
    links = []
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            links += [os.readlink(one)] if int(one.name) > 2 else []
    return [link for link in links if link != os.devnull]
