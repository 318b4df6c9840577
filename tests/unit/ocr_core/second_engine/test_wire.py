import array
import fcntl
import math
import os
import socket
import struct
import time
from collections.abc import Iterator

import msgspec
import pytest

from ocr_core.engine import FoundLine, FoundWord, Picture
from ocr_core.second_engine import wire as second_wire
from ocr_core.second_engine.wire import FAILED, READ, Request, WireError

PICTURE = Picture(pixels=bytes(range(240)), width=20, height=12, dpi=300)
LINE = FoundLine(
    words=(
        FoundWord(text="naïve", box=(0, 0, 9, 12), confidence=0.25),
        FoundWord(text="字", box=(10, 1, 20, 11), confidence=1.0, glued=True),
    ),
    baseline=(0.0, 11.5, 20.0, 12.0),
    block=0,
)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = second_wire.pair()
    with ours, theirs:
        yield ours, theirs


def send(
    through: socket.socket,
    *,
    width: int = 20,
    height: int = 12,
    dpi: int = 300,
    deadline: float = 5.0,
    magic: bytes = b"2ndread1",
    content: bytes = PICTURE.pixels,
    seals: int | None = None,
    reply: int | None = None,
    extra: bytes = b"",
    descriptors: int = 2,
) -> None:
    """A request as a sender would send it who means harm."""
    pixels = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.write(pixels, content)
    if seals is None:
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(pixels, fcntl.F_ADD_SEALS, seals)
    mine, theirs = second_wire.pair()
    handed = [pixels, theirs.fileno() if reply is None else reply, pixels, pixels][:descriptors]
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", handed))] if handed else []
    through.sendmsg([struct.pack("<8sIIId", magic, width, height, dpi, deadline) + extra], rights)
    os.close(pixels)
    mine.close()
    theirs.close()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_picture_arrives_as_it_was_sent(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    pixels = second_wire.sealed(PICTURE.pixels)
    mine, other = second_wire.pair()
    second_wire.send_request(ours, PICTURE, deadline=12.5, pixels=pixels, reply=other.fileno())
    os.close(pixels)
    other.close()
    request = second_wire.receive_request(theirs, wait=False)
    assert request is not None
    assert (request.width, request.height, request.dpi, request.deadline) == (20, 12, 300, 12.5)
    assert request.picture().pixels[:] == PICTURE.pixels
    assert not request.is_abandoned()
    second_wire.send_lines(request, (LINE,))
    assert second_wire.receive_answer(mine, PICTURE) == (LINE,)
    request.answer(FAILED)
    assert second_wire.receive_answer(mine, PICTURE) == FAILED
    mine.close()
    assert request.is_abandoned()
    request.answer(FAILED)  # nobody is there: nothing happens
    second_wire.send_lines(request, (LINE,))
    request.close()


@pytest.mark.parametrize(
    "lie",
    [
        {"magic": b"2ndread0"},
        {"width": 21},
        {"width": 0},
        {"height": 0},
        {"height": 2**31},
        {"width": 2**32 - 1, "height": 2**32 - 1},
        {"width": 240, "height": 1, "content": bytes(239)},
        {"content": bytes(241)},
        {"content": b""},
        {"dpi": 2**31},
        {"deadline": math.nan},
        {"deadline": math.inf},
        {"deadline": -math.inf},
        {"extra": b"x"},
        {"extra": bytes(70_000)},
        {"descriptors": 0},
        {"descriptors": 1},
        {"descriptors": 3},
        {"descriptors": 4},
        {"seals": 0},
        {"seals": fcntl.F_SEAL_SHRINK},
        {"seals": fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW},
        {"reply": 0},
    ],
    ids=str,
)
def test_a_request_that_lies_is_refused_and_nothing_of_it_stays_open(
    ends: tuple[socket.socket, socket.socket], lie: dict[str, object]
) -> None:
    ours, theirs = ends
    before = open_descriptors()
    send(ours, **lie)  # type: ignore[arg-type]
    with pytest.raises(WireError):
        second_wire.receive_request(theirs, wait=False)
    assert open_descriptors() == before


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_of_another_kind_is_not_answered_on(ends: tuple[socket.socket, socket.socket], kind: int) -> None:
    ours, theirs = ends
    first, second = socket.socketpair(socket.AF_UNIX, kind)
    before = open_descriptors()
    send(ours, reply=first.fileno())
    with pytest.raises(WireError):
        second_wire.receive_request(theirs, wait=False)
    assert open_descriptors() == before
    first.close()
    second.close()


@pytest.mark.parametrize("blob", [b"\0", b"A" * 28, bytes(2000)])
def test_garbage_is_refused(ends: tuple[socket.socket, socket.socket], blob: bytes) -> None:
    ours, theirs = ends
    ours.send(blob)
    with pytest.raises(WireError):
        second_wire.receive_request(theirs, wait=False)


def test_no_request_and_no_sender_are_told_apart(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    with pytest.raises(BlockingIOError):
        second_wire.receive_request(theirs, wait=False)
    ours.close()
    assert second_wire.receive_request(theirs, wait=True) is None


def test_sealed_memory_can_no_longer_be_changed() -> None:
    descriptor = second_wire.sealed(b"pixels")
    with pytest.raises(PermissionError):
        os.truncate(descriptor, 1)
    with pytest.raises(PermissionError):
        os.pwrite(descriptor, b"X", 0)
    os.close(descriptor)


def test_memory_that_is_too_short_for_its_picture_is_not_mapped() -> None:
    descriptor = second_wire.sealed(b"pixels")
    mine, theirs = second_wire.pair()
    request = Request(width=7, height=1, dpi=None, deadline=0, pixels=descriptor, reply=theirs)
    with pytest.raises(WireError, match="6 bytes"):
        request.picture()
    request.close()
    mine.close()


def answered(content: bytes, *, size: int | None = None, kind: bytes = READ, memory: bool = True) -> object:
    ours, theirs = second_wire.pair()
    descriptor = second_wire.sealed(content)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))] if memory else []
    theirs.sendmsg([struct.pack("<cQ", kind, len(content) if size is None else size)], rights)
    os.close(descriptor)
    theirs.close()
    before = open_descriptors()
    try:
        return second_wire.receive_answer(ours, PICTURE)
    finally:
        assert open_descriptors() == before
        ours.close()


