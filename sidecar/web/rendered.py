"""Answers to polls: what does not change is rendered once, and then again only if memory was short.

Invariant: an operation that has ended never changes, so its bytes may be kept; but whether it is still there is asked
at every poll. Nothing is kept of an operation that has not ended or that may be fetched once only, and never more than
`KEPT_BYTES` in one process. What is too large to be kept is sent while it is rendered, so that any number of clients
takes little memory; its length is not known before.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import msgspec
from flask import Response, current_app

from sidecar.reading import Reader
from sidecar.results import Ending, Operation
from sidecar.web.responses import JSON
from sidecar.web.services import services
from sidecar.web.wording import Wording

EXTENSION = "sidecar.rendered"
KEPT_BYTES = 4 * 2**20
WHOLE_BYTES = KEPT_BYTES // 8
"""An answer of up to so many bytes is sent with its length, and may be kept."""
PART_BYTES = 64 * 1024
Source = TypeVar("Source")


@dataclass(frozen=True, slots=True)
class _Kept:
    ending: Ending
    body: bytes


class RenderedAnswers:
    """The bytes of answers, those asked for last; one per process, for all threads.

    Args:
        kept_bytes: How much is kept at most; one answer of more than an eighth of it is not.
    """

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._limit = kept_bytes
        self._size = 0
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._lock = threading.Lock()
        self._newest: tuple[object, bytes] | None = None

    def get(self, operation_id: str, version: str) -> _Kept | None:
        """What is kept of an operation in the words of a version; whether it still holds is not said."""
        with self._lock:
            found = self._kept.get((operation_id, version))
            if found is not None:
                self._kept.move_to_end((operation_id, version))
            return found

    def put(self, version: str, ending: Ending, body: bytes) -> None:
        """Keep an answer, and let those go that were not asked for the longest."""
        if len(body) > self._limit // 8:
            return
        key = (ending.operation_id, version)
        with self._lock:
            self._remove(key)
            self._kept[key] = _Kept(ending, body)
            self._size += len(body)
            while self._size > self._limit:
                self._remove(next(iter(self._kept)))

    def of_newest(self, source: Source, render: Callable[[Source], Any]) -> bytes:
        """The bytes of an immutable value of which there is one at a time; kept until another one comes."""
        newest = self._newest  # one reference, exchanged as a whole: no lock
        if newest is None or newest[0] is not source:
            newest = self._newest = (source, msgspec.json.encode(render(source)))
        return newest[1]

    def drop(self, operation_id: str, version: str) -> None:
        """Let go of an answer whose operation is gone."""
        with self._lock:
            self._remove((operation_id, version))

    def _remove(self, key: tuple[str, str]) -> None:
        gone = self._kept.pop(key, None)
        if gone is not None:
            self._size -= len(gone.body)


def rendered(operation_id: str, version: str, wording: Wording) -> Response:
    """The answer to a poll: how an operation stands, in the words of one version.

    Args:
        operation_id: As the client sent it.
        version: Names all that the wording depends on besides the operation.
        wording: How the version words an operation.

    Raises:
        OperationNotFoundError: Unknown, expired or deleted, as of this moment.
        SpoolUnavailableError: The spool cannot be read.
    """
    reader = services(current_app).reader
    answers: RenderedAnswers = current_app.extensions[EXTENSION]
    operation_id = operation_id.lower()
    kept = answers.get(operation_id, version)
    if kept is not None:
        if reader.holds(kept.ending):
            return Response(kept.body, content_type=JSON)
        answers.drop(operation_id, version)
    operation = reader.find(operation_id)
    body = _body(operation, wording)
    parts: Iterable[bytes] = [body] if isinstance(body, bytes) else body
    if operation.fetched_once:
        parts = _once(parts, operation_id, reader)
    answer = Response(parts, content_type=JSON)
    if isinstance(body, bytes):
        answer.content_length = len(body)
        if operation.ending is not None:
            answers.put(version, operation.ending, body)
    return answer


def worded(operation: Operation, wording: Wording) -> Response:
    """The answer to who waited for an operation.

    Args:
        operation: The operation.
        wording: How the version words it.

    Raises:
        SpoolUnavailableError: The spool cannot be read.
    """
    return Response(_body(operation, wording), content_type=JSON)


def rendered_newest(source: Source, render: Callable[[Source], Any]) -> Response:
    """The answer that shows the standing, the one immutable value that everything shows.

    Args:
        source: The value as of this moment; another object stands for another value.
        render: From the value to its model; pure.
    """
    answers: RenderedAnswers = current_app.extensions[EXTENSION]
    return Response(answers.of_newest(source, render), content_type=JSON)


def _body(operation: Operation, wording: Wording) -> bytes | Iterator[bytes]:
    """The body, where it is in memory at once; else its parts, each made when the one before was sent."""
    parts = _parts(wording.pieces(operation))
    begun: list[bytes] = []
    size = 0
    for part in parts:
        begun.append(part)
        size += len(part)
        if size > WHOLE_BYTES:
            return chain(begun, parts)
    return b"".join(begun)


def _parts(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in parts of at least `PART_BYTES`; the last may be shorter."""
    part = bytearray()
    for piece in pieces:
        part += piece
        if len(part) >= PART_BYTES:
            yield bytes(part)
            part.clear()
    if part:
        yield bytes(part)


def _once(parts: Iterable[bytes], operation_id: str, reader: Reader) -> Iterator[bytes]:
    """The body, after which the operation is gone; not for a HEAD, nor where the client had hung up."""
    yield from parts
    reader.forget(operation_id)
