"""What passes between the workers, the second engine's keeper and its process: small messages and sealed memory.

A worker sends a request with two descriptors: the pixels, in a sealed memfd, and the socket to answer on. There is no
name in any file system or on any network; who did not inherit the sockets cannot call.

Invariants:

* Every message is one datagram (SOCK_SEQPACKET) of fixed size, or it is refused; its descriptors are closed.
* Memory is mapped only when it is sealed against shrinking and writing and is as long as the message says, so that the
  sender can neither pull it away nor change it under the reader.
* What the engine's process answers is believed no more than a request: its lines are checked against the picture.
"""

import array
import fcntl
import math
import mmap
import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from ocr_core.engine import FoundLine, FoundWord, Picture

MAX_SIDE = 65_535
MAX_PIXELS = 2**28
MAX_LINES = 5_000
MAX_RESULT_BYTES = 32 * 1024 * 1024

ACCEPTED = b"A"
READ = b"R"
"""Comes with the lines, in a sealed memfd."""
TOO_LATE = b"T"
BUSY = b"B"
FAILED = b"F"

_REQUEST = struct.Struct("<8sIIId")
_MAGIC = b"2ndread1"
_RESULT = struct.Struct("<cQ")
_MAX_DPI = 100_000
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_MFD_NOEXEC_SEAL = 8  # since Linux 6.3; some hosts refuse a memfd without it
_MAX_WORD = 2_000


