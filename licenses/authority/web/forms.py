"""What browsers send: small forms in memory, and forms with one file, whose bytes go to the disk as they come.

Invariants:

* A form is bounded in bytes, fields and time like every other body (`bodies`).
* The name that a browser gives a file is never used: not as a path, not in an answer, not in a log.
* The fields before a file are looked at before the first of the file's bytes is kept.
"""

import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qsl

from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from licenses import durable
from licenses.authority.web import bodies
from licenses.authority.web.errors import RequestRefusedError
from licenses.authority.web.services import Uploads

MAX_FORM_BYTES = 64 * 1024
MAX_FIELDS = 32
_ENVELOPE_BYTES = 64 * 1024
_BUFFER_BYTES = 256 * 1024
_PREFIX = bodies.UPLOAD_PREFIX
_AGAIN = "Go back, fill in the form as it is shown, and send it again."

Form = Mapping[str, str]


def read_form(request: Request) -> Form:
    """A form without files.

    Raises:
        RequestRefusedError: It is too large, too slow, of another kind, or names a field twice.
    """
    if request.mimetype != "application/x-www-form-urlencoded":
        raise _malformed("the form was sent in another form than the page asks for")
    with bodies.in_time():
        blob = b"".join(bodies.pieces(request, MAX_FORM_BYTES))
    try:
        pairs = parse_qsl(
            blob.decode("utf-8"), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict", encoding="utf-8"
        )
    except ValueError as exc:
        raise _malformed("the form cannot be read") from exc
    if len(dict(pairs)) != len(pairs):
        raise _malformed("the form holds a field twice")
    return dict(pairs)


@contextlib.contextmanager
def stored_file(
    request: Request, uploads: Uploads, *, field: str, before: Callable[[Form], None], max_bytes: int | None = None
) -> Iterator[tuple[Path, Form]]:
    """A form with one file, which lies on the disk for as long as it is needed.

    Args:
        request: What was sent.
        uploads: Where files lie, and how large they may be.
        field: The name of the file's field; any other file is refused.
        before: Called with the fields that came before the file, which may refuse them by raising.
        max_bytes: Largest file, where that is less than a bundle may have.

    Raises:
        RequestRefusedError: It is too large, too slow, of another kind, holds no file, or not all of it came.
        UnknownStateError: It cannot be kept: the disk is full.
    """
    boundary = request.mimetype_params.get("boundary", "")
    if request.mimetype != "multipart/form-data" or not 1 <= len(boundary) <= 200 or not boundary.isascii():
        raise _malformed("the form was sent in another form than the page asks for")
    limit = uploads.max_bytes if max_bytes is None else min(max_bytes, uploads.max_bytes)
    try:
        durable.make_folders(uploads.folder, mode=0o700)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=uploads.folder))
    except OSError as exc:
        raise bodies.cannot_keep(exc) from exc
    try:
        path, fields = folder / "file", _Fields(field, before)
        parts = fields.file_of(_events(bodies.pieces(request, limit + _ENVELOPE_BYTES), boundary))
        bodies.store(parts, path, coming=request.content_length or 0, max_bytes=limit)
        if fields.empty:
            raise _malformed("no file was chosen", next_step="Choose the file, or drop it onto the field.")
        yield path, fields.found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Fields:
    """The fields of a form, and the bytes of its one file as they come by."""

    def __init__(self, field: str, before: Callable[[Form], None]) -> None:
        self._field = field
        self._before = before
        self.found: dict[str, str] = {}
        self.empty = True

    def file_of(self, events: Iterator[Event]) -> Iterator[bytes]:
        """The file's bytes; the fields are kept in `found`.

        Raises:
            RequestRefusedError: There is another file, a second one, or too many fields.
        """
        text: list[bytes] = []
        name, in_file, had_file = "", False, False
        for event in events:
            match event:
                case File():
                    if event.name != self._field or had_file:
                        raise _malformed("the form holds another file than the one that is asked for")
                    in_file = had_file = True
                    self._before(self.found)
                case Field():
                    if len(self.found) >= MAX_FIELDS or not event.name or event.name in self.found:
                        raise _malformed("the form holds a field twice, or too many")
                    name, in_file, text = event.name, False, []
                case Data() if in_file:
                    self.empty = self.empty and not event.data
                    yield bytes(event.data)
                case Data():
                    text.append(bytes(event.data))
                    if sum(map(len, text)) > _ENVELOPE_BYTES:
                        raise _malformed("a field of the form is too long")
                    if not event.more_data:
                        self.found[name] = b"".join(text).decode("utf-8", "replace")
                case _:
                    pass
        if not had_file:
            self._before(self.found)


def _events(pieces: Iterator[bytes], boundary: str) -> Iterator[Event]:
    decoder = MultipartDecoder(boundary.encode("ascii"), max_form_memory_size=_BUFFER_BYTES, max_parts=MAX_FIELDS)
    try:
        for piece in itertools.chain(pieces, [None]):
            decoder.receive_data(piece)
            while not isinstance(event := decoder.next_event(), Epilogue | NeedData):
                yield event
    except RequestEntityTooLarge as exc:
        raise _malformed("the form holds too many fields, or one that is too long") from exc
    except ValueError as exc:
        raise _malformed("the form cannot be read") from exc


def _malformed(cause: str, *, next_step: str = _AGAIN) -> RequestRefusedError:
    return RequestRefusedError(HTTPStatus.BAD_REQUEST, "request_malformed", cause, next_step=next_step)