def changed(**changes: object) -> bytes:
    """The line with a word that is changed."""
    word = msgspec.to_builtins(LINE.words[0]) | changes
    line = msgspec.to_builtins(LINE) | {"words": [word]}
    return msgspec.json.encode([line])


def test_an_answer_may_be_empty() -> None:
    assert answered(b"[]") == ()
    assert isinstance(answered(changed()), tuple)


@pytest.mark.parametrize(
    "content",
    [
        b"{}", b"[", b"[null]", b"\xff\xfe", b"[" * 100_000, b'[{"words":[],"baseline":[0,0,1,1],"block":0}]',
        changed(text=""), changed(text="two words"), changed(text="line\nbreak"), changed(text="x" * 3000),
        changed(confidence=1.5), changed(confidence=-0.1), changed(confidence=None), changed(confidence="1"),
        changed(box=[0, 0, 21, 12]), changed(box=[0, 0, 20, 13]), changed(box=[5, 0, 5, 12]),
        changed(box=[-1, 0, 5, 12]), changed(box=[0, 0, 5]), changed(box=[0.5, 0, 5, 12]),
        msgspec.json.encode([LINE] * (second_wire.MAX_LINES + 1)),
        msgspec.json.encode([msgspec.to_builtins(LINE) | {"baseline": [0, 0, 1e300, 1]}]),
        msgspec.json.encode([msgspec.to_builtins(LINE) | {"baseline": [0, 0, 1]}]),
        msgspec.json.encode([msgspec.to_builtins(LINE) | {"block": -1}]),
    ],
    ids=lambda content: content[:60].decode(errors="replace"),
)  # fmt: skip
def test_lines_that_do_not_fit_the_picture_are_not_believed(content: bytes) -> None:
    with pytest.raises(WireError):
        answered(content)


def test_an_answer_that_lies_about_its_size_is_not_believed() -> None:
    for size in (0, 1, 3, 2**40, 2**64 - 1):
        with pytest.raises(WireError):
            answered(b"[]", size=size)
    with pytest.raises(WireError):
        answered(b"[]", memory=False)
    with pytest.raises(WireError):
        answered(b"[]", kind=FAILED)


def test_an_answer_is_waited_for_no_longer_than_the_socket_says() -> None:
    ours, theirs = second_wire.pair()
    ours.settimeout(0.05)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        second_wire.receive_answer(ours, PICTURE)
    assert time.monotonic() - began >= 0.04
    theirs.close()
    assert second_wire.receive_answer(ours, PICTURE) == b""
    ours.close()