class WireError(Exception):
    """A message is not what it must be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One picture to read.

    Attributes:
        width: Pixels in a row.
        height: Rows.
        dpi: Resolution where it is known.
        deadline: When its sender stops to wait, in seconds of the system's monotonic clock.
        pixels: Descriptor of the sealed pixels.
        reply: Where to answer.
    """

    width: int
    height: int
    dpi: int | None
    deadline: float
    pixels: int
    reply: socket.socket

    def close(self) -> None:
        """Give back the descriptors; the sender sees the end of the socket."""
        os.close(self.pixels)
        self.reply.close()

    def answer(self, message: bytes) -> None:
        """Send a message; a sender who is gone, or who does not read, is let be."""
        with suppress(OSError):
            self.reply.send(message, socket.MSG_DONTWAIT)

    def is_abandoned(self) -> bool:
        """Whether its sender is gone."""
        try:
            return not self.reply.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def picture(self) -> Picture:
        """The picture, its pixels mapped and not copied.

        Raises:
            WireError: The memory is not sealed, or of another size.
        """
        mapped = _mapped(self.pixels, self.width * self.height)
        return Picture(pixels=mapped, width=self.width, height=self.height, dpi=self.dpi)  # type: ignore[arg-type]


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a socket that keeps messages apart."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def sealed(content: bytes) -> int:
    """A descriptor of memory that nobody can change any more.

    Raises:
        OSError: There is not enough memory, or a limit is in the way.
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        descriptor = os.memfd_create("pixels", flags | _MFD_NOEXEC_SEAL)
    except OSError:
        descriptor = os.memfd_create("pixels", flags)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def send_request(through: socket.socket, picture: Picture, *, deadline: float, pixels: int, reply: int) -> None:
    """Send a picture; never waits.

    Raises:
        BlockingIOError: The other side has more to do than fits.
        OSError: There is no other side.
    """
    header = _REQUEST.pack(_MAGIC, picture.width, picture.height, picture.dpi or 0, deadline)
    _send(through, header, [pixels, reply])


def forward(through: socket.socket, request: Request, *, deadline: float) -> None:
    """Send a request on, with another deadline; never waits.

    Raises:
        OSError: There is no other side.
    """
    header = _REQUEST.pack(_MAGIC, request.width, request.height, request.dpi or 0, deadline)
    _send(through, header, [request.pixels, request.reply.fileno()])


def receive_request(through: socket.socket, *, wait: bool) -> Request | None:
    """The next request; None at the end of the socket, or for an empty message, which looks the same.

    Args:
        through: Where it comes from.
        wait: Whether to wait for one.

    Raises:
        WireError: It is malformed; nothing of it is kept.
        BlockingIOError: There is none yet, and it was not to be waited for.
        OSError: The socket is broken.
    """
    message, descriptors, whole = _receive(through, _REQUEST.size, 2, 0 if wait else socket.MSG_DONTWAIT)
    if not message and not descriptors and whole:
        return None
    try:
        return _request(message, descriptors, whole=whole)
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def _request(message: bytes, descriptors: list[int], *, whole: bool) -> Request:
    if not whole or len(message) != _REQUEST.size or len(descriptors) != 2:
        raise WireError("not a request")
    magic, width, height, dpi, deadline = _REQUEST.unpack(message)
    if magic != _MAGIC or dpi > _MAX_DPI or not math.isfinite(deadline):
        raise WireError("not a request")
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise WireError("a picture of such a size is not read")
    pixels, reply = descriptors
    _known_size(pixels, width * height)
    try:
        answer_on = socket.socket(fileno=reply)
    except OSError as exc:
        raise WireError("there is nothing to answer on") from exc
    if (answer_on.family, answer_on.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
        answer_on.detach()
        raise WireError("there is nothing to answer on")
    return Request(width=width, height=height, dpi=dpi or None, deadline=deadline, pixels=pixels, reply=answer_on)


def send_lines(request: Request, lines: tuple[FoundLine, ...]) -> None:
    """Answer a request with what was read.

    Raises:
        OSError: There is not enough memory.
    """
    content = msgspec.json.encode(lines)
    descriptor = sealed(content)
    try:
        _send(request.reply, _RESULT.pack(READ, len(content)), [descriptor])
    except (BrokenPipeError, ConnectionResetError, BlockingIOError):
        pass  # who asked is gone
    finally:
        os.close(descriptor)


def receive_answer(reply: socket.socket, picture: Picture) -> bytes | tuple[FoundLine, ...]:
    """The next message on an answering socket: what was read, or one of the other kinds; empty at its end.

    Raises:
        WireError: It is malformed.
        TimeoutError: The socket's time is over.
        OSError: The socket is broken.
    """
    message, descriptors, whole = _receive(reply, _RESULT.size, 1, 0)
    try:
        if not whole or len(descriptors) != (message[:1] == READ):
            raise WireError("not an answer")
        if message[:1] != READ:
            return message
        if len(message) != _RESULT.size:
            raise WireError("not an answer")
        size = _RESULT.unpack(message)[1]
        if not 2 <= size <= MAX_RESULT_BYTES:
            raise WireError("an answer of such a size is not taken")
        with _mapped(descriptors[0], size) as content:
            return _lines(content[:], picture)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _lines(content: bytes, picture: Picture) -> tuple[FoundLine, ...]:
    try:
        lines = msgspec.json.decode(content, type=tuple[FoundLine, ...])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise WireError("the lines are malformed") from exc
    if len(lines) > MAX_LINES or not all(_is_sound(line, picture) for line in lines):
        raise WireError("the lines do not fit the picture")
    return lines


def _is_sound(line: FoundLine, picture: Picture) -> bool:
    beyond = 2 * (picture.width + picture.height)
    return (
        bool(line.words)
        and 0 <= line.block <= MAX_LINES
        and all(math.isfinite(place) and abs(place) <= beyond for place in line.baseline)
        and all(_is_word(word, picture) for word in line.words)
    )


def _is_word(word: FoundWord, picture: Picture) -> bool:
    left, top, right, bottom = word.box
    return (
        0 < len(word.text) <= _MAX_WORD
        and not any(character.isspace() for character in word.text)
        and 0.0 <= word.confidence <= 1.0
        and 0 <= left < right <= picture.width
        and 0 <= top < bottom <= picture.height
    )


def _known_size(descriptor: int, size: int) -> None:
    """Make sure that memory is sealed and has a size.

    Raises:
        WireError: It is not, or has not.
    """
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        length = os.fstat(descriptor).st_size
    except OSError as exc:
        raise WireError("no sealed memory") from exc
    if seals & _SEALS != _SEALS:
        raise WireError("no sealed memory")
    if length != size:
        raise WireError(f"{length} bytes where there must be {size}")


def _mapped(descriptor: int, size: int) -> mmap.mmap:
    _known_size(descriptor, size)
    try:
        return mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    except OSError as exc:
        raise WireError("the memory cannot be mapped") from exc


def _send(through: socket.socket, message: bytes, descriptors: list[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    through.sendmsg([message], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def _receive(through: socket.socket, size: int, most: int, flags: int) -> tuple[bytes, list[int], bool]:
    """A message, its descriptors, and whether nothing of it was cut off."""
    found = array.array("i")
    room = socket.CMSG_SPACE((most + 1) * found.itemsize)
    message, rights, told, _ = through.recvmsg(size + 1, room, flags | socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in rights:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return message, list(found), not told & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
