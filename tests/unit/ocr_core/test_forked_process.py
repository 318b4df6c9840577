"""A process forked from a larger one has nothing open of it, and nothing of it reaches what is opened afterwards."""

import gc
import os
import socket
from pathlib import Path

import pytest

from ocr_core import forked_process
from tests.forked import in_child

FEW = 8  # more than a listing of descriptors has open for itself


def leads_nowhere(descriptor: int) -> bool:
    return os.path.samestat(os.fstat(descriptor), os.stat(os.devnull))


def test_what_was_open_leads_nowhere_and_what_is_kept_leads_where_it_did(tmp_path: Path) -> None:
    with open(tmp_path / "open", "wb") as file, open(tmp_path / "kept", "wb") as kept:

        def check() -> int:
            forked_process.disconnect_all_but([kept.fileno()])
            assert leads_nowhere(file.fileno())
            assert os.path.samestat(os.fstat(kept.fileno()), os.stat(kept.name))
            return 0

        assert in_child(check) == 0
        file.write(b"still open here")
    assert (tmp_path / "open").read_bytes() == b"still open here"


def test_the_other_end_of_what_was_open_sees_it_closed() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pid = forked_process.fork()
        if pid == 0:
            try:
                forked_process.disconnect_all_but([])
                ours.send(b"to nobody")
            finally:
                os._exit(0)
        ours.close()
        theirs.settimeout(10)
        assert theirs.recv(100) == b""
        os.waitpid(pid, 0)


def test_a_file_of_the_parents_does_not_write_into_what_is_opened_afterwards(tmp_path: Path) -> None:
    files = [open(tmp_path / str(number), "wb", buffering=0) for number in range(FEW)]  # noqa: SIM115 - closed below

    def check() -> int:
        forked_process.disconnect_all_but([])
        ends = [os.pipe2(os.O_NONBLOCK) for _ in range(FEW)]
        for file in files:
            file.write(b"a line of the log")
        for told, _ in ends:
            with pytest.raises(BlockingIOError):
                os.read(told, 1)
        return 0

    assert in_child(check) == 0
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b""] * FEW
    for file in files:
        file.close()


def test_what_the_parent_forgot_does_not_close_what_is_opened_afterwards() -> None:
    class Forgotten:
        def __init__(self) -> None:
            self.itself = self
            self.ends = socket.socketpair()

    gc.disable()
    try:
        forgotten = [Forgotten() for _ in range(FEW)]

        def check() -> int:
            forked_process.disconnect_all_but([])
            ends = [end for _ in range(FEW) for end in os.pipe2(os.O_NONBLOCK)]
            forgotten.clear()
            gc.collect()
            for end in ends:
                os.fstat(end)
            return 0

        assert in_child(check) == 0
        for one in forgotten:
            for end in one.ends:
                end.close()
    finally:
        gc.enable()


def test_what_the_parent_forgot_is_never_collected_in_the_child() -> None:
    """As an engine's session, whose end waits for threads that a fork leaves behind."""
    collected_by: list[int] = []

    class Forgotten:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            collected_by.append(os.getpid())

    def check() -> int:
        kept = gc.isenabled()
        gc.collect()
        return 0 if kept and not collected_by else 1

    Forgotten()
    assert gc.isenabled()
    assert in_child(check) == 0
    assert gc.isenabled()
    gc.collect()
    assert collected_by == [os.getpid()]


def test_a_collector_that_was_off_stays_off_in_both() -> None:
    gc.disable()
    try:
        assert in_child(gc.isenabled) == 0
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_fork_that_is_refused_leaves_the_collector_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", refused)
    with pytest.raises(BlockingIOError):
        forked_process.fork()
    assert gc.isenabled()
